"""Explanations side by side: integrated gradients and expected gradients against captum and shap, the Fréchet distance against
``scipy.linalg.sqrtm``; and how many gradients an integral needs, which is a count and no time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.linalg
import shap
import torch
from captum.attr import GradientShap, IntegratedGradients
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from benchmarks.timing import interleaved, save
from hybridgen_lib.data import as_float, load
from hybridgen_lib.explain.attribution import expected_gradients, integrated_gradients
from hybridgen_lib.explain.frechet import FeatureStatistics, frechet_distance
from hybridgen_lib.recipes import build, trained

REPETITIONS = {"cnn": 7, "resnet18": 3, "frechet": 2}
STEPS, IMAGES = 50, {"cnn": 32, "resnet18": 1}
SAMPLES, REFERENCES, EXPLAINED, LONG_RUN = 200, 100, 4, 10_000
WIDTH = 1.0  # of ResNet18
LADDER = (5, 7, 10, 14, 20, 28, 40, 51, 56, 80, 112, 160, 224, 320)
WITHIN = 0.01
RULES = ("trapezoid", "gauss-legendre")
DIMENSIONS, FEATURES = 2048, 4096
OURS = "hybridgen"


def main() -> None:
    torch.set_num_threads(1)
    with threadpool_limits(1):  # SciPy has threads of its own
        integrated = [_integrated(name, rule) for name in IMAGES for rule in RULES]
        tables = [*integrated, _expected(), *map(_counted, ("probability", "score")), _frechet()]
    save("explanations", tables, ["captum", "shap", "scipy"])


def _network(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network that nobody wants gradients of, images, and the classes that it gives them."""
    data = load("fashion-mini")
    if name == "cnn":
        model, x = trained(name, device="cpu"), as_float(data.test_x[: IMAGES[name]])
    else:
        model = build(name, (3, 32, 32), 10, "paper", width=WIDTH)
        x = torch.rand(IMAGES[name], 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.eval().requires_grad_(False)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def _probability(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: model(x).softmax(1)


def _integrated(name: str, rule: str) -> dict:
    model, x, y = _network(name)
    gradients = STEPS + (rule == "trapezoid")
    method = {"trapezoid": "riemann_trapezoid", "gauss-legendre": "gausslegendre"}[rule]
    peer = partial(
        IntegratedGradients(_probability(model)).attribute, x, target=y, n_steps=gradients, method=method,
        return_convergence_delta=True,
    )  # fmt: skip
    cases = {
        OURS: lambda: integrated_gradients(model, x, y, steps=STEPS, rule=rule).gap,
        "captum": lambda: peer()[1],
        "captum, 256 a pass": lambda: peer(internal_batch_size=256)[1],
    }
    gaps = {case: run().abs().mean().item() for case, run in cases.items()}
    seconds = interleaved(cases, REPETITIONS[name])
    what = "`cnn` (quick)" if name == "cnn" else f"`{name}` (paper, untrained)"
    weights = f" The weights of captum's trapezoid add up to {STEPS} / {gradients}." if rule == "trapezoid" else ""
    return {
        "title": f"Integrated gradients of {name}, {rule}, {len(x)} image{'s' * (len(x) > 1)}",
        "note": f"Model {what}, {'x'.join(map(str, x.shape[1:]))}, probability of the predicted class, from black, "
        f"{gradients} gradients an image, 256 a pass in ours. All return the gap as well; its mean size is printed.{weights}",
        "reference": OURS,
        "cases": [{"case": case, "seconds": seconds[case], "gap": round(gaps[case], 5)} for case in cases],
    }


def _expected() -> dict:
    """shap's model must not be shared: it is put into evaluation mode, and its gradients are cleared."""
    model, x, y = _network("cnn")
    x, y = x[:EXPLAINED], y[:EXPLAINED]
    references = as_float(load("fashion-mini").train_x[:REFERENCES])
    theirs, captums = shap.GradientExplainer(model, references), GradientShap(model)
    ours = partial(expected_gradients, model, x, y, references, output="score")
    cases = {
        OURS: lambda: ours(samples=SAMPLES).values,
        "shap, one class": lambda: _ranked(theirs.shap_values(x, nsamples=SAMPLES, ranked_outputs=1, rseed=0)),
        "shap, all ten classes": lambda: _of_class(theirs.shap_values(x, nsamples=SAMPLES, rseed=0), y),
        "captum, GradientShap": lambda: captums.attribute(
            x, references, n_samples=SAMPLES, stdevs=0.0, target=y, return_convergence_delta=True
        )[0],
    }
    state = np.random.get_state()  # noqa: NPY002 (shap and captum draw from the global sources)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        values = {case: run() for case, run in cases.items()}
        seconds = interleaved(cases, REPETITIONS["cnn"])
    np.random.set_state(state)  # noqa: NPY002
    long_run = ours(samples=LONG_RUN, seed=1).values
    off = {case: ((found - long_run).norm() / long_run.norm()).item() for case, found in values.items()}
    return {
        "title": f"Expected gradients of cnn, {EXPLAINED} images, {SAMPLES} samples",
        "note": f"Model `cnn` (quick), score of the predicted class, {REFERENCES} references. Off is the distance from a run "
        f"of {LONG_RUN:,} samples, relative to its length, so that nobody is fast by being rough.",
        "reference": OURS,
        "cases": [{"case": case, "seconds": seconds[case], "off": round(off[case], 4)} for case in cases],
    }


def _ranked(answer) -> Tensor:
    return torch.from_numpy(answer[0][..., 0])


def _of_class(values, y: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(values[i, ..., c]) for i, c in enumerate(y.tolist())])


def _counted(output: str) -> dict:
    """The least number of gradients on a ladder at which half of the images have a gap within 1 % of the change."""
    model, x, y = _network("cnn")

    def explained(gradients: int, rule: str):
        return integrated_gradients(model, x, y, steps=gradients - (rule == "trapezoid"), rule=rule, output=output)

    def gap(gradients: int, rule: str) -> float:
        found = explained(gradients, rule)
        return (found.gap / (found.values.sum((1, 2, 3)) - found.gap)).abs().median().item()

    needed = {rule: next((n for n in LADDER if gap(n, rule) <= WITHIN), LADDER[-1]) for rule in RULES}
    settings = {
        f"trapezoid, {STEPS} steps": (STEPS + 1, "trapezoid"),
        **{f"{rule}, to 1 %": (n, rule) for rule, n in needed.items()},
    }
    seconds = interleaved({case: partial(explained, *setting) for case, setting in settings.items()}, REPETITIONS["cnn"])
    return {
        "title": f"Gradients to a completeness gap of 1 %, {output}",
        "note": f"Model `cnn` (quick), {len(x)} images, the predicted class, from black. The least number out of "
        f"{', '.join(map(str, LADDER))} with a median gap, relative to the change, of 1 % at most.",
        "reference": f"trapezoid, {STEPS} steps",
        "cases": [
            {"case": case, "seconds": seconds[case], "gradients": setting[0], "median gap (%)": round(100 * gap(*setting), 3)}
            for case, setting in settings.items()
        ],
    }


def _frechet() -> dict:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(DIMENSIONS, DIMENSIONS, generator=generator, dtype=torch.float64) / DIMENSIONS**0.5
    sets = [torch.randn(FEATURES, DIMENSIONS, generator=generator, dtype=torch.float64) for _ in range(2)]
    a, b = (FeatureStatistics().update(features) for features in (sets[0], 0.1 + sets[1] @ mix))

    def by_square_root() -> float:
        root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
        traces = a.covariance.trace() + b.covariance.trace() - 2 * np.trace(root)
        return ((a.mean - b.mean).square().sum() + traces).item()

    cases = {OURS: lambda: frechet_distance(a, b), "scipy.linalg.sqrtm": by_square_root}
    seconds = interleaved(cases, REPETITIONS["frechet"], warm_up=False)
    return {
        "title": f"Fréchet distance in {DIMENSIONS} dimensions",
        "note": f"From the statistics of two sets of {FEATURES:,} features each, in float64.",
        "reference": OURS,
        "cases": [{"case": case, "seconds": seconds[case], "distance": round(run(), 3)} for case, run in cases.items()],
    }


if __name__ == "__main__":
    main()
