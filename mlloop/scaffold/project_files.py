"""Makes a project out of a data file and a question, and renews its notebooks when mlloop moves on."""

import builtins
import importlib.metadata
import importlib.util
import json
import keyword
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlloop import problem as problems
from mlloop.core import extras, storage
from mlloop.core.errors import SettingsError, UsageError
from mlloop.core.records import JsonObject
from mlloop.pipeline.freshness import is_run_cell
from mlloop.scaffold import draft, survey
from mlloop.scaffold.draft import Ask, ProjectOptions
from mlloop.scaffold.survey import SourceSample

TEMPLATES = Path(__file__).parent / "template"
INSTALLED = Path(__file__).parent / "stages"
# in a checkout the notebooks themselves
STAGES = INSTALLED if INSTALLED.is_dir() else Path(__file__).resolve().parents[2] / "nbs"
COPIED_BYTES = 200_000_000

USES = {
    "ingestion": ["ingestion"],
    "transformation": ["transformation"],
    "need_gate": ["need_gate"],
    "features": ["features", "need_gate"],
    "exploration": ["exploration", "need_gate"],
    "building": ["exploration"],
    "training": ["exploration"],
    "evaluation": ["exploration", "need_gate"],
    "validation_gate": ["exploration"],
    "deployment": ["exploration", "features"],
    "serving": ["exploration", "features"],
    "monitoring": ["ingestion", "transformation", "need_gate", "exploration", "features"],
    "retraining": ["ingestion", "transformation", "need_gate", "exploration", "features"],
}
"""Stage -> the modules of the project's own that it imports: what it reads of checks, cleaning, rules, features, models."""

EXAMPLES = {
    "ingestion": """\
# from mlloop.core.extensions import check
#
# @check("delivered before it was ordered")        # in the statement: tables: ...: checks: [delivered_before_ordered]
# def delivered_before_ordered(columns):
#     return columns["delivered_at"] < columns["ordered_at"]""",
    "transformation": """\
# from mlloop.data.cleaning import Step, rule
#
# @rule                                            # in the statement: cleaning: [{rule: without_dashes, columns: [code]}]
# def without_dashes(table, columns, context):
#     return Step(table, {name: table[name].replace("-", "") for name in columns})""",
    "need_gate": """\
# from mlloop.core.extensions import rule
#
# @rule                                            # in the statement: rules: [{name: usual, meaning: ..., function: usual}]
# def usual(rows):
#     return rows.amount / rows.income             # higher means more of the positive class; or the predicted number""",
    "features": """\
# from mlloop.data.feature_registry import feature
#
# @feature("row", amount_of_income=("amount as a share of the income", "share"))
# def burden(rows):
#     return {"amount_of_income": rows.amount / rows.income}""",
    "exploration": """\
# from mlloop.models.candidates import candidate, spread
# from sklearn.ensemble import ExtraTreesClassifier
# from sklearn.pipeline import Pipeline
#
# @candidate("extra_trees", ["classification"], space={"min_samples_leaf": [5, 20, 50]}, complexity=3)
# def extra_trees(task, seed, min_samples_leaf=20):
#     \"\"\"Randomised trees, averaged.\"\"\"
#     model = ExtraTreesClassifier(200, min_samples_leaf=min_samples_leaf, random_state=seed)
#     return Pipeline([("columns", spread()), ("model", model)])""",
}
PLACES = {
    "ingestion": "A check of rows: what it is true of is set aside at ingestion, with its reason.",
    "transformation": "A cleaning step, counted and shown like those of mlloop.",
    "need_gate": "A business rule: what would be done without a model. Both gates compare with it.",
    "features": "A feature, from what is known at the moment of the decision.",
    "exploration": "A model to try beside those of mlloop; what wins is trained.",
}


@dataclass
class NewProject:
    """A new project: its folder, notes on what was guessed, in order, leaks, until when a loop may turn, and columns that a person is asked about."""

    root: Path
    name: str
    notes: list[tuple[str, str]] = field(default_factory=list)
    leaks: dict[str, str] = field(default_factory=dict)
    until: str | None = None
    unconfirmed: dict[str, str] = field(default_factory=dict)


def new(folder: Path, options: ProjectOptions, ask: Ask | None = None) -> NewProject:
    """Make a project in `folder` from a data file, whole or not at all.

    Parameters
    ----------
    folder : Path
        Must not exist, or be empty.
    ask : callable (question, choices, default) -> str, optional
        Asks the person for what is missing; without it a missing target is an error.

    Raises
    ------
    UsageError, SourceError, DataError
    """
    root = Path(folder).expanduser().resolve()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError("is not empty", str(root), "Choose another folder, or empty it")
    name = _slug(root.name)
    sample = survey.read_sample(options.data, options.table, options.query)
    columns = survey.columns_of(sample)
    statement = draft.statement(name, options, sample, columns, ask)
    project = NewProject(
        root, name, statement.pop("notes"), statement.pop("leaks"), statement.pop("until"), statement.pop("asked")
    )
    root.parent.mkdir(parents=True, exist_ok=True)
    with storage.atomic_path(root) as beside:
        beside.mkdir()
        data_note = _data(beside, root, sample, statement, project.notes)
        _write(beside, name, statement, data_note)
        problems.load(beside / "problems" / f"{name}.yaml")
    return project


