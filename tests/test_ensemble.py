"""AutoAttack and Square behind this library's signature: the authors' results, known answers, no trace, no surprises."""

import logging
import sys
from functools import partial

import pytest
import torch
from fixtures_models import Constant, Detached, Noisy, Rounded, images, small_cnn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyautoattack import AutoAttack
from torch import nn

from hybridgen_lib.attacks import L2, Bpda, Linf, autoattack, ensemble, pgd, square
from hybridgen_lib.classifier import frozen_noise, is_stochastic

BOTH = [autoattack, partial(square, queries=100)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def net(classes=3, seed=0, dtype=torch.float32):
    """A small smooth random classifier of 1 x 8 x 8 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, classes))
    return model.to(dtype).eval()


def batch(model, n=20, seed=0, dtype=torch.float32):
    """Images, and labels that the model gives them but for the last two."""
    x = torch.rand(n, 1, 8, 8, generator=seeded(seed), dtype=dtype)
    with torch.no_grad():
        scores = model(x)
    y = scores.argmax(1)
    y[-2:] = (y[-2:] + 1) % scores.shape[1]
    return x, y


def accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


@pytest.fixture
def short(monkeypatch):
    """All parts of AutoAttack with a fraction of their iterations."""
    plain = ensemble._suite

    def shortened(goal, x, ball):
        suite, classes = plain(goal, x, ball)
        shorten(suite)
        return suite, classes

    monkeypatch.setattr(ensemble, "_suite", shortened)


def shorten(suite):
    suite.apgd.n_iter = suite.apgd_targeted.n_iter = suite.fab.n_iter = 15
    suite.square.n_queries = 100


# ---------------------------------------------------------------- the authors' results


def authors(model, x, y, ball, seed=0, prepare=lambda suite: None, **options):
    """What the authors' own entry point makes of it, with the seed that ``autoattack`` draws from its generator."""
    seed = int(torch.randint(2**31, (), generator=seeded(seed)))
    with torch.random.fork_rng(devices=[]):
        suite = AutoAttack(model, eps=ball.eps, norm=type(ball).__name__, seed=seed, **options)
        prepare(suite)
        return suite.run_standard_evaluation(x, y)[0]


@pytest.mark.parametrize("ball", [Linf(0.3), L2(1.0)])
def test_every_setting_of_the_standard_version_is_the_authors(ball, monkeypatch):
    built, plain = [], ensemble._suite
    monkeypatch.setattr(ensemble, "_suite", lambda *arguments: built.append(plain(*arguments)) or built[-1])
    model, (x, _) = small_cnn(), images(2)
    autoattack(model, x, (model(x).argmax(1) + 1) % 10, ball)  # nothing is left to attack
    ours, theirs = built[0][0], AutoAttack(model, eps=ball.eps, norm=type(ball).__name__, version="standard")
    assert ours.attacks_to_run == theirs.attacks_to_run
    for part in ("apgd", "apgd_targeted", "fab", "square"):
        mine, yours = (
            {key: value for key, value in vars(getattr(suite, part)).items() if type(value) in (int, float, str, bool)}
            for suite in (ours, theirs)
        )
        assert len(mine) > 5
        assert all(mine[key] == yours[key] for key in set(mine) - {"seed", "targeted"})


@pytest.mark.parametrize(("kind", "eps"), [(Linf, 0.015), (L2, 0.15)])
def test_it_is_the_authors_standard_version_to_the_last_bit(kind, eps, short):
    model = net(classes=10)
    x, y = batch(model)
    ours = autoattack(model, x, y, kind(eps), generator=seeded(7))
    assert 0.1 < accuracy(model, ours, y) < 0.8
    assert torch.equal(ours, authors(model, x, y, kind(eps), seed=7, prepare=shorten))


def test_the_authors_standard_version_and_ours_leave_as_many_real_images(short):
    model, (x, y), ball = small_cnn(), images(20), L2(0.5)
    ours, theirs = autoattack(model, x, y, ball), authors(model, x, y, ball, seed=1, prepare=shorten)
    assert 0.05 < accuracy(model, ours, y) < accuracy(model, x, y) - 0.2
    assert abs(accuracy(model, ours, y) - accuracy(model, theirs, y)) < 1.01 / 20  # another seed


@pytest.mark.parametrize("classes", [2, 3])
def test_with_few_classes_it_is_the_authors_parts_that_are_defined(classes, short):
    model, ball = net(classes), Linf(0.05)
    x, y = batch(model)
    attacks = {2: ["apgd-ce", "fab", "square"], 3: ["apgd-ce", "apgd-dlr", "fab", "square"]}[classes]

    def once(suite):
        shorten(suite)
        suite.apgd.n_restarts = suite.fab.n_restarts = 1

    theirs = authors(model, x, y, ball, attacks=attacks, version="custom", prepare=once)
    ours = autoattack(model, x, y, ball)
    assert accuracy(model, ours, y) < accuracy(model, x, y)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("ball", [Linf(0.02), L2(0.3)])
def test_rand_leaves_no_more_than_the_authors_rand(ball, short):
    model = Noisy(net(classes=10), sigma=0.05).eval()
    x, y = batch(model.classifier, 30)

    def left(attacked):
        return sum(accuracy(model, attacked, y) for _ in range(40)) / 40

    theirs = left(authors(model, x, y, ball, version="rand", prepare=shorten))
    assert left(x) > 0.7
    assert left(autoattack(model, x, y, ball, version="rand")) <= theirs + 0.03
    assert theirs < 0.7


def test_one_lucky_draw_breaks_nothing_in_rand(short):
    """Half of all draws are wrong whatever the image shows. What counts is the mean, and that the image can move."""

    class Coin(Noisy):
        def forward(self, x, generator=None):
            heads = self.noise(1, len(x), 1, x, generator)[0, :, 0]
            lift = 4 * x[:, 0, 0, 0]
            return torch.stack([lift + 3 * heads, lift * 0, lift * 0 - 9], 1)

    model, x, y = Coin(nn.Identity()), torch.full((30, 1, 8, 8), 0.1), torch.zeros(30, dtype=torch.long)
    attacked = autoattack(model, x, y, Linf(0.05), version="rand")
    assert ((attacked[:, 0, 0, 0] - 0.05).abs() < 1e-6).float().mean() > 0.8  # the rest are lucky steps on the way there


# ---------------------------------------------------------------- known answers


@pytest.mark.parametrize("classes", [2, 3, 4, 11])
@pytest.mark.parametrize("kind", [Linf, L2])
def test_it_crosses_a_linear_boundary_exactly_when_the_ball_reaches_it(classes, kind, short):
    weights, distance = torch.randn(64, generator=seeded(1)), 0.05
    layer = nn.Linear(64, classes)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[1] = weights
        layer.bias.fill_(-9 - weights.abs().sum())  # classes that never win
        layer.bias[0], layer.bias[1] = 0, -weights.sum() / 2
    model, y = nn.Sequential(nn.Flatten(), layer), torch.tensor([1, 0])
    away = kind(1.0).steepest(weights.view(1, 1, 8, 8))
    x = torch.cat([0.5 + distance * away, 0.5 - distance * away])
    below, above = (autoattack(model, x, y, kind(factor * distance)) for factor in (0.97, 1.03))
    assert torch.equal(below, x)
    assert accuracy(model, above, y) == 0


@pytest.mark.parametrize("attack", BOTH)
def test_scores_that_are_the_pixels_themselves(attack, short):
    """The brightest of four pixels is the class: it falls where eps is more than half its lead. Square writes into scores,
    which here would be the image."""
    model, x = nn.Flatten(), torch.rand(60, 1, 2, 2, generator=seeded())
    first, second, *_ = x.flatten(1).sort(dim=1, descending=True).values.T
    y, half = x.flatten(1).argmax(1), (first - second) / 2
    attacked = attack(model, x, y, Linf(0.1))
    fell = model(attacked).argmax(1) != y
    assert not fell[half > 0.1].any()
    assert torch.equal(attacked[~fell], x[~fell])
    assert fell.sum() > 10
    if attack is autoattack:
        assert fell[half < 0.099].all()


def test_square_flips_a_single_pixel_by_its_own_search():
    class Corner(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 1, 1], 1 - x[:, 0, 1, 1]], 1)

    x, y = torch.full((5, 1, 8, 8), 0.6), torch.zeros(5, dtype=torch.long)
    assert accuracy(Corner(), square(Corner(), x, y, Linf(0.095)), y) == 1
    assert accuracy(Corner(), square(Corner(), x, y, Linf(0.105)), y) == 0


