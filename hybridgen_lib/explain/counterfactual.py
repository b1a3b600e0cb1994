"""Counterfactual images: the change of x that makes a model change its mind, in three meanings of "smallest".

- :func:`nearest_counterfactual`: the shortest change, in l2. It may touch every pixel by next to nothing.
- :func:`sparse_counterfactual`: the fewest pixels. Each may change by as much as it can.
- :func:`latent_counterfactual`: for a model that draws, the nearest code. The change is one of what is drawn, not of pixels.

The decision that is changed is the model's own, right or wrong, not the label. A stochastic model is held to one draw of its
noise, by ``frozen_noise(model, 0)`` unless the caller froze another: what comes out changes that draw's decision. The model is
put into evaluation mode meanwhile, and nothing is left behind. Wachter, Mittelstadt and Russell (2018) made the word usual;
`hybrid`, section 4.1, takes adversarial examples for counterfactuals. Chapter 14 shows them side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hybridgen_lib.attacks import L2, smallest_cw
from hybridgen_lib.attacks.ascent import NoGradientError
from hybridgen_lib.attacks.gradient import margin
from hybridgen_lib.classifier import check_images, check_labels, check_model, check_number, check_scores
from hybridgen_lib.explain.representation import held
from hybridgen_lib.models.latent import LatentVariableClassifier

__all__ = [
    "Counterfactual",
    "LatentCounterfactual",
    "decode",
    "latent_counterfactual",
    "nearest_counterfactual",
    "sparse_counterfactual",
]


class Counterfactual(NamedTuple):
    """What was found for each of B images.

    ``images`` (B, channels, H, W) in [0, 1]; ``distance`` (B,) in the unit of the function that made it; ``found`` (B,) bool.
    Where nothing was found the image is x itself and the distance infinite; where x has the target class already it is 0.
    """

    images: Tensor
    distance: Tensor
    found: Tensor


class LatentCounterfactual(NamedTuple):
    """What was found for each of B images on the way of its code.

    ``images`` (B, channels, H, W) in [0, 1], drawn from ``code`` (B, D) for the class ``target`` (B,); ``distance`` (B,) in
    l2 from ``start`` (B, D), the code of x, or infinite where ``found`` (B,) is False: then ``code`` is where the way ended.
    ``reconstruction`` (B, channels, H, W) is what the model draws at ``start`` for its own decision: compare with that, for
    the change from x to it is no part of the counterfactual. ``decode(model, x, code, classes)`` draws what lies between.
    """

    images: Tensor
    distance: Tensor
    found: Tensor
    reconstruction: Tensor
    start: Tensor
    code: Tensor
    target: Tensor


# ---------------------------------------------------------------- in pixels


def nearest_counterfactual(
    model: nn.Module, x: Tensor, target: Tensor | None = None, *, steps: int = 200, searches: int = 9
) -> Counterfactual:
    """The nearest image in l2 of another class, or of the class ``target`` (B,): the attack of Carlini and Wagner (2017).

    ``steps`` and ``searches`` as in :func:`~hybridgen_lib.attacks.smallest_cw`. Distances are l2, upper bounds.

    Raises ``ValueError`` for bad images or classes, scores that are NaN, or no gradient in x.
    """
    with _asking(model, x, target, steps=steps, searches=searches) as (decision, target):
        found = smallest_cw(model, x, decision, target=target, steps=steps, searches=searches)
    return Counterfactual(found.x_adv, found.distance, found.found)


def sparse_counterfactual(
    model: nn.Module, x: Tensor, target: Tensor | None = None, *, most: int | None = None, at_once: int = 4
) -> Counterfactual:
    """The fewest pixels, set to the end of their range, that change the decision, or bring the class ``target`` (B,).

    Each round takes the gradient of the margin and sets the ``at_once`` pixels that promise most: slope times the room that is
    left, summed over a pixel's channels, of which each goes to 0 or to 1. A pixel is set once. When the decision has changed,
    pixels are put back, once each, those that promised least first, wherever the decision stays changed. On a linear model of
    two classes with ``at_once=1`` no fewer would do; elsewhere the search is greedy, in the manner of Papernot et al.'s
    saliency maps (2016), and its count an upper bound.

    ``most`` is how many pixels it may set, by default all; distances count pixels (l0, channels together).

    Raises ``ValueError`` for bad images, classes or numbers, scores that are NaN, or no gradient in x.
    """
    check_number(at_once, "at_once", low=1, integer=True)
    if most is not None:
        check_number(most, "most", low=1, integer=True)
    with _asking(model, x, target) as (decision, target):
        images, pixels = x.detach().clone(), x.shape[2] * x.shape[3]
        most = pixels if most is None else min(int(most), pixels)
        promise = x.new_zeros(len(x), pixels)  # of each pixel that was set; 0 of all others
        left = (~_changed(model, images, decision, target)).nonzero()[:, 0]
        for done in range(0, most, int(at_once)):
            if len(left) == 0:
                break
            gain, ends = _promises(model, images[left], _at(decision, left), _at(target, left))
            gain = gain.masked_fill(promise[left] > 0, 0)
            best = gain.topk(min(int(at_once), most - done), dim=1)
            mask = torch.zeros_like(gain, dtype=torch.bool).scatter_(1, best.indices, best.values > 0)
            promise[left] = torch.where(mask, gain, promise[left])
            images[left] = torch.where(_spread(mask, x), ends, images[left])
            going = mask.any(1)  # where no pixel promises anything the search is over
            changed = _changed(model, images[left], _at(decision, left), _at(target, left))
            left = left[going & ~changed]
        found = _changed(model, images, decision, target)
        _put_back(model, images, x.detach(), promise, found, decision, target)
    images = torch.where(found[:, None, None, None], images, x.detach())
    count = (images != x).any(1).flatten(1).sum(1).to(x.dtype)
    return Counterfactual(images, torch.where(found, count, torch.inf), found)


def _promises(model: nn.Module, x: Tensor, decision: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """By how much each pixel could raise the margin, to first order (b, H W), and the images with every pixel at that end."""
    part = x.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = _gradient(_lead(model, part, decision, target), part)
    ends = torch.where(slope > 0, 1.0, torch.where(slope < 0, 0.0, x))
    return (slope * (ends - x)).sum(1).flatten(1), ends


def _put_back(model, images, x, promise, found, decision, target) -> None:
    """Undo, in place and one pixel of each image at a time, what the changed decision does not need."""
    rank = torch.where(promise > 0, promise, torch.inf).argsort(dim=1, stable=True)
    counts = (promise > 0).sum(1)
    for k in range(int(counts.max()) if len(counts) else 0):
        rows = (found & (k < counts)).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        mask = torch.zeros_like(promise[rows], dtype=torch.bool).scatter_(1, rank[rows, k : k + 1], True)
        without = torch.where(_spread(mask, x), x[rows], images[rows])
        spare = _changed(model, without, _at(decision, rows), _at(target, rows))
        images[rows[spare]] = without[spare]


def _spread(mask: Tensor, x: Tensor) -> Tensor:
    """(b, H W) -> (b, 1, H, W)."""
    return mask.view(len(mask), 1, *x.shape[2:])


# ---------------------------------------------------------------- in the code of a model that draws


def latent_counterfactual(
    model: LatentVariableClassifier,
    x: Tensor,
    target: Tensor | None = None,
    *,
    steps: int = 100,
    step_size: float = 0.1,
    halvings: int = 6,
) -> LatentCounterfactual:
    """Move the code z of an image until what the model draws from it belongs, by the model's own word, to another class.

    z starts at the guide's mean for x and the model's decision; all other latent variables stay at theirs (m, in Deep CAMA
    and in the hybrid). Where the decoder listens to y, y is the target: the question is "the same code, as another class". So
    with gfz, gfy, cama and the hybrid the way in z may be short or none, since y has done the work; with gbz and gby z has to
    do all of it. Then z climbs the target's lead over the other classes in the scores of the decoded image, by steps of
    length ``step_size`` along the gradient, until that image is classified as the target. Last, the straight line from the
    start to there is bisected ``halvings`` times for the nearest code that will do.

    Args:
        model: has a latent variable z, and a decoder of images: a factor p(x|...), or one for flattened images, as the
            hybrid's. A decoder of features alone, as that of gbz-conv9, draws none.
        x: images (B, channels, H, W) in [0, 1].
        target: the class (B,) to be reached; by default the runner-up, of all other classes the one with the largest score.

    Raises:
        ValueError: another model, bad images, classes or numbers, a target that is the decision, or scores that are NaN.
    """
    drawn = _drawn(model)
    check_number(step_size, "step_size", low=1e-9)
    check_number(halvings, "halvings", low=0, integer=True)
    with _asking(model, x, target, steps=steps) as (decision, target):
        if target is None:
            with torch.no_grad():
                target = model(x).scatter(1, decision[:, None], -torch.inf).argmax(1)
        elif (target == decision).any():
            at = int((target == decision).nonzero()[0])
            raise ValueError(f"target must be another class than the model's decision, got {int(target[at])} for image {at}")
        with torch.no_grad():
            means = _means(model, x, decision)
            start, reconstruction = means["z"], _paint(model, drawn, means, decision, x)

        def paint(code: Tensor, rows: Tensor) -> Tensor:
            values = {name: value[rows] for name, value in means.items() if name != "y"}
            return _paint(model, drawn, {**values, "z": code}, target[rows], x[rows])

        def arrived(code: Tensor, rows: Tensor) -> Tensor:
            with torch.no_grad():
                return _changed(model, paint(code, rows), None, target[rows])

        everyone = torch.arange(len(x), device=x.device)
        code, found = start.clone(), arrived(start, everyone)
        for _ in range(int(steps)):
            left = (~found).nonzero()[:, 0]
            if len(left) == 0:
                break
            here = code[left].requires_grad_()
            with torch.enable_grad():
                (slope,) = _gradient(_lead(model, paint(here, left), None, target[left]), here)
            code[left] = here.detach() + step_size * L2(0).steepest(slope)
            found[left] = arrived(code[left], left)
        code = _nearest_on_the_line(start, code, found, arrived, int(halvings))
        with torch.no_grad():
            images = paint(code, everyone)
    distance = torch.where(found, (code - start).norm(dim=1), torch.inf)
    return LatentCounterfactual(images, distance, found, reconstruction, start, code, target)


def decode(model: LatentVariableClassifier, x: Tensor, code: Tensor, classes: Tensor) -> Tensor:
    """What ``model`` draws from codes z (B, D) for ``classes`` (B,), all other latent variables as in the images ``x``.

    Those have the guide's means for x and the model's decision about it, as in :func:`latent_counterfactual`; a decoder that
    does not listen to y ignores ``classes``. Returns the means (B, channels, H, W), in [0, 1].
    """
    drawn = _drawn(model)
    with _asking(model, x, None) as (decision, _), torch.no_grad():
        means = _means(model, x, decision)
        if not isinstance(code, Tensor) or code.shape != means["z"].shape:
            raise ValueError(
                f"code must have shape {tuple(means['z'].shape)}, got {getattr(code, 'shape', type(code).__name__)}"
            )
        check_labels(classes, model.classes, len(x), "classes")
        return _paint(model, drawn, {**means, "z": code.to(x)}, classes.to(x.device), x)


def _drawn(model: nn.Module) -> str:
    """The observed variable that is the image, and that the model can draw; ``ValueError`` if there is none, or no z."""
    if not isinstance(model, LatentVariableClassifier) or "z" not in model.guide.variables:
        raise ValueError(f"model must be a LatentVariableClassifier with a code z, got {type(model).__name__}")
    if "z" in model.interventions:
        raise ValueError("model must leave z free to move, got one under an intervention on z")
    for name in model.observed:
        image = name not in model.deterministic or isinstance(model.deterministic[name], nn.Flatten)
        if image and name not in model.model.given:
            return name
    raise ValueError(f"model must draw images, by a factor p(x|...), got {model.model}")


def _means(model: LatentVariableClassifier, x: Tensor, decision: Tensor) -> dict[str, Tensor]:
    """All variables but y at the guide's means: (B, ...) each."""
    y = torch.eye(model.classes, dtype=x.dtype, device=x.device)[decision]
    dims = {name: model.networks[str(model.guide.factor_of(name))].dims for name in model.guide.variables}
    values, _ = model.infer(model.observe(x), y, {name: x.new_zeros(len(x), size) for name, size in dims.items()})
    for name in model.interventions.keys() & values.keys():  # set once for all images
        values[name] = values[name].expand(len(x), -1)
    return {name: value for name, value in values.items() if name != "y"}


