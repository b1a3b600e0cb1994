"""Smallest perturbations: known answers, scipy and Foolbox beside ours, and what holds for any model and any image."""

import math
from functools import cache, partial

import foolbox
import numpy as np
import pytest
import torch
from fixtures_models import Noisy, Rounded, images, small_cnn
from foolbox import attacks as rivals
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import nn

from hybridgen_lib.attacks import (
    L2,
    Linf,
    smallest_blur,
    smallest_contrast_binary,
    smallest_contrast_linear,
    smallest_cw,
    smallest_gaussian_noise,
    smallest_uniform_noise,
    within,
)
from hybridgen_lib.attacks.balls import draw
from hybridgen_lib.attacks.smallest import gaussian_blur
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.evaluation import accuracy_curve

quick = settings(max_examples=10, deadline=None)
ATTACKS = {
    "cw": partial(smallest_cw, steps=20, searches=3),
    "uniform_noise": smallest_uniform_noise,
    "gaussian_noise": smallest_gaussian_noise,
    "contrast_linear": smallest_contrast_linear,
    "contrast_binary": smallest_contrast_binary,
    "blur": smallest_blur,
}
NORM = {name: L2(0) if name in ("cw", "gaussian_noise") else Linf(0) for name in ATTACKS}
SEARCHES = [smallest_contrast_linear, smallest_blur]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def predictions(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


class Scores(nn.Module):
    """A model whose scores are a function of the images; it counts what it is shown."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.function, self.shown = function, []
        vars(self).update(attributes)

    def forward(self, x):
        self.shown.append(len(x))
        return self.function(x)


def threshold(quantity, limit):
    """Class 1 where ``quantity`` of an image exceeds ``limit``, class 0 where it does not."""
    return Scores(lambda x: torch.stack([torch.full((len(x),), 1.0 * limit), quantity(x)], 1))


def brightness(x):
    return x.flatten(1).mean(1)


def net(seed=0):
    """A small smooth random classifier in double precision: three classes on 1 x 4 x 4 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, 3))
    return model.double().eval()


def batch(n=12, seed=0):
    x = torch.rand(n, 1, 4, 4, generator=seeded(seed), dtype=torch.float64)
    return x, predictions(net(seed), x)


def assert_sound(name, model, x, y, result):
    """What every result promises, whatever the model: ``model`` must answer as it did to the attack."""
    x_adv, distance, found = result
    assert (x_adv.shape, distance.shape, found.shape, found.dtype) == (x.shape, y.shape, y.shape, torch.bool)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    wrong = predictions(model, x) != y
    assert (predictions(model, x_adv) != y)[found].all()
    assert found[wrong].all()
    assert torch.equal(x_adv[wrong | ~found], x[wrong | ~found])
    assert distance[~found].isinf().all()
    torch.testing.assert_close(distance[found], NORM[name].norm(x_adv - x)[found])
    assert (distance[found & ~wrong] > 0).all()
    assert (distance[wrong] == 0).all()


# ---------------------------------------------------------------- Carlini and Wagner: known answers


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 32, 32)])
def test_cw_finds_the_distance_to_a_plane(shape):
    """Between two linear classes the nearest fooling image is the foot of the perpendicular."""
    weights = torch.randn(shape, generator=seeded())
    normal = weights / weights.norm()
    model = Scores(lambda x: torch.stack([torch.zeros(len(x)), ((x - 0.5) * weights).flatten(1).sum(1)], 1))
    distance = torch.tensor([0.1, 0.2, 0.4, 0.8])
    side, y = torch.tensor([1, -1, 1, -1]), torch.tensor([1, 0, 1, 0])
    noise = 0.05 * torch.randn(4, *shape, generator=seeded(1))
    noise -= (noise * normal).sum((1, 2, 3), keepdim=True) * normal  # along the plane
    result = smallest_cw(model, 0.5 + noise + (side * distance)[:, None, None, None] * normal, y, steps=100)
    assert (result.distance > distance * (1 - 1e-4)).all()
    assert (result.distance < distance * 1.01).all()


