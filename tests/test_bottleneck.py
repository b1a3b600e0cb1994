"""The bottleneck and what trains it: loops over draws, closed forms, finite differences, effects worked out by hand."""

import copy
import itertools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from fixtures_models import has_noise_of_its_own, ignores_company_when_frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from hybridgen_lib import recipes
from hybridgen_lib.attacks import Linf, pgd
from hybridgen_lib.classifier import frozen_noise, is_stochastic
from hybridgen_lib.models.bottleneck import Bottleneck
from hybridgen_lib.models.networks import DenseNetwork
from hybridgen_lib.training import causal_loss, fit, information_bottleneck

SHAPE, CLASSES, CODE, DRAWS = (1, 4, 5), 3, 6, 5
Y = torch.arange(7) % CLASSES


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def model_of(code=CODE, draws=DRAWS, spread=4.0, seed=0):
    """A small one with noise that matters: sigma = softplus(h - 5) is next to nothing in a fresh model."""
    model = seeded(lambda: Bottleneck(DenseNetwork(SHAPE, CLASSES, hidden=8), CLASSES, code=code, draws=draws), seed)
    model.spread.bias.data += spread
    return model


def pictured(count=7, seed=0, dtype=torch.float32):
    return torch.rand(count, *SHAPE, generator=generator(seed)).to(dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def by_hand(model, x):
    """Mean and sigma of the code, from the weights."""
    h = x.flatten(1)
    for layer in model.trunk.layers:
        if isinstance(layer, nn.Linear):
            h = torch.relu(h @ layer.weight.T + layer.bias)
    mean = h @ model.mean.weight.T + model.mean.bias
    raw = h @ model.spread.weight.T + model.spread.bias - 5
    return mean, torch.log1p(raw.exp())


# ---------------------------------------------------------------- the contract


def test_a_classifier_with_noise_of_its_own():
    model, x = model_of(), pictured()
    assert len(x) == 7
    assert model.score_kind == "log_conditional"
    has_noise_of_its_own(model, x, CLASSES)


def test_frozen_scores_do_not_depend_on_the_batch():
    model, x = model_of().double(), pictured(dtype=torch.float64)
    ignores_company_when_frozen(model, x)


def test_every_image_has_draws_of_its_own_unless_frozen():
    model, x = model_of(), pictured(1).expand(4, -1, -1, -1)
    with torch.no_grad():
        assert len(model(x).unique(dim=0)) == 4
        with frozen_noise(model):
            assert len(model(x).unique(dim=0)) == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"])
def test_a_copy_is_the_same_model_and_draws_for_itself(copied):
    model, x = model_of(), pictured()
    with torch.no_grad():
        model(x)  # its source of noise is in use
        with frozen_noise(model):
            twin = copied(model)
            assert is_stochastic(twin)  # a copy starts unfrozen
            expected = model(x)
        first, second = twin(x), model_of()(x)
        torch.testing.assert_close(first, second)  # from the seed again
        with frozen_noise(twin):
            assert torch.equal(twin(x), expected)
        twin.decoder.weight.zero_()
    assert model.decoder.weight.abs().max() > 0


def test_nothing_is_left_behind():
    model, x = model_of(), pictured().requires_grad_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = information_bottleneck(0.1, 0.2)(model, x, Y, 0.5, generator())
    model(x).sum()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_the_network_is_copied_and_loses_its_last_layer():
    network = seeded(lambda: DenseNetwork(SHAPE, CLASSES, hidden=8))
    before = copy.deepcopy(network)
    model = Bottleneck(network, 4, code=CODE)
    assert (model.code, model.draws) == (CODE, 12)
    assert (model.mean.in_features, model.mean.out_features, model.spread.out_features) == (8, CODE, CODE)
    assert (model.decoder.in_features, model.decoder.out_features) == (CODE, 4)
    for parameter in model.parameters():
        parameter.data.zero_()
    for (name, value), own in zip(before.state_dict().items(), network.state_dict().values(), strict=True):
        assert torch.equal(value, own), name
    assert sum(isinstance(part, nn.Linear) for part in model.trunk.modules()) == 2


@pytest.mark.parametrize("name", ["alexnet", "resnet34", "cnn"])
def test_it_stands_on_convolutional_networks_too(name):
    sizes = {"hidden": 4, "width": 4} if name == "cnn" else {"width": 1 / 32}
    shape = (3, 16, 16)
    model = Bottleneck(recipes.build(name, shape, CLASSES, **sizes), CLASSES, code=4, draws=3).eval()
    x = torch.rand(2, *shape, generator=generator())
    with torch.no_grad():
        torch.testing.assert_close(model(x).exp().sum(1), torch.ones(2))


@pytest.mark.parametrize("arguments", [{"code": 6.0}, {"draws": 5.0}])
def test_a_whole_number_may_be_written_as_a_float(arguments):
    model = Bottleneck(DenseNetwork(SHAPE, CLASSES, hidden=8), CLASSES, **{"code": CODE, "draws": DRAWS, **arguments})
    assert (model.code, model.draws) == (6, 5)
    assert model(pictured()).shape == (7, CLASSES)


# ---------------------------------------------------------------- codes and scores


def test_the_code_is_a_normal_of_its_image():
    model, x = model_of(), pictured()
    with torch.no_grad():
        q, (mean, sigma) = model.encode(x), by_hand(model, x)
        torch.testing.assert_close(q.loc, mean)
        torch.testing.assert_close(q.scale, sigma)
        noise = torch.randn(DRAWS, 7, CODE, generator=generator(3))
        torch.testing.assert_close(model.codes(q, generator(3)), mean + sigma * noise)
    assert 0.1 < sigma.mean() < 1


def test_a_fresh_model_has_next_to_no_noise():
    """sigma = softplus(h - 5) where h is about 0."""
    model = model_of(spread=0.0)
    with torch.no_grad():
        sigma = model.encode(pictured()).scale
    assert 0.5 * math.log1p(math.exp(-5)) < sigma.median() < 2 * math.log1p(math.exp(-5))


def test_many_codes_have_the_mean_and_the_spread_of_the_normal():
    model, x = model_of(draws=20_000), pictured(2)
    with torch.no_grad():
        z, (mean, sigma) = model.codes(model.encode(x), generator()), by_hand(model, x)
    assert ((z.mean(0) - mean).abs() / sigma).max() < 0.04
    torch.testing.assert_close(z.std(0), sigma, rtol=0.03, atol=0)


def test_scores_are_the_log_of_the_mean_probability():
    """The mean over draws is one of probabilities, not of logits and not of log probabilities."""
    model, x = model_of(), pictured()
    with torch.no_grad():
        mean, sigma = by_hand(model, x)
        noise = torch.randn(DRAWS, 7, CODE, generator=generator(3))
        probabilities = torch.zeros(7, CLASSES)
        for k in range(DRAWS):
            z = mean + sigma * noise[k]
            probabilities += (z @ model.decoder.weight.T + model.decoder.bias).softmax(1) / DRAWS
        scores = model(x, generator(3))
        other = (mean + sigma * noise) @ model.decoder.weight.T + model.decoder.bias
    torch.testing.assert_close(scores, probabilities.log())
    assert (scores - other.log_softmax(2).mean(0)).abs().max() > 1e-3
    assert (scores - other.mean(0).log_softmax(1)).abs().max() > 1e-3


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0, 50), draws=st.integers(1, 6), seed=st.integers(0, 99))
def test_scores_are_log_probabilities(scale, draws, seed):
    model = model_of(draws=draws)
    model.decoder.weight.data *= scale
    with torch.no_grad():
        scores = model(pictured(), generator(seed))
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(7))
    assert scores.max() <= 1e-6
    assert scores.isfinite().all()


