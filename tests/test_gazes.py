"""CiiV: glances by hand, the shares its masks keep, a surrogate that sees the same and has a gradient, the intervention."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from fixtures_models import has_noise_of_its_own, ignores_company_when_frozen
from torch import nn

from hybridgen_lib import recipes
from hybridgen_lib.attacks import Linf, pgd
from hybridgen_lib.classifier import frozen_noise, is_stochastic
from hybridgen_lib.models.gazes import Gazes
from hybridgen_lib.models.networks import DenseNetwork
from hybridgen_lib.training import fit, intervention

SHAPE, CLASSES = (1, 8, 8), 3
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
Y = torch.arange(5) % CLASSES


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gazes(shape=SHAPE, samples=9, seed=0, loud=1.0) -> Gazes:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gazes(DenseNetwork(shape, CLASSES, hidden=8), shape, CLASSES, samples)
    model.head.weight.data *= loud
    return model


def pictured(count=5, shape=SHAPE, seed=0, dtype=torch.float32):
    return torch.rand(count, *shape, generator=generator(seed)).to(dtype)


ALL = torch.arange(9)


def places(height, width):
    """Where gazes rest, row by row of the grid's first coordinate: the middle, then 5/32 and 27/32 of a side."""
    return [(a * height, b * width) for a in (0.5, 5 / 32, 27 / 32) for b in (0.5, 5 / 32, 27 / 32)]


def sharpness(height, width):
    """(max d - d + 10)^0.3, by its largest value, pixel by pixel."""
    maps = torch.zeros(9, height, width, dtype=torch.float64)
    for g, (top, left) in enumerate(places(height, width)):
        distance = [[math.hypot(i - top, j - left) for j in range(width)] for i in range(height)]
        furthest = max(map(max, distance))
        for i in range(height):
            for j in range(width):
                maps[g, i, j] = (furthest - distance[i][j] + 10) ** 0.3
        maps[g] /= maps[g].max()
    return maps


# ---------------------------------------------------------------- the contract


def test_a_classifier_with_noise_of_its_own():
    model, x = gazes(), pictured()
    assert len(x) == 5
    assert model.score_kind == "log_conditional"
    has_noise_of_its_own(model, x, CLASSES)


@pytest.mark.parametrize("smooth", [False, True])
def test_frozen_scores_do_not_depend_on_the_batch(smooth):
    model, x = gazes().double(), pictured(dtype=torch.float64)
    model = model.surrogate() if smooth else model
    ignores_company_when_frozen(model, x)


def test_every_image_is_seen_through_noise_of_its_own_unless_frozen():
    model, x = gazes(GREY), pictured(1, GREY).expand(4, -1, -1, -1)
    with torch.no_grad():
        assert len(model(x).unique(dim=0)) == 4
        seen, kept = model.glances(x, ALL)
        assert (seen.shape, kept.shape) == ((9, 4, *GREY), (9, 4))
        assert len(kept[0].unique()) > 1
        with frozen_noise(model):
            assert len(model(x).unique(dim=0)) == 1
            seen, kept = model.glances(x, ALL)
            assert (seen.shape, kept.shape) == ((9, 4, *GREY), (9, 1))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"])
def test_a_copy_is_the_same_model(copied):
    model, x = gazes(), pictured()
    with torch.no_grad():
        model(x)
        twin = copied(model)
        with frozen_noise(model, 3), frozen_noise(twin, 3):
            torch.testing.assert_close(twin(x), model(x))
        twin.head.weight.zero_()
    assert model.head.weight.abs().max() > 0


def test_its_weights_can_be_kept_and_found_again():
    """What is computed from the image's shape alone is not among them."""
    model, other, x = gazes(seed=1), gazes(seed=2), pictured()
    assert not any("sharp" in name for name in model.state_dict())
    other.load_state_dict(model.state_dict())
    with torch.no_grad(), frozen_noise(model), frozen_noise(other):
        assert torch.equal(model(x), other(x))


@pytest.mark.parametrize("shape", [GREY, COLOUR])
@pytest.mark.parametrize("name", ["nn", "resnet18", "alexnet"])
def test_it_stands_on_any_network_of_images(shape, name):
    network = recipes.build(name, shape, CLASSES, **({"hidden": 8} if name == "nn" else {"width": 1 / 32}))
    before = copy.deepcopy(network.state_dict())
    model = Gazes(network, shape, CLASSES, samples=2).eval()
    with torch.no_grad():
        scores = model(pictured(2, shape))
        torch.testing.assert_close(scores.exp().sum(1), torch.ones(2))
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# ---------------------------------------------------------------- where it looks


