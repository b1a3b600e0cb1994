"""What one full-scale job is, and the runner that does it once: train or fetch the model, measure it, write the files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from hybridgen_lib import data as datasets
from hybridgen_lib import results
from hybridgen_lib.attacks import fgsm
from hybridgen_lib.attacks.balls import Ball, Linf
from hybridgen_lib.classifier import check_choice, deterministic
from hybridgen_lib.evaluation import SUITES, adaptive_outcomes, attack_outcomes
from hybridgen_lib.measurement import Measured, Outcomes
from hybridgen_lib.models.gazes import Gazes
from hybridgen_lib.recipes import RECIPES, choose_device, fingerprint, recipe_of, trained
from hybridgen_lib.results.files import code_version

__all__ = ["REAL", "Document", "Job", "Measurement", "Part", "clean", "curve", "path_of", "run", "worst_case"]

REAL = "real-data"
"""The name of no model: real images where others are made ones."""

CLEAN_IMAGES = 1_000
TABLE_IMAGES = {"cpu": 300, "paper": 1_000}
GRID_IMAGES = {"cpu": 100, "paper": 1_000}
ADAPTIVE_IMAGES = {"cpu": 200, "paper": 1_000}
ADAPTIVE_IMAGES_PLAIN = 500
"""How many of the first test images. A single-pass network gets CLEAN_IMAGES of them in tables and on grids too: one pass
each is cheap."""


@dataclass(frozen=True)
class Job:
    """What one run is about: a trained model on a data set, who attacks it from outside, and who else may be asked."""

    model: nn.Module | None  # None for real data
    images: datasets.ImageData
    profile: str
    seed: int
    source: Callable[[], nn.Module]  # the plain network whose adversarial images are tried on the model
    other: Callable[[str], nn.Module]  # any recipe, trained on the same images
    device: torch.device
    name: str = ""  # of the model, as a recipe

    @property
    def samples(self) -> bool:
        """Whether the model draws many samples for one answer, so that an answer is dear; noise alone is cheap."""
        return any(getattr(part, "samples", 1) > 1 for part in self.model.modules())

    def first(self, few: dict[str, int], many: int) -> range:
        """The first ``few`` images of the profile for a model that samples, the first ``many`` for any other."""
        return range(few[self.profile] if self.samples else many)


class Part(NamedTuple):
    """One of several results of a run: how its key differs from the run's, what was measured, and pictures to go with it."""

    key: dict
    measured: Measured
    sheet: results.Sheet | None = None


@dataclass(frozen=True)
class Measurement:
    """One way to measure a model for a document: the key of its results, its settings, and how the outcomes come about.

    ``measure`` gives what was measured, or several parts, of which that with the run's own key comes last, or a masking
    report. ``only`` names the models it is for; none means all. What ``asks_for`` a file that few have is run when it is
    named, never with the rest.
    """

    key: dict
    settings: dict
    measure: Callable[[Job], Measured | list[Part] | pd.DataFrame]
    only: tuple[str, ...] = ()
    asks_for: str = ""


@dataclass(frozen=True)
class Document:
    """A document's full-scale plan: which models on which data set, measured how, and the chapter that shows it.

    A model is a recipe's name, with changes or without. The profiles of ``stand_in`` are those at which there is a plan.
    """

    data: str
    chapter: str
    models: tuple[str, ...]
    measurements: dict[str, Measurement]
    stand_in: dict[str, str]  # by profile: how our networks differ from the document's, or nothing
    exact: tuple[str, ...] = ()  # models that are the document's at every profile
    claim_data: str = ""  # the document's data set that this one stands in for, if it is another
    claim_models: dict[str, str] = field(default_factory=dict)  # by model: the document's that it stands in for, if another
    source: str = "cnn"  # the plain network whose adversarial images are tried on the others
    others: tuple[str, ...] = ()  # recipes that measurements ask for beside the model and the source

    def ways(self, model: str) -> list[str]:
        """The measurements of ``model`` by name, without those that ask for a file; ``ValueError`` if it is none of ours."""
        check_choice(model, "model", self.models)
        return [name for name in self.all_ways(model) if not self.measurements[name].asks_for]

    def all_ways(self, model: str) -> list[str]:
        return [name for name, way in self.measurements.items() if not way.only or model in way.only]


# ---------------------------------------------------------------- measurements that documents share


def clean(job: Job) -> Outcomes:
    """Clean accuracy, over CLEAN_IMAGES."""
    measured = attack_outcomes(job.model, job.images, fgsm, Linf, [0.0], index=range(CLEAN_IMAGES), seed=job.seed)
    return Outcomes(measured.index, measured.clean, draws=measured.draws)


