"""What monitoring saw of a model in production, as the pages show it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from mlloop import products
from mlloop.core import formatting, metric_table
from mlloop.core.errors import DataError, ProductError
from mlloop.core.records import JsonObject
from mlloop.core.settings import Settings
from mlloop.pages import against_target, diagrams, wording
from mlloop.problem import Problem, column_label, group_label, value_label
from mlloop.products import ESTIMATION_METHODS, Estimated, Monitoring, Period, Realised

HEALTH = {
    "ok": ("healthy", "fresh"),
    "watch": ("being watched", "watch"),
    "worse": ("worse than reference", "failed"),
    "feed broken": ("feed broken", "failed"),
    "not enough rows": ("too few rows", "missing"),
}
SHOWN = 60


def read(settings: Settings, folder: Path) -> tuple[dict[str, Monitoring], list[str]]:
    """The products of monitoring in `folder` by their file's stem, the newest last; and why others cannot be read."""
    looks, unreadable = {}, []
    for path in sorted(folder.glob("*.json"))[-SHOWN:]:
        try:
            product = products.read_kept(path)
            if not isinstance(product, Monitoring):
                raise ProductError(
                    f"is the product of {product.stage!r}, expected monitoring",
                    str(path),
                    f"Move it away, then: mlloop monitor --problem {folder.name}",
                )
            looks[path.stem] = product
        except (DataError, ProductError) as error:
            unreadable.append(str(error).replace(f"{settings.root}/", ""))
    return looks, unreadable


class FigureView(TypedDict):
    """A figure with its interval, and as a text."""

    value: float
    low: float | None
    high: float | None
    said: str


PeriodView = TypedDict(
    "PeriodView",
    {
        "period": str,
        "until": str,
        "href": str,
        "answers": int | None,
        "estimated": str,
        "realised": str,
        "labels missing": str,
        "model": str,
        "word": str,
        "mark": str,
        "alert": bool,
        "decision": str,
        "is_missed": bool,
        "badness": float | None,
    },
)
"""A period as a list shows it; `badness`: the worse the higher, None where no label has come."""


def health(product: Monitoring) -> dict[str, str]:
    """Whether the model is healthy: a word, the shape drawn beside it, and the sentence for a product owner."""
    realised = [figure.value for figure in product.realised if figure.model == product.model]
    is_known = product.estimated.value is not None or any(value is not None for value in realised)
    word, mark = HEALTH[product.health] if is_known or product.health != "ok" else ("not known yet", "missing")
    return {"word": word, "mark": mark, "said": product.summary, "as_of": wording.moment(product.as_of)}


def view(looks: Mapping[str, Monitoring], statement: Problem | None = None) -> wording.View:
    """The newest product, ready to show, and the periods before it; {} where there is none."""
    if not looks:
        return {}
    history = list(looks.values())
    last, target = history[-1], statement.success.threshold if statement else None
    named = statement.target_name if statement else "target"
    return {
        **health(last),
        "not_since": _not_since(history),
        "period": f"{_from(last.period)} up to, not including, {wording.moment(last.period.until)}",
        "model": last.model,
        "since": wording.moment(last.since),
        "rows": last.rows,
        "feed": last.feed.status,
        "findings": [_renamed(finding.model_dump(), "summary", "what") for finding in last.feed.findings],
        "columns": [_column(last, column, statement) for column in last.drift.columns],
        "drift_said": last.drift.summary,
        "estimates": [
            {
                "method": ESTIMATION_METHODS.get(name, name),
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
            }
            for name, figure in last.estimated.methods.items()
        ],
        "estimate_why": last.estimated.why,
        "trusted": last.estimated.trusted,
        "chart": chart(history, target, target_name=named),
        "narrow": chart(history, target, most=12, width=350, target_name=named),
        "title": against_target.title(against_target.realised(looks.values()), statement) if statement else "",
        "metric": metric_table.title(last.estimated.metric),
        "latency": last.latency,
        "errors": {"n": last.errors.n, "share": _share(last.errors.share)},
        "features": [_explanation(feature, statement) for feature in last.explains.features],
        "segments": [_group(segment, statement) for segment in last.explains.segments],
        "calibration": _calibration(last),
    }


