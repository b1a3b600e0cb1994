"""Measurements that are no shares: numbers per image, distances between sets, and the pictures that go with them."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hybridgen_lib import data, results
from hybridgen_lib.measurement import Estimate, Outcomes, SetDistances, Values, measured_from
from hybridgen_lib.results import Sheet, picture_of, record, record_pictures

RUN = {"document": "interpretable", "model": "cnn", "profile": "cpu", "seed": 0, "protocol": "as_published", "chapter": "12"}


@pytest.fixture(scope="module")
def images():
    x, y = torch.zeros(30, 1, 4, 4, dtype=torch.uint8), torch.zeros(30, dtype=torch.long)
    return data.ImageData(x, y, x, y, ("a", "b"), "fashion-mnist")


def test_values_are_averaged_over_images_with_a_bootstrap_interval():
    numbers = torch.randn(400, generator=torch.Generator().manual_seed(0)) + 3
    value, low, high, n = Values(range(400), {"pixel_distance": numbers}).estimate("pixel_distance")
    assert value == pytest.approx(numbers.mean().item(), rel=1e-5)
    assert n == 400
    reach = 1.96 * numbers.std().item() / 20  # what the central limit theorem says of so many
    assert low == pytest.approx(value - reach, abs=0.02)
    assert high == pytest.approx(value + reach, abs=0.02)


def test_values_are_compared_on_the_images_that_both_have():
    a = Values([5, 6, 7, 8], {"m": [1.0, 2.0, 3.0, 10.0]})
    b = Values([8, 7, 6, 1], {"m": [9.0, 2.0, 1.0, 99.0]})
    assert a.minus(b, "m") == Estimate(1.0, 1.0, 1.0, 3)  # 2-1, 3-2, 10-9
    with pytest.raises(ValueError, match=r"^other must share images"):
        a.minus(Values([1], {"m": [0.0]}), "m")


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """Of a mean, and groups of one, the delete-a-group jackknife is the textbook's s / sqrt(n) exactly."""
    numbers = torch.rand(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    left_out = [(numbers.sum() - one).item() / 11 for one in numbers]
    value, low, high, n = SetDistances(12, {"d": numbers.mean().item()}, {"d": left_out}).estimate("d")
    reach = stats.t.ppf(0.975, 11) * numbers.std().item() / math.sqrt(12)
    assert (high - value, value - low) == (pytest.approx(reach, rel=1e-4), pytest.approx(reach, rel=1e-4))
    assert n == 12


def test_distances_that_move_together_differ_by_less_than_either_varies():
    left_out = [1.0, 1.4, 0.7, 1.2]
    a = SetDistances(40, {"d": 3.0}, {"d": [2 + one for one in left_out]})
    b = SetDistances(40, {"d": 1.0}, {"d": left_out})
    value, low, high, _ = a.minus(b, "d")
    assert value == 2.0
    assert high - low < 1e-5 < a.estimate("d").high - a.estimate("d").low
    for other in (SetDistances(41, {"d": 1.0}, {"d": left_out}), SetDistances(40, {"d": 1.0}, {"d": left_out[:2]})):
        with pytest.raises(ValueError, match=r"^other must be about 40 images"):
            a.minus(other, "d")


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(numbers, min_size=1, max_size=6), st.floats(0, 1e4))
def test_values_survive_their_file(found, seconds):
    measured = Values(range(len(found)), {"one": found, "two": found}, seconds)
    again = measured_from(json.loads(json.dumps(measured.to_dict())))
    assert isinstance(again, Values)
    assert again.table().equals(measured.table())
    assert again.to_dict() == measured.to_dict()


@given(st.floats(0, 1e4), st.lists(numbers, min_size=2, max_size=6))
def test_distances_survive_their_file(value, left_out):
    measured = SetDistances(10, {"d": value}, {"d": left_out}, 1.5)
    again = measured_from(json.loads(json.dumps(measured.to_dict())))
    assert isinstance(again, SetDistances)
    assert again.table().equals(measured.table())


def test_outcomes_are_still_read():
    measured = Outcomes([0, 1], torch.tensor([1.0, 0.0]))
    assert measured.metrics == ("clean_accuracy",)
    assert isinstance(measured_from(measured.to_dict()), Outcomes)


