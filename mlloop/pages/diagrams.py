"""Where things stand in the two drawings of a page: the loop of stages, and a figure with its interval and threshold.

Only positions are worked out here; the templates draw them and escape every word.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from mlloop.core import formatting


@dataclass(frozen=True)
class Node:
    """A stage in the drawing: its place, and the stage itself as the page knows it."""

    x: float
    y: float
    w: float
    h: float
    stage: object


@dataclass(frozen=True)
class Line:
    """An arrow along `path`; `kind` is 'next', 'yes', 'no' or 'again', `label` stands at (x, y)."""

    path: str
    kind: str
    label: str = ""
    x: float = 0
    y: float = 0


@dataclass(frozen=True)
class Loop:
    """The drawing of a loop, in its own units."""

    width: float
    height: float
    nodes: list[Node] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


def lanes(stages: Sequence, is_gate) -> list[list]:
    """The stages cut after each gate."""
    cut: list[list] = [[]]
    for stage in stages:
        cut[-1].append(stage)
        if is_gate(stage):
            cut.append([])
    return [lane for lane in cut if lane]


def wide(stages: Sequence, is_gate, again: tuple[str, str] | None = None) -> Loop:
    """One row a lane, read from left to right; a gate's No goes back along the top.

    Parameters
    ----------
    again : (str, str), optional
        Names of the stage where a turn of the loop ends and of the one where the next begins. The row of the first
        begins one place to the right, so that the way back has room.
    """
    w, h, gap, between, margin = 132.0, 56.0, 24.0, 56.0, 34.0  # the drawing's own units
    rows = lanes(stages, is_gate)
    position = {stage.name: (r, i) for r, row in enumerate(rows) for i, stage in enumerate(row)}
    turns = (
        again
        if again and all(name in position for name in again) and position[again[0]][0] > position[again[1]][0]
        else None
    )
    indent = [1 if turns and r > position[turns[1]][0] else 0 for r in range(len(rows))]
    longest = max((len(row) + indent[r] for r, row in enumerate(rows)), default=0)
    right = max(longest * (w + gap) - gap, w)
    nodes, lines = [], []
    for r, row in enumerate(rows):
        y = margin + r * (h + between)
        placed = [Node(1 + (i + indent[r]) * (w + gap), y, w, h, stage) for i, stage in enumerate(row)]
        middle = y + h / 2
        lines += [Line(f"M{a.x + w:g} {middle:g}H{b.x - 2:g}", "next") for a, b in pairwise(placed)]
        last = placed[-1]
        if is_gate(last.stage):
            x = last.x + w
            path = f"M{x:g} {middle:g}H{right + 18:g}V10H{w / 2:g}V{margin - 2:g}"
            lines.append(
                Line(
                    path,
                    "no",
                    "No" if r else "No: back to the problem statement",
                    x + 4 if r else w / 2 + 8,
                    middle - 6 if r else 24,
                )
            )
            if r + 1 < len(rows):
                half, to = y + h + between / 2, w / 2 + indent[r + 1] * (w + gap)
                path = f"M{last.x + w / 2:g} {y + h:g}V{half:g}H{to:g}V{y + h + between - 2:g}"
                lines.append(Line(path, "yes", "Yes or Maybe: go on", to + 10, half - 7))
        nodes += placed
    height = margin + len(rows) * (h + between) - between + 6
    if turns:
        end, begin = (next(n for n in nodes if n.stage.name == name) for name in turns)  # type: ignore[attr-defined]
        low = height + 16
        to = begin.x + w / 4
        lines.append(
            Line(
                f"M{end.x + w / 2:g} {end.y + h:g}V{low:g}H{to:g}V{begin.y + h + 2:g}",
                "again",
                "New data: retrain, from the features on",
                to + 8,
                low - 6,
            )
        )
        height = low + 6
    return Loop(right + 26, height, nodes, lines)


def narrow(stages: Sequence, is_gate, again: tuple[str, str] | None = None) -> Loop:
    """One column, read from top to bottom; a gate's No goes back along the left, the next turn along the right."""
    w, h, gap, left, top = 262.0, 46.0, 24.0, 34.0, 8.0
    nodes = [Node(left, top + i * (h + gap), w, h, stage) for i, stage in enumerate(stages)]
    middle = left + w / 2
    lines = []
    for a, b in pairwise(nodes):
        kind = "yes" if is_gate(a.stage) else "next"
        label = "Yes or Maybe" if kind == "yes" else ""
        lines.append(Line(f"M{middle:g} {a.y + h:g}V{b.y - 2:g}", kind, label, middle + 8, a.y + h + 15))
    for node in nodes:
        if is_gate(node.stage):
            y = node.y + h / 2
            lines.append(Line(f"M{left:g} {y:g}H10V{top + h / 2:g}H{left - 2:g}", "no", "No", 15, y - 5))
    named = {node.stage.name: node for node in nodes}  # type: ignore[attr-defined]
    turns = bool(again) and all(name in named for name in again or ())
    if again and turns:
        end, begin = named[again[0]], named[again[1]]
        x = left + w
        lines.append(
            Line(f"M{x:g} {end.y + h / 2:g}H{x + 18:g}V{begin.y + h / 2:g}H{x + 2:g}", "again", "", x, begin.y)
        )
    return Loop(left + w + (26 if turns else 8), top * 2 + len(nodes) * (h + gap) - gap, nodes, lines)


