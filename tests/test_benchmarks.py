"""The benchmark report says what the raw repetitions say; no timing is asserted here."""

import json

import pytest

from benchmarks.report import README, render
from benchmarks.timing import RAW, interleaved


def test_the_report_is_the_one_the_raw_repetitions_give():
    assert README.read_text() == render(), "stale: run python -m benchmarks.report"


def test_every_benchmark_keeps_its_repetitions_and_says_on_what_machine():
    names = {path.stem for path in RAW.glob("*.json")}
    assert names >= {"attacks", "autoattack", "cost", "scores", "smallest", "two_classes"}
    for name in names:
        content = json.loads((RAW / f"{name}.json").read_text())
        assert {"processor", "cores", "threads used", "torch"} <= set(content["machine"])
        for table in content["tables"]:
            assert table["reference"] in [case["case"] for case in table["cases"]]
            assert len({len(case["seconds"]) for case in table["cases"]}) == 1
            assert all(second > 0 for case in table["cases"] for second in case["seconds"])


def test_the_report_computes_ratios(tmp_path):
    cases = [
        {"case": "ours", "seconds": [1.0, 2.0, 6.0], "left": 0.5},
        {"case": "theirs", "seconds": [3.0, 5.0, 4.0], "left": 1},
    ]
    table = {"title": "T", "note": "N.", "reference": "ours", "cases": cases}
    (tmp_path / "t.json").write_text(json.dumps({"benchmark": "t", "machine": {"cores": "2"}, "tables": [table]}))
    assert "| theirs | 3 | 4 | 3.00 | 2.00 | 1.000 |" in render(tmp_path)


@pytest.mark.parametrize("repetitions", [1, 3])
def test_cases_take_turns_after_an_unmeasured_round(repetitions):
    order = []
    seconds = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repetitions)
    assert order == ["a", "b"] * (repetitions + 1)
    assert [len(values) for values in seconds.values()] == [repetitions] * 2