class BinView(TypedDict):
    """A value or a range of a column, and its shares of the rows in percent, as texts and as widths of bars."""

    label: str
    reference: str
    period: str
    reference_width: float
    period_width: float


class ColumnView(TypedDict):
    """How far a column of the period lies from the reference, and both distributions; no bins where none were kept."""

    label: str
    value: float | None
    threshold: float | None
    drifted: bool
    method: str
    missing: str
    unseen: str
    bins: list[BinView]


DISTANCES = {"jensen_shannon": "Jensen-Shannon distance"}


def _column(product: Monitoring, column: products.DriftedColumn, statement: Problem | None) -> ColumnView:
    kept = next((drawn for drawn in product.drift.distributions if drawn.name == column.name), None)
    widest = max([0.01, *(max(bar.reference, bar.period) for bar in kept.bins)]) if kept else 1.0
    name = lambda value: value_label(statement, column.name, value) if statement else value
    return {
        "label": _label(column.name, statement),
        "value": column.value,
        "threshold": column.threshold,
        "drifted": column.alert,
        "method": DISTANCES.get(column.method, column.method),
        "missing": f"{_share(kept.missing_reference)}, then {_share(kept.missing_period)}" if kept else "",
        "unseen": _share(kept.unseen) if kept and kept.unseen else "",
        "bins": [
            {
                "label": name(bar.label),
                "reference": _share(bar.reference),
                "period": _share(bar.period),
                "reference_width": round(100 * bar.reference / widest, 1),
                "period_width": round(100 * bar.period / widest, 1),
            }
            for bar in (kept.bins if kept else ())
        ],
    }


def _label(column: str, statement: Problem | None) -> str:
    return column_label(statement, column) if statement else column


def _explanation(feature: products.Explanation, statement: Problem | None) -> JsonObject:
    return {
        "column": _label(feature.name, statement),
        "drifted": feature.alert,
        "drift": feature.value,
        "threshold": feature.threshold,
        "weight": feature.weight,
        "drift by weight": feature.explains,
        "drifted before": feature.alerts_before,
    }


def _group(segment: products.Segment, statement: Problem | None) -> JsonObject:
    known = group_label(statement, segment.slice, segment.group) if statement else f"{segment.slice}: {segment.group}"
    return {
        "group": known,
        "from": "labels" if segment.by == "labels" else "the estimate",
        "value": segment.value,
        "reference": segment.reference,
        "worse by": segment.worse_by,
        "standard errors": segment.standard_errors,
        "n": segment.n,
    }


def _renamed(row: JsonObject, old: str, new: str) -> JsonObject:
    return {new if key == old else key: value for key, value in row.items()}


def _calibration(last: Monitoring) -> str:
    """How far predicted and observed shares lie apart at most, on the newest period with labels; '' where none came."""
    known = last.calibration
    gaps = (
        [
            abs(group.predicted - group.observed)
            for group in known.groups
            if group.predicted is not None and group.observed is not None
        ]
        if known
        else []
    )
    if not known or not gaps:
        return ""
    return (
        f"in the period from {_from(known.period)}, tenths of the scores are {formatting.number(max(gaps))} off at most "
        "(predicted against observed share)"
    )


def _not_since(history: list[Monitoring]) -> str:
    """Where the newest look found the model not healthy: the start of the first period of which that was said, in a row."""
    started = ""
    for product in reversed(history):
        is_of_model = product.model == history[-1].model
        is_same_feed = product.health == history[-1].health == "feed broken"  # whichever model reads it
        if product.health in ("ok", "not enough rows") or not (is_of_model or is_same_feed):
            break
        started = _from(product.period)
    return started


def chart(
    history: list[Monitoring],
    target: float | None = None,
    most: int = 26,
    width: float = 720,
    target_name: str = "target",
) -> diagrams.Chart | None:
    """Estimated and realised figures by period against the reference of the newest and the target."""
    realised = _realised(history)
    guesses = {_from(product.period): _guess(product.estimated) for product in history}
    rows = [
        {"period": start, "estimated": guesses.get(start), "realised": _figure(realised.get(start))}
        for start in sorted({*realised, *(s for s, guess in guesses.items() if guess)})
    ]
    return diagrams.periods(rows[-most:], history[-1].estimated.reference.value, target, width, target_name=target_name)


