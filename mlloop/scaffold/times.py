"""Finds out when rows happened: columns that make up a moment, the one that is known in time, and else the order of the file."""

import datetime as dt
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from mlloop.core.formatting import number
from mlloop.data import dependence, leaks
from mlloop.problem import Column
from mlloop.scaffold import notation
from mlloop.scaffold.survey import LONGEST, NAMING, SUBJECT, DraftWindows, Guess, SourceSample, moments_of, times_of

FIRST_ROW = pd.Timestamp(2000, 1, 1)
FILE_DAYS = 100  # days on which the rows of a file without a time are laid out: each holds a hundredth of them

YEAR = re.compile(r"(^|[_ .-])(year|yr|yyyy)$|(?<=[a-z])Year$", re.I)
MONTH = r"(month|mon|mnth|mm)"
QUARTER = r"(quarter|qtr|qtr_of_year|q)"
WEEK = r"(week|wk|week_?of_?year|iso_?week|week_?(?:no|nr|num|number)|kw)"
DAY = r"(day_of_month|day of month|dayofmonth|day|dom|dd)"
CLOCK_HOUR, CLOCK_MINUTE, CLOCK_SECOND = r"(hour|hr|hh|h|hour_?of_?day)", r"(minute|min|mi)", r"(second|sec|ss)"
HOUR = re.compile(r"(^|[_ .-])(hour|hr|hh|hour_?of_?day)$|(?<=[a-z])Hour$", re.I)
CLOCK_WORD = re.compile(r"hour|minute", re.I)
SHORT_CLOCK_WORD = re.compile(r"(^|[_ .-])(hr|hh|h|min|mi|sec|ss)s?$", re.I)
CLOCKS = {  # how the time of a day is written, and its format
    r"\d{1,2}:\d{2}:\d{2}": "%H:%M:%S",
    r"\d{1,2}:\d{2}": "%H:%M",
    r"\d{1,2}:\d{2}:\d{2}\.\d+": "%H:%M:%S.%f",
    r"\d{1,2}\.\d{2}\.\d{2}": "%H.%M.%S",
    r"\d{1,2}:\d{2} [AaPp][Mm]": "%I:%M %p",
    r"\d{1,2}:\d{2}:\d{2} [AaPp][Mm]": "%I:%M:%S %p",
    r"\d{1,2}h\d{2}": "%Hh%M",
}
LASTING = re.compile(
    r"(^|[_ .-])(pace|dur(ation)?|elapsed|took|taken|laps?|splits?|length|wait(ing)?|delay|run|race|finish|record|best|interval|gap|age|"
    r"lasted|runtime|total)([_ .-]|$)",
    re.I,
)
"""Names of what lasts: a clock there is no time of a day."""
NAMED = re.compile(r"^(date|time|timestamp|created|ordered|observed)|(time|date|timestamp|created_at|dt)$", re.I)


# ---------------------------------------------------------------------------------------------- moments of several columns


def add_moments(sample: SourceSample, columns: dict[str, Guess]) -> list[str]:
    """Add to `columns` the moments that several columns make up together; returns their names."""
    moments = [*_calendars(sample), *_clocks(sample, columns), *_years(sample, columns)]
    return [name for name, parts, form, kind in moments if _add_moment(sample, columns, name, parts, form, kind)]


def _add_moment(
    sample: SourceSample,
    columns: dict[str, Guess],
    name: str,
    parts: Sequence[str],
    form: str,
    kind: Literal["time", "date"],
) -> bool:
    """Add the moment that columns make up, unless few rows have it or another column holds it; returns whether it was added."""
    text = sample.text[list(parts)].astype("string")
    joined = text[parts[0]].str.strip()
    for part in parts[1:]:
        joined = joined + " " + text[part].str.strip()
    values = moments_of(joined, form)
    years = values.dt.year.max() - values.dt.year.min()
    if len(values) == 0 or values.notna().mean() < 0.98 or values.nunique() < 4 or years > LONGEST:
        return False
    if any(guess.is_time and (guess.values == values).mean() > 0.99 for guess in columns.values()):
        return False  # the file has it whole
    column = Column(type=kind, format=form, made_of=list(parts))
    columns[name] = Guess(column, f"made of {', '.join(parts)}", values.astype("datetime64[us]"))
    sample.distinct[name] = int(values.nunique())
    sample.missing[name] = int(values.isna().mean() * sample.rows)
    return True


def _free(name: str, sample: SourceSample) -> str:
    name = re.sub(r"\W+", "_", name).strip("_").lower() or "moment"
    while name in sample.text.columns:
        name += "_made"
    return name