@pytest.mark.parametrize("shape", [SHAPE, GREY, COLOUR, (1, 9, 6)])
def test_sharpness_falls_with_the_distance_from_the_gaze(shape):
    torch.testing.assert_close(gazes(shape).sharpness.double(), sharpness(*shape[1:]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_masks_keep_the_share_of_pixels_that_follows_from_the_sharpness(shape):
    """A pixel is kept where sharpness + u > 0.9, u uniform: with the probability min(1, sharpness + 0.1)."""
    model, count = gazes(shape), 60
    _, kept = model.glances(pictured(1, shape).expand(count, -1, -1, -1), ALL, generator())
    chance = (sharpness(*shape[1:]) + 0.1).clamp(max=1)
    pixels, masks = chance[0].numel(), 3 * count
    deviation = (chance * (1 - chance)).sum((1, 2)).sqrt() / pixels / math.sqrt(masks)
    assert ((kept.double().mean(1) - chance.mean((1, 2))).abs() / deviation).max() < 4
    assert 0.8 < kept.min() <= kept.max() < 1


@pytest.mark.parametrize("shape", [GREY, COLOUR])
@pytest.mark.parametrize("smooth", [False, True])
def test_the_share_is_that_of_the_masks_that_are_seen(shape, smooth):
    """On a white image a glance is the mean of its three masks, the same for every channel."""
    model = gazes(shape)
    model = model.surrogate() if smooth else model
    seen, kept = model.glances(torch.ones(4, *shape), ALL, generator())
    torch.testing.assert_close(seen.mean((2, 3, 4)), kept, rtol=0, atol=1e-4)
    thirds = (3 * seen).round() / 3
    torch.testing.assert_close(seen, thirds, rtol=0, atol=1.5e-4)
    assert {round(3 * value) for value in thirds.unique().tolist()} == {0, 1, 2, 3}
    assert torch.equal((3 * seen).round(), (3 * seen[:, :, :1]).round().expand_as(seen))


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_the_place_of_a_gaze_is_always_kept_and_the_corner_is_not(shape):
    """Each map reaches 1 at the pixel nearest to its place."""
    seen, _ = gazes(shape).glances(torch.ones(200, *shape), ALL, generator())
    always = seen.amin((1, 2)) > 0.99
    for g, (top, left) in enumerate(places(*shape[1:])):
        assert always[g, round(top), round(left)]
        for i in range(-2, 3):  # and so are its neighbours
            assert always[g, round(top) + i, round(left)]
            assert always[g, round(top), round(left) + i]
    corners = always[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert not corners[0].any()  # from the middle every corner is far
    assert 0.02 < always.double().mean() < 0.6
    maps = sharpness(*shape[1:])
    assert always[maps > 0.9].all()
    assert not always[maps < 0.88].any()


def test_all_gazes_are_taken_in_order_the_first_in_the_middle():
    model = gazes(loud=5.0)
    assert model.sharpness[0, 4, 4] == 1
    assert model.chosen(pictured()).tolist() == list(range(9))
    before = generator(2)
    assert torch.equal(model.chosen(pictured(), before), ALL)
    assert torch.equal(before.get_state(), generator(2).get_state())  # nothing is drawn where nothing is chosen


@pytest.mark.parametrize("samples", [1, 2, 4, 8])
def test_fewer_gazes_are_drawn_anew_each_as_often_and_none_twice(samples):
    model, source = gazes(samples=samples), generator(1)
    passes = [model.chosen(pictured(), source).tolist() for _ in range(900)]
    assert all(len(set(some)) == samples for some in passes)
    counts = torch.bincount(torch.tensor(passes).flatten(), minlength=9)
    share = samples / 9
    assert ((counts - 900 * share).abs() < 4 * (900 * share * (1 - share)) ** 0.5).all()


def test_under_frozen_noise_the_same_gazes_are_taken_by_every_pass_and_by_the_surrogate():
    model = gazes(samples=2)
    seen = set()
    for seed in range(20):
        with frozen_noise(model, seed):
            some = tuple(model.chosen(pictured()).tolist())
            assert tuple(model.surrogate().chosen(pictured(2)).tolist()) == some
            with torch.no_grad():
                assert torch.equal(model(pictured()), model(pictured()))
        seen.add(some)
    assert len(seen) > 5


# ---------------------------------------------------------------- what it sees


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 5, 4)])
def test_glances_equal_the_loop_over_gazes_images_and_copies(shape, smooth, frozen):
    """The noise is normal and read through its distribution function; of each copy the last channel is the mask's."""
    model, x, channels = gazes(shape).double(), pictured(2, shape, dtype=torch.float64), shape[0]
    model, chosen = model.surrogate() if smooth else model, torch.tensor([7, 0, 3])
    draws = torch.randn(3, 1 if frozen else 2, 3 * (channels + 1) * shape[1] * shape[2], generator=generator(5), dtype=x.dtype)
    uniform = (0.5 * (1 + torch.erf(draws / math.sqrt(2)))).reshape(3, -1, 3, channels + 1, *shape[1:])
    maps = sharpness(*shape[1:])
    if frozen:
        with frozen_noise(model, 5):
            seen, kept = model.glances(x, chosen)
    else:
        seen, kept = model.glances(x, chosen, generator(5))
    for g, gaze in enumerate(chosen.tolist()):
        for b in range(2):
            glance, masks = torch.zeros(shape, dtype=x.dtype), []
            for k in range(3):
                u = uniform[g, 0 if frozen else b, k]
                light = 2 * x[b] - 1
                if smooth:
                    dots = ((light + 0.9) / 1.8).clamp(0, 1)
                else:
                    above = (light - 0.9 + 1.8 * u[:channels]).clamp_min(0)
                    dots = above / (above + 1e-5)
                masks.append((maps[gaze] + u[channels] > 0.9).double())
                glance += dots * masks[-1] / 3
            torch.testing.assert_close(seen[g, b], glance)
            torch.testing.assert_close(kept[g, 0 if frozen else b], torch.stack(masks).mean())


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_many_copies_come_close_to_their_mean(shape):
    """Of a pixel x: clamp((2x - 1 + 0.9) / 1.8, 0, 1) times the chance to be kept."""
    model, count = gazes(shape), 150
    grey = torch.linspace(0, 1, shape[1])[:, None].expand(shape)  # every shade, row by row
    with torch.no_grad():
        seen, _ = model.glances(grey.expand(count, -1, -1, -1), ALL, generator())
        smooth, _ = model.surrogate().glances(grey.expand(count, -1, -1, -1), ALL, generator())
    bright = ((2 * grey.double() - 0.1) / 1.8).clamp(0, 1)
    mean = bright * (sharpness(*shape[1:]) + 0.1).clamp(max=1)[:, None]
    spread = (mean * (1 - mean) / (3 * count)).sqrt()
    assert ((seen.double().mean(1) - mean).abs() <= 6 * spread + 1e-3).all()
    assert ((seen.double().mean(1) - mean).mean((1, 2, 3)).abs() < 2e-3).all()  # softness moves it by less
    assert ((seen.double().mean(1) - mean).square().mean() / spread.square().mean()) < 1.2
    # the surrogate has the noise of the masks left, and no other
    variance = [(views.double().mean(1) - mean).square().mean() for views in (seen, smooth)]
    assert variance[1] < variance[0] / 3
    assert ((smooth.double().mean(1) - mean).mean((1, 2, 3)).abs() < 2e-3).all()


