"""Thousands of requests made by schemathesis out of the service's own description, for three kinds of problem at once.

    python benchmarks/hostile_requests.py --requests 10000

A classification, a recommendation and a regression are in production in one project, and one service answers for all.
Schemathesis reads the description and sends what fits it and what does not: its examples, its coverage of each rule of
the schema, random values, and sequences of calls whose later ones use what earlier ones answered (its stateful mode).
Seed after seed follows until so many requests were answered. Then it must hold: no answer was a server's error or of a
form that the description does not have, the service is ready, it wrote no traceback and no flood of lines, and the
prediction log has a row for each prediction that was answered.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import httpx
import production
import yaml

from mlloop import problem as problems
from mlloop.data import loan_example
from mlloop.models import candidates
from mlloop.store import prediction_log

HOUSE = loan_example.merged(
    yaml.safe_load(production.LOAN),
    {
        "name": "house",
        "question": "What does a house cost?",
        "decision": "What to offer.",
        "task": {"kind": "regression", "target": "price", "positive": None},
        "tables": {"loans": {"columns": {"repaid": None, "price": {"type": "number", "known": "after"}}}},
        "rules": [{"name": "size", "meaning": "the larger the dearer", "score": "amount"}],
        "success": {"metric": "mae", "threshold": 100},
        "money": {"true_positive": None, "false_positive": None},
    },
)
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def project(root: Path) -> production.Production:
    """A project with a model of each kind in production."""
    made = production.Production(root, make=True)
    (root / "problems/house.yaml").write_text(yaml.safe_dump(HOUSE))
    house = problems.load(root / "problems/house.yaml")
    X, y = made.rows[production.FEATURES], made.rows["amount"] * 0.3 + made.rows["repaid"] * 50
    fitted = candidates.build("linear", house.task, 0, {}).fit(X.iloc[:800], y.iloc[:800])
    made.deploy(made.train())
    made.deploy(made.train_shop(), made.shop)
    made.deploy(made._judged(house, "linear", fitted, made.rows.iloc[800:], production.FEATURES), house)
    return made


def counted(metrics: str) -> dict[str, int]:
    """Requests by status, as the service counts them."""
    found: dict[str, int] = {}
    for labels, value in re.findall(r"^mlloop_requests_total\{([^}]*)\} ([0-9.e+]+)", metrics, re.MULTILINE):
        status = re.search(r'status="(\d+)"', labels)
        found[status[1] if status else "?"] = found.get(status[1] if status else "?", 0) + int(float(value))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began, wrong = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        made = project(Path(folder) / "project")
        with made.serve() as running:
            program = str(Path(sys.executable).with_name("schemathesis"))
            seed, answered = options.seed, 0
            while answered < options.requests and not wrong:
                done = subprocess.run(
                    [program, "run", f"{running.url}/openapi.json", "--max-examples", "150", "--checks", CHECKS, "--mode", "all",
                     "--phases", "examples,coverage,fuzzing,stateful", "--generation-database", "none", "--no-color",
                     "--seed", str(seed), "--continue-on-failure"],
                    capture_output=True, text=True, cwd=folder, env=production.environment(),
                )  # fmt: skip
                statuses = counted(httpx.get(f"{running.url}/metrics", trust_env=False).text)
                answered, before, seed = sum(statuses.values()), answered, seed + 1
                print(
                    f"seed {seed - 1}: {answered:,} requests, by status {statuses}, {time.monotonic() - began:.0f} s",
                    flush=True,
                )
                if done.returncode or answered == before:
                    wrong.append(f"schemathesis: exit {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-500:]}")
                elif seed == options.seed + 1:
                    print("\n".join(line for line in done.stdout.splitlines() if "tateful" in line or "hases" in line))
            errors = {status: n for status, n in statuses.items() if status.startswith("5")}
            wrong += [f"server errors: {errors}"] if errors else []
            ready = httpx.get(f"{running.url}/ready", trust_env=False).json()
            wrong += [] if ready["ready"] else [f"not ready: {ready}"]
            ok = int(statuses.get("200", 0))
        rows = {
            name: len(prediction_log.read(prediction_log.folder_of(made.settings, name))) for name in ready["problems"]
        }
        said = running.errors.read_text()
        wrong += [f"the service wrote: {said[:1000]}"] if "Traceback" in said or len(said.splitlines()) > 20 else []
        wrong += [f"{ok} answers, {rows} rows in the prediction log"] if sum(rows.values()) < ok else []
    print(
        f"{answered:,} requests, {ok:,} answered with 200, rows in the prediction log: {rows}; {'; '.join(wrong) or 'holds'}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
