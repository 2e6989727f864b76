"""What was tried and what came of it: MLflow's runs and its model registry, on a local database without a server.

MLflow records, the ledger decides: runs that a kill left open are closed here, and aliases follow the ledger.
"""

import contextlib
import datetime as dt
import json
import os
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlloop.core import clock, extensions, storage
from mlloop.core import settings as _settings
from mlloop.core.errors import ModelError
from mlloop.core.records import JsonObject

if TYPE_CHECKING:
    import mlflow
    from mlflow.entities import Run as MlflowRun
    from mlflow.models import Model, ModelSignature

    from mlloop.store.ledger import Ledger

RUN, LEVEL, PROCESS, DIGEST, FORM = "mlloop.run", "mlloop.level", "mlloop.process", "mlloop.digest", "mlloop.form"
ALIASES = ("champion", "challenger", "previous")
ABANDONED_AFTER = dt.timedelta(days=1)
LOCK_S = 300

# What skops may build from a model file beyond NumPy, SciPy and scikit-learn's public estimators, which it knows.
# The list is ours and was reviewed: each entry only takes in arrays, numbers or text. None imports a module by name,
# evaluates text or opens a file when it is restored. A new kind of model is added here by hand, with its reason.
TRUSTED_TYPES = (
    "numpy.dtype",  # the types of a column transformer's columns
    "sklearn.compose._column_transformer.make_column_selector",  # three patterns; picks columns by their type
    "sklearn.tree._tree.Tree",  # arrays of nodes; bounds are checked by scikit-learn on restoring
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",  # the same for histogram boosting
    "sklearn.calibration._CalibratedClassifier",  # an estimator and its calibrators
    "sklearn.calibration._SigmoidCalibration",  # two numbers
    "collections.OrderedDict",  # LightGBM's scores by data set
    "lightgbm.basic.Booster",  # restored from LightGBM's own model text
    "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor",
    "lightgbm.sklearn.LGBMRanker",
    "mlloop.models.perceptron.PerceptronClassifier",  # ours: restored as plain attributes, arrays of weights among them
    "mlloop.models.perceptron.PerceptronRegressor",
    "mlloop.models.serialization.many_valued",  # picks columns by their number of values
    "mlloop.models.serialization.categories",
    "mlloop.models.serialization.written",  # the columns of prose
    "mlloop.models.serialization.plain_name",  # names columns of a column transformer
    "mlloop.models.words.Words",  # a list of the next
    "mlloop.models.words.TextColumn",  # a vocabulary and arrays, restored as plain attributes
    "mlloop.perceptron.PerceptronClassifier",  # as models name it that were saved before the modules moved
    "mlloop.perceptron.PerceptronRegressor",
    "mlloop.artefacts.plain_name",
)


@dataclass(frozen=True)
class Tracked:
    """An open MLflow run: a stage's or a candidate's.

    Attributes
    ----------
    id : str
        MLflow's run id.
    problem, name : str
    """

    id: str
    problem: str
    name: str

    def log(
        self,
        metrics: Mapping[str, float] | None = None,
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        step: int = 0,
    ) -> None:
        """Write figures, parameters and tags in one request; nested parameters become dotted names."""
        import mlflow
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        figures = [
            Metric(name, float(value), now, step) for name, value in (metrics or {}).items() if value is not None
        ]
        params = [Param(name, value) for name, value in _flat(parameters or {}).items()]
        marks = [RunTag(name, str(value)) for name, value in (tags or {}).items()]
        client = mlflow.MlflowClient()
        while figures or params or marks:
            client.log_batch(self.id, figures[:800], params[:100], marks[:100], synchronous=True)
            figures, params, marks = figures[800:], params[100:], marks[100:]


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Attributes
    ----------
    name : str
    version : int
    digest : str
        SHA-256 of the model's files; the name under which the ledger knows the model.
    form : str
        'skops', 'safetensors', 'onnx' ...
    """

    name: str
    version: int
    digest: str
    form: str


# ------------------------------------------------------------------------------------------------ the database


def connect(settings: _settings.Settings | None = None) -> "mlflow.MlflowClient":
    """Point MLflow at the project's database, which is made on first use, and close the runs of dead processes.

    Raises
    ------
    ModelError
        The database cannot be made or read.
    """
    settings = settings or _settings.load()
    _settings.switch_off_telemetry()
    import mlflow

    _create(settings)
    mlflow.set_tracking_uri(settings.tracking_url)
    mlflow.set_registry_uri(settings.tracking_url)
    with _speaking(settings):
        _bring_home(settings)
        client = mlflow.MlflowClient(settings.tracking_url, settings.tracking_url)
        _close_dead_runs(client)
    return client


def _create(settings: _settings.Settings) -> None:
    """Make the database once; SQLite's in another place and then moved, so that it is whole or absent."""
    import mlflow

    file = settings.tracking_url.removeprefix("sqlite:///")
    if file == settings.tracking_url:
        with _lock(settings, "tracking"), _speaking(settings):
            mlflow.MlflowClient(settings.tracking_url).search_experiments(max_results=1)
        return
    if Path(file).exists():
        return
    with _lock(settings, "tracking"):
        if not Path(file).exists():
            with storage.atomic_path(file) as beside, _quiet():
                mlflow.MlflowClient(f"sqlite:///{beside}").search_experiments(max_results=1)


