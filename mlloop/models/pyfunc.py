"""A registered model as `mlflow.pyfunc` and `mlflow models serve` open it: predictions as mlloop makes them, from files without pickle."""

from pathlib import Path
from typing import Any

import pandas as pd

from mlloop.core.records import Parameters
from mlloop.models import candidates

K = 10


class Model:
    """A model that was read from its files.

    Parameters
    ----------
    model
        An estimator, or a recommender.
    """

    def __init__(self, model: Any):
        self.model = model

    def predict(self, rows: pd.DataFrame, params: Parameters | None = None):
        """Scores of the positive class, or numbers, (n_rows,); of a recommender the items for each 'user', best first.

        Parameters
        ----------
        rows : DataFrame
            The columns of the model's signature.
        params : dict, optional
            'k': how many items; default 10.
        """
        if not hasattr(self.model, "recommend"):
            return (
                self.model.predict_proba(rows)[:, 1]
                if hasattr(self.model, "predict_proba")
                else self.model.predict(rows)
            )
        lists = self.model.recommend(rows["user"], int((params or {}).get("k", K)))
        return pd.DataFrame(
            lists, columns=[f"item_{position}" for position in range(1, lists.shape[1] + 1)], index=rows.index
        )


def _load_pyfunc(path: str) -> Model:
    """What MLflow calls with the path of the model's files."""
    return Model(candidates.load(Path(path)))
