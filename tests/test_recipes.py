"""Models by name: the cache is keyed by what matters and by nothing else."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from hybridgen_lib import data, recipes, training
from hybridgen_lib.attacks import Linf
from hybridgen_lib.classifier import SCORE_KINDS, Classifier
from hybridgen_lib.measurement import Outcomes
from hybridgen_lib.models.backbones import FeatureTap
from hybridgen_lib.recipes import PROFILES, RECIPES, cache_path, recipe_of, trained
from hybridgen_lib.recipes import __main__ as command
from hybridgen_lib.recipes.hybrid import HYBRID

TINY = {"width": 2, "hidden": 4, "epochs": 1}


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (40, 1, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.arange(40) % 3
    return data.ImageData(x[:30], y[:30], x[30:], y[30:], ("a", "b", "c"), "tiny")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDGEN_CACHE", str(tmp_path / "models"))
    return tmp_path / "models"


def test_the_second_call_trains_nothing_and_returns_the_same(images, cache, monkeypatch):
    first = trained("gbz", images, **TINY, code=2, samples=2)
    monkeypatch.setattr(recipes.recipe, "fit", lambda *a, **k: pytest.fail("trained again"))
    second = trained("gbz", images, **TINY, code=2, samples=2)
    assert not second.training
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert [p.suffix for p in cache.iterdir()] == [".safetensors"]


def test_the_key_holds_settings_data_seed_and_version(images, monkeypatch):
    keys = {cache_path("cnn", images)}
    keys.add(cache_path("cnn", images, seed=1))
    keys.add(cache_path("cnn", images, profile="cpu"))
    keys.add(cache_path("cnn", images, width=3))
    keys.add(cache_path("gfz", images))
    keys.add(cache_path("cnn", dataclasses.replace(images, train_y=(images.train_y + 1) % 3)))
    monkeypatch.setitem(RECIPES, "cnn", dataclasses.replace(RECIPES["cnn"], version=99))
    keys.add(cache_path("cnn", images))
    assert len(keys) == 7
    monkeypatch.undo()


def test_the_name_of_the_data_does_not_decide_its_contents_do(images, cache):
    renamed = dataclasses.replace(images, name="other")
    assert cache_path("cnn", renamed).name.split("-")[-1] == cache_path("cnn", images).name.split("-")[-1]


def test_models_trained_before_are_found_again():
    """The keys as they were when these models were first kept; a raised version is the one reason to change a line here."""
    mini = data.load("fashion-mini")
    keys = {name: cache_path(name, mini).stem.split("-")[-1] for name in ("cnn", "gfz")}
    assert keys == {"cnn": "db9772c0ed10", "gfz": "f3572fcaa66f"}


def test_a_mixture_is_kept_and_found_again(images, cache, monkeypatch):
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="at least 11 images of every class"):
        trained("gmm", images, components=11)
    first = trained("gmm", images, components=2)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(type(first), "fit", lambda *a, **k: pytest.fail("fitted again"))
    second = trained("gmm", images, components=2)
    x = data.as_float(images.test_x)
    assert torch.equal(first(x), second(x))
    assert second.log_prior.exp().tolist() == pytest.approx([1 / 3] * 3)
    assert [p.suffix for p in cache.iterdir()] == [".safetensors"]
    with safe_open(cache_path("gmm", images, components=2), framework="pt") as file:
        note = json.loads(file.metadata()["note"])
    assert note["settings"] == {"components": 2, "iterations": 1_000}
    assert len(note["objective"]) == 3


@pytest.mark.parametrize(("name", "eps"), [("tiny", 0.1), ("fashion-mini", 0.1), ("fashion-mnist", 0.1), ("mnist", 0.3)])
@pytest.mark.parametrize("profile", PROFILES)
def test_the_radius_of_adversarial_training_follows_the_data(images, monkeypatch, name, eps, profile):
    images = dataclasses.replace(images, name=name)
    balls: list = []
    monkeypatch.setattr(recipes.robust, "adversarial", lambda ball, **_: balls.append(ball) or training.cross_entropy)
    trained("cnn-at", images, profile, **TINY)
    with safe_open(cache_path("cnn-at", images, profile, **TINY), framework="pt") as file:
        assert json.loads(file.metadata()["note"])["settings"]["eps"] == eps
    assert balls == [Linf(eps)]
    trained("cnn-at", images, profile, **TINY, eps=0.05)
    assert balls[1:] == [Linf(0.05)]
    assert cache_path("cnn-at", images, profile, eps=eps) == cache_path("cnn-at", images, profile)
    assert cache_path("cnn-at", images, profile, eps=0.05) != cache_path("cnn-at", images, profile)


def test_a_killed_training_goes_on(images, cache, monkeypatch):
    monkeypatch.setattr(recipes.cache, "_save", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        trained("cnn", images, **TINY)
    assert [p.suffix for p in cache.iterdir()] == [".partial"]
    monkeypatch.undo()
    monkeypatch.setenv("HYBRIDGEN_CACHE", str(cache))
    trained("cnn", images, **TINY)
    assert [p.suffix for p in cache.iterdir()] == [".safetensors"]


def test_the_file_says_where_it_comes_from(images):
    trained("cnn", images, seed=3, **TINY)
    with safe_open(cache_path("cnn", images, seed=3, **TINY), framework="pt") as file:
        note = json.loads(file.metadata()["note"])
    assert note["recipe"] == "cnn"
    assert note["seed"] == 3
    assert note["settings"]["width"] == 2
    assert note["data"] == "tiny"
    assert len(note["objective"]) == 1


def test_building_leaves_the_global_source_alone_and_follows_the_seed():
    before = torch.get_rng_state()
    a, b, c = (recipes.build("dbx", (1, 8, 8), 3, seed=s, **{**TINY, "code": 2}) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    flat = [torch.cat([p.flatten() for p in m.parameters()]) for m in (a, b, c)]
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_recipe_has_every_profile(name, profile):
    with torch.device("meta"):  # a billion weights that nobody needs
        model = recipes.build(name, (1, 28, 28), 10, profile)
    assert isinstance(model, Classifier)
    assert model.score_kind in SCORE_KINDS
    recipe = RECIPES[name]
    assert set(recipe.settings[profile]) == set(recipe.settings["paper"])
    assert all(set(changed) <= set(recipe.settings["paper"]) for changed in recipe.on.values())
    if name == "gmm":
        assert model.log_weights.shape == (10, 10 if profile == "quick" else 60)
    if name in HYBRID and name != "cama":
        assert recipe.settings[profile]["width"] == {"quick": 1 / 8, "cpu": 1 / 4, "paper": 1}[profile]
    elif not name.startswith(("alexnet", "resnet")) and "width" in recipe.settings[profile]:
        assert recipe.settings[profile]["width"] == (64 if profile == "paper" else 32)


# ---------------------------------------------------------------- names with changes


@pytest.mark.parametrize(
    ("name", "recipe", "changes"),
    [
        ("gfz", "gfz", {}),
        ("gfz@", "gfz", {}),
        ("gfz@code=16", "gfz", {"code": 16}),
        ("hybrid-deep@code=16,weight=published", "hybrid-deep", {"code": 16, "weight": "published"}),
        ("hybrid-deep@pixel_sigma=0.1,feature_sigma=1e-2,", "hybrid-deep", {"pixel_sigma": 0.1, "feature_sigma": 0.01}),
        ("hybrid-deep@after=conv9,backbone=vgg19", "hybrid-deep", {"after": "conv9", "backbone": "vgg19"}),
        ("cnn@epochs=0", "cnn", {"epochs": 0}),
    ],
)
def test_a_name_may_speak_of_settings(name, recipe, changes):
    assert recipe_of(name) == (recipe, changes)
    assert [type(value) for value in recipe_of(name)[1].values()] == [type(value) for value in changes.values()]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hybrid@code=4", "^name must be one of cnn, gfz"),
        ("", "^name must be one of cnn, gfz"),
        ("@code=4", "^name must be one of cnn, gfz"),
        (None, "^name must be"),
        (3, "^name must be"),
        ("gfz@code", r"^name must read recipe@setting=value,setting=value, each setting once; got 'gfz@code'"),
        ("gfz@code=4;width=2", "^code must be an integer >= 1, got '4;width=2'"),
        ("gfz@=4", "^setting of 'gfz' must be one of"),
        ("gfz@cod=4", "^setting of 'gfz' must be one of"),
        ("gfz@seed=4", "^setting of 'gfz' must be one of"),
        ("gfz@weight=published", "^setting of 'gfz' must be one of"),
        ("gfz@code=", "^code must be an integer >= 1, got ''"),
        ("gfz@code=0", "^code must be an integer >= 1"),
        ("gfz@code=4.5", "^code must be an integer >= 1"),
        ("gfz@code=nan", "^code must be an integer >= 1"),
        ("gfz@learning_rate=inf", "^learning_rate must be a number >= 0"),
        ("hybrid-deep@images=-1", "^images must be an integer >= 0"),
        ("hybrid-deep@pressure=-1", "^pressure must be a number >= 0"),
    ],
)
def test_a_wrong_name_or_change_is_named_before_data_are_read(name, words, monkeypatch):
    monkeypatch.setattr(recipes.cache.datasets, "load", lambda *a: pytest.fail("data were read"))
    with pytest.raises(ValueError, match=words):
        trained(name, "fashion-mini")


HEAD = {"width": 1 / 32, "hidden": 4, "code": 2, "samples": 2, "epochs": 1}
CAUSAL = {**HEAD, "manipulation": 2}


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("hybrid-deep", {"backbone": "vgg11"}, "^backbone must be one of vgg16, vgg19"),
        ("hybrid-deep", {"backbone": "gfz"}, "^backbone must be one of vgg16, vgg19"),
        ("hybrid-deep", {"after": "conv14"}, "^after must name a module"),
        ("hybrid-deep", {"after": 9}, "^after must name a module"),
        ("hybrid-deep", {"weight": "half"}, "^weight must be one of full, published"),
        ("hybrid-deep", {"weight": 1}, "^weight must be one of full, published"),
        ("hybrid-deep", {"scales": "free"}, "^scales must be one of fixed, learned"),
        ("hybrid-deep", {"training_m": "one"}, "^training_m must be one of zero, sampled"),
        ("hybrid-deep", {"pixel_sigma": 0}, "^pixel_sigma must be a number >= 1e-06"),
        ("hybrid-deep", {"feature_sigma": 0}, "^feature_sigma must be a number >= 1e-06"),
        ("hybrid-deep", {"width": 1 / 65}, "^width must be a number >= "),
        ("cama", {"training_m": "one"}, "^training_m must be one of zero, sampled"),
        ("gbz-conv9", {"after": "conv14"}, "^after must name a module"),
        ("gbz-conv9", {"warm_up": 2}, "^warm_up must be a number in"),
        ("gbz", {"warm_up": 2}, "^warm_up must be a number in"),
    ],
)
@pytest.mark.parametrize("call", [trained, recipes.clean_outcomes])
def test_a_wrong_word_is_named_before_anything_is_trained(images, monkeypatch, call, name, changes, words):
    monkeypatch.setattr(recipes.recipe, "fit", lambda *a, **k: pytest.fail("something was trained"))
    small = TINY if name in ("cama", "gbz") else CAUSAL if name == "hybrid-deep" else HEAD
    with pytest.raises(ValueError, match=words):
        call(name, images, **{**small, **changes})


def test_a_whole_number_may_be_written_as_a_float(images):
    assert trained("gfz@code=4.0", images, **TINY, samples=2).networks["q(z|x,y)"].dims == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("hybrid-deep", "hybrid-deep@pressure=1"),
        ("hybrid-deep@pressure=2", "hybrid-deep@pressure=2.0"),
        ("hybrid-deep@code=4,pressure=3.5", "hybrid-deep@pressure=3.5,code=4"),
        ("hybrid-deep@code=4", "hybrid-deep@code=4.0"),
        ("hybrid-deep", "hybrid-deep@training_m=zero,weight=full"),
    ],
)
def test_the_same_model_has_one_place_in_the_cache_however_it_is_written(images, one, other):
    a, b = (cache_path(name, images, **changes) for name, changes in map(recipe_of, (one, other)))
    assert a == b


def test_a_name_with_changes_is_the_recipe_with_them(images, cache, monkeypatch):
    first = trained("gfz@code=3,samples=2", images, **TINY)
    path = cache_path("gfz", images, **TINY, code=3, samples=2)
    assert [p.name for p in cache.iterdir()] == [path.name]
    assert first.networks["q(z|x,y)"].dims == 3
    monkeypatch.setattr(recipes.recipe, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = trained("gfz", images, **TINY, code=3, samples=2)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(recipes.clean_outcomes("gfz@code=3,samples=2", images, **TINY).clean) == 10
    assert sorted(p.name for p in cache.iterdir()) == sorted([path.name, path.with_suffix(".json").name])


def test_a_change_given_beside_the_name_counts(images):
    model = trained("gfz@code=3", images, **TINY, code=5, samples=2)
    assert model.networks["q(z|x,y)"].dims == 5


# ---------------------------------------------------------------- models on top of a backbone


@pytest.fixture
def few():
    """Fifty grey images of three classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (50, 1, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.arange(50) % 3
    return data.ImageData(x[:40], y[:40], x[40:], y[40:], ("a", "b", "c"), "tiny")


ON_TOP = ["hybrid-shallow", "hybrid-deep", "gbz-conv9", "gby-conv9", "dbx-fc1"]


@pytest.mark.parametrize("name", ON_TOP)
def test_the_tap_holds_the_trained_backbone(few, cache, name):
    small = CAUSAL if name.startswith("hybrid") else HEAD
    model = trained(name, few, seed=2, **small)
    backbone = trained("vgg16", few, seed=2, width=1 / 32)
    fresh = recipes.build("vgg16", (1, 8, 8), 3, seed=2, width=1 / 32)
    x, tap = data.as_float(few.test_x), model.deterministic["x2"]
    expected, untrained = (FeatureTap(net, RECIPES[name].settings["quick"]["after"]) for net in (backbone, fresh))
    torch.testing.assert_close(tap(x) * tap.scale, expected(x))
    assert not torch.allclose(tap(x) * tap.scale, untrained(x))
    seen = tap(data.as_float(few.train_x))
    assert seen.square().mean().sqrt().item() == pytest.approx(1, abs=1e-4)
    assert tap.scale != 1
    assert not model.training
    assert model(x).shape == (10, 3)
    assert sorted(p.name.split("-tiny")[0] for p in cache.iterdir()) == sorted([name, "vgg16"])


def test_a_head_is_trained_once_and_so_is_its_backbone(few, cache, monkeypatch):
    first = trained("hybrid-deep", few, **CAUSAL)
    monkeypatch.setattr(recipes.recipe, "fit", lambda *a, **k: pytest.fail("the backbone was trained again"))
    other = trained("hybrid-shallow", few, **CAUSAL)
    monkeypatch.setattr(recipes.hybrid, "fit", lambda *a, **k: pytest.fail("the head was trained again"))
    again = trained("hybrid-deep", few, **CAUSAL)
    assert len(list(cache.iterdir())) == 3
    for (name, a), b in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert first.deterministic["x2"].state_dict().keys() != other.deterministic["x2"].state_dict().keys()


def test_the_key_of_a_head_holds_that_of_its_backbone(few, monkeypatch):
    keys = {cache_path("hybrid-deep", few, **CAUSAL)}
    for changes in ({"backbone": "vgg19"}, {"width": 1 / 16}, {"after": "conv9"}, {"seed": 1}, {"code": 3}):
        keys.add(cache_path("hybrid-deep", few, **{**CAUSAL, **changes}))
    old = RECIPES["vgg16"]
    longer = {profile: {**changes, "epochs": 99} for profile, changes in old.settings.items()}
    for changed in ({"version": 99}, {"settings": longer}, {"on": {"tiny": {"epochs": 98}}}):
        monkeypatch.setitem(RECIPES, "vgg16", dataclasses.replace(old, **changed))
        keys.add(cache_path("hybrid-deep", few, **CAUSAL))
    assert len(keys) == 9
    monkeypatch.setitem(RECIPES, "vgg16", old)
    monkeypatch.setitem(RECIPES, "vgg19", dataclasses.replace(RECIPES["vgg19"], version=99))
    assert cache_path("hybrid-deep", few, **CAUSAL) in keys
    assert cache_path("hybrid-deep", few, **CAUSAL, backbone="vgg19") not in keys


def test_a_killed_head_goes_on_on_the_same_backbone(few, cache, monkeypatch):
    whole = trained("hybrid-deep", few, **{**CAUSAL, "epochs": 3})
    for path in cache.glob("hybrid-*"):
        path.unlink()
    saved, calls = training.loop.save_atomically, []

    def killed_after_two(state, path):
        saved(state, path)
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.loop, "save_atomically", killed_after_two)
        with pytest.raises(KeyboardInterrupt):
            trained("hybrid-deep", few, **{**CAUSAL, "epochs": 3})
    assert len(list(cache.glob("*.partial"))) == 1
    resumed = trained("hybrid-deep", few, **{**CAUSAL, "epochs": 3})
    assert not list(cache.glob("*.partial"))
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(("training_m", "learns"), [("zero", False), ("sampled", True)])
@pytest.mark.parametrize("name", ["hybrid-deep", "cama"])
def test_q_of_m_learns_if_the_recipe_says_so(few, name, training_m, learns):
    small = CAUSAL if name == "hybrid-deep" else {**TINY, "code": 2, "manipulation": 2, "samples": 2}
    start = recipes.build(name, (1, 8, 8), 3, **small)
    model = trained(name, few, **small, training_m=training_m)
    q_m = str(model.guide.factor_of("m"))
    moved = [
        not torch.equal(a, b) for a, b in zip(start.networks[q_m].parameters(), model.networks[q_m].parameters(), strict=True)
    ]
    assert any(moved) == learns
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), model.parameters(), strict=True))