def test_cw_moves_black_and_white_pixels():
    """The nearest point of a half space inside the box, on binary images, where tanh is flattest: by bisection of its dual."""
    weights = torch.randn(784, generator=seeded(1))
    x = (torch.rand(4, 784, generator=seeded(2)) < 0.2).float()

    def nearest(limit):
        low, high = torch.zeros(4), torch.full((4,), 1e3)
        for _ in range(60):
            middle = (low + high) / 2
            reached = (x - middle[:, None] * weights).clamp(0, 1) @ weights <= limit
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        return ((x - high[:, None] * weights).clamp(0, 1) - x).norm(dim=1)

    limit = (x @ weights).min() - 15
    exact = nearest(limit)
    assert exact.max() > 1
    model = Scores(lambda x: torch.stack([torch.zeros(len(x)), x.flatten(1) @ weights - limit], 1))
    result = smallest_cw(model, x.view(4, 1, 28, 28), torch.ones(4, dtype=torch.long), steps=100)
    assert (result.distance > exact * (1 - 1e-4)).all()
    assert (result.distance < exact * 1.01).all()


def test_cw_sees_only_differences_of_scores():
    """A constant on all scores changes nothing: log-likelihoods, all negative, fall as logits do."""
    model, (x, y) = small_cnn(), images(12)
    attack = ATTACKS["cw"]

    def double(x):
        return model(x.float()).double()

    precise = attack(Scores(double), x, y)
    assert precise.found.all()
    for shift in (-1000, 1000):
        shifted = attack(Scores(lambda x, shift=shift: double(x) + shift), x, y)
        torch.testing.assert_close(shifted.x_adv, precise.x_adv, atol=1e-4, rtol=0)
        rounded = attack(Scores(lambda x, shift=shift: model(x) + shift), x, y)  # float32 at 1000: 5 digits are left
        assert rounded.found.all()
        assert abs(rounded.distance.mean() / precise.distance.mean() - 1) < 0.02


@pytest.mark.parametrize("factor", [1e-2, 1e3])
def test_cw_finds_its_constant_at_any_scale_of_scores(factor):
    model, (x, y) = small_cnn(), images(12)
    plain, scaled = (smallest_cw(m, x, y, steps=30) for m in (model, Scores(lambda x: factor * model(x))))
    assert scaled.found.all()
    assert scaled.distance.mean() < 1.1 * plain.distance.mean()


def test_cw_reaches_targets():
    model, (x, y) = small_cnn(), images(24)
    target = (y + 3) % 10
    result = smallest_cw(model, x, y, target=target, steps=50, searches=4)
    already = predictions(model, x) == target
    assert result.found.float().mean() > 0.9
    assert (predictions(model, result.x_adv) == target)[result.found].all()
    assert (result.distance[already] == 0).all()
    nearest = ATTACKS["cw"](model, x, y)
    both = result.found & nearest.found
    assert result.distance[both].mean() > nearest.distance[both].mean()


def test_cw_leads_by_its_confidence():
    model, (x, y) = small_cnn(), images(24)
    right = predictions(model, x) == y
    x, y = x[right], y[right]
    result = smallest_cw(model, x, y, confidence=5.0, steps=50, searches=4)
    with torch.no_grad():
        scores = model(result.x_adv)
    lead = scores.scatter(1, y[:, None], -torch.inf).amax(1) - scores.gather(1, y[:, None])[:, 0]
    assert result.found.float().mean() > 0.9
    assert (lead[result.found] > 4.999).all()
    assert lead[result.found].median() < 5.5  # and by no more than it must


def test_cw_is_as_near_as_foolbox_and_succeeds_always():
    model, (x, y) = small_cnn(), images(8)
    ours = smallest_cw(model, x, y, searches=4)
    adversarial, _, success = by_foolbox(rivals.L2CarliniWagnerAttack(binary_search_steps=9, steps=200), model, x, y)
    assert ours.found.all()
    assert success.all()
    assert ours.distance.mean() <= L2(0).norm(adversarial - x).mean()


def test_cw_with_20_steps_and_one_constant():
    """The reading of causalib: it works, and its distances are longer than those of a full search."""
    model, (x, y) = small_cnn(), images(32)
    result = smallest_cw(model, x, y, steps=20, searches=1)
    assert result.found.float().mean() > 0.9
    assert result.distance[result.found].mean() > 1.1 * ATTACKS["cw"](model, x, y).distance[result.found].mean()


