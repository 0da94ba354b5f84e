"""How sure we are: what intervals cover, what p values mean, how models are ranked."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as reference

from evaluation.jackknife import delete_groups, jackknife_interval, jackknife_set_difference, jackknife_set_metric
from evaluation.stats import (
    Difference,
    Interval,
    _cluster_sums,
    _resampled_counts,
    cluster_interval,
    holm,
    mean_interval,
    paired_difference,
    ranks,
    sign_flip_p,
)
from g4g_core.errors import UsageError

Sums = tuple[np.ndarray, np.ndarray]


def shots(identities: int, seed: int = 0, *, unequal: bool = True) -> tuple[np.ndarray, list[str]]:
    """Scores of mean 1: between identities they spread by 0.1, within one by 0.05."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 21, identities) if unequal else np.full(identities, 8)
    clusters = [f"id{identity:02}" for identity, size in enumerate(sizes) for _ in range(size)]
    return 1 + np.repeat(rng.normal(0, 0.1, identities), sizes) + rng.normal(0, 0.05, len(clusters)), clusters


# ---- coverage


def simulated(count: int, identities: int, *, skewed: bool, unequal: bool, seed: int) -> Sums:
    """Sums and counts of ``count`` data sets of true mean 0: identities spread as much as the shots of one do.

    Skewed identities are gamma distributed with shape 2 (skewness 1.4).
    """
    rng = np.random.default_rng(seed)
    shape = (count, identities)
    sizes = rng.integers(2, 21, shape) if unequal else np.full(shape, 8)
    effects = (rng.gamma(2, size=shape) - 2) / np.sqrt(2) if skewed else rng.normal(size=shape)
    return sizes * effects + np.sqrt(sizes) * rng.normal(size=shape), sizes.astype(np.float64)


def percentile_bootstrap(sums: np.ndarray, counts: np.ndarray) -> Sums:
    """What is commonly done: quantiles of the means of 1999 resamples."""
    drawn = _resampled_counts(sums.shape[-1], 1999, 0).T
    means = np.partition((sums @ drawn) / (counts @ drawn), (49, 1949), axis=-1)
    return means[..., 49], means[..., 1949]


def coverage(interval: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]], **regime: int) -> float:
    """Share of intervals that hold 0, of 4000 data sets: with a standard deviation of 0.0035."""
    held = []
    for seed in range(8):
        low, high, *_ = interval(*simulated(500, seed=seed, **regime))
        held.append((low <= 0) & (high >= 0))
    return float(np.mean(held))


regimes = pytest.mark.parametrize(
    ("skewed", "unequal"),
    [(False, False), (False, True), (True, False), (True, True)],
    ids=["normal-equal", "normal-unequal", "skewed-equal", "skewed-unequal"],
)


@regimes
def test_of_30_identities_the_95_percent_interval_holds_the_mean_95_times(skewed: bool, unequal: bool) -> None:
    # measured with 10,000 data sets: 0.952, 0.950, 0.949, 0.940; the percentile bootstrap 0.938, 0.935, 0.931, 0.923
    ours = coverage(cluster_interval, identities=30, skewed=skewed, unequal=unequal)
    assert 0.93 < ours < 0.965
    assert ours > coverage(percentile_bootstrap, identities=30, skewed=skewed, unequal=unequal) + 0.007


@regimes
def test_few_identities_make_wide_intervals_rather_than_wrong_ones(skewed: bool, unequal: bool) -> None:
    # measured with 10,000 data sets, at 10: 0.950, 0.942, 0.942, 0.937; at 5: 0.948, 0.936, 0.932, 0.912;
    # the percentile bootstrap at 5: 0.839, 0.829, 0.820, 0.804
    assert 0.92 < coverage(cluster_interval, identities=10, skewed=skewed, unequal=unequal) < 0.965
    assert 0.90 < coverage(cluster_interval, identities=5, skewed=skewed, unequal=unequal) < 0.965
    assert coverage(percentile_bootstrap, identities=5, skewed=skewed, unequal=unequal) < 0.86


# ---- intervals


def test_the_interval_of_scores_is_that_of_their_sums_over_identities() -> None:
    values, clusters = shots(30)
    interval = mean_interval(values, clusters)
    low, high, studentised = cluster_interval(*_cluster_sums(values, clusters))
    assert interval == Interval(pytest.approx(values.mean()), low, high, len(values), 30, "bootstrap-t", False)
    assert studentised and low < interval.point < high


