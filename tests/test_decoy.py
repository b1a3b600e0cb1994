"""Decoy pictures: the label is in the squares, all of it, and nowhere else."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybridgen_lib import data
from hybridgen_lib.explain.decoy import decoy, decoy_mask, decoy_places, share_inside


@pytest.fixture(scope="module")
def pair():
    images = data.load("fashion-mini")
    return images, decoy(images, seed=3)


def test_the_label_can_be_read_off_the_squares(pair):
    _, decoys = pair
    places = decoy_places((1, 28, 28), 10)
    for x, y in ((decoys.train_x, decoys.train_y), (decoys.test_x, decoys.test_y)):
        light = torch.stack([x[:, 0, r : r + 3, c : c + 3].flatten(1).float().mean(1) for r, c in places], dim=1)
        assert torch.equal(light, 255.0 * torch.nn.functional.one_hot(y, 10))  # one white, nine black


def test_outside_the_squares_nothing_is_changed_and_nothing_says_the_label(pair):
    images, decoys = pair
    outside = ~decoy_mask((1, 28, 28), 10)
    assert torch.equal(decoys.train_x[:, 0, outside], images.train_x[:, 0, outside])
    assert torch.equal(decoys.test_x[:, 0, outside], images.test_x[:, 0, outside])
    # the new labels do not go with the old ones: chi squared of the 10 x 10 table, 81 degrees of freedom, 99.9 % point 126
    table = torch.zeros(10, 10).index_put_((images.train_y, decoys.train_y), torch.ones(len(images.train_y)), accumulate=True)
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    assert ((table - expected).square() / expected).sum() < 126


def test_a_seed_decides_the_labels_and_the_global_source_is_left_alone(pair):
    images, decoys = pair
    state = torch.random.get_rng_state()
    again, other = decoy(images, seed=3), decoy(images, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.checksum == decoys.checksum != other.checksum
    assert decoys.name == "fashion-mini-decoy"
    assert decoys.classes == images.classes


@given(height=st.integers(8, 70), width=st.integers(8, 70), classes=st.integers(2, 30), size=st.integers(1, 6))
def test_squares_lie_on_the_border_and_never_touch(height, width, classes, size):
    try:
        places = decoy_places((1, height, width), classes, size)
    except ValueError:
        assert 2 * (height + width - 2 * size) // classes <= 2 * size or min(height, width) < 2 * size
        return
    for row, column in places:
        assert 0 <= row <= height - size
        assert 0 <= column <= width - size
        assert row in (0, height - size) or column in (0, width - size)
    assert decoy_mask((1, height, width), classes, size).sum() == classes * size**2  # none overlaps another


def test_share_inside_of_known_attributions():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 0] = True
    values = torch.zeros(3, 2, 4, 4)
    values[0, 0, 0, 0] = -5.0  # all inside, whatever its sign
    values[1] = 1.0  # everywhere the same: the mask's share of the image
    values[2, :, 0, 0] = torch.tensor([1.0, -1.0])  # channels of a pixel cancel: then nothing is attributed
    torch.testing.assert_close(share_inside(values, mask), torch.tensor([1.0, 1 / 16, 0.0]))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: decoy_places((1, 28, 28), 10, size=6), "size"),
        (lambda: decoy_places((1, 28, 28), 1), "classes"),
        (lambda: decoy_places((28, 28), 10), "image_shape"),
        (lambda: decoy(data.load("fashion-mini"), seed=-1), "seed"),
        (lambda: decoy_mask((1, -2, 3), 10), "image_shape"),
        (lambda: decoy(torch.zeros(3, 1, 28, 28)), "images"),
        (lambda: share_inside([[0.0]], torch.zeros(4, 4).bool()), "values"),
        (lambda: share_inside(torch.zeros(1, 1, 4, 4).long(), torch.zeros(4, 4).bool()), "values"),
        (lambda: share_inside(torch.zeros(1, 1, 4, 4), torch.zeros(4, 4)), "mask"),
        (lambda: share_inside(torch.zeros(1, 1, 4, 4), torch.zeros(5, 5, dtype=torch.bool)), "mask"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        call()


@pytest.mark.parametrize(("side", "classes", "size"), [(2, 3, 1), (8, 4, 2), (12, 11, 2), (28, 10, 3), (15, 11, 2)])
def test_squares_never_touch(side, classes, size):
    try:
        places = decoy_places((1, side, side + 1), classes, size)
    except ValueError:
        return
    for (a, b), (c, d) in itertools.combinations(places, 2):
        assert max(abs(a - c), abs(b - d)) > size
