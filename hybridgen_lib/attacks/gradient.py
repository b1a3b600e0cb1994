"""Attacks that follow the gradient: FGSM, its l2 twin FGM, I-FGSM and projected gradient descent (PGD).

All four climb a loss of the scores with :func:`~hybridgen_lib.attacks.ascent.ascend`; what PGD adds is bookkeeping: random
starts, restarts, which images are already fooled, noise of the model itself. Chapter 05 builds each by hand.

The signature is ``attack(model, x, y, ball, *, ...) -> x_adv`` with ``x`` float (B, channels, H, W) in [0, 1] and ``y``
integer labels (B,); the result is in the ball and in [0, 1]. No trace is left: the model's mode, its parameters' gradients
and ``requires_grad`` and the global random state are as before.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridgen_lib.attacks.ascent import ascend
from hybridgen_lib.attacks.balls import L2, Ball, Linf
from hybridgen_lib.classifier import (
    IMAGES_PER_PASS,
    ask,
    check_choice,
    check_generator,
    check_images,
    check_labels,
    check_number,
    check_scores,
    evaluating,
    is_stochastic,
)

__all__ = ["LOSSES", "fgm", "fgsm", "ifgsm", "pgd"]


def cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    """-log softmax(scores)_y for each image. In float32 its gradient is exactly 0 once the gap exceeds some 104 nats."""
    return F.cross_entropy(scores, y, reduction="none")


def margin(scores: Tensor, y: Tensor) -> Tensor:
    """max over c != y of s_c, minus s_y: positive where the image is fooled; its gradient never saturates
    (Carlini and Wagner 2017, f_6 without its cut-off)."""
    others = scores.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - scores.gather(1, y[:, None])[:, 0]


def dlr(scores: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: the margin over the gap between the largest and the third largest score (Croce and Hein
    2020, eq. 6). It hears neither the scale nor a shift of the scores, and needs three classes.
    """
    first, _, third = scores.topk(3, dim=1).values.unbind(1)
    return margin(scores, y) / (first - third).clamp_min(1e-12)


LOSSES = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
"""Losses by name: ``loss(scores (B, C), y (B,)) -> (B,)``. Away from y they climb; towards a target its loss descends."""


# ---------------------------------------------------------------- the attacks


def fgsm(model, x, y, ball: Linf, *, loss="ce", target=None, eot=1, surrogate=None, generator=None) -> Tensor:
    """Fast gradient sign method: x + eps sign(grad_x loss), clipped to [0, 1] (Goodfellow et al. 2015, section 4).

    Every image takes its step, also one that is misclassified already. Arguments as in :func:`pgd`; ``ball`` is a ``Linf``.
    """
    return _one_step(model, x, y, only(ball, Linf), loss, target, eot, surrogate, generator)


def fgm(model, x, y, ball: L2, *, loss="ce", target=None, eot=1, surrogate=None, generator=None) -> Tensor:
    """Fast gradient method: x + eps g / |g| with g = grad_x loss, clipped to [0, 1]: the l2 twin of :func:`fgsm`.

    Every image takes its step, also one that is misclassified already. Arguments as in :func:`pgd`; ``ball`` is an ``L2``.
    """
    return _one_step(model, x, y, only(ball, L2), loss, target, eot, surrogate, generator)


