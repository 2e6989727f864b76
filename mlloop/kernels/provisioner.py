"""Warm kernels as jupyter_client and papermill know them: a kernel provisioner and an engine.

What is slow in the ordinary way is left out: waiting for silence before the first cell, writing the notebook twice a
cell, looking for the end of a kernel every tenth of a second.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import KernelProvisionerBase, KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_core.utils import run_sync
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from mlloop.core import reads
from mlloop.core import settings as _settings
from mlloop.kernels.pool import START_S, Kernel, Pool, Unavailable

WARM, FRESH, ENGINE = "mlloop-warm", "mlloop-fresh", "mlloop"
NO_HISTORY = "--HistoryManager.hist_file=:memory:"

_shared: dict[Path, Pool] = {}
_shared_mutex = threading.Lock()


class WarmProvisioner(KernelProvisionerBase):
    """Leases a kernel from the project's pool, so that jupyter_client starts, interrupts and ends it as its own."""

    kernel: Kernel | None = None

    @property
    def has_process(self) -> bool:
        return self.kernel is not None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        return await super().pre_launch(cmd=[], **kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        cwd = kwargs.get("cwd") or str(Path.cwd())
        env = kernel_env(kwargs["env"])
        leased = getattr(self.parent, "leased", None)
        self.kernel = leased or shared_pool(cwd).lease(env, cwd, tuple(kwargs.get("pass_fds", ())))
        self.connection_info = {**self.kernel.connection, "key": self.kernel.connection["key"].encode()}  # type: ignore
        return self.connection_info

    async def poll(self) -> int | None:
        return self.kernel.exit_code() if self.kernel else 0

    async def wait(self) -> int | None:
        while self.kernel and self.kernel.is_alive():
            await asyncio.sleep(0.01)
        code = self.kernel.exit_code() if self.kernel else 0
        await self.cleanup()
        return code

    async def send_signal(self, signum: int) -> None:
        if self.kernel:
            self.kernel.send_signal(signum)

    async def kill(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGTERM)

    async def shutdown_requested(self, restart: bool = False) -> None:
        until = time.monotonic() + 2
        while self.kernel and self.kernel.is_alive() and time.monotonic() < until:
            await asyncio.sleep(0.003)

    async def cleanup(self, restart: bool = False) -> None:
        if self.kernel:
            self.kernel.close()
            self.kernel = None


def kernel_env(env: dict[str, str]) -> dict[str, str]:
    """`env` with what jupyter_client's launcher adds."""
    return {**env, "JPY_PARENT_PID": str(os.getpid())}


def shared_pool(folder: Path | str) -> Pool:
    """This process's pool for the project around `folder`, for kernels that no run asked for."""
    settings = _settings.load(folder)
    with _shared_mutex:
        known = _shared.get(settings.root)
        if known is None:
            known = _shared[settings.root] = Pool(settings, ahead=0)
        return known


class FreshProvisioner(LocalProvisioner):
    """A new process for each kernel, whose end is noticed at once."""

    async def shutdown_requested(self, restart: bool = False) -> None:
        until = time.monotonic() + 5
        while await self.poll() is None and time.monotonic() < until:
            await asyncio.sleep(0.003)


for _name, _class in ((WARM, WarmProvisioner), (FRESH, FreshProvisioner)):
    KernelProvisionerFactory.instance().provisioners[_name] = EntryPoint(
        _name, f"{__name__}:{_class.__name__}", KernelProvisionerFactory.GROUP_NAME
    )


class LoopKernelManager(AsyncKernelManager):
    """Manages one kernel of this interpreter, over local sockets; the machine's kernelspecs have no say.

    Parameters
    ----------
    address : Path
        What the names of its sockets begin with.
    leased : Kernel, optional
        The warm kernel to manage; without one, a new process is started.
    """

    def __init__(self, address: Path, leased: Kernel | None = None):
        super().__init__(
            kernel_name="python3", transport="ipc", ip=str(address), connection_file=f"{address}-client.json"
        )
        self.leased, self.shutdown_wait_time = leased, 4.0
        self._kernel_spec = KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            metadata={"kernel_provisioner": {"provisioner_name": WARM if leased else FRESH, "config": {}}},
        )


@dataclass
class Job:
    """One execution: what it is given, and how far it came.

    Attributes
    ----------
    pool : Pool
    cwd : str
    env : dict
        The kernel's whole environment.
    fds : tuple of int
        Descriptors the kernel holds while it lives.
    until : float or None
        Time (monotonic) at which the notebook is stopped.
    on_cell : callable
        Called with a code cell's index, the number of cells, and None before, seconds after it.
    notebook : NotebookNode or None
        As executed so far.
    cell : int
        Index of the code cell that runs or ran last; -1 before the first.
    cell_began : float
    ran : int
        Code cells that ran.
    is_warm : bool
    """

    pool: Pool
    cwd: str
    env: dict[str, str]
    fds: tuple[int, ...] = ()
    until: float | None = None
    on_cell: Callable[[int, int, float | None], None] = lambda index, total, seconds: None
    notebook: NotebookNode | None = None
    cell: int = -1
    cell_began: float = 0.0
    ran: int = 0
    is_warm: bool = False


