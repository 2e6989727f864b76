"""JupyterLab on the project, and a stage's notebook with its true inputs filled in."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlloop import runner, storage
from mlloop.plan import Plan, Task
from mlloop.settings import Settings

CONFIG = """# Written by mlloop. Ploomber's server extension breaks the opening of every notebook in JupyterLab 4.
from mlloop.saving import before_saving

c = get_config()
c.ContentsManager.pre_save_hook = before_saving  # stage notebooks are saved without what a kernel left in them
c.ServerApp.jpserver_extensions = {"ploomber": False, "ploomber_extension": False, "jupyterlab": True}
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
"""


def start(settings: Settings, arguments: list[str]) -> int:
    """Run JupyterLab in the project's root until it is stopped; returns its exit code."""
    config = storage.write_text(settings.state / "jupyter" / "jupyter_server_config.py", CONFIG)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--config={config}",
        f"--ServerApp.root_dir={settings.root}",
        *arguments,
    ]
    return subprocess.call(command, cwd=settings.root, env={**os.environ, "MLLOOP_PROJECT": str(settings.root)})


def inputs(settings: Settings, plan: Plan, task: Task) -> dict[str, Any]:
    """What a run would give a stage, with its product led to a place for trying, away from the pipeline's own."""
    folder = settings.state / "debug" / plan.problem
    return {
        **runner.injected(plan, task),
        "product": {name: str(folder / place.name) for name, place in task.products.items()},
    }


def with_inputs(settings: Settings, plan: Plan, task: Task) -> Path:
    """Write a copy of a stage's notebook whose parameters are those of the pipeline; returns its path."""
    import nbformat
    from papermill.parameterize import parameterize_notebook

    given = inputs(settings, plan, task)
    notebook = parameterize_notebook(nbformat.read(task.source, as_version=4), given, report_mode=False)
    notebook.metadata.pop("papermill", None)
    path = settings.state / "debug" / plan.problem / f"{task.name}.ipynb"
    with storage.atomic_path(path) as beside:
        nbformat.write(notebook, beside)
    return path
