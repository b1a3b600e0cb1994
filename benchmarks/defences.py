"""What `causalib`'s eight ways cost, in training and at every prediction, beside a bare loop and a peer's attack."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn

from benchmarks.timing import interleaved, save
from hybridgen_lib.data import ImageData, as_float, load
from hybridgen_lib.recipes import RECIPES, build
from hybridgen_lib.recipes.causalib import WAYS
from hybridgen_lib.training import fit

PROFILE, BATCHES, REPETITIONS = "cpu", 3, 5
PLAIN, ATTACKED, PEER = "mlp", "mlp-at-pgd", "mlp-at-pgd, attacked by torchattacks"
BY_HAND = "mlp, a bare loop with torch's default Adam"
NOTE = "Three dense layers, 1024 units, 28x28, batches of 100, one core."


def main() -> None:
    torch.set_num_threads(1)
    images = load("fashion-mini")
    count = RECIPES[PLAIN].settings[PROFILE]["batch_size"] * BATCHES
    images = replace(images, train_x=images.train_x[:count], train_y=images.train_y[:count])
    names = [f"{PLAIN}-{way}" if way else PLAIN for way in WAYS]
    models = {name: build(name, (1, 28, 28), 10, PROFILE) for name in names}
    epochs = {name: partial(_epoch, name, model, images) for name, model in models.items()}
    epochs[BY_HAND] = partial(_by_hand, build(PLAIN, (1, 28, 28), 10, PROFILE), images)
    epochs[PEER] = partial(_by_peer, build(ATTACKED, (1, 28, 28), 10, PROFILE), images)
    x = as_float(images.train_x[:100])
    answers = {name: partial(_answer, model.eval(), x) for name, model in models.items()}
    tables = [
        _table("An epoch of training", f"{BATCHES} batches of training images.", epochs),
        _table("A prediction", "One batch, by the draws of the recipe.", answers),
    ]
    save("defences", tables, ["torchattacks"])


def _table(title: str, what: str, cases: dict) -> dict:
    seconds = interleaved(cases, REPETITIONS)
    timed = [{"case": case, "seconds": seconds[case]} for case in cases]
    return {"title": f"{title}, eight ways", "note": f"{NOTE} {what}", "reference": PLAIN, "cases": timed}


def _epoch(name: str, model: nn.Module, images: ImageData) -> None:
    recipe = RECIPES[name]
    settings = {**recipe.settings[PROFILE], "epochs": 1}
    with redirect_stderr(io.StringIO()):  # a bar for every repetition
        recipe.train(model, settings, images, seed=0, device="cpu", checkpoint=None, label=name)


def _by_hand(model: nn.Module, images: ImageData) -> None:
    """The plain training as a tutorial has it."""
    settings = RECIPES[PLAIN].settings[PROFILE]
    optimizer = torch.optim.Adam(model.train().parameters(), lr=settings["learning_rate"])
    for x, y in zip(images.train_x.split(settings["batch_size"]), images.train_y.split(settings["batch_size"]), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model(as_float(x)), y).backward()
        optimizer.step()


def _by_peer(model: nn.Module, images: ImageData) -> None:
    """The same steps of training, the attack by another library."""
    settings = RECIPES[ATTACKED].settings[PROFILE]
    eps, steps = settings["eps"], settings["steps"]
    attack = torchattacks.PGD(model, eps=eps, alpha=2.5 * eps / steps, steps=steps)

    def objective(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(attack(x, y)), y)

    schedule = {key: settings[key] for key in ("batch_size", "learning_rate", "final_learning_rate")}
    with redirect_stderr(io.StringIO()):
        fit(model, objective, images.train_x, images.train_y, epochs=1, **schedule)


@torch.no_grad()
def _answer(model: nn.Module, x: Tensor) -> None:
    model(x)


if __name__ == "__main__":
    main()
