"""Writes down what was found out about a table as the parts of a problem statement, guesses marked as such."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mlloop import problem as problems
from mlloop.core import prose
from mlloop.core.errors import DataError, UsageError
from mlloop.core.formatting import number, percent
from mlloop.core.records import JsonObject
from mlloop.data import dependence, parsing
from mlloop.problem import did_you_mean
from mlloop.scaffold import survey, times
from mlloop.scaffold.survey import DraftWindows, Guess, SourceSample

Ask = Callable[[str, Sequence[str], str | None], str]


@dataclass
class ProjectOptions:
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
    history : int
        Days at the end of the data that are left for `mlloop loop`.
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
    history: int = 0


def _must_be_a_column(option: str, column: str | None, sample: SourceSample) -> None:
    if column is not None and column not in sample.text.columns:
        what = f"--{option} {column!r} is not a column" + did_you_mean(column, list(sample.text.columns))
        raise UsageError(what, sample.source.path or sample.source.url, "Name one of them")


# ---------------------------------------------------------------------------------------------- the statement


def statement(
    name: str, options: ProjectOptions, sample: SourceSample, columns: dict[str, Guess], ask: Ask | None
) -> JsonObject:
    """What the template of the problem statement is filled with; and `notes`, `leaks`."""
    if options.task not in (None, "classification", "regression", "recommendation"):
        kinds = "classification, regression, recommendation"
        raise UsageError(f"--task {options.task!r} is none of {kinds}", next_step=f"Example: {survey.EXAMPLE}")
    for option in ("target", "time", "id", "user", "item"):
        _must_be_a_column(option, getattr(options, option), sample)
    events = options.task == "recommendation" or options.user is not None or options.item is not None
    if not events and options.target is None:
        events = _is_about_events(options, sample, columns, ask)
    notes: list[tuple[str, str]] = []
    if not events:
        _look_closely(sample, columns, notes)
    able = survey.times_of(sample, columns)
    time = options.time or (able[0] if able and events else None)
    if time and not columns[time].is_time and not events:
        moment = times.of_years(sample, columns, time)
        if moment:
            notes.append(("time", f"{moment}, made of {time}"))
            time = options.time = moment
    if time and not columns[time].is_time:
        raise UsageError(
            f"--time {time!r} holds no times that are understood, such as {sample.text[time].dropna().iloc[0]!r}",
            sample.source.path or sample.source.url,
            "Write them as 2025-03-31 or 2025-03-31T12:00, or leave --time out",
        )
    if time and not options.time and len(able) > 1 and ask:
        time = ask("Which column says when a row happened?", able, time)
    elif time and not options.time:
        notes.append(_chosen_time(time, "it says when a row happened", able[1:]))
    if not sample.is_whole:
        note = f"{sample.rows:,}; types, leaks and figures come from {len(sample.text):,} of them, drawn evenly"
        notes.append(("rows", note))
    notes += [
        *sample.notes,
        *(("reading", f"{n}: {column.question}") for n, column in columns.items() if column.question),
    ]
    if time:
        notes += survey.set_aside_outlying(columns, time, sample.is_whole)
    make = _events if events else _rows
    parts = make(name, options, sample, columns, time, notes, ask)
    windows = parts.pop("windows", None)
    parts["guessed"] = _guessed(parts)
    notes += _history_notes(windows, parts["retrain"]["every_days"], options.history)
    more = {
        "sample_note": _sample_note(sample, options),
        "source": _source(sample),
        "notes": notes,
        "table": parts.get("table", "rows"),
        "until": f"{windows['until']:%Y-%m-%d}" if options.history and windows else None,
    }
    return {"suggested": _suggested(sample, columns, parts), **more, **parts}


def _chosen_time(time: str, why: str, others: Sequence[str]) -> tuple[str, str]:
    more = f"; {', '.join(others)} would do too: --time" if others else ""
    return ("time", f"{time}, since {why}{more}" if not why.startswith("made of") else f"{time}, {why}{more}")


def _look_closely(sample: SourceSample, columns: dict[str, Guess], notes: list[tuple[str, str]]) -> None:
    """What several columns say together: moments spread over them, and numbers that stand for a missing value."""
    times.add_moments(sample, columns)
    written = [n for n, guess in columns.items() if guess.column.type == "text" and prose.has_words(guess.values)]
    if written:
        shown = ", ".join(written[:6]) + (", ..." if len(written) > 6 else "")
        notes.append(("text", f"{shown} holds text: its words, its length and whether it is there are features"))
    for name in times.lone_zeros(columns):
        zeros = int((columns[name].values == 0).sum())
        notes.append(
            (
                "zeros",
                f"{name} is 0 in {zeros:,} rows and far above it in all others: if that means missing, say missing: ['0']",
            )
        )
    for value, names in times.take_out_sentinels(sample, columns).items():
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        notes.append(
            ("missing values", f"{value:.10g} stands far from all other values of {shown}: it counts as missing")
        )


def _time_of_rows(
    options: ProjectOptions, sample: SourceSample, columns: dict[str, Guess], y: pd.Series, kind: str, notes, ask, order
) -> tuple[str | None, dict[str, str]]:
    """The time of the rows, and the times that know the target, each with its sign; `order()` says what the file's is."""
    choice = times.choose(sample, columns, y, kind)
    if options.time:
        return options.time, {n: sign for n, sign in choice.after.items() if n != options.time}
    time = choice.name
    if time and choice.others and ask:
        time = ask("Which column says when a row happened?", [time, *choice.others], time)
    if time and columns[time].values.max() - columns[time].values.min() >= pd.Timedelta(days=7):
        notes.append(_chosen_time(time, choice.why, choice.others))
        notes += survey.set_aside_outlying(columns, time, sample.is_whole)
    notes += [("not the time", f"{name} {sign}: it is written after the target") for name, sign in choice.after.items()]
    if time is None:
        ordered = times.file_order(sample, columns, y, options.target, order())
        if ordered:
            time, columns[ordered[0]], sign = ordered
            note = (
                f"no column says when a row happened, but {sign}: rows are not shuffled, later ones are predicted from earlier ones. "
                "If a column holds the time, name it: --time"
            )
            notes.append(("order of the file", note))
    return time, choice.after


