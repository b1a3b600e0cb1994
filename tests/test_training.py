"""The loop: seeded, resumable to the last bit, loud when something is off. The objectives: what they say they are."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from hybridgen_lib import recipes
from hybridgen_lib.attacks import L2, Linf, pgd
from hybridgen_lib.models.bottleneck import Bottleneck
from hybridgen_lib.models.gazes import Gazes
from hybridgen_lib.models.hybrid import causal_head
from hybridgen_lib.models.smoothing import Smoothed
from hybridgen_lib.training import (
    adversarial,
    clean_and_attacked,
    cross_entropy,
    fit,
    in_bfloat16,
    information_bottleneck,
    intervention,
    loop,
    mixup,
    negative_elbo,
    robust,
    save_atomically,
    shifted_and_mirrored,
)

Y = torch.arange(50) % 3
NOISE = torch.randint(0, 80, (50, 1, 8, 8), generator=torch.Generator().manual_seed(0))
X = (NOISE + 80 * Y[:, None, None, None]).to(torch.uint8)  # a class is a brightness
SETTINGS = {"epochs": 3, "batch_size": 16}


def net(seed=0):
    return recipes.build("cnn", (1, 8, 8), 3, seed=seed, width=4, hidden=16)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_lowers_the_objective_and_repeats_exactly():
    a, b = net(), net()
    state = torch.get_rng_state()
    history = fit(a, cross_entropy, X, Y, epochs=30, batch_size=16, learning_rate=1e-2)
    assert history[-1] < history[0] / 2
    assert not a.training
    assert torch.equal(torch.get_rng_state(), state)
    fit(b, cross_entropy, X, Y, epochs=30, batch_size=16, learning_rate=1e-2)
    assert torch.equal(weights(a), weights(b))


def test_the_history_is_the_mean_over_images_though_the_last_batch_is_smaller():
    def labels(model, x, y, *_):
        return y.double().mean() + 0 * weights(model).sum() + 0 * sum(p.sum() for p in model.parameters())

    assert fit(net(), labels, X, Y, epochs=1, batch_size=16) == [pytest.approx(Y.double().mean().item())]


def test_training_is_deterministic_on_a_gpu_too():
    seen = set()

    def objective(*batch):
        cudnn = torch.backends.cudnn
        seen.add((cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32))
        return cross_entropy(*batch)

    fit(net(), objective, X, Y, epochs=1, batch_size=16)
    assert seen == {(True, False, False)}


@pytest.mark.parametrize("change", [{"epochs": 4}, {"batch_size": 8}, {"learning_rate": 0.1}, {"seed": 9}])
def test_a_checkpoint_of_another_training_is_not_taken_up(change, tmp_path):
    path = tmp_path / "run.partial"
    fit(net(), cross_entropy, X, Y, **SETTINGS, checkpoint=path)
    with pytest.raises(ValueError, match=rf"checkpoint .*{next(iter(change))}"):
        fit(net(), cross_entropy, X, Y, **{**SETTINGS, **change}, checkpoint=path)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_any_integers_are_labels(kind):
    a, b = net(), net()
    fit(a, cross_entropy, X, Y, **SETTINGS)
    fit(b, cross_entropy, X, Y.to(kind), **SETTINGS)
    assert torch.equal(weights(a), weights(b))


def test_another_seed_is_another_run():
    a, b = net(), net()
    fit(a, cross_entropy, X, Y, **SETTINGS, seed=0)
    fit(b, cross_entropy, X, Y, **SETTINGS, seed=1)
    assert not torch.equal(weights(a), weights(b))


def tap():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh()).requires_grad_(False)


def head(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return causal_head(tap(), (1, 8, 8), 3, hidden=8, code=2, manipulation=2, samples=2)


FLOAT = X.float() / 255
SEEN = {"x1": FLOAT.flatten(1), "x2": tap()(FLOAT)}


def front(kind, *arguments, **options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return kind(net(), *arguments, **options)


def normalised():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)
        return nn.Sequential(*layers)


def on_grey(model):
    """How sure the model is of class 1 on grey images: any number that training moves will do."""
    with torch.no_grad():
        return -model(torch.full((4, 1, 8, 8), 0.5)).log_softmax(1)[:, 1].mean().item()


AT_L2 = {"ball": L2(0.5), "steps": 2, "step_size": 0.2}
RUNS = {
    "cnn": (net, cross_entropy),
    "gbz": (lambda: recipes.build("gbz", (1, 8, 8), 3, width=4, hidden=16), negative_elbo(0.5)),
    "cnn-at": (net, adversarial(Linf(0.1), steps=2, warm_up=0.5)),
    "cnn-at, steps": (net, adversarial(Linf(0.1), steps=2, step_size=0.03, warm_up=0.5)),
    "shifted_and_mirrored": (net, in_bfloat16(shifted_and_mirrored(cross_entropy, 2))),
    "cama": (lambda: recipes.build("cama", (1, 8, 8), 3, width=4, hidden=16), negative_elbo(do={"m": 0})),
    "head": (head, negative_elbo(0.2, pressure=3.0, do={"m": 0})),
    "head, m sampled": (head, negative_elbo(pressure=3.0)),
    "mixup": (net, mixup),
    "mixup, noisy": (lambda: front(Bottleneck, 3, code=4, draws=3), mixup),
    "bottleneck": (lambda: front(Bottleneck, 3, code=4, draws=3), information_bottleneck(0.01)),
    "causal bottleneck": (lambda: front(Bottleneck, 3, code=4, draws=3), information_bottleneck(0.05, 0.05, "l2")),
    "bottleneck, cross-entropy": (lambda: front(Bottleneck, 3, code=4, draws=3), cross_entropy),
    "gazes": (lambda: front(Gazes, (1, 8, 8), 3), intervention(0.1, gazes=2)),
    "smoothing": (lambda: front(Smoothed, 0.25), lambda model, *rest: cross_entropy(model.with_samples(1), *rest)),
    "select": (normalised, cross_entropy, {"select": on_grey}),
    "select, attacked": (net, adversarial(**AT_L2), {"select": clean_and_attacked(X.float() / 255, Y, **AT_L2)}),
    "peak": (net, cross_entropy, {"peak": 0.4, "final_learning_rate": 1e-5}),
}


def kill_after(epochs, monkeypatch):
    """The next run is killed once it has written the checkpoint of this many epochs."""
    saved, calls = loop.save_atomically, []

    def killed(state, path):
        saved(state, path)
        calls.append(path)
        if len(calls) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_atomically", killed)


def assert_same_state(one, other):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_goes_on_and_ends_where_the_whole_one_does(name, tmp_path, monkeypatch):
    start, objective, *options = RUNS[name]
    options, x = {**SETTINGS, **(options[0] if options else {})}, SEEN if name.startswith("head") else X
    whole, cut = start(), start()
    expected = fit(whole, objective, x, Y, **options)
    kill_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, objective, x, Y, **options, checkpoint=tmp_path / "run")
    monkeypatch.undo()
    resumed = start()
    assert fit(resumed, objective, x, Y, **options, checkpoint=tmp_path / "run") == expected
    assert_same_state(resumed, whole)


def test_dropout_too_follows_the_seed_of_the_run_and_not_the_global_source(tmp_path, monkeypatch):
    """ "A run is a function of its arguments alone": AlexNet has dropout, which draws from torch's global source."""

    def start():
        return recipes.build("alexnet", (1, 8, 8), 3, width=1 / 64)

    options = {"epochs": 2, "batch_size": 16}
    with torch.random.fork_rng():  # the tests' own source stays as it is, whatever comes
        torch.manual_seed(3)
        one, before = start(), torch.get_rng_state()
        history = fit(one, cross_entropy, X, Y, **options)
        untouched = torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(4)
        other = start()
        again = fit(other, cross_entropy, X, Y, **options)
        kill_after(1, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            fit(start(), cross_entropy, X, Y, **options, checkpoint=tmp_path / "run")
        monkeypatch.undo()
        resumed = start()
        fit(resumed, cross_entropy, X, Y, **options, checkpoint=tmp_path / "run")
    assert again == history
    assert_same_state(other, one)
    assert_same_state(resumed, one)
    assert untouched


def test_what_a_model_draws_globally_is_new_in_every_step_epoch_and_run():
    def drawn(seed):
        numbers = []

        def objective(model, *rest):
            numbers.append(torch.rand(3).tolist())
            return cross_entropy(model, *rest)

        fit(net(), objective, X, Y, **SETTINGS, seed=seed)
        return numbers

    first, second = drawn(0), drawn(1)
    assert drawn(0) == first
    assert len({tuple(numbers) for numbers in first + second}) == 24


# ---------------------------------------------------------------- which epoch is kept


class Judge:
    """A ``select`` that gives out prepared values, and keeps what it was shown."""

    def __init__(self, *values):
        self.values, self.seen, self.modes = list(values), [], []

    def __call__(self, model):
        self.modes.append([part.training for part in model.modules()])
        self.seen.append({name: part.clone() for name, part in model.state_dict().items()})
        return self.values[len(self.seen) - 1]


@pytest.mark.parametrize(
    ("values", "best"),
    [((1, 2, 3, 4), 3), ((4, 3, 2, 1), 0), ((1, 3, 2, 0), 1), ((0, 0, 0, 0), 0), ((1, 2, 2, 1), 1), ((-2, -1, -3, -1), 1)],
)
def test_the_best_epoch_is_kept_and_of_equals_the_first(values, best):
    judge, model, plain = Judge(*values), normalised(), normalised()
    history = fit(model, cross_entropy, X, Y, epochs=4, batch_size=16, select=judge)
    assert history == fit(plain, cross_entropy, X, Y, epochs=4, batch_size=16)  # the judge changes nothing underway
    assert len(judge.seen) == len(history) == 4
    assert_same_state(plain, SimpleNamespace(state_dict=lambda: judge.seen[3]))
    for k, seen in enumerate(judge.seen):  # batch normalisation's means too
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in seen.items()) == (k == best)
    assert not model.training