ADDRESSES = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("model_versions", "source"),
    ("model_versions", "storage_location"), ("logged_models", "artifact_location"),
)  # fmt: skip


def _bring_home(settings: _settings.Settings) -> None:
    """Where a project was copied or moved: let its database name its own artifacts, which MLflow keeps by absolute path.

    Without this a copy would read the original's models, and write its own there.
    """
    file = settings.tracking_url.removeprefix("sqlite:///")
    if file == settings.tracking_url or _settings.is_remote(settings.artifacts_uri):
        return
    import sqlite3

    home = settings.artifacts_uri.rstrip("/")
    with contextlib.closing(sqlite3.connect(file, timeout=LOCK_S)) as database, database:
        kept = database.execute("SELECT name, artifact_location FROM experiments WHERE name <> 'Default'").fetchall()
        away = {path.removesuffix(f"/{name}") for name, path in kept if path and path.endswith(f"/{name}")} - {home}
        for before in (artifact for artifact in away if "://" not in artifact and Path(home).is_dir()):
            for table, column in ADDRESSES:
                has = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
                if column in has:
                    database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (home, len(before) + 1, len(before) + 1, f"{before}/"),
                    )


def _lock(settings: _settings.Settings, name: str):
    return storage.file_lock(settings.state / f"{name}.lock", LOCK_S)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's and Alembic's notes on making tables off the page."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _speaking(settings: _settings.Settings) -> Iterator[None]:
    import sqlite3

    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        where = settings.tracking_url.rsplit("@", 1)[-1]
        message = " ".join(str(error).split())[:300]
        raise ModelError(f"MLflow cannot use its database: {message}", where, "Check it: mlloop check") from error


