"""Commands on a project's files: new, upgrade, report, check."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mlloop.cli import options, output
from mlloop.core.errors import UsageError

app = typer.Typer()


@app.command(epilog="Example: mlloop new churn --data customers.csv --target churned --time signed_up_at")
def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new project's folder; its name is the problem's.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="A CSV, Parquet or JSON file (or .gz), a spreadsheet, a glob or folder of them, or an SQL URL."
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="COLUMN", help="What is to be predicted.")] = None,
    time: Annotated[str | None, typer.Option("--time", metavar="COLUMN", help="When a row happened.")] = None,
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
    from mlloop.project import Project

    created = Project.new(
        folder, data, target, time=time, id=key, user=user, item=item, task=task, positive=positive, table=table, query=query, history=history, ask=ask
    ).created  # fmt: skip
    assert created is not None
    width = max(len(what) for what, _ in [*created.notes, ("left out", "")])
    for what, guess in created.notes:
        typer.echo(f"{what:<{width}}  {guess}")
    for column, sign in created.leaks.items():
        typer.secho(f"{'leak':<{width}}  {column} {sign}: kept away from the model", fg=typer.colors.YELLOW)
    for column, sign in created.unconfirmed.items():
        question = f"{column} {sign.rstrip('.')}; is it known before the prediction? Say it in the statement, known: before or known: after"
        typer.secho(f"{'asked':<{width}}  {question}", fg=typer.colors.YELLOW)
    shown = os.path.relpath(created.root)
    typer.echo(f"\nRead {shown}/problems/{created.name}.yaml and fix the guesses, then:")
    typer.echo(f"  cd {shlex.quote(shown)} && mlloop run")
    if created.until:
        typer.echo(f"  mlloop loop --until {created.until}")


def _ask(question: str, choices, default: str | None) -> str:
    if choices:
        typer.echo(f"{question}\n  {', '.join(map(str, choices))}")
    while True:
        answer = str(typer.prompt(">" if choices else question, default=default))
        if not choices or answer in [str(choice) for choice in choices]:
            return answer
        from mlloop.problem import did_you_mean

        typer.echo(f"  {answer!r} is none of them{did_you_mean(answer, choices)}")


@app.command(epilog="Example: mlloop upgrade")
def upgrade() -> None:
    """Update a project's Run acts, pipeline.yaml and module names to the installed mlloop; your own cells stay."""
    from mlloop.scaffold.project_files import version

    for line in options.project().upgrade() or [f"nothing to do: the project is that of mlloop {version()}"]:
        typer.echo(line)


@app.command(epilog="Example: mlloop report --open")
def report(show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False) -> None:
    """Write the pages of everything that ran; prints where they begin."""
    project = options.project()
    typer.echo(output.relative(project.report(open=show)))
    output.lost(project)  # pages are written whatever the ledger looks like; that it does not hold is an error


@app.command(epilog="Example: mlloop check")
def check() -> None:
    """Find what would fail before anything runs: settings, pipeline, statements, notebooks and their exports."""
    for line in options.project().check():
        typer.echo(f"ok: {line}")


@app.command(
    epilog="Example: mlloop maintain --dry-run; mlloop maintain backup /mnt/backup/churn; mlloop maintain erase customer_id=C1042"
)
def maintain(
    action: Annotated[
        str,
        typer.Argument(
            metavar="[clean|erase|backup|restore]",
            help="clean: compact tables, remove what nothing cites; erase: one person's rows; backup, restore: the ledger and "
            "MLflow's database.",
        ),
    ] = "clean",
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[FOLDER|COLUMN=VALUE]", help="Of the backup; whose rows are erased (COLUMN=- reads the value)."
        ),
    ] = None,
    problem: options.Problem = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="clean, erase: change nothing, say what would be done.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="erase: do not ask; needed where there is no terminal.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Without progress.")] = False,
    as_json: options.Json = False,
) -> None:
    """Keep the project small: compact tables, remove versions and predictions past their retention; erase a person's rows; back up, restore."""
    needs = {"clean": "", "erase": "COLUMN=VALUE", "backup": "a folder", "restore": "a folder"}
    if action not in needs or bool(needs[action]) != (what is not None):
        wrong = f"{action!r} is none of {', '.join(needs)}"
        if action in needs:
            wrong = f"{action} needs {needs[action]}" if needs[action] else f"{action} takes nothing more"
        raise UsageError(wrong, next_step="Example: mlloop maintain; mlloop maintain backup FOLDER")
    if action == "erase":
        return _erase(str(what), problem, dry_run, yes, quiet, as_json)
    project = options.project()
    if what is not None:
        folder = Path(what)
        head = project.back_up(folder) if action == "backup" else project.restore(folder)
        if as_json:
            return output.as_json(head)
        typer.echo(f"{head.id} decisions, the chain holds: its head is {head.hash}")
        return typer.echo(
            f"backup: {output.relative(folder)}"
            if action == "backup"
            else "What was trained since is not in it; see: mlloop status"
        )
    from mlloop.loop import maintenance

    with output.words(quiet or as_json) as watch:
        done = project.maintain(problem, dry_run=dry_run, watch=watch)
    if as_json:
        return output.as_json(done)
    for line in maintenance.described(done, dry_run):
        typer.echo(line)


def _erase(whose: str, problem: str | None, dry_run: bool, yes: bool, quiet: bool, as_json: bool) -> None:
    """Show what would be erased, ask a person on a terminal, and erase it."""
    example = "Example: mlloop maintain erase customer_id=C1042 --dry-run"
    column, equals, value = whose.partition("=")
    if not equals or not column.strip():
        raise UsageError(f"{whose!r} is not COLUMN=VALUE", "maintain erase", example)
    value = sys.stdin.readline() if value == "-" else value
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    if not (dry_run or yes or is_terminal):
        raise UsageError("erasing cannot be undone, and there is no terminal to ask on", "maintain erase", "Add --yes")
    project = options.project()
    output.lost(project)
    from mlloop.loop import erasure

    def go(dry: bool):
        with output.words(quiet or as_json) as watch:
            return project.erase(column.strip(), value, problem, dry_run=dry, watch=watch)

    if dry_run or not yes:
        would_be = go(True)
        if dry_run and as_json:
            return output.as_json(would_be)
        for line in erasure.described(would_be, True):
            typer.echo(line)
        if dry_run or not any(part.rows or part.kept for part in would_be):
            return
        if not typer.confirm("Erase them? This cannot be undone."):
            return typer.echo("nothing was erased")
    done = go(False)
    if as_json:
        return output.as_json(done)
    for line in erasure.described(done, False):
        typer.echo(line)
