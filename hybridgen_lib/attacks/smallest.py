"""Attacks that look for the smallest perturbation by asking for predictions alone: noise, contrast, blur. And what every
such attack shares, C&W in ``carlini_wagner`` too: its result, its questions to the model, its form inside a ball.

An attack inside a ball says whether an image falls at one radius; these say at which distance it falls, so one run serves
every radius. The signature is ``smallest_*(model, x, y, *, ..., generator=None) -> Smallest``, with ``x`` float
(B, channels, H, W) in [0, 1] and ``y`` integer labels (B,); :func:`within` makes an attack inside a ball of each. The five
here are those of zoo (B.1), with the settings of the library it used, Foolbox 3. Chapter 06 builds each by hand.

``generator`` (by default one with seed 0) is the source of noise, also of a stochastic model's: every question to such a
model is one draw, so a long search finds lucky ones; under ``frozen_noise`` the model is a function. For a deterministic
model results do not depend on how images are batched, given one generator passed along the batches. No trace is left: the
model's mode, its parameters' gradients and ``requires_grad`` and the global random state are as before. Bad arguments and
scores that are NaN raise a ``ValueError``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hybridgen_lib.attacks.balls import L2, Ball, Linf, draw
from hybridgen_lib.attacks.gradient import Goal, attacking
from hybridgen_lib.classifier import check_images, check_number

__all__ = [
    "Question",
    "Smallest",
    "asking",
    "gaussian_blur",
    "measured_by",
    "smallest_blur",
    "smallest_contrast_binary",
    "smallest_contrast_linear",
    "smallest_gaussian_noise",
    "smallest_uniform_noise",
    "within",
]

GREY = 0.5
"""What contrast is reduced towards: the middle of [0, 1]."""
IMAGES_PER_PASS = 256
"""How many images the model is shown at once, unless it has ``examples_per_pass``."""


class Smallest(NamedTuple):
    """The smallest perturbations that an attack found.

    ``x_adv`` (B, channels, H, W) in [0, 1]; ``distance`` (B,) of x_adv from x in the attack's norm; ``found`` (B,) bool. An
    image that is misclassified already is found at distance 0; where nothing is found x_adv is x and the distance infinite.
    """

    x_adv: Tensor
    distance: Tensor
    found: Tensor


def measured_by(kind: type[Ball]):
    def mark(attack):
        attack.ball_type = kind  # the norm of its distances
        return attack

    return mark


# ---------------------------------------------------------------- the attacks


@measured_by(Linf)
def smallest_uniform_noise(model, x, y, *, sizes: Iterable[float] | None = None, generator=None) -> Smallest:
    """Noise uniform in [-size, size] is added, and the image clipped to [0, 1] (zoo, B.1). Distances are linf, after clipping.

    Each image has one draw of noise, made larger: the first of the increasing ``sizes`` (by default 0.01, 0.02, ..., 1) that
    fools it counts. Each size is looked at. zoo's attack with a fixed size eps is ``sizes=(eps,)``.
    """

    def noise(like: Tensor, generator: torch.Generator) -> Tensor:
        return 2 * draw(torch.rand, like, generator) - 1

    return _louder_noise(model, x, y, Linf, noise, [k / 100 for k in range(1, 101)] if sizes is None else sizes, generator)


@measured_by(L2)
def smallest_gaussian_noise(model, x, y, *, sizes: Iterable[float] | None = None, generator=None) -> Smallest:
    """Gaussian noise of l2 length size is added, and the image clipped to [0, 1] (zoo, B.1). Distances are l2, after clipping.

    As :func:`smallest_uniform_noise`; by default the sizes are 0.1, 0.2, ..., 10. At 28x28 a length of 10 is 0.36 a pixel.
    """

    def noise(like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.nn.functional.normalize(draw(torch.randn, like, generator), dim=1)

    return _louder_noise(model, x, y, L2, noise, [k / 10 for k in range(1, 101)] if sizes is None else sizes, generator)


@measured_by(Linf)
def smallest_contrast_linear(model, x, y, *, steps: int = 1000, stride: int = 20, generator=None) -> Smallest:
    """Contrast is reduced towards mid grey, x + s (1/2 - x), by the first share s of 1/steps, 2/steps, ..., 1 that fools
    (zoo, B.1). Distances are linf.

    Every ``stride``-th share is tried until one fools, then each between it and the one tried before. A range of shares that
    fools, but is narrower than a stride and lies before the first one met, is missed; ``stride=1`` looks at every share.
    """
    shares = _shares(steps, stride)
    with asking(model, x, y, generator) as question:
        return _first_size(question, Linf, question.less_contrast, shares, int(stride))


@measured_by(Linf)
def smallest_contrast_binary(model, x, y, *, steps: int = 15, generator=None) -> Smallest:
    """Contrast is reduced towards mid grey by a share found by ``steps`` bisections of [0, 1] (zoo, B.1). Distances are linf.

    Nothing is found where plain grey does not fool. The share is the smallest if a larger one never fools less, else the
    lower end of some range that fools. Foolbox counts its look at the clean image as the first of 15.
    """
    check_number(steps, "steps", low=1, integer=True)
    with asking(model, x, y, generator) as question:
        grey, rows = question.less_contrast, question.left
        rows = rows[question.fooled(grey, rows, x.new_ones(len(rows)))]
        return question.answer(Linf, grey, rows, _bisect(question, grey, rows, int(steps)))


@measured_by(Linf)
def smallest_blur(model, x, y, *, steps: int = 1000, stride: int = 20, generator=None) -> Smallest:
    """The image is blurred by the first standard deviation that fools, of ``steps`` equal ones up to max(H, W) pixels
    (zoo, B.1). Distances are linf. The filter is :func:`gaussian_blur`; ``stride`` as in :func:`smallest_contrast_linear`.
    """
    shares = _shares(steps, stride)
    with asking(model, x, y, generator) as question:

        def blurred(rows: Tensor, share: Tensor) -> Tensor:
            return gaussian_blur(question.x[rows], share.flatten() * max(x.shape[2:]))

        return _first_size(question, Linf, blurred, shares, int(stride))


def within(smallest: Callable[..., Smallest], *, project: bool = False) -> Callable[..., Tensor]:
    """An attack inside a ball, ``attack(model, x, y, ball, *, generator=None) -> x_adv``, made of a smallest-perturbation one.

    What ``smallest``, a ``smallest_*`` attack or a ``functools.partial`` of one, finds within the ball's eps is kept; every
    other image comes back as it is. With ``project`` what it finds further away comes back projected onto the ball, as from
    Foolbox and so in zoo: it may still fool, and for blur often does. The noise attacks run at the one size eps, as in zoo.

    Raises:
        ValueError: ``smallest`` is something else; from the attack, ``ball`` is not of the norm of its distances.
    """
    function = getattr(smallest, "func", smallest)  # a partial has its function's name and norm
    kind = getattr(function, "ball_type", None)
    if kind is None:
        raise ValueError(f"smallest must be one of the smallest_* attacks or a partial of one, got {smallest!r}")

    def attack(model: nn.Module, x: Tensor, y: Tensor, ball: Ball, *, generator: torch.Generator | None = None) -> Tensor:
        if not isinstance(ball, kind):
            raise ValueError(f"ball must be {kind.__name__}, the norm of {attack.__name__}, got {ball!r}")
        fixed = {"sizes": [ball.eps]} if function in (smallest_uniform_noise, smallest_gaussian_noise) else {}
        x_adv, distance, _ = smallest(model, x, y, generator=generator, **fixed)
        kept = distance <= ball.eps * (1 + 1e-6) + 1e-6  # noise of length eps is longer than that by float32's rounding
        beyond = x + ball.project(x_adv - x) if project else x
        return torch.where(kept[:, None, None, None], x_adv, beyond).detach()

    attack.__name__ = function.__name__.removeprefix("smallest_")
    return attack


def gaussian_blur(x: Tensor, sigmas: Tensor) -> Tensor:
    """Images (B, channels, H, W), each under a Gaussian filter of its own standard deviation ``sigmas`` (B,) > 0, in pixels.

    As ``scipy.ndimage.gaussian_filter`` has it: the kernel ends at 4 sigma, and beyond the border the image is mirrored, edge
    pixel first. A filter along an axis is linear, hence a matrix, and the blurred image is A x B^T for any sigma.
    """
    check_images(x)
    if not isinstance(sigmas, Tensor) or sigmas.shape != (len(x),) or not ((sigmas > 0) & sigmas.isfinite()).all():
        raise ValueError(f"sigmas must be a tensor of {len(x)} numbers > 0, one for each image, got {sigmas!r}")
    values, which = sigmas.unique(return_inverse=True)
    down, along = (_blur_matrices(length, values).to(x)[which][:, None] for length in x.shape[2:])
    return down @ x @ along.mT


def _blur_matrices(length: int, sigmas: Tensor) -> Tensor:
    """For each standard deviation (S,) the matrix (S, length, length) that filters a line of ``length`` pixels."""
    sigmas = sigmas.cpu().double()[:, None]
    radius = (4 * sigmas + 0.5).floor()
    offsets = torch.arange(-int(radius.max()), int(radius.max()) + 1)
    weights = torch.where(offsets.abs() <= radius, (-0.5 * (offsets / sigmas) ** 2).exp(), 0.0)
    weights = weights / weights.sum(1, keepdim=True)
    pixels = (torch.arange(length)[:, None] + offsets) % (2 * length)  # a line and its mirror image, again and again
    pixels = torch.minimum(pixels, 2 * length - 1 - pixels)
    matrices = torch.zeros(len(sigmas), length, length, dtype=torch.float64)
    return matrices.scatter_add_(2, pixels.expand(len(sigmas), -1, -1), weights[:, None].expand(-1, length, -1))


# ---------------------------------------------------------------- what an attack asks


Perturb = Callable[[Tensor, Tensor], Tensor]
"""``perturb(rows (P,), sizes (P, 1, 1, 1)) -> (P, channels, H, W)``: image ``rows[i]`` perturbed by ``sizes[i]``."""


@dataclass
class Question:
    """What one call asks of the model, again and again: is this image fooled?"""

    goal: Goal
    x: Tensor
    confidence: float = 0.0
    left: Tensor | None = None  # the rows that are not fooled as they are

    @property
    def images_per_pass(self) -> int:
        return getattr(self.goal.model, "examples_per_pass", None) or IMAGES_PER_PASS

    def verdict(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each image is fooled (P,), and by which margin of the scores (P,)."""
        lead, fooled = self.goal.verdict(self.goal.scores(self.goal.model, x), rows)
        return fooled & (lead >= self.confidence), lead

    def less_contrast(self, rows: Tensor, shares: Tensor) -> Tensor:
        return self.x[rows] + shares * (GREY - self.x[rows])

    def image(self, perturb: Perturb, rows: Tensor, sizes: Tensor) -> Tensor:
        return perturb(rows, sizes[:, None, None, None]).clamp(0, 1)

    @torch.no_grad()
    def fooled(self, perturb: Perturb, rows: Tensor, sizes: Tensor) -> Tensor:
        """Whether ``rows`` (P,), perturbed by ``sizes`` (P,), are fooled: (P,) bool."""
        hits = torch.zeros_like(rows, dtype=torch.bool)
        for some in self.passes(rows):
            hits[some] = self.verdict(self.image(perturb, rows[some], sizes[some]), rows[some])[0]
        return hits

    def passes(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The positions in ``rows`` in parts of one pass each; no part if there are none."""
        return torch.arange(len(rows), device=rows.device).split(self.images_per_pass) if len(rows) else ()

    def answer(self, kind: type[Ball], perturb: Perturb, rows: Tensor, sizes: Tensor) -> Smallest:
        """``rows`` are found with ``sizes``, and so are all that were misclassified already."""
        x_adv, found = self.x.clone(), torch.ones(len(self.x), dtype=torch.bool, device=self.x.device)
        found[self.left] = False
        if len(rows):
            found[rows], x_adv[rows] = True, self.image(perturb, rows, sizes)
        return Smallest(x_adv, torch.where(found, kind(0).norm(x_adv - self.x), torch.inf), found)


@contextmanager
def asking(model, x, y, generator, target=None):
    """Check what all attacks share, then yield the question with the model in evaluation mode."""
    with attacking(model, x, y, "margin", target, 1, None, generator) as goal:
        question = Question(goal, x.detach())
        rows = torch.arange(len(x), device=x.device)
        question.left = rows[~question.fooled(lambda rows, _: question.x[rows], rows, x.new_zeros(len(x)))]
        yield question


# ---------------------------------------------------------------- searches without gradients


def _shares(steps: int, stride: int) -> Tensor:
    """1/steps, 2/steps, ..., 1, once both numbers are checked."""
    check_number(steps, "steps", low=1, integer=True)
    check_number(stride, "stride", low=1, integer=True)
    return torch.arange(1, int(steps) + 1, dtype=torch.float64) / steps


def _louder_noise(model, x, y, kind, sampler, sizes, generator) -> Smallest:
    sizes = [check_number(size, "sizes", low=0) for size in sizes] if isinstance(sizes, Iterable) else []
    if not sizes or any(b <= a for a, b in itertools.pairwise(sizes)):
        raise ValueError(f"sizes must hold increasing numbers >= 0, at least one, got {sizes}")
    with asking(model, x, y, generator) as question:
        noise = sampler(question.x, question.goal.generator).reshape(x.shape)  # for all images, whether attacked or not

        def louder(rows: Tensor, size: Tensor) -> Tensor:
            return question.x[rows] + size * noise[rows]

        return _first_size(question, kind, louder, torch.tensor(sizes, dtype=torch.float64), stride=1)


def _first_size(question: Question, kind: type[Ball], perturb: Perturb, sizes: Tensor, stride: int) -> Smallest:
    """The first of ``sizes`` that fools each image: every ``stride``-th is tried, then all between the last two."""
    sizes, rows = sizes.to(question.x.dtype).to(question.x.device), question.left
    coarse = torch.arange(len(sizes) - 1, -1, -stride, device=rows.device).flip(0)  # the last is always tried
    first = _first(question, perturb, sizes, rows, coarse.expand(len(rows), -1))
    rows, first = rows[first >= 0], first[first >= 0]
    between = torch.arange(1 - stride, 0, device=rows.device)
    finer = _first(question, perturb, sizes, rows, (first[:, None] + between).clamp(min=0))
    return question.answer(kind, perturb, rows, sizes[torch.where(finer >= 0, finer, first)])


def _first(question: Question, perturb: Perturb, sizes: Tensor, rows: Tensor, tries: Tensor) -> Tensor:
    """For each of ``rows`` (b,) the first of its ``tries`` (b, K), positions in ``sizes``, that fools; -1 if none does.

    Solved images leave, and the fewer are left, the more tries of each share one pass.
    """
    first, left, done = torch.full_like(rows, -1), torch.arange(len(rows), device=rows.device), 0
    while done < tries.shape[1] and len(left):
        some = tries[left, done : done + max(1, question.images_per_pass // len(left))]
        hits = question.fooled(perturb, rows[left].repeat_interleave(some.shape[1]), sizes[some.flatten()]).view(some.shape)
        hit = hits.any(1)
        first[left[hit]] = some[hit, hits[hit].int().argmax(1)]  # argmax is the first of the largest
        left, done = left[~hit], done + some.shape[1]
    return first


def _bisect(question: Question, perturb: Perturb, rows: Tensor, steps: int) -> Tensor:
    """For each of ``rows``, which size 1 fools, a size in (0, 1] that does, by ``steps`` bisections."""
    low, high = question.x.new_zeros(len(rows)), question.x.new_ones(len(rows))
    for _ in range(steps):
        middle = (low + high) / 2
        hit = question.fooled(perturb, rows, middle)
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    return high
