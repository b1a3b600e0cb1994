"""Balls, the ascent loop and the gradient attacks: exact cases, properties that hold for any input, and clear errors."""

import math
from functools import partial

import pytest
import torch
from fixtures_models import Noisy, Rounded, images, small_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hybridgen_lib.attacks import L2, Linf, ascend, fgm, fgsm, ifgsm, pgd
from hybridgen_lib.attacks.gradient import LOSSES
from hybridgen_lib.classifier import frozen_noise

quick = settings(max_examples=15, deadline=None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def linear(weights):
    """A classifier of two classes with scores (0, w.x - b): everything about it is known in closed form."""
    layer = nn.Linear(weights.numel(), 2)
    with torch.no_grad():
        layer.weight[0], layer.weight[1] = 0, weights.flatten()
        layer.bias[0], layer.bias[1] = 0, -weights.sum() / 2
    return nn.Sequential(nn.Flatten(), layer)


def net(seed=0, dtype=torch.float32):
    """A small smooth random classifier: three classes on 1 x 4 x 4 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, 3))
    return model.to(dtype).eval()


def batch(n=6, seed=0, dtype=torch.float32):
    x = torch.rand(n, 1, 4, 4, generator=seeded(seed), dtype=dtype)
    return x, torch.randint(3, (n,), generator=seeded(seed + 1))


# ---------------------------------------------------------------- balls


@quick
@given(st.sampled_from([Linf, L2]), st.floats(0, 3), st.integers(0, 10**6))
def test_projection_is_inside_idempotent_and_leaves_what_is_allowed(kind, eps, seed):
    ball, delta = kind(eps), torch.randn(5, 1, 4, 4, generator=seeded(seed))
    once = ball.project(delta)
    assert (ball.norm(once) <= eps * (1 + 1e-5)).all()
    torch.testing.assert_close(ball.project(once), once)
    inside = ball.norm(delta) <= eps
    assert torch.equal(once[inside], delta[inside])
    # nearest: no other allowed perturbation is closer
    other = ball.project(torch.randn(5, 1, 4, 4, generator=seeded(seed + 1)))
    assert (L2(1).norm(delta - once) <= L2(1).norm(delta - other) + 1e-5).all()


@quick
@given(st.sampled_from([Linf, L2]), st.integers(0, 10**6))
def test_no_unit_step_gains_more_than_the_steepest(kind, seed):
    ball, gradient = kind(1.0), torch.randn(4, 1, 4, 4, generator=seeded(seed))
    step = ball.steepest(gradient)
    torch.testing.assert_close(ball.norm(step), torch.ones(4))
    other = torch.randn(4, 1, 4, 4, generator=seeded(seed + 1))
    other = other / ball.norm(other).view(-1, 1, 1, 1)
    assert ((step * gradient).flatten(1).sum(1) >= (other * gradient).flatten(1).sum(1) - 1e-5).all()


@pytest.mark.parametrize("ball", [Linf(1.0), L2(1.0)])
def test_a_tiny_gradient_steps_fully_and_a_zero_one_not_at_all(ball):
    gradient = torch.randn(4, 1, 4, 4, generator=seeded()) * torch.tensor([1.0, 1e-20, 1e-37, 0.0]).view(4, 1, 1, 1)
    torch.testing.assert_close(ball.norm(ball.steepest(gradient)), torch.tensor([1.0, 1.0, 1.0, 0.0]))


def test_l2_random_is_uniform_in_the_ball():
    like = torch.empty(4000, 1, 1, 3)
    points = L2(2.0).random(like, seeded())
    volume = (L2(2.0).norm(points) / 2.0) ** 3  # uniform in the ball: the enclosed volume is uniform in [0, 1]
    for q in (0.1, 0.5, 0.9):
        assert abs((volume < q).float().mean() - q) < 4 * math.sqrt(q * (1 - q) / 4000)
    assert points.flatten(1).mean(0).abs().max() < 0.1


def test_linf_random_is_uniform_in_the_cube():
    points = Linf(0.5).random(torch.empty(500, 1, 4, 4), seeded())
    assert abs(points.mean()) < 0.02
    assert abs(points.std() - 1 / math.sqrt(12)) < 0.01
    assert points.abs().max() <= 0.5


@pytest.mark.parametrize("ball", [Linf(0.3), L2(0.3)])
def test_random_draws_do_not_depend_on_batching(ball):
    like, generator = torch.empty(7, 1, 4, 4), seeded(3)
    parts = [ball.random(part, generator) for part in like.split(3)]
    assert torch.equal(torch.cat(parts), ball.random(like, seeded(3)))


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, "0.1", None])
def test_a_ball_needs_a_radius(kind, eps):
    with pytest.raises(ValueError, match="eps"):
        kind(eps)


# ---------------------------------------------------------------- ascent


def test_ascend_finds_the_maximum_of_a_concave_objective():
    peak = torch.full((3, 1, 2, 2), 0.7)

    def objective(x, rows):
        return -((x - peak[rows]) ** 2).flatten(1).sum(1), None

    climbed = ascend(objective, torch.zeros_like(peak), Linf(1.0), steps=70, step_size=0.01)
    torch.testing.assert_close(climbed, peak, atol=0.011, rtol=0)
    boxed = ascend(objective, torch.zeros_like(peak), Linf(0.4), steps=70, step_size=0.01)
    torch.testing.assert_close(boxed, torch.full_like(peak, 0.4))


def test_ascend_lets_finished_images_leave_where_they_are_and_asks_only_about_the_rest():
    goals, asked = torch.tensor([0.0, 0.2, 0.5, 9.0]), []

    def objective(x, rows):
        asked.append(rows.tolist())
        return x.flatten(1).sum(1), x.flatten(1).mean(1) >= goals[rows] - 1e-6

    climbed = ascend(objective, torch.zeros(4, 1, 1, 1), Linf(1.0), steps=8, step_size=0.1)
    torch.testing.assert_close(climbed.flatten(), torch.tensor([0.0, 0.2, 0.5, 0.8]))
    assert asked[0] == [0, 1, 2, 3]
    assert asked[-1] == [3]


def test_ascend_without_bounds_leaves_the_unit_box_and_passes_change_nothing():
    def objective(x, rows):
        return x.flatten(1).sum(1) * (rows + 1), None

    x, options = torch.rand(5, 1, 2, 2, generator=seeded()), {"steps": 3, "step_size": 1.0}
    free = ascend(objective, x, L2(10.0), bounds=None, **options)
    torch.testing.assert_close(free, x + 3 * 0.5)
    assert torch.equal(free, ascend(objective, x, L2(10.0), bounds=None, examples_per_pass=2, **options))


def test_ascend_sums_over_images_so_that_company_cannot_drown_a_tiny_gradient():
    x = torch.full((300, 1, 1, 1), 0.5)
    climbed = ascend(lambda x, rows: (1e-44 * x.flatten(1).sum(1), None), x, Linf(0.1), steps=1, step_size=0.1)
    torch.testing.assert_close(climbed, x + 0.1)  # a mean over 300 images would round its gradient to 0


def test_ascend_averages_the_gradient_over_draws():
    noise = seeded(5)

    def objective(x, rows):
        return ((1.0 + 5.0 * torch.randn(x.shape, generator=noise)) * x).flatten(1).sum(1), None

    x = torch.full((200, 1, 1, 1), 0.5)
    rose = [(ascend(objective, x, Linf(0.1), steps=1, step_size=0.1, draws=d) > x).float().mean() for d in (1, 400)]
    assert rose[0] < 0.7  # P(1 + 5 n > 0) = 0.58
    assert rose[1] > 0.99  # P(1 + 5 n / 20 > 0) = 0.99997


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda x, rows: (x.round().detach().flatten(1).sum(1), None), "surrogate"),
        (lambda x, rows: ((x - x).flatten(1).sum(1).sqrt(), None), "finite"),
    ],
)
def test_ascend_refuses_objectives_that_cannot_be_climbed(objective, message):
    with pytest.raises(ValueError, match=message):
        ascend(objective, torch.rand(2, 1, 2, 2), Linf(0.1), steps=2, step_size=0.1)


@pytest.mark.parametrize("bad", [{"steps": -1}, {"steps": 1.5}, {"step_size": -1.0}, {"step_size": math.nan}, {"draws": 0}])
def test_ascend_names_the_bad_number(bad):
    arguments = {"steps": 1, "step_size": 0.1, **bad}
    with pytest.raises(ValueError, match=next(iter(bad))):
        ascend(lambda x, rows: (x.flatten(1).sum(1), None), torch.rand(2, 1, 2, 2), Linf(0.1), **arguments)


# ---------------------------------------------------------------- exact cases


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_on_a_linear_classifier_one_step_is_optimal(loss):
    weights, x = torch.randn(16, generator=seeded()), torch.full((2, 1, 4, 4), 0.5)
    model, y = linear(weights), torch.tensor([0, 1])
    sign = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(fgsm(model, x, y, Linf(0.1), loss=loss), x + 0.1 * sign * weights.sign().view(1, 1, 4, 4))
    direction = (weights / weights.norm()).view(1, 1, 4, 4)
    torch.testing.assert_close(fgm(model, x, y, L2(0.3), loss=loss), x + 0.3 * sign * direction)
    for attack in (partial(ifgsm, stop_when_fooled=False), partial(pgd, stop_when_fooled=False)):
        torch.testing.assert_close(attack(model, x[:1], y[:1], Linf(0.1)), fgsm(model, x[:1], y[:1], Linf(0.1)))


def test_pgd_crosses_a_linear_boundary_exactly_when_the_ball_reaches_it():
    weights = torch.randn(16, generator=seeded(1))
    model, x, y = linear(weights), torch.full((1, 1, 4, 4), 0.5) + 0.05 * weights.sign().view(1, 1, 4, 4), torch.tensor([1])
    distance = 0.05  # in linf the boundary w.(x - 1/2) = 0 is reached by undoing the shift
    assert accuracy(model, pgd(model, x, y, Linf(distance * 0.98), loss="margin"), y) == 1
    assert accuracy(model, pgd(model, x, y, Linf(distance * 1.02), loss="margin"), y) == 0


def test_losses_by_hand():
    scores, y = torch.tensor([[1.0, 3.0, 0.0], [-500.0, -100.0, -900.0]]), torch.tensor([1, 0])
    torch.testing.assert_close(LOSSES["margin"](scores, y), torch.tensor([-2.0, 400.0]))
    torch.testing.assert_close(LOSSES["ce"](scores, y), -scores.log_softmax(1)[[0, 1], y])
    torch.testing.assert_close(LOSSES["dlr"](scores, y), torch.tensor([-2 / 3, 400 / 800]))
    torch.testing.assert_close(LOSSES["dlr"](7 * scores - 900, y), LOSSES["dlr"](scores, y))  # neither scale nor shift


def test_a_target_is_reached():
    model, (x, y) = small_cnn(), images(40)
    target = (y + 3) % 10
    for loss in ("ce", "margin"):
        assert accuracy(model, pgd(model, x, y, Linf(0.3), target=target, loss=loss, steps=20), target) > 0.9
        towards = fgsm(model, x, y, Linf(0.005), target=target, loss=loss)
        assert (LOSSES[loss](model(towards), target) < LOSSES[loss](model(x), target)).all()


# ---------------------------------------------------------------- properties

ATTACKS = {
    "fgsm": (fgsm, Linf),
    "fgm": (fgm, L2),
    "ifgsm": (ifgsm, Linf),
    "pgd-linf": (partial(pgd, steps=7), Linf),
    "pgd-l2": (partial(pgd, steps=7, restarts=2), L2),
}


@pytest.mark.parametrize("name", ATTACKS)
@quick
@given(st.floats(0, 1.5), st.sampled_from(list(LOSSES)), st.integers(0, 10**6))
def test_inside_the_ball_and_the_box_and_never_worse_than_the_start(name, eps, loss, seed):
    attack, kind = ATTACKS[name]
    model, (x, y) = net(seed), batch(seed=seed)
    attacked = attack(model, x, y, kind(eps), loss=loss, generator=seeded(seed))
    assert (kind(eps).norm(attacked - x) <= eps + 1e-5).all()
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    if name.startswith("pgd") or name == "ifgsm":
        before, after = model(x), model(attacked)
        fooled_before, fooled_after = before.argmax(1) != y, after.argmax(1) != y
        assert (fooled_after >= fooled_before).all()
        assert (fooled_after | (LOSSES[loss](after, y) >= LOSSES[loss](before, y) - 1e-5)).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_eps_zero_is_the_identity_and_an_empty_batch_stays_empty(name):
    attack, kind = ATTACKS[name]
    model, (x, y) = net(), batch()
    attacked = attack(model, x, y, kind(0.0))
    assert torch.equal(attacked, x)
    assert attacked.data_ptr() != x.data_ptr()
    assert attack(model, x[:0], y[:0], kind(0.1)).shape == x[:0].shape


@pytest.mark.parametrize("name", ATTACKS)
def test_no_trace_is_left(name):
    attack, kind = ATTACKS[name]
    model, (x, y) = net().train(), batch()
    model[1].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    copies, state = (x.clone(), y.clone()), torch.random.get_rng_state()
    attack(model, x, y, kind(0.2))
    assert all(m.training for m in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert model[4].weight.grad.eq(1).all()
    assert model[1].bias.grad is None
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    assert not x.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_trace_is_left_by_a_failure_either_and_no_grad_does_not_matter(name):
    attack, kind = ATTACKS[name]
    model, (x, y) = net().train(), batch()
    with pytest.raises(ValueError, match="y must be in"):
        attack(model, x, y + 1, kind(0.2))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(attack(model, x, y, kind(0.2)), attack(net(), x, y, kind(0.2)))


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.4)])
@pytest.mark.parametrize("stop", [True, False])
def test_same_seed_same_result_however_the_images_are_batched(ball, stop):
    model, (x, y) = net(dtype=torch.float64), batch(12, dtype=torch.float64)
    y[::2] = model(x).argmax(1)[::2]
    attack = partial(pgd, model, steps=9, restarts=2, stop_when_fooled=stop)
    whole = attack(x, y, ball, generator=seeded(4))
    assert torch.equal(whole, attack(x, y, ball, generator=seeded(4)))
    assert not torch.equal(whole, attack(x, y, ball, generator=seeded(5)))
    generator = seeded(4)
    parts = [attack(a, b, ball, generator=generator) for a, b in zip(x.split(5), y.split(5), strict=True)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-9, rtol=0)
    model.examples_per_pass = 4
    torch.testing.assert_close(attack(x, y, ball, generator=seeded(4)), whole, atol=1e-9, rtol=0)


def test_one_step_attacks_step_also_where_the_image_is_misclassified_and_pgd_leaves_it():
    model, (x, _) = net(), batch()
    wrong = (model(x).argmax(1) + 1) % 3
    assert (Linf(1).norm(fgsm(model, x, wrong, Linf(0.05)) - x) > 0.04).all()
    assert (L2(1).norm(fgm(model, x, wrong, L2(0.05)) - x) > 0.02).all()
    assert torch.equal(pgd(model, x, wrong, Linf(0.05)), x)


def test_restarts_never_lose():
    model, (x, y) = net(3), batch(40, 3)
    y = model(x).argmax(1)
    kept = [accuracy(model, pgd(model, x, y, L2(0.7), steps=2, restarts=r, generator=seeded(1)), y) for r in (1, 20)]
    assert kept[1] < kept[0]


def test_stopping_early_leaves_the_same_images_standing_as_not_stopping():
    model, (x, y) = small_cnn(), images(100)
    stopped, full = (pgd(model, x, y, Linf(0.05), steps=10, stop_when_fooled=stop) for stop in (True, False))
    assert abs(accuracy(model, stopped, y) - accuracy(model, full, y)) <= 0.02
    assert Linf(1).norm(stopped - x).mean() < Linf(1).norm(full - x).mean()


# ---------------------------------------------------------------- undefended, masked and noisy models


def test_an_undefended_network_falls_under_5_percent():
    model, (x, y) = small_cnn(), images(200)
    assert accuracy(model, x, y) > 0.7
    for loss in LOSSES:
        assert accuracy(model, pgd(model, x, y, Linf(0.3), loss=loss), y) < 0.05
    assert accuracy(model, pgd(model, x, y, L2(5.0)), y) < 0.05


def test_confident_scores_hide_from_cross_entropy_and_fall_to_the_margin():
    class Confident(nn.Module):
        def forward(self, x):
            return 1000 * small_cnn()(x)

    (x, y), model = images(100), Confident()
    assert accuracy(model, pgd(model, x, y, Linf(0.1), steps=10, random_start=False), y) > 0.5  # masked, not robust
    assert accuracy(model, pgd(model, x, y, Linf(0.1), steps=10, loss="margin", random_start=False), y) < 0.3


def test_a_rounding_step_hides_from_gradients_and_falls_to_a_surrogate():
    (x, y), plain = images(100), small_cnn()
    model = Rounded(plain)
    before = accuracy(model, x, y)
    assert accuracy(model, pgd(model, x, y, Linf(0.2), random_start=False), y) == before  # every gradient is exactly 0
    for stop in (True, False):
        attacked = pgd(model, x, y, Linf(0.2), surrogate=plain, steps=20, stop_when_fooled=stop)
        assert accuracy(model, attacked, y) < 0.1
    assert accuracy(model, fgsm(model, x, y, Linf(0.2), surrogate=plain), y) < before - 0.3


def test_a_stochastic_model_never_stops_early_and_frozen_it_does():
    model, (x, y) = Noisy(small_cnn()), images(40)
    wrong = (model(x).argmax(1) + 1) % 10
    assert (Linf(1).norm(pgd(model, x, wrong, Linf(0.1), steps=4, random_start=False) - x) > 0).all()
    with frozen_noise(model, 0):
        fooled = model(x).argmax(1) != y
        attacked = pgd(model, x, y, Linf(0.1), steps=4)
        assert torch.equal(attacked[fooled], x[fooled])


def test_a_stochastic_attack_depends_on_its_seed_alone_and_leaves_the_models_own_noise():
    model, (x, y) = Noisy(small_cnn(), seed=1), images(10)
    first = pgd(model, x, y, Linf(0.1), steps=3, eot=2, generator=seeded(1))
    assert torch.equal(first, pgd(model, x, y, Linf(0.1), steps=3, eot=2, generator=seeded(1)))
    assert torch.equal(model(x), Noisy(small_cnn(), seed=1)(x))


def test_averaging_over_noise_makes_the_attack_stronger():
    model, (x, y) = Noisy(small_cnn(), sigma=0.6), images(100)

    def left(eot):
        attacked = pgd(model, x, y, Linf(0.04), steps=10, eot=eot, loss="margin", generator=seeded(2))
        return sum(accuracy(model, attacked, y) for _ in range(10)) / 10

    assert left(8) < left(1)


# ---------------------------------------------------------------- bad input

BAD = {
    "x": [
        {"x": torch.rand(2, 16)},
        {"x": torch.rand(2, 1, 4, 4) + 1},
        {"x": torch.full((2, 1, 4, 4), math.nan)},
        {"x": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)},
        {"x": [[0.5]]},
    ],
    "y": [
        {"y": torch.tensor([0, 3])},
        {"y": torch.tensor([0, -1])},
        {"y": torch.tensor([0])},
        {"y": torch.tensor([0.0, 1.0])},
    ],
    "ball": [{"ball": 0.3}, {"ball": None}],
    "loss": [{"loss": "dlr2"}],
    "target": [{"target": torch.tensor([0, 7])}, {"target": torch.tensor([0])}],
    "eot": [{"eot": 0}, {"eot": 1.5}],
    "model": [{"model": lambda x: x}, {"model": nn.Flatten(2)}, {"model": nn.Sequential(nn.Flatten(), nn.Linear(16, 1))}],
    "surrogate": [{"surrogate": lambda x: x}],
    "generator": [{"generator": 7}],
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("argument", "bad"), [(key, bad) for key, cases in BAD.items() for bad in cases])
def test_bad_input_is_named(name, argument, bad):
    attack, kind = ATTACKS[name]
    good = {"model": net(), "x": torch.rand(2, 1, 4, 4), "y": torch.tensor([0, 1]), "ball": kind(0.1)}
    arguments = {**good, **bad}
    with pytest.raises(ValueError, match=rf"^{argument} must"):
        attack(**arguments)


@pytest.mark.parametrize("attack", [ifgsm, pgd])
@pytest.mark.parametrize("bad", [{"steps": 0}, {"steps": "4"}, {"step_size": -0.1}, {"step_size": math.nan}, {"restarts": 0}])
def test_bad_numbers_are_named(attack, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        attack(net(), torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), Linf(0.1), **bad)


def test_the_sign_method_wants_linf_and_its_twin_l2():
    arguments = net(), torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    for attack, ball in [(fgsm, L2(0.1)), (ifgsm, L2(0.1)), (fgm, Linf(0.1))]:
        with pytest.raises(ValueError, match="ball must be"):
            attack(*arguments, ball)


@pytest.mark.parametrize("name", ATTACKS)
def test_scores_that_are_nan_stop_the_attack(name):
    class Broken(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] * math.nan

    attack, kind = ATTACKS[name]
    with pytest.raises(ValueError, match="model must return scores that are numbers, got NaN for 2 images"):
        attack(Broken(), torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), kind(0.1))


def test_restarts_on_a_noisy_model_are_compared_by_as_many_draws_as_each_gradient_has():
    model, judged = Noisy(net(), sigma=0.1).eval(), []
    x, y = batch()
    model.register_forward_hook(lambda *_: judged.append(1) if not torch.is_grad_enabled() else None)
    pgd(model, x, y, Linf(0.1), steps=2, restarts=3, eot=7)
    assert len(judged) == 3 * 7
