"""The three densities over images: they sum to one, they are those of torch, and the field is mean field on the graph."""

import itertools
import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal

from hybridgen_lib.models.pixel_graph import PixelGraph
from hybridgen_lib.models.pixels import (
    DEEP_BAYES_SIGMA,
    BinaryPixels,
    FieldPixels,
    NormalPixels,
    PixelBernoulli,
    PixelNormal,
)


def drawn(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_images(height: int, width: int) -> torch.Tensor:
    """(2^(H W), 1, H, W)."""
    every = list(itertools.product([0.0, 1.0], repeat=height * width))
    return torch.tensor(every, dtype=torch.float64).reshape(-1, 1, height, width)


# ---------------------------------------------------------------- the distributions


def test_pixel_bernoulli_is_torchs():
    logits = drawn(4, 5, 2, 3, 3, scale=3)  # axes before the image: 4 codes, 5 classes
    x = (drawn(4, 1, 2, 3, 3, seed=1) > 0).double()
    ours, theirs = PixelBernoulli(logits), Independent(Bernoulli(logits=logits), 3)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x.expand_as(logits)))
    torch.testing.assert_close(ours.mean, theirs.mean)
    assert ours.log_prob(x).shape == (4, 5) == ours.batch_shape
    assert ours.event_shape == (2, 3, 3)


def test_pixel_bernoulli_stays_finite_where_a_probability_rounds_to_zero():
    far = PixelBernoulli(torch.tensor([[[-500.0]]]))
    assert far.log_prob(torch.ones(1, 1, 1)).item() == pytest.approx(-500)
    assert far.log_prob(torch.zeros(1, 1, 1)).item() == 0


def test_a_grey_value_counts_as_the_chance_of_light():
    logits, grey = drawn(1, 2, 2), torch.tensor([[[0.1, 0.7], [0.5, 1.0]]], dtype=torch.float64)
    pixels, every = PixelBernoulli(logits), all_images(2, 2)
    chances = torch.where(every == 1, grey, 1 - grey).flatten(1).prod(1)
    torch.testing.assert_close(pixels.log_prob(grey), (chances * pixels.log_prob(every)).sum())


@pytest.mark.parametrize("sigma", [0.1, DEEP_BAYES_SIGMA, 2.0])
def test_pixel_normal_is_torchs(sigma):
    mean, x = drawn(4, 5, 1, 3, 2), drawn(4, 1, 1, 3, 2, seed=1)
    ours, theirs = PixelNormal(mean, sigma), Independent(Normal(mean, sigma), 3)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x.expand_as(mean)))
    assert torch.equal(ours.mean, mean)
    assert ours.batch_shape == (4, 5)
    assert ours.event_shape == (1, 3, 2)


def test_deep_bayes_scores_the_squared_error():
    mean, x = torch.rand(1, 28, 28).double(), torch.rand(1, 28, 28).double()
    expected = -(x - mean).square().sum() - 392 * math.log(math.pi)
    torch.testing.assert_close(PixelNormal(mean, DEEP_BAYES_SIGMA).log_prob(x), expected)


# ---------------------------------------------------------------- the modules


@pytest.mark.parametrize("module", [BinaryPixels(), FieldPixels(), FieldPixels(sweeps=0), FieldPixels(sweeps=10)])
def test_binary_densities_sum_to_one_over_all_images(module):
    density = module(drawn(1, 2, 2, scale=2))
    assert density.log_prob(all_images(2, 2)).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_normal_pixels_paint_the_sigmoid_and_integrate_to_one():
    logits = drawn(1, 1, 1)
    density = NormalPixels(0.3)(logits)
    torch.testing.assert_close(density.mean, torch.sigmoid(logits))
    line = torch.linspace(-4, 5, 20_001, dtype=torch.float64)
    total = torch.trapezoid(density.log_prob(line.reshape(-1, 1, 1, 1)).exp(), line)
    assert total.item() == pytest.approx(1, abs=1e-8)
    assert NormalPixels()(logits).sigma == DEEP_BAYES_SIGMA


def test_binary_pixels_take_the_logits_as_they_are():
    logits = drawn(2, 1, 3, 3)
    assert torch.equal(BinaryPixels()(logits).logits, logits)


def test_field_pixels_are_mean_field_on_the_grid():
    field, logits = FieldPixels(sweeps=2).double(), drawn(3, 2, 4, 5)
    with torch.no_grad():
        field.coupling.fill_(0.8)
    torch.testing.assert_close(field(logits).logits, PixelGraph.ising(logits, 0.8).mean_field(2))


def test_images_classes_and_channels_have_fields_of_their_own():
    field, logits = FieldPixels().double(), drawn(3, 4, 2, 5, 5)
    torch.testing.assert_close(field(logits).logits[1, 2], field(logits[1, 2]).logits)
    torch.testing.assert_close(field(logits).logits[..., 1:, :, :], field(logits[..., 1:, :, :]).logits)


def test_without_coupling_the_field_is_independent_pixels():
    field, logits = FieldPixels().double(), drawn(1, 4, 4)
    with torch.no_grad():
        field.coupling.zero_()
    torch.testing.assert_close(field(logits).logits, logits)


def test_the_field_smooths():
    """One dark pixel, in the middle of bright ones, is painted bright: its neighbours outvote it."""
    logits = torch.full((1, 5, 5), 2.0)
    logits[0, 2, 2] = -2.0
    assert FieldPixels()(logits).mean[0, 2, 2] > 0.5 > BinaryPixels()(logits).mean[0, 2, 2]


def test_coupling_and_logits_receive_the_right_gradient():
    field, logits = FieldPixels().double(), drawn(1, 3, 4).requires_grad_()
    x = (drawn(1, 3, 4, seed=1) > 0).double()
    field(logits).log_prob(x).backward()
    assert field.coupling.grad.abs() > 0
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            field.coupling.add_(step)
            values.append(field(logits).log_prob(x).item())
            field.coupling.sub_(step)
    assert field.coupling.grad.item() == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-6)
    assert torch.autograd.gradcheck(lambda a: field(a).log_prob(x), (logits,))


def test_a_smooth_image_teaches_a_larger_coupling_and_a_chessboard_a_smaller():
    flat, rough = torch.ones(1, 6, 6), ((torch.arange(6)[:, None] + torch.arange(6)) % 2).float()[None]
    for x, sign in ((flat, 1), (rough, -1)):
        field = FieldPixels()
        field(0.5 * (2 * x - 1)).log_prob(x).backward()
        assert sign * field.coupling.grad > 0


def test_the_field_starts_at_one_and_is_saved():
    field = FieldPixels()
    assert field.coupling.item() == 1
    assert list(field.state_dict()) == ["coupling"]


@pytest.mark.parametrize("sweeps", [-1, 1.5, None])
def test_bad_input_names_the_argument(sweeps):
    with pytest.raises(ValueError, match=r"^sweeps must"):
        FieldPixels(sweeps)
