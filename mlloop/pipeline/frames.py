"""Products and decisions as DataFrames: a figure a row, with its unit and its interval."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlloop.core import metrics
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


def evaluation(product: Mapping[str, Any], metric: str, unit: str) -> "pd.DataFrame":
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

    lines = [{**line, "part": "metric"} for line in product.get("metrics") or []]
    for line in product.get("slices") or []:
        lines.append({**line, "part": "slice", "name": f"{line['slice']} = {line['group']}", "unit": unit})
    for line in product.get("contenders") or []:
        lines.append({**(line.get("metric") or {}), "part": "contender", "name": line["name"], "unit": unit})
    latency = product.get("latency") or {}
    if latency.get("p99_below_ms") is not None:
        lines.append(
            {
                "part": "latency",
                "name": "p99",
                "value": latency["p99_below_ms"],
                "unit": "ms",
                "n": latency.get("calls"),
            }
        )
    frame = pd.DataFrame(lines, columns=FIGURES)
    frame.attrs["metric"] = metric
    return frame.astype({"value": "float64", "low": "float64", "high": "float64", "n": "Int64"})


def monitoring(products: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
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

    known = {figure["period"]["until"]: figure for product in products for figure in product.get("realised") or []}
    lines = []
    for product in products:
        estimated, realised = product.get("estimated") or {}, known.get(product["period"]["until"], {})
        reference = estimated.get("reference") or realised.get("reference") or {}
        name = estimated.get("metric")
        lines.append({
            "from": product["period"]["from"], "model": str(product.get("model") or "")[:12], "health": product.get("health"),
            "metric": name, "unit": metrics.metric(name).unit if name else "",
            "estimated": estimated.get("value"), "estimated_low": estimated.get("low"), "estimated_high": estimated.get("high"),
            "realised": realised.get("value"), "realised_low": realised.get("low"), "realised_high": realised.get("high"),
            "reference": reference.get("value"), "rows": product.get("rows"),
            "drifted_columns": sum(bool(column.get("alert")) for column in (product.get("drift") or {}).get("columns") or []),
            "feed_findings": len((product.get("feed") or {}).get("findings") or []),
            "p99_ms": (product.get("latency") or {}).get("p99_ms"),
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
