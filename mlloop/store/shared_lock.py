"""The project's lock in the database of its ledger: machines that share a ledger run one at a time.

It is an advisory lock of Postgres. The database frees it when the connection that holds it ends, so a holder that is
killed, or whose machine is gone, holds it no longer.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator

import sqlalchemy as sa

from mlloop.core.errors import ProjectBusy
from mlloop.core.settings import Settings
from mlloop.store.ledger import Ledger

SPACE = 0x6D6C6F70  # the first of the lock's two keys; the second is the schema in which the ledger lies
SECOND = "hashtext(current_schema())"
# a machine that is gone without a word is noticed within about a minute
KEEPALIVES = ("tcp_keepalives_idle = 30", "tcp_keepalives_interval = 10", "tcp_keepalives_count = 3")
NAME_CHARS = 63  # that Postgres keeps of an application's name


@contextlib.contextmanager
def hold(settings: Settings, command: str, patience_s: float = 3.0) -> Iterator[None]:
    """Hold the project on all machines that share its ledger in Postgres.

    Raises
    ------
    ProjectBusy
        A run on another machine, or in another copy of the project, holds it; names it.
    LedgerError
        The database cannot be reached.
    """
    ledger = Ledger(settings.ledger_url)
    name = f"{socket.gethostname()[:20]} process {os.getpid()}: {command}"[:NAME_CHARS]
    with contextlib.ExitStack() as stack:
        with ledger.speaking():
            connection = ledger.connection(name)
            stack.callback(_free, connection)
            for setting in KEEPALIVES:
                connection.exec_driver_sql(f"SET {setting}")
            _take(connection, ledger.where, patience_s)
        yield


def _take(connection: sa.Connection, where: str, patience_s: float) -> None:
    until = time.monotonic() + patience_s
    while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({SPACE}, {SECOND})").scalar():
        if time.monotonic() > until:
            raise ProjectBusy(
                f"another run holds the project: {_holder(connection)}",
                where,
                "Wait for it, or stop it, then run again",
            )
        time.sleep(0.1)


def _holder(connection: sa.Connection) -> str:
    """Who holds the lock, as it named itself."""
    row = connection.exec_driver_sql(
        f"""SELECT a.application_name, host(a.client_addr), a.backend_start
            FROM pg_locks l JOIN pg_stat_activity a USING (pid)
            WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {SPACE}
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND l.objid = ({SECOND}::bigint & 4294967295)::oid"""
    ).first()
    if row is None:
        return "it has just ended"
    name, address, since = row
    return f"{name or 'a process without a name'} ({address or 'this machine'}, since {since:%Y-%m-%dT%H:%M:%S})"


def _free(connection: sa.Connection) -> None:
    """End the connection, and with it the lock; a database that is gone has freed it already."""
    with contextlib.suppress(sa.exc.SQLAlchemyError):
        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({SPACE}, {SECOND})")
    with contextlib.suppress(sa.exc.SQLAlchemyError):
        connection.close()
