"""Attributions keep their axioms, agree with known integrals and with peers, say how wrong they may be, and leave no trace."""

import copy

import numpy as np
import pytest
import shap
import torch
from captum.attr import IntegratedGradients
from fixtures_models import Constant, Detached, Noisy, images, small_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hybridgen_lib.classifier import StochasticClassifier, frozen_noise
from hybridgen_lib.explain import attribution
from hybridgen_lib.explain.attribution import expected_gradients, integrated_gradients, smoothness
from hybridgen_lib.models.deep_bayes import deep_bayes

RULES = ["trapezoid", "gauss-legendre"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def net(classes=3, seed=0, dtype=torch.float64):
    """A small smooth random classifier of 1 x 8 x 8 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, classes))
        model[-1].weight.data.mul_(4)
    return model.to(dtype).eval()


def batch(n=5, classes=3, seed=0, dtype=torch.float64):
    x = torch.rand(n, 1, 8, 8, generator=seeded(seed), dtype=dtype)
    return x, torch.arange(n) % classes


class Scored(nn.Module):
    """A classifier from a function of images; class 0 has score 0."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        value = self.function(x)
        return torch.stack([torch.zeros_like(value), value], 1)


def explain_both(model, x, y, **options):
    """Integrated gradients from black by both rules, and expected gradients with some references."""
    references = torch.rand(7, *x.shape[1:], generator=seeded(9), dtype=x.dtype)
    yield from (integrated_gradients(model, x, y, rule=rule, **options) for rule in RULES)
    yield expected_gradients(model, x, y, references, samples=28, **options)


# ---------------------------------------------------------------- known integrals


@given(st.integers(1, 60))
def test_the_trapezoid_on_a_cube_is_off_by_what_calculus_says(steps):
    model, one = Scored(lambda x: x.flatten(1).pow(3).sum(1)), torch.ones(1, 1, 1, 1).double()
    explained = integrated_gradients(model, one, torch.tensor([1]), steps=steps, output="score")
    assert explained.values.item() == pytest.approx(1 + 1 / (2 * steps**2), rel=1e-12)
    assert explained.gap.item() == pytest.approx(1 / (2 * steps**2), rel=1e-9)


@pytest.mark.parametrize(("steps", "degree"), [(1, 2), (2, 4), (3, 6), (5, 10)])
def test_gauss_legendre_is_exact_for_polynomials_up_to_its_degree_and_no_further(steps, degree):
    one = torch.ones(1, 1, 1, 1).double()
    gaps = []
    for power in (degree, degree + 1):
        model = Scored(lambda x, power=power: x.flatten(1).pow(power).sum(1))
        explained = integrated_gradients(model, one, torch.tensor([1]), steps=steps, rule="gauss-legendre", output="score")
        gaps.append(abs(explained.gap.item()))
    assert gaps[0] < 1e-12 < 1e-9 < gaps[1]


@pytest.mark.parametrize("rule", RULES)
def test_a_linear_model_is_exact_with_one_step(rule):
    weights = torch.randn(2, 8, 8, generator=seeded(1), dtype=torch.float64)
    model = Scored(lambda x: (x * weights).flatten(1).sum(1))
    x, start = torch.rand(2, 4, 2, 8, 8, generator=seeded(2), dtype=torch.float64)
    ones = torch.ones(4, dtype=torch.long)
    explained = integrated_gradients(model, x, ones, baseline=start, steps=1, rule=rule, output="score")
    torch.testing.assert_close(explained.values, (x - start) * weights, rtol=1e-12, atol=1e-14)
    assert explained.gap.abs().max() < 1e-12


def test_expected_gradients_of_a_linear_model_are_exact_once_every_reference_has_been_used():
    weights = torch.randn(1, 8, 8, generator=seeded(1), dtype=torch.float64)
    model, (x, _) = Scored(lambda x: (x * weights).flatten(1).sum(1)), batch()
    references = torch.rand(11, 1, 8, 8, generator=seeded(4), dtype=torch.float64)
    explained = expected_gradients(model, x, torch.ones(5).long(), references, samples=22, output="score")
    torch.testing.assert_close(explained.values, (x - references.mean(0)) * weights, rtol=1e-12, atol=1e-14)
    assert explained.gap.abs().max() < 1e-12
    assert explained.error.abs().max() < 1e-12  # a straight line leaves nothing to chance


def test_one_reference_is_a_baseline():
    model, (x, y) = net(), batch()
    start = torch.full((1, 1, 8, 8), 0.3).double()
    random, exact = expected_gradients(model, x, y, start, samples=2000), integrated_gradients(model, x, y, baseline=start)
    torch.testing.assert_close(random.values, exact.values, rtol=0, atol=2e-4)


# ---------------------------------------------------------------- axioms


@pytest.mark.parametrize("output", ["probability", "score"])
def test_attributions_add_up_to_the_change_of_the_output_and_the_gap_says_by_how_much_not(output):
    model, (x, y) = net(), batch()
    references = torch.rand(7, 1, 8, 8, generator=seeded(9), dtype=torch.float64)

    def F(images):
        scores = model(images)
        return scores.softmax(1) if output == "probability" else scores

    black = F(torch.zeros_like(x[:1])).expand(5, -1)
    *by_rule, expected = explain_both(model, x, y, output=output)
    for explained, start in [*((e, black) for e in by_rule), (expected, F(references).mean(0).expand(5, -1))]:
        change = (F(x) - start).gather(1, y[:, None])[:, 0]
        torch.testing.assert_close(explained.values.sum((1, 2, 3)) - change, explained.gap, rtol=0, atol=1e-12)
    assert by_rule[0].gap.abs().max() < 2e-3
    assert by_rule[1].gap.abs().max() < 1e-9


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.floats(0, 1), st.integers(30, 60))
def test_completeness_holds_from_any_baseline(seed, level, steps):
    model, (x, y) = net(seed=seed), batch(seed=seed)
    start = torch.full((1, 1, 1, 1), level).double()
    explained = integrated_gradients(model, x, y, baseline=start, steps=steps, rule="gauss-legendre")
    assert explained.gap.abs().max() < 1e-6


