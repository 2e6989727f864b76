"""Commands that write files for the programs around a project: `mlloop export NAME`, one command for each exporter."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mlloop.cli import options, output

export = typer.Typer(no_args_is_help=True)
app = typer.Typer()
app.add_typer(
    export,
    name="export",
    help="Write the loop for the programs around it; each is one page of docs/stack.md.",
    epilog="Example: mlloop export airflow --problem shop --out dags/shop.py",
)

Problems = Annotated[
    list[str] | None, typer.Option("--problem", "-p", help="May be repeated; default: all statements.")
]
File = Annotated[Path | None, typer.Option("--out", help="The file to write; default: the terminal.")]
Folder = Annotated[Path | None, typer.Option("--out", help="The folder to write to; default: deploy/NAME.")]
Command = Annotated[str, typer.Option(help="How mlloop is called there.")]
Schedule = Annotated[str, typer.Option(help="@daily, @weekly or a cron expression.")]


def _write(name: str, problems: list[str] | None, out: Path | None, **choices: Any) -> None:
    """Write an export, and print the paths; a single file without `out` is printed itself."""
    from mlloop.export import exporters

    project = options.project()
    target = exporters.exporter(name)
    if out is None and target.folder:
        out = project.root / target.folder
    content = project.export(name, problems, out=out, options=choices)
    if out is None:
        return typer.echo("".join(content.values()), nl=False)
    for path in [out] if not target.folder else [out / path for path in content]:
        typer.echo(output.relative(path))


@export.command(epilog="Example: mlloop export airflow --problem shop --out dags/shop.py")
def airflow(
    problem: Problems = None, schedule: Schedule = "@daily", command: Command = "mlloop", out: File = None
) -> None:
    """The loop as a DAG for Airflow: a file that calls mlloop."""
    _write("airflow", problem, out, schedule=schedule, command=command)
