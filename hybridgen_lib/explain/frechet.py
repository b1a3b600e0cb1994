"""How far two sets of images are apart, measured between their features: the Fréchet distance and the kernel distance.

The features come from a network (``extractors.py``), and no number means anything without its name. Everything here is in
float64: features with a mean of 50 and a standard deviation of 0.1 lose an eighth of their variance in float32. Chapter 13
builds both distances by hand (Heusel et al. 2017, section 3; `interpretable`, eq. 23; Bińkowski et al. 2018, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from hybridgen_lib.classifier import check_number

__all__ = [
    "Extrapolation",
    "FeatureStatistics",
    "KernelDistance",
    "extrapolated",
    "frechet_distance",
    "frechet_jackknife",
    "jackknife",
    "kernel_distance",
]


class FeatureStatistics:
    """Mean and covariance of features that come in batches, without keeping them.

    What is kept is float64 and on the CPU: how many features came, their mean, and the sum of the outer products of their
    deviations from it. A batch is added by what it deviates from its own mean (Chan et al. 1979), so that a large mean costs
    no digits.
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean = self._scatter = torch.zeros((), dtype=torch.float64)

    def update(self, features: Tensor) -> FeatureStatistics:
        """Take in features (B, d); return self. Raises ``ValueError`` if d differs from that of earlier batches."""
        features = _checked(features, "features", least=0)
        if self.n and features.shape[1] != len(self._mean):
            raise ValueError(f"features must have {len(self._mean)} columns, as before, got {features.shape[1]}")
        if len(features):
            mean = features.mean(0)
            centred = features - mean
            self._add(len(features), mean, centred.T @ centred)
        return self

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Take in what ``other`` has seen; return self. The result is that of one pass over both."""
        if not isinstance(other, FeatureStatistics):
            raise ValueError(f"other must be FeatureStatistics, got {type(other).__name__}")
        if self.n and other.n and len(self._mean) != len(other._mean):
            raise ValueError(f"other must be of {len(self._mean)} features, got {len(other._mean)}")
        if other.n:
            self._add(other.n, other._mean, other._scatter)
        return self

    def _add(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        total, step = self.n + n, mean - self._mean
        self._scatter = self._scatter + scatter + torch.outer(step, step) * (self.n * n / total)
        self._mean = self._mean + step * (n / total)
        self.n = total

    @property
    def mean(self) -> Tensor:
        """(d,), float64. Raises ``ValueError`` before the first feature."""
        if self.n < 1:
            raise ValueError("statistics must have seen at least 1 image to have a mean, got 0")
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """(d, d), float64, with 1/(n - 1). Raises ``ValueError`` before the second feature."""
        if self.n < 2:
            raise ValueError(f"statistics must have seen at least 2 images to have a covariance, got {self.n}")
        return self._scatter / (self.n - 1)


# ---------------------------------------------------------------- the Fréchet distance


def frechet_distance(a: FeatureStatistics | Tensor, b: FeatureStatistics | Tensor) -> float:
    """Fréchet distance (squared, as is usual) of the Normals with the means and covariances of ``a`` and ``b``.

    |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½ (`interpretable`, eq. 23). With S = F'F for both, the last trace is the sum of
    the singular values of F1 F2'. F is the transposed Cholesky factor, and the singular values are the roots of symmetric
    eigenvalues; where a set has no more features (N, d) than dimensions, F is made of the centred features themselves, which
    keeps all digits though S is singular. Of *statistics* that are singular, F is a square root by eigenvalues. S1 S2 is not
    symmetric: ``eigvalsh`` of it would be wrong without saying so.

    Args:
        a, b: each :class:`FeatureStatistics`, or features (N, d) of N >= 2 images.

    Returns:
        The distance. It is biased upwards by about C/N: see :func:`extrapolated`. Rounding can leave it a hair below 0.
    """
    (m1, f1, full1), (m2, f2, full2) = _mean_and_factor(a, "a"), _mean_and_factor(b, "b")
    if len(m1) != len(m2):
        raise ValueError(f"b must have as many features as a, {len(m1)}, got {len(m2)}")
    product = f1 @ f2.T
    if full1 and full2:  # half the time of an SVD, or less; near a singular value of 0 it would lose half of the digits
        roots = torch.linalg.eigvalsh(product @ product.T).clamp_min(0).sqrt()
    else:
        roots = torch.linalg.svdvals(product)
    return ((m1 - m2).square().sum() + f1.square().sum() + f2.square().sum() - 2 * roots.sum()).item()


def _mean_and_factor(part: FeatureStatistics | Tensor, name: str) -> tuple[Tensor, Tensor, bool]:
    """The mean (d,), F (rows, d) with F'F the covariance, and whether that has full rank."""
    if not isinstance(part, FeatureStatistics):
        features = _checked(part, name, least=2)
        mean = features.mean(0)
        if len(features) <= len(mean):
            return mean, (features - mean) / (len(features) - 1) ** 0.5, False
        part = FeatureStatistics().update(features)
    return part.mean, *_square_root(part.covariance)


