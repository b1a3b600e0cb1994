"""The full-scale runs for `interpretable`: a plain and an adversarially trained network under PGD in l2, its Table 1.

The document states ResNet18 on CIFAR-10, PGD with 20 steps of 0.1 in a ball of 0.5. On a CPU the plain CNN of the book and its
robust twin stand in, on Fashion-MNIST, at several radii; steps are always a fifth of the radius.
"""

from functools import partial

from torch import Tensor, nn

from hybridgen_lib.attacks import L2, pgd
from hybridgen_lib.evaluation import adaptive_pgd
from hybridgen_lib.reproduce.jobs import Document, Measurement, clean, curve, worst_case

__all__ = ["INTERPRETABLE", "INTERPRETABLE_CIFAR10"]

EPSILONS = (0.25, 0.5, 1.0, 1.5, 2.0)
STEPS = 20
ADAPTIVE_PGD = {"steps": 40, "restarts": 1, "eot": 1, "draws": 1}


def published_pgd(model: nn.Module, x: Tensor, y: Tensor, ball: L2, *, generator=None) -> Tensor:
    """PGD on the cross-entropy with the document's 20 steps of a fifth of the radius."""
    return pgd(model, x, y, ball, steps=STEPS, step_size=0.2 * ball.eps, generator=generator)


def _measurements(worst: tuple[float, ...]) -> dict[str, Measurement]:
    return {
        "clean": Measurement({"protocol": "as_published", "attack": "none"}, {}, clean),
        "pgd-l2": Measurement(
            {"protocol": "as_published", "attack": "pgd", "norm": "l2", "steps": STEPS},
            {"loss": "ce"},
            partial(curve, published_pgd, L2, EPSILONS),
        ),
        "pgd-margin-l2": Measurement(
            {"protocol": "adaptive", "attack": "pgd-margin", "norm": "l2", "steps": ADAPTIVE_PGD["steps"]},
            {"loss": "margin", **ADAPTIVE_PGD},
            partial(curve, partial(adaptive_pgd, **ADAPTIVE_PGD), L2, EPSILONS),
        ),
        "worst-case": worst_case(L2, worst),
    }


INTERPRETABLE = Document(
    data="fashion-mnist",
    claim_data="cifar10",
    chapter="09",
    models=("cnn", "cnn-at-l2"),
    claim_models={"cnn": "resnet18", "cnn-at-l2": "resnet18-at-l2"},
    measurements=_measurements((0.5, 1.5)),
    stand_in={"cpu": "Fashion-MNIST, the small CNN"},
)
INTERPRETABLE_CIFAR10 = Document(
    data="cifar10-jpeg",
    claim_data="cifar10",
    chapter="09",
    models=("resnet18", "resnet18-at-l2"),
    measurements=_measurements((0.5,)),
    stand_in={"paper": "a JPEG copy of CIFAR-10"},
    source="resnet18",
)