def curve(
    attack: Callable,
    ball_type: type[Ball],
    epsilons: tuple[float, ...],
    job: Job,
    few: dict[str, int] | None = None,
    draws: int = 10,
) -> Outcomes:
    """One attack over a grid of radii; ``few`` images for a model that samples, by default GRID_IMAGES."""
    index = job.first(GRID_IMAGES if few is None else few, CLEAN_IMAGES)
    return attack_outcomes(job.model, job.images, attack, ball_type, epsilons, index=index, draws=draws, seed=job.seed)


def suite_of(job: Job) -> str:
    return "adaptive-sampling-cpu" if job.samples and job.profile == "cpu" else "adaptive"


def surrogate_of(model: nn.Module) -> nn.Module | None:
    """Whose gradients the protocol takes in place of the model's own: of CiiV's, whose threshold has none (BPDA)."""
    return model.surrogate() if isinstance(model, Gazes) else None


def worst_case(ball_type: type[Ball], epsilons: tuple[float, ...]) -> Measurement:
    """The adaptive protocol: what each of its attacks and those before it leave; the last is the worst case."""

    def measure(job: Job) -> list[Part]:
        stages = adaptive_outcomes(
            job.model,
            job.images,
            [ball_type(eps) for eps in epsilons],
            suite_of(job),
            surrogate=surrogate_of(job.model),
            source=job.source(),
            index=job.first(ADAPTIVE_IMAGES, ADAPTIVE_IMAGES_PLAIN),
            seed=job.seed,
        )
        *passing, _ = stages  # the last is the worst case, which is what the key says
        return [Part({"attack": name} if name in passing else {}, stage) for name, stage in stages.items()]

    key = {"protocol": "adaptive", "attack": "worst-case", "norm": ball_type.__name__.lower()}
    return Measurement(key, {name: asdict(SUITES[name]) for name in ("adaptive", "adaptive-sampling-cpu")}, measure)


# ---------------------------------------------------------------- the runner


def run(
    documents: dict[str, Document],
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
    path = path_of(documents, document, model, measurement, profile, seed, results_root=results_root)
    plan, way = documents[document], documents[document].measurements[measurement]
    if not path.exists():
        code_version()  # of what runs here, before somebody commits
        images = datasets.load(plan.data, data_root)
        key = {**_key_of(plan, document, model, way, profile, seed), "data": images}

        def other(name: str, seed: int = seed) -> nn.Module:
            return trained(name, images, profile, seed, device=device)

        network = None if model == REAL else other(model)
        source = partial(other, plan.source, seed + (model == plan.source))  # never the same network
        job = Job(network, images, profile, seed, source, other, choose_device(device), model)
        settings = {**({} if network is None else _settings(model, network, images, profile)), **way.settings}
        with deterministic():
            measured = way.measure(job)
        if isinstance(measured, pd.DataFrame):
            return results.record_report(measured, results_root, device=str(job.device), **key)
        for part in measured if isinstance(measured, list) else [Part({}, measured)]:
            of_part = key | part.key
            if part.sheet:  # first, since the numbers say that the run is done
                results.record_pictures(part.sheet, results.path_of(results_root, **of_part))
            results.record(part.measured, results_root, device=str(job.device), settings=settings, **of_part)
    return path


def path_of(
    documents: dict[str, Document],
    document: str,
    model: str,
    measurement: str,
    profile: str = "cpu",
    seed: int = 0,
    *,
    results_root: str | Path | None = None,
) -> Path:
    """The result file of :func:`run`, whether it is there or not: of several the last, so where it is the run was finished.

    Raises ``ValueError`` for a name that is none.
    """
    plan = documents[check_choice(document, "document", documents)]
    check_choice(model, "model", plan.models)
    way = plan.measurements[check_choice(measurement, "measurement", plan.all_ways(model))]
    check_choice(profile, "profile", plan.stand_in)
    path = results.path_of(results_root, **_key_of(plan, document, model, way, profile, seed))
    return path.with_suffix(".csv") if way.key["attack"] == "masking-report" else path


def _key_of(plan: Document, document: str, model: str, way: Measurement, profile: str, seed: int) -> dict:
    key = {"document": document.partition("-")[0], "data": plan.data, "model": model, "profile": profile, "seed": seed}
    key |= {"chapter": plan.chapter, "claim_data": plan.claim_data, "claim_model": plan.claim_models.get(model, "")}
    return key | {"stand_in": "" if model in plan.exact else plan.stand_in[profile]} | way.key


def _settings(model: str, network: nn.Module, images: datasets.ImageData, profile: str) -> dict:
    """What of the model decides the outcome."""
    recipe = RECIPES[recipe_of(model)[0]]
    samples = getattr(network, "samples", getattr(network, "draws", 1))
    settings = {"recipe_version": recipe.version, "weights": fingerprint(network), "samples": samples}
    trained_as = {**recipe.settings[profile], **recipe.on.get(images.name, {})}
    if "backbone" in trained_as:
        settings["backbone_version"] = RECIPES[trained_as["backbone"]].version
    return settings