def test_without_noise_it_is_a_plain_network():
    model, x = model_of(), pictured()
    model.spread.bias.data -= 1_000
    with torch.no_grad():
        mean, _ = by_hand(model, x)
        torch.testing.assert_close(model(x), (mean @ model.decoder.weight.T + model.decoder.bias).log_softmax(1))


def test_the_gradient_is_that_of_the_score():
    model, x = model_of().double(), pictured(2, dtype=torch.float64).clamp(0.05, 0.95).requires_grad_(True)
    with frozen_noise(model, 2):
        assert torch.autograd.gradcheck(model, x, atol=1e-6)


def test_an_attack_follows_it():
    model, x = model_of().eval(), pictured(dtype=torch.float64).clamp(0.2, 0.8)
    model.double()
    with torch.no_grad(), frozen_noise(model):
        y = model(x).argmax(1)
    with frozen_noise(model):
        attacked = pgd(model, x, y, Linf(0.2), steps=5, stop_when_fooled=False)
        with torch.no_grad():
            assert (
                F.cross_entropy(model(attacked), y, reduction="none") > F.cross_entropy(model(x), y, reduction="none")
            ).all()


# ---------------------------------------------------------------- the objective


def objective(model, x, alpha, beta=0.0, norm="l1", y=Y, seed=3):
    return information_bottleneck(alpha, beta, norm)(model, x, y, 0.5, generator(seed))


