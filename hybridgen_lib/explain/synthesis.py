"""Images made to order: what a unit answers to, which images a network takes for another, what a class looks like to it.

Three climbs, all by :func:`~hybridgen_lib.attacks.ascent.ascend` in a ball so large that only the range of the pixels binds:
raise one unit of a representation, or several; bring a representation to that of another image; raise the score of a class.
And to start the last one, draws from the Normal distribution of a class's images. Source: `interpretable`, section 2.3.2 and
equations 13 to 16 and 19 to 22; the first two climbs are Engstrom et al.'s (2019), the third Santurkar et al.'s (2019).

A model is put into evaluation mode meanwhile, and nothing is left behind. A stochastic one is held to one draw of its noise,
by ``frozen_noise(model, 0)`` unless the caller froze another: what comes out fits that draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybridgen_lib.attacks import L2, Linf
from hybridgen_lib.attacks.ascent import ascend
from hybridgen_lib.attacks.balls import Ball, draw
from hybridgen_lib.classifier import (
    StochasticClassifier,
    check_generator,
    check_images,
    check_labels,
    check_model,
    check_number,
    check_scores,
    evaluating,
    frozen_noise,
    is_stochastic,
)
from hybridgen_lib.models.backbones import headless

__all__ = [
    "Inversion",
    "Representation",
    "activating",
    "generate_class",
    "invert",
    "normal_draws",
    "representation",
    "representation_gap",
    "visualize_feature",
]

EVERYWHERE = L2(1000.0)
"""The document's ball. Two images of d pixels in [0, 1] are at most sqrt(d) apart, 28 or 55 here: it binds nothing."""
AT_ONCE = 500
"""How many images share a pass where no gradient is needed, and how many draws share a product."""


# ---------------------------------------------------------------- what a network makes of an image


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
    noise image, for 203 of the 379 units of ``cnn`` at ``quick`` that some test image turns on. Inversion hardly notices.

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


# ---------------------------------------------------------------- units


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
    _check_climb(ball, steps, step_size)
    with _held(represent):
        chosen = _check_units(units, _represented(represent, start), start)

        def objective(x: Tensor, rows: Tensor) -> tuple[Tensor, None]:
            return represent(x).gather(1, chosen[rows]).mean(1), None

        return ascend(objective, start, ball, steps=steps, step_size=step_size)


