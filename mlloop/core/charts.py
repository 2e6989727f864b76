"""A matplotlib figure as SVG whose text is text: one drawing for wide pages, one for narrow ones, and the numbers drawn.

Every chart of a notebook and of a page is rendered here. A figure that is displayed in a kernel goes into the notebook as
SVG; beside it, in the output's metadata, lie the narrow drawing and the numbers, which the page shows as a table.
"""

import io
import json
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mlloop.core.records import JsonObject

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORM = "image/svg+xml"
NARROW_IN = 3.7  # width of the narrow drawing: at 320 pixels its smallest text is 9 pixels high
LONGEST_LABEL = 20  # letters of a tick's label in the narrow drawing before it is broken into lines
MOST_ROWS = 200
MOST_BYTES = 300_000
MARK = "mark:"
CAPTION = "caption"
_numbers: "WeakKeyDictionary[Axes, pd.DataFrame]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Numbers:
    """What one chart of a figure draws, as a table."""

    title: str
    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Drawing:
    """A figure as SVG.

    Attributes
    ----------
    wide : str
    narrow : str
        '' where the figure is narrow already.
    numbers : list of Numbers
    """

    wide: str
    narrow: str
    numbers: list[Numbers]

    def metadata(self) -> JsonObject:
        """What goes beside the drawing into the metadata of a notebook's output."""
        tables = [{"title": table.title, "columns": table.columns, "rows": table.rows} for table in self.numbers]
        return {"narrow": self.narrow, "numbers": tables}


def keep_numbers(ax: "Axes", data: "pd.DataFrame") -> None:
    """Remember the numbers that `ax` draws, for the table below the chart."""
    _numbers[ax] = data


def name_marks(artist: "Artist", texts: Iterable[str]) -> None:
    """Say what a bar, or each point of a line, stands for: shown where the pointer rests on it."""
    artist.set_gid(MARK + json.dumps([" ".join(str(text).split())[:120] for text in texts]))


def show_as_svg() -> None:
    """Let the kernel that runs this display figures as SVG; without a kernel nothing happens."""
    from IPython.core.getipython import get_ipython
    from matplotlib.figure import Figure

    shell = get_ipython()
    if shell is None or shell.display_formatter is None:
        return
    formatter = shell.display_formatter

    def bundle(figure: Figure, include=None, exclude=None):
        for kind in ("image/png", FORM):  # this drawing replaces those that the inline backend makes
            formatter.formatters[kind].pop(Figure, None)
        drawn = drawing(figure)
        return {FORM: drawn.wide}, {FORM: drawn.metadata()}

    formatter.mimebundle_formatter.for_type(Figure, bundle)


def drawing(figure: "Figure") -> Drawing:
    """A figure as SVG for wide and narrow pages, with its numbers; the figure is left as it was."""
    wide = _svg(figure)
    if len(wide) > MOST_BYTES:
        for ax in figure.axes:
            for artist in (*ax.collections, *ax.lines):
                artist.set_rasterized(True)
        wide = _svg(figure)
    numbers = [_table(ax, _numbers[ax]) for ax in figure.axes if ax in _numbers]
    return Drawing(wide, _narrow(figure) if figure.get_figwidth() > NARROW_IN * 1.2 else "", numbers)


def _table(ax: "Axes", data: "pd.DataFrame") -> Numbers:
    import numpy as np
    import pandas as pd

    def plain(value: Any) -> Any:
        if isinstance(value, (bool, np.bool_)):
            return "yes" if value else "no"
        if pd.isna(value):
            return None
        if isinstance(value, (int, np.integer)):
            return int(value)
        if isinstance(value, (float, np.floating)):
            return float(value)
        if isinstance(value, pd.Timestamp):
            return f"{value:%Y-%m-%d}" if value == value.normalize() else f"{value:%Y-%m-%d %H:%M}"
        return str(value)

    shown = data.head(MOST_ROWS)
    title = " ".join(ax.get_title(loc="left").replace("\\$", "$").split())
    rows = [[plain(value) for value in row] for row in shown.itertuples(index=False, name=None)]
    return Numbers(title, [str(name) or "name" for name in shown.columns], rows)


def _svg(figure: "Figure") -> str:
    import matplotlib as mpl

    clear = [(patch, patch.get_alpha()) for patch in (figure.patch, *(ax.patch for ax in figure.axes))]
    written = io.StringIO()
    try:
        for patch, _ in clear:
            patch.set_alpha(0)
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mlloop"}):
            figure.savefig(written, format="svg", bbox_inches="tight", pad_inches=0.05, metadata={"Date": None})
    finally:
        for patch, alpha in clear:
            patch.set_alpha(alpha)
    return written.getvalue()


