"""How far away and how many steps away counterfactuals are: `hybrid`'s proximity and speed, Figures 4b, c, e, f and 5.

Section 4.3 draws both against the radius, with no number but three counts, and leaves open what exactly is measured. Here each
image has a distance, the smallest radius at which it falls, and a count of steps at three radii of the document's axis; both
are censored at a limit. The iterations until accuracy is 0.4, which the text defines, are computed from the counts.

As published: FGSM in linf and PGD of 30 steps in l2 on the cross-entropy, noise as it comes. Adaptive: of each image the best
of that attack and of one on the margin, for a stochastic model under frozen noise; in l2 C&W too, where an answer is cheap.

Ours, where the document is silent: a step is a tenth of the radius, so that one step can be seen to be enough or not. An l2
radius is read as the root mean square of the pixels, for as printed it moves nothing that an eye can see (chapter 08). The
search ends at 0.5 in linf, where every image can be turned grey, and in l2 at a root mean square of 0.25.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from hybridgen_lib.attacks import L2, Linf, fgsm, pgd, smallest_cw
from hybridgen_lib.evaluation import proximity, speed
from hybridgen_lib.measurement import Survival, earliest
from hybridgen_lib.measurement.outcomes import shared_rows
from hybridgen_lib.reproduce.hybrid import HYBRID, HYBRID_CIFAR10, HYBRID_CIFAR100, STEPS
from hybridgen_lib.reproduce.jobs import CLEAN_IMAGES, GRID_IMAGES, TABLE_IMAGES, Job, Measurement

__all__ = ["COUNTERFACTUALS", "COUNTERFACTUALS_CIFAR10", "COUNTERFACTUALS_CIFAR100"]

MODELS = ("vgg16", "dbx-fc1", "cama", "gbz-conv9", "gby-conv9", "hybrid-deep", "hybrid-shallow")
"""Table 1's; Section 4.3 compares the first, the fourth and the last."""
EPSILONS = (0.05, 0.1, 0.2)
STEP = 0.1
"""A step, as a share of the radius."""
LIMITS = {"linf": 0.5, "l2": 0.25}
SEARCH = {"doublings": 5, "bisections": 4}
MARGIN_STEPS = 20
CW = {"steps": 100, "searches": 6}
SMALLEST = "smallest radius"


def _unit(norm: str, job: Job) -> float:
    """What one of the document's units is: 1 in linf, and in l2 the length of an image whose pixels are all 1."""
    return math.sqrt(math.prod(job.images.test_x.shape[1:])) if norm == "l2" else 1.0


def _ball_type(norm: str) -> type:
    return L2 if norm == "l2" else Linf


# ---------------------------------------------------------------- proximity (Figures 4b, 4e)


def _distance(norm: str, job: Job, **how) -> Survival:
    few = GRID_IMAGES if norm == "l2" or how.get("attack") is not fgsm else TABLE_IMAGES
    limit, index = LIMITS[norm] * _unit(norm, job), job.first(few, CLEAN_IMAGES)
    return proximity(
        job.model, job.images, _ball_type(norm), limit=limit, index=index, seed=job.seed, batch_size=100, **SEARCH, **how
    )


def _published_distance(norm: str, job: Job) -> Survival:
    return _distance(norm, job, attack=fgsm if norm == "linf" else partial(pgd, steps=STEPS), frozen=False)


def _nearest(norm: str, job: Job) -> Survival:
    """The nearer of what the document's attack finds and what margin PGD does, and in l2 C&W."""
    climb = partial(pgd, steps=MARGIN_STEPS, loss="margin", random_start=False, stop_when_fooled=not job.samples)
    cw = partial(smallest_cw, **CW) if norm == "l2" and not job.samples else None
    margin = _distance(norm, job, attack=climb, smallest=cw)
    return earliest(margin, _on(margin.index, _published_distance(norm, job)))


def _on(index: list[int], measured: Survival) -> Survival:
    _, rows = shared_rows(index, measured.index)
    return replace(measured, index=index, values=measured.values[rows], reached=measured.reached[rows])


# ---------------------------------------------------------------- speed (Figures 4c, 4f)


def _steps(norm: str, eps: float, job: Job, **how) -> Survival:
    ball, index = _ball_type(norm)(eps * _unit(norm, job)), job.first(TABLE_IMAGES, CLEAN_IMAGES)
    step_size = STEP * ball.eps
    return speed(job.model, job.images, ball, step_size=step_size, limit=STEPS, index=index, seed=job.seed, **how)


def _published_steps(norm: str, eps: float, job: Job) -> Survival:
    return _steps(norm, eps, job, frozen=False)


def _fewest(norm: str, eps: float, job: Job) -> Survival:
    """The fewer of the steps on the cross-entropy and of those on the margin under frozen noise."""
    return earliest(_published_steps(norm, eps, job), _steps(norm, eps, job, loss="margin"))


# ---------------------------------------------------------------- the plan


def _measurements() -> dict[str, Measurement]:
    ways = {}
    for norm, one, many in (("linf", "fgsm", "ifgsm"), ("l2", "pgd", "pgd")):
        published = {"protocol": "as_published", "norm": norm}
        adaptive = {"protocol": "adaptive", "norm": norm, "attack": "nearest", "reading": SMALLEST}
        key = published | {"attack": one, "steps": 1 if one == "fgsm" else STEPS, "reading": SMALLEST}
        told = {"limit": LIMITS[norm], **SEARCH}
        ways[f"proximity-{norm}"] = Measurement(key, told | {"loss": "ce"}, partial(_published_distance, norm))
        told = told | {"loss": "best of ce and margin", "steps": MARGIN_STEPS}
        told = told | ({"cw where one answer needs one sample": CW} if norm == "l2" else {})
        ways[f"proximity-{norm}-adaptive"] = Measurement(adaptive, told, partial(_nearest, norm))
        for eps in EPSILONS:
            told, reading = {"eps": eps, "step_size": STEP * eps}, _reading(norm, eps)
            key = published | {"attack": many, "steps": STEPS, "reading": reading}
            ways[f"speed-{norm}-{eps:g}"] = Measurement(key, told | {"loss": "ce"}, partial(_published_steps, norm, eps))
            key = adaptive | {"attack": "fastest", "steps": STEPS, "reading": reading}
            told = told | {"loss": "best of ce and margin"}
            ways[f"speed-{norm}-{eps:g}-adaptive"] = Measurement(key, told, partial(_fewest, norm, eps))
    return ways


def _reading(norm: str, eps: float) -> str:
    """Which radius the steps stay within, in the words of the claims."""
    return f"radius {eps:g}" + (" as root mean square of the pixels" if norm == "l2" else "")


_OURS = {"chapter": "14", "models": MODELS, "measurements": _measurements()}
COUNTERFACTUALS = replace(HYBRID, **_OURS)
COUNTERFACTUALS_CIFAR10 = replace(HYBRID_CIFAR10, **_OURS)
COUNTERFACTUALS_CIFAR100 = replace(HYBRID_CIFAR100, **_OURS)