def _square_root(covariance: Tensor) -> tuple[Tensor, bool]:
    """F with F'F the covariance: (d, d) and True; or, if that is singular to working precision, (rank, d) and False."""
    floor = len(covariance) * torch.finfo(covariance.dtype).eps  # below this share of the largest, a variance is rounding
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not failed and _least_variance(lower) > floor * covariance.diagonal().max():
        return lower.T, True
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > floor * values[-1]
    return values[kept].sqrt()[:, None] * vectors[:, kept].T, False


def _least_variance(lower: Tensor) -> float:
    """The smallest eigenvalue of LL', nearly, by inverse iteration from four directions.

    Rounding can leave a singular covariance with a Cholesky root, whose last pivot may be 10,000 times too large to tell.
    """
    directions = torch.randn(len(lower), 4, generator=torch.Generator().manual_seed(0), dtype=lower.dtype)
    for _ in range(4):
        directions = torch.cholesky_solve(directions / directions.norm(dim=0), lower)
    return 1 / directions.norm(dim=0).max().item()


# ---------------------------------------------------------------- the kernel distance


class KernelDistance(NamedTuple):
    """The mean over subsets, and the standard deviation over them (NaN for one). Subsets overlap: it is no standard error."""

    value: float
    spread: float


def kernel_distance(
    features: Tensor, others: Tensor, *, subsets: int = 100, subset_size: int | None = 1000, seed: int = 0
) -> KernelDistance:
    """Squared maximum mean discrepancy under the kernel (x·y/d + 1)³, unbiased (KID; Bińkowski et al. 2018, section 3).

    Of two sets from one distribution it is 0 on average, and so is below 0 about every second time; it is never clipped.

    Args:
        features, others: (N, d) and (M, d), N and M >= 2.
        subsets: how many pairs of subsets, each drawn without replacement; the result is their mean.
        subset_size: how many images of each set are in a subset (2 to the smaller of N and M); None is all of both, once.
        seed: of the subsets.
    """
    a, b = _pair(features, others)
    if subset_size is None:
        return KernelDistance(_squared_discrepancy(a, b), float("nan"))
    subsets = check_number(subsets, "subsets", low=1, integer=True)
    subset_size = check_number(subset_size, "subset_size", low=2, high=min(len(a), len(b)), integer=True)
    generator = _source(seed)
    values = []
    for _ in range(subsets):
        parts = (part[torch.randperm(len(part), generator=generator)[:subset_size]] for part in (a, b))
        values.append(_squared_discrepancy(*parts))
    values = torch.tensor(values, dtype=torch.float64)
    return KernelDistance(values.mean().item(), values.std().item() if subsets > 1 else float("nan"))


def _squared_discrepancy(a: Tensor, b: Tensor) -> float:
    within = sum((_kernel_sum(part, part) - _cubed(part.square().sum(1)).sum()) / (len(part) * (len(part) - 1))
                 for part in (_scaled(a), _scaled(b)))  # fmt: skip
    return (within - 2 * _kernel_sum(_scaled(a), _scaled(b)) / (len(a) * len(b))).item()


def _scaled(features: Tensor) -> Tensor:
    return features / features.shape[1] ** 0.5


def _cubed(products: Tensor) -> Tensor:
    return (products + 1) ** 3


def _kernel_sum(a: Tensor, b: Tensor) -> Tensor:
    """The kernel summed over all pairs, a thousand rows at a time."""
    return sum(_cubed(rows @ b.T).sum() for rows in a.split(1000))


# ---------------------------------------------------------------- how far to trust it


class Extrapolation(NamedTuple):
    """``value`` at infinitely many images; ``sizes`` (of the first set) and the ``distances`` there; ``slope`` C of C/N."""

    value: float
    slope: float
    sizes: list[int]
    distances: list[float]


