"""One table over the public functions: a bad argument is a ``ValueError`` that names it."""

from functools import partial

import pytest
import torch
from fixtures_models import Noisy, small_cnn

from hybridgen_lib import figures, recipes
from hybridgen_lib.attacks import L2, Bpda, Linf, autoattack, fgm, fgsm, ifgsm, pgd, square, transfer
from hybridgen_lib.attacks.ascent import ascend
from hybridgen_lib.classifier import bootstrap_interval, wilson
from hybridgen_lib.evaluation import (
    Suite,
    accuracy_curve,
    adaptive_outcomes,
    adaptive_pgd,
    attack_outcomes,
    evaluate_robustness,
    fraction_right,
    masking_report,
    smallest_outcomes,
)
from hybridgen_lib.measurement import Outcomes
from hybridgen_lib.models.autoencoders import conditional_vae
from hybridgen_lib.models.backbones import FeatureTap, Vgg
from hybridgen_lib.models.bottleneck import Bottleneck
from hybridgen_lib.models.deep_bayes import deep_bayes, deep_bayes_on_features
from hybridgen_lib.models.factorization import Factorization
from hybridgen_lib.models.gazes import Gazes
from hybridgen_lib.models.hybrid import causal_head, deep_cama
from hybridgen_lib.models.smoothing import Smoothed, certified_radius
from hybridgen_lib.results import claim_verdict, number_verdict, order_verdict
from hybridgen_lib.training import (
    adversarial,
    causal_loss,
    clean_and_attacked,
    cross_entropy,
    fit,
    information_bottleneck,
    intervention,
    negative_elbo,
    shifted_and_mirrored,
)

X, Y = torch.rand(3, 1, 28, 28), torch.tensor([0, 1, 2])
NAN, BRIGHT = X.clone(), X * 2 + 0.1
NAN[0, 0, 0, 0] = float("nan")
ATTACKS = [
    (fgsm, Linf(0.1)),
    (ifgsm, Linf(0.1)),
    (pgd, Linf(0.1)),
    (pgd, L2(1.0)),
    (fgm, L2(1.0)),
    (adaptive_pgd, Linf(0.1)),
    (autoattack, Linf(0.1)),
    (partial(autoattack, version="rand"), L2(1.0)),
    (square, Linf(0.1)),
    (partial(transfer, source=small_cnn()), Linf(0.1)),
]
TWO = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 2))
NANS = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
NANS[1].bias.data.fill_(float("nan"))
SMALL = {"hidden": 4, "code": 2, "manipulation": 2, "samples": 2}
HEAD = partial(causal_head, torch.nn.Flatten(), (1, 28, 28), 10, **SMALL)
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


DATA = [
    ({"data": X}, "data"),
    ({"data": [X, Y]}, "data"),
    ({"data": (X, Y, Y)}, "data"),
    ({"data": (NAN, Y)}, "x"),
    ({"data": (BRIGHT, Y)}, "x"),
    ({"data": (X[0], Y)}, "x"),
    ({"data": (X.tolist(), Y)}, "x"),
    ({"data": (X.numpy(), Y)}, "x"),
    ({"data": (3, Y)}, "x"),
    ({"data": ((X * 255).long(), Y)}, "x"),
    ({"data": (X, Y[:2])}, "y"),
    ({"data": (X, Y.float())}, "y"),
    ({"data": (X, Y.tolist())}, "y"),
    ({"data": (X, Y + 9)}, "y"),
    ({"data": (X, Y - 1)}, "y"),
    ({"data": (X[:0], Y[:0])}, "index"),
    ({"index": []}, "index"),
    ({"index": [0.5]}, "index"),
    ({"index": [3]}, "index"),
    ({"index": [-1]}, "index"),
    ({"index": [1, 1]}, "index"),
    ({"seed": 0.5}, "seed"),
    ({"seed": None}, "seed"),
    ({"model": len}, "model"),
    ({"model": torch.nn.Flatten(2)}, "model"),
]