def ifgsm(model, x, y, ball: Linf, *, steps=10, step_size=None, **options) -> Tensor:
    """Iterative FGSM: ``steps`` sign steps from x itself (Kurakin et al. 2017, section 2.2), by default of eps / steps (ours).

    The same as :func:`pgd` with these defaults and without a random start; ``options`` are pgd's. ``ball`` is a ``Linf``.
    """
    only(ball, Linf)
    check_number(steps, "steps", low=1, integer=True)
    step_size = ball.eps / steps if step_size is None else step_size
    return pgd(model, x, y, ball, steps=steps, step_size=step_size, **{"random_start": False, **options})


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    *,
    steps: int = 40,
    step_size: float | None = None,
    loss: str = "ce",
    random_start: bool = True,
    restarts: int = 1,
    eot: int = 1,
    surrogate: nn.Module | None = None,
    target: Tensor | None = None,
    stop_when_fooled: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent: ascend the loss by ``steps`` projected steps (Madry et al. 2018, section 2.1).

    Args:
        model: scores images; see ``hybridgen_lib.classifier``.
        x, y: images (B, channels, H, W) in [0, 1] and their labels (B,).
        ball: ``Linf(eps)`` or ``L2(eps)``; with eps = 0 the images come back unchanged.
        steps, step_size: number of steps and their length in the ball's norm, by default 2.5 eps / steps.
        loss: a name in :data:`LOSSES`. Use ``"margin"`` on scores with gaps of many nats, where ``"ce"`` saturates.
        random_start: start uniformly in the ball, else at x.
        restarts: independent runs; of each image the best is kept: fooled before not fooled, then the largest loss.
        eot: for a stochastic model, over how many fresh draws of its noise each gradient is averaged.
        surrogate: take gradients from this model instead, where ``model`` has a step without a useful one (BPDA; Athalye et
            al. 2018, section 4.1). Success is judged on ``model``.
        target: labels (B,) to be reached, instead of leaving ``y``.
        stop_when_fooled: let an image leave as soon as it is fooled (many times faster on weak models); an image that is
            misclassified already stays as it is. Ignored for a stochastic model, where one lucky draw proves nothing.
        generator: source of the start noise and of a stochastic model's draws; by default one with seed 0.

    Returns:
        x_adv (B, channels, H, W). For a deterministic model (or under ``frozen_noise``) it is never worse for the attacker
        than x, and does not depend on how images are batched, given one generator passed along the batches.

    Raises:
        ValueError: an argument out of range, scores that are NaN, or no gradient where one is needed.
    """
    only(ball, Ball)
    check_number(steps, "steps", low=1, integer=True)
    step_size = 2.5 * ball.eps / steps if step_size is None else check_number(step_size, "step_size", low=0)
    restarts = check_number(restarts, "restarts", low=1, integer=True)
    with attacking(model, x, y, loss, target, eot, surrogate, generator) as goal:
        if ball.eps == 0 or len(x) == 0:
            return x.detach().clone()
        stops = stop_when_fooled and not goal.stochastic
        starts = x.repeat_interleave(restarts, 0)  # noise for every image and restart, drawn before any image leaves
        if random_start:
            starts = (starts + ball.random(starts, goal.generator)).clamp(0, 1)
        best, fooled, value = x.detach().clone(), *goal.before(x)
        for run in range(restarts):
            rows = (~fooled if stops else torch.ones_like(fooled)).nonzero()[:, 0]
            if len(rows) == 0:
                break
            tried = goal.climb(x, rows, ball, steps, step_size, starts[run::restarts], stops)
            tried_fooled, tried_value = goal.judge(tried, rows)
            same = tried_fooled == fooled[rows]
            better = torch.where(same, tried_value >= value[rows], tried_fooled)
            kept = rows[better]
            best[kept], fooled[kept], value[kept] = tried[better], tried_fooled[better], tried_value[better]
        return best


def _one_step(model, x, y, ball, loss, target, eot, surrogate, generator) -> Tensor:
    with attacking(model, x, y, loss, target, eot, surrogate, generator) as goal:
        rows = torch.arange(len(x), device=x.device)
        return goal.climb(x, rows, ball, steps=1, step_size=ball.eps, starts=x, stops=False)


# ---------------------------------------------------------------- what an attack wants


@dataclass
class Goal:
    """What one call wants of the model: a loss to climb, a verdict on each image, and where randomness comes from."""

    model: nn.Module
    gradients: nn.Module  # the surrogate, or the model itself
    labels: Tensor  # left behind, or reached for if targeted
    targeted: bool
    loss: str
    eot: int
    generator: torch.Generator
    checked: bool = False  # whether the labels are known to be classes of the model

    @property
    def stochastic(self) -> bool:
        return is_stochastic(self.model)

    def scores(self, model: nn.Module, x: Tensor) -> Tensor:
        scores = check_scores(ask(model, x, self.generator), len(x))
        if not self.checked:
            check_labels(self.labels, scores.shape[1], name="target" if self.targeted else "y")
            if self.loss == "dlr" and scores.shape[1] < 3:
                raise ValueError(f"loss must be ce or margin for a model of {scores.shape[1]} classes; dlr needs 3")
            self.checked = True
        return scores

    def all_scores(self, x: Tensor) -> Tensor:
        """The model's scores without a way back, so that twice as many images fit into a pass."""
        return torch.cat([self.scores(self.model, part) for part in x.split(2 * IMAGES_PER_PASS)])

    def verdict(self, scores: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        labels = self.labels[rows]
        value, hit = LOSSES[self.loss](scores, labels), scores.argmax(1) == labels
        return (-value, hit) if self.targeted else (value, ~hit)

    def climb(self, x, rows, ball, steps, step_size, starts, stops) -> Tensor:
        """Rows ``rows`` of ``x``, climbed from the same rows of ``starts``."""

        draws = self.eot if is_stochastic(self.gradients) else 1
        duel = Duel(self, len(x), RESELECT * draws) if duels(self) else None

        def objective(part: Tensor, within: Tensor) -> tuple[Tensor, Tensor | None]:
            mine = rows[within]
            value, fooled = self.verdict(self.scores(self.gradients, part), mine) if duel is None else duel(part, mine)
            if stops and self.gradients is not self.model:
                fooled = self.judge(part, mine)[0]
            return value, fooled if stops else None

        size = getattr(self.gradients, "examples_per_pass", None)
        if duel is not None and size is not None:
            size = size * self.gradients.classes // 2
        size = IMAGES_PER_PASS if size is None else size
        return ascend(
            objective, x[rows], ball, steps=steps, step_size=step_size, start=starts[rows], draws=draws, examples_per_pass=size
        )

    def before(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The verdict on the clean images; of a stochastic model none, as any attack is better than a lucky draw."""
        if self.stochastic:
            return torch.zeros(len(x), dtype=torch.bool, device=x.device), x.new_full((len(x),), -torch.inf)
        return self.judge(x, torch.arange(len(x), device=x.device))

    @torch.no_grad()
    def judge(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each image is fooled (b,) and its loss (b,), by the model itself; for a stochastic one the loss, averaged
        over ``eot`` draws, is all that counts."""
        if not self.stochastic:
            value, fooled = self.verdict(self.all_scores(x), rows)
            return fooled, value
        values = [self.verdict(self.all_scores(x), rows)[0] for _ in range(int(self.eot))]
        return torch.zeros_like(rows, dtype=torch.bool), torch.stack(values).mean(0)


RESELECT, GLANCE = 10, 3
"""After how many steps the runner-up of an image is chosen anew, and from how many samples: one would be
cheaper by next to nothing, and errs more often. ``benchmarks/two_classes.py`` measures what it costs and what it leaves."""


def duels(goal: Goal) -> bool:
    priced = all(hasattr(goal.gradients, name) for name in ("class_scores", "classes", "samples"))
    return goal.loss == "margin" and not goal.targeted and priced


class Duel:
    """The margin from two classes: a model that scores each class at a price is asked for the true one and the runner-up.

    The runner-up comes from a cheap look at all classes, a few samples each, anew after ``every`` gradients of an image. If
    it wins, the image is fooled; if not, nothing is proven, and the last word, :meth:`Goal.judge`, is had by all classes.
    """

    def __init__(self, goal: Goal, images: int, every: int):
        self.goal, self.every = goal, every
        self.rival = torch.zeros(images, dtype=torch.long, device=goal.labels.device)
        self.gradients = torch.zeros_like(self.rival)

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        goal, labels = self.goal, self.goal.labels[rows]
        due = self.gradients[rows] % self.every == 0
        options = {"generator": goal.generator} if is_stochastic(goal.gradients) else {}
        if due.any():
            self.rival[rows[due]] = self.runner_up(x[due], labels[due], options)
        self.gradients[rows] += 1
        pair = goal.gradients.class_scores(x, torch.stack([labels, self.rival[rows]], 1), **options)
        value = check_scores(pair, len(x)).diff(dim=1)[:, 0]
        return value, value > 0

    @torch.no_grad()
    def runner_up(self, x: Tensor, labels: Tensor, options: dict) -> Tensor:
        model = self.goal.gradients
        everyone = torch.arange(model.classes, device=x.device).expand(len(x), -1)
        scores = check_scores(model.class_scores(x, everyone, samples=min(GLANCE, model.samples), **options), len(x))
        return scores.scatter(1, labels[:, None], -torch.inf).argmax(1)


@contextmanager
def attacking(model, x, y, loss, target, eot, surrogate, generator):
    """Check everything that attacks share, then yield the goal with all models in evaluation mode."""
    for name, module in {"model": model, "surrogate": surrogate}.items():
        if not isinstance(module, nn.Module) and not (name == "surrogate" and module is None):
            raise ValueError(f"{name} must be a torch.nn.Module that returns scores, got {type(module).__name__}")
    check_images(x)
    check_labels(y, images=len(x))
    if target is not None:
        check_labels(target, images=len(x), name="target")
    check_choice(loss, "loss", LOSSES)
    if loss == "dlr" and target is not None:
        raise ValueError("loss must be ce or margin with a target; dlr leaves a class, it reaches none")
    check_number(eot, "eot", low=1, integer=True)
    check_generator(generator)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    labels = (y if target is None else target).to(x.device, torch.long)
    with ExitStack() as stack:
        gradients = model if surrogate is None else surrogate
        for module in {model, gradients}:
            stack.enter_context(evaluating(module))
        yield Goal(model, gradients, labels, target is not None, loss, eot, generator)


def only(ball, kind):
    """``ball``, if it is of ``kind``; else ``ValueError``."""
    if not isinstance(ball, kind):
        raise ValueError(f"ball must be {getattr(kind, '__name__', 'Linf(eps) or L2(eps)')}, got {ball!r}")
    return ball