def _slug(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60]
    if not name:
        raise UsageError(
            f"{text!r} gives no name for the problem", next_step="Name the folder with letters: mlloop new churn ..."
        )
    return name if name[0].isalpha() else f"p_{name}"


def _package(name: str) -> str:
    """The name of the project's package: one that hides no other."""
    taken = (
        name in sys.stdlib_module_names
        or keyword.iskeyword(name)
        or hasattr(builtins, name)  # a notebook that imports `zip` has lost the function
        or name in ("mlloop", "tests", "nbs", "data", "problems")
        or importlib.util.find_spec(name) is not None
    )
    return f"{name}_project" if taken else name


# ---------------------------------------------------------------------------------------------- the files


def _data(beside: Path, root: Path, sample: SourceSample, statement: JsonObject, notes: list[tuple[str, str]]) -> str:
    """Copy the data into the project where it is not too large; what README says of it."""
    source = statement["source"]
    if source["kind"] == "sql":
        hidden = re.sub(r"^(\w+(?:\+\w+)?://[^:/@]+):[^@]+@", r"\1:${DATABASE_PASSWORD}@", source["url"])
        if hidden != source["url"]:
            notes.append(("password", "not written down: set DATABASE_PASSWORD before a run"))
        source["url"] = hidden
        return "empty: the rows come from a database"
    size = sum(file.stat().st_size for file in sample.files)
    if size > COPIED_BYTES:
        notes.append(("data", f"read where it lies ({size / 1e6:,.0f} MB): {source['path']}"))
        return f"empty: the rows are read from {source['path']}"
    folder = beside / "data"
    folder.mkdir()
    for file in sample.files:
        shutil.copyfile(file, folder / file.name)
    source["path"] = (
        f"data/{sample.files[0].name}" if len(sample.files) == 1 else f"data/*{_common_suffix(sample.files)}"
    )
    notes.append(("data", f"copied to {os.path.relpath(root)}/data ({size / 1e6:,.1f} MB); git does not take it"))
    return "a copy of what `mlloop new` was given; git does not take it (see .gitignore)"


def _common_suffix(files: list[Path]) -> str:
    suffixes = {"".join(file.suffixes[-2:]) if file.name.endswith(".gz") else file.suffix for file in files}
    return suffixes.pop() if len(suffixes) == 1 else ""


def _write(root: Path, name: str, statement: JsonObject, data_note: str) -> None:
    package = _package(name)
    requirement, mlloop_note = mlloop_requirement()
    values = {**statement, "package": package, "data_note": data_note, "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
             "mlloop_note": mlloop_note, "introduction": f"{statement['question']} Made with mlloop {version()}."}  # fmt: skip
    places = {
        "problem.yaml": f"problems/{name}.yaml",
        "gitignore": ".gitignore",
        "test_project.py": "tests/test_project.py",
    }
    for template in (
        "problem.yaml",
        "pyproject.toml",
        "Makefile",
        "gitignore",
        "env.yaml",
        "test_project.py",
        "README.md",
    ):
        storage.write_text(root / places.get(template, template), _filled(template, values))
    for whole in ("settings.ini", "pipeline.yaml"):
        storage.write_text(root / whole, (TEMPLATES / whole).read_text(encoding="utf-8"))
    storage.write_text(root / "requirements.txt", f"# which mlloop this project runs on\n{requirement}\n")
    storage.write_text(
        root / "requirements.lock", "# the exact versions this project was made with\n" + "\n".join(locked()) + "\n"
    )
    storage.write_text(
        root / package / "__init__.py",
        f'"""What {name} adds to mlloop of its own; each module is exported from the notebook of its stage."""\n\n__version__ = "0.1.0"\n',
    )
    for source in stage_notebooks():
        write_notebook(root / "nbs" / source.name, source, name, package)
    export(root)


def _filled(template: str, values: JsonObject) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"y": draft.scalar, "flow": draft.flow, "json": json.dumps}
    return environment.get_template(template).render(**values)


def version() -> str:
    """The version of mlloop that is installed."""
    try:
        return importlib.metadata.version("mlloop")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def mlloop_requirement() -> tuple[str, str]:
    """How a new environment gets the mlloop that made the project: a requirement, and what README says of it."""
    try:
        direct = json.loads(importlib.metadata.distribution("mlloop").read_text("direct_url.json") or "{}")
    except importlib.metadata.PackageNotFoundError:
        direct = {"url": Path(__file__).resolve().parents[2].as_uri(), "dir_info": {"editable": True}}
    url, commit = direct.get("url", ""), direct.get("vcs_info", {}).get("commit_id")
    if commit:
        return f"mlloop @ git+{url}@{commit}", ""
    if url.startswith("file://"):
        path = url.removeprefix("file://")
        line = f"-e {path}" if direct.get("dir_info", {}).get("editable") else f"mlloop @ {url}"
        note = (
            f"`requirements.txt` names mlloop by its place on this machine ({path}), which a build elsewhere does not "
            f"have: write `mlloop=={version()}` there once it is to be had by name."
        )
        return line, note
    return f"mlloop=={version()}", ""


