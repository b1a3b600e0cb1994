"""AutoAttack (Croce and Hein 2020) and its gradient-free part, Square, behind the signature of this library's attacks.

The attacks themselves are the authors' code, as packaged in ``pyautoattack``. What is added here: arguments are checked, the
global random state is left as it was, few classes are handled, and a model's own noise is treated as everywhere in this book.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from functools import partial

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from hybridgen_lib.attacks.ascent import NoGradientError
from hybridgen_lib.attacks.balls import L2, Ball, Linf
from hybridgen_lib.attacks.gradient import Goal, attacking, only
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
            alone. ``"rand"`` for a stochastic model: APGD on cross-entropy and, with three classes or more, on the ratio,
            gradients averaged over 20 draws.

    The authors' ``rand`` takes an image as broken once one draw was wrong. Here both of its attacks run on every image; of
    each the point of largest loss counts, and of the two the one with the larger mean margin over ten draws.

    The authors' code computes in float32; double images are handed to it so, and the model sees them as double again.

    Returns:
        x_adv (B, channels, H, W); an image that nothing broke comes back unchanged ("standard").

    Raises:
        ValueError: as in pgd; ``version="standard"`` for a model whose noise is not frozen; in l2, images of a size that
            Square cannot tile (28, 32, 64 and 224 pixels are fine).
    """
    check_choice(version, "version", ("standard", "rand"))
    if version == "standard" and is_stochastic(model):
        raise ValueError("version must be 'rand' for a stochastic model, or its noise be frozen; got 'standard'")
    only(ball, Ball)
    with attacking(model, x, y, "margin", None, JUDGE_DRAWS, None, generator) as goal, _quietly():
        if ball.eps == 0 or len(x) == 0:
            return x.detach().clone()
        if version == "standard":
            check_tiles(x, ball)
        x = x.contiguous()  # the authors' code takes views
        suite, classes = _suite(goal, x, ball)
        if version == "standard":
            return _moved(x, suite.run_standard_evaluation(x.float(), goal.labels, batch_size=BATCH)[0])
        torch.manual_seed(suite.seed)  # with ``best_loss`` the authors' code does not seed its random start
        suite.apgd.eot_iter, rows = EOT, torch.arange(len(x), device=x.device)
        best, value = x, x.new_full((len(x),), -torch.inf)
        for loss in ("ce", "dlr") if classes > 2 else ("ce",):
            suite.apgd.loss = loss
            tried = [suite.apgd.perturb(*pair, best_loss=True) for pair in _batches(x, goal.labels)]
            tried = _moved(x, torch.cat(tried))
            margins = goal.judge(tried, rows)[1]
            best = torch.where((margins > value).view(-1, 1, 1, 1), tried, best)
            value = torch.maximum(margins, value)
        return best


def square(
    model: nn.Module, x: Tensor, y: Tensor, ball: Ball, *, queries: int = 5000, generator: torch.Generator | None = None
) -> Tensor:
    """Square attack: a random search on the margin, by scores alone (Andriushchenko et al. 2020). No gradient is asked for.

    ``queries`` is the number of proposals, each a call an image; a few calls to start and to judge come on top. For a
    stochastic model freeze its noise first: a search that keeps what improves would else keep lucky draws. Arguments, result
    and errors otherwise as in :func:`~hybridgen_lib.attacks.gradient.pgd`; an image that was not broken comes back unchanged.
    """
    check_number(queries, "queries", low=1, integer=True)
    if is_stochastic(model):
        raise ValueError("model must be deterministic; put a stochastic one under frozen_noise")
    only(ball, Ball)
    with attacking(model, x, y, "margin", None, 1, None, generator) as goal, _quietly():
        if ball.eps == 0 or len(x) == 0:
            return x.detach().clone()
        check_tiles(x, ball)
        x = x.contiguous()
        suite, _ = _suite(goal, x, ball)
        suite.square.n_queries, suite.square.seed = int(queries), suite.seed
        return _moved(x, torch.cat([suite.square.perturb(*pair) for pair in _batches(x, goal.labels)]))


def _suite(goal: Goal, x: Tensor, ball: Ball) -> tuple[AutoAttack, int]:
    """The authors' attacks on the scores of ``goal.model``, and its number of classes."""
    classes = goal.scores(goal.model, x[:1]).shape[1]
    seed = int(torch.randint(2**31, (), generator=goal.generator, device=goal.generator.device))
    attacks = ["apgd-ce", "apgd-t", "fab-t", "square"]
    if classes < 4:
        attacks = ["apgd-ce", *(["apgd-dlr"] if classes == 3 else []), "fab", "square"]
    norm = {Linf: "Linf", L2: "L2"}[type(ball)]
    suite = AutoAttack(
        partial(_scores, goal, x.dtype),
        attacks=attacks, device=x.device, eps=float(ball.eps), norm=norm, seed=seed, version="custom",
    )  # fmt: skip
    targets = min(9, classes - 1)
    suite.apgd.n_restarts = suite.fab.n_restarts = 1
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = targets
    suite.square.margin_and_loss = partial(_ties_stand, suite.square.margin_and_loss)
    return suite, classes


def _scores(goal: Goal, dtype: torch.dtype, images: Tensor) -> Tensor:
    """Scores as the authors' code needs them: in float32, and a copy, as Square writes into what it is given."""
    scores = goal.scores(goal.model, images.to(dtype))
    if torch.is_grad_enabled() and images.requires_grad and not scores.requires_grad:
        raise NoGradientError("model must have a gradient in x; for a step without one, give a surrogate (Bpda)")
    return scores.to(images.dtype, copy=True)


def _ties_stand(margin_and_loss, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Square takes a margin of 0 for a success, which the first of two best classes is not; in l2 it stops with an error."""
    return tuple(torch.where(value == 0, 1e-30, value) for value in margin_and_loss(x, y))


def _moved(x: Tensor, found: Tensor) -> Tensor:
    """``found`` (float32) where it differs from ``x``, else ``x`` itself, in the type of ``x``."""
    moved = (found != x.float()).flatten(1).any(1)
    return torch.where(moved.view(-1, 1, 1, 1), found.to(x.dtype), x).detach()


def _batches(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.float().split(BATCH), y.split(BATCH), strict=True))


def check_tiles(x: Tensor, ball: Ball) -> None:
    """``ValueError`` for images that Square's patches do not fit into: in l2 they start from a fifth of the height."""
    height, width = x.shape[2:]
    side, margin = height // 5, height % 5 // 2
    fits = side == 1 or (side > 1 and all(margin + size // side * side <= size for size in (height, width)))
    if isinstance(ball, L2) and not fits:
        raise ValueError(f"x must have a size that Square can tile in l2, such as 28, 32 or 64; got {height} x {width}")


@contextmanager
def _quietly():
    """Global random state, trace function and log level as they were, whatever the authors' code does inside.

    Its warnings are kept back: what they are about, ``masking_report`` measures.
    """
    log = logging.getLogger("auto-attack")
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # that code seeds them all
    level, tracing = log.level, sys.gettrace()
    log.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        sys.settrace(tracing)
        log.setLevel(level)
