"""The full-scale plan of ROAR: what its jobs write, that a killed grid goes on where it stopped, how claims are settled."""

import importlib
from dataclasses import replace

import pytest
import torch
from test_attacks_on_models import SIZES

from hybridgen_lib import data, recipes, reproduce, results
from hybridgen_lib.measurement import Outcomes, paired_difference
from hybridgen_lib.reproduce import DOCUMENTS, jobs
from hybridgen_lib.reproduce import roar as plan
from hybridgen_lib.reproduce.roar import FRACTIONS, PLAIN, TABLE_1

library = importlib.import_module("hybridgen_lib.explain.roar")
ROAR = DOCUMENTS["hybrid-roar"]
ORDER_KEY = {"document": "hybrid", "claim_data": "cifar10", "profile": "cpu", "chapter": "14", "stand_in": "a stand-in"}


@pytest.fixture(scope="module")
def images():
    """Sixty pictures of 8 x 8: three classes told apart by where they are bright."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 100, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.arange(60) % 3
    for c in range(3):
        x[y == c, :, 2 * c : 2 * c + 3] += 120
    return data.ImageData(x[:30], y[:30], x[30:], y[30:], ("a", "b", "c"), "fashion-mnist")


@pytest.fixture
def small(monkeypatch, tmp_path, images):
    """Few images and small networks that nobody trains."""

    def trained(name, images, profile, seed, device, folder=None):
        torch.manual_seed(seed)
        if folder is not None:
            folder.mkdir(parents=True)  # which a cell throws away
        return recipes.build(name, (1, 8, 8), 3, **SIZES.get(name, {"width": 4, "hidden": 16})).eval()

    monkeypatch.setenv("HYBRIDGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(jobs.datasets, "load", lambda name, root=None: images)
    monkeypatch.setattr(jobs, "trained", trained)
    monkeypatch.setattr(recipes, "trained", trained)
    monkeypatch.setattr(plan, "TRAINING_IMAGES", {"cpu": 20})
    monkeypatch.setattr(plan, "JUDGED_IMAGES", 12)
    monkeypatch.setitem(library.IG, "steps", 2)
    return tmp_path / "results"


def run(model, way, root, seed=0):
    return reproduce.reproduce("hybrid-roar", model, way, seed=seed, results_root=root)


def test_the_plain_network_has_the_whole_grid_and_the_others_the_documents_cell():
    assert set(ROAR.models) == {PLAIN, *TABLE_1}
    for model in TABLE_1:
        assert ROAR.ways(model) == ["none", "ig-30", "random-30", "ig-30-linear", "random-30-linear"]
    grid = set(ROAR.ways(PLAIN))
    shares = [round(100 * fraction) for fraction in FRACTIONS]
    assert shares == [10, 30, 50, 70, 90]
    assert grid == {"none"} | {
        f"{ranking}-{p}" for ranking in ("ig", "random", "edges", "blurred", "mask") for p in shares
    } | {f"{ranking}-{p}-linear" for ranking in ("ig", "random") for p in shares}
    assert DOCUMENTS["hybrid-roar-cifar10"].models == ROAR.models
    assert DOCUMENTS["hybrid-roar-cifar10"].measurements is ROAR.measurements


def test_every_cell_is_a_file_and_a_killed_grid_repeats_none_that_is_finished(small, monkeypatch):
    measured, roar = [], plan.roar

    def counted(name, images, ranking, fraction, imputation, **told):
        measured.append((ranking, fraction, imputation))
        if len(measured) == 10:
            raise KeyboardInterrupt
        return roar(name, images, ranking, fraction, imputation, **told)

    monkeypatch.setattr(plan, "roar", counted)
    with pytest.raises(KeyboardInterrupt):
        [run(PLAIN, way, small) for way in ROAR.ways(PLAIN)]
    paths = [run(PLAIN, way, small) for way in ROAR.ways(PLAIN)]
    assert len(measured) == len(set(measured)) + 1 == len(paths) + 1
    assert measured[9] == measured[10]
    assert len(set(paths)) == len(paths) == 36
    table = results.load(small)
    assert set(table["attack"]) == {f"roar-{way}" for way in ROAR.ways(PLAIN)}
    assert set(table["stand_in"]) == {ROAR.stand_in["cpu"]}
    assert set(table.query("metric != 'success_rate'")["n"]) == {12}
    removed = table.query("metric == 'accuracy'").set_index("attack")["eps"]
    for way in ROAR.ways(PLAIN):
        share = way.split("-")[1] if "-" in way else "0"
        assert removed[f"roar-{way}"] == pytest.approx(int(share) / 100)
    published = set(table.query("protocol == 'as_published'")["attack"])
    assert published == {f"roar-ig-{p}" for p in (10, 30, 50, 70, 90)}


def test_attributions_are_computed_by_the_first_cell_alone(small, monkeypatch):
    run("gby-conv9", "none", small)
    monkeypatch.setattr(library, "_explained", lambda *a: pytest.fail("explained again"))
    run("gby-conv9", "ig-30", small)


def test_what_a_cell_is_told(small, images, monkeypatch):
    told = []
    monkeypatch.setattr(
        plan, "roar", lambda *what, **how: told.append((what, how)) or Outcomes([0], torch.ones(1), [0.3], torch.ones(1, 1))
    )
    run("vgg16", "ig-30", small, seed=2)
    ((name, few, ranking, fraction, imputation), how) = told[0]
    assert (name, ranking, fraction, imputation) == ("vgg16", "ig", 0.3, "mean")
    assert torch.equal(few.train_x, images.train_x[:20])
    assert torch.equal(few.train_y, images.train_y[:20])
    assert torch.equal(few.test_x, images.test_x[:12])
    assert torch.equal(few.test_y, images.test_y[:12])
    assert (how["profile"], how["seed"]) == ("cpu", 2)


def test_who_has_seen_other_images_is_trained_on_these(images, monkeypatch):
    """By its recipe VGG sees the first 10,000 images only; the CNN sees all there are."""
    asked = []
    monkeypatch.setattr(
        recipes, "trained", lambda name, images, *a, **k: asked.append((name, len(images.train_x))) or "another"
    )
    job = jobs.Job("its own", images, "cpu", 0, None, None, torch.device("cpu"))

    def network(name, profile="cpu", count=20):
        monkeypatch.setattr(plan, "TRAINING_IMAGES", {"cpu": count})
        named = replace(job, name=name, profile=profile)
        return plan._network(named, plan._few(named))

    assert network("cnn") == "another"
    assert asked == [("cnn", 20)]
    assert network("vgg16@images=20") == "its own"
    assert network("vgg16@images=21") == "another"
    assert network("cnn", count=30) == "its own"
    assert network("cnn", profile="paper") == "its own"  # all images, as its recipe has it
    for name in TABLE_1:
        assert recipes.RECIPES[name].settings["cpu"]["images"] == 10_000


def test_a_network_that_sees_the_first_images_is_the_one_trained_on_them_alone(images, monkeypatch, tmp_path):
    monkeypatch.setenv("HYBRIDGEN_CACHE", str(tmp_path))
    few = replace(images, train_x=images.train_x[:20], train_y=images.train_y[:20])
    name = "vgg16@width=0.0625,epochs=2,images=20"
    of_all, of_few = (recipes.trained(name, part, "cpu").state_dict() for part in (images, few))
    assert all(torch.equal(of_all[key], of_few[key]) for key in of_all)
    other = recipes.trained(name.replace("images=20", "images=25"), images, "cpu").state_dict()
    assert not all(torch.equal(of_all[key], other[key]) for key in of_all)


# ---------------------------------------------------------------- the claims


def test_every_claim_about_roar_is_settled_by_the_jobs(small):
    for model in TABLE_1:
        for way in ("ig-30", "ig-30-linear", "random-30-linear"):
            run(model, way, small)
    board = results.scoreboard("hybrid", chapter="14", root=small).query("metric == 'roar'")
    assert len(results.claims().query("metric == 'roar'")) == 7 + 17
    assert board["ours"].notna().all()
    assert dict(zip(board["protocol"], board["by"], strict=True)) == {
        "as_published": "roar-ig-30",
        "adaptive": "roar-ig-30-linear",
    }
    levels, orders = board[board["kind"] == "level"], board[board["kind"] == "order"]
    assert len(levels) == 7
    assert set(levels["protocol"]) == {"as_published"}
    assert set(levels["verdict"]) == {""}  # another data set's number is neither reproduced nor missed
    assert len(orders) == 2 * 17
    assert orders.groupby("key")["protocol"].nunique().eq(2).all()
    assert orders["verdict"].ne("").all()


def recorded(root, images, model, attack, protocol, clean, right, seed=0):
    outcomes = Outcomes(list(range(len(clean))), clean, [0.3], right[None])
    results.record(outcomes, root, data=images, model=model, attack=attack, protocol=protocol, seed=seed, **ORDER_KEY)
    return outcomes


def board_of(root, kind="order", model="hybrid-shallow", versus="vgg16"):
    board = results.scoreboard("hybrid", chapter="14", root=root).query(
        "metric == 'roar' and kind == @kind and model == @model"
    )
    return board[board["versus"] == versus].set_index("protocol") if kind == "order" else board


@pytest.fixture
def many():
    """As many images as an order needs."""
    x = torch.randint(0, 256, (400, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return data.ImageData(x, torch.arange(400) % 3, x, torch.arange(400) % 3, ("a", "b", "c"), "fashion-mnist")


def share(part: float, n: int = 400) -> torch.Tensor:
    return (torch.arange(n) < round(part * n)).double()


def test_a_larger_drop_that_random_pixels_cost_as_well_is_no_larger_drop(tmp_path, many):
    """As published, shallow leads by 30 points; filled in, and beside its control, it has no lead, it is behind."""
    told = (("hybrid-shallow", 0.4, 0.45, 0.55), ("vgg16", 0.7, 0.65, 0.8))
    for model, published, chosen, chance in told:
        recorded(tmp_path, many, model, "roar-ig-30", "as_published", share(0.9), share(published))
        recorded(tmp_path, many, model, "roar-ig-30-linear", "adaptive", share(0.9), share(chosen))
        recorded(tmp_path, many, model, "roar-random-30-linear", "adaptive", share(0.9), share(chance))
        recorded(tmp_path, many, model, "roar-random-30", "adaptive", share(0.9), share(0.1))  # another question
    board = board_of(tmp_path)
    assert board["ours"]["as_published"] == pytest.approx(0.3)
    assert board["ours"]["adaptive"] == pytest.approx(-0.05)
    assert board["verdict"].to_dict() == {
        "as_published": "stands (on a stand-in)",
        "adaptive": "does not stand (on a stand-in)",
    }
    assert (board["low"] < board["ours"]).all()
    assert (board["ours"] < board["high"]).all()
    (level,) = board_of(tmp_path, "level")["ours"]
    assert level == pytest.approx(0.5)


def test_without_a_control_there_is_no_corrected_verdict(tmp_path, many):
    for model in ("hybrid-shallow", "vgg16"):
        recorded(tmp_path, many, model, "roar-ig-30", "as_published", share(0.9), share(0.5))
        recorded(tmp_path, many, model, "roar-ig-30-linear", "adaptive", share(0.9), share(0.2))
        recorded(tmp_path, many, model, "roar-random-30", "adaptive", share(0.9), share(0.8))  # of holes not filled in
    recorded(tmp_path, many, "vgg16", "roar-random-30-linear", "adaptive", share(0.9), share(0.8))
    board = board_of(tmp_path)
    assert board["ours"].notna().to_dict() == {"as_published": True, "adaptive": False}
    assert board["reason"]["adaptive"] == "not yet run at full scale"


def test_seeds_that_say_different_things_disagree(tmp_path, many):
    for seed, shallow in ((0, 0.3), (1, 0.7)):
        recorded(tmp_path, many, "hybrid-shallow", "roar-ig-30", "as_published", share(0.9), share(shallow), seed)
        recorded(tmp_path, many, "vgg16", "roar-ig-30", "as_published", share(0.9), share(0.5), seed)
    assert set(board_of(tmp_path)["verdict"]["as_published"]) == {"seeds disagree"}


def test_a_control_on_other_images_is_an_error(tmp_path, many):
    for model in ("hybrid-shallow", "vgg16"):
        recorded(tmp_path, many, model, "roar-ig-30", "as_published", share(0.9), share(0.5))
        recorded(tmp_path, many, model, "roar-ig-30-linear", "adaptive", share(0.9), share(0.5))
        recorded(tmp_path, many, model, "roar-random-30-linear", "adaptive", share(0.9, 300), share(0.5, 300))
    with pytest.raises(ValueError, match="must be about the same images and draws"):
        results.scoreboard("hybrid", chapter="14", root=tmp_path)


def test_two_drops_are_compared_image_by_image():
    """Against the four cells of each image by hand: d in -2 .. 2, Agresti and Min on d / 2."""
    generator = torch.Generator().manual_seed(0)
    a, b = (
        Outcomes(list(range(50)), c, [0.3], r[None]) for c, r in torch.randint(0, 2, (2, 2, 50), generator=generator).double()
    )
    d = (a.clean - a.right[0]) - (b.clean - b.right[0])
    found = paired_difference(a, b, "accuracy_drop", 0.3)
    centre = (d / 2).sum() / 52
    spread = ((((d / 2) ** 2).sum() + 1) / 52 - centre**2) / 52
    assert found.value == pytest.approx(d.mean().item())
    assert found.low == pytest.approx(2 * (centre - 1.959964 * spread.sqrt()).item())
    assert found.high == pytest.approx(2 * (centre + 1.959964 * spread.sqrt()).item())
    assert found.n == 50
    back = paired_difference(b, a, "accuracy_drop", 0.3)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("hybrid-roar", "gfz", "none"), "model must be one of cnn, vgg16"),
        (
            ("hybrid-roar", "vgg16", "ig-50"),
            "measurement must be one of none, ig-30, random-30, ig-30-linear, random-30-linear; got 'ig-50'",
        ),
        (("hybrid-roar", "cnn", "ig-30", "paper"), "profile must be one of cpu"),
        (("hybrid-roar-cifar10", "cnn", "ig-30", "cpu"), "profile must be one of paper"),
    ],
)
def test_bad_names_are_refused_before_any_work(arguments, words, monkeypatch):
    monkeypatch.setattr(jobs.datasets, "load", lambda *a: pytest.fail("data were read"))
    with pytest.raises(ValueError, match=words):
        reproduce.reproduce(*arguments)
