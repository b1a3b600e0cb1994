"""How much of a classifier an attack leaves: curves (``outcomes``), the adaptive protocol, the signs of masking, and how far
away counterfactuals are."""

from hybridgen_lib.evaluation.counterfactuals import proximity, speed
from hybridgen_lib.evaluation.masking import masking_report
from hybridgen_lib.evaluation.outcomes import accuracy_curve, attack_outcomes, fraction_right, smallest_outcomes
from hybridgen_lib.evaluation.protocol import SUITES, Suite, adaptive_outcomes, adaptive_pgd, evaluate_robustness

__all__ = [
    "SUITES",
    "Suite",
    "accuracy_curve",
    "adaptive_outcomes",
    "adaptive_pgd",
    "attack_outcomes",
    "evaluate_robustness",
    "fraction_right",
    "masking_report",
    "proximity",
    "smallest_outcomes",
    "speed",
]
