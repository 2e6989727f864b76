"""The evaluation: figures on the holdout period against other libraries, slices, latency, and the champion."""

import datetime as dt
import json
import time

import ibis
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from statsmodels.stats.proportion import proportion_confint

from mlloop import evaluation, products
from mlloop.comparison import holdout as heldout
from mlloop.core.errors import DataError, LakeError, ModelError
from mlloop.core.verdict import Check
from mlloop.data import loan_example
from mlloop.models import candidates
from mlloop.models.recommenders import Popularity
from mlloop.problem import Problem
from mlloop.store import tracking
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger

WINDOWS = {
    "from": "2025-01-01T00:00:00", "train_until": "2025-02-01T00:00:00", "holdout_from": "2025-02-01T00:00:00",
    "holdout_until": "2025-02-20T00:00:00", "as_of": "2025-02-20T00:00:00", "folds": [],
}  # fmt: skip
STATEMENT = loan_example.statement(
    rules=[{"name": "old", "meaning": "lend to the old", "score": "CASE WHEN age > 40 THEN 1 ELSE 0 END"}],
    success={"slices": ["branch"], "min_slice_rows": 50},
    money={"decisions_per_period": 10},
)


@pytest.fixture(scope="module")
def loans():
    rng = np.random.default_rng(0)
    at = pd.Timestamp("2025-01-01") + pd.to_timedelta(np.arange(1200), unit="h")
    rows = pd.DataFrame(
        {
            "id": range(1200),
            "day": at,
            "age": rng.integers(20, 70, 1200).astype(float),
            "branch": rng.choice(["north", "south"], 1200),
        }
    )
    rows["rule_old"] = (rows["age"] > 40).astype(float)
    rows["repaid"] = (rng.random(1200) < (rows["age"] - 20) / 50).astype(int)
    return rows


@pytest.fixture(scope="module")
def parts(loans):
    early = loans["day"] < pd.Timestamp(WINDOWS["train_until"])
    return loans[early], loans[~early & (loans["day"] < pd.Timestamp(WINDOWS["holdout_until"]))]


@pytest.fixture(scope="module")
def model(parts):
    return candidates.build("linear", STATEMENT.task).fit(parts[0][["age", "branch"]], parts[0]["repaid"])


@pytest.fixture(scope="module")
def held(parts, model):
    return evaluation.held_rows(STATEMENT, model, *parts, ["age", "branch"])


def read(tables):
    return lambda name: ibis.memtable(tables[name].reset_index(drop=True))


def product(parts):
    tables = {"train": parts[0], "holdout": parts[1]}
    return {"tables": {name: name for name in tables}, "windows": WINDOWS, "features": ["age", "branch"]}, read(tables)


def test_every_metric_is_that_of_scikit_learn_on_the_held_out_rows(parts, model, held):
    y, p = parts[1]["repaid"], model.predict_proba(parts[1][["age", "branch"]])[:, 1]
    expected = {
        "roc_auc": sk.roc_auc_score(y, p), "average_precision": sk.average_precision_score(y, p), "accuracy": sk.accuracy_score(y, p >= 0.5),
        "f1": sk.f1_score(y, p >= 0.5), "log_loss": sk.log_loss(y, p), "brier": sk.brier_score_loss(y, p),
    }  # fmt: skip
    found = {m["name"]: m for m in evaluation.all_metrics(STATEMENT, held)}
    assert {name: found[name]["value"] for name in expected} == pytest.approx(expected)
    assert all(m["low"] <= m["value"] <= m["high"] and m["n"] == len(y) for m in found.values())


