"""Commands that open notebooks: lab, debug."""

from typing import Annotated

import typer

from mlloop.cli import options, output

app = typer.Typer()


@app.command(
    epilog="Example: mlloop lab --no-browser",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def lab(context: typer.Context) -> None:
    """Open JupyterLab in the project with every notebook working; further options go to JupyterLab."""
    raise typer.Exit(options.project().lab(*context.args))


@app.command(epilog="Example: mlloop debug training --problem shop")
def debug(
    stage: Annotated[str, typer.Argument(help="The stage to look into.")],
    problem: options.Problem = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in JupyterLab.")] = True,
) -> None:
    """Open a stage's notebook with its true inputs filled in, to run it cell by cell."""
    project = options.project()
    path = project.debug(stage, problem)
    typer.echo(output.relative(path))
    if show:
        raise typer.Exit(project.lab(str(path)))
