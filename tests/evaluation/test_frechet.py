"""Frechet distance and KID: equal to the reference, on every path, however a set is cut into parts."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import pytest

from evaluation.metrics import frechet
from evaluation.metrics.frechet import Moments, frechet_distance, frechet_of_moments, kernel_sums, kid
from g4g_core.errors import UsageError


def features(n: int, d: int, seed: int, mean: float = 0.0) -> np.ndarray:
    """Correlated features, float32, all over 0 but for the spread, as Inception's are."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) * np.geomspace(1, 0.01, d)
    return np.asarray(np.abs(rng.normal(size=(n, d)) @ mix + mean + 0.5), np.float32)


# ---- Frechet distance


def test_it_is_pytorch_fids() -> None:
    from scipy.linalg import sqrtm

    if "disp" not in inspect.signature(sqrtm).parameters:
        pytest.skip("pytorch-fid's distance does not run with this SciPy: sqrtm has no disp")
    score = pytest.importorskip("pytorch_fid.fid_score")
    x, y = features(500, 64, 0), features(400, 64, 1, 0.2)
    theirs = score.calculate_frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))
    assert frechet_distance(x, y) == pytest.approx(float(theirs), rel=1e-4)


def test_of_gaussians_with_known_moments() -> None:
    """Diagonal covariances: |difference of means|^2 + sum of (difference of deviations)^2."""
    rng = np.random.default_rng(0)
    means, deviations = rng.normal(size=(2, 32)), rng.uniform(0.1, 3, (2, 32))

    def moments(mean: np.ndarray, deviation: np.ndarray, n: int) -> Moments:
        return Moments(n, n * mean, (n - 1) * np.diag(deviation**2) + n * np.outer(mean, mean))

    found = frechet_of_moments(moments(means[0], deviations[0], 100), moments(means[1], deviations[1], 57))
    assert found == pytest.approx(((means[0] - means[1]) ** 2 + (deviations[0] - deviations[1]) ** 2).sum(), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(20, 30), (20, 200), (200, 20), (63, 64)])
def test_few_features_give_what_the_covariances_give(n: int, m: int) -> None:
    x, y = features(n, 64, 2), features(m, 64, 3, 0.3)
    expected = frechet_of_moments(Moments.of(x), Moments.of(y))
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert expected > 1


def test_more_features_than_dimensions_give_the_same_on_either_path(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(65, 64, 4), features(90, 64, 5)
    whole = frechet_distance(x, y)
    padded = [np.pad(side, ((0, 0), (0, 64))) for side in (x, y)]
    monkeypatch.setattr(frechet, "frechet_of_moments", lambda *_: pytest.fail("65 features have 128 dimensions"))
    assert frechet_distance(*padded) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("n", [2, 30, 300])
def test_a_set_is_at_no_distance_from_itself(n: int) -> None:
    x = features(n, 64, 6)
    assert abs(frechet_distance(x, x)) < 1e-6
    assert abs(frechet_distance(x, x[::-1])) < 1e-6


@pytest.mark.parametrize("n", [30, 300])
def test_order_does_not_matter(n: int) -> None:
    x, y = features(n, 64, 7), features(n, 64, 8)
    shuffled = np.random.default_rng(0).permutation(x)
    assert frechet_distance(shuffled, y) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y), rel=1e-9)


def test_moments_merge_into_those_of_the_whole() -> None:
    x, y = features(300, 32, 9, 5), features(200, 32, 10, 5)
    nothing = Moments.of(x[:0])
    parts = nothing.add(x[250:]).merge(Moments.of(x[:100]).add(x[100:250]))
    assert parts.n == 300
    assert np.allclose(parts.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    assert np.allclose(parts.covariance, np.cov(x, rowvar=False, dtype=np.float64), rtol=1e-9, atol=1e-12)
    assert frechet_of_moments(parts, Moments.of(y)) == pytest.approx(frechet_distance(x, y), rel=1e-9)


# ---- KID


def naive_kid(x: np.ndarray, y: np.ndarray) -> float:
    """Pair by pair, as in the paper."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a.astype(float) @ b.astype(float) / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    return (
        sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        + sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        - 2 * sum(k(a, b) for a in x for b in y) / (n * m)
    )


def test_kid_is_the_sum_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(23, 16, 0), features(31, 16, 1, 0.2)
    expected = naive_kid(x, y)
    assert kid(x, y) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(frechet, "_ROWS", 5)
    assert kid(x, y) == pytest.approx(expected, rel=1e-9)


def test_kid_of_one_distribution_is_0_on_average_and_may_be_negative() -> None:
    x, rng = features(40, 16, 0), np.random.default_rng(0)
    values = np.array([kid(*np.split(rng.permutation(x), 2)) for _ in range(99)])
    assert (values < 0).any() and (values > 0).any()
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert kid(x, features(40, 16, 1, 1)) > 10 * values.std()


def test_a_group_left_out_of_the_sums_is_left_out_of_the_set() -> None:
    x, y = features(30, 16, 2), features(40, 16, 3, 0.2)
    rng = np.random.default_rng(0)
    groups_x, groups_y = rng.integers(0, 4, 30), rng.integers(0, 6, 40)
    sums = kernel_sums(x, y, groups_x, groups_y)
    assert sums.kid() == pytest.approx(kid(x, y), rel=1e-9)
    expected = [kid(x[groups_x != group], y[groups_y != group]) for group in range(6)]
    assert sums.without_each() == pytest.approx(expected, rel=1e-9)


# ---- refusals


@pytest.mark.parametrize("distance", [frechet_distance, kid])
def test_sets_that_have_no_distance_are_refused(distance: Callable[[np.ndarray, np.ndarray], float]) -> None:
    good = features(10, 8, 0)
    for other, message in (
        (good[:1], "a set of 1 features has no spread"),
        (good[:0], "a set of 0 features"),
        (good[:, :7], "8 and of 7 dimensions"),
        (good[0], r"\[n, d\], not \[8\]"),
        (np.where(good > 1, np.nan, good), "not all finite"),
    ):
        with pytest.raises(UsageError, match=message):
            distance(good, other)


def test_moments_of_one_feature_have_no_covariance() -> None:
    with pytest.raises(UsageError, match="a set of 1 features"):
        frechet_of_moments(Moments.of(features(1, 8, 0)), Moments.of(features(10, 8, 0)))
    with pytest.raises(UsageError, match="8 and of 7"):
        Moments.of(features(3, 8, 0)).add(features(3, 7, 0))


def test_groups_stand_for_all_features() -> None:
    x = features(10, 8, 0)
    groups = np.zeros(10, np.int64)
    with pytest.raises(UsageError, match="10 and 9 groups for 10 and 10 features"):
        kernel_sums(x, x, groups, groups[:9])
