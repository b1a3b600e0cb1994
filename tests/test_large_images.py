"""`interpretable`'s second half: ResNet50 on photographs of 128 pixels, out of a folder, and every explanation of them.

The document's Small ImageNet cannot be had. Its figures come out of the same calls as those of CIFAR-10, which is what is
tested here, on a folder of coloured pictures that the test paints.
"""

import math

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from hybridgen_lib import data
from hybridgen_lib.attacks import L2
from hybridgen_lib.data import as_float
from hybridgen_lib.explain.attribution import expected_gradients, integrated_gradients
from hybridgen_lib.explain.frechet import frechet_distance
from hybridgen_lib.explain.inversion import invert, representation_gap
from hybridgen_lib.explain.representation import activating, representation
from hybridgen_lib.explain.synthesis import generate_class, normal_draws, visualize_feature
from hybridgen_lib.models.backbones import resnet
from hybridgen_lib.recipes import RECIPES, recipe_of, trained

SIDE, CLASSES = 128, ("blue", "green", "red")
FEW = {"epochs": 2, "batch_size": 8, "width": 1 / 16, "shift": 2}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three classes by colour, 12 + 4 images each, in folders as a reader would have them."""
    root, noise = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for c, name in enumerate(CLASSES):
        for part, count in (("train", 12), ("test", 4)):
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = noise.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
                pixels[..., 2 - c] += 120
                Image.fromarray(pixels).save(root / part / name / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def images(photographs, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield data.load(f"folder:{photographs}")


@pytest.fixture(scope="module")
def pair(images, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDGEN_CACHE", str(tmp_path_factory.mktemp("models")))
        plain = trained("resnet50", images, "quick", 0, device="cpu", **FEW)
        robust = trained("resnet50-at-l2", images, "quick", 0, device="cpu", **FEW, held_out=6, steps=1)
    return {"plain": plain, "robust": robust}


def test_the_settings_are_the_documents():
    for name in ("resnet50", "resnet50-at-l2"):
        assert recipe_of(name)[0] == name
    robust = RECIPES["resnet50-at-l2"].settings["paper"]
    assert (robust["eps"], robust["steps"], robust["width"]) == (1.5, 20, 1.0)
    assert robust["step"] * robust["eps"] == pytest.approx(2.5 * 1.5 / 20)


@pytest.mark.parametrize("depth", [18, 50])
def test_of_large_images_it_is_torchvisions_network(depth):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=7)
    ours = resnet(depth, (3, SIDE, SIDE), 7)
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ["plain", "robust"])
def test_every_method_explains_a_photograph(which, pair, images):
    model = pair[which]
    x, y = as_float(images.test_x[::4]), images.test_y[::4]
    before = [p.clone() for p in model.parameters()]
    black = integrated_gradients(model, x, y, steps=8, examples_per_pass=9)
    with torch.no_grad():
        p, p0 = (model(z).softmax(1).gather(1, y[:, None])[:, 0] for z in (x, torch.zeros_like(x)))
    torch.testing.assert_close(black.values.sum((1, 2, 3)) - black.gap, p - p0, atol=1e-4, rtol=1e-3)
    expected = expected_gradients(model, x, y, as_float(images.train_x[::6]), samples=12, examples_per_pass=8)
    assert expected.values.shape == expected.error.shape == x.shape
    represent = representation(model)
    most, least = activating(represent, as_float(images.test_x), 0, 3)
    assert not set(most.tolist()) & set(least.tolist())
    with torch.no_grad():
        raised = represent(visualize_feature(represent, x, [0, 1], steps=4))[:, :2].mean(1)
        assert (raised > represent(x)[:, :2].mean(1)).all()
    start = x.roll(1, 0)
    found = invert(represent, x, start, steps=6, examples_per_pass=2)
    assert (found.distance < representation_gap(represent, start, x)).all()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_class_images_start_from_draws_whose_covariance_would_not_fit(pair, images):
    """128 x 128 x 3 numbers: a covariance of 9.7 GB. The draws stay in the span of the class's 12 images."""
    red = as_float(images.train_x[images.train_y == 2]).double()
    wide = (red - 0.5) * 0.1 + 0.5  # nothing is clamped
    draws = normal_draws(wide, 5, torch.Generator().manual_seed(0))
    basis = (wide - wide.mean(0)).flatten(1)
    inside = (draws - wide.mean(0)).flatten(1)
    rest = inside - torch.linalg.lstsq(basis.T, inside.T).solution.T @ basis
    assert rest.abs().max() < 1e-8
    y = torch.full((5,), 2)
    made = generate_class(pair["robust"], draws.float(), y, ball=L2(40.0), steps=6, step_size=1.0)
    assert made.shape == (5, 3, SIDE, SIDE)
    assert (made - draws).flatten(1).norm(dim=1).max() <= 40.0
    with torch.no_grad():
        gain = pair["robust"](made)[:, 2] - pair["robust"](draws.float())[:, 2]
        features = [representation(pair["plain"])(z) for z in (made, as_float(images.test_x))]
    assert (gain > 0).all()
    assert math.isfinite(frechet_distance(*features))
