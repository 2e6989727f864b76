"""Now, and times as numbers, in one place: UTC without a zone, as the ledger and the data's times are."""

import datetime as dt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def now() -> dt.datetime:
    """The machine's time in UTC, without a zone."""
    return in_utc().replace(tzinfo=None)


def in_utc() -> dt.datetime:
    """The same with its zone, for times that leave the project."""
    return dt.datetime.now(dt.UTC)


def days_since_1970(times: "pd.Series") -> "pd.Series":
    """Times as days since 1970 in UTC, whatever their zone and their unit in memory; missing where there is none."""
    import pandas as pd

    return (pd.to_datetime(times, utc=True) - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)
