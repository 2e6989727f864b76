"""Commands on the model in production: promote, rollback, serve, predict."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mlloop.cli import options, output
from mlloop.core import metric_table
from mlloop.core.errors import UsageError
from mlloop.core.formatting import number
from mlloop.core.records import Parameters

app = typer.Typer()
LOGS = Path("predictions")
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be in production; nothing is decided.")]
LogFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="With --release: where predictions are logged; default for serve: predictions."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask on a terminal.")]


@app.command(epilog="Example: mlloop promote --problem employment --reason 'agreed with the owner'")
def promote(
    model: Annotated[
        str | None, typer.Argument(help="A model's digest (its beginning is enough); default: the one trained last.")
    ] = None,
    problem: options.Problem = None,
    canary: Annotated[bool, typer.Option("--canary", help="On a share of the requests, beside the champion.")] = False,
    reason: options.Reason = None,
    by: options.By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: options.Json = False,
) -> None:
    """Put a model that its gate let pass into production."""
    project = options.project()
    output.lost(project)
    decide, head = (
        partial(project.promote, problem, model, canary=canary, reason=reason or (), by=by),
        project.ledger.head(),
    )
    _decide(project, decide, dry_run, yes, as_json)
    if not as_json and not dry_run and project.ledger.head() == head:
        typer.echo(f"nothing changed{_refused(project, problem) if model is None else ''}")


def _refused(project, problem: str | None) -> str:
    """That the model trained last is not the one in production, since its gate said No; '' where that is not so."""
    name = project.in_production(problem).problem
    asked, champion = (
        project.ledger.last(problem=name, kind="gate", subject="validation"),
        project.ledger.champion(name),
    )
    if asked is None or asked.verdict != "no" or champion is None or asked.model in (None, champion.model):
        return ""
    return f": the model trained last, {asked.model[:12]}, was refused by the validation gate. See why: mlloop log --kind gate"


def _decide(project, decide, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Show what would be, ask a person on a terminal, decide, and print the result in the moment in which it stands."""
    is_asked = not (yes or as_json or dry_run) and sys.stdin.isatty() and sys.stdout.isatty()
    if dry_run or is_asked:
        then = decide(dry_run=True)
        if as_json:
            return output.as_json({**vars(then), "dry_run": True})
        now = project.in_production(then.problem)
        typer.echo(f"now       {output.production_line(now)}\nwould be  {output.production_line(then)}")
        if then == now:
            return typer.echo("nothing to decide: it is so already")
        if dry_run:
            return
        if not typer.confirm("Decide so?"):
            return typer.echo("nothing was decided")
    decide(on_decided=lambda now: output.in_production(now, as_json))


@app.command(epilog="Example: mlloop rollback --problem employment --reason 'complaints since Monday'")
def rollback(
    problem: options.Problem = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="An earlier champion, so that repeating it changes nothing; default: the one before."
        ),
    ] = None,
    canary: Annotated[bool, typer.Option("--canary", help="Only end the canary.")] = False,
    reason: options.Reason = None,
    by: options.By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: options.Json = False,
) -> None:
    """Go back to an earlier champion, or end a canary."""
    project = options.project()
    output.lost(project)
    decide = partial(project.rollback, problem, to=to, canary=canary, reason=reason or (), by=by)
    _decide(project, decide, dry_run, yes, as_json)


