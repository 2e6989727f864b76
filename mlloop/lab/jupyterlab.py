"""JupyterLab on the project, and a stage's notebook with its true inputs filled in."""

import os
import subprocess
import sys
from pathlib import Path

from mlloop import products
from mlloop.core import storage
from mlloop.core.errors import UsageError
from mlloop.core.records import Parameters
from mlloop.core.settings import Settings
from mlloop.pipeline import runner
from mlloop.pipeline.plan import Plan, Task

CONFIG = """# Written by mlloop. Ploomber's server extension breaks the opening of every notebook in JupyterLab 4.
import warnings

from mlloop.lab.saving import before_saving

warnings.filterwarnings("ignore", "Overriding existing pre_save_hook")
c = get_config()
c.ServerApp.jpserver_extensions = {
    "ploomber": False, "ploomber_extension": False, "jupyterlab_jupytext": False, "nbclassic": False, "jupyterlab": True
}
c.ContentsManager.pre_save_hook = before_saving  # stage notebooks are saved without what a kernel left in them
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
"""
# JupyterLab asks on its first start whether it may fetch news; here it may not, so it does not ask
OVERRIDES = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}


def start(settings: Settings, arguments: list[str]) -> int:
    """Run JupyterLab in the project's root until it is stopped; returns its exit code."""
    folder = settings.state / "jupyter"
    config = storage.write_text(folder / "jupyter_server_config.py", CONFIG)
    storage.write_json(folder / "labconfig" / "default_setting_overrides.json", OVERRIDES)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--config={config}",
        f"--ServerApp.root_dir={settings.root}",
        *arguments,
    ]
    paths = [str(folder), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    environment = {"MLLOOP_PROJECT": str(settings.root), "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}
    return subprocess.call(command, cwd=settings.root, env={**os.environ, **environment})


def inputs(settings: Settings, plan: Plan, task: Task) -> Parameters:
    """What a run would give a stage, with its product led to a place for trying, away from the pipeline's own."""
    folder = settings.state / "debug" / plan.problem
    return {
        **runner.injected(plan, task),
        "product": {name: str(folder / path.name) for name, path in task.products.items()},
    }


def turn_inputs(settings: Settings, plan: Plan, stage: str) -> Parameters:
    """What the last turn of the loop gave serving, monitoring or retraining, which are no tasks of the pipeline.

    Raises
    ------
    UsageError
        It has not turned yet.
    """
    folder, state = settings.state / "debug" / plan.problem, settings.state
    product = {"data": str(folder / f"{stage}.json"), "nb": str(folder / f"{stage}.ipynb")}
    values = {**plan.parameters, "problem": plan.problem, "upstream": None, "product": product}
    if stage == "serving":
        return values
    kind = {"monitoring": "monitoring/{}/[0-9]*.json", "retraining": "turns/{}/*/decision.json"}[stage]
    kept = sorted(state.glob(kind.format(plan.problem)))
    if not kept:
        raise UsageError(f"{stage} has not run for {plan.problem}", "", f"Run it: mlloop tick --problem {plan.problem}")
    if stage == "monitoring":
        monitored = products.read_kept(kept[-1])
        return values | {"as_of": monitored.as_of if isinstance(monitored, products.Monitoring) else None}
    history = storage.read_json(kept[-1])["history"]
    return values | {"upstream": {"decision": str(kept[-1]), "history": history}}


def with_inputs(settings: Settings, plan: Plan, task: Task) -> Path:
    """Write a copy of a stage's notebook whose parameters are those of the pipeline; returns its path."""
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    values = inputs(settings, plan, task)
    notebook = parameterize_notebook(load_notebook_node(str(task.source)), values, report_mode=False)
    notebook.metadata.pop("papermill", None)
    folder = f"import os\n\nos.chdir({str(settings.root)!r})  # where a run works"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(folder, id="where-a-run-works"))
    path = settings.state / "debug" / plan.problem / f"{task.name}.ipynb"
    with storage.atomic_path(path) as beside:
        nbformat.write(notebook, beside)
    return path
