"""PGD-40 in linf, side by side: ours, torchattacks, Foolbox, on one CNN where most images fall."""

from __future__ import annotations

import foolbox
import torch
import torchattacks

from benchmarks.timing import interleaved, save
from hybridgen_lib.attacks import Linf, pgd
from hybridgen_lib.data import as_float, load
from hybridgen_lib.recipes import trained

IMAGES, EPS, STEPS, REPETITIONS = 256, 0.1, 40, 7


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, model = load("fashion-mini"), trained("cnn", device="cpu")
    x, y = as_float(data.test_x[:IMAGES]), data.test_y[:IMAGES]
    for parameter in model.parameters():  # nobody has to compute gradients that nobody wants
        parameter.requires_grad_(False)
    torch_pgd = torchattacks.PGD(model, eps=EPS, alpha=2.5 * EPS / STEPS, steps=STEPS)
    fool_model, fool_pgd = (
        foolbox.PyTorchModel(model, bounds=(0, 1)),
        foolbox.attacks.LinfPGD(rel_stepsize=2.5 / STEPS, steps=STEPS),
    )
    cases = {
        "hybridgen": lambda: pgd(model, x, y, Linf(EPS), steps=STEPS),
        "hybridgen, every image takes every step": lambda: pgd(model, x, y, Linf(EPS), steps=STEPS, stop_when_fooled=False),
        "torchattacks": lambda: torch_pgd(x, y),
        "Foolbox": lambda: fool_pgd(fool_model, x, y, epsilons=EPS)[1],
    }

    def right(images: torch.Tensor) -> float:
        return (model(images).argmax(1) == y).float().mean().item()

    clean, left = right(x), {name: right(attack()) for name, attack in cases.items()}
    seconds = interleaved(cases, REPETITIONS)
    table = {
        "title": f"PGD-{STEPS}, linf {EPS}, on a CNN where most images fall",
        "note": f"Model `cnn` (quick), {IMAGES} test images of fashion-mini, cross-entropy, random start, steps of 2.5 eps / "
        f"{STEPS}; clean accuracy {clean:.3f}. Ours lets an image leave the batch once it is fooled; the accuracy each attack "
        "leaves is printed so that nobody is fast by being weak.",
        "reference": "hybridgen",
        "cases": [{"case": name, "seconds": seconds[name], "accuracy left": round(left[name], 4)} for name in cases],
    }
    save("attacks", [table], ["torchattacks", "foolbox"])


if __name__ == "__main__":
    main()
