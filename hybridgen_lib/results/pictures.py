"""Pictures of a full-scale run, kept beside its numbers as one small PNG: what a table cannot say of an image."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from hybridgen_lib.classifier import check_images
from hybridgen_lib.results.files import file_of, folder

__all__ = ["Sheet", "picture_of", "record_pictures"]


class Sheet(NamedTuple):
    """Rows and columns of images: ``images`` (R, K, channels, H, W) float in [0, 1], and what each column shows."""

    images: Tensor
    columns: tuple[str, ...]


def record_pictures(sheet: Sheet, beside: Path) -> Path:
    """Write the images side by side into a PNG next to the result file ``beside``; the PNG says how to cut them apart.

    Raises ``ValueError`` if they are not (R, K, channels, H, W) with a word for each of K columns, or not in [0, 1].
    """
    images = sheet.images
    if images.ndim != 5 or images.shape[1] != len(sheet.columns) or images.shape[2] not in (1, 3):
        raise ValueError(f"images must be (R, {len(sheet.columns)}, 1 or 3, H, W), got {tuple(images.shape)}")
    check_images(images.flatten(0, 1), "images")
    rows, columns, channels, height, width = images.shape
    pixels = (images * 255).round().to(torch.uint8).permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    about = PngInfo()
    about.add_text("sheet", json.dumps({"shape": list(images.shape), "columns": list(sheet.columns)}))
    path = beside.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}-{path.name}")
    Image.fromarray(pixels.numpy().squeeze(-1) if channels == 1 else pixels.numpy()).save(
        part, "PNG", pnginfo=about, optimize=True
    )
    part.replace(path)
    return path


def picture_of(key: Mapping, root: str | Path | None = None) -> Sheet | None:
    """The pictures beside a recorded run, to the nearest of 256 grey values; None if there are none.

    ``key`` is any row of :func:`results.load` that belongs to the run, such as ``rows.iloc[0]``.
    """
    path = (folder(root) / file_of(key)).with_suffix(".png")
    if not path.exists():
        return None
    with Image.open(path) as picture:
        about = json.loads(picture.text["sheet"])
        pixels = torch.from_numpy(np.array(picture))
    rows, columns, channels, height, width = about["shape"]
    images = pixels.reshape(rows, height, columns, width, channels).permute(0, 2, 4, 1, 3)
    return Sheet(images.float() / 255, tuple(about["columns"]))