def test_a_glance_is_black_and_white_in_all_but_name():
    """(light above the threshold) / (the same + 1e-5) is between 0.001 and 0.999 for a light below 0.01 of 1.8."""
    model = gazes()
    with torch.no_grad():
        seen, _ = model.glances(pictured(200), ALL, generator())
    thirds = (3 * seen - (3 * seen).round()).abs()
    assert 0 < (thirds > 1e-3).double().mean() < 0.025
    assert seen.min() >= 0
    assert seen.max() <= 1


# ---------------------------------------------------------------- features and scores


def test_scores_are_the_log_of_the_mean_probability_over_gazes():
    model, x = gazes(samples=4, loud=5.0), pictured()
    with torch.no_grad():
        source = generator(3)
        seen, kept = model.glances(x, model.chosen(x, source), source)
        probabilities, logs = torch.zeros(5, CLASSES), torch.zeros(5, CLASSES)
        for g in range(4):
            features = model.trunk(seen[g])
            logits = (features @ model.head.weight.T + model.head.bias) / kept[g][:, None]
            probabilities += logits.softmax(1) / 4
            logs += logits.log_softmax(1) / 4
        scores = model(x, generator(3))
    torch.testing.assert_close(scores, probabilities.log())
    assert (scores - logs).abs().max() > 1e-3
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(5))


