"""Counterfactual images: exact on linear models and a drawer made by hand, inside [0, 1], and what they promise elsewhere."""

import pytest
import torch
from fixtures_models import Detached, Noisy, images, small_cnn
from torch import nn
from torch.distributions import Independent, Normal

from hybridgen_lib import recipes
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.explain.counterfactual import decode, latent_counterfactual, nearest_counterfactual, sparse_counterfactual
from hybridgen_lib.models.latent import LatentVariableClassifier
from hybridgen_lib.models.networks import StandardNormal, UniformClasses


class Linear(nn.Module):
    """Scores W x + b of the pixels, one row of ``weights`` (C, D) a class."""

    def __init__(self, weights, bias):
        super().__init__()
        self.weights, self.bias = nn.Parameter(weights), nn.Parameter(bias)

    def forward(self, x):
        return x.flatten(1) @ self.weights.T + self.bias


def linear(classes=3, channels=1, side=6, seed=0):
    """A linear model and 8 images round mid grey whose scores lie near each other."""
    generator = torch.Generator().manual_seed(seed)
    pixels = channels * side * side
    weights = torch.randn(classes, pixels, generator=generator)
    x = 0.5 + 0.1 * (2 * torch.rand(8, channels, side, side, generator=generator) - 1)
    return Linear(weights, -weights.sum(1) / 2), x


# ---------------------------------------------------------------- the nearest


@pytest.mark.parametrize("aimed", [False, True])
def test_the_nearest_image_of_a_linear_model_is_the_foot_on_the_nearest_plane(aimed):
    model, x = linear()
    scores = model(x).detach()
    own = scores.argmax(1)
    target = (own + 1) % 3 if aimed else None
    gaps = scores.gather(1, own[:, None]) - scores
    normals = (model.weights[own][:, None] - model.weights[None]).detach()
    away = (gaps / normals.norm(dim=2).clamp_min(1e-9)).scatter(1, own[:, None], torch.inf)
    if aimed and (away.argmin(1) != target).any():  # on the way another class may lead: not then a matter of one plane
        keep = away.argmin(1) == target
        x, own, target, away, normals = x[keep], own[keep], target[keep], away[keep], normals[keep]
        assert len(x) >= 2
    found = nearest_counterfactual(model, x, target)
    assert found.found.all()
    torch.testing.assert_close(found.distance, away.amin(1), rtol=0.03, atol=2e-3)
    to = away.argmin(1)
    foot = x - (away.amin(1) / normals[range(len(x)), to].norm(dim=1))[:, None, None, None] * normals[
        range(len(x)), to
    ].view_as(x)
    assert (found.images - foot).flatten(1).norm(dim=1).max() < 0.05


# ---------------------------------------------------------------- the sparsest


def fewest(model, x, own, other):
    """The least number of pixels that closes a linear two-class gap: the largest gains first."""
    normal = (model.weights[other] - model.weights[own]).detach().view_as(x)
    gains = (normal * ((normal > 0).float() - x)).sum(0).flatten().sort(descending=True).values
    gap = ((model.weights[own] - model.weights[other]) @ x.flatten() + model.bias[own] - model.bias[other]).item()
    return int((gains.cumsum(0) <= gap).sum()) + 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("at_once", [1, 5])
def test_no_fewer_pixels_would_do_on_a_linear_model(channels, at_once):
    model, x = linear(2, channels)
    own = model(x).argmax(1)
    found = sparse_counterfactual(model, x, at_once=at_once)
    assert found.found.all()
    assert torch.equal(model(found.images).argmax(1), 1 - own)
    assert found.distance.tolist() == [fewest(model, one, c, 1 - c) for one, c in zip(x, own.tolist(), strict=True)]
    changed = found.images != x
    assert set(found.images[changed].unique().tolist()) == {0.0, 1.0}


def test_every_pixel_that_is_left_is_needed():
    model, (x, _) = small_cnn(), images(6)
    found = sparse_counterfactual(model, x)
    assert found.found.all()
    own = model(x).argmax(1)
    for k in range(len(x)):
        changed = (found.images[k] != x[k]).any(0).nonzero().tolist()
        assert len(changed) == found.distance[k]
        for row, column in changed:
            without = found.images[k].clone()
            without[:, row, column] = x[k, :, row, column]
            assert model(without[None]).argmax(1) == own[k]


