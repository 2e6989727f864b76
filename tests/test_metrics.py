"""Metrics against scikit-learn, scipy, papers and figures worked by hand; intervals against known truth."""

from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics as sk
from scipy import sparse, stats

from mlloop.core import metric_table, metrics
from mlloop.core.errors import DataError, UsageError

MONEY = SimpleNamespace(
    true_positive=10.0,
    false_positive=-4.0,
    false_negative=-1.0,
    true_negative=0.5,
    per_unit_error=2.0,
    per_hit=0.9,
    decisions_per_period=100,
)


def draw(n=400, seed=0, ties=True):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(int)
    s = 1 / (1 + np.exp(-(rng.normal(size=n) + y)))
    return y, np.round(s, 1) if ties else s


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("roc_auc", sk.roc_auc_score),
        ("average_precision", sk.average_precision_score),
        ("accuracy", lambda y, s: sk.accuracy_score(y, s >= 0.5)),
        ("f1", lambda y, s: sk.f1_score(y, s >= 0.5)),
        ("log_loss", sk.log_loss),
        ("brier", sk.brier_score_loss),
    ],
)
def test_classification_metrics_equal_those_of_scikit_learn(name, reference, ties):
    y, s = draw(ties=ties)
    assert metrics.measure(name, y, s) == pytest.approx(reference(y, s), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("mae", sk.mean_absolute_error),
        ("rmse", sk.root_mean_squared_error),
        ("r2", sk.r2_score),
        ("mape", sk.mean_absolute_percentage_error),
    ],
)
def test_regression_metrics_equal_those_of_scikit_learn(name, reference):
    rng = np.random.default_rng(1)
    y = rng.normal(50, 9, 300)
    p = y + rng.normal(1, 4, 300)
    assert metrics.measure(name, y, p) == pytest.approx(reference(y, p), rel=1e-12)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "f1", "r2", "rmse"])
def test_a_weight_of_two_is_the_row_written_twice(name):
    y, s = draw(60)
    counts = np.random.default_rng(2).integers(0, 4, 60)
    reference = {
        "roc_auc": sk.roc_auc_score,
        "average_precision": sk.average_precision_score,
        "f1": lambda a, b: sk.f1_score(a, b >= 0.5),
        "r2": sk.r2_score,
        "rmse": sk.root_mean_squared_error,
    }[name]
    weighted = metrics._weighted(name, y.astype(float), s)(counts[None, :].astype(float))[0]
    assert weighted == pytest.approx(reference(np.repeat(y, counts), np.repeat(s, counts)), abs=1e-12)


def test_calibration_error_by_hand():
    # bin 0.0-0.1: scores .05 .05, one of two positive: gap 0.45 * 2 rows; bin 0.9-1.0: scores .95 .95, both: 0.05 * 2
    assert metrics.measure("ece", [0, 1, 1, 1], [0.05, 0.05, 0.95, 0.95]) == pytest.approx((0.45 * 2 + 0.05 * 2) / 4)


def test_calibration_error_lies_within_its_interval():
    rng = np.random.default_rng(12)
    p = rng.random(3000)
    found = metrics.estimate("ece", (rng.random(3000) < p).astype(int), p)
    assert 0 <= found.low < found.value < found.high < 0.05


def test_auc_is_the_mann_whitney_statistic_of_scipy():
    y, s = draw()
    u = stats.mannwhitneyu(s[y == 1], s[y == 0]).statistic
    assert metrics.measure("roc_auc", y, s) == pytest.approx(u / ((y == 1).sum() * (y == 0).sum()), abs=1e-12)


def test_delong_variance_by_hand():
    # positives 3 1 2, negatives 0 2: psi rows (1,1) (1,0) (1,.5): V10 = 1, .5, .75 (variance .0625);
    # V01 = 1, .5 (variance .125); eq. 6: .0625/3 + .125/2 = .083333; z(0.5) two-sided = 0.6744898
    found = metrics.delong([1, 1, 1, 0, 0], [3, 1, 2, 0, 2], confidence=0.5)
    assert found.value == pytest.approx(0.75)
    assert found.high - found.value == pytest.approx(0.6744898 * np.sqrt(0.0833333), abs=1e-6)


def test_paired_delong_sees_what_the_two_scores_share():
    y, s = draw(2000, ties=False)
    slightly_better = s + 0.02 * y
    alone = metrics.delong(y, s)
    gain = metrics.delong(y, slightly_better, s)
    assert gain.value == pytest.approx(sk.roc_auc_score(y, slightly_better) - sk.roc_auc_score(y, s), abs=1e-12)
    assert gain.low > 0 and gain.high - gain.low < 0.2 * (alone.high - alone.low)