def test_cw_leaves_hopeless_images_early_and_the_others_alone():
    plain, (x, y) = net(), batch(8)
    x[4:, 0, 0, 0], y[4:] = 1.0, 0
    always_0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)

    def function(x):  # an image with a white corner is of class 0, whatever else it shows
        return torch.where(x[:, :1, 0, 0] > 0.99, always_0, plain(x))

    attack = partial(smallest_cw, steps=100, searches=5)
    whole, alone = attack(Scores(function), x, y), attack(Scores(function), x[:4], y[:4])
    assert alone.found.sum() >= 3
    assert whole.found.tolist() == [*alone.found.tolist(), False, False, False, False]
    torch.testing.assert_close(whole.x_adv[:4], alone.x_adv, atol=1e-6, rtol=0)
    hopeless = Scores(function)
    attack(hopeless, x[4:], y[4:])
    assert len(hopeless.shown) <= 1 + 5 * 20  # after two tenths of the steps they leave


def test_cw_needs_a_gradient():
    (x, y), plain = images(4), small_cnn()
    with pytest.raises(ValueError, match="model must have a gradient in x"):
        smallest_cw(Scores(lambda x: plain(x).detach()), x, y)
    infinite = Scores(lambda x: torch.stack([(x - x).flatten(1).sum(1).sqrt(), brightness(x)], 1))
    with pytest.raises(ValueError, match="model must have a finite gradient in x"):
        smallest_cw(infinite, x, torch.ones(4, dtype=torch.long))
    rounded = Rounded(plain)  # a gradient that is zero everywhere finds nothing, and says so
    right = predictions(rounded, x) == y
    assert not smallest_cw(rounded, x[right], y[right], steps=20, searches=2).found.any()


# ---------------------------------------------------------------- the others: known answers


def test_contrast_crosses_a_brightness_at_the_exact_share():
    x = torch.tensor([0.9, 0.8, 0.7003, 0.6]).view(4, 1, 1, 1).expand(4, 1, 4, 4).clone()
    model, y = threshold(brightness, 0.7003), torch.ones(4, dtype=torch.long)  # fooled by x + s (1/2 - x) <= 0.7003
    for stride in (1, 7, 20, 5000):
        linear = smallest_contrast_linear(model, x, y, stride=stride)
        torch.testing.assert_close(linear.distance, torch.tensor([0.5 * 0.4, 0.333 * 0.3, 0.0, 0.0]))
    binary = smallest_contrast_binary(model, x, y, steps=20)
    torch.testing.assert_close(binary.distance, torch.tensor([0.9 - 0.7003, 0.8 - 0.7003, 0.0, 0.0]), atol=1e-6, rtol=0)
    assert (binary.distance >= torch.tensor([0.9 - 0.7003, 0.8 - 0.7003, 0.0, 0.0]) - 1e-7).all()
    one = smallest_contrast_linear(model, x, y, steps=1)  # nothing but grey
    torch.testing.assert_close(one.x_adv[:2], torch.full((2, 1, 4, 4), 0.5))


def test_where_grey_does_not_fool_the_binary_search_finds_nothing_and_the_linear_one_a_range():
    x, y = torch.full((1, 1, 4, 4), 0.9), torch.ones(1, dtype=torch.long)
    model = threshold(lambda x: (brightness(x) - 0.7).abs(), 0.0303)  # fooled by shares from 0.42425 to 0.57575
    assert not smallest_contrast_binary(model, x, y).found.any()
    torch.testing.assert_close(smallest_contrast_linear(model, x, y).distance, torch.tensor([0.425 * 0.4]))


def test_a_range_narrower_than_the_stride_is_missed_and_found_with_stride_1():
    x, y = torch.full((1, 1, 4, 4), 0.9), torch.ones(1, dtype=torch.long)
    narrow = threshold(lambda x: torch.minimum((brightness(x) - 0.7).abs() - 0.001, brightness(x) - 0.6), 0.0)
    assert smallest_contrast_linear(narrow, x, y, stride=1).distance.item() == pytest.approx(0.498 * 0.4, abs=1e-5)
    assert smallest_contrast_linear(narrow, x, y, stride=20).distance.item() == pytest.approx(0.498 * 0.4, abs=1e-5)  # by 500
    assert smallest_contrast_linear(narrow, x, y, stride=32).distance.item() == pytest.approx(0.75 * 0.4, abs=1e-5)  # 488, 520


