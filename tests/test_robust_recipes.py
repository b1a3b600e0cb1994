"""The recipes of `causalib` and `interpretable`: every name the claims use, published numbers, held-out images left alone."""

import dataclasses

import pytest
import torch
from torch import nn

from hybridgen_lib import data, recipes, training
from hybridgen_lib.attacks import L2, Linf
from hybridgen_lib.classifier import SCORE_KINDS, Classifier
from hybridgen_lib.models.bottleneck import Bottleneck
from hybridgen_lib.models.gazes import Gazes
from hybridgen_lib.models.networks import DenseNetwork, SmallCNN
from hybridgen_lib.models.smoothing import Smoothed
from hybridgen_lib.recipes import PROFILES, RECIPES, cache_path, recipe_of, trained
from hybridgen_lib.recipes.causalib import CAUSALIB, NETWORKS, WAYS
from hybridgen_lib.recipes.robust import ROBUST
from hybridgen_lib.results import claims

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
NAMES = [*CAUSALIB, *ROBUST]
AT_L2 = ["cnn-at-l2", "resnet18-at-l2", "resnet50-at-l2"]


def shape_of(name):
    return GREY if name.startswith(("mlp", "cnn")) else COLOUR


def images_of(shape, count=40, name="tiny", classes=3):
    """The first pixel of image k says k, so that an image can be told from another."""
    x = torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x[:, 0, 0, 0] = torch.arange(count)
    y = torch.arange(count) % classes
    return data.ImageData(x, y, x[:10], y[:10], tuple("abc"), name)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDGEN_CACHE", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def tiny():
    return images_of((1, 8, 8))


SMALL = {
    "mlp": {"hidden": 4},
    "alexnet": {"width": 1 / 64},
    "resnet34": {"width": 1 / 64},
    "wideresnet": {"widen": 1},
    "cnn": {"width": 2, "hidden": 4},
    "resnet18": {"width": 1 / 64},
    "resnet50": {"width": 1 / 64},
}
CODES = {"vib": {"code": 3, "draws": 2}, "causalib": {"code": 3, "draws": 2}, "at-pgd": {"steps": 2}}


def small(name):
    network, _, way = name.partition("-")
    sizes = {**SMALL[network], **CODES.get(way, {})}
    return sizes | ({"held_out": 8, "steps": 2} if name in AT_L2 else {})


# ---------------------------------------------------------------- every name, at every profile


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_builds_at_every_profile(name, profile):
    """At full size, on a device that holds no numbers."""
    shape, classes = shape_of(name), 100 if name.startswith("resnet34") else 10
    with torch.device("meta"), torch.no_grad():
        model = recipes.build(name, shape, classes, profile).eval()
        assert model(torch.rand(2, *shape)).shape == (2, classes)
    assert isinstance(model, Classifier)
    assert model.score_kind in SCORE_KINDS
    assert set(RECIPES[name].settings[profile]) == set(RECIPES[name].settings["paper"])


@pytest.mark.parametrize("name", CAUSALIB)
def test_what_stands_in_front_of_which_network(name):
    network, _, way = name.partition("-")
    model = recipes.build(name, (1, 8, 8), 3, **small(name))
    kind = {"smoothing": Smoothed, "ciiv": Gazes, "vib": Bottleneck, "causalib": Bottleneck}.get(way)
    plain = type(NETWORKS[network](small(network), (1, 8, 8), 3))
    if kind is None:
        assert type(model) is plain
    else:
        assert type(model) is kind
        inner = model.network if way == "smoothing" else model.trunk
        assert type(inner) is plain


def test_the_plan_of_names():
    assert set(CAUSALIB) == {network + (f"-{way}" if way else "") for network in NETWORKS for way in WAYS}
    assert len(CAUSALIB) == 32
    assert set(NAMES) <= set(RECIPES)
    assert set(ROBUST) == {"cnn-at", "cnn-at-l2", "resnet18", "resnet18-at-l2", "resnet50", "resnet50-at-l2"}