@pytest.fixture
def no_work(monkeypatch):
    """Any attack is a failure: a bad argument is to be found before."""
    from hybridgen_lib.evaluation import masking, protocol

    for module in (masking, protocol):
        for name in ("pgd", "autoattack", "square", "transfer"):
            monkeypatch.setattr(module, name, lambda *a, **k: pytest.fail("an attack was run"), raising=False)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        *DATA,
        ({"ball": 0.1}, "ball"),
        ({"ball": None}, "ball"),
        ({"ball": Linf}, "ball"),
        ({"ball": [Linf(0.1)]}, "ball"),
        ({"suite": "strong"}, "suite"),
        ({"suite": 3}, "suite"),
        ({"suite": None}, "suite"),
        ({"surrogate": len}, "surrogate"),
        ({"source": "cnn"}, "source"),
    ],
)
def test_evaluate_robustness(change, name, no_work):
    with pytest.raises(ValueError, match=f"^{name} must"):
        evaluate_robustness(**{"model": small_cnn(), "data": (X, Y), "ball": Linf(0.1), **change})


@pytest.mark.parametrize(
    ("change", "name"),
    [
        *DATA,
        ({"balls": []}, "balls"),
        ({"balls": Linf(0.1)}, "balls"),
        ({"balls": 0.1}, "balls"),
        ({"balls": None}, "balls"),
        ({"balls": [0.1]}, "balls"),
        ({"balls": [Linf(0.1), L2(0.1)]}, "balls"),
        ({"balls": [Linf(0.1), Linf(0.1)]}, "balls"),
        ({"suite": "strong"}, "suite"),
        ({"surrogate": len}, "surrogate"),
        ({"source": "cnn"}, "source"),
    ],
)
def test_adaptive_outcomes(change, name, no_work):
    with pytest.raises(ValueError, match=f"^{name} must"):
        adaptive_outcomes(**{"model": small_cnn(), "data": (X, Y), "balls": [Linf(0.1)], **change})


@pytest.mark.parametrize(
    ("change", "name"),
    [
        *DATA,
        ({"ball": 0.1}, "ball"),
        ({"ball": None}, "ball"),
        ({"ball": Linf(0.0)}, "ball's eps"),
        ({"surrogate": len}, "surrogate"),
        ({"seed": -1}, "seed"),
    ],
)
def test_masking_report(change, name, no_work):
    with pytest.raises(ValueError, match=f"^{name} must"):
        masking_report(**{"model": small_cnn(), "data": (X, Y), "ball": Linf(0.1), **change})


