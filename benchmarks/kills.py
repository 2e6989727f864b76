"""Commands killed at random moments, and what must hold after each kill.

    python benchmarks/kills.py --kills 200 --folder ~/kills      # half of them with the ledger in SQLite, half in Postgres
    python benchmarks/kills.py --kills 40 --fault term           # SIGTERM in place of SIGKILL; interrupt: Ctrl-C
    python benchmarks/kills.py --kills 900 --fault disk --commands run --ledger sqlite   # each write of a run fails once

A small project with the real stages is made once, and turned a few periods. For each kill its state is put back as the
command needs it, the command is started and gets SIGKILL after a random part of the time that it takes when left alone.
Then it must hold, before anything is repaired:

    chain      the ledger's chain is whole
    once       no decision is in the ledger twice: no swap repeats the one before it, no key, no gate of one run
    products   each recorded product is there, whole, with the digest that its record has
    releases   what is in production loads
    log        each prediction that was acknowledged is in the prediction log

and after the same command was run again, to its end:

    converges  it ends as a command that was never killed may end: the same bytes in each product (but for the latency
               that it measures), the same champion and canary, the same swaps and decisions in the same order, the
               same rows in the prediction log
    chain, once, products, releases   as before
    left over  no file and no process that a command without a kill would not leave, and nobody holds the project

A command that is asked to stop, or whose disk refuses a write, must also end by itself, in words and without a traceback.
Which write fails is spread over all that the command makes: with as many kills as writes each fails once. It is refused
by a small library in C, loaded before the others, so it is true of SQLite's and Delta's writes too.

With `--folder` the prepared projects and a line for each kill are kept there: the same command goes on where it was
stopped. What breaks is kept beside them and named; the exit code is then 1.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import conftest
import httpx
import loop_project
import psutil
import sqlalchemy as sa

from mlloop import deployment
from mlloop.core import settings as _settings
from mlloop.core import storage
from mlloop.core.errors import MlloopError
from mlloop.pipeline import runner
from mlloop.store import prediction_log
from mlloop.store.entries import SWAPS, Entry
from mlloop.store.ledger import Ledger

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}
SERVED_S = 1.5  # how long a service is asked before its time alone ends
SETTLE_S = 60
COLD = 0.25  # share of the kills that begin without a running kernel pool


@dataclass(frozen=True)
class Trial:
    """A command, the state that it begins with, and the exit codes that it may end with."""

    words: str
    base: str
    codes: tuple[int, ...] = (0,)

    @property
    def command(self) -> str:
        return self.words.split()[0]


# bases: `run` has a first model, `turned` two periods more, `tried` a canary, `two` a second model, `swapped` it in production
TRIALS = {
    "run": (Trial("run --from features", "run"),),
    "tick": (
        Trial("tick --at 2025-03-24", "turned", (0, 4)),  # retrains, and starts a canary
        Trial("tick --at 2025-03-31", "tried", (0, 4)),  # ends the canary with a promotion
        Trial("tick --at 2025-03-10", "run", (0, 4)),
    ),
    "retrain": (
        Trial("retrain --at 2025-03-24 --reason killed", "turned", (0, 3)),
        Trial("retrain --at 2025-03-10 --reason killed", "run", (0, 3)),
    ),
    "loop": (
        Trial("loop --until 2025-03-31 --no-always --no-pages", "tried", (0, 4)),
        Trial("loop --until 2025-03-17 --no-always --no-pages", "run", (0, 4)),
    ),
    "backtest": (Trial("backtest --until 2025-03-17 --policy statement --jobs 1", "run"),),
    "promote": (Trial("promote {second}", "two", (0, 1)),),  # 1: the command that was killed has promoted it
    "rollback": (Trial("rollback --to {first}", "swapped"),),
    "serve": (Trial("serve --port 0", "swapped"),),
}
LONG = ("run", "tick", "retrain", "tick", "loop", "backtest", "tick", "run", "retrain", "loop")
ORDER = tuple(name for long in LONG for name in (long, *("promote", "rollback", "serve") * 3))


@dataclass
class Kill:
    """One kill, or another fault, and what was wrong after it."""

    number: int
    command: str
    words: str
    ledger: str
    after_s: float = 0.0
    of_s: float = 0.0
    was_running: bool = False
    whole_s: float = 0.0  # the kill, the repetition and the checks
    acknowledged: int = 0
    fault: str = "kill"
    ended: str = ""  # what the command said last, where it was not killed
    wrong: list[str] = field(default_factory=list)


def trial_of(number: int, names: list[str]) -> Trial:
    """The trial of the kill with that number; the variants of a command take turns."""
    order = [name for name in ORDER if name in names]
    before, place = divmod(number, len(order))
    earlier = before * order.count(order[place]) + order[:place].count(order[place])
    variants = TRIALS[order[place]]
    return variants[earlier % len(variants)]


def start(
    root: Path, words: list[str], extra: dict[str, str], output: int = subprocess.PIPE, errors=subprocess.PIPE
) -> subprocess.Popen:
    """Start the command line in a project, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mlloop", *words], cwd=root, env={**os.environ, **extra, "COLUMNS": "200"}, text=True,
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
    )  # fmt: skip


