"""A turn: a worse model is replaced after gate and canary, once, whatever is killed; a base run stays as it was."""

import json
import os
from pathlib import Path

import pytest
from loop_project import actions, loans, make

from mlloop.core.errors import StageFailed
from mlloop.loop import session as sessions
from mlloop.loop import turn
from mlloop.loop.turn import STEPS
from mlloop.pipeline import plan as plans
from mlloop.pipeline import runner
from mlloop.problem import utc
from mlloop.store import prediction_log

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Two turns after the customers changed: the labels have shown one bad period."""
    loop = make(tmp_path_factory.mktemp("loop") / "project")
    done = loop.mlloop("run", "--json")
    assert done.returncode == 0, done.stderr
    loop.ran = loop.turn("2025-03-10", "2025-03-17")
    return loop


@pytest.fixture(scope="module")
def tried(begun, tmp_path_factory):
    """One turn later: a challenger is in canary."""
    loop = begun.copy(tmp_path_factory.mktemp("tried") / "project")
    loop.ran = loop.turn("2025-03-24")
    return loop


def test_concept_drift_is_not_seen_before_labels_come_and_said_so_after(begun):
    first, second = begun.ran
    assert (first.action, first.health) == ("nothing", "ok") and "estimated" in first.summary
    assert (second.action, second.health) == ("watch", "watch") and "realised" in second.summary


def test_a_copy_of_a_project_is_whole_and_runs_nothing_again(begun, tmp_path):
    loop = begun.copy(tmp_path / "project")
    products = list((loop.root / ".mlloop/products").rglob("*.json"))
    assert products and not [path for path in products if str(begun.root) in path.read_text(encoding="utf-8")]
    settings, plan = runner.project("loan", loop.root)
    away = begun.root.with_name("away")
    begun.root.rename(away)
    try:
        assert {one["state"] for one in runner.status(settings, plan).values()} == {"fresh"}
        assert runner.run(plan, settings).ran == []
    finally:
        away.rename(begun.root)


def test_retraining_runs_an_edition_and_leaves_the_base_up_to_date(tried):
    (turned,) = tried.ran
    assert turned.action == "retrain" and turned.ended[0]["outcome"] == "canary"
    assert turned.canary == turned.ended[0]["model"] != turned.champion
    folder = tried.root / ".mlloop/products/loan@2025-03-24"
    assert json.loads((folder / "problem.json").read_text())["as_of"] == "2025-03-24T00:00:00"
    assert not (folder / "exploration.json").exists()
    settings, plan = runner.project("loan", tried.root)
    outcome = runner.run(plan, settings)
    assert outcome.ran == [] and outcome.error is None
    canary = tried.ledger.canary("loan")
    assert canary.details["since"] == "2025-03-24T00:00:00"


def test_a_turn_made_step_by_step_comes_to_what_a_whole_one_comes_to(begun, tried, tmp_path):
    loop = begun.copy(tmp_path / "project")
    settings, plan = runner.project("loan", loop.root)
    turned = []
    for step in (*STEPS, None):  # a process each, as a scheduler's tasks are
        with sessions.opened(settings, plan) as session:
            turned.append(turn.turn(session, utc("2025-03-24"), pages=False, until=step))
    assert [one.action for one in turned] == ["collect", "monitor", "canary", "retrain", "retrain", "retrain"]
    assert [one.alert for one in turned[:2]] == [False, turned[1].health == "worse"]
    before, after = turned[3:5]
    assert before.canary is None and not before.ended and after.ended[0]["outcome"] == "canary" and after.canary
    assert turned[5].fresh and not turned[5].ended
    decided = lambda loop: [(row.kind, row.subject, row.verdict) for row in loop.ledger.rows() if row.kind != "update"]
    assert decided(loop) == decided(tried)


def test_challenger_that_does_as_promised_is_promoted_once_and_watched_by_its_own_reference(tried, tmp_path):
    loop = tried.copy(tmp_path / "project")
    challenger = loop.ledger.canary("loan").model
    (third,) = loop.turn("2025-03-31")
    assert (
        third.champion == challenger and third.ended[0]["outcome"] == "promoted"
    )  # by labels that came since it learnt
    assert len(loop.ledger.rows(kind="promotion")) == 2
    fourth, fifth = loop.turn("2025-04-07", "2025-04-14")
    assert (
        fourth.action == "retrain" and "learnt from" in fourth.summary
    )  # for having learnt little, not for being worse
    assert fourth.ended[0]["outcome"] == "canary" and fourth.champion == challenger
    assert fifth.ended[0]["outcome"] == "promoted" and fifth.champion == fourth.canary and fifth.health != "worse"
    watched = json.loads((loop.root / ".mlloop/monitoring/loan/2025-04-07.json").read_text())
    assert watched["model"] == challenger and watched["since"] == "2025-03-31T00:00:00"
    before = loop.ledger.head()
    (again,) = loop.turn("2025-04-14")
    assert again.fresh and loop.ledger.verify() == before


def test_challenger_of_a_block_that_passed_gives_way_to_the_former_champion(tried, tmp_path):
    """The customers turn back while it is in canary: it is let in by the block's labels, and out by the first ones since."""
    loop = tried.copy(tmp_path / "project")
    former, challenger = loop.ledger.champion("loan").model, loop.ledger.canary("loan").model
    loans(back_at="2025-03-24").to_csv(loop.root / "loans.csv", index=False)
    let_in, back, later = loop.turn("2025-03-31", "2025-04-07", "2025-04-14")
    assert let_in.champion == challenger
    # the former one answered the first week of the world as it was: far better than the new one would have, and than the rule
    row = loop.ledger.rows(kind="fallback")[0]
    assert back.alert and (row.details["to"], row.model, row.details["as_of"][:10]) == ("former", former, "2025-04-07")
    assert back.champion == later.champion == former
    loop.ledger.verify()


