"""RemOve And Retrain: exactly k pixels, removed from training and test images alike, and a known truth that is found."""

import importlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures_models import Constant
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from test_attacks_on_models import SIZES

from hybridgen_lib import data, recipes
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.data import ImageData, as_float
from hybridgen_lib.explain import decoy, decoy_mask, imputation, integrated_gradients
from hybridgen_lib.explain.imputation import linear_fill
from hybridgen_lib.explain.roar import (
    IG,
    attributions,
    blurred,
    edges,
    mask_images,
    pixel_scores,
    ranked,
    remove,
    roar,
    top_pixels,
)

module = importlib.import_module("hybridgen_lib.explain.roar")  # its name in the package is the function's
SMALL = {"width": 2, "hidden": 4}
PLANTED = 90 / 784  # ten squares of nine pixels


def source(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HYBRIDGEN_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def tiny():
    """Sixty colour pictures of 8 x 8: three classes told apart by where they are bright."""
    x = torch.randint(0, 100, (60, 3, 8, 8), generator=source(), dtype=torch.uint8)
    y = torch.arange(60) % 3
    for c in range(3):
        x[y == c, :, 2 * c : 2 * c + 3] += 120
    return ImageData(x[:40], y[:40], x[40:], y[40:], ("a", "b", "c"), "tiny")


@pytest.fixture(scope="module")
def decoys():
    """The label in the squares on the border and nowhere else: 1,500 pictures to train on, 500 to test."""
    mini = data.load("fashion-mini")
    few = {"train_x": mini.train_x[:1500], "train_y": mini.train_y[:1500], "test_x": mini.test_x[:500]}
    return decoy(replace(mini, **few, test_y=mini.test_y[:500]), seed=0)


def random_scores(images, seed=0):
    generator = source(seed)
    return tuple(torch.rand(len(x), *x.shape[2:], generator=generator) for x in (images.train_x, images.test_x))


# ---------------------------------------------------------------- which pixels


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3, 1000]))
def test_exactly_k_pixels_and_none_below_one_that_stays(seed, fraction, height, width, levels):
    scores = torch.randint(0, levels, (4, height, width), generator=source(seed)).float()
    chosen = top_pixels(scores, fraction, source(seed))
    assert (chosen.flatten(1).sum(1) == round(fraction * height * width)).all()
    for score, mask in zip(scores, chosen, strict=True):
        if mask.any() and not mask.all():
            assert score[mask].min() >= score[~mask].max()


def test_ties_are_broken_by_the_seed_each_pixel_as_often_as_any_other():
    scores = torch.zeros(4000, 4, 5)
    chosen = top_pixels(scores, 0.3, source(1))
    assert torch.equal(chosen, top_pixels(scores, 0.3, source(1)))
    assert not torch.equal(chosen, top_pixels(scores, 0.3, source(2)))
    assert (chosen.float().mean(0) - 0.3).abs().max() < 5 * (0.3 * 0.7 / 4000) ** 0.5
    assert len(chosen.flatten(1).unique(dim=0)) > 3000  # every image has its own


def test_a_larger_share_contains_the_smaller():
    scores = torch.randint(0, 3, (50, 6, 6), generator=source()).float()
    shares = [top_pixels(scores, fraction, source(7)) for fraction in (0.1, 0.3, 0.5, 0.9, 1.0)]
    for small, large in itertools.pairwise(shares):
        assert (small <= large).all()


def test_a_pixel_is_what_its_channels_say_together():
    values = torch.tensor([[1.0, -3.0], [-1.0, -1.0], [0.5, 0.0]]).view(1, 3, 1, 2)
    torch.testing.assert_close(pixel_scores(values), torch.tensor([[[0.5, 4.0]]]))


def test_ranking_entries_is_another_thing():
    """The control for a bug: the top entries, as many as 30 % of the pixels have, lie in far more pixels than that, almost
    none of which they cover; and where two channels cancel the pixel is taken though its sum is 0."""
    values = torch.randn(20, 3, 10, 10, generator=source())
    values[:, 0, 0, 0], values[:, 1, 0, 0], values[:, 2, 0, 0] = 9.0, -9.0, 0.0
    pixels = top_pixels(pixel_scores(values), 0.3, source())
    entries = top_pixels(values.abs().flatten(2).transpose(1, 2), 0.3, source()).view(20, 10, 10, 3)
    assert (pixels.flatten(1).sum(1) == 30).all()
    assert (entries.flatten(1).sum(1) == 90).all()
    assert (entries.any(-1).flatten(1).sum(1) > 50).all()
    assert entries.any(-1)[:, 0, 0].all()
    assert not pixels[:, 0, 0].any()


