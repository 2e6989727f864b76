"""One person's rows are erased everywhere, once, whatever is interrupted; decisions stay, and nothing is called damaged."""

import gzip
import json
import subprocess
import sys

import forked
import pandas as pd
import pyarrow as pa
import pytest
from production import LOAN, loans

import mlloop
from mlloop.core import storage
from mlloop.core.errors import UsageError
from mlloop.ingestion import RawFile
from mlloop.loop import erasure
from mlloop.pipeline import plan as plans
from mlloop.pipeline.freshness import Freshness
from mlloop.problem import Source
from mlloop.store import erasing, objects, prediction_log
from mlloop.store import lake as lakes
from mlloop.store.erasing import Person

HER, NAME = "L0-7", "loan/loans"
WHO = Person(("id",), HER)


@pytest.fixture
def project(tmp_path):
    """A table of three versions (two appended, one compacted), a raw copy, a source, a log, an evaluation with examples."""
    (tmp_path / "settings.ini").write_text("[maintain]\nfiles = 1\n", encoding="utf-8")
    (tmp_path / "pipeline.yaml").write_text("tasks: []\n", encoding="utf-8")
    (tmp_path / "problems").mkdir()
    (tmp_path / "problems" / "loan.yaml").write_text(LOAN.replace("{root}", str(tmp_path)), encoding="utf-8")
    project, rows = mlloop.open(tmp_path), loans(60)
    rows.to_csv(tmp_path / "loans.csv", index=False)
    from mlloop import collection

    collection.collect(project.statement("loan"), pd.Timestamp("2025-12-01"), project.settings)
    for n in range(2):
        part = rows[30 * n : 30 * n + 30]
        project.lake.write(NAME, part, "append", batches=[f"b{n}"], notes={"state": f"s{n}"})
    project.lake.compact(NAME)
    raw = [json.dumps({"id": HER, "amount": "x"}), json.dumps({"id": "L0-9"}), "no JSON"]
    project.lake.write("loan/loans__rejected", pd.DataFrame({"row": [1, 2, 3], "raw": raw}))
    log = prediction_log.Log(prediction_log.folder_of(project.settings, "loan"))
    for entity in (HER, "L0-8"):
        record = {
            "id": f"p{entity}",
            "at": "2025-01-01T00:00:00",
            "problem": "loan",
            "entity": entity,
            "row": {"amount": 1},
        }
        log.append([record])
    log.close()
    shown = rows.iloc[[6, 7, 8]].drop(columns=["id", "day", "repaid"])
    examples = {"rows": {name: list(shown[name]) for name in shown}, "answers": [0.1, 0.2, 0.3]}
    storage.write_json(project.settings.state / "products/loan/evaluation.json", {"stage": "x", "examples": examples})
    return project


def values(project) -> set[str]:
    """Every id that a version of the table still holds."""
    latest = project.lake.ref(NAME).version
    return {one for n in range(latest + 1) for one in project.lake.read(NAME, n)["id"].execute()}


def test_a_dry_run_counts_and_changes_nothing(project):
    files = {path: storage.digest_file(path) for path in project.root.rglob("*") if path.is_file()}
    (part,) = project.erase("id", HER, dry_run=True)
    assert part.sources == {"loans.csv": 1} and list(part.raw.values()) == [1] and part.predictions == 1
    assert part.tables == {NAME: 2, "loan/loans__rejected": 1} and part.kept == 1
    now = {path: storage.digest_file(path) for path in project.root.rglob("*") if path.is_file()}
    new = {path.name for path in now.keys() ^ files.keys()} | {
        path.name for path in files if now.get(path) != files[path]
    }
    assert new <= {"run.lock", "ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger-verified.json"}


def test_rows_are_erased_from_each_place_and_others_stay(project):
    others = values(project) - {HER}
    project.erase("id", HER)
    assert values(project) == others
    assert project.lake.read("loan/loans__rejected")["row"].execute().tolist() == [2, 3]
    assert list(prediction_log.read(prediction_log.folder_of(project.settings, "loan"))["entity"]) == ["L0-8"]
    kept = json.loads((project.settings.state / "products/loan/evaluation.json").read_text())["examples"]
    assert kept["answers"] == [0.1, 0.3] and len(kept["rows"]["amount"]) == 2
    state = [path for path in project.settings.state.rglob("*") if path.is_file() and path.suffix != ".db"]
    assert not [path for path in [*state, project.root / "loans.csv"] if HER.encode() in path.read_bytes()]
    assert project.erase("id", HER)[0].rows == 0


