"""The Fréchet and kernel distances: closed forms, peers, singular sets, the 1/N bias, and intervals that cover."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hybridgen_lib.classifier import jackknife_interval
from hybridgen_lib.explain.frechet import (
    FeatureStatistics,
    extrapolated,
    frechet_distance,
    frechet_jackknife,
    jackknife,
    kernel_distance,
)


def normals(n, d, seed=0, mean=0.0, scale=1.0):
    """n Normal features of d dimensions, mixed so that no axis is special."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64) / d**0.5
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix * scale + mean


def with_covariance(covariance, mean=0.0, n=50, seed=0):
    """Features whose sample mean and sample covariance (1/(n-1)) are exactly these."""
    d = len(covariance)
    noise = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise = noise - noise.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(noise.T @ noise / (n - 1)), noise.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def orthogonal(d, seed=0):
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


def seen(features):
    return FeatureStatistics().update(features)


# ---------------------------------------------------------------- statistics


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=6), d=st.integers(1, 6), seed=st.integers(0, 99))
def test_statistics_do_not_depend_on_the_batches(cuts, d, seed):
    x = normals(60, d, seed, mean=3.0)
    statistics = FeatureStatistics()
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True):
        statistics.update(x[start:end])
    assert statistics.n == 60
    torch.testing.assert_close(statistics.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(x.numpy(), rowvar=False, ddof=1).reshape(d, d), atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 40), seed=st.integers(0, 99))
def test_merging_is_one_pass_over_both(cut, seed):
    x = normals(40, 4, seed, mean=-2.0)
    first, second, whole = seen(x[:cut]), seen(x[cut:]), seen(x)
    kept = second.n
    merged = first.merge(second)
    assert merged is first
    assert (merged.n, second.n) == (40, kept)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-12, atol=1e-12)


def test_float32_features_with_a_large_mean_keep_their_variance():
    x = (torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)) * 0.1 + 50).float()
    truth = np.cov(x.double().numpy(), rowvar=False)
    streamed = FeatureStatistics()
    for part in x.split(256):
        streamed.update(part)
    assert streamed.mean.dtype == streamed.covariance.dtype == torch.float64
    np.testing.assert_allclose(streamed.covariance, truth, rtol=1e-9, atol=1e-12)
    total, square = torch.zeros(3), torch.zeros(3, 3)  # what float32 sums would have made of it
    for part in x.split(256):
        total, square = total + part.sum(0), square + part.T @ part
    naive = (square - torch.outer(total, total) / len(x)) / (len(x) - 1)
    assert abs(naive[0, 0].item() / truth[0, 0] - 1) > 0.01


def test_statistics_leave_their_features_alone_and_need_enough_of_them():
    x = normals(5, 2).float()
    before = x.clone()
    statistics = FeatureStatistics()
    with pytest.raises(ValueError, match="at least 1 image"):
        statistics.mean  # noqa: B018
    statistics.update(x[:1])
    with pytest.raises(ValueError, match="at least 2 images"):
        statistics.covariance  # noqa: B018
    statistics.update(x[1:].requires_grad_())
    assert not statistics.covariance.requires_grad
    assert torch.equal(x, before)


# ---------------------------------------------------------------- closed forms

FORMS = {"statistics": seen, "features": lambda x: x}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_diagonal_covariances_have_a_closed_form(form):
    a, b = torch.tensor([1.0, 4.0, 0.25]).double(), torch.tensor([9.0, 1.0, 0.01]).double()
    shift = torch.tensor([1.0, -2.0, 0.5]).double()
    truth = (a.sqrt() - b.sqrt()).square().sum() + shift.square().sum()
    got = frechet_distance(form(with_covariance(a.diag())), form(with_covariance(b.diag(), shift, seed=1)))
    assert got == pytest.approx(truth.item(), abs=1e-11)