def test_delong_and_bootstrap_tell_the_same_interval():
    y, s = draw(1500)
    one, other = (
        metrics.estimate("roc_auc", y, s),
        metrics.estimate("roc_auc", y, s, groups=np.arange(1500), draws=2000),
    )
    assert (one.method, other.method) == ("DeLong", "bootstrap")
    # two estimates of a width of 0.06; 2,000 draws leave about 3 % on each end
    assert other.low == pytest.approx(one.low, abs=0.004) and other.high == pytest.approx(one.high, abs=0.004)


@pytest.mark.parametrize(
    ("name", "statistic"),
    [("average_precision", sk.average_precision_score), ("brier", sk.brier_score_loss), ("log_loss", sk.log_loss)],
)
def test_bootstrap_agrees_with_scipy(name, statistic):
    y, s = draw(300)
    reference = stats.bootstrap(
        (y, s),
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=800,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    found = metrics.estimate(name, y, s, draws=4000)
    width = reference.high - reference.low
    # the end of 800 draws is uncertain by about 5 % of the width
    assert found.low == pytest.approx(reference.low, abs=0.15 * width)
    assert found.high == pytest.approx(reference.high, abs=0.15 * width)


def test_mean_interval_is_the_normal_one_for_many_rows():
    values = np.random.default_rng(3).normal(5, 2, 4000)
    found = metrics.estimate_mean(values, draws=4000)
    low, high = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    # 4,000 draws: each end uncertain by about 2 % of the width, 0.12
    assert (found.low, found.high) == (pytest.approx(low, abs=0.008), pytest.approx(high, abs=0.008))


def test_t_interval_equals_that_of_scipy_and_with_groups_that_of_statsmodels():
    import statsmodels.api as sm

    values = np.random.default_rng(8).exponential(3, 40)
    found = metrics.estimate_mean(values, draws=0)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 39, values.mean(), stats.sem(values)))
    person = np.random.default_rng(9).integers(0, 12, 40)
    clustered = sm.OLS(values, np.ones(40)).fit(cov_type="cluster", cov_kwds={"groups": person}, use_t=True)
    grouped = metrics.estimate_mean(values, groups=person, draws=0)
    assert (grouped.low, grouped.high) == pytest.approx(tuple(clustered.conf_int()[0]), rel=1e-9)


def test_paying_threshold_is_where_acting_breaks_even_also_for_probabilities_that_are_off():
    rng = np.random.default_rng(10)
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    # act where p * (10 + 1) > (1 - p) * (4 + 0.5): p > 4.5 / 15.5 = 0.2903
    assert metrics.paying_threshold(y, p, MONEY) == pytest.approx(0.2903, abs=0.01)
    overconfident = p**3 / (p**3 + (1 - p) ** 3)  # logits times three
    found = metrics.paying_threshold(y, overconfident, MONEY)
    assert found == pytest.approx(0.2903**3 / (0.2903**3 + 0.7097**3), abs=0.01)


def test_best_cut_is_the_best_by_trying_all():
    y, s = draw(200)
    for name in ("accuracy", "f1"):
        tried = [metrics.measure(name, y, s, t) for t in [-9, 9, *(np.unique(s) - 0.01)]]
        assert metrics.measure(name, y, s, metrics.best_cut(name, y, s)) == pytest.approx(max(tried))


def test_rows_of_one_person_count_as_one():
    rng = np.random.default_rng(4)
    person = np.repeat(np.arange(100), 20)
    values = rng.normal(size=100)[person]
    rows, persons = metrics.estimate_mean(values), metrics.estimate_mean(values, groups=person)
    expected = np.sqrt(20)  # the same 100 values, wrongly taken for 2,000
    assert (persons.high - persons.low) / (rows.high - rows.low) == pytest.approx(expected, rel=0.15)


def test_intervals_cover_the_truth_as_often_as_they_say():
    covered = {"DeLong": 0, "bootstrap": 0}
    truth = stats.norm.cdf(1 / np.sqrt(2))  # binormal scores one standard deviation apart
    for seed in range(200):
        rng = np.random.default_rng(seed)
        y = np.arange(200) % 2
        s = rng.normal(size=200) + y
        for found in (metrics.delong(y, s), metrics.estimate("roc_auc", y, s, groups=np.arange(200), draws=300)):
            covered[found.method] += found.low <= truth <= found.high
    # 190 of 200 expected; 4 standard deviations of a binomial are 12
    assert all(178 <= n <= 200 for n in covered.values()), covered


