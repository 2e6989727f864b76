"""Chooses the retraining policy of a problem by turning its history under several, each in a copy of the project.

A policy is what differs under `retrain` in the statement. Every replay is `mlloop loop` itself in a process of its own:
gates, trials, delays and costs are those of production. A replay that was made is kept, one that was killed goes on with
its last turn, and the project itself is never touched.
"""

import datetime as dt
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mlloop import problem as problems
from mlloop.core import storage
from mlloop.core.errors import MlloopError, UsageError
from mlloop.core.formatting import number
from mlloop.core.records import BacktestJson, HistoryJson, Parameters, PolicyJson, PolicyLineJson, PolicyTotalJson
from mlloop.core.settings import DEFAULTS, Settings, write_for_copy
from mlloop.core.settings import load as load_settings
from mlloop.loop.counterfactual import BLOCK, gained
from mlloop.pipeline import runner
from mlloop.pipeline.plan import Plan
from mlloop.problem import Problem

OWN = "statement"
NEVER_FIRES = 1e6  # standard errors: no figure asks for a retraining
SKIPPED = ("kernels*", "*.sock", "run*.lock", ".git", "__pycache__", ".venv", "venv", "node_modules")
BUSY, BUSY_SECONDS = (
    5,
    900,
)  # the exit code of a held project, and how long a replay left by a killed one may take to end


@dataclass(frozen=True)
class Policy:
    """What differs from the statement's `retrain`, and how it is called."""

    name: str
    description: str
    changes: Parameters = field(default_factory=dict)

    def to_dict(self) -> PolicyJson:
        """The policy in JSON's types, under the names that results of a backtest have."""
        return {"name": self.name, "said": self.description, "changes": self.changes}

    def line(self, statement: Problem) -> str:
        """The line for the statement."""
        now = statement.retrain
        before = {"every_days": now.every_days, "k": now.k, "n": now.n, **now.model_dump(exclude_defaults=True)}
        kept = {key: value for key, value in {**before, **self.changes}.items() if value is not None}
        return f"retrain: {{{', '.join(f'{key}: {value}' for key, value in kept.items())}}}"


def policies(statement: Problem) -> list[Policy]:
    """The statement's policy, fixed schedules through gate and trial, and a small grid around the statement's."""
    now, days = statement.retrain, statement.retrain.every_days
    listed = [Policy(OWN, "the statement's policy")]
    for periods in (1, 4, 8):
        changes = {
            "backstop_days": periods * days,
            "cooldown_days": 0,
            "budget_per_year": 366,
            "standard_errors": NEVER_FIRES,
        }
        schedule = "every period" if periods == 1 else f"every {periods} periods"
        listed.append(
            Policy(f"every_{periods}", f"{schedule}, whatever the figures say, through gate and trial", changes)
        )
    for k, n in ((1, 1), (2, 3), (3, 5)):
        if (k, n) != (now.k, now.n):
            listed.append(Policy(f"{k}_of_{n}", f"{k} of the last {n} periods worse", {"k": k, "n": n}))
    listed.append(
        Policy("evidence_or_age", "the statement's, and after 8 periods in any case", {"backstop_days": 8 * days})
    )
    for periods in (6, 12):
        if now.window_days != periods * days:
            description = f"the statement's, learning from the last {periods} periods"
            listed.append(Policy(f"window_{periods}", description, {"window_days": periods * days}))
    listed.append(Policy("half_as_often", "the statement's, with periods twice as long", {"every_days": 2 * days}))
    return listed


def chosen_by_name(statement: Problem, names: Sequence[str]) -> list[Policy]:
    """The policies of these names, the statement's always among them.

    Raises
    ------
    UsageError
        There is no such policy.
    """
    known = {policy.name: policy for policy in policies(statement)}
    if unknown := [name for name in names if name not in known]:
        what = f"there is no policy {unknown[0]!r}{problems.did_you_mean(unknown[0], list(known))}"
        raise UsageError(what, "--policy", f"Choose among: {', '.join(known)}")
    return [policy for policy in known.values() if not names or policy.name in names or policy.name == OWN]


