"""Pixels joined to their neighbours: the Ising-like graph of zoo (section 2.2), and what is built on it.

A pixel is 0 or 1 and has up to four neighbours. :class:`PixelGraph` holds the potentials and knows the energy, the
conditionals, Gibbs sampling and mean field. On it stand a classifier with a graph for each class, a denoiser in front of any
network, and (in ``pixels``) the conditional random field behind a decoder. Chapter 02 builds them by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridgen_lib.classifier import ask, check_image_shape, check_model, check_number
from hybridgen_lib.models.binary import binarise

__all__ = ["Denoised", "PixelGraph", "PixelGraphClassifier"]

COUPLING, STRENGTH, SWEEPS = 2.0, 4.2, 5
"""Of the denoiser: Bishop's (2006, section 8.3.3), whose beta = 1 and eta = 2.1 for spins +-1 are half of ours for
pixels 0 and 1. His example needs a few sweeps; five is ours."""


@dataclass(frozen=True)
class PixelGraph:
    """Binary pixels x (..., H, W) on a grid: p(x) = exp(-energy(x)) / Z, with up to four neighbours to a pixel.

    ``energy(x) = -sum_i unary_i x_i - sum_{i~j} theta_ij x_i x_j``, as zoo's (section 2.2; its third sum repeats its second
    and is left out). ``unary`` is (..., H, W); ``right`` (..., H, W-1) joins a pixel with the next in its row and ``down``
    (..., H-1, W) with the one below; any of them broadcasts, so that a number will do for both.

    The energy and the conditional log odds are polynomials in x of degree one in each pixel, so a grey value in [0, 1] may
    stand for a pixel: it acts as the chance that the pixel is lit.
    """

    unary: Tensor
    right: Tensor
    down: Tensor

    @classmethod
    def ising(cls, logits: Tensor, coupling: Tensor | float) -> PixelGraph:
        """Pixels with log odds ``logits`` (..., H, W) of their own that gain ``coupling`` for each neighbour of equal value.

        [x_i = x_j] = 1 - x_i - x_j + 2 x_i x_j: a unary term for each neighbour, a product, and a constant that p(x) forgets.
        With spins +-1 this is the Ising model of J = coupling / 2.
        """
        degree = torch.full(logits.shape[-2:], 4.0, dtype=logits.dtype, device=logits.device)
        degree[0] -= 1
        degree[-1] -= 1
        degree[:, 0] -= 1
        degree[:, -1] -= 1
        both = torch.as_tensor(2 * coupling, dtype=logits.dtype, device=logits.device)
        return cls(logits - coupling * degree, both, both)

    def energy(self, x: Tensor) -> Tensor:
        """(...) in nats; smaller is likelier."""
        across = (self.right * x[..., :, :-1] * x[..., :, 1:]).sum((-2, -1))
        along = (self.down * x[..., :-1, :] * x[..., 1:, :]).sum((-2, -1))
        return -(self.unary * x).sum((-2, -1)) - across - along

    def conditional(self, x: Tensor) -> Tensor:
        """Log odds that each pixel is 1, given its neighbours in ``x``: (..., H, W)."""
        odds = self.unary + F.pad(self.right * x[..., :, 1:], (0, 1)) + F.pad(self.right * x[..., :, :-1], (1, 0))
        return odds + F.pad(self.down * x[..., 1:, :], (0, 0, 0, 1)) + F.pad(self.down * x[..., :-1, :], (0, 0, 1, 0))

    def pseudo_log_likelihood(self, x: Tensor) -> Tensor:
        """sum_i log p(x_i | its neighbours), (...) in nats (Besag 1975): it needs no Z. Without edges it is the likelihood."""
        odds = self.conditional(x)
        return (x * odds - F.softplus(odds)).sum((-2, -1))

    def log_normaliser(self) -> Tensor:
        """log Z (...) by enumeration of all 2^(H W) images; ``ValueError`` for more than 16 pixels."""
        height, width = self.unary.shape[-2:]
        pixels = check_number(height * width, "pixels of the graph", low=1, high=16, integer=True)
        numbers = torch.arange(2**pixels, device=self.unary.device)
        every = (numbers[:, None] >> torch.arange(pixels, device=numbers.device)) & 1
        axes = max(2, self.unary.ndim, self.right.ndim, self.down.ndim)
        every = every.to(self.unary.dtype).reshape(-1, *[1] * (axes - 2), height, width)
        return torch.logsumexp(-self.energy(every), 0)

    @torch.no_grad()
    def gibbs(self, x: Tensor, sweeps: int, generator: torch.Generator | None = None) -> Tensor:
        """``sweeps`` rounds of Gibbs sampling from ``x`` (..., H, W) of 0 and 1: each draws every pixel given its neighbours.

        The grid is a chessboard: the neighbours of a white field are black. So all white pixels are drawn at once, then all
        black ones. ``generator`` is by default one with seed 0.
        """
        check_number(sweeps, "sweeps", low=0, integer=True)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        x = x.broadcast_to(self.conditional(x).shape)
        for _ in range(int(sweeps)):
            for field in _chessboard(x):
                chance = torch.rand(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
                x = torch.where(field, (chance < torch.sigmoid(self.conditional(x))).to(x.dtype), x)
        return x

    def mean_field(self, sweeps: int) -> Tensor:
        """Log odds (..., H, W) of the independent pixels q that stand in for p: each pixel sees the means of its neighbours.

        ``sweeps`` rounds of coordinate descent of :meth:`free_energy`, from neighbours that are undecided. A white field of
        the chessboard touches black ones only, so updating all of one colour at once is still one pixel after the other,
        and the free energy never rises.
        """
        check_number(sweeps, "sweeps", low=0, integer=True)
        odds = self.conditional(torch.full_like(self.unary, 0.5))
        for _ in range(int(sweeps)):
            for field in _chessboard(odds):
                odds = torch.where(field, self.conditional(torch.sigmoid(odds)), odds)
        return odds

    def free_energy(self, odds: Tensor) -> Tensor:
        """E_q[energy] - entropy of q (...), for independent pixels with log odds ``odds``; never below -log Z."""
        means = torch.sigmoid(odds)
        entropy = (F.softplus(odds) - odds * means).sum((-2, -1))
        return self.energy(means) - entropy


def _chessboard(x: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[-2:])
    white = (rows[:, None] + columns) % 2 == 0
    return white, ~white


class PixelGraphClassifier(nn.Module):
    """For each class a :class:`PixelGraph` of its own: images (B, channels, H, W) -> scores (B, C).

    The score is sum_i log p(x_i | its neighbours, y=c), in nats, with classes equally likely beforehand: the
    pseudo-likelihood stands in for the likelihood, whose Z is a sum over 2^784 images. So the scores are no densities, and
    ``score_kind`` is "energy". What it is trained on is what it is judged by. Pixels are binarised first, with a
    straight-through gradient; channels have graphs of their own. Parameters, all 0 until trained: ``unary`` (C, channels, H,
    W), ``right`` (C, channels, H, W-1), ``down`` (C, channels, H-1, W).

    Source: zoo, section 2.2: an Ising model with a unary potential for each pixel and class, four neighbours, "gradient
    search". Its formula has one coupling for all classes, its released code, as ours, one for each. How it treats Z is left
    open there; the code binarises at 0.5, as ours, climbs p(y|x), and subtracts a logarithm that is no log Z (chapter 02).

    Raises ``ValueError`` if ``classes`` < 2 or ``image_shape`` is not (channels, H, W).
    """

    score_kind = "energy"

    def __init__(self, image_shape: tuple[int, int, int], classes: int):
        super().__init__()
        check_image_shape(image_shape)
        check_number(classes, "classes", low=2, integer=True)
        channels, height, width = image_shape
        self.unary = nn.Parameter(torch.zeros(classes, channels, height, width))
        self.right = nn.Parameter(torch.zeros(classes, channels, height, width - 1))
        self.down = nn.Parameter(torch.zeros(classes, channels, height - 1, width))

    @property
    def graph(self) -> PixelGraph:
        """The graphs of all classes, over the leading axes (C, channels)."""
        return PixelGraph(self.unary, self.right, self.down)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.graph.pseudo_log_likelihood(binarise(x)[:, None]).sum(2)  # all classes equally likely beforehand


class Denoised(nn.Module):
    """A classifier that sees its image through a denoiser: mean field of an Ising graph over the pixels.

    A pixel of grey value x has log odds ``strength`` (2x - 1) of its own and gains ``coupling`` nats for each neighbour of
    equal value; after ``sweeps`` sweeps its mean in (0, 1) goes on to ``network``. Scores are those of ``network``.

    Source: zoo, section 2.4, "CNN with MRF denoiser applied to its input layer", and no more. Its released code has several
    versions (coupling 6, strength 0.4 before a network, which no gradient passes); graph and constants here are Bishop's
    (2006, section 8.3.3). Where neighbours agree the means saturate, and so do gradients: :meth:`surrogate`.
    """

    def __init__(self, network: nn.Module, coupling: float = COUPLING, strength: float = STRENGTH, sweeps: int = SWEEPS):
        super().__init__()
        self.network = check_model(network, "network")
        self.score_kind = getattr(network, "score_kind", "logit")
        self.coupling = check_number(coupling, "coupling")
        self.strength = check_number(strength, "strength", low=0)
        self.sweeps = check_number(sweeps, "sweeps", low=0, integer=True)

    def denoise(self, x: Tensor) -> Tensor:
        """What the network sees: images (B, channels, H, W), in (0, 1)."""
        graph = PixelGraph.ising(self.strength * (2 * x - 1), self.coupling)
        return torch.sigmoid(graph.mean_field(self.sweeps))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return ask(self.network, self.denoise(x), generator)

    def surrogate(self) -> nn.Module:
        """The same function with the denoiser's gradient replaced by the identity's, for BPDA (Athalye et al. 2018)."""
        return _StraightThrough(self)


class _StraightThrough(nn.Module):
    def __init__(self, model: Denoised):
        super().__init__()
        self.model, self.score_kind = model, model.score_kind

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return ask(self.model.network, self.model.denoise(x).detach() + (x - x.detach()), generator)
