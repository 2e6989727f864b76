"""Pages that open from disk: an index of all problems, a page a stage, a model card, monitoring.

Everything shown comes from the products, the records and the ledger; nothing is computed from rows here. A page whose
inputs did not change is left as it is, so writing all of them after each stage costs little.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlloop import problem as problems
from mlloop import products
from mlloop.core import formatting, metric_table, revisions, storage
from mlloop.core import settings as _settings
from mlloop.core.settings import Settings
from mlloop.pages import against_target, lineage, monitoring_view, notebook_html, versions_view, wording
from mlloop.pages.problem_view import (
    Decisions,
    Stage,
    decided,
    edition_stages,
    has_card,
    in_production,
    ledger_files,
    monitored_in,
    names,
    overview,
    read_or_empty,
    shown_of,
    stages,
    statement_of,
)

TEMPLATES = Path(__file__).parent / "templates"
MAX_BYTES = 1_000_000
INDEX_WAIT_S = 60.0


def write(
    settings: Settings | None = None,
    problems: Iterable[str] | None = None,
    states: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> Path:
    """Write the pages of `problems` (default: all) and the index; returns the index.

    Parameters
    ----------
    states : mapping, optional
        problem -> stage -> {'state', 'reasons'} as `runner.status` says; without it a recorded stage is shown as
        one that ran, and nothing is claimed about its freshness.
    """
    settings = settings or _settings.load()
    known = names(settings)
    for problem in known if problems is None else [name for name in known if name in set(problems)]:
        _write_problem(settings, problem, (states or {}).get(problem))
    with storage.file_lock(settings.state / "index.lock", INDEX_WAIT_S):  # a run of another problem may end now too
        index = write_index(settings, states)
        os.utime(index)
    return index


def _write_problem(settings: Settings, problem: str, states: Mapping[str, Mapping[str, Any]] | None) -> None:
    """Write the pages of a problem: of each revision, of each retraining, and of its versions."""
    current, versions = revisions.current(settings, problem), Versions.read(settings, problem)
    for folder in revisions.known(settings, problem):
        shown = stages(settings, folder, states if folder == current else None)
        for stage in shown:
            if write_stage(settings, folder, stage.name, shown, versions) is None:
                storage.remove(settings.reports / folder / f"{stage.name}.html")
        if write_card(settings, folder, shown) is None:
            storage.remove(settings.reports / folder / "model.html")
        if write_monitoring(settings, folder, shown) is None:
            storage.remove(settings.reports / folder / "monitoring.html")
        if write_lineage(settings, folder, shown, versions) is None:
            storage.remove(settings.reports / folder / "lineage.html")
    _write_editions(settings, problem, versions)
    if write_versions(settings, problem, versions) is None:
        storage.remove(settings.reports / current / "versions.html")


def _write_editions(settings: Settings, problem: str, versions: "Versions") -> None:
    """Write the pages of the stages that each retraining ran."""
    known = {edition.folder for edition in versions.editions if "@" in edition.folder}
    for folder in sorted(known):
        base = folder.partition("@")[0]
        shown = edition_stages(settings, folder, stages(settings, base), f"../{quote(base)}/")
        for stage in shown:
            if stage.home or write_stage(settings, folder, stage.name, shown, versions) is None:
                storage.remove(settings.reports / folder / f"{stage.name}.html")
        write_lineage(settings, folder, shown, versions, f"../{quote(base)}/")
    for left in settings.reports.glob(f"{problem}*@*/"):
        if left.name not in known and revisions.problem_of(left.name.partition("@")[0]) == problem:
            for page in left.glob("*.html"):
                storage.remove(page)


@dataclass(frozen=True)
class Versions:
    """The models of a problem and its releases, read once for all of its pages.

    Attributes
    ----------
    problem : str
    current : str
        The folder of the current revision.
    editions : list of Edition
    releases : list of dict
        The latest first.
    metric : str
    """

    problem: str
    current: str
    editions: list[versions_view.Edition]
    releases: list[versions_view.ReleaseView]
    metric: str

    @classmethod
    def read(cls, settings: Settings, problem: str) -> "Versions":
        """From the products and the ledger."""
        current = revisions.current(settings, problem)
        statement = statement_of(stages(settings, current))
        decisions = Decisions(settings)
        name = statement.name if statement else problem
        known = versions_view.editions(settings, problem, decisions.judged(name))
        looks: dict[str, products.Monitoring] = {}
        for revision in revisions.known(settings, problem):
            looks |= monitoring_view.read(settings, monitored_in(settings, revision))[0]
        released = versions_view.releases(decisions.timeline(name), known, looks)
        return cls(problem, current, known, released, statement.success.metric if statement else "")

    def about(self, folder: str, stage: str) -> versions_view.AboutView:
        """Which model the pages in a folder are about, see `versions_view.about`."""
        edition = next((edition for edition in self.editions if edition.folder == folder), None)
        about = versions_view.about(edition, self.releases, stage)
        base = folder.partition("@")[0]
        if base != self.problem or self.current != self.problem:  # a statement that was never revised needs no word
            about["revision"], about["current"] = revisions.number_of(base), revisions.number_of(self.current)
        return about


def write_versions(settings: Settings, problem: str, versions: "Versions | None" = None) -> Path | None:
    """Write the page of all versions of a problem; None where no model was trained or released."""
    versions = versions or Versions.read(settings, problem)
    if not versions.editions and not versions.releases:
        return None
    live = str(versions.releases[0]["model"]) if versions.releases else None
    shown_stages = stages(settings, versions.current)

    def view() -> wording.View:
        pairs = versions_view.pairs(versions.editions, live)
        return {
            **navigation(settings, versions.current, shown_stages),
            "problem": problem,
            "releases": versions.releases,
            "since": versions_view.since(versions.releases[0]) if versions.releases else "",
            "editions": [versions_view.row(edition, settings.reports) for edition in reversed(versions.editions)],
            "columns": versions.editions[: -versions_view.MOST_COLUMNS - 1 : -1],
            "side_by_side": versions_view.side_by_side(versions.editions),
            "comparisons": [versions_view.compared(a, b, versions.metric) for a, b in pairs],
            "label": metric_table.title(versions.metric),
        }

    known = [[edition.folder, edition.digest, edition.read] for edition in versions.editions]
    released = [{key: value for key, value in release.items() if key != "edition"} for release in versions.releases]
    return _page(
        settings.reports / versions.current / "versions.html",
        "versions.html",
        [
            known,
            released,
            versions.metric,
            [(stage.name, stage.shown, stage.word) for stage in shown_stages],
            has_history(settings, versions.current),
        ],
        view,
        Decisions(settings).head(),
    )


def is_current(settings: Settings) -> bool:
    """Whether the pages were written after everything they show: notebooks, statements, records, decisions."""
    index = settings.reports / "index.html"
    if not index.exists():
        return False
    shown = [*settings.notebooks.rglob("*.ipynb"), *settings.problems.glob("*.yaml"), *ledger_files(settings)]
    shown += [path for kind in ("records", "failed", "monitoring") for path in (settings.state / kind).glob("*/*")]
    written = index.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns <= written for path in shown)


def write_stage(
    settings: Settings,
    folder: str,
    stage: str,
    shown_stages: list[Stage] | None = None,
    versions: Versions | None = None,
) -> Path | None:
    """Write the page of one stage of a run ('shop', 'shop.r2', 'shop@2025-08-04'); None where it has not run."""
    shown_stages = shown_stages or stages(settings, folder)
    page_of = next((s for s in shown_stages if s.name == stage), None)
    if page_of is None or not page_of.shown:
        return None
    base = folder.partition("@")[0]
    versions = versions or Versions.read(settings, revisions.problem_of(base))
    return stage_page(
        page_of.executed,
        settings.reports / folder / f"{stage}.html",
        stage=page_of,
        problem=versions.problem,
        stages=shown_stages,
        has_monitoring=any(monitored_in(settings, base).glob("*.json")),
        has_history=has_history(settings, base),
        about=versions.about(folder, stage),
        home="" if folder == base else f"../{quote(base)}/",
        versions=f"../{quote(versions.current)}/versions.html" if versions.editions or versions.releases else "",
        head=Decisions(settings).head(),
    )


def stage_page(
    executed: Path | str,
    out: Path | str,
    *,
    stage: Stage,
    problem: str,
    stages: list[Stage] | None = None,
    has_monitoring: bool = False,
    has_history: bool = False,
    about: Mapping[str, Any] | None = None,
    home: str = "",
    versions: str = "",
    head: str = "",
) -> Path:
    """Write the Run act of an executed notebook as a page.

    Parameters
    ----------
    executed : Path or str
        An executed notebook, whole or only its Run act.
    out : Path or str
        The page to write; untouched where nothing it shows has changed.
    stages : list of Stage, optional
        All stages of the problem, for the way through its pages.
    has_monitoring : bool
        Whether the problem has a page of monitoring.
    has_history : bool
        Whether it has a page of the loop in time.
    about : mapping, optional
        Which model the page is about, see `versions_view.about`.
    home : str
        The way to the folder of the pages of monitoring and of the model, where that is another.
    versions : str
        The way to the page of all versions; '' where there is none.
    head : str
        How far the ledger goes, see `Decisions.head`.
    """
    executed, around = Path(executed), stages or [stage]
    digests = [storage.digest_file(path) for path in (executed, stage.notebook) if path.exists()]

    def view() -> wording.View:
        blocks = _fit(
            notebook_html.blocks(notebook_html.run_act(read_or_empty(executed), read_or_empty(stage.notebook) or None))
        )
        words = " ".join(notebook_html.words(block.shown) for block in blocks)
        decided, statement = stage.decided, statement_of(around)
        first, blocks = _finding_first(blocks, stage.finding)
        return {
            "first": first,
            "metric": metric_table.meaning(statement.success.metric) if statement else "",
            "blocks": blocks,
            "finding": "" if stage.finding.rstrip(".") in words else stage.finding,
            "reasons": [reason for reason in (decided["reasons"] if decided else []) if reason not in words],
            "is_evidence_told": all(e["name"] in words for e in (decided["evidence"] if decided else [])),
            "must_change": [change for change in (decided["must_change"] if decided else []) if change not in words],
            "stage": stage,
            "stages": around,
            "problem": problem,
            "heading": _heading(stage),
            "verdict": decided,
            "statement": statement,
            "tables": wording.tables(stage.product),
            "before": _beside(around, stage, -1),
            "after": _beside(around, stage, +1),
            "has_card": has_card(around),
            "has_monitoring": has_monitoring,
            "has_history": has_history,
            "about": {**versions_view.NOTHING, **(about or {})},
            "home": home,
            "versions": versions,
        }

    return _page(
        Path(out),
        "stage.html",
        [
            digests,
            shown_of(stage),
            [shown_of(s) for s in around],
            problem,
            has_monitoring,
            has_history,
            about,
            home,
            versions,
        ],
        view,
        head,
    )


def _heading(stage: Stage) -> str:
    """The notebook's own title; that of the stage where the notebook only repeats the stage's name."""
    own = notebook_html.title(read_or_empty(stage.notebook))
    return stage.title if not own or own.lower() == stage.name.replace("_", " ") else own


def navigation(settings: Settings, folder: str, shown_stages: list[Stage]) -> wording.View:
    """The way through the pages of a run, for a page beside those of its stages."""
    has_versions = has_card(shown_stages) or any(
        "@" in path.name for path in versions_view.folders(settings, revisions.problem_of(folder))
    )
    current = revisions.current(settings, revisions.problem_of(folder))
    return {
        "stages": shown_stages,
        "home": "",
        "has_monitoring": any(monitored_in(settings, folder).glob("*.json")),
        "has_card": has_card(shown_stages),
        "has_history": has_history(settings, folder),
        "versions": f"../{quote(current)}/versions.html" if has_versions else "",
    }


def has_history(settings: Settings, folder: str) -> bool:
    """Whether the loop was replayed for a problem: then `mlloop loop` has written a page of it."""
    return (settings.reports / folder / "loop.html").exists()


def _finding_first(
    blocks: list[notebook_html.Block], finding: str
) -> tuple[notebook_html.Markup, list[notebook_html.Block]]:
    """The output that tells the finding, for the head of the page, and the other blocks; its heading is then the page's second."""
    text = finding.rstrip(".")
    for i, block in enumerate(blocks):
        if text and block.kind == "output" and text in notebook_html.words(block.shown):
            shown = notebook_html.Markup(re.sub(r"<(/?)h[34]>", r"<\1h2>", str(block.shown)))
            return shown, blocks[:i] + blocks[i + 1 :]
    return notebook_html.Markup(), blocks