def _close_dead_runs(client: "mlflow.MlflowClient") -> list[str]:
    """End as KILLED the runs that are RUNNING for a process that is no more; returns their ids."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    running = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000)
    dead = [run.info.run_id for run in running if PROCESS in run.data.tags and not _is_alive(run)]
    for run_id in dead:
        client.set_terminated(run_id, "KILLED")
    return dead


def _process() -> str:
    """This process, so that another one can tell whether it still lives."""
    import psutil

    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"


def _is_alive(run: "MlflowRun") -> bool:
    import psutil

    host, pid, began = run.data.tags[PROCESS].rsplit(" ", 2)
    if host != socket.gethostname():
        since = dt.datetime.fromtimestamp(run.info.start_time / 1000, dt.UTC)
        return clock.in_utc() - since < ABANDONED_AFTER
    try:
        process = psutil.Process(int(pid))
        return f"{process.create_time():.2f}" == began and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# ------------------------------------------------------------------------------------------------ runs


@contextlib.contextmanager
def stage_run(
    problem: str,
    stage: str,
    parameters: Mapping[str, Any] | None = None,
    digests: Mapping[str, str] | None = None,
    settings: _settings.Settings | None = None,
) -> Iterator[Tracked]:
    """A stage's MLflow run, under the run of the pipeline that MLLOOP_RUN names; without it a run by itself.

    The stage's run ends FINISHED, FAILED where the block raises, KILLED where it is interrupted or its process dies;
    the pipeline's run ends as the stage that ended last.

    Parameters
    ----------
    parameters : dict, optional
        Logged as parameters.
    digests : dict, optional
        Of data and code; become tags 'mlloop.digest.NAME'.

    Examples
    --------
    >>> with stage_run("shop", "training", {"seed": 0}) as run:
    ...     run.log({"rows": 1200})
    """
    settings = settings or _settings.load()
    client = connect(settings)
    experiment = _experiment(client, settings, problem)
    parent = _pipeline_run(client, settings, experiment, problem)
    marks = {"mlloop.stage": stage, **{f"{DIGEST}.{name}": value for name, value in (digests or {}).items()}}
    try:
        with _run(client, experiment, problem, stage, "stage", parent, marks) as tracked:
            tracked.log(parameters=parameters)
            yield tracked
    finally:
        if parent:
            client.set_terminated(parent, client.get_run(tracked.id).info.status)


@contextlib.contextmanager
def candidate_run(
    name: str, parameters: Mapping[str, Any] | None = None, parent: Tracked | None = None
) -> Iterator[Tracked]:
    """A candidate's MLflow run under its stage's.

    Parameters
    ----------
    parent : Tracked, optional
        The stage's run; needed in a thread other than the one that opened it. Default: the run open in this thread.

    Raises
    ------
    ModelError
        No stage's run is open.
    """
    import mlflow

    open_run = mlflow.active_run()
    parent_id = parent.id if parent else open_run.info.run_id if open_run else None
    if parent_id is None:
        raise ModelError(
            f"candidate {name!r} has no stage's run to stand under", "tracking", "Open one: stage_run(...)"
        )
    client = mlflow.MlflowClient()
    info = client.get_run(parent_id)
    experiment, problem = info.info.experiment_id, info.data.tags.get("mlloop.problem", "")
    with _run(client, experiment, problem, name, "candidate", parent_id, {"mlloop.candidate": name}) as tracked:
        tracked.log(parameters=parameters)
        yield tracked


@contextlib.contextmanager
def _run(
    client, experiment: str, problem: str, name: str, level: str, parent: str | None, marks: dict
) -> Iterator[Tracked]:
    import mlflow

    tags = {
        RUN: os.environ.get("MLLOOP_RUN", ""),
        LEVEL: level,
        PROCESS: _process(),
        "mlloop.problem": problem,
        **marks,
    }
    run = mlflow.start_run(
        experiment_id=experiment, run_name=name, nested=True, parent_run_id=parent, tags=tags, log_system_metrics=False
    )
    status = "KILLED"
    try:
        yield Tracked(run.info.run_id, problem, name)
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        mlflow.end_run(status)


def _experiment(client: "mlflow.MlflowClient", settings: _settings.Settings, problem: str) -> str:
    """The problem's experiment; made on first use."""
    experiment = client.get_experiment_by_name(problem)
    if experiment is None:
        with _lock(settings, "tracking"):
            experiment = client.get_experiment_by_name(problem)
            if experiment is None:
                return client.create_experiment(problem, f"{settings.artifacts_uri.rstrip('/')}/{problem}")
    return experiment.experiment_id


def _pipeline_run(client, settings: _settings.Settings, experiment: str, problem: str) -> str | None:
    """The run of MLLOOP_RUN for this problem, RUNNING from here on; made on first use."""
    name = os.environ.get("MLLOOP_RUN")
    if not name:
        return None
    mine = f"tags.`{RUN}` = '{name}' AND tags.`{LEVEL}` = 'pipeline'"
    with _lock(settings, "tracking"):
        runs = client.search_runs([experiment], mine, max_results=1)
        if not runs:
            tags = {RUN: name, LEVEL: "pipeline", PROCESS: _process(), "mlloop.problem": problem}
            return client.create_run(experiment, tags=tags, run_name=f"{problem} {name}").info.run_id
        run_id = runs[0].info.run_id
        client.set_tag(run_id, PROCESS, _process())
        client.update_run(run_id, status="RUNNING")
        return run_id


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = str(value)[:6000]
    return flat


