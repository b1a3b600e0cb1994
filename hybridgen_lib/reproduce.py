"""The full-scale runs: one job measures one model in one way and writes one file of ``results/``.

    python -m hybridgen_lib.reproduce deepbayes gfz fgsm --profile cpu --seed 0

A job whose file is there does nothing, so a table may take several sittings and a killed run loses one job at most.
``make reproduce`` runs them all. Chapters draw their full-scale tables and figures from the files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from torch import nn

from hybridgen_lib import data as datasets
from hybridgen_lib import results
from hybridgen_lib.attacks import Linf, fgsm
from hybridgen_lib.classifier import check_choice
from hybridgen_lib.evaluation import SUITES, adaptive_outcomes, adaptive_pgd, attack_outcomes
from hybridgen_lib.measurement import Outcomes
from hybridgen_lib.models.factorization import DEEP_BAYES
from hybridgen_lib.recipes import RECIPES, choose_device, trained

__all__ = ["DOCUMENTS", "Measurement", "reproduce"]

EPSILONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
"""`deepbayes` names 0.1 and 0.3 and prints no grid; the smaller radii are ours, since that is where curves differ."""

STAND_IN = {"cpu": "half width", "paper": ""}
"""`deepbayes` takes its models from Deep Bayes, whose networks are twice as wide as those of the cpu profile."""

CLEAN_IMAGES = 1_000
GRID_IMAGES = {"cpu": 100, "paper": 1_000}
ADAPTIVE_IMAGES = {"cpu": 200, "paper": 1_000}
ADAPTIVE_IMAGES_PLAIN = 500
"""The first test images. A plain network gets CLEAN_IMAGES of them on grids too: one pass each is cheap."""
ADAPTIVE_EPSILONS = (0.1, 0.3)


@dataclass(frozen=True)
class Job:
    """What one run is about: a trained model on a data set, and who attacks it from outside."""

    model: nn.Module
    images: datasets.ImageData
    profile: str
    seed: int
    source: Callable[[], nn.Module]  # the plain network whose adversarial images are tried on the model

    @property
    def samples_noise(self) -> bool:
        return getattr(self.model, "stochastic", False)


@dataclass(frozen=True)
class Measurement:
    """One way to measure a model for a document: the key of its results, its settings, and how the outcomes come about.

    ``measure`` gives the outcomes, or several by the name of the attack, of which that in ``key`` is written last.
    """

    key: dict
    settings: dict
    measure: Callable[[Job], Outcomes | dict[str, Outcomes]]


def _clean(job: Job) -> Outcomes:
    measured = attack_outcomes(job.model, job.images, fgsm, Linf, [0.0], index=range(CLEAN_IMAGES), seed=job.seed)
    return Outcomes(measured.index, measured.clean, draws=measured.draws)


def _curve(attack: Callable, job: Job) -> Outcomes:
    count = GRID_IMAGES[job.profile] if job.samples_noise else CLEAN_IMAGES
    return attack_outcomes(job.model, job.images, attack, Linf, EPSILONS, index=range(count), seed=job.seed)


def _suite(job: Job) -> str:
    return "adaptive-sampling-cpu" if job.samples_noise and job.profile == "cpu" else "adaptive"


def _adaptive(job: Job) -> dict[str, Outcomes]:
    """The adaptive protocol: what each of its attacks and those before it leave, the last being the worst case."""
    count = ADAPTIVE_IMAGES[job.profile] if job.samples_noise else ADAPTIVE_IMAGES_PLAIN
    balls = [Linf(eps) for eps in ADAPTIVE_EPSILONS]
    stages = adaptive_outcomes(
        job.model, job.images, balls, _suite(job), source=job.source(), index=range(count), seed=job.seed
    )
    return {"worst-case" if k == len(stages) - 1 else name: stage for k, (name, stage) in enumerate(stages.items())}


PGD = {"steps": 40, "restarts": 1, "eot": 1, "draws": 10}

# FGSM as printed: one step on the cross-entropy, the model's noise as it comes. Then the margin of the scores, 40 steps,
# first with the model's noise frozen, then with a fresh draw at every step. Then the whole protocol, at two radii.
DEEPBAYES = {
    "clean": Measurement({"protocol": "as_published", "attack": "none"}, {}, _clean),
    "fgsm": Measurement(
        {"protocol": "as_published", "attack": "fgsm", "norm": "linf", "steps": 1}, {"loss": "ce"}, partial(_curve, fgsm)
    ),
    "pgd-margin": Measurement(
        {"protocol": "adaptive", "attack": "pgd-margin", "norm": "linf", "steps": PGD["steps"]},
        {"loss": "margin", **PGD},
        partial(_curve, partial(adaptive_pgd, **PGD)),
    ),
    "worst-case": Measurement(
        {"protocol": "adaptive", "attack": "worst-case", "norm": "linf"},
        {name: asdict(SUITES[name]) for name in ("adaptive", "adaptive-sampling-cpu")},
        _adaptive,
    ),
}

DOCUMENTS = {
    "deepbayes": {"data": "fashion-mnist", "chapter": "05", "models": (*DEEP_BAYES, "cnn"), "measurements": DEEPBAYES}
}


def reproduce(
    document: str,
    model: str,
    measurement: str,
    profile: str = "cpu",
    seed: int = 0,
    *,
    data_root: str | Path | None = None,
    results_root: str | Path | None = None,
    device: str = "auto",
) -> Path:
    """Measure ``model`` for ``document`` and return the result file; one that is there already is left alone.

    Raises ``ValueError`` for a name that is none, before any work.
    """
    plan = DOCUMENTS[check_choice(document, "document", DOCUMENTS)]
    check_choice(model, "model", plan["models"])
    job = plan["measurements"][check_choice(measurement, "measurement", plan["measurements"])]
    check_choice(profile, "profile", results.PROFILES)
    images = datasets.load(plan["data"], data_root)
    key = {"document": document, "data": images, "model": model, "profile": profile, "seed": seed, "chapter": plan["chapter"]}
    key |= {"stand_in": STAND_IN[profile], **job.key}
    path = results.path_of(results_root, **key)
    if not path.exists():
        place = choose_device(device)
        network = trained(model, images, profile, seed, device=device)
        other = partial(trained, "cnn", images, profile, seed + (model == "cnn"), device=device)  # never the same network
        settings = {"recipe_version": RECIPES[model].version, "samples": getattr(network, "samples", 1), **job.settings}
        outcomes = job.measure(Job(network, images, profile, seed, other))
        for attack, part in (outcomes if isinstance(outcomes, dict) else {key["attack"]: outcomes}).items():
            results.record(part, results_root, device=str(place), settings=settings, **(key | {"attack": attack}))
    return path


def main(arguments: list[str] | None = None) -> None:
    """Command line: run one job, or all that a document has for a model when no measurement is named."""
    parser = argparse.ArgumentParser(prog="python -m hybridgen_lib.reproduce", description="Record full-scale results.")
    parser.add_argument("document", choices=DOCUMENTS)
    parser.add_argument("model")
    parser.add_argument("measurement", nargs="?", help="by default all")
    parser.add_argument("--profile", default="cpu", choices=results.PROFILES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    wanted = [options.measurement] if options.measurement else list(DOCUMENTS[options.document]["measurements"])
    for measurement in wanted:
        print(reproduce(options.document, options.model, measurement, options.profile, options.seed), flush=True)


if __name__ == "__main__":
    main()
