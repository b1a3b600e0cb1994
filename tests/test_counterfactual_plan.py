"""The full-scale plan of proximity and speed: what its jobs write, what they are told, and that they settle every claim."""

import math

import pytest
import torch
from test_attacks_on_models import SIZES

from hybridgen_lib import attacks, data, recipes, reproduce, results
from hybridgen_lib.attacks import L2, Linf
from hybridgen_lib.measurement import Estimate, Survival
from hybridgen_lib.reproduce import DOCUMENTS, counterfactuals, jobs

PLAN = DOCUMENTS["hybrid-counterfactuals"]
COMPARED = ("vgg16", "gbz-conv9", "hybrid-shallow")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Thirty random pictures of 8 x 8 under the names of the real data, untrained networks, few of everything."""
    x = torch.randint(0, 256, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(30) % 3

    def trained(name, images, profile, seed, device):
        torch.manual_seed(seed)
        return recipes.build(name, (1, 8, 8), 3, **SIZES.get(name, {"width": 2, "hidden": 4})).eval()

    monkeypatch.setattr(jobs.datasets, "load", lambda name, root=None: data.ImageData(x, y, x, y, ("a", "b", "c"), name))
    monkeypatch.setattr(jobs, "trained", trained)
    monkeypatch.setattr(counterfactuals, "CLEAN_IMAGES", 12)
    monkeypatch.setattr(counterfactuals, "TABLE_IMAGES", {"cpu": 8, "paper": 8})
    monkeypatch.setattr(counterfactuals, "GRID_IMAGES", {"cpu": 6, "paper": 6})
    monkeypatch.setattr(counterfactuals, "STEPS", 3)
    monkeypatch.setattr(counterfactuals, "MARGIN_STEPS", 2)
    monkeypatch.setitem(counterfactuals.CW, "steps", 3)
    monkeypatch.setitem(counterfactuals.CW, "searches", 2)
    monkeypatch.setitem(counterfactuals.SEARCH, "doublings", 1)
    monkeypatch.setitem(counterfactuals.SEARCH, "bisections", 1)
    return tmp_path


def run(root, models=COMPARED, ways=None):
    named = [(model, way) for model in models for way in ways or PLAN.ways(model)]
    return [reproduce.reproduce("hybrid-counterfactuals", model, way, results_root=root) for model, way in named]


def test_every_job_writes_its_file_once_and_the_best_attack_is_never_worse(small, monkeypatch):
    paths = run(small)
    assert len(set(paths)) == len(paths) == 3 * 16
    table = results.load(small)
    assert set(table["chapter"]) == {"14"}
    assert set(table["stand_in"]) == {PLAN.stand_in["cpu"]}
    read = {
        (i["key"]["model"], i["key"]["protocol"], i["key"]["norm"], i["key"]["reading"]): i for i in results.files.read(small)
    }
    assert len(read) == len(paths)
    for (model, protocol, norm, reading), item in read.items():
        if protocol == "as_published":
            adaptive, published = read[model, "adaptive", norm, reading]["outcomes"], item["outcomes"]
            assert isinstance(published, Survival)
            rows = [published.index.index(i) for i in adaptive.index]
            assert (adaptive.values <= published.values[rows]).all()
            n = {"vgg16": 12}.get(model, 6 if (norm, reading) == ("l2", "smallest radius") else 8)
            assert len(published.index) == n
    monkeypatch.setattr(jobs, "trained", lambda *a, **k: pytest.fail("measured again"))
    assert run(small) == paths


def test_every_claim_about_the_two_measures_is_settled(small, monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def made_up(quantity):
        def search(model, images, ball, *, limit, index, **options):
            values = torch.rand(len(index), generator=generator) * limit
            return Survival(index, quantity, values.clamp_min(1e-3), values < 0.8 * limit, limit)

        return search

    monkeypatch.setattr(counterfactuals, "proximity", made_up("proximity"))
    monkeypatch.setattr(counterfactuals, "speed", made_up("iterations"))
    run(small)
    board = results.scoreboard("hybrid", chapter="14", root=small)
    board = board[board["metric"].isin(["proximity", "iterations_to_0.4"])]
    ours = board[board["data"] == "cifar10"]
    assert ours["ours"].notna().all()
    assert set(ours["protocol"]) == {"as_published", "adaptive"}
    orders = ours[ours["kind"] == "order"]
    assert len(orders) == 2 * 6  # two protocols
    assert orders["verdict"].ne("").all()
    assert ours[(ours["protocol"] == "adaptive")]["verdict"].ne("").all()
    assert set(ours[(ours["kind"] != "order") & (ours["protocol"] == "as_published")]["verdict"]) == {""}  # a stand-in
    assert set(ours["by"]) == {"fgsm", "ifgsm", "pgd", "nearest", "fastest"}
    assert set(board[board["data"] == "cifar100"]["reason"]) == {results.NOT_RUN}


def test_equal_distances_are_equal_in_proportion():
    """Half a pixel's range apart is much of a distance of 1 and next to nothing of one of 100."""
    apart = Estimate(0.5, 0.4, 0.6, 50)
    assert results.order_verdict(apart, "=", unit=100.0) == "stands"
    assert results.order_verdict(apart, "=", unit=1.0) == results.order_verdict(apart, "=") == "does not stand"


