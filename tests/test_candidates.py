"""Candidates: scikit-learn's contract, one form for all recommenders, files that are safe and the same every time."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import protocol
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from mlloop.core import metrics
from mlloop.core.errors import DataError, ModelError
from mlloop.models import candidates, onnx_export
from mlloop.models.hybrid import Hybrid
from mlloop.models.perceptron import PerceptronClassifier, PerceptronRegressor
from mlloop.models.recommenders import EASE, ItemKNN, Popularity, Recommender
from mlloop.problem import Recommendation, Tabular

LOANS = Tabular(kind="classification", table="loans", target="repaid", positive=1)
PRICES = Tabular(kind="regression", table="loans", target="price")
SHOP = Recommendation(
    kind="recommendation", interactions=[{"table": "t", "user": "u", "item": "i", "time": "at", "kind": "purchase"}]
)


def rows(n: int = 400, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"age": rng.normal(40, 9, n), "town": rng.choice(["Ely", "York", "(missing)"], n)})
    X.loc[::17, "age"] = np.nan
    return X, ((X["age"].fillna(40) > 40) ^ (X["town"] == "York")).astype(int).to_numpy()


def shop(n_users: int = 60, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), 12)
    item = (user % 2) * 10 + rng.integers(0, 10, len(user))
    events = pd.DataFrame(
        {
            "user": [f"u{u:03}" for u in user],
            "item": [f"i{i:02}" for i in item],
            "kind": rng.choice(["view", "purchase"], len(user)),
            "quantity": 1.0,
            "time": pd.Timestamp("2025-01-01") + pd.to_timedelta(rng.integers(0, 60 * 86400, len(user)), unit="s"),
        }
    )
    items = pd.DataFrame({"item": [f"i{i:02}" for i in range(21)], "category": [f"c{i // 10}" for i in range(21)]})
    return events, items


@parametrize_with_checks([PerceptronClassifier(device="cpu", epochs=40), PerceptronRegressor(device="cpu", epochs=40)])
def test_networks_pass_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", [c.name for c in candidates.candidates_for("classification")])
def test_a_tabular_candidate_answers_for_categories_it_has_never_seen(name):
    X, y = rows()
    model = candidates.build(name, LOANS).fit(X, y)
    strange = pd.DataFrame({"age": [np.nan, 30.0], "town": ["Atlantis", "Ely"]})
    assert np.isfinite(model.predict_proba(strange)).all()


@pytest.mark.parametrize("name", [c.name for c in candidates.candidates_for("regression")])
def test_a_regression_candidate_beats_the_mean(name):
    X, y = rows(1200)
    price = 100 + 20 * X["age"].fillna(40) + 50 * y
    model = candidates.build(name, PRICES).fit(X[:900], price[:900])
    residual = price[900:] - model.predict(X[900:])
    assert residual.var() < 0.5 * price[900:].var()


@pytest.mark.parametrize("name", [c.name for c in candidates.candidates_for("recommendation")])
def test_counts_move_with_the_data_and_what_was_fitted_stays(name, tmp_path):
    events, items = shop()
    model = candidates.build(name, SHOP, seed=3).fit(events, items)
    users = [*model.users_[:20], "nobody"]
    same = model.updated(events)
    assert np.allclose(same.score(users), model.score(users), rtol=1e-4, atol=1e-5)
    later = events["time"].max() + pd.Timedelta(days=1)
    bought = lambda user, item: {"user": user, "item": item, "kind": "purchase", "quantity": 1.0, "time": later}
    first, new = str(model.recommend(["u000"], k=1, exclude_seen=True)[0, 0]), "i99"
    more = pd.DataFrame([bought("u000", first), bought("u900", "i01"), bought("u900", "i02"), bought("u001", new)])
    moved = model.updated(pd.concat([events, more], ignore_index=True))
    assert first not in moved.recommend(["u000"], k=5, exclude_seen=True)
    assert moved.items_.equals(model.items_) and len(model.users_) == 60  # the model itself has not changed
    assert moved.score(["u900", "nobody"]).shape == (2, len(model.items_))
    candidates.save(moved, tmp_path)
    assert (candidates.load(tmp_path).recommend(["u000", "u900"]) == moved.recommend(["u000", "u900"])).all()


@pytest.mark.parametrize("name", [c.name for c in candidates.candidates_for("recommendation")])
def test_a_recommender_knows_strangers_new_items_and_itself(name):
    events, items = shop()
    model = candidates.build(name, SHOP, seed=3).fit(events, items)
    assert "i20" in model.items_  # in the catalogue, and nobody touched it
    scores = model.score(["u000", "nobody"])
    assert scores.shape == (2, 21) and np.isfinite(scores).all()
    best = events[events["kind"] == "purchase"]["item"].value_counts()
    assert name == "random" or best[model.recommend(["nobody"], k=1)[0, 0]] == best.max()
    bought = events[(events["user"] == "u000") & (events["kind"] == "purchase")]["item"]
    assert not set(model.recommend(["u000"], k=5, exclude_seen=True)[0]) & set(bought)
    again = candidates.build(name, SHOP, seed=3).fit(events.sample(frac=1, random_state=1).sort_values("time"), items)
    assert (again.score(["u000", "u001"]) == model.score(["u000", "u001"])).all()


@pytest.mark.parametrize("name", ["popularity", "content", "item_knn", "ease", "ials", "neumf", "hybrid"])
def test_a_recommender_finds_the_two_tastes(name):
    events, items = shop()
    model = candidates.build(name, SHOP).fit(events, items)
    lists = model.recommend(["u000", "u001"], k=3)
    hits = [all(item < "i10" for item in lists[0]), all("i10" <= item < "i20" for item in lists[1])]
    assert all(hits) or name == "popularity"


FRESH = """
import sys, json
sys.path[:0] = [{tests!r}, {tests!r} + "/../benchmarks", {tests!r} + "/.."]
from test_candidates import LOANS, SHOP, candidates, rows, shop
out = {{}}
for name in ("linear", "lightgbm", "perceptron"):
    X, y = rows()
    out[name] = candidates.save(candidates.build(name, LOANS).fit(X, y), {folder!r} + "/" + name)["digest"]
