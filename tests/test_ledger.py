"""The ledger on SQLite, and on Postgres where MLLOOP_TEST_POSTGRES holds the URL of a database to use."""

import datetime as dt
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import time
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlloop.core.errors import LedgerError, Noted, PromotionRefused
from mlloop.core.storage import plain
from mlloop.store import chain
from mlloop.store.entries import Entry
from mlloop.store.ledger import Head, Ledger, _canonical, _hash, decisions

fork = multiprocessing.get_context("fork")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state/ledger.db"
        return
    server = request.getfixturevalue("postgres")
    schema = f"t{uuid.uuid4().hex[:12]}"
    admin = sa.create_engine(sa.make_url(server).set(drivername="postgresql+psycopg"), poolclass=sa.pool.NullPool)
    with admin.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    yield f"{server}?options=-csearch_path%3D{schema}"
    with admin.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
def ledger(url):
    return Ledger(url)


def validated(ledger: Ledger, *models: str, problem: str = "shop") -> None:
    for model in models:
        ledger.append(Entry("gate", problem, "validation", "yes", ["good enough"], model=model))


def all_of(workers) -> None:
    """Start every worker, wait for all, and see that none failed."""
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)


def change(ledger: Ledger, *statements: str, **values) -> None:
    """Run SQL as somebody would who may do everything with the database."""
    with ledger._engine.begin() as connection:
        if ledger._sqlite:
            names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars().all()
            for name in names:
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            connection.exec_driver_sql("ALTER TABLE decisions DISABLE TRIGGER ALL")
        for statement in statements:
            connection.execute(sa.text(statement), values)


# ---------------------------------------------------------------------------------------------- rows


def test_a_row_is_read_back_as_it_was_given(ledger):
    written = ledger.append(Entry(
        "gate", "shop", "need", "maybe", ["worth a try"],
        [{"name": "gain", "value": 12.5, "unit": "EUR", "low": -1, "high": 30, "threshold": 0, "passed": True}],
        {"data": "d1", "code": "c1"}, "Ada", "m1", {"must_change": ["the threshold"]}, "run 1",
    ))  # fmt: skip
    (row,) = ledger.rows()
    assert row == written == ledger.row(1) == ledger.last("shop", "gate", "need")
    assert (row.id, row.kind, row.problem, row.subject, row.verdict) == (1, "gate", "shop", "need", "maybe")
    assert (row.reasons, row.actor, row.model, row.key) == (["worth a try"], "Ada", "m1", "run 1")
    assert row.evidence == [
        {"name": "gain", "value": 12.5, "unit": "EUR", "low": -1, "high": 30, "threshold": 0, "passed": True}
    ]
    assert row.digests == {"data": "d1", "code": "c1"} and row.details == {"must_change": ["the threshold"]}
    assert abs((dt.datetime.now(dt.UTC).replace(tzinfo=None) - row.at).total_seconds()) < 30
    assert json.loads(json.dumps(row.to_dict()))["at"] == row.at.isoformat()


def test_a_figure_that_is_not_a_number_is_kept_as_none(ledger):
    figures = [{"name": "auc", "value": math.nan, "low": -math.inf, "high": math.inf}]
    row = ledger.append(Entry("gate", "shop", "need", "no", evidence=figures, details={"worst": math.nan}))
    nothing = dict.fromkeys(("value", "unit", "low", "high", "threshold", "passed"))
    assert row.evidence == [{"name": "auc", **nothing}] and row.details == {"worst": None}
    ledger.verify()


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "gates"}, {"verdict": "perhaps"}, {"verdict": None}, {"problem": ""}, {"problem": None}, {"subject": ""},
        {"problem": "a\x00b"}, {"model": "\ud800"}, {"model": 3}, {"actor": ""}, {"reasons": "because"}, {"reasons": [1]},
        {"evidence": [{"value": 1}]}, {"evidence": [{"name": "x", "value": "high"}]}, {"evidence": ["x"]},
        {"evidence": [{"name": "x", "treshold": 1}]}, {"evidence": [{"name": "x", "passed": "yes"}]},
        {"evidence": [{"name": "x", "unit": 3}]}, {"digests": ["d"]}, {"details": "d"}, {"key": "k" * 1001},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_cannot_be_meant_is_refused(tmp_path, wrong):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    right = {"kind": "gate", "problem": "shop", "subject": "need", "verdict": "yes"}
    with pytest.raises(LedgerError, match="expected"):
        ledger.append(Entry(**{**right, **wrong}))
    assert ledger.rows() == []


