"""Result files and verdicts: written once, recomputed always, never from a quick run."""

import json
import subprocess
from dataclasses import replace

import pandas as pd
import pytest
import torch

from hybridgen_lib import results
from hybridgen_lib.data import ImageData
from hybridgen_lib.measurement import Estimate, Outcomes
from hybridgen_lib.results import claim_verdict, files, load, number_verdict, order_verdict, record, scoreboard, verdicts

N = 400


@pytest.fixture(scope="module")
def data():
    x, y = torch.zeros(N, 1, 2, 2, dtype=torch.uint8), torch.zeros(N, dtype=torch.int64)
    return ImageData(x, y, x, y, ("a",), "fashion-mnist")


def run(success_at=(), epsilons=(0.1, 0.3), clean=1.0, n=N, shift=0) -> Outcomes:
    """n images of which the given share is fooled at each radius; ``shift`` turns which images those are."""
    wrong = [torch.arange(n).roll(shift) < round(s * n) for s in success_at]
    right = torch.stack([1.0 - w.double() for w in wrong]) if wrong else torch.empty(0)
    first = (torch.arange(n) < round(clean * n)).double()
    return Outcomes(list(range(n)), first, list(epsilons)[: len(wrong)], right)


def key(data, **changes):
    return {
        "document": "deepbayes", "data": data, "model": "gfz", "profile": "cpu", "seed": 0, "protocol": "as_published",
        "attack": "fgsm", "norm": "linf", "chapter": "05",
    } | changes  # fmt: skip


# ---------------------------------------------------------------- files


def test_a_result_comes_back_as_rows_with_key_and_provenance(tmp_path, data):
    path = record(run([0.25, 0.5], clean=0.5), tmp_path, **key(data, steps=40, attack="pgd", device="cpu"))
    assert path == tmp_path / "deepbayes/fashion-mnist/gfz-cpu-s0-as_published-pgd-40.json"
    table = load(tmp_path)
    assert table["metric"].tolist() == ["clean_accuracy", "accuracy", "success_rate", "accuracy", "success_rate"]
    assert table["value"].tolist() == [0.5, 0.75, 0.5, 0.5, 1.0]
    assert set(table["n"]) == {N, N // 2}
    assert set(table["data_checksum"]) == {data.checksum}
    assert set(table["torch"]) == {torch.__version__}
    assert table["commit"].str.fullmatch(r"[0-9a-f]{40}|unknown").all()
    assert (table["steps"] == 40).all()


def test_the_commit_is_that_of_the_library(tmp_path, data):
    files.code_version.cache_clear()
    content = json.loads(record(run(), tmp_path, **key(data, attack="none", norm="")).read_text())
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=files.folder(None).parent, capture_output=True, text=True)
    assert content["provenance"]["commit"] == (git.stdout.strip() if git.returncode == 0 else "unknown")
    assert isinstance(content["provenance"]["changed_since"], bool)


def test_clean_accuracy_alone_and_changes_have_files_of_their_own(tmp_path, data):
    one = record(run(), tmp_path, **key(data, attack="none", norm=""))
    two = record(run(), tmp_path, **key(data, attack="none", norm="", changes={"beta": 1.0, "alpha": 0.05, "norm": "L1"}))
    three = record(run([0.1]), tmp_path, **key(data, norm="l2", attack="fgm", reading="radius / as printed", variant="code"))
    assert one.name == "gfz-cpu-s0-as_published-none.json"
    assert two.name == "gfz@alpha=0.05,beta=1,norm=l1-cpu-s0-as_published-none.json"
    assert three.name == "gfz-cpu-s0-as_published-fgm-l2-radius_as_printed-code.json"
    assert len(load(tmp_path)) == 1 + 1 + 3


def test_the_same_key_replaces_and_leaves_no_temporary_file(tmp_path, data):
    for share in (0.1, 0.2):
        path = record(run([share]), tmp_path, **key(data))
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert load(tmp_path).query("metric == 'accuracy'")["value"].tolist() == [0.8]