# ------------------------------------------------------------------------------------------------ model files


def save_estimator(estimator: Any, path: Path | str) -> str:
    """Write a fitted scikit-learn estimator as skops, without pickle; returns the file's digest.

    The same estimator gives the same bytes: what skops takes from the clock, from memory addresses and from unused
    memory between the fields of a tree's nodes does not get into the file.

    Raises
    ------
    ModelError
        It holds a type that is not in `TRUSTED_TYPES`, so `load_estimator` would refuse it.
    """
    import io

    import skops.io

    content = skops.io.dumps(estimator)
    _only_trusted(skops.io.get_untrusted_types(data=content), str(path))
    with storage.atomic_path(path) as beside, zipfile.ZipFile(io.BytesIO(content)) as archive:
        schema = json.loads(archive.read("schema.json"))
        names = _renumbered(schema)
        with zipfile.ZipFile(beside, "w") as file:
            for old, new in names.items():
                if old in archive.namelist():
                    file.writestr(zipfile.ZipInfo(new), _without_padding(archive.read(old)))
            file.writestr(zipfile.ZipInfo("schema.json"), json.dumps(schema))
    return storage.digest_file(path)


def _renumbered(schema: JsonObject) -> dict[str, str]:
    """Number the schema's objects in the order in which they stand there; returns the new name of each array's file."""
    numbers: dict[int, int] = {}
    files: dict[str, str] = {}
    waiting: list[Any] = [schema]
    count = 0
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "__id__" in node:
                count += 1
                shared = node.get("__loader__") not in (
                    "JsonNode",
                    "TypeNode",
                )  # equal constants share an address by chance
                node["__id__"] = numbers.setdefault(node["__id__"], count) if shared else count
            if isinstance(node.get("file"), str):
                old = node["file"]
                node["file"] = files.setdefault(old, f"{len(files) + 1}{Path(old).suffix}")
            waiting += reversed(list(node.values()))
        elif isinstance(node, list):
            waiting += reversed(node)
    return files


def _without_padding(content: bytes) -> bytes:
    """A .npy file with zeros between the fields of its records, where NumPy keeps whatever was in memory."""
    import io

    import numpy as np

    if not content.startswith(b"\x93NUMPY"):
        return content
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.dtype.names is None:
        return content
    clean = np.zeros(array.shape, array.dtype)  # zeros_like would keep the padding
    for name in array.dtype.names:
        clean[name] = array[name]
    file = io.BytesIO()
    np.save(file, clean, allow_pickle=False)
    return file.getvalue()


def load_estimator(path: Path | str, digest: str | None = None) -> Any:
    """Read an estimator written by `save_estimator`; nothing outside `TRUSTED_TYPES` is built.

    Parameters
    ----------
    digest : str, optional
        What the file must have; checked before it is opened.

    Raises
    ------
    ModelError
        Missing, altered, or holding a type that is not trusted.
    """
    import skops.io

    if not Path(path).is_file():
        raise ModelError("is not there", str(path), "Train it: mlloop run --from training")
    if digest and storage.digest_file(path) != digest:
        raise ModelError(
            f"was altered: its digest is not {digest[:12]}...", str(path), "Train it: mlloop run --from training"
        )
    try:
        types = skops.io.get_untrusted_types(file=path)
        _only_trusted(types, str(path))
        return skops.io.load(path, trusted=types)
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"is not a whole skops file: {error}", str(path), "Train it: mlloop run --from training"
        ) from error


def _only_trusted(type_names: list[str], where: str) -> None:
    strange = sorted(
        name for name in set(type_names) - {*TRUSTED_TYPES, *extensions.TRUSTED} if not extensions.is_own_type(name)
    )
    if strange:
        raise ModelError(
            f"holds {', '.join(strange)}, which is not among the types trusted to be built from a model file",
            where,
            "Use another estimator, or review the type and add it in a module of your own: own.trust('...')",
        )