def locked(extra: Sequence[str] = ("pytest",)) -> list[str]:
    """name==version of everything mlloop needs, as installed here; local versions such as +cpu left out.

    What only the project's own tests need is named without a version where it is not installed here.
    """
    needed = extras.closure(["mlloop[all]", *extra])
    # mlloop itself may have come from elsewhere than the index, see `mlloop_requirement`
    lines = [f"{name}=={number}" for name, number in needed.versions.items() if name != "mlloop"]
    return sorted([*lines, *(name for name in extra if name in needed.missing)])


# ---------------------------------------------------------------------------------------------- notebooks


def stage_notebooks() -> list[Path]:
    """The notebooks of the stages that this mlloop has: those with a Run act."""
    notebooks = [path for path in sorted(STAGES.glob("[12]*.ipynb")) if len(_run_cells(_read(path))) > 1]
    if not notebooks:
        raise SettingsError("the stages' notebooks are not there", str(STAGES), "Install mlloop again")
    return notebooks


def _read(path: Path) -> JsonObject:
    content = json.loads(path.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        cell["source"] = "".join(cell["source"])
    return content


def _run_cells(content: JsonObject) -> list[JsonObject]:
    """The Run act: from its heading on, its code cells and the prose between them."""
    cells = content["cells"]
    marked = [i for i, cell in enumerate(cells) if is_run_cell(cell)]
    if len(marked) < 2:
        return []
    first = marked[0]
    while first and cells[first - 1]["cell_type"] == "markdown" and not cells[first - 1]["source"].startswith("# "):
        first -= 1
    return [cell for i, cell in enumerate(cells) if i >= first and (cell["cell_type"] == "markdown" or i in marked)]


def write_notebook(path: Path, source: Path, name: str, package: str) -> bool:
    """Write a stage's notebook of a project, its own cells kept where it is there already; returns whether it changed."""
    stage = source.stem.split("_", 1)[1]
    before = _read(path)["cells"] if path.exists() else None
    act = _act(_run_cells(_read(source)), stage, name, package)
    if before is None:
        ours = _beginning(_read(source), stage, package)
    else:
        run = _run_cells({"cells": before})
        ours = [cell for cell in before if not any(cell is run_cell for run_cell in run)]
    cells = [{**cell, "source": cell["source"].splitlines(keepends=True)} for cell in [*ours, *act]]
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    text = (
        json.dumps(
            {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False
        )
        + "\n"
    )
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    storage.write_text(path, text)
    return True


def _act(cells: list[JsonObject], stage: str, name: str, package: str) -> list[JsonObject]:
    """The Run act for a project: asked for its problem, and importing first what of its own the stage depends on."""
    act: list[JsonObject] = []
    for cell in cells:
        source = re.sub(r'^problem = "\w+"$', f'problem = "{name}"', cell["source"], flags=re.MULTILINE)
        act.append(
            {
                **cell,
                "source": source,
                **({"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {}),
            }
        )
        if "parameters" in cell["metadata"].get("tags", []) and stage in USES:
            lines = "\n".join(f"import {package}.{module}" for module in USES[stage])
            act.append(
                _code(
                    f"#| pipeline\n# what this project adds of its own; a change there makes this stage stale\n{lines}",
                    f"own-{stage}",
                )
            )
    return act


def _beginning(content: JsonObject, stage: str, package: str) -> list[JsonObject]:
    title = next(cell["source"] for cell in content["cells"] if cell["cell_type"] == "markdown")
    cells = [_prose(title, f"title-{stage}")]
    if stage not in EXAMPLES:
        return cells
    text = f"{PLACES[stage]} Write it in a cell that begins with `#| export`, then `make export`; importing `{package}.{stage}` registers it."
    return [
        *cells,
        _code(f"#| default_exp {stage}", f"module-{stage}"),
        _prose(f"## Your own\n\n{text}", f"place-{stage}"),
        _code(
            f"#| export\n# An example; take the marks off and make it yours.\n#\n{EXAMPLES[stage]}",
            f"own-{stage}-example",
        ),
    ]


def _code(source: str, cell: str) -> JsonObject:
    return {"cell_type": "code", "execution_count": None, "id": cell, "metadata": {}, "outputs": [], "source": source}


def _prose(source: str, cell: str) -> JsonObject:
    return {"cell_type": "markdown", "id": cell, "metadata": {}, "source": source}


def export(root: Path) -> None:
    """Write the project's modules from its notebooks, as nbdev-export does."""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"],
        cwd=root,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "IN_TEST"},  # with it nbdev exports nothing
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing was said"]
        raise SettingsError(
            f"the notebooks cannot be exported: {last[0]}", str(root), "Fix the notebook, then: nbdev-export"
        )
