"""The classifiers of zoo that come from variational autoencoders (sections 2.5 and 2.6).

The CNN-VAE and its binary and random-field twins are latent-variable classifiers with the graph GFZ. The conditional VAE
(:class:`NearestPicture`) judges an image by the pictures that its decoder draws for each class. The VAE
classifiers are its discriminative twins. Sizes of the dense networks are not in the document: ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from hybridgen_lib.classifier import StochasticClassifier, check_choice, check_image_shape, check_number, check_sizes
from hybridgen_lib.models.binary import BinaryLatentVariableClassifier
from hybridgen_lib.models.deep_bayes import GUIDE, deep_bayes_network
from hybridgen_lib.models.factorization import DEEP_BAYES
from hybridgen_lib.models.latent import LatentVariableClassifier
from hybridgen_lib.models.networks import (
    DenseImageFactor,
    DenseTrunk,
    GaussianFactor,
    ImageFactor,
    StandardNormal,
    UniformClasses,
)

__all__ = ["RULES", "NearestPicture", "PretrainedVaeClassifier", "VaeClassifier", "binary_cnn_vae", "conditional_vae"]

CVAE = "p(y) p(z) p(x|z,y)"
"""The document's conditional VAE (equation 5): z is independent of y; its "P(z, y)" inside the divergence is read as p(z)."""

RULES = ("nearest", "mse")
"""Both of section 2.5's: the distance to the nearest picture of a class, or the mean over all of them."""


def binary_cnn_vae(
    image_shape: tuple[int, int, int], classes: int, pixels: nn.Module, *, width: int, hidden: int, code: int, samples: int
) -> LatentVariableClassifier:
    """GFZ over binarised images: Deep Bayes' networks, and ``pixels`` (see ``models.pixels``) behind the decoder.

    The document's plain CNN-VAE is ``deep_bayes("gfz", ...)``: it "has the same architecture used in" Deep Bayes (A.3).
    """
    formula = DEEP_BAYES["gfz"]
    sizes = {"image_shape": image_shape, "classes": classes, "width": width, "hidden": hidden, "code": code}
    networks = {factor: deep_bayes_network(factor, **sizes) for factor in [*formula.split()[:2], GUIDE]}
    networks["p(x|z,y)"] = ImageFactor({"z": code, "y": classes}, image_shape, width, hidden, pixels)
    return BinaryLatentVariableClassifier(formula, GUIDE, networks, classes=classes, samples=samples)


def conditional_vae(
    image_shape: tuple[int, int, int], classes: int, *, hidden: int, code: int, samples: int
) -> LatentVariableClassifier:
    """The conditional VAE of dense networks, scored like any other latent-variable classifier; K = ``samples``."""
    check_image_shape(image_shape)
    check_sizes(hidden=hidden, code=code)
    check_number(classes, "classes", low=2, integer=True)
    networks = {
        "p(y)": UniformClasses(classes),
        "p(z)": StandardNormal(code),
        "p(x|z,y)": DenseImageFactor({"z": code, "y": classes}, image_shape, hidden),
        GUIDE: GaussianFactor({"x": hidden, "y": classes}, [hidden], code, DenseTrunk(image_shape, hidden)),
    }
    return LatentVariableClassifier(CVAE, GUIDE, networks, classes=classes, samples=samples)


