"""Now, in one place: UTC without a zone, as the ledger and the data's times are."""

import datetime as dt


def now() -> dt.datetime:
    """The machine's time in UTC, without a zone."""
    return in_utc().replace(tzinfo=None)


def in_utc() -> dt.datetime:
    """The same with its zone, for times that leave the project."""
    return dt.datetime.now(dt.UTC)
