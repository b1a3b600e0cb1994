"""What training costs: VGG16 by cross-entropy, by adversarial training, and with the causal head on its frozen features.

`hybrid` (section 4.2) cites that adversarial training takes 3 to 30 times longer, and measures no training itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.timing import interleaved, save
from hybridgen_lib.attacks import Linf
from hybridgen_lib.data import as_float
from hybridgen_lib.recipes import RECIPES, build
from hybridgen_lib.training import Objective, adversarial, cross_entropy, fit, negative_elbo, shifted_and_mirrored

SHAPE, CLASSES, BALL = (3, 32, 32), 10, Linf(8 / 255)
STEPS = {"FGSM": 1, "PGD-7": 7, "PGD-10": 10}
PLAIN, FEATURES, HEAD = "VGG16", "features, once", "head on frozen features"
SIZES = {
    "cpu": {"batches": 4, "head batches": 8, "repetitions": 5, "warm-up": True},
    "paper": {"batches": 1, "head batches": 8, "repetitions": 3, "warm-up": False},
}
"""How many batches of the recipe one repetition trains on. The head has more, since what comes before a run's first step
would weigh on it most."""


def main() -> None:
    torch.set_num_threads(1)
    save("training", [table for profile, size in SIZES.items() for table in _tables(profile, size)], [])


def _tables(profile: str, size: dict[str, int]) -> list[dict]:
    vgg, head = (RECIPES[name].settings[profile] for name in ("vgg16", "hybrid-shallow"))
    seconds = interleaved(_cases(profile, size), size["repetitions"], size["warm-up"])
    images = dict.fromkeys(seconds, vgg["batch_size"] * size["batches"])
    images[HEAD] = head["batch_size"] * size["head batches"]
    per_image = {case: [second / images[case] for second in times] for case, times in seconds.items()}
    whole = {case: [vgg["epochs"] * second for second in per_image[case]] for case in (PLAIN, *map(_attacked, STEPS))}
    stages = zip(whole[PLAIN], per_image[FEATURES], per_image[HEAD], strict=True)
    whole["VGG16, features and head"] = [base + features + head["epochs"] * epoch for base, features, epoch in stages]
    setting = (
        f"VGG16 at {vgg['width']:g} of its width, the head of `hybrid-shallow`, random images 3x32x32, 10 classes, batches of "
        f"{vgg['batch_size']} and {head['batch_size']}. Attacks are in linf, every image takes every step."
    )
    epochs = (
        f"By the recipes' epochs, {vgg['epochs']} of VGG16 and {head['epochs']} of the head, for one image of the training "
        "set, computed from the repetitions above. Adversarial training is given the epochs of plain training."
    )
    return [
        _table(f"An epoch of training, `{profile}`, by 1,000 images", setting, per_image, 1000),
        _table(f"The whole training, `{profile}`, by image", epochs, whole, 1),
    ]


def _table(title: str, note: str, per_image: dict[str, list[float]], images: int) -> dict:
    cases = [{"case": case, "seconds": [round(second * images, 5) for second in times]} for case, times in per_image.items()]
    return {"title": title, "note": note, "reference": PLAIN, "cases": cases}


def _attacked(attack: str) -> str:
    return f"VGG16, adversarial, {attack}"


def _cases(profile: str, size: dict[str, int]) -> dict[str, Callable[[], object]]:
    settings, generator = RECIPES["vgg16"].settings[profile], torch.Generator().manual_seed(0)
    count = settings["batch_size"] * size["batches"]
    x = torch.randint(256, (count, *SHAPE), dtype=torch.uint8, generator=generator)

    def vgg(objective: Objective) -> Callable[[], object]:
        objective = shifted_and_mirrored(objective, settings["shift"]) if settings["shift"] else objective
        return partial(_epoch, build("vgg16", SHAPE, CLASSES, profile), objective, x, settings["batch_size"])

    hybrid, batch = build("hybrid-shallow", SHAPE, CLASSES, profile), RECIPES["hybrid-shallow"].settings[profile]["batch_size"]
    tap, more = hybrid.deterministic["x2"], torch.rand(batch * size["head batches"], *SHAPE, generator=generator)
    seen = {"x1": more.flatten(1), "x2": tap.calibrate(more)}
    return {
        PLAIN: vgg(cross_entropy),
        **{_attacked(attack): vgg(adversarial(BALL, steps=steps)) for attack, steps in STEPS.items()},
        FEATURES: lambda: tap.calibrate(as_float(x)),
        HEAD: partial(_epoch, hybrid, negative_elbo(do={"m": 0}), seen, batch),
    }


def _epoch(model: nn.Module, objective: Objective, x: Tensor | dict[str, Tensor], batch_size: int) -> None:
    count = len(x["x1"] if isinstance(x, dict) else x)
    with redirect_stderr(io.StringIO()):  # a bar for every repetition
        fit(model, objective, x, torch.arange(count) % CLASSES, epochs=1, batch_size=batch_size, learning_rate=1e-5)


if __name__ == "__main__":
    main()
