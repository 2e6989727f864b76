"""What a table nobody has described hides: leaks of every kind, the time of its rows, their order, and guesses that must not decide."""

import numpy as np
import pandas as pd
import pytest

from mlloop import features, need_gate, problem, validation_gate
from mlloop.comparison import baselines, holdout
from mlloop.data import dependence, leaks
from mlloop.models import candidates
from mlloop.scaffold import project_files, survey, times

N = 1500


@pytest.fixture
def draw():
    return np.random.default_rng(11)


def columns(draw, n=N) -> pd.DataFrame:
    table = pd.DataFrame(draw.normal(size=(n, 4)).round(3), columns=["age", "income", "visits", "distance"])
    return table.assign(plan=draw.choice(list("abc"), n))


def signs(rows, y, kind="classification") -> dict[str, bool]:
    return {sign.column: sign.sure for sign in leaks.find(rows, pd.Series(np.asarray(y, dtype=float)), kind)}


def made(tmp_path, table: pd.DataFrame, target: str, **options):
    """The project that `mlloop new` makes of a table, and its statement."""
    table.to_csv(tmp_path / "table.csv", index=False)
    project = project_files.new(
        tmp_path / "own", project_files.ProjectOptions(str(tmp_path / "table.csv"), target=target, **options)
    )
    return project, problem.load(project.root / "problems" / "own.yaml")


# ---------------------------------------------------------------------------------------------- leaks


def test_a_clean_table_has_no_sign(draw):
    rows = columns(draw)
    assert signs(rows, rows.age + draw.normal(0, 1.5, N) > 0) == {}
    assert signs(rows, rows.age + draw.normal(0, 1.5, N), "regression") == {}


def test_a_bent_and_noisy_copy_of_a_number_is_kept_away(draw):
    rows, y = columns(draw), draw.gamma(3, 4, N)
    assert signs(rows.assign(sensor=np.log(y) * (1 + draw.normal(0, 0.002, N))), y, "regression") == {"sensor": True}


def test_the_strongest_honest_column_of_a_small_table_is_not_asked_about_and_an_echo_of_the_target_is(draw):
    age = draw.uniform(8, 18, 180)
    height = 90 + 4.5 * age + draw.normal(0, 6, 180)
    weight = 0.7 * height - 60 + draw.normal(0, 4, 180)
    rows = pd.DataFrame({"age": age, "height": height, "shoe": draw.normal(36, 2, 180)})
    assert signs(rows, weight, "regression") == {}
    noise = pd.DataFrame(draw.normal(size=(180, 3)), columns=list("abc"))
    assert signs(noise.assign(echo=weight + draw.normal(0, 5, 180)), weight, "regression") == {"echo": False}


def test_a_price_asked_and_the_percentage_paid_of_it_are_asked_about(draw):
    size = draw.gamma(9, 20, N)
    asked = 1000 * size * draw.lognormal(0, 0.2, N)
    paid = asked * draw.normal(0.96, 0.07, N)
    rows = columns(draw).assign(size=size, asked=asked, percent=100 * paid / asked)
    assert signs(rows, paid, "regression") == {"asked": False, "percent": False}


def test_what_is_left_of_a_fixed_total_is_asked_about(draw):
    work, leisure = draw.normal(45, 9, N), draw.normal(60, 8, N)
    rows = columns(draw).assign(work=work, leisure=leisure)
    assert signs(rows, 168 - work - leisure, "regression") == {"work": False, "leisure": False}


def test_many_columns_that_tell_two_classes_apart_are_no_reason_to_ask(draw):
    tumour, grade = draw.random(N) < 0.35, draw.normal(0, 1, N)
    of_class = lambda: np.where(tumour, draw.normal(7 + 1.5 * grade, 1.5), draw.normal(1.6 + 0.5 * grade, 0.8))
    cells = {f"v{i}": np.clip(of_class().round(), 1, 10) for i in range(8)}
    assert signs(pd.DataFrame(cells), tumour) == {}


