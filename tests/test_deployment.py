"""What goes into production: the release, who may answer, how a canary ends; and that a kill at any step changes nothing."""

import datetime as dt
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import forked
import numpy as np
import pandas as pd
import pytest
from production import FEATURES, Production, environment, loans, sales

from mlloop import deployment
from mlloop.core import metrics, storage
from mlloop.core.errors import LedgerError, ModelError, PromotionRefused
from mlloop.loop import arrivals
from mlloop.loop.counterfactual import Counterfactual
from mlloop.models import candidates, onnx_export
from mlloop.models.recommenders import ItemKNN
from mlloop.problem import Tabular
from mlloop.release import canary, preparation, releases
from mlloop.store import prediction_log
from mlloop.store.entries import Entry

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project with three models that their gate let pass, none in production yet."""
    made = Production(tmp_path_factory.mktemp("made"))
    made.models = {
        "a": made.train("linear"),
        "b": made.train("lightgbm", slice(0, 700), n_estimators=20),
        "shop": made.train_shop(),
    }
    return made


@pytest.fixture
def production(trained, tmp_path):
    """A copy of that project."""
    copy = trained.copy(tmp_path / "project")
    copy.a, copy.b = copy.models["a"], copy.models["b"]
    return copy


def folder(production, model):
    return releases.folder_of(production.settings, "loan", model["release"])


# ---------------------------------------------------------------------------------------------- the production form


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("name", ["linear", "lightgbm", "perceptron"])
def test_onnx_answers_as_the_trained_model_on_rows_with_unknown_and_missing_values(name, kind):
    rows, task = loans(600), Tabular(kind=kind, table="t", target="y", positive=1)
    y = rows["repaid"] if kind == "classification" else rows["amount"].fillna(0) / 10 + rows["repaid"]
    params = {"epochs": 3} if name == "perceptron" else {"n_estimators": 30} if name == "lightgbm" else {}
    fitted = candidates.build(name, task, 0, params).fit(rows[FEATURES], y)
    asked = loans(300, seed=1)[FEATURES]
    asked.loc[::7, "town"] = "Atlantis"
    asked.loc[::5, ["amount", "age"]] = np.nan
    inputs = {"amount": "number", "age": "number", "town": "text", "job": "text"}
    content = onnx_export.convert(fitted, inputs)
    assert content == onnx_export.convert(fitted, inputs)
    got = onnx_export.Session(content, inputs).scores_of_frame(asked)
    expected = fitted.predict_proba(asked) if kind == "classification" else fitted.predict(asked)
    # double precision throughout, but ONNX sums a forest in 32 bits: 24 bits of mantissa on sums up to 100
    assert onnx_export.parity(expected, got, 1e-5, kind == "classification").holds


EXPORTED = """
import hashlib, numpy as np, pandas as pd
from mlloop.data import loan_example
from mlloop.models import candidates, onnx_export
rng = np.random.default_rng(0)
X = pd.DataFrame({"age": rng.normal(size=300), "town": rng.choice(list("abc"), 300)})
for name in ("lightgbm", "linear", "perceptron"):
    fitted = candidates.build(name, loan_example.statement().task, 0).fit(X, (X["age"] > 0).astype(int))
    print(name, hashlib.sha256(onnx_export.convert(fitted, {"age": "number", "town": "text"})).hexdigest())
