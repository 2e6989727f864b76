"""What the commands share: options, the project they work on, what is read from a word that was typed."""

import datetime as dt
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mlloop.core.errors import UsageError
from mlloop.core.records import Parameters

if TYPE_CHECKING:
    from mlloop.project import Project

Problem = Annotated[
    str | None, typer.Option("--problem", "-p", help="A statement's name or file; default: env.yaml's.")
]
Changes = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over env.yaml; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides; default: you.")]
Reason = Annotated[list[str] | None, typer.Option("--reason", help="Why; goes into the ledger.")]
At = Annotated[
    str | None, typer.Option("--at", metavar="TIME", help="The moment to stand at, such as 2025-07-14 (UTC).")
]


def project() -> "Project":
    """The project here or above, held under the command that was typed."""
    from mlloop.project import Project

    return Project(command=" ".join(["mlloop", *sys.argv[1:]]))


def moment(text: str | None, option: str = "--at") -> dt.datetime | None:
    """A moment that was typed; a mistake names the option."""
    from mlloop import project as _project

    return _project.moment(text, option) if text else None


def changes(assignments: list[str] | None) -> Parameters:
    """Parameters given as KEY=VALUE, the value in YAML."""
    import yaml

    example, parameters = "Example: mlloop run --set sample=0.1", {}
    for assignment in assignments or []:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {assignment!r} is not KEY=VALUE", next_step=example)
        try:
            parameters[key.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, RecursionError) as error:
            raise UsageError(f"--set {assignment!r} has a value that cannot be read", next_step=example) from error
        if hasattr(parameters[key.strip()], "isoformat"):
            parameters[key.strip()] = value.strip()
    return parameters