def test_every_version_stays_readable_with_the_digest_of_what_is_left(project):
    project.erase("id", HER)
    for version in range(project.lake.ref(NAME).version + 1):
        ref, rows = project.lake.ref(NAME, version), project.lake.read(NAME, version).to_pyarrow()
        assert (ref.rows, ref.digest) == (rows.num_rows, lakes.digest(rows))
    assert project.lake.history(NAME, 1)[0]["notes"]["state"] == "s1" and project.lake.has_batch(NAME, "b0")
    project.lake.write(NAME, loans(61)[60:], "append", batches=["b2"])
    ref, rows = project.lake.ref(NAME), project.lake.read(NAME).to_pyarrow()
    assert (ref.rows, ref.digest) == (60, lakes.digest(rows))


def test_the_ledger_says_that_rows_were_erased_and_not_whose(project):
    project.erase("id", HER)
    (row,) = project.ledger.rows(kind="erasure")
    assert row.details["tables"] == {NAME: 2, "loan/loans__rejected": 1} and row.details["predictions"] == 1
    assert row.actor != "policy" and HER not in json.dumps(row.to_dict())
    project.ledger.verify()
    project.erase("id", HER)
    assert len(project.ledger.rows(kind="erasure")) == 1, "nothing was left, so nothing was decided"


@pytest.mark.parametrize("place", ["_from_log", "_from_raw", "_from_sources", "_record"])
def test_what_was_interrupted_is_completed_by_the_next_call_and_counted_whole(project, monkeypatch, place):
    (whole,) = project.erase("id", HER, dry_run=True)
    with monkeypatch.context() as patch:
        there = getattr(erasure, place)
        stopped = lambda *asked: there(*asked) if asked[-1] is True else (_ for _ in ()).throw(KeyboardInterrupt)
        patch.setattr(erasure, place, stopped)
        with pytest.raises(KeyboardInterrupt):
            project.erase("id", HER)
    project.erase("id", HER)
    assert HER not in values(project)
    (row,) = project.ledger.rows(kind="erasure")
    assert {name: row.details[name] for name in ("tables", "predictions", "sources", "kept")} == {
        "tables": whole.tables, "predictions": 1, "sources": {"loans.csv": 1}, "kept": 1,
    }  # fmt: skip
    assert not (project.settings.state / erasure.JOURNAL).exists()


@pytest.mark.parametrize("commit", [0, 1, 2])
def test_a_log_that_was_half_brought_into_line_is_brought_into_line(project, monkeypatch, commit):
    corrected, seen = erasing._note, []

    def killed(text, sums):
        seen.append(sums)
        if len(seen) > commit:
            raise KeyboardInterrupt
        return corrected(text, sums)

    with monkeypatch.context() as patch:
        patch.setattr(erasing, "_note", killed)
        with pytest.raises(KeyboardInterrupt):
            project.erase("id", HER)
    project.erase("id", HER)
    for version in range(project.lake.ref(NAME).version + 1):
        assert project.lake.ref(NAME, version).digest == lakes.digest(project.lake.read(NAME, version).to_pyarrow())


def test_a_product_that_cites_an_erased_file_is_stale_and_not_damaged(project):
    (batch,) = json.loads(next(project.settings.state.glob("raw/loan/loans/manifest.json")).read_text())[
        "batches"
    ].values()
    task = plans.Task(
        "collection", project.root / "x.ipynb", (), {}, {"data": project.settings.state / "p.json"}, False
    )
    fresh = Freshness(project.settings, "loan", lambda task: [])
    cites = {"batches": {"loans": [batch]}}
    assert fresh._damaged(task, cites) == []
    project.erase("id", HER)
    (reason,) = Freshness(project.settings, "loan", lambda task: [])._damaged(task, cites)
    assert reason.startswith("rows of a person were erased from file") and "damaged" not in reason
    path = project.settings.state / "products/loan/evaluation.json"
    before = next(iter(set(objects.erased(project.settings)) - {batch["digest"]}), None)
    assert objects.erased_on(project.settings, before, storage.digest_file(path)), (
        "also a product whose example is gone"
    )


def test_the_next_collection_reads_the_erased_file_as_one_that_is_known(project):
    from mlloop import collection

    project.erase("id", HER)
    (batch,) = collection.collect(project.statement("loan"), pd.Timestamp("2025-12-01"), project.settings)["loans"]
    path = project.settings.state / batch.path
    assert storage.digest_file(path) == batch.digest and batch.rows == 59
    assert len([one for one in path.parent.iterdir() if one.suffix == ".csv"]) == 1


def test_a_source_elsewhere_is_left_alone_and_named(project, tmp_path_factory):
    away = tmp_path_factory.mktemp("away") / "loans.csv"
    loans(60).to_csv(away, index=False)
    file = project.root / "problems" / "loan.yaml"
    file.write_text(file.read_text().replace(str(project.root / "loans.csv"), str(away)), encoding="utf-8")
    before = away.read_bytes()
    (part,) = mlloop.open(project.root).erase("id", HER)
    assert away.read_bytes() == before and any("1 rows: erase them there" in line for line in part.left)


