"""What every room of the library knows: the classifier contract, noise, input checks, intervals.

A classifier is a ``torch.nn.Module`` whose ``forward(x)`` turns images ``x`` (float, NCHW, in [0, 1]) into scores
``(B, C)``; the softmax of the scores is p(y|x). Nothing more is asked, so every model works with every attack and
every explanation of this book, and unwrapped in Foolbox, torchattacks and Captum. Chapter 04 builds the contract.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from contextlib import contextmanager
from numbers import Real
from statistics import NormalDist
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = [
    "IMAGES_PER_PASS",
    "SCORE_KINDS",
    "Classifier",
    "StochasticClassifier",
    "ask",
    "bootstrap_interval",
    "check_choice",
    "check_generator",
    "check_image_shape",
    "check_images",
    "check_labels",
    "check_model",
    "check_number",
    "check_scores",
    "check_sizes",
    "deterministic",
    "evaluating",
    "frozen_noise",
    "is_stochastic",
    "jackknife_interval",
    "wilson",
]

SCORE_KINDS = ("log_joint", "log_conditional", "logit", "energy")
"""What a score is: an estimate of log p(x, y=c); log p(y=c|x); a logit; a negative energy (larger is likelier)."""

IMAGES_PER_PASS = 500
"""How many images are taken at once where a gradient is asked for, so that memory does not grow with the data set."""


@runtime_checkable
class Classifier(Protocol):
    """Anything that maps images (B, channels, H, W) in [0, 1] to scores (B, C)."""

    score_kind: str

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor: ...


class StochasticClassifier(nn.Module):
    """A classifier whose scores are random: it owns its source of noise and never touches the global one.

    ``noise(K, B, D, like)`` draws standard normals (K, B, D): a fresh draw for each of B images, shared across classes
    (common random numbers). Under :func:`frozen_noise` the draw is one fixed (K, 1, D) for all images, so the model is a
    deterministic function of x. Draws are made on the CPU, so that a seed means the same on every device.
    """

    stochastic = True

    def __init__(self, seed: int = 0):
        super().__init__()
        self.noise_seed = seed
        self._source: torch.Generator | None = None
        self._frozen_seed: int | None = None

    def noise(self, samples: int, images: int, dims: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if self._frozen_seed is not None:
            source, images = torch.Generator().manual_seed(self._frozen_seed), 1
        elif generator is not None:
            source = generator
        else:
            if self._source is None:
                self._source = torch.Generator().manual_seed(self.noise_seed)
            source = self._source
        draw = torch.randn(samples, images, dims, generator=source, device=source.device, dtype=like.dtype)
        return draw.to(like.device)

    def twin(self, **changes) -> StochasticClassifier:
        """The same networks in another object with other attributes, ``twin(samples=1)``; frozen where this one is.

        Its own noise starts anew from the seed: a twin made inside a loop draws the same each time, unless given a generator.
        """
        shared = changes.keys() & {*self._modules, *self._parameters, *self._buffers}
        if shared:  # a shallow copy has the same networks: they would change here, too
            raise ValueError(f"changes must be attributes other than networks and weights, got {', '.join(sorted(shared))}")
        twin = copy.copy(self)
        twin._frozen_seed = self._frozen_seed  # a copy would start unfrozen
        for name, value in changes.items():
            setattr(twin, name, value)
        return twin

    def __getstate__(self):  # a generator can be neither copied nor saved; a copy starts its own from the seed
        return {**self.__dict__, "_source": None, "_frozen_seed": None}


@contextmanager
def frozen_noise(model: nn.Module, seed: int = 0):
    """Inside the block every stochastic part of ``model`` reuses one draw, fixed by ``seed``, for all images.

    A model without noise passes through unchanged. Blocks nest; the earlier state returns at the end of each.
    """
    check_number(seed, "seed", low=0, integer=True)
    parts = [m for m in check_model(model).modules() if isinstance(m, StochasticClassifier)]
    before = [m._frozen_seed for m in parts]
    try:
        for m in parts:
            m._frozen_seed = seed
        yield model
    finally:
        for m, state in zip(parts, before, strict=True):
            m._frozen_seed = state


def is_stochastic(model: nn.Module) -> bool:
    """True if two calls of ``model`` on the same images can differ: it or a part of it says so, and is not frozen."""
    parts = [m for m in check_model(model).modules() if isinstance(m, StochasticClassifier)]
    if not parts:
        return bool(getattr(model, "stochastic", False))
    return any(m._frozen_seed is None for m in parts)


def ask(model: nn.Module, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The scores of any model: one with noise of its own draws it from ``generator``, by default from its own source.

    Inside a wrapper that takes no generator, as ``nn.Sequential`` is one, the parts with noise draw from it all the same.
    """
    if generator is None or not is_stochastic(model):
        return model(x)
    if "generator" in inspect.signature(model.forward).parameters:
        return model(x, generator=generator)
    parts = [m for m in model.modules() if isinstance(m, StochasticClassifier)]
    if not parts:
        raise ValueError(f"model must take a generator, as it says that it is stochastic; {type(model).__name__} does not")
    before = [m._source for m in parts]
    try:
        for m in parts:
            m._source = generator
        return model(x)
    finally:
        for m, source in zip(parts, before, strict=True):
            m._source = source