DISTANCES = SetDistances(5, {"d": 0.0}, {"d": [0.0, 1.0]})


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Values([], {"m": []}), "index"),
        (lambda: Values([1, 1], {"m": [0.0, 1.0]}), "index"),
        (lambda: Values([1], {}), "index"),
        (lambda: Values([1], {"m": [0.0, 1.0]}), "values"),
        (lambda: Values([1], {"m": [math.nan]}), "values"),
        (lambda: Values([1], {"m": [0.0]}, -1.0), "seconds"),
        (lambda: Values([1], {"m": [0.0]}).estimate("other"), "metric"),
        (lambda: Values([1], {"m": [0.0]}).minus(Values([1], {"m": [0.0]}), "other"), "metric"),
        (lambda: Values([1], {"m": [0.0]}).minus(Values([1], {"other": [0.0]}), "m"), "metric"),
        (lambda: SetDistances(1, {"d": 0.0}, {"d": [0.0, 1.0]}), "n"),
        (lambda: SetDistances(5, {"d": 0.0}, {"e": [0.0, 1.0]}), "left_out"),
        (lambda: SetDistances(5, {"d": 0.0}, {"d": [0.0]}), "left_out"),
        (lambda: SetDistances(5, {"d": math.inf}, {"d": [0.0, 1.0]}), "values"),
        (lambda: SetDistances(5, {"d": 0.0}, {"d": [0.0, 1.0]}).estimate("other"), "metric"),
        (lambda: DISTANCES.minus(DISTANCES, "other"), "metric"),
    ],
)
def test_bad_measurements_are_refused(make, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        make()


@pytest.mark.parametrize("kind", [Values, SetDistances])
def test_a_file_that_lacks_a_part_is_named(kind):
    with pytest.raises(ValueError, match="the measurement lacks"):
        kind.from_dict({"seconds": 0.0})


def test_recorded_numbers_are_found_again(images, tmp_path):
    inverted = Values([0, 3], {"inversion_distance": [1.25, 2.5], "representation_gap": [0.1, 0.2]}, 3.0)
    made = SetDistances(9, {"frechet_distance": 4.0}, {"frechet_distance": [3.9, 4.2]}, 1.0)
    record(inverted, tmp_path, data=images, attack="inversion", norm="l2", steps=10_000, reading="from noise", **RUN)
    record(made, tmp_path, data=images, attack="class-generation", norm="l2", steps=60, **(RUN | {"chapter": "13"}))
    table = results.load(tmp_path).set_index("metric")
    assert table["value"].round(9).to_dict() == {
        "inversion_distance": 1.875,
        "representation_gap": 0.15,
        "frechet_distance": 4,
    }
    assert table["eps"].isna().all()
    assert set(table["reading"]) == {"from noise", ""}
    with pytest.raises(ValueError, match="image 30"):
        record(Values([30], {"m": [0.0]}), tmp_path, data=images, attack="inversion", **RUN)


CIFAR = {"stand_in": "Fashion-MNIST, the small CNN", "claim_data": "cifar10"}


def claims_about(metric, root):
    board = results.scoreboard("interpretable", root=root)
    return board[(board["metric"] == metric) & (board["data"] == "cifar10")]


def test_a_distance_in_other_features_settles_the_order_and_never_the_number(images, tmp_path):
    for model, claimed, value in (("cnn", "resnet18", 9.0), ("cnn-at-l2", "resnet18-at-l2", 4.0)):
        for protocol in results.PROTOCOLS:
            made = SetDistances(9, {"frechet_distance": value}, {"frechet_distance": [value - 0.1, value + 0.1, value]})
            run = RUN | CIFAR | {"model": model, "claim_model": claimed, "protocol": protocol, "chapter": "13"}
            record(made, tmp_path, data=images, attack="class-generation", norm="l2", steps=60, **run)
    board = claims_about("fid", tmp_path)
    order = board[board["kind"] == "order"]
    assert set(order["verdict"]) == {"stands (on Fashion-MNIST, the small CNN)"}
    assert order["ours"].tolist() == [-5.0, -5.0]
    levels = board[(board["kind"] == "level") & (board["model"] != "real-data")]
    assert levels["ours"].tolist() == [9.0, 9.0, 4.0, 4.0]
    assert set(levels["verdict"]) == {""}  # 152 and 88 are of another network's features
    assert board[board["model"] == "real-data"]["reason"].tolist() == [results.NOT_RUN]


def test_the_documents_own_number_is_reproduced_or_not(images, tmp_path):
    """Its data and its network: then a number speaks for itself, within the tolerance of the claim."""
    x = data.ImageData(images.train_x, images.train_y, images.test_x, images.test_y, images.classes, "cifar10")
    for model, value in (("resnet18", 150.0), ("resnet18-at-l2", 190.0)):
        made = SetDistances(9, {"fid": value}, {"fid": [value, value + 0.1]})
        run = RUN | {"model": model, "chapter": "13", "reading": "FID"}
        record(made, tmp_path, data=x, attack="class-generation", norm="l2", steps=60, **run)
    board = claims_about("fid", tmp_path)
    board = board[board["protocol"] == "as_published"].set_index(["model", "kind"])["verdict"]
    assert board["resnet18", "level"] == "reproduced"
    assert board["resnet18-at-l2", "level"] == "differs"
    assert board["resnet18-at-l2", "order"] == "differs"


def test_a_handful_of_images_decides_nothing(images, tmp_path):
    """A bootstrap of three images that all say the same has next to no width."""
    for model, claimed, found in (("cnn", "resnet18", [6.0, 7.5, 8.0]), ("cnn-at-l2", "resnet18-at-l2", [2.0, 3.0, 4.0])):
        run = RUN | CIFAR | {"model": model, "claim_model": claimed, "reading": "from noise"}
        measured = Values(range(3), {"inversion_distance": found})
        record(measured, tmp_path, data=images, attack="inversion", norm="l2", steps=10_000, **run)
    board = claims_about("inversion_distance", tmp_path)
    order = board[(board["kind"] == "order") & (board["protocol"] == "as_published")].set_index("reading")["verdict"]
    assert order["from noise"] == "undecided at this n"


@pytest.mark.parametrize(
    ("robust", "plain", "verdict"),
    [
        ([2.0, 3.0, 4.0], [6.0, 7.5, 8.0], "stands (on Fashion-MNIST, the small CNN)"),
        ([6.0, 7.5, 8.0], [2.0, 3.0, 4.0], "does not stand (on Fashion-MNIST, the small CNN)"),
        ([2.0, 9.0, 4.0], [6.0, 3.0, 8.0], "undecided at this n"),
    ],
)
def test_inversions_are_compared_image_by_image(images, tmp_path, robust, plain, verdict):
    for model, claimed, found in (("cnn", "resnet18", plain), ("cnn-at-l2", "resnet18-at-l2", robust)):
        measured = Values(range(30), {"inversion_distance": 10 * found})
        run = RUN | CIFAR | {"model": model, "claim_model": claimed, "reading": "from noise"}
        record(measured, tmp_path, data=images, attack="inversion", norm="l2", steps=10_000, **run)
    board = claims_about("inversion_distance", tmp_path)
    order = board[(board["kind"] == "order") & (board["protocol"] == "as_published")].set_index("reading")["verdict"]
    assert order["from noise"] == verdict
    assert order["from another class"] == ""  # the other reading was not run


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (2, 3, 1, 4, 5), (3, 2, 3, 5, 4), (1, 4, 3, 2, 2)])
def test_pictures_come_back_as_they_were(shape, images, tmp_path):
    grey = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    sheet = Sheet(grey / 255, tuple(f"column {k}" for k in range(shape[1])))
    key = RUN | {"attack": "inversion"}
    path = record_pictures(sheet, results.path_of(tmp_path, data=images, **key))
    assert list(path.parent.iterdir()) == [path]
    again = picture_of({**key, "data": "fashion-mnist", "norm": "", "steps": "", "reading": "", "variant": ""}, tmp_path)
    assert again.columns == sheet.columns
    torch.testing.assert_close(again.images, sheet.images)


def test_pictures_are_found_by_a_row_of_the_results(images, tmp_path):
    key = RUN | {"attack": "inversion", "norm": "l2", "steps": 10_000}
    path = record(Values([0], {"inversion_distance": [1.0]}), tmp_path, data=images, **key)
    row = results.load(tmp_path).iloc[0]
    assert picture_of(row, tmp_path) is None
    record_pictures(Sheet(torch.rand(2, 3, 1, 4, 4), ("seed", "target", "result")), path)
    assert picture_of(row, tmp_path).images.shape == (2, 3, 1, 4, 4)


@pytest.mark.parametrize(
    "sheet",
    [
        Sheet(torch.rand(2, 3, 1, 4, 4), ("a", "b")),
        Sheet(torch.rand(3, 1, 4, 4), ("a",)),
        Sheet(torch.rand(2, 1, 2, 4, 4), ("a",)),
        Sheet(torch.rand(2, 1, 1, 4, 4) * 2, ("a",)),
    ],
)
def test_bad_pictures_are_refused(sheet, tmp_path):
    with pytest.raises(ValueError, match=r"^images must"):
        record_pictures(sheet, tmp_path / "run.json")
