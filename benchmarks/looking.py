"""What it costs `mlloop new`, and with --run `mlloop run`, to look at large files: processor seconds and memory.

    python benchmarks/looking.py --cases wide,long,feed,big --megabytes 500 --run --folder /a/disk/with/room

    wide    1,000 rows of 3,000 columns: numbers, categories, gaps
    long    a million rows of 13 columns
    feed    six monthly files of 200,000 rows and 18 columns
    big     one file of --megabytes

Each case is drawn from a fixed seed and is written as CSV. Wall seconds depend on what else a machine does; processor
seconds (user and system, of the command and of all it starts) hardly do. Memory is the largest sum over the command and its
children, each page counted once (PSS), looked at ten times a second.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

TARGETS = {"wide": "won", "long": "returned", "feed": "duration_s", "big": "returned"}


def wide(folder: Path, rows: int = 1_000, columns: int = 3_000) -> Path:
    """A table with more columns than rows; a few of them tell the target."""
    rng = np.random.default_rng(0)
    made = {f"x{i}": rng.normal(size=rows).round(4) for i in range(columns * 4 // 5)}
    made |= {f"n{i}": rng.integers(0, 50, rows).astype(float) for i in range(columns // 10)}
    made |= {f"c{i}": rng.choice(["red", "green", "blue", "white"], rows) for i in range(columns - len(made) - 1)}
    frame = pd.DataFrame(made)
    frame = frame.mask(pd.DataFrame(rng.random(frame.shape) < 0.02, columns=frame.columns))
    signal = frame["x0"].fillna(0) + 0.7 * frame["x1"].fillna(0) + (frame["c0"] == "red")
    frame["won"] = (signal + rng.logistic(size=rows) > 0.5).astype(int)
    frame.to_csv(folder / "wide.csv", index=False)
    return folder / "wide.csv"


def _orders(rows: int, start: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng([seed, start])
    at = pd.Timestamp("2023-01-01") + pd.to_timedelta(start + np.arange(rows), unit="s") * 30
    frame = pd.DataFrame({
        "order_id": start + np.arange(rows), "ordered_at": at.strftime("%Y-%m-%d %H:%M:%S"),
        "customer": rng.integers(0, 80_000, rows), "country": rng.choice(["DE", "FR", "IT", "ES", "PL"], rows),
        "channel": rng.choice(["web", "app", "shop"], rows, p=[0.5, 0.3, 0.2]), "price_eur": rng.gamma(2, 30, rows).round(2),
        "items": rng.integers(1, 9, rows), "discount": rng.random(rows).round(3), "weight_kg": rng.gamma(2, 1, rows).round(3),
        "sku": np.char.add("sku-", rng.integers(0, 20_000, rows).astype(str)), "is_gift": rng.choice(["yes", "no"], rows),
        "rating": rng.choice(["1", "2", "3", "4", "5", ""], rows),
    })  # fmt: skip
    frame["returned"] = (rng.random(rows) < 1 / (1 + np.exp(2 - frame["price_eur"] / 60 - frame["discount"]))).astype(
        int
    )
    return frame


def long(folder: Path, rows: int = 1_000_000) -> Path:
    """Many rows in the order of their time."""
    return _written(folder / "long.csv", (_orders(100_000, at, 1) for at in range(0, rows, 100_000)))


def big(folder: Path, megabytes: int = 500) -> Path:
    """A file of about so many megabytes."""
    part = len(_orders(10_000, 0, 2).to_csv(index=False)) / 10_000
    rows = int(megabytes * 1e6 / part)
    return _written(folder / "big.csv", (_orders(min(200_000, rows - at), at, 2) for at in range(0, rows, 200_000)))


def _written(path: Path, parts) -> Path:
    for number, frame in enumerate(parts):
        frame.to_csv(path, mode="a", header=number == 0, index=False)
    return path


def feed(folder: Path, rows: int = 200_000) -> Path:
    """Trips of six months, a file a month."""
    (folder / "feed").mkdir()
    for month in range(6):
        rng = np.random.default_rng([3, month])
        begin = pd.Timestamp(2024, 1 + month, 1)
        start = begin + pd.to_timedelta(np.sort(rng.integers(0, 28 * 86_400, rows)), unit="s")
        distance = rng.gamma(2, 2, rows)
        seconds = (240 + 170 * distance * rng.lognormal(0, 0.3, rows)).round()
        frame = pd.DataFrame({"vendor": rng.integers(1, 3, rows), "pickup_at": start.strftime("%Y-%m-%d %H:%M:%S")})
        frame["passengers"] = rng.choice(["1", "2", "3", "4", ""], rows, p=[0.6, 0.2, 0.1, 0.05, 0.05])
        frame["distance_km"], frame["duration_s"] = distance.round(2), seconds
        frame["store_flag"] = rng.choice(["Y", "N"], rows, p=[0.02, 0.98])
        frame["from_zone"], frame["to_zone"] = rng.integers(1, 266, rows), rng.integers(1, 266, rows)
        frame["payment"] = rng.choice(["card", "cash", "none"], rows)
        for fee in ("extra", "tax", "tip", "tolls", "surcharge", "airport", "night", "waiting", "booking"):
            frame[fee] = (rng.random(rows) < 0.4) * rng.gamma(1, 2, rows).round(2)
        frame.to_csv(folder / "feed" / f"trips_2024-{month + 1:02}.csv", index=False)
    return folder / "feed"


def cost(command: list[str], folder: Path) -> dict[str, float]:
    """Wall seconds, processor seconds and the largest memory in megabytes of a command and of all that it starts."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    most, spent, over = 0.0, {}, threading.Event()

    def look() -> None:
        nonlocal most
        whole = psutil.Process(process.pid)
        while not over.wait(0.1):
            held = 0.0
            try:
                alive = [whole, *whole.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for one in alive:
                try:
                    held += one.memory_full_info().pss / 1e6
                    used = one.cpu_times()
                    spent[one.pid] = used.user + used.system
                except psutil.Error:
                    continue
            most = max(most, held)

    watcher = threading.Thread(target=look)
    watcher.start()
    out, err = process.communicate()
    over.set(), watcher.join()
    return {"wall_s": time.perf_counter() - began, "cpu_s": sum(spent.values()), "memory_mb": most,
            "exit": process.returncode, "out": out, "err": err}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", default="wide,long,feed")
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--run", action="store_true", help="mlloop run as well")
    parser.add_argument("--folder", type=Path, help="where files and projects lie; default: a temporary folder")
    parser.add_argument("--show", action="store_true", help="what the commands print")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mlloop-looking-", dir=given.folder))
    print(f"{'case':<6} {'command':<8} {'wall s':>8} {'cpu s':>8} {'memory MB':>10}  exit")
    for case in given.cases.split(","):
        make = {"wide": wide, "long": long, "feed": feed}.get(case, lambda to: big(to, given.megabytes))
        data, root = make(folder), folder / f"{case}_project"
        mlloop = [sys.executable, "-m", "mlloop"]
        commands = {"new": [*mlloop, "new", str(root), "--data", str(data), "--target", TARGETS[case]]}
        commands |= {"run": [*mlloop, "run"]} if given.run else {}
        for name, command in commands.items():
            done = cost(command, folder if name == "new" else root)
            print(f"{case:<6} {name:<8} {done['wall_s']:>8.1f} {done['cpu_s']:>8.1f} {done['memory_mb']:>10,.0f}  {done['exit']}", flush=True)  # fmt: skip
            if given.show or done["exit"] not in (0, 3) or done["err"]:
                print(done["out"][-3000:], done["err"][-3000:], sep="\n")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
