"""The models of a problem that were trained, released and replaced, and what sets any two of them apart.

An edition is what one training left: the folder of products of the problem ('shop'), of a revision ('shop.r2'), or of a
retraining ('shop@2025-08-04'); and, where a later run wrote over it, what was kept with the gate's decision. A release is a row of
the ledger after which another model answered.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote

from mlloop import products
from mlloop.core import metric_table
from mlloop.core.errors import DataError, ProductError
from mlloop.core.formatting import number
from mlloop.core.settings import Settings
from mlloop.pages import wording
from mlloop.pages.wording import DecisionView
from mlloop.problem import Problem
from mlloop.products import Monitoring
from mlloop.store.entries import Row

EDITION = r"(\.r\d+)?(@.+)?"
MOST_PAIRS = 40
MOST_COLUMNS = 12
MOST_KEPT = 40  # editions beyond which what was kept with decisions is not looked into
NOTHING = {"sentence": "", "now": "", "folder": "", "revision": 0, "current": 0}


@dataclass(frozen=True)
class Edition:
    """What one training left, by the model that it made.

    Attributes
    ----------
    folder : str
        Of its products, and of its pages below reports: 'shop', 'shop.r2' or 'shop@2025-08-04'; '' where a later run wrote over it.
    digest, name : str
        Of the model.
    version : int or None
        In the registry.
    as_of : str
        The moment in the data at which it was trained, as people read it; '' where its rows have no time.
    read : dict
        Its products by stage; a retraining's own only.
    gate_verdict : str
        The validation gate's verdict where its product is gone.
    """

    folder: str
    digest: str
    name: str
    version: int | None
    as_of: str
    read: Mapping[str, products.Product] = field(default_factory=dict)
    gate_verdict: str = ""

    @property
    def called(self) -> str:
        """How a page calls it: 'version 3', or the beginning of its digest where it has no number."""
        return f"version {self.version}" if self.version is not None else f"model {self.digest[:12]}"

    @property
    def anchor(self) -> str:
        return f"m-{self.digest[:12]}"

    def of(self, stage: str, kind: type[products.Kind]) -> products.Kind | None:
        """A product of it; None where there is none."""
        product = self.read.get(stage)
        return product if isinstance(product, kind) else None


def folders(settings: Settings, problem: str) -> list[Path]:
    """The folders of products of a problem: its own, its revisions', and those of the retrainings of each."""
    pattern = re.compile(re.escape(problem) + EDITION)
    paths = (settings.state / "products").glob(f"{problem}*")
    return sorted(path for path in paths if path.is_dir() and pattern.fullmatch(path.name))


def editions(settings: Settings, problem: str, judged: Iterable[Row] = ()) -> list[Edition]:
    """Every edition that trained a model, in the order of training; one that cannot be read is left out.

    Parameters
    ----------
    judged : iterable of Row
        Decisions of the validation gate, the latest first: of a model without a folder the edition is what was kept with them.
    """
    known = [edition for path in folders(settings, problem) if (edition := _edition(path)) is not None]
    have = {edition.digest for edition in known}
    for decision in judged:
        if decision.model in have or len(have) >= MOST_KEPT:
            continue
        have.add(str(decision.model))
        known += filter(None, [kept(settings, decision)])
    return sorted(known, key=lambda edition: (edition.version is None, edition.version or 0, edition.folder))


def kept(settings: Settings, decision: Row) -> Edition | None:
    """The edition that the validation gate decided on, of the products kept with its decision; None where they are gone."""
    paths = {
        name.removeprefix("stage "): settings.state / "objects" / f"{digest}.json"
        for name, digest in decision.digests.items()
        if name.startswith("stage ")
    }
    edition = _of_products("", _read({stage: path for stage, path in paths.items() if path.exists()}))
    if edition is None or edition.digest != decision.model:
        return None
    return replace(edition, gate_verdict=decision.verdict or "")


def _edition(folder: Path) -> Edition | None:
    return _of_products(folder.name, _read({path.stem: path for path in sorted(folder.glob("*.json"))}))


def _read(paths: Mapping[str, Path]) -> dict[str, products.Product]:
    """The products that can be read, by stage."""
    read = {}
    for stage, path in paths.items():
        try:
            read[stage] = products.read_kept(path)
        except (DataError, ProductError):  # the page of its stage tells it
            continue
    return read


