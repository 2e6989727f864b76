"""Rows, predictions and decisions are for their owner alone, whatever the umask; pages are for who may see the project."""

import os
import stat
from pathlib import Path

import pytest

from mlloop.core import settings, storage
from mlloop.project import Project
from mlloop.store import prediction_log
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger


@pytest.fixture
def open_to_all():
    """A process whose files everybody may read and write."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_ones(folder: Path) -> list[str]:
    """What others may read, write or enter."""
    found = [path for path in [folder, *folder.rglob("*")] if not path.is_symlink()]
    return [str(path) for path in found if stat.S_IMODE(path.lstat().st_mode) & 0o077]


def test_what_a_run_leaves_is_for_its_owner_alone_and_pages_are_not(project, open_to_all):
    project.run()
    assert project.mlloop("report").returncode == 0
    assert len(list((project.root / ".mlloop").rglob("*"))) > 10 and open_ones(project.root / ".mlloop") == []
    assert stat.S_IMODE((project.root / "reports/index.html").stat().st_mode) & 0o044 == 0o044


def test_a_ledger_and_a_prediction_log_are_made_for_their_owner_alone(tmp_path, open_to_all):
    ledger = Ledger(f"sqlite:///{tmp_path}/state/ledger.db", memory=tmp_path / "state" / "verified.json")
    ledger.append(Entry("gate", "shop", "need", "yes"))
    assert stat.S_IMODE((tmp_path / "state/ledger.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    log = prediction_log.Log(tmp_path / "log", segment_bytes=4096)
    log.append([{"id": "1", "at": "2025-01-01", "row": {"name": "Ann"}}])
    log.close()
    assert prediction_log.seal(tmp_path / "log") == 1
    assert [path.suffix for path in (tmp_path / "log").iterdir()] == [".parquet"] and open_ones(tmp_path / "log") == []


def test_what_lies_open_is_closed_with_the_next_command_and_links_are_not_followed(project, tmp_path):
    state = project.root / ".mlloop"
    (state / "predictions" / "loan").mkdir(parents=True)
    (state / "predictions" / "loan" / "a.parquet").write_text("rows")
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (state / "link").symlink_to(tmp_path / "elsewhere")
    for path in (state, *state.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o777)
    assert len(open_ones(state)) == 4
    Project(project.root)
    assert open_ones(state) == []
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o755


def test_a_lake_beside_the_state_is_private_too(project):
    project.write("settings.ini", "[lake]\nuri = rows\n[tracking]\nartifacts = s3://bucket/artifacts\n")
    places = settings.load(project.root).private
    assert places == [project.root / ".mlloop", project.root / "rows"]
    assert storage.tighten(*places) == 0  # neither is there
