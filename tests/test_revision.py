"""A revised statement is the same problem: only what the changed lines touch runs again, in a project as `mlloop new` makes it."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Project as Shell
from conftest import write_project
from ruamel.yaml import YAML

from mlloop import products
from mlloop.core import settings, storage
from mlloop.pipeline import revise, runner
from mlloop.project import Project

ALL = [
    "collection", "ingestion", "transformation", "analysis", "visualization", "need_gate", "features", "exploration", "building",
    "training", "evaluation", "validation_gate", "deployment",
]  # fmt: skip
GATES = {"need_gate", "validation_gate"}


def churn(n: int = 2400) -> pd.DataFrame:
    """Customers who leave for reasons that no rule of one column tells."""
    rng = np.random.default_rng(2)
    frame = pd.DataFrame({
        "id": np.arange(n), "at": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.sort(rng.uniform(0, 300, n)), "D"),
        "age": rng.integers(18, 80, n), "spend": rng.gamma(2, 40, n).round(2), "plan": rng.choice(["basic", "plus", "pro"], n),
        "calls": rng.poisson(1.5, n), "idle_days": rng.integers(0, 60, n),
    })  # fmt: skip
    z = frame.calls - 1.5 + (45 - frame.age) / 25 + (frame.plan == "basic") - (frame.spend - 80) / 60
    z += (frame.idle_days - 30) / 20
    return frame.assign(churned=(rng.random(n) < 1 / (1 + np.exp(-z))).astype(int))


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Shell:
    """A project whose gates both say Yes, and that ran to its end."""
    folder = tmp_path_factory.mktemp("revised")
    churn().to_csv(folder / "churn.csv", index=False)
    made = Project.new(folder / "churn", data=str(folder / "churn.csv"), target="churned", time="at", id="id")
    file = made.root / "problems" / "churn.yaml"
    statement = YAML().load(file)
    statement["success"].update(
        {
            "threshold": 0.8,
            "min_gain": 0.01,
            "max_latency_ms": 10000,
            "slices": ["plan"],
            "max_slice_gap": 0.5,
            "min_slice_rows": 50,
        }
    )
    statement["money"].update({"true_positive": 60, "false_positive": -20})
    statement["budget"].update({"trials": 1, "candidates": ["linear", "lightgbm"]})
    YAML().dump(statement, file)
    shell = Shell(made.root)
    outcome = shell.run()
    assert outcome["error"] is None and {v["verdict"] for v in outcome["verdicts"].values()} == {"yes"}, outcome
    yield shell
    subprocess.run([sys.executable, "-m", "mlloop.kernels", "stop"], cwd=made.root, capture_output=True)


def stale_after(shell: Shell, alter) -> set[str]:
    """The stages that read what `alter` changes in the statement; their products are as they were."""
    settings, plan = runner.project(root=shell.root)
    path = plan.tasks["problem"].products["data"]
    text = path.read_text()
    content = storage.read_json(path)
    alter(content["problem"])
    try:
        products.save_product(str(path), **content)
        fresh = runner.freshness(settings, plan)
        return {name for name in ALL if runner._stale(plan, fresh, plan.tasks[name])}
    finally:
        path.write_text(text)


def put(place: str, value):
    """Sets a value of the statement, given by its place."""

    def alter(statement):
        *above, last = place.split("/")
        for name in above:
            statement = statement[int(name) if isinstance(statement, list) else name]
        statement[last] = value

    return alter


BEFORE_A_MODEL = {"collection", "ingestion", "transformation", "analysis", "need_gate", "features"}
CHANGES = {
    "nothing": (lambda statement: None, set()),
    "revision": (put("revision", 2), set()),
    "question": (put("question", "Who leaves?"), set()),
    "decision": (put("decision", "Whom to call."), set()),
    "owner": (put("owner", "Ada"), set()),
    "threshold": (put("success/threshold", 0.7), GATES),
    "gain over the best rule": (put("success/min_gain", 0.02), GATES),
    "allowed gap of a slice": (put("success/max_slice_gap", 0.3), {"validation_gate"}),
    "slices": (put("success/slices", []), {"evaluation", "validation_gate"}),
    "confidence": (put("success/confidence", 0.9), {*GATES, "exploration", "evaluation"}),
    "money": (put("money/true_positive", 70.0), {"need_gate", "exploration", "evaluation", "deployment"}),
    "cost of a model": (put("money/ml_per_period", 1.0), GATES),
    "rows needed": (put("need/min_rows", 1200), {"analysis", "need_gate"}),
    "budget": (put("budget/trials", 2), {"exploration"}),
    "retraining": (put("retrain/every_days", 9), set()),
    "canary": (put("canary/share", 0.3), set()),
    "refit": (put("refit", False), {"training"}),
    "a guess that is stated": (put("guessed", {}), GATES),
    "folds": (put("time/folds", 3), {"transformation"}),
    "the time of the run": (put("time/holdout_days", 30), {"transformation"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_line_touches_the_stages_that_read_it_and_no_other(ran, change):
    alter, expected = CHANGES[change]
    assert stale_after(ran, alter) == expected


def test_a_changed_source_task_or_rule_touches_what_reads_it(ran):
    source = stale_after(ran, put("sources/rows/encoding", "latin-1"))
    assert {"collection", "ingestion"} <= source and not source & {"features", "training", "validation_gate"}
    metric = stale_after(ran, put("success/metric", "average_precision"))
    assert {*GATES, "exploration", "evaluation"} <= metric and not metric & {
        "collection",
        "ingestion",
        "transformation",
    }
    target = stale_after(ran, put("task/positive", 0))
    assert {"analysis", "need_gate", "exploration", "training", "evaluation", "deployment"} <= target
    assert "collection" not in target
    rule = stale_after(ran, put("rules/0/score", "age"))
    assert {"need_gate", "features", "evaluation"} <= rule and not rule & {"collection", "ingestion", "analysis"}


def test_a_column_that_is_known_before_touches_no_row_of_the_tables(ran):
    found = stale_after(ran, put("tables/rows/columns/calls/known", "before"))
    assert {"analysis", "need_gate", "features"} <= found
    assert not found & {"collection", "transformation", "training", "deployment"}


def test_the_advice_of_a_gate_is_followed_in_two_gates(ran):
    file = ran.root / "problems" / "churn.yaml"
    before = file.read_text()
    ran.change("problems/churn.yaml", "threshold: 0.8", "threshold: 0.99")
    said = ran.mlloop("run")
    assert said.returncode == 3 and "edit success.threshold in problems/churn.r2.yaml" in said.stderr
    revision = next(Path(word.strip(",")) for word in said.stderr.split() if word.strip(",").endswith(".r2.yaml"))
    command = said.stderr.strip().splitlines()[-1].partition("then: mlloop ")[2].split()
    assert command == ["run", "--problem", str(revision)]
    ran.change(str(revision), "threshold: 0.99", "threshold: 0.79")
    done = ran.run(*command[0:0], *command[1:])
    assert set(done["ran"]) == {"problem", *GATES} and done["exit_code"] == 0
    assert "revision: 2" in file.read_text() and not (ran.root / revision).exists()
    assert (ran.root / "problems" / "churn.r1.yaml").read_text() == before.replace("threshold: 0.8", "threshold: 0.99")
    assert ran.run()["ran"] == []


def test_runs_of_two_problems_may_open_revisions_at_once(tmp_path):
    write_project(tmp_path)
    first = tmp_path / "problems/loan.yaml"
    second = first.with_name("lent.yaml")
    second.write_text(first.read_text().replace("name: loan", "name: lent", 1))
    here = settings.load(tmp_path)
    with ThreadPoolExecutor(2) as threads:
        opened = list(threads.map(lambda file: revise.open_next(here, file, "need", ["more rows"]), [first, second]))
    notes = storage.read_json(here.state / "records/revisions.json")
    assert sorted(notes) == sorted(path.name for path in opened) == ["lent.r2.yaml", "loan.r2.yaml"]
