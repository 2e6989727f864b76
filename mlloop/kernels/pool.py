"""The client of a project's zygote: finds or starts it, leases kernels from it, keeps some started ahead of need.

How long it waits and how many it keeps is in settings.ini; the defaults are in `core.settings`, the waiting in `zygote`.
"""

import contextlib
import fcntl
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TypedDict

from mlloop.core.errors import Noted
from mlloop.core.records import JsonObject
from mlloop.core.settings import Settings
from mlloop.kernels import zygote

START_S = 15.0
"""Seconds in which a zygote must answer; it does before its imports, so usually within 0.1."""

LAUNCH = "import sys, runpy; sys.path.pop(0); runpy.run_path(sys.argv[1], run_name='__main__')"


class Unavailable(Exception):
    """No warm kernel can be had; a fresh one can."""


class Record(TypedDict, total=False):
    """Where a zygote is, and the fingerprint of what it imported."""

    pid: int
    key: str
    socket: str


class Kernel:
    """A forked kernel, which lives no longer than this object's connection.

    Attributes
    ----------
    pid : int
    connection : dict
        What jupyter_client needs to reach it.
    """

    def __init__(self, link: socket.socket, message: zygote.Message, pidfd: int):
        self._link, self._pidfd = link, pidfd
        self.pid: int = message["pid"]
        self.connection: JsonObject = message["connection"]
        self._exit: int | None = None
        self._mutex = threading.Lock()

    def take_over(self, env: dict[str, str], cwd: Path | str, fds: tuple[int, ...] = ()) -> None:
        """Give it its environment, its folder and descriptors to hold while it lives.

        Raises
        ------
        Unavailable
            It died meanwhile, or the folder is not there.
        """
        try:
            zygote.send(self._link, {"env": env, "cwd": str(cwd)}, fds)
            answer, _ = _answer(self._link, START_S)
        except (OSError, ValueError) as error:
            raise Unavailable(f"a kernel did not take over: {error}") from error
        if not answer.get("ready"):
            raise Unavailable(answer.get("error", "a kernel died before its first cell"))

    def is_alive(self) -> bool:
        return not _readable(self._pidfd, 0)

    def exit_code(self) -> int | None:
        """None while it lives; minus the signal's number when a signal killed it."""
        if self._exit is None and not self.is_alive():
            self._exit = -signal.SIGKILL
            with contextlib.suppress(OSError, ValueError):
                answer, _ = _answer(self._link, 0.5)
                self._exit = answer.get("exit", self._exit)
        return self._exit

    def send_signal(self, signum: int) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signum)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False where it still lives."""
        return _readable(self._pidfd, timeout_s)

    def close(self) -> None:
        """Kill it, with all that it started, and forget it."""
        with self._mutex:
            pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            self._exit = -signal.SIGKILL if self._exit is None else self._exit
            self._link.close()
            os.close(pidfd)


def _readable(fd: int, timeout_s: float) -> bool:
    if fd < 0:
        return True
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _answer(link: socket.socket, timeout_s: float) -> tuple[zygote.Message, list[int]]:
    if not _readable(link.fileno(), timeout_s):
        raise TimeoutError(f"no answer within {timeout_s:g} s")
    return zygote.receive(link)


class Address:
    """Where a project's zygote is, and its start.

    Parameters
    ----------
    settings : Settings
        Of the project; its state folder holds the record, one for each machine and user.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.folder = settings.state / "kernels"
        self.record = self.folder / f"{socket.gethostname()}-{os.getuid()}.json"
        self.log = self.record.with_suffix(".log")

    def read(self) -> Record:
        """The record, {} where there is none or it is another user's."""
        with contextlib.suppress(OSError, ValueError):
            if self.record.stat().st_uid == os.getuid():
                return json.loads(self.record.read_text(encoding="utf-8"))
        return {}

    def connect(self, record: Record | None = None) -> socket.socket:
        """A connection to the zygote of the record.

        Raises
        ------
        OSError
            There is none, or it is another user's.
        """
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            link.connect((record or self.read()).get("socket", ""))
            if zygote.peer_uid(link) != os.getuid():
                raise PermissionError("the socket belongs to another user")
            return link
        except BaseException:
            link.close()
            raise

    def ask(self, what: str) -> zygote.Message:
        """One question to a running zygote: 'status' or 'leave'; {} where none runs."""
        try:
            with self.connect() as link:
                zygote.send(link, {"do": what})
                return _answer(link, START_S)[0]
        except (OSError, ValueError):
            return {}

    def find_or_start(self) -> Record:
        """The record of a zygote whose imports are current; one with older ones is told to leave.

        Raises
        ------
        Unavailable
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            key = zygote.fingerprint(self.settings.root, dict(os.environ))
            record = self.read()
            if record.get("key") == key and self._answers(record):
                return record
            with (self.folder / "start.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                record = self.read()
                if record.get("key") == key and self._answers(record):
                    return record
                self._clear(record)
                return self._start()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise Unavailable(f"cannot start the kernel pool: {error}") from error

    def _answers(self, record: Record) -> bool:
        try:
            self.connect(record).close()
            return True
        except OSError:
            return False

    def _clear(self, record: Record) -> None:
        if not self.ask("leave") and record.get("socket"):
            zygote.remove_runtime_folder(Path(record["socket"]).parent)
        self.record.unlink(missing_ok=True)

    def _start(self) -> Record:
        arguments = [str(self.settings.root), str(self.record), str(self.settings.keep_minutes)]
        with self.log.open("w") as log:
            subprocess.run(
                [sys.executable, "-c", LAUNCH, zygote.__file__, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                timeout=START_S,
                check=True,
            )
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            record = self.read()
            if record and self._answers(record):
                return record
            time.sleep(0.005)
        raise Unavailable(f"the kernel pool did not answer within {START_S:g} s (its log: {self.log})")


class Pool:
    """Kernels for one run: warm where that works, and then some started before they are needed.

    Safe to use from several threads.

    Parameters
    ----------
    settings : Settings
    ahead : int, optional
        Kernels to keep started; default ``settings.kernels_ahead``.
    """

    def __init__(self, settings: Settings, ahead: int | None = None):
        self.settings = settings
        self.address = Address(settings)
        self._ahead = settings.kernels_ahead if ahead is None else ahead
        self._mutex, self._lifetime = threading.Lock(), threading.Lock()
        self._idle: list[socket.socket] = []
        self._leased: list[Kernel] = []
        self._fresh: list[subprocess.Popen] = []
        self._hold: socket.socket | None = None
        self._record: Record = {}
        self._closed = False
        self._warm = settings.kernel_pool == "warm" and sys.platform == "linux"
        self._begin = threading.Thread(target=self._try_to_begin, name="mlloop-pool", daemon=True)
        self._begin.start()

    @property
    def is_warm(self) -> bool:
        """Whether kernels are forked; False once that has failed."""
        return self._warm

    @functools.cached_property
    def folder(self) -> Path:
        """Where fresh kernels of this pool have their sockets."""
        return zygote.runtime_folder()

    def lease(self, env: dict[str, str], cwd: Path | str, fds: tuple[int, ...] = ()) -> Kernel:
        """A warm kernel with this environment, folder and descriptors.

        Raises
        ------
        Unavailable
            Use a fresh one.
        """
        self._begin.join()
        for attempt in (1, 2):
            if not self._warm or self._closed:
                raise Unavailable("the kernel pool is off")
            try:
                kernel = self._ready() or self._fork(env, cwd)
                kernel.take_over(env, cwd, fds)
                with self._mutex:
                    self._leased = [leased for leased in self._leased if leased.is_alive()] + [kernel]
                if self._closed:
                    kernel.close()
                with contextlib.suppress(OSError):
                    self._refill()
                return kernel
            except (Unavailable, OSError, ValueError) as error:
                if attempt == 2:
                    self._give_up(error)
                else:
                    self._restart()
        raise Unavailable("the kernel pool is off")

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def note_fresh(self, process: subprocess.Popen) -> None:
        """Let a kernel that was started for this pool end with it, in the middle of a cell too."""
        self._fresh.append(process)
        if self._closed:
            process.kill()

    def close(self) -> None:
        """Kill this pool's kernels; the zygote stays for the next run."""
        self._closed = True
        with self._mutex:
            for link in self._idle:
                link.close()
            self._idle.clear()
            leased = list(self._leased)
        for kernel in leased:
            kernel.close()
        for process in self._fresh:
            process.kill()
        if self._hold:
            self._hold.close()
        if "folder" in self.__dict__:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _try_to_begin(self) -> None:
        if self._warm:
            try:
                self._connect()
            except (Unavailable, OSError, ValueError) as error:
                with contextlib.suppress(Unavailable):
                    self._give_up(error)

    def _connect(self) -> None:
        self._record = self.address.find_or_start()
        self._hold = self.address.connect(self._record)
        zygote.send(self._hold, {"do": "hold"})
        self._refill()

    def _restart(self) -> None:
        with self._lifetime:
            if self.address.read() == self._record and self.address._answers(self._record):
                return
            with self._mutex:
                for link in self._idle:
                    link.close()
                self._idle.clear()
            try:
                self._connect()
            except (Unavailable, OSError, ValueError) as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._warm and not self._closed:
            self._warm = False
            warnings.warn(f"{error}; using fresh kernels, which are slower", Noted, stacklevel=4)
        raise Unavailable(str(error)) from error

    def _ask_for_kernel(self, env: dict[str, str], cwd: Path | str, ahead: bool) -> socket.socket:
        link = self.address.connect(self._record)
        try:
            zygote.send(link, {"do": "kernel", "env": env, "cwd": str(cwd), "ahead": ahead})
        except OSError:
            link.close()
            raise
        return link

    def _fork(self, env: dict[str, str], cwd: Path | str) -> Kernel:
        return _born(self._ask_for_kernel(env, cwd, ahead=False), START_S)

    def _ready(self) -> Kernel | None:
        """The first kernel started ahead, or None where none has been forked yet."""
        with self._mutex:
            for link in list(self._idle):
                if _readable(link.fileno(), 0):
                    self._idle.remove(link)
                    with contextlib.suppress(Unavailable, OSError, ValueError):
                        return _born(link, START_S)
        return None

    def _refill(self) -> None:
        with self._mutex:
            while self._warm and not self._closed and len(self._idle) < self._ahead:
                self._idle.append(self._ask_for_kernel(dict(os.environ), self.settings.root, ahead=True))


def _born(link: socket.socket, timeout_s: float) -> Kernel:
    try:
        message, fds = _answer(link, timeout_s)
        if "pid" not in message:
            raise Unavailable(message.get("error", "a kernel died at its start"))
        return Kernel(link, message, fds[0])
    except BaseException:
        link.close()
        raise


def pool(settings: Settings, ahead: int | None = None) -> Pool:
    """A pool for one run, to be used in a ``with`` statement; its kernels end with the block.

    Parameters
    ----------
    settings : Settings
        With `kernel_pool` 'fresh', or where processes cannot be forked, every kernel is a fresh one.
    ahead : int, optional
        Kernels to keep started; default ``settings.kernels_ahead``.
    """
    return Pool(settings, ahead)
