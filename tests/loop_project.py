"""A small project with the real stages, whose customers change at a known day, and how it is turned."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pandas as pd
from conftest import write_notebook

REPOSITORY = Path(__file__).resolve().parents[1]
REAL = (
    "10_problem", "11_collection", "12_ingestion", "13_transformation", "17_features", "20_training", "21_evaluation",
    "22_validation_gate", "23_deployment",
)  # fmt: skip
VERDICT = {
    "gate": "need",
    "verdict": "yes",
    "deciding": "",
    "reasons": ["asked elsewhere"],
    "evidence": [],
    "must_change": [],
}
NOTHING = {"value": 0.0, "low": 0.0, "high": 0.0, "n": 0}
NEED = {
    "task": "classification", "metric": "roc_auc", "data": {}, "contenders": [], "model": "", "best_rule": "", "best_paying": "",
    "gain": {**NOTHING, "folds": []}, "more_worth": NOTHING, "left_out": [], "timeless": False,
}  # fmt: skip
CANDIDATE = {
    "name": "lightgbm", "kind": "model", "meaning": "", "complexity": 1, "params": {}, "folds": [0.9], "mean": 0.9, "low": 0.88,
    "high": 0.92, "n": 100, "behind": {"value": 0.0, "low": 0.0, "high": 0.0},
}  # fmt: skip
PLAIN = {
    "14_analysis": "save_product(product, stage='analysis', facts={'columns': [], 'rows': 0, 'sampled': 0}, findings=[])",
    "15_visualization": "save_product(product, stage='visualization', facts={'health': []})",
    "16_need_gate": f"save_product(product, stage='need_gate', figures={NEED!r}, verdict={VERDICT!r})",
    "18_exploration": "save_product(product, stage='exploration', metric='ROC AUC', chosen={'name': 'lightgbm', 'params': {}},"
    f" candidates=[{CANDIDATE!r}], trials=[], stopped=[])",
    "19_building": "from mlloop.models.candidates import recipe\nparams = {'n_estimators': 40, 'num_leaves': 7}\n"
    "save_product(product, stage='building', estimator=recipe('lightgbm', params, 0), type='lightgbm.LGBMClassifier')",
}
UPSTREAM = {
    "problem": [], "collection": ["problem"], "ingestion": ["problem", "collection"], "transformation": ["problem", "ingestion"],
    "analysis": ["problem", "transformation"], "visualization": ["problem", "analysis"], "need_gate": ["problem", "transformation"],
    "features": ["problem", "transformation", "need_gate"], "exploration": ["problem", "features"],
    "building": ["problem", "exploration"], "training": ["problem", "features", "building"], "evaluation": ["problem", "features", "training"],
    "validation_gate": ["problem", "exploration", "training", "evaluation"], "deployment": ["problem", "features", "training", "evaluation", "validation_gate"],
}  # fmt: skip
STATEMENT = """\
name: loan
revision: 1
question: Who repays?
decision: Whom to lend to.
task: {kind: classification, table: loans, target: repaid, positive: 1, entity: id}
time: {column: day, as_of: 2025-03-03, holdout_days: 7, folds: 2, fold_days: 7, label_delay_days: 7}
sources: {loans: {kind: files, path: "{root}/loans.csv"}}
tables:
  loans:
    source: loans
    key: [id]
    time: day
    columns:
      id: {type: text, required: true, feature: false}
      day: {type: time, required: true, feature: false}
      amount: {type: number, required: true, min: 0, max: 1000, unit: EUR, meaning: sum asked for}
      age: {type: number, min: 18, max: 120, unit: years, meaning: age}
      town: {type: category, values: [Ely, York, Ulm], meaning: where}
      repaid: {type: integer, known: after}
rules: [{name: small, meaning: lend small sums, score: -amount}]
success: {metric: roc_auc, threshold: 0.55, min_gain: 0.0, max_latency_ms: 1000}
money: {period_days: 7, true_positive: 50, false_positive: -50, per_retraining: 100}
retrain: {every_days: 7, k: 2, n: 3, standard_errors: 2.0, margin: 0.005, min_labelled_rows: 200, cooldown_days: 14, budget_per_year: 6, window_days: 7,
  severe_standard_errors: 100}
