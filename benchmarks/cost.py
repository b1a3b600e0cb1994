"""What a generative classifier costs to attack: zoo's Table 3 as ratios, and what its random field and its denoiser add."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.timing import interleaved, save
from hybridgen_lib.attacks import L2, Linf, fgm, fgsm, pgd
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.data import as_float, load
from hybridgen_lib.recipes import trained

IMAGES, SAMPLES, REPETITIONS = 32, 10, 3
ATTACKS = {
    "FGM, l2 1": (fgm, L2(1.0)),
    "FGSM, linf 0.3": (fgsm, Linf(0.3)),
    "PGD-50, l2 1": (partial(pgd, steps=50, stop_when_fooled=False), L2(1.0)),
    "PGD-40, linf 0.3": (partial(pgd, steps=40, stop_when_fooled=False), Linf(0.3)),
}
PRINTED = {"FGM, l2 1": 38.3, "FGSM, linf 0.3": 39.7, "PGD-50, l2 1": 50.5, "PGD-40, linf 0.3": 49.2}
"""The quotients of zoo's Table 3, CNN VAE over CNN."""


def main() -> None:
    torch.set_num_threads(1)
    data = load("fashion-mini")
    x, y = as_float(data.test_x[:IMAGES]), data.test_y[:IMAGES]
    groups = [_generative(title, x, y) for title in ATTACKS]
    groups += _addition("cnn-vae-binary", "cnn-vae-crf", "The price of the random field behind the decoder", x, y)
    groups += _addition("cnn", "cnn-mrf", "The price of the denoiser in front of the CNN", x, y)
    save("cost", groups, [])


def _model(name: str) -> nn.Module:
    model = trained(name, device="cpu").requires_grad_(False)
    return model.with_samples(SAMPLES) if hasattr(model, "with_samples") else model


def _generative(title: str, x: Tensor, y: Tensor) -> dict:
    attack, ball = ATTACKS[title]
    cnn, vae = _model("cnn"), _model("cnn-vae")
    cases = {
        "cnn": lambda: attack(cnn, x, y, ball),
        "cnn-vae, all classes": lambda: attack(vae, x, y, ball, loss="ce"),
        "cnn-vae, two classes": lambda: attack(vae, x, y, ball, loss="margin"),
    }
    with frozen_noise(vae):
        seconds = interleaved(cases, REPETITIONS)
    return {
        "title": f"{title}: a generative classifier beside its discriminative twin",
        "note": f"Quick models of equal width, K = {SAMPLES}, C = 10, noise frozen, {IMAGES} test images of fashion-mini; "
        f"every image takes every step. zoo's Table 3 gives a ratio of {PRINTED[title]}. All classes is the cross-entropy, as "
        "published; two classes is the margin to the runner-up, with the choice of the runner-up in the time.",
        "reference": "cnn",
        "cases": [{"case": case, "seconds": seconds[case]} for case in cases],
    }


def _addition(plain: str, extended: str, title: str, x: Tensor, y: Tensor) -> list[dict]:
    attack, ball = ATTACKS["PGD-40, linf 0.3"]
    models = {name: _model(name) for name in (plain, extended)}
    work = {"scores": lambda model: model(x), "PGD-40": lambda model: attack(model, x, y, ball)}
    tables = []
    for what, run in work.items():
        cases = {name: partial(run, model) for name, model in models.items()}
        with frozen_noise(models[plain]), frozen_noise(models[extended]):
            seconds = interleaved(cases, REPETITIONS)
        note = f"Quick models, {IMAGES} test images of fashion-mini; every image takes every step."
        timed = [{"case": case, "seconds": seconds[case]} for case in cases]
        tables.append({"title": f"{title}: {what}", "note": note, "reference": plain, "cases": timed})
    return tables


if __name__ == "__main__":
    main()
