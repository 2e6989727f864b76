"""What each table, model and release was made from, and what was made from it, to the version and the digest."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mlloop import products
from mlloop.core.formatting import number
from mlloop.pages.problem_view import Stage, statement_of
from mlloop.problem import Problem, Recommendation

# the tables that a transformation makes, by the name that features read them under
TRANSFORMED = ("rows", "events", "items")
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
    statement, pieces = statement_of(stages), _Pieces()
    for stage in stages:
        match stage.product:
            case products.Collection() as product:
                for source, batches in product.batches.items():
                    pieces.batches(source, batches, stage.name)
            case products.Ingestion() as product:
                for name, table in product.tables.items():
                    source = statement.tables[name].source if statement and name in statement.tables else name
                    pieces.table(table, stage.name, [f"raw-{source}"])
            case products.Transformation() as product:
                for name, table in product.tables.items():
                    pieces.table(table, stage.name, [pieces.latest(used) for used in _used(statement, name)])
            case products.Features() as product:
                pieces.features(product, stage.name)
                pieces.learnt = [
                    pieces.key_of(table) for name, table in product.tables.items() if name not in ("rows", "holdout")
                ]
                pieces.holdout = (
                    [pieces.key_of(product.tables["holdout"])] if "holdout" in product.tables else pieces.learnt
                )
            case products.Training() as product:
                pieces.models(product, stage.name)
            case products.Evaluation() as product:
                for table in (*product.tables.values(), *filter(None, [product.reference.holdout])):
                    pieces.table(table, stage.name, [pieces.judged, *pieces.holdout])
            case products.Deployment() as product:
                pieces.add(
                    "release",
                    f"release of {product.model.name}",
                    product.release.form,
                    product.release.digest,
                    stage.name,
                    ["model"],
                )
    return list(pieces.found.values())


def _used(statement: Problem | None, name: str) -> list[str]:
    """The tables of the statement that a table of the transformation is made from."""
    if statement is None:
        return []
    task = statement.task
    if isinstance(task, Recommendation):
        return [task.items.table] if name == "items" and task.items else [use.table for use in task.interactions]
    return [task.table, *(join.table for join in task.joins)]


class _Pieces:
    """The pieces met so far by key; the same version of a table is one piece, whichever stage names it."""

    def __init__(self) -> None:
        self.found: dict[str, Piece] = {}
        self.learnt: list[str] = []
        self.holdout: list[str] = []
        self.judged = "model"

    def add(self, key: str, name: str, version: str, digest: str, stage: str, parents: Iterable[str]) -> None:
        """A piece, unless it is there already; parents that are not known are left out."""
        known = tuple(dict.fromkeys(parent for parent in parents if parent in self.found and parent != key))
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
        return next((key for key, piece in reversed(self.found.items()) if piece.name.rpartition("/")[2] == name), "")

    def table(self, table: products.Table, stage: str, parents: Iterable[str]) -> None:
        version = f"version {number(table.version)}, {number(table.rows)} rows"
        self.add(self.key_of(table), table.name, version, table.digest, stage, parents)

    def features(self, product: products.Features, stage: str) -> None:
        """The tables of a run's features, made from those of the transformation that the product names: maybe of an earlier run."""
        used = [table for name, table in product.tables.items() if name in TRANSFORMED]
        for table in used:
            self.table(table, "transformation", [])
        for table in product.tables.values():
            self.table(table, stage, [self.key_of(one) for one in used])

    def models(self, training: products.Training, stage: str) -> None:
        """The model to be released, and those of its recipe that are judged, where the release was then fitted to all rows."""
        model, judged = training.model, training.judged
        learnt = self.learnt
        if judged:
            self.judged, learnt = "judged", [*self.learnt, *self.holdout]
            several = f"{model.name}, {number(len(judged))} judged models"
            name = f"judged {model.name}" if len(judged) == 1 else several
            rows = f"{judged[0].form}, {number(judged[-1].rows)} rows"
            self.add("judged", name, rows, judged[-1].digest, stage, self.learnt if len(judged) == 1 else learnt)
        version = f"version {model.registered.version}, " if model.registered else ""
        rows = f"{model.form}, {number(training.trained.rows)} rows"
        self.add("model", model.name, version + rows, model.digest, stage, learnt)


def children(pieces: Iterable[Piece]) -> dict[str, list[Piece]]:
    """Key -> what was made from it."""
    pieces = list(pieces)
    return {piece.key: [other for other in pieces if piece.key in other.parents] for piece in pieces}


def graph(pieces: Iterable[Piece]) -> Graph:
    """Place the pieces in layers from top to bottom; a line that a way over other pieces repeats is left out."""
    layers: list[list[Piece]] = []
    depth: dict[str, int] = {}
    for piece in pieces:
        depth[piece.key] = max((depth[parent] + 1 for parent in piece.parents), default=0)
        while len(layers) <= depth[piece.key]:
            layers.append([])
        layers[depth[piece.key]].append(piece)
    boxes: dict[str, Box] = {}
    y = 4.0
    for layer in layers:
        for start in range(0, len(layer), PER_ROW):
            row = layer[start : start + PER_ROW]
            left = (WIDTH - len(row) * BOX - (len(row) - 1) * GAP) / 2
            for i, piece in enumerate(row):
                boxes[piece.key] = Box(left + i * (BOX + GAP), y, piece)
            y += HEIGHT + (10 if start + PER_ROW < len(layer) else BETWEEN)
    above = {key: _above(key, {piece.key: piece for layer in layers for piece in layer}) for key in boxes}
    direct = lambda box: [
        parent for parent in box.piece.parents if not any(parent in above[other] for other in box.piece.parents)
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
