"""What came in a period: rows brought into the lake, asked of the models in production, and labels as far as they have come.

Everything stands at a moment: nothing of it or later is read. Done again for the same moment it changes nothing: rows
and answers carry names of their own, and what is there is not written twice.
"""

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mlloop import serving
from mlloop.core import storage
from mlloop.core.records import ArrivedJson, Row
from mlloop.core.settings import Settings
from mlloop.loop.schedule import Period as Period
from mlloop.problem import Problem, Recommendation, Tabular
from mlloop.release import releases
from mlloop.store import prediction_log
from mlloop.store.ledger import Ledger

if TYPE_CHECKING:
    import ibis
    import pandas as pd

    from mlloop.store.lake import Lake

ARRIVED = "arrived"


def normal(statement: Problem) -> Problem:
    """The statement as products hold it: columns in the order of their names, which is the order of ingested tables."""
    return Problem.model_validate(json.loads(json.dumps(storage.plain(statement), sort_keys=True)))


# ------------------------------------------------------------------------------------------------ rows


def bring(settings: Settings, lake: "Lake", statement: Problem, period: Period) -> ArrivedJson:
    """Collect, ingest and transform what had come at the period's end; what ingestion found, as its product has it.

    In the lake are then, for a tabular problem, the table `arrived` (the rows of every period so far as they were to
    be seen at its end, also those without a target), for recommendation `events` and `items`.
    """
    from mlloop import collection, ingestion, transformation

    batches = collection.collect(statement, period.until, settings)
    listed = {name: [storage.plain(batch) for batch in source] for name, source in batches.items()}
    done = ingestion.ingest(statement, listed, period.until, settings, 1.0, lake)
    tables = {name: lake.read(table.table) for name, table in done.items()}
    clean = transformation.transform(statement, tables, period.until, labelled=False, counted=False).tables
    if isinstance(statement.task, Recommendation):
        for name, table in clean.items():
            lake.write(f"{statement.name}/{name}", table)
    else:
        _keep(lake, statement, clean["rows"], period)
    return {
        "batches": listed,
        "tables": {name: table.table for name, table in done.items()},
        "rejected": {name: table.rejected for name, table in done.items()},
        "counts": {name: table.counts for name, table in done.items()},
    }


def _keep(lake: "Lake", statement: Problem, rows: "ibis.Table", period: Period) -> None:
    """Append the period's rows to those that arrived before; where targets come late, write all rows as they are now."""
    name, target = f"{statement.name}/{ARRIVED}", statement.task.target  # type: ignore[union-attr]
    if lake.exists(name):
        before = lake.read(name)
        late = before.filter(before[target].isnull()).count().execute() > 0
        if late or list(before.columns) != list(rows.columns):
            first = before[_time(statement)].min().execute()
            lake.write(name, rows.filter(rows[_time(statement)] >= min(first, period.since)))
            return
    lake.write(name, _between(rows, _time(statement), period), "append", batches=[f"until {period.until.isoformat()}"])


def _time(statement: Problem) -> str:
    assert isinstance(statement.task, Tabular)
    column = statement.time.column or statement.tables[statement.task.table].time
    assert column is not None
    return column


def _between(table: "ibis.Table", column: str, period: Period) -> "ibis.Table":
    import ibis

    at = table[column].cast("timestamp")
    return table.filter((at >= ibis.literal(period.since)) & (at < ibis.literal(period.until)))


# ------------------------------------------------------------------------------------------------ answers


def answer(settings: Settings, ledger: Ledger, lake: "Lake", statement: Problem, period: Period) -> dict[str, int]:
    """Let the models in production answer for the rows of the period that no service answered.

    Each answer has the time of its row and an id that follows from the row, so that a second call adds none. For
    recommendation everybody known before the period is asked at its beginning.

    Returns
    -------
    dict
        answered, refused (rows that break the contract of a request), before (rows answered already).
    """
    pair = in_production(settings, ledger, statement.name, period.since)
    if pair is None:
        return {"answered": 0, "refused": 0, "before": 0}
    folder = prediction_log.folder_of(settings, statement.name)
    table, times = due_requests(lake, statement, pair, period)
    there = prediction_log.read(folder, period.since, period.until, ["id", "entity"])
    marks = [(name, at) for name, at in zip(names(statement, table, period), times, strict=True)]
    known_ids, known = set(there["id"]), set(there["entity"].dropna())
    column = "user" if isinstance(statement.task, Recommendation) else statement.task.entity
    who = table[column].astype(str) if column else [None] * len(table)
    new = [
        at
        for at, (mark, entity) in enumerate(zip(marks, who, strict=True))
        if mark[0] not in known_ids and entity not in known
    ]
    if not new:
        return {"answered": 0, "refused": 0, "before": len(table)}
    log = prediction_log.Log(folder)
    try:
        _, refused = serving.score_table(pair, table.iloc[new], log, [marks[at] for at in new], clean=False)
    finally:
        log.close()
    prediction_log.seal(folder)
    return {"answered": len(new) - len(refused), "refused": len(refused), "before": len(table) - len(new)}


