"""The adaptive protocol: which attack meets which images, what of each image is kept, and that the choice flatters nobody."""

from functools import partial
from itertools import pairwise

import pandas as pd
import pytest
import torch
from fixtures_models import Constant, Detached, Noisy, Rounded, images, small_cnn
from torch import nn

from hybridgen_lib.attacks import L2, Bpda, Linf, Smallest, autoattack, ensemble, pgd, square
from hybridgen_lib.attacks.ascent import NoGradientError
from hybridgen_lib.classifier import StochasticClassifier, frozen_noise, is_stochastic, wilson
from hybridgen_lib.data import load
from hybridgen_lib.evaluation import (
    SUITES,
    Suite,
    adaptive_outcomes,
    adaptive_pgd,
    attack_outcomes,
    evaluate_robustness,
    fraction_right,
    protocol,
    smallest_outcomes,
)

BRIEF = Suite(steps=10, restarts=1, eot=2, draws=6, queries=60)


def net(classes=3, seed=0, side=8):
    """A small smooth random classifier of 1 x ``side`` x ``side`` images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(side**2, 12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, classes))
    return model.eval()


def batch(model, n=12):
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, model(x).argmax(1)


@pytest.fixture
def short(monkeypatch):
    """AutoAttack with a fraction of its iterations."""
    plain = ensemble._suite

    def shortened(*arguments):
        suite, classes = plain(*arguments)
        suite.apgd.n_iter = suite.apgd_targeted.n_iter = suite.fab.n_iter = 10
        suite.square.n_queries = 60
        return suite, classes

    monkeypatch.setattr(ensemble, "_suite", shortened)


# ---------------------------------------------------------------- four attacks of which every outcome is known


class Shade(nn.Module):
    """Dark images are of class 0, bright ones of class 1; the border is at 0.5. The second pixel names the image."""

    def forward(self, x):
        return torch.stack([0.5 - x[:, 0, 0, 0], x[:, 0, 0, 0] - 0.5], 1)


class NoisyShade(StochasticClassifier):
    """The same with noise on the scores, so slight that it decides nothing."""

    def forward(self, x, generator=None):
        noise = self.noise(1, len(x), 2, x, generator)[0]
        return Shade()(x) + 1e-4 * noise


def shades(n=10, wrong=(6,)):
    x = torch.zeros(n, 1, 1, 2)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = 0.4, torch.arange(n) / 100
    y = torch.zeros(n, dtype=torch.long)
    y[list(wrong)] = 1
    return x, y


class Scripted:
    """Stand-ins for the four attacks: each fools the images it is told to, and makes things worse for itself elsewhere."""

    def __init__(self, monkeypatch, **fools):
        self.calls = []
        for name in ("pgd", "autoattack", "square", "transfer"):
            monkeypatch.setattr(protocol, name, partial(self.attack, name, set(fools.get(name, ()))))

    def attack(self, name, fools, model, x, y, ball=None, **options):
        ids = (x[:, 0, 0, 1] * 100).round().long().tolist()
        self.calls.append((name, ids, model, is_stochastic(model), options))
        x = x.clone()
        x[:, 0, 0, 0] = torch.tensor([0.6 if i in fools else 0.2 for i in ids])
        return x

    def ids(self, name):
        return [ids for called, ids, *_ in self.calls if called == name]

    def options(self, name, option):
        return [options.get(option) for called, *_, options in self.calls if called == name]


FOOLS = {"pgd": {0, 1, 2}, "autoattack": {2, 3}, "square": {4}, "transfer": {0, 5}}


def test_every_attack_meets_what_the_ones_before_have_left(monkeypatch):
    scripted = Scripted(monkeypatch, **FOOLS)
    table = evaluate_robustness(Shade(), shades(), Linf(0.3), source=Shade())
    assert table["attack"].tolist() == ["clean", "pgd", "autoattack", "square", "transfer", "worst case"]
    assert table["attacked"].tolist() == [0, 9, 6, 5, 4, 10]
    assert scripted.ids("pgd") == [[0, 1, 2, 3, 4, 5, 7, 8, 9]]
    assert scripted.ids("autoattack") == [[3, 4, 5, 7, 8, 9]]
    assert scripted.ids("square") == [[4, 5, 7, 8, 9]]
    assert scripted.ids("transfer") == [[5, 7, 8, 9]]
    assert table["value"].tolist() == pytest.approx([0.9, 0.6, 0.5, 0.4, 0.3, 0.3])
    assert (table["n"] == 10).all()
    for row in table.itertuples():
        assert (row.low, row.high) == pytest.approx(wilson(10 * row.value, 10))
    assert (table["seconds"] >= 0).all()
    assert table["seconds"].iloc[-1] == pytest.approx(table["seconds"].iloc[:-1].sum())
    assert list(table) == ["attack", "attacked", "value", "low", "high", "n", "seconds"]


def test_the_first_attack_hands_back_where_it_got_to_also_where_the_model_holds(monkeypatch):
    Scripted(monkeypatch, pgd={0, 1})
    x, y = shades()
    for model in (Shade(), NoisyShade()):
        attacked = adaptive_pgd(model, x, y, Linf(0.3))[:, 0, 0, 0]
        torch.testing.assert_close(attacked, torch.tensor([0.6, 0.6, 0.2, 0.2, 0.2, 0.2, 0.4, 0.2, 0.2, 0.2]))


def test_where_nothing_is_left_nothing_is_run(monkeypatch):
    scripted = Scripted(monkeypatch, pgd=range(10))
    table = evaluate_robustness(Shade(), shades(), Linf(0.3), source=Shade())
    assert [call[0] for call in scripted.calls] == ["pgd"]
    assert table["attacked"].tolist() == [0, 9, 0, 0, 0, 10]
    assert table["value"].tolist() == pytest.approx([0.9, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(("fools", "judged"), [(range(10), 1), ([0], 4)])
def test_images_that_no_attack_has_been_at_since_are_not_judged_again(monkeypatch, fools, judged):
    """A model with noise is judged on many draws. Of 10 images all or one fall to the first attack, before three more."""
    Scripted(monkeypatch, pgd=fools)
    whole, judge = [], protocol.fraction_right
    monkeypatch.setattr(protocol, "fraction_right", lambda m, x, *rest: whole.append(len(x) == 10) or judge(m, x, *rest))
    table = evaluate_robustness(NoisyShade(), shades(), Linf(0.3), source=Shade())
    assert sum(whole) == 2 + judged  # clean, and where the search begins
    assert table["value"].tolist()[1:] == pytest.approx([0.9 - len(fools) * 0.1 if len(fools) == 1 else 0.0] * 5)


def test_a_stage_is_left_out_where_the_suite_or_the_caller_says_so(monkeypatch):
    Scripted(monkeypatch, **FOOLS)
    run = partial(evaluate_robustness, Shade(), shades(), Linf(0.3))
    assert run()["attack"].tolist() == ["clean", "pgd", "autoattack", "square", "worst case"]
    assert run(Suite(autoattack_images=0))["attack"].tolist() == ["clean", "pgd", "square", "worst case"]
    some = run(Suite(autoattack_images=4))
    assert some["attacked"].tolist() == [0, 9, 1, 5, 10]  # of the first four images only number 3 is left
    assert some["value"].tolist() == pytest.approx([0.9, 0.6, 0.5, 0.4, 0.4])
    assert run(Suite(autoattack_images=3))["attacked"].tolist() == [0, 9, 0, 6, 10]


def test_the_settings_reach_the_attacks(monkeypatch):
    scripted = Scripted(monkeypatch, **FOOLS)
    source, smooth, model = Shade(), Shade(), Shade()
    suite = Suite(steps=7, restarts=3, eot=5, draws=4, queries=11)
    evaluate_robustness(model, shades(), Linf(0.3), suite, source=source, surrogate=smooth)
    assert scripted.options("pgd", "steps") == [7, 7]
    assert scripted.options("pgd", "restarts") == [3, 3]
    assert scripted.options("pgd", "loss") == ["margin", "margin"]
    assert scripted.options("pgd", "surrogate") == [smooth, None]  # by the surrogate, and by the model's own gradient
    assert scripted.options("autoattack", "version") == ["standard", "standard"]
    bridge, itself = (call[2] for call in scripted.calls if call[0] == "autoattack")
    assert (type(bridge), bridge.model, bridge.surrogate) == (Bpda, model, smooth)
    assert itself is model
    assert scripted.options("square", "queries") == [11]
    assert scripted.options("transfer", "source") == [source]
    assert scripted.options("transfer", "steps") == [7]
    assert [call[2] for call in scripted.calls if call[0] != "autoattack"] == [model] * 4


def test_a_model_with_noise_is_attacked_frozen_first_then_by_averages(monkeypatch):
    scripted = Scripted(monkeypatch, **FOOLS)
    suite = Suite(steps=7, restarts=2, eot=5, draws=4, queries=11)
    table = evaluate_robustness(NoisyShade(), shades(), Linf(0.3), suite, source=Shade())
    calls = [(name, noisy, options.get("eot")) for name, _, _, noisy, options in scripted.calls]
    assert calls == [
        *[("pgd", False, None)] * 2,
        *[("pgd", True, 5)] * 2,
        ("autoattack", True, None),
        ("square", False, None),
        ("transfer", True, None),
    ]
    assert scripted.ids("pgd") == [[0, 1, 2, 3, 4, 5, 7, 8, 9], *[[3, 4, 5, 7, 8, 9]] * 3]
    assert scripted.options("pgd", "stop_when_fooled")[:2] == [False, False]
    assert scripted.options("autoattack", "version") == ["rand"]
    assert table["attacked"].tolist() == [0, 9, 6, 5, 4, 10]
    assert table["value"].tolist() == pytest.approx([0.9, 0.6, 0.5, 0.4, 0.3, 0.3])


def test_a_surrogate_is_frozen_with_its_model_and_gives_the_gradients_of_every_average(monkeypatch):
    scripted, surrogate, seen = Scripted(monkeypatch), NoisyShade(seed=1), []
    watched = protocol.pgd
    model = NoisyShade()
    monkeypatch.setattr(
        protocol, "pgd", lambda *a, **k: seen.append(is_stochastic(k["surrogate"] or model)) or watched(*a, **k)
    )
    evaluate_robustness(model, shades(), Linf(0.3), Suite(restarts=1), surrogate=surrogate)
    assert seen == [False, True] * 2
    assert scripted.options("pgd", "surrogate") == [surrogate, surrogate, None, model]
    assert is_stochastic(surrogate)


def test_a_surrogate_never_weakens_the_protocol():
    """One that leads nowhere leaves the model's own gradient to be followed; a model without one has only its surrogate."""
    model, blind = net(), net()
    for parameter in blind.parameters():
        nn.init.zeros_(parameter)
    x, y = batch(model)
    suite = Suite(steps=10, restarts=1, autoattack_images=0, queries=1)
    left = [evaluate_robustness(model, (x, y), Linf(0.2), suite, surrogate=one)["value"].iloc[1] for one in (None, blind)]
    assert left[0] == left[1] < 0.5
    hidden = Detached(model)
    with pytest.raises(NoGradientError):
        evaluate_robustness(hidden, (x, y), Linf(0.2), suite)
    assert evaluate_robustness(hidden, (x, y), Linf(0.2), suite, surrogate=model)["value"].iloc[1] < 0.5
    with pytest.raises(NoGradientError):  # a surrogate that has none is no surrogate
        evaluate_robustness(model, (x, y), Linf(0.2), suite, surrogate=hidden)


