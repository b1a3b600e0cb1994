"""Feature extractors: VGG for small images, and a tap that reads any network in the middle.

The layers are torchvision's (Simonyan and Zisserman 2015, configurations D and E, with batch normalisation). Two things
differ: pools round up, so that images of 28 pixels pass through all five, and the dense layers have 512 units in place of
4,096, since one pixel is left of a small image by then.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from hybridgen_lib.classifier import check_choice, check_images, check_model, check_number

__all__ = ["FeatureTap", "Vgg", "features_of"]

CONFIGURATIONS = {16: "D", 19: "E"}


class Vgg(nn.Sequential):
    """VGG16 or VGG19 with batch normalisation: images (B, channels, H, W) -> logits (B, C).

    Its layers have names: ``conv1`` to ``conv13`` (or ``conv16``), ``pool1`` to ``pool5``, ``dense1``, ``dense2``, ``logits``.
    A convolution and a dense layer are named with their normalisation and ReLU.

    Args:
        depth: 16 or 19.
        image_shape: (channels, H, W).
        classes: C.
        width: every layer has this share of the published number of channels (64 to 512) and units (512).
    """

    score_kind = "logit"

    def __init__(self, depth: int, image_shape: tuple[int, int, int], classes: int, width: float = 1.0):
        from torchvision.models import vgg  # seconds, which only those who build one should wait

        check_choice(depth, "depth", CONFIGURATIONS)
        check_number(width, "width", low=1 / 64)
        check_number(classes, "classes", low=2, integer=True)
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise ValueError(f"image_shape must be (channels, H, W), got {tuple(image_shape)}")
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
        for module in self.modules():  # torchvision's start, without which 13 layers learn late or never
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return super().forward(x)


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
    like = next(itertools.chain(tap.parameters(), tap.buffers()), torch.zeros(()))
    return tap(like.new_zeros(1, *image_shape)).shape[1]
