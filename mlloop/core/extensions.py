"""What a project adds of its own: business rules and checks, and how its modules are found.

Everything a project adds is a function with a decorator in a module of the project's own package:

    feature_registry.feature    a feature            candidates.candidate    a model that may be tried
    cleaning.rule               a cleaning rule      extensions.rule         a business rule
    extensions.check            a check of rows at ingestion

Importing the module registers it. Each stage's notebook imports, in its Run act, the modules it depends on, so that a
changed module makes stale what depends on it and nothing else; what runs outside a notebook calls `bring_in`.
"""

import ast
import importlib
import inspect
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from mlloop.core import settings as _settings
from mlloop.core import storage
from mlloop.core.errors import MlloopError, ProjectNotFound, SettingsError, StageFailed
from mlloop.core.moved import current

RULES: dict[str, Callable[..., Any]] = {}


@dataclass(frozen=True)
class Check:
    """A check of rows at ingestion: `broken` takes the typed columns by name and is true of a row that breaks it."""

    name: str
    reason: str
    broken: Callable[..., Any]


CHECKS: dict[str, Check] = {}


def rule(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a business rule under its name; a statement names it as `rules: - {name: ..., function: NAME}`.

    The function takes the rows (ibis.Table) and returns their scores (ibis.Value); for recommendations it takes the
    task and returns an unfitted recommender.
    """
    RULES[function.__name__] = function
    return function


def check(reason: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a check of rows; a statement names it under `tables: ...: checks: [NAME]`.

    Parameters
    ----------
    reason : str
        Told with every row that is set aside because of it.

    The decorated function takes a dict of typed columns (ibis.Value) and returns where a row is broken.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        CHECKS[function.__name__] = Check(function.__name__, reason, function)
        return function

    return register


def checks_digest(names: list[str]) -> str:
    """SHA-256 of the source of the checks: a changed check judges all rows again."""
    return storage.digest_json([[name, inspect.getsource(named("check", CHECKS, name).broken)] for name in names])


TRUSTED: list[str] = []


def trust(*types: str) -> None:
    """Add reviewed types, by their full names, to those that may be built from a model's file."""
    TRUSTED.extend(types)


Registered = TypeVar("Registered")


def named(kind: str, known: Mapping[str, Registered], name: str) -> Registered:
    """The registered rule or check called `name`.

    Raises
    ------
    SettingsError
        Nobody registered it.
    """
    if name not in known:
        registered = ", ".join(sorted(known)) or "none"
        raise SettingsError(
            f"no {kind} of one's own is called {name!r} (registered: {registered})",
            "the problem statement",
            f"Write it as an exported function with the decorator own.{kind}, export it (nbdev-export), then: mlloop check",
        )
    return known[name]


# ---------------------------------------------------------------------------------------------- the project's package


@lru_cache(maxsize=16)
def _package(root: Path, changed_ns: int) -> str | None:
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    nbdev = settings.get("tool", {}).get("nbdev", {})
    name = nbdev.get("lib_path") or nbdev.get("lib_name")
    return str(name).replace("/", ".") if name and (root / str(name)).is_dir() else None


def package(root: Path) -> str | None:
    """The project's own package, as [tool.nbdev] of its pyproject.toml names it; None where there is none.

    Raises
    ------
    SettingsError
        pyproject.toml cannot be read.
    """
    path = root / "pyproject.toml"
    try:
        return _package(root, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(" ".join(str(error).split()), str(path), "Fix the file, then: mlloop check") from error


def modules(root: Path) -> dict[str, Path]:
    """The modules of the project's own package by name; none where that package is mlloop itself."""
    name = package(root)
    if name is None or name == "mlloop":
        return {}
    files = sorted((root / name.replace(".", "/")).glob("*.py"))
    return {f"{name}.{file.stem}": file for file in files if not file.stem.startswith("_")}


def is_own_type(name: str) -> bool:
    """Whether a type, by its full name, is of the project's own package: code that stands here, not in the model's file."""
    try:
        return name.rpartition(".")[0] in modules(_settings.find_root())
    except ProjectNotFound:
        return False


_done: dict[Path, set[str]] = {}


def bring_in(root: Path | str | None = None) -> list[str]:
    """Import every module of the project's own package, once a process; returns their names.

    Raises
    ------
    StageFailed
        One cannot be imported.
    """
    try:
        folder = Path(root).resolve() if root else _settings.find_root()
    except ProjectNotFound:
        return []
    listed = modules(folder)
    imported = _done.setdefault(folder, set())
    if listed and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    for name, file in listed.items():
        if name in imported:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:
            shown = os.path.relpath(file, folder)
            message = " ".join(str(error).split())
            raise StageFailed(
                f"cannot be imported: {message if isinstance(error, MlloopError) else f'{type(error).__name__}: {message}'}",
                shown,
                "Fix its notebook, export it (nbdev-export), then: mlloop check",
            ) from error
        imported.add(name)
    return list(listed)


# ---------------------------------------------------------------------------------------------- what it declares

KINDS = ("feature", "candidate", "rule", "check")


@dataclass(frozen=True)
class Declared:
    """A decorated function found in a module's text: its kind ('cleaning' for cleaning.rule), name and place."""

    kind: str
    name: str
    module: str
    line: int


def declared(root: Path) -> list[Declared]:
    """What the project's modules register, read off their text without importing anything."""
    declarations = []
    for name, file in modules(root).items():
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # importing it tells what is wrong
        origin = _origins(tree)
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                declarations += [
                    _declared(node, decorator, origin, name)
                    for decorator in node.decorator_list
                    if _kind(decorator, origin)
                ]
    return declarations


def _origins(tree: ast.Module) -> dict[str, str]:
    """Local name -> dotted origin of everything imported from mlloop."""
    origin: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mlloop":
            origin |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            origin |= {
                alias.asname or alias.name: alias.name for alias in node.names if alias.name.startswith("mlloop")
            }
    return origin


def _kind(decorator: ast.expr, origin: dict[str, str]) -> str | None:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    text = ast.unparse(called)
    head, _, rest = text.partition(".")
    whole = ".".join(
        part for part in (origin.get(text) or origin.get(head), rest if text not in origin else "") if part
    )
    kinds = {
        "mlloop.data.feature_registry.feature": "feature",
        "mlloop.features.feature": "feature",
        "mlloop.models.candidates.candidate": "candidate",
        "mlloop.data.cleaning.rule": "cleaning",
        "mlloop.core.extensions.rule": "rule",
        "mlloop.core.extensions.check": "check",
    }
    return kinds.get(current(whole))


def _declared(node: ast.FunctionDef | ast.AsyncFunctionDef, decorator: ast.expr, origin, module: str) -> Declared:
    kind, name = _kind(decorator, origin) or "", node.name
    if kind == "candidate" and isinstance(decorator, ast.Call) and decorator.args:
        first = decorator.args[0]
        name = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else name
    return Declared(kind, name.strip("_") if kind == "cleaning" else name, module, node.lineno)


def names(root: Path, kind: str) -> list[str]:
    """The names of what the project declares of one kind."""
    return [declaration.name for declaration in declared(root) if declaration.kind == kind]