def test_a_head_may_see_fewer_images_than_there_are(few, monkeypatch):
    counts, fit = [], recipes.hybrid.fit

    def spy(model, objective, x, y, **run):
        counts.append({name: len(part) for name, part in x.items()} | {"y": len(y)})
        return fit(model, objective, x, y, **run)

    monkeypatch.setattr(recipes.hybrid, "fit", spy)
    model = trained("hybrid-deep", few, **CAUSAL, images=16)
    trained("dbx-fc1", few, **HEAD)
    assert counts == [{"x1": 16, "x2": 16, "y": 16}, {"x2": 40, "y": 40}]
    part = model.deterministic["x2"](data.as_float(few.train_x[:16]))
    assert part.square().mean().sqrt().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "on", "backbone", "after"),
    [
        ("hybrid-shallow", "cifar10", "vgg16", "conv9"),
        ("hybrid-shallow", "fashion-mini", "vgg16", "conv9"),
        ("hybrid-shallow", "cifar100", "vgg16", "conv12"),
        ("hybrid-shallow", "tiny-imagenet", "vgg19", "conv14"),
        ("hybrid-shallow", "tiny-imagenet-32", "vgg19", "conv14"),
        ("hybrid-deep", "cifar10", "vgg16", "dense1"),
        ("hybrid-deep", "cifar100", "vgg16", "dense1"),
        ("hybrid-deep", "tiny-imagenet", "vgg19", "dense2"),
        ("hybrid-deep", "tiny-imagenet-32", "vgg19", "dense2"),
    ],
)
def test_features_are_taken_where_the_document_takes_them_on_this_data(few, name, on, backbone, after):
    small = {key: value for key, value in CAUSAL.items() if key != "epochs"}
    model = recipes.build(name, (1, 8, 8), 3, data=on, **small)
    same = FeatureTap(recipes.build(backbone, (1, 8, 8), 3, width=1 / 32), after)
    assert model.deterministic["x2"].state_dict().keys() == same.state_dict().keys()
    images = dataclasses.replace(few, name=on)
    path = cache_path(name, images, **small)
    assert path == cache_path(name, images, **small, backbone=backbone, after=after)
    assert path != cache_path(name, images, **small, backbone=backbone, after="conv2")
    chosen = recipes.build(name, (1, 8, 8), 3, data=on, **small, after="conv2")
    assert {key.split(".")[1] for key in chosen.deterministic["x2"].state_dict() if key != "scale"} == {"conv1", "conv2"}