def _of_products(folder: str, read: Mapping[str, products.Product]) -> Edition | None:
    """The edition that the products of a run make up; None where it trained no model."""
    trained = read.get("training")
    if not isinstance(trained, products.Training):
        return None
    ready = read.get("problem")
    as_of = wording.moment(ready.as_of) if isinstance(ready, products.Statement) and ready.as_of else ""
    model, registered = trained.model, trained.model.registered
    return Edition(folder, model.digest, model.name, registered.version if registered else None, as_of, read)


class ClocksView(TypedDict):
    """A moment by both clocks: in the data, and of the decision ('' where they are one)."""

    at: str
    decided_at: str


class ReleaseView(DecisionView):
    """A change of the model in production: who answers, instead of whom, until when, and what is known of it."""

    edition: Edition | None
    called: str
    replaced: str
    until: str
    holdout: str
    labels: str
    periods: int


class AboutView(TypedDict, total=False):
    """Which model the pages of an edition are about, see `about`, and which revision of the statement; empty without a model."""

    sentence: str
    now: str
    folder: str
    revision: int
    current: int


class EditionView(TypedDict):
    """An edition as the list of models shows it."""

    called: str
    anchor: str
    digest: str
    name: str
    as_of: str
    verdict: str
    holdout: str
    pages: list[tuple[str, str]]


class SideBySideView(TypedDict):
    """A name and what two editions have of it, as texts."""

    name: str
    a: str
    b: str
    differs: bool


class ComparedView(TypedDict):
    """Two editions side by side, see `compared`."""

    a: Edition
    b: Edition
    title: str
    anchor: str
    paired: str
    facts: list[SideBySideView]
    features: str
    metrics: list[SideBySideView]
    slices: list[SideBySideView]
    calibration: list[SideBySideView]


def releases(
    timeline: Iterable[DecisionView], known: Sequence[Edition], looks: Mapping[str, Monitoring]
) -> list[ReleaseView]:
    """Who answered when, the latest first: a row a change of the model in production.

    Parameters
    ----------
    timeline : iterable of dict
        The decisions about the problem, the latest first, as `Decisions.timeline` makes them.
    """
    by_digest = {edition.digest: edition for edition in known}
    called: dict[str | None, str] = {}
    timeline = list(timeline)
    for row in timeline:
        if row["who"]:  # a rule that stood in
            called[row["model"]] = (
                f"the rule {row['who']!r}" if row["stands_in"] == "rule" else f"model {str(row['model'])[:12]}"
            )
    for edition in known:
        called[edition.digest] = edition.called
    name = lambda digest: called.get(digest) or (f"model {str(digest)[:12]}" if digest else "")
    realised = {
        figure.period.since: figure
        for product in looks.values()
        for figure in product.realised
        if figure.value is not None
    }
    released: list[ReleaseView] = []
    until = ""
    for row in timeline:
        if row["kind"] not in ("promotion", "rollback", "fallback"):
            continue
        of_row = by_digest.get(str(row["model"]))
        labels = [realised[start] for start in sorted(realised) if realised[start].model == row["model"]]
        last = labels[-1] if labels else None
        at: ClocksView = {"at": row["at"], "decided_at": row["decided_at"]}
        if row["kind"] == "promotion" and not row["decided_at"] and of_row and of_row.as_of:
            at = {"at": of_row.as_of, "decided_at": row["at"]}
        released.append({**row, "at": at["at"], "decided_at": at["decided_at"],
            "edition": of_row,
            "called": name(row["model"]),
            "replaced": name(row["was"]),
            "until": until,
            "holdout": _holdout(of_row),
            "labels": f"{_figure(last)} in the period from {wording.moment(last.period.since)}" if last else "",
            "periods": len(labels),
        })  # fmt: skip
        until = since(at)
    return released


def since(row: ClocksView) -> str:
    """The moment of a release, by its clocks: in the data where it has one, and of the decision."""
    return wording.both_clocks(row["at"], row["decided_at"]) if row["decided_at"] else f"{row['at']} UTC"


