"""Full-scale jobs: one file each, never twice, bad names refused before any work."""

from pathlib import Path

import pytest
import torch

from hybridgen_lib import data, recipes, reproduce, results
from hybridgen_lib.evaluation import SUITES
from hybridgen_lib.reproduce import DOCUMENTS, jobs
from hybridgen_lib.reproduce.deepbayes import DEEPBAYES

TINY = {"width": 2, "hidden": 4, "epochs": 1}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Thirty random images under the names of the real data, untrained networks, few of everything."""
    x = torch.randint(0, 256, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(30) % 3
    monkeypatch.setattr(jobs.datasets, "load", lambda name, root=None: data.ImageData(x, y, x, y, ("a", "b", "c"), name))
    changes = {"gmm": {"components": 2}}
    monkeypatch.setattr(
        jobs,
        "trained",
        lambda name, images, profile, seed, device: recipes.build(
            name, (1, 8, 8), 3, **changes.get(name, {"width": 2, "hidden": 4})
        ).eval(),
    )
    monkeypatch.setattr(jobs, "CLEAN_IMAGES", 20)
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


@pytest.mark.parametrize("model", ["gmm", "cnn"])
def test_every_attack_of_zoo_writes_its_file(small, model, monkeypatch):
    monkeypatch.setattr(jobs, "CLEAN_IMAGES", 3)
    ways = DOCUMENTS["zoo"].measurements
    paths = {reproduce.reproduce("zoo", model, what, results_root=small).name for what in ways}
    assert len(paths) == len(ways)
    table = results.load(small)
    assert set(table.query("norm == 'l2' and metric == 'accuracy'")["eps"]) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert set(table.query("variant == 'code'")["attack"]) == {"fgsm", "pgd"}
    assert set(table["stand_in"]) == {"" if model == "gmm" else "half width"}  # the mixture is the document's own


def test_the_attacks_are_what_their_keys_say(small, monkeypatch):
    seen = []
    monkeypatch.setattr(jobs, "attack_outcomes", lambda model, images, attack, *a, **k: seen.append(attack))
    for what in ("fgsm", "pgd-margin"):
        DEEPBAYES.measurements[what].measure(jobs.Job(torch.nn.Identity(), None, "cpu", 0, None))
    published, adaptive = seen
    assert published.__name__ == "fgsm"
    assert DEEPBAYES.measurements["fgsm"].key["steps"] == 1
    assert adaptive.keywords["steps"] == DEEPBAYES.measurements["pgd-margin"].key["steps"]


def test_the_transfer_comes_from_another_network(small, monkeypatch):
    asked = []
    monkeypatch.setattr(jobs, "adaptive_outcomes", lambda *a, source, **k: asked.append(source) or {})
    build = jobs.trained
    wanted = []
    monkeypatch.setattr(jobs, "trained", lambda name, *a, **k: wanted.append((name, a[2])) or build(name, *a, **k))
    for model in ("cnn", "gfz"):
        reproduce.reproduce("deepbayes", model, "worst-case", results_root=small)
    assert len(asked) == 2
    assert wanted == [("cnn", 0), ("cnn", 1), ("gfz", 0), ("cnn", 0)]


def test_which_suite_a_model_meets():
    sampling, plain = torch.nn.Identity(), torch.nn.Identity()
    sampling.stochastic = True
    suites = {(m, p): jobs.suite_of(jobs.Job(m, None, p, 0, None)) for m in (sampling, plain) for p in ("cpu", "paper")}
    assert suites == {
        (sampling, "cpu"): "adaptive-sampling-cpu",
        (sampling, "paper"): "adaptive",
        (plain, "cpu"): "adaptive",
        (plain, "paper"): "adaptive",
    }
    assert set(suites.values()) <= set(SUITES)


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
    for document, (data_set, models, measurements) in told["MEASUREMENTS"].items():
        plan = DOCUMENTS[document]
        assert (data_set, set(models), measurements) == (plan.data, set(plan.models), list(plan.measurements))


def test_every_claim_of_chapter_05_has_a_job():
    plan = DOCUMENTS["deepbayes"]
    claims = results.claims().query("document == 'deepbayes' and key != ''")
    assert set(claims["model"]) <= set(plan.models)
    assert set(claims["eps"].dropna()) <= {0.1, 0.3}
    assert set(claims["data"]) == {plan.data}


def test_every_claim_of_zoo_about_a_model_that_is_there_has_a_job():
    plan = DOCUMENTS["zoo"]
    attacks = {(way.key["attack"], way.key["norm"]) for way in plan.measurements.values() if "norm" in way.key}
    claims = results.claims().query("document == 'zoo' and chapter == '06'")
    claims = claims[claims["model"].isin(plan.models)]
    assert len(claims) >= 16
    assert set(zip(claims["attack"], claims["norm"], strict=True)) <= attacks