def test_columns_named_after_the_target_or_measured_with_it_are_asked_about(draw):
    close = pd.Series(100 + draw.normal(0, 1, N).cumsum(), name="close")
    adjusted = close * np.linspace(0.9, 1, N) + draw.normal(0, 0.4, N)
    rows = columns(draw).assign(
        low=close - draw.gamma(2, 1.5, N), high=close + draw.gamma(2, 1.5, N), adj_close=adjusted
    )
    rows["close_lag_1"] = close.shift().bfill() + draw.normal(0, 3, N)
    asked = {sign.column: sign.sure for sign in leaks.find(rows, close, "regression")}
    assert asked.get("adj_close") is False and "close_lag_1" not in asked and {"low", "high"} <= set(asked)
    late = pd.Series(draw.normal(8, 30, N).round(), name="ArrDelay")
    flights = columns(draw).assign(
        AirTime=draw.normal(140, 40, N).round(), CRSElapsedTime=draw.normal(160, 40, N).round()
    )
    assert [(sign.column, sign.sure) for sign in leaks.find(flights, late, "regression")] == [("AirTime", False)]


def test_a_copy_in_another_unit_of_which_some_rows_are_wrong_is_kept_away(draw):
    ounces = draw.normal(119, 20, N).round()
    pounds = np.where(draw.random(N) < 0.006, 0.06, ounces / 16)
    assert signs(columns(draw).assign(pounds=pounds), ounces, "regression") == {"pounds": True}


def test_a_refund_that_is_zero_unless_the_customer_left_is_kept_away(draw):
    y = draw.random(N) < 0.3
    assert signs(columns(draw).assign(refund=np.where(y, draw.gamma(2, 30, N), 0)), y) == {"refund": True}


def test_a_benefit_that_only_loyal_customers_have_is_asked_about(draw):
    y = draw.random(N) < 0.4
    assert signs(
        columns(draw).assign(parking=np.where(~y & (draw.random(N) < 0.15), 1 + draw.integers(0, 3, N), 0)), y
    ) == {"parking": False}


def test_flags_whose_union_is_the_target_are_kept_away(draw):
    kinds = pd.DataFrame({name: (draw.random(N) < 0.02).astype(int) for name in ("heat", "wear", "power")})
    assert signs(columns(draw).join(kinds), kinds.any(axis=1)) == dict.fromkeys(kinds, True)


def test_a_total_that_contains_the_target_is_kept_away_and_its_other_parts_are_not(draw):
    rows, tip = columns(draw).assign(fare=draw.gamma(3, 5, N).round(2)), draw.gamma(1, 2, N).round(2)
    assert signs(rows.assign(total=rows.fare + tip + 0.5), tip, "regression") == {"total": True}


def test_the_end_of_a_ride_is_kept_away_from_its_duration(draw):
    start = pd.Timestamp("2024-03-01") + pd.to_timedelta(draw.integers(0, 10**6, N), "s")
    took = draw.gamma(2, 400, N).round()
    assert signs(
        columns(draw).assign(pickup=start, dropoff=start + pd.to_timedelta(took, "s")), took, "regression"
    ) == {"dropoff": True}


