"""`%load_ext mlloop`: a stage's true inputs in a notebook, the command line without leaving it, and rich displays.

%load_ext mlloop
%mlloop inputs training          upstream, product and parameters of the last run, into this notebook
%mlloop run --until features     any command of the command line
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlloop.core.errors import MlloopError, UsageError
from mlloop.core.records import Parameters
from mlloop.lab import displays

PROCESSES = ("serving", "monitoring", "retraining")
HELP = """%mlloop inputs [STAGE] [--problem NAME]   a stage's true inputs into this notebook; default: this notebook's stage
%mlloop COMMAND ...                       a command of the command line, for example: %mlloop run --until features"""


def register(shell: Any) -> None:
    """Add %mlloop and the displays to an IPython shell; loading again changes nothing."""
    inputs = Inputs(shell)
    shell.register_magic_function(lambda line: mlloop(shell, inputs, line), magic_name="mlloop")
    if not getattr(shell, "_mlloop_loaded", False):
        shell._mlloop_loaded = True
    else:
        shell.events.unregister("post_run_cell", shell._mlloop_inputs.again)
    shell._mlloop_inputs = inputs
    shell.events.register("post_run_cell", inputs.again)
    displays.register(shell.display_formatter.formatters["text/html"])


def mlloop(shell: Any, inputs: "Inputs", line: str) -> None:
    """Run one line of %mlloop; a mistake is told in its own words, without a traceback."""
    words = _words(line)
    if not words or words[0] in ("help", "--help"):
        print(HELP)
        return
    try:
        if words[0] == "inputs":
            inputs.fill(*_inputs_options(words[1:]))
        else:
            _command(words)
    except MlloopError as error:
        raise _shown_by_ipython(error) from None


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise _shown_by_ipython(
            UsageError(f"{line!r} cannot be read: {error}", "%mlloop", "See: %mlloop help")
        ) from None


def _shown_by_ipython(error: Exception) -> Exception:
    from IPython.core.error import UsageError as IPythonError

    return IPythonError(str(error))


def _inputs_options(words: list[str]) -> tuple[str, str | None]:
    stage, problem, left = "", None, list(words)
    while left:
        word = left.pop(0)
        if word in ("--problem", "-p") and left:
            problem = left.pop(0)
        elif word.startswith("-") or stage:
            raise UsageError(
                f"inputs does not know {word!r}", "%mlloop", "Example: %mlloop inputs training --problem shop"
            )
        else:
            stage = word
    return stage or _this_stage(), problem


def _this_stage() -> str:
    """The stage of the notebook that this kernel belongs to, by its file's name."""
    name = Path(os.environ.get("JPY_SESSION_NAME", "")).stem.partition("_")[2]
    if not name:
        raise UsageError("does not know which stage this is", "%mlloop inputs", "Name it: %mlloop inputs training")
    return name


class Inputs:
    """What a stage's parameters cell would be given by a run, kept in the user's namespace.

    A parameters cell that is run afterwards sets its defaults; the true values are put back after it, so it does not
    matter which comes first.
    """

    def __init__(self, shell: Any):
        self._shell = shell
        self._inputs: Parameters = {}

    def fill(self, stage: str, problem: str | None = None) -> Parameters:
        """Put the parameters of `stage` into the namespace and show them.

        Raises
        ------
        UsageError
            No such stage, or something it reads was not made yet.
        """
        from mlloop.lab import jupyterlab
        from mlloop.pipeline import runner

        settings, plan = runner.project(problem)
        if stage in PROCESSES and stage not in plan.tasks:
            return self._put(settings, stage, plan, jupyterlab.turn_inputs(settings, plan, stage))
        task = plan.task(stage)
        missing = [
            name for name in task.upstream if not all(path.exists() for path in plan.tasks[name].products.values())
        ]
        if missing:
            raise UsageError(
                f"{stage} reads {', '.join(missing)}, which {'has' if len(missing) == 1 else 'have'} not run",
                plan.problem,
                f"Run it: %mlloop run --problem {plan.problem} --until {missing[-1]}",
            )
        return self._put(settings, stage, plan, jupyterlab.inputs(settings, plan, task))

    def _put(self, settings: Any, stage: str, plan: Any, inputs: Parameters) -> Parameters:
        from mlloop import problem as problems
        from mlloop.pipeline import runner

        self._inputs = inputs
        Path(next(iter(inputs["product"].values()))).parent.mkdir(parents=True, exist_ok=True)
        self._shell.user_ns |= inputs
        os.chdir(settings.root)  # where a run works: a product may name a file from there
        statement = problems.load(runner.statement_file(settings, plan))
        of = f"{statement.name}, revision {statement.revision}"
        self._show(f"{stage} of {of}: what a run would give it; its product goes to a place for trying.")
        return inputs

    def again(self, result: Any) -> None:
        """After a parameters cell: put the true values back."""
        source = getattr(getattr(result, "info", None), "raw_cell", "") or ""
        if self._inputs and "upstream = None" in source and "product = None" in source:
            self._shell.user_ns |= self._inputs
            self._show("The true inputs were put back over this cell's defaults.")

    def _show(self, heading: str) -> None:
        from IPython.display import HTML, display

        display(HTML(displays.facts(heading, self._inputs)))


def _command(words: list[str]) -> None:
    """Run the command line in the project's folder and show what it says as it says it."""
    from mlloop.core import settings

    process = subprocess.Popen(
        [sys.executable, "-m", "mlloop", *words],
        cwd=settings.load().root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "COLUMNS": os.environ.get("COLUMNS", "120")},
    )
    assert process.stdout is not None
    last = ""
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    except KeyboardInterrupt:
        process.terminate()
        raise
    finally:
        code = process.wait()
    if code:
        raise UsageError(
            f"ended with exit code {code}: {last}", f"mlloop {words[0]}", f"See its options: %mlloop {words[0]} --help"
        )
