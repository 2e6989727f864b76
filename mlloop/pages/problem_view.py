"""How each problem of a project stands: its stages, verdicts, model and decisions, as the pages show them."""

import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from mlloop import problem as problems
from mlloop import products
from mlloop.core import metric_table, parsing, revisions
from mlloop.core.errors import DataError, MlloopError, ProductError
from mlloop.core.records import JsonObject
from mlloop.core.settings import Settings
from mlloop.pages import against_target, diagrams, monitoring_view, notebook_html, versions_view, wording
from mlloop.problem import Problem
from mlloop.store import clocks

if TYPE_CHECKING:
    from mlloop.store.entries import Row

STATES = {
    "fresh": "up to date",
    "ran": "ran",
    "stale": "stale",
    "waiting": "waits for a stale stage",
    "failed": "failed",
    "missing": "not run",
    "closed": "a gate said No",
    "unreadable": "its product cannot be read",
}


# stages whose name does not say what their page shows
TITLES = {
    "analysis": "Data analysis",
    "visualization": "Data quality",
    "exploration": "Model comparison",
    "building": "Model settings",
}


@dataclass(frozen=True)
class Stage:
    """A stage as its page shows it: state, time taken, what it found.

    `wrong` says why it failed or cannot be read; `home` is the way to its page's folder where that is another than this page's.
    """

    name: str
    notebook: Path
    executed: Path
    data: Path
    is_gate: bool
    state: str
    reasons: list[str]
    record: JsonObject
    product: products.Product | None
    wrong: str = ""
    home: str = ""

    @property
    def title(self) -> str:
        return TITLES.get(self.name) or self.name.replace("_", " ").capitalize()

    @property
    def shown(self) -> bool:
        """Whether there is something to make a page of."""
        return self.executed.exists() and (self.product is not None or bool(self.wrong))

    @property
    def verdict(self) -> str | None:
        """'yes', 'maybe' or 'no' at a gate that has run; a gate that said nothing counts as 'no'."""
        return products.verdict_of(self.product).verdict if self.is_gate and self.product else None

    @property
    def word(self) -> str:
        """The state in words, with the verdict of a gate."""
        if self.verdict and self.state in ("fresh", "ran"):
            return {"yes": "said Yes", "maybe": "said Maybe", "no": "said No"}[self.verdict]
        return STATES.get(self.state, self.state)

    @property
    def brief(self) -> str:
        """The word as it fits into a box of the drawing."""
        return wording.brief(self.word)

    @property
    def mark(self) -> str:
        """The name of the shape drawn beside the word."""
        if self.verdict and self.state in ("fresh", "ran"):
            return f"said-{self.verdict}"
        marks = {"ran": "fresh", "unreadable": "failed"}
        return marks.get(self.state, self.state if self.state in STATES else "missing")

    @property
    def decided(self) -> wording.VerdictView | None:
        """The verdict of a gate that ran to its end, ready to show."""
        if not (self.is_gate and self.product) or self.state == "failed":
            return None
        return wording.verdict(products.verdict_of(self.product))

    @property
    def href(self) -> str:
        """Its page below the problem's folder; '' where there is none."""
        return f"{self.name}.html" if self.shown else ""

    @property
    def seconds(self) -> float | None:
        return self.record.get("seconds")

    @property
    def finding(self) -> str:
        """What it found, in a sentence: the product's own, the notebook's stressed words, or one made of its figures."""
        own = self.wrong or (self.product.finding if self.product else "")
        stressed = notebook_html.stressed(read_or_empty(self.executed)) if self.shown and not self.is_gate else ""
        finding = own or stressed or (wording.finding(self.product) if self.product else "")
        return f"{finding}." if finding[-1:].isalnum() or finding[-1:] in ("]", ")", "'") else finding


class ProductionView(TypedDict, total=False):
    """The champion as the ledger has it, with the products of the run that made it; empty where there is none."""

    model: str
    since: str
    decided_at: str
    actor: str
    kind: str
    reasons: list[str]
    gate: str
    earlier: str | None
    row: int
    stands_in: str | None
    stands_in_name: str
    name: str
    is_later: bool
    products: dict[str, products.Product]
    unreadable: list[str]
    told: str


