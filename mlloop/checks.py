"""What can be found wrong before anything runs."""

import ast
import json
from pathlib import Path

from mlloop import parsing, runner
from mlloop import problem as problems
from mlloop import settings as _settings
from mlloop.errors import SettingsError, StageFailed
from mlloop.settings import Settings


def everything(root: Path | str | None = None) -> list[str]:
    """Check settings, statements, pipeline and notebooks; returns what was found in order, one line each.

    Raises
    ------
    MlloopError
        The first thing that would fail.
    """
    settings = _settings.load(root)
    said = [f"settings.ini: state in {settings.state}, engine {settings.engine}, kernels {settings.kernel_pool}"]
    files = sorted(settings.problems.glob("*.yaml"))
    if not files:
        raise SettingsError(
            "holds no problem statement", str(settings.problems), "Write one, or begin a project: mlloop new DIR"
        )
    for file in files:
        statement = problems.load(file)
        said.append(f"{file.name}: {statement.task.kind}, {len(statement.tables)} tables, {len(statement.rules)} rules")
    _, plan = runner.project(files[0].stem, settings.root)
    runner.check_notebooks(list(plan.tasks.values()))
    gates = ", ".join(task.name for task in plan.tasks.values() if task.is_gate) or "none"
    said.append(f"pipeline.yaml: {len(plan.tasks)} stages, gates: {gates}")
    exported = [out_of_step(task.source, settings) for task in plan.tasks.values()]
    wrong = [one for one in exported if one]
    if wrong:
        raise StageFailed("; ".join(wrong), str(settings.notebooks), "Export them: nbdev-export")
    said.append("notebooks: their modules are what they export")
    return [*said, *_ledger(settings)]


def _ledger(settings: Settings) -> list[str]:
    from mlloop.ledger import Ledger

    head = Ledger.open(settings).verify()
    return [f"ledger: {head.id} decisions, the chain holds"]


def out_of_step(notebook: Path, settings: Settings) -> str | None:
    """What is wrong between a notebook and the module exported from it; None where they agree."""
    cells = [
        "".join(c["source"])
        for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "code"
    ]
    names = [cell.split("default_exp", 1)[1].split()[0] for cell in cells if cell.startswith("#| default_exp")]
    if not names:
        return None
    module = settings.root / "mlloop" / f"{names[0]}.py"
    if not module.exists():
        return (
            None
            if not (settings.root / "mlloop").exists()
            else f"{notebook.name} exports {names[0]}, which is not there"
        )
    wanted = [_body(cell) for cell in cells if cell.startswith("#| export")]
    held = module.read_text(encoding="utf-8")
    parts = [
        _body("\n".join(part.split("\n")[1:])) for part in held.split("\n# %% ")[1:] if not part.startswith("auto")
    ]
    return None if wanted == parts else f"{notebook.name} differs from mlloop/{names[0]}.py"


def _body(source: str) -> str:
    """Code without its directives, imports of the package relative as nbdev writes them."""
    text = "\n".join(line for line in source.split("\n") if not line.startswith("#|"))
    try:
        tree = parsing.tree(text)
    except SyntaxError:
        return text.strip()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "mlloop":
            node.module, node.level = (node.module or "").partition(".")[2] or None, 1
    return ast.dump(tree)
