"""What goes wrong on a user's side, tried with the command line: what is said, how it exits, and that nothing is half-written.

A gate without a verdict is in test_runner.py, which has cheaper notebooks; files that cannot be read in test_collection.py.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from mlloop.cli import app
from mlloop.core import settings
from mlloop.kernels import execute
from mlloop.store.lake import Lake, TableRef

REPO = Path(__file__).parent.parent

STATEMENT = """\
name: loan
question: Who repays a loan?
decision: Whom to lend to.
task: {kind: classification, table: loans, target: repaid, positive: 1, entity: loan_id}
time: {column: lent_at, as_of: 2025-07-01, holdout_days: 28, folds: 2, fold_days: 28}
sources: {loans: {kind: files, path: "{root}/loans.csv"}}
tables:
  loans:
    source: loans
    key: [loan_id]
    time: lent_at
    columns:
      loan_id: {type: integer, required: true, feature: false}
      lent_at: {type: time, required: true, feature: false}
      amount: {type: number, min: 0, max: 100000}
      term: {type: number}
      town: {type: category}
      repaid: {type: integer, required: true, values: ["0", "1"], known: after}
rules: [{name: small, meaning: lend small sums, score: -amount}]
success: {metric: roc_auc, threshold: 0.7}
money: {true_positive: 50, false_positive: -200, decisions_per_period: 100, period_days: 28, ml_per_period: 10}
need: {min_rows: 100, min_positives: 20}
"""


def loans(n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    at = pd.Timestamp("2025-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 181 * 86400, n)), unit="s")
    columns = {
        "loan_id": range(1, n + 1),
        "lent_at": at,
        "amount": rng.integers(100, 5000, n),
        "term": rng.integers(3, 60, n),
    }
    return pd.DataFrame(columns | {"town": rng.choice(["Bend", "Gary"], n), "repaid": rng.integers(0, 2, n)})


@dataclass
class Said:
    """What a command wrote and how it ended."""

    code: int
    out: str


class Small:
    """A small project with the true notebooks of the data stages, whose kernels stay warm from one case to the next."""

    def __init__(self, root: Path):
        self.root = root
        for name in ("settings.ini", "pipeline.yaml", "requirements.lock"):
            shutil.copy(REPO / name, root)
        (root / "env.yaml").write_text("problem: loan\nas_of: null\nsample: 1.0\nseed: 0\n")
        self.fix()

    def fix(self) -> None:
        """Back to a sound project in which nothing has run."""
        for folder in ("problems", "nbs"):
            shutil.rmtree(self.root / folder, ignore_errors=True)
        shutil.copytree(REPO / "nbs", self.root / "nbs")
        (self.root / "problems").mkdir()
        (self.root / "problems/loan.yaml").write_text(STATEMENT)
        loans().to_csv(self.root / "loans.csv", index=False)
        for folder in ("products", "records", "raw", "lake", "failed"):
            shutil.rmtree(self.root / ".mlloop" / folder, ignore_errors=True)

    def mlloop(self, *arguments: str) -> Said:
        """Run the command line, in this process since its imports cost more than its work."""
        written, before, argv = io.StringIO(), Path.cwd(), sys.argv
        try:
            os.chdir(self.root)
            sys.argv = ["mlloop", *arguments]
            with (
                contextlib.redirect_stdout(written),
                contextlib.redirect_stderr(written),
                pytest.raises(SystemExit) as ended,
            ):
                app.main()
        finally:
            os.chdir(before)
            sys.argv = argv
        return Said(int(ended.value.code or 0), written.getvalue())

    def half_written(self) -> list[str]:
        return [str(p.relative_to(self.root)) for p in (self.root / ".mlloop").rglob("*.part*")]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    project = Small(tmp_path_factory.mktemp("small"))
    yield project
    execute.stop(settings.load(project.root))


def rewrite(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Small], None]:
    return lambda project: change(loans()).to_csv(project.root / "loans.csv", index=False)


def content(change: Callable[[str], str | bytes]) -> Callable[[Small], None]:
    def write(project: Small) -> None:
        new = change((project.root / "loans.csv").read_text())
        (project.root / "loans.csv").write_bytes(new if isinstance(new, bytes) else new.encode())

    return write


def statement(old: str, new: str) -> Callable[[Small], None]:
    def write(project: Small) -> None:
        assert old in STATEMENT
        (project.root / "problems/loan.yaml").write_text(STATEMENT.replace(old, new))

    return write


def failing_cell(project: Small) -> None:
    path = project.root / "nbs/12_ingestion.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[-1].source = "#| pipeline\nnot_defined_anywhere"
    nbformat.write(notebook, path)


@dataclass
class Case:
    """One bad input: how it comes about, how the run ends, what is said, and what the next step is."""

    make: Callable[[Small], None]
    code: int
    said: str
    step: str
    run: tuple[str, ...] = ("--until", "ingestion")
    untouched: tuple[str, ...] = field(default=("ingestion",))


TRANSFORM = ("--until", "transformation")
CASES = {
    "a missing file": Case(
        lambda p: (p.root / "loans.csv").unlink(),
        2,
        "loans.csv: no file matches (the folder holds",
        "Put the file there",
    ),
    "an empty file": Case(content(lambda text: ""), 2, "is empty: no row in any file", "Fetch it again"),
    "a header and no row": Case(
        content(lambda text: text.splitlines()[0]), 2, "is empty: no row in any file", "Fetch it again"
    ),
    "another encoding": Case(
        content(lambda text: text.replace("loan_id", "loan_ıd").encode("utf-16")),
        2,
        "is not UTF-8",
        "Declare its encoding",
    ),
    "a column name twice": Case(
        content(lambda text: text.replace("term", "amount", 1)),
        2,
        "has the column 'amount' twice",
        "Rename one in the file",
    ),
    "no row that fits": Case(
        rewrite(lambda rows: rows.rename(columns={"lent_at": "lend_at"})),
        2,
        "'lend_at' looks like it: was it renamed?",
        "Fix the table",
    ),
    "a target that is not there": Case(
        statement("target: repaid", "target: payed"),
        2,
        "loan.yaml:4: target 'payed' is not a column of table 'loans'",
        "Fix the file",
        untouched=("problem",),
    ),
    "a target of one class": Case(
        rewrite(lambda rows: rows.assign(repaid=1)),
        2,
        "target 'repaid' has one value only ('1')",
        "Ask for rows of other kinds",
        TRANSFORM,
        ("transformation",),
    ),
    "an unknown key": Case(
        statement("threshold", "treshold"),
        2,
        "loan.yaml:20: success.treshold: unknown key 'treshold'",
        "Fix the file",
        untouched=("problem",),
    ),
    "an impossible threshold": Case(
        statement("threshold: 0.7", "threshold: 1.7"),
        2,
        "loan.yaml:20: success.threshold 1.7 can never be met",
        "Fix the file",
        untouched=("problem",),
    ),
    "an unknown parameter": Case(
        lambda p: None,
        2,
        "no parameter 'sede' (known: problem, as_of, sample, seed). Did you mean 'seed'?",
        "Declare it in env.yaml",
        ("--set", "sede=1"),
        ("problem",),
    ),
    "a notebook that is none": Case(
        lambda p: (p.root / "nbs/12_ingestion.ipynb").write_text("{"),
        1,
        "nbs/12_ingestion.ipynb: not a notebook",
        "Restore it",
        untouched=("problem",),
    ),
    "a notebook whose cell fails": Case(
        failing_cell,
        1,
        "raised NameError: name 'not_defined_anywhere' is not defined",
        "mlloop debug ingestion",
        untouched=("ingestion",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_with_its_next_step_and_leaves_nothing_half_written(small, name):
    case = CASES[name]
    small.fix()
    case.make(small)
    done = small.mlloop("run", *case.run)
    assert done.code == case.code, done.out
    assert case.said in done.out and case.step in done.out and "mlloop" in done.out, done.out
    assert "Traceback" not in done.out and "a fault of mlloop" not in done.out
    assert not small.half_written()
    assert not [s for s in case.untouched if (small.root / f".mlloop/products/loan/{s}.json").exists()]


def mixed_dates(rows: pd.DataFrame) -> pd.DataFrame:
    text = rows.lent_at.dt.strftime("%Y-%m-%d %H:%M:%S")
    return rows.assign(lent_at=text.mask(rows.index % 10 == 0, rows.lent_at.dt.strftime("%d/%m/%Y")))


def spoilt(project: Small) -> None:
    """Seven infinities, thirty dates in another format, two ragged lines and a cell of ten megabytes, in one file."""
    rows = mixed_dates(loans())
    rows = rows.assign(term=rows.term.astype(float).mask(rows.index.isin(range(1, 8)), np.inf))
    ragged = f"301,2025-01-01,5\n302,2025-01-01,5,6,Bend,1,9,9\n303,2025-01-01,5,6,{'x' * 10_000_000},1\n"
    (project.root / "loans.csv").write_text(rows.to_csv(index=False) + ragged)


def test_bad_rows_are_set_aside_with_their_reason_and_the_run_goes_on(small):
    small.fix()
    spoilt(small)
    done = small.mlloop("run", "--until", "ingestion")
    assert done.code == 0, done.out
    product = json.loads((small.root / ".mlloop/products/loan/ingestion.json").read_text())
    assert product["counts"]["loans"] == {"read": 303, "kept": 263, "rejected": 40, "duplicates": 0}
    reasons = (
        Lake(settings.load(small.root)).on_duckdb().read(TableRef(**product["rejected"]["loans"])).reason.to_pandas()
    )
    assert reasons.value_counts().to_dict() == {
        "lent_at is not a time as declared (default: ISO 8601)": 30,
        "term is not a finite number": 7,
        "line has fewer columns than the header": 1,
        "line has more columns than the header": 1,
        "line is longer than 8 MB": 1,
    }


def test_a_column_of_one_value_goes_through_and_is_named(small):
    small.fix()
    rewrite(lambda rows: rows.assign(town="Bend"))(small)
    done = small.mlloop("run", "--until", "analysis")
    assert done.code == 0, done.out
    findings = json.loads((small.root / ".mlloop/products/loan/analysis.json").read_text())["findings"]
    assert "town: one value only, nothing to learn." in findings


def unshared(shell: str) -> subprocess.CompletedProcess:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here (unshare -rm)")
    return subprocess.run(["unshare", "-rm", "sh", "-c", shell], capture_output=True, text=True, check=False)


def test_a_full_disk_and_a_folder_without_permission_are_told(small):
    small.fix()
    pd.concat([loans()] * 60).to_csv(small.root / "loans.csv", index=False)
    fresh = f"MLLOOP_KERNELS_POOL=fresh {sys.executable} -m mlloop"
    full = unshared(
        f"cd {small.root} && mount -t tmpfs -o size=600k none .mlloop && {fresh} run --until ingestion; echo exit $?; find .mlloop -name '*.part*'"
    )
    assert "cannot be written: No space left on device" in full.stderr and "Make room" in full.stderr, full.stderr
    assert full.stdout.endswith("exit 1\n") and "Traceback" not in full.stderr
    closed = unshared(
        f"mount --bind {small.root} {small.root} && mount -o remount,ro,bind {small.root} && cd {small.root} && {fresh} run; echo exit $?"
    )
    assert "cannot be written: Read-only file system" in closed.stderr and "give permission" in closed.stderr
    assert closed.stdout.endswith("exit 1\n") and "Traceback" not in closed.stderr
