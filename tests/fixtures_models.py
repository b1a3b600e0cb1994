"""Small models that several test files attack; each is made once per test process."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridgen_lib.classifier import Classifier, StochasticClassifier, frozen_noise, is_stochastic
from hybridgen_lib.data import as_float, load


@cache
def images(n: int = 200) -> tuple[Tensor, Tensor]:
    """The first ``n`` test images of fashion-mini and their labels."""
    data = load("fashion-mini")
    return as_float(data.test_x[:n]), data.test_y[:n]


@cache
def small_cnn() -> nn.Module:
    """An undefended CNN on fashion-mini: 3 epochs, about 80 % right, a few seconds on one core."""
    data = load("fashion-mini")
    x, y = as_float(data.train_x), data.train_y
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(3):
            for rows in torch.randperm(len(x)).split(128):
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
    return model.eval()


class Rounded(nn.Module):
    """A classifier behind a step without a gradient: pixels are rounded to ``levels`` grey levels first."""

    def __init__(self, classifier: nn.Module, levels: int = 8):
        super().__init__()
        self.classifier, self.levels = classifier, levels

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.round(x * self.levels) / self.levels)


class Noisy(StochasticClassifier):
    """A classifier that sees every image under fresh pixel noise of standard deviation ``sigma``."""

    score_kind = "logit"

    def __init__(self, classifier: nn.Module, sigma: float = 0.3, seed: int = 0):
        super().__init__(seed)
        self.classifier, self.sigma = classifier, sigma

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = self.noise(1, len(x), x[0].numel(), x, generator)[0]
        return self.classifier(x + self.sigma * noise.expand(len(x), -1).reshape(x.shape))


class Detached(nn.Module):
    """A classifier that hides its image from autograd: there is no gradient at all, not even one of zeros."""

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x.detach())


class Constant(nn.Module):
    """The same scores for every image, all of them 0; they are a view of its parameter."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores.expand(len(x), -1)


# ---------------------------------------------------------------- what every model with noise of its own must do


def has_noise_of_its_own(model: nn.Module, x: Tensor, classes: int) -> None:
    """Fresh draws, equal ones from equal generators, one function under frozen noise, and the global source untouched."""
    before = torch.get_rng_state()
    four, other = (torch.Generator().manual_seed(seed) for seed in (4, 5))
    assert isinstance(model, Classifier)
    assert is_stochastic(model)
    with torch.no_grad():
        assert model(x).shape == (len(x), classes)
        assert not torch.equal(model(x), model(x))
        first = model(x, four)
        assert torch.equal(first, model(x, four.manual_seed(4)))
        assert not torch.equal(first, model(x, other))
        with frozen_noise(model, 1):
            assert not is_stochastic(model)
            assert torch.equal(model(x), model(x))
            first = model(x)
        with frozen_noise(model, 2):
            assert not torch.equal(model(x), first)
    assert torch.equal(torch.get_rng_state(), before)


def ignores_company_when_frozen(model: nn.Module, x: Tensor) -> None:
    """Scores under frozen noise are those of each image alone. ``model`` and ``x`` are double."""
    with torch.no_grad(), frozen_noise(model):
        torch.testing.assert_close(torch.cat([model(x[:1]), model(x[1:4]), model(x[4:])]), model(x))
