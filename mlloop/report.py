"""Pages that open from disk: an index of all problems, a page a stage, a model card.

Everything shown comes from the products, the records and the ledger; nothing is computed from rows here. A page whose
inputs did not change is left as it is, so writing all of them after each stage costs little.
"""

import datetime as dt
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mlloop import drawing, rendering, storage
from mlloop import settings as _settings
from mlloop.errors import MlloopError
from mlloop.settings import Settings

TEMPLATES = Path(__file__).parent / "templates"
STATES = {
    "fresh": "up to date",
    "ran": "ran",
    "stale": "stale",
    "waiting": "waits for a stale stage",
    "failed": "failed",
    "missing": "not run",
    "closed": "a gate said No",
}
MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Stage:
    """A stage as its page shows it: state, time taken, what it found."""

    name: str
    notebook: Path
    executed: Path
    data: Path
    is_gate: bool
    state: str
    reasons: list[str]
    record: dict[str, Any]
    product: dict[str, Any]

    @property
    def title(self) -> str:
        return self.name.replace("_", " ").capitalize()

    @property
    def shown(self) -> bool:
        """Whether there is something to make a page of."""
        return self.executed.exists() and bool(self.product)

    @property
    def verdict(self) -> str | None:
        """'yes', 'maybe' or 'no' at a gate that has run; a gate that said nothing counts as 'no'."""
        if not (self.is_gate and self.product):
            return None
        said = self.product.get("verdict")
        said = said.get("verdict") if isinstance(said, dict) else None
        return said if said in ("yes", "maybe", "no") else "no"

    @property
    def word(self) -> str:
        """The state in words, with the verdict of a gate."""
        if self.verdict and self.state in ("fresh", "ran"):
            return {"yes": "said Yes", "maybe": "said Maybe", "no": "said No"}[self.verdict]
        return STATES.get(self.state, self.state)

    @property
    def mark(self) -> str:
        """The name of the shape drawn beside the word."""
        if self.verdict and self.state in ("fresh", "ran"):
            return f"said-{self.verdict}"
        return {"ran": "fresh"}.get(self.state, self.state if self.state in STATES else "missing")

    @property
    def decided(self) -> dict[str, Any] | None:
        """The verdict of a gate that ran to its end, ready to show."""
        return verdict(self.product) if self.is_gate and self.state != "failed" else None

    @property
    def seconds(self) -> float | None:
        return self.record.get("seconds")

    @property
    def finding(self) -> str:
        """What it found, in a sentence: the product's own, the notebook's stressed words, or one made of its figures."""
        own = self.product.get("finding")
        stressed = rendering.stressed(_json(self.executed)) if self.shown and not self.is_gate else ""
        return str(own or stressed or finding(self.name, self.product))


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
        found = stages(settings, problem, (states or {}).get(problem))
        for stage in found:
            if stage.shown:
                write_stage(settings, problem, stage.name, found)
        write_card(settings, problem, found)
    index = write_index(settings, states)
    os.utime(index)
    return index


def is_current(settings: Settings) -> bool:
    """Whether the pages were written after everything they show: notebooks, statements, records, decisions."""
    index = settings.reports / "index.html"
    if not index.exists():
        return False
    shown = [*settings.notebooks.glob("*.ipynb"), *settings.problems.glob("*.yaml"), *_ledger_files(settings)]
    shown += [path for kind in ("records", "failed") for path in (settings.state / kind).glob("*/*")]
    written = index.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns <= written for path in shown)


def _ledger_files(settings: Settings) -> list[Path]:
    url = settings.ledger_url.removeprefix("sqlite:///")
    return [Path(url)] if url != settings.ledger_url and Path(url).exists() else []


def names(settings: Settings) -> list[str]:
    """The problems that have a statement or a product, sorted; a revision counts once it has run."""
    stated = {path.stem for path in settings.problems.glob("*.yaml") if not re.search(r"\.r\d+$", path.stem)}
    made = {path.name for path in (settings.state / "products").glob("*") if path.is_dir() and any(path.glob("*.json"))}
    return sorted(stated | made)


