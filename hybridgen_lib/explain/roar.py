"""RemOve And Retrain: does a network need the pixels that an explanation calls important?

Hooker, Erhan, Kindermans & Kim 2019; `hybrid`, Table 1. Rank the pixels of every image, replace the top share of them, train
the same model from scratch on what is left, and see how far accuracy falls. Retraining answers the objection that a network
errs on images with holes only because it never saw any. What is decided here, where descriptions and codes differ:

- A pixel is removed with all its channels, exactly k = round(fraction x H x W) of them in each image. (The code released with
  the paper ranks the H x W x C entries of an image one by one, which is another thing.) Its score is the size of what its
  channels contribute together: what speaks strongly against a class is information as well. Ties are broken at random.
- The class that is explained is the model's own answer, in the test set as in the training set. With the true class a test
  image's holes would be placed by its label, and a network could read the label off the holes. (It can still read off them
  what the explained model answers; the control ``mask`` says how much that is.)
- Pixels are removed from the uint8 images, so before any augmentation, and in training and test images alike.
- A removed pixel becomes the mean of the training set, channel by channel, or is filled in from its neighbours (Rong et al.
  2022, "ROAD"), so that the shape of the hole tells less.

A drop means nothing alone: removing any pixels costs accuracy, and the holes can tell the class. So there are controls in
place of the ranking (:data:`RANKINGS`). Chapter 14 builds it all by hand.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from hybridgen_lib import recipes
from hybridgen_lib.attacks import Linf, fgsm
from hybridgen_lib.classifier import check_choice, check_generator, check_model, check_number, evaluating, frozen_noise
from hybridgen_lib.data import ImageData, as_float, cache_folder, check_data
from hybridgen_lib.evaluation import attack_outcomes
from hybridgen_lib.evaluation.outcomes import device_of
from hybridgen_lib.explain.attribution import integrated_gradients
from hybridgen_lib.explain.imputation import linear_fill
from hybridgen_lib.measurement import Outcomes

__all__ = ["IMPUTATIONS", "RANKINGS", "attributions", "blurred", "edges", "mask_images", "pixel_scores"]
__all__ += ["ranked", "remove", "roar", "top_pixels"]

RANKINGS = ("ig", "random", "edges", "blurred", "mask", "none")
"""What chooses the pixels: integrated gradients; chance; Sobel's edges, which know no model; the attributions blurred, which
keep the place and lose the detail. With ``mask`` the network is shown nothing but where the pixels of ``ig`` are: how much the
holes alone tell. With ``none`` nothing is removed, and the model trained once more from another seed."""
BLIND = ("random", "edges", "none")
"""Those that ask no model, so that all models meet the same images."""
IMPUTATIONS = ("mean", "linear")

IG = {"steps": 16, "rule": "gauss-legendre", "output": "score"}
"""Of the model's own score, from black. A generative classifier is asked for one class at a time, a tenth of the cost."""
BLUR = 2.0
ANOTHER_SEED = 100
ATTRIBUTIONS = 1  # to be raised with whatever changes the scores of an explanation, for they are kept on disk

# ---------------------------------------------------------------- scores, one a pixel


def pixel_scores(values: Tensor) -> Tensor:
    """How much each pixel matters (N, H, W), from attributions (N, channels, H, W): the size of their sum over channels."""
    _check_numbers(values, "values", 4)
    return values.sum(1).abs()