# ------------------------------------------------------------------------------------------------ replays


@dataclass(frozen=True)
class Replayed:
    """What a replay came to: the summary of its loop, and whether it had been made before."""

    policy: Policy
    summary: HistoryJson
    kept: bool
    seconds: float


def backtest(
    settings: Settings,
    plan: Plan,
    until: dt.datetime,
    names: Sequence[str] = (),
    jobs: int = 2,
    on_replay: Callable[[Replayed], None] = lambda replay: None,
    watch: Callable[[str], None] = lambda word: None,
    keep: bool = False,
) -> BacktestJson:
    """Replay the policies up to `until` and compare their worth; see `compared` for what comes back.

    Parameters
    ----------
    names : sequence of str
        Policies; default: all of `policies`.
    jobs : int
        Replays at the same time.
    keep : bool
        Whether to keep the copies of the project, to look into.

    Raises
    ------
    UsageError
        No turn lies before `until`, an unknown policy, a statement outside the project, or one without prices.
    MlloopError
        A replay failed; those that ended are kept.
    """
    file = runner.statement_file(settings, plan)
    statement = problems.load(file)
    if not file.resolve().is_relative_to(settings.root):
        raise UsageError("the statement lies outside the project", str(file), "Put it under problems/")
    _must_have_turns(statement, until)
    if not statement.money.is_priced(statement.task.kind):
        what = "the statement does not say what a prediction is worth, and a backtest chooses by it"
        step = "State it, then: mlloop backtest. To compare the loop with schedules by their figures: mlloop loop"
        raise UsageError(what, f"{file}: money", step)
    tried = chosen_by_name(statement, names)
    folder = settings.state / "backtest" / plan.base
    mark = _mark(settings, statement, file)
    results = {policy.name: folder / mark / f"{_named(policy, until)}.json" for policy in tried}
    missing = [policy for policy in tried if not results[policy.name].exists()]
    replays = {
        policy.name: Replayed(policy, storage.read_json(results[policy.name]), True, 0.0)
        for policy in tried
        if policy not in missing
    }
    for replay in replays.values():
        on_replay(replay)
    if missing:
        base = folder / mark / "base"
        watch("the project up to its first model")
        _base(settings, base, plan.base)
        with ThreadPoolExecutor(jobs) as workers:
            waiting = [
                workers.submit(
                    _replay,
                    base,
                    folder / mark / results[policy.name].stem,
                    plan.base,
                    policy,
                    until,
                    results[policy.name],
                    keep,
                )
                for policy in missing
            ]
            for future in as_completed(waiting):
                try:
                    replay = future.result()
                except MlloopError:
                    for other in waiting:
                        other.cancel()
                    raise
                replays[replay.policy.name] = replay
                on_replay(replay)
    return compared(statement, [replays[policy.name] for policy in tried])


def kept_schedules(settings: Settings, plan: Plan, until: dt.datetime) -> dict[str, PolicyTotalJson]:
    """The totals of the fixed schedules that were replayed through gate and trial up to `until`, by name; {} where none was."""
    file = runner.statement_file(settings, plan)
    statement = problems.load(file)
    folder = settings.state / "backtest" / plan.base
    if not folder.exists():
        return {}
    folder /= _mark(settings, statement, file)
    totals = {}
    for policy in policies(statement):
        result = folder / f"{_named(policy, until)}.json"
        if policy.changes.get("standard_errors") == NEVER_FIRES and result.exists():
            totals[policy.name] = storage.read_json(result)["totals"].get("loop", {})
    return totals


def _named(policy: Policy, until: dt.datetime) -> str:
    return f"{policy.name}-{storage.digest_json([policy.changes, until.isoformat()])[:12]}"


