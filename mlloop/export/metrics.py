"""What a batch command knows, in Prometheus' text format: model health, performance, drift, feed, lag, decisions, canary.

The service answers /metrics itself; this is for what has no server: a file for the textfile collector of node_exporter,
written on demand by `mlloop metrics` or by each turn ([metrics] textfile of settings.ini).
"""

import contextlib
import datetime as dt
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mlloop import problem as problems
from mlloop import products
from mlloop.core import clock, metric_table, revisions, storage
from mlloop.core.errors import MlloopError, UsageError
from mlloop.core.settings import Settings
from mlloop.monitors import periods
from mlloop.pages import against_target, problem_view
from mlloop.problem import Problem
from mlloop.products import Monitoring, Realised
from mlloop.store.ledger import Ledger, Row

HEALTH = ("ok", "watch", "worse", "feed broken", "not enough rows")
GAUGES = {
    "health": ("1 for the state that the last monitored period found, 0 for the others.", ["state"]),
    "model_info": ("1 for the models in production.", ["role", "model"]),
    "fallback": ("1 while a rule, an earlier model or a refused challenger answers.", ["to"]),
    "performance_realised": ("The metric on the newest period with labels.", ["metric", "model"]),
    "performance_realised_low": ("Lower end of its interval.", ["metric", "model"]),
    "performance_realised_high": ("Upper end of its interval.", ["metric", "model"]),
    "performance_target": ("The target of the problem statement.", ["metric"]),
    "performance_target_missed": ("1 where the whole interval of the realised figure misses the target.", ["metric"]),
    "performance_estimated": ("The metric as estimated without labels, where that is reliable.", ["metric", "model"]),
    "performance_reference": ("The metric in the model's own holdout period.", ["metric", "model"]),
    "rule_gain": ("How much better the best rule did on the same rows; below 0 the model is better.", ["rule"]),
    "drift_distance": ("Distance of a column's distribution from the reference.", ["column"]),
    "drift_columns": ("Columns that drifted.", []),
    "feed_broken": ("1 where the feed of the period is broken.", []),
    "feed_findings": ("What is wrong with the feed of the period, counted by table.", ["table"]),
    "feed_rows": ("Rows of a table in the period.", ["table"]),
    "period_predictions": ("Predictions in the period.", []),
    "period_prediction_errors_ratio": ("Share of the predictions in the period that failed.", []),
    "monitored_until_timestamp_seconds": ("End of the newest monitored period.", []),
    "labelled_until_timestamp_seconds": ("End of the newest period with labels.", []),
    "latency_limit_seconds": ("How long a prediction may take by the problem statement.", []),
    "turn_due_timestamp_seconds": ("When the next turn of the loop is due.", []),
    "canary_deadline_timestamp_seconds": ("When the canary ends at the latest; absent without one.", ["model"]),
}


@dataclass(eq=False)
class Figures:
    """The metric families of all problems, filled problem by problem."""

    families: dict[str, Metric] = field(default_factory=dict)

    def set(self, name: str, problem: str, value: float | None, *labels: str) -> None:
        """Add a sample of a gauge; None is left out."""
        if value is None:
            return
        text, more = GAUGES[name]
        family = self.families.setdefault(name, GaugeMetricFamily(f"mlloop_{name}", text, labels=["problem", *more]))
        assert isinstance(family, GaugeMetricFamily)
        family.add_metric([problem, *labels], float(value))

    def count(self, problem: str, rows: Iterable[Row]) -> None:
        """Add the decisions in the ledger, which only grow in number."""
        labels = ["problem", "kind", "subject", "verdict"]
        family = self.families.setdefault(
            "decisions", CounterMetricFamily("mlloop_decisions", "Decisions in the ledger.", labels=labels)
        )
        assert isinstance(family, CounterMetricFamily)
        # the subject of some decisions is a model: one series for each would never end
        subject = lambda row: row.subject if row.kind in ("gate", "canary", "retrain", "update") else ""
        for key, n in sorted(Counter((row.kind, subject(row), row.verdict or "") for row in rows).items()):
            family.add_metric([problem, *key], n)

    def collect(self) -> Iterable[Metric]:
        """For a registry of prometheus_client."""
        return self.families.values()


def text(settings: Settings, names: Sequence[str] | None = None) -> str:
    """The figures of the problems (default: all) in Prometheus' text format.

    Raises
    ------
    MlloopError
        The ledger, a statement or a product cannot be read.
    """
    figures, registry = Figures(), CollectorRegistry(auto_describe=False)
    ledger = Ledger.open(settings) if Ledger.is_there(settings) else None
    for name in names or problem_view.names(settings):
        statement = problems.load(problems.find(revisions.meant(settings, name), settings.problems))
        looks = monitored(settings, revisions.current(settings, name))
        limit = statement.success.max_latency_ms
        figures.set("latency_limit_seconds", statement.name, limit / 1000 if limit else None)
        if looks:
            _period(figures, statement.name, looks[-1])
            _performance(figures, statement, looks)
        if ledger is not None:
            _decisions(figures, statement, ledger)
    stamp = GaugeMetricFamily("mlloop_metrics_written_timestamp_seconds", "When this was written.")
    stamp.add_metric([], clock.now().replace(tzinfo=dt.UTC).timestamp())
    figures.families["written"] = stamp
    registry.register(figures)
    return generate_latest(registry).decode()


