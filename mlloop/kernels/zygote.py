"""A process that has the libraries imported and forks Jupyter kernels from itself on request.

It runs as a script and imports only the standard library and third-party packages, never this package or the
project's own code: a kernel forked from it sees a changed module as a new process would. It must be the only thread
of its process at every fork; what starts threads at import is told not to, or left out of `LIBRARIES`.

A kernel belongs to the connection that asked for it. When the client closes it, or dies, the kernel is killed; when
this process dies, the kernel dies with it.
"""

import contextlib
import ctypes
import gc
import hashlib
import importlib
import json
import os
import random
import select
import signal
import site
import socket
import sys
import sysconfig
import tempfile
import threading
import time
import warnings
import weakref
from pathlib import Path
from typing import Any, TypeAlias

# fmt: off
LIBRARIES = (
    "ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "ipykernel.debugger",
    "tornado.platform.asyncio", "tornado.queues", "IPython.core.debugger", "IPython.core.completerlib",
    "IPython.core.logger", "IPython.extensions.storemagic", "pydantic", "yaml", "ruamel.yaml", "nbformat", "numpy",
    "pandas", "pyarrow", "pyarrow.parquet", "pyarrow.dataset", "duckdb", "sqlglot", "ibis", "ibis.backends.duckdb",
    "deltalake", "sqlalchemy.dialects.sqlite", "pandera.ibis", "matplotlib.pyplot", "matplotlib.dates", "seaborn",
    "scipy.stats", "sklearn.compose", "sklearn.ensemble", "sklearn.linear_model", "sklearn.metrics",
    "sklearn.model_selection", "sklearn.neighbors", "sklearn.pipeline", "sklearn.preprocessing", "torch", "mlflow",
    "torch._dynamo", "mlflow.sklearn", "mlflow.models", "skops.io", "safetensors.torch", "lightgbm", "rapidfuzz", "httpx", "optuna",
    "statsmodels.api",
)
# fmt: on
"""What is imported before the fork, in the order of need. onnxruntime is not: it may start a thread and is quick.

torch._dynamo is what the first optimiser of a process imports: a second of work, several on a busy machine.
"""

QUIET = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "_RJEM_MALLOC_CONF": "background_thread:false",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
"""Environment of the imports: no library may start a thread. A kernel gets its client's environment."""

READ_AT_IMPORT = (
    *("PYTHON", "LD_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "TORCH", "ATEN_", "PYTORCH_"),
    *("CUDA_", "ARROW_", "JE_", "_RJEM", "MALLOC_", "GLIBC_", "MPL", "LANG", "LC_", "TZ", "HOME", "XDG_C"),
)
SET_BY_IMPORTS = ("KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "TORCHINDUCTOR_CACHE_DIR")
"""Of these, what libraries set when they are imported: it tells what the client has imported so far, and nothing else."""
TICK_S = 2.0
MESSAGE = 1 << 20
PR_SET_PDEATHSIG = 1


def fingerprint(root: Path | str, env: dict[str, str]) -> str:
    """Digest of what a zygote's imports depend on: interpreter, installed packages, lock file, this file, environment."""
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}
    lock = Path(root) / "requirements.lock"
    parts = [
        sys.executable,
        sys.version,
        hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "",
        sorted((path, Path(path).stat().st_mtime_ns) for path in places if Path(path).is_dir()),
        sorted(
            (name, value)
            for name, value in env.items()
            if name.startswith(READ_AT_IMPORT) and name not in SET_BY_IMPORTS and QUIET.get(name) != value
        ),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def runtime_folder() -> Path:
    """A new private folder (mode 0700, name not predictable) whose path leaves room for a socket's name."""
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if base and len(base) < 70 and Path(base).is_dir() and os.access(base, os.W_OK):
            return Path(tempfile.mkdtemp(prefix="mlloop-", dir=base))
    raise OSError("no folder for sockets: XDG_RUNTIME_DIR and the temporary folder are missing or their paths too long")


def remove_runtime_folder(folder: Path) -> None:
    """Remove a folder that `runtime_folder` made and its user owns; anything else is left alone."""
    try:
        owned = not folder.is_symlink() and folder.stat().st_uid == os.getuid() and folder.name.startswith("mlloop-")
        for file in list(folder.iterdir()) if owned else []:
            file.unlink(missing_ok=True)
        if owned:
            folder.rmdir()
    except OSError:
        pass


def peer_uid(connection: socket.socket) -> int:
    """User at the other end of a local connection, from the operating system."""
    return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8], sys.byteorder)