def test_a_killed_write_leaves_the_last_good_file(tmp_path, data, monkeypatch):
    path = record(run([0.1]), tmp_path, **key(data))
    before = path.read_text()
    monkeypatch.setattr(files.os, "replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        record(run([0.9]), tmp_path, **key(data))
    assert path.read_text() == before
    assert load(tmp_path)["value"].tolist()[1] == 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "quick"}, "profile must be one of paper, cpu; got 'quick'"),
        ({"document": "other"}, "document must be"),
        ({"protocol": "as-published"}, "protocol must be"),
        ({"norm": "l1"}, "norm must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 0.5}, "seed must be"),
        ({"steps": 0}, "steps must be"),
        ({"chapter": "5"}, "chapter must be two digits"),
        ({"model": ""}, "model must be a name"),
        ({"model": "../gfz"}, "model must be a name"),
        ({"attack": "none"}, "attack must be 'none' exactly"),
        ({"variant": "bug"}, "variant must be"),
        ({"data": "fashion-mnist"}, "data ImageData"),
    ],
)
def test_a_key_that_says_nothing_true_is_refused_before_anything_is_written(tmp_path, data, change, message):
    with pytest.raises(ValueError, match=message):
        record(run([0.1]), tmp_path, **(key(data) | change))
    assert not list(tmp_path.iterdir())


def test_outcomes_of_other_data_are_refused(tmp_path, data):
    with pytest.raises(ValueError, match="test images"):
        record(run([0.1], n=N + 1), tmp_path, **key(data))
    with pytest.raises(ValueError, match="outcomes must be Outcomes"):
        record(run([0.1]).to_dict(), tmp_path, **key(data))


@pytest.mark.parametrize("harm", ["quick", "moved", "cut", "no key", "outcomes"])
def test_a_bad_result_file_is_named(tmp_path, data, harm):
    path = record(run([0.1]), tmp_path, **key(data))
    content = json.loads(path.read_text())
    if harm == "quick":
        content["key"]["profile"] = "quick"
    elif harm == "no key":
        del content["key"]
    elif harm == "outcomes":
        content["outcomes"]["right"][0].pop()
    path.write_text(path.read_text()[:-30] if harm == "cut" else json.dumps(content))
    if harm == "moved":
        path = path.rename(path.with_name("gfy-cpu-s0-as_published-fgsm.json"))
    with pytest.raises(ValueError, match=path.name):
        load(tmp_path)


@pytest.mark.parametrize("change", [{"claim_data": "mnist"}, {"attack": "pgd-40", "steps": ""}])
def test_a_run_is_not_replaced_by_another_whose_file_has_its_name(tmp_path, data, change):
    known = key(data, attack="pgd", steps=40)
    path = record(run([0.25]), tmp_path, **known)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=next(iter(change))):
        record(run([0.5]), tmp_path, **{**known, **change})
    assert path.read_bytes() == before
    assert record(run([0.5]), tmp_path, **{**known, "chapter": "06"}) == path  # where it is shown may change


def test_a_masking_report_comes_back_with_the_types_it_had(tmp_path, data):
    table = pd.DataFrame([("sign", 0.5, "<= 1", "pass", "words", 2)])
    table.columns = ["sign", "value", "passes", "verdict", "meaning", "n"]
    given = key(data, attack="masking")
    files.record_report(table, tmp_path, **given)
    (row,) = files.reports(tmp_path).to_dict("records")
    assert (row["chapter"], row["stand_in"], row["value"], row["seed"]) == ("05", "", 0.5, 0)


def test_a_chapter_without_claims_of_a_document_has_an_empty_board():
    board = scoreboard("hybrid", chapter="01")
    assert len(board) == 0
    assert {"verdict", "ours", "model"} <= set(board.columns)


def test_an_empty_folder_gives_an_empty_table_with_the_same_columns(tmp_path, data):
    empty = load(tmp_path / "none yet")
    record(run([0.1]), tmp_path, **key(data))
    assert len(empty) == 0
    assert list(empty.columns) == list(load(tmp_path).columns)


def test_the_committed_rows_are_what_the_outcomes_give():
    items = files.read(None)
    assert len(items) > 900
    for item in items:
        again = json.loads(json.dumps(files.rows_of(item["outcomes"])))
        written = pd.DataFrame(item["rows"])
        pd.testing.assert_frame_equal(pd.DataFrame(again), written, rtol=1e-9, obj=str(files.file_of(item["key"])))
        assert item["key"]["profile"] in ("cpu", "paper")