class NearestPicture(StochasticClassifier):
    """zoo's CVAE classifier: draw ``samples`` pictures for each class, and ask which class has the nearest.

    The score (B, C) of a class is -|x - its nearest picture|^2, or with ``rule="mse"`` minus the mean of |x - picture|^2.
    Since -|x - mu|^2 is log p(x|z,y) with Deep Bayes' sigma, up to a constant, the first is the best sample's log likelihood,
    the second their mean; the logarithm of their mean likelihood lies between. Codes come from the prior, the encoder is not
    used. Every call draws new codes, which its images and classes share. ``score_kind`` is "energy".

    Source: zoo, section 2.5, with 100 pictures a class. Raises ``ValueError`` for another rule, ``samples`` < 1, or a ``cvae``
    without the factors p(z) and p(x|z,y).
    """

    score_kind = "energy"

    def __init__(self, cvae: LatentVariableClassifier, samples: int = 100, rule: str = "nearest", seed: int = 0):
        super().__init__(seed)
        if not {"p(z)", "p(x|z,y)"} <= set(getattr(cvae, "networks", ())):
            raise ValueError(
                f"cvae must be a latent-variable classifier with factors p(z) and p(x|z,y), got {type(cvae).__name__}"
            )
        self.cvae = cvae
        self.samples = check_number(samples, "samples", low=1, integer=True)
        self.rule = check_choice(rule, "rule", RULES)

    def elbo(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None, beta: float = 1.0) -> Tensor:
        """What it is trained by: the conditional VAE's bound (B,), in nats."""
        return self.cvae.elbo(x, y, generator=generator, beta=beta)

    @torch.no_grad()
    def pictures(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What each class looks like: (K, C, channels, H, W), from one draw of K codes."""
        codes = self.noise(self.samples, 1, self.cvae.networks["p(z)"].zero.numel(), like, generator)
        classes = torch.eye(self.cvae.classes, dtype=like.dtype, device=like.device)
        return self.cvae.networks["p(x|z,y)"](z=codes, y=classes[None]).mean

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        pictures = self.pictures(x, generator).flatten(2)
        x = x.flatten(1)
        with torch.no_grad():  # |picture|^2 - 2 x.picture, (K, B, C): what is left of the distance when |x|^2 is left out
            lengths = pictures.square().sum(2)
            distances = lengths[:, None] - 2 * torch.einsum("bd,kcd->kbc", x, pictures)
            nearest = distances.argmin(0)
        if self.rule == "mse":
            return -(x.square().sum(1, keepdim=True) - 2 * x @ pictures.mean(0).T + lengths.mean(0))
        chosen = pictures[nearest, torch.arange(pictures.shape[1], device=x.device)]  # (B, C, D)
        return -(x[:, None] - chosen).square().sum(2)


class VaeClassifier(StochasticClassifier):
    """A VAE's encoder, a sample of its code, and a dense network that reads the class from it (zoo, section 2.5).

    Images (B, channels, H, W) -> log p(y|z) (B, C) for one draw of z ~ q(z|x). All of it is trained by cross-entropy, so
    nothing keeps the code a Normal one: the document takes the encoder, not the divergence.

    Its released notebook, with a convolutional encoder, draws in training only and classifies the mean code afterwards. Its
    text samples, and so does this one.
    """

    score_kind = "log_conditional"

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, hidden: int, code: int, seed: int = 0):
        super().__init__(seed)
        check_sizes(hidden=hidden, code=code)
        check_number(classes, "classes", low=2, integer=True)
        self.encoder = GaussianFactor({"x": hidden}, [hidden], code, DenseTrunk(check_image_shape(image_shape), hidden))
        self.head = nn.Sequential(nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def encode(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One draw of z (B, code) for each image."""
        q = self.encoder(x=x).base_dist
        return q.loc + q.scale * self.noise(1, len(x), q.loc.shape[1], x, generator)[0]

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.head(self.encode(x, generator)).log_softmax(1)


class PretrainedVaeClassifier(VaeClassifier):
    """The same network, whose encoder was trained as part of a plain VAE and is then left alone (zoo, section 2.5)."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, hidden: int, code: int, seed: int = 0):
        super().__init__(image_shape, classes, hidden=hidden, code=code, seed=seed)
        self.decoder = DenseImageFactor({"z": code}, image_shape, hidden)

    def elbo(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None, beta: float = 1.0) -> Tensor:
        """The VAE's lower bound (B,) of log p(x), in nats (zoo, equation 4); labels are not looked at."""
        q = self.encoder(x=x).base_dist
        z = q.loc + q.scale * self.noise(1, len(x), q.loc.shape[1], x, generator)[0]
        divergence = kl_divergence(q, Normal(torch.zeros_like(z), torch.ones_like(z))).sum(1)
        return self.decoder(z=z).log_prob(x) - beta * divergence
