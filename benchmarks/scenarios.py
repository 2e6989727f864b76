"""Scenarios with a known truth, over many seeds: how often the loop decides right, and how late.

    python benchmarks/scenarios.py --seeds 20

Prints the table of docs/retraining.md. Each history is a world of `scenario_world`: 1,500 rows a period, labels one
period late, a boosted tree. What decides is the code of production; `scenario_world.Loop` says what is left out.
"""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from statistics import median

from scenario_world import Happening, Record, play

AT = 4
SCENARIOS = {
    "nothing changes": ([], 52, lambda r: not r.retrained),
    "shift that hurts": ([Happening("hurts", AT)], 16, lambda r: promoted_after(r) and not r.rolled_back),
    "shift that does not hurt": ([Happening("harmless", AT)], 16, lambda r: not r.retrained),
    "concept drift": ([Happening("concept", AT)], 24, lambda r: promoted_after(r) and r.retrained[0] > AT),
    "feed: nulls": ([Happening("nulls", AT, AT + 4)], 14, lambda r: named(r)),
    "feed: unit": ([Happening("unit", AT, AT + 4)], 14, lambda r: named(r)),
    "feed: column gone": ([Happening("gone", AT, AT + 4)], 14, lambda r: named(r)),
    "feed: duplicates": ([Happening("duplicates", AT, AT + 4)], 14, lambda r: named(r)),
    "bad labels": ([Happening("bad labels", AT, AT + 4)], 16, lambda r: not worse_promoted(r)),
    "block of one period": ([Happening("concept", AT, AT + 1)], 16, lambda r: not r.promoted and right_again(r, AT + 1)),
    "transient block": ([Happening("concept", AT, AT + 2)], 16, lambda r: right_again(r, AT + 2)),
    "broken challenger": ([Happening("hurts", AT), Happening("bad canary", 0)], 16, lambda r: bool(r.rolled_back) and not r.promoted),
}  # fmt: skip


def promoted_after(record: Record) -> bool:
    """Whether nothing was retrained before the change, and a challenger was promoted after it."""
    return bool(record.promoted) and record.retrained[0] >= AT


def worse_promoted(record: Record) -> bool:
    """Whether a model was promoted that is worse in truth than the one before."""
    return any(gain < -0.01 for gain in record.gains)


def right_again(record: Record, over: int) -> bool:
    """Whether what answers is as good as the first model from the turn that sees the first labels of the period `over` after a block."""
    first = over + 2  # its labels come a period later, and count from the period after
    return all(now > never - 0.01 for now, never in zip(record.quality[first:], record.never[first:], strict=True))


def named(record: Record) -> bool:
    """Whether the broken feed was named in each of its periods, and nothing was retrained."""
    return not record.retrained and record.actions[AT : AT + 4] == ["feed broken"] * 4


def one(job: tuple[str, int]) -> tuple[str, Record]:
    """The record of one history."""
    name, seed = job
    happenings, periods, _ = SCENARIOS[name]
    return name, play(seed, happenings, periods)


def main(arguments: list[str]) -> None:
    """Play every scenario and print a line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args(arguments)
    head = [
        "scenario",
        "histories",
        "decided right",
        "retrained (median period after the change)",
        "promoted",
        "rolled back",
    ]
    print(f"| {' | '.join([*head, 'refused by the gate', 'back to an earlier champion'])} |")
    print("|---|---|---|---|---|---|---|---|")
    with ProcessPoolExecutor(given.jobs) as pool:
        for name in (n for n in SCENARIOS if given.only in n):
            began = time.monotonic()
            records = [record for _, record in pool.map(one, [(name, seed) for seed in range(given.seeds)])]
            right = [seed for seed, record in enumerate(records) if SCENARIOS[name][2](record)]
            late = [record.retrained[0] - AT for record in records if record.retrained]
            counts = [
                sum(bool(getattr(r, what)) for r in records)
                for what in ("retrained", "promoted", "rolled_back", "refused", "fell_back")
            ]
            delay = f"{counts[0]} ({median(late):g})" if late and SCENARIOS[name][0] else str(counts[0])
            print(
                f"| {name} | {len(records)} | {len(right)} | {delay} | {counts[1]} | {counts[2]} | {counts[3]} | {counts[4]} |",
                flush=True,
            )
            wrong = sorted(set(range(len(records))) - set(right))
            print(f"{name}: {time.monotonic() - began:.0f} s, wrong: {wrong}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