class CanaryView(TypedDict, total=False):
    """The model in canary; empty where there is none."""

    model: str
    since: str
    share: float | None
    until: str


class HealthView(TypedDict, total=False):
    """Whether what answers now is healthy; empty where nothing was monitored."""

    word: str
    mark: str
    said: str
    as_of: str
    not_since: str


class RevisionView(TypedDict):
    """A revision that has run: its number, its page, and whether it is the current one."""

    number: int
    href: str
    is_current: bool


@dataclass(frozen=True)
class Process:
    """What goes on after deployment, in the drawing of the loop: serving, monitoring, retraining."""

    name: str
    word: str
    mark: str
    href: str = ""
    is_gate: bool = False

    @property
    def title(self) -> str:
        return self.name.capitalize()

    @property
    def brief(self) -> str:
        return wording.brief(self.word)

    @property
    def shown(self) -> bool:
        return bool(self.href)


TURN = ("retraining", "features")


def processes(view: Mapping[str, Any]) -> list[Process]:
    """Serving, monitoring and retraining as they stand."""
    if not any(s.name == "deployment" for s in view["stages"]):
        return []
    live, state = view["production"], view["health"]
    card = "model.html" if live and view["has_card"] else ""
    serving = Process("serving", "answers" if live else "nothing to serve", "fresh" if live else "missing", card)
    monitoring = Process("monitoring", "not monitored yet", "missing")
    if state:
        monitoring = Process("monitoring", state["word"], state["mark"], "monitoring.html")
    last = view["looked"]
    again = (
        Process("retraining", last["action"], last["mark"], "loop.html" if view["has_history"] else monitoring.href)
        if last
        else Process("retraining", "not asked yet", "missing")
    )
    return [serving, monitoring, again]


def names(settings: Settings) -> list[str]:
    """The problems that have a statement or a product, sorted; revisions and editions are of their problem."""
    stated = {revisions.problem_of(path.stem) for path in settings.problems.glob("*.yaml")}
    ran = {
        revisions.problem_of(path.name)
        for path in (settings.state / "products").glob("*")
        if "@" not in path.name and path.is_dir() and any(path.glob("*.json"))
    }
    return sorted(stated | ran)


def edition_stages(settings: Settings, folder: str, base: list[Stage], home: str) -> list[Stage]:
    """The stages of an edition: its own, and those of the run it entered beside, whose pages lie in `home`."""
    whole = {stage.name: replace(stage, home=home) for stage in base}
    return [stage if stage.shown else whole[stage.name] for stage in stages(settings, folder)]


def stages(settings: Settings, problem: str, states: Mapping[str, Mapping[str, Any]] | None = None) -> list[Stage]:
    """The stages of pipeline.yaml in its order, with what is known of each for `problem`."""
    listed = []
    for task in parsing.tasks(settings.root):
        name = task["name"]
        path_of = lambda key, product=task["product"]: settings.root / product[key].replace("{{problem}}", problem)
        record = read_or_empty(settings.state / "records" / problem / f"{name}.json")
        failed = settings.state / "failed" / problem / f"{name}.ipynb"
        known = dict((states or {}).get(name) or {})
        state = known.get("state") or ("ran" if record else "missing")
        executed, (product, wrong) = path_of("nb"), product_or_wrong(settings, path_of("data"))
        if failed.exists() and state != "fresh":
            state, executed, product = "failed", failed, None
            wrong = notebook_html.raised(read_or_empty(failed)).replace(f"{settings.root}/", "")
        elif wrong:
            state = "unreadable"
        listed.append(
            Stage(
                name=name,
                notebook=settings.root / task["source"],
                executed=executed,
                data=path_of("data"),
                is_gate="on_finish" in task,
                state=state,
                reasons=[str(reason) for reason in known.get("reasons") or []],
                record=record,
                product=product,
                wrong=wrong,
            )
        )
    return listed


