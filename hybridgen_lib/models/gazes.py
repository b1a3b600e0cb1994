"""CiiV: a classifier that looks at noisy black-and-white glances of an image, each sharp where the gaze rests.

Tang, Tao and Zhang (2021) read the sampling of a retina as an instrument, as `causalib` reads noise on features. Settings are
those of their released code (github.com/KaihuaTang/Adversarial-Robustness-by-Causal-Intervention.pytorch).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hybridgen_lib.classifier import StochasticClassifier, check_image_shape, check_number
from hybridgen_lib.models.backbones import headless
from hybridgen_lib.models.smoothing import COPIES_PER_GRADIENT

__all__ = ["Gazes"]

NOISE, SOFTNESS, KEPT, COPIES = 0.9, 1e-5, 0.9, 3
"""Half-width of the noise before the threshold, and how soft its step is; what a mask must exceed to keep a pixel; how many
copies are behind a glance."""
PLACES = (16 / 32, 5 / 32, 27 / 32)
"""Where gazes rest, along each side: nine places in all."""


class Gazes(StochasticClassifier):
    """``network`` behind nine gazes: images (B, channels, H, W) -> the log of its mean probabilities (B, C).

    A glance is the mean of three copies of the image, each turned black and white by a random threshold and masked by a
    random mask, dense at the gaze and thinner away from it. The logits of a glance are divided by the share of pixels that
    its masks keep. The score is the log of the mean probability over all glances.

    The threshold is a step in all but name: ``s / (s + 1e-5)`` of the light s above it has a gradient, of which next to all
    sits in the few pixels that lie on the edge. :meth:`surrogate` is the same network with the threshold's mean, for BPDA.

    Args:
        network: one whose last linear layer gives C logits; it is copied.
        image_shape: (channels, H, W).
        samples: how many of the nine gazes; fewer are chosen anew for every pass, the same for all of its images.
    """

    score_kind = "log_conditional"

    def __init__(self, network: nn.Module, image_shape: tuple[int, int, int], classes: int, samples: int = 9, seed: int = 0):
        super().__init__(seed)
        self.samples = check_number(samples, "samples", low=1, high=len(PLACES) ** 2, integer=True)
        check_number(classes, "classes", low=2, integer=True)
        check_image_shape(image_shape)
        self.trunk, features = headless(network)
        self.head = nn.Linear(features, int(classes))
        self.smooth = False
        self.register_buffer("sharpness", _sharpness(*image_shape[1:]), persistent=False)

    @property
    def examples_per_pass(self) -> int:
        """How many images one gradient may hold, for all of their glances to have room."""
        return max(1, COPIES_PER_GRADIENT // self.samples)

    def surrogate(self) -> Gazes:
        """The same function with every threshold replaced by its mean over the noise, which has a gradient."""
        return self.twin(smooth=True)

    def with_samples(self, samples: int) -> Gazes:
        """The same network with so many gazes."""
        return self.twin(samples=check_number(samples, "samples", low=1, high=len(PLACES) ** 2, integer=True))

    def glances(self, x: Tensor, gazes: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """What is seen from each of ``gazes`` (G,): images (G, B, channels, H, W), and the share of pixels that its masks keep
        (G, B), or (G, 1) under frozen noise."""
        channels, height, width = x.shape[1:]
        numbers = COPIES * (channels + 1) * height * width
        uniform = torch.special.ndtr(self.noise(len(gazes), len(x), numbers, x, generator))
        uniform = uniform.unflatten(2, (COPIES, channels + 1, height, width))
        light, chance = (2 * x - 1)[None, :, None], uniform[:, :, :, :channels]
        if self.smooth:
            copies = ((light + NOISE) / (2 * NOISE)).clamp(0, 1)
        else:
            bright = (light + NOISE * (2 * chance - 1)).relu()
            copies = bright / (bright + SOFTNESS)
        masks = (self.sharpness[gazes][:, None, None, None] + uniform[:, :, :, channels:] > KEPT).to(x.dtype)
        return (copies * masks).mean(2), masks.mean((2, 3, 4, 5))

    def features(self, x: Tensor, gazes: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The network's features of each glance (G, B, F), and the share of pixels kept, as :meth:`glances` gives it."""
        seen, kept = self.glances(x, gazes, generator)
        return self.trunk(seen.flatten(0, 1)).unflatten(0, (len(gazes), len(x))), kept

    def classify(self, features: Tensor, kept: Tensor) -> Tensor:
        """Log probabilities (G, B, C) of each glance."""
        return (self.head(features) / kept[..., None]).log_softmax(-1)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        gazes = self.chosen(x, generator)
        return self.classify(*self.features(x, gazes, generator)).logsumexp(0) - math.log(self.samples)

    def chosen(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Which gazes a pass takes (``samples``,): every one in order, or fewer at random and none twice."""
        if self.samples == len(self.sharpness):
            return torch.arange(self.samples, device=like.device)
        return self.noise(1, 1, len(self.sharpness), like, generator).flatten().argsort()[: self.samples]


def _sharpness(height: int, width: int) -> Tensor:
    """For each gaze (9, H, W): 1 where it rests, less with the distance d of a pixel from it, as (max d - d + 10)^0.3."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = [(a * height, b * width) for a in PLACES for b in PLACES]
    distance = torch.stack([((rows - a) ** 2 + (columns - b) ** 2).sqrt() for a, b in places])
    near = (distance.amax((1, 2), keepdim=True) - distance + 10) ** 0.3
    return near / near.amax((1, 2), keepdim=True)
