"""What training for robustness makes small: the loss on attacked, mixed or noisy images, and of compressed codes.

Chapter 09 builds adversarial training by hand, chapter 10 the bottleneck and the causal loss.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from hybridgen_lib.attacks import pgd
from hybridgen_lib.attacks.balls import Ball
from hybridgen_lib.classifier import IMAGES_PER_PASS, ask, check_choice, check_images, check_labels, check_number
from hybridgen_lib.training.loop import Objective, Selection
from hybridgen_lib.training.objectives import cross_entropy

__all__ = ["adversarial", "causal_loss", "clean_and_attacked", "information_bottleneck", "intervention", "mixup"]


# ---------------------------------------------------------------- on attacked images


def adversarial(ball: Ball, *, steps: int, step_size: float | None = None, warm_up: float = 0.0) -> Objective:
    """Mean cross-entropy in nats of images that are attacked first: the min-max problem of Madry et al. (2018, eq. 2.1).

    The inner maximum is PGD on the cross-entropy: a random start in ``ball``, ``steps`` steps of ``step_size`` (by default 2.5
    eps / steps), all of them for every image; the few whose loss is no higher at the end are trained on clean. Over the first
    ``warm_up`` share of training eps, and the step with it, grow from 0 in a line (ours): a large ball leaves a fresh model
    little to learn from. With a single step a model can end up robust to that step alone ("catastrophic overfitting"; Wong,
    Rice and Kolter 2020).
    """
    _check_attack(ball, steps, step_size)
    check_number(warm_up, "warm_up", low=0, high=1)

    def objective(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        now, length = ball, step_size
        if progress < warm_up:
            now = replace(ball, eps=ball.eps * progress / warm_up)
            length = None if step_size is None else step_size * progress / warm_up
        attacked = pgd(model, x, y, now, steps=steps, step_size=length, stop_when_fooled=False, generator=generator)
        return cross_entropy(model, attacked, y, progress, generator)

    return objective


def clean_and_attacked(x: Tensor, y: Tensor, ball: Ball, *, steps: int, step_size: float | None = None) -> Selection:
    """The mean of a model's clean accuracy and that under PGD on images x (N, channels, H, W) held out of its training, float
    in [0, 1]: by what `interpretable` picks the epoch to keep (section 3.1; it held out its test images)."""
    check_labels(y, images=len(check_images(x)))
    if len(x) == 0:
        raise ValueError("x must hold at least one image, got none")
    _check_attack(ball, steps, step_size)

    def select(model: nn.Module) -> float:
        generator, right = torch.Generator().manual_seed(0), 0.0
        for a, b in zip(x.split(IMAGES_PER_PASS), y.split(IMAGES_PER_PASS), strict=True):
            attacked = pgd(model, a, b, ball, steps=steps, step_size=step_size, generator=generator)
            with torch.no_grad():
                right += sum((ask(model, images, generator).argmax(1) == b).sum().item() for images in (a, attacked))
        return right / (2 * len(x))

    return select


def _check_attack(ball: Ball, steps: int, step_size: float | None) -> None:
    if not isinstance(ball, Ball):
        raise ValueError(f"ball must be Linf(eps) or L2(eps), got {ball!r}")
    check_number(steps, "steps", low=1, integer=True)
    if step_size is not None:
        check_number(step_size, "step_size", low=0)


# ---------------------------------------------------------------- on mixed images


def mixup(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
    """Mean cross-entropy in nats of pairs of images laid over each other, their labels in the same proportion.

    The proportion is uniform in [0, 1], one for the batch: Beta(1, 1) (Zhang et al. 2018, equation 2).
    """
    share, other = torch.rand((), generator=generator).item(), torch.randperm(len(x), generator=generator).to(x.device)
    scores = ask(model, share * x + (1 - share) * x[other], generator)
    return share * F.cross_entropy(scores, y) + (1 - share) * F.cross_entropy(scores, y[other])


# ---------------------------------------------------------------- on noisy codes


def information_bottleneck(alpha: float, beta: float = 0.0, norm: str = "l1") -> Objective:
    """Of a :class:`~hybridgen_lib.models.bottleneck.Bottleneck`, in nats: cross-entropy + alpha KL + beta causal loss.

    The cross-entropy is the mean over the draws of the code, KL that of q(z|x) from a standard Normal. With ``beta=0`` it is
    the variational information bottleneck (`causalib`, equation 23), else `causalib`'s objective (equation 11), with
    :func:`causal_loss`. ``norm`` is "l1" or "l2".

    The response of the scores to the noise r is taken as the decoder's weights times r, which it equals, for the decoder is
    linear. As a difference of two scores it would drown in rounding where nothing (alpha = 0) keeps r from shrinking.
    """
    check_number(alpha, "alpha", low=0)
    check_number(beta, "beta", low=0)
    check_choice(norm, "norm", NORMS)

    def objective(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        q = model.encode(x)
        r = model.code_noise(q, generator)
        scores = model.decoder(q.loc + r)
        loss = F.cross_entropy(scores.flatten(0, 1), y.repeat(len(r)))
        if alpha:  # without it sigma may fall so low that KL is infinite, and zero times that is not zero
            loss = loss + alpha * kl_divergence(q, Normal(0.0, 1.0, validate_args=False)).sum(1).mean()
        if beta:
            loss = loss + beta * causal_loss(F.linear(r, model.decoder.weight), r, norm)
        return loss

    return objective


NORMS = {"l1": 1, "l2": 2}


def causal_loss(response: Tensor, noise: Tensor, norm: str = "l1") -> Tensor:
    """How unlike each other the effects of K draws of the noise are: the mean over pairs i != j of |w_i - w_j|.

    w_i is the ``response`` (K, B, C) of the scores to draw i, Y[x_ri] - Y[x], over the intensity of the ``noise`` r_i (K, B,
    D), its root mean square. Returns the mean over the B images; raises ``ValueError`` for K < 2 or another norm.

    Source: `causalib`, equations 9 and 10. A vector cannot be divided by a vector, and one entry of a Normal draw may be
    next to 0; "the magnitude of r" is therefore read as a number, which for D = 256 never comes near 0. The document sums
    over pairs and does not say how many; the mean gives beta one meaning for every K.
    """
    check_choice(norm, "norm", NORMS)
    if len(response) < 2:
        raise ValueError("response must hold two draws or more, as effects are compared in pairs; got one")
    intensity = noise.square().mean(2, keepdim=True).clamp_min(1e-24).sqrt()  # a root has no gradient at 0
    effect = response / intensity
    first, second = torch.triu_indices(len(effect), len(effect), 1, device=effect.device)
    return torch.linalg.vector_norm(effect[first] - effect[second], NORMS[norm], dim=2).mean()


# ---------------------------------------------------------------- on glances


def intervention(weight: float = 0.1, gazes: int = 3) -> Objective:
    """Of a :class:`~hybridgen_lib.models.gazes.Gazes`: mean cross-entropy in nats over ``gazes`` of its gazes, chosen anew for
    every batch, plus ``weight`` times how far their features are apart.

    Features f_i of a glance grow with the share z_i of pixels that it keeps. So of each pair it is f_i times the others' mean
    z that must equal z_i times the others' mean f; the distance is the smooth L1, summed over features. ``weight`` grows
    tenfold after a quarter, a half and three quarters of training.

    Source: the code released with CiiV (Tang et al. 2021), which multiplies at epochs 25, 50 and 75 of 110, and trains on
    all nine gazes (ours: three, at a third of the cost).
    """
    check_number(weight, "weight", low=0)
    gazes = check_number(gazes, "gazes", low=2, high=9, integer=True)

    def objective(model: nn.Module, x: Tensor, y: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        chosen = torch.randperm(9, generator=generator)[:gazes].to(x.device)
        features, kept = model.features(x, chosen, generator)
        loss = F.nll_loss(model.classify(features, kept).flatten(0, 1), y.repeat(gazes))
        share = kept[..., None]
        others = [(part.sum(0) - part) / (gazes - 1) for part in (features, share)]
        apart = F.smooth_l1_loss(features * others[1], others[0] * share, reduction="none").sum(2).mean()
        return loss + weight * 10 ** int(4 * progress) * apart

    return objective
