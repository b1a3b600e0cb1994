"""The seven factorizations of `deepbayes`, and the plain network beside them."""

from __future__ import annotations

from hybridgen_lib.models.deep_bayes import deep_bayes
from hybridgen_lib.models.factorization import DEEP_BAYES
from hybridgen_lib.models.networks import SmallCNN
from hybridgen_lib.recipes.recipe import Recipe, by_gradient
from hybridgen_lib.training import cross_entropy, negative_elbo

__all__ = ["CNN_SETTINGS", "DEEPBAYES", "deep_bayes_recipe", "deep_bayes_settings", "small_cnn"]


def deep_bayes_settings(warm_up: float = 0.0) -> dict[str, dict]:
    """By profile: the sizes of the networks, K, and the schedule of training."""
    common = {"hidden": 500, "code": 64, "warm_up": warm_up}
    small = {"width": 32, "learning_rate": 1e-3, "final_learning_rate": 1e-4, **common}
    return {
        "quick": {"samples": 3, "epochs": 12, "batch_size": 64, **small},
        "cpu": {"samples": 10, "epochs": 20, "batch_size": 128, **small},
        "paper": {
            "width": 64,
            "samples": 10,
            "epochs": 100,
            "batch_size": 50,
            "learning_rate": 1e-4,
            "final_learning_rate": 1e-4,
            **common,
        },
    }


def deep_bayes_recipe(name: str) -> Recipe:
    """The seven factorizations. `deepbayes` states no number; these come from the code released with Deep Bayes.

    ``paper``: width 64, hidden 500, code 64, K = 10, 100 epochs, batches of 50, Adam at 1e-4. ``cpu``: width 32, 20
    epochs, batches of 128, Adam from 1e-3 down to 1e-4 (ours: a fifth of the epochs needs larger steps). ``quick``: the
    same on 6,000 images in batches of 64, 12 epochs, K = 3. Warm-up of the latent terms (ours, at every profile) for the two
    whose label is read off z alone, GBZ and DBX: without it DBX at ``quick`` learns to ignore z (10.8 % of 1,000).
    """
    return Recipe(
        version=1,
        settings=deep_bayes_settings(0.5 if name in ("gbz", "dbx") else 0.0),
        build=lambda s, image_shape, classes: deep_bayes(
            name,
            image_shape,
            classes,
            width=s["width"],
            hidden=s["hidden"],
            code=s["code"],
            samples=s["samples"],
        ),
        train=by_gradient(lambda s: negative_elbo(s["warm_up"])),
    )


_SMALL = {"width": 32, "hidden": 500, "learning_rate": 1e-3, "final_learning_rate": 1e-5}
CNN_SETTINGS = {
    "quick": {"epochs": 12, "batch_size": 32, **_SMALL},
    "cpu": {"epochs": 10, "batch_size": 128, **_SMALL},
    "paper": {**_SMALL, "width": 64, "epochs": 20, "batch_size": 128},
}


def small_cnn(settings: dict, image_shape: tuple[int, int, int], classes: int) -> SmallCNN:
    return SmallCNN(image_shape, classes, width=settings["width"], hidden=settings["hidden"])


def _cnn_recipe() -> Recipe:
    """The discriminative twin: the trunk of Deep Bayes' encoder, a linear layer, cross-entropy. Training settings are ours."""
    return Recipe(version=1, settings=CNN_SETTINGS, build=small_cnn, train=by_gradient(lambda s: cross_entropy))


DEEPBAYES = {"cnn": _cnn_recipe(), **{name: deep_bayes_recipe(name) for name in DEEP_BAYES}}