def test_a_head_on_tiny_imagenet_stands_on_vgg19(few, cache):
    images = dataclasses.replace(few, name="tiny-imagenet-32")
    model = trained("hybrid-shallow", images, **CAUSAL)
    with safe_open(cache_path("hybrid-shallow", images, **CAUSAL), framework="pt") as file:
        settings = json.loads(file.metadata()["note"])["settings"]
    assert (settings["backbone"], settings["after"]) == ("vgg19", "conv14")
    assert sorted(p.name.split("-tiny")[0] for p in cache.iterdir()) == ["hybrid-shallow", "vgg19"]
    x, tap = data.as_float(few.test_x), model.deterministic["x2"]
    expected = FeatureTap(trained("vgg19", images, width=1 / 32), "conv14")
    torch.testing.assert_close(tap(x) * tap.scale, expected(x))


def test_settings_of_a_head_reach_it(few):
    changes = {"pixel_sigma": 0.2, "feature_sigma": 0.4, "scales": "learned", "weight": "published", "hidden": 5}
    model = recipes.build("hybrid-deep", (1, 8, 8), 3, **{**CAUSAL, **changes})
    decoder = model.networks["p(x1,x2|y,z,m)"]
    assert type(model).__name__ == "PublishedWeight"
    assert (decoder.sigmas, decoder.learned_scales) == ((0.2, 0.4), True)
    assert decoder.mlp.first.weight.shape[0] == 5
    assert (model.samples, model.networks["q(m|x1,x2,y)"].dims, model.networks["q(z|x1,x2,y,m)"].dims) == (2, 2, 2)


