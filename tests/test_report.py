"""What a chapter shows of recorded results, and what it says where there are none."""

import json
import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from hybridgen_lib import data, report, results
from hybridgen_lib.measurement import Outcomes


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two models at two radii by both protocols: ``gfz`` holds, ``dfx`` falls; the adaptive attack takes both."""
    root = tmp_path_factory.mktemp("results")
    x = torch.zeros(100, 1, 8, 8, dtype=torch.uint8)
    images = data.ImageData(x, torch.arange(100) % 10, x, torch.arange(100) % 10, tuple("abcdefghij"), "fashion-mnist")
    key = {"document": "deepbayes", "data": images, "profile": "cpu", "seed": 0, "chapter": "05", "norm": "linf"}
    for model, protocol, left in [
        ("gfz", "as_published", (80, 60)),
        ("dfx", "as_published", (30, 10)),
        ("gfz", "adaptive", (0, 0)),
        ("dfx", "adaptive", (0, 0)),
    ]:
        right = torch.stack([(torch.arange(100) < count).double() for count in left])
        outcomes = Outcomes(list(range(100)), torch.ones(100), [0.1, 0.3], right)
        attack = {"attack": "fgsm", "steps": 1} if protocol == "as_published" else {"attack": "pgd-margin", "steps": 40}
        results.record(outcomes, root, model=model, protocol=protocol, **attack, **key)
    return root


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_rates_are_cells_in_per_cent_in_the_order_given(recorded):
    rows = results.load(recorded).query("metric == 'success_rate' and protocol == 'as_published'")
    table = report.rates(rows.iloc[::-1])
    assert list(table.index.get_level_values("model")) == ["gfz", "dfx"]
    assert table.loc[("cpu", 0, "gfz", 100), 0.1].startswith("20 [13, 29")
    assert table.loc[("cpu", 0, "dfx", 100), 0.3] == "90 [83, 94]"


def test_the_documents_numbers_stand_beside_ours(recorded):
    rows = results.load(recorded).query("metric == 'accuracy' and protocol == 'as_published' and eps == 0.1")
    printed = {("gfz", "fgsm"): 0.813, ("cnn", "fgsm"): float("nan")}
    table = report.beside(rows, printed, ["cnn", "gfz"], ["fgsm", "worst-case"])
    assert list(table.index) == ["cnn", "gfz"]
    assert list(table.columns) == [("fgsm", "document"), ("fgsm", "ours"), ("worst-case", "ours")]
    assert table.loc["gfz"].tolist() == ["81.3", "80 [71, 87]", "–"]
    assert table.loc["cnn"].tolist() == ["–", "–", "–"]


@pytest.mark.parametrize(
    ("eps", "words"),
    [(0.3, "0.3"), (8 / 255, "8/255"), (0.2, "0.2"), (5.0, "5"), (2.7712813, "2.77"), (1000, "any"), (math.nan, "")],
)
def test_a_radius_reads_as_one_would_write_it(eps, words):
    assert report.radius(eps) == words


def test_a_level_of_a_stand_in_says_so_where_a_verdict_would_stand(recorded):
    board = results.scoreboard("deepbayes", root=recorded)
    measured = board[board["ours"].notna()].assign(verdict="", stand_in="other images")
    table = report.every_claim(measured)
    assert set(table["as published: verdict"]) <= {"no verdict (on other images)", ""}
    assert "no verdict (on other images)" in set(table["as published: verdict"])


def test_percent_rounds():
    assert report.percent(0.8349, 0.7, 1.0) == "83 [70, 100]"
    assert report.percent(0.001, -0.004, 0.0049) == "0 [0, 0]"


def test_every_claim_has_a_line(recorded):
    """As many lines as claims, and what a line says is what the scoreboard says."""
    board = results.scoreboard(root=recorded)
    table = report.every_claim(board)
    assert len(table) == len(results.claims())
    (line,) = table[(table["claim"] == "gfz < dfx, success rate, fgsm linf, fashion-mnist") & (table["ε"] == "0.1")].to_dict(
        "records"
    )
    assert line["as published"].startswith("-50 [")
    assert line["as published: verdict"] == "reproduced"
    assert line["adaptive"].startswith("0 [")
    assert line["adaptive: verdict"] == "does not stand"
    assert line["printed"] == ""
    bound = table[table["claim"].str.startswith("hybrid-deep, accuracy drop") & table["claim"].str.contains("cifar10,")]
    assert set(bound["printed"]) == {"< 10 %"}
    assert set(bound["as published: verdict"]) == {results.NOT_RUN}
    assert set(bound["as published"]) == {""}
    assert "gfz > gfz at 0.1, success rate, fgsm linf, fashion-mnist" in set(table["claim"])
    assert table["claim"].str.startswith("alexnet > alexnet under fgsm, accuracy, transfer").any()  # a check of causalib
    reason = table[table["claim"].str.contains("small-imagenet")]
    assert set(reason["adaptive: verdict"]) == {"no data here"}


def test_seeds_stand_side_by_side_in_a_claims_line(recorded):
    board = results.scoreboard("deepbayes", root=recorded)
    measured = board[board["ours"].notna()]
    again = measured.assign(seed=1, ours=measured["ours"] / 2, verdict="seeds disagree")
    one, two = report.every_claim(measured), report.every_claim(pd.concat([measured.assign(verdict="seeds disagree"), again]))
    assert len(one) == len(two)
    assert (two["as published"].str.count(r"\[") == 2 * one["as published"].str.count(r"\[")).all()
    assert set(two["adaptive: verdict"]) <= {"seeds disagree"}


def test_curves_stand_in_a_panel_for_each_protocol(recorded):
    rows = results.load(recorded).query("metric == 'success_rate'")
    figure = report.curves_by_protocol(rows, {"as_published": "published", "adaptive": "hard"}, "success rate")
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("published", "hard")
    assert len(left.lines) == len(right.lines) == 2
    assert left.get_legend() is None
    assert right.get_legend() is not None


def test_verdicts_are_counted_by_sentence_and_protocol(recorded):
    board = results.scoreboard("deepbayes", root=recorded)
    table = report.verdicts(board, lambda claim: claim.kind)
    said = table.loc[("order", "0.1")]
    assert "reproduced" in said["as published"]
    assert "does not stand" in said["adaptive"]
    assert list(table.columns) == ["as published", "adaptive"]
    counted = board[(board["protocol"] == "adaptive") & (board["eps"] == 0.1) & (board["kind"] == "order")]
    assert sum(int(part.split()[0]) for part in said["adaptive"].split(", ")) == len(counted)


def test_claims_without_a_radius_have_one_line_a_sentence(recorded):
    board = results.scoreboard(document="deepbayes", root=recorded).head(3).assign(eps=float("nan"))
    assert len(report.verdicts(board, lambda claim: "all of them")) == 1


def test_differences_show_each_pair_at_each_radius(recorded):
    board = results.scoreboard("deepbayes", root=recorded).query("metric == 'success_rate'")
    figure = report.differences(board, "difference")
    for axis in figure.axes:
        by_text, adaptive = (container.lines[0].get_xdata() for container in axis.containers)
        assert by_text == pytest.approx([-0.5])
        assert adaptive == pytest.approx([0.0])
    assert [axis.get_title() for axis in figure.axes] == ["ε = 0.1", "ε = 0.3"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["gfz − dfx"]


def test_comparisons_without_a_radius_have_a_panel_too(recorded):
    board = results.scoreboard("deepbayes", root=recorded).query("metric == 'success_rate'")
    assert len(report.differences(board.assign(eps=math.nan), "difference").axes) == 1


def test_nothing_recorded_says_so(tmp_path, capsys):
    rows, board = results.load(tmp_path), results.scoreboard("deepbayes", root=tmp_path)
    assert report.rates(rows).iloc[0, 0] == results.NOT_RUN
    figure = report.curves_by_protocol(rows, {"as_published": "published"}, "rate")
    assert figure.axes[0].texts[0].get_text() == results.NOT_RUN
    assert report.differences(board, "difference") is None
    assert results.NOT_RUN in capsys.readouterr().out
    table = report.verdicts(board[board["chapter"] == "05"], lambda claim: claim.metric)
    assert table.apply(lambda cells: cells.str.contains(results.NOT_RUN)).any(axis=None)
    assert isinstance(table, pd.DataFrame)


@pytest.fixture(scope="module")
def protocol_run(tmp_path_factory):
    """``gfz`` under the whole protocol at two radii: of 100 images 90 are right clean, and each attack takes some."""
    root = tmp_path_factory.mktemp("stages")
    x = torch.zeros(100, 1, 8, 8, dtype=torch.uint8)
    images = data.ImageData(x, torch.arange(100) % 10, x, torch.arange(100) % 10, tuple("abcdefghij"), "fashion-mnist")
    key = {"document": "deepbayes", "data": images, "profile": "cpu", "seed": 0, "chapter": "05", "norm": "linf"}

    def first(count):
        return (torch.arange(100) < count).double()

    run = {"pgd": 50, "pgd+autoattack": 40, "pgd+autoattack+square": 40, "worst-case": 30, "pgd-margin": 60}
    for attack, left in run.items():
        outcomes = Outcomes(list(range(100)), first(90), [0.1, 0.3], torch.stack([first(left), first(left - 30)]))
        results.record(outcomes, root, model="gfz", protocol="adaptive", attack=attack, **key)
    return results.load(root)


def test_stages_tell_the_protocol_in_its_order(protocol_run):
    table = report.stages(protocol_run)
    assert table["attack"].tolist()[::2] == ["clean", "pgd", "autoattack", "square", "transfer"]
    at = {eps: part["value"].tolist() for eps, part in table.groupby("eps")}
    assert at == {0.1: [0.9, 0.5, 0.4, 0.4, 0.3], 0.3: [0.9, 0.2, 0.1, 0.1, 0.0]}


def test_stages_leave_other_attacks_alone(recorded):
    assert report.stages(results.load(recorded)).empty  # FGSM and PGD-40 are not the protocol


def test_survivors_cut_each_bar_where_the_attacks_stopped(protocol_run):
    figure = report.survivors(report.stages(protocol_run))
    assert [axis.get_title() for axis in figure.axes] == ["ε = 0.1", "ε = 0.3"]
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in figure.axes[0].patches]
    expected = [(0.9, 1.0), (0.5, 0.9), (0.4, 0.5), (0.4, 0.4), (0.3, 0.4), (0.0, 0.3)]
    assert spans == [pytest.approx(span) for span in expected]
    low, high = figure.axes[0].lines[0].get_xdata()
    assert low < 0.3 < high
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["stands, 95 %", "Transfer", "Square", "AutoAttack", "falls to PGD", "wrong without attack"]


def test_survivors_give_each_seed_a_bar_and_no_attack_a_negative_share(protocol_run):
    table = report.stages(protocol_run)
    luckier = table.assign(seed=1, value=table["value"].where(table["attack"] != "square", 0.45))
    figure = report.survivors(pd.concat([table, luckier]))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["gfz (seed 0)", "gfz (seed 1)"]
    assert min(bar.get_width() for bar in figure.axes[0].patches) >= 0


def test_survivors_of_nothing_say_so(tmp_path, capsys):
    assert report.survivors(report.stages(results.load(tmp_path))) is None
    assert results.NOT_RUN in capsys.readouterr().out


def test_what_is_left_is_one_models_accuracy_under_one_attack_in_linf():
    columns = ["protocol", "model", "attack", "norm", "metric", "eps", "value"]
    others = [
        ("as_published", "a", "pgd", "linf", "accuracy", 0.1, 0.6),
        ("as_published", "a", "pgd", "l2", "accuracy", 0.1, 0.9),
        ("as_published", "a", "pgd", "linf", "success_rate", 0.1, 0.2),
        ("as_published", "b", "pgd", "linf", "accuracy", 0.1, 0.1),
        ("as_published", "a", "pgd", "linf", "accuracy", 0.2, 0.0),
        ("adaptive", "a", "pgd", "linf", "accuracy", 0.1, 0.0),  # a stage on the way to the worst case
    ]
    rows = pd.DataFrame(others, columns=columns)
    rows = rows.assign(variant="", document="zoo", data="mnist", profile="cpu", seed=0, steps=20, reading="")
    by_code = rows.head(1).assign(variant="code", value=0.9)
    assert report.left(pd.concat([rows, by_code]), "a", "pgd", 0.1) == pytest.approx(0.6)
    assert math.isnan(report.left(rows, "a", "fgsm", 0.1))
    assert report.left(rows, "a", "pgd", 0.1 + 1e-9) == report.left(rows, "a", "pgd", 0.1)
    with pytest.raises(ValueError, match=r"several, by seed$"):
        report.left(pd.concat([rows, rows.head(1).assign(seed=1)]), "a", "pgd", 0.1)


def test_a_cell_of_two_numbers_is_refused(recorded):
    rows = results.load(recorded).query("eps == 0.1 and protocol == 'as_published'")  # accuracy and success rate
    with pytest.raises(ValueError, match="rows"):
        report.beside(rows, {}, ["gfz"], ["fgsm"])


def test_two_printed_numbers_of_one_key_are_two_verdicts_and_one_number_in_two_tables_is_one():
    board = results.scoreboard("zoo", chapter="06")
    cell = board[(board["protocol"] == "adaptive") & (board["attack"] == "uniform-noise") & (board["eps"] == 0.5)].head(1)
    twice = pd.concat([cell, cell.assign(printed="another"), cell.assign(locator="another table")])
    (said,) = report.verdicts(twice, lambda claim: "all")["adaptive"]
    assert int(said.split()[0]) == 2


def test_a_model_has_one_colour_in_all_panels_and_the_legend_names_every_one():
    rows = [("as_published", m, e, 0.5, 0.4, 0.6, 0) for m in "abc" for e in (0.1, 0.2)]
    rows += [("adaptive", m, e, 0.2, 0.1, 0.3, 0) for m in "cb" for e in (0.1, 0.2)]
    table = pd.DataFrame(rows, columns=["protocol", "model", "eps", "value", "low", "high", "seed"])
    figure = report.curves_by_protocol(table, {"as_published": "left", "adaptive": "right"}, "accuracy")
    looks = [{line.get_label(): (line.get_color(), line.get_marker()) for line in axis.get_lines()} for axis in figure.axes]
    assert looks[1].items() <= looks[0].items()
    assert len(set(looks[0].values())) == 3
    assert figure.axes[0].get_legend() is None
    assert {text.get_text() for text in figure.axes[1].get_legend().texts} == set("abc")


def test_timings_are_ratios_of_bests(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "__file__", str(tmp_path / "library" / "report.py"))
    assert report.timings("cost").empty
    (tmp_path / "benchmarks" / "raw").mkdir(parents=True)
    cases = [{"case": "plain", "seconds": [2.0, 1.0]}, {"case": "dear", "seconds": [6.0, 5.0]}]
    content = {"tables": [{"title": "A step", "reference": "plain", "cases": cases}]}
    (tmp_path / "benchmarks" / "raw" / "cost.json").write_text(json.dumps(content))
    (row,) = report.timings("cost").to_dict("records")
    assert row == {"timed": "A step", "case": "dear", "reference": "plain", "ratio": 5.0}
