"""What is installed from a wheel works from any folder, and the loop works with the network away."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_holds_every_module_and_page_template(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "mlloop", source / "mlloop", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "nbs", source / "nbs")
    shutil.copytree(ROOT / "scripts", source / "scripts")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(tmp_path),
        ".",
    ]
    subprocess.run(build, cwd=source, check=True, capture_output=True, env={**os.environ, "PIP_NO_INDEX": "1"})
    (wheel,) = tmp_path.glob("mlloop-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    files = [p for p in (ROOT / "mlloop").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {p.relative_to(ROOT).as_posix() for p in files} <= held
    stages = {p.name for p in (ROOT / "nbs").glob("[12]*.ipynb")}
    assert {f"mlloop/scaffold/stages/{name}" for name in stages} <= held  # a new project gets its notebooks from here
    place = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(place)
    code = "import mlloop.cli.app, mlloop.pipeline.runner, mlloop.problem; print(mlloop.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(place)},
    )
    assert done.stdout.startswith(str(place)), done.stderr
    assert (place / "mlloop/scaffold/template/pipeline.yaml").read_text() == (ROOT / "pipeline.yaml").read_text()


def without_network() -> list[str]:
    """The words before a command that take its network away; the test skips where that is not allowed."""
    words = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("unshare cannot make a network namespace here")
    return words


def test_a_run_needs_no_network(project):
    command = [*without_network(), sys.executable, "-m", "mlloop", "run"]
    for pool in ("warm", "fresh"):
        environment = {**project.environment, "MLLOOP_KERNELS_POOL": pool, "MLLOOP_KERNELS_KEEP_MINUTES": "0.05"}
        done = subprocess.run(
            [*command, "--force"], cwd=project.root, capture_output=True, text=True, timeout=800, env=environment
        )
        assert done.returncode == 0, done.stderr