class LoopClient(PapermillNotebookClient):
    """Executes the cells of one job in a kernel of its pool."""

    def __init__(self, nb_man: Any, job: Job):
        super().__init__(
            nb_man,
            kernel_name="python3",
            timeout_func=self._seconds_left,
            on_cell_execute=self._before,
            on_cell_executed=self._after,
            extra_arguments=[NO_HISTORY],
            log=quiet_log(),
        )
        self.job = job

    def _seconds_left(self, cell: NotebookNode) -> float | None:
        return None if self.job.until is None else max(0.01, self.job.until - time.monotonic())

    def _before(self, cell: NotebookNode, cell_index: int) -> None:
        self.job.cell, self.job.cell_began = cell_index, time.monotonic()
        self.job.on_cell(cell_index, len(self.nb.cells), None)

    def _after(self, cell: NotebookNode, cell_index: int, execute_reply: Any) -> None:
        self.job.ran += 1
        self.job.on_cell(cell_index, len(self.nb.cells), time.monotonic() - self.job.cell_began)

    def execute(self, **kwargs: Any) -> NotebookNode:
        """Execute all cells; the kernel ends politely after them, at once where something else failed."""
        self.reset_execution_trackers()
        try:
            self.start_kernel()
            self.connect()
            if reads.VARIABLE in self.job.env:  # before the first cell, so that nothing is read unseen
                self.kc.execute("import mlloop.core.reads", silent=True)
            self.kc.execute("__import__('mlloop.kernels.frames', fromlist=['_']).show_whole()", silent=True)
            self.papermill_execute_cells()
            info = self.wait_for_reply(self.kc.kernel_info())
            self.nb.metadata["language_info"] = info["content"]["language_info"]
            self.set_widgets_metadata()
        except BaseException:
            self.shutdown_kernel = "immediate"
            raise
        finally:
            if self.km is not None:
                self._cleanup_kernel()
        return self.nb

    def start_kernel(self) -> None:
        """A warm kernel, or a fresh one where none can be had."""
        job = self.job
        try:
            leased = job.pool.lease(kernel_env(job.env), job.cwd, job.fds)
            self.km = LoopKernelManager(Path(leased.connection["ip"]), leased)
            job.is_warm = True
        except Unavailable:
            self.km = LoopKernelManager(job.pool.folder / os.urandom(5).hex())
        self.km.log = self.log
        self.start_new_kernel(cwd=job.cwd, env=job.env, pass_fds=job.fds)
        if (process := getattr(self.km.provisioner, "process", None)) is not None and not job.is_warm:
            job.pool.note_fresh(process)

    async def _connect(self) -> None:
        assert self.km is not None
        self.kc = client = self.km.client()
        client.start_channels(hb=False, stdin=False)
        client.allow_stdin = False
        until = time.monotonic() + 4 * START_S
        while True:
            client.kernel_info()
            with suppress(Empty):
                await client.iopub_channel.get_msg(timeout=1)
                return
            if not await self.km.is_alive() or time.monotonic() > until:
                raise DeadKernelError("the kernel died, or did not answer, before its first cell")

    connect = run_sync(_connect)
    """Connect; the first message on the output channel proves that later ones will arrive."""


def quiet_log() -> logging.Logger:
    """A log for what jupyter_client and nbclient say and then raise as well."""
    log = logging.getLogger("mlloop.kernels.provisioner")
    log.setLevel(logging.CRITICAL)
    return log


class LoopEngine(NBClientEngine):
    """papermill's engine 'mlloop': cells run in a kernel of the project's pool."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, job: Job | None = None, **kwargs: Any) -> None:
        job = job or Job(shared_pool(Path.cwd()), str(Path.cwd()), dict(os.environ))
        job.notebook = nb_man.nb
        try:
            LoopClient(nb_man, job).execute()
        except (CellTimeoutError, DeadKernelError) as error:
            if job.cell < 0:
                raise
            note_end(nb_man, job, error)


def note_end(nb_man: Any, job: Job, error: Exception) -> None:
    """Write into the cell that ran why it did not end by itself; papermill then treats it as a failed cell."""
    cell = nb_man.nb.cells[job.cell]
    if isinstance(error, CellTimeoutError):
        name, text = (
            "TimeoutError",
            f"stopped after {time.monotonic() - job.cell_began:.0f} s, the notebook's time is over",
        )
    else:
        name, text = "DeadKernelError", "the kernel died in this cell (killed, crashed, or out of memory)"
    cell.outputs.append(new_output("error", ename=name, evalue=text, traceback=[f"{name}: {text}"]))
    nb_man.cell_exception(cell, cell_index=job.cell)


papermill_engines.register(ENGINE, LoopEngine)
