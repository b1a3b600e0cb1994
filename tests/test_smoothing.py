"""Smoothing: scores by a loop over copies; certificates by exact binomials, and where the true radius is known."""

import copy
import math
import pickle
from statistics import NormalDist

import numpy as np
import pytest
import torch
from fixtures_models import has_noise_of_its_own, ignores_company_when_frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from torch import nn

from hybridgen_lib import recipes
from hybridgen_lib.attacks import L2, pgd
from hybridgen_lib.classifier import frozen_noise, is_stochastic
from hybridgen_lib.models.networks import DenseNetwork
from hybridgen_lib.models.smoothing import Smoothed, certified_radius
from hybridgen_lib.recipes.causalib import CAUSALIB

SHAPE, CLASSES = (1, 4, 5), 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed=0, hidden=8, loud=3.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = DenseNetwork(SHAPE, CLASSES, hidden=hidden)
    made.layers[-1].weight.data *= loud  # so that the noise matters
    return made.eval()


def smoothed(sigma=0.5, samples=4, seed=0) -> Smoothed:
    return Smoothed(network(), sigma, samples, seed)


def pictured(count=6, seed=0, dtype=torch.float32):
    return torch.rand(count, *SHAPE, generator=generator(seed)).to(dtype)


# ---------------------------------------------------------------- the contract


def test_a_classifier_with_noise_of_its_own():
    model, x = smoothed(), pictured()
    assert len(x) == 6
    assert model.score_kind == "log_conditional"
    has_noise_of_its_own(model, x, CLASSES)


def test_frozen_scores_do_not_depend_on_the_batch():
    model, x = smoothed().double(), pictured(dtype=torch.float64)
    ignores_company_when_frozen(model, x)


def test_every_image_has_noise_of_its_own_unless_frozen():
    model, x = smoothed(), pictured(1).expand(4, -1, -1, -1)
    with torch.no_grad():
        assert len(model(x).unique(dim=0)) == 4
        with frozen_noise(model):
            assert len(model(x).unique(dim=0)) == 1


def test_the_gradient_is_that_of_the_score():
    model, x = smoothed().double(), pictured(2, dtype=torch.float64).requires_grad_(True)
    with frozen_noise(model, 2):
        assert torch.autograd.gradcheck(model, x, atol=1e-6)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"])
def test_a_copy_draws_for_itself(copied):
    model, x = smoothed(), pictured()
    with torch.no_grad():
        model(x)
        twin = copied(model)
        torch.testing.assert_close(twin(x), smoothed()(x))
        twin.network.layers[-1].weight.zero_()
    assert model.network.layers[-1].weight.abs().max() > 0


# ---------------------------------------------------------------- scores


class Seen(nn.Module):
    """Two classes; it keeps what it is shown."""

    def forward(self, x):
        self.x = x
        return torch.stack([x.flatten(1).sum(1), torch.zeros(len(x))], 1)


def test_scores_are_the_log_of_the_mean_probability_over_noisy_copies():
    model, x = smoothed(sigma=0.7, samples=5), pictured()
    noise = torch.randn(5, 6, 20, generator=generator(3)).reshape(5, 6, *SHAPE)
    with torch.no_grad():
        probabilities = torch.stack([model.network(x + 0.7 * noise[k]).softmax(1) for k in range(5)])
        scores = model(x, generator(3))
    torch.testing.assert_close(scores, probabilities.mean(0).log())
    assert (scores - probabilities.log().mean(0)).abs().max() > 0.01


@settings(max_examples=30, deadline=None)
@given(sigma=st.floats(0, 20), samples=st.integers(1, 6), seed=st.integers(0, 99))
def test_scores_are_log_probabilities(sigma, samples, seed):
    with torch.no_grad():
        scores = smoothed(sigma, samples)(pictured(), generator(seed))
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(6))
    assert scores.isfinite().all()


@pytest.mark.parametrize("samples", [1, 7])
def test_without_noise_it_is_the_network(samples):
    x = pictured()
    with torch.no_grad():
        torch.testing.assert_close(smoothed(0.0, samples)(x), network()(x).log_softmax(1))


def test_the_noise_has_its_deviation_and_no_bounds():
    seen = Seen()
    model, x = Smoothed(seen, 0.3, samples=500), torch.full((4, *SHAPE), 0.9)
    x[2:] = 0.1
    with torch.no_grad():
        model(x)
    noise = seen.x.reshape(500, 4, 20) - x.flatten(1)
    assert abs(noise.mean().item()) < 4 * 0.3 / math.sqrt(40_000)
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    assert (noise.flatten(0, 1).T.corrcoef() - torch.eye(20)).abs().max() < 0.12  # pixels are independent
    assert (noise.permute(1, 0, 2).flatten(1).corrcoef() - torch.eye(4)).abs().max() < 0.05  # and so are images
    assert seen.x.max() > 1.5  # not clipped
    assert seen.x.min() < -0.5


