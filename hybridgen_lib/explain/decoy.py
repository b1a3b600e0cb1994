"""Pictures whose explanation is known: the label is drawn at random and written on the border, and nowhere else.

An explanation of a real picture cannot be marked right or wrong, since nobody knows what the network looked at. Here it can.
Every class has a small square on the border. All squares are blanked, and that of the label is painted white. The picture in
the middle has nothing to do with the label, so a network that answers right has read the squares: they are the truth.
(The idea of a decoy with a known answer is that of Sturmfels, Lundberg and Lee 2020, who write the class into a pixel.)
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hybridgen_lib.classifier import check_image_shape, check_number
from hybridgen_lib.data import ImageData, check_data

__all__ = ["decoy", "decoy_mask", "decoy_places", "share_inside"]


def decoy_places(image_shape: tuple[int, int, int], classes: int, size: int = 3) -> list[tuple[int, int]]:
    """The top left corner (row, column) of each class's square, evenly along the border of images (channels, H, W).

    Raises ``ValueError`` if so many squares of ``size`` pixels a side do not fit without touching one another.
    """
    _, height, width = check_image_shape(image_shape)
    check_number(classes, "classes", low=2, integer=True)
    check_number(size, "size", low=1, integer=True)
    down, across = height - size, width - size
    places = [_on_border(k * 2 * (down + across) // classes, down, across) for k in range(classes)]
    apart = [max(abs(a - c), abs(b - d)) for (a, b), (c, d) in itertools.combinations(places, 2)]
    if min(down, across) < size or min(apart) <= size:
        raise ValueError(f"size must leave room for {classes} squares on the border of {height}x{width} pixels, got {size}")
    return places


def _on_border(way: int, down: int, across: int) -> tuple[int, int]:
    """Where one is after ``way`` pixels clockwise from the top left corner."""
    if way < across:
        return 0, way
    if way < across + down:
        return way - across, across
    if way < 2 * across + down:
        return down, 2 * across + down - way
    return 2 * (across + down) - way, 0


def decoy(images: ImageData, seed: int = 0, size: int = 3) -> ImageData:
    """The pictures of ``images`` with new labels, drawn at random by ``seed`` and written on the border as white squares.

    Class names and sizes stay; the name gets ``-decoy``. The true explanation of every label is :func:`decoy_mask`.
    """
    check_data(images)
    places = decoy_places(tuple(images.train_x.shape[1:]), len(images.classes), size)
    generator = torch.Generator().manual_seed(check_number(seed, "seed", low=0, integer=True))
    train, test = (_written(x, places, size, generator) for x in (images.train_x, images.test_x))
    return ImageData(*train, *test, classes=images.classes, name=f"{images.name}-decoy")


def _written(x: Tensor, places: list, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x, y = x.clone(), torch.randint(len(places), (len(x),), generator=generator)
    for label, (row, column) in enumerate(places):
        square = x[:, :, row : row + size, column : column + size]
        square.copy_((y == label).view(-1, 1, 1, 1) * torch.full_like(square, 255))
    return x, y


def decoy_mask(image_shape: tuple[int, int, int], classes: int, size: int = 3) -> Tensor:
    """The pixels that hold all that can be known of the label: bool (H, W), true in every class's square."""
    places = decoy_places(image_shape, classes, size)
    mask = torch.zeros(image_shape[1:], dtype=torch.bool)
    for row, column in places:
        mask[row : row + size, column : column + size] = True
    return mask


def share_inside(values: Tensor, mask: Tensor) -> Tensor:
    """How much of an attribution lies where the truth is: for values (B, C, H, W) the share (B,) of their absolute sum inside
    ``mask`` (H, W), after the channels of a pixel are added up.

    1 is a perfect score; what an explanation gets that knows nothing is the mask's share of the image. Where nothing is
    attributed at all the share is 0. Raises ``ValueError`` if the shapes do not fit.
    """
    if not isinstance(values, Tensor) or not isinstance(mask, Tensor) or not values.is_floating_point():
        raise ValueError(
            f"values must be attributions (B, C, H, W), float, and mask bool, got {values!r:.40} and {mask!r:.40}"
        )
    if values.ndim != 4 or mask.dtype != torch.bool or mask.shape != values.shape[2:]:
        raise ValueError(
            f"mask must be bool (H, W) for values (B, C, H, W), got {mask.dtype} {tuple(mask.shape)} for {tuple(values.shape)}"
        )
    size = values.sum(1).abs()
    return (size * mask).sum((1, 2)) / size.sum((1, 2)).clamp_min(torch.finfo(size.dtype).tiny)
