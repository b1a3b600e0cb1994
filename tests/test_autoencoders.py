"""The classifiers made of autoencoders: loops over pictures, closed forms, finite differences; two stages of training."""

import math
from dataclasses import replace

import pytest
import torch
from fixtures_models import has_noise_of_its_own, ignores_company_when_frozen
from torch import nn

from hybridgen_lib import data, recipes
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.models.autoencoders import (
    RULES,
    NearestPicture,
    PretrainedVaeClassifier,
    VaeClassifier,
    conditional_vae,
)
from hybridgen_lib.models.latent import LatentVariableClassifier
from hybridgen_lib.recipes import cache_path, trained, zoo

SHAPE, CLASSES, CODE, HIDDEN, SAMPLES = (1, 6, 5), 4, 3, 8, 7
PIXELS = math.prod(SHAPE)


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def small_cvae(seed=0) -> LatentVariableClassifier:
    return seeded(lambda: conditional_vae(SHAPE, CLASSES, hidden=HIDDEN, code=CODE, samples=5), seed)


def nearest(rule="nearest", samples=SAMPLES) -> NearestPicture:
    return NearestPicture(small_cvae(), samples, rule)


def vae_classifier(kind=VaeClassifier):
    return seeded(lambda: kind(SHAPE, CLASSES, hidden=HIDDEN, code=CODE))


def pictured(count=9, seed=0, dtype=torch.float32):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


MODELS = [nearest, lambda: nearest("mse"), vae_classifier, lambda: vae_classifier(PretrainedVaeClassifier), small_cvae]


# ---------------------------------------------------------------- the contract


@pytest.mark.parametrize("make", MODELS)
def test_a_classifier_with_noise_of_its_own(make):
    model, x = make(), pictured()
    assert len(x) == 9
    has_noise_of_its_own(model, x, CLASSES)


@pytest.mark.parametrize("make", MODELS)
def test_frozen_scores_do_not_depend_on_the_batch(make):
    model, x = make().double(), pictured(dtype=torch.float64)
    ignores_company_when_frozen(model, x)


@pytest.mark.parametrize("make", MODELS)
def test_the_gradient_is_that_of_the_score(make):
    model, x = make().double(), pictured(2, dtype=torch.float64).clamp(0.05, 0.95).requires_grad_(True)
    with frozen_noise(model, 2):
        assert torch.autograd.gradcheck(model, x, atol=1e-6)


# ---------------------------------------------------------------- the nearest picture


def looped(model: NearestPicture, x, codes):
    """One image, one class, one picture at a time."""
    scores = torch.zeros(len(x), CLASSES, dtype=x.dtype)
    for b, image in enumerate(x):
        for c in range(CLASSES):
            y = torch.eye(CLASSES, dtype=x.dtype)[c : c + 1]
            painted = [model.cvae.networks["p(x|z,y)"](z=z[None], y=y).mean[0] for z in codes]
            distances = torch.stack([(image - picture).pow(2).sum() for picture in painted])
            scores[b, c] = -(distances.min() if model.rule == "nearest" else distances.mean())
    return scores


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [SHAPE, (3, 4, 5)])
def test_scores_equal_the_loop_over_pictures(rule, shape):
    cvae = seeded(lambda: conditional_vae(shape, CLASSES, hidden=HIDDEN, code=CODE, samples=5)).double()
    model = NearestPicture(cvae, SAMPLES, rule)
    x = torch.rand(6, *shape, generator=generator(1), dtype=torch.float64)
    with torch.no_grad():
        codes = model.noise(SAMPLES, 1, CODE, x, generator(3))[:, 0]
        torch.testing.assert_close(model(x, generator(3)), looped(model, x, codes))


def test_on_real_images_in_float32_too():
    """28 x 28 pixels and 100 pictures: what the shortcut |p|^2 - 2 x.p loses must not show."""
    x = data.as_float(data.load("fashion-mini").test_x[:20])
    cvae = seeded(lambda: conditional_vae((1, 28, 28), 10, hidden=20, code=5, samples=5))
    for rule in RULES:
        model = NearestPicture(cvae, 100, rule)
        with torch.no_grad(), frozen_noise(model):
            distances = (x[:, None, None] - model.pictures(x)).square().flatten(3).sum(3)  # (B, K, C)
            mine = -(distances.amin(1) if rule == "nearest" else distances.mean(1))
            torch.testing.assert_close(model(x), mine, rtol=1e-5, atol=1e-3)