def test_more_samples_settle_the_scores():
    model, x = smoothed(), pictured(1)
    with torch.no_grad():
        spread = [torch.stack([model.with_samples(k)(x, generator(s)) for s in range(30)]).std(0).max() for k in (2, 200)]
    assert spread[1] < spread[0] / 4  # sqrt(100) in the long run


def test_with_samples_is_the_same_network_asked_more_often():
    model, x = smoothed(samples=4, seed=5), pictured()
    twin = model.with_samples(9)
    assert (model.samples, twin.samples, twin.sigma) == (4, 9, 0.5)
    assert twin.network is model.network
    with torch.no_grad():
        torch.testing.assert_close(twin(x, generator(1)), Smoothed(network(), 0.5, 9)(x, generator(1)))
        torch.testing.assert_close(model(x, generator(1)), smoothed(samples=4)(x, generator(1)))
        with frozen_noise(model, 3):
            frozen = model.with_samples(2)
            assert not is_stochastic(frozen)
            assert torch.equal(frozen(x), frozen(x))
        assert is_stochastic(model.with_samples(2))
    assert is_stochastic(model)


def test_in_training_one_copy_of_each_image_is_shown(monkeypatch):
    """The recipe: scores of one noisy copy, its noise from the run's generator."""
    shown = []
    model = recipes.build("mlp-smoothing", SHAPE, CLASSES, hidden=4)
    model.network.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    x, y = pictured(), torch.arange(6) % CLASSES
    captured = []
    monkeypatch.setattr(recipes.recipe, "fit", lambda model, objective, *a, **k: captured.append(objective) or [])
    settings_of = CAUSALIB["mlp-smoothing"].settings["quick"]
    images = type("Images", (), {"train_x": x, "train_y": y})
    CAUSALIB["mlp-smoothing"].train(model, settings_of, images, device="cpu")
    (objective,) = captured
    losses = [objective(model, x, y, 0.5, generator(s)).item() for s in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert [part.shape for part in shown] == [x.shape] * 3
    torch.testing.assert_close(shown[0], x + 0.25 * torch.randn(1, 6, 20, generator=generator(0)).reshape(x.shape))


# ---------------------------------------------------------------- the radius


def one_sided(wins, votes, error):
    """The lower end by scipy's exact interval: the p under which so many wins or more have a probability of ``error``."""
    test = binomtest(wins, votes, alternative="greater")
    return test.proportion_ci(confidence_level=1 - error, method="exact").low


@settings(max_examples=80, deadline=None)
@given(
    votes=st.integers(1, 2_000),
    share=st.floats(0, 1),
    sigma=st.floats(0, 3),
    error=st.sampled_from([1e-6, 1e-3, 0.01, 0.05, 0.2, 0.5]),
)
def test_the_radius_is_that_of_the_one_sided_exact_interval(votes, share, sigma, error):
    wins = round(share * votes)
    low = one_sided(wins, votes, error)
    expected = sigma * NormalDist().inv_cdf(low) if low > 0.5 else 0.0
    assert certified_radius(wins, votes, sigma, error) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("wins", "votes"), [(90, 100), (60, 80), (999, 1000), (14, 15)])
def test_the_lower_end_makes_so_many_wins_as_rare_as_the_error(wins, votes):
    """By the definition alone: sum over k >= wins of C(n, k) p^k (1-p)^(n-k) = error."""
    p = NormalDist().cdf(certified_radius(wins, votes, 1.0, 0.001))
    tail = sum(math.comb(votes, k) * p**k * (1 - p) ** (votes - k) for k in range(wins, votes + 1))
    assert tail == pytest.approx(0.001, rel=1e-6)


@pytest.mark.parametrize(("votes", "error"), [(10, 0.01), (100, 0.001), (1_000, 0.001), (100_000, 0.001), (2, 0.5)])
def test_where_all_votes_are_won_the_lower_end_is_a_root(votes, error):
    """p^n = error. With the paper's 100,000 votes and 0.001 no radius exceeds 3.81 sigma (Cohen et al., section 3.2.3: about
    4 sigma)."""
    expected = 0.25 * NormalDist().inv_cdf(error ** (1 / votes))
    assert certified_radius(votes, votes, 0.25, error) == pytest.approx(expected, rel=1e-6)
    assert certified_radius(100_000, 100_000, 1.0) == pytest.approx(3.8115, abs=1e-4)


