"""The signs of masked gradients: values that are known, verdicts at their thresholds, and models that must be flagged."""

import pandas as pd
import pytest
import torch
from fixtures_models import Constant, Detached, Noisy, Rounded, images, small_cnn
from torch import nn

from hybridgen_lib import recipes
from hybridgen_lib.attacks import L2, Linf, pgd
from hybridgen_lib.classifier import is_stochastic
from hybridgen_lib.data import load
from hybridgen_lib.evaluation import masking, masking_report
from hybridgen_lib.evaluation.masking import SIGNS, _judged

ATTACKED = ["random search beats gradients", "more steps help the defence", "survives any perturbation"]
LOOKED_AT = [
    "no gradient", "the two gradients part", "score gap", "the loss along the path", "probabilities for scores",
]  # fmt: skip


class Wrapped(nn.Module):
    """A function of a classifier's scores."""

    def __init__(self, classifier, function):
        super().__init__()
        self.classifier, self.function = classifier, function

    def forward(self, x):
        return self.function(self.classifier(x))


class Linear(nn.Module):
    """Scores ``weights @ x + bias``, of images with as many pixels as ``weights`` has columns."""

    def __init__(self, weights, bias=None):
        super().__init__()
        self.register_buffer("weights", torch.as_tensor(weights))
        self.register_buffer("bias", torch.zeros(len(weights)) if bias is None else torch.as_tensor(bias))

    def forward(self, x):
        return x.flatten(1) @ self.weights.to(x.dtype).T + self.bias.to(x.dtype)


@pytest.fixture
def short(monkeypatch):
    """Attacks with a fraction of their steps and queries."""
    for name, value in {"STEPS": 12, "FEW_STEPS": 6, "QUERIES": 40}.items():
        monkeypatch.setattr(masking, name, value)


def net(classes=3, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, classes))
    return model.eval()


def batch(model, n=20):
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, model(x).argmax(1)


def of(report, column="verdict"):
    return dict(zip(report["sign"], report[column], strict=True))


# ---------------------------------------------------------------- models that must be flagged, and that must not


def test_an_undefended_net_passes_every_sign():
    plain, other = small_cnn(), Rounded(small_cnn(), 50)
    for ball in (Linf(0.1), L2(1.5)):
        report = masking_report(plain, images(30), ball, surrogate=other.classifier)
        assert set(report["verdict"]) == {"pass"}, report
        assert report["sign"].tolist() == [ATTACKED[0], "another model's gradients win", *ATTACKED[1:], *LOOKED_AT]


def test_a_rounding_step_is_flagged_and_falls_to_its_surrogate():
    plain, data = small_cnn(), images(30)
    masked = Rounded(plain)
    verdicts = of(masking_report(masked, data, Linf(0.2), surrogate=plain))
    for sign in (*ATTACKED[::2], "another model's gradients win", *LOOKED_AT[:2], "the loss along the path"):
        assert verdicts[sign] == "fail"
    assert verdicts["score gap"] == verdicts["probabilities for scores"] == "pass"
    attacked = pgd(masked, *data, Linf(0.2), surrogate=plain, steps=20)
    assert (masked(attacked).argmax(1) == data[1]).float().mean() < 0.1


def test_a_model_without_any_gradient_is_measured_all_the_same():
    plain, data = small_cnn(), images(20)
    hidden, known = (masking_report(model, data, Linf(0.2)) for model in (Detached(plain), plain))
    values, expected = of(hidden, "value"), of(known, "value")
    assert values["no gradient"] == 1
    assert values["survives any perturbation"] == 1
    assert values["the two gradients part"] == values["the loss along the path"] == 0
    assert values["more steps help the defence"] == 0
    assert values["score gap"] == pytest.approx(expected["score gap"])
    assert values["random search beats gradients"] > 0.7
    assert [of(hidden)[sign] for sign in (*ATTACKED[::2], *LOOKED_AT[:2])] == ["fail"] * 4


