"""Outcomes of attacks: the right images, seeds and draws, and an evaluation that no lucky draw and no bad attack can fool."""

from functools import partial

import pytest
import torch
from fixtures_models import Noisy, images, small_cnn
from torch import nn

from hybridgen_lib import evaluation
from hybridgen_lib.attacks import L2, Linf, fgm, fgsm, pgd, smallest_blur, smallest_contrast_linear, within
from hybridgen_lib.attacks import gradient as attacks_by_gradient
from hybridgen_lib.classifier import StochasticClassifier, frozen_noise
from hybridgen_lib.data import load
from hybridgen_lib.evaluation import accuracy_curve, adaptive_pgd, attack_outcomes, fraction_right, smallest_outcomes


def test_outcomes_of_a_deterministic_model_are_those_of_the_plain_loop():
    model, (x, y) = small_cnn(), images(60)
    outcomes = attack_outcomes(model, (x, y), fgsm, Linf, [0.0, 0.05, 0.2])
    with torch.no_grad():
        assert torch.equal(outcomes.clean.bool(), model(x).argmax(1) == y)
        for row, eps in enumerate([0.0, 0.05, 0.2]):
            assert torch.equal(outcomes.right[row].bool(), model(fgsm(model, x, y, Linf(eps))).argmax(1) == y)
    assert outcomes.draws == 1
    assert outcomes.index == list(range(60))
    assert outcomes.epsilons == [0.0, 0.05, 0.2]
    assert torch.equal(outcomes.right[0], outcomes.clean)


def test_image_data_stands_for_its_test_images_and_index_chooses_among_them():
    data, model = load("fashion-mini"), small_cnn()
    x, y = images(60)
    chosen = attack_outcomes(model, data, fgsm, Linf, [0.05], index=[7, 3, 50])
    whole = attack_outcomes(model, (x, y), fgsm, Linf, [0.05])
    assert chosen.index == [7, 3, 50]
    assert torch.equal(chosen.right, whole.right[:, [7, 3, 50]])
    assert torch.equal(attack_outcomes(model, (data.test_x[:60], y), fgsm, Linf, [0.05]).right, whole.right)


@pytest.mark.parametrize(("kind", "eps"), [(Linf, 0.03), (L2, 0.6)])
def test_outcomes_do_not_depend_on_the_batch_size_and_radii_not_on_each_other(kind, eps):
    model, data = small_cnn(), images(50)
    attack = partial(pgd, steps=5, restarts=2)
    whole = attack_outcomes(model, data, attack, kind, [eps / 2, eps], seed=3)
    assert torch.equal(attack_outcomes(model, data, attack, kind, [eps], seed=3, batch_size=7).right[0], whole.right[1])


def test_a_stochastic_model_is_judged_over_fresh_draws():
    (x, y), model = images(40), Noisy(small_cnn(), sigma=0.5)
    outcomes = attack_outcomes(model, (x, y), partial(pgd, steps=3), Linf, [0.0, 0.05], draws=20, seed=1)
    assert outcomes.draws == 20
    assert ((outcomes.right > 0) & (outcomes.right < 1)).any()  # fractions
    assert torch.equal(outcomes.right[0], outcomes.clean)  # at radius 0 nothing is attacked or judged anew
    again = attack_outcomes(model, (x, y), partial(pgd, steps=3), Linf, [0.0, 0.05], draws=20, seed=1)
    assert torch.equal(outcomes.right, again.right)
    with frozen_noise(model, 0):
        assert attack_outcomes(model, (x, y), partial(pgd, steps=3), Linf, [0.05], draws=20).draws == 1


@pytest.mark.parametrize("name", ["eot", "draws"])
def test_adaptive_pgd_names_a_bad_setting_before_any_work(name):
    x, y = images(2)
    with pytest.raises(ValueError, match=name):
        adaptive_pgd(small_cnn(), x, y, Linf(0.1), **{name: 0})