def _windows(
    options: ProjectOptions,
    sample: SourceSample,
    columns: dict[str, Guess],
    time: str | None,
    recommendation: bool = False,
    y: pd.Series | None = None,
    unknown_days: int = 0,
) -> DraftWindows | None:
    """The windows of the rows before the history that is left for the loop; None where they are too short.

    Raises
    ------
    UsageError
        A history is asked for, and there is no time, or too little before it.
    """
    later = max(options.history, unknown_days)
    windows = survey.windows_of(columns[time].values, recommendation, later) if time else None
    windows = windows if recommendation or not time else times.filled(windows, columns[time].values, y)
    if not options.history or windows:
        return windows
    where = sample.source.path or sample.source.url
    if not time:
        raise UsageError("--history needs a column that says when a row happened", where, "Name it: --time COLUMN")
    span = (columns[time].values.max() - columns[time].values.min()).days + 1
    raise UsageError(
        f"--history {options.history} leaves less than 8 of {span:,} days to learn from", where,
        f"Leave fewer: --history {max(1, span // 3)}",
    )  # fmt: skip


def _history_notes(windows: DraftWindows | None, every: int, later: int) -> list[tuple[str, str]]:
    """What `new` says of the days that are left for the loop."""
    if not windows or not later:
        return []
    note = (
        f"the model learns from what was before {windows['as_of']:%Y-%m-%d}; the {later} days after it are left for the loop: "
        f"{later // every} turns of {every} days"
    )
    return [("history", note)]


def _is_about_events(options: ProjectOptions, sample: SourceSample, columns: dict[str, Guess], ask: Ask | None) -> bool:
    events = survey.looks_like_events(sample, columns)
    if ask:
        hint = " (none: recommend items to users)" if events else ""
        answer = ask(
            f"Which column is to be predicted?{hint}",
            [*sample.text.columns, *(["none"] if events else [])],
            "none" if events else None,
        )
        options.target = None if answer == "none" else answer
        return answer == "none"
    if events:
        return True
    raise UsageError(
        f"which column is to be predicted? There are: {', '.join(map(str, sample.text.columns))}",
        sample.source.path or sample.source.url,
        "Say it: --target COLUMN; or for recommendations: --user COLUMN --item COLUMN",
    )


GUESSED = {
    "success": ("threshold", "min_gain", "slices", "max_slice_gap", "min_slice_rows"),
    "need": ("min_rows", "min_positives", "min_users"),
    "retrain": ("every_days", "min_labelled_rows", "cooldown_days"),
    "canary": ("share", "min_rows", "deadline_days"),
}


def _guessed(parts: JsonObject) -> JsonObject:
    """The values that nobody stated, by their place in the statement."""
    return {f"{at}.{name}": parts[at][name] for at, names in GUESSED.items() for name in names if name in parts[at]}


def _sample_note(sample: SourceSample, options: ProjectOptions) -> str:
    what = Path(sample.source.path).name if sample.source.path else (sample.source.table or "a query")
    read_closely = f" ({len(sample.text):,} of them closely)" if len(sample.text) < sample.rows else ""
    return f"{sample.rows:,} rows of {what}{read_closely}"


def _source(sample: SourceSample) -> JsonObject:
    return {k: v for k, v in sample.source.model_dump(exclude_defaults=True).items() if v not in (None, {})}


