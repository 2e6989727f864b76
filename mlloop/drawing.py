"""Where things stand in the two drawings of a page: the loop of stages, and a figure with its interval and threshold.

Only positions are worked out here; the templates draw them and escape every word.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise


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


def wide(stages: Sequence, is_gate) -> Loop:
    """One row a lane, read from left to right; a gate's No goes back along the top."""
    w, h, gap, between, margin = 132.0, 56.0, 24.0, 56.0, 34.0  # the drawing's own units
    rows = lanes(stages, is_gate)
    longest = max((len(row) for row in rows), default=0)
    right = max(longest * (w + gap) - gap, w)
    nodes, lines = [], []
    for r, row in enumerate(rows):
        y = margin + r * (h + between)
        placed = [Node(1 + i * (w + gap), y, w, h, stage) for i, stage in enumerate(row)]
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
                half = y + h + between / 2
                path = f"M{last.x + w / 2:g} {y + h:g}V{half:g}H{w / 2:g}V{y + h + between - 2:g}"
                lines.append(Line(path, "yes", "Yes or Maybe: go on", w / 2 + 10, half - 7))
        nodes += placed
    height = margin + len(rows) * (h + between) - between + 6
    return Loop(right + 26, height, nodes, lines)


def narrow(stages: Sequence, is_gate) -> Loop:
    """One column, read from top to bottom; a gate's No goes back along the left."""
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
    return Loop(left + w + 8, top * 2 + len(nodes) * (h + gap) - gap, nodes, lines)


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
