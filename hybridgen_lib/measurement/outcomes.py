"""The outcome of an attack: for each image, how often the model was right, clean and after the attack at each radius.

Everything a table or a verdict needs follows from these outcomes: n counts images, never draws; a stochastic model's
images count with the fraction of fresh noise draws in which they were classified right; a deterministic model's with 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from hybridgen_lib.classifier import check_choice, check_number, wilson

__all__ = ["METRICS", "Estimate", "Outcomes", "paired_difference", "shared_rows"]

METRICS = ("clean_accuracy", "accuracy", "success_rate", "accuracy_drop")
"""Accuracy before and after the attack, over all images; the attack's success rate, over correctly classified images; how far
accuracy falls from before to after."""


class Estimate(NamedTuple):
    """A value with its 95 % interval and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}], n = {self.n}"


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What happened to n images, clean and at each of E radii.

    Args:
        index: positions (n,) of the images in the test set, each once.
        clean: (n,) fraction of draws in which the clean image was classified right.
        epsilons: the E radii, in pixel units of [0, 1], each once; none if only clean accuracy was measured.
        right: (E, n) the same fraction after the attack at each radius.
        draws: noise draws per image behind the fractions; 1 for a deterministic model.
        seconds: wall-clock seconds the attack took at each radius.

    Raises:
        ValueError: if the sizes do not fit, an image or radius comes twice, or a fraction is no multiple of 1 / draws.
    """

    index: list[int]
    clean: Tensor
    epsilons: list[float] = field(default_factory=list)
    right: Tensor = field(default_factory=lambda: torch.empty(0))
    draws: int = 1
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self):
        index = [i if type(i) is int and i >= 0 else check_number(i, "index", low=0, integer=True) for i in self.index]
        epsilons = [check_number(float(e), "epsilons", low=0) for e in self.epsilons]
        check_number(self.draws, "draws", low=1, integer=True)
        n, radii = len(index), len(epsilons)
        if n == 0 or len(set(index)) != n:
            raise ValueError(f"index must hold at least one position, each only once; got {n} positions")
        if len(set(epsilons)) != radii or len(self.seconds) not in (0, radii):
            raise ValueError(f"epsilons must be {radii} different radii with as many seconds, got {epsilons}, {self.seconds}")
        clean = torch.as_tensor(self.clean).detach().cpu().double()
        right = torch.as_tensor(self.right).detach().cpu().double()
        right = right.reshape(0, n) if right.numel() == 0 and radii == 0 else right
        for name, values, shape in (("clean", clean, (n,)), ("right", right, (radii, n))):
            if tuple(values.shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(values.shape)}")
            counts = values * self.draws
            if not ((values >= 0) & (values <= 1) & ((counts - counts.round()).abs() < 1e-3)).all():
                raise ValueError(f"{name} must hold fractions of {self.draws} draws, in [0, 1]")
        seconds = [check_number(float(s), "seconds", low=0) for s in self.seconds] or [0.0] * radii
        cleaned = {"index": index, "clean": clean, "epsilons": epsilons, "right": right, "seconds": seconds}
        for name, value in cleaned.items():
            object.__setattr__(self, name, value)

    @property
    def metrics(self) -> tuple[str, ...]:
        return METRICS if self.epsilons else ("clean_accuracy",)

    def at(self, eps: float) -> Tensor:
        """The fractions (n,) at radius ``eps``; ``ValueError`` if it was not measured."""
        check_number(eps, "eps", low=0)
        for i, measured in enumerate(self.epsilons):
            if math.isclose(measured, eps, rel_tol=1e-6, abs_tol=1e-9):
                return self.right[i]
        raise ValueError(f"eps must be one of the measured {self.epsilons}, got {eps}")

    def estimate(self, metric: str, eps: float | None = None) -> Estimate:
        """One metric, at one radius, with its Wilson interval over images (a drop: that of :func:`paired_difference`).

        Fractions of draws vary less than outcomes of 0 and 1 with the same mean, so for a stochastic model it errs on the
        wide side; a bootstrap is too narrow next to 0 and 1, where broken models stand.

        The success rate counts images that were right clean in at least half of the draws; with none it is NaN in (0, 1).
        """
        check_choice(metric, "metric", METRICS)
        if metric == "clean_accuracy":
            return _mean(self.clean)
        right = self.at(eps)
        if metric == "accuracy_drop":
            return _paired_mean(self.clean - right, 1.0)
        return _mean(right) if metric == "accuracy" else _mean(1 - right[self.clean >= 0.5])

    def table(self) -> pd.DataFrame:
        """Tidy rows: clean accuracy (eps NaN), then accuracy and success rate at each radius.

        Columns: metric, eps, value, low, high, n, seconds.
        """
        rows = [("clean_accuracy", math.nan, *self.estimate("clean_accuracy"), math.nan)]
        for eps, seconds in zip(self.epsilons, self.seconds, strict=True):
            rows += [(metric, eps, *self.estimate(metric, eps), seconds) for metric in ("accuracy", "success_rate")]
        return pd.DataFrame(rows, columns=["metric", "eps", "value", "low", "high", "n", "seconds"])

    def to_dict(self) -> dict:
        """Plain numbers for a JSON file: fractions as counts of right draws."""

        def counts(values: Tensor) -> list:
            return (values * self.draws).round().long().tolist()

        return {
            "draws": self.draws,
            "index": self.index,
            "clean": counts(self.clean),
            "epsilons": self.epsilons,
            "right": counts(self.right),
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, plain: Mapping) -> Outcomes:
        """The outcomes that :meth:`to_dict` wrote; ``ValueError`` if a part is missing or does not fit."""
        missing = {"draws", "index", "clean", "epsilons", "right", "seconds"} - set(plain)
        if missing:
            raise ValueError(f"outcomes lack {', '.join(sorted(missing))}")
        draws = check_number(plain["draws"], "draws", low=1, integer=True)
        clean, right = (torch.tensor(plain[part], dtype=torch.float64) / draws for part in ("clean", "right"))
        return cls(plain["index"], clean, plain["epsilons"], right, draws, plain["seconds"])


def _mean(values: Tensor) -> Estimate:
    n = len(values)
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    total = values.sum().item()
    return Estimate(total / n, *wilson(total, n), n)


def paired_difference(
    a: Outcomes,
    b: Outcomes,
    metric: str = "accuracy",
    eps: float | None = None,
    eps_b: float | None = None,
    since: float | None = None,
) -> Estimate:
    """How much larger ``metric`` is for ``a`` than for ``b``, on the images that both have.

    ``a`` is taken at radius ``eps``, ``b`` at ``eps_b`` (the same unless said); for a success rate an image counts if both
    got it right clean. With ``since`` the *rises* from that radius to ``eps`` are compared. ``paired_difference(a, a,
    eps=0.3, eps_b=0.1)`` is one model's own rise.

    The interval is that of Agresti and Min (2005) for matched proportions: half an image added to each cell of the 2 x 2
    table, then Wald. In terms of per-image differences it also covers fractions, and it keeps a width where all images agree.
    """
    check_choice(metric, "metric", METRICS)
    rows, other = shared_rows(a.index, b.index)
    if metric == "clean_accuracy":
        d = a.clean[rows] - b.clean[other]
    else:
        sign = 1 if metric == "accuracy" else -1
        d = sign * (a.at(eps)[rows] - b.at(eps if eps_b is None else eps_b)[other])
        if since is not None:
            d = d - sign * (a.at(since)[rows] - b.at(since)[other])
        elif metric == "accuracy_drop":
            d = d + a.clean[rows] - b.clean[other]
        if metric == "success_rate":
            d = d[(a.clean[rows] >= 0.5) & (b.clean[other] >= 0.5)]
    largest = 2.0 if since is not None or metric == "accuracy_drop" else 1.0
    return _paired_mean(d / largest, largest)


def shared_rows(index: list[int], others: list[int]) -> tuple[list[int], list[int]]:
    """Where in both lists the images stand that they share, in the order of the first; ``ValueError`` if there are none."""
    place = {i: k for k, i in enumerate(others)}
    rows = [k for k, i in enumerate(index) if i in place]
    if not rows:
        raise ValueError("other must share images, got none in common")
    return rows, [place[index[k]] for k in rows]


def _paired_mean(d: Tensor, scale: float) -> Estimate:
    """Mean of differences (n,) in [-1, 1] with the Agresti-Min interval, times ``scale``."""
    n = len(d)
    if n == 0:
        return Estimate(math.nan, -scale, scale, 0)
    centre = d.sum().item() / (n + 2)
    spread = math.sqrt(max(0.0, ((d.square().sum().item() + 1) / (n + 2) - centre**2) / (n + 2)))
    low, high = centre - 1.959964 * spread, centre + 1.959964 * spread
    return Estimate(scale * d.mean().item(), scale * max(-1.0, low), scale * min(1.0, high), n)
