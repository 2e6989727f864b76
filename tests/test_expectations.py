"""Contracts as suites of Great Expectations: the verdict on rows is pandera's, and the exported checkpoint says so of the lake."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from environments import beside

from mlloop import problem as problems
from mlloop.core.settings import load
from mlloop.data import expectations
from mlloop.export import exporters
from mlloop.store.lake import Lake

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("great-expectations==1.24.1", "altair==6.3.0", "marshmallow==4.4.0")


@pytest.fixture(scope="module")
def call():
    """Run Python beside Great Expectations."""
    path = beside("great-expectations", *PACKAGES)
    environ = {**os.environ, "PYTHONPATH": path, "GX_ANALYTICS_ENABLED": "false"}
    return lambda *words, **options: subprocess.run(
        [sys.executable, *map(str, words)], env=environ, capture_output=True, text=True, timeout=1500, **options
    )


def test_a_suite_says_of_each_column_what_its_contract_says():
    table = problems.load(ROOT / "problems" / "shop.yaml").tables["clicks"]
    suite = expectations.suite("shop.clicks", table)
    of = lambda column: {
        one["type"].removeprefix("expect_column_values_to_"): {k: v for k, v in one["kwargs"].items() if k != "column"}
        for one in suite["expectations"]
        if one["kwargs"]["column"] == column
    }
    assert of("event") == {
        "be_of_type": {"type_": "str"},
        "not_be_null": {},
        "be_in_set": {"value_set": ["view", "cart"]},
    }
    assert of("dwell_s") == {"be_of_type": {"type_": "float64"}, "be_between": {"min_value": 0, "max_value": 3600}}


@pytest.mark.slow
def test_the_verdict_on_rows_is_that_of_pandera_for_every_contract(call):
    done = call("-m", "verdicts", ROOT / "problems", cwd=ROOT / "tests")
    assert done.returncode == 0, done.stdout + done.stderr
    compared, refused = map(int, done.stdout.split())
    assert compared > 150 and refused > 40


@pytest.mark.slow
def test_ingestion_by_great_expectations_keeps_the_same_rows(call, project):
    project.write("loans.csv", "amount,repaid\n1,1\n2,x\n3,0\n")
    code = "import mlloop; from mlloop.ingestion import ingest_table, RawFile; from mlloop.store.lake import Lake; import datetime as dt\n"
    code += "from pathlib import Path; project = mlloop.open(); statement = project.statement('loan')\n"
    code += "raw = RawFile(Path('loans.csv'), 'csv', 'loans.csv', statement.sources['loans'])\n"
    code += "for engine in ('pandera', 'great_expectations'):\n"
    code += "    done = ingest_table(Lake(engine), 'loan/loans', statement.tables['loans'], [raw], ['a'], dt.datetime(2030, 1, 1), engine=engine)\n"
    code += "    print(done.counts, done.table.digest)\n"
    done = call("-c", code, cwd=project.root)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second and "'kept': 2, 'rejected': 1" in first


@pytest.mark.slow
def test_the_checkpoint_checks_the_lake_and_its_pages_fetch_nothing(call, project):
    settings = load(project.root)
    lake = Lake(settings)
    lake.write("loan/loans", pd.DataFrame({"amount": [1.0, None], "repaid": [1, 0]}))
    content = exporters.files("great-expectations", settings, ["loan"], {})
    out = project.root / "deploy/great-expectations"
    exporters.write("great-expectations", content, out)
    assert json.loads(content["suites/loan.loans.json"])["name"] == "loan.loans"
    done = call(out / "checkpoint.py")
    assert done.returncode == 0 and "loan.loans: fits its contract" in done.stdout, done.stderr
    lake.write("loan/loans", pd.DataFrame({"amount": ["many"], "repaid": [1]}), "overwrite")
    moved = project.root.with_name("moved")  # as a clone lies elsewhere
    project.root.rename(moved)
    checkpoint, docs = moved / "deploy/great-expectations/checkpoint.py", moved / "reports/great_expectations"
    done = call(checkpoint)
    assert done.returncode == 1 and "loan.loans: BREAKS its contract" in done.stdout, done.stderr
    pages = set(docs.rglob("*.html"))
    fetched = r"""(?:src=|<link[^>]*href=|url\()["']?(?:https?:)?//[^"')]*"""
    assert not [hit for page in pages for hit in re.findall(fetched, page.read_text(encoding="utf-8"))]
    # without the scripts that fill its tables, the first page still leads to the suite and to the result
    index = (docs / "index.html").read_text(encoding="utf-8")
    assert {docs / link for link in re.findall(r'<td><a href="([^"]+)">', index)} == pages - {docs / "index.html"}
    assert len(pages) == 3 and "Failed" in index
    shutil.rmtree(moved / ".mlloop")
    for words, message in ((["loan.loan"], "known: loan.loans"), ([], "mlloop run --problem loan --until ingestion")):
        done = call(checkpoint, *words)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