@pytest.mark.parametrize(("shift", "calls"), [(0, []), (3, [3])])
def test_a_backbone_is_shown_shifted_images_if_its_recipe_says_so(few, monkeypatch, shift, calls):
    shifts, augmented = [], recipes.hybrid.shifted_and_mirrored

    def noted(objective, pixels):
        shifts.append(pixels)
        return augmented(objective, pixels)

    monkeypatch.setattr(recipes.hybrid, "shifted_and_mirrored", noted)
    trained("vgg16", few, width=1 / 32, epochs=1, shift=shift)
    assert shifts == calls


def test_a_backbone_learns_from_any_number_of_images(few):
    odd = dataclasses.replace(few, train_x=few.train_x[:33], train_y=few.train_y[:33])
    trained("vgg16", odd, width=1 / 32, epochs=1, batch_size=16)


@pytest.mark.parametrize("name", HYBRID)
def test_the_models_take_large_colour_images_of_many_classes(name):
    sizes = {"cama": {**TINY, "code": 2}, "vgg16": {"width": 1 / 32}, "vgg19": {"width": 1 / 32}}.get(name, HEAD)
    model = recipes.build(name, (3, 64, 64), 200, data="tiny-imagenet", **sizes).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, 64, 64)).shape == (2, 200)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "gfx"}, "name must be one of cnn, gfz"),
        ({"profile": "fast"}, "profile must be one of quick"),
        ({"data": "imagenet"}, "name must be one of"),
        ({"seed": -1}, "seed"),
        ({"samplez": 3}, "setting of 'cnn' must be one of"),
        ({"eps": 0.1}, "setting of 'cnn' must be one of"),
        ({"name": "gmm", "components": 0}, "components must be an integer >= 1"),
        ({"name": "cnn-at", "eps": -0.1}, "eps must be a number >= 0"),
        ({"name": "cnn-at", "steps": 2.5}, "steps must be an integer >= 1"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        trained(**{"name": "cnn", **arguments})


def test_clean_outcomes_are_measured_once(images, cache, monkeypatch):
    first = recipes.clean_outcomes("cnn", images, **TINY)
    model = trained("cnn", images, **TINY)
    with torch.no_grad():
        right = model(data.as_float(images.test_x)).argmax(1) == images.test_y
    assert first.clean.tolist() == right.double().tolist()
    monkeypatch.setattr(recipes.cache, "fraction_right", lambda *a: pytest.fail("measured again"))
    assert recipes.clean_outcomes("cnn", images, **TINY).clean.tolist() == first.clean.tolist()
    assert sorted(p.suffix for p in cache.iterdir()) == [".json", ".safetensors"]


def test_the_command_line_lists_and_trains(capsys, images, monkeypatch, tmp_path):
    command.main(["--list"])
    assert capsys.readouterr().out.split() == list(RECIPES)
    calls: list = []
    outcomes = Outcomes([0, 1], torch.tensor([1.0, 0.0]))
    monkeypatch.setattr(command, "clean_outcomes", lambda *a: calls.append(a) or outcomes)
    command.main(["gfz", "--data", "mnist", "--profile", "cpu", "--seed", "2", "--stamp", str(tmp_path / "a" / "stamp")])
    assert calls == [("gfz", "mnist", "cpu", 2)]
    assert "gfz: clean accuracy 50.0 %" in capsys.readouterr().out
    assert (tmp_path / "a" / "stamp").exists()
    with pytest.raises(SystemExit):
        command.main([])


def test_a_fingerprint_tells_weights_apart_to_the_last_bit():
    one, two = (recipes.build("logreg", (1, 8, 8), 3) for _ in range(2))
    assert recipes.fingerprint(one) == recipes.fingerprint(two)
    assert len(recipes.fingerprint(one)) == 12
    with torch.no_grad():
        weight = next(two.parameters())
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(torch.inf))
    assert recipes.fingerprint(one) != recipes.fingerprint(two)


