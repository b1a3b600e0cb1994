"""How long images last: the size of a perturbation, or the number of steps, at which each one's decision falls.

Whoever has not fallen when the search ends is *censored*: its value is known to be larger than the limit, and no more. An
average that leaves such images out, or takes the limit for their value, makes strong models look weak. Here they stay
among those who survive: the curve (Kaplan and Meier 1958) falls only where somebody is seen to fall, a median is "not
reached" where more than half survive, and a mean is restricted to what was watched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from hybridgen_lib.classifier import check_choice, check_number, wilson
from hybridgen_lib.measurement.outcomes import Estimate, _paired_mean, shared_rows
from hybridgen_lib.measurement.values import _kept, _parts, _table

__all__ = ["LEVEL", "Comparison", "Survival", "earliest", "kaplan_meier", "outlasts"]

LEVEL = 0.4
"""The accuracy down to which `hybrid` counts iterations (section 4.3)."""
_DRAWS, _ROUNDING = 2000, 1e-9


@dataclass(frozen=True, eq=False)
class Survival:
    """For each of n images the value at which its decision falls, or up to which it is known to stand.

    Args:
        index: positions (n,) of the images in the test set, each once.
        quantity: what is measured, ``"proximity"`` or ``"iterations"`` in this book.
        values: (n,) numbers in [0, limit]. An image that is wrong from the start is there with 0.
        reached: (n,) bool, whether the decision fell at that value; False where it only stood up to there (censored).
        limit: how far the search went.
        seconds: wall-clock seconds that all of it took.

    The metrics, with ``proximity`` for the quantity:

    - ``proximity``: the mean restricted to the limit, the area under the curve; with one limit for all, the mean of what each
      image was seen to stand.
    - ``proximity_median``: where the curve falls to a half; NaN if it never does, and so are ends of an interval.
    - ``proximity_reached``: the share of images that fell.
    - ``proximity_to_0.4``: where accuracy falls to 0.4, as `hybrid` defines its iterations; the limit, as there, if it never
      does.

    The first three are over the images that were right at the start, so that clean accuracy is not counted again; the last is
    over all, since accuracy is. Intervals are bootstraps over images; that of a share is Wilson's.

    Raises:
        ValueError: if the sizes do not fit, an image comes twice, a number is out of range, or an image is censored at 0.
    """

    index: list[int]
    quantity: str
    values: Tensor | list[float]
    reached: Tensor | list[bool]
    limit: float
    seconds: float = 0.0

    def __post_init__(self):
        index = [check_number(i, "index", low=0, integer=True) for i in self.index]
        if not index or len(set(index)) != len(index):
            raise ValueError(f"index must hold at least one position, each once; got {len(index)}")
        if not isinstance(self.quantity, str) or not self.quantity.isidentifier():
            raise ValueError(f"quantity must be a name, got {self.quantity!r}")
        limit = _kept(self.limit, "limit")
        if limit <= 0:
            raise ValueError(f"limit must be > 0, got {self.limit!r}")
        if len(self.values) != len(index) or len(self.reached) != len(index):
            raise ValueError(
                f"values must hold {len(index)} numbers, and reached as many, got {len(self.values)} and {len(self.reached)}"
            )
        values = torch.tensor([_kept(value, "values") for value in self.values], dtype=torch.float64)
        fell = torch.tensor([bool(one) for one in self.reached])
        if (values < 0).any() or (values > limit).any():
            raise ValueError(f"values must lie in [0, {limit:g}], got {values.min():g} to {values.max():g}")
        if (values[~fell] == 0).any():
            raise ValueError("values must be > 0 where reached is False: an image that is censored has stood something")
        cleaned = {"index": index, "values": values, "reached": fell, "limit": limit}
        cleaned["seconds"] = round(check_number(float(self.seconds), "seconds", low=0), 3)
        for name, value in cleaned.items():
            object.__setattr__(self, name, value)

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.quantity, f"{self.quantity}_median", f"{self.quantity}_reached", f"{self.quantity}_to_{LEVEL}"

    @property
    def right(self) -> Tensor:
        """Which images (n,) were right at the start."""
        return self.values > 0

    def curve(self, of: str = "right") -> pd.DataFrame:
        """The share that still stands, at 0 and wherever it falls: columns value, surviving, low, high (Wilson, pointwise).

        ``of`` is ``"right"``, the images that were right at the start, or ``"all"``: then it is accuracy under attack.
        An image that left earlier without having fallen is not counted in the interval from there on.
        """
        rows = self.right if check_choice(of, "of", ("right", "all")) == "right" else torch.ones_like(self.right)
        values, fell = self.values[rows], self.reached[rows]
        times, surviving = kaplan_meier(values, fell)
        points = [(0.0, 1.0)] if len(times) == 0 or times[0] > 0 else []
        points += list(zip(times.tolist(), surviving.tolist(), strict=True))
        table = []
        for value, share in points:
            n = len(values) - int((~fell & (values < value)).sum())
            table.append((value, share, *wilson(share * n, n)))
        return pd.DataFrame(table, columns=["value", "surviving", "low", "high"])

    def estimate(self, metric: str, eps: float | None = None) -> Estimate:
        """One metric with its interval. There is no radius: ``eps`` only makes all measurements alike."""
        check_choice(metric, "metric", self.metrics)
        rows = self._rows(metric)
        n = int(rows.sum())
        if n == 0:
            return Estimate(math.nan, math.nan, math.nan, 0)
        if metric.endswith("_reached"):
            fell = int(self.reached[rows].sum())
            return Estimate(fell / n, *wilson(fell, n), n)
        never = torch.inf if metric.endswith("_median") else self.limit
        value = self._of(metric, rows, torch.ones(1, n, dtype=torch.float64), never).item()
        drawn = self._of(metric, rows, _resamples(n), never)
        return Estimate(_finite(value), *_percentiles(drawn, drawn), n)

    def minus(self, other: Survival, metric: str) -> Estimate:
        """How much larger ``metric`` is here than in ``other``, on the images that both have (and had right, as above).

        The interval is a bootstrap over images, both models meeting the same ones; that of a share as in
        :func:`paired_difference`. NaN stands for a median, or an end, that is not known, and for a mean where no image fell.
        """
        check_choice(metric, "metric", self.metrics)
        mine, theirs = _shared(self, other)
        rows = mine._rows(metric) & theirs._rows(metric)
        n = int(rows.sum())
        if n == 0:
            return Estimate(math.nan, math.nan, math.nan, 0)
        if metric.endswith("_reached"):
            return _paired_mean(mine.reached[rows].double() - theirs.reached[rows].double(), 1.0)
        if metric == self.quantity and not (mine.reached[rows] | theirs.reached[rows]).any():
            return Estimate(math.nan, math.nan, math.nan, n)  # all that is known is that both lie beyond the limit
        value, drawn = (mine._ahead(theirs, metric, rows, w) for w in (torch.ones(1, n).double(), _resamples(n)))
        ends = (torch.where(drawn.isnan(), end, drawn) for end in (-torch.inf, torch.inf))
        return Estimate(_finite(value.item()), *_percentiles(*ends), n)

    def _ahead(self, other: Survival, metric: str, rows: Tensor, weights: Tensor) -> Tensor:
        """The difference (R,) for each of R sets of weights; NaN where neither is reached, as it may then be anything."""
        mine, theirs = (one._of(metric, rows, weights, torch.inf) for one in (self, other))
        neither = mine.isinf() & theirs.isinf()
        if metric.endswith(f"_to_{LEVEL}"):  # of one that is not reached, at least the limit is known
            mine, theirs = mine.clamp_max(self.limit), theirs.clamp_max(self.limit)
        return torch.where(neither, torch.nan, mine - theirs)

    def _rows(self, metric: str) -> Tensor:
        return torch.ones_like(self.right) if metric.endswith(f"_to_{LEVEL}") else self.right

    def _of(self, metric: str, rows: Tensor, weights: Tensor, never: float) -> Tensor:
        """The metric (R,) of the images ``rows`` with each of R sets of weights (R, n); ``never`` where it is not reached."""
        times, surviving = _product_limit(self.values[rows], self.reached[rows], weights)
        if metric == self.quantity:
            before = torch.cat([torch.ones_like(surviving[:, :1]), surviving[:, :-1]], 1)
            steps = times.diff(prepend=times.new_zeros(1))
            return before @ steps + surviving[:, -1] * (self.limit - times[-1])
        return _first_at(times, surviving, 0.5 if metric.endswith("_median") else LEVEL, never)

    def table(self) -> pd.DataFrame:
        """Tidy rows, one a metric, in the columns of :meth:`Outcomes.table`; eps is NaN."""
        return _table(self)

    def to_dict(self) -> dict:
        """Plain numbers for a JSON file."""
        numbers = {"values": self.values.tolist(), "reached": self.reached.int().tolist()}
        described = {"kind": "survival", "quantity": self.quantity, "limit": self.limit, "seconds": self.seconds}
        return described | {"index": self.index} | numbers

    @classmethod
    def from_dict(cls, plain: Mapping) -> Survival:
        """The measurement that :meth:`to_dict` wrote."""
        return cls(**_parts(plain, {"index", "quantity", "values", "reached", "limit", "seconds"}))


# ---------------------------------------------------------------- two measurements, or more


class Comparison(NamedTuple):
    """Which of two models stands longer, image by image: how often the first, how often the second, how often nobody knows.

    ``share`` is that of the first among the images that tell, with its Wilson interval; ``p`` the two-sided sign test's.
    """

    first: int
    second: int
    tied: int
    share: Estimate
    p: float


def outlasts(a: Survival, b: Survival) -> Comparison:
    """The sign test of whether ``a`` stands longer than ``b``, on the images that both have and had right at the start.

    An image that only one model was seen to lose tells, if the other stood as long. Where both fell at the same value, both
    were censored, or one left before the other fell, nothing is known: such images are counted and decide nothing.
    """
    from scipy import stats  # half a second, which only those who ask should wait

    a, b = _shared(a, b)
    rows = a.right & b.right
    longer, shorter = (int((_longer(*pair) & rows).sum()) for pair in ((a, b), (b, a)))
    told = longer + shorter
    if told == 0:
        return Comparison(0, 0, int(rows.sum()), Estimate(math.nan, 0.0, 1.0, 0), 1.0)
    share = Estimate(longer / told, *wilson(longer, told), told)
    return Comparison(longer, shorter, int(rows.sum()) - told, share, float(stats.binomtest(longer, told).pvalue))


def earliest(*measured: Survival) -> Survival:
    """Of several searches on the same images the earliest fall of each: what the best attack among them shows.

    Where none has made an image fall, it stood the longest of what they tried. Seconds are added up.
    """
    if not measured or len({(one.quantity, one.limit, tuple(one.index)) for one in measured}) != 1:
        raise ValueError(f"measured must hold searches of one quantity, limit and images, at least one; got {len(measured)}")
    values = torch.stack([one.values for one in measured])
    fell = torch.stack([one.reached for one in measured])
    first, longest = torch.where(fell, values, torch.inf).amin(0), values.amax(0)
    reached, one = fell.any(0), measured[0]
    seconds = sum(each.seconds for each in measured)
    return Survival(one.index, one.quantity, torch.where(reached, first, longest), reached, one.limit, seconds)


def _longer(a: Survival, b: Survival) -> Tensor:
    """Of which images (n,) it is known that ``a`` stands longer than ``b``."""
    return b.reached & ((a.values > b.values) | (~a.reached & (a.values == b.values)))


def _shared(a: Survival, b: Survival) -> tuple[Survival, Survival]:
    """Both on the images that both have, in the order of ``a``."""
    if not isinstance(b, Survival) or (a.quantity, a.limit) != (b.quantity, b.limit):
        other = (b.quantity, b.limit) if isinstance(b, Survival) else type(b).__name__
        raise ValueError(f"other must be about {a.quantity} up to {a.limit:g}, got {other}")
    rows, others = shared_rows(a.index, b.index)
    index = [a.index[k] for k in rows]
    parts = ((a, rows), (b, others))
    return tuple(Survival(index, one.quantity, one.values[at], one.reached[at], one.limit) for one, at in parts)


# ---------------------------------------------------------------- the product-limit estimate


def kaplan_meier(values: Tensor, reached: Tensor) -> tuple[Tensor, Tensor]:
    """The survival curve of ``values`` (n,), of which only those with ``reached`` (n,) were seen to fall.

    Returns the times (T,) at which somebody falls, ascending, and the share (T,) that stands after each:
    S(t) = product over falls at t_i <= t of (1 - d_i / n_i), d_i falling of n_i still watched (Kaplan and Meier 1958, eq. 1b).
    Who is censored at t was watched at t. With one limit for all it is 1 minus the empirical distribution.
    """
    values, reached = torch.as_tensor(values, dtype=torch.float64), torch.as_tensor(reached, dtype=torch.bool)
    if values.ndim != 1 or values.shape != reached.shape or not values.isfinite().all():
        raise ValueError(f"values must be finite numbers (n,), and reached (n,) bool, got {tuple(values.shape)}")
    times, surviving = _product_limit(values, reached, torch.ones(1, len(values), dtype=torch.float64))
    fallen = values[reached].unique()
    last = torch.searchsorted(times, fallen, right=True) - 1  # after the last of those who share a time
    return fallen, surviving[0, last]


def _product_limit(values: Tensor, reached: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted values (n,), and for each of R sets of weights (R, n) the share that stands after each: (R, n)."""
    order = (~reached).int().argsort(stable=True)  # at equal times those who fall come first
    order = order[values[order].argsort(stable=True)]
    weights, fell = weights[:, order], reached[order].double()
    at_risk = weights.flip(1).cumsum(1).flip(1)
    return values[order], (1 - weights * fell / at_risk.clamp_min(1e-300)).cumprod(1)


def _first_at(times: Tensor, surviving: Tensor, level: float, otherwise: float) -> Tensor:
    """The first of ``times`` (n,) at which the curves (R, n) are down to ``level``."""
    below = surviving <= level + _ROUNDING
    return torch.where(below.any(1), times[below.int().argmax(1)], otherwise)


def _resamples(n: int) -> Tensor:
    """How often each of n images is drawn in each of the bootstrap's samples: (R, n)."""
    picks = torch.randint(n, (_DRAWS, n), generator=torch.Generator().manual_seed(0))
    return torch.zeros(_DRAWS, n, dtype=torch.float64).scatter_add_(1, picks, torch.ones(_DRAWS, n, dtype=torch.float64))


def _percentiles(lowest: Tensor, highest: Tensor) -> tuple[float, float]:
    """2.5 % and 97.5 % of draws (R,), whose unknown values are taken at their lowest and at their highest."""
    cut = int(0.025 * (len(lowest) - 1))
    low, high = lowest.sort().values[cut].item(), highest.sort().values[-1 - cut].item()
    return _finite(low), _finite(high)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan
