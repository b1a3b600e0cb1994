"""What an attack may do, said once: the set of allowed perturbations, as a small object that knows its geometry.

``Linf(eps)`` and ``L2(eps)`` answer four questions: how long is a perturbation, which allowed one is nearest to it, which
unit step climbs fastest along a gradient, and what does a random one look like. No attack then asks which norm it has.
Chapter 05 builds both by hand. Perturbations and gradients are (B, ...) tensors; everything is per image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridgen_lib.classifier import check_number

__all__ = ["L2", "Ball", "Linf", "draw"]


@dataclass(frozen=True)
class Linf:
    """Perturbations that change no pixel by more than ``eps`` (>= 0, in units of the images' [0, 1])."""

    eps: float

    def __post_init__(self):
        check_number(self.eps, "eps", low=0)

    def norm(self, delta: Tensor) -> Tensor:
        """Largest absolute change of each image: (B, ...) -> (B,)."""
        return delta.flatten(1).abs().amax(1)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest allowed perturbation: every pixel clipped to [-eps, eps]."""
        return delta.clamp(-self.eps, self.eps)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of length 1 that gains most to first order: the sign of the gradient (0 where that is 0)."""
        return gradient.sign()

    def random(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """One perturbation per image of ``like``, uniform in the ball, drawn image by image."""
        return self.eps * (2 * draw(torch.rand, like, generator) - 1).reshape(like.shape)


@dataclass(frozen=True)
class L2:
    """Perturbations whose Euclidean length over all pixels of an image is at most ``eps`` (>= 0)."""

    eps: float

    def __post_init__(self):
        check_number(self.eps, "eps", low=0)

    def norm(self, delta: Tensor) -> Tensor:
        """Euclidean length of each image's perturbation: (B, ...) -> (B,)."""
        return delta.flatten(1).norm(dim=1)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest allowed perturbation: longer ones are scaled back to length eps, shorter ones stay."""
        length = _spread(self.norm(delta), delta)
        return torch.where(length > self.eps, delta * (self.eps / length), delta)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of length 1 that gains most to first order: g / |g|, and no step where g = 0.

        Each image is first divided by its largest entry, so a confident image's gradient of 1e-30, whose square is 0 in
        float32, still gives a full step. (A floor under the norm instead would make the attack weakest exactly there.)
        """
        largest = _spread(gradient.flatten(1).abs().amax(1), gradient)
        scaled = torch.where(largest > 0, gradient / largest, 0.0)
        return torch.where(largest > 0, scaled / _spread(self.norm(scaled), scaled), 0.0)

    def random(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """One perturbation per image of ``like``, uniform in the ball.

        A uniform point on the unit sphere in d + 2 dimensions, without its last two coordinates, is uniform in the unit
        ball of d dimensions (Harman and Lacko 2010): the radius is distributed as u^(1/d), from a single draw.
        """
        normals = draw(torch.randn, like, generator, extra=2)
        return self.eps * (normals / normals.norm(dim=1, keepdim=True))[:, :-2].reshape(like.shape)


Ball = Linf | L2


def draw(sampler, like: Tensor, generator: torch.Generator, extra: int = 0) -> Tensor:
    """``sampler`` (``torch.rand`` or ``torch.randn``) called once for each image: (B, D + extra), D values an image.

    Image by image, so that a generator gives an image the same draw however the images are batched; on the generator's
    device (the CPU by default), so that it gives the same draw whatever device the images are on.
    """
    size = like.shape[1:].numel() + extra
    noise = torch.empty(len(like), size, dtype=like.dtype, device=generator.device)
    for row in noise:
        row.copy_(sampler(size, generator=generator, device=generator.device, dtype=like.dtype))
    return noise.to(like.device)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ..., 1), to be multiplied with a (B, ...) tensor."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