def _rows(
    name, options: ProjectOptions, sample: SourceSample, columns: dict[str, Guess], time, notes, ask
) -> JsonObject:
    """A classification or a regression."""
    target = options.target
    assert target is not None
    if sample.text[target].isna().all():
        raise DataError("has no value", f"target {target!r}", "Name another: --target COLUMN")
    _words_of_target(sample, columns, target, notes)
    kind, positive = _kind(options, sample, columns[target], target, notes, ask)
    y = survey.as_number(columns[target], kind, positive).rename(target)
    if y.dropna().nunique() < 2:
        raise DataError(
            f"has one value only: {sample.text[target].dropna().iloc[0]!r}" if y.notna().any() else "has no value",
            f"target {target!r}",
            "Name another: --target COLUMN",
        )
    for of_target in [n for n, guess in columns.items() if target in guess.column.made_of]:
        del columns[of_target]  # it would tell the target
    order_of_file = cache(lambda: times.order_of(sample, columns, y, target))
    time, late = _time_of_rows(options, sample, columns, y, kind, notes, ask, order_of_file)
    classes = y if kind == "classification" else None
    unknown = _not_known_yet(columns, time, classes, notes)
    windows = _windows(options, sample, columns, time, y=classes, unknown_days=unknown)
    if time and windows is None:
        span = columns[time].values
        days = (span.max().date() - span.min().date()).days
        what = "spans less than 8 days" if days < 8 else "leaves no folds that hold rows"
        why = f"{time} {what} ({span.min()} to {span.max()}): too short to hold days out, so it is not used as the time"
        notes.append(("time", why))
        time, windows = _order_of_short(options, sample, columns, time, y, classes, notes)
    if time and windows:
        by_file_order, rows_each = columns[time].column.row_seconds is not None, sample.rows / len(sample.text)
        notes.append(("folds", times.rows_of_folds(windows, columns[time].values, rows_each, by_file_order)))
    years = times.unused_years(sample, columns, target) if time is None or columns[time].column.row_seconds else None
    if years:
        name_of_years, first, last = years
        note = f"{name_of_years} is {first} to {last}, in no order: if it says when a row happened, use it: --time {name_of_years}"
        notes.append(("time?", note))
    key = options.id or survey.key_of(sample, columns)
    unique = key is not None and sample.distinct[key] >= 0.98 * sample.rows and sample.missing[key] == 0
    entity = _entity_beside(key, sample, columns, y, target, time, notes) if key is not None and unique else key
    if key is None:
        key = entity = _group(sample, columns, y, target, time, notes)
    counted = _cross_table(sample, columns, target, [n for n in (key, time) if n])
    if counted:
        note = (
            f"{counted} seems to count the cases of a cross table, and each row is read as one case: "
            "to predict cases, write each of them as a row"
        )
        notes.append(("counts", note))
    repeats, once = _repeats(sample, bool(time and columns[time].column.row_seconds)) if key is None else ([], [])
    notes += repeats
    if key and sample.distinct[key] < sample.rows:
        extra = "identical rows are dropped, others of the same key set aside" if unique else "its rows belong together"
        notes.append(
            ("key", f"{key} comes more than once ({sample.distinct[key]:,} values in {sample.rows:,} rows): {extra}")
        )
    together = None
    if not (time or key or entity) and order_of_file() == "stretches":
        together, columns[together] = times.stretches(sample)
        notes.append(("order of the file", STRETCHES))
    order = columns[time].values if time else None
    made_time = {n for n, guess in columns.items() if guess.column.made_of and guess.is_time} - {time}
    for derived_time in made_time:
        del columns[derived_time]
    skip = [target, *(n for n in (key, entity, together, time) if n), *late]
    for counter in times.counters(columns, order, skip) if order is not None else []:
        columns[counter] = survey._changed(
            columns[counter], "only grows with the rows: it is always new in later ones", feature=False
        )
    parts = times.parts_of(columns, time) if time else set()  # of the row's own time: known when it happens
    asked_of = {n: g for n, g in columns.items() if g.column.feature and n not in parts}
    whose = columns[entity].values if entity and time else None
    signs = survey.leaks(asked_of, y, kind, skip, order, whose)
    leaks = {n: sign.reason for n, sign in signs.items() if sign.sure} | {n: s for n, s in late.items() if n in columns}
    unsure = {n: sign.reason for n, sign in signs.items() if not sign.sure}
    usable = [n for n, guess in columns.items() if n not in (*skip, *leaks, *unsure) and guess.column.feature]
    before = (
        columns[time].values < pd.Timestamp(windows["as_of"]) - pd.Timedelta(days=windows["holdout_days"])
        if time and windows
        else None
    )
    learnt = y[before] if before is not None and before.sum() > 50 else y
    rule, figure = survey.first_rule(columns, usable, learnt, kind)
    task = [f"kind: {kind}", "table: rows", f"target: {scalar(target)}"]
    task += [f"positive: {scalar(_typed(positive, columns[target]))}"] if kind == "classification" else []
    task += [f"entity: {scalar(entity)}"] if entity else []
    task += [f"together: {scalar(together)}"] if together else []
    notes[:0] = [*_headline(kind, target, positive, columns[target], y, sample), *_few(kind, y, sample)]
    if not time:
        notes.append(
            (
                "without a time column",
                "folds and the holdout fifth are drawn by chance: the figures hold for rows like these, not for later ones; "
                "nothing can be said of drift, of how long a model stays right, or of when to retrain",
            )
        )
    return {
        "heading": f"{target}: {_question(kind, target, positive)}",
        "name": name,
        "question": _question(kind, target, positive),
        "decision": f"(say what is done with a predicted {target}, and what a wrong one costs)",
        "task": task,
        "windows": windows,
        "time_note": _order_note(columns[time], sample)
        if time and columns[time].column.row_seconds
        else _time_note(time, windows),
        "time": _time(time, windows),
        "key": [key] if key and unique else [],
        "table_time": time,
        "columns": _columns(
            columns,
            {target: "target"}
            | ({key: "key"} if key else {})
            | ({entity: "entity"} if entity and entity != key else {})
            | ({time: "time"} if time else {}),
            leaks,
            kind,
            unsure,
        ),
        "cleaning": [*(rule for n, guess in columns.items() if guess.column.feature for rule in guess.cleaning), *once],
        "rules": [rule],
        "leaks": leaks,
        "asked": unsure,
        **_success(kind, y, figure, survey.slices_of(columns, usable, sample.rows), sample, windows),
    }


