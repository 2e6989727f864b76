"""JupyterLab on the project, and a stage's notebook with its true inputs filled in."""

import os
import subprocess
import sys
from pathlib import Path

from mlloop import runner, storage
from mlloop.plan import Plan, Task
from mlloop.settings import Settings

CONFIG = """# Written by mlloop. Ploomber's server extension breaks the opening of every notebook in JupyterLab 4.
c = get_config()
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


def with_inputs(settings: Settings, plan: Plan, task: Task) -> Path:
    """Write a copy of a stage's notebook whose parameters are those of the pipeline; returns its path.

    Its product goes beside the copy, so that trying things never touches the pipeline's own.
    """
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    folder = settings.state / "debug" / plan.problem
    given = runner.injected(plan, task)
    given["product"] = {name: str(folder / place.name) for name, place in task.products.items()}
    notebook = parameterize_notebook(load_notebook_node(str(task.source)), given, report_mode=False)
    notebook.metadata.pop("papermill", None)
    path = folder / f"{task.name}.ipynb"
    with storage.atomic_path(path) as beside:
        nbformat.write(notebook, beside)
    return path