def finish(root: Path, words: list[str], extra: dict[str, str]) -> subprocess.CompletedProcess:
    """Run the command line in a project to its end."""
    process = start(root, words, extra)
    out, err = process.communicate(timeout=3600)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@dataclass(frozen=True)
class Alone:
    """A command that nobody disturbed: how long it took, what it led to, the kinds of files it left, its writes."""

    took_s: float
    outcome: dict[str, str]
    files: list[str]
    writes: int


class Disk:
    """A disk on which a write may fail, for the programs that have its environment.

    Parameters
    ----------
    folder : Path
        Holds the library and what its processes share.
    under : Path
        The folder whose writes count.
    """

    def __init__(self, folder: Path, under: Path):
        library, self.state, self.log = folder / "failing_disk.so", folder / "disk.state", folder / "disk.log"
        source = Path(__file__).resolve().parents[1] / "tests" / "failing_disk.c"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
        self.state.write_bytes(struct.pack("qqq", 0, 0, 0))
        self.environment = {"LD_PRELOAD": str(library), "DISK_UNDER": f"{under}/", "DISK_STATE": str(self.state),
                            "DISK_LOG": str(self.log)}  # fmt: skip

    def fail(self, number: int = 0) -> None:
        """Count from here on, and let the write of that number fail (0: none)."""
        with self.state.open("r+b") as file:  # in place: processes have it mapped
            file.write(struct.pack("qqq", 0, number, 1))

    @property
    def writes(self) -> int:
        return struct.unpack("qqq", self.state.read_bytes())[0]

    def failed(self) -> str:
        """The write that failed last."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return lines[-1] if lines else ""


class Bench:
    """The states that commands begin with, and the project in which they are killed.

    Parameters
    ----------
    folder : Path
        Holds the prepared states, the project, and what broke.
    server : str or None
        The URL of a Postgres.
    seed : int
    fault : str
        What happens to a command: 'kill', 'term', 'interrupt' or 'disk'.
    """

    def __init__(self, folder: Path, server: str | None, seed: int, fault: str):
        self.folder, self.server, self.seed, self.fault = folder, server, seed, fault
        self.root = folder / "project"
        self.models: dict[str, str] = {}
        self.alone: dict[Trial, Alone] = {}
        self.disk = Disk(folder, self.root) if fault == "disk" else None

    # ------------------------------------------------------------------------------------------ states

    def prepare(self, bases: set[str]) -> None:
        """Make the states that are not in the folder yet; each is the project's folder at another moment."""
        if not self._has("run"):
            shutil.rmtree(self.root, ignore_errors=True)
            loop_project.make(self.root)
            (self.root / "settings.ini").write_text("[kernels]\npool = warm\nkeep_minutes = 1\n")
            done = finish(self.root, ["run"], {})
            assert done.returncode == 0, done.stderr
            self._keep("run")
        first = Ledger.open(self._opened("run")).champion("loan")
        assert first is not None
        rule = first.details["rule"]  # the second model: the rule's release, which each run keeps ready
        self.models = {"first": str(first.model), "second": rule["model"]}
        if bases & {"two", "swapped"} and not self._has("swapped"):
            settings = self._opened("run")
            ledger = Ledger.open(settings)
            ledger.append(Entry("gate", "loan", "validation", "yes", ["let pass for this bench"], model=rule["model"]))
            self._keep("two")
            deployment.promote(settings, ledger, "loan", rule["model"], first.digests["rule"], then=lambda *_: None)
            self._keep("swapped")
        if bases & {"turned", "tried"} and not self._has("tried"):
            self._opened("run")
            for day, name in (("2025-03-10", ""), ("2025-03-17", "turned"), ("2025-03-24", "tried")):
                done = finish(self.root, ["tick", "--at", day], {})
                assert done.returncode in (0, 4), done.stderr
                if name:
                    self._keep(name)

    def _has(self, base: str) -> bool:
        return (self.folder / base).exists()

    def _keep(self, base: str) -> None:
        part = self.folder / f"{base}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(self.root, part, symlinks=True, ignore=shutil.ignore_patterns("kernels", "run.lock"))
        shutil.rmtree(self.folder / base, ignore_errors=True)
        part.rename(self.folder / base)

    def _opened(self, base: str, cold: bool = False) -> _settings.Settings:
        """Put the project into a state. Its folder stays, and with it the kernel pool, unless it shall begin cold."""
        pool = self.root / ".mlloop" / "kernels"
        self.root.mkdir(exist_ok=True)
        for entry in self.root.iterdir():
            if entry.name != ".mlloop":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for entry in (self.root / ".mlloop").iterdir() if (self.root / ".mlloop").exists() else ():
            if entry != pool:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        if cold:
            shutil.rmtree(pool, ignore_errors=True)
            for process in pools(self.root):
                process.kill()
        left_out = (
            ("mlflow.db",) if base in ("two", "swapped") and not cold else ()
        )  # else MLflow's aliases follow: seconds
        ignore = shutil.ignore_patterns(*left_out)
        shutil.copytree(self.folder / base, self.root, symlinks=True, dirs_exist_ok=True, ignore=ignore)
        return _settings.load(self.root)

    @contextlib.contextmanager
    def opened(self, base: str, with_postgres: bool, cold: bool = False) -> Iterator[tuple[dict[str, str], Ledger]]:
        """The project in a state, with its ledger where it shall lie: the environment of its commands, and the ledger."""
        settings = self._opened(base, cold)
        extra = self.disk.environment if self.disk else {}
        if not with_postgres:
            yield extra, Ledger(settings.ledger_url)
            return
        assert self.server
        schema = f"kills{os.getpid()}"
        engine = sa.create_engine(sa.make_url(self.server).set(drivername="postgresql+psycopg"), poolclass=sa.pool.NullPool)  # fmt: skip
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
        url = f"{self.server}?options=-csearch_path%3D{schema}"
        Ledger.open(settings).copy_to(Ledger(url))
        (settings.state / "ledger.db").unlink()
        os.environ["MLLOOP_LEDGER_URL"] = url
        try:
            yield {**extra, "MLLOOP_LEDGER_URL": url}, Ledger(url)
        finally:
            del os.environ["MLLOOP_LEDGER_URL"]

    # ------------------------------------------------------------------------------------------ kills

    def words(self, trial: Trial) -> list[str]:
        return trial.words.format(**self.models).split()

    def left_alone(self, trial: Trial) -> Alone:
        """What the command does when nothing happens to it; tried once."""
        kept = self.folder / f"alone-{trial.command}-{trial.base}.json"
        if trial not in self.alone and kept.exists() and (not self.disk or json.loads(kept.read_text())["writes"]):
            self.alone[trial] = Alone(**json.loads(kept.read_text()))
        if trial not in self.alone:
            with self.opened(trial.base, False, cold=True) as (extra, ledger):
                began = time.monotonic()
                if self.disk:
                    self.disk.fail(0)
                if trial.command == "serve":
                    process = start(self.root, self.words(trial), extra)
                    with Caller(process) as caller:
                        caller.first.wait(120)
                        time.sleep(SERVED_S)
                    end(process)
                else:
                    done = finish(self.root, self.words(trial), extra)
                    assert done.returncode in trial.codes, (trial, done.returncode, done.stderr)
                took, writes = time.monotonic() - began, self.disk.writes if self.disk else 0
                settled(self.root)
                self._keep(f"alone-{trial.command}-{trial.base}")  # to look at where a kill leads elsewhere
                self.alone[trial] = Alone(took, outcome(self.root, ledger), sorted(files(self.root)), writes)
                kept.write_text(json.dumps(asdict(self.alone[trial])))
        return self.alone[trial]

    def try_once(self, number: int, share: float, trial: Trial, with_postgres: bool) -> Kill:
        """Disturb a command once; what was wrong, before and after it was run again.

        Parameters
        ----------
        share : float
            Where of a command's writes the one is that fails, in [0, 1).
        """
        alone = self.left_alone(trial)
        draw = random.Random(f"{self.seed} {number}")
        kill = Kill(number, trial.command, trial.words, "postgres" if with_postgres else "sqlite", fault=self.fault)
        kill.of_s, kill.after_s = round(alone.took_s, 2), round(draw.uniform(0, alone.took_s * 1.05), 3)
        began = time.monotonic()
        with self.opened(trial.base, with_postgres, draw.random() < COLD) as (extra, ledger):
            if self.disk:
                self.disk.fail(1 + int(share * alone.writes))
            wrong = [f"after the {self.fault}: {fault}" for fault in self.disturb(trial, kill, extra)]
            wrong += [f"after the {self.fault}: {fault}" for fault in broken(self.root, ledger)]
            if self.disk:
                self.disk.fail(0)
            wrong += [f"after the next run: {fault}" for fault in self.again(trial, extra, ledger)]
            kill.wrong = wrong
            if wrong:
                kept = self.folder / f"broken-{self.fault}-{number}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(self.root, kept, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
        kill.whole_s = round(time.monotonic() - began, 1)
        return kill

    def disturb(self, trial: Trial, kill: Kill, extra: dict[str, str]) -> list[str]:
        """Let the fault happen to the command; what is wrong about its end."""
        serves = trial.command == "serve"
        with tempfile.TemporaryFile("w+") as errors:
            process = start(
                self.root, self.words(trial), extra, subprocess.PIPE if serves else subprocess.DEVNULL, errors
            )
            with Caller(process) if serves else contextlib.nullcontext() as caller:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(None if self.disk and not serves else kill.after_s)
                kill.was_running = process.poll() is None or bool(self.disk)
                if process.poll() is None:
                    process.send_signal(SIGNALS.get(self.fault, signal.SIGTERM))
                try:
                    process.wait(120)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    return ["it did not end within 120 s"]
            errors.seek(0)
            said = errors.read()
        wrong = []
        if self.fault != "kill":
            kill.ended = f"exit {process.returncode}: {' '.join(said.split())[-300:]}"
            if self.disk:
                kill.ended += f" | {self.disk.failed().replace(str(self.root), '')}"
            usual = (
                (*trial.codes, 1, 2) if self.disk else (*trial.codes, 128 + SIGNALS[self.fault], -SIGNALS[self.fault])
            )
            starting = said.rstrip().endswith("KeyboardInterrupt") and "mlloop/cli" not in said  # Python itself
            loud = "Traceback" in said or "fault of mlloop itself" in said or process.returncode not in usual
            if loud and not starting:
                wrong.append(f"in words: {kill.ended}")
        if caller is not None:
            kill.acknowledged = len(caller.acknowledged)
            lost = set(caller.acknowledged) - set(logged(self.root)["id"])
            wrong += [f"log: {len(lost)} acknowledged predictions are lost"] if lost else []
        return wrong

    def again(self, trial: Trial, extra: dict[str, str], ledger: Ledger) -> list[str]:
        """What is wrong once the same command has run to its end."""
        wrong = []
        if trial.command == "serve":
            process = start(self.root, self.words(trial), extra)
            with Caller(process) as caller:
                caller.first.wait(60)
            _, err = end(process)
            if not caller.acknowledged or process.returncode:
                wrong.append(f"converges: exit {process.returncode}, {err.strip()[-500:]}")
        else:
            for _ in range(40):  # a killed run is over when its kernels are
                done = finish(self.root, self.words(trial), extra)
                if done.returncode != 5:
                    break
                time.sleep(0.5)
            if done.returncode not in trial.codes or "fault of mlloop itself" in done.stderr:
                wrong.append(f"converges: exit {done.returncode}: {done.stderr.strip()[-500:]}")
        alone = self.left_alone(trial)
        expected, ended = alone.outcome, outcome(self.root, ledger)
        wrong += [
            f"converges: {name} is {ended.get(name)}, without a kill {expected.get(name)}"
            for name in sorted(ended | expected)
            if ended.get(name) != expected.get(name)
        ]
        return wrong + broken(self.root, ledger) + left_over(self.root, alone.files)


