"""What monitoring saw of a model in production, as the pages show it; tolerant of what a product leaves out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlloop.pages import diagrams, wording

HEALTH = {
    "ok": ("healthy", "fresh"),
    "watch": ("being watched", "watch"),
    "worse": ("worse than promised", "failed"),
    "feed broken": ("feed broken", "failed"),
    "not enough rows": ("too few rows to say", "missing"),
}
METHODS = {"cbpe": "CBPE", "mcbpe": "M-CBPE", "pape": "PAPE", "dle": "DLE"}
SHOWN = 60


def read(folder: Path) -> list[dict[str, Any]]:
    """The products of monitoring in `folder`, the newest last; what cannot be read is left out."""
    found = []
    for path in sorted(folder.glob("*.json"))[-SHOWN:]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            found.append(content | {"file": path.stem})
    return found


def health(product: Mapping[str, Any]) -> dict[str, str]:
    """Whether the model is healthy: a word, the shape drawn beside it, and the sentence for a product owner."""
    told = str(product.get("health") or "")
    word, mark = HEALTH.get(told, (told or "not said", "missing"))
    return {"word": word, "mark": mark, "said": str(product.get("said") or ""), "as_of": _moment(product.get("as_of"))}


def view(products: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The newest product, ready to show, and the periods before it; {} where there is none."""
    if not products:
        return {}
    last = products[-1]
    part = lambda name: wording.mapping(last.get(name))
    estimated, feed, drift, explains = part("estimated"), part("feed"), part("drift"), part("explains")
    latency, errors = part("latency"), part("errors")
    return {
        **health(last),
        "not_since": _not_since(products),
        "period": _period(last.get("period")),
        "model": str(last.get("model") or ""),
        "since": _moment(last.get("since")),
        "rows": last.get("rows"),
        "feed": str(feed.get("status") or ""),
        "findings": [_finding(one) for one in wording.records(feed.get("findings"))],
        "drift": [_column(one) for one in wording.records(drift.get("columns"))],
        "drift_said": str(drift.get("said") or ""),
        "estimates": _estimates(estimated),
        "estimate_why": str(estimated.get("why") or ""),
        "trusted": estimated.get("trusted") if isinstance(estimated.get("trusted"), bool) else None,
        "periods": _periods(products),
        "chart": chart(products),
        "metric": wording.metric_name(estimated.get("metric") or last.get("metric") or "metric"),
        "latency": {key: latency.get(key) for key in ("p50_ms", "p99_ms", "limit_ms", "n")} if latency else {},
        "errors": {"n": errors.get("n"), "share": _share(errors.get("share"))} if errors else {},
        "features": _ranked(explains.get("features")),
        "segments": [_flat(one) for one in wording.records(explains.get("segments"))],
        "calibration": _flat(part("calibration")),
    }


def _not_since(products: Sequence[Mapping[str, Any]]) -> str:
    """Where the newest look found the model not healthy: the start of the first period of which that was said, in a row."""
    started = ""
    for product in reversed(products):
        if product.get("health") in ("ok", "not enough rows", None) or product.get("model") != products[-1].get(
            "model"
        ):
            break
        started = _from(product.get("period"))
    return started


def chart(products: Sequence[Mapping[str, Any]]) -> diagrams.Chart | None:
    """Estimated and realised figures by period against the reference of the newest."""
    estimated = wording.mapping(products[-1].get("estimated"))
    realised = _realised(products)
    reference = wording.mapping(estimated.get("reference")) or next(
        (wording.mapping(one.get("reference")) for one in reversed(list(realised.values())) if one.get("reference")), {}
    )
    guesses = {_from(product.get("period")): _guess(product) for product in products}
    rows = [
        {"period": start, "estimated": guesses.get(start), "realised": _figure(realised.get(start))}
        for start in sorted({*realised, *(s for s, guess in guesses.items() if guess)})
        if start
    ]
    return diagrams.periods(rows[-26:], _real(reference.get("value")), None)


def _realised(products: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Period's start -> what labels showed; where told more than once, the newest telling counts."""
    told = [one for product in products for one in wording.records(product.get("realised"))]
    return {_from(one.get("period")): one for one in told}


def _periods(products: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a period for the table under the chart, the newest first."""
    realised = _realised(products)
    guesses = {_from(product.get("period")): product for product in products}
    rows = []
    for start in sorted({*realised, *guesses} - {""}, reverse=True)[:26]:
        shown, product = realised.get(start, {}), guesses.get(start, {})
        guess = _guess(product)
        rows.append(
            {
                "period": start,
                "answers": product.get("rows") or shown.get("n"),
                "estimated": guess["said"] if guess else "–",
                "realised": _said(shown) if _real(shown.get("value")) is not None else "–",
                "labels missing": _share(shown.get("labels_missing")) or "–",
                "model": str(shown.get("model") or product.get("model") or "")[:8],
                "health": health(product)["word"] if product else "–",
            }
        )
    return rows


def _guess(product: Mapping[str, Any]) -> dict[str, Any] | None:
    estimated = wording.mapping(product.get("estimated"))
    if _real(estimated.get("value")) is not None:
        return _figure(estimated)
    methods = wording.mapping(estimated.get("methods"))
    return next((_figure(methods[name]) for name in (*METHODS, *methods) if name in methods), None)


def _figure(row: Any) -> dict[str, Any] | None:
    row = wording.mapping(row)
    if _real(row.get("value")) is None:
        return None
    return {key: _real(row.get(key)) for key in ("value", "low", "high")} | {"said": _said(row)}


def _said(row: Mapping[str, Any]) -> str:
    inside = wording.within(row)
    return wording.number(row.get("value")) + (f" ({inside})" if inside != "–" else "")


def _estimates(estimated: Mapping[str, Any]) -> list[dict[str, Any]]:
    methods = wording.mapping(estimated.get("methods"))
    return [
        {
            "method": METHODS.get(str(name), str(name)),
            **{k: wording.mapping(one).get(k) for k in ("value", "low", "high")},
        }
        for name, one in methods.items()
    ]


def _finding(one: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("table", "column", "kind", "value", "threshold", "said")
    return {key.replace("said", "what"): one.get(key) for key in keys if not isinstance(one.get(key), (dict, list))}


def _column(one: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one.get(key) for key in ("name", "method", "value", "threshold")} | {"drifted": bool(one.get("alert"))}


def _ranked(features: Any) -> list[dict[str, Any]]:
    rows = features if isinstance(features, list) else []
    return [_flat(one) if isinstance(one, dict) else {"name": str(one)} for one in rows[:12]]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` without what is not a plain value; figures within it are told as text."""
    told = {}
    for key, value in row.items():
        if isinstance(value, dict) and _real(value.get("value")) is not None:
            told[str(key)] = _said(value)
        elif not isinstance(value, (dict, list)):
            told[str(key)] = value
    return told


def _real(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _share(value: Any) -> str:
    real = _real(value)
    return "" if real is None else f"{real:.2g}" if not 0 <= real <= 1 else f"{100 * real:.3g}%"


def _moment(value: Any) -> str:
    return wording.moment(value) if value is not None else ""


def _from(period: Any) -> str:
    return _moment(wording.mapping(period).get("from"))


def _period(period: Any) -> str:
    both = [_moment(wording.mapping(period).get(key)) for key in ("from", "until")]
    return f"{both[0]} up to, not including, {both[1]}" if all(both) else ""
