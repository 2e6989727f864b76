"""MLflow on SQLite, for real: real databases, real processes, real models."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from mlloop import deployment
from mlloop.core import settings as _settings
from mlloop.core import storage
from mlloop.core.errors import ModelError
from mlloop.store import tracking
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The settings of an empty project."""
    (tmp_path / "settings.ini").write_text("")
    (tmp_path / "pipeline.yaml").write_text("")
    monkeypatch.setenv("MLLOOP_PROJECT", str(tmp_path))
    monkeypatch.setenv("MLLOOP_RUN", "run-1")
    return _settings.load(tmp_path)


@pytest.fixture(scope="module")
def fresh_database(tmp_path_factory):
    """MLflow's empty database, made once; tests that do not test the making copy it."""
    root = tmp_path_factory.mktemp("made")
    for name in ("settings.ini", "pipeline.yaml"):
        (root / name).write_text("")
    tracking.connect(_settings.load(root))
    return root / ".mlloop/mlflow.db"


@pytest.fixture
def project(place, fresh_database):
    """The settings of a project whose database is made."""
    place.state.mkdir()
    (place.state / "mlflow.db").write_bytes(fresh_database.read_bytes())
    return place


# Processes with MLflow imported already, each forked from one that has done nothing else.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        "mlloop.store.tracking",
        "mlflow.store.tracking.sqlalchemy_workspace_store",
        "mlflow.tracing.processor.otel",
        "alembic.command",
        "git",
        "IPython",
    ]
)


def start(target, *arguments):
    process = processes.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def runs(settings) -> dict[str, object]:
    """Every run by its name."""
    client = tracking.connect(settings)
    found = client.search_runs([one.experiment_id for one in client.search_experiments()])
    return {run.info.run_name: run for run in found}


def parent_of(run) -> str | None:
    return run.data.tags.get("mlflow.parentRunId")


# ---------------------------------------------------------------------------------------------- the database


def track(place, together) -> None:
    os.environ["MLLOOP_RUN"] = "run-1"
    together.wait(200)
    with tracking.stage_run("shop", "training", settings=place) as run:
        run.log({"rows": 1})


def test_eight_processes_make_one_database_at_once(place):
    together = processes.Barrier(8)
    workers = [start(track, place, together) for _ in range(8)]
    for worker in workers:
        worker.join(250)
    assert [worker.exitcode for worker in workers] == [0] * 8
    client = tracking.connect(place)
    found = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
    assert sorted(run.data.tags["mlloop.level"] for run in found) == ["pipeline"] + ["stage"] * 8
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len({parent_of(run) for run in found if parent_of(run)}) == 1


def make_and_die(place) -> None:
    done = []

    def die(*_):
        done.append(1)
        if len(done) == 150:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(Engine, "before_cursor_execute", die)
    tracking.connect(place)


def test_a_database_half_made_by_a_kill_is_not_there(place):
    worker = start(make_and_die, place)
    worker.join(250)
    assert worker.exitcode == -signal.SIGKILL
    assert not (place.state / "mlflow.db").exists() and list(place.state.glob(".mlflow*.part.db"))
    with tracking.stage_run("shop", "training", settings=place) as run:
        run.log({"rows": 1})
    assert runs(place)["training"].data.metrics == {"rows": 1}


def test_a_damaged_database_is_named(place):
    place.state.mkdir()
    (place.state / "mlflow.db").write_text("these are notes, not a database " * 40)
    with pytest.raises(ModelError, match=r"mlflow\.db"):
        tracking.connect(place)


# ---------------------------------------------------------------------------------------------- runs


