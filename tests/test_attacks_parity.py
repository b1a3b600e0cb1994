"""Side by side with peer libraries: the same pixels where the algorithm is the same, and our models unwrapped in theirs."""

import foolbox
import pytest
import torch
import torchattacks
from captum.attr import IntegratedGradients, Saliency
from fixtures_models import Noisy, images, small_cnn

from hybridgen_lib import recipes
from hybridgen_lib.attacks import L2, Linf, fgm, fgsm, ifgsm, pgd
from hybridgen_lib.classifier import frozen_noise

STEPS, N = 10, 64
EPS = [0.01, 0.1, 0.3]


def accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def by_foolbox(attack, model, x, y, eps):
    state = torch.random.get_rng_state()
    try:
        return attack(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=eps)[1]
    finally:
        torch.random.set_rng_state(state)


def assert_same_pixels(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("eps", EPS)
def test_fgsm(eps):
    model, (x, y) = small_cnn(), images(N)
    ours = fgsm(model, x, y, Linf(eps))
    assert_same_pixels(ours, torchattacks.FGSM(model, eps=eps)(x, y))
    assert_same_pixels(ours, by_foolbox(foolbox.attacks.LinfFastGradientAttack(), model, x, y, eps))


@pytest.mark.parametrize("eps", EPS)
def test_ifgsm(eps):
    model, (x, y) = small_cnn(), images(N)
    ours = ifgsm(model, x, y, Linf(eps), steps=STEPS, stop_when_fooled=False)
    theirs = foolbox.attacks.LinfBasicIterativeAttack(rel_stepsize=1 / STEPS, steps=STEPS, random_start=False)
    assert_same_pixels(ours, by_foolbox(theirs, model, x, y, eps))
    assert_same_pixels(ours, torchattacks.BIM(model, eps=eps, alpha=eps / STEPS, steps=STEPS)(x, y))


@pytest.mark.parametrize("eps", EPS)
def test_pgd_linf(eps):
    model, (x, y) = small_cnn(), images(N)
    ours = pgd(model, x, y, Linf(eps), steps=STEPS, random_start=False, stop_when_fooled=False)
    theirs = torchattacks.PGD(model, eps=eps, alpha=2.5 * eps / STEPS, steps=STEPS, random_start=False)(x, y)
    assert_same_pixels(ours, theirs)
    theirs = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / STEPS, steps=STEPS, random_start=False)
    assert_same_pixels(ours, by_foolbox(theirs, model, x, y, eps))


def test_targeted_pgd_linf():
    model, (x, y) = small_cnn(), images(N)
    target = (y + 1) % 10
    ours = pgd(model, x, y, Linf(0.05), steps=STEPS, target=target, random_start=False, stop_when_fooled=False)
    theirs = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / STEPS, steps=STEPS, random_start=False)
    assert_same_pixels(ours, by_foolbox(theirs, model, x, foolbox.criteria.TargetedMisclassification(target), 0.05))


@pytest.mark.parametrize("eps", [0.3, 1.0])
def test_fgm_l2(eps):
    model, (x, y) = small_cnn(), images(N)
    assert_same_pixels(fgm(model, x, y, L2(eps)), by_foolbox(foolbox.attacks.L2FastGradientAttack(), model, x, y, eps))


@pytest.mark.parametrize("eps", [0.3, 1.0])
def test_pgd_l2_in_accuracy_and_norm(eps):
    """Pixels differ where the order of clip and projection does; how much an attack achieves with how much must not."""
    model, (x, y) = small_cnn(), images(200)
    ours = pgd(model, x, y, L2(eps), steps=20, random_start=False, stop_when_fooled=False)
    rivals = [
        torchattacks.PGDL2(model, eps=eps, alpha=2.5 * eps / 20, steps=20, random_start=False)(x, y),
        by_foolbox(foolbox.attacks.L2PGD(rel_stepsize=2.5 / 20, steps=20, random_start=False), model, x, y, eps),
    ]
    for theirs in rivals:
        assert abs(accuracy(model, ours, y) - accuracy(model, theirs, y)) <= 0.01
        torch.testing.assert_close(L2(1).norm(ours - x).mean(), L2(1).norm(theirs - x).mean(), rtol=0.01, atol=0)


def test_pgd_with_random_start_in_accuracy():
    model, (x, y) = small_cnn(), images(200)
    ours = accuracy(model, pgd(model, x, y, Linf(0.05), steps=20), y)
    with torch.random.fork_rng(devices=[]):
        theirs = torchattacks.PGD(model, eps=0.05, alpha=2.5 * 0.05 / 20, steps=20)(x, y)
    assert abs(ours - accuracy(model, theirs, y)) <= 0.015


@pytest.mark.parametrize("stochastic", [False, True])
def test_our_classifiers_work_unwrapped_in_peer_libraries(stochastic):
    (x, y), model = images(32), Noisy(small_cnn(), sigma=0.1).eval() if stochastic else small_cnn()
    with frozen_noise(model, 0):
        before = accuracy(model, x, y)
        for attacked in (
            torchattacks.PGD(model, eps=0.2, alpha=0.02, steps=STEPS, random_start=False)(x, y),
            by_foolbox(foolbox.attacks.LinfPGD(steps=STEPS, random_start=False), model, x, y, 0.2),
        ):
            assert accuracy(model, attacked, y) < before - 0.4
        assert Saliency(model).attribute(x, target=y).shape == x.shape
        shares, gap = IntegratedGradients(model).attribute(
            x, torch.zeros_like(x), y, n_steps=200, return_convergence_delta=True
        )
        assert shares.shape == x.shape
        assert gap.abs().max() < 0.05 * model(x).abs().max()


@pytest.mark.parametrize("name", ["gfz", "dfx"])
def test_a_generative_classifier_works_unwrapped_in_peer_libraries(name):
    """FGSM of two libraries moves every pixel as ours does, but for those whose gradient is zero up to rounding."""
    model = recipes.build(name, (1, 28, 28), 10, samples=2, width=4, hidden=16, code=4).eval()
    x, y = images(16)
    with frozen_noise(model, 0):
        ours = fgsm(model, x, y, Linf(0.1))
        for theirs in (
            torchattacks.FGSM(model, eps=0.1)(x, y),
            by_foolbox(foolbox.attacks.LinfFastGradientAttack(random_start=False), model, x, y, 0.1),
        ):
            assert ((ours - theirs).abs() < 1e-5).float().mean() > 0.99
        shares, gap = IntegratedGradients(model).attribute(
            x[:4], torch.zeros_like(x[:4]), y[:4], n_steps=100, return_convergence_delta=True
        )
        assert shares.shape == x[:4].shape
        assert gap.abs().max() < 0.05 * (model(x[:4]) - model(torch.zeros_like(x[:4]))).abs().max()