@pytest.mark.parametrize("size", [3, 10, 40])
def test_a_mean_that_contains_the_row_is_kept_away(draw, size):
    y, group = pd.Series((draw.random(N) < 0.4).astype(float)), pd.Series(draw.permutation(N) // size)
    rows = columns(draw).assign(customer=group.astype(str), share_returned=y.groupby(group).transform("mean"))
    assert signs(rows, y)["share_returned"] is True


def survival(draw, n=N) -> tuple[pd.DataFrame, np.ndarray]:
    """Patients of a study: the days to a relapse and to death, or to when each was last seen."""
    risk = draw.normal(size=n)
    death, relapse = draw.exponential(3000 * np.exp(-0.7 * risk)), draw.exponential(2000 * np.exp(-0.7 * risk))
    seen = draw.uniform(500, 5000, n)
    rows = columns(draw, n).assign(size=(risk + draw.normal(0, 1, n)).round(2), ended=np.minimum(death, seen).round())
    rows["relapsed"] = np.minimum(relapse, rows.ended).round()
    return rows.assign(recur=(rows.relapsed < rows.ended).astype(int)), death < seen


def moving(rows, y, whose=None) -> set[str]:
    order = pd.Series(np.arange(len(y))) if whose is None else y.groupby(whose).cumcount()
    return {sign.column for sign in leaks.moving_signs(pd.DataFrame(rows), y, order, whose)}


@pytest.mark.parametrize("target", ["population", "co2"])
def test_a_country_s_own_figures_are_kept_and_what_is_reckoned_from_the_target_is_not(draw, target):
    countries, years = 60, 40
    country = pd.Series(np.repeat(np.arange(countries), years))
    own = lambda mean, spread: draw.normal(mean, spread, countries)[:, None]
    noisy = lambda values, spread: values * np.exp(draw.normal(0, spread, (countries, years)))
    population = noisy(np.exp(own(16, 1.6) + own(0.015, 0.03) * np.arange(years)), 0.0003)
    labour, co2 = noisy(population * np.exp(own(-0.8, 0.05)), 0.001), noisy(population * np.exp(own(1, 0.05)), 0.001)
    rows = pd.DataFrame({"population": population.ravel(), "labour": labour.ravel(), "co2": co2.ravel()})
    y = rows.pop(target)
    by = y.groupby(country)
    rows["mean_5"], rows["change"] = by.rolling(5).mean().droplevel(0), by.diff()
    rows["mean_5_before"], rows["change_before"] = (rows[n].groupby(country).shift() for n in ("mean_5", "change"))
    assert moving(rows, y, country) == {"mean_5", "change"}


def smooth(draw, kind: str) -> pd.Series:
    if kind == "twice summed":
        return pd.Series(draw.normal(0, 1, 2000).cumsum().cumsum())
    if kind == "seasons":
        return pd.Series(100 + 30 * np.sin(np.arange(2000) * np.pi / 12) + draw.normal(0, 1, 2000))
    drift = pd.Series(draw.normal(0, 0.02, 2000)).ewm(alpha=0.03).mean() * 33
    return (60 + drift.cumsum()).round(2)


@pytest.mark.parametrize("kind", ["tank", "twice summed", "seasons"])
def test_what_the_rows_before_tell_of_a_smooth_series_is_no_leak(draw, kind):
    y = smooth(draw, kind)
    before = y.shift()
    means = {f"mean_{n}": before.rolling(n).mean() for n in (2, 3, 7, 11, 22, 24, 100, 150)}
    honest = means | {"ewm": before.ewm(span=7).mean(), "so_far": before.expanding().mean(), "before": before}
    assert (
        moving(honest | {"change": before.diff(), "before_2": y.shift(2), "max": before.rolling(7).max()}, y) == set()
    )
    leaky = {"own_7": y.rolling(7).mean(), "next": y.shift(-1), "change": y.diff(), "own_24": y.rolling(24).sum()}
    assert moving(honest | leaky, y) == set(leaky)


def test_nothing_is_said_of_series_that_the_rows_before_tell_wholly():
    i = np.arange(400.0)
    for y in (i, i**2, i**3, np.exp(i / 100), np.sin(i / 9), np.full(400, 0.1)):
        before = pd.Series(y).shift()
        assert (
            moving({"before": before, "mean": before.rolling(5).mean(), "two": before.shift()}, pd.Series(y)) == set()
        )


def test_times_with_a_zone_are_read_as_those_without(draw):
    start = pd.Series(pd.Timestamp("2024-03-30") + pd.to_timedelta(draw.integers(0, 3 * 86400, N), unit="s"))
    minutes = draw.gamma(3, 10, N).round(1)
    plain = columns(draw).assign(start=start, end=start + pd.to_timedelta(minutes, unit="min"))
    zoned = plain.assign(**{n: plain[n].dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin") for n in ("start", "end")})
    assert signs(zoned, minutes, "regression") == signs(plain, minutes, "regression") != {}
    assert signs(zoned, minutes > 30) == signs(plain, minutes > 30)


@pytest.mark.parametrize(
    ("ended", "relapsed"), [("dtime", "rtime"), ("survival_days", "days_to_relapse"), ("t1", "t2")]
)
def test_times_until_an_event_and_the_flag_of_an_earlier_one_are_asked_about(draw, ended, relapsed):
    rows, died = survival(draw)
    named = rows.rename(columns={"ended": ended, "relapsed": relapsed})
    assert signs(named, died) == {ended: False, relapsed: False, "recur": False}


def test_an_honest_length_of_time_is_not_asked_about(draw):
    tenure = draw.exponential(30, N)
    y = draw.random(N) < 1 / (1 + np.exp(0.03 * (tenure - 30)))
    assert signs(columns(draw).assign(tenure_months=tenure, time_in_hospital=draw.poisson(4, N)), y) == {}


def hhmm(minutes) -> np.ndarray:
    return np.asarray(minutes) % 1440 // 60 * 100 + np.asarray(minutes) % 60


@pytest.mark.parametrize("names", [("arr_time", "sched_arr_time"), ("ready", "promised")])
def test_a_clock_written_as_a_number_that_gives_the_delay_is_kept_away(draw, names):
    due, delay = draw.integers(300, 1439, N), (draw.gamma(1, 40, N) - 20).round()
    rows = columns(draw).assign(**{names[0]: hhmm(due + delay.astype(int)), names[1]: hhmm(due)})
    assert signs(rows, delay, "regression") == {names[0]: True}
    assert signs(rows, delay > 15) == {names[0]: True}


def test_a_class_cut_from_the_target_is_asked_about_though_some_of_its_values_are_not(draw):
    knots = draw.gamma(4, 12, N).round()
    status = np.array(["depression", "storm", "hurricane"])[np.digitize(knots, [34, 64])]
    status[draw.random(N) < 0.3] = "extratropical"
    rows = columns(draw).assign(pressure=1010 - knots / 2 + draw.normal(0, 12, N), status=status)
    assert signs(rows, knots, "regression")["status"] is False
    assert "status" not in signs(rows.assign(status=draw.permutation(status)), knots, "regression")


def test_both_of_a_pair_are_asked_about_where_either_may_be_honest(draw):
    lent = draw.gamma(2, 5000, N)
    total = lent * np.where(draw.random(N) < 0.3, draw.uniform(0.9, 0.99, N), 1.05)
    assert signs(columns(draw).assign(loan_amnt=lent, total_pymnt=total), total < lent) == {
        "loan_amnt": False,
        "total_pymnt": False,
    }


def test_a_column_that_towers_over_a_weak_field_is_asked_about(draw):
    y = draw.random(N) < 0.3
    assert signs(columns(draw).assign(seconds_on_call=np.exp(4 + 1.5 * y + draw.normal(0, 0.8, N))), y) == {
        "seconds_on_call": False
    }


# ---------------------------------------------------------------------------------------------- the time, the order, the rows


def test_the_time_is_that_of_the_arrival_and_not_the_date_of_a_status(tmp_path, draw):
    arrival = pd.Timestamp("2023-01-01") + pd.to_timedelta(np.sort(draw.integers(0, 600, N)), "D")
    left = draw.random(N) < 0.4
    written = arrival + pd.to_timedelta(np.where(left, -draw.integers(1, 90, N), draw.integers(1, 14, N)), "D")
    table = columns(draw).assign(
        arrival_date_year=arrival.year, arrival_date_month=arrival.month_name(), arrival_date_day_of_month=arrival.day,
        status_date=written.strftime("%Y-%m-%d"), canceled=left.astype(int),
    )  # fmt: skip
    project, statement = made(tmp_path, table, "canceled")
    assert statement.time.column == "arrival_date" and statement.tables["rows"].columns["arrival_date"].made_of
    assert statement.tables["rows"].columns["status_date"].known == "after" and "status_date" in project.leaks


def test_a_file_in_the_order_of_time_is_not_shuffled(tmp_path, draw):
    state = (np.convolve(draw.normal(size=N + 7), np.ones(8), "valid") > 0).astype(int)
    table = columns(draw).assign(place=np.arange(N) / 7 + draw.normal(0, 0.2, N), up=state)
    project, statement = made(tmp_path, table, "up")
    contract = statement.tables["rows"].columns
    assert statement.time.column == "row_time" and contract["row_time"].row_seconds
    assert not contract["place"].feature and contract["age"].feature  # the first only grows with the rows
    assert any("not shuffled" in said for _, said in project.notes)
    assert any("the last" in said and "2000-" not in said for key, said in project.notes if key == "folds")
    assert not baselines.is_calendar(statement) and features.history_of(False, calendar=False) == ["before_target_last"]


def test_a_file_sorted_by_its_target_is_shuffled():
    assert not dependence.stands_in_order(np.sort(np.random.default_rng(0).random(2000) < 0.3))


def test_repeated_rows_are_told_and_stay_on_one_side_of_a_fold(tmp_path, draw):
    table = columns(draw, 400).assign(y=(draw.random(400) < 0.5).astype(int))
    table = pd.concat([table, table.head(150)], ignore_index=True)
    project, statement = made(tmp_path, table, "y")
    assert any("150 of 550 rows repeat" in said for _, said in project.notes)
    ready = baselines.prepare_rows(statement, table)
    for train, test in baselines.fold_positions(ready, 4):
        assert not set(map(tuple, table.iloc[train].to_numpy())) & set(map(tuple, table.iloc[test].to_numpy()))


def test_rows_alike_in_many_columns_count_once(tmp_path, draw):
    table = columns(draw, 400).join(columns(draw, 400).add_suffix("_2")).assign(y=(draw.random(400) < 0.5).astype(int))
    project, statement = made(tmp_path, pd.concat([table, table.head(150)]), "y")
    assert [rule.rule for rule in statement.tables["rows"].cleaning] == ["duplicates"]
    assert any("150 of 550 rows repeat" in said and "counts once" in said for _, said in project.notes)


def test_rows_of_one_patient_belong_together(tmp_path, draw):
    ill = draw.random(200) < 0.4
    table = columns(draw, 1000).assign(patient_id=np.repeat(np.arange(200), 5), ill=np.repeat(ill, 5).astype(int))
    _, statement = made(tmp_path, table.sample(frac=1, random_state=0), "ill")
    assert statement.task.entity == "patient_id"


def test_a_number_far_from_all_others_in_several_columns_counts_as_missing(tmp_path, draw):
    table = (columns(draw).assign(y=draw.normal(20, 3, N)).round(2)).drop(columns="plan") + 50
    for name in ("age", "income", "y"):
        table.loc[draw.random(N) < 0.05, name] = -200
    project, statement = made(tmp_path, table, "y")
    assert statement.tables["rows"].columns["income"].missing and any(
        "-200" in s.replace("−", "-") for _, s in project.notes
    )
    assert "rows without it are left out" in dict(project.notes)["question"]


def test_windows_over_a_gap_hold_rows_in_every_fold(draw):
    days = np.concatenate([draw.integers(0, 200, 800), draw.integers(500, 560, 700)])
    at = pd.Series(pd.Timestamp("2023-01-01") + pd.to_timedelta(np.sort(days), "D"))
    windows = times.filled(survey.windows_of(at), at)
    until = pd.Timestamp(windows["as_of"]) - pd.Timedelta(days=windows["holdout_days"])
    for k in range(1, windows["folds"] + 1):
        begin = until - pd.Timedelta(days=windows["fold_days"] * k)
        assert ((at >= begin) & (at < begin + pd.Timedelta(days=windows["fold_days"]))).any()


# ---------------------------------------------------------------------------------------------- guesses, and the owner's word


def stated(threshold=0.61, guessed=True, **money) -> problem.Problem:
    return problem.Problem.model_validate({
        "name": "churn", "question": "?", "decision": "!",
        "task": {"kind": "classification", "table": "rows", "target": "y", "positive": 1},
        "sources": {"rows": {"kind": "files", "path": "x.csv"}},
        "tables": {"rows": {"source": "rows", "columns": {"a": {"type": "number"}, "y": {"type": "integer"}}}},
        "rules": [{"name": "r", "meaning": "r", "score": "a"}], "money": money,
        "success": {"metric": "roc_auc", "threshold": threshold, "min_gain": 0.02}, "need": {"min_rows": 500},
        "guessed": {"success.threshold": threshold, "need.min_rows": 500} if guessed else {},
    })  # fmt: skip


def contest(model=0.75, rule=0.62, rows=8000, asked=()) -> dict:
    figure = lambda value: {"value": value, "low": value - 0.005, "high": value + 0.005, "n": rows}
    row = lambda name, kind, value: {"name": name, "kind": kind, "meaning": name, "metric": figure(value)}
    gain = {
        "value": model - rule,
        "low": model - rule - 0.01,
        "high": model - rule + 0.01,
        "n": rows,
        "folds": [model - rule] * 4,
    }
    return {
        "task": "classification",
        "metric": "roc_auc",
        "data": {"rows": rows, "minority": 2000},
        "contenders": [row("r", "rule", rule), row("cheap_model", "model", model)],
        "model": "cheap_model",
        "best_rule": "r",
        "best_paying": "r",
        "gain": gain,
        "more_worth": {"value": 9.0, "low": 8.0, "high": 10.0, "n": 1},
        "left_out": [],
        "timeless": False,
        "asked": list(asked),
    }


def test_a_guessed_target_below_the_rule_does_not_say_no():
    assert (
        need_gate.decide(contest(), stated(guessed=False, true_positive=5))["verdict"] == "maybe"
    )  # a rule meets a target that somebody stated
    judged = need_gate.decide(contest(), stated(true_positive=5))
    assert judged["verdict"] == "yes" and any("No target is stated" in reason for reason in judged["reasons"])


def test_a_changed_value_is_no_guess_any_more():
    statement = stated()
    assert statement.is_guess("success.threshold")
    changed = statement.model_copy(update={"success": statement.success.model_copy(update={"threshold": 0.7})})
    assert not changed.is_guess("success.threshold")


def test_a_guessed_number_of_rows_warns_and_a_stated_one_refuses():
    few = contest(rows=300)
    assert need_gate.decide(few, stated(true_positive=5))["verdict"] == "maybe"
    assert need_gate.decide(few, stated(guessed=False, true_positive=5))["verdict"] == "no"


def test_no_policy_promotes_what_nobody_asked_for():
    (open_question,) = validation_gate.stated_by_a_person(stated())
    assert open_question.passed is None and "mlloop promote" in open_question.reason
    assert validation_gate.stated_by_a_person(stated(true_positive=5)) == []
    assert validation_gate.stated_by_a_person(stated(guessed=False)) == []


def test_a_model_that_rests_on_an_asked_column_gets_at_most_maybe():
    asked = {
        "column": "duration",
        "sign": "alone tells more than all others",
        "value": 0.95,
        "without": 0.57,
        "rests": True,
    }
    judged = need_gate.decide(contest(model=0.95, asked=[asked]), stated(true_positive=5))
    assert judged["verdict"] == "maybe" and judged["deciding"] == "duration is known before"
    assert (
        need_gate.decide(contest(model=0.95, asked=[{**asked, "rests": False}]), stated(true_positive=5))["verdict"]
        == "yes"
    )
    assert validation_gate.owners_word({"asked": [asked]})[0].passed is None


def test_advice_on_a_metric_that_runs_downwards_points_downwards():
    figures = contest(model=8.0, rule=9.0) | {"task": "regression", "metric": "mae"}
    figures["gain"] = {"value": 1.0, "low": 0.5, "high": 1.5, "n": 1, "folds": [1.0] * 4}
    statement = stated(guessed=False).model_copy(
        update={"success": problem.Success(metric="mae", threshold=10.0, min_gain=0.1)}
    )
    said = need_gate._rule_suffices(figures, statement, pays=False)
    assert "set a target below 9" in said.must_change


# ---------------------------------------------------------------------------------------------- rules and candidates


def test_both_gates_hold_a_model_against_the_same_rules(draw):
    at = pd.Series(pd.date_range("2024-01-01", periods=1200, freq="h"))
    rows = columns(draw, 1200).assign(at=at, y=at.dt.hour * 10.0 + draw.normal(0, 5, 1200), rule_r=0.0)
    kinds = {"at": "time", "plan": "category"}
    declared = {n: problem.Column(type=kinds.get(n, "number")) for n in [*columns(draw, 2), "at", "y"]}
    statement = stated().model_copy(update={
        "task": problem.Tabular(kind="regression", table="rows", target="y"), "time": problem.Time(column="at"),
        "success": problem.Success(metric="mae", threshold=5.0),
        "tables": {"rows": problem.Table(source="rows", columns=declared)},
        "rules": [problem.Rule(name="r", meaning="r", score="age")],
    })  # fmt: skip
    need = {who.name for who in baselines.tabular_contenders(statement, baselines.prepare_rows(statement, rows))}
    model = candidates.build("linear", statement.task).fit(rows[["age"]][:900], rows["y"][:900])
    held = holdout.held_rows(statement, model, rows[:900], rows[900:].reset_index(drop=True), ["age"])
    assert (
        need - {"cheap_model"} <= {who.name for who in held.contenders}
        and {"hour_of_week", "last_value", "last_week"} <= need
    )
    figures = {name: held.fold.figure(name).value for name in ("hour_of_week", "constant")}
    assert figures["hour_of_week"] < 10 < figures["constant"]


def test_a_candidate_is_fitted_to_what_it_is_judged_by():
    number = stated().model_copy(update={"task": problem.Tabular(kind="regression", table="rows", target="y")})
    suited = lambda metric: candidates.suited(
        candidates.CANDIDATES["lightgbm"],
        number.model_copy(update={"success": problem.Success(metric=metric, threshold=1.0)}),
    )
    assert suited("mae") == {"objective": "l1"} and suited("rmse") == {"objective": "l2"}
    assert suited("mape") == {"objective": "mape"} and suited("pinball_90") == {"objective": "quantile", "alpha": 0.9}
    assert suited("poisson_deviance") == {"objective": "poisson"} and suited("rmsle") == {"objective": "tweedie"}
    assert baselines.cheap_model("regression", "mape").objective == "mape"


def test_what_came_before_is_no_count_of_rows_where_rows_belong_to_nobody():
    assert not {"before_rows", "before_target_mean"} & set(features.history_of(False))


def test_a_delay_is_asked_about_though_the_clocks_that_make_it_up_stand_beside_it():
    r = np.random.default_rng(0)
    n = 4000
    minutes, late, miles = r.integers(300, 1100, n), r.gamma(0.6, 30, n).round(), r.integers(200, 2500, n)
    clock = lambda m: m // 60 * 100 + m % 60
    rows = pd.DataFrame({"sched_dep": clock(minutes), "dep": clock(minutes + late).astype(int), "dep_delay": late})
    rows = rows.assign(distance=miles, air_time=(miles / 8 + r.normal(0, 8, n)).round())
    arrival = pd.Series(late + r.normal(0, 8, n).round())
    signs = {sign.column: sign for sign in leaks.find(rows, arrival, "regression")}
    assert not signs["dep_delay"].sure and "alone tells more" in signs["dep_delay"].reason
    assert set(signs) == {"dep_delay", "dep"} and "together are dep_delay, which is asked about" in signs["dep"].reason