@pytest.mark.parametrize("n", [4, 7, 8, 9, 200])  # fewer features than dimensions, as many, and more
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_identities(n, form):
    """Symmetry, 0 of a set and itself, a shift, a scale, a rotation, whether covariances are singular or not."""
    x, y, turn = normals(n, 8), normals(n + 3, 8, seed=1, mean=0.4, scale=1.5), orthogonal(8)
    exact = 1e-11 if form is FORMS["features"] or n > 9 else 1e-6  # a singular covariance has lost half of the digits
    base = frechet_distance(form(x), form(y))
    assert base > 0.5
    assert frechet_distance(form(y), form(x)) == pytest.approx(base, abs=exact)
    assert frechet_distance(form(x), form(x)) == pytest.approx(0, abs=exact)
    assert frechet_distance(form(x), form(x + 0.5)) == pytest.approx(8 * 0.25, abs=exact)
    assert frechet_distance(form(3 * x), form(3 * y)) == pytest.approx(9 * base, rel=exact)
    assert frechet_distance(form(x @ turn), form(y @ turn)) == pytest.approx(base, abs=exact)
    assert frechet_distance(form(x), form(2 * x)) == pytest.approx(
        x.mean(0).square().sum().item() + x.var(0).sum().item(), abs=exact
    )


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 12), m=st.integers(2, 30), d=st.integers(1, 10), seed=st.integers(0, 999))
def test_features_and_their_statistics_agree_whatever_the_ranks(n, m, d, seed):
    x, y = normals(n, d, seed), normals(m, d, seed + 1, mean=0.3)
    want = frechet_distance(x, y)
    for mixed in ((seen(x), seen(y)), (x, seen(y)), (seen(x), y)):
        assert frechet_distance(*mixed) == pytest.approx(want, abs=3e-6)


def test_two_lines_at_an_angle():
    """Rank one in two dimensions: tr (S1 S2)^½ is |cos| times both standard deviations."""
    line = torch.linspace(-1, 1, 9, dtype=torch.float64)
    variance = line.var().item()
    for angle in (0.0, 0.3, 1.0, math.pi / 2):
        x = torch.stack([line, 0 * line], 1)
        y = line[:, None] * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        truth = 2 * variance * (1 - abs(math.cos(angle)))
        assert frechet_distance(x, y) == pytest.approx(truth, abs=1e-7)


def test_features_that_are_always_zero_change_nothing():
    x, y = normals(40, 5), normals(50, 5, seed=1)
    dead = [torch.cat([part, torch.zeros(len(part), 3)], 1) for part in (x, y)]
    assert frechet_distance(*dead) == pytest.approx(frechet_distance(x, y), abs=1e-11)
    still = torch.ones(7, 5)
    assert frechet_distance(still, still) == 0
    assert frechet_distance(still, x) == pytest.approx(
        (x.mean(0) - 1).square().sum().item() + x.var(0).sum().item(), abs=1e-11
    )


@pytest.mark.parametrize("d", [5, 6])  # as many features as dimensions, and fewer
def test_few_features_keep_the_digits_that_a_singular_covariance_loses(d):
    """A variance of 1e-18 against one of 1 is worth 2e-9, which eigenvalues of the covariance cannot see."""
    tiny, one = torch.tensor([1e-18, 1.0, 1.0]).double(), torch.ones(3).double()
    x, y = (with_covariance(v.diag(), n=5, seed=k) for k, v in enumerate((tiny, one)))
    x, y = (torch.cat([part - part.mean(0), torch.zeros(5, d - 3)], 1) for part in (x, y))
    assert frechet_distance(x, y) == pytest.approx((1 - 1e-9) ** 2, abs=1e-11)


def test_a_covariance_that_only_rounding_makes_regular_counts_as_singular():
    slipped = 0
    for seed in range(60):
        x, y = normals(100, 4, seed) @ normals(4, 5, 200 + seed)[:, :5], normals(100, 5, 100 + seed)
        slipped += not torch.linalg.cholesky_ex(x.T.cov()).info
        roots = torch.linalg.svdvals((x - x.mean(0)) @ (y - y.mean(0)).T).sum() / 99
        truth = (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum() - 2 * roots
        assert frechet_distance(x, y) == pytest.approx(truth.item(), abs=1e-11)
    assert slipped  # Cholesky's root exists, and would have cost half of the digits


def test_the_tempting_shortcut_is_another_number():
    a, b = seen(normals(200, 30)), seen(normals(200, 30, seed=1, scale=0.5) @ orthogonal(30))
    product = a.covariance @ b.covariance
    wrong = torch.linalg.eigvalsh(product)
    right = np.trace(scipy.linalg.sqrtm(product.numpy())).real
    base = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()
    assert frechet_distance(a, b) == pytest.approx((base - 2 * right).item(), abs=1e-8)
    assert wrong.min() < -1e-3
    assert abs(wrong.clamp_min(0).sqrt().sum() - right) > 0.1


# ---------------------------------------------------------------- peers


class Features(nn.Module):
    """Images (B, 3, 8, 8) -> 12 features."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.num_features = 12

    def forward(self, x):
        return self.layers(x)


def two_sets():
    generator = torch.Generator().manual_seed(3)
    return torch.rand(150, 3, 8, 8, generator=generator), torch.rand(120, 3, 8, 8, generator=generator) ** 1.5


def test_frechet_is_that_of_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    peer = FrechetInceptionDistance(feature=Features(), normalize=True)
    peer.set_dtype(torch.float64)  # converts the extractor that it was given, too
    network = Features().double()
    both = [part.double() for part in two_sets()]
    for part, real in zip(both, (True, False), strict=True):
        for some in part.split(40):
            peer.update(some, real=real)
    with torch.no_grad():
        mine = frechet_distance(*(network(part) for part in both))
    assert mine == pytest.approx(peer.compute().item(), rel=1e-6)
    assert mine > 1e-3


def test_kernel_distance_is_that_of_torchmetrics():
    from torchmetrics.image.kid import KernelInceptionDistance

    both = two_sets()
    peer = KernelInceptionDistance(feature=Features(), normalize=True, subsets=1, subset_size=120)
    peer.set_dtype(torch.float64)
    network = Features().double()
    both = [part[:120].double() for part in both]
    for part, real in zip(both, (True, False), strict=True):
        peer.update(part, real=real)
    with torch.no_grad():
        features = [network(part) for part in both]
    with torch.random.fork_rng():  # it draws its subsets from the global source; here they are all images
        want = peer.compute()[0].item()
    mine = kernel_distance(*features, subset_size=None).value
    assert mine == pytest.approx(want, rel=1e-6)
    assert kernel_distance(*features, subsets=3, subset_size=120).value == pytest.approx(mine, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(400, 20), (15, 20)])
def test_both_are_those_of_torch_fidelity_and_sqrtm(n, d):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = normals(n, d), normals(n, d, seed=1, mean=0.2, scale=1.3)
    statistics = [fid_features_to_statistics(part) for part in (x, y)]
    want = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    mine = frechet_distance(x, y)
    assert mine == pytest.approx(want, abs=1e-9 if n > d else 1e-5)
    if n > d:
        sigmas = [part["sigma"] for part in statistics]
        root = np.trace(scipy.linalg.sqrtm(sigmas[0] @ sigmas[1])).real
        mean = np.square(statistics[0]["mu"] - statistics[1]["mu"]).sum()
        assert mine == pytest.approx(mean + np.trace(sigmas[0]) + np.trace(sigmas[1]) - 2 * root, rel=1e-9)
    kernel = kid_features_to_metric(x, y, kid_subsets=2, kid_subset_size=n, verbose=False)
    mine = kernel_distance(x, y, subset_size=None).value
    assert mine == pytest.approx(kernel["kernel_inception_distance_mean"], rel=1e-9)


# ---------------------------------------------------------------- the kernel distance


def test_kernel_distance_by_two_loops():
    x, y = normals(5, 3), normals(4, 3, seed=1, mean=1.0)

    def k(a, b):
        return ((a @ b).item() / 3 + 1) ** 3

    own = [
        sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1)) for z in (x, y)
    ]
    cross = sum(k(a, b) for a in x for b in y) / 20
    assert kernel_distance(x, y, subset_size=None).value == pytest.approx(sum(own) - 2 * cross, rel=1e-12)


def test_kernel_distance_of_one_distribution_is_zero_on_average_and_often_below():
    values = [kernel_distance(normals(60, 6, s), normals(60, 6, 1000 + s), subset_size=None).value for s in range(200)]
    values = torch.tensor(values)
    assert abs(values.mean()) < 4 * values.std() / 200**0.5
    assert 0.3 < (values < 0).float().mean() < 0.8
    far = kernel_distance(normals(60, 6), normals(60, 6, 1, mean=1.0), subset_size=None).value
    assert far > 5 * values.std()


def test_kernel_subsets_come_from_their_own_seed():
    x, y = normals(80, 4), normals(90, 4, seed=1)
    before = torch.get_rng_state()
    first = kernel_distance(x, y, subsets=10, subset_size=30)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == kernel_distance(x, y, subsets=10, subset_size=30)
    assert first != kernel_distance(x, y, subsets=10, subset_size=30, seed=1)
    assert first.spread > 0
    assert math.isnan(kernel_distance(x, y, subset_size=None).spread)
    many = kernel_distance(x, y, subsets=400, subset_size=30)  # subsets are unbiased for the whole
    assert abs(many.value - kernel_distance(x, y, subset_size=None).value) < 4 * many.spread / 20


def test_kernel_sum_of_more_rows_than_fit_a_pass():
    x, y = normals(1100, 2), normals(1050, 2, seed=1, mean=0.1)
    a, b = ((z @ w.T / 2 + 1) ** 3 for z, w in ((x, x), (y, y)))
    own = sum((k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (a, b))
    want = own - 2 * ((x @ y.T / 2 + 1) ** 3).mean()
    assert kernel_distance(x, y, subset_size=None).value == pytest.approx(want.item(), rel=1e-9)


# ---------------------------------------------------------------- bias and intervals


def test_the_bias_is_what_theory_says_and_the_line_removes_it():
    """Two samples of a standard Normal: E = 2 d/N + d (d + 1)/(2 N) to first order, and 0 at infinity."""
    d, n = 8, 1600
    white = [torch.randn(2, n, d, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in range(12)]
    lines = [extrapolated(x, y) for x, y in white]
    theory = 2 * d + d * (d + 1) / 2
    assert np.mean([line.slope for line in lines]) == pytest.approx(theory, rel=0.15)
    ends = np.array([line.value for line in lines])
    plain = np.array([line.distances[0] for line in lines])
    assert plain.mean() == pytest.approx(theory / n, rel=0.2)
    assert abs(ends.mean()) < 4 * ends.std(ddof=1) / len(ends) ** 0.5 + 0.05 * theory / n
    assert abs(ends.mean()) < 0.25 * plain.mean()


def test_extrapolation_is_the_least_squares_line_through_what_it_shows():
    x, y = normals(400, 5), normals(300, 5, seed=1, mean=0.3)
    line = extrapolated(x, y, parts=4, seed=3)
    assert line.sizes == [400, 200, 133, 100]
    assert line.distances[0] == pytest.approx(frechet_distance(x, y), abs=1e-10)
    slope, value = np.polyfit([k / 400 for k in (1, 2, 3, 4)], line.distances, 1)
    assert (line.value, line.slope) == pytest.approx((value, slope), rel=1e-9)
    assert line.distances[-1] > line.distances[0] > line.value
    before = torch.get_rng_state()
    assert line == extrapolated(x, y, parts=4, seed=3)
    assert line != extrapolated(x, y, parts=4, seed=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_jackknife_of_a_mean_is_its_standard_error():
    """With a group for every image the jackknife of a mean is s/sqrt(n), and it leaves each image out once."""
    x, y = normals(30, 1), normals(30, 1, seed=1)
    value, left = jackknife(lambda a, b: (a.mean() - b.mean()).item(), x, y, groups=15)
    assert value == pytest.approx((x.mean() - y.mean()).item())
    assert len(left) == 15
    assert np.mean(left) == pytest.approx(value, abs=1e-12)  # every image is out once
    assert len(set(left)) == 15
    low, high = jackknife_interval(value, left)
    error = 14 / 15 * np.square(np.array(left) - np.mean(left)).sum()
    assert (high - low) / 2 == pytest.approx(2.1447866879 * error**0.5)
    assert (high + low) / 2 == pytest.approx(value)


def test_jackknife_covers_the_distance_at_this_number_of_images():
    d, n = 4, 200
    runs = []
    for s in range(40):
        x, y = torch.randn(2, n, d, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
        runs.append(frechet_jackknife(x, 1.3 * y + 0.5))
    typical = np.mean([value for value, _ in runs])
    spread = np.std([value for value, _ in runs], ddof=1)
    intervals = [jackknife_interval(*run) for run in runs]
    covered = sum(low <= typical <= high for low, high in intervals)
    assert covered >= 34  # 38 of 40 are expected
    assert np.mean([high - low for low, high in intervals]) / 2 == pytest.approx(2.09 * spread, rel=0.35)


def test_jackknife_does_not_mind_sets_in_the_order_of_their_classes():
    classes = torch.arange(200) % 20
    x = normals(200, 3) + 5 * classes[:, None]
    y = normals(200, 3, seed=1) + 5 * classes[:, None]
    for order in (torch.arange(200), classes.argsort(stable=True)):
        value, left = frechet_jackknife(x[order], y[order])
        assert len(left) == 20
        assert value == pytest.approx(frechet_distance(x, y), abs=1e-9)
        low, high = jackknife_interval(value, left)
        assert low < 0 < high  # the two sets are one distribution
    assert frechet_jackknife(x, y) == frechet_jackknife(x, y)
    before = torch.get_rng_state()
    frechet_jackknife(x, y, groups=5)
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- bad input

GOOD = torch.zeros(4, 2).double()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: frechet_distance([1, 2], GOOD), "a must be real features"),
        (lambda: frechet_distance(GOOD, torch.zeros(4)), "b must be real features"),
        (lambda: frechet_distance(GOOD, GOOD[:1]), "b must be the features of at least 2"),
        (lambda: frechet_distance(GOOD, GOOD[:, :1]), "b must have as many features as a, 2, got 1"),
        (lambda: frechet_distance(GOOD, torch.full((4, 2), torch.nan)), "b must be finite"),
        (lambda: frechet_distance(GOOD.to(torch.complex64), GOOD), "a must be real"),
        (lambda: frechet_distance(FeatureStatistics(), GOOD), "at least 1 image"),
        (lambda: FeatureStatistics().update(GOOD).update(GOOD[:, :1]), "features must have 2 columns"),
        (lambda: FeatureStatistics().update(GOOD).merge(GOOD), "other must be FeatureStatistics"),
        (lambda: seen(GOOD).merge(seen(GOOD[:, :1])), "other must be of 2 features, got 1"),
        (lambda: kernel_distance(GOOD, GOOD[:, :1]), "others must have 2 columns"),
        (lambda: kernel_distance(GOOD, GOOD), r"subset_size must be an integer in \[2, 4\], got 1000"),
        (lambda: kernel_distance(GOOD, GOOD, subset_size=1), "subset_size must be"),
        (lambda: kernel_distance(GOOD, GOOD, subsets=0, subset_size=2), "subsets must be"),
        (lambda: extrapolated(GOOD, GOOD), "parts must leave more than 2 images"),
        (lambda: extrapolated(GOOD, GOOD, parts=1), "parts must be"),
        (lambda: frechet_jackknife(GOOD, GOOD), r"groups must be an integer in \[2, 2\], got 20"),
        (lambda: jackknife_interval(1.0, [1.0]), "left_out must hold"),
        (lambda: jackknife_interval(1.0, [1.0, math.nan]), "left_out must hold"),
        (lambda: jackknife_interval(1.0, [1.0, 2.0], confidence=1.0), "confidence must lie"),
    ],
)
def test_bad_input_names_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(("n", "m", "d"), [(300, 170, 20), (60, 300, 55), (40, 40, 39), (30, 50, 60)])
def test_merged_groups_leave_out_what_whole_sets_do(n, m, d):
    """By the groups' statistics where there are images enough, else by the features: the same numbers."""
    x, y = normals(n, d), normals(m, d, seed=1, mean=0.3, scale=1.2)
    value, left = frechet_jackknife(x, y, groups=7)
    whole, one_by_one = jackknife(frechet_distance, x, y, groups=7)
    assert value == pytest.approx(whole, rel=1e-9)
    assert left == pytest.approx(one_by_one, rel=1e-9)
