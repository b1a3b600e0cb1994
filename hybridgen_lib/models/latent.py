"""One class for every latent-variable classifier: a formula, a guide, and a network for each factor.

The score of class c is an importance-weighted estimate of log p(x, y=c) (or of log p(y=c|x), where the formula gives x):

    score_c = log 1/K sum_k p(x, z_k, y=c) / q(z_k | x, y=c),   z_k ~ q(z | x, y=c)

(`deepbayes`, "Inference with Importance Sampling"; Burda, Grosse & Salakhutdinov 2016). All classes and samples are scored
in one batched pass: the log joint is a sum over factors, and every factor broadcasts over the axes (K samples, B images,
C classes). Chapter 04 builds it by hand.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybridgen_lib.classifier import StochasticClassifier, check_number
from hybridgen_lib.models.factorization import Factorization

__all__ = ["LatentVariableClassifier"]

CPU_PASS, GPU_PASS = 300, 20_000
"""(Sample, image, class) triples in one pass. On a CPU small passes stay in the cache: 300 took 0.6 of the time of 2,500."""
MEMORY_SIZE = 20_000
"""Triples whose activations may be kept for one gradient; beyond it passes are recomputed in the backward sweep."""


class LatentVariableClassifier(StochasticClassifier):
    """A classifier from a factorization of p(x, z, y).

    Args:
        model: a formula such as ``"p(z) p(y|z) p(x|z,y)"``, or a :class:`Factorization`. It has an image ``x`` and a
            label ``y``; every other variable is latent.
        guide: the factors that stand in for the posterior of the latent variables, ``"q(z|x,y)"``.
        networks: a module for each factor, keyed by the factor as written without spaces (``"p(x|z,y)"``). Called with
            the parents by name, it returns a ``torch.distributions.Distribution``. ``p(x)`` has none: x is given. A guide's
            module is a ``GaussianFactor`` (with ``dims``), so that a sample is a smooth function of its noise.
        classes: C, the number of classes.
        samples: K, importance samples per class at evaluation. The score is an estimate for this K: another K is another
            classifier.
        seed: seed of the model's own noise.

    ``score_kind`` is ``"log_joint"``, or ``"log_conditional"`` where x is given.
    """

    def __init__(
        self,
        model: str | Factorization,
        guide: str | Factorization,
        networks: dict[str, nn.Module],
        *,
        classes: int,
        samples: int = 10,
        seed: int = 0,
    ):
        super().__init__(seed)
        model = Factorization.parse(model) if isinstance(model, str) else model
        guide = Factorization.parse(guide, conditions=("x", "y")) if isinstance(guide, str) else guide
        _check_parts(model, guide, networks, classes, samples)
        self.model, self.guide = model, guide
        self.classes, self.samples = classes, samples
        self.score_kind = "log_conditional" if model.given else "log_joint"
        self.networks = nn.ModuleDict(networks)

    # ------------------------------------------------------------ scores

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Scores (B, C) of images (B, channels, H, W), from K samples each; fresh noise unless frozen."""
        return self._scores(x, self._one_hot(x)[None], self.samples, generator)

    def class_scores(
        self, x: Tensor, classes: Tensor, generator: torch.Generator | None = None, samples: int | None = None
    ) -> Tensor:
        """Scores (B, k) of the classes (B, k) only, at k/C of the cost, with the noise that all classes would share.

        ``samples``, by default K, is for a rougher and cheaper look.
        """
        samples = self.samples if samples is None else int(check_number(samples, "samples", low=1, integer=True))
        if classes.numel() and not 0 <= classes.min() <= classes.max() < self.classes:
            raise ValueError(f"classes must be in 0..{self.classes - 1}, got {classes.min().item()} to {classes.max().item()}")
        return self._scores(x, self._one_hot(x)[classes], samples, generator)

    def with_samples(self, samples: int) -> LatentVariableClassifier:
        """The same networks with another K: another classifier, cheaper or steadier, for an attacker to learn from."""
        twin = copy.copy(self)
        twin._frozen_seed = self._frozen_seed  # a copy would start unfrozen
        twin.samples = int(check_number(samples, "samples", low=1, integer=True))
        return twin

    @property
    def examples_per_pass(self) -> int:
        """How many images one gradient over all classes should hold to be fast and bounded in memory."""
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        return max(1, _pass_size(device) // (self.classes * self.samples))

    def _scores(self, x: Tensor, y: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
        log_weights = self.log_weights(x, y, self._noise(x, samples, generator))
        return torch.logsumexp(log_weights, 0) - math.log(samples)

    def log_weights(self, x: Tensor, y: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """log p(x, z_k, y) - log q(z_k | x, y), shape (K, B, k), in bounded memory.

        ``x`` (B, channels, H, W); ``y`` one-hot (B or 1, k, C): which classes; ``noise`` one (K, B or 1, D) per latent
        variable. The work is cut into passes of bounded size, by images, then by classes, then by
        samples. Under a gradient too large to keep, each pass is computed again on the way back.
        """
        samples, images, classes = len(next(iter(noise.values()))), len(x), y.shape[1]
        recompute = torch.is_grad_enabled() and samples * images * classes > MEMORY_SIZE
        size = _pass_size(x.device)
        k = min(samples, size)
        c = min(classes, max(1, size // k))
        b = max(1, size // (k * c))

        def one_pass(images: slice, classes: slice, samples: slice) -> Tensor:
            some_noise = {name: _take(eps[samples], 1, images) for name, eps in noise.items()}
            arguments = (x[images], _take(y, 0, images)[:, classes], some_noise)
            if recompute:
                return checkpoint(self._log_weights, *arguments, use_reentrant=False, preserve_rng_state=False)
            return self._log_weights(*arguments)

        by_image = []
        for i in _slices(images, b):
            by_class = [torch.cat([one_pass(i, j, s) for s in _slices(samples, k)]) for j in _slices(classes, c)]
            by_image.append(torch.cat(by_class, 2))
        return torch.cat(by_image, 1)

    def _log_weights(self, x: Tensor, y: Tensor, noise: dict[str, Tensor]) -> Tensor:
        log_p, log_q = self._log_terms(x[None, :, None], y[None], {name: eps[:, :, None] for name, eps in noise.items()})
        return sum(log_p.values()) - sum(log_q.values())

    def _log_terms(self, x: Tensor, y: Tensor, noise: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The log density of each factor, keyed by the factor, of the model and of the guide, at the guide's samples."""
        values, log_q = self.infer(x, y, noise)
        log_p = {}
        for factor in self.model.factors:
            if not set(factor.variables) <= self.model.given:
                log_p[str(factor)] = self._distribution(factor, values).log_prob(values[factor.variables[0]])
        return log_p, log_q

    def infer(self, x: Tensor, y: Tensor, noise: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Values of all variables, the latent ones sampled from the guide, and the guide's log densities there.

        Arguments broadcast against each other over any leading axes.
        """
        values, log_q = {"x": x, "y": y}, {}
        for name in self.guide.variables:
            factor = self.guide.factor_of(name)
            q = self._distribution(factor, values)
            values[name] = q.base_dist.loc + q.base_dist.scale * noise[name]
            log_q[str(factor)] = q.log_prob(values[name])
        return values, log_q

    def _distribution(self, factor, values: dict[str, Tensor]):
        return self.networks[str(factor)](**{parent: values[parent] for parent in factor.parents})

    def _noise(self, x: Tensor, samples: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        sizes = {name: self.networks[str(self.guide.factor_of(name))].dims for name in self.guide.variables}
        # one draw, split: under frozen noise two draws would repeat each other
        eps = self.noise(samples, len(x), sum(sizes.values()), x, generator)
        return dict(zip(sizes, eps.split(list(sizes.values()), dim=-1), strict=True))

    def _one_hot(self, x: Tensor) -> Tensor:
        return torch.eye(self.classes, dtype=x.dtype, device=x.device)

    # ------------------------------------------------------------ training and sampling

    def elbo(self, x: Tensor, y: Tensor, generator: torch.Generator | None = None, beta: float = 1.0) -> Tensor:
        """Evidence lower bound (B,) in nats of log p(x, y) (of log p(y|x) where x is given), from one sample of z.

        ``beta`` weighs the terms of the latent variables, log p(z|.) - log q(z|.): it warms up from near 0 to 1 in
        training, so that the code is used before it is paid for. `deepbayes`, "Training with ELBO", is ``beta = 1``.
        """
        noise = {name: eps[0] for name, eps in self._noise(x, 1, generator).items()}
        log_p, log_q = self._log_terms(x, self._one_hot(x)[y], noise)
        latent = {str(self.model.factor_of(name)) for name in self.guide.variables}
        total = sum(term if name not in latent else beta * term for name, term in log_p.items())
        return total - beta * sum(log_q.values())

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw ``count`` joint samples by going down the graph from its roots; every variable by name, x as its mean.

        Labels come back as integers (count,). Raises ``ValueError`` where the formula gives x: such a model cannot draw.
        """
        check_number(count, "count", low=1, integer=True)
        if not self.model.is_generative:
            raise ValueError(f"model {self.model} gives x and cannot sample it; a generative formula has a factor p(x|...)")
        generator = generator or torch.Generator().manual_seed(self.noise_seed)
        like = next(self.parameters())
        values: dict[str, Tensor] = {}
        for name in self.model.variables:
            factor = self.model.factor_of(name)
            p = self._distribution(factor, values)
            if name == "x":
                values[name] = p.mean
            elif name == "y":
                logits = p.logits.expand(count, self.classes)
                chances = logits.softmax(-1).to(generator.device)
                picks = torch.multinomial(chances, 1, generator=generator)[:, 0]
                values[name] = self._one_hot(like)[picks.to(like.device)]
            else:
                eps = torch.randn(count, *p.event_shape, generator=generator, device=generator.device).to(like)
                values[name] = p.base_dist.loc + p.base_dist.scale * eps
        return {**values, "y": values["y"].argmax(-1)}


def _check_parts(model: Factorization, guide: Factorization, networks: dict, classes: int, samples: int) -> None:
    for factor in (*model.factors, *guide.factors):
        if len(factor.variables) > 1:
            raise ValueError(f"factor {factor} makes {len(factor.variables)} variables; this class takes one a factor")
    for name in ("x", "y"):
        if name not in model.variables:
            raise ValueError(f"model {model} must have a factor for {name!r}")
    latent = set(model.variables) - {"x", "y"}
    if set(guide.variables) != latent:
        raise ValueError(f"guide {guide} must have one factor for each latent variable of {model}: {sorted(latent)}")
    if classes < 2 or samples < 1:
        raise ValueError(f"classes must be >= 2 and samples >= 1, got {classes} and {samples}")
    needed = {str(f) for f in model.factors if not set(f.variables) <= model.given} | {str(f) for f in guide.factors}
    if set(networks) != needed:
        missing, extra = sorted(needed - set(networks)), sorted(set(networks) - needed)
        raise ValueError(f"networks must have one module per factor; missing {missing}, not in the formulas {extra}")


def _pass_size(device: torch.device) -> int:
    return CPU_PASS if device.type == "cpu" else GPU_PASS


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _take(tensor: Tensor, axis: int, part: slice) -> Tensor:
    """A slice along an axis, or all of it where the axis has length 1 and broadcasts."""
    return tensor if tensor.shape[axis] == 1 else tensor.narrow(axis, part.start, part.stop - part.start)