@contextmanager
def evaluating(model: nn.Module):
    """Inside the block ``model`` is in evaluation mode and its parameters gather no gradients; both are put back after."""
    modes = [(m, m.training) for m in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)


def deterministic():
    """Inside the block equal calls give equal numbers on a GPU, too: convolutions are computed in full float32, and by
    algorithms whose sums keep their order. On a CPU that is so anyway."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


# ---------------------------------------------------------------- input checks: before any work starts, naming the argument


def check_model(model: nn.Module, name: str = "model") -> nn.Module:
    """Return ``model`` if it is a ``torch.nn.Module``; else raise ``ValueError``."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} must be a torch.nn.Module that returns scores, got {type(model).__name__}")
    return model


def check_freezable(model: nn.Module, name: str = "model") -> nn.Module:
    """Return ``model`` if :func:`frozen_noise` can hold what noise it has; else raise ``ValueError``."""
    with frozen_noise(check_model(model, name)):
        if is_stochastic(model):
            raise ValueError(f"{name} must draw its noise as a StochasticClassifier does, or it cannot be held; it does not")
    return model


def check_images(x: Tensor, name: str = "x") -> Tensor:
    """Return ``x`` if it is a batch of images, float32 or float64 (B, channels, H, W) in [0, 1]; else raise ``ValueError``."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor of images, got {type(x).__name__}")
    if x.ndim != 4:
        raise ValueError(f"{name} must have shape (B, channels, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must be floating point in [0, 1], got {x.dtype}; divide uint8 images by 255")
    if torch.finfo(x.dtype).bits < 32:
        raise ValueError(f"{name} must be float32 or float64, got {x.dtype}; an attack's small steps are lost in it")
    if x.numel():
        low, high = (value.item() for value in torch.aminmax(x.detach()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
        if low < 0 or high > 1:
            raise ValueError(f"{name} must lie in [0, 1], got values from {low:.4g} to {high:.4g}")
    return x


def check_image_shape(image_shape: tuple[int, int, int], name: str = "image_shape") -> tuple[int, int, int]:
    """Return ``image_shape`` if it is (channels, H, W), each 1 or more; else raise ``ValueError``."""
    sizes = tuple(image_shape) if isinstance(image_shape, Sequence) else ()
    if len(sizes) != 3 or not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise ValueError(f"{name} must be (channels, H, W), whole numbers from 1 on, got {image_shape!r}")
    return sizes


def check_generator(generator: torch.Generator | None, name: str = "generator") -> torch.Generator | None:
    """Return ``generator`` if it is one or None; else raise ``ValueError``."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"{name} must be a torch.Generator or None, got {type(generator).__name__}")
    return generator