def test_the_bootstrap_is_that_of_resampled_shots_computed_one_resample_at_a_time() -> None:
    values, clusters = shots(12)
    scores = [values[np.asarray(clusters) == label] for label in sorted(set(clusters))]

    def mean_and_error(identities: list[np.ndarray]) -> tuple[float, float]:
        every = np.concatenate(identities)
        residuals = [(identity - every.mean()).sum() for identity in identities]
        return every.mean(), np.sqrt(12 / 11 * np.sum(np.square(residuals))) / len(every)

    mean, error = mean_and_error(scores)
    pivots = []
    for times in _resampled_counts(12, 199, 7).astype(int):
        drawn_mean, drawn_error = mean_and_error([scores[g] for g in range(12) for _ in range(times[g])])
        pivots.append((drawn_mean - mean) / drawn_error)
    pivots.sort()
    interval = mean_interval(values, clusters, seed=7, resamples=199, level=0.9)
    assert interval.low == pytest.approx(mean - pivots[-10] * error)
    assert interval.high == pytest.approx(mean - pivots[9] * error)


def test_few_identities_of_equal_size_get_the_t_interval_of_their_means_and_a_mark() -> None:
    values, clusters = shots(9, unequal=False)
    means = values.reshape(9, 8).mean(axis=1)
    low, high = reference.t.interval(0.9, 8, means.mean(), means.std(ddof=1) / 3)
    expected = Interval(
        pytest.approx(values.mean()), pytest.approx(low), pytest.approx(high), len(values), 9, "t", True
    )
    assert mean_interval(values, clusters, level=0.9) == expected


