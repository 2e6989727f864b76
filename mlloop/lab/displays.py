"""What a statement, a verdict, the ledger and an evaluation look like at the end of a notebook's cell: small tables, escaped."""

from collections.abc import Iterable, Mapping
from typing import Any

from mlloop import products
from mlloop.core import metric_table
from mlloop.core.errors import ProductError
from mlloop.core.formatting import number
from mlloop.pages import wording
from mlloop.pages.html_table import facts, table
from mlloop.problem import Problem
from mlloop.store.ledger import Ledger, Row, Standing

SHOWN = 30


def problem(one: Problem) -> str:
    """A problem statement: what is asked, what is content, what it is worth."""
    success, task = one.success, one.task
    rows = [
        ("decision", one.decision),
        ("owner", one.owner),
        ("task", task.kind),
        ("content with", f"{metric_table.title(success.metric)} {number(success.threshold)}"),
        ("better than the best rule by", number(success.min_gain)),
        ("rules", "; ".join(rule.meaning for rule in one.rules)),
        (
            "a decision is worth",
            f"in {one.money.currency}, {one.money.decisions_per_period:,} each {one.money.period_days} days",
        ),
        ("tables", ", ".join(one.tables)),
    ]
    return table(f"{one.name}, revision {one.revision}: {one.question}", ["", ""], [r for r in rows if r[1]])


def row(one: Row) -> str:
    """A decision of the ledger with its evidence."""
    said = _decided(one)
    verdict = f": {one.verdict}" if one.verdict else ""
    heading = f"#{one.id} {one.problem}, {wording.moment(one.at)} UTC, by {one.actor}: {said}{verdict}"
    return evidence(heading, one.evidence, " ".join(one.reasons))


def evidence(heading: str, figures: Iterable[Mapping[str, Any]], foot: str = "") -> str:
    """Figures with interval, threshold and how they went."""
    rows = [wording.evidence(figure) for figure in figures]
    went = {True: "yes", False: "no", None: "open"}
    cells = [[e["name"], e["value"], e["unit"], e["within"], e["threshold"], went[e["passed"]]] for e in rows]
    return table(heading, ["figure", "value", "unit", "interval", "asked", "passed"], cells, foot)


def _decided(one: Row) -> str:
    return wording.decision(one.kind, one.subject, str(one.details.get("action") or one.subject))


def ledger(one: Ledger) -> str:
    """The newest decisions, the latest first."""
    rows = one.rows()
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


def standing(one: Standing) -> str:
    """What was in production, and what the gates had said."""
    champion = f"{str(one.champion.model)[:12]} since {wording.moment(one.champion.at)}" if one.champion else "no model"
    gates = ", ".join(f"{name} {gate.verdict}" for name, gate in one.gates.items())
    canary = f"{str(one.canary.model)[:12]} since {wording.moment(one.canary.at)}" if one.canary else ""
    rows = [("in production", champion), ("canary", canary), ("gates", gates)]
    return table(one.problem, ["", ""], [r for r in rows if r[1]])


def product(one: products.Product) -> str:
    """A stage's product: a gate's verdict, an evaluation's figures, else its finding and facts."""
    if isinstance(one, products.NeedGate | products.ValidationGate):
        gate = one.verdict
        figures = [e.model_dump() for e in gate.evidence]
        return evidence(f"The {gate.gate} gate says {gate.verdict}", figures, " ".join(gate.reasons))
    if isinstance(one, products.Evaluation):
        judged = wording.judged(one)
        tables = [wording.figures(judged[part]) for part in ("metrics", "contenders", "slices") if judged[part]]
        return "".join(
            table(one.stage if not i else "", [c for c, _ in f["columns"]], f["rows"]) for i, f in enumerate(tables)
        )
    said = wording.finding(one)
    content = one.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"stage", "version", "finding"})
    return facts(f"{one.stage}: {said}" if said else one.stage, {key: _brief(value) for key, value in content.items()})


def dictionary(one: dict[str, Any]) -> str | None:
    """A product or a verdict as JSON has it; None for any other dictionary."""
    if not isinstance(one.get("stage"), str):
        return verdict(one)
    try:
        return product(products.parse(one))
    except ProductError as error:
        return facts(str(error), {key: _brief(value) for key, value in one.items()})


def verdict(one: dict[str, Any]) -> str | None:
    """A verdict as `mlloop.core.verdict.conclude` makes it; None for any other dictionary."""
    if not {"gate", "verdict", "evidence", "reasons"} <= set(one):
        return None
    return evidence(f"The {one['gate']} gate says {one['verdict']}", one["evidence"], " ".join(one["reasons"]))


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