def looped(model, x, noise, alpha, beta, norm):
    """`causalib`, equation 11, one draw, one image, one pair at a time."""
    mean, sigma = by_hand(model, x)
    draws, plain = len(noise), mean @ model.decoder.weight.T + model.decoder.bias
    cross_entropy, divergence, causal = 0.0, 0.0, 0.0
    for b in range(len(x)):
        effects = []
        for k in range(draws):
            r = sigma[b] * noise[k, b if noise.shape[1] > 1 else 0]
            logits = (mean[b] + r) @ model.decoder.weight.T + model.decoder.bias
            cross_entropy += (logits.exp().sum().log() - logits[Y[b]]) / (draws * len(x))
            effects.append((logits - plain[b]) / (r.square().sum() / model.code).sqrt())
        pairs = [(i, j) for i in range(draws) for j in range(draws) if i != j]
        for i, j in pairs:
            apart = effects[i] - effects[j]
            length = apart.abs().sum() if norm == "l1" else apart.square().sum().sqrt()
            causal += length / (len(pairs) * len(x))
        divergence += (0.5 * (mean[b] ** 2 + sigma[b] ** 2 - 1) - sigma[b].log()).sum() / len(x)
    return cross_entropy + alpha * divergence + beta * causal


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize(("alpha", "beta"), [(0, 0), (0.3, 0), (0, 0.7), (0.3, 0.7), (0.05, 0.05)])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_objective_equals_the_loop_over_draws_images_and_pairs(alpha, beta, norm, frozen):
    model, x = model_of().double(), pictured(dtype=torch.float64)
    noise = torch.randn(DRAWS, 1 if frozen else 7, CODE, generator=generator(3), dtype=torch.float64)
    if frozen:
        with frozen_noise(model, 3):
            loss = objective(model, x, alpha, beta, norm, seed=8)
    else:
        loss = objective(model, x, alpha, beta, norm)
    expected = looped(model, x, noise, alpha, beta, norm)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, list(model.parameters()), allow_unused=True) for value in (loss, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_without_weights_it_is_the_mean_cross_entropy_over_the_draws():
    model, x = model_of(), pictured()
    with torch.no_grad():
        z = model.codes(model.encode(x), generator(3))
        losses = [F.cross_entropy(model.decoder(z[k]), Y) for k in range(DRAWS)]
        loss = objective(model, x, 0.0)
        torch.testing.assert_close(loss, torch.stack(losses).mean())
        # of the mean, not the loss of the mean probability, which is smaller (Jensen)
        assert loss > F.nll_loss(model(x, generator(3)), Y) + 1e-3


def test_alpha_weighs_the_divergence_from_a_standard_normal():
    model, x = model_of(), pictured()
    with torch.no_grad():
        difference = objective(model, x, 2.5) - objective(model, x, 0.5)
        q = model.encode(x)
        standard = Independent(Normal(torch.zeros(7, CODE), torch.ones(7, CODE)), 1)
        divergence = kl_divergence(Independent(Normal(q.loc, q.scale), 1), standard).mean()
        mean, sigma = by_hand(model, x)
        hand = (0.5 * (mean**2 + sigma**2 - 1) - sigma.log()).sum(1).mean()
    torch.testing.assert_close(difference / 2, divergence, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(divergence, hand, rtol=1e-4, atol=1e-5)


def test_a_standard_normal_costs_nothing():
    """softplus(h - 5) is 1 at h = 5 + log(e - 1)."""
    model, x = model_of(), pictured()
    for layer in (model.mean, model.spread):
        layer.weight.data.zero_()
    model.mean.bias.data.zero_()
    model.spread.bias.data.fill_(5 + math.log(math.e - 1))
    with torch.no_grad():
        torch.testing.assert_close(objective(model, x, 1_000.0), objective(model, x, 0.0))


def test_beta_weighs_the_causal_loss_of_the_scores_response_to_the_noise():
    model, x = model_of(), pictured()
    with torch.no_grad():
        q = model.encode(x)
        r = model.codes(q, generator(3)) - q.loc
        for norm in ("l1", "l2"):
            expected = causal_loss(r @ model.decoder.weight.T, r, norm)
            difference = objective(model, x, 0.1, 1.5, norm) - objective(model, x, 0.1, 0.5, norm)
            torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-5)


def test_the_causal_loss_does_not_drown_in_rounding_where_the_noise_is_tiny():
    """Beside a mean of 50 a noise of 1e-8 is rounded away, and a difference of scores would be zero or garbage over 1e-8."""
    model, x = model_of(), pictured()
    model.mean.bias.data.add_(50.0)
    model.spread.weight.data.zero_()
    losses, slopes = [], []
    for spread in (0.0, -13.0):  # sigma of 7e-3, and of 2e-8
        model.spread.bias.data.fill_(spread)
        model.zero_grad()
        loss = objective(model, x, 0.0, 1.0) - objective(model, x, 0.0, 0.0)
        loss.backward()
        losses.append(loss.item())
        slopes.append(model.decoder.weight.grad.clone())
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    torch.testing.assert_close(slopes[1], slopes[0], rtol=0.05, atol=0.05 * slopes[0].abs().max().item())


def test_without_alpha_a_noise_whose_square_is_zero_leaves_the_objective_finite():
    """In 32 bits the square of 1e-30 is 0, its logarithm -inf, and 0 * inf would be no number."""
    model, x = model_of(), pictured()
    model.spread.weight.data.zero_()
    model.spread.bias.data.fill_(5 + math.log(1e-30))
    assert objective(model, x, 0.1).isinf()
    loss = objective(model, x, 0.0)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_its_noise_is_the_generators():
    model, x, state = model_of(), pictured(), torch.get_rng_state()
    a, b, c = (objective(model, x, 0.1, 0.1, seed=seed).item() for seed in (0, 0, 1))
    assert a == b != c
    assert torch.equal(torch.get_rng_state(), state)


def test_one_draw_has_no_pair_and_is_refused():
    model, x = model_of(draws=1), pictured()
    assert objective(model, x, 0.1).isfinite()
    with pytest.raises(ValueError, match=r"^response must"):
        objective(model, x, 0.1, 0.5)


def test_a_large_beta_makes_the_effects_alike_and_a_large_alpha_the_codes():
    x = pictured(60)
    y = (x.flatten(1).mean(1) > 0.5).long()
    measured = {}
    for name, weights in {"plain": (0.0,), "causal": (0.0, 1.0), "narrow": (1.0,)}.items():
        model = model_of()
        fit(model, information_bottleneck(*weights), x, y, epochs=40, batch_size=20, learning_rate=2e-2)
        with torch.no_grad():
            q = model.encode(x)
            r = model.codes(q, generator(3)) - q.loc
            unlike = causal_loss(r @ model.decoder.weight.T, r)
            measured[name] = unlike.item(), kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean().item()
    assert measured["causal"][0] < 0.5 * measured["plain"][0]
    assert measured["narrow"][1] < 0.1 * measured["plain"][1]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"alpha": -1}, "alpha"),
        ({"alpha": None}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"beta": -0.1}, "beta"),
        ({"beta": "1"}, "beta"),
        ({"norm": "l3"}, "norm"),
        ({"norm": 1}, "norm"),
        ({"norm": None}, "norm"),
    ],
)
def test_bad_weights_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        information_bottleneck(**{"alpha": 0.1, **arguments})


