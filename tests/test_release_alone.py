"""A release answers from its folder alone, and what is not installed is named with what brings it."""

import json
import re
import shutil
import subprocess
import sys

import httpx
import pandas as pd
import pytest
from production import Production, Served

from mlloop.core import extras
from mlloop.core.errors import ModelError
from mlloop.release import releases
from mlloop.service import batch, models_in_use
from mlloop.store import prediction_log


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A project with a champion, and a copy of its release elsewhere."""
    made = Production(tmp_path_factory.mktemp("made"))
    model = made.train("linear")
    made.deploy(model)
    folder = releases.folder_of(made.settings, "loan", made.ledger.champion("loan").digests["release"])
    made.copied = shutil.copytree(folder, tmp_path_factory.mktemp("elsewhere") / folder.name)
    return made


class Elsewhere:
    """A folder without a project, for `Served`."""

    def __init__(self, root):
        self.root = root


def test_a_release_answers_as_its_project_does_and_logs_where_it_is_told(alone, tmp_path):
    with alone.serve() as known, Served(Elsewhere(tmp_path), ["--release", str(alone.copied)], {}) as single:
        both = [each.ask(alone.ask(3)).json() for each in (known, single)]
        assert both[0]["score"] == both[1]["score"] and both[0]["model"] == both[1]["model"]
        assert single.ask({"amount": -1}).status_code == 422
        assert "loan" in httpx.get(f"{single.url}/ready").json()["problems"]
    assert prediction_log.read(tmp_path / "predictions/loan")["id"].tolist() == [both[1]["prediction_id"]]


def test_a_file_is_scored_by_a_release_as_by_its_project(alone, tmp_path):
    alone.rows.iloc[800:850].to_csv(tmp_path / "asked.csv", index=False)
    by_project = batch.score(alone.settings, "loan", str(tmp_path / "asked.csv"), log=False)
    words = ["predict", "asked.csv", "--release", str(alone.copied), "--out", "said.csv", "--log-folder", "kept"]
    done = subprocess.run([sys.executable, "-m", "mlloop", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "50 of 50 rows answered" in done.stdout, done.stderr
    assert pd.read_csv(tmp_path / "said.csv")["score"].tolist() == pytest.approx(by_project.answered["score"].tolist())
    assert len(prediction_log.read(tmp_path / "kept/loan")) == 50


def test_an_altered_copy_and_a_folder_without_a_release_are_refused(alone, tmp_path):
    altered = shutil.copytree(alone.copied, tmp_path / alone.copied.name)
    card = json.loads((altered / "release.json").read_text())
    (altered / "release.json").write_text(json.dumps({**card, "cut": 0.01}))
    with pytest.raises(ModelError, match="was altered"):
        models_in_use.load_folder(altered)
    with pytest.raises(ModelError, match="no release here"):
        models_in_use.load_folder(tmp_path)
    with pytest.raises(ModelError, match="second release of loan"):
        models_in_use.InFolders([alone.copied, alone.copied], tmp_path)


@pytest.mark.parametrize(
    "words", [["serve", "--problem", "loan"], ["serve", "--once"], ["predict", "rows.csv", "--log-folder", "kept"]]
)
def test_options_that_contradict_each_other_are_refused(alone, tmp_path, words):
    more = ["--release", str(alone.copied)] if words[0] == "serve" else []
    done = subprocess.run([sys.executable, "-m", "mlloop", *words, *more], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "--release" in done.stderr, done.stderr


def test_a_service_of_single_rows_imports_only_what_its_extra_installs(alone):
    code = (
        "import sys; from mlloop.service import models_in_use, http\n"
        f"models_in_use.load_folder({str(alone.copied)!r}).answers([{{'amount': 5.0}}])\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "onnxruntime" in loaded and not loaded & {"pandas", "pyarrow", "ibis", "sklearn", "scipy", "mlflow", "torch"}


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [
        ("uvicorn.config", "serve", "serve"),
        ("numpy", "run", "train"),
        ("sklearn.linear_model", "run", "train"),
        ("nannyml", "tick", "watch"),
        ("jupyterlab", "lab", "lab"),
        ("psycopg", "log", "postgres"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_the_extra_that_brings_it(module, command, extra):
    error = extras.lacking(ModuleNotFoundError(f"No module named {module!r}", name=module), command)
    assert re.search(rf"mlloop\[{extra}\]", str(error))
    assert extras.lacking(ModuleNotFoundError("No module named 'mine'", name="mine"), command) is None