@pytest.mark.parametrize("kind", ["promotion", "rollback", "canary"])
def test_what_is_in_production_is_not_changed_by_a_mere_entry(ledger, kind):
    with pytest.raises(LedgerError, match=r"has not been asked|expected (the champion|one of started)"):
        ledger.append(Entry(kind, "shop", model="m1", verdict="yes"))
    assert ledger.rows() == []


def test_rows_are_found_by_problem_kind_model_and_time(url):
    hour = iter(range(24))
    ledger = Ledger(url, clock=lambda: dt.datetime(2026, 1, 1, next(hour)))
    ledger.append(Entry("gate", "shop", "need", "yes"))
    ledger.append(Entry("gate", "loan", "need", "no"))
    ledger.append(Entry("retrain", "shop", "nothing to do", "no", model="m1"))
    assert [row.id for row in ledger.rows("shop")] == [1, 3]
    assert [row.id for row in ledger.rows(kind="gate")] == [1, 2]
    assert [row.id for row in ledger.rows(kind=("retrain", "revision"))] == [3]
    assert [row.id for row in ledger.rows(model="m1")] == [3]
    since, until = dt.datetime(2026, 1, 1, 1), dt.datetime(2026, 1, 1, 2)
    assert [row.id for row in ledger.rows(since=since, until=until)] == [2]
    east = dt.timezone(dt.timedelta(hours=5))
    assert [row.id for row in ledger.rows(since=dt.datetime(2026, 1, 1, 6, tzinfo=east))] == [2, 3]
    assert ledger.last(until=until).id == 2 and ledger.last("nobody") is None
    with pytest.raises(LedgerError, match="no row 9"):
        ledger.row(9)


def test_time_never_goes_back_in_the_ledger(url):
    clock = iter([dt.datetime(2026, 1, 2), dt.datetime(2026, 1, 1)])
    ledger = Ledger(url, clock=lambda: next(clock))
    first, second = (ledger.append(Entry("retrain", "shop", "nothing to do", "no")) for _ in range(2))
    assert second.at == first.at == dt.datetime(2026, 1, 2)


def test_the_same_decision_recorded_twice_is_one_row(ledger):
    first = ledger.append(Entry("gate", "shop", "need", "yes", key="run 1"))
    assert ledger.append(Entry("gate", "shop", "need", "yes", ["another day"], key="run 1")) == first
    assert ledger.append(Entry("gate", "loan", "need", "yes", key="run 1")).id == 2
    with pytest.raises(LedgerError, match="key 'run 1' stands for row 1 with verdict 'yes', got 'no'"):
        ledger.append(Entry("gate", "shop", "need", "no", key="run 1"))
    assert len(ledger.rows()) == 2


def test_the_database_refuses_to_change_or_remove_a_row(ledger):
    ledger.append(Entry("gate", "shop", "need", "no"))
    statements = ["UPDATE decisions SET verdict = 'yes'", "DELETE FROM decisions"]
    statements += (
        ["INSERT OR REPLACE INTO decisions SELECT * FROM decisions"] if ledger._sqlite else ["TRUNCATE decisions"]
    )
    for statement in statements:
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), ledger._engine.begin() as connection:
            connection.exec_driver_sql(statement)
    assert ledger.row(1).verdict == "no"


# ---------------------------------------------------------------------------------------------- the chain

OTHER = {
    "id": 7, "at": "2020-01-01T00:00:00.000000", "kind": "retrain", "problem": "loan", "subject": "validation", "verdict": "yes",
    "reasons": "[]", "evidence": "[]", "digests": "{}", "actor": "Eve", "model": "m9", "details": "{}", "key": "k9",
    "previous": "0" * 64, "hash": "1" * 64,
}  # fmt: skip


def four_rows(ledger: Ledger) -> None:
    for number in range(4):
        ledger.append(Entry(
            "gate", "shop", "need", "no", [f"reason {number}"], [{"name": "gain", "value": number}], {"data": f"d{number}"},
            "Ada", f"m{number}", {"n": number}, f"k{number}",
        ))  # fmt: skip


@pytest.mark.parametrize("column", list(OTHER))
def test_a_changed_field_is_found_and_its_row_named(ledger, column):
    four_rows(ledger)
    change(ledger, f"UPDATE decisions SET {column} = :value WHERE id = 2", value=OTHER[column])
    with pytest.raises(LedgerError, match=r"row 2 (was changed|is missing)"):
        ledger.verify()


