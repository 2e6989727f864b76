"""What the commands print: JSON for programs, decisions in lines, errors in red."""

import contextlib
import datetime as dt
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from mlloop.core.errors import MlloopError

if TYPE_CHECKING:
    from pathlib import Path

    from mlloop.project import InProduction, Project


def as_json(value: Any) -> None:
    """Print a value as JSON."""
    from mlloop.core import storage

    typer.echo(json.dumps(storage.plain(value), indent=1, ensure_ascii=False))


def complain(error: MlloopError) -> None:
    """Print an error's own words."""
    typer.secho(str(error), fg=typer.colors.RED, err=True)


def note_warnings() -> None:
    """Print our own warnings as sentences, without the line of code that Python shows; those of others stay as they are."""
    import warnings

    from mlloop.core.errors import Noted

    shown = warnings.showwarning

    def show(message, category, *where, **more) -> None:
        if issubclass(category, Noted):
            typer.secho(f"note: {message}", fg=typer.colors.YELLOW, err=True)
        else:
            shown(message, category, *where, **more)

    warnings.showwarning = show


def lost(project: "Project") -> None:
    """Say on standard error that the ledger is empty, where this project knows rows of it."""
    if missing := project.lost_ledger():
        typer.secho(missing, fg=typer.colors.YELLOW, err=True)


@contextlib.contextmanager
def words(quiet: bool) -> Iterator[Callable[[str], None]]:
    """What is being done in a word, live on a terminal."""
    from rich.console import Console

    console = Console(highlight=False, stderr=True)
    if quiet or not (console.is_terminal and console.is_interactive):
        yield lambda word: None
        return
    with console.status("") as status:
        yield status.update


def pages(project: "Project", again: bool = True) -> "list[Path]":
    """Write the pages; an error there is printed and never hides what was done."""
    try:
        return [project.report(again=again)]
    except MlloopError as error:
        complain(error)
        return []


def in_production(now: "InProduction", in_json: bool) -> None:
    """Print which models are in production."""
    if in_json:
        as_json(now)
    else:
        typer.echo(production_line(now))
    sys.stdout.flush()


def production_line(now: "InProduction") -> str:
    """Which models are in production, in a line."""
    short = lambda digest: digest[:12] if digest else "no model"
    canary = f"; canary {short(now.canary)} until {str(now.until)[:16]}" if now.canary else ""
    return f"{now.problem}: in production {short(now.champion)}{canary}; before {short(now.previous)}"


@contextlib.contextmanager
def as_it_is_decided(quiet: bool) -> Iterator[None]:
    """Print each decision on standard error in the moment in which it stands: what follows may take minutes."""
    from mlloop.store import chain

    report = lambda row: typer.echo(f"recorded{recorded([row]).removeprefix(' ')}", err=True)
    if not quiet:
        chain.TOLD.append(report)
    try:
        yield
    finally:
        if not quiet:
            chain.TOLD.remove(report)


def recorded(rows) -> str:
    """The decisions that a stopped command had recorded, a line each."""
    line = lambda row: (
        f"  #{row.id} {row.problem}: {' '.join(filter(None, (row.kind, row.subject[:12], row.verdict)))}"
        + (f", model {row.model[:12]}" if row.model else "")
    )
    return "\n".join(map(line, rows))


def decisions(
    rows,
    whole: bool = False,
    unfolded: bool = True,
    revised: "Mapping[str, int] | None" = None,
    in_the_data: "Mapping[int, dt.datetime] | None" = None,
) -> None:
    """Print decisions, a line and their reasons each; of several reasons the first, unless the `whole` is wanted.

    Parameters
    ----------
    unfolded : bool
        Whether each of several like decisions in a row that changed nothing has its own line.
    revised : mapping, optional
        Model -> the revision of the statement that it was judged by; named where there are several.
    in_the_data : mapping, optional
        Decision's number -> where its data stood.
    """
    from textwrap import fill

    from rich.console import Console

    from mlloop.pages import wording

    console = Console(highlight=False, markup=False, soft_wrap=True)
    width, indent = min(console.width, 120), " " * (len(str(rows[-1].id)) + 3)
    several, revised, stood = len(set((revised or {}).values())) > 1, revised or {}, in_the_data or {}
    upkeep = [] if unfolded else [row for row in rows if wording.is_upkeep(row.kind, row.subject)]
    shown = [row for row in rows if row not in upkeep]
    for part in wording.runs(shown, _is_alike if not unfolded else lambda a, b: False):
        row = part[-1]
        action, outcome = (str(row.details.get(key) or "") for key in ("action", "outcome"))
        decision = wording.decision(row.kind, row.subject, action or row.subject, outcome)
        moments = [stood.get(decision.id) or decision.details.get("as_of") for decision in (part[0], row)]
        if len(part) > 1:
            decision += f", {len(part)} times"
        if all(moments):
            span = " to ".join(dict.fromkeys(map(wording.moment, moments)))
            decision += f" ({span} in the data)"
        verdict = f": {row.verdict}" if row.kind == "gate" and row.verdict else ""
        model = f", model {row.model[:12]}" if row.model else ""
        if row.model and row.details.get("was"):
            model = f", from {row.details['was'][:12]} to {row.model[:12]}"
        revision = row.details.get("revision") or revised.get(row.model)
        name = f"{row.problem} (revision {revision})" if several and revision else row.problem
        number = f"#{row.id}".ljust(len(indent))
        head = f"{str(row.at)[:16].replace('T', ' ')} UTC  {name}  {decision}{verdict}{model}, by {row.actor}"
        console.print(fill(head, width, initial_indent=number, subsequent_indent=indent, break_on_hyphens=False))
        more = len(row.reasons) - 1
        reasons = (
            row.reasons if whole else [f"{reason} (+{more} more)" if more else reason for reason in row.reasons[:1]]
        )
        for reason in reasons:
            console.print(
                fill(str(reason), width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
            )
    if upkeep:
        console.print(
            f"left out: {len(upkeep)} update{'s'[: len(upkeep) > 1]} of histories and counts; every row: mlloop log --all"
        )


def _is_alike(row, other) -> bool:
    """Whether two decisions about a problem are the same one again, which changed nothing."""
    from mlloop.pages import wording

    key = lambda row: (row.problem, row.subject, row.model)
    quiet = lambda row: wording.is_quiet(row.kind, row.subject, row.verdict)
    return quiet(row) and quiet(other) and key(row) == key(other)


def relative(path) -> str:
    """A path as it is typed from the current folder."""
    return os.path.relpath(path)
