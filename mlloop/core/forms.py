"""The version of each stage's product, apart from the models in `mlloop.products`, so that freshness is told without them.

A product of another version, or of none, is of an older form: its stage is stale and makes it again. What cannot be made
again, since the ledger cites it by its digest or since its moment has passed (an evaluation that a gate judged, the
monitoring of a past period), is brought to the present form by a step written for that version.
"""

from collections.abc import Callable
from typing import Any

from mlloop.core.records import JsonObject

VERSIONS = {
    "problem": 1, "collection": 1, "ingestion": 1, "transformation": 1, "analysis": 1, "visualization": 1, "need_gate": 1,
    "features": 1, "exploration": 1, "building": 1, "training": 1, "evaluation": 1, "validation_gate": 1, "deployment": 1,
    "monitoring": 1, "retraining": 1,
}  # fmt: skip
OWN = 1  # of a stage that a project adds itself

# version -> what brings a product of a stage of that version to the next; no version came before 1 and had the same fields
STEPS: dict[int | None, Callable[[JsonObject], JsonObject]] = {None: lambda content: {**content, "version": 1}}


def version_of(stage: str) -> int:
    """The version that products of a stage have now."""
    return VERSIONS.get(stage, OWN)


def older_form(content: Any) -> str:
    """Why a product is not of the present form; '' where it is."""
    if not isinstance(content, dict) or not isinstance(content.get("stage"), str):
        return "the product names no stage"
    now, stated = version_of(content["stage"]), content.get("version")
    if stated == now and not isinstance(stated, bool):
        return ""
    return f"the product is of an older form: version {stated!r}, mlloop now writes {now}"


def brought_up(content: Any) -> Any:
    """A product that cannot be made again, in the present form; as it is where no step is written for its version."""
    while isinstance(content, dict) and "stage" in content and older_form(content):
        step = next((step for version, step in STEPS.items() if version == content.get("version")), None)
        if step is None:
            break
        content = step(content)
    return content