@pytest.mark.parametrize(
    ("wins", "votes"), [(0, 1), (1, 1), (0, 100), (50, 100), (500, 1_000), (5_000, 10_000), (59, 100), (9, 9), (0, 0)]
)
def test_half_of_the_votes_or_too_few_votes_certify_nothing(wins, votes):
    """All of 9 votes: 0.001^(1/9) = 0.464."""
    assert certified_radius(wins, votes, 1.0) == 0.0


@pytest.mark.parametrize("votes", [10, 50, 333])
def test_more_wins_certify_more(votes):
    radii = [certified_radius(wins, votes, 1.0) for wins in range(votes + 1)]
    assert radii == sorted(radii)
    positive = [radius for radius in radii if radius > 0]
    assert len(positive) >= 1
    assert len(set(positive)) == len(positive)


@pytest.mark.parametrize("share", [0.6, 0.9, 1.0])
def test_more_votes_at_the_same_share_certify_more(share):
    radii = [certified_radius(round(share * votes), votes, 1.0) for votes in (10, 20, 100, 1_000, 10_000)]
    assert radii == sorted(radii)
    assert radii[-1] > radii[1]
    if share < 1:
        assert radii[-1] < NormalDist().inv_cdf(share)
        assert certified_radius(round(share * 10**7), 10**7, 1.0) == pytest.approx(NormalDist().inv_cdf(share), abs=3e-3)


def test_a_smaller_error_certifies_less_and_the_radius_is_in_units_of_sigma():
    radii = [certified_radius(95, 100, 1.0, error) for error in (0.5, 0.1, 0.001, 1e-9)]
    assert radii == sorted(radii, reverse=True)
    assert certified_radius(95, 100, 0.25) == pytest.approx(0.25 * certified_radius(95, 100, 1.0))
    assert certified_radius(95, 100, 0.0) == 0


@pytest.mark.parametrize("p", [0.5, 0.55, 0.7, 0.9, 0.99, 0.999])
@pytest.mark.parametrize(("votes", "error"), [(20, 0.05), (200, 0.001), (200, 0.05)])
def test_it_is_wrong_at_most_as_often_as_it_says(p, votes, error):
    """Exactly, over all numbers of wins: P(radius > Phi^-1(p)) <= error; and not idle, nearly error where p is far from 1."""
    truth = NormalDist().inv_cdf(p)
    wrong = [k for k in range(votes + 1) if certified_radius(k, votes, 1.0, error) > truth + 1e-9]
    probability = sum(binom.pmf(k, votes, p) for k in wrong)
    assert probability <= error
    if votes == 200 and p <= 0.9:
        assert probability > error / 4


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"wins": 11}, "wins"),
        ({"wins": -1}, "wins"),
        ({"wins": 9.5}, "wins"),
        ({"votes": -10}, "votes"),
        ({"votes": "10"}, "votes"),
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"error": 0.0}, "error"),
        ({"error": 1.5}, "error"),
    ],
)
def test_a_bad_argument_of_the_radius_is_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        certified_radius(**{"wins": 10, "votes": 10, "sigma": 1.0, "error": 0.001, **arguments})


# ---------------------------------------------------------------- certificates


class Half(nn.Module):
    """The space cut in two: scores (0, w.x + b). Under noise of any sigma its smoothed twin changes at |w.x + b| / |w|."""

    def __init__(self, seed=0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(20, generator=generator(seed)))
        self.bias = nn.Parameter(-self.weight.detach().sum() / 2)  # grey lies on the border

    def forward(self, x):
        self.asked = getattr(self, "asked", 0) + len(x)
        self.modes = [*getattr(self, "modes", []), self.training or torch.is_grad_enabled()]
        return torch.stack([torch.zeros(len(x), dtype=x.dtype), x.flatten(1) @ self.weight + self.bias], 1)

    def distance(self, x):
        """Signed, in l2, to the border."""
        return ((x.flatten(1) @ self.weight + self.bias) / self.weight.norm()).detach()

    def at(self, distances):
        """Images so far from the border, one each."""
        unit = (self.weight / self.weight.norm()).detach()
        return (0.5 + torch.as_tensor(distances)[:, None] * unit).reshape(-1, *SHAPE)


DISTANCES = [-0.9, -0.6, -0.3, -0.15, 0.1, 0.2, 0.4, 0.8]