@pytest.mark.parametrize(
    "statements, said",
    [
        (["DELETE FROM decisions WHERE id = 1"], "row 1 is missing"),
        (["DELETE FROM decisions WHERE id = 3"], "row 3 is missing"),
        (["DELETE FROM decisions WHERE id = 4"], "ends with row 3 and its head says row 4"),
        (["DELETE FROM decisions"], "ends with row 0 and its head says row 4"),
        (["DELETE FROM decisions_head"], "its head says nothing"),
        (
            [f"UPDATE decisions SET id = {a} WHERE id = {b}" for a, b in ((9, 2), (2, 3), (3, 9))],
            "row 2 was changed",
        ),
        (["DELETE FROM decisions WHERE id = 2", "UPDATE decisions SET id = 2 WHERE id = 3"], "row 2 was changed"),
    ],
    ids=["first", "middle", "last", "all", "head", "reordered", "closed up"],
)
def test_a_removed_or_moved_row_is_found(ledger, statements, said):
    four_rows(ledger)
    change(ledger, *statements)
    with pytest.raises(LedgerError, match=said):
        ledger.verify()


def test_a_row_with_a_right_hash_in_the_wrong_place_is_found(ledger):
    four_rows(ledger)
    with ledger._reading() as connection:
        row = dict(connection.execute(sa.select(decisions).where(decisions.c.id == 2)).mappings().one())
    row["verdict"] = "yes"
    change(ledger, "UPDATE decisions SET verdict = 'yes', hash = :hash WHERE id = 2", hash=_hash(row))
    with pytest.raises(LedgerError, match="row 3 does not follow row 2"):
        ledger.verify()


def test_nothing_is_added_to_a_ledger_whose_end_was_cut(ledger):
    four_rows(ledger)
    change(ledger, "DELETE FROM decisions WHERE id = 4")
    with pytest.raises(LedgerError, match="ends with row 3 and its head says row 4"):
        ledger.append(Entry("gate", "shop", "need", "yes"))


def test_a_ledger_written_anew_is_told_from_the_one_noted(url, tmp_path):
    ledger = Ledger(url)
    four_rows(ledger)
    noted = ledger.head()
    other = Ledger(f"sqlite:///{tmp_path}/other.db")
    four_rows(other)
    assert other.verify() == other.head()
    with pytest.raises(LedgerError, match="row 4 is not the one noted"):
        other.verify(noted)
    ledger.append(Entry("gate", "shop", "need", "yes"))
    assert ledger.verify(noted).id == 5
    assert ledger.verify(Head(0, "0" * 64)).id == 5


def test_an_empty_ledger_is_whole(ledger):
    assert ledger.verify() == Head(0, "0" * 64)
    assert ledger.at() == {} and ledger.champion("shop") is None and ledger.canary("shop") is None


# ---------------------------------------------------------------------------------------------- verified by whoever reads

READERS = {
    "rows": lambda ledger: ledger.rows(),
    "row": lambda ledger: ledger.row(1),
    "last": lambda ledger: ledger.last("shop"),
    "champion": lambda ledger: ledger.champion("shop"),
    "canary": lambda ledger: ledger.canary("shop"),
    "previous champion": lambda ledger: ledger.previous_champion("shop"),
    "at": lambda ledger: ledger.at(),
    "head": lambda ledger: ledger.head(),
    "recorded": lambda ledger: ledger.recorded("shop", "k1"),
    "append": lambda ledger: ledger.append(Entry("gate", "shop", "need", "yes")),
}


@pytest.mark.parametrize("reader", list(READERS))
def test_whoever_reads_a_changed_ledger_is_told(ledger, url, reader):
    four_rows(ledger)
    READERS[reader](ledger)
    change(ledger, "UPDATE decisions SET verdict = 'yes' WHERE id = 2")
    for one in (ledger, Ledger(url)) if ledger._sqlite else (Ledger(url),):
        with pytest.raises(LedgerError, match="row 2 was changed") as error:
            READERS[reader](one)
        assert "mlloop ledger check" in str(error.value)


@pytest.fixture
def counted(monkeypatch):
    """How many rows were verified, a number for each time."""
    counts = []
    whole = chain.checked
    monkeypatch.setattr(chain, "checked", lambda rows, *more: (counts.append(len(rows)), whole(rows, *more))[1])
    return counts


def test_what_has_not_changed_is_not_verified_again(url, tmp_path, counted):
    memory = tmp_path / "memory.json"
    ledger = Ledger(url, memory=memory)
    four_rows(ledger)
    ledger.rows()
    counted.clear()
    ledger.at(), ledger.head(), Ledger(url, memory=memory).champion("shop")
    assert counted == []
    Ledger(url).append(Entry("gate", "shop", "need", "yes"))  # somebody else
    counted.clear()
    ledger.rows()
    ledger.rows()
    assert counted == [5]


def test_a_writer_of_its_own_rows_verifies_them_once(url, tmp_path, counted):
    ledger = Ledger(url, memory=tmp_path / "memory.json")
    for number in range(20):
        ledger.append(Entry("gate", "shop", "need", "yes", key=str(number)))
        ledger.rows()
    assert len(counted) <= 1 and ledger.verify().id == 20