def test_blur_crosses_a_contrast_at_the_same_step_as_scipy():
    x, y = torch.rand(3, 1, 12, 16, generator=seeded(3)), torch.ones(3, dtype=torch.long)
    model = threshold(lambda x: x.flatten(1).std(1), 0.04)
    result = smallest_blur(model, x, y, steps=400)
    for image, blurred in zip(x[:, 0].numpy(), result.x_adv[:, 0], strict=True):
        filtered = (gaussian_filter(image, k / 400 * 16) for k in range(1, 401))
        expected = next(f for f in filtered if np.std(f, ddof=1) <= 0.04)
        torch.testing.assert_close(blurred, torch.from_numpy(expected), atol=1e-5, rtol=0)


@quick
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 30)),
    st.lists(st.floats(0.01, 60), min_size=1, max_size=4),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_gaussian_blur_is_that_of_scipy(shape, sigmas, dtype):
    x = torch.rand(len(sigmas), *shape, generator=seeded(), dtype=dtype)
    blurred = gaussian_blur(x, torch.tensor(sigmas, dtype=torch.float64))
    assert blurred.dtype == dtype
    for image, sigma, ours in zip(x.double().numpy(), sigmas, blurred.double(), strict=True):
        theirs = torch.from_numpy(gaussian_filter(image, (0, sigma, sigma)))
        torch.testing.assert_close(ours, theirs, atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0)


@pytest.mark.parametrize("sigmas", [torch.tensor([1.0]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, math.nan]), 2.0])
def test_gaussian_blur_names_bad_sigmas(sigmas):
    with pytest.raises(ValueError, match="sigmas must"):
        gaussian_blur(torch.rand(2, 1, 4, 4), sigmas)


def test_noise_is_one_draw_an_image_made_larger():
    x, y = torch.full((3, 1, 4, 4), 0.5), torch.ones(3, dtype=torch.long)
    for attack, draws, unit in [
        (smallest_uniform_noise, 2 * draw(torch.rand, x, seeded(7)) - 1, Linf(0)),
        (smallest_gaussian_noise, draw(torch.randn, x, seeded(7)), L2(0)),
    ]:
        noise = draws if unit == Linf(0) else draws / draws.norm(dim=1, keepdim=True)
        limit = 0.205 * noise.abs().amax()  # of the deviation of the most deviant pixel
        model = threshold(lambda x: -(x - 0.5).flatten(1).abs().amax(1), -limit)
        sizes = [k / 10 for k in range(1, 8)]
        result = attack(model, x, y, sizes=sizes, generator=seeded(7))
        for i in range(3):
            size = next(s for s in sizes if s * noise[i].abs().amax() > limit)
            torch.testing.assert_close(result.x_adv[i].flatten(), 0.5 + size * noise[i])
            torch.testing.assert_close(result.distance[i], unit.norm(size * noise[i : i + 1])[0])
        assert not attack(model, x, y, sizes=(0.01,), generator=seeded(7)).found.any()


def test_the_distance_of_noise_is_measured_after_clipping():
    x, y = torch.ones(50, 1, 4, 4), torch.ones(50, dtype=torch.long)
    model = threshold(lambda x: -(1 - x).flatten(1).amax(1), -1e-3)  # fooled by any pixel below white
    for name in ("uniform_noise", "gaussian_noise"):
        result = ATTACKS[name](model, x, y, sizes=(0.7,))
        assert result.found.all()
        assert (result.distance < 0.7).all()
        torch.testing.assert_close(result.distance, NORM[name].norm(result.x_adv - x))


# ---------------------------------------------------------------- beside Foolbox


def by_foolbox(attack, model, x, y, eps=None):
    return attack(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=eps)


RADII = [None, 0.1, 0.3, 0.5]
LINEAR = partial(smallest_contrast_linear, steps=200, stride=1), rivals.LinearSearchContrastReductionAttack, {"steps": 200}
BINARY = partial(smallest_contrast_binary, steps=14), rivals.BinarySearchContrastReductionAttack, {}
BLUR = partial(smallest_blur, steps=100, stride=1), rivals.GaussianBlurAttack, {"steps": 100}