@pytest.mark.parametrize("killed", [1, 2, 3])
@pytest.mark.parametrize(("values", "best"), [((4, 3, 2, 1), 0), ((1, 3, 3, 2), 1), ((1, 2, 3, 2), 2), ((0, 1, 2, 3), 3)])
def test_a_killed_run_remembers_its_best_epoch(values, best, killed, tmp_path, monkeypatch):
    whole = Judge(*values)
    fit(normalised(), cross_entropy, X, Y, epochs=4, batch_size=16, select=whole)
    with monkeypatch.context() as patch:
        kill_after(killed, patch)
        with pytest.raises(KeyboardInterrupt):
            fit(normalised(), cross_entropy, X, Y, epochs=4, select=Judge(*values), batch_size=16, checkpoint=tmp_path / "run")
    resumed, rest = normalised(), Judge(*values[killed:])
    fit(resumed, cross_entropy, X, Y, epochs=4, batch_size=16, select=rest, checkpoint=tmp_path / "run")
    assert len(rest.seen) == 4 - killed  # an epoch is judged once
    assert_same_state(resumed, SimpleNamespace(state_dict=lambda: whole.seen[best]))
    again = normalised()
    never = Judge()
    fit(again, cross_entropy, X, Y, epochs=4, batch_size=16, select=never, checkpoint=tmp_path / "run")
    assert never.seen == []
    assert_same_state(again, resumed)