def test_sensitivity_a_pixel_that_alone_changes_the_answer_is_given_all_of_it():
    """The example of Sundararajan et al., section 2.1: 1 - ReLU(1 - x) is flat at x = 2/3 and yet rose on the way there."""
    model = Scored(lambda x: (1 - (1 - 2 * x).relu()).flatten(1)[:, 5])
    x = torch.zeros(1, 1, 8, 8).double()
    x[0, 0, 0, 5] = 0.8
    at_x = x.clone().requires_grad_()
    assert not torch.autograd.grad(model(at_x)[:, 1].sum(), at_x)[0].any()
    explained = integrated_gradients(model, x, torch.tensor([1]), steps=800, output="score")
    assert explained.values.flatten()[5].item() == pytest.approx(1, abs=2e-3)


def test_a_pixel_that_does_not_matter_and_one_that_does_not_change_are_given_nothing():
    model, (x, y) = net(), batch()
    model[1].weight.data[:, 10:20] = 0
    x[:, :, 5] = 0  # black, as the baseline is
    for explained in list(explain_both(model, x, y))[:2]:
        assert not explained.values.flatten(1)[:, 10:20].any()
        assert not explained.values[:, :, 5].any()
    (*_, expected) = explain_both(model, x, y)
    assert not expected.values.flatten(1)[:, 10:20].any()
    assert expected.values[:, :, 5].all()  # the references are not black there


def test_linearity():
    one, two, (x, y) = net(seed=1), net(seed=2), batch()

    class Sum(nn.Module):
        def forward(self, x):
            return 2 * one(x) - 3 * two(x)

    both = explain_both(Sum(), x, y, output="score")
    for mixed, a, b in zip(both, *(explain_both(m, x, y, output="score") for m in (one, two)), strict=True):
        torch.testing.assert_close(mixed.values, 2 * a.values - 3 * b.values, rtol=1e-9, atol=1e-12)


