"""What a stage reads of a product is noted field by field, and as a whole wherever that cannot be known."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from mlloop import products
from mlloop.core import reads, storage
from mlloop.data import loan_example
from mlloop.products import Statement, Training, load

RECIPE = {"name": "linear", "params": {}, "seed": 0, "digest": "r"}
MODEL = {"name": "linear", "path": "models/linear", "digest": "abc", "form": "skops", "recipe": RECIPE}
TRAINING = {"stage": "training", "trained": {"rows": 3}, "features": ["age"], "definition": "d", "model": MODEL}


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """Saves a product, gives it to a function as a model, and returns which of its fields were read."""

    def read_by(use, content, kind):
        path = tmp_path / "product.json"
        products.save_product(str(path), **content)
        monkeypatch.setenv(reads.VARIABLE, reads.watch(tmp_path / "notes", {path: "above"})[reads.VARIABLE])
        monkeypatch.setattr(reads, "_stages", {str(path): "above"})
        for name, empty in {"_noted": set(), "_followed": {}, "_file": None}.items():
            monkeypatch.setattr(reads, name, empty)
        use(load(str(path), kind))
        return reads.noted(tmp_path / "notes").get("above", set())

    return read_by


@pytest.fixture
def asked(noted):
    """Which fields of a statement a function reads."""
    content = {"stage": "problem", "problem": loan_example.statement(), "as_of": "2025-03-01", "sample": 1.0, "seed": 0}
    return lambda use: noted(lambda product: use(product.problem), content, Statement)


ENTERED = {"problem."}


def test_a_field_is_noted_and_its_neighbours_are_not(asked):
    assert asked(lambda p: p.success.threshold) == {*ENTERED, "problem.success.", "problem.success.threshold"}


def test_nothing_is_noted_of_a_statement_that_is_only_loaded(asked):
    assert asked(lambda p: None) == ENTERED


def test_a_column_is_told_from_the_others(asked):
    found = asked(lambda p: p.tables["loans"].columns["amount"].known)
    assert "problem.tables.loans.columns.amount.known" in found
    assert not any("age" in field for field in found)


def test_a_method_notes_what_it_reads(asked):
    assert {"problem.guessed"} <= asked(lambda p: p.is_guess("success.threshold"))
    assert {"problem.money.true_positive"} <= asked(lambda p: p.money.is_priced("classification"))


@pytest.mark.parametrize(
    "use",
    [
        lambda success: success.model_dump(),
        lambda success: success.model_dump_json(),
        lambda success: storage.digest_json(success),
        lambda success: success.model_copy(update={"min_gain": 0.5}),
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        repr,
        vars,
        dict,
        lambda success: success == loan_example.statement().success,
    ],
    ids=["dump", "json", "digest", "model_copy", "copy", "deepcopy", "pickle", "repr", "vars", "dict", "equals"],
)
def test_what_is_written_out_copied_or_compared_counts_as_a_whole(asked, use):
    assert "problem.success" in asked(lambda p: use(p.success))


def test_a_statement_that_is_written_out_counts_as_a_whole(asked):
    assert "problem" in asked(lambda p: p.model_dump(mode="json"))


def test_who_reads_where_a_model_lies_reads_the_model(noted):
    assert noted(lambda made: made.model.path, TRAINING, Training) == {"model"}


def test_a_product_opened_in_any_other_way_counts_as_a_whole(tmp_path):
    path = tmp_path / "product.json"
    products.save_product(str(path), **TRAINING)
    ways = {
        "load": "load(path, Training).features",
        "load_product": "load_product(path)",
        "json": "json.load(open(path))",
        "both": "load(path, Training).features; Path(path).read_text()",
        "a process": "load(path, Training).features; subprocess.run(['cat', path], stdout=subprocess.DEVNULL)",
        "another file": "open(path + '.other', 'w')",
    }
    found = {}
    for name, way in ways.items():
        code = "import json, subprocess, sys\nfrom pathlib import Path\nfrom mlloop.products import Training, load, load_product\n"
        environment = {**os.environ, **reads.watch(tmp_path / name, {path: "above"})}
        done = subprocess.run([sys.executable, "-c", f"{code}path = sys.argv[1]\n{way}", str(path)], env=environment)
        assert done.returncode == 0
        found[name] = reads.noted(tmp_path / name).get("above")
    assert found["load"] == {"features"} and found["another file"] is None
    assert all(reads.WHOLE in (found[name] or ()) for name in ("load_product", "json", "both", "a process"))


def test_digests_tell_a_changed_field_from_a_changed_neighbour():
    fields = {"a.b", "a.", "c.1.d", "c.", "x.y~1z"}
    content = {"a": {"b": 1, "e": 2}, "c": [{"d": 1}, {"d": 2}], "x": {"y.z": 1}}

    def changed(alter):
        other = json.loads(json.dumps(content))
        alter(other)
        before, now = reads.digests(content, fields), reads.digests(other, fields)
        return {field for field in fields if before[field] != now[field]}

    assert changed(lambda c: c["a"].update(e=3)) == set()
    assert changed(lambda c: c["a"].update(b=2)) == {"a.b"}
    assert changed(lambda c: c["a"].update(f=2)) == {"a."}
    assert changed(lambda c: c["c"][0].update(d=5)) == set()
    assert changed(lambda c: c["c"].pop()) == {"c.", "c.1.d"}
    assert changed(lambda c: c["x"].update({"y.z": 2})) == {"x.y~1z"}


def test_of_very_many_fields_only_the_parts_are_kept_apart(tmp_path):
    lines = [["problem", f"problem.tables.t.columns.c{i}.type"] for i in range(reads.MOST_FIELDS + 1)]
    path = Path(tmp_path, "notes")
    path.write_text("{}\n" + "".join(json.dumps(line) + "\n" for line in lines))
    assert reads.noted(path) == {"problem": {"problem.tables"}}
