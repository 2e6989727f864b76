"""A policy chosen by replaying the history: what counts, what is kept, and what a kill leaves behind."""

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time

import loop_project
import pytest

from mlloop import problem as problems
from mlloop.core import settings as _settings
from mlloop.core.errors import UsageError
from mlloop.loop import backtest, counterfactual, start
from mlloop.pipeline import runner
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger

START = dt.datetime(2025, 3, 3)


@pytest.fixture(scope="module")
def statement(tmp_path_factory):
    file = tmp_path_factory.mktemp("statement") / "loan.yaml"
    file.write_text(loop_project.STATEMENT, encoding="utf-8")
    return problems.load(file)


def replayed(
    name: str, worths: list[float], days: int = 7, cost: float = 0.0, never: list[float] | None = None
) -> backtest.Replayed:
    """A replay whose periods were worth so much."""
    begins = [START + dt.timedelta(days=days * i) for i in range(len(worths))]
    periods = [
        {"since": at.isoformat(), "until": (at + dt.timedelta(days=days)).isoformat(), "n": 100, "loop": {"value": 0.7, "worth": worth},
         **({"never": {"value": 0.6, "worth": never[i]}} if never else {})}
        for i, (at, worth) in enumerate(zip(begins, worths, strict=True))
    ]  # fmt: skip
    total = {"retrainings": round(cost / 100), "cost": cost}
    summary = {
        "periods": periods, "turns": [{"at": (START + dt.timedelta(days=days)).isoformat()}], "events": [],
        "until": (START + dt.timedelta(days=days * len(worths))).isoformat(), "policies": {"never": "never retraining"},
        "totals": {"loop": total, **({"never": {"retrainings": 0, "cost": 0.0}} if never else {})},
    }  # fmt: skip
    changes = {} if name == backtest.OWN else {"every_days": days}
    return backtest.Replayed(backtest.Policy(name, f"policy {name}", changes), summary, False, 1.0)


def test_net_worth_is_what_periods_brought_less_what_retrainings_cost(statement):
    found = backtest.compared(
        statement,
        [replayed(backtest.OWN, [10.0, 20, 30], cost=5, never=[10.0, 10, 10]), replayed("other", [40.0] * 3, cost=20)],
    )
    by = {one["policy"]: one for one in found["rows"]}
    assert [by[name]["net"] for name in ("statement", "never", "other")] == [55, 30, 100]
    assert by["other"]["gain"]["value"] == 45 and by["statement"]["gain"] == {"value": 0, "low": 0, "high": 0}


def test_periods_twice_as_long_are_compared_over_the_same_days(statement):
    weekly, fortnightly = replayed(backtest.OWN, [10.0, 20, 30, 40, 99]), replayed("slow", [15.0, 35], days=14)
    found = backtest.compared(statement, [weekly, fortnightly])
    by = {one["policy"]: one for one in found["rows"]}
    assert len(found["periods"]) == 2 and by["statement"]["worth"] == by["slow"]["worth"] == 2 * (15 + 35)


def test_a_policy_is_chosen_only_where_it_is_surely_worth_more(statement):
    own = [10.0, 30, 20, 40, 10, 30, 20, 40]
    lucky = [one + gain for one, gain in zip(own, [60, -40, 50, -45, 55, -50, 40, -40], strict=True)]
    better = [one + gain for one, gain in zip(own, [20, 22, 18, 21, 19, 20, 23, 17], strict=True)]
    luck = backtest.compared(statement, [replayed(backtest.OWN, own), replayed("lucky", lucky)])
    assert luck["rows"][0]["policy"] == "lucky" and luck["chosen"] == "statement"
    sure = backtest.compared(
        statement, [replayed(backtest.OWN, own), replayed("lucky", lucky), replayed("better", better)]
    )
    assert sure["chosen"] == "better" and "every_days: 7" in sure["line"]


