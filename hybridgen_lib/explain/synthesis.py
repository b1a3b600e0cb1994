"""Images made to order: what a unit answers to, and what a class looks like to a network.

Two climbs by :func:`~hybridgen_lib.attacks.ascent.ascend` in a ball so large that only the range of the pixels binds: raise
one unit of a representation, or several; raise the score of a class. And to start the last one, draws from the Normal
distribution of a class's images. Source: `interpretable`, section 2.3.2 and equations 13, 14, 16 and 19 to 22; the first climb
is Engstrom et al.'s (2019), the second Santurkar et al.'s (2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hybridgen_lib.attacks.ascent import ascend, check_climb
from hybridgen_lib.attacks.balls import Ball, draw
from hybridgen_lib.classifier import check_generator, check_images, check_labels, check_number, check_scores
from hybridgen_lib.explain.representation import EVERYWHERE, check_units, held, represented

__all__ = ["generate_class", "normal_draws", "visualize_feature"]

DRAWS_AT_ONCE = 500
"""How many draws share a product."""


def visualize_feature(
    represent: nn.Module,
    start: Tensor,
    units: int | Sequence[int] | Tensor,
    *,
    ball: Ball = EVERYWHERE,
    steps: int = 400,
    step_size: float = 1.0,
) -> Tensor:
    """Images near ``start`` that raise a unit of the representation, or the mean of several (`interpretable`, eqs 13 and 14).

    Args:
        represent: images (B, channels, H, W) -> (B, k), by :func:`representation` for example.
        start: images (B, channels, H, W) in [0, 1]: noise, or pictures.
        units: one unit, several (m,), or several for each image (B, m); each in 0..k-1.
        ball, steps, step_size: as in :func:`~hybridgen_lib.attacks.ascent.ascend`; the document's by default.

    Returns:
        images (B, channels, H, W) in [0, 1], after the last step. An image whose units have no gradient stays where it is.
    """
    check_images(start, "start")
    check_climb(ball, steps, step_size)
    with held(represent):
        chosen = check_units(units, represented(represent, start), start)

        def objective(x: Tensor, rows: Tensor) -> tuple[Tensor, None]:
            return represent(x).gather(1, chosen[rows]).mean(1), None

        return ascend(objective, start, ball, steps=steps, step_size=step_size)


def normal_draws(images: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """``n`` draws from the multivariate Normal distribution of ``images``: (n, channels, H, W), clamped to [0, 1].

    Its mean and covariance are those of the N images (`interpretable`, eqs 19 to 22, with 1/N), and the covariance of d x d
    numbers is never made: with the centred images as the rows of A, e standard Normal of N dimensions and mu the mean,

        mu + A' e / sqrt(N)   has covariance   A' A / N.

    So N d numbers do, for images of any size, and if N - 1 < d the draws lie in the span of the images, as they should:
    before clamping each is a mixture of them. (The released code averages its images to 8 x 8 pixels first, and adds 1e-4 to
    each variance.)

    Args:
        images: (N, channels, H, W) in [0, 1], N >= 2: those of one class, from the training set.
        n: how many draws, 0 or more; the first of many are those of few.
        generator: source of the draws.
    """
    check_images(images, "images")
    check_number(n, "n", low=0, integer=True)
    if len(images) < 2:
        raise ValueError(f"images must be 2 or more to have a covariance, got {len(images)}")
    if check_generator(generator) is None:
        raise ValueError("generator must be a torch.Generator, got None")
    mean = images.mean(0)
    rows = (images - mean).flatten(1) / math.sqrt(len(images))
    draws = images.new_empty(int(n), *images.shape[1:])
    for part in draws.split(DRAWS_AT_ONCE):
        e = draw(torch.randn, rows.new_empty(len(part), len(rows)), generator)
        part.copy_((mean + (e @ rows).reshape(part.shape)).clamp(0, 1))
    return draws


def generate_class(
    model: nn.Module, start: Tensor, y: Tensor, *, ball: Ball, steps: int = 60, step_size: float = 0.5
) -> Tensor:
    """Images of the classes ``y``, by raising the score of the class from ``start`` (`interpretable`, eq. 16).

    Of a network it is the logit that is raised, and of a classifier with a joint density log p(x, y): its image becomes
    likelier, too. The document's ball is ``L2(30)`` with 60 steps of 0.5 on CIFAR-10, which never reach its edge before the
    last step, and ``L2(40)`` with steps of 1 on larger images.

    Args:
        model: a classifier; one that can score single classes (``class_scores``) is asked for ``y`` alone.
        start: images (B, channels, H, W) in [0, 1], such as :func:`normal_draws`.
        y: integer labels (B,).
        ball, steps, step_size: as in :func:`~hybridgen_lib.attacks.ascent.ascend`.

    Returns:
        images (B, channels, H, W) in [0, 1], after the last step.
    """
    check_images(start, "start")
    check_labels(y, images=len(start))
    check_climb(ball, steps, step_size)
    y = y.to(start.device, torch.long)
    size = getattr(model, "examples_per_pass", None)
    alone = hasattr(model, "class_scores")

    def objective(x: Tensor, rows: Tensor) -> tuple[Tensor, None]:
        label = y[rows][:, None]
        scores = model.class_scores(x, label) if alone else model(x).gather(1, label)
        return scores[:, 0], None

    with held(model, "model"):
        with torch.no_grad():
            classes = check_scores(model(start[:1]), len(start[:1])).shape[1]
        check_labels(y, classes)
        per_pass = size * classes if size is not None and alone else size
        return ascend(objective, start, ball, steps=steps, step_size=step_size, examples_per_pass=per_pass)