@pytest.mark.parametrize("samples", [1, 3, 9])
@pytest.mark.parametrize("smooth", [False, True])
def test_scores_are_log_probabilities(samples, smooth):
    model = gazes(samples=samples, loud=20.0)
    model = model.surrogate() if smooth else model
    with torch.no_grad():
        scores = model(pictured())
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(5))
    assert scores.isfinite().all()


def test_with_samples_is_the_same_network_with_so_many_gazes():
    model, x = gazes(loud=5.0), pictured()
    twin = model.with_samples(3)
    assert (model.samples, twin.samples, model.smooth, twin.smooth) == (9, 3, False, False)
    assert twin.trunk is model.trunk
    assert twin.head is model.head
    with torch.no_grad():
        torch.testing.assert_close(twin(x, generator(1)), gazes(samples=3, loud=5.0)(x, generator(1)))
        with frozen_noise(model, 3):
            assert not is_stochastic(model.with_samples(2))
            assert not is_stochastic(model.surrogate())
        assert is_stochastic(model.with_samples(2))
    assert model.surrogate().with_samples(4).smooth
    assert model.with_samples(4).surrogate().samples == 4


# ---------------------------------------------------------------- the surrogate


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_the_surrogate_looks_through_the_same_masks(shape):
    model, white = gazes(shape), torch.ones(3, *shape)
    with torch.no_grad(), frozen_noise(model, 4):
        other = model.surrogate()
        (seen, kept), (smooth, same) = model.glances(white, ALL), other.glances(white, ALL)
    assert torch.equal(kept, same)
    torch.testing.assert_close(seen, smooth, rtol=0, atol=1.5e-4)
    assert seen.unique().numel() > 3
    assert not model.smooth  # the model itself is as it was
    assert other.smooth


def test_the_surrogate_shares_the_weights():
    model, x = gazes(), pictured()
    other = model.surrogate()
    with torch.no_grad(), frozen_noise(other, 1):
        before = other(x)
        model.head.weight.mul_(5.0)
        assert not torch.allclose(other(x), before)


def test_the_surrogates_gradient_is_that_of_its_score():
    other = gazes(loud=3.0).double().surrogate()
    x = pictured(1, dtype=torch.float64).clamp(0.1, 0.9).requires_grad_(True)
    with frozen_noise(other, 2):
        assert torch.autograd.gradcheck(other, x, atol=1e-6)


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_the_model_has_next_to_no_gradient_in_most_pixels_and_the_surrogate_has_one_in_all(shape):
    model, x = gazes(shape, loud=5.0).double(), pictured(2, shape, dtype=torch.float64).clamp(0.1, 0.9)
    sizes = []
    with frozen_noise(model, 2):
        for net in (model, model.surrogate()):
            inputs = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(net(inputs)[:, 0].sum(), inputs)
            sizes.append(gradient.abs().flatten(1))
    own, smooth = sizes
    assert (own < 1e-2 * own.amax(1, keepdim=True)).double().mean() > 0.85
    assert (own < 0.1 * smooth).double().mean() > 0.85
    assert (smooth > 1e-2 * smooth.amax(1, keepdim=True)).double().mean() > 0.85
    own_part, smooth_part = (size.sort(1, descending=True).values for size in sizes)
    tenth = own.shape[1] // 10
    assert own_part[:, :tenth].sum() > 0.95 * own_part.sum()  # nearly all of it in a tenth of the pixels
    assert smooth_part[:, :tenth].sum() < 0.5 * smooth_part.sum()


def test_a_step_along_the_surrogates_gradient_gains_what_one_along_the_models_own_does_not():
    """Both gradients from one draw of the noise; what a step of length 1 brings is judged on 20 others."""
    model, x = gazes(GREY, loud=5.0), pictured(8, GREY).clamp(0.1, 0.9)

    def score(images):
        with torch.no_grad():
            return torch.stack([model(images, generator(seed))[:, 0] for seed in range(20)]).mean(0)

    gains, before = [], score(x)
    for net in (model, model.surrogate()):
        inputs = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(inputs, generator(1))[:, 0].sum(), inputs)
        step = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
        gains.append((score((x + step).clamp(0, 1)) - before).mean().item())
    assert gains[1] > 5 * abs(gains[0])
    assert gains[1] > 0.1


