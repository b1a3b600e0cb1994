"""From what a decoder paints to a density over images: Normal pixels, binary pixels, binary pixels in a random field.

Each module turns a decoder's output ``logits`` (..., channels, H, W) into a ``torch.distributions.Distribution`` over images
of that shape, whose ``mean`` is the picture and whose ``log_prob`` is a sum over its pixels, in nats.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from hybridgen_lib.classifier import check_number
from hybridgen_lib.models.pixel_graph import PixelGraph

__all__ = ["DEEP_BAYES_SIGMA", "BinaryPixels", "FieldPixels", "NormalPixels", "PixelBernoulli", "PixelNormal"]

DEEP_BAYES_SIGMA = math.sqrt(0.5)
"""Deep Bayes scores a reconstruction by -||x - mu||^2. That is the log density of a Normal with sigma = 1/sqrt 2, up to a
constant; this book keeps the constant, so that scores are densities."""


class NormalPixels(nn.Module):
    """Pixels are independent Normals of one ``sigma`` around the picture sigmoid(logits)."""

    def __init__(self, sigma: float = DEEP_BAYES_SIGMA):
        super().__init__()
        self.sigma = check_number(sigma, "sigma", low=1e-6)

    def forward(self, logits: Tensor) -> Distribution:
        return PixelNormal(torch.sigmoid(logits), self.sigma)


class BinaryPixels(nn.Module):
    """Pixels are independent and 0 or 1, with log odds ``logits``."""

    def forward(self, logits: Tensor) -> Distribution:
        return PixelBernoulli(logits)


class FieldPixels(nn.Module):
    """Pixels are 0 or 1 and like to equal their neighbours: a conditional random field, in mean field.

    Each pixel has log odds ``logits`` of its own and gains ``coupling`` nats (learned, from 1) for each of up to four
    neighbours of equal value. ``sweeps`` sweeps of mean field give independent pixels that stand in for the field; the density
    is theirs, so it is normalised.

    Source: zoo, section 2.6, "a CRF layer after the decoder"; the graph, the sweeps and the learned coupling are ours. Its
    released code has a learned Gaussian filter of 11 x 11 pixels, which leaves out a pixel's own row and column and so its
    four neighbours, and five parallel rounds, which may oscillate.
    """

    def __init__(self, sweeps: int = 3):
        super().__init__()
        self.sweeps = check_number(sweeps, "sweeps", low=0, integer=True)
        self.coupling = nn.Parameter(torch.tensor(1.0))

    def forward(self, logits: Tensor) -> Distribution:
        return PixelBernoulli(PixelGraph.ising(logits, self.coupling).mean_field(self.sweeps))


class PixelNormal(Distribution):
    """Independent Normals of one sigma around an image ``mean`` (..., channels, H, W); log_prob sums over the pixels.

    With ``axes=1`` it is a vector (..., D) in place of an image. ``Independent(Normal(mean, sigma), axes)`` is the same
    density, but builds three more tensors of the size of all pixels.
    """

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, mean: Tensor, sigma: float, axes: int = 3):
        self.mean_image, self.sigma = mean, sigma
        super().__init__(mean.shape[:-axes], mean.shape[-axes:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.mean_image

    def log_prob(self, value: Tensor) -> Tensor:
        pixels = math.prod(self.event_shape)
        squared = (value - self.mean_image).square().sum(tuple(range(-len(self.event_shape), 0)))
        return -squared / (2 * self.sigma**2) - pixels * math.log(self.sigma * math.sqrt(2 * math.pi))


class PixelBernoulli(Distribution):
    """Independent pixels 0 or 1 with log odds ``logits`` (..., channels, H, W); log_prob sums over the pixels.

    A grey value counts as the chance that the pixel is lit: its log_prob is the expectation.
    """

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, logits: Tensor):
        self.logits = logits
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits - F.softplus(self.logits)).sum((-3, -2, -1))