def stages(settings: Settings, problem: str, states: Mapping[str, Mapping[str, Any]] | None = None) -> list[Stage]:
    """The stages of pipeline.yaml in its order, with what is known of each for `problem`."""
    content = yaml.safe_load((settings.root / "pipeline.yaml").read_text(encoding="utf-8")) or {}
    found = []
    for task in content.get("tasks", []):
        name = task["name"]
        place = lambda key, product=task["product"]: settings.root / product[key].replace("{{problem}}", problem)
        record = _json(settings.state / "records" / problem / f"{name}.json")
        failed = settings.state / "failed" / problem / f"{name}.ipynb"
        told = dict((states or {}).get(name) or {})
        state = told.get("state") or ("ran" if record else "missing")
        executed, product = place("nb"), _json(place("data"))
        if failed.exists() and state != "fresh":
            state, executed = "failed", failed
        found.append(
            Stage(
                name=name,
                notebook=settings.root / task["source"],
                executed=executed,
                data=place("data"),
                is_gate="on_finish" in task,
                state=state,
                reasons=[str(reason) for reason in told.get("reasons") or []],
                record=record,
                product={"stage": name, "finding": rendering.raised(_json(failed))} if state == "failed" else product,
            )
        )
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# ---------------------------------------------------------------------------------------------- pages


def write_stage(settings: Settings, problem: str, stage: str, found: list[Stage] | None = None) -> Path | None:
    """Write the page of one stage from its executed notebook; None where it has not run."""
    found = found or stages(settings, problem)
    one = next((s for s in found if s.name == stage), None)
    if one is None or not one.shown:
        return None
    return stage_page(
        one.executed, settings.reports / problem / f"{stage}.html", stage=one, problem=problem, stages=found
    )