"""


def test_a_model_has_the_same_onnx_bytes_in_every_process():
    """Whatever order a process has its sets in: a retraining that is done again gives the same release."""
    runs = [
        subprocess.run(
            [sys.executable, "-c", EXPORTED],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    ]
    assert runs[0] == runs[1] and len(runs[0].splitlines()) == 3


@pytest.mark.parametrize("name", ["linear", "lightgbm"])
def test_the_mean_of_a_category_of_many_values_is_saved_and_exported_as_it_was_learnt(name, tmp_path):
    rows, task = loans(900), Tabular(kind="classification", table="t", target="y", positive=1)
    merchant = pd.Series(np.arange(900) % 90).map("m{:02d}".format)
    rows, y = rows[["amount"]].assign(merchant=merchant), (merchant < "m45").to_numpy(int)
    rows.loc[::50, "merchant"] = None
    fitted = candidates.build(name, task, 0, {}).fit(rows, y)
    asked = rows.head(200).assign(merchant=lambda r: r.merchant.where(r.index % 9 > 0, "never seen"))
    expected = fitted.predict_proba(asked)
    candidates.save(fitted, tmp_path / "model")
    loaded = candidates.load(tmp_path / "model")
    assert np.abs(loaded.predict_proba(asked) - expected).max() == 0
    inputs = {"amount": "number", "merchant": "text"}
    got = onnx_export.Session(onnx_export.convert(fitted, inputs), inputs).scores_of_frame(asked)
    assert onnx_export.parity(expected, got, 1e-5, True).holds and np.ptp(expected[:, 1]) > 0.5


def test_lightgbm_keeps_its_side_of_a_threshold_that_32_bits_cannot_tell_apart():
    X = pd.DataFrame({"x": np.repeat([1e8, 1e8 + 1], 200)})
    y = (X["x"] > 1e8).astype(int)
    task = Tabular(kind="classification", table="t", target="y", positive=1)
    fitted = candidates.build("lightgbm", task, 0, {"n_estimators": 5}).fit(X, y)
    got = onnx_export.Session(onnx_export.convert(fitted, {"x": "number"}), {"x": "number"}).scores_of_frame(X)
    assert np.abs(fitted.predict_proba(X) - got).max() < 1e-6 and np.ptp(got[:, 1]) > 0.1


def test_a_model_that_onnx_cannot_express_goes_out_as_skops(production):
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline

    rows = production.rows
    fitted = make_pipeline(candidates.ranked(), HistGradientBoostingClassifier(max_iter=5)).fit(
        rows[FEATURES], rows["repaid"]
    )
    model = {"name": "histogram", **candidates.save(fitted, production.root / "trained" / "h")}
    made = preparation.prepare(production.settings, production.loan, model, rows.iloc[800:], FEATURES)
    assert made.form == "skops" and "ONNX" in made.note and made.parity.largest == 0
    answers = releases.load(made.path, made.digest).answers([production.ask(1)])
    assert answers[0]["score"] == pytest.approx(fitted.predict_proba(rows.iloc[[801]][FEATURES])[0, 1])


def test_a_form_that_answers_otherwise_does_not_go_out(production, monkeypatch):
    monkeypatch.setattr(preparation, "BOUND", -1.0)
    with pytest.raises(ModelError, match="apart from the trained model"):
        preparation.prepare(production.settings, production.loan, production.a, production.rows.iloc[800:], FEATURES)


@pytest.mark.parametrize(
    "alter",
    [
        lambda place: (place / "model.onnx").write_bytes((place / "model.onnx").read_bytes()[:-1] + b"x"),
        lambda place: (place / "release.json").write_text(
            (place / "release.json").read_text().replace('"cut": 0.9', '"cut": 0.1')
        ),
        lambda place: (place / "more.py").write_text("print('hello')"),
        lambda place: (place / "model.onnx").unlink(),
        lambda place: storage.remove(place),
    ],
)
def test_a_release_altered_on_disk_does_not_load(production, alter):
    production.deploy(production.a)
    alter(folder(production, production.a))
    with pytest.raises(ModelError, match=r"altered|no release"):
        deployment.load_release(production.settings, production.ledger, "loan", production.a["digest"])


def test_the_service_does_not_start_with_an_altered_release(production):
    production.deploy(production.a)
    (folder(production, production.a) / "model.onnx").write_bytes(b"x")
    done = production.mlloop("serve", "--port", "0")
    assert done.returncode == 1 and "was altered" in done.stderr and "Traceback" not in done.stderr


def test_another_models_release_does_not_load_in_its_place(production):
    production.deploy(production.a)
    with pytest.raises(ModelError, match="is of model"):
        deployment.promote(
            production.settings, production.ledger, "loan", production.b["digest"], production.a["release"]
        )
    place = folder(production, production.a)
    storage.remove(place)
    folder(production, production.b).rename(place)
    with pytest.raises(ModelError, match="altered"):
        deployment.load_release(production.settings, production.ledger, "loan", production.a["digest"])


def test_a_model_file_that_would_run_code_is_refused_although_its_digest_is_right(production):
    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    content = skops.io.dumps(FunctionTransformer(os.system))
    card = storage.read_json(production.a["folder"] / "release.json")
    path, digest = releases.write(production.settings, "loan", {**card, "form": "skops"}, {"model.skops": content})
    with pytest.raises(ModelError, match="not among the types trusted"):
        releases.load(path, digest)


# ---------------------------------------------------------------------------------------------- who may answer


def test_what_no_gate_passed_is_refused_with_the_reason(production):
    model = {**production.a, "digest": "f" * 64}
    with pytest.raises(PromotionRefused, match="has not been asked"):
        production.ledger.append(Entry("promotion", "loan", model=model["digest"], expect=None))
    production.ledger.append(Entry("gate", "loan", subject="validation", verdict="no", model=production.a["digest"]))
    decision = production.deploy(production.a)
    assert decision.action == "refused" and "said no" in decision.reason and production.ledger.champion("loan") is None


def test_a_maybe_is_for_a_person_to_decide(production):
    production.ledger.append(Entry("gate", "loan", subject="validation", verdict="maybe", model=production.a["digest"]))
    decision = production.deploy(production.a)
    assert decision.action == "refused" and "said maybe" in decision.reason and "mlloop promote" in decision.reason
    deployment.promote(
        production.settings, production.ledger, "loan", production.a["digest"], production.a["release"], actor="ann"
    )
    assert production.ledger.champion("loan").actor == "ann"


def test_promoting_twice_is_refused_and_deploying_twice_is_one_promotion(production):
    assert [production.deploy(production.a).action for _ in range(2)] == ["champion", "champion"]
    with pytest.raises(PromotionRefused, match="champion of 'loan' already"):
        deployment.promote(production.settings, production.ledger, "loan", production.a["digest"])
    assert len(production.ledger.rows(kind="promotion")) == 1


def test_a_model_that_was_rolled_back_is_not_tried_again_by_the_same_verdict(production):
    production.deploy(production.a)
    production.deploy(production.b)
    deployment.stop_canary(production.settings, production.ledger, "loan", "ann", ("odd answers",))
    again = production.deploy(production.b)
    assert again.action == "refused" and "was tried already" in again.reason
    production.ledger.append(Entry("gate", "loan", subject="validation", verdict="yes", model=production.b["digest"]))
    assert production.deploy(production.b).action == "canary"


def test_deploying_the_first_model_again_after_another_took_over_changes_nothing(production):
    production.deploy(production.a)
    first = production.ledger.champion("loan")
    production.ledger.append(Entry("promotion", "loan", model=production.b["digest"], expect=first.model, actor="ann"))
    count = len(production.ledger.rows(problem="loan"))
    again = production.deploy(production.a)
    assert again.action == "refused" and f"answered once (decision {first.id})" in again.reason
    assert len(production.ledger.rows(problem="loan")) == count


def test_a_newer_model_takes_the_canarys_place(production):
    production.deploy(production.a)
    production.deploy(production.b)
    c = production.train("linear", slice(0, 500))
    assert production.deploy(c).action == "canary"
    rows = production.ledger.rows(kind="canary")
    assert [row.subject for row in rows] == ["started", "rolled_back", "started"]
    assert (
        "a newer model took its place" in rows[1].reasons[0] and production.ledger.canary("loan").model == c["digest"]
    )


def test_the_command_line_promotes_goes_back_and_tells_who_answers(production, monkeypatch):
    from typer.testing import CliRunner

    from mlloop.cli.app import app

    monkeypatch.chdir(production.root)
    run = lambda *arguments: CliRunner().invoke(app, arguments)
    production.deploy(production.a)
    production.deploy(production.b)
    short = production.b["digest"][:8]
    done = run("promote", short, "--by", "ann", "--reason", "the owner agreed", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["champion"] == production.b["digest"]
    again = run("promote", short, "--json")  # as a pipeline's job does that is run again
    assert again.exit_code == 0 and json.loads(again.stdout)["champion"] == production.b["digest"]
    assert json.loads(run("rollback", "--by", "ann", "--json").stdout)["champion"] == production.a["digest"]
    assert "no earlier champion" in str(run("rollback").exception)
    row = production.ledger.rows(kind="promotion")[-1]
    assert (row.actor, row.reasons) == ("ann", ["the owner agreed"])
    at = json.loads(run("at", row.at.isoformat(), "--json").stdout)
    assert at["loan"]["champion"]["model"] == production.b["digest"]
    assert json.loads(run("at", "now", "--json").stdout)["loan"]["champion"]["model"] == production.a["digest"]
    assert "an empty digest names no model" in str(run("promote", " ").exception)
    done = production.mlloop("rollback")
    assert done.returncode == 1 and "no earlier champion" in done.stderr and "Traceback" not in done.stderr


def test_mlflow_aliases_follow_the_ledger_and_are_mended(production):
    from mlloop.store import tracking

    for model in (production.a, production.b):
        tracking.register_model("loan", model["path"], model["form"], settings=production.settings)
    production.deploy(production.a)
    production.deploy(production.b)
    client = tracking.connect(production.settings)
    aliases = lambda: {name: int(version) for name, version in client.get_registered_model("loan").aliases.items()}
    assert aliases() == {"champion": 1, "challenger": 2}
    production.ledger.append(
        Entry(
            "canary", "loan", "promoted", model=production.b["digest"], digests=production.ledger.canary("loan").digests
        )
    )
    assert aliases() == {"champion": 1, "challenger": 2}, "a kill came in between"
    deployment.follow(production.settings, production.ledger)
    assert aliases() == {"champion": 2, "previous": 1}


def test_of_ten_promoters_at_once_one_wins_and_nine_are_told(production):
    production.deploy(production.a)
    card = storage.read_json(production.a["folder"] / "release.json")
    onnx = {"model.onnx": (production.a["folder"] / "model.onnx").read_bytes()}
    models = [f"{n:064x}" for n in range(1, 11)]
    cited = []
    for model in models:
        cited.append(releases.write(production.settings, "loan", {**card, "model": model}, onnx)[1])
        production.ledger.append(Entry("gate", "loan", subject="validation", verdict="yes", model=model))
    racers = json.dumps({"expect": production.a["digest"], "models": list(zip(models, cited, strict=True))})
    done = subprocess.run(
        [sys.executable, str(TESTS / "race.py"), str(production.root), racers], capture_output=True, text=True, env=environment()
    )  # fmt: skip
    said = [line for line in done.stdout.splitlines() if line]
    assert len(said) == 10, done.stderr
    assert [line.split()[0] for line in sorted(said)] == ["told"] * 9 + ["won"]
    winner = next(line.split()[1] for line in said if line.startswith("won"))
    assert all(winner in line for line in said), "the losers are told who won"
    assert production.ledger.champion("loan").model == winner
    assert production.ledger.verify().id == len(production.ledger.rows())


# ---------------------------------------------------------------------------------------------- kills


def kills(production, scenario) -> list[dict]:
    given = {"a": [production.a["digest"], production.a["release"]], "b": [production.b["digest"], production.b["release"]],
             "folder": str(production.a["folder"])}  # fmt: skip
    done = forked.run(
        [sys.executable, "-c", "import kills, sys; kills.main(*sys.argv[1:])", scenario, str(production.root), json.dumps(given)],
        cwd=TESTS, capture_output=True, text=True, env=environment(), timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(one["killed"] for one in found[:-1]) and os.WEXITSTATUS(found[-1]["status"]) == 0
    return found


def test_a_kill_at_any_step_of_writing_a_release_leaves_a_whole_one_or_none(production):
    found = kills(production, "write")
    assert len(found) > 5
    assert {one["end"]["releases"] for one in found} == {3}


def test_a_kill_at_any_step_of_the_first_deployment_ends_in_one_promotion(production):
    found = kills(production, "deploy")
    assert len(found) > 20, "every statement of the transaction is a step"
    for one in found:
        assert one["after"]["rows"] in ([], ["promotion"])
        assert one["end"]["rows"] == ["promotion"] and one["end"]["champion"] == production.a["digest"]


def test_a_kill_at_any_step_of_starting_a_canary_ends_in_one_canary(production):
    production.deploy(production.a)
    for one in kills(production, "canary"):
        assert one["after"]["champion"] == production.a["digest"]
        assert one["end"]["rows"] == ["promotion", "canary started"] and one["end"]["canary"] == production.b["digest"]


def test_a_kill_at_any_step_of_promoting_by_hand_ends_in_one_promotion(production):
    production.deploy(production.a)
    for one in kills(production, "promote"):
        assert one["end"]["rows"] == ["promotion", "promotion"] and one["end"]["champion"] == production.b["digest"]


def test_a_kill_at_any_step_of_a_rollback_ends_in_one_rollback(production):
    production.deploy(production.a)
    deployment.promote(production.settings, production.ledger, "loan", production.b["digest"], production.b["release"])
    for one in kills(production, "rollback"):
        assert (
            one["end"]["rows"] == ["promotion", "promotion", "rollback"]
            and one["end"]["champion"] == production.a["digest"]
        )


def test_a_kill_at_any_step_of_ending_a_canary_ends_it_once(production):
    production.deploy(production.a)
    production.deploy(production.b, now=dt.datetime(2020, 1, 1))  # its deadline is long over, and nobody asked
    for one in kills(production, "judge"):
        assert one["after"]["champion"] == production.a["digest"]
        assert (
            one["end"]["rows"] == ["promotion", "canary started", "canary rolled_back"] and one["end"]["canary"] is None
        )


# ---------------------------------------------------------------------------------------------- how a canary ends

START = dt.datetime(2025, 3, 1)


def on_trial(production, rows: int = 300, errors: int = 0, ms: float = 2.0, seed: int = 5):
    """A canary on `rows` requests, half of them its own, and the labels that came."""
    production.deploy(production.a, now=START)
    production.deploy(production.b, now=START)
    asked = loans(max(rows, 1), seed)
    log = prediction_log.Log(prediction_log.folder_of(production.settings, "loan"))
    for n, row in asked.head(rows).iterrows():
        mine = n % 2 == 0
        record = {
            "id": f"p{n:06}", "at": f"2025-03-02T00:{n // 60 % 60:02}:{n % 60:02}", "problem": "loan", "entity": row["id"],
            "model": (production.b if mine else production.a)["digest"], "role": "canary" if mine else "champion", "ms": ms,
            "row": {name: None if row[name] != row[name] else row[name] for name in FEATURES},
        }  # fmt: skip
        log.append(
            [record, {**record, "id": f"e{n:06}", "error": "ValueError"}] if mine and n // 2 < errors else [record]
        )
    log.close()
    return asked[["id", "repaid"]]


def judged(production, labels, days):
    return deployment.judge(
        production.settings, production.ledger, production.loan, labels, now=START + dt.timedelta(days=days)
    )


def test_a_canary_that_is_no_worse_is_promoted(production):
    production.a, production.b = production.b, production.a
    loan = production.loan.model_copy(update={"canary": production.loan.canary.model_copy(update={"max_loss": 0.2})})
    production.loan = loan
    labels = on_trial(production, 600)
    trial = judged(production, labels, 3)
    assert trial.outcome == "promoted" and "no worse than the champion: realised gain" in trial.reasons[0]
    assert (
        production.ledger.champion("loan").model == production.b["digest"] and production.ledger.canary("loan") is None
    )
    kinds = [(row.kind, row.subject) for row in production.ledger.rows() if row.kind != "gate"][-2:]
    assert kinds == [("canary", "promoted"), ("promotion", production.b["digest"])]
    assert deployment.load_release(production.settings, production.ledger, "loan", production.b["digest"])


@pytest.mark.parametrize(
    ("may_tie", "value", "over", "outcome"),
    [(True, 0.01, True, "promoted"), (True, 0.01, False, None), (True, -0.005, True, "rolled_back"), (False, 0.01, True, "rolled_back")],
)  # fmt: skip
def test_a_canary_of_which_no_gain_was_asked_need_not_prove_one_at_its_deadline(may_tie, value, over, outcome):
    began = dt.datetime(2025, 3, 3)
    terms = canary.Terms(began, began + dt.timedelta(days=14), 100, 0.0, 0.95, 500.0, paired=True, may_tie=may_tie)
    gain = metrics.Estimate(value, value - 0.02, value + 0.02, 1500, 0.95, "realised")
    now = terms.deadline if over else began + dt.timedelta(days=7)
    trial = canary.decide(terms, canary.CanaryUsage(60, 0, 5.0), gain, None, now)
    assert trial.outcome == outcome
    words = {
        (True, "promoted"): "did no worse by its deadline than",
        (True, "rolled_back"): "did worse by its deadline than",
    }
    assert words.get((may_tie, outcome), "is not shown to be as good as") in trial.reasons[0], (
        "chance is not called proof"
    )


@pytest.mark.parametrize(
    ("answered", "errors", "ms", "value", "failed"),
    [(60, 9, 5.0, 0.01, True), (60, 0, 900.0, 0.01, True), (60, 0, 5.0, -0.1, True), (60, 0, 5.0, -0.005, False), (9, 0, 5.0, 0.01, False)],
    ids=["errors", "slow", "surely worse", "worse by chance", "too few requests"],
)  # fmt: skip
def test_a_canary_fails_by_errors_latency_or_a_sure_loss_and_not_by_chance(answered, errors, ms, value, failed):
    terms = canary.Terms(START, START + dt.timedelta(days=14), 100, 0.0, 0.95, 500.0, paired=True, may_tie=True)
    gain = metrics.Estimate(value, value - 0.02, value + 0.02, 1500, 0.95, "realised")
    trial = canary.decide(terms, canary.CanaryUsage(answered, errors, ms), gain, None, terms.deadline)
    assert trial.outcome == "rolled_back" and canary.has_failed(trial.evidence) == failed


def test_a_canary_that_is_surely_worse_is_rolled_back(production):
    canary_terms = production.loan.canary.model_copy(update={"max_loss": 0.0})
    production.loan = production.loan.model_copy(update={"canary": canary_terms})
    labels = on_trial(production, 600)
    release = deployment.load_release(production.settings, production.ledger, "loan", production.a["digest"])
    rows = releases.rows_of(loans(600, 5), release.fields)
    labels["repaid"] = (release.scores(rows) > 0.5).astype(int)  # the truth is what the champion says
    trial = judged(production, labels, 3)
    assert trial.outcome == "rolled_back" and "worse than the champion" in trial.reasons[0]
    assert production.ledger.champion("loan").model == production.a["digest"]


@pytest.mark.parametrize("form", [float, bool])
def test_labels_of_a_canary_are_the_same_as_decimals_and_as_truth_values(production, form):
    labels = on_trial(production, 300)
    of_whole_numbers, of_others = (judged(production, known, 3) for known in (labels, labels.astype({"repaid": form})))
    assert "realised gain" in of_whole_numbers.reasons[0] and of_others.reasons == of_whole_numbers.reasons


def test_a_canary_goes_on_while_labels_are_few(production):
    labels = on_trial(production, 300)
    trial = judged(production, labels.head(20), 3)
    assert trial.outcome is None and production.ledger.canary("loan") is not None


@pytest.mark.parametrize("rows", [0, 40])
def test_a_canary_with_no_data_or_too_little_is_rolled_back_at_its_deadline(production, rows):
    labels = on_trial(production, rows)
    assert judged(production, labels, 13.9).outcome is None
    trial = judged(production, labels, 14)
    assert trial.outcome == "rolled_back" and f"answered {rows // 2} requests" in trial.reasons[0]


def test_a_canary_without_labels_is_judged_by_the_estimate_at_its_deadline(production):
    on_trial(production, 600)
    assert judged(production, None, 13).outcome is None
    trial = judged(production, None, 15)
    assert trial.outcome in ("promoted", "rolled_back")
    assert any(e["name"] == "estimated gain over the champion" and e["value"] is not None for e in trial.evidence)


def test_a_canary_whose_errors_are_many_is_rolled_back_at_once(production):
    labels = on_trial(production, 60, errors=5)
    trial = judged(production, labels, 2)
    assert trial.outcome == "rolled_back" and "5 of 35 requests to the canary ended in an error" in trial.reasons[0]


def test_a_canary_that_is_too_slow_is_rolled_back(production):
    labels = on_trial(production, 300, ms=500.0)
    trial = judged(production, labels, 2)
    assert trial.outcome == "rolled_back" and "500 ms or longer" in trial.reasons[0]


def test_a_canary_whose_release_was_altered_is_rolled_back(production):
    labels = on_trial(production, 300)
    (folder(production, production.b) / "model.onnx").write_bytes(b"x")
    trial = judged(production, labels, 1)
    assert trial.outcome == "rolled_back" and "was altered" in trial.reasons[0]


def test_a_canary_ends_when_its_champion_goes(production):
    on_trial(production, 10)
    c = production.train("linear", slice(0, 400))
    deployment.promote(production.settings, production.ledger, "loan", c["digest"], c["release"], actor="ann")
    assert production.ledger.canary("loan") is None and judged(production, None, 1) is None
    with pytest.raises(LedgerError, match="is not canary"):
        production.ledger.append(Entry("canary", "loan", "promoted", model=production.b["digest"]))


def test_a_recommender_on_trial_is_judged_by_what_was_bought(production):
    shop, champion = production.shop, production.models["shop"]
    other = production.train_shop("random")
    production.deploy(champion, now=START)
    production.deploy(other, now=START)
    log = prediction_log.Log(prediction_log.folder_of(production.settings, "shop"))
    for n in range(240):
        mine = n % 2 == 0
        log.append([{
            "id": f"p{n:06}", "at": f"2025-03-02T00:{n // 60:02}:{n % 60:02}", "problem": "shop", "entity": f"u{n % 60}",
            "model": (other if mine else champion)["digest"], "role": "canary" if mine else "champion", "ms": 1.0, "row": {},
        }])  # fmt: skip
    log.close()
    bought = sales(seed=3).assign(time=pd.Timestamp("2025-03-04"))
    early = deployment.judge(production.settings, production.ledger, shop, bought, now=dt.datetime(2025, 3, 5))
    assert early.outcome is None, "seven days have not passed since the lists were shown"
    trial = deployment.judge(production.settings, production.ledger, shop, bought, now=dt.datetime(2025, 3, 10))
    assert trial.outcome == "rolled_back" and "worse than the champion: realised gain in NDCG" in trial.reasons[0]


def test_the_times_of_logged_requests_are_read_again_and_other_text_is_left_to_its_check():
    """The log states a time as JSON has it, and a model that reads its month is asked about the logged rows again."""
    asked = pd.DataFrame({"at": ["2025-03-01T10:00:00", "2025-04-02", "03.04.2025", "2025-99-01", None]}, dtype=object)
    rows = releases.rows_of(asked, [releases.Field("at", "time")])
    told = [row["at"] for row in rows]
    assert told == [pd.Timestamp("2025-03-01 10:00"), pd.Timestamp("2025-04-02"), "03.04.2025", "2025-99-01", None]
    assert releases.part_of(told[0], "month") == 3.0


def bought_now(n: int, item: str = "i25"):
    """The events of the training, and then a week in which everybody buys one item, and a customer is new."""
    users = [*(f"u{i}" for i in range(n)), "u900"]
    more = {"user": users, "item": item, "time": pd.Timestamp("2025-04-07"), "kind": "purchase", "quantity": 1.0}
    return pd.concat([sales(), pd.DataFrame(more)], ignore_index=True)


def test_counts_move_between_trainings_under_the_same_model_and_never_reach_back(production):
    project = (production.settings, production.ledger)
    model, monday = production.models["shop"]["digest"], dt.datetime(2025, 4, 8)
    production.deploy(production.models["shop"])
    loaded = lambda at=None: deployment.load_release(*project, "shop", model, at)
    popular = lambda release: release.answers([{"user": "a stranger", "k": 1}])[0]["items"]
    before = popular(loaded())
    row = deployment.update_counts(*project, production.shop, model, bought_now(60), monday)
    assert (row.kind, row.model, row.details) == ("update", model, {"as_of": monday.isoformat(), "events": 2561})
    assert popular(loaded()) == ["i25"] != before and loaded().model == model
    assert popular(loaded(monday - dt.timedelta(days=1))) == before, (
        "a period is judged with the counts of its beginning"
    )
    assert deployment.update_counts(*project, production.shop, model, bought_now(60), monday) is None
    replay = object.__new__(Counterfactual)
    replay.begin, replay.session = (
        dt.datetime(2025, 4, 1),
        SimpleNamespace(settings=production.settings, ledger=production.ledger, name="shop"),
    )
    assert replay._first().digest == production.models["shop"]["release"], "never retraining knows no later purchase"
    assert len(production.ledger.rows(kind="update")) == 1 and production.ledger.champion("shop").model == model
    assert production.ledger.champion("shop").digests["release"] == production.models["shop"]["release"]
    storage.remove(loaded().folder)
    with pytest.raises(ModelError, match="there is no release here"):
        loaded()


def test_a_running_service_takes_new_counts_over(production):
    production.deploy(production.models["shop"])
    with production.serve() as running:
        ask = lambda: running.ask({"user": "u900", "k": 1}, "/recommend").json()
        before = ask()
        project, model = (production.settings, production.ledger), production.models["shop"]["digest"]
        deployment.update_counts(*project, production.shop, model, bought_now(60), dt.datetime(2025, 4, 8))
        until = time.monotonic() + 120
        while (after := ask())["items"] == before["items"] and time.monotonic() < until:
            time.sleep(0.05)
    assert after["items"] != before["items"] and after["model"] == before["model"]


def test_a_shop_of_new_things_leaves_out_what_was_bought_since_and_judges_by_what_was_not_bought_before(production):
    shop = production.shop.model_copy(update={"task": production.shop.task.model_copy(update={"repeats": False})})
    production.deploy(production.models["shop"])
    release = deployment.load_release(
        production.settings, production.ledger, "shop", production.models["shop"]["digest"]
    )
    recommender = release.recommender
    moment, who = (
        pd.Timestamp("2025-03-02"),
        pd.DataFrame({"entity": ["u3", "u4", "new"], "at": pd.Timestamp("2025-03-02")}),
    )
    unseen = next(
        i
        for i in recommender.items_
        if not recommender.seen_[recommender.users_.get_loc("u3"), recommender.items_.get_loc(i)]
    )
    since = pd.DataFrame([
        ("u3", unseen, moment - pd.Timedelta(days=1), "purchase", 1), ("u3", unseen, moment - pd.Timedelta(days=2), "purchase", 1),
        ("u3", "i99", moment, "purchase", 1), ("u4", "i98", moment - pd.Timedelta(days=1), "view", 1),
        ("u4", "i97", moment - pd.Timedelta(days=1), "purchase", -1), ("new", "i01", moment - pd.Timedelta(days=1), "purchase", 1),
    ], columns=["user", "item", "time", "kind", "quantity"])  # fmt: skip
    events = pd.concat([sales(), since])
    told = arrivals.bought_before(events, shop, who, recommender)
    assert told == [[unseen], [], ["i01"]], "neither what the model saw, nor a view, a return, or what is bought later"
    assert set(told[0]) < set(arrivals.bought_before(events, shop, who)[0])

    younger = ItemKNN().fit(sales().query("time >= '2025-02-20'"))  # learnt from a window: it does not know the rest
    both = arrivals.bought_before(events, shop, who, recommender, younger)
    assert set(both[0]) > {unseen} and set(both[0]) - {unseen} == set(sales().query("user == 'u3'")["item"]) - set(
        younger.items_[younger.seen_[[younger.users_.get_loc("u3")]].tocoo().col]
    )

    rows = [{"user": "u3", "k": 5, "exclude": told[0]}, {"user": "new", "k": 5, "exclude": told[2]}]
    lists = releases.chosen(recommender, rows, 5, repeats=False)
    assert (
        not set(lists[0]) & set(sales().query("user == 'u3'")["item"])
        and unseen not in lists[0]
        and "i01" not in lists[1]
    )
    log = pd.DataFrame(
        {
            "entity": ["u3", "new"],
            "at": moment,
            "row": [json.dumps({k: row[k] for k in ("k", "exclude")}) for row in rows],
        }
    )
    bought = pd.DataFrame(
        {"user": ["u3", "new", "new"], "item": [unseen, "i01", lists[1][0]], "time": moment + pd.Timedelta(days=1)}
    )
    gain = canary._ranking_gain(shop, release, release, log, bought, dt.datetime(2025, 3, 20))
    assert gain.n == 1 and gain.value == 0, "u3 bought again what he had: nothing new"


def test_an_estimate_without_labels_prefers_the_model_that_ranks_like_the_truth(production):
    """Simulated: a model against itself with its scores shuffled; each has the calibration of a holdout period."""
    production.deploy(production.a)
    good = deployment.load_release(production.settings, production.ledger, "loan", production.a["digest"])

    class Shuffled(type(good)):
        def scores(self, rows):
            return np.random.default_rng(0).permutation(super().scores(rows))

    held = loans(2000, 8)
    asked = releases.rows_of(held, good.fields)
    knots = lambda scores: preparation.calibration_of(held["repaid"], scores)
    bad = Shuffled({**good.card, "calibration": None}, good.folder, good.digest)
    bad.card["calibration"] = knots(bad.scores(asked))
    good.card["calibration"] = knots(good.scores(asked))
    rows = loans(500, 9)
    log = pd.DataFrame(
        {
            "row": [
                json.dumps({k: None if v != v else v for k, v in r.items()}) for r in rows[FEATURES].to_dict("records")
            ]
        }
    )
    found = canary.estimated_gain(production.loan, bad, good, log)
    assert isinstance(found, metrics.Estimate) and found.low > 0.05