def test_a_gain_is_positive_when_we_are_better_whichever_way_the_metric_runs():
    y = np.arange(50.0)
    near, far = y + 1, y + 3
    gain = metrics.compare("mae", y, near, far)
    assert (gain.value, gain.low, gain.high) == (2, 2, 2)
    assert metrics.metric("mae").gain(1, 3) == 2 and metrics.metric("r2").gain(0.5, 0.4) == pytest.approx(0.1)
    assert metrics.metric("mae").meets(1, 2) and not metrics.metric("mae").meets(3, 2)
    assert not metrics.metric("mae").meets(float("nan"), 2)
    assert not metrics.metric("r2").meets(float("inf"), 0.5)


def test_two_models_of_equal_truth_differ_by_chance_in_five_of_a_hundred():
    differing = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        y = np.arange(300) % 2
        shared = rng.normal(size=300) + y
        gain = metrics.compare("roc_auc", y, shared + rng.normal(size=300), shared + rng.normal(size=300))
        differing += gain.low > 0 or gain.high < 0
    assert differing <= 27  # 15 expected; 3 standard deviations of a binomial are 11


def test_folds_add_the_spread_between_periods():
    same = [metrics.Estimate(0.8, 0.78, 0.82, 500)] * 4
    moving = [metrics.Estimate(v, v - 0.02, v + 0.02, 500) for v in (0.7, 0.77, 0.83, 0.9)]
    steady, unsteady = metrics.over_folds(same), metrics.over_folds(moving)
    assert steady.high - steady.value == pytest.approx(0.02 / np.sqrt(4))  # four independent folds halve the error
    assert unsteady.value == pytest.approx(0.8) and unsteady.n == 2000
    expected = stats.norm.interval(0.95, 0.8, stats.sem([0.7, 0.77, 0.83, 0.9]))
    assert (unsteady.low, unsteady.high) == pytest.approx(expected)
    bounded = metrics.over_folds(moving, 0.75, 0.82)
    assert (bounded.low, bounded.high) == (0.75, 0.82)


# ---- ranking


def test_ranking_by_hand():
    scores = np.array([[9, 8, 7, 6, 5.0], [9, 8, 7, 6, 5.0]])
    wanted = np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 1]], dtype=bool)
    found = metrics.ranking_values(scores, wanted, k=4)
    # user 1: wanted at places 2 and 4: DCG 1/log2(3) + 1/log2(5) = 1.06160; best 1 + 1/log2(3) = 1.63093
    assert found["ndcg"] == pytest.approx([1.0616063 / 1.6309298, 0.0], abs=1e-6)
    assert found["map"] == pytest.approx([(1 / 2 + 2 / 4) / 2, 0.0])
    assert found["recall"].tolist() == [1.0, 0.0] and found["hit_rate"].tolist() == [1.0, 0.0]
    assert found["hits"].tolist() == [2.0, 0.0]


def test_more_wanted_than_places_is_judged_by_the_places():
    found = metrics.ranking_values(np.array([[4, 3, 2, 1.0]]), np.array([[1, 0, 1, 1]], dtype=bool), k=2)
    # best list of two: 1 + 1/log2(3) = 1.63093; ours: 1; average precision 1/1 over min(3, 2) wanted
    assert found["ndcg"] == pytest.approx([1 / 1.6309298], abs=1e-6) and found["map"] == pytest.approx([0.5])
    assert found["recall"] == pytest.approx([1 / 3])


def test_ndcg_equals_that_of_scikit_learn():
    rng = np.random.default_rng(6)
    scores, wanted = rng.normal(size=(40, 30)), rng.random((40, 30)) < 0.1
    wanted[:, 0] |= ~wanted.any(axis=1)
    found = metrics.ranking_values(scores, wanted, k=10)["ndcg"]
    assert found.mean() == pytest.approx(sk.ndcg_score(wanted, scores, k=10), abs=1e-12)


def test_ties_never_help():
    wanted = np.array([[1, 0, 0, 0, 1]], dtype=bool)
    constant = metrics.relevant_ranks(np.zeros((1, 5)), wanted)[1]
    assert sorted(constant) == [4, 5]  # behind the three unwanted ones, in front of nobody
    assert metrics.ranking_values(np.zeros((1, 5)), wanted, k=3)["hits"][0] == 0
    assert metrics.relevant_ranks(np.array([[2, 2, 1, 0, 3.0]]), wanted)[1].tolist() == [3, 1]