def test_implementation_invariance():
    """Two networks with one function: the hidden units in another order, one of them split into two halves."""
    model, (x, y) = net(), batch()
    order = torch.randperm(12, generator=seeded(3))
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 13), nn.Tanh(), nn.Linear(13, 3)).double()
    with torch.no_grad():
        other[1].weight.copy_(torch.cat([model[1].weight[order], model[1].weight[order[:1]]]))
        other[1].bias.copy_(torch.cat([model[1].bias[order], model[1].bias[order[:1]]]))
        other[3].weight.copy_(torch.cat([model[4].weight[:, order], model[4].weight[:, order[:1]] / 2], 1))
        other[3].weight[:, 0] /= 2
        other[3].bias.copy_(model[4].bias)
    torch.testing.assert_close(other(x), model(x))
    for one, two in zip(explain_both(model, x, y), explain_both(other, x, y), strict=True):
        torch.testing.assert_close(one.values, two.values, rtol=1e-9, atol=1e-12)


def test_symmetry_pixels_that_may_be_swapped_share_alike():
    model, (x, y) = net(), batch()
    model[1].weight.data[:, 7] = model[1].weight.data[:, 30]
    x.flatten(1)[:, 7] = x.flatten(1)[:, 30]
    for rule in RULES:
        values = integrated_gradients(model, x, y, rule=rule).values.flatten(1)
        assert values[:, 7].abs().min() > 1e-6
        torch.testing.assert_close(values[:, 7], values[:, 30], rtol=1e-12, atol=0)


# ---------------------------------------------------------------- peers


def probability(model):
    return lambda x: model(x).softmax(1)


@pytest.mark.parametrize("steps", [1, 5, 50])
@pytest.mark.parametrize("grey", [0.0, 0.5])
def test_captum_is_the_same_up_to_the_weights_of_its_trapezoid(steps, grey):
    """captum's `riemann_trapezoid` with n nodes has weights that add up to (n - 1) / n."""
    model, (x, y) = small_cnn().double(), images(6)
    x, start = x.double(), torch.full((1, 1, 1, 1), grey).double()
    peer = IntegratedGradients(probability(model))
    theirs = peer.attribute(x, start.expand_as(x), target=y, n_steps=steps + 1, method="riemann_trapezoid")
    ours = integrated_gradients(model, x, y, baseline=start, steps=steps)
    torch.testing.assert_close(ours.values, theirs * (steps + 1) / steps, rtol=1e-5, atol=1e-8)  # captum's weights are float32
    small_cnn().float()


def test_captum_is_the_same_with_gauss_legendre_and_so_is_its_delta():
    model, (x, y) = small_cnn(), images(6)
    theirs, delta = IntegratedGradients(model).attribute(x, target=y, n_steps=20, return_convergence_delta=True)
    ours = integrated_gradients(model, x, y, steps=20, rule="gauss-legendre", output="score")
    torch.testing.assert_close(ours.values, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.gap, delta, rtol=1e-3, atol=1e-4)


@pytest.fixture
def numpy_state():
    """shap sets the seed of numpy's global source."""
    state = np.random.get_state()  # noqa: NPY002
    yield
    np.random.set_state(state)  # noqa: NPY002


