"""Makes a project out of a data file and a question, and renews its notebooks when mlloop moves on."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from mlloop import problem as problems
from mlloop import storage, survey
from mlloop.errors import DataError, SettingsError, UsageError
from mlloop.freshness import is_run_cell
from mlloop.problem import meant
from mlloop.survey import Guess, Looked

TEMPLATES = Path(__file__).parent / "templates" / "project"
STAGES = Path(__file__).parent / "stages"
COPIED_BYTES = 200_000_000

USES = {
    "ingestion": ["ingestion"],
    "transformation": ["transformation"],
    "need_gate": ["need_gate"],
    "features": ["features", "need_gate"],
    "exploration": ["exploration", "need_gate"],
    "building": ["exploration"],
    "training": ["exploration"],
    "evaluation": ["exploration", "need_gate"],
    "validation_gate": ["exploration"],
    "deployment": ["exploration", "features"],
    "serving": ["exploration", "features"],
    "monitoring": ["ingestion", "transformation", "need_gate", "exploration", "features"],
    "retraining": ["ingestion", "transformation", "need_gate", "exploration", "features"],
}
"""Stage -> the modules of the project's own that it imports: what it reads of checks, cleaning, rules, features, models."""

EXAMPLES = {
    "ingestion": """\
# from mlloop.own import check
#
# @check("delivered before it was ordered")        # in the statement: tables: ...: checks: [delivered_before_ordered]
# def delivered_before_ordered(columns):
#     return columns["delivered_at"] < columns["ordered_at"]""",
    "transformation": """\
# from mlloop.cleaning import Step, rule
#
# @rule                                            # in the statement: cleaning: [{rule: without_dashes, columns: [code]}]
# def without_dashes(table, columns, context):
#     return Step(table, {name: table[name].replace("-", "") for name in columns})""",
    "need_gate": """\
# from mlloop.own import rule
#
# @rule                                            # in the statement: rules: [{name: usual, meaning: ..., function: usual}]
# def usual(rows):
#     return rows.amount / rows.limit              # higher means more of the positive class; or the predicted number""",
    "features": """\
# from mlloop.definitions import feature
#
# @feature("row", amount_of_limit=("amount used of the limit", "share"))
# def use_of_limit(rows):
#     return {"amount_of_limit": rows.amount / rows.limit}""",
    "exploration": """\
# from mlloop.candidates import candidate, spread
# from sklearn.ensemble import ExtraTreesClassifier
# from sklearn.pipeline import Pipeline
#
# @candidate("extra_trees", ["classification"], space={"min_samples_leaf": [5, 20, 50]}, complexity=3)
# def extra_trees(task, seed, min_samples_leaf=20):
#     \"\"\"Randomised trees, averaged.\"\"\"
#     model = ExtraTreesClassifier(200, min_samples_leaf=min_samples_leaf, random_state=seed)
#     return Pipeline([("columns", spread()), ("model", model)])""",
}
PLACES = {
    "ingestion": "A check of rows: what it is true of is set aside at ingestion, with its reason.",
    "transformation": "A cleaning step, counted and shown like those of mlloop.",
    "need_gate": "A business rule: what would be done without a model. Both gates compare with it.",
    "features": "A feature, from what is known at the moment of the decision.",
    "exploration": "A model to try beside those of mlloop; what wins goes on to training.",
}


@dataclass
class Wanted:
    """What the person asked for; None where it is to be found out.

    Attributes
    ----------
    data : str
        A file, a glob or folder of files, or a database's URL.
    target, time, id, user, item : str or None
        Columns.
    task : str or None
        'classification', 'regression' or 'recommendation'.
    positive : str or None
        The class that is looked for.
    """

    data: str
    target: str | None = None
    time: str | None = None
    id: str | None = None
    user: str | None = None
    item: str | None = None
    task: str | None = None
    positive: str | None = None
    table: str | None = None
    query: str | None = None


@dataclass
class Made:
    """What was made: the project's folder and what there is to say about it, in order."""

    root: Path
    name: str
    said: list[tuple[str, str]] = field(default_factory=list)
    leaks: dict[str, str] = field(default_factory=dict)


Ask = Callable[[str, Sequence[str], str | None], str]


