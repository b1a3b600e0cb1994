"""Which pixels a classifier's answer comes from: integrated gradients and expected gradients.

Both walk on straight lines from a baseline, where nothing is to be seen, to the image x. Each pixel is given the part of the
change F(x) - F(baseline) that its own change explains: its difference times its gradient, averaged over the line. What all
pixels are given adds up to the whole change (completeness), so a sum that does not is an error of the integral; it is returned
for every image. Chapter 11 builds both by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from hybridgen_lib.attacks.ascent import NoGradientError
from hybridgen_lib.classifier import (
    check_choice,
    check_images,
    check_labels,
    check_model,
    check_number,
    check_scores,
    evaluating,
    frozen_noise,
    is_stochastic,
)

__all__ = ["Attribution", "expected_gradients", "integrated_gradients", "smoothness"]

RULES = ("trapezoid", "gauss-legendre")
OUTPUTS = ("probability", "score")


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each pixel contributes to F(x), in the units of F: probability, or nats and logits for a score.

    ``values`` (B, channels, H, W), positive where the pixel speaks for the class. ``gap`` (B,) is their sum less
    F(x) - F(baseline), a mean over baselines where there are many; 0 if the integral were exact. ``error``, of the shape of
    ``values``, is their standard error where they come from random samples, else None.
    """

    values: Tensor
    gap: Tensor
    error: Tensor | None = None


def integrated_gradients(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    baseline: Tensor | None = None,
    steps: int = 50,
    rule: str = "trapezoid",
    output: str = "probability",
    draws: int = 8,
    seed: int = 0,
    examples_per_pass: int = 256,
) -> Attribution:
    """Integrated gradients: (x - x') times the mean gradient of F on the line from the baseline x' to x.

    `interpretable`, eqs 6 to 8 and 12; Sundararajan, Taly & Yan 2017, eq. 1. The document's eq. 11 divides the trapezoid's sum
    over m intervals by m + 1, so that even a straight F comes out too small by m / (m + 1); here it is divided by m.

    Args:
        model: scores images; see ``hybridgen_lib.classifier``.
        x: images (B, channels, H, W) in [0, 1].
        target: the class (B,) that is explained in each image.
        baseline: images in [0, 1] that broadcast to x; by default black.
        steps, rule: ``"trapezoid"`` has ``steps`` intervals and ``steps + 1`` gradients, ``"gauss-legendre"`` ``steps``
            gradients, none of them at the ends.
        output: what F is: ``"probability"``, p(target|x), as in the document, or ``"score"``, the model's own (its
            ``score_kind`` says what that is). A score log p(x, y) has the gradient of log p(x|y), and the same attributions.
        draws, seed: a stochastic model is explained under this many frozen draws of its noise, made from ``seed``; F is the
            mean over them. A deterministic model, or one that is frozen already, has no use for them.
        examples_per_pass: how many points, of all images and steps, share one forward and backward pass: memory is bounded by
            it, results do not depend on it. A model's own ``examples_per_pass`` is kept to where that is less.

    Raises:
        ValueError: an argument out of range, scores that are NaN, no gradient in x, or one that is not finite.
    """
    nodes, weights = _quadrature(check_choice(rule, "rule", RULES), check_number(steps, "steps", low=1, integer=True))
    check_images(x)
    start = torch.zeros_like(x[:1]) if baseline is None else _check_baseline(baseline, x)
    with _explaining(model, x, target, output, draws, seed, examples_per_pass) as explained:
        nodes, weights = nodes.to(x), weights.to(x)
        slope, on_the_line = torch.zeros_like(x), x.new_zeros(len(x), len(nodes))
        ends = x.detach(), start.expand(x.shape)
        for rows, part in _blocks(len(x), len(nodes), explained.size):
            here, there = (end[rows, None] for end in ends)
            points = torch.lerp(there, here, nodes[part].view(1, -1, 1, 1, 1))
            on_the_line[rows, part], gradients = explained.gradients(points, rows)
            slope[rows] += torch.einsum("s,bs...->b...", weights[part], gradients)
        seen = rule == "trapezoid"  # both ends were among the points
        change = on_the_line[:, -1] - on_the_line[:, 0] if seen else explained.change(x, start)
    return _complete(slope.mul_(x.detach() - start), change)


