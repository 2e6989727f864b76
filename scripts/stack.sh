#!/usr/bin/env bash
# Try what stands beside a team's own stack in the real programs: stack.sh BIN [tests ...]
# Debian's programs come by apt-get where this is root; environments and npm packages are the tests' own. A test without
# its program is skipped and says why.
set -euo pipefail
bin=$1
shift
wanted=()
for program in prometheus prometheus-alertmanager rsync git; do  # named as their packages
    command -v "$program" >/dev/null || wanted+=("$program")
done
if [ ${#wanted[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "stack: apt-get install ${wanted[*]}"
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${wanted[@]}"; } >/dev/null || true
fi
# an object store for the broker, and the schemas of Kubernetes; nothing of the lock changes
add=("$bin/python" -m pip install --quiet --disable-pip-version-check)
[ ! -x "$bin/uv" ] || add=(env "VIRTUAL_ENV=$(cd "$bin/.." && pwd)" "$bin/uv" pip install --quiet)
"${add[@]}" -c requirements.lock 'moto[s3,server]>=5.2' 'kubernetes-validate>=1.37' importlib-resources || true
export MLLOOP_TEST_ENVIRONMENTS=${MLLOOP_TEST_ENVIRONMENTS:-$PWD/.stack}
mkdir -p "$MLLOOP_TEST_ENVIRONMENTS"
[ $# -gt 0 ] || set -- airflow alerting commit dagster dvc expectations kafka kubernetes mlflow_server pipelines pyfunc
files=("${@/#/tests/test_}")
"$bin/python" -m pytest -m 'slow or not slow' -rs --durations=15 "${files[@]/%/.py}"