def test_one_picture_and_both_rules_are_one():
    x = pictured()
    with torch.no_grad():
        one, other = (nearest(rule, samples=1)(x, generator()) for rule in RULES)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_mean_is_never_nearer_and_bayes_lies_between():
    """log mean exp of the log likelihoods: at least their mean (Jensen), at most the best of them."""
    x, model = pictured(), nearest(samples=50)
    with torch.no_grad(), frozen_noise(model):
        best, pictures = model(x), model.pictures(x)
        log_likelihood = -(x[:, None, None] - pictures).square().flatten(3).sum(3)
        bayes = torch.logsumexp(log_likelihood, 1) - math.log(50)
        model.rule = "mse"
        mean = model(x)
    assert (mean <= bayes + 1e-5).all()
    assert (bayes <= best + 1e-5).all()
    assert (best - mean).min() > 1e-3


def test_the_gradient_leads_away_from_the_nearest_picture_and_spares_the_decoder():
    model, x = nearest().double(), pictured(dtype=torch.float64).requires_grad_()
    with frozen_noise(model, 5):
        pictures = model.pictures(x)
        (gradient,) = torch.autograd.grad(model(x)[:, 2].sum(), x)
    which = (x.detach()[:, None] - pictures[None, :, 2]).square().flatten(2).sum(2).argmin(1)
    torch.testing.assert_close(gradient, -2 * (x.detach() - pictures[which, 2]))
    assert all(p.grad is None for p in model.parameters())


def test_an_image_that_is_a_picture_has_score_zero_for_its_class():
    model = nearest().double()
    with torch.no_grad(), frozen_noise(model, 5):
        picture = model.pictures(torch.zeros(1, dtype=torch.float64))[4, 1]
        scores = model(picture[None])[0]
    assert scores[1] == 0
    assert scores.argmax() == 1
    assert (scores[[0, 2, 3]] < 0).all()


def test_images_of_one_call_are_compared_with_the_same_pictures():
    model, x = nearest(), pictured(1).expand(5, -1, -1, -1)
    with torch.no_grad():
        assert (model(x) == model(x[:1], generator(0))).all()  # the model's own source starts from its seed, 0
    assert model.pictures(x).shape == (SAMPLES, CLASSES, *SHAPE)


def test_its_bound_is_that_of_the_conditional_vae():
    model, x, y = nearest(), pictured(), torch.arange(9) % CLASSES
    torch.testing.assert_close(model.elbo(x, y, generator(1)), small_cvae().elbo(x, y, generator(1)))
    torch.testing.assert_close(model.elbo(x, y, generator(1), beta=0.2), small_cvae().elbo(x, y, generator(1), beta=0.2))


def test_the_bound_of_the_conditional_vae_by_hand():
    """log 1/C - KL-as-sampled + the squared error with its constant; the graph is p(y) p(z) p(x|z,y)."""
    model, x, y = small_cvae(), pictured(), torch.arange(9) % CLASSES
    assert model.score_kind == "log_joint"
    assert set(model.model.edges) == {("z", "x"), ("y", "x")}
    with torch.no_grad():
        one_hot = torch.eye(CLASSES)[y]
        q = model.networks["q(z|x,y)"](x=x, y=one_hot).base_dist
        eps = model.noise(1, 9, CODE, x, generator(2))[0]
        z = q.loc + q.scale * eps
        picture = model.networks["p(x|z,y)"](z=z, y=one_hot).mean
        log_ratio = (-0.5 * z**2 + 0.5 * eps**2 + q.scale.log()).sum(1)  # log p(z) - log q(z|x,y)
        log_x = -(x - picture).square().flatten(1).sum(1) - PIXELS / 2 * math.log(math.pi)
        torch.testing.assert_close(model.elbo(x, y, generator(2)), log_ratio + log_x - math.log(CLASSES))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rule": "median"}, "rule must be one of nearest, mse; got 'median'"),
        ({"samples": 0}, "samples must be an integer >= 1, got 0"),
        ({"samples": 2.5}, "samples must be an integer >= 1, got 2.5"),
        ({"cvae": nn.Linear(2, 2)}, "cvae must be"),
        ({"cvae": None}, "cvae must be"),
    ],
)
def test_a_bad_argument_of_nearest_picture_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        NearestPicture(**{"cvae": small_cvae(), **changes})


def test_a_vae_whose_codes_know_the_class_is_refused():
    """Its pictures are drawn from p(z); GFY has p(z|y) instead."""
    gfy = recipes.build("gfy", SHAPE, CLASSES, width=2, hidden=4, code=2)
    with pytest.raises(ValueError, match="cvae must be"):
        NearestPicture(gfy)