def in_production(settings: Settings, ledger: Ledger, problem: str, at: dt.datetime) -> serving.Pair | None:
    """Who answers at `at`; a canary that begins later, by its own clock, does not."""
    pair = serving.in_production(settings, ledger, problem, at=at)
    on = ledger.canary(problem)
    if pair and pair.canary and on and dt.datetime.fromisoformat(on.details["since"]) > at:
        return serving.Pair(pair.champion)
    return pair


def due_requests(
    lake: "Lake", statement: Problem, pair: serving.Pair, period: Period
) -> tuple["pd.DataFrame", list[str]]:
    """The period's rows as a service would be asked for them, and the time of each (ISO).

    A shop that shows only new things says what was bought since the models learnt, the newest where that is very much.
    """
    import pandas as pd

    if isinstance(statement.task, Recommendation):
        events = lake.read(f"{statement.name}/events")
        before = events.filter((events.time < pd.Timestamp(period.since)) & events.user.notnull())
        users = before.select("user").distinct().order_by("user").to_pandas()
        if not statement.task.repeats:
            bought = before.filter(before.kind == statement.task.target_kind).select(
                "user", "item", "time", "quantity", "kind"
            )
            who = users.rename(columns={"user": "entity"}).assign(at=period.since)
            rankings = [
                release.recommender for release in (pair.champion, pair.canary) if isinstance(release, releases.Ranking)
            ]
            bought_items = bought_before(bought.to_pandas(), statement, who, *rankings)
            users["exclude"] = [items[-serving.MOST_EXCLUDED :] for items in bought_items]
        return users, [period.since.isoformat(timespec="microseconds")] * len(users)
    rows = lake.read(f"{statement.name}/{ARRIVED}")
    lacking = [field.name for field in pair.form.fields if field.name not in rows.columns]
    if lacking:
        rows = _with_features(lake, statement, rows, lacking)
    table = _between(rows, _time(statement), period).to_pandas()
    order = [c for c in (_time(statement), statement.task.entity) if c]
    table = table.sort_values(order, kind="stable", ignore_index=True)
    return table, [at.isoformat(timespec="microseconds") for at in pd.to_datetime(table[_time(statement)])]


def events_before(lake: "Lake", statement: Problem, at: dt.datetime) -> "pd.DataFrame":
    """The events of a recommendation before `at`, as its recommenders are fitted to them."""
    import pandas as pd

    events = lake.read(f"{statement.name}/events")
    names = [name for name in ("user", "item", "time", "kind", "quantity") if name in events.columns]
    return events.filter(events.time < pd.Timestamp(at)).select(*names).to_pandas()


def bought_before(events: "pd.DataFrame", statement: Problem, who: "pd.DataFrame", *known_to: Any) -> list[list[str]]:
    """What each of `who` (entity, at) had bought before, the latest last, less what every one of `known_to` saw, (n_who,)."""
    task = statement.task
    assert isinstance(task, Recommendation)
    bought = events[(events["kind"] == task.target_kind) & ~(events["quantity"] <= 0)]
    pairs = bought.merge(who.drop_duplicates("entity"), left_on="user", right_on="entity")
    pairs = pairs[pairs["time"] < pairs["at"]].sort_values(["time", "user", "item"])[["user", "item"]]
    pairs = pairs.drop_duplicates(keep="last")
    if known_to and len(pairs):
        pairs = pairs[
            ~np.all([releases.has_bought(ranking, pairs["user"], pairs["item"]) for ranking in known_to], axis=0)
        ]
    lists = pairs.assign(item=pairs["item"].astype(str)).groupby("user")["item"].agg(list)
    listed = lists.reindex(who["entity"])
    return [items if isinstance(items, list) else [] for items in listed]


