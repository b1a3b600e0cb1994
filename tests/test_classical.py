"""Naive Bayes and the mixture of Gaussians are the densities they say; and what a softmax in front of them hides."""

import math

import numpy as np
import pytest
import torch
from fixtures_models import Noisy, Rounded, images, small_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from hybridgen_lib import data
from hybridgen_lib.attacks import Linf, pgd
from hybridgen_lib.attacks.gradient import LOSSES
from hybridgen_lib.classifier import SCORE_KINDS, Classifier, evaluating, frozen_noise, is_stochastic
from hybridgen_lib.models.classical import GaussianMixtureClassifier, GaussianNaiveBayes, Probabilities
from hybridgen_lib.models.networks import DenseNetwork


@pytest.fixture(scope="module")
def fitted() -> GaussianMixtureClassifier:
    mini = data.load("fashion-mini")
    model = GaussianMixtureClassifier((1, 28, 28), 10, components=5)
    model.fit(mini.train_x, mini.train_y)
    return model


def handmade(classes=3, components=4, image_shape=(1, 2, 3), seed=0) -> GaussianMixtureClassifier:
    model = GaussianMixtureClassifier(image_shape, classes, components).double()
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.means.copy_(torch.rand(model.means.shape, generator=source))
        model.log_weights.copy_(torch.randn(classes, components, generator=source).log_softmax(1))
        model.log_variances.copy_(-3 + torch.randn(classes, components, generator=source))
        model.log_prior.copy_(torch.randn(classes, generator=source).log_softmax(0))
    return model


# ---------------------------------------------------------------- the density