@app.command(epilog="Example: mlloop serve --problem shop --problem employment --port 8000")
def serve(
    problem: Annotated[
        list[str] | None, typer.Option("--problem", "-p", help="May be repeated; default: all that have a champion.")
    ] = None,
    release: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="A release by itself, without a project; may be repeated."),
    ] = None,
    log_folder: LogFolder = None,
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
    request_s: Annotated[float, typer.Option(min=0.1, help="Seconds in which a request must have arrived whole.")] = 15,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests answered at the same time; more get 503.")] = 256,
    once: Annotated[
        bool, typer.Option("--once", help="Ask each problem for one real row over HTTP, and stop.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Answer over HTTP with the models in production: /predict, /recommend, /docs, /metrics, /health, /ready."""
    bounds: Parameters = dict(
        host=host, port=port, token_file=token_file, max_body=max_body, poll_s=poll_s, durable=durable, request_s=request_s,
        max_requests=max_requests,
    )  # fmt: skip
    if release:
        if problem or once:
            step = "Leave them out: mlloop serve --release FOLDER"
            raise UsageError("--release says which model answers; it goes without --problem and --once", None, step)
        return _serve_alone(release, log_folder or LOGS, bounds)
    _without_release(log_folder, "serve")
    project = options.project()
    output.lost(project)
    answers = project.serve(problem, once=once, ready=partial(_ready, project, problem), **bounds)
    if not once:
        return
    if as_json:
        output.as_json(answers)
    for response in answers if not as_json else []:
        answer = response["answer"]
        if response["status"] != 200:
            line = f"refused with {response['status']}: {answer}"
        elif "items" in answer:
            line = f"for {response['asked']['user']}: {', '.join(answer['items'])}"
        else:
            line = f"{answer['prediction']} (score {number(answer['score'])})"
        typer.echo(f"{response['problem']}: POST {response['path']} -> {line}, model {answer.get('model', '?')}")
    raise typer.Exit(0 if all(response["status"] == 200 for response in answers) else 1)


def _serve_alone(folders: list[Path], logs: Path, bounds: Parameters) -> None:
    """Answer with the releases of folders: no project, no ledger, no canary."""
    from mlloop.service import http
    from mlloop.service.models_in_use import InFolders

    models = InFolders(folders, logs)

    def ready(address: str) -> None:
        typer.echo(f"answering at {address} (/docs), predictions are logged in {logs}")
        for name, served in models.releases.items():
            typer.echo(f"  {name}: model {served.model[:12]}, release {served.digest[:12]}")

    http.serve(models, http.Options.stated(**bounds), ready=ready)


def _without_release(log_folder: Path | None, command: str) -> None:
    """A project has its own place for predictions."""
    if log_folder is not None:
        step = f"Leave it out, or name a release: mlloop {command} --release FOLDER"
        raise UsageError("--log-folder goes with --release; a project logs in its own state folder", next_step=step)


def _ready(project, problems: list[str] | None, address: str) -> None:
    """Say where predictions are had, of which models, and of which revisions of the statements."""
    from mlloop.core import revisions

    typer.echo(f"answering at {address} (/docs)")
    for name, standing in project.ledger.at().items():
        if standing.champion and (not problems or name in problems):
            model = str(standing.champion.model)
            revision = revisions.of_model(project.ledger.rows(problem=name, kind="gate")).get(model)
            typer.echo(f"  {name}{f', revision {revision}' if revision else ''}: model {model[:12]}")


@app.command(epilog="Example: mlloop predict people.csv --problem employment --out scored.parquet")
def predict(
    table: Annotated[
        str,
        typer.Argument(
            help="A CSV, Parquet or JSON file, a spreadsheet, or a table of the lake: lake:employment/holdout"
        ),
    ],
    problem: options.Problem = None,
    out: Annotated[
        Path | None, typer.Option(help="A CSV or Parquet file; default: a few rows on the terminal.")
    ] = None,
    log: Annotated[bool, typer.Option("--log/--no-log", help="Keep the answers in the prediction log.")] = True,
    release: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A release by itself, without a project; logs only with --log-folder."),
    ] = None,
    log_folder: LogFolder = None,
    as_json: options.Json = False,
) -> None:
    """Answer for every row of a file or table, with the code that answers requests."""
    if release:
        from mlloop.service import batch

        done = batch.score_alone(release, table, out, log_folder if log else None)
    else:
        _without_release(log_folder, "predict")
        done = options.project().predict(table, problem, out=out, log=log)
    if as_json:
        output.as_json(done.summary)
    else:
        if out is None:
            typer.echo(done.answered.head(20).to_string())
        typer.echo(f"{done.summary['problem']}: {done.summary['answered']:,} of {done.summary['rows']:,} rows answered")
        for role, threshold in done.summary["threshold"].items():
            typer.echo(f"  - {role}: {metric_table.threshold_in_words(**threshold)}")
        for reason, count in done.summary["refused"].items():
            typer.echo(f"  - {count:,} refused: {reason}")
    raise typer.Exit(0 if done.summary["answered"] or not done.summary["rows"] else 1)
