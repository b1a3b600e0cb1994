"""Outcomes, their table and paired differences, against answers worked out by hand."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridgen_lib.classifier import wilson
from hybridgen_lib.measurement import Estimate, Outcomes, paired_difference


def outcomes(clean, right=(), epsilons=None, draws=1, index=None):
    epsilons = [0.1 * (i + 1) for i in range(len(right))] if epsilons is None else epsilons
    return Outcomes(index or list(range(len(clean))), torch.tensor(clean), epsilons, torch.tensor(right), draws)


# ten images, eight right clean; under attack six of all and five of the eight
CLEAN = [1.0] * 8 + [0.0] * 2
RIGHT = [1.0] * 5 + [0.0] * 3 + [1.0, 0.0]


def test_each_metric_counts_what_it_says():
    o = outcomes(CLEAN, [RIGHT])
    assert o.estimate("clean_accuracy") == Estimate(0.8, *wilson(8, 10), 10)
    assert o.estimate("accuracy", 0.1) == Estimate(0.6, *wilson(6, 10), 10)
    assert o.estimate("success_rate", 0.1) == Estimate(0.375, *wilson(3, 8), 8)


def test_wilson_limits_are_the_published_ones():
    low, high = outcomes([1.0] * 8 + [0.0] * 2).estimate("clean_accuracy")[1:3]
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)


def test_fractions_average_over_images():
    right = [0.5, 1.0, 0.0, 0.75]
    o = outcomes([1.0, 0.5, 0.25, 1.0], [right], draws=4)
    assert o.estimate("accuracy", 0.1).value == 0.5625
    assert o.estimate("accuracy", 0.1)[1:3] == wilson(sum(right), 4)
    success = o.estimate("success_rate", 0.1)
    assert success.n == 3  # the third image was right in a quarter of the draws only
    assert success.value == pytest.approx((0.5 + 0.0 + 0.25) / 3)


def test_more_draws_do_not_narrow_an_interval():
    one = outcomes([1.0, 0.0] * 50, draws=1).estimate("clean_accuracy")
    ten = outcomes([1.0, 0.0] * 50, draws=10).estimate("clean_accuracy")
    assert one == ten
    assert one.n == 100


def test_no_image_right_clean_gives_no_success_rate():
    estimate = outcomes([0.0, 0.0], [[0.0, 0.0]]).estimate("success_rate", 0.1)
    assert math.isnan(estimate.value)
    assert estimate[1:] == (0.0, 1.0, 0)


def test_the_table_has_clean_accuracy_and_two_rows_a_radius():
    table = outcomes(CLEAN, [CLEAN, RIGHT], epsilons=[0.0, 0.3]).table()
    assert list(table.columns) == ["metric", "eps", "value", "low", "high", "n", "seconds"]
    assert table["metric"].tolist() == ["clean_accuracy", "accuracy", "success_rate", "accuracy", "success_rate"]
    assert math.isnan(table["eps"][0])
    assert table["eps"][1:].tolist() == [0.0, 0.0, 0.3, 0.3]
    assert table["value"].tolist() == [0.8, 0.8, 0.0, 0.6, 0.375]
    assert table["n"].tolist() == [10, 10, 8, 10, 8]


def test_clean_accuracy_alone_is_a_measurement():
    assert outcomes(CLEAN).table()["metric"].tolist() == ["clean_accuracy"]


@given(
    st.integers(1, 12), st.integers(0, 3), st.integers(1, 7), st.randoms(use_true_random=False)
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_trip_through_json_changes_nothing(n, radii, draws, random):
    def fraction():
        return random.randint(0, draws) / draws

    o = Outcomes(
        random.sample(range(1000), n), torch.tensor([fraction() for _ in range(n)]),
        [0.05 * i for i in range(radii)], torch.tensor([[fraction() for _ in range(n)] for _ in range(radii)]),
        draws, [float(i) for i in range(radii)],
    )  # fmt: skip
    back = Outcomes.from_dict(json.loads(json.dumps(o.to_dict())))
    assert back.index == o.index
    assert back.epsilons == o.epsilons
    torch.testing.assert_close(back.clean, o.clean, atol=1e-6, rtol=0)
    torch.testing.assert_close(back.right, o.right, atol=1e-6, rtol=0)
    assert back.to_dict() == o.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": []}, "index must"),
        ({"index": [0, 0]}, "index must"),
        ({"index": [-1, 0]}, "index must"),
        ({"clean": torch.ones(3)}, "clean must have shape"),
        ({"clean": torch.tensor([1.0, 2.0])}, "clean must hold fractions"),
        ({"clean": torch.tensor([1.0, float("nan")])}, "clean must hold fractions"),
        ({"right": torch.ones(2)}, "right must have shape"),
        ({"right": torch.tensor([[0.5, 1.0]])}, "right must hold fractions of 1 draws"),
        ({"right": torch.ones(2, 2)}, "right must have shape"),
        ({"epsilons": [-0.1]}, "epsilons must be a number >= 0"),
        ({"epsilons": [float("inf")]}, "epsilons must be"),
        ({"epsilons": [0.1, 0.1], "right": torch.ones(2, 2)}, "different radii"),
        ({"draws": 0}, "draws must be"),
        ({"seconds": [1.0, 2.0]}, "as many seconds"),
        ({"seconds": [-1.0]}, "seconds must be"),
    ],
)
def test_what_is_no_measurement_is_refused(change, message):
    good = {"index": [0, 1], "clean": torch.ones(2), "epsilons": [0.1], "right": torch.ones(1, 2), "draws": 1}
    Outcomes(**good)
    with pytest.raises(ValueError, match=message):
        Outcomes(**(good | change))


def test_a_radius_or_metric_that_was_not_measured_is_refused():
    o = outcomes(CLEAN, [RIGHT])
    with pytest.raises(ValueError, match="eps must be one of"):
        o.estimate("accuracy", 0.2)
    with pytest.raises(ValueError, match="metric must be one of"):
        o.estimate("robustness", 0.1)
    with pytest.raises(ValueError, match="lack right"):
        Outcomes.from_dict({k: v for k, v in o.to_dict().items() if k != "right"})


# ---------------------------------------------------------------- paired differences


def test_paired_difference_is_agresti_min_on_matched_proportions():
    # 2 x 2 table of Agresti and Min: 20 images only a gets right, 10 only b, 30 both, 40 neither
    a = outcomes([1.0] * 100, [[1.0] * 20 + [0.0] * 10 + [1.0] * 30 + [0.0] * 40])
    b = outcomes([1.0] * 100, [[0.0] * 20 + [1.0] * 10 + [1.0] * 30 + [0.0] * 40])
    d = paired_difference(a, b, "accuracy", 0.1)
    centre = (20.5 - 10.5) / 102
    spread = math.sqrt(20.5 + 10.5 - (20.5 - 10.5) ** 2 / 102) / 102
    assert d.value == pytest.approx(0.1)
    assert d.low == pytest.approx(centre - 1.959964 * spread)
    assert d.high == pytest.approx(centre + 1.959964 * spread)
    assert d.n == 100


def test_swapping_the_sides_mirrors_the_difference_and_success_mirrors_accuracy():
    generator = torch.Generator().manual_seed(0)
    a, b = (outcomes([1.0] * 60, torch.randint(2, (1, 60), generator=generator).double().tolist()) for _ in range(2))
    ab, ba = paired_difference(a, b, "accuracy", 0.1), paired_difference(b, a, "accuracy", 0.1)
    assert ab[:3] == pytest.approx((-ba.value, -ba.high, -ba.low))
    assert paired_difference(b, a, "success_rate", 0.1)[:3] == pytest.approx(ab[:3])


def test_only_shared_images_count_whatever_their_order():
    a = outcomes([1.0] * 4, [[1.0, 0.0, 1.0, 1.0]], index=[5, 6, 7, 8])
    b = outcomes([1.0] * 3, [[0.0, 1.0, 1.0]], index=[8, 7, 99])
    d = paired_difference(a, b, "accuracy", 0.1)
    assert d.n == 2
    assert d.value == 0.5  # image 7: both; image 8: only a
    with pytest.raises(ValueError, match="share images"):
        paired_difference(a, outcomes([1.0], index=[1]), "clean_accuracy")


def test_success_rates_are_compared_on_images_both_got_right_clean():
    a = outcomes([1.0, 1.0, 0.0, 1.0], [[0.0, 1.0, 0.0, 0.0]])
    b = outcomes([1.0, 1.0, 1.0, 0.0], [[1.0, 1.0, 0.0, 0.0]])
    d = paired_difference(a, b, "success_rate", 0.1)
    assert (d.n, d.value) == (2, 0.5)


def test_a_models_own_rise_and_the_difference_of_two_rises():
    a = outcomes([1.0] * 4, [[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]], epsilons=[0.1, 0.3])
    b = outcomes([1.0] * 4, [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]], epsilons=[0.1, 0.3])
    assert paired_difference(a, a, "success_rate", 0.3, eps_b=0.1).value == 0.75
    rises = paired_difference(a, b, "success_rate", 0.3, since=0.1)
    assert rises.value == 0.5
    assert rises[1:3] == pytest.approx((-0.55127, 1.21794), abs=1e-4)  # scaled by the largest that two rises can be apart


def test_total_agreement_keeps_a_width_that_shrinks_with_n():
    widths = []
    for n in (5, 50, 500):
        a = outcomes([1.0] * n)
        d = paired_difference(a, a, "clean_accuracy")
        assert d.low < 0 < d.high
        widths.append(d.high - d.low)
    assert widths[0] > widths[1] > widths[2]


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for _ in range(300):  # a right with 0.7, b with 0.5, independent: the true difference is 0.2
        a, b = ((torch.rand(1, 80, generator=generator) < p).double() for p in (0.7, 0.5))
        d = paired_difference(outcomes([1.0] * 80, a.tolist()), outcomes([1.0] * 80, b.tolist()), "accuracy", 0.1)
        hits += d.low <= 0.2 <= d.high
    assert 0.91 <= hits / 300 <= 0.985


def test_an_estimate_prints_as_a_person_would_write_it():
    assert str(Estimate(0.5, 0.40123, 0.6, 97)) == "50.0 % [40.1, 60.0], n = 97"
