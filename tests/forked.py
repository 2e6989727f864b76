"""`python -m mlloop` as a process of its own, forked from one that has the libraries imported: their import is paid once.

A test that starts the command line is about what it does, not about how long Python takes to load pandas. `Popen` and
`run` are those of `subprocess` for commands that start this interpreter with `-m` or `-c`: the process has its own
pid, folder, environment, descriptors and signals, and reads a project's own modules anew. Tests of the start itself,
of what is imported and of memory use `subprocess`.
"""

import atexit
import contextlib
import importlib
import io
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import matplotlib

from mlloop.core import reads
from mlloop.kernels import zygote

MESSAGE = 1 << 20
OURS = (
    "mlloop.cli.app", "mlloop.project", "mlloop.pipeline.runner", "mlloop.pipeline.replay", "mlloop.pages.report",
    "mlloop.pages.problem_view", "mlloop.loop.history", "mlloop.monitoring", "mlloop.deployment", "mlloop.serving",
    "mlloop.evaluation", "mlloop.exploration", "mlloop.training", "mlloop.need_gate", "mlloop.collection",
    "mlloop.ingestion", "mlloop.transformation", "mlloop.features", "mlloop.store.ledger", "mlloop.store.lake",
    "mlloop.store.tracking", "mlloop.models.candidates", "mlloop.models.onnx_export", "mlloop.release.preparation",
    "mlloop.kernels.execute", "mlloop.kernels.pool", "mlloop.kernels.provisioner", "jupyter_client.manager", "papermill",
    "nbconvert", "bs4", "uvicorn", "fastapi", "prometheus_client", "uvloop", "httptools",
)  # fmt: skip


class Popen(subprocess.Popen):
    """A process like that of `subprocess`; its command is `[sys.executable, "-m" or "-c", ...]`."""

    def _execute_child(  # type: ignore[override]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid, umask,
        start_new_session, process_group,
    ):  # fmt: skip
        assert args[0] == sys.executable and args[1] in ("-m", "-c") and not (shell or preexec_fn), args
        request = {
            "words": [str(word) for word in args[1:]],
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "session": start_new_session,
        }
        fds = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        fds += pass_fds  # held, under numbers of their own
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link.connect(_address())
        socket.send_fds(self._link, [json.dumps(request).encode()], fds)
        self.pid = json.loads(self._link.recv(MESSAGE))["pid"]
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _try_wait(self, wait_flags):
        ended = select.select([self._link], [], [], 0 if wait_flags & os.WNOHANG else None)[0]
        return (self.pid, json.loads(self._link.recv(MESSAGE))["status"]) if ended else (0, 0)

    def _internal_poll(self, _deadstate=None):
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG) if self.returncode is None else (0, 0)
                if pid:
                    self._handle_exitstatus(status)
            except (OSError, ValueError):  # the server is gone
                self.returncode = _deadstate
            finally:
                self._waitpid_lock.release()
        return self.returncode


