"""Training: one loop, and what it makes small.

``loop`` holds :func:`fit`; ``objectives`` what plain and generative models are trained by; ``robust`` what is meant to make
a model resist.
"""

from hybridgen_lib.training.loop import Objective, Selection, fit, save_atomically
from hybridgen_lib.training.objectives import (
    cross_entropy,
    in_bfloat16,
    negative_elbo,
    negative_pseudo_likelihood,
    shifted_and_mirrored,
)
from hybridgen_lib.training.robust import (
    adversarial,
    causal_loss,
    clean_and_attacked,
    information_bottleneck,
    intervention,
    mixup,
)

__all__ = [
    "Objective",
    "Selection",
    "adversarial",
    "causal_loss",
    "clean_and_attacked",
    "cross_entropy",
    "fit",
    "in_bfloat16",
    "information_bottleneck",
    "intervention",
    "mixup",
    "negative_elbo",
    "negative_pseudo_likelihood",
    "save_atomically",
    "shifted_and_mirrored",
]
