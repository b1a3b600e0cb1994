"""One loop that climbs: gradient ascent on images inside a ball.

An attack climbs a loss inside a small ball; adversarial training does the same inside every batch; feature visualisation,
representation inversion and class generation climb an activation inside a large one. They differ in the objective, the
ball and the start; the loop is this one. Chapter 05 builds it by hand (Madry et al. 2018, eq. 2.1 and section 2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hybridgen_lib.attacks.balls import Ball
from hybridgen_lib.classifier import check_number

__all__ = ["NoGradientError", "Objective", "ascend", "check_climb"]

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""``objective(x, rows) -> (values, finished)``: for the images ``x`` (b, ...), which are rows ``rows`` (b,) of the batch,
what is to be increased (b,), and which images may leave (b,) bool, or None if none ever does."""


class NoGradientError(ValueError):
    """The objective does not depend on the image in any way that a gradient could see."""


def ascend(
    objective: Objective,
    x: Tensor,
    ball: Ball,
    *,
    steps: int,
    step_size: float,
    start: Tensor | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    draws: int = 1,
    examples_per_pass: int | None = None,
) -> Tensor:
    """Climb ``objective`` from ``start`` by ``steps`` steepest steps of length ``step_size``, staying in the ball round ``x``.

    Args:
        objective: see :data:`Objective`. Values are summed, never averaged: an image's step does not depend on its company.
        x: centres of the balls (B, ...).
        ball: the allowed perturbations; it also measures the step (``ball.steepest``).
        steps, step_size: how many steps, 0 or more, and their length in the ball's norm.
        start: where each image starts (B, ...), in the ball; by default at ``x``.
        bounds: least and greatest pixel value, or None for images without bounds.
        draws: for a random objective, how many fresh draws the gradient is averaged over
            (expectation over transformation; Athalye, Engstrom et al. 2018).
        examples_per_pass: how many images share one forward and backward pass; by default all.

    Returns:
        The climbed images (B, ...). An image that is finished leaves the batch where it was found so, before the step.

    Raises:
        ValueError: if a number is out of range, the objective has no gradient in x, or a gradient is not finite.
    """
    check_climb(ball, steps, step_size)
    check_number(draws, "draws", low=1, integer=True)
    centre, here = x.detach(), (x if start is None else start).detach()
    climbed, active = here.clone(), torch.arange(len(x), device=x.device)  # where all images are; the rows that still climb
    for _ in range(int(steps)):
        if len(active) == 0:
            break
        gradient, finished = _gradient(objective, here, active, draws, examples_per_pass or len(active))
        if finished is not None and finished.any():
            climbed[active] = here
            here, centre, active, gradient = (kept[~finished] for kept in (here, centre, active, gradient))
        here = centre + ball.project(here + step_size * ball.steepest(gradient) - centre)
        here = here if bounds is None else here.clamp(*bounds)
    climbed[active] = here
    return climbed


def check_climb(ball: Ball, steps: int, step_size: float) -> None:
    """``ValueError`` that names the argument, for whoever has work to do before the climb."""
    if not isinstance(ball, Ball):
        raise ValueError(f"ball must be L2(eps) or Linf(eps), got {ball!r}")
    check_number(steps, "steps", low=0, integer=True)
    check_number(step_size, "step_size", low=0)


def _gradient(objective: Objective, x: Tensor, rows: Tensor, draws: int, size: int) -> tuple[Tensor, Tensor | None]:
    """Gradient of the objective in ``x`` and who is finished; ``size`` images a pass bound the memory.

    Over draws it is summed: the steepest direction of a sum is that of the average.
    """
    gradients, finished = [], []
    for part, part_rows in zip(x.split(size), rows.split(size), strict=True):
        part, total = part.detach().requires_grad_(), 0.0
        for _ in range(int(draws)):
            with torch.enable_grad():
                values, done = objective(part, part_rows)
                value = values.sum()
            if not value.requires_grad:
                way_out = "for a step without one, give a surrogate"
                way_out = "leave torch.inference_mode()" if torch.is_inference_mode_enabled() else way_out
                raise NoGradientError(f"objective must have a gradient in x; {way_out}")
            total = total + torch.autograd.grad(value, part)[0]
        if not torch.isfinite(total).all():
            raise ValueError("objective must have a finite gradient in x, got NaN or infinity")
        gradients.append(total)
        finished.append(done)
    return torch.cat(gradients), None if finished[0] is None else torch.cat(finished)
