"""What each table, model and release was made from, and what was made from it, to the version and the digest."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mlloop import products
from mlloop.core.formatting import number
from mlloop.pages.problem_view import Stage, statement_of
from mlloop.problem import Problem, Recommendation

WIDTH, BOX, HEIGHT, GAP, BETWEEN, PER_ROW = 960.0, 176.0, 66.0, 19.0, 40.0, 5


@dataclass(frozen=True)
class Piece:
    """A piece of data, a model or a release, of one version.

    Attributes
    ----------
    key : str
        What identifies it among the others; also its anchor.
    name, version : str
    digest : str
    stage : str
        The stage that made it.
    parents : tuple of str
        Keys of what it was made from.
    """

    key: str
    name: str
    version: str
    digest: str
    stage: str
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Box:
    """Where a piece stands in the drawing."""

    x: float
    y: float
    piece: Piece


@dataclass(frozen=True)
class Graph:
    """The drawing, in its own units: boxes, and the paths from what was used to what was made of it."""

    width: float = WIDTH
    height: float = 0.0
    box: float = BOX
    box_height: float = HEIGHT
    boxes: list[Box] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


def of_stages(stages: Iterable[Stage]) -> list[Piece]:
    """Everything that the stages of a run made, in the order of making; [] where none has run."""
    stages = list(stages)
    statement, made = statement_of(stages), _Pieces()
    for stage in stages:
        match stage.product:
            case products.Collection() as one:
                for source, batches in one.batches.items():
                    made.batches(source, batches, stage.name)
            case products.Ingestion() as one:
                for name, table in one.tables.items():
                    source = statement.tables[name].source if statement and name in statement.tables else name
                    made.table(table, stage.name, [f"raw-{source}"])
            case products.Transformation() as one:
                for name, table in one.tables.items():
                    made.table(table, stage.name, [made.latest(used) for used in _used(statement, name)])
            case products.Features() as one:
                made.tables(one.tables.values(), stage.name, "transformation")
                made.learnt = [
                    made.key_of(table) for name, table in one.tables.items() if name not in ("rows", "holdout")
                ]
                made.judged = [made.key_of(one.tables["holdout"])] if "holdout" in one.tables else made.learnt
            case products.Training() as one:
                version = f"version {one.model.registered.version}, " if one.model.registered else ""
                made.add("model", one.model.name, version + one.model.form, one.model.digest, stage.name, made.learnt)
            case products.Evaluation() as one:
                for table in (*one.tables.values(), *filter(None, [one.reference.holdout])):
                    made.table(table, stage.name, ["model", *made.judged])
            case products.Deployment() as one:
                made.add(
                    "release",
                    f"release of {one.model.name}",
                    one.release.form,
                    one.release.digest,
                    stage.name,
                    ["model"],
                )
    return list(made.found.values())


def _used(statement: Problem | None, name: str) -> list[str]:
    """The tables of the statement that a table of the transformation is made from."""
    if statement is None:
        return []
    task = statement.task
    if isinstance(task, Recommendation):
        return [task.items.table] if name == "items" and task.items else [one.table for one in task.interactions]
    return [task.table, *(join.table for join in task.joins)]


class _Pieces:
    """The pieces met so far by key; the same version of a table is one piece, whichever stage names it."""

    def __init__(self) -> None:
        self.found: dict[str, Piece] = {}
        self.learnt: list[str] = []
        self.judged: list[str] = []

    def add(self, key: str, name: str, version: str, digest: str, stage: str, parents: Iterable[str]) -> None:
        """A piece, unless it is there already; parents that are not known are left out."""
        known = tuple(dict.fromkeys(one for one in parents if one in self.found and one != key))
        self.found.setdefault(key, Piece(key, name, version, digest, stage, known))

    def batches(self, source: str, batches: list[products.Batch], stage: str) -> None:
        rows = sum(batch.rows for batch in batches)
        files = f"{len(batches)} files" if len(batches) != 1 else "1 file"
        digest = batches[-1].digest if batches else ""
        self.add(f"raw-{source}", f"source {source}", f"{files}, {number(rows)} rows", digest, stage, [])

    def key_of(self, table: products.Table) -> str:
        return f"{table.name}-{table.version}-{table.digest[:8]}".replace("/", "-")

    def latest(self, name: str) -> str:
        """The key of the last table met of that name, whatever its problem."""
        return next((key for key, one in reversed(self.found.items()) if one.name.rpartition("/")[2] == name), "")

    def table(self, table: products.Table, stage: str, parents: Iterable[str]) -> None:
        version = f"version {number(table.version)}, {number(table.rows)} rows"
        self.add(self.key_of(table), table.name, version, table.digest, stage, parents)

    def tables(self, tables: Iterable[products.Table], stage: str, before: str) -> None:
        """Tables that are made from all that the stage before made."""
        parents = [key for key, one in self.found.items() if one.stage == before]
        for table in tables:
            self.table(table, stage, parents)


def children(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    """Key -> what was made from it."""
    pieces = list(pieces)
    return {one.key: [other for other in pieces if one.key in other.parents] for one in pieces}


def graph(pieces: Iterable[Piece]) -> Graph:
    """Place the pieces in layers from top to bottom; a line that a way over other pieces repeats is left out."""
    layers: list[list[Piece]] = []
    depth: dict[str, int] = {}
    for one in pieces:
        depth[one.key] = max((depth[parent] + 1 for parent in one.parents), default=0)
        while len(layers) <= depth[one.key]:
            layers.append([])
        layers[depth[one.key]].append(one)
    boxes: dict[str, Box] = {}
    y = 4.0
    for layer in layers:
        for start in range(0, len(layer), PER_ROW):
            row = layer[start : start + PER_ROW]
            left = (WIDTH - len(row) * BOX - (len(row) - 1) * GAP) / 2
            for i, one in enumerate(row):
                boxes[one.key] = Box(left + i * (BOX + GAP), y, one)
            y += HEIGHT + (10 if start + PER_ROW < len(layer) else BETWEEN)
    above = {key: _above(key, {one.key: one for layer in layers for one in layer}) for key in boxes}
    direct = lambda box: [
        one for one in box.piece.parents if not any(one in above[other] for other in box.piece.parents)
    ]
    paths = [_path(boxes[parent], box) for box in boxes.values() for parent in direct(box)]
    return Graph(height=y - BETWEEN + 8, boxes=list(boxes.values()), paths=paths)


def _above(key: str, pieces: dict[str, Piece]) -> set[str]:
    """The keys of all that a piece was made from, however many steps before."""
    parents = pieces[key].parents
    return {*parents}.union(*(_above(parent, pieces) for parent in parents))


def _path(above: Box, below: Box) -> str:
    x, y = above.x + BOX / 2, above.y + HEIGHT
    to_x, to_y = below.x + BOX / 2, below.y
    bend = min(BETWEEN * 0.8, (to_y - y) / 2)
    return f"M{x:g} {y:g}C{x:g} {y + bend:g} {to_x:g} {to_y - bend:g} {to_x:g} {to_y:g}"
