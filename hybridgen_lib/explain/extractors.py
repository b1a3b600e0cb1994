"""Networks whose features two sets of images are compared in, each with its name, for a distance without a name means nothing.

"FID" is the Fréchet distance in the 2,048 features of one network with one set of weights: the Inception that Heusel et al.
(2017) took from TensorFlow. Its weights are in a file that pytorch-fid and torch-fidelity share. torchvision's Inception was
trained anew and is another network; so is any of ours. :func:`distance_name` says which it was.
"""

from __future__ import annotations

import copy
import hashlib
import io
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridgen_lib.classifier import (
    StochasticClassifier,
    check_choice,
    check_images,
    check_model,
    check_number,
    evaluating,
    is_stochastic,
)
from hybridgen_lib.explain.frechet import FeatureStatistics, frechet_distance
from hybridgen_lib.models.backbones import FeatureTap

__all__ = ["Distance", "Extractor", "distance_name", "extract", "frechet_between", "inception", "network_extractor"]

FID_FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
"""One file under two names: pytorch-fid's and torch-fidelity's. The digits are the start of its SHA-256."""
FID_SHA256 = "6726825d"
FID_SOURCES = "github.com/mseitzer/pytorch-fid/releases (fid_weights) or github.com/toshas/torch-fidelity/releases (v0.2.0)"
INSTEAD = "compare in the features of a network of the book: network_extractor(model, 'avgpool', 'resnet18')"
LAYERS = {192: "maxpool2", 2048: "avgpool"}
"""The layers of an Inception by how many features each has: after the second max-pool, and before the last linear layer."""
SIDE, SECONDS = 299, 20


class Extractor(nn.Module):
    """A frozen copy of a network that makes features of images, and its name: (B, channels, H, W) in [0, 1] -> (B, F).

    Where the network returns maps (B, F, h, w), the features are their averages over all places. Gradients flow to the image;
    the weights gather none, and it stays in evaluation mode.

    Args:
        network: any module that returns (B, F) or (B, F, h, w) for images, and the same whenever it is asked.
        name: what stands in "Fréchet distance in ... features".
    """

    is_fid = False

    def __init__(self, network: nn.Module, name: str):
        super().__init__()
        parts = check_model(network, "network").modules()
        if is_stochastic(network) or any(isinstance(part, StochasticClassifier) for part in parts):  # a copy thaws
            raise ValueError("network must be a fixed function, got one with noise of its own")
        if not isinstance(name, str) or not name.strip() or "fid" in name.lower().split():
            raise ValueError(f"name must say which network it is, and FID is one of its own (inception('fid')); got {name!r}")
        self.network, self.name = copy.deepcopy(network), name.strip()
        self.requires_grad_(False).train()

    def forward(self, x: Tensor) -> Tensor:
        features = self.network(x)
        if features.ndim == 4:
            features = features.mean((2, 3))
        if features.ndim != 2 or len(features) != len(x):
            raise ValueError(f"network must return (B, F) or (B, F, h, w), got {tuple(features.shape)} for {len(x)} images")
        return features

    def train(self, mode: bool = True) -> Extractor:
        return super().train(False)


class _Tap(FeatureTap):
    """A tap that keeps the places of a map: (B, channels, H, W) -> what the layer gives."""

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)["features"]


def network_extractor(model: nn.Module, after: str, name: str) -> Extractor:
    """The features of ``model`` after its layer ``after``, averaged over places where that layer gives a map.

    ``after`` is a name in ``model.named_modules()``, such as ``"avgpool"`` of our ResNets. ``name`` is the network's.
    """
    return Extractor(_Tap(model, after), name)


def distance_name(extractor: nn.Module, kernel: bool = False) -> str:
    """What a distance between the features of ``extractor`` is called; ``kernel`` for the kernel distance.

    "FID" (or "KID") for Inception's 2,048 features with the FID weights, and for nothing else; otherwise such as "Fréchet
    distance in resnet18 features". Raises ``ValueError`` for an extractor without a name.
    """
    name = getattr(extractor, "name", None)
    if not isinstance(name, str) or not name:
        raise ValueError("extractor must have a name, such as Extractor(network, 'resnet18') gives it")
    if getattr(extractor, "is_fid", False) is True:
        return "KID" if kernel else "FID"
    return f"{'Kernel' if kernel else 'Fréchet'} distance in {name} features"


@dataclass(frozen=True)
class Distance:
    """A number that does not travel without its name."""

    value: float
    name: str

    def __str__(self) -> str:
        return f"{self.name}: {self.value:.4g}"


@torch.no_grad()
def extract(extractor: nn.Module, images: Tensor, examples_per_pass: int = 256) -> Tensor:
    """The features (N, F) of images (N, channels, H, W), float in [0, 1], ``examples_per_pass`` at a time; on the CPU."""
    check_model(extractor, "extractor")
    check_images(images, "images")
    check_number(examples_per_pass, "examples_per_pass", low=1, integer=True)
    place = next(extractor.parameters(), images).device
    with evaluating(extractor):
        return torch.cat([extractor(part.to(place)).cpu() for part in images.split(int(examples_per_pass))])


def frechet_between(extractor: Extractor, images: Tensor, others: Tensor, examples_per_pass: int = 256) -> Distance:
    """The Fréchet distance between two sets of images (N, channels, H, W), float in [0, 1], with its name.

    Features are not kept, so the number of images is bounded by time alone.
    """
    name = distance_name(extractor)
    both = []
    for part, argument in ((images, "images"), (others, "others")):
        if len(check_images(part, argument)) < 2:
            raise ValueError(f"{argument} must be at least 2 images, got {len(part)}")
        statistics = FeatureStatistics()
        for some in part.split(check_number(examples_per_pass, "examples_per_pass", low=1, integer=True)):
            statistics.update(extract(extractor, some, examples_per_pass))
        both.append(statistics)
    return Distance(frechet_distance(*both), name)


