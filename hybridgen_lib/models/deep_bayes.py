"""The networks of Deep Bayes for any formula over an image x, a label y and one code z.

Li, Bradshaw & Sharma (2019), "Are generative classifiers more robust to adversarial attacks?", and its released code: one
convolutional trunk per network that reads x, multilayer perceptrons with hidden layers of 500, a code of 64 dimensions.
`deepbayes` takes the six factorizations from there and states no size of its own.
"""

from __future__ import annotations

from torch import nn

from hybridgen_lib.classifier import check_choice, check_image_shape, check_number, check_sizes
from hybridgen_lib.models.backbones import features_of
from hybridgen_lib.models.factorization import DEEP_BAYES
from hybridgen_lib.models.latent import LatentVariableClassifier
from hybridgen_lib.models.networks import (
    CategoricalFactor,
    ConvTrunk,
    GaussianFactor,
    ImageFactor,
    StandardNormal,
    UniformClasses,
    VectorFactor,
)

__all__ = ["GUIDE", "ON_FEATURES", "deep_bayes", "deep_bayes_network", "deep_bayes_on_features"]

GUIDE = "q(z|x,y)"
ON_FEATURES = ("gbz", "gby", "dbx")
"""The three that Deep Bayes also puts on top of a VGG."""


def deep_bayes(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    width: int = 64,
    hidden: int = 500,
    code: int = 64,
    samples: int = 10,
) -> LatentVariableClassifier:
    """One of the seven classifiers by its name ("gfz", ..., "dbx"), untrained, for images (channels, H, W) of C ``classes``.

    ``width`` channels in each convolution, ``hidden`` units, ``code`` dimensions of z, K = ``samples`` at evaluation.
    """
    formula = DEEP_BAYES[check_choice(name, "name", DEEP_BAYES)]
    sizes = {"image_shape": image_shape, "classes": classes, "width": width, "hidden": hidden, "code": code}
    factors = [factor for factor in [*formula.split(), GUIDE] if factor != "p(x)"]
    networks = {factor: deep_bayes_network(factor, deep=name == "gbz", **sizes) for factor in factors}
    return LatentVariableClassifier(formula, GUIDE, networks, classes=classes, samples=samples)


def deep_bayes_network(
    factor: str, image_shape: tuple[int, int, int], classes: int, width: int, hidden: int, code: int, deep: bool = False
) -> nn.Module:
    """The module for one factor such as ``"p(x|z,y)"``. ``deep`` gives p(y|z) a second hidden layer, as GBZ has there."""
    check_image_shape(image_shape)
    check_sizes(width=width, hidden=hidden, code=code)
    check_number(classes, "classes", low=2, integer=True)

    def trunk() -> ConvTrunk:
        return ConvTrunk(image_shape, width, hidden)

    makers = {
        "p(z)": lambda: StandardNormal(code),
        "p(y)": lambda: UniformClasses(classes),
        "p(y|z)": lambda: CategoricalFactor({"z": code}, [hidden] * (2 if deep else 1), classes),
        "p(z|y)": lambda: GaussianFactor({"y": classes}, [hidden], code),
        "p(z|x)": lambda: GaussianFactor({"x": hidden}, [hidden, hidden], code, trunk()),
        "p(y|z,x)": lambda: CategoricalFactor({"z": code, "x": hidden}, [hidden], classes, trunk()),
        "p(x|z)": lambda: ImageFactor({"z": code}, image_shape, width, hidden),
        "p(x|z,y)": lambda: ImageFactor({"z": code, "y": classes}, image_shape, width, hidden),
        "q(z|x,y)": lambda: GaussianFactor({"x": hidden, "y": classes}, [hidden], code, trunk()),
    }
    return makers[check_choice(factor, "factor", makers)]()


def deep_bayes_on_features(
    name: str,
    tap: nn.Module,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    hidden: int = 1000,
    code: int = 128,
    samples: int = 10,
) -> LatentVariableClassifier:
    """Deep Bayes' "gbz", "gby" or "dbx" with the features of an image in its place, untrained.

    ``tap`` maps images (B, channels, H, W) to features (B, F). Dense networks with two hidden layers (one in p(y|z) of DBX and
    in p(z|y)) of ``hidden`` units; a code of 128; features are Normal with sigma 1/sqrt 2 around a linear output:
    the sizes of the code released with Deep Bayes for CIFAR-10.
    """
    formula = DEEP_BAYES[check_choice(name, "name", ON_FEATURES)].replace("x", "x2")
    check_sizes(hidden=hidden, code=code)
    check_number(classes, "classes", low=2, integer=True)
    guide, features = GUIDE.replace("x", "x2"), features_of(tap, image_shape)
    networks = {
        "p(z)": lambda: StandardNormal(code),
        "p(y)": lambda: UniformClasses(classes),
        "p(y|z)": lambda: CategoricalFactor({"z": code}, [hidden] * (2 if name == "gbz" else 1), classes),
        "p(z|y)": lambda: GaussianFactor({"y": classes}, [hidden], code),
        "p(z|x2)": lambda: GaussianFactor({"x2": features}, [hidden, hidden], code),
        "p(x2|z)": lambda: VectorFactor({"z": code}, [hidden, hidden], features),
        "q(z|x2,y)": lambda: GaussianFactor({"x2": features, "y": classes}, [hidden, hidden], code),
    }
    made = {factor: networks[factor]() for factor in [*formula.split(), guide] if factor != "p(x2)"}
    return LatentVariableClassifier(formula, guide, made, deterministic={"x2": tap}, classes=classes, samples=samples)
