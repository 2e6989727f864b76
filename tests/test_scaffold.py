"""A project of one's own: from a file to a statement that names its leaks, and from there to a verdict."""

import gc
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import forked
import numpy as np
import pandas as pd
import pytest

from mlloop import problem
from mlloop.core import extensions, settings
from mlloop.core.errors import DataError, MlloopError, ProblemError, SettingsError, SourceError, StageFailed, UsageError
from mlloop.pipeline import freshness, runner
from mlloop.scaffold import checks, dialect, project_files, survey, upgrade

ROOT = Path(__file__).resolve().parents[1]


def loans(n=900, seed=3) -> pd.DataFrame:
    """Loans as a bank has them: amounts with a currency, gaps, spellings; `closed_as` is filled in afterwards."""
    r = np.random.default_rng(seed)
    amount, income = r.lognormal(8, 0.6, n), r.lognormal(10, 0.4, n)
    risk = 1 / (1 + np.exp(-(25 * amount / income - 4.5)))
    default = r.random(n) < risk
    frame = pd.DataFrame(
        {
            "loan_id": np.arange(1, n + 1),
            "granted": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.sort(r.integers(0, 240 * 24, n)), "h"),
            "amount": [f"€{a:.2f}" if r.random() < 0.4 else f"{a:.2f}" for a in amount],
            "income": np.where(r.random(n) < 0.08, "?", [f"{i:.0f}" for i in income]),
            "purpose": r.choice(["car", "Car ", "house", "study"], n),
            'region, "old" [code]': r.choice(["N", "S"], n),
            "closed_as": np.where(default, "written off", "repaid"),
            "defaulted": np.where(default, np.where(r.random(n) < 0.1, "YES", "yes"), "no"),
        }
    )
    frame["granted"] = frame["granted"].dt.strftime("%d.%m.%Y %H:%M")
    return frame


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project out of a file of loans; nothing has run. Tests that change it copy it."""
    folder = tmp_path_factory.mktemp("own")
    loans().to_csv(folder / "loans.csv", sep=";", index=False, encoding="cp1252")
    return project_files.new(
        folder / "credit", project_files.ProjectOptions(str(folder / "loans.csv"), target="defaulted")
    )


@pytest.fixture
def project(made, tmp_path) -> Path:
    root = tmp_path / "credit"
    shutil.copytree(made.root, root)
    return root


def statement(root: Path) -> str:
    return (root / "problems" / "credit.yaml").read_text()


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, (old, text)
    path.write_text(text.replace(old, new, 1))


def mlloop(root: Path, *arguments: str, code: int | tuple[int, ...] = 0) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "COLUMNS": "200",
        "PYTHONPATH": str(ROOT),
        "MLLOOP_KERNELS_POOL": "fresh",
        "OMP_NUM_THREADS": "1",
    }
    done = forked.run(
        [sys.executable, "-m", "mlloop", *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode in (code if isinstance(code, tuple) else (code,)), done.stdout + done.stderr
    return done


def export(root: Path, **sources: str) -> None:
    """Write a cell of one's own into stages' notebooks, as a person does, and export them."""
    for stage, source in sources.items():
        (path,) = (root / "nbs").glob(f"*_{stage}.ipynb")
        content = json.loads(path.read_text())
        at = next(i for i, cell in enumerate(content["cells"]) if cell["id"].endswith("-example"))
        content["cells"][at]["source"] = f"#| export\n{source}".splitlines(keepends=True)
        path.write_text(json.dumps(content, indent=1))
    project_files.export(root)


# ---------------------------------------------------------------------------------------------- looking at data


def test_a_leak_is_named_and_kept_away_before_anything_is_believed(made):
    assert set(made.leaks) == {"closed_as"} and "alone tells the target" in made.leaks["closed_as"]
    spec = problem.load(made.root / "problems/credit.yaml").tables["rows"].columns["closed_as"]
    assert spec.known == "after"
    assert re.search(r"closed_as: .*# LEAK: alone tells the target", statement(made.root))


def test_parts_of_a_total_are_named_as_leaks(tmp_path):
    r = np.random.default_rng(0)
    rides = pd.DataFrame(
        {"members": r.poisson(40, 300), "guests": r.poisson(9, 300), "warm": r.normal(15, 8, 300).round(1)}
    )
    rides.assign(rides=rides.members + rides.guests).to_csv(tmp_path / "rides.csv", index=False)
    looked = survey.read_sample(str(tmp_path / "rides.csv"))
    columns = survey.columns_of(looked)
    found = survey.leaks(columns, columns["rides"].values.astype(float), "regression", ["rides"])
    assert set(found) == {"members", "guests"} and "members and guests add up" in found["guests"].reason


def test_a_column_filled_in_for_one_class_only_is_named_as_a_leak():
    y = pd.Series([1.0, 0.0, 0.0, 0.0, 0.0] * 100)
    r = np.random.default_rng(1)
    found = pd.Series(np.where((y == 1) & (r.random(500) < 0.6), "gone", None), dtype=object)
    columns = {"reason": survey.Guess(problem.Column(type="category"), "", found)}
    assert "for one class only" in survey.leaks(columns, y, "classification", [])["reason"].reason


def test_what_dirty_values_mean_is_found_out(made):
    one = problem.load(made.root / "problems/credit.yaml")
    columns, task, source = one.tables["rows"].columns, one.task, one.sources["rows"]
    assert (source.separator, source.encoding, source.path) == (";", "cp1252", "data/loans.csv")
    assert (task.kind, task.target, task.positive, task.entity) == ("classification", "defaulted", True, "loan_id")
    assert (one.time.column, columns["granted"].type, columns["granted"].format) == (
        "granted",
        "time",
        "%d.%m.%Y %H:%M",
    )
    assert {c for rule in one.tables["rows"].cleaning for c in rule.columns if rule.rule == "number"} == {
        "amount",
        "income",
    }
    assert columns["purpose"].type == "category" and one.tables["rows"].key == ["loan_id"]


@pytest.mark.parametrize(
    ("values", "kind", "more"),
    [
        (["1,200", "15,300,000", "7"], "number", {"thousands": ","}),
        (["1.200,5", "3,25", "7,0"], "number", {"decimal": ",", "thousands": "."}),
        (["yes", "no", "YES"], "boolean", {}),
        (["2024-01-31", "2024-02-29", "2025-12-01"], "date", {}),
        (["20240131", "20240229", "20251201"], "date", {"format": "%Y%m%d"}),
        (["03/31/2024 14:05", "12/25/2024 00:10", "01/02/2025 9:00"], "time", {"format": "%m/%d/%Y %H:%M"}),
        (["007", "012", "101"], "category", {}),
        (["A12", "B7", "A12"], "category", {}),
    ],
)  # fmt: skip
def test_the_type_of_a_column_is_read_off_its_values(values, kind, more):
    found = survey.guess("seen_at", pd.Series(values * 10, dtype=object))
    assert found.column.type == kind and {k: getattr(found.column, k) for k in more} == more


def test_text_in_other_encodings_is_read_as_what_it_is(tmp_path):
    for coded, said in {"utf-8": "utf-8", "cp1252": "cp1252", "utf-16": "utf-16"}.items():
        (tmp_path / "t.csv").write_text("name,sum\nMüller,1\nStraße,2\n", encoding=coded)
        assert dialect.encoding(tmp_path / "t.csv") == said
        assert list(survey.read_sample(str(tmp_path / "t.csv")).text["name"]) == ["Müller", "Straße"]


def test_a_column_without_a_name_is_called_by_its_place(tmp_path):
    loans(60).to_csv(tmp_path / "loans.csv")
    looked = survey.read_sample(str(tmp_path / "loans.csv"))
    assert looked.text.columns[0] == "(column 1)" and survey.columns_of(looked)["(column 1)"].column.feature is False


def test_a_table_of_a_database_is_a_source(tmp_path):
    with sqlite3.connect(tmp_path / "bank.db") as con:
        loans(300).to_sql("loans", con, index=False)
        loans(10).to_sql("other", con, index=False)
    url = f"sqlite:///{tmp_path}/bank.db"
    with pytest.raises(UsageError, match="which table"):
        survey.read_sample(url)
    made = project_files.new(tmp_path / "bank", project_files.ProjectOptions(url, target="defaulted", table="loans"))
    source = problem.load(made.root / "problems/bank.yaml").sources["rows"]
    assert (source.kind, source.table) == ("sql", "loans")
    assert any(line.startswith("source rows: table loans") for line in checks.everything(made.root))


def test_sales_become_a_question_of_what_to_recommend(tmp_path):
    r = np.random.default_rng(5)
    sales = pd.DataFrame(
        {
            "customer_id": r.integers(1, 80, 2000),
            "product_id": r.integers(100, 140, 2000),
            "sold_at": pd.Timestamp("2025-01-01") + pd.to_timedelta(r.integers(0, 100, 2000), "D"),
            "quantity": r.integers(1, 4, 2000),
            "price": r.random(2000).round(2),
        }
    )
    sales["product_name"] = "thing " + sales["product_id"].astype(str)
    sales.to_parquet(tmp_path / "sales.parquet")
    made = project_files.new(tmp_path / "shop", project_files.ProjectOptions(str(tmp_path / "sales.parquet")))
    one = problem.load(made.root / "problems/shop.yaml")
    use = one.task.interactions[0]
    assert (use.user, use.item, use.time, use.quantity, use.price) == (
        "customer_id",
        "product_id",
        "sold_at",
        "quantity",
        "price",
    )
    assert one.task.items.name == "product_name" and one.rules[0].popular_days == 30


def test_counts_of_a_file_that_is_only_sampled_are_those_of_all_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "ROWS", 1000)
    r = np.random.default_rng(4)
    n = 6000
    rows = pd.DataFrame({"amount": r.normal(100, 30, n).round(3), "won": r.choice(["yes", "no"], n, p=[0.3, 0.7])})
    rows["remark"] = [f"note {i % 2500}" for i in range(n)]
    rows.loc[r.choice(n, 37, replace=False), "won"] = ""
    rows.to_csv(tmp_path / "rows.csv", index=False)
    made = project_files.new(tmp_path / "won", project_files.ProjectOptions(str(tmp_path / "rows.csv"), target="won"))
    told = dict(made.notes)
    share = (rows.won == "yes").sum() / (n - 37)
    assert (
        told["question"]
        == f"Which rows have won = True? ({share:.0%} of 6,000 rows do; 37 rows without it are left out)"
    )
    assert re.match(r"6,000; types, leaks and figures come from (9|1,0)\d\d of them", told["rows"])
    assert "remark: {type: text}  # 2,500 different values" in (made.root / "problems/won.yaml").read_text()


def test_a_source_is_held_once_within_bounds_and_its_folder_goes_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    loans(300).to_csv(tmp_path / "loans.csv", index=False)
    sample = survey.read_sample(str(tmp_path / "loans.csv"))
    engine = sample.table.get_backend().con
    ask = lambda sql: engine.execute(sql).fetchone()[0]
    assert ask("SELECT sum(estimated_size) FROM duckdb_tables()") == 300
    folder = Path(ask("SELECT current_setting('temp_directory')")).parent
    assert folder.parent == tmp_path and folder.is_dir()
    assert float(ask("SELECT current_setting('memory_limit')").split()[0]) < 1000
    del sample
    gc.collect()
    assert not folder.exists()
    with pytest.raises(DataError):
        (tmp_path / "one.csv").write_text("a\n1\n")
        survey.read_sample(str(tmp_path / "one.csv"))
    assert not list(tmp_path.glob("mlloop-new-*"))


def test_without_a_time_column_it_says_what_that_costs(tmp_path):
    loans(200).drop(columns=["granted", "closed_as"]).to_csv(tmp_path / "loans.csv", index=False)
    made = project_files.new(
        tmp_path / "credit", project_files.ProjectOptions(str(tmp_path / "loans.csv"), target="defaulted")
    )
    assert "nothing can be said of drift" in dict(made.notes)["without a time column"]
    assert "nothing can be said of drift" in statement(made.root)
    assert problem.load(made.root / "problems/credit.yaml").time.column is None


# ---------------------------------------------------------------------------------------------- asking


def test_what_is_missing_is_asked(tmp_path):
    loans(200).to_csv(tmp_path / "loans.csv", index=False)
    asked = []

    def ask(question, choices, default):
        asked.append(question)
        return "defaulted"

    project_files.new(tmp_path / "credit", project_files.ProjectOptions(str(tmp_path / "loans.csv")), ask)
    assert asked == ["Which column is to be predicted?"]


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        ({}, UsageError, "which column is to be predicted"),
        ({"target": "default"}, UsageError, "Did you mean 'defaulted'"),
        ({"target": "defaulted", "time": "amount"}, UsageError, "holds no times"),
        ({"target": "granted"}, DataError, "holds times"),
        ({"target": "defaulted", "positive": "maybe"}, UsageError, "is not a value of defaulted"),
        ({"target": "purpose", "task": "regression"}, UsageError, "needs numbers"),
        ({"user": "loan_id"}, UsageError, "say --item"),
        ({"data": "lons.csv"}, SourceError, "Did you mean 'loans.csv'"),
        ({"data": "book.xlsx"}, SourceError, "cannot be read as a spreadsheet"),
        ({"data": "one.csv"}, DataError, "has 1 column"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_the_way_out_and_nothing_is_left_behind(tmp_path, wanted, error, said):
    loans(200).to_csv(tmp_path / "loans.csv", index=False)
    (tmp_path / "book.xlsx").write_bytes(b"PK")
    (tmp_path / "one.csv").write_text("a\n1\n")
    given = {**wanted, "data": str(tmp_path / wanted.get("data", "loans.csv"))}
    with pytest.raises(error, match=re.escape(said)):
        project_files.new(tmp_path / "credit", project_files.ProjectOptions(**given))
    assert not list(tmp_path.glob("*credit*"))


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ("a,b,y\n1,2,\n3,4,\n", DataError, "target 'y': has no value"),
        ("a,b,y\n1,2,5\n3,4,5\n", DataError, "target 'y': has one value only"),
        ("a,b,y\n", DataError, "holds no row"),
    ],
    ids=["no value", "one value", "no row"],
)
def test_a_table_without_two_values_to_tell_apart_is_refused_by_name(tmp_path, content, error, said):
    (tmp_path / "few.csv").write_text(content)
    with pytest.raises(error) as refused:
        project_files.new(tmp_path / "few", project_files.ProjectOptions(str(tmp_path / "few.csv"), target="y"))
    assert said in str(refused.value) and not (tmp_path / "few").exists()


def test_a_folder_with_something_in_it_is_left_alone(made):
    with pytest.raises(UsageError, match="is not empty"):
        project_files.new(made.root, project_files.ProjectOptions("x.csv", target="y"))


# ---------------------------------------------------------------------------------------------- what was written


def test_a_new_project_passes_its_own_check(made):
    said = checks.everything(made.root)
    assert "of its own: nothing yet" in said and any("loans.csv" in line for line in said)
    folds = next(line for line in said if line.startswith("folds of credit: "))
    noted = next(text for what, text in made.notes if what == "folds")
    assert folds.removeprefix("folds of credit: ") == noted, "as many rows as `new` counted"


def test_a_stage_notebook_holds_a_place_for_ones_own_and_the_run_act(made):
    cells = project_files._read(made.root / "nbs/17_features.ipynb")["cells"]
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    assert code[0] == "#| default_exp features" and code[1].startswith("#| export") and "def burden" in code[1]
    assert all(source.startswith("#| pipeline") for source in code[2:])
    ours = project_files._run_cells(project_files._read(ROOT / "nbs/17_features.ipynb"))
    theirs = [c for c in project_files._run_cells({"cells": cells}) if not c["id"].startswith("own-")]
    assert [c["source"].replace('"credit"', '"shop"') for c in theirs] == [c["source"] for c in ours]


def test_every_stage_reads_only_the_modules_it_depends_on(made):
    modules = freshness.Modules(made.root)
    reads = lambda nb: {
        m for m in modules.closure("\n".join(freshness._run_code(made.root / "nbs" / nb))) if m.startswith("credit.")
    }
    assert reads("11_collection.ipynb") == set()
    assert reads("13_transformation.ipynb") == {"credit.transformation"}
    assert reads("17_features.ipynb") == {"credit.features", "credit.need_gate"}
    assert reads("20_training.ipynb") == {"credit.exploration"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("target: defaulted", "target: defalted", "Did you mean 'defaulted'"),
        ("path: data/loans.csv", "path: data/lons.csv", "the folder holds loans.csv"),
        ("      purpose: {type: category}\n", "      purpose: {type: category}\n      region: {type: text, required: true}\n", "column 'region' is not in"),
        ("rule: number, columns: [amount]", "rule: nombre, columns: [amount]", "Did you mean 'number'"),
        ('WHEN \\"', 'WHEN \\"x', "rules: one_question"),
        ("budget: {trials: 4, seconds: 300}", "budget: {trials: 4, seconds: 300, candidates: [lightgm]}", "Did you mean 'lightgbm'"),
        ("rules:\n", "rules:\n  - {name: ours, meaning: what we do, function: ours}\n", "rule 'ours' is not registered"),
        ("    source: rows\n", "    source: rows\n    checks: [odd]\n", "check 'odd' is not registered"),
        ("  as_of: 2024", "  as_of: 2026", "has a target: nothing is held out"),
    ],
)  # fmt: skip
def test_check_finds_what_would_fail_before_anything_runs(project, old, new, said):
    change(project / "problems/credit.yaml", old, new)
    with pytest.raises((ProblemError, SourceError), match=re.escape(said)):
        checks.everything(project)


@pytest.mark.parametrize(
    ("variable", "value", "extra"),
    [
        ("MLLOOP_VALIDATION_ENGINE", "great_expectations", "expectations"),
        ("MLLOOP_ENGINE_NAME", "spark", "spark"),
        ("MLLOOP_PREDICTIONS_BROKERS", "localhost:9092", "kafka"),
        ("MLLOOP_LEDGER_URL", "postgresql://localhost/ledger", "postgres"),
        ("", "kind: kafka, topic: loans, brokers: 'localhost:9092', group: loans", "kafka"),
        ("", "kind: sql, url: 'postgresql://localhost/bank', table: loans", "postgres"),
    ],
)
def test_check_names_the_extra_of_a_library_that_is_asked_for_and_not_installed(
    project, monkeypatch, variable, value, extra
):
    if variable:
        monkeypatch.setenv(variable, value)
    else:
        statement = project / "problems/credit.yaml"
        statement.write_text(re.sub(r"rows: {kind: files.*", f"rows: {{{value}}}", statement.read_text()))
    find, away = importlib.util.find_spec, ("great_expectations", "pyspark", "confluent_kafka", "psycopg")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in away else find(name, *more))
    with pytest.raises(SettingsError, match=rf"pip install 'mlloop\[{extra}\]'"):
        checks.everything(project)


def test_check_finds_a_notebook_out_of_step_and_a_module_that_cannot_be_imported(project):
    change(project / "nbs/17_features.ipynb", "# An example", "import os\\n# An example")
    with pytest.raises(StageFailed, match=r"differs from credit/features\.py"):
        checks.everything(project)
    export(
        project,
        features="from mlloop.data.feature_registry import feature\n\n@feature('rows')\ndef broken(rows): ...\n",
    )
    done = mlloop(project, "check", code=1)
    assert (
        "credit/features.py: cannot be imported: feature: a feature is of one of" in done.stderr
        and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize("source", project_files.stage_notebooks(), ids=lambda path: path.stem)
def test_a_run_act_uses_only_names_that_it_has_imported(source):
    """A project's own notebook holds the Run act without the cells above it."""
    cells = [cell["source"] for cell in json.loads(source.read_text(encoding="utf-8"))["cells"]]
    act = "\n".join("".join(cell) for cell in cells if "".join(cell).startswith("#| pipeline"))
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F401,F821", "--output-format", "concise", "-"],
        input=act, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert act and done.returncode == 0, done.stdout