def product_or_wrong(
    settings: Settings, path: Path, read: Callable[[Path], products.Product] = products.read
) -> tuple[products.Product | None, str]:
    """A stage's product, and why it cannot be read; None and '' where there is none."""
    try:
        return (read(path) if path.exists() else None), ""
    except (DataError, ProductError) as error:
        return None, str(error).replace(f"{settings.root}/", "")


def read_or_empty(path: Path) -> JsonObject:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def has_card(stages: list[Stage]) -> bool:
    return any(s.name == "training" and s.shown and s.state != "failed" for s in stages)


def shown_of(stage: Stage) -> list[Any]:
    return [stage.name, stage.state, stage.reasons, stage.record, stage.product, stage.wrong, stage.shown]


def overview(settings: Settings, problem: str, states, decisions: "Decisions") -> wording.View:
    folder = revisions.current(settings, problem)
    listed = stages(settings, folder, states)
    by_name = {s.name: s for s in listed}
    statement, wrong = statement_of(listed), ""
    if statement is None:
        statement, wrong = _stated(settings, folder)
    name = statement.name if statement else problem
    ran, trained = product_of(listed, products.Statement), product_of(listed, products.Training)
    looks, unreadable = monitoring_view.read(settings, monitored_in(settings, folder))
    timeline = decisions.timeline(name)
    view: wording.View = {
        "name": problem,
        "folder": folder,
        "revisions": _revisions(settings, problem, folder),
        "has_versions": bool(versions_view.releases(timeline, [], {})) or has_card(listed),
        "statement": statement,
        "wrong": wrong,
        "stages": listed,
        "need": decided(by_name.get("need_gate")),
        "validation": decided(by_name.get("validation_gate")),
        "model": trained.model if trained else None,
        "production": in_production(settings, folder, name, decisions),
        "canary": decisions.canary(name),
        "monitoring": monitoring_view.view(looks, statement),
        "timeline": timeline,
        "revision": _next_revision(settings, folder, statement),
        "as_of": ran.as_of if ran else None,
        "has_card": has_card(listed),
        "metric": metric_table.meaning(statement.success.metric) if statement else "",
        "has_history": (settings.reports / folder / "loop.html").exists(),
        "counts": wording.counts(product_of(listed, products.Ingestion)),
        "seconds": sum(s.seconds or 0 for s in listed),
    }
    is_of_run = lambda name: name in by_name and by_name[name].state in ("fresh", "ran")
    for gate in ("need", "validation"):
        view[f"{gate}_at"] = wording.moment(ran.as_of) if ran and ran.as_of and is_of_run(f"{gate}_gate") else ""
    view["unreadable"] = [*unreadable, *view["production"].get("unreadable", [])]
    view["standing"] = against_target.standing(statement, looks, view["production"])
    view["looked"] = next((d for d in view["timeline"] if d["kind"] == "retrain"), None)
    view["health"] = health(view["production"], view["monitoring"])
    if view["production"] and view["production"]["is_later"]:
        judged = view["production"]["products"].get("validation_gate")
        view["model"] = view["production"]["products"]["training"].model
        view["validation"] = wording.verdict(products.verdict_of(judged)) if judged else None
        ready = view["production"]["products"].get("problem")
        view["validation_at"] = (
            wording.moment(ready.as_of) if isinstance(ready, products.Statement) and ready.as_of else ""
        )
    parts = [*listed, *processes(view)]
    view |= {
        "wide": diagrams.wide(parts, lambda s: s.is_gate, TURN),
        "narrow": diagrams.narrow(parts, lambda s: s.is_gate, TURN),
        "would_change": wording.would_change(statement, view["production"], view["canary"]),
        "told": wording.folded(view["timeline"]),
    }
    return view | {"headline": headline(view)}


def standing_now(settings: Settings, problem: str, statement: Problem) -> against_target.StandingView | None:
    """How production does now against its target, see `against_target.standing`; None where nothing is in production."""
    live = Decisions(settings).production(statement.name)
    looks = monitoring_view.read(settings, monitored_in(settings, problem))[0] if live else {}
    return against_target.standing(statement, looks, live)


