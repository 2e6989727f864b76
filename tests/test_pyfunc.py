"""Registered models in plain `mlflow.pyfunc`: a fresh interpreter far from any project gives mlloop's predictions, without pickle."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pandas as pd
import pytest
from test_candidates import LOANS, PRICES, SHOP, rows, shop
from test_mlflow_server import free_port, running

from mlloop import training
from mlloop.comparison import baselines
from mlloop.core import settings as _settings
from mlloop.models import candidates
from mlloop.store import tracking

MODELS = {
    "linear": LOANS, "perceptron": LOANS, "lightgbm": LOANS, "prices": PRICES, "hybrid": SHOP, "popularity": SHOP,
}  # fmt: skip
ELSEWHERE = """
import json, sys
import mlflow, pandas as pd
given, answers = json.load(open(sys.argv[1])), {}
for name, (rows, params) in given.items():
    model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    answers[name] = pd.DataFrame(model.predict(pd.DataFrame(rows), params=params)).values.tolist()
print(json.dumps(answers))
"""


def project(root: Path) -> _settings.Settings:
    root.mkdir(exist_ok=True)
    (root / "settings.ini").touch()
    (root / "pipeline.yaml").touch()
    return _settings.load(root)


def registered(name: str, task, folder: Path, settings: _settings.Settings, with_example: bool = False):
    """A candidate of `name`, fitted and registered under it; its example of a request; and its version in the registry."""
    model = candidates.build("lightgbm" if name == "prices" else name, task, 0)
    if task is SHOP:
        model.fit(*shop())
        example = pd.DataFrame({"user": ["u001", "u002", "nobody"]})
    else:
        X, y = rows()
        X["age"] = X["age"].fillna(40.0)
        model.fit(X, y * 10.0 if task is PRICES else y)
        example = X.head(5)
    stored = candidates.save(model, folder)
    known = tracking.register_model(
        name, Path(stored["path"]), stored["form"], training.signature(SimpleNamespace(task=task), model, example),
        input_example=example if with_example else None, settings=settings,
    )  # fmt: skip
    return model, example, known


def test_every_kind_of_model_predicts_the_same_where_no_project_is_at_hand(tmp_path):
    root = tmp_path / "project"
    settings = project(root)
    requests, expected = {}, {}
    for name, task in MODELS.items():
        model, example, known = registered(name, task, root / name, settings, with_example=True)
        tracking.set_alias(name, "champion", known.version, settings)
        requests[name] = (example.to_dict("list"), {"k": 4} if name == "hybrid" else {})
        scores = model.recommend(example["user"], 4 if name == "hybrid" else SHOP.k) if task is SHOP else None
        expected[name] = baselines.predict_scores(model, example) if scores is None else scores
    away = tmp_path / "away"
    away.mkdir()
    (away / "requests.json").write_text(json.dumps(requests))
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, "requests.json"], cwd=away, capture_output=True, text=True, timeout=300,
        env={**os.environ, "MLFLOW_TRACKING_URI": settings.tracking_url},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for name, task in MODELS.items():
        if task is SHOP:
            assert answers[name] == np.asarray(expected[name]).tolist(), name
        else:
            np.testing.assert_allclose(np.ravel(answers[name]), expected[name], rtol=1e-6, err_msg=name)
    assert [len(answers[name][0]) for name in ("hybrid", "popularity")] == [4, SHOP.k]
    assert not [path for path in root.rglob("*") if path.suffix in (".pkl", ".pickle", ".py")]


def test_a_request_without_a_column_is_refused_with_its_name(tmp_path):
    settings = project(tmp_path)
    *_, known = registered("popularity", SHOP, tmp_path / "model", settings)
    import mlflow

    tracking.connect(settings)
    opened = mlflow.pyfunc.load_model(f"models:/popularity/{known.version}")
    with pytest.raises(mlflow.exceptions.MlflowException, match="user"):
        opened.predict(pd.DataFrame({"item": ["i01"]}))


@pytest.mark.slow
def test_a_recommender_and_a_regression_answer_in_mlflow_models_serve(tmp_path):
    settings = project(tmp_path / "project")
    for name, task in {"hybrid": SHOP, "prices": PRICES}.items():
        model, example, known = registered(name, task, tmp_path / name, settings)
        served = f"http://127.0.0.1:{free_port()}"
        words = ["models", "serve", "-m", f"models:/{name}/{known.version}", "--env-manager", "local"]
        words += ["-h", "127.0.0.1", "-p", served.rpartition(":")[2]]
        body = {"dataframe_split": example.to_dict("split", index=False), "params": {"k": 3} if task is SHOP else {}}
        with running(words, tmp_path, f"{served}/ping", MLFLOW_TRACKING_URI=settings.tracking_url):
            answer = httpx.post(f"{served}/invocations", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        predictions = answer.json()["predictions"]
        if task is SHOP:
            assert [list(line.values()) for line in predictions] == model.recommend(example["user"], 3).tolist()
        else:
            np.testing.assert_allclose(predictions, baselines.predict_scores(model, example), rtol=1e-6)
