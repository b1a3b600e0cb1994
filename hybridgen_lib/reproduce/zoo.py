"""The full-scale runs for `zoo`: its ten attacks on MNIST, for the models that are there so far.

The document names Foolbox's attacks and states steps (PGD: 40 in linf, 50 in l2) and radii (0.1 to 0.5, 1 to 5); step sizes,
random starts and the mid-grey target of contrast reduction are Foolbox's defaults. C&W has no printed number and is left out.
"""

from functools import partial

from torch import Tensor, nn

from hybridgen_lib.attacks import (
    L2,
    Linf,
    fgm,
    fgsm,
    pgd,
    smallest_blur,
    smallest_contrast_binary,
    smallest_contrast_linear,
    smallest_gaussian_noise,
    smallest_uniform_noise,
    within,
)
from hybridgen_lib.attacks.balls import Ball
from hybridgen_lib.models.classical import Probabilities
from hybridgen_lib.reproduce.jobs import Document, Measurement, clean, curve, worst_case

__all__ = ["ZOO"]

GRID_LINF, GRID_L2 = (0.1, 0.2, 0.3, 0.4, 0.5), (1.0, 2.0, 3.0, 4.0, 5.0)


def published_pgd(model: nn.Module, x: Tensor, y: Tensor, ball: Ball, *, generator=None) -> Tensor:
    """PGD on the cross-entropy with the document's steps and Foolbox's step sizes, eps / 30 in linf and eps / 40 in l2."""
    steps, share = (40, 1 / 30) if isinstance(ball, Linf) else (50, 1 / 40)
    return pgd(model, x, y, ball, steps=steps, step_size=share * ball.eps, generator=generator)


def through_softmax(attack, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, *, generator=None) -> Tensor:
    """The attack as the released code runs it: its models return probabilities, and the loss takes these for scores."""
    return attack(Probabilities(model), x, y, ball, generator=generator)


def _published(attack, ball_type: type[Ball], name: str, steps: int | str = "", variant: str = "") -> Measurement:
    key = {"protocol": "as_published", "attack": name, "norm": ball_type.__name__.lower(), "steps": steps, "variant": variant}
    grid = GRID_LINF if ball_type is Linf else GRID_L2
    return Measurement(key, {}, partial(curve, attack, ball_type, grid))


def _searched(smallest, ball_type: type[Ball], name: str) -> Measurement:
    """What the search finds beyond eps is clipped to the ball and judged again, as Foolbox does."""
    return _published(within(smallest, project=True), ball_type, name)


ZOO = Document(
    data="mnist",
    chapter="06",
    models=("gmm", "cnn"),
    measurements={
        "clean": Measurement({"protocol": "as_published", "attack": "none"}, {}, clean),
        "fgsm": _published(fgsm, Linf, "fgsm"),
        "pgd": _published(published_pgd, Linf, "pgd", 40),
        "fgm": _published(fgm, L2, "fgm"),
        "pgd-l2": _published(published_pgd, L2, "pgd", 50),
        "fgsm-code": _published(partial(through_softmax, fgsm), Linf, "fgsm", variant="code"),
        "pgd-code": _published(partial(through_softmax, published_pgd), Linf, "pgd", 40, variant="code"),
        "uniform-noise": _searched(smallest_uniform_noise, Linf, "uniform-noise"),
        "gaussian-noise": _searched(smallest_gaussian_noise, L2, "gaussian-noise"),
        "contrast-linear": _searched(smallest_contrast_linear, Linf, "contrast-linear"),
        "contrast-binary": _searched(smallest_contrast_binary, Linf, "contrast-binary"),
        "blur": _searched(smallest_blur, Linf, "blur"),
        "worst-case": worst_case(Linf, (0.1, 0.3, 0.5)),
    },
    # its networks are those of Deep Bayes (its appendix A.3), twice as wide as ours at the cpu profile
    stand_in={"cpu": "half width", "paper": ""},
    exact=("gmm",),
)
