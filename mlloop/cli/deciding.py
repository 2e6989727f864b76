"""Commands that read the ledger: log, at, replay, ledger."""

from typing import Annotated

import typer

from mlloop.cli import options, output
from mlloop.core import revisions
from mlloop.core.errors import UsageError

app = typer.Typer()


@app.command(epilog="Example: mlloop log --problem employment --kind gate")
def log(
    problem: options.Problem = None,
    kind: Annotated[
        str | None, typer.Option(help="gate, promotion, canary, rollback, fallback, retrain, revision or erasure")
    ] = None,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many rows, the newest.")] = 30,
    unfolded: Annotated[bool, typer.Option("--all", help="Each of several like decisions in a row by itself.")] = False,
    as_json: options.Json = False,
) -> None:
    """List what was decided, with the evidence; the newest last."""
    project = options.project()
    output.lost(project)
    rows = project.log(problem, kind, last)
    if as_json:
        return output.as_json(rows)
    if not rows and (problem or kind) and project.ledger.rows():
        return typer.echo(
            f"no {kind or 'decision'} is on record{f' for {problem!r}' if problem else ''}; see all: mlloop log"
        )
    if not rows:
        return typer.echo("nothing was decided yet; the first decision comes with: mlloop run")
    revised = revisions.of_model(project.ledger.rows(problem=problem, kind="gate"))
    output.decisions(rows, unfolded=unfolded, revised=revised, in_the_data=project.in_the_data())


@app.command(epilog="Example: mlloop at 2026-01-31T12:00")
def at(
    moment: Annotated[
        str, typer.Argument(metavar="TIME", help="now, or a time such as 2026-01-31 or 2026-01-31T12:00 (UTC).")
    ] = "now",
    clock: Annotated[
        str | None,
        typer.Option(
            metavar="decision|data",
            help="What TIME is: when it was decided, or where the data stood; default: decision, else data.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Say what was in production at a time, and what the gates had said."""
    project = options.project()
    output.lost(project)
    when = None if moment == "now" else options.moment(moment, "TIME")
    state = project.at(when, clock or "decision")
    if as_json:
        return output.as_json(state)
    if not state and clock is None and (state := project.at(when, "data")):
        typer.echo(f"nothing had been decided by {moment}; when the data stood at {moment}:")
    if not state:
        return typer.echo(f"nothing had been decided by {moment}")
    in_the_data = project.in_the_data()
    for problem, problem_state in state.items():
        champion = (
            f"{str(problem_state.champion.model)[:12]} since {_both(problem_state.champion, in_the_data)}"
            if problem_state.champion
            else "no model"
        )
        canary = f"; canary {str(problem_state.canary.model)[:12]}" if problem_state.canary else ""
        gates = ", ".join(f"{name} gate {gate.verdict}" for name, gate in problem_state.gates.items())
        typer.echo(f"{problem}: in production {champion}{canary}; {gates or 'no gate was asked'}")


def _both(row, in_the_data) -> str:
    """The moment of a decision by both clocks, each named."""
    from mlloop.pages import wording

    stood = in_the_data.get(row.id)
    decided = f"{row.at:%Y-%m-%d %H:%M}"
    return wording.both_clocks(wording.moment(stood), decided) if stood else f"{decided} UTC"


@app.command(epilog="Example: mlloop replay 2")
def replay(
    decision: Annotated[int, typer.Argument(help="The decision's number in mlloop log.")], as_json: options.Json = False
) -> None:
    """Run a gate's notebook again on the inputs recorded with its decision, and compare."""
    result = options.project().replay(decision)
    if as_json:
        output.as_json(result)
    else:
        typer.echo(
            f"decision {decision}: the {result['gate']} gate said {result['then']}, and says {result['now']} on the same inputs"
        )
        for difference in result["differs"]:
            typer.echo(f"  - {difference}")
    raise typer.Exit(0 if result["same"] else 1)


@app.command(epilog="Example: mlloop ledger copy --to postgresql://mlloop@db.example.org/mlloop")
def ledger(
    action: Annotated[
        str, typer.Argument(metavar="check|copy", help="check its chain, or copy it to another database.")
    ],
    to: Annotated[str | None, typer.Option(metavar="URL", help="copy: an empty database, or an earlier copy.")] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="check: go on with this ledger, whatever was noted of it before.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Verify the ledger, or copy it into another database; both ends are verified."""
    project = options.project()
    if action not in ("check", "copy") or (action == "copy") != (to is not None) or (accept and action != "check"):
        what = (
            f"{action!r} is neither check nor copy"
            if action not in ("check", "copy")
            else "--to belongs to copy, --accept to check"
        )
        raise UsageError(what, next_step="Example: mlloop ledger check; mlloop ledger copy --to sqlite:///copy.db")
    if action == "check" and not accept:
        output.lost(project)
    head = project.copy_ledger(str(to)) if action == "copy" else project.check_ledger(accept)
    if as_json:
        return output.as_json(head)
    typer.echo(f"{head.id} decisions, the chain holds: its head is {head.hash}")
    if action == "copy":
        typer.echo(f"To use the copy, in settings.ini: [ledger] url = {to}")