def test_upgrade_renews_the_run_acts_and_leaves_ones_own_cells_alone(project):
    export(project, features="MINE = 1\n")
    change(project / "nbs/17_features.ipynb", "feature_set = build_features(", "feature_set = built_otherwise(")
    change(project / "pipeline.yaml", "upstream: [problem, explora", "upstream: [explora")
    (project / "nbs/23_deployment.ipynb").unlink()
    extra = "\n  - source: nbs/30_letter.ipynb\n    name: letter\n    upstream: [evaluation]\n    product: {nb: a.ipynb, data: a.json}\n"
    (project / "pipeline.yaml").write_text((project / "pipeline.yaml").read_text() + extra)
    told = "\n".join(upgrade.upgrade(project))
    assert "17_features.ipynb: its Run act" in told and "23_deployment.ipynb: new" in told and "pipeline.yaml" in told
    text = (project / "nbs/17_features.ipynb").read_text()
    assert "MINE = 1" in text and "built_otherwise" not in text
    pipeline = (project / "pipeline.yaml").read_text()
    assert pipeline.startswith((ROOT / "pipeline.yaml").read_text()) and "name: letter" in pipeline
    assert upgrade.upgrade(project) == []


# ---------------------------------------------------------------------------------------------- one's own, and a run

FEATURE = """\
from mlloop.data.feature_registry import feature

@feature("row", amount_of_income=("amount as a share of the income", "share"))
def burden(rows):
    return {"amount_of_income": rows.amount / rows.income}
"""
CANDIDATE = """\
from mlloop.models.candidates import candidate, spread
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

class Careful(LogisticRegression):
    \"\"\"A logistic regression that never says more than 0.99.\"\"\"

    def predict_proba(self, X):
        return super().predict_proba(X).clip(0.01, 0.99)

@candidate("careful", ["classification"], space={"C": [0.1, 1.0]}, complexity=1)
def careful(task, seed, C=1.0):
    \"\"\"A regression that is never sure.\"\"\"
    return Pipeline([("columns", spread()), ("model", Careful(C=C, max_iter=500))])
"""
RULE = """\
from mlloop.core.extensions import rule

@rule
def low_income(rows):
    return -rows.income
"""
CLEANING = """\
from mlloop.data.cleaning import Step, rule

@rule
def upper(table, columns, context):
    return Step(table, {name: table[name].upper() for name in columns})
"""
CHECK = """\
from mlloop.core.extensions import check

@check("the income is beyond belief")
def odd_income(columns):
    return columns["income"].try_cast("float64") > 45_000
"""


