"""What is measured of explanations: how smooth they are, how near inversions come, how real made images look.

The document, `interpretable`, has CIFAR-10 and Inception; on a CPU Fashion-MNIST and the small CNNs of the book stand in,
and a ResNet18 of the same images for Inception. Each is measured as published, and once more with what we correct:

- attributions of the score in place of the probability, which is flat where a network is sure;
- of an inversion, the best of its 10,000 steps in place of the last: a step of constant length never settles;
- class images that start from draws fitted to training images. The document fits them to the test images that it then
  compares its images with.

Where the document is silent: integrated gradients have 50 steps from black; expected gradients 200 samples, SHAP's default,
over 200 training images. The explained class is the network's own answer. An inversion starts from noise, 0.5 plus a
twentieth of a standard normal, or from an image of another class; which are its Inv. 1 and Inv. 2 is not said. Its radius and
step for class images are for 3,072 numbers: for d they are scaled by the root of d / 3,072.
"""

from __future__ import annotations

import math
import time
from functools import partial

import torch
from torch import Tensor

from hybridgen_lib.attacks import L2
from hybridgen_lib.data import ImageData, as_float
from hybridgen_lib.explain.attribution import expected_gradients, integrated_gradients, smoothness
from hybridgen_lib.explain.extractors import Extractor, extract, inception, network_extractor
from hybridgen_lib.explain.frechet import frechet_jackknife
from hybridgen_lib.explain.inversion import invert, representation_gap
from hybridgen_lib.explain.representation import representation
from hybridgen_lib.explain.synthesis import generate_class, normal_draws, visualize_feature
from hybridgen_lib.measurement import SetDistances, Values
from hybridgen_lib.reproduce.jobs import REAL, Document, Job, Measurement, Part
from hybridgen_lib.results import Sheet

__all__ = ["EXPLAINED", "EXPLAINED_CIFAR10"]

EXTRACTOR = {"cpu": "resnet18", "paper": "resnet34"}
"""In whose features images are compared: a network of another shape than those explained, trained on the same images."""
ATTRIBUTED, INVERTED, SHOWN, SHOWN_OF_A_CLASS, GROUPS = 500, 64, 24, 8, 20
"""How many images are attributed and inverted, how many a recorded picture shows, and the groups of the jackknife."""
IG = {"steps": 50}
EG = {"samples": 200}
REFERENCES = 200
INVERSION = {"steps": 10_000, "step_size": 1.0}
UNIT = {"steps": 400, "step_size": 1.0}
UNITS, SHOWN_UNITS, TOP = 100, 6, 10
RADIUS, STEPS, STEP, PIXELS = 30.0, 60, 0.5, 3 * 32 * 32
SOURCES = ("noise", "another class")
FITTED = {"as_published": "test", "adaptive": "train"}
OUTPUT = {"as_published": "probability", "adaptive": "score"}


def _first(job: Job, count: int) -> Tensor:
    return as_float(job.images.test_x[:count]).to(job.device)


# ---------------------------------------------------------------- attributions (chapter 11)


def _attributed(metric: str, protocol: str, job: Job) -> list[Part]:
    """How smooth the explanations of the network's own answers are, image by image."""
    x, began = _first(job, ATTRIBUTED), time.perf_counter()
    with torch.no_grad():
        answer = torch.cat([job.model(part).argmax(1) for part in x.split(500)])
    if metric == "ig_smoothness":
        found = integrated_gradients(job.model, x, answer, output=OUTPUT[protocol], **IG)
    else:
        references = as_float(job.images.train_x[:REFERENCES]).to(job.device)
        found = expected_gradients(job.model, x, answer, references, output=OUTPUT[protocol], seed=job.seed, **EG)
    values = found.values.cpu()
    smooth = smoothness(values)
    index = smooth.isfinite().nonzero().flatten()  # it is NaN where nothing is attributed
    measured = Values(index.tolist(), {metric: smooth[index]}, time.perf_counter() - began)
    shown = values[:SHOWN].sum(1, keepdim=True)
    largest = shown.abs().flatten().quantile(0.99).clamp_min(1e-30)  # 0 where nothing is attributed
    signed = (0.5 + 0.5 * (shown / largest).clamp(-1, 1)).expand(-1, x.shape[1], -1, -1)
    return [Part({}, measured, Sheet(torch.stack([x[:SHOWN].cpu(), signed], dim=1), ("image", "attribution")))]


# ---------------------------------------------------------------- inversions (chapter 12)


def _starts(source: str, images: ImageData, targets: Tensor, seed: int) -> Tensor:
    """Where inversions start: noise, or for each target the next test image after them all that is of another class."""
    x, y = as_float(images.test_x), images.test_y
    if source == "noise":
        noise = torch.randn(len(targets), *x.shape[1:], generator=torch.Generator().manual_seed(seed))
        return (0.5 + noise / 20).clamp(0, 1)
    rows, free = [], list(range(len(targets), len(x)))
    for target in targets:
        rows.append(next(k for k in free if y[k] != y[target]))
        free.remove(rows[-1])
    return x[rows]