for name in ("ease", "ials", "neumf", "hybrid"):
    out[name] = candidates.save(candidates.build(name, SHOP).fit(*shop()), {folder!r} + "/" + name)["digest"]
print(json.dumps(out))
"""


def test_the_same_seed_gives_the_same_bytes_in_every_process(tmp_path):
    found = []
    for number in range(2):
        code = FRESH.format(tests=str(Path(__file__).parent), folder=str(tmp_path / str(number)))
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": str(number), "PATH": "/usr/bin:/bin"},
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[0] == found[1]


class Unlisted:
    """Not on any list of types that may be loaded."""

    def __init__(self):
        self.answer = 42

    def get_params(self, deep=True):
        return {}


def test_a_model_of_a_type_that_is_not_on_the_list_is_refused(tmp_path):
    with pytest.raises(ModelError, match="not among the types trusted"):
        candidates.save(Unlisted(), tmp_path / "strange")
    events, items = shop()
    kept = candidates.save(EASE().fit(events, items), tmp_path / "ease")
    place = Path(kept["path"], "model.json")
    place.write_text(place.read_text().replace('"EASE"', '"Popen"'))
    with pytest.raises(ModelError, match="Popen"):
        candidates.load(kept["path"])
    with pytest.raises(ModelError, match="not the model that was recorded"):
        candidates.load(kept["path"], kept["digest"])


def test_a_recommender_of_ones_own_is_registered_saved_and_loaded(tmp_path):
    class Alphabetical(Recommender):
        def _score(self, rows):
            return np.tile(-np.arange(len(self.items_), dtype=float), (len(rows), 1))

    @candidates.candidate("alphabetical", ["recommendation"], complexity=1)
    def alphabetical(task, seed):
        """By name."""
        return Alphabetical(target_kind=task.target_kind)

    try:
        events, items = shop()
        model = candidates.build("alphabetical", SHOP).fit(events, items)
        again = candidates.load(candidates.save(model, tmp_path / "own")["path"])
        assert again.recommend(["u000"], k=2).tolist() == [["i00", "i01"]]
        assert candidates.CANDIDATES["alphabetical"].meaning == "By name."
    finally:
        candidates.CANDIDATES.pop("alphabetical")


def test_a_hybrid_learns_where_no_time_is_known():
    events, items = shop()
    model = Hybrid(horizon_days=None, repeats=False).fit(events.assign(time=pd.Timestamp(0)), items)
    assert model.ranker_ is not None


def test_a_return_is_no_purchase():
    events, items = shop()
    events.loc[events["item"] == "i03", "quantity"] = -1.0
    model = Popularity(days=None).fit(events, items)
    assert model.popular_[model.items_.get_loc("i03")] == 0


# ---- the public protocol --------------------------------------------------------------------------------------------


def write_protocol(folder: Path, events: pd.DataFrame) -> Path:
    """The same split as `protocol.split` makes, in the three files of the format."""
    made = protocol.split(events, negatives=8, seed=0)
    train = made.train.assign(rating=1, time=made.train["time"].astype("int64") // 10**9)
    train[["user", "item", "rating", "time"]].to_csv(folder / "toy.train.rating", sep="\t", header=False, index=False)
    lines = [f"({u},{c[0]})\t" + "\t".join(c[1:]) for u, c in zip(made.users, made.candidates, strict=True)]
    (folder / "toy.test.negative").write_text("\n".join(lines) + "\n")
    held = [f"{u}\t{c[0]}\t1\t0" for u, c in zip(made.users, made.candidates, strict=True)]
    (folder / "toy.test.rating").write_text("\n".join(held) + "\n")
    return folder / "toy"


def test_files_and_csv_of_the_same_data_give_the_same_figures(tmp_path):
    events, _ = shop()
    plain = events.drop_duplicates(["user", "item"])[["user", "item", "time"]].assign(
        time=lambda t: t["time"].dt.floor("s")
    )
    prefix = write_protocol(tmp_path, plain)
    plain.to_csv(tmp_path / "toy.csv", index=False)
    by_files = protocol.evaluate(ItemKNN(shrink=1.0), prefix)
    by_csv = protocol.evaluate(ItemKNN(shrink=1.0), protocol.read(tmp_path / "toy.csv", negatives=8, seed=0))
    assert by_files == by_csv and 0 < by_files.ndcg.value < by_files.hit_rate.value <= 1


def test_a_tie_and_a_missing_score_never_help_the_model():
    class Silent(Recommender):
        def _score(self, rows):
            return np.full((len(rows), len(self.items_)), np.nan)

    events, _ = shop()
    data = protocol.split(events[["user", "item", "time"]], negatives=9)
    assert (protocol.ranks(Silent().fit(data.train, data.items), data) == 10).all()


def test_a_file_that_is_not_in_the_format_is_named_with_its_line(tmp_path):
    events, _ = shop()
    prefix = write_protocol(tmp_path, events)
    place = Path(f"{prefix}.test.negative")
    place.write_text("nonsense\n" + place.read_text())
    with pytest.raises(DataError, match=r"toy\.test\.negative:1: expected"):
        protocol.read(prefix)


def test_files_are_read_as_they_are_found(tmp_path):
    events, _ = shop()
    prefix = write_protocol(tmp_path, events)
    before = protocol.read(prefix)
    place = Path(f"{prefix}.train.rating")
    rows = [line.split("\t") for line in place.read_text().splitlines()]
    for text, same_time in {
        "\t\r\n".join("\t".join(row) for row in rows) + "\t\r\n\n": True,
        "\n".join(" ".join(row) for row in rows): True,
        "\n".join("\t".join([*row[:3], row[3] + "000"]) for row in rows): True,
        "\n".join("\t".join([*row, "more"]) for row in rows): True,
        "\n".join("\t".join(row[:3]) for row in rows): False,
    }.items():
        place.write_text(text, newline="")
        for path in (prefix, tmp_path, place):
            found = protocol.read(path)
            assert found.train[["user", "item"]].equals(before.train[["user", "item"]]), text[:40]
            assert found.train["time"].equals(before.train["time"]) == same_time, text[:40]


def test_packed_files_are_read_like_plain_ones(tmp_path):
    events, _ = shop()
    prefix = write_protocol(tmp_path, events)
    before = protocol.read(prefix)
    for suffix in protocol.SUFFIXES:
        place = Path(f"{prefix}{suffix}")
        Path(f"{place}.gz").write_bytes(gzip.compress(place.read_bytes()))
        place.unlink()
    for path in (prefix, tmp_path, f"{prefix}.test.negative.gz"):
        found = protocol.read(path)
        assert found.train.equals(before.train) and (found.candidates == before.candidates).all()


@pytest.mark.parametrize(
    ("suffix", "change", "said"),
    [
        (".test.rating", lambda lines: lines[1:], r"toy\.test\.negative:1: has \('u000'"),
        (".test.rating", lambda lines: lines[:-1], "no more lines"),
        (".test.negative", lambda lines: [*lines[:2], lines[2] + "\ti09"], "toy.test.negative:3: has 9 negatives"),
        (".test.negative", lambda lines: [], "is empty"),
        (".train.rating", lambda lines: [line.split("\t")[0] for line in lines], "expected user, item"),
    ],
)
def test_files_that_do_not_fit_each_other_are_refused_with_the_line(tmp_path, suffix, change, said):
    events, _ = shop()
    place = Path(f"{write_protocol(tmp_path, events)}{suffix}")
    place.write_text("\n".join(change(place.read_text().splitlines())))
    with pytest.raises(DataError, match=said):
        protocol.read(tmp_path)


def test_one_command_tunes_and_judges_and_says_what_it_found(tmp_path):
    from leave_one_out import app
    from typer.testing import CliRunner

    events, _ = shop()
    prefix = write_protocol(tmp_path, events)
    done = CliRunner().invoke(app, [str(prefix), "-m", "EASE", "-m", "popularity", "--tune", "3", "--json"])
    assert done.exit_code == 0, done.output
    found = {line["model"]: line for line in json.loads(done.stdout)}
    assert set(found) == {"EASE", "popularity"} and set(found["EASE"]["params"]) == {"l2"}
    again = protocol.evaluate(EASE(**found["EASE"]["params"]), prefix)
    assert again.ndcg.value == found["EASE"]["ndcg"] and again.hit_rate.low == found["EASE"]["hr_low"]


@pytest.mark.parametrize("metric", ["mae", "mape", "rmse", "rmsle", "poisson_deviance", "pinball_10", "pinball_90"])
def test_each_objective_is_better_by_its_metric_than_squared_error_and_goes_out_as_onnx(metric):
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 3, (1500, 1))
    y = np.where(rng.random(1500) < 0.5, 0.0, rng.gamma(0.5, 2 * np.exp(x[:, 0]))) + (1.0 if metric == "mape" else 0.0)
    X, task = pd.DataFrame(x, columns=["x"]), Tabular(kind="regression", table="rows", target="y")
    fitted = lambda **more: candidates.build("lightgbm", task, 0, more).fit(X[:1000], y[:1000])
    model, plain = fitted(**candidates.objective_of(metric)), fitted()
    figure = lambda one: metrics.measure(metric, y[1000:], one.predict(X[1000:]))
    assert metrics.metric(metric).gain(figure(model), figure(plain)) >= 0
    session = onnx_export.Session(onnx_export.convert(model, {"x": onnx_export.NUMBER}), {"x": onnx_export.NUMBER})
    answered = session.scores_of_columns({"x": X["x"].tolist()}, len(X))
    np.testing.assert_allclose(np.asarray(answered).ravel(), model.predict(X), rtol=1e-5)  # sums of trees in 32 bits