def threads() -> list[str]:
    """Names of this process's threads, the operating system's count."""
    return [Path(f"/proc/self/task/{t}/comm").read_text().strip() for t in os.listdir("/proc/self/task")]


# what a zygote and its clients tell each other, as JSON: a request to fork or to leave, an address, a status, an exit code
Message: TypeAlias = dict[str, Any]


def send(connection: socket.socket, message: Message, fds: tuple[int, ...] = ()) -> None:
    """Send one message, with file descriptors if any."""
    content = json.dumps(message).encode()
    if fds:
        socket.send_fds(connection, [content], list(fds))
    else:
        connection.send(content)


def receive(connection: socket.socket) -> tuple[Message, list[int]]:
    """Receive one message and its file descriptors; ({}, []) when the other end is gone."""
    content, fds, _, _ = socket.recv_fds(connection, MESSAGE, 16)
    for fd in fds:
        os.set_inheritable(fd, False)
    return (json.loads(content) if content else {}), list(fds)


class Zygote:
    """The process that forks kernels.

    Parameters
    ----------
    root : Path
        The project; when it is gone, so is this process.
    record : Path
        Where its address is written; when another's is there, it leaves.
    keep_s : float
        Seconds without a kernel or a client after which it leaves.
    """

    def __init__(self, root: Path, record: Path, keep_s: float):
        self.root, self.record, self.keep_s = root, record, keep_s
        self.env = dict(os.environ)
        self.key = fingerprint(root, self.env)
        self.folder = runtime_folder()
        self.poll = select.poll()
        self.clients: dict[int, socket.socket] = {}
        self.kernels: dict[int, tuple[int, int, Path]] = {}
        self.later: list[tuple[socket.socket, Message]] = []
        self.waiting = list(LIBRARIES)
        self.generators: list[random.Random] | None = None
        self.forks, self.leaving, self.busy_at = 0, False, time.monotonic()
        self.libc = ctypes.CDLL(None, use_errno=True)

    def listen(self) -> None:
        """Open the socket and write the record."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(str(self.folder / "zygote"))
        self.socket.listen(64)
        self.poll.register(self.socket.fileno(), select.POLLIN)
        content = {"pid": os.getpid(), "key": self.key, "socket": str(self.folder / "zygote")}
        beside = self.record.with_suffix(f".{os.getpid()}.part")
        beside.write_text(json.dumps(content), encoding="utf-8")
        os.replace(beside, self.record)

    def run(self) -> None:
        """Import and serve, then serve until there is a reason to leave."""
        os.environ.update(QUIET | {name: value for name, value in self.env.items() if name in ("MPLBACKEND",)})
        while self.waiting and not self.leaving:
            self.serve(0)
            self.bring_in(self.waiting.pop(0))
            self.leaving = self.leaving or self.should_leave()
        self.settle()
        looked_at = 0.0
        while not (self.leaving and not self.kernels):
            self.serve(TICK_S)
            if time.monotonic() - looked_at > TICK_S:
                self.leaving, looked_at = self.leaving or self.should_leave(), time.monotonic()

    def bring_in(self, name: str) -> None:
        """Import one library; one that is missing or fails is left to the kernels."""
        began = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)
        except Exception as error:
            print(f"{name}: not imported: {error!r}", flush=True)
        running = still()
        extra = f", threads: {running}" if len(running) > 1 else ""
        print(f"{name}: {time.monotonic() - began:.2f} s{extra}", flush=True)

    def settle(self) -> None:
        """After the imports: find the random generators, keep pages shared, start the kernels asked for ahead."""
        gc.collect()
        self.generators = generators()
        gc.freeze()
        later, self.later = self.later, []
        for connection, request in later:
            self.fork(connection, request)

    def should_leave(self) -> bool:
        """Whether the project, the record, or what the imports depend on changed, or nobody came for long."""
        if self.kernels or len(self.clients) > 0:
            self.busy_at = time.monotonic()
        try:
            mine = json.loads(self.record.read_text(encoding="utf-8")).get("pid") == os.getpid()
            return (
                not mine
                or time.monotonic() - self.busy_at > self.keep_s
                or fingerprint(self.root, self.env) != self.key
            )
        except (OSError, ValueError):
            return True

    def serve(self, timeout_s: float) -> None:
        """Answer what has arrived; wait at most `timeout_s` for something."""
        for fd, event in self.poll.poll(timeout_s * 1000):
            if fd == self.socket.fileno():
                self.accept()
            elif fd in self.kernels:
                self.reap(fd)
            elif fd in self.clients:
                self.hear(self.clients[fd], event)

    def accept(self) -> None:
        connection, _ = self.socket.accept()
        if peer_uid(connection) != os.getuid():
            connection.close()
            return
        self.clients[connection.fileno()] = connection
        self.poll.register(connection.fileno(), select.POLLIN)

    def hear(self, connection: socket.socket, event: int) -> None:
        """One message of a client, or its end."""
        try:
            request, fds = receive(connection) if event & select.POLLIN else ({}, [])
        except (OSError, ValueError):
            request, fds = {}, []
        for fd in fds:
            os.close(fd)
        self.busy_at = time.monotonic()
        if request.get("do") == "kernel":
            if request.get("ahead") and self.waiting:
                self.later.append((connection, request))
                self.poll.modify(connection.fileno(), 0)
            else:
                self.fork(connection, request)
        elif request:
            self.leaving = self.leaving or request.get("do") == "leave"
            self.tell(connection, self.status())
        else:
            self.forget(connection)

    def status(self) -> Message:
        return {
            "pid": os.getpid(),
            "kernels": [pid for pid, _, _ in self.kernels.values()],
            "imported": len(LIBRARIES) - len(self.waiting),
            "libraries": len(LIBRARIES),
            "threads": threads(),
            "leaving": self.leaving,
        }

    def tell(self, connection: socket.socket, message: Message) -> None:
        try:
            send(connection, message)
        except OSError:
            self.forget(connection)

    def forget(self, connection: socket.socket) -> None:
        """A client is gone: kill its kernel."""
        fd = connection.fileno()
        self.later = [(asker, request) for asker, request in self.later if asker is not connection]
        for pid, client, _ in self.kernels.values():
            if client == fd:
                kill(pid)
        if self.clients.pop(fd, None):
            self.poll.unregister(fd)
            connection.close()

    def fork(self, connection: socket.socket, request: Message) -> None:
        """Fork a kernel that owns the other use of `connection`; here it is only watched for its end."""
        if len(threads()) > 1:
            return self.tell(connection, {"error": f"a library started threads: {', '.join(threads()[1:])}"})
        self.forks += 1
        base = self.folder / f"k{self.forks}"
        try:
            pid = os.fork()
        except OSError as error:
            return self.tell(connection, {"error": f"fork: {error.strerror}"})
        if pid == 0:
            self.become_kernel(connection, request, base)
        self.poll.modify(connection.fileno(), select.POLLHUP)
        pidfd = os.pidfd_open(pid)
        self.kernels[pidfd] = (pid, connection.fileno(), base)
        self.poll.register(pidfd, select.POLLIN)

    def reap(self, pidfd: int) -> None:
        """A kernel is gone: kill what it left running, tell its client how it ended."""
        pid, client, base = self.kernels.pop(pidfd)
        kill(pid)
        _, status = os.waitpid(pid, 0)
        self.poll.unregister(pidfd)
        os.close(pidfd)
        for file in base.parent.glob(f"{base.name}[-.]*"):
            file.unlink(missing_ok=True)
        if client in self.clients:
            self.tell(self.clients[client], {"exit": os.waitstatus_to_exitcode(status)})
        if client in self.clients:
            self.forget(self.clients[client])

    def leave(self) -> None:
        for pid, _, _ in self.kernels.values():
            kill(pid)
        remove_runtime_folder(self.folder)
        try:
            if json.loads(self.record.read_text(encoding="utf-8")).get("pid") == os.getpid():
                self.record.unlink()
        except (OSError, ValueError):
            pass

    # ------------------------------------------------------------------------------------------ in the child

    def become_kernel(self, connection: socket.socket, request: Message, base: Path) -> None:
        """Never returns: the rest of a kernel's life."""
        code = 1
        try:
            self.cut_loose(connection)
            os.environ.clear()
            os.environ.update(request["env"])
            app = kernel_app(base, request["cwd"])
            added = {k: v for k, v in os.environ.items() if request["env"].get(k) != v}
            pidfd = os.pidfd_open(os.getpid())
            info = json.loads(base.with_suffix(".json").read_text(encoding="utf-8"))
            send(connection, {"pid": os.getpid(), "connection": info}, (pidfd,))
            os.close(pidfd)
            threading.Thread(target=await_client, args=(connection, added), name="mlloop-client", daemon=True).start()
            app.start()
            code = 0
        except BaseException as error:
            print(f"kernel {os.getpid()}: {error!r}", file=sys.__stderr__, flush=True)
        finally:
            end(code)

    def cut_loose(self, connection: socket.socket) -> None:
        """Let go of everything that is the zygote's: descriptors, signal handlers, session, random state.

        What the imports want finalized at exit is the zygote's too: a kernel neither removes it nor waits for it.
        """
        parent = os.getppid()
        os.setsid()
        self.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        self.socket.close()
        for fd in self.kernels:
            os.close(fd)
        for other in self.clients.values():
            if other is not connection:
                other.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
            finalizer.atexit = False
        for generator in generators() if self.generators is None else self.generators:
            generator.seed()
        reseed()
        use_all_cores(self.env)


