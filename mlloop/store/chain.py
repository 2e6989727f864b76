"""The chain of a ledger's rows: each row's hash, the check of all, and what was verified before.

A ledger is verified by whoever reads it. So that this stays cheap, the state in which it was verified last is
remembered, in the process and beside the project: while the database shows the same state, nothing is read again.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlloop.core.records import JsonObject

NOTHING_BEFORE = "0" * 64


@dataclass(frozen=True)
class Head:
    """How far the ledger goes: its last row's id (0 when empty) and hash."""

    id: int
    hash: str


RECORDED: list[Any] = []  # the rows that this process wrote, for whoever must tell of them when it is stopped
TOLD: list[Callable[[Any], None]] = []  # are given each row that this process writes, in the moment in which it stands
EMPTY = Head(0, NOTHING_BEFORE)


def canonical(value: Any) -> str:
    """JSON that is the same for the same value: sorted keys, no blanks, ASCII, finite numbers."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False, default=repr)


def row_hash(row: Mapping[Any, Any]) -> str:
    """SHA-256 of the row as it is stored, `previous` included; a column without a value does not take part."""
    content = {name: value for name, value in row.items() if name != "hash" and value is not None}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def checked(
    rows: Iterable[Mapping[Any, Any]],
    top: Mapping[Any, Any] | None,
    damaged: Callable[[str], Exception],
    noted: Iterable[tuple[Head, str]] = (),
) -> Head:
    """Check every row against its hash and its predecessor; returns the head.

    Parameters
    ----------
    rows : iterable of mapping
        In the order of their ids.
    top : mapping or None
        The row of the head's table.
    damaged : callable
        Makes the error of what is wrong.
    noted : iterable of (Head, str)
        Heads that were seen earlier, each with where; each must be a row of the chain.

    Raises
    ------
    Exception
        Made by `damaged`: the first row that is wrong.
    """
    before, state = EMPTY, {EMPTY.id: EMPTY.hash}
    for row in rows:
        if row["id"] != before.id + 1:
            raise damaged(f"row {before.id + 1} is missing (row {row['id']} comes next)")
        if row["hash"] != row_hash(row):
            raise damaged(f"row {row['id']} was changed after it was written")
        if row["previous"] != before.hash:
            raise damaged(f"row {row['id']} does not follow row {before.id}: one of them was replaced")
        before = Head(row["id"], row["hash"])
        state[before.id] = before.hash
    if top is None or (top["last"], top["hash"]) != (before.id, before.hash):
        what = "nothing" if top is None else f"row {top['last']}"
        raise damaged(f"it ends with row {before.id} and its head says {what}: the end was cut or added to")
    for head, where in noted:
        if head.id > before.id:
            what = f"it ends with row {before.id}, and {where} row {head.id} was its last"
            raise damaged(f"{what}: its end was removed, or an older copy took its place")
        if head.id and state.get(head.id) != head.hash:
            raise damaged(f"row {head.id} is not the one noted {where} (hash {head.hash[:12]}...)")
    return before


@dataclass(frozen=True)
class Verified:
    """A head that was verified, and the state of the database it was verified in."""

    head: Head
    state: str


class Memory:
    """What was verified of a ledger, in a file of the project.

    Parameters
    ----------
    path : Path or None
        None: only this process remembers.
    name : str
        Of the ledger: one file holds several, so that a project that changes its ledger mixes nothing up.
    """

    def __init__(self, path: Path | None, name: str):
        self.path, self.name = path, name
        self._known: Verified | None = None

    @property
    def known(self) -> Verified | None:
        """What was verified last, by this process or one before it."""
        if self._known is None and self.path is not None:
            kept = self._file().get(self.name)
            with contextlib.suppress(TypeError, KeyError, ValueError):
                self._known = Verified(Head(int(kept["row"]), str(kept["hash"])), str(kept["state"]))  # type: ignore[index]
        return self._known

    def keep(self, head: Head, state: str) -> None:
        """Remember; a folder that cannot be written is no reason to fail, the next process verifies again."""
        if self._known == (verified := Verified(head, state)):
            return
        self._known = verified
        if self.path is None:
            return
        self._write({**self._file(), self.name: {"row": head.id, "hash": head.hash, "state": state}})

    def forget(self) -> None:
        """Take the ledger as it is found from here on."""
        self._known = None
        content = self._file()
        if content.pop(self.name, None):
            self._write(content)

    def _write(self, content: JsonObject) -> None:
        """Replace the file; not flushed to the disk, since what is lost is only verified again."""
        assert self.path is not None
        beside = self.path.with_name(f".{self.path.stem}.{os.getpid()}.{threading.get_ident()}.part.json")
        try:
            beside.touch(0o600)
            beside.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
            os.replace(beside, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink()

    def _file(self) -> JsonObject:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8")) if self.path else {}
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def recorded(rows: Iterable[Any]) -> None:
    """Note rows that were written, and tell whoever wants to be told."""
    for row in rows:
        RECORDED.append(row)
        for receiver in TOLD:
            receiver(row)


def last_anchored(path: Path) -> Head | None:
    """The head in the last whole line of an anchor, a file of `TIME ROW HASH` lines; None where there is none."""
    if not path.exists():
        return None
    for line in reversed(path.read_text(encoding="utf-8").splitlines()):
        words = line.split()
        if len(words) == 3 and words[1].isdigit() and len(words[2]) == 64:
            return Head(int(words[1]), words[2])
    return None


def anchor(path: Path, head: Head, at: str) -> None:
    """Add a head to an anchor.

    Raises
    ------
    OSError
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{at} {head.id} {head.hash}\n")
