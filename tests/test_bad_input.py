"""One table over the public functions: a bad argument is a ``ValueError`` that names it."""

import pytest
import torch
from fixtures_models import small_cnn

from hybridgen_lib import figures, recipes
from hybridgen_lib.attacks import L2, Linf, fgm, fgsm, ifgsm, pgd
from hybridgen_lib.attacks.ascent import ascend
from hybridgen_lib.classifier import bootstrap_interval, wilson
from hybridgen_lib.evaluation import accuracy_curve, adaptive_pgd, attack_outcomes, fraction_right
from hybridgen_lib.measurement import Outcomes
from hybridgen_lib.models.factorization import Factorization
from hybridgen_lib.results import claim_verdict, number_verdict, order_verdict

X, Y = torch.rand(3, 1, 28, 28), torch.tensor([0, 1, 2])
NAN, BRIGHT = X.clone(), X * 2 + 0.1
NAN[0, 0, 0, 0] = float("nan")
ATTACKS = [(fgsm, Linf(0.1)), (ifgsm, Linf(0.1)), (pgd, Linf(0.1)), (pgd, L2(1.0)), (fgm, L2(1.0)), (adaptive_pgd, Linf(0.1))]
ESTIMATE = Outcomes([0, 1], torch.tensor([1.0, 0.0])).estimate("clean_accuracy")


@pytest.mark.parametrize(("attack", "ball"), ATTACKS)
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"x": X[0]}, "x"),
        ({"x": NAN}, "x"),
        ({"x": BRIGHT}, "x"),
        ({"x": (X * 255).to(torch.uint8)}, "x"),
        ({"y": Y[:2]}, "y"),
        ({"y": Y.float()}, "y"),
        ({"y": Y + 9}, "y"),
        ({"y": Y - 1}, "y"),
        ({"ball": 0.1}, "ball"),
        ({"model": len}, "model"),
        ({"generator": 3}, "generator"),
    ],
)
def test_attacks(attack, ball, change, name):
    arguments = {"model": small_cnn(), "x": X, "y": Y, "ball": ball, "generator": None} | change
    generator = arguments.pop("generator")
    with pytest.raises(ValueError, match=f"^{name} must"):
        attack(*arguments.values(), generator=generator)


@pytest.mark.parametrize("function", [attack_outcomes, accuracy_curve])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"model": len}, "model"),
        ({"data": X}, "data"),
        ({"data": (NAN, Y)}, "x"),
        ({"attack": "fgsm"}, "attack"),
        ({"ball_type": "linf"}, "ball_type"),
        ({"ball_type": Linf(0.1)}, "ball_type"),
        ({"epsilons": 0.1}, "epsilons"),
        ({"epsilons": []}, "epsilons"),
        ({"epsilons": [-0.1]}, "epsilons"),
        ({"epsilons": [0.1, 0.1]}, "epsilons"),
        ({"index": [0.5]}, "index"),
        ({"index": [3]}, "index"),
        ({"draws": 0}, "draws"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_evaluation(function, change, name):
    arguments = {"model": small_cnn(), "data": (X, Y), "attack": fgsm, "ball_type": Linf, "epsilons": [0.1]} | change
    with pytest.raises(ValueError, match=f"^{name} must"):
        function(**arguments)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: Linf(-0.1), "eps"),
        (lambda: L2(float("nan")), "eps"),
        (lambda: fraction_right(small_cnn(), NAN, Y), "x"),
        (lambda: fraction_right(small_cnn(), X, Y + 9), "y"),
        (lambda: ascend(lambda x, rows: (x.sum((1, 2, 3)), None), X, Linf(0.1), steps=-1, step_size=0.1), "steps"),
        (lambda: wilson(1, 2, confidence=1.0), "confidence"),
        (lambda: bootstrap_interval([0.0, float("nan")]), "values"),
        (lambda: bootstrap_interval([0.0, 1.0], confidence=0.0), "confidence"),
        (lambda: number_verdict(ESTIMATE, 0.5, "about"), "relation"),
        (lambda: claim_verdict(ESTIMATE, 0.5, "accuracy", "about"), "relation"),
        (lambda: order_verdict(ESTIMATE, ""), "relation"),
        (lambda: Factorization.parse(3), "formula"),
        (lambda: recipes.build("cnn", (28, 28), 10), "image_shape"),
        (lambda: recipes.build("cnn", (1, 28, 28), 1), "classes"),
        (lambda: recipes.build("cnn", (1, 28, 28), 10, seed=0.5), "seed"),
        (lambda: recipes.build("cnn", (1, 28, 28), 10, width=0), "width"),
        (lambda: recipes.build("gfz", (1, 28, 28), 10, samples=1.5), "samples"),
        (lambda: recipes.choose_device("gpu"), "device"),
        (lambda: recipes.trained("cnn", 3), "data"),
        (lambda: figures.image_grid(NAN), "an image"),
        (lambda: figures.image_grid(BRIGHT), "an image"),
        (lambda: figures.image_grid((X * 255).long()), "an image"),
        (lambda: figures.slider_figure([NAN[0]], [0], "noise"), "an image"),
    ],
)
def test_the_rest(call, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        call()
