"""One training loop for every model of the book: an objective, a seed, a progress bar, checkpoints, resume.

An objective is a function ``objective(model, x, y, progress, generator) -> scalar`` to be made small; ``progress`` runs from
0 to 1 over the whole training. A run is a function of its arguments alone: every epoch has its own generator, derived from
the seed and the epoch, so that a run that was killed and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hybridgen_lib.classifier import check_images, check_labels, check_model, check_number, deterministic

__all__ = ["Objective", "fit", "save_atomically"]

Objective = Callable[[nn.Module, Tensor, Tensor, float, torch.Generator], Tensor]
Selection = Callable[[nn.Module], float]
"""What a model in evaluation mode is worth, on images held out of its training; the larger the better."""


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
    peak: float = 0.0,
    select: Selection | None = None,
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
        peak: over this share of the training the learning rate first rises, from ``final_learning_rate`` to
            ``learning_rate``: one cycle (Smith 2017), with which a short training can take large steps.
        select: asked about the model after every epoch; the weights of the epoch that it finds best, the first of equals,
            are those the model ends with.
        checkpoint: a file, rewritten after every epoch and found again by a later call with the same arguments, which
            goes on from it. The caller deletes it when the model is safe elsewhere.
        label: what the progress bar says; without one there is no bar.

    Raises ``ValueError`` for bad arguments before any work, and ``FloatingPointError`` if the objective stops being finite.
    """
    epochs = check_number(epochs, "epochs", low=0, integer=True)
    batch_size = check_number(batch_size, "batch_size", low=1, integer=True)
    check_number(learning_rate, "learning_rate", low=0)
    check_number(peak, "peak", low=0, high=1)
    if select is not None and not callable(select):
        raise ValueError(f"select must be a function of the model or None, got {type(select).__name__}")
    check_number(seed, "seed", low=0, integer=True)
    check_model(model)
    count = _count(x)
    check_labels(y, images=count)
    final = learning_rate if final_learning_rate is None else check_number(final_learning_rate, "final_learning_rate", low=0)
    model.to(device).train()
    x = {name: part.to(device) for name, part in x.items()} if isinstance(x, dict) else x.to(device)
    y = y.to(device, torch.long)
    # fused: one pass over the weights a step where the default makes many, a sixth of a dense network's time (benchmarks)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    run = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "final": final, "peak": peak}
    run |= {"seed": int(seed), "count": count}
    history, best = _resume(checkpoint, model, optimizer, run)
    steps = -(-count // batch_size)
    if steps > 1 and count % batch_size == 1:
        steps -= 1  # batch normalisation has no variance of one image; the last batch takes it
    bar = tqdm(total=epochs * steps, initial=len(history) * steps, desc=label, mininterval=2.0, disable=not label)
    for epoch in range(len(history), epochs):
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        total = torch.zeros((), dtype=torch.float64, device=device)
        order = torch.randperm(count, generator=generator).to(device)
        with deterministic(), _global_noise(generator.initial_seed() + 2**40, torch.device(device)):
            for step, rows in enumerate(order.tensor_split([*range(batch_size, steps * batch_size, batch_size)])):
                progress = (epoch + step / steps) / epochs
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate + (final - learning_rate) * _distance_from(peak, progress)
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
        if select is not None:
            value = _worth(model, select)
            if best is None or value > best["value"]:
                best = {"value": value, "model": {name: part.clone() for name, part in model.state_dict().items()}}
        if checkpoint is not None:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history, "best": best}
            save_atomically({**state, "run": run}, checkpoint)
    bar.close()
    if best is not None:
        model.load_state_dict(best["model"])
    model.eval()
    return history


@contextmanager
def _global_noise(seed: int, device: torch.device):
    """What draws from torch's global source, as dropout does, draws from ``seed``; the source is put back after."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach every GPU
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _distance_from(peak: float, progress: float) -> float:
    """How far the training is from the peak of its learning rate: 1 where it starts and ends, 0 at the peak."""
    return 1 - progress / peak if progress < peak else (progress - peak) / (1 - peak)


def _worth(model: nn.Module, select: Selection) -> float:
    model.eval()
    value = float(select(model))
    if math.isnan(value):
        raise ValueError("select must return a number, got NaN")
    model.train()
    return value


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


def _resume(checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, run: dict) -> tuple[list[float], dict | None]:
    """The history and the best epoch so far; the model and the optimizer are put back where the checkpoint left them."""
    if checkpoint is None or not Path(checkpoint).exists():
        return [], None
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if (before := state.get("run", run)) != run:
        apart = ", ".join(f"{name} {before.get(name)}, now {run[name]}" for name in run if before.get(name) != run[name])
        raise ValueError(f"checkpoint must be of the same training: {checkpoint} is of another one, with {apart}")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return list(state["history"]), state.get("best")


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
