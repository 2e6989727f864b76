"""How numbers are written in a column of text: decimal sign, thousands, what stands around them, and what only looks like one.

A number and a name of digits are told apart first: a postcode, a phone or an account has no sum. Then the decimal sign is
read off the values; where they allow two readings, other columns of the file decide, and the column says that it was so.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mlloop.data.parsing import INTEGER, NUMBER, SPACES
from mlloop.data.profiling import UNITS

CODES = re.compile(
    r"(^|[_ .-])(zip|zip_?code|postal|post_?code|plz|phone|tel|telephone|telefon|mobile|handy|fax|iban|bic|blz|konto|account|"
    r"acct|article|artikel|sku|ean|gtin|upc|isbn|issn|asin|ssn|nif|vat|siret|siren|barcode|serial|fips|naics|msisdn|imei|"
    r"code|passport|licen[cs]e|personnel|matricul\w+)([_ .-]?(code|no|nr|num|number|nummer|id))?$",
    re.I,
)
EXACT = 2**53
"""Whole numbers from here on are not exact as the floats that every model sees."""

CURRENCIES = {
    "usd",
    "eur",
    "gbp",
    "chf",
    "inr",
    "cad",
    "aud",
    "nzd",
    "jpy",
    "cny",
    "rmb",
    "sek",
    "nok",
    "dkk",
    "kr",
    "pln",
    "zl",
    "zł",
    "czk",
    "kč",
    "huf",
    "ft",
    "ron",
    "bgn",
    "brl",
    "mxn",
    "ars",
    "clp",
    "zar",
    "try",
    "rub",
    "rs",
    "sfr",
    "fr",
    "krw",
    "thb",
    "sgd",
    "ils",
    "aed",
    "sar",
}
SHORT = {"k": 1e3, "m": 1e6, "mio": 1e6, "mn": 1e6, "b": 1e9, "bn": 1e9}
KNOWN_UNITS = {
    *(CURRENCIES | set(SHORT)),
    *(unit.rstrip("s") for group in UNITS for unit in group),
    *(
        "day",
        "week",
        "month",
        "year",
        "yr",
        "pc",
        "piece",
        "unit",
        "x",
        "degree",
        "c",
        "f",
        "kw",
        "kwh",
        "mw",
        "mb",
        "gb",
        "tb",
        "hp",
    ),
    *(
        "mg",
        "mmol",
        "mm",
        "ft",
        "in",
        "inch",
        "km h",
        "kmh",
        "mph",
        "cc",
        "kg m",
        "v",
        "w",
        "hz",
        "bpm",
        "ms",
        "pct",
        "point",
        "pt",
    ),
}
"""Words beside a number that measure it, in the singular; any other may name what the number stands for."""
READINGS = ((".", None), (",", None), (".", ","), (",", "."), (".", " "), (",", " "), (".", "'"), (",", "'"))
PARTS = re.compile(
    r"^(?P<open>\()?\s*(?P<s1>[+-])?\s*(?P<before>[^\d\s.,+()'-]*\.?)\s*(?P<s2>[+-])?\s*"
    r"(?P<core>\d[\d.,' ]*(?<=[\d.,])|[.,]\d+)(?P<power>[eE][+-]?\d+)?\s*(?P<after>[^\d()]*?)\s*(?P<s3>-)?\s*(?P<close>\))?$"
)


@dataclass(frozen=True)
class Hint:
    """What the rest of a file says: its decimal sign, whether dates begin with the day, and the column that shows it."""

    decimal: str | None = None
    decimal_shown_by: str = ""
    day_first: bool | None = None
    day_shown_by: str = ""


@dataclass
class Numbers:
    """The numbers of a column.

    Attributes
    ----------
    values : Series of float
        Missing where a value is none.
    decimal, thousands : str, str or None
    is_whole, is_bare : bool
        Whether no value has decimals, and whether nothing stands around them.
    units : list of str
        What stands around them.
    factors : dict of str to float
        What a unit multiplies by.
    open : str
        The separator that could be read in two ways, '' where the values decide.
    why : str
        How an open one was read, and how to say otherwise.
    """

    values: pd.Series
    decimal: str = "."
    thousands: str | None = None
    is_whole: bool = True
    is_bare: bool = True
    units: list[str] = field(default_factory=list)
    factors: Mapping[str, float] = field(default_factory=dict)
    open: str = ""
    why: str = ""


def _different(known: pd.Series) -> Iterator[object]:
    """The texts, the first ones at once, and what is written often only once or twice."""
    yield from known.iloc[:20]
    yield from known.iloc[20:].unique()


def every(pattern: str, known: pd.Series) -> bool:
    """Whether the whole of each text has the form; it stops at the first that has not."""
    matches = re.compile(pattern).fullmatch
    return all(isinstance(text, str) and matches(text) is not None for text in _different(known))


def some(pattern: str, known: pd.Series) -> bool:
    """Whether the form is found in any of the texts; it stops at the first."""
    search = re.compile(pattern).search
    return any(isinstance(text, str) and search(text) is not None for text in _different(known))


def unified(known: pd.Series) -> pd.Series:
    """Text with one kind of space, minus and apostrophe."""
    table = str.maketrans({**dict.fromkeys(SPACES, " "), "\u2212": "-", "\u2019": "'"})
    return known.str.translate(table).str.strip()


VERSIONS = re.compile(r"(^|[_ .-])(version|release|build|firmware|revision|section|chapter|clause)$|Version$", re.I)


def names_things(name: str, known: pd.Series) -> str:
    """Why digits are a name and no number; '' where they are a number."""
    if VERSIONS.search(name) and every(r"\d+\.\d+", known) and known.nunique() > known.astype(float).nunique():
        return "versions: 1.1 and 1.10 are two of them, and one number"
    if not every(r"\+?\d+([eE]\d+)?", known):
        return ""
    if some("[eE]", known):
        alike = known.str.len().nunique() == 1 and not known.str.contains("[eE]").all()
        if alike:
            return "some look like 12E3, all of one length: codes, which are no numbers"
        # a program writes 1e+05 or 1.0E5: a capital E between whole digits is a code's
        return "look like 12E3: codes, which are no numbers" if every(r"\d+E\d+", known) else ""
    if some(r"\A0\d", known):
        return "leading zeros, which a number would lose"
    digits = known.str.len() - known.str.startswith("+")
    if (digits >= 16).any() and (known[digits >= 16].map(int) >= EXACT).any():
        return "longer than a number holds exactly"
    if every(r"\+.*", known) and (digits >= 8).all():
        return "phone numbers"
    one_length, least = digits.nunique() == 1, int(digits.min())
    if CODES.search(name) and (one_length or least >= 5 or re.search(r"code$", name, re.I)) and known.nunique() > 2:
        return "digits that name things, going by the column's name"
    if not one_length or least < 5:
        return ""
    values = known.map(int)
    if least >= 10 and not (least == 10 and values.between(10**9, 2**31).all()) and least != 13:
        return f"all of {least} digits: they name things"
    if least == 13 and not values.between(10**12, 2**31 * 1000).all():
        return "all of 13 digits: they name things"
    few = known.nunique() <= 50 and known.nunique() * 10 <= len(known)
    is_day = least == 8 and pd.to_datetime(known, format="%Y%m%d", errors="coerce").notna().all()
    if few and known.nunique() > 2 and (values % 10 != 0).any() and not is_day:
        return f"all of {least} digits and few values: they name things"
    return ""


def read(known: pd.Series, hint: Hint | None = None, separator: str = ",") -> Numbers | None:
    """The numbers of a column of text; None where hardly any value is one, or where no one notation reads them all.

    Parameters
    ----------
    known : Series of str
        Stripped, without missing values.
    separator : str
        Between the values of the file: with a semicolon numbers mostly have decimal commas.
    """
    if every(NUMBER.strip("^$"), known):
        plain = pd.to_numeric(known, errors="coerce").astype(float)
        if not every(r"[+-]?[1-9]\d{0,2}\.\d{3}|[+-]?\d{1,3}", known) or not some(r"\.", known):
            return Numbers(plain, is_whole=every(INTEGER.strip("^$"), known))
    few = unified(known if len(known) < 500 else known.iloc[:: len(known) // 200])
    if not few.str.contains(r"^[^\w]*\w{0,4}[^\w]*\d").mean() > 0.5:
        return None
    places, different = pd.factorize(known)  # what is written often is read once
    text = unified(pd.Series(different, dtype=object))
    parts = text.str.extract(PARTS)
    fits = parts["core"].notna() & (parts["open"].notna() == parts["close"].notna())
    if not fits.any():
        return None
    core = parts["core"][fits].str.strip()
    core = core.where(~core.str.match(r".*\d[.,]$"), core.str[:-1])
    readings = [reading for reading in READINGS if _reads(core, *reading)]
    if not readings:
        return None
    chosen, unsure = _chosen(core, readings, hint or Hint(), separator)
    decimal, thousands = chosen
    number = core if thousands is None else core.str.replace(thousands, "", regex=False)
    number = number.str.replace(",", ".", regex=False) if decimal == "," else number
    values = pd.to_numeric(number + parts["power"][fits].fillna(""), errors="coerce").astype(float)
    negative = (parts[["s1", "s2", "s3"]] == "-").sum(axis=1) + parts["open"].notna()
    values = values * np.where(negative[fits] % 2 == 1, -1.0, 1.0)
    around = parts["before"][fits].fillna("").str.strip() + "|" + parts["after"][fits].fillna("").str.strip()
    bare = (around == "|") & parts["open"][fits].isna() & parts["s3"][fits].isna()
    spaced = text[fits].str.fullmatch(r"[+-]?[\d.,' ]*(?:[eE][+-]?\d+)?")
    numbers = Numbers(
        values.reindex(text.index),
        decimal,
        thousands,
        is_whole=bool(not core.str.contains(re.escape(decimal)).any() and parts["power"].isna().all()),
        is_bare=bool(bare.all() and spaced.all() and fits.all()),
        open=unsure,
    )
    rows = np.bincount(places, minlength=len(text))[fits]
    numbers.units, numbers.factors = _units(around.str.lower(), numbers.values[fits], rows)
    if numbers.factors and not set(numbers.factors) <= {"%"}:
        for unit, factor in numbers.factors.items():
            numbers.values = numbers.values.where(
                ~text.str.lower().str.contains(unit, regex=False), numbers.values * factor
            )
    numbers.values = pd.Series(numbers.values.to_numpy()[places], index=known.index)
    numbers.why = _why(numbers, core, hint or Hint(), separator) if unsure else ""
    return numbers


def _reads(core: pd.Series, decimal: str, thousands: str | None) -> bool:
    """Whether every number is written so."""
    point = re.escape(decimal)
    plain = rf"\d+({point}\d*)?|{point}\d+"
    grouped = rf"[1-9]\d{{0,2}}({re.escape(thousands)}\d{{3}})+({point}\d*)?" if thousands else ""
    indian = rf"|[1-9]\d?(,\d{{2}})+,\d{{3}}({point}\d*)?" if thousands == "," else ""
    return bool(core.str.fullmatch(f"{plain}|{grouped}{indian}" if grouped else plain).all())


def _chosen(core: pd.Series, readings: list, hint: Hint, separator: str) -> tuple[tuple[str, str | None], str]:
    """The reading, and the separator that allows another; a reading that needs no thousands comes first."""
    used = [sign for sign in ".,' " if core.str.contains(sign, regex=False).any()]
    if not used or len(readings) == 1 or used[0] in " '":
        return readings[0], ""
    plain = [reading for reading in readings if reading[1] is None and reading[0] in used]
    grouped = [reading for reading in readings if reading[1] in used and reading[1] is not None]
    if not plain or not grouped:
        return (plain or grouped or readings)[0], ""
    sign = used[0]
    above = core.str.fullmatch(r"\d{4,}").any()  # whoever sets thousands apart would have done so here
    if above:
        return plain[0], ""
    evident = hint.decimal or ("," if separator == ";" else "." if separator == "," else None)
    if evident is not None:
        return (plain[0] if evident == sign else grouped[0]), sign
    return (plain[0] if sign == "." else grouped[0]), sign


def _why(numbers: Numbers, core: pd.Series, hint: Hint, separator: str) -> str:
    example = core[core.str.contains(numbers.open, regex=False)].iloc[0]
    as_decimal = numbers.decimal == numbers.open and numbers.thousands is None
    other = "thousands" if as_decimal else "decimals"
    reason = (
        f", as in {hint.decimal_shown_by}"
        if hint.decimal_shown_by
        else ", as in most files cut by ';'"
        if separator == ";"
        else ""
    )
    return f"decimals or thousands? {example} is read with {'decimals' if as_decimal else 'thousands'}{reason}; if it means {other}, say so"


def _units(around: pd.Series, values: pd.Series, rows: np.ndarray) -> tuple[list[str], dict[str, float]]:
    """What stands around the numbers, the commonest first, and what of it multiplies them; of different texts, each in so many rows."""
    counts = pd.Series(rows, index=around.index)[around != "|"].groupby(around, sort=False).sum()
    counts = counts.sort_values(ascending=False, kind="stable")
    units = list(dict.fromkeys(unit for pair in counts.index for unit in pair.split("|") if unit))
    short = {unit: SHORT[unit] for unit in units if unit in SHORT}
    if short and all(unit in SHORT or unit in "$€£¥" for unit in units) and (len(short) > 1 or (around == "|").any()):
        return units, short
    signed = around.str.contains("%", regex=False)
    if signed.any() and not signed.all():
        sizes, has_sign = (np.repeat(part, rows) for part in (values.abs().to_numpy(), signed.to_numpy(dtype=bool)))
        plain, per_cent = np.nanmedian(sizes[~has_sign]), np.nanmedian(sizes[has_sign])
        if plain > 0 and 30 < per_cent / plain < 300:
            return units, {"%": 0.01}
    return units, {}


def is_code(notation: Numbers, known: pd.Series) -> bool:
    """Whether letters before the digits make them codes: A12, but not EUR 12."""
    before = {unit for unit in notation.units if re.search(r"[^\W\d_]", unit)}
    starts = (
        pd.Series(known.unique(), dtype=object)
        .str.lower()
        .str.extract(r"^[\s(+-]*([^\W\d_]+)([$€£¥]?)")
        .dropna(subset=[0])
    )
    return bool(before) and bool((~starts[0].isin(CURRENCIES) & (starts[1] == "")).any())
