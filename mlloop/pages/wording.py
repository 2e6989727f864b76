"""Figures, verdicts and findings as people read them, made of what products hold; tolerant of what is missing."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from mlloop.pages import diagrams

GAIN = "the model's gain over it"
FIRST = ["name", "column", "slice", "group", "level", "metric", "value", "interval", "unit", "n"]


def number(value: Any, unit: str = "") -> str:
    """A figure as it is read: three significant digits, thousands separated; '–' where there is none."""
    if value is None or isinstance(value, (dict, list)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    size = abs(value)
    if isinstance(value, int) or size >= 100 or (size >= 2 and value == int(value)):
        text = f"{value:,.0f}"
    elif size == 0:
        text = "0"
    elif size < 1e-4:
        text = f"{value:.2e}"
    else:
        text = f"{value:.{1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4}f}"
    return f"{text.replace('-', '−')} {unit}".strip()


def _apart(value: Any, threshold: Any) -> tuple[str, str]:
    """Two figures in as many digits as it takes to tell them apart."""
    a, b = number(value), number(threshold)
    if a == b and isinstance(value, (int, float)) and isinstance(threshold, (int, float)) and value != threshold:
        digits = next(d for d in range(4, 18) if f"{value:.{d}f}" != f"{threshold:.{d}f}" or d == 17)
        return f"{value:,.{digits}f}", f"{threshold:,.{digits}f}"
    return a, b


def seconds(value: Any) -> str:
    """A time taken, to a tenth of a second; '–' where it is not known."""
    return f"{value:,.1f}" if isinstance(value, (int, float)) else "–"


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
    low, high = row.get("low"), row.get("high")
    return f"{number(low)} to {number(high)}" if low is not None and high is not None else "–"


def evidence(given: Mapping[str, Any]) -> dict[str, Any]:
    """One piece of evidence, ready to show: the texts of its figures and where they lie."""
    real = lambda key: (
        given.get(key) if isinstance(given.get(key), (int, float)) and not isinstance(given.get(key), bool) else None
    )
    value, low, high, threshold = (real(key) for key in ("value", "low", "high", "threshold"))
    shown, asked = _apart(given.get("value"), given.get("threshold"))
    span = within({"low": low, "high": high})
    unit, name = str(given.get("unit") or ""), str(given.get("name") or "")
    passed = given.get("passed")
    said = f"{name.replace('_', ' ')} {shown}{' ' + unit if unit and unit != name else ''}"
    said = f"{unit} {shown}" if name == "threshold met" and unit else said
    said += f" ({span})" if span != "–" else ""
    said += f" against {asked} asked" if threshold is not None else ""
    return {
        "name": name.replace("_", " "),
        "value": shown,
        "unit": unit,
        "within": span,
        "threshold": asked,
        "passed": passed if isinstance(passed, bool) else None,
        "line": diagrams.interval(value, low, high, threshold),
        "sentence": said,
    }


def verdict(product: Mapping[str, Any]) -> dict[str, Any] | None:
    """A gate's verdict, ready to show; None where the gate has not run, 'no' where it said nothing."""
    if not product:
        return None
    said = product.get("verdict")
    said = said if isinstance(said, dict) else {}
    listed = lambda key: [str(one) for one in said.get(key) or []]
    found = [evidence(one) for one in said.get("evidence") or [] if isinstance(one, dict)]
    deciding = said.get("deciding") or product.get("deciding")
    word = said.get("verdict") if said.get("verdict") in ("yes", "maybe", "no") else "no"
    return {
        "gate": str(said.get("gate") or str(product.get("stage", "")).removesuffix("_gate")),
        "verdict": word,
        "reasons": listed("reasons") or ([] if said else ["The gate's notebook said nothing, which counts as No."]),
        "must_change": listed("must_change"),
        "evidence": found,
        "deciding": next(
            (e for e in found if e["name"] == str(deciding).replace("_", " ") and e["value"] != "–"), None
        ),
    }