def test_the_rule_and_chance_are_judged_on_the_same_rows(parts, held):
    rows = {c["name"]: c for c in evaluation.contenders(held)}
    assert rows["old"]["metric"]["value"] == pytest.approx(sk.roc_auc_score(parts[1]["repaid"], parts[1]["rule_old"]))
    assert {c["metric"]["n"] for c in rows.values()} == {len(parts[1])}
    assert rows["old"]["gain"]["value"] == pytest.approx(
        rows["model"]["metric"]["value"] - rows["old"]["metric"]["value"]
    )
    assert rows["random"]["metric"]["low"] < 0.5 < rows["random"]["metric"]["high"]
    # lending where p > 0.5 pays: 50 against -50, ten decisions each period
    p, y = held.predictions["y_score"], held.predictions["y_true"]
    assert rows["model"]["worth"]["value"] == pytest.approx(
        np.where(p >= 0.5, np.where(y == 1, 50, -50), 0).mean() * 10
    )


def test_slices_are_judged_on_their_own_rows(parts, held):
    found = {s["group"]: s for s in evaluation.slice_figures(STATEMENT, held)}
    own = held.predictions[(parts[1]["branch"] == "north").to_numpy()]
    assert found["north"]["value"] == pytest.approx(sk.roc_auc_score(own["y_true"], own["y_score"]))
    assert found["north"]["n"] + found["south"]["n"] == len(parts[1])
    overall = sk.roc_auc_score(held.predictions["y_true"], held.predictions["y_score"])
    assert found["north"]["gap"] == pytest.approx(overall - found["north"]["value"])


def test_a_group_of_one_class_and_a_slice_that_is_no_column_have_no_figure(parts, model):
    train, holdout = parts[0].copy(), parts[1].copy()
    holdout.loc[holdout["repaid"] == 1, "branch"] = "north"
    holdout.loc[holdout["repaid"] == 0, "branch"] = "south"
    asked = STATEMENT.model_copy(
        update={"success": STATEMENT.success.model_copy(update={"slices": ["branch", "moon"]})}
    )
    figures = evaluation.judge(asked, evaluation.held_rows(asked, model, train, holdout, ["age", "branch"]))
    assert [s["value"] for s in figures["slices"]] == [None, None] and figures["slices_missing"] == ["moon"]


def test_a_number_as_slice_is_cut_at_the_thirds_of_the_training_rows(parts):
    found = heldout.row_slices(parts[1], parts[0], ["age"])["age"]
    assert found.nunique() == 3 and found.value_counts(normalize=True).between(0.2, 0.5).all()


def test_calibration_has_wilsons_interval():
    y, p = np.array([1] * 7 + [0] * 3), np.linspace(0.5, 0.9, 10)
    (row,) = evaluation.calibration(y, p, groups=1)
    assert (row["low"], row["high"]) == pytest.approx(proportion_confint(7, 10, method="wilson"))
    assert (row["observed"], row["predicted"], row["n"]) == (pytest.approx(0.7), pytest.approx(0.7), 10)


def test_latency_is_a_step_of_the_scale_and_waiting_for_others_is_not_counted():
    slow = evaluation.latency(lambda _: sum(i for i in range(60_000)), [0], 50.0)
    idle = evaluation.latency(lambda _: time.sleep(0.003), [0], 50.0)
    assert slow["p99_below_ms"] > idle["p99_below_ms"] and idle["p99_below_ms"] <= 2
    assert evaluation.step_above(49.9, 47.0) == 50.0 and evaluation.step_above(46.0, 47.0) == 47.0


def test_a_digest_that_is_not_the_one_noted_is_refused(model, tmp_path):
    kept = candidates.save(model, tmp_path)
    assert evaluation.load_model(kept["path"], kept["digest"]) is not None
    with pytest.raises(ModelError):
        evaluation.load_model(kept["path"], "0" * 64)


def test_no_held_out_row_is_an_error_with_the_next_step(parts, model):
    with pytest.raises(DataError, match="holdout_days"):
        evaluation.held_rows(STATEMENT, model, parts[0], parts[1].iloc[:0], ["age", "branch"])


# ---- recommendation

