"""Distances of two sets of features: Frechet (FID, FFD) and kernel (KID). Pure NumPy, in float64, no network.

``scipy.linalg.sqrtm`` is not used: the product of two covariances is not symmetric, its root comes out complex where
features are few, and the function's arguments differ between SciPy's versions.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from g4g_core.errors import UsageError

_ROWS = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """What a Frechet distance needs of a set of features, in the size of a matrix: to be merged over parts of a set.

    Attributes:
        n: features.
        total: float64 [d], their sum.
        outer: float64 [d, d], the sum of their outer products.
    """

    n: int
    total: np.ndarray
    outer: np.ndarray

    @staticmethod
    def of(features: np.ndarray) -> Moments:
        """Of features [n, d]; n may be 0. Raises UsageError for another shape, or values that are not finite."""
        exact = _checked(features)
        return Moments(len(exact), exact.sum(axis=0), exact.T @ exact)

    def add(self, features: np.ndarray) -> Moments:
        """Of these and ``features`` [n, d]. Raises UsageError as :meth:`of` and :meth:`merge`."""
        return self.merge(Moments.of(features))

    def merge(self, other: Moments) -> Moments:
        """Of both sets together. Raises UsageError for features of another length."""
        _same_length(len(self.total), len(other.total))
        return Moments(self.n + other.n, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> np.ndarray:
        """float64 [d]."""
        return np.asarray(self.total / self.n)

    @property
    def covariance(self) -> np.ndarray:
        """float64 [d, d], divided by n - 1. Raises UsageError for fewer than 2 features."""
        _enough(self.n)
        return np.asarray((self.outer - np.outer(self.total, self.mean)) / (self.n - 1))


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians that fit two sets of features (Dowson and Landau 1982; Heusel 2017).

    ``|mean x - mean y|^2 + Tr(Sx + Sy - 2 (Sx Sy)^(1/2))`` with covariances divided by n - 1, as ``pytorch-fid``. Where
    a set has fewer features than dimensions, the trace of the root is the nuclear norm of ``Xc Yc^T`` over
    ``sqrt((n - 1)(m - 1))``, with ``Xc``, ``Yc`` the features less their mean: exact, and no d x d root is taken. The
    triangular factor of a set stands in for it where it is taller than wide: it has the same product with itself.

    The value depends on n and m (few features: too large). It can come out a little under 0 by rounding.

    Args:
        x: [n, d], any float type.
        y: [m, d].

    Raises:
        UsageError: fewer than 2 features, different lengths, or values that are not finite.
    """
    x, y = _pair(x, y)
    if min(len(x), len(y)) >= x.shape[1]:
        return frechet_of_moments(Moments.of(x), Moments.of(y))
    apart = x.mean(axis=0) - y.mean(axis=0)
    roots = [(side - side.mean(axis=0)) / np.sqrt(len(side) - 1) for side in (x, y)]
    traces = sum(float(np.einsum("nd,nd->", root, root)) for root in roots)
    a, b = (np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root for root in roots)
    common = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(apart @ apart + traces - 2 * common)


def frechet_of_moments(a: Moments, b: Moments) -> float:
    """As :func:`frechet_distance`, of covariances: the roots of the eigenvalues of ``Sa^(1/2) Sb Sa^(1/2)``.

    Those that rounding made negative count as 0. With fewer features than dimensions :func:`frechet_distance` is more
    exact.

    Raises:
        UsageError: fewer than 2 features in a set, or different lengths.
    """
    _same_length(len(a.total), len(b.total))
    apart = a.mean - b.mean
    first, second = a.covariance, b.covariance
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(min=0))
    common = np.sqrt(np.linalg.eigvalsh(root.T @ second @ root).clip(min=0)).sum()
    return float(apart @ apart + np.trace(first) + np.trace(second) - 2 * common)