def test_the_seed_reaches_the_attacks_and_every_radius_has_a_source_of_its_own(monkeypatch):
    scripted = Scripted(monkeypatch)
    for seed in (0, 0, 1):
        adaptive_outcomes(Shade(), shades(), [Linf(0.25), Linf(0.3)], seed=seed)
    started = [generator.initial_seed() for generator in scripted.options("pgd", "generator")]
    assert started[:2] == started[2:4]
    assert len(set(started)) == 4


@pytest.mark.parametrize("name", ["pgd", "autoattack", "square", "transfer"])
@pytest.mark.parametrize(("where", "message"), [(0.9, "must stay in"), (1.1, r"\[0, 1\]")])
def test_an_attack_that_cheats_is_caught(monkeypatch, name, where, message):
    Scripted(monkeypatch)
    monkeypatch.setattr(protocol, name, lambda model, x, y, *rest, **options: torch.full_like(x, where))
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(Shade(), shades(), Linf(0.3), source=Shade())


def test_the_suites_are_what_the_book_says():
    assert SUITES["adaptive"] == Suite(steps=100, restarts=2, eot=20, autoattack_images=None, queries=1000)
    assert SUITES["adaptive-sampling-cpu"] == Suite(steps=100, restarts=2, eot=20, autoattack_images=50, queries=200)
    assert SUITES["sketch"].steps < 50


