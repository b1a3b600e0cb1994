"""Full-scale jobs: one file each, never twice, bad names refused before any work."""

from pathlib import Path

import pytest
import torch

from hybridgen_lib import data, recipes, reproduce, results
from hybridgen_lib.evaluation import SUITES

TINY = {"width": 2, "hidden": 4, "epochs": 1}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Thirty random images under the name of the real data, an untrained network, three radii."""
    x = torch.randint(0, 256, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = data.ImageData(x, torch.arange(30) % 3, x, torch.arange(30) % 3, ("a", "b", "c"), "fashion-mnist")
    monkeypatch.setattr(reproduce.datasets, "load", lambda name, root=None: images)
    monkeypatch.setattr(
        reproduce,
        "trained",
        lambda name, images, profile, seed, device: recipes.build(name, (1, 8, 8), 3, width=2, hidden=4).eval(),
    )
    monkeypatch.setattr(reproduce, "CLEAN_IMAGES", 20)
    monkeypatch.setattr(reproduce, "GRID_IMAGES", {"cpu": 5, "paper": 6})
    monkeypatch.setattr(reproduce, "EPSILONS", (0.1, 0.3))
    monkeypatch.setattr(reproduce, "ADAPTIVE_IMAGES", {"cpu": 4, "paper": 6})
    monkeypatch.setattr(reproduce, "ADAPTIVE_IMAGES_PLAIN", 7)
    monkeypatch.setattr(reproduce, "_suite", lambda job: "sketch")
    return tmp_path


@pytest.mark.parametrize("model", ["cnn", "gbz"])
def test_every_measurement_writes_its_file_and_only_once(small, model, monkeypatch):
    paths = [reproduce.reproduce("deepbayes", model, what, results_root=small) for what in reproduce.DEEPBAYES]
    table = results.load(small)
    assert len({path.name for path in paths}) == 4
    assert set(table["protocol"]) == {"as_published", "adaptive"}
    attacked = table.query("metric == 'success_rate' or metric == 'accuracy'")
    assert set(attacked["eps"]) == {0.1, 0.3}
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
    monkeypatch.setattr(reproduce, "trained", lambda *a, **k: pytest.fail("measured again"))
    assert [reproduce.reproduce("deepbayes", model, what, results_root=small) for what in reproduce.DEEPBAYES] == paths


def test_the_attacks_are_what_their_keys_say(small, monkeypatch):
    seen = []
    monkeypatch.setattr(reproduce, "attack_outcomes", lambda model, images, attack, *a, **k: seen.append(attack))
    for what in ("fgsm", "pgd-margin"):
        job = reproduce.DEEPBAYES[what]
        job.measure(reproduce.Job(torch.nn.Identity(), None, "cpu", 0, None))
    published, adaptive = seen
    assert published.__name__ == "fgsm"
    assert reproduce.DEEPBAYES["fgsm"].key["steps"] == 1
    assert adaptive.keywords["steps"] == reproduce.DEEPBAYES["pgd-margin"].key["steps"]


def test_the_transfer_comes_from_another_network(small, monkeypatch):
    asked = []
    monkeypatch.setattr(reproduce, "adaptive_outcomes", lambda *a, source, **k: asked.append(source) or {})
    build = reproduce.trained
    wanted = []
    monkeypatch.setattr(reproduce, "trained", lambda name, *a, **k: wanted.append((name, a[2])) or build(name, *a, **k))
    for model in ("cnn", "gfz"):
        reproduce.reproduce("deepbayes", model, "worst-case", results_root=small)
    assert len(asked) == 2
    assert wanted == [("cnn", 0), ("cnn", 1), ("gfz", 0), ("cnn", 0)]


def test_which_suite_a_model_meets():
    sampling, plain = torch.nn.Identity(), torch.nn.Identity()
    sampling.stochastic = True
    suites = {
        (m, p): reproduce._suite(reproduce.Job(m, None, p, 0, None)) for m in (sampling, plain) for p in ("cpu", "paper")
    }
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
    lines = (Path(__file__).parents[1] / "Snakefile").read_text().splitlines()
    told: dict = {}
    exec("\n".join(line for line in lines if line.startswith(("DEEP_BAYES =", "MEASUREMENTS ="))), told)
    assert set(told["MEASUREMENTS"]) == set(reproduce.DOCUMENTS)
    for document, (models, measurements) in told["MEASUREMENTS"].items():
        plan = reproduce.DOCUMENTS[document]
        assert (set(models), measurements) == (set(plan["models"]), list(plan["measurements"]))


def test_every_claim_of_the_chapter_has_a_job():
    plan = reproduce.DOCUMENTS["deepbayes"]
    claims = results.claims().query("document == 'deepbayes' and key != ''")
    assert set(claims["model"]) <= set(plan["models"])
    assert set(claims["eps"].dropna()) <= set(reproduce.EPSILONS)
    assert set(claims["data"]) == {plan["data"]}
