"""What one measurement is: the outcome of an attack for every image, a number for each, how long each lasts, or a distance
between sets.

All of them know their ``metrics`` and give an :class:`Estimate` of each, and of how far they differ from another.
"""

from hybridgen_lib.measurement.outcomes import METRICS, Estimate, Outcomes, paired_difference
from hybridgen_lib.measurement.survival import Comparison, Survival, earliest, kaplan_meier, outlasts
from hybridgen_lib.measurement.values import SetDistances, Values

__all__ = ["METRICS", "Comparison", "Estimate", "Measured", "Outcomes", "SetDistances", "Survival", "Values", "earliest"]
__all__ += ["kaplan_meier", "measured_from", "outlasts", "paired_difference"]

Measured = Outcomes | Values | SetDistances | Survival


def measured_from(plain: dict) -> Measured:
    """The measurement that ``to_dict`` wrote; ``ValueError`` if a part is missing or does not fit."""
    kinds = {"values": Values, "distances": SetDistances, "survival": Survival}
    return kinds.get(plain.get("kind"), Outcomes).from_dict(plain)
