"""What `mlloop export` writes for the programs around a project: one module for each, and one line of this table.

A module of this package has

    Options                         a frozen dataclass: what can be chosen, each with its default
    files(request, options)         the files to write, by their path below --out

Every file calls the command line or reads what the project publishes; nothing of mlloop imports these programs.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mlloop.core import revisions, storage
from mlloop.core.errors import UsageError
from mlloop.core.settings import Settings
from mlloop.problem import Problem, did_you_mean, find, load


@dataclasses.dataclass(frozen=True)
class Exporter:
    """A line of the table.

    Attributes
    ----------
    name : str
        As in `mlloop export NAME`; the module has the same name, with _ for -.
    summary : str
        What it writes, in a line.
    folder : str
        Where several files go without --out, relative to the project; '' for a single file, which is printed.
    """

    name: str
    summary: str
    folder: str = ""

    @property
    def module(self) -> ModuleType:
        """The exporter's module, imported when it is needed."""
        return importlib.import_module(f"mlloop.export.{self.name.replace('-', '_')}")


EXPORTERS = {
    exporter.name: exporter
    for exporter in (
        Exporter("airflow", "the pipeline and the turns of the loop as DAGs for Airflow"),
        Exporter("dagster", "the same as jobs and schedules for Dagster"),
        Exporter("great-expectations", "contracts as suites, a checkpoint on the lake", "deploy/great-expectations"),
        Exporter("monitoring", "Prometheus, Alertmanager and Grafana on what mlloop publishes", "deploy/monitoring"),
        Exporter("gitlab", "GitLab CI's pipeline: checks, tests, gates as jobs, pages, promotion by hand"),
        Exporter("github", "the same as a workflow of GitHub Actions"),
        Exporter("dvc", "dvc.yaml, so that dvc repro runs the pipeline and dvc push keeps what the ledger cites"),
        Exporter("kubernetes", "container files and manifests, autoscaling, canary, Argo CD", "deploy/kubernetes"),
    )
}


@dataclasses.dataclass(frozen=True)
class Request:
    """What an exporter is asked to write.

    Attributes
    ----------
    settings : Settings
        Of the project.
    problems : tuple of str
        The names of its statements that take part; never empty.
    """

    settings: Settings
    problems: tuple[str, ...]

    @property
    def root(self) -> Path:
        """The project's folder."""
        return self.settings.root

    def statement(self, problem: str) -> Problem:
        """The statement of a problem, in its current revision.

        Raises
        ------
        ProblemError
            It is not there, or not consistent.
        """
        return load(find(revisions.meant(self.settings, problem), self.settings.problems))


def exporter(name: str) -> Exporter:
    """The line of the table called `name`.

    Raises
    ------
    UsageError
        There is none.
    """
    if name not in EXPORTERS:
        raise UsageError(
            f"there is no export called {name!r} (known: {', '.join(EXPORTERS)})" + did_you_mean(name, EXPORTERS),
            next_step="See what each writes: mlloop export --help",
        )
    return EXPORTERS[name]


def files(name: str, settings: Settings, problems: Sequence[str], options: Mapping[str, Any]) -> dict[str, str]:
    """The files of an export: path below the folder it is written to -> text.

    Raises
    ------
    UsageError
        No such export or option, a project without a problem statement, or a value that cannot be meant.
    """
    module = exporter(name).module
    known = [field.name for field in dataclasses.fields(module.Options)]
    for option in options:
        if option not in known:
            raise UsageError(
                f"{name} has no option {option!r} (known: {', '.join(known)})" + did_you_mean(option, known),
                next_step=f"See its options: mlloop export {name} --help",
            )
    if not problems:
        raise UsageError("there is no problem statement to export", str(settings.root), "Write one, then: mlloop check")
    return module.files(Request(settings, tuple(problems)), module.Options(**options))


def write(name: str, content: Mapping[str, str], out: Path) -> list[Path]:
    """Write the files of an export, each whole or not at all; returns their paths.

    Parameters
    ----------
    out : Path
        The file where the export is a single one, otherwise the folder.
    """
    if not exporter(name).folder:
        (text,) = content.values()
        return [storage.write_text(out, text)]
    return [storage.write_text(out / path, text) for path, text in content.items()]