def test_expected_gradients_are_shaps_within_both_errors(numpy_state):
    model, (x, _), (many, _) = copy.deepcopy(small_cnn()), images(3), images(60)
    references, samples, y = many[20:60], 800, model(x).argmax(1)
    peer = shap.GradientExplainer(model, references)
    ours, theirs, errors = [], [], []
    for seed in range(5):
        values, variances, which = peer.shap_values(x, samples, ranked_outputs=1, rseed=seed, return_variances=True)
        assert which[:, 0].tolist() == y.tolist()
        theirs.append(torch.from_numpy(values[..., 0]))
        ours.append(expected_gradients(model, x, y, references, samples=samples, output="score", seed=seed))
        # shap divides the variance by sqrt(n) where n is meant (its issue 4842)
        errors.append((ours[-1].error.square() + torch.from_numpy(variances[0]) / samples**0.5).sqrt())
    differences = torch.stack([mine.values - values for mine, values in zip(ours, theirs, strict=True)])
    z = (differences / torch.stack(errors))[:, (x > 0.2) & (ours[0].error > 0)]
    assert 0.7 < z.square().mean().sqrt() < 1.25  # not 1: pixels share their samples, and there are five runs
    assert z.mean(0).abs().max() < 4
    mine, peers = (torch.stack([v.double() for v in values]).var(0).mean() for values in ([e.values for e in ours], theirs))
    assert mine < peers  # balanced samples are worth more


# ---------------------------------------------------------------- the standard error


@pytest.mark.parametrize(
    ("samples", "count", "most"), [(10, 40, 1.3), (40, 40, 20), (80, 40, 1.3), (160, 40, 1.3), (160, 10, 1.4), (64, 1, 4)]
)
def test_the_standard_error_covers_the_truth_and_is_seldom_much_too_large(samples, count, most):
    """120 runs: the spread of the estimates beside the error that they claim, and how often two errors cover the truth."""
    model, (x, y) = net(), batch(1)
    references = torch.rand(count, 1, 8, 8, generator=seeded(9), dtype=torch.float64)
    truth = [integrated_gradients(model, x, y, baseline=r[None], rule="gauss-legendre").values for r in references]
    truth = torch.stack(truth).mean(0)
    runs = [expected_gradients(model, x, y, references, samples=samples, seed=seed) for seed in range(120)]
    values, errors = torch.stack([r.values for r in runs]), torch.stack([r.error for r in runs])
    ratio = (errors.square().mean(0) / (values - truth).square().mean(0)).sqrt().mean()
    covered = ((values - truth).abs() <= 2 * errors).double().mean()
    assert 0.9 < ratio < most
    assert covered > 0.9


def test_balanced_samples_beat_independent_ones():
    model, (x, y) = net(), batch(1)
    references = torch.rand(20, 1, 8, 8, generator=seeded(9), dtype=torch.float64)
    truth = torch.stack([integrated_gradients(model, x, y, baseline=r[None]).values for r in references]).mean(0)

    def independent(seed):
        generator = seeded(seed)
        which, place = torch.randint(20, (80,), generator=generator), torch.rand(80, 1, 1, 1, generator=generator).double()
        points = torch.lerp(references[which], x, place).requires_grad_()
        F = model(points).softmax(1)[:, y[0]]
        return ((x - references[which]) * torch.autograd.grad(F.sum(), points)[0]).mean(0)

    runs = range(60)
    theirs = torch.stack([independent(seed) - truth for seed in runs]).square().mean()
    ours = torch.stack([expected_gradients(model, x, y, references, samples=80, seed=s).values - truth for s in runs])
    assert ours.square().mean() < 0.7 * theirs