def new(folder: Path, wanted: Wanted, ask: Ask | None = None) -> Made:
    """Make a project in `folder` from a data file, whole or not at all.

    Parameters
    ----------
    folder : Path
        Must not exist, or be empty.
    ask : callable (question, choices, default) -> str, optional
        Asks the person for what is missing; without it a missing target is an error.

    Raises
    ------
    UsageError, SourceError, DataError
    """
    root = Path(folder).expanduser().resolve()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError("is not empty", str(root), "Choose another folder, or empty it")
    name = _slug(root.name)
    looked = survey.look(wanted.data, wanted.table, wanted.query)
    columns = survey.columns_of(looked)
    for option in ("target", "time", "id", "user", "item"):
        _must_be_a_column(option, getattr(wanted, option), looked)
    statement = _statement(name, wanted, looked, columns, ask)
    made = Made(root, name, statement.pop("said"), statement.pop("leaks"))
    root.parent.mkdir(parents=True, exist_ok=True)
    with storage.atomic_path(root) as beside:
        beside.mkdir()
        data_said = _data(beside, root, looked, statement, made.said)
        _write(beside, name, statement, data_said)
        problems.load(beside / "problems" / f"{name}.yaml")
    return made


def _slug(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60]
    if not name:
        raise UsageError(f"{text!r} gives no name for the problem", next_step="Name the folder with letters: mlloop new churn ...")
    return name if name[0].isalpha() else f"p_{name}"


def _package(name: str) -> str:
    """The name of the project's package: one that hides no other."""
    taken = name in sys.stdlib_module_names or name in ("mlloop", "tests", "nbs", "data", "problems") or importlib.util.find_spec(name) is not None
    return f"{name}_project" if taken else name


def _must_be_a_column(option: str, column: str | None, looked: Looked) -> None:
    if column is not None and column not in looked.text.columns:
        told = f"--{option} {column!r} is not a column" + meant(column, list(looked.text.columns))
        raise UsageError(told, looked.source.path or looked.source.url, "Name one of them")


# ---------------------------------------------------------------------------------------------- the statement


def _statement(name: str, wanted: Wanted, looked: Looked, columns: dict[str, Guess], ask: Ask | None) -> dict[str, Any]:
    """What the template of the problem statement is filled with; and `said`, `leaks`."""
    if wanted.task not in (None, "classification", "regression", "recommendation"):
        kinds = "classification, regression, recommendation"
        raise UsageError(f"--task {wanted.task!r} is none of {kinds}", next_step=f"Example: {survey.EXAMPLE}")
    events = wanted.task == "recommendation" or wanted.user is not None or wanted.item is not None
    if not events and wanted.target is None:
        events = _is_about_events(wanted, looked, columns, ask)
    times = survey.times_of(looked, columns)
    time = wanted.time or (times[0] if times else None)
    said: list[tuple[str, str]] = []
    if time and not columns[time].is_time:
        raise UsageError(
            f"--time {time!r} holds no times that are understood, such as {looked.text[time].dropna().iloc[0]!r}",
            looked.source.path or looked.source.url,
            "Write them as 2025-03-31 or 2025-03-31T12:00, or leave --time out",
        )
    if time and not wanted.time and len(times) > 1 and ask:
        time = ask("Which column says when a row happened?", times, time)
    elif time and not wanted.time:
        others = f"; {', '.join(times[1:])} would do too: --time" if len(times) > 1 else ""
        said.append(("time", f"{time}, since it says when a row happened{others}"))
    make = _events if events else _rows
    given = make(name, wanted, looked, columns, time, said, ask)
    more = {"looked": _looked_at(looked, wanted), "source": _source(looked), "said": said, "table": given.get("table", "rows")}
    return {"suggested": _suggested(looked, columns, given), **more, **given}


def _is_about_events(wanted: Wanted, looked: Looked, columns: dict[str, Guess], ask: Ask | None) -> bool:
    events = survey.looks_like_events(looked, columns)
    if ask:
        hint = " (none: recommend items to users)" if events else ""
        answer = ask(f"Which column is to be predicted?{hint}", [*looked.text.columns, *(["none"] if events else [])], "none" if events else None)
        wanted.target = None if answer == "none" else answer
        return answer == "none"
    if events:
        return True
    raise UsageError(
        f"which column is to be predicted? There are: {', '.join(map(str, looked.text.columns))}",
        looked.source.path or looked.source.url,
        "Say it: --target COLUMN; or for recommendations: --user COLUMN --item COLUMN",
    )


def _looked_at(looked: Looked, wanted: Wanted) -> str:
    what = Path(looked.source.path).name if looked.source.path else (looked.source.table or "a query")
    seen = f" ({len(looked.text):,} of them closely)" if len(looked.text) < looked.rows else ""
    return f"{looked.rows:,} rows of {what}{seen}"