def _inverted(source: str, job: Job) -> list[Part]:
    """How near inversions come to their targets: in R, in the features of an independent network, and in pixels."""
    target, began = _first(job, INVERTED), time.perf_counter()
    index = torch.arange(len(target))
    start = _starts(source, job.images, index, job.seed).to(target)
    represent = representation(job.model)
    found = invert(represent, target, start, **INVERSION)
    took, features = time.perf_counter() - began, _network(job, "layer2")

    def measured(images: Tensor) -> Values:
        distance = (extract(features, images) - extract(features, target)).norm(dim=1)
        gap, pixels = representation_gap(represent, images, target), (images - target).flatten(1).norm(dim=1)
        values = {"inversion_distance": distance, "representation_gap": gap.cpu(), "pixel_distance": pixels.cpu()}
        return Values(index.tolist(), values, took)

    def sheet(images: Tensor) -> Sheet:
        return Sheet(torch.stack([start, target, images], dim=1)[:SHOWN].cpu(), ("seed", "target", "result"))

    best = Part({"protocol": "adaptive"}, measured(found.images), sheet(found.images))
    return [best, Part({}, measured(found.last), sheet(found.last))]


def _units(job: Job) -> list[Part]:
    """Units at random: how many of the ten test images that activate one most are of one class; and what raises it."""
    x, began, represent = as_float(job.images.test_x), time.perf_counter(), representation(job.model)
    with torch.no_grad():
        answers = torch.cat([represent(part.to(job.device)).cpu() for part in x.split(500)])
    source = torch.Generator().manual_seed(job.seed)
    units = (answers > 0).any(0).nonzero().flatten()  # a unit that no image turns on has no most activating ones
    units = units[torch.randperm(len(units), generator=source)[:UNITS]]
    most, least = (answers[:, units].topk(TOP, dim=0, largest=up).indices for up in (True, False))  # (TOP, units)
    counts = torch.nn.functional.one_hot(job.images.test_y[most], len(job.images.classes)).sum(0)
    share = counts.amax(1) / TOP
    shown = units[:SHOWN_UNITS]
    noise = (0.5 + torch.randn(1, *x.shape[1:], generator=source) / 20).clamp(0, 1)
    noise = noise.expand(len(shown), -1, -1, -1).to(job.device)
    made = visualize_feature(represent, noise, shown[:, None], **UNIT).cpu()
    rows = torch.cat([made[:, None], x[most[:5, : len(shown)].T], x[least[:3, : len(shown)].T]], dim=1)
    columns = ("made", *(f"most {k}" for k in range(1, 6)), *(f"least {k}" for k in range(1, 4)))
    measured = Values(units.tolist(), {"most_of_one_class": share}, time.perf_counter() - began)
    return [Part({}, measured, Sheet(rows, columns))]


# ---------------------------------------------------------------- class images (chapter 13)


def _network(job: Job, layer: str = "avgpool") -> Extractor:
    name = EXTRACTOR[job.profile]
    return network_extractor(job.other(name), layer, name)


def _fid(job: Job) -> Extractor:
    return inception("fid").to(job.device)


def _draws(fitted: str, job: Job) -> tuple[Tensor, Tensor]:
    """As many draws from each class's Normal as the class has test images, and their classes (as all that follow)."""
    x, y = (job.images.test_x, job.images.test_y) if fitted == "test" else (job.images.train_x, job.images.train_y)
    generator = torch.Generator().manual_seed(job.seed)
    counts = job.images.test_y.bincount(minlength=len(job.images.classes)).tolist()
    drawn = [normal_draws(as_float(x[y == c]), count, generator) for c, count in enumerate(counts)]
    return torch.cat(drawn), torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def _made(protocol: str, job: Job) -> tuple[Tensor, Tensor]:
    """Class images, climbed to from the draws."""
    start, y = _draws(FITTED[protocol], job)
    scale = math.sqrt(start[0].numel() / PIXELS)
    parts = zip(start.split(1000), y.split(1000), strict=True)
    climb = {"ball": L2(RADIUS * scale), "steps": STEPS, "step_size": STEP * scale}
    return torch.cat([generate_class(job.model, a.to(job.device), b, **climb).cpu() for a, b in parts]), y


def _drawn(protocol: str, job: Job) -> tuple[Tensor, Tensor]:
    return _draws(FITTED[protocol], job)


def _real(job: Job) -> tuple[Tensor, Tensor]:
    """As many training images of each class as there are test images: the first."""
    y, counts = job.images.train_y, job.images.test_y.bincount(minlength=len(job.images.classes))
    rows = torch.cat([(y == c).nonzero().flatten()[:count] for c, count in enumerate(counts.tolist())])
    return as_float(job.images.train_x[rows]), y[rows]


