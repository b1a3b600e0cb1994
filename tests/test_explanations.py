"""The full-scale plan of chapters 11 to 13: what its jobs write, what they are told, and that they settle every claim."""

import pytest
import torch

from hybridgen_lib import data, recipes, reproduce, results
from hybridgen_lib.data import as_float
from hybridgen_lib.explain import Attribution, Extractor
from hybridgen_lib.reproduce import DOCUMENTS, explanations, jobs
from hybridgen_lib.reproduce.jobs import REAL

EXPLAINED = DOCUMENTS["interpretable-explained"]


@pytest.fixture(scope="module")
def images():
    """Sixty pictures of 8 x 8: three classes told apart by where they are bright."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 100, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.arange(60) % 3
    for c in range(3):
        x[y == c, :, 2 * c : 2 * c + 3] += 120
    return data.ImageData(x[:30], y[:30], x[30:], y[30:], ("a", "b", "c"), "fashion-mnist")


@pytest.fixture
def small(monkeypatch, tmp_path, images):
    sizes = {"resnet18": {"width": 1 / 32}, "gfz": {"width": 2, "hidden": 4, "code": 2}}

    def trained(name, images, profile, seed, device):
        torch.manual_seed(seed)
        few = sizes.get(name, sizes["gfz"] if name in explanations.GENERATIVE else {"width": 4, "hidden": 16})
        return recipes.build(name, (1, 8, 8), 3, **few).eval()

    monkeypatch.setattr(jobs.datasets, "load", lambda name, root=None: images)
    monkeypatch.setattr(jobs, "trained", trained)
    monkeypatch.setattr(explanations, "ATTRIBUTED", 6)
    monkeypatch.setattr(explanations, "INVERTED", 5)
    monkeypatch.setattr(explanations, "SHOWN", 4)
    monkeypatch.setattr(explanations, "GROUPS", 5)
    monkeypatch.setattr(explanations, "UNITS", 8)
    monkeypatch.setattr(explanations, "SHOWN_UNITS", 3)
    monkeypatch.setitem(explanations.UNIT, "steps", 3)
    monkeypatch.setitem(explanations.IG, "steps", 4)
    monkeypatch.setitem(explanations.EG, "samples", 4)
    monkeypatch.setitem(explanations.INVERSION, "steps", 3)
    return tmp_path


def test_every_job_writes_its_numbers_and_pictures_once(small, monkeypatch):
    def run():
        named = [(model, way) for model in EXPLAINED.models for way in EXPLAINED.ways(model)]
        return [reproduce.reproduce("interpretable-explained", model, way, results_root=small) for model, way in named]

    paths = run()
    assert len(set(paths)) == len(paths) == 2 * 9 + 3 + 4
    assert all(path.exists() and path.with_suffix(".png").exists() for path in paths)
    table = results.load(small)
    assert set(table["chapter"]) == {"11", "12", "13"}
    explained = table["chapter"] == "11"  # no third network takes part there
    assert set(table["stand_in"][explained]) == {"Fashion-MNIST, the small CNN"}
    assert set(table["stand_in"][~explained]) == {EXPLAINED.stand_in["cpu"]}
    both = table.groupby(["model", "attack", "metric", "reading"])["protocol"].nunique()
    assert (both[both.index.get_level_values("attack").isin(["inversion", "class-generation", "draws"])] == 2).all()
    inverted = (
        table[table["attack"] == "inversion"].set_index(["model", "reading", "metric", "protocol"])["value"].sort_index()
    )
    for model in ("cnn", "cnn-at-l2"):
        for reading in ("from noise", "from another class"):
            last, best = (inverted[model, reading, "representation_gap", protocol] for protocol in results.PROTOCOLS)
            assert best <= last
    monkeypatch.setattr(jobs, "trained", lambda *a, **k: pytest.fail("measured again"))
    assert run() == paths


def test_every_claim_of_the_chapters_is_settled_by_the_jobs(small):
    for model in EXPLAINED.models:
        for way in EXPLAINED.ways(model):
            reproduce.reproduce("interpretable-explained", model, way, results_root=small)
    board = results.scoreboard("interpretable", root=small)
    board = board[board["chapter"].isin(["11", "12", "13"]) & (board["data"] == "cifar10")]
    open_ = board[board["ours"].isna()]
    assert set(open_["reason"]) <= {"the document does not say enough"}
    assert set(board["metric"]) == {"ig_smoothness", "shap_smoothness", "inversion_distance", "fid", "class_discernible"}
    assert board[(board["kind"] == "order") & (board["reason"] == "")]["verdict"].ne("").all()
    missing = results.scoreboard("interpretable", root=small).query("data == 'small-imagenet'")
    assert set(missing["reason"]) == {"no data here"}


def test_inversions_start_from_another_class(images):
    start = explanations._starts("another class", images, torch.arange(5), 0)
    test = as_float(images.test_x)
    rows = [int((test == one).flatten(1).all(1).nonzero()) for one in start]
    assert len(set(rows)) == 5
    assert min(rows) >= 5  # no target is a seed
    assert (images.test_y[rows] != images.test_y[:5]).all()


def test_noise_is_that_of_the_seed(images):
    first, again, other = (explanations._starts("noise", images, torch.arange(30), seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.mean() == pytest.approx(0.5, abs=0.01)
    assert first.std() == pytest.approx(0.05, abs=0.005)


def test_units_answer_to_their_own_class(images):
    """A representation whose units are the classes: the ten most activating images of each are all of one class."""

    class Bright(torch.nn.Sequential):
        """Unit c is how bright the rows are by which class c can be told."""

        def __init__(self):
            super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 3), torch.nn.Linear(3, 3))
            weight = torch.zeros(3, 8, 8)
            for c in range(3):
                weight[c, 2 * c : 2 * c + 3] = 1 / 24
            self[1].weight.data.copy_(weight.flatten(1))
            self[1].bias.data.fill_(0.0)

    ((_, measured, sheet),) = explanations._units(job(images, Bright()))
    assert sorted(measured.index) == [0, 1, 2]
    assert measured.values["most_of_one_class"].tolist() == [1.0] * 3
    assert sheet.images.shape == (3, 9, 1, 8, 8)
    brightness = sheet.images.mean((2, 3, 4))
    assert (brightness[:, 1:6].mean(1) > brightness[:, 6:].mean(1)).all()  # most, least


def job(images, model=None):
    return jobs.Job(model, images, "cpu", 0, None, None, torch.device("cpu"))


@pytest.mark.parametrize(("fitted", "part"), [("test", "test_x"), ("train", "train_x")])
def test_draws_are_those_of_the_images_they_are_fitted_on(images, fitted, part, monkeypatch):
    seen = []
    monkeypatch.setattr(explanations, "normal_draws", lambda x, n, generator: seen.append(x) or x.new_zeros(n, *x.shape[1:]))
    draws, y = explanations._draws(fitted, job(images))
    assert draws.shape == images.test_x.shape
    assert torch.equal(y, torch.arange(3).repeat_interleave(10))
    labels = getattr(images, part.replace("_x", "_y"))
    for c, x in enumerate(seen):
        assert torch.equal(x, as_float(getattr(images, part)[labels == c]))


def test_class_images_are_climbed_to_with_the_documents_numbers(images, monkeypatch):
    told = []
    monkeypatch.setattr(explanations, "generate_class", lambda model, x, y, **climb: told.append((y, climb)) or x)
    explanations._made("as_published", job(images))
    ((y, climb),) = told
    scale = (64 / 3072) ** 0.5
    assert climb["ball"].eps == pytest.approx(30 * scale)
    assert climb["step_size"] == pytest.approx(0.5 * scale)
    assert climb["steps"] == 60
    assert torch.equal(y.bincount(), torch.tensor([10, 10, 10]))


def test_real_images_are_training_images_as_many_of_each_class_as_in_the_test(images):
    real, y = explanations._real(job(images))
    assert real.shape == images.test_x.shape
    train = as_float(images.train_x)
    rows = [int((train == one).flatten(1).all(1).nonzero()) for one in real]
    assert len(set(rows)) == 30
    assert torch.equal(images.train_y[rows], y)
    assert torch.equal(y, torch.arange(3).repeat_interleave(10))


def test_what_asks_for_weights_is_run_by_name_alone(small, monkeypatch):
    assert not [way for way in EXPLAINED.ways("cnn") if "fid" in way]
    asked = []
    monkeypatch.setattr(explanations, "inception", lambda weights: asked.append(weights) or _features())
    path = reproduce.reproduce("interpretable-explained", "cnn", "generation-fid", results_root=small)
    assert asked == ["fid"]
    assert path.exists()
    assert set(results.load(small)["metric"]) == {"fid"}
    assert set(results.load(small)["reading"]) == {"FID"}


def _features():
    from hybridgen_lib.explain.extractors import Extractor

    return Extractor(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1)), "a stand-in")


def test_real_data_has_no_model_to_train(small, monkeypatch):
    asked, build = [], jobs.trained
    monkeypatch.setattr(jobs, "trained", lambda name, *a, **k: asked.append(name) or build(name, *a, **k))
    reproduce.reproduce("interpretable-explained", REAL, "real", results_root=small)
    assert asked == ["resnet18"]  # the extractor


@pytest.mark.parametrize(
    ("way", "output"), [("ig", "probability"), ("ig-adaptive", "score"), ("shap", "probability"), ("shap-adaptive", "score")]
)
def test_published_attributions_are_of_the_probability_and_corrected_ones_of_the_score(images, monkeypatch, way, output):
    """Of the network's own answer; expected gradients compare with training images."""
    told = []

    def spy(model, x, target, references=None, *, output, **options):
        told.append((output, target, references))
        return Attribution(x, x.sum((1, 2, 3)))

    for name in ("integrated_gradients", "expected_gradients"):
        monkeypatch.setattr(explanations, name, spy)
    model = recipes.build("cnn", (1, 8, 8), 3, width=4, hidden=16).eval()
    EXPLAINED.measurements[way].measure(job(images, model))
    ((explained, target, references),) = told
    assert explained == output
    with torch.no_grad():
        assert torch.equal(target, model(as_float(images.test_x)).argmax(1))
    assert (target != images.test_y).any()
    assert references is None if way.startswith("ig") else torch.equal(references, as_float(images.train_x))