def test_more_queries_never_lose_and_no_more_are_asked_than_allowed():
    model, asked = net(classes=10), []
    x, y = batch(model, 60)
    model.register_forward_hook(lambda *_: asked.append(1))
    left = []
    for queries in (1, 30, 300):
        asked.clear()
        left.append(square(model, x, y, Linf(0.03), queries=queries, generator=seeded(1)))
        assert len(asked) <= queries + 4  # and four for the clean image, the start, the number of classes, the verdict
    left = [accuracy(model, attacked, y) for attacked in left]
    assert left[2] < left[1] < left[0] <= accuracy(model, x, y)


@pytest.mark.parametrize("kind", [Linf, L2])
def test_square_needs_no_gradient(kind):
    plain, eps = small_cnn(), {Linf: 0.3, L2: 6.0}[kind]
    x, y = images(40)
    for model in (Detached(plain), Rounded(plain)):
        attacked = square(model, x, y, kind(eps), queries=300)
        assert accuracy(model, attacked, y) < 0.15
    assert torch.equal(square(Detached(plain), x, y, kind(eps), queries=300), square(plain, x, y, kind(eps), queries=300))


# ---------------------------------------------------------------- properties


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["standard", "rand", "square"]), st.sampled_from([Linf, L2]), st.sampled_from([2, 3, 4, 10]),
    st.floats(0, 1.5), st.integers(0, 10**6),
)  # fmt: skip
def test_inside_the_ball_and_the_box_and_what_did_not_fall_is_as_it_was(short, which, kind, classes, eps, seed):
    attack = partial(square, queries=50) if which == "square" else partial(autoattack, version=which)
    model = net(classes, seed)
    x, y = batch(model, 12, seed)
    attacked = attack(model, x, y, kind(eps), generator=seeded(seed))
    assert attacked.shape == x.shape
    assert (kind(eps).norm(attacked - x) <= eps * (1 + 1e-4) + 1e-6).all()
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    if which != "rand":
        fell = (model(attacked).argmax(1) != y) & (model(x).argmax(1) == y)
        assert torch.equal(attacked[~fell], x[~fell])  # also the two that were wrong before: no worse than at the start


