"""The margin from two classes instead of all: the same attack where the runner-up is fresh, and all classes judge."""

import pytest
import torch

from hybridgen_lib import recipes
from hybridgen_lib.attacks import L2, Linf, carlini_wagner, gradient, pgd, smallest_cw
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


def test_carlini_wagner_with_a_fresh_runner_up_is_the_same_attack(model, monkeypatch):
    monkeypatch.setattr(carlini_wagner, "RESELECT", 1)
    with frozen_noise(model, 3):
        two = smallest_cw(model, X, Y, steps=10, searches=3)
        every = smallest_cw(AllClasses(model), X, Y, steps=10, searches=3)
    assert torch.equal(two.found, every.found)
    assert two.found.any()
    torch.testing.assert_close(two.distance, every.distance, rtol=1e-6, atol=1e-8)


def test_carlini_wagner_fools_among_all_classes_with_a_stale_runner_up(model):
    with frozen_noise(model, 3):
        found = smallest_cw(model, X, Y, steps=30, searches=3)
        wrong = model(found.x_adv).argmax(1) != Y
    assert torch.equal(wrong, found.found)


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


# ---------------------------------------------------------------- the cheap look that chooses the runner-up


def test_one_sample_of_a_score_is_the_score_of_a_model_with_one_sample(model):
    classes = torch.stack([Y, (Y + 2) % 5, (Y + 1) % 5], 1)
    with frozen_noise(model, 4), torch.no_grad():
        cheap = model.class_scores(X, classes, samples=1)
        twin = recipes_twin(model, 1)
        with frozen_noise(twin, 4):
            torch.testing.assert_close(cheap, twin(X).gather(1, classes))
        torch.testing.assert_close(model.class_scores(X, classes, samples=3), model(X).gather(1, classes))
        torch.testing.assert_close(model.class_scores(X, classes), model(X).gather(1, classes))
        assert not torch.allclose(cheap, model(X).gather(1, classes))


def recipes_twin(model, samples):
    """The same weights in a model built with another number of samples, not by ``with_samples``."""
    parts = (str(model.model), str(model.guide), dict(model.networks))
    return type(model)(*parts, classes=model.classes, samples=samples).double()


def test_with_samples_is_another_classifier_on_the_same_weights(model):
    for samples in (1, 8):
        twin = model.with_samples(samples)
        assert (twin.samples, model.samples) == (samples, 3)
        assert all(a is b for a, b in zip(twin.parameters(), model.parameters(), strict=True))
        with frozen_noise(twin, 2), frozen_noise(built := recipes_twin(model, samples), 2), torch.no_grad():
            torch.testing.assert_close(twin(X), built(X))
            assert model._frozen_seed is None  # the noise of the one is not that of the other
    seen = model(X, generator=torch.Generator().manual_seed(0))
    model.with_samples(1)(X)
    assert torch.equal(seen, model(X, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("samples", [0, -1, 1.5, "3", None])
def test_with_samples_wants_a_positive_whole_number(model, samples):
    with pytest.raises(ValueError, match=r"^samples must"):
        model.with_samples(samples)


def test_a_look_wants_a_positive_number_of_samples_and_labels_may_be_any_integers(model):
    with pytest.raises(ValueError, match=r"^samples must"):
        model.class_scores(X, Y[:, None], samples=0)
    with frozen_noise(model):
        short = pgd(model, X, Y.to(torch.int32), Linf(0.1), steps=2, loss="margin")
        assert torch.equal(short, pgd(model, X, Y, Linf(0.1), steps=2, loss="margin"))


def test_with_samples_keeps_the_noise_frozen(model):
    with frozen_noise(model, 7):
        twin = model.with_samples(2)
        torch.testing.assert_close(twin(X), twin(X))


def test_the_runner_up_is_looked_for_with_few_samples_and_only_now_and_then(model, monkeypatch):
    looks, plain = [], type(model).log_weights

    def spy(self, x, y, noise):
        if not torch.is_grad_enabled():
            looks.append((len(next(iter(noise.values()))), y.shape[1], len(x)))
        return plain(self, x, y, noise)

    monkeypatch.setattr(type(model), "log_weights", spy)
    monkeypatch.setattr(gradient, "RESELECT", 4)
    monkeypatch.setattr(gradient, "GLANCE", 1)
    with frozen_noise(model):
        pgd(model, X, Y, Linf(0.1), steps=12, loss="margin", stop_when_fooled=False)
    assert [look for look in looks if look[0] == 1] == [(1, 5, 12)] * 3  # before steps 1, 5 and 9
    assert [look for look in looks if look[0] != 1] == [(3, 5, 12)] * 2  # the verdicts before and after, by all samples


def test_the_look_chooses_the_best_class_but_the_label(model, monkeypatch):
    """By hand, from the scores of one sample; under frozen noise a fool of the duel with that class is not yet one of all."""
    monkeypatch.setattr(gradient, "GLANCE", 1)
    with frozen_noise(model, 5), gradient.attacking(model, X, Y, "margin", None, 1, None, None) as goal:
        duel = gradient.Duel(goal, len(X), every=1)
        chosen = duel.runner_up(X, Y, {})
        scores = model.class_scores(X, torch.arange(5).expand(12, -1), samples=1)
        scores[torch.arange(12), Y] = -torch.inf
        assert torch.equal(chosen, scores.argmax(1))
        assert (chosen != Y).all()
        value, fooled = duel(X, torch.arange(12))
        full = model(X)
        torch.testing.assert_close(value, full[torch.arange(12), chosen] - full[torch.arange(12), Y])
        assert torch.equal(fooled, value > 0)


def test_a_wrong_runner_up_proves_nothing_that_all_classes_do_not_confirm(model, monkeypatch):
    """A look that always names the least likely class may make the attack weaker, but never its verdict wrong."""

    def worst(self, x, labels, options):
        scores = self.goal.gradients.class_scores(x, torch.arange(5).expand(len(x), -1), **options)
        return scores.scatter(1, labels[:, None], torch.inf).argmin(1)

    with frozen_noise(model, 1), torch.no_grad():
        before = gradient.margin(model(X), Y)
        honest = gradient.margin(model(pgd(model, X, Y, Linf(0.2), steps=10, loss="margin")), Y)
        monkeypatch.setattr(gradient.Duel, "runner_up", worst)
        misled = pgd(model, X, Y, Linf(0.2), steps=10, loss="margin")
        after = gradient.margin(model(misled), Y)
    assert (after >= before - 1e-9).all()
    assert torch.equal(misled[after == before], X[after == before])
    assert (after > 0).sum() <= (honest > 0).sum()


def test_a_stochastic_model_draws_from_the_generator_of_the_attack(model):
    runs = [
        pgd(model, X, Y, Linf(0.1), steps=3, loss="margin", generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
