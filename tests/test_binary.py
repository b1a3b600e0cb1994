"""The threshold and its borrowed gradient; and that a binary classifier is the plain one, fed binarised images."""

import pytest
import torch
from fixtures_models import Noisy
from hypothesis import given
from hypothesis import strategies as st

from hybridgen_lib import recipes
from hybridgen_lib.attacks import Linf, pgd
from hybridgen_lib.classifier import Classifier, frozen_noise, is_stochastic
from hybridgen_lib.models.binary import BinaryInput, BinaryLatentVariableClassifier, binarise
from hybridgen_lib.models.latent import LatentVariableClassifier
from hybridgen_lib.models.networks import DenseNetwork

SHAPE, CLASSES, CODE = (1, 12, 10), 4, 5
KINDS = ("cnn-vae-binary", "cnn-vae-crf")


def images(count=6, seed=0, dtype=torch.float32):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def small(name, seed=0):
    return recipes.build(name, SHAPE, CLASSES, seed=seed, samples=3, width=4, hidden=16, code=CODE)


def network(hidden=8):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DenseNetwork(SHAPE, CLASSES, hidden)


def plain_twin(model: BinaryLatentVariableClassifier) -> LatentVariableClassifier:
    """The classifier without the threshold, of the very same networks."""
    networks = dict(model.networks.items())
    return LatentVariableClassifier(model.model, model.guide, networks, classes=model.classes, samples=model.samples)


# ---------------------------------------------------------------- the threshold


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_one_from_a_half_on_and_else_zero(dtype):
    half = torch.tensor(0.5, dtype=dtype)
    below = torch.nextafter(half.float(), torch.tensor(0.0)) if dtype == torch.float32 else half - 1e-3
    x = torch.stack([half * 0, half / 2, below.to(dtype), half, half + 1e-3, half * 2])
    assert binarise(x).tolist() == [0, 0, 0, 1, 1, 1]
    assert binarise(x).dtype == dtype


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_exactly_black_and_white_and_the_second_time_nothing_happens(values):
    x = torch.tensor(values)
    before, b = x.clone(), binarise(x)
    assert b.tolist() == [float(v >= 0.5) for v in values]
    assert torch.equal(binarise(b), b)
    assert torch.equal(x, before)


def test_going_backwards_it_is_the_identity():
    x, weight = images().requires_grad_(), torch.randn(6, *SHAPE)
    (gradient,) = torch.autograd.grad((binarise(x) * weight).sum(), x)
    assert torch.equal(gradient, weight)
    with torch.no_grad():
        assert not binarise(x).requires_grad


# ---------------------------------------------------------------- in front of a network


def test_scores_are_those_of_the_black_and_white_image():
    plain, x = network(), images()
    model = BinaryInput(plain)
    assert isinstance(model, Classifier)
    assert model.score_kind == "logit"
    assert not is_stochastic(model)
    assert torch.equal(model(x), plain((x >= 0.5).float()))


def test_the_gradient_is_that_of_the_network_at_the_black_and_white_image():
    plain, x = network(), images().requires_grad_()
    b = (x >= 0.5).float().detach().requires_grad_()
    (through,) = torch.autograd.grad(BinaryInput(plain)(x)[:, 1].sum(), x)
    (there,) = torch.autograd.grad(plain(b)[:, 1].sum(), b)
    assert torch.equal(through, there)
    assert through.abs().max() > 0


def test_no_attack_below_a_half_moves_a_black_and_white_image_and_one_of_a_half_does():
    x, model = binarise(images()), BinaryInput(network(hidden=0))  # linear: flipping the right pixels must fool it
    y = model(x).argmax(1)
    tried = {eps: pgd(model, x, y, Linf(eps), steps=5, stop_when_fooled=False) for eps in (0.49, 0.51)}
    assert torch.equal(binarise(tried[0.49]), x)
    assert torch.equal(model(tried[0.49]), model(x))
    assert (model(tried[0.51]).argmax(1) != y).all()