def _source(looked: Looked) -> dict[str, Any]:
    return {k: v for k, v in looked.source.model_dump(exclude_defaults=True).items() if v is not None}


def _rows(name, wanted: Wanted, looked: Looked, columns: dict[str, Guess], time, said, ask) -> dict[str, Any]:
    """A classification or a regression."""
    target = wanted.target
    assert target is not None
    kind, positive = _kind(wanted, looked, columns[target], target, said, ask)
    y = survey.as_number(columns[target], kind, positive)
    if y.dropna().nunique() < 2:
        raise DataError(f"has one value only: {looked.text[target].dropna().iloc[0]!r}" if y.notna().any() else "has no value", f"target {target!r}", "Name another: --target COLUMN")
    windows = survey.windows_of(columns[time].values) if time else None
    if time and windows is None:
        span = columns[time].values
        said.append(("time", f"{time} spans less than 8 days ({span.min()} to {span.max()}): too short to hold days out, so it is not used as the time"))
        time = None
    key = wanted.id or survey.key_of(looked, columns)
    unique = key is not None and looked.distinct[key] >= 0.98 * looked.rows and looked.missing[key] == 0
    if key and looked.distinct[key] < looked.rows:
        extra = "identical rows are dropped, others of the same key set aside" if unique else "its rows belong together"
        said.append(("key", f"{key} comes more than once ({looked.distinct[key]:,} values in {looked.rows:,} rows): {extra}"))
    found = survey.leaks(columns, y, kind, [target, *([key] if key else [])], columns[time].values if time else None)
    found = {column: sign for column, sign in found.items() if column != time}
    usable = [n for n, one in columns.items() if n not in (target, key, time, *found) and one.column.feature]
    before = columns[time].values < pd.Timestamp(windows["as_of"]) - pd.Timedelta(days=windows["holdout_days"]) if time and windows else None
    learnt = y[before] if before is not None and before.sum() > 50 else y
    rule = survey.first_rule(columns, usable, learnt, kind)
    task = [f"kind: {kind}", "table: rows", f"target: {scalar(target)}"]
    task += [f"positive: {scalar(_typed(positive, columns[target]))}"] if kind == "classification" else []
    task += [f"entity: {scalar(key)}"] if key else []
    said[:0] = _headline(kind, target, positive, columns[target], y, looked)
    if not time:
        said.append(("without a time column", "folds and the held-out fifth are drawn by chance: the figures hold for rows like these, not for later ones; nothing can be said of drift, of how long a model stays right, or of when to retrain"))
    return {
        "heading": f"{target}: {_question(kind, target, positive)}",
        "name": name,
        "question": _question(kind, target, positive),
        "decision": f"(say what is done with a predicted {target}, and what a wrong one costs)",
        "task": task,
        "time_said": _time_said(time, windows),
        "time": _time(time, windows),
        "key": [key] if key and unique else [],
        "table_time": time,
        "columns": _columns(columns, {target: "target", **({key: "key"} if key else {}), **({time: "time"} if time else {})}, found, kind),
        "cleaning": [rule for n, one in columns.items() if one.column.feature for rule in one.cleaning],
        "rules": [rule],
        "leaks": found,
        **_success(kind, y, survey.slices_of(columns, usable, looked.rows), looked, windows),
    }


def _kind(wanted, looked, target: Guess, name: str, said, ask) -> tuple[str, str | None]:
    kind = wanted.task or survey.kind_of(target)
    if target.is_time:
        raise DataError("holds times, which cannot be predicted as they are", f"target {name!r}", "Name another: --target COLUMN")
    if kind == "regression" and not target.is_number:
        example = looked.text[name].dropna().iloc[0]
        raise UsageError(f"--task regression needs numbers; {name} holds values such as {example!r}", next_step="Leave --task out, or name another --target")
    if kind == "regression":
        return kind, None
    counts = survey.classes_of(target)
    if len(counts) > 50:
        raise DataError(f"has {len(counts):,} different values, which is too many classes to tell apart", f"target {name!r}", "Name another: --target COLUMN")
    positive = wanted.positive
    if positive is not None and positive not in counts.index:
        raise UsageError(f"--positive {positive!r} is not a value of {name}" + meant(positive, list(counts.index)), next_step="Name one of them")
    if positive is None:
        positive = survey.positive_of(counts)
        if len(counts) > 2 and ask:
            positive = ask(f"{name} has {len(counts)} classes. Which one is looked for, against the rest?", list(counts.index), positive)
        elif len(counts) > 2:
            said.append(("classes", f"{name} has {len(counts)} ({', '.join(counts.index[:6])}{', ...' if len(counts) > 6 else ''}); {positive} is looked for, against the rest: --positive"))
    return kind, positive


