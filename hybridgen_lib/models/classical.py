"""Classical generative classifiers: a density for each class, and Bayes' rule between them.

Here: naive Bayes and a mixture of Gaussians over the pixels of each class, and what turns any classifier's scores into
probabilities. Chapter 01 builds them by hand.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hybridgen_lib.classifier import ask, check_image_shape, check_images, check_labels, check_model, check_number

__all__ = ["GaussianMixtureClassifier", "GaussianNaiveBayes", "Probabilities"]

VARIANCE_FLOOR = 1e-6
"""Added to every variance by EM, as scikit-learn does. Without it a component that owns a single image has variance 0 and
infinite density there. Its choice is not delicate: 60 components on 6,000 images a class stay above 0.004 without help."""


class GaussianNaiveBayes(nn.Module):
    """For each class c and pixel i a Normal of its own: images (B, channels, H, W) -> scores (B, C).

    The score is log p(y=c) + sum_i log N(x_i | mu_ci, sigma_ci^2), in nats: the log joint density, exactly. Parameters, until
    :meth:`fit` all alike: ``means`` and ``log_variances`` (C, D) for D pixels; and the buffer ``log_prior`` (C,).

    Source: zoo, equation 3. Its released code binarises the image first and passes the variance where a standard deviation
    belongs: ``reproduce.zoo.released_naive_bayes``. The document leaves the prior out, as all digits are about as frequent.

    Raises ``ValueError`` if ``classes`` < 2 or ``image_shape`` is not (channels, H, W).
    """

    score_kind = "log_joint"

    def __init__(self, image_shape: tuple[int, int, int], classes: int):
        super().__init__()
        self.image_shape = check_image_shape(image_shape)
        check_number(classes, "classes", low=2, integer=True)
        self.means = nn.Parameter(torch.zeros(classes, math.prod(image_shape)))
        self.log_variances = nn.Parameter(torch.zeros_like(self.means))
        self.register_buffer("log_prior", torch.full((classes,), -math.log(classes)))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        squared = (x.flatten(1)[:, None] - self.means).square() * torch.exp(-self.log_variances)
        return self.log_prior - 0.5 * (squared + self.log_variances + math.log(2 * math.pi)).sum(2)

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, *, smoothing: float = 1e-9) -> list[float]:
        """Maximum likelihood in closed form; return -log p(x, y), nats an image, as the one entry of a history.

        To every variance ``smoothing`` times the largest variance of any pixel over all images is added, as scikit-learn does:
        a pixel that is black in every image of a class has variance 0 there, and infinite density. The prior is the share of
        each class.

        Args:
            x: images (N, channels, H, W), uint8 (read as [0, 1]) or float in [0, 1].
            y: integer labels (N,); every class occurs.

        Raises ``ValueError`` for bad arguments before any work.
        """
        check_number(smoothing, "smoothing", low=0)
        x, counts = _checked_training_set(x, y, self.image_shape, len(self.means), least=1)
        pixels = x.flatten(1).double()
        variances = torch.stack([pixels[y == c].var(0, correction=0) for c in range(len(self.means))])
        variances += smoothing * pixels.var(0, correction=0).max()
        if not (variances > 0).all():
            raise ValueError(f"smoothing must be > 0 where a pixel never varies within a class, got {smoothing}")
        self.means.copy_(torch.stack([pixels[y == c].mean(0) for c in range(len(self.means))]))
        self.log_variances.copy_(variances.log())
        self.log_prior.copy_((counts.double() / len(y)).log())
        total = 0.0
        for images, labels in zip(x.split(1_000), y.split(1_000), strict=True):
            scores = self(images.to(self.means))
            total += scores.gather(1, labels[:, None].to(scores.device, torch.long)).sum().item()
        return [-total / len(y)]


class GaussianMixtureClassifier(nn.Module):
    """For each class c a mixture of J spherical Gaussians over the pixels: images (B, channels, H, W) -> scores (B, C).

    The score is log p(y=c) + log sum_j pi_cj N(x | mu_cj, sigma_cj^2 I), in nats: the log joint density, exactly. So this
    model has no noise. Parameters, until :meth:`fit` all alike: ``means`` (C, J, D) for D pixels, ``log_weights`` (C, J) =
    log pi, ``log_variances`` (C, J) = log sigma^2; and the buffer ``log_prior`` (C,).

    Source: `zoo`, sections 2.3 and A.1: one mixture per class, 60 spherical components, chosen by a grid search. Its
    released code hands the *softmax* of these scores to the attacks: :class:`Probabilities`.

    Raises ``ValueError`` if ``classes`` < 2, ``components`` (J) < 1 or ``image_shape`` is not (channels, H, W).
    """

    score_kind = "log_joint"

    def __init__(self, image_shape: tuple[int, int, int], classes: int, components: int = 60):
        super().__init__()
        self.image_shape = check_image_shape(image_shape)
        check_number(classes, "classes", low=2, integer=True)
        check_number(components, "components", low=1, integer=True)
        self.means = nn.Parameter(torch.zeros(classes, components, math.prod(image_shape)))
        self.log_weights = nn.Parameter(torch.full((classes, components), -math.log(components)))
        self.log_variances = nn.Parameter(torch.zeros(classes, components))
        self.register_buffer("log_prior", torch.full((classes,), -math.log(classes)))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.log_prior + torch.logsumexp(self.log_weights + self.log_densities(x), dim=2)

    def log_densities(self, x: Tensor) -> Tensor:
        """log N(x | mu_cj, sigma_cj^2 I) in nats, (B, C, J), by one matrix product.

        ||x - mu||^2 = ||x||^2 - 2 x.mu + ||mu||^2 loses digits where the three are larger than their sum. Measured from the
        middle of all means they rarely are: in float32 a score of zoo's model on MNIST is right to 0.003 nats.
        """
        middle = self.means.detach().mean((0, 1))
        x, means = x.flatten(1) - middle, self.means - middle
        products = (x @ means.flatten(0, 1).T).unflatten(1, means.shape[:2])
        squared = x.square().sum(1)[:, None, None] - 2 * products + means.square().sum(2)
        pixels = means.shape[2]
        return -0.5 * (squared * torch.exp(-self.log_variances) + pixels * (self.log_variances + math.log(2 * math.pi)))

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, *, iterations: int = 1_000, seed: int = 0, label: str = "EM") -> list[float]:
        """Maximum likelihood by EM from a k-means start, class by class; return -log p(x|y) of each class, nats an image.

        scikit-learn's ``GaussianMixture`` with its own defaults, as in `zoo`'s code: one start, until an iteration gains less
        than 0.001 nats an image, at most ``iterations``. The prior is the share of each class.

        Args:
            x: images (N, channels, H, W), uint8 (read as [0, 1]) or float in [0, 1].
            y: integer labels (N,); every class has at least as many images as components.

        Raises ``ValueError`` for bad arguments before any work.
        """
        from sklearn.mixture import GaussianMixture  # a second to import, and only fitting needs it

        check_number(iterations, "iterations", low=1, integer=True)
        check_number(seed, "seed", low=0, integer=True)
        classes, components = self.log_weights.shape
        x, counts = _checked_training_set(x, y, self.image_shape, classes, least=components)
        history = []
        for c in tqdm(range(classes), desc=label):
            images = x[y == c].flatten(1).double().cpu().numpy()
            options = {"max_iter": int(iterations), "reg_covar": VARIANCE_FLOOR, "random_state": int(seed)}
            mixture = GaussianMixture(components, covariance_type="spherical", **options).fit(images)
            self.means[c] = torch.from_numpy(mixture.means_)
            self.log_weights[c] = torch.from_numpy(mixture.weights_).log()
            self.log_variances[c] = torch.from_numpy(mixture.covariances_).log()
            history.append(-float(mixture.lower_bound_))
        self.log_prior.copy_((counts.double() / len(y)).log())
        return history

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw ``count`` labels ``y`` (count,), components ``j`` (count,) and images ``x`` (count, channels, H, W).

        Pixels are Normal, so some leave [0, 1]; clamp them to look at them.
        """
        check_number(count, "count", low=1, integer=True)
        generator = generator or torch.Generator().manual_seed(0)
        y = torch.multinomial(self.log_prior.exp().to(generator.device), count, replacement=True, generator=generator)
        j = torch.multinomial(self.log_weights.exp().to(generator.device)[y], 1, generator=generator)[:, 0]
        noise = torch.randn(count, self.means.shape[2], generator=generator, device=generator.device)
        y, j, noise = (drawn.to(self.means.device) for drawn in (y, j, noise))
        x = self.means[y, j] + torch.exp(self.log_variances[y, j] / 2)[:, None] * noise
        return {"y": y, "j": j, "x": x.unflatten(1, self.image_shape)}