def _beside(around: list[Stage], stage: Stage, step: int) -> Stage | None:
    shown = [s for s in around if s.shown or s is stage]
    position = shown.index(stage) + step
    return shown[position] if 0 <= position < len(shown) else None


def _fit(blocks: list[notebook_html.Block]) -> list[notebook_html.Block]:
    """`blocks` with the outputs that would take the page over its bound left out, and said so."""
    room, kept = MAX_BYTES - 60_000, []
    for block in blocks:
        room -= len(block.shown.encode())
        if room < 0 and block.kind in ("output", "code"):
            room += len(block.shown.encode())
            if block.kind == "output":
                note = notebook_html.Markup(
                    "<p>One output is too large for this page; it is in the executed notebook.</p>"
                )
                kept.append(notebook_html.Block("output", note))
            continue
        kept.append(block)
    return kept


def write_card(settings: Settings, problem: str, shown_stages: list[Stage] | None = None) -> Path | None:
    """Write the model card of `problem`; None where no model was trained."""
    shown_stages = shown_stages or stages(settings, problem)
    if not has_card(shown_stages):
        return None
    by_name, statement = {s.name: s for s in shown_stages}, statement_of(shown_stages)
    production = in_production(settings, problem, statement.name if statement else problem, Decisions(settings))
    is_later = bool(production) and production["is_later"]
    read = {name: s.product for name, s in by_name.items()} | (production["products"] if is_later else {})
    of = lambda stage, kind: product if isinstance(product := read.get(stage), kind) else None
    training, evaluation = of("training", products.Training), of("evaluation", products.Evaluation)
    features, building = of("features", products.Features), of("building", products.Building)
    ready, judged = of("transformation", products.Transformation), of("validation_gate", products.Product)
    validation = decided(by_name.get("validation_gate"))
    if is_later:
        validation = wording.verdict(products.verdict_of(judged)) if judged else None
    way = navigation(settings, problem, shown_stages)
    return _page(
        settings.reports / problem / "model.html",
        "model.html",
        [[shown_of(s) for s in shown_stages], production, way["has_monitoring"], way["has_history"], way["versions"]],
        lambda: {
            **way,
            "metric": metric_table.meaning(statement.success.metric) if statement else "",
            "problem": revisions.problem_of(problem),
            "stages": shown_stages,
            "statement": statement,
            "production": production,
            "model": training.model if training else None,
            "trained": training.trained if training else None,
            "building": building,
            "judged": wording.judged(evaluation, statement) if evaluation else None,
            "features": [feature.model_dump() for feature in features.catalogue] if features else [],
            "windows": features.windows if features else ready.windows if ready else None,
            "need": decided(by_name.get("need_gate")),
            "validation": validation,
            "refitted": bool(training and training.judged),
            "counted": problems.counted(statement) if statement else "rows",
            "tables": _trained_on(wording.tables(features), is_refitted=bool(training and training.judged)),
        },
        Decisions(settings).head(),
    )