def monitored_in(settings: Settings, problem: str) -> Path:
    """The folder of the products of monitoring."""
    return settings.state / "monitoring" / problem


def in_production(settings: Settings, problem: str, name: str, decisions: "Decisions") -> ProductionView:
    """The champion as the ledger has it, with the products of the run that made it; {} where there is none.

    'is_later' says whether a retraining made it rather than the run whose stages have pages. Where its own moment was
    not recorded (time in the data), that of the monitoring of it is taken.
    """
    live = decisions.production(name)
    if not live:
        return {}
    made_in = _made_in(settings, problem, str(live["model"]))
    both = (
        {path.stem: product_or_wrong(settings, path, products.read_kept) for path in made_in.glob("*.json")}
        if made_in
        else {}
    )
    read = {stage: product for stage, (product, _) in both.items() if product}
    if made_in is None and (edition := _kept(settings, decisions.judged(name), str(live["model"]))):
        read = {**edition.read}
    unreadable = [wrong for _, wrong in both.values() if wrong]
    looks, _ = monitoring_view.read(settings, monitored_in(settings, problem))
    last = list(looks.values())[-1] if looks else None
    ready = read.get("problem")
    if live["since"] == live["decided_at"] and last and last.model == live["model"]:
        live["since"] = wording.moment(last.since)
    elif live["since"] == live["decided_at"] and isinstance(ready, products.Statement) and ready.as_of:
        live["since"] = wording.moment(ready.as_of)
    is_later = made_in is not None and made_in.name != problem
    since = f"{live['since']} UTC"
    if live["since"] != live["decided_at"]:
        since = wording.both_clocks(live["since"], live["decided_at"])
    trained = read.get("training")
    name = trained.model.name if isinstance(trained, products.Training) else ""
    if live["stands_in"] == "rule":
        name = f"the rule {live['stands_in_name']!r}"
    return {**live, "name": name, "is_later": is_later, "products": read, "unreadable": unreadable, "told": since}


def _kept(settings: Settings, judged: Iterable["Row"], digest: str) -> versions_view.Edition | None:
    """What was kept of a model with the gate's decision about it."""
    decision = next((row for row in judged if row.model == digest), None)
    return versions_view.kept(settings, decision) if decision else None


def _made_in(settings: Settings, problem: str, digest: str) -> Path | None:
    """The folder of products of the training that made a model; None where that is gone."""
    for folder in reversed(versions_view.folders(settings, revisions.problem_of(problem))):
        path = folder / "training.json"
        if not path.exists() or digest not in path.read_text(encoding="utf-8", errors="replace"):
            continue
        trained = products.read_kept(path)
        if isinstance(trained, products.Training) and trained.model.digest == digest:
            return folder
    return None


def health(live: ProductionView, latest: Mapping[str, Any]) -> HealthView:
    """Whether what answers now is healthy, by the newest look; {} where nobody looked.

    A look at the model before it says nothing of the one in production: then it is not known yet.
    """
    if not latest or not live or not latest.get("model") or latest["model"] == live["model"]:
        if not latest:
            return {}
        return HealthView(**{key: latest[key] for key in HealthView.__annotations__})  # type: ignore[typeddict-item]
    before = f"The newest period, as of {latest['as_of']}, is of the model before it ({latest['model'][:12]}): {latest['word']}."
    sentence = f"No period of its own has been monitored since {live['since']}. {before} {latest['said']}"
    return {"word": "not known yet", "mark": "missing", "said": sentence, "as_of": "", "not_since": ""}


def decided(stage: Stage | None) -> wording.VerdictView | None:
    return stage.decided if stage else None