@pytest.mark.parametrize(("changes", "words"), [({"samples": 0}, "samples"), ({"classes": 1}, "classes")])
def test_a_bad_argument_of_the_conditional_vae_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        conditional_vae(**{"image_shape": SHAPE, "classes": CLASSES, "hidden": 4, "code": 2, "samples": 3, **changes})


# ---------------------------------------------------------------- the discriminative twins


def encoder_by_hand(model, x):
    net = model.encoder.mlp
    h = torch.relu(x.flatten(1) @ net.trunk.dense.weight.T + net.trunk.dense.bias)
    h = torch.relu(h @ net.first.weight.T + net.first.bias)
    return (h @ net.rest[1].weight.T + net.rest[1].bias).chunk(2, 1)


@pytest.mark.parametrize("kind", [VaeClassifier, PretrainedVaeClassifier])
def test_log_probabilities_of_the_class_given_one_code(kind):
    model, x = vae_classifier(kind), pictured()
    assert model.score_kind == "log_conditional"
    with torch.no_grad():
        scores = model(x, generator(1))
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(9))
        mean, log_sigma = encoder_by_hand(model, x)
        z = mean + log_sigma.exp() * torch.randn(1, 9, CODE, generator=generator(1))[0]
        torch.testing.assert_close(model.encode(x, generator(1)), z)
        hidden = torch.relu(z @ model.head[0].weight.T + model.head[0].bias)
        torch.testing.assert_close(scores, (hidden @ model.head[2].weight.T + model.head[2].bias).log_softmax(1))


def test_every_image_has_a_draw_of_its_own_unless_frozen():
    model, x = vae_classifier(), pictured(1).expand(4, -1, -1, -1)
    with torch.no_grad():
        assert len(model(x).unique(dim=0)) == 4
        with frozen_noise(model):
            assert len(model(x).unique(dim=0)) == 1


def test_the_bound_of_the_plain_vae_by_hand():
    """KL(N(m, s) | N(0, 1)) = (m^2 + s^2 - 1) / 2 - log s; -|x - mu|^2 - n/2 log pi; no label in it."""
    model, x = vae_classifier(PretrainedVaeClassifier), pictured()
    with torch.no_grad():
        mean, log_sigma = encoder_by_hand(model, x)
        divergence = (0.5 * (mean**2 + (2 * log_sigma).exp() - 1) - log_sigma).sum(1)
        z = mean + log_sigma.exp() * torch.randn(1, 9, CODE, generator=generator(1))[0]
        squared = (x - model.decoder(z=z).mean).square().flatten(1).sum(1)
        log_x = -squared - PIXELS / 2 * math.log(math.pi)
        for labels in (torch.zeros(9, dtype=torch.long), torch.arange(9) % CLASSES):
            torch.testing.assert_close(model.elbo(x, labels, generator(1)), log_x - divergence)
            torch.testing.assert_close(model.elbo(x, labels, generator(1), beta=0.25), log_x - 0.25 * divergence)
    assert divergence.min() > 1e-3


def test_it_is_a_lower_bound():
    """Its mean over codes stays below log p(x), estimated by many codes of the guide."""
    model, x = vae_classifier(PretrainedVaeClassifier).double(), pictured(1, dtype=torch.float64)
    many = x.expand(20_000, -1, -1, -1)
    with torch.no_grad():
        bound = model.elbo(many, torch.zeros(20_000, dtype=torch.long), generator(1)).mean()
        mean, log_sigma = encoder_by_hand(model, x)
        eps = torch.randn(20_000, CODE, generator=generator(2), dtype=torch.float64)
        z = mean + log_sigma.exp() * eps
        log_weight = model.decoder(z=z).log_prob(x) + (-0.5 * z**2 + 0.5 * eps**2 + log_sigma).sum(1)
        truth = torch.logsumexp(log_weight, 0) - math.log(20_000)
    assert truth - 1.5 < bound < truth


def test_the_bound_trains_encoder_and_decoder_and_the_scores_encoder_and_head():
    for stage, untouched in (("elbo", "head"), ("scores", "decoder")):
        model, x, y = vae_classifier(PretrainedVaeClassifier), pictured(), torch.arange(9) % CLASSES
        (model.elbo(x, y) if stage == "elbo" else model(x)[:, 0]).sum().backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == name.startswith(untouched), (stage, name)


# ---------------------------------------------------------------- two-stage training

TINY = {"hidden": 8, "code": 2, "epochs": 2}
NAME = "vae-classifier-pretrained"


