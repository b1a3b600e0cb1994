"""What plain and generative training make small; chapters 03 and 04 build them by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridgen_lib.classifier import ask, check_number
from hybridgen_lib.training.loop import Objective

__all__ = ["cross_entropy", "in_bfloat16", "negative_elbo", "negative_pseudo_likelihood", "shifted_and_mirrored"]


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
    """Mean cross-entropy in nats of the model's scores: plain discriminative training."""
    return F.cross_entropy(ask(model, x, generator), y)


def negative_elbo(warm_up: float = 0.0, pressure: float = 1.0, do: dict[str, float] | None = None) -> Objective:
    """Mean negative ELBO in nats; over the first ``warm_up`` share of training the latent terms grow from 0.01 to 1.

    The ELBO is `deepbayes`' ("Training with ELBO"); the warm-up is Sonderby et al. (2016). Without it a bottleneck model
    can learn to ignore z, since an unused code costs nothing. ``pressure`` is the opposite: until the last quarter of training
    the latent terms weigh so much (Higgins et al. 2017, beta), so that z leaves to y what y can say. ``do={"m": 0}`` trains
    under an intervention (equation 9 of `hybrid`).
    """
    check_number(warm_up, "warm_up", low=0, high=1)
    check_number(pressure, "pressure", low=0)

    def objective(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        beta = pressure if progress < 0.75 else 1.0
        beta *= 1.0 if progress >= warm_up else 0.01 + 0.99 * progress / warm_up
        model = model.do(**do) if do else model
        return -model.elbo(x, y, generator=generator, beta=beta).mean()

    return objective


def shifted_and_mirrored(objective: Objective, pixels: int, mirror: bool = True) -> Objective:
    """The same objective on images that are shifted by up to ``pixels`` each way, and mirrored half of the time if ``mirror``.

    The edge is filled with black. This is the augmentation with which CIFAR-10 is trained (He et al. 2016, section 4.2).
    """
    pixels = check_number(pixels, "pixels", low=0, integer=True)

    def wrapped(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        count, _, height, width = x.shape
        top, left = torch.randint(0, 2 * pixels + 1, (2, count), generator=generator).to(x.device)
        turned = (torch.rand(count, generator=generator) < 0.5).to(x.device) & mirror
        rows = top[:, None] + torch.arange(height, device=x.device)
        columns = left[:, None] + torch.arange(width, device=x.device)
        columns = torch.where(turned[:, None], columns.flip(1), columns)
        padded = F.pad(x, [pixels] * 4).permute(0, 2, 3, 1)
        images = torch.arange(count, device=x.device)[:, None, None]
        shifted = padded[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return objective(model, shifted, y, progress, generator)

    return wrapped


def in_bfloat16(objective: Objective) -> Objective:
    """The same objective with its matrix products in bfloat16 on a CUDA device; on a CPU, where that is slow, as it is."""

    def wrapped(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        with torch.autocast(y.device.type, torch.bfloat16, enabled=y.is_cuda):
            return objective(model, x, y, progress, generator)

    return wrapped


def negative_pseudo_likelihood(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
    """Mean negative log pseudo-likelihood of an image under the graph of its own class, in nats (Besag 1975).

    ``model`` is one whose scores are pseudo-likelihoods, :class:`~hybridgen_lib.models.pixel_graph.PixelGraphClassifier`.
    """
    return -model(x).gather(1, y[:, None]).mean()