def _paint(model: LatentVariableClassifier, drawn: str, values: dict[str, Tensor], classes: Tensor, like: Tensor) -> Tensor:
    """The mean of the decoder's image for these values, in the shape of ``like``."""
    factor = model.model.factor_of(drawn)
    values = {**values, "y": torch.eye(model.classes, dtype=like.dtype, device=like.device)[classes]}
    made = model.networks[str(factor)](**{parent: values[parent] for parent in factor.parents})
    made = made[factor.variables.index(drawn)] if isinstance(made, tuple) else made
    return made.mean.reshape(like.shape).clamp(0, 1)


def _nearest_on_the_line(start: Tensor, code: Tensor, found: Tensor, arrived, halvings: int) -> Tensor:
    """Of the line from ``start`` to ``code`` (B, D) a point that has arrived, as near to the start as bisection finds it."""
    rows = (found & (code != start).any(1)).nonzero()[:, 0]
    low, high = code.new_zeros(len(rows), 1), code.new_ones(len(rows), 1)
    for _ in range(halvings if len(rows) else 0):
        middle = (low + high) / 2
        there = arrived(torch.lerp(start[rows], code[rows], middle), rows)[:, None]
        low, high = torch.where(there, low, middle), torch.where(there, middle, high)
    nearest = code.clone()
    nearest[rows] = torch.where(high < 1, torch.lerp(start[rows], code[rows], high), code[rows])
    return nearest