def _calendars(sample: SourceSample):
    """Year, month and perhaps day in columns of their own, under one prefix."""
    names = list(map(str, sample.text.columns))
    for year in names:
        word = YEAR.search(year)
        if not word:
            continue
        prefix = year[: word.start(2)] if word.group(2) else year[: word.start()]
        same = lambda pattern, prefix=prefix: _beside(names, prefix, pattern)
        month, day, base = same(MONTH), same(DAY), prefix.rstrip("_ .-") or "date"
        if month is None:
            for pattern, form, span, most in ((QUARTER, "year_quarter", "quarter", 4), (WEEK, "year_week", "week", 53)):
                part = same(pattern)
                if part is not None and _numbers_up_to(sample.text[part], most):
                    yield (
                        _free(f"{base}_{span}" if base != "date" else f"{span}_begin", sample),
                        (year, part),
                        form,
                        "date",
                    )
                    break
            continue
        known = sample.text[month].dropna().astype(str).str.strip()
        if known.empty:
            continue
        month_number = _spelt(known, "%m", 99)
        form_of_year = _spelt(sample.text[year], "%Y", 9999) or "%Y"
        form = f"{form_of_year} {month_number or ('%B' if (known.str.len() > 3).any() else '%b')}"
        if day is not None:
            form = f"{form} {_spelt(sample.text[day], '%d', 31) or '%d'}"
            yield _free(base, sample), (year, month, day), form, "date"
            hour = same(CLOCK_HOUR)
            clock, form_of_clock = _of_clock(sample, hour, prefix) if hour is not None else ((), "")
            if clock:
                yield _free(f"{base}_{hour}", sample), (year, month, day, *clock), f"{form} {form_of_clock}", "time"
        elif not (month_number and pd.to_numeric(known, errors="coerce").max() > 12):
            yield (
                _free(f"{base}_month" if base != "date" else "month_begin", sample),
                (year, month),
                form,
                "date",
            )


def _beside(names: Sequence[str], prefix: str, pattern: str) -> str | None:
    """The first name that holds a pattern after a prefix, and nothing else."""
    return next((n for n in names if re.fullmatch(re.escape(prefix) + pattern, n, re.I)), None)


def _spelt(texts: pd.Series, code: str, most: int) -> str | None:
    """The form of whole numbers from 0 on, such as %H, or %H.0 where each is written 7.0; None for any other texts."""
    known = texts.dropna().astype(str).str.strip()
    if known.empty or not known.str.fullmatch(r"\d{1,4}(\.0+)?").all():
        return None
    decimals = known.str.replace(r"^\d+", "", regex=True).unique()
    return f"{code}{decimals[0]}" if len(decimals) == 1 and known.astype(float).max() <= most else None


def _of_clock(sample: SourceSample, hour: str, prefix: str) -> tuple[tuple[str, ...], str]:
    """The columns that make up the time of a day, from the hour on, and their form; none where hours are not 0 to 23, or 1 to 24."""
    names = list(map(str, sample.text.columns))
    minute, second = _beside(names, prefix, CLOCK_MINUTE), _beside(names, prefix, CLOCK_SECOND)
    parts: list[str] = []
    forms: list[str] = []
    last = 24 if (pd.to_numeric(sample.text[hour], errors="coerce").dropna() >= 1).all() else 23
    for name, code, most in ((hour, "%H", last), (minute, "%M", 59), (second, "%S", 59)):
        form = _spelt(sample.text[name], code, most) if name is not None else None
        if name is None or form is None or sample.text[name].nunique() < 2:
            break
        parts.append(name)
        forms.append(form)
    half = _beside(names, prefix, r"(am_?pm|meridiem)")
    if parts and half is not None and notation.every("[AaPp][Mm]", sample.text[half].dropna().astype(str).str.strip()):
        return (*parts, half), f"{' '.join(forms)} %p".replace("%H", "%I")
    return tuple(parts), " ".join(forms)


def parts_of(columns: dict[str, Guess], time: str) -> set[str]:
    """The columns that hold a part of a time: those it is made of, and its year, month, day, hour or minute beside it."""
    at = columns[time].values.dt
    shown = [getattr(at, part) for part in ("year", "month", "day", "hour", "minute")]
    shown = [part for part in shown if part.nunique() > 1]  # a rare sign is 0 in most rows, as the hour of every date
    numbers = [n for n, guess in columns.items() if guess.is_number]
    equal = {n for n in numbers if any((columns[n].values == part).mean() > 0.99 for part in shown)}
    return {*columns[time].column.made_of, *equal}


def _numbers_up_to(texts: pd.Series, most: int) -> bool:
    """Whether a column numbers the quarters or the weeks of a year: most of them, from 0 or 1 on."""
    numbers = pd.to_numeric(
        texts.dropna().astype(str).str.strip().str.replace(r"^[QqWw]", "", regex=True), errors="coerce"
    )
    return len(numbers) > 0 and bool(numbers.between(0, most).all() and numbers.nunique() >= 0.75 * most)


