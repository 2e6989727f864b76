"""Figures, verdicts and findings as people read them, made of what products hold."""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypedDict, TypeVar

from mlloop import products
from mlloop.core import formatting, metric_table
from mlloop.core.formatting import number
from mlloop.core.records import JsonObject
from mlloop.core.verdict import figure_name
from mlloop.pages import diagrams
from mlloop.problem import Problem, group_label

Row = TypeVar("Row")

# what a template reads by name: its facts, texts and drawings
View: TypeAlias = dict[str, Any]


class EvidenceView(TypedDict):
    """One piece of evidence: the texts of its figures, where they lie, and a sentence."""

    name: str
    value: str
    unit: str
    within: str
    threshold: str
    passed: bool | None
    line: Any
    sentence: str


class VerdictView(TypedDict):
    """A gate's verdict; `deciding`: the evidence that decided."""

    gate: str
    verdict: str
    reasons: list[str]
    must_change: list[str]
    evidence: list[EvidenceView]
    deciding: EvidenceView | None


class DecisionView(TypedDict):
    """A row of the ledger; `at` is where its data stood, `decided_at` when it was decided ('' where they are one)."""

    id: int
    at: str
    decided_at: str
    kind: str
    subject: str
    what: str
    change: str
    action: str
    mark: str
    verdict: str | None
    reasons: list[str]
    evidence: list[EvidenceView]
    deciding: str
    actor: str
    model: str | None
    was: str
    stands_in: str
    who: str
    revision: Any


class FoldedView(TypedDict):
    """The newest decisions in pieces, see `folded`."""

    parts: list[list[DecisionView]]
    older: list[list[DecisionView]]
    left: int
    upkeep: int


class CountsView(TypedDict):
    """Rows of a table at ingestion, and whether they add up."""

    table: str
    read: int
    kept: int
    rejected: int
    duplicates: int
    adds_up: bool


class JudgedView(TypedDict):
    """What an evaluation showed, as tables."""

    metrics: list[JsonObject]
    slices: list[JsonObject]
    contenders: list[JsonObject]
    latency_ms: float | None
    parts: int | None
    threshold: str


class TableView(TypedDict):
    """A table: its columns (name, whether it holds numbers), and its rows as texts."""

    columns: list[tuple[str, bool]]
    rows: list[list[Any]]


GAIN = "the model's gain over it"
FIRST = ["name", "column", "slice", "group", "level", "metric", "value", "interval", "unit", "n"]


def seconds(value: Any) -> str:
    """A time taken, in seconds, for a column that says so."""
    return formatting.duration(value).removesuffix(" s")


def moment(value: Any) -> str:
    """A time to the minute, UTC; a date where the time is midnight."""
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            return value
    if not isinstance(value, dt.datetime):
        return "–" if value is None else str(value)
    return f"{value:%Y-%m-%d}" if value.time() == dt.time() else f"{value:%Y-%m-%d %H:%M}"


def within(row: Mapping[str, Any]) -> str:
    return span(row.get("low"), row.get("high"))


def span(low: float | None, high: float | None) -> str:
    """An interval; '–' where there is none."""
    return formatting.interval(low, high)


