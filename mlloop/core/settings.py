"""settings.ini: where things live. Nothing here changes what a run computes."""

import configparser
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mlloop.core import storage
from mlloop.core.errors import ProjectNotFound, SettingsError

OFF = {
    "NML_DISABLE_USAGE_LOGGING": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "PLOOMBER_STATS_ENABLED": "false",
    "PLOOMBER_VERSION_CHECK_DISABLED": "true",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "ORT_DISABLE_TELEMETRY": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    "HF_HUB_OFFLINE": "1",
}

DEFAULTS = {
    "lake": {"uri": ".mlloop/lake"},
    "ledger": {"url": "sqlite:///.mlloop/ledger.db", "anchor": ""},
    "tracking": {"url": "sqlite:///.mlloop/mlflow.db", "artifacts": ".mlloop/artifacts"},
    "engine": {"name": "duckdb", "memory": "4GB", "threads": ""},
    "predictions": {"brokers": "", "topic": "mlloop.{problem}.predictions", "options": ""},
    "kernels": {"pool": "warm", "ahead": "1", "keep_minutes": "10"},
    "metrics": {"textfile": ""},
    "alerts": {"to": ""},
    "maintain": {"files": "50", "versions_days": "30", "predictions_days": ""},
    "validation": {"engine": "pandera"},
    "deployment": {"by": "policy"},
    "paths": {"problems": "problems", "notebooks": "nbs", "state": ".mlloop", "reports": "reports"},
}
CHOICES = {
    ("engine", "name"): ("duckdb", "spark"),
    ("kernels", "pool"): ("warm", "fresh"),
    ("validation", "engine"): ("pandera", "great_expectations"),
    ("deployment", "by"): ("policy", "person"),
}


def switch_off_telemetry() -> None:
    """Set the variables that keep every dependency from calling home; before those are imported."""
    os.environ.update(OFF)


@dataclass(frozen=True)
class Settings:
    """The project's places, absolute.

    Attributes
    ----------
    root : Path
        The folder that holds settings.ini and pipeline.yaml.
    lake_uri, ledger_url, tracking_url, artifacts_uri : str
        A local path or URI each.
    engine : str
        'duckdb' or 'spark'.
    engine_memory : str
        Bound of the engine's memory, e.g. '4GB'; '' for the engine's default.
    engine_threads : int or None
    kernel_pool : str
        'warm' or 'fresh'.
    kernels_ahead : int
        Kernels started before they are needed, >= 0.
    keep_minutes : float
        Minutes an idle kernel pool stays.
    problems, notebooks, state, reports : Path
    ledger_anchor : Path or None
        A second place for the hash of the ledger's head.
    predictions_brokers, predictions_topic, predictions_options : str
        Where the service sends its predictions as well: Kafka's brokers ('' for nowhere), topic, more options as JSON.
    validation_engine : str
        What holds the rows of a table against its contract at ingestion: 'pandera' or 'great_expectations'.
    deployment_by : str
        Who deploys a model that passed its gate: 'policy' or 'person'.
    metrics_textfile : Path or None
        The file for Prometheus' textfile collector that each turn writes.
    alerts_to : tuple of str
        Addresses that alerts go to, as Apprise has them.
    maintain_files : int
        A table of more files than this is compacted by `mlloop maintain`.
    maintain_versions_days : float
        How long a version of a table stays after it ceased to be the latest, where nothing cites it.
    maintain_predictions_days : float or None
        How long predictions are kept; None: for ever.
    """

    root: Path
    lake_uri: str
    ledger_url: str
    tracking_url: str
    artifacts_uri: str
    engine: str
    engine_memory: str
    engine_threads: int | None
    kernel_pool: str
    kernels_ahead: int
    keep_minutes: float
    problems: Path
    notebooks: Path
    state: Path
    reports: Path
    ledger_anchor: Path | None = None
    predictions_brokers: str = ""
    predictions_topic: str = ""
    predictions_options: str = ""
    metrics_textfile: Path | None = None
    alerts_to: tuple[str, ...] = ()
    validation_engine: str = "pandera"
    deployment_by: str = "policy"
    maintain_files: int = 50
    maintain_versions_days: float = 30.0
    maintain_predictions_days: float | None = None

    @property
    def private(self) -> list[Path]:
        """The folders on this disk that hold rows, predictions and decisions: for their owner alone."""
        outside = [location for location in (self.lake_uri, self.artifacts_uri) if not is_remote(location)]
        return [self.state, *(Path(location) for location in outside if not Path(location).is_relative_to(self.state))]


def find_root(start: Path | str | None = None) -> Path:
    """The nearest folder at or above `start` that holds settings.ini and pipeline.yaml.

    Raises
    ------
    ProjectNotFound
        Where there is none.
    """
    here = Path(start or os.environ.get("MLLOOP_PROJECT") or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "settings.ini").is_file() and (folder / "pipeline.yaml").is_file():
            return folder
    raise ProjectNotFound(
        "no mlloop project here or above (looked for settings.ini beside pipeline.yaml)",
        str(here),
        "Go to a project's folder, or begin one: mlloop new DIR --data FILE --target COLUMN",
    )