def test_the_line_for_the_statement_holds_its_keys_and_what_differs(statement):
    policy = {one.name: one for one in backtest.policies(statement)}["every_4"]
    line = policy.line(statement)
    assert (
        line.startswith("retrain: {every_days: 7, k: 2, n: 3")
        and "backstop_days: 28" in line
        and "window_days: 7" in line
    )


def test_no_two_policies_are_the_same(statement):
    changes = [json.dumps(one.changes, sort_keys=True) for one in backtest.policies(statement)]
    assert len(set(changes)) == len(changes) >= 8


def test_schedules_share_fits_and_none_is_longer_than_the_history():
    assert counterfactual.schedules(1, 6) == {"always": (1, None), "every_2": (2, None), "every_4": (4, None)}
    assert counterfactual.schedules(3, 18, (None, 42))["every_6_last_42d"] == (6, 42)


def test_the_gain_over_a_policy_pays_the_retrainings():
    figures = [{"a": {"worth": 12.0}, "b": {"worth": 10.0}}] * 6
    assert counterfactual.gained(figures, "a", "b", 0.5, 4.0) == {"value": 2.0, "low": 2.0, "high": 2.0}


def test_without_a_model_a_history_is_refused_at_once(tmp_path):
    loop_project.make(tmp_path / "loan")
    settings, plan = runner.project("loan", tmp_path / "loan")
    with pytest.raises(UsageError, match="no model is in production"):
        start.must_be_in_production(settings, plan)
    assert not (settings.state / "ledger.db").exists()


@pytest.mark.parametrize(
    ("subject", "verdict", "step"),
    [
        ("validation", "maybe", "mlloop promote --problem loan"),
        ("validation", "no", "The validation gate said No"),
        ("need", "no", "The need gate said No"),
        ("need", "yes", "Put one there: mlloop run --problem loan"),
    ],
)
def test_the_way_to_a_model_in_production_is_the_one_that_the_last_gate_leaves_open(tmp_path, subject, verdict, step):
    loop_project.make(tmp_path / "loan")
    settings, _ = runner.project("loan", tmp_path / "loan")
    Ledger.open(settings).append(Entry("gate", "loan", subject=subject, verdict=verdict))
    with pytest.raises(UsageError) as refused:
        start.must_be_in_production(settings, "loan")
    assert step in str(refused.value)


def test_without_a_history_a_backtest_is_refused_at_once(tmp_path):
    loop_project.make(tmp_path / "loan")
    settings, plan = runner.project("loan", tmp_path / "loan")
    with pytest.raises(UsageError, match="no history was turned yet"):
        start.last_end(settings, plan)
    with pytest.raises(UsageError, match="there is no history to turn: it begins at 2025-03-03"):
        backtest.backtest(settings, plan, dt.datetime(2025, 3, 5))


def test_without_prices_a_backtest_is_refused_at_once(tmp_path):
    loop_project.make(tmp_path / "loan")
    settings, plan = runner.project("loan", tmp_path / "loan")
    file = runner.statement_file(settings, plan)
    text = file.read_text(encoding="utf-8")
    file.write_text("\n".join("money: {}" if line.startswith("money:") else line for line in text.splitlines()) + "\n")
    with pytest.raises(UsageError, match=r"does not say what a prediction is worth(.|\n)*mlloop loop"):
        backtest.backtest(settings, plan, dt.datetime(2025, 5, 5))