def of_other_weights(root) -> list:
    """The files whose model had other weights than that of one before, in the same tables; older files do not tell.

    A chapter's tables are about one set of weights; chapter 14's of retraining and of counterfactuals may be about two.
    """
    seen, found = {}, []
    for item in files.read(root):
        key = tuple(item["key"][name] for name in ("data", "model", "profile", "seed", "chapter"))
        key += (item["key"]["attack"].startswith("roar-"),)
        weights = item["provenance"]["settings"].get("weights")
        if weights and seen.setdefault(key, weights) != weights:
            found.append(str(files.file_of(item["key"])))
    return found


def test_the_committed_runs_of_a_model_are_about_the_same_weights(tmp_path, data):
    """A change in the order of a sum sends training elsewhere; no chapter may mix runs from before and after."""
    assert of_other_weights(None) == []
    new = [item for item in files.read(None) if item["provenance"]["date"] >= "2026-12-01"]
    assert len(new) > 50
    for item in new:
        assert item["key"]["model"] == "real-data" or item["provenance"]["settings"]["weights"], files.file_of(item["key"])
    for attack, seed, weights in (("fgsm", 0, "a"), ("pgd", 0, "a"), ("pgd", 1, "b"), ("square", 0, "b")):
        record(run((0.1, 0.5)), tmp_path, settings={"weights": weights}, **key(data, attack=attack, seed=seed))
    for attack, weights in (("roar-ig-30", "c"), ("nearest", "d")):
        record(run((0.1, 0.5)), tmp_path, settings={"weights": weights}, **key(data, attack=attack, chapter="14"))
    assert [path.rpartition("-")[2] for path in of_other_weights(tmp_path)] == ["square.json"]


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.46, 0.54, "reproduced"),
        (0.45, 0.55, "reproduced"),  # exactly 5 points are within 5 points
        (0.53, 0.545, "reproduced"),  # excludes 2 points, yet lies within 5
        (0.44, 0.52, "undecided at this n"),
        (0.40, 0.60, "undecided at this n"),
        (0.519, 0.60, "undecided at this n"),  # touches the 2 points
        (0.521, 0.60, "differs"),
        (0.10, 0.479, "differs"),
        (0.10, 0.481, "undecided at this n"),
    ],
)
def test_a_number_is_reproduced_within_5_points_and_differs_beyond_2(low, high, verdict):
    assert number_verdict(Estimate((low + high) / 2, low, high, 100), 0.5) == verdict


def test_a_claims_own_tolerance_replaces_the_5_points():
    ours = Estimate(90.0, 80.0, 99.0, 5)
    assert number_verdict(ours, 88.25) == "undecided at this n"
    assert number_verdict(ours, 88.25, tolerance=12) == "reproduced"


@pytest.mark.parametrize(
    ("relation", "low", "high", "verdict"),
    [
        (">", 0.9, 0.95, "reproduced"),
        (">", 0.76, 0.95, "reproduced"),
        (">", 0.70, 0.95, "undecided at this n"),
        (">", 0.1, 0.77, "differs"),
        ("<", 0.1, 0.2, "reproduced"),
        ("<", 0.83, 0.9, "differs"),
        ("<", 0.79, 0.9, "undecided at this n"),
    ],
)
def test_a_bound_only_minds_its_own_side(relation, low, high, verdict):
    assert number_verdict(Estimate((low + high) / 2, low, high, 100), 0.8, relation) == verdict


@pytest.mark.parametrize(
    ("metric", "relation", "low", "high", "verdict"),
    [
        ("accuracy", "", 0.48, 0.56, "stands"),
        ("accuracy", "", 0.80, 0.90, "stands"),  # more survives than was claimed
        ("accuracy", "", 0.00, 0.01, "does not stand"),
        ("accuracy", "", 0.40, 0.60, "undecided at this n"),
        ("success_rate", "", 0.10, 0.20, "stands"),
        ("fid", "", 0.10, 0.20, "stands"),  # nearer than was claimed
        ("inversion_distance", "", 0.90, 0.99, "does not stand"),
        ("success_rate", "", 0.90, 0.99, "does not stand"),
        ("accuracy", "<", 0.00, 0.10, "stands"),
        ("accuracy", "<", 0.70, 0.80, "does not stand"),
    ],
)
def test_a_number_stands_if_at_least_as_much_survives(metric, relation, low, high, verdict):
    assert claim_verdict(Estimate((low + high) / 2, low, high, 100), 0.5, metric, relation) == verdict


