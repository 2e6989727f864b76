"""What a stage's product depends on, as digests: its code, parameters, inputs and dependencies.

A stage is fresh when the parts recorded with its product are the parts found now. Prose and docstrings are no part.
"""

import ast
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlloop.core import forms, parsing, reads, storage
from mlloop.core.errors import DataError
from mlloop.core.moved import current
from mlloop.core.records import JsonObject, Parameters
from mlloop.core.settings import Settings
from mlloop.pipeline.plan import Task
from mlloop.store import objects


@dataclass
class Parts:
    """The digests a stage's product depends on; `key` is the digest of all."""

    cells: str
    modules: dict[str, str]
    parameters: Parameters
    inputs: dict[str, str]
    dependencies: str

    @property
    def key(self) -> str:
        return storage.digest_json(self)


@dataclass
class Record:
    """What is recorded of a stage that ended well; a product without one does not exist.

    `reads` holds, of each stage whose product it read as a model, the fields that it used and their digests.
    """

    stage: str
    key: str
    parts: JsonObject
    products: dict[str, str]
    seconds: float
    finished_at: str
    rows: int | None = None
    cells: list[dict] = field(default_factory=list)
    run: str = ""
    reads: dict[str, dict[str, str]] = field(default_factory=dict)


class Digests:
    """Digests of files, remembered by path, size, time and inode in `path` so that an unchanged file is read once."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.known: dict[str, list] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}
        self._changed = False

    def of(self, path: Path) -> str | None:
        """The digest of a file or a folder; None where there is nothing."""
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            return storage.digest_json([[p.relative_to(path).as_posix(), self.of(p)] for p in inside])
        try:
            state = path.stat()
        except OSError:
            return None
        stamp = [state.st_size, state.st_mtime_ns, state.st_ino, state.st_ctime_ns]
        before = self.known.get(str(path))
        if before and before[:-1] == stamp:
            return before[-1]
        digest = storage.digest_file(path)
        if path.stat().st_mtime_ns == state.st_mtime_ns:
            self.known[str(path)] = [*stamp, digest]
            self._changed = True
        return digest

    def keep(self) -> None:
        """Write what was learned for the next process."""
        if self._changed:
            self.known = {path: value for path, value in list(self.known.items()) if Path(path).exists()}
            storage.write_json(self.path, self.known)
            self._changed = False


def is_run_cell(cell) -> bool:
    """Whether a notebook's code cell belongs to the Run act: marked `#| pipeline`, or the parameters cell."""
    first = cell["source"].lstrip().split("\n", 1)[0].replace(" ", "")
    return cell["cell_type"] == "code" and (first == "#|pipeline" or "parameters" in cell["metadata"].get("tags", []))


def code_digest(source: str) -> str:
    """Digest of what Python code does: without comments, docstrings and layout; of the text where it is not Python."""
    try:
        tree = parsing.tree(source)
    except (SyntaxError, ValueError):
        return storage.digest_bytes(source.encode())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and body and ast.get_docstring(node, clean=False) is not None:  # type: ignore[arg-type]
            node.body = body[1:]  # type: ignore[attr-defined]
    return storage.digest_bytes(ast.dump(tree).encode())


