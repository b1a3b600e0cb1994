"""Classifiers that see black and white only: a threshold in front of a network, with a gradient nonetheless.

zoo, sections 2.6 and A.3: images are binarised "with a threshold function", and its gradient, zero wherever there is one, is
replaced by the identity's (the straight-through estimator; Bengio et al. 2013). Chapter 03 looks at what it does to attacks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridgen_lib.classifier import ask, check_model
from hybridgen_lib.models.latent import LatentVariableClassifier

__all__ = ["BinaryInput", "BinaryLatentVariableClassifier", "binarise"]

THRESHOLD = 0.5
"""The document names no threshold; 0.5 is that of its released code."""


def binarise(x: Tensor) -> Tensor:
    """1 where x >= 0.5, else 0, of any shape; going backwards the identity."""
    return (x >= THRESHOLD).to(x.dtype) + (x - x.detach())  # the bracket is exactly 0


class BinaryInput(nn.Module):
    """``network`` behind the threshold: images (B, channels, H, W) in [0, 1] -> the network's scores (B, C)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = check_model(network, "network")
        self.score_kind = getattr(network, "score_kind", "logit")

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return ask(self.network, binarise(x), generator)


class BinaryLatentVariableClassifier(LatentVariableClassifier):
    """A latent-variable classifier whose image is binarised wherever it enters: in the guide and in the likelihood."""

    def observe(self, x: Tensor) -> dict[str, Tensor]:
        return super().observe(binarise(x))