# ---------------------------------------------------------------- the choice flatters nobody


class Coin(StochasticClassifier):
    """Right in half of all draws, whatever the image shows: a lean of 1e-3 gives attacks a gradient and decides nothing."""

    def forward(self, x, generator=None):
        score = self.noise(1, len(x), 1, x, generator)[0, :, 0] + 1e-3 * x.mean((1, 2, 3))
        return torch.stack([score, 0 * score], 1)


def test_the_worst_of_many_lucky_tries_is_not_what_is_reported(short):
    """Of each image the try is kept that was right least often in 6 draws: of 7 tries that is 0.22 on average. Judged on
    draws of its own it is a coin again."""
    model, x = Coin(), torch.rand(250, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(250, dtype=torch.long)
    stages = adaptive_outcomes(model, (x, y), [Linf(0.1)], Suite(steps=2, restarts=2, eot=2, draws=6, queries=20))
    for outcomes in stages.values():
        assert abs(outcomes.right.mean() - 0.5) < 5 * 0.5 / (250 * 6) ** 0.5  # on the draws of the choice it would be far off
    worst = protocol._WorstCase(model, x, y, Linf(0.1), Suite(2, 2, 2, 6, 0, 20), torch.Generator().manual_seed(0))
    assert len(list(worst.stages(None, None))) == 2
    assert worst.left.mean() < 0.3


class Uncertain(StochasticClassifier):
    """Shades under noise: at 0.45 it is right in most draws, at 0.55 in few, at 0.5 in half."""

    def forward(self, x, generator=None):
        return Shade()(x) + 0.1 * self.noise(1, len(x), 2, x, generator)[0]


def test_an_attack_that_gives_up_does_not_undo_one_that_got_somewhere(monkeypatch):
    def to_the_border(model, x, y, ball=None, **options):
        return torch.cat([torch.full_like(x[..., :1], 0.5), x[..., 1:]], 3)

    monkeypatch.setattr(protocol, "pgd", to_the_border)
    monkeypatch.setattr(protocol, "square", lambda model, x, y, ball=None, **options: x.clone())
    suite = Suite(restarts=1, draws=1, autoattack_images=0)  # with one draw the clean image is often right as often
    x, y = shades(100, wrong=())
    x[:, 0, 0, 0] = 0.2  # right in all draws
    stages = adaptive_outcomes(Uncertain(), (x, y), [Linf(0.3)], suite)
    assert 0.3 < stages["pgd"].right.mean() < 0.75
    assert torch.equal(stages["pgd"].right, stages["pgd+square"].right)


def test_of_two_tries_the_one_that_is_right_less_often_is_kept(monkeypatch):
    x, y = shades(40, wrong=())
    tries = iter([0.5, 0.55, 0.45, 0.5])

    def to(model, x, y, ball=None, **options):
        x = x.clone()
        x[:, 0, 0, 0] = next(tries)
        return x

    for name in ("pgd", "autoattack", "square", "transfer"):
        monkeypatch.setattr(protocol, name, to)
    suite = Suite(restarts=1, draws=30, autoattack_images=None)  # frozen PGD, averaged PGD, AutoAttack, Square
    stages = adaptive_outcomes(Uncertain(), (x, y), [Linf(0.3)], suite)
    at_055 = 0.5 * (1 - torch.erf(torch.tensor(0.1 / (0.1 * 2**0.5) / 2**0.5)))  # P(n0 - n1 > 1), n standard normal
    for outcomes in stages.values():
        assert abs(outcomes.right.mean() - at_055) < 0.04
    assert next(tries, None) is None


# ---------------------------------------------------------------- real attacks


@pytest.mark.parametrize(("kind", "eps"), [(Linf, 0.04), (L2, 0.6)])
def test_a_deterministic_worst_case_is_no_better_than_any_attack_alone_and_no_stage_rises(kind, eps, short):
    model, (x, y) = small_cnn(), images(40)
    table = evaluate_robustness(model, (x, y), kind(eps), BRIEF, source=Noisy(model, sigma=0.1))
    values = table["value"].tolist()
    assert values == sorted(values, reverse=True)
    assert values[-1] == values[-2]
    assert values[0] == pytest.approx((model(x).argmax(1) == y).float().mean().item())
    assert 0.05 < values[-1] < values[0] - 0.2
    left = dict(zip(table["attack"], table["attacked"], strict=True))
    n = len(x)
    assert [left["pgd"], left["autoattack"], left["square"]] == [round(n * v) for v in values[:3]]
    for attack in (
        partial(pgd, steps=10, loss="margin"),
        autoattack,
        partial(square, queries=60),
    ):
        alone = attack_outcomes(model, (x, y), attack, kind, [eps])
        assert values[-1] <= alone.estimate("accuracy", eps).value + 1.01 / n  # its random start is another


def test_outcomes_come_by_stage_and_radius_and_radii_do_not_touch_each_other(short):
    model, data = small_cnn(), images(20)
    stages = adaptive_outcomes(model, data, [Linf(0.02), Linf(0.05)], BRIEF, seed=3)
    assert list(stages) == ["pgd", "pgd+autoattack", "pgd+autoattack+square"]
    alone = adaptive_outcomes(model, data, [Linf(0.05)], BRIEF, seed=3)
    for name, outcomes in stages.items():
        assert outcomes.epsilons == [0.02, 0.05]
        assert outcomes.index == list(range(20))
        assert torch.equal(outcomes.right[1], alone[name].right[0])
        assert (outcomes.right[1] <= outcomes.right[0]).float().mean() > 0.95
    values = [outcomes.right for outcomes in stages.values()]
    assert all((after <= before).all() for before, after in pairwise(values))  # image by image
    seconds = [outcomes.seconds[1] for outcomes in stages.values()]
    assert seconds == sorted(seconds)


def test_image_data_stands_for_its_test_images_and_index_chooses_among_them(short):
    model, data, (x, y) = small_cnn(), load("fashion-mini"), images(20)
    index = [3, 11, 7]
    run = partial(evaluate_robustness, model, ball=Linf(0.05), suite=BRIEF)
    chosen = run(data, index=index).drop(columns="seconds")
    pd.testing.assert_frame_equal(chosen, run((x[index], y[index])).drop(columns="seconds"))
    assert (chosen["n"] == 3).all()
    bytes_and_ints = run((data.test_x[index], data.test_y[index].int())).drop(columns="seconds")
    pd.testing.assert_frame_equal(chosen, bytes_and_ints)


@pytest.mark.parametrize("noisy", [False, True])
def test_the_seed_fixes_the_result_and_no_trace_is_left(noisy, short):
    model = Noisy(small_cnn(), sigma=0.2, seed=5) if noisy else small_cnn()
    source, surrogate = net(10, side=28).train(), model.classifier if noisy else Rounded(small_cnn(), 50)
    model.train()
    state, own = torch.random.get_rng_state(), model._source if noisy else None
    gradients = [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()]  # of its training
    run = partial(evaluate_robustness, model, images(8), Linf(0.04), BRIEF, source=source, surrogate=surrogate)
    first = run(seed=1).drop(columns="seconds")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    again, other = run(seed=1).drop(columns="seconds"), run(seed=2).drop(columns="seconds")
    torch.random.set_rng_state(state)
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other) or not noisy
    for part in (model, source):
        assert part.training
        assert all(p.requires_grad for p in part.parameters())
    assert all(p.grad is None for p in source.parameters())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is gradient is None or torch.equal(parameter.grad, gradient)
    if noisy:
        assert model._source is own
        assert is_stochastic(model)
    model.eval()