def test_a_target_is_reached_and_a_budget_kept():
    model, (x, _) = small_cnn(), images(6)
    own = model(x).argmax(1)
    target = (own + 3) % 10
    for found in (sparse_counterfactual(model, x, target), nearest_counterfactual(model, x, target, steps=60, searches=5)):
        assert found.found.all()
        assert torch.equal(model(found.images).argmax(1), target)
    anyone = sparse_counterfactual(model, x)
    assert (anyone.distance <= sparse_counterfactual(model, x, target).distance + 5).all()
    few = sparse_counterfactual(model, x, most=2)
    assert (few.distance[few.found] <= 2).all()
    assert not few.found.all()
    lost = ~few.found
    assert torch.equal(few.images[lost], x[lost])
    assert few.distance[lost].isinf().all()


@pytest.mark.parametrize("make", [sparse_counterfactual, nearest_counterfactual])
def test_a_target_that_is_there_already_needs_no_change(make):
    model, (x, _) = small_cnn(), images(4)
    found = make(model, x, model(x).argmax(1))
    assert found.found.all()
    assert torch.equal(found.images, x)
    assert (found.distance == 0).all()


class Flat(nn.Module):
    """The first class always, with a gradient of zeros."""

    def forward(self, x):
        return 0 * x.flatten(1)[:, :3] + torch.tensor([1.0, 0.0, 0.0])


def test_where_no_pixel_helps_nothing_is_found():
    x = images(3)[0]
    for found in (sparse_counterfactual(Flat(), x), nearest_counterfactual(Flat(), x, steps=10, searches=2)):
        assert not found.found.any()
        assert torch.equal(found.images, x)
        assert found.distance.isinf().all()


# ---------------------------------------------------------------- in the code


class Drawer(nn.Module):
    """p(x|...): a Normal around what ``paint`` makes of its inputs."""

    def __init__(self, paint, sigma=0.05):
        super().__init__()
        self.paint, self.sigma = paint, sigma

    def forward(self, **inputs):
        return Independent(Normal(self.paint(**inputs), self.sigma, validate_args=False), 3, validate_args=False)


class Guide(nn.Module):
    """q(z|x,y): the brightness of the left and of the right column, known well."""

    dims = 2

    def forward(self, x, y):
        lead = torch.broadcast_shapes(x.shape[:-3], y.shape[:-1])
        mean = torch.stack([x[..., 0, :, 0].mean(-1), x[..., 0, :, 1].mean(-1)], -1).expand(*lead, 2)
        return Independent(Normal(mean, torch.full_like(mean, 0.01), validate_args=False), 1, validate_args=False)


class ByCode(nn.Module):
    """p(y|z): class 1 where the first number of the code is above one half."""

    def forward(self, z):
        return torch.distributions.OneHotCategorical(logits=torch.stack([0 * z[..., 0], 200 * (z[..., 0] - 0.5)], -1))


def columns(z, y=None):
    """A 2 x 2 image with columns as bright as the code says; with y, its lower row is the class."""
    picture = z[..., None, None, :].expand(*z.shape[:-1], 1, 2, 2)
    if y is None:
        return picture
    lower = y[..., 1, None, None, None].expand(*torch.broadcast_shapes(y.shape[:-1], z.shape[:-1]), 1, 1, 2)
    return torch.cat([picture[..., :1, :].expand(*lower.shape[:-3], 1, 1, 2), lower], -2)


def by_code():
    networks = {"p(z)": StandardNormal(2), "p(y|z)": ByCode(), "p(x|z)": Drawer(columns), "q(z|x,y)": Guide()}
    return LatentVariableClassifier("p(z) p(y|z) p(x|z)", "q(z|x,y)", networks, classes=2, samples=3)


def by_class():
    networks = {"p(z)": StandardNormal(2), "p(y)": UniformClasses(2), "p(x|z,y)": Drawer(columns), "q(z|x,y)": Guide()}
    return LatentVariableClassifier("p(z) p(y) p(x|z,y)", "q(z|x,y)", networks, classes=2, samples=3)


