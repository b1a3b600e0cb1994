"""What one measurement is: the outcome of an attack for every image, a number for each, or a distance between sets.

All three know their ``metrics`` and give an :class:`Estimate` of each, and of how far they differ from another.
"""

from hybridgen_lib.measurement.outcomes import METRICS, Estimate, Outcomes, paired_difference
from hybridgen_lib.measurement.values import SetDistances, Values

__all__ = ["METRICS", "Estimate", "Measured", "Outcomes", "SetDistances", "Values", "measured_from", "paired_difference"]

Measured = Outcomes | Values | SetDistances


def measured_from(plain: dict) -> Measured:
    """The measurement that ``to_dict`` wrote; ``ValueError`` if a part is missing or does not fit."""
    kinds = {"values": Values, "distances": SetDistances}
    return kinds.get(plain.get("kind"), Outcomes).from_dict(plain)
