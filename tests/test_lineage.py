"""What the page of lineage says that each table and model was made from."""

from types import SimpleNamespace

from mlloop import products
from mlloop.pages import lineage


def table(name: str, version: int = 0) -> products.Table:
    digest = f"{version}{name}".ljust(12, "0")
    return products.Table(name=f"visits/{name}", version=version, rows=10, digest=digest, uri=f"visits/{name}")


def stages(rows: int = 0, judged: int = 1) -> list[SimpleNamespace]:
    """Stages of a problem of one table that no cleaning rule changed, so that the transformation passes it on as it is.

    Parameters
    ----------
    rows : int
        The version of the table now; the features are of version 0.
    judged : int
        How many models of the recipe were judged before it was fitted to everything; 0: the released one itself.
    """
    made = lambda kind, **facts: kind.model_construct(**facts)
    model = products.Model.model_construct(name="linear", form="skops", digest="m" * 12, registered=None)
    one = products.Judged(path="", digest="j" * 12, form="skops", rows=10)
    now, then = {"rows": table("rows", rows)}, {"rows": table("rows")}
    return [
        SimpleNamespace(name=name, product=product)
        for name, product in {
            "collection": made(products.Collection, batches={"rows": []}),
            "ingestion": made(products.Ingestion, tables=now),
            "transformation": made(products.Transformation, tables=now),
            "features": made(
                products.Features, tables={**then, "train": table("train"), "holdout": table("holdout")}
            ),
            "training": made(
                products.Training,
                model=model,
                judged=[one] * judged,
                trained=products.LearntFrom(rows=20 if judged else 10),
            ),
            "evaluation": made(
                products.Evaluation,
                tables={"predictions": table("predictions")},
                reference=products.Reference(),
            ),
        }.items()
    ]  # fmt: skip


def parents(*arguments: int) -> dict[str, set[str]]:
    """Name -> names of what it was made from."""
    pieces = lineage.of_stages(stages(*arguments))
    named = {piece.key: piece.name for piece in pieces}
    return {piece.name: {named[key] for key in piece.parents} for piece in pieces}


def test_features_are_made_from_the_table_that_the_transformation_passed_on_unchanged():
    made = parents()
    assert made["visits/rows"] == {"source rows"}
    assert made["visits/train"] == made["visits/holdout"] == {"visits/rows"}


def test_a_model_that_was_fitted_to_everything_is_made_from_the_holdout_too_and_the_judged_one_is_not():
    made = parents()
    assert made["linear"] == {"visits/train", "visits/holdout"}
    assert made["judged linear"] == {"visits/train"}
    assert made["visits/predictions"] == {"judged linear", "visits/holdout"}


def test_a_model_that_was_judged_itself_is_not_made_from_the_holdout():
    made = parents(0, 0)
    assert made["linear"] == {"visits/train"}
    assert made["visits/predictions"] == {"linear", "visits/holdout"}


def test_features_of_an_earlier_run_are_not_made_from_the_table_as_it_is_now():
    pieces = lineage.of_stages(stages(rows=3))
    train = next(piece for piece in pieces if piece.name == "visits/train")
    used = [piece.version for piece in pieces if piece.key in train.parents]
    assert used == ["version 0, 10 rows"]
