"""The benchmark report says what the raw repetitions say; no timing is asserted here."""

import json

import pytest
import torch

from benchmarks import defences, explanations, hybrid, timing, training
from benchmarks.report import README, render
from benchmarks.timing import RAW, interleaved


def test_the_report_is_the_one_the_raw_repetitions_give():
    assert README.read_text() == render(), "stale: run python -m benchmarks.report"


def test_every_benchmark_keeps_its_repetitions_and_says_on_what_machine():
    names = {path.stem for path in RAW.glob("*.json")}
    assert names >= {
        "attacks",
        "autoattack",
        "cost",
        "defences",
        "explanations",
        "hybrid",
        "scores",
        "smallest",
        "training",
        "two_classes",
    }
    for name in names:
        content = json.loads((RAW / f"{name}.json").read_text())
        assert {"processor", "cores", "threads used", "torch"} <= set(content["machine"])
        for table in content["tables"]:
            assert table["reference"] in [case["case"] for case in table["cases"]]
            assert len({len(case["seconds"]) for case in table["cases"]}) == 1
            assert all(second > 0 for case in table["cases"] for second in case["seconds"])


def test_the_report_computes_ratios(tmp_path):
    cases = [
        {"case": "ours", "seconds": [1.0, 2.0, 6.0], "left": 0.5, "asked": 31},
        {"case": "theirs", "seconds": [3.0, 5.0, 4.0], "left": 1.0, "asked": 1001},
    ]
    table = {"title": "T", "note": "N.", "reference": "ours", "cases": cases}
    (tmp_path / "t.json").write_text(json.dumps({"benchmark": "t", "machine": {"cores": "2"}, "tables": [table]}))
    assert "| theirs | 3 | 4 | 3.00 | 2.00 | 1.000 | 1001 |" in render(tmp_path)


@pytest.mark.parametrize("repetitions", [1, 3])
def test_cases_take_turns_after_an_unmeasured_round(repetitions):
    order = []
    seconds = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repetitions)
    assert order == ["a", "b"] * (repetitions + 1)
    assert [len(values) for values in seconds.values()] == [repetitions] * 2


TINY = {
    hybrid: {"PROFILE": "quick", "CLASSES": (3,), "IMAGES": 2, "REPETITIONS": 2, "BATCHES": (1,), "VGG_CALLS": 2}
    | {"WITH_MEANS": ("quick",)},
    defences: {"PROFILE": "quick", "BATCHES": 1, "REPETITIONS": 2},
    explanations: {
        "REPETITIONS": {"cnn": 2, "resnet18": 2, "frechet": 2},
        "IMAGES": {"cnn": 2, "resnet18": 1},
        "WIDTH": 0.05,
        "STEPS": 3,
        "SAMPLES": 6,
        "REFERENCES": 3,
        "EXPLAINED": 2,
        "LONG_RUN": 12,
        "LADDER": (5, 9),
        "DIMENSIONS": 8,
        "FEATURES": 20,
    },
    training: {"SIZES": {"quick": {"batches": 1, "head batches": 1, "repetitions": 2, "warm-up": False}}},
}


@pytest.mark.parametrize("benchmark", TINY, ids=lambda module: module.__name__)
def test_tiny_sizes_give_a_report(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "RAW", tmp_path)
    for name, value in TINY[benchmark].items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(hybrid, "in_fresh_process", lambda function, *arguments: function(*arguments))
    benchmark.main()
    (path,) = tmp_path.glob("*.json")
    tables, text = json.loads(path.read_text())["tables"], render(tmp_path)
    assert all(second > 0 for table in tables for case in table["cases"] for second in case["seconds"])
    for table in tables:
        assert f"## {table['title']}\n" in text
        assert all(f"\n| {case['case']} | " in text for case in table["cases"])


def test_the_whole_training_adds_up_to_the_epochs_of_the_recipes(monkeypatch):
    seconds = {training.PLAIN: [64 * 2.0], training.FEATURES: [64 * 3.0], training.HEAD: [128 * 5.0]}
    seconds |= {f"VGG16, adversarial, {attack}": [64 * 7.0] for attack in training.STEPS}
    monkeypatch.setattr(training, "interleaved", lambda *_: seconds)
    recipes = {"vgg16": {"epochs": 10, "batch_size": 32, "width": 1.0}, "hybrid-shallow": {"epochs": 20, "batch_size": 64}}
    monkeypatch.setattr(training, "_cases", lambda profile, size: {})
    for name, settings in recipes.items():
        monkeypatch.setitem(training.RECIPES[name].settings, "quick", settings)
    epoch, whole = training._tables("quick", {"batches": 2, "head batches": 2, "repetitions": 1, "warm-up": True})
    assert {case["case"]: case["seconds"] for case in epoch["cases"]}[training.HEAD] == [5000.0]
    assert {case["case"]: case["seconds"][0] for case in whole["cases"]} == {
        "VGG16": 10 * 2.0,
        **{f"VGG16, adversarial, {attack}": 10 * 7.0 for attack in training.STEPS},
        "VGG16, features and head": 10 * 2.0 + 3.0 + 20 * 5.0,
    }


def test_memory_is_measured_from_the_process_as_it_was_before_the_call():
    torch.ones(250 * 2**20)  # the peak of this process, a GiB, is none of a fresh one's
    memory, seconds = hybrid.in_fresh_process(
        hybrid.peak_and_seconds, "hybrid-shallow", hybrid.one_call, 50, 4, "quick", "cpu"
    )
    assert 0.01 < memory < 0.5
    assert seconds > 0
