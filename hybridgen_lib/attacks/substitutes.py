"""Gradients from another model: where a model's own are useless (BPDA), or are not to be had (transfer)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridgen_lib.attacks.balls import Ball
from hybridgen_lib.attacks.gradient import only, pgd
from hybridgen_lib.classifier import (
    IMAGES_PER_PASS,
    ask,
    check_generator,
    check_images,
    check_labels,
    check_model,
    check_number,
    check_scores,
    evaluating,
    is_stochastic,
)

__all__ = ["Bpda", "transfer"]


class Bpda(nn.Module):
    """A classifier with the scores of ``model`` and the gradients of ``surrogate`` (backward pass differentiable
    approximation; Athalye et al. 2018, section 4.1).

    ``surrogate`` is the same model with a smooth stand-in for its rough step. Every gradient attack, of this library or
    another, then works on the rough model. ``pgd(..., surrogate=...)`` does the same without building anything.
    """

    def __init__(self, model: nn.Module, surrogate: nn.Module):
        super().__init__()
        self.model, self.surrogate = check_model(model), check_model(surrogate, "surrogate")
        self.score_kind = getattr(model, "score_kind", "logit")

    @property
    def stochastic(self) -> bool:
        return is_stochastic(self.model) or is_stochastic(self.surrogate)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        smooth = ask(self.surrogate, x, generator)
        with torch.no_grad():
            true = ask(self.model, x, generator)
        return true + (smooth - smooth.detach())  # the scores to the last bit: what is added is 0


def transfer(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    *,
    source: nn.Module,
    steps: int = 100,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack ``source`` and hand the images to ``model``: an attack that never asks ``model`` for a gradient.

    Arguments as in :func:`pgd`. ``source`` is attacked by PGD on the margin for all ``steps``, also where it is fooled
    already: an image deep in a wrong class carries further than one at its edge (Carlini and Wagner 2017, section VIII-D).
    An image that a deterministic ``model`` gets wrong already comes back as it is.

    Returns x_adv (B, channels, H, W); raises ``ValueError`` as pgd does.
    """
    check_model(model)
    check_model(source, "source")
    only(ball, Ball)
    check_number(steps, "steps", low=0, integer=True)
    generator = torch.Generator().manual_seed(0) if check_generator(generator) is None else generator
    check_labels(y, images=len(check_images(x)))
    wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if len(x) > 0 and not is_stochastic(model):
        with torch.no_grad(), evaluating(model):
            scores = torch.cat([check_scores(model(part), len(part)) for part in x.split(2 * IMAGES_PER_PASS)])
        check_labels(y, scores.shape[1])
        wrong = scores.argmax(1) != y.to(x.device)
    tried = pgd(source, x, y, ball, steps=steps, loss="margin", stop_when_fooled=False, generator=generator)
    return torch.where(wrong.view(-1, 1, 1, 1), x, tried).detach()
