"""AutoAttack (Croce and Hein 2020) and its gradient-free part, Square, behind the signature of this library's attacks.

The attacks themselves are the authors' code, as packaged in ``pyautoattack``. What is added here: arguments are checked, the
global random state is left as it was, few classes are handled, and a model's own noise is treated as everywhere in this book.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from hybridgen_lib.attacks.balls import L2, Ball, Linf
from hybridgen_lib.attacks.gradient import attacking
from hybridgen_lib.classifier import check_choice, check_number, is_stochastic

__all__ = ["autoattack", "square"]

EOT, JUDGE_DRAWS = 20, 10
BATCH = 250


def autoattack(
    model: nn.Module, x: Tensor, y: Tensor, ball: Ball, *, version: str = "standard", generator: torch.Generator | None = None
) -> Tensor:
    """AutoAttack, each attack on what the ones before have left (Croce and Hein 2020, section 5).

    Args:
        model, x, y, ball, generator: as in :func:`~hybridgen_lib.attacks.gradient.pgd`.
        version: ``"standard"`` for a deterministic model or under ``frozen_noise``: APGD on cross-entropy, targeted APGD on
            the ratio of margins, targeted FAB (up to nine targets each), Square with 5,000 queries. With three classes,
            where the targeted ratio is not defined, APGD and FAB run untargeted; with two, APGD runs on cross-entropy
            alone. ``"rand"`` for a stochastic model: APGD on cross-entropy and on the ratio, gradients averaged over 20 draws.

    The authors' ``rand`` takes an image as broken once one draw was wrong. Here both of its attacks run on every image; of
    each the point of largest loss counts, and of the two the one with the larger mean margin over ten draws.

    Returns:
        x_adv (B, channels, H, W); an image that nothing broke comes back unchanged ("standard").

    Raises:
        ValueError: as in pgd; ``version="standard"`` for a model whose noise is not frozen; ``"rand"`` with two classes.
    """
    check_choice(version, "version", ("standard", "rand"))
    if version == "standard" and is_stochastic(model):
        raise ValueError("version must be 'rand' for a stochastic model, or its noise be frozen; got 'standard'")
    with attacking(model, x, y, ball, "margin", None, JUDGE_DRAWS, None, generator) as goal, _quietly(x):
        if ball.eps == 0 or len(x) == 0:
            return x.detach().clone()
        classes = goal.scores(model, x[:1]).shape[1]
        if version == "rand" and classes < 3:
            raise ValueError("version must be 'standard' under frozen noise for two classes; 'rand' needs three")
        suite = _suite(goal, x, ball, classes)
        if version == "standard":
            return suite.run_standard_evaluation(x, goal.labels, batch_size=BATCH)[0].detach()
        suite.apgd.eot_iter, suite.apgd.seed = EOT, suite.seed
        tried = []
        for loss in ("ce", "dlr"):
            suite.apgd.loss = loss
            tried.append(torch.cat([suite.apgd.perturb(*pair, best_loss=True) for pair in _batches(x, goal.labels)]).detach())
        rows = torch.arange(len(x), device=x.device)
        first, second = (goal.judge(images, rows)[1] for images in tried)
        return torch.where((second > first).view(-1, 1, 1, 1), tried[1], tried[0])


def square(
    model: nn.Module, x: Tensor, y: Tensor, ball: Ball, *, queries: int = 5000, generator: torch.Generator | None = None
) -> Tensor:
    """Square attack: a random search on the margin, by scores alone (Andriushchenko et al. 2020). No gradient is asked for.

    ``queries`` is the number of calls an image may cost. For a stochastic model freeze its noise first: a search that keeps
    what improves would else keep lucky draws. Arguments, result and errors otherwise as in
    :func:`~hybridgen_lib.attacks.gradient.pgd`; an image that was not broken comes back unchanged.
    """
    check_number(queries, "queries", low=1, integer=True)
    if is_stochastic(model):
        raise ValueError("model must be deterministic; put a stochastic one under frozen_noise")
    with attacking(model, x, y, ball, "margin", None, 1, None, generator) as goal, _quietly(x):
        if ball.eps == 0 or len(x) == 0:
            return x.detach().clone()
        suite = _suite(goal, x, ball, goal.scores(model, x[:1]).shape[1])
        suite.square.n_queries, suite.square.seed = int(queries), suite.seed
        return torch.cat([suite.square.perturb(*pair) for pair in _batches(x, goal.labels)]).detach()


def _suite(goal, x: Tensor, ball: Ball, classes: int) -> AutoAttack:
    seed = int(torch.randint(2**31, (), generator=goal.generator, device=goal.generator.device))
    attacks = ["apgd-ce", "apgd-t", "fab-t", "square"]
    if classes < 4:
        attacks = ["apgd-ce", *(["apgd-dlr"] if classes == 3 else []), "fab", "square"]
    norm = {Linf: "Linf", L2: "L2"}[type(ball)]
    suite = AutoAttack(
        lambda images: goal.scores(goal.model, images),
        attacks=attacks, device=x.device, eps=float(ball.eps), norm=norm, seed=seed, version="custom",
    )  # fmt: skip
    targets = min(9, classes - 1)
    suite.apgd.n_restarts = suite.fab.n_restarts = 1
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = targets
    return suite


def _batches(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))


@contextmanager
def _quietly(x: Tensor):
    """Global random state, trace function and log level as they were, whatever the authors' code does inside.

    Its warnings are kept back: what they are about, ``masking_report`` measures.
    """
    log, devices = logging.getLogger("auto-attack"), [x.device] if isinstance(x, Tensor) and x.is_cuda else []
    level, tracing = log.level, sys.gettrace()
    log.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        sys.settrace(tracing)
        log.setLevel(level)