def headline(view: Mapping[str, Any]) -> str:
    """What was found about a problem, in one sentence."""
    need, validation, stages = view["need"], view["validation"], view["stages"]
    if instead := stands_in(view.get("production") or ProductionView()):
        return instead
    failed = [s.name.replace("_", " ") for s in stages if s.state == "failed"]
    if failed:
        return f"The run failed at {failed[0]}; the pages before it stand."
    if need is None:
        done = [s.title.lower() for s in stages if s.shown]
        return f"Has run as far as {done[-1]}; neither gate has been asked." if done else "Has not run yet."
    if need["verdict"] == "no":
        return "No machine learning is needed, or it would not pay, as the problem is stated."
    needed = {"yes": "Machine learning is justified", "maybe": "Machine learning may be justified"}[need["verdict"]]
    if validation is None:
        return f"{needed}; no model has been validated yet."
    is_live = bool(view.get("production"))
    verb = {"yes": "solved the problem", "maybe": "may have solved the problem", "no": "did not solve the problem"}
    who = "the model trained last" if not is_live or validation["verdict"] == "no" else "the production model"
    decided = validation["deciding"]
    and_ = "but" if validation["verdict"] == "no" else "and"
    return f"{needed}, {and_} on its holdout period {who} {verb[validation['verdict']]}{': ' + decided['sentence'] if decided else ''}."


def stands_in(live: ProductionView) -> str:
    """Who answers in the place of a model that was worse, and why; '' where none does."""
    kind = live.get("stands_in")
    if not kind:
        return ""
    who = {
        "rule": f"The rule {live['stands_in_name']!r} is in production, not a model,",
        "former": "An earlier model is in production again",
        "challenger": "A model that the gate did not let pass is in production, as the best there is,",
    }[kind]
    why = f": {live['reasons'][0]}" if live["reasons"] else "."
    return f"{who} since {live['since']}{why}"


def product_of(stages: Iterable[Stage], kind: type[products.Kind]) -> products.Kind | None:
    """The product of that kind among the stages; None where its stage has not run, failed, or is a project's own."""
    return next((s.product for s in stages if isinstance(s.product, kind)), None)


def statement_of(stages: list[Stage]) -> Problem | None:
    """The problem statement as the run read it; None where that stage has not run."""
    ran = product_of(stages, products.Statement)
    return ran.problem if ran else None


def _stated(settings: Settings, problem: str) -> tuple[Problem | None, str]:
    """The statement in its file, and what is wrong with it."""
    try:
        return problems.load(settings.problems / f"{problem}.yaml"), ""
    except MlloopError as error:
        return None, str(error)


def _next_revision(settings: Settings, problem: str, statement: Problem | None) -> str:
    """The file of the next revision that a closed gate opened, relative to the project; '' where there is none."""
    base = revisions.problem_of(problem)
    path = settings.problems / f"{base}.r{(statement.revision if statement else 1) + 1}.yaml"
    return path.relative_to(settings.root).as_posix() if path.exists() and path.is_relative_to(settings.root) else ""


def _revisions(settings: Settings, problem: str, current: str) -> list[RevisionView]:
    """The revisions that have run, when there are several: number, page ('' where there is none), whether it is the current one."""
    ran = [name for name in revisions.known(settings, problem) if (settings.state / "products" / name).is_dir()]
    page = lambda name: f"{name}/problem.html" if stages(settings, name)[:1] and stages(settings, name)[0].shown else ""
    listed: list[RevisionView] = [
        {"number": revisions.number_of(name), "href": page(name), "is_current": name == current} for name in ran
    ]
    return listed if len(listed) > 1 else []


def ledger_files(settings: Settings) -> list[Path]:
    url = settings.ledger_url.removeprefix("sqlite:///")
    return [Path(url)] if url != settings.ledger_url and Path(url).exists() else []


