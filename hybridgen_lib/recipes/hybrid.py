"""The models of `hybrid`: VGG, its causal head on shallow and deep features, and what the document compares them with.

It states the depth of each tap, the layers of the head, Adam at 5e-5, batches of 150 and "350 total training iterations",
which is one look at CIFAR-10: read as epochs here. It is silent on codes, K, scales and on how the VGG was trained.
"""

from __future__ import annotations

from torch import nn

from hybridgen_lib.classifier import check_choice
from hybridgen_lib.data import ImageData, as_float
from hybridgen_lib.models.backbones import FeatureTap, Vgg
from hybridgen_lib.models.deep_bayes import deep_bayes_on_features
from hybridgen_lib.models.hybrid import causal_head, deep_cama
from hybridgen_lib.models.pixels import DEEP_BAYES_SIGMA
from hybridgen_lib.recipes.recipe import Recipe, by_gradient
from hybridgen_lib.training import cross_entropy, fit, in_bfloat16, negative_elbo, shifted_and_mirrored

__all__ = ["BACKBONES", "HYBRID"]

BACKBONES = {"vgg16": 16, "vgg19": 19}
WIDTH = {"quick": 0.125, "cpu": 0.25, "paper": 1.0}
IMAGES = {"quick": 0, "cpu": 10_000, "paper": 0}
"""How much of VGG there is, and how many of the training images it and its heads see; 0 for all."""


def _profiles(quick: dict, cpu: dict, paper: dict, **common) -> dict[str, dict]:
    given = {"quick": quick, "cpu": cpu, "paper": paper}
    return {name: {"images": IMAGES[name], **common, **settings} for name, settings in given.items()}


def _vgg_recipe(depth: int) -> Recipe:
    """VGG with batch normalisation, trained from scratch by cross-entropy; all of its training is ours.

    ``paper``: full width, 100 epochs of Adam from 1e-3 down to 1e-5 in batches of 128, images shifted by up to 4 pixels and
    mirrored. ``cpu``: a quarter of the width, 10,000 images, 15 epochs. ``quick``: an eighth of the width.
    """
    schedule = {"batch_size": 128, "learning_rate": 1e-3, "final_learning_rate": 1e-5}
    small = {**schedule, "shift": 0}
    return Recipe(
        version=1,
        settings=_profiles(
            quick={**small, "width": WIDTH["quick"], "epochs": 8, "batch_size": 64},
            cpu={**small, "width": WIDTH["cpu"], "epochs": 15, "batch_size": 64},
            paper={**schedule, "width": WIDTH["paper"], "epochs": 100, "shift": 4},
        ),
        build=lambda s, image_shape, classes: Vgg(depth, image_shape, classes, s["width"]),
        train=by_gradient(
            lambda s: in_bfloat16(shifted_and_mirrored(cross_entropy, s["shift"]) if s["shift"] else cross_entropy),
        ),
    )


# ---------------------------------------------------------------- on top of features


def _tap(settings: dict, image_shape: tuple[int, int, int], classes: int) -> FeatureTap:
    _objective(settings)  # a setting that is none is named before anything is trained
    depth = BACKBONES[check_choice(settings["backbone"], "backbone", BACKBONES)]
    return FeatureTap(Vgg(depth, image_shape, classes, settings["width"]), settings["after"])


def _objective(settings: dict):
    """The ELBO; with m set to 0 in training, if the model has an m and the recipe says so."""
    do = {"m": 0} if settings.get("training_m") == "zero" else None
    return negative_elbo(settings.get("warm_up", 0.0), settings.get("pressure", 1.0), do)


def _on_frozen_features(
    model: nn.Module, settings: dict, images: ImageData, *, backbone: nn.Module, device, **run
) -> list[float]:
    """Put the trained backbone under the head, take its features once, and train the head alone on them."""
    tap = model.to(device).deterministic["x2"]
    tap.load_state_dict({**FeatureTap(backbone, settings["after"]).state_dict(), "scale": tap.scale})
    count = settings["images"] or len(images.train_x)
    x = as_float(images.train_x[:count]).to(device)
    seen = {"x1": x.flatten(1), "x2": tap.calibrate(x)}
    schedule = {key: settings[key] for key in ("epochs", "batch_size", "learning_rate", "final_learning_rate")}
    observed = {name: seen[name] for name in model.observed}
    return fit(model, _objective(settings), observed, images.train_y[:count], **schedule, device=device, **run)


