"""What stands in a removed pixel's place: ROAD's noisy linear imputation (Rong et al. 2022; chapter 14).

A hole of one grey shows its shape, and the shape can tell the class. Filled in from its neighbours it tells less.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hybridgen_lib.classifier import check_number

__all__ = ["linear_fill"]

NOISE = 0.01
NEIGHBOURS = tuple(
    ((down, across), 1 / 12 if down and across else 1 / 6) for down in (-1, 0, 1) for across in (-1, 0, 1) if down or across
)
"""ROAD's weights: a pixel is the mean of its eight neighbours, the direct ones counted twice."""


def linear_fill(x: Tensor, removed: Tensor, seed: int = 0) -> Tensor:
    """ROAD's noisy linear imputation of uint8 images (N, channels, H, W) where ``removed`` (N, H, W) is true.

    Every removed pixel is to be the weighted mean of its neighbours (:data:`NEIGHBOURS`; at the border of those there are),
    removed ones included: a sparse linear system in each image, solved exactly. Then noise of 0.01 of the range is added, and
    the result rounded and kept within the range.
    """
    if x.dtype != torch.uint8 or x.ndim != 4:
        raise ValueError(f"x must be uint8 images (N, channels, H, W), got {x.dtype} {tuple(x.shape)}")
    if removed.dtype != torch.bool or removed.shape != (len(x), *x.shape[2:]):
        raise ValueError(
            f"removed must be bool (N, H, W) for images {tuple(x.shape)}, got {removed.dtype} {tuple(removed.shape)}"
        )
    if removed.flatten(1).all(1).any():
        raise ValueError("removed must leave a pixel of every image, to fill the others in from; got an image without")
    noise = torch.Generator().manual_seed(check_number(seed, "seed", low=0, integer=True))
    links = _links(x.shape[2:])
    filled = x.clone()
    for image, hole in zip(tqdm(filled, desc="fill in", disable=None, leave=False), removed, strict=True):
        if hole.any():
            values = _filled(image.flatten(1).double().numpy().T, hole.flatten().numpy(), links)
            values = torch.from_numpy(values.T) + 255 * NOISE * torch.randn(values.T.shape, generator=noise)
            image[:, hole] = values.round().clamp(0, 255).to(torch.uint8)
    return filled


def _links(shape: tuple[int, int]):
    """The weights between all pixels of an image, a sparse matrix (H W, H W) whose rows add up to 1."""
    from scipy import sparse  # half a second, which only those who ask should wait

    place = np.arange(shape[0] * shape[1]).reshape(shape)
    rows, columns, weights = [], [], []
    for (down, across), weight in NEIGHBOURS:
        here = place[max(0, -down) : shape[0] - max(0, down), max(0, -across) : shape[1] - max(0, across)]
        there = place[max(0, down) : shape[0] + min(0, down), max(0, across) : shape[1] + min(0, across)]
        rows.append(here.ravel())
        columns.append(there.ravel())
        weights.append(np.full(here.size, weight))
    where = np.concatenate(rows), np.concatenate(columns)
    links = sparse.csr_array((np.concatenate(weights), where), shape=(place.size, place.size))
    return sparse.diags_array(1 / links.sum(1)) @ links


def _filled(pixels: np.ndarray, hole: np.ndarray, links) -> np.ndarray:
    """What the removed pixels of one image (H W, channels) become: v = W_removed v + W_kept kept."""
    from scipy import sparse
    from scipy.sparse.linalg import splu

    rows = links[hole]
    within = sparse.eye_array(int(hole.sum())) - rows[:, hole]
    return splu(within.tocsc()).solve(rows[:, ~hole] @ pixels[~hole])
