"""Images made to order, where the answer is known: linear representations, Normal clouds of images, real quick networks."""

import copy
import itertools
import math
from functools import cache, partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures_models import Detached, Noisy, images, small_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hybridgen_lib import recipes
from hybridgen_lib.attacks import L2, Linf
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.explain.inversion import invert, representation_gap
from hybridgen_lib.explain.representation import activating, representation
from hybridgen_lib.explain.synthesis import generate_class, normal_draws, visualize_feature
from hybridgen_lib.models.backbones import AlexNet, Vgg, WideResNet, headless, resnet
from hybridgen_lib.models.bottleneck import Bottleneck
from hybridgen_lib.models.deep_bayes import deep_bayes
from hybridgen_lib.models.networks import SmallCNN

SHAPE = (1, 28, 28)
FREE = L2(1000.0)


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def pictures(count: int, seed: int = 0, shape=(1, 6, 6), low=0.3, high=0.7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(count, *shape, generator=generator, dtype=dtype)


class Linear(nn.Module):
    """R(x) = A x, and its columns are what each unit looks for."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def rotation(d: int):
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q


def curved(k: int = 12, d: int = 36):
    """A representation with bends, in double: its inversion has no closed form, but each image has its own."""
    return seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(d, 40), nn.Tanh(), nn.Linear(40, k)).double())


@cache
def quick(name: str) -> nn.Module:
    return recipes.trained(name, "fashion-mini", "quick", device="cpu").eval()


# ---------------------------------------------------------------- representation


BACKBONES = {
    "cnn": (lambda: SmallCNN(SHAPE, 10, width=8, hidden=40), lambda m: m.head),
    "vgg": (lambda: Vgg(16, SHAPE, 10, width=1 / 16), lambda m: m.logits),
    "resnet": (lambda: resnet(18, SHAPE, 10, width=1 / 16), lambda m: m.fc),
    "resnet50": (lambda: resnet(50, SHAPE, 10, width=1 / 16), lambda m: m.fc),
    "alexnet": (lambda: AlexNet(SHAPE, 10, width=1 / 16), lambda m: m.logits),
    "wideresnet": (lambda: WideResNet(SHAPE, 10, depth=10, widen=1), lambda m: m.logits),
    "sequential": (small_cnn, lambda m: m[-1]),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_the_last_layer_of_the_representation_gives_the_scores(name):
    build, last = BACKBONES[name]
    model, (x, _) = seeded(build), images(3)
    with torch.no_grad():
        r = representation(model)(x)
        assert r.shape == (3, last(model).in_features)
        torch.testing.assert_close(last(model)(r), model(x))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_unit_has_a_gradient_behind_the_last_relu(name):
    model, (x, _) = seeded(BACKBONES[name][0]), images(1)
    redirected, plain = representation(model), headless(model)[0].eval()

    def sizes(represent):
        """How long the gradient of each unit is, for up to 30 of them, and which units are on."""
        here = x.clone().requires_grad_()
        r = represent(here)[0]
        lengths = [torch.autograd.grad(unit, here, retain_graph=True)[0].norm() for unit in r[:30]]
        return torch.stack(lengths), r[:30] > 0

    (ours, on), (others, _) = sizes(redirected), sizes(plain)
    if name != "sequential":  # a ReLU, then reshaping: a unit alone is on or off only where nothing was pooled
        torch.testing.assert_close(others[~on], torch.zeros_like(others[~on]))
    if name in ("cnn", "vgg", "alexnet", "sequential"):
        assert (~on).any()
        torch.testing.assert_close(ours[on], others[on])  # a unit that is on keeps its gradient
    assert (ours > 0).all()


def test_redirection_is_the_straight_through_gradient_by_hand():
    model, (x, _) = seeded(BACKBONES["cnn"][0]), images(2)
    here = x.clone().requires_grad_()
    weights = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    (ours,) = torch.autograd.grad((weights * representation(model)(here)).sum(), here)
    h = here
    for convolution in model.trunk.convolutions:
        h = F.relu(convolution(h))
    (by_hand,) = torch.autograd.grad((weights * model.trunk.dense(h.flatten(1))).sum(), here)  # the last ReLU left out
    torch.testing.assert_close(ours, by_hand)


@pytest.mark.parametrize("frozen", [False, True])
def test_only_the_last_relu_is_passed_and_none_where_a_layer_with_weights_comes_between(frozen):
    first, last = nn.Linear(4, 5).requires_grad_(not frozen), nn.Linear(5, 5, bias=False).requires_grad_(not frozen)
    x = torch.full((1, 1, 2, 2), 0.5)
    with torch.no_grad():
        first.bias.fill_(-9.0)  # every unit of the first layer is off
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last, nn.Linear(5, 3))
    here = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(representation(model)(here).sum(), here)
    assert (gradient == 0).all()
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Dropout(), nn.Linear(5, 3))
    (gradient,) = torch.autograd.grad(representation(model).eval()(here).sum(), here)
    torch.testing.assert_close(gradient.flatten(), first.weight.sum(0))


def test_the_representation_is_a_copy():
    model, (x, _) = seeded(BACKBONES["cnn"][0]), images(2)
    represent = representation(model)
    with torch.no_grad():
        before = represent(x)
        model.trunk.dense.weight.zero_()
        assert torch.equal(represent(x), before)
    assert isinstance(model.head, nn.Linear)


def test_a_model_whose_last_linear_layer_is_not_the_last_word_is_refused():
    with pytest.raises(ValueError, match="must have no noise of its own, got Bottleneck"):
        representation(Bottleneck(small_cnn(), 10))
    with pytest.raises(ValueError, match="must have no noise of its own"):
        representation(deep_bayes("gbz", SHAPE, 10, width=4, hidden=8, code=3))
    with pytest.raises(ValueError, match="linear layer"):
        representation(nn.Sequential(nn.Flatten(), nn.ReLU()))
    with pytest.raises(ValueError, match="model must be"):
        representation("cnn")

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(784, 10)

        def forward(self, x):
            return self.linear(x.flatten(1)).repeat(1, 3)

    with pytest.raises(ValueError, match="must end in a linear layer"):
        representation(Twice())(images(2)[0])


# ---------------------------------------------------------------- inversion


def test_a_rotation_is_inverted_exactly_and_after_exactly_as_many_steps_as_the_way_is_long():
    target, start, represent = pictures(5), pictures(5, seed=1), Linear(rotation(36))
    way = (target - start).flatten(1).norm(dim=1)
    one = partial(invert, represent, target[:1], start[:1], step_size=way[0].item() / 4)
    torch.testing.assert_close(one(steps=3).images, start[:1] + 0.75 * (target - start)[:1])
    for steps in (4, 9):  # once there, the gradient is 0 and it stays
        there = one(steps=steps)
        torch.testing.assert_close(there.images, target[:1])
        torch.testing.assert_close(there.distance, torch.zeros(1, dtype=torch.float64), atol=1e-12, rtol=0)
    found = invert(represent, target, start, steps=60, step_size=0.05)
    torch.testing.assert_close(found.distance * target.flatten(1).norm(dim=1), (found.images - target).flatten(1).norm(dim=1))
    assert (found.distance * target.flatten(1).norm(dim=1) < 0.025 + 1e-9).all()  # half a step: it jumps over


def test_where_the_representation_forgets_the_image_stays_as_it_was():
    weight = torch.zeros(3, 36, dtype=torch.float64)
    weight[range(3), range(3)] = 1.0  # three pixels are seen
    target, start = pictures(4), pictures(4, seed=1)
    found = invert(Linear(weight), target, start, steps=400, step_size=0.002)
    torch.testing.assert_close(found.images.flatten(1)[:, :3], target.flatten(1)[:, :3], atol=1e-3, rtol=0)
    assert torch.equal(found.images.flatten(1)[:, 3:], start.flatten(1)[:, 3:])
    assert (found.distance < 0.003).all()


def gap_of(represent, x, target):
    with torch.no_grad():
        r, wanted = represent(x), represent(target)
        return (r - wanted).norm(dim=1) / wanted.norm(dim=1)


def test_the_best_is_no_worse_than_start_and_last_and_its_distance_is_its_own():
    represent, target, start = curved(), pictures(6), pictures(6, seed=1)
    for steps, size in ((0, 1.0), (1, 3.0), (50, 0.5)):
        found = invert(represent, target, start, steps=steps, step_size=size)
        torch.testing.assert_close(found.distance, gap_of(represent, found.images, target))
        torch.testing.assert_close(found.distance, representation_gap(represent, found.images, target))
        assert (found.distance <= gap_of(represent, start, target) + 1e-12).all()
        assert (found.distance <= gap_of(represent, found.last, target) + 1e-12).all()
        assert found.codes is None
    assert (found.distance < gap_of(represent, found.last, target)).any()  # here it matters which
    assert torch.equal(invert(represent, target, start, steps=0).images, start)


def test_the_last_step_may_be_the_best_and_is_looked_at():
    target, start, represent = pictures(1), pictures(1, seed=1), Linear(rotation(36))
    found = invert(represent, target, start, steps=1, step_size=(target - start).norm().item() / 2)
    assert not torch.equal(found.images, start)
    assert torch.equal(found.images, found.last)


def test_last_goes_on_where_it_stopped():
    represent, target, start = curved(), pictures(3), pictures(3, seed=1)
    half = invert(represent, target, start, steps=10, step_size=0.3).last
    whole = invert(represent, target, start, steps=20, step_size=0.3).last
    torch.testing.assert_close(invert(represent, target, half, steps=10, step_size=0.3).last, whole)


def raw_descent(represent, target, start, whole_batch, steps=30):
    """Steps of the gradient itself, as the document prints them (eq. 4), on norms for each image or over the whole batch."""
    x = start
    with torch.no_grad():
        wanted = represent(target)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        gaps = (represent(x) - wanted).norm() / wanted.norm() if whole_batch else gap_of_grad(represent(x), wanted).sum()
        (g,) = torch.autograd.grad(gaps, x)
        x = (x - 0.2 * g).clamp(0, 1).detach()
    return x


def gap_of_grad(r, wanted):
    return (r - wanted).norm(dim=1) / wanted.norm(dim=1)


def test_an_image_does_not_depend_on_its_company():
    represent, target, start = curved(), pictures(6), pictures(6, seed=1)
    run = {"steps": 30, "step_size": 0.2}
    together = invert(represent, target, start, **run)
    for rows in ([0], [1, 2], [5, 3, 4]):
        apart = invert(represent, target[rows], start[rows], **run)
        torch.testing.assert_close(apart.images, together.images[rows])
        torch.testing.assert_close(apart.last, together.last[rows])
    parts = invert(represent, target, start, examples_per_pass=4, **run)
    torch.testing.assert_close(parts.images, together.images)
    torch.testing.assert_close(parts.distance, together.distance)


@pytest.mark.parametrize("whole_batch", [False, True])
def test_the_published_norms_over_the_batch_fail_the_same_test(whole_batch):
    represent, target, start = curved(), pictures(6), pictures(6, seed=1)
    together = raw_descent(represent, target, start, whole_batch)[:1]
    alone = raw_descent(represent, target[:1], start[:1], whole_batch)
    assert ((together - alone).abs().max() > 0.01) == whole_batch


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(0, 12), st.floats(0.01, 2.0), st.sampled_from([L2(0.7), Linf(0.1), FREE]))
def test_images_stay_in_the_ball_and_in_range(count, steps, size, ball):
    target, start = pictures(count, low=0.0, high=1.0), pictures(count, seed=1, low=0.0, high=1.0)
    found = invert(curved(), target, start, ball=ball, steps=steps, step_size=size)
    for x in (found.images, found.last):
        assert (ball.norm(x - start) <= ball.eps + 1e-9).all()
        assert x.min() >= 0
        assert x.max() <= 1


def test_in_the_space_of_codes():
    mix = rotation(36)[:5]
    decoder = nn.Linear(5, 36, dtype=torch.float64)
    with torch.no_grad():
        decoder.weight.copy_(mix.T)
        decoder.bias.fill_(0.5)
    decode, represent = nn.Sequential(decoder, nn.Unflatten(1, (1, 6, 6))), Linear(rotation(36))
    codes = 0.05 * torch.randn(4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        target = decode(codes)
    start = codes + 0.3
    way = (start - codes).norm(dim=1)
    found = invert(represent, target, start, steps=8, step_size=way[0].item() / 8, decode=decode)
    torch.testing.assert_close(found.codes[0], codes[0])  # an isometry: straight there
    torch.testing.assert_close(found.images[0], target[0])
    torch.testing.assert_close(found.images, decode(found.codes).detach())
    near = invert(represent, target, start, ball=L2(0.1), steps=20, step_size=0.1, decode=decode)
    torch.testing.assert_close((near.codes - start).norm(dim=1), torch.full((4,), 0.1, dtype=torch.float64))
    assert decoder.weight.grad is None
    assert decoder.weight.requires_grad
    negative = invert(represent, target, start - 5, steps=1, step_size=0.1, decode=decode)
    assert (negative.codes < 0).any()  # codes have no bounds


def test_the_robust_network_gives_the_better_picture():
    """The claim itself, on the quick pair (positive control): both come near in representation, one in pixels as well."""
    x, _ = images(16)
    noise = (0.5 + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) / 20).clamp(0, 1)
    off = {}
    for name in ("cnn", "cnn-at-l2"):
        represent = representation(quick(name))
        found = invert(represent, x, noise, steps=150)
        assert (found.distance < 0.25).all()
        assert (representation_gap(represent, noise, x) > 0.7).all()
        off[name] = (found.images - x).flatten(1).norm(dim=1)
    assert (off["cnn-at-l2"] < off["cnn"]).float().mean() > 0.8
    assert off["cnn-at-l2"].mean() < 0.8 * off["cnn"].mean()


def test_a_representation_with_noise_is_held_to_one_draw():
    x, _ = images(3)
    represent = Noisy(headless(small_cnn())[0], sigma=0.2)
    first = invert(represent, x, x.flip(0), steps=3)
    torch.testing.assert_close(first.images, invert(represent, x, x.flip(0), steps=3).images, rtol=0, atol=0)
    assert (representation_gap(represent, x, x) == 0).all()
    with frozen_noise(represent, 0):
        assert torch.equal(first.images, invert(represent, x, x.flip(0), steps=3).images)
    with frozen_noise(represent, 8):
        assert not torch.equal(first.images, invert(represent, x, x.flip(0), steps=3).images)
    assert represent._source is None
    assert represent._frozen_seed is None


# ---------------------------------------------------------------- units


def test_a_linear_unit_is_raised_along_its_weight():
    weight = torch.randn(7, 36, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start, represent = pictures(3), Linear(weight)
    raised = visualize_feature(represent, start, 4, steps=3, step_size=0.05)
    along = (weight[4] / weight[4].norm()).reshape(1, 6, 6)
    torch.testing.assert_close(raised, start + 0.15 * along)
    several = visualize_feature(represent, start, [1, 4], steps=3, step_size=0.05)
    both = (weight[1] + weight[4]) / (weight[1] + weight[4]).norm()
    torch.testing.assert_close(several, start + 0.15 * both.reshape(1, 6, 6))
    for units in (torch.tensor([1, 4]), (1, 4), np.array([4, 1])):
        torch.testing.assert_close(visualize_feature(represent, start, units, steps=3, step_size=0.05), several)
    each = visualize_feature(represent, start, torch.tensor([[4], [1], [4]]), steps=3, step_size=0.05)
    torch.testing.assert_close(each[::2], raised[::2])
    far = visualize_feature(represent, start, 4)  # the document's settings: 400 steps of 1 fill the cube
    assert torch.equal(far, (weight[4] > 0).double().reshape(1, 1, 6, 6).expand_as(far))


def test_a_unit_that_is_off_is_turned_on_by_the_redirected_gradient_alone():
    model = quick("cnn")
    noise = (0.5 + torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0)) / 20).clamp(0, 1)
    represent, plain = representation(model), headless(model)[0]
    with torch.no_grad():
        ever = represent(images(1000)[0]).amax(0) > 0
        off = (ever & (represent(noise)[0] == 0)).nonzero()[:8]
        assert len(off) == 8
        start = noise.expand(8, -1, -1, -1)
    left = visualize_feature(plain, start, off, steps=5)
    assert torch.equal(left, start)  # the control: it never leaves
    raised = visualize_feature(represent, start, off, steps=20)
    with torch.no_grad():
        assert (represent(raised).gather(1, off) > 1).all()


def test_which_images_activate_a_unit():
    x = pictures(30)
    weight = torch.randn(4, 36, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    order = np.argsort(x.flatten(1).numpy() @ weight[2].numpy())
    most, least = activating(Linear(weight), x, 2, 5)
    assert most.tolist() == order[::-1][:5].tolist()
    assert least.tolist() == order[:5].tolist()
    most, least = activating(Linear(weight), x, 2, 30)
    assert most.tolist() == least.flip(0).tolist() == order[::-1].tolist()
    assert [part.tolist() for part in activating(Linear(0 * weight), x, 0, 3)] == [[0, 1, 2], [0, 1, 2]]  # ties: the first


def test_more_images_than_a_pass_holds_are_ranked_as_one():
    x = pictures(1203, shape=(1, 2, 2))
    most, least = activating(Linear(torch.ones(1, 4, dtype=torch.float64)), x, 0, 1)
    assert (most.item(), least.item()) == (x.flatten(1).sum(1).argmax().item(), x.flatten(1).sum(1).argmin().item())


# ---------------------------------------------------------------- draws of a class


def test_draws_have_the_mean_and_covariance_of_the_images():
    """Pixels near 0.5, so that nothing is clamped. Bounds are 5 standard errors of a mean and of a covariance."""
    mix = 0.02 * torch.randn(6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    codes = torch.rand(40, 6, generator=torch.Generator().manual_seed(6), dtype=torch.float64) - 0.5
    data = (0.5 + codes @ mix).reshape(40, 1, 2, 3)
    n = 20_000
    drawn = normal_draws(data, n, torch.Generator().manual_seed(0)).flatten(1)
    mean, covariance = data.flatten(1).mean(0), torch.cov(data.flatten(1).T, correction=0)
    spread = covariance.diag().sqrt()
    assert ((drawn.mean(0) - mean).abs() < 5 * spread / math.sqrt(n)).all()
    error = (torch.cov(drawn.T, correction=0) - covariance).abs()
    assert (error < 5 * (covariance**2 + torch.outer(spread**2, spread**2)).sqrt() / math.sqrt(n)).all()
    unbiased = torch.cov(data.flatten(1).T)  # the control: 1/(N-1) in place of 1/N is within reach of these bounds
    assert ((unbiased - covariance).diag() > 0).all()
    standard = (drawn - mean) / drawn.std(0)
    kurtosis = standard.pow(4).mean(0)
    assert ((kurtosis - 3).abs() < 0.25).all()  # Normal, where the images' own codes are uniform (1.8)


def test_with_fewer_images_than_pixels_the_draws_lie_in_their_span():
    data = pictures(5, shape=(1, 8, 8), low=0.45, high=0.55)
    drawn = normal_draws(data, 50, torch.Generator().manual_seed(0)).flatten(1)
    centred = data.flatten(1) - data.flatten(1).mean(0)
    offsets = drawn - data.flatten(1).mean(0)
    basis = torch.linalg.svd(centred, full_matrices=False).Vh[:4]  # five images, one mean: four dimensions
    torch.testing.assert_close(offsets @ basis.T @ basis, offsets)
    assert torch.linalg.matrix_rank(offsets) == 4
    other = pictures(50, shape=(1, 8, 8)).flatten(1) - data.flatten(1).mean(0)
    assert (other @ basis.T @ basis - other).norm(dim=1).min() > 0.1  # the control: other images do not


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """The size of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = [part for part in (out if isinstance(out, tuple | list) else [out]) if isinstance(part, torch.Tensor)]
        self.elements = max([self.elements, *(part.numel() for part in made)])
        return out


def test_colour_images_of_128_pixels_need_no_covariance():
    data = torch.rand(12, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as seen:
        drawn = normal_draws(data, 4, torch.Generator().manual_seed(0))
    assert drawn.shape == (4, 3, 128, 128)
    assert seen.elements == data.numel()  # 0.6 million numbers; the covariance has 2.4 billion
    with LargestTensor() as seen:
        torch.cov(data[:, :1, :32, :32].flatten(1).T)
    assert seen.elements == 1024**2  # the control: a covariance would be seen


def test_draws_are_clamped_and_come_from_the_generator_alone():
    data, before = images(50)[0], torch.get_rng_state()
    drawn = normal_draws(data, 7, torch.Generator().manual_seed(3))
    assert (drawn.min(), drawn.max()) == (0, 1)
    assert drawn.dtype == data.dtype
    again = normal_draws(data, 7, torch.Generator().manual_seed(3))
    assert torch.equal(again, drawn)
    torch.testing.assert_close(normal_draws(data, 3, torch.Generator().manual_seed(3)), drawn[:3])
    assert not torch.equal(normal_draws(data, 7, torch.Generator().manual_seed(4)), drawn)
    assert normal_draws(data, 0, torch.Generator()).shape == (0, *SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
    same = data[:1].expand(4, -1, -1, -1)
    torch.testing.assert_close(normal_draws(same, 2, torch.Generator()), same[:2])  # no spread, no draw


def test_more_draws_than_a_product_holds():
    data = images(20)[0]
    many = normal_draws(data, 503, torch.Generator().manual_seed(0))
    torch.testing.assert_close(many[:2], normal_draws(data, 2, torch.Generator().manual_seed(0)))
    assert many[-3:].std(0).max() > 0.1  # the second part was filled, too


# ---------------------------------------------------------------- class images


def class_starts(per_class: int):
    x, y = images(1000)
    source = torch.Generator().manual_seed(0)
    starts = [normal_draws(x[y == c], per_class, source) for c in range(10)]
    return torch.cat(starts), torch.arange(10).repeat_interleave(per_class)


@pytest.mark.parametrize(("name", "missed"), [("cnn", 0), ("cnn-at-l2", 1)])  # of twenty; more steps do not help
def test_real_networks_are_brought_to_every_class(name, missed):
    model, (start, y) = quick(name), class_starts(2)
    made = generate_class(model, start, y, ball=L2(30))
    with torch.no_grad():
        assert (model(made).argmax(1) != y).sum() <= missed
        gain = (model(made) - model(start)).gather(1, y[:, None])
    assert (gain > 3).all()
    assert made.min() >= 0
    assert made.max() <= 1
    assert ((made - start).flatten(1).norm(dim=1) <= 30).all()


def test_the_score_of_a_linear_classifier_rises_along_its_weight():
    weight = torch.randn(3, 36, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start, y = pictures(3), torch.tensor([2, 0, 1])
    made = generate_class(Linear(weight), start, y, ball=FREE, steps=2, step_size=0.05)
    along = (weight[y] / weight[y].norm(dim=1, keepdim=True)).reshape(3, 1, 6, 6)
    torch.testing.assert_close(made, start + 0.1 * along)
    held = generate_class(Linear(weight), start, y, ball=L2(0.07), steps=2, step_size=0.05)
    torch.testing.assert_close(held, start + 0.07 * along)
    alone = generate_class(Linear(weight), start[1:2], y[1:2], ball=FREE, steps=2, step_size=0.05)
    torch.testing.assert_close(alone, made[1:2])


def test_a_stochastic_model_is_held_to_one_draw():
    model, start, y = Noisy(small_cnn(), sigma=0.2), images(4)[0], torch.tensor([0, 1, 2, 3])
    source = copy.deepcopy(model._source)
    first = generate_class(model, start, y, ball=L2(5), steps=20)
    assert torch.equal(first, generate_class(model, start, y, ball=L2(5), steps=20))
    assert model._source is source is None  # not even its own source has moved
    with frozen_noise(model, 0):
        assert torch.equal(first, generate_class(model, start, y, ball=L2(5), steps=20))
        assert (model(first).argmax(1) == y).all()
    with frozen_noise(model, 7):
        other = generate_class(model, start, y, ball=L2(5), steps=20)
        assert (model(other).argmax(1) == y).all()
    assert not torch.equal(first, other)


def test_a_classifier_with_a_joint_density():
    model, (start, y) = quick("gfz"), class_starts(1)
    with frozen_noise(model, 1), torch.no_grad():
        before = model(start)
    with frozen_noise(model, 1):
        made = generate_class(model, start, y, ball=L2(30))
    with frozen_noise(model, 1), torch.no_grad():
        after = model(made)
    assert (after.argmax(1) == y).all()
    assert (after - before).gather(1, y[:, None]).min() > 5


def test_single_classes_are_as_good_as_all_of_them():
    model = seeded(lambda: deep_bayes("gfz", SHAPE, 10, width=4, hidden=16, code=3, samples=2))
    start, y = images(3)[0], torch.tensor([1, 2, 3])

    class All(nn.Module):
        def __init__(self, inside):
            super().__init__()
            self.inside = inside

        def forward(self, x):
            return self.inside(x)

    made = generate_class(model, start, y, ball=FREE, steps=3)
    torch.testing.assert_close(made, generate_class(All(model), start, y, ball=FREE, steps=3), atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- manners


def global_numpy():
    return np.random.get_state()[1].copy()  # noqa: NPY002


def run_all(model, represent, x, y):
    activating(represent, x, 0, 2)
    visualize_feature(represent, x, 0, steps=2)
    invert(represent, x, x.flip(0), steps=2)
    representation_gap(represent, x, x.flip(0))
    generate_class(model, x, y, ball=FREE, steps=2)
    normal_draws(x, 2, torch.Generator())


@pytest.mark.parametrize("training", [True, False])
def test_no_trace_is_left(training):
    x, y = images(4)
    head = [nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(2304, 10)]
    model = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), *head))
    model.train(training)
    represent = nn.Sequential(*list(model)[:-1])  # shares its layers with the model
    represent.train(training)
    model[0].weight.requires_grad_(False)
    model[0].bias.grad = torch.ones_like(model[0].bias)
    before, rng, others = copy.deepcopy(model.state_dict()), torch.get_rng_state(), global_numpy()
    run_all(model, represent, x, y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # no running mean has moved
    assert all(part.training == training for part in itertools.chain(model.modules(), represent.modules()))
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert (model[0].bias.grad == 1).all()
    assert all(p.grad is None for p in model.parameters() if p is not model[0].bias)
    assert torch.equal(torch.get_rng_state(), rng)
    assert (global_numpy() == others).all()
    assert not any(part._forward_hooks or part._backward_hooks or part._forward_pre_hooks for part in model.modules())
    assert torch.equal(x, images(4)[0])


def test_an_error_leaves_no_trace_either():
    model = small_cnn().train()
    with pytest.raises(ValueError, match="gradient"):
        generate_class(Detached(model), *images(2), ball=FREE)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    model.eval()


X, Y = pictures(3, dtype=torch.float32), torch.tensor([0, 1, 2])
LINEAR = Linear(torch.eye(36))
GENERATOR = torch.Generator()
BAD = {
    "represent is no module": (lambda: invert(lambda x: x, X, X), "represent must be a torch.nn.Module"),
    "representations of images": (lambda: activating(nn.Identity(), X, 0, 1), r"represent must return .* shape \(B, k\)"),
    "target out of range": (lambda: invert(LINEAR, X + 1, X), "target must lie"),
    "start out of range": (lambda: invert(LINEAR, X, X - 1), "start must lie"),
    "start for other targets": (lambda: invert(LINEAR, X, X[:2]), "start must have the shape of target"),
    "codes for other targets": (
        lambda: invert(LINEAR, X, X[:2], decode=nn.Identity()),
        "start must have a code for each of 3",
    ),
    "target of nothing": (lambda: invert(LINEAR, 0 * X, X), "target must have representations other than zero, got 3"),
    "gap of others": (lambda: representation_gap(LINEAR, X[:1], X), "images must have the shape of target"),
    "decode is no module": (lambda: invert(LINEAR, X, X, decode=torch.sigmoid), "decode must be a torch.nn.Module"),
    "steps": (lambda: invert(LINEAR, X, X, steps=-1), "steps must be"),
    "step_size": (lambda: invert(LINEAR, X, X, step_size=-1.0), "step_size must be"),
    "ball": (lambda: invert(LINEAR, X, X, ball=3), "ball must be"),
    "a pass": (lambda: invert(LINEAR, X, X, examples_per_pass=0), "examples_per_pass must be"),
    "no such unit": (lambda: visualize_feature(LINEAR, X, 36), "units must be .* 0..35"),
    "negative unit": (lambda: visualize_feature(LINEAR, X, [-1, 2]), "units must be"),
    "no unit": (lambda: visualize_feature(LINEAR, X, []), "units must be"),
    "half a unit": (lambda: visualize_feature(LINEAR, X, 1.5), "units must be"),
    "units of other images": (lambda: visualize_feature(LINEAR, X, [[1], [2]]), "units must be"),
    "start of units": (lambda: visualize_feature(LINEAR, X + 1, 0), "start must lie"),
    "unit": (lambda: activating(LINEAR, X, 99, 1), "unit must be"),
    "count": (lambda: activating(LINEAR, X, 0, 4), "count must be"),
    "images of units": (lambda: activating(LINEAR, X + 1, 0, 1), "images must lie"),
    "one image": (lambda: normal_draws(X[:1], 2, GENERATOR), "images must be 2 or more"),
    "n": (lambda: normal_draws(X, -1, GENERATOR), "n must be"),
    "no generator": (lambda: normal_draws(X, 2, None), "generator must be"),
    "a seed": (lambda: normal_draws(X, 2, 0), "generator must be"),
    "class": (lambda: generate_class(LINEAR, X, Y + 35, ball=FREE), "y must be in 0..35"),
    "labels": (lambda: generate_class(LINEAR, X, Y[:2], ball=FREE), "y must hold one label per image"),
    "model": (lambda: generate_class("cnn", X, Y, ball=FREE), "model must be"),
    "ball of a class": (lambda: generate_class(LINEAR, X, Y, ball=30), "ball must be"),
    "start of a class": (lambda: generate_class(LINEAR, X + 1, Y, ball=FREE), "start must lie"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_no_images_are_no_trouble():
    none = X[:0]
    assert visualize_feature(LINEAR, none, 0).shape == none.shape
    assert invert(LINEAR, none, none).distance.shape == (0,)
    assert generate_class(LINEAR, none, Y[:0], ball=FREE).shape == none.shape
