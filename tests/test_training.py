"""The loop: seeded, resumable to the last bit, loud when something is off. The objectives: what they say they are."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybridgen_lib import recipes, training
from hybridgen_lib.attacks import L2, Linf, pgd
from hybridgen_lib.models.hybrid import causal_head
from hybridgen_lib.training import (
    adversarial,
    cross_entropy,
    fit,
    in_bfloat16,
    negative_elbo,
    save_atomically,
    shifted_and_mirrored,
)

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


def tap():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh()).requires_grad_(False)


def head(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return causal_head(tap(), (1, 8, 8), 3, hidden=8, code=2, manipulation=2, samples=2)


FLOAT = X.float() / 255
SEEN = {"x1": FLOAT.flatten(1), "x2": tap()(FLOAT)}


@pytest.mark.parametrize("name", ["cnn", "gbz", "cnn-at", "shifted_and_mirrored", "cama", "head", "head, m sampled"])
def test_a_killed_run_goes_on_and_ends_where_the_whole_one_does(name, tmp_path, monkeypatch):
    def start():
        if name.startswith("head"):
            return head()
        return recipes.build("cnn" if name == "shifted_and_mirrored" else name, (1, 8, 8), 3, width=4, hidden=16)

    objectives = {
        "cnn": cross_entropy,
        "gbz": negative_elbo(0.5),
        "cnn-at": adversarial(Linf(0.1), steps=2, warm_up=0.5),
        "shifted_and_mirrored": in_bfloat16(shifted_and_mirrored(cross_entropy, 2)),
        "cama": negative_elbo(do={"m": 0}),
        "head": negative_elbo(0.2, pressure=3.0, do={"m": 0}),
        "head, m sampled": negative_elbo(pressure=3.0),
    }
    objective, x = objectives[name], SEEN if name.startswith("head") else X
    whole, cut = start(), start()
    expected = fit(whole, objective, x, Y, **SETTINGS)

    saved, calls = training.save_atomically, []

    def killed_after_two(state, path):
        saved(state, path)
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_atomically", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, objective, x, Y, **SETTINGS, checkpoint=tmp_path / "run")
    monkeypatch.undo()
    resumed = start()
    assert fit(resumed, objective, x, Y, **SETTINGS, checkpoint=tmp_path / "run") == expected
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


class SpyOnBeta(nn.Module):
    def __init__(self):
        super().__init__()
        self.betas, self.done = [], []

    def elbo(self, x, y, generator, beta):
        self.betas.append(beta)
        return torch.zeros(1)

    def do(self, **values):
        self.done.append(values)
        return self


def test_pressure_lasts_until_the_last_quarter():
    spy = SpyOnBeta()
    for progress in (0.0, 0.5, 0.7499, 0.75, 0.9, 1.0):
        negative_elbo(pressure=4.0)(spy, X, Y, progress, torch.Generator())
    assert spy.betas == [4, 4, 4, 1, 1, 1]
    assert spy.done == []


def test_pressure_and_warm_up_multiply():
    spy = SpyOnBeta()
    for progress in (0.0, 0.25, 0.5, 0.74, 0.75, 1.0):
        negative_elbo(0.5, pressure=4.0)(spy, X, Y, progress, torch.Generator())
    for progress in (0.5, 0.8, 1.0):
        negative_elbo(1.0, pressure=4.0)(spy, X, Y, progress, torch.Generator())
    assert spy.betas == pytest.approx([0.04, 4 * 0.505, 4, 4, 1, 1, 4 * 0.505, 0.802, 1])


@pytest.mark.parametrize("do", [None, {}, {"m": 0}, {"m": 0.5, "z": 1}])
def test_an_objective_intervenes_where_it_is_told_to(do):
    spy = SpyOnBeta()
    negative_elbo(do=do)(spy, X, Y, 0.5, torch.Generator())
    assert spy.done == ([do] if do else [])


def test_the_objective_is_the_elbo_of_the_model_under_the_intervention():
    model, y = head(), Y[:7]
    seen = {name: part[:7] for name, part in SEEN.items()}
    loss = negative_elbo(pressure=3.0, do={"m": 0.5})(model, seen, y, 0.1, torch.Generator().manual_seed(1))
    expected = -model.do(m=0.5).elbo(FLOAT[:7], y, generator=torch.Generator().manual_seed(1), beta=3.0).mean()
    torch.testing.assert_close(loss, expected)
    assert model.interventions == {}


# ---------------------------------------------------------------- what the model observes, in place of images


@pytest.mark.parametrize("images", [X, FLOAT], ids=["uint8", "float"])
def test_the_image_observed_is_the_image(images):
    a, b = (recipes.build("gbz", (1, 8, 8), 3, width=4, hidden=16) for _ in range(2))
    history = fit(a, negative_elbo(0.5), images, Y, **SETTINGS)
    assert fit(b, negative_elbo(0.5), {"x": FLOAT}, Y, **SETTINGS) == history
    assert torch.equal(weights(a), weights(b))


@pytest.mark.parametrize("do", [None, {"m": 0}])
def test_features_taken_once_teach_what_features_taken_every_time_do(do):
    a, b = head(), head()
    history = fit(a, negative_elbo(do=do), FLOAT, Y, **SETTINGS)
    assert fit(b, negative_elbo(do=do), SEEN, Y, **SETTINGS) == pytest.approx(history, rel=1e-4)
    torch.testing.assert_close(weights(a), weights(b), rtol=1e-3, atol=1e-5)
    assert history[-1] < history[0]


def test_what_is_observed_may_have_any_shape_and_value():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

    rows = []

    def objective(model, x, y, progress, generator):
        rows.append(({name: part.shape for name, part in x.items()}, y))
        assert torch.equal(x["a"].long(), y)
        return model.weight * sum(part.sum() for part in x.values())

    x = {"a": 40.0 + torch.arange(50), "b": -9 * torch.ones(50, 2, 3, 1, 1, dtype=torch.float64)}
    fit(Sum(), objective, x, torch.arange(50) + 40, epochs=1, batch_size=16)
    assert [shapes for shapes, _ in rows] == [{"a": (n,), "b": (n, 2, 3, 1, 1)} for n in (16, 16, 16, 2)]
    assert sorted(torch.cat([y for _, y in rows]).tolist()) == list(range(40, 90))


@pytest.mark.parametrize(
    "x",
    [
        {},
        {"x1": SEEN["x1"], "x2": SEEN["x2"][:-1]},
        {"x1": SEEN["x1"][:0], "x2": SEEN["x2"][:0]},
        {"x1": X, "x2": SEEN["x2"]},
        {"x1": SEEN["x1"].tolist(), "x2": SEEN["x2"]},
        {"x1": None},
        {"x1": torch.tensor(1.0)},
    ],
    ids=["empty", "lengths", "none", "uint8", "lists", "nothing", "a number"],
)
def test_a_bad_dict_is_named_before_any_work(x):
    model = head()
    before = weights(model)
    with pytest.raises(ValueError, match=r"^x must"):
        fit(model, negative_elbo(), x, Y, epochs=1)
    assert torch.equal(weights(model), before)


def test_labels_must_be_as_many_as_what_is_observed():
    with pytest.raises(ValueError, match=r"^y must hold one label per image: 50 images, got 49"):
        fit(head(), negative_elbo(), SEEN, Y[:49], epochs=1)


# ---------------------------------------------------------------- shifts, mirrors, precision


class Seen:
    """An objective that keeps what it is given."""

    def __init__(self):
        self.calls = []

    def __call__(self, model, x, y, progress, generator):
        self.calls.append((x, y, progress, generator))
        return x.sum()


def shown(x, pixels, mirror=True, seed=0):
    seen = Seen()
    shifted_and_mirrored(seen, pixels, mirror)(None, x, Y[: len(x)], 0.25, torch.Generator().manual_seed(seed))
    return seen.calls[0][0]


def versions(image, pixels, mirror):
    """Every shift of one image by up to ``pixels`` each way over black, then every mirror of it."""
    _, height, width = image.shape
    padded = F.pad(image, [pixels] * 4)
    shifts = [(i, j) for i in range(2 * pixels + 1) for j in range(2 * pixels + 1)]
    plain = [padded[:, i : i + height, j : j + width] for i, j in shifts]
    return plain + [p.flip(2) for p in plain] if mirror else plain


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize(("pixels", "shape"), [(0, (1, 4, 6)), (1, (3, 5, 4)), (2, (2, 3, 3)), (4, (1, 3, 2))])
def test_images_are_shifted_and_mirrored_and_nothing_else(pixels, shape, mirror):
    one = 0.1 + 0.9 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    possible = torch.stack(versions(one, pixels, mirror)).flatten(1)
    made = shown(one.expand(1500, *shape), pixels, mirror).flatten(1)
    assert made.shape == (1500, one.numel())
    same = (made[:, None] == possible).all(2)
    assert same.any(1).all()
    assert same.any(0).all()  # each of them is made at some time
    black = possible.count_nonzero(1) == 0
    if mirror and not black.any():
        half = len(possible) // 2
        assert 0.45 < same[:, half:].any(1).double().mean() < 0.55
        assert 1500 / len(possible) / 3 < same.sum(0).min() <= same.sum(0).max() < 1500 / len(possible) * 3


def test_each_image_moves_on_its_own_and_keeps_its_place():
    x = torch.zeros(50, 1, 9, 9)
    x[:, 0, 4, 4] = torch.arange(1, 51) / 50
    made = shown(x, 3)
    assert torch.equal(made.flatten(1).sum(1), x.flatten(1).sum(1))
    places = made.flatten(1).argmax(1)
    assert len(places.unique()) > 15
    assert (x.flatten(1).argmax(1) == 40).all()  # the images themselves are left alone


def test_the_generator_alone_decides():
    state = torch.get_rng_state()
    assert torch.equal(shown(FLOAT, 2), shown(FLOAT, 2))
    assert not torch.equal(shown(FLOAT, 2), shown(FLOAT, 2, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(shown(FLOAT, 0, mirror=False), FLOAT)


def test_what_is_not_an_image_passes_through():
    seen, generator = Seen(), torch.Generator().manual_seed(0)
    value = shifted_and_mirrored(seen, 1)(None, FLOAT, Y, 0.25, generator)
    x, y, progress, same = seen.calls[0]
    assert torch.equal(value, x.sum())
    assert y is Y
    assert progress == 0.25
    assert same is generator


def test_a_shift_has_a_gradient():
    x = FLOAT.clone().requires_grad_(True)
    shifted_and_mirrored(lambda model, x, *_: x.sum(), 0)(None, x, Y, 0.0, torch.Generator()).backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("pixels", [-1, 1.5, None, "2"])
def test_a_bad_shift_is_named(pixels):
    with pytest.raises(ValueError, match=r"^pixels must"):
        shifted_and_mirrored(cross_entropy, pixels)


def test_bfloat16_changes_nothing_on_a_cpu():
    a, b, dtypes = net(), net(), []
    assert fit(a, cross_entropy, X, Y, **SETTINGS) == fit(b, in_bfloat16(cross_entropy), X, Y, **SETTINGS)
    assert torch.equal(weights(a), weights(b))
    in_bfloat16(lambda model, x, *_: dtypes.append(model(x).dtype))(a, FLOAT, Y, 0.0, torch.Generator())
    assert dtypes == [torch.float32]


def test_bfloat16_is_on_where_images_lie_on_a_gpu(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: calls.append((*a, *k.values())) or nullcontext())
    for device in ("cpu", "cuda"):
        y = SimpleNamespace(device=torch.device(device), is_cuda=device == "cuda")
        assert in_bfloat16(lambda model, x, *_: x)(None, FLOAT, y, 0.0, torch.Generator()) is FLOAT
    assert calls == [("cpu", torch.bfloat16, False), ("cuda", torch.bfloat16, True)]


def test_bfloat16_takes_what_a_model_observes():
    history = fit(head(), in_bfloat16(negative_elbo()), SEEN, Y, epochs=1)
    assert history == fit(head(), negative_elbo(), SEEN, Y, epochs=1)


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
    with pytest.raises(ValueError, match="pressure"):
        negative_elbo(pressure=-1.0)


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
