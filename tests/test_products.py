"""What a stage hands on fits its model to the last key, when it is written and when it is read; older forms are made again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlloop import products, retraining
from mlloop.core import forms, records, storage
from mlloop.core.errors import ProductError
from mlloop.core.settings import load as load_settings
from mlloop.loop import backtest
from mlloop.pipeline import plan as plans
from mlloop.pipeline import runner
from mlloop.store import objects

BATCH = {
    "path": "raw/a.csv", "digest": "ab", "rows": 3, "format": "csv", "origin": "a.csv", "source_digest": "cd", "since": None,
    "watermark": None,
}  # fmt: skip


@pytest.fixture
def place(tmp_path):
    return str(tmp_path / "collection.json")


def test_a_product_is_read_as_it_was_written(place):
    saved = products.save_product({"data": place}, stage="collection", batches={"loans": [BATCH]})
    assert saved == storage.read_json(place) == products.load_product({"data": place})
    found = products.load({"data": place}, products.Collection)
    assert found.batches["loans"][0].rows == 3 and found.version == forms.VERSIONS["collection"]
    again = Path(place).read_bytes()
    products.save_product(place, found)
    assert Path(place).read_bytes() == again


@pytest.mark.parametrize(
    "change, said",
    [
        ({"rows": None}, "'batches.loans.0.rows' holds None"),
        ({"rows": "3"}, "'batches.loans.0.rows' holds '3'"),
        ({"lines": 3}, "'batches.loans.0.lines' is not a field"),
        ({"rows": ...}, "'batches.loans.0.rows' is missing"),
    ],
)
def test_a_field_that_is_renamed_missing_or_of_another_type_is_named_when_written_and_when_read(place, change, said):
    batch = {key: value for key, value in {**BATCH, **change}.items() if value is not ...}
    with pytest.raises(ProductError) as wrong:
        products.save_product(place, stage="collection", batches={"loans": [batch]})
    assert said in str(wrong.value) and not Path(place).exists()
    storage.write_json(place, {"stage": "collection", "version": 1, "batches": {"loans": [batch]}})
    for read in (products.load_product, products.read, lambda one: products.load(one, products.Collection)):
        with pytest.raises(ProductError) as wrong:
            read(place)
        assert said in str(wrong.value) and place in str(wrong.value)
        assert str(wrong.value).endswith("Make it again: mlloop run --from collection")


def test_a_renamed_field_is_an_error_of_the_type_checker(tmp_path):
    source = tmp_path / "reader.py"
    text = "from mlloop.products import Evaluation\n\n\ndef value(one: Evaluation) -> float | None:\n    return one.main.{}\n"
    check = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(Path(__file__).parents[1] / "pyproject.toml"),
        str(source),
    ]
    found = {}
    for field in ("value", "figure"):
        source.write_text(text.format(field))
        found[field] = subprocess.run(check, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert found["value"].returncode == 0, found["value"].stdout
    assert '"Estimate" has no attribute "figure"' in found["figure"].stdout


def test_a_product_of_an_older_form_is_not_read(place):
    for content in ({"stage": "collection"}, {"stage": "collection", "version": 99}, {"batches": {}}, [1]):
        storage.write_json(place, content)
        with pytest.raises(ProductError, match=r"of an older form|names no stage"):
            products.read(place)


def test_a_stage_whose_product_is_of_an_older_form_is_stale_and_makes_it_again(project, monkeypatch):
    assert project.run()["exit_code"] == 0
    settings = load_settings(project.root)
    plan = plans.read(settings, plans.parameters(settings))
    assert {one["state"] for one in runner.status(settings, plan).values()} == {"fresh"}
    path = project.root / ".mlloop/products/loan/training.json"
    record = project.root / ".mlloop/records/loan/training.json"
    older = {key: value for key, value in storage.read_json(path).items() if key != "version"}
    storage.write_json(path, older)  # as a version before wrote and recorded it
    storage.write_json(
        record,
        {
            **storage.read_json(record),
            "products": {**storage.read_json(record)["products"], "data": storage.digest_file(path)},
        },
    )
    found = runner.status(settings, plan)["training"]
    assert found["state"] == "stale" and found["reasons"] == [
        "the product is of an older form: version None, mlloop now writes 1"
    ]
    assert "training" in project.run()["ran"] and storage.read_json(path)["version"] == 1


def test_what_the_ledger_cites_is_read_in_its_older_form_by_a_written_step(tmp_path):
    settings = load_settings(Path(__file__).parents[1])
    settings = type(settings)(**{**settings.__dict__, "state": tmp_path})
    recipe = {"name": "linear", "params": {}, "seed": 0, "digest": "ab"}
    kept = storage.write_json(
        tmp_path / "building.json", {"stage": "building", "estimator": recipe, "type": "Pipeline"}
    )
    digest = objects.keep(settings, kept)
    assert products.load_kept(tmp_path / "objects" / f"{digest}.json")["version"] == 1
    assert products.read(objects.restore(settings, digest, tmp_path / "replayed.json")).stage == "building"
    newer = storage.write_json(tmp_path / "newer.json", {"stage": "collection", "version": 99, "batches": {}})
    with pytest.raises(ProductError, match="version 99"):
        products.load_kept(newer)


def test_a_stage_of_a_projects_own_may_hold_any_facts(place):
    products.save_product(place, stage="weather", finding="It rained.", days=[1, 2], tables={})
    found = products.read(place)
    assert isinstance(found, products.Own) and found.finding == "It rained."
    assert products.load_product(place) == {
        "stage": "weather",
        "version": 1,
        "finding": "It rained.",
        "days": [1, 2],
        "tables": {},
    }
    with pytest.raises(ProductError, match="is the product of 'weather', expected Collection"):
        products.load(place, products.Collection)


def test_facts_that_a_project_adds_to_a_stage_stand_under_extra(place):
    products.save_product(place, stage="collection", batches={}, finding="Nothing new.", extra={"who": ["Ann"]})
    assert products.load(place, products.Collection).extra == {"who": ["Ann"]}


def test_what_stages_hand_on_as_json_has_the_keys_of_the_product_that_it_becomes():
    shapes = {name: shape for name, shape in vars(records).items() if name.endswith("Json") and isinstance(shape, type)}
    compared = 0
    for name, shape in shapes.items():
        model = getattr(products, name.removesuffix("Json"), None)
        if model is None:
            continue
        of_every_product = set(products.Product.model_fields) if issubclass(model, products.Product) else set()
        fields = {field.alias or key for key, field in model.model_fields.items() if key not in of_every_product}
        assert set(shape.__annotations__) == fields, name
        compared += 1
    assert compared > 30


def test_every_model_has_a_version_and_every_version_a_model():
    assert set(products.MODELS) == set(forms.VERSIONS)


def test_run_acts_of_earlier_projects_find_the_functions_where_they_were():
    from mlloop.core.storage import load_product, save_product

    assert (load_product, save_product) == (products.load_product, products.save_product)


def test_freshness_is_told_without_the_models():
    code = "import sys, mlloop.pipeline.runner; print(json.dumps('mlloop.products' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"import json; {code}"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False


def test_a_field_that_was_renamed_keeps_its_name_in_json():
    finding = products.FeedFinding(
        table="loans", column=None, kind="volume", value=1.0, threshold=2.0, summary="few rows"
    )
    assert finding.model_dump(by_alias=True)["said"] == "few rows"
    again = products.Reproduction.model_validate({"asked": 5, "same": 5, "said": ""})
    assert again.predictions == 5 and again.model_dump(by_alias=True) == {"asked": 5, "same": 5, "said": ""}
    assert (
        retraining.Decision("watch", "maybe", "One period is worse.", "", []).to_dict()["said"]
        == "One period is worse."
    )
    assert backtest.Policy("own", "the statement's").to_dict() == {
        "name": "own",
        "said": "the statement's",
        "changes": {},
    }
