"""The locks of a project and its problems in the database of its ledger: of the machines that share it, one runs a problem.

They are advisory locks of Postgres. Runs of problems share that of the project, and each holds its problem's own. The
database frees a lock when the connection that holds it ends, so a holder that is killed, or whose machine is gone, holds
it no longer.
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

PROJECT, PROBLEM = 0x6D6C6F70, 0x6D6C6F71  # the first of a lock's two keys; the second is below
SECOND = "hashtext(current_schema() || :problem)"  # the schema in which the ledger lies; of a problem also /NAME
# a machine that is gone without a word is noticed within about a minute
KEEPALIVES = ("tcp_keepalives_idle = 30", "tcp_keepalives_interval = 10", "tcp_keepalives_count = 3")
NAME_CHARS = 63  # that Postgres keeps of an application's name


@contextlib.contextmanager
def hold(settings: Settings, command: str, problem: str | None = None, patience_s: float = 3.0) -> Iterator[None]:
    """Hold a problem, or the whole project, on all machines that share its ledger in Postgres.

    Parameters
    ----------
    problem : str, optional
        None: the whole project.

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
            _take(connection, ledger.where, PROJECT, "", patience_s, is_shared=problem is not None)
            if problem:
                _take(connection, ledger.where, PROBLEM, f"/{problem}", patience_s)
        yield


def _take(
    connection: sa.Connection, where: str, space: int, problem: str, patience_s: float, is_shared: bool = False
) -> None:
    until, kind = time.monotonic() + patience_s, "_shared" if is_shared else ""
    ask = sa.text(f"SELECT pg_try_advisory_lock{kind}({space}, {SECOND})")
    while not connection.execute(ask, {"problem": problem}).scalar():
        if time.monotonic() > until:
            raise ProjectBusy(
                f"another run holds {problem[1:] or 'the project'}: {_holder(connection, space, problem)}",
                where,
                "Wait for it, or stop it, then run again",
            )
        time.sleep(0.1)


def _holder(connection: sa.Connection, space: int, problem: str) -> str:
    """Who holds the lock, as it named itself."""
    row = connection.execute(
        sa.text(
            f"""SELECT a.application_name, host(a.client_addr), a.backend_start
            FROM pg_locks l JOIN pg_stat_activity a USING (pid)
            WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {space}
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND l.objid = (({SECOND})::bigint & 4294967295)::oid"""
        ),
        {"problem": problem},
    ).first()
    if row is None:
        return "it has just ended"
    name, address, since = row
    return f"{name or 'a process without a name'} ({address or 'this machine'}, since {since:%Y-%m-%dT%H:%M:%S})"


def _free(connection: sa.Connection) -> None:
    """End the connection, and with it the locks; a database that is gone has freed them already."""
    with contextlib.suppress(sa.exc.SQLAlchemyError):
        connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")
    with contextlib.suppress(sa.exc.SQLAlchemyError):
        connection.close()