def test_what_may_not_be_shown_is_no_hit_even_in_a_short_catalogue():
    scores = np.array([[-np.inf, 1.0, 2.0]])
    assert metrics.ranking_values(scores, np.array([[1, 0, 0]], dtype=bool), k=10)["hits"][0] == 0


def test_sparse_and_dense_wants_are_the_same_and_a_user_without_wants_has_no_figure():
    scores = np.random.default_rng(7).normal(size=(3, 8))
    wanted = np.zeros((3, 8), dtype=bool)
    wanted[0, 3] = wanted[2, 5] = True
    dense, thin = (metrics.ranking_values(scores, w, 5) for w in (wanted, sparse.csr_matrix(wanted)))
    assert all(np.array_equal(dense[name], thin[name], equal_nan=True) for name in dense)
    assert all(np.isnan(values[1]) for values in dense.values())


# ---- money


def test_best_threshold_is_the_one_that_pays_most_by_trying_all():
    y, s = draw(200)
    threshold = metrics.best_threshold(y, s, MONEY)
    tried = {t: metrics.worth_of_decisions(y, s, t, MONEY).sum() for t in [-np.inf, np.inf, *(np.unique(s) - 0.01)]}
    assert metrics.worth_of_decisions(y, s, threshold, MONEY).sum() == pytest.approx(max(tried.values()))


def test_worth_by_hand():
    worth = metrics.worth_of_decisions([1, 0, 1, 0], [0.9, 0.8, 0.1, 0.2], 0.5, MONEY)
    assert worth.tolist() == [10.0, -4.0, -1.0, 0.5]
    assert metrics.worth_of_errors([10, 20], [13, 19], MONEY).tolist() == [-6.0, -2.0]
    assert metrics.worth_of_hits([0, 2], MONEY).tolist() == [0.0, 1.8]
    assert metrics.per_period([1.0, 3.0], MONEY).value == 200.0


def test_acting_on_nobody_and_on_everybody_are_thresholds_too():
    costly = SimpleNamespace(**{**vars(MONEY), "false_positive": -1000.0})
    assert metrics.best_threshold([0, 1, 0], [0.5, 0.5, 0.5], costly) == np.inf
    generous = SimpleNamespace(**{**vars(MONEY), "false_positive": 5.0})
    assert metrics.best_threshold([0, 1, 0], [0.1, 0.5, 0.6], generous) == -np.inf


# ---- what can go wrong


@pytest.mark.parametrize(
    ("name", "y", "s", "said"),
    [
        ("roc_auc", [1, 1, 1], [0.1, 0.2, 0.3], "needs both classes, all 3 rows are of class 1"),
        ("roc_auc", [], [], "no rows"),
        ("f1", [0, 0], [0.1, 0.2], "needs both classes"),
        ("brier", [0, 1], [0.5, 3.0], "needs probabilities, got scores from 0.5 to 3"),
        ("accuracy", [0, 2], [0.5, 0.5], "must be 0 and 1"),
        ("mae", [1, 2], [1], "2 true values and 1 predictions"),
        ("mae", [1, 2], [1, np.nan], "1 of 2 predictions are missing"),
        ("mape", [0, 2], [1, 2], "the target is 0 in 1 rows"),
        ("r2", [3, 3], [1, 2], "nothing to explain"),
    ],
)
def test_what_cannot_be_measured_is_said(name, y, s, said):
    with pytest.raises(DataError, match=said):
        metrics.measure(name, y, s)


def test_unknown_and_misused_metrics_are_usage_errors():
    with pytest.raises(UsageError, match="no metric 'auc'"):
        metrics.measure("auc", [0, 1], [0, 1])
    with pytest.raises(UsageError, match="per user"):
        metrics.measure("ndcg", [0, 1], [0, 1])
    with pytest.raises(UsageError, match="k is 0"):
        metrics.values_of_ranks([0], [1], 1, 0)
    with pytest.raises(DataError, match="not a number"):
        metrics.relevant_ranks(np.array([[np.nan]]), np.array([[True]]))


def test_same_seed_gives_the_same_interval_and_draws_without_both_classes_are_left_out():
    y, s = [0, 1, 0, 1], [0.1, 0.4, 0.35, 0.8]
    one, two = (metrics.estimate("average_precision", y, s, seed=3) for _ in range(2))
    assert one == two and np.isfinite([one.low, one.high]).all()


