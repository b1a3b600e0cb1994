"""Censored measurements: curves, medians and means against textbook cases, and what makes two models differ."""

import json
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from hybridgen_lib import data, results
from hybridgen_lib.classifier import wilson
from hybridgen_lib.measurement import Estimate, Survival, earliest, kaplan_meier, measured_from, outlasts

# Weeks in remission under 6-mercaptopurine (Freireich et al. 1963), the example of most textbooks; + is censored.
WEEKS = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
RELAPSED = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]


def survival(values, reached, limit=30.0, quantity="iterations", index=None):
    return Survival(range(len(values)) if index is None else index, quantity, values, reached, limit)


# ---------------------------------------------------------------- the curve


def test_the_textbook_example_comes_out_as_printed():
    times, surviving = kaplan_meier(WEEKS, RELAPSED)
    assert times.tolist() == [6, 7, 10, 13, 16, 22, 23]
    printed = torch.tensor([0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482], dtype=torch.float64)
    torch.testing.assert_close(surviving, printed, rtol=0, atol=5e-5)
    assert survival(WEEKS, RELAPSED, 35).estimate("iterations_median").value == 23


def test_four_images_by_hand():
    """Falls at 1 and 3, one leaves at 2, one at the limit 5: S = 3/4 from 1, then (3/4)(1/2) from 3."""
    four = survival([3.0, 1.0, 2.0, 5.0], [True, True, False, False], 5.0)
    table = four.curve()
    assert table["value"].tolist() == [0.0, 1.0, 3.0]
    assert table["surviving"].tolist() == [1.0, 0.75, 0.375]
    assert table["low"].tolist() == [wilson(4, 4)[0], wilson(3, 4)[0], wilson(3 * 0.375, 3)[0]]
    assert four.estimate("iterations").value == pytest.approx(1 * 1 + 2 * 0.75 + 2 * 0.375)
    assert four.estimate("iterations_median").value == 3
    assert four.estimate("iterations_reached") == Estimate(0.5, *wilson(2, 4), 4)


censored = st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=25)


@given(censored)
def test_curves_are_scipys(observed):
    values, reached = (list(column) for column in zip(*observed, strict=True))
    assume(any(reached))
    times, surviving = kaplan_meier(values, reached)
    peer = stats.ecdf(stats.CensoredData.right_censored(values, [not one for one in reached])).sf
    torch.testing.assert_close(surviving, torch.as_tensor(peer.evaluate(times.numpy())), rtol=1e-9, atol=1e-12)
    assert set(times.tolist()) == {value for value, fell in observed if fell}


@given(st.lists(st.floats(0.01, 1.5), min_size=1, max_size=40))
def test_with_one_limit_the_curve_is_the_empirical_one_and_the_mean_what_was_seen(raw):
    values = torch.tensor([min(round(one, 3), 1.0) for one in raw], dtype=torch.float64)
    measured = survival(values, values < 1, 1.0, "proximity")
    for value, share in measured.curve()[["value", "surviving"]].itertuples(index=False):
        assert share == pytest.approx((values > value).double().mean().item() if value < 1 else 0, abs=1e-9)
    assert measured.estimate("proximity").value == pytest.approx(values.mean().item())


# ---------------------------------------------------------------- the metrics


def test_a_median_that_most_images_outlive_is_not_reached():
    measured = survival([1.0] * 4 + [30.0] * 6, [True] * 4 + [False] * 6)
    value, low, high, n = measured.estimate("iterations_median")
    assert math.isnan(value)
    assert math.isnan(high)
    assert low == 1  # some resamples hold five that fell
    assert n == 10
    assert measured.estimate("iterations").value == pytest.approx(0.4 * 1 + 0.6 * 30)


def test_wrong_from_the_start_counts_against_accuracy_and_for_nothing_else():
    """Two wrong, three that fall at 4, five that stand: accuracy is 0.8, then 0.5, and never 0.4."""
    measured = survival([0.0] * 2 + [4.0] * 3 + [30.0] * 5, [True] * 5 + [False] * 5)
    assert measured.estimate("iterations_to_0.4") == Estimate(30.0, 4.0, 30.0, 10)
    assert measured.estimate("iterations_reached") == Estimate(3 / 8, *wilson(3, 8), 8)
    assert measured.estimate("iterations").value == pytest.approx((3 * 4 + 5 * 30) / 8)
    assert measured.curve("all")["surviving"].tolist() == pytest.approx([0.8, 0.5])
    assert measured.curve()["surviving"].tolist() == pytest.approx([1.0, 5 / 8])


@pytest.mark.parametrize(("fallen", "reached_at"), [(5, 30.0), (6, 7.0), (7, 7.0)])
def test_accuracy_reaches_the_documents_level_when_it_is_no_more_than_that(fallen, reached_at):
    measured = survival([7.0] * fallen + [30.0] * (10 - fallen), [True] * fallen + [False] * (10 - fallen))
    assert measured.estimate("iterations_to_0.4").value == reached_at