def write(settings: Settings, path: Path) -> Path:
    """Write the figures of all problems for the textfile collector, whole or not at all, and readable by its user.

    Raises
    ------
    UsageError
        The file does not end in .prom, so that the collector would not read it.
    """
    if path.suffix != ".prom":
        raise UsageError(
            "the textfile collector reads only files that end in .prom", str(path), "Example: mlloop metrics --textfile mlloop.prom"
        )  # fmt: skip
    storage.write_text(path, text(settings))
    path.chmod(0o644)
    return path


def on_turn(settings: Settings) -> None:
    """Write the file that settings.ini names, after a command that may have changed a figure; none where it names none."""
    if settings.metrics_textfile is not None:
        write(settings, settings.metrics_textfile)


def monitored(settings: Settings, problem: str) -> list[Monitoring]:
    """The products of monitoring of the problem's newest periods, the oldest first; those that cannot be read are left out."""
    figures: list[Monitoring] = []
    for path in sorted((settings.state / "monitoring" / problem).glob("[!.]*.json"))[-against_target.LAST :]:
        with contextlib.suppress(MlloopError):
            product = products.read_kept(path)
            figures += [product] if isinstance(product, Monitoring) else []
    return figures


def _seconds(moment: dt.datetime | str) -> float:
    """A moment of the project, which is UTC without a zone, as Unix time."""
    return problems.utc(moment).replace(tzinfo=dt.UTC).timestamp()


def _period(figures: Figures, problem: str, last: Monitoring) -> None:
    """What the newest monitored period showed."""
    for state in HEALTH:
        figures.set("health", problem, last.health == state, state)
    figures.set("monitored_until_timestamp_seconds", problem, _seconds(last.period.until))
    figures.set("period_predictions", problem, last.rows)
    figures.set("period_prediction_errors_ratio", problem, last.errors.share)
    figures.set("feed_broken", problem, last.feed.status == "broken")
    findings = Counter(finding.table for finding in last.feed.findings)
    for table, rows in last.feed.rows.items():
        figures.set("feed_rows", problem, rows, table)
        figures.set("feed_findings", problem, findings.pop(table, 0), table)
    for table, n in findings.items():
        figures.set("feed_findings", problem, n, table)
    figures.set("drift_columns", problem, sum(column.alert for column in last.drift.columns))
    for column in last.drift.columns:
        figures.set("drift_distance", problem, column.value, column.name)


def _performance(figures: Figures, statement: Problem, looks: Sequence[Monitoring]) -> None:
    """The newest realised figure, what is estimated since, and what either is held against."""
    name, metric, last = statement.name, statement.success.metric, looks[-1]
    figures.set("performance_target", name, statement.success.threshold, metric)
    if last.estimated.trusted:
        figures.set("performance_estimated", name, last.estimated.value, metric, last.model[:12])
    figures.set("performance_reference", name, last.estimated.reference.value, metric, last.model[:12])
    known = [figure for figure in against_target.realised(looks) if figure.value is not None]
    if known:
        _realised(figures, statement, known[-1])


def _realised(figures: Figures, statement: Problem, newest: Realised) -> None:
    name, metric = statement.name, metric_table.metric(statement.success.metric)
    for suffix, value in (("", newest.value), ("_low", newest.low), ("_high", newest.high)):
        figures.set(f"performance_realised{suffix}", name, value, metric.name, newest.model[:12])
    best = newest.high if metric.higher_is_better else newest.low
    if best is not None:
        missed = not metric.meets(best, statement.success.threshold)
        figures.set("performance_target_missed", name, missed, metric.name)
    figures.set("labelled_until_timestamp_seconds", name, _seconds(newest.period.until))
    rules = [(other.gain, other.name) for other in newest.others if other.kind == "rule" and other.gain is not None]
    if rules:
        figures.set("rule_gain", name, *max(rules))


def _decisions(figures: Figures, statement: Problem, ledger: Ledger) -> None:
    """What the ledger says: who is in production, what was decided, when the next turn is due."""
    name, rows = statement.name, ledger.rows(problem=statement.name)
    champion, canary = ledger.champion(name), ledger.canary(name)
    figures.count(name, rows)
    for role, row in (("champion", champion), ("canary", canary)):
        if row is not None:
            figures.set("model_info", name, 1, role, str(row.model)[:12])
    fell_to = champion.details.get("to") if champion and champion.kind == "fallback" else None
    for to in ("rule", "former", "challenger"):
        figures.set("fallback", name, fell_to == to, to)
    if canary is not None and canary.details.get("deadline"):
        deadline = _seconds(str(canary.details["deadline"]))
        figures.set("canary_deadline_timestamp_seconds", name, deadline, str(canary.model)[:12])
    if champion is not None:
        decided = [row for row in rows if row.kind == "retrain" and row.subject != "ended" and row.details.get("as_of")]
        turns = [problems.utc(str(row.details["as_of"])) for row in decided if not row.details.get("by_person")]
        last = max(turns, default=None) or periods.start(statement, ledger)
        figures.set("turn_due_timestamp_seconds", name, _seconds(last + periods.step(statement)))
