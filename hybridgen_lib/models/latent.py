"""One class for every latent-variable classifier: a formula, a guide, and a network for each factor.

The score of class c is an importance-weighted estimate of log p(x, y=c) (or of log p(y=c|x), where the formula gives x):

    score_c = log 1/K sum_k p(x, z_k, y=c) / q(z_k | x, y=c),   z_k ~ q(z | x, y=c)

(`deepbayes`, "Inference with Importance Sampling"; Burda, Grosse & Salakhutdinov 2016). All classes and samples are scored
in one batched pass: the log joint is a sum over factors, and every factor broadcasts over the axes (K samples, B images,
C classes). Chapter 04 builds it by hand; chapter 08 adds variables computed from the image, and interventions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybridgen_lib.classifier import StochasticClassifier, check_choice, check_number
from hybridgen_lib.models.factorization import Factor, Factorization

__all__ = ["LatentVariableClassifier"]

CPU_PASS, GPU_PASS = 300, 20_000
"""(Sample, image, class) triples in one pass. On a CPU small passes stay in the cache: 300 took 0.6 of the time of 2,500."""
MEMORY_SIZE = 20_000
"""Triples whose activations may be kept for one gradient; beyond it passes are recomputed in the backward sweep."""


class LatentVariableClassifier(StochasticClassifier):
    """A classifier from a factorization of p(x, z, y).

    Args:
        model: a formula such as ``"p(z) p(y|z) p(x|z,y)"``, or a :class:`Factorization`. Variables whose names start with
            x are observed, ``y`` is the label; every other variable is latent.
        guide: the factors that stand in for the posterior of the latent variables, ``"q(z|x,y)"``.
        networks: a module for each factor, keyed by the factor as written without spaces (``"p(x|z,y)"``). Called with
            the parents by name, it returns a ``torch.distributions.Distribution``, or one for each variable of a factor such
            as ``"p(x1,x2|y,z)"``, in a tuple. ``p(x)`` has none: x is given. A guide's module is a ``GaussianFactor`` (with
            ``dims``), so that a sample is a smooth function of its noise.
        deterministic: how an observed variable is computed from the image, ``{"x2": tap}``; one not named is the image.
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
        deterministic: dict[str, nn.Module] | None = None,
        classes: int,
        samples: int = 10,
        seed: int = 0,
    ):
        super().__init__(seed)
        model = Factorization.parse(model) if isinstance(model, str) else model
        self.observed = tuple(name for name in model.variables if name.startswith("x"))
        if not self.observed:
            raise ValueError(f"model {model} must have a factor for 'x', or for variables whose names start with x")
        if "y" not in model.variables:
            raise ValueError(f"model {model} must have a factor for 'y'")
        guide = Factorization.parse(guide, conditions=(*self.observed, "y")) if isinstance(guide, str) else guide
        deterministic = dict(deterministic or {})
        _check_parts(model, guide, networks, self.observed, deterministic, classes, samples)
        self.model, self.guide = model, guide
        self.interventions: dict[str, float | Tensor] = {}
        self.classes, self.samples = int(classes), int(samples)
        self.score_kind = "log_conditional" if model.given else "log_joint"
        self.networks = nn.ModuleDict(networks)
        self.deterministic = nn.ModuleDict(deterministic)

    # ------------------------------------------------------------ scores

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Scores (B, C) of images (B, channels, H, W), from K samples each; fresh noise unless frozen."""
        return self._scores(x, self._one_hot(x)[None], self.samples, generator)

    def class_scores(
        self, x: Tensor, classes: Tensor, generator: torch.Generator | None = None, samples: int | None = None
    ) -> Tensor:
        """Scores (B, k) of the classes (B, k) only, at k/C of the cost, with the noise that all classes would share.

        ``samples``, by default K, is for a rougher and cheaper look. Raises ``ValueError`` for classes that are none.
        """
        samples = self.samples if samples is None else check_number(samples, "samples", low=1, integer=True)
        if classes.ndim != 2 or len(classes) not in (1, len(x)) or not classes.shape[1] or classes.dtype != torch.long:
            wanted = f"int64 ({len(x)}, k) or (1, k), k >= 1"
            raise ValueError(f"classes must be {wanted}, got {classes.dtype} {tuple(classes.shape)}")
        if classes.numel() and not 0 <= classes.min() <= classes.max() < self.classes:
            raise ValueError(f"classes must be in 0..{self.classes - 1}, got {classes.min().item()} to {classes.max().item()}")
        return self._scores(x, self._one_hot(x)[classes], samples, generator)

    def with_samples(self, samples: int) -> LatentVariableClassifier:
        """The same networks with another K: another classifier, cheaper or steadier, for an attacker to learn from."""
        return self.twin(samples=check_number(samples, "samples", low=1, integer=True))

    def do(self, **values: float | Tensor) -> LatentVariableClassifier:
        """The same networks under an intervention, ``model.do(m=0)``: another classifier, and another model to draw from.

        A latent variable is set to its value (a number, or a tensor (D,)) wherever it enters, and whatever would have made it
        drops out, p(m) and q(m|.) both (Pearl 2009, section 3.2). ``y``, a class, is for :meth:`sample` alone. Raises
        ``ValueError`` for another name, and for a value that is none.
        """
        for name, value in list(values.items()):
            check_choice(name, "variable", [*self.guide.variables, "y"])
            if name == "y":
                values[name] = check_number(value, "y", low=0, high=self.classes - 1, integer=True)
            elif isinstance(value, Tensor):
                dims = self.networks[str(self.guide.factor_of(name))].dims
                if value.shape not in ((), (dims,)) or not value.isfinite().all():
                    raise ValueError(f"{name} must be a number or a finite tensor ({dims},), got shape {tuple(value.shape)}")
            else:
                check_number(value, name)
        return self.twin(interventions={**self.interventions, **values})

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
        values = self.observe(x)
        if "y" in self.interventions:
            raise ValueError("y is set by an intervention: such a model draws images and has no scores for classes")
        samples, images, classes = len(next(iter(noise.values()))), len(x), y.shape[1]
        if not images:
            return x.new_zeros(samples, 0, classes)
        recompute = torch.is_grad_enabled() and samples * images * classes > MEMORY_SIZE
        size = _pass_size(x.device)
        k = min(samples, size)
        c = min(classes, max(1, size // k))
        b = max(1, size // (k * c))

        def one_pass(images: slice, classes: slice, samples: slice) -> Tensor:
            some_noise = {name: _take(eps[samples], 1, images) for name, eps in noise.items()}
            some_values = {name: value[images] for name, value in values.items()}
            arguments = (some_values, _take(y, 0, images)[:, classes], some_noise)
            if recompute:
                return checkpoint(self._log_weights, *arguments, use_reentrant=False, preserve_rng_state=False)
            return self._log_weights(*arguments)

        by_image = []
        for i in _slices(images, b):
            by_class = [torch.cat([one_pass(i, j, s) for s in _slices(samples, k)]) for j in _slices(classes, c)]
            by_image.append(torch.cat(by_class, 2))
        return torch.cat(by_image, 1)

    def _log_weights(self, x: dict[str, Tensor], y: Tensor, noise: dict[str, Tensor]) -> Tensor:
        noise = {name: eps[:, :, None] for name, eps in noise.items()}
        log_p, log_q = self.log_terms({name: value[None, :, None] for name, value in x.items()}, y[None], noise)
        log_weights = sum(log_p.values()) - sum(log_q.values())
        # under an intervention on every latent variable no term is left that knows of the samples
        return log_weights.expand(len(next(iter(noise.values()))), len(next(iter(x.values()))), y.shape[1])

    def log_terms(
        self, x: dict[str, Tensor], y: Tensor, noise: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The log density of each variable, keyed as ``"p(x1|y,z)"``, under the model and the guide, at the guide's samples.

        Their difference, summed, is the log weight. Arguments as in :meth:`infer`; each term has the leading axes, in nats.
        """
        values, log_q = self.infer(x, y, noise)
        log_p = {}
        for factor in self.model.factors:
            if not set(factor.variables) <= self.model.given | set(self.interventions):
                for name, p in zip(factor.variables, self._distributions(factor, values), strict=True):
                    log_p[str(Factor((name,), factor.parents, factor.symbol))] = p.log_prob(values[name])
        return log_p, log_q

    def observe(self, x: Tensor) -> dict[str, Tensor]:
        """The observed variables of images (B, channels, H, W), by name: the images, or what is computed from them."""
        return {name: self.deterministic[name](x) if name in self.deterministic else x for name in self.observed}

    def infer(self, x: dict[str, Tensor], y: Tensor, noise: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Values of all variables, the latent ones sampled from the guide, and the guide's log densities there.

        ``x`` holds the observed variables, as :meth:`observe` gives them. Arguments broadcast against each other over any
        leading axes.
        """
        values, log_q = {**x, "y": y}, {}
        for name in self.guide.variables:
            factor = self.guide.factor_of(name)
            if name in self.interventions:
                values[name] = self._set(name, y)
                continue
            (q,) = self._distributions(factor, values)
            values[name] = q.base_dist.loc + q.base_dist.scale * noise[name]
            log_q[str(factor)] = q.log_prob(values[name])
        return values, log_q

    def _set(self, name: str, like: Tensor) -> Tensor:
        """The value (D,) that an intervention gives to a latent variable."""
        value = torch.as_tensor(self.interventions[name], dtype=like.dtype, device=like.device)
        return value.expand(self.networks[str(self.guide.factor_of(name))].dims)

    def _distributions(self, factor: Factor, values: dict[str, Tensor]) -> tuple:
        made = self.networks[str(factor)](**{parent: values[parent] for parent in factor.parents})
        return made if isinstance(made, tuple) else (made,)

    def _noise(self, x: Tensor, samples: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        sizes = {name: self.networks[str(self.guide.factor_of(name))].dims for name in self.guide.variables}
        # one draw, split: under frozen noise two draws would repeat each other
        eps = self.noise(samples, len(x), sum(sizes.values()), x, generator)
        return dict(zip(sizes, eps.split(list(sizes.values()), dim=-1), strict=True))

    def _one_hot(self, x: Tensor) -> Tensor:
        return torch.eye(self.classes, dtype=x.dtype, device=x.device)

    # ------------------------------------------------------------ training and sampling

    def elbo(
        self, x: Tensor | dict[str, Tensor], y: Tensor, generator: torch.Generator | None = None, beta: float = 1.0
    ) -> Tensor:
        """Evidence lower bound (B,) in nats of log p(x, y) (of log p(y|x) where x is given), from one sample of z.

        ``x`` is images, or what :meth:`observe` makes of them, which saves the work where it is the same in every epoch.
        ``beta`` weighs the terms of the latent variables, log p(z|.) - log q(z|.): it warms up from near 0 to 1 in
        training, so that the code is used before it is paid for. `deepbayes`, "Training with ELBO", is ``beta = 1``.
        """
        x = x if isinstance(x, dict) else self.observe(x)
        like = next(iter(x.values()))
        noise = {name: eps[0] for name, eps in self._noise(like, 1, generator).items()}
        log_p, log_q = self.log_terms(x, self._one_hot(like)[y], noise)
        latent = {str(self.model.factor_of(name)) for name in self.guide.variables}
        total = sum(term if name not in latent else beta * term for name, term in log_p.items())
        return total - beta * sum(log_q.values())

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw ``count`` joint samples by going down the graph from its roots; every variable by name, images as their means.

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
            if name in self.interventions and name != "y":
                values[name] = self._set(name, like).expand(count, -1)
                continue
            p = self._distributions(factor, values)[factor.variables.index(name)]
            if name in self.observed:
                values[name] = p.mean
            elif name == "y":
                picks = self._labels(p.logits.expand(count, self.classes), generator)
                values[name] = self._one_hot(like)[picks.to(like.device)]
            else:
                eps = torch.randn(count, *p.event_shape, generator=generator, device=generator.device).to(like)
                values[name] = p.base_dist.loc + p.base_dist.scale * eps
        return {**values, "y": values["y"].argmax(-1)}

    def _labels(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        if "y" in self.interventions:
            return torch.as_tensor(self.interventions["y"]).expand(len(logits))
        return torch.multinomial(logits.softmax(-1).to(generator.device), 1, generator=generator)[:, 0]


def _check_parts(
    model: Factorization,
    guide: Factorization,
    networks: dict,
    observed: tuple[str, ...],
    deterministic: dict,
    classes: int,
    samples: int,
) -> None:
    for factor in (*model.factors, *guide.factors):
        if len(factor.variables) > 1 and not set(factor.variables) <= set(observed):
            raise ValueError(f"factor {factor} must make one variable; only observed variables may share a factor")
    if not set(deterministic) <= set(observed):
        raise ValueError(f"deterministic must name observed variables, {', '.join(observed)}; got {sorted(deterministic)}")
    latent = set(model.variables) - {*observed, "y"}
    if set(guide.variables) != latent:
        raise ValueError(f"guide {guide} must have one factor for each latent variable of {model}: {sorted(latent)}")
    check_number(classes, "classes", low=2, integer=True)
    check_number(samples, "samples", low=1, integer=True)
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
