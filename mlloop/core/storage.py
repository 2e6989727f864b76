"""Files that are whole or absent, and digests of what they hold.

A product is written beside its place, fsynced and moved into it, so a kill leaves the old one or the new one.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlloop.core.errors import DataError, MlloopError, StageFailed

# why a write may fail that is nobody's fault in the code: a full disk, no permission
NO_ROOM = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT)


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, it becomes `path`.

    The temporary keeps the suffix of `path`. The block may write a file or make a folder there. In a folder that is for
    its owner alone, so is what is written.

    Raises
    ------
    StageFailed
        No space, no permission.
    """
    path = Path(path)
    beside = path.parent / f".{path.stem}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part{path.suffix}"
    try:
        is_private = _make_folder(path.parent)
        yield beside
        if is_private:
            tighten(beside)
            _tightened(os.fspath(beside))
        _sync(beside)
        if beside.is_dir() and path.exists():
            _swap_folder(beside, path)
        else:
            os.replace(beside, path)
        _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, MlloopError) or error.errno not in NO_ROOM:
            raise
        raise StageFailed(
            f"cannot be written: {error.strerror}",
            str(path),
            "Nothing was changed there. Make room or give permission, then: mlloop run",
        ) from error
    finally:
        remove(beside)


def _make_folder(folder: Path) -> bool:
    """Make a folder; whether it is for its owner alone, as what is made in such a folder must be."""
    above = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    is_private = not above.stat().st_mode & 0o077
    if above != folder:
        with privately() if is_private else contextlib.nullcontext():
            folder.mkdir(parents=True, exist_ok=True)
    return is_private


def _swap_folder(new: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
    os.replace(path, old)
    os.replace(new, path)
    remove(old)


def _sync(path: Path) -> None:
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def privately() -> Iterator[None]:
    """Make what is made inside readable by its owner alone, whatever the process's umask."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def tighten(*folders: Path | str) -> int:
    """Take group's and others' rights from folders and all that lies in them; returns from how many.

    Links are not followed, and what belongs to somebody else is left.
    """
    changed = 0
    for top in map(Path, folders):
        waiting = [str(top)] if top.is_dir() and not top.is_symlink() else []
        changed += sum(map(_tightened, waiting))
        while waiting:
            with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if not entry.is_symlink():
                        changed += _tightened(entry.path)
                        waiting += [entry.path] if entry.is_dir(follow_symlinks=False) else []
    return changed


def _tightened(path: str) -> bool:
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        if mode & 0o077:
            Path(path).chmod(mode & 0o700)
            return True
    return False


def remove(path: Path | str) -> None:
    """Remove a file or a folder; nothing happens where there is none."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path | str) -> int:
    """Remove what killed writers left in `folder` (``*.part*``, ``*.old``); returns how many."""
    left = [p for pattern in (".*.part*", ".*.old") for p in Path(folder).rglob(pattern)]
    for path in left:
        remove(path)
    return len(left)


def clear_dead(folder: Path | str, deep: bool = False, leave: tuple[str, ...] = ("lake", "kernels", "backtest")) -> int:
    """Remove the parts (see `atomic_path`) whose writer is gone; returns how many. Safe beside living writers.

    Parameters
    ----------
    folder : Path or str
    deep : bool
        Also in the folders in it, but for those named in `leave`.
    leave : tuple of str
    """
    count, waiting = 0, [os.fspath(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if _is_dead_part(entry.name):
                    remove(entry.path)
                    count += 1
                elif deep and entry.is_dir(follow_symlinks=False) and entry.name not in leave:
                    waiting.append(entry.path)
    return count


def _is_dead_part(name: str) -> bool:
    """Whether a name is that of a part, `.STEM.PID.ANY.part...`, whose process is gone. Segments of a log are locked instead."""
    words = name.split(".")
    if not name.startswith(".") or "part" not in words[3:] or name.endswith(".part.jsonl"):
        return False
    pid = words[words.index("part", 3) - 2]
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def write_text(path: Path | str, text: str) -> Path:
    """Write `text` as UTF-8, atomically. Bytes of a file's name that are no text are written as JSON escapes them."""
    with atomic_path(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def write_json(path: Path | str, value: Any) -> Path:
    """Write `value` as JSON with sorted keys, atomically. NaN and infinities become null."""
    return write_text(path, json.dumps(plain(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises
    ------
    DataError
        Missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("is not there", str(path), "The stage that writes it has not run: mlloop run") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"is not JSON: {error}", str(path), "Write it again: mlloop run --force") from error


def plain(value: Any) -> Any:
    """`value` in JSON's own types: dataclasses, times, paths and NumPy scalars converted."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def digest_bytes(content: bytes) -> str:
    """SHA-256 of `content`, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of `value` written as canonical JSON."""
    content = json.dumps(plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return digest_bytes(content.encode("utf-8", "surrogatepass"))  # a file's name need not be text


def digest_file(path: Path | str) -> str:
    """SHA-256 of a file's content; of a folder: of its files' relative names and contents."""
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return digest_json([[p.relative_to(path).as_posix(), digest_file(p)] for p in files])
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_lock(path: Path, timeout_s: float) -> contextlib.AbstractContextManager[Any]:
    """A lock of the file at `path`, to be used in a ``with`` statement, for which processes wait at most so long."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, timeout=timeout_s, mode=0o600)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file that is there."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def __getattr__(name: str) -> Any:
    """`save_product` and `load_product`, which Run acts of earlier projects import from here; they are in `mlloop.products`."""
    if name in ("save_product", "load_product"):
        return getattr(importlib.import_module("mlloop.products"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