def _sampled(job: Job) -> tuple[Tensor, Tensor]:
    """What a generative classifier draws by itself, as many as there are test images."""
    generator, n, parts = torch.Generator().manual_seed(job.seed), len(job.images.test_x), []
    with torch.no_grad():
        for count in [1000] * (n // 1000) + [n % 1000] * (n % 1000 > 0):
            drawn = job.model.sample(count, generator)
            parts.append((drawn["x"].clamp(0, 1).cpu(), drawn["y"].cpu()))
    x, y = zip(*parts, strict=True)
    return torch.cat(x), torch.cat(y)


def _compared(make, extractor, metric: str, job: Job) -> list[Part]:
    """How far the images that ``make`` makes are from the test images, in the features of ``extractor``."""
    features, began = extractor(job), time.perf_counter()
    made, y = make(job)
    value, left_out = frechet_jackknife(extract(features, made), extract(features, as_float(job.images.test_x)), GROUPS)
    measured = SetDistances(len(made), {metric: value}, {metric: left_out}, time.perf_counter() - began)
    few = min(SHOWN_OF_A_CLASS, int(y.bincount(minlength=len(job.images.classes)).min()))
    if not few:  # a sampler that never draws some class
        return [Part({}, measured)]
    shown = torch.stack([made[y == c][:few] for c in range(len(job.images.classes))], dim=1)
    return [Part({}, measured, Sheet(shown, job.images.classes))]


# ---------------------------------------------------------------- the plan


def _measurements(models: tuple[str, ...], generative: tuple[str, ...], explained: str) -> dict[str, Measurement]:
    """``explained`` says how explained images and networks differ from the document's; the rest has another extractor, too."""
    ways = {}
    for metric, attack, settings in (
        ("ig_smoothness", "integrated-gradients", IG),
        ("shap_smoothness", "expected-gradients", EG | {"references": REFERENCES}),
    ):
        for protocol, output in OUTPUT.items():
            key = {"protocol": protocol, "attack": attack, "chapter": "11", "stand_in": explained}
            name = metric.removesuffix("_smoothness") + ("" if protocol == "as_published" else "-adaptive")
            ways[name] = Measurement(key, settings | {"output": output}, partial(_attributed, metric, protocol), models)
    for source in SOURCES:
        key = {"protocol": "as_published", "attack": "inversion", "norm": "l2", "steps": INVERSION["steps"], "chapter": "12"}
        name = f"inversion-{source.replace(' ', '-')}"
        ways[name] = Measurement(key | {"reading": f"from {source}"}, INVERSION, partial(_inverted, source), models)
    key = {
        "protocol": "as_published",
        "attack": "feature-visualisation",
        "norm": "l2",
        "steps": UNIT["steps"],
        "chapter": "12",
    }
    ways["units"] = Measurement(key, UNIT | {"units": UNITS, "top": TOP}, _units, models)
    for protocol, fitted in FITTED.items():
        key, end = {"protocol": protocol, "chapter": "13"}, "" if protocol == "as_published" else "-adaptive"
        climb = key | {"attack": "class-generation", "norm": "l2", "steps": STEPS}
        told = {"fitted_on": fitted, "radius": RADIUS, "step_size": STEP, "pixels": PIXELS}
        make = partial(_made, protocol)
        ways[f"generation{end}"] = Measurement(climb, told, partial(_compared, make, _network, "frechet_distance"), models)
        fid = partial(_compared, make, _fid, "fid")
        asks = "the FID weights of Inception"
        ways[f"generation-fid{end}"] = Measurement(climb | {"reading": "FID"}, told, fid, models, asks)
        draws = partial(_compared, partial(_drawn, protocol), _network, "frechet_distance")
        ways[f"draws{end}"] = Measurement(key | {"attack": "draws"}, {"fitted_on": fitted}, draws, (REAL,))
    key = {"protocol": "as_published", "chapter": "13"}
    real, samples = (partial(_compared, make, _network, "frechet_distance") for make in (_real, _sampled))
    ways["real"] = Measurement(key | {"attack": "none"}, {}, real, (REAL,))
    if generative:
        ways["samples"] = Measurement(key | {"attack": "samples"}, {}, samples, generative)
    return ways


GENERATIVE = ("gfz", "gfy", "gbz", "gby")
PAIR, CIFAR_PAIR = ("cnn", "cnn-at-l2"), ("resnet18", "resnet18-at-l2")

EXPLAINED = Document(
    data="fashion-mnist",
    claim_data="cifar10",
    chapter="11",
    models=(*PAIR, REAL, *GENERATIVE),
    claim_models=dict(zip(PAIR, CIFAR_PAIR, strict=True)),
    measurements=_measurements(PAIR, GENERATIVE, "Fashion-MNIST, the small CNN"),
    stand_in={"cpu": "Fashion-MNIST, the small CNN, resnet18 for Inception"},
    others=(EXTRACTOR["cpu"],),
)
EXPLAINED_CIFAR10 = Document(
    data="cifar10-jpeg",
    claim_data="cifar10",
    chapter="11",
    models=(*CIFAR_PAIR, REAL),
    measurements=_measurements(CIFAR_PAIR, (), "a JPEG copy of CIFAR-10"),
    stand_in={"paper": "a JPEG copy of CIFAR-10, resnet34 for Inception"},
    source="resnet18",
    others=(EXTRACTOR["paper"],),
)
