"""The contract: noise that never touches the global source, checks that name the argument, intervals with known values."""

import copy
import math

import pytest
import torch
from fixtures_models import Noisy, small_cnn
from hypothesis import given
from hypothesis import strategies as st

from hybridgen_lib import classifier
from hybridgen_lib.classifier import (
    StochasticClassifier,
    ask,
    bootstrap_interval,
    check_images,
    check_labels,
    check_number,
    evaluating,
    frozen_noise,
    is_stochastic,
    wilson,
)


def test_noise_is_the_models_own_and_leaves_the_global_source_alone():
    before = torch.get_rng_state()
    first = StochasticClassifier(seed=1).noise(2, 3, 4, torch.zeros(1))
    model = StochasticClassifier(seed=1)
    again, fresh = model.noise(2, 3, 4, torch.zeros(1)), model.noise(2, 3, 4, torch.zeros(1))
    assert torch.equal(first, again)
    assert not torch.equal(again, fresh)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_given_to_the_call_decides():
    model = StochasticClassifier()
    a = model.noise(1, 2, 3, torch.zeros(1), torch.Generator().manual_seed(5))
    b = model.noise(1, 2, 3, torch.zeros(1), torch.Generator().manual_seed(5))
    assert torch.equal(a, b)


def test_frozen_noise_is_one_draw_for_all_images_nests_and_ends():
    model = StochasticClassifier()
    assert is_stochastic(model)
    with frozen_noise(model, 3):
        a = model.noise(2, 5, 4, torch.zeros(1))
        assert a.shape == (2, 1, 4)
        assert not is_stochastic(model)
        with frozen_noise(model, 4):
            assert not torch.equal(model.noise(2, 5, 4, torch.zeros(1)), a)
        assert torch.equal(model.noise(2, 9, 4, torch.zeros(1)), a)
    assert is_stochastic(model)
    assert model.noise(2, 5, 4, torch.zeros(1)).shape == (2, 5, 4)


def test_a_wrapper_of_a_stochastic_model_is_stochastic():
    inner = StochasticClassifier()
    wrapped = torch.nn.Sequential(inner)
    assert is_stochastic(wrapped)
    with frozen_noise(wrapped):
        assert not is_stochastic(wrapped)
        thawed = copy.deepcopy(inner)
    assert is_stochastic(thawed)  # a copy does not stay frozen
    assert not is_stochastic(torch.nn.Linear(1, 1))


def test_frozen_noise_ends_after_an_error():
    model = StochasticClassifier()
    with pytest.raises(RuntimeError), frozen_noise(model):
        raise RuntimeError
    assert is_stochastic(model)


def test_a_stochastic_model_can_be_copied_after_use():
    model = StochasticClassifier(seed=2)
    model.noise(1, 1, 3, torch.zeros(1))
    twin = copy.deepcopy(model)
    assert torch.equal(twin.noise(1, 1, 3, torch.zeros(1)), StochasticClassifier(seed=2).noise(1, 1, 3, torch.zeros(1)))


def test_evaluating_puts_modes_and_flags_back():
    net = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2))
    net[1].eval()
    net[1].bias.requires_grad_(False)
    with evaluating(net):
        assert not net.training
        assert not any(p.requires_grad for p in net.parameters())
    assert net.training
    assert net[0].training
    assert not net[1].training
    assert net[1].weight.requires_grad
    assert not net[1].bias.requires_grad


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([1.0], "torch.Tensor"),
        (torch.rand(3, 4), r"shape \(B, channels, H, W\)"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "divide uint8 images by 255"),
        (torch.full((1, 1, 2, 2), float("nan")), "finite"),
        (torch.full((1, 1, 2, 2), float("inf")), "finite"),
        (torch.full((1, 1, 2, 2), 1.5), "from 1.5 to 1.5"),
        (torch.full((1, 1, 2, 2), -0.1), "-0.1"),
    ],
)
def test_bad_images_are_named(x, words):
    with pytest.raises(ValueError, match=f"^pictures must.*{words}"):
        check_images(x, "pictures")


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.zeros(2, 2, dtype=torch.long), "shape"),
        (torch.zeros(3), "integer"),
        (torch.tensor([0, 1]), "one label per image"),
        (torch.tensor([0, 1, 3]), "0..2"),
        (torch.tensor([0, -1, 2]), "0..2"),
    ],
)
def test_bad_labels_are_named(y, words):
    with pytest.raises(ValueError, match=f"^labels must.*{words}"):
        check_labels(y, classes=3, images=3, name="labels")


@pytest.mark.parametrize("value", [-1, 2.5, float("nan"), float("inf"), "3", True, None])
def test_bad_numbers_are_named(value):
    with pytest.raises(ValueError, match="steps must be an integer"):
        check_number(value, "steps", low=0, integer=True)


def test_wilson_known_values():
    # Newcombe (1998), Statistics in Medicine 17, Table I, method 3.
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_holds_its_proportion_and_stays_inside(n, share):
    successes = round(share * n)
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_without_data_knows_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes"):
        wilson(3, 2)


def test_bootstrap_is_seeded_and_as_wide_as_theory_says():
    values = torch.rand(400, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std().item() / math.sqrt(400), rel=0.1)
    with pytest.raises(ValueError, match="values"):
        bootstrap_interval([])


def test_public_names_exist():
    assert all(hasattr(classifier, name) for name in classifier.__all__)


class Randomly(StochasticClassifier):
    def forward(self, x, generator=None):
        return self.noise(1, len(x), 3, x, generator)[0]


def test_noise_inside_a_wrapper_comes_from_the_callers_generator_and_the_parts_own_source_stays():
    inner, x = Randomly(), torch.rand(2, 1, 4, 4)
    wrapped = torch.nn.Sequential(torch.nn.Identity(), inner)
    own = inner(x)
    expected = inner(x, generator=torch.Generator().manual_seed(5))
    assert torch.equal(ask(wrapped, x, torch.Generator().manual_seed(5)), expected)
    fresh = Randomly()
    assert torch.equal(own, fresh(x))
    assert torch.equal(ask(wrapped, x), fresh(x))  # the second draw of either
    with frozen_noise(wrapped, 3):
        assert torch.equal(*(ask(wrapped, x, torch.Generator().manual_seed(k)) for k in (1, 2)))


def test_a_wrapper_that_fails_gives_the_parts_own_source_back():
    inner = Randomly()
    inner(torch.rand(1, 1, 1, 1))
    source = inner._source
    with pytest.raises(RuntimeError):
        ask(torch.nn.Sequential(inner, torch.nn.Linear(2, 2)), torch.rand(1, 1, 1, 1), torch.Generator())
    assert inner._source is source


def test_a_model_that_is_random_by_its_own_word_must_take_a_generator():
    model = torch.nn.Linear(1, 1)
    model.stochastic = True
    with pytest.raises(ValueError, match="model must take a generator"):
        ask(model, torch.rand(1, 1), torch.Generator())


def test_a_twin_changes_attributes_and_never_the_networks_that_both_share():
    model = Noisy(small_cnn())
    name = next(iter(model._modules))
    before = getattr(model, name)
    with pytest.raises(ValueError, match=name):
        model.twin(**{name: torch.nn.Identity()})
    assert getattr(model, name) is before


@pytest.mark.parametrize("seed", [None, 1.5, -1])
def test_frozen_noise_needs_a_seed(seed):
    with pytest.raises(ValueError, match="seed"), frozen_noise(Noisy(small_cnn()), seed):
        pass
