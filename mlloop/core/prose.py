"""Which columns hold text of several words, and how such a text is cut into words: by one rule for training and serving."""

import re
import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

WORDS_OF_PROSE = 4
MANY = 50  # different values
REPEATED = 5  # rows a value, from which a text is a category: a template, or the name of a product
LOOKED_AT = 500
MISSING = "(missing)"  # what the feature table has in place of a missing text
NO_VALUE = ("nan", "<NA>", "NaT")  # as pandas writes what is missing
MOST_WORDS = 2000  # of a text; what comes later is not read
# scripts written without blanks: kana, the ideographs of Chinese, Japanese and Korean; each of their signs is a word
SIGN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# a word is a run of letters and digits, with the marks that scripts such as Devanagari and Arabic write onto letters
SIGNS = re.compile(f"[{SIGN}]")
WORD = re.compile(rf"[{SIGN}]|(?:(?![{SIGN}_])[\w\u0300-\u036f\u064b-\u0655\u0900-\u0963\u0966-\u109f])+")


def as_text(value: Any) -> str:
    """A value of a text column; '' where it is missing."""
    if not isinstance(value, str):
        return "" if value is None or str(value) in NO_VALUE else str(value)
    return "" if value == MISSING else value


def words_of(text: str) -> str:
    """The words of a text in lower case, joined by blanks; at most the first `MOST_WORDS`."""
    return " ".join(WORD.findall(text.lower())[:MOST_WORDS])


def _spaced(texts: "pd.Series", most: int) -> "pd.Series":
    """About `most` values from all over a column: a field that was added late is empty for long."""
    return texts.iloc[:: 1 + len(texts) // most]


def is_prose(texts: "pd.Series") -> bool:
    """Whether most values are several words, as messages are: they name nothing, though each is different."""
    some = _spaced(texts, 10 * LOOKED_AT)
    some = _spaced(some[some.notna() & (some != MISSING)], LOOKED_AT).astype(str)
    # two ideographs are about a word
    words = [len(text.split()) + len(SIGNS.findall(text)) // 2 for text in some]
    return bool(words) and bool(statistics.median(words) >= WORDS_OF_PROSE)


def has_words(values: "pd.Series") -> bool:
    """Whether a model reads the words of a column: prose whose values seldom repeat. Of other columns it reads the value."""
    from pandas.api.types import infer_dtype

    if infer_dtype(_spaced(values, 10 * LOOKED_AT), skipna=True) != "string" or not is_prose(values):
        return False
    known = values[values.notna() & (values != MISSING)]
    return bool(max(MANY, len(known) // REPEATED) < known.nunique())


def prose_columns(rows: "pd.DataFrame") -> list[str]:
    """The columns whose words a model reads."""
    return [str(name) for name in rows if has_words(rows[name])]


def lengths(values: "pd.Series") -> "pd.Series":
    """The number of characters of each text, NaN where it is missing."""
    return values.map(lambda value: float(len(as_text(value))) or float("nan")).astype(float)


def comparable(reference: "pd.Series", current: "pd.Series") -> "tuple[pd.Series, ...]":
    """Two columns as monitoring compares them: of prose the lengths, since each text is another; others as they are."""
    return (lengths(reference), lengths(current)) if has_words(reference) else (reference, current)
