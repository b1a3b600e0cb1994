"""The margin of a generative classifier from two classes against all classes: PGD-40, and the price of more classes."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from benchmarks.timing import interleaved, save, share_right
from hybridgen_lib.attacks import Linf, pgd
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.data import as_float, load
from hybridgen_lib.recipes import build, trained

IMAGES, SAMPLES, EPS, STEPS, REPETITIONS = 100, 10, 0.1, 40, 1
CLASSES, FEW_IMAGES, FEW_STEPS = (10, 50, 200), 5, 10


class AllClasses(nn.Module):
    """The same classifier, which hides that it can score a few classes: every gradient then goes through all of them."""

    score_kind = "log_joint"

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.examples_per_pass = model, model.examples_per_pass

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.model(x, generator=generator)


def main() -> None:
    torch.set_num_threads(1)
    save("two_classes", [_same_strength(), _prices()], [])


def _cases(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> dict:
    options = {"steps": steps, "loss": "margin", "stop_when_fooled": False}
    return {
        "two classes": lambda: pgd(model, x, y, Linf(EPS), **options),
        "all classes": lambda: pgd(AllClasses(model), x, y, Linf(EPS), **options),
    }


def _same_strength() -> dict:
    data, model = load("fashion-mini"), trained("gfz", device="cpu").with_samples(SAMPLES).requires_grad_(False)
    x, y = as_float(data.test_x[:IMAGES]), data.test_y[:IMAGES]
    with frozen_noise(model):
        cases = _cases(model, x, y, STEPS)
        left = {case: share_right(model, attack(), y) for case, attack in cases.items()}
        seconds = interleaved(cases, REPETITIONS, warm_up=False)
        clean = share_right(model, x, y)
    return {
        "title": f"PGD-{STEPS} on the margin of a generative classifier, two classes against all",
        "note": f"Model `gfz` (quick) with K = {SAMPLES}, C = 10, noise frozen, {IMAGES} test images, linf {EPS}; clean "
        f"accuracy {clean:.3f}. The runner-up is chosen by three samples of every class, anew every ten steps, and the last "
        "word on every image is had by all classes; both are in the time. Every image takes every step.",
        "reference": "two classes",
        "cases": [{"case": case, "seconds": seconds[case], "accuracy left": round(left[case], 4)} for case in cases],
    }


def _prices() -> dict:
    x, y, cases = as_float(load("fashion-mini").test_x[:FEW_IMAGES]), torch.arange(FEW_IMAGES), {}
    with ExitStack() as stack:
        for classes in CLASSES:
            model = build("gfz", (1, 28, 28), classes, profile="cpu").eval().requires_grad_(False)
            stack.enter_context(frozen_noise(model))
            cases |= {f"{case}, C = {classes}": attack for case, attack in _cases(model, x, y, FEW_STEPS).items()}
        seconds = interleaved(cases, REPETITIONS)
    return {
        "title": "The price of classes",
        "note": f"GFZ at the cpu profile's size, untrained, K = {model.samples}, {FEW_STEPS} steps on {FEW_IMAGES} images: "
        "one choice of the runner-up, and the last word.",
        "reference": next(iter(cases)),
        "cases": [{"case": case, "seconds": seconds[case]} for case in sorted(cases, key=lambda case: case.startswith("all"))],
    }


if __name__ == "__main__":
    main()
