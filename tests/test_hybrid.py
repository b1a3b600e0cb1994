"""The causal head, Deep CAMA and Deep Bayes on features: scores and bounds against loops that are written out."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal

from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.models import latent
from hybridgen_lib.models.backbones import FeatureTap, Vgg
from hybridgen_lib.models.deep_bayes import ON_FEATURES, deep_bayes_on_features
from hybridgen_lib.models.factorization import DEEP_BAYES
from hybridgen_lib.models.hybrid import PublishedWeight, causal_head, deep_cama
from hybridgen_lib.models.latent import LatentVariableClassifier
from hybridgen_lib.models.networks import ConvTrunk, VectorFactor
from hybridgen_lib.models.pixels import DEEP_BAYES_SIGMA
from hybridgen_lib.recipes import RECIPES, recipe_of
from hybridgen_lib.recipes import hybrid as hybrid_recipes
from hybridgen_lib.training import fit, negative_elbo

SHAPE, PIXELS, FEATURES, CLASSES, CODE, MANIPULATION, SAMPLES = (3, 4, 4), 48, 5, 3, 2, 3, 4
Q_M, Q_Z, DECODER = "q(m|x1,x2,y)", "q(z|x1,x2,y,m)", "p(x1,x2|y,z,m)"
Y = torch.tensor([2, 0, 1])
WAYS = [
    pytest.param(dict(zip(("weight", "scales"), pair, strict=True)), id="-".join(pair))
    for pair in itertools.product(("full", "published"), ("fixed", "learned"))
]


def shaken(make, seed=0):
    """A model of float64 whose parameters, biases too, are all away from where they start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make().double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tap():
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, FEATURES), nn.Tanh())


def head(**changes):
    sizes = {"hidden": 8, "code": CODE, "manipulation": MANIPULATION, "samples": SAMPLES, **changes}
    return shaken(lambda: causal_head(tap(), SHAPE, CLASSES, **sizes))


def cama(**changes):
    sizes = {"width": 2, "hidden": 8, "code": CODE, "manipulation": MANIPULATION, "samples": SAMPLES, **changes}
    return shaken(lambda: deep_cama(SHAPE, CLASSES, **sizes))


def on_features(name, **changes):
    sizes = {"hidden": 8, "code": CODE, "samples": SAMPLES, **changes}
    return shaken(lambda: deep_bayes_on_features(name, tap(), SHAPE, CLASSES, **sizes))


MODELS = {"head": head, "cama": cama, **{name: lambda name=name: on_features(name) for name in ON_FEATURES}}


def images(count=3, seed=0):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mlp(network, **inputs):
    """The layers of a ConditionalMLP one by one, on one vector."""
    layers = network.mlp
    h = F.linear(torch.cat([inputs[name] for name in layers.first.sizes]), layers.first.weight, layers.first.bias)
    for layer in layers.rest:
        h = h.clamp(min=0) if isinstance(layer, nn.ReLU) else F.linear(h, layer.weight, layer.bias)
    return h


def normal(value, mean, sigma):
    return Normal(mean, sigma).log_prob(value).sum()


def coded(network, eps, **inputs):
    """A sample of a Gaussian factor and its log density."""
    mean, log_sigma = mlp(network, **inputs).chunk(2)
    value = mean + log_sigma.exp() * eps
    return value, normal(value, mean, log_sigma.exp())


def head_weight(model, image, label, noise, way, sigmas=(DEEP_BAYES_SIGMA, DEEP_BAYES_SIGMA), m=None):
    """log weight of one sample for one image and one class, and the ELBO's share of it that beta does not touch."""
    x1, x2, y = image.flatten(), model.deterministic["x2"](image[None])[0], F.one_hot(torch.tensor(label), CLASSES).double()
    about_m = torch.zeros((), dtype=torch.float64)
    if m is None:
        m, log_q = coded(model.networks[Q_M], noise["m"], x1=x1, x2=x2, y=y)
        about_m = normal(m, 0.0, 1.0) - log_q
    z, log_q_z = coded(model.networks[Q_Z], noise["z"], x1=x1, x2=x2, y=y, m=m)
    out = mlp(model.networks[DECODER], y=y, z=z, m=m)
    factors = torch.ones(PIXELS + FEATURES, dtype=torch.float64)
    if way.get("scales") == "learned":
        out, raw = out.split(PIXELS + FEATURES)
        factors = 20 ** torch.tanh(raw)
    likelihood = normal(x1, torch.sigmoid(out[:PIXELS]), sigmas[0] * factors[:PIXELS])
    likelihood += normal(x2, out[PIXELS:], sigmas[1] * factors[PIXELS:]) - math.log(CLASSES)
    codes = normal(z, 0.0, 1.0) - log_q_z + (0 if way.get("weight") == "published" else about_m)
    return likelihood, codes


