"""Programs that are no dependency of ours, each in an environment that a test makes for itself and skips without.

MLLOOP_TEST_ENVIRONMENTS names a folder in which the environments are kept from one run to the next.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest


def environment(name: str, *packages: str) -> Path:
    """The bin folder of a virtual environment that holds `packages`; skips the test where they cannot be had."""
    home = os.environ.get("MLLOOP_TEST_ENVIRONMENTS")
    folder = Path(home) / name if home else Path(tempfile.mkdtemp(prefix=f"mlloop-{name}-"))
    ready = folder / ".ready"
    if ready.exists() and ready.read_text() == "\n".join(packages):
        return folder / "bin"
    uv = shutil.which("uv")
    make = [uv, "venv", "--clear", "--python", sys.executable] if uv else [sys.executable, "-m", "venv", "--clear"]
    install = [uv, "pip", "install", "--python", f"{folder}/bin/python"] if uv else [f"{folder}/bin/pip", "install"]
    for words in ([*make, str(folder)], [*install, "--quiet", *packages]):
        done = subprocess.run(words, capture_output=True, text=True, timeout=1800)
        if done.returncode:
            pytest.skip(f"no environment with {', '.join(packages)}: {done.stderr.strip().splitlines()[-1:]}")
    ready.write_text("\n".join(packages))
    return folder / "bin"


def beside(name: str, *packages: str) -> str:
    """A PYTHONPATH on which `packages` stand beside those of this environment; skips the test where they cannot be had."""
    home = os.environ.get("MLLOOP_TEST_ENVIRONMENTS") or tempfile.mkdtemp(prefix="mlloop-")
    folder = Path(home) / f"beside-{name}"
    if not (folder / ".ready").exists():
        uv = shutil.which("uv")
        install = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
        done = subprocess.run(
            [*install, "--quiet", "--no-deps", "--target", str(folder), *packages],
            capture_output=True,
            text=True,
            timeout=900,
        )
        if done.returncode:
            pytest.skip(f"{', '.join(packages)} cannot be had: {done.stderr.strip().splitlines()[-1:]}")
        (folder / ".ready").touch()
    root = Path(__file__).resolve().parents[1]
    return os.pathsep.join(map(str, (root, root / "tests", folder)))


def program(*names: str) -> str:
    """The path of the first program of these names that is installed; skips the test where none is."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"{' or '.join(names)} is not installed")
    return found