MIN_YEARS = 6  # fewer years are no history
TIMED = re.compile(
    r"^(time|date|when|at|t|period|year[_ .-]?(start|begin|from|end))$|(^|[_ .-])decimal([_ .-](date|year|time))?$",
    re.I,
)
LONG_STEP = 10  # years between a row and the next from which a number called time counts something else


def _years(sample: SourceSample, columns: dict[str, Guess]):
    """A year in one column, where the rows are a panel by year or stand in its order: else it may be the year of a car."""
    if any(guess.is_time for guess in columns.values()) or list(_calendars(sample)):
        return
    for name in map(str, sample.text.columns):
        known = sample.text[name].dropna().astype(str).str.strip()
        form = _year_form(known) if YEAR.search(name) or TIMED.search(name) else None
        if form is None or known.nunique() < MIN_YEARS:
            continue
        if form == "%y":  # other numbers of two digits are no years
            if YEAR.search(name) and panel_of(sample, columns, name):
                yield _year_moment(name, form, sample), (name,), form, "date"
            continue
        steps = known.str.replace(",", ".").astype(float).diff().dropna()
        if not YEAR.search(name) and steps.abs().median() > LONG_STEP:
            continue
        if (steps >= 0).mean() > 0.99 or panel_of(sample, columns, name):
            yield _year_moment(name, form, sample), (name,), form, "date"


def _year_form(known: pd.Series) -> str | None:
    """How texts write years, as a format of the statement; None where they hold something else."""
    if len(known) and notation.every(r"\d\d", known):
        return "%y"
    if not len(known) or not notation.every(r"(1[5-9]|20)\d\d([.,]\d*)?", known):
        return None
    return "%Y" if notation.every(r"\d+", known) else "%Y.0" if known.str.endswith(".0").all() else "decimal_year"


def _year_moment(name: str, form: str | None, sample: SourceSample) -> str:
    return _free(f"{name}_{'day' if form == 'decimal_year' else 'begin'}", sample)


def of_years(sample: SourceSample, columns: dict[str, Guess], name: str) -> str | None:
    """Add the moment of a column of years that a person names as the time; returns its name, None where it holds no years."""
    form = _year_form(sample.text[name].dropna().astype(str).str.strip())
    moment = _year_moment(name, form, sample)
    return moment if form and _add_moment(sample, columns, moment, (name,), form, "date") else None


def unused_years(sample: SourceSample, columns: dict[str, Guess], target: str) -> tuple[str, str, str] | None:
    """A column that is named as a year and holds some, its first and its last: when rows happened, or the year of a car."""
    for name in columns:
        if name == target or name not in sample.text or not YEAR.search(name):
            continue
        known = sample.text[name].dropna().astype(str).str.strip()
        if _year_form(known) not in (None, "%y") and known.nunique() >= MIN_YEARS and not sample.missing.get(name, 1):
            return name, known.min()[:4], known.max()[:4]
    return None


FEW_TIMES = 5  # rows of each panel entity, at least


def panel_of(sample: SourceSample, columns: dict[str, Guess], time: str, skip: Sequence[str] = ()) -> str | None:
    """The column that says whose row it is where nearly every time holds one row of each: a store by week, a country by year."""
    at = pd.factorize(sample.text[time] if time in sample.text else columns[time].values)[0]
    times, rows = int(at.max()) + 1, len(at)
    if times < FEW_TIMES or times > rows / 2 or not sample.is_whole:
        return None
    for name, guess in columns.items():
        if name in (time, *skip) or guess.is_time or guess.column.type == "number" or name not in sample.text:
            continue
        if _is_clock(name, guess, sample.text[name]):
            continue  # the time of a day is nobody
        who = pd.factorize(sample.text[name])[0]
        entities = int(who.max()) + 1
        filled = 0.2 if SUBJECT.search(name) or NAMING.search(name) else 0.5  # of all pairs of an entity and a time
        if entities < 2 or (who < 0).any() or rows < max(FEW_TIMES * entities, filled * entities * times):
            continue
        if len(np.unique(who.astype(np.int64) * times + at)) >= 0.98 * rows:
            return name
    return None


MOST_LABELS = 12  # columns of which pairs are tried