@pytest.mark.parametrize(
    ("relation", "low", "high", "verdict"),
    [
        (">", 0.001, 0.10, "stands"),
        (">", -0.01, 0.10, "undecided at this n"),
        (">", -0.01, 0.015, "does not stand"),  # no lead of 2 points is left
        (">", -0.30, -0.10, "does not stand"),
        ("<", -0.30, -0.10, "stands"),
        ("<", 0.10, 0.30, "does not stand"),
        ("<", -0.10, 0.01, "undecided at this n"),
        ("=", -0.02, 0.03, "stands"),
        ("=", 0.10, 0.20, "does not stand"),
        ("=", -0.01, 0.20, "undecided at this n"),
    ],
)
def test_an_order_stands_by_the_interval_of_the_difference(relation, low, high, verdict):
    assert order_verdict(Estimate((low + high) / 2, low, high, 100), relation) == verdict


def test_an_order_needs_a_direction():
    with pytest.raises(ValueError, match="relation must be one of"):
        order_verdict(Estimate(0, 0, 0, 1), "")


# ---------------------------------------------------------------- the scoreboard, on hand-made runs


def score(root, model, versus, metric="success_rate", eps=0.3, protocol="adaptive", locator="Impact"):
    table = scoreboard("deepbayes", "05", root)
    chosen = table.query("model == @model and versus == @versus and metric == @metric and eps == @eps")
    return chosen[chosen["protocol"].eq(protocol) & chosen["locator"].str.startswith(locator)]


def both(root, data, generative, discriminative, **changes):
    for model, shares in (("gfz", generative), ("dfx", discriminative)):
        record(run(shares), root, **key(data, model=model))
        record(run(shares), root, **key(data, model=model, protocol="adaptive", attack="pgd-margin", steps=40) | changes)


def test_nothing_recorded_shows_the_reason_and_no_number(tmp_path):
    table = scoreboard("deepbayes", root=tmp_path)
    assert set(table["reason"]) == {"not yet run at full scale", "the document does not say enough"}
    assert table["ours"].isna().all()
    assert set(table["verdict"]) == {""}


def test_every_claim_is_on_the_board(tmp_path):
    board, all_claims = scoreboard(root=tmp_path), results.claims()
    assert len(board.drop_duplicates(["document", "locator", "key", "printed", "note", "model", "eps"])) >= 510
    assert set(board["document"]) == set(all_claims["document"])
    assert (board["reason"] != "").all()


def test_an_order_that_holds_and_one_that_breaks(tmp_path, data):
    both(tmp_path, data, (0.1, 0.5), (0.5, 0.9))
    row = score(tmp_path, "gfz", "dfx").iloc[0]
    assert row["verdict"] == "stands"
    assert row["by"] == "pgd-margin"
    assert row["n"] == N
    assert row["ours"] == pytest.approx(-0.4)
    assert row["low"] < -0.4 < row["high"] < 0
    assert score(tmp_path, "gfz", "dfx", protocol="as_published")["verdict"].tolist() == ["reproduced"]
    both(tmp_path, data, (0.9, 1.0), (0.5, 1.0))
    assert score(tmp_path, "gfz", "dfx")["verdict"].tolist() == ["does not stand"]  # both are broken
    assert score(tmp_path, "gfz", "dfx", eps=0.1, protocol="as_published")["verdict"].tolist() == ["differs"]


def test_few_images_decide_nothing(tmp_path, data):
    for model, shares in (("gfz", (0.4, 0.4)), ("dfx", (0.5, 0.5))):
        record(run(shares, n=10), tmp_path, **key(data, model=model, protocol="adaptive"))
    assert score(tmp_path, "gfz", "dfx")["verdict"].tolist() == ["undecided at this n"]
    assert score(tmp_path, "gfz", "dfx", protocol="as_published")["reason"].tolist() == ["not yet run at full scale"]


def test_one_models_rise_and_the_sharper_rise(tmp_path, data):
    both(tmp_path, data, (0.1, 0.2), (0.1, 0.9))
    assert score(tmp_path, "gfz", "gfz")["ours"].tolist() == pytest.approx([0.1])
    sharper = score(tmp_path, "dfx", "gfz", "success_rate_rise", locator="Classifier")
    assert sharper["ours"].tolist() == pytest.approx([0.7])
    assert sharper["verdict"].tolist() == ["stands"]
    other_side = score(tmp_path, "gfz", "dfx", "success_rate_rise", locator="Conclusion")
    assert other_side["ours"].tolist() == pytest.approx([-0.7])
    assert other_side["verdict"].tolist() == ["stands"]


