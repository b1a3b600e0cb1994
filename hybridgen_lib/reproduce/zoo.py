"""The full-scale runs for `zoo`: thirteen classifiers and a plain dense network on MNIST, under its ten attacks.

The document names Foolbox's attacks and states steps (PGD: 40 in linf, 50 in l2) and radii (0.1 to 0.5, 1 to 5); step sizes,
random starts and the mid-grey target of contrast reduction are Foolbox's defaults. Of C&W it says nothing but that it took
weeks: ours has the nine searches of its authors, 200 steps each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from hybridgen_lib.attacks import (
    L2,
    Linf,
    fgm,
    fgsm,
    pgd,
    smallest_blur,
    smallest_contrast_binary,
    smallest_contrast_linear,
    smallest_cw,
    smallest_gaussian_noise,
    smallest_uniform_noise,
    within,
)
from hybridgen_lib.attacks.balls import Ball
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.data import ImageData, as_float
from hybridgen_lib.evaluation import adaptive_pgd, smallest_outcomes
from hybridgen_lib.measurement import Outcomes
from hybridgen_lib.models.autoencoders import NearestPicture
from hybridgen_lib.models.binary import BinaryInput, binarise
from hybridgen_lib.models.classical import GaussianNaiveBayes, Probabilities
from hybridgen_lib.reproduce import jobs
from hybridgen_lib.reproduce.jobs import Document, Job, Measurement, clean, curve, worst_case

__all__ = ["ZOO", "released_naive_bayes"]

GRID_LINF, GRID_L2 = (0.1, 0.2, 0.3, 0.4, 0.5), (1.0, 2.0, 3.0, 4.0, 5.0)
CW_IMAGES = 100
DRAWS = 3
"""Of a stochastic model's noise, on which each attacked image is judged. The document has one; three tell luck from a rule."""
ADAPTIVE_PGD = {"steps": 40, "restarts": 1, "eot": 1, "draws": 10}
"""Of the curves beside the published ones: enough to draw them. The number that counts is the protocol's worst case."""


# ---------------------------------------------------------------- what the released code does


def released_naive_bayes(images: ImageData) -> BinaryInput:
    """Naive Bayes as the released code has it: images are binarised, and the variance is passed as the standard deviation."""
    model = GaussianNaiveBayes(images.train_x.shape[1:], len(images.classes))
    model.fit(binarise(as_float(images.train_x)), images.train_y, smoothing=1e-9)
    with torch.no_grad():
        model.log_variances.mul_(2)  # sigma = variance, so sigma^2 = variance^2
    return BinaryInput(model).eval()


def as_released(job: Job) -> Job:
    """The same job with a model as the released code hands it to its attacks: probabilities where scores belong."""
    naive = isinstance(job.model, GaussianNaiveBayes)
    place = next(job.model.parameters()).device
    return replace(job, model=Probabilities(released_naive_bayes(job.images).to(place) if naive else job.model))


# ---------------------------------------------------------------- measurements


def published_pgd(model: nn.Module, x: Tensor, y: Tensor, ball: Ball, *, generator=None) -> Tensor:
    """PGD on the cross-entropy with the document's steps and Foolbox's step sizes, eps / 30 in linf and eps / 40 in l2."""
    steps, share = (40, 1 / 30) if isinstance(ball, Linf) else (50, 1 / 40)
    return pgd(model, x, y, ball, steps=steps, step_size=share * ball.eps, generator=generator)


def _key(ball_type: type[Ball], name: str, steps: int | str = "", variant: str = "") -> dict:
    norm = ball_type.__name__.lower()
    return {"protocol": "as_published", "attack": name, "norm": norm, "steps": steps, "variant": variant}


def _grid(attack: Callable, ball_type: type[Ball], job: Job) -> Outcomes:
    """Figure 4's radii. The tables have linf numbers only, so these get more images of a model that samples."""
    linf = ball_type is Linf
    return curve(attack, ball_type, GRID_LINF if linf else GRID_L2, job, jobs.TABLE_IMAGES if linf else None, DRAWS)


def _published(attack: Callable, ball_type: type[Ball], name: str, steps: int | str = "") -> Measurement:
    return Measurement(_key(ball_type, name, steps), {}, partial(_grid, attack, ball_type))