@dataclasses.dataclass(frozen=True, eq=False)
class KernelSums:
    """Sums of KID's kernel between groups of features (identities, say): each group can be left out at no cost.

    Attributes:
        xx: float64 [g, g], sum over pairs of x in two groups; a feature is never paired with itself.
        yy: float64 [g, g], the same of y.
        xy: float64 [g, g], x in rows, y in columns.
        n: int64 [g], features of x in each group.
        m: int64 [g], of y.
    """

    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray
    n: np.ndarray
    m: np.ndarray

    def kid(self) -> float:
        """Of all groups. Raises UsageError where x or y has fewer than 2 features."""
        return self._of(np.ones(len(self.n)))

    def without_each(self) -> np.ndarray:
        """float64 [g]: without each group, of x and of y. Raises UsageError where fewer than 2 features remain."""
        return np.array([self._of(kept) for kept in 1.0 - np.eye(len(self.n))])

    def _of(self, kept: np.ndarray) -> float:
        n, m = int(kept @ self.n), int(kept @ self.m)
        _enough(n)
        _enough(m)
        within = kept @ self.xx @ kept / (n * (n - 1)) + kept @ self.yy @ kept / (m * (m - 1))
        return float(within - 2 * (kept @ self.xy @ kept) / (n * m))


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel inception distance: unbiased squared MMD with the kernel ``(x . y / d + 1)^3`` (Binkowski et al. 2018, 4).

    Over all features, not over random subsets of them. Unbiased: 0 on average for sets of one distribution however
    few they are, hence negative about as often as not.

    Args:
        x: [n, d], any float type.
        y: [m, d].

    Raises:
        UsageError: fewer than 2 features, different lengths, or values that are not finite.
    """
    return kernel_sums(x, y, np.zeros(len(x), np.int64), np.zeros(len(y), np.int64)).kid()


def kernel_sums(x: np.ndarray, y: np.ndarray, groups_x: np.ndarray, groups_y: np.ndarray) -> KernelSums:
    """The sums that :func:`kid` and its jackknife are made of. Memory: 1024 rows of the kernel at a time.

    Args:
        x: [n, d], any float type.
        y: [m, d].
        groups_x: int [n], the group of each feature of x, 0 or more; a group may be in one set only.
        groups_y: int [m].

    Raises:
        UsageError: as :func:`kid`, or groups that are not one for each feature.
    """
    x, y = _pair(x, y)
    if len(groups_x) != len(x) or len(groups_y) != len(y):
        raise UsageError(f"{len(groups_x)} and {len(groups_y)} groups for {len(x)} and {len(y)} features")
    count = 1 + int(max(groups_x.max(), groups_y.max()))
    in_x, in_y = np.eye(count)[groups_x], np.eye(count)[groups_y]
    return KernelSums(
        xx=_between(x, x, in_x, in_x) - np.diag(_kernel_of_itself(x) @ in_x),
        yy=_between(y, y, in_y, in_y) - np.diag(_kernel_of_itself(y) @ in_y),
        xy=_between(x, y, in_x, in_y),
        n=in_x.sum(axis=0).astype(np.int64),
        m=in_y.sum(axis=0).astype(np.int64),
    )


def _between(x: np.ndarray, y: np.ndarray, in_x: np.ndarray, in_y: np.ndarray) -> np.ndarray:
    """float64 [g, g], sums of the kernel; ``in_x`` [n, g] is 1 where a feature is in a group, else 0."""
    found = np.zeros((in_x.shape[1], in_y.shape[1]))
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        found += in_x[rows].T @ (_cubed(x[rows] @ y.T / x.shape[1]) @ in_y)
    return found


def _kernel_of_itself(x: np.ndarray) -> np.ndarray:
    return _cubed(np.einsum("nd,nd->n", x, x) / x.shape[1])


def _cubed(similar: np.ndarray) -> np.ndarray:
    similar += 1
    return np.asarray(similar * similar * similar)


def _pair(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = _checked(x), _checked(y)
    _same_length(x.shape[1], y.shape[1])
    _enough(min(len(x), len(y)))
    return x, y


def _checked(features: np.ndarray) -> np.ndarray:
    if features.ndim != 2:
        raise UsageError(f"features are [n, d], not {list(features.shape)}")
    if not np.isfinite(features).all():
        raise UsageError("features are not all finite")
    return features.astype(np.float64)


def _same_length(one: int, other: int) -> None:
    if one != other:
        raise UsageError(f"features of {one} and of {other} dimensions cannot be compared")


def _enough(n: int) -> None:
    if n < 2:
        raise UsageError(f"a set of {n} features has no spread", "Score at least 2; thousands for a stable FID.")
