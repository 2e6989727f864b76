"""A small whole project in a temporary folder: five stages, a gate, a module of its own, a data file."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import forked
import nbformat
import pytest

forked.start_kernels()

LONGEST = (
    "test_turn", "test_turn_fallback", "test_runner", "test_backtest", "test_main_job", "test_docs", "test_monitoring",
    "test_scaffold", "test_deployment", "test_serving", "test_ledger",
)  # fmt: skip
"""Begun first, or one worker would still be at the longest file when the other has nothing left to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


SETTINGS = """\
[kernels]
pool = fresh
"""

ENV = "problem: loan\nas_of: null\nsample: 1.0\nseed: 0\n"

STATEMENT = """\
name: loan
revision: 1
question: Who repays?
decision: Whom to lend to.
task: {kind: classification, table: loans, target: repaid, positive: 1}
sources: {loans: {kind: files, path: "{root}/loans.csv"}}
tables:
  loans:
    source: loans
    columns: {amount: {type: number}, repaid: {type: integer}}
rules: [{name: small, meaning: lend small sums, score: -amount}]
success: {metric: roc_auc, threshold: 0.7}
money: {true_positive: 50, false_positive: -500}
"""

STAGES = {
    "problem": (
        [],
        "from toy.read import statement\nsave_product(product, stage='loan problem', problem=statement(problem), seed=seed)",
    ),
    "collection": (
        ["problem"],
        "from toy.read import amounts\nsave_product(product, stage='loan collection', amounts=amounts('loans.csv'))",
    ),
    "need_gate": (
        ["collection"],
        "from toy.ask import verdict\nfound = load_product(upstream['collection'])['amounts']\n"
        "save_product(product, stage='loan need_gate', verdict=verdict(found))",
    ),
    "training": (
        ["collection", "need_gate"],
        "from toy.fit import mean\nfound = load_product(upstream['collection'])['amounts']\n"
        "save_product(product, stage='loan training', mean=mean(found), tables={'rows': {'rows': len(found)}})",
    ),
    "evaluation": (
        ["training"],
        "save_product(product, stage='loan evaluation', rounded=round(load_product(upstream['training'])['mean']))",
    ),
}

MODULES = {
    "__init__": "",
    "read": '"""Reading."""\n\n\ndef statement(name):\n    """The name."""\n    return name\n\n\n'
    "def amounts(path):\n    return [float(line) for line in open(path).read().split()[1:]]\n",
    "ask": "def verdict(amounts):\n"
    "    enough = len(amounts) >= 3\n"
    "    return {'verdict': 'yes' if enough else 'no', 'reasons': [f'{len(amounts)} rows'],\n"
    "            'evidence': [{'name': 'rows', 'value': len(amounts), 'threshold': 3, 'passed': enough}],\n"
    "            'must_change': [] if enough else [f'needs 3 rows, has {len(amounts)}'], 'deciding': 'rows'}\n",
    "fit": "from .arithmetic import total\n\n\ndef mean(values):\n    return total(values) / len(values)\n",
    "arithmetic": "def total(values):\n    return sum(values)\n",
}


def write_notebook(path: Path, work: str, prose: str = "What this run answers.") -> None:
    """A stage notebook with a Build act of one cell and a Run act of `work`."""
    cells = [
        nbformat.v4.new_markdown_cell(f"# {path.stem}"),
        nbformat.v4.new_code_cell("lesson = 1 + 1\nlesson"),
        nbformat.v4.new_markdown_cell(f"## Run\n\n{prose}"),
        nbformat.v4.new_code_cell(
            "#| pipeline\nupstream = None\nproduct = None\nproblem = 'loan'\nas_of = None\nsample = 1.0\nseed = 0",
            metadata={"tags": ["parameters"]},
        ),
        nbformat.v4.new_code_cell("#| pipeline\nfrom mlloop.products import load_product, save_product"),
        nbformat.v4.new_code_cell(f"#| pipeline\n{work}"),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
        ),
        path,
    )


