"""The neural networks inside the models: trunks, conditional factors, decoders and a plain CNN.

Every network of a factor takes its inputs by the names of the variables and returns a ``torch.distributions.Distribution``.
Inputs carry any leading axes that broadcast: an image (1, B, 1, channels, H, W), a label (1, 1, C, C), a code (K, B, C, D)
give factors for all samples, images and classes at once. Sizes follow Deep Bayes (Li, Bradshaw & Sharma 2019): three 5x5
convolutions of stride 2, hidden layers of 500, their transpose in the decoder.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, OneHotCategorical

from hybridgen_lib.classifier import check_image_shape, check_number, check_sizes
from hybridgen_lib.models.pixels import DEEP_BAYES_SIGMA, NormalPixels
from hybridgen_lib.models.vectors import NormalFeatures

__all__ = [
    "CategoricalFactor",
    "ConvTrunk",
    "DenseImageFactor",
    "DenseNetwork",
    "DenseTrunk",
    "GaussianFactor",
    "ImageFactor",
    "SmallCNN",
    "StandardNormal",
    "SubpixelDeconvolution",
    "UniformClasses",
    "VectorFactor",
]


class ConvTrunk(nn.Module):
    """Image (..., channels, H, W) -> features (..., hidden): three convolutions 5x5 of stride 2, then one dense layer."""

    def __init__(self, image_shape: tuple[int, int, int], width: int = 64, hidden: int = 500):
        super().__init__()
        channels, height, rows = check_image_shape(image_shape)
        check_sizes(width=width, hidden=hidden)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(c, width, kernel_size=5, stride=2, padding=2) for c in (channels, width, width)
        )
        for _ in range(3):
            height, rows = -(-height // 2), -(-rows // 2)
        self.dense = nn.Linear(width * height * rows, hidden)

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(0, -4)
        for convolution in self.convolutions:
            h = F.relu(convolution(h))
        return F.relu(self.dense(h.flatten(1))).unflatten(0, x.shape[:-3])


class DenseTrunk(nn.Module):
    """Image (..., channels, H, W) -> features (..., hidden): one dense layer on all pixels."""

    def __init__(self, image_shape: tuple[int, int, int], hidden: int = 500):
        super().__init__()
        check_sizes(hidden=hidden)
        self.dense = nn.Linear(math.prod(check_image_shape(image_shape)), hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dense(x.flatten(-3)))


class SumOfLinears(nn.Module):
    """A linear layer on the concatenation of its inputs, computed as a sum of one linear map per input.

    The two are equal, but the sum lets inputs broadcast: the map of x is computed B times, not K * B * C times.
    """

    def __init__(self, sizes: dict[str, int], out: int):
        super().__init__()
        self.sizes = sizes
        self.weight = nn.Parameter(torch.empty(out, sum(sizes.values())))
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        total = self.bias
        for name, weight in zip(self.sizes, self.weight.split(list(self.sizes.values()), dim=1), strict=True):
            total = total + inputs[name] @ weight.T
        return total


class ConditionalMLP(nn.Module):
    """Named vectors -> ReLU layers of the given widths -> a vector. An image input goes through its own trunk first."""

    def __init__(self, sizes: dict[str, int], widths: list[int], out: int, trunk: nn.Module | None = None):
        super().__init__()
        self.trunk = trunk
        self.first = SumOfLinears(sizes, widths[0])
        layers: list[nn.Module] = []
        for before, after in zip(widths, [*widths[1:], out], strict=True):
            layers += [nn.ReLU(), nn.Linear(before, after)]
        self.rest = nn.Sequential(*layers)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.last(self.hidden(inputs))

    @property
    def last(self) -> nn.Linear:
        return self.rest[-1]

    def hidden(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the last layer sees."""
        if self.trunk is not None:
            inputs = {**inputs, "x": self.trunk(inputs["x"])}
        return self.rest[:-1](self.first(inputs))


class GaussianFactor(nn.Module):
    """p(z | inputs): a diagonal Gaussian whose mean and log sigma an MLP gives. Codes (..., dims)."""

    def __init__(self, sizes: dict[str, int], widths: list[int], dims: int, trunk: nn.Module | None = None):
        super().__init__()
        self.dims = dims
        self.mlp = ConditionalMLP(sizes, widths, 2 * dims, trunk)

    def forward(self, **inputs: Tensor) -> Distribution:
        mean, log_sigma = self.mlp(inputs).chunk(2, dim=-1)
        return Independent(Normal(mean, log_sigma.exp(), validate_args=False), 1, validate_args=False)


class VectorFactor(nn.Module):
    """p(v | inputs) of an observed vector: Normals of one ``sigma`` around a mean that an MLP gives. Vectors (..., dims)."""

    def __init__(self, sizes: dict[str, int], widths: list[int], dims: int, sigma: float = DEEP_BAYES_SIGMA):
        super().__init__()
        self.mlp, self.normal = ConditionalMLP(sizes, widths, dims), NormalFeatures(sigma)

    def forward(self, **inputs: Tensor) -> Distribution:
        return self.normal(self.mlp.hidden(inputs), self.mlp.last.weight, self.mlp.last.bias)


class CategoricalFactor(nn.Module):
    """p(y | inputs): a distribution over one-hot labels (..., C)."""

    def __init__(self, sizes: dict[str, int], widths: list[int], classes: int, trunk: nn.Module | None = None):
        super().__init__()
        self.mlp = ConditionalMLP(sizes, widths, classes, trunk)

    def forward(self, **inputs: Tensor) -> Distribution:
        return OneHotCategorical(logits=self.mlp(inputs), validate_args=False)