# ---------------------------------------------------------------- what all three ask


@contextmanager
def _asking(model: nn.Module, x: Tensor, target: Tensor | None, **counts: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Check what all share, then yield the model's decisions (B,) and the target beside them, on the device of x; the model is
    in evaluation mode and its noise held."""
    check_model(model)
    check_images(x)
    for name, count in counts.items():
        check_number(count, name, low=1, integer=True)
    if target is not None:
        check_labels(target, images=len(x), name="target")
    with held(model, "model"):
        with torch.no_grad():
            scores = check_scores(model(x), len(x))
        if target is not None:
            check_labels(target, scores.shape[1], name="target")
            target = target.to(x.device, torch.long)
        yield scores.argmax(1), target


def _lead(model: nn.Module, x: Tensor, decision: Tensor | None, target: Tensor | None) -> Tensor:
    """By how much what is wanted leads (b,): any class but the decision, or the target."""
    scores = check_scores(model(x), len(x))
    return margin(scores, decision) if target is None else -margin(scores, target)


@torch.no_grad()
def _changed(model: nn.Module, x: Tensor, decision: Tensor | None, target: Tensor | None) -> Tensor:
    answer = check_scores(model(x), len(x)).argmax(1)
    return answer != decision if target is None else answer == target


def _gradient(values: Tensor, of: Tensor) -> tuple[Tensor, ...]:
    if not values.requires_grad:
        raise NoGradientError("model must have a gradient in x, got scores without one")
    found = torch.autograd.grad(values.sum(), of)
    if not found[0].isfinite().all():
        raise ValueError("model must have a finite gradient in x, got NaN or infinity")
    return found


def _at(classes: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if classes is None else classes[rows]
