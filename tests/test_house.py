"""The structure of the package: the drawing, the layers and the notebooks agree with the code."""

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import draw_house
import pytest

import mlloop
from mlloop.core import moved

ROOT = Path(__file__).resolve().parents[1]
BEFORE_THE_GATE = ["problem", "collection", "ingestion", "transformation", "analysis", "visualization", "need_gate"]
TO_A_MODEL = ["features", "exploration", "building", "training", "evaluation", "validation_gate"]
STAGES = [*BEFORE_THE_GATE, *TO_A_MODEL, "deployment", "serving", "monitoring", "retraining"]
AT_THE_TOP = {*STAGES, "project", "products"}


def test_the_drawing_of_the_house_is_that_of_the_code():
    assert draw_house.DRAWING.read_text(encoding="utf-8") == draw_house.svg(), "run: python scripts/draw_house.py"


def test_every_module_and_wing_stands_on_one_floor():
    floors = [name for names in draw_house.floors() for name in names]
    package = ROOT / "mlloop"
    wings = {path.parent.name for path in package.glob("*/__init__.py")}
    modules = {path.stem for path in package.glob("*.py") if not path.stem.startswith("_")}
    assert sorted(floors) == sorted(wings | modules)


def test_the_top_of_the_package_is_the_picture_of_the_architecture():
    assert {path.stem for path in (ROOT / "mlloop").glob("*.py") if not path.stem.startswith("_")} <= AT_THE_TOP
    assert [path.stem.split("_", 1)[1] for path in sorted((ROOT / "nbs").glob("*.ipynb"))] == STAGES


def test_a_helper_notebook_lies_in_the_folder_of_its_wing():
    for notebook in (ROOT / "nbs").glob("*/*.ipynb"):
        if ".ipynb_checkpoints" not in notebook.parts:
            assert (ROOT / "mlloop" / notebook.parent.name / f"{notebook.stem}.py").is_file(), notebook


def test_no_package_imports_anything_at_its_top():
    # what a parent package imports, every stage would depend on: a change there would make all of them stale
    for init in (ROOT / "mlloop").glob("*/__init__.py"):
        assert "import" not in init.read_text(encoding="utf-8").replace("__import__", ""), init


@pytest.mark.parametrize("former", sorted(moved.MOVED))
def test_a_former_name_gives_the_module_itself(former):
    assert importlib.import_module(former) is importlib.import_module(moved.MOVED[former])
    assert importlib.import_module(moved.MOVED[former]).__spec__.name == moved.MOVED[former]


def test_a_former_name_is_imported_in_every_form():
    code = (
        "from mlloop import own; import mlloop.perceptron; from mlloop.candidates import candidate; print(own.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "mlloop.core.extensions"


def test_layers_are_about_fifteen():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    assert 10 <= len(contracts[0]["layers"]) <= 16


def test_the_version_is_the_same_wherever_it_stands():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    sections = [
        line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line.startswith("## ")
    ]
    assert mlloop.__version__ == stated and sections[0] == f"## {stated}"


def test_the_clock_is_read_in_one_place():
    readers = [path for path in modules() if re.search(r"datetime\.(now|utcnow)\(", path.read_text(encoding="utf-8"))]
    assert [path.relative_to(ROOT).as_posix() for path in readers] == ["mlloop/core/clock.py"]


def test_what_passes_between_modules_has_named_keys():
    # a record is a model, a dataclass or a type of `core.records`; a bare dictionary says nothing to the type checker
    bare = sum(len(re.findall(r"dict\[str, Any\]", path.read_text(encoding="utf-8"))) for path in modules())
    assert bare < 250, f"{bare} annotations are dict[str, Any]: name their keys in mlloop/core/records.py"


def modules() -> list[Path]:
    return [path for path in sorted((ROOT / "mlloop").rglob("*.py")) if "template" not in path.parts]