def test_every_model_of_a_claim_of_chapters_09_and_10_is_a_recipe_with_valid_changes():
    table = claims().query("document in ('causalib', 'interpretable') and data != 'small-imagenet'")
    table = table[table["chapter"].isin(["09", "10"])]
    names = (set(table["model"]) | set(table["versus"])) - {"", "cited", "most-models", "real-data"}
    assert {"mlp-causalib@alpha=0.05,beta=0.2", "mlp-causalib@norm=l2", "resnet18-at-l2", "wideresnet-ciiv"} <= names
    for name in sorted(names):
        recipe, changes = recipe_of(name)
        with torch.device("meta"):
            model = recipes.build(name, shape_of(recipe), 10, "paper")
        settings = recipes.cache._settings(recipe, "paper", changes)
        assert all(settings[key] == value for key, value in changes.items()), name
        assert model is not None


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mlp", {"epochs": 50, "batch_size": 100, "learning_rate": 1e-4, "final_learning_rate": 1e-4, "hidden": 1024}),
        ("mlp-vib", {"alpha": 0.01, "code": 256, "draws": 12}),
        ("mlp-causalib", {"alpha": 0.05, "beta": 0.05, "norm": "l1", "code": 256, "draws": 12}),
        ("mlp-smoothing", {"sigma": 0.25, "samples": 10}),
        ("mlp-ciiv", {"weight": 0.1, "samples": 9}),
        ("mlp-at-pgd", {"eps": 50 / 255, "steps": 20}),
        ("mlp-at-fgsm", {"eps": 50 / 255}),
        ("alexnet-at-pgd", {"eps": 8 / 255, "steps": 20, "epochs": 50, "batch_size": 100, "width": 1.0}),
        ("resnet34-at-fgsm", {"eps": 8 / 255, "peak": 0.3, "shift": 4, "learning_rate": 1e-3, "width": 1.0}),
        ("wideresnet-causalib", {"widen": 10, "alpha": 0.05, "beta": 0.05, "norm": "l1"}),
        ("resnet18", {"epochs": 100, "width": 1.0}),
        ("resnet18-at-l2", {"eps": 0.5, "steps": 20, "held_out": 1_000, "width": 1.0}),
        ("cnn-at-l2", {"eps": 1.5, "steps": 20, "held_out": 1_000}),
    ],
)
def test_what_the_documents_state_is_what_paper_has(name, settings):
    published = RECIPES[name].settings["paper"]
    assert {key: published[key] for key in settings} == settings


@pytest.mark.parametrize("way", WAYS)
def test_the_dense_network_is_trained_as_published_on_a_cpu_too(way):
    name = f"mlp-{way}" if way else "mlp"
    settings = RECIPES[name].settings
    changed = {key for key in settings["paper"] if settings["cpu"][key] != settings["paper"][key]}
    assert changed == ({"epochs"} if way == "at-pgd" else set())
    assert settings["quick"]["epochs"] < settings["paper"]["epochs"]