def test_an_end_that_was_removed_together_with_its_head_is_found_by_what_was_read_before(url, tmp_path):
    memory = tmp_path / "memory.json"
    four_rows(Ledger(url, memory=memory))
    Ledger(url, memory=memory).rows()
    third = Ledger(url).row(3)
    change(
        Ledger(url), "DELETE FROM decisions WHERE id = 4", "UPDATE decisions_head SET last = 3, hash = :h", h=third.hash
    )
    assert Ledger(url).verify().id == 3  # without memory it looks whole
    with pytest.raises(LedgerError, match="ends with row 3, and when this project read it last row 4 was its last"):
        Ledger(url, memory=memory).rows()
    assert Ledger(url, memory=memory).accept().id == 3
    assert len(Ledger(url, memory=memory).rows()) == 3


def test_an_emptied_ledger_says_what_it_lost_until_it_is_begun_anew(url, tmp_path):
    memory = tmp_path / "memory.json"
    four_rows(Ledger(url, memory=memory))
    known = Ledger(url, memory=memory).head()
    change(Ledger(url), "DELETE FROM decisions", f"UPDATE decisions_head SET last = 0, hash = '{'0' * 64}'")
    for _ in range(2):
        ledger = Ledger(url, memory=memory)
        assert ledger.rows() == [] and ledger.lost() == known
    ledger.append(Entry("gate", "shop", "need", "yes"))
    assert Ledger(url, memory=memory).lost() is None and len(ledger.rows()) == 1


def test_a_ledger_whose_head_is_gone_is_told_in_words(ledger):
    four_rows(ledger)
    change(ledger, "DELETE FROM decisions_head")
    for read in READERS.values():
        with pytest.raises(LedgerError, match=r"its head says nothing|its head is missing"):
            read(ledger)


def test_a_memory_that_cannot_be_replaced_leaves_no_part(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(chain.os, "replace", refuse)
    chain.Memory(tmp_path / "verified.json", "ledger").keep(chain.Head(1, "0" * 64), "a state")
    assert list(tmp_path.iterdir()) == []


def test_the_anchor_finds_a_ledger_that_was_written_anew(tmp_path):
    anchor = tmp_path / "elsewhere" / "anchor.txt"
    four_rows(Ledger(f"sqlite:///{tmp_path}/ledger.db", anchor=anchor))
    lines = anchor.read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["1", "2", "3", "4"]
    (tmp_path / "ledger.db").unlink()
    four_rows(Ledger(f"sqlite:///{tmp_path}/ledger.db"))  # right hashes, another time
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", anchor=anchor)
    with pytest.raises(LedgerError, match=r"row 4 is not the one noted in the anchor .*anchor\.txt"):
        ledger.champion("shop")
    ledger.accept()
    ledger.append(Entry("gate", "shop", "need", "yes"))
    assert Ledger(f"sqlite:///{tmp_path}/ledger.db", anchor=anchor).head().id == 5


def test_a_row_that_another_adds_while_the_anchor_is_read_is_no_damage(tmp_path, monkeypatch):
    url, anchor = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "anchor.txt"
    four_rows(Ledger(url, anchor=anchor))
    other, ledger, read = Ledger(url, anchor=anchor), Ledger(url, anchor=anchor), chain.last_anchored

    def added(place):
        monkeypatch.setattr(chain, "last_anchored", read)
        other.append(Entry("gate", "shop", "need", "yes"))
        return read(place)

    monkeypatch.setattr(chain, "last_anchored", added)
    assert len(ledger.rows()) == 5


def test_a_row_is_recorded_although_its_anchor_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", anchor=tmp_path / "file" / "anchor.txt")
    with pytest.warns(Noted, match="row 1 was recorded, and not anchored"):
        assert ledger.append(Entry("gate", "shop", "need", "yes")).id == 1


def test_a_ledger_is_copied_whole_and_goes_on_where_it_is(url, tmp_path):
    ledger, other = Ledger(f"sqlite:///{tmp_path}/here.db"), Ledger(url)
    four_rows(ledger)
    assert ledger.copy_to(other) == ledger.head()
    assert other.rows() == ledger.rows()
    ledger.append(Entry("gate", "shop", "need", "yes"))
    assert ledger.copy_to(other).id == 5 and other.verify().id == 5  # brought up to date
    other.append(Entry("gate", "shop", "need", "yes"))
    with pytest.raises(LedgerError, match="holds another ledger, which ends with row 6"):
        ledger.copy_to(other)
    change(ledger, "UPDATE decisions SET actor = 'Eve' WHERE id = 2")
    with pytest.raises(LedgerError, match="row 2 was changed"):
        ledger.copy_to(Ledger(f"sqlite:///{tmp_path}/third.db"))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    details=st.dictionaries(st.text(), anything, max_size=4), reasons=st.lists(st.text(), max_size=3), value=st.floats()
)
def test_any_content_comes_back_and_its_hash_holds(ledger, details, reasons, value):
    row = ledger.append(Entry("retrain", "shop", "x", "no", reasons, [{"name": "f", "value": value}], details=details))
    kept = ledger.row(row.id)
    assert kept == row and kept.details == plain(details) and kept.reasons == reasons
    with ledger._reading() as connection:
        stored = connection.execute(sa.select(decisions).where(decisions.c.id == row.id)).mappings().one()
    assert _hash(stored) == row.hash