def test_an_attack_may_take_the_surrogates_gradients():
    model, x = gazes(loud=5.0), pictured().clamp(0.2, 0.8)
    with torch.no_grad():
        y = model(x, generator(3)).argmax(1)
    options = {"steps": 10, "loss": "margin", "surrogate": model.surrogate(), "generator": generator(1)}
    attacked = pgd(model, x, y, Linf(0.2), **options)
    with torch.no_grad():
        losses = [F.nll_loss(model(images, generator(3)), y, reduction="none") for images in (x, attacked)]
    assert (losses[1] > losses[0]).all()
    assert not model.smooth
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


# ---------------------------------------------------------------- the intervention


class Given(nn.Module):
    """Two images, features and shares that were chosen; every gaze has its own."""

    def __init__(self, features, kept):
        super().__init__()
        self.all_features, self.all_kept, self.asked = features, kept, []
        self.head = nn.Linear(features.shape[2], CLASSES)
        nn.init.zeros_(self.head.weight)  # the cross-entropy is log 3
        nn.init.zeros_(self.head.bias)

    def features(self, x, gazes, generator):
        self.asked.append((gazes.tolist(), generator))
        return self.all_features[gazes], self.all_kept[gazes]

    classify = Gazes.classify


def distance(features, kept):
    """How far f_i times the others' mean z is from z_i times the others' mean f: smooth L1, over features, then the mean."""
    total, count = 0.0, 0
    for i in range(len(features)):
        others = [j for j in range(len(features)) if j != i]
        for b in range(features.shape[1]):
            z = [kept[j, b if kept.shape[1] > 1 else 0].item() for j in range(len(features))]
            for d in range(features.shape[2]):
                f = [features[j, b, d].item() for j in range(len(features))]
                apart = abs(f[i] * sum(z[j] for j in others) - sum(f[j] for j in others) * z[i]) / len(others)
                total += 0.5 * apart**2 if apart < 1 else apart - 0.5
            count += 1
    return total / count


def random_glances(count=9, images=2, seed=0, shared=False):
    source = generator(seed)
    kept = 0.7 + 0.3 * torch.rand(count, 1 if shared else images, generator=source, dtype=torch.float64)
    return 2 * torch.randn(count, images, 4, generator=source, dtype=torch.float64), kept


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("chosen", [2, 3, 5, 9])
def test_the_intervention_equals_the_loop_over_gazes(chosen, shared):
    features, kept = random_glances(shared=shared)
    model, y = Given(features, kept).double(), torch.tensor([0, 2])
    x = torch.zeros(2, *SHAPE, dtype=torch.float64)
    loss = intervention(0.7, chosen)(model, x, y, 0.1, generator(4))
    picked = model.asked[0][0]
    assert len(set(picked)) == chosen
    assert loss.item() == pytest.approx(math.log(3) + 0.7 * distance(features[picked], kept[picked]))


def test_two_gazes_by_hand():
    """f = (3, 0) and (1, 0), z = 0.5 and 1: f_1 z_2 = 3 and z_1 f_2 = 0.5 are 2.5 apart; smooth L1 of that is 2."""
    features = torch.tensor([[[3.0, 0.0]], [[1.0, 0.0]]]).repeat(5, 1, 1)[:9]
    kept = torch.tensor([[0.5], [1.0]]).repeat(5, 1)[:9]
    for seed in range(20):
        model = Given(features, kept)
        loss = intervention(1.0, 2)(model, torch.zeros(1, *SHAPE), torch.zeros(1, dtype=torch.long), 0.0, generator(seed))
        one, other = (k % 2 for k in model.asked[0][0])
        assert loss.item() == pytest.approx(
            math.log(3) + (2.0 if one != other else distance(features[[one, one]], kept[[one, one]]))
        )


