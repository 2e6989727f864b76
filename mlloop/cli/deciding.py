"""Commands that read the ledger: log, at, replay."""

from typing import Annotated

import typer

from mlloop.cli import options, output

app = typer.Typer()


@app.command(epilog="Example: mlloop log --problem employment --kind gate")
def log(
    problem: options.Problem = None,
    kind: Annotated[
        str | None, typer.Option(help="gate, promotion, canary, rollback, fallback, retrain or revision")
    ] = None,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many rows, the newest.")] = 30,
    as_json: options.Json = False,
) -> None:
    """List what was decided, with the evidence; the newest last."""
    project = options.project()
    rows = project.log(problem, kind, last)
    if as_json:
        return output.as_json(rows)
    if not rows and (problem or kind) and project.ledger.rows():
        return typer.echo(
            f"no {kind or 'decision'} is on record{f' for {problem!r}' if problem else ''}; see all: mlloop log"
        )
    if not rows:
        return typer.echo("nothing was decided yet; the first decision comes with: mlloop run")
    output.decisions(rows)


@app.command(epilog="Example: mlloop at 2026-01-31T12:00")
def at(
    moment: Annotated[
        str, typer.Argument(metavar="TIME", help="now, or a time such as 2026-01-31 or 2026-01-31T12:00 (UTC).")
    ] = "now",
    as_json: options.Json = False,
) -> None:
    """Say what was in production at a time, and what the gates had said."""
    state = options.project().at(None if moment == "now" else options.moment(moment, "TIME"))
    if as_json:
        return output.as_json(state)
    if not state:
        return typer.echo(f"nothing had been decided by {moment}")
    for problem, one in state.items():
        champion = (
            f"{str(one.champion.model)[:12]} since {one.champion.at:%Y-%m-%d %H:%M}" if one.champion else "no model"
        )
        canary = f"; canary {str(one.canary.model)[:12]}" if one.canary else ""
        gates = ", ".join(f"{name} gate {gate.verdict}" for name, gate in one.gates.items())
        typer.echo(f"{problem}: in production {champion}{canary}; {gates or 'no gate was asked'}")


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
        for one in result["differs"]:
            typer.echo(f"  - {one}")
    raise typer.Exit(0 if result["same"] else 1)
