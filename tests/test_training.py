"""Training: killed and resumed is the same as uninterrupted, and nothing of the holdout period gets in."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ibis
import pandas as pd
import pytest
import torch
from test_candidates import LOANS, SHOP, rows, shop
from torch.func import functional_call

from mlloop import training
from mlloop.core.errors import DataError
from mlloop.data import loan_example
from mlloop.models import candidates
from mlloop.models.neumf import Network
from mlloop.models.perceptron import epoch_generator, train
from mlloop.problem import Problem

CODE = """
import json, sys, time
sys.path[:0] = {tests!r}
import mlloop.models.perceptron as perceptron
from pathlib import Path
from test_training import LOANS, SHOP, candidates, rows, shop
checkpoint, slow, form = Path({checkpoint!r}), {slow}, {form!r}
real, kept = perceptron.save_checkpoint, []
def noted(path, key, state):
    real(path, key, state)
    kept.append(len(state["losses"]))
    time.sleep(slow)
perceptron.save_checkpoint = noted
if form == "neumf":
    model = candidates.build("neumf", SHOP, 0, {{"epochs": 8, "checkpoint": str(checkpoint)}}).fit(*shop())
else:
    model = candidates.build("perceptron", LOANS, 0, {{"epochs": 8, "checkpoint": str(checkpoint)}}).fit(*rows())
nested = [name for name in model.get_params() if name.split("__")[-1] == "checkpoint"]
model.set_params(**dict.fromkeys(nested, None))
print(json.dumps({{"digest": candidates.save(model, {folder!r})["digest"], "epochs": kept}}))
"""


def process(tmp_path: Path, name: str, checkpoint: str, form: str, slow: float = 0.0) -> subprocess.Popen:
    code = CODE.format(
        tests=[str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")],
        checkpoint=str(tmp_path / checkpoint),
        slow=slow,
        form=form,
        folder=str(tmp_path / name),
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def told(running: subprocess.Popen) -> dict:
    out, _ = running.communicate(timeout=240)
    assert running.returncode == 0
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("form", ["neumf", "perceptron"])
def test_training_killed_and_resumed_gives_the_same_model(tmp_path, form):
    whole = told(process(tmp_path, "whole", "whole.pt", form))
    doomed = process(tmp_path, "doomed", "torn.pt", form, slow=0.5)
    until = time.monotonic() + 200
    while not (tmp_path / "torn.pt").exists() and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.wait()
    assert (tmp_path / "torn.pt").exists() and not (tmp_path / "doomed").exists()
    resumed = told(process(tmp_path, "resumed", "torn.pt", form))
    assert resumed["digest"] == whole["digest"]
    assert len(resumed["epochs"]) < len(whole["epochs"])  # it went on, it did not begin again


def test_a_checkpoint_of_other_data_is_not_resumed(tmp_path):
    place = str(tmp_path / "training.pt")
    X, y = rows()
    candidates.build("perceptron", LOANS, 0, {"epochs": 2, "checkpoint": place}).fit(X, y)
    X2, y2 = rows(seed=5)
    found = candidates.build("perceptron", LOANS, 0, {"epochs": 2, "checkpoint": place}).fit(X2, y2)
    fresh = candidates.build("perceptron", LOANS, 0, {"epochs": 2}).fit(X2, y2)
    assert (found.predict_proba(X2) == fresh.predict_proba(X2)).all()


@pytest.mark.parametrize("form", ["gmf", "mlp", "neumf"])
def test_gradients_are_those_of_differences_also_where_a_user_or_item_comes_twice(form):
    network = Network(3, 4, form, 2, [6, 4], seed=0).double()
    with torch.no_grad():  # the first weights are so small that hardly a rectifier would be passed
        for n, table in enumerate(network.parameters()):
            table.normal_(generator=epoch_generator(0, n))
    users, items = torch.tensor([0, 2, 0]), torch.tensor([[1, 1, 3], [0, 1, 2], [1, 2, 2]])
    names = [name for name, _ in network.named_parameters()]
    logits = lambda *values: functional_call(network, dict(zip(names, values, strict=True)), (users, items))
    assert torch.autograd.gradcheck(logits, tuple(network.parameters()))


@pytest.mark.parametrize(("to_beat", "epochs"), [(float("inf"), 3), (0.7, 6)])
def test_patience_counts_only_once_the_loss_to_beat_was_beaten(to_beat, epochs):
    told = iter([0.75, 0.76, 0.76, 0.5, 0.6, 0.6, 0.1])
    how = {"epochs": 7, "patience": 2, "learning_rate": 0.1, "weight_decay": 0.0, "to_beat": to_beat}
    losses = train(torch.nn.Linear(1, 1), lambda optimiser, epoch: None, lambda: next(told), **how)
    assert len(losses) == epochs


def test_no_row_of_the_held_out_period_is_learned_from():
    X, y = rows(200)
    table = X.assign(id=range(200), day=pd.date_range("2025-01-01", periods=200, freq="h"), repaid=y)
    product = {"tables": {"train": "t"}, "features": ["age", "town"], "windows": {"train_until": "2025-01-05"}}
    found = training.material(
        loan_example.statement(), product, lambda ref: ibis.memtable(table.sample(frac=1, random_state=0))
    )
    assert found.trained["rows"] == 96 and found.trained["until"] == pd.Timestamp("2025-01-05")
    assert found.fit_data["y"].tolist() == y[:96].tolist()  # in the order of time again
    with pytest.raises(DataError, match="before the holdout period"):
        training.material(
            loan_example.statement(),
            {**product, "windows": {"train_until": "2024-01-01"}},
            lambda ref: ibis.memtable(table),
        )


def test_events_at_the_cutoff_are_not_learned_from():
    events, items = shop()
    problem = Problem.model_validate(
        {
            **loan_example.statement().model_dump(),
            "task": SHOP.model_dump(),
            "tables": {"t": {"source": "loans", "columns": {c: {"type": "text"} for c in ("u", "i", "at")}}},
            "rules": [{"name": "best", "meaning": "best-sellers", "popular_days": 30}],
            "success": {"metric": "ndcg", "threshold": 0.1},
            "time": {},
        }
    )
    until = events["time"].sort_values().iloc[300]
    product = {
        "tables": {"events": "events", "items": "items"},
        "features": [],
        "windows": {"train_until": until.isoformat()},
    }
    found = training.material(problem, product, lambda ref: ibis.memtable(events if ref == "events" else items))
    assert found.trained["rows"] == 300 and found.fit_data["events"]["time"].max() < until


def test_a_model_learns_the_same_in_one_thread_and_in_all(monkeypatch):
    X, y = rows(3000)
    alone = candidates.build("lightgbm", LOANS)
    with candidates.fit_threads(alone, len(X)):
        alone.fit(X, y)
    monkeypatch.setattr(candidates, "MANY_ROWS", 10)
    many = candidates.build("lightgbm", LOANS)
    with candidates.fit_threads(many, len(X)):
        many.fit(X, y)
    assert (alone.predict_proba(X) == many.predict_proba(X)).all()
    assert many[-1].n_jobs == 1