def test_a_softmax_of_huge_gaps_is_flagged_and_its_scores_fall():
    steep, data = Wrapped(small_cnn(), lambda scores: (200 * scores).softmax(1)), images(30)
    report = masking_report(steep, data, Linf(0.1), surrogate=small_cnn())
    for sign in (ATTACKED[0], "another model's gradients win", *LOOKED_AT[:2], "the loss along the path"):
        assert of(report)[sign] == "fail"
    assert of(report)["probabilities for scores"] == "warn"
    attacked = pgd(small_cnn(), *data, Linf(0.1), loss="margin")
    assert (steep(attacked).argmax(1) == data[1]).float().mean() < 0.2


def test_scores_with_huge_gaps_hide_from_cross_entropy_but_not_from_the_margin():
    report = masking_report(Wrapped(small_cnn(), lambda scores: 200 * scores), images(30), Linf(0.1))
    verdicts = of(report)
    assert [verdicts[sign] for sign in ("no gradient", "score gap", "the two gradients part")] == ["fail"] * 3
    assert [verdicts[sign] for sign in (*ATTACKED, "the loss along the path")] == ["pass"] * 4


def test_noise_is_frozen_while_it_is_looked_at(short):
    model, data = Noisy(small_cnn(), sigma=0.2, seed=4), images(30)
    noisy = []
    model.register_forward_hook(lambda *_: noisy.append(is_stochastic(model)))
    report = masking_report(model, data, Linf(0.1))
    assert set(report["verdict"]) == {"pass"}, report
    assert not any(noisy)
    assert is_stochastic(model)
    assert model._source is None  # its own noise was not drawn from
    assert not report["value"].equals(masking_report(model, data, Linf(0.1), seed=1)["value"])


def test_the_noise_of_a_surrogate_is_frozen_too(short):
    for seed in range(5):  # whichever of the two comes first in memory
        surrogate, noisy = Noisy(net(seed=seed)).eval(), []
        surrogate.register_forward_hook(lambda *_, s=surrogate, seen=noisy: seen.append(is_stochastic(s)))
        model = Noisy(net(), sigma=0.01).eval()
        masking_report(model, batch(model.classifier, 4), Linf(0.1), surrogate=surrogate)
        assert noisy
        assert not any(noisy)


def test_scores_that_never_change_are_flagged():
    x, _ = images(10)
    report = masking_report(Constant(10), (x, torch.zeros(10, dtype=torch.long)), Linf(0.1))
    assert of(report, "value") == {
        "random search beats gradients": 0, "more steps help the defence": 0, "survives any perturbation": 1,
        "no gradient": 1, "the two gradients part": 0, "score gap": 0, "the loss along the path": 0,
        "probabilities for scores": 0,
    }  # fmt: skip
    assert (report["verdict"] == "fail").sum() == 4


def test_without_an_image_that_is_right_there_is_nothing_to_say():
    x, _ = images(10)
    with pytest.raises(ValueError, match=r"^data must hold images that the model classifies right, got none"):
        masking_report(Constant(10), (x, torch.ones(10, dtype=torch.long)), Linf(0.1))


# ---------------------------------------------------------------- values that are known


def test_on_a_linear_model_of_two_classes_all_values_are_known(short):
    weights = torch.randn(64, generator=torch.Generator().manual_seed(0))
    model = Linear(torch.stack([0 * weights, weights]), [0.0, -weights.sum().item() / 2])
    x = 0.5 + 0.4 * (torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.5)
    scores = model(x)
    values = of(masking_report(model, (x, scores.argmax(1)), Linf(0.1)), "value")
    assert values["score gap"] == pytest.approx(scores.diff(dim=1).abs().median().item(), abs=1e-5)
    assert values["the two gradients part"] == pytest.approx(1, abs=1e-5)
    assert values["the loss along the path"] == pytest.approx(1, abs=1e-3)
    assert values["no gradient"] == values["survives any perturbation"] == values["probabilities for scores"] == 0


@pytest.mark.parametrize("classes", [3, 5, 9])
def test_the_cosine_of_the_two_gradients_by_hand(classes, short):
    """Orthonormal weights, and the other classes all but tied: cross-entropy pulls to their mean, the margin to one."""
    model = Linear(torch.eye(64)[:classes], [10.0, 1e-3, *[0.0] * (classes - 2)])
    x = torch.full((4, 1, 8, 8), 0.5)
    values = of(masking_report(model, (x, torch.zeros(4, dtype=torch.long)), Linf(0.01)), "value")
    m = classes - 1  # (mean - w_y).(w_2 - w_y) = 1/m + 1; the norms are sqrt(1/m + 1) and sqrt 2
    assert values["the two gradients part"] == pytest.approx(((1 / m + 1) / 2) ** 0.5, abs=2e-3)
    assert values["score gap"] == pytest.approx(10 - 1e-3, abs=1e-4)