def test_the_strongest_adaptive_attack_speaks_and_the_published_one_only_for_itself(tmp_path, data):
    both(tmp_path, data, (0.1, 0.5), (0.5, 0.9))
    for model in ("gfz", "dfx"):
        record(run((0.9, 1.0)), tmp_path, **key(data, model=model, protocol="adaptive", attack="square"))
    row = score(tmp_path, "gfz", "dfx").iloc[0]
    assert (row["by"], row["verdict"]) == ("square", "does not stand")
    record(run((0.9, 1.0)), tmp_path, **key(data, attack="pgd", steps=40))
    assert score(tmp_path, "gfz", "dfx", protocol="as_published")["ours"].tolist() == pytest.approx([-0.4])


def test_two_models_are_compared_under_an_attack_that_both_have_met(tmp_path, data):
    """Equal under every attack of both; a worst case of one alone would set it behind the other."""
    both(tmp_path, data, (0.1, 0.5), (0.1, 0.5))
    worst = key(data, protocol="adaptive", attack="worst-case")
    for model in ("dfx", "gfz"):
        record(run((0.9, 1.0)), tmp_path, **worst | {"model": model})
        row = score(tmp_path, "gfz", "dfx").iloc[0]
        assert (row["ours"], row["verdict"]) == (0, "does not stand")
        assert row["by"] == ("pgd-margin" if model == "dfx" else "worst-case")


def test_models_that_have_met_no_attack_in_common_are_not_compared(tmp_path, data):
    record(run((0.1, 0.5)), tmp_path, **key(data, protocol="adaptive", attack="pgd-margin", steps=40))
    record(run((0.5, 0.9)), tmp_path, **key(data, model="dfx", protocol="adaptive", attack="worst-case"))
    assert score(tmp_path, "gfz", "dfx")["reason"].tolist() == ["not yet run at full scale"]


@pytest.mark.parametrize("other", [{"variant": "code"}, {"reading": "another reading"}, {"document": "zoo"}, {"norm": "l2"}])
def test_a_code_variant_or_another_reading_speaks_about_something_else(tmp_path, data, other):
    both(tmp_path, data, (0.1, 0.5), (0.5, 0.9))
    record(run((1.0, 1.0)), tmp_path, **key(data, protocol="adaptive", attack="square") | other)
    assert score(tmp_path, "gfz", "dfx")["by"].tolist() == ["pgd-margin"]
    assert len(load(tmp_path)) == 5 * 5


def test_seeds_stay_side_by_side_and_must_agree(tmp_path, data):
    both(tmp_path, data, (0.1, 0.5), (0.5, 0.9))
    both(tmp_path, data, (0.1, 0.4), (0.5, 0.9), seed=1)
    rows = score(tmp_path, "gfz", "dfx")
    assert rows["seed"].tolist() == [0, 1]
    assert rows["verdict"].tolist() == ["stands", "stands"]
    both(tmp_path, data, (0.5, 0.9), (0.1, 0.5), seed=2)
    assert score(tmp_path, "gfz", "dfx")["verdict"].tolist() == ["seeds disagree"] * 3


def test_paper_goes_before_cpu(tmp_path, data):
    both(tmp_path, data, (0.1, 0.5), (0.5, 0.9))
    both(tmp_path, data, (0.5, 0.9), (0.1, 0.5), profile="paper")
    assert score(tmp_path, "gfz", "dfx")[["profile", "verdict"]].values.tolist() == [["paper", "does not stand"]]


def test_a_stand_in_never_reproduces_or_differs(tmp_path, data):
    other = replace(data, name="fashion-mini")
    changes = {"data": other, "claim_data": "fashion-mnist", "stand_in": "the small Fashion-MNIST"}
    for model, shares in (("gfz", (0.1, 0.5)), ("dfx", (0.5, 0.9))):
        for protocol in ("as_published", "adaptive"):
            record(run(shares), tmp_path, **key(data, model=model, protocol=protocol) | changes)
    assert score(tmp_path, "gfz", "dfx")["verdict"].tolist() == ["stands (on the small Fashion-MNIST)"]
    published = score(tmp_path, "gfz", "dfx", protocol="as_published")["verdict"].tolist()
    assert published == ["stands (on the small Fashion-MNIST)"]
    del changes["stand_in"]
    for path in tmp_path.rglob("*.json"):
        path.unlink()
    for model in ("gfz", "dfx"):
        record(run((0.1, 0.5)), tmp_path, **key(data, model=model) | changes)
    assert score(tmp_path, "gfz", "dfx", protocol="as_published")["reason"].tolist() == ["not yet run at full scale"]


