"""The public leave-one-out protocol: an item of each user left out, among 99 that the user never touched.

    python benchmarks/leave_one_out.py PREFIX -m EASE -m NeuMF --tune 8 --json
    python benchmarks/leave_one_out.py events.csv --columns user,item,time
    python benchmarks/leave_one_out.py --size pinterest

Without PREFIX a data set of that size is drawn and written in the format first: users with 20 or more items each, a
million interactions (ml-1m: 6,040 users, 3,706 items) or one and a half (pinterest: 55,187 users, 9,916 items); who likes
what follows from 60 hidden tastes and from how well an item is known. Its figures say how the recommenders compare there,
not what they reach on MovieLens.
"""

import json
import os
import resource
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import protocol
import typer
from rich.console import Console
from rich.table import Table

from mlloop.core.errors import MlloopError, UsageError

TASTES = 60
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Size:
    """How many users and items, and how many interactions a user has beyond 20 (a log-normal's mean and deviation)."""

    users: int
    items: int
    mean: float
    deviation: float


SIZES = {"ml-1m": Size(6040, 3706, 4.45, 1.05), "pinterest": Size(55_187, 9916, 1.6, 0.8)}


def world(prefix: Path, size: Size = SIZES["ml-1m"], seed: int = 0) -> None:
    """Write the three files of a drawn data set of that size."""
    rng, items = np.random.default_rng(seed), size.items
    mine, of_item = rng.gamma(0.07, 1.0, (size.users, TASTES)), rng.gamma(0.07, 1.0, (items, TASTES))
    mine /= mine.sum(axis=1, keepdims=True)
    of_item /= np.sqrt((of_item**2).sum(axis=1, keepdims=True))
    known = rng.normal(0, 1.5, items)
    counts = np.clip(20 + rng.lognormal(size.mean, size.deviation, size.users), 20, items - 150).astype(int)
    with (
        Path(f"{prefix}.train.rating").open("w") as train,
        Path(f"{prefix}.test.rating").open("w") as test,
        Path(f"{prefix}.test.negative").open("w") as negative,
    ):
        for user in range(size.users):
            order = np.argsort(-known - 20 * of_item @ mine[user] - rng.gumbel(0, 1, items))
            chosen = rng.permutation(order[: counts[user]])
            times = np.sort(rng.integers(956_703_932, 1_046_454_590, len(chosen)))
            train.writelines(f"{user}\t{i}\t5\t{t}\n" for i, t in zip(chosen[:-1], times[:-1], strict=True))
            test.write(f"{user}\t{chosen[-1]}\t5\t{times[-1]}\n")
            drawn = rng.choice(order[counts[user] :], 99, replace=False)
            negative.write(f"({user},{chosen[-1]})\t" + "\t".join(map(str, drawn)) + "\n")


@app.command(help=(__doc__ or "").split("\n")[0])
def compare(
    data: Annotated[
        str | None,
        typer.Argument(help="Prefix of .train.rating, .test.rating and .test.negative (or their folder); or a CSV."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="May be repeated, e.g. EASE; default: all there are.")
    ] = None,
    tune: Annotated[int, typer.Option(min=0, help="Sets of parameters to try for each, judged inside training.")] = 0,
    columns: Annotated[str, typer.Option(help="A CSV's columns of user, item and time.")] = "user,item,time",
    k: Annotated[int, typer.Option("-k", min=1, help="Length of the list.")] = 10,
    seed: Annotated[int, typer.Option(help="Of models, of trials, and of a CSV's negatives.")] = 0,
    size: Annotated[
        str, typer.Option(help=f"Of the drawn data, where no PREFIX is given: {', '.join(SIZES)}.")
    ] = "ml-1m",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    try:
        read = _read(data, columns, size, seed)
        progress = lambda line: typer.echo(f"{line['model']}: {line['tuning_s'] + line['seconds']:.0f} s", err=True)
        table = protocol.compare(read, model, k, seed, tune, progress)
    except MlloopError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(error.exit_code) from error
    if as_json:
        typer.echo(json.dumps(table.reset_index().to_dict("records"), indent=1, default=float))
    else:
        _print(table, read, k)


def _read(data: str | None, columns: str, size: str, seed: int) -> protocol.Protocol:
    names = [name.strip() for name in columns.split(",")]
    if len(names) != 3:
        raise UsageError(
            f"--columns is {columns!r}, expected three names", next_step="Example: --columns user,item,time"
        )
    if data is not None:
        return protocol.read(data, seed=seed, columns=(names[0], names[1], names[2]))
    if size not in SIZES:
        raise UsageError(f"--size is {size!r}, expected one of {', '.join(SIZES)}", next_step="Example: --size ml-1m")
    with tempfile.TemporaryDirectory() as folder:
        world(Path(folder, "drawn"), SIZES[size], seed)
        return protocol.read(str(Path(folder, "drawn")))


def _print(table, read: protocol.Protocol, k: int) -> None:
    shown = Table(box=None, pad_edge=False)
    for heading in ("model", f"HR@{k}", f"NDCG@{k}", "seconds", "parameters found"):
        shown.add_column(heading, justify="right" if heading == "seconds" else "left", no_wrap=heading[0] != "p")
    for name, row in table.iterrows():
        hit, ndcg = (f"{row[w]:.3f} [{row[f'{w}_low']:.3f}, {row[f'{w}_high']:.3f}]" for w in ("hr", "ndcg"))
        params = ", ".join(f"{key} {value:.3g}" for key, value in row["params"].items())
        shown.add_row(str(name), hit, ndcg, f"{row['seconds'] + row['tuning_s']:.0f}", params)
    console = Console(highlight=False, markup=False)
    console.print(shown)
    counts = f"{len(read.users):,} users, {len(read.items):,} items, {len(read.train):,} interactions to learn from"
    console.print(f"{counts}; peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    app()
