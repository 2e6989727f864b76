"""Nothing worse than the rule: it is a release like any other, takes over in the turn that shows it, and gives way again."""

import datetime as dt
import json
import os
import sys
from pathlib import Path

import forked
import numpy as np
import pandas as pd
import pytest
from production import FEATURES, Production, environment, loans, sales

from mlloop import deployment, serving
from mlloop.comparison import baselines
from mlloop.core.errors import LedgerError, PromotionRefused
from mlloop.release import releases, rule_release
from mlloop.store.entries import Entry

START = dt.datetime(2025, 3, 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project with two models that their gate let pass, and its rules' releases."""
    made = Production(tmp_path_factory.mktemp("made"))
    made.models = {"a": made.train("linear"), "b": made.train("lightgbm", slice(0, 700), n_estimators=20)}
    rule = made.loan.rules[0]
    fields = releases.load(made.models["a"]["folder"], made.models["a"]["release"]).fields
    release = rule_release.prepare_rule(made.settings, made.loan, rule, made.rows.iloc[800:], beside=fields).digest
    made.rule = {"name": rule.name, "model": rule_release.rule_digest(made.loan, rule), "release": release, "note": ""}
    return made


@pytest.fixture
def production(trained, tmp_path):
    """A copy in which model a answers and the rule is kept ready."""
    copy = trained.copy(tmp_path / "project")
    copy.a, copy.b = copy.models["a"], copy.models["b"]
    deployment.deploy(
        copy.settings, copy.ledger, copy.loan, copy.a["digest"], copy.a["release"], now=START, rule=copy.rule
    )
    return copy


def fall(production, to="rule", key="first") -> None:
    rule = production.rule
    production.ledger.append(
        Entry(
            "fallback",
            "loan",
            model=rule["model"],
            expect=production.a["digest"],
            reasons=["worse than the rule"],
            digests={"model": rule["model"], "release": rule["release"]},
            details={"as_of": START.isoformat(), "to": to, "name": "small"},
            key=key,
        )
    )


def test_the_rule_answers_over_http_in_batch_and_in_the_pipeline_alike(production):
    fall(production)
    rows = production.rows.iloc[800:840]
    raw = baselines.rule_scores(rows, production.loan.rules[0])
    release = deployment.load_release(production.settings, production.ledger, "loan", production.rule["model"])
    curve = release.card["rule"]["curve"]
    expected = np.interp(raw, curve["score"], curve["probability"])
    scored, refused = serving.score_table(
        serving.in_production(production.settings, production.ledger, "loan"), rows[["id", *FEATURES]]
    )
    assert refused.empty and np.allclose(scored["score"], expected)
    with production.serve() as served:
        answered = served.ask([production.ask(n) for n in range(40)]).json()
        assert served.client.get("/ready").json()["problems"]["loan"]["champion"] == production.rule["model"][:12]
    assert np.allclose([one["score"] for one in answered], expected)


def test_a_row_that_lacks_what_the_rule_reads_gets_the_rules_usual_score(production):
    release = releases.load(
        releases.folder_of(production.settings, "loan", production.rule["release"]), production.rule["release"]
    )
    (answer,) = release.answers([{"town": "Ely"}])
    assert 0 < answer["score"] < 1


def test_a_request_to_a_model_states_what_the_rule_reads():
    """A model that does not use the sum asked for still asks for it, so that its log is enough to ask the rule."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made = Production(Path(folder) / "p", make=True)
        rows = made.rows.iloc[:400]
        from mlloop.models import candidates
        from mlloop.release import preparation

        fitted = candidates.build("linear", made.loan.task).fit(rows[["age"]], rows["repaid"])
        model = {"name": "linear", **candidates.save(fitted, made.root / ".mlloop" / "m")}
        also = rule_release.rule_columns(made.loan, rows)
        prepared = preparation.prepare(made.settings, made.loan, model, rows, ["age"], also=also)
        fields = {one.name: one.required for one in releases.load(prepared.path, prepared.digest).fields}
        assert also == ["amount"] and fields == {"age": False, "amount": False}


def test_best_sellers_are_a_release_too(trained, tmp_path):
    shop = trained.shop
    made = rule_release.prepare_rule(trained.settings, shop, shop.rules[0], sales())
    release = releases.load(made.path, made.digest)
    (answer, stranger) = release.answers([{"user": "u1"}, {"user": "nobody"}])
    best = sales()["item"].value_counts()
    assert release.is_rule and len(answer["items"]) == 5 and stranger["items"][0] in set(best.index[:3])


def test_a_fallback_is_one_row_keeps_the_canary_on_and_gives_way_to_a_promotion(production):
    production.deploy(production.b, now=START)
    fall(production)
    fall(production)
    ledger = production.ledger
    assert ledger.champion("loan").model == production.rule["model"] and len(ledger.rows(kind="fallback")) == 1
    assert ledger.canary("loan").model == production.b["digest"]
    assert (
        deployment.load_release(production.settings, ledger, "loan", ledger.champion("loan").model).digest
        == production.rule["release"]
    )
    ledger.append(Entry("canary", "loan", "promoted", model=production.b["digest"]))
    assert ledger.champion("loan").model == production.b["digest"] and ledger.canary("loan") is None
    assert ledger.previous_champion("loan") == production.rule["model"]
    ledger.verify()


def test_what_nothing_speaks_of_does_not_stand_in_and_a_late_decision_is_refused(production):
    with pytest.raises(PromotionRefused, match="no rule kept ready"):
        production.ledger.append(Entry("fallback", "loan", model="f" * 64, expect=production.a["digest"]))
    with pytest.raises(PromotionRefused, match="was taken against"):
        production.ledger.append(Entry("fallback", "loan", model=production.rule["model"], expect="e" * 64))
    with pytest.raises(LedgerError, match="expect of a fallback"):
        production.ledger.append(Entry("fallback", "loan", model=production.rule["model"]))


def test_the_former_champion_comes_back_and_the_rule_is_no_earlier_champion_then(production):
    fall(production)
    production.ledger.append(
        Entry(
            "fallback",
            "loan",
            model=production.a["digest"],
            expect=production.rule["model"],
            details={"to": "former", "name": "model"},
            key="back",
        )
    )
    assert production.ledger.champion("loan").model == production.a["digest"]
    assert production.ledger.previous_champion("loan") is None


def test_a_kill_at_any_step_of_a_fallback_ends_in_one_fallback(production):
    given = {"a": [production.a["digest"], production.a["release"]], "b": [production.b["digest"], production.b["release"]],
             "folder": str(production.a["folder"]), "rule": production.rule}  # fmt: skip
    done = forked.run(
        [sys.executable, "-c", "import kills, sys; kills.main(*sys.argv[1:])", "fallback", str(production.root), json.dumps(given)],
        cwd=Path(__file__).parent, capture_output=True, text=True, env=environment(), timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(one["killed"] for one in found[:-1]) and os.WEXITSTATUS(found[-1]["status"]) == 0
    for one in found:
        assert one["after"]["champion"] in (production.a["digest"], production.rule["model"])
        assert one["end"]["rows"] == ["promotion", "fallback"]
        assert (
            one["end"]["champion"] == production.rule["model"] and one["end"]["release"] == production.rule["release"]
        )


def test_a_canary_beside_the_rule_is_compared_with_the_rule(production):
    """The world of the toy loans is what model a learnt; the rule reads the sum alone."""
    fall(production)
    assert production.deploy(production.b, now=START).action == "canary"
    from mlloop.store import prediction_log

    asked = loans(1200, 5)
    log = prediction_log.Log(prediction_log.folder_of(production.settings, "loan"))
    for n, row in asked.iterrows():
        said = {name: None if row[name] != row[name] else row[name] for name in FEATURES}
        model, role = (production.b["digest"], "canary") if n % 2 == 0 else (production.rule["model"], "champion")
        at = (pd.Timestamp("2025-03-02") + pd.Timedelta(seconds=n)).isoformat(timespec="microseconds")
        log.append(
            [
                {
                    "id": f"p{n:06}",
                    "at": at,
                    "problem": "loan",
                    "entity": row["id"],
                    "model": model,
                    "role": role,
                    "ms": 1.0,
                    "row": said,
                }
            ]
        )
    log.close()
    trial = deployment.judge(
        production.settings,
        production.ledger,
        production.loan,
        asked[["id", "repaid"]],
        now=START + dt.timedelta(days=3),
    )
    assert trial.outcome == "promoted", trial
    assert production.ledger.champion("loan").model == production.b["digest"]
