"""One training loop for every model of the book: an objective, a seed, a progress bar, checkpoints, resume.

An objective is a function ``objective(model, x, y, progress, generator) -> scalar`` to be made small; ``progress`` runs from
0 to 1 over the whole training. A run is a function of its arguments alone: every epoch has its own generator, derived from
the seed and the epoch, so that a run that was killed and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from hybridgen_lib.attacks import pgd
from hybridgen_lib.attacks.balls import Ball
from hybridgen_lib.classifier import check_images, check_labels, check_model, check_number, is_stochastic

__all__ = [
    "adversarial",
    "cross_entropy",
    "fit",
    "in_bfloat16",
    "negative_elbo",
    "negative_pseudo_likelihood",
    "shifted_and_mirrored",
]
__all__ += ["save_atomically"]

Objective = Callable[[nn.Module, Tensor, Tensor, float, torch.Generator], Tensor]


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
    """Mean cross-entropy in nats of the model's scores: plain discriminative training."""
    noise = {"generator": generator} if is_stochastic(model) else {}
    return F.cross_entropy(model(x, **noise), y)


def negative_elbo(warm_up: float = 0.0, pressure: float = 1.0, do: dict[str, float] | None = None) -> Objective:
    """Mean negative ELBO in nats; over the first ``warm_up`` share of training the latent terms grow from 0.01 to 1.

    The ELBO is `deepbayes`' ("Training with ELBO"); the warm-up is Sonderby et al. (2016). Without it a bottleneck model
    can learn to ignore z, since an unused code costs nothing. ``pressure`` is the opposite: until the last quarter of training
    the latent terms weigh so much (Higgins et al. 2017, beta), so that z leaves to y what y can say. ``do={"m": 0}`` trains
    under an intervention (equation 9 of `hybrid`).
    """
    check_number(warm_up, "warm_up", low=0, high=1)
    check_number(pressure, "pressure", low=0)

    def objective(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        beta = pressure if progress < 0.75 else 1.0
        beta *= 1.0 if progress >= warm_up else 0.01 + 0.99 * progress / warm_up
        model = model.do(**do) if do else model
        return -model.elbo(x, y, generator=generator, beta=beta).mean()

    return objective


def shifted_and_mirrored(objective: Objective, pixels: int, mirror: bool = True) -> Objective:
    """The same objective on images that are shifted by up to ``pixels`` each way, and mirrored half of the time if ``mirror``.

    The edge is filled with black. This is the augmentation with which CIFAR-10 is trained (He et al. 2016, section 4.2).
    """
    check_number(pixels, "pixels", low=0, integer=True)

    def wrapped(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        count, _, height, width = x.shape
        top, left = torch.randint(0, 2 * pixels + 1, (2, count), generator=generator).to(x.device)
        turned = (torch.rand(count, generator=generator) < 0.5).to(x.device) & mirror
        rows = top[:, None] + torch.arange(height, device=x.device)
        columns = left[:, None] + torch.arange(width, device=x.device)
        columns = torch.where(turned[:, None], columns.flip(1), columns)
        padded = F.pad(x, [pixels] * 4).permute(0, 2, 3, 1)
        images = torch.arange(count, device=x.device)[:, None, None]
        shifted = padded[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return objective(model, shifted, y, progress, generator)

    return wrapped


def in_bfloat16(objective: Objective) -> Objective:
    """The same objective with its matrix products in bfloat16 on a CUDA device; on a CPU, where that is slow, as it is."""

    def wrapped(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        with torch.autocast(y.device.type, torch.bfloat16, enabled=y.is_cuda):
            return objective(model, x, y, progress, generator)

    return wrapped


def negative_pseudo_likelihood(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
    """Mean negative log pseudo-likelihood of an image under the graph of its own class, in nats (Besag 1975).

    ``model`` is one whose scores are pseudo-likelihoods, :class:`~hybridgen_lib.models.pixel_graph.PixelGraphClassifier`.
    """
    return -model(x).gather(1, y[:, None]).mean()


def adversarial(ball: Ball, *, steps: int, warm_up: float = 0.0) -> Objective:
    """Mean cross-entropy in nats of images that are attacked first: the min-max problem of Madry et al. (2018, eq. 2.1).

    The inner maximum is PGD on the cross-entropy: a random start in ``ball``, ``steps`` steps of 2.5 eps / steps, all of
    them for every image. Over the first ``warm_up`` share of training eps grows from 0 in a line (ours): a large ball leaves
    a fresh model little to learn from. With a single step a model can end up robust to that step alone ("catastrophic
    overfitting"; Wong, Rice and Kolter 2020).
    """
    if not isinstance(ball, Ball):
        raise ValueError(f"ball must be Linf(eps) or L2(eps), got {ball!r}")
    check_number(steps, "steps", low=1, integer=True)
    check_number(warm_up, "warm_up", low=0, high=1)

    def objective(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        now = ball if progress >= warm_up else replace(ball, eps=ball.eps * progress / warm_up)
        attacked = pgd(model, x, y, now, steps=steps, stop_when_fooled=False, generator=generator)
        return cross_entropy(model, attacked, y, progress, generator)

    return objective


def fit(
    model: nn.Module,
    objective: Objective,
    x: Tensor | dict[str, Tensor],
    y: Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    final_learning_rate: float | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    checkpoint: str | Path | None = None,
    label: str = "training",
) -> list[float]:
    """Train ``model`` in place with Adam; return the mean objective of every epoch.

    Args:
        x: images (N, channels, H, W), uint8 (read as [0, 1]) or float in [0, 1], kept in memory, moved to ``device`` once; or
            what a model observes of them, by name, float tensors (N, ...), if nothing before it is trained.
        y: integer labels (N,).
        learning_rate: of Adam; it falls linearly to ``final_learning_rate`` (by default: stays) over the epochs.
        checkpoint: a file, rewritten after every epoch and found again by a later call with the same arguments, which
            goes on from it. The caller deletes it when the model is safe elsewhere.

    Raises ``ValueError`` for bad arguments before any work, and ``FloatingPointError`` if the objective stops being finite.
    """
    check_number(epochs, "epochs", low=0, integer=True)
    check_number(batch_size, "batch_size", low=1, integer=True)
    check_number(learning_rate, "learning_rate", low=0)
    check_number(seed, "seed", low=0, integer=True)
    check_model(model)
    count = _count(x)
    check_labels(y, images=count)
    final = learning_rate if final_learning_rate is None else check_number(final_learning_rate, "final_learning_rate", low=0)
    model.to(device).train()
    x = {name: part.to(device) for name, part in x.items()} if isinstance(x, dict) else x.to(device)
    y = y.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    history = _resume(checkpoint, model, optimizer)
    steps = -(-count // batch_size)
    if steps > 1 and count % batch_size == 1:
        steps -= 1  # batch normalisation has no variance of one image; the last batch takes it
    bar = tqdm(total=epochs * steps, initial=len(history) * steps, desc=label, mininterval=2.0, leave=True)
    for epoch in range(len(history), epochs):
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        total = torch.zeros((), dtype=torch.float64, device=device)
        order = torch.randperm(count, generator=generator).to(device)
        for step, rows in enumerate(order.tensor_split([*range(batch_size, steps * batch_size, batch_size)])):
            progress = (epoch + step / steps) / epochs
            for group in optimizer.param_groups:
                group["lr"] = learning_rate + (final - learning_rate) * progress
            loss = objective(model, _batch(x, rows), y[rows], progress, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach().double() * len(rows)
            bar.update()
        history.append(total.item() / count)
        if not torch.isfinite(total):
            raise FloatingPointError(f"{label}: the objective became {history[-1]} in epoch {epoch}; lower learning_rate")
        bar.set_postfix_str(f"objective {history[-1]:.3f}")
        if checkpoint is not None:
            save_atomically({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}, checkpoint)
    bar.close()
    model.eval()
    return history


def _count(x: Tensor | dict[str, Tensor]) -> int:
    """How many training examples there are; ``ValueError`` if ``x`` is none of what ``fit`` takes."""
    if isinstance(x, dict):
        floats = {name: part for name, part in x.items() if isinstance(part, Tensor) and part.is_floating_point()}
        counts = {name: len(part) for name, part in floats.items() if part.ndim > 0}
        if len(counts) < len(x) or len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(f"x must hold float tensors of the same positive length, got {counts} of {', '.join(x)}")
        return next(iter(counts.values()))
    if not isinstance(x, Tensor) or x.ndim != 4 or len(x) == 0:
        raise ValueError(f"x must be a non-empty (N, channels, H, W) tensor, got {getattr(x, 'shape', type(x).__name__)}")
    if x.dtype != torch.uint8:
        check_images(x)
    return len(x)


def _batch(x: Tensor | dict[str, Tensor], rows: Tensor) -> Tensor | dict[str, Tensor]:
    if isinstance(x, dict):
        return {name: part[rows] for name, part in x.items()}
    return x[rows].float() / 255 if x.dtype == torch.uint8 else x[rows]


def _resume(checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    if checkpoint is None or not Path(checkpoint).exists():
        return []
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return list(state["history"])


def save_atomically(state: dict, path: str | Path) -> None:
    """``torch.save`` to a temporary name in the same folder, then rename: a killed run leaves the last good file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