def test_two_runs_on_different_bytes_are_not_compared(tmp_path, data):
    record(run((0.1, 0.5)), tmp_path, **key(data))
    changed = replace(data, test_x=data.test_x + 1)
    record(run((0.1, 0.5)), tmp_path, **key(changed, model="dfx"))
    with pytest.raises(ValueError, match="must be about the same data"):
        scoreboard("deepbayes", root=tmp_path)


def test_a_claim_about_levels_bounds_and_gaps(tmp_path, data, monkeypatch):
    """The three kinds that deepbayes lacks, on a table of claims made for the purpose."""
    blank = dict.fromkeys(results.claims().columns, "") | dict.fromkeys(
        ("printed", "eps", "versus_eps", "steps", "value", "tolerance", "std"), float("nan")
    )
    blank |= {"document": "deepbayes", "data": "fashion-mnist", "model": "gfz", "chapter": "05", "metric": "accuracy"}
    blank |= {"attack": "fgsm", "norm": "linf", "eps": 0.3, "locator": "here", "unit": "fraction"}
    rows = [
        blank | {"kind": "level", "value": 0.5},
        blank | {"kind": "level", "value": 0.9},
        blank | {"kind": "bound", "relation": ">", "value": 0.3},
        blank | {"kind": "gap", "versus": "dfx", "value": 0.4, "tolerance": 0.06},
        blank | {"kind": "level", "metric": "clean_accuracy", "attack": "none", "norm": "", "eps": float("nan"), "value": 1},
        blank | {"kind": "level", "metric": "fid", "value": 12.0},
        blank | {"kind": "level", "value": 0.5, "steps": 20.0},
    ]
    monkeypatch.setattr(verdicts, "claims", lambda: pd.DataFrame(rows))
    both(tmp_path, data, (0.1, 0.5), (0.5, 0.9))
    record(run(), tmp_path, **key(data, attack="none", norm=""))
    board = scoreboard(root=tmp_path)
    published = board[board["protocol"] == "as_published"]["verdict"].tolist()
    assert published == ["reproduced", "differs", "reproduced", "reproduced", "reproduced", "", ""]
    adaptive = board[board["protocol"] == "adaptive"]["verdict"].tolist()
    assert adaptive == ["stands", "does not stand", "stands", "stands", "", "stands"]  # clean accuracy has no adaptive row


def test_the_board_refuses_what_does_not_exist():
    with pytest.raises(ValueError, match="document must be one of"):
        scoreboard("deep-bayes")
    with pytest.raises(ValueError, match="chapter must be one of"):
        scoreboard(chapter="5")


@pytest.mark.parametrize(
    ("reading", "settles"), [("linf radius", {True}), ("", {True, False}), ("l2 radius as printed", {False})]
)
def test_a_claim_of_two_readings_is_settled_by_a_run_of_either(tmp_path, data, reading, settles):
    there = key(data, document="hybrid", model="hybrid-deep", attack="pgd", steps=30, chapter="08", reading=reading)
    record(run([0.1, 0.5], (0.05, 0.1)), tmp_path, **there, claim_data="cifar10", stand_in="small images")
    record(run([0.4, 0.9], (0.05, 0.1)), tmp_path, **there | {"protocol": "adaptive"}, claim_data="cifar10", stand_in="small")
    board = scoreboard("hybrid", "08", tmp_path).query("kind == 'bound' and attack == 'pgd' and model == 'hybrid-deep'")
    linf = board[board["norm"] == "linf"]
    assert set(linf["reading"]) == {"ours is the deep model; linf radius"}
    assert (linf["verdict"] != "").any() == (True in settles)
    if True in settles:
        adaptive = linf[linf["protocol"] == "adaptive"].set_index("eps")["verdict"]
        assert adaptive.tolist() == ["does not stand (on small)"] * 2


def test_a_loss_of_accuracy_is_a_claim_too(tmp_path, data):
    there = key(replace(data, name="cifar10"), document="hybrid", model="hybrid-deep", chapter="08")
    record(run([0.05, 0.3], (0.1, 0.2), clean=0.9), tmp_path, **there)
    board = scoreboard("hybrid", "08", tmp_path).query("metric == 'accuracy_drop' and model == 'hybrid-deep' and ours.notna()")
    assert board["ours"].round(6).tolist() == [0.2]
    assert board["verdict"].tolist() == ["differs"]


