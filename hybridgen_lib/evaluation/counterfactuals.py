"""How far away, and how many steps, an image's nearest counterfactual is: what `hybrid` calls proximity and speed.

A counterfactual is an image near x that the model takes for another class. `hybrid` uses "low proximity" both for a small
perturbation (section 4.1) and for a large one (4.3); here *proximity* is the distance to the nearest counterfactual that was
found, so that a robust model has a large one. It is an upper bound, and as good as the attack behind it. An image that no
attack moves within the limit is censored there: see :class:`~hybridgen_lib.measurement.Survival`.

A stochastic model decides by its noise. Its counterfactuals are looked for with the noise frozen to one draw, where it is an
ordinary function (or, ``frozen=False``, with the noise as it comes), and count if the model is wrong in most of ``draws``
fresh draws. In the same way an image is wrong from the start: more than half of the draws. Every candidate meets draws of
its own, so one that is wrong in nearly half of all draws has a chance with each; more draws leave it less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hybridgen_lib.attacks import pgd
from hybridgen_lib.attacks.balls import Ball
from hybridgen_lib.attacks.gradient import LOSSES, attacking
from hybridgen_lib.classifier import check_choice, check_model, check_number, frozen_noise, is_stochastic
from hybridgen_lib.evaluation.outcomes import (
    Attack,
    check_balls,
    chosen_images,
    device_of,
    fraction_right,
    generator_for,
    inside,
)
from hybridgen_lib.measurement import Survival

__all__ = ["proximity", "speed"]


def proximity(
    model: nn.Module,
    data,
    ball_type: type[Ball],
    *,
    limit: float,
    attack: Attack | None = None,
    smallest: Callable | None = None,
    doublings: int = 6,
    bisections: int = 5,
    frozen: bool = True,
    index=None,
    draws: int = 10,
    seed: int = 0,
    batch_size: int = 250,
) -> Survival:
    """The distance from each image to the nearest counterfactual that an attack finds within ``limit``.

    The radius is doubled, from limit / 2^doublings on, until the attack succeeds; between that radius and the last it is
    bisected. An attack of one step can succeed at a radius and fail at a larger one: doubling from below meets the first of
    such ranges, down to its own coarseness. What counts is the length of the perturbation, which may be less than the radius.

    Args:
        model, data, index, seed: as in :func:`~hybridgen_lib.evaluation.attack_outcomes`; ``frozen`` and ``draws`` above.
        ball_type: ``Linf`` or ``L2``, in which distances are measured.
        limit: the largest radius, > 0, in pixel units of [0, 1].
        attack: ``attack(model, x, y, ball, generator=...) -> x_adv``, by default PGD with 40 steps on the margin from the
            image itself. Under frozen noise it climbs to the end: what one draw just gets wrong, most draws get right.
        smallest: a ``smallest_*`` attack of the same norm that is asked first, such as ``smallest_cw`` in l2; of each image
            the nearer of both finds counts, and bisection is spared the radii beyond what this one finds.
        doublings, bisections: the radius ends up at most 2^-bisections of itself too large (below limit / 2^doublings: of
            that), if the attack succeeds wherever it can.
        batch_size: images in one call of an attack. For a deterministic model the result does not depend on it.

    Returns:
        A ``Survival`` of the quantity ``"proximity"``.

    Raises:
        ValueError: an argument out of range, scores that are NaN, or an attack that left the ball.
    """
    if not (isinstance(ball_type, type) and issubclass(ball_type, Ball)):
        raise ValueError(f"ball_type must be Linf or L2, got {ball_type!r}")
    if attack is not None and not callable(attack):
        raise ValueError(f"attack must be a function attack(model, x, y, ball, generator=...), got {attack!r}")
    measures = getattr(getattr(smallest, "func", smallest), "ball_type", None)
    if smallest is not None and measures is not ball_type:
        raise ValueError(f"smallest must be a smallest_* attack that measures in {ball_type.__name__}, got {smallest!r}")
    check_number(limit, "limit", low=1e-6)
    check_number(doublings, "doublings", low=0, integer=True)
    check_number(bisections, "bisections", low=0, integer=True)
    began = time.perf_counter()
    search = _Search(model, data, index, frozen, draws, seed, batch_size)
    if attack is None:
        attack = partial(pgd, loss="margin", random_start=False, stop_when_fooled=not search.frozen)
    nearest = torch.full(search.y.shape, torch.inf, device=search.y.device, dtype=search.x.dtype)
    nearest[search.wrong] = 0
    rows = (~search.wrong).nonzero()[:, 0]
    if smallest is not None:
        for some, generator in search.parts(rows, "smallest"):
            with search.noise(generator):
                found = smallest(model, search.x[some], search.y[some], generator=generator)
            hit = (found.distance <= limit) & search.flipped(found.x_adv, some, generator)
            nearest[some[hit]] = found.distance[hit]

    def falls(rows: Tensor, radii: Tensor, what: str) -> Tensor:
        """Which of ``rows`` (b,) fall within ``radii`` (b,), all images of one radius together."""
        hits = nearest[rows] <= radii
        for radius in radii[~hits].unique().tolist():
            ball, left = ball_type(radius), rows[(radii == radius) & ~hits]
            for some, generator in search.parts(left, what, radius):
                x = search.x[some]
                with search.noise(generator):
                    tried = inside(ball, x, attack(model, x, search.y[some], ball, generator=generator))
                hit, length = search.flipped(tried, some, generator), ball.norm(tried - x)
                nearest[some[hit]] = torch.minimum(nearest[some[hit]], length[hit])
                bar.update(len(some))
        return nearest[rows] <= radii * (1 + 1e-4) + 1e-6  # as much as ``inside`` allows

    bar = tqdm(desc="proximity", unit="attack", disable=None, leave=False)
    low, high = nearest.new_zeros(len(nearest)), nearest.new_zeros(len(nearest))
    left = rows
    for k in range(int(doublings), -1, -1):
        radius = limit / 2**k
        hit = falls(left, nearest.new_full(left.shape, radius), "doubling")
        high[left[hit]], low[left[~hit]] = radius, radius
        left = left[~hit]
    rows = rows[high[rows] > 0]
    for _ in range(int(bisections)):
        middle = (low[rows] + high[rows]) / 2
        hit = falls(rows, middle, "bisection")
        low[rows], high[rows] = torch.where(hit, low[rows], middle), torch.where(hit, middle, high[rows])
    bar.close()
    return search.answer("proximity", nearest, float(limit), began)


def speed(
    model: nn.Module,
    data,
    ball: Ball,
    *,
    step_size: float,
    limit: int = 30,
    loss: str = "ce",
    eot: int = 1,
    frozen: bool = True,
    index=None,
    draws: int = 10,
    seed: int = 0,
    batch_size: int = 250,
) -> Survival:
    """How many projected gradient steps of ``step_size`` it takes until each image's decision flips, at most ``limit``.

    The steps are those of ``pgd`` without a random start, so in ``Linf`` those of I-FGSM: what is counted are steps from the
    image itself. After each one the decision is looked at, and the first flip counts, whatever later steps would do. A
    stochastic model's is first looked at in one fresh draw, and only if that is wrong in ``draws`` others.

    `hybrid`, section 4.3, counts "the minimum number of iterations required to reduce accuracy to 0.4", at most 30: the metric
    ``iterations_to_0.4`` of the result, at the limit where accuracy stays above.

    Args:
        model, data, index, seed, batch_size: as in :func:`proximity`; ``frozen`` and ``draws`` above.
        ball: ``Linf(eps)`` or ``L2(eps)``, eps > 0, in which the steps stay.
        step_size: the length of a step in the ball's norm, > 0.
        loss: as in ``pgd``, ``"ce"``, ``"margin"`` or ``"dlr"``.
        eot: for a stochastic model with its noise as it comes, over how many draws each gradient is averaged.

    Returns:
        A ``Survival`` of the quantity ``"iterations"``.

    Raises:
        ValueError: an argument out of range, scores that are NaN, or no gradient in x.
    """
    check_balls([ball], "ball")
    check_number(ball.eps, "ball's eps", low=1e-6)
    check_number(step_size, "step_size", low=1e-9)
    check_number(limit, "limit", low=1, integer=True)
    check_choice(loss, "loss", LOSSES)
    check_number(eot, "eot", low=1, integer=True)
    began = time.perf_counter()
    search = _Search(model, data, index, frozen, draws, seed, batch_size)
    steps = torch.full(search.y.shape, torch.inf, device=search.y.device)
    steps[search.wrong] = 0
    bar = tqdm(total=len(steps), desc="speed", unit="image", disable=None, leave=False)
    for some, generator in search.parts((~search.wrong).nonzero()[:, 0], "speed"):
        x, y, here = search.x[some], search.y[some], search.x[some].clone()
        left, noise = torch.arange(len(some), device=some.device), int(torch.randint(2**31, (), generator=generator))
        for k in range(1, int(limit) + 1):
            with search.noise(seed=noise), attacking(model, x, y, loss, None, eot, None, generator) as goal:
                here[left] = goal.climb(x, left, ball, steps=1, step_size=step_size, starts=here, stops=False)
            hit = search.flipped(here[left], some[left], generator, glance=True)
            steps[some[left[hit]]] = k
            left = left[~hit]
            if len(left) == 0:
                break
        bar.update(len(some))
    bar.close()
    return search.answer("iterations", steps, float(limit), began)


# ---------------------------------------------------------------- what both share


class _Search:
    """The images, which of them are wrong from the start, and when one that was right counts as flipped."""

    def __init__(self, model: nn.Module, data, index, frozen: bool, draws: int, seed: int, batch_size: int):
        check_model(model)
        if not isinstance(frozen, bool):
            raise ValueError(f"frozen must be True or False, got {frozen!r}")
        check_number(draws, "draws", low=1, integer=True)
        check_number(seed, "seed", integer=True)
        self.size = check_number(batch_size, "batch_size", low=1, integer=True)
        x, y, self.index = chosen_images(data, index)
        device = device_of(model)
        self.model, self.x, self.y = model, x.to(device), y.to(device)
        self.stochastic, self.seed = is_stochastic(model), seed
        self.frozen, self.draws = frozen and self.stochastic, int(draws) if self.stochastic else 1
        judge = generator_for(seed, "judge", "clean")
        pairs = zip(self.x.split(self.size), self.y.split(self.size), strict=True)
        self.wrong = torch.cat([fraction_right(model, a, b, self.draws, judge) < 0.5 for a, b in pairs])

    def parts(self, rows: Tensor, *what) -> Iterator[tuple[Tensor, torch.Generator]]:
        """``rows`` in batches, with the one source of noise of this purpose, which they share in turn."""
        generator = generator_for(self.seed, "attack", *what)
        for some in rows.split(self.size) if len(rows) else ():
            yield some, generator

    def noise(self, generator: torch.Generator | None = None, seed: int | None = None):
        """The model as the attack meets it: if asked, frozen to one draw, of the ``generator`` unless a ``seed`` is given."""
        if not self.frozen:
            return nullcontext()
        return frozen_noise(self.model, int(torch.randint(2**31, (), generator=generator)) if seed is None else seed)

    def flipped(self, x: Tensor, rows: Tensor, generator: torch.Generator, glance: bool = False) -> Tensor:
        """Whether the model is wrong about ``x`` (b, ...), found for the images ``rows`` (b,), in most of its draws: (b,).

        With ``glance`` an image that one draw before these gets right has not flipped: cheaper by far after every step.
        """
        rest = torch.arange(len(x), device=x.device)
        hit = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if glance and self.stochastic:
            rest = rest[fraction_right(self.model, x, self.y[rows], 1, generator) < 0.5]
        if len(rest):
            hit[rest] = fraction_right(self.model, x[rest], self.y[rows[rest]], self.draws, generator) < 0.5
        return hit

    def answer(self, quantity: str, values: Tensor, limit: float, began: float) -> Survival:
        reached = values <= limit * (1 + 1e-4) + 1e-6  # float32
        kept = torch.where(reached, values, limit).clamp(max=limit)
        kept = torch.where(reached & ~self.wrong, kept.clamp_min(1e-9), kept)
        return Survival(self.index, quantity, kept.cpu(), reached.cpu(), limit, time.perf_counter() - began)