def _must_have_turns(statement: Problem, until: dt.datetime) -> None:
    """Refuse an end before which no turn could be measured."""
    from mlloop.problem import utc

    days = statement.retrain.every_days
    start = utc(statement.time.as_of) if statement.time.as_of else None
    if start is None or until < start + dt.timedelta(days=days):
        since = f"{start:%Y-%m-%d}" if start else "nowhere: the statement names no as_of"
        raise UsageError(
            f"there is no history to turn: it begins at {since} and ends at {until:%Y-%m-%d} ({days} days a turn)",
            statement.name,
            "Let time.as_of lie before the last part of the data (mlloop new --history DAYS does), or give a later --until",
        )


def _mark(settings: Settings, statement: Problem, file: Path) -> str:
    """What the replays depend on, but for their policy: the statement, its files, the version of mlloop."""
    from mlloop.collection import external_files

    rest = storage.plain(statement)
    rest.pop("retrain", None)
    files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in external_files(statement, settings)]
    modules = sorted(Path(storage.__file__).parents[1].rglob("*.py"))
    code = [[path.name, path.stat().st_size] for path in modules]
    return storage.digest_json([rest, storage.plain(statement.retrain), files, code])[:16]


def kept_by(settings: Settings) -> list[Path]:
    """The folders of a project that a copy must not begin with: the original's state and pages, and where its own will lie."""
    return [
        settings.state,
        settings.reports,
        *(settings.root / DEFAULTS["paths"][name] for name in ("state", "reports")),
    ]