def _order_of_short(
    options: ProjectOptions,
    sample: SourceSample,
    columns: dict[str, Guess],
    time: str,
    y: pd.Series,
    classes: pd.Series | None,
    notes,
) -> tuple[str | None, DraftWindows | None]:
    """The rows' place in the file and the windows, where it stands in the order of a time that is too short to be cut by days; else nothing."""
    steps = columns[time].values.diff().dropna()
    in_order = len(steps) > 50 and bool((steps >= pd.Timedelta(0)).all()) and bool(steps.any())
    ordered = times.file_order(sample, columns, y, options.target) if in_order and not options.history else None
    if ordered is None:
        return None, None
    name, columns[name], _ = ordered
    windows = _windows(options, sample, columns, name, y=classes)
    if windows is None:
        del columns[name]
        return None, None
    note = f"the file stands in the order of {time}: rows are not shuffled, later ones are predicted from earlier ones"
    notes.append(("order of the file", note))
    columns[time] = survey._changed(
        columns[time], "it says when a row happened, and spans too few days to be cut by", feature=False
    )
    return name, windows


STRETCHES = (
    "neighbours in the file share the target, and the columns, or the groups that it is sorted by, say why: it is sorted by something that "
    "is no time. Folds are drawn by chance, and rows that follow one another stay on one side. If the file stands in the order of a time, "
    "name it: --time"
)


def _not_known_yet(columns: dict[str, Guess], time: str | None, y: pd.Series | None, notes) -> int:
    """The days at the end whose outcome does not seem to be known yet: no row of one class, where many were due."""
    unknown = times.not_known_yet(columns[time].values, y) if time and y is not None else None
    if unknown is None or columns[time or ""].column.row_seconds:
        return 0
    rows, days, since = unknown
    note = (
        f"none of the {rows:,} rows since {since:%Y-%m-%d} is of the rarer class, where many were due: their outcome is probably not "
        f"known yet. Everything is computed as of {since:%Y-%m-%d}; if they are right, set time.as_of later"
    )
    notes.append(("outcome not known yet", note))
    return days


def _entity_beside(
    key: str, sample: SourceSample, columns: dict[str, Guess], y: pd.Series, target: str, time: str | None, notes
) -> str | None:
    """Whose row it is where a column names each row: the store of a panel, nobody where it only counts a series, else what the key names."""
    panel = times.panel_of(sample, columns, time, (target, key)) if time else None
    if panel is not None:
        notes.append(_of_panel(panel, sample, time or ""))
        return panel
    if time and (key in columns[time].column.made_of or key == times.elapsed(sample, columns, target)):
        notes.append(("key", f"{key} is when a row happened: it names no person or thing"))
        return None
    if time and times.numbers_a_series(columns[key].values, columns[time].values, y):
        notes.append(
            (
                "key",
                f"{key} counts the rows of a series: it names no person or thing, so earlier rows may say something of later ones",
            )
        )
        return None
    return _group(sample, columns, y, target, time, notes, key) or key


def _of_panel(panel: str, sample: SourceSample, time: str, name: str = "") -> tuple[str, str]:
    note = (
        f"{panel}: {sample.distinct[name or panel]:,} values, each once at nearly every {time}; its own past is a feature, and the last value "
        "of each is a rule"
    )
    return "rows that belong together", note


def _group(
    sample: SourceSample, columns: dict[str, Guess], y: pd.Series, target: str, time: str | None, notes, key: str = ""
) -> str | None:
    """A column whose rows belong together, besides one that names each row: the store of a panel; a customer, a patient, a machine with several rows each."""
    panel = times.panel_of(sample, columns, time, (target,)) if time and not key else None
    if panel is not None:
        notes.append(_of_panel(panel, sample, time or ""))
        return panel
    pair = times.panel_of_two(sample, columns, time, (target,)) if time and not key else None
    if pair is not None:
        entity = times.add_entity(sample, columns, pair)
        notes.append(_of_panel(f"{entity}, made of {' and '.join(pair)}", sample, time or "", entity))
        return entity
    fewest = times.FEWEST_SERIES if time else times.FEWEST_STACKED
    series = times.counted_series(sample, columns, [n for n in (target, time, key) if n], fewest)
    if series is not None:
        name, counter = series
        many = f"{sample.distinct[name]:,} values in {sample.rows:,} rows"
        note = f"{name}: {many}, whose rows {counter} counts from the first; rows of one stay on one side of a fold"
        notes.append(("rows that belong together", note))
        return name
    subjects = [n for n, guess in columns.items() if survey.SUBJECT.search(n) and _are_labels(guess)]
    for name in dict.fromkeys([*subjects, *columns]):
        guess, is_subject = columns[name], name in subjects
        named = survey.NAMING.search(name) or survey.USER.search(name) or guess.column.type == "text" or is_subject
        measures = guess.is_time or bool(guess.cleaning)  # a number once it is cleaned
        if name in (target, time, key) or measures or not named or sample.missing.get(name, 1):
            continue
        alike = dependence.is_group(guess.values, y)
        if alike or (is_subject and 5 <= sample.distinct[name] <= sample.rows / 1.5):
            why = ", alike in the target" if alike else ""
            note = f"{name}: {sample.distinct[name]:,} values in {sample.rows:,} rows{why}; rows of one stay on one side of a fold"
            notes.append(("rows that belong together", note))
            return name
    return None