def test_a_higher_level_makes_a_wider_interval_and_another_seed_moves_it_little() -> None:
    values, clusters = shots(30)
    narrow, wide = (mean_interval(values, clusters, level=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    one, other = (mean_interval(values, clusters, seed=seed) for seed in (0, 1))
    assert one.low != other.low
    assert one.low == pytest.approx(other.low, abs=0.1 * (one.high - one.low))


@pytest.mark.parametrize("spread", [0.0, 1e-9, 0.1], ids=["no spread", "rounding", "little spread"])
def test_an_interval_falls_back_to_t_where_one_identity_makes_the_spread(spread: float) -> None:
    # a third of the resamples lack it: their standard errors are next to nothing, and the quantiles have no bound
    values, clusters = shots(20, unequal=False)
    values = 1 + spread * (values - 1)
    values[:8] += 5
    interval = mean_interval(values, clusters)
    assert interval.method == "t" and not interval.few
    assert interval.high - interval.low < 5


def test_scores_without_spread_have_an_interval_without_width() -> None:
    _, clusters = shots(30)
    assert mean_interval(np.full(len(clusters), 0.1), clusters) == Interval(
        0.1, 0.1, 0.1, len(clusters), 30, "constant", False
    )


def test_identities_that_agree_exactly_though_their_shots_differ_tell_no_interval() -> None:
    interval = mean_interval([0.1, 0.7] * 12, [f"{identity}" for identity in range(12) for _ in range(2)])
    assert (interval.point, interval.low, interval.high, interval.method) == (pytest.approx(0.4), None, None, "none")


def test_one_identity_tells_no_interval() -> None:
    assert mean_interval([0.0, 1.0], ["a", "a"]) == Interval(0.5, None, None, 2, 1, "none", True)


def test_the_order_of_the_rows_changes_nothing() -> None:
    a, clusters = shots(30)
    b = a + np.random.default_rng(1).normal(0, 0.05, len(a))
    order = np.random.default_rng(2).permutation(len(a))
    shuffled = [clusters[row] for row in order]
    assert mean_interval(a, clusters) == mean_interval(a[order], shuffled)
    assert paired_difference(a, b, clusters) == paired_difference(a[order], b[order], shuffled)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(UsageError, match="1 of 3 scores are not finite"):
        mean_interval([1.0, bad, 2.0], ["a", "b", "c"])
    with pytest.raises(UsageError, match="1 of 3 scores are not finite"):
        paired_difference([1.0, 2.0, 3.0], [1.0, bad, 2.0], ["a", "b", "c"])


def test_lengths_that_differ_no_scores_and_impossible_levels_are_refused() -> None:
    with pytest.raises(UsageError, match="2 identities for scores of shape"):
        mean_interval([1.0, 2.0, 3.0], ["a", "b"])
    with pytest.raises(UsageError, match="2 identities for scores of shape"):
        paired_difference([1.0, 2.0], [1.0], ["a", "b"])
    with pytest.raises(UsageError, match="no scores"):
        mean_interval([], [])
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(UsageError, match="No interval has a level"):
            mean_interval([1.0, 2.0], ["a", "b"], level=level)
        with pytest.raises(UsageError, match="No interval has a level"):
            jackknife_interval(1.0, [1.0, 2.0], n=2, level=level)
    with pytest.raises(UsageError, match="2000 resamples are too few"):
        mean_interval(*shots(30), level=0.9999)


# ---- paired differences


@pytest.mark.parametrize("identities", [12, 30])
def test_p_values_are_uniform_where_there_is_no_difference(identities: int) -> None:
    p = np.concatenate(
        [sign_flip_p(simulated(500, identities, skewed=False, unequal=True, seed=seed)[0]) for seed in range(8)]
    )
    assert reference.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.01)


def test_the_exact_p_value_is_that_of_scipy() -> None:
    sums = np.random.default_rng(0).normal(0.4, 1, 9)
    expected = reference.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert 0.02 < sign_flip_p(sums) < 0.98
    assert sign_flip_p(sums) == pytest.approx(expected)


@pytest.mark.parametrize("repeats", [1, 2], ids=["enumerated", "drawn"])
def test_patterns_as_far_from_0_as_the_observed_one_count_whatever_digits_rounding_costs(repeats: int) -> None:
    sums = np.array([1.0, 2.0, 3.0, -2.0, 4.0, 1.0, 3.0, -7.0] * repeats)  # tenths are not exact in binary
    assert sign_flip_p(0.1 * sums) == sign_flip_p(sums) == sign_flip_p(np.pi / 7 * sums)


def test_drawn_patterns_give_the_p_value_that_enumerated_ones_do() -> None:
    sums = np.random.default_rng(3).normal(0.5, 1, 14)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=14)))
    exact = np.mean(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9)
    assert 0.02 < exact < 0.5
    assert sign_flip_p(sums) == pytest.approx(exact, abs=4 * np.sqrt(exact / 9999))
    assert sign_flip_p(sums, seed=1) != sign_flip_p(sums)


def test_no_p_value_is_zero() -> None:
    assert sign_flip_p(np.ones(40)) == 1 / 10_000
    assert sign_flip_p(np.ones(6)) == 2 / 2**6


def paired_differences(effect: float, count: int, seed: int) -> np.ndarray:
    """Sums over 30 identities of 8 shots of differences whose spread is 0.02 between identities and 0.05 within."""
    rng = np.random.default_rng(seed)
    return 8 * (effect + rng.normal(0, 0.02, (count, 30))) + np.sqrt(8) * rng.normal(0, 0.05, (count, 30))


@pytest.mark.parametrize("effect", [0.03, 0.0142, 0.01])
def test_a_planted_difference_is_found_as_often_as_the_t_test_of_identities_would(effect: float) -> None:
    # of a mean of 1: 3 % is found always (power over 0.9999), 1.42 % in 80 of 100 runs, 1 % in 51
    error = np.sqrt(0.02**2 / 30 + 0.05**2 / 240)
    limit = reference.t.ppf(0.975, 29)
    power = reference.nct.sf(limit, 29, effect / error) + reference.nct.cdf(-limit, 29, effect / error)
    found = np.mean([sign_flip_p(paired_differences(effect, 500, seed)) < 0.05 for seed in range(4)])
    assert found == pytest.approx(power, abs=0.03)
    assert effect < 0.03 or found == 1