class Caller:
    """Asks a service for predictions, from the line that says where it answers until it is gone."""

    ROW: ClassVar = {"id": "L1", "day": "2025-03-10T00:00:00", "amount": 250.0, "age": 40, "town": "Ely"}

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.acknowledged: list[str] = []
        self.first = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> "Caller":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _ask(self) -> None:
        line = self.process.stdout.readline()
        if not line.startswith("answering at "):
            self.first.set()
            return
        client = httpx.Client(base_url=line.split()[2], timeout=10, trust_env=False)
        with client, contextlib.suppress(httpx.HTTPError):
            while not self._over.is_set():
                answer = client.post("/predict", json=self.ROW)
                answer.raise_for_status()
                self.acknowledged.append(answer.json()["prediction_id"])
                self.first.set()
                time.sleep(0.01)
        self.first.set()


def end(process: subprocess.Popen) -> tuple[str, str]:
    """Stop a service; what it wrote."""
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=60)


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


def logged(root: Path):
    """The predictions of the project's log."""
    return prediction_log.read(prediction_log.folder_of(_settings.load(root), "loan"))


def outcome(root: Path, ledger: Ledger) -> dict[str, str]:
    """What a command leads to, which a kill must not change: products, what is in production, decisions, predictions."""
    settings = _settings.load(root)
    products = {
        f"{record.parent.name}/{record.stem}": computed(settings.state / "products" / record.parent.name / record.name)
        for record in settings.state.glob("records/*/*.json")
    }
    champion, canary = ledger.champion("loan"), ledger.canary("loan")
    rows = ledger.rows()
    # a gate that is asked again in a second run has a row for each
    decided = [f"{row.kind} {row.subject} {row.verdict} {str(row.model)[:8]}" for row in rows if row.kind != "gate"]
    gates = sorted({f"{row.subject} {row.verdict} {str(row.model)[:8]}" for row in rows if row.kind == "gate"})
    standing = {
        "champion": str(champion and champion.model),
        "canary": str(canary and canary.model),
        "decisions": "; ".join(decided),
        "gates": "; ".join(gates),
    }
    if prediction_log.folder_of(settings, "loan").exists() and not _served(ledger):
        of_turns = logged(root)
        content = of_turns[["entity", "model", "score", "at"]].sort_values("entity").to_csv(index=False)
        standing["predictions"] = f"{len(of_turns)} {storage.digest_bytes(content.encode())[:12]}"
    return products | standing