def test_fraction_right_is_a_mean_over_draws():
    class Coin(nn.Module):
        stochastic = True

        def forward(self, x, generator=None):
            return torch.randn(len(x), 2, generator=generator)

    x, y = torch.rand(50, 1, 2, 2), torch.zeros(50, dtype=torch.long)
    fractions = fraction_right(Coin(), x, y, draws=100, generator=torch.Generator().manual_seed(0))
    assert abs(fractions.mean() - 0.5) < 0.03
    assert 0.03 < fractions.std() < 0.08  # 0.05 = sqrt(1/4 / 100)


def test_the_adaptive_attack_is_margin_pgd_on_a_deterministic_model():
    model, (x, y) = small_cnn(), images(30)
    right = model(x).argmax(1) == y
    expected = pgd(model, x[right], y[right], Linf(0.05), loss="margin")
    attacked = adaptive_pgd(model, x, y, Linf(0.05))
    assert torch.equal(attacked[~right], x[~right])  # nothing left to do
    left = (model(attacked[right]).argmax(1) == y[right]).sum()
    assert abs(left - (model(expected).argmax(1) == y[right]).sum()) <= 1  # another start, the same strength
    assert len(adaptive_pgd(model, x[:0], y[:0], Linf(0.05))) == 0


def test_the_adaptive_attack_is_stronger_than_its_parts_on_a_stochastic_model():
    model, data = Noisy(small_cnn(), sigma=0.5), images(150)

    def frozen(model, x, y, ball, *, generator):
        with frozen_noise(model, 5):
            return pgd(model, x, y, ball, steps=10, loss="margin", generator=generator)

    def left(attack):
        return attack_outcomes(model, data, attack, Linf, [0.04], draws=20).right.mean()

    adaptive = left(partial(adaptive_pgd, steps=10))
    assert adaptive < left(frozen) - 0.02
    assert adaptive < left(partial(pgd, steps=10)) + 0.01


@pytest.mark.parametrize("winner", ["frozen", "fresh"])
def test_the_adaptive_attack_returns_the_image_that_is_right_less_often(winner, monkeypatch):
    model, (x, y) = Noisy(small_cnn(), sigma=0.2), images(40)
    strong = pgd(model, x, y, Linf(0.2), steps=10)

    def staged(model, x_rows, y_rows, *, ball=None, eot=None, **options):
        stage = "frozen" if eot is None else "fresh"
        rows = [int((x_row == x).flatten(1).all(1).nonzero()[0]) for x_row in x_rows]
        return strong[rows] if stage == winner else x_rows

    monkeypatch.setattr("hybridgen_lib.evaluation.protocol.pgd", staged)
    left = fraction_right(model, adaptive_pgd(model, x, y, Linf(0.2)), y, 20).mean()
    assert left < fraction_right(model, strong, y, 20).mean() + 0.05
    assert left < fraction_right(model, x, y, 20).mean() - 0.3


def test_curves_fall_and_have_intervals():
    table = accuracy_curve(small_cnn(), images(100), partial(pgd, steps=10), Linf, [0.02, 0.1, 0.3])
    rows = table[table.metric == "accuracy"]
    assert rows.value.is_monotonic_decreasing
    assert rows.value.iloc[-1] < 0.05
    assert ((rows.low <= rows.value) & (rows.value <= rows.high)).all()
    assert (rows.n == 100).all()
    assert (rows.seconds > 0).all()


def test_the_models_mode_and_the_global_noise_are_left_alone():
    model, data = Noisy(small_cnn()).train(), images(20)
    state = torch.random.get_rng_state()
    attack_outcomes(model, data, partial(adaptive_pgd, steps=2), Linf, [0.1], draws=2)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    model.eval()