def _narrow(figure: "Figure") -> str:
    """The figure with its charts below each other; '' where they were placed by hand."""
    from matplotlib.gridspec import GridSpec

    charts = [ax for ax in figure.axes if getattr(ax, "_colorbar", None) is None]
    places = {ax: spec for ax in charts if (spec := ax.get_subplotspec()) is not None}
    if not places or len(places) < len(charts):
        return ""
    cells = sorted({spec.num1 for spec in places.values()})
    rows = next(iter(places.values())).get_gridspec().nrows
    (width, height), restore = map(float, figure.get_size_inches()), []
    grid = GridSpec(len(cells), 1, figure=figure)
    try:
        figure.set_size_inches(NARROW_IN, height / rows * len(cells))
        for ax, spec in places.items():
            ax.set_subplotspec(grid[cells.index(spec.num1)])
        figure.canvas.draw()
        for ax in places:
            restore += _fitted(ax)
        heights = [height / rows] * len(cells)
        for ax, spec in places.items():
            cell = cells.index(spec.num1)
            heights[cell] = max(heights[cell], _needed(ax))
        figure.set_size_inches(NARROW_IN, sum(heights))
        taller = GridSpec(len(cells), 1, figure=figure, height_ratios=heights)
        for ax, spec in places.items():
            ax.set_subplotspec(taller[cells.index(spec.num1)])
        figure.canvas.draw()
        for ax in places:
            restore += _apart(ax)
        return _svg(figure)
    finally:
        for undo in restore:
            undo()
        for ax, spec in places.items():
            ax.set_subplotspec(spec)
        figure.set_size_inches(width, height)


def _needed(ax: "Axes") -> float:
    """The height in inches at which the labels beside a chart and its title do not run into each other."""
    lines = [label.get_text().count("\n") + 1 for label in ax.get_yticklabels()]
    return 0.14 * max(lines, default=1) * len(lines) + 0.16 * ax.get_title(loc="left").count("\n") + 1.0


def _apart(ax: "Axes") -> list[Any]:
    """Leave out labels of numbers below a chart where they run into each other; returns what undoes it."""
    axis, every = ax.xaxis, 1
    boxes = [
        label.get_window_extent() for label in axis.get_ticklabels() if label.get_text() and not label.get_rotation()
    ]
    while any(a.x1 + 4 > b.x0 for a, b in pairwise(boxes[::every])):
        every += 1
    if every == 1:
        return []
    locator, formatter = axis.get_major_locator(), axis.get_major_formatter()
    low, high = sorted(ax.get_xlim())
    places = [float(place) for place in axis.get_majorticklocs() if low <= place <= high]
    axis.set_ticks(places[::every], [formatter(place, at) for at, place in enumerate(places)][::every])
    return [lambda: axis.set_major_locator(locator), lambda: axis.set_major_formatter(formatter)]


def _fitted(ax: "Axes") -> list[Any]:
    """Break long words of a chart into lines; returns what undoes it."""
    undo: list[Any] = []
    title = ax.get_title(loc="left")
    inches = ax.get_window_extent().width / ax.figure.dpi
    written = ax._left_title  # type: ignore[attr-defined]
    captions = ((text, max(28, int(inches * 18))) for text in ax.texts if text.get_gid() == CAPTION)
    for text, width in [(written, max(22, int(inches * 11.5))), *captions]:
        before = title if text is written else text.get_text()
        text.set_text(textwrap.fill(" ".join(before.split()), width, break_long_words=False))
        undo.append(lambda text=text, before=before: text.set_text(before))
    for axis in (ax.xaxis, ax.yaxis):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        words = any(re.search(r"[^\W\d_]{3}", label) for label in labels)
        if words and max(map(len, labels), default=0) > LONGEST_LABEL:
            locator, formatter = axis.get_major_locator(), axis.get_major_formatter()
            axis.set_ticks(axis.get_majorticklocs(), [textwrap.fill(label, LONGEST_LABEL) for label in labels])
            undo.append(lambda axis=axis, locator=locator: axis.set_major_locator(locator))
            undo.append(lambda axis=axis, formatter=formatter: axis.set_major_formatter(formatter))
    return undo
