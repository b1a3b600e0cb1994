"""What a network makes of an image: the numbers that its last linear layer reads, and which images excite one of them.

Images are made from representations in ``inversion.py`` and ``synthesis.py``, which share what is checked and held still here.
A model is put into evaluation mode meanwhile, and nothing is left behind. A stochastic one is held to one draw of its noise,
by ``frozen_noise(model, 0)`` unless the caller froze another: what comes out fits that draw. Source: `interpretable`,
section 2.3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from hybridgen_lib.attacks.balls import L2
from hybridgen_lib.classifier import (
    StochasticClassifier,
    check_images,
    check_model,
    check_number,
    evaluating,
    frozen_noise,
    is_stochastic,
)
from hybridgen_lib.models.backbones import headless

__all__ = ["AT_ONCE", "EVERYWHERE", "Representation", "activating", "check_units", "held", "representation", "represented"]

EVERYWHERE = L2(1000.0)
"""The document's ball. Two images of d pixels in [0, 1] are at most sqrt(d) apart, 28 or 55 here: it binds nothing."""
AT_ONCE = 500
"""How many images share a pass where no gradient is needed."""


class Representation(nn.Module):
    """A network without its last linear layer: images (B, channels, H, W) -> representations (B, k). See
    :func:`representation`."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.trunk, self.size = headless(network)

    def forward(self, x: Tensor) -> Tensor:
        r = self.trunk(x)
        if r.shape != (len(x), self.size):
            what = f"what its last linear layer reads, ({len(x)}, {self.size}), got {tuple(r.shape)}"
            raise ValueError(f"model must end in a linear layer, so that without it remains {what}")
        _pass_through_last_relu(r)
        return r


def representation(model: nn.Module) -> Representation:
    """R(x), what the last linear layer of a network reads: a module, images (B, channels, H, W) -> (B, k), from a copy.

    Where the last thing before that layer is a ReLU (pooling, dropout and reshaping may follow it), values are the network's
    own, but gradients pass it unchanged, as in the code of Engstrom et al. (2019), whom the document follows; its text is
    silent. A unit that is off has no gradient otherwise, and an ascent that starts there never leaves. So it would be, from a
    noise image, for more than half of the units of ``cnn`` at ``quick`` that some test image turns on. Inversion hardly
    notices.

    Raises ``ValueError`` for a network without a linear layer, for one that does not end in it (on the first call), and for a
    classifier with noise of its own, whose last linear layer reads many draws, or is not the last word. There, take a part
    that is a function of the image, such as the trunk of a guide.
    """
    if any(isinstance(part, StochasticClassifier) for part in check_model(model).modules()):
        raise ValueError(f"model must have no noise of its own, got {type(model).__name__}; take a part of it that has none")
    return Representation(model)


def _pass_through_last_relu(r: Tensor) -> None:
    """Let the gradient of ``r`` pass the ReLU that made it, if nothing but operations with one input came after that.

    It is asked of this one graph, which knows ReLUs however they were written, and goes when the graph goes.
    """
    node = r.grad_fn
    while node is not None and node.name() != "ReluBackward0":
        node = node.next_functions[0][0] if len(node.next_functions) == 1 else None
    if node is not None:
        node.register_hook(lambda gradient_in, gradient_out: gradient_out)


def activating(represent: nn.Module, images: Tensor, unit: int, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` images that activate a unit most, and the ``count`` that do least: two tensors of indices (count,).

    Most extreme first; of equals the earlier one. A unit behind a ReLU is often 0 for many images: then the least are
    only the first of those.
    """
    check_images(images, "images")
    check_number(count, "count", low=1, high=len(images), integer=True)
    check_number(unit, "unit", low=0, integer=True)
    with held(represent):
        r = represented(represent, images)
    values = r.gather(1, check_units(unit, r, images, "unit"))[:, 0]
    orders = (values.sort(descending=down, stable=True).indices for down in (True, False))
    most, least = (order[: int(count)] for order in orders)
    return most, least


@contextmanager
def held(model: nn.Module, name: str = "represent"):
    """Inside the block ``model`` is one fixed function: in evaluation mode, and under one draw of its noise."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} must be a torch.nn.Module, got {type(model).__name__}")
    with evaluating(model), frozen_noise(model) if is_stochastic(model) else nullcontext():
        yield


@torch.no_grad()
def represented(represent: nn.Module, images: Tensor) -> Tensor:
    """The representations (B, k) of images, a part at a time; checked."""
    parts = [represent(part) for part in images.split(AT_ONCE)]
    for part in parts:
        if not isinstance(part, Tensor) or part.ndim != 2 or not part.isfinite().all():
            got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(f"represent must return finite numbers of shape (B, k), got {got}")
    return torch.cat(parts)


def check_units(units: int | Sequence[int] | Tensor, r: Tensor, images: Tensor, name: str = "units") -> Tensor:
    """Units as (B, m), integers in 0..k-1."""
    try:
        chosen = torch.as_tensor(units, device=r.device)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{name} must be integers in 0..{r.shape[1] - 1}, got {units!r}") from error
    rows = chosen if chosen.ndim == 2 else chosen.reshape(1, -1).expand(len(images), -1)
    whole = not (chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool)
    fits = chosen.ndim <= 2 and len(rows) == len(images) and rows.shape[1] > 0
    if not whole or not fits or (rows.numel() and not 0 <= rows.min() <= rows.max() < r.shape[1]):
        allowed = f"one or several integers in 0..{r.shape[1] - 1}, or as many for each of {len(images)} images"
        raise ValueError(f"{name} must be {allowed}, got {units!r}")
    return rows.long()