def mirrored(low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """The interval of the same difference seen from the other side."""
    return None if high is None else -high, None if low is None else -low


def both_clocks(stood: str, decided: str) -> str:
    """A moment by both clocks, each named: where the data stood, and when it was decided."""
    return f"{stood} in the data (decided {decided} UTC)"


def evidence(figure: Mapping[str, Any]) -> EvidenceView:
    """One piece of evidence, ready to show: the texts of its figures and where they lie."""
    real = lambda key: (
        figure.get(key) if isinstance(figure.get(key), (int, float)) and not isinstance(figure.get(key), bool) else None
    )
    value, low, high, threshold = (real(key) for key in ("value", "low", "high", "threshold"))
    shown, target = formatting.apart(figure.get("value"), figure.get("threshold"))
    inside = span(low, high)
    unit, name = str(figure.get("unit") or ""), str(figure.get("name") or "")
    passed = figure.get("passed")
    called = figure_name(name.replace("_", " "))
    sentence = f"{called} {shown}{' ' + unit if unit and unit != called else ''}"
    sentence = f"{unit} {shown}" if name == "threshold met" and unit else sentence
    sentence += f" ({inside})" if inside != "–" else ""
    sentence += f", target {target}" if threshold is not None else ""
    return {
        "name": name.replace("_", " "),
        "value": shown,
        "unit": unit,
        "within": inside,
        "threshold": target,
        "passed": passed if isinstance(passed, bool) else None,
        "line": diagrams.interval(value, low, high, threshold),
        "sentence": sentence,
    }


def verdict(gate_verdict: products.Verdict) -> VerdictView:
    """A gate's verdict, ready to show."""
    figures = [evidence(figure.model_dump()) for figure in gate_verdict.evidence]
    deciding = gate_verdict.deciding.replace("_", " ")
    return {
        "gate": gate_verdict.gate,
        "verdict": gate_verdict.verdict,
        "reasons": gate_verdict.reasons,
        "must_change": gate_verdict.must_change,
        "evidence": figures,
        "deciding": next((e for e in figures if e["name"] == deciding and e["value"] != "–"), None),
    }


ACTIONS = {
    "nothing": ("nothing to do", "fresh"),
    "watch": ("being watched", "watch"),
    "retrain": ("retraining", "stale"),
    "recalibrate": ("recalibrated", "watch"),
    "feed broken": ("feed broken: fix it", "failed"),
    "cooldown": ("waits: cooldown", "waiting"),
    "not yet": ("waits: new labels could not change the No", "waiting"),
    "budget": ("waits: budget spent", "waiting"),
    "not enough labels": ("waits for labels", "waiting"),
    "waiting for canary": ("waits for the canary", "waiting"),
    "no champion": ("nothing to monitor", "missing"),
    "not enough rows": ("too few rows", "missing"),
    "no figure yet": ("no label yet", "missing"),
    "not worth it": ("not worth its cost", "fresh"),
    "failed twice": ("waits for a person: two challengers failed in canary", "failed"),
    "ended": ("retrained", "fresh"),
}
KINDS = {
    "promotion": "Promoted",
    "rollback": "Rolled back",
    "fallback": "Fell back to the best there is",
    "revision": "New revision of the statement",
    "update": "Updated histories and counts",
    "alert": "Alert",
    "erasure": "A person's rows erased",
}
CANARY = {
    "started": "Canary started",
    "promoted": "Canary ended: promoted",
    "rolled_back": "Canary ended: rolled back",
}


OUTCOMES = {
    "canary": "the new model is in canary",
    "champion": "the new model was promoted",
    "trained": "a new model was trained",
    "gate said no": "the gate said No to the new model",
    "gate said maybe": "the gate said Maybe to the new model",
    "failed": "failed",
}


def decision(kind: str, subject: str, action: str = "", outcome: str = "") -> str:
    """A row of the ledger in a few words."""
    if kind == "retrain" and action == "ended":
        return f"Retrained: {OUTCOMES.get(outcome, outcome or 'done')}"
    if kind == "alert":
        return {"ended": "Alert over", "delivered": "Alert delivered"}.get(subject, "Alert")
    if kind == "canary":
        return CANARY.get(subject, f"Canary {subject}".strip())
    if kind == "retrain" and action == "retrain":
        return "Retrain? Yes"
    if kind == "retrain":
        return f"Retrain? {ACTIONS.get(action, (action, ''))[0].capitalize()}"
    if kind == "gate":
        return f"{subject} gate".strip().capitalize()
    if kind == "update" and subject == "calibration":
        return "Recalibrated"
    if kind == "update" and subject == "withheld":
        return "Columns with a broken feed"
    return KINDS.get(kind, f"{subject} {kind}".strip().capitalize())


SHOWN = 8


def is_quiet(kind: str, subject: str, verdict: str | None) -> bool:
    """Whether a decision changed nothing: a turn of the loop that neither retrained nor ended a retraining."""
    return kind == "retrain" and verdict != "yes" and subject != "ended"


def runs(rows: Iterable[Row], is_alike: Callable[[Row, Row], bool]) -> list[list[Row]]:
    """The rows in order, neighbours that are alike in one piece."""
    parts: list[list[Row]] = []
    for row in rows:
        if parts and is_alike(parts[-1][-1], row):
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def is_upkeep(kind: str, subject: str) -> bool:
    """Whether a row only says that a model's histories and counts were brought up to date: every turn has some."""
    return kind == "update" and subject == "counts"


def folded(timeline: list[DecisionView], most: int = 100) -> FoldedView:
    """The newest decisions with runs of uneventful looks in one piece, and without upkeep.

    Returns
    -------
    dict
        'parts': lists of decisions; one of more than one holds looks that changed nothing. 'older': the same of those
        before the newest eight. 'left': how many decisions before them are left out. 'upkeep': how many updates of histories
        and counts. A canary's end is told by the promotion that it led to.
    """
    upkeep = sum(is_upkeep(row["kind"], row.get("subject", "")) for row in timeline)
    timeline = [row for row in timeline if not is_upkeep(row["kind"], row.get("subject", ""))]
    parts: list[list[DecisionView]] = []
    quiet = lambda row: is_quiet(row["kind"], row.get("subject", ""), row["verdict"])
    for row in timeline[:most]:
        above = parts[-1][0] if parts else None
        ends_canary = row.get("what") == CANARY["promoted"]
        if above and above["kind"] == "promotion" and ends_canary and row["model"] == above["model"]:
            parts[-1] = [{**above, "what": "Promoted after its canary"}]
        elif above and quiet(row) and quiet(above) and above["action"] == row["action"]:
            parts[-1].append(row)
        else:
            parts.append([row])
    return {"parts": parts[:SHOWN], "older": parts[SHOWN:], "left": max(0, len(timeline) - most), "upkeep": upkeep}


def would_change(statement: Problem | None, production: Mapping[str, Any], canary: Mapping[str, Any]) -> list[str]:
    """What would change who answers, as the problem statement has it, in sentences."""
    if statement is None or not production:
        return []
    retrain, trial, metric = statement.retrain, statement.canary, metric_table.title(statement.success.metric)
    loss = f"no worse by more than {number(trial.max_loss)} in {metric}" if trial.max_loss else "no worse"
    if canary:
        share = _share(canary["share"]) or "a share"
        on = (
            f"The canary {str(canary['model'])[:12]} serves {share} of the requests since {canary['since']}. It is "
            f"promoted if it is {loss}; otherwise it is rolled back, on {canary['until']} at the latest."
        )
    else:
        on = (
            f"A new model that passes the validation gate serves {_share(trial.share)} of the requests, for "
            f"{number(trial.deadline_days, 'days')} at most. It is promoted after {number(trial.min_rows)} "
            f"predictions if it is {loss}."
        )
    margin = f" and by {number(retrain.margin)} in {metric}" if retrain.margin else ""
    days = retrain.backstop_days
    backstop = f", and in any case when the model is {number(days, 'days')} old" if days else ""
    return [
        on,
        f"The model is retrained when {retrain.k} of the last {retrain.n} periods (one every "
        f"{number(retrain.every_days, 'days')}), the newest included, are worse than its reference by "
        f"{number(retrain.standard_errors)} standard errors{margin}{backstop}. It is never retrained on broken data, at most "
        f"{number(retrain.budget_per_year)} times a year, and {number(retrain.cooldown_days, 'days')} after the last at "
        "the earliest.",
    ]


BRIEF = {
    "worse than reference": "worse",
    "too few rows": "not known yet",
    "not known yet": "not known yet",
    "waits for the canary": "canary running",
    "waits: cooldown": "cooldown",
    "waits: budget spent": "budget spent",
    "waits for labels": "awaits labels",
    "feed broken: fix it": "feed broken",
    "waits for a stale stage": "waits",
    "not monitored yet": "not monitored",
    "not worth its cost": "not worth it",
    "waits for a person: two challengers failed in canary": "needs a person",
}


def brief(word: str) -> str:
    """A state in at most fifteen letters, for a box of the drawing."""
    return BRIEF.get(word, word)


def _share(value: Any) -> str:
    return formatting.percent(value) if isinstance(value, float) and 0 <= value <= 1 else ""


def finding(product: products.Product) -> str:
    """A sentence made of the figures in a stage's product; '' where it makes none."""
    sentence = _FINDINGS.get(type(product))
    return product.finding or (sentence(product) if sentence else "")


def _collected(p: products.Collection) -> str:
    rows = sum(batch.rows for source in p.batches.values() for batch in source)
    return f"{rows:,} raw rows from {len(p.batches)} source{'s' if len(p.batches) != 1 else ''}."


def _ingested(p: products.Ingestion) -> str:
    total = {key: sum(getattr(count, key) for count in p.counts.values()) for key in products.Counts.model_fields}
    return "{read:,} rows read: {kept:,} kept, {rejected:,} rejected with a reason, {duplicates:,} duplicates.".format(
        **total
    )


def _explored(p: products.Exploration) -> str:
    best = next(c for c in p.candidates if c.name == p.chosen.name)
    return f"{best.name} is selected from {len(p.candidates)}: {number(best.mean)} ({span(best.low, best.high)})."


def _trained(p: products.Training) -> str:
    t = p.trained
    period = f", {moment(t.since)} to {moment(t.until)}" if t.until else ""
    return f"{p.model.name} was trained on {t.rows:,} rows{period}."


def _evaluated(p: products.Evaluation) -> str:
    first = p.metrics[0]
    inside = f" ({span(first.low, first.high)})" if first.low is not None else ""
    return f"{first.name.replace('_', ' ')} {number(first.value)}{inside} {'in cross-validation' if p.parts else 'on the holdout period'}."


def _windows(p: products.Transformation) -> str:
    if p.windows is None:
        return "The rows have no time: a random fifth of them is the holdout."
    w = p.windows
    start, end, held, until = (moment(at) for at in (w.since, w.train_until, w.holdout_from, w.holdout_until))
    return f"Training data from {start} until {end}; holdout from {held} until {until}."


def _first_reason(p: products.NeedGate | products.ValidationGate) -> str:
    return p.verdict.reasons[0] if p.verdict.reasons else ""


_FINDINGS: dict[type[products.Product], Callable[[Any], str]] = {
    products.Statement: lambda p: p.problem.question,
    products.Collection: _collected,
    products.Ingestion: _ingested,
    products.Transformation: _windows,
    products.NeedGate: _first_reason,
    products.Features: lambda p: f"{len(p.catalogue):,} features, each known before the moment it is used.",
    products.Exploration: _explored,
    products.Building: lambda p: f"{p.estimator.name}, not yet trained.",
    products.Training: _trained,
    products.Evaluation: _evaluated,
    products.ValidationGate: _first_reason,
}


def counts(ingestion: products.Ingestion | None) -> list[CountsView]:
    """Rows read, kept, rejected and duplicate of each table, and whether they add up."""
    return [
        {
            "table": table,
            "read": n.read,
            "kept": n.kept,
            "rejected": n.rejected,
            "duplicates": n.duplicates,
            "adds_up": n.read == n.kept + n.rejected + n.duplicates,
        }
        for table, n in (ingestion.counts if ingestion else {}).items()
    ]


def tables(product: products.Product | None) -> list[products.Table]:
    """The versions of tables that a product cites."""
    cited = getattr(product, "tables", {}).values()
    return [table for table in cited if isinstance(table, products.Table)]


def _close(a: Any, b: Any) -> bool:
    """Whether two figures are one, but for the order in which they were summed up."""
    return isinstance(a, (int, float)) and isinstance(b, (int, float)) and abs(a - b) <= 1e-9 * max(1.0, abs(a))


def metrics_of(evaluation: products.Evaluation) -> list[products.NamedEstimate]:
    """The metrics of the holdout; that of the gate with its own interval, from which another method's is slightly off."""
    main = evaluation.main
    return [
        figure.model_copy(update={"low": main.low, "high": main.high}) if _close(figure.value, main.value) else figure
        for figure in evaluation.metrics
    ]


def judged(evaluation: products.Evaluation, statement: Problem | None = None) -> JudgedView:
    """What the holdout period, or cross-validation in `parts`, showed, as tables: metrics, slices, contenders and the latency's figure.

    Parameters
    ----------
    statement : Problem, optional
        Whose meanings and labels name the groups.
    """
    named = [
        {"name": m.label, "value": m.value, "low": m.low, "high": m.high, "unit": m.unit, "n": m.n}
        for m in metrics_of(evaluation)
    ]
    against = []
    for row in evaluation.contenders:
        gain = f"{number(row.gain.value)} ({span(row.gain.low, row.gain.high)})" if row.gain else ""
        against.append({"name": row.name, "kind": row.kind, **row.metric.model_dump(exclude={"n"}), GAIN: gain})
    return {
        "metrics": named,
        "slices": [
            {"group": group(row, statement), **row.model_dump(exclude={"slice", "group"})} for row in evaluation.slices
        ],
        "contenders": against,
        "latency_ms": evaluation.latency.p99_below_ms,
        "parts": evaluation.parts,
        "threshold": _threshold(evaluation),
    }


def group(row: products.Slice, statement: Problem | None) -> str:
    """A group of rows as the statement calls it: 'cognitive difficulty: yes'."""
    return group_label(statement, row.slice, row.group) if statement else f"{row.slice}: {row.group}"


def _threshold(evaluation: products.Evaluation) -> str:
    """From which score on a row is predicted positive, and why; '' where no class is predicted."""
    kept = evaluation.threshold
    return metric_table.threshold_in_words(kept.value, kept.source) if kept else ""


def figures(rows: list[JsonObject]) -> TableView:
    """Rows of a product as a table: what is named first, then its figure, the interval as one column, the rest.

    Returns
    -------
    dict
        'columns' (name, whether it holds numbers) and 'rows' (texts).
    """
    spans = [row for row in rows if row.get("low") is not None and row.get("high") is not None]
    if spans:
        rows = [{k: v for k, v in row.items() if k not in ("low", "high")} | {"interval": within(row)} for row in rows]
    columns: dict[str, bool] = {}
    for row in rows:
        for key, value in row.items():
            if not isinstance(value, (dict, list)) and value not in (None, ""):
                columns[key] = columns.get(key, False) or (
                    isinstance(value, (int, float)) and not isinstance(value, bool)
                )
    is_figure = lambda key: columns[key] or key in ("interval", "unit", GAIN)
    order = lambda key: (is_figure(key), FIRST.index(key) if key in FIRST else len(FIRST), list(columns).index(key))
    names = sorted(columns, key=order)
    return {
        "columns": [(name.replace("_", " "), columns[name] or name in ("interval", GAIN)) for name in names],
        "rows": [[number(row.get(name)) for name in names] for row in rows],
    }
