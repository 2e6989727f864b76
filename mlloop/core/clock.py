"""Now, in one place: UTC without a zone, as the ledger and the data's times are."""

import datetime as dt


def now() -> dt.datetime:
    """The machine's time in UTC, without a zone."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
