#!/usr/bin/env bash
# Make the virtual environment from the exact lock: setup.sh PYTHON VENV
set -euo pipefail
python=$1 venv=$2
if ! command -v "$python" >/dev/null; then
    for other in python3.11 python3.12 python3 python; do
        if command -v "$other" >/dev/null && "$other" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'; then
            python=$other
            break
        fi
    done
fi
if ! command -v "$python" >/dev/null; then
    echo "setup: Python 3.11 or 3.12 was not found. Install it, or name it: make PYTHON=/path/to/python3.11" >&2
    exit 2
fi
echo "setup: $("$python" --version) in $venv, $(grep -c == requirements.lock) packages (a few GB; some minutes the first time)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
bin=$venv/bin
"$bin/python" -m pip install --quiet --disable-pip-version-check uv 2>/dev/null || true
# uv does not read pip's settings: hand over a folder of wheels where pip is told of one
links=$("$bin/python" -m pip config get global.find-links 2>/dev/null || "$bin/python" -m pip config get :env:.find-links 2>/dev/null || true)
if [ -x "$bin/uv" ]; then
    VIRTUAL_ENV=$venv "$bin/uv" pip install --quiet --compile-bytecode ${links:+--find-links "$links"} -r requirements.lock
    VIRTUAL_ENV=$venv "$bin/uv" pip install --quiet --no-deps --editable .
else
    "$bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.lock
    "$bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
fi