def computed(product: Path) -> str:
    """The digest of what a product holds, but for the latency that the run measured: it depends on the machine's load."""
    content = json.loads(product.read_text(encoding="utf-8"))
    content.pop("latency", None)
    for entry in content.get("verdict", {}).get("evidence", []):
        if entry.get("unit") == "ms":
            entry["value"] = None
    return storage.digest_bytes(re.sub(r"at most [\d,.]+ ms", "in time", json.dumps(content)).encode())[:12]


def _served(ledger: Ledger) -> bool:
    """Whether predictions come from callers, whose number is left to chance, and not from turns."""
    return not any(row.kind == "retrain" for row in ledger.rows())


def files(root: Path) -> set[str]:
    """The kinds of files in the project: names without digests, numbers and moments."""
    named = {str(path.relative_to(root)) for path in root.rglob("*") if "kernels" not in path.parts}
    return {re.sub(r"\d+", "0", re.sub(r"[0-9a-f]{8,}(-[0-9a-f]+)*", "#", name)) for name in named}


def pools(root: Path) -> list[psutil.Process]:
    """The processes of the project's kernel pool, which stay for the next command."""
    return [process for process in of_project(root) if "zygote.py" in " ".join(words_of(process))]


def words_of(process: psutil.Process) -> list[str]:
    """The words that a process was started with; none where it is gone."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def of_project(root: Path) -> list[psutil.Process]:
    """The processes that name the project, or work in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and (process.cwd() == str(root) or str(root) in words_of(process)):
                found.append(process)
    return found


