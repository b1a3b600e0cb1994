"""Full-scale jobs: one file each, never twice, bad names refused before any work."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_attacks_on_models import SIZES
from torch import nn

from hybridgen_lib import attacks, data, recipes, reproduce, results
from hybridgen_lib.attacks import L2, Linf
from hybridgen_lib.classifier import frozen_noise, is_stochastic
from hybridgen_lib.evaluation import masking
from hybridgen_lib.measurement import METRICS, Outcomes
from hybridgen_lib.models.bottleneck import Bottleneck
from hybridgen_lib.models.classical import Probabilities
from hybridgen_lib.models.gazes import Gazes
from hybridgen_lib.reproduce import DOCUMENTS, causalib, hybrid, interpretable, jobs, zoo
from hybridgen_lib.reproduce.__main__ import main as command_line
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
        if name == jobs.REAL:  # no model
            continue
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


# ---------------------------------------------------------------- causalib and interpretable


@pytest.fixture
def many(small, monkeypatch):
    """The same with 110 images, as many as a masking report looks at, and few of everything."""
    x = torch.randint(0, 256, (110, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(110) % 3
    monkeypatch.setattr(jobs.datasets, "load", lambda name, root=None: data.ImageData(x, y, x, y, ("a", "b", "c"), name))
    monkeypatch.setattr(causalib, "CW_IMAGES", 2)
    monkeypatch.setattr(causalib, "CW", {"steps": 2, "searches": 1})
    monkeypatch.setattr(causalib, "AUTOATTACK_IMAGES", {"cpu": 2, "paper": 2})
    monkeypatch.setattr(causalib, "ADAPTIVE_IMAGES_PLAIN", 3)
    monkeypatch.setattr(masking, "QUERIES", 5)
    return small


@pytest.mark.parametrize("model", ["mlp", "mlp-vib", "mlp-ciiv", "mlp-causalib@alpha=0,beta=1"])
def test_every_measurement_of_causalib_writes_its_file(many, model, monkeypatch):
    versions = []

    def light(network, x, y, ball, *, version, generator):
        versions.append(version)
        return attacks.pgd(network, x, y, ball, steps=1, generator=generator)

    monkeypatch.setattr(causalib, "autoattack", light)
    plan = DOCUMENTS["causalib"]
    ways = plan.ways(model)
    paths = [reproduce.reproduce("causalib", model, way, results_root=many) for way in ways]
    assert len({path.name for path in paths}) == len(paths)
    assert all(path.exists() for path in paths)
    table = results.load(many)
    assert set(table["model"]) == set(table["claim_model"]) == {model}
    assert set(table["stand_in"]) == {""}
    shown = {"clean", "fgsm", "pgd", "pgd-margin", "noise"}
    assert ("noise" in ways) == (model not in ("mlp", "mlp-ciiv"))
    if model in causalib.ABLATION:
        assert set(ways) == shown
        assert results.reports(many).empty
        return
    stochastic = model != "mlp"
    assert set(versions) == {"rand" if stochastic else "standard"}
    assert len(versions) == 4
    assert ("fgsm-code" in ways) == (model == "mlp-vib")
    pgd = table.query("attack == 'pgd' and variant == '' and protocol == 'as_published' and metric == 'accuracy'")
    assert pgd["eps"].tolist() == pytest.approx([k / 255 for k in (8, 24, 50, 72, 96, 128, 152)])
    code = table.query("variant == 'code' and metric == 'accuracy'")
    assert set(code["attack"]) == ({"fgsm", "pgd"} if model == "mlp-vib" else set())
    assert set((code["eps"] * 255).round(6)) <= {50.0}
    radii = table.query("attack == 'autoattack' and metric == 'accuracy'").set_index("reading")["eps"]
    assert radii[""] == radii[causalib.READINGS["l2"]] == pytest.approx(8 / 255)
    assert radii[causalib.READINGS["half"]] == 0.5
    assert radii[causalib.READINGS["rms"]] == pytest.approx(8 / 255 * 8)  # of 8 x 8 pixels
    assert set(table.query("attack == 'cw'")["eps"].dropna()) == {8.0}  # as far as two such images can be apart
    assert table.query("attack == 'cw'")["steps"].tolist() == [20] * 3
    sheet = results.reports(many)
    assert set(sheet["sign"]) == set(masking.SIGNS)
    before = {path: path.stat().st_mtime_ns for path in paths}
    monkeypatch.setattr(jobs, "trained", lambda *a, **k: pytest.fail("measured again"))
    assert [reproduce.reproduce("causalib", model, way, results_root=many) for way in ways] == paths
    assert {path: path.stat().st_mtime_ns for path in paths} == before


def test_the_noise_in_a_code_against_numbers_by_hand():
    """Two pixels, a code of two, two classes: everything about it can be written down."""
    model = Bottleneck(nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Linear(2, 2)), 2, code=2, draws=20_000)
    for part in (model.trunk[1], model.mean, model.decoder):
        part.weight.data, part.bias.data = torch.eye(2), torch.zeros(2)
    model.spread.weight.data.zero_()
    model.spread.bias.data = 5 + torch.tensor([0.5, 2.0]).expm1().log()  # sigma is 0.5 and 2
    x = torch.tensor([[0.75, 0.25], [0.0, 0.5]])[:, None, None]
    found = causalib.noise_in_the_code(model, x, torch.tensor([0, 0]), torch.Generator().manual_seed(0))
    torch.testing.assert_close(found["lead"], torch.tensor([0.5, -0.5]))
    torch.testing.assert_close(found["slope"], torch.tensor([2.0, 2.0]))
    by_hand = [sum(0.5 * (m**2 + s**2 - 1) - math.log(s) for m, s in zip(row, (0.5, 2), strict=True)) for row in x.flatten(1)]
    torch.testing.assert_close(found["rate"], torch.stack(by_hand))
    torch.testing.assert_close(found["lead_noise"], torch.full((2,), 4.25**0.5), rtol=0.02, atol=0)  # of z_0 - z_1
    torch.testing.assert_close(found["loudest"], torch.full((2,), 4 / 4.25))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_rate_of_a_code_holds_where_the_square_of_its_noise_is_zero():
    model = Bottleneck(nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Linear(2, 2)), 2, code=2)
    for layer in (model.mean, model.spread):
        layer.weight.data.zero_()
    model.mean.bias.data.zero_()
    model.spread.bias.data = 5 + torch.tensor([1e-30, 1.0]).expm1().log()
    found = causalib.noise_in_the_code(model, torch.rand(3, 1, 1, 2), torch.zeros(3).long(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(found["rate"], torch.full((3,), 30 * math.log(10) - 0.5), rtol=1e-5, atol=0)
    torch.testing.assert_close(found["loudest"], torch.ones(3))


@pytest.mark.parametrize("model", ["cnn", "cnn-at-l2"])
def test_every_measurement_of_interpretable_writes_its_file_and_settles_the_documents_claim(small, model):
    plan = DOCUMENTS["interpretable"]
    paths = [reproduce.reproduce("interpretable", model, way, results_root=small) for way in plan.ways(model)]
    assert len({path.name for path in paths}) == len(paths) == 4
    table = results.load(small)
    other = {"cnn": "resnet18", "cnn-at-l2": "resnet18-at-l2"}[model]
    assert set(table["model"]) == {model}
    assert set(table["claim_model"]) == {other}
    assert set(table["claim_data"]) == {"cifar10"}
    assert set(table["norm"]) == {"", "l2"}
    assert set(table.query("attack == 'pgd' and protocol == 'as_published'")["eps"].dropna()) == {0.25, 0.5, 1.0, 1.5, 2.0}
    board = results.scoreboard("interpretable", "09", small)
    about = board[(board["model"] == other) & (board["reason"] != "no data here")]
    assert len(about) > 3
    assert about["ours"].notna().all()
    assert (about["stand_in"] == "Fashion-MNIST, the small CNN").all()
    assert set(about["verdict"]) <= {
        "",  # another model's number is neither reproduced nor missed
        "stands (on Fashion-MNIST, the small CNN)",
        "does not stand (on Fashion-MNIST, the small CNN)",
        "undecided at this n",
    }
    assert set(about[about["protocol"] == "as_published"]["verdict"]) == {""}
    assert board[(board["model"] != other) & (board["reason"] != "no data here")]["ours"].isna().all()


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """Every job at once: outcomes are made up, but the radii, norms and keys are those of the plans."""
    shapes = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28)}

    def load(name, root=None):
        x, y = torch.zeros(2, *shapes.get(name, (3, 32, 32)), dtype=torch.uint8), torch.zeros(2, dtype=torch.long)
        return data.ImageData(x, y, x, y, ("a", "b"), name)

    def made_up(epsilons, norm):
        told.append((norm, [float(eps) for eps in epsilons]))
        right = torch.tensor([1.0, 0.0]).expand(len(epsilons), 2)
        return Outcomes([0, 1], torch.ones(2), [float(eps) for eps in epsilons], right)

    def attacked(model, images, attack, ball_type, epsilons, **options):
        return made_up(epsilons, ball_type.__name__.lower())

    def searched(model, images, attack, epsilons, **options):
        assert attack.keywords["steps"] == 20
        return made_up(epsilons, "l2")

    def staged(model, images, balls, suite, **options):
        return {name: made_up([ball.eps for ball in balls], type(balls[0]).__name__.lower()) for name in ("pgd", "all")}

    def recorded(outcomes, root, **key):
        assert key.get("norm", told[-1][0]) == told[-1][0] or key["attack"] == "none", key
        return record(outcomes, root, **key)

    told, record = [], results.record
    monkeypatch.setattr(jobs.datasets, "load", load)
    monkeypatch.setattr(jobs, "trained", lambda *a, **k: torch.nn.Flatten())
    for module in (jobs, causalib):
        monkeypatch.setattr(module, "attack_outcomes", attacked)
    monkeypatch.setattr(jobs, "adaptive_outcomes", staged)
    monkeypatch.setattr(causalib, "smallest_outcomes", searched)
    monkeypatch.setattr(jobs.results, "record", recorded)
    monkeypatch.setattr(results.files, "_git", lambda *a: "")
    sheet = pd.DataFrame(
        [("sign", 0.0, "<= 1", "pass", "words", 2)], columns=["sign", "value", "passes", "verdict", "meaning", "n"]
    )
    monkeypatch.setattr(causalib, "masking_report", lambda *a, **k: sheet)
    monkeypatch.setattr(causalib, "noise_in_the_code", lambda model, x, y, generator: {"rate": torch.zeros(len(x))})
    return tmp_path


@pytest.mark.parametrize(
    ("document", "chapter", "profile"),
    [("causalib", "10", "cpu"), ("causalib", "10", "paper"), ("interpretable", "09", "cpu"), ("interpretable", "09", "paper")],
)
def test_every_claim_of_chapters_09_and_10_is_settled_by_the_jobs_of_its_plan(pretended, document, chapter, profile):
    """Not by names alone: jobs write their files, and the scoreboard finds a run for every claim, at its radius."""
    plans = {name: plan for name, plan in DOCUMENTS.items() if name.partition("-")[0] == document and profile in plan.stand_in}
    plans = {name: plan for name, plan in plans.items() if plan.chapter == chapter}
    for name, plan in plans.items():
        for model in plan.models:
            for way in plan.ways(model):
                assert reproduce.reproduce(name, model, way, profile, results_root=pretended).exists()
    there = {plan.claim_data or plan.data for plan in plans.values()}
    assert there == {
        ("causalib", "cpu"): {"mnist", "fashion-mnist"},
        ("causalib", "paper"): {"mnist", "fashion-mnist", "cifar10", "cifar100"},
    }.get((document, profile), {"cifar10"})
    board = results.scoreboard(document, chapter, pretended)
    board = board[board["data"].isin(there) & ~board["metric"].isin(["best_alpha"]) & (board["reason"] != "no data here")]
    assert set(board["metric"]) <= set(METRICS)
    published = board[board["protocol"] == "as_published"]
    columns = ["locator", "data", "model", "versus", "attack", "norm", "eps", "steps", "reading"]
    assert published[published["ours"].isna()][columns].values.tolist() == []
    assert len(published) > (6 if document == "interpretable" else 150)
    adaptive = board[(board["protocol"] == "adaptive") & (board["metric"] == "accuracy")]
    assert set(adaptive["norm"]) == {"l2" if document == "interpretable" else "linf"}
    assert adaptive[adaptive["ours"].isna()][columns].values.tolist() == []
    tables = adaptive["eps"].round(6).isin([0.5, round(8 / 255, 6), round(50 / 255, 6)])
    whole = tables & ~adaptive["model"].str.contains("@")  # at the tables' radii the whole protocol speaks
    assert set(adaptive[whole]["by"]) == {"worst-case"}
    assert set(adaptive[~whole]["by"]) <= {"worst-case", "pgd-margin"}
    exact = published[published["stand_in"] == ""]
    assert set(exact["data"]) <= {"mnist", "fashion-mnist", "cifar100"}
    assert (len(exact) > 150) == (document == "causalib")
    if document == "causalib" and profile == "cpu":
        stands_in = published[published["stand_in"] != ""]
        assert set(stands_in["stand_in"]) == {"10 epochs"}
        assert ((stands_in["model"] == "mlp-at-pgd") | (stands_in["versus"] == "mlp-at-pgd")).all()


@pytest.mark.parametrize("document", ["causalib", "causalib-cifar10", "interpretable", "interpretable-cifar10"])
def test_every_model_of_a_plan_is_a_recipe_with_valid_changes(document):
    plan = DOCUMENTS[document]
    assert len(set(plan.models)) == len(plan.models)
    for name in (*plan.models, plan.source):
        shape = (1, 28, 28) if name.startswith(("mlp", "cnn")) else (3, 32, 32)
        with torch.device("meta"):
            recipes.build(name, shape, 10, "paper")
    assert set(plan.claim_models) <= set(plan.models)
    assert set(plan.exact) - set(plan.models) <= set(causalib.ABLATION)
    for way in plan.measurements.values():
        assert set(way.only) <= {*causalib.MODELS, *causalib.ABLATION}


def test_the_ablation_is_that_of_the_claims():
    named = {name for name in results.claims().query("document == 'causalib'")["model"] if "@" in name}
    assert named == set(causalib.ABLATION) - {"mlp-causalib@beta=6.6"}


@pytest.mark.parametrize(("document", "model", "seed"), [("causalib", "mlp", 1), ("causalib", "mlp-vib", 0)])
def test_the_black_box_is_another_network(document, model, seed, many, monkeypatch):
    """Its images are made on the source alone, the plain network; of the plain network itself that of the next seed."""
    asked, build = [], jobs.trained

    def trained(name, images, profile, seed, device):
        asked.append((name, seed, build(name, images, profile, seed, device)))
        return asked[-1][2]

    attacked = []
    monkeypatch.setattr(jobs, "trained", trained)
    monkeypatch.setattr(causalib, "pgd", lambda network, x, y, ball, **options: attacked.append((network, ball, options)) or x)
    reproduce.reproduce(document, model, "transfer-pgd", results_root=many)
    assert [(name, number) for name, number, _ in asked] == [(model, 0), ("mlp", seed)]
    assert attacked
    for network, ball, options in attacked:
        assert network is asked[1][2]
        assert ball == Linf(50 / 255)
        assert options["steps"] == 20


def test_what_the_published_attacks_are_told(monkeypatch):
    told = []
    for module in (causalib, interpretable):
        monkeypatch.setattr(module, "pgd", lambda model, x, y, ball, **options: told.append((ball, options)))
    causalib.published_pgd(None, None, None, Linf(0.2), generator="source")
    interpretable.published_pgd(None, None, None, L2(1.5), generator="source")
    assert told[0] == (Linf(0.2), {"steps": 20, "generator": "source"})
    ball, options = told[1]
    assert ball == L2(1.5)
    assert options == {"steps": 20, "step_size": pytest.approx(0.3), "generator": "source"}


def test_the_released_code_attacks_probabilities(many, monkeypatch):
    attacked = []
    monkeypatch.setattr(causalib, "_curve", lambda attack, epsilons, job: attacked.append((attack, epsilons, job)))
    job = jobs.Job(torch.nn.Flatten(), None, "cpu", 0, None, None, torch.device("cpu"))
    causalib._as_released(attacks.fgsm, (0.1,), job)
    ((attack, epsilons, seen),) = attacked
    assert (attack, epsilons) == (attacks.fgsm, (0.1,))
    assert isinstance(seen.model, Probabilities)
    assert seen.model.model is job.model


def test_the_surrogate_is_that_of_a_model_without_a_gradient():
    ciiv = recipes.build("mlp-ciiv", (1, 8, 8), 3, hidden=4)
    other = jobs.surrogate_of(ciiv)
    assert isinstance(other, Gazes)
    assert other.smooth
    assert not ciiv.smooth
    assert other.head is ciiv.head
    for name in ("mlp", "mlp-vib", "mlp-smoothing", "cnn", "gbz"):
        assert jobs.surrogate_of(recipes.build(name, (1, 8, 8), 3, **SIZES.get(name, {"width": 2, "hidden": 4}))) is None


@pytest.mark.parametrize(("model", "smooth"), [("mlp-ciiv", True), ("mlp-vib", False), ("mlp", False)])
def test_the_protocol_and_the_masking_report_take_its_gradients(many, model, smooth, monkeypatch):
    given, protocol, report = {}, jobs.adaptive_outcomes, causalib.masking_report

    def staged(*arguments, surrogate, source, **options):
        given["protocol"] = surrogate, source
        return protocol(*arguments, surrogate=surrogate, source=source, **options)

    def sheet(network, images, ball, surrogate, **options):
        given["report"] = surrogate
        assert ball == Linf(50 / 255)
        return report(network, images, ball, surrogate, **options)

    monkeypatch.setattr(jobs, "adaptive_outcomes", staged)
    monkeypatch.setattr(causalib, "masking_report", sheet)
    for way in ("worst-case", "masking"):
        reproduce.reproduce("causalib", model, way, results_root=many)
    surrogate, source = given["protocol"]
    assert (surrogate is not None) == smooth
    assert type(source).__name__ == "DenseNetwork"
    assert getattr(given["report"], "smooth", False) == smooth
    assert type(given["report"]).__name__ == ("Gazes" if smooth else "DenseNetwork")


@pytest.mark.parametrize(
    ("model", "answers"),
    [("mlp", False), ("mlp-vib", False), ("mlp-causalib", False), ("mlp-smoothing", True), ("mlp-ciiv", True)],
)
def test_an_answer_is_dear_where_a_network_runs_many_times(model, answers):
    """A bottleneck draws codes, which cost one linear layer; smoothing and CiiV run the whole network for each."""
    job = jobs.Job(recipes.build(model, (1, 8, 8), 3, **SIZES[model]), None, "cpu", 0, None, None, torch.device("cpu"))
    assert job.samples == answers
    assert replace(job, model=Probabilities(job.model)).samples == answers


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("interpretable", "resnet18", "clean"), "model must be one of cnn, cnn-at-l2"),
        (("interpretable", "cnn", "pgd"), "measurement must be one of"),
        (("interpretable", "cnn", "clean", "paper"), "profile must be one of cpu"),
        (("interpretable-cifar10", "resnet18", "clean", "cpu"), "profile must be one of paper"),
        (("causalib", "alexnet", "clean"), "model must be one of mlp"),
        (("causalib", "mlp", "fgsm-code"), "measurement must be one of"),
        (("causalib", "mlp-causalib@norm=l1", "worst-case"), "measurement must be one of clean, fgsm, pgd, pgd-margin"),
        (("causalib-cifar10", "alexnet", "clean", "cpu"), "profile must be one of paper"),
    ],
)
def test_bad_names_of_chapters_09_and_10_are_refused(arguments, words, monkeypatch):
    monkeypatch.setattr(jobs.datasets, "load", lambda *a: pytest.fail("data were read"))
    with pytest.raises(ValueError, match=words):
        reproduce.reproduce(*arguments)


def test_the_command_line_names_a_model_that_is_none(capsys):
    for document in ("interpretable-explained", "hybrid"):
        with pytest.raises(SystemExit) as stop:
            command_line([document, "cnnn"])
        assert stop.value.code == 2
        assert "model must be one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "profile", "suite"),
    [
        ("gfz", "cpu", "adaptive-sampling-cpu"),
        ("gfz", "paper", "adaptive"),
        ("mlp-vib", "cpu", "adaptive"),
        ("cnn", "cpu", "adaptive"),
    ],
)
def test_what_is_recorded_is_the_whole_protocol(monkeypatch, model, profile, suite):
    told = []
    monkeypatch.setattr(jobs, "adaptive_outcomes", lambda *a, **k: told.append((a[2], a[3], k["seed"])) or {"pgd": None})
    network = recipes.build(model, (1, 8, 8), 3, **SIZES.get(model, {"width": 2, "hidden": 4}))
    about = jobs.Job(network, None, profile, 4, lambda: None, None, torch.device("cpu"))
    jobs.worst_case(Linf, (0.1, 0.3)).measure(about)
    assert told == [([Linf(0.1), Linf(0.3)], suite, 4)]


@pytest.mark.parametrize("model", ["cama", "hybrid-deep"])
def test_without_m_means_that_m_is_set_to_zero(monkeypatch, model):
    seen = []
    monkeypatch.setattr(hybrid, "clean", lambda job: seen.append(job.model))
    network = recipes.build(model, (1, 8, 8), 3, **SIZES.get(model, {"width": 2, "hidden": 4}))
    DOCUMENTS["hybrid"].measurements["clean-no-m"].measure(jobs.Job(network, None, "cpu", 0, None, None, torch.device("cpu")))
    assert [one.interventions for one in seen] == [{"m": 0}]
    assert network.interventions == {}


def test_what_the_attacks_of_zoo_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(zoo, "pgd", lambda model, x, y, ball, **options: told.append(options))
    for ball in (Linf(0.3), L2(2.0)):
        zoo.published_pgd(None, None, None, ball, generator="source")
    assert told == [
        {"steps": 40, "step_size": pytest.approx(0.3 / 30), "generator": "source"},
        {"steps": 50, "step_size": pytest.approx(2.0 / 40), "generator": "source"},
    ]
    searches = []
    monkeypatch.setattr(zoo, "smallest_outcomes", lambda *a, **options: searches.append(options))
    for way in ("contrast-linear", "contrast-binary", "blur"):
        DOCUMENTS["zoo"].measurements[way].measure(
            jobs.Job(torch.nn.Flatten(), None, "cpu", 0, None, None, torch.device("cpu"))
        )
    assert [options["project"] for options in searches] == [Linf] * 3  # Foolbox clips what it finds further away


@pytest.mark.parametrize(("module", "document", "model"), [(zoo, "zoo", "vae-classifier"), (causalib, "causalib", "mlp-vib")])
def test_carlini_wagner_meets_a_models_noise_frozen(monkeypatch, module, document, model):
    x, y = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.long)
    frozen = []
    monkeypatch.setattr(module, "smallest_outcomes", lambda network, *a, **k: frozen.append(not is_stochastic(network)))
    network = recipes.build(model, (1, 8, 8), 3, **SIZES[model])
    about = jobs.Job(network, data.ImageData(x, y, x, y, ("a",), "tiny"), "cpu", 0, None, None, torch.device("cpu"))
    DOCUMENTS[document].measurements["cw"].measure(about)
    assert frozen == [True]
    assert is_stochastic(network)
