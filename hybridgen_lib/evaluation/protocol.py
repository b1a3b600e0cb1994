"""One protocol for every defence: strong attacks in a fixed order, each on what the ones before have left.

A robust accuracy is an upper bound, and only as good as the attack behind it. So every model of the book meets the same four,
and of each image the worst counts (Carlini et al. 2019, section 4; Tramer et al. 2020):

1. ``pgd``: PGD on the margin of the scores, several starts. A stochastic model is attacked first with its noise frozen,
   where it is an ordinary function, then with gradients averaged over fresh draws.
2. ``autoattack``: ``standard``, or ``rand`` for a stochastic model.
3. ``square``: no gradient at all; under frozen noise for a stochastic model.
4. ``transfer``: images made against another model.

For a stochastic model the worst image is chosen on one set of draws and reported on another, so the choice flatters nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hybridgen_lib.attacks import Bpda, autoattack, pgd, square, transfer
from hybridgen_lib.attacks.ascent import NoGradientError
from hybridgen_lib.attacks.balls import Ball
from hybridgen_lib.attacks.ensemble import check_tiles
from hybridgen_lib.classifier import (
    ask,
    check_choice,
    check_freezable,
    check_generator,
    check_images,
    check_labels,
    check_model,
    check_number,
    evaluating,
    frozen_noise,
    is_stochastic,
)
from hybridgen_lib.evaluation.outcomes import check_balls, chosen_images, device_of, fraction_right, generator_for, inside
from hybridgen_lib.measurement import Outcomes

__all__ = ["SUITES", "Suite", "adaptive_outcomes", "adaptive_pgd", "evaluate_robustness"]


@dataclass(frozen=True)
class Suite:
    """The constants of an adaptive evaluation.

    Args:
        steps, restarts: of margin PGD.
        eot: for a stochastic model, fresh draws behind each of PGD's gradients.
        draws: fresh draws on which a stochastic model's worst image is chosen; as many others report it.
        autoattack_images: AutoAttack gets the first so many images; None for all, 0 for none.
        queries: of Square, an image.
    """

    steps: int = 100
    restarts: int = 2
    eot: int = 20
    draws: int = 10
    autoattack_images: int | None = None
    queries: int = 1000

    def __post_init__(self):
        for name in ("steps", "restarts", "eot", "draws", "queries"):
            check_number(getattr(self, name), name, low=1, integer=True)
        if self.autoattack_images is not None:
            check_number(self.autoattack_images, "autoattack_images", low=0, integer=True)


SUITES = {
    "adaptive": Suite(),
    "adaptive-sampling-cpu": Suite(autoattack_images=50, queries=200),
    "sketch": Suite(steps=20, restarts=1, eot=2, draws=4, autoattack_images=0, queries=100),
}
"""``adaptive`` is the protocol; the second is it for models that sample, on a CPU; ``sketch`` is for a first look."""


def evaluate_robustness(
    model: nn.Module,
    data,
    ball: Ball,
    suite: str | Suite = "adaptive",
    *,
    surrogate: nn.Module | None = None,
    source: nn.Module | None = None,
    index: Sequence[int] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """What the adaptive protocol leaves of a classifier: a row for each attack in turn, and the worst case per image.

    Args:
        model, data, index, seed: as in :func:`~hybridgen_lib.evaluation.outcomes.attack_outcomes`.
        ball: the allowed perturbations, ``Linf(eps)`` or ``L2(eps)``.
        suite: a name in :data:`SUITES`, or a :class:`Suite`.
        surrogate: the model with a smooth stand-in for a step that has no gradient (BPDA); PGD and AutoAttack climb by it, and
            once more by the model's own gradient where it has one.
        source: another model, whose adversarial images are tried on this one; without it there is no transfer attack.

    Returns:
        Columns ``attack, attacked, value, low, high, n, seconds``. ``value`` is the accuracy over all n images once this
        attack and those above it have been at them, with its 95 % interval; ``attacked`` is on how many images it ran. The
        first row is the clean accuracy, the last the worst case.

    Raises:
        ValueError: an argument out of range, or scores that are NaN.
    """
    check_balls([ball], "ball")
    stages = _staged(model, data, [ball], suite, surrogate, source, index, seed)
    rows, last = [], None
    for name, (outcomes, attacked) in stages.items():
        if last is None:
            rows.append(("clean", 0, *outcomes.estimate("clean_accuracy"), 0.0))
        spent = outcomes.seconds[0] - (last.seconds[0] if last else 0.0)
        rows.append((name.split("+")[-1], attacked[0], *outcomes.estimate("accuracy", ball.eps), spent))
        last = outcomes
    rows.append(("worst case", len(last.index), *last.estimate("accuracy", ball.eps), last.seconds[0]))
    return pd.DataFrame(rows, columns=["attack", "attacked", "value", "low", "high", "n", "seconds"])


def adaptive_outcomes(
    model: nn.Module,
    data,
    balls: Sequence[Ball],
    suite: str | Suite = "adaptive",
    *,
    surrogate: nn.Module | None = None,
    source: nn.Module | None = None,
    index: Sequence[int] | None = None,
    seed: int = 0,
) -> dict[str, Outcomes]:
    """The outcome of every image under the adaptive protocol, at several radii of one norm, after each attack in turn.

    Arguments as in :func:`evaluate_robustness`. Returns an ``Outcomes`` for each stage, keyed ``"pgd"``,
    ``"pgd+autoattack"`` and so on, the last being the worst case; its seconds count from the first attack.
    """
    stages = _staged(model, data, balls, suite, surrogate, source, index, seed)
    return {name: outcomes for name, (outcomes, _) in stages.items()}


def adaptive_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    *,
    steps: int = 40,
    restarts: int = 1,
    eot: int = 5,
    draws: int = 10,
    surrogate: nn.Module | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The protocol's first attack alone, PGD on the margin adapted to models with noise, for ``attack_outcomes``.

    A deterministic model gets margin PGD. A stochastic one is first attacked with its noise frozen, for all ``steps`` (an
    image that one draw gets wrong is not yet fooled); then what is still right in any of ``draws`` fresh draws is attacked
    with gradients averaged over ``eot`` of them. Of all tries the one that is right least often on those draws is returned.
    ``surrogate`` as in :func:`evaluate_robustness`.
    """
    suite = Suite(steps, restarts, eot, draws)
    check_images(x)
    check_labels(y, images=len(x))
    check_balls([ball], "ball")
    check_generator(generator)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    worst = _WorstCase(check_model(model), x, y.to(x.device), ball, suite, generator)
    worst.by_every_gradient(worst.margin_pgd, surrogate)
    return worst.images