def imported(source: str, package: str = "") -> set[str]:
    """Names of the modules that Python code imports, wherever it does; relative ones resolved against `package`."""
    try:
        tree = parsing.tree(source)
    except (SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


MOST_REMEMBERED = 2000


class Modules:
    """Digests of the local modules that code reaches by its imports.

    Local are the package `mlloop` and every package or module in the project's root. What a file's content says is
    remembered in `memory`, by that content, so that the next process parses only what is new.
    """

    def __init__(self, root: Path, memory: Path | None = None):
        self.root, self.memory = root, memory
        self._files: dict[str, tuple[str, set[str]]] = {}
        try:
            self._known: dict[str, list] = json.loads(memory.read_text(encoding="utf-8")) if memory else {}
        except (OSError, ValueError):
            self._known = {}
        self._kept = set(self._known)
        self._used: dict[str, list] = {}

    @lru_cache(maxsize=4096)  # noqa: B019  (one instance a command)
    def file(self, name: str) -> Path | None:
        """The file of a local module; None for a third party's."""
        top, *rest = current(name).split(".")
        base = self.root / top
        if not base.exists() and not base.with_suffix(".py").exists():
            if top != "mlloop":
                return None
            spec = find_spec("mlloop")
            base = Path(spec.origin).parent if spec and spec.origin else base
        path = base.joinpath(*rest)
        for candidate in (path / "__init__.py", path.with_name(path.name + ".py")):
            if candidate.is_file():
                return candidate
        return None

    def closure(self, source: str) -> dict[str, str]:
        """Digest of each local module reached from `source`, by name."""
        modules: dict[str, str] = {}
        waiting = list(imported(source))
        while waiting:
            name = waiting.pop()
            waiting += [name.rsplit(".", 1)[0]] if "." in name else []
            path = self.file(name)
            if path is None or name in modules:
                continue
            digest, names = self._read(path, name)
            modules[name] = digest
            waiting += names
        return dict(sorted(modules.items()))

    def _read(self, path: Path, name: str) -> tuple[str, set[str]]:
        key = str(path)
        if key not in self._files:
            text = path.read_text(encoding="utf-8")
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            content = storage.digest_json([text, package, list(sys.version_info[:2])])
            if content not in self._known:
                self._known[content] = [code_digest(text), sorted(imported(text, package))]
            digest, names = self._used[content] = self._known[content]
            self._files[key] = (digest, set(names))
        return self._files[key]

    def keep(self) -> None:
        """Write what was learned for the next process; what is no longer used goes when there is much of it."""
        if self.memory and self._used.keys() - self._kept:
            kept = {**self._known, **self._used} if len(self._known) < MOST_REMEMBERED else self._used
            storage.write_json(self.memory, kept)
            self._kept = set(kept)


def dependencies_digest(root: Path) -> str:
    """Digest of the lock file and of the versions installed of what it names."""
    lock = root / "requirements.lock"
    text = lock.read_text(encoding="utf-8") if lock.exists() else ""
    names = {
        line.split("==")[0].strip().lower().replace("-", "_").replace(".", "_")
        for line in text.splitlines()
        if "==" in line
    }
    site = next((Path(p) for p in sys.path if Path(p).name == "site-packages"), None)
    installed = []
    for name in os.listdir(site) if site else []:
        if name.endswith(".dist-info"):
            package, _, version = name.removesuffix(".dist-info").partition("-")
            if not names or package.lower().replace(".", "_") in names:
                installed.append([package.lower(), version.partition("+")[0]])
    locked = sorted(line.strip() for line in text.splitlines() if "==" in line)
    return storage.digest_json([locked, sorted(installed), list(sys.version_info[:2])])


class Freshness:
    """Says of each stage whether its recorded product is what a run would make now, and if not, why.

    Parameters
    ----------
    external : callable
        task -> paths outside the pipeline that the task reads (its problem statement, the files of its sources).
    outdated : callable, optional
        task -> why its product no longer holds although nothing it was made of has changed.
    """

    def __init__(
        self,
        settings: Settings,
        problem: str,
        external: Callable[[Task], Iterable[Path]],
        outdated: Callable[[Task], list[str]] = lambda task: [],
    ):
        self.settings = settings
        self.folder = settings.state / "records" / problem
        self.digests = Digests(settings.state / "records" / "digests.json")
        self.modules = Modules(settings.root, settings.state / "records" / "modules.json")
        self.external, self.outdated = external, outdated
        self.dependencies = dependencies_digest(settings.root)

    def parts(self, task: Task, upstream: dict[str, Task]) -> Parts:
        """The parts of `task` as they are now; `upstream` are the tasks it reads."""
        cells = _run_code(task.source)
        inputs = {
            f"stage {name}": self.digests.of(above.products["data"]) or "missing" for name, above in upstream.items()
        }
        for path in self.external(task):
            inputs[f"file {self._short(path)}"] = self.digests.of(path) or "missing"
        return Parts(
            cells=storage.digest_json([code_digest(cell) for cell in cells]),
            modules=self.modules.closure("\n".join(cells)),
            parameters=task.parameters,
            inputs=inputs,
            dependencies=self.dependencies,
        )

    def code_files(self, task: Task) -> list[Path]:
        """The files of the local modules that the code of `task` reaches, sorted."""
        names = self.modules.closure("\n".join(_run_code(task.source)))
        return sorted({path for name in names if (path := self.modules.file(name))})

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self.settings.root)) if path.is_relative_to(self.settings.root) else str(path)

    def record(self, stage: str) -> Record | None:
        """What is recorded of `stage`; None where it never ended well."""
        path = self.folder / f"{stage}.json"
        try:
            return Record(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, record: Record) -> None:
        """Write a record: from now on its product exists."""
        storage.write_json(self.folder / f"{record.stage}.json", record)
        self.remember()

    def remember(self) -> None:
        """Write what was learned of files and modules for the next process."""
        self.digests.keep()
        self.modules.keep()

    def forget(self, stage: str) -> None:
        """Remove a record: its product no longer exists."""
        storage.remove(self.folder / f"{stage}.json")

    def stale(self, task: Task, parts: Parts, upstream: dict[str, Task]) -> list[str]:
        """Why `task` must run, one reason a line; empty when its product is fresh. `upstream`: the tasks it reads."""
        record = self.record(task.name)
        if record is None:
            return ["never ran to its end"]
        gone = [name for name, path in task.products.items() if self.digests.of(path) != record.products.get(name)]
        damaged = [self._lost(task.products[name], record.products.get(name), f"product {name}") for name in gone]
        if not gone:
            damaged = self._unusable(task) or self.outdated(task)
        now = json.loads(json.dumps(storage.plain(parts)))
        return [*damaged, *differences(record.parts, now, self._changed_fields(record, now, upstream))]

    def _changed_fields(self, record: Record, now: dict, upstream: dict[str, Task]) -> dict[str, list[str]]:
        """Of each input that changed and was read field by field: which of the fields that were used have changed."""
        changed = {}
        for stage, used in record.reads.items():
            name = f"stage {stage}"
            if stage not in upstream or now["inputs"].get(name) == record.parts.get("inputs", {}).get(name):
                continue
            with contextlib.suppress(DataError):  # a product that is gone or damaged has changed as a whole
                content = storage.read_json(upstream[stage].products["data"])
                is_now = reads.digests(content, used)
                changed[name] = [field for field, digest in used.items() if is_now[field] != digest]
        return changed

    def _unusable(self, task: Task) -> list[str]:
        """Why the product cannot be read any more: its form is older, or what it cites is gone or damaged."""
        content = storage.read_json(task.products["data"])
        if older := forms.older_form(content):
            return [older]
        return self._damaged(task, content)

    def _lost(self, path: Path, cited: str | None, what: str) -> str:
        """Why a file is not the one that is cited: a person's rows were erased from it, or it is gone or damaged."""
        if day := objects.erased_on(self.settings, cited, self.digests.of(path)):
            return f"rows of a person were erased from {what} on {day}"
        is_product = what.startswith("product ")
        return f"{what} is missing or was changed since it was made" if is_product else f"{what} is gone or damaged"

    def _damaged(self, task: Task, content: Any) -> list[str]:
        """What the product cites and is not there: versions of tables, files with a digest."""
        wrong = []
        for cited in objects.cited(content):
            if "version" in cited and "://" not in self.settings.lake_uri + str(cited["uri"]):
                places = [Path(self.settings.lake_uri, str(cited.get(key, ""))) for key in ("name", "uri")]
                commit = f"_delta_log/{int(cited['version']):020d}.json"
                if not any((product_path / commit).exists() for product_path in places):
                    wrong.append(
                        f"table {cited.get('name', cited['uri'])} version {cited['version']} is gone or damaged"
                    )
            elif "path" in cited:
                path = objects.locate(self.settings, task.products["data"], cited["path"])
                if self.digests.of(path) != cited["digest"]:
                    wrong.append(self._lost(path, cited["digest"], f"file {self._short(path)}"))
        return wrong


