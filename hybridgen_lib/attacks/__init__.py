"""Attacks on classifiers: what may be changed (``balls``), the loop that climbs (``ascent``), and the attacks themselves."""

from hybridgen_lib.attacks.ascent import ascend
from hybridgen_lib.attacks.balls import L2, Linf
from hybridgen_lib.attacks.gradient import fgm, fgsm, ifgsm, pgd

__all__ = ["L2", "Linf", "ascend", "fgm", "fgsm", "ifgsm", "pgd"]