@pytest.mark.parametrize("noisy", [False, True])
def test_at_radius_zero_every_row_is_the_clean_accuracy(noisy):
    model = Noisy(small_cnn(), sigma=0.8) if noisy else small_cnn()
    table = evaluate_robustness(model, images(30), Linf(0.0), source=small_cnn())
    assert table["value"].nunique() == 1
    assert (table["attacked"].iloc[:-1] == 0).all()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("noisy", [False, True])
def test_two_and_three_classes(classes, kind, noisy, short):
    plain = net(classes)
    data, model = batch(plain), Noisy(plain, sigma=0.02).eval() if noisy else plain
    table = evaluate_robustness(model, data, kind({Linf: 0.5, L2: 5.0}[kind]), BRIEF)
    assert table["attack"].tolist() == ["clean", "pgd", "autoattack", "square", "worst case"]
    assert table["value"].iloc[0] > 0.8
    assert table["value"].iloc[-1] < 0.15


def test_a_model_without_a_gradient_needs_a_surrogate_and_falls_to_it(short):
    plain, (x, y) = small_cnn(), images(40)
    with pytest.raises(ValueError, match="surrogate"):
        evaluate_robustness(Detached(plain), (x, y), Linf(0.2), BRIEF)
    table = evaluate_robustness(Detached(plain), (x, y), Linf(0.2), BRIEF, surrogate=plain)
    assert table["value"].iloc[-1] < 0.05
    assert evaluate_robustness(plain, (x, y), Linf(0.2), BRIEF)["value"].iloc[-1] < 0.05


