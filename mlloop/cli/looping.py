"""Commands of the loop in time: ingest, tick, monitor, retrain, loop, backtest."""

from typing import Annotated

import typer

from mlloop.cli import options, output
from mlloop.core import clock
from mlloop.core.formatting import duration
from mlloop.core.records import EndedJson

app = typer.Typer()


@app.command(epilog="Example: mlloop ingest --problem clicks --follow --metrics-port 9108")
def ingest(
    problem: options.Problem = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="May be repeated; default: all of kind kafka.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until SIGTERM or Ctrl-C.")] = False,
    every_s: Annotated[float, typer.Option(min=0.1, help="Seconds after which a micro-batch lands.")] = 10,
    batch_rows: Annotated[int, typer.Option(min=1, help="Messages after which one lands.")] = 10_000,
    idle_s: Annotated[float, typer.Option(min=0.1, help="Without --follow: end when no message came for so long.")] = 5,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve /metrics there: messages, lag.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Where /metrics listens.")] = "127.0.0.1",
    as_json: options.Json = False,
) -> None:
    """Land the messages of Kafka topics in the lake, each exactly once; run and tick read what has landed."""

    def show(name: str, batch) -> None:
        if follow and not as_json:
            offsets = " ".join(f"{partition}:{at}" for partition, at in sorted(batch.until.items()))
            typer.echo(f"{name}: {batch.messages:,} messages landed, offsets {offsets}")

    done = options.project().ingest(
        problem, sources=source or (), follow=follow, every_s=every_s, batch_rows=batch_rows, idle_s=idle_s,
        metrics=(metrics_host, metrics_port) if metrics_port is not None else None, on_landed=show, watch=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    if as_json:
        return output.as_json(vars(done))
    for name, count in done.messages.items():
        offsets = " ".join(f"{partition}:{at}" for partition, at in done.offsets[name].items())
        typer.echo(
            f"{done.problem}: source {name}: {count:,} messages landed; the lake has offsets {offsets or 'none'}"
        )


@app.command(epilog="Example: mlloop tick --problem shop")
def tick(
    problem: options.Problem = None,
    at: options.At = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="STEP", help="Stop after collect, monitor, canary, decide or retrain; for a scheduler."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide on a copy of the state; nothing is kept.")] = False,
    as_json: options.Json = False,
) -> None:
    """Turn the loop once, for a scheduler: data, answers, monitoring, canary, decision, retraining; exit 4 on an alert.

    Without --at the next turn of the problem's schedule is made, if its time has come. Safe to run twice and to kill.
    With --until a scheduler makes it step by step: give the later steps the moment of the first one as --at.
    """
    project = options.project()
    output.lost(project)
    with output.words(as_json) as watch, output.as_it_is_decided(as_json or dry_run):
        done = project.tick(problem, at=options.moment(at), until=until, dry_run=dry_run, watch=watch)
    _print_turn(done, as_json, dry_run)
    if not dry_run and not done.fresh and until is None:
        for page in output.pages(project):
            if not as_json:
                typer.echo(f"  page: {output.relative(page)}")
    raise typer.Exit(4 if done.alert else 0)


def _print_turn(turn, as_json: bool, dry: bool = False) -> None:
    from mlloop.loop.schedule import NOT_DUE

    if as_json:
        return output.as_json({**turn.to_dict(), "dry_run": dry})
    if turn.action == NOT_DUE:
        return typer.echo(f"{turn.problem}: {turn.summary}")
    word = "would be: " if dry else "already decided: " if turn.fresh else ""
    typer.echo(f"{turn.problem} {turn.at[:10]}: {word}{turn.action}. {turn.summary}")
    for end in turn.ended:
        typer.echo(
            f"  {end['what']} {str(end['model'])[:12]}: {end['outcome'].replace('_', ' ')} ({'; '.join(end['reasons'])})"
        )
    if turn.change:
        typer.echo(f"  what would change it: {turn.change}")
    for warning in turn.warnings:
        typer.echo(f"  warning: {warning}", err=True)
    canary = f"; canary {turn.canary[:12]}" if turn.canary else ""
    typer.echo(
        f"  in production: {str(turn.champion)[:12]}{canary}; {turn.answered:,} answers; model {turn.health or 'not looked at'}"
    )
    if turn.due:
        typer.echo(f"  nothing is due until {turn.due[:16].replace('T', ' ')} UTC")


@app.command(epilog="Example: mlloop monitor --problem employment --at 2016-01-29")
def monitor(problem: options.Problem = None, at: options.At = None, as_json: options.Json = False) -> None:
    """Look at the model in production over the last whole period, deciding nothing; exit 4 on an alert."""
    with output.words(as_json) as watch:
        monitored = options.project().monitor(problem, at=options.moment(at), watch=watch)
    if as_json:
        output.as_json(monitored.product)
    else:
        typer.echo(
            f"{monitored.problem}, period until {monitored.until:%Y-%m-%d}: {monitored.health}. {monitored.product['said']}"
        )
        typer.echo(f"  notebook: {output.relative(monitored.notebook)}")
    raise typer.Exit(4 if monitored.alert else 0)


@app.command(epilog="Example: mlloop retrain --problem employment --reason 'new form since May'")
def retrain(
    problem: options.Problem = None,
    at: options.At = None,
    explore: Annotated[bool, typer.Option("--explore", help="Choose among the candidates again as well.")] = False,
    reason: options.Reason = None,
    by: options.By = None,
    as_json: options.Json = False,
) -> None:
    """Train a challenger on the data up to now, whatever the policy says; gate and canary are asked as always."""
    project = options.project()
    now = options.moment(at) or clock.now().replace(minute=0, second=0, microsecond=0)
    output.lost(project)
    with output.words(as_json) as watch, output.as_it_is_decided(as_json):
        ended = project.retrain(problem, at=now, explore=explore, reason=reason or (), by=by, watch=watch)
    production = project.in_production(problem)
    if as_json:
        output.as_json({"problem": production.problem, "at": now.isoformat(), "ended": ended})
    else:
        before: EndedJson = {"what": "retraining", "outcome": "was done already", "reasons": [], "model": None}
        for attempt in ended or [before]:
            typer.echo(f"{production.problem} {now:%Y-%m-%d}: {attempt['outcome']}. {'; '.join(attempt['reasons'])}")
        output.in_production(production, False)
    refused = any(attempt["outcome"] in ("gate said no", "gate said maybe", "failed") for attempt in ended)
    raise typer.Exit(3 if refused else 0)


@app.command(epilog="Example: mlloop loop --problem shop --until 2025-11-03")
def loop(
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="The last moment of the history.")],
    problem: options.Problem = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Where it begins; default: the statement's as_of.")
    ] = None,
    every: Annotated[int | None, typer.Option(min=1, metavar="DAYS", help="Must be the statement's schedule.")] = None,
    always: Annotated[
        bool, typer.Option("--always/--no-always", help="Compare with fixed schedules of retraining as well.")
    ] = True,
    pages: Annotated[
        bool, typer.Option("--pages/--no-pages", help="Make the notebooks of what was decided, and the page.")
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Replay a history with the loop, and report its decisions and its gain over never and always retraining."""
    project = options.project()

    def show_turn(line) -> None:
        if as_json:
            return
        shown_line, ends = (
            line.turned,
            "".join(f"; {e['what']} {e['outcome'].replace('_', ' ')}" for e in line.turned.ended),
        )
        took = "" if shown_line.fresh else f" {duration(sum(shown_line.seconds.values())):>7}"
        typer.echo(
            f"{shown_line.problem:<12} {shown_line.at[:10]} {line.number:>3}/{line.of}{took}  {shown_line.action}{ends}"
        )

    last, first = options.moment(until, "--until"), options.moment(since, "--from")
    assert last is not None
    with output.words(as_json) as watch:
        done = project.loop(
            problem, until=last, since=first, every=every, always=always, pages=pages, on_turn=show_turn, watch=watch
        )
    if as_json:
        output.as_json(done.summary)
        return
    _print_history(project, done)


def _print_history(project, done) -> None:
    from mlloop.loop import history

    problem = done.summary["problem"]
    typer.echo("")
    for line in history.sentences(done.summary):
        typer.echo(f"{problem}: {line}")
    if done.turned:
        output.pages(project)
    else:
        typer.echo(f"{problem}: nothing to do, every turn was made")
    if done.page:
        typer.echo(f"page: {output.relative(done.page)}")


@app.command(epilog="Example: mlloop backtest --problem shop --until 2025-11-03")
def backtest(
    problem: options.Problem = None,
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
    as_json: options.Json = False,
) -> None:
    """Replay the history under several retraining policies, gates and trials included, and say which is worth most.

    Each replay is mlloop loop in a copy of the project. What was replayed is kept; killed, the same command continues.
    """
    project = options.project()
    if show:
        known = project.policies(problem)
        if as_json:
            return output.as_json([policy.to_dict() for policy in known])
        return typer.echo("\n".join(f"{policy.name:<16} {policy.description}" for policy in known))
    name = project.plan(problem).base

    def show_replay(replay) -> None:
        if not as_json:
            total = replay.summary["totals"].get("loop", {})
            took = "kept" if replay.kept else duration(replay.seconds)
            typer.echo(f"{name}: {replay.policy.name:<16} {took:>7}  {total.get('retrainings', 0)} retrainings")

    end = options.moment(until, "--until")
    with output.words(as_json) as watch:
        summary = project.backtest(
            problem, until=end, policy=policy or (), jobs=jobs, on_replay=show_replay, watch=watch, keep=keep
        )
    if as_json:
        return output.as_json(summary)
    from mlloop.loop import backtest as replays

    typer.echo("")
    for line in replays.sentences(summary):
        typer.echo(line)
