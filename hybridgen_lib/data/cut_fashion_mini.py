"""Cut ``fashion_mini.npz`` out of the official Fashion-MNIST files: 6,000 training and 1,000 test images.

    HYBRIDGEN_DATA=<folder with FashionMNIST/raw> python -m hybridgen_lib.data.cut_fashion_mini

Training images come from the official training set, test images from the official test set, 600 and 100 of each class.
Which ones is decided by the sha256 of their position, so the choice depends on no library's random numbers. Classes take
turns (position i shows class i mod 10): every first n images are as balanced as n allows.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np

from ..data import load

__all__ = ["chosen", "main"]

SEED = "fashion-mini 1"
COUNTS = {"train": 6000, "test": 1000}


def chosen(labels, split: str, classes: int = 10) -> np.ndarray:
    """Positions (COUNTS[split],) in the official split: the same number of each class, the classes taking turns."""
    order = sorted(range(len(labels)), key=lambda i: hashlib.sha256(f"{SEED}/{split}/{i}".encode()).digest())
    labels = np.asarray(labels)[order]
    each = COUNTS[split] // classes
    by_class = np.stack([np.asarray(order)[labels == c][:each] for c in range(classes)], axis=1)
    return by_class.reshape(-1)


def main() -> str:
    """Write the file beside this script (to a temporary name first); return the sha256 that ``load`` expects of it."""
    target = Path(__file__).with_name("fashion_mini.npz")
    full = load("fashion-mnist")
    arrays = {}
    for split, x, y in (("train", full.train_x, full.train_y), ("test", full.test_x, full.test_y)):
        index = chosen(y.numpy(), split)
        arrays |= {f"{split}_x": x.numpy()[index], f"{split}_y": y.numpy()[index].astype(np.uint8)}
        arrays[f"{split}_index"] = index.astype(np.int32)
    part = target.with_suffix(".part.npz")
    np.savez_compressed(part, **arrays)
    os.replace(part, target)
    return hashlib.sha256(target.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(print(main()))
