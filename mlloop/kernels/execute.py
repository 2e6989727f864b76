"""Executes notebooks through papermill, each in a kernel of its own, forked from a process that is warm.

A person can look at that process: ``python -m mlloop.kernels status``, or ``stop``.
"""

import ast
import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlloop.core import parsing, storage
from mlloop.core import settings as _settings
from mlloop.core.errors import MlloopError, ParameterError, StageFailed
from mlloop.core.records import Parameters
from mlloop.core.settings import Settings
from mlloop.kernels import zygote
from mlloop.kernels.pool import Address, Pool, pool

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from papermill.exceptions import PapermillExecutionError

__all__ = ["CellEvent", "CellFailed", "Engine", "Execution", "Pool", "pool", "run_notebook", "running", "stop"]

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class CellEvent:
    """A code cell begins (`seconds` is None) or has ended.

    Attributes
    ----------
    index : int
        Position among all cells of the executed notebook, from 0.
    total : int
        Cells of the executed notebook.
    seconds : float or None
    """

    index: int
    total: int
    seconds: float | None = None


@dataclass(frozen=True)
class Execution:
    """A notebook that ran to its end.

    Attributes
    ----------
    seconds : float
        From the call to the executed notebook on disk.
    cells : int
        Code cells that ran.
    is_warm : bool
        Whether the kernel was forked.
    """

    seconds: float
    cells: int
    is_warm: bool


class CellFailed(StageFailed):
    """A cell raised, ran out of time, or its kernel died.

    Attributes
    ----------
    notebook : Path
        The executed notebook, whole, with the error in it.
    index : int
        Position of the cell among the cells that were executed, from 0.
    count : int or None
        The number the notebook shows for it, as in ``In [3]``.
    source : str
    ename, evalue : str
        The exception's name and text; 'TimeoutError' and 'DeadKernelError' where the cell itself raised none.
    traceback : str
        Its last lines, without colours.
    """

    def __init__(self, notebook: Path, error: "PapermillExecutionError"):
        self.notebook, self.index, self.count = notebook, error.cell_index, error.exec_count
        self.source, self.ename, self.evalue = error.source, error.ename, error.evalue
        self.traceback = _short("\n".join(error.traceback))
        cell = f"cell In [{self.count}]" if self.count else f"cell {self.index + 1}"
        first = self.evalue.strip().splitlines()
        what = f"{cell} raised {self.ename}{': ' + first[0] if first else ''}"
        super().__init__(what, str(notebook), f"Open the executed notebook: jupyter lab {notebook}")


def _short(traceback: str, lines: int = 12) -> str:
    return "\n".join(COLOURS.sub("", traceback).strip().splitlines()[-lines:])


def run_notebook(
    notebook: "NotebookNode",
    out: Path,
    *,
    cwd: Path | str,
    env: dict[str, str] | None = None,
    settings: Settings,
    parameters: Parameters | None = None,
    on_cell: Callable[[CellEvent], None] | None = None,
    pool: Pool | None = None,
    timeout_s: float | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Execution:
    """Execute a notebook in a kernel of its own and write it, executed, to `out`, whole also when it fails.

    Parameters
    ----------
    notebook : NotebookNode
        Not changed.
    cwd : Path or str
        The kernel's folder.
    env : dict, optional
        Added to this process's environment for the kernel.
    parameters : dict, optional
        Injected after the cell tagged 'parameters', which must assign each of them.
    on_cell : callable, optional
        Told when a code cell begins and ends.
    pool : Pool, optional
        Kernels of the run; without it, one for this notebook.
    timeout_s : float, optional
        Seconds after which the cell that then runs is stopped.
    pass_fds : tuple of int
        Descriptors the kernel holds, so that a lock on one lasts as long as the kernel.

    Raises
    ------
    ParameterError
        A parameter that the notebook's parameters cell does not assign.
    CellFailed
        A cell raised, was stopped or its kernel died.
    StageFailed
        The kernel did not start.
    """
    began = time.monotonic()
    _check_parameters(notebook, parameters or {})
    with nullcontext(pool) if pool else Pool(settings, ahead=0) as kernels:
        from mlloop.kernels import provisioner

        tell = on_cell or (lambda event: None)
        job = provisioner.Job(
            kernels,
            str(cwd),
            {**os.environ, **(env or {})},
            tuple(pass_fds),
            None if timeout_s is None else began + timeout_s,
            lambda index, total, seconds: tell(CellEvent(index, total, seconds)),
        )
        try:
            _papermill(notebook, parameters, job, Path(out))
        finally:
            if job.notebook is not None:
                _write(job.notebook, Path(out))
    return Execution(time.monotonic() - began, job.ran, job.is_warm)


def _papermill(notebook: "NotebookNode", parameters: Parameters | None, job: Any, out: Path) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from mlloop.kernels.provisioner import ENGINE

    try:
        papermill.execute_notebook(
            notebook,
            None,
            parameters=parameters,
            engine_name=ENGINE,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            request_save_on_cell_execute=False,
            job=job,
        )
    except PapermillExecutionError as error:
        raise CellFailed(out, error) from None
    except DeadKernelError as error:
        raise StageFailed(
            str(error), str(out), "See what the kernel pool says: python -m mlloop.kernels status"
        ) from error


def _write(notebook: "NotebookNode", out: Path) -> None:
    import nbformat

    storage.write_text(out, nbformat.writes(notebook) + "\n")


def _check_parameters(notebook: "NotebookNode", parameters: Parameters) -> None:
    cells = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    known = _assigned(cells[0]) if cells else set()
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise ParameterError(
            f"the notebook has no parameter {', '.join(map(repr, unknown))} (it has: {', '.join(sorted(known)) or 'none'})",
            next_step="Assign it in the cell tagged 'parameters', or do not pass it",
        )


def _assigned(source: str) -> set[str]:
    stored = (node for node in ast.walk(parsing.tree(source)) if isinstance(node, ast.Name))
    return {node.id for node in stored if isinstance(node.ctx, ast.Store)}


class Engine:
    """papermill's entry point to the engine, light to import: ``papermill --engine mlloop IN OUT``."""

    @staticmethod
    def execute_notebook(nb: "NotebookNode", kernel_name: str, **options: Any) -> "NotebookNode":
        from mlloop.kernels.provisioner import LoopEngine

        return LoopEngine.execute_notebook(nb, kernel_name, **options)

    @staticmethod
    def nb_kernel_name(nb: "NotebookNode", name: str | None = None) -> str:
        return name or "python3"

    @staticmethod
    def nb_language(nb: "NotebookNode", language: str | None = None) -> str:
        return language or "python"


def running(settings: Settings) -> zygote.Message:
    """What the project's zygote says of itself (pid, kernels, imports, threads); {} where none runs."""
    return Address(settings).ask("status")


def stop(settings: Settings) -> bool:
    """Tell the project's zygote to leave once its kernels have ended; False where none runs."""
    return bool(Address(settings).ask("leave"))


def main(arguments: list[str]) -> int:
    """Answer ``python -m mlloop.kernels status|stop`` for the project around the current folder."""
    if arguments not in (["status"], ["stop"]):
        print("usage: python -m mlloop.kernels status|stop", file=sys.stderr)
        return 2
    try:
        settings = _settings.load()
    except MlloopError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if arguments == ["stop"]:
        print("The kernel pool leaves." if stop(settings) else "No kernel pool runs.")
    else:
        print(json.dumps(running(settings) or {"pid": None, "log": str(Address(settings).log)}, indent=1))
    return 0