@pytest.fixture
def digits():
    x = torch.randint(0, 256, (96, 1, 6, 6), generator=generator(), dtype=torch.uint8)
    y = torch.arange(96) % 3
    return data.ImageData(x[:80], y[:80], x[80:], y[80:], ("a", "b", "c"), "tiny")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDGEN_CACHE", str(tmp_path / "models"))
    return tmp_path / "models"


class Watch:
    """Stands in for ``fit``: notes the weights around each stage, counts steps, and can pull the plug before one of them."""

    def __init__(self, monkeypatch, plug: int | None = None):
        self.plug, self.steps, self.stages, self.fit = plug, 0, [], zoo.fit
        monkeypatch.setattr(zoo, "fit", self)

    def __call__(self, model, objective, *arguments, **options):
        def counted(*inputs):
            if self.steps == self.plug:
                raise KeyboardInterrupt
            self.steps += 1
            return objective(*inputs)

        stage = {"before": weights(model), "free": {n for n, p in model.named_parameters() if p.requires_grad}}
        self.stages.append(stage)
        history = self.fit(model, counted, *arguments, **options)
        stage |= {"after": weights(model), "history": history}
        return history


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_encoder_is_trained_first_and_then_left_alone(digits, monkeypatch):
    watch = Watch(monkeypatch)
    model = trained(NAME, digits, **TINY)
    vae, head = watch.stages
    assert {n.split(".")[0] for n in vae["free"]} == {"encoder", "decoder"}
    assert {n.split(".")[0] for n in head["free"]} == {"head"}
    for name in vae["before"]:
        moved = [not torch.equal(stage["before"][name], stage["after"][name]) for stage in (vae, head)]
        assert moved == ([False, True] if name.startswith("head") else [True, False]), name
    for name, value in model.state_dict().items():
        assert torch.equal(value, head["after"][name])
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    assert len(vae["history"]) == len(head["history"]) == 2
    assert vae["history"][0] > 0.5 * PIXELS > head["history"][0]  # nats of an image, nats of a label


@pytest.mark.parametrize("plug", [0, 4, 7, 8, 10])
def test_a_killed_training_goes_on_where_it_was(digits, cache, monkeypatch, plug):
    """3 steps an epoch, 2 epochs a stage: killed at once, in epoch 2, in the second stage's first and second epoch."""
    options = {**TINY, "batch_size": 32}
    whole = weights(trained(NAME, digits, **options))
    cache_path(NAME, digits, **options).unlink()
    with monkeypatch.context() as patch:
        Watch(patch, plug)
        with pytest.raises(KeyboardInterrupt):
            trained(NAME, digits, **options)
    assert not list(cache.glob("*.safetensors"))
    watch = Watch(monkeypatch)
    again = trained(NAME, digits, **options)
    assert watch.steps == 12 - plug // 3 * 3  # finished epochs are not repeated
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_a_classifier_with_noise_that_was_killed_ends_as_if_it_had_not(digits, cache, monkeypatch):
    options = {**TINY, "batch_size": 32}
    whole = weights(trained("vae-classifier", digits, **options))
    cache_path("vae-classifier", digits, **options).unlink()
    original = recipes.recipe.fit
    with monkeypatch.context() as patch:
        watch = Watch(patch, plug=4)
        watch.fit = original
        patch.setattr(recipes.recipe, "fit", watch)
        with pytest.raises(KeyboardInterrupt):
            trained("vae-classifier", digits, **options)
    assert [path.suffix for path in cache.iterdir()] == [".partial"]
    for name, value in trained("vae-classifier", digits, **options).state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_the_pretrained_encoder_is_that_of_a_vae_and_of_no_label(digits):
    """Other labels, another head, and not another encoder."""
    shuffled = replace(digits, train_y=(digits.train_y + 1) % 3)
    a, b = (trained(NAME, images, **TINY).state_dict() for images in (digits, shuffled))
    for name in a:
        assert torch.equal(a[name], b[name]) == (not name.startswith("head")), name


@pytest.mark.parametrize("rule", RULES)
def test_the_recipe_of_the_nearest_picture_takes_a_rule(digits, rule):
    model = trained("cvae", digits, rule=rule, samples=6, **TINY)
    assert (model.rule, model.samples) == (rule, 6)
    with torch.no_grad():
        assert model(data.as_float(digits.test_x)).shape == (16, 3)


def test_the_recipe_names_a_bad_rule(digits):
    with pytest.raises(ValueError, match="rule must be one of nearest, mse"):
        trained("cvae", digits, rule="farthest", **TINY)
