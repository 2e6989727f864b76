"""The git commit of a project's code, as every row of the ledger cites it: read once a process."""

import functools
import os
import subprocess
from pathlib import Path

DIRTY = "+dirty"


@functools.cache
def commit_of(root: Path) -> str | None:
    """The commit that a project's folder stands at, with '+dirty' where its files differ from it.

    Untracked files count as a difference, ignored ones (data, state, pages) do not. None where git is not installed,
    or the folder is not part of a repository that has its pipeline.yaml.

    Examples
    --------
    >>> commit_of(Path("/no/repository")) is None
    True
    """
    head, tracked = _git(root, "rev-parse", "--verify", "HEAD"), _git(root, "ls-files", "--", "pipeline.yaml")
    if not head or not tracked:
        return None
    changed = _git(root, "status", "--porcelain", "--", ".")
    return head.strip() + (DIRTY if changed is None or changed.strip() else "")


def _git(root: Path, *arguments: str) -> str | None:
    """What git says; None where it fails. It takes no lock and starts no program that the repository names."""
    command = [
        "git",
        "--no-optional-locks",
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.hooksPath=/dev/null",
        "-C",
        str(root),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None
