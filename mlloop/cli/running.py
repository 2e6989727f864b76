"""Commands that run the pipeline and say how it stands: run, gate, status, why."""

from typing import Annotated

import typer

from mlloop.cli import options, output
from mlloop.core import revisions
from mlloop.core.formatting import duration, number
from mlloop.core.records import JsonObject
from mlloop.core.verdict import StatedVerdict, figure_name

app = typer.Typer()


@app.command(epilog="Example: mlloop run --problem shop --until features")
def run(
    problem: Annotated[
        list[str] | None, typer.Option("--problem", "-p", help="A statement's name or file; may be repeated.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Run this stage and what follows, fresh or not.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    changes: options.Changes = None,
    force: Annotated[bool, typer.Option("--force", help="Run every stage, fresh or not.")] = False,
    as_json: options.Json = False,
) -> None:
    """Bring a problem's products up to date: run what is stale, up to a gate that says No."""
    project, outcomes, stated = options.project(), [], options.changes(changes)
    output.lost(project)
    for name in problem or [None]:  # type: ignore[list-item]
        with _watching(as_json) as watch:
            outcome = project.run(name, start=start, until=until, changes=stated, force=force, pages=False, watch=watch)
        outcomes.append(outcome)
        if outcome.error and not as_json:
            output.complain(outcome.error)
    pages = output.pages(project, again=any(finished.ran or finished.error for finished in outcomes))
    if as_json:
        output.as_json([_outcome(finished) for finished in outcomes])
    else:
        _sum_up(project, outcomes, pages)
    raise typer.Exit(max((finished.exit_code for finished in outcomes), default=0))


def _watching(quiet: bool):
    from mlloop.cli.progress import Progress, silent

    return silent() if quiet else Progress()


def _outcome(run) -> JsonObject:
    return {
        "problem": run.problem,
        "ran": run.ran,
        "fresh": run.fresh,
        "skipped": run.skipped,
        "verdicts": run.verdicts,
        "seconds": round(run.seconds, 3),
        "error": str(run.error) if run.error else None,
        "exit_code": run.exit_code,
    }


def _sum_up(project, outcomes, pages) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for outcome in outcomes:
        console.print(
            f"[bold]{outcome.problem}[/bold]: {len(outcome.ran)} stages run, {len(outcome.fresh)} up to date, {duration(outcome.seconds)}"
        )
        for gate, verdict in outcome.verdicts.items():
            console.print(f"  {gate} gate: [bold]{verdict['verdict']}[/bold]{_deciding(verdict)}")
        model = _model(project.settings, outcome.problem)
        if model:
            console.print(f"  model: {model}")
        if waits := _waits(project, outcome):
            console.print(f"  {waits}")
        if outcome.took:
            slowest = sorted(outcome.took.items(), key=lambda pair: -pair[1])[:4]
            console.print("  time: " + ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in slowest))
    for page in pages:
        console.print(f"page: {output.relative(page)}")


def _waits(project, state) -> str:
    """What is left to do where no policy deploys the model: after a Maybe, or where deployment is left to a person."""
    verdict = state.verdicts.get("validation", {}).get("verdict")
    by_person = project.settings.deployment_by == "person"
    if state.error or not (verdict == "maybe" or (verdict == "yes" and by_person)):
        return ""
    production = project.in_production(state.problem)
    champion = production.champion
    if champion and (not by_person or _digest(project.settings, state.problem) in (champion, production.canary)):
        return ""
    what = "the release waits for a person" if champion else "no model is in production"
    why = ": after a Maybe a person decides" if verdict == "maybe" and not champion else ""
    return f"{what}{why}: mlloop promote --problem {state.problem}"


def _deciding(verdict: StatedVerdict) -> str:
    named = next((e for e in verdict["evidence"] if e.get("name") == verdict.get("deciding")), None)
    if not named or named.get("value") is None:
        return f" ({verdict['reasons'][0]})" if verdict["reasons"] else ""
    interval = (
        f" [{number(named['low'])} to {number(named['high'])}]"
        if named.get("low") is not None and named.get("high") is not None
        else ""
    )
    threshold = f", target {number(named['threshold'])}" if isinstance(named.get("threshold"), (int, float)) else ""
    unit = f" {named['unit']}" if named.get("unit") else ""
    name = named["name"] if named["name"] == "threshold met" else figure_name(named["name"])
    return f" ({name} {number(named['value'])}{unit}{interval}{threshold})".replace("[", r"\[")


def _digest(settings, problem: str) -> str | None:
    """The digest of the model trained last."""
    return (_trained(settings, problem) or {}).get("digest")


def _trained(settings, problem: str) -> JsonObject | None:
    """The model of the stage `training`, as its product has it."""
    from mlloop.core import storage

    path = settings.state / "products" / problem / "training.json"
    return storage.read_json(path).get("model") if path.exists() else None


def _model(settings, problem: str) -> str | None:
    model = _trained(settings, problem)
    if not model:
        return None
    registered = model.get("registered") or {}
    version = f", registered as {registered.get('name')} version {registered.get('version')}" if registered else ""
    return f"{model.get('name')} ({str(model.get('digest'))[:12]}{version})"


@app.command(epilog="Example: mlloop gate need --problem employment")
def gate(
    name: Annotated[str, typer.Argument(help="need or validation")],
    problem: options.Problem = None,
    changes: options.Changes = None,
    force: Annotated[bool, typer.Option("--force", help="Ask again even where nothing changed.")] = False,
    as_json: options.Json = False,
) -> None:
    """Ask one gate, running first what it reads; exit 3 when it says No."""
    changed = options.changes(changes)
    with _watching(as_json) as watch:
        outcome = options.project().gate(name, problem, changes=changed, force=force, watch=watch)
    called = name.removesuffix("_gate")
    verdict = outcome.verdicts.get(called)
    if as_json:
        error = str(outcome.error) if outcome.error else None
        output.as_json({"gate": called, "problem": outcome.problem, **(verdict or {}), "error": error})
    elif verdict:
        typer.echo(f"{outcome.problem}: the {called} gate says {verdict['verdict']}")
        for reason in verdict["reasons"]:
            typer.echo(f"  - {reason}")
    if outcome.error and not as_json:
        output.complain(outcome.error)
    raise typer.Exit(outcome.exit_code)


@app.command(epilog="Example: mlloop status --problem shop")
def status(problem: options.Problem = None, changes: options.Changes = None, as_json: options.Json = False) -> None:
    """Show each stage's state: fresh, stale, waiting, missing, or behind a closed gate."""
    project = options.project()
    standing = project.status(problem, changes=options.changes(changes))
    if standing.lost:
        output.lost(project)
    if as_json:
        return output.as_json(standing)
    from rich.console import Console
    from rich.table import Table

    table = Table(
        box=None,
        pad_edge=False,
        title=f"{revisions.problem_of(standing.problem)}, revision {standing.revision}",
        title_justify="left",
    )
    for heading, side in {
        "stage": "left",
        "state": "left",
        "took (s)": "right",
        "rows": "right",
        "finished (UTC)": "left",
        "why": "left",
    }.items():
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for name, state in standing.stages.items():
        rows = f"{state['rows']:,}" if state.get("rows") is not None else ""
        took = duration(state["seconds"]).removesuffix(" s") if state.get("seconds") is not None else ""
        why = (state["reasons"] or [""])[0] + (
            f" (+{len(state['reasons']) - 1} more)" if len(state["reasons"]) > 1 else ""
        )
        table.add_row(name, state["state"], took, rows, state.get("finished_at", "").replace("T", " ")[:16], why)
    console = Console(highlight=False)
    if standing.production:
        console.print(f"{standing.production}\n", markup=False)
    console.print(table)
    busy = f"; running: process {standing.running.get('pid')}" if standing.running is not None else ""
    console.print(f"problems: {', '.join(project.problems) or 'none'}{busy}")


@app.command(epilog="Example: mlloop why features --problem shop")
def why(
    name: Annotated[
        str,
        typer.Argument(metavar="STAGE|MODEL", help="A stage's name, or a model's digest (its beginning is enough)."),
    ],
    problem: options.Problem = None,
    changes: options.Changes = None,
    as_json: options.Json = False,
) -> None:
    """Say why a stage would run again, or what was decided about a model."""
    reasons = options.project().why(name, problem, changes=options.changes(changes))
    if reasons.state is None:
        output.as_json(reasons.decisions) if as_json else output.decisions(reasons.decisions, whole=True)
    elif as_json:
        output.as_json({"stage": name, "problem": reasons.problem, **reasons.state})
    else:
        typer.echo(str(reasons))
