"""Proximity and speed: closed forms of linear classifiers, censoring, noise, and nothing left behind."""

import math
from functools import partial

import pytest
import torch
from fixtures_models import Detached, Noisy, images, small_cnn
from torch import nn

from hybridgen_lib.attacks import L2, Linf, fgsm, pgd, smallest_blur, smallest_cw
from hybridgen_lib.classifier import StochasticClassifier, frozen_noise
from hybridgen_lib.evaluation import attack_outcomes, counterfactuals, proximity, speed

PIXELS = 64


class Linear(nn.Module):
    """Two classes: the score of class 1 is w.x + b, that of class 0 is 0."""

    score_kind = "logit"

    def __init__(self, w, b):
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(torch.tensor(b))

    def forward(self, x):
        score = x.flatten(1) @ self.w + self.b
        return torch.stack([torch.zeros_like(score), score], 1)


def linear(seed=0):
    """A linear model and 12 images round mid grey, so near its plane that no pixel is clipped on the way."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(PIXELS, generator=generator)
    x = 0.5 + 0.1 * (2 * torch.rand(12, 1, 8, 8, generator=generator) - 1)
    model = Linear(w, (-w.sum() / 2).item())
    with torch.no_grad():
        score = x.flatten(1) @ w + model.b
    return model, x, (score > 0).long(), score.abs()


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("ball_type", "dual"), [(L2, 2), (Linf, 1)])
def test_the_proximity_of_a_linear_classifier_is_its_distance_from_the_plane(ball_type, dual, seed):
    """|w.x + b| / ||w||: with the dual norm, l2 for l2 and l1 for linf."""
    model, x, y, score = linear(seed)
    exact = score / model.w.norm(p=dual)
    found = proximity(model, (x, y), ball_type, limit=2.0, doublings=9, bisections=7)
    assert found.reached.all()
    values = found.values.float()
    assert (values >= exact * (1 - 1e-4)).all()  # an upper bound
    assert (values <= exact * (1 + 2**-7) + 2.0 / 2**16 + 1e-6).all()


def test_the_smallest_attack_alone_is_enough_where_it_is_exact():
    model, x, y, score = linear()
    exact = score / model.w.norm()
    asked = []

    def counted(*arguments, **options):
        asked.append(len(arguments[1]))
        return pgd(*arguments, **options)

    by_cw = partial(smallest_cw, steps=200)
    found = proximity(model, (x, y), L2, limit=2.0, attack=counted, smallest=by_cw, bisections=3)
    torch.testing.assert_close(found.values.float(), exact, rtol=0.02, atol=1e-3)
    both = sum(asked)
    asked.clear()
    proximity(model, (x, y), L2, limit=2.0, attack=counted, bisections=3)
    assert both < sum(asked)  # radii beyond what is known already are spared


@pytest.mark.parametrize(("ball", "dual"), [(Linf(0.4), 1), (L2(3.0), 2)])
def test_a_linear_classifier_takes_its_distance_over_the_step_size(ball, dual):
    model, x, y, score = linear()
    step = 0.37 * score.median().item() / model.w.norm(p=dual).item()
    exact = score / model.w.norm(p=dual) / step
    clear = (exact - exact.round()).abs() > 1e-3
    assert clear.all()  # no image ends exactly on the plane
    for loss in ("ce", "margin"):
        found = speed(model, (x, y), ball, step_size=step, limit=30, loss=loss)
        assert found.values.tolist() == exact.ceil().clamp(max=30).tolist()
        assert found.reached.tolist() == (exact <= 30).tolist()
    assert len(found.values.unique()) > 3


def test_steps_stay_in_the_ball_and_are_counted_as_censored_there():
    model, x, y, score = linear()
    exact = score / model.w.norm(p=1)
    radius = exact.median().item() * 1.001
    found = speed(model, (x, y), Linf(radius), step_size=radius / 5, limit=20)
    assert torch.equal(found.reached, exact <= radius)
    assert (found.values[~found.reached] == 20).all()
    assert (found.values[found.reached] <= 5).all()


# ---------------------------------------------------------------- a network


@pytest.fixture(scope="module")
def near():
    return proximity(small_cnn(), images(40), Linf, limit=0.5)


def test_wrong_images_are_at_zero_and_right_ones_are_not(near):
    x, y = images(40)
    wrong = small_cnn()(x).argmax(1) != y
    assert torch.equal(near.values == 0, wrong)
    assert near.reached[wrong].all()
    assert near.quantity == "proximity"
    assert near.limit == 0.5
    assert near.seconds > 0


def test_at_the_distances_found_the_network_falls_and_well_below_it_stands(near):
    """Accuracy under the same attack at a radius is the share of images whose proximity is larger."""
    attack = partial(pgd, loss="margin", random_start=False)
    grid = [0.005, 0.02, 0.05]
    accuracy = attack_outcomes(small_cnn(), images(40), attack, Linf, grid)
    for eps in grid:
        stands = (near.values > eps) | ~near.reached
        assert stands.double().mean().item() == pytest.approx(accuracy.at(eps).mean().item(), abs=0.051)  # two images


def test_what_never_falls_is_censored_at_the_limit():
    found = proximity(small_cnn(), images(20), Linf, limit=0.002)
    assert found.values.max() == 0.002
    censored = ~found.reached
    assert censored.any()
    assert (found.values[censored] == 0.002).all()
    more = proximity(small_cnn(), images(20), Linf, limit=0.2)
    assert (more.values[censored] > 0.0018).all()


class Stubborn(nn.Module):
    """Always the first class; there is a gradient, of zeros."""

    def forward(self, x):
        return 0 * x.flatten(1)[:, :3] + torch.tensor([1.0, 0.0, 0.0])


def test_a_constant_model_never_changes_its_mind():
    data = images(5)[0], torch.zeros(5).long()
    for found in (
        proximity(Stubborn(), data, L2, limit=1.0, smallest=smallest_cw),
        speed(Stubborn(), data, L2(1.0), step_size=0.1, limit=3),
    ):
        assert not found.reached.any()
        assert math.isnan(found.estimate(f"{found.quantity}_median").value)


def test_results_do_not_depend_on_batches_nor_on_where_the_images_come_from(near):
    again = proximity(small_cnn(), images(40), Linf, limit=0.5, batch_size=7, index=range(40))
    torch.testing.assert_close(again.values, near.values, rtol=1e-3, atol=1e-6)
    ball = Linf(0.05)
    steps = [speed(small_cnn(), images(40), ball, step_size=0.005, batch_size=size).values for size in (40, 9)]
    assert torch.equal(*steps)
    some = speed(small_cnn(), images(40), ball, step_size=0.005, index=[30, 3])
    assert some.index == [30, 3]
    assert torch.equal(some.values, steps[0][[30, 3]])
    random = partial(pgd, steps=5)  # a start of its own for each image, whatever the batches
    pair = [proximity(small_cnn(), images(12), Linf, limit=0.2, attack=random, batch_size=size).values for size in (12, 5)]
    torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-6)


def test_a_stronger_attack_finds_nothing_further_away_and_smaller_steps_are_more(near):
    one_step = proximity(small_cnn(), images(40), Linf, limit=0.5, attack=fgsm)
    right = near.right
    nearer = near.values[right] <= one_step.values[right] * 1.15  # several steps may end in a worse place, now and then
    assert nearer.double().mean() > 0.9
    assert near.values[right].mean() < one_step.values[right].mean()
    coarse, fine = (speed(small_cnn(), images(40), Linf(0.1), step_size=size).values for size in (0.02, 0.005))
    assert (coarse[right] <= fine[right]).all()


def test_steps_are_those_of_ifgsm():
    """Accuracy after k steps of I-FGSM, which stops when it has fooled, is the share that takes more than k steps."""
    ball, step = Linf(0.1), 0.01
    found = speed(small_cnn(), images(40), ball, step_size=step, limit=6)
    for k in (1, 3, 6):
        attack = partial(pgd, steps=k, step_size=step, random_start=False)
        accuracy = attack_outcomes(small_cnn(), images(40), attack, Linf, [0.1]).at(0.1)
        stands = (found.values > k) | ~found.reached
        assert torch.equal(stands.double(), accuracy)


# ---------------------------------------------------------------- noise


def noisy(sigma=0.2):
    return Noisy(small_cnn(), sigma)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_counterfactual_of_a_noisy_model_holds_in_fresh_draws(frozen):
    """The distances that are found agree with how often the model is wrong, in draws of ours, at those distances."""
    caught = []

    def kept(model, x, y, ball, generator):
        attacked = pgd(model, x, y, ball, loss="margin", random_start=False, stop_when_fooled=False, generator=generator)
        caught.append((x, y, attacked, (attacked - x).flatten(1).norm(dim=1)))
        return attacked

    options = {"attack": kept, "frozen": frozen, "bisections": 2, "index": range(12)}
    found = proximity(noisy(), images(40), L2, limit=4.0, **options)
    rows = (found.right & found.reached).nonzero()[:, 0].tolist()
    assert len(rows) >= 5
    generator, model = torch.Generator().manual_seed(9), noisy()
    for k in rows:
        x, y = images(40)[0][k], images(40)[1][k]
        at = [
            attacked[i]
            for xs, _, attacked, length in caught
            for i in range(len(xs))
            if torch.equal(xs[i], x) and abs(length[i].item() - found.values[k].item()) < 1e-4
        ]
        with torch.no_grad():
            wrong = [(model(one.expand(200, -1, -1, -1), generator).argmax(1) != y).double().mean() for one in at]
        assert max(wrong) > 0.3  # more than half of ten draws were wrong


def test_under_frozen_noise_the_attack_climbs_past_the_border_of_one_draw():
    """Stopping where the one draw is fooled leaves most other draws right; by default it does not."""
    options = {"limit": 0.5, "index": range(12)}
    default = proximity(noisy(), images(40), Linf, **options)
    stops = proximity(noisy(), images(40), Linf, attack=partial(pgd, loss="margin", random_start=False), **options)
    assert default.reached.all()
    assert default.estimate("proximity").value < stops.estimate("proximity").value


def test_speed_of_a_noisy_model_is_repeated_by_its_seed():
    options = {"step_size": 0.01, "limit": 8, "index": range(10)}
    first, again, other = (speed(noisy(), images(40), Linf(0.1), seed=seed, **options) for seed in (0, 0, 1))
    assert torch.equal(first.values, again.values)
    assert first.values.shape == other.values.shape
    fresh = speed(noisy(), images(40), Linf(0.1), frozen=False, eot=3, loss="margin", **options)
    assert fresh.reached.any()


def test_under_frozen_noise_of_ones_own_the_model_is_a_function():
    model = noisy()
    with frozen_noise(model, 3):
        a = proximity(model, images(40), Linf, limit=0.3, index=range(8), batch_size=8, bisections=2)
        b = proximity(model, images(40), Linf, limit=0.3, index=range(8), batch_size=3, bisections=2)
    torch.testing.assert_close(a.values, b.values, rtol=1e-3, atol=1e-6)


def test_nothing_is_left_behind():
    model, (x, y) = noisy(), images(6)
    model.train()
    before, state = torch.get_rng_state(), [(p.requires_grad, p.grad) for p in model.parameters()]
    proximity(model, (x, y), Linf, limit=0.1, doublings=1, bisections=1)
    speed(model, (x, y), Linf(0.1), step_size=0.05, limit=2)
    assert model.training
    assert [(p.requires_grad, p.grad) for p in model.parameters()] == state
    assert torch.equal(torch.get_rng_state(), before)
    assert model._frozen_seed is None


# ---------------------------------------------------------------- bad input


def cheat(model, x, y, ball, generator):
    return (x + 2 * ball.eps).clamp(0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "cnn"}, "model must be a torch.nn.Module"),
        ({"data": images(3)[0]}, "data must be an ImageData or a pair"),
        ({"data": (images(3)[0] * 2, images(3)[1])}, "x must lie in"),
        ({"data": (images(3)[0], torch.tensor([0, 1, 99]))}, "y must be in"),
        ({"ball_type": Linf(0.1)}, "ball_type must be Linf or L2"),
        ({"limit": 0}, "limit must be a number"),
        ({"limit": math.inf}, "limit must be a number"),
        ({"attack": "pgd"}, "attack must be a function"),
        ({"attack": cheat}, "attack must stay in Linf"),
        ({"smallest": smallest_cw}, "smallest must be a smallest_\\* attack that measures in Linf"),
        ({"smallest": pgd}, "smallest must be a smallest_\\* attack"),
        ({"doublings": -1}, "doublings must be an integer"),
        ({"bisections": 1.5}, "bisections must be an integer"),
        ({"frozen": 1}, "frozen must be True or False"),
        ({"draws": 0}, "draws must be an integer"),
        ({"index": [2, 2]}, "index must hold different positions"),
        ({"seed": 0.5}, "seed must be an integer"),
        ({"batch_size": 0}, "batch_size must be an integer"),
    ],
)
def test_proximity_refuses(change, message):
    good = {"model": small_cnn(), "data": images(3), "ball_type": Linf, "limit": 0.1, "smallest": smallest_blur}
    with pytest.raises(ValueError, match=message):
        proximity(**{**good, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ball": 0.1}, "ball must hold at least one ball"),
        ({"ball": Linf(0.0)}, "ball's eps must be a number"),
        ({"step_size": 0}, "step_size must be a number"),
        ({"limit": 0}, "limit must be an integer"),
        ({"limit": 2.5}, "limit must be an integer"),
        ({"loss": "mse"}, "loss must be one of"),
        ({"eot": 0}, "eot must be an integer"),
        ({"model": Detached(small_cnn())}, "objective must have a gradient in x"),
        ({"frozen": None}, "frozen must be True or False"),
    ],
)
def test_speed_refuses(change, message):
    good = {"model": small_cnn(), "data": images(3), "ball": Linf(0.1), "step_size": 0.01}
    with pytest.raises(ValueError, match=message):
        speed(**{**good, **change})


def test_all_steps_of_a_batch_are_taken_under_one_draw(monkeypatch):
    seeds = []
    monkeypatch.setattr(counterfactuals, "frozen_noise", lambda model, seed: seeds.append(seed) or frozen_noise(model, seed))
    found = speed(noisy(0.05), images(40), Linf(1e-4), step_size=1e-5, limit=4, index=range(6), batch_size=3)
    assert not found.reached[found.right].any()
    batches = -(-int(found.right.sum()) // 3)
    assert len(seeds) == 4 * batches
    assert len(set(seeds)) == batches


def test_double_images_and_a_noise_that_is_right_half_of_the_time():
    class Half(StochasticClassifier):
        """Right in every second call: at exactly half nothing has flipped."""

        calls = 0

        def forward(self, x, generator=None):
            self.calls += 1
            return torch.tensor([[1.0, 0.0]] if self.calls % 2 else [[0.0, 1.0]], dtype=x.dtype).expand(len(x), 2)

    x, y = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.long)

    def idle(model, x, y, ball, *, generator=None):
        return x

    found = proximity(Half(), (x, y), Linf, limit=0.1, attack=idle, frozen=False, draws=10)
    assert not found.reached.any()
    assert (found.values == 0.1).all()