def _staged(model, data, balls, suite, surrogate, source, index, seed) -> dict[str, tuple[Outcomes, list[int]]]:
    """By stage: the outcomes, and on how many images its attack ran at each radius."""
    check_freezable(model)
    for name, other in {"surrogate": surrogate, "source": source}.items():
        if other is not None:
            check_model(other, name)
    suite = suite if isinstance(suite, Suite) else SUITES[check_choice(suite, "suite", SUITES)]
    balls = check_balls(balls)
    check_number(seed, "seed", integer=True)
    x, y, index = chosen_images(data, index)
    device = device_of(model)
    x, y = x.to(device), y.to(device)
    draws = suite.draws if is_stochastic(model) else 1
    clean = fraction_right(model, x, y, draws, generator_for(seed, "judge", "clean"))
    for ball in balls:  # what later attacks of the chain would refuse, before the first runs
        check_tiles(x, ball)
    if source is not None:
        _check_source(source, model, x[:1])
    stages: dict[str, list] = {}
    for ball in balls:
        began = time.perf_counter()
        worst = _WorstCase(model, x, y, ball, suite, generator_for(seed, "attack", float(ball.eps)))
        right = clean if ball.eps == 0 else None
        for name, attacked in worst.stages(surrogate, source):
            if attacked or right is None:  # else these are the images of the stage before, judged on the same draws
                right = fraction_right(model, worst.images, y, draws, generator_for(seed, "judge", float(ball.eps)))
            stages.setdefault(name, []).append((right, attacked, time.perf_counter() - began))
    epsilons, found = [float(ball.eps) for ball in balls], {}
    for name, parts in stages.items():
        right, attacked, seconds = zip(*parts, strict=True)
        found[name] = Outcomes(index, clean, epsilons, torch.stack(right), draws, list(seconds)), list(attacked)
    return found


def _check_source(source: nn.Module, model: nn.Module, x: Tensor) -> None:
    """``ValueError`` if ``source`` has other classes than ``model`` or no gradient in an image."""
    inside = x.detach().requires_grad_()
    with torch.enable_grad(), evaluating(source), evaluating(model):
        theirs, ours = (ask(one, inside, generator_for(0, "source")) for one in (source, model))
    if theirs.shape != ours.shape:
        raise ValueError(f"source must have the model's {ours.shape[1]} classes, got scores of shape {tuple(theirs.shape)}")
    if not theirs.requires_grad:
        raise ValueError("source must have a gradient in x, which transfer follows")