# ---------------------------------------------------------------- rankings that know no model


def test_edges_are_those_of_scipy():
    x = torch.randint(0, 256, (3, 3, 9, 7), generator=source(), dtype=torch.uint8)
    found = edges(x).double()
    for image, mine in zip(x.double().numpy() / 255, found, strict=True):
        lengths = [np.hypot(*(ndimage.sobel(plane, axis, mode="nearest") for axis in (0, 1))) for plane in image]
        torch.testing.assert_close(mine, torch.from_numpy(sum(lengths)), rtol=1e-5, atol=1e-5)


def test_an_even_picture_has_no_edges():
    assert edges(torch.full((2, 1, 6, 6), 77, dtype=torch.uint8)).abs().max() < 1e-6


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_blur_is_that_of_scipy(sigma):
    scores = torch.rand(3, 20, 24, generator=source(), dtype=torch.float64)
    there = ndimage.gaussian_filter(scores.numpy(), sigma, axes=(1, 2), mode="constant", radius=int(np.ceil(3 * sigma)))
    torch.testing.assert_close(blurred(scores, sigma), torch.from_numpy(there))


def test_every_ranking_is_one_of_the_images_and_random_knows_nothing(tiny):
    for ranking in ("random", "none"):
        assert all(not part.any() for part in ranked(ranking, tiny))
    for part, x in zip(ranked("edges", tiny), (tiny.train_x, tiny.test_x), strict=True):
        assert torch.equal(part, edges(x))


def test_the_blurred_ranking_is_the_explanations_under_a_blur(tiny, monkeypatch):
    monkeypatch.setattr(module, "attributions", lambda *a, **k: random_scores(tiny))
    for part, raw in zip(ranked("blurred", tiny, Constant(3)), random_scores(tiny), strict=True):
        assert torch.equal(part, blurred(raw, 2.0))
        assert not torch.equal(part, raw)


def test_many_images_are_ranked_in_parts_and_no_ranking_without_a_source():
    scores = torch.arange(10_002.0).view(5_001, 1, 2)
    assert top_pixels(scores, 0.5, source())[:, 0].tolist() == [[False, True]] * 5_001
    with pytest.raises(ValueError, match="generator"):
        top_pixels(scores, 0.5, None)


# ---------------------------------------------------------------- removal


def test_top_pixels_become_the_training_mean_in_both_sets_and_nothing_else_changes(tiny):
    scores, before = random_scores(tiny), tiny.checksum
    left = remove(tiny, scores, 0.3, seed=4)
    mean = (tiny.train_x.numpy().astype(float).mean((0, 2, 3)) + 0.5).astype(int)
    assert len(set(mean.tolist())) > 1  # one for each channel
    for old, new, score in zip((tiny.train_x, tiny.test_x), (left.train_x, left.test_x), scores, strict=True):
        assert new.dtype == torch.uint8
        for image, changed, ranking in zip(old, new, score, strict=True):
            gone = ranking >= ranking.flatten().sort(descending=True).values[round(0.3 * 64) - 1]
            assert gone.sum() == 19
            assert (changed[:, gone].T.numpy() == mean).all()
            assert torch.equal(changed[:, ~gone], image[:, ~gone])
    assert left.name == tiny.name
    assert left.checksum != before
    assert torch.equal(left.train_y, tiny.train_y)
    assert before == replace(tiny).checksum  # the images themselves are as they were


@pytest.mark.parametrize("imputation", ["mean", "linear"])
def test_nothing_is_removed_at_zero(tiny, imputation):
    assert remove(tiny, random_scores(tiny), 0.0, imputation).checksum == tiny.checksum