ACTIONS = {
    "nothing": ("nothing to do", "fresh"),
    "watch": ("being watched", "watch"),
    "retrain": ("learns again", "stale"),
    "feed broken": ("feed broken: mend it", "failed"),
    "cooldown": ("waits: cooldown", "waiting"),
    "budget": ("waits: budget spent", "waiting"),
    "not enough labels": ("waits for labels", "waiting"),
    "waiting for canary": ("waits for the canary", "waiting"),
    "no champion": ("nothing to watch", "missing"),
    "not enough rows": ("too few rows to say", "missing"),
    "no figure yet": ("no label yet", "missing"),
    "not worth it": ("not worth its cost", "fresh"),
    "ended": ("learned again", "fresh"),
}
KINDS = {"promotion": "Promoted", "rollback": "Rolled back", "revision": "New revision of the statement"}
CANARY = {
    "started": "Canary started",
    "promoted": "Canary ended: promoted",
    "rolled_back": "Canary ended: rolled back",
}


OUTCOMES = {
    "canary": "a newer model is on trial",
    "champion": "a newer model took over",
    "trained": "a newer model was trained",
    "gate said no": "the gate said No to the newer model",
    "failed": "given up",
}


def decision(kind: str, subject: str, action: str = "", outcome: str = "") -> str:
    """A row of the ledger in a few words."""
    if kind == "retrain" and action == "ended":
        return f"Learned again: {OUTCOMES.get(outcome, outcome or 'done')}"
    if kind == "canary":
        return CANARY.get(subject, f"Canary {subject}".strip())
    if kind == "retrain" and action == "retrain":
        return "Learn again? Yes"
    if kind == "retrain":
        return f"Learn again? {ACTIONS.get(action, (action, ''))[0].capitalize()}"
    if kind == "gate":
        return f"{subject} gate".strip().capitalize()
    return KINDS.get(kind, f"{subject} {kind}".strip().capitalize())


SHOWN = 8


def folded(timeline: list[dict[str, Any]], most: int = 100) -> dict[str, Any]:
    """The newest decisions with runs of uneventful looks in one piece.

    Returns
    -------
    dict
        'parts': lists of decisions; one of more than one holds looks that changed nothing. 'older': the same of those
        before the newest eight. 'left': how many decisions before them are left out. A canary's end is told by the
        promotion that it led to.
    """
    parts: list[list[dict[str, Any]]] = []
    is_quiet = lambda one: one["kind"] == "retrain" and one["verdict"] != "yes" and one["subject"] != "ended"
    for one in timeline[:most]:
        above = parts[-1][0] if parts else {"kind": ""}
        if above["kind"] == "promotion" and one.get("what") == CANARY["promoted"] and one["model"] == above["model"]:
            parts[-1] = [above | {"what": "Promoted after its trial"}]
        elif parts and is_quiet(one) and is_quiet(parts[-1][0]) and parts[-1][0]["action"] == one["action"]:
            parts[-1].append(one)
        else:
            parts.append([one])
    return {"parts": parts[:SHOWN], "older": parts[SHOWN:], "left": max(0, len(timeline) - most)}


def would_change(statement: Mapping[str, Any], production: Mapping[str, Any], canary: Mapping[str, Any]) -> list[str]:
    """What would change who answers, as the problem statement has it, in sentences."""
    if not statement or not production:
        return []
    retrain, trial = mapping(statement.get("retrain")), mapping(statement.get("canary"))
    metric = metric_name(mapping(statement.get("success")).get("metric") or "the metric")
    said = []
    loss = f"no worse by more than {_typed(trial['max_loss'])} in {metric}" if trial.get("max_loss") else "no worse"
    if canary:
        share = _share(canary.get("share")) or "a share"
        said.append(
            f"The canary {str(canary['model'])[:12]} answers {share} of those who ask since {canary['since']}. It takes "
            f"over if it is {loss}; otherwise it goes, on {canary['until']} at the latest."
        )
    elif trial:
        share = _share(trial.get("share")) or "a share"
        said.append(
            f"A newer model that passes the validation gate answers {share} of those who ask, for "
            f"{number(trial.get('deadline_days'), 'days')} at most. It takes over after {number(trial.get('min_rows'))} "
            f"answers if it is {loss}."
        )
    if retrain.get("k") and retrain.get("n"):
        said.append(
            f"A newer model is trained when {retrain['k']} of the last {retrain['n']} looks (one every "
            f"{number(retrain.get('every_days'), 'days')}), the newest included, fall behind what this one promised by "
            f"{number(retrain.get('standard_errors'))} standard errors"
            + (f" and by {_typed(retrain['margin'])} in {metric}" if retrain.get("margin") else "")
            + (
                f", and in any case when this one is {number(retrain['backstop_days'], 'days')} old"
                if retrain.get("backstop_days")
                else ""
            )
            + f". Never on broken data, at most {number(retrain.get('budget_per_year'))} times a year, and "
            f"{number(retrain.get('cooldown_days'), 'days')} after the last at the earliest."
        )
    return said


