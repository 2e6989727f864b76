"""Products and decisions as DataFrames: a figure a row, with its unit and its interval."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlloop.core import metrics
from mlloop.core.records import EvaluationJson, MonitoringJson
from mlloop.store.entries import Row

if TYPE_CHECKING:
    import pandas as pd

FIGURES = ["part", "name", "value", "low", "high", "unit", "n"]
DECISIONS = [
    "at", "problem", "kind", "subject", "verdict", "model", "actor", "reasons", "figure", "value", "low", "high", "unit", "threshold",
]  # fmt: skip
PERIODS = [
    "from", "model", "health", "metric", "unit", "estimated", "estimated_low", "estimated_high", "realised", "realised_low",
    "realised_high", "reference", "rows", "drifted_columns", "feed_findings", "p99_ms",
]  # fmt: skip


def evaluation(product: EvaluationJson, metric: str, unit: str) -> "pd.DataFrame":
    """The figures of the holdout period.

    Parameters
    ----------
    product : mapping
        Of the stage `evaluation`.
    metric, unit : str
        The metric that decides, and its unit: that of slices and baselines.

    Returns
    -------
    DataFrame
        part ('metric', 'slice', 'contender' or 'latency'), name, value, low, high, unit and n, one row a figure.
    """
    import pandas as pd

    lines: list[dict[str, object]] = [{**figure, "part": "metric"} for figure in product.get("metrics") or []]
    for group in product.get("slices") or []:
        lines.append({**group, "part": "slice", "name": f"{group['slice']} = {group['group']}", "unit": unit})
    for contender in product.get("contenders") or []:
        lines.append({**contender["metric"], "part": "contender", "name": contender["name"], "unit": unit})
    latency = product.get("latency")
    if latency and latency["p99_below_ms"] is not None:
        p99 = {"value": latency["p99_below_ms"], "unit": "ms", "n": latency["calls"]}
        lines.append({"part": "latency", "name": "p99", **p99})
    frame = pd.DataFrame(lines, columns=FIGURES)
    frame.attrs["metric"] = metric
    return frame.astype({"value": "float64", "low": "float64", "high": "float64", "n": "Int64"})


def monitoring(products: Sequence[MonitoringJson]) -> "pd.DataFrame":
    """One row a period, the oldest first, with what the newest product knows of its labels.

    Parameters
    ----------
    products : sequence of mapping
        What monitoring wrote, the oldest first.

    Returns
    -------
    DataFrame
        Indexed by `until`: from, model, health, metric and its unit; the estimated and the realised figure with their
        intervals, and the reference they are compared with; rows, drifted_columns, feed_findings and p99_ms.
    """
    import pandas as pd

    known = {figure["period"]["until"]: figure for product in products for figure in product["realised"]}
    lines = []
    for product in products:
        estimated, realised = product["estimated"], known.get(product["period"]["until"])
        shown = (realised["value"], realised["low"], realised["high"]) if realised else (None, None, None)
        lines.append({
            "from": product["period"]["from"], "model": product["model"][:12], "health": product["health"],
            "metric": estimated["metric"], "unit": metrics.metric(estimated["metric"]).unit,
            "estimated": estimated["value"], "estimated_low": estimated["low"], "estimated_high": estimated["high"],
            "realised": shown[0], "realised_low": shown[1], "realised_high": shown[2],
            "reference": estimated["reference"]["value"], "rows": product["rows"],
            "drifted_columns": sum(column["alert"] for column in product["drift"]["columns"]),
            "feed_findings": len(product["feed"]["findings"]), "p99_ms": product["latency"]["p99_ms"],
        })  # fmt: skip
    until = pd.DatetimeIndex([product["period"]["until"] for product in products], name="until")
    frame = pd.DataFrame(lines, columns=PERIODS, index=until)
    frame["from"] = pd.to_datetime(frame["from"])
    figures = [name for name in PERIODS if name.startswith(("estimated", "realised", "reference", "p99"))]
    return frame.astype(dict.fromkeys(figures, "float64"))


def decisions(rows: Iterable[Row]) -> "pd.DataFrame":
    """The ledger's rows, indexed by their number, with the figure that decided.

    Returns
    -------
    DataFrame
        Indexed by `id`: at (UTC), problem, kind, subject, verdict, model, actor, reasons (joined), and figure, value,
        low, high, unit and threshold of the figure that decided, missing where a decision rests on none.
    """
    import pandas as pd

    rows = list(rows)
    lines = []
    for row in rows:
        deciding = row.details.get("deciding")
        first: Mapping[str, Any] = row.evidence[0] if row.evidence else {}
        figure = next((check for check in row.evidence if check.get("name") == deciding), first)
        lines.append({
            "at": row.at, "problem": row.problem, "kind": row.kind, "subject": row.subject, "verdict": row.verdict,
            "model": row.model, "actor": row.actor, "reasons": "; ".join(row.reasons), "figure": figure.get("name"),
            **{name: figure.get(name) for name in ("value", "low", "high", "unit", "threshold")},
        })  # fmt: skip
    frame = pd.DataFrame(lines, columns=DECISIONS, index=pd.Index([row.id for row in rows], name="id"))
    return frame.astype({"at": "datetime64[us]"})