# ---------------------------------------------------------------- the causal loss


def test_three_effects_by_hand():
    """Effects (2, 0), (1, 2) and (0, -3): pairs are (1, -2), (2, 3) and (1, 5) apart."""
    noise = torch.tensor([[[1.0, 1.0]], [[2.0, -2.0]], [[-3.0, 3.0]]])
    response = torch.tensor([[[2.0, 0.0]], [[2.0, 4.0]], [[0.0, -9.0]]])
    assert causal_loss(response, noise, "l1").item() == pytest.approx((3 + 5 + 6) / 3)
    assert causal_loss(response, noise).item() == pytest.approx((3 + 5 + 6) / 3)
    assert causal_loss(response, noise, "l2").item() == pytest.approx((5**0.5 + 13**0.5 + 26**0.5) / 3)
    assert causal_loss(response[:2], noise[:2], "l1").item() == pytest.approx(3)
    assert causal_loss(response[1:], noise[1:], "l2").item() == pytest.approx(26**0.5)


def test_the_intensity_is_a_root_mean_square():
    """(3, 4, 0, 0) has length 5 and a root mean square of 2.5."""
    noise = torch.tensor([[[3.0, 4.0, 0.0, 0.0]], [[1.0, -1.0, 1.0, 1.0]]])
    response = torch.tensor([[[5.0, 0.0]], [[0.0, 1.0]]])
    assert causal_loss(response, noise, "l1").item() == pytest.approx(3)
    assert causal_loss(response, noise, "l2").item() == pytest.approx(5**0.5)


def test_images_are_averaged():
    noise = torch.ones(3, 4, 2)
    response = torch.zeros(3, 4, 2)
    response[0, 2, 1] = 6.0  # of one image in four one draw differs: two of its three pairs are 6 apart
    for norm in ("l1", "l2"):
        assert causal_loss(response, noise, norm).item() == pytest.approx(6 * 2 / 3 / 4)