@pytest.mark.parametrize(
    ("change", "name"),
    [
        *DATA[:-2],
        ({"model": len}, "model"),
        ({"attack": "cw"}, "attack"),
        ({"attack": None}, "attack"),
        ({"epsilons": []}, "epsilons"),
        ({"epsilons": 0.1}, "epsilons"),
        ({"epsilons": None}, "epsilons"),
        ({"epsilons": [-0.1]}, "epsilons"),
        ({"epsilons": [float("nan")]}, "epsilons"),
        ({"epsilons": ["0.1"]}, "epsilons"),
        ({"epsilons": [0.1, 0.1]}, "epsilons"),
        ({"draws": 0}, "draws"),
        ({"batch_size": 0}, "batch_size"),
        ({"project": True}, "project"),
        ({"project": Linf(0.1)}, "project"),
    ],
)
def test_smallest_outcomes(change, name):
    def attack(*arguments, **options):
        pytest.fail("the attack was run")

    with pytest.raises(ValueError, match=f"^{name} must"):
        smallest_outcomes(**{"model": small_cnn(), "data": (X, Y), "attack": attack, "epsilons": [0.1], **change})


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: Linf(-0.1), "eps"),
        (lambda: L2(float("nan")), "eps"),
        (lambda: fraction_right(small_cnn(), NAN, Y), "x"),
        (lambda: fraction_right(small_cnn(), X, Y + 9), "y"),
        (lambda: ascend(lambda x, rows: (x.sum((1, 2, 3)), None), X, Linf(0.1), steps=-1, step_size=0.1), "steps"),
        *((lambda name=name: Suite(**{name: 0}), name) for name in ("steps", "restarts", "eot", "draws", "queries")),
        *((lambda name=name: Suite(**{name: 1.5}), name) for name in ("steps", "restarts", "eot", "draws", "queries")),
        (lambda: Suite(autoattack_images=-1), "autoattack_images"),
        (lambda: Suite(autoattack_images="all"), "autoattack_images"),
        (lambda: autoattack(small_cnn(), X, Y, Linf(0.1), version="plus"), "version"),
        (lambda: autoattack(Noisy(small_cnn()), X, Y, Linf(0.1)), "version"),
        (lambda: square(Noisy(small_cnn()), X, Y, Linf(0.1)), "model"),
        (lambda: square(small_cnn(), X, Y, Linf(0.1), queries=0), "queries"),
        (lambda: square(small_cnn(), X, Y, Linf(0.1), queries=2.5), "queries"),
        (lambda: transfer(small_cnn(), X, Y, Linf(0.1), source=len), "source"),
        (lambda: transfer(small_cnn(), X, Y, Linf(0.1), source=None), "source"),
        (lambda: transfer(small_cnn(), X, Y, Linf(0.1), source=small_cnn(), steps=0), "steps"),
        (lambda: transfer(TWO, X, Y, Linf(0.1), source=small_cnn()), "y"),
        (lambda: transfer(NANS, X, Y, Linf(0.1), source=small_cnn()), "model"),
        (lambda: transfer(small_cnn(), X, Y, Linf(0.1), source=NANS), "model"),
        (lambda: Bpda(len, small_cnn()), "model"),
        (lambda: Bpda(small_cnn(), len), "surrogate"),
        (lambda: pgd(TWO, X, Y % 2, Linf(0.1), loss="dlr"), "loss"),
        (lambda: pgd(small_cnn(), X, Y, Linf(0.1), loss="dlr", target=(Y + 1) % 3), "loss"),
        (lambda: fgsm(TWO, X, Y % 2, Linf(0.1), loss="dlr"), "loss"),
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
        (lambda: recipes.recipe_of("gfz@code"), "name"),
        (lambda: recipes.trained("gfy@code=0"), "code"),
        (lambda: recipes.trained("hybrid@code=4"), "name"),
        (lambda: recipes.build("hybrid-deep", (1, 28, 28), 10, backbone="resnet"), "backbone"),
        (lambda: recipes.build("vgg16", (1, 28, 28), 10, shift=-1), "shift"),
        (lambda: Vgg(13, (1, 28, 28), 10), "depth"),
        (lambda: FeatureTap(small_cnn(), "conv1"), "after"),
        (lambda: FeatureTap(len, "conv1"), "backbone"),
        (lambda: FeatureTap(small_cnn(), "1").calibrate(BRIGHT), "x"),
        (lambda: HEAD(pixel_sigma=0.0), "pixel_sigma"),
        (lambda: HEAD(feature_sigma=float("nan")), "feature_sigma"),
        (lambda: HEAD(scales="some"), "scales"),
        (lambda: HEAD(weight="half"), "weight"),
        (lambda: HEAD().do(w=0), "variable"),
        (lambda: HEAD().do(x1=0), "variable"),
        (lambda: HEAD().with_samples(0), "samples"),
        (lambda: deep_bayes_on_features("gfz", torch.nn.Flatten(), (1, 28, 28), 10), "name"),
        (lambda: deep_bayes_on_features("gbz", torch.nn.Flatten(), (1, 28, 28), 10, code=0), "code"),
        (lambda: deep_bayes("gfz", (1, 28), 10), "image_shape"),
        (lambda: deep_bayes("gfz", (1, 28, 28), 10, code=0), "code"),
        (lambda: deep_bayes("dfx", (1, 28, 28), 1.5), "classes"),
        (lambda: conditional_vae((1, 28, 28), 10, hidden=8, code=-1, samples=2), "code"),
        (lambda: deep_cama((1, 28, 28), 10, manipulation=0), "manipulation"),
        (lambda: negative_elbo(warm_up=1.5), "warm_up"),
        (lambda: negative_elbo(pressure=-1), "pressure"),
        (lambda: shifted_and_mirrored(negative_elbo(), 0.5), "pixels"),
        (lambda: fit(HEAD(), negative_elbo(), {"x1": X.flatten(1)[:2], "x2": X.flatten(1)}, Y, epochs=1), "x"),
        (lambda: fit(HEAD(), negative_elbo(), {"x1": X.flatten(1), "x2": X.flatten(1)}, Y[:2], epochs=1), "y"),
        (lambda: fit(small_cnn(), cross_entropy, X, Y, epochs=1, peak=-0.1), "peak"),
        (lambda: fit(small_cnn(), cross_entropy, X, Y, epochs=1, peak=1.5), "peak"),
        (lambda: fit(small_cnn(), cross_entropy, X, Y, epochs=1, select=0.5), "select"),
        (lambda: adversarial(0.1, steps=1), "ball"),
        (lambda: adversarial(Linf(0.1), steps=0), "steps"),
        (lambda: adversarial(Linf(0.1), steps=1, step_size=-1), "step_size"),
        (lambda: adversarial(Linf(0.1), steps=1, warm_up=2), "warm_up"),
        (lambda: clean_and_attacked(X, Y, Linf, steps=1), "ball"),
        (lambda: clean_and_attacked(X, Y, L2(0.1), steps=0.5), "steps"),
        (lambda: clean_and_attacked(X, Y, L2(0.1), steps=1, step_size="1"), "step_size"),
        (lambda: clean_and_attacked(NAN, Y, L2(0.1), steps=1), "x"),
        (lambda: clean_and_attacked(X[:0], Y[:0], L2(0.1), steps=1), "x"),
        (lambda: clean_and_attacked(X, Y[:2], L2(0.1), steps=1), "y"),
        (lambda: information_bottleneck(-1), "alpha"),
        (lambda: information_bottleneck(0.1, beta=-1), "beta"),
        (lambda: information_bottleneck(0.1, 0.1, norm="l3"), "norm"),
        (lambda: causal_loss(torch.rand(2, 3, 4), torch.rand(2, 3, 5), norm="l3"), "norm"),
        (lambda: intervention(weight=-1), "weight"),
        (lambda: intervention(gazes=1), "gazes"),
        (lambda: intervention(gazes=10), "gazes"),
        (lambda: Bottleneck(len, 10), "network"),
        (lambda: Bottleneck(torch.nn.Flatten(), 10), "network"),
        (lambda: Bottleneck(small_cnn(), 1), "classes"),
        (lambda: Bottleneck(small_cnn(), 10, code=0), "code"),
        (lambda: Bottleneck(small_cnn(), 10, draws=0.5), "draws"),
        (lambda: Smoothed(len, 0.5), "network"),
        (lambda: Smoothed(small_cnn(), -0.5), "sigma"),
        (lambda: Smoothed(small_cnn(), 0.5, samples=0), "samples"),
        (lambda: Smoothed(small_cnn(), 0.5).with_samples(0), "samples"),
        (lambda: Smoothed(small_cnn(), 0.5).certify(NAN), "x"),
        (lambda: Smoothed(small_cnn(), 0.5).certify(X, guesses=0), "guesses"),
        (lambda: Smoothed(small_cnn(), 0.5).certify(X, votes=1.5), "votes"),
        (lambda: Smoothed(small_cnn(), 0.5).certify(X, error=0.0), "error"),
        (lambda: Smoothed(small_cnn(), 0.5).certify(X, error=0.6), "error"),
        (lambda: certified_radius(11, 10, 0.5), "wins"),
        (lambda: certified_radius(5, 10, -0.5), "sigma"),
        (lambda: Gazes(len, (1, 28, 28), 10), "network"),
        (lambda: Gazes(torch.nn.Flatten(), (1, 28, 28), 10), "network"),
        (lambda: Gazes(small_cnn(), (28, 28), 10), "image_shape"),
        (lambda: Gazes(small_cnn(), (1, 28, 28), 1), "classes"),
        (lambda: Gazes(small_cnn(), (1, 28, 28), 10, samples=10), "samples"),
        (lambda: Gazes(small_cnn(), (1, 28, 28), 10).with_samples(0), "samples"),
        (lambda: recipes.build("mlp-causalib", (1, 28, 28), 10, norm="l3"), "norm"),
        (lambda: recipes.build("mlp-causalib@alpha=-1", (1, 28, 28), 10), "alpha"),
        (lambda: recipes.build("mlp-ciiv", (1, 28, 28), 10, samples=10), "samples"),
        (lambda: recipes.build("mlp-smoothing", (1, 28, 28), 10, sigma=-1), "sigma"),
        (lambda: recipes.build("wideresnet", (1, 28, 28), 10, widen=0), "widen"),
        (lambda: recipes.trained("cnn-at-l2@held_out=-1"), "held_out"),
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
