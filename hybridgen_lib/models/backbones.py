"""Well-known networks for small images, a tap that reads any network in the middle, and any network without its last layer.

VGG, ResNet and AlexNet were published for images of 224 pixels; each says what it has in place of layers that would leave
nothing of 28 or 32. Inputs are in [0, 1]: batch normalisation centres them, and AlexNet, which has none, does so itself.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridgen_lib.classifier import check_choice, check_image_shape, check_images, check_model, check_number, evaluating

__all__ = ["AlexNet", "FeatureTap", "Vgg", "WideResNet", "features_of", "headless", "resnet"]

CONFIGURATIONS = {16: "D", 19: "E"}
RESNETS = {18: ("BasicBlock", (2, 2, 2, 2)), 34: ("BasicBlock", (3, 4, 6, 3)), 50: ("Bottleneck", (3, 4, 6, 3))}
"""The kind of block, and how many of them each of the four stages has."""
LARGE = 64


class NamedLayers(nn.Sequential):
    """Layers with names, one after the other: images (B, channels, H, W) -> logits (B, C).

    Convolutions start as in He et al. (2015) and torchvision's VGG and ResNet; else a deep network learns late or never.
    """

    score_kind = "logit"

    def __init__(self, layers: dict[str, nn.Module]):
        super().__init__(OrderedDict(layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return super().forward(x)


def _checked(image_shape: tuple[int, int, int], classes: int) -> None:
    check_number(classes, "classes", low=2, integer=True)
    check_image_shape(image_shape)


class Vgg(NamedLayers):
    """VGG16 or VGG19 with batch normalisation: images (B, channels, H, W) -> logits (B, C).

    The convolutions are torchvision's (Simonyan and Zisserman 2015, configurations D and E). Pools round up, so that images of
    28 pixels pass through all five. One pixel is left of a small image by then, so nothing is pooled to 7 x 7, and the dense
    layers have 512 units in place of 4,096, with batch normalisation in place of dropout.

    Its layers have names: ``conv1`` to ``conv13`` (or ``conv16``), ``pool1`` to ``pool5``, ``dense1``, ``dense2``, ``logits``.
    A convolution and a dense layer are named with their normalisation and ReLU.

    Args:
        depth: 16 or 19.
        image_shape: (channels, H, W).
        classes: C.
        width: every layer has this share of the published number of channels (64 to 512) and units (512).
    """

    def __init__(self, depth: int, image_shape: tuple[int, int, int], classes: int, width: float = 1.0):
        from torchvision.models import vgg  # seconds, which only those who build one should wait

        check_choice(depth, "depth", CONFIGURATIONS)
        check_number(width, "width", low=1 / 64)
        _checked(image_shape, classes)
        plan = [v if v == "M" else round(v * width) for v in vgg.cfgs[CONFIGURATIONS[depth]]]
        layers, convolutions, pools = OrderedDict(), 0, 0
        flat = list(vgg.make_layers(plan, batch_norm=True))
        flat[0] = nn.Conv2d(image_shape[0], plan[0], kernel_size=3, padding=1)
        while flat:
            if isinstance(flat[0], nn.MaxPool2d):
                pools += 1
                layers[f"pool{pools}"] = nn.MaxPool2d(2, stride=2, ceil_mode=True)
                flat = flat[1:]
            else:
                convolutions += 1
                layers[f"conv{convolutions}"] = nn.Sequential(*flat[:3])
                flat = flat[3:]
        layers["flat"] = nn.Flatten()
        left = -(-image_shape[1] // 32) * -(-image_shape[2] // 32)
        units = round(512 * width)
        for k, size in enumerate((plan[-2] * left, units), start=1):
            layers[f"dense{k}"] = nn.Sequential(nn.Linear(size, units), nn.BatchNorm1d(units), nn.ReLU(inplace=True))
        layers["logits"] = nn.Linear(units, classes)
        super().__init__(layers)


def resnet(depth: int, image_shape: tuple[int, int, int], classes: int, width: float = 1.0) -> nn.Module:
    """ResNet18, ResNet34 or ResNet50: images (B, channels, H, W) -> logits (B, C).

    The blocks, the names of the layers and so the names of the weights are torchvision's (He et al. 2016; its bottleneck has
    the stride in the 3x3 convolution). Images of 64 pixels and more a side meet the published start: a 7x7 convolution and a
    max-pool, of stride 2 both. For smaller ones, as is usual, the first convolution is 3x3 of stride 1 and no max-pool
    follows, so that of 32 pixels 4 a side are left.

    Args:
        depth: 18, 34 or 50.
        image_shape: (channels, H, W).
        classes: C.
        width: every layer has this share of the published number of channels (64 to 512, or to 2,048).
    """
    from torchvision.models import resnet as blocks  # seconds, which only those who build one should wait

    check_choice(depth, "depth", RESNETS)
    check_number(width, "width", low=1 / 64)
    _checked(image_shape, classes)
    kind, counts = RESNETS[depth]
    block = getattr(blocks, kind)
    size = round(64 * width)
    large = min(image_shape[1:]) >= LARGE
    first = nn.Conv2d(image_shape[0], size, 7, 2, 3, bias=False) if large else blocks.conv3x3(image_shape[0], size)
    layers = {"conv1": first, "bn1": nn.BatchNorm2d(size), "relu": nn.ReLU(inplace=True)}
    layers |= {"maxpool": nn.MaxPool2d(3, 2, 1)} if large else {}
    for k, count in enumerate(counts):
        stage, planes, stride = [], round(64 * 2**k * width), 1 if k == 0 else 2
        for _ in range(count):
            after, shortcut = planes * block.expansion, None
            if stride != 1 or size != after:
                shortcut = nn.Sequential(blocks.conv1x1(size, after, stride), nn.BatchNorm2d(after))
            stage.append(block(size, planes, stride, shortcut))
            size, stride = after, 1
        layers[f"layer{k + 1}"] = nn.Sequential(*stage)
    layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(size, classes)}
    return NamedLayers(layers)


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each behind its normalisation and ReLU, beside a shortcut: (B, before, H, W) -> (B, after, ...).

    Where the number of channels changes, the shortcut is a 1x1 convolution of the same normalised input.
    """

    def __init__(self, before: int, after: int, stride: int = 1):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = None if before == after else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(h)
        return skip + self.conv2(F.relu(self.norm2(self.conv1(h))))