# ---------------------------------------------------------------- Inception


class _Prepared(nn.Module):
    """An Inception behind what its input should be: three channels, 299 pixels a side, values from -1 to 1.

    Grey images get three equal channels. Images are resized bilinearly, by ``corners`` as TensorFlow 1 does, whose grids share
    the upper left *corner*: the graph that defined FID does so, and torch-fidelity after it. pytorch-fid (grids that share
    their middle), clean-fid (bicubic) and torchmetrics' default (anti-aliased) give other numbers on small images.
    """

    def __init__(self, tap: nn.Module, corners: bool):
        super().__init__()
        self.tap, self.corners = tap, corners

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ValueError(f"x must have 1 or 3 channels for an Inception, got {x.shape[1]}")
        x = x.expand(-1, 3, -1, -1)
        if self.corners:
            return self.tap((255 * _resized_from_the_corner(x, SIDE) - 128) / 128)  # the graph's own -1 to 1
        return self.tap(2 * F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True) - 1)


class _Fid(Extractor):
    is_fid = True


def inception(weights: str | Path = "fid", layer: int = 2048) -> Extractor:
    """An Inception V3 as extractor.

    Args:
        weights: ``"fid"``, the FID weights, looked for where torch.hub, pytorch-fid and torch-fidelity keep their downloads; a
            path to that file; or ``"torchvision"``, torchvision's own, from the same folder or the network.
        layer: 2048 (before the last linear layer), or 192 (after the second max-pool, averaged over places), in which
            `interpretable` compares an image with its inversion.

    Raises:
        ValueError: if a file is not that of the FID weights, by its SHA-256.
        FileNotFoundError: if the weights are nowhere; it says what was tried and how to go on.
    """
    check_choice(layer, "layer", LAYERS)
    if weights == "torchvision":
        return Extractor(
            _Prepared(_Tap(_torchvision_network(), LAYERS[layer]), corners=False), f"torchvision Inception-{layer}"
        )
    path = _fid_file(weights)
    content = path.read_bytes()
    if not (digest := hashlib.sha256(content).hexdigest()).startswith(FID_SHA256):
        raise ValueError(f"{path} does not hold the FID weights: its SHA-256 must start with {FID_SHA256}, got {digest[:8]}")
    prepared = _fid_network(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), layer)
    return (_Fid if layer == 2048 else Extractor)(prepared, f"TensorFlow Inception-{layer}")


def _fid_file(weights: str | Path) -> Path:
    """Where the FID weights are."""
    places = [Path(torch.hub.get_dir()) / "checkpoints" / name for name in FID_FILES]
    if weights != "fid":
        places = [Path(weights).expanduser()]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"weights {str(weights)!r}: there is no {' nor '.join(map(str, places))}. Get {FID_FILES[0]} (91 MB) from "
        f"{FID_SOURCES} and give its path, take 'torchvision' (another network, never called FID), or {INSTEAD}"
    )


def _fid_network(weights: dict[str, Tensor], layer: int) -> nn.Module:
    """The FID Inception as a module that makes features (or maps of them) of images; ``weights`` is its state dict.

    It is torchvision's network, with 1,008 classes and two differences, which are made in its graph: average pools leave the
    padding out of the average, and the last of them is a max pool.
    """
    from torchvision.models import Inception3

    network = Inception3(num_classes=1008, aux_logits=False, transform_input=False, init_weights=False).eval()
    network.load_state_dict(weights)
    tap = _Tap(network, LAYERS[layer])
    pools = [node for node in tap.body.graph.nodes if node.target is F.avg_pool2d]
    for node in pools:
        node.kwargs = {**node.kwargs, "count_include_pad": False}
    if pools:
        pools[-1].target = torch.max_pool2d
        pools[-1].kwargs = {"kernel_size": 3, "stride": 1, "padding": 1}
        tap.body.recompile()
    return _Prepared(tap, corners=True)


def _torchvision_network() -> nn.Module:
    from torchvision.models import Inception_V3_Weights, inception_v3

    choice = Inception_V3_Weights.IMAGENET1K_V1
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(choice.url).name
    try:
        with _patience(SECONDS):
            return inception_v3(weights=choice, transform_input=False, progress=False).eval()
    except Exception as error:  # no network, no permission, a damaged file: all end in the same advice
        raise FileNotFoundError(
            f"weights 'torchvision': {file} could not be read or downloaded from {choice.url} ({error}). Put that file "
            f"there, or {INSTEAD}"
        ) from error


@contextmanager
def _patience(seconds: float):
    """Inside the block a connection that says nothing for so long is given up."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _resized_from_the_corner(x: Tensor, side: int) -> Tensor:
    """(B, channels, H, W) -> (B, channels, side, side): output pixel i lies at i H / side, between its two neighbours."""
    return _between(x.shape[2], side, x) @ x @ _between(x.shape[3], side, x).T


def _between(size: int, side: int, like: Tensor) -> Tensor:
    """The matrix (side, size) that interpolates linearly; past the last pixel it repeats that."""
    place = torch.arange(side, dtype=torch.float64) * size / side
    low = place.long()
    share = (place - low)[:, None]
    rows = torch.eye(size, dtype=torch.float64)
    return ((1 - share) * rows[low] + share * rows[(low + 1).clamp_max(size - 1)]).to(like)
