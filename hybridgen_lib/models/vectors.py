"""Normals around a linear layer, whose means nobody has to compute: the density of features.

A decoder ends in W h + b, one number for each of F features, and most of its work is this last layer. A density asks for no
feature, only for the distance of all of them,

    |v - b - W h|^2 = |v - b|^2 - 2 h . W'(v - b) + h . W'W h,

in which v meets W once for an image, not once for every sample and class, and W'W is H x H. Where there are more features
than hidden units, that is less work; the number is the same up to rounding, some 1e-7 of |v - b|^2.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from hybridgen_lib.classifier import check_number
from hybridgen_lib.models.pixels import PixelNormal

__all__ = ["LinearNormal", "NormalFeatures"]

SAMPLE = 1000
"""Entries of a weight by which a change is noticed."""


class NormalFeatures(nn.Module):
    """Independent Normals of one ``sigma`` around the outputs of a linear layer; it has no weights of its own.

    While the layer is trained its outputs are computed as usual: W'W would have to be made anew at every step.
    """

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = check_number(sigma, "sigma", low=1e-6)
        self._seen: tuple[Tensor, int, Tensor, Tensor] | None = None  # a weight, its version, a sample of it, W'W

    def forward(self, h: Tensor, weight: Tensor, bias: Tensor) -> Distribution:
        """Normals over vectors (..., F) from hidden units ``h`` (..., H), ``weight`` (F, H) and ``bias`` (F,)."""
        features, hidden = weight.shape
        in_training = weight.requires_grad and torch.is_grad_enabled()
        if in_training or features <= hidden:
            return PixelNormal(F.linear(h, weight, bias), self.sigma, axes=1)
        return LinearNormal(h, weight, bias, self._gram(weight), self.sigma)

    def _gram(self, weight: Tensor) -> Tensor:
        """W'W, made once for a weight. Its storage is kept, so its address is nobody else's; a change in place counts up, and
        one that does not, through ``.data`` or by a fused optimiser, shows in a sample of the entries."""
        if weight.is_inference() or torch.is_inference_mode_enabled():  # has no version, or what is kept could not be used
            return weight.T @ weight
        sample = weight.detach().flatten()[_places(weight.numel()).to(weight.device)]
        if self._seen is not None:
            known, version, before, gram = self._seen
            same = (known.data_ptr(), known.dtype, version) == (weight.data_ptr(), weight.dtype, weight._version)
            if same and torch.equal(before, sample):
                return gram
        self._seen = (weight.detach(), weight._version, sample.clone(), weight.T @ weight)
        return self._seen[3]


@functools.cache
def _places(entries: int) -> Tensor:
    """Where a weight is looked at: at random, as in steps one might meet the same unit again and again, and it may be dead."""
    return torch.randint(entries, (SAMPLE,), generator=torch.Generator().manual_seed(entries))


class LinearNormal(Distribution):
    """Independent Normals of one ``sigma`` around W h + b, vectors (..., F); ``gram`` is W'W. log_prob is in nats."""

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, h: Tensor, weight: Tensor, bias: Tensor, gram: Tensor, sigma: float):
        self.h, self.weight, self.bias, self.gram, self.sigma = h, weight, bias, gram, sigma
        super().__init__(h.shape[:-1], bias.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return F.linear(self.h, self.weight, self.bias)

    def log_prob(self, value: Tensor) -> Tensor:
        ahead = value - self.bias
        squared = ahead.square().sum(-1) + (self.h * (self.h @ self.gram - 2 * (ahead @ self.weight))).sum(-1)
        return -squared / (2 * self.sigma**2) - len(self.bias) * math.log(self.sigma * math.sqrt(2 * math.pi))