# ------------------------------------------------------------------------------------------------ the registry


def register_model(
    name: str,
    path: Path | str,
    form: str,
    signature: "ModelSignature | None" = None,
    input_example: Any = None,
    tags: Mapping[str, Any] | None = None,
    run: Tracked | None = None,
    settings: _settings.Settings | None = None,
) -> Registered:
    """Register a model's file or folder as the next version of `name`; the same content again is the same version.

    What is registered are the files as they are and an MLmodel with the signature: no pickle and no code. A skops
    file and a recommender can also be loaded by ``mlflow.pyfunc`` and ``mlflow models serve``, see `mlloop.models.pyfunc`.

    Parameters
    ----------
    name : str
        The problem's name.
    path : Path
        A skops file, or a folder such as weights in safetensors beside JSON.
    form : str
        What the files are: 'skops', 'safetensors', 'onnx' ...
    signature : mlflow.models.ModelSignature, optional
        From ``mlflow.models.infer_signature(X, y_pred)``.
    input_example : DataFrame of a few rows, optional
    tags : dict, optional
    run : Tracked, optional
        The run that made it; default: the one open in this thread.

    Raises
    ------
    ModelError
        Nothing is there.
    """
    settings = settings or _settings.load()
    path = Path(path)
    if not path.exists():
        raise ModelError("is not there to be registered", str(path), "Train it: mlloop run --from training")
    digest = storage.digest_file(path)
    client = connect(settings)
    with _lock(settings, "registry"), _speaking(settings):
        known = find_version(client, name, digest)
        if known is None:
            known = _register(client, settings, name, path, form, digest, signature, input_example, tags or {}, run)
    return Registered(name, known, digest, form)


def _register(client, settings, name, path, form, digest, signature, input_example, tags, run: Tracked | None) -> int:
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    marks = {DIGEST: digest, FORM: form, **tags}
    if run is None and mlflow.active_run() is None:
        mlflow.set_experiment(experiment_id=_experiment(client, settings, name))
    with _quiet():
        info = Model.log(
            None, _Flavor, name=form, run_id=run.id if run else None, tags=marks, source=path, form=form, digest=digest,
            signature=signature, input_example=input_example, validate_serving_input=False,
        )  # fmt: skip
        with contextlib.suppress(MlflowException):
            client.create_registered_model(name)
        version = client.create_model_version(
            name, info.model_uri, info.run_id, {k: str(v) for k, v in marks.items()}, model_id=info.model_id
        )
    return int(version.version)


class _Flavor:
    """MLflow's interface for a form of model that it does not know: files kept as they are."""

    @staticmethod
    def save_model(
        path: str,
        mlflow_model: "Model",
        source: Path,
        form: str,
        digest: str,
        signature=None,
        input_example=None,
        **_: Any,
    ) -> None:
        """Copy the files below `path` and describe them in its MLmodel."""
        from mlflow import pyfunc
        from mlflow.models.utils import _save_example

        target = Path(path) / "model" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
        mlflow_model.signature = signature
        if input_example is not None:
            _save_example(mlflow_model, input_example, path)
        mlflow_model.add_flavor("mlloop", form=form, digest=digest, data=f"model/{source.name}")
        if form == "skops" or (source / "model.json").is_file():  # by name: the module is above this one
            pyfunc.add_to_model(mlflow_model, loader_module="mlloop.models.pyfunc", data=f"model/{source.name}")
        mlflow_model.save(str(Path(path) / "MLmodel"))


def _load_pyfunc(path: str) -> Any:
    """What mlflow.pyfunc calls to load a skops model that 0.1.0 registered."""
    return load_estimator(path)


def find_version(client: "mlflow.MlflowClient", name: str, digest: str) -> int | None:
    """The version of `name` whose files have that digest."""
    versions = client.search_model_versions(f"name = '{name}' AND tags.`{DIGEST}` = '{digest}'")
    return min((int(version.version) for version in versions), default=None)