def test_the_judge_sees_a_model_in_evaluation_and_training_goes_on_in_training():
    judge, modes = Judge(1, 2, 3), []

    def objective(model, *rest):
        modes.append([part.training for part in model.modules()])
        return cross_entropy(model, *rest)

    fit(normalised(), objective, X, Y, **SETTINGS, select=judge)
    assert judge.modes == [[False] * 6] * 3
    assert modes == [[True] * 6] * 12


def test_without_epochs_there_is_nothing_to_choose():
    model, judge = net(), Judge()
    assert fit(model, cross_entropy, X, Y, epochs=0, select=judge) == []
    assert judge.seen == []
    assert torch.equal(weights(model), weights(net()))


def test_training_on_labels_of_which_half_are_wrong_stops_at_the_best_epoch():
    """What ``select`` is for: the images held out, clean and attacked, fare better at the epoch kept than at the last."""
    x = FLOAT
    noisy = torch.where(torch.arange(50) % 2 == 0, Y, (Y + 1) % 3)
    worth = clean_and_attacked(x, Y, Linf(0.02), steps=2)
    values = []

    def select(model):
        values.append(worth(model))
        return values[-1]

    model = net()
    fit(model, cross_entropy, x, noisy, epochs=30, batch_size=16, learning_rate=2e-2, select=select)
    assert max(values) > values[-1]
    assert worth(model) == max(values)


def rates(**schedule):
    """The learning rate of every step of Adam; 50 images in batches of 25 make two steps an epoch."""
    seen, step = [], torch.optim.Adam.step

    def spy(optimizer, *arguments, **keywords):
        seen.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", spy)
        fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), cross_entropy, X, Y, batch_size=25, **schedule)
    return seen


FALLING = {"learning_rate": 0.5, "final_learning_rate": 0.1}


def test_the_learning_rate_falls_in_a_line():
    assert rates(epochs=2, **FALLING) == pytest.approx([0.5, 0.4, 0.3, 0.2])