@pytest.mark.parametrize("attack", [*BOTH, partial(autoattack, version="rand")])
@pytest.mark.parametrize("kind", [Linf, L2])
def test_eps_zero_is_the_identity_and_an_empty_batch_stays_empty(attack, kind, short):
    model = net()
    x, y = batch(model)
    attacked = attack(model, x, y, kind(0.0))
    assert torch.equal(attacked, x)
    assert attacked.data_ptr() != x.data_ptr()
    assert attack(model, x[:0], y[:0], kind(0.1)).shape == x[:0].shape
    assert attack(model, x[:1], y[:1], kind(0.1)).shape == x[:1].shape


def tracer(frame, event, argument):
    return None


@pytest.mark.parametrize("attack", [*BOTH, partial(autoattack, version="rand")])
@pytest.mark.parametrize("failure", [None, "label", "nan"])
def test_no_trace_is_left_by_success_or_failure(attack, failure, short):
    model = net(classes=4)
    x, y = batch(model)
    model.train()
    model[1].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    weights = [p.detach().clone() for p in model.parameters()]
    if failure == "nan":  # on the clean images all is well
        clean = x.clone()
        model.register_forward_hook(lambda m, seen, out: out if (clean == seen[0][0]).flatten(1).all(1).any() else out / 0 * 0)
    copies, state, before = (x.clone(), y.clone()), torch.random.get_rng_state(), sys.gettrace()
    log = logging.getLogger("auto-attack")
    log.setLevel(logging.INFO)
    sys.settrace(tracer)
    try:
        if failure is None:
            attack(model, x, y, Linf(0.1))
        else:
            message = {"label": "y must be in", "nan": "numbers, got NaN"}[failure]
            with pytest.raises(ValueError, match=message):
                attack(model, x, y + 3 if failure == "label" else y, Linf(0.1))
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    assert log.level == logging.INFO
    log.setLevel(logging.NOTSET)
    assert all(m.training for m in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), weights, strict=True))
    assert model[4].weight.grad.eq(1).all()
    assert model[1].bias.grad is None
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    assert not x.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)


