"""Attacks on classifiers: what may be changed (``balls``), the loop that climbs (``ascent``), and the attacks themselves."""

from hybridgen_lib.attacks.ascent import ascend
from hybridgen_lib.attacks.balls import L2, Linf
from hybridgen_lib.attacks.ensemble import autoattack, square
from hybridgen_lib.attacks.gradient import fgm, fgsm, ifgsm, pgd
from hybridgen_lib.attacks.substitutes import Bpda, transfer

__all__ = ["L2", "Bpda", "Linf", "ascend", "autoattack", "fgm", "fgsm", "ifgsm", "pgd", "square", "transfer"]