FEWEST_NUMBERED = 8  # things that are numbered; fewer numbers may count children
FREQUENCY = re.compile(r"^(freq(uency)?|counts?|n|num|number|cases|weights?|wt)$", re.I)


def _cross_table(sample: SourceSample, columns: dict[str, Guess], target: str, skip: Sequence[str]) -> str | None:
    """The column that says how often each combination of the others is there, one row a combination."""
    counts = [
        n for n, guess in columns.items() if FREQUENCY.search(n) and guess.column.type == "integer" and n != target
    ]
    others = [n for n in columns if n in sample.text and n not in (*counts, *skip)]
    if len(counts) != 1 or len(others) < 2 or not sample.is_whole or (columns[counts[0]].values < 0).any():
        return None
    few = all(sample.distinct[n] <= 50 for n in others)
    return counts[0] if few and not sample.text[others].duplicated().any() else None


def _are_labels(guess: Guess) -> bool:
    """Whether values name things rather than count them: each comes about as often as the others; numbers begin with one and do not begin again."""
    sizes = guess.values.value_counts()
    numbers = pd.to_numeric(guess.values, errors="coerce")
    if numbers.notna().all():
        if len(sizes) < FEWEST_NUMBERED or numbers.min() < 1:
            return False
        counts_on = float((numbers.diff().dropna() == 1).mean()) > 0.8
        of_number = numbers.value_counts()
        fewer_later = (
            of_number.nunique() > 1
            and pd.Series(of_number.to_numpy()).corr(pd.Series(of_number.index.to_numpy()), method="spearman") < -0.5
        )
        if counts_on and fewer_later:
            return False  # it counts anew the respondents of each survey: number 1 of one year is nobody of the next
    return guess.column.type != "number" and len(sizes) > 1 and sizes.iloc[0] <= 5 * sizes.median()


MANY_COLUMNS = 8  # columns from which two rows alike in all of them are hardly so by chance
BY_CHANCE = 10  # times the repeats of independent columns: what columns of few values that go together may have


def _are_by_chance(sample: SourceSample, repeats: int) -> bool:
    expected = dependence.expected_repeats(sample.text) * sample.rows / max(1, len(sample.text))
    return repeats <= BY_CHANCE * expected


def _repeats(sample: SourceSample, ordered: bool) -> tuple[list[tuple[str, str]], list[JsonObject]]:
    """What `new` says of rows that repeat another one, where no column names rows; and the rule that leaves them out."""
    if sample.table is None:
        return [], []
    repeats = sample.rows - survey.different_rows(sample)
    if not repeats:
        return [], []
    note = f"{repeats:,} of {sample.rows:,} rows repeat another row exactly, and no column names rows"
    may_drop = not ordered and sample.text.shape[1] >= MANY_COLUMNS
    if may_drop and not _are_by_chance(sample, repeats) and dependence.repeated_rows(sample.text)[1] is not None:
        rule = {
            "rule": "duplicates",
            "columns": [],
            "reason": "rows that repeat another one in every column count once",
        }
        return [
            (
                "repeated rows",
                f"{note}: each counts once. If they are all real, take the rule duplicates out of the statement",
            )
        ], [rule]
    more = "They are kept, and never learnt and asked in one fold; if they were written twice, drop them in the statement: cleaning: [{rule: duplicates}]"
    return [("repeated rows", f"{note}. {more}")], []


def _words_of_target(sample: SourceSample, columns: dict[str, Guess], target: str, notes) -> None:
    """Decide what words such as none and NA mean in a target of classes: none is a class, the others are unknown outcomes."""
    guess = columns[target]
    if guess.column.type not in ("category", "text") or guess.cleaning:
        return
    texts = sample.text[target].astype("string").str.strip()
    words = texts[texts.str.lower().isin(parsing.MISSING).fillna(False) & (texts != "").fillna(False)]
    is_class = words.str.lower() == "none"
    unknown, classes = words[~is_class], words[is_class]
    if len(classes):
        guess.values = guess.values.mask(guess.values.index.isin(classes.index), texts.astype(object))
        sample.missing[target] -= round(len(classes) * sample.rows / len(sample.text))
        shown = f"{classes.iloc[0]!r} is read as a class of {target}, which {percent(len(classes) / len(texts))} of the rows hold"
        notes.append(("classes", f"{shown}; if it means that the outcome is unknown: missing: [{classes.iloc[0]}]"))
    if len(unknown):
        spelt = sorted({*guess.column.missing, *unknown.unique()})
        guess.column = guess.column.model_copy(update={"missing": spelt})
        notes.append(
            ("unknown outcomes", f"{', '.join(map(repr, spelt))} in {target} mean that the outcome is unknown")
        )


MANY_CLASSES = 10  # whole numbers up to which a target may be classes that are numbered