def test_where_every_image_is_wrong_nothing_is_attacked():
    x, _ = images(5)
    table = evaluate_robustness(Constant(10), (x, torch.ones(5, dtype=torch.long)), Linf(0.1), source=small_cnn())
    assert table["attacked"].tolist() == [0, 0, 0, 0, 0, 5]
    assert (table["value"] == 0).all()


def test_scores_that_are_not_numbers_stop_it_at_once_or_on_the_way():
    class Fragile(nn.Module):
        """Well behaved on grey images, and NaN once a pixel is pushed far."""

        def forward(self, x):
            return torch.where(x.amax((1, 2, 3))[:, None] > 0.6, torch.nan, Shade()(x) + x.sum((1, 2, 3))[:, None])

    x, y = torch.full((4, 1, 8, 8), 0.4), torch.zeros(4, dtype=torch.long)
    state = torch.random.get_rng_state()
    for images_, eps in ((x + 0.3, 0.1), (x, 0.3)):
        with pytest.raises(ValueError, match="numbers, got NaN for"):
            evaluate_robustness(Fragile(), (images_, y), Linf(eps), BRIEF)
    assert torch.equal(torch.random.get_rng_state(), state)


# ---------------------------------------------------------------- smallest perturbations


def to_the_border(model, x, y, *, generator, reach=0.35, beyond=1e-4):
    """The nearest image on the other side of :class:`Shade`'s border, given up beyond ``reach``."""
    distance = (0.5 - x[:, 0, 0, 0]).clamp_min(0) * (y == 0)
    found = distance <= reach
    moved = x.clone()
    moved[:, 0, 0, 0] += (distance + beyond) * (found & (distance > 0))
    return Smallest(moved, torch.where(found, distance, torch.inf), found)