def test_pairing_finds_what_two_intervals_side_by_side_do_not() -> None:
    rng = np.random.default_rng(0)
    identity = np.repeat(np.arange(30), 8)
    clusters = [f"{label:02}" for label in identity]
    b = 1 + rng.normal(0, 0.1, 30)[identity] + rng.normal(0, 0.05, 240)
    a = b + 0.03 + rng.normal(0, 0.02, 30)[identity] + rng.normal(0, 0.05, 240)
    difference = paired_difference(a, b, clusters)
    assert difference.effect == pytest.approx(np.mean(a - b))
    assert 0 < difference.low < 0.03 < difference.high
    assert difference.p < 0.001 and difference.significant_possible and difference.n == 240
    assert mean_interval(b, clusters).high > mean_interval(a, clusters).low


def test_exchanged_models_have_the_opposite_effect_and_the_same_p_value() -> None:
    a, clusters = shots(30, seed=4)
    b = a + np.random.default_rng(5).normal(0.004, 0.05, len(a))
    one, other = paired_difference(a, b, clusters), paired_difference(b, a, clusters)
    assert 0.001 < one.p < 1 and one.p == other.p
    assert (one.effect, one.low, one.high) == pytest.approx((-other.effect, -other.high, -other.low))


def test_5_identities_claim_no_significance_and_6_may() -> None:
    a, clusters = shots(6, unequal=False)
    six, five = (paired_difference(a[:n], a[:n] - 0.5, clusters[:n]) for n in (48, 40))
    assert (six.p, six.significant_possible) == (2 / 2**6, True)
    assert (five.p, five.significant_possible) == (None, False)
    assert five.low == pytest.approx(0.5)


def test_a_model_does_not_differ_from_itself() -> None:
    a, clusters = shots(30)
    assert paired_difference(a, a, clusters) == Difference(0.0, 0.0, 0.0, 1.0, len(a), 30, True)


# ---- many models


def test_holm_as_worked_by_hand() -> None:
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04 is made no less than the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_holm_passes_by_pairs_that_claim_nothing() -> None:
    assert holm([None, 0.01, None, 0.04]) == [None, 0.02, None, 0.04]
    assert holm([]) == []


def test_a_rank_counts_the_models_that_are_significantly_better() -> None:
    pairs = {
        ("a", "b"): (0.5, 0.2),  # a tie
        ("c", "a"): (-0.9, 0.01),
        ("c", "b"): (-0.4, 0.06),
        ("a", "d"): (2.0, 0.001),
        ("b", "d"): (1.5, 0.001),
        ("c", "d"): (1.1, 0.001),
    }
    models = ["d", "c", "b", "a"]
    assert ranks(models, pairs, higher_is_better=True) == {"a": 1, "b": 1, "c": 2, "d": 4}
    assert ranks(models, pairs, higher_is_better=False) == {"d": 1, "c": 2, "b": 2, "a": 3}
    assert ranks(models, pairs, higher_is_better=True, alpha=0.0005) == dict.fromkeys(models, 1)


def test_models_that_may_claim_nothing_share_the_first_rank() -> None:
    assert ranks(["a", "b"], {("a", "b"): (9.0, None)}, higher_is_better=True) == {"a": 1, "b": 1}


def test_a_rank_needs_every_pair() -> None:
    with pytest.raises(KeyError):
        ranks(["a", "b", "c"], {("a", "b"): (0.1, 0.5), ("a", "c"): (0.1, 0.5)}, higher_is_better=True)


# ---- set metrics


def total_variance(features: np.ndarray) -> Callable[[np.ndarray], float]:
    """Trace of the covariance, the part of a Frechet distance that is no mean."""
    return lambda rows: float(features[rows].var(axis=0, ddof=1).sum())


