"""Named image data sets: ``load("fashion-mini")`` gives uint8 images and integer labels, checked, from wherever they are.

``fashion-mini`` lies inside the package and needs nothing. The others are looked for in this order: ``root``, the folder
named by HYBRIDGEN_DATA, an earlier download, Debian's package (Fashion-MNIST), torchvision's own download. A file that is
there but is not what it should be stops the search with an error: no data set is ever silently smaller or another one.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..classifier import check_labels
from .folders import content_key, decode

__all__ = ["NAMES", "ImageData", "as_float", "cache_folder", "check_data", "load"]

_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_MINI_SHA256 = "bb156b564e1b62adf42140ae545a8a60da5f623355770de1884064d2552fa564"
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts its four .gz files

# IDX files: folder under a data root, torchvision's class, class names, and the md5 of each file once unpacked.
_IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_IDX = {
    "mnist": (
        "MNIST/raw", "MNIST", tuple("0123456789"),
        ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
         "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    ),
    "fashion-mnist": (
        "FashionMNIST/raw", "FashionMNIST", _FASHION,
        ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9",
         "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
}  # fmt: skip
_CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # torchvision's classes know folder, files and md5s

# Image folders: names to look for under a data root, (classes, train and test images a class), (C, H, W), sha256, source.
_FOLDERS = {
    "tiny-imagenet": (
        ("tiny-imagenet-200", "tiny-imagenet-200.zip"), (200, 500, 50), (3, 64, 64), None,
        "the official archive is http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    ),
    "tiny-imagenet-32": (
        ("tiny-imagenet-32-jpeg.tar.gz",), (200, 500, 50), (3, 32, 32),
        "3a7375d67a53bd3d7cfaf4a1352c3a5065afacff59edc567171f738e9c40ccf5",
        "it is Tiny-ImageNet scaled to 32x32 and stored as JPEG",
    ),
    "cifar10-jpeg": (
        ("cifar10-jpeg.tar.gz",), (10, 5000, 1000), (3, 32, 32),
        "22e456d8c32cff91b0f5e512141cc41a5482cde5ff8841f1fc763b26e2a532f8", "it is CIFAR-10 stored as JPEG, quality 75",
    ),
}  # fmt: skip

NAMES = ("fashion-mini", *_IDX, *_CIFAR, *_FOLDERS)
"""The data sets :func:`load` knows by name; ``folder:<path>`` reads any other."""


@dataclass(frozen=True, repr=False, eq=False)
class ImageData:
    """A data set in memory: uint8 images (N, channels, H, W), int64 labels (N,), class names, and what it is called.

    Raises ``ValueError`` if shapes, types or labels do not fit each other.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self):
        for split, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            if not isinstance(x, Tensor) or x.dtype != torch.uint8 or x.ndim != 4 or len(x) == 0:
                got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(f"{split}_x must be uint8 (N, channels, H, W), N >= 1; got {got}")
            check_labels(y, classes=len(self.classes), images=len(x), name=f"{split}_y")
            if y.dtype != torch.int64:
                raise ValueError(f"{split}_y must be int64, got {y.dtype}")
        if self.train_x.shape[1:] != self.test_x.shape[1:]:
            shapes = tuple(self.train_x.shape[1:]), tuple(self.test_x.shape[1:])
            raise ValueError(f"test_x must have the image shape of train_x, {shapes[0]}; got {shapes[1]}")

    @cached_property
    def checksum(self) -> str:
        """The first 16 hex digits of the sha256 of images, labels and class names: what was really used, whatever its name."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for part in (self.train_x, self.train_y, self.test_x, self.test_y):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            digest.update(part.contiguous().numpy())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        size = "x".join(map(str, self.train_x.shape[1:]))
        counts = f"{len(self.train_x):,} + {len(self.test_x):,} images {size}"
        return f"ImageData({self.name!r}: {counts}, {len(self.classes)} classes, {self.checksum})"


def check_data(images: ImageData, name: str = "images") -> ImageData:
    """Return ``images`` if it is an ``ImageData``; else raise ``ValueError``."""
    if not isinstance(images, ImageData):
        raise ValueError(f"{name} must be an ImageData, as data.load gives it; got {type(images).__name__}")
    return images


def as_float(x: Tensor) -> Tensor:
    """Images as models want them: uint8 of any shape, 0..255, becomes float32 in [0, 1] (divided by 255)."""
    if not isinstance(x, Tensor) or x.dtype != torch.uint8:
        raise ValueError(f"x must be a uint8 tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    return x.to(torch.float32) / 255


def cache_folder() -> Path:
    """Where decoded folders and downloads are kept: ``data`` under HYBRIDGEN_CACHE if that is set, else under ``build``.

    ``build`` is that of the clone this file lies in, whichever folder a notebook runs in; installed, that of the current one.
    """
    clone = Path(__file__).resolve().parents[2]
    build = clone / "build" if (clone / "pyproject.toml").exists() else Path("build")
    return Path(os.environ.get("HYBRIDGEN_CACHE") or build).expanduser() / "data"


def load(name: str, root: str | Path | None = None) -> ImageData:
    """The data set called ``name``: one of :data:`NAMES`, or ``folder:<path>``.

    ``folder:<path>`` is a folder, or a tar or zip archive of one (read without unpacking), that holds ``train/<class>/...``
    and ``test/<class>/...`` (or ``val/``); labels follow the sorted class names. It is decoded once and cached, keyed by
    its contents. ``root`` is a data root to look in first; ``fashion-mini`` needs none.

    Raises ``ValueError`` for an unknown name, a root that is no folder, or a file that is not what it should be (it names
    the file), and ``FileNotFoundError`` for data that is nowhere: it says what was tried and how to go on.
    """
    if not isinstance(name, str) or not (name in NAMES or name.startswith("folder:")):
        raise ValueError(f"name must be one of {', '.join(NAMES)}, or folder:<path>; got {name!r}")
    if name == "fashion-mini":
        return _load_mini()
    if name.startswith("folder:"):
        path = Path(name.removeprefix("folder:")).expanduser()
        if name == "folder:" or not path.exists():
            raise FileNotFoundError(f"name {name!r}: there is no folder or archive {str(path)!r}")
        return _read_folder(path, name)
    roots = _roots(root)
    if name in _FOLDERS:
        return _load_named_folder(name, roots)
    relative, read = _reader(name)
    places = [place / relative for place in roots] + ([_DEBIAN] if name == "fashion-mnist" else [])
    for place in places:
        if place.is_dir():
            return read(place)
    return read(_download(name, roots[0] if root is not None else cache_folder(), relative, places))


# ---------------------------------------------------------------- where things are


def _roots(root) -> list[Path]:
    """The data roots in the order in which they are searched; a root that was asked for must be a folder."""
    asked = {"root": root, "HYBRIDGEN_DATA": os.environ.get("HYBRIDGEN_DATA") or None}
    for source, place in asked.items():
        if place is not None and not Path(place).expanduser().is_dir():
            raise ValueError(f"{source} must name a folder that exists, got {str(place)!r}")
    return [Path(place).expanduser() for place in asked.values() if place is not None] + [cache_folder()]


def _download(name: str, root: Path, relative: str, tried: list[Path]) -> Path:
    """Download ``name`` with torchvision into ``root``: beside it first, then renamed, so a killed download leaves nothing."""
    from torchvision import datasets  # seconds to import, and only a download or CIFAR needs it

    top = Path(relative).parts[0]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as fresh:
            getattr(datasets, _IDX[name][1] if name in _IDX else _CIFAR[name])(fresh, download=True)
            os.replace(Path(fresh) / top, root / top)
    except Exception as error:  # no network, no permission, a bad mirror: all end in the same advice
        if (root / relative).is_dir():  # another process was faster
            return root / relative
        raise FileNotFoundError(
            f"{name} is in none of {', '.join(map(str, tried))}, and the download into {root} failed ({error}). "
            f"Put it at <folder>/{relative} and set HYBRIDGEN_DATA=<folder>, or use data 'fashion-mini', which needs nothing."
        ) from error
    return root / relative


def _checked(path: Path, want: str, kind: str = "md5") -> bytes:
    """The bytes of a file, unpacked if only its .gz is there, if their checksum is the official one."""
    source = path if path.exists() else path.with_name(path.name + ".gz")
    if not source.exists():
        raise FileNotFoundError(f"{path} is missing (nor is there {source.name}); restore it or remove {path.parent}")
    try:
        content = gzip.decompress(source.read_bytes()) if source.suffix == ".gz" != path.suffix else source.read_bytes()
        got = hashlib.new(kind, content).hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        content, got = b"", f"unreadable ({error})"
    if got != want:
        raise ValueError(f"{source} is not the official file: expected {kind} {want}, got {got}; delete it and get it again")
    return content


# ---------------------------------------------------------------- readers


def _load_mini() -> ImageData:
    path = files("hybridgen_lib") / "data" / "fashion_mini.npz"
    content = _checked(Path(str(path)), _MINI_SHA256, "sha256")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        parts = [torch.from_numpy(arrays[key]) for key in ("train_x", "train_y", "test_x", "test_y")]
    return ImageData(parts[0], parts[1].long(), parts[2], parts[3].long(), _FASHION, "fashion-mini")


def _reader(name: str):
    """Where a data set of torchvision lies under a root, and a function from that folder to ``ImageData``."""
    if name in _IDX:
        relative, _, classes, sums = _IDX[name]

        def read_idx(place: Path) -> ImageData:
            contents = [_checked(place / file, md5) for file, md5 in zip(_IDX_FILES, sums, strict=True)]
            arrays = [torch.frombuffer(bytearray(c[16:] if i % 2 == 0 else c[8:]), dtype=torch.uint8)
                      for i, c in enumerate(contents)]  # fmt: skip
            x, y = [a.view(-1, 1, 28, 28) for a in arrays[::2]], [a.long() for a in arrays[1::2]]
            return ImageData(x[0], y[0], x[1], y[1], classes, name)

        return relative, read_idx

    from torchvision import datasets

    kind = getattr(datasets, _CIFAR[name])

    def read_cifar(place: Path) -> ImageData:
        for file, md5 in [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]:
            _checked(place / file, md5)  # before torchvision unpickles it
        train, test = (kind(place.parent, train=part) for part in (True, False))
        x = [torch.from_numpy(s.data).permute(0, 3, 1, 2).contiguous() for s in (train, test)]
        y = [torch.tensor(s.targets) for s in (train, test)]
        return ImageData(x[0], y[0], x[1], y[1], tuple(train.classes), name)

    return kind.base_folder, read_cifar


def _load_named_folder(name: str, roots: list[Path]) -> ImageData:
    candidates, (classes, train, test), shape, sha256, source = _FOLDERS[name]
    found = next((r / c for r in roots for c in candidates if (r / c).exists()), None)
    if found is None:
        raise FileNotFoundError(
            f"{name} is in none of {', '.join(map(str, roots))}: expected {' or '.join(candidates)} there; {source}. "
            "Put it into a folder and set HYBRIDGEN_DATA=<folder>, or use data 'fashion-mini', which needs nothing."
        )
    data = _read_folder(found, name, sha256)
    for part, y, each in (("train", data.train_y, train), ("test", data.test_y, test)):
        counts = torch.bincount(y, minlength=len(data.classes))
        if len(counts) != classes or (counts != each).any():
            worst = int((counts - each).abs().argmax())
            raise ValueError(
                f"{found} is not {name}: its {part} split must hold {classes} classes of {each} images, "
                f"got {len(counts)} classes and {int(counts[worst])} images of {data.classes[worst]!r}; {source}"
            )
    if tuple(data.train_x.shape[1:]) != shape:
        raise ValueError(f"{found} is not {name}: images must be {shape}, got {tuple(data.train_x.shape[1:])}; {source}")
    return data


# ---------------------------------------------------------------- folders and archives of images, decoded once


def _read_folder(path: Path, name: str, sha256: str | None = None) -> ImageData:
    """A folder or archive as ``ImageData``: decoded, or from the cache where the same bytes were decoded before."""
    try:
        key = content_key(path)
        if sha256 is not None and key != sha256:
            raise ValueError(f"{path} is not {name}: expected sha256 {sha256}, got {key}; get it again")
        cached = cache_folder() / f"folder-{key[:32]}.npz"
        if cached.exists():
            try:
                with np.load(cached, allow_pickle=False) as arrays:
                    return _mixed(_from_arrays(arrays, name))
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
                pass  # a damaged cache is decoded anew and replaced
        arrays = decode(path)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read: truncated, damaged or no folder, tar or zip archive ({error})") from error
    data = _from_arrays(arrays, name)
    cached.parent.mkdir(parents=True, exist_ok=True)
    part = cached.with_name(f".{os.getpid()}-{cached.name}")
    np.savez(part, **arrays)
    os.replace(part, cached)
    return _mixed(data)


def _mixed(data: ImageData) -> ImageData:
    """The same images in an order fixed once for all: by file name the first thousand would be of one class."""
    source = torch.Generator().manual_seed(0)
    train, test = (torch.randperm(len(y), generator=source) for y in (data.train_y, data.test_y))
    return replace(
        data, train_x=data.train_x[train], train_y=data.train_y[train], test_x=data.test_x[test], test_y=data.test_y[test]
    )


def _from_arrays(arrays, name: str) -> ImageData:
    x = [torch.from_numpy(arrays[f"{part}_x"]) for part in ("train", "test")]
    y = [torch.from_numpy(arrays[f"{part}_y"]) for part in ("train", "test")]
    return ImageData(x[0], y[0], x[1], y[1], tuple(map(str, arrays["classes"])), name)
