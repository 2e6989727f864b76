"""The command line. Only what every command needs is imported here; the rest when a command runs."""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mlloop.core.errors import MlloopError, UsageError

app = typer.Typer(
    help="From a question to a model that stays right in production: a loop of literate notebooks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Exit codes: 0 done, 1 failed, 2 bad usage or input, 3 a gate said No, 4 monitoring raised an alert, 5 another run holds the project.",
)

ProblemOption = Annotated[
    str | None, typer.Option("--problem", "-p", help="A statement's name or file; default: env.yaml's.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over env.yaml; may be repeated.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


# ---------------------------------------------------------------------------------------------- running


@app.command(epilog="Example: mlloop run --problem shop --until features")
def run(
    problem: Annotated[
        list[str] | None, typer.Option("--problem", "-p", help="A statement's name or file; may be repeated.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Run this stage and what follows, fresh or not.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    changes: SetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Run every stage, fresh or not.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a problem's products up to date: run what is stale, up to a gate that says No."""
    from mlloop.pipeline import runner

    outcomes, settings = [], None
    for name in problem or [None]:  # type: ignore[list-item]
        settings, plan = runner.project(name, **_changes(changes))
        with _watching(plan, as_json) as watch:
            outcome = runner.run(plan, settings, start=start, until=until, force=force, watch=watch, command=_command())
        outcomes.append(outcome)
        if outcome.error and not as_json:
            _complain(outcome.error)
    assert settings is not None
    pages = _render(settings, outcomes)
    if as_json:
        _print_json([_outcome(one) for one in outcomes])
    else:
        _sum_up(settings, outcomes, pages)
    raise typer.Exit(max((one.exit_code for one in outcomes), default=0))


def _changes(given: list[str] | None) -> dict[str, Any]:
    import yaml

    changes = {}
    for one in given or []:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {one!r} is not KEY=VALUE", next_step="Example: mlloop run --set sample=0.1")
        try:
            changes[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(
                f"--set {one!r} has a value that cannot be read", next_step="Example: mlloop run --set sample=0.1"
            ) from error
        if hasattr(changes[key.strip()], "isoformat"):
            changes[key.strip()] = value.strip()
    return changes


def _command() -> str:
    return " ".join(["mlloop", *sys.argv[1:]])


def _watching(plan, quiet: bool):
    from mlloop.cli.progress import Progress, silent

    return silent() if quiet else Progress(plan)


def _render(settings, outcomes) -> list[Path]:
    """Write the pages of what ran; an error there is told and never hides a run's outcome."""
    from mlloop.pages import report

    index = settings.reports / "index.html"
    if not any(one.ran or one.error for one in outcomes) and report.is_current(settings):
        return [index]
    try:
        return [report.write(settings, states=_states(settings))]
    except MlloopError as error:
        _complain(error)
        return []


def _states(settings) -> dict[str, Any]:
    from mlloop.pages import problem_view
    from mlloop.pipeline import runner

    found = {}
    for name in problem_view.names(settings):
        with contextlib.suppress(MlloopError):
            found[name] = runner.status(*runner.project(name, settings.root))
    return found


def _outcome(one) -> dict[str, Any]:
    return {
        "problem": one.problem,
        "ran": one.ran,
        "fresh": one.fresh,
        "skipped": one.skipped,
        "verdicts": one.verdicts,
        "seconds": round(one.seconds, 3),
        "error": str(one.error) if one.error else None,
        "exit_code": one.exit_code,
    }


def _sum_up(settings, outcomes, pages: list[Path]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for one in outcomes:
        console.print(
            f"[bold]{one.problem}[/bold]: {len(one.ran)} stages run, {len(one.fresh)} up to date, {one.seconds:.1f} s"
        )
        for gate, verdict in one.verdicts.items():
            console.print(f"  {gate} gate: [bold]{verdict['verdict']}[/bold]{_deciding(verdict)}")
        model = _model(settings, one.problem)
        if model:
            console.print(f"  model: {model}")
        if one.took:
            slowest = sorted(one.took.items(), key=lambda pair: -pair[1])[:4]
            console.print("  time: " + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in slowest))
    for page in pages:
        console.print(f"page: {os.path.relpath(page)}")


def _deciding(verdict: dict[str, Any]) -> str:
    named = next((e for e in verdict["evidence"] if e.get("name") == verdict.get("deciding")), None)
    if not named or named.get("value") is None:
        return f" ({verdict['reasons'][0]})" if verdict["reasons"] else ""
    interval = (
        f" [{named['low']:.4g}, {named['high']:.4g}]"
        if named.get("low") is not None and named.get("high") is not None
        else ""
    )
    threshold = f", asked for {named['threshold']:.4g}" if isinstance(named.get("threshold"), (int, float)) else ""
    unit = f" {named['unit']}" if named.get("unit") else ""
    return f" ({named['name']} {named['value']:.4g}{unit}{interval}{threshold})".replace("[", r"\[")


def _model(settings, problem: str) -> str | None:
    from mlloop.core import storage

    path = settings.state / "products" / problem / "training.json"
    if not path.exists():
        return None
    model = storage.read_json(path).get("model")
    if not model:
        return None
    registered = model.get("registered") or {}
    version = f", registered as {registered.get('name')} version {registered.get('version')}" if registered else ""
    return f"{model.get('name')} ({str(model.get('digest'))[:12]}{version})"


@app.command(epilog="Example: mlloop gate need --problem employment")
def gate(
    name: Annotated[str, typer.Argument(help="need or validation")],
    problem: ProblemOption = None,
    changes: SetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Ask again even where nothing changed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask one gate, running first what it reads; exit 3 when it says No."""
    from mlloop.pipeline import runner
    from mlloop.problem import did_you_mean

    settings, plan = runner.project(problem, **_changes(changes))
    gates = {task.gate: task.name for task in plan.tasks.values() if task.is_gate}
    stage = gates.get(name.removesuffix("_gate"))
    if stage is None:
        raise UsageError(f"no gate {name!r}{did_you_mean(name, gates)}", "pipeline.yaml", "Example: mlloop gate need")
    with _watching(plan, as_json) as watch:
        outcome = runner.run(
            plan, settings, until=stage, start=stage if force else None, watch=watch, command=_command()
        )
    verdict = outcome.verdicts.get(plan.tasks[stage].gate)
    if as_json:
        _print_json(
            {
                "gate": plan.tasks[stage].gate,
                "problem": plan.problem,
                **(verdict or {}),
                "error": str(outcome.error) if outcome.error else None,
            }
        )
    elif verdict:
        typer.echo(f"{plan.problem}: the {plan.tasks[stage].gate} gate says {verdict['verdict']}")
        for reason in verdict["reasons"]:
            typer.echo(f"  - {reason}")
    if outcome.error and not as_json:
        _complain(outcome.error)
    raise typer.Exit(outcome.exit_code)


@app.command(epilog="Example: mlloop status --problem shop")
def status(problem: ProblemOption = None, changes: SetOption = None, as_json: JsonOption = False) -> None:
    """Show each stage's state: fresh, stale, waiting, missing, or behind a closed gate."""
    from mlloop.pipeline import runner

    settings, plan = runner.project(problem, **_changes(changes))
    found = runner.status(settings, plan)
    held = runner.holder(settings.state / "run.lock")
    busy = runner.is_held(settings)
    if as_json:
        return _print_json({"problem": plan.problem, "stages": found, "running": held if busy else None})
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=f"{plan.problem}", title_justify="left")
    for heading, side in {
        "stage": "left",
        "state": "left",
        "took (s)": "right",
        "rows": "right",
        "finished (UTC)": "left",
        "why": "left",
    }.items():
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for name, one in found.items():
        rows = f"{one['rows']:,}" if one.get("rows") is not None else ""
        took = f"{one['seconds']:.1f}" if one.get("seconds") is not None else ""
        why = (one["reasons"] or [""])[0] + (f" (+{len(one['reasons']) - 1} more)" if len(one["reasons"]) > 1 else "")
        table.add_row(name, one["state"], took, rows, one.get("finished_at", "").replace("T", " ")[:16], why)
    console = Console(highlight=False)
    console.print(table)
    known = sorted(path.stem for path in settings.problems.glob("*.yaml"))
    console.print(f"problems: {', '.join(known) or 'none'}" + (f"; running: process {held.get('pid')}" if busy else ""))


@app.command(epilog="Example: mlloop why features --problem shop")
def why(
    name: Annotated[
        str,
        typer.Argument(metavar="STAGE|MODEL", help="A stage's name, or a model's digest (its beginning is enough)."),
    ],
    problem: ProblemOption = None,
    changes: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a stage would run again, or what was decided about a model."""
    from mlloop.pipeline import runner

    settings, plan = runner.project(problem, **_changes(changes))
    if name not in plan.tasks and len(name) >= 6 and all(c in "0123456789abcdef" for c in name):
        return _why_model(settings, name, as_json)
    plan.task(name)
    found = runner.status(settings, plan)[name]
    if as_json:
        return _print_json({"stage": name, "problem": plan.problem, **found})
    if not found["reasons"]:
        return typer.echo(f"{name} is fresh: its code, inputs, parameters and dependencies are those of its product")
    typer.echo(f"{name} is {found['state']}:")
    for reason in found["reasons"]:
        typer.echo(f"  - {reason}")


def _why_model(settings, digest: str, as_json: bool) -> None:
    from mlloop.store.ledger import Ledger

    rows = [row for row in Ledger.open(settings).rows() if (row.model or "").startswith(digest)]
    if not rows:
        raise UsageError(f"the ledger knows no model {digest!r}", next_step="See what it knows: mlloop log")
    _print_json([_row(row) for row in rows]) if as_json else _print_rows(rows, whole=True)


# ---------------------------------------------------------------------------------------------- the ledger


def _row(row) -> dict[str, Any]:
    from mlloop.core import storage

    return storage.plain(row)


@app.command(epilog="Example: mlloop log --problem employment --kind gate")
def log(
    problem: ProblemOption = None,
    kind: Annotated[str | None, typer.Option(help="gate, promotion, canary, rollback, retrain or revision")] = None,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many rows, the newest.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """List what was decided, with the evidence; the newest last."""
    from mlloop.core import settings as _settings
    from mlloop.problem import did_you_mean
    from mlloop.store.ledger import KINDS, Ledger

    if kind is not None and kind not in KINDS:
        raise UsageError(f"no kind {kind!r}{did_you_mean(kind, KINDS)}", "--kind", "Example: mlloop log --kind gate")
    ledger = Ledger.open(_settings.load())
    ledger.verify()
    rows = ledger.rows(problem=problem, kind=kind)[-last:]
    if as_json:
        return _print_json([_row(row) for row in rows])
    if not rows and (problem or kind) and ledger.rows():
        return typer.echo(
            f"no {kind or 'decision'} is on record{f' for {problem!r}' if problem else ''}; see all: mlloop log"
        )
    if not rows:
        return typer.echo("nothing was decided yet; the first decision comes with: mlloop run")
    _print_rows(rows)


def _print_rows(rows, whole: bool = False) -> None:
    """Decisions, a line and their reasons each; of several reasons the first, unless the `whole` is asked for."""
    from textwrap import fill

    from rich.console import Console

    from mlloop.pages import wording

    console = Console(highlight=False, markup=False, soft_wrap=True)
    width, indent = min(console.width, 120), " " * (len(str(rows[-1].id)) + 3)
    for row in rows:
        action, outcome = (str(row.details.get(key) or "") for key in ("action", "outcome"))
        told = wording.decision(row.kind, row.subject, action or row.subject, outcome)
        stands = row.details.get("as_of")
        told += f" ({wording.moment(stands)} in the data's time)" if stands else ""
        verdict = f": {row.verdict}" if row.kind == "gate" and row.verdict else ""
        model = f", model {row.model[:12]}" if row.model else ""
        number = f"#{row.id}".ljust(len(indent))
        head = f"{str(row.at)[:16].replace('T', ' ')} UTC  {row.problem}  {told}{verdict}{model}, by {row.actor}"
        console.print(fill(head, width, initial_indent=number, subsequent_indent=indent, break_on_hyphens=False))
        more = len(row.reasons) - 1
        for reason in row.reasons if whole else [f"{one} (+{more} more)" if more else one for one in row.reasons[:1]]:
            console.print(
                fill(str(reason), width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
            )


def _utc(given: str, option: str = "--at"):
    """A moment that was typed; a mistake names the option, not a parameter of the run."""
    from mlloop.problem import utc

    try:
        return utc(given)
    except MlloopError as error:
        said = f"{option} is {given!r}, which is not a time such as 2025-03-31 or 2025-03-31T12:00"
        raise UsageError(said, next_step="Give one of these forms, in UTC; what is decided when: mlloop log") from error


@app.command(epilog="Example: mlloop at 2026-01-31T12:00")
def at(
    moment: Annotated[
        str, typer.Argument(metavar="TIME", help="now, or a time such as 2026-01-31 or 2026-01-31T12:00 (UTC).")
    ] = "now",
    as_json: JsonOption = False,
) -> None:
    """Say what was in production at a time, and what the gates had said."""
    from mlloop.core import settings as _settings
    from mlloop.store.ledger import Ledger

    state = Ledger.open(_settings.load()).at(None if moment == "now" else _utc(moment, "TIME"))
    if as_json:
        return _print_json(_row(state))
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
    decision: Annotated[int, typer.Argument(help="The decision's number in mlloop log.")], as_json: JsonOption = False
) -> None:
    """Run a gate's notebook again on the inputs recorded with its decision, and compare."""
    from mlloop.core import settings as _settings
    from mlloop.pipeline.replay import replay as again

    result = again(_settings.load(), decision)
    if as_json:
        _print_json(result)
    else:
        typer.echo(
            f"decision {decision}: the {result['gate']} gate said {result['then']}, and says {result['now']} on the same inputs"
        )
        for one in result["differs"]:
            typer.echo(f"  - {one}")
    raise typer.Exit(0 if result["same"] else 1)


# ---------------------------------------------------------------------------------------------- in production

ActorOption = Annotated[str | None, typer.Option("--by", help="Who decides; default: you.")]
ReasonOption = Annotated[list[str] | None, typer.Option("--reason", help="Why; goes into the ledger.")]


def _person(given: str | None) -> str:
    import getpass

    return given or getpass.getuser()


def _statement(name: str | None):
    from mlloop import problem as problems
    from mlloop.core import settings as _settings
    from mlloop.pipeline import plan as plans

    settings = _settings.load()
    chosen = name or str(plans.parameters(settings)["problem"])
    return settings, problems.load(problems.find(chosen, settings.problems))


def _stands(settings, problem: str) -> dict[str, Any]:
    from mlloop.store.ledger import Ledger

    ledger = Ledger.open(settings)
    champion, canary = ledger.champion(problem), ledger.canary(problem)
    return {
        "problem": problem,
        "champion": champion.model if champion else None,
        "canary": canary.model if canary else None,
        "until": canary.details.get("deadline") if canary else None,
        "previous": ledger.previous_champion(problem),
    }


def _say_stands(settings, problem: str, as_json: bool) -> None:
    stands = _stands(settings, problem)
    if as_json:
        return _print_json(stands)
    short = lambda digest: digest[:12] if digest else "no model"
    canary = f"; canary {short(stands['canary'])} until {stands['until'][:16]}" if stands["canary"] else ""
    typer.echo(f"{problem}: in production {short(stands['champion'])}{canary}; before {short(stands['previous'])}")


@app.command(epilog="Example: mlloop promote --problem employment --reason 'agreed with the owner'")
def promote(
    model: Annotated[
        str | None, typer.Argument(help="A model's digest (its beginning is enough); default: the one trained last.")
    ] = None,
    problem: ProblemOption = None,
    on_trial: Annotated[
        bool, typer.Option("--canary", help="On a share of the requests, beside the champion.")
    ] = False,
    reason: ReasonOption = None,
    by: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a model that its gate let pass into production."""
    from mlloop import deployment
    from mlloop.store.ledger import Ledger

    settings, statement = _statement(problem)
    ledger = Ledger.open(settings)
    deployment.put(
        settings, ledger, statement, model, on_trial=on_trial, actor=_person(by), reasons=tuple(reason or ())
    )
    _say_stands(settings, statement.name, as_json)


@app.command(epilog="Example: mlloop rollback --problem employment --reason 'complaints since Monday'")
def rollback(
    problem: ProblemOption = None,
    to: Annotated[
        str | None, typer.Option(metavar="MODEL", help="An earlier champion; default: the one before.")
    ] = None,
    canary: Annotated[bool, typer.Option("--canary", help="Only end the canary.")] = False,
    reason: ReasonOption = None,
    by: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go back to an earlier champion, or end a canary."""
    from mlloop import deployment
    from mlloop.store.ledger import Ledger

    settings, statement = _statement(problem)
    ledger, why = Ledger.open(settings), tuple(reason or ())
    if canary:
        deployment.stop_canary(settings, ledger, statement.name, _person(by), why)
    else:
        chosen = deployment.known_model(ledger, statement.name, to) if to else None
        deployment.rollback(settings, ledger, statement.name, chosen, _person(by), why)
    _say_stands(settings, statement.name, as_json)


@app.command(epilog="Example: mlloop serve --problem shop --problem employment --port 8000")
def serve(
    problem: Annotated[
        list[str] | None, typer.Option("--problem", "-p", help="May be repeated; default: all that have a champion.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; other than loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File with the token; default: MLLOOP_TOKEN.")
    ] = None,
    max_body: Annotated[int, typer.Option(min=100, help="Bytes of a request, at most.")] = 1024 * 1024,
    poll_s: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks at the ledger.")] = 0.5,
    durable: Annotated[
        str, typer.Option(help="disk: a prediction is on disk before it is acknowledged; process: the system has it.")
    ] = "disk",
    once: Annotated[
        bool, typer.Option("--once", help="Ask each problem for one real row over HTTP, and stop.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer over HTTP with the models in production: /predict, /recommend, /docs, /metrics, /health, /ready."""
    from mlloop.core import settings as _settings
    from mlloop.service import http

    if durable not in ("disk", "process"):
        raise UsageError(f"--durable is {durable!r}, expected disk or process", next_step="Example: mlloop serve")
    options = http.Options(host, port, http.token_from(file=token_file), max_body, poll_s, sync=durable == "disk")
    settings = _settings.load()
    if once:
        return _ask_once(settings, problem, options, as_json)
    _mend_aliases(settings)
    http.serve(settings, problem, options, ready=lambda address: typer.echo(f"answering at {address} (/docs)"))


def _ask_once(settings, problem, options, as_json: bool) -> None:
    from mlloop.service import smoke

    said = smoke.ask_once(settings, problem, options)
    if as_json:
        _print_json(said)
    for one in said if not as_json else []:
        answer = one["answer"]
        if one["status"] != 200:
            told = f"refused with {one['status']}: {answer}"
        elif "items" in answer:
            told = f"for {one['asked']['user']}: {', '.join(answer['items'])}"
        else:
            told = f"{answer['prediction']} (score {answer['score']:.4g})"
        typer.echo(f"{one['problem']}: POST {one['path']} -> {told}, model {answer.get('model', '?')}")
    raise typer.Exit(0 if all(one["status"] == 200 for one in said) else 1)


def _mend_aliases(settings) -> None:
    """Let MLflow's aliases follow the ledger, in a process of its own: MLflow is heavy, and a service lives long."""
    import subprocess

    work = "from mlloop import deployment, ledger, settings; s = settings.load(); deployment.follow(s, ledger.Ledger.open(s))"
    subprocess.Popen(
        [sys.executable, "-c", work], cwd=settings.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@app.command(epilog="Example: mlloop predict people.csv --problem employment --out scored.parquet")
def predict(
    table: Annotated[
        str, typer.Argument(help="A CSV, Parquet or JSON-lines file, or a table of the lake: lake:employment/holdout")
    ],
    problem: ProblemOption = None,
    out: Annotated[
        Path | None, typer.Option(help="A CSV or Parquet file; default: a few rows on the terminal.")
    ] = None,
    log: Annotated[bool, typer.Option("--log/--no-log", help="Keep the answers in the prediction log.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Answer for every row of a file or table, with the code that answers requests."""
    from mlloop.service import batch

    settings, statement = _statement(problem)
    done = batch.score(settings, statement.name, table, out, log)
    if as_json:
        _print_json(done.summary)
    else:
        if out is None:
            typer.echo(done.answered.head(20).to_string())
        typer.echo(f"{statement.name}: {done.summary['answered']:,} of {done.summary['rows']:,} rows answered")
        for reason, count in done.summary["refused"].items():
            typer.echo(f"  - {count:,} refused: {reason}")
    raise typer.Exit(0 if done.summary["answered"] or not done.summary["rows"] else 1)


# ---------------------------------------------------------------------------------------------- beginning


@app.command(epilog="Example: mlloop new churn --data customers.csv --target churned --time signed_up_at")
def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new project's folder; its name is the problem's.")],
    data: Annotated[
        str | None,
        typer.Option(help="A CSV, Parquet or JSON-lines file (or .gz), a glob or folder of them, or an SQL URL."),
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="COLUMN", help="What is to be predicted.")] = None,
    when: Annotated[str | None, typer.Option("--time", metavar="COLUMN", help="When a row happened.")] = None,
    key: Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="Who or what a row is about.")] = None,
    user: Annotated[str | None, typer.Option(metavar="COLUMN", help="For recommendations: who.")] = None,
    item: Annotated[str | None, typer.Option(metavar="COLUMN", help="For recommendations: what.")] = None,
    task: Annotated[
        str | None, typer.Option(help="classification, regression or recommendation; default: found out.")
    ] = None,
    positive: Annotated[str | None, typer.Option(metavar="VALUE", help="The class that is looked for.")] = None,
    table: Annotated[str | None, typer.Option(help="The table of an SQL URL.")] = None,
    query: Annotated[str | None, typer.Option(help="The query of an SQL URL.")] = None,
    history: Annotated[
        int, typer.Option(min=0, metavar="DAYS", help="Leave the last days of the data for mlloop loop.")
    ] = 0,
) -> None:
    """Make a project out of a data file and a question; what is missing is asked on a terminal."""
    ask = _ask if sys.stdin.isatty() and sys.stdout.isatty() else None
    if data is None and ask:
        data = ask("Where is the data (a file, a folder, an SQL URL)?", [], None)
    if data is None:
        raise UsageError(
            "--data is missing", next_step="Example: mlloop new churn --data customers.csv --target churned"
        )
    from mlloop.scaffold import project_files

    wanted = project_files.Wanted(data, target, when, key, user, item, task, positive, table, query, history)
    made = project_files.new(folder, wanted, ask)
    width = max(len(what) for what, _ in [*made.said, ("left out", "")])
    for what, told in made.said:
        typer.echo(f"{what:<{width}}  {told}")
    for column, sign in made.leaks.items():
        typer.secho(f"{'leak?':<{width}}  {column} {sign}: kept away from the model", fg=typer.colors.YELLOW)
    place = os.path.relpath(made.root)
    typer.echo(f"\nRead {place}/problems/{made.name}.yaml and mend the guesses, then:\n  cd {place} && mlloop run")
    if made.until:
        typer.echo(f"  mlloop loop --until {made.until}")


def _ask(question: str, choices, default: str | None) -> str:
    if choices:
        typer.echo(f"{question}\n  {', '.join(map(str, choices))}")
    while True:
        answer = str(typer.prompt(">" if choices else question, default=default))
        if not choices or answer in [str(one) for one in choices]:
            return answer
        from mlloop.problem import did_you_mean

        typer.echo(f"  {answer!r} is none of them{did_you_mean(answer, choices)}")


@app.command(epilog="Example: mlloop upgrade")
def upgrade() -> None:
    """Renew a project's Run acts, pipeline.yaml and module names to those of the installed mlloop; your own cells stay."""
    from mlloop.core import settings as _settings
    from mlloop.scaffold import project_files
    from mlloop.scaffold import upgrade as upgrading

    changed = upgrading.upgrade(_settings.load().root)
    for line in changed or [f"nothing to do: the project is that of mlloop {project_files.version()}"]:
        typer.echo(line)


# ---------------------------------------------------------------------------------------------- the loop

AtOption = Annotated[
    str | None, typer.Option("--at", metavar="TIME", help="The moment to stand at, such as 2025-07-14 (UTC).")
]


@app.command(epilog="Example: mlloop tick --problem shop")
def tick(
    problem: ProblemOption = None,
    moment: AtOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide on a copy of the state; nothing is kept.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn the loop once, for a scheduler: data, answers, monitoring, canary, decision, retraining; exit 4 on an alert.

    Without --at the next turn of the problem's rhythm is made, if its time has come. Safe to run twice and to kill.
    """
    import datetime as dt

    from mlloop.loop import turn
    from mlloop.pipeline import runner

    settings, plan = runner.project(problem)
    now = _utc(moment) if moment else dt.datetime.now(dt.UTC).replace(tzinfo=None)
    with turn.copied(settings) if dry_run else contextlib.nullcontext(settings) as here:
        plan = runner.project(problem, here.root)[1] if dry_run else plan
        with _telling(as_json) as watch, turn.opened(here, plan, _command(), watch) as place:
            at = turn.on_grid(place.statement, turn.start_of(place.statement, place.ledger), now) if moment else None
            at = (
                at
                or turn.due(place.statement, place.ledger, now)
                or (max(turn.decided(place.ledger, place.name), default=None))
            )
            if at is None:
                at = turn.start_of(place.statement, place.ledger)
                raise UsageError(
                    f"the first turn is due {place.statement.retrain.every_days} days after {at:%Y-%m-%d}",
                    place.name,
                    f"Wait, or give a later moment: mlloop tick --problem {place.name} --at TIME",
                )
            done = turn.turn(place, at, launch=not dry_run, pages=not dry_run)
    _say_turned(done, as_json, dry_run)
    if not dry_run and not done.fresh:
        _write_pages(settings, as_json)
    raise typer.Exit(4 if done.alert else 0)


@contextlib.contextmanager
def _telling(quiet: bool):
    """A word on what is being done, live on a terminal."""
    from rich.console import Console

    console = Console(highlight=False, stderr=True)
    if quiet or not console.is_terminal:
        yield lambda word: None
        return
    with console.status("") as status:
        yield status.update


def _say_turned(one, as_json: bool, dry: bool = False) -> None:
    if as_json:
        from mlloop.core import storage

        return _print_json({**storage.plain(one), "dry_run": dry})
    word = "would be: " if dry else "already decided: " if one.fresh else ""
    typer.echo(f"{one.problem} {one.at[:10]}: {word}{one.action}. {one.said}")
    for end in one.ended:
        typer.echo(
            f"  {end['what']} {str(end['model'])[:12]}: {end['outcome'].replace('_', ' ')} ({'; '.join(end['reasons'])})"
        )
    if one.change:
        typer.echo(f"  what would change it: {one.change}")
    canary = f"; canary {one.canary[:12]}" if one.canary else ""
    typer.echo(
        f"  in production: {str(one.champion)[:12]}{canary}; {one.answered:,} answers; model {one.health or 'not looked at'}"
    )


def _write_pages(settings, quiet: bool) -> None:
    from mlloop.pages import report

    try:
        index = report.write(settings, states=_states(settings))
        if not quiet:
            typer.echo(f"  page: {os.path.relpath(index)}")
    except MlloopError as error:
        _complain(error)


@app.command(epilog="Example: mlloop monitor --problem employment --at 2016-01-29")
def monitor(problem: ProblemOption = None, moment: AtOption = None, as_json: JsonOption = False) -> None:
    """Look at the model in production over the last whole period, deciding nothing; exit 4 on an alert."""
    import datetime as dt

    from mlloop.core import storage
    from mlloop.loop import arrivals, turn
    from mlloop.pipeline import runner

    settings, plan = runner.project(problem)
    now = _utc(moment) if moment else dt.datetime.now(dt.UTC).replace(tzinfo=None)
    with _telling(as_json) as watch, turn.opened(settings, plan, _command(), watch) as place:
        start = turn.start_of(place.statement, place.ledger)
        at = turn.on_grid(place.statement, start, now) if moment else turn.due(place.statement, place.ledger, now)
        at = at or max(turn.decided(place.ledger, place.name), default=start)
        period = arrivals.Period(at - dt.timedelta(days=place.statement.retrain.every_days), at)
        path = turn.looked_at(place, period)
    found = storage.read_json(path)
    if as_json:
        _print_json(found)
    else:
        typer.echo(f"{plan.problem}, period until {at:%Y-%m-%d}: {found['health']}. {found['said']}")
        typer.echo(f"  notebook: {os.path.relpath(path.with_suffix('.ipynb'))}")
    raise typer.Exit(4 if found["health"] in ("worse", "feed broken") else 0)


@app.command(epilog="Example: mlloop retrain --problem employment --reason 'new form since May'")
def retrain(
    problem: ProblemOption = None,
    moment: AtOption = None,
    explore: Annotated[bool, typer.Option("--explore", help="Choose among the candidates anew as well.")] = False,
    reason: ReasonOption = None,
    by: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a challenger on the data up to now, whatever the policy says; gate and canary are asked as always."""
    import datetime as dt

    from mlloop.loop import turn
    from mlloop.pipeline import runner

    settings, plan = runner.project(problem)
    now = _utc(moment) if moment else dt.datetime.now(dt.UTC).replace(tzinfo=None, minute=0, second=0, microsecond=0)
    with _telling(as_json) as watch, turn.opened(settings, plan, _command(), watch) as place:
        ended = turn.retrain_now(place, now, _person(by), tuple(reason or ()), explore)
    if as_json:
        _print_json({"problem": plan.problem, "at": now.isoformat(), "ended": ended})
    else:
        for one in ended or [{"outcome": "was done already", "reasons": [], "model": None}]:
            typer.echo(f"{plan.problem} {now:%Y-%m-%d}: {one['outcome']}. {'; '.join(one['reasons'])}")
        _say_stands(settings, plan.base, False)
    refused = any(one["outcome"] in ("gate said no", "failed") for one in ended)
    raise typer.Exit(3 if refused else 0)


@app.command(epilog="Example: mlloop loop --problem shop --until 2025-11-03")
def loop(
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="The last moment of the history.")],
    problem: ProblemOption = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Where it begins; default: the statement's as_of.")
    ] = None,
    every: Annotated[int | None, typer.Option(min=1, metavar="DAYS", help="Must be the statement's rhythm.")] = None,
    always: Annotated[
        bool, typer.Option("--always/--no-always", help="Compare with fixed schedules of retraining as well.")
    ] = True,
    pages: Annotated[
        bool, typer.Option("--pages/--no-pages", help="Make the notebooks of what was decided, and the page.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Turn the loop through a history and say what it decided and gained against never and always retraining."""
    from mlloop.loop import start
    from mlloop.pipeline import runner

    settings, plan = runner.project(problem)
    start.must_be_in_production(settings, plan)
    from mlloop.loop import history

    def told(line) -> None:
        if as_json:
            return
        one, ends = line.turned, "".join(f"; {e['what']} {e['outcome'].replace('_', ' ')}" for e in line.turned.ended)
        took = "" if one.fresh else f" {sum(one.seconds.values()):5.1f} s"
        typer.echo(f"{plan.problem:<12} {one.at[:10]} {line.number:>3}/{line.of}{took}  {one.action}{ends}")

    with _telling(as_json) as watch:
        done = history.loop(
            settings,
            plan,
            _utc(until, "--until"),
            _utc(since, "--from") if since else None,
            every,
            told=told,
            watch=watch,
            always=always,
            pages=pages,
        )
    if as_json:
        _print_json(done.summary)
        return
    typer.echo("")
    for line in history.sentences(done.summary):
        typer.echo(f"{plan.problem}: {line}")
    if done.turned:
        _write_pages(settings, True)
    else:
        typer.echo(f"{plan.problem}: nothing to do, every turn was made")
    if done.page:
        typer.echo(f"page: {os.path.relpath(done.page)}")


@app.command(epilog="Example: mlloop backtest --problem shop --until 2025-11-03")
def backtest(
    problem: ProblemOption = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="TIME", help="The last moment; default: that of the last mlloop loop."),
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", help="A policy's name; may be repeated; default: all. See --list.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Replays at the same time.")] = 2,
    show: Annotated[bool, typer.Option("--list", help="Only say which policies there are.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the turned copies under .mlloop/backtest.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Replay the history under several retraining policies, gates and trials included, and say which is worth most.

    Each replay is mlloop loop in a copy of the project. What was replayed is kept; killed, the same command goes on.
    """
    from mlloop.loop import start
    from mlloop.pipeline import runner

    settings, plan = runner.project(problem)
    if show:
        from mlloop.loop import backtest as replays

        known = replays.policies(replays.problems.load(runner.statement_file(settings, plan)))
        return _print_json(known) if as_json else typer.echo("\n".join(f"{one.name:<16} {one.said}" for one in known))
    start.must_be_in_production(settings, plan)
    end = _utc(until, "--until") if until else start.last_end(settings, plan)
    from mlloop.loop import backtest as replays

    def told(one) -> None:
        if not as_json:
            total = one.summary["totals"].get("loop", {})
            took = "kept" if one.kept else f"{one.seconds:.0f} s"
            typer.echo(f"{plan.base}: {one.policy.name:<16} {took:>7}  {total.get('retrainings', 0)} retrainings")

    with _telling(as_json) as watch:
        found = replays.backtest(settings, plan, end, policy or (), jobs, told, watch, keep)
    if as_json:
        return _print_json(found)
    typer.echo("")
    for line in replays.sentences(found):
        typer.echo(line)


# ---------------------------------------------------------------------------------------------- looking


@app.command(epilog="Example: mlloop report --open")
def report(show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False) -> None:
    """Write the pages of everything that ran; prints where they begin."""
    from mlloop.core import settings as _settings
    from mlloop.pages import report as pages

    settings = _settings.load()
    index = pages.write(settings, states=_states(settings))
    typer.echo(os.path.relpath(index))
    if show:
        typer.launch(index.as_uri())


@app.command(epilog="Example: mlloop export airflow --problem shop --out dags/shop.py")
def export(
    target: Annotated[str, typer.Argument(help="airflow")],
    problem: Annotated[
        list[str] | None, typer.Option("--problem", "-p", help="May be repeated; default: all statements.")
    ] = None,
    schedule: Annotated[str, typer.Option(help="Airflow's: @daily, @weekly or a cron expression.")] = "@daily",
    command: Annotated[str, typer.Option(help="How mlloop is called there.")] = "mlloop",
    out: Annotated[Path | None, typer.Option(help="The file to write; default: the terminal.")] = None,
) -> None:
    """Write the loop for a scheduler: a file that calls mlloop tick for each problem."""
    import datetime as dt

    from mlloop.core import settings as _settings
    from mlloop.pages import problem_view
    from mlloop.scaffold import export as exporting

    if target not in exporting.TARGETS:
        raise UsageError(
            f"target is {target!r}, expected one of {', '.join(exporting.TARGETS)}",
            next_step="Example: mlloop export airflow. For cron and systemd: docs/schedule.md",
        )
    settings = _settings.load()
    text = exporting.airflow(settings.root, problem or problem_view.names(settings), schedule, command, dt.date.today())
    typer.echo(os.path.relpath(exporting.write(out.resolve(), text)) if out else text, nl=bool(out))


@app.command(epilog="Example: mlloop check")
def check() -> None:
    """Find what would fail before anything runs: settings, pipeline, statements, notebooks and their exports."""
    from mlloop.scaffold import checks

    said = checks.everything()
    for line in said:
        typer.echo(f"ok: {line}")


@app.command(
    epilog="Example: mlloop lab --no-browser",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def lab(context: typer.Context) -> None:
    """Open JupyterLab in the project with every notebook working; further options go to JupyterLab."""
    from mlloop.core import settings as _settings
    from mlloop.lab import jupyterlab

    raise typer.Exit(jupyterlab.start(_settings.load(), context.args))


@app.command(epilog="Example: mlloop debug training --problem shop")
def debug(
    stage: Annotated[str, typer.Argument(help="The stage to look into.")],
    problem: ProblemOption = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in JupyterLab.")] = True,
) -> None:
    """Open a stage's notebook with its true inputs filled in, to run it cell by cell."""
    from mlloop.lab import jupyterlab
    from mlloop.pipeline import runner

    settings, plan = runner.project(problem)
    path = jupyterlab.with_inputs(settings, plan, plan.task(stage))
    typer.echo(os.path.relpath(path))
    if show:
        raise typer.Exit(jupyterlab.start(settings, [str(path)]))


# ---------------------------------------------------------------------------------------------- errors


def _print_json(value: Any) -> None:
    from mlloop.core import storage

    typer.echo(json.dumps(storage.plain(value), indent=1, ensure_ascii=False))


def _complain(error: MlloopError) -> None:
    typer.secho(str(error), fg=typer.colors.RED, err=True)


def main() -> None:
    """Entry point: a user's mistake is told in a line, a fault of ours with its log's path."""
    try:
        code = app(standalone_mode=False)
        if code == 130:  # how typer tells of an interrupt
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except MlloopError as error:
        _complain(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.secho("interrupted; finished stages are kept and the next mlloop run goes on from there", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            sys.exit(error.exit_code)
        sys.exit(_fault(error) if not _is_no_room(error) else 1)


def _is_no_room(error: Exception) -> bool:
    """Whether the machine refused to write; then it is told."""
    from mlloop.core.storage import NO_ROOM

    if not isinstance(error, OSError) or error.errno not in NO_ROOM:
        return False
    step = "Make room or give permission, then run it again"
    _complain(MlloopError(f"cannot be written: {error.strerror}", str(error.filename or Path.cwd()), step))
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
