"""What a statement, a verdict, the ledger and an evaluation look like at the end of a notebook's cell: small tables, escaped."""

from collections.abc import Iterable, Mapping
from typing import Any

from mlloop import products
from mlloop.core import metric_table
from mlloop.core.errors import ProductError
from mlloop.core.formatting import number
from mlloop.core.records import JsonObject
from mlloop.pages import wording
from mlloop.pages.html_table import facts, table
from mlloop.problem import Problem
from mlloop.store.ledger import Ledger, Row, Standing

SHOWN = 30


def problem(statement: Problem) -> str:
    """A problem statement: what is asked, what is content, what it is worth."""
    success, task = statement.success, statement.task
    rows = [
        ("decision", statement.decision),
        ("owner", statement.owner),
        ("task", task.kind),
        ("content with", f"{metric_table.title(success.metric)} {number(success.threshold)}"),
        ("better than the best rule by", number(success.min_gain)),
        ("rules", "; ".join(rule.meaning for rule in statement.rules)),
        (
            "a decision is worth",
            f"in {statement.money.currency}, {statement.money.decisions_per_period:,} each {statement.money.period_days} days",
        ),
        ("tables", ", ".join(statement.tables)),
    ]
    return table(
        f"{statement.name}, revision {statement.revision}: {statement.question}", ["", ""], [r for r in rows if r[1]]
    )


def row(decision: Row) -> str:
    """A decision of the ledger with its evidence."""
    what = _decided(decision)
    verdict = f": {decision.verdict}" if decision.verdict else ""
    heading = (
        f"#{decision.id} {decision.problem}, {wording.moment(decision.at)} UTC, by {decision.actor}: {what}{verdict}"
    )
    return evidence(heading, decision.evidence, " ".join(decision.reasons))


def evidence(heading: str, figures: Iterable[Mapping[str, Any]], foot: str = "") -> str:
    """Figures with interval, threshold and how they went."""
    rows = [wording.evidence(figure) for figure in figures]
    went = {True: "yes", False: "no", None: "open"}
    cells = [[e["name"], e["value"], e["unit"], e["within"], e["threshold"], went[e["passed"]]] for e in rows]
    return table(heading, ["figure", "value", "unit", "interval", "asked", "passed"], cells, foot)


def _decided(decision: Row) -> str:
    return wording.decision(decision.kind, decision.subject, str(decision.details.get("action") or decision.subject))


def ledger(shown: Ledger) -> str:
    """The newest decisions, the latest first."""
    rows = shown.rows()
    cells = [
        (
            r.id,
            wording.moment(r.at),
            r.problem,
            _decided(r),
            r.verdict,
            r.actor,
            (r.model or "")[:12],
            "; ".join(r.reasons),
        )
        for r in rows[-SHOWN:][::-1]
    ]
    heading = f"{len(rows):,} decisions" + (f", the newest {SHOWN}" if len(rows) > SHOWN else "")
    return table(heading, ["#", "when (UTC)", "problem", "decision", "verdict", "by", "model", "why"], cells)


def standing(production: Standing) -> str:
    """What was in production, and what the gates had said."""
    champion = (
        f"{str(production.champion.model)[:12]} since {wording.moment(production.champion.at)}"
        if production.champion
        else "no model"
    )
    gates = ", ".join(f"{name} {gate.verdict}" for name, gate in production.gates.items())
    canary = (
        f"{str(production.canary.model)[:12]} since {wording.moment(production.canary.at)}" if production.canary else ""
    )
    rows = [("in production", champion), ("canary", canary), ("gates", gates)]
    return table(production.problem, ["", ""], [r for r in rows if r[1]])


def product(content: products.Product) -> str:
    """A stage's product: a gate's verdict, an evaluation's figures, else its finding and facts."""
    if isinstance(content, products.NeedGate | products.ValidationGate):
        gate = content.verdict
        figures = [e.model_dump() for e in gate.evidence]
        return evidence(f"The {gate.gate} gate says {gate.verdict}", figures, " ".join(gate.reasons))
    if isinstance(content, products.Evaluation):
        judged = wording.judged(content)
        tables = [wording.figures(judged[part]) for part in ("metrics", "contenders", "slices") if judged[part]]
        return "".join(
            table(content.stage if not i else "", [c for c, _ in f["columns"]], f["rows"]) for i, f in enumerate(tables)
        )
    finding = wording.finding(content)
    fields = content.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"stage", "version", "finding"})
    return facts(
        f"{content.stage}: {finding}" if finding else content.stage,
        {key: _brief(value) for key, value in fields.items()},
    )


def dictionary(content: JsonObject) -> str | None:
    """A product or a verdict as JSON has it; None for any other dictionary."""
    if not isinstance(content.get("stage"), str):
        return verdict(content)
    try:
        return product(products.parse(content))
    except ProductError as error:
        return facts(str(error), {key: _brief(value) for key, value in content.items()})


def verdict(content: JsonObject) -> str | None:
    """A verdict as `mlloop.core.verdict.conclude` makes it; None for any other dictionary."""
    if not {"gate", "verdict", "evidence", "reasons"} <= set(content):
        return None
    return evidence(
        f"The {content['gate']} gate says {content['verdict']}", content["evidence"], " ".join(content["reasons"])
    )


def _brief(value: Any) -> Any:
    return (
        f"{len(value)} entries: {', '.join(map(str, list(value)[:6]))}"
        if isinstance(value, (dict, list)) and len(value) > 3
        else value
    )


def register(html: Any) -> None:
    """Tell IPython's HTML formatter how to show these."""
    shown_as = {Problem: problem, Row: row, Ledger: ledger, Standing: standing, products.Product: product}
    for kind, shown in shown_as.items():
        html.for_type(kind, shown)
    html.for_type(dict, dictionary)
