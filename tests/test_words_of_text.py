"""Text columns: their words are features from the need gate to the service, and cost nothing where they say nothing."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from mlloop.comparison import baselines
from mlloop.core import metrics, prose
from mlloop.data.leaks import group_codes
from mlloop.models import candidates, onnx_export, serialization
from mlloop.models.words import Words, weigh_words
from mlloop.monitors import drift
from mlloop.scaffold import draft, survey

WORDS = [
    "box",
    "door",
    "late",
    "wet",
    "open",
    "broken",
    "blue",
    "price",
    "shop",
    "paper",
    "café",
    "naïve",
    "שלום",
    "привет",
    "遅れ",
]
ODD = [
    "",
    None,
    "?! …",
    "Été ÇA 12,5",
    "顧客は商品が届かない",
    "مرحبا بالعالم",
    "broken " * 4000,
    "a\tb\nc \x02",
    "🙂 broken",
]
KINDS = {kind: SimpleNamespace(kind=kind) for kind in ("classification", "regression")}


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 7)) for _ in range(600)]
    told = np.array(["broken" in text.split() for text in texts], dtype=float)
    X = pd.DataFrame({"n": rng.normal(size=600), "town": rng.choice(["Ely", "York"], 600), "message": texts})
    X["message"] = X["message"].astype(object).mask(rng.random(600) < 0.05, prose.MISSING)
    return X, told


def test_prose_is_told_from_names_dates_and_templates():
    n = range(300)
    rows = pd.DataFrame(
        {
            "message": [f"order {i} has not arrived yet" for i in n],
            "japanese": [f"商品{i}がまだ届いていません" for i in n],
            "company": [f"Smith {i}" for i in n],
            "address": [f"a{i}@example.com" for i in n],
            "template": [f"your order was sent by route {i % 20}" for i in n],
            "product": [f"a white metal lantern {i % 55}" for i in n],
            "number": list(n),
        }
    )
    assert prose.prose_columns(rows) == ["message", "japanese"]
    added_late = pd.Series([None] * 2000 + list(rows["message"]))
    assert prose.has_words(added_late) and prose.has_words(added_late.fillna(prose.MISSING))


@pytest.mark.parametrize("name", ["linear", "lightgbm", "perceptron"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_production_form_reads_words_as_training_did(table, name, kind, tmp_path):
    X, y = table
    model = candidates.build(name, KINDS[kind], 0).fit(X, y)
    asked = X.head(300).copy()
    asked.loc[: len(ODD) - 1, "message"] = ODD
    predict = getattr(model, "predict_proba", model.predict)
    inputs = {"n": "number", "town": "text", "message": "text"}
    session = onnx_export.Session(onnx_export.convert(model, inputs), inputs)
    assert np.abs(session.scores_of_frame(asked) - predict(asked)).max() < 1e-5
    alone = [
        session.scores_of_columns({c: [v] for c, v in row.items()}, 1)[0] for row in asked.head(9).to_dict("records")
    ]
    assert np.abs(np.array(alone) - predict(asked.head(9))).max() < 1e-5
    loaded = candidates.load(candidates.save(model, tmp_path)["path"])
    assert (getattr(loaded, "predict_proba", loaded.predict)(asked) == predict(asked)).all()


@pytest.mark.parametrize("name", ["linear", "lightgbm", "perceptron"])
@pytest.mark.parametrize("columns", [["message"], ["town"], ["town", "message"]])
def test_models_without_a_number_have_a_form_in_onnx(table, name, columns):
    X, y = table
    model = candidates.build(name, KINDS["classification"], 0).fit(X[columns], y)
    inputs = dict.fromkeys(columns, "text")
    session = onnx_export.Session(onnx_export.convert(model, inputs), inputs)
    assert np.abs(session.scores_of_frame(X) - model.predict_proba(X[columns])).max() < 1e-5


@pytest.mark.parametrize("name", ["linear", "lightgbm"])
def test_words_that_decide_are_learned_and_noise_is_left_out(table, name):
    X, y = table
    early, late = slice(0, 400), slice(400, 600)
    score = lambda X, y: metrics.measure(
        "roc_auc",
        y[late],
        candidates.build(name, KINDS["classification"], 0).fit(X[early], y[early]).predict_proba(X[late])[:, 1],
    )
    assert score(X, y) > 0.97
    noise = np.random.default_rng(1).random(600) < 1 / (1 + np.exp(-2 * X["n"]))
    assert score(X, noise) > score(X.drop(columns="message"), noise) - 0.02
    shapes = [Words().fit_transform(X[["message"]], target).shape[1] for target in (y, noise)]
    assert shapes[0] > 100 and shapes[1] == 3


def test_score_of_a_training_row_does_not_know_its_own_target():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"message": [" ".join(f"word{i}" for i in rng.integers(0, 300, 9)) for _ in range(400)]})
    y = rng.integers(0, 2, 400).astype(float)
    assert Words(8).fit_transform(X, y).shape[1] == 3


@pytest.mark.parametrize(
    "texts",
    [
        [None] * 60,
        ["same words in each row"] * 60,
        ["顧客は届かない"] * 60,
        ["a b c d", "e f g h"],
        ["", "?!"] * 30,
        ["a b c d"] * 3,
    ],
)
@pytest.mark.parametrize("dims", [None, 4])
def test_no_text_ends_a_fit(texts, dims):
    X = pd.DataFrame({"message": texts})
    for y in (np.arange(len(texts)) % 2.0, None, np.zeros(len(texts))):
        words = Words(dims).fit(X, y)
        assert words.transform(X).shape == (len(texts), len(words.get_feature_names_out()))


def test_vocabulary_of_many_texts_is_learned_from_some(table, monkeypatch):
    words = list(table[0]["message"])
    every = len(weigh_words(words)[0].vocabulary_)
    monkeypatch.setattr("mlloop.models.words.MOST_TEXTS", 100)
    some, weights = weigh_words(words)
    assert len(some.vocabulary_) < every and weights.shape[0] == len(words)


def test_need_gates_cheap_model_reads_words(table):
    X, y = table
    encoded = baselines.encode_columns(X.assign(message=X["message"].replace(prose.MISSING, None)), ["n", "message"])
    rows = baselines.Rows(encoded, y, {}, None, None, None, "classification", "roc_auc", [])
    scores = baselines.fold_scores(rows, np.arange(400), np.arange(400, 600))
    assert metrics.measure("roc_auc", y[400:], scores["cheap_model"][1]) > 0.97


@pytest.mark.parametrize("dtype", ["object", "string", "str"])
def test_missing_text_is_missing_in_any_form_that_pandas_has(dtype):
    texts = pd.Series([f"order {i} is late" for i in range(200)] + [None, np.nan], dtype=dtype)
    assert prose.lengths(texts).isna().sum() == 2 and group_codes(texts).iloc[-1] == -1
    assert Words(4).fit(pd.DataFrame({"m": texts})).transform(pd.DataFrame({"m": texts})).shape[0] == 202


def test_new_texts_are_no_drift_and_longer_ones_are():
    texts = lambda start, more="": pd.DataFrame(
        {"m": [f"order {i} is late{more * (i % 9)}" for i in range(start, start + 900)]}
    )
    reference = texts(1000)
    assert not drift.detect_drift(reference, texts(3000))["columns"][0]["alert"]
    assert drift.detect_drift(reference, texts(3000, " again"))["columns"][0]["alert"]


def test_new_says_that_words_are_features(tmp_path):
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"message": [f"{' '.join(rng.choice(WORDS, 6))} {i}" for i in range(300)], "churned": [0, 1, 1] * 100}
    )
    rows.to_csv(tmp_path / "rows.csv", index=False)
    statement, notes = _drafted(tmp_path / "rows.csv")
    assert statement["message"].feature and statement["message"].type == "text"
    assert ("text", "message holds text: its words, its length and whether it is there are features") in notes


def _drafted(path: Path):
    sample = survey.read_sample(str(path))
    columns, notes = survey.guesses_of(sample), []
    draft._look_closely(sample, columns, notes)
    return {name: guess.column for name, guess in columns.items()}, notes


def test_a_model_that_read_text_as_a_category_is_still_loaded(table, tmp_path):
    X, y = table
    before = make_column_selector(dtype_exclude="number")
    columns = ColumnTransformer(
        [
            ("category", OneHotEncoder(handle_unknown="ignore"), before),
            ("mean", candidates.means(), serialization.many_valued),
        ]
    )
    model = Pipeline([("columns", columns), ("model", LogisticRegression())]).fit(X, y)
    loaded = candidates.load(candidates.save(model, tmp_path)["path"])
    assert (loaded.predict_proba(X) == model.predict_proba(X)).all()