def test_a_candidate_stands_under_its_stage_and_the_stage_under_the_pipeline(project):
    with tracking.stage_run(
        "shop", "exploration", {"seed": 0, "model": {"depth": 3}}, {"data": "d1"}, project
    ) as stage:
        with tracking.candidate_run("forest", {"trees": 10}) as forest:
            forest.log({"auc": 0.8, "worst": None, "undefined": float("nan")})
        assert runs(project)["shop run-1"].info.status == "RUNNING"
    found = runs(project)
    assert parent_of(found["forest"]) == stage.id == found["exploration"].info.run_id
    assert parent_of(found["exploration"]) == found["shop run-1"].info.run_id and parent_of(found["shop run-1"]) is None
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert found["forest"].info.run_id == forest.id and found["forest"].data.params == {"trees": "10"}
    assert set(found["forest"].data.metrics) == {"auc", "undefined"} and found["forest"].data.metrics["auc"] == 0.8
    assert found["exploration"].data.params == {"seed": "0", "model.depth": "3"}
    tags = found["exploration"].data.tags
    assert (tags["mlloop.stage"], tags["mlloop.run"], tags["mlloop.digest.data"]) == ("exploration", "run-1", "d1")


def test_the_stages_of_one_run_share_one_pipeline_run(project):
    for stage in ("exploration", "training"):
        with tracking.stage_run("shop", stage, settings=project):
            pass
    found = runs(project)
    assert len(found) == 3
    assert parent_of(found["exploration"]) == parent_of(found["training"]) == found["shop run-1"].info.run_id


