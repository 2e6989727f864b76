"""What `mlloop maintain` removes and keeps, and that a backup brings the ledger back."""

import datetime as dt
import json

import pandas as pd
import pytest
from production import LOAN

import mlloop
from mlloop import ingestion
from mlloop.core import storage
from mlloop.core.errors import LedgerError, SettingsError, UsageError
from mlloop.loop import maintenance
from mlloop.store import prediction_log
from mlloop.store.entries import Entry
from mlloop.store.lake import Lake

NAME = "loan/loans"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "settings.ini").write_text("[maintain]\nfiles = 3\nversions_days = 0\n", encoding="utf-8")
    (tmp_path / "pipeline.yaml").write_text("tasks: []\n", encoding="utf-8")
    (tmp_path / "problems").mkdir()
    (tmp_path / "problems" / "loan.yaml").write_text(LOAN.replace("{root}", str(tmp_path)), encoding="utf-8")
    return mlloop.open(tmp_path)


def grown(lake: Lake, versions: int = 6):
    """A table of so many versions, a file each; the references of all of them."""
    return [
        lake.write(
            NAME, pd.DataFrame({"a": [n, n + 1]}), "append", batches=[f"b{n}"],
            notes={"state": f"s{n}", "cut_at": None, "latest": None},
        )
        for n in range(versions)
    ]  # fmt: skip


def cite(project, ref, name: str) -> None:
    storage.write_json(project.settings.state / "objects" / f"{name}.json", {"tables": {"rows": ref.to_dict()}})


def readable(lake: Lake, versions) -> list[int]:
    return [version for version in versions if lake.is_whole(NAME, version)]


def test_compaction_keeps_digest_notes_and_batches_and_the_next_rows_follow(project):
    *_, before = grown(project.lake)
    (done,) = project.maintain()
    after = project.lake.ref(NAME)
    assert done.compacted == {NAME: 5} and project.lake.files(NAME) == 1
    assert (after.digest, after.rows) == (before.digest, before.rows)
    assert project.lake.history(NAME, 1)[0]["notes"]["state"] == "s5" and project.lake.has_batch(NAME, "b3")
    project.lake.write(NAME, pd.DataFrame({"a": [9]}), "append", batches=["b6"])
    assert project.lake.read(NAME).count().execute() == 13
    assert project.maintain()[0].compacted == {}, "the second time there is nothing to do"


def test_what_something_cites_stays_and_the_rest_goes(project):
    refs = grown(project.lake)
    cite(project, refs[2], "product")
    project.ledger.append(Entry("revision", "loan", details={"table": refs[1].to_dict()}, key="r"))
    (done,) = project.maintain()
    assert readable(project.lake, range(6)) == [0, 1, 2], "the files of version 0 are files of 1 and 2"
    assert project.lake.read(refs[2]).count().execute() == 6
    assert done.removed == {NAME: 3} and done.freed_bytes > 0


def test_a_dry_run_changes_nothing(project):
    grown(project.lake)
    project.lake.write(NAME, pd.DataFrame({"a": [0]}))
    project.lake.restore(NAME, 5)
    files = sorted((project.settings.state / "lake").rglob("*"))
    (done,) = project.maintain(dry_run=True)
    assert (
        done.compacted == {NAME: 5}
        and done.removed == {NAME: 1}
        and sorted((project.settings.state / "lake").rglob("*")) == files
    )


def test_versions_stay_for_as_long_as_the_settings_say(project, monkeypatch):
    monkeypatch.setenv("MLLOOP_MAINTAIN_VERSIONS_DAYS", "30")
    grown(project.lake)
    (done,) = mlloop.open(project.root).maintain()
    assert done.removed == {} and readable(project.lake, range(6)) == [0, 1, 2, 3, 4, 5]


def test_ingestion_does_not_go_back_to_a_version_whose_files_are_gone(project):
    grown(project.lake)
    now = dt.datetime(2026, 1, 1)
    found = lambda: ingestion.latest_matching_version(project.lake, NAME, ["", "s0", "s1"], now)[:2]
    assert found() == (2, 1)
    project.maintain()
    assert found() == (0, -1)


def test_predictions_past_their_retention_go_but_none_that_the_loop_still_reads(project, monkeypatch):
    monkeypatch.setenv("MLLOOP_MAINTAIN_PREDICTIONS_DAYS", "1")
    folder = prediction_log.folder_of(project.settings, "loan")
    for month in (1, 6, 12):
        log = prediction_log.Log(folder)
        log.append([{"id": f"p{month}", "at": f"2025-{month:02}-01T00:00:00", "problem": "loan", "row": {}}])
        log.close()
    prediction_log.seal(folder)
    changed = mlloop.open(project.root)
    statement = changed.statement("loan")
    least = statement.retrain.every_days * max(statement.retrain.n, maintenance.NEWEST_PERIODS)
    (done,) = changed.maintain()
    assert done.predictions_since is not None
    assert done.predictions_since <= dt.datetime(2025, 12, 1) - dt.timedelta(days=least)
    kept = list(prediction_log.read(folder)["id"])
    assert kept[-1] == "p12" and "p1" not in kept and done.segments == 3 - len(kept)


def test_a_lost_ledger_comes_back_from_a_backup(project, tmp_path):
    for n in range(3):
        project.ledger.append(Entry("revision", "loan", details={"n": n}, key=str(n)))
    head = project.back_up(tmp_path / "backup")
    project.ledger.append(Entry("revision", "loan", key="later"))
    newer = project.back_up(tmp_path / "backup")
    assert newer.id == head.id + 1 and json.loads((tmp_path / "backup" / "backup.json").read_text())["row"] == newer.id
    (project.settings.state / "ledger.db").unlink()
    again = mlloop.open(project.root)
    assert again.restore(tmp_path / "backup") == newer
    assert [row.key for row in mlloop.open(project.root).ledger.rows()] == ["0", "1", "2", "later"]


def test_a_backup_does_not_overwrite_another_ledger(project, tmp_path):
    project.ledger.append(Entry("revision", "loan", key="ours"))
    project.back_up(tmp_path / "backup")
    (project.settings.state / "ledger.db").unlink()
    (project.settings.state / "ledger-verified.json").unlink(missing_ok=True)
    again = mlloop.open(project.root)
    again.ledger.append(Entry("revision", "loan", key="another"))
    with pytest.raises(LedgerError, match="holds another ledger"):
        again.restore(tmp_path / "backup")


def test_a_folder_without_a_backup_is_named(project, tmp_path):
    with pytest.raises(UsageError, match="there is no backup"):
        project.restore(tmp_path / "nowhere")


def test_days_that_are_no_number_are_refused(project, monkeypatch):
    monkeypatch.setenv("MLLOOP_MAINTAIN_VERSIONS_DAYS", "month")
    with pytest.raises(SettingsError, match="expected a number"):
        mlloop.open(project.root)