class WideResNet(NamedLayers):
    """WideResNet (Zagoruyko and Komodakis 2016), WRN-34-10 by default: images (B, channels, H, W) -> logits (B, C).

    One convolution, then ``group1`` to ``group3`` of (depth - 4) / 6 pre-activation blocks each, the second and third of
    which halve the image; no dropout.

    Args:
        image_shape: (channels, H, W).
        classes: C.
        depth: 6 n + 4.
        widen: the groups have 16, 32 and 64 times so many channels.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, depth: int = 34, widen: int = 10):
        count, over = divmod(check_number(depth, "depth", low=10, integer=True) - 4, 6)
        if over:
            raise ValueError(f"depth must be 6 n + 4, such as 16, 28 or 34, got {depth}")
        widen = check_number(widen, "widen", low=1, integer=True)
        _checked(image_shape, classes)
        size, layers = 16, {"conv1": nn.Conv2d(image_shape[0], 16, 3, padding=1, bias=False)}
        for k, after in enumerate((16 * widen, 32 * widen, 64 * widen), start=1):
            first = PreActivationBlock(size, after, stride=1 if k == 1 else 2)
            layers[f"group{k}"] = nn.Sequential(first, *(PreActivationBlock(after, after) for _ in range(count - 1)))
            size = after
        layers |= {"norm": nn.BatchNorm2d(size), "relu": nn.ReLU(inplace=True)}
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "logits": nn.Linear(size, classes)}
        super().__init__(layers)


class Centre(nn.Module):
    """Pixels in [0, 1] -> [-1, 1], same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