def about(edition: Edition | None, released: Sequence[ReleaseView], stage: str) -> AboutView:
    """Which model and moment the pages of an edition are about, and whether production has moved on since.

    Returns
    -------
    dict
        'sentence', 'now' (what is in production, where that is another), and 'folder' of its page of the same stage ('': it has
        none); {} where no model was trained.
    """
    if edition is None:
        return {}
    spans = [row for row in released if row["model"] == edition.digest]
    live = released[0] if released else None
    trained = f", trained on data up to {edition.as_of}" if edition.as_of else ""
    sentence = f"This page is about {edition.called} ({edition.name}, {edition.digest[:12]}){trained}."
    if live and live["model"] == edition.digest:
        return {"sentence": f"{sentence} It is in production since {since(live)}.", "now": "", "folder": ""}
    if spans:
        sentence += f" It was in production from {since(spans[0])} until {spans[0]['until']}."
    else:
        sentence += " It has not been in production."
    if live is None:
        return {"sentence": sentence, "now": "", "folder": ""}
    other = live["edition"]
    return {
        "sentence": sentence,
        "now": f"{live['called']} since {since(live)}",
        "folder": other.folder if other is not None and stage in other.read else "",
    }


def _holdout(edition: Edition | None) -> str:
    judged = edition.of("evaluation", products.Evaluation) if edition else None
    return _figure(judged.main) if judged else ""


def _figure(figure: Any) -> str:
    """A figure with its interval; '' where there is none."""
    if figure is None or figure.value is None:
        return ""
    within = wording.span(figure.low, figure.high)
    return number(figure.value) + (f" ({within})" if within != "–" else "")


def row(edition: Edition, reports: Path) -> EditionView:
    """An edition as the list of models shows it, with the pages that were written of it."""
    judged = edition.of("validation_gate", products.ValidationGate)
    stages = [
        stage
        for stage in ("training", "evaluation", "validation_gate", "deployment")
        if (reports / edition.folder / f"{stage}.html").exists()
    ]
    return {
        "called": edition.called,
        "anchor": edition.anchor,
        "digest": edition.digest,
        "name": edition.name,
        "as_of": edition.as_of,
        "verdict": judged.verdict.verdict if judged else edition.gate_verdict,
        "holdout": _holdout(edition),
        "pages": [(stage.replace("_", " "), f"../{quote(edition.folder)}/{stage}.html") for stage in stages],
    }


def pairs(known: Sequence[Edition], live: str | None) -> list[tuple[Edition, Edition]]:
    """The editions to hold side by side, older first: any two, or where that were too many, each with the next and with production's."""
    if len(every := list(combinations(known, 2))) <= MOST_PAIRS:
        return sorted(every, key=lambda pair: (known.index(pair[1]), known.index(pair[0])), reverse=True)
    listed = list(pairwise(known))
    now = next((edition for edition in known if edition.digest == live), None)
    for edition in known:
        pair = (edition, now) if now is None or known.index(edition) < known.index(now) else (now, edition)
        if now is not None and edition is not now and pair not in listed:
            listed.append(pair)  # type: ignore[arg-type]
    return sorted(listed, key=lambda pair: (known.index(pair[1]), known.index(pair[0])), reverse=True)[:MOST_PAIRS]


def compared(a: Edition, b: Edition, metric: str) -> ComparedView:
    """Two editions side by side: facts, parameters, features, metrics, slices and calibration.

    Returns
    -------
    dict
        'title', 'anchor', 'paired' (a sentence; '' where the two were never judged on the same rows), and rows for tables.
    """
    ready = b.of("problem", products.Statement) or a.of("problem", products.Statement)
    stated = ready.problem if ready else None
    return {
        "a": a,
        "b": b,
        "title": f"{a.called} and {b.called}".capitalize(),
        "anchor": f"{a.anchor}-{b.anchor}",
        "paired": _paired(a, b, metric),
        "facts": [row for row in _rows(_facts(a), _facts(b)) if row["differs"]],
        "features": _features(a, b),
        "metrics": _side_by_side(a, b, _metrics),
        "slices": _side_by_side(a, b, lambda judged: _slices(judged, stated)),
        "calibration": _side_by_side(a, b, _calibration),
    }


def _paired(a: Edition, b: Edition, metric: str) -> str:
    """How much better one is than the other on the same rows, where the newer was held against the older."""
    for new, old in ((b, a), (a, b)):
        judged = new.of("evaluation", products.Evaluation)
        against = judged.champion if judged else None
        if against is None or against.digest != old.digest or against.gain is None or against.gain.value is None:
            continue
        gain, value, label = against.gain, against.gain.value, metric_table.title(metric)
        ends = (gain.low, gain.high) if value >= 0 else wording.mirrored(gain.low, gain.high)
        return (
            f"On the same {gain.n:,} rows, which neither had learned, {new.called} is {'better' if value >= 0 else 'worse'} than "
            f"{old.called} by {number(abs(value))} in {label} ({wording.span(*ends)})."
        )
    return ""