@given(content=st.dictionaries(st.text(), anything, max_size=5), seed=st.randoms(use_true_random=False))
def test_canonical_json_does_not_depend_on_order(content, seed):
    items = list(plain(content).items())
    seed.shuffle(items)
    text = _canonical(dict(items))
    assert text == _canonical(plain(content)) and text.isascii()
    assert json.loads(text) == plain(content)


# ---------------------------------------------------------------------------------------------- many writers


def append(url: str, number: int, rows: int) -> None:
    ledger = Ledger(url)
    for row in range(rows):
        ledger.append(Entry("retrain", f"p{number % 3}", f"{number}.{row}", "no"))


def test_ten_processes_append_fifty_rows_each(url):
    all_of([fork.Process(target=append, args=(url, number, 50)) for number in range(10)])
    ledger = Ledger(url)
    assert ledger.verify().id == 500
    assert {row.subject for row in ledger.rows()} == {f"{n}.{r}" for n in range(10) for r in range(50)}


def same(url: str) -> None:
    assert Ledger(url).append(Entry("gate", "shop", "need", "yes", key="the run")).id == 1


def test_one_key_from_eight_processes_is_one_row(url):
    all_of([fork.Process(target=same, args=(url,)) for _ in range(8)])
    assert len(Ledger(url).rows()) == 1


def tell(url: str, pipe: int) -> None:
    ledger = Ledger(url)
    while True:
        os.write(pipe, f"{ledger.append(Entry('retrain', 'shop', 'x', 'no')).id}\n".encode())


def test_writers_killed_at_random_lose_nothing_that_was_acknowledged(url):
    ledger, acknowledged, chance = Ledger(url), set(), random.Random(5)
    for _ in range(25):
        read, write = os.pipe()
        writers = [fork.Process(target=tell, args=(url, write)) for _ in range(2)]
        for writer in writers:
            writer.start()
        os.close(write)
        with os.fdopen(read) as told:
            acknowledged.add(int(told.readline()))
            time.sleep(chance.uniform(0, 0.06))
            for writer in writers:
                os.kill(writer.pid, signal.SIGKILL)
                writer.join()
            acknowledged |= {int(line) for line in told.read().split()}
        ledger.verify()
    assert len(acknowledged) >= 25
    assert acknowledged <= {row.id for row in ledger.rows()}


# ---------------------------------------------------------------------------------------------- production


def test_only_one_of_ten_promoters_wins_and_nine_are_told_who(url):
    ledger = Ledger(url)
    validated(ledger, "m0", *(f"m{n}" for n in range(1, 11)))
    ledger.append(Entry("promotion", "shop", model="m0", expect=None))
    together, said = fork.Barrier(10), fork.Queue()

    def promote(model):
        mine = Ledger(url)
        together.wait(200)
        try:
            said.put((model, mine.append(Entry("promotion", "shop", model=model, expect="m0")).id))
        except PromotionRefused as error:
            said.put((model, str(error)))

    workers = [fork.Process(target=promote, args=(f"m{n}",)) for n in range(1, 11)]
    all_of(workers)
    outcomes = dict(said.get(timeout=120) for _ in range(10))
    (winner,) = [model for model, told in outcomes.items() if isinstance(told, int)]
    since = ledger.champion("shop").at
    told = f"champion of 'shop' is '{winner}' since {since:%Y-%m-%d %H:%M:%S}, the decision was taken against 'm0'"
    assert all(told in outcome for model, outcome in outcomes.items() if model != winner)
    assert ledger.champion("shop").model == winner and ledger.previous_champion("shop") == "m0"
    assert len(ledger.rows(kind="promotion")) == 2