@pytest.mark.parametrize(
    ("peak", "expected"),
    [
        (0.5, [0.1, 0.3, 0.5, 0.3]),
        (0.25, [0.1, 0.5, 0.5 - 0.4 / 3, 0.5 - 0.8 / 3]),
        (0.75, [0.1, 0.1 + 0.4 / 3, 0.1 + 0.8 / 3, 0.5]),
        (0.1, [0.1, 0.5 - 0.4 / 6, 0.5 - 1.6 / 9, 0.5 - 2.6 / 9]),
        (1.0, [0.1, 0.2, 0.3, 0.4]),
        (1, [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_the_learning_rate_rises_to_its_peak_and_falls_again(peak, expected):
    assert rates(epochs=2, peak=peak, **FALLING) == pytest.approx(expected)


@pytest.mark.parametrize("peak", [0, 0.0])
def test_a_peak_at_the_start_is_the_line_to_the_last_bit(peak):
    line = [0.5 + (0.1 - 0.5) * progress for progress in (0.0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6)]
    assert rates(epochs=3, peak=peak, **FALLING) == line
    assert rates(epochs=3, **FALLING) == line
    a, b = net(), net()
    assert fit(a, cross_entropy, X, Y, **SETTINGS, **FALLING) == fit(b, cross_entropy, X, Y, **SETTINGS, **FALLING, peak=peak)
    assert torch.equal(weights(a), weights(b))


@pytest.mark.parametrize("peak", [0.0, 0.3, 1.0])
def test_a_rate_that_stays_has_no_peak(peak):
    assert rates(epochs=2, learning_rate=0.5, peak=peak) == [0.5] * 4


@settings(max_examples=25, deadline=None)
@example(peak=0.3, epochs=5)
@given(peak=st.floats(0.01, 0.99), epochs=st.integers(1, 6))
def test_one_cycle_is_made_of_two_lines(peak, epochs):
    """Never outside of the two rates, and on the broken line through (0, final), (peak, rate) and (1, final)."""
    seen = rates(epochs=epochs, peak=peak, **FALLING)
    progress = np.arange(2 * epochs) / (2 * epochs)
    np.testing.assert_allclose(seen, np.interp(progress, [0, peak, 1], [0.1, 0.5, 0.1]), rtol=1e-9)
    assert seen[0] == pytest.approx(0.1)
    assert max(seen) <= 0.5 + 1e-12


def test_warm_up_starts_low_and_ends_at_one():
    class Spy(nn.Module):
        def elbo(self, x, y, generator, beta):
            betas.append(beta)
            return torch.zeros(1)

    betas: list[float] = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        negative_elbo(0.5)(Spy(), X, Y, progress, torch.Generator())
        negative_elbo(0.0)(Spy(), X, Y, progress, torch.Generator())
    assert betas[::2] == pytest.approx([0.01, 0.505, 1, 1])
    assert betas[1::2] == [1, 1, 1, 1]


class SpyOnBeta(nn.Module):
    def __init__(self):
        super().__init__()
        self.betas, self.done = [], []

    def elbo(self, x, y, generator, beta):
        self.betas.append(beta)
        return torch.zeros(1)

    def do(self, **values):
        self.done.append(values)
        return self


def test_pressure_lasts_until_the_last_quarter():
    spy = SpyOnBeta()
    for progress in (0.0, 0.5, 0.7499, 0.75, 0.9, 1.0):
        negative_elbo(pressure=4.0)(spy, X, Y, progress, torch.Generator())
    assert spy.betas == [4, 4, 4, 1, 1, 1]
    assert spy.done == []


def test_pressure_and_warm_up_multiply():
    spy = SpyOnBeta()
    for progress in (0.0, 0.25, 0.5, 0.74, 0.75, 1.0):
        negative_elbo(0.5, pressure=4.0)(spy, X, Y, progress, torch.Generator())
    for progress in (0.5, 0.8, 1.0):
        negative_elbo(1.0, pressure=4.0)(spy, X, Y, progress, torch.Generator())
    assert spy.betas == pytest.approx([0.04, 4 * 0.505, 4, 4, 1, 1, 4 * 0.505, 0.802, 1])


@pytest.mark.parametrize("do", [None, {}, {"m": 0}, {"m": 0.5, "z": 1}])
def test_an_objective_intervenes_where_it_is_told_to(do):
    spy = SpyOnBeta()
    negative_elbo(do=do)(spy, X, Y, 0.5, torch.Generator())
    assert spy.done == ([do] if do else [])


def test_the_objective_is_the_elbo_of_the_model_under_the_intervention():
    model, y = head(), Y[:7]
    seen = {name: part[:7] for name, part in SEEN.items()}
    loss = negative_elbo(pressure=3.0, do={"m": 0.5})(model, seen, y, 0.1, torch.Generator().manual_seed(1))
    expected = -model.do(m=0.5).elbo(FLOAT[:7], y, generator=torch.Generator().manual_seed(1), beta=3.0).mean()
    torch.testing.assert_close(loss, expected)
    assert model.interventions == {}


# ---------------------------------------------------------------- what the model observes, in place of images


@pytest.mark.parametrize("images", [X, FLOAT], ids=["uint8", "float"])
def test_the_image_observed_is_the_image(images):
    a, b = (recipes.build("gbz", (1, 8, 8), 3, width=4, hidden=16) for _ in range(2))
    history = fit(a, negative_elbo(0.5), images, Y, **SETTINGS)
    assert fit(b, negative_elbo(0.5), {"x": FLOAT}, Y, **SETTINGS) == history
    assert torch.equal(weights(a), weights(b))


@pytest.mark.parametrize("do", [None, {"m": 0}])
def test_features_taken_once_teach_what_features_taken_every_time_do(do):
    a, b = head(), head()
    history = fit(a, negative_elbo(do=do), FLOAT, Y, **SETTINGS)
    assert fit(b, negative_elbo(do=do), SEEN, Y, **SETTINGS) == pytest.approx(history, rel=1e-4)
    torch.testing.assert_close(weights(a), weights(b), rtol=1e-3, atol=1e-5)
    assert history[-1] < history[0]


def test_what_is_observed_may_have_any_shape_and_value():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

    rows = []

    def objective(model, x, y, progress, generator):
        rows.append(({name: part.shape for name, part in x.items()}, y))
        assert torch.equal(x["a"].long(), y)
        return model.weight * sum(part.sum() for part in x.values())

    x = {"a": 40.0 + torch.arange(50), "b": -9 * torch.ones(50, 2, 3, 1, 1, dtype=torch.float64)}
    fit(Sum(), objective, x, torch.arange(50) + 40, epochs=1, batch_size=16)
    assert [shapes for shapes, _ in rows] == [{"a": (n,), "b": (n, 2, 3, 1, 1)} for n in (16, 16, 16, 2)]
    assert sorted(torch.cat([y for _, y in rows]).tolist()) == list(range(40, 90))


@pytest.mark.parametrize(
    "x",
    [
        {},
        {"x1": SEEN["x1"], "x2": SEEN["x2"][:-1]},
        {"x1": SEEN["x1"][:0], "x2": SEEN["x2"][:0]},
        {"x1": X, "x2": SEEN["x2"]},
        {"x1": SEEN["x1"].tolist(), "x2": SEEN["x2"]},
        {"x1": None},
        {"x1": torch.tensor(1.0)},
    ],
    ids=["empty", "lengths", "none", "uint8", "lists", "nothing", "a number"],
)
def test_a_bad_dict_is_named_before_any_work(x):
    model = head()
    before = weights(model)
    with pytest.raises(ValueError, match=r"^x must"):
        fit(model, negative_elbo(), x, Y, epochs=1)
    assert torch.equal(weights(model), before)


def test_labels_must_be_as_many_as_what_is_observed():
    with pytest.raises(ValueError, match=r"^y must hold one label per image: 50 images, got 49"):
        fit(head(), negative_elbo(), SEEN, Y[:49], epochs=1)


# ---------------------------------------------------------------- shifts, mirrors, precision


class Seen:
    """An objective that keeps what it is given."""

    def __init__(self):
        self.calls = []

    def __call__(self, model, x, y, progress, generator):
        self.calls.append((x, y, progress, generator))
        return x.sum()


def shown(x, pixels, mirror=True, seed=0):
    seen = Seen()
    shifted_and_mirrored(seen, pixels, mirror)(None, x, Y[: len(x)], 0.25, torch.Generator().manual_seed(seed))
    return seen.calls[0][0]


def versions(image, pixels, mirror):
    """Every shift of one image by up to ``pixels`` each way over black, then every mirror of it."""
    _, height, width = image.shape
    padded = F.pad(image, [pixels] * 4)
    shifts = [(i, j) for i in range(2 * pixels + 1) for j in range(2 * pixels + 1)]
    plain = [padded[:, i : i + height, j : j + width] for i, j in shifts]
    return plain + [p.flip(2) for p in plain] if mirror else plain


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize(("pixels", "shape"), [(0, (1, 4, 6)), (1, (3, 5, 4)), (2, (2, 3, 3)), (4, (1, 3, 2))])
def test_images_are_shifted_and_mirrored_and_nothing_else(pixels, shape, mirror):
    one = 0.1 + 0.9 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    possible = torch.stack(versions(one, pixels, mirror)).flatten(1)
    made = shown(one.expand(1500, *shape), pixels, mirror).flatten(1)
    assert made.shape == (1500, one.numel())
    same = (made[:, None] == possible).all(2)
    assert same.any(1).all()
    assert same.any(0).all()  # each of them is made at some time
    black = possible.count_nonzero(1) == 0
    if mirror and not black.any():
        half = len(possible) // 2
        assert 0.45 < same[:, half:].any(1).double().mean() < 0.55
        assert 1500 / len(possible) / 3 < same.sum(0).min() <= same.sum(0).max() < 1500 / len(possible) * 3


def test_each_image_moves_on_its_own_and_keeps_its_place():
    x = torch.zeros(50, 1, 9, 9)
    x[:, 0, 4, 4] = torch.arange(1, 51) / 50
    made = shown(x, 3)
    assert torch.equal(made.flatten(1).sum(1), x.flatten(1).sum(1))
    places = made.flatten(1).argmax(1)
    assert len(places.unique()) > 15
    assert (x.flatten(1).argmax(1) == 40).all()  # the images themselves are left alone


def test_the_generator_alone_decides():
    state = torch.get_rng_state()
    assert torch.equal(shown(FLOAT, 2), shown(FLOAT, 2))
    assert not torch.equal(shown(FLOAT, 2), shown(FLOAT, 2, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(shown(FLOAT, 0, mirror=False), FLOAT)


def test_what_is_not_an_image_passes_through():
    seen, generator = Seen(), torch.Generator().manual_seed(0)
    value = shifted_and_mirrored(seen, 1)(None, FLOAT, Y, 0.25, generator)
    x, y, progress, same = seen.calls[0]
    assert torch.equal(value, x.sum())
    assert y is Y
    assert progress == 0.25
    assert same is generator


def test_a_shift_has_a_gradient():
    x = FLOAT.clone().requires_grad_(True)
    shifted_and_mirrored(lambda model, x, *_: x.sum(), 0)(None, x, Y, 0.0, torch.Generator()).backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("pixels", [-1, 1.5, None, "2"])
def test_a_bad_shift_is_named(pixels):
    with pytest.raises(ValueError, match=r"^pixels must"):
        shifted_and_mirrored(cross_entropy, pixels)


def test_bfloat16_changes_nothing_on_a_cpu():
    a, b, dtypes = net(), net(), []
    assert fit(a, cross_entropy, X, Y, **SETTINGS) == fit(b, in_bfloat16(cross_entropy), X, Y, **SETTINGS)
    assert torch.equal(weights(a), weights(b))
    in_bfloat16(lambda model, x, *_: dtypes.append(model(x).dtype))(a, FLOAT, Y, 0.0, torch.Generator())
    assert dtypes == [torch.float32]


def test_bfloat16_is_on_where_images_lie_on_a_gpu(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: calls.append((*a, *k.values())) or nullcontext())
    for device in ("cpu", "cuda"):
        y = SimpleNamespace(device=torch.device(device), is_cuda=device == "cuda")
        assert in_bfloat16(lambda model, x, *_: x)(None, FLOAT, y, 0.0, torch.Generator()) is FLOAT
    assert calls == [("cpu", torch.bfloat16, False), ("cuda", torch.bfloat16, True)]


def test_bfloat16_takes_what_a_model_observes():
    history = fit(head(), in_bfloat16(negative_elbo()), SEEN, Y, epochs=1)
    assert history == fit(head(), negative_elbo(), SEEN, Y, epochs=1)


# ---------------------------------------------------------------- adversarial training


class Linear(nn.Module):
    """Two classes, 16 pixels: the worst change of the image is known in closed form."""

    def __init__(self, seed=0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 16, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x, generator=None):
        return x.flatten(1) @ self.weight.T


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)])
def test_the_loss_is_that_of_the_worst_image(steps, progress, share):
    """max over the ball of log(1 + exp(-margin)) is at margin - eps ||w_y - w_other||_1, also during the warm-up."""
    model, eps = Linear().train(), 0.1
    x = 0.3 + 0.4 * torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))  # no pixel can reach 0 or 1
    y = torch.arange(20) % 2
    before = torch.get_rng_state()
    loss = adversarial(Linf(eps), steps=steps, warm_up=0.4)(model, x, y, progress, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.weight.requires_grad
    assert model.weight.grad is None
    w = model.weight[0] - model.weight[1]
    margins = (x.flatten(1) @ w) * (1 - 2.0 * y)
    expected = F.softplus(-(margins - share * eps * w.abs().sum())).mean()
    torch.testing.assert_close(loss, expected)
    actual, wanted = (torch.autograd.grad(value, model.weight)[0] for value in (loss, expected))
    torch.testing.assert_close(actual, wanted)


def test_its_noise_is_the_generators_and_an_l2_ball_will_do():
    model, x = Linear(), 0.3 + 0.4 * torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    objective = adversarial(L2(0.5), steps=1)  # one step of 2.5 eps: where it ends on the sphere depends on the start
    a, b, c = (objective(model, x, Y[:20] % 2, 0.5, torch.Generator().manual_seed(s)).item() for s in (0, 0, 1))
    assert a == b
    assert a != c
    plain = cross_entropy(model, x, Y[:20] % 2, 0.5, torch.Generator()).item()
    assert a > plain


def test_it_teaches_what_survives_the_attack():
    """Half of the image says the label in a whisper, always; one pixel says it aloud, in 17 of 20 images. Plain training
    listens to the whisper, which a ball of eps 0.1 turns round; adversarial training has to listen to the pixel."""
    source = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 2
    sign = 2.0 * y - 1
    x = torch.full((600, 16), 0.5)
    x[:, :8] += 0.05 * sign[:, None] + 0.01 * torch.randn(600, 8, generator=source)
    x[:, 15] += 0.4 * sign * torch.where(torch.rand(600, generator=source) < 0.85, 1.0, -1.0)
    x = x.reshape(-1, 1, 4, 4).clamp(0, 1)
    accuracy = {}
    for name, objective in {"plain": cross_entropy, "adversarial": adversarial(Linf(0.1), steps=2)}.items():
        model = Linear()
        fit(model, objective, x, y, epochs=30, batch_size=50, learning_rate=0.2, final_learning_rate=0.0)
        attacked = pgd(model, x, y, Linf(0.1), steps=20)
        accuracy[name] = [(model(images).argmax(1) == y).double().mean().item() for images in (x, attacked)]
    assert accuracy["plain"][0] > 0.99
    assert accuracy["plain"][1] < 0.5
    assert accuracy["adversarial"][1] > 0.8


class Witness(nn.Module):
    """A model that remembers which images it was trained on: those it sees in training mode."""

    def __init__(self, model):
        super().__init__()
        self.model, self.shown = model, []

    def forward(self, x, generator=None):
        if self.training:
            self.shown.append(x.detach().clone())
        return self.model(x)


@pytest.mark.parametrize(("ball", "step_size"), [(Linf(0.1), None), (Linf(0.1), 0.04), (L2(0.5), None), (L2(0.5), 0.1)])
def test_the_images_trained_on_are_inside_the_ball_and_harder_than_the_clean_ones(ball, step_size):
    model, y = Witness(recipes.build("nn", (1, 8, 8), 3, hidden=16)), Y
    fit(model.model, cross_entropy, X, Y, epochs=20, batch_size=16, learning_rate=1e-2)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = adversarial(ball, steps=3, step_size=step_size)(model, FLOAT, y, 0.5, torch.Generator().manual_seed(0))
    (attacked,) = model.shown
    assert ball.norm(attacked - FLOAT).max() <= ball.eps * (1 + 1e-5)
    assert ball.norm(attacked - FLOAT).median() > 0.9 * ball.eps
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    with torch.no_grad():
        hard, clean = (F.cross_entropy(model.model(images), y, reduction="none") for images in (attacked, FLOAT))
    torch.testing.assert_close(loss.detach(), hard.mean())
    assert (hard >= clean - 1e-6).all()
    assert hard.mean() > 1.05 * clean.mean()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_loss_on_attacked_images_falls_in_training():
    model, objective = net(), adversarial(Linf(0.05), steps=2, step_size=0.03)

    def attacked_loss():
        return objective(model, FLOAT, Y, 1.0, torch.Generator().manual_seed(7)).item()

    before = attacked_loss()
    history = fit(model, objective, X, Y, epochs=20, batch_size=16, learning_rate=1e-2)
    assert history[0] > 2 * history[-1]
    assert attacked_loss() < before / 2


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.25), (0.2, 0.5), (0.4, 1.0), (0.9, 1.0)])
@pytest.mark.parametrize(("step_size", "steps"), [(0.03, 1), (0.03, 3), (0.0, 2), (0.5, 1)])
def test_the_step_grows_with_the_ball(step_size, steps, progress, share):
    """Of a linear model every step goes the same way, so the attacked image is known: start, steps, projection."""
    model, eps = Linear().train(), 0.1
    x = 0.3 + 0.4 * torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = torch.arange(20) % 2
    objective = adversarial(Linf(eps), steps=steps, step_size=step_size, warm_up=0.4)
    loss = objective(model, x, y, progress, torch.Generator().manual_seed(2))
    w = (model.weight[1] - model.weight[0]).detach().reshape(1, 1, 4, 4)
    uphill = w.sign() * (1 - 2.0 * y)[:, None, None, None]
    delta = Linf(share * eps).random(x, torch.Generator().manual_seed(2)) if share else torch.zeros_like(x)
    for _ in range(steps):
        delta = (delta + share * step_size * uphill).clamp(-share * eps, share * eps)
    with torch.no_grad():
        clean, tried = (F.cross_entropy(model(images), y, reduction="none") for images in (x, x + delta))
    torch.testing.assert_close(loss.detach(), torch.maximum(clean, tried).mean())  # an attack never leaves less than it found