def _kind(options, sample, target: Guess, name: str, notes, ask) -> tuple[str, str | None]:
    numbered = not options.task and _numbers_classes(name, target)
    kind = options.task or ("classification" if numbered else survey.kind_of(target))
    if target.is_time:
        raise DataError(
            "holds times, which cannot be predicted as they are", f"target {name!r}", "Name another: --target COLUMN"
        )
    if kind == "regression" and not target.is_number:
        example = sample.text[name].dropna().iloc[0]
        raise UsageError(
            f"--task regression needs numbers; {name} holds values such as {example!r}",
            next_step="Leave --task out, or name another --target",
        )
    if kind == "regression":
        distinct = target.values.dropna().unique()
        if not options.task and len(distinct) <= MANY_CLASSES and (distinct == distinct.round()).all():
            note = f"{name} holds {len(distinct)} whole numbers and is read as a quantity; if they name classes: --task classification"
            notes.append(("a quantity", note))
        return kind, None
    if numbered:
        note = f"the numbers of {name} name classes, going by its name; if they are a quantity: --task regression"
        notes.append(("classes", note))
    counts = survey.classes_of(target)
    if len(counts) > 50:
        raise DataError(
            f"has {len(counts):,} different values, which is too many classes to tell apart",
            f"target {name!r}",
            "Name another: --target COLUMN",
        )
    positive = options.positive
    if positive is not None and target.column.type == "boolean":  # as the file spells it: yes, Y, 1
        spelt = str(positive).strip().casefold()
        positive = "True" if spelt in parsing.TRUE else "False" if spelt in parsing.FALSE else positive
    if positive is not None and positive not in counts.index:
        raise UsageError(
            f"--positive {positive!r} is not a value of {name}" + did_you_mean(positive, list(counts.index)),
            next_step="Name one of them",
        )
    if positive is None:
        positive = survey.positive_of(counts)
        if set(counts.index) == {"1", "2"}:
            note = f"{name} is 1 or 2; {positive} is looked for, the rarer one: --positive"
            notes.append(("classes", note))
        if len(counts) > 2 and ask:
            positive = ask(
                f"{name} has {len(counts)} classes. Which one is looked for, against the rest?",
                list(counts.index),
                positive,
            )
        elif len(counts) > 2:
            listed = ", ".join(counts.index[:6]) + (", ..." if len(counts) > 6 else "")
            note = f"{name} has {len(counts)} ({listed}); {positive} is looked for, against the rest: --positive"
            notes.append(("classes", note))
    return kind, positive


def _numbers_classes(name: str, target: Guess) -> bool:
    """Whether a target of few whole numbers names classes, going by its name: a status, a species, a group."""
    if not target.is_number or not survey.CLASSES.search(name):
        return False
    distinct = target.values.dropna().unique()
    return 2 < len(distinct) <= MANY_CLASSES and bool((distinct == distinct.round()).all())


def _typed(positive: str | None, target: Guess) -> Any:
    """The positive class in the type of its column."""
    if target.column.type == "boolean":
        return str(positive).lower() in ("true", "yes", "y", "t", "1")
    if target.column.type in ("integer", "number") or target.cleaning:
        return int(float(positive or 0)) if float(positive or 0).is_integer() else str(positive)
    return positive


def _question(kind: str, target: str, positive: str | None) -> str:
    return f"Which rows have {target} = {positive}?" if kind == "classification" else f"What is {target}?"


def _headline(kind, target, positive, column: Guess, y: pd.Series, sample: SourceSample) -> list[tuple[str, str]]:
    lost, share = survey.target_counts(sample, target, y, positive)
    without = f"; {lost:,} rows without it are left out" if lost else ""
    if kind == "classification":
        return [
            (
                "question",
                f"{_question(kind, target, positive)} ({percent(share)} of {sample.rows:,} rows do{without})",
            )
        ]
    spread = (
        f"{number(y.median())} in the middle, 9 of 10 between {number(y.quantile(0.05))} and {number(y.quantile(0.95))}"
    )
    return [("question", f"{_question(kind, target, positive)} ({spread}; {sample.rows:,} rows{without})")]


FEW_ROWS, FEW_OF_CLASS = 100, 50  # below which hardly any model can be shown to be better than a rule


def _few(kind: str, y: pd.Series, sample: SourceSample) -> list[tuple[str, str]]:
    """What to say of a table with so few rows, or so few of a class, that no figure will mean much."""
    from mlloop.comparison.baselines import FEWEST

    scale = sample.rows / max(1, len(sample.text))
    known = int(y.notna().sum() * scale)
    if known < FEW_ROWS:
        least = FEWEST["rows"]
        more = f"; below {least} both gates say No" if known < 2 * least else ""
        return [
            (
                "few rows",
                f"{known:,} rows have a target: hardly any model can be shown to be better than a rule on so few{more}",
            )
        ]
    fewer = int(y.value_counts().min() * scale) if kind == "classification" else FEW_OF_CLASS
    if fewer >= FEW_OF_CLASS:
        return []
    held = max(1, round(0.2 * fewer))
    note = (
        f"{fewer:,} of {known:,} rows are of the rarer class, of which a holdout of a fifth has some {held}: figures will be rough, and hardly "
        "any model can be shown to be better than a rule"
    )
    return [("few rows", note)]


def _time_note(time: str | None, windows: DraftWindows | None) -> list[str]:
    if not time or not windows:
        return [
            "No column says when a row happened. What that costs: folds and the holdout fifth are drawn by chance, so the",
            "figures hold for rows like these and not for later ones; nothing can be said of drift, of how long a model stays",
            "right, or of when to retrain. Once a column says it: time: {column: NAME} here, and time: NAME in the table.",
        ]
    return [
        f"{windows['days']:,} days of history. Everything is computed as of a moment; the last holdout_days before it are held out and",
        "read once. label_delay_days: how long after a row its answer is known. 0 is a guess: look.",
    ]