def _hybrid_recipe(after: str, on: dict[str, str]) -> Recipe:
    """`hybrid`'s model, the features taken ``after`` a layer of VGG16 (section 4.4; ``on`` other data sets after others).

    ``paper``: four hidden layers of 500, Adam at 5e-5, batches of 150, 350 epochs (section 4.1). z has 128 dimensions and K is
    10 as in Deep Bayes' models on features, m has 32 as in Deep CAMA; both sigmas are Deep Bayes' 1/sqrt 2, of features with a
    root mean square of 1. ``cpu`` (ours): 60 epochs from 5e-4 down to 5e-5. ``quick`` (ours): 12 epochs from 1e-3, batches of
    64, K = 3.

    Settings that chapter 08 varies: ``code``, ``pressure`` (how much more the latent terms weigh until the last quarter),
    ``pixel_sigma``, ``feature_sigma``, ``scales``, ``samples``, ``epochs``; ``training_m`` ("zero", or "sampled" to train
    q(m|.) too) and ``weight`` ("full", or "published", which leaves p(m)/q(m|.) out).
    """
    common = {"hidden": 500, "code": 128, "manipulation": 32, "pressure": 1.0, "scales": "fixed", "weight": "full"}
    common |= {"pixel_sigma": DEEP_BAYES_SIGMA, "feature_sigma": DEEP_BAYES_SIGMA, "training_m": "zero"}
    common |= {"backbone": "vgg16", "after": after}
    small = {"batch_size": 150, "learning_rate": 5e-4, "final_learning_rate": 5e-5}
    return Recipe(
        version=1,
        settings=_profiles(
            quick={**small, "width": WIDTH["quick"], "epochs": 12, "samples": 3, "learning_rate": 1e-3, "batch_size": 64},
            cpu={**small, "width": WIDTH["cpu"], "epochs": 60, "samples": 10},
            paper={**small, "width": WIDTH["paper"], "epochs": 350, "samples": 10, "learning_rate": 5e-5},
            **common,
        ),
        build=_build_hybrid,
        train=_on_frozen_features,
        on={
            data: {"after": layer, **({"backbone": "vgg19"} if data.startswith("tiny") else {})} for data, layer in on.items()
        },
    )


def _build_hybrid(s: dict, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    check_choice(s["training_m"], "training_m", ("zero", "sampled"))
    if s["training_m"] == "sampled" and s["weight"] == "published":
        raise ValueError("weight must be full where training_m is sampled: without p(m)/q(m|.) nothing would hold q(m|.)")
    words = ("hidden", "code", "manipulation", "samples", "pixel_sigma", "feature_sigma", "scales", "weight")
    return causal_head(_tap(s, image_shape, classes), image_shape, classes, **{word: s[word] for word in words})


def _deep_bayes_recipe(name: str, after: str) -> Recipe:
    """Deep Bayes' classifier on features, by its released code.

    Hidden 1,000, code 128, K = 10, 100 epochs of Adam at 1e-4 in batches of 50. ``cpu`` and ``quick`` (ours) train for less
    long with larger steps. GBZ and DBX read the label off z alone and get the warm-up that they have on pixels. The features
    are VGG's after the ReLU (there: CONV9 also after, FC1 before), with a root mean square of 1 (there: as they come).
    """
    common = {"hidden": 1000, "code": 128, "backbone": "vgg16", "after": after, "warm_up": 0.0 if name == "gby" else 0.5}
    small = {"batch_size": 128, "learning_rate": 1e-3, "final_learning_rate": 1e-4}
    return Recipe(
        version=1,
        settings=_profiles(
            quick={**small, "width": WIDTH["quick"], "epochs": 12, "samples": 3, "batch_size": 64},
            cpu={**small, "width": WIDTH["cpu"], "epochs": 30, "samples": 10},
            paper={
                **{"width": WIDTH["paper"], "epochs": 100, "samples": 10, "batch_size": 50},
                **{"learning_rate": 1e-4, "final_learning_rate": 1e-4},
            },
            **common,
        ),
        build=lambda s, image_shape, classes: _build_deep_bayes(name, s, image_shape, classes),
        train=_on_frozen_features,
    )


def _build_deep_bayes(name: str, s: dict, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    sizes = {word: s[word] for word in ("hidden", "code", "samples")}
    return deep_bayes_on_features(name, _tap(s, image_shape, classes), image_shape, classes, **sizes)


def _cama_recipe() -> Recipe:
    """Deep CAMA on clean images with m = 0, as `hybrid` trains. Codes of 64 and 32 are those of a port of it
    (github.com/hee-suk-yoon/DeepCAMA, for MNIST), and so are batches of 128; networks and schedule are GFZ's, at ``cpu`` with
    60 epochs (ours)."""
    common = {"hidden": 500, "code": 64, "manipulation": 32, "training_m": "zero"}
    small = {"width": 32, "learning_rate": 1e-3, "final_learning_rate": 1e-4}
    return Recipe(
        version=1,
        settings=_profiles(
            quick={**small, "epochs": 12, "batch_size": 64, "samples": 3},
            cpu={**small, "epochs": 60, "batch_size": 128, "samples": 10},
            paper={
                "width": 64,
                "epochs": 100,
                "batch_size": 128,
                "samples": 10,
                "learning_rate": 1e-4,
                "final_learning_rate": 1e-4,
            },
            **common,
        ),
        build=_build_cama,
        train=by_gradient(_objective),
    )


def _build_cama(s: dict, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    check_choice(s["training_m"], "training_m", ("zero", "sampled"))
    words = ("width", "hidden", "code", "manipulation", "samples")
    return deep_cama(image_shape, classes, **{word: s[word] for word in words})


HYBRID = {
    "vgg16": _vgg_recipe(16),
    "vgg19": _vgg_recipe(19),
    "cama": _cama_recipe(),
    "gbz-conv9": _deep_bayes_recipe("gbz", "conv9"),
    "gby-conv9": _deep_bayes_recipe("gby", "conv9"),
    "dbx-fc1": _deep_bayes_recipe("dbx", "dense1"),
    "hybrid-shallow": _hybrid_recipe(
        "conv9", on={"cifar100": "conv12", "tiny-imagenet": "conv14", "tiny-imagenet-32": "conv14"}
    ),
    "hybrid-deep": _hybrid_recipe("dense1", on={"tiny-imagenet": "dense2", "tiny-imagenet-32": "dense2"}),
}