def graded():
    """Distances 0.3, 0.2, 0.1, 0.4 (out of reach), and one image that is wrong from the start."""
    x, y = shades(5, wrong=(4,))
    x[:, 0, 0, 0] = torch.tensor([0.2, 0.3, 0.4, 0.1, 0.4])
    return x, y


@pytest.mark.parametrize("batch_size", [1, 2, 250])
def test_one_run_answers_for_every_radius(batch_size):
    outcomes = smallest_outcomes(Shade(), graded(), to_the_border, [0.0, 0.05, 0.1, 0.25, 0.3, 9.0], batch_size=batch_size)
    assert outcomes.clean.tolist() == [1, 1, 1, 1, 0]
    assert outcomes.right.tolist() == [
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 1, 0],  # a distance of 0.1 in float32 is within 0.1
        [1, 0, 0, 1, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 0],
    ]
    assert outcomes.epsilons == [0.0, 0.05, 0.1, 0.25, 0.3, 9.0]
    assert (outcomes.draws, outcomes.index) == (1, [0, 1, 2, 3, 4])
    assert len(set(outcomes.seconds)) == 1


def test_the_model_itself_judges_what_the_attack_says_it_found():
    short_of_it = partial(to_the_border, beyond=-1e-3)
    outcomes = smallest_outcomes(Shade(), graded(), short_of_it, [0.3])
    assert outcomes.right.tolist() == [[1, 1, 1, 1, 0]]


