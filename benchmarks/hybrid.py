"""The causal head on VGG16 beside VGG16 alone, by the number of classes: seconds and memory of a prediction and of a step.

``python -m benchmarks.hybrid cuda`` measures on a GPU, into a file of its own.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from benchmarks.timing import interleaved, save
from hybridgen_lib.attacks import Linf, fgsm
from hybridgen_lib.attacks.gradient import LOSSES
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.models.pixels import PixelNormal
from hybridgen_lib.models.vectors import NormalFeatures
from hybridgen_lib.recipes import build

PROFILE, SHAPE, BALL = "cpu", (3, 32, 32), Linf(8 / 255)
CLASSES, IMAGES, REPETITIONS = (10, 100, 200), 4, 5
BATCHES = (5, 10, 15)
"""Numbers of images in one gradient through all of the most classes."""
VGG_CALLS = 20
"""A call of VGG16 alone is over too soon to be timed alone."""
WITH_MEANS = ("cpu", "paper")
"""Profiles at which the density of features is timed with and without their means."""


@torch.no_grad()
def scores(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return model(x)


def one_call(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the cross-entropy, all images in one call of the model."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(LOSSES["ce"](model(x), y).sum(), x)[0]


def one_step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One step of an attack on the cross-entropy, which passes a few images at a time."""
    return fgsm(model, x, y, BALL)


def known_rival(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the margin from two classes, all images in one call."""
    x, pair = x.clone().requires_grad_(), torch.stack([y, (y + 1) % model.classes], 1)
    return torch.autograd.grad(model.class_scores(x, pair).diff(dim=1).sum(), x)[0]


def chosen_rival(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One step of an attack on the margin, the choice of the runner-up in front of it."""
    return fgsm(model, x, y, BALL, loss="margin")


class Means(NormalFeatures):
    """The same density the plain way: every mean of every sample, image and class."""

    def forward(self, h: Tensor, weight: Tensor, bias: Tensor) -> Distribution:
        return PixelNormal(F.linear(h, weight, bias), self.sigma, axes=1)


PREDICTION = {"head": scores}
STEP = {
    "head, every class in one call": one_call,
    "head, every class, a few images a pass": one_step,
    "head, two classes, runner-up known": known_rival,
    "head, two classes, runner-up chosen": chosen_rival,
}


def main(device: str = "cpu") -> None:
    torch.set_num_threads(1)
    setting = (
        f"VGG16 and the head of `hybrid-shallow` on it, at `{PROFILE}`, untrained; K = 10, noise frozen, random images "
        f"3x32x32, on {device}. Memory is the peak that one call adds in a fresh process that holds the model."
    )
    alone = f"{IMAGES} images; VGG16 alone has {max(CLASSES)} classes."
    passes = (
        "A few images a pass is what the attacks do. Their choice of the runner-up, by three samples of every class, serves "
        "ten steps."
    )
    tables = [
        _table("A prediction with the causal head on VGG16", f"{alone} {setting}", scores, PREDICTION, device),
        _table("A step of an attack on the causal head", f"{alone} {passes} {setting}", one_call, STEP, device),
        _bound(f"Of a single call, the time too. {RECOMPUTED} {setting}", device),
        *(_with_means(profile, device) for profile in WITH_MEANS),
    ]
    save("hybrid" if device == "cpu" else f"hybrid-{device}", tables, [])


def _call(
    name: str, way: Callable, classes: int, images: int, profile: str, device: str, density: type | None = None
) -> Callable[[], Tensor]:
    model = build(name, SHAPE, classes, profile=profile).eval().requires_grad_(False).to(device)
    if density is not None:
        decoder = model.networks["p(x1,x2|y,z,m)"]
        decoder.features = density(decoder.features.sigma)
    x = torch.rand(images, *SHAPE, generator=torch.Generator().manual_seed(0)).to(device)
    y = (torch.arange(images) % classes).to(device)

    def call() -> Tensor:
        with frozen_noise(model):
            return way(model, x, y).cpu()  # a GPU has to finish

    return call


def peak_and_seconds(*case) -> tuple[float, float]:
    """GiB that a first call adds to the peak of this process, and its seconds. The arguments are those of ``_call``."""
    *_, profile, device = case
    torch.set_num_threads(1)
    call = _call(*case)
    _call("vgg16", one_call, 2, 1, profile, device)()  # what the first gradient of any network loads
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    before, began = _peak(device), time.perf_counter()
    call()
    return (_peak(device) - before) / 2**30, time.perf_counter() - began


def _peak(device: str) -> int:
    """Peak memory in bytes: of tensors on a GPU, else resident. On Linux ``ru_maxrss`` would begin at the parent's peak."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def in_fresh_process(function: Callable, *arguments):
    """The result of a function in a process of its own, a fork of one that has imported this module and done no more."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__spec__.name])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def _table(title: str, note: str, alone: Callable, ways: dict[str, Callable], device: str) -> dict:
    rows = {"VGG16": ("vgg16", alone, max(CLASSES), IMAGES, PROFILE, device)}
    rows |= {
        f"{case}, C = {c}": ("hybrid-shallow", way, c, IMAGES, PROFILE, device) for case, way in ways.items() for c in CLASSES
    }
    calls = {case: VGG_CALLS if case == "VGG16" else 1 for case in rows}
    seconds = interleaved({case: _again(_call(*row), calls[case]) for case, row in rows.items()}, REPETITIONS)
    cases = []
    for case, row in rows.items():
        memory, _ = in_fresh_process(peak_and_seconds, *row)
        each = [round(second / calls[case], 6) for second in seconds[case]]
        cases.append({"case": case, "seconds": each, "memory (GiB)": round(memory, 4)})
    return {"title": title, "note": note, "reference": "VGG16", "cases": cases}


def _with_means(profile: str, device: str) -> dict:
    ways = {"a prediction": scores, "a gradient through every class": one_call}
    rows = {case: ("hybrid-shallow", way, 10, IMAGES, profile, device) for case, way in ways.items()}
    calls = {case: _call(*row) for case, row in rows.items()}
    calls |= {f"{case}, every mean computed": _call(*row, density=Means) for case, row in rows.items()}
    seconds = interleaved(calls, REPETITIONS)
    note = (
        f"`hybrid-shallow` at `{profile}`, untrained, {IMAGES} images 3x32x32, 10 classes, K = 10, on {device}. The library "
        "takes the density of features from W'W, without their means (`models/vectors.py`)."
    )
    cases = [{"case": case, "seconds": each} for case, each in seconds.items()]
    return {
        "title": f"Features with and without their means, `{profile}`",
        "note": note,
        "reference": next(iter(ways)),
        "cases": cases,
    }


def _again(call: Callable, times: int) -> Callable[[], object]:
    return lambda: [call() for _ in range(times)]


RECOMPUTED = (
    "With 15 images the one call is over what may be kept (chapter 08), so its passes are computed again on the way back: "
    "less memory, twice the time."
)


def _bound(note: str, device: str) -> dict:
    cases, most = [], max(CLASSES)
    for name in ("head, every class in one call", "head, every class, a few images a pass"):
        for images in BATCHES:
            row = "hybrid-shallow", STEP[name], most, images, PROFILE, device
            memory, seconds = in_fresh_process(peak_and_seconds, *row)
            cases.append(
                {"case": f"{name}, {images} images", "seconds": [round(seconds, 5)], "memory (GiB)": round(memory, 4)}
            )
    title = f"A gradient through {most} classes, by the number of images"
    return {"title": title, "note": note, "reference": cases[0]["case"], "cases": cases}


if __name__ == "__main__":
    main(*sys.argv[1:])
