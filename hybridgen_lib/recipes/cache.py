"""The trained models: built by a recipe, kept in a cache, trained where they are not there yet.

The key of the cache is made of the recipe's name, its version, its settings, the checksum of the data and the seed. Editing
any other code retrains nothing; whoever changes what a recipe means raises its version.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hybridgen_lib import data as datasets
from hybridgen_lib.classifier import check_choice, check_image_shape, check_number
from hybridgen_lib.evaluation import fraction_right
from hybridgen_lib.measurement import Outcomes
from hybridgen_lib.recipes.causalib import CAUSALIB
from hybridgen_lib.recipes.deepbayes import DEEPBAYES
from hybridgen_lib.recipes.hybrid import BACKBONES, HYBRID
from hybridgen_lib.recipes.recipe import PROFILES, Recipe
from hybridgen_lib.recipes.robust import ROBUST
from hybridgen_lib.recipes.zoo import ZOO

__all__ = ["RECIPES", "build", "cache_path", "choose_device", "clean_outcomes", "fingerprint", "recipe_of", "trained"]

MAY_BE_ZERO = ("epochs", "images", "shift", "held_out")
"""Whole-number settings for which 0 means something: no training, all images, no augmentation, none held out."""
RECIPES: dict[str, Recipe] = {**DEEPBAYES, **ZOO, **ROBUST, **HYBRID, **CAUSALIB}


def recipe_of(name: str) -> tuple[str, dict]:
    """The recipe and the changes that a name such as ``"hybrid-deep@code=16,weight=published"`` speaks of."""
    if not isinstance(name, str):
        raise ValueError(f"name must be one of {', '.join(RECIPES)}; got {name!r}")
    recipe, _, rest = name.partition("@")
    changes = {}
    for part in filter(None, rest.split(",")):
        setting, equals, value = part.partition("=")
        if not equals or setting in changes:
            raise ValueError(f"name must read recipe@setting=value,setting=value, each setting once; got {name!r}")
        changes[setting] = _value(value)
    return check_choice(recipe, "name", RECIPES), changes


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _settings(name: str, profile: str, changes: dict, data: str | None = None) -> dict:
    changes = dict(changes)
    recipe = RECIPES[check_choice(name, "name", RECIPES)]
    settings = {**recipe.settings[check_choice(profile, "profile", PROFILES)], **recipe.on.get(data, {})}
    for change, value in changes.items():
        check_choice(change, f"setting of {name!r}", settings)
        if isinstance(settings[change], str):  # a word; which there are, the model's class knows
            if change == "backbone":
                check_choice(value, "backbone", BACKBONES)
            continue
        whole = isinstance(settings[change], int)
        check_number(value, change, low=1 if whole and change not in MAY_BE_ZERO else 0, integer=whole)
        changes[change] = type(settings[change])(value)  # 2 and 2.0 are one setting, and one key of the cache
    return {**settings, **changes}


def build(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int,
    profile: str = "quick",
    seed: int = 0,
    data: str | None = None,
    **changes,
) -> nn.Module:
    """The untrained model of a recipe, its weights drawn from ``seed``; the global random state is left as it was.

    ``data`` names the data set it is for, where a recipe has other settings for some.
    """
    name, changes = _with_changes(name, changes)
    settings = _settings(name, profile, changes, data)
    seed = check_number(seed, "seed", low=0, integer=True)
    check_number(classes, "classes", low=2, integer=True)
    check_image_shape(image_shape)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach every GPU
        return RECIPES[name].build(settings, tuple(image_shape), classes)


def _with_changes(name: str, changes: dict) -> tuple[str, dict]:
    name, said = recipe_of(name)
    return name, {**said, **changes}


def cache_path(
    name: str, data: datasets.ImageData, profile: str = "quick", seed: int = 0, folder: str | Path | None = None, **changes
) -> Path:
    """Where ``trained`` keeps this model: in ``folder``, else under ``HYBRIDGEN_CACHE``, by default ``build/models``."""
    name, changes = _with_changes(name, changes)
    seed = check_number(seed, "seed", low=0, integer=True)
    settings = _settings(name, profile, changes, _image_data(data).name)
    parts = [name, RECIPES[name].version, settings, data.checksum, seed]
    if "backbone" in settings:
        parts.append(cache_path(settings["backbone"], data, profile, seed, width=settings["width"]).stem)
    key = json.dumps(parts, sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    folder = folder or os.environ.get("HYBRIDGEN_CACHE") or datasets.cache_folder().with_name("models")
    return Path(folder).expanduser() / f"{name}-{Path(data.name).name}-{profile}-s{seed}-{digest}.safetensors"


def fingerprint(model: nn.Module) -> str:
    """12 hex digits of the sha256 of a model's weights and buffers, by which one sees whether two runs had the same ones."""
    digest = hashlib.sha256()
    for name, part in sorted(model.state_dict().items()):
        digest.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
        digest.update(part.detach().cpu().contiguous().numpy())
    return digest.hexdigest()[:12]