SHOP = Problem.model_validate({
    "name": "shop", "question": "?", "decision": "?",
    "task": {"kind": "recommendation", "k": 2, "interactions": [
        {"table": "events", "user": "user", "item": "item", "time": "at", "kind": "purchase"}]},
    "sources": {"events": {"kind": "files", "path": "events.csv"}},
    "tables": {"events": {"source": "events", "columns": {n: {"type": "text"} for n in ("user", "item", "at")}}},
    "rules": [{"name": "today", "meaning": "best-sellers of 30 days", "popular_days": 30}],
    "success": {"metric": "ndcg", "threshold": 0.2, "slices": ["activity"], "min_slice_rows": 1}, "money": {"per_hit": 2.0, "decisions_per_period": 100},
})  # fmt: skip


def bought(*lines):
    rows = [(user, item, pd.Timestamp(f"2025-{when}"), "purchase", 1.0) for user, item, when in lines]
    return pd.DataFrame(rows, columns=["user", "item", "time", "kind", "quantity"])


EVENTS = bought(
    ("ann", "tea", "01-02"), ("bob", "tea", "01-03"), ("cid", "tea", "01-05"), ("ann", "cup", "01-20"), ("bob", "cup", "01-21"),
    ("ann", "tea", "02-02"), ("bob", "jam", "02-03"), ("dan", "cup", "02-04"), ("ann", "pot", "02-20"),
)  # fmt: skip


def test_users_of_the_held_out_days_are_judged_by_hand():
    before = EVENTS[EVENTS["time"] < WINDOWS["holdout_from"]]
    found = evaluation.held_users(SHOP, Popularity(days=None).fit(before), EVENTS, None, WINDOWS)
    values = found.fold.values["model"]
    # the list is tea, cup for everybody. ann wanted tea: first place; bob jam, not shown; dan cup: second, 1 / log2(3)
    assert values["ndcg"].to_dict() == pytest.approx({"ann": 1.0, "bob": 0.0, "dan": 0.6309298})
    assert found.fold.worth("model").value == pytest.approx(2 / 3 * 2.0 * 100)
    assert dict(zip(values.index, found.slices["activity"], strict=True))["dan"] == "new"
    assert found.predictions.query("wanted")[["user", "item"]].to_numpy().tolist() == [["ann", "tea"], ["dan", "cup"]]
    assert {"model", "today", "popular_ever", "bought_before", "random"} == {who.name for who in found.contenders}


def test_rules_learn_nothing_of_the_held_out_days():
    before = EVENTS[EVENTS["time"] < WINDOWS["holdout_from"]]
    more = pd.concat([EVENTS, bought(*[("eve", "jam", "02-05")] * 50)])
    one, two = (
        evaluation.held_users(SHOP, Popularity(days=None).fit(before), events, None, WINDOWS)
        for events in (EVENTS, more)
    )
    for name in ("today", "popular_ever", "bought_before"):
        assert one.fold.values[name].loc["ann"].equals(two.fold.values[name].loc["ann"])


def test_nobody_in_the_held_out_days_is_an_error():
    with pytest.raises(DataError, match="nobody has an event"):
        later = WINDOWS | {"holdout_from": "2025-03-01", "holdout_until": "2025-04-01"}
        evaluation.held_users(SHOP, Popularity().fit(EVENTS), EVENTS, None, later)


