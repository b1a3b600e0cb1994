"""A folder or archive of images, ``train/<class>/...`` and ``test/<class>/...`` (or ``val/``), read into arrays.

A tar or zip is read without unpacking it. Whatever does not fit (a class without images, a broken file, two sizes) is an error
that names the file: an image is never left out in silence.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

__all__ = ["content_key", "decode"]

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff"}
_NOTES = {".txt", ".md", ".csv", ".json", ".xml"}  # may lie among the images (boxes, licences); anything else is an error


@contextmanager
def _opened(path: Path):
    """The names of all files in a folder or archive, in an order that is cheap to read, and a function name -> bytes."""
    if path.is_dir():
        found = [Path(top) / file for top, _, names in os.walk(path, followlinks=True) for file in names]
        yield sorted(p.relative_to(path).as_posix() for p in found), lambda n: (path / n).read_bytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield [n for n in archive.namelist() if not n.endswith("/")], archive.read
    else:
        with tarfile.open(path) as archive:
            members = [m for m in archive if not m.isdir()]
            archive.fileobj.seek(archive.offset)
            if len(archive.fileobj.read(512)) < 512:  # tarfile takes a missing end for the end
                raise tarfile.ReadError("the archive stops before its end mark")
            by_name = {m.name: m for m in members}

            def read(name: str) -> bytes:
                try:
                    return archive.extractfile(by_name[name]).read()
                except (KeyError, AttributeError) as error:
                    raise tarfile.ReadError(f"{name} is a link to nothing, or no file") from error

            yield [m.name for m in members], read


def content_key(path: Path) -> str:
    """sha256 of an archive's bytes, or of all names and bytes of a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    with _opened(path) as (names, read):
        for name in names:
            digest.update(f"{name}\0{hashlib.sha256(read(name)).hexdigest()}\n".encode())
    return digest.hexdigest()


def _sorted_into_splits(path: Path, names: list[str], read) -> dict[str, dict[str, str]]:
    """{split: {file name: class}} for train, and for the labelled one of test and val, called test."""
    splits: dict[str, dict[str, str]] = {"train": {}, "test": {}, "val": {}}
    annotations: dict[str, str] = {}
    prefixes = set()
    for name in names:
        parts = [p for p in name.split("/") if p not in ("", ".")]
        at = next((i for i, p in enumerate(parts[:2]) if p in splits), None)  # one folder around train/ is allowed
        if at is None or any(p.startswith(".") or p == "__MACOSX" for p in parts):
            continue
        prefixes.add(tuple(parts[:at]))
        if parts[-1] == "val_annotations.txt":  # the official Tiny-ImageNet keeps val/images flat, labelled by this table
            annotations = dict(line.split("\t")[:2] for line in read(name).decode().splitlines())
        elif Path(name).suffix.lower() in _IMAGES and len(parts) >= at + 3:
            splits[parts[at]][name] = parts[at + 1]
        elif Path(name).suffix.lower() not in _NOTES:
            raise ValueError(f"{path}: {name} is no image in a class folder ({parts[at]}/<class>/<image>)")
    if len(prefixes) > 1:
        raise ValueError(f"{path} holds more than one data set: train/, test/ or val/ in {sorted(map('/'.join, prefixes))}")
    if annotations:
        unlabelled = [n for n in splits["val"] if n.split("/")[-1] not in annotations]
        if unlabelled or len(splits["val"]) != len(annotations):
            what = unlabelled[0] if unlabelled else f"{len(annotations)} lines for {len(splits['val'])} images"
            raise ValueError(f"{path}: val_annotations.txt does not fit val/images ({what})")
        splits["test"] = {n: annotations[n.split("/")[-1]] for n in splits["val"]}
    splits["test"] = splits["test"] or splits["val"]
    train, test = (set(splits[part].values()) for part in ("train", "test"))
    if not train or train != test:
        odd = ", ".join(sorted(train ^ test)[:5]) or "there are no images"
        raise ValueError(f"{path}: train/ and test/ (or val/) must hold images of the same classes; {odd}")
    return {part: splits[part] for part in ("train", "test")}


def decode(path: Path) -> dict[str, np.ndarray]:
    """All images of a folder or archive as uint8 arrays (N, C, H, W), sorted by file name, with labels and class names."""
    with _opened(path) as (names, read):
        if len(set(names)) != len(names):
            raise ValueError(f"{path} holds a file twice: {next(n for n in names if names.count(n) > 1)}")
        splits = _sorted_into_splits(path, names, read)
        wanted = splits["train"].keys() | splits["test"].keys()
        images = {n: _decode_image(path, n, read(n)) for n in names if n in wanted}  # in reading order: tars do not seek
    classes = sorted(set(splits["train"].values()))
    first, size = next((name, image.shape[:2]) for name, image in images.items())
    for name, image in images.items():
        if image.shape[:2] != size:
            raise ValueError(f"{path}: all images must have one size; {first} is {size}, {name} is {image.shape[:2]}")
    colour = any(image.ndim == 3 for image in images.values())
    arrays = {"classes": np.array(classes)}
    for part, labels in splits.items():
        order = sorted(labels)
        x = np.empty((len(order), 3 if colour else 1, *size), np.uint8)
        for i, name in enumerate(order):
            image = images.pop(name)
            x[i] = image.transpose(2, 0, 1) if image.ndim == 3 else image  # a grey image among colours: thrice the same
        arrays[f"{part}_x"] = x
        arrays[f"{part}_y"] = np.array([classes.index(labels[name]) for name in order], np.int64)
    return arrays


def _decode_image(path: Path, name: str, content: bytes) -> np.ndarray:
    """One image file as uint8 (H, W) if it is grey, else (H, W, 3)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode in ("1", "L", "LA"):
                return np.asarray(image.convert("L"))
            if image.mode in ("P", "RGB", "RGBA", "CMYK", "YCbCr"):
                return np.asarray(image.convert("RGB"))
            raise ValueError(f"its pixels are {image.mode}, not 8 bit grey or colour")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: {name} cannot be decoded ({error})") from error
