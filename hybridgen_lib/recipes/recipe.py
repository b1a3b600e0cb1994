"""What a recipe is: what to build and how to train it, at each profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from hybridgen_lib.data import ImageData, as_float
from hybridgen_lib.training import Objective, Selection, fit

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


SCHEDULE = ("epochs", "batch_size", "learning_rate", "final_learning_rate", "peak")


def by_gradient(
    objective: Callable[[dict], Objective], select: Callable[[dict, Tensor, Tensor], Selection] | None = None
) -> Trainer:
    """Train with :func:`~hybridgen_lib.training.fit`, by the objective that a recipe's settings give.

    ``select`` makes of settings, images and labels what chooses the epoch to keep. The images are the last ``held_out`` of
    the training set (a setting), which are then not trained on.
    """

    def train(model: nn.Module, settings: dict, images: ImageData, *, device, **run) -> list[float]:
        schedule = {key: settings[key] for key in SCHEDULE if key in settings}
        x, y, held = images.train_x, images.train_y, settings.get("held_out", 0)
        if held >= len(x):
            raise ValueError(f"held_out must be fewer than the {len(x)} training images, got {held}")
        if held:
            apart, labels = as_float(x[-held:]).to(device), y[-held:].to(device)
            x, y, schedule["select"] = x[:-held], y[:-held], select(settings, apart, labels)
        count = settings.get("images") or len(x)
        return fit(model, objective(settings), x[:count], y[:count], device=device, **schedule, **run)

    return train
