"""Full-scale jobs: one file each, never twice, bad names refused before any work."""

import json
import math
from pathlib import Path

import pytest
import torch
from test_attacks_on_models import SIZES

from hybridgen_lib import attacks, data, recipes, reproduce, results
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.evaluation import masking
from hybridgen_lib.reproduce import DOCUMENTS, hybrid, jobs, zoo
from hybridgen_lib.reproduce.deepbayes import DEEPBAYES

TINY = {"width": 2, "hidden": 4, "epochs": 1}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Thirty random images under the names of the real data, untrained networks, few of everything."""
    x = torch.randint(0, 256, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(30) % 3
    monkeypatch.setattr(jobs.datasets, "load", lambda name, root=None: data.ImageData(x, y, x, y, ("a", "b", "c"), name))
    monkeypatch.setattr(
        jobs,
        "trained",
        lambda name, images, profile, seed, device: recipes.build(
            name, (1, 8, 8), 3, **SIZES.get(name.partition("@")[0], {"width": 2, "hidden": 4})
        ).eval(),
    )
    monkeypatch.setattr(jobs, "CLEAN_IMAGES", 20)
    monkeypatch.setattr(jobs, "TABLE_IMAGES", {"cpu": 6, "paper": 6})
    monkeypatch.setattr(jobs, "GRID_IMAGES", {"cpu": 5, "paper": 6})
    monkeypatch.setattr(jobs, "ADAPTIVE_IMAGES", {"cpu": 4, "paper": 6})
    monkeypatch.setattr(jobs, "ADAPTIVE_IMAGES_PLAIN", 7)
    monkeypatch.setattr(jobs, "suite_of", lambda job: "sketch")
    return tmp_path


@pytest.mark.parametrize("model", ["cnn", "gbz"])
def test_every_measurement_writes_its_file_and_only_once(small, model, monkeypatch):
    ways = list(DEEPBAYES.measurements)
    paths = [reproduce.reproduce("deepbayes", model, what, results_root=small) for what in ways]
    table = results.load(small)
    assert len({path.name for path in paths}) == 4
    assert set(table["protocol"]) == {"as_published", "adaptive"}
    attacked = table.query("metric == 'success_rate' or metric == 'accuracy'")
    assert set(attacked["eps"]) == {0.01, 0.02, 0.05, 0.1, 0.2, 0.3}
    images = {"worst-case": 7, "curve": 20} if model == "cnn" else {"worst-case": 4, "curve": 5}
    protocol = attacked.query("metric == 'accuracy' and attack in ('pgd', 'pgd+square', 'worst-case')")
    assert set(protocol["attack"]) == {
        "pgd",
        "pgd+square",
        "worst-case",
    }  # what each stage leaves, the last under its own name
    assert set(protocol["n"]) == {images["worst-case"]}
    left = protocol.pivot(index="eps", columns="attack", values="value")
    assert (left["worst-case"] <= left["pgd"] + 0.26).all()  # one of four images may be judged anew
    assert set(attacked.query("metric == 'accuracy' and attack in ('fgsm', 'pgd-margin')")["n"]) == {images["curve"]}
    assert set(table.query("attack == 'none'")["n"]) == {20}
    monkeypatch.setattr(jobs, "trained", lambda *a, **k: pytest.fail("measured again"))
    assert [reproduce.reproduce("deepbayes", model, what, results_root=small) for what in ways] == paths


@pytest.mark.parametrize("model", DOCUMENTS["zoo"].models)
def test_every_attack_of_zoo_writes_its_file(small, model, monkeypatch):
    monkeypatch.setattr(jobs, "CLEAN_IMAGES", 3)
    monkeypatch.setattr(zoo, "CW_IMAGES", 2)
    monkeypatch.setattr(zoo, "CW", {"steps": 2, "searches": 2})
    plan = DOCUMENTS["zoo"]
    ways = plan.ways(model)
    paths = {reproduce.reproduce("zoo", model, what, results_root=small).name for what in ways}
    assert len(paths) == len(ways)
    table = results.load(small)
    assert set(table.query("norm == 'l2' and metric == 'accuracy'")["eps"]) == {1.0, 2.0, 3.0, 4.0, 5.0}
    code = set(table.query("variant == 'code'")["attack"])
    assert code == ({"fgsm", "pgd"} if "fgsm-code" in ways else set())
    convolutional = model.startswith("cnn")
    assert set(table["stand_in"]) == {"half width" if convolutional else ""}
    linf = table.query("metric == 'accuracy' and protocol == 'as_published' and norm == 'linf'")
    samples = model.startswith("cnn-vae") or model == "cvae"
    assert set(linf["n"]) == {6 if samples else 3}  # of these one answer is dear


@pytest.mark.parametrize("model", ["vgg16", "cama", "hybrid-deep@code=16,pressure=4", "hybrid-shallow@scales=learned"])
def test_every_measurement_of_hybrid_writes_its_file(small, model, monkeypatch):
    monkeypatch.setattr(hybrid, "MASKING_IMAGES", 2)
    monkeypatch.setattr(masking, "QUERIES", 5)
    plan = DOCUMENTS["hybrid"]
    paths = [reproduce.reproduce("hybrid", model, way, results_root=small) for way in plan.ways(model)]
    assert len({path.name for path in paths}) == len(paths)
    assert all(path.exists() for path in paths)
    table = results.load(small)
    assert set(table["model"]) == {model}
    assert (table["claim_data"] == "cifar10").all()
    assert (table["stand_in"] != "").all()
    sheet = results.reports(small)
    if model in hybrid.ABLATION:
        assert sheet.empty
        assert set(table["eps"].dropna()) == {0.05, 0.1}
        return
    assert set(sheet["sign"]) == set(masking.SIGNS)
    assert set(sheet["model"]) == {model}
    rms = table[table["reading"] == hybrid.READINGS["rms"]]
    assert set((rms["eps"].dropna() / 8).round(6)) == set(hybrid.EPSILONS)  # of 8 x 8 pixels
    assert set(table[table["attack"] == "worst-case"]["eps"].dropna()) == {0.05, 0.1, 0.2, 0.3}


def test_every_claim_of_chapter_08_has_a_job():
    board = results.claims().query("document == 'hybrid' and chapter == '08' and key != ''")
    plans = [plan for name, plan in DOCUMENTS.items() if name.startswith("hybrid")]
    assert set(board["data"]) == {plan.claim_data for plan in plans}
    for claim in board.itertuples():
        plan = next(p for p in plans if p.claim_data == claim.data and "paper" in p.stand_in)
        ways = [plan.measurements[name] for model in {claim.model, claim.versus or claim.model} for name in plan.ways(model)]
        for protocol in ("as_published", "adaptive"):
            if claim.attack == "none":
                assert any(way.key["attack"] == "none" and not way.key.get("reading") for way in ways)
                continue
            fits = [w for w in ways if w.key["protocol"] == protocol and w.key.get("norm") == claim.norm]
            readings = {w.key.get("reading", "") for w in fits if protocol == "adaptive" or w.key["attack"] == claim.attack}
            assert readings & {"", *claim.reading.split("; ")}, claim.key


def test_one_model_is_measured_by_both_of_its_rules(small):
    paths = [reproduce.reproduce("zoo", "cvae", what, results_root=small).name for what in ("clean", "clean-mse")]
    assert paths == ["cvae-cpu-s0-as_published-none.json", "cvae@rule=mse-cpu-s0-as_published-none.json"]
    with pytest.raises(ValueError, match="measurement must be one of"):
        reproduce.reproduce("zoo", "gmm", "clean-mse", results_root=small)


def test_the_released_naive_bayes_takes_the_variance_for_the_deviation():
    mini = data.load("fashion-mini")
    model = zoo.released_naive_bayes(mini)
    x = (mini.train_x >= 128).double().flatten(1)  # 128 / 255 is the first grey value of at least one half
    mean = torch.stack([x[mini.train_y == c].mean(0) for c in range(10)])
    spread = torch.stack([x[mini.train_y == c].var(0, correction=0) for c in range(10)]) + 1e-9
    image = data.as_float(mini.test_x[:3])
    expected = torch.distributions.Normal(mean, spread).log_prob((image.flatten(1) >= 0.5).double()[:, None]).sum(2)
    torch.testing.assert_close(model(image).double(), expected - math.log(10), rtol=1e-4, atol=1)


def test_published_noise_is_the_noise_of_the_search_and_does_not_ask_the_model():
    x, y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(6, dtype=torch.long)
    for attack, search, ball in (
        (zoo.uniform_noise, attacks.smallest_uniform_noise, attacks.Linf(0.3)),
        (zoo.gaussian_noise, attacks.smallest_gaussian_noise, attacks.L2(1.0)),
    ):
        noisy = attack(None, x, y, ball, generator=torch.Generator().manual_seed(5))
        fallen = attacks.within(search)(Never(), x, y, ball, generator=torch.Generator().manual_seed(5))
        torch.testing.assert_close(noisy, fallen)
        assert (noisy != x).flatten(1).any(1).all()
        assert ball.norm(noisy - x).max() <= ball.eps * (1 + 1e-5)


class Never(torch.nn.Module):
    """Right about an image as it is given, wrong about every other."""

    def forward(self, x):
        if not hasattr(self, "clean"):
            self.clean = x.clone()
        same = (x == self.clean[: len(x)]).flatten(1).all(1).float()
        return torch.stack([same, 1 - same], 1)


def test_every_result_comes_from_the_recipe_as_it_is():
    for path in (Path(__file__).parents[1] / "results").rglob("*.json"):
        content = json.loads(path.read_text())
        name = content["key"]["model"].partition("@")[0]
        assert content["provenance"]["settings"]["recipe_version"] == recipes.RECIPES[name].version, path


def test_the_released_cnn_vae_has_its_gradient_through_the_guide_alone():
    model = recipes.build("cnn-vae", (1, 8, 8), 3, width=2, hidden=4, samples=2)
    released = zoo.released_cnn_vae(model)
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with frozen_noise(model, 1), frozen_noise(released, 1):
        whole, part = model(x), released(x)
        torch.testing.assert_close(part, whole)
        slopes = [torch.autograd.grad(scores[:, 0].sum(), x)[0] for scores in (whole, part)]
    assert (slopes[0] - slopes[1]).abs().max() > 0.01
    assert slopes[1].abs().max() > 0
    guide = released.networks["q(z|x,y)"].mlp.trunk
    guide.dense.weight.data.zero_()  # a guide that does not look at x
    with frozen_noise(released, 1):
        assert torch.autograd.grad(released(x)[:, 0].sum(), x)[0].abs().max() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nobody", "gfz", "fgsm"), "document must be one of"),
        (("deepbayes", "vgg16", "fgsm"), "model must be one of"),
        (("deepbayes", "gfz", "cw"), "measurement must be one of"),
        (("deepbayes", "gfz", "fgsm", "quick"), "profile must be one of"),
    ],
)
def test_bad_names_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        reproduce.reproduce(*arguments)


def test_the_graph_runs_every_job():
    """The Snakefile names models and measurements once more, so that it need not import torch; they must be the same."""
    text = (Path(__file__).parents[1] / "Snakefile").read_text()
    told: dict = {}
    exec(text[text.index("DEEP_BAYES =") : text.index("CHAPTERS =")], told)
    assert set(told["MEASUREMENTS"]) == set(DOCUMENTS)
    for document, (data_set, models, _) in told["MEASUREMENTS"].items():
        plan = DOCUMENTS[document]
        assert (data_set, tuple(models)) == (plan.data, plan.models)
        assert set(told["AT"].get(document, ["cpu", "paper"])) == set(plan.stand_in)
        assert {model: told["ways_of"](document, model) for model in models} == {model: plan.ways(model) for model in models}


def test_every_claim_of_chapter_05_has_a_job():
    plan = DOCUMENTS["deepbayes"]
    claims = results.claims().query("document == 'deepbayes' and key != ''")
    assert set(claims["model"]) <= set(plan.models)
    assert set(claims["eps"].dropna()) <= {0.1, 0.3}
    assert set(claims["data"]) == {plan.data}


def test_every_claim_of_zoo_has_a_job():
    plan = DOCUMENTS["zoo"]
    attacks = {(way.key["attack"], way.key["norm"]) for way in plan.measurements.values() if "norm" in way.key}
    claims = results.claims().query("document == 'zoo' and key != ''")
    assert len(claims) >= 248
    assert set(claims["model"]) <= set(plan.models)
    attacked = claims[~claims["attack"].isin(["none", ""])]
    assert set(zip(attacked["attack"], attacked["norm"], strict=True)) <= attacks