@pytest.mark.parametrize("error, status", [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_stage_that_raises_leaves_nothing_running(project, error, status):
    with (
        pytest.raises(error),
        tracking.stage_run("shop", "training", settings=project),
        tracking.candidate_run("forest"),
    ):
        raise error
    found = runs(project)
    assert {name: run.info.status for name, run in found.items()} == dict.fromkeys(found, status)
    with tracking.stage_run("shop", "evaluation", settings=project):
        pass
    assert runs(project)["shop run-1"].info.status == "FINISHED"


def test_without_a_pipeline_a_stage_stands_by_itself(project, monkeypatch):
    monkeypatch.delenv("MLLOOP_RUN")
    with tracking.stage_run("shop", "training", settings=project):
        pass
    assert [parent_of(run) for run in runs(project).values()] == [None]


def test_a_candidate_needs_a_stage(project):
    tracking.connect(project)
    with pytest.raises(ModelError, match="no stage's run"), tracking.candidate_run("forest"):
        pass


def test_many_figures_go_in_few_requests(project):
    with tracking.stage_run("shop", "training", settings=project) as run:
        run.log({f"m{n}": n for n in range(1000)}, {f"p{n}": n for n in range(150)}, {"t": 1})
    data = runs(project)["training"].data
    assert len(data.metrics) == 1000 and len(data.params) == 150 and data.tags["t"] == "1"


def stay(place, run: str, is_open) -> None:
    os.environ["MLLOOP_RUN"] = run
    with tracking.stage_run("shop", "training", settings=place), tracking.candidate_run("forest"):
        is_open.set()
        time.sleep(300)


def test_a_killed_process_has_its_runs_closed_and_a_living_one_does_not(project):
    opened = [processes.Event(), processes.Event()]
    dead, living = (start(stay, project, f"run-{n}", event) for n, event in enumerate(opened, start=1))
    try:
        assert all(event.wait(200) for event in opened)
        assert {run.info.status for run in runs(project).values()} == {"RUNNING"}
        dead.kill()
        dead.join(30)
        client = tracking.connect(project)
        found = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
        status = {(run.data.tags["mlloop.run"], run.info.status) for run in found}
        assert status == {("run-1", "KILLED"), ("run-2", "RUNNING")} and len(found) == 6
    finally:
        dead.kill()
        living.kill()


# ---------------------------------------------------------------------------------------------- models


def rows() -> tuple[pd.DataFrame, np.ndarray]:
    chance = np.random.default_rng(3)
    X = pd.DataFrame(
        {
            "age": chance.normal(40, 10, 200), "pay": chance.normal(3, 1, 200),
            "town": chance.choice(["x", "y", "z"], 200), "sex": chance.choice(["1", "2"], 200),
        }
    )  # fmt: skip
    X.loc[:5, "age"] = np.nan
    X.loc[3, "town"] = None
    return X, (X.pay + chance.normal(0, 0.3, 200) > 3).astype(int).to_numpy()


def prepared(model, encoder):
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    words = make_pipeline(SimpleImputer(strategy="constant", fill_value="?"), encoder)
    columns = ColumnTransformer([("numbers", numbers, ["age", "pay"]), ("words", words, ["town", "sex"])])
    return make_pipeline(columns.set_output(transform="pandas"), model)


def estimators() -> dict[str, object]:
    from lightgbm import LGBMClassifier, LGBMRegressor
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    from mlloop.models.perceptron import PerceptronClassifier

    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return {
        "logistic": prepared(LogisticRegression(), one_hot),
        "ridge": prepared(Ridge(), one_hot),
        "forest": prepared(RandomForestClassifier(10, random_state=0), ordinal),
        "forest of numbers": prepared(RandomForestRegressor(5, random_state=0), one_hot),
        "boosting": prepared(HistGradientBoostingClassifier(max_iter=10, random_state=0), ordinal),
        "lightgbm": prepared(LGBMClassifier(n_estimators=5, verbose=-1), ordinal),
        "lightgbm of numbers": prepared(LGBMRegressor(n_estimators=5, verbose=-1), one_hot),
        "calibrated": prepared(CalibratedClassifierCV(LogisticRegression(), cv=2), one_hot),
        "perceptron": prepared(PerceptronClassifier((4,), epochs=2, device="cpu"), one_hot),
    }


@pytest.mark.parametrize("name", list(estimators()))
def test_an_estimator_comes_back_from_its_file_and_answers_alike(tmp_path, name):
    X, y = rows()
    model = estimators()[name].fit(X, y)
    digest = tracking.save_estimator(model, tmp_path / "model.skops")
    again = tracking.load_estimator(tmp_path / "model.skops", digest)
    answer = "predict_proba" if hasattr(model, "predict_proba") else "predict"
    np.testing.assert_array_equal(getattr(again, answer)(X), getattr(model, answer)(X))
    assert tracking.save_estimator(again, tmp_path / "again.skops") == digest


def test_the_same_estimator_gives_the_same_bytes_in_another_process(tmp_path):
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport test_tracking as t\nfrom mlloop import tracking\n"
        "print(tracking.save_estimator(t.estimators()['forest'].fit(*t.rows()), sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "there.skops")]
    there = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    here = tracking.save_estimator(estimators()["forest"].fit(*rows()), tmp_path / "here.skops")
    assert there.stdout.strip() == here


class Stranger:
    """A type that nobody reviewed."""

    def __init__(self):
        self.numbers = [1, 2]


def test_a_type_that_nobody_reviewed_is_neither_written_nor_built(tmp_path):
    import skops.io

    with pytest.raises(ModelError, match=r"Stranger, which is not among the types trusted"):
        tracking.save_estimator(Stranger(), tmp_path / "model.skops")
    assert not (tmp_path / "model.skops").exists()
    skops.io.dump(Stranger(), tmp_path / "model.skops")
    with pytest.raises(ModelError, match=r"Stranger, which is not among the types trusted"):
        tracking.load_estimator(tmp_path / "model.skops")


def test_a_file_that_asks_for_a_system_call_is_not_built(tmp_path):
    digest = tracking.save_estimator({"a": np.arange(3)}, tmp_path / "model.skops")
    with zipfile.ZipFile(tmp_path / "model.skops") as file:
        content = {name: file.read(name) for name in file.namelist()}
    schema = json.loads(content["schema.json"])
    schema |= {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "content": "os.system"}
    with zipfile.ZipFile(tmp_path / "model.skops", "w") as file:
        for name, held in {**content, "schema.json": json.dumps(schema)}.items():
            file.writestr(name, held)
    with pytest.raises(ModelError, match="was altered"):
        tracking.load_estimator(tmp_path / "model.skops", digest)
    with pytest.raises(ModelError, match="system"):
        tracking.load_estimator(tmp_path / "model.skops")


@pytest.mark.parametrize("held", [b"", b"PK\x03\x04 cut", b"\x80\x04K\x01."])
def test_a_file_that_is_no_model_is_said_to_be_none(tmp_path, held):
    (tmp_path / "model.skops").write_bytes(held)
    with pytest.raises(ModelError, match="not a whole skops file"):
        tracking.load_estimator(tmp_path / "model.skops")
    with pytest.raises(ModelError, match="is not there"):
        tracking.load_estimator(tmp_path / "none.skops")


# ---------------------------------------------------------------------------------------------- the registry


def test_a_registered_model_answers_as_the_trained_one_did(project, tmp_path):
    import mlflow
    from mlflow.models import infer_signature

    X, y = rows()
    model = estimators()["boosting"].fit(X, y)
    digest = tracking.save_estimator(model, tmp_path / "model.skops")
    with warnings.catch_warnings(), tracking.stage_run("shop", "training", settings=project) as run:
        warnings.simplefilter("ignore")
        signature = infer_signature(X, model.predict(X))
        made = tracking.register_model(
            "shop", tmp_path / "model.skops", "skops", signature, X.head(2), {"mlloop.run": "run-1"}
        )
    assert made == tracking.Registered("shop", 1, digest, "skops")
    file, same = tracking.fetch("shop", 1, project)
    assert same == made
    np.testing.assert_array_equal(tracking.load_estimator(file, digest).predict_proba(X), model.predict_proba(X))
    served = mlflow.pyfunc.load_model("models:/shop/1")
    np.testing.assert_array_equal(served.predict(X), model.predict_proba(X)[:, 1])
    assert served.metadata.signature.inputs.input_names() == ["age", "pay", "town", "sex"]
    version = tracking.connect(project).get_model_version("shop", "1")
    assert version.run_id == run.id and version.tags["mlloop.digest"] == digest
    assert not [p for p in Path(project.artifacts_uri).rglob("*") if p.suffix in (".pkl", ".pickle", ".py")]


def folder_of_weights(path: Path, number: float) -> Path:
    from safetensors.numpy import save_file

    path.mkdir()
    save_file({"weight": np.full((2, 2), number)}, path / "weights.safetensors")
    storage.write_json(path / "shape.json", {"units": 2})
    return path


def test_a_folder_of_weights_is_registered_as_it_is(project, tmp_path):
    from safetensors.numpy import load_file

    made = tracking.register_model("shop", folder_of_weights(tmp_path / "net", 0.5), "safetensors", settings=project)
    folder, _ = tracking.fetch("shop", made.version, project)
    assert load_file(folder / "weights.safetensors")["weight"].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert storage.digest_file(folder) == made.digest == storage.digest_file(tmp_path / "net")


def test_the_same_content_is_registered_once_and_other_content_is_the_next_version(project, tmp_path):
    first, second = (folder_of_weights(tmp_path / name, n) for n, name in enumerate(("a", "b")))
    register = lambda path: tracking.register_model("shop", path, "safetensors", settings=project)
    assert [register(path).version for path in (first, first, second, first)] == [1, 1, 2, 1]
    with pytest.raises(ModelError, match="not there to be registered"):
        register(tmp_path / "nothing")


def test_a_registered_file_altered_on_disk_is_not_handed_out(project, tmp_path):
    tracking.register_model("shop", folder_of_weights(tmp_path / "net", 1), "safetensors", settings=project)
    (stored,) = Path(project.artifacts_uri).rglob("shape.json")
    stored.write_text('{"units": 3}')
    with pytest.raises(ModelError, match="was altered"):
        tracking.fetch("shop", 1, project)
    with pytest.raises(ModelError, match="no version 7"):
        tracking.fetch("shop", 7, project)


def test_a_project_that_was_moved_has_its_models_and_writes_into_its_own_place(project, tmp_path, monkeypatch):
    project.state.mkdir(exist_ok=True)
    made = tracking.register_model("shop", folder_of_weights(tmp_path / "net", 1), "safetensors", settings=project)
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    monkeypatch.setenv("MLLOOP_PROJECT", str(moved))
    here = _settings.load(moved)
    _, found = tracking.fetch("shop", 1, here)
    assert found == made
    again = tracking.register_model("shop", folder_of_weights(moved / "net2", 2), "safetensors", settings=here)
    assert again.version == 2 and tracking.fetch("shop", 2, here)[1] == again
    assert not tmp_path.exists()
    tmp_path.mkdir()  # for what cleans up


def test_aliases_follow_the_ledger(project, tmp_path):
    models = [
        tracking.register_model("shop", folder_of_weights(tmp_path / f"m{n}", n), "safetensors", settings=project)
        for n in range(1, 4)
    ]
    first, second, third = (model.digest for model in models)
    ledger = Ledger.open(project)
    for digest in (first, second, third):
        ledger.append(Entry("gate", "shop", "validation", "yes", model=digest))
    registered = lambda: tracking.connect(project).get_registered_model("shop")
    aliases = lambda: {name: int(version) for name, version in registered().aliases.items()}
    ledger.append(Entry("promotion", "shop", model=first, expect=None))
    assert tracking.mend_aliases(ledger, project) == {"shop": {"champion": 1}}
    ledger.append(Entry("promotion", "shop", model=second, expect=first))
    ledger.append(Entry("canary", "shop", "started", model=third, expect=second))
    tracking.set_alias("shop", "champion", 3, project)
    assert tracking.mend_aliases(ledger, project) == {"shop": {"champion": 2, "challenger": 3, "previous": 1}}
    assert aliases() == {"champion": 2, "challenger": 3, "previous": 1}
    assert tracking.mend_aliases(ledger, project) == {}
    assert tracking.fetch("shop", "champion", project)[1] == models[1]
    ledger.append(Entry("rollback", "shop", expect=second))
    assert tracking.mend_aliases(ledger, project) == {"shop": {"champion": 1, "challenger": None, "previous": None}}
    assert aliases() == {"champion": 1}


def test_a_champion_unknown_to_the_registry_has_no_alias(project, tmp_path):
    tracking.register_model("shop", folder_of_weights(tmp_path / "m", 1), "safetensors", settings=project)
    tracking.set_alias("shop", "champion", 1, project)
    ledger = Ledger.open(project)
    for problem in ("shop", "loan"):
        ledger.append(Entry("gate", problem, "validation", "yes", model="unknown"))
        ledger.append(Entry("promotion", problem, model="unknown", expect=None))
    assert tracking.mend_aliases(ledger, project) == {"shop": {"champion": None}}


def test_mlflow_is_left_alone_until_something_moves(project, tmp_path, monkeypatch):
    models = [
        tracking.register_model("shop", folder_of_weights(tmp_path / f"m{n}", n), "safetensors", settings=project)
        for n in (1, 2)
    ]
    ledger = Ledger.open(project)
    for model in models:
        ledger.append(Entry("gate", "shop", "validation", "yes", model=model.digest))
    ledger.append(Entry("promotion", "shop", model=models[0].digest, expect=None))
    mended, mend = [], tracking.mend_aliases
    monkeypatch.setattr(tracking, "mend_aliases", lambda *given: mended.append(given) or mend(*given))
    assert deployment.follow(project, ledger) == {"shop": {"champion": 1}} and len(mended) == 1
    assert deployment.follow(project, ledger) == {} and len(mended) == 1, "nothing moved"
    tracking.set_alias("shop", "champion", 2, project)
    assert deployment.follow(project, ledger) == {"shop": {"champion": 1}} and len(mended) == 2, "set by hand"
    ledger.append(Entry("promotion", "shop", model=models[1].digest, expect=models[0].digest))
    assert deployment.follow(project, ledger) == {"shop": {"champion": 2, "previous": 1}} and len(mended) == 3
