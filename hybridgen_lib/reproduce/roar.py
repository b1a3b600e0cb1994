"""RemOve And Retrain (chapter 14): `hybrid`'s Table 1, and the whole grid with its controls for a plain network.

The document removes 30 % of the pixels by integrated gradients, puts the CIFAR mean there and prints how far accuracy falls.
That is as published here: the drop against the same model trained on whole images. By itself it says little. Any 30 % of the
pixels cost something, and models differ in how much; and holes of one grey can tell the class by their shape. So the corrected
measure fills the holes in from their neighbours, and is how much larger the drop is than that by as many random pixels, of the
same model on the same images. Random pixels are set to the mean as well, for what the filling in changes.

On a CPU the first 10,000 training images are used, 942 to 1,027 of each class, as by the recipes of Table 1's models, whose
networks are those of the document's other tables. The first 1,000 test images are explained and judged. Every cell trains a
model from scratch, which is then thrown away; ``none``, which removes nothing and trains from another seed, says how far two
trainings are apart. It comes first, since it explains the model for all cells.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import nn

from hybridgen_lib import recipes
from hybridgen_lib.data import ImageData
from hybridgen_lib.explain.roar import IG, IMPUTATIONS, attributions, roar
from hybridgen_lib.measurement import Outcomes
from hybridgen_lib.reproduce.jobs import Document, Job, Measurement

__all__ = ["ROAR", "ROAR_CIFAR10", "TABLE_1"]

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
TRAINING_IMAGES = {"cpu": 10_000}  # else all
JUDGED_IMAGES = 1_000
PLAIN = "cnn"
TABLE_1 = ("vgg16", "dbx-fc1", "cama", "gbz-conv9", "gby-conv9", "hybrid-deep", "hybrid-shallow")
"""The document's models, in its order."""


def _few(job: Job) -> ImageData:
    """The images that models are trained on and judged by, in whole and with holes."""
    images, count = job.images, TRAINING_IMAGES.get(job.profile)
    train = {"train_x": images.train_x[:count], "train_y": images.train_y[:count]}
    return replace(images, **train, test_x=images.test_x[:JUDGED_IMAGES], test_y=images.test_y[:JUDGED_IMAGES])


def _network(job: Job, few: ImageData) -> nn.Module:
    """The network that is explained: the job's own if it has seen no other images than these, else one trained on these."""
    recipe, changes = recipes.recipe_of(job.name)
    seen = {**recipes.RECIPES[recipe].settings[job.profile], **changes}.get("images") or len(job.images.train_x)
    if seen <= len(few.train_x):
        return job.model
    return recipes.trained(job.name, few, job.profile, job.seed, device=str(job.device))


def _cell(ranking: str, fraction: float, imputation: str, job: Job) -> Outcomes:
    """Right before and after removal, image by image; the radius is the share of pixels removed."""
    few = _few(job)
    model = _network(job, few)
    if ranking == "none":
        attributions(model, few, job.seed)  # for all other cells, once
    run = {"profile": job.profile, "seed": job.seed, "model": model, "device": str(job.device)}
    return roar(job.name, few, ranking, fraction, imputation, **run)


def _measurement(ranking: str, fraction: float = 0.0, imputation: str = "mean", only: tuple[str, ...] = ()) -> Measurement:
    published = (ranking, imputation) == ("ig", "mean")
    name = _name(ranking, fraction, imputation)
    key = {"protocol": "as_published" if published else "adaptive", "attack": f"roar-{name}"}
    told = {"explained": IG, "training_images": TRAINING_IMAGES, "imputation": imputation}
    return Measurement(key, told, partial(_cell, ranking, fraction, imputation), only)


def _name(ranking: str, fraction: float, imputation: str) -> str:
    share = f"-{round(100 * fraction)}" if fraction else ""
    return f"{ranking}{share}{'' if imputation == 'mean' else '-' + imputation}"


def _measurements() -> dict[str, Measurement]:
    """For every model the document's cell and its controls; for the plain network every ranking at every fraction."""
    cells = {("none", 0.0, "mean"): ()}
    cells |= {(ranking, 0.3, imputation): () for imputation in IMPUTATIONS for ranking in ("ig", "random")}
    for imputation, rankings in (("mean", ("ig", "random", "edges", "blurred", "mask")), ("linear", ("ig", "random"))):
        for ranking in rankings:
            for fraction in FRACTIONS:
                cells.setdefault((ranking, fraction, imputation), (PLAIN,))
    return {_name(*cell): _measurement(*cell, only) for cell, only in cells.items()}


ROAR = Document(
    data="fashion-mnist",
    claim_data="cifar10",
    chapter="14",
    models=(PLAIN, *TABLE_1),
    measurements=_measurements(),
    stand_in={"cpu": "Fashion-MNIST, quarter width, 10,000 images"},
)
ROAR_CIFAR10 = replace(ROAR, data="cifar10-jpeg", stand_in={"paper": "a JPEG copy of CIFAR-10"})