def check_labels(y: Tensor, classes: int | None = None, images: int | None = None, name: str = "y") -> Tensor:
    """Return ``y`` if it holds integer labels (B,) in 0..classes-1, one for each of ``images``; else raise ``ValueError``."""
    if not isinstance(y, Tensor) or y.ndim != 1:
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"{name} must be a tensor of shape (B,), got {shape}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"{name} must hold integer class labels, got {y.dtype}")
    if images is not None and len(y) != images:
        raise ValueError(f"{name} must hold one label per image: {images} images, got {len(y)} labels")
    if len(y) and (y.min() < 0 or (classes is not None and y.max() >= classes)):
        upper = "" if classes is None else f"..{classes - 1}"
        raise ValueError(f"{name} must be in 0{upper}, got labels from {y.min().item()} to {y.max().item()}")
    return y


def check_scores(scores: Tensor, images: int) -> Tensor:
    """Return ``scores`` if a model gave them for ``images`` images: numbers (B, C), C >= 2; else raise ``ValueError``."""
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != images or scores.shape[1] < 2:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"model must return scores of shape ({images}, C) with C >= 2, got {got}")
    if scores.isnan().any():
        raise ValueError(f"model must return scores that are numbers, got NaN for {int(scores.isnan().any(1).sum())} images")
    return scores


def check_number(value: float, name: str, *, low: float = -math.inf, high: float = math.inf, integer: bool = False) -> float:
    """Return ``value`` if it is a finite number in [low, high] (as an ``int`` where asked); else raise ``ValueError``."""
    ok = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or not low <= value <= high or (integer and value != int(value)):
        kind = "an integer" if integer else "a number"
        allowed = f"{kind} in [{low}, {high}]" if math.isfinite(high) else f"{kind} >= {low}"
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return int(value) if integer else value


def check_sizes(**sizes: int) -> None:
    """``ValueError`` that names the argument unless each size of a layer or a code is an integer, 1 or more."""
    for name, size in sizes.items():
        check_number(size, name, low=1, integer=True)


def check_choice(value: str, name: str, allowed) -> str:
    """Return ``value`` if it is one of ``allowed``; else raise a ``ValueError`` that lists them."""
    if value not in list(allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")
    return value


# ---------------------------------------------------------------- intervals


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for a proportion: ``successes`` of ``n`` independent trials (Wilson 1927).

    Unlike the textbook mean +- 1.96 s it stays inside [0, 1] and has a width even at 0 of n. With n = 0 it is (0, 1).
    """
    check_number(n, "n", low=0, integer=True)
    check_number(successes, "successes", low=0, high=n)
    _check_confidence(confidence)
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # p stays inside, rounding or not


def bootstrap_interval(values, confidence: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval for the mean of ``values`` (n,), resampled over its n entries (images, say)."""
    values = torch.as_tensor(values, dtype=torch.float64).cpu()
    if values.ndim != 1 or len(values) == 0 or not values.isfinite().all():
        raise ValueError(f"values must be a non-empty vector of finite numbers, got shape {tuple(values.shape)}")
    _check_confidence(confidence)
    check_number(draws, "draws", low=1, integer=True)
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(values), (draws, len(values)), generator=generator)
    means = values[picks].mean(1)
    tail = (1 - confidence) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def jackknife_interval(value: float, left_out, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a statistic of whole sets, by the delete-a-group jackknife (Kott 2001): value -+ t s.

    ``left_out`` holds the statistic without each of G groups of images, G >= 2. s² = (G - 1)/G Σ (v_g - mean)², with Student's
    t of G - 1 degrees of freedom. It covers the chance of which images were drawn, not a bias that all numbers share.
    """
    from scipy import stats  # half a second, which only those who ask should wait

    left_out = torch.as_tensor(left_out, dtype=torch.float64).cpu()
    if left_out.ndim != 1 or len(left_out) < 2 or not left_out.isfinite().all():
        raise ValueError(f"left_out must hold at least 2 finite numbers, got shape {tuple(left_out.shape)}")
    _check_confidence(confidence)
    groups = len(left_out)
    error = ((groups - 1) / groups * (left_out - left_out.mean()).square().sum()).sqrt().item()
    reach = stats.t.ppf((1 + confidence) / 2, groups - 1) * error
    return value - reach, value + reach


def _check_confidence(confidence: float) -> None:
    if not 0 < check_number(confidence, "confidence", low=0, high=1) < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