def _run_code(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    marked = [cell["source"] for cell in cells if is_run_cell(cell)]
    return marked if len(marked) > 1 else [cell["source"] for cell in cells if cell["cell_type"] == "code"]


def differences(before: dict, now: dict, fields: Mapping[str, list[str]]) -> list[str]:
    """What differs between two sets of parts, in words.

    Parameters
    ----------
    fields : mapping of str to list of str
        Of inputs that were read field by field: the fields that changed; the input is as it was where none did.
    """
    lines = []
    if before.get("cells") != now["cells"]:
        lines.append("the notebook's Run cells changed")
    for what, word in {"modules": "module", "inputs": "input", "parameters": "parameter"}.items():
        was, is_ = before.get(what, {}), now[what]
        listed = []
        for name in sorted({*was, *is_}):
            if (was.get(name) == is_.get(name) and (name in was) == (name in is_)) or fields.get(name) == []:
                continue
            change = f" from {was.get(name)!r} to {is_.get(name)!r}" if what == "parameters" else ""
            change = f": {_named(fields[name])}" if name in fields else change
            verb = "changed" if name in was and name in is_ else "is new" if name in is_ else "is no longer read"
            listed.append(f"{word} {name} {verb}{change if verb == 'changed' else ''}")
        lines += listed if len(listed) <= 6 else [*listed[:5], f"and {len(listed) - 5} more of the {what}"]
    if before.get("dependencies") != now["dependencies"]:
        lines.append("the dependencies changed (requirements.lock or what is installed of it)")
    return lines


def _named(fields: list[str]) -> str:
    """Fields of a product for a reader; of the statement without its product's own name for it."""
    shown = sorted({field.removeprefix("problem.").rstrip(".") or "its form" for field in fields})
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
