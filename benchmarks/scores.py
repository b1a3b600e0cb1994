"""Scores of a latent-variable classifier and their gradients: all classes and samples in one pass, against plain loops.

And the last layer of its decoder, against torch's own.
"""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.timing import interleaved, save
from hybridgen_lib.attacks.gradient import LOSSES
from hybridgen_lib.data import as_float, load
from hybridgen_lib.models.networks import SubpixelDeconvolution
from hybridgen_lib.recipes import build

REPETITIONS = 5


def batched(model, x: Tensor, noise: dict[str, Tensor]) -> Tensor:
    return _mean_weight(model.log_weights(x, torch.eye(model.classes, dtype=x.dtype)[None], noise))


def loop_over_classes(model, x: Tensor, noise: dict[str, Tensor]) -> Tensor:
    one_hot = torch.eye(model.classes, dtype=x.dtype)
    return _mean_weight(torch.cat([model.log_weights(x, one_hot[None, c : c + 1], noise) for c in range(model.classes)], 2))


def loop_over_classes_and_samples(model, x: Tensor, noise: dict[str, Tensor]) -> Tensor:
    def sample(k: int) -> dict[str, Tensor]:
        return {name: eps[k : k + 1] for name, eps in noise.items()}

    one_hot, scores = torch.eye(model.classes, dtype=x.dtype), []
    for c in range(model.classes):
        weights = [model.log_weights(x, one_hot[None, c : c + 1], sample(k)) for k in range(model.samples)]
        scores.append(_mean_weight(torch.cat(weights)))
    return torch.cat(scores, 1)


def _mean_weight(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - math.log(len(log_weights))


WAYS = {
    "all classes and samples at once": batched,
    "a loop over classes": loop_over_classes,
    "a loop over classes and samples": loop_over_classes_and_samples,
}


def main() -> None:
    torch.set_num_threads(1)
    data = load("fashion-mini")
    model = build("gfz", tuple(data.test_x.shape[1:]), len(data.classes), profile="cpu").eval().requires_grad_(False)
    cases = [(images, what) for images in (1, 25) for what in ("scores", "gradients")]
    tables = [_table(model, as_float(data.test_x[:n]), data.test_y[:n], what) for n, what in cases]
    save("scores", [*tables, *map(_last_layer, ("pictures", "gradients"))], [])


def _table(model, x: Tensor, y: Tensor, what: str) -> dict:
    run = {"scores": _scores, "gradients": _gradients}[what]
    generator = torch.Generator().manual_seed(0)
    sizes = {name: model.networks[str(model.guide.factor_of(name))].dims for name in model.guide.variables}
    noise = {name: torch.randn(model.samples, len(x), dims, generator=generator) for name, dims in sizes.items()}
    precise = copy.deepcopy(model).double(), x.double(), y, {name: eps.double() for name, eps in noise.items()}
    results = [run(way, *precise) for way in WAYS.values()]
    gap, largest = max((other - results[0]).abs().max().item() for other in results), results[0].abs().max().item()
    assert gap < 1e-9 * largest, f"the ways must agree, but {what} differ by {gap}"
    seconds = interleaved({name: partial(run, way, model, x, y, noise) for name, way in WAYS.items()}, REPETITIONS)
    gradients = " Gradients are of the margin, in the image." if what == "gradients" else ""
    return {
        "title": f"{what.capitalize()} of a generative classifier, {len(x)} image{'s' * (len(x) > 1)}",
        "note": f"GFZ at the cpu profile's size, C = {model.classes}, K = {model.samples}, the same noise. In double "
        f"precision the ways differ by at most {gap:.1g}; the largest entry is {largest:.3g}.{gradients}",
        "reference": next(iter(WAYS)),
        "cases": [{"case": name, "seconds": seconds[name]} for name in WAYS],
    }


def _last_layer(what: str) -> dict:
    """300 pictures of 28x28 out of 64 channels, as many as one pass of a model on a CPU makes."""
    generator = torch.Generator().manual_seed(0)
    ours = SubpixelDeconvolution(64, 1, (1, 1))
    theirs = nn.ConvTranspose2d(64, 1, 5, stride=2, padding=2, output_padding=1, bias=False)
    theirs.load_state_dict(ours.state_dict())
    ways = {"subpixel convolution": ours, "torch's ConvTranspose2d": theirs}
    x = torch.randn(300, 64, 14, 14, generator=generator).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)

    def run(layer: nn.Module) -> None:
        if what == "pictures":
            with torch.no_grad():
                layer(x)
        else:
            given = x.clone().requires_grad_()
            layer(given).sum().backward()

    layers = {name: layer.to(memory_format=torch.channels_last) for name, layer in ways.items()}
    seconds = interleaved({name: partial(run, layer) for name, layer in layers.items()}, 25)
    return {
        "title": f"The last layer of a decoder, {what}",
        "note": "300 pictures 1x28x28 from 64 channels, equal weights, both with channels last."
        + (" Gradients are of input and weights, the forward pass included." if what == "gradients" else ""),
        "reference": next(iter(ways)),
        "cases": [{"case": name, "seconds": seconds[name]} for name in ways],
    }


@torch.no_grad()
def _scores(way, model, x: Tensor, y: Tensor, noise: dict[str, Tensor]) -> Tensor:
    return way(model, x, noise)


def _gradients(way, model, x: Tensor, y: Tensor, noise: dict[str, Tensor]) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(LOSSES["margin"](way(model, x, noise), y).sum(), x)[0]


if __name__ == "__main__":
    main()
