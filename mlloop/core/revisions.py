"""The revisions of a problem statement: `shop.yaml` is the first, `shop.r2.yaml` the second, and one of them is current.

Current is the newest that was deployed; while none is, the newest that has run. A revision that a gate opened and nobody has
run is a draft.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlloop.core.settings import Settings

REVISION = re.compile(r"\.r(\d+)$")


def problem_of(name: str) -> str:
    """The problem that a revision is of: 'shop' for 'shop.r2'."""
    return REVISION.sub("", name)


def number_of(name: str) -> int:
    """Which revision a name means: 2 for 'shop.r2', 1 for 'shop'."""
    match = REVISION.search(name)
    return int(match.group(1)) if match else 1


def known(settings: Settings, problem: str) -> list[str]:
    """The revisions that have a statement or a product, the first first."""
    stated = {path.stem for path in settings.problems.glob(f"{problem}*.yaml")}
    ran = {path.name for path in (settings.state / "products").glob(f"{problem}*") if _has_run(path)}
    return sorted((name for name in stated | ran if problem_of(name) == problem), key=number_of)


def current(settings: Settings, problem: str) -> str:
    """The revision that a problem's name means: 'shop.r2' for 'shop' once that is deployed."""
    products = settings.state / "products"
    stated = [name for name in known(settings, problem) if (settings.problems / f"{name}.yaml").is_file()]
    for has in (lambda name: (products / name / "deployment.json").is_file(), lambda name: _has_run(products / name)):
        if there := [name for name in stated if has(name)]:
            return there[-1]
    return problem


def meant(settings: Settings, name: str) -> str:
    """The statement that a typed name means: 'shop' is its current revision, 'shop.r1' the first; a path stays as it is."""
    if name.endswith((".yaml", ".yml")):
        return name
    if REVISION.search(name):
        return problem_of(name) if number_of(name) == 1 else name
    return current(settings, name)


def of_model(rows: Iterable[Any]) -> dict[str, int]:
    """The revision that each model was judged by, from the rows of the ledger: a gate writes it down."""
    return {
        row.model: int(row.details["revision"])
        for row in rows
        if row.kind == "gate" and row.model and row.details.get("revision")
    }


def _has_run(folder: Path) -> bool:
    return "@" not in folder.name and any(folder.glob("*.json"))