def fetch(name: str, version: int | str, settings: _settings.Settings | None = None) -> tuple[Path, Registered]:
    """The files of a registered model, checked against their digest.

    Parameters
    ----------
    version : int or str
        A version, or an alias such as 'champion'.

    Raises
    ------
    ModelError
        No such version, or its files were altered.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = connect(settings or _settings.load())
    try:
        by_number = str(version).isdigit()
        version_of = (
            client.get_model_version(name, str(version))
            if by_number
            else client.get_model_version_by_alias(name, str(version))
        )
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version_of.version}"))
    except (MlflowException, OSError) as error:
        raise ModelError(
            f"has no version {version!r} that can be read", f"model {name}", "See its versions: mlloop log"
        ) from error
    registered = Registered(
        name, int(version_of.version), version_of.tags.get(DIGEST, ""), version_of.tags.get(FORM, "")
    )
    files = list((folder / "model").iterdir()) if (folder / "model").is_dir() else []
    if len(files) != 1 or storage.digest_file(files[0]) != registered.digest:
        raise ModelError(
            f"version {registered.version} was altered: its digest is not {registered.digest[:12]}...",
            f"model {name}",
            "Train it: mlloop run --from training",
        )
    return files[0], registered


def input_types(model_file: Path) -> dict[str, str]:
    """Column -> type ("double", "string" ...) in the signature of a registered model, by its file; {} where it has none."""
    from mlflow.models import Model

    signature = Model.load(str(model_file.parent.parent)).signature
    inputs = signature.inputs.to_dict() if signature and signature.inputs else []
    return {column["name"]: str(column["type"]) for column in inputs if "name" in column}


def set_alias(name: str, alias: str, version: int | str | None, settings: _settings.Settings | None = None) -> None:
    """Let `alias` of the registered model stand for `version`; None removes it."""
    client = connect(settings)
    if version is None:
        client.delete_registered_model_alias(name, alias)
    else:
        client.set_registered_model_alias(name, alias, str(version))


def alias_state(ledger: "Ledger", settings: _settings.Settings) -> dict[str, list[list[Any]]] | None:
    """What the aliases follow from and what they are, read in a millisecond and without MLflow.

    Returns
    -------
    dict or None
        standing (problem, champion, canary and champion before), aliases (model, alias, version) and versions (model, how
        many); None where MLflow's database is no SQLite file or has no such tables.
    """
    import sqlite3

    file = settings.tracking_url.removeprefix("sqlite:///")
    if file == settings.tracking_url:
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=LOCK_S)) as database:
            aliases = database.execute(
                "SELECT name, alias, version FROM registered_model_aliases ORDER BY 1, 2"
            ).fetchall()
            versions = database.execute("SELECT name, count(*) FROM model_versions GROUP BY name ORDER BY 1").fetchall()
    except sqlite3.Error:
        return None
    standing = [
        [
            problem,
            now.champion and now.champion.model,
            now.canary and now.canary.model,
            ledger.previous_champion(problem),
        ]
        for problem, now in sorted(ledger.at().items())
    ]
    return {
        "standing": standing,
        "aliases": [list(row) for row in aliases],
        "versions": [list(row) for row in versions],
    }


def mend_aliases(ledger: "Ledger", settings: _settings.Settings | None = None) -> dict[str, dict[str, int | None]]:
    """Set champion, challenger and previous of every model as the ledger has them; returns what was changed.

    A model that the registry does not know has no alias: the ledger stays the authority.
    """
    settings = settings or _settings.load()
    client = connect(settings)
    changed: dict[str, dict[str, int | None]] = {}
    with _lock(settings, "registry"):
        registered = {model.name: model.aliases for model in client.search_registered_models()}
        for problem, standing in ledger.at().items():
            if problem not in registered:
                continue
            models = {
                "champion": standing.champion.model if standing.champion else None,
                "challenger": standing.canary.model if standing.canary else None,
                "previous": ledger.previous_champion(problem),
            }
            for alias, model in models.items():
                want = find_version(client, problem, model) if model else None
                have = registered[problem].get(alias)
                if (int(have) if have else None) != want:
                    set_alias(problem, alias, want, settings)
                    changed.setdefault(problem, {})[alias] = want
    return changed