def _facts(edition: Edition) -> dict[str, str]:
    """What is known of a model: kind, digest, what it learned from, parameters."""
    known = {"model": edition.name, "digest": edition.digest[:12], "trained at": edition.as_of}
    trained = edition.of("training", products.Training)
    recipe = trained.model.recipe if trained is not None else None
    if trained is None or recipe is None:
        return known
    learnt = trained.trained
    known |= {
        "rows learned from": number(learnt.rows),
        "learned from": f"{wording.moment(learnt.since)} to {wording.moment(learnt.until)}" if learnt.until else "",
        "how far back": trained.lookback.chosen if trained.lookback else "",
        "features": number(len(trained.features)),
    }
    shown = lambda value: number(value) if isinstance(value, (int, float)) else str(value)
    params = {f"parameter {name}": shown(value) for name, value in recipe.params.items()}
    return known | params | {"seed": str(recipe.seed)}


def _metrics(judged: products.Evaluation) -> dict[str, str]:
    return {metric.label: _figure(metric) for metric in wording.metrics_of(judged)}


def _slices(judged: products.Evaluation, stated: Problem | None) -> dict[str, str]:
    return {wording.group(group, stated): _figure(group) for group in judged.slices}


def side_by_side(known: Sequence[Edition]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """The newest models in columns, the newest first: (heading, rows of a name and a text a model); [] of fewer than three."""
    if len(known) < 3:
        return []
    shown = known[: -MOST_COLUMNS - 1 : -1]
    stated = next((ready.problem for edition in shown if (ready := edition.of("problem", products.Statement))), None)
    judged = [edition.of("evaluation", products.Evaluation) for edition in shown]
    parts = {
        "What they are": [_facts(edition) for edition in shown],
        "Metrics on the holdout of each": [_metrics(edition) if edition else {} for edition in judged],
        "Groups": [_slices(evaluation, stated) if evaluation else {} for evaluation in judged],
    }
    table = lambda cells: [
        (name, [of.get(name) or "–" for of in cells]) for name in dict.fromkeys(name for of in cells for name in of)
    ]
    return [(heading, table(cells)) for heading, cells in parts.items() if any(cells)]


def _features(a: Edition, b: Edition) -> str:
    """Which features one has and the other has not, in a sentence; '' where either is not known."""
    ours, theirs = a.of("training", products.Training), b.of("training", products.Training)
    if ours is None or theirs is None:
        return ""
    gone, new = sorted({*ours.features} - {*theirs.features}), sorted({*theirs.features} - {*ours.features})
    if not gone and not new:
        same = "" if ours.definition == theirs.definition else ", but their definition changed"
        return f"Both use the same {len(ours.features):,} features{same}."
    named = lambda names: ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    parts = [f"{who.called} alone uses {named(names)}" for who, names in ((a, gone), (b, new)) if names]
    return f"{'; '.join(parts)}.".capitalize()


def _side_by_side(a: Edition, b: Edition, texts_of) -> list[SideBySideView]:
    """Rows of name, a's and b's figure, from what `texts_of` makes of each evaluation."""
    ours, theirs = a.of("evaluation", products.Evaluation), b.of("evaluation", products.Evaluation)
    return _rows(texts_of(ours) if ours else {}, texts_of(theirs) if theirs else {})


def _calibration(judged: products.Evaluation) -> dict[str, str]:
    return {
        f"tenth {at}": f"{number(tenth.predicted)} predicted, {number(tenth.observed)} observed"
        for at, tenth in enumerate(judged.calibration or [], 1)
        if tenth.predicted is not None and tenth.observed is not None
    }


def _rows(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[SideBySideView]:
    names = list(dict.fromkeys([*ours, *theirs]))
    cell = lambda texts, name: texts.get(name) or "–"
    return [
        {
            "name": name,
            "a": cell(ours, name),
            "b": cell(theirs, name),
            "differs": cell(ours, name) != cell(theirs, name),
        }
        for name in names
        if ours.get(name) or theirs.get(name)
    ]