def test_a_copy_keeps_everything_in_itself_and_tells_nobody(tmp_path, monkeypatch):
    """Wherever the original keeps ledger, lake, models, pages and statements: a replay must not write into any of it."""
    root = loop_project.make(tmp_path / "loan").root
    away = tmp_path / "away"
    (root / "settings.ini").write_text(
        f"[lake]\nuri = {away}/lake\n[ledger]\nurl = sqlite:///{away}/ledger.db\nanchor = {away}/anchor\n"
        f"[tracking]\nurl = http://models.example.org\nartifacts = s3://models/x\n[engine]\nmemory = 1GB\n"
        f"[metrics]\ntextfile = {away}/mlloop.prom\n[alerts]\nto = jsons://hook.example.org\n[deployment]\nby = person\n"
        f"[paths]\nproblems = {root}/problems\nstate = {root}/var\nreports = {away}/reports\n"
    )
    monkeypatch.setenv("MLLOOP_ENGINE_THREADS", "1")
    monkeypatch.setenv("MLLOOP_PATHS_PROBLEMS", str(root / "problems"))
    for old in (".mlloop", "var"):
        (root / old).mkdir(exist_ok=True)
        (root / old / "old").write_text("of the original")
    settings, copy = _settings.load(root), tmp_path / "copy"
    statement = (root / "problems" / "loan.yaml").read_text()
    backtest._copy(root, copy, backtest.kept_by(settings), settings)
    backtest._state(copy, "loan", backtest.Policy("rare", "rarely", {"every_days": 28}))
    of_copy = _settings.load(copy, {})
    places = (of_copy.lake_uri, of_copy.ledger_url.removeprefix("sqlite:///"), of_copy.tracking_url.removeprefix("sqlite:///"),
              of_copy.artifacts_uri, of_copy.problems, of_copy.notebooks, of_copy.state, of_copy.reports)  # fmt: skip
    assert all(str(place).startswith(f"{copy}/") for place in places)
    assert (
        not (of_copy.alerts_to or of_copy.metrics_textfile or of_copy.ledger_anchor)
        and of_copy.deployment_by == "policy"
    )
    assert (of_copy.engine_memory, of_copy.engine_threads) == ("1GB", 1), "the rest is as in the original"
    assert (root / "problems" / "loan.yaml").read_text() == statement
    assert "every_days: 28" in (copy / "problems" / "loan.yaml").read_text()
    assert not any(copy.rglob("old")) and not away.exists()


def test_an_unknown_policy_is_refused_with_the_ones_there_are(statement):
    with pytest.raises(UsageError, match="every_4"):
        backtest.chosen_by_name(statement, ["every_5"])


TURN_IT = """
import datetime as dt
from mlloop.loop import backtest
from mlloop.pipeline import runner
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger
backtest.backtest(*runner.project("loan"), dt.datetime(2025, 3, 17), ["1_of_1"], 1)
"""


@pytest.mark.timeout(2400)  # three runs of a whole project's stages; only a busy machine comes near it
def test_a_killed_backtest_goes_on_and_the_project_stays_as_it_is(tmp_path):
    """Kill it while a replay turns; the same call ends it, from the turns that were made."""
    project = loop_project.make(tmp_path / "loan")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{loop_project.REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    running = subprocess.Popen(
        [sys.executable, "-c", TURN_IT], cwd=project.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, env=environment,
    )  # fmt: skip
    copies = project.root / ".mlloop" / "backtest" / "loan"
    turned = "*/statement-*/.mlloop/turns/loan/2025-03-10/decision.json"
    begun = "*/statement-*/.mlloop/turns/loan/2025-03-17/ingestion.json"
    while running.poll() is None and not any(copies.glob(begun)):
        time.sleep(0.05)
    assert running.poll() is None, "it ended before it could be killed"
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    first = next(copies.glob(turned)).stat().st_mtime_ns
    kept: list[int] = []
    settings, plan = runner.project("loan", project.root)

    def told(one: backtest.Replayed) -> None:
        kept.extend(path.stat().st_mtime_ns for path in copies.glob(turned))

    given = (settings, plan, dt.datetime(2025, 3, 17), ["1_of_1"], 1)
    found = backtest.backtest(*given, on_replay=told, keep=True)
    assert {"statement", "1_of_1", "never", "always_no_gate"} <= {one["policy"] for one in found["rows"]}
    assert kept and kept[0] == first, "the turn that was made before the kill is not made again"
    assert {path.name for path in settings.state.iterdir()} <= {"backtest", "plans"}
    again: list[bool] = []
    assert backtest.backtest(*given, on_replay=lambda one: again.append(one.kept)) == found and all(again)