KILLS = [("answers", 2), ("decision", 3), ("retraining: training", 2)]
MORE = [
    ("data", 1), ("data", 4), ("data", 12), ("answers", 5), ("monitoring", 1), ("decision", 1), ("decision", 6),
    ("retraining: features", 1), ("retraining: validation_gate", 2), ("retraining: deployment", 1),
]  # fmt: skip


@pytest.mark.parametrize("kills", [KILLS, pytest.param(MORE, marks=pytest.mark.slow)], ids=["three", "ten more"])
def test_turn_killed_again_and_again_comes_to_one_decision_and_one_retraining(begun, tmp_path, kills):
    loop = begun.copy(tmp_path / "project")
    died = [loop.killed_turn("2025-03-24", word, steps) for word, steps in kills]
    assert died.count(-9) >= len(kills) - 1
    loop.turn("2025-03-24")
    loop.ledger.verify()
    assert actions(loop) == ["nothing", "watch", "retrain"]
    assert [row.subject for row in loop.ledger.rows(kind="retrain")].count("ended") == 1
    assert [row.subject for row in loop.ledger.rows(kind="canary")] == ["started"]
    assert len(loop.ledger.rows(kind="promotion")) == 1
    log = prediction_log.read(loop.root / ".mlloop/predictions/loan")
    assert log["entity"].is_unique and len(log) == 3 * 840


def test_dry_run_decides_and_keeps_nothing(begun):
    before = stands(begun.root)
    done = begun.mlloop("tick", "--at", "2025-03-24", "--dry-run", "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 4 and (said["action"], said["verdict"], said["dry_run"]) == ("retrain", "yes", True)
    assert stands(begun.root) == before


def stands(root: Path) -> dict[str, tuple[int, int]]:
    """Every file of the state that is not the kernel pool's, with size and time."""
    skip = ("kernels", "run.lock", "jupyter", "tmp", "zygote")
    found = [
        p
        for p in (root / ".mlloop").rglob("*")
        if p.is_file() and not any(part.startswith(skip) for part in p.relative_to(root / ".mlloop").parts)
    ]
    return {os.path.relpath(p, root): (p.stat().st_size, p.stat().st_mtime_ns) for p in found}


def test_edition_takes_over_what_it_does_not_enter(project):
    settings, plan = runner.project("loan", project.root)
    made = plans.edition(plan, "2025-02-01", ["training", "evaluation"], as_of="2025-02-01")
    assert made.problem == "loan@2025-02-01" and made.taken == {"problem", "collection", "need_gate"}
    assert made.tasks["training"].products["data"].parent.name == "loan@2025-02-01"
    assert made.tasks["need_gate"].products == plan.tasks["need_gate"].products
    assert (
        made.tasks["training"].parameters["as_of"] == "2025-02-01"
        and plan.tasks["training"].parameters["as_of"] is None
    )
    with pytest.raises(StageFailed, match="has not run"):
        runner.run(made, settings)
    project.run()
    outcome = runner.run(made, settings)
    assert outcome.ran == ["training", "evaluation"] and outcome.error is None
    assert project.run()["ran"] == []