def activating(represent: nn.Module, images: Tensor, unit: int, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` images that activate a unit most, and the ``count`` that do least: two tensors of indices (count,).

    Most extreme first; of equals the earlier one. A unit behind a ReLU is often 0 for many images: then the least are
    only the first of those.
    """
    check_images(images, "images")
    check_number(count, "count", low=1, high=len(images), integer=True)
    with _held(represent):
        r = _represented(represent, images)
    values = r.gather(1, _check_units(unit, r, images, "unit"))[:, 0]
    orders = (values.sort(descending=down, stable=True).indices for down in (True, False))
    most, least = (order[: int(count)] for order in orders)
    return most, least


# ---------------------------------------------------------------- inversion


@dataclass(frozen=True, eq=False)
class Inversion:
    """What :func:`invert` found for each of B images."""

    images: Tensor
    """(B, channels, H, W) in [0, 1]: of all steps, the image whose representation came nearest to the target's."""
    distance: Tensor
    """(B,) how near: |R(image) - R(target)| / |R(target)|."""
    last: Tensor
    """(B, channels, H, W) in [0, 1]: the image after the last step."""
    codes: Tensor | None
    """(B, ...) what ``decode`` made ``images`` of, or None."""


def representation_gap(represent: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """|R(x) - R(t)| / |R(t)| for each image x and its target t, both (B, channels, H, W): (B,) (`interpretable`, eq. 15)."""
    check_images(images, "images")
    check_images(target, "target")
    _check_pairs(images, target, "images")
    with _held(represent):
        return _gap(_represented(represent, images), _check_target(_represented(represent, target)))


def invert(
    represent: nn.Module,
    target: Tensor,
    start: Tensor,
    *,
    ball: Ball = EVERYWHERE,
    steps: int = 10_000,
    step_size: float = 1.0,
    decode: nn.Module | None = None,
    examples_per_pass: int | None = None,
) -> Inversion:
    """Look for an image with the representation of another one, by descent on :func:`representation_gap`.

    Norms are taken for each image. The document's released code takes them over the whole batch: a step of given length goes
    the same way, but the number, and any choice by it, is then no image's own.

    A step of constant length jumps about near the minimum and never settles, so the best of all steps is returned beside the
    last, which is the document's. To come nearer, go on from there with a smaller ``step_size``.

    Args:
        represent: images (B, channels, H, W) -> (B, k), by :func:`representation` for example.
        target: images (B, channels, H, W) in [0, 1] to be matched. Their representations must not be zero.
        start: where to start: images in [0, 1], one a target; with ``decode``, codes (B, ...).
        ball, steps, step_size: as in :func:`~hybridgen_lib.attacks.ascent.ascend`; the document's by default. With ``decode``
            they are about codes.
        decode: a module, codes (B, ...) -> images (B, channels, H, W) in [0, 1], such as the decoder of a generative
            classifier: then a code is looked for, without bounds, and every image on the way is one that it can draw.
        examples_per_pass: how many images share a pass, by default all.
    """
    check_images(target, "target")
    if decode is None:
        check_images(start, "start")
    _check_pairs(start, target, "start", shapes=decode is None)
    _check_climb(ball, steps, step_size)
    if examples_per_pass is not None:
        check_number(examples_per_pass, "examples_per_pass", low=1, integer=True)
    decode, bounds = (nn.Identity(), (0.0, 1.0)) if decode is None else (decode, None)
    with _held(represent), _held(decode, "decode"):
        wanted = _check_target(_represented(represent, target))
        best, distance = start.detach().clone(), wanted.new_full((len(wanted),), math.inf)

        def gap(here: Tensor, rows: Tensor) -> Tensor:
            """The gap of each; the best so far is noted on the way."""
            value = _gap(represent(decode(here)), wanted[rows])
            nearer = value.detach() < distance[rows]
            best[rows[nearer]], distance[rows[nearer]] = here.detach()[nearer], value.detach()[nearer]
            return value

        run = {"steps": steps, "step_size": step_size, "bounds": bounds, "examples_per_pass": examples_per_pass}
        last = ascend(lambda here, rows: (-gap(here, rows), None), start, ball, **run)
        with torch.no_grad():
            for rows in torch.arange(len(last), device=last.device).split(examples_per_pass or AT_ONCE):
                gap(last[rows], rows)
            drawn, end = (torch.cat([decode(part) for part in here.split(AT_ONCE)]) for here in (best, last))
    return Inversion(drawn, distance, end, None if bounds else best)


def _gap(r: Tensor, wanted: Tensor) -> Tensor:
    return (r - wanted).norm(dim=1) / wanted.norm(dim=1)


# ---------------------------------------------------------------- classes


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
    for part in draws.split(AT_ONCE):
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
    _check_climb(ball, steps, step_size)
    y = y.to(start.device, torch.long)
    size = getattr(model, "examples_per_pass", None)
    alone = hasattr(model, "class_scores")

    def objective(x: Tensor, rows: Tensor) -> tuple[Tensor, None]:
        label = y[rows][:, None]
        scores = model.class_scores(x, label) if alone else model(x).gather(1, label)
        return scores[:, 0], None

    with _held(model, "model"):
        with torch.no_grad():
            classes = check_scores(model(start[:1]), len(start[:1])).shape[1]
        check_labels(y, classes)
        per_pass = size * classes if size is not None and alone else size
        return ascend(objective, start, ball, steps=steps, step_size=step_size, examples_per_pass=per_pass)


# ---------------------------------------------------------------- shared


@contextmanager
def _held(model: nn.Module, name: str = "represent"):
    """Inside the block ``model`` is one fixed function: in evaluation mode, and under one draw of its noise."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} must be a torch.nn.Module, got {type(model).__name__}")
    with evaluating(model), frozen_noise(model) if is_stochastic(model) else nullcontext():
        yield


@torch.no_grad()
def _represented(represent: nn.Module, images: Tensor) -> Tensor:
    """The representations (B, k) of images, a part at a time; checked."""
    parts = [represent(part) for part in images.split(AT_ONCE)]
    for part in parts:
        if not isinstance(part, Tensor) or part.ndim != 2 or not part.isfinite().all():
            got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ValueError(f"represent must return finite numbers of shape (B, k), got {got}")
    return torch.cat(parts)


def _check_target(r: Tensor) -> Tensor:
    if len(r) and (dead := int((r == 0).all(1).sum())):
        raise ValueError(f"target must have representations other than zero, got {dead} that are zero")
    return r


def _check_pairs(images: Tensor, target: Tensor, name: str, shapes: bool = True) -> None:
    if not isinstance(images, Tensor) or len(images) != len(target) or (shapes and images.shape != target.shape):
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        wanted = f"the shape of target, {tuple(target.shape)}" if shapes else f"a code for each of {len(target)} targets"
        raise ValueError(f"{name} must have {wanted}, got {got}")


def _check_units(units: int | Sequence[int] | Tensor, r: Tensor, images: Tensor, name: str = "units") -> Tensor:
    """Units as (B, m), integers in 0..k-1."""
    chosen = torch.as_tensor(units, device=r.device)
    rows = chosen if chosen.ndim == 2 else chosen.reshape(1, -1).expand(len(images), -1)
    whole = not (chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool)
    fits = chosen.ndim <= 2 and len(rows) == len(images) and rows.shape[1] > 0
    if not whole or not fits or (rows.numel() and not 0 <= rows.min() <= rows.max() < r.shape[1]):
        allowed = f"one or several integers in 0..{r.shape[1] - 1}, or as many for each of {len(images)} images"
        raise ValueError(f"{name} must be {allowed}, got {units!r}")
    return rows.long()


def _check_climb(ball: Ball, steps: int, step_size: float) -> None:
    if not isinstance(ball, (L2, Linf)):
        raise ValueError(f"ball must be L2(eps) or Linf(eps), got {ball!r}")
    check_number(steps, "steps", low=0, integer=True)
    check_number(step_size, "step_size", low=0)
