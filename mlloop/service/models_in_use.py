"""Which models a service answers with: those that a project's ledger names, or the releases of folders, without a project."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mlloop import serving
from mlloop.core import revisions, storage
from mlloop.core.errors import ModelError, UsageError
from mlloop.core.settings import Settings
from mlloop.release import releases
from mlloop.release.releases import Release
from mlloop.store import prediction_log
from mlloop.store.ledger import Head, Ledger

NAMED = 32  # characters of its digest in the name of a release's folder


class Answering(Protocol):
    """What the service asks of whoever knows the models."""

    problems: list[str]

    def head(self) -> Head | None:
        """What changes whenever another model may answer."""

    def pair(self, problem: str, now: serving.Pair | None) -> serving.Pair | None:
        """The releases that answer for a problem; `now` are those in use."""

    def kind(self, problem: str) -> str:
        """'classification', 'regression' or 'recommendation'."""

    def log_folder(self, problem: str) -> Path:
        """Where the predictions are logged."""


class InProduction:
    """The models that the ledger of a project names.

    Parameters
    ----------
    settings : Settings
    problems : list of str, optional
        Default: all that have a champion.

    Raises
    ------
    UsageError
        No problem has a champion.
    """

    def __init__(self, settings: Settings, problems: list[str] | None = None):
        self.settings, self.ledger = settings, Ledger.open(settings)
        self.problems = problems or [name for name, standing in self.ledger.at().items() if standing.champion]
        if not self.problems:
            raise UsageError("no model is in production", str(settings.root), "Put one there: mlloop run")

    def head(self) -> Head | None:
        """The ledger's head."""
        return self.ledger.head()

    def pair(self, problem: str, now: serving.Pair | None) -> serving.Pair | None:
        """Champion and canary."""
        return serving.in_production(self.settings, self.ledger, problem, now)

    def kind(self, problem: str) -> str:
        """What the problem's statement says."""
        from mlloop import problem as problems

        return problems.load(problems.find(revisions.current(self.settings, problem), self.settings.problems)).task.kind

    def log_folder(self, problem: str) -> Path:
        """The prediction log that the project's monitoring reads."""
        return prediction_log.folder_of(self.settings, problem)


class InFolders:
    """Releases as they lie in folders; they never change while the service runs.

    Parameters
    ----------
    folders : sequence of Path
        One for each problem.
    logs : Path
        The folder of the prediction logs, one folder a problem.

    Raises
    ------
    ModelError
        A folder holds no release, was altered, or two are of the same problem.
    """

    def __init__(self, folders: Sequence[Path], logs: Path):
        self.logs = logs
        self.releases: dict[str, Release] = {}
        for folder in folders:
            release = load_folder(folder)
            if release.problem in self.releases:
                raise ModelError(
                    f"is a second release of {release.problem}", str(folder), "Serve one release of each problem"
                )
            self.releases[release.problem] = release
        self.problems = list(self.releases)

    def head(self) -> Head | None:
        """Nothing moves."""
        return None

    def pair(self, problem: str, now: serving.Pair | None) -> serving.Pair | None:
        """The release alone."""
        return now or serving.Pair(self.releases[problem])

    def kind(self, problem: str) -> str:
        """What the release says."""
        return self.releases[problem].kind

    def log_folder(self, problem: str) -> Path:
        """A folder of the problem's name."""
        return self.logs / problem


def load_folder(folder: Path | str) -> Release:
    """The release in a folder, held against the digest in the folder's name where it has one.

    A project names the folder of a release by the beginning of its digest. A copy may be called otherwise: then nothing
    says which release it ought to be, and whoever copied it vouches for it.

    Raises
    ------
    ModelError
        There is no release, or it was altered.
    """
    folder = Path(folder).resolve()
    if not (folder / "release.json").is_file():
        step = "Name the folder that holds release.json, such as .mlloop/releases/PROBLEM/DIGEST of a project"
        raise ModelError("there is no release here", str(folder), step)
    digest, name = storage.digest_file(folder), folder.name
    if len(name) == NAMED and not name.strip("0123456789abcdef") and not digest.startswith(name):
        what = f"was altered: its digest begins with {digest[:12]}, the folder's name with {name[:12]}"
        raise ModelError(what, str(folder), "Copy the release again from its project")
    return releases.load(folder, digest)