def test_a_loss_that_ripples_rises_less_than_its_slope_foretells(short):
    class Ripples(nn.Module):
        """A gentle slope under waves 300 times as steep, so short that a step of eps / 20 = 0.01 spans some."""

        def forward(self, x):
            lead = (0.02 * x + torch.sin(3000 * x) * 1e-3 * 2).flatten(1).mean(1)
            return torch.stack([lead + 0.01, -lead - 0.01], 1)

    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    report = masking_report(Ripples(), (x, Ripples()(x).argmax(1)), Linf(0.2))
    assert of(report)["the loss along the path"] == "fail"
    assert abs(of(report, "value")["the loss along the path"]) < 0.1


def test_the_rise_is_measured_over_a_twentieth_of_the_radius(short):
    class Capped(nn.Module):
        """The lead falls with the brightness, but for the first 0.01 of it only."""

        def forward(self, x):
            lead = 1 - (x.mean((1, 2, 3)) - 0.5).clamp_max(0.01)
            return torch.stack([lead, 0 * lead], 1)

    data = torch.full((4, 1, 8, 8), 0.5), torch.zeros(4, dtype=torch.long)
    for eps, share in ((0.1, 1), (0.2, 1), (0.4, 0.5), (0.8, 0.25)):
        values = of(masking_report(Capped(), data, Linf(eps)), "value")
        assert values["the loss along the path"] == pytest.approx(share, abs=1e-3)


def test_more_steps_that_help_the_defence_are_flagged(monkeypatch):
    """An attack that with more than 6 steps gives up on all images but the first two."""

    def tires(model, x, y, ball, *, steps, **options):
        reached = x - ball.eps
        if steps > 6:
            reached[2:] = x[2:]
        return reached.clamp(0, 1)

    for name, value in {"STEPS": 12, "FEW_STEPS": 6, "QUERIES": 40, "pgd": tires}.items():
        monkeypatch.setattr(masking, name, value)

    class Bright(nn.Module):
        def forward(self, x):
            lead = x.mean((1, 2, 3)) - 0.55
            return torch.stack([lead, -lead], 1)

    report = masking_report(Bright(), (torch.full((10, 1, 8, 8), 0.6), torch.zeros(10, dtype=torch.long)), Linf(0.1))
    assert of(report, "value")["more steps help the defence"] == pytest.approx(0.8)
    assert of(report)["more steps help the defence"] == "fail"


@pytest.mark.parametrize(
    ("function", "flagged"),
    [
        (lambda scores: scores.softmax(1), 1),
        (lambda scores: (50 * scores).softmax(1), 1),
        (lambda scores: scores.log_softmax(1), 0),
        (lambda scores: scores.sigmoid(), 0),
        (lambda scores: 2 * scores.softmax(1), 0),
        (lambda scores: scores.softmax(1) - 0.1, 0),
        (lambda scores: scores - scores.mean(1, keepdim=True) + 1 / scores.shape[1], 0),  # they add up to 1, but some are < 0
    ],
)
def test_what_counts_as_probabilities(function, flagged, short):
    model = Wrapped(net(4), function)
    report = masking_report(model, batch(model), Linf(0.1))
    assert of(report, "value")["probabilities for scores"] == flagged
    assert of(report)["probabilities for scores"] == ("warn" if flagged else "pass")


class Patchy(nn.Module):
    """No gradient for the images whose first pixel is bright."""

    def forward(self, x):
        seen = torch.where((x[:, :, :1, :1] > 0.9).expand_as(x), x.detach(), x)
        lead = seen.flatten(1)[:, 1:].mean(1)
        return torch.stack([lead + 1, -lead], 1)