def settled(root: Path) -> list[psutil.Process]:
    """The project's processes that do not end, the kernel pool's aside: MLflow's aliases are set after a command's end."""
    until = time.monotonic() + SETTLE_S
    while (busy := [p for p in of_project(root) if p not in pools(root)]) and time.monotonic() < until:
        time.sleep(0.2)
    return busy


def left_over(root: Path, usual: list[str]) -> list[str]:
    """Files and processes that no command without a kill leaves, and a lock that nobody may hold any more."""
    busy = settled(root)
    wrong = [f"left over: {name}" for name in sorted(files(root) - set(usual))]
    wrong += [f"left over: process {process}" for process in busy]
    return [*wrong, *(["left over: the project is held"] if runner.is_held(_settings.load(root)) else [])]


# ---------------------------------------------------------------------------------------------- the bench


def table(kills: list[Kill]) -> str:
    """Counts by command and database."""
    lines = [f"{'command':<10} {'ledger':<9} {'kills':>6} {'while running':>14} {'broken':>7} {'s a kill':>9}"]
    for command, ledger in itertools.product(TRIALS, ("sqlite", "postgres")):
        of = [kill for kill in kills if (kill.command, kill.ledger) == (command, ledger)]
        if of:
            running, wrong = sum(kill.was_running for kill in of), sum(bool(kill.wrong) for kill in of)
            each = sum(kill.whole_s for kill in of) / len(of)
            lines.append(f"{command:<10} {ledger:<9} {len(of):>6} {running:>14} {wrong:>7} {each:>9.1f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=len(ORDER), help="spread over the commands")
    parser.add_argument("--commands", default=",".join(TRIALS), help="a list with commas")
    parser.add_argument("--ledger", choices=["both", "sqlite", "postgres"], default="both")
    parser.add_argument("--fault", choices=[*SIGNALS, "disk"], default="kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where states and results are kept; default: a temporary folder")
    options = parser.parse_args()
    names = options.commands.split(",")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="mlloop-kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / f"{options.fault}s.jsonl"
    kills = [Kill(**json.loads(line)) for line in results.read_text().splitlines()] if results.exists() else []
    known = {(kill.number, kill.words, kill.ledger) for kill in kills}
    ledgers = ["sqlite", "postgres"] if options.ledger == "both" else [options.ledger]
    with conftest.postgres_server() if "postgres" in ledgers else contextlib.nullcontext() as server:
        if "postgres" in ledgers and server is None:
            print("no Postgres is installed here; without one: --ledger sqlite")
            return 2
        bench = Bench(folder.resolve(), server, options.seed, options.fault)
        bench.prepare({trial.base for name in names for trial in TRIALS[name]})
        for number in range(options.kills):
            trial = trial_of(number // len(ledgers), names)
            ledger = ledgers[number % len(ledgers)]
            if (number, trial.words, ledger) in known:
                continue
            kill = bench.try_once(number, number / options.kills, trial, ledger == "postgres")
            kills.append(kill)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(kill)) + "\n")
            when = f"{kill.after_s:>6.2f} of {kill.of_s:>6.2f} s, {kill.whole_s:>5.1f} s in all"
            print(
                f"{number:>4} {ledger:<8} {trial.words:<58} {when}: {'; '.join(kill.wrong) or 'holds'} {kill.ended}",
                flush=True,
            )
        for process in pools(bench.root):
            process.kill()
    print(f"\n{table(kills)}")
    is_broken = any(kill.wrong for kill in kills)
    if not is_broken and options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if is_broken else 0


if __name__ == "__main__":
    sys.exit(main())