def _images(data, root) -> datasets.ImageData:
    if isinstance(data, str):
        return datasets.load(data, root)
    return _image_data(data, "the name of a data set or an ImageData")


def _image_data(data, wanted: str = "an ImageData") -> datasets.ImageData:
    if not isinstance(data, datasets.ImageData):
        raise ValueError(f"data must be {wanted}, got {type(data).__name__}")
    return data


def choose_device(device: str = "auto") -> torch.device:
    """``"auto"`` is the GPU where torch finds one, else the CPU. Raises ``ValueError`` for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be auto, cpu or cuda, got {device!r}") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device must be one that is there: torch finds {torch.cuda.device_count()} GPUs, got {device!r}")
    return place


def trained(
    name: str,
    data: str | datasets.ImageData = "fashion-mini",
    profile: str = "quick",
    seed: int = 0,
    root: str | Path | None = None,
    device: str = "auto",
    folder: str | Path | None = None,
    **changes,
) -> nn.Module:
    """The trained model of a recipe, in evaluation mode: out of the cache, or trained where it stands and then kept.

    Args:
        name: a recipe, such as ``"gfz"`` (``RECIPES`` lists them), with changes or without: ``"gfz@code=16"``.
        data: a data set by name, or one already loaded.
        profile: ``"quick"``, ``"cpu"`` or ``"paper"``.
        seed: of its first weights and of its training.
        root: where the data set lies (see :func:`hybridgen_lib.data.load`).
        device: see :func:`choose_device`.
        folder: where the model is kept, and what it stands on, by default in the cache.
        changes: settings of the recipe to change, such as ``code=16``; they enter the key of the cache.

    A killed training leaves a checkpoint of its last epoch; the next call goes on from there. Raises ``ValueError``, before
    data are read, for an argument that is none.
    """
    name, changes = _with_changes(name, changes)
    _settings(name, profile, changes)  # a wrong argument is named before data are read
    seed = check_number(seed, "seed", low=0, integer=True)
    place = choose_device(device)
    images = _images(data, root)
    settings = _settings(name, profile, changes, images.name)
    model = build(name, images.train_x.shape[1:], len(images.classes), profile, seed, images.name, **changes)
    path = cache_path(name, images, profile, seed, folder, **changes)
    if not path.exists():
        start = time.perf_counter()
        partial = path.with_suffix(".partial")
        run = {"seed": seed, "device": place, "checkpoint": partial, "label": f"{name} on {images.name}"}
        if "backbone" in settings:
            below = {"device": device, "folder": folder, "width": settings["width"]}
            run["backbone"] = trained(settings["backbone"], images, profile, seed, **below)
        history = RECIPES[name].train(model, settings, images, **run)
        note = {"recipe": name, "version": RECIPES[name].version, "settings": settings, "data": images.name, "seed": seed}
        note |= {"objective": history, "seconds": round(time.perf_counter() - start, 1), "torch": torch.__version__}
        _save(model, path, note)
        for checkpoint in path.parent.glob(f"{glob.escape(path.stem)}*.partial"):  # a recipe may have one for each stage
            checkpoint.unlink(missing_ok=True)
    with safe_open(path, framework="pt") as file:
        model.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 (not a dict)
    return model.to(place).eval()


def clean_outcomes(
    name: str,
    data: str | datasets.ImageData = "fashion-mini",
    profile: str = "quick",
    seed: int = 0,
    root: str | Path | None = None,
    device: str = "auto",
    **changes,
) -> Outcomes:
    """Which of the first 1,000 test images :func:`trained` classifies right, one draw each; kept beside the model."""
    name, changes = _with_changes(name, changes)
    images = _images(data, root)
    weights = cache_path(name, images, profile, seed, **changes)
    path = weights.with_suffix(".json")
    if not (path.exists() and weights.exists()):
        model = trained(name, images, profile, seed, device=device, **changes)
        count = min(1_000, len(images.test_x))
        x = datasets.as_float(images.test_x[:count]).to(choose_device(device))
        right = fraction_right(model, x, images.test_y[:count].to(x.device))
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(Outcomes(list(range(count)), right).to_dict()))
        os.replace(temporary, path)
    return Outcomes.from_dict(json.loads(path.read_text()))


def _save(model: nn.Module, path: Path, note: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)  # what weights before these got right
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, temporary, metadata={"note": json.dumps(note)})
    os.replace(temporary, path)