def _order_note(guess: Guess, sample: SourceSample) -> list[str]:
    return [
        "No column says when a row happened, but neighbours in the file share the target. So the row's place in the file stands for",
        f"the time: a day here is {sample.rows // times.FILE_DAYS:,} rows, and means nothing else. Later rows are predicted from earlier ones.",
        "If a column does hold the time, name it as time.column and as time of the table, and take row_time away.",
    ]


def _time(time: str | None, windows: DraftWindows | None) -> JsonObject:
    if not time or not windows:
        return {"as_of": survey.today(), "folds": 4}
    return {
        "column": time,
        **{k: windows[k] for k in ("as_of", "holdout_days", "folds", "fold_days")},
        "label_delay_days": 0,
    }


def _columns(
    columns: dict[str, Guess],
    roles: dict[str, str],
    leaks: dict[str, str],
    kind: str,
    asked: dict[str, str] | None = None,
) -> list[JsonObject]:
    shown = []
    for name, guess in columns.items():
        spec, why, role = guess.column.model_dump(exclude_defaults=True), guess.why, roles.get(name)
        if role == "target":
            spec.pop("feature", None)
            spec, why = {**spec, "known": "after"}, "what is asked" + (f"; {why}" if why else "")
        elif role in ("key", "entity", "time"):
            spec |= {} if guess.column.row_seconds else {"required": True}
            spec |= {"feature": False} if role != "time" else {}
            why = "says who" if role != "time" else why
        elif name in leaks:
            spec["known"] = "after"
            why = f"LEAK: {leaks[name]}. If it is really known before the prediction, write `known: before`"
        elif name in (asked or {}):
            spec["known"] = "unsure"
            why = f"ASKED: {(asked or {})[name].rstrip('?.')}. Write `known: before` or `known: after`; until then no model that rests on it is promoted"
        shown.append({"name": name, "spec": spec, "why": why.replace("\n", " ")})
    return shown