def write_monitoring(settings: Settings, problem: str, shown_stages: list[Stage] | None = None) -> Path | None:
    """Write the page of monitoring and a page a period; None where nobody looked."""
    looks, unreadable = monitoring_view.read(settings, monitored_in(settings, problem))
    if not looks:
        return None
    shown_stages = shown_stages or stages(settings, problem)
    statement = statement_of(shown_stages)
    way = navigation(settings, problem, shown_stages)
    name = statement.name if statement else problem
    decisions = Decisions(settings)
    decided = {
        d["at"]: d for d in reversed(decisions.timeline(name)) if d["kind"] == "retrain" and d["subject"] != "ended"
    }
    live = in_production(settings, problem, name, decisions)
    listed, stems = monitoring_view.listed(looks, statement, decided), list(looks)
    for at, stem in enumerate(stems):
        known = dict(list(looks.items())[: at + 1])
        of_period: wording.View = {
            "heading": f"Period from {listed[stem]['period']} to {listed[stem]['until']}",
            "first": monitoring_view.in_hindsight(listed[stem], looks, statement),
            "before": listed[stems[at - 1]] if at else None,
            "after": listed[stems[at + 1]] if at + 1 < len(stems) else None,
        }
        _monitoring_page(settings, problem, known, statement, decided, way | of_period, decisions.head())
    for page in (settings.reports / problem).glob("period-*.html"):
        if page.name not in {period["href"] for period in listed.values()}:
            storage.remove(page)
    elsewhere = ""
    newest = looks[stems[-1]]
    if live and newest.model and newest.model != live["model"]:
        who = f"{live['name'] or 'another model'} {live['model'][:12]}"
        elsewhere = f"The figures below are of the model that predicted then. {who} predicts since {live['told']}; no period of its own has been monitored."
    standing = against_target.standing(statement, looks, live)
    around: wording.View = {
        "heading": "Monitoring",
        "first": standing
        and {"mark": standing["mark"], "sentence": " ".join(filter(None, (standing["sentence"], standing["rule"])))},
        "elsewhere": elsewhere,
        "unreadable": unreadable,
        "listed": monitoring_view.sorted_lists(list(listed.values())),
    }
    return _monitoring_page(settings, problem, looks, statement, decided, way | around, decisions.head())


