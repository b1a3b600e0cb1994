"""Full-scale jobs: one file each, never twice, bad names refused before any work."""

from pathlib import Path

import pytest
import torch

from hybridgen_lib import data, recipes, reproduce, results

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
    return tmp_path


@pytest.mark.parametrize("model", ["cnn", "gbz"])
def test_every_measurement_writes_its_file_and_only_once(small, model, monkeypatch):
    paths = [reproduce.reproduce("deepbayes", model, what, results_root=small) for what in reproduce.DEEPBAYES]
    table = results.load(small)
    assert len({path.name for path in paths}) == 3
    assert set(table["protocol"]) == {"as_published", "adaptive"}
    attacked = table.query("metric == 'success_rate' or metric == 'accuracy'")
    assert set(attacked["eps"]) == {0.1, 0.3}
    images = 20 if model == "cnn" else 5
    assert set(attacked.query("metric == 'accuracy'")["n"]) == {images}
    assert set(table.query("attack == 'none'")["n"]) == {20}
    monkeypatch.setattr(reproduce, "trained", lambda *a, **k: pytest.fail("measured again"))
    assert [reproduce.reproduce("deepbayes", model, what, results_root=small) for what in reproduce.DEEPBAYES] == paths


def test_the_attacks_are_what_their_keys_say(small, monkeypatch):
    seen = []
    monkeypatch.setattr(reproduce, "attack_outcomes", lambda model, images, attack, *a, **k: seen.append(attack))
    for what in ("fgsm", "pgd-margin"):
        job = reproduce.DEEPBAYES[what]
        job.measure(torch.nn.Identity(), None, "cpu", 0)
    published, adaptive = seen
    assert published.__name__ == "fgsm"
    assert reproduce.DEEPBAYES["fgsm"].key["steps"] == 1
    assert adaptive.keywords["steps"] == reproduce.DEEPBAYES["pgd-margin"].key["steps"]


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