def _realised(history: Iterable[Monitoring]) -> dict[str, Realised]:
    """Period's start -> what labels showed; where it was reported more than once, the newest report counts."""
    return {_from(figure.period): figure for figure in against_target.realised(history)}


def page_of(stem: str) -> str:
    """The name of a period's page, by the stem of its product."""
    return f"period-{stem}.html"


def listed(
    looks: Mapping[str, Monitoring], statement: Problem | None, decided: Mapping[str, wording.DecisionView]
) -> dict[str, PeriodView]:
    """Product's stem -> its period as a list shows it, in order.

    Parameters
    ----------
    decided : mapping
        The decision to retrain or not by the moment at which it stood.
    """
    realised = _realised(looks.values())
    periods: dict[str, PeriodView] = {}
    metric = metric_table.METRICS.get(statement.success.metric) if statement else None
    for stem, product in looks.items():
        start = _from(product.period)
        shown = realised.get(start)
        guess, figure = _guess(product.estimated), _figure(shown)
        decision, state = decided.get(wording.moment(product.as_of)), health(product)
        known = shown.value if shown else None
        periods[stem] = {
            "period": start,
            "until": wording.moment(product.period.until),
            "href": page_of(stem),
            "answers": product.rows or (shown.n if shown else None),
            "estimated": guess["said"] if guess else "–",
            "realised": figure["said"] if figure else "–",
            "labels missing": _share(shown.labels_missing) if shown else "–",
            "model": (shown or product).model[:8],
            "word": state["word"],
            "mark": state["mark"],
            "alert": product.alert,
            "decision": decision["action"] or "–" if decision else "–",
            "is_missed": metric is not None
            and known is not None
            and not metric.meets(known, statement.success.threshold),  # type: ignore[union-attr]
            "badness": None if metric is None or known is None else metric.gain(0.0, known),
        }
    return periods


def sorted_lists(rows: list[PeriodView]) -> list[tuple[str, list[PeriodView]]]:
    """The periods as a reader may want them: all, those that missed the target, those with an alert, and the worst first."""
    newest = rows[::-1]
    known = [row for row in newest if row["badness"] is not None]
    return [
        ("All periods, the newest first", newest),
        ("By realised performance, the worst first", sorted(known, key=lambda row: -(row["badness"] or 0.0))),
        ("Periods that missed the target", [row for row in newest if row["is_missed"]]),
        ("Periods with an alert", [row for row in newest if row["alert"]]),
    ]


def in_hindsight(row: PeriodView, looks: Mapping[str, Monitoring], statement: Problem | None) -> dict[str, str]:
    """What labels have shown of a period until now, and the fall that it belongs to: 'mark' and 'sentence'."""
    if statement is None:
        return {}
    known = against_target.realised(looks.values())
    metric, target = metric_table.title(statement.success.metric), formatting.number(statement.success.threshold)
    if row["badness"] is None:
        return {
            "mark": "missing",
            "sentence": f"No label has come for this period yet; the {statement.target_name} is {metric} {target}.",
        }
    fell = next(
        (fall for fall in against_target.falls(known, statement.retrain) if fall.since <= row["period"] < fall.until),
        None,
    )
    sentence = f"Its labels showed {metric} {row['realised']}, which {'misses' if row['is_missed'] else 'meets'} the {statement.target_name} of {target}."
    alert = "" if row["alert"] or fell is None else " It raised no alert."
    more = f" It is part of a fall: {fell.sentence(metric)}{alert}" if fell else ""
    return {"mark": "failed" if row["is_missed"] else "fresh", "sentence": sentence + more}


def _guess(estimated: Estimated) -> FigureView | None:
    if estimated.value is not None:
        return _figure(estimated)
    methods = estimated.methods
    return next((_figure(methods[name]) for name in (*ESTIMATION_METHODS, *methods) if name in methods), None)


def _figure(row: Realised | Estimated | products.Figure | None) -> FigureView | None:
    if row is None or row.value is None:
        return None
    inside = wording.span(row.low, row.high)
    text = formatting.number(row.value) + (f" ({inside})" if inside != "–" else "")
    return {"value": row.value, "low": row.low, "high": row.high, "said": text}


def _share(share: float) -> str:
    return formatting.percent(share) if 0 <= share <= 1 else formatting.number(share)


def _from(period: Period) -> str:
    return wording.moment(period.since)