@pytest.mark.parametrize("step_size", [None, 0.3])
def test_what_the_attack_is_told(monkeypatch, step_size):
    told = []
    monkeypatch.setattr(robust, "pgd", lambda model, x, y, ball, **options: told.append((ball, options)) or x)
    generator = torch.Generator()
    for progress in (0.0, 0.1, 0.2, 1.0):
        adversarial(L2(2.0), steps=7, step_size=step_size, warm_up=0.2)(net(), FLOAT, Y, progress, generator)
    assert [ball for ball, _ in told] == [L2(0.0), L2(1.0), L2(2.0), L2(2.0)]
    lengths = [None] * 4 if step_size is None else [0.0, 0.15, 0.3, 0.3]
    for (_, options), length in zip(told, lengths, strict=True):
        assert options == {"steps": 7, "step_size": length, "stop_when_fooled": False, "generator": generator}


# ---------------------------------------------------------------- which model is best on clean and attacked images


def two_brightnesses(count, seed=0):
    """Images on which a linear model is right by margins of every size."""
    source = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (count,), generator=source)
    return 0.2 + 0.6 * torch.rand(count, 1, 4, 4, generator=source), y


def test_the_worth_of_a_linear_model_is_known():
    """Right on a clean image where the margin is above 0, on the attacked one where it is above eps |w|_1; 1,100 images go
    through in three parts. Linf(0.15) moves no pixel of theirs to 0 or 1."""
    model, (x, y), eps = Linear(), two_brightnesses(1_100), 0.15
    w = (model.weight[1] - model.weight[0]).detach()
    margin = (x.flatten(1) @ w) * (2.0 * y - 1)
    worth = clean_and_attacked(x, y, Linf(eps), steps=3)(model)
    clean, attacked = (margin > 0).double().mean(), (margin > eps * w.abs().sum()).double().mean()
    assert worth == pytest.approx((clean + attacked).item() / 2)
    assert clean - attacked > 0.05
    assert worth == clean_and_attacked(x, y, Linf(eps), steps=3)(model)


