"""The margin from two classes instead of all: the same attack where the runner-up is fresh, and all classes judge."""

import pytest
import torch

from hybridgen_lib import recipes
from hybridgen_lib.attacks import L2, Linf, gradient, pgd
from hybridgen_lib.classifier import frozen_noise

X = torch.rand(12, 1, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 5


@pytest.fixture(params=["gfz", "gby", "dbx"])
def model(request):
    """Untrained; its label network is sharpened, so that classes differ by nats and some images can be moved."""
    built = recipes.build(request.param, (1, 12, 12), 5, seed=1, samples=3, width=4, hidden=16, code=4).double()
    for name, parameter in built.named_parameters():
        if "bias" not in name:
            parameter.data *= 2
    return built


class AllClasses(torch.nn.Module):
    """The same model without ``class_scores``: the margin comes from all classes."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(1.0)])
def test_with_a_fresh_runner_up_it_is_the_same_attack(model, ball, monkeypatch):
    monkeypatch.setattr(gradient, "RESELECT", 1)
    with frozen_noise(model, 3):
        two = pgd(model, X, Y, ball, steps=8, loss="margin")
        every = pgd(AllClasses(model), X, Y, ball, steps=8, loss="margin")
    torch.testing.assert_close(two, every, rtol=0, atol=1e-8)
    assert not torch.equal(two, X)


def test_gradients_are_taken_of_two_classes_only(model, monkeypatch):
    asked, plain = [], type(model).log_weights

    def spy(self, x, y, noise):
        if torch.is_grad_enabled():
            asked.append(y.shape[1])
        return plain(self, x, y, noise)

    monkeypatch.setattr(type(model), "log_weights", spy)
    with frozen_noise(model):
        pgd(model, X, Y, Linf(0.1), steps=12, loss="margin", stop_when_fooled=False)
    assert set(asked) == {2}


def test_all_classes_have_the_last_word(model):
    """What comes back as fooled is so among all classes, and no image ends worse for the attacker than it began."""
    with frozen_noise(model, 1), torch.no_grad():
        x_adv = pgd(model, X, Y, Linf(0.2), steps=15, loss="margin")
        before = gradient.margin(model(X), Y)
        after = gradient.margin(model(x_adv), Y)
    assert (after >= before - 1e-9).all()


def test_cross_entropy_and_targets_need_all_classes(model, monkeypatch):
    monkeypatch.setattr(type(model), "class_scores", lambda *a, **k: pytest.fail("two classes were asked for"))
    with frozen_noise(model):
        pgd(model, X, Y, Linf(0.1), steps=2, loss="ce")
        pgd(model, X, Y, Linf(0.1), steps=2, loss="margin", target=(Y + 1) % 5)


def test_a_stochastic_model_draws_from_the_generator_of_the_attack(model):
    runs = [
        pgd(model, X, Y, Linf(0.1), steps=3, loss="margin", generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