@dataclass(frozen=True)
class Mark:
    """A figure of one period in the chart: places of its value and interval, and what it is."""

    kind: str
    x: float
    y: float
    low: float | None
    high: float | None
    label: str


@dataclass(frozen=True)
class Chart:
    """Figures by period with the reference they are held against, in the chart's own units."""

    width: float
    height: float
    marks: list[Mark]
    reference: float | None
    target: float | None
    target_label: str
    ticks: list[tuple[float, str]]
    periods: list[tuple[float, str]]
    lines: list[str]
    periods_in_all: int = 0


def round_values(least: float, most: float, about: int = 5) -> list[float]:
    """Round numbers between two bounds, as an axis names them."""
    raw = (most - least) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= raw)
    first = math.ceil(least / step)
    return [n * step for n in range(first, math.floor(most / step) + 1)]


def periods(
    rows: Sequence[dict],
    reference: float | None,
    target: float | None,
    width: float = 720,
    height: float = 220,
    target_name: str = "target",
) -> Chart | None:
    """Place the figures of a model's periods; None where there is nothing to draw.

    Parameters
    ----------
    rows : sequence of dict
        Each with 'period' (text), and 'estimated' and 'realised': None or a dict with 'value', 'low', 'high', 'said'.
    reference, target : float or None
        The value of the reference period, and the one that the problem statement asks for.
    """
    kinds = ("estimated", "realised")
    figures = [f for row in rows for kind in kinds if (f := row.get(kind))]
    known = [v for f in figures for v in (f["value"], f.get("low"), f.get("high")) if v is not None]
    if not known:
        return None
    known += [v for v in (reference, target) if v is not None]
    least, most = min(known), max(known)
    room = (most - least) * 0.08 or max(abs(most) * 0.05, 1e-6)
    least, most = least - room, most + room
    left, right, top, bottom = 58.0, width - 8, 8.0, height - 26
    across = lambda i: round(left + (right - left) * (i + 0.5) / len(rows), 2)
    at = lambda v: round(bottom - (bottom - top) * (v - least) / (most - least), 2)
    up = lambda v: None if v is None else at(v)
    marks, lines = [], []
    for kind, aside in zip(kinds, (-3.0, 3.0), strict=True):
        there = [(i, row[kind]) for i, row in enumerate(rows) if row.get(kind)]
        placed = [
            Mark(kind, across(i) + aside, at(f["value"]), up(f.get("low")), up(f.get("high")), str(f.get("said", "")))
            for i, f in there
        ]
        marks += placed
        if len(placed) > 1:
            lines.append("M" + "L".join(f"{m.x:g} {m.y:g}" for m in placed))
    step = max(1, -(-len(rows) // max(1, int(width // 88))))  # room for a date
    return Chart(
        width=width,
        height=height,
        marks=marks,
        reference=up(reference),
        target=up(target),
        target_label=f"{target_name} {formatting.number(target)}" if target is not None else "",
        ticks=[(at(v), formatting.number(v)) for v in round_values(least, most)],
        periods=[(across(i), row["period"]) for i, row in enumerate(rows) if (len(rows) - 1 - i) % step == 0],
        lines=lines,
        periods_in_all=len(rows),
    )


@dataclass(frozen=True)
class Interval:
    """Positions from 0 to 100 of a value, its interval and its threshold; None where there is none."""

    value: float
    low: float | None
    high: float | None
    threshold: float | None


def interval(value: float | None, low: float | None, high: float | None, threshold: float | None) -> Interval | None:
    """Place a figure on a line of its own scale; None where there is nothing to compare it with."""
    known = [v for v in (value, low, high, threshold) if v is not None]
    if value is None or len(known) < 2 or min(known) == max(known):
        return None
    start, span = min(known), max(known) - min(known)
    at = lambda v: None if v is None else round(6 + 88 * (v - start) / span, 2)
    return Interval(6 + 88 * (value - start) / span, at(low), at(high), at(threshold))
