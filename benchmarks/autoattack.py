"""AutoAttack through our signature against the same package called directly."""

from __future__ import annotations

import torch
from pyautoattack import AutoAttack

from benchmarks.timing import interleaved, save, share_right
from hybridgen_lib.attacks import Linf, autoattack
from hybridgen_lib.data import as_float, load
from hybridgen_lib.recipes import trained

IMAGES, EPS, REPETITIONS = 100, 0.1, 5


def main() -> None:
    torch.set_num_threads(1)
    data, model = load("fashion-mini"), trained("cnn", device="cpu")
    x, y = as_float(data.test_x[:IMAGES]), data.test_y[:IMAGES]

    def direct() -> torch.Tensor:
        return AutoAttack(model, eps=EPS, norm="Linf", version="standard", seed=0).run_standard_evaluation(x, y)[0]

    cases = {"hybridgen": lambda: autoattack(model, x, y, Linf(EPS)), "pyautoattack": direct}
    left = {case: share_right(model, attack(), y) for case, attack in cases.items()}
    seconds = interleaved(cases, REPETITIONS, warm_up=False)
    table = {
        "title": f"AutoAttack standard, linf {EPS}",
        "note": f"Model `cnn` (quick), {IMAGES} test images of fashion-mini; clean accuracy {share_right(model, x, y):.3f}.",
        "reference": "hybridgen",
        "cases": [{"case": case, "seconds": seconds[case], "accuracy left": round(left[case], 4)} for case in cases],
    }
    save("autoattack", [table], ["pyautoattack"])


if __name__ == "__main__":
    main()