def test_a_code_that_carries_the_class_moves_to_the_border_and_no_further():
    """The class is whether the left column is brighter than 0.5, the first number of the code."""
    x = torch.tensor([[0.3, 0.8], [0.9, 0.2]])[:, None, None].expand(2, 1, 2, 2).contiguous()
    found = latent_counterfactual(by_code(), x, halvings=10)
    assert found.found.all()
    torch.testing.assert_close(found.start, torch.tensor([[0.3, 0.8], [0.9, 0.2]]))
    torch.testing.assert_close(found.reconstruction, x)
    assert found.target.tolist() == [1, 0]
    torch.testing.assert_close(found.distance, torch.tensor([0.2, 0.4]), rtol=0, atol=0.03)
    torch.testing.assert_close(found.images[:, 0, 0, 0], torch.tensor([0.5, 0.5]), rtol=0, atol=0.03)
    torch.testing.assert_close(found.images[:, 0, 0, 1], x[:, 0, 0, 1], rtol=0, atol=0.03)  # the rest stays
    assert torch.equal(decode(by_code(), x, found.code, found.target), found.images)


def test_a_decoder_that_listens_to_y_draws_the_same_code_as_the_other_class():
    x = torch.tensor([[0.3, 0.8], [0.0, 0.0]])[None, None]  # class 0: a dark lower row; the guide sees the columns' means
    model = by_class()
    found = latent_counterfactual(model, x)
    assert found.found.all()
    assert found.distance.tolist() == [0.0]
    assert torch.equal(found.code, found.start)
    torch.testing.assert_close(found.images[0, 0, 1], torch.ones(2))
    torch.testing.assert_close(found.images[0, 0, 0], found.reconstruction[0, 0, 0])


@pytest.mark.parametrize("name", ["gfz", "gfy", "gbz", "gby", "dfz", "cama", "hybrid-shallow"])
def test_what_is_drawn_is_classified_as_the_target(name):
    torch.manual_seed(0)
    sizes = {"hybrid-shallow": {"hidden": 8, "code": 4}, "cama": {"width": 2, "hidden": 8, "code": 4}}
    model = recipes.build(name, (1, 28, 28), 10, **sizes.get(name, {"width": 2, "hidden": 8, "code": 4})).eval()
    x = images(3)[0]
    found = latent_counterfactual(model, x, steps=5, step_size=0.5, halvings=2)
    with torch.no_grad(), frozen_noise(model, 0):
        own, there = model(x).argmax(1), model(found.images).argmax(1)
    assert found.images.shape == found.reconstruction.shape == x.shape
    assert (found.images >= 0).all()
    assert (found.images <= 1).all()
    assert (found.target != own).all()
    assert torch.equal(there == found.target, found.found)
    assert torch.equal(found.distance.isfinite(), found.found)


# ---------------------------------------------------------------- what all three keep

TRIES = {
    "nearest": lambda model, x, **k: nearest_counterfactual(model, x, steps=20, searches=3, **k),
    "sparse": sparse_counterfactual,
}


@pytest.mark.parametrize("name", TRIES)
def test_images_stay_in_range_and_do_not_depend_on_their_company(name):
    model, (x, _) = small_cnn(), images(7)
    together, alone = TRIES[name](model, x), [TRIES[name](model, part) for part in x.split(3)]
    assert (together.images >= 0).all()
    assert (together.images <= 1).all()
    for field in range(3):
        torch.testing.assert_close(together[field], torch.cat([one[field] for one in alone]), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "model", "x"),
    [
        *((make, Noisy(small_cnn(), 0.1), images(2)[0]) for make in TRIES.values()),
        (lambda model, x: latent_counterfactual(model, x, steps=2), by_code(), images(2)[0][:, :, :2, :2]),
    ],
)
def test_nothing_is_left_behind(make, model, x):
    model.train()
    before, state = torch.get_rng_state(), [(p.requires_grad, p.grad) for p in model.parameters()]
    given = x.clone()
    make(model, x)
    assert all(part.training for part in model.modules())
    assert model._frozen_seed is None
    assert [(p.requires_grad, p.grad) for p in model.parameters()] == state
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, given)