def load(root: Path | str | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read settings.ini of the project at or above `root` (default: the current folder).

    Parameters
    ----------
    environment : mapping, optional
        Variables that override values; default: those of the process.

    Raises
    ------
    ProjectNotFound
        No project there.
    SettingsError
        An unknown section or key, or a value that cannot be meant.
    """
    folder = find_root(root)
    values = _values(folder / "settings.ini", os.environ if environment is None else environment)
    resolved = lambda text: _location(folder, text)
    if (state := resolved(values["paths"]["state"])).exists() and not state.is_dir():
        raise SettingsError(
            "is a file, and the project keeps its state in a folder of that name",
            str(state),
            "Move it away, then: mlloop check",
        )
    return Settings(
        root=folder,
        lake_uri=_uri(folder, values["lake"]["uri"]),
        ledger_url=_database_of(folder, values, "ledger"),
        tracking_url=_database_of(folder, values, "tracking"),
        artifacts_uri=_uri(folder, values["tracking"]["artifacts"]),
        engine=values["engine"]["name"],
        engine_memory=values["engine"]["memory"],
        engine_threads=_number(values, "engine", "threads", int),
        kernel_pool=values["kernels"]["pool"],
        kernels_ahead=_number(values, "kernels", "ahead", int) or 0,
        keep_minutes=_number(values, "kernels", "keep_minutes", float) or 0.0,
        problems=resolved(values["paths"]["problems"]),
        notebooks=resolved(values["paths"]["notebooks"]),
        state=resolved(values["paths"]["state"]),
        reports=resolved(values["paths"]["reports"]),
        ledger_anchor=resolved(values["ledger"]["anchor"]) if values["ledger"]["anchor"] else None,
        predictions_brokers=values["predictions"]["brokers"],
        predictions_topic=values["predictions"]["topic"],
        predictions_options=values["predictions"]["options"],
        validation_engine=values["validation"]["engine"],
        deployment_by=values["deployment"]["by"],
        metrics_textfile=resolved(values["metrics"]["textfile"]) if values["metrics"]["textfile"] else None,
        alerts_to=tuple(values["alerts"]["to"].split()),
        maintain_files=_number(values, "maintain", "files", int) or 0,
        maintain_versions_days=_number(values, "maintain", "versions_days", float) or 0.0,
        maintain_predictions_days=_number(values, "maintain", "predictions_days", float),
    )


def _values(path: Path, environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise SettingsError(str(error).replace("\n", " "), str(path), "Fix the file, then: mlloop check") from error
    values = {section: dict(keys) for section, keys in DEFAULTS.items()}
    for section in parser.sections():
        for key, value in parser[section].items():
            if key not in values.get(section, {}):
                known = ", ".join(f"[{s}] {k}" for s, keys in DEFAULTS.items() for k in keys)
                raise SettingsError(
                    f"unknown setting [{section}] {key} (known: {known})",
                    str(path),
                    "Fix the file, then: mlloop check",
                )
            values[section][key] = value.strip()
    for section, keys in values.items():
        for key in keys:
            keys[key] = environment.get(f"MLLOOP_{section}_{key}".upper(), keys[key])
    for (section, key), allowed in CHOICES.items():
        if values[section][key] not in allowed:
            raise SettingsError(
                f"[{section}] {key} is {values[section][key]!r}, expected one of {', '.join(allowed)}",
                str(path),
                "Fix the file, then: mlloop check",
            )
    return values


SENT = (("ledger", "anchor"), ("predictions", "brokers"), ("metrics", "textfile"), ("alerts", "to"))
"""What goes out of a project, to a second disk or to somebody."""


def write_for_copy(original: Settings, copy: Path) -> Path:
    """Write settings.ini of a copy of a project: all that it keeps lies in the copy, and it tells nobody anything.

    The rest is as in the original, with what the environment overrides there. In a copy no person decides.
    """
    values = _values(original.root / "settings.ini", os.environ)
    kept = {section: dict(DEFAULTS[section]) for section in ("lake", "tracking", "paths")}
    for name in ("problems", "notebooks"):
        folder = getattr(original, name)
        inside = folder.is_relative_to(original.root)
        kept["paths"][name] = str(folder.relative_to(original.root) if inside else folder)
    values |= kept
    values["ledger"]["url"], values["deployment"]["by"] = DEFAULTS["ledger"]["url"], "policy"
    for section, key in SENT:
        values[section][key] = ""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict(values)
    text = io.StringIO()
    parser.write(text)
    return storage.write_text(copy / "settings.ini", text.getvalue())


def _number(values, section: str, key: str, kind):
    text = values[section][key]
    if not text:
        return None
    try:
        number = kind(text)
        if number < 0:
            raise ValueError
    except ValueError as error:
        raise SettingsError(
            f"[{section}] {key} is {text!r}, expected a number >= 0",
            "settings.ini",
            "Fix the file, then: mlloop check",
        ) from error
    return number


def is_remote(text: str) -> bool:
    """Whether a place is a URI, such as s3://bucket or mlflow-artifacts:/, rather than a path."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", text) is not None


def _location(folder: Path, text: str) -> Path:
    """A path of settings.ini, absolute and without links."""
    try:
        return (folder / text).resolve()
    except RuntimeError as error:  # how pathlib tells of a loop
        raise SettingsError(
            "is a symbolic link that leads back to itself", str(folder / text), "Remove the link, then: mlloop check"
        ) from error


def _uri(folder: Path, text: str) -> str:
    return text if is_remote(text) else str(_location(folder, text))


def _database_of(folder: Path, values: dict[str, dict[str, str]], section: str) -> str:
    url = values[section]["url"]
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise SettingsError(
            f"cannot be read as a URL: {error}", f"settings.ini [{section}] url", "Fix the file, then: mlloop check"
        ) from error
    return database(folder, url)


def database(folder: Path, url: str) -> str:
    """A database's URL with the path of an SQLite file made absolute, as from `folder`."""
    prefix = "sqlite:///"
    if url.startswith(prefix) and not url.startswith(prefix + "/"):
        return prefix + str(_location(folder, url.removeprefix(prefix)))
    return url