@pytest.mark.parametrize(("ours", "theirs", "options"), [LINEAR, BINARY, BLUR])
def test_the_same_distances_as_foolbox_and_projected_the_same_images_in_each_ball(ours, theirs, options):
    """What lies beyond eps Foolbox clips to it, and of blur that fools many more; zoo's numbers are of this kind."""
    model, (x, y) = small_cnn(), images(120)
    result = ours(model, x, y)
    adversarial, _, success = by_foolbox(theirs(distance=foolbox.distances.linf, **options), model, x, y, RADII)
    distance = torch.where(success[0], Linf(0).norm(adversarial[0] - x), torch.inf)
    same = torch.isclose(result.distance, distance, atol=1e-5, rtol=0)
    assert 0.1 < (result.found & (result.distance > 0)).float().mean() < 0.99  # there was something to agree on
    assert same.float().mean() >= 0.99
    for eps, fooled in zip(RADII[1:], success[1:], strict=True):
        kept, clipped = (predictions(model, within(ours, project=p)(model, x, y, Linf(eps))) != y for p in (False, True))
        assert (clipped == fooled).float().mean() >= 0.99
        assert (kept <= clipped).all()
    if ours is BLUR[0]:
        assert clipped.sum() > 1.5 * kept.sum()


@pytest.mark.parametrize("attack", SEARCHES)
def test_two_passes_find_the_same_as_one_and_ask_far_less(attack):
    (x, y), seen = images(100), {}
    for stride in (1, 20):
        model = Scores(small_cnn())
        seen[stride] = attack(model, x, y, stride=stride), sum(model.shown)
    assert (seen[1][0].distance == seen[20][0].distance).float().mean() >= 0.99
    assert seen[20][1] < seen[1][1] / 4
    assert seen[20][1] <= 100 * (1 + 50 + 19)


# ---------------------------------------------------------------- what holds for any model and any image


@cache
def on_cnn(name):
    model, (x, y) = small_cnn(), images(64)
    return model, x, y, ATTACKS[name](model, x, y)


@pytest.mark.parametrize("name", ATTACKS)
def test_results_on_a_cnn_are_sound(name):
    model, x, y, result = on_cnn(name)
    assert_sound(name, model, x, y, result)
    newly = result.found & (predictions(model, x) == y)
    assert newly.float().mean() > 0.1


@pytest.mark.parametrize("name", ATTACKS)
@quick
@given(st.integers(0, 10**6), st.booleans())
def test_results_on_random_nets_are_sound(name, seed, right):
    model, (x, y) = net(seed), batch(6, seed)
    y = y if right else torch.randint(3, y.shape, generator=seeded(seed))
    options = {"steps": 20, "searches": 2} if name == "cw" else {}
    assert_sound(name, model, x, y, ATTACKS[name](model, x, y, **options, generator=seeded(seed)))


@pytest.mark.parametrize("name", ATTACKS)
def test_results_with_noise_are_sound_once_it_is_frozen_and_depend_on_the_seed_alone(name):
    model, (x, y) = Noisy(small_cnn(), sigma=0.1, seed=1).eval(), images(16)
    options = {"steps": 10, "searches": 2} if name == "cw" else {}
    attack = partial(ATTACKS[name], model, x, y, **options)
    with frozen_noise(model, 0):
        assert_sound(name, model, x, y, attack())
    free = attack(generator=seeded(1))
    assert torch.equal(free.x_adv, attack(generator=seeded(1)).x_adv)
    assert torch.equal(model(x), Noisy(small_cnn(), sigma=0.1, seed=1)(x))  # the model's own source was not touched
    assert (free.x_adv[~free.found] == x[~free.found]).all()
    assert (free.distance[free.found] == NORM[name].norm(free.x_adv - x)[free.found]).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_same_seed_same_result_however_images_are_batched(name):
    model, (x, y) = net(), batch(13)
    y[::4] = (y[::4] + 1) % 3  # some are misclassified, and draw their noise all the same
    whole = ATTACKS[name](model, x, y, generator=seeded(4))
    generator = seeded(4)
    parts = [ATTACKS[name](model, a, b, generator=generator) for a, b in zip(x.split(5), y.split(5), strict=True)]
    for ours, joined in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(joined), ours, atol=1e-9, rtol=0)
    if "noise" in name:
        assert not torch.equal(whole.x_adv, ATTACKS[name](model, x, y, generator=seeded(5)).x_adv)
    else:
        assert torch.equal(whole.x_adv, ATTACKS[name](model, x, y, generator=seeded(5)).x_adv)
    small = Scores(net(), examples_per_pass=4)
    for ours, passed in zip(whole, ATTACKS[name](small, x, y, generator=seeded(4)), strict=True):
        torch.testing.assert_close(passed, ours, atol=1e-9, rtol=0)
    assert max(small.shown) <= 4