def _monitoring_page(
    settings: Settings,
    problem: str,
    looks: dict[str, products.Monitoring],
    statement: problems.Problem | None,
    decided: Mapping[str, wording.DecisionView],
    around: Mapping[str, Any],
    head: str,
) -> Path:
    """Write the page of the newest of `looks`: that of monitoring where it lists all periods, else that of the period."""
    stem = list(looks)[-1]
    notebook = monitored_in(settings, problem) / f"{stem}.ipynb"
    source = settings.notebooks / "25_monitoring.ipynb"
    shown = monitoring_view.view(looks, statement)
    latest = decided.get(shown["as_of"])
    target = statement.success.threshold if statement else None
    facts = {**around, "stages": [(stage.name, stage.shown, stage.word) for stage in around["stages"]]}

    def view() -> wording.View:
        ran = read_or_empty(notebook)
        act = notebook_html.run_act(ran, read_or_empty(source) or None) if ran else []
        whole = {
            "problem": revisions.problem_of(problem),
            "seen": shown,
            "decided": latest,
            "blocks": _fit(notebook_html.blocks(act)),
        }
        return {"elsewhere": "", "unreadable": [], "listed": [], "before": None, "after": None, **whole, **around}

    return _page(
        settings.reports / problem / ("monitoring.html" if "listed" in around else monitoring_view.page_of(stem)),
        "monitoring.html",
        [shown, target, latest, facts, *(storage.digest_file(path) for path in (notebook, source) if path.exists())],
        view,
        head,
    )