class AlexNet(NamedLayers):
    """AlexNet (Krizhevsky et al. 2012) for small images: images (B, channels, H, W) -> logits (B, C).

    Channels, units, dropout and the later kernels are torchvision's (Krizhevsky 2014, in one column). Ours are: a first
    convolution of 3x3 and stride 2 in place of 11x11 and stride 4; padded pools, which round up, so that of 28 and of 32
    pixels 2 a side are left; (x - 0.5) / 0.5 before all, since there is no batch normalisation; the start of the convolutions.
    Dropout, of half of what enters each hidden dense layer, happens in training
    mode only and draws from torch's global generator.

    Its layers have names: ``conv1`` to ``conv5``, each with its ReLU, ``pool1`` to ``pool3``, ``dense1``, ``dense2``, each
    with its dropout and ReLU, ``logits``.

    Args:
        image_shape: (channels, H, W).
        classes: C.
        width: every layer has this share of the published number of channels (64 to 384) and units (4,096).
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: float = 1.0):
        check_number(width, "width", low=1 / 64)
        _checked(image_shape, classes)
        plan, pools = ((64, 3, 2), (192, 5, 1), (384, 3, 1), (256, 3, 1), (256, 3, 1)), {1: "pool1", 2: "pool2", 5: "pool3"}
        size, layers = image_shape[0], {"centre": Centre()}
        for k, (channels, kernel, stride) in enumerate(plan, start=1):
            after = round(channels * width)
            convolution = nn.Conv2d(size, after, kernel, stride, padding=kernel // 2)
            layers[f"conv{k}"] = nn.Sequential(convolution, nn.ReLU(inplace=True))
            if k in pools:
                layers[pools[k]] = nn.MaxPool2d(3, stride=2, padding=1)
            size = after
        layers["flat"] = nn.Flatten()
        size *= -(-image_shape[1] // 16) * -(-image_shape[2] // 16)
        units = round(4096 * width)
        for k in (1, 2):
            layers[f"dense{k}"] = nn.Sequential(nn.Dropout(0.5), nn.Linear(size, units), nn.ReLU(inplace=True))
            size = units
        layers["logits"] = nn.Linear(units, classes)
        super().__init__(layers)


def headless(network: nn.Module) -> tuple[nn.Module, int]:
    """A copy of ``network`` without its last linear layer, and F: the copy turns images into features (B, F).

    The last linear layer is the last in ``network.named_modules()``, and must be what gives the logits. The copy is trained
    as ``network`` would be; for a frozen part of a network see :class:`FeatureTap`.
    """
    linear = [name for name, part in check_model(network, "network").named_modules() if name and isinstance(part, nn.Linear)]
    if not linear:
        raise ValueError(f"network must have a linear layer that gives its logits, got {type(network).__name__} without one")
    trunk = copy.deepcopy(network)
    last = trunk.get_submodule(linear[-1])
    trunk.set_submodule(linear[-1], nn.Identity().train(last.training))
    return trunk, last.in_features


class FeatureTap(nn.Module):
    """A frozen copy of a network up to one layer: images (B, channels, H, W) -> features (B, F), flattened.

    ``backbone`` is any network that torch.fx can trace; ``after`` names one of its modules, such as ``"conv9"`` of a
    :class:`Vgg` (after its ReLU) or ``"layer3"`` of a torchvision ResNet. What comes later is cut off and costs nothing.
    Gradients flow to the image, the weights gather none, and batch normalisation stays as it was trained.

    :meth:`calibrate` divides the features by one number, their root mean square over training images, so that the scale of a
    likelihood over features means the same for every tap.
    """

    def __init__(self, backbone: nn.Module, after: str):
        from torchvision.models.feature_extraction import create_feature_extractor

        super().__init__()
        check_model(backbone, "backbone")
        if after not in dict(backbone.named_modules()) or not after:
            names = ", ".join(name for name, _ in backbone.named_children())
            raise ValueError(f"after must name a module of the backbone, such as {names}; got {after!r}")
        self.body = create_feature_extractor(copy.deepcopy(backbone).eval(), {after: "features"})
        self.register_buffer("scale", torch.ones(()))
        self.requires_grad_(False).train()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)["features"].flatten(1) / self.scale

    def train(self, mode: bool = True) -> FeatureTap:
        return super().train(False)  # frozen: a model that is trained on top must not move its statistics

    def __deepcopy__(self, memo: dict) -> FeatureTap:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update({name: copy.deepcopy(part, memo) for name, part in self.__dict__.items()})
        return twin.train()  # torch.fx hands out its copies in training mode

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> Tensor:
        """Set the scale from training images (N, channels, H, W), float in [0, 1]; return their features (N, F), scaled.

        Raises ``ValueError`` if all features are zero.
        """
        check_images(x)
        if not len(x):
            raise ValueError("x must hold one image or more, got none")
        self.scale.fill_(1.0)
        features, squares = x.new_empty(len(x), self(x[:1]).shape[1]), 0.0
        for start in range(0, len(x), 500):
            part = features[start : start + 500].copy_(self(x[start : start + 500]))
            squares += part.double().square().sum().item()
        if squares == 0:
            raise ValueError("the tapped layer must answer to the images, but all of its features are zero")
        self.scale.fill_(math.sqrt(squares / features.numel()))
        return features.div_(self.scale)


@torch.no_grad()
def features_of(tap: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """F, how many numbers a tap makes of an image of this shape."""
    check_image_shape(image_shape)
    like = next(itertools.chain(tap.parameters(), tap.buffers()), torch.zeros(()))
    with evaluating(tap):
        return tap(like.new_zeros(1, *image_shape)).shape[1]