def test_a_masking_report_has_a_file_of_its_own(tmp_path, data):
    sheet = pd.DataFrame({"sign": ["no gradient"], "value": [0.5], "passes": ["<= 0.01"], "verdict": ["fail"], "n": [20]})
    there = key(data, protocol="adaptive", attack="masking-report")
    path = results.record_report(sheet.assign(meaning="words"), tmp_path, **there)
    assert path.suffix == ".csv"
    assert load(tmp_path).empty
    (row,) = results.reports(tmp_path).to_dict("records")
    assert (row["sign"], row["value"], row["model"], row["profile"]) == ("no gradient", 0.5, "gfz", "cpu")
    assert row["data_checksum"] == data.checksum
    assert results.reports(tmp_path / "nothing").empty


# ---------------------------------------------------------------- a model that stands in for another

STANDS_IN = {"document": "interpretable", "chapter": "09", "norm": "l2", "attack": "pgd", "claim_data": "cifar10"}
STANDS_IN |= {"stand_in": "the small CNN"}


def about_resnet18(root, model="resnet18"):
    board = scoreboard("interpretable", "09", root)
    return board[(board["model"] == model) & (board["reason"] != "no data here")]


def test_a_run_of_one_model_settles_the_claim_of_the_model_it_stands_in_for(tmp_path, data):
    there = key(data, model="cnn", **{k: v for k, v in STANDS_IN.items() if k != "attack"})
    path = record(run([0.2], (0.5,)), tmp_path, **there | {"attack": "pgd"}, steps=20, claim_model="resnet18")
    assert path.name == "cnn-cpu-s0-as_published-pgd-l2-20.json"  # its file has its own name
    (row,) = load(tmp_path).query("metric == 'accuracy'").to_dict("records")
    assert (row["model"], row["claim_model"], row["data"], row["claim_data"]) == (
        "cnn",
        "resnet18",
        "fashion-mnist",
        "cifar10",
    )
    settled = about_resnet18(tmp_path).query("metric == 'accuracy' and protocol == 'as_published'")
    assert settled["ours"].tolist() == [0.8]
    assert settled["stand_in"].tolist() == ["the small CNN"]
    assert settled["verdict"].tolist() == [""]  # no reproduction
    assert about_resnet18(tmp_path, "resnet18-at-l2")["ours"].isna().all()
    record(run([0.9], (0.5,)), tmp_path, **there | {"attack": "worst-case", "protocol": "adaptive"}, claim_model="resnet18")
    adaptive = about_resnet18(tmp_path).query("metric == 'accuracy' and protocol == 'adaptive'")
    assert adaptive["verdict"].tolist() == ["stands (on the small CNN)"]  # at least 0.36 % survive


def test_a_model_that_stands_in_for_another_does_not_speak_for_itself(tmp_path, data):
    for model, other in (("gfz", "dfx"), ("dfx", "")):
        record(run((0.1, 0.5)), tmp_path, **key(data, model=model), claim_model=other)
        record(run((0.1, 0.5)), tmp_path, **key(data, model=model, protocol="adaptive"), claim_model=other)
    assert score(tmp_path, "gfz", "dfx")["ours"].isna().all()
    assert score(tmp_path, "gfz", "dfx")["reason"].tolist() == ["not yet run at full scale"]


def test_standing_in_for_a_model_needs_the_documents_data_or_a_stand_in(tmp_path, data):
    there = key(data, model="cnn", **{**STANDS_IN, "stand_in": ""})
    record(run([0.2], (0.5,)), tmp_path, **there, claim_model="resnet18")
    assert about_resnet18(tmp_path)["ours"].isna().all()
    record(run([0.2], (0.5,)), tmp_path, **there | {"data": replace(data, name="cifar10")}, claim_model="resnet18")
    assert about_resnet18(tmp_path).query("metric == 'accuracy'")["ours"].dropna().tolist() == [0.8]