@pytest.mark.parametrize("name", ATTACKS)
def test_no_trace_is_left_not_even_by_a_failure(name):
    model, (x, y) = net().train(), batch()
    model[1].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    copies, state = (x.clone(), y.clone()), torch.random.get_rng_state()
    x_adv = ATTACKS[name](model, x, y).x_adv
    with pytest.raises(ValueError, match="y must be in"):
        ATTACKS[name](model, x, y + 3)
    assert all(m.training for m in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert model[4].weight.grad.eq(1).all()
    assert model[1].bias.grad is None
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    assert not x.requires_grad
    assert not x_adv.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        assert torch.equal(ATTACKS[name](model, x.clone().requires_grad_(), y.int()).x_adv, x_adv)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_images_and_images_that_are_all_wrong(name):
    model, (x, y) = net(), batch()
    empty = ATTACKS[name](model, x[:0], y[:0])
    assert [tuple(part.shape) for part in empty] == [(0, 1, 4, 4), (0,), (0,)]
    counted = Scores(model)
    wrong = ATTACKS[name](counted, x, (y + 1) % 3)
    assert counted.shown == [len(x)]  # one look at the clean images was enough
    assert torch.equal(wrong.x_adv, x)
    assert wrong.x_adv.data_ptr() != x.data_ptr()
    assert (wrong.distance == 0).all()
    assert wrong.found.all()


# ---------------------------------------------------------------- inside a ball


@pytest.mark.parametrize("name", ATTACKS)
def test_within_keeps_what_is_in_the_ball_and_leaves_the_rest(name):
    model, x, y, result = on_cnn(name)
    attack, kind = within(ATTACKS[name]), type(NORM[name])
    assert attack.__name__ == name
    if "noise" not in name:
        eps = result.distance[result.found & (result.distance > 0)].median().item()
        kept, x_adv = result.distance <= eps, attack(model, x, y, kind(eps))
        assert torch.equal(x_adv[kept], result.x_adv[kept])
        assert torch.equal(x_adv[~kept], x[~kept])
        assert 0 < (kept & (result.distance > 0)).sum() < len(x)
    assert torch.equal(attack(model, x, y, kind(0.0)), x)
    with pytest.raises(ValueError, match=f"^ball must be {kind.__name__}, the norm of {name}, got"):
        attack(model, x, y, (Linf if kind is L2 else L2)(0.1))
    with pytest.raises(ValueError, match=r"^ball must be"):
        attack(model, x, y, 0.3)


@pytest.mark.parametrize(("name", "eps"), [("uniform_noise", 0.7), ("gaussian_noise", 9.0)])
def test_noise_within_a_ball_has_the_balls_size(name, eps):
    (x, y), model = images(64), small_cnn()
    attacked = within(ATTACKS[name])(model, x, y, type(NORM[name])(eps), generator=seeded(2))
    fixed = ATTACKS[name](model, x, y, sizes=[eps], generator=seeded(2))
    assert torch.equal(attacked, fixed.x_adv)
    moved = NORM[name].norm(attacked - x) > 0
    assert moved.sum() > 3
    assert (NORM[name].norm(attacked - x)[moved] > eps / 3).all()


def test_noise_of_exactly_the_balls_length_is_kept():
    """Grey images are not clipped, so the noise is as long as the ball is wide, or longer by rounding."""
    x, y = torch.full((200, 1, 28, 28), 0.5), torch.ones(200, dtype=torch.long)
    model = threshold(lambda x: -(x - 0.5).flatten(1).abs().amax(1), -1e-3)
    for attack, ball in [(smallest_gaussian_noise, L2(2.0)), (smallest_uniform_noise, Linf(0.1))]:
        assert (predictions(model, within(attack)(model, x, y, ball)) == 0).all()


@quick
@given(st.sampled_from(list(ATTACKS)), st.floats(0, 1.5), st.booleans(), st.integers(0, 10**6))
def test_within_is_inside_the_ball_and_the_box(name, eps, project, seed):
    model, (x, y) = net(seed), batch(6, seed)
    x_adv = within(ATTACKS[name], project=project)(model, x, y, type(NORM[name])(eps), generator=seeded(seed))
    assert (NORM[name].norm(x_adv - x) <= eps * (1 + 1e-5) + 1e-9).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_accuracy_curves_take_an_attack_within_a_ball():
    table = accuracy_curve(small_cnn(), images(64), within(smallest_contrast_linear), Linf, [0.1, 0.3])
    accuracy = table[table["metric"] == "accuracy"]["value"].tolist()
    distance = on_cnn("contrast_linear")[3].distance
    assert accuracy == pytest.approx([(distance > eps * (1 + 1e-6)).float().mean().item() for eps in (0.1, 0.3)])


def test_within_wants_a_smallest_perturbation_attack():
    for wrong in (max, "blur", None, partial(max, 1)):
        with pytest.raises(ValueError, match=r"^smallest must be"):
            within(wrong)


# ---------------------------------------------------------------- bad input


class Broken(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3] * math.nan


BAD = [
    {"x": torch.rand(2, 16)},
    {"x": torch.rand(2, 1, 4, 4) + 1},
    {"x": torch.full((2, 1, 4, 4), math.nan)},
    {"x": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)},
    {"x": [[0.5]]},
    {"y": torch.tensor([0, 3])},
    {"y": torch.tensor([0, -1])},
    {"y": torch.tensor([0])},
    {"y": torch.tensor([0.0, 1.0])},
    {"model": lambda x: x},
    {"model": nn.Flatten(2)},
    {"model": nn.Sequential(nn.Flatten(), nn.Linear(16, 1))},
    {"model": Broken()},
    {"generator": 7},
]
BAD_STEPS = [{"steps": value} for value in (0, 2.5, "4", None, math.inf)]
BAD_STRIDE = [{"stride": value} for value in (0, -1, 1.5, None)]
BAD_SIZES = [{"sizes": value} for value in ([], 0.3, [0.2, 0.1], [0.1, 0.1], [-0.1, 0.1], [math.nan], "12", [None])]
BAD_OWN = {
    "cw": [
        *BAD_STEPS,
        *({"searches": value} for value in (0, 1.5)),
        *({"learning_rate": value} for value in (0, -0.1, math.nan)),
        *({"constant": value} for value in (0, -1, math.inf)),
        *({"confidence": value} for value in (-1, math.nan, "0")),
        *({"target": value} for value in (torch.tensor([0, 7]), torch.tensor([0]), 3)),
    ],
    "uniform_noise": BAD_SIZES,
    "gaussian_noise": BAD_SIZES,
    "contrast_linear": BAD_STEPS + BAD_STRIDE,
    "contrast_binary": BAD_STEPS,
    "blur": BAD_STEPS + BAD_STRIDE,
}


@pytest.mark.parametrize(("name", "bad"), [(name, bad) for name in ATTACKS for bad in BAD + BAD_OWN[name]])
def test_bad_input_is_named(name, bad):
    good = {"model": net().float(), "x": torch.rand(2, 1, 4, 4), "y": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match=rf"^{next(iter(bad))} must"):
        ATTACKS[name](**{**good, **bad})


def test_noise_of_exactly_the_radius_is_kept_however_small_the_radius():
    model = threshold(brightness, 0.75)
    x, y = torch.full((200, 1, 8, 8), 0.75), torch.zeros(200, dtype=torch.long)
    for eps in (0.5, 0.01):  # in float32 the smaller one is longer than eps by more than a millionth of it
        attacked = within(smallest_gaussian_noise)(model, x, y, L2(eps))
        found = smallest_gaussian_noise(model, x, y, sizes=[eps]).distance.isfinite()
        assert 0.3 < found.float().mean() < 0.7
        assert torch.equal((attacked != x).flatten(1).any(1), found)
