"""What notebooks cost: the pipeline against one plain script of the same calls, and a run with nothing to do.

    python benchmarks/pipeline.py [--problem shop] [--sample 0.2] [--repeat 3] [--ploomber]

Every way runs in a fresh copy of the project. The script holds the same Run cells, stage after stage, in one process.
Figures are medians of wall seconds; ratios are within one run of this file, since machines are noisy.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlloop.core.settings import OFF
from mlloop.pipeline import plan as plans
from mlloop.pipeline import runner
from mlloop.pipeline.freshness import is_run_cell

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("settings.ini", "env.yaml", "pipeline.yaml", "requirements.lock", "problems", "nbs")


def copy_project(folder: Path) -> Path:
    """The project without what runs made."""
    for part in PARTS:
        source = ROOT / part
        shutil.copytree(source, folder / part) if source.is_dir() else shutil.copy(source, folder / part)
    return folder


def script_of(folder: Path, problem: str, sample: float) -> Path:
    """The Run cells of every stage as one plain Python script."""
    _, plan = runner.project(problem, folder, sample=sample)
    lines = [
        "import matplotlib; matplotlib.use('agg')",
        "import IPython.display as shown; shown.display = lambda *a, **k: [str(one) for one in a] and None",
    ]
    for task in plan.tasks.values():
        given = plans_of(plan, task)
        cells = json.loads(task.source.read_text(encoding="utf-8"))["cells"]
        work = [c for c in cells if is_run_cell(c | {"source": "".join(c["source"])})]
        code = ["".join(c["source"]) for c in work if "parameters" not in c["metadata"].get("tags", [])]
        lines += [f"{name} = {value!r}" for name, value in given.items()] + code
    script = folder / "script.py"
    script.write_text("\n".join(lines))
    return script


def plans_of(plan: plans.Plan, task: plans.Task) -> dict:
    given = runner.injected(plan, task)
    task.products["data"].parent.mkdir(parents=True, exist_ok=True)
    return given


def timed(command: list[str], folder: Path, **environment: str) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **OFF, **environment})
    took = time.perf_counter() - began
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return took


def mlloop(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mlloop", *arguments]


def measure(options) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(seconds)
        print(f"  {name}: {seconds:.2f} s", file=sys.stderr)

    run = ["run", "--problem", options.problem, "--set", f"sample={options.sample}"]
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory() as place:
            folder = copy_project(Path(place))
            script = script_of(folder, options.problem, options.sample)
            note("one plain script", timed([sys.executable, str(script)], folder))
        with tempfile.TemporaryDirectory() as place:
            folder = copy_project(Path(place))
            note("mlloop run, warm kernels, pool not started", timed(mlloop(*run), folder))
            note("mlloop run, nothing to do", timed(mlloop(*run), folder))
            note("mlloop run --force, warm kernels, pool waiting", timed(mlloop(*run, "--force"), folder))
            stage = json.loads((folder / f".mlloop/records/{options.problem}/evaluation.json").read_text())["seconds"]
            change_late_stage(folder)
            note("mlloop run, a late stage changed", timed(mlloop(*run), folder))
            note("  of which that stage's own work, before", stage)
            timed([sys.executable, "-m", "mlloop.kernels", "stop"], folder)
        with tempfile.TemporaryDirectory() as place:
            folder = copy_project(Path(place))
            note("mlloop run, fresh kernels", timed(mlloop(*run), folder, MLLOOP_KERNELS_POOL="fresh"))
        if options.ploomber:
            with tempfile.TemporaryDirectory() as place:
                folder = copy_project(Path(place))
                env = (folder / "env.yaml").read_text().replace("problem: shop", f"problem: {options.problem}")
                (folder / "env.yaml").write_text(env.replace("sample: 1.0", f"sample: {options.sample}"))
                note("plain ploomber build", timed([str(Path(sys.executable).with_name("ploomber")), "build"], folder))
        note("mlloop --help", timed(mlloop("--help"), ROOT))
    return found


def change_late_stage(folder: Path) -> None:
    """Change a Run cell of the evaluation without changing what it does."""
    path = folder / "nbs/21_evaluation.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cell = [c for c in notebook["cells"] if is_run_cell(c | {"source": "".join(c["source"])})][-1]
    cell["source"] = ["".join(cell["source"]) + "\n_changed = True"]
    path.write_text(json.dumps(notebook))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", default="shop")
    parser.add_argument("--sample", type=float, default=0.2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--ploomber", action="store_true", help="plain Ploomber as well (slow)")
    found = measure(parser.parse_args())
    script = statistics.median(found["one plain script"])
    print("| way | median (s) | min to max (s) | times the script |\n|---|---:|---:|---:|")
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        print(f"| {name} | {middle:.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {middle / script:.2f} |")


if __name__ == "__main__":
    main()