def test_nothing_right_is_nothing_measured():
    measured = survival([0.0, 0.0], [True, True])
    assert measured.estimate("iterations").n == 0
    assert math.isnan(measured.estimate("iterations_median").value)
    assert measured.estimate("iterations_to_0.4").value == 0
    assert measured.curve("all")["surviving"].tolist() == [0.0]


def test_intervals_cover_what_they_should():
    """Exponential times cut at 3: the true median is ln 2, the true restricted mean 1 - e^-3."""
    generator, covered = torch.Generator().manual_seed(0), {"proximity": 0, "proximity_median": 0}
    truth = {"proximity": 1 - math.exp(-3), "proximity_median": math.log(2)}
    for _ in range(100):
        times = -torch.rand(80, generator=generator, dtype=torch.float64).log()
        measured = survival(times.clamp(1e-3, 3), times < 3, 3.0, "proximity")
        for metric, true in truth.items():
            _, low, high, _ = measured.estimate(metric)
            covered[metric] += low <= true <= high
    assert all(88 <= count <= 100 for count in covered.values())


# ---------------------------------------------------------------- two models


def test_differences_are_on_the_images_both_have_and_had_right():
    a = survival([2.0, 4.0, 9.0, 0.0, 5.0], [True] * 5, index=[1, 2, 3, 4, 5])
    b = survival([9.0, 1.0, 3.0, 7.0], [True] * 4, index=[6, 1, 2, 4])
    assert a.minus(b, "iterations") == Estimate(1.0, 1.0, 1.0, 2)  # 2 - 1 and 4 - 3
    assert b.minus(a, "iterations") == Estimate(-1.0, -1.0, -1.0, 2)
    assert a.minus(b, "iterations_to_0.4").n == 3  # 4 is wrong at the start for a
    assert a.minus(a, "iterations_median") == Estimate(0.0, 0.0, 0.0, 4)


def test_a_median_against_one_that_is_not_reached_is_unknown_but_the_side_is_not():
    stands, falls = survival([30.0] * 9, [False] * 9), survival([3.0] * 9, [True] * 9)
    assert math.isnan(stands.minus(falls, "iterations_median").value)
    assert all(math.isnan(one) for one in stands.minus(stands, "iterations_median")[:3])
    assert stands.minus(falls, "iterations").value == 27
    share = stands.minus(falls, "iterations_reached")
    assert share.value == -1
    assert -1 <= share.low < share.high < 0


def test_the_sign_test_counts_what_is_known():
    #                   a longer  b longer    same   both stand  b left before  a stands where b fell
    a = survival([5.0, 2.0, 4.0, 30.0, 6.0, 30.0, 30.0, 0.0], [1, 1, 1, 0, 1, 0, 0, 1])
    b = survival([3.0, 9.0, 4.0, 30.0, 2.0, 30.0, 7.0, 5.0], [1, 1, 1, 0, 0, 1, 1, 1])
    first, second, tied, share, p = outlasts(a, b)
    assert (first, second, tied) == (3, 1, 3)  # the last was wrong at the start
    assert share == Estimate(0.75, *wilson(3, 4), 4)
    assert p == pytest.approx(stats.binomtest(3, 4).pvalue)
    assert outlasts(b, a)[:3] == (1, 3, 3)


def test_a_sign_test_without_a_word():
    stands = survival([30.0], [False])
    assert outlasts(stands, stands)[:3] == (0, 0, 1)
    assert outlasts(stands, stands).p == 1


@given(censored, st.integers(0, 100))
def test_comparing_is_antisymmetric(observed, seed):
    values, reached = (list(column) for column in zip(*observed, strict=True))
    again = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed)).tolist()
    a = survival(values, reached, 12)
    b = survival([values[k] for k in again], [reached[k] for k in again], 12)
    assert outlasts(a, b)[:3] == (*outlasts(b, a)[1::-1], outlasts(b, a).tied)
    assert a.minus(b, "iterations").value == pytest.approx(-b.minus(a, "iterations").value, nan_ok=True)


def test_of_several_searches_the_earliest_fall_counts():
    a = survival([5.0, 30.0, 8.0, 0.0], [True, False, False, True])
    b = survival([7.0, 4.0, 6.0, 0.0], [True, True, False, True])
    both = earliest(a, b)
    assert both.values.tolist() == [5, 4, 8, 0]
    assert both.reached.tolist() == [True, True, False, True]
    assert earliest(a).to_dict() == a.to_dict()
    for bad in [(), (a, survival([1.0], [True])), (a, Survival(a.index, "proximity", a.values, a.reached, 30.0))]:
        with pytest.raises(ValueError, match=r"^measured must"):
            earliest(*bad)


