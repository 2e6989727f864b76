"""The one writer of figures: the same number with the same unit reads alike on a page, in a table and in a sentence.

The rounding rule, which holds for every figure that a person reads (what programs read, `--json`, products and the
ledger's evidence, keeps every digit):

- A whole number is written whole, thousands apart: 4, 12,345. Whether it is stored as an integer makes no difference.
- Any other number is rounded to three significant digits. From 0.1 on they are all written, so that figures in a column
  or a sentence can be compared: 42.96 is 43.0, 0.85 is 0.850; from 100 on no decimals are left: 12,345.6 is 12,346.
  Below 0.1, where margins and allowed losses lie, trailing zeros are left out: 0.02. Below 0.0001 the exponent is
  written: 1.23e−06.
- A share is written in percent: whole from 10% to 99%, to a tenth outside, and finer where a tenth would read as none or as all.
- A time that something took is written in seconds, to a tenth.
- The sign is the minus sign, −, and a figure that is missing is –.
"""

import math
from typing import Any

MISSING = "–"


def number(value: Any, unit: str = "") -> str:
    """A figure with its unit.

    Parameters
    ----------
    value : number, bool, str or None
        True and False are 'yes' and 'no'; text stays as it is; anything else that is no finite number is missing.
    unit : str
        Written after it, '' for a pure number; a currency is a unit.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if not is_figure(value):
        return MISSING
    whole = value if isinstance(value, int) else round(float(value))
    is_whole = math.isclose(value, whole, rel_tol=1e-9)  # 6.000000000000001, which arithmetic leaves, is 6
    text = f"{whole:,}" if is_whole else _digits(float(value))
    return f"{text.replace('-', '−')} {unit}".strip()


def _digits(value: float) -> str:
    """Three significant digits of a number that is not whole."""
    size = abs(float(f"{value:.3g}"))
    if size >= 100:
        return f"{value:,.0f}"
    if size < 0.1:
        return f"{value:.2e}" if size < 1e-4 else f"{value:.3g}"
    return f"{value:.{2 - math.floor(math.log10(size))}f}"


def is_figure(value: Any) -> bool:
    """Whether it is a finite number, NumPy's included; True and False are none."""
    if isinstance(value, (bool, str)) or value is None:
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


def apart(value: Any, threshold: Any) -> tuple[str, str]:
    """Two figures in as many digits as it takes to tell them apart."""
    a, b = number(value), number(threshold)
    if a != b or not (is_figure(value) and is_figure(threshold)) or value == threshold:
        return a, b
    digits = next((d for d in range(4, 17) if f"{value:.{d}f}" != f"{threshold:.{d}f}"), 17)
    return f"{value:,.{digits}f}".replace("-", "−"), f"{threshold:,.{digits}f}".replace("-", "−")


def signed(value: Any, unit: str = "") -> str:
    """A figure with its sign, for what is added or taken away."""
    return f"+{number(value, unit)}" if is_figure(value) and value >= 0 else number(value, unit)


def interval(low: Any, high: Any, unit: str = "") -> str:
    """Where a figure lies: '0.830 to 0.870'."""
    return f"{number(low)} to {number(high, unit)}" if is_figure(low) and is_figure(high) else MISSING


def bracketed(low: Any, high: Any) -> str:
    """Where a figure lies, behind it in a sentence: '[0.830 to 0.870]'."""
    return f"[{number(low)} to {number(high)}]"


def percent(share: Any) -> str:
    """A share in percent: '25%', '4.5%', '99.6%'."""
    if not is_figure(share):
        return MISSING
    value = 100 * float(share)
    if 10 <= abs(value) <= 99 or math.isclose(value, round(value), abs_tol=1e-9):
        text = f"{value:,.0f}"
    else:  # never so few digits that some reads as none, or nearly all as all
        text = next((t for d in range(1, 9) if abs(float(t := f"{value:.{d}f}")) not in (0, 100)), f"{value:.0e}")
    return f"{text.replace('-', '−')}%"


def quantity(count: int, noun: str) -> str:
    """How many there are of something: '1 period', '1,200 periods'."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: Any) -> str:
    """A time that something took: '12.3 s'."""
    return f"{seconds:,.1f} s" if is_figure(seconds) else MISSING