def test_one_pixel_by_hand():
    model = GaussianMixtureClassifier((1, 1, 1), 2, components=2)
    with torch.no_grad():
        model.means.copy_(torch.tensor([[[0.0], [1.0]], [[0.5], [0.5]]]))
        model.log_weights.copy_(torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log())
        model.log_variances.copy_(torch.tensor([[0.01, 0.04], [1.0, 1.0]]).log())
        model.log_prior.copy_(torch.tensor([0.8, 0.2]).log())

    def normal(x, mean, sigma):
        return math.exp(-((x - mean) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    expected = [0.8 * (0.25 * normal(0.3, 0, 0.1) + 0.75 * normal(0.3, 1, 0.2)), 0.2 * normal(0.3, 0.5, 1)]
    scores = model(torch.full((1, 1, 1, 1), 0.3))
    assert scores[0].tolist() == pytest.approx([math.log(value) for value in expected], abs=1e-5)


def test_the_joint_density_sums_to_one():
    model = handmade(image_shape=(1, 1, 1))
    x = torch.linspace(-10, 11, 100_001, dtype=torch.float64)
    with torch.no_grad():
        total = torch.trapezoid(model(x.reshape(-1, 1, 1, 1)).exp().sum(1), x)
    assert total.item() == pytest.approx(1, abs=1e-6)


def test_it_is_the_density_of_torch():
    model = handmade()
    x = torch.rand(7, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pixels = Independent(Normal(model.means, (model.log_variances / 2).exp()[..., None]), 1)
    mixture = MixtureSameFamily(Categorical(logits=model.log_weights), pixels)
    torch.testing.assert_close(model(x), mixture.log_prob(x.flatten(1)[:, None]) + model.log_prior)


def test_scores_are_those_of_scikit_learn(fitted):
    """In float32, to a hundredth of a nat, where gaps between classes are hundreds; and EM was given the right images."""
    mini = data.load("fashion-mini")
    x, y = images(1_000)
    scores = fitted(x).detach().double()
    pixels = mini.train_x.flatten(1).numpy() / 255.0
    for c in (0, 7):
        peer = GaussianMixture(5, covariance_type="spherical", max_iter=1_000, random_state=0)
        peer.fit(pixels[(mini.train_y == c).numpy()])
        expected = torch.from_numpy(peer.score_samples(x.flatten(1).double().numpy())) + math.log(0.1)
        torch.testing.assert_close(scores[:, c], expected, atol=1e-2, rtol=0)
    peers = []
    for c in range(10):  # all classes, from the fitted numbers
        peer = GaussianMixture(5, covariance_type="spherical")
        peer.means_, peer.weights_ = fitted.means[c].detach().numpy(), fitted.log_weights[c].exp().detach().numpy()
        peer.precisions_cholesky_ = (-fitted.log_variances[c] / 2).exp().detach().numpy()
        peers.append(torch.from_numpy(peer.score_samples(x.flatten(1).numpy())))
    expected = torch.stack(peers, 1) + fitted.log_prior
    torch.testing.assert_close(scores, expected.double(), atol=1e-2, rtol=0)
    assert torch.equal(scores.argmax(1), expected.argmax(1))
    assert (scores.argmax(1) == y).double().mean() > 0.7
    top = scores.topk(2, dim=1).values
    assert (top[:, 0] - top[:, 1]).median() > 50


def test_white_images_lose_no_digits():
    """||x||^2 is 3,072 here and the distance 0.3: without a centre near by, float32 would be off by whole nats."""
    source = torch.Generator().manual_seed(0)
    model = GaussianMixtureClassifier((3, 32, 32), 2, components=3)
    with torch.no_grad():
        model.means.copy_(1 - 0.02 * torch.rand(model.means.shape, generator=source))
        model.log_variances.fill_(math.log(1e-4))
        x = 1 - 0.02 * torch.rand(20, 3, 32, 32, generator=source)
        single = model(x)
        squared = (x.double().flatten(1)[:, None, None] - model.means.double()).square().sum(-1)
    logs = -squared / 2e-4 - 1536 * math.log(2 * math.pi * 1e-4) - math.log(3)
    expected = torch.logsumexp(logs, 2) - math.log(2)
    torch.testing.assert_close(single.double(), expected, atol=0.02, rtol=0)


def test_the_gradient_is_right():
    model = handmade()
    x = torch.rand(3, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(model, (x,))
    alone = handmade(components=1)  # one component: the gradient is (mu - x) / sigma^2
    (gradient,) = torch.autograd.grad(alone(x)[:, 1].sum(), x)
    expected = (alone.means[1, 0] - x.flatten(1)) / alone.log_variances[1, 0].exp()
    torch.testing.assert_close(gradient.flatten(1), expected)


def test_samples_follow_the_mixture():
    model = handmade(classes=2, components=2, image_shape=(1, 1, 2)).float()
    before = torch.get_rng_state()
    drawn = model.sample(40_000, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn["x"].shape == (40_000, 1, 1, 2)
    joint = (model.log_prior[:, None] + model.log_weights).exp()
    for c in range(2):
        for j in range(2):
            mine = drawn["x"][(drawn["y"] == c) & (drawn["j"] == j)].flatten(1)
            assert len(mine) / 40_000 == pytest.approx(joint[c, j].item(), abs=0.015)
            sigma = (model.log_variances[c, j] / 2).exp().item()
            error = 5 * sigma / math.sqrt(len(mine))
            torch.testing.assert_close(mine.mean(0), model.means[c, j].detach(), atol=error, rtol=0)
            torch.testing.assert_close(mine.std(0), torch.full((2,), sigma), atol=error, rtol=0)
    assert torch.equal(drawn["x"], model.sample(40_000, torch.Generator().manual_seed(0))["x"])
    assert not torch.equal(model.sample(5)["x"], model.sample(5, torch.Generator().manual_seed(1))["x"])
    with pytest.raises(ValueError, match="count"):
        model.sample(0)


# ---------------------------------------------------------------- fitting


def test_fitting_repeats_follows_the_seed_and_touches_no_global_source():
    mini = data.load("fashion-mini")
    x, y = mini.train_x[:600], mini.train_y[:600]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (the global one)
    models = [GaussianMixtureClassifier((1, 28, 28), 10, 3) for _ in range(3)]
    histories = [model.fit(*arguments, seed=seed) for model, arguments, seed in zip(
        models, [(x, y), (data.as_float(x), y), (x, y)], [0, 0, 1], strict=True)]  # fmt: skip
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    a, b, c = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert histories[0] == histories[1]
    exact = models[0].double()
    scores = exact(x.double() / 255) - exact.log_prior  # what it returns is the -log p(x|y) that it reached
    for c in range(10):
        assert -scores[y == c, c].mean().item() == pytest.approx(histories[0][c], abs=2e-3)


def test_the_prior_is_counted_and_a_lone_image_is_no_infinite_density():
    x = torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
    model = GaussianMixtureClassifier((1, 4, 4), 2, components=3)
    model.fit(x, y)
    assert model.log_prior.exp().tolist() == pytest.approx([6 / 9, 3 / 9])
    assert model.log_variances[1].exp().tolist() == pytest.approx([1e-6] * 3, rel=1e-3)  # each owns one of three images
    scores = model(x)
    assert scores.isfinite().all()
    assert torch.equal(scores.argmax(1), y)


X, Y = torch.zeros(8, 1, 4, 4), torch.arange(8) % 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": X[:, 0]}, "x must have shape"),
        ({"x": X.numpy()}, "x must be a torch.Tensor"),
        ({"x": X.long()}, "x must be floating point"),
        ({"x": X + 2}, "x must lie in"),
        ({"x": X[..., :3]}, "x must hold images of shape"),
        ({"y": Y[:3]}, "y must hold one label per image"),
        ({"y": Y + 1}, "y must be in 0..1"),
        ({"y": torch.zeros(8, dtype=torch.long)}, "y must label at least 3 images of every class.* 0 of class 1"),
        ({"x": X[:0], "y": Y[:0]}, "y must label at least 3"),
        ({"iterations": 0}, "iterations"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_of_a_fit_are_named(changes, words):
    model = GaussianMixtureClassifier((1, 4, 4), 2, components=3)
    with pytest.raises(ValueError, match=words):
        model.fit(**{"x": X, "y": Y, **changes})
    assert not model.means.any()


@pytest.mark.parametrize(
    ("arguments", "name"), [(((28, 28), 10), "image_shape"), (((1, 8, 8), 1), "classes"), (((1, 8, 8), 3, 0), "components")]
)
def test_bad_arguments_of_the_model_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        GaussianMixtureClassifier(*arguments)


# ---------------------------------------------------------------- probabilities where scores belong


def test_probabilities_are_the_softmax_and_say_so(fitted):
    x, _ = images(50)
    model = Probabilities(fitted)
    torch.testing.assert_close(model(x), fitted(x).softmax(1))
    torch.testing.assert_close(model(x).sum(1), torch.ones(50))
    assert isinstance(fitted, Classifier)
    assert fitted.score_kind in SCORE_KINDS
    assert model.score_kind not in SCORE_KINDS
    assert not is_stochastic(model)
    foreign = Probabilities(Rounded(small_cnn()))  # a model whose forward knows no generator
    assert foreign(x).shape == (50, 10)
    with pytest.raises(ValueError, match=r"model must be a torch.nn.Module"):
        Probabilities(lambda x: x)


def test_probabilities_pass_the_noise_on():
    x, _ = images(5)
    noisy = Noisy(small_cnn())
    model = Probabilities(noisy)
    assert is_stochastic(model)
    a, b = (model(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    torch.testing.assert_close(a, noisy(x, generator=torch.Generator().manual_seed(1)).softmax(1))
    assert not torch.equal(a, b)
    assert not torch.equal(model(x), model(x))
    with frozen_noise(model, 3):
        assert not is_stochastic(model)
        assert torch.equal(model(x), model(x))

    class Outsider(nn.Module):
        stochastic = True
        examples_per_pass = 7

    assert is_stochastic(Probabilities(Outsider()))
    assert Probabilities(Outsider()).examples_per_pass == 7
    assert Probabilities(noisy).examples_per_pass is None


def test_the_softmax_hides_the_gradient_that_breaks_the_model(fitted):
    """The masking that `zoo` measured as robustness, in small: the same images, the same radius, another loss."""
    x, y = images(200)
    right = fitted(x).argmax(1) == y
    x, y = x[right], y[right]
    with evaluating(fitted):
        shares = {}
        for name, model in {"ce": Probabilities(fitted), "margin": fitted}.items():
            leaf = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(LOSSES[name](model(leaf), y).sum(), leaf)
            shares[name] = (gradient.flatten(1).abs().amax(1) == 0).double().mean().item()
    assert shares["margin"] == 0
    assert shares["ce"] > 0.4
    ball = Linf(0.1)
    hidden = pgd(Probabilities(fitted), x, y, ball, steps=20, loss="ce")
    seen = pgd(fitted, x, y, ball, steps=20, loss="margin")
    survive = [(fitted(attacked).argmax(1) == y).double().mean().item() for attacked in (hidden, seen)]
    assert survive[0] > survive[1] + 0.15


# ---------------------------------------------------------------- naive Bayes


def naive(x, y, classes=2, smoothing=0.1) -> GaussianNaiveBayes:
    """Fitted, and in double precision, so that what is compared is the formula."""
    model = GaussianNaiveBayes(tuple(x.shape[1:]), classes).double()
    model.fit(x, y, smoothing=smoothing)
    return model


@pytest.mark.parametrize("smoothing", [0.1, 1e-3, 1e-9])
def test_naive_bayes_is_that_of_scikit_learn(smoothing):
    mini = data.load("fashion-mini")
    x, _ = images(100)
    train_x, train_y = mini.train_x[:1_000], mini.train_y[:1_000]
    peer = GaussianNB(var_smoothing=smoothing).fit(train_x.flatten(1).double().numpy() / 255, train_y.numpy())
    expected = torch.from_numpy(peer.predict_joint_log_proba(x.flatten(1).double().numpy()))
    exact = naive(train_x.double() / 255, train_y, 10, smoothing)
    torch.testing.assert_close(exact(x.double()).detach(), expected, rtol=1e-9, atol=1e-9)
    single = GaussianNaiveBayes((1, 28, 28), 10)
    single.fit(train_x, train_y, smoothing=smoothing)
    scores = single(x).detach().double()
    assert ((scores - expected).abs() <= 1e-5 * expected.abs().amax(1, keepdim=True)).all()  # float32, of an image's largest
    assert torch.equal(scores.argmax(1), expected.argmax(1))


def test_one_pixel_of_naive_bayes_by_hand():
    """Class 0 holds 0, 0.2 and 0.4, class 1 holds 0.5 and 1: variances 0.08/3 and 0.0625, prior 3/5 and 2/5."""
    x = torch.tensor([0.0, 0.2, 0.4, 0.5, 1.0], dtype=torch.float64).reshape(5, 1, 1, 1)
    model = GaussianNaiveBayes((1, 1, 1), 2).double()
    history = model.fit(x, torch.tensor([0, 0, 0, 1, 1]), smoothing=0.5)
    everything = sum((v - 0.42) ** 2 for v in (0, 0.2, 0.4, 0.5, 1)) / 5  # the variance over all images, half of it added

    def log_joint(v, prior, mean, variance):
        variance += 0.5 * everything
        return math.log(prior) - (v - mean) ** 2 / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)

    expected = [[log_joint(v, 0.6, 0.2, 0.08 / 3), log_joint(v, 0.4, 0.75, 0.0625)] for v in (0, 0.2, 0.4, 0.5, 1)]
    torch.testing.assert_close(model(x).detach(), torch.tensor(expected, dtype=torch.float64))
    own = [row[label] for row, label in zip(expected, (0, 0, 0, 1, 1), strict=True)]
    assert history == [pytest.approx(-sum(own) / 5)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 4), smoothing=st.floats(1e-6, 10))
def test_no_other_normal_fits_better(seed, classes, smoothing):
    """It is the maximum: with almost no smoothing, to move any mean or variance lowers the likelihood. And smoothing costs."""
    source = torch.Generator().manual_seed(seed)
    y = torch.arange(30) % classes
    x = torch.rand(30, 1, 2, 2, dtype=torch.float64, generator=source)

    def likelihood(model):
        return model(x).gather(1, y[:, None]).sum().item()

    model = naive(x, y, classes, smoothing=0)
    best = likelihood(model)
    assert likelihood(naive(x, y, classes, smoothing)) <= best + 1e-9
    for parameter in (model.means, model.log_variances):
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(0.05 * torch.randn(kept.shape, dtype=torch.float64, generator=source))
        assert likelihood(model) < best
        with torch.no_grad():
            parameter.copy_(kept)


def test_naive_bayes_counts_the_prior_and_reads_bytes_as_floats():
    source = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (10, 3, 2, 2), generator=source).to(torch.uint8)
    y = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    by_bytes, by_floats = (GaussianNaiveBayes((3, 2, 2), 2) for _ in range(2))
    assert by_bytes.fit(x, y) == by_floats.fit(x.float() / 255, y)
    for a, b in zip(by_bytes.state_dict().values(), by_floats.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert by_bytes.log_prior.exp().tolist() == pytest.approx([0.7, 0.3])
    assert by_bytes.score_kind == "log_joint"
    assert isinstance(by_bytes, Classifier)
    assert not is_stochastic(by_bytes)
    untrained = GaussianNaiveBayes((3, 2, 2), 4)(x.float() / 255)
    assert torch.equal(untrained, untrained[:, :1].expand(10, 4))  # until it is fitted all classes are alike
    assert untrained.shape == (10, 4)


def test_the_joint_density_of_naive_bayes_sums_to_one():
    x = torch.rand(12, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = naive(x, torch.arange(12) % 3, classes=3)
    v = torch.linspace(-10, 11, 100_001, dtype=torch.float64)
    with torch.no_grad():
        total = torch.trapezoid(model(v.reshape(-1, 1, 1, 1)).exp().sum(1), v)
    assert total.item() == pytest.approx(1, abs=1e-6)


def test_the_gradient_of_naive_bayes_is_right():
    source = torch.Generator().manual_seed(0)
    model = naive(torch.rand(9, 1, 2, 3, dtype=torch.float64, generator=source), torch.arange(9) % 3, classes=3)
    x = torch.rand(4, 1, 2, 3, dtype=torch.float64, generator=source, requires_grad=True)
    assert torch.autograd.gradcheck(model, (x,))
    (gradient,) = torch.autograd.grad(model(x)[:, 2].sum(), x)
    torch.testing.assert_close(gradient.flatten(1), (model.means[2] - x.flatten(1)) / model.log_variances[2].exp())


def test_a_pixel_that_never_varies_is_refused_or_smoothed():
    source = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 2, 2, generator=source)
    x[:3, 0, 0, 0] = 0  # black in every image of class 0
    y = torch.tensor([0, 0, 0, 1, 1, 1])
    model = GaussianNaiveBayes((1, 2, 2), 2)
    with pytest.raises(ValueError, match=r"smoothing must be > 0 where .*, got 0"):
        model.fit(x, y, smoothing=0)
    assert not model.means.any()
    with pytest.raises(ValueError, match="smoothing must be > 0"):
        model.fit(torch.full((6, 1, 2, 2), 0.5), y)  # nothing varies anywhere, so a share of it is nothing
    assert not model.means.any()
    model.fit(x, y, smoothing=1e-9)
    largest = x.flatten(1).double().var(0, correction=0).max().item()
    assert model.log_variances[0, 0].exp().item() == pytest.approx(1e-9 * largest, rel=1e-5)
    assert model(x).isfinite().all()
    speck = x[:1].clone()
    speck[0, 0, 0, 0] = 1  # one stray pixel is a veto
    assert model(speck)[0, 0] < -1e8 < model(speck)[0, 1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": X[:, 0]}, "x must have shape"),
        ({"x": X.numpy()}, "x must be a torch.Tensor"),
        ({"x": X.long()}, "x must be floating point"),
        ({"x": X - 1}, "x must lie in"),
        ({"x": torch.full_like(X, math.nan)}, "x must be finite"),
        ({"x": X[..., :3]}, "x must hold images of shape"),
        ({"x": X.expand(-1, 3, -1, -1)}, "x must hold images of shape"),
        ({"y": Y[:3]}, "y must hold one label per image"),
        ({"y": Y + 1}, "y must be in 0..1"),
        ({"y": Y - 1}, "y must be in 0..1"),
        ({"y": Y.double()}, "y must hold integer class labels"),
        ({"y": Y.tolist()}, "y must be a tensor"),
        ({"y": torch.zeros(8, dtype=torch.long)}, "y must label at least 1.* 0 of class 1"),
        ({"x": X[:0], "y": Y[:0]}, "y must label at least 1"),
        ({"smoothing": -1e-9}, "smoothing must be a number >= 0"),
        ({"smoothing": math.nan}, "smoothing must be"),
        ({"smoothing": "some"}, "smoothing must be"),
    ],
)
def test_bad_arguments_of_naive_bayes_are_named(changes, words):
    model = GaussianNaiveBayes((1, 4, 4), 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        model.fit(**{"x": X, "y": Y, **changes})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (((28, 28), 10), "image_shape"),
        (((1, 0, 8), 2), "image_shape"),
        (((1, 8, 8), 1), "classes"),
        (((1, 8, 8), 2.5), "classes"),
    ],
)
def test_bad_arguments_of_a_naive_bayes_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        GaussianNaiveBayes(*arguments)


# ---------------------------------------------------------------- logistic regression


def test_without_hidden_layers_a_dense_network_is_affine():
    source = torch.Generator().manual_seed(0)
    model = DenseNetwork((3, 4, 5), 7, hidden=0).double()
    assert [tuple(p.shape) for p in model.parameters()] == [(7, 60), (7,)]
    a, b = (torch.rand(6, 3, 4, 5, dtype=torch.float64, generator=source) for _ in range(2))
    for t in (-1.0, 0.3, 2.0):
        torch.testing.assert_close(model((1 - t) * a + t * b), (1 - t) * model(a) + t * model(b))
    W, bias = model.parameters()
    torch.testing.assert_close(model(a), a.flatten(1) @ W.T + bias)
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(model(a)[:, 4].sum(), a)
    torch.testing.assert_close(gradient, W[4].reshape(3, 4, 5).expand(6, -1, -1, -1))  # the same for every image
    deep = DenseNetwork((3, 4, 5), 7, hidden=9).double()
    assert (deep((a + b) / 2) - (deep(a) + deep(b)) / 2).abs().max() > 1e-6  # with them it is not
    assert model.score_kind == "logit"
    assert not is_stochastic(model)


def test_naive_bayes_with_shared_variances_is_a_logistic_regression():
    source = torch.Generator().manual_seed(1)
    x = torch.rand(40, 1, 3, 3, dtype=torch.float64, generator=source)
    bayes = naive(x, torch.arange(40) % 4, classes=4)
    line = DenseNetwork((1, 3, 3), 4, hidden=0).double()
    with torch.no_grad():
        bayes.log_variances.copy_(bayes.log_variances.mean(0).expand(4, -1))
        precision = (-bayes.log_variances).exp()
        W, bias = line.parameters()
        W.copy_(bayes.means * precision)
        bias.copy_(bayes.log_prior - 0.5 * (bayes.means.square() * precision).sum(1))
    torch.testing.assert_close(line(x).log_softmax(1), bayes(x).log_softmax(1))