def _with_features(lake: "Lake", statement: Problem, rows: "ibis.Table", lacking: list[str]) -> "ibis.Table":
    """`rows` with features that no single row gives, from everything before each row."""
    from mlloop import features

    raw = {f"raw__{name}": rows[name] for name in rows.columns}
    task = statement.task
    assert isinstance(task, Tabular)
    repeats = bool(task.entity and (rows[task.entity].nunique() < rows.count() * 0.5).execute())
    computed = features.row_features(statement, rows.mutate(**raw), list(raw), repeats, seasonal=True).tables["rows"]
    return computed.select(
        **{name: computed[f"raw__{name}"] for name in rows.columns},
        **{n: computed[n] for n in lacking if n in computed.columns},
    )


def names(statement: Problem, table: "pd.DataFrame", period: Period) -> list[str]:
    """The id of each row's answer: of problem, time and row, so the same in every call."""
    if isinstance(statement.task, Recommendation):
        return [storage.digest_json([statement.name, period.since.isoformat(), user])[:28] for user in table["user"]]
    task = statement.task
    key = (
        [c for c in (_time(statement), task.entity) if c]
        if task.entity
        else [c for c in table.columns if c != task.target]
    )
    lines = zip(*(table[c].astype(str) for c in key), strict=True)
    repeats: dict[tuple, int] = {}
    digests = []
    for line in lines:
        repeats[line] = repeats.get(line, -1) + 1
        digests.append(storage.digest_json([statement.name, *line, *([repeats[line]] if repeats[line] else [])])[:28])
    return digests


# ------------------------------------------------------------------------------------------------ labels


def labels(lake: "Lake", statement: Problem, since: dt.datetime, at: dt.datetime) -> "pd.DataFrame | None":
    """What `canary.gain` takes as the truth, as far as it had come at `at`: of rows, or what was bought, since `since`.

    A row's label comes `label_delay_days` after the row.
    """
    import pandas as pd

    if isinstance(statement.task, Recommendation):
        events = lake.read(f"{statement.name}/events")
        purchases = events.filter(
            (events.kind == statement.task.target_kind)
            & (events.time >= pd.Timestamp(since))
            & (events.time < pd.Timestamp(at))
            & ((events.quantity > 0) | events.quantity.isnull())
        )
        return purchases.select("user", "item", "time").to_pandas()
    if not lake.exists(f"{statement.name}/{ARRIVED}"):
        return None
    rows = lake.read(f"{statement.name}/{ARRIVED}")
    until = at - dt.timedelta(days=statement.time.label_delay_days)
    table = _between(rows, _time(statement), Period(since, max(since, until))).to_pandas()
    task = statement.task
    table = table.dropna(subset=[task.target]).sort_values(
        [c for c in (_time(statement), task.entity) if c], kind="stable"
    )
    if task.entity and not table[task.entity].duplicated().any():
        return table[[task.entity, task.target]]
    return pd.DataFrame({"id": names(statement, table, Period(since, at)), task.target: table[task.target].to_numpy()})


def labelled_rows(lake: "Lake", statement: Problem, since: dt.datetime | None, at: dt.datetime) -> int:
    """How many labels of rows since `since` had come at `at`; for recommendation, purchases."""
    import pandas as pd

    recommends = isinstance(statement.task, Recommendation)
    name = f"{statement.name}/{'events' if recommends else ARRIVED}"
    if not lake.exists(name):
        return 0
    rows = lake.read(name)
    column = "time" if recommends else _time(statement)
    until = at - dt.timedelta(days=0 if recommends else statement.time.label_delay_days)
    is_counted = (rows[column] < pd.Timestamp(until)) & (rows[column] >= pd.Timestamp(since or dt.datetime(1900, 1, 1)))
    is_counted &= (rows.kind == statement.task.target_kind) if recommends else rows[statement.task.target].notnull()  # type: ignore[union-attr]
    return int(rows.filter(is_counted).count().execute())


def rows_of(frame: "pd.DataFrame", release: releases.Release) -> list[Row]:
    """The asked rows of a log as `release` takes them."""
    return releases.rows_of(prediction_log.requests(frame), release.fields)