@pytest.mark.parametrize("source", [FEATURE, CANDIDATE, RULE, CLEANING, CHECK])
def test_something_of_ones_own_takes_less_than_twenty_lines(source):
    assert len(source.splitlines()) < 20


def test_a_file_becomes_a_verdict_a_page_and_an_answer_with_all_of_ones_own_in_it(project):
    export(project, ingestion=CHECK, transformation=CLEANING, need_gate=RULE, features=FEATURE, exploration=CANDIDATE)
    file = next((project / "data").glob("*.csv"))  # rows enough to tell a model from a straight line through the amount
    loans(2400).to_csv(file, sep=";", index=False, encoding="cp1252")
    path = project / "problems/credit.yaml"
    change(path, "    source: rows\n", "    source: rows\n    checks: [odd_income]\n")
    change(path, "    cleaning:\n", "    cleaning:\n      - {rule: upper, columns: [purpose]}\n")
    change(
        path, "rules:\n", "rules:\n  - {name: low_income, meaning: who earns little defaults, function: low_income}\n"
    )
    change(path, "trials: 4, seconds: 300", "trials: 1, seconds: 60, candidates: [careful]")
    path.write_text(re.sub(r"  threshold: [0-9.]+", "  threshold: 0.86", path.read_text(), count=1))
    path.write_text(re.sub("known: unsure", "known: before", path.read_text()))
    change(path, "min_gain: 0.02", "min_gain: 0.0")
    change(path, "true_positive: 0, false_positive: 0", "true_positive: 10, false_positive: -4")
    said = mlloop(project, "check").stdout
    assert "1 candidate, 1 feature, 1 check, 1 business rule, 1 cleaning rule" in said

    done = mlloop(project, "run", "--json", code=(0, 3))
    outcome = json.loads(done.stdout)[0]
    product = lambda stage: json.loads((project / f".mlloop/products/credit/{stage}.json").read_text())
    assert outcome["verdicts"]["need"]["verdict"] in ("yes", "maybe") and "validation" in outcome["verdicts"], (
        done.stderr
    )
    assert (project / "reports/index.html").exists() and (project / "reports/credit/need_gate.html").exists()
    assert product("ingestion")["counts"]["rows"]["rejected"] > 0
    assert any(one["rule"] == "upper" and one["rows"] for one in product("transformation")["changes"])
    assert "low_income" in {one["name"] for one in product("need_gate")["figures"]["contenders"]}
    assert "amount_of_income" in product("features")["features"] and "closed_as" not in product("features")["features"]
    assert product("training")["model"]["name"] == "careful"

    _touched_module_makes_stale_what_depends_on_it(project)
    if outcome["verdicts"]["validation"]["verdict"] == "yes":
        asked = pd.DataFrame(
            {"loan_id": ["9"], "granted": ["2024-09-01"], "amount": [5000.0], "income": [20000.0], "purpose": ["car"]}
        )
        asked.to_csv(project / "asked.csv", index=False)
        answered = mlloop(project, "predict", "asked.csv", "--no-log", "--json")
        assert json.loads(answered.stdout)["answered"] == 1


