"""The model in production, for Python: it predicts on a DataFrame with the code that answers requests."""

import datetime as dt
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from mlloop import serving
from mlloop.core import metric_table, storage
from mlloop.core.errors import DataError, UsageError
from mlloop.core.records import JsonObject
from mlloop.core.settings import Settings
from mlloop.pages import html_table, wording
from mlloop.release.releases import Release, rows_of
from mlloop.store.entries import Row
from mlloop.store.ledger import Ledger

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 3


class Champion:
    """The model in production for one problem, loaded from its release.

    Attributes
    ----------
    problem : str
    model : str
        SHA-256 of the trained model, hexadecimal; what `mlloop log` shows the beginning of.
    since : datetime
        When it became champion, UTC without a zone.
    kind : str
        'classification', 'regression' or 'recommendation'.
    release : Release
        The files in production: their digest, their form ('onnx', 'skops', 'safetensors') and the fields of a request.

    Examples
    --------
    >>> champion = project.champion("loan")
    >>> champion.kind
    'classification'
    >>> champion.columns
    ['amount', 'age', 'town', 'job']
    """

    def __init__(self, settings: Settings, ledger: Ledger, row: Row, release: Release):
        self.problem, self.model, self.since = row.problem, str(row.model), row.at
        self.release, self.kind = release, release.kind
        self._settings, self._ledger = settings, ledger

    @property
    def columns(self) -> list[str]:
        """The columns that `predict` reads; for a recommender what `recommend` may be told of a user."""
        if self.kind == "recommendation":
            return ["user", "k", "exclude"]
        return [field.name for field in self.release.fields if not field.derived]

    @property
    def name(self) -> str | None:
        """The candidate it was made of, such as 'lightgbm'; None where its training is no longer kept."""
        return self._trained.get("name")

    @property
    def version(self) -> int | None:
        """Its version in the model registry; None where it was not registered.

        Examples
        --------
        >>> project.champion("loan").version is None     # this example was not registered
        True
        """
        return (self._trained.get("registered") or {}).get("version")

    @cached_property
    def _trained(self) -> JsonObject:
        """What the stage `training` said of the model."""
        gate = self._ledger.last(problem=self.problem, kind="gate", subject="validation", model=self.model)
        kept = gate.digests.get("stage training") if gate else None
        for path in (
            self._settings.state / "objects" / f"{kept}.json",
            self._settings.state / "products" / self.problem / "training.json",
        ):
            model = storage.read_json(path).get("model") if path.exists() else None
            if isinstance(model, dict) and model.get("digest") == self.model:
                return model
        return {}

    def predict(self, rows: "pd.DataFrame", errors: Literal["raise", "coerce"] = "raise") -> "pd.DataFrame":
        """The score and the prediction of each row, on the index of `rows`.

        Nothing is written to the prediction log; `Project.predict` does that.

        Parameters
        ----------
        rows : DataFrame (n_rows, n_columns)
            The fields of a request as columns, see `columns`; others are left alone.
        errors : {'raise', 'coerce'}
            What becomes of rows that break the request's contract: an error, or a missing prediction.

        Returns
        -------
        DataFrame (n_rows, 2)
            score (probability of the positive class, of the predicted class where there are more than two, or the
            number) and prediction.

        Raises
        ------
        DataError
            A column is missing, or a row breaks the contract.
        UsageError
            The champion is a recommender.
        ModelError
            A prediction is not a number.

        Examples
        --------
        >>> project.champion("loan").predict(rows).round(2)
              score  prediction
        L0-0   0.35           0
        L0-1   0.96           1
        L0-2   0.96           1
        """
        self._must("predict", self.kind != "recommendation", "recommend")
        answered, refused = serving.score_table(serving.Pair(self.release), rows)
        if len(refused) and errors == "raise":
            raise _refused(self.problem, [(at, why) for at, why in refused.itertuples(index=False)], len(rows))
        return answered[["score", "prediction"]].reindex(range(len(rows))).set_axis(rows.index)

    def features(self, rows: "pd.DataFrame") -> "pd.DataFrame":
        """The columns the model sees, computed from the fields of a request, on the index of `rows`.

        Parameters
        ----------
        rows : DataFrame (n_rows, n_columns)
            As for `predict`.

        Raises
        ------
        DataError
            A column is missing, or a row breaks the contract.
        UsageError
            The champion is a recommender, whose features belong to users and items rather than to requests.
        """
        import pandas as pd
        from pydantic import ValidationError

        self._must("features", self.kind != "recommendation", "recommend")
        serving.score_table(serving.Pair(self.release), rows.iloc[:0])  # raises where a column is missing
        rows = serving.with_joined_fields(self.release, rows)
        check, checked, wrong = serving.checker(self.release), [], []
        for at, row in enumerate(rows_of(rows, [field for field in self.release.fields if not field.derived])):
            try:
                checked.append(check.validate_python(row))
            except ValidationError as error:
                wrong.append((at, _request_mistakes(error)))
        if wrong:
            raise _refused(self.problem, wrong, len(rows))
        return pd.DataFrame(self.release.columns(checked), index=rows.index)  # type: ignore[attr-defined]

    def recommend(
        self, users: Sequence[str] | str, k: int | None = None, exclude: Iterable[str] | None = None
    ) -> "pd.DataFrame":
        """The items to show to each user, best first.

        Parameters
        ----------
        users : sequence of str, or str
            A user nobody knows is shown what is popular.
        k : int, optional
            How many items; default: the statement's k.
        exclude : iterable of str, optional
            Items not to show to any of them.

        Returns
        -------
        DataFrame (up to n_users * k, 3)
            user, rank (from 1) and item.

        Raises
        ------
        UsageError
            The champion is no recommender.
        DataError
            A user, `k` or `exclude` breaks the request's contract.

        Examples
        --------
        >>> project.champion("shop").recommend(["u3", "u7"], k=2)
          user  rank item
        0   u3     1  i00
        1   u3     2  i01
        2   u7     1  i10
        3   u7     2  i11
        """
        import pandas as pd
        from pydantic import ValidationError

        self._must("recommend", self.kind == "recommendation", "predict")
        terms = {"k": k, "exclude": None if exclude is None else list(exclude)}
        check = serving.checker(self.release)
        requests = [{"user": user, **terms} for user in ([users] if isinstance(users, str) else users)]
        try:
            rows = [check.validate_python(row) for row in requests]
        except ValidationError as error:
            raise DataError(
                _request_mistakes(error), self.problem, "Example: champion.recommend(['C00001'], k=5)"
            ) from error
        shown = serving.answer(serving.Pair(self.release), rows)[0] if rows else []
        lines = [
            (row["user"], rank, item)
            for row, answer in zip(rows, shown, strict=True)
            for rank, item in enumerate(answer["items"], 1)
        ]
        return pd.DataFrame(lines, columns=["user", "rank", "item"])

    def _must(self, verb: str, holds: bool, instead: str) -> None:
        if not holds:
            raise UsageError(
                f"the champion of {self.problem!r} is made for {self.kind} and cannot {verb}",
                f"model {self.model[:12]}",
                f"Example: project.champion({self.problem!r}).{instead}(...)",
            )

    @property
    def _shown(self) -> dict[str, str | int | None]:
        return {
            "model": f"{self.model[:12]}{f' ({self.name})' if self.name else ''}",
            "version": self.version,
            "since (UTC)": wording.moment(self.since),
            "kind": self.kind,
            "form": self.release.form,
            "decision": metric_table.threshold_in_words(**self.release.threshold) if self.release.threshold else None,
            "reads": ", ".join(self.columns),
        }

    def __repr__(self) -> str:
        since = dt.datetime.strftime(self.since, "%Y-%m-%d %H:%M")
        return f"Champion({self.problem!r}, {self.model[:12]}, {self.kind}, since {since} UTC)"

    def _repr_html_(self) -> str:
        facts = [(name, value) for name, value in self._shown.items() if value not in (None, "")]
        return html_table.table(f"Champion of {self.problem}", ["", ""], facts)


def _request_mistakes(error: Any) -> str:
    return "; ".join(
        f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}" for mistake in serving.request_errors(error)
    )


def _refused(problem: str, wrong: list[tuple[int, str]], rows: int) -> DataError:
    first = "; ".join(f"row {at}: {why}" for at, why in wrong[:SHOWN])
    more = f"; {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
    return DataError(
        f"{len(wrong):,} of {rows:,} rows break the request's contract: {first}{more}",
        problem,
        "Correct them, or leave their predictions empty: predict(rows, errors='coerce')",
    )
