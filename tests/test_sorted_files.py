"""Files that are sorted by something that is no time: what `mlloop new` makes of them, and how their rows are dealt into folds."""

import ibis
import numpy as np
import pandas as pd
from test_unseen import parts_of, said

from mlloop import ingestion
from mlloop.comparison import baselines
from mlloop.data import loan_example
from mlloop.problem import Column, Table


def test_a_file_sorted_by_something_that_is_no_time_is_not_predicted_forwards(tmp_path):
    r = np.random.default_rng(0)
    n, town = 1000, np.repeat(np.arange(100), 10)
    rooms, tax, level = r.integers(1, 8, n), r.normal(300, 60, 100).round(1)[town], r.normal(0, 60, 100)[town]
    houses = pd.DataFrame(
        {"rooms": rooms, "tax": tax, "price": (500 + 20 * rooms + level + r.normal(0, 5, n)).round(1)}
    )
    by_town = parts_of(tmp_path, houses, "price")
    assert by_town["table_time"] is None and "together: row_stretch" in by_town["task"]
    assert "something that is no time" in said(by_town, "order of the file")
    lists = houses.assign(tax=r.permutation(tax)).sort_values(["rooms", "price"])
    by_price = parts_of(tmp_path, lists, "price")
    assert by_price["table_time"] is None and not said(by_price, "order of the file")


def test_a_file_sorted_by_a_few_years_stands_in_the_order_of_time(tmp_path):
    r = np.random.default_rng(1)
    days = pd.DataFrame(
        {"Year": np.repeat(range(2001, 2006), 250), "lag": r.normal(size=1250), "up": r.integers(0, 2, 1250)}
    )
    made = parts_of(tmp_path, days, "up")
    assert "Year only grows" in said(made, "order of the file") and made["table_time"]
    shuffled = parts_of(tmp_path, days.sample(frac=1, random_state=0), "up")
    assert not said(shuffled, "order of the file")
    sizes = days.rename(columns={"Year": "rooms"}).assign(rooms=lambda d: d["rooms"] - 2000)
    assert not said(parts_of(tmp_path, sizes, "up"), "order of the file")


def test_stretches_of_a_file_stay_on_one_side_of_a_fold(tmp_path):
    column = Column(type="integer", row_stretch=4, feature=False)
    numbered = ibis.memtable(pd.DataFrame({"_n": [0] * 6 + [1] * 6, "_row": [*range(6), *range(6)]}))
    made = ingestion.derived_columns(numbered, Table(source="s", columns={"place": column})).to_pandas()
    assert made.sort_values(["_n", "_row"])["place"].tolist() == ["1"] * 4 + ["2"] * 4 + ["3"] * 4
    statement = loan_example.statement(task={"entity": None, "together": "town"})
    rows = loan_example.rows(400).drop(columns="day")
    assert baselines.groups_of(rows.assign(town=np.arange(400) // 8), statement.task.group).max() == 49