def test_index_seed_and_noise_of_a_smallest_attack():
    outcomes = smallest_outcomes(NoisyShade(), graded(), to_the_border, [0.15], index=[4, 2, 0], draws=7)
    assert outcomes.index == [4, 2, 0]
    wrong, at_the_border, out_of_reach = outcomes.right[0].tolist()
    assert (wrong, out_of_reach) == (0, 1)
    assert at_the_border < 1  # a draw may go either way
    assert outcomes.draws == 7
    drawn = []

    def random(model, x, y, *, generator):
        drawn.append(torch.rand(len(x), generator=generator))
        return Smallest(x, torch.full((len(x),), torch.inf), torch.zeros(len(x), dtype=torch.bool))

    for seed, batch_size in ((1, 5), (1, 5), (2, 5), (1, 2)):
        smallest_outcomes(Shade(), graded(), random, [0.1], seed=seed, batch_size=batch_size)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[3], drawn[4])  # one generator goes along the batches


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, d: Smallest(x[:-1], d, d == d), "attack must"),
        (lambda x, d: Smallest(x.repeat(1, 1, 2, 1), d, d == d), "attack must"),
        (lambda x, d: Smallest(x, d[:, None], d == d), "attack must"),
        (lambda x, d: Smallest(x + 2, d, d == d), r"\[0, 1\]"),
        (lambda x, d: Smallest(x * torch.nan, d, d == d), "finite"),
    ],
)
def test_a_smallest_attack_that_cheats_is_caught(answer, message):
    with pytest.raises(ValueError, match=message):
        smallest_outcomes(Shade(), graded(), lambda model, x, y, generator: answer(x, x.flatten(1).sum(1)), [0.1])