def test_a_network_with_noise_keeps_its_contract_behind_the_threshold():
    model, x = BinaryInput(Noisy(network())), images()
    assert is_stochastic(model)
    with torch.no_grad():
        assert not torch.equal(model(x), model(x))
        a, b = (model(x, generator=torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(a, b)
        with frozen_noise(model, 1):
            assert not is_stochastic(model)
            assert torch.equal(model(x), model(x))


def test_what_is_no_network_is_named():
    with pytest.raises(ValueError, match=r"network must be a torch\.nn\.Module"):
        BinaryInput(lambda x: x)


# ---------------------------------------------------------------- in a latent-variable classifier


@pytest.mark.parametrize("name", KINDS)
def test_scores_equal_the_plain_ones_of_the_black_and_white_image(name):
    model, x = small(name), images()
    plain, b = plain_twin(model), (x >= 0.5).float()
    chosen = torch.tensor([[0, 3], [1, 2], [3, 3], [2, 0], [1, 0], [0, 1]])
    labels = torch.arange(6) % CLASSES
    assert isinstance(model, BinaryLatentVariableClassifier)
    assert model.score_kind == "log_joint"
    with torch.no_grad(), frozen_noise(model, 7), frozen_noise(plain, 7):
        torch.testing.assert_close(model(x), plain(b))
        torch.testing.assert_close(model.class_scores(x, chosen), plain.class_scores(b, chosen))
        torch.testing.assert_close(model.class_scores(x, chosen), model(x).gather(1, chosen))
        torch.testing.assert_close(model.elbo(x, labels, beta=0.3), plain.elbo(b, labels, beta=0.3))
        assert not torch.allclose(plain(x), plain(b), atol=1e-2)  # else the threshold would not have been tested


@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_is_straight_through(name):
    model, x = small(name).double(), images(dtype=torch.float64).requires_grad_()
    plain = plain_twin(model)
    b = (x >= 0.5).double().detach().requires_grad_()
    with frozen_noise(model, 2), frozen_noise(plain, 2):
        (through,) = torch.autograd.grad(model(x)[:, 2].sum(), x)
        (there,) = torch.autograd.grad(plain(b)[:, 2].sum(), b)
    torch.testing.assert_close(through, there)
    assert through.abs().max() > 0


@pytest.mark.parametrize("name", KINDS)
def test_it_keeps_the_contract_of_noise(name):
    model, x, before = small(name), images(), torch.get_rng_state()
    with torch.no_grad():
        assert not torch.equal(model(x), model(x))
        a, b = (model(x, generator=torch.Generator().manual_seed(1)) for _ in range(2))
        assert torch.equal(a, b)
        with frozen_noise(model, 3):
            torch.testing.assert_close(torch.cat([model(x[:1]), model(x[1:])]), model(x))
            assert torch.equal(model(x), model((x >= 0.5).float()))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_field_without_coupling_is_no_field():
    """Pixels that gain nothing from their neighbours are independent: the CRF's twin is the binary CNN-VAE."""
    field, binary, x = small("cnn-vae-crf"), small("cnn-vae-binary"), images()
    pixels = field.networks["p(x|z,y)"].pixels
    assert pixels.coupling.item() == 1
    field.load_state_dict(binary.state_dict(), strict=False)
    with torch.no_grad(), frozen_noise(field), frozen_noise(binary):
        assert not torch.allclose(field(x), binary(x), atol=1e-2)
        pixels.coupling.zero_()
        torch.testing.assert_close(field(x), binary(x))


def test_the_coupling_is_learned_with_the_rest():
    model, x = small("cnn-vae-crf"), images()
    model.elbo(x, torch.arange(6) % CLASSES).sum().backward()
    assert model.networks["p(x|z,y)"].pixels.coupling.grad.abs() > 0


@pytest.mark.parametrize("name", KINDS)
def test_pictures_are_chances(name):
    drawn = small(name).sample(5)
    assert drawn["x"].shape == (5, *SHAPE)
    assert ((drawn["x"] > 0) & (drawn["x"] < 1)).all()