@pytest.mark.parametrize("changes", [None, {"beta": 1.0, "alpha": 0.0}])
def test_by_default_a_model_speaks_for_itself(tmp_path, data, changes):
    there = key(data, model="mlp-causalib", changes=changes)
    path = record(run([0.2]), tmp_path, **there)
    name = "mlp-causalib" + ("@alpha=0,beta=1" if changes else "")
    assert json.loads(path.read_text())["key"]["claim_model"] == name
    assert record(run([0.2]), tmp_path, **there, claim_model="") == path
    assert set(load(tmp_path)["claim_model"]) == set(load(tmp_path)["model"]) == {name}
    assert results.path_of(tmp_path, **there, claim_model="another") == path


def test_files_from_before_there_was_a_claim_model_are_read_as_they_were(tmp_path, data):
    both(tmp_path, data, (0.1, 0.5), (0.5, 0.9))
    expected = score(tmp_path, "gfz", "dfx")
    paths = sorted(tmp_path.rglob("*.json"))
    assert len(paths) == 4
    for path in paths:
        content = json.loads(path.read_text())
        assert content["key"].pop("claim_model") == content["key"]["model"]
        path.write_text(json.dumps(content))
    table = load(tmp_path)
    assert (table["claim_model"] == table["model"]).all()
    assert set(table["claim_model"]) == {"gfz", "dfx"}
    pd.testing.assert_frame_equal(score(tmp_path, "gfz", "dfx"), expected)


@pytest.mark.parametrize("harm", ["missing", "extra"])
def test_a_file_with_another_key_is_still_refused(tmp_path, data, harm):
    path = record(run([0.1]), tmp_path, **key(data))
    content = json.loads(path.read_text())
    if harm == "missing":
        del content["key"]["claim_data"]
    else:
        content["key"]["claim_chapter"] = "05"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="key must have exactly"):
        load(tmp_path)


def test_every_recorded_run_says_whose_claim_it_is_about():
    table = load()
    assert table["claim_model"].map(bool).all()
    others = table[table["claim_model"] != table["model"]]
    assert (others["stand_in"] != "").all()


def test_no_recorded_model_has_collapsed():
    """A model near chance would make every comparison of robustness worthless."""
    clean = load().query("document == 'deepbayes' and metric == 'clean_accuracy' and attack == 'none'")
    assert set(clean["model"]) == {"gfz", "gfy", "gbz", "gby", "dfx", "dfz", "dbx", "cnn"}
    assert (clean["low"] > 0.6).all()


def test_what_happened_to_each_image_can_be_had_back(tmp_path, data):
    written = run((0.1, 0.5))
    record(written, tmp_path, **key(data))
    row = load(tmp_path).iloc[0]
    again = results.outcomes_of(row, tmp_path)
    assert again.epsilons == written.epsilons
    assert torch.equal(again.right, written.right)
    with pytest.raises(ValueError, match="key must be that of a recorded run"):
        results.outcomes_of({**row, "model": "gfy"}, tmp_path)


def test_a_commit_during_a_run_is_not_the_runs(tmp_path, data, monkeypatch):
    """What runs was loaded before; who asks at the end would name a commit that never ran."""
    files.code_version.cache_clear()
    heads = iter("ab")
    monkeypatch.setattr(files, "_git", lambda *words: next(heads) if words[0] == "rev-parse" else "")
    began = files.code_version()
    record(run((0.1, 0.5)), tmp_path, **key(data))
    assert began == {"commit": "a", "changed_since": False}
    assert set(load(tmp_path)["commit"]) == {"a"}
    files.code_version.cache_clear()
    monkeypatch.setattr(files, "_git", lambda *words: None)
    assert files.code_version() == {"commit": "unknown", "changed_since": True}
    files.code_version.cache_clear()


def test_an_order_of_two_attacks_on_one_model_has_no_adaptive_row(tmp_path):
    """The adaptive protocol knows only the strongest: both sides would be one run, and the difference 0."""
    board, pairs = scoreboard(root=tmp_path), results.claims().query("versus_attack != '' and reason == ''")
    assert len(pairs) >= 15
    rows = board[(board.versus_attack != "") & (board.protocol != "")]
    assert len(rows) == len(pairs)
    assert set(rows.protocol) == {"as_published"}


def test_the_worst_case_speaks_before_a_curve_that_leaves_less(tmp_path, data):
    both(tmp_path, data, (0.1, 0.5), (0.1, 0.5))
    for model in ("gfz", "dfx"):
        record(run((0.1, 0.4)), tmp_path, **key(data, model=model, protocol="adaptive", attack="worst-case"))
    assert score(tmp_path, "gfz", "dfx")["by"].tolist() == ["worst-case"]