class Project:
    """A project on disk and how a person would use it."""

    def __init__(self, root: Path):
        self.root = root

    def mlloop(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        """Run the command line in the project."""
        return forked.run(
            [sys.executable, "-m", "mlloop", *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=600,
            env=self.environment,
            **options,
        )

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start the command line in the project, in a session of its own."""
        return forked.Popen(
            [sys.executable, "-m", "mlloop", *arguments],
            cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment, start_new_session=True,
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "COLUMNS": "200"}

    def run(self, *arguments: str) -> dict:
        """`mlloop run --json`: its outcome."""
        done = self.mlloop("run", "--json", *arguments)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)[0]

    def write(self, path: str, text: str) -> None:
        (self.root / path).write_text(text)

    def change(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def product(self, stage: str) -> dict:
        return json.loads((self.root / f".mlloop/products/loan/{stage}.json").read_text())

    def products(self) -> dict[str, str]:
        """Every product's content by name."""
        folder = self.root / ".mlloop/products/loan"
        return {path.name: path.read_text() for path in sorted(folder.iterdir())}


@pytest.fixture
def project(tmp_path) -> Project:
    """A project of five stages; nothing has run."""
    write_project(tmp_path / "loans")
    return Project(tmp_path / "loans")


def write_project(root: Path) -> None:
    """Write the files of the project of five stages."""
    for folder in ("nbs", "problems", "toy"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    tasks = []
    for number, (name, (upstream, work)) in enumerate(STAGES.items(), start=10):
        write_notebook(root / f"nbs/{number}_{name}.ipynb", work)
        tasks.append(
            f"  - source: nbs/{number}_{name}.ipynb\n    name: {name}\n"
            + (f"    upstream: [{', '.join(upstream)}]\n" if upstream else "")
            + f"    product: {{nb: '.mlloop/products/{{{{problem}}}}/{name}.ipynb', data: '.mlloop/products/{{{{problem}}}}/{name}.json'}}\n"
            + "    params: {problem: '{{problem}}', as_of: '{{as_of}}', sample: '{{sample}}', seed: '{{seed}}'}\n"
            + "    static_analysis: disable\n"
            + ("    on_finish: mlloop.pipeline.plan.stop_at_closed_gate\n" if name.endswith("gate") else "")
        )
    files = {
        "settings.ini": SETTINGS, "env.yaml": ENV, "problems/loan.yaml": STATEMENT, "loans.csv": "amount\n1\n2\n6\n",
        "pipeline.yaml": "meta:\n  extract_upstream: False\ntasks:\n" + "".join(tasks),
        "requirements.lock": "pandas==2.3.3\n",
        **{f"toy/{name}.py": text for name, text in MODULES.items()},
    }  # fmt: skip
    for path, text in files.items():
        (root / path).write_text(text)


def _postgres_programs() -> Path | None:
    """Where initdb and pg_ctl of the newest Postgres lie."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    found = [f for f in folders if (f / "initdb").exists() and (f / "pg_ctl").exists()]
    on_path = shutil.which("pg_ctl")
    return found[-1] if found else Path(on_path).parent if on_path and shutil.which("initdb") else None


@pytest.fixture(scope="session")
def postgres():
    """The URL of a real, empty Postgres: MLLOOP_TEST_POSTGRES, or a server of our own where it is installed."""
    with postgres_server() as url:
        if url is None:
            pytest.skip("no Postgres is installed or starts here, and MLLOOP_TEST_POSTGRES names none")
        yield url


@contextlib.contextmanager
def postgres_server():
    """The URL of a Postgres for as long as the block lasts; None where there is none."""
    if given := os.environ.get("MLLOOP_TEST_POSTGRES"):
        yield given
        return
    programs = _postgres_programs()
    if programs is None:
        yield None
        return
    # Postgres refuses to run as root
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="mlloop-pg-"))
    folder.chmod(0o777)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ask = lambda *words: subprocess.run([*as_user, *words], cwd=folder, capture_output=True, text=True, timeout=120)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        made = ask(str(programs / "initdb"), "-D", f"{folder}/data", "-A", "trust", "-U", "mlloop", "-E", "UTF8")
        begun = ask(
            str(programs / "pg_ctl"), "-D", f"{folder}/data", "-l", f"{folder}/log", "-w", "-o", options, "start"
        )
        yield None if made.returncode or begun.returncode else f"postgresql://mlloop@127.0.0.1:{port}/postgres"
    finally:
        ask(str(programs / "pg_ctl"), "-D", f"{folder}/data", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