def test_a_segment_that_a_service_writes_is_named(project):
    log = prediction_log.Log(prediction_log.folder_of(project.settings, "loan"))
    log.append([{"id": "new", "at": "2025-01-02T00:00:00", "problem": "loan", "entity": HER, "row": {}}])
    (part,) = project.erase("id", HER)
    assert part.predictions == 1 and any("restart it" in line for line in part.left)
    log.close()
    assert project.erase("id", HER)[0].predictions == 1


def test_a_column_that_no_table_has_is_refused(project):
    with pytest.raises(UsageError, match="Did you mean 'town'"):
        project.erase("towm", "Ely")
    with pytest.raises(UsageError, match="value is empty"):
        project.erase("id", " ")


CASES = {
    "quoted, over two lines": ('id,x\r\n7,"a\nb"\r\n 8 ,"c, 7"\r\n', {}, 'id,x\r\n 8 ,"c, 7"\r\n', "7"),
    "whole numbers as floats": ("id;x\n7.0;1\n70;2\n07;3", {"separator": ";"}, "id;x\n70;2\n", "7"),
    "latin-1, lines above": ("said Zoë\nid,x\nZoë,1\nZo,2\n", {"encoding": "latin-1", "skip": 1}, "said Zoë\nid,x\nZo,2\n", "Zoë"),
    "a mark at the beginning": ("\ufeffid,x\nA,1\nB,2\n", {}, "\ufeffid,x\nB,2\n", "A"),
    "backslashes": ("id,x\nA,b\\,c\nB,A\n", {"quote": "", "escape": "\\"}, "id,x\nB,A\n", "A"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_raw_csv_keeps_every_other_byte(tmp_path, case, packed):
    text, options, expected, value = CASES[case]
    path, target = (tmp_path / f"{name}.csv{'.gz' if packed else ''}" for name in ("raw", "target"))
    opened = gzip.open if packed else open
    encoding = options.get("encoding", "utf-8")
    path.write_bytes(gzip.compress(text.encode(encoding)) if packed else text.encode(encoding))
    raw = RawFile(path, "csv", path.name, Source(kind="files", path="x", **options))
    assert erasure._without(raw, Person(("id",), value), target) > 0
    with opened(target, "rb") as file:
        assert file.read().decode(encoding) == expected


def test_a_value_is_known_again_in_each_type_and_nowhere_else():
    batch = pa.record_batch(
        {
            "id": pa.array([7, 70, None, 7]), "age": pa.array([7.0, 7.5, 1.0, None]), "name": pa.array(["7", " 7 ", "x7", None]),
            "raw": pa.array(['{"id": 7}', '{"id": "70"}', '{"x": "7"}', '{"id": "7.0"}']),
        }
    )  # fmt: skip
    shown = lambda *columns: Person(columns, "7").mask(batch.select([*columns, "raw"])).to_pylist()
    assert shown("id") == [True, False, False, True]
    assert shown("age")[:3] == [True, False, False]
    assert shown("name") == [True, True, False, False]


def test_pages_lose_a_telling_value_and_no_other():
    page = "<td>Zoe@x.org</td><td>Zoe@x.organic</td>"
    scrubbed = erasure._scrubbed(type(erasure.Path())("a.html"), page, Person(("mail",), "Zoe@x.org"), [])
    assert scrubbed == "<td>(erased)</td><td>Zoe@x.organic</td>"
    assert erasure._scrubbed(type(erasure.Path())("a.html"), "<td>42</td>", Person(("id",), "42"), []) == "<td>42</td>"


def test_the_command_asks_reads_the_value_and_shows_what_stays(project, tmp_path):
    run = lambda *more, **options: forked.run(
        [sys.executable, "-m", "mlloop", "maintain", "erase", *more],
        cwd=project.root,
        capture_output=True,
        text=True,
        **options,
    )
    refused = run(f"id={HER}", stdin=subprocess.DEVNULL)
    assert refused.returncode == 2 and "Add --yes" in refused.stderr
    assert run("id", "--yes").returncode == 2
    shown = run(f"id={HER}", "--dry-run")
    assert shown.returncode == 0 and "would be erased" in shown.stdout and NAME in shown.stdout
    assert HER in values(project)
    (tmp_path / "value.txt").write_text(f"{HER}\n", encoding="utf-8")
    with (tmp_path / "value.txt").open() as file:
        done = run("id=-", "--yes", stdin=file)
    assert done.returncode == 0 and HER not in values(project)
    assert run(f"id={HER}", "--yes").stdout == "nothing of this person is left\n"
