"""What a notebook waits for its first cell: warm kernels, kernels started ahead, fresh ones.

    python benchmarks/kernels.py [--repeat N]

The kinds take turns within one run and are compared by the ratio of their medians, so a busy machine slows all alike.
'imports' adds the wait for ``import pandas, sklearn.ensemble, seaborn, torch, mlflow`` in that cell.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from nbformat.v4 import new_code_cell, new_notebook

from mlloop.core import settings
from mlloop.kernels import execute

IMPORTS = "import pandas, sklearn.ensemble, seaborn, torch, mlflow"
PAUSE_S = 1.0


def first_cell_s(source: str, place: settings.Settings, pool: execute.Pool) -> tuple[float, float]:
    """Seconds from the call to the end of a first cell, and to the return."""
    ended: list[float] = []
    note = lambda event: ended.append(time.monotonic()) if event.seconds is not None else None
    notebook, began = new_notebook(cells=[new_code_cell(source)]), time.monotonic()
    execute.run_notebook(notebook, place.root / "out.ipynb", cwd=place.root, settings=place, pool=pool, on_cell=note)
    return ended[0] - began, time.monotonic() - began


def measure(place: settings.Settings, repeat: int) -> dict[str, dict[str, float]]:
    """Medians of each kind, the kinds in turn; a pause before each lets the kernel ahead get ready."""
    pools = {
        "fresh": execute.pool(replace(place, kernel_pool="fresh")),
        "warm": execute.pool(place, ahead=0),
        "ahead": execute.pool(place, ahead=1),
    }
    while (said := execute.running(place)).get("imported", 0) < said.get("libraries", 1):
        time.sleep(0.1)
    taken: dict[str, dict[str, list[float]]] = {kind: {"start": [], "imports": [], "whole": []} for kind in pools}
    for _ in range(repeat):
        for kind, pool in pools.items():
            for name, source in (("start", "1"), ("imports", IMPORTS)):
                time.sleep(PAUSE_S)
                first, whole = first_cell_s(source, place, pool)
                taken[kind][name].append(first)
                taken[kind]["whole"] += [whole] if name == "start" else []
    for pool in pools.values():
        pool.close()
    return {kind: {name: statistics.median(times) for name, times in names.items()} for kind, names in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("settings.ini", "pipeline.yaml"):
            (Path(folder) / name).write_text("")
        place = settings.load(folder)
        began = time.monotonic()
        with execute.pool(place, ahead=0) as pool:
            cold, _ = first_cell_s("1", place, pool)
            medians = measure(place, options.repeat)
        execute.stop(place)
    if options.json:
        print(json.dumps({"first_ever_s": cold, "median_s": medians}))
        return
    print(f"| kernel | first cell | with imports | one-cell notebook, whole |   medians of {options.repeat}")
    print("|---|---|---|---|")
    for kind, median in medians.items():
        shown = [f"{median[name]:.3f} s ({median[name] / medians['fresh'][name]:.2f}x)" for name in median]
        print(f"| {kind} | {' | '.join(shown)} |")
    print(f"First cell ever, the pool being started: {cold:.2f} s. All: {time.monotonic() - began:.0f} s.")


if __name__ == "__main__":
    main()