def drawn(seed, draws=4, images=3, code=5, classes=3):
    source = generator(seed)
    noise = torch.randn(draws, images, code, generator=source, dtype=torch.float64)
    return torch.randn(draws, images, classes, generator=source, dtype=torch.float64), noise


NORMS = st.sampled_from(["l1", "l2"])


@settings(max_examples=40, deadline=None)
@given(norm=NORMS, seed=st.integers(0, 999), draws=st.integers(2, 7))
def test_equal_effects_cost_nothing_and_others_do(norm, seed, draws):
    response, noise = drawn(seed, draws)
    effect = torch.randn(1, 3, 3, generator=generator(seed), dtype=torch.float64)
    equal = effect * noise.square().mean(2, keepdim=True).sqrt()
    assert causal_loss(equal, noise, norm).item() == pytest.approx(0, abs=1e-12)
    assert causal_loss(response, noise, norm) > 0.1


@settings(max_examples=40, deadline=None)
@given(norm=NORMS, seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3), sign=st.sampled_from([-1, 1]))
def test_only_the_response_to_a_unit_of_noise_counts(norm, seed, scale, sign):
    """Noise and response scaled together: the same. The response alone: in proportion. Draws in another order: the same."""
    response, noise = drawn(seed)
    loss = causal_loss(response, noise, norm)
    each = scale ** torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None, None]  # of every draw by a factor of its own
    torch.testing.assert_close(causal_loss(each * response, sign * each * noise, norm), loss)
    torch.testing.assert_close(causal_loss(sign * scale * response, noise, norm), scale * loss)
    order = torch.randperm(4, generator=generator(seed))
    torch.testing.assert_close(causal_loss(response[order], noise[order], norm), loss)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("draws", [2, 3, 12])
def test_of_a_linear_decoder_it_is_the_spread_of_the_directions(norm, draws):
    """With u_i = r_i / |r_i| (as a root mean square) it is the mean over i != j of |W (u_i - u_j)|."""
    noise = drawn(1, draws)[1]
    decoder = seeded(lambda: nn.Linear(5, 3)).double()
    with torch.no_grad():
        response = decoder(2 + noise) - decoder(torch.full_like(noise, 2.0))
        u = noise / (noise**2).mean(2, keepdim=True).sqrt()
        total, count = 0.0, 0
        for b in range(3):
            for i, j in itertools.permutations(range(draws), 2):
                apart = decoder.weight @ (u[i, b] - u[j, b])
                total += torch.linalg.vector_norm(apart, 1 if norm == "l1" else 2).item()
                count += 1
    assert causal_loss(response, noise, norm).item() == pytest.approx(total / count)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_its_gradient_is_right(norm):
    response, noise = (part.requires_grad_() for part in drawn(2))
    assert torch.autograd.gradcheck(lambda a, b: causal_loss(a, b, norm), (response, noise))


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("case", ["equal effects", "two of three equal", "no response", "no noise", "no noise in one draw"])
def test_its_gradient_is_finite_where_effects_coincide(norm, case):
    response, noise = drawn(3, draws=3)
    rms = noise.square().mean(2, keepdim=True).sqrt()
    if case == "equal effects":
        response = response[:1] / rms[:1] * rms
    elif case == "two of three equal":
        response[1], noise[1] = response[0], noise[0]
    elif case == "no response":
        response = torch.zeros_like(response)
    elif case == "no noise":
        response, noise = torch.zeros_like(response), torch.zeros_like(noise)
    else:
        response[0], noise[0] = 0, 0
    response, noise = response.requires_grad_(), noise.requires_grad_()
    loss = causal_loss(response, noise, norm)
    assert loss.isfinite()
    for gradient in torch.autograd.grad(loss, (response, noise)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("norm", ["l3", 1, None, ""])
def test_a_bad_norm_is_named(norm):
    with pytest.raises(ValueError, match=r"^norm must"):
        causal_loss(*drawn(0), norm)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"network": len}, "network"),
        ({"network": nn.Flatten()}, "network"),
        ({"classes": 1}, "classes"),
        ({"classes": 2.5}, "classes"),
        ({"code": 0}, "code"),
        ({"code": 1.5}, "code"),
        ({"draws": 0}, "draws"),
        ({"draws": "12"}, "draws"),
    ],
)
def test_bad_arguments_of_the_model_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        Bottleneck(**{"network": DenseNetwork(SHAPE, CLASSES, hidden=4), "classes": CLASSES, "code": 3, **arguments})