def test_clean_outcomes_are_those_of_the_weights_beside_them(images, cache):
    first = recipes.clean_outcomes("cnn", images, **TINY)
    (weights,) = cache.glob("*.safetensors")
    weights.unlink()
    assert recipes.clean_outcomes("cnn", images, **TINY).clean.tolist() == first.clean.tolist()
    assert weights.exists()  # made again, not only remembered
    weights.unlink()
    trained("cnn", images, **TINY)
    assert not weights.with_suffix(".json").exists()


def test_checkpoints_go_whatever_the_folder_of_the_images_is_called(images, cache):
    trained("cnn", dataclasses.replace(images, name="folder:my data [1]"), **TINY)
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_more_images_held_out_than_there_are_is_named(images):
    with pytest.raises(ValueError, match="held_out must be fewer than the 30 training images, got 30"):
        trained("cnn-at-l2", images, held_out=30, **TINY)


def test_a_tilde_in_the_name_of_the_cache_is_the_home(images, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HYBRIDGEN_CACHE", "~/kept")
    assert cache_path("cnn", images).parent == tmp_path / "kept"
    assert data.cache_folder() == tmp_path / "kept" / "data"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "gfz",
            {"width": 64, "hidden": 500, "code": 64, "samples": 10, "epochs": 100, "batch_size": 50, "learning_rate": 1e-4},
        ),
        ("hybrid-shallow", {"hidden": 500, "epochs": 350, "batch_size": 150, "learning_rate": 5e-5, "training_m": "zero"}),
        ("hybrid-deep", {"after": "dense1", "epochs": 350, "batch_size": 150, "learning_rate": 5e-5, "weight": "full"}),
        ("gby-conv9", {"hidden": 1000, "code": 128, "samples": 10, "epochs": 100, "batch_size": 50, "learning_rate": 1e-4}),
        ("cama", {"code": 64, "manipulation": 32, "training_m": "zero"}),
        ("cvae", {"samples": 100, "rule": "nearest"}),
    ],
)
def test_what_documents_and_their_code_state_is_what_paper_has(name, settings):
    published = RECIPES[name].settings["paper"]
    assert {key: published[key] for key in settings} == settings


@pytest.mark.parametrize("change", [{"seed": 1.5}, {"seed": -1}, {"data": "fashion-mini"}])
def test_a_place_in_the_cache_is_only_for_what_can_be_trained(change):
    given = {"data": data.load("fashion-mini"), "seed": 0, **change}
    with pytest.raises(ValueError, match=next(iter(change))):
        recipes.cache_path("cnn", **given)


def test_equal_seeds_have_one_place():
    images = data.load("fashion-mini")
    places = {recipes.cache_path("cnn", images, seed=seed) for seed in (0, 0.0, np.int64(0))}
    assert len(places) == 1


@pytest.mark.parametrize("device", [None, 3.5, "tpu9"])
def test_a_device_that_is_none_is_named(device):
    with pytest.raises(ValueError, match="device"):
        recipes.choose_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named_before_data_are_read():
    with pytest.raises(ValueError, match="device must be one that is there"):
        recipes.trained("cnn", "no such data", device="cuda")