class SubpixelDeconvolution(nn.ConvTranspose2d):
    """A transposed convolution 5x5 of stride 2, computed as a plain one: (B, in, H, W) -> (B, out, about 2H, about 2W).

    Every second pixel of the result meets the same taps of the kernel, 3x3 of them at most. So a plain convolution makes four
    interleaved pictures, and they are shuffled into one (Shi et al. 2016, "Is the deconvolution layer the same as a
    convolutional layer?"). Weights and result are those of ``nn.ConvTranspose2d``, which on a CPU takes longer where ``out``
    is small (benchmarks, "the last layer of a decoder").
    """

    def __init__(self, before: int, out: int, output_padding: tuple[int, int]):
        super().__init__(before, out, 5, stride=2, padding=2, output_padding=output_padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # pixel 2m + p is the sum over d = -1, 0, 1 of what is at m + d times tap 2 + p - 2d; tap 5 is none
        taps = F.pad(self.weight, (0, 1, 0, 1)).unflatten(3, (3, 2)).unflatten(2, (3, 2)).flip(2, 4)
        kernels = taps.permute(1, 3, 5, 0, 2, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
        picture = F.pixel_shuffle(F.conv2d(x, kernels, padding=1), 2)
        height, rows = (2 * size - 1 + more for size, more in zip(x.shape[2:], self.output_padding, strict=True))
        return picture[..., :height, :rows]


class ImageFactor(nn.Module):
    """p(x | inputs): a density around a decoded picture. Images (..., channels, H, W).

    Two dense layers, then three transposed convolutions 5x5 of stride 2 without bias; ``pixels`` (by default Deep Bayes'
    Normal ones) makes the density.
    """

    def __init__(
        self,
        sizes: dict[str, int],
        image_shape: tuple[int, int, int],
        width: int = 64,
        hidden: int = 500,
        pixels: nn.Module | None = None,
    ):
        super().__init__()
        channels, height, rows = check_image_shape(image_shape)
        plan = [(height, rows)]
        for _ in range(3):
            plan.append((-(-plan[-1][0] // 2), -(-plan[-1][1] // 2)))
        self.start = (width, *plan[3])
        self.dense = ConditionalMLP(sizes, [hidden], math.prod(self.start))
        grow = [tuple(1 - size % 2 for size in plan[step]) for step in (2, 1, 0)]  # 4 -> 7 needs no extra row, 7 -> 14 one
        self.deconvolutions = nn.ModuleList(
            nn.ConvTranspose2d(width, width, 5, 2, padding=2, output_padding=more, bias=False) for more in grow[:2]
        )
        self.deconvolutions.append(SubpixelDeconvolution(width, channels, grow[2]))
        self.pixels = NormalPixels() if pixels is None else pixels
        self.to(memory_format=torch.channels_last)  # on a CPU it decodes faster

    def forward(self, **inputs: Tensor) -> Distribution:
        h = F.relu(self.dense(inputs))
        lead = h.shape[:-1]
        h = h.reshape(-1, *self.start).contiguous(memory_format=torch.channels_last)
        for i, deconvolution in enumerate(self.deconvolutions):
            h = deconvolution(F.relu(h) if i else h)
        return self.pixels(h.reshape(*lead, *h.shape[1:]))


class DenseImageFactor(nn.Module):
    """p(x | inputs) by two dense layers: Normal pixels around a picture in [0, 1]. Images (..., channels, H, W)."""

    def __init__(self, sizes: dict[str, int], image_shape: tuple[int, int, int], hidden: int = 500):
        super().__init__()
        self.image_shape = check_image_shape(image_shape)
        self.dense = ConditionalMLP(sizes, [hidden], math.prod(image_shape))
        self.pixels = NormalPixels()

    def forward(self, **inputs: Tensor) -> Distribution:
        return self.pixels(self.dense(inputs).unflatten(-1, self.image_shape))


class StandardNormal(nn.Module):
    """p(z): a standard Normal in ``dims`` dimensions."""

    def __init__(self, dims: int):
        super().__init__()
        self.register_buffer("zero", torch.zeros(dims), persistent=False)

    def forward(self) -> Distribution:
        return Independent(Normal(self.zero, torch.ones_like(self.zero), validate_args=False), 1, validate_args=False)


class UniformClasses(nn.Module):
    """p(y): every one of ``classes`` equally likely."""

    def __init__(self, classes: int):
        super().__init__()
        self.register_buffer("zero", torch.zeros(classes), persistent=False)

    def forward(self) -> Distribution:
        return OneHotCategorical(logits=self.zero, validate_args=False)


class SmallCNN(nn.Module):
    """The plain discriminative network of the book: images (B, channels, H, W) -> logits (B, C).

    The trunk of Deep Bayes' encoder and a linear layer: what the generative classifiers have, without their graph.
    """

    score_kind = "logit"

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: int = 64, hidden: int = 500):
        super().__init__()
        self.trunk = ConvTrunk(image_shape, width, hidden)
        self.head = nn.Linear(hidden, check_number(classes, "classes", low=2, integer=True))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.head(self.trunk(x))


class DenseNetwork(nn.Module):
    """Dense layers only: images (B, channels, H, W) -> logits (B, C), by two hidden layers of ``hidden`` units.

    Without hidden layers, ``hidden=0``, it is logistic regression.
    """

    score_kind = "logit"

    def __init__(self, image_shape: tuple[int, int, int], classes: int, hidden: int = 500):
        super().__init__()
        check_number(classes, "classes", low=2, integer=True)
        check_number(hidden, "hidden", low=0, integer=True)
        widths = [math.prod(check_image_shape(image_shape)), *([hidden, hidden] if hidden else []), classes]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.layers(x)