def run(
    words, *, capture_output: bool = False, timeout: float | None = None, check: bool = False, **options: Any
) -> subprocess.CompletedProcess:
    """Run a command to its end, as `subprocess.run` does."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(words, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(words, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def start_kernels() -> None:
    """Let this process start its fresh kernels in the same way."""
    from jupyter_client import launcher

    launcher.Popen = Popen  # type: ignore[attr-defined, misc]


_started: list[Any] = []  # its address, its process, and the end of the pipe that keeps it


def _address() -> str:
    """Where the server of this process listens; it is started with the first command."""
    if not _started:
        folder = Path(tempfile.mkdtemp(prefix="mlloop-forked-"))
        reading, writing = os.pipe()  # the server leaves when this end of the pipe closes with this process
        environment = {**os.environ, **zygote.QUIET}
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [sys.executable, __file__, str(folder / "socket")], stdin=reading, stdout=subprocess.PIPE, stderr=log,
                env=environment, start_new_session=True,
            )  # fmt: skip
        os.close(reading)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n", (folder / "log").read_text()
        _started.extend([str(folder / "socket"), server, writing])
    return _started[0]


# ---------------------------------------------------------------------------------------------- in the server


class Server:
    """Forks a process for each connection and tells its end there."""

    def __init__(self, address: str):
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.address = address
        self.listener.bind(address)
        self.listener.listen(64)
        self.children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
        self.kernels: dict[socket.socket, int] = {}  # pidfd by link: a kernel ends with who started it
        self.generators = zygote.generators()

    def serve(self) -> None:
        """Until the standard input ends."""
        while True:
            ready = select.select([0, self.listener, *self.children, *self.kernels], [], [])[0]
            if 0 in ready:
                return
            for one in ready:
                if one is self.listener:
                    self.fork()
                elif isinstance(one, int):
                    self.reap(one)
                elif one in self.kernels:
                    signal.pidfd_send_signal(self.kernels.pop(one), signal.SIGKILL)

    def fork(self) -> None:
        link, _ = self.listener.accept()
        content, fds, _, _ = socket.recv_fds(link, MESSAGE, 16)
        request = json.loads(content)
        threads = zygote.threads()
        assert len(threads) == 1, threads
        pid = os.fork()
        if pid == 0:
            self.become(request, link, fds)
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        while request["session"] and os.getsid(pid) != pid:
            time.sleep(0.0005)  # who is told the pid may signal the group
        self.children[pidfd] = (pid, link)
        if request["words"][1] == "ipykernel_launcher":
            self.kernels[link] = pidfd
        link.send(json.dumps({"pid": pid}).encode())

    def reap(self, pidfd: int) -> None:
        pid, link = self.children.pop(pidfd)
        self.kernels.pop(link, None)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
        with contextlib.suppress(OSError), link:
            link.send(json.dumps({"status": status}).encode())

    def become(self, request: dict[str, Any], link: socket.socket, fds: list[int]) -> None:
        """Never returns: the command, in the process that was forked for it."""
        code = 1
        try:
            if request["session"]:
                os.setsid()
            for number, fd in enumerate(fds[:3]):
                os.dup2(fd, number)
                os.close(fd)
            for one in (self.listener, link, *(link for _, link in self.children.values())):
                one.close()
            for fd in self.children:
                os.close(fd)
            _started[:] = [self.address]
            start_kernels()
            self.settle_in(request["cwd"], request["env"])
            if request["words"][1] == "ipykernel_launcher":  # it has a parent, and reads which when it is imported
                request["words"].append("--IPKernelApp.parent_handle=1")
            else:
                matplotlib.use(os.environ.get("MPLBACKEND", "agg"))
            code = command(request["words"])
        finally:
            finish(code)

    def settle_in(self, cwd: str, env: dict[str, str]) -> None:
        """Signals, streams, environment, folder and random numbers as a new process has them."""
        for number, handler in {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}.items():
            signal.signal(number, handler)
        for name, number in (("stdout", 1), ("stderr", 2)):
            content = open(number, "wb", closefd=False)  # noqa: SIM115
            errors = "backslashreplace" if number == 2 else None
            stream = io.TextIOWrapper(content, "utf-8", errors, line_buffering=number == 2 or os.isatty(number))
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        sys.stdin = sys.__stdin__ = io.TextIOWrapper(open(0, "rb", closefd=False), "utf-8")  # noqa: SIM115
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        first = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.path[:] = [cwd, *first, *(path for path in sys.path if path not in first)]
        importlib.invalidate_caches()
        for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
            finalizer.atexit = False
        for generator in self.generators:
            generator.seed()
        if reads.VARIABLE in env:
            importlib.reload(reads)  # it begins to listen when it is imported
        zygote.reseed()
        zygote.use_all_cores(env)


def command(words: list[str]) -> int:
    """What `python` does with these words; its exit code."""
    try:
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            main = type(sys)("__main__")
            sys.modules["__main__"] = main
            exec(compile(words[1], "<string>", "exec"), main.__dict__)
        else:
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1


def finish(code: int) -> None:
    """End as an interpreter ends, without taking the libraries apart."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(code)


def main(address: str) -> None:
    """Import, listen, fork."""
    import gc
    import warnings

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    announce = os.dup(1)
    os.dup2(2, 1)
    sys.path.pop(0)  # this folder, which is in PYTHONPATH where a test needs it
    for name in (*zygote.LIBRARIES, *OURS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                importlib.import_module(name)
            except ImportError as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
    from mlloop.pages import report

    for template in report._environment().list_templates(extensions=["html"]):
        report._environment().get_template(template)
    running = zygote.still()
    assert len(running) == 1, running
    server = Server(address)
    gc.collect()
    gc.freeze()
    os.write(announce, b"ready\n")
    os.close(announce)
    try:
        server.serve()
    finally:
        shutil.rmtree(Path(address).parent, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