def test_fractions_are_chosen_by_distance_for_a_model_with_noise():
    class Uncertain(StochasticClassifier):
        def forward(self, x, generator=None):
            return Shade()(x) + 0.05 * self.noise(1, len(x), 2, x, generator)[0]

    x, y = torch.full((300, 1, 1, 2), 0.45), torch.zeros(300, dtype=torch.long)
    outcomes = smallest_outcomes(Uncertain(), (x, y), to_the_border, [0.01, 0.06], draws=10)
    fresh = fraction_right(Uncertain(seed=9), x, y, 10).mean()
    assert torch.equal(outcomes.right[0], outcomes.clean)
    assert abs(outcomes.clean.mean() - fresh) < 0.03
    assert abs(outcomes.right[1].mean() - 0.5) < 0.05  # on the border itself


class Unwilling(nn.Module):
    """Fails the test that asks it for more than a first look."""

    def __init__(self, model):
        super().__init__()
        self.model, self.asked = model, 0

    def forward(self, x):
        self.asked += len(x)
        return self.model(x)


@pytest.mark.parametrize(
    ("source", "message"),
    [(net(classes=2), "source must have the model's 3 classes"), (Detached(net()), "source must have a gradient")],
)
def test_a_source_that_cannot_serve_is_refused_before_any_attack(source, message):
    model = Unwilling(net())
    x, y = batch(model.model)
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(model, (x, y), Linf(0.1), BRIEF, source=source)
    assert model.asked <= len(x) + 1


def test_images_that_square_cannot_tile_are_refused_before_any_attack():
    model = Unwilling(net(side=14))
    with pytest.raises(ValueError, match="x must have a size"):
        evaluate_robustness(model, (torch.rand(4, 1, 14, 14), torch.zeros(4, dtype=torch.long)), L2(0.1), BRIEF)
    assert model.asked <= 4


class Sampling(NoisyShade):
    samples = 5

    def with_samples(self, samples):
        return self.twin(samples=samples)


def test_a_model_that_samples_is_averaged_and_autoattacked_by_one_sample_and_judged_by_all(monkeypatch):
    scripted, model, judged, judge = Scripted(monkeypatch), Sampling(), [], protocol.fraction_right
    monkeypatch.setattr(protocol, "fraction_right", lambda m, *rest: judged.append(m) or judge(m, *rest))
    evaluate_robustness(model, shades(), Linf(0.3), Suite(restarts=1))
    frozen, average = scripted.options("pgd", "surrogate")
    assert frozen is None
    assert average.samples == 1
    assert [called.samples for name, _, called, *_ in scripted.calls] == [5, 5, 1, 5]  # PGD twice, AutoAttack, Square
    assert all(one is model for one in judged)


def test_a_surrogate_that_samples_is_averaged_and_autoattacked_by_one_sample_too(monkeypatch):
    scripted, surrogate = Scripted(monkeypatch), Sampling()
    evaluate_robustness(Sampling(), shades(), Linf(0.3), Suite(restarts=1), surrogate=surrogate)
    frozen, average, frozen_own, average_own = scripted.options("pgd", "surrogate")
    assert frozen is surrogate
    assert frozen_own is None
    assert average.samples == average_own.samples == 1
    by_surrogate, own = [called for name, _, called, *_ in scripted.calls if name == "autoattack"]
    assert by_surrogate.surrogate.samples == by_surrogate.model.samples == own.samples == 1
    assert isinstance(by_surrogate, Bpda)


def test_every_restart_under_frozen_noise_has_a_draw_of_its_own(monkeypatch):
    seeds = []
    monkeypatch.setattr(protocol, "frozen_noise", lambda model, seed: seeds.append(seed) or frozen_noise(model, seed))
    Scripted(monkeypatch)
    evaluate_robustness(NoisyShade(), shades(), Linf(0.3), Suite(restarts=3, autoattack_images=0))
    assert len(set(seeds)) == len(seeds) == 4  # three restarts, and Square


def test_suites_choose_and_report_on_ten_draws():
    assert [SUITES[name].draws for name in ("adaptive", "adaptive-sampling-cpu")] == [10, 10]