class Read(dict):
    """Settings that know who asked for them."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.asked = set()

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_of_a_recipe_is_asked_for(name, monkeypatch):
    """Else a change of it would train the same model again, under another name."""
    monkeypatch.setattr(recipes.recipe, "fit", lambda *a, **k: [])
    settings = Read({**RECIPES[name].settings["quick"], **small(name)})
    model = RECIPES[name].build(settings, (1, 8, 8), 3)
    RECIPES[name].train(model, settings, images_of((1, 8, 8)), seed=0, device="cpu", checkpoint=None, label="")
    assert set(settings) - settings.asked == set()


# ---------------------------------------------------------------- what is trained how


class Heard:
    """Stands in for the makers of objectives in a module: notes what it is told, and hands out the cross-entropy."""

    def __init__(self, monkeypatch, module, *names):
        self.calls = []
        for name in names:
            monkeypatch.setattr(module, name, self.maker(name))

    def maker(self, name):
        def made(*arguments, **options):
            self.calls.append((name, arguments, options))
            return training.cross_entropy

        return made


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("mlp-vib", ("information_bottleneck", (0.01, 0.0, "l1"), {})),
        ("mlp-causalib", ("information_bottleneck", (0.05, 0.05, "l1"), {})),
        ("mlp-causalib@alpha=0,beta=1", ("information_bottleneck", (0.0, 1.0, "l1"), {})),
        ("mlp-causalib@norm=l2", ("information_bottleneck", (0.05, 0.05, "l2"), {})),
        ("alexnet-vib", ("information_bottleneck", (0.01, 0.0, "l1"), {})),
        ("mlp-ciiv", ("intervention", (0.1,), {})),
        ("mlp-at-fgsm", ("adversarial", (Linf(50 / 255),), {"steps": 1, "step_size": 1.25 * 50 / 255})),
        ("alexnet-at-fgsm", ("adversarial", (Linf(8 / 255),), {"steps": 1, "step_size": 1.25 * 8 / 255})),
        ("mlp-at-pgd", ("adversarial", (Linf(50 / 255),), {"steps": 20})),
        ("wideresnet-at-pgd", ("adversarial", (Linf(8 / 255),), {"steps": 20})),
    ],
)
def test_each_way_is_trained_by_its_objective(monkeypatch, name, call, profile):
    heard = Heard(monkeypatch, recipes.causalib, "information_bottleneck", "intervention", "adversarial")
    monkeypatch.setattr(recipes.recipe, "fit", lambda *a, **k: [])
    recipe, changes = recipe_of(name)
    settings = {**RECIPES[recipe].settings[profile], **changes}
    RECIPES[recipe].train(nn.Flatten(), settings, images_of((1, 8, 8)), device="cpu")
    maker, told, options = call
    if profile == "quick" and name.endswith("at-pgd"):
        options = {"steps": 5}
    assert heard.calls == [(maker, told, options)]


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("mixup")])
def test_mixup_is_mixup(monkeypatch, name):
    objectives = []
    monkeypatch.setattr(recipes.recipe, "fit", lambda model, objective, *a, **k: objectives.append(objective) or [])
    monkeypatch.setattr(recipes.causalib, "mixup", lambda *a: "mixed")
    images = images_of((1, 8, 8))
    RECIPES[name].train(nn.Flatten(), RECIPES[name].settings["quick"], images, device="cpu")
    assert objectives[0](None, torch.rand(2, 1, 8, 8), images.train_y[:2], 0.0, torch.Generator()) == "mixed"


@pytest.mark.parametrize("name", NAMES)
def test_colour_images_are_shifted_and_mirrored_and_grey_ones_are_not(monkeypatch, name):
    shifts, rounded = [], []
    for module in (recipes.causalib, recipes.robust):
        monkeypatch.setattr(module, "shifted_and_mirrored", lambda objective, pixels: shifts.append(pixels) or objective)
        monkeypatch.setattr(module, "in_bfloat16", lambda objective: rounded.append(name) or objective)
    monkeypatch.setattr(recipes.recipe, "fit", lambda *a, **k: [])
    RECIPES[name].train(nn.Flatten(), RECIPES[name].settings["paper"], images_of((1, 8, 8), 1_010), device="cpu")
    assert shifts == ([] if shape_of(name) == GREY else [16] if name.startswith("resnet50") else [4])
    assert len(rounded) == len(shifts)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", NAMES)
def test_the_schedule_reaches_the_loop(monkeypatch, name, profile):
    told = {}
    monkeypatch.setattr(recipes.recipe, "fit", lambda model, objective, x, y, **options: told.update(options) or [])
    settings = RECIPES[name].settings[profile]
    RECIPES[name].train(nn.Flatten(), settings, images_of((1, 8, 8), 1_010), device="cpu", seed=4, label="l", checkpoint=None)
    expected = {key: settings[key] for key in ("epochs", "batch_size", "learning_rate", "final_learning_rate")}
    expected |= {"peak": settings["peak"]} if "peak" in settings else {}
    assert ("peak" in settings) == (name in AT_L2 or shape_of(name) == COLOUR)
    told.pop("select", None)
    assert told == {**expected, "device": "cpu", "seed": 4, "label": "l", "checkpoint": None}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("mlp", "cnn"))])
def test_it_is_trained_kept_and_found_again(tiny, cache, monkeypatch, name):
    options = {**small(name), "epochs": 2, "batch_size": 16}
    start = recipes.build(name, (1, 8, 8), 3, **options)
    model = trained(name, tiny, **options)
    moved = [not torch.equal(a, b) for a, b in zip(start.parameters(), model.parameters(), strict=True)]
    assert any(moved)
    assert not model.training
    assert [p.suffix for p in cache.iterdir()] == [".safetensors"]
    monkeypatch.setattr(recipes.recipe, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = trained(name, tiny, **options)
    for (key, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    with torch.no_grad():
        assert model(data.as_float(tiny.test_x)).shape == (10, 3)


@pytest.mark.parametrize(
    "name",
    [
        "alexnet-causalib",
        "alexnet-ciiv",
        "resnet34-at-pgd",
        "resnet34-smoothing",
        "wideresnet-mixup",
        "resnet18-at-l2",
        "resnet18",
    ],
)
def test_colour_networks_are_trained_too(cache, name):
    images = images_of((3, 8, 8), 24)
    model = trained(name, images, **small(name), epochs=1, batch_size=8)
    with torch.no_grad():
        scores = model(data.as_float(images.test_x))
    assert scores.shape == (10, 3)
    assert scores.isfinite().all()


@pytest.mark.parametrize("name", ["mlp-causalib", "mlp-ciiv", "mlp-smoothing", "mlp-mixup", "mlp-at-pgd", "cnn-at-l2"])
def test_a_killed_recipe_goes_on(tiny, cache, monkeypatch, name):
    options = {**small(name), "epochs": 3, "batch_size": 16}
    whole = trained(name, tiny, **options).state_dict()
    cache_path(name, tiny, **options).unlink()
    saved, calls = training.loop.save_atomically, []

    def killed(state, path):
        saved(state, path)
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.loop, "save_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(name, tiny, **options)
    assert [p.suffix for p in cache.iterdir()] == [".partial"]
    for key, value in trained(name, tiny, **options).state_dict().items():
        assert torch.equal(value, whole[key]), key


def test_one_recipe_of_causalib_learns():
    """A class is a brightness: a hundred images suffice."""
    y = torch.arange(120) % 3
    x = torch.randint(0, 60, (120, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    x = (x + 80 * y[:, None, None, None]).to(torch.uint8)
    images = data.ImageData(x[:90], y[:90], x[90:], y[90:], ("a", "b", "c"), "tiny")
    for way in ("causalib", "ciiv", "smoothing", "mixup", "at-pgd"):
        changes = {"hidden": 32, "epochs": 30, "batch_size": 15, "learning_rate": 5e-3, **CODES.get(way, {})}
        changes |= {"code": 16, "draws": 4} if way == "causalib" else {}
        changes |= {"at-pgd": {"eps": 0.03}, "ciiv": {"weight": 0.001}}.get(way, {})
        right = recipes.clean_outcomes(f"mlp-{way}", images, **changes)
        assert right.clean.mean() > 0.9, way


# ---------------------------------------------------------------- images held out


def watched(monkeypatch):
    """What the loop is given, and what the judge is made of."""
    seen = {}

    def fit(model, objective, x, y, *, select=None, **options):
        seen.update(x=x, y=y, select=select)
        return []

    def judge(x, y, **attack):
        seen.update(apart=x, labels=y, attack=attack)
        return "the judge"

    monkeypatch.setattr(recipes.recipe, "fit", fit)
    monkeypatch.setattr(recipes.robust, "clean_and_attacked", judge)
    return seen


@pytest.mark.parametrize("held", [1, 8, 39])
@pytest.mark.parametrize("name", AT_L2)
def test_the_last_images_are_held_out_and_decide(tiny, monkeypatch, name, held):
    seen = watched(monkeypatch)
    settings = {**RECIPES[name].settings["quick"], **small(name), "held_out": held, "eps": 0.7, "steps": 4}
    RECIPES[name].train(nn.Flatten(), settings, tiny, device="cpu")
    assert seen["select"] == "the judge"
    assert torch.equal(seen["x"], tiny.train_x[: 40 - held])
    assert torch.equal(seen["y"], tiny.train_y[: 40 - held])
    torch.testing.assert_close(seen["apart"], tiny.train_x[40 - held :].float() / 255)
    assert torch.equal(seen["labels"], tiny.train_y[40 - held :])
    assert seen["attack"]["ball"] == L2(0.7)
    assert (seen["attack"]["steps"], seen["attack"]["step_size"]) == (4, pytest.approx(0.7 * settings.get("step", 0.2)))


@pytest.mark.parametrize("name", [*(n for n in NAMES if n not in AT_L2), *(f"{n}@held_out=0" for n in AT_L2)])
def test_of_the_other_recipes_all_images_are_trained_on(tiny, monkeypatch, name):
    seen = watched(monkeypatch)
    recipe, changes = recipe_of(name)
    settings = {**RECIPES[recipe].settings["quick"], **small(recipe), **changes}
    RECIPES[recipe].train(nn.Flatten(), settings, tiny, device="cpu")
    assert torch.equal(seen["x"], tiny.train_x)
    assert torch.equal(seen["y"], tiny.train_y)
    assert seen["select"] is None
    assert "apart" not in seen


def test_no_image_held_out_reaches_the_objective(tiny, monkeypatch):
    """The whole way through the loop: image k has k in its first pixel, which the attack leaves to be read."""
    shown = set()

    def objective(model, x, y, progress, generator):
        shown.update((x[:, 0, 0, 0] * 255).round().long().tolist())
        return training.cross_entropy(model, x, y, progress, generator)

    monkeypatch.setattr(recipes.robust, "adversarial", lambda *a, **k: objective)
    trained("cnn-at-l2", tiny, **small("cnn-at-l2"), epochs=2)
    assert shown == set(range(32))


def test_the_epoch_that_the_judge_prefers_is_kept(tiny, monkeypatch):
    states, values = [], iter([0.2, 0.9, 0.9, 0.1])

    def judge(x, y, **attack):
        def select(model):
            states.append({name: part.clone() for name, part in model.state_dict().items()})
            return next(values)

        return select

    monkeypatch.setattr(recipes.robust, "clean_and_attacked", judge)
    model = trained("cnn-at-l2", tiny, **small("cnn-at-l2"), epochs=4, batch_size=8)
    assert len(states) == 4
    for name, value in model.state_dict().items():
        assert torch.equal(value, states[1][name]), name


def test_holding_out_more_images_than_there_are_is_refused(tiny):
    with pytest.raises(ValueError, match="must"):
        trained("cnn-at-l2", tiny, **{**small("cnn-at-l2"), "held_out": 41})
    with pytest.raises(ValueError, match="must"):
        trained("cnn-at-l2", tiny, **{**small("cnn-at-l2"), "held_out": 40})


def test_images_held_out_and_a_number_of_images_go_together(tiny, monkeypatch):
    """``by_gradient`` itself: of what is not held out the first so many."""
    seen = {}
    monkeypatch.setattr(
        recipes.recipe, "fit", lambda model, objective, x, y, **options: seen.update(x=x, y=y, **options) or []
    )
    train = recipes.recipe.by_gradient(lambda s: training.cross_entropy, lambda s, x, y: (s["mark"], len(x), y.tolist()))
    train(nn.Flatten(), {"held_out": 3, "images": 20, "mark": "here"}, tiny, device="cpu")
    assert torch.equal(seen["x"], tiny.train_x[:20])
    assert torch.equal(seen["y"], tiny.train_y[:20])
    assert seen["select"] == ("here", 3, tiny.train_y[-3:].tolist())


# ---------------------------------------------------------------- names and settings


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mlp-causalib", "mlp-causalib@norm=l1"),
        ("mlp-causalib", "mlp-causalib@alpha=0.05,beta=0.05"),
        ("mlp-causalib@alpha=0,beta=1", "mlp-causalib@alpha=0.0,beta=1.0"),
        ("resnet18-at-l2", "resnet18-at-l2@held_out=200"),
    ],
)
def test_the_same_model_has_one_place_in_the_cache(tiny, one, other):
    assert cache_path(one, tiny) == cache_path(other, tiny)


def test_models_that_differ_have_places_of_their_own(tiny):
    names = [
        "mlp-causalib",
        "mlp-causalib@norm=l2",
        "mlp-causalib@alpha=0,beta=0",
        "mlp-causalib@alpha=0.05,beta=0",
        "mlp-vib",
    ]
    names += ["mlp-vib@alpha=0.05", "mlp-causalib@beta=6.6", "mlp", "mlp-mixup", "mlp-at-fgsm", "mlp-at-pgd", "resnet18"]
    names += ["resnet18-at-l2", "resnet18-at-l2@held_out=0", "cnn", "cnn-at", "cnn-at-l2", "cnn-at-l2@eps=1", "alexnet"]
    assert len({cache_path(name, tiny) for name in names}) == len(names)


def test_models_trained_before_are_found_again():
    """A new setting of the loop must not move what was kept before there was one."""
    mini = data.load("fashion-mini")
    keys = {name: cache_path(name, mini).stem.split("-")[-1] for name in ("cnn", "gfz")}
    assert keys == {"cnn": "db9772c0ed10", "gfz": "f3572fcaa66f"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mlp-causalib@norm=l3", "^norm must be one of l1, l2"),
        ("mlp-causalib@norm=1", "^norm must be one of l1, l2"),
        ("mlp-causalib@alpha=-1", "^alpha must be a number >= 0"),
        ("mlp-causalib@beta=-0.5", "^beta must be a number >= 0"),
        ("mlp-causalib@beta=nan", "^beta must be a number >= 0"),
        ("mlp-causalib@draws=0", "^draws must be an integer >= 1"),
        ("mlp-causalib@code=1.5", "^code must be an integer >= 1"),
        ("mlp-vib@beta=0.1", "^setting of 'mlp-vib' must be one of"),
        ("mlp-vib@norm=l1", "^setting of 'mlp-vib' must be one of"),
        ("mlp@alpha=0.1", "^setting of 'mlp' must be one of"),
        ("mlp@hidden=0", "^hidden must be an integer >= 1"),
        ("mlp-smoothing@sigma=-0.1", "^sigma must be a number >= 0"),
        ("mlp-smoothing@samples=0", "^samples must be an integer >= 1"),
        ("mlp-ciiv@samples=10", r"^samples must be an integer in \[1, 9\]"),
        ("mlp-ciiv@weight=-1", "^weight must be a number >= 0"),
        ("mlp-at-pgd@eps=-0.1", "^eps must be a number >= 0"),
        ("mlp-at-pgd@steps=0", "^steps must be an integer >= 1"),
        ("alexnet@width=0.001", "^width must be a number >= "),
        ("resnet34@width=0", "^width must be a number >= "),
        ("wideresnet@widen=0", "^widen must be an integer >= 1"),
        ("wideresnet@widen=1.5", "^widen must be an integer >= 1"),
        ("alexnet@shift=-1", "^shift must be an integer >= 0"),
        ("resnet18-at-l2@held_out=-1", "^held_out must be an integer >= 0"),
        ("resnet18-at-l2@held_out=0.5", "^held_out must be an integer >= 0"),
        ("resnet18@held_out=100", "^setting of 'resnet18' must be one of"),
        ("resnet18@peak=-0.1", "^peak must be a number >= 0"),
        ("resnet18@peak=1.5", r"^peak must be a number in \[0"),
        ("cnn-at-l2@eps=-1", "^eps must be a number >= 0"),
        ("cnn-at-l2@warm_up=0.3", "^setting of 'cnn-at-l2' must be one of"),
        ("mlp-cama", "^name must be one of"),
        ("mlp-", "^name must be one of"),
    ],
)
def test_a_bad_setting_is_named_before_anything_is_trained(tiny, monkeypatch, name, words):
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *a, **k: pytest.fail("something was trained"))
    recipe = recipe_of(name)[0] if name.partition("@")[0] in RECIPES else ""
    sizes = {key: value for key, value in (small(recipe) if recipe else {}).items() if key not in name}
    with pytest.raises(ValueError, match=words):
        trained(name, tiny, **sizes)


def test_the_robust_pair_has_the_plain_networks_of_the_book(tiny):
    plain, robust = (recipes.build(name, (1, 8, 8), 3, seed=3, width=2, hidden=4) for name in ("cnn", "cnn-at-l2"))
    assert type(plain) is type(robust) is SmallCNN
    for a, b in zip(plain.parameters(), robust.parameters(), strict=True):
        assert torch.equal(a, b)
    assert isinstance(recipes.build("mlp", GREY, 10, hidden=4), DenseNetwork)


def test_the_name_of_the_data_moves_no_radius_of_causalib(tiny):
    """50/255 for every grey data set, unlike ``cnn-at``, which has another on MNIST."""
    for name in ("mnist", "fashion-mnist", "tiny"):
        images = dataclasses.replace(tiny, name=name)
        assert cache_path("mlp-at-pgd", images) == cache_path("mlp-at-pgd", images, eps=50 / 255)
        assert (cache_path("cnn-at", images) == cache_path("cnn-at", images, eps=0.3)) == (name == "mnist")
