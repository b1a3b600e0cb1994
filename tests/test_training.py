"""The loop: seeded, resumable to the last bit, loud when something is off. The objectives: what they say they are."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybridgen_lib import recipes, training
from hybridgen_lib.attacks import L2, Linf, pgd
from hybridgen_lib.training import adversarial, cross_entropy, fit, negative_elbo, save_atomically

Y = torch.arange(50) % 3
NOISE = torch.randint(0, 80, (50, 1, 8, 8), generator=torch.Generator().manual_seed(0))
X = (NOISE + 80 * Y[:, None, None, None]).to(torch.uint8)  # a class is a brightness
SETTINGS = {"epochs": 3, "batch_size": 16}


def net(seed=0):
    return recipes.build("cnn", (1, 8, 8), 3, seed=seed, width=4, hidden=16)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_lowers_the_objective_and_repeats_exactly():
    a, b = net(), net()
    state = torch.get_rng_state()
    history = fit(a, cross_entropy, X, Y, epochs=30, batch_size=16, learning_rate=1e-2)
    assert history[-1] < history[0] / 2
    assert not a.training
    assert torch.equal(torch.get_rng_state(), state)
    fit(b, cross_entropy, X, Y, epochs=30, batch_size=16, learning_rate=1e-2)
    assert torch.equal(weights(a), weights(b))


def test_another_seed_is_another_run():
    a, b = net(), net()
    fit(a, cross_entropy, X, Y, **SETTINGS, seed=0)
    fit(b, cross_entropy, X, Y, **SETTINGS, seed=1)
    assert not torch.equal(weights(a), weights(b))


@pytest.mark.parametrize("name", ["cnn", "gbz", "cnn-at"])
def test_a_killed_run_goes_on_and_ends_where_the_whole_one_does(name, tmp_path, monkeypatch):
    def start():
        return recipes.build(name, (1, 8, 8), 3, width=4, hidden=16)

    objectives = {"cnn": cross_entropy, "gbz": negative_elbo(0.5), "cnn-at": adversarial(Linf(0.1), steps=2, warm_up=0.5)}
    objective = objectives[name]
    whole, cut = start(), start()
    expected = fit(whole, objective, X, Y, **SETTINGS)

    saved, calls = training.save_atomically, []

    def killed_after_two(state, path):
        saved(state, path)
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_atomically", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, objective, X, Y, **SETTINGS, checkpoint=tmp_path / "run")
    monkeypatch.undo()
    resumed = start()
    assert fit(resumed, objective, X, Y, **SETTINGS, checkpoint=tmp_path / "run") == expected
    assert torch.equal(weights(resumed), weights(whole))


def test_the_learning_rate_falls_in_a_line(monkeypatch):
    seen, step = [], torch.optim.Adam.step

    def spy(optimizer, *arguments, **keywords):
        seen.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    fit(net(), cross_entropy, X, Y, epochs=2, batch_size=25, learning_rate=0.5, final_learning_rate=0.1)
    assert seen == pytest.approx([0.5, 0.4, 0.3, 0.2])


def test_warm_up_starts_low_and_ends_at_one():
    class Spy(nn.Module):
        def elbo(self, x, y, generator, beta):
            betas.append(beta)
            return torch.zeros(1)

    betas: list[float] = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        negative_elbo(0.5)(Spy(), X, Y, progress, torch.Generator())
        negative_elbo(0.0)(Spy(), X, Y, progress, torch.Generator())
    assert betas[::2] == pytest.approx([0.01, 0.505, 1, 1])
    assert betas[1::2] == [1, 1, 1, 1]


# ---------------------------------------------------------------- adversarial training


class Linear(nn.Module):
    """Two classes, 16 pixels: the worst change of the image is known in closed form."""

    def __init__(self, seed=0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 16, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x, generator=None):
        return x.flatten(1) @ self.weight.T


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)])
def test_the_loss_is_that_of_the_worst_image(steps, progress, share):
    """max over the ball of log(1 + exp(-margin)) is at margin - eps ||w_y - w_other||_1, also during the warm-up."""
    model, eps = Linear().train(), 0.1
    x = 0.3 + 0.4 * torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))  # no pixel can reach 0 or 1
    y = torch.arange(20) % 2
    before = torch.get_rng_state()
    loss = adversarial(Linf(eps), steps=steps, warm_up=0.4)(model, x, y, progress, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.weight.requires_grad
    assert model.weight.grad is None
    w = model.weight[0] - model.weight[1]
    margins = (x.flatten(1) @ w) * (1 - 2.0 * y)
    expected = F.softplus(-(margins - share * eps * w.abs().sum())).mean()
    torch.testing.assert_close(loss, expected)
    actual, wanted = (torch.autograd.grad(value, model.weight)[0] for value in (loss, expected))
    torch.testing.assert_close(actual, wanted)


def test_its_noise_is_the_generators_and_an_l2_ball_will_do():
    model, x = Linear(), 0.3 + 0.4 * torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    objective = adversarial(L2(0.5), steps=1)  # one step of 2.5 eps: where it ends on the sphere depends on the start
    a, b, c = (objective(model, x, Y[:20] % 2, 0.5, torch.Generator().manual_seed(s)).item() for s in (0, 0, 1))
    assert a == b
    assert a != c
    plain = cross_entropy(model, x, Y[:20] % 2, 0.5, torch.Generator()).item()
    assert a > plain


def test_it_teaches_what_survives_the_attack():
    """Half of the image says the label in a whisper, always; one pixel says it aloud, in 17 of 20 images. Plain training
    listens to the whisper, which a ball of eps 0.1 turns round; adversarial training has to listen to the pixel."""
    source = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 2
    sign = 2.0 * y - 1
    x = torch.full((600, 16), 0.5)
    x[:, :8] += 0.05 * sign[:, None] + 0.01 * torch.randn(600, 8, generator=source)
    x[:, 15] += 0.4 * sign * torch.where(torch.rand(600, generator=source) < 0.85, 1.0, -1.0)
    x = x.reshape(-1, 1, 4, 4).clamp(0, 1)
    accuracy = {}
    for name, objective in {"plain": cross_entropy, "adversarial": adversarial(Linf(0.1), steps=2)}.items():
        model = Linear()
        fit(model, objective, x, y, epochs=30, batch_size=50, learning_rate=0.2, final_learning_rate=0.0)
        attacked = pgd(model, x, y, Linf(0.1), steps=20)
        accuracy[name] = [(model(images).argmax(1) == y).double().mean().item() for images in (x, attacked)]
    assert accuracy["plain"][0] > 0.99
    assert accuracy["plain"][1] < 0.5
    assert accuracy["adversarial"][1] > 0.8


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"steps": 2, "warm_up": 1.5}, "warm_up"),
        ({"steps": 2, "ball": 0.1}, "ball"),
    ],
)
def test_bad_arguments_of_adversarial_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        adversarial(**{"ball": Linf(0.1), **arguments})


# ---------------------------------------------------------------- when something is off


def test_an_objective_that_is_not_finite_stops_the_run(tmp_path):
    def broken(model, x, y, progress, generator):
        return cross_entropy(model, x, y, progress, generator) * float("nan")

    with pytest.raises(FloatingPointError, match="epoch 0"):
        fit(net(), broken, X, Y, **SETTINGS, checkpoint=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"x": X[:0]}, "x"),
        ({"y": Y[:3]}, "y"),
        ({"y": Y.float()}, "y"),
        ({"x": X.float()}, "x"),
        ({"x": X.float() / 255 * float("nan")}, "x"),
        ({"final_learning_rate": -1.0}, "final_learning_rate"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_bad_arguments_are_named(changes, name):
    with pytest.raises(ValueError, match=name):
        fit(net(), cross_entropy, **{"x": X, "y": Y, "epochs": 1, **changes})
    with pytest.raises(ValueError, match="warm_up"):
        negative_elbo(2.0)


def test_a_failed_save_leaves_the_last_good_file(tmp_path, monkeypatch):
    path = tmp_path / "state"
    save_atomically({"a": 1}, path)

    def half(state, file):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_atomically({"a": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