def _typed(positive: str | None, target: Guess) -> Any:
    """The positive class in the type of its column."""
    if target.column.type == "boolean":
        return str(positive).lower() in ("true", "yes", "y", "t", "1")
    if target.column.type in ("integer", "number") or target.cleaning:
        return int(float(positive or 0)) if float(positive or 0).is_integer() else str(positive)
    return positive


def _question(kind: str, target: str, positive: str | None) -> str:
    return f"Which rows have {target} = {positive}?" if kind == "classification" else f"What is {target}?"


def _headline(kind, target, positive, column: Guess, y: pd.Series, looked: Looked) -> list[tuple[str, str]]:
    lost = int(y.isna().sum())
    without = f"; {lost:,} rows without it are left out" if lost else ""
    if kind == "classification":
        return [("question", f"{_question(kind, target, positive)} ({y.mean():.1%} of {looked.rows:,} rows do{without})")]
    return [("question", f"{_question(kind, target, positive)} ({y.median():.4g} in the middle, 9 of 10 between {y.quantile(0.05):.4g} and {y.quantile(0.95):.4g}; {looked.rows:,} rows{without})")]


def _time_said(time: str | None, windows: dict[str, Any] | None) -> list[str]:
    if not time or not windows:
        return [
            "No column says when a row happened. What that costs: folds and the held-out fifth are drawn by chance, so the",
            "figures hold for rows like these and not for later ones; nothing can be said of drift, of how long a model stays",
            "right, or of when to retrain. Once a column says it: time: {column: NAME} here, and time: NAME in the table.",
        ]
    return [
        f"{windows['days']:,} days of history. Everything is computed as of a moment; the last holdout_days before it are held out and",
        "read once. label_delay_days: how long after a row its answer is known. 0 is a guess: look.",
    ]


def _time(time: str | None, windows: dict[str, Any] | None) -> dict[str, Any]:
    if not time or not windows:
        return {"as_of": survey.today(), "folds": 4}
    return {"column": time, **{k: windows[k] for k in ("as_of", "holdout_days", "folds", "fold_days")}, "label_delay_days": 0}


def _columns(columns: dict[str, Guess], roles: dict[str, str], leaks: dict[str, str], kind: str) -> list[dict[str, Any]]:
    shown = []
    for name, one in columns.items():
        spec, why, role = one.column.model_dump(exclude_defaults=True), one.why, roles.get(name)
        if role == "target":
            spec.pop("feature", None)
            spec, why = {**spec, "known": "after"}, "what is asked" + (f"; {why}" if why else "")
        elif role in ("key", "time"):
            spec["required"] = True
            spec |= {"feature": False} if role == "key" else {}
            why = "says who" if role == "key" else why
        elif name in leaks:
            spec["known"] = "after"
            why = f"LEAK? {leaks[name]}. If it is really known before the answer, take `known: after` away"
        shown.append({"name": name, "spec": spec, "why": why.replace("\n", " ")})
    return shown


