"""Gradients from elsewhere: BPDA's scores and gradients to the last bit, and attacks that never ask their victim."""

from functools import partial

import pytest
import torch
import torchattacks
from fixtures_models import Constant, Detached, Noisy, Rounded, images, small_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hybridgen_lib.attacks import L2, Bpda, Linf, autoattack, fgsm, pgd, transfer
from hybridgen_lib.attacks.gradient import LOSSES
from hybridgen_lib.classifier import frozen_noise, is_stochastic


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def net(classes=3, seed=0, dtype=torch.float32):
    """A small smooth random classifier of 1 x 4 x 4 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, classes))
    return model.to(dtype).eval()


def batch(n=12, seed=0, dtype=torch.float32):
    return torch.rand(n, 1, 4, 4, generator=seeded(seed), dtype=dtype), torch.randint(3, (n,), generator=seeded(seed + 1))


def linear(weights):
    """Scores (0, w.(x - 1/2))."""
    layer = nn.Linear(weights.numel(), 2)
    with torch.no_grad():
        layer.weight[0], layer.weight[1] = 0, weights.flatten()
        layer.bias[0], layer.bias[1] = 0, -weights.sum() / 2
    return nn.Sequential(nn.Flatten(), layer)


class Shifted(nn.Module):
    """The scores of a classifier, stretched and moved."""

    def __init__(self, classifier, factor, shift):
        super().__init__()
        self.classifier, self.factor, self.shift = classifier, factor, shift

    def forward(self, x):
        return self.factor * self.classifier(x) + self.shift


def accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


# ---------------------------------------------------------------- Bpda


def test_the_scores_are_the_models_to_the_last_bit_however_large():
    x, _ = batch(2000)
    for model in (net(), Shifted(net(), 3.7, -1e4), Rounded(net())):
        for surrogate in (net(seed=1), Shifted(net(seed=1), 1e5, 7e5)):
            assert torch.equal(Bpda(model, surrogate)(x), model(x))


def test_scores_of_minus_infinity_survive():
    class Impossible(nn.Module):
        def forward(self, x):
            return net()(x).index_fill(1, torch.tensor([2]), -torch.inf)

    x, _ = batch()
    assert torch.equal(Bpda(Impossible(), net())(x), Impossible()(x))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_the_losses_at_the_models_scores_through_the_surrogate(loss):
    model, surrogate = Shifted(net(dtype=torch.float64), 5.0, 1.0), net(seed=1, dtype=torch.float64)
    x, y = batch(dtype=torch.float64)
    x.requires_grad_()
    found = torch.autograd.grad(LOSSES[loss](Bpda(model, surrogate)(x), y).sum(), x)[0]
    scores = model(x).detach().requires_grad_()
    of_loss = torch.autograd.grad(LOSSES[loss](scores, y).sum(), scores)[0]
    expected = torch.autograd.grad((of_loss * surrogate(x)).sum(), x)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([Linf, L2]), st.floats(0.01, 1), st.integers(0, 10**6))
def test_a_model_that_is_its_own_surrogate_is_attacked_as_it_is(kind, eps, seed):
    model, (x, y) = net(seed=seed, dtype=torch.float64), batch(seed=seed, dtype=torch.float64)
    run = partial(pgd, x=x, y=y, ball=kind(eps), steps=5)
    torch.testing.assert_close(run(Bpda(model, model), generator=seeded()), run(model, generator=seeded()))


def test_it_breaks_a_rounding_step_by_every_gradient_attack_also_of_other_libraries():
    plain, (x, y) = small_cnn(), images(60)
    masked = Rounded(plain)
    before, bridge = accuracy(masked, x, y), Bpda(masked, plain).eval()
    assert accuracy(masked, pgd(masked, x, y, Linf(0.2), random_start=False), y) == before
    for attacked in (
        pgd(bridge, x, y, Linf(0.2), steps=20),
        autoattack(bridge, x, y, Linf(0.2)),
        torchattacks.PGD(bridge, eps=0.2, alpha=0.02, steps=20, random_start=False)(x, y),
    ):
        assert accuracy(masked, attacked, y) < 0.1
    assert accuracy(masked, fgsm(bridge, x, y, Linf(0.2)), y) < before - 0.3


@pytest.mark.parametrize("wrap", [Detached, Rounded])
def test_it_is_as_strong_as_the_surrogate_argument_of_pgd(wrap):
    plain, (x, y) = small_cnn(), images(60)
    masked = wrap(plain)
    bridged = pgd(Bpda(masked, plain), x, y, Linf(0.1), steps=20, loss="margin")
    handed = pgd(masked, x, y, Linf(0.1), steps=20, loss="margin", surrogate=plain)
    assert accuracy(masked, bridged, y) < accuracy(masked, x, y) - 0.3
    assert abs(accuracy(masked, bridged, y) - accuracy(masked, handed, y)) <= 2.01 / 60


class Coin(nn.Module):
    """A model with noise that is no ``StochasticClassifier``: it only says so."""

    stochastic = True

    def forward(self, x, generator=None):
        return net()(x) + torch.randn(len(x), 3, generator=generator)


@pytest.mark.parametrize("parts", [(Coin(), net()), (net(), Coin()), (Noisy(net()), net()), (net(), Noisy(net()))])
def test_it_is_stochastic_where_a_part_is_and_draws_from_the_generator(parts):
    bridge, (x, _) = Bpda(*parts), batch()
    assert is_stochastic(bridge)
    with torch.no_grad():
        assert torch.equal(bridge(x, generator=seeded(1)), bridge(x, generator=seeded(1)))
    assert not is_stochastic(Bpda(net(), net(seed=1)))


def test_frozen_noise_reaches_both_parts():
    bridge, (x, y) = Bpda(Noisy(net(), 0.3), Noisy(net(seed=1), 0.3)), batch()
    with frozen_noise(bridge, 4):
        assert not is_stochastic(bridge)
        expected = bridge.model(x)
        assert torch.equal(bridge(x), expected)
        assert torch.equal(pgd(bridge, x, y, Linf(0.2), steps=3), pgd(bridge, x, y, Linf(0.2), steps=3))
    assert is_stochastic(bridge)


def test_it_tells_what_its_scores_are_and_gathers_no_gradients_in_the_model():
    model, surrogate = net(), net(seed=1)
    model.score_kind = "log_joint"
    bridge = Bpda(model, surrogate)
    assert bridge.score_kind == "log_joint"
    bridge(batch()[0]).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in surrogate.parameters())


# ---------------------------------------------------------------- transfer


@pytest.mark.parametrize("kind", [Linf, L2])
def test_between_two_linear_models_the_answer_is_known(kind):
    """Away from its label the source sends each image by eps along its own steepest direction, in l2 nearly so."""
    victim, source = (torch.randn(16, generator=seeded(seed)) for seed in (0, 1))
    x, y, eps = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 1]), 0.2
    x, sign = x + 0.05 * torch.rand(1, 1, 4, 4, generator=seeded(2)), torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    wrong = linear(victim)(x).argmax(1) != y
    assert wrong.sum() == 1  # both images are the same, their labels are not
    sent = transfer(linear(victim), x, y, kind(eps), source=linear(source))
    best = eps * sign * kind(1.0).steepest(source.view(1, 1, 4, 4))
    gained, most = ((source.view(1, 1, 4, 4) * delta * sign).flatten(1).sum(1)[~wrong] for delta in (sent - x, best))
    assert {Linf: 0.9999, L2: 0.97}[kind] * most < gained < 1.0001 * most
    assert torch.equal(sent[wrong], x[wrong])


def test_from_a_model_to_itself_it_is_margin_pgd_and_to_another_it_loses_less_than_it_takes():
    model, other, (x, y) = small_cnn(), Rounded(small_cnn(), 6), images(100)
    own = transfer(model, x, y, Linf(0.1), source=model, steps=20)
    full = pgd(model, x, y, Linf(0.1), steps=20, loss="margin", stop_when_fooled=False)
    right = model(x).argmax(1) == y
    assert torch.equal(own[right], full[right])
    sent = transfer(other, x, y, Linf(0.1), source=model, steps=20)
    assert accuracy(other, sent, y) < accuracy(other, x, y) - 0.4


def test_an_image_deep_in_a_wrong_class_carries_further():
    source, victim, (x, y) = small_cnn(), Noisy(small_cnn(), sigma=0.3), images(100)

    def left(attacked):
        return sum(accuracy(victim, attacked, y) for _ in range(5)) / 5

    stopped = pgd(source, x, y, Linf(0.1), steps=20, loss="margin")
    assert left(transfer(victim, x, y, Linf(0.1), source=source, steps=20)) < left(stopped) - 0.1


@pytest.mark.parametrize("wrap", [Detached, Rounded])
def test_no_gradient_is_asked_of_the_model(wrap):
    plain, asked = small_cnn(), []
    victim, (x, y) = wrap(plain), images(40)
    victim.register_forward_hook(lambda m, seen, out: asked.append(torch.is_grad_enabled() or seen[0].requires_grad))
    sent = transfer(victim, x, y, Linf(0.2), source=plain, steps=20)
    assert asked == [False]
    assert accuracy(victim, sent, y) < 0.15


def test_what_is_wrong_already_comes_back_as_it_is_also_in_a_tie():
    model, (x, y) = Constant(3), batch()
    sent = transfer(model, x, y, Linf(0.2), source=net())
    assert torch.equal(sent[y != 0], x[y != 0])  # all scores tie: the first class wins
    assert not (sent[y == 0] == x[y == 0]).flatten(1).all(1).any()
    stochastic = transfer(Noisy(net()), x, y, Linf(0.2), source=net())
    assert not (stochastic == x).flatten(1).all(1).any()  # where one draw proves nothing every image is sent


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([Linf, L2]), st.floats(0, 1.5), st.integers(0, 10**6))
def test_inside_the_ball_and_the_box(kind, eps, seed):
    x, y = batch(seed=seed)
    sent = transfer(net(seed=seed), x, y, kind(eps), source=net(seed=seed + 1), steps=4, generator=seeded(seed))
    assert (kind(eps).norm(sent - x) <= eps + 1e-5).all()
    assert sent.min() >= 0
    assert sent.max() <= 1
    wrong = net(seed=seed)(x).argmax(1) != y
    assert torch.equal(sent[wrong], x[wrong])
    if eps == 0:
        assert torch.equal(sent, x)


def test_zero_radius_empty_batch_and_double_precision():
    x, y = batch()
    model = net()
    unmoved = transfer(model, x, y, Linf(0.0), source=net(seed=1))
    assert torch.equal(unmoved, x)
    assert unmoved.data_ptr() != x.data_ptr()
    assert transfer(model, x[:0], y[:0], Linf(0.1), source=net(seed=1)).shape == x[:0].shape
    double = transfer(net(dtype=torch.float64), x.double(), y, Linf(0.1), source=net(seed=1, dtype=torch.float64))
    assert double.dtype == torch.float64


def test_the_result_depends_on_the_generator_alone_and_no_trace_is_left():
    model, source, (x, y) = net().train(), net(seed=1).train(), batch()
    source[1].weight.requires_grad_(False)
    source[4].weight.grad = torch.ones_like(source[4].weight)
    copies, state = (x.clone(), y.clone()), torch.random.get_rng_state()
    runs = [transfer(model, x, y, L2(0.4), source=source, steps=3, generator=g) for g in (None, seeded(0), seeded(1))]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    for part, flags in ((model, [True] * 4), (source, [False, True, True, True])):
        assert all(m.training for m in part.modules())
        assert [p.requires_grad for p in part.parameters()] == flags
    assert source[4].weight.grad.eq(1).all()
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_source_with_noise_draws_from_the_generator():
    source, (x, y) = Noisy(net(seed=1), seed=3), batch()
    first, second = (transfer(net(), x, y, Linf(0.1), source=source, steps=3, generator=seeded(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(source(x), Noisy(net(seed=1), seed=3)(x))


def test_the_result_is_no_part_of_the_callers_graph():
    x, y = batch()
    assert not transfer(net(), x.requires_grad_(), y, Linf(0.1), source=net(seed=1), steps=2).requires_grad


@pytest.mark.parametrize("change", [{"ball": 0.1}, {"steps": -1}, {"generator": 3}])
def test_bad_arguments_are_named_before_the_model_is_asked(change):
    class Asked(nn.Module):
        def forward(self, x):
            raise AssertionError("asked")

    x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    given = {"ball": Linf(0.1), "steps": 2, "generator": None, **change}
    with pytest.raises(ValueError, match=next(iter(change))):
        transfer(Asked(), x, y, given.pop("ball"), source=Asked(), **given)
