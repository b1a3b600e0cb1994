"""The full-scale runs for `hybrid`: VGG, its causal head at two depths and the document's baselines.

The document has CIFAR-10, CIFAR-100 and Tiny-ImageNet; on a CPU Fashion-MNIST and a narrow VGG stand in for CIFAR-10. It
states FGSM, and PGD of 30 steps in l2, at radii "from 0 to 0.2". In l2 such a radius moves no pixel that an eye can see, so
the same axis is also read as linf, and as the root mean square of the pixels. Step size, start and number of images are ours.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pandas as pd
from torch import Tensor, nn

from hybridgen_lib.attacks import L2, Linf, fgsm, pgd
from hybridgen_lib.attacks.balls import Ball
from hybridgen_lib.evaluation import adaptive_pgd, masking_report
from hybridgen_lib.measurement import Outcomes
from hybridgen_lib.reproduce.jobs import Document, Job, Measurement, clean, curve, worst_case

__all__ = ["FREE_CODE", "HYBRID", "HYBRID_CIFAR10", "HYBRID_CIFAR100", "HYBRID_TINY", "READINGS"]

EPSILONS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
"""The document's axis; where its claims stand, at 0.05, 0.1 and 0.2, and some between."""
STEPS = 30
ADAPTIVE_PGD = {"steps": 40, "restarts": 1, "eot": 1, "draws": 10}
MASKING_IMAGES = 20
READINGS = {
    "l2": "l2 radius as printed",
    "linf": "linf radius",
    "rms": "l2 radius as root mean square of the pixels",
}
"""What a radius of 0.05 may mean, in the words of the claims."""

FREE_CODE = "code=16,pressure=4"
"""Of the head: a small code under pressure leaves the class to y (chapter 08)."""
HEADS = ("hybrid-deep", "hybrid-shallow")
FREE_HEADS = tuple(f"{head}@{FREE_CODE}" for head in HEADS)
MODELS = (
    *("vgg16", "dbx-fc1", "cama", "gbz-conv9", "gby-conv9"),
    *HEADS,
    *FREE_HEADS,
)
CHANGES = (
    *("code=16", "code=32", "code=64", "pressure=4", "epochs=5", "epochs=120", "samples=1", "samples=30"),
    *("feature_sigma=0.25", "feature_sigma=2", "pixel_sigma=0.25", "pixel_sigma=2", "scales=learned"),
    *("training_m=sampled", "weight=published"),
    *("code=16,feature_sigma=0.25,pressure=4", "code=16,feature_sigma=2,pressure=4"),
    *("code=16,pixel_sigma=0.25,pressure=4", "code=16,pixel_sigma=2,pressure=4"),
)
DEEP_CHANGES = ("feature_sigma=0.25", "feature_sigma=2", "pixel_sigma=0.25", "pixel_sigma=2")
ABLATION = (
    *(f"hybrid-shallow@{change}" for change in CHANGES),
    *(f"hybrid-deep@{change}" for change in DEEP_CHANGES),
)
"""``epochs=5`` is the text's "350 total training iterations" by the letter, on 10,000 images in batches of 150."""
BRIEF = (0.05, 0.1)
"""Radii at which the ablation is attacked."""


def published_pgd(model: nn.Module, x: Tensor, y: Tensor, ball: Ball, *, generator=None) -> Tensor:
    """PGD on the cross-entropy with the document's 30 steps, the model's noise as it comes."""
    return pgd(model, x, y, ball, steps=STEPS, generator=generator)


def _curve(attack, reading: str, epsilons: tuple[float, ...], job: Job) -> Outcomes:
    """One attack over the document's axis, its radii read as ``reading`` says."""
    ball_type = Linf if reading == "linf" else L2
    unit = math.sqrt(math.prod(job.images.test_x.shape[1:])) if reading == "rms" else 1.0
    return curve(attack, ball_type, tuple(eps * unit for eps in epsilons), job)


def _pgd(protocol: str, reading: str, epsilons: tuple[float, ...] = EPSILONS) -> Measurement:
    adaptive = protocol == "adaptive"
    name, steps = ("pgd-margin", ADAPTIVE_PGD["steps"]) if adaptive else ("pgd", STEPS)
    norm = "linf" if reading == "linf" else "l2"
    key = {"protocol": protocol, "attack": name, "norm": norm, "steps": steps, "reading": READINGS[reading]}
    attack = partial(adaptive_pgd, **ADAPTIVE_PGD) if adaptive else published_pgd
    settings = {"loss": "margin", **ADAPTIVE_PGD} if adaptive else {"loss": "ce"}
    return Measurement(key, settings, partial(_curve, attack, reading, epsilons))


def _clean_without_m(job: Job) -> Outcomes:
    """m set to 0 in the prediction too, as it was in training."""
    return clean(replace(job, model=job.model.do(m=0)))


def _masking(job: Job) -> pd.DataFrame:
    """The masking report at linf 0.05, on the first images; the plain network's gradients are the other ones."""
    index = range(MASKING_IMAGES if job.samples else 5 * MASKING_IMAGES)
    return masking_report(job.model, job.images, Linf(0.05), job.source(), index=index, seed=job.seed)


CLEAN = {"protocol": "as_published", "attack": "none"}


def _measurements(worst: tuple[float, ...]) -> dict[str, Measurement]:
    no_m = {**CLEAN, "reading": "m set to 0 in the prediction too"}
    fgsm_key = {"protocol": "as_published", "attack": "fgsm", "norm": "linf", "steps": 1}
    ways = {
        "fgsm": Measurement(fgsm_key, {"loss": "ce"}, partial(_curve, fgsm, "linf", EPSILONS)),
        **{f"pgd-{reading}": _pgd("as_published", reading) for reading in READINGS},
        **{f"pgd-margin-{reading}": _pgd("adaptive", reading) for reading in READINGS},
        "worst-case": worst_case(Linf, worst),
    }
    return {
        "clean": Measurement(CLEAN, {}, clean),
        "clean-no-m": Measurement(no_m, {}, _clean_without_m, only=(*HEADS, *FREE_HEADS, *ABLATION, "cama")),
        **{name: replace(way, only=MODELS) for name, way in ways.items()},
        "masking": Measurement(
            {"protocol": "adaptive", "attack": "masking-report", "norm": "linf"}, {}, _masking, only=MODELS
        ),
        "brief-ce": replace(_pgd("as_published", "linf", BRIEF), only=ABLATION),
        "brief-margin": replace(_pgd("adaptive", "linf", BRIEF), only=ABLATION),
    }


HYBRID = Document(
    data="fashion-mnist",
    claim_data="cifar10",
    chapter="08",
    models=(*MODELS, *ABLATION),
    measurements=_measurements((0.05, 0.1, 0.2, 0.3)),
    stand_in={"cpu": "Fashion-MNIST, quarter width, 10,000 images"},
    source="vgg16",
)
HYBRID_CIFAR10 = replace(
    HYBRID,
    data="cifar10-jpeg",
    measurements=_measurements((8 / 255, 0.05, 0.1, 0.2)),
    stand_in={"paper": "a JPEG copy of CIFAR-10"},
)
HYBRID_CIFAR100 = replace(HYBRID_CIFAR10, data="cifar100", claim_data="cifar100", models=MODELS, stand_in={"paper": ""})
HYBRID_TINY = Document(
    data="tiny-imagenet-32",
    claim_data="tiny-imagenet",
    chapter="08",
    models=("vgg19", *HEADS, *FREE_HEADS),
    measurements={"clean": Measurement(CLEAN, {}, clean)},
    stand_in={"paper": "32 pixels"},
    source="vgg19",
)