@pytest.mark.parametrize("verdict", [None, "no", "maybe"])
def test_a_model_that_no_validation_gate_passed_is_not_promoted(ledger, verdict):
    ledger.append(Entry("gate", "shop", "need", "yes", model="m1"))
    ledger.append(Entry("gate", "loan", "validation", "yes", model="m1"))
    if verdict:
        validated(ledger, "m1")
        ledger.append(Entry("gate", "shop", "validation", verdict, model="m1"))
    with pytest.raises(PromotionRefused, match=r"validation gate of 'shop' (has not been asked|said)"):
        ledger.append(Entry("promotion", "shop", model="m1", expect=None))
    assert ledger.champion("shop") is None and ledger.rows(kind="promotion") == []


def test_a_model_is_not_promoted_twice_nor_as_another_file(ledger):
    ledger.append(Entry("gate", "shop", "validation", "yes", model="m1", digests={"model": "a" * 64}))
    with pytest.raises(PromotionRefused, match=r"judged model file aaaaaaaaaaaa\.\.\., got bbbbbbbbbbbb"):
        ledger.append(Entry("promotion", "shop", model="m1", expect=None, digests={"model": "b" * 64}))
    first = ledger.append(
        Entry("promotion", "shop", model="m1", expect=None, digests={"model": "a" * 64, "onnx": "c" * 64}, key="run 1")
    )
    assert ledger.append(Entry("promotion", "shop", model="m1", expect=None, key="run 1")) == first
    with pytest.raises(PromotionRefused, match="'m1' is champion of 'shop' already"):
        ledger.append(Entry("promotion", "shop", model="m1", expect="m1"))


def test_rollback_goes_back_through_the_champions(ledger):
    validated(ledger, "m1", "m2", "m3")
    for model, before in (("m1", None), ("m2", "m1"), ("m3", "m2")):
        ledger.append(Entry("promotion", "shop", model=model, expect=before))
    row = ledger.append(Entry("rollback", "shop", expect="m3", reasons=["complaints"]))
    assert (row.model, row.subject, row.details["was"], row.reasons) == ("m2", "m3", "m3", ["complaints"])
    with pytest.raises(PromotionRefused, match="champion of 'shop' is 'm2'"):
        ledger.append(Entry("rollback", "shop", expect="m3"))
    with pytest.raises(PromotionRefused, match=r"cannot go back to m3 \(earlier champions: 'm1'\)"):
        ledger.append(Entry("rollback", "shop", expect="m2", model="m3"))
    ledger.append(Entry("promotion", "shop", model="m3", expect="m2"))
    assert ledger.append(Entry("rollback", "shop", expect="m3", model="m1", key="r")).model == "m1"
    assert ledger.append(Entry("rollback", "shop", expect="m3", model="m1", key="r")).model == "m1"
    assert ledger.previous_champion("shop") is None
    with pytest.raises(PromotionRefused, match="earlier champions: none"):
        ledger.append(Entry("rollback", "shop", expect="m1"))
    assert ledger.champion("shop").model == "m1"


def test_a_rollback_to_the_reigning_champion_is_refused(ledger):
    validated(ledger, "m1", "m2")
    for model, before in (("m1", None), ("m2", "m1"), ("m1", "m2")):
        ledger.append(Entry("promotion", "shop", model=model, expect=before))
    with pytest.raises(PromotionRefused, match="'m1' is champion of 'shop' already"):
        ledger.append(Entry("rollback", "shop", expect="m1", model="m1"))
    assert ledger.append(Entry("rollback", "shop", expect="m1")).model == "m2"


def test_a_canary_is_on_until_it_ends(ledger):
    validated(ledger, "m1", "m2", "m3")
    with pytest.raises(PromotionRefused, match="no champion to compare"):
        ledger.append(Entry("canary", "shop", "started", model="m2", expect=None))
    ledger.append(Entry("promotion", "shop", model="m1", expect=None))
    with pytest.raises(PromotionRefused, match="champion of 'shop' is 'm1'"):
        ledger.append(Entry("canary", "shop", "started", model="m2", expect="m3"))
    with pytest.raises(PromotionRefused, match="'m9'"):
        ledger.append(Entry("canary", "shop", "started", model="m9", expect="m1"))
    with pytest.raises(PromotionRefused, match="'m1' is champion of 'shop' already"):
        ledger.append(Entry("canary", "shop", "started", model="m1", expect="m1"))
    started = ledger.append(Entry("canary", "shop", "started", model="m2", expect="m1", details={"share": 0.2}))
    assert ledger.canary("shop") == started and started.details == {"share": 0.2, "champion": "m1"}
    with pytest.raises(PromotionRefused, match="'m2' is canary of 'shop' since"):
        ledger.append(Entry("canary", "shop", "started", model="m3", expect="m1"))
    with pytest.raises(PromotionRefused, match=r"'m3' is not canary of 'shop' \('m2' is\)"):
        ledger.append(Entry("canary", "shop", "promoted", model="m3"))
    ended = ledger.append(Entry("canary", "shop", "rolled_back", model="m2", reasons=["no data"], key="end"))
    assert (ended.verdict, ended.subject) == ("no", "rolled_back")
    assert ledger.canary("shop") is None and ledger.champion("shop").model == "m1"
    assert ledger.append(Entry("canary", "shop", "rolled_back", model="m2", key="end")) == ended


