"""Every attack on every classifier of the book: inside the ball, inside [0, 1], and no trace left."""

from functools import partial

import pytest
import torch

from hybridgen_lib import attacks
from hybridgen_lib.attacks import L2, Linf
from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.recipes import RECIPES, build
from hybridgen_lib.recipes.causalib import CAUSALIB

DENSE = {"hidden": 4, "code": 2}
ON_TOP = {**DENSE, "width": 1 / 32, "samples": 2}
NARROW = {"mlp": {"hidden": 4}, "alexnet": {"width": 1 / 64}, "resnet34": {"width": 1 / 64}, "wideresnet": {"widen": 1}}
SIZES = {  # the others are small convolutional networks
    "gmm": {"components": 2},
    **{name: {} for name in ("nb", "logreg", "mrf")},
    "nn": {"hidden": 4},
    **dict.fromkeys(("vae-classifier", "vae-classifier-pretrained"), DENSE),
    "cvae": {**DENSE, "samples": 3},
    **{name: {"width": 1 / 32} for name in ("vgg16", "vgg19")},
    **dict.fromkeys(("gbz-conv9", "gby-conv9", "dbx-fc1"), ON_TOP),
    **{name: {**ON_TOP, "manipulation": 2} for name in ("hybrid-shallow", "hybrid-deep")},
    **{name: {"width": 1 / 64} for name in ("resnet18", "resnet18-at-l2", "resnet50", "resnet50-at-l2")},
    **{name: NARROW[name.partition("-")[0]] for name in CAUSALIB},
    **{f"{network}-{way}": {**size, "code": 2, "draws": 2} for network, size in NARROW.items() for way in ("vib", "causalib")},
}
FEW = {"stop_when_fooled": False, "steps": 2}
ATTACKS = {
    "fgsm": (attacks.fgsm, Linf(0.1)),
    "fgm": (attacks.fgm, L2(1.0)),
    "ifgsm": (partial(attacks.ifgsm, steps=2), Linf(0.1)),
    "pgd, ce": (partial(attacks.pgd, loss="ce", **FEW), Linf(0.1)),
    "pgd, margin": (partial(attacks.pgd, loss="margin", restarts=2, **FEW), L2(1.0)),
    "pgd, dlr": (partial(attacks.pgd, loss="dlr", **FEW), Linf(0.1)),
    "square": (partial(attacks.square, queries=5), Linf(0.1)),
    "cw": (attacks.within(partial(attacks.smallest_cw, steps=3, searches=2)), L2(1.0)),
    "uniform noise": (attacks.within(attacks.smallest_uniform_noise), Linf(0.1)),
    "gaussian noise": (attacks.within(attacks.smallest_gaussian_noise), L2(1.0)),
    "contrast, linear": (attacks.within(partial(attacks.smallest_contrast_linear, steps=4, stride=1)), Linf(0.1)),
    "contrast, binary": (attacks.within(partial(attacks.smallest_contrast_binary, steps=2)), Linf(0.1)),
    "blur": (attacks.within(partial(attacks.smallest_blur, steps=4, stride=1)), Linf(0.1)),
}


def model_of(name: str) -> torch.nn.Module:
    return build(name, (1, 8, 8), 4, **SIZES.get(name, {"width": 2, "hidden": 4}))


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_attack_runs_on_every_classifier(name):
    model, ones = model_of(name), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).sigmoid()
    state, flags = torch.random.get_rng_state(), [parameter.requires_grad for parameter in model.parameters()]
    modes, before = [part.training for part in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    for attack, ball in ATTACKS.values():
        with frozen_noise(model):
            x_adv = attack(model, ones, torch.tensor([0, 3]), ball, generator=torch.Generator().manual_seed(1))
        assert x_adv.shape == ones.shape
        assert not x_adv.requires_grad
        assert ball.norm(x_adv - ones).max() <= ball.eps * (1 + 1e-4)
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
    assert model.training  # as it was built
    assert [part.training for part in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
