"""How a stage's kernel shows DataFrames: with their texts whole, since a page has no second place to read them in."""

import sys
from typing import Any

SHOWN = 400  # characters of a cell; pandas' own limit of 50 cuts sentences


def show_whole() -> None:
    """From now on this kernel shows the texts of a DataFrame whole; pandas is not imported for it."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    formatter = getattr(get_ipython(), "display_formatter", None)
    if formatter is not None:
        for module in ("pandas", "pandas.core.frame"):  # as pandas 3 and pandas 2 name it
            formatter.formatters["text/html"].for_type_by_name(module, "DataFrame", as_html)


def as_html(frame: Any) -> str | None:
    """A DataFrame as pandas shows it, with texts of up to `SHOWN` characters."""
    import pandas as pd

    with pd.option_context("display.max_colwidth", SHOWN):
        return frame._repr_html_()
