"""The causal VAE head of `hybrid` on top of a network's features, and Deep CAMA, from which it comes.

Both know two hidden causes of an image besides its class y: m, what somebody may have done to it, and z, all the rest. Deep
CAMA (Zhang, Zhang and Li 2020) has p(x|y,z,m). The head of `hybrid` explains the image x1 and its features x2 with one
network, p(x1,x2|y,z,m) (equations 4 to 8). Training sets m to 0 (equation 9); a prediction draws it from q(m|.).
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from hybridgen_lib.classifier import check_choice, check_image_shape, check_number, check_sizes
from hybridgen_lib.models.backbones import features_of
from hybridgen_lib.models.latent import LatentVariableClassifier
from hybridgen_lib.models.networks import (
    ConditionalMLP,
    ConvTrunk,
    GaussianFactor,
    ImageFactor,
    StandardNormal,
    UniformClasses,
)
from hybridgen_lib.models.pixels import DEEP_BAYES_SIGMA, PixelNormal
from hybridgen_lib.models.vectors import NormalFeatures

__all__ = ["CAMA", "CAMA_GUIDE", "HYBRID", "HYBRID_GUIDE", "PublishedWeight", "causal_head", "deep_cama"]

CAMA = "p(z) p(m) p(y) p(x|y,z,m)"
CAMA_GUIDE = "q(m|x) q(z|x,y,m)"
HYBRID = "p(z) p(m) p(y) p(x1,x2|y,z,m)"
HYBRID_GUIDE = "q(m|x1,x2,y) q(z|x1,x2,y,m)"


class PublishedWeight(LatentVariableClassifier):
    """m is drawn from q(m|.), but p(m) / q(m|.) is left out of a sample's weight: equation 10 of `hybrid` as printed."""

    def log_terms(
        self, x: dict[str, Tensor], y: Tensor, noise: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        log_p, log_q = super().log_terms(x, y, noise)
        about_m = {str(graph.factor_of("m")) for graph in (self.model, self.guide)}
        return tuple({name: term for name, term in terms.items() if name not in about_m} for terms in (log_p, log_q))


WEIGHTS = {"full": LatentVariableClassifier, "published": PublishedWeight}


class ImageAndFeatures(nn.Module):
    """p(x1,x2 | inputs): one network with two hidden layers, then Normal pixels and Normal features, apart given the inputs.

    Pixels lie around a sigmoid, features around a linear output, each with the one sigma given for them. With
    ``learned_scales`` the network also gives a factor for every sigma, between 1/20 and 20 (ours: without a bound a pixel that
    is always black has an infinite density).
    """

    def __init__(
        self,
        sizes: dict[str, int],
        hidden: int,
        dims: tuple[int, int],
        sigmas: tuple[float, float],
        learned_scales: bool = False,
    ):
        super().__init__()
        self.dims, self.sigmas, self.learned_scales = dims, sigmas, learned_scales
        self.mlp = ConditionalMLP(sizes, [hidden, hidden], sum(dims) * (2 if learned_scales else 1))
        self.features = NormalFeatures(sigmas[1])

    def forward(self, **inputs: Tensor) -> tuple[Distribution, Distribution]:
        if self.learned_scales:
            return self._with_learned_scales(self.mlp(inputs))
        h, last = self.mlp.hidden(inputs), self.mlp.last
        (weight, weight_2), (bias, bias_2) = (given.split(self.dims) for given in (last.weight, last.bias))
        pixels = PixelNormal(F.linear(h, weight, bias).sigmoid(), self.sigmas[0], axes=1)
        return pixels, self.features(h, weight_2, bias_2)

    def _with_learned_scales(self, made: Tensor) -> tuple[Distribution, Distribution]:
        made, factors = made.chunk(2, dim=-1)
        factors = (factors.tanh() * math.log(20)).exp().split(self.dims, dim=-1)
        pixels, features = made.split(self.dims, dim=-1)
        scales = (sigma * factor for sigma, factor in zip(self.sigmas, factors, strict=True))
        means = (pixels.sigmoid(), features)
        normals = (Normal(mean, scale, validate_args=False) for mean, scale in zip(means, scales, strict=True))
        return tuple(Independent(normal, 1, validate_args=False) for normal in normals)


def causal_head(
    tap: nn.Module,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    hidden: int = 500,
    code: int = 128,
    manipulation: int = 32,
    samples: int = 10,
    pixel_sigma: float = DEEP_BAYES_SIGMA,
    feature_sigma: float = DEEP_BAYES_SIGMA,
    scales: str = "fixed",
    weight: str = "full",
) -> LatentVariableClassifier:
    """The hybrid, untrained: ``tap`` maps images (B, channels, H, W) to features (B, F), the head does the rest.

    Encoders have four hidden layers of ``hidden`` units, the decoder two (section 4.1; its width is ours). ``code`` and
    ``manipulation`` are the dimensions of z and m, K is ``samples``: not in the document, Deep Bayes' and Deep CAMA's numbers.

    Args:
        pixel_sigma, feature_sigma: scale of the two likelihood terms; the document gives none.
        scales: ``"fixed"``, or ``"learned"``: the decoder gives a sigma for every output, as the document's "Gaussian outputs
            parameterized by mean and standard deviation" may be read.
        weight: ``"full"``, or ``"published"`` for :class:`PublishedWeight`.
    """
    check_sizes(hidden=hidden, code=code, manipulation=manipulation)
    check_number(classes, "classes", low=2, integer=True)
    check_number(pixel_sigma, "pixel_sigma", low=1e-6)
    check_number(feature_sigma, "feature_sigma", low=1e-6)
    check_image_shape(image_shape)
    learned = check_choice(scales, "scales", ("fixed", "learned")) == "learned"
    pixels, features = math.prod(image_shape), features_of(tap, image_shape)
    seen = {"x1": pixels, "x2": features, "y": classes}
    causes = {"y": classes, "z": code, "m": manipulation}
    networks = {
        "p(z)": StandardNormal(code),
        "p(m)": StandardNormal(manipulation),
        "p(y)": UniformClasses(classes),
        "p(x1,x2|y,z,m)": ImageAndFeatures(causes, hidden, (pixels, features), (pixel_sigma, feature_sigma), learned),
        "q(m|x1,x2,y)": GaussianFactor(seen, [hidden] * 4, manipulation),
        "q(z|x1,x2,y,m)": GaussianFactor({**seen, "m": manipulation}, [hidden] * 4, code),
    }
    made = WEIGHTS[check_choice(weight, "weight", WEIGHTS)]
    observed = {"x1": nn.Flatten(), "x2": tap}
    return made(HYBRID, HYBRID_GUIDE, networks, deterministic=observed, classes=classes, samples=samples)


def deep_cama(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    width: int = 64,
    hidden: int = 500,
    code: int = 64,
    manipulation: int = 32,
    samples: int = 10,
) -> LatentVariableClassifier:
    """Deep CAMA on the image alone, untrained: its formula and codes (64 and 32), with Deep Bayes' convolutions.

    The authors' code was not found; `hybrid` says nothing of its sizes. Convolutions 5x5 of stride 2 stand in for theirs of
    3x3 with pooling, and Normal pixels for Bernoulli ones, so that it differs from the other models here by its graph alone.
    """
    check_sizes(width=width, hidden=hidden, code=code, manipulation=manipulation)
    check_number(classes, "classes", low=2, integer=True)
    check_image_shape(image_shape)
    seen = {"x": hidden, "y": classes, "m": manipulation}
    networks = {
        "p(z)": StandardNormal(code),
        "p(m)": StandardNormal(manipulation),
        "p(y)": UniformClasses(classes),
        "p(x|y,z,m)": ImageFactor({"y": classes, "z": code, "m": manipulation}, image_shape, width, hidden),
        "q(m|x)": GaussianFactor({"x": hidden}, [hidden], manipulation, ConvTrunk(image_shape, width, hidden)),
        "q(z|x,y,m)": GaussianFactor(seen, [hidden], code, ConvTrunk(image_shape, width, hidden)),
    }
    return LatentVariableClassifier(CAMA, CAMA_GUIDE, networks, classes=classes, samples=samples)