def test_a_noisy_model_is_held_to_one_draw_or_to_the_callers():
    model, (x, _) = Noisy(small_cnn(), 0.3), images(4)
    found = sparse_counterfactual(model, x)
    with frozen_noise(model, 5):
        other = sparse_counterfactual(model, x)
    for seed, made in ((0, found), (5, other)):
        with torch.no_grad(), frozen_noise(model, seed):
            assert (model(made.images).argmax(1) != model(x).argmax(1)).all()
    assert not torch.equal(found.images, other.images)


@pytest.mark.parametrize("make", [nearest_counterfactual, sparse_counterfactual])
def test_any_integer_names_a_target(make):
    x = images(3)[0]
    target = (small_cnn()(x).argmax(1) + 1) % 10
    found = [make(small_cnn(), x, target.to(kind)) for kind in (torch.long, torch.uint8, torch.int16)]
    assert torch.equal(found[0].images, found[1].images)
    assert torch.equal(found[0].images, found[2].images)


@pytest.mark.parametrize("make", [nearest_counterfactual, sparse_counterfactual])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "cnn"}, "model must be a torch.nn.Module"),
        ({"x": images(2)[0] * 3}, "x must lie in"),
        ({"x": torch.zeros(2, 28, 28)}, "x must have shape"),
        ({"target": torch.tensor([1])}, "target must hold one label per image"),
        ({"target": torch.tensor([1, 10])}, "target must be in 0..9"),
        ({"model": Detached(small_cnn())}, "must have a gradient|must have a gradient in x"),
    ],
)
def test_bad_input_is_refused(make, change, message):
    with pytest.raises(ValueError, match=message):
        make(**{"model": small_cnn(), "x": images(2)[0], **change})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: nearest_counterfactual(small_cnn(), x, steps=0), "steps must be an integer"),
        (lambda x: nearest_counterfactual(small_cnn(), x, searches=0), "searches must be an integer"),
        (lambda x: sparse_counterfactual(small_cnn(), x, most=0), "most must be an integer"),
        (lambda x: sparse_counterfactual(small_cnn(), x, at_once=0), "at_once must be an integer"),
        (lambda x: latent_counterfactual(small_cnn(), x), "model must be a LatentVariableClassifier with a code z"),
        (lambda x: latent_counterfactual(recipe("dfx"), x), "model must draw images"),
        (lambda x: latent_counterfactual(recipe("gbz-conv9"), x), "model must draw images"),
        (lambda x: latent_counterfactual(by_code(), x[:, :, :2, :2], steps=0), "steps must be an integer"),
        (lambda x: latent_counterfactual(by_code(), x[:, :, :2, :2], step_size=0), "step_size must be a number"),
        (lambda x: latent_counterfactual(by_code(), x[:, :, :2, :2], halvings=-1), "halvings must be an integer"),
        (lambda x: latent_counterfactual(by_code(), x[:, :, :2, :2], torch.tensor([0, 0])), "target must be another class"),
        (lambda x: decode(by_code(), x[:, :, :2, :2], torch.zeros(2, 3), torch.tensor([0, 0])), "code must have shape"),
        (lambda x: decode(by_code(), x[:, :, :2, :2], torch.zeros(2, 2), torch.tensor([0, 2])), "classes must be in 0..1"),
    ],
)
def test_bad_numbers_and_models_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(images(2)[0])


def recipe(name):
    return recipes.build(name, (1, 28, 28), 10, **({"width": 2} if name == "dfx" else {}), hidden=8, code=4).eval()


def test_under_an_intervention_on_another_variable_the_code_moves_and_one_on_z_is_refused():
    model, (x, _) = recipes.build("cama", (1, 28, 28), 10, width=4, hidden=8), images(2)
    found = latent_counterfactual(model.do(m=0.0), x, steps=2)
    assert found.images.shape == x.shape
    assert decode(model.do(m=0.0), x, found.start, torch.tensor([1, 2])).shape == x.shape
    with pytest.raises(ValueError, match="z free"):
        latent_counterfactual(model.do(z=0.0), x)