@pytest.mark.parametrize(("hidden", "verdict"), [(0, "pass"), (1, "pass"), (2, "warn"), (10, "warn"), (11, "fail")])
def test_the_share_of_images_without_a_gradient_and_its_verdict_at_the_thresholds(hidden, verdict, short):
    x = torch.full((100, 1, 8, 8), 0.5)
    x[:hidden, 0, 0, 0] = 1
    report = masking_report(Patchy(), (x, torch.zeros(100, dtype=torch.long)), Linf(0.1))
    assert of(report, "value")["no gradient"] == hidden / 100
    assert of(report)["no gradient"] == verdict


@pytest.mark.parametrize(("stubborn", "verdict"), [(0, "pass"), (1, "pass"), (2, "warn"), (3, "fail")])
def test_the_share_that_survives_any_perturbation_and_its_verdict_at_the_thresholds(stubborn, verdict, short):
    class Marked(nn.Module):
        """Bright images are right; those with a mark in the corner stay so, and the mark has no gradient."""

        def forward(self, x):
            lead = x[:, 0, :7].mean((1, 2)) - 0.51 + 9 * (x[:, 0, 7, 7] > 0.5)
            return torch.stack([lead, -lead], 1)

    x = torch.ones(20, 1, 8, 8)
    x[:, 0, 7, 7] = (torch.arange(20) < stubborn).float()
    report = masking_report(Marked(), (x, torch.zeros(20, dtype=torch.long)), Linf(0.1))
    assert of(report, "value")["survives any perturbation"] == stubborn / 20
    assert of(report)["survives any perturbation"] == verdict


def test_any_perturbation_in_l2_reaches_plain_grey_and_not_much_more(short):
    class Threshold(nn.Module):
        def __init__(self, threshold):
            super().__init__()
            self.threshold = threshold

        def forward(self, x):
            lead = x.mean((1, 2, 3)) - self.threshold
            return torch.stack([lead, -lead], 1)

    data = torch.ones(5, 1, 8, 8), torch.zeros(5, dtype=torch.long)
    for threshold, left in ((0.51, 0), (0.49, 1)):
        values = of(masking_report(Threshold(threshold), data, L2(0.1)), "value")
        assert values["survives any perturbation"] == left


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(
    ("value", "passes", "warns", "verdict"),
    [
        (-1.0, 0.02, 0.05, "pass"), (0.02, 0.02, 0.05, "pass"), (0.0201, 0.02, 0.05, "warn"),
        (0.05, 0.02, 0.05, "warn"), (0.0501, 0.02, 0.05, "fail"),
        (1.0, 0.7, 0.5, "pass"), (0.7, 0.7, 0.5, "pass"), (0.6999, 0.7, 0.5, "warn"),
        (0.5, 0.7, 0.5, "warn"), (0.4999, 0.7, 0.5, "fail"), (-1.0, 0.7, 0.5, "fail"),
    ],
)  # fmt: skip
def test_the_verdict_at_the_thresholds(value, passes, warns, verdict):
    words, found = _judged(value, passes, warns)
    assert found == verdict
    assert words == f"{'<=' if warns > passes else '>='} {passes}"


def test_every_row_follows_from_its_value_and_says_what_it_means(short):
    plain = small_cnn()
    for model in (plain, Rounded(plain)):
        report = masking_report(model, images(25), Linf(0.1), surrogate=plain)
        assert list(report) == ["sign", "value", "passes", "verdict", "meaning", "n"]
        assert report["sign"].tolist() == list(SIGNS)
        assert report["sign"].is_unique
        assert report["meaning"].is_unique
        assert (report["meaning"].str.len() > 20).all()
        assert report["value"].notna().all()
        assert set(report["n"]) == {int((model(images(25)[0]).argmax(1) == images(25)[1]).sum())}
        for row in report.itertuples():
            passes, warns, _ = SIGNS[row.sign]
            assert row.passes.split() == ["<=" if passes < warns else ">=", f"{passes:g}"]
            inside = row.value <= passes if passes < warns else row.value >= passes
            assert (row.verdict == "pass") == inside