def panel_of_two(
    sample: SourceSample, columns: dict[str, Guess], time: str, skip: Sequence[str] = ()
) -> tuple[str, str] | None:
    """The two columns that say together whose row it is, where nearly every time holds one row of each pair: a product in a store by week."""
    at = pd.factorize(sample.text[time] if time in sample.text else columns[time].values)[0]
    times, rows = int(at.max()) + 1, len(at)
    if times < FEW_TIMES or times > rows / 4 or not sample.is_whole or (at < 0).any():
        return None
    labels = {}
    for name, guess in columns.items():
        if (
            name in (time, *skip)
            or guess.is_time
            or guess.column.type in ("number", "boolean")
            or name not in sample.text
        ):
            continue
        if guess.cleaning or sample.missing.get(name, 1) or not 2 <= sample.distinct[name] <= rows / (2 * FEW_TIMES):
            continue
        if not guess.is_number or SUBJECT.search(name) or NAMING.search(name) or GROUP_NAMES.search(name):
            labels[name] = pd.factorize(sample.text[name])[0]
    for first, second in itertools.combinations(list(labels)[:MOST_LABELS], 2):
        pairs = pd.factorize(labels[first].astype(np.int64) * (labels[second].max() + 1) + labels[second])[0]
        entities = int(pairs.max()) + 1
        if (
            entities <= max(sample.distinct[first], sample.distinct[second])
            or rows < max(FEW_TIMES, 0.5 * times) * entities
        ):
            continue
        if len(np.unique(pairs.astype(np.int64) * times + at)) >= 0.98 * rows:
            return first, second
    return None


GROUP_NAMES = re.compile(
    r"(^|[_ .-])(store|shop|product|item|sku|dept|department|branch|site|region|country|city|state|plant|line|warehouse)s?$",
    re.I,
)


def add_entity(sample: SourceSample, columns: dict[str, Guess], parts: Sequence[str]) -> str:
    """Add to `columns` the column that names what several columns name together; returns its name."""
    name = _free("_".join(parts), sample)
    text = sample.text[list(parts)].astype("string").apply(lambda part: part.str.strip())
    values = text.iloc[:, 0].str.cat([text.iloc[:, at] for at in range(1, len(parts))], sep=" ").astype(object)
    sample.distinct[name], sample.missing[name] = int(values.nunique()), 0
    kind: Literal["category", "text"] = "category" if sample.distinct[name] <= 500 else "text"
    columns[name] = Guess(Column(type=kind, made_of=list(parts), feature=False), f"made of {', '.join(parts)}", values)
    return name


def _is_clock(name: str, guess: Guess, texts: pd.Series) -> bool:
    """Whether a column holds the time of a day, or counts time: an hour however it is written, or a number called minute or period."""
    if CLOCK_WORD.search(name) or clock_of(texts.dropna().head(200).astype(str).str.strip()):
        return True
    if not guess.is_number:
        return False
    return bool(ELAPSED.search(name) or (SHORT_CLOCK_WORD.search(name) and guess.values.between(0, 60).all()))


FEWEST_SERIES = 10


def counted_series(
    sample: SourceSample, columns: dict[str, Guess], skip: Sequence[str] = (), fewest: int = FEWEST_SERIES
) -> tuple[str, str] | None:
    """The column that names a series and the one that counts its rows from the first: a unit and its cycle, a visit of a patient.

    The count goes up by one from row to row of the file, and begins again where the other column changes.
    """
    if not sample.is_whole:
        return None
    names = [n for n in columns if n in sample.text and n not in skip and not columns[n].is_time]
    changes = {n: (sample.text[n] != sample.text[n].shift()).to_numpy() for n in names}
    for counter in (n for n in names if columns[n].column.type == "integer" and not sample.missing.get(n, 1)):
        values = columns[counter].values.to_numpy(float)
        begins = np.r_[True, np.diff(values) != 1]
        series = int(begins.sum())
        if not fewest <= series <= len(values) / 2 or np.ptp(values[begins]) or values.min() not in (0, 1):
            continue
        for name in (
            n for n in names if n != counter and sample.distinct[n] >= 0.9 * series and not TIME_WORD.search(n)
        ):
            if (changes[name] & ~begins).sum() <= 0.02 * series and not sample.missing.get(name, 1):
                return name, counter
    return None


def clock_of(texts: pd.Series) -> str | None:
    """The format in which every text writes the time of a day; None where they do not."""
    return next((form for pattern, form in CLOCKS.items() if notation.every(pattern, texts)), None)


def _clocks(sample: SourceSample, columns: dict[str, Guess]):
    """A date, and the time of the day or the hour in a column beside it."""
    dates = [n for n, g in columns.items() if g.column.type == "date" and not g.column.made_of]
    for date in dates[:3]:
        stated = columns[date].column.format
        form = stated if isinstance(stated, str) else "%Y-%m-%d" if stated is None else None
        if form is None:
            continue
        for name in map(str, sample.text.columns):
            some = sample.text[name].dropna().head(2000).astype(str).str.strip()
            if name == date or not len(some) or not some.iloc[0][:1].isdigit() or LASTING.search(name):
                continue
            known = sample.text[name]
            clock = clock_of(some)
            if clock and known.nunique() > 1:
                yield _free(f"{date}_{name}", sample), (date, name), f"{form} {clock}", "time"
            elif word := HOUR.search(name):
                parts, form_of_clock = _of_clock(sample, name, name[: word.start(2) if word.group(2) else word.start()])
                if parts:
                    yield _free(f"{date}_{name}", sample), (date, *parts), f"{form} {form_of_clock}", "time"