def test_interval_for_any_number_of_looks_covers_at_all_of_them_together():
    """A paired gain in ROC AUC and a mean, looked at every 60 rows up to 1,800; a fixed interval misses at some look far more often."""
    missed = {"fixed": 0, "anytime": 0}
    looks, histories = range(120, 1801, 60), 300
    for seed in range(histories):
        rng = np.random.default_rng(seed)
        y = (rng.random(1800) < 0.4).astype(float)
        shared = rng.normal(size=1800)
        ours, theirs = y + shared + rng.normal(size=1800), y + shared + rng.normal(size=1800)  # equal in truth
        found = [metrics.compare("roc_auc", y[:n], ours[:n], theirs[:n]) for n in looks]
        missed["fixed"] += any(one.low > 0 or one.high < 0 for one in found)
        wide = [metrics.anytime(one, 500) for one in found]
        missed["anytime"] += any(one.low > 0 or one.high < 0 for one in wide)
    # 5 % may miss; of 300 histories at 5 % no more than 25 with probability 0.995 (binomial)
    assert missed["anytime"] <= 25 and missed["fixed"] > 40, missed


def test_interval_for_any_number_of_looks_is_that_of_the_paper_at_its_narrowest():
    """At t = t*, alpha = 0.05: rho^2 t = 5.991 + ln 5.991 + 1 = 8.782, half-width 3.035 standard errors (by hand)."""
    fixed = metrics.Estimate(0.1, 0.1 - 1.959964, 0.1 + 1.959964, 400)
    assert metrics.anytime(fixed, 400).high - 0.1 == pytest.approx(3.035, abs=2e-3)


@pytest.mark.parametrize("one", metric_table.METRICS.values(), ids=lambda m: m.name)
def test_what_the_table_says_of_a_metric_is_true_of_its_figure(one):
    """Range and direction hold for what is measured, of good predictions and of bad ones."""
    y, s = draw(ties=False)
    if one.task == "recommendation":
        good, bad = (float(metrics.values_of_ranks([0], [rank], 1, 5)[one.name][0]) for rank in (1, 9))
    elif one.task == "regression":
        good, bad = (metrics.measure(one.name, y + 1.0, y + 1.0 + off) for off in (0.01, 3.0))
    else:
        good, bad = metrics.measure(one.name, y, y * 0.98 + 0.01), metrics.measure(one.name, y, 1 - s)
    assert one.low <= bad <= one.high and one.low <= good <= one.high
    assert one.gain(good, bad) > 0 and one.meets(good, bad) and not one.meets(bad, good)
    assert metric_table.title(one.name) == one.label and metric_table.meaning(one.name).startswith(f"{one.label}: ")


def test_the_table_serves_statements_and_pages_alike():
    assert metric_table.targets("classification") == [
        "roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1", "log_loss", "brier",
    ]  # fmt: skip
    assert metric_table.title("a_new_one") == "a new one" and metric_table.meaning("a_new_one") == ""


def test_the_metrics_of_counts_and_quantiles_are_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    y = rng.poisson(4.0, 400).astype(float)
    s = np.maximum(y + rng.normal(0, 2, 400), 0.1)
    by_scikit_learn = {
        "rmsle": sk.root_mean_squared_log_error(y, s),
        "poisson_deviance": sk.mean_poisson_deviance(y, s),
        "pinball_10": sk.mean_pinball_loss(y, s, alpha=0.1),
        "pinball_90": sk.mean_pinball_loss(y, s, alpha=0.9),
    }
    assert {name: metrics.measure(name, y, s) for name in by_scikit_learn} == pytest.approx(by_scikit_learn)
    for name in ("rmsle", "poisson_deviance"):
        with pytest.raises(DataError, match="negative in 1 rows"):
            metrics.measure(name, np.r_[y, -1.0], np.r_[s, 1.0])


def test_balanced_accuracy_is_that_of_scikit_learn_and_best_at_the_score_that_is_proposed():
    rng = np.random.default_rng(4)
    s = rng.beta(1, 6, 600)
    y = (rng.random(600) < s).astype(float)
    found = metrics.measure("balanced_accuracy", y, s, 0.2)
    assert found == pytest.approx(sk.balanced_accuracy_score(y, s >= 0.2))
    best = metrics.best_cut("balanced_accuracy", y, s)
    tried = [sk.balanced_accuracy_score(y, s >= cut) for cut in s]
    assert metrics.measure("balanced_accuracy", y, s, best) == pytest.approx(max(tried)) and best < 0.5


def test_each_metric_of_rows_has_a_formula_and_none_borrows_anothers():
    assert set(metrics.FORMULAS) == {name for name, one in metrics.METRICS.items() if one.task != "recommendation"}