class _WorstCase:
    """Of every image the worst found so far, and in how many of ``suite.draws`` draws the model is still right on it."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, suite: Suite, generator: torch.Generator):
        self.model, self.x, self.y, self.ball, self.suite, self.generator = model, x, y, ball, suite, generator
        self.stochastic = is_stochastic(model)
        self.images = x.detach().clone()
        self.left = self._right(self.images, y)

    def stages(self, surrogate: nn.Module | None, source: nn.Module | None):
        """Run the attacks in turn; after each yield the names so far, joined by ``+``, and how many images it was run on."""
        attacks = {
            "pgd": lambda: self.by_every_gradient(self.margin_pgd, surrogate),
            "autoattack": lambda: self.by_every_gradient(self.autoattack, surrogate),
            "square": self.square,
            "transfer": lambda: self.challenge(partial(self._transfer, source)),
        }
        skipped = {"autoattack": self.suite.autoattack_images == 0, "transfer": source is None}
        chain = [name for name in attacks if not skipped.get(name)]
        bar = tqdm(chain, desc=f"eps {self.ball.eps:g}", disable=None, leave=False)
        for k, name in enumerate(bar):
            bar.set_postfix_str(f"{name}, {int((self.left > 0).sum())} images left")
            attacked = attacks[name]() if self.ball.eps > 0 else 0
            yield "+".join(chain[: k + 1]), attacked

    def challenge(self, attack: Callable[[Tensor, Tensor], Tensor], first: int | None = None, ties: bool = False) -> int:
        """Run ``attack(x, y)`` on what is right in any draw (of the ``first`` images) and keep what is right less often.

        With ``ties`` also what is right as often: a climbed image that still holds beats one that has not moved.
        """
        rows = (self.left > 0).nonzero()[:, 0]
        rows = rows if first is None else rows[rows < first]
        if len(rows):
            tried = inside(self.ball, self.x[rows], attack(self.x[rows], self.y[rows]))
            left = self._right(tried, self.y[rows])
            better = left <= self.left[rows] if ties else left < self.left[rows]
            self.images[rows[better]], self.left[rows[better]] = tried[better], left[better]
        return len(rows)

    def by_every_gradient(self, attack: Callable[[nn.Module | None], int], surrogate: nn.Module | None) -> int:
        """Run ``attack`` by the surrogate's gradients and by the model's own, where it has any: neither replaces the other."""
        attacked = []
        for guide in dict.fromkeys([surrogate, None]):
            try:
                attacked.append(attack(guide))
            except NoGradientError:
                if guide is surrogate:  # what was given must have one
                    raise
        return attacked[0]

    def margin_pgd(self, surrogate: nn.Module | None) -> int:
        options = {"steps": self.suite.steps, "loss": "margin", "surrogate": surrogate, "generator": self.generator}
        if not self.stochastic:
            run = partial(pgd, self.model, ball=self.ball, restarts=self.suite.restarts, **options)
            return self.challenge(run, ties=True)
        frozen = partial(self._frozen, pgd, stop_when_fooled=False, **options)
        average = {**options, "surrogate": _thrifty(self.model if surrogate is None else surrogate), "eot": self.suite.eot}
        average = partial(pgd, self.model, ball=self.ball, **average)
        rounds = [frozen] * self.suite.restarts + [average] * self.suite.restarts  # what falls to one needs no other
        attacked = [self.challenge(attack, ties=True) for attack in rounds]
        return attacked[0]

    def autoattack(self, surrogate: nn.Module | None) -> int:
        target, version = self.model, "rand" if self.stochastic else "standard"
        if self.stochastic:
            target, surrogate = _thrifty(target), surrogate and _thrifty(surrogate)
        target = Bpda(target, surrogate) if surrogate else target
        run = partial(autoattack, target, ball=self.ball, version=version, generator=self.generator)
        return self.challenge(run, self.suite.autoattack_images)

    def square(self) -> int:
        return self.challenge(partial(self._frozen, square, queries=self.suite.queries, generator=self.generator))

    def _transfer(self, source: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return transfer(self.model, x, y, self.ball, source=source, steps=self.suite.steps, generator=self.generator)

    def _frozen(self, attack: Callable, x: Tensor, y: Tensor, **options) -> Tensor:
        seed = self._seed()
        with ExitStack() as stack:
            for module in {self.model, options.get("surrogate")} - {None}:
                stack.enter_context(frozen_noise(module, seed))
            return attack(self.model, x, y, ball=self.ball, **options)

    def _right(self, images: Tensor, y: Tensor) -> Tensor:
        draws = self.suite.draws if self.stochastic else 1
        return fraction_right(self.model, images, y, draws, torch.Generator().manual_seed(self._seed()))

    def _seed(self) -> int:
        return int(torch.randint(2**31, (), generator=self.generator, device=self.generator.device))


def _thrifty(model: nn.Module) -> nn.Module:
    """A model with one sample for an answer: many cheap draws tell more about a gradient than few dear ones."""
    return model.with_samples(1) if hasattr(model, "with_samples") else model
