"""Attacks on classifiers: what may be changed (``balls``), the loop that climbs (``ascent``), and the attacks themselves."""

from hybridgen_lib.attacks.ascent import ascend
from hybridgen_lib.attacks.balls import L2, Linf
from hybridgen_lib.attacks.carlini_wagner import smallest_cw
from hybridgen_lib.attacks.ensemble import autoattack, square
from hybridgen_lib.attacks.gradient import fgm, fgsm, ifgsm, pgd
from hybridgen_lib.attacks.smallest import (
    Smallest,
    smallest_blur,
    smallest_contrast_binary,
    smallest_contrast_linear,
    smallest_gaussian_noise,
    smallest_uniform_noise,
    within,
)
from hybridgen_lib.attacks.substitutes import Bpda, transfer

__all__ = [
    "L2",
    "Bpda",
    "Linf",
    "Smallest",
    "ascend",
    "autoattack",
    "fgm",
    "fgsm",
    "ifgsm",
    "pgd",
    "smallest_blur",
    "smallest_contrast_binary",
    "smallest_contrast_linear",
    "smallest_cw",
    "smallest_gaussian_noise",
    "smallest_uniform_noise",
    "square",
    "transfer",
    "within",
]
