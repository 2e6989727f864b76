"""Commands killed at random moments, and what must hold after each kill.

    python benchmarks/kills.py --kills 100 --seed 0 --ledger sqlite --json kills.jsonl

A small project with the real stages is made once. For each kill it is copied, a command is started in the copy and
gets SIGKILL after a random part of the time that it takes when left alone. Then it must hold, before anything is mended:

    chain      the ledger's chain is whole
    once       no decision is in the ledger twice: no swap repeats the one before it, no key, no gate of one run
    products   each recorded product is there, whole, with the digest that its record has
    releases   what is in production loads

and after the same command was run again, to its end:

    converges  it ends as a command that was never killed may end, and its products and the champion are the same bytes
    chain, once, products, releases   as before
    left over  no temporary file, no hidden log segment, and nobody holds the project

With `--ledger postgres` the ledger lies in a Postgres that is started for it, a schema a copy. What breaks is kept with
its folder and named; the exit code is then 1.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import conftest
import loop_project
import sqlalchemy as sa

from mlloop import deployment
from mlloop.core import settings as _settings
from mlloop.core import storage
from mlloop.core.errors import MlloopError
from mlloop.pipeline import runner
from mlloop.store.entries import SWAPS
from mlloop.store.ledger import Ledger

# the command's words, the project it begins with, the exit codes of its repetition
COMMANDS: dict[str, tuple[list[str], str, tuple[int, ...]]] = {
    "run": (["run", "--from", "features"], "run", (0,)),
    "tick": (["tick", "--at", "2025-03-10"], "run", (0, 4)),
    "retrain": (["retrain", "--at", "2025-03-10", "--reason", "killed"], "run", (0, 3)),
    "loop": (["loop", "--until", "2025-03-17", "--no-always", "--no-pages"], "run", (0, 4)),
    "backtest": (["backtest", "--until", "2025-03-17", "--policy", "statement", "--jobs", "1"], "run", (0,)),
    "promote": (["promote", "{second}"], "two", (0, 1)),  # 1: it is champion already, by the run that was killed
    "rollback": (["rollback", "--to", "{first}"], "swapped", (0,)),
    "serve": (["serve", "--port", "0"], "swapped", (0,)),
}


def mlloop(root: Path, words: list[str], more: dict[str, str], wait: bool = True):
    """The command line in a project: its end, or the running process."""
    given = dict(cwd=root, env={**os.environ, **more, "COLUMNS": "200"}, text=True, start_new_session=True)
    started = subprocess.Popen([sys.executable, "-m", "mlloop", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **given)  # fmt: skip
    if not wait:
        return started
    out, err = started.communicate(timeout=3600)
    return subprocess.CompletedProcess(words, started.returncode, out, err)


class Bench:
    """The projects that commands begin with, and where their ledgers lie."""

    def __init__(self, folder: Path, server: str | None, seed: int):
        self.folder, self.server, self.random = folder, server, random.Random(seed)
        self.bases: dict[str, Path] = {}
        self.models: dict[str, str] = {}
        self.took: dict[str, float] = {}
        self.ends: dict[str, dict[str, str]] = {}
        self.made = 0

    def prepare(self, wanted: set[str]) -> None:
        """Make the base projects: one that ran, one with a second model that its gate let pass, one that swapped."""
        root = self.folder / "base-run"
        loop_project.make(root)
        (root / "settings.ini").write_text("[kernels]\npool = warm\nkeep_minutes = 0.2\n")
        done = mlloop(root, ["run"], {})
        assert done.returncode == 0, done.stderr
        self.bases["run"] = root
        if not wanted & {"two", "swapped"}:
            return
        two = self.folder / "base-two"
        self._copied(root, two)
        settings = _settings.load(two)
        ledger = Ledger.open(settings)
        first = ledger.champion("loan")
        # a second model: the release of the rule that the run keeps ready, let pass by a gate's row
        rule = first.details["rule"]
        self.models |= {"first": str(first.model), "second": rule["model"]}
        from mlloop.store.entries import Entry

        ledger.append(Entry("gate", "loan", "validation", "yes", ["let pass for this bench"], model=rule["model"]))
        self.bases["two"] = two
        swapped = self.folder / "base-swapped"
        self._copied(two, swapped)
        settings = _settings.load(swapped)
        ledger = Ledger.open(settings)
        deployment.promote(settings, ledger, "loan", rule["model"], first.digests["rule"], then=lambda *_: None)
        self.bases["swapped"] = swapped

    def _copied(self, source: Path, to: Path) -> None:
        shutil.copytree(source, to, symlinks=True, ignore=shutil.ignore_patterns("kernels*", "*.sock", "run.lock"))

    @contextlib.contextmanager
    def copy(self, base: str) -> Iterator[tuple[Path, dict[str, str], Ledger]]:
        """A copy of a base project, the environment its commands need, and its ledger."""
        self.made += 1
        root = self.folder / f"copy-{self.made}"
        self._copied(self.bases[base], root)
        more: dict[str, str] = {}
        if self.server:
            schema = f"kills{os.getpid()}_{self.made}"
            engine = sa.create_engine(sa.make_url(self.server).set(drivername="postgresql+psycopg"), poolclass=sa.pool.NullPool)  # fmt: skip
            with engine.begin() as connection:
                connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
            url = f"{self.server}?options=-csearch_path%3D{schema}"
            Ledger.open(_settings.load(root)).copy_to(Ledger(url))
            more = {"MLLOOP_LEDGER_URL": url}
        yield root, more, Ledger(more.get("MLLOOP_LEDGER_URL") or _settings.load(root).ledger_url)

    def words(self, name: str) -> list[str]:
        return [word.format(**self.models) if "{" in word else word for word in COMMANDS[name][0]]

    def time_alone(self, name: str) -> float:
        """Seconds that a command takes when it is left alone; measured once, with what it leaves."""
        if name not in self.took:
            with self.copy(COMMANDS[name][1]) as (root, more, ledger):
                began = time.monotonic()
                if name == "serve":
                    process = mlloop(root, self.words(name), more, wait=False)
                    process.stdout.readline()
                    _end(process)
                else:
                    done = mlloop(root, self.words(name), more)
                    assert done.returncode in COMMANDS[name][2], (name, done.returncode, done.stderr)
                self.took[name] = time.monotonic() - began
                self.ends[name] = end_of(root, ledger)
                shutil.rmtree(root, ignore_errors=True)
        return self.took[name]

    def kill(self, name: str) -> dict:
        """Kill a command once; what was wrong, before and after it was run again."""
        within = self.time_alone(name) * 1.1
        after_s = self.random.uniform(0, within)
        with self.copy(COMMANDS[name][1]) as (root, more, ledger):
            process = mlloop(root, self.words(name), more, wait=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after_s)
            was_running = process.poll() is None
            os.kill(process.pid, signal.SIGKILL) if was_running else None
            process.wait()
            process.stdout.close(), process.stderr.close()
            os.environ.update(more)
            wrong = [f"after the kill: {one}" for one in broken(root, ledger)]
            wrong += [f"after the next run: {one}" for one in self.again(name, root, more, ledger)]
            for key in more:
                os.environ.pop(key)
            if not wrong:
                shutil.rmtree(root, ignore_errors=True)
        return {"command": name, "ledger": "postgres" if self.server else "sqlite", "after_s": round(after_s, 2),
                "of_s": round(self.took[name], 2), "was_running": was_running, "wrong": wrong, "folder": str(root) if wrong else None}  # fmt: skip

    def again(self, name: str, root: Path, more: dict[str, str], ledger: Ledger) -> list[str]:
        """What is wrong once the same command has run to its end."""
        wrong = []
        if name == "serve":
            process = mlloop(root, self.words(name), more, wait=False)
            line = process.stdout.readline()
            _end(process)
            if not line.startswith("answering at") or process.returncode:
                wrong.append(f"converges: exit {process.returncode}, {line!r}")
        else:
            for _ in range(40):  # a killed run is over when its kernels are
                done = mlloop(root, self.words(name), more)
                if done.returncode != 5:
                    break
                time.sleep(0.5)
            if done.returncode not in COMMANDS[name][2] or "fault of mlloop itself" in done.stderr:
                wrong.append(f"converges: exit {done.returncode}: {done.stderr.strip()[-500:]}")
        end, alone = end_of(root, ledger), self.ends[name]
        wrong += [f"converges: {key} is not as without a kill" for key in sorted(end | alone) if end.get(key) != alone.get(key)]  # fmt: skip
        return wrong + broken(root, ledger) + left_over(root)


def _end(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


# ---------------------------------------------------------------------------------------------- what must hold


def broken(root: Path, ledger: Ledger) -> list[str]:
    """What does not hold of ledger, products and releases, at any moment."""
    settings = _settings.load(root)
    wrong = []
    try:
        ledger.verify()
    except MlloopError as error:
        return [f"chain: {error.what}"]
    rows = ledger.rows()
    swaps = [row for row in rows if row.kind in SWAPS]
    wrong += [f"once: row {b.id} repeats row {a.id}" for a, b in itertools.pairwise(swaps) if a.model == b.model]
    judged = [row for row in rows if row.kind == "gate" and row.details.get("run")]
    gates = Counter((row.details.get("run"), row.subject, row.details.get("products")) for row in judged)
    wrong += [f"once: gate {key} was recorded {n} times" for key, n in gates.items() if n > 1]
    starts = Counter(row.key for row in rows if row.key)
    wrong += [f"once: key {key} is there {n} times" for key, n in starts.items() if n > 1]
    for record in settings.state.glob("records/*/*.json"):
        wrong += _product(settings, record)
    champion = ledger.champion("loan")
    if champion is not None:
        try:
            deployment.load_release(settings, ledger, "loan", str(champion.model))
        except MlloopError as error:
            wrong.append(f"releases: {error}")
    return wrong


def _product(settings: _settings.Settings, record: Path) -> list[str]:
    """What is wrong with the product that a record is of."""
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        return [f"products: {record.name} is torn"]
    folder = settings.state / "products" / record.parent.name
    wrong = []
    for kind, suffix in (("data", "json"), ("nb", "ipynb")):
        product = folder / f"{record.stem}.{suffix}"
        if kind in kept["products"] and (
            not product.exists() or storage.digest_file(product) != kept["products"][kind]
        ):
            wrong.append(f"products: {record.parent.name}/{product.name} is not what its record says")
    return wrong


def end_of(root: Path, ledger: Ledger) -> dict[str, str]:
    """What a command leaves that a kill must not change: the digest of each product, and the champion."""
    settings = _settings.load(root)
    products = {
        f"{record.parent.name}/{record.stem}": json.loads(record.read_text(encoding="utf-8"))["products"]["data"]
        for record in settings.state.glob("records/*/*.json")
    }
    champion = ledger.champion("loan")
    return products | {"champion": str(champion and champion.model)}


def left_over(root: Path) -> list[str]:
    """Files that only a running process may have, and a lock that nobody may hold any more."""
    settings = _settings.load(root)
    found = [path for pattern in (".*.part*", ".*.old") for path in settings.state.rglob(pattern)]
    wrong = [f"left over: {path.relative_to(root)}" for path in found]
    return [*wrong, *(["left over: the project is held"] if runner.is_held(settings) else [])]


# ---------------------------------------------------------------------------------------------- the bench


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=len(COMMANDS), help="spread over the commands in turn")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="a list with commas")
    parser.add_argument("--ledger", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the projects lie; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="a file that gets a line for each kill")
    given = parser.parse_args()
    names = given.commands.split(",")
    folder = Path(tempfile.mkdtemp(prefix="mlloop-kills-", dir=given.folder))
    with conftest.postgres_server() if given.ledger == "postgres" else contextlib.nullcontext() as server:
        if given.ledger == "postgres" and server is None:
            print("no Postgres is installed here")
            return 2
        bench = Bench(folder, server, given.seed)
        bench.prepare({COMMANDS[name][1] for name in names})
        told = []
        for number in range(given.kills):
            told.append(one := bench.kill(names[number % len(names)]))
            came_to = "; ".join(one["wrong"]) or "holds"
            when = f"{one['after_s']:>6.2f} of {one['of_s']:>6.2f} s"
            print(f"{number + 1:>4} {one['command']:<9} killed after {when}: {came_to}", flush=True)
            if given.json:
                with given.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(one) + "\n")
    print(f"\n{'command':<10} {'kills':>6} {'while running':>14} {'broken':>7}")
    for name in names:
        of = [one for one in told if one["command"] == name]
        print(
            f"{name:<10} {len(of):>6} {sum(one['was_running'] for one in of):>14} {sum(bool(one['wrong']) for one in of):>7}"
        )
    is_broken = any(one["wrong"] for one in told)
    if not is_broken:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if is_broken else 0


if __name__ == "__main__":
    sys.exit(main())