def _success(
    kind: str, y: pd.Series, figure: float, slices: dict[str, int], sample: SourceSample, windows
) -> JsonObject:
    windows = windows or {}
    rows, days = int(sample.rows * windows.get("share", 1)), windows.get("holdout_days", 28)
    every = max(int(np.clip(days // 4, 1, 28)), windows.get("step_days", 1))
    span = windows.get("days", 365)
    in_period = max(20, int(rows * every / max(span, 1)))
    # a period below it counts for nothing, so half of what comes on average: else every other period would be passed over
    least = max(50, min(500, in_period // 2))
    retrain = {"every_days": every, "min_labelled_rows": least, "cooldown_days": 2 * every}
    canary = {"share": 0.2, "min_rows": max(20, min(500, in_period // 5)), "deadline_days": 2 * every}
    need: dict[str, int] = {"min_rows": int(min(1000, max(200, rows // 2)))}
    rest = {"need": need, "retrain": retrain, "canary": canary}
    least = int(min(200, max(30, 0.6 * min(slices.values(), default=334))))
    groups: JsonObject = {"slices": list(slices), "min_slice_rows": least}
    if kind == "classification":
        fewer = int(min((y == 1).sum(), (y == 0).sum()) * rows / max(1, y.notna().sum()))
        need["min_positives"] = int(min(100, max(20, fewer // 2)))
        target = min(0.99, max(0.6, round(figure + 0.02, 2)))
        success = {"metric": "roc_auc", "threshold": target, "min_gain": 0.02, **groups, "max_slice_gap": 0.15}
        outcomes = ("true_positive", "false_positive", "false_negative", "true_negative")
        return rest | {
            "success": success,
            "success_note": f"The rule reaches ROC AUC {number(figure)} on the sampled rows; a little more is a first demand, "
            "no more: ask for what the decision needs.",
            "money": {"currency": "EUR", **dict.fromkeys(outcomes, 0), "ml_per_period": 0},
            "money_note": "State what each outcome of a decision brings or costs.",
        }
    rounded = lambda value: float(f"{value:.3g}")
    success = {"metric": "mae", "threshold": rounded(0.95 * figure), "min_gain": rounded(0.02 * figure)}
    return rest | {
        "success": success | groups | {"max_slice_gap": rounded(0.5 * figure)},
        "success_note": f"The rule is {number(figure)} off on average on the sampled rows; a little less is a first demand, "
        "no more: ask for what the decision needs.",
        "money": {"currency": "EUR", "per_unit_error": 0, "ml_per_period": 0},
        "money_note": "State what one unit of error costs.",
    }


def _events(
    name, options: ProjectOptions, sample: SourceSample, columns: dict[str, Guess], time, notes, ask
) -> JsonObject:
    """A recommendation: who touched what, and when."""
    parts = survey.parts_of_events(sample, columns)
    user, item = options.user or parts["user"], options.item or parts["item"]
    if ask and not user:
        user = ask("Which column says who?", list(sample.text.columns), None)
    if ask and not item:
        item = ask("Which column says what was bought or looked at?", list(sample.text.columns), None)
    lacking = [word for word, guess in {"--user": user, "--item": item, "--time": time}.items() if not guess]
    windows = _windows(options, sample, columns, time, recommendation=True)
    if lacking or windows is None:
        note = (
            f"recommendations need to know who, what and when; say {', '.join(lacking)}"
            if lacking
            else f"{time} spans less than 8 days: too short to hold days out"
        )
        raise UsageError(
            note,
            sample.source.path or sample.source.url,
            "Example: mlloop new shop --data sales.csv --user customer --item product --time sold_at",
        )
    assert user is not None and item is not None and time is not None
    if item != parts["item"]:
        parts = {**parts, "name": None, "category": None}
    kinds = survey.kind_column_of(columns)
    event = {"table": "events", "user": user, "item": item, "time": time}
    event |= {"kind_column": kinds[0]} if kinds else {"kind": "purchase"}
    event |= {what: parts[what] for what in ("quantity", "price") if parts[what] and parts[what] not in (user, item)}
    items = {"table": "events", "item": item, **{w: parts[w] for w in ("name", "category", "price") if parts[w]}}
    known = sample.text[[user, item]].dropna()
    again = float(known.duplicated().mean()) if len(known) else 0.0
    task = ["kind: recommendation", "interactions:", f"  - {flow(event)}"]
    task += [f"items: {flow(items)}"] if parts["name"] or parts["category"] else []
    task += [f"target_kind: {scalar(kinds[1] if kinds else 'purchase')}", "k: 10"]
    task += [
        f"repeats: true  # {percent(again)} of the rows repeat an item of the same user; false never shows it again"
    ]
    unknown = sample.missing[user]
    users, items_known = f"{sample.distinct[user]:,} {user}", f"{sample.distinct[item]:,} values of {item}"
    note = f"{sample.rows:,} rows" + (f"; {unknown:,} without {user} cannot be learnt from" if unknown else "")
    notes[:0] = [("question", f"Which 10 of {items_known} should each of {users} be shown? ({note})")]
    roles = {user: "id", item: "id"}
    shown = _columns(
        {n: _as_name(sample, n, guess) if n in roles else guess for n, guess in columns.items()},
        {time: "time"},
        {},
        "recommendation",
    )
    for guess in shown:
        guess["spec"].pop("feature", None)
        if guess["name"] == item:
            guess["spec"]["required"] = True
    rules = [{"name": "best_sellers_30d", "meaning": "what sold most in the last 30 days", "popular_days": 30}]
    if parts["category"]:
        rules.append(
            {
                "name": "best_sellers_of_category",
                "meaning": "what sold most in the user's favourite category",
                "popular_days": 30,
                "by": "category",
            }
        )
    every = max(1, windows["holdout_days"] // 4)
    figure = survey.simple_figure(sample, user, item, time, windows, kinds)
    return {
        "table": "events",
        "heading": f"{item} for {user}",
        "name": name,
        "question": f"Which ten {item} should each {user} be shown, so that one is taken in the next {windows['holdout_days']} days?",
        "decision": "(say where the ten are shown, and what is shown there today)",
        "task": task,
        "windows": windows,
        "time_note": _time_note(time, windows),
        "time": {k: windows[k] for k in ("as_of", "holdout_days", "folds", "fold_days")},
        "key": [],
        "table_time": time,
        "columns": shown,
        "cleaning": [],
        "rules": rules,
        "leaks": {},
        "asked": {},
        "success": {
            "metric": "ndcg",
            "threshold": max(0.01, round(1.1 * figure, 3)),
            "min_gain": max(0.001, round(0.05 * figure, 3)),
            "slices": ["activity"],
            "max_slice_gap": 0.2,
            "min_slice_rows": 100,
        },
        "success_note": f"Best-sellers, or what a user had before, reach NDCG@10 {number(figure)} on the sampled rows; a tenth more is "
        "a first demand, no more: ask for what the decision needs.",
        "need": {
            "min_rows": int(min(5000, max(500, sample.rows // 2))),
            "min_users": int(min(200, max(20, sample.distinct[user] // 10))),
        },
        "retrain": {"every_days": every, "min_labelled_rows": 200, "cooldown_days": 2 * every},
        "canary": {"share": 0.2, "min_rows": 100, "deadline_days": 2 * every},
        "money": {"currency": "EUR", "per_hit": 0, "ml_per_period": 0},
        "money_note": "State what one shown item that is taken brings.",
    }


def _as_name(sample: SourceSample, name: str, guess: Guess) -> Guess:
    """A user's or an item's column: text, whatever it looks like; whole numbers stay whole."""
    kind: Any = "integer" if guess.column.type == "integer" else "text"
    return Guess(problems.Column(type=kind), "", sample.text[name])


def _suggested(sample: SourceSample, columns: dict[str, Guess], parts: JsonObject) -> list[JsonObject]:
    """Further cleaning rules that the values speak for, for the person to switch on."""
    import ibis

    from mlloop.data import profiling

    if parts.get("table") == "events":
        return []
    done = {tuple(rule["columns"]) for rule in parts["cleaning"]}
    texts = [
        n
        for n, guess in columns.items()
        if guess.column.type in ("text", "category") and not guess.is_number and n in sample.text
    ][:30]
    if not texts:
        return []
    rules = profiling.suggest_cleaning(ibis.memtable(sample.text[texts].head(5000).astype("string")))
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
        return "[" + ", ".join(flow(guess) for guess in value) + "]"
    return scalar(value)