def test_an_attack_that_cheats_is_caught():
    def too_far(model, x, y, ball, *, generator):
        return (x + 2 * ball.eps).clamp(0, 1)

    def out_of_range(model, x, y, ball, *, generator):
        return x - ball.eps

    def cropped(model, x, y, ball, *, generator):
        return x[..., 1:]

    for attack, message in [(too_far, "must stay in"), (out_of_range, r"\[0, 1\]"), (cropped, "shape")]:
        with pytest.raises(ValueError, match=message):
            attack_outcomes(small_cnn(), images(10), attack, Linf, [0.1])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"epsilons": []}, "epsilons"),
        ({"epsilons": [0.1, 0.1]}, "epsilons"),
        ({"epsilons": [-0.1]}, "epsilons"),
        ({"index": []}, "index"),
        ({"index": [0, 0]}, "index"),
        ({"index": [10]}, "index"),
        ({"index": [-1]}, "index"),
        ({"draws": 0}, "draws"),
        ({"seed": 0.5}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        ({"data": (torch.rand(10, 784), torch.zeros(10, dtype=torch.long))}, "x must"),
        ({"data": (torch.rand(10, 1, 28, 28) - 1, torch.zeros(10, dtype=torch.long))}, "x must"),
        ({"data": (torch.rand(10, 1, 28, 28), torch.zeros(9, dtype=torch.long))}, "y must"),
        ({"data": (torch.rand(10, 1, 28, 28), torch.full((10,), 10))}, "y must"),
        ({"data": torch.rand(10, 1, 28, 28)}, "data must"),
        ({"attack": fgm}, "ball must"),
        ({"model": nn.Flatten(2)}, "model must"),
    ],
)
def test_bad_input_is_named(bad, message):
    good = {"model": small_cnn(), "data": images(10), "attack": fgsm, "ball_type": Linf, "epsilons": [0.1]}
    with pytest.raises(ValueError, match=message):
        attack_outcomes(**{**good, **bad})


@pytest.mark.parametrize("attack", [smallest_blur, smallest_contrast_linear])
@pytest.mark.parametrize("project", [None, Linf])
def test_one_search_for_all_radii_is_a_search_for_each(attack, project):
    model, data, radii = small_cnn(), images(60), [0.05, 0.1, 0.3]
    one = smallest_outcomes(model, data, partial(attack, steps=100), radii, project=project)
    each = attack_outcomes(model, data, within(partial(attack, steps=100), project=project is not None), Linf, radii)
    assert torch.equal(one.right, each.right)
    if project is not None or attack is smallest_contrast_linear:  # a blur that fools is longer than 0.3
        assert one.right[2].mean() < one.clean.mean()


def test_a_search_in_one_norm_is_not_projected_onto_a_ball_of_the_other():
    with pytest.raises(ValueError, match="project must be Linf, the norm of the attack's distances, got L2"):
        smallest_outcomes(small_cnn(), images(4), partial(smallest_contrast_linear, steps=10), [0.5], project=L2)


def test_more_images_than_a_pass_holds_are_judged_and_attacked_as_few_are(monkeypatch):
    model, (x, y), largest = small_cnn(), images(60), []
    whole = fraction_right(model, x, y), pgd(model, x, y, Linf(0.05), steps=3)
    for module in (attacks_by_gradient, evaluation.outcomes):
        monkeypatch.setattr(module, "IMAGES_PER_PASS", 7)
    handle = model.register_forward_hook(lambda module, seen, scores: largest.append(len(scores)))
    assert torch.equal(fraction_right(model, x, y), whole[0])
    torch.testing.assert_close(pgd(model, x, y, Linf(0.05), steps=3), whole[1], rtol=0, atol=1e-6)
    handle.remove()
    assert max(largest) == 14  # of what is only judged; 7 where a gradient is asked for


def test_the_judges_draws_are_none_that_the_attack_has_seen():
    class Signed(StochasticClassifier):
        """Right where the sign of the noise is that of the light: half of all draws, whatever the image."""

        def forward(self, x, generator=None):
            score = self.noise(1, len(x), 1, x, generator)[0, :, 0].sign() * (x.mean((1, 2, 3)) - 0.5)
            return torch.stack([score, -score], 1)

    def clairvoyant(model, x, y, ball, *, generator):
        wrong = model(x, generator=generator).argmax(1) != y  # in the draw that the judge would make if it had this source
        return torch.where(wrong.view(-1, 1, 1, 1), x, 1 - x)

    x, y = torch.full((400, 1, 2, 2), 0.55), torch.zeros(400, dtype=torch.long)
    outcomes = attack_outcomes(Signed(), (x, y), clairvoyant, Linf, [0.1], draws=1)
    assert abs(outcomes.right.mean() - 0.5) < 5 * 0.5 / 400**0.5
