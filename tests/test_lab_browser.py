"""Each stage notebook in a real JupyterLab, as a person works there: true inputs, all cells, save; git sees nothing.

Minutes, so it is marked slow: `pytest -m slow tests/test_lab_browser.py` after `make run`, whose products it works on.
"""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from browser import PROGRAM, Browser
from test_lab import running

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("[12]*.ipynb"))
TURNED = ROOT / ".mlloop" / "turns" / "shop"
PARTS = ("settings.ini", "pipeline.yaml", "env.yaml", ".gitignore", "problems", "nbs", ".mlloop")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine to open JupyterLab in"),
    pytest.mark.skipif(not TURNED.exists(), reason="no finished run to take inputs from: make run"),
]

LAB = "window.jupyterapp"
PANEL = f"[...{LAB}.shell.widgets('main')][0]"
CELLS = f"{PANEL}.content.model.sharedModel.cells"
KERNEL = f"{PANEL}.sessionContext"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on a copy of the finished run, which git holds as it was, in a browser."""
    root = tmp_path_factory.mktemp("lab")
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "--message=as it was")
    with (
        running(root, "--LabApp.expose_app_in_browser=True") as address,
        Browser(tmp_path_factory.mktemp("profile")) as browser,
    ):
        yield Lab(browser, address, root)


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout


class Lab:
    """What a person does in JupyterLab: open, type, run, look, save."""

    def __init__(self, browser: Browser, address: str, root: Path):
        self.browser, self.address, self.root = browser, address, root

    def open(self, notebook: str) -> None:
        self.browser.ask("Emulation.setFocusEmulationEnabled", enabled=True)
        self.browser.open(f"{self.address}/lab/tree/nbs/{notebook}?reset", width=1440, height=1000)
        self.until(f"{LAB} && {LAB}.shell && {PANEL} && {PANEL}.context && {PANEL}.context.isReady")
        self.until(f"{KERNEL}.session && {KERNEL}.session.kernel && {KERNEL}.session.kernel.status === 'idle'")
        self.browser.run(f"{LAB}.shell.activateById({PANEL}.id)")
        self.until(f"{LAB}.shell.currentWidget === {PANEL}")

    def until(self, script: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not self.browser.run(f"Boolean({script})"):
            assert time.monotonic() < end, script
            time.sleep(0.2)

    def command(self, name: str) -> None:
        self.browser.run(f"{LAB}.commands.execute({name!r}).then(() => true)")

    def run(self, source: str) -> dict:
        """Type into a new first cell and run it; the cell with its outputs."""
        self.browser.run(f"{PANEL}.content.activeCellIndex = 0")
        self.command("notebook:insert-cell-above")
        self.command("notebook:enter-edit-mode")
        self.browser.ask("Input.insertText", text=source)
        self.command("notebook:run-cell")
        self.idle()
        cell = self.cells()[0]
        assert "".join(cell["source"]) == source
        return cell

    def run_all(self) -> None:
        self.command("notebook:run-all-cells")
        self.idle()

    def idle(self) -> None:
        self.until(f"{KERNEL}.session.kernel.status === 'idle'", seconds=600)

    def cells(self) -> list[dict]:
        return json.loads(self.browser.run(f"JSON.stringify({CELLS}.map(cell => cell.toJSON()))"))

    def save(self) -> None:
        self.command("docmanager:save")
        self.until(f"!{PANEL}.context.model.dirty")

    def close(self) -> None:
        self.browser.run(f"{KERNEL}.shutdown().then(() => true)")

    def changed(self) -> str:
        kept = ("--", *(part for part in PARTS if part != ".mlloop"))
        return git(self.root, "status", "--porcelain", *kept) + git(self.root, "diff", *kept)


def said(cell: dict) -> str:
    """What a cell shows, in words: streams, and tables without their tags."""
    streams = [one.get("text", "") for one in cell["outputs"]]
    tables = [one.get("data", {}).get("text/html", "") for one in cell["outputs"]]
    return " ".join(re.sub(r"<[^>]+>", " ", "".join(part)) for part in streams + tables)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stage_runs_on_its_true_inputs_and_leaves_no_noise(lab, notebook):
    name = notebook.stem.partition("_")[2]
    lab.open(notebook.name)
    try:
        if "#| pipeline" in notebook.read_text(encoding="utf-8"):
            given = lab.run(f"%load_ext mlloop\n%mlloop inputs {name}")
            assert f"{name} of shop" in said(given), given["outputs"]
        lab.run_all()
        cells = [cell for cell in lab.cells() if cell["cell_type"] == "code"]
        failed = [(c["source"], o) for c in cells for o in c["outputs"] if o["output_type"] == "error"]
        assert failed == []
        assert all(cell["execution_count"] for cell in cells if "".join(cell["source"]).strip())
        lab.save()
        assert lab.changed() == ""
    finally:
        lab.close()
        git(lab.root, "checkout", "--", "nbs")


DISPLAYS = {
    "from mlloop import problem as problems\nproblems.load('problems/shop.yaml')": [
        "Which ten products",
        "content with",
    ],
    "from mlloop.store.ledger import Ledger\nLedger.open()": ["decisions", "when (UTC)", "Retrain?"],
    "Ledger.open().rows()[0]": ["figure", "interval", "asked", "passed"],
    "from mlloop.products import load_product\nload_product(upstream['validation_gate']['data'])": [
        "validation gate says yes"
    ],
    "load_product(upstream['evaluation']['data'])": ["NDCG", "interval", "popular"],
}


def test_values_of_the_loop_are_shown_as_tables_and_the_command_line_answers(lab):
    lab.open("23_deployment.ipynb")
    try:
        lab.run("%load_ext mlloop\n%mlloop inputs deployment")
        for source, words in DISPLAYS.items():
            shown = said(lab.run(source))
            assert all(word in shown for word in words), (source, shown)
        assert "need gate: yes" in said(lab.run("%mlloop run --until features"))
        assert "features" in said(lab.run("%mlloop status"))
    finally:
        lab.close()
