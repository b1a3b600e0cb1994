"""Gaussian blur and contrast reduction against Foolbox: the first of a thousand sizes that fools.

Ours looks at every twentieth size first, and then between two of them; with ``stride=1`` it asks every size
in turn, as Foolbox does, but of an image only until it is fooled.
"""

from __future__ import annotations

import foolbox
import torch

from benchmarks.timing import interleaved, save
from hybridgen_lib.attacks import Linf, smallest_blur, smallest_contrast_binary, smallest_contrast_linear
from hybridgen_lib.data import as_float, load
from hybridgen_lib.recipes import trained

IMAGES, REPETITIONS = 256, 2
ATTACKS = {
    "Contrast reduction, linear search": (
        smallest_contrast_linear,
        foolbox.attacks.LinearSearchContrastReductionAttack(distance=foolbox.distances.linf),
    ),
    "Contrast reduction, binary search": (
        smallest_contrast_binary,
        foolbox.attacks.BinarySearchContrastReductionAttack(distance=foolbox.distances.linf),
    ),
    "Gaussian blur": (smallest_blur, foolbox.attacks.GaussianBlurAttack(distance=foolbox.distances.linf)),
}


def main() -> None:
    torch.set_num_threads(1)
    save("smallest", [_table(*item) for item in ATTACKS.items()], ["foolbox"])


def _table(title: str, attacks) -> dict:
    ours, theirs = attacks
    data, model = load("fashion-mini"), trained("cnn", device="cpu").requires_grad_(False)
    x, y = as_float(data.test_x[:IMAGES]), data.test_y[:IMAGES]
    fool_model = foolbox.PyTorchModel(model, bounds=(0, 1))
    cases = {"hybridgen": lambda: ours(model, x, y).x_adv}
    if ours is not smallest_contrast_binary:
        cases["hybridgen, every size in turn"] = lambda: ours(model, x, y, stride=1).x_adv
    cases["Foolbox"] = lambda: theirs(fool_model, x, y, epsilons=None)[0]
    found, answers = {}, {}
    for case, attack in cases.items():
        shown = []
        handle = model.register_forward_hook(lambda module, inputs, scores, shown=shown: shown.append(len(scores)))
        found[case], answers[case] = attack(), sum(shown) / len(x)
        handle.remove()
    fooled = {case: model(images).argmax(1) != y for case, images in found.items()}
    both = fooled["hybridgen"] & fooled["Foolbox"]
    lengths = {case: Linf(1.0).norm(images - x)[both] for case, images in found.items()}
    same = ((lengths["hybridgen"] - lengths["Foolbox"]).abs() < 2e-3).float().mean().item()
    seconds = interleaved(cases, REPETITIONS, warm_up=False)
    return {
        "title": title,
        "note": f"Model `cnn` (quick), {IMAGES} test images of fashion-mini. Of the images that both fool, "
        f"{100 * same:.1f} % fall at the same distance.",
        "reference": "hybridgen",
        "cases": [
            {
                "case": case,
                "seconds": seconds[case],
                "answers an image": round(answers[case]),
                "fooled": round(fooled[case].float().mean().item(), 4),
                "mean linf distance": round(lengths[case].mean().item(), 4),
            }
            for case in cases
        ],
    }


if __name__ == "__main__":
    main()
