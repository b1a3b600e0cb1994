"""The full-scale runs for `deepbayes`: seven factorizations and a plain CNN on Fashion-MNIST."""

from functools import partial

from hybridgen_lib.attacks import Linf, fgsm
from hybridgen_lib.evaluation import adaptive_pgd
from hybridgen_lib.models.factorization import DEEP_BAYES
from hybridgen_lib.reproduce.jobs import Document, Measurement, clean, curve, worst_case

__all__ = ["DEEPBAYES"]

EPSILONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
"""The document names 0.1 and 0.3 and prints no grid; the smaller radii are ours, since that is where curves differ."""

PGD = {"steps": 40, "restarts": 1, "eot": 1, "draws": 10}

# FGSM as printed: one step on the cross-entropy, the model's noise as it comes. Then a curve of the margin of the scores, 40
# steps, first with the model's noise frozen, then with a fresh draw at every step. Then the whole protocol, at two radii.
DEEPBAYES = Document(
    data="fashion-mnist",
    chapter="05",
    models=(*DEEP_BAYES, "cnn"),
    measurements={
        "clean": Measurement({"protocol": "as_published", "attack": "none"}, {}, clean),
        "fgsm": Measurement(
            {"protocol": "as_published", "attack": "fgsm", "norm": "linf", "steps": 1},
            {"loss": "ce"},
            partial(curve, fgsm, Linf, EPSILONS),
        ),
        "pgd-margin": Measurement(
            {"protocol": "adaptive", "attack": "pgd-margin", "norm": "linf", "steps": PGD["steps"]},
            {"loss": "margin", **PGD},
            partial(curve, partial(adaptive_pgd, **PGD), Linf, EPSILONS),
        ),
        "worst-case": worst_case(Linf, (0.1, 0.3)),
    },
    # its models are Deep Bayes', whose networks are twice as wide as those of the cpu profile
    stand_in={"cpu": "half width", "paper": ""},
)
