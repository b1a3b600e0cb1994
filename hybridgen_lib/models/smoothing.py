"""Randomised smoothing: a classifier that is asked many times about noisy copies, and what that proves.

The class that wins most often under Gaussian noise cannot change inside a ball in l2 whose radius follows from how often it
wins (Cohen, Rosenfeld and Kolter 2019). Attacks need a smooth function of the image, the proof needs votes: both are here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hybridgen_lib.classifier import (
    StochasticClassifier,
    ask,
    check_generator,
    check_images,
    check_model,
    check_number,
    check_scores,
    evaluating,
)

__all__ = ["COPIES_PER_GRADIENT", "Smoothed", "certified_radius"]


COPIES_PER_PASS = 5_000
"""Of all images together, while votes are counted."""
COPIES_PER_GRADIENT = 1_000
"""The same where activations are kept. A GPU must hold them, so it is fewer."""


class Smoothed(StochasticClassifier):
    """``network`` under Gaussian noise: images (B, channels, H, W) -> the log of its mean probabilities (B, C).

    The mean is over K = ``samples`` noisy copies, fresh ones at every call; they are not clipped to [0, 1]. In training one
    copy is enough: ``with_samples(1)``. :meth:`certify` counts votes instead.

    ``sigma`` is the noise's standard deviation, in units of the pixels' [0, 1].
    """

    score_kind = "log_conditional"

    def __init__(self, network: nn.Module, sigma: float, samples: int = 10, seed: int = 0):
        super().__init__(seed)
        self.network = check_model(network, "network")
        self.sigma = check_number(sigma, "sigma", low=0)
        self.samples = check_number(samples, "samples", low=1, integer=True)

    def with_samples(self, samples: int) -> Smoothed:
        """The same network asked ``samples`` times."""
        return self.twin(samples=check_number(samples, "samples", low=1, integer=True))

    @property
    def examples_per_pass(self) -> int:
        """How many images one gradient may hold, for all of their copies to have room."""
        return max(1, COPIES_PER_GRADIENT // self.samples)

    def noisy(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """K noisy copies of every image: (K, B, channels, H, W)."""
        noise = self.noise(self.samples, len(x), x.shape[1:].numel(), x, generator)
        return x + self.sigma * noise.unflatten(2, x.shape[1:])

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        logits = ask(self.network, self.noisy(x, generator).flatten(0, 1), generator).unflatten(0, (self.samples, len(x)))
        return logits.log_softmax(-1).logsumexp(0) - math.log(self.samples)

    @torch.no_grad()
    def certify(
        self,
        x: Tensor,
        *,
        guesses: int = 100,
        votes: int = 1_000,
        error: float = 0.001,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The class of each image (B,) and the l2 radius (B,) inside which the smoothed classifier does not leave it.

        ``guesses`` noisy copies pick the class, ``votes`` others count how often it wins. A radius is wrong with a
        probability of at most ``error``; where no radius is certain the class is -1 and the radius 0 (abstain). This is
        about the majority under infinitely many copies; K plays no part in it.

        Source: Cohen et al. (2019), Certify, and their Theorem 1. Raises ``ValueError`` for an argument out of range.
        """
        check_images(x)
        guesses = check_number(guesses, "guesses", low=1, integer=True)
        votes = check_number(votes, "votes", low=1, integer=True)
        check_generator(generator)
        check_number(error, "error", low=1e-12, high=0.5)
        generator = torch.Generator().manual_seed(self.noise_seed) if generator is None else generator
        with evaluating(self.network):
            chosen = self._votes(x, guesses, generator).argmax(1)
            wins = self._votes(x, votes, generator).gather(1, chosen[:, None])[:, 0]
        radius = x.new_tensor([certified_radius(int(k), votes, self.sigma, error) for k in wins])
        return torch.where(radius > 0, chosen, -1), radius

    def _votes(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """How many of ``count`` noisy copies of each image go to each class: (B, C)."""
        total = 0
        size = max(1, COPIES_PER_PASS // max(1, len(x)))
        for k in [min(size, count - done) for done in range(0, count, size)]:
            noise = torch.randn(k, *x.shape, generator=generator, dtype=x.dtype, device=generator.device).to(x.device)
            scores = check_scores(ask(self.network, (x + self.sigma * noise).flatten(0, 1), generator), k * len(x))
            won = nn.functional.one_hot(scores.argmax(1), scores.shape[1])
            total = total + won.unflatten(0, (k, len(x))).sum(0)
        return total


def certified_radius(wins: int, votes: int, sigma: float, error: float = 0.001) -> float:
    """sigma * Phi^-1(p), p the lower end of the one-sided Clopper-Pearson interval for ``wins`` of ``votes``; 0 if p <= 1/2.

    Source: Cohen et al. (2019), equation 3 with p_B = 1 - p_A.
    """
    from scipy.stats import beta, norm  # half a second, which only those who ask should wait

    votes = check_number(votes, "votes", low=0, integer=True)
    wins = check_number(wins, "wins", low=0, high=votes, integer=True)
    check_number(sigma, "sigma", low=0)
    check_number(error, "error", low=1e-12, high=0.5)
    low = 0.0 if wins == 0 else beta.ppf(error, wins, votes - wins + 1)
    return float(sigma * norm.ppf(low)) if low > 0.5 else 0.0