def expected_gradients(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    references: Tensor,
    *,
    samples: int = 200,
    output: str = "probability",
    draws: int = 8,
    seed: int = 0,
    examples_per_pass: int = 256,
) -> Attribution:
    """Expected gradients: the mean of (x - x') times the gradient of F at x' + a (x - x'), over references x' and a in [0, 1].

    `interpretable`, eq. 18; Erion et al. 2021; what SHAP's ``GradientExplainer`` estimates by independent draws. Here
    [0, 1] is cut into as many equal parts as there are samples, each part holds one a, and references are used equally often:

    - with two samples or more for each of the N references, [0, 1] is cut into layers, and each reference is used twice in
      every layer. ``samples`` is rounded up to a multiple of 2 N;
    - with fewer, how often differs by 1 at most. ``samples`` is rounded up to an even number.

    Samples come in pairs, of one reference in one layer or, in the second case, of neighbouring parts of [0, 1], and the
    standard error comes from the differences within pairs. It is right or too large, for it counts some of the variation that
    the balance has removed: in the first case the more, the more alike the references are (several times too large where they
    hardly differ), and in the second the nearer ``samples`` is to N from either side. The same samples serve every image, so
    an explanation does not depend on its company.

    Args:
        references: images (N, channels, H, W) in [0, 1], what x is compared with: some training images, say.
        samples: gradients for each image, before rounding.
        seed: of the samples, and of the ``draws``.
        examples_per_pass: as in :func:`integrated_gradients`, and at least 2.

    The other arguments, and what is raised, are as in :func:`integrated_gradients`. The gap is against the mean of F over all
    references; it is random here, and shrinks with more samples.
    """
    check_images(x)
    check_images(references, "references")
    if len(references) == 0 or references.shape[1:] != x.shape[1:]:
        raise ValueError(f"references must be images (N, {_shape(x)}), N >= 1, got {tuple(references.shape)}")
    check_number(samples, "samples", low=2, integer=True)
    check_number(examples_per_pass, "examples_per_pass", low=2, integer=True)
    with _explaining(model, x, target, output, draws, seed, examples_per_pass) as explained:
        which, place = _design(int(samples), len(references), seed)
        which, place, references = which.to(x.device), place.to(x), references.detach().to(x)
        total, squares = torch.zeros_like(x), torch.zeros_like(x)
        for rows, pairs in _blocks(len(x), len(which), max(1, explained.size // 2)):
            there = references[which[pairs].flatten()]
            away = x.detach()[rows, None] - there
            points = torch.addcmul(there, away, place[pairs].view(1, -1, 1, 1, 1))
            terms = explained.gradients(points, rows)[1].mul_(away)
            total[rows] += terms.sum(1)
            squares[rows] += (terms[:, ::2] - terms[:, 1::2]).square_().sum(1)
        change = explained.change(x, references, mean=True)
    return _complete(total.div_(which.numel()), change, squares.sqrt_().div_(which.numel()))


def smoothness(values: Tensor) -> Tensor:
    """How little an attribution (B, channels, H, W) jumps from pixel to pixel, (B,) in [0, 1]: 1 - TV / (4 sum |v|).

    v is the sum over channels, TV the total of |differences| of neighbours across and down, with zeros around the image. A
    difference is at most the sum of the two sizes, and a pixel takes part in four: so 0 is reached by a checkerboard of signs
    or by pixels that stand alone, and a wide even patch comes near 1. Neither scale nor sign matters; where nothing is
    attributed it is NaN. `interpretable` calls the robust network's explanations "smoother" without a measure; this is ours.
    """
    if not isinstance(values, Tensor) or values.ndim != 4 or not values.is_floating_point():
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"values must be attributions (B, channels, H, W), got {got}")
    padded = nn.functional.pad(values.sum(1), (1, 1, 1, 1))
    jumps = padded.diff(dim=1).abs().sum((1, 2)) + padded.diff(dim=2).abs().sum((1, 2))
    return 1 - jumps / (4 * padded.abs().sum((1, 2)))


# ---------------------------------------------------------------- where to take gradients


def _quadrature(rule: str, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1]; the weights add up to 1."""
    if rule == "trapezoid":
        nodes, weights = torch.linspace(0, 1, int(steps) + 1, dtype=torch.float64), torch.ones(int(steps) + 1).double()
        weights[0] = weights[-1] = 0.5
        return nodes, weights / steps
    nodes, weights = np.polynomial.legendre.leggauss(int(steps))
    return torch.from_numpy((1 + nodes) / 2), torch.from_numpy(weights / 2)


def _design(samples: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of samples: which of ``count`` references (P, 2), and a in [0, 1] (P, 2)."""
    generator = torch.Generator().manual_seed(int(seed))
    if samples >= 2 * count:  # in each layer of [0, 1] every reference twice
        layers, parts = -(-samples // (2 * count)), 2 * count
        which = torch.arange(count).repeat(layers)[:, None].expand(-1, 2)
        part = [k * parts + torch.randperm(parts, generator=generator).view(-1, 2) for k in range(layers)]
        part = torch.cat(part)
    else:
        pairs = -(-samples // 2)
        which = torch.cat([torch.randperm(count, generator=generator) for _ in range(-(-2 * pairs // count))])
        which, part = which[: 2 * pairs].view(-1, 2), torch.arange(2 * pairs).view(-1, 2)
    return which, (part + torch.rand(part.shape, generator=generator, dtype=torch.float64)) / part.numel()


def _blocks(images: int, points: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Cut (images, points) into blocks of at most ``size``, parts of one image or several whole ones."""
    points_each = -(-points // -(-points // size))  # nearly equal parts
    images_each = max(1, size // points_each)
    for i in range(0, images, images_each):
        for p in range(0, points, points_each):
            yield slice(i, i + images_each), slice(p, p + points_each)


def _complete(values: Tensor, change: Tensor, error: Tensor | None = None) -> Attribution:
    if not values.isfinite().all():
        raise ValueError("model must have a finite gradient in x all along the line from the baseline, got NaN or infinity")
    gap = values.double().sum((1, 2, 3)) - change.double()
    return Attribution(values, gap.to(values.dtype), error)


# ---------------------------------------------------------------- the function that is explained


@dataclass(frozen=True)
class _Explained:
    """F for the target of each image, and its gradients: the mean over the frozen draws, one of None for no noise."""

    model: nn.Module
    target: Tensor
    output: str
    draws: list[int | None]
    size: int

    @property
    def one_class(self) -> bool:
        return self.output == "score" and hasattr(self.model, "class_scores")

    def gradients(self, points: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """F (b, s) and its gradients at points (b, s, channels, H, W) that belong to the images ``rows``."""
        labels = self.target[rows].repeat_interleave(points.shape[1])
        leaf, value, gradient = points.flatten(0, 1).requires_grad_(), 0.0, None
        for draw in self.draws:
            with torch.enable_grad(), _noise(self.model, draw):
                values = self._asked(leaf, labels) / len(self.draws)
                if not values.requires_grad:
                    raise NoGradientError("model must have a gradient in x, and its scores do not depend on x in such a way")
                (found,) = torch.autograd.grad(values.sum(), leaf)
            gradient = found if gradient is None else gradient.add_(found)
            value = value + values.detach()
        return value.view(points.shape[:2]), gradient.view(points.shape)

    def _asked(self, x: Tensor, labels: Tensor) -> Tensor:
        """F for one class of each image; a model that can score one class cheaper than all is asked for that one."""
        if self.one_class:
            return self.model.class_scores(x, labels[:, None])[:, 0]
        return self._outputs(x).gather(1, labels[:, None])[:, 0]

    def _outputs(self, x: Tensor) -> Tensor:
        scores = check_scores(self.model(x), len(x))
        check_labels(self.target, scores.shape[1], name="target")
        return scores.softmax(1) if self.output == "probability" else scores

    @torch.no_grad()
    def change(self, x: Tensor, starts: Tensor, mean: bool = False) -> Tensor:
        """F(x) - F(start) for each image (B,): from a start of its own, one for all, or with ``mean`` the mean over starts."""
        total = 0.0
        for draw in self.draws:
            with _noise(self.model, draw):
                total = total + torch.cat([self._outputs(part) for part in torch.cat([x, starts]).split(self.size)])
        here, there = total[: len(x)] / len(self.draws), total[len(x) :] / len(self.draws)
        there = there.mean(0, keepdim=True) if mean else there
        return (here - there).gather(1, self.target[:, None])[:, 0]


def _noise(model: nn.Module, draw: int | None):
    return nullcontext() if draw is None else frozen_noise(model, draw)


@contextmanager
def _explaining(model, x, target, output, draws, seed, examples_per_pass) -> Iterator[_Explained]:
    """Check what both methods share, then yield the function that is explained, the model in evaluation mode."""
    check_model(model)
    check_labels(target, images=len(x), name="target")
    check_choice(output, "output", OUTPUTS)
    check_number(draws, "draws", low=1, integer=True)
    check_number(seed, "seed", low=0, integer=True)
    size = check_number(examples_per_pass, "examples_per_pass", low=1, integer=True)
    noise = torch.Generator().manual_seed(int(seed))
    seeds = torch.randint(2**31, (int(draws),), generator=noise).tolist() if is_stochastic(model) else [None]
    explained = _Explained(model, target.to(x.device, torch.long), output, seeds, int(size))
    if explained.one_class:
        check_labels(target, model.classes, name="target")
    wish = getattr(model, "examples_per_pass", None)
    if wish is not None:  # about all classes
        explained = replace(explained, size=min(explained.size, wish * model.classes if explained.one_class else wish))
    with evaluating(model):
        yield explained


def _check_baseline(baseline: Tensor, x: Tensor) -> Tensor:
    check_images(baseline, "baseline")
    if any(b not in (1, n) for b, n in zip(baseline.shape, x.shape, strict=True)):
        raise ValueError(f"baseline must broadcast to x, {tuple(x.shape)}, got {tuple(baseline.shape)}")
    return baseline.detach().to(x).expand(len(baseline), *x.shape[1:])


def _shape(x: Tensor) -> str:
    return ", ".join(map(str, x.shape[1:]))