# ---------------------------------------------------------------------------------------------- which moment


@dataclass
class TimeChoice:
    """The column that says when a row happened, why, and which others would do; `after`: times that know the target."""

    name: str | None = None
    why: str = ""
    others: list[str] = field(default_factory=list)
    after: dict[str, str] = field(default_factory=dict)


def choose(sample: SourceSample, columns: dict[str, Guess], y: pd.Series, kind: str) -> TimeChoice:
    """The time of the rows by evidence: its name, whether the file stands in its order, and whether it knows the target."""
    able = times_of(sample, columns)
    times = [n for n, guess in columns.items() if guess.is_time and guess.values.notna().mean() > 0.2]
    after = late_times(columns, times, y, kind)
    left = [n for n in able if n not in after and not _replaced(n, able, columns)]
    if not left:
        return TimeChoice(None, "", [], after)
    points = {n: _points(n, columns[n]) for n in left}
    best = max(left, key=lambda n: (points[n][0], -left.index(n)))
    reasons = [*points[best][1]]
    others = [n for n in left if n != best]
    return TimeChoice(best, "; ".join(reasons) or "it says when a row happened", others, after)


def _replaced(name: str, able: Sequence[str], columns: dict[str, Guess]) -> bool:
    """Whether a more exact moment is made of this column, or holds the same days with their hours."""
    others = [other for other in able if other != name]
    if any(name in columns[other].column.made_of for other in others):
        return True
    days = columns[name].values
    if columns[name].column.type != "date":
        return False
    return any(_same_days(columns[o].values, days) for o in others if columns[o].column.type == "time")


def _same_days(moments: pd.Series, days: pd.Series) -> bool:
    """Whether moments lie on the days of a date, in its own time zone or in another."""
    within = (moments - days).dropna()
    if not within.between(pd.Timedelta(hours=-14), pd.Timedelta(hours=38)).mean() > 0.99:
        return False
    alike = [((moments + pd.Timedelta(hours=h)).dt.normalize() == days).to_numpy() for h in range(-14, 15)]
    return any((winter | summer).mean() > 0.99 for winter, summer in itertools.pairwise(alike))


def late_times(columns: dict[str, Guess], times: Sequence[str], y: pd.Series, kind: str) -> dict[str, str]:
    """Times that know the target, alone or together with another one, each with its sign."""
    known = y.notna()
    if not times or not known.any():
        return {}
    rows = pd.DataFrame({n: columns[n].values[known] for n in times}).reset_index(drop=True)
    target = y[known].reset_index(drop=True)
    late = {sign.column: sign.reason for sign in leaks.pair_signs(rows, target, kind) if sign.sure}
    if kind == "classification":
        for name in times:
            filled = leaks.filled_sign(rows[name], target)
            if filled and filled[0]:
                late.setdefault(name, filled[1])
    return late


def _points(name: str, guess: Guess) -> tuple[float, list[str]]:
    values, points, reasons = guess.values.dropna(), 0.0, []
    if guess.column.made_of:
        reasons.append(f"made of {', '.join(guess.column.made_of)}")
        points += 1
    if NAMED.search(name):
        points += 2
    tone = leaks.after_words(name)
    points -= 3 * tone
    if re.search(r"birth|dob|expir|valid|due", name, re.I):
        points -= 4
    steps = values.diff().dropna()
    if len(steps) > 20 and (steps >= pd.Timedelta(0)).mean() > 0.98:
        points += 2
        reasons.append("the file stands in its order")
    if (values > pd.Timestamp.now() + pd.Timedelta(days=2)).mean() > 0.2:
        points -= 3
    return points, reasons


# ---------------------------------------------------------------------------------------------- the order of the file


def file_order(
    sample: SourceSample, columns: dict[str, Guess], y: pd.Series, target: str | None = None, order: str = "time"
) -> tuple[str, Guess, str] | None:
    """A moment made of each row's place, where the file stands in the order of a time: its name, its guess, and the sign of it.

    Parameters
    ----------
    order : str
        See `order_of`.
    """
    counter = elapsed(sample, columns, target)
    if counter is None and order != "time":
        return None
    alike = 0.0 if counter else dependence.neighbour_correlation(y)
    seconds = max(1, round(FILE_DAYS * 86_400 / sample.rows))
    position = np.linspace(1, sample.rows, len(sample.text)).round() * seconds
    values = pd.Series(FIRST_ROW + pd.to_timedelta(position, unit="s"), index=sample.text.index).astype(
        "datetime64[us]"
    )
    name = _free("row_time", sample)
    sample.distinct[name], sample.missing[name] = sample.rows, 0
    why = f"not in the file: each row's place in it; a day holds {sample.rows // FILE_DAYS:,} rows"
    sign = (
        f"{counter} only grows" if counter else f"neighbours in the file share the target (correlation {number(alike)})"
    )
    return name, Guess(Column(type="time", row_seconds=seconds, feature=False), why, values), sign