def test_image_data_stands_for_its_test_images_and_index_chooses_among_them(short):
    model, data, (x, y) = small_cnn(), load("fashion-mini"), images(20)
    index = [3, 11, 7, 15]
    chosen = masking_report(model, data, Linf(0.1), index=index)
    pd.testing.assert_frame_equal(chosen, masking_report(model, (x[index], y[index]), Linf(0.1)))
    pd.testing.assert_frame_equal(chosen, masking_report(model, (data.test_x[index], y[index].int()), Linf(0.1)))


def test_the_seed_fixes_the_result_and_no_trace_is_left(short):
    model, surrogate, state = net().train(), net(seed=1).train(), torch.random.get_rng_state()
    model[1].weight.requires_grad_(False)
    data = batch(net())
    first = masking_report(model, data, Linf(0.1), surrogate=surrogate)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(7)
    pd.testing.assert_frame_equal(first, masking_report(model, data, Linf(0.1), surrogate=surrogate))
    torch.random.set_rng_state(state)
    for part in (model, surrogate):
        assert all(m.training for m in part.modules())
        assert all(p.grad is None for p in part.parameters())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert all(p.requires_grad for p in surrogate.parameters())


@pytest.mark.parametrize("failure", [Constant(3), Wrapped(net(), lambda scores: scores * torch.nan)])
def test_no_trace_is_left_by_a_failure_either(failure):
    x, _ = batch(net())
    failure.train()
    with pytest.raises(ValueError, match=r"got none|got NaN"):
        masking_report(failure, (x, torch.ones(20, dtype=torch.long)), Linf(0.1))
    assert failure.training
    assert all(p.requires_grad for p in failure.parameters())


@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_and_double_precision(kind, dtype, classes, short):
    model = net(classes).to(dtype)
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    report = masking_report(model, (x, model(x).argmax(1)), kind({Linf: 0.1, L2: 0.8}[kind]))
    assert set(report["verdict"]) == {"pass"}, report


def test_a_model_that_scores_classes_at_a_price(short):
    model = recipes.build("gfz", (1, 8, 8), 3, seed=1, samples=3, width=4, hidden=16, code=4).eval()
    report = masking_report(model, batch(net()), Linf(0.1))
    assert report["value"].notna().all()
    assert is_stochastic(model)


def test_a_wish_for_small_passes_is_heard_and_none_is_no_wish(short):
    plain, data = net(), batch(net())
    expected = masking_report(plain, data, Linf(0.1))
    for wish in (None, 3):
        model = Wrapped(plain, lambda scores: scores)
        model.examples_per_pass = wish
        found = masking_report(model, data, Linf(0.1))
        pd.testing.assert_frame_equal(found, expected, atol=1e-5, rtol=1e-5)


def test_the_caller_may_have_switched_gradients_off(short):
    model = net()
    with torch.no_grad():
        off = masking_report(model, batch(model), Linf(0.1))
    assert off.equals(masking_report(model, batch(model), Linf(0.1)))


def test_the_white_box_is_the_better_of_cross_entropy_and_margin(short):
    class Stale(nn.Module):
        """The runner-up is constant, so the margin has no gradient; the third class rises with the light and soon wins."""

        def forward(self, x):
            rising = 0.5 + 10 * (x.mean((1, 2, 3)) - 0.5)
            return torch.stack([0 * rising + 1, 0 * rising + 0.9, rising], 1)

    data = torch.full((5, 1, 8, 8), 0.5), torch.zeros(5, dtype=torch.long)
    values = of(masking_report(Stale(), data, Linf(0.2)), "value")
    assert values["random search beats gradients"] <= 0
    assert values["survives any perturbation"] == 0


def test_the_model_is_asked_about_images_only(short):
    x, y = images(20)
    x = torch.where(x < 0.5, 0.0, 1.0)  # a step from black or white would leave the box
    seen = []

    class Spy(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            seen.append((x.min().item(), x.max().item()))
            return self.model(x)

    masking_report(Spy(small_cnn()), (x, y), Linf(0.1))
    assert min(low for low, _ in seen) >= 0
    assert max(high for _, high in seen) <= 1


def test_noise_that_nobody_can_hold_is_refused_before_any_work():
    class Loose(nn.Module):
        stochastic = True

        def forward(self, x, generator=None):
            raise AssertionError("asked")

    with pytest.raises(ValueError, match="StochasticClassifier"):
        masking_report(Loose(), images(4), Linf(0.1))