def test_masks_are_where_pixels_are_removed(tiny):
    scores = random_scores(tiny)
    left, masks = remove(tiny, scores, 0.5, seed=2), mask_images(tiny, scores, 0.5, seed=2)
    assert set(masks.train_x.unique().tolist()) == {0, 255}
    assert masks.train_x.shape == tiny.train_x.shape
    for old, new, mask in zip(
        (tiny.train_x, tiny.test_x), (left.train_x, left.test_x), (masks.train_x, masks.test_x), strict=True
    ):
        assert (mask.float().mean((1, 2, 3)) == 127.5).all()  # of 64 pixels 32
        assert torch.equal(mask[:, 0], mask[:, 2])
        assert torch.equal(new[mask == 0], old[mask == 0])


# ---------------------------------------------------------------- filling in


def by_hand(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The same system, dense, written pixel by pixel."""
    height, width = hole.shape
    places = list(zip(*np.nonzero(hole), strict=True))
    left, right = np.zeros((len(places), len(places))), np.zeros(len(places))
    for k, (row, column) in enumerate(places):
        for r in range(max(0, row - 1), min(height, row + 2)):
            for c in range(max(0, column - 1), min(width, column + 2)):
                weight = {0: 0.0, 1: 1 / 6, 2: 1 / 12}[abs(r - row) + abs(c - column)]
                left[k, k] += weight
                if hole[r, c]:
                    left[k, places.index((r, c))] -= weight
                else:
                    right[k] += weight * image[r, c]
    filled = image.copy()
    filled[hole] = np.linalg.solve(left, right)
    return filled


def test_filling_in_solves_the_linear_system(monkeypatch):
    monkeypatch.setattr(imputation, "NOISE", 0.0)
    x = torch.randint(0, 256, (4, 2, 7, 6), generator=source(), dtype=torch.uint8)
    removed = top_pixels(torch.rand(4, 7, 6, generator=source(1)), 0.6, source())
    filled = linear_fill(x, removed)
    for n in range(4):
        for channel in range(2):
            exact = by_hand(x[n, channel].double().numpy(), removed[n].numpy())
            assert np.abs(filled[n, channel].numpy() - exact).max() <= 0.5 + 1e-9
            assert torch.equal(filled[n, channel][~removed[n]], x[n, channel][~removed[n]])


def test_a_straight_ramp_is_recovered_and_so_is_an_even_picture_up_to_its_corners(monkeypatch):
    monkeypatch.setattr(imputation, "NOISE", 0.0)
    ramp = (10 * torch.arange(12)[:, None] + 3 * torch.arange(12)).to(torch.uint8).expand(1, 1, 12, 12)
    inside = torch.zeros(1, 12, 12, dtype=torch.bool)
    inside[:, 1:-1, 1:-1] = torch.rand(10, 10, generator=source()) < 0.8
    assert torch.equal(linear_fill(ramp, inside), ramp)
    even, anywhere = torch.full((1, 1, 12, 12), 90, dtype=torch.uint8), torch.ones(1, 12, 12, dtype=torch.bool)
    anywhere[0, 5, 5] = False
    assert torch.equal(linear_fill(even, anywhere), even)


def test_the_noise_is_small_and_that_of_the_seed():
    even = torch.full((20, 1, 20, 20), 90, dtype=torch.uint8)
    removed = top_pixels(torch.zeros(20, 20, 20), 0.5, source())
    state = torch.random.get_rng_state()
    filled = linear_fill(even, removed, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(filled, linear_fill(even, removed, seed=3))
    assert not torch.equal(filled, linear_fill(even, removed, seed=4))
    off = filled[:, 0][removed].double() - 90
    assert off.mean().abs() < 5 * 2.57 / 4000**0.5
    assert off.std() == pytest.approx((2.55**2 + 1 / 12) ** 0.5, rel=0.06)  # rounded to whole grey values


# ---------------------------------------------------------------- attributions


@pytest.mark.parametrize("name", ["cnn", "gbz", "hybrid-shallow"])
def test_attributions_explain_the_models_own_answer_and_are_computed_once(tiny, name, monkeypatch, cache):
    model = recipes.build(name, (3, 8, 8), 3, **SIZES.get(name, SMALL)).train()
    state, wanted = torch.random.get_rng_state(), [p.requires_grad for p in model.parameters()]
    train, test = attributions(model, tiny, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert (train.shape, test.shape) == ((40, 8, 8), (20, 8, 8))
    x = as_float(tiny.test_x[3:5])  # in other company
    with frozen_noise(model.eval(), 5):
        answer = model(x).argmax(1)
        values = integrated_gradients(model, x, answer, steps=16, rule="gauss-legendre", output="score").values
    torch.testing.assert_close(test[3:5], values.sum(1).abs(), rtol=1e-4, atol=1e-6)
    assert [path.name for path in (cache / "attributions").iterdir()] == [module._identity(model, tiny, 5) + ".safetensors"]
    monkeypatch.setattr(module, "_explained", lambda *a: pytest.fail("explained again"))
    assert torch.equal(attributions(model, tiny, seed=5)[0], train)


def test_other_weights_images_noise_or_settings_have_attributions_of_their_own(tiny, monkeypatch):
    model = recipes.build("gbz", (3, 8, 8), 3, **SMALL)
    other = replace(tiny, test_x=tiny.test_x.flip(0))
    names = [module._identity(model, images, seed) for images, seed in ((tiny, 0), (other, 0), (tiny, 1))]
    names.append(module._identity(recipes.build("gbz", (3, 8, 8), 3, seed=1, **SMALL), tiny, 0))
    names.append(module._identity(model.with_samples(7), tiny, 0))
    names += [module._identity(model.do(z=value), tiny, 0) for value in (0, 1.5)]
    monkeypatch.setitem(IG, "steps", 8)
    names.append(module._identity(model, tiny, 0))
    assert len(set(names)) == 8


def test_models_of_equal_weights_that_answer_differently_have_attributions_of_their_own(tiny):
    rules = [recipes.build("cvae", (3, 8, 8), 3, rule=rule, hidden=8, code=2) for rule in ("nearest", "mse")]
    assert recipes.fingerprint(rules[0]) == recipes.fingerprint(rules[1])
    assert module._identity(rules[0], tiny, 0) != module._identity(rules[1], tiny, 0)


# ---------------------------------------------------------------- remove, retrain, judge


def true_ranking(monkeypatch):
    """In place of integrated gradients, the truth: the squares that hold the label."""
    mask = decoy_mask((1, 28, 28), 10).float()
    scores = lambda images: tuple(mask.expand(len(x), -1, -1) for x in (images.train_x, images.test_x))  # noqa: E731
    monkeypatch.setattr(module, "attributions", lambda model, images, seed: scores(images))


def test_the_true_ranking_takes_all_and_a_random_one_nothing(decoys, monkeypatch):
    true_ranking(monkeypatch)
    true, chance = (roar("logreg", decoys, ranking, PLANTED) for ranking in ("ig", "random"))
    for found in (true, chance):
        assert found.estimate("clean_accuracy").low > 0.97
        assert found.epsilons == [PLANTED]
        assert found.index == list(range(500))
    after = true.estimate("accuracy", PLANTED)
    assert after.low < 0.1 < after.high  # ten classes
    assert true.estimate("accuracy_drop", PLANTED).low > 0.8
    assert chance.estimate("accuracy", PLANTED).low > 0.95
    assert chance.estimate("accuracy_drop", PLANTED).high < 0.05


def test_filled_in_from_its_neighbours_the_truth_is_gone_as_well(decoys, monkeypatch):
    true_ranking(monkeypatch)
    few = replace(decoys, train_x=decoys.train_x[:600], train_y=decoys.train_y[:600])
    assert roar("logreg", few, "ig", PLANTED, "linear").estimate("accuracy", PLANTED).high < 0.2


def test_a_mask_that_leaks_tells_the_class_and_a_random_one_does_not(decoys, monkeypatch):
    """Integrated gradients from black see only the white square. Its removal leaves a hole where it was: the label, again."""
    fraction = 9 / 784
    mask = roar("logreg", decoys, "mask", fraction)
    assert mask.estimate("accuracy", fraction).low > 0.95
    assert roar("logreg", decoys, "ig", fraction).estimate("accuracy", fraction).low > 0.8  # so nothing drops
    monkeypatch.setattr(module, "attributions", lambda model, images, seed: ranked("random", images))
    after = roar("logreg", decoys, "mask", 0.3).estimate("accuracy", 0.3)
    assert after.low < 0.1 < after.high


def test_training_and_test_images_lose_their_pixels_before_anything_augments_them(tiny, monkeypatch):
    """What the loop is given has holes already; the shift and the mirror are in the objective, which comes after."""
    cache_file = importlib.import_module("hybridgen_lib.recipes.cache")
    recipe_file = importlib.import_module("hybridgen_lib.recipes.recipe")
    name, given, judged = "vgg16@width=0.0625,epochs=1,shift=2", [], []
    model = recipes.trained(name, tiny, "paper")
    fit, outcomes = recipe_file.fit, module.attack_outcomes
    monkeypatch.setattr(
        recipe_file, "fit", lambda net, objective, x, y, **run: given.append(x) or fit(net, objective, x, y, **run)
    )
    monkeypatch.setattr(
        module, "attack_outcomes", lambda net, images, *a, **k: judged.append((net, images)) or outcomes(net, images, *a, **k)
    )
    roar(name, tiny, "edges", 0.3, profile="paper", model=model)
    left = remove(tiny, ranked("edges", tiny), 0.3)
    assert cache_file.RECIPES["vgg16"].settings["paper"]["shift"] > 0
    assert len(given) == 1
    assert torch.equal(given[0], left.train_x)
    (again, seen), (first, clean) = judged
    assert torch.equal(seen.test_x, left.test_x)
    assert again is not model
    assert first is model
    assert clean is tiny


def test_a_hybrids_backbone_is_trained_again_and_neither_is_kept(tiny, monkeypatch, cache):
    cache_file = importlib.import_module("hybridgen_lib.recipes.cache")
    name, asked, trained = "hybrid-shallow@width=0.0625,hidden=4,code=2,manipulation=2,epochs=1,samples=2", [], recipes.trained

    def watched(recipe, images, *a, **k):
        asked.append((recipe.partition("@")[0], images.checksum))
        return trained(recipe, images, *a, **k)

    monkeypatch.setattr(cache_file, "trained", watched)
    monkeypatch.setattr(recipes, "trained", watched)
    outcomes = roar(name, tiny, "ig", 0.5, draws=3)
    left = remove(tiny, ranked("ig", tiny, trained(name, tiny)), 0.5).checksum
    assert asked == [(n, s) for s in (tiny.checksum, left) for n in ("hybrid-shallow", "vgg16")]
    assert outcomes.draws == 3
    kept = [path.name.partition("-tiny-")[0] for path in cache.rglob("*-tiny-*.safetensors")]
    assert sorted(kept) == ["hybrid-shallow", "vgg16"]  # of the whole images
    assert not list(cache.rglob("*.partial"))


@pytest.mark.parametrize(("ranking", "fraction"), [("random", 0.5), ("edges", 0.5), ("none", 0.0)])
def test_where_no_model_chose_the_pixels_two_heads_train_their_backbone_once(tiny, monkeypatch, cache, ranking, fraction):
    trained = []
    monkeypatch.setitem(
        recipes.RECIPES,
        "vgg16",
        replace(
            recipes.RECIPES["vgg16"],
            train=lambda model, s, images, *, seed, **run: trained.append((images.checksum, seed)) or [0.0],
        ),
    )
    sizes = "width=0.0625,hidden=4,code=2,epochs=1,samples=2"
    for name in ("vgg16@width=0.0625", f"gbz-conv9@{sizes}", f"hybrid-deep@{sizes},manipulation=2"):
        roar(name, tiny, ranking, fraction, draws=2)
    left = remove(tiny, ranked(ranking, tiny), fraction)
    assert trained == [(tiny.checksum, 0), (left.checksum, 100 if ranking == "none" else 0)]


def test_without_removal_only_the_seed_of_the_training_is_another(tiny, monkeypatch):
    asked, trained = [], recipes.trained
    monkeypatch.setattr(
        recipes,
        "trained",
        lambda name, images, profile, seed, **k: asked.append((images, seed)) or trained(name, images, profile, seed, **k),
    )
    roar("logreg", tiny, "none", 0.0)
    assert [seed for _, seed in asked] == [0, 100]
    assert asked[1][0].checksum == tiny.checksum


def test_a_cell_is_a_function_of_its_seed(tiny):
    one, again, other = (roar("logreg@epochs=1", tiny, "ig", 0.7, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.right, again.right)
    assert torch.equal(one.clean, again.clean)
    assert not (torch.equal(one.right, other.right) and torch.equal(one.clean, other.clean))


def test_a_killed_cell_goes_on_from_its_last_epoch(tiny, monkeypatch):
    loop = importlib.import_module("hybridgen_lib.training.loop")
    whole = roar("logreg@epochs=6", tiny, "ig", 0.5)
    save, epochs = loop.save_atomically, []

    def killed(state, path):
        save(state, path)
        epochs.append(len(state["history"]))
        if len(epochs) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        roar("logreg@epochs=6", tiny, "ig", 0.5)
    resumed = roar("logreg@epochs=6", tiny, "ig", 0.5)
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert torch.equal(resumed.right, whole.right)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: pixel_scores(torch.zeros(2, 3, 4)), "values must be finite floats in 4 dimensions, got torch.float32"),
        (lambda t: pixel_scores(torch.full((1, 1, 2, 2), torch.nan)), "values must be finite"),
        (lambda t: blurred(torch.zeros(1, 2, 2), 0), "sigma must be a number >="),
        (lambda t: top_pixels(torch.zeros(1, 2, 2, dtype=torch.long), 0.1, source()), "scores must be finite floats"),
        (lambda t: top_pixels(torch.zeros(1, 2, 2), 1.1, source()), "fraction must be a number in"),
        (lambda t: remove(t, random_scores(t)[::-1], 0.1), "scores must be those of the training and the test images"),
        (lambda t: remove(t, random_scores(t)[:1], 0.1), "scores must be those of the training and the test images"),
        (lambda t: remove(t, random_scores(t), 0.1, "zero"), "imputation must be one of mean, linear; got 'zero'"),
        (lambda t: remove(t, random_scores(t), 0.1, seed=-1), "seed must be an integer"),
        (lambda t: remove(t, random_scores(t), 1.0, "linear"), "removed must leave a pixel of every image"),
        (lambda t: linear_fill(t.test_x, torch.zeros(20, 8, 8)), "removed must be bool"),
        (lambda t: ranked("sobel", t), "ranking must be one of ig, random, edges, blurred, mask, none; got 'sobel'"),
        (lambda t: roar("cnn", t, "best"), "ranking must be one of"),
        (lambda t: roar("cnn", t, imputation="zero"), "imputation must be one of"),
        (lambda t: roar("cnn", t, fraction=30), "fraction must be a number in"),
        (
            lambda t: roar("cnn", t, "ig", 0.0),
            "fraction must be 0 for the ranking none and above 0 for any other, got 0.0 for ig",
        ),
        (lambda t: roar("cnn", t, "none", 0.3), "fraction must be 0 for the ranking none"),
        (lambda t: roar("cnn", t, seed=-1), "seed must be an integer"),
        (lambda t: roar("cnn", t, draws=0), "draws must be an integer"),
        (lambda t: linear_fill(t.test_x / 255, torch.zeros(20, 8, 8).bool()), "x must be uint8 images"),
        (lambda t: roar("cnn", "fashion-mini"), "images must be an ImageData"),
        (lambda t: remove(t.test_x, random_scores(t), 0.1), "images must be an ImageData"),
        (lambda t: mask_images(t.test_x, random_scores(t), 0.1), "images must be an ImageData"),
        (lambda t: attributions(Constant(3), t.test_x), "images must be an ImageData"),
        (lambda t: ranked("ig", t), "model must be a torch.nn.Module"),
        (lambda t: roar("no-net", t), "name must be one of"),
        (lambda t: roar("cnn", t, profile="full"), "profile must be one of"),
        (lambda t: roar("no-net", t, "edges", model=Constant(3)), "name must be one of"),
        (lambda t: roar("cnn", t, "edges", profile="full", model=Constant(3)), "profile must be one of"),
        (lambda t: roar("cnn", t, "edges", device="banana", model=Constant(3)), "device must be"),
        (lambda t: roar("cnn", t, model=torch.zeros(3)), "model must be a torch.nn.Module"),
        (lambda t: attributions(Constant(3), t), "gradient"),
    ],
)
def test_bad_input_is_named(tiny, call, words, monkeypatch):
    monkeypatch.setattr(importlib.import_module("hybridgen_lib.recipes.recipe"), "fit", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(ValueError, match=words):
        call(tiny)
