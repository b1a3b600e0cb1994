"""The l2 attack of Carlini and Wagner: the smallest perturbation by gradients, with a constant of its own for every image.

Signature, result and noise as in :mod:`~hybridgen_lib.attacks.smallest`. Chapter 06 builds it by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hybridgen_lib.attacks.balls import L2
from hybridgen_lib.attacks.gradient import RESELECT, Duel, duels
from hybridgen_lib.attacks.smallest import Question, Smallest, asking, measured_by
from hybridgen_lib.classifier import check_number

__all__ = ["smallest_cw"]

SQUASH = 0.9999
"""By how much C&W shrinks [-1, 1] before atanh, so that black and white pixels start at -+5, off by 0.00005. The usual
1 - 1e-6 puts them at -+7, where tanh is so flat that 200 steps of 0.01 leave a black and white image as it is."""


@measured_by(L2)
def smallest_cw(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 200,
    searches: int = 9,
    learning_rate: float = 0.1,
    constant: float = 10.0,
    confidence: float = 0.0,
    target: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Smallest:
    """The l2 attack of Carlini and Wagner (2017, section VI.A): minimise |x' - x|^2 + c max(confidence - margin(x'), 0).

    x' = (tanh(w) + 1) / 2 is in [0, 1] by itself; Adam descends in w, and of all x' the nearest that fools is kept. The
    margin is ``gradient.margin``, by which x' fools, so a constant added to all scores changes nothing. Each image has its
    own c: ten times larger until it works, ten times smaller until it does not, then bisected on the logarithmic scale. An
    image that nothing has fooled leaves a descent when a tenth of the steps gains less than 0.01 % of its loss. Where a
    model scores each class at a price, descents ask for two, as PGD's do: a class above the true one has fooled it.

    Args:
        steps, searches: how many images a descent asks about, the start among them (2 or more), and how many descents the
            search for c takes. ``searches=1`` uses ``constant`` alone: causalib, which says 20 iterations and no more, is read
            as ``steps=20, searches=1``.
        learning_rate: Adam's, in w; it falls linearly, to 0 at the last step. The authors' 0.01, held for 10,000
            steps, is too slow for hundreds; 0.1, if it were held, would swing round the nearest point.
        constant: the first c.
        confidence: by how much of score the class that wins must lead.
        target: labels (B,) to be reached, instead of leaving ``y``.

    Returns:
        ``Smallest``, with distances in l2.
    """
    check_number(steps, "steps", low=2, integer=True)
    check_number(searches, "searches", low=1, integer=True)
    check_number(confidence, "confidence", low=0)
    for name, value in {"learning_rate": learning_rate, "constant": constant}.items():
        check_number(value, name, low=1e-10, high=1e10)
    with asking(model, x, y, generator, target) as question:
        question.confidence = confidence  # asked of x', not of an image that is misclassified already
        c = question.x.new_full((len(x),), constant)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        nearest, distance = question.x.clone(), torch.full_like(c, torch.inf)
        for _ in range(int(searches)):
            works = _descend(question, c, nearest, distance, int(steps), learning_rate)
            low, high = torch.where(works, low, c), torch.where(works, c, high)
            c = torch.where(high.isinf(), 10 * c, torch.where(low == 0, c / 10, (low * high).sqrt())).clamp(1e-10, 1e10)
        rows = distance.isfinite().nonzero()[:, 0]
        if duels(question.goal):  # all classes have the last word
            rows = rows[question.fooled(lambda rows, _: nearest[rows], rows, distance[rows])]
        return question.answer(L2, lambda rows, _: nearest[rows], rows, distance[rows])


def _descend(question: Question, c: Tensor, nearest: Tensor, distance: Tensor, steps: int, learning_rate: float) -> Tensor:
    """One descent of all images left, each with its ``c`` (B,): who was fooled (B,). Puts what fools and is nearer than before
    into ``nearest`` (B, ...) and ``distance`` (B,).

    Adam (Kingma and Ba 2015, algorithm 1) is written out because images leave it.
    """
    works, rows = torch.zeros_like(c, dtype=torch.bool), question.left
    ask, size = _asked_of(question)
    w = torch.atanh(SQUASH * (2 * question.x[rows] - 1))
    mean, square = torch.zeros_like(w), torch.zeros_like(w)
    lowest = before = c.new_full((len(rows),), torch.inf)  # loss in this tenth of the steps, and in the one before
    for step in range(1, steps + 1):
        if len(rows) == 0:
            break
        gradient, loss, fooled, images, length = _loss_gradient(question, ask, size, w, rows, c[rows])
        works[rows[fooled]] = True
        nearer = fooled & (length < distance[rows])
        nearest[rows[nearer]], distance[rows[nearer]] = images[nearer], length[nearer]
        lowest = torch.minimum(lowest, loss)
        if step % max(10, steps // 10) == 0:
            state, stays = (rows, w, mean, square, gradient, lowest), works[rows] | (lowest < 0.9999 * before)
            rows, w, mean, square, gradient, before = (values[stays] for values in state)
            lowest = torch.full_like(before, torch.inf)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        direction = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-16)
        w = w - learning_rate * (1 - step / steps) * direction
    return works


def _asked_of(question: Question) -> tuple[Callable, int]:
    """``ask(images, rows) -> (fooled, lead)`` for a descent, and how many images to ask it of at once: of two classes where
    the model can be asked for them."""
    size, goal = question.images_per_pass, question.goal
    if not duels(goal):
        return question.verdict, size
    duel = Duel(goal, len(question.x), RESELECT)
    if hasattr(goal.model, "examples_per_pass"):  # a wish about all classes
        size = size * goal.model.classes // 2

    def ask(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        lead, fooled = duel(images, rows)
        return fooled & (lead >= question.confidence), lead

    return ask, size


def _loss_gradient(question: Question, ask: Callable, size: int, w: Tensor, rows: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """Each image's gradient (b, ...) of the loss in ``w``, loss (b,), whether it is fooled (b,), x' and its distance (b,)."""
    answers = []
    for some in torch.arange(len(rows), device=rows.device).split(size):
        with torch.enable_grad():
            part = w[some].requires_grad_()
            images = (torch.tanh(part) + 1) / 2
            fooled, lead = ask(images, rows[some])
            if not lead.requires_grad:
                raise ValueError("model must have a gradient in x, got scores without one")
            squared = (images - question.x[rows[some]]).flatten(1).square().sum(1)
            loss = squared + c[some] * (question.confidence - lead).clamp(min=0)
            gradient = torch.autograd.grad(loss.sum(), part)[0]
        if not torch.isfinite(gradient).all():
            raise ValueError("model must have a finite gradient in x, got NaN or infinity")
        answers.append((gradient, loss.detach(), fooled, images.detach(), squared.detach().sqrt()))
    return tuple(torch.cat(parts) for parts in zip(*answers, strict=True))
