"""Which images a network takes for another: descent on the distance of their representations.

By :func:`~hybridgen_lib.attacks.ascent.ascend` in a ball so large that only the range of the pixels binds. Source:
`interpretable`, equations 13 to 16, after Engstrom et al. (2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybridgen_lib.attacks.ascent import ascend, check_climb
from hybridgen_lib.attacks.balls import Ball
from hybridgen_lib.classifier import check_images, check_number
from hybridgen_lib.explain.representation import AT_ONCE, EVERYWHERE, held, represented

__all__ = ["Inversion", "invert", "representation_gap"]


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
    with held(represent):
        return _gap(represented(represent, images), _check_target(represented(represent, target)))


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
    if start.dtype != target.dtype or not start.isfinite().all():
        raise ValueError(f"start must be finite numbers of target's type, {target.dtype}; got {start.dtype}, NaN or infinity")
    check_climb(ball, steps, step_size)
    if examples_per_pass is not None:
        check_number(examples_per_pass, "examples_per_pass", low=1, integer=True)
    decode, bounds = (nn.Identity(), (0.0, 1.0)) if decode is None else (decode, None)
    with held(represent), held(decode, "decode"):
        wanted = _check_target(represented(represent, target))
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


def _check_target(r: Tensor) -> Tensor:
    if len(r) and (dead := int((r == 0).all(1).sum())):
        raise ValueError(f"target must have representations other than zero, got {dead} that are zero")
    return r


def _check_pairs(images: Tensor, target: Tensor, name: str, shapes: bool = True) -> None:
    if not isinstance(images, Tensor) or len(images) != len(target) or (shapes and images.shape != target.shape):
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        wanted = f"the shape of target, {tuple(target.shape)}" if shapes else f"a code for each of {len(target)} targets"
        raise ValueError(f"{name} must have {wanted}, got {got}")
