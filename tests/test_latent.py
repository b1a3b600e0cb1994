"""Scores of latent-variable classifiers: against loops, closed forms and finite differences."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from hybridgen_lib import recipes
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.models import latent
from hybridgen_lib.models.factorization import DEEP_BAYES
from hybridgen_lib.models.latent import LatentVariableClassifier
from hybridgen_lib.models.networks import (
    CategoricalFactor,
    ConvTrunk,
    GaussianFactor,
    ImageFactor,
    StandardNormal,
    SumOfLinears,
    UniformClasses,
    VectorFactor,
)
from hybridgen_lib.models.pixels import DEEP_BAYES_SIGMA, PixelNormal

SHAPE, CLASSES, CODE = (1, 12, 10), 4, 5
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def small(name, samples=3, seed=0):
    return recipes.build(name, SHAPE, CLASSES, seed=seed, samples=samples, width=4, hidden=16, code=CODE)


def images(count=6, seed=0, dtype=torch.float32):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def loop_scores(model, x, noise):
    """One image, one class, one sample at a time."""
    scores = torch.zeros(len(x), CLASSES, dtype=x.dtype)
    for b in range(len(x)):
        for c in range(CLASSES):
            y, weights = torch.eye(CLASSES, dtype=x.dtype)[c : c + 1], []
            for eps in noise:
                q = model.networks["q(z|x,y)"](x=x[b : b + 1], y=y)
                values = {"x": x[b : b + 1], "y": y, "z": q.base_dist.loc + q.base_dist.scale * eps}
                weight = -q.log_prob(values["z"])
                for factor in map(str, model.model.factors):
                    if factor != "p(x)":
                        parents = {name: values[name] for name in model.model.parents(factor[2])}
                        weight = weight + model.networks[factor](**parents).log_prob(values[factor[2]])
                weights.append(weight)
            scores[b, c] = torch.logsumexp(torch.stack(weights), 0) - math.log(len(noise))
    return scores


@pytest.mark.parametrize("name", DEEP_BAYES)
def test_batched_scores_equal_the_loop(name):
    model, x = small(name).double(), images(dtype=torch.float64)
    with torch.no_grad(), frozen_noise(model, 7):
        batched, looped = model(x), loop_scores(model, x, model.noise(3, 1, CODE, x))
        none = model(x[:0])
    assert none.shape == (0, CLASSES)
    torch.testing.assert_close(batched, looped)


@pytest.mark.parametrize(
    "classes", [torch.zeros(3, 2).long(), torch.zeros(6, 0).long(), torch.zeros(6).long(), torch.zeros(6, 1)]
)
def test_classes_that_are_none_are_named(classes):
    with pytest.raises(ValueError, match="classes"):
        small("gfz").class_scores(images(), classes)


def test_whole_numbers_may_be_floats():
    model = small("gfz").do(y=2.0)
    assert (model.sample(3)["y"] == 2).all()
    assert small("gfz").with_samples(2.0)(images()).shape == (6, CLASSES)


@pytest.mark.parametrize("name", DEEP_BAYES)
@pytest.mark.parametrize("size", [1, 5, 17])
def test_passes_change_nothing(name, size, monkeypatch):
    """Cut by images, classes and samples, kept or computed again: the same scores and the same gradient."""
    model, x = small(name).double(), images(dtype=torch.float64)

    def scores_and_gradient():
        x.requires_grad_(True)
        with frozen_noise(model, 1):
            scores = model(x)
        return scores.detach(), torch.autograd.grad(scores[:, 1].sum(), x)[0]

    whole = scores_and_gradient()
    monkeypatch.setattr(latent, "CPU_PASS", size)
    monkeypatch.setattr(latent, "MEMORY_SIZE", 0)
    torch.testing.assert_close(scores_and_gradient(), whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", DEEP_BAYES)
def test_the_gradient_is_that_of_the_score(name):
    model, x = small(name).double(), images(1, dtype=torch.float64)
    with frozen_noise(model, 2):
        assert torch.autograd.gradcheck(model, x.clamp(0.1, 0.9).requires_grad_(True), fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("name", DEEP_BAYES)
def test_chosen_classes_score_as_among_all(name):
    model, x = small(name), images()
    classes = torch.tensor([[0, 3], [1, 2], [3, 3], [2, 0], [1, 0], [0, 1]])
    with torch.no_grad(), frozen_noise(model):
        torch.testing.assert_close(model.class_scores(x, classes), model(x).gather(1, classes), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_a_class_out_of_range_is_named(wrong):
    with pytest.raises(ValueError, match=r"classes must be in 0\.\.3"):
        small("dfx").class_scores(images(1), torch.tensor([[0, wrong]]))


def test_frozen_scores_do_not_depend_on_the_batch():
    model, x = small("gfz").double(), images(dtype=torch.float64)
    with torch.no_grad(), frozen_noise(model):
        torch.testing.assert_close(torch.cat([model(x[:1]), model(x[1:])]), model(x))


def test_fresh_scores_differ_and_do_not_touch_the_global_source():
    model, x, before = small("gbz"), images(), torch.get_rng_state()
    with torch.no_grad():
        assert not torch.equal(model(x), model(x))
        a = model(x, generator=torch.Generator().manual_seed(1))
        assert torch.equal(a, model(x, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_two_latent_variables_have_noise_of_their_own_and_score_as_the_sum_says():
    """p(z) p(m) p(y) p(x|z,m,y) with the guide q(m|x,y) q(z|x,y,m): one image and one class, written out."""
    trunk = {"image_shape": SHAPE, "width": 2, "hidden": 8}
    networks = {
        "p(z)": StandardNormal(3),
        "p(m)": StandardNormal(3),
        "p(y)": UniformClasses(CLASSES),
        "p(x|z,m,y)": ImageFactor({"z": 3, "m": 3, "y": CLASSES}, **trunk),
        "q(m|x,y)": GaussianFactor({"x": 8, "y": CLASSES}, [8], 3, ConvTrunk(**trunk)),
        "q(z|x,y,m)": GaussianFactor({"x": 8, "y": CLASSES, "m": 3}, [8], 3, ConvTrunk(**trunk)),
    }
    model = LatentVariableClassifier(
        "p(z) p(m) p(y) p(x|z,m,y)", "q(m|x,y) q(z|x,y,m)", networks, classes=CLASSES, samples=2
    ).double()
    x, y = images(1, dtype=torch.float64), torch.eye(CLASSES, dtype=torch.float64)[1:2]
    with torch.no_grad(), frozen_noise(model, 5):
        noise = model._noise(x, 2, None)
        assert not torch.equal(noise["z"], noise["m"])
        weights = []
        for k in range(2):
            q_m = networks["q(m|x,y)"](x=x, y=y)
            m = q_m.base_dist.loc + q_m.base_dist.scale * noise["m"][k]
            q_z = networks["q(z|x,y,m)"](x=x, y=y, m=m)
            z = q_z.base_dist.loc + q_z.base_dist.scale * noise["z"][k]
            prior = Normal(0.0, 1.0).log_prob(torch.cat([z, m], 1)).sum(1) - math.log(CLASSES)
            picture = networks["p(x|z,m,y)"](z=z, m=m, y=y).log_prob(x)
            weights.append(prior + picture - q_m.log_prob(m) - q_z.log_prob(z))
        expected = torch.logsumexp(torch.stack(weights), 0) - math.log(2)
        torch.testing.assert_close(model(x)[:, 1], expected)


# ---------------------------------------------------------------- a model whose answer is known


class LinearPicture(nn.Module):
    """p(x|z,y) = Normal(W z + b_y, sigma), as an image of 1 x 1 x D pixels."""

    def __init__(self, weight, shifts, sigma):
        super().__init__()
        self.weight, self.shifts, self.sigma = weight, shifts, sigma

    def forward(self, z, y):
        return PixelNormal((z @ self.weight.T + y @ self.shifts)[..., None, None, :], self.sigma)


class WideGuess(nn.Module):
    """q(z|x,y): a fixed Normal, wider than the posterior everywhere."""

    dims = 2

    def forward(self, x, y):
        mean = torch.zeros(*torch.broadcast_shapes(x.shape[:-3], y.shape[:-1]), 2, dtype=x.dtype)
        return Independent(Normal(mean, 1.2 * torch.ones_like(mean)), 1)


def test_linear_gaussian_scores_converge_to_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    shifts = torch.randn(CLASSES, 3, generator=generator, dtype=torch.float64)
    sigma = 0.7
    x = torch.rand(5, 1, 1, 3, generator=generator, dtype=torch.float64)
    marginal = MultivariateNormal(shifts, weight @ weight.T + sigma**2 * torch.eye(3, dtype=torch.float64))
    exact = marginal.log_prob(x.flatten(1)[:, None]) - math.log(CLASSES)
    errors = []
    for samples in (10, 1_000, 100_000):
        networks = {
            "p(z)": StandardNormal(2).double(),
            "p(y)": UniformClasses(CLASSES).double(),
            "p(x|z,y)": LinearPicture(weight, shifts, sigma),
            "q(z|x,y)": WideGuess(),
        }
        model = LatentVariableClassifier("p(z) p(y) p(x|z,y)", "q(z|x,y)", networks, classes=CLASSES, samples=samples)
        errors.append((model(x) - exact).abs().max().item())
    assert errors[2] < 0.05
    assert errors[2] < errors[1] < errors[0]


def test_the_elbo_lies_below_the_evidence_and_meets_it_at_the_posterior():
    """With the exact posterior as the guide one sample of the ELBO is the log evidence, whatever the noise."""

    class Posterior(nn.Module):
        dims = 1

        def forward(self, x, y):  # x = z + b_y + noise of variance 1/2, z ~ N(0, 1)
            mean = (x.flatten(-3) - (y @ shifts)) * 2 / 3
            return Independent(Normal(mean, math.sqrt(1 / 3) * torch.ones_like(mean)), 1)

    shifts = torch.tensor([[0.0], [0.4], [1.0], [-1.0]], dtype=torch.float64)
    x, y = torch.rand(6, 1, 1, 1, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    factors = {"p(z)": StandardNormal(1).double(), "p(y)": UniformClasses(CLASSES).double()}
    picture = LinearPicture(torch.ones(1, 1, dtype=torch.float64), shifts, DEEP_BAYES_SIGMA)
    evidence = Normal(shifts[y, 0], math.sqrt(1.5)).log_prob(x.flatten()) - math.log(CLASSES)

    exact = LatentVariableClassifier(
        "p(z) p(y) p(x|z,y)", "q(z|x,y)", {**factors, "p(x|z,y)": picture, "q(z|x,y)": Posterior()}, classes=CLASSES
    )
    torch.testing.assert_close(exact.elbo(x, y), evidence)

    class Rough(WideGuess):
        dims = 1

        def forward(self, x, y):
            return Independent(Normal(torch.zeros_like(x.flatten(-3)), torch.ones_like(x.flatten(-3))), 1)

    rough = LatentVariableClassifier(
        "p(z) p(y) p(x|z,y)", "q(z|x,y)", {**factors, "p(x|z,y)": picture, "q(z|x,y)": Rough()}, classes=CLASSES
    )
    mean = torch.stack([rough.elbo(x, y) for _ in range(4000)]).mean(0)
    assert (mean < evidence - 0.01).all()


@pytest.mark.parametrize("name", DEEP_BAYES)
def test_beta_weighs_just_the_latent_terms(name):
    model, x, y = small(name), images(), LABELS

    def elbo(beta):
        return model.elbo(x, y, generator=torch.Generator().manual_seed(0), beta=beta)

    with torch.no_grad():
        torch.testing.assert_close(elbo(0.5), (elbo(0.0) + elbo(1.0)) / 2, rtol=1e-5, atol=1e-3)
        assert not torch.allclose(elbo(0.0), elbo(1.0))


# ---------------------------------------------------------------- drawing, kinds, errors


@pytest.mark.parametrize("name", DEEP_BAYES)
def test_generative_formulas_draw_and_the_others_say_why_not(name):
    model = small(name)
    if name in ("dfx", "dbx"):
        assert model.score_kind == "log_conditional"
        with pytest.raises(ValueError, match="cannot sample"):
            model.sample(2)
        return
    assert model.score_kind == "log_joint"
    drawn = model.sample(7, generator=torch.Generator().manual_seed(0))
    assert drawn["x"].shape == (7, *SHAPE)
    assert drawn["y"].shape == (7,)
    assert drawn["z"].shape == (7, CODE)
    assert 0 <= drawn["x"].min() <= drawn["x"].max() <= 1
    with pytest.raises(ValueError, match="count"):
        model.sample(0)
    assert torch.equal(drawn["x"], model.sample(7, generator=torch.Generator().manual_seed(0))["x"])


def test_log_conditional_scores_of_dfx_are_at_most_slightly_above_zero():
    """log p(y|x) <= 0; the estimate may exceed it by its noise, which many samples shrink."""
    model = small("dfx", samples=2000)
    with torch.no_grad():
        total = model(images()).logsumexp(1)
    assert total.abs().max() < 0.3


def test_pixel_normal_is_the_density_it_says():
    mean, x = torch.rand(2, 3, *SHAPE, dtype=torch.float64), torch.rand(3, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(PixelNormal(mean, 0.3).log_prob(x), Independent(Normal(mean, 0.3), 3).log_prob(x))


def test_a_sum_of_linears_is_a_linear_of_the_concatenation():
    layer = SumOfLinears({"a": 3, "b": 2}, 4)
    a, b = torch.randn(5, 1, 3), torch.randn(1, 6, 2)
    both = torch.cat([a.expand(5, 6, 3), b.expand(5, 6, 2)], -1)
    torch.testing.assert_close(layer({"a": a, "b": b}), nn.functional.linear(both, layer.weight, layer.bias))


# ---------------------------------------------------------------- interventions


def causal(samples=3):
    """p(z) p(m) p(y|z) p(x|y,z,m): two causes, one of which makes the label too."""
    trunk = {"image_shape": SHAPE, "width": 2, "hidden": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {
            "p(z)": StandardNormal(3),
            "p(m)": StandardNormal(2),
            "p(y|z)": CategoricalFactor({"z": 3}, [8], CLASSES),
            "p(x|y,z,m)": ImageFactor({"y": CLASSES, "z": 3, "m": 2}, **trunk),
            "q(m|x)": GaussianFactor({"x": 8}, [8], 2, ConvTrunk(**trunk)),
            "q(z|x,y,m)": GaussianFactor({"x": 8, "y": CLASSES, "m": 2}, [8], 3, ConvTrunk(**trunk)),
        }
    formula, guide = "p(z) p(m) p(y|z) p(x|y,z,m)", "q(m|x) q(z|x,y,m)"
    return LatentVariableClassifier(formula, guide, networks, classes=CLASSES, samples=samples)


def drawn_from(model, count=40, seed=0):
    return model.sample(count, generator=torch.Generator().manual_seed(seed))


def test_an_intervention_is_another_classifier_on_the_same_networks():
    model, x = causal(), images()
    with torch.no_grad(), frozen_noise(model, 2):
        before, twin = model(x), model.do(m=0.5)
        assert twin is not model
        assert isinstance(twin, LatentVariableClassifier)
        assert not torch.allclose(twin(x), before)
        assert torch.equal(model(x), before)
        assert model.interventions == {}
        assert twin.interventions == {"m": 0.5}
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert drawn_from(model)["m"].std() > 0.5


def test_interventions_add_up_the_last_word_counts_and_none_changes_nothing():
    model, x = causal(), images()
    with torch.no_grad(), frozen_noise(model, 2):
        once, twice, again = model.do(m=0.5, z=1), model.do(m=0.5).do(z=1), model.do(m=3, z=1).do(m=0.5)
        assert torch.equal(once(x), twice(x))
        assert torch.equal(once(x), again(x))
        assert torch.equal(model.do()(x), model(x))
        assert torch.equal(model.do(m=0.5)(x), model.do(m=torch.full((2,), 0.5))(x))
        assert not torch.allclose(model.do(m=torch.tensor([0.5, -0.5]))(x), model.do(m=0.5)(x))


def test_an_intervention_keeps_frozen_noise_and_goes_with_another_number_of_samples():
    model, x = causal(), images()
    with torch.no_grad(), frozen_noise(model, 2):
        a, b = model.do(m=0).with_samples(5), model.with_samples(5).do(m=0)
        assert (a.samples, model.samples) == (5, 3)
        assert torch.equal(a(x), b(x))
        assert torch.equal(a(x), a(x))
        torch.testing.assert_close(torch.cat([a(x[:2]), a(x[2:])]), a(x), rtol=1e-4, atol=1e-3)
        assert a.interventions == {"m": 0}
        assert not torch.allclose(a(x), model.do(m=0)(x))
    with torch.no_grad():
        twin = model.do(m=0)
        assert not torch.equal(twin(x), twin(x))
        with frozen_noise(twin, 2):
            assert torch.equal(twin(x), twin(x))


def test_z_is_drawn_with_the_noise_it_would_have_without_the_intervention():
    """Common random numbers: at the mean of q(m|x) with no spread, do(m) and the draw of m are the same model."""
    model, x = causal(), images(1)
    with torch.no_grad():
        last = model.networks["q(m|x)"].mlp.rest[-1]
        last.weight[2:] = 0
        last.bias[2:] = -50  # log sigma
        mean = model.networks["q(m|x)"](x=x).mean[0]
        noise = {name: eps[0] for name, eps in model._noise(x, 1, torch.Generator().manual_seed(1)).items()}
        values, log_q = model.infer(model.observe(x), torch.eye(CLASSES)[:1], noise)
        set_values, set_log_q = model.do(m=mean).infer(model.observe(x), torch.eye(CLASSES)[:1], noise)
    torch.testing.assert_close(values["z"], set_values["z"])
    torch.testing.assert_close(log_q["q(z|x,y,m)"], set_log_q["q(z|x,y,m)"])
    assert set(set_log_q) == {"q(z|x,y,m)"}


def test_what_made_the_variable_drops_out():
    model, x = causal(), images(1)
    noise = {"m": torch.zeros(1, 2), "z": torch.zeros(1, 3)}
    y, seen = torch.eye(CLASSES)[1:2], model.observe(x)
    with torch.no_grad():
        free, do_m, do_z = (
            [set(part) for part in each.log_terms(seen, y, noise)] for each in (model, model.do(m=0), model.do(z=0))
        )
    assert free == [{"p(z)", "p(m)", "p(y|z)", "p(x|y,z,m)"}, {"q(m|x)", "q(z|x,y,m)"}]
    assert do_m == [{"p(z)", "p(y|z)", "p(x|y,z,m)"}, {"q(z|x,y,m)"}]
    assert do_z == [{"p(m)", "p(y|z)", "p(x|y,z,m)"}, {"q(m|x)"}]


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("size", [1, 3, 300])
def test_with_every_cause_set_the_score_is_the_likelihood(samples, size, monkeypatch):
    """Nothing is left to be drawn: log p(y|z) + log p(x|y,z,m), for any number of samples and size of a pass."""
    monkeypatch.setattr(latent, "CPU_PASS", size)
    model, x = causal(samples).double(), images(dtype=torch.float64)
    m, z, y = torch.tensor([0.4, -1.0]).double(), torch.tensor([0.1, 0.2, -0.3]).double(), torch.eye(CLASSES).double()
    with torch.no_grad():
        pictures = model.networks["p(x|y,z,m)"](y=y, z=z.expand(CLASSES, -1), m=m.expand(CLASSES, -1))
        expected = pictures.log_prob(x[:, None]) + model.networks["p(y|z)"](z=z).logits.log_softmax(0)
        torch.testing.assert_close(model.do(m=m, z=z)(x), expected)
        torch.testing.assert_close(model.do(m=m, z=z).elbo(x, LABELS), expected[range(6), LABELS])


@pytest.mark.parametrize("name", DEEP_BAYES)
def test_with_its_code_set_every_classifier_has_a_score_for_every_image(name):
    model, x = small(name), images()
    with torch.no_grad():
        assert model.do(z=0.3)(x).shape == (6, CLASSES)


def test_a_draw_under_an_intervention_uses_its_values():
    model = causal()
    z, m = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([3.0, -3.0])
    drawn = drawn_from(model.do(y=3, z=z, m=m))
    assert drawn["y"].tolist() == [3] * 40
    assert torch.equal(drawn["z"], z.expand(40, 3))
    assert torch.equal(drawn["m"], m.expand(40, 2))
    with torch.no_grad():
        picture = model.networks["p(x|y,z,m)"](y=torch.eye(CLASSES)[3:], z=z[None], m=m[None]).mean
    torch.testing.assert_close(drawn["x"], picture.expand_as(drawn["x"]))
    number = drawn_from(model.do(m=2))
    assert torch.equal(number["m"], torch.full((40, 2), 2.0))
    assert len(number["y"].unique()) > 1


@pytest.mark.parametrize("label", range(CLASSES))
def test_a_class_that_is_set_leaves_its_causes_alone_and_reaches_its_effects(label):
    above, below = causal(), small("gfy")
    free, forced = drawn_from(above), drawn_from(above.do(y=label))
    assert torch.equal(free["z"], forced["z"])
    assert forced["y"].tolist() == [label] * 40
    with torch.no_grad():
        y = torch.eye(CLASSES)[forced["y"]]
        torch.testing.assert_close(forced["x"], above.networks["p(x|y,z,m)"](y=y, z=forced["z"], m=forced["m"]).mean)
        below.networks["p(z|y)"].mlp.first.weight.mul_(30)
        mean = below.networks["p(z|y)"](y=torch.eye(CLASSES)[label]).mean
        spread = below.networks["p(z|y)"](y=torch.eye(CLASSES)[label]).stddev
    z = drawn_from(below.do(y=label), 4000)["z"]
    assert ((z.mean(0) - mean).abs() < 5 * spread / math.sqrt(4000)).all()


def test_a_cause_that_is_set_makes_the_label():
    model, z = causal(), torch.tensor([3.0, -3.0, 3.0])
    with torch.no_grad():
        chances = model.networks["p(y|z)"](z=z).logits.softmax(0)
    found = torch.bincount(drawn_from(model.do(z=z), 4000)["y"], minlength=CLASSES) / 4000
    assert ((found - chances).abs() < 5 * (chances * (1 - chances) / 4000).sqrt() + 1e-3).all()


@pytest.mark.parametrize("name", ["x", "w", "M", "eps"])
def test_what_cannot_be_set_is_named(name):
    with pytest.raises(ValueError, match=f"^variable must be one of m, z, y; got '{name}'"):
        causal().do(**{"m": 0, name: 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("y", -1),
        ("y", CLASSES),
        ("y", 1.5),
        ("y", "cat"),
        ("m", "zero"),
        ("m", None),
        ("m", float("nan")),
        ("m", torch.zeros(7)),
    ],
)
def test_a_value_that_cannot_be_is_named(name, value):
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        causal().do(**{name: value})


def test_a_value_may_have_another_floating_type():
    model, x = causal(), images()
    with torch.no_grad(), frozen_noise(model):
        torch.testing.assert_close(model.do(m=torch.ones(2, dtype=torch.float64))(x), model.do(m=1)(x))
        torch.testing.assert_close(model.do(m=torch.ones(2, dtype=torch.int64))(x), model.do(m=1)(x))


def test_scores_under_a_class_that_is_set_are_refused():
    """A class can be set for a draw alone: all classes are scored, whichever is set."""
    with pytest.raises(ValueError, match=r"\by\b"):
        causal().do(y=1)(images())


# ---------------------------------------------------------------- several observed variables


class Brightness(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def two_views(formula, factors, samples=2):
    """An image x, and its brightness x2, in a formula over a code of two dimensions."""
    trunk = {"image_shape": SHAPE, "width": 2, "hidden": 8}
    guide = "q(z|x,x2,y)"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {
            "p(z)": StandardNormal(2),
            "p(y)": UniformClasses(CLASSES),
            "p(x|z,y)": ImageFactor({"z": 2, "y": CLASSES}, **trunk),
            "p(x2|z,y)": VectorFactor({"z": 2, "y": CLASSES}, [4], 1, sigma=0.1),
            "p(z|x2)": GaussianFactor({"x2": 1}, [4], 2),
            guide: GaussianFactor({"x": 8, "x2": 1, "y": CLASSES}, [8], 2, ConvTrunk(**trunk)),
        }
    networks = {factor: networks[factor] for factor in [*factors, guide]}
    return LatentVariableClassifier(
        formula, guide, networks, deterministic={"x2": Brightness()}, classes=CLASSES, samples=samples
    )


def test_an_observed_variable_is_the_image_or_what_is_computed_from_it():
    factors = ["p(z)", "p(y)", "p(x|z,y)", "p(x2|z,y)"]
    model, x = two_views(" ".join(factors), factors), images()
    seen = model.observe(x)
    assert model.observed == ("x", "x2")
    assert seen["x"] is x
    assert torch.equal(seen["x2"], x.mean((2, 3)))
    assert model.score_kind == "log_joint"
    drawn = drawn_from(model, 3)
    assert (drawn["x"].shape, drawn["x2"].shape) == ((3, *SHAPE), (3, 1))
    with torch.no_grad(), frozen_noise(model):
        assert model(x).shape == (6, CLASSES)


def test_one_view_may_be_given_and_the_other_made():
    factors = ["p(z|x2)", "p(y)", "p(x|z,y)"]
    model, x = two_views("p(x2) p(z|x2) p(y) p(x|z,y)", factors), images()
    assert model.score_kind == "log_conditional"
    noise = {"z": torch.zeros(1, 1, 2)}
    with torch.no_grad():
        log_p, _ = model.log_terms(model.observe(x[:1]), torch.eye(CLASSES)[:1], {"z": noise["z"][0]})
        assert set(log_p) == set(factors)
        assert model(x).shape == (6, CLASSES)
    with pytest.raises(ValueError, match="cannot sample"):
        model.sample(1)


def test_beta_weighs_the_latent_terms_whatever_the_densities_are_called():
    good, x, y = small("gfz"), images(), LABELS
    renamed = {name.replace("p(", "P("): network for name, network in good.networks.items()}
    other = LatentVariableClassifier("P(z) P(y|z) P(x|z,y)", "q(z|x,y)", renamed, classes=CLASSES, samples=3)
    with torch.no_grad():
        for beta in (1.0, 0.0, 0.3):
            a, b = (model.elbo(x, y, generator=torch.Generator().manual_seed(0), beta=beta) for model in (good, other))
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "p(z) p(x|z)"}, "must have a factor for 'y'"),
        ({"model": "p(z) p(y|z)"}, "must have a factor for 'x'"),
        ({"guide": "q(w|x,y)"}, "one factor for each latent variable"),
        ({"networks": {}}, "missing"),
        ({"model": "p(z,m) p(y) p(x|z,m,y)"}, "must make one variable"),
        ({"model": "p(z) p(y,x|z)"}, "must make one variable"),
        ({"deterministic": {"z": nn.Flatten()}}, r"deterministic must name observed variables, x; got \['z'\]"),
        ({"deterministic": {"x2": nn.Flatten()}}, "deterministic must name observed variables"),
        ({"classes": 1}, "classes"),
        ({"samples": 0}, "samples"),
    ],
)
def test_parts_that_do_not_fit_are_named(changes, words):
    good = small("gfz")
    arguments = {"model": DEEP_BAYES["gfz"], "guide": "q(z|x,y)", "networks": dict(good.networks), "classes": 4, "samples": 2}
    arguments |= changes
    model, guide, networks = (arguments.pop(key) for key in ("model", "guide", "networks"))
    with pytest.raises(ValueError, match=words):
        LatentVariableClassifier(model, guide, networks, **arguments)


def test_images_of_any_size_decode_to_their_size():
    for height in (8, 13, 28, 32):
        model = recipes.build("gby", (3, height, height + 1), 3, samples=2, width=2, hidden=8, code=2)
        assert model(torch.rand(2, 3, height, height + 1)).shape == (2, 3)
