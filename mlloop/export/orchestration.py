"""What exports for schedulers share: how often a turn is tried, how mlloop is called, the stages and the tables."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlloop.core import parsing
from mlloop.core.errors import UsageError
from mlloop.export.exporters import Request


@dataclass(frozen=True)
class Options:
    """What can be chosen.

    Attributes
    ----------
    schedule : str
        Of the turns: '@daily', or a cron expression. A turn that is not due is skipped.
    command : str
        How mlloop is called where the tasks run; a path is relative to the project.
    """

    schedule: str = "@daily"
    command: str = "mlloop"

    def __post_init__(self) -> None:
        scheduler = type(self).__module__.rpartition(".")[2]
        if not re.fullmatch(r"@[a-z]+|(\S+ ){4}\S+", self.schedule):
            example = f"Example: mlloop export {scheduler} --schedule '0 6 * * 1'"
            raise UsageError(f"{self.schedule!r} is not a schedule", "--schedule", example)
        if not re.fullmatch(r"[\w./~-]+", self.command):
            example = f"Example: mlloop export {scheduler} --command mlloop"
            raise UsageError(f"{self.command!r} is not the path of a program", "--command", example)


def name_of(request: Request) -> str:
    """The project's name, as schedulers take names."""
    return f"mlloop_{request.root.name}"


def facts(request: Request, options: Options) -> dict[str, Any]:
    """What each scheduler's file says of the project: where it is, how mlloop is called, its stages and its tables.

    Raises
    ------
    ProblemError
        A statement cannot be read.
    """
    return {
        "project": str(request.root),
        "command": options.command,
        "schedule": options.schedule,
        "stages": {task["name"]: list(task.get("upstream") or []) for task in parsing.tasks(request.root)},
        "tables": _tables(request),
    }


def _tables(request: Request) -> dict[str, dict[str, str]]:
    """Problem -> its tables in the lake -> URI."""
    lake = request.settings.lake_uri
    home = lake.rstrip("/") if "://" in lake else Path(lake).as_uri()
    statements = {problem: request.statement(problem) for problem in request.problems}
    return {
        problem: {table: f"{home}/{statement.name}/{table}" for table in statement.tables}
        for problem, statement in statements.items()
    }