def test_a_canary_that_passes_is_promoted_in_the_same_transaction(ledger):
    validated(ledger, "m1", "m2")
    ledger.append(Entry("promotion", "shop", model="m1", expect=None))
    ledger.append(Entry("canary", "shop", "started", model="m2", expect="m1"))
    ended = ledger.append(Entry("canary", "shop", "promoted", model="m2", reasons=["as good"]))
    promotion = ledger.champion("shop")
    assert (promotion.id, promotion.model, promotion.reasons) == (ended.id + 1, "m2", ["as good"])
    assert ledger.canary("shop") is None and ledger.previous_champion("shop") == "m1"


def test_a_canary_whose_model_was_refused_meanwhile_stays_on(ledger):
    validated(ledger, "m1", "m2")
    ledger.append(Entry("promotion", "shop", model="m1", expect=None))
    ledger.append(Entry("canary", "shop", "started", model="m2", expect="m1"))
    ledger.append(Entry("gate", "shop", "validation", "no", model="m2"))
    before = ledger.head()
    with pytest.raises(PromotionRefused, match="said no"):
        ledger.append(Entry("canary", "shop", "promoted", model="m2"))
    assert ledger.head() == before and ledger.canary("shop").model == "m2"


def test_another_champion_ends_the_canary(ledger):
    validated(ledger, "m1", "m2", "m3")
    ledger.append(Entry("promotion", "shop", model="m1", expect=None))
    ledger.append(Entry("canary", "shop", "started", model="m2", expect="m1"))
    row = ledger.append(Entry("promotion", "shop", model="m3", expect="m1"))
    assert row.details["ended_canary"] == "m2" and ledger.canary("shop") is None


def test_what_stood_at_a_time(url):
    days = iter(range(1, 28))
    ledger = Ledger(url, clock=lambda: dt.datetime(2026, 1, next(days)))
    validated(ledger, "m1", "m2")  # 1, 2
    ledger.append(Entry("promotion", "shop", model="m1", expect=None))  # 3
    ledger.append(Entry("canary", "shop", "started", model="m2", expect="m1"))  # 4
    ledger.append(Entry("canary", "shop", "promoted", model="m2"))  # 5, 6
    ledger.append(Entry("gate", "loan", "need", "no"))  # 7
    ledger.append(Entry("rollback", "shop", expect="m2"))  # 8

    def on(day):
        stood = ledger.at(dt.datetime(2026, 1, day))
        shop = stood.get("shop")
        return shop and (shop.champion and shop.champion.model, shop.canary and shop.canary.model)

    assert ledger.at(dt.datetime(2025, 12, 31)) == {}
    assert [on(day) for day in range(1, 10)] == [
        (None, None), (None, None), ("m1", None), ("m1", "m2"), ("m1", None), ("m2", None), ("m2", None), ("m1", None), ("m1", None),
    ]  # fmt: skip
    assert ledger.at(dt.datetime(2026, 1, 1))["shop"].gates["validation"].model == "m1"
    assert set(ledger.at(dt.datetime(2026, 1, 6))) == {"shop"} and set(ledger.at()) == {"loan", "shop"}
    assert ledger.at()["loan"].gates["need"].verdict == "no" and ledger.at()["loan"].champion is None
    assert ledger.champion("shop", at=dt.datetime(2026, 1, 7)).model == "m2"
    assert ledger.canary("shop", at=dt.datetime(2026, 1, 4, 12)).model == "m2"


def promote_until_killed(url: str, step: int) -> None:
    """End the canary with a promotion, and die by SIGKILL at the `step`th statement of it."""
    ledger, done = Ledger(url), []
    ledger._prepare()

    def die(*_):
        done.append(1)
        if len(done) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    for event in ("before_cursor_execute", "after_cursor_execute", "commit"):
        sa.event.listen(ledger._engine, event, die)
    ledger.append(Entry("canary", "shop", "promoted", model="m2", key="end"))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_at_any_step_of_a_promotion_leaves_one_promotion_or_none(url):
    """After each kill the same call converges; what was half done is not seen."""
    steps, landed = 0, False
    ledger = Ledger(url)
    validated(ledger, "m1", "m2")
    ledger.append(Entry("promotion", "shop", model="m1", expect=None))
    ledger.append(Entry("canary", "shop", "started", model="m2", expect="m1"))
    before = ledger.head()
    while not landed:
        steps += 1
        worker = fork.Process(target=promote_until_killed, args=(url, steps))
        worker.start()
        worker.join(60)
        assert worker.exitcode == -signal.SIGKILL
        ledger.verify()
        landed = ledger.head() != before
    assert steps > 15
    row = ledger.append(Entry("canary", "shop", "promoted", model="m2", key="end"))
    assert ledger.champion("shop").model == "m2" and ledger.head().id == before.id + 2 == row.id + 1
    assert len([one for one in ledger.rows(kind="promotion") if one.model == "m2"]) == 1