class Decisions:
    """What the ledger says, and what is wrong where it cannot be read."""

    def __init__(self, settings: Settings):
        self.wrong, self._ledger = "", None
        if settings.ledger_url.startswith("sqlite:///") and not ledger_files(settings):
            return
        from mlloop.store.ledger import Ledger

        self._ledger = Ledger.open(settings)

    def _ask(self, question, otherwise):
        if self._ledger is None or self.wrong:
            return otherwise
        try:
            return question(self._ledger)
        except MlloopError as error:
            self.wrong = str(error)
            return otherwise

    def head(self) -> str:
        """How far the ledger goes, its last row and that row's hash; '' where there is none or it cannot be read."""
        head = self._ask(lambda ledger: ledger.head(), None)
        return f"row {head.id}, {head.hash}" if head and head.id else ""

    def production(self, problem: str) -> ProductionView:
        """The champion: model, since when, by whom, what a rollback would restore; {} where there is none."""
        row = self._ask(lambda ledger: ledger.champion(problem), None)
        if row is None:
            return {}
        earlier = self._ask(lambda ledger: ledger.previous_champion(problem), None)
        judged = self._ask(
            lambda ledger: ledger.last(problem=problem, kind="gate", subject="validation", model=row.model), None
        )
        rows = self._ask(lambda ledger: ledger.rows(problem=problem), [])
        decision = _decision(row, clocks.in_the_data(rows).get(row.id))
        return {
            "model": row.model,
            "since": decision["at"],
            "decided_at": wording.moment(row.at),
            "actor": row.actor,
            "kind": row.kind,
            "reasons": decision["reasons"],
            "gate": _decision(judged)["deciding"] if judged else "",
            "earlier": earlier,
            "row": row.id,
            "stands_in": row.details.get("to") if row.kind == "fallback" else None,
            "stands_in_name": row.details.get("name", ""),
        }

    def judged(self, problem: str) -> list["Row"]:
        """The decisions of the validation gate about models, the latest first."""
        rows = self._ask(lambda ledger: ledger.rows(problem=problem, kind="gate"), [])
        return [row for row in reversed(rows) if row.subject == "validation" and row.model]

    def canary(self, problem: str) -> CanaryView:
        """The model in canary beside the champion: since when, on which share, until when; {} where there is none."""
        row = self._ask(lambda ledger: ledger.canary(problem), None)
        if row is None:
            return {}
        details = row.details if isinstance(row.details, dict) else {}
        return {
            "model": row.model,
            "since": wording.moment(details.get("since") or row.at),
            "share": details.get("share"),
            "until": wording.moment(details.get("deadline")),
        }

    def timeline(self, problem: str) -> list[wording.DecisionView]:
        """The decisions about `problem`, the latest first."""
        rows = sorted(self._ask(lambda ledger: ledger.rows(problem=problem), []), key=lambda row: row.id)
        stood = clocks.in_the_data(rows)
        return [_decision(row, stood[row.id]) for row in reversed(rows) if row.subject != "delivered"]


def _decision(row, stood: dt.datetime | None = None) -> wording.DecisionView:
    """A row of the ledger as the pages show it; `stood` is where its data stood."""
    details = row.details if isinstance(row.details, dict) else {}
    evidence = [wording.evidence(figure) for figure in row.evidence or []]
    deciding = str(details.get("deciding") or "").replace("_", " ")
    action = str(
        details.get("action") or row.subject or {"yes": "retrain", "no": "nothing"}.get(row.verdict or "", "watch")
    )
    stands = stood or details.get("as_of")
    return {
        "id": row.id,
        "at": wording.moment(stands) if stands else f"{wording.moment(row.at)}",
        "decided_at": wording.moment(row.at) if stands else "",
        "kind": row.kind,
        "subject": row.subject,
        "what": wording.decision(row.kind, row.subject, action, str(details.get("outcome") or "")),
        "change": str(details.get("change") or ""),
        "action": wording.ACTIONS.get(action, (action, "missing"))[0],
        "mark": wording.ACTIONS.get(action, (action, "missing"))[1],
        "verdict": row.verdict if row.kind in ("gate", "retrain") else None,
        "reasons": [str(reason) for reason in row.reasons or []],
        "evidence": evidence,
        "deciding": next((e["sentence"] for e in evidence if e["name"] == deciding and e["value"] != "–"), ""),
        "actor": row.actor,
        "model": row.model,
        "was": str(details.get("was") or ""),
        "stands_in": str(details.get("to") or "") if row.kind == "fallback" else "",
        "who": str(details.get("name") or "") if row.kind == "fallback" else "",
        "revision": details.get("revision"),
    }