def test_square_does_not_write_into_a_models_parameters():
    model, (x, _) = Constant(), images(4)
    attacked = square(model, x, torch.zeros(4, dtype=torch.long), Linf(0.1), queries=20)
    assert model.scores.eq(0).all()
    assert torch.equal(attacked, x)


@pytest.mark.parametrize("version", ["standard", "rand", "square"])
def test_the_result_depends_on_the_generator_alone(version, short):
    attack = partial(square, queries=50) if version == "square" else partial(autoattack, version=version)
    model = net(classes=4)
    x, y = batch(model)

    def run(seed, elsewhere):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(elsewhere)
            return attack(model, x, y, Linf(0.15), generator=None if seed is None else seeded(seed))

    assert torch.equal(run(3, 1), run(3, 2))
    assert torch.equal(run(None, 1), run(0, 2))
    assert not torch.equal(run(3, 1), run(4, 1))
    with torch.no_grad():
        assert torch.equal(attack(model, x.clone().requires_grad_(), y, Linf(0.15), generator=seeded(3)), run(3, 1))


@pytest.mark.parametrize("attack", [*BOTH, partial(autoattack, version="rand")])
def test_batches_are_put_together_as_they_were_taken_apart(attack, monkeypatch, short):
    monkeypatch.setattr(ensemble, "BATCH", 6)
    model = net(classes=4)
    x, y = batch(model, 19)
    attacked = attack(model, x, y, Linf(0.2))
    assert (Linf(1).norm(attacked - x) <= 0.2 + 1e-6).all()
    assert accuracy(model, attacked, y) < accuracy(model, x, y) - 0.25


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("attack", [*BOTH, partial(autoattack, version="rand")])
def test_double_precision(attack, kind, short):
    model, eps = net(classes=4, dtype=torch.float64), {Linf: 0.15, L2: 0.5}[kind]
    x, y = batch(model, dtype=torch.float64)
    attacked = attack(model, x, y, kind(eps))
    fell = model(attacked).argmax(1) != y
    assert attacked.dtype == torch.float64
    assert (kind(1).norm(attacked - x) <= eps + 1e-6).all()
    assert fell.float().mean() > 0.15  # the last two, a tenth, were wrong before
    if "version" not in getattr(attack, "keywords", {}):
        assert torch.equal(attack(model, x, y, kind(1e-5)), x)  # what stands is not even rounded


# ---------------------------------------------------------------- noise, few classes, no gradients


def test_noise_must_be_frozen_but_for_rand(short):
    model = Noisy(net(classes=4), sigma=0.05, seed=1).eval()
    x, y = batch(model.classifier)
    with pytest.raises(ValueError, match=r"^version must be 'rand' for a stochastic model"):
        autoattack(model, x, y, Linf(0.05))
    with pytest.raises(ValueError, match=r"^model must be deterministic"):
        square(model, x, y, Linf(0.05))
    with frozen_noise(model, 3):
        for attack in BOTH:
            attacked = attack(model, x, y, Linf(0.05))
            assert torch.equal(attacked, attack(model, x, y, Linf(0.05)))
            assert accuracy(model, attacked, y) < accuracy(model, x, y)
    assert is_stochastic(model)


def test_rand_draws_from_the_generator_and_leaves_the_models_own_noise(short):
    model = Noisy(net(), seed=1).eval()
    x, y = batch(model.classifier)
    autoattack(model, x, y, Linf(0.05), version="rand")
    torch.testing.assert_close(model(x), Noisy(net(), seed=1).eval()(x))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("version", ["standard", "rand"])
def test_few_classes_fall_like_many(classes, kind, version, short):
    model, eps = net(classes), {Linf: 0.5, L2: 4.0}[kind]
    x, y = batch(model)
    target = Noisy(model, sigma=0.01).eval() if version == "rand" else model
    assert accuracy(model, autoattack(target, x, y, kind(eps), version=version), y) < 0.05


