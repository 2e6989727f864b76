"""Two copies of a project on one Postgres ledger: one run at a time, and a killed holder frees the lock."""

import os
import signal
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from mlloop.core import settings
from mlloop.core.errors import LedgerError, ProjectBusy
from mlloop.pipeline import runner


@pytest.fixture
def copies(tmp_path, postgres):
    """The settings of two copies of a project, as two machines have them, with one ledger in a schema of its own."""
    schema = f"lock_{os.getpid()}_{time.time_ns()}"
    engine = sa.create_engine(sa.make_url(postgres).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    found = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        url = f"{postgres}?options=-csearch_path%3D{schema}"
        (tmp_path / name / "settings.ini").write_text(f"[ledger]\nurl = {url}\n", encoding="utf-8")
        (tmp_path / name / "pipeline.yaml").write_text("tasks: []\n", encoding="utf-8")
        found.append(settings.load(tmp_path / name))
    yield found
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")


def test_a_run_elsewhere_is_named_and_its_end_frees_the_project(copies):
    here, there = copies
    with (
        runner.hold(here, "mlloop run --problem loan"),
        pytest.raises(ProjectBusy, match=f"process {os.getpid()}: mlloop run --problem loan"),
        runner.hold(there, "mlloop tick", patience_s=0.2),
    ):
        pass
    with runner.hold(there, "mlloop tick", patience_s=0.2):
        pass


def test_a_killed_holder_frees_the_project(copies):
    here, there = copies
    code = (
        "import sys, time\nfrom mlloop.core import settings\nfrom mlloop.pipeline import runner\n"
        "with runner.hold(settings.load(sys.argv[1]), 'mlloop loop'):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(here.root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with (
        pytest.raises(ProjectBusy, match=f"process {process.pid}: mlloop loop"),
        runner.hold(there, "mlloop run", patience_s=0.2),
    ):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with runner.hold(there, "mlloop run", patience_s=20):
        pass


def test_machines_run_two_problems_side_by_side_and_each_only_once(copies):
    here, there = copies
    with runner.hold(here, "mlloop run", "loan"):
        with runner.hold(there, "mlloop loop", "shop", patience_s=0.2):
            pass
        for problem, named in (("loan", "loan"), (None, "the project")):
            with (
                pytest.raises(ProjectBusy, match=f"another run holds {named}: .*process {os.getpid()}: mlloop run"),
                runner.hold(there, "mlloop tick", problem, patience_s=0.2),
            ):
                pass
    with runner.hold(there, "mlloop maintain", patience_s=0.2):
        pass


def test_other_schemas_are_other_projects(copies, postgres):
    here, _ = copies
    other = settings.Settings(**{**vars(here), "ledger_url": postgres, "state": here.state / "other"})
    with runner.hold(here, "mlloop run"), runner.hold(other, "mlloop run", patience_s=0.2):
        pass


def test_a_database_that_is_away_is_named_and_nothing_stays_held(copies):
    here, _ = copies
    away = settings.Settings(**{**vars(here), "ledger_url": "postgresql://mlloop@127.0.0.1:1/mlloop"})
    with pytest.raises(LedgerError, match="cannot be used"), runner.hold(away, "mlloop run"):
        pass
    with runner.hold(here, "mlloop run", patience_s=0.2):
        pass