LABELS = {
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "mape": "mean absolute percentage error",
    "map": "mean average precision",
    "ece": "expected calibration error",
}


def metric_name(name: Any) -> str:
    """A metric as people write it: 'ROC AUC' for roc_auc."""
    words = str(name).replace("_", " ")
    return LABELS.get(str(name)) or (words.upper() if words in ("roc auc", "ndcg", "r2", "f1") else words)


def _typed(value: Any) -> str:
    """A figure of the statement as somebody typed it."""
    return f"{value:g}" if isinstance(value, (int, float)) else number(value)


MEANINGS = {
    "roc_auc": "how often one that is looked for is ranked above one that is not: 0.5 is guessing, 1 is perfect",
    "average_precision": "how pure the top of the ranking is: 1 is perfect, guessing gives the share of those looked for",
    "accuracy": "the share of right answers",
    "f1": "precision and recall in one: 1 is perfect, 0 finds nobody",
    "log_loss": "how wrong the probabilities are, the sure ones most: 0 is perfect",
    "brier": "how far the probabilities are from what happened, squared: 0 is perfect",
    "ece": "how far the probabilities are off on average: 0 is perfect",
    "mae": "how far an answer is off on average",
    "rmse": "how far an answer is off, large misses counting more",
    "r2": "the share of the ups and downs that is explained: 1 is all, 0 is no better than the mean",
    "mape": "how far an answer is off on average, as a share of the true value",
    "ndcg": "how high in the list that which was wanted stands: 1 is all of it first, 0 is none of it in the list",
    "hit_rate": "the share of lists that hold something that was wanted",
    "recall": "the share of what was wanted that is in the list",
    "map": "how high in the list that which was wanted stands, averaged over everything wanted: 1 is perfect",
}


def metric_meaning(name: Any) -> str:
    """A sentence that says what a metric measures; '' for one that is not known."""
    return f"{metric_name(name)}: {MEANINGS[name]}." if name in MEANINGS else ""


BRIEF = {
    "worse than promised": "worse",
    "too few rows to say": "not known yet",
    "cannot be said yet": "not known yet",
    "waits for the canary": "canary on trial",
    "waits: cooldown": "cooldown",
    "waits: budget spent": "budget spent",
    "waits for labels": "awaits labels",
    "feed broken: mend it": "feed broken",
    "waits for a stale stage": "waits",
    "not looked at yet": "not looked at",
    "not worth its cost": "not worth it",
}


def brief(word: str) -> str:
    """A state in at most fifteen letters, for a box of the drawing."""
    return BRIEF.get(word, word)


def _share(value: Any) -> str:
    return f"{value:.0%}" if isinstance(value, float) and 0 <= value <= 1 else ""


def finding(stage: str, product: Mapping[str, Any]) -> str:
    """A sentence made of the figures in a stage's product; '' where they are not there."""
    try:
        return str(_FINDINGS.get(stage, lambda p: "")(product))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return ""


def _collected(p) -> str:
    rows = sum(batch["rows"] for source in p["batches"].values() for batch in source)
    return f"{rows:,} raw rows from {len(p['batches'])} source{'s' if len(p['batches']) != 1 else ''}."


def _ingested(p) -> str:
    total = {
        key: sum(count.get(key, 0) for count in p["counts"].values())
        for key in ("read", "kept", "rejected", "duplicates")
    }
    return "{read:,} rows read: {kept:,} kept, {rejected:,} rejected with a reason, {duplicates:,} duplicates.".format(
        **total
    )


def _explored(p) -> str:
    chosen = p["chosen"]["name"]
    best = next(c for c in p["candidates"] if c["name"] == chosen)
    return f"{chosen} is chosen out of {len(p['candidates'])}: {number(best['mean'])} ({within(best)})."


def _trained(p) -> str:
    t = p["trained"]
    span = f", {moment(t['from'])} to {moment(t['until'])}" if t.get("until") else ""
    return f"{p['model']['name']} learned from {t['rows']:,} rows{span}."


def _evaluated(p) -> str:
    first = p["metrics"][0]
    within = f" ({number(first['low'])} to {number(first['high'])})" if first.get("low") is not None else ""
    return f"{first['name'].replace('_', ' ')} {number(first['value'])}{within} on the held-out period."