def _success(kind: str, y: pd.Series, slices: list[str], looked: Looked, windows) -> dict[str, Any]:
    rows, days = looked.rows, (windows or {}).get("holdout_days", 28)
    every = int(np.clip(days // 4, 1, 28))
    span = (windows or {}).get("days", 365)
    in_period = max(20, int(rows * every / max(span, 1)))
    retrain = {"every_days": every, "min_labelled_rows": max(50, min(500, in_period)), "cooldown_days": 2 * every}
    canary = {"share": 0.2, "min_rows": max(20, min(500, in_period // 5)), "deadline_days": 2 * every}
    need: dict[str, Any] = {"min_rows": int(min(1000, max(200, rows // 2)))}
    if kind == "classification":
        fewer = int(min((y == 1).sum(), (y == 0).sum()) * rows / max(1, y.notna().sum()))
        need["min_positives"] = int(min(100, max(20, fewer // 2)))
        success = {"metric": "roc_auc", "threshold": 0.7, "min_gain": 0.02, "slices": slices, "max_slice_gap": 0.15}
        told = "0.7 is a usual first demand, no more: ask for what the decision needs."
        money = {"currency": "EUR", "true_positive": 0, "false_positive": 0, "false_negative": 0, "true_negative": 0, "ml_per_period": 0}
        return {"success": success, "success_said": told, "need": need, "retrain": retrain, "canary": canary, "money": money, "money_said": "State what each outcome of a decision brings or costs."}
    usual = float((y - y.median()).abs().mean())
    rounded = lambda value: float(f"{value:.3g}")
    success = {"metric": "mae", "threshold": rounded(0.8 * usual), "min_gain": rounded(0.02 * usual), "slices": slices, "max_slice_gap": rounded(0.5 * usual)}
    told = f"Always saying the median is {usual:.4g} off on average; a fifth less is a first demand, no more: ask for what the decision needs."
    return {
        "success": success,
        "success_said": told,
        "need": need,
        "retrain": retrain,
        "canary": canary,
        "money": {"currency": "EUR", "per_unit_error": 0, "ml_per_period": 0},
        "money_said": "State what one unit of error costs.",
    }


def _events(name, wanted: Wanted, looked: Looked, columns: dict[str, Guess], time, said, ask) -> dict[str, Any]:
    """A recommendation: who touched what, and when."""
    parts = survey.parts_of_events(looked, columns)
    user, item = wanted.user or parts["user"], wanted.item or parts["item"]
    if ask and not user:
        user = ask("Which column says who?", list(looked.text.columns), None)
    if ask and not item:
        item = ask("Which column says what was bought or looked at?", list(looked.text.columns), None)
    lacking = [word for word, one in {"--user": user, "--item": item, "--time": time}.items() if not one]
    windows = survey.windows_of(columns[time].values, True) if time else None
    if lacking or windows is None:
        told = f"recommendations need to know who, what and when; say {', '.join(lacking)}" if lacking else f"{time} spans less than 8 days: too short to hold days out"
        raise UsageError(told, looked.source.path or looked.source.url, "Example: mlloop new shop --data sales.csv --user customer --item product --time sold_at")
    if item != parts["item"]:
        parts = {**parts, "name": None, "category": None}
    kinds = survey.kind_column_of(columns)
    event = {"table": "events", "user": user, "item": item, "time": time}
    event |= {"kind_column": kinds[0]} if kinds else {"kind": "purchase"}
    event |= {what: parts[what] for what in ("quantity", "price") if parts[what] and parts[what] not in (user, item)}
    items = {"table": "events", "item": item, **{w: parts[w] for w in ("name", "category", "price") if parts[w]}}
    known = looked.text[[user, item]].dropna()
    again = float(known.duplicated().mean()) if len(known) else 0.0
    task = ["kind: recommendation", "interactions:", f"  - {flow(event)}"]
    task += [f"items: {flow(items)}"] if parts["name"] or parts["category"] else []
    task += [f"target_kind: {scalar(kinds[1] if kinds else 'purchase')}", "k: 10"]
    task += [f"repeats: true  # {again:.0%} of the rows repeat an item of the same user; false never shows it again"]
    unknown = looked.missing[user]
    said[:0] = [("question", f"Which 10 of {looked.distinct[item]:,} values of {item} should each of {looked.distinct[user]:,} {user} be shown? ({looked.rows:,} rows"
                 + (f"; {unknown:,} without {user} cannot be learnt from)" if unknown else ")"))]  # fmt: skip
    roles = {user: "id", item: "id"}
    shown = _columns({n: _as_name(looked, n, one) if n in roles else one for n, one in columns.items()}, {time: "time"}, {}, "recommendation")
    for one in shown:
        one["spec"].pop("feature", None)
        if one["name"] == item:
            one["spec"]["required"] = True
    rules = [{"name": "best_sellers_30d", "meaning": "what sold most in the last 30 days", "popular_days": 30}]
    if parts["category"]:
        rules.append({"name": "best_sellers_of_category", "meaning": "what sold most in the user's favourite category", "popular_days": 30, "by": "category"})
    every = max(1, windows["holdout_days"] // 4)
    return {
        "table": "events",
        "heading": f"{item} for {user}",
        "name": name,
        "question": f"Which ten {item} should each {user} be shown, so that one is taken in the next {windows['holdout_days']} days?",
        "decision": "(say where the ten are shown, and what is shown there today)",
        "task": task,
        "time_said": _time_said(time, windows),
        "time": {k: windows[k] for k in ("as_of", "holdout_days", "folds", "fold_days")},
        "key": [],
        "table_time": time,
        "columns": shown,
        "cleaning": [],
        "rules": rules,
        "leaks": {},
        "success": {"metric": "ndcg", "threshold": 0.05, "min_gain": 0.005, "slices": ["activity"], "max_slice_gap": 0.2, "min_slice_rows": 100},
        "success_said": "NDCG@10 of 0.05 is a first demand, no more: ask for what the decision needs.",
        "need": {"min_rows": int(min(5000, max(500, looked.rows // 2))), "min_users": int(min(200, max(20, looked.distinct[user] // 10)))},
        "retrain": {"every_days": every, "min_labelled_rows": 200, "cooldown_days": 2 * every},
        "canary": {"share": 0.2, "min_rows": 100, "deadline_days": 2 * every},
        "money": {"currency": "EUR", "per_hit": 0, "ml_per_period": 0},
        "money_said": "State what one shown item that is taken brings.",
    }


def _as_name(looked: Looked, name: str, one: Guess) -> Guess:
    """A user's or an item's column: text, whatever it looks like; whole numbers stay whole."""
    kind: Any = "integer" if one.column.type == "integer" else "text"
    return Guess(problems.Column(type=kind), "", looked.text[name])


def _suggested(looked: Looked, columns: dict[str, Guess], given: dict[str, Any]) -> list[dict[str, Any]]:
    """Further cleaning rules that the values speak for, for the person to switch on."""
    import ibis

    from mlloop import profiling

    if given.get("table") == "events":
        return []
    done = {tuple(rule["columns"]) for rule in given["cleaning"]}
    texts = [n for n, one in columns.items() if one.column.type in ("text", "category") and not one.is_number][:30]
    if not texts:
        return []
    rules = profiling.suggest_cleaning(ibis.memtable(looked.text[texts].head(5000).astype("string")))
    shown = [rule.model_dump(exclude_defaults=True) for rule in rules if tuple(rule.columns) not in done]
    return [rule for i, rule in enumerate(shown) if rule not in shown[:i]]


# ---------------------------------------------------------------------------------------------- YAML


PLAIN = re.compile(r"^[A-Za-z_][\w./-]*( [\w./-]+)*$")
RESERVED = {"y", "n", "yes", "no", "true", "false", "on", "off", "null", "none", "nan"}


def scalar(value: Any) -> str:
    """A value as YAML writes it, quoted where it could be read as something else."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    text = str(value)
    return text if PLAIN.match(text) and text.lower() not in RESERVED else json.dumps(text, ensure_ascii=False)


def flow(value: Any) -> str:
    """Lists and mappings on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(one) for one in value) + "]"
    return scalar(value)


# ---------------------------------------------------------------------------------------------- the files


def _data(beside: Path, root: Path, looked: Looked, statement: dict[str, Any], said: list[tuple[str, str]]) -> str:
    """Copy the data into the project where it is not too large; what README says of it."""
    source = statement["source"]
    if source["kind"] == "sql":
        hidden = re.sub(r"^(\w+(?:\+\w+)?://[^:/@]+):[^@]+@", r"\1:${DATABASE_PASSWORD}@", source["url"])
        if hidden != source["url"]:
            said.append(("password", "not written down: set DATABASE_PASSWORD before a run"))
        source["url"] = hidden
        return "empty: the rows come from a database"
    size = sum(file.stat().st_size for file in looked.files)
    if size > COPIED_BYTES:
        said.append(("data", f"read where it lies ({size / 1e6:,.0f} MB): {source['path']}"))
        return f"empty: the rows are read from {source['path']}"
    folder = beside / "data"
    folder.mkdir()
    for file in looked.files:
        shutil.copyfile(file, folder / file.name)
    source["path"] = f"data/{looked.files[0].name}" if len(looked.files) == 1 else f"data/*{_common_suffix(looked.files)}"
    said.append(("data", f"copied to {os.path.relpath(root)}/data ({size / 1e6:,.1f} MB); git does not take it"))
    return "a copy of what `mlloop new` was given; git does not take it (see .gitignore)"


def _common_suffix(files: list[Path]) -> str:
    suffixes = {"".join(file.suffixes[-2:]) if file.name.endswith(".gz") else file.suffix for file in files}
    return suffixes.pop() if len(suffixes) == 1 else ""


def _write(root: Path, name: str, statement: dict[str, Any], data_said: str) -> None:
    package = _package(name)
    requirement, told = mlloop_requirement()
    given = {**statement, "package": package, "data_said": data_said, "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
             "mlloop_said": told, "told": f"{statement['question']} Made with [mlloop](https://pypi.org/project/mlloop/) {version()}."}  # fmt: skip
    places = {
        "problem.yaml": f"problems/{name}.yaml",
        "gitignore": ".gitignore",
        "check.yml": ".github/workflows/check.yml",
        "test_project.py": "tests/test_project.py",
    }
    for template in ("problem.yaml", "pyproject.toml", "Makefile", "gitignore", "check.yml", "env.yaml", "test_project.py", "README.md"):
        storage.write_text(root / places.get(template, template), _filled(template, given))
    for whole in ("settings.ini", "pipeline.yaml"):
        storage.write_text(root / whole, (TEMPLATES / whole).read_text(encoding="utf-8"))
    storage.write_text(root / "requirements.txt", f"# which mlloop this project runs on\n{requirement}\n")
    storage.write_text(root / "requirements.lock", "# the exact versions this project was made with\n" + "\n".join(locked()) + "\n")
    storage.write_text(root / package / "__init__.py", f'"""What {name} adds to mlloop of its own; each module is exported from the notebook of its stage."""\n\n__version__ = "0.1.0"\n')
    for source in stage_notebooks():
        write_notebook(root / "nbs" / source.name, source, name, package)
    export(root)


def _filled(template: str, given: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"y": scalar, "flow": flow, "json": json.dumps}
    return environment.get_template(template).render(**given)


def version() -> str:
    """The version of mlloop that is installed."""
    try:
        return importlib.metadata.version("mlloop")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def mlloop_requirement() -> tuple[str, str]:
    """How a new environment gets the mlloop that made the project: a requirement, and what README says of it."""
    try:
        direct = json.loads(importlib.metadata.distribution("mlloop").read_text("direct_url.json") or "{}")
    except importlib.metadata.PackageNotFoundError:
        direct = {"url": Path(__file__).resolve().parents[1].as_uri(), "dir_info": {"editable": True}}
    url, commit = direct.get("url", ""), direct.get("vcs_info", {}).get("commit_id")
    if commit:
        return f"mlloop @ git+{url}@{commit}", ""
    if url.startswith("file://"):
        place = url.removeprefix("file://")
        line = f"-e {place}" if direct.get("dir_info", {}).get("editable") else f"mlloop @ {url}"
        return line, f"`requirements.txt` names mlloop by its place on this machine ({place}), which a build elsewhere does not have: write `mlloop=={version()}` there once it is to be had by name."
    return f"mlloop=={version()}", ""


def locked(extra: Sequence[str] = ("pytest",)) -> list[str]:
    """name==version of everything mlloop needs, as installed here; local versions such as +cpu left out."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    waiting = [*(importlib.metadata.requires("mlloop") or []), *extra]
    seen = set()
    while waiting:
        one = Requirement(waiting.pop())
        extras = [*(one.extras or ()), ""]
        if one.marker and not any(one.marker.evaluate({"extra": e}) for e in extras):
            continue
        name = canonicalize_name(one.name)
        try:
            dist = importlib.metadata.distribution(one.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = dist.version.partition("+")[0]
        for e in extras:
            if (name, e) not in seen:
                seen.add((name, e))
                waiting += [r for r in dist.requires or [] if _asked(Requirement(r), e)]
    return sorted(f"{name}=={number}" for name, number in found.items())


def _asked(one, extra: str) -> bool:
    return one.marker is None or one.marker.evaluate({"extra": extra})


# ---------------------------------------------------------------------------------------------- notebooks


def stage_notebooks() -> list[Path]:
    """The notebooks of the stages that this mlloop has: those with a Run act."""
    found = [path for path in sorted(STAGES.glob("[12]*.ipynb")) if len(_run_cells(_read(path))) > 1]
    if not found:
        raise SettingsError("the stages' notebooks are not there", str(STAGES), "Install mlloop again")
    return found


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        cell["source"] = "".join(cell["source"])
    return content


def _run_cells(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The Run act: from its heading on, its code cells and the prose between them."""
    cells = content["cells"]
    marked = [i for i, cell in enumerate(cells) if is_run_cell(cell)]
    if len(marked) < 2:
        return []
    first = marked[0]
    while first and cells[first - 1]["cell_type"] == "markdown":
        first -= 1
    return [cell for i, cell in enumerate(cells) if i >= first and (cell["cell_type"] == "markdown" or i in marked)]


def write_notebook(path: Path, source: Path, name: str, package: str) -> bool:
    """Write a stage's notebook of a project, its own cells kept where it is there already; returns whether it changed."""
    stage = source.stem.split("_", 1)[1]
    before = _read(path)["cells"] if path.exists() else None
    act = _act(_run_cells(_read(source)), stage, name, package)
    if before is None:
        ours = _beginning(_read(source), stage, package)
    else:
        run = _run_cells({"cells": before})
        ours = [cell for cell in before if not any(cell is one for one in run)]
    cells = [{**cell, "source": cell["source"].splitlines(keepends=True)} for cell in [*ours, *act]]
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    text = json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    storage.write_text(path, text)
    return True


def _act(cells: list[dict[str, Any]], stage: str, name: str, package: str) -> list[dict[str, Any]]:
    """The Run act for a project: asked for its problem, and importing first what of its own the stage depends on."""
    made: list[dict[str, Any]] = []
    for cell in cells:
        source = re.sub(r'^problem = "\w+"$', f'problem = "{name}"', cell["source"], flags=re.MULTILINE)
        made.append({**cell, "source": source, **({"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {})})
        if "parameters" in cell["metadata"].get("tags", []) and stage in USES:
            lines = "\n".join(f"import {package}.{module}" for module in USES[stage])
            made.append(_code(f"#| pipeline\n# what this project adds of its own; a change there makes this stage stale\n{lines}", f"own-{stage}"))
    return made


def _beginning(content: dict[str, Any], stage: str, package: str) -> list[dict[str, Any]]:
    title = next(cell["source"] for cell in content["cells"] if cell["cell_type"] == "markdown")
    cells = [_prose(title, f"title-{stage}")]
    if stage not in EXAMPLES:
        return cells
    told = f"{PLACES[stage]} Write it in a cell that begins with `#| export`, then `make export`; importing `{package}.{stage}` registers it."
    return [
        *cells,
        _code(f"#| default_exp {stage}", f"module-{stage}"),
        _prose(f"## Your own\n\n{told}", f"place-{stage}"),
        _code(f"#| export\n# An example; take the marks off and make it yours.\n#\n{EXAMPLES[stage]}", f"own-{stage}-example"),
    ]


def _code(source: str, cell: str) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": None, "id": cell, "metadata": {}, "outputs": [], "source": source}


def _prose(source: str, cell: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": cell, "metadata": {}, "source": source}


def export(root: Path) -> None:
    """Write the project's modules from its notebooks, as nbdev-export does."""
    import subprocess

    done = subprocess.run([sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"], cwd=root, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing was said"]
        raise SettingsError(f"the notebooks cannot be exported: {last[0]}", str(root), "Mend the notebook, then: nbdev-export")


# ---------------------------------------------------------------------------------------------- moving on


def upgrade(root: Path) -> list[str]:
    """Renew the Run acts and pipeline.yaml of a project to those of this mlloop; says what changed.

    Cells above the Run act, stages of the project's own and everything else stay as they are.
    """
    from mlloop import own

    package = own.package(root)
    if package is None or package == "mlloop":
        raise SettingsError("is not a project made by mlloop new", str(root), "Begin one: mlloop new DIR --data FILE --target COLUMN")
    name = (yaml.safe_load((root / "env.yaml").read_text(encoding="utf-8")) or {}).get("problem", package)
    told = []
    for source in stage_notebooks():
        path = root / "nbs" / source.name
        was = path.exists()
        if write_notebook(path, source, str(name), package):
            told.append(f"nbs/{source.name}: {'its Run act is that of mlloop ' + version() if was else 'new in mlloop ' + version()}")
    path = root / "pipeline.yaml"
    renewed = _renewed(path.read_text(encoding="utf-8"), (TEMPLATES / "pipeline.yaml").read_text(encoding="utf-8"))
    if renewed is not None:
        storage.write_text(path, renewed)
        told.append(f"pipeline.yaml: the stages are those of mlloop {version()}; stages of your own stay")
    if told:
        export(root)
    return told


def _renewed(mine: str, theirs: str) -> str | None:
    """pipeline.yaml with every stage of mlloop as it is now, and further ones kept behind them; None where nothing changes."""
    ours, new = (yaml.safe_load(text) or {} for text in (mine, theirs))
    known = {task["name"] for task in new["tasks"]}
    extra = [task for task in ours.get("tasks") or [] if task.get("name") not in known]
    same = [task for task in ours.get("tasks") or [] if task.get("name") in known] == new["tasks"]
    if same and ours.get("meta") == new.get("meta"):
        return None
    more = yaml.safe_dump(extra, sort_keys=False, allow_unicode=True, width=120) if extra else ""
    return theirs + ("\n" + textwrap.indent(more, "  ") if more else "")