def _checked_training_set(x: Tensor, y: Tensor, image_shape: tuple, classes: int, least: int) -> tuple[Tensor, Tensor]:
    """The images as float in [0, 1] and how many there are of each class, once both are known to be good."""
    x = x.float() / 255 if isinstance(x, Tensor) and x.dtype == torch.uint8 else x
    if tuple(check_images(x).shape[1:]) != image_shape:
        raise ValueError(f"x must hold images of shape {image_shape}, got {tuple(x.shape[1:])}")
    counts = torch.bincount(check_labels(y, classes, len(x)), minlength=classes)
    if counts.min() < least:
        few = f"{int(counts.min())} of class {int(counts.argmin())}"
        raise ValueError(f"y must label at least {least} images of every class; got {few}")
    return x, counts


class Probabilities(nn.Module):
    """Any classifier, but with p(y|x) = softmax(scores) (B, C) where scores belong.

    The decision is the same; the contract is broken, and ``score_kind`` says so: "probability" is none of
    ``SCORE_KINDS``. The softmax of the output is no longer p(y|x), and where two scores are more than some 17 nats apart a
    float32 probability is exactly 1, further apart its gradient is exactly 0. An attack that sees this output only sees a
    flat landscape: `zoo`'s released code attacks its classifiers so. It is here to be measured, not to be used.
    """

    score_kind = "probability"

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = check_model(model)

    @property
    def stochastic(self) -> bool:
        """As the model inside says of itself."""
        return bool(getattr(self.model, "stochastic", False))

    @property
    def examples_per_pass(self) -> int | None:
        """As the model inside wants it, where it has a wish: see :func:`~hybridgen_lib.attacks.ascent.ascend`."""
        return getattr(self.model, "examples_per_pass", None)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return ask(self.model, x, generator).softmax(1)
