"""Is it robust, or is the attack blind? Nine signs that a model hides its gradient instead of resisting.

A model is masked where its gradient does not lead downhill: it is exactly zero, saturated, random or that of another function.
Attacks that follow it then fail, and others do not (Athalye et al. 2018, section 3.1; Carlini et al. 2019, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from hybridgen_lib.attacks import L2, Linf, pgd, square
from hybridgen_lib.attacks.ascent import NoGradientError
from hybridgen_lib.attacks.balls import Ball
from hybridgen_lib.attacks.ensemble import check_tiles
from hybridgen_lib.attacks.gradient import LOSSES
from hybridgen_lib.classifier import check_freezable, check_number, check_scores, evaluating, frozen_noise
from hybridgen_lib.evaluation.outcomes import check_balls, chosen_images, device_of, fraction_right

__all__ = ["masking_report"]

FEW_STEPS, STEPS, QUERIES = 10, 40, 500

# For each sign: up to which value it passes, up to which it is a warning, and what it means. Where larger is better the
# first threshold is the larger. 16.6 nats: from there on p(y|x) rounds to 1 in float32; 103.3: there the others underflow.
SIGNS = {
    "random search beats gradients": (0.02, 0.05, "accuracy under PGD, minus accuracy under Square; honest gradients win"),
    "another model's gradients win": (0.02, 0.05, "accuracy under PGD, minus that under PGD with the surrogate's gradients"),
    "more steps help the defence": (0.02, 0.05, f"accuracy after {STEPS} steps of PGD, minus that after {FEW_STEPS}"),
    "survives any perturbation": (0.05, 0.1, "accuracy under PGD where every image may become plain grey"),
    "no gradient": (0.01, 0.1, "share of images whose cross-entropy gradient is exactly zero"),
    "the two gradients part": (0.7, 0.5, "median cosine of the gradients of cross-entropy and margin"),
    "score gap": (16.6, 103.3, "median lead of the best score, in nats: a softmax in float32 loses sight of the rest"),
    "the loss along the path": (0.5, 0.25, "median rise of the margin over a short step, as a share of what it foretells"),
    "probabilities for scores": (0.0, 1.0, "1 if what the model returns is a distribution already: take its scores instead"),
}  # fmt: skip


def masking_report(
    model: nn.Module,
    data,
    ball: Ball,
    surrogate: nn.Module | None = None,
    *,
    index: Sequence[int] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """The signs of masked gradients, each measured, with its threshold and a verdict: ``pass``, ``warn`` or ``fail``.

    Measured on the images that the model classifies right; a stochastic model is looked at with its noise frozen. PGD means
    the better of two for each image, on the cross-entropy and on the margin, along the model's own gradient.

    Args:
        model, data, index, seed: as in :func:`~hybridgen_lib.evaluation.outcomes.attack_outcomes`.
        ball: the allowed perturbations, of a radius at which the model is said to be robust.
        surrogate: another model whose gradients are tried on this one: one trained apart, or the same with a rough step
            made smooth. Without it the sign about it is left out.

    Returns:
        Columns ``sign, value, passes, verdict, meaning, n``. No single sign proves masking, and passing all of them does not
        prove robustness. A ``warn`` or ``fail`` says which attack not to trust.

    Raises:
        ValueError: an argument out of range, scores that are NaN, or no image that the model classifies right.
    """
    check_freezable(model)
    if surrogate is not None:
        check_freezable(surrogate, "surrogate")
    check_balls([ball], "ball")
    check_number(ball.eps, "ball's eps", low=1e-12)
    seed = check_number(seed, "seed", low=0, integer=True)
    x, y, _ = chosen_images(data, index)
    device = device_of(model)
    x, y = x.to(device), y.to(device)
    check_tiles(x, ball)
    with frozen_noise(model, seed), frozen_noise(model if surrogate is None else surrogate, seed), evaluating(model):
        right = fraction_right(model, x, y) == 1
        if not right.any():
            raise ValueError("data must hold images that the model classifies right, got none")
        x, y = x[right], y[right]
        values = {**_under_attack(model, x, y, ball, surrogate, seed), **_of_gradients(model, x, y, ball)}
    rows = [
        (sign, values[sign], *_judged(values[sign], passes, warns), meaning, len(x))
        for sign, (passes, warns, meaning) in SIGNS.items()
        if sign in values
    ]
    return pd.DataFrame(rows, columns=["sign", "value", "passes", "verdict", "meaning", "n"])


def _judged(value: float, passes: float, warns: float) -> tuple[str, str]:
    """What passes, in words, and the verdict."""
    sign, relation = (-1, ">=") if warns < passes else (1, "<=")
    verdict = "pass" if sign * value <= sign * passes else "warn" if sign * value <= sign * warns else "fail"
    return f"{relation} {passes:g}", verdict


def _under_attack(model: nn.Module, x: Tensor, y: Tensor, ball: Ball, surrogate: nn.Module | None, seed: int) -> dict:
    def left(attack, ball=ball, **options) -> Tensor:
        """1 for each image that the model still gets right."""
        try:
            return fraction_right(
                model, attack(model, x, y, ball, generator=torch.Generator().manual_seed(seed), **options), y
            )
        except NoGradientError:
            return torch.ones(len(x), device=x.device)  # nothing to follow

    def white_box(ball=ball, steps=STEPS) -> Tensor:
        return torch.minimum(*(left(pgd, ball, steps=steps, loss=loss) for loss in ("ce", "margin")))

    best = white_box()
    everything = Linf(0.5) if isinstance(ball, Linf) else L2(0.5 * math.sqrt(x[0].numel()))
    values = {
        "random search beats gradients": best - left(square, queries=QUERIES),
        "more steps help the defence": best - white_box(steps=FEW_STEPS),
        "survives any perturbation": white_box(everything),
    }
    if surrogate is not None:
        values["another model's gradients win"] = best - left(pgd, steps=STEPS, loss="margin", surrogate=surrogate)
    return {sign: value.double().mean().item() for sign, value in values.items()}


def _of_gradients(model: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> dict:
    scores, ce, margin = _gradients(model, x, y)
    flat = ce.flatten(1), margin.flatten(1)
    cosine = torch.cosine_similarity(*(g / g.abs().amax(1, keepdim=True).clamp_min(1e-38) for g in flat), dim=1)
    top = scores.topk(2, dim=1).values
    short = type(ball)(ball.eps / 20)
    step = (x + short.eps * short.steepest(margin)).clamp(0, 1) - x  # the model is asked about images only
    foretold = (margin * step).flatten(1).sum(1)
    with torch.no_grad():
        rise = LOSSES["margin"](check_scores(model(x + step), len(x)), y) - LOSSES["margin"](scores, y)
    share = torch.where(foretold > 0, rise / foretold.clamp_min(1e-38), 0.0)
    distribution = scores.min() >= -1e-5 and ((scores.sum(1) - 1).abs() < 1e-4).all()
    return {
        "no gradient": (flat[0] == 0).all(1).double().mean().item(),
        "the two gradients part": cosine.median().item(),
        "score gap": (top[:, 0] - top[:, 1]).median().item(),
        "the loss along the path": share.median().item(),
        "probabilities for scores": float(distribution),
    }


@torch.enable_grad()
def _gradients(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, and the gradients of cross-entropy and margin; zeros where the model has no gradient at all."""
    parts, size = [], getattr(model, "examples_per_pass", None) or 100
    for images, labels in zip(x.split(size), y.split(size), strict=True):
        images = images.detach().requires_grad_()
        scores = check_scores(model(images), len(images))
        if scores.requires_grad:
            losses = [LOSSES[name](scores, labels).sum() for name in ("ce", "margin")]
            gradients = [torch.autograd.grad(loss, images, retain_graph=True)[0] for loss in losses]
        else:
            gradients = [torch.zeros_like(images)] * 2
        parts.append((scores.detach(), *gradients))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))