@pytest.mark.parametrize("version", ["standard", "rand"])
@pytest.mark.parametrize("model", [Detached(net()), Constant(3)])
def test_where_there_is_no_gradient_it_says_so(model, version, short):
    x, y = batch(net())
    y = torch.where(model(x).argmax(1) == y, y, model(x).argmax(1))
    with pytest.raises(ValueError, match=r"gradient in x.*surrogate"):
        autoattack(model, x, y, Linf(0.1), version=version)


def test_gradients_of_zero_raise_nothing_and_a_surrogate_finds_the_way(short):
    plain = small_cnn()
    x, y = images(12)
    masked = Rounded(plain)
    assert torch.equal(pgd(masked, x, y, Linf(0.05), random_start=False), x)
    blind = autoattack(masked, x, y, Linf(0.05))
    seeing = autoattack(Bpda(masked, plain), x, y, Linf(0.05))
    assert accuracy(masked, seeing, y) < accuracy(masked, blind, y) - 0.1


@pytest.mark.parametrize("size", [(4, 4), (12, 12), (24, 24), (12, 8)])
def test_sizes_that_square_cannot_tile_are_refused_in_l2_before_any_work(size):
    x, y = torch.rand(2, 1, *size), torch.tensor([0, 1])
    asked = []
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model.register_forward_hook(lambda *_: asked.append(1))
    for attack in BOTH:
        with pytest.raises(ValueError, match=r"^x must have a size"):
            attack(model, x, y, L2(0.1))
    assert not asked


@pytest.mark.parametrize("size", [(5, 5), (9, 12), (28, 28), (32, 32), (20, 33)])
def test_other_sizes_are_not(size):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    x = 0.4 + 0.2 * torch.rand(6, 1, *size, generator=seeded())
    y = model(x).argmax(1)
    for ball in (L2(3.0), Linf(0.3)):
        assert accuracy(model, square(model, x, y, ball, queries=200), y) == 0


@pytest.mark.parametrize("kind", [Linf, L2])
def test_a_tie_that_the_label_wins_is_not_a_success(kind):
    """Scores in steps of 1/4, as a vote of a few gives them: many images tie, and the first of the best is the class."""

    class Votes(nn.Module):
        def forward(self, x):
            share = (x.mean((1, 2, 3)) * 4).round() / 4
            return torch.stack([share, 1 - share], 1)

    x, y = torch.full((3, 1, 8, 8), 0.5), torch.zeros(3, dtype=torch.long)
    assert Votes()(x).diff(dim=1).eq(0).all()
    assert torch.equal(square(Votes(), x, y, kind(1e-3), queries=20), x)
    assert torch.equal(square(Constant(3), x, y, kind(0.1), queries=20), x)
    if kind is Linf:  # in l2 Square's patterns leave the mean where it is
        assert accuracy(Votes(), square(Votes(), x, y, Linf(0.4)), y) == 0


@pytest.mark.parametrize("attack", [*BOTH, partial(autoattack, version="rand")])
@pytest.mark.parametrize("kind", [Linf, L2])
def test_how_images_lie_in_memory_changes_nothing(attack, kind, short):
    model = net(classes=4)
    x, y = batch(model)
    stretched = torch.stack([x, x], -1)[..., 0]
    assert not stretched.is_contiguous()
    assert torch.equal(attack(model, stretched, y, kind(0.2)), attack(model, x, y, kind(0.2)))


def test_rand_has_the_authors_draws_and_losses_and_is_judged_on_ten(short, monkeypatch):
    told, plain = [], ensemble._suite

    def watched(goal, *arguments):
        suite, classes = plain(goal, *arguments)
        perturb = suite.apgd.perturb
        suite.apgd.perturb = lambda *a, **o: told.append((suite.apgd.loss, suite.apgd.eot_iter, goal.eot)) or perturb(*a, **o)
        return suite, classes

    monkeypatch.setattr(ensemble, "_suite", watched)
    model = Noisy(net(classes=4), sigma=0.05).eval()
    autoattack(model, *batch(model.classifier), Linf(0.05), version="rand")
    theirs = AutoAttack(model, eps=0.05, norm="Linf", version="rand")
    assert theirs.attacks_to_run == ["apgd-ce", "apgd-dlr"]
    assert told == [(loss, theirs.apgd.eot_iter, 10) for loss in ("ce", "dlr")]