@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_on_a_linear_classifier_the_certificate_comes_close_to_the_truth_and_never_exceeds_it(sigma):
    half = Half()
    x = half.at(DISTANCES)
    assert 0 <= x.min() <= x.max() <= 1
    torch.testing.assert_close(half.distance(x), torch.tensor(DISTANCES))
    radii = {}
    for votes in (200, 10_000):
        chosen, radii[votes] = Smoothed(half, sigma).certify(x, votes=votes, generator=generator(1))
        certain = radii[votes] > 0
        assert torch.equal(chosen[certain], (half.distance(x) > 0).long()[certain])
        assert (chosen[~certain] == -1).all()
        assert (radii[votes] <= half.distance(x).abs()).all()
    near = half.distance(x).abs() < 1.7 * sigma  # further away all votes are won, and their number is the limit
    assert near.sum() >= 5
    assert (radii[10_000] > 0).all()
    torch.testing.assert_close(radii[10_000][near], half.distance(x).abs()[near], rtol=0, atol=0.08 * sigma)
    assert (radii[10_000] >= radii[200]).all()


def test_certificates_are_rarely_too_large():
    """300 images at one distance: at an error of 0.05 some 15 may be too large."""
    half = Half()
    x = half.at([0.2] * 300)
    chosen, radius = Smoothed(half, 0.25).certify(x, guesses=30, votes=100, error=0.05, generator=generator(2))
    wrong = (radius > 0.2).sum().item()
    assert 1 <= wrong <= 26  # 3 standard deviations above 15
    assert (chosen == 1).double().mean() > 0.9


def test_on_the_border_it_abstains():
    x = Half().at([0.0] * 20)
    chosen, radius = Smoothed(Half(), 0.5).certify(x, votes=1_000, generator=generator())
    assert (chosen == -1).all()
    assert (radius == 0).all()


@pytest.mark.parametrize("votes", [12, 49, 50, 51, 73, 130])
def test_where_every_vote_is_won_the_radius_is_that_of_all_votes(votes):
    chosen, radius = Smoothed(Half(), 0.1).certify(Half().at([0.9, -0.9]), guesses=3, votes=votes)
    assert chosen.tolist() == [1, 0]
    assert radius.tolist() == pytest.approx([certified_radius(votes, votes, 0.1)] * 2)


@pytest.mark.parametrize(("guesses", "votes"), [(1, 1), (60, 120), (100, 1_000)])
def test_guesses_and_votes_are_different_copies_and_as_many_as_asked(guesses, votes):
    half = Half().train()
    model = Smoothed(half, 0.5, samples=3)
    model.certify(half.at(DISTANCES).requires_grad_(), guesses=guesses, votes=votes, generator=generator())
    assert half.asked == (guesses + votes) * len(DISTANCES)
    assert not any(half.modes)  # in evaluation, and no graph is built
    assert half.training
    assert all(parameter.requires_grad for parameter in half.parameters())


def test_guesses_pick_the_class_and_other_copies_vote():
    """A network that answers by the clock: class 0 for the guesses, class 1 for every vote. Nothing is certain of 0."""

    class Clock(nn.Module):
        count = 0

        def forward(self, x):
            Clock.count += len(x)
            return torch.eye(2)[int(Clock.count > 30)].expand(len(x), 2)

    chosen, radius = Smoothed(Clock(), 0.5).certify(torch.rand(1, *SHAPE), guesses=30, votes=200)
    assert (chosen.item(), radius.item()) == (-1, 0)