def _as_released(attack: Callable, name: str, steps: int | str = "") -> Measurement:
    only = ("logreg", "nn", "cnn", "nb", "mrf", "gmm")  # where one call is cheap, and its softmax is the whole difference
    return Measurement(_key(Linf, name, steps, "code"), {}, lambda job: _grid(attack, Linf, as_released(job)), only)


def _searched(smallest: Callable, name: str) -> Measurement:
    """One search serves all radii. What it finds beyond eps is clipped to the ball and judged again, as Foolbox does."""

    def measure(job: Job) -> Outcomes:
        index = job.first(jobs.TABLE_IMAGES, jobs.CLEAN_IMAGES)
        options = {"project": Linf, "index": index, "draws": DRAWS, "seed": job.seed}
        return smallest_outcomes(job.model, job.images, smallest, GRID_LINF, **options)

    return Measurement(_key(Linf, name), {}, measure)


def _carlini_wagner(job: Job) -> Outcomes:
    """A model's noise is frozen, for the search and for the verdict: what C&W finds lies on the border of one function, and
    another draw moves the border."""
    with frozen_noise(job.model, job.seed):
        return smallest_outcomes(job.model, job.images, smallest_cw, GRID_L2, index=range(CW_IMAGES), seed=job.seed)


def _adaptive(ball_type: type[Ball]) -> Measurement:
    """Figure 4's grids again, by PGD on the margin."""
    key = {"protocol": "adaptive", "attack": "pgd-margin", "norm": ball_type.__name__.lower(), "steps": ADAPTIVE_PGD["steps"]}
    epsilons = GRID_LINF if ball_type is Linf else GRID_L2
    attack = partial(adaptive_pgd, **ADAPTIVE_PGD)
    return Measurement(key, {"loss": "margin", **ADAPTIVE_PGD}, partial(curve, attack, ball_type, epsilons))


def _by_mean_distance(job: Job) -> Outcomes:
    """The conditional VAE's clean accuracy by its other rule (section 2.5)."""
    place = next(job.model.parameters()).device
    return clean(replace(job, model=NearestPicture(job.model.cvae, job.model.samples, rule="mse").to(place).eval()))


ZOO = Document(
    data="mnist",
    chapter="06",
    models=(
        "logreg",
        "cnn",
        "cnn-mrf",
        "cnn-binary",
        "vae-classifier",
        "vae-classifier-pretrained",
        "nb",
        "mrf",
        "gmm",
        "cnn-vae",
        "cnn-vae-binary",
        "cnn-vae-crf",
        "cvae",
        "nn",
    ),
    measurements={
        "clean": Measurement({"protocol": "as_published", "attack": "none"}, {}, clean),
        "clean-mse": Measurement(
            {"protocol": "as_published", "attack": "none", "changes": {"rule": "mse"}}, {}, _by_mean_distance, only=("cvae",)
        ),
        "fgsm": _published(fgsm, Linf, "fgsm"),
        "pgd": _published(published_pgd, Linf, "pgd", 40),
        "fgm": _published(fgm, L2, "fgm"),
        "pgd-l2": _published(published_pgd, L2, "pgd", 50),
        "fgsm-code": _as_released(fgsm, "fgsm"),
        "pgd-code": _as_released(published_pgd, "pgd", 40),
        "uniform-noise": _published(within(smallest_uniform_noise, project=True), Linf, "uniform-noise"),
        "gaussian-noise": _published(within(smallest_gaussian_noise, project=True), L2, "gaussian-noise"),
        "contrast-linear": _searched(smallest_contrast_linear, "contrast-linear"),
        "contrast-binary": _searched(smallest_contrast_binary, "contrast-binary"),
        "blur": _searched(smallest_blur, "blur"),
        "cw": Measurement(_key(L2, "cw"), {"steps": 200, "searches": 9, "noise": "frozen"}, _carlini_wagner),
        "pgd-margin": _adaptive(Linf),
        "pgd-margin-l2": _adaptive(L2),
        "worst-case": worst_case(Linf, (0.1, 0.3, 0.5)),
    },
    # its convolutional networks are those of Deep Bayes (its appendix A.3), twice as wide as ours at the cpu profile
    stand_in={"cpu": "half width", "paper": ""},
    # of the others it gives every size there is to give, or none
    exact=("logreg", "nn", "nb", "mrf", "gmm", "vae-classifier", "vae-classifier-pretrained", "cvae"),
)
