"""The networks of Deep Bayes for any formula over an image x, a label y and one code z.

Li, Bradshaw & Sharma (2019), "Are generative classifiers more robust to adversarial attacks?", and its released code: one
convolutional trunk per network that reads x, multilayer perceptrons with hidden layers of 500, a code of 64 dimensions.
`deepbayes` takes the six factorizations from there and states no size of its own.
"""

from __future__ import annotations

from torch import nn

from hybridgen_lib.classifier import check_choice
from hybridgen_lib.models.factorization import DEEP_BAYES
from hybridgen_lib.models.latent import LatentVariableClassifier
from hybridgen_lib.models.networks import (
    CategoricalFactor,
    ConvTrunk,
    GaussianFactor,
    ImageFactor,
    StandardNormal,
    UniformClasses,
)

__all__ = ["GUIDE", "deep_bayes", "deep_bayes_network"]

GUIDE = "q(z|x,y)"


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
