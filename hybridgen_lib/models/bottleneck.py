"""A classifier with a noisy code in the middle: the variational information bottleneck.

An encoder gives a Normal for each image, a code is drawn from it, and a linear layer reads the class off the code (Alemi et
al. 2017). `causalib` trains the same network by another loss: see ``training.information_bottleneck``. Chapter 10 builds both.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from hybridgen_lib.classifier import StochasticClassifier, check_number
from hybridgen_lib.models.backbones import headless

__all__ = ["Bottleneck"]


class Bottleneck(StochasticClassifier):
    """``network`` with a noisy code in front of its last layer: images (B, channels, H, W) -> scores (B, C).

    The score of a class is the logarithm of its probability, averaged over K draws of the code (``score_kind`` is
    "log_conditional").

    Args:
        network: one whose last linear layer gives C logits; it is copied, and that layer replaced.
        classes: C.
        code: dimensions of the code.
        draws: K. A draw costs one small linear layer, since the encoder runs once.
        seed: of the model's own noise.

    Source: Alemi et al. (2017, section 4), sizes and sigma = softplus(h - 5) from a port of it
    (github.com/1Konny/VIB-pytorch); `causalib` gives neither, nor a variance (equation 23).
    """

    score_kind = "log_conditional"

    def __init__(self, network: nn.Module, classes: int, *, code: int = 256, draws: int = 12, seed: int = 0):
        super().__init__(seed)
        self.code = check_number(code, "code", low=1, integer=True)
        self.draws = check_number(draws, "draws", low=1, integer=True)
        check_number(classes, "classes", low=2, integer=True)
        self.trunk, features = headless(network)
        self.mean, self.spread = nn.Linear(features, self.code), nn.Linear(features, self.code)
        self.decoder = nn.Linear(self.code, int(classes))

    def encode(self, x: Tensor) -> Normal:
        """q(z|x): a Normal for each image, means and standard deviations (B, code)."""
        h = self.trunk(x)
        return Normal(self.mean(h), F.softplus(self.spread(h) - 5), validate_args=False)

    def codes(self, q: Normal, generator: torch.Generator | None = None) -> Tensor:
        """K draws of the code (K, B, code): mean + sigma * noise, so that gradients pass."""
        return q.loc + self.code_noise(q, generator)

    def code_noise(self, q: Normal, generator: torch.Generator | None = None) -> Tensor:
        """What the K draws add to the mean of the code (K, B, code): sigma * noise."""
        return q.scale * self.noise(self.draws, len(q.loc), self.code, q.loc, generator)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        z = self.codes(self.encode(x), generator)
        return self.decoder(z).log_softmax(-1).logsumexp(0) - math.log(self.draws)
