"""The pixel graph against brute force: all 512 images of a 3x3 grid, double loops over its edges, and the exact marginals."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from fixtures_models import images
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hybridgen_lib.classifier import Classifier
from hybridgen_lib.models.networks import SmallCNN
from hybridgen_lib.models.pixel_graph import Denoised, PixelGraph, PixelGraphClassifier, _chessboard

SIZES = [(3, 3), (1, 5), (4, 1), (2, 4), (1, 1)]


def random_graph(height=3, width=3, seed=0, scale=1.0, lead=()) -> PixelGraph:
    """Couplings that differ from edge to edge, of both signs."""
    source = torch.Generator().manual_seed(seed)
    shapes = [(height, width), (height, width - 1), (height - 1, width)]
    return PixelGraph(*(scale * torch.randn(*lead, *shape, generator=source, dtype=torch.float64) for shape in shapes))


def every_image(height: int, width: int) -> torch.Tensor:
    every = list(itertools.product([0.0, 1.0], repeat=height * width))
    return torch.tensor(every, dtype=torch.float64).reshape(-1, height, width)


def neighbours(graph: PixelGraph, i: int, j: int):
    """The edges of one pixel: (row, column, theta) of each neighbour."""
    height, width = graph.unary.shape
    if j > 0:
        yield i, j - 1, graph.right[i, j - 1]
    if j + 1 < width:
        yield i, j + 1, graph.right[i, j]
    if i > 0:
        yield i - 1, j, graph.down[i - 1, j]
    if i + 1 < height:
        yield i + 1, j, graph.down[i, j]


def energy_by_loops(graph: PixelGraph, x: torch.Tensor) -> float:
    total = 0.0
    for i, j in itertools.product(*map(range, graph.unary.shape)):
        total -= (graph.unary[i, j] * x[i, j]).item()
        for k, m, theta in neighbours(graph, i, j):
            total -= 0.5 * (theta * x[i, j] * x[k, m]).item()  # every edge is met from both its ends
    return total


# ---------------------------------------------------------------- energy, normaliser, conditionals


@pytest.mark.parametrize("size", SIZES)
def test_energy_is_the_double_loop(size):
    graph = random_graph(*size)
    x = (torch.rand(5, *size, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    expected = [energy_by_loops(graph, image) for image in x]
    assert graph.energy(x).tolist() == pytest.approx(expected, abs=1e-12)


def test_energy_of_two_pixels_by_hand():
    graph = PixelGraph(torch.tensor([[1.0, -2.0]]), torch.tensor([[5.0]]), torch.zeros(0, 2))
    x = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]])
    assert graph.energy(x).tolist() == [0, -1, 2, -4]


@pytest.mark.parametrize("size", SIZES)
def test_log_normaliser_is_the_sum_over_all_images(size):
    graph = random_graph(*size, seed=2)
    total = math.fsum(math.exp(-energy_by_loops(graph, x)) for x in every_image(*size))
    assert graph.log_normaliser().item() == pytest.approx(math.log(total), abs=1e-10)


def test_probabilities_sum_to_one():
    graph = random_graph(seed=3, scale=3)
    probabilities = (-graph.energy(every_image(3, 3)) - graph.log_normaliser()).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-12)


def test_log_normaliser_of_many_graphs_and_of_numbers_for_couplings():
    many = random_graph(seed=4, lead=(2, 5))
    one = PixelGraph(many.unary[1, 3], many.right[1, 3], many.down[1, 3])
    assert many.log_normaliser().shape == (2, 5)
    torch.testing.assert_close(many.log_normaliser()[1, 3], one.log_normaliser())
    free = PixelGraph(torch.zeros(2, 3, dtype=torch.float64), torch.tensor(0.0), torch.tensor(0.0))
    assert free.log_normaliser().item() == pytest.approx(6 * math.log(2))
    spread = PixelGraph(many.unary[0, 0], many.right, many.down)  # one unary, ten sets of edges
    alone = PixelGraph(many.unary[0, 0], many.right[1, 3], many.down[1, 3])
    assert spread.log_normaliser().shape == (2, 5)
    torch.testing.assert_close(spread.log_normaliser()[1, 3], alone.log_normaliser())


@pytest.mark.parametrize("size", SIZES)
def test_conditional_is_the_ratio_of_joint_probabilities(size):
    graph = random_graph(*size, seed=5)
    for x in every_image(*size)[::7]:
        odds = graph.conditional(x)
        for i, j in itertools.product(*map(range, size)):
            lit, dark = x.clone(), x.clone()
            lit[i, j], dark[i, j] = 1, 0
            ratio = energy_by_loops(graph, dark) - energy_by_loops(graph, lit)
            assert odds[i, j].item() == pytest.approx(ratio, abs=1e-12)


def test_a_grey_pixel_is_the_mean_of_its_two_values():
    graph = random_graph(seed=6)
    x = torch.rand(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    every = every_image(3, 3)
    weights = torch.where(every == 1, x, 1 - x).prod(-1).prod(-1)
    assert graph.energy(x).item() == pytest.approx((weights * graph.energy(every)).sum().item(), abs=1e-12)
    torch.testing.assert_close(graph.conditional(x), (weights[:, None, None] * graph.conditional(every)).sum(0))


# ---------------------------------------------------------------- pseudo-likelihood


def test_pseudo_likelihood_by_brute_force():
    graph = random_graph(seed=7)
    for x in every_image(3, 3)[::23]:
        total = 0.0
        for i, j in itertools.product(range(3), range(3)):
            flipped = x.clone()
            flipped[i, j] = 1 - x[i, j]
            ours, other = (math.exp(-energy_by_loops(graph, image)) for image in (x, flipped))
            total += math.log(ours / (ours + other))
        assert graph.pseudo_log_likelihood(x).item() == pytest.approx(total, abs=1e-10)


def test_without_edges_it_is_the_likelihood_and_with_edges_it_is_not():
    graph, every = random_graph(seed=8), every_image(3, 3)
    free = PixelGraph(graph.unary, torch.zeros(3, 2), torch.zeros(2, 3))
    torch.testing.assert_close(free.pseudo_log_likelihood(every), -free.energy(every) - free.log_normaliser())
    gap = graph.pseudo_log_likelihood(every) + graph.energy(every) + graph.log_normaliser()
    assert gap.abs().max() > 0.1


def test_pseudo_likelihood_finds_the_couplings_again():
    """Besag's estimate is consistent: from 20,000 exact draws its maximum lies near the truth."""
    truth, every = random_graph(seed=9), every_image(3, 3)
    chosen = torch.multinomial((-truth.energy(every)).softmax(0), 20_000, True, generator=torch.Generator().manual_seed(0))
    x, counts = every[chosen.unique()], torch.bincount(chosen)[chosen.unique()]
    fitted = PixelGraph(*(torch.zeros_like(part).requires_grad_() for part in (truth.unary, truth.right, truth.down)))
    parts = [fitted.unary, fitted.right, fitted.down]
    optimizer = torch.optim.LBFGS(parts, max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -(counts * fitted.pseudo_log_likelihood(x)).sum() / len(chosen)
        loss.backward()
        return loss

    optimizer.step(closure)
    for found, true in zip(parts, (truth.unary, truth.right, truth.down), strict=True):
        assert (found - true).abs().max() < 0.25
    assert max((found - 0).abs().max() for found in parts) > 1  # zero would not have passed


# ---------------------------------------------------------------- the Ising graph


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("coupling", [1.3, -0.7, 0.0])
def test_ising_rewards_equal_neighbours(size, coupling):
    height, width = size
    logits = random_graph(*size, seed=10).unary
    graph, every = PixelGraph.ising(logits, coupling), every_image(*size)[:512]
    equal = (every[:, :, 1:] == every[:, :, :-1]).sum((1, 2)) + (every[:, 1:] == every[:, :-1]).sum((1, 2))
    definition = -(logits * every).sum((1, 2)) - coupling * equal.double()
    constant = coupling * (height * (width - 1) + width * (height - 1))
    torch.testing.assert_close(graph.energy(every), definition + constant)


def test_ising_is_the_spin_model_of_half_the_coupling():
    every = every_image(3, 3)
    graph = PixelGraph.ising(torch.zeros(3, 3, dtype=torch.float64), 0.9)
    spins = 2 * every - 1
    aligned = (spins[:, :, 1:] * spins[:, :, :-1]).sum((1, 2)) + (spins[:, 1:] * spins[:, :-1]).sum((1, 2))
    torch.testing.assert_close((-graph.energy(every)).softmax(0), (0.45 * aligned).softmax(0))


def test_black_and_white_weigh_the_same_without_logits():
    graph = PixelGraph.ising(torch.zeros(4, 6), 2.0)
    x = (torch.rand(9, 4, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    torch.testing.assert_close(graph.energy(x), graph.energy(1 - x))


def test_a_coupling_of_its_own_for_each_image_and_its_gradient():
    logits = torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coupling = torch.tensor([0.5, 2.0], dtype=torch.float64).reshape(2, 1, 1, 1).requires_grad_()
    odds = PixelGraph.ising(logits, coupling).mean_field(3)
    for k in (0, 1):
        torch.testing.assert_close(odds[k], PixelGraph.ising(logits[k], coupling[k].item()).mean_field(3))
    assert torch.autograd.gradcheck(lambda c: PixelGraph.ising(logits, c).mean_field(3), (coupling,))


# ---------------------------------------------------------------- Gibbs sampling


def test_gibbs_converges_to_the_exact_marginals():
    """Of 4,000 chains, started all dark: every mean within 4.5 standard errors, and every pair's mean product."""
    graph, every, chains = random_graph(seed=11), every_image(3, 3), 4_000
    exact = (-graph.energy(every)).softmax(0)
    start = torch.zeros(chains, 3, 3, dtype=torch.float64)
    x = graph.gibbs(start, sweeps=60, generator=torch.Generator().manual_seed(0)).flatten(1)
    assert ((x == 0) | (x == 1)).all()
    flat = every.flatten(1)
    for ours, theirs in (
        (x.mean(0), exact @ flat),
        (x.T @ x / chains, torch.einsum("n,ni,nj->ij", exact, flat, flat)),
    ):
        error = (theirs * (1 - theirs) / chains).sqrt().clamp_min(1e-6)
        assert ((ours - theirs).abs() / error).max() < 4.5


def test_gibbs_leaves_the_distribution_as_it_is():
    """Started from exact draws one sweep changes pixels, and no mean."""
    graph, every, chains = random_graph(seed=12, scale=2), every_image(3, 3), 20_000
    exact = (-graph.energy(every)).softmax(0)
    source = torch.Generator().manual_seed(0)
    start = every[torch.multinomial(exact, chains, True, generator=source)]
    x = graph.gibbs(start, 1, source)
    assert (x != start).any()
    expected = torch.einsum("n,nij->ij", exact, every)
    error = (expected * (1 - expected) / chains).sqrt()
    assert ((x.mean(0) - expected).abs() / error).max() < 4.5


def test_gibbs_is_a_function_of_its_generator_and_leaves_the_global_source_alone():
    graph, start = random_graph(6, 5, seed=13), torch.zeros(6, 5, dtype=torch.float64)
    before = torch.random.get_rng_state()
    one, two, other = (graph.gibbs(start, 3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(graph.gibbs(start, 3), graph.gibbs(start, 3, torch.Generator().manual_seed(0)))
    assert torch.equal(start, torch.zeros_like(start))  # nor is the start written on
    assert torch.equal(torch.random.get_rng_state(), before)


def test_gibbs_without_sweeps_and_with_certain_pixels():
    start = torch.eye(3)
    sure = PixelGraph(torch.tensor([50.0, -50.0, 50.0]).expand(3, 3), torch.tensor(0.0), torch.tensor(0.0))
    assert torch.equal(sure.gibbs(start, 0), start)
    assert torch.equal(sure.gibbs(start, 1), torch.tensor([1.0, 0.0, 1.0]).expand(3, 3))


def test_gibbs_of_several_graphs_draws_each_on_its_own():
    """One start for all, and one graph whose edges alone differ: no two chains may share their draws."""
    same = torch.zeros(8, 8)
    many = PixelGraph(torch.zeros(3, 8, 8), torch.zeros(3, 8, 7), torch.zeros(3, 7, 8))
    edges = PixelGraph(torch.zeros(8, 8), torch.zeros(3, 8, 7), torch.zeros(3, 7, 8))
    for graph in (many, edges):
        x = graph.gibbs(same, 1)
        assert x.shape == (3, 8, 8)
        white = _chessboard(x)[0]
        assert not torch.equal(x[0][white], x[1][white])
        assert not torch.equal(x[1], x[2])


# ---------------------------------------------------------------- mean field


def free_energies(graph: PixelGraph, sweeps: int) -> list[torch.Tensor]:
    """After the start and after each half sweep, by hand."""
    odds = graph.conditional(torch.full_like(graph.unary, 0.5))
    found = [graph.free_energy(odds)]
    for _ in range(sweeps):
        for field in _chessboard(odds):
            odds = torch.where(field, graph.conditional(torch.sigmoid(odds)), odds)
            found.append(graph.free_energy(odds))
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*SIZES, (6, 7)]),
    st.integers(0, 10_000),
    st.floats(0.1, 6),
    st.sampled_from(["mixed", "attractive", "repulsive", "ising"]),
)
def test_no_half_sweep_raises_the_free_energy(size, seed, scale, kind):
    graph = random_graph(*size, seed=seed, scale=scale)
    sign = {"mixed": None, "attractive": 1, "repulsive": -1}.get(kind)
    if sign:
        graph = PixelGraph(graph.unary, sign * graph.right.abs(), sign * graph.down.abs())
    if kind == "ising":
        graph = PixelGraph.ising(graph.unary, scale)
    found = torch.stack(free_energies(graph, 4))
    assert (found.diff() <= 1e-9 * (1 + found[:-1].abs())).all()
    by_sweep = torch.stack([graph.free_energy(graph.mean_field(sweeps)) for sweeps in range(5)])
    torch.testing.assert_close(by_sweep, found[::2])
    if size != (6, 7):
        assert (found >= -graph.log_normaliser() - 1e-9).all()


def test_free_energy_by_brute_force():
    """E_q[energy + log q] over all images."""
    graph, every = random_graph(seed=14), every_image(3, 3)
    odds = random_graph(seed=15, scale=2).unary
    log_q = (every * F.logsigmoid(odds) + (1 - every) * F.logsigmoid(-odds)).sum((1, 2))
    expected = (log_q.exp() * (graph.energy(every) + log_q)).sum()
    torch.testing.assert_close(graph.free_energy(odds), expected)
    assert graph.free_energy(torch.full((3, 3), 900.0).double()).isfinite()  # certain pixels have no entropy, not NaN


@pytest.mark.parametrize("sweeps", [0, 1, 4])
def test_without_edges_mean_field_is_exact(sweeps):
    logits = random_graph(seed=16).unary
    graph = PixelGraph.ising(logits, 0.0)
    odds = graph.mean_field(sweeps)
    torch.testing.assert_close(odds, logits)
    torch.testing.assert_close(graph.free_energy(odds), -graph.log_normaliser())


def test_a_weak_coupling_is_nearly_exact():
    graph = random_graph(seed=17, scale=0.1)
    exact = torch.einsum("n,nij->ij", (-graph.energy(every_image(3, 3))).softmax(0), every_image(3, 3))
    torch.testing.assert_close(torch.sigmoid(graph.mean_field(20)), exact, atol=1e-3, rtol=0)


def test_mean_field_ends_where_every_pixel_agrees_with_its_neighbours():
    graph = random_graph(5, 6, seed=18, scale=0.5)
    odds = graph.mean_field(300)
    torch.testing.assert_close(odds, graph.conditional(torch.sigmoid(odds)))


def test_black_and_white_are_treated_alike():
    """Turning all logits around turns all odds around; with none, nothing is decided."""
    logits = random_graph(5, 5, seed=19).unary
    torch.testing.assert_close(PixelGraph.ising(-logits, 1.5).mean_field(3), -PixelGraph.ising(logits, 1.5).mean_field(3))
    assert PixelGraph.ising(torch.zeros(5, 5), 5.0).mean_field(3).abs().max() == 0


def test_mean_field_takes_a_number_for_both_couplings():
    unary = random_graph(4, 5, seed=20, lead=(2, 3)).unary
    full = PixelGraph(unary, torch.full((4, 4), 0.7).double(), torch.full((3, 5), 0.7).double())
    brief = PixelGraph(unary, torch.tensor(0.7).double(), torch.tensor(0.7).double())
    torch.testing.assert_close(brief.mean_field(2), full.mean_field(2))
    assert brief.mean_field(2).shape == (*brief.free_energy(brief.mean_field(2)).shape, 4, 5)


# ---------------------------------------------------------------- the classifier


def random_classifier(classes=3, image_shape=(2, 4, 3)) -> PixelGraphClassifier:
    model = PixelGraphClassifier(image_shape, classes).double()
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    return model


def test_the_classifier_is_a_loop_over_classes_and_channels():
    model = random_classifier()
    x = torch.rand(5, 2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scores, black_white = model(x), (x >= 0.5).double()
    assert isinstance(model, Classifier)
    assert model.score_kind == "energy"
    assert scores.shape == (5, 3)
    for b, c in itertools.product(range(5), range(3)):
        expected = sum(
            PixelGraph(model.unary[c, k], model.right[c, k], model.down[c, k]).pseudo_log_likelihood(black_white[b, k]).item()
            for k in range(2)
        )
        assert scores[b, c].item() == pytest.approx(expected, abs=1e-10)


def test_untrained_it_prefers_no_class():
    scores = PixelGraphClassifier((1, 3, 3), 4)(torch.rand(2, 1, 3, 3))
    torch.testing.assert_close(scores, torch.full((2, 4), -9 * math.log(2)))


def test_gradients_by_finite_differences():
    model = random_classifier()
    x = torch.rand(2, 2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model.graph.pseudo_log_likelihood(x[:, None]).sum(2), (x,))
    through = torch.autograd.grad(model(x).sum(), x)[0]  # the gradient at the binarised image, passed straight through
    black_white = (x >= 0.5).double().detach().requires_grad_()
    straight = torch.autograd.grad(model.graph.pseudo_log_likelihood(black_white[:, None]).sum(), black_white)[0]
    torch.testing.assert_close(through, straight)
    assert all(torch.autograd.grad(model(x).sum(), p)[0].abs().max() > 0 for p in model.parameters())


def test_scores_do_not_depend_on_the_batch():
    model = random_classifier()
    x = torch.rand(6, 2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model(x)[3:4], model(x[3:4]), rtol=0, atol=1e-12)
    torch.testing.assert_close(model(x.flip(0)), model(x).flip(0), rtol=0, atol=1e-12)


# ---------------------------------------------------------------- the denoiser


def test_a_flipped_pixel_in_a_flat_region_is_repaired():
    x = torch.zeros(1, 1, 9, 9)
    x[..., :5] = 1
    noisy = x.clone()
    for i, j in ((2, 2), (7, 1), (4, 7), (0, 3)):
        noisy[0, 0, i, j] = 1 - noisy[0, 0, i, j]
    seen = _denoiser().denoise(noisy)
    assert torch.equal(seen.round(), x)
    assert ((noisy - x).abs() * (1 - (seen - x).abs())).sum() > 3.5  # nearly black and white again
    corner = x.clone()
    corner[..., 0, 0] = 0  # its two neighbours gain 2 nats each, less than the 4.2 of its own
    assert _denoiser().denoise(corner)[0, 0, 0, 0] < 0.5 < _denoiser(strength=3.9).denoise(corner)[0, 0, 0, 0]


def _denoiser(network: nn.Module | None = None, **constants) -> Denoised:
    return Denoised(SmallCNN((1, 28, 28), 10, width=4, hidden=8) if network is None else network, **constants)


def test_a_line_one_pixel_wide_survives_bishops_constants_and_a_lone_pixel_does_not():
    x = torch.zeros(1, 1, 9, 9)
    x[..., 4] = 1
    assert torch.equal(_denoiser().denoise(x).round(), x)
    x[..., 4] = 0
    x[0, 0, 4, 4] = 1
    assert _denoiser().denoise(x).round().sum() == 0


def test_the_denoiser_is_mean_field_in_front_of_the_network():
    x, network = images(4)[0], SmallCNN((1, 28, 28), 10, width=4, hidden=8)
    model = Denoised(network, coupling=1.2, strength=3.0, sweeps=2)
    graph = PixelGraph.ising(3.0 * (2 * x - 1), 1.2)
    torch.testing.assert_close(model.denoise(x), torch.sigmoid(graph.mean_field(2)))
    torch.testing.assert_close(model(x), network(model.denoise(x)))
    assert isinstance(model, Classifier)


def test_bishops_optimum_is_that_of_his_spins():
    """E = -beta sum x_i x_j - eta sum x_i y_i for spins, beta = 1 and eta = 2.1: the same ranking of all 512 images."""
    y = (torch.rand(3, 3, generator=torch.Generator().manual_seed(5)) < 0.5).double()
    every = every_image(3, 3)
    s, t = 2 * every - 1, 2 * y - 1
    aligned = (s[:, :, 1:] * s[:, :, :-1]).sum((1, 2)) + (s[:, 1:] * s[:, :-1]).sum((1, 2))
    bishop = -1.0 * aligned - 2.1 * (s * t).sum((1, 2))
    model = _denoiser()
    ours = PixelGraph.ising(model.strength * (2 * y - 1), model.coupling).energy(every)
    torch.testing.assert_close(ours - ours[0], bishop - bishop[0])


def test_the_surrogate_has_the_same_values_and_the_gradient_of_the_network():
    model = _denoiser()
    x = images(3)[0].clone().requires_grad_()
    assert torch.equal(model.surrogate()(x), model(x))
    seen = model.denoise(x).detach().requires_grad_()
    expected = torch.autograd.grad(model.network(seen).square().sum(), seen)[0]
    through = torch.autograd.grad(model.surrogate()(x).square().sum(), x)[0]
    torch.testing.assert_close(through, expected)
    own = torch.autograd.grad(model(x).square().sum(), x)[0]
    assert own.abs().median() < 0.05 * through.abs().median()  # where neighbours agree the means saturate


def test_the_denoisers_own_gradient_is_right():
    model = _denoiser(SmallCNN((1, 5, 4), 3, width=2, hidden=4), coupling=0.5, strength=1.0).double()
    x = torch.rand(1, 1, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6)).requires_grad_()
    assert torch.autograd.gradcheck(model.denoise, (x,))


def test_surrogate_and_model_share_their_weights():
    model = _denoiser()
    surrogate = model.surrogate()
    with torch.no_grad():
        model.network.head.bias += 1
    x = images(2)[0]
    assert torch.equal(surrogate(x), model(x))


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda g: g.gibbs(torch.zeros(3, 3).double(), -1), "sweeps"),
        (lambda g: g.gibbs(torch.zeros(3, 3).double(), 1.5), "sweeps"),
        (lambda g: g.mean_field(-1), "sweeps"),
        (lambda g: g.mean_field("3"), "sweeps"),
        (lambda g: random_graph(4, 5).log_normaliser(), "pixels of the graph"),
        (lambda g: PixelGraphClassifier((28, 28), 10), "image_shape"),
        (lambda g: PixelGraphClassifier((1, 0, 28), 10), "image_shape"),
        (lambda g: PixelGraphClassifier((1, 28, 28), 1), "classes"),
        (lambda g: Denoised(len), "network"),
        (lambda g: Denoised(SmallCNN((1, 28, 28), 10), coupling=float("nan")), "coupling"),
        (lambda g: Denoised(SmallCNN((1, 28, 28), 10), strength=-1), "strength"),
        (lambda g: Denoised(SmallCNN((1, 28, 28), 10), sweeps=2.5), "sweeps"),
    ],
)
def test_bad_input_names_the_argument(call, name):
    with pytest.raises(ValueError, match=rf"^{name} must"):
        call(random_graph())
