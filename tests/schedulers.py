"""A project of four problems for tests of schedulers, and a program that stands in for mlloop and ends as a table says."""

import stat
import sys
from pathlib import Path

from mlloop.core.settings import load
from mlloop.export import exporters

PROBLEMS = ["typo", "worse", "done", "fine"]
STATEMENT = """\
name: {name}
revision: 1
question: Who repays?
decision: Whom to lend to.
task: {{kind: classification, table: loans, target: repaid, positive: 1}}
sources: {{loans: {{kind: files, path: "loans.csv"}}}}
tables: {{loans: {{source: loans, columns: {{amount: {{type: number}}, repaid: {{type: integer}}}}}}}}
rules: [{{name: small, meaning: lend small sums, score: -amount}}]
success: {{metric: roc_auc, threshold: 0.7}}
money: {{true_positive: 50, false_positive: -500}}
"""
STAGES = """\
tasks:
  - {name: collection, source: nbs/a.ipynb}
  - {name: need_gate, source: nbs/b.ipynb, upstream: [collection]}
  - {name: training, source: nbs/c.ipynb, upstream: [collection, need_gate]}
"""
# stands in for mlloop: says what it was called with, and ends as the table tells for the problem and the step
STAND_IN = """\
#!{python}
import json, sys
words = sys.argv[1:]
option = lambda name: words[words.index(name) + 1] if name in words else ""
problem, step = option("--problem"), option("--until")
with open({log!r}, "a") as log:
    log.write(" ".join(words) + "\\n")
code = {codes!r}.get((problem, words[0], step), 0)
verdict = "yes" if problem == "worse" else "no"
turn = {{"at": "2026-01-05T00:00:00", "fresh": problem == "done", "verdict": verdict, "said": "labels show it worse"}}
print(json.dumps(turn if words[0] == "tick" else []))
sys.exit(code)
"""
CODES = {
    ("worse", "tick", "canary"): 4,  # a fallback; the steps after it have nothing to tell
    ("typo", "tick", "collect"): 2,
    ("typo", "run", "need_gate"): 3,
}


def exported(root: Path, name: str, file: str, codes=None) -> tuple[Path, Path]:
    """Make the project at `root` and its export `name` at `file`; returns the program that stands in, and its log of calls."""
    (root / "problems").mkdir(parents=True)
    for problem in PROBLEMS:
        (root / "problems" / f"{problem}.yaml").write_text(STATEMENT.format(name=problem))
    (root / "settings.ini").touch()
    (root / "pipeline.yaml").write_text(STAGES)
    command, log = root / "mlloop", root / "calls"
    command.write_text(STAND_IN.format(python=sys.executable, log=str(log), codes=codes or CODES))
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    content = exporters.files(name, load(root), PROBLEMS, {"command": str(command), "schedule": "0 6 * * 1"})
    exporters.write(name, content, root / file)
    return command, log