def test_features_that_grow_with_the_share_are_not_apart():
    """f_i = z_i c, the same c for every gaze of an image, is what the intervention wants."""
    features, kept = random_glances()
    features = kept[..., None] * features[:1]
    model, y = Given(features, kept).double(), torch.tensor([0, 2])
    loss = intervention(1e6)(model, torch.zeros(2, *SHAPE), y, 0.9, generator())
    assert loss.item() == pytest.approx(math.log(3))


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0.0, 1), (0.2499, 1), (0.25, 10), (0.4999, 10), (0.5, 100), (0.7499, 100), (0.75, 1_000), (0.9999, 1_000)],
)
def test_its_weight_grows_tenfold_by_quarters(progress, factor):
    features, kept = random_glances()
    y, x = torch.tensor([0, 2]), torch.zeros(2, *SHAPE)
    model = Given(features, kept).double()
    loss = intervention(0.01)(model, x, y, progress, generator(4)).item() - math.log(3)
    assert loss == pytest.approx(0.01 * factor * distance(features[model.asked[0][0]], kept[model.asked[0][0]]))


def test_gazes_are_chosen_anew_for_every_batch_and_each_as_often():
    features, kept = random_glances()
    model, y, x, source = Given(features, kept), torch.tensor([0, 2]), torch.zeros(2, *SHAPE), generator(0)
    model.all_features, model.all_kept = features.float(), kept.float()
    for _ in range(900):
        intervention(0.1, gazes=3)(model, x, y, 0.0, source)
    counts = torch.tensor([gaze for picked, _ in model.asked for gaze in picked]).bincount(minlength=9)
    assert all(given is source for _, given in model.asked)
    assert all(len(set(picked)) == 3 for picked, _ in model.asked)
    assert (counts - 300).abs().max() < 60


def test_the_intervention_on_a_model_is_the_loop_over_its_glances():
    """Cross-entropy and distance from the model's own features, for the labels in their order."""
    model, x = gazes(loud=5.0).double(), pictured(dtype=torch.float64)
    loss = intervention(0.3, gazes=4)(model, x, Y, 0.6, generator(8))
    source = generator(8)
    chosen = torch.randperm(9, generator=source)[:4]
    features, kept = model.features(x, chosen, source)
    total = 0.0
    for g in range(4):
        logits = (features[g] @ model.head.weight.T + model.head.bias) / kept[g][:, None]
        total += F.cross_entropy(logits, Y) / 4
    torch.testing.assert_close(loss, total + 30 * distance(features, kept))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_its_noise_is_the_generators():
    model, x, state = gazes(), pictured(), torch.get_rng_state()
    a, b, c = (intervention()(model, x, Y, 0.5, generator(seed)).item() for seed in (0, 0, 1))
    assert a == b != c
    assert torch.equal(torch.get_rng_state(), state)


def test_a_large_weight_brings_the_features_together():
    x = pictured(60)
    y = (x.flatten(1).mean(1) > 0.5).long()
    apart = []
    for weight in (0.0, 1.0):
        model = gazes()
        fit(model, intervention(weight), x, y, epochs=20, batch_size=20, learning_rate=1e-2)
        with torch.no_grad():
            features, kept = model.features(x, ALL, generator(3))
        apart.append(distance(features[:4], kept[:4]))
    assert apart[1] < 0.5 * apart[0]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"weight": -0.1}, "weight"),
        ({"weight": None}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"gazes": 1}, "gazes"),
        ({"gazes": 10}, "gazes"),
        ({"gazes": 2.5}, "gazes"),
    ],
)
def test_bad_arguments_of_the_intervention_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        intervention(**arguments)


def test_a_whole_number_of_gazes_may_be_written_as_a_float():
    model, x = gazes(), pictured()
    whole, written = (intervention(gazes=g)(model, x, Y, 0.5, generator()).item() for g in (3, 3.0))
    assert whole == written


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"network": len}, "network"),
        ({"network": nn.Flatten()}, "network"),
        ({"image_shape": (8, 8)}, "image_shape"),
        ({"image_shape": (1, 8, 0)}, "image_shape"),
        ({"classes": 1}, "classes"),
        ({"classes": None}, "classes"),
        ({"samples": 0}, "samples"),
        ({"samples": 10}, "samples"),
        ({"samples": 2.5}, "samples"),
    ],
)
def test_bad_arguments_of_the_model_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        Gazes(**{"network": DenseNetwork(SHAPE, CLASSES, hidden=4), "image_shape": SHAPE, "classes": CLASSES, **arguments})


def test_a_bad_number_of_samples_is_named():
    for samples in (0, 10, 2.5, None):
        with pytest.raises(ValueError, match=r"^samples must"):
            gazes().with_samples(samples)
