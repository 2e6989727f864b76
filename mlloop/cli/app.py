"""The command line: a layer over `mlloop.project`, a file for each group of commands.

Only what every command needs is imported before a command runs, so that `--help` comes at once.
"""

import errno
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import typer

from mlloop.cli import deciding, exporting, files, looping, notebooks, output, production, running
from mlloop.core.errors import MlloopError

IN_THE_WAY = (errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
STOPPED_BY: list[int] = []  # the signals that stopped this process

app = typer.Typer(
    help="From a question to a model that stays right in production: a loop of literate notebooks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Exit codes: 0 done, 1 failed, 2 bad usage or input, 3 a gate said No, 4 monitoring raised an alert, 5 another run holds the problem.",
)
for group in (running, deciding, production, looping, files, exporting, notebooks):
    app.add_typer(group.app)


def main() -> None:
    """Entry point: a user's mistake is told in a line, a fault of ours with its log's path."""
    output.note_warnings()
    _stop_in_words()
    try:
        code = app(standalone_mode=False)
        if code == 130:  # how typer tells of an interrupt
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except KeyboardInterrupt:
        _end_interrupted()
    except Exception as error:
        if STOPPED_BY:  # a library that is stopped while it loads may answer by an error of its own
            _end_interrupted()
        sys.exit(_complain(error))


def _end_interrupted() -> None:
    typer.secho(_interrupted(), err=True)
    sys.exit(128 + (STOPPED_BY or [signal.SIGINT])[0])


def _complain(error: Exception) -> int:
    """Print what an error says; the exit code."""
    if isinstance(error, ModuleNotFoundError):
        from mlloop.core import extras

        error = extras.lacking(error, sys.argv[1] if sys.argv[1:] else "") or error
    if isinstance(error, MlloopError):
        output.complain(error)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        error.show()
        return error.exit_code
    return 1 if _is_no_room(error) else _fault(error)


def _stop_in_words() -> None:
    """Let Ctrl-C, a scheduler's SIGTERM and a closed terminal stop a command alike: with words, and nothing left behind."""

    def stop(number: int, frame: FrameType | None) -> None:
        STOPPED_BY.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # nohup has it ignored
            signal.signal(number, stop)


def _interrupted() -> str:
    """What a stopped command had decided by then, so that nobody decides it twice."""
    from mlloop.store.chain import RECORDED

    later = "finished stages are kept and the next mlloop run continues from there"
    if not RECORDED:
        return f"interrupted; nothing was decided, {later}"
    return f"interrupted; recorded in the ledger before that, and in effect:\n{output.recorded(RECORDED)}\nDo not decide it again; {later}"


def _is_no_room(error: Exception) -> bool:
    """Whether the machine refused to write, or a file stands where a folder belongs, or a folder where a file; then it is told."""
    from mlloop.core.storage import NO_ROOM

    if not isinstance(error, OSError) or error.errno not in (*NO_ROOM, *IN_THE_WAY):
        return False
    is_in_the_way = error.errno in IN_THE_WAY
    step = "Move it away, then: mlloop check" if is_in_the_way else "Make room or give permission, then run it again"
    what = "cannot be used" if is_in_the_way else "cannot be written"
    output.complain(MlloopError(f"{what}: {error.strerror}", str(error.filename or Path.cwd()), step))
    return True


def _fault(error: Exception) -> int:
    import tempfile
    import traceback

    state = Path(".mlloop")
    folder = state if state.is_dir() and os.access(state, os.W_OK) else Path(tempfile.mkdtemp(prefix="mlloop-"))
    path = folder / f"fault-{time.strftime('%Y%m%dT%H%M%S')}.txt"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    typer.secho(
        f"a fault of mlloop itself: {type(error).__name__}: {error}\nDetails, for a report: {path}",
        fg=typer.colors.RED,
        err=True,
    )
    return 1