@pytest.mark.parametrize(("ball", "step_size"), [(Linf(0.03), 0.02), (L2(0.2), None), (L2(0.2), 0.03)])
def test_the_worth_is_a_count_by_hand(ball, step_size):
    model, (x, y) = Linear().eval(), two_brightnesses(730, seed=3)
    worth = clean_and_attacked(x, y, ball, steps=2, step_size=step_size)(model)
    attacked = pgd(model, x, y, ball, steps=2, step_size=step_size, generator=torch.Generator().manual_seed(0))
    right = [int((model(images).argmax(1) == y).sum()) for images in (x, attacked)]
    assert worth == sum(right) / 1_460
    assert right[1] < right[0] < 730


def test_judging_leaves_no_trace():
    model, state = front(Bottleneck, 3, code=4).eval(), torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert 0 <= clean_and_attacked(FLOAT, Y, Linf(0.1), steps=1)(model) <= 1
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("function", [adversarial, lambda **options: clean_and_attacked(FLOAT, Y, **options)])
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"steps": None}, "steps"),
        ({"steps": 2, "ball": 0.1}, "ball"),
        ({"steps": 2, "ball": Linf}, "ball"),
        ({"steps": 2, "step_size": -0.1}, "step_size"),
        ({"steps": 2, "step_size": "0.1"}, "step_size"),
        ({"steps": 2, "step_size": float("nan")}, "step_size"),
    ],
)
def test_bad_arguments_of_an_attack_in_training_are_named(function, arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        function(**{"ball": Linf(0.1), **arguments})


@pytest.mark.parametrize("warm_up", [1.5, -0.1, None])
def test_a_bad_warm_up_of_adversarial_is_named(warm_up):
    with pytest.raises(ValueError, match=r"^warm_up must"):
        adversarial(Linf(0.1), steps=2, warm_up=warm_up)


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [(X, Y, "x"), (FLOAT * 2, Y, "x"), (FLOAT[0], Y[:1], "x"), (FLOAT, Y[:9], "y"), (FLOAT, Y.float(), "y")],
)
def test_bad_images_to_judge_by_are_named_before_anything_is_trained(x, y, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        clean_and_attacked(x, y, Linf(0.1), steps=1)


# ---------------------------------------------------------------- mixed images


class Read(nn.Module):
    """Scores of its own for 16 pixels, and what it was shown; image k of the tests has one pixel that is 1, number k."""

    def __init__(self):
        super().__init__()
        self.weight = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))

    def forward(self, x):
        self.seen = x.flatten(1)
        return self.seen @ self.weight