def stage_page(
    executed: Path | str, out: Path | str, *, stage: Stage, problem: str, stages: list[Stage] | None = None
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
    """
    executed, around = Path(executed), stages or [stage]
    seen = [storage.digest_file(path) for path in (executed, stage.notebook) if path.exists()]

    def view() -> dict[str, Any]:
        blocks = _fit(rendering.blocks(rendering.run_act(_json(executed), _json(stage.notebook) or None)))
        words = " ".join(rendering.words(block.shown) for block in blocks)
        decided = stage.decided
        return {
            "blocks": blocks,
            "finding": "" if stage.finding in words else stage.finding,
            "reasons": [reason for reason in (decided or {}).get("reasons", []) if reason not in words],
            "is_evidence_told": all(one["name"] in words for one in (decided or {}).get("evidence", [])),
            "must_change": [one for one in (decided or {}).get("must_change", []) if one not in words],
            "stage": stage,
            "stages": around,
            "problem": problem,
            "heading": rendering.title(_json(stage.notebook)) or stage.title,
            "verdict": decided,
            "statement": _statement(around),
            "tables": _tables(stage.product),
            "before": _beside(around, stage, -1),
            "after": _beside(around, stage, +1),
            "has_card": _has_card(around),
        }

    return _page(Path(out), "stage.html", [seen, _known(stage), [_known(s) for s in around], problem], view)


def _has_card(found: list[Stage]) -> bool:
    return any(s.name == "training" and s.shown and s.state != "failed" for s in found)


def _known(stage: Stage) -> list[Any]:
    return [stage.name, stage.state, stage.reasons, stage.record, stage.product, stage.shown]


def _beside(around: list[Stage], stage: Stage, step: int) -> Stage | None:
    shown = [s for s in around if s.shown or s is stage]
    place = shown.index(stage) + step
    return shown[place] if 0 <= place < len(shown) else None


def _fit(found: list[rendering.Block]) -> list[rendering.Block]:
    """`found` with the outputs that would take the page over its bound left out, and said so."""
    room, kept = MAX_BYTES - 60_000, []
    for block in found:
        room -= len(block.shown.encode())
        if room < 0 and block.kind in ("output", "code"):
            room += len(block.shown.encode())
            if block.kind == "output":
                said = rendering.Markup("<p>One output is too large for this page; it is in the executed notebook.</p>")
                kept.append(rendering.Block("output", said))
            continue
        kept.append(block)
    return kept


def write_card(settings: Settings, problem: str, found: list[Stage] | None = None) -> Path | None:
    """Write the model card of `problem`; None where no model was trained."""
    found = found or stages(settings, problem)
    if not _has_card(found):
        return None
    by_name = {s.name: s for s in found}
    decisions = _Decisions(settings)
    production = decisions.production(_statement(found).get("name") or problem)
    read = {name: s.product for name, s in by_name.items()}
    return _page(
        settings.reports / problem / "model.html",
        "model.html",
        [[_known(s) for s in found], production],
        lambda: {
            "problem": problem,
            "stages": found,
            "statement": _statement(found),
            "production": production,
            "model": _model(read.get("training", {})),
            "training": read.get("training", {}),
            "building": read.get("building", {}),
            "evaluation": read.get("evaluation", {}),
            "features": _records(read.get("features", {}).get("catalogue")),
            "windows": read.get("transformation", {}).get("windows") or {},
            "need": _decided(by_name.get("need_gate")),
            "validation": _decided(by_name.get("validation_gate")),
            "tables": _tables(read.get("features", {})),
        },
    )


def write_index(settings: Settings, states: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None) -> Path:
    """Write reports/index.html."""
    decisions = _Decisions(settings)
    views = [_overview(settings, name, (states or {}).get(name), decisions) for name in names(settings)]
    seen = [
        [[_known(s) for s in v["stages"]], v["production"], v["timeline"], v["statement"], v["wrong"]] for v in views
    ]
    return _page(
        settings.reports / "index.html",
        "index.html",
        [seen, decisions.wrong],
        lambda: {"problems": views, "wrong": decisions.wrong},
    )


def _overview(settings: Settings, problem: str, states, decisions: "_Decisions") -> dict[str, Any]:
    found = stages(settings, problem, states)
    by_name = {s.name: s for s in found}
    read = {s.name: s.product for s in found}
    statement, wrong = _statement(found), ""
    if not statement:
        statement, wrong = _stated(settings, problem)
    view = {
        "name": problem,
        "statement": statement,
        "wrong": wrong,
        "stages": found,
        "need": _decided(by_name.get("need_gate")),
        "validation": _decided(by_name.get("validation_gate")),
        "model": _model(read.get("training", {})),
        "production": decisions.production(statement.get("name") or problem),
        "timeline": decisions.timeline(statement.get("name") or problem),
        "revision": _next_revision(settings, problem, statement),
        "as_of": read.get("problem", {}).get("as_of"),
        "has_card": _has_card(found),
        "counts": _counts(read.get("ingestion", {})),
        "seconds": sum(s.seconds or 0 for s in found),
        "wide": drawing.wide(found, lambda s: s.is_gate),
        "narrow": drawing.narrow(found, lambda s: s.is_gate),
    }
    return view | {"headline": headline(view)}


def _decided(stage: Stage | None) -> dict[str, Any] | None:
    return stage.decided if stage else None


def headline(view: Mapping[str, Any]) -> str:
    """What was found about a problem, in one sentence."""
    need, validation, stages = view["need"], view["validation"], view["stages"]
    failed = [s.title for s in stages if s.state == "failed"]
    if failed:
        return f"The run failed at {failed[0].lower()}; the pages before it stand."
    if need is None:
        done = [s.title.lower() for s in stages if s.shown]
        return f"Has run as far as {done[-1]}; neither gate has been asked." if done else "Has not run yet."
    if need["verdict"] == "no":
        return "No machine learning is needed, or it would not pay, as the problem is stated."
    needed = {"yes": "A model is needed", "maybe": "A model may be needed"}[need["verdict"]]
    if validation is None:
        return f"{needed}; none has been validated yet."
    solved = {
        "yes": "and this one solves the problem",
        "maybe": "and this one may solve it",
        "no": "but this one does not solve the problem",
    }
    decided = validation["deciding"]
    return f"{needed}, {solved[validation['verdict']]}{': ' + decided['sentence'] if decided else ''}."


def _page(out: Path, template: str, seen: Any, view) -> Path:
    """Render `template` into `out` unless the page there was made of the same."""
    digest = storage.digest_json([template, _templates_digest(), seen])
    try:
        with out.open(encoding="utf-8") as page:
            if digest in page.read(400):
                return out
    except OSError:
        pass
    html = _environment().get_template(template).render(digest=digest, **view())
    return storage.write_text(out, html)


@cache
def _templates_digest() -> str:
    here = Path(__file__).parent
    return storage.digest_json(
        [storage.digest_file(here / name) for name in ("templates", "drawing.py", "rendering.py", "report.py")]
    )


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
        "number": number,
        "seconds": seconds,
        "moment": moment,
        "records": _records,
        "figures": figures,
    }
    environment.globals |= {"css": rendering.Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))}
    return environment


# ---------------------------------------------------------------------------------------------- what is shown


def number(value: Any, unit: str = "") -> str:
    """A figure as it is read: three significant digits, thousands separated; '–' where there is none."""
    if value is None or isinstance(value, (dict, list)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    size = abs(value)
    if isinstance(value, int) or size >= 100 or (size >= 2 and value == int(value)):
        text = f"{value:,.0f}"
    elif size == 0:
        text = "0"
    elif size < 1e-4:
        text = f"{value:.2e}"
    else:
        text = f"{value:.{1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4}f}"
    return f"{text.replace('-', '−')} {unit}".strip()


def _apart(value: Any, threshold: Any) -> tuple[str, str]:
    """Two figures in as many digits as it takes to tell them apart."""
    a, b = number(value), number(threshold)
    if a == b and isinstance(value, (int, float)) and isinstance(threshold, (int, float)) and value != threshold:
        digits = next(d for d in range(4, 18) if f"{value:.{d}f}" != f"{threshold:.{d}f}" or d == 17)
        return f"{value:,.{digits}f}", f"{threshold:,.{digits}f}"
    return a, b


def seconds(value: Any) -> str:
    """A time taken, to a tenth of a second; '–' where it is not known."""
    return f"{value:,.1f}" if isinstance(value, (int, float)) else "–"


def moment(value: Any) -> str:
    """A time to the minute, UTC; a date where the time is midnight."""
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            return value
    if not isinstance(value, dt.datetime):
        return "–" if value is None else str(value)
    return f"{value:%Y-%m-%d}" if value.time() == dt.time() else f"{value:%Y-%m-%d %H:%M}"


def evidence(given: Mapping[str, Any]) -> dict[str, Any]:
    """One piece of evidence, ready to show: the texts of its figures and where they lie."""
    real = lambda key: (
        given.get(key) if isinstance(given.get(key), (int, float)) and not isinstance(given.get(key), bool) else None
    )
    value, low, high, threshold = (real(key) for key in ("value", "low", "high", "threshold"))
    shown, asked = _apart(given.get("value"), given.get("threshold"))
    within = _within({"low": low, "high": high})
    unit, name = str(given.get("unit") or ""), str(given.get("name") or "")
    passed = given.get("passed")
    said = f"{name.replace('_', ' ')} {shown}{' ' + unit if unit and unit != name else ''}"
    said += f" ({within})" if within != "–" else ""
    said += f" against {asked} asked" if threshold is not None else ""
    return {
        "name": name.replace("_", " "),
        "value": shown,
        "unit": unit,
        "within": within,
        "threshold": asked,
        "passed": passed if isinstance(passed, bool) else None,
        "line": drawing.interval(value, low, high, threshold),
        "sentence": said,
    }


def verdict(product: Mapping[str, Any]) -> dict[str, Any] | None:
    """A gate's verdict, ready to show; None where the gate has not run, 'no' where it said nothing."""
    if not product:
        return None
    said = product.get("verdict")
    said = said if isinstance(said, dict) else {}
    listed = lambda key: [str(one) for one in said.get(key) or []]
    found = [evidence(one) for one in said.get("evidence") or [] if isinstance(one, dict)]
    deciding = said.get("deciding") or product.get("deciding")
    word = said.get("verdict") if said.get("verdict") in ("yes", "maybe", "no") else "no"
    return {
        "gate": str(said.get("gate") or str(product.get("stage", "")).removesuffix("_gate")),
        "verdict": word,
        "reasons": listed("reasons") or ([] if said else ["The gate's notebook said nothing, which counts as No."]),
        "must_change": listed("must_change"),
        "evidence": found,
        "deciding": next((e for e in found if e["name"] == str(deciding).replace("_", " ")), None),
    }


def finding(stage: str, product: Mapping[str, Any]) -> str:
    """A sentence made of the figures in a stage's product; '' where they are not there."""
    try:
        return str(_FINDINGS.get(stage, lambda p: "")(product))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return ""


def _collected(p) -> str:
    rows = sum(batch["rows"] for source in p["batches"].values() for batch in source)
    return f"{rows:,} raw rows from {len(p['batches'])} source{'s' if len(p['batches']) != 1 else ''}."


def _ingested(p) -> str:
    total = {
        key: sum(count.get(key, 0) for count in p["counts"].values())
        for key in ("read", "kept", "rejected", "duplicates")
    }
    return "{read:,} rows read: {kept:,} kept, {rejected:,} rejected with a reason, {duplicates:,} duplicates.".format(
        **total
    )


def _explored(p) -> str:
    chosen = p["chosen"]["name"]
    best = next(c for c in p["candidates"] if c["name"] == chosen)
    return f"{chosen} is chosen out of {len(p['candidates'])}: {number(best['mean'])} ({_within(best)})."


def _trained(p) -> str:
    t = p["trained"]
    return f"{p['model']['name']} learned from {t['rows']:,} rows, {moment(t['from'])} to {moment(t['until'])}."


def _evaluated(p) -> str:
    first = p["metrics"][0]
    within = f" ({number(first['low'])} to {number(first['high'])})" if first.get("low") is not None else ""
    return f"{first['name'].replace('_', ' ')} {number(first['value'])}{within} on the held-out period."


def _windows(p) -> str:
    start, end, held, until = (
        moment(p["windows"][key]) for key in ("from", "train_until", "holdout_from", "holdout_until")
    )
    return f"Learn from {start} until {end}; {held} until {until} is held out."


def _said(p) -> str:
    said = verdict(p)
    return said["reasons"][0] if said and said["reasons"] else ""


_FINDINGS = {
    "problem": lambda p: p["problem"]["question"],
    "collection": _collected,
    "ingestion": _ingested,
    "transformation": _windows,
    "need_gate": _said,
    "features": lambda p: f"{len(p['catalogue']):,} features, each known before the moment it is used.",
    "exploration": _explored,
    "building": lambda p: f"{p['estimator']['name']}, not yet trained.",
    "training": _trained,
    "evaluation": _evaluated,
    "validation_gate": _said,
}


def _statement(found: list[Stage]) -> dict[str, Any]:
    """The problem statement as the run read it; {} where that stage has not run."""
    read = next((s.product.get("problem") for s in found if s.name == "problem"), None)
    return read if isinstance(read, dict) else {}


def _stated(settings: Settings, problem: str) -> tuple[dict[str, Any], str]:
    """The statement in its file, and what is wrong with it."""
    from mlloop import problem as problems

    try:
        return storage.plain(problems.load(settings.problems / f"{problem}.yaml")), ""
    except MlloopError as error:
        return {}, str(error)


def _next_revision(settings: Settings, problem: str, statement: Mapping[str, Any]) -> str:
    """The file of the next revision that a closed gate opened, relative to the project; '' where there is none."""
    number, base = statement.get("revision"), re.sub(r"\.r\d+$", "", problem)
    path = settings.problems / f"{base}.r{(number if isinstance(number, int) else 1) + 1}.yaml"
    return path.relative_to(settings.root).as_posix() if path.exists() and path.is_relative_to(settings.root) else ""


def _model(training: Mapping[str, Any]) -> dict[str, Any]:
    """Name, digest, form and registration of the trained model; {} where there is none."""
    model = training.get("model")
    return model if isinstance(model, dict) else {}


def _counts(ingestion: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts = ingestion.get("counts")
    rows = []
    for table, count in (counts if isinstance(counts, dict) else {}).items():
        if isinstance(count, dict):
            whole = {key: int(count.get(key) or 0) for key in ("read", "kept", "rejected", "duplicates")}
            rows.append(
                {
                    "table": table,
                    **whole,
                    "adds_up": whole["read"] == whole["kept"] + whole["rejected"] + whole["duplicates"],
                }
            )
    return rows


def _tables(product: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The versions of tables that a product cites."""
    tables = product.get("tables")
    cited = tables.items() if isinstance(tables, dict) else []
    return [
        {"name": str(t.get("name") or name), **{k: t.get(k) for k in ("version", "rows", "digest")}}
        for name, t in cited
        if isinstance(t, dict)
    ]


def _records(rows: Any) -> list[dict[str, Any]]:
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


FIRST = ["name", "column", "slice", "group", "level", "metric", "value", "interval", "unit", "n"]


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of a product as a table: what is named first, then its figure, the interval as one column, the rest.

    Returns
    -------
    dict
        'columns' (name, whether it holds numbers) and 'rows' (texts).
    """
    spans = [row for row in rows if row.get("low") is not None and row.get("high") is not None]
    if spans:
        rows = [{k: v for k, v in row.items() if k not in ("low", "high")} | {"interval": _within(row)} for row in rows]
    found: dict[str, bool] = {}
    for row in rows:
        for key, value in row.items():
            if not isinstance(value, (dict, list)):
                found[key] = found.get(key, False) or (isinstance(value, (int, float)) and not isinstance(value, bool))
    is_figure = lambda key: found[key] or key in ("interval", "unit")
    place = lambda key: (is_figure(key), FIRST.index(key) if key in FIRST else len(FIRST), list(found).index(key))
    names = sorted(found, key=place)
    return {
        "columns": [(name.replace("_", " "), found[name] or name == "interval") for name in names],
        "rows": [[number(row.get(name)) for name in names] for row in rows],
    }


def _within(row: Mapping[str, Any]) -> str:
    low, high = row.get("low"), row.get("high")
    return f"{number(low)} to {number(high)}" if low is not None and high is not None else "–"


class _Decisions:
    """What the ledger says, and what is wrong where it cannot be read."""

    def __init__(self, settings: Settings):
        self.wrong, self._ledger = "", None
        if settings.ledger_url.startswith("sqlite:///") and not _ledger_files(settings):
            return
        from mlloop.ledger import Ledger

        self._ledger = Ledger.open(settings)

    def _ask(self, question, otherwise):
        if self._ledger is None or self.wrong:
            return otherwise
        try:
            return question(self._ledger)
        except MlloopError as error:
            self.wrong = str(error)
            return otherwise

    def production(self, problem: str) -> dict[str, Any]:
        """The champion: model, since when, by whom, what a rollback would restore; {} where there is none."""
        row = self._ask(lambda ledger: ledger.champion(problem), None)
        if row is None:
            return {}
        earlier = self._ask(lambda ledger: ledger.previous_champion(problem), None)
        return {"model": row.model, "since": moment(row.at), "actor": row.actor, "earlier": earlier, "row": row.id}

    def timeline(self, problem: str) -> list[dict[str, Any]]:
        """The decisions about `problem`, the latest first."""
        rows = self._ask(lambda ledger: ledger.rows(problem=problem), [])
        return [_decision(row) for row in sorted(rows, key=lambda row: row.id, reverse=True)]


def _decision(row) -> dict[str, Any]:
    details = row.details if isinstance(row.details, dict) else {}
    found = [evidence(one) for one in row.evidence or []]
    deciding = str(details.get("deciding") or "").replace("_", " ")
    return {
        "id": row.id,
        "at": moment(row.at),
        "kind": row.kind,
        "subject": row.subject,
        "verdict": row.verdict,
        "reasons": [str(one) for one in row.reasons or []],
        "evidence": found,
        "deciding": next((e["sentence"] for e in found if e["name"] == deciding), ""),
        "actor": row.actor,
        "model": row.model,
        "revision": details.get("revision"),
    }
