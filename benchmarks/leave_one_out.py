"""The public leave-one-out protocol at the size of MovieLens-1M or Pinterest: seconds and figures of each recommender.

    python benchmarks/leave_one_out.py [--size ml-1m|pinterest] [--tune N] [--models EASE NeuMF ...] [--json FILE] [PREFIX]

Without PREFIX (three files of the NCF paper's format) a world of that size is drawn and written in the format first:
users with 20 or more items each, a million interactions (ml-1m: 6,040 users, 3,706 items) or one and a half (pinterest:
55,187 users, 9,916 items); who likes what follows from 60 hidden tastes and from how well an item is known. Its figures
say how the recommenders compare there, not what they reach on MovieLens.
"""

import argparse
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from mlloop import leave_one_out

TASTES = 60


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("prefix", nargs="?")
    parser.add_argument("--size", choices=SIZES, default="ml-1m", help="of the drawn data")
    parser.add_argument("--tune", type=int, default=0, metavar="N")
    parser.add_argument("--models", nargs="*", default=list(leave_one_out.USUAL))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prefix = given.prefix or str(Path(folder, "drawn"))
        if not given.prefix:
            world(Path(prefix), SIZES[given.size])
        began = time.perf_counter()
        data = leave_one_out.read(prefix)
    print(f"read {len(data.train):,} interactions, {len(data.users):,} users in {time.perf_counter() - began:.1f} s")
    table = leave_one_out.compare(data, given.models, trials=given.tune, told=lambda line: print(line, flush=True))
    print("| model | HR@10 | NDCG@10 | seconds | seconds of tuning |\n|---|---|---|---:|---:|")
    for name, one in table.iterrows():
        told = [f"{one[w]:.3f} [{one[f'{w}_low']:.3f}, {one[f'{w}_high']:.3f}]" for w in ("hr", "ndcg")]
        print(f"| {name} | {told[0]} | {told[1]} | {one['seconds']:.0f} | {one['tuning_s']:.0f} |")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    if given.json:
        table.reset_index().to_json(given.json, orient="records", indent=1)


if __name__ == "__main__":
    main()