# ---------------------------------------------------------------------------------------------- ledgers of before

BEFORE = Path(__file__).parent / "data" / "ledger_before_entries.db"  # written by mlloop at commit 94d045f


@pytest.fixture
def old(tmp_path):
    """A ledger written before there were entries: gates, promotions, canaries, a rollback, a retraining, a revision."""
    shutil.copy(BEFORE, tmp_path / "ledger.db")
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def test_an_old_ledger_verifies_and_stands_as_it_stood(old):
    assert old.verify() == Head(15, "5e33edd30044b0de7fdfce7e83f13925f6c4d8f26d58dacb47fcc4733f16a09d")
    kinds = [row.kind for row in old.rows("loan")]
    assert kinds == ["gate"] * 4 + ["promotion", "retrain", "canary", "canary", "promotion", "rollback"] + [
        "canary", "canary", "canary", "revision",
    ]  # fmt: skip
    standing = old.at()["loan"]
    assert standing.champion.kind == "rollback" and standing.champion.model == "a" * 64
    assert standing.canary.model == "c" * 64 and standing.canary.details == {"share": 0.3, "champion": "a" * 64}
    assert old.champion("loan", at=dt.datetime(2026, 1, 9)).model == "b" * 64 and old.previous_champion("loan") is None
    assert old.row(9).details == {"was": "a" * 64} and old.row(10).details == {"was": "b" * 64}


def test_an_old_ledger_goes_on_under_the_same_rules(old):
    known = old.append(Entry("promotion", "loan", model="a" * 64, expect=None, key="deploy a"))
    assert known == old.row(5)
    with pytest.raises(PromotionRefused, match="champion of 'loan' is 'aaaa"):
        old.append(Entry("promotion", "loan", model="b" * 64, expect="b" * 64))
    ended = old.append(Entry("canary", "loan", "promoted", model="c" * 64, reasons=["It is better."]))
    assert (ended.id, ended.verdict) == (16, "yes") and old.champion("loan").model == "c" * 64
    assert old.append(Entry("rollback", "loan", expect="c" * 64)).model == "a" * 64
    assert old.verify().id == 18


# ---------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize("url", ["", "sqlite://", "sqlite:///:memory:", "mysql://localhost/x", "not a url"])
def test_a_place_that_cannot_hold_the_ledger_is_refused(url):
    with pytest.raises(LedgerError, match=r"settings\.ini"):
        Ledger(url)


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path):
    (tmp_path / "ledger.db").write_text("these are notes, not a database " * 40)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger(f"sqlite:///{tmp_path}/ledger.db").rows()


def test_a_server_that_is_away_is_named_without_its_password():
    with pytest.raises(LedgerError) as error:
        Ledger("postgresql://ada:secret@127.0.0.1:1/ledger").rows()
    assert "127.0.0.1" in str(error.value) and "secret" not in str(error.value)


def test_the_gate_of_a_run_stands_where_its_data_ended_and_never_before_the_row_above_it(tmp_path):
    from mlloop.store import clocks

    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    gate = lambda day, model: Entry(
        "gate", "shop", subject="validation", verdict="yes", actor="policy", model=model * 64, details={"as_of": day}
    )
    ledger.append(gate("2025-08-01T00:00:00", "a"))
    ledger.append(Entry("promotion", "shop", model="a" * 64, expect=None, actor="Ada"))
    ledger.append(Entry("retrain", "shop", subject="nothing", actor="policy", details={"as_of": "2025-11-19T00:00:00"}))
    ledger.append(gate("2025-12-01T00:00:00", "b"))
    ledger.append(Entry("promotion", "shop", model="b" * 64, expect="a" * 64, actor="Ada"))
    ledger.append(gate("2025-08-01T00:00:00", "c"))
    stood = clocks.in_the_data(ledger.rows(problem="shop"))
    assert [f"{stood[row]:%m-%d}" for row in sorted(stood)] == ["08-01", "08-01", "11-19", "12-01", "12-01", "12-01"]