def edges(x: Tensor) -> Tensor:
    """How strong an edge there is at each pixel (N, H, W): the length of Sobel's gradient, added up over channels.

    ``x`` holds uint8 images (N, channels, H, W). A ranking that has seen no model.
    """
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T])[:, None]

    def lengths(part: Tensor) -> Tensor:
        planes = F.pad(as_float(part).flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
        return F.conv2d(planes, kernels).norm(dim=1).view(part.shape).sum(1)

    return torch.cat([lengths(part) for part in x.split(1000)])


def blurred(scores: Tensor, sigma: float = BLUR) -> Tensor:
    """Scores (N, H, W) under a Gaussian of ``sigma`` pixels: they keep the place and lose the detail."""
    _check_numbers(scores, "scores", 3)
    check_number(sigma, "sigma", low=1e-3)
    reach = math.ceil(3 * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    bell = (bell / bell.sum()).to(scores)
    down = F.conv2d(scores[:, None], bell.view(1, 1, -1, 1), padding=(reach, 0))
    return F.conv2d(down, bell.view(1, 1, 1, -1), padding=(0, reach))[:, 0]


def top_pixels(scores: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """The pixels of highest score, bool (N, H, W): exactly round(fraction x H x W) in each image.

    Equal scores are put in an order drawn from ``generator``, the same one for every fraction: what is among the top 10 % is
    among the top 30 % drawn from the same seed. Where all scores are equal the choice is random.
    """
    _check_numbers(scores, "scores", 3)
    check_number(fraction, "fraction", low=0, high=1)
    if check_generator(generator) is None:
        raise ValueError("generator must be a torch.Generator, got None")
    chosen = torch.zeros(scores.shape, dtype=torch.bool)
    for part, found in zip(scores.flatten(1).split(5000), chosen.flatten(1).split(5000), strict=True):  # in bounded memory
        order = torch.rand(part.shape, generator=generator).argsort(1)
        order = order.gather(1, part.gather(1, order).argsort(dim=1, descending=True, stable=True))
        found.scatter_(1, order[:, : round(fraction * part.shape[1])], True)
    return chosen


# ---------------------------------------------------------------- removal


def remove(
    images: ImageData, scores: tuple[Tensor, Tensor], fraction: float, imputation: str = "mean", seed: int = 0
) -> ImageData:
    """The data set without the top ``fraction`` of pixels of every image, in training and test set alike.

    Args:
        images: uint8 images, as they lie in memory: what augments them comes after.
        scores: of the training and of the test images, (N, H, W) each.
        fraction: which share of the pixels, in [0, 1]; the number is rounded.
        imputation: what stands in their place. ``"mean"``: the mean of the training images, one value a channel, rounded.
            ``"linear"``: :func:`~hybridgen_lib.explain.imputation.linear_fill`; something must be left of every image.
        seed: of the ties and of the noise.

    The name stays, so that a recipe has the settings that it has on these images; the checksum is another.
    """
    check_choice(imputation, "imputation", IMPUTATIONS)
    check_data(images)
    parts = zip((images.train_x, images.test_x), _chosen(images, scores, fraction, seed), strict=True)
    if imputation == "mean":
        total = sum(part.sum((0, 2, 3)) for part in images.train_x.split(1000)).double()  # a copy in floats would be large
        mean = (total * total.numel() / images.train_x.numel()).round().to(torch.uint8).view(1, -1, 1, 1)
        train, test = (torch.where(chosen[:, None], mean, x) for x, chosen in parts)
    else:
        train, test = (linear_fill(x, chosen, seed + part) for part, (x, chosen) in enumerate(parts))
    return replace(images, train_x=train, test_x=test)


def mask_images(images: ImageData, scores: tuple[Tensor, Tensor], fraction: float, seed: int = 0) -> ImageData:
    """Where :func:`remove` would remove, and nothing else: white there and black elsewhere, the same in every channel."""
    check_data(images)
    train, test = (
        (255 * chosen[:, None].to(torch.uint8)).expand(x.shape).contiguous()
        for x, chosen in zip((images.train_x, images.test_x), _chosen(images, scores, fraction, seed), strict=True)
    )
    return replace(images, train_x=train, test_x=test)


def _chosen(images: ImageData, scores: tuple[Tensor, Tensor], fraction: float, seed: int) -> list[Tensor]:
    shapes = [(len(x), *x.shape[2:]) for x in (images.train_x, images.test_x)]
    if len(scores) != 2 or [tuple(part.shape) for part in scores] != shapes:
        got = [tuple(part.shape) for part in scores]
        raise ValueError(f"scores must be those of the training and the test images, {shapes}; got {got}")
    generator = torch.Generator().manual_seed(check_number(seed, "seed", low=0, integer=True))
    return [top_pixels(part, fraction, generator) for part in scores]


def _check_numbers(values: Tensor, name: str, dims: int) -> None:
    if not isinstance(values, Tensor) or values.ndim != dims or not values.is_floating_point() or not values.isfinite().all():
        got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{name} must be finite floats in {dims} dimensions, got {got}")


# ---------------------------------------------------------------- attributions, computed once


def attributions(model: nn.Module, images: ImageData, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The pixel scores of a model's explanations of its own answers, of training and test images, (N, H, W) each.

    They are computed once and kept under ``attributions`` in the cache, by the model's weights and samples, the images and the
    settings. A stochastic model is explained under one draw of its noise, fixed by ``seed``: K = 10 samples cost ten times the
    one that a plain network of the same size does, and a mean over many draws as much again for each.
    """
    check_model(model)
    check_data(images)
    check_number(seed, "seed", low=0, integer=True)
    path = cache_folder().with_name("attributions") / f"{_identity(model, images, seed)}.safetensors"
    if not path.exists():
        scores = {"train": _explained(model, images.train_x, seed), "test": _explained(model, images.test_x, seed)}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{os.getpid()}-{path.name}")
        save_file(scores, part)
        os.replace(part, path)
    scores = load_file(path)
    return scores["train"], scores["test"]


def _identity(model: nn.Module, images: ImageData, seed: int) -> str:
    """Models of equal weights may be different classifiers, by a rule or an intervention, so what they answer counts, too."""
    with torch.no_grad(), evaluating(model), frozen_noise(model, seed):
        answers = model(as_float(images.test_x[:8]).to(device_of(model))).cpu().numpy().tobytes()
    about = [ATTRIBUTIONS, IG, images.checksum, seed, getattr(model, "samples", 1), recipes.fingerprint(model)]
    about.append(hashlib.sha256(answers).hexdigest())
    about.append(
        {name: torch.as_tensor(value).tolist() for name, value in sorted(getattr(model, "interventions", {}).items())}
    )
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]


def _explained(model: nn.Module, x: Tensor, seed: int) -> Tensor:
    scores = []
    with evaluating(model), frozen_noise(model, seed):
        for part in tqdm(x.split(250), desc="explain", disable=None, leave=False):
            pixels = as_float(part).to(device_of(model))
            with torch.no_grad():
                answer = model(pixels).argmax(1)
            scores.append(pixel_scores(integrated_gradients(model, pixels, answer, **IG).values).cpu())
    return torch.cat(scores)


# ---------------------------------------------------------------- one cell of a table


def ranked(ranking: str, images: ImageData, model: nn.Module | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The scores of a ranking, of training and test images: pixels of high score go first. ``model`` is what is explained.

    For ``random`` and ``none`` all scores are 0, and chance decides between equals.
    """
    check_choice(ranking, "ranking", RANKINGS)
    check_data(images)
    both = images.train_x, images.test_x
    if ranking in ("random", "none"):
        return tuple(torch.zeros(len(x), *x.shape[2:]) for x in both)
    if ranking == "edges":
        return tuple(edges(x) for x in both)
    scores = attributions(model, images, seed)
    return tuple(blurred(part) for part in scores) if ranking == "blurred" else scores


def roar(
    name: str,
    images: ImageData,
    ranking: str = "ig",
    fraction: float = 0.3,
    imputation: str = "mean",
    *,
    profile: str = "quick",
    seed: int = 0,
    model: nn.Module | None = None,
    draws: int = 10,
    device: str = "auto",
) -> Outcomes:
    """Remove, retrain, judge: how often each test image is right before (``clean``) and after, at ``eps`` = ``fraction``.

    ``accuracy_drop`` of the outcomes is what the literature calls the ROAR score, with an interval over the test images. It
    knows nothing of the chance of training: for that there are seeds, and the ranking ``none``.

    Args:
        name: a recipe, such as ``"cnn"`` or ``"hybrid-shallow"``. All of it is trained again, a backbone included.
        images: the data set; all its test images are judged.
        ranking, imputation: see :data:`RANKINGS` and :func:`remove`. For ``none`` the fraction must be 0.
        seed: of training, as without removal (for ``none`` another one); of ties, noise and judge.
        model: the network that is explained and compared with: by default the recipe's, trained on ``images`` and kept.
        draws: fresh draws of a stochastic model's noise over which each image is judged.

    The retrained network is not kept, unless no model has chosen the pixels (:data:`BLIND`): then the images are the same for
    all models, and those that stand on one backbone train it once. A killed training goes on from its last epoch.
    """
    check_data(images)
    check_choice(ranking, "ranking", RANKINGS)
    check_choice(imputation, "imputation", IMPUTATIONS)
    check_number(fraction, "fraction", low=0, high=1)
    if (ranking == "none") != (fraction == 0):
        raise ValueError(f"fraction must be 0 for the ranking none and above 0 for any other, got {fraction} for {ranking}")
    check_number(seed, "seed", low=0, integer=True)
    check_number(draws, "draws", low=1, integer=True)
    recipes.cache_path(name, images, profile, seed)  # a wrong name is told before anything is ranked
    recipes.choose_device(device)
    if model is None:
        model = recipes.trained(name, images, profile, seed, device=device)
    check_model(model)
    scores, began = ranked(ranking, images, model, seed), time.perf_counter()
    if ranking == "mask":
        left = mask_images(images, scores, fraction, seed)
    else:
        left = remove(images, scores, fraction, imputation, seed)
    training_seed = seed + ANOTHER_SEED if ranking == "none" else seed
    path = recipes.cache_path(name, left, profile, training_seed)
    alone = cache_folder().with_name("retrained") / f"{path.stem}-{ranking}"  # for this cell: two may run at a time
    folder = None if ranking in BLIND else alone
    again = recipes.trained(name, left, profile, training_seed, device=device, folder=folder)
    right, took = _judged(again, left, draws, seed).clean, time.perf_counter() - began
    shutil.rmtree(alone, ignore_errors=ranking in BLIND)
    return replace(_judged(model, images, draws, seed), epsilons=[fraction], right=right[None], seconds=[took])


def _judged(model: nn.Module, images: ImageData, draws: int, seed: int) -> Outcomes:
    unharmed = attack_outcomes(model, images, fgsm, Linf, [0.0], draws=draws, seed=seed)
    return Outcomes(unharmed.index, unharmed.clean, draws=unharmed.draws)