def write_lineage(
    settings: Settings, folder: str, shown_stages: list[Stage], versions: Versions, home: str = ""
) -> Path | None:
    """Write the page of what was made from what in a run; None where nothing was made.

    Parameters
    ----------
    home : str
        The way to the folder of the pages of monitoring and of the model, where that is another.
    """
    pieces = lineage.of_stages(shown_stages)
    if not pieces:
        return None
    about = versions.about(folder, "training")
    way = navigation(settings, folder.partition("@")[0], shown_stages) | {"home": home}

    def view() -> wording.View:
        return {
            **way,
            "problem": versions.problem,
            "about": {**versions_view.NOTHING, **about},
            "pieces": pieces,
            "graph": lineage.graph(pieces),
            "named": {piece.key: piece for piece in pieces},
            "into": lineage.children(pieces),
            "titles": {stage.name: stage.title for stage in shown_stages},
            "pages": {stage.name: f"{stage.home}{quote(stage.href)}" for stage in shown_stages if stage.shown},
        }

    facts = {**way, "stages": [(stage.name, stage.shown, stage.word) for stage in shown_stages]}
    out = settings.reports / folder / "lineage.html"
    return _page(out, "lineage.html", [pieces, about, facts], view, Decisions(settings).head())


def _trained_on(tables: list[products.Table], is_refitted: bool) -> list[products.Table]:
    """The tables a release learned from, the holdout too where it was fitted to everything; all where none is named so."""
    learned = ("/train", "/holdout") if is_refitted else ("/train",)
    return [table for table in tables if table.name.endswith(learned)] or tables


def write_index(settings: Settings, states: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None) -> Path:
    """Write reports/index.html."""
    decisions = Decisions(settings)
    views = [overview(settings, name, (states or {}).get(name), decisions) for name in names(settings)]
    facts = [
        {key: value for key, value in view.items() if key not in ("wide", "narrow")}
        | {"stages": [shown_of(stage) for stage in view["stages"]]}
        for view in views
    ]
    return _page(
        settings.reports / "index.html",
        "index.html",
        [facts, decisions.wrong],
        lambda: {"problems": views, "wrong": decisions.wrong},
        decisions.head(),
    )


def _page(out: Path, template: str, inputs: Any, view, head: str = "") -> Path:
    """Render `template` into `out` unless the page there was made of the same.

    `head`, how far the ledger went, is a witness for the moment of writing: it alone makes no page old.
    """
    digest = storage.digest_json([template, _templates_digest(), inputs])
    try:
        with out.open(encoding="utf-8") as page:
            if digest in page.read(400):
                return out
    except OSError:
        pass
    html = _environment().get_template(template).render(digest=digest, head=head, **view())
    return storage.write_text(out, html)


@cache
def _templates_digest() -> str:
    here = Path(__file__).parent
    return storage.digest_json([storage.digest_file(path) for path in (TEMPLATES, *sorted(here.glob("*.py")))])


@cache
def _environment():
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": formatting.number,
        "seconds": wording.seconds,
        "moment": wording.moment,
        "figures": wording.figures,
        "steps": notebook_html.steps,
    }
    environment.globals |= {"has_lineage": lambda shown: bool(lineage.of_stages(shown))}
    environment.globals |= {"css": notebook_html.Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))}
    return environment