def still() -> list[str]:
    """End the threads that can be ended, the workers of DuckDB's default database; names of those that run on."""
    running = threads()
    if len(running) > 1 and "duckdb" in sys.modules:
        sys.modules["duckdb"].default_connection().close()
        running = threads()
    return running


def kill(pid: int) -> None:
    """Kill a kernel and what it started; the kernel itself even where it is not yet the leader of its group."""
    for send_signal in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send_signal(pid, signal.SIGKILL)


def generators() -> list[random.Random]:
    """The random generators that libraries keep for themselves."""
    return [item for item in gc.get_objects() if type(item) is random.Random]


def reseed() -> None:
    """Give a kernel random states of its own where a library keeps a global one."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()


def use_all_cores(env: dict[str, str]) -> None:
    """Undo the single BLAS thread of the imports."""
    if "numpy" not in sys.modules:
        return
    from threadpoolctl import ThreadpoolController

    limit = env.get("OPENBLAS_NUM_THREADS") or env.get("OMP_NUM_THREADS") or ""
    count = int(limit) if limit.isdecimal() and int(limit) else len(os.sched_getaffinity(0))
    for library in ThreadpoolController().lib_controllers:
        if library.internal_api == "openblas":
            library.set_num_threads(count)


def kernel_app(base: Path, cwd: str) -> Any:
    """An initialised kernel application that listens on local sockets beside `base`."""
    from ipykernel.kernelapp import IPKernelApp
    from jupyter_client.connect import write_connection_file

    settle_in(cwd)
    file = str(base.with_suffix(".json"))
    write_connection_file(file, transport="ipc", ip=str(base), key=os.urandom(32).hex().encode())
    sys.argv = ["ipykernel_launcher", "-f", file]
    app = IPKernelApp.instance(parent_handle=1)
    app.initialize(["-f", file, "--HistoryManager.hist_file=:memory:"])
    return app


def settle_in(cwd: str) -> None:
    """Make `cwd` the working folder and forget modules of the same name as one of its own."""
    os.chdir(cwd)
    importlib.invalidate_caches()
    own = {p.stem for p in Path(cwd).iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]


def await_client(connection: socket.socket, added: dict[str, str]) -> None:
    """In a kernel's thread: take over the client's environment, folder and descriptors; die with the client."""
    while True:
        try:
            message, _held = receive(connection)
        except OSError:
            message = {}
        if not message:
            os.killpg(0, signal.SIGKILL)
        try:
            os.environ.clear()
            os.environ.update(message["env"] | added)
            if hasattr(time, "tzset"):
                time.tzset()
            settle_in(message["cwd"])
            send(connection, {"ready": True})
        except OSError as error:
            send(connection, {"error": f"{message['cwd']}: {error.strerror}"})


def end(code: int) -> None:
    """End a kernel as an interpreter ends, without taking the libraries apart."""
    import atexit

    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        os._exit(code)


def main(root: str, record: str, keep_minutes: str) -> None:
    """Detach from the client that started it and serve."""
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    zygote = Zygote(Path(root), Path(record), float(keep_minutes) * 60)
    try:
        zygote.listen()
        zygote.run()
    finally:
        zygote.leave()
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[2:])
