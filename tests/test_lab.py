"""`mlloop lab`: its server opens every notebook, and what it saves differs from git only by what a person changed."""

import contextlib
import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(path.relative_to(ROOT) for path in (ROOT / "nbs").rglob("[a-z0-9]*.ipynb"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that `mlloop lab` started on a copy of the project, and the copy."""
    root = tmp_path_factory.mktemp("lab")
    for name in ("settings.ini", "pipeline.yaml", "env.yaml"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "nbs", root / "nbs")
    with running(root) as address:
        yield address, root


@contextlib.contextmanager
def running(root: Path, *options: str):
    """A JupyterLab that `mlloop lab` started in `root`; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = f"lab --no-browser --allow-root --port={port} --IdentityProvider.token= --ServerApp.disable_check_xsrf=True"
    homes = {f"JUPYTER_{name}_DIR": str(root / ".home" / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    with (root / "said.txt").open("wb") as said:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlloop", *words.split(), *options],
            cwd=root, env={**os.environ, **homes}, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip
    try:
        yield _answering(f"http://127.0.0.1:{port}", server)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answering(address: str, server) -> str:
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(OSError):
            ask(f"{address}/api")
            return address
        time.sleep(0.2)
    raise TimeoutError("JupyterLab did not come up")


def ask(url: str, content=None):
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, method="GET" if data is None else "PUT")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def used(notebook: dict) -> dict:
    """A notebook as JupyterLab holds it after somebody ran all of it on its true inputs."""
    notebook = copy.deepcopy(notebook)
    notebook["metadata"] |= {"language_info": {"name": "python", "version": "3.11.7"}, "widgets": {"state": {}}}
    notebook["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    for number, cell in enumerate(notebook["cells"]):
        cell["metadata"] |= {"trusted": True, "execution": {"iopub.status.busy": "2026-01-01T00:00:00Z"}}
        if cell["cell_type"] != "code":
            continue
        cell["execution_count"] = number
        for one in cell["outputs"]:
            if html := one.get("data", {}).get("text/html"):
                one["data"]["text/html"] = "".join(html).replace("T_00000", "T_1a2b3")
            one |= {"execution_count": number} if one["output_type"] == "execute_result" else {}
        warning = {"output_type": "stream", "name": "stderr", "text": "/home/me/x.py:1: Warning\n"}
        cell["outputs"] = [warning, *cell["outputs"]]
        if "".join(cell["source"]).startswith("#| pipeline"):
            result = {"output_type": "execute_result", "data": {"text/plain": "0.9"}, "metadata": {}}
            cell["outputs"] = [result | {"execution_count": number}]
    scratch = {"cell_type": "code", "id": "scratch", "metadata": {}, "outputs": [], "execution_count": 1}
    notebook["cells"].insert(0, scratch | {"source": "%load_ext mlloop\n%mlloop inputs training"})
    notebook["cells"].insert(3, scratch | {"id": "scratch2", "source": "%mlloop run --until features"})
    return notebook


def test_every_notebook_opens(lab):
    address, _ = lab
    for notebook in NOTEBOOKS:
        assert ask(f"{address}/api/contents/{notebook.as_posix()}")["content"]["cells"]


def test_saving_a_notebook_that_was_run_leaves_the_file_as_it_was(lab):
    address, root = lab
    for notebook in NOTEBOOKS:
        url = f"{address}/api/contents/{notebook.as_posix()}"
        ask(url, {"type": "notebook", "format": "json", "content": used(ask(url)["content"])})
        assert (root / notebook).read_bytes() == (ROOT / notebook).read_bytes(), notebook


def test_what_a_person_changed_is_saved(lab):
    address, root = lab
    url = f"{address}/api/contents/nbs/20_training.ipynb"
    content = used(ask(url)["content"])
    lesson = next(c for c in content["cells"] if c["cell_type"] == "code" and not c["source"].startswith(("#|", "%")))
    lesson["source"] += "\n1 + 1"
    lesson["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "said\n"}]
    ask(url, {"type": "notebook", "format": "json", "content": content})
    saved = json.loads((root / "nbs" / "20_training.ipynb").read_text(encoding="utf-8"))
    found = next(cell for cell in saved["cells"] if cell["id"] == lesson["id"])
    assert "".join(found["source"]).endswith("\n1 + 1") and found["outputs"][0]["text"] == ["said\n"]
    shutil.copy(ROOT / "nbs" / "20_training.ipynb", root / "nbs")


def test_other_notebooks_are_saved_as_they_are(lab):
    address, root = lab
    content = used(ask(f"{address}/api/contents/nbs/20_training.ipynb")["content"])
    ask(f"{address}/api/contents/mine.ipynb", {"type": "notebook", "format": "json", "content": content})
    saved = json.loads((root / "mine.ipynb").read_text(encoding="utf-8"))
    assert saved["cells"][0]["source"] == ["%load_ext mlloop\n", "%mlloop inputs training"]
    assert saved["metadata"]["language_info"]["name"] == "python"


def test_nothing_is_fetched_and_nothing_is_complained_of(lab):
    address, root = lab
    settings = ask(f"{address}/lab/api/settings/@jupyterlab/apputils-extension:notification")
    assert settings["schema"]["properties"]["fetchNews"]["default"] == "false"
    said = (root / "said.txt").read_text(encoding="utf-8")
    assert "Overriding existing pre_save_hook" not in said and "migration plan" not in said


def test_no_notebook_names_a_place_on_somebodys_machine():
    for notebook in NOTEBOOKS:
        outputs = [
            o for c in json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"] for o in c.get("outputs", [])
        ]
        assert "site-packages" not in json.dumps(outputs), notebook.name