# ---------------------------------------------------------------- files


@given(st.lists(st.tuples(st.floats(0, 7), st.booleans()), min_size=1, max_size=6), st.floats(0, 1e4))
def test_a_measurement_survives_its_file(observed, seconds):
    values = [value for value, _ in observed]
    measured = Survival(range(len(values)), "proximity", values, [fell or v == 0 for v, fell in observed], 7.0, seconds)
    again = measured_from(json.loads(json.dumps(measured.to_dict())))
    assert isinstance(again, Survival)
    assert again.to_dict() == measured.to_dict()
    assert again.table().equals(measured.table())
    assert list(again.table()["metric"]) == ["proximity", "proximity_median", "proximity_reached", "proximity_to_0.4"]


def test_recorded_numbers_are_found_again(tmp_path):
    x, y = torch.zeros(9, 1, 4, 4, dtype=torch.uint8), torch.zeros(9, dtype=torch.long)
    images = data.ImageData(x, y, x, y, ("a", "b"), "fashion-mnist")
    run = {"document": "hybrid", "model": "vgg16", "profile": "cpu", "seed": 0, "protocol": "as_published", "chapter": "14"}
    stands = survival([30.0] * 3, [False] * 3)  # its median is not reached
    results.record(stands, tmp_path, data=images, attack="ifgsm", norm="linf", **run)
    found = results.load(tmp_path).set_index("metric")["value"]
    assert found["iterations"] == found["iterations_to_0.4"] == 30
    assert math.isnan(found["iterations_median"])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: survival([], []), "index"),
        (lambda: survival([1.0, 1.0], [True, True], index=[3, 3]), "index"),
        (lambda: survival([1.0], [True], quantity=""), "quantity"),
        (lambda: survival([1.0], [True], limit=0), "limit"),
        (lambda: survival([1.0], [True], limit=math.inf), "limit"),
        (lambda: survival([1.0, 2.0], [True]), "values"),
        (lambda: survival([math.inf], [False]), "values"),
        (lambda: survival([31.0], [False]), "values"),
        (lambda: survival([-1.0], [True]), "values"),
        (lambda: survival([0.0], [False]), "values"),
        (lambda: Survival([0], "iterations", [1.0], [True], 30.0, -1.0), "seconds"),
        (lambda: survival([1.0], [True]).estimate("proximity"), "metric"),
        (lambda: survival([1.0], [True]).minus(survival([1.0], [True]), "proximity"), "metric"),
        (lambda: survival([1.0], [True]).curve("some"), "of"),
        (lambda: survival([1.0], [True]).minus(survival([1.0], [True], index=[5]), "iterations"), "other"),
        (lambda: outlasts(survival([1.0], [True]), survival([1.0], [True], 10)), "other"),
        (lambda: outlasts(survival([1.0], [True]), survival([1.0], [True], quantity="proximity")), "other"),
        (lambda: kaplan_meier([1.0, math.nan], [True, True]), "values"),
        (lambda: kaplan_meier([1.0], [True, True]), "values"),
    ],
)
def test_bad_measurements_are_refused(make, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        make()


def test_a_file_that_lacks_a_part_is_named():
    with pytest.raises(ValueError, match="the measurement lacks"):
        Survival.from_dict({"seconds": 0.0})


def test_of_two_models_that_never_get_there_the_difference_is_not_known():
    """95 and 55 % stand at the limit: neither falls to 0.4 by then, and that does not make them equal."""
    a = survival([30.0] * 200, [False] * 190 + [True] * 10)
    b = survival([30.0] * 110 + [5.0] * 90, [False] * 110 + [True] * 90)
    apart = a.minus(b, "iterations_to_0.4")
    assert [math.isnan(number) for number in apart[:3]] == [True, True, True]
    assert a.estimate("iterations_to_0.4").value == b.estimate("iterations_to_0.4").value == 30  # the document's definition
    fallen = survival([5.0] * 190 + [30.0] * 10, [True] * 190 + [False] * 10)
    assert a.minus(fallen, "iterations_to_0.4") == Estimate(25.0, 25.0, 25.0, 200)


def test_intervals_of_a_mean_are_as_wide_as_theory_says():
    values = torch.rand(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp_min(0.01)
    _, low, high, _ = survival(values, [True] * 400, 1.0, "proximity").estimate("proximity")
    reach = 1.96 * values.std().item() / 20
    assert high - low == pytest.approx(2 * reach, rel=0.08)


def test_a_mean_of_images_that_all_outlast_the_limit_is_no_evidence_of_equality():
    a = Survival(list(range(5)), "proximity", [0.1] * 5, [False] * 5, 0.1)
    found = a.minus(a, "proximity")
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
