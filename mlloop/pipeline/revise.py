"""Revisions of a statement: `loan.r2.yaml` beside `loan.yaml` is the same problem, and a run puts it in force.

What ran for the revision before stays: only what the changed lines touch runs again.
"""

from pathlib import Path

from mlloop import problem as problems
from mlloop.core import revisions, storage
from mlloop.core.errors import ProblemError, UsageError
from mlloop.core.settings import Settings

LOCK_S = 60


def base_of(file: Path) -> Path | None:
    """The statement that `file` is a revision of; None where it is no revision.

    Raises
    ------
    ProblemError
        It is named like one, and is not there.
    """
    base = file.with_name(f"{revisions.problem_of(file.stem)}{file.suffix}")
    if base == file or not base.is_file():
        return None
    if not file.is_file():
        what = f"there is no such revision; {base.name} is revision {problems.load(base).revision}"
        raise ProblemError(what, str(file), f"Run it: mlloop run --problem {base.stem}")
    return base


def open_next(settings: Settings, statement: Path, gate: str, must_change: list[str]) -> Path:
    """Open the next revision of a statement; one that is there is written anew, unless somebody has edited it."""
    notes, target = settings.state / "records" / "revisions.json", problems.revision_file(statement)
    with storage.file_lock(notes.with_suffix(".lock"), LOCK_S):  # runs of two problems may open one at once
        written = storage.read_json(notes) if notes.exists() else {}
        if target.exists() and written.get(target.name) == storage.digest_file(target):
            storage.remove(target)
        if not target.exists():
            problems.next_revision(statement, gate, must_change)
            storage.write_json(notes, {**written, target.name: storage.digest_file(target)})
    return target


def put_in_force(file: Path) -> str:
    """Make a revision the statement of its problem, and keep the one before beside it; says so in a sentence.

    Raises
    ------
    ProblemError
        One of the two is not a consistent statement.
    UsageError
        It changes nothing, or would take the place of another statement.
    """
    base = base_of(file)
    assert base is not None
    now, before, run = problems.load(file), problems.load(base), f"mlloop run --problem {base.stem}"
    kept = base.with_name(f"{base.stem}.r{before.revision}{base.suffix}")
    if now.name != before.name:
        what = f"is named {now.name!r}, and {base.name} {before.name!r}: it is no revision of the same problem"
        raise UsageError(what, str(file), f"Name its file {now.name}.yaml, then: mlloop run --problem {now.name}")
    if now.model_dump(exclude={"revision"}) == before.model_dump(exclude={"revision"}):
        raise UsageError(
            f"asks what {base.name} asks: nothing was changed",
            str(file),
            "Change what its first lines name, then run it",
        )
    if now.revision <= before.revision:
        following = before.revision + 1
        raise UsageError(
            f"is revision {now.revision}, and {base.name} is revision {before.revision} already", str(file),
            f"Copy it to {base.stem}.r{following}.yaml with revision: {following}, and run that; or: {run}",
        )  # fmt: skip
    if kept.exists() and kept.read_bytes() != base.read_bytes():
        what = f"takes the place of {base.name}, to be kept as {kept.name}; but that is another statement"
        raise UsageError(what, str(file), f"Move {kept.name} away, then run it again")
    storage.write_text(kept, base.read_text(encoding="utf-8"))
    file.replace(base)
    return f"revision {now.revision} is now {base.name}; revision {before.revision} is kept as {kept.name}"