def _copy(source: Path, to: Path, left_out: Sequence[Path] = (), original: Settings | None = None) -> None:
    """A copy of a project that shares its files on disk where nothing writes into one; whole or not at all.

    With the settings of an `original`, the copy gets its own: wherever the original keeps things, the copy keeps them in itself.
    """
    beside = to.with_name(f".{to.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    to.parent.mkdir(parents=True, exist_ok=True)
    away = {str(path.resolve()) for path in left_out}

    def skipped(folder: str, names: list[str]) -> set[str]:
        return shutil.ignore_patterns(*SKIPPED)(folder, names) | {
            n for n in names if str(Path(folder, n).resolve()) in away
        }

    shutil.copytree(source, beside, symlinks=True, ignore=skipped, copy_function=_linked)
    if original is not None:
        write_for_copy(original, beside)
    os.replace(beside, to)


def _linked(source: str, to: str) -> str:
    name = Path(source).name
    if ".db" not in name and not name.endswith((".yaml", ".ini", ".jsonl")):
        try:
            os.link(source, to)
            return to
        except OSError:  # another disk, or a file system without links
            pass
    return str(shutil.copy2(source, to))


def _base(settings: Settings, base: Path, problem: str) -> None:
    """A copy of the project without its state, run up to its first model."""
    done = base.with_name("base.json")
    if done.exists() and base.exists():
        return
    if not base.exists():
        _copy(settings.root, base, kept_by(settings), settings)
    try:
        _called(base, "run", "--problem", problem)
    finally:
        _parted(base)
    storage.write_json(done, {"run": True})


def _replay(
    base: Path, copy: Path, problem: str, policy: Policy, until: dt.datetime, result: Path, keep: bool
) -> Replayed:
    """Turn a copy of `base` under a policy; the copy goes when its result is kept."""
    began = time.monotonic()
    if not copy.exists():
        _copy(base, copy)
    _state(copy, problem, policy)
    try:
        others = () if policy.name == OWN else ("--no-always",)
        text = _called(
            copy, "loop", "--problem", problem, "--until", until.isoformat(), "--no-pages", "--json", *others
        )
    finally:
        _parted(copy)
    summary = json.loads(text)
    storage.write_json(result, summary)
    if not keep:
        shutil.rmtree(copy, ignore_errors=True)
    return Replayed(policy, summary, False, time.monotonic() - began)


def _state(copy: Path, problem: str, policy: Policy) -> None:
    """Write the policy into the copy's statement."""
    settings = load_settings(copy, {})
    file = problems.find(problem, settings.problems)
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["retrain"] = {**(content.get("retrain") or {}), **policy.changes}
    storage.write_text(file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _called(root: Path, *arguments: str) -> str:
    """Run a command of mlloop in a project; its output. A project held by a replay whose parent was killed is waited for."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLLOOP_")}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
    ).rstrip(os.pathsep)
    ends = time.monotonic() + BUSY_SECONDS
    while True:
        done = subprocess.run(
            [sys.executable, "-m", "mlloop", *arguments], cwd=root, capture_output=True, text=True, env=environment
        )
        if done.returncode != BUSY or time.monotonic() > ends:
            break
        time.sleep(2)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[:3] or ["nothing was said"]
        raise MlloopError(
            f"mlloop {' '.join(arguments)} ended with {done.returncode}: {' '.join(last)}", str(root),
            "Look there; what ended is kept, and the same command continues from it",
        )  # fmt: skip
    return done.stdout


def _parted(root: Path) -> None:
    """End the warm kernels that wait for a copy."""
    from mlloop.kernels import execute

    execute.stop(load_settings(root, {}))


# ------------------------------------------------------------------------------------------------ comparing


def _bins(replays: Sequence[Replayed], days: Mapping[str, int]) -> tuple[list[tuple[str, str]], int]:
    """The longest period of any replay, as spans (since, until) that all of them measured; and its days."""
    widest = max(days.values())
    spans: set[tuple[str, str]] | None = None
    for replay in replays:
        name, summary = replay.policy.name, replay.summary
        step = widest // math.gcd(widest, days[name])
        if widest % days[name]:
            raise UsageError("periods of the policies do not fit into each other", name, "Leave it out: --policy")
        periods, measured, at = summary["periods"], set[tuple[str, str]](), 0
        by_since = {period["since"]: period for period in periods}
        first = replays[0].summary["turns"][0]["at"]
        start = dt.datetime.fromisoformat(first) - dt.timedelta(days=days[replays[0].policy.name])
        while True:
            since = start + dt.timedelta(days=at * widest)
            parts = [(since + dt.timedelta(days=i * days[name])).isoformat() for i in range(step)]
            if since > dt.datetime.fromisoformat(summary["until"]):
                break
            if all(part in by_since for part in parts):
                measured.add((since.isoformat(), (since + dt.timedelta(days=widest)).isoformat()))
            at += 1
        spans = measured if spans is None else spans & measured
    return sorted(spans or set()), widest


def _worths(replay: Replayed, policy: str, spans: Sequence[tuple[str, str]]) -> list[float]:
    """The worth of each span under a policy of a replay: the mean of its periods', weighted by their rows."""
    worths = []
    for since, until in spans:
        inside = [p for p in replay.summary["periods"] if since <= p["since"] and p["until"] <= until]
        rows = sum(p["n"] for p in inside)
        worths.append(sum(p[policy]["worth"] * p["n"] for p in inside) / max(1, rows))
    return worths


def compared(statement: Problem, replays: Sequence[Replayed]) -> BacktestJson:
    """Net worth of each policy with its gain over the statement's, and which to choose.

    Returns
    -------
    dict
        problem, currency, periods, rows (policy, said, gates, retrainings, worth, net, gain: value, low, high over the
        statement's policy; surely: its lower end when all are counted), chosen, line, said, replays.
    """
    money = statement.money
    every_days = statement.retrain.every_days
    days = {replay.policy.name: int(replay.policy.changes.get("every_days", every_days)) for replay in replays}
    spans, widest = _bins(replays, days)
    if not spans:
        raise UsageError("no period of the history has its labels yet", statement.name, "Give a later --until")
    own = next(replay for replay in replays if replay.policy.name == OWN)
    scale = widest / money.period_days
    measured = {
        replay.policy.name: _Measured(
            replay.policy.name,
            replay.policy.description,
            True,
            _worths(replay, "loop", spans),
            replay.summary["totals"]["loop"],
        )
        for replay in replays
    }
    for name, total in own.summary["totals"].items():
        if name != "loop":
            words, frozen = own.summary["policies"][name], name in ("never", "counts")
            shown = name if frozen else f"{name}_no_gate"
            words = words if frozen else f"{words}, without gate or trial"
            measured[shown] = _Measured(shown, words, frozen, _worths(own, name, spans), total)
    lines = {name: line.beside(measured[OWN], scale, max(1, len(replays) - 1)) for name, line in measured.items()}
    chosen, reason = choice(lines, money.currency)
    policy = next((replay.policy for replay in replays if replay.policy.name == chosen), own.policy)
    return {
        "problem": statement.name,
        "currency": money.currency,
        "periods": [list(span) for span in spans],
        "rows": sorted(lines.values(), key=lambda line: (-line["net"], line["policy"])),
        "chosen": chosen,
        "line": policy.line(statement),
        "said": reason,
        "block": BLOCK,
        "replays": {
            replay.policy.name: {**replay.policy.to_dict(), "events": replay.summary["events"]} for replay in replays
        },
    }


@dataclass(frozen=True)
class _Measured:
    """A policy on the spans that all replays measured: the worth of each span, and the totals of its own periods."""

    name: str
    description: str
    gates: bool
    worths: list[float]
    total: PolicyTotalJson

    def beside(self, own: "_Measured", scale: float, others: int) -> PolicyLineJson:
        """Its line, with its gain over the statement's `own` policy; `others` policies were tried beside that."""
        pairs = [
            {"ours": {"worth": ours}, "own": {"worth": theirs}}
            for ours, theirs in zip(self.worths, own.worths, strict=True)
        ]
        worth, cost = sum(self.worths) * scale, self.total["cost"]
        more_cost = cost - own.total["cost"]
        return {
            "policy": self.name,
            "said": self.description,
            "gates": self.gates,
            "retrainings": self.total["retrainings"],
            "worth": worth,
            "cost": cost,
            "net": worth - cost,
            "gain": gained(pairs, "ours", "own", scale, more_cost),
            "surely": gained(pairs, "ours", "own", scale, more_cost, confidence=1 - 0.05 / others)["low"],
        }


def choice(lines: Mapping[str, PolicyLineJson], currency: str) -> tuple[str, str]:
    """The policy to choose, and why: the statement's, unless one that production can follow is surely worth more.

    Of many policies the best is best partly by luck, so the lower end of its gain decides, with a confidence that holds
    for all of them together (Bonferroni).
    """
    able = [line for line in lines.values() if line["gates"] and line["policy"] not in (OWN, "never", "counts")]
    best = max(able, key=lambda line: line["surely"], default=None)
    if best is None or best["surely"] <= 0:
        why = "no other policy that production can follow is surely worth more on this history"
        return OWN, f"The statement's policy stays: {why}."
    gain = best["gain"]
    return str(best["policy"]), (
        f"{best['said'][:1].upper()}{best['said'][1:]} is worth {number(gain['value'])} {currency} more than the statement's policy "
        f"[{number(gain['low'])} to {number(gain['high'])}], and surely more when all policies tried are counted."
    )


def sentences(comparison: BacktestJson) -> Iterator[str]:
    """What a backtest came to, for the terminal."""
    width = max(len(line["policy"]) for line in comparison["rows"])
    yield f"{len(comparison['periods'])} periods, worth in {comparison['currency']} less retraining; gain over the statement's policy with its 95% interval"
    for line in comparison["rows"]:
        gain = line["gain"]
        against = (
            ""
            if line["policy"] == OWN
            else f"  {gain['value']:>+10,.0f} [{number(gain['low'])} to {number(gain['high'])}]"
        )
        yield f"{line['policy']:<{width}}  {line['net']:>12,.0f}  {line['retrainings']:>3} retrainings{against}  {line['said']}"
    yield comparison["said"]
    yield comparison["line"]