def looped(weight, model, x, noise):
    """log mean weight, one image, class and sample at a time; ``noise`` (K, 1, D) by name."""
    scores = torch.zeros(len(x), CLASSES, dtype=x.dtype)
    samples = len(next(iter(noise.values())))
    for b, c in itertools.product(range(len(x)), range(CLASSES)):
        weights = [weight(model, x[b], c, {name: eps[k, 0] for name, eps in noise.items()}) for k in range(samples)]
        scores[b, c] = torch.logsumexp(torch.stack(weights), 0) - math.log(samples)
    return scores


def frozen_noise_of(model, x, seed):
    with frozen_noise(model, seed):
        return model._noise(x, model.samples, None)


# ---------------------------------------------------------------- the score is what the formula says


@pytest.mark.parametrize("do", [None, 0.0, 0.7])
@pytest.mark.parametrize("way", WAYS)
def test_the_heads_score_is_the_sum_written_out(way, do):
    sigmas = (0.3, 2.0)
    model, x = head(**way, pixel_sigma=sigmas[0], feature_sigma=sigmas[1]), images()
    noise = frozen_noise_of(model, x, 7)
    m = None if do is None else torch.full((MANIPULATION,), do, dtype=torch.float64)
    with torch.no_grad(), frozen_noise(model, 7):
        expected = looped(lambda *a: sum(head_weight(*a, way, sigmas, m)), model, x, noise)
        scores = (model if do is None else model.do(m=do))(x)
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-9)
    assert noise["z"].shape == (SAMPLES, 1, CODE)
    assert not torch.allclose(noise["m"][..., :CODE], noise["z"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("do", [None, 0.0])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_the_heads_elbo_is_the_sum_written_out(way, do, beta):
    model, x = head(**way), images()
    m = None if do is None else torch.full((MANIPULATION,), do, dtype=torch.float64)
    noise = {name: eps[0] for name, eps in model._noise(x, 1, torch.Generator().manual_seed(5)).items()}
    with torch.no_grad():
        intervened = model if do is None else model.do(m=do)
        elbo = intervened.elbo(x, Y, generator=torch.Generator().manual_seed(5), beta=beta)
        for b, label in enumerate(Y.tolist()):
            eps = {name: part[b] for name, part in noise.items()}
            likelihood, codes = head_weight(model, x[b], label, eps, way, m=m)
            torch.testing.assert_close(elbo[b], likelihood + beta * codes, rtol=1e-10, atol=1e-9)


def test_published_leaves_out_just_what_is_known_of_m():
    """The same networks, the same noise: the terms differ by p(m) and q(m|.), and under do(m) by nothing."""
    full, published, x = head(), head(weight="published"), images()
    assert isinstance(published, PublishedWeight)
    published.load_state_dict(full.state_dict())
    values = {name: value[:, None] for name, value in full.observe(x).items()}
    noise = {name: eps[0, :, None] for name, eps in frozen_noise_of(full, x, 1).items()}
    classes = torch.eye(CLASSES, dtype=torch.float64)
    with torch.no_grad():
        (p, q), (some_p, some_q) = (model.log_terms(values, classes, noise) for model in (full, published))
        assert set(p) == {"p(z)", "p(m)", "p(y)", "p(x1|y,z,m)", "p(x2|y,z,m)"}
        assert set(q) == {Q_M, Q_Z}
        assert set(p) - set(some_p) == {"p(m)"}
        assert set(q) - set(some_q) == {Q_M}
        assert all(torch.equal(p[name], some_p[name]) for name in some_p)
        with frozen_noise(full), frozen_noise(published):
            assert not torch.allclose(full(x), published(x))
            assert torch.equal(full.do(m=0.5)(x), published.do(m=0.5)(x))


@pytest.mark.parametrize("do", [None, 0.0, -0.4])
def test_deep_camas_score_is_the_sum_written_out(do):
    model, x = cama(), images()
    noise = frozen_noise_of(model, x, 3)

    def weight(model, image, label, eps):
        y, log_weight = F.one_hot(torch.tensor([label]), CLASSES).double(), -math.log(CLASSES)
        m = torch.full((1, MANIPULATION), do or 0.0, dtype=torch.float64)
        if do is None:
            q = model.networks["q(m|x)"](x=image[None])
            m = q.base_dist.loc + q.base_dist.scale * eps["m"]
            log_weight = log_weight + normal(m, 0.0, 1.0) - q.log_prob(m)[0]
        q = model.networks["q(z|x,y,m)"](x=image[None], y=y, m=m)
        z = q.base_dist.loc + q.base_dist.scale * eps["z"]
        picture = model.networks["p(x|y,z,m)"](y=y, z=z, m=m).mean
        return log_weight + normal(z, 0.0, 1.0) - q.log_prob(z)[0] + normal(image[None], picture, DEEP_BAYES_SIGMA)

    with torch.no_grad(), frozen_noise(model, 3):
        expected = looped(weight, model, x, noise)
        scores = (model if do is None else model.do(m=do))(x)
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("name", ON_FEATURES)
def test_deep_bayes_on_features_scores_as_its_formula_says(name):
    model, x = on_features(name), images()
    noise = frozen_noise_of(model, x, 3)
    given = name == "dbx"
    assert str(model.model) == DEEP_BAYES[name].replace("x", "x2")
    assert model.score_kind == ("log_conditional" if given else "log_joint")

    def weight(model, image, label, eps):
        x2, y = model.deterministic["x2"](image[None])[0], F.one_hot(torch.tensor(label), CLASSES).double()
        z, log_q = coded(model.networks["q(z|x2,y)"], eps["z"], x2=x2, y=y)
        total = -log_q
        if name == "gby":
            mean, log_sigma = mlp(model.networks["p(z|y)"], y=y).chunk(2)
            total = total + normal(z, mean, log_sigma.exp()) - math.log(CLASSES)
        else:
            total = total + mlp(model.networks["p(y|z)"], z=z).log_softmax(0)[label]
        if name == "gbz":
            total = total + normal(z, 0.0, 1.0)
        if given:
            mean, log_sigma = mlp(model.networks["p(z|x2)"], x2=x2).chunk(2)
            return total + normal(z, mean, log_sigma.exp())
        return total + normal(x2, mlp(model.networks["p(x2|z)"], z=z), DEEP_BAYES_SIGMA)

    with torch.no_grad(), frozen_noise(model, 3):
        torch.testing.assert_close(model(x), looped(weight, model, x, noise), rtol=1e-10, atol=1e-9)


def test_a_vector_factor_is_the_normal_it_says():
    factor = VectorFactor({"z": 2}, [4], 5, sigma=0.3).double()
    z, v = torch.randn(6, 1, 2, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    p = factor(z=z)
    expected = Normal(p.mean, 0.3).log_prob(v).sum(-1)
    assert p.mean.shape == (6, 1, 5)
    assert expected.shape == (6, 7)
    torch.testing.assert_close(p.log_prob(v), expected)


def test_learned_scales_stay_between_a_twentieth_and_twenty():
    model = head(scales="learned", pixel_sigma=0.5, feature_sigma=3.0)
    with torch.no_grad():
        model.networks[DECODER].mlp.rest[-1].weight.mul_(1e4)
        y, z = torch.eye(CLASSES, dtype=torch.float64)[[0] * 50], torch.randn(50, CODE, dtype=torch.float64)
        pixels, features = model.networks[DECODER](y=y, z=z, m=torch.zeros(50, MANIPULATION, dtype=torch.float64))
    for part, sigma in ((pixels, 0.5), (features, 3.0)):
        factors = part.base_dist.scale / sigma
        assert factors.min().item() == pytest.approx(1 / 20)
        assert factors.max().item() == pytest.approx(20)


# ---------------------------------------------------------------- gradients


GRADIENTS = {**MODELS, "published": lambda: head(weight="published"), "learned": lambda: head(scales="learned")}


@pytest.mark.parametrize(
    ("name", "do"), [*((name, False) for name in GRADIENTS), *((n, True) for n in GRADIENTS if n != "dbx")]
)
def test_the_gradient_is_that_of_the_score(name, do):
    """With z set nothing of the image is left in DBX's log p(y|z)."""
    model, x = GRADIENTS[name](), images(1).clamp(0.1, 0.9).requires_grad_(True)
    if do:
        model = model.do(**{model.guide.variables[0]: 0.3})
    with frozen_noise(model, 2):
        assert torch.autograd.gradcheck(model, x, fast_mode=True, atol=1e-4)


def test_the_gradient_through_a_vgg_is_that_of_the_score():
    def make():
        deep = FeatureTap(Vgg(16, (3, 8, 8), CLASSES, 1 / 32), "conv4")
        return causal_head(deep, (3, 8, 8), CLASSES, hidden=8, code=2, manipulation=2, samples=2)

    model = shaken(make)
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with frozen_noise(model, 2):
        assert torch.autograd.gradcheck(model, x.requires_grad_(True), fast_mode=True, atol=1e-4)


class Detached(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.detach())


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_the_sum_of_what_comes_by_either_path(way):
    model, x = head(**way), images().requires_grad_(True)

    def gradient(*cut):
        twin = copy.deepcopy(model)
        for name in cut:
            twin.deterministic[name] = Detached(twin.deterministic[name])
        with frozen_noise(twin, 4):
            scores = twin(x)
        return scores.detach(), torch.autograd.grad((scores[:, 0] - scores[:, 1]).sum(), x)[0]

    (scores, whole), (same, features), (also, pixels) = gradient(), gradient("x1"), gradient("x2")
    assert torch.equal(scores, same)
    assert torch.equal(scores, also)
    assert min(features.abs().max(), pixels.abs().max()) > 1e-3
    torch.testing.assert_close(whole, features + pixels, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- m = 0


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: parameter.grad for name, parameter in model.networks.named_parameters()}


def columns_of(layer, grad, name):
    return dict(zip(layer.sizes, grad.split(list(layer.sizes.values()), dim=1), strict=True))[name]


@pytest.mark.parametrize("way", WAYS)
def test_m_at_zero_reaches_both_networks_and_q_of_m_reaches_none(way):
    model, x = head(**way), images()
    found = gradients(model, -model.do(m=0).elbo(x, Y, generator=torch.Generator().manual_seed(0)).mean())
    assert all(grad is None for name, grad in found.items() if name.startswith(Q_M))
    for factor in (Q_Z, DECODER):
        layer = model.networks[factor].mlp.first
        weight = found[f"{factor}.mlp.first.weight"]
        assert columns_of(layer, weight, "m").count_nonzero() == 0
        assert all(columns_of(layer, weight, name).abs().max() > 0 for name in layer.sizes if name != "m")
        assert all(g.abs().max() > 0 for name, g in found.items() if name.startswith(factor) and not name.endswith("bias"))
    at_one = gradients(model, -model.do(m=1).elbo(x, Y, generator=torch.Generator().manual_seed(0)).mean())
    assert all(
        columns_of(model.networks[f].mlp.first, at_one[f"{f}.mlp.first.weight"], "m").all(1).any() for f in (Q_Z, DECODER)
    )


@pytest.mark.parametrize("make", [head, cama])
def test_the_elbo_under_do_knows_m_and_does_not_know_q_of_m(make):
    model, x = make(), images()
    q_m = str(model.guide.factor_of("m"))

    def elbo(changed):
        with torch.no_grad():
            return changed.elbo(x, Y, generator=torch.Generator().manual_seed(0))

    free, zero, one = elbo(model), elbo(model.do(m=0)), elbo(model.do(m=1))
    assert (zero - one).abs().min() > 1e-6
    with torch.no_grad():
        for parameter in model.networks[q_m].parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(elbo(model.do(m=0)), zero)
    assert not torch.allclose(elbo(model), free)


def test_sampled_m_teaches_q_of_m():
    model, x = head(), images()
    found = gradients(model, negative_elbo()(model, x, Y, 0.9, torch.Generator().manual_seed(0)))
    assert all(grad is not None and grad.abs().max() > 0 for name, grad in found.items() if name.startswith(Q_M))
    zero = gradients(model, negative_elbo(do={"m": 0})(model, x, Y, 0.9, torch.Generator().manual_seed(0)))
    assert all(grad is None for name, grad in zero.items() if name.startswith(Q_M))


@pytest.mark.parametrize("weight", ["full", "published"])
def test_training_at_zero_leaves_q_of_m_as_it_was_drawn(weight):
    model, x, y = head(weight=weight), images(12), torch.arange(12) % CLASSES
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        seen = model.observe(x)
    fit(model, negative_elbo(do={"m": 0}), seen, y, epochs=2, batch_size=5, learning_rate=0.01)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(Q_M in name or name.startswith("deterministic") for name in moved)
    assert f"networks.{Q_Z}.mlp.first.weight" in moved
    assert f"networks.{DECODER}.mlp.first.weight" in moved
    for factor in (Q_Z, DECODER):
        key, layer = f"networks.{factor}.mlp.first.weight", model.networks[factor].mlp.first
        assert torch.equal(columns_of(layer, model.state_dict()[key], "m"), columns_of(layer, before[key], "m"))


# ---------------------------------------------------------------- observed once, scored in pieces


@pytest.mark.parametrize("name", MODELS)
def test_the_elbo_of_images_is_that_of_what_is_observed_of_them(name):
    model, x = MODELS[name](), images()
    seen = model.observe(x)
    assert set(seen) == set(model.observed)
    for changed in (model, model.do(**{model.guide.variables[0]: 0.2})):
        a, b = (changed.elbo(part, Y, generator=torch.Generator().manual_seed(3)) for part in (x, seen))
        assert torch.equal(a, b)
        assert a.shape == (3,)


def test_what_is_observed_is_the_image_flat_and_its_features():
    model, x = head(), images()
    seen = model.observe(x)
    assert torch.equal(seen["x1"], x.flatten(1))
    assert torch.equal(seen["x2"], model.deterministic["x2"](x))


@pytest.mark.parametrize("size", [7, 450])
@pytest.mark.parametrize("way", [WAYS[0], WAYS[3]])
def test_two_hundred_classes_in_small_passes(way, size, monkeypatch):
    """Cut by images, classes and samples, kept or computed again: the same scores, the same gradient."""
    sizes = {"hidden": 4, "code": 2, "manipulation": 2, "samples": 2}
    model = shaken(lambda: causal_head(tap(), SHAPE, 200, **sizes, **way))
    x, classes = images(2).requires_grad_(True), torch.tensor([[0, 199, 7], [120, 3, 3]])

    def scores_and_gradient():
        with frozen_noise(model, 1):
            scores = model(x)
        return scores.detach(), torch.autograd.grad(scores[:, [5, 190]].sum(), x)[0]

    monkeypatch.setattr(latent, "CPU_PASS", 10**9)
    whole = scores_and_gradient()
    assert whole[0].shape == (2, 200)
    monkeypatch.setattr(latent, "CPU_PASS", size)
    monkeypatch.setattr(latent, "MEMORY_SIZE", 0)
    torch.testing.assert_close(scores_and_gradient(), whole, rtol=1e-9, atol=1e-9)
    with torch.no_grad(), frozen_noise(model, 1):
        torch.testing.assert_close(model(x), whole[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(model.class_scores(x, classes), whole[0].gather(1, classes), rtol=1e-9, atol=1e-9)
        rough = model.with_samples(1)
        torch.testing.assert_close(rough.class_scores(x, classes), rough(x).gather(1, classes), rtol=1e-9, atol=1e-9)


def test_no_pass_is_larger_than_it_may_be_and_images_are_observed_once(monkeypatch):
    model, x, sizes, looks = head(), images(5), [], []
    inner, seen = LatentVariableClassifier._log_weights, model.observe

    def spy(self, values, y, noise):
        sizes.append(len(next(iter(noise.values()))) * len(values["x1"]) * y.shape[1])
        return inner(self, values, y, noise)

    monkeypatch.setattr(LatentVariableClassifier, "_log_weights", spy)
    monkeypatch.setattr(latent, "CPU_PASS", 10)
    model.observe = lambda x: looks.append(len(x)) or seen(x)
    model(x)
    assert max(sizes) <= 10
    assert sum(sizes) == 5 * CLASSES * SAMPLES
    assert looks == [5]


@pytest.mark.parametrize("name", MODELS)
def test_scores_do_not_depend_on_the_batch_or_on_the_global_source(name):
    model, x, state = MODELS[name](), images(), torch.get_rng_state()
    with torch.no_grad():
        with frozen_noise(model):
            torch.testing.assert_close(torch.cat([model(x[:1]), model(x[1:])]), model(x), rtol=1e-10, atol=1e-10)
        assert not torch.equal(model(x), model(x))
        a, b = (model(x, generator=torch.Generator().manual_seed(1)) for _ in range(2))
        assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- parts


def test_encoders_have_four_hidden_layers_and_the_decoder_two():
    model = head()
    layers = {name: [m for m in model.networks[name].modules() if isinstance(m, nn.Linear)] for name in (Q_M, Q_Z, DECODER)}
    assert {name: len(found) for name, found in layers.items()} == {Q_M: 4, Q_Z: 4, DECODER: 2}  # behind the first
    assert layers[Q_M][-1].out_features == 2 * MANIPULATION
    assert layers[Q_Z][-1].out_features == 2 * CODE
    assert layers[DECODER][-1].out_features == PIXELS + FEATURES
    assert model.networks[DECODER].mlp.first.sizes == {"y": CLASSES, "z": CODE, "m": MANIPULATION}
    assert str(model.model) == "p(z) p(m) p(y) p(x1,x2|y,z,m)"
    assert str(model.guide) == f"{Q_M} {Q_Z}"


def test_cama_has_a_trunk_of_its_own_in_each_guide():
    model = cama()
    trunks = [m for m in model.modules() if isinstance(m, ConvTrunk)]
    assert len(trunks) == 2
    assert not torch.equal(trunks[0].dense.weight, trunks[1].dense.weight)
    assert not model.deterministic


@pytest.mark.parametrize(("name", "layers"), [("gbz", 2), ("dbx", 1)])
def test_the_label_is_read_off_the_code_by_so_many_hidden_layers(name, layers):
    found = [m for m in on_features(name).networks["p(y|z)"].modules() if isinstance(m, nn.Linear)]
    assert len(found) == layers


def test_what_lies_outside_the_data_can_be_drawn():
    drawn = head().sample(5, generator=torch.Generator().manual_seed(0))
    assert {name: value.shape[1:] for name, value in drawn.items()} == {
        "z": (CODE,),
        "m": (MANIPULATION,),
        "y": (),
        "x1": (PIXELS,),
        "x2": (FEATURES,),
    }
    assert 0 <= drawn["x1"].min() <= drawn["x1"].max() <= 1
    assert on_features("gby").sample(5)["x2"].shape == (5, FEATURES)
    with pytest.raises(ValueError, match="cannot sample"):
        on_features("dbx").sample(5)


@pytest.mark.parametrize("mode", [None, True, False])
def test_a_head_can_be_copied_whole(mode):
    """A deep copy scores as the head does: its tap is as frozen as the one it was copied from."""
    deep = FeatureTap(Vgg(16, (3, 8, 8), CLASSES, 1 / 32), "conv4")
    model = causal_head(deep, (3, 8, 8), CLASSES, hidden=8, code=2, manipulation=2, samples=2).eval()
    twin, x = copy.deepcopy(model), torch.rand(3, 3, 8, 8)
    if mode is not None:
        twin.train(mode)
    with torch.no_grad(), frozen_noise(model), frozen_noise(twin):
        torch.testing.assert_close(twin(x), model(x))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hybrid-deep@code=16,pressure=4", (0.0, 4, {"m": 0})),
        ("gbz-conv9", (0.5, 1.0, None)),
        ("gby-conv9", (0.0, 1.0, None)),
        ("cama@training_m=sampled", (0.0, 1.0, None)),
    ],
)
def test_what_the_bound_is_told(monkeypatch, name, told):
    heard = []
    monkeypatch.setattr(hybrid_recipes, "negative_elbo", lambda *a: heard.append(a))
    recipe, changes = recipe_of(name)
    hybrid_recipes._objective({**RECIPES[recipe].settings["quick"], **changes})
    assert heard == [told]