def test_a_certificate_is_a_function_of_the_generator_and_of_the_seed():
    x, state = pictured(), torch.get_rng_state()
    model = smoothed(3.0)
    first = model.certify(x, votes=100)
    for again in (
        model.certify(x, votes=100),
        smoothed(3.0).certify(x, votes=100),
        model.certify(x, votes=100, generator=generator(0)),
    ):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with frozen_noise(model, 7):  # votes are never frozen
        assert torch.equal(model.certify(x, votes=100)[1], first[1])
    more = model.with_samples(50).certify(x, votes=100)
    assert torch.equal(more[1], first[1])
    others = [model.certify(x, votes=100, generator=generator(9))[1], smoothed(3.0, seed=9).certify(x, votes=100)[1]]
    assert torch.equal(*others)
    assert not torch.equal(others[0], first[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_votes_do_not_gather_gradients():
    model, x = smoothed(), pictured().requires_grad_()
    chosen, radius = model.certify(x, votes=20)
    assert not radius.requires_grad
    assert chosen.dtype == torch.int64
    assert radius.dtype == x.dtype
    assert all(parameter.grad is None for parameter in model.parameters())


def majority(net, x, sigma, votes, seed):
    """The class that wins most often under noise, and its lead over half, by a plain count."""
    noise = torch.randn(votes, *x.shape, generator=generator(seed))
    with torch.no_grad():
        won = net((x + sigma * noise).flatten(0, 1)).argmax(1).reshape(votes, len(x))
    counts = torch.stack([(won == c).sum(0) for c in range(CLASSES)], 1)
    return counts.argmax(1)


@pytest.mark.parametrize("kind", ["random", "towards the border", "gradient"])
def test_nothing_inside_the_certified_radius_changes_the_majority(kind):
    """A network with a border that bends: 40 images are certified, then moved by 0.9 of their radius."""
    net, sigma = network(3, hidden=16, loud=6.0), 0.25
    model = Smoothed(net, sigma, samples=64)
    x = pictured(40, seed=4)
    chosen, radius = model.certify(x, votes=2_000, generator=generator(5))
    certain = chosen >= 0
    assert certain.sum() > 25
    assert len(chosen[certain].unique()) > 1
    x, chosen, radius = x[certain], chosen[certain], 0.9 * radius[certain]
    if kind == "random":
        direction = torch.randn(x.shape, generator=generator(6))
    elif kind == "gradient":
        steps = []
        with frozen_noise(model, 3):
            for image, label, eps in zip(x, chosen, radius, strict=True):
                grown = pgd(model, image[None], label[None], L2(eps.item()), steps=10, loss="margin", stop_when_fooled=False)
                steps.append(grown[0] - image)
        direction = torch.stack(steps)
    else:  # along the gradient of the mean lead of the class over the next
        moved = x.clone().requires_grad_()
        with frozen_noise(model, 3):
            scores = model(moved)
        rival = scores.scatter(1, chosen[:, None], -torch.inf).amax(1)
        direction = torch.autograd.grad((rival - scores.gather(1, chosen[:, None])[:, 0]).sum(), moved)[0]
    length = direction.flatten(1).norm(dim=1)
    if kind != "gradient":
        direction = direction / length[:, None, None, None] * radius[:, None, None, None]
    assert (direction.flatten(1).norm(dim=1) <= radius * (1 + 1e-4)).all()
    assert torch.equal(majority(net, x + direction, sigma, 4_000, 8), chosen)
    far = x + direction / direction.flatten(1).norm(dim=1)[:, None, None, None] * 3
    if kind == "towards the border":  # the same way, far beyond the radius, most of them do change
        assert (majority(net, far, sigma, 500, 8) != chosen).double().mean() > 0.5


def test_without_noise_nothing_is_certified():
    chosen, radius = smoothed(0.0).certify(pictured())
    assert (chosen == -1).all()
    assert (radius == 0).all()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"network": len}, "network"),
        ({"sigma": -0.1}, "sigma"),
        ({"sigma": None}, "sigma"),
        ({"sigma": float("inf")}, "sigma"),
        ({"samples": 0}, "samples"),
        ({"samples": 1.5}, "samples"),
    ],
)
def test_bad_arguments_of_the_model_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        Smoothed(**{"network": network(), "sigma": 0.5, **arguments})


def test_a_bad_number_of_samples_is_named():
    for samples in (0, 2.5, None):
        with pytest.raises(ValueError, match=r"^samples must"):
            smoothed().with_samples(samples)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"x": pictured()[0]}, "x"),
        ({"x": pictured() + 1}, "x"),
        ({"x": pictured() * float("nan")}, "x"),
        ({"guesses": 0}, "guesses"),
        ({"guesses": 1.5}, "guesses"),
        ({"votes": 0}, "votes"),
        ({"votes": "many"}, "votes"),
        ({"error": 0}, "error"),
        ({"error": 0.6}, "error"),
        ({"error": None}, "error"),
        ({"generator": 3}, "generator"),
    ],
)
def test_bad_arguments_of_a_certificate_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        smoothed().certify(**{"x": pictured(), **arguments})


def test_whole_numbers_may_be_written_as_floats():
    x = pictured()
    pairs = zip(smoothed().certify(x, guesses=9.0, votes=30.0), smoothed().certify(x, guesses=9, votes=30), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert np.isclose(certified_radius(30, 30.0, 1.0), certified_radius(30, 30, 1.0))


def test_scores_that_are_no_numbers_certify_nothing():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    network[1].bias.data.fill_(math.nan)
    with pytest.raises(ValueError, match="numbers, got NaN"):
        Smoothed(network, 0.25).certify(torch.rand(2, 1, 4, 4), guesses=5, votes=5)
