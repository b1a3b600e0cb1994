"""Measurements that are no shares: a number for each image, and how far two sets of images lie apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from hybridgen_lib.classifier import bootstrap_interval, check_choice, check_number, jackknife_interval
from hybridgen_lib.measurement.outcomes import Estimate, shared_rows

__all__ = ["SetDistances", "Values"]


def _kept(number: float, name: str) -> float:
    """The number with the six significant digits that its file keeps, so that a row is the same before and after."""
    return float(f"{check_number(float(number), name):.6g}")


def _table(measured: Values | SetDistances) -> pd.DataFrame:
    rows = [(metric, math.nan, *measured.estimate(metric), measured.seconds) for metric in measured.metrics]
    return pd.DataFrame(rows, columns=["metric", "eps", "value", "low", "high", "n", "seconds"])


def _parts(plain: Mapping, names: set[str]) -> dict:
    if missing := names - set(plain):
        raise ValueError(f"the measurement lacks {', '.join(sorted(missing))}")
    return {name: plain[name] for name in names}


@dataclass(frozen=True, eq=False)
class Values:
    """One number or several for each of n images, such as how far its inversion ends from the target.

    Args:
        index: positions (n,) of the images in the test set, each once.
        values: for each metric by name, (n,) finite numbers.
        seconds: wall-clock seconds that all of it took.

    Raises:
        ValueError: if the sizes do not fit, an image comes twice, or a number is not finite.
    """

    index: list[int]
    values: Mapping[str, Tensor | list[float]]
    seconds: float = 0.0

    def __post_init__(self):
        index = [check_number(i, "index", low=0, integer=True) for i in self.index]
        if not index or len(set(index)) != len(index) or not self.values:
            raise ValueError(f"index must hold at least one position, each once, and values a metric; got {len(index)}")
        values = {}
        for metric, numbers in self.values.items():
            if len(numbers) != len(index):
                raise ValueError(f"values must hold {len(index)} numbers for {metric}, got {len(numbers)}")
            values[metric] = torch.tensor([_kept(number, "values") for number in numbers], dtype=torch.float64)
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "seconds", round(check_number(float(self.seconds), "seconds", low=0), 3))

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.values)

    def estimate(self, metric: str, eps: float | None = None) -> Estimate:
        """The mean over images with its bootstrap interval. There is no radius: ``eps`` only makes all measurements alike."""
        numbers = self.values[check_choice(metric, "metric", self.metrics)]
        return Estimate(numbers.mean().item(), *bootstrap_interval(numbers), len(numbers))

    def minus(self, other: Values, metric: str) -> Estimate:
        """How much larger ``metric`` is here than in ``other``: the mean difference on the images that both have."""
        for values in (self, other):
            check_choice(metric, "metric", values.metrics)
        rows, others = shared_rows(self.index, other.index)
        difference = self.values[metric][rows] - other.values[metric][others]
        return Estimate(difference.mean().item(), *bootstrap_interval(difference), len(rows))

    def table(self) -> pd.DataFrame:
        """Tidy rows, one a metric, in the columns of :meth:`Outcomes.table`; eps is NaN."""
        return _table(self)

    def to_dict(self) -> dict:
        """Plain numbers for a JSON file."""
        numbers = {metric: numbers.tolist() for metric, numbers in self.values.items()}
        return {"kind": "values", "index": self.index, "values": numbers, "seconds": self.seconds}

    @classmethod
    def from_dict(cls, plain: Mapping) -> Values:
        """The values that :meth:`to_dict` wrote."""
        return cls(**_parts(plain, {"index", "values", "seconds"}))


@dataclass(frozen=True, eq=False)
class SetDistances:
    """How far two sets of images lie apart, by one metric or several, and how far without each of G groups of them.

    Args:
        n: images in each set.
        values: for each metric by name the distance of the whole sets.
        left_out: for each metric G distances, each without another n / G images of either set; G >= 2.
        seconds: wall-clock seconds that all of it took.

    Raises:
        ValueError: if metrics or numbers of groups do not fit, or a number is not finite.
    """

    n: int
    values: Mapping[str, float]
    left_out: Mapping[str, list[float]]
    seconds: float = 0.0

    def __post_init__(self):
        check_number(self.n, "n", low=2, integer=True)
        groups = {len(distances) for distances in self.left_out.values()}
        if not self.values or set(self.values) != set(self.left_out) or len(groups) != 1 or min(groups) < 2:
            raise ValueError(
                f"left_out must hold as many distances, 2 or more, for each of {', '.join(self.values)}; got {self.left_out}"
            )
        object.__setattr__(self, "values", {metric: _kept(value, "values") for metric, value in self.values.items()})
        left_out = {metric: [_kept(one, "left_out") for one in self.left_out[metric]] for metric in self.values}
        object.__setattr__(self, "left_out", left_out)
        object.__setattr__(self, "seconds", round(check_number(float(self.seconds), "seconds", low=0), 3))

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.values)

    def estimate(self, metric: str, eps: float | None = None) -> Estimate:
        """The distance with its jackknife interval, which knows nothing of the bias that few images bring (chapter 13)."""
        value = self.values[check_choice(metric, "metric", self.metrics)]
        return Estimate(value, *jackknife_interval(value, self.left_out[metric]), self.n)

    def minus(self, other: SetDistances, metric: str) -> Estimate:
        """How much larger ``metric`` is here than in ``other``, group by group: both leave out the same real images."""
        for distances in (self, other):
            check_choice(metric, "metric", distances.metrics)
        if self.n != other.n or len(self.left_out[metric]) != len(other.left_out[metric]):
            raise ValueError(f"other must be about {self.n} images in as many groups, got {other.n}")
        left_out = [mine - theirs for mine, theirs in zip(self.left_out[metric], other.left_out[metric], strict=True)]
        value = self.values[metric] - other.values[metric]
        return Estimate(value, *jackknife_interval(value, left_out), self.n)

    def table(self) -> pd.DataFrame:
        """Tidy rows, one a metric, in the columns of :meth:`Outcomes.table`; eps is NaN."""
        return _table(self)

    def to_dict(self) -> dict:
        """Plain numbers for a JSON file."""
        numbers = {"n": self.n, "values": self.values, "left_out": self.left_out, "seconds": self.seconds}
        return {"kind": "distances", **numbers}

    @classmethod
    def from_dict(cls, plain: Mapping) -> SetDistances:
        """The distances that :meth:`to_dict` wrote."""
        return cls(**_parts(plain, {"n", "values", "left_out", "seconds"}))
