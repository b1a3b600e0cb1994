"""Features' Normals, whose means are not computed: the same density, the same gradients, and never an old one."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Independent, Normal

from hybridgen_lib.models.networks import VectorFactor
from hybridgen_lib.models.pixels import PixelNormal
from hybridgen_lib.models.vectors import LinearNormal, NormalFeatures

F, H = 9, 4


def layer(features=F, hidden=H, seed=0, dtype=torch.float64):
    source = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(features, hidden, generator=source), torch.randn(features, generator=source)
    return weight.to(dtype), bias.to(dtype)


def draw(*shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def expected(h, weight, bias, sigma):
    return Independent(Normal(h @ weight.T + bias, sigma), 1)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.floats(0.05, 20), st.integers(0, 10_000))
def test_it_is_the_density_of_normals_around_the_layer(hidden, features, sigma, seed):
    """More features than hidden units or fewer, one image for many h, by hand from torch's own Normal."""
    weight, bias = layer(features, hidden, seed)
    h, v = draw(3, 2, 5, hidden, seed=seed + 1), draw(1, 2, 1, features, seed=seed + 2)
    ours, theirs = NormalFeatures(sigma)(h, weight, bias), expected(h, weight, bias, sigma)
    assert isinstance(ours, LinearNormal) == (features > hidden)
    torch.testing.assert_close(ours.log_prob(v), theirs.log_prob(v), rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(ours.mean, theirs.mean)
    assert ours.batch_shape == theirs.batch_shape
    assert ours.event_shape == theirs.event_shape


def test_a_case_by_hand():
    """W h + b = (1, 2, 3), v = (1, 2, 5): two units away in one feature of three."""
    p = NormalFeatures(0.5)(torch.tensor([2.0]), torch.tensor([[0.5], [1.0], [1.0]]), torch.tensor([0.0, 0.0, 1.0]))
    assert isinstance(p, LinearNormal)
    value = p.log_prob(torch.tensor([1.0, 2.0, 5.0])).item()
    assert value == pytest.approx(-4 / (2 * 0.25) - 3 * math.log(0.5 * math.sqrt(2 * math.pi)), rel=1e-6)


def test_gradients_in_the_image_and_in_the_hidden_units():
    weight, bias = layer()
    h, v = draw(3, 2, 5, H).requires_grad_(), draw(1, 2, 1, F).requires_grad_()
    normal = NormalFeatures(0.3)
    assert torch.autograd.gradcheck(lambda h, v: normal(h, weight, bias).log_prob(v), (h, v))
    given = torch.autograd.grad(normal(h, weight, bias).log_prob(v).logsumexp(0).sum(), (h, v))
    wanted = torch.autograd.grad(expected(h, weight, bias, 0.3).log_prob(v).logsumexp(0).sum(), (h, v))
    torch.testing.assert_close(given, wanted)


def test_float32_loses_nothing_that_decides():
    """Two thousand features of root mean square 1: within 0.01 nats of float64, where scores are thousands of nats."""
    weight, bias = layer(2048, 500)
    weight, h, v = weight / 30, draw(4, 3, 2, 500).relu(), draw(1, 3, 1, 2048)
    exact = NormalFeatures(0.25)(h, weight, bias).log_prob(v)
    rough = NormalFeatures(0.25)(h.float(), weight.float(), bias.float()).log_prob(v.float())
    assert exact.abs().min() > 10_000
    torch.testing.assert_close(rough.double(), exact, rtol=0, atol=0.05)
    torch.testing.assert_close(rough.double(), exact, rtol=2e-6, atol=0)


def test_a_layer_in_training_gets_its_gradient():
    linear = nn.Linear(H, F).double()
    h, v = draw(6, H), draw(6, F)
    p = NormalFeatures(1.0)(h, linear.weight, linear.bias)
    assert isinstance(p, PixelNormal)
    given = torch.autograd.grad(p.log_prob(v).sum(), [linear.weight, linear.bias])
    wanted = torch.autograd.grad(expected(h, linear.weight, linear.bias, 1.0).log_prob(v).sum(), [linear.weight, linear.bias])
    torch.testing.assert_close(given, wanted)


CHANGES = {
    "an optimiser's step": lambda f: torch.optim.SGD(f.parameters(), lr=0.5).step(),
    "a fused step, which is not counted": lambda f: torch.optim.Adam(f.parameters(), lr=0.5, fused=True).step(),
    "weights from a file": lambda f: f.load_state_dict({k: v + 1 for k, v in f.state_dict().items()}),
    "a new parameter": lambda f: setattr(f.mlp.last, "weight", nn.Parameter(draw(F, H, seed=9))),
    "new data": lambda f: setattr(f.mlp.last.weight, "data", draw(F, H, seed=10)),
    "single and back": lambda f: f.float().double(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_density_of_old_weights(change):
    """What was made once for a weight is made anew for another, and not before."""
    factor = VectorFactor({"z": 2}, [H], F, sigma=0.3).double()
    z, v = draw(5, 2), draw(5, F)

    def check():
        with torch.no_grad():
            p = factor(z=z)
            assert isinstance(p, LinearNormal)
            torch.testing.assert_close(p.log_prob(v), Independent(Normal(factor.mlp({"z": z}), 0.3), 1).log_prob(v))
            return p.gram

    assert check() is check()
    for parameter in factor.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = check()
    CHANGES[change](factor)
    assert check() is not before
    twin = copy.deepcopy(factor)
    with torch.no_grad():
        twin.mlp.last.weight.mul_(2)
    assert not torch.equal(twin.requires_grad_(False)(z=z).gram, check())


def test_nothing_of_it_is_saved_with_the_weights():
    factor = VectorFactor({"z": 2}, [H], F)
    names = set(factor.state_dict())
    with torch.no_grad():
        factor(z=torch.zeros(1, 2))
    assert set(factor.state_dict()) == names
    assert not any("normal" in name for name in names)


def test_one_look_in_inference_mode_leaves_gradients_possible():
    factor = VectorFactor({"z": 2}, [H], F, sigma=0.3).double().requires_grad_(False)
    with torch.inference_mode():
        factor(z=draw(5, 2)).log_prob(draw(5, F))
    z = draw(5, 2).requires_grad_()
    factor(z=z).log_prob(draw(5, F)).sum().backward()
    assert z.grad.abs().sum() > 0