@given(st.integers(2, 60), st.integers(1, 30), st.integers(0, 50))
def test_samples_are_balanced_over_references_and_stratified(samples, count, seed):
    which, place = attribution._design(samples, count, seed)
    total = which.numel()
    assert which.shape == place.shape == (total // 2, 2)
    assert samples <= total <= max(samples + 1, samples + 2 * count - 1)
    assert (place.flatten() * total).long().sort().values.equal(torch.arange(total))
    used = which.flatten().bincount(minlength=count)
    if samples >= 2 * count:
        assert used.unique().tolist() == [total // count]
        assert (which[:, 0] == which[:, 1]).all()
    else:
        assert used.max() - used.min() <= 1
        assert ((place * total).long().diff(dim=1) == 1).all()


# ---------------------------------------------------------------- batches, memory, trace


@pytest.mark.parametrize("examples_per_pass", [2, 3, 17, 64, 10_000])
def test_results_do_not_depend_on_passes_or_company(examples_per_pass):
    model, (x, y) = net(), batch()
    for whole, part in zip(
        explain_both(model, x, y), explain_both(model, x, y, examples_per_pass=examples_per_pass), strict=True
    ):
        torch.testing.assert_close(part.values, whole.values, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(part.gap, whole.gap, rtol=0, atol=1e-12)
    for whole, alone in zip(explain_both(model, x, y), explain_both(model, x[3:4], y[3:4]), strict=True):
        torch.testing.assert_close(alone.values[0], whole.values[3], rtol=1e-10, atol=1e-14)
        if whole.error is not None:
            torch.testing.assert_close(alone.error[0], whole.error[3], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("examples_per_pass", [2, 7, 32])
def test_memory_is_bounded_by_the_points_of_a_pass(examples_per_pass):
    seen, model, (x, y) = [], net(), batch()
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    list(explain_both(model, x, y, examples_per_pass=examples_per_pass))
    assert max(seen) <= examples_per_pass
    assert sum(seen) == 5 * (51 + 50 + 28) + (5 + 1) + (5 + 7)  # the gradients, and the ends that they do not see


def test_no_trace_is_left():
    model, (x, y) = net(), batch()
    model.train()
    model[0].eval()  # a mixture of modes
    model[1].weight.requires_grad_(False)
    model[4].bias.grad = torch.ones(3).double()
    x.requires_grad_()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    for explained in explain_both(model, x, y):
        assert not explained.values.requires_grad
        assert not explained.gap.requires_grad
    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    assert [m.training for m in model] == [False, True, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert torch.equal(model[4].bias.grad, torch.ones(3).double())
    assert model[1].weight.grad is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_gradients_are_taken_where_the_caller_has_switched_them_off():
    model, (x, y) = net(), batch()
    with torch.no_grad():
        off = [explained.values for explained in explain_both(model, x, y)]
    for one, two in zip(off, explain_both(model, x, y), strict=True):
        assert torch.equal(one, two.values)


def test_a_network_left_in_training_mode_is_explained_in_evaluation_mode():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(288, 3)).double()
        for _ in range(5):
            model(torch.rand(40, 1, 8, 8).double())
    x, y = batch()
    assert model.training
    counted = model[1].num_batches_tracked.item()
    for explained in (integrated_gradients(model, x, y, rule=rule) for rule in RULES):
        assert explained.gap.abs().max() < 1e-4
    assert model[1].num_batches_tracked.item() == counted
    # the positive control: in training mode points of one pass share their statistics, and nothing adds up
    peer, _ = IntegratedGradients(probability(model)).attribute(x, target=y, return_convergence_delta=True), model.eval()
    wrong = peer[0].sum((1, 2, 3)) - (probability(model)(x) - probability(model)(0 * x)).gather(1, y[:, None])[:, 0]
    assert wrong.abs().max() > 1e-2


def test_no_images_give_no_attributions():
    model, (x, y) = net(), batch()
    for explained in explain_both(model, x[:0], y[:0]):
        assert explained.values.shape == (0, 1, 8, 8)
        assert explained.gap.shape == (0,)


# ---------------------------------------------------------------- models with noise of their own, generative models


def test_a_stochastic_model_is_explained_by_the_mean_over_frozen_draws():
    model, (x, y) = Noisy(net(), sigma=0.2), batch()
    twin, untouched = Noisy(net(), sigma=0.2), Noisy(net(), sigma=0.2)
    for rule in RULES:
        first = integrated_gradients(model, x, y, rule=rule, draws=3, seed=5)
        again = integrated_gradients(model, x, y, rule=rule, draws=3, seed=5, examples_per_pass=4)
        torch.testing.assert_close(first.values, again.values, rtol=1e-10, atol=1e-14)
        assert not torch.allclose(first.values, integrated_gradients(model, x, y, rule=rule, draws=3, seed=6).values)
        assert first.gap.abs().max() < 3e-3  # exact draw by draw, so exact in the mean
        each = []
        for noise in torch.randint(2**31, (3,), generator=seeded(5)).tolist():
            with frozen_noise(twin, noise):
                each.append(integrated_gradients(twin, x, y, rule=rule).values)
        torch.testing.assert_close(first.values, torch.stack(each).mean(0), rtol=1e-10, atol=1e-14)
    expected = expected_gradients(model, x, y, torch.rand(4, 1, 8, 8).double(), samples=800, draws=2)
    assert expected.gap.abs().max() < 0.02
    assert torch.equal(model(x), untouched(x))  # its own source of noise has not moved


def test_a_frozen_model_stays_as_its_owner_froze_it():
    model, (x, y) = Noisy(net(), sigma=0.2), batch()
    with frozen_noise(model, 3):
        one, other = integrated_gradients(model, x, y, draws=1, seed=0), integrated_gradients(model, x, y, draws=7, seed=1)
        peer = IntegratedGradients(probability(model)).attribute(x, target=y, n_steps=51, method="riemann_trapezoid")
    assert torch.equal(one.values, other.values)
    torch.testing.assert_close(one.values, peer * 51 / 50, rtol=1e-5, atol=1e-8)


class GivenClass(StochasticClassifier):
    """log p(x|y) of a classifier that scores log p(x, y), by a fixed prior."""

    def __init__(self, joint, log_prior):
        super().__init__()
        self.joint, self.log_prior = joint, log_prior

    def forward(self, x, generator=None):
        return self.joint(x, generator) - self.log_prior


@pytest.mark.parametrize("name", ["gfz", "gbz"])
def test_attributions_of_log_p_x_given_y_are_those_of_log_p_x_and_y(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = deep_bayes(name, (1, 28, 28), 4, width=4, hidden=16, code=6, samples=3).double().eval()
    x, y = images(3)[0].double(), torch.tensor([2, 0, 1])
    options = {"steps": 12, "output": "score", "draws": 2}
    joint = integrated_gradients(model, x, y, **options)
    given = integrated_gradients(GivenClass(model, torch.tensor([0.1, 0.2, 0.3, 0.4]).log()), x, y, **options)
    torch.testing.assert_close(joint.values, given.values, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(joint.gap, given.gap, rtol=0, atol=1e-8)
    assert joint.values.abs().max() > 0.01
    posterior = integrated_gradients(model, x, y, steps=12, draws=2)
    assert not torch.allclose(posterior.values, joint.values, rtol=0.1)


def test_a_model_that_scores_one_class_cheaper_is_asked_for_one():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = deep_bayes("gfz", (1, 28, 28), 4, width=4, hidden=16, code=6, samples=2).eval()
    asked, (x, _) = [], images(2)
    plain = model.log_weights
    model.log_weights = lambda x, y, noise: asked.append(len(x) * y.shape[1]) or plain(x, y, noise)
    integrated_gradients(model, x, torch.tensor([0, 3]), steps=20, output="score", draws=1)
    assert sum(asked) == 2 * 21  # one class a point


# ---------------------------------------------------------------- smoothness


def test_smoothness_of_known_pictures():
    flat = torch.ones(1, 1, 8, 8)
    alternating = 1 - 2 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float().expand(1, 1, 8, 8)
    alone = torch.zeros(1, 1, 8, 8)
    alone[0, 0, 3, 4] = -2.0
    values = smoothness(torch.cat([flat, alternating, alone]))
    torch.testing.assert_close(values, torch.tensor([1 - 32 / 256, 0.0, 0.0]))
    assert smoothness(torch.zeros(1, 1, 8, 8)).isnan().all()


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.floats(-5, 5).filter(lambda scale: abs(scale) > 0.01))
def test_smoothness_lies_between_0_and_1_and_hears_neither_scale_nor_the_split_over_channels(seed, scale):
    values = torch.randn(3, 2, 6, 9, generator=seeded(seed), dtype=torch.float64)
    smooth = smoothness(values)
    assert ((smooth >= 0) & (smooth <= 1)).all()
    torch.testing.assert_close(smoothness(scale * values), smooth)
    torch.testing.assert_close(smoothness(values.sum(1, keepdim=True)), smooth)
    torch.testing.assert_close(smoothness(values.flip(2).transpose(2, 3)), smooth)


def test_blurring_makes_noise_smoother():
    noise = torch.randn(4, 1, 20, 20, generator=seeded())
    assert (smoothness(nn.functional.avg_pool2d(noise, 3, 1)) > smoothness(noise) + 0.1).all()


# ---------------------------------------------------------------- bad input

X, Y = torch.rand(3, 1, 28, 28), torch.tensor([0, 1, 2])
NAN = X.clone()
NAN[0, 0, 0, 0] = float("nan")
SHARED = [
    ({"model": 3}, "model"),
    ({"x": X[0]}, "x"),
    ({"x": NAN}, "x"),
    ({"x": X * 2 + 0.1}, "x"),
    ({"target": Y[:2]}, "target"),
    ({"target": torch.tensor([0, 1, 10])}, "target"),
    ({"target": torch.tensor([0.0, 1.0, 2.0])}, "target"),
    ({"target": 3}, "target"),
    ({"output": "logit"}, "output"),
    ({"draws": 0}, "draws"),
    ({"seed": -1}, "seed"),
    ({"examples_per_pass": 0}, "examples_per_pass"),
    ({"model": Detached(small_cnn())}, "gradient"),
    ({"model": Constant()}, "gradient"),
]


@pytest.mark.parametrize("method", [integrated_gradients, expected_gradients])
@pytest.mark.parametrize(("bad", "named"), SHARED)
def test_bad_input_is_named(method, bad, named):
    arguments = {"model": small_cnn(), "x": X, "target": Y, **bad}
    if method is expected_gradients:
        arguments["references"] = X
    with pytest.raises(ValueError, match=named):
        method(**arguments)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"rule": "simpson"}, "rule"),
        ({"baseline": 0.5}, "baseline"),
        ({"baseline": X[:2]}, "baseline"),
        ({"baseline": torch.rand(3, 3, 28, 28)}, "baseline"),
        ({"baseline": X + 1}, "baseline"),
    ],
)
def test_bad_quadratures_and_baselines_are_named(bad, named):
    with pytest.raises(ValueError, match=named):
        integrated_gradients(small_cnn(), X, Y, **bad)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"references": X[:0]}, "references"),
        ({"references": torch.rand(5, 1, 8, 8)}, "references"),
        ({"references": NAN}, "references"),
        ({"samples": 1}, "samples"),
        ({"samples": 10.5}, "samples"),
        ({"examples_per_pass": 1}, "examples_per_pass"),
    ],
)
def test_bad_samples_and_references_are_named(bad, named):
    with pytest.raises(ValueError, match=named):
        expected_gradients(small_cnn(), X, Y, **{"references": X, **bad})


def test_a_gradient_that_is_not_finite_is_an_error_and_no_silent_hole():
    model = Scored(lambda x: x.flatten(1).sqrt().sum(1))  # its slope at black is infinite
    with pytest.raises(ValueError, match="finite gradient"):
        integrated_gradients(model, X, torch.ones(3).long(), output="score")
    explained = integrated_gradients(model, X, torch.ones(3).long(), rule="gauss-legendre", output="score")
    assert explained.values.isfinite().all()


@pytest.mark.parametrize("values", [torch.rand(3, 8, 8), 3, torch.ones(2, 1, 8, 8).long()])
def test_smoothness_names_what_is_wrong(values):
    with pytest.raises(ValueError, match="values"):
        smoothness(values)