def extrapolated(features: Tensor, others: Tensor, *, parts: int = 5, seed: int = 0) -> Extrapolation:
    """The Fréchet distance at infinitely many images, by the line through those at N, N/2, N/3, ... of both sets.

    The distance of finite sets is too large, by about C_a/N_a + C_b/N_b, and C depends on the sets: models are not even ranked
    safely by it (Chong and Forsyth 2020, arXiv 1911.07023). They draw 15 sizes of the generated set and hold the other fixed.
    Here both sets are cut into k random parts of equal size, k = 1 to ``parts``, and the distances of the k pairs averaged, so
    that every size uses all images; a line in k, that is in 1/N, is fitted by least squares and read at k = 0.

    Args:
        features, others: (N, d) and (M, d); the smallest parts must have more than d images each, or there is no line.
        parts: how many sizes, >= 2.
        seed: of the cuts.
    """
    a, b = _pair(features, others)
    parts = check_number(parts, "parts", low=2, integer=True)
    if (smallest := min(len(a), len(b)) // parts) <= a.shape[1]:
        raise ValueError(
            f"parts must leave more than {a.shape[1]} images (the features) a part, got {parts}: {smallest} a part"
        )
    generator = _source(seed)
    distances = []
    for k in range(1, parts + 1):
        pairs = zip(*(_random_groups(len(part), k, generator) for part in (a, b)), strict=True)
        distances.append(sum(frechet_distance(a[rows], b[other]) for rows, other in pairs) / k)
    k, d = torch.arange(1, parts + 1, dtype=torch.float64), torch.tensor(distances, dtype=torch.float64)
    slope = ((k - k.mean()) * (d - d.mean())).sum() / (k - k.mean()).square().sum()
    value = d.mean() - slope * k.mean()
    return Extrapolation(value.item(), slope.item() * len(a), [len(a) // int(j) for j in k], distances)


def jackknife(
    distance: Callable[[Tensor, Tensor], float], features: Tensor, others: Tensor, groups: int = 20, seed: int = 0
) -> tuple[float, list[float]]:
    """``distance`` of all images, and of all but group g of both sets, for every g.

    Both sets are cut at random into equally many groups, so that sets in the order of their classes do no harm. See
    :func:`~hybridgen_lib.classifier.jackknife_interval`.

    Args:
        distance: of features (N, d) and (M, d), a number.
        groups: 2 to a half of the smaller set.
        seed: of the cuts.
    """
    a, b = _pair(features, others)
    cuts = zip(*_cuts(a, b, groups, seed), strict=True)
    left = [float(distance(_without(a, rows), _without(b, other))) for rows, other in cuts]
    return float(distance(a, b)), left


def frechet_jackknife(features_a: Tensor, features_b: Tensor, groups: int = 20) -> tuple[float, list[float]]:
    """The Fréchet distance of features (N, d) and (M, d), and that without group g of both, for every g: :func:`jackknife`.

    Where every set left has more than d images, each is merged from its groups' statistics, so that the features are gone
    through once, and the numbers are the same up to rounding.
    """
    a, b = _pair(features_a, features_b)
    cuts = _cuts(a, b, groups, 0)
    if min(len(a), len(b)) * (1 - 1 / groups) - 1 <= a.shape[1]:
        return jackknife(frechet_distance, a, b, groups)
    parts = [[FeatureStatistics().update(x[rows]) for rows in cut] for x, cut in zip((a, b), cuts, strict=True)]

    def without(gone: int | None) -> float:
        return frechet_distance(*(_merged(part for g, part in enumerate(each) if g != gone) for each in parts))

    return without(None), [without(g) for g in range(len(cuts[0]))]


def _merged(parts: Iterable[FeatureStatistics]) -> FeatureStatistics:
    whole = FeatureStatistics()
    for part in parts:
        whole.merge(part)
    return whole


def _cuts(a: Tensor, b: Tensor, groups: int, seed: int) -> list[tuple[Tensor, ...]]:
    """Both sets in equally many random groups."""
    groups = check_number(groups, "groups", low=2, high=min(len(a), len(b)) // 2, integer=True)
    generator = _source(seed)
    return [_random_groups(len(part), groups, generator) for part in (a, b)]


def _source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(check_number(seed, "seed", low=0, integer=True))


def _random_groups(n: int, groups: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """The rows 0..n-1 in ``groups`` random groups, as equal as can be."""
    return torch.randperm(n, generator=generator).tensor_split(groups)


def _without(features: Tensor, rows: Tensor) -> Tensor:
    kept = torch.ones(len(features), dtype=torch.bool)
    kept[rows] = False
    return features[kept]


# ---------------------------------------------------------------- checks


def _checked(features: Tensor, name: str, least: int) -> Tensor:
    """``features`` as float64 on the CPU, if they are finite numbers (N, d) with N >= ``least`` and d >= 1."""
    if not isinstance(features, Tensor) or features.ndim != 2 or features.shape[1] < 1 or features.is_complex():
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"{name} must be real features of shape (N, d), got {got}")
    if len(features) < least:
        raise ValueError(f"{name} must be the features of at least {least} images, got {len(features)}")
    features = features.detach().to("cpu", torch.float64)
    if not features.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return features


def _pair(features: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets, checked: at least two images each, equally many features."""
    a, b = _checked(features, "features", least=2), _checked(others, "others", least=2)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"others must have {a.shape[1]} columns, as features, got {b.shape[1]}")
    return a, b