# ---- the champion


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("")
    (tmp_path / "pipeline.yaml").write_text("tasks: []\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def enthrone(model, folder, until, **tags):
    """Save, register and promote a model that has learnt until then; returns its digest."""
    kept = candidates.save(model, folder / f"champion-{until}")
    tracking.register_model("loan", kept["path"], kept["form"], tags={"trained_until": until or "", **tags})
    ledger = Ledger.open()
    ledger.append(Entry("gate", "loan", "validation", "yes", digests={"model": kept["digest"]}, model=kept["digest"]))
    ledger.append(Entry("promotion", "loan", model=kept["digest"], expect=None))
    return kept["digest"]


def poor(parts):
    return candidates.build("linear", STATEMENT.task).fit(
        parts[0][["age", "branch"]].assign(age=50.0), parts[0]["repaid"]
    )


def test_without_a_champion_that_is_said(project, parts, model):
    found = evaluation.against_champion(STATEMENT, *product(parts), model, "d" * 64)
    assert found == {
        "said": "There is no champion: this would be the first model in production.",
        "digest": None,
        "gain": None,
        "accepted": [],
    }


def test_the_champion_is_compared_on_the_same_rows(project, parts, model):
    champion = poor(parts)
    digest = enthrone(champion, project, "2025-01-20T00:00:00")
    found = evaluation.against_champion(STATEMENT, *product(parts), model, "d" * 64)
    y, X = parts[1]["repaid"], parts[1][["age", "branch"]]
    gain = sk.roc_auc_score(y, model.predict_proba(X)[:, 1]) - sk.roc_auc_score(y, champion.predict_proba(X)[:, 1])
    assert found["digest"] == digest and found["n"] == len(y) and found["gain"]["value"] == pytest.approx(gain)


def test_groups_that_could_not_be_judged_on_the_champion_are_named_in_the_product(project, parts, model):
    digest = enthrone(poor(parts), project, "2025-01-20T00:00:00")
    few = Check("no group of branch left behind", None, "", 60.0, threshold=200.0, unit="rows").evidence()
    entry = Entry("gate", "loan", subject="validation", verdict="maybe", model=digest, evidence=[few])
    Ledger.open().append(entry)
    found = evaluation.against_champion(STATEMENT, *product(parts), model, "d" * 64)
    assert products.AgainstChampion.model_validate(found).unjudged_groups == ["no group of branch left behind"]


def test_a_champion_of_few_rows_is_followed_up(project, parts, model):
    """The judged model learnt from everything, which is more than the champion's 300 rows."""
    enthrone(poor(parts), project, "2025-01-20T00:00:00", short_past_rows=300)
    assert evaluation.against_champion(STATEMENT, *product(parts), model, "d" * 64)["follow_up"]


def test_rows_the_champion_has_learnt_are_left_out(project, parts, model):
    enthrone(poor(parts), project, "2025-02-10T00:00:00")
    found = evaluation.against_champion(STATEMENT, *product(parts), model, "d" * 64)
    assert found["n"] == (parts[1]["day"] >= pd.Timestamp("2025-02-10")).sum() < len(parts[1])


def test_only_the_rows_since_a_change_are_compared(project, parts, model):
    enthrone(poor(parts), project, "2025-01-20T00:00:00")
    found = evaluation.against_champion(STATEMENT, *product(parts), model, "d" * 64, detected="2025-02-12T00:00:00")
    assert found["n"] == (parts[1]["day"] >= pd.Timestamp("2025-02-12")).sum() < len(parts[1])


@pytest.mark.parametrize("until", ["2025-03-01T00:00:00", None])
def test_a_champion_that_may_have_learnt_every_row_is_not_compared(project, parts, model, until):
    digest = enthrone(poor(parts), project, until)
    found = evaluation.against_champion(STATEMENT, *product(parts), model, "d" * 64)
    assert found["digest"] == digest and found["gain"] is None and "no holdout row is new to it" in found["said"]


def test_without_time_a_champion_is_compared_on_the_rows_that_it_has_not_learnt(project, parts, model):
    """The champion learnt the training rows and some of the held-out ones: only the others count, and few prove nothing."""
    champion = candidates.build("linear", STATEMENT.task).fit(parts[1][["age", "branch"]], parts[1]["repaid"])
    features, tables = {**product(parts)[0], "windows": None}, {"train": parts[0], "holdout": parts[1].iloc[:100]}
    enthrone(champion, project, None, learnt_tables=json.dumps({"train": "train", "holdout": "first"}))
    first = read({**tables, "first": tables["holdout"], "holdout": parts[1]})
    found = evaluation.against_champion(STATEMENT, features, first, model, "d" * 64)
    assert found["n"] == len(parts[1]) - 100 and found["gain"] is not None
    most = read({**tables, "first": parts[1].iloc[:-20], "holdout": parts[1]})
    few = evaluation.against_champion(STATEMENT, features, most, model, "d" * 64)
    assert few["gain"] is None and "20 are new to it, too few to compare" in few["said"]


def test_without_time_and_key_nothing_is_compared_where_the_learnt_rows_were_changed(project, parts, model):
    """A median that moved changes every value that it filled in: the rows look new, and the champion knows them."""
    with_key = lambda key: STATEMENT.model_copy(
        update={"tables": {name: table.model_copy(update={"key": key}) for name, table in STATEMENT.tables.items()}}
    )
    features, early = {**product(parts)[0], "windows": None}, parts[0].assign(age=parts[0]["age"] + 0.5)
    tables = {"train": parts[0], "holdout": parts[1], "changed": early}
    enthrone(poor(parts), project, None, learnt_tables=json.dumps({"train": "changed", "holdout": "holdout"}))
    compare = lambda statement, lake: evaluation.against_champion(statement, features, lake, model, "d" * 64)
    found = compare(with_key([]), read(tables))
    assert found["gain"] is None and "name the table's key" in found["said"]
    assert "none is new to it" in compare(with_key(["id"]), read(tables))["said"]  # by its key, each row is known

    def gone(name):
        raise LakeError("version 0 cannot be read", name)

    assert "no longer in the lake" in compare(with_key([]), gone)["said"]


def test_a_model_is_not_its_own_challenger(project, parts):
    champion = poor(parts)
    digest = enthrone(champion, project, "2025-01-20T00:00:00")
    assert evaluation.against_champion(STATEMENT, *product(parts), champion, digest)["digest"] is None


def test_a_champion_that_needs_other_columns_is_said_not_crashed_on(project, parts, model):
    X = parts[0][["age", "branch"]].assign(income=1.0)
    enthrone(candidates.build("linear", STATEMENT.task).fit(X, parts[0]["repaid"]), project, "2025-01-20T00:00:00")
    found = evaluation.against_champion(STATEMENT, *product(parts), model, "d" * 64)
    assert found["gain"] is None and "cannot predict these rows" in found["said"] and "income" in found["said"]


def test_the_same_seed_gives_the_same_figures(parts, model):
    one, two = (
        evaluation.judge(STATEMENT, evaluation.held_rows(STATEMENT, model, *parts, ["age", "branch"], seed=3))
        for _ in range(2)
    )
    assert one == two and dt.datetime.now().isoformat()[:10] not in str(one)


def test_few_rows_without_a_time_are_each_judged_by_a_model_that_has_not_learnt_them(tmp_path):
    from mlloop import training
    from mlloop.comparison.lookback import past_of
    from mlloop.products import Judged

    statement = loan_example.statement(time={"column": None, "folds": 4}, tables={"loans": {"time": None}})
    rows = loan_example.rows(300).drop(columns="day")
    rows["rule_small"] = -rows["amount"]
    tables = {"train": rows[:240], "holdout": rows[240:]}
    features = {"tables": {name: name for name in tables}, "features": ["amount"], "windows": None}
    past = past_of(statement, features, read(tables))
    assert past.has_few
    recipe = candidates.recipe("linear", {"C": 1.0}, 0)
    stretches = training.stretches_of(None, None, True, past.has_few)
    judged = training.judged_models(past, recipe, stretches, tmp_path / "judged", tmp_path / "c")
    judges = evaluation.judges_of([Judged(**line) for line in judged])
    parts = evaluation.parts_of(statement, tables["train"], tables["holdout"], ["amount"], judges)
    assert sum(len(part.rows) for part in parts) == 300 and [len(part.train) for part in parts] == [240] * 5
    for number, (part, line) in enumerate(zip(parts, judged, strict=True)):
        learnt = past.without_part(number)
        assert line["rows"] == 240 and set(part.rows["id"]) == set(past.rows["id"][learnt.aside])
        assert not set(part.rows["id"]) & set(part.train["id"])
    held = evaluation.hold(statement, features, read(tables), None, judges=judges)
    assert held.fold.figure("model").n == 300
