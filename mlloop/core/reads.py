"""Which fields of the products before it a stage has read, so that a change of other fields does not make it stale.

A run names a file in MLLOOP_READS; its first line says which files to watch, and whose product each is. A product that
is read as a model (`products.load`) is followed: a field is noted when code touches it. A file that is opened in any
other way has been read whole. Outside a run nothing is noted.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from mlloop.core import storage

VARIABLE, WHOLE = "MLLOOP_READS", ""
AS_A_WHOLE = {
    "__dict__",
    "__pydantic_serializer__",
    "__pydantic_fields_set__",
    "__pydantic_extra__",
    "model_fields_set",
}
STARTS_A_PROCESS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile"}

MOST_FIELDS = 500  # of one product, beyond which only its parts are told apart

_absolute = os.path.abspath  # as it is written: a link stands for itself
_file: int | None = None
_stages: dict[str, str] = {}
_noted: set[tuple[str, str]] = set()
_followed: dict[int, "Position"] = {}
_loading = threading.local()


class Position(NamedTuple):
    """Where a followed model lies in its product; it is kept, so that no other object gets its identity."""

    model: BaseModel
    stage: str
    at: str
    fields: dict[str, str]


class Followed(BaseModel):
    """A model whose fields can be followed: the base of statements and products."""

    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> Any:
            if _followed and (position := _followed.get(id(self))) is not None:
                _touch(position, name)
            return super().__getattribute__(name)


def _touch(position: Position, name: str) -> None:
    if name in position.fields:
        note(position.stage, position.at + position.fields[name])
    elif name in AS_A_WHOLE:  # written out, compared, copied: every field
        note(position.stage, position.at.removesuffix("."))


def note(stage: str, field: str) -> None:
    """Write down that a field of a stage's product was read; 'a.b.': which fields or keys `a.b` has, or how many."""
    global _file
    if (stage, field) not in _noted:
        _noted.add((stage, field))
        _file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND) if _file is None else _file
        os.write(_file, (json.dumps([stage, field]) + "\n").encode())


def _cites(model: BaseModel) -> bool:
    """Whether a model names a file or a table beside its digest: who reads the name reads what it stands for."""
    return any(both <= set(type(model).model_fields) for both in ({"path", "digest"}, {"uri", "version"}))


def follow(model: BaseModel, path: Path | str) -> None:
    """Note from now on which fields are read of a model that was read from `path`, if a run watches that file."""
    if stage := _stages.get(_absolute(path)):
        _follow(model, stage, "")


def _follow(model: BaseModel, stage: str, at: str) -> None:
    if type(model).model_config.get("extra") == "allow":  # fields without a name here
        return note(stage, at.removesuffix("."))
    fields = {name: field.alias or name for name, field in type(model).model_fields.items()}
    for name, value in vars(model).items():
        within = _within(value)
        if within is not None:
            fields[name] += "."
            for key, inner in within.items():
                _follow(inner, stage, f"{at}{fields[name]}{key}")
    _followed[id(model)] = Position(model, stage, at, fields)


def _within(value: Any) -> dict[str, BaseModel] | None:
    """The models in a field that are followed, by what is added to its place; None where it is read as a whole."""
    models = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
    if not models or not all(isinstance(model, Followed) and not _cites(model) for model in models):
        return None
    if isinstance(value, dict):
        return {f"{_escaped(key)}.": model for key, model in value.items()}
    return {f"{i}.": model for i, model in enumerate(value)} if isinstance(value, (list, tuple)) else {"": value}


def _escaped(key: Any) -> str:
    return str(key).replace("~", "~0").replace(".", "~1")


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """What is opened within is followed field by field, and not noted as read whole."""
    _loading.on = True
    try:
        yield
    finally:
        _loading.on = False


def _listen(event: str, arguments: tuple) -> None:
    if event == "open" and not getattr(_loading, "on", False) and isinstance(arguments[0], (str, bytes, os.PathLike)):
        stage = _stages.get(_absolute(os.fsdecode(arguments[0])))
        if stage:
            note(stage, WHOLE)
    elif event in STARTS_A_PROCESS:
        text = repr(arguments)
        for path, stage in _stages.items():
            if path in text:
                note(stage, WHOLE)


def watch(path: Path, files: Mapping[Path, str]) -> dict[str, str]:
    """Prepare `path` for the notes of one stage; returns what its process needs in its environment.

    Parameters
    ----------
    files : mapping of Path to str
        The files to watch, and the stage whose product each is, or stands for.
    """
    storage.write_text(path, json.dumps({_absolute(file): stage for file, stage in files.items()}) + "\n")
    return {VARIABLE: str(path)}


def noted(path: Path) -> dict[str, set[str]]:
    """The fields that a stage's process has read, by the stage whose product they are of."""
    fields_read: dict[str, set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        stage, field = json.loads(line)
        fields_read.setdefault(stage, set()).add(field)
    return {
        stage: fields if len(fields) <= MOST_FIELDS else set(map(_part, fields))
        for stage, fields in fields_read.items()
    }


def _part(field: str) -> str:
    """The part of a product that a field lies in: 'problem.tables' for 'problem.tables.loans.key'."""
    return ".".join(field.split(".")[:2])


def digests(content: Any, fields: Iterable[str]) -> dict[str, str]:
    """The digest of each field of a product's content; of the whole for `WHOLE`."""
    return {field: storage.digest_json(_value(content, field)) for field in sorted(fields)}


def _value(content: Any, field: str) -> Any:
    for step in filter(None, field.split(".")):
        name = step.replace("~1", ".").replace("~0", "~")
        if isinstance(content, list):
            content = content[int(name)] if int(name) < len(content) else None
        else:
            content = content.get(name) if isinstance(content, dict) else None
    if field.endswith(".") and isinstance(content, (dict, list)):
        return len(content) if isinstance(content, list) else sorted(content)
    return content


if os.environ.get(VARIABLE) and Path(os.environ[VARIABLE]).is_file():
    with Path(os.environ[VARIABLE]).open(encoding="utf-8") as _handle:
        _stages = json.loads(_handle.readline())
    sys.addaudithook(_listen)