def _is_arranged(sample: SourceSample, columns: dict[str, Guess], y: pd.Series, target: str | None) -> bool:
    """Whether the file is sorted by columns that are no time, or stacks one series on the other."""
    if not sample.is_whole:
        return False
    if counted_series(sample, columns, [target] if target else [], FEWEST_STACKED):
        return True
    able = [
        n
        for n, guess in columns.items()
        if n != target
        and n in sample.text
        and not guess.is_time
        and not TIME_WORD.search(n)
        and not sample.missing.get(n, 1)
    ]
    return dependence.is_arranged(y, pd.DataFrame({n: columns[n].values for n in able}, index=y.index))


def order_of(sample: SourceSample, columns: dict[str, Guess], y: pd.Series, target: str) -> str:
    """How rows may be dealt into folds, see `dependence.order_of`, by what the columns say of the target."""
    shuffle, numbers = np.random.default_rng(0), {}
    for name, guess in columns.items():
        values = guess.values
        if name == target or guess.column.made_of or guess.is_time:
            continue
        if not guess.is_number:  # names get numbers in no order
            codes, names = pd.factorize(values)
            values = pd.Series(np.append(shuffle.permutation(len(names)), -1)[codes], index=values.index)
        numbers[name] = values.astype(float)
    order = dependence.order_of(pd.DataFrame(numbers, index=y.index), y)
    return "stretches" if order == "time" and _is_arranged(sample, columns, y, target) else order


