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


def program(*names: str) -> str:
    """The path of the first program of these names that is installed; skips the test where none is."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"{' or '.join(names)} is not installed")
    return found
