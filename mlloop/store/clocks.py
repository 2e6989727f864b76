"""The two clocks of a decision: the moment at which it was taken, and the moment at which its data stood."""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

from mlloop.store.entries import Row


def in_the_data(rows: Sequence[Row]) -> dict[int, dt.datetime | None]:
    """Row's number -> the moment in the data at which it was decided, for the rows of one problem in order.

    A row that names none, such as a person's, stands where the data stood: at the moment of the row before it. The first ones
    stand where the first monitored period begins; None where no row names a moment. The gate of a run stands where the run's
    data ended, and no earlier than the row before it: a run of older data does not turn back what was decided since.
    """
    now = next((_stated(row.details.get("from")) or _of(row) for row in rows if _of(row)), None)
    moments = {}
    for row in rows:
        own = _of(row)
        now = max(own, now) if own and now and row.kind == "gate" else own or now
        moments[row.id] = now
    return moments


def _of(row: Row) -> dt.datetime | None:
    named = row.details.get("as_of") or (row.details.get("since") if row.kind == "canary" else None)
    if row.kind == "gate" and "@" in str(
        row.details.get("products") or ""
    ):  # of a retraining, which stands at a moment
        named = (row.details.get("parameters") or {}).get("as_of")
    return _stated(named)


def _stated(text: Any) -> dt.datetime | None:
    try:
        return dt.datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


class Until:
    """The rows of a problem up to a moment in the data, as `champions` reads them."""

    def __init__(self, rows: Sequence[Row], moment: dt.datetime, where: str = ""):
        when = in_the_data(rows)
        self.rows = [row for row in rows if (at := when[row.id]) is not None and at <= moment]
        self.where = where

    def select(
        self, *, kind: str | Iterable[str] | None = None, at: dt.datetime | None = None, **equal: str | None
    ) -> list[Row]:
        """Such rows, in the order they were written; `equal`: problem, subject, model."""
        kinds = {kind} if isinstance(kind, str) else kind
        return [
            row
            for row in self.rows
            if (kinds is None or row.kind in kinds)
            and (at is None or row.at <= at)
            and all(value in (None, getattr(row, name)) for name, value in equal.items())
        ]

    def last(self, **conditions: Any) -> Row | None:
        """The latest such row."""
        return next(reversed(self.select(**conditions)), None)