def features_of_two_models(identities: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Features [n, 8] of two models: the same of the footage (variance 2), the models' own (0.5)."""
    owner = np.repeat(np.arange(identities), rng.integers(2, 21, identities))

    def spread(scale: float) -> np.ndarray:
        return scale * (rng.normal(size=(identities, 8))[owner] + rng.normal(size=(len(owner), 8)))

    footage = spread(1)
    return [f"{identity:02}" for identity in owner], footage + spread(0.5), footage + spread(0.5)


def test_intervals_of_a_set_metric_hold_their_own_point_and_cover() -> None:
    # measured with 1500 data sets: 0.944 of one model, 0.953 of the difference
    rng = np.random.default_rng(2)
    points, intervals, differences = [], [], []
    for _ in range(600):
        clusters, a, b = features_of_two_models(12, rng)
        groups = delete_groups(clusters)
        interval = jackknife_set_metric(total_variance(a), groups)
        assert interval.low < interval.point < interval.high
        assert interval.point == total_variance(a)(np.arange(len(a)))
        points.append(interval.point)
        intervals.append((interval.low, interval.high))
        differences.append(jackknife_set_difference(total_variance(a), total_variance(b), groups))
    low, high = np.transpose(intervals)
    assert np.mean((low <= np.mean(points)) & (np.mean(points) <= high)) == pytest.approx(0.945, abs=0.03)
    assert np.mean([d.low <= 0 <= d.high for d in differences]) == pytest.approx(0.955, abs=0.03)
    assert np.mean([(d.p < 0.05) != (d.low <= 0 <= d.high) for d in differences]) == 1


def test_the_jackknife_of_a_mean_is_the_t_interval_of_identities() -> None:
    values, clusters = shots(12, unequal=False)
    means = values.reshape(12, 8).mean(axis=1)
    interval = jackknife_set_metric(lambda rows: float(values[rows].mean()), delete_groups(clusters), level=0.9)
    low, high = reference.t.interval(0.9, 11, means.mean(), means.std(ddof=1) / np.sqrt(12))
    assert interval == Interval(
        pytest.approx(values.mean()), pytest.approx(low), pytest.approx(high), 96, 12, "jackknife", False
    )
    doubled = jackknife_set_difference(
        lambda rows: float(2 * values[rows].mean()), lambda rows: float(values[rows].mean()), delete_groups(clusters)
    )
    assert doubled.p == pytest.approx(reference.ttest_1samp(means, 0).pvalue)


def test_a_planted_difference_of_a_set_metric_is_found() -> None:
    clusters, a, b = features_of_two_models(30, np.random.default_rng(0))
    difference = jackknife_set_difference(total_variance(1.3 * a), total_variance(b), delete_groups(clusters))
    assert difference.clusters == 20 and difference.n == len(a)
    assert 0 < difference.low < difference.effect < difference.high
    assert difference.p < 0.01


def test_the_set_metrics_of_5_identities_claim_no_significance_and_of_one_tell_no_interval() -> None:
    clusters, a, b = features_of_two_models(5, np.random.default_rng(0))
    five = jackknife_set_difference(total_variance(9 * a), total_variance(b), delete_groups(clusters))
    assert five.p is None and not five.significant_possible and five.low > 0
    one = delete_groups(["a"] * len(a))
    assert jackknife_set_metric(total_variance(a), one) == Interval(
        total_variance(a)(np.arange(len(a))), None, None, len(a), 1, "none", True
    )
    assert jackknife_set_difference(total_variance(a), total_variance(b), one).low is None


def test_the_same_set_does_not_differ_from_itself() -> None:
    clusters, a, _ = features_of_two_models(12, np.random.default_rng(0))
    same = jackknife_set_difference(total_variance(a), total_variance(a), delete_groups(clusters))
    assert same == Difference(0.0, 0.0, 0.0, 1.0, len(a), 12, True)


def test_a_set_metric_that_is_not_finite_is_refused() -> None:
    with pytest.raises(UsageError, match="not finite"):
        jackknife_interval(1.0, [1.0, float("nan")], n=9)


def test_groups_hold_whole_identities_every_row_once_and_about_equally_many() -> None:
    _, clusters = shots(100)
    groups = delete_groups(clusters)
    assert len(groups) == 20
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(clusters)))
    owners = [{clusters[row] for row in rows} for rows in groups]
    assert sum(map(len, owners)) == 100
    sizes = [len(rows) for rows in groups]
    assert max(sizes) - min(sizes) <= 3


def test_groups_do_not_depend_on_the_order_of_the_rows() -> None:
    _, clusters = shots(50)
    order = np.random.default_rng(0).permutation(len(clusters))
    shuffled = [clusters[row] for row in order]
    assert [{clusters[row] for row in rows} for rows in delete_groups(clusters, 7)] == [
        {shuffled[row] for row in rows} for rows in delete_groups(shuffled, 7)
    ]


def test_as_few_identities_as_groups_are_left_out_one_at_a_time() -> None:
    assert [rows.tolist() for rows in delete_groups(["b", "a", "b"])] == [[0, 2], [1]]