@pytest.mark.parametrize(
    ("way", "part"), [("generation", "test"), ("generation-adaptive", "train"), ("draws", "test"), ("draws-adaptive", "train")]
)
def test_corrected_class_images_have_seen_no_image_that_they_are_compared_with(images, monkeypatch, way, part):
    fitted, compared = [], []

    def kept(x, n, generator):
        fitted.append(x)
        return x.new_zeros(n, *x.shape[1:])

    monkeypatch.setattr(explanations, "normal_draws", kept)
    monkeypatch.setattr(explanations, "generate_class", lambda model, x, y, **climb: x)
    monkeypatch.setattr(explanations, "network_extractor", lambda *a: Extractor(torch.nn.Flatten(), "pixels"))
    monkeypatch.setattr(explanations, "frechet_jackknife", lambda *sets: compared.append(sets) or (1.0, [1.0, 1.0]))
    run = jobs.Job(None, images, "cpu", 0, None, lambda name: None, torch.device("cpu"))
    EXPLAINED.measurements[way].measure(run)
    x, y = (getattr(images, f"{part}_{end}") for end in "xy")
    assert len(fitted) == 3
    assert all(torch.equal(one, as_float(x[y == c])) for c, one in enumerate(fitted))
    ((_, real, groups),) = compared
    assert torch.equal(real, as_float(images.test_x).flatten(1))
    assert groups == explanations.GROUPS