def _windows(p) -> str:
    if not p["windows"]:
        return "The rows have no time: a fifth of them is held out, drawn by chance."
    start, end, held, until = (
        moment(p["windows"][key]) for key in ("from", "train_until", "holdout_from", "holdout_until")
    )
    return f"Learn from {start} until {end}; {held} until {until} is held out."


def _said(p) -> str:
    said = verdict(p)
    return said["reasons"][0] if said and said["reasons"] else ""


_FINDINGS = {
    "problem": lambda p: p["problem"]["question"],
    "collection": _collected,
    "ingestion": _ingested,
    "transformation": _windows,
    "need_gate": _said,
    "features": lambda p: f"{len(p['catalogue']):,} features, each known before the moment it is used.",
    "exploration": _explored,
    "building": lambda p: f"{p['estimator']['name']}, not yet trained.",
    "training": _trained,
    "evaluation": _evaluated,
    "validation_gate": _said,
}


def counts(ingestion: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts = ingestion.get("counts")
    rows = []
    for table, count in (counts if isinstance(counts, dict) else {}).items():
        if isinstance(count, dict):
            whole = {key: int(count.get(key) or 0) for key in ("read", "kept", "rejected", "duplicates")}
            rows.append(
                {
                    "table": table,
                    **whole,
                    "adds_up": whole["read"] == whole["kept"] + whole["rejected"] + whole["duplicates"],
                }
            )
    return rows


def tables(product: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The versions of tables that a product cites."""
    tables = product.get("tables")
    cited = tables.items() if isinstance(tables, dict) else []
    return [
        {"name": str(t.get("name") or name), **{k: t.get(k) for k in ("version", "rows", "digest")}}
        for name, t in cited
        if isinstance(t, dict)
    ]


def records(rows: Any) -> list[dict[str, Any]]:
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _close(a: Any, b: Any) -> bool:
    """Whether two figures are one, but for the order in which they were summed up."""
    return isinstance(a, (int, float)) and isinstance(b, (int, float)) and abs(a - b) <= 1e-9 * max(1.0, abs(a))


def judged(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What the held-out period showed, as tables: metrics, slices, contenders and the latency's figure."""
    model = next(
        (mapping(c.get("metric")) for c in records(evaluation.get("contenders")) if c.get("kind") == "model"), {}
    )
    named = []
    for row in records(evaluation.get("metrics")):
        # the gate's own interval of the main figure, where another method's is a hair's breadth off
        is_same = _close(row.get("value"), model.get("value"))
        inside = {key: model[key] for key in ("low", "high") if is_same and key in model}
        named.append(dict(row) | inside | {"name": row.get("label") or row.get("name")})
    against = []
    for row in records(evaluation.get("contenders")) or records(evaluation.get("baselines")):
        figure, gain = mapping(row.get("metric")) or row, mapping(row.get("gain"))
        figures = {key: figure.get(key) for key in ("value", "low", "high")}
        told = f"{number(gain['value'])} ({within(gain)})" if gain.get("value") is not None else ""
        against.append({"name": row.get("name"), "kind": row.get("kind"), **figures, GAIN: told})
    return {
        "metrics": [{key: row.get(key) for key in ("name", "value", "low", "high", "unit", "n")} for row in named],
        "slices": records(evaluation.get("slices")),
        "contenders": against,
        "latency_ms": mapping(evaluation.get("latency")).get("p99_below_ms"),
    }


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of a product as a table: what is named first, then its figure, the interval as one column, the rest.

    Returns
    -------
    dict
        'columns' (name, whether it holds numbers) and 'rows' (texts).
    """
    spans = [row for row in rows if row.get("low") is not None and row.get("high") is not None]
    if spans:
        rows = [{k: v for k, v in row.items() if k not in ("low", "high")} | {"interval": within(row)} for row in rows]
    found: dict[str, bool] = {}
    for row in rows:
        for key, value in row.items():
            if not isinstance(value, (dict, list)) and value not in (None, ""):
                found[key] = found.get(key, False) or (isinstance(value, (int, float)) and not isinstance(value, bool))
    is_figure = lambda key: found[key] or key in ("interval", "unit", GAIN)
    place = lambda key: (is_figure(key), FIRST.index(key) if key in FIRST else len(FIRST), list(found).index(key))
    names = sorted(found, key=place)
    return {
        "columns": [(name.replace("_", " "), found[name] or name in ("interval", GAIN)) for name in names],
        "rows": [[number(row.get(name)) for name in names] for row in rows],
    }