def stretches(sample: SourceSample) -> tuple[str, Guess]:
    """A number of the stretch of the file in which each row lies: its name and its guess."""
    rows = dependence.stretch_rows(sample.rows)
    values = pd.Series(np.linspace(0, sample.rows - 1, len(sample.text)).round() // rows + 1, index=sample.text.index)
    name = _free("row_stretch", sample)
    sample.distinct[name], sample.missing[name] = -(-sample.rows // rows), 0
    why = f"not in the file: each {rows:,} rows that follow one another, which stay on one side of a fold"
    return name, Guess(Column(type="integer", row_stretch=rows, feature=False), why, values)


YEAR_WORD = re.compile(r"(^|[_ .-])(year|yr|jahr|annee|ano|anno)$", re.I)
FEWEST_STACKED = 4  # series from which rows are cut by series rather than by their place in the file
TIME_WORD = re.compile(
    r"date|time|day|week|month|quarter|year|hour|minute|second|period|season|step|tick|cycle|order|trial|seq|wave|visit|(^|_)(t|yr)$",
    re.I,
)
ELAPSED = re.compile(
    r"(^|[_ .-])(time|elapsed|seconds?|secs?|minutes?|hours?|days?|weeks?|months?|quarters?|years?|period|trend|step|tick|epoch)s?$|^t$",
    re.I,
)


def elapsed(sample: SourceSample, columns: dict[str, Guess], target: str | None = None) -> str | None:
    """The number that counts time from the first row on, as seconds or steps, and never goes back; the target is none."""
    for name, guess in columns.items():
        values = guess.values
        if (
            name == target
            or not guess.is_number
            or not ELAPSED.search(name)
            or sample.missing.get(name, 1)
            or values.nunique() < 50
        ):
            continue
        if (values.diff().dropna() >= 0).all():
            return name
    return next(
        (n for n, guess in columns.items() if n != target and _only_years(n, guess, sample.missing.get(n, 1))), None
    )


def _only_years(name: str, guess: Guess, missing: float) -> bool:
    """Whether a column holds a few calendar years that never go back, each in many rows: too few to be days, but an order."""
    if missing or not guess.is_number or not YEAR_WORD.search(name) or len(guess.values) < 100:
        return False
    values = guess.values.astype(float)
    counts = values.value_counts()
    is_calendar = (values % 1 == 0).all() and values.between(1800, 2100).all()
    return bool(is_calendar and len(counts) >= 3 and counts.min() >= 20 and (values.diff().dropna() >= 0).all())


def counters(columns: dict[str, Guess], order: pd.Series, skip: Sequence[str]) -> list[str]:
    """Numbers that only grow with the order of the rows: they say which row it is, and are always new in later rows."""
    names = []
    for name, guess in columns.items():
        values = guess.values
        if name in skip or not guess.is_number or not guess.column.feature or values.nunique() < 50:
            continue
        known = values.notna() & order.notna()
        alike = values[known].rank().corr(order[known].rank())
        if known.mean() > 0.9 and abs(np.nan_to_num(alike)) > 0.995:
            names.append(name)
    return names


def numbers_a_series(values: pd.Series, order: pd.Series | None, y: pd.Series) -> bool:
    """Whether a number that is different in each row only counts the rows of a series: it grows with the time, and neighbours share the target."""
    if not pd.api.types.is_numeric_dtype(values):
        values = pd.to_numeric(values, errors="coerce")
    known = values.notna() & y.notna() & (order.notna() if order is not None else True)
    if known.mean() < 0.9:
        return False
    at = order[known] if order is not None else pd.Series(np.arange(int(known.sum())), index=values.index[known])
    if abs(np.nan_to_num(values[known].rank().corr(at.rank()))) <= 0.995:
        return False
    return dependence.stands_in_order(y[known][at.sort_values(kind="stable").index])


# ---------------------------------------------------------------------------------------------- windows that hold rows

UNKNOWN_ROWS = 12  # positives that chance would have put among the newest rows, where none is there


def not_known_yet(times: pd.Series, y: pd.Series) -> tuple[int, int, pd.Timestamp] | None:
    """How many of the newest rows hold one class only though the other was due, the days they span, and since when; None where none do."""
    known = y.notna() & times.notna()
    at = times[known].sort_values(kind="stable")
    t = y[at.index].to_numpy()
    if len(t) < 100 or not 0 < t.mean() < 1:
        return None
    last = int(np.flatnonzero(t != t[-1]).max())
    since = at.iloc[last].normalize() + pd.Timedelta(days=1)
    newest = int((at >= since).sum())  # rows of the day of `last` stand in no order
    share = float((t[: last + 1] != t[-1]).mean())
    if newest * share < UNKNOWN_ROWS or newest > 0.6 * len(t) or share > 0.9:
        return None
    return newest, (at.iloc[-1].normalize() + pd.Timedelta(days=1) - since).days, since


def filled(windows: DraftWindows | None, times: pd.Series, y: pd.Series | None = None) -> DraftWindows | None:
    """Windows whose folds and holdout days all hold rows: longer or fewer folds where a gap would leave one empty; None where none do.

    Parameters
    ----------
    y : Series of float, optional
        The target of a classification: where it can be, each fold and the holdout hold rows of both classes.
    """
    if windows is None:
        return None
    return (_filled(windows, times, y) if y is not None else None) or _filled(windows, times, None)


def _filled(windows: DraftWindows, times: pd.Series, y: pd.Series | None) -> DraftWindows | None:
    as_of, first = pd.Timestamp(windows["as_of"]), times.min().normalize()
    known = times[times < as_of].dropna()
    least = max(2, min(20, len(known) // 50))
    if y is not None:  # of the rarer class as well
        rare = y[known.index] == (1.0 if y.mean() <= 0.5 else 0.0)
        fewer = _filled_of(
            windows, known, as_of, first, least, known[rare.to_numpy()], max(2, min(5, int(rare.sum()) // 50))
        )
        return fewer
    return _filled_of(windows, known, as_of, first, least, known, 0)


def _filled_of(
    windows: DraftWindows,
    known: pd.Series,
    as_of: pd.Timestamp,
    first: pd.Timestamp,
    least: int,
    rare: pd.Series,
    few: int,
) -> DraftWindows | None:
    for stretch in (1.0, 1.25, 1.5, 2.0):
        holdout = max(1, round(windows["holdout_days"] * stretch))
        until = as_of - pd.Timedelta(days=holdout)
        if (known >= until).sum() < least or (known < until).sum() < 10 * least or (rare >= until).sum() < few:
            continue
        for folds in (windows["folds"], 3, 2):
            for longer in (1.0, 1.5, 2.0, 3.0):
                days = max(1, round(windows["fold_days"] * longer))
                if days * folds > (until - first).days:
                    continue  # before the first row, and perhaps before any moment that can be held
                cuts = [until - pd.Timedelta(days=days * k) for k in range(folds, -1, -1)]
                held = [int(((known >= a) & (known < b)).sum()) for a, b in itertools.pairwise(cuts)]
                rarer = [int(((rare >= a) & (rare < b)).sum()) for a, b in itertools.pairwise(cuts)]
                enough = min(held) >= least and min(rarer) >= few and (rare < cuts[0]).sum() >= few
                if cuts[0] > first and enough and (known < cuts[0]).sum() >= 2 * least:
                    return {**windows, "holdout_days": holdout, "folds": folds, "fold_days": days}
    return None


def folds_in_words(
    held: int, since: dt.datetime, tested: Sequence[int], learnt: int, by_file_order: bool, about: str = ""
) -> str:
    """How many rows the holdout, the folds and what was before them hold, in words.

    Parameters
    ----------
    since : datetime
        Where the holdout begins.
    by_file_order : bool
        Whether that moment only stands for a row's place in the file; it is not shown then.
    about : str
        Before each number that is not exact.
    """
    span = f"{min(tested):,} to {max(tested):,}" if min(tested) < max(tested) else f"{tested[0]:,}"
    rows = f"{about}{held:,} rows"
    holdout = f"the last {rows} are held out" if by_file_order else f"{rows} from {since:%Y-%m-%d} on are held out"
    return f"{holdout}; {len(tested)} folds before them test on {about}{span} rows each, and learn from {about}{learnt:,} at least"


def rows_of_folds(windows: DraftWindows, times: pd.Series, rows_each: float = 1.0, by_file_order: bool = False) -> str:
    """How many rows the holdout and the folds hold, in words; each of `times` stands for `rows_each` rows."""
    as_of = pd.Timestamp(windows["as_of"])
    until = as_of - pd.Timedelta(days=windows["holdout_days"])
    cuts = [until - pd.Timedelta(days=windows["fold_days"] * k) for k in range(windows["folds"], -1, -1)]
    count = lambda mask: round(int(mask.sum()) * rows_each)
    held, first = count((times >= until) & (times < as_of)), count(times < cuts[0])
    tested = [count((times >= a) & (times < b)) for a, b in itertools.pairwise(cuts)]
    about = "about " if rows_each > 1 else ""
    return folds_in_words(held, until, tested, first, by_file_order, about)


# ---------------------------------------------------------------------------------------------- numbers that stand for nothing

KNOWN_SENTINELS = re.compile(r"-200|-?99+(\.9+)?")


def sentinels(sample: SourceSample, columns: dict[str, Guess]) -> dict[float, list[str]]:
    """Numbers that stand for a missing value, each with its columns: far from all others, and the same in several columns."""
    standing: dict[float, list[str]] = {}
    numbers = [n for n, guess in columns.items() if guess.is_number and guess.values.nunique() > 10]
    for name in numbers:
        values = columns[name].values.dropna().to_numpy(float)
        for value in (values.min(), values.max()):
            often = np.count_nonzero(values == value) >= max(5, 0.001 * len(values))
            if not often or not (float(value).is_integer() or KNOWN_SENTINELS.fullmatch(repr(float(value)))):
                continue
            if value != 0 and _apart(values, value) > 0.5:
                standing.setdefault(float(value), []).append(name)
    several = {v: names for v, names in standing.items() if len(names) >= 2 and len(names) >= 0.25 * len(numbers)}
    alone = {v: names for v, names in standing.items() if KNOWN_SENTINELS.fullmatch(f"{v:.10g}") and v not in several}
    chosen = several | alone
    for value in several:
        ends = [n for n in numbers if value in (columns[n].values.min(), columns[n].values.max())]
        chosen[value] = [n for n in ends if _apart(columns[n].values.dropna().to_numpy(float), value) > 0.1]
    return chosen


def _apart(values: np.ndarray, value: float) -> float:
    """How far a value lies from its nearest neighbour, in widths of the others (from their 1st to their 99th percentile)."""
    rest = values[values != value]
    return float(np.abs(rest - value).min()) / (float(np.percentile(rest, 99) - np.percentile(rest, 1)) or 1.0)


def lone_zeros(columns: dict[str, Guess]) -> list[str]:
    """Numbers in which some rows hold 0 and all others are far from it: a blood pressure of 0 is missing, a price of 0 may be a gift."""
    names = []
    for name, guess in columns.items():
        values = guess.values.dropna().to_numpy(float) if guess.is_number else np.zeros(0)
        zeros = int((values == 0).sum())
        if len(np.unique(values)) <= 10 or not 5 <= zeros < 0.2 * len(values) or (values < 0).any():
            continue
        above = values[values > 0]
        if above.min() > 0.3 * np.median(above) and _apart(values, 0.0) > 0.2:
            names.append(name)
    return names


def take_out_sentinels(sample: SourceSample, columns: dict[str, Guess]) -> dict[float, list[str]]:
    """Make sentinels missing in `columns` and in the sample; returns those found."""
    standing = sentinels(sample, columns)
    for value, names in standing.items():
        for name in names:
            guess = columns[name]
            there = guess.values == value
            spelt = sorted({str(v).strip() for v in sample.text[name][there]})
            column = guess.column.model_copy(update={"missing": [*guess.column.missing, *spelt]})
            rows = f"{int(there.sum()):,} rows" if sample.is_whole else f"{int(there.sum()):,} rows looked at"
            why = f"{value:.10g} in {rows} stands for a missing value"
            columns[name] = Guess(
                column, "; ".join(w for w in (guess.why, why) if w), guess.values.where(~there), guess.cleaning
            )
            sample.missing[name] += int(there.mean() * sample.rows)
    return standing