def _touched_module_makes_stale_what_depends_on_it(project: Path) -> None:
    """After a change of the features' module: features and deployment are stale, the others wait or are fresh."""
    change(project / "credit/features.py", "rows.amount / rows.income", "rows.amount / (rows.income + 1)")
    found = runner.status(*runner.project("credit", project))
    assert {name for name, one in found.items() if one["state"] == "stale"} == {"features", "deployment"}, found
    assert found["transformation"]["state"] == "fresh" and found["exploration"]["state"] == "waiting"
    change(project / "credit/features.py", "rows.amount / (rows.income + 1)", "rows.amount / rows.income")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["regression without time", "recommendation"])
def test_other_kinds_of_question_come_to_a_verdict_as_well(tmp_path, kind):
    r = np.random.default_rng(8)
    if kind == "recommendation":
        user = r.integers(0, 300, 9000)
        when = pd.Timestamp("2025-01-01") + pd.to_timedelta(r.integers(0, 120 * 24, 9000), "h")
        data = pd.DataFrame({"user_id": user, "item_id": (user % 7) * 10 + r.integers(0, 10, 9000), "time": when})
    else:
        data = loans(1500).drop(columns=["granted", "closed_as", "loan_id"])
        data["price"] = data.pop("amount").str.strip("€").astype(float).mul(1.2).round(2) + r.normal(
            0, 100, 1500
        ).round(2)
    data.to_csv(tmp_path / "data.csv", index=False)
    wanted = project_files.ProjectOptions(
        str(tmp_path / "data.csv"), target=None if kind == "recommendation" else "price"
    )
    made = project_files.new(tmp_path / "asked", wanted)
    done = mlloop(made.root, "run", "--json", code=(0, 3))
    outcome = json.loads(done.stdout)[0]
    assert (
        outcome["verdicts"]["need"]["verdict"] in ("yes", "maybe", "no") and (made.root / "reports/index.html").exists()
    )


