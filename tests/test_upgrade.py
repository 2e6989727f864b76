"""What the version before made still works: its projects are renewed, its saved models load."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlloop.scaffold import upgrade
from mlloop.store import tracking

DATA = Path(__file__).parent / "data"


@pytest.fixture
def before(tmp_path):
    """A project that mlloop 0.1.0 made, with a feature, a rule and a candidate of its own."""
    with tarfile.open(DATA / "project_0_1_0.tar.gz") as packed:
        packed.extractall(tmp_path, filter="data")
    statement = tmp_path / "churn/problems/churn.yaml"
    text = statement.read_text()
    for had, has in (("as_of: 2025-09-08", "as_of: 2025-02-04"), ("days: 50", "days: 7"), ("days: 30", "days: 5")):
        assert had in text
        text = text.replace(had, has)  # its file is cut to the first weeks
    statement.write_text(text)
    return tmp_path / "churn"


def mlloop(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "mlloop", *arguments]
    return subprocess.run(
        words, cwd=root, capture_output=True, text=True, env=os.environ | {"MLLOOP_KERNELS_POOL": "fresh"}
    )


def test_a_project_of_the_version_before_is_sound_as_it_is(before):
    done = mlloop(before, "check")
    assert done.returncode == 0, done.stderr
    assert "of its own: 1 candidate, 1 feature, 1 business rule" in done.stdout


def test_upgrade_rewrites_former_names_and_keeps_what_the_code_calls_them(before):
    done = mlloop(before, "upgrade")
    assert done.returncode == 0, done.stderr
    assert "pipeline.yaml" in done.stdout and "nbs/17_features.ipynb: names of modules" in done.stdout
    assert "from mlloop.data.feature_registry import feature" in (before / "churn/features.py").read_text()
    rule = (before / "churn/need_gate.py").read_text()
    assert "from mlloop.core import extensions as own" in rule and "@own.rule" in rule
    assert "mlloop.models.perceptron" in (before / "churn/exploration.py").read_text()
    assert "mlloop.plan." not in (before / "pipeline.yaml").read_text()
    assert mlloop(before, "check").returncode == 0
    again = mlloop(before, "upgrade")
    assert again.stdout.startswith("nothing to do"), again.stdout


@pytest.mark.slow
def test_an_upgraded_project_runs(before):
    assert mlloop(before, "upgrade").returncode == 0
    done = mlloop(before, "run", "--until", "transformation")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("from mlloop.own import rule", "from mlloop.core.extensions import rule"),
        ("from mlloop import own", "from mlloop.core import extensions as own"),
        ("from mlloop import own as o, problem", "from mlloop.core import extensions as o\nfrom mlloop import problem"),
        (
            "import mlloop.perceptron\nmlloop.perceptron.fit()",
            "import mlloop.models.perceptron\nmlloop.models.perceptron.fit()",
        ),
        ("    from mlloop import cleaning", "    from mlloop import cleaning"),  # no Python by itself: left alone
        ("if True:\n    from mlloop import cleaning", "if True:\n    from mlloop.data import cleaning"),
        ("from mlloop.features import feature", "from mlloop.features import feature"),
        ("on_finish: mlloop.plan.stop_at_closed_gate", "on_finish: mlloop.pipeline.plan.stop_at_closed_gate"),
    ],
)
def test_each_form_of_a_former_name_is_rewritten(former, now):
    assert upgrade.with_current_names(former) == now
    assert upgrade.with_current_names(now) == now


def test_a_model_saved_before_the_modules_moved_loads_and_predicts():
    estimator = tracking.load_estimator(DATA / "model_0_1_0.skops")
    rows = pd.DataFrame({name: ["plus"] * 2 if name == "plan" else [0.0, 1.0] for name in estimator.feature_names_in_})
    scores = estimator.predict_proba(rows)
    assert scores.shape == (2, 2) and np.allclose(scores.sum(axis=1), 1)
    assert scores[0, 1] < scores[1, 1]  # more use, more calls: the model learned that they leave
