"""PGD-40 in linf, side by side: ours, torchattacks, Foolbox, ART; on a CNN where most images fall, and one where few do."""

from __future__ import annotations

import foolbox
import numpy as np
import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier

from benchmarks.timing import interleaved, save, share_right
from hybridgen_lib.attacks import Linf, pgd
from hybridgen_lib.data import as_float, load
from hybridgen_lib.recipes import trained

IMAGES, EPS, STEPS, REPETITIONS = 256, 0.1, 40, 7
FALLS = {"cnn": "most images fall", "cnn-at": "few images fall"}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (ART draws its starts from it)
    save("attacks", [_table(name) for name in FALLS], ["torchattacks", "foolbox", "adversarial-robustness-toolbox"])


def _table(name: str) -> dict:
    data, model = load("fashion-mini"), trained(name, device="cpu")
    x, y = as_float(data.test_x[:IMAGES]), data.test_y[:IMAGES]
    for parameter in model.parameters():  # nobody has to compute gradients that nobody wants
        parameter.requires_grad_(False)
    step = 2.5 * EPS / STEPS
    torch_pgd = torchattacks.PGD(model, eps=EPS, alpha=step, steps=STEPS)
    fool_model = foolbox.PyTorchModel(model, bounds=(0, 1))
    fool_pgd = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / STEPS, steps=STEPS)
    art_model = PyTorchClassifier(model, torch.nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0, 1), device_type="cpu")
    art_pgd = ProjectedGradientDescentPyTorch(
        art_model, eps=EPS, eps_step=step, max_iter=STEPS, num_random_init=1, batch_size=IMAGES, verbose=False
    )
    cases = {
        "hybridgen": lambda: pgd(model, x, y, Linf(EPS), steps=STEPS),
        "hybridgen, every image takes every step": lambda: pgd(model, x, y, Linf(EPS), steps=STEPS, stop_when_fooled=False),
        "torchattacks": lambda: torch_pgd(x, y),
        "Foolbox": lambda: fool_pgd(fool_model, x, y, epsilons=EPS)[1],
        "ART": lambda: torch.from_numpy(art_pgd.generate(x.numpy(), y.numpy())),
    }
    left = {case: share_right(model, attack(), y) for case, attack in cases.items()}
    seconds = interleaved(cases, REPETITIONS)
    return {
        "title": f"PGD-{STEPS}, linf {EPS}, on a CNN where {FALLS[name]}",
        "note": f"Model `{name}` (quick), {IMAGES} test images of fashion-mini, cross-entropy, random start, steps of 2.5 eps "
        f"/ {STEPS}; clean accuracy {share_right(model, x, y):.3f}. Ours lets an image leave the batch once it is fooled; the "
        "accuracy each attack leaves is printed so that nobody is fast by being weak.",
        "reference": "hybridgen",
        "cases": [{"case": case, "seconds": seconds[case], "accuracy left": round(left[case], 4)} for case in cases],
    }


if __name__ == "__main__":
    main()