canary: {share: 0.5, min_rows: 100, deadline_days: 21, max_loss: 0.02}
"""


def loans(back_at: str | None = None, rows_a_day: int = 120) -> pd.DataFrame:
    """Who repays turns round on 2025-03-03, and, where `back_at` says so, turns back then."""
    rng = np.random.default_rng(7)
    days = pd.date_range("2025-01-20", "2025-05-04", freq="D")
    n = len(days) * rows_a_day
    day = np.repeat(days, rows_a_day) + pd.to_timedelta(
        np.tile(np.arange(rows_a_day) * (86_400 // rows_a_day), len(days)), "s"
    )
    frame = pd.DataFrame({
        "id": [f"L{i}" for i in range(n)], "day": day, "amount": rng.uniform(0, 1000, n).round(2),
        "age": rng.integers(18, 90, n), "town": rng.choice(["Ely", "York", "Ulm"], n),
    })  # fmt: skip
    turned = frame["day"] >= "2025-03-03"
    if back_at:
        turned &= frame["day"] < back_at
    slope = np.where(turned, -0.3, 1.0) * (500 - frame["amount"]) / 150 + 0.6 * (frame["age"] - 50) / 20
    frame["repaid"] = (rng.random(n) < 1 / (1 + np.exp(-slope))).astype(int)
    return frame


def make(root: Path) -> "Loop":
    """The project on disk; nothing has run."""
    (root / "nbs").mkdir(parents=True)
    (root / "problems").mkdir()
    for name in (*REAL, "25_monitoring", "26_retraining"):
        shutil.copy(REPOSITORY / "nbs" / f"{name}.ipynb", root / "nbs")
    for name, work in PLAIN.items():
        write_notebook(root / "nbs" / f"{name}.ipynb", work)
    tasks = []
    for stage, upstream in UPSTREAM.items():
        source = next(p for p in sorted((root / "nbs").iterdir()) if p.stem.partition("_")[2] == stage)
        tasks.append(
            f"  - source: nbs/{source.name}\n    name: {stage}\n" + (f"    upstream: [{', '.join(upstream)}]\n" if upstream else "")
            + f"    product: {{nb: '.mlloop/products/{{{{problem}}}}/{stage}.ipynb', data: '.mlloop/products/{{{{problem}}}}/{stage}.json'}}\n"
            + "    params: {problem: '{{problem}}', as_of: '{{as_of}}', sample: '{{sample}}', seed: '{{seed}}'}\n    static_analysis: disable\n"
            + ("    on_finish: mlloop.pipeline.plan.stop_at_closed_gate\n" if stage.endswith("gate") else "")
        )  # fmt: skip
    (root / "pipeline.yaml").write_text("meta:\n  extract_upstream: False\ntasks:\n" + "".join(tasks))
    (root / "settings.ini").write_text("[kernels]\npool = warm\nkeep_minutes = 2\n")
    (root / "env.yaml").write_text("problem: loan\nas_of: null\nsample: 1.0\nseed: 0\n")
    (root / "problems" / "loan.yaml").write_text(STATEMENT)
    loans().to_csv(root / "loans.csv", index=False)
    return Loop(root)


class Loop:
    """The project and how a scheduler would turn it."""

    def __init__(self, root: Path):
        self.root = root

    def copy(self, root: Path) -> "Loop":
        """The same project elsewhere."""
        shutil.copytree(self.root, root, ignore=shutil.ignore_patterns("kernels*", "*.sock", "run.lock"))
        return Loop(root)

    def mlloop(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        return forked.run(
            [sys.executable, "-m", "mlloop", *arguments],
            cwd=self.root, capture_output=True, text=True, timeout=600, env={**os.environ, "COLUMNS": "200"}, **options,
        )  # fmt: skip

    def json(self, *arguments: str) -> dict:
        done = self.mlloop(*arguments, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def turn(self, *days: str) -> list:
        """Turns in this process, without pages."""
        from mlloop.loop import session as sessions
        from mlloop.loop import turn
        from mlloop.pipeline import runner
        from mlloop.problem import utc

        settings, plan = runner.project("loan", self.root)
        with sessions.opened(settings, plan) as session:
            return [turn.turn(session, utc(day), pages=False) for day in days]

    def killed_turn(self, day: str, word: str, steps: int) -> int:
        """A turn in a process of its own that is killed `steps` writes after it says `word`; its exit status."""
        code = f"import loop_project; loop_project.die({str(self.root)!r}, {day!r}, {word!r}, {steps})"
        done = forked.run(
            [sys.executable, "-c", code], cwd=REPOSITORY / "tests", capture_output=True, text=True, timeout=600
        )
        assert done.returncode in (0, -9), done.stderr
        return done.returncode

    @property
    def ledger(self):
        from mlloop.core import settings
        from mlloop.store.ledger import Ledger

        return Ledger.open(settings.load(self.root))


def actions(loop: Loop) -> list[str]:
    """What the turns so far decided."""
    return [row.subject for row in loop.ledger.rows(kind="retrain") if row.subject != "ended"]


def die(root: str, day: str, word: str, steps: int) -> None:
    """Turn at `day`, and SIGKILL this process before the write number `steps` after the word was said."""
    import signal
    import time

    from mlloop.core.errors import ProjectBusy
    from mlloop.loop import session as sessions
    from mlloop.loop import turn
    from mlloop.pipeline import runner
    from mlloop.problem import utc

    said, left = False, steps

    def watch(now: str) -> None:
        nonlocal said
        said = said or now == word

    def hook(event: str, given) -> None:
        nonlocal left
        writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        if said and (writes or event in ("os.rename", "os.remove", "os.mkdir")):
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    settings, plan = runner.project("loan", root)
    sys.addaudithook(hook)
    for _ in range(100):  # a killed run is over when its kernels are
        try:
            with sessions.opened(settings, plan, watch=watch) as session:
                turn.turn(session, utc(day), pages=False)
            return
        except ProjectBusy:
            time.sleep(0.3)