def test_no_claim_waits_for_a_job_that_no_plan_has():
    claims = results.claims().query("document == 'hybrid' and metric in ('proximity', 'iterations_to_0.4')")
    assert (claims["reason"] == "").all()
    assert len(claims) == 18 + 2 * 6  # each count at three radii
    plans = [DOCUMENTS[f"hybrid-counterfactuals{end}"] for end in ("", "-cifar10", "-cifar100")]
    for plan in plans:
        assert {"cpu", "paper"} >= set(plan.stand_in)
        keys = [way.key for way in plan.measurements.values()]
        for claim in claims[claims["data"] == plan.claim_data].itertuples():
            assert {claim.model, claim.versus or claim.model} <= set(plan.models)
            fits = [key for key in keys if (key["norm"], key["reading"]) == (claim.norm, claim.reading)]
            assert {key["protocol"] for key in fits} == set(results.PROTOCOLS)
            assert claim.attack in {key["attack"] for key in fits if key["protocol"] == "as_published"}


def test_searches_end_and_steps_are_where_the_plan_says(small, monkeypatch):
    told = []

    def kept(name, quantity):
        def search(model, images, ball, **options):
            told.append((name, ball, options))
            index = list(options["index"])
            return Survival(index, quantity, [options["limit"]] * len(index), [False] * len(index), options["limit"])

        return search

    monkeypatch.setattr(counterfactuals, "proximity", kept("proximity", "proximity"))
    monkeypatch.setattr(counterfactuals, "speed", kept("speed", "iterations"))
    for model in ("vgg16", "hybrid-shallow"):
        told.clear()
        run(small, (model,))
        balls = [(ball, options["step_size"]) for name, ball, options in told if name == "speed"]
        for eps in (0.05, 0.1, 0.2):
            assert balls.count((Linf(eps), 0.1 * eps)) == balls.count((L2(eps * 8), 0.1 * eps * 8)) == 3  # 8 x 8 pixels
        limits = {(ball, options["limit"]) for name, ball, options in told if name == "proximity"}
        assert limits == {(Linf, 0.5), (L2, 2.0)}
        asks_cw = [ball for _, ball, options in told if options.get("smallest")]
        assert asks_cw == ([L2] if model == "vgg16" else [])  # where an answer is cheap
        frozen = [(options.get("frozen", True), options.get("loss", "ce")) for name, _, options in told if name == "speed"]
        assert set(frozen) == {(False, "ce"), (True, "margin")}


def test_what_is_censored_is_on_file_as_such(small, monkeypatch):
    monkeypatch.setattr(counterfactuals, "STEPS", 1)
    monkeypatch.setattr(counterfactuals, "STEP", 1e-6)
    (path,) = run(small, ("vgg16",), ["speed-linf-0.05"])
    assert "0.05" in path.name
    item = results.files.read(small)[0]["outcomes"]
    right = item.right
    assert right.any()
    assert not item.reached[right].any()
    assert math.isnan(results.load(small).set_index("metric")["value"]["iterations_median"])


@pytest.mark.parametrize(("model", "stops"), [("vgg16", True), ("hybrid-shallow", False)])
def test_the_nearest_is_looked_for_by_the_margin_and_past_the_border_of_one_draw(small, monkeypatch, model, stops):
    told = []

    def search(model, images, ball_type, *, limit, index, attack, **options):
        told.append((attack, options.get("frozen", True)))
        return Survival(list(index), "proximity", [limit] * len(index), [False] * len(index), limit)

    monkeypatch.setattr(counterfactuals, "proximity", search)
    reproduce.reproduce("hybrid-counterfactuals", model, "proximity-linf-adaptive", results_root=small)
    (climb, frozen), published = told
    assert climb.func is attacks.pgd
    assert climb.keywords == {"steps": 2, "loss": "margin", "random_start": False, "stop_when_fooled": stops}
    assert frozen
    assert published == (attacks.fgsm, False)
