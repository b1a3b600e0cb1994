"""How much of a classifier an attack leaves: the outcome of every image, and curves with intervals.

An attack is any ``attack(model, x, y, ball, *, generator) -> x_adv``: those of ``hybridgen_lib.attacks``, with settings fixed
by ``functools.partial``. Every image is attacked, and then judged by the model itself: once if
it is deterministic, else over fresh draws of its noise that the attack has never seen. Chapter 05 draws the curves,
chapter 07 asks whether to believe them.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hybridgen_lib.attacks.balls import Ball
from hybridgen_lib.classifier import (
    IMAGES_PER_PASS,
    ask,
    check_images,
    check_labels,
    check_model,
    check_number,
    check_scores,
    evaluating,
    is_stochastic,
)
from hybridgen_lib.data import ImageData, as_float
from hybridgen_lib.measurement import Outcomes

__all__ = ["accuracy_curve", "attack_outcomes", "fraction_right", "smallest_outcomes"]

Attack = Callable[..., Tensor]


def accuracy_curve(model: nn.Module, data, attack: Attack, ball_type: type[Ball], epsilons: Sequence[float], **options):
    """Accuracy and success rate at every eps, with intervals: the table of :func:`attack_outcomes`, whose arguments it takes.

    One row per eps and metric, columns ``metric, eps, value, low, high, n, seconds``.
    """
    return attack_outcomes(model, data, attack, ball_type, epsilons, **options).table()


def attack_outcomes(
    model: nn.Module,
    data: ImageData | tuple[Tensor, Tensor],
    attack: Attack,
    ball_type: type[Ball],
    epsilons: Sequence[float],
    *,
    index: Sequence[int] | None = None,
    draws: int = 10,
    seed: int = 0,
    batch_size: int = 250,
) -> Outcomes:
    """Attack images at each radius and record, image by image, how often the model is still right.

    Args:
        model: the classifier; work happens on the device of its parameters.
        data: an ``ImageData``, of which the test images are taken, or a pair of images (N, channels, H, W), float in [0, 1]
            or uint8, and labels (N,).
        attack, ball_type: called as ``attack(model, x, y, ball_type(eps), generator=...)``. What it returns is checked
            against the ball.
        epsilons: the radii; at 0 the clean image is judged.
        index: which images, as positions in ``data``; by default all.
        draws: fresh draws of a stochastic model's noise over which each image is judged; 1 for any other model.
        seed: of the attack's and the judge's noise. Under this library's own attacks on a deterministic model the outcome does
            not depend on ``batch_size``; a stochastic model, AutoAttack and Square draw their noise batch by batch.

    Raises:
        ValueError: an argument out of range, scores that are NaN, or an attack that left the ball.
    """
    check_model(model)
    if not callable(attack):
        raise ValueError(f"attack must be a function attack(model, x, y, ball, generator=...), got {attack!r}")
    if not (isinstance(ball_type, type) and issubclass(ball_type, Ball)):
        raise ValueError(f"ball_type must be Linf or L2, got {ball_type!r}")
    if not isinstance(epsilons, Sequence):
        raise ValueError(f"epsilons must be a list of radii, got {epsilons!r}")
    balls = check_balls([ball_type(check_number(eps, "epsilons", low=0)) for eps in epsilons], "epsilons")
    draws = check_number(draws, "draws", low=1, integer=True)
    seed = check_number(seed, "seed", integer=True)
    batch_size = check_number(batch_size, "batch_size", low=1, integer=True)
    x, y, index = chosen_images(data, index)
    device = device_of(model)
    batches = [(a.to(device), b.to(device)) for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True)]
    draws = draws if is_stochastic(model) else 1

    def judged(images: Sequence[Tensor], *what) -> Tensor:
        generator = generator_for(seed, "judge", *what)
        return torch.cat(
            [fraction_right(model, a, b, draws, generator) for a, (_, b) in zip(images, batches, strict=True)]
        ).cpu()

    clean, right, seconds = judged([a for a, _ in batches], "clean"), [], []
    name = getattr(getattr(attack, "func", attack), "__name__", "attack")  # a partial has its function's name
    bar = tqdm(total=len(balls) * len(x), desc=name, unit="image", disable=None, leave=False)
    for ball in balls:
        began, attacked, generator = time.perf_counter(), [], generator_for(seed, "attack", float(ball.eps))
        for a, b in batches:
            attacked.append(inside(ball, a, attack(model, a, b, ball, generator=generator)) if ball.eps > 0 else a)
            bar.update(len(a))
        seconds.append(time.perf_counter() - began)
        right.append(judged(attacked, float(ball.eps)) if ball.eps > 0 else clean)
    bar.close()
    epsilons = [float(ball.eps) for ball in balls]
    return Outcomes(index=index, clean=clean, epsilons=epsilons, right=torch.stack(right), draws=draws, seconds=seconds)


def smallest_outcomes(
    model: nn.Module,
    data: ImageData | tuple[Tensor, Tensor],
    attack: Callable,
    epsilons: Sequence[float],
    *,
    project: type[Ball] | None = None,
    index: Sequence[int] | None = None,
    draws: int = 10,
    seed: int = 0,
    batch_size: int = 250,
) -> Outcomes:
    """The same from one run of a smallest-perturbation attack, ``attack(model, x, y, generator=...) -> Smallest``.

    At radius eps an image counts as attacked if what was found lies within eps, else it stands as it was; or, if ``project``
    is ``Linf`` or ``L2``, what was found is projected onto that ball of radius eps and judged again, as by Foolbox. Other
    arguments as in :func:`attack_outcomes`; ``epsilons`` are in the attack's norm.
    """
    check_model(model)
    if not callable(attack):
        raise ValueError(f"attack must be a function attack(model, x, y, generator=...), got {attack!r}")
    if not isinstance(epsilons, Sequence) or not epsilons:
        raise ValueError(f"epsilons must be a list of at least one radius, got {epsilons!r}")
    epsilons = [float(check_number(eps, "epsilons", low=0)) for eps in epsilons]
    if len(set(epsilons)) < len(epsilons):
        raise ValueError(f"epsilons must hold each radius once, got {epsilons}")
    draws = check_number(draws, "draws", low=1, integer=True)
    seed = check_number(seed, "seed", integer=True)
    batch_size = check_number(batch_size, "batch_size", low=1, integer=True)
    x, y, index = chosen_images(data, index)
    device = device_of(model)
    if project is not None and not (isinstance(project, type) and issubclass(project, Ball)):
        raise ValueError(f"project must be Linf, L2 or None, got {project!r}")
    norm = getattr(getattr(attack, "func", attack), "ball_type", None)  # in which the attack measures, if it says so
    if None not in (project, norm) and project is not norm:
        raise ValueError(f"project must be {norm.__name__}, the norm of the attack's distances, got {project.__name__}")
    draws = draws if is_stochastic(model) else 1
    attacking, judging = generator_for(seed, "attack", "smallest"), generator_for(seed, "judge", "smallest")
    clean, right, began = [], [], time.perf_counter()
    for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True):
        a, b = a.to(device), b.to(device)
        clean.append(fraction_right(model, a, b, draws, judging).cpu())
        found = attack(model, a, b, generator=attacking)
        check_images(found.x_adv, "the attack's result")
        if found.x_adv.shape != a.shape or found.distance.shape != b.shape:
            raise ValueError(f"attack must return images and a distance for each, got {tuple(found.x_adv.shape)}")
        attacked = fraction_right(model, found.x_adv, b, draws, judging)
        by_radius = []
        for eps in epsilons:
            beyond = found.distance > eps + 1e-6  # float32 distances
            instead = clean[-1].to(device).clone()
            if project is not None and beyond.any():
                clipped = a + project(eps).project(found.x_adv - a)
                instead[beyond] = fraction_right(model, clipped[beyond], b[beyond], draws, judging)
            by_radius.append(torch.where(beyond, instead, attacked).cpu())
        right.append(torch.stack(by_radius))
    seconds = [time.perf_counter() - began] * len(epsilons)  # one run serves every radius
    return Outcomes(index, torch.cat(clean), epsilons, torch.cat(right, 1), draws, seconds)


@torch.no_grad()
def fraction_right(model: nn.Module, x: Tensor, y: Tensor, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """In how many of ``draws`` calls each image is classified as ``y``, as a fraction (B,).

    A stochastic model draws its noise from ``generator``, by default from its own source.
    """
    check_number(draws, "draws", low=1, integer=True)
    check_images(x)
    check_labels(y, images=len(x))
    total = torch.zeros(len(x), device=x.device)
    with evaluating(model):
        for _ in range(int(draws)):
            parts = x.split(2 * IMAGES_PER_PASS)  # twice as many as an attack's, since nothing is kept for a way back
            scores = torch.cat([check_scores(ask(model, part, generator), len(part)) for part in parts])
            check_labels(y, classes=scores.shape[1])
            total += scores.argmax(1) == y
    return total / draws


# ---------------------------------------------------------------- helpers, for the other files of this folder


def check_balls(balls: Sequence[Ball], name: str = "balls") -> list[Ball]:
    """``balls`` if there is at least one, all of one norm, each once."""
    if not isinstance(balls, Sequence) or not balls or not all(isinstance(ball, Ball) for ball in balls):
        raise ValueError(f"{name} must hold at least one ball, Linf(eps) or L2(eps); got {balls}")
    if len({type(ball) for ball in balls}) > 1 or len(set(balls)) < len(balls):
        raise ValueError(f"{name} must hold radii of one norm, each once; got {[ball.eps for ball in balls]}")
    return list(balls)


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of ``model`` are; the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def generator_for(seed: int, *what) -> torch.Generator:
    """A generator of its own for every purpose, from one seed."""
    return torch.Generator().manual_seed(zlib.crc32(repr((int(seed), *what)).encode()))


def chosen_images(data, index) -> tuple[Tensor, Tensor, list[int]]:
    if not isinstance(data, ImageData) and not (isinstance(data, tuple) and len(data) == 2):
        raise ValueError(f"data must be an ImageData or a pair (x, y), got {type(data).__name__}")
    x, y = (data.test_x, data.test_y) if isinstance(data, ImageData) else data
    if not isinstance(x, Tensor) or x.ndim != 4:
        raise ValueError(f"x must be a torch.Tensor of shape (N, channels, H, W), got {getattr(x, 'shape', type(x).__name__)}")
    chosen = range(len(x)) if index is None else index
    if not isinstance(chosen, Iterable):
        raise ValueError(f"index must be positions of images or None, got {index!r}")
    index = [check_number(i, "index", low=0, integer=True) for i in chosen]
    if not index or len(set(index)) < len(index) or max(index) >= len(x):
        raise ValueError(f"index must hold different positions in 0..{len(x) - 1}, at least one; got {index[:10]}")
    check_labels(y, images=len(x))
    chosen = x[index]
    return check_images(as_float(chosen) if chosen.dtype == torch.uint8 else chosen), y[index].long(), index


def inside(ball: Ball, x: Tensor, attacked: Tensor) -> Tensor:
    """``attacked`` if it is what the attack promised: an image in [0, 1] in the ball round x, rounding aside."""
    check_images(attacked, "the attack's result")
    if attacked.shape != x.shape:
        raise ValueError(f"attack must return images of shape {tuple(x.shape)}, got {tuple(attacked.shape)}")
    length = ball.norm(attacked - x).max().item()
    if length > ball.eps * (1 + 1e-4) + 1e-6:
        raise ValueError(f"attack must stay in {ball}, got a perturbation of norm {length:.6g}")
    return attacked