def test_the_lock_holds_what_extras_bring_as_well(made):
    locked = (made.root / "requirements.lock").read_text()
    assert re.search(r"^pyarrow-hotfix==", locked, re.M) and re.search(r"^duckdb==", locked, re.M)
    assert re.search(r"^pytest==", locked, re.M) and "+cpu" not in locked


def test_the_lock_names_what_the_tests_need_where_it_is_not_installed(monkeypatch):
    find = importlib.metadata.distribution

    def without_pytest(name):
        if name == "pytest":
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.metadata, "distribution", without_pytest)
    assert "pytest" in project_files.locked()


def test_settings_of_a_new_project_are_those_that_ship(made):
    assert settings.load(made.root).kernel_pool == "warm" and extensions.package(made.root) == "credit"
    assert issubclass(UsageError, MlloopError)


def test_a_history_is_left_for_the_loop(tmp_path):
    loans().to_csv(tmp_path / "loans.csv", sep=";", index=False)
    wanted = project_files.ProjectOptions(str(tmp_path / "loans.csv"), target="defaulted", history=90)
    made = project_files.new(tmp_path / "credit", wanted)
    stated = problem.load(made.root / "problems" / "credit.yaml")
    last = pd.to_datetime(loans()["granted"], format="%d.%m.%Y %H:%M").max().normalize() + pd.Timedelta(days=1)
    assert pd.Timestamp(stated.time.as_of) == last - pd.Timedelta(days=90) and made.until == f"{last:%Y-%m-%d}"
    every = stated.retrain.every_days
    assert f"{90 // every} turns of {every} days" in dict(made.notes)["history"]


def test_a_history_that_leaves_nothing_to_learn_from_is_refused(tmp_path):
    loans().to_csv(tmp_path / "loans.csv", sep=";", index=False)
    with pytest.raises(UsageError, match="--history 238 leaves less than 8 of 240 days"):
        project_files.new(
            tmp_path / "credit",
            project_files.ProjectOptions(str(tmp_path / "loans.csv"), target="defaulted", history=238),
        )


@pytest.mark.parametrize(("spelt", "positive"), [("yes", True), ("No", False), ("True", True)])
def test_the_class_that_is_looked_for_may_be_spelt_as_in_the_file(tmp_path, spelt, positive):
    loans(400).to_csv(tmp_path / "loans.csv", index=False)
    options = project_files.ProjectOptions(str(tmp_path / "loans.csv"), target="defaulted", positive=spelt)
    project = project_files.new(tmp_path / "credit", options)
    assert problem.load(project.root / "problems" / "credit.yaml").task.positive is positive