def mixed(seed):
    """One batch through mixup: its loss, the share of each image that is left, and who was laid over it."""
    model, y = Read(), torch.arange(16) % 3
    loss = mixup(model, torch.eye(16).reshape(16, 1, 4, 4), y, 0.5, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(model.seen.sum(1), torch.ones(16))
    own = model.seen.diagonal()
    others = model.seen - torch.diag(own)
    alone = others.amax(1) == 0  # laid over itself
    partner = torch.where(alone, torch.arange(16), others.argmax(1))
    shares = own[~alone]
    torch.testing.assert_close(shares, shares[:1].expand_as(shares))  # one proportion for the batch
    scores = model.seen @ model.weight
    share = shares[0]
    expected = share * F.cross_entropy(scores, y) + (1 - share) * F.cross_entropy(scores, y[partner])
    return loss, expected, share.item(), partner


@pytest.mark.parametrize("seed", range(8))
def test_labels_are_mixed_as_the_images_are(seed):
    loss, expected, _, partner = mixed(seed)
    torch.testing.assert_close(loss, expected)
    assert sorted(partner.tolist()) == list(range(16))  # each image is laid over one other


def test_the_proportion_is_uniform_and_partners_change():
    drawn = [mixed(seed)[2:] for seed in range(300)]
    shares = np.sort([share for share, _ in drawn])
    assert np.abs(shares - (np.arange(300) + 0.5) / 300).max() < 1.63 / np.sqrt(300)  # Kolmogorov and Smirnov, 1 %
    partners = torch.stack([partner for _, partner in drawn])
    counts = (partners[:, :, None] == torch.arange(16)).sum(0)
    assert 4 <= counts.min() <= counts.max() <= 40  # 300 / 16 expected of each pair


def test_mixing_follows_the_generator_alone():
    state = torch.get_rng_state()
    a, b, c = (mixed(seed)[0].item() for seed in (0, 0, 1))
    assert a == b != c
    assert torch.equal(torch.get_rng_state(), state)


def test_mixing_with_a_model_that_has_noise_takes_the_noise_from_the_generator():
    model = front(Bottleneck, 3, code=4, draws=2)
    a, b = (mixup(model, FLOAT, Y, 0.5, torch.Generator().manual_seed(0)).item() for _ in range(2))
    assert a == b


@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_batch_of_one_class_mixes_to_its_cross_entropy(count):
    """Images that are all the same: whatever the proportion, the loss is theirs."""
    model, x, y = net(), FLOAT[:1].expand(count, -1, -1, -1), torch.full((count,), 2)
    loss = mixup(model, x, y, 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, F.cross_entropy(model(x), y))


def test_mixing_teaches_clean_images_too():
    model = net()
    fit(model, mixup, X, Y, epochs=30, batch_size=16, learning_rate=1e-2)
    assert (model(FLOAT).argmax(1) == Y).double().mean() > 0.9


# ---------------------------------------------------------------- when something is off


def test_an_objective_that_is_not_finite_stops_the_run(tmp_path):
    def broken(model, x, y, progress, generator):
        return cross_entropy(model, x, y, progress, generator) * float("nan")

    with pytest.raises(FloatingPointError, match="epoch 0"):
        fit(net(), broken, X, Y, **SETTINGS, checkpoint=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"x": X[:0]}, "x"),
        ({"y": Y[:3]}, "y"),
        ({"y": Y.float()}, "y"),
        ({"x": X.float()}, "x"),
        ({"x": X.float() / 255 * float("nan")}, "x"),
        ({"final_learning_rate": -1.0}, "final_learning_rate"),
        ({"peak": -0.1}, "peak"),
        ({"peak": 1.1}, "peak"),
        ({"peak": None}, "peak"),
        ({"peak": float("nan")}, "peak"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_bad_arguments_are_named(changes, name):
    with pytest.raises(ValueError, match=name):
        fit(net(), cross_entropy, **{"x": X, "y": Y, "epochs": 1, **changes})
    with pytest.raises(ValueError, match="warm_up"):
        negative_elbo(2.0)
    with pytest.raises(ValueError, match="pressure"):
        negative_elbo(pressure=-1.0)


def test_a_failed_save_leaves_the_last_good_file(tmp_path, monkeypatch):
    path = tmp_path / "state"
    save_atomically({"a": 1}, path)

    def half(state, file):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_atomically({"a": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
