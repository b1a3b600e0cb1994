"""What a recipe is: what to build and how to train it, at each profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from hybridgen_lib.data import ImageData
from hybridgen_lib.training import Objective, fit

__all__ = ["PROFILES", "Recipe", "by_gradient"]

PROFILES = ("quick", "cpu", "paper")

Trainer = Callable[..., list[float]]
"""``train(model, settings, images, *, seed, device, checkpoint, label)`` trains in place and returns its history. A model on
top of another network also gets ``backbone``, that network, trained."""


@dataclass(frozen=True)
class Recipe:
    """What to build and how to train it: ``settings`` by profile; what they mean is ``build`` and ``train``.

    ``on`` holds the settings that are others on a data set, by its name. A setting called ``backbone`` is the name of the
    recipe that the model stands on. All enter the key of the cache.
    """

    version: int
    settings: dict[str, dict]
    build: Callable[[dict, tuple[int, int, int], int], nn.Module]
    train: Trainer
    on: dict[str, dict] = field(default_factory=dict)


def by_gradient(objective: Callable[[dict], Objective]) -> Trainer:
    """Train with :func:`~hybridgen_lib.training.fit`, by the objective that a recipe's settings give."""

    def train(model: nn.Module, settings: dict, images: ImageData, **run) -> list[float]:
        schedule = {key: settings[key] for key in ("epochs", "batch_size", "learning_rate", "final_learning_rate")}
        count = settings.get("images") or len(images.train_x)
        return fit(model, objective(settings), images.train_x[:count], images.train_y[:count], **schedule, **run)

    return train
