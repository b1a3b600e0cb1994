"""VGG and the tap: shapes, torchvision's numbers, and that what is frozen stays frozen."""

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn

from hybridgen_lib.models.backbones import FeatureTap, Vgg
from hybridgen_lib.models.hybrid import causal_head
from hybridgen_lib.training import cross_entropy, fit, negative_elbo

SHAPE, CLASSES = (3, 8, 8), 3
POOLED = {16: (2, 4, 7, 10, 13), 19: (2, 4, 8, 12, 16)}


def images(count=4, shape=SHAPE, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def net():
    """A VGG in evaluation mode whose normalisation has seen data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Vgg(16, SHAPE, CLASSES, 1 / 16)
    with torch.no_grad():
        for _ in range(3):
            model(images(16))
    return model.eval()


def by_hand(model, x, until):
    with torch.no_grad():
        for name, layer in model.named_children():
            x = layer(x)
            if name == until:
                return x.flatten(1)
    raise AssertionError(until)


def kept(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_kept(model, before):
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# ---------------------------------------------------------------- VGG


@pytest.mark.parametrize("depth", [16, 19])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [17, 28, 32, 33, 64])
def test_every_size_passes_and_no_pool_loses_the_edge(depth, channels, size):
    model, x, heights = Vgg(depth, (channels, size, size), 7, 1 / 32).eval(), torch.rand(2, channels, size, size), []
    with torch.no_grad():
        assert model(x).shape == (2, 7)
        for name, layer in model.named_children():
            x = layer(x)
            if name.startswith("pool"):
                heights.append(tuple(x.shape[2:]))
    expected = [-(-size // 2**k) for k in range(1, 6)]
    assert heights == [(h, h) for h in expected]


def test_sides_may_differ():
    assert Vgg(16, (1, 28, 50), 4, 1 / 32).eval()(torch.rand(2, 1, 28, 50)).shape == (2, 4)


@pytest.mark.parametrize("depth", [16, 19])
def test_layers_are_named_and_ordered_as_published(depth):
    expected, pools = [], dict(zip(POOLED[depth], range(1, 6), strict=True))
    for k in range(1, depth - 2):
        expected += [f"conv{k}"] + ([f"pool{pools[k]}"] if k in pools else [])
    model = Vgg(depth, (3, 32, 32), 10, 1 / 16)
    assert [name for name, _ in model.named_children()] == [*expected, "flat", "dense1", "dense2", "logits"]
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == depth - 3
    assert sum(isinstance(m, nn.Linear) for m in model.modules()) == 3
    for name, layer in model.named_children():
        if name.startswith(("conv", "dense")):
            assert isinstance(layer[2], nn.ReLU)
            assert isinstance(layer[1], nn.BatchNorm2d if name.startswith("conv") else nn.BatchNorm1d)


@pytest.mark.parametrize(("width", "first", "last", "units"), [(1.0, 64, 512, 512), (0.125, 8, 64, 64), (1 / 64, 1, 8, 8)])
def test_width_is_a_share_of_every_layer(width, first, last, units):
    with torch.device("meta"):
        model = Vgg(19, (1, 28, 28), 10, width)
    assert model.conv1[0].weight.shape == (first, 1, 3, 3)
    assert model.conv16[0].out_channels == last
    assert model.dense1[0].weight.shape == (units, last)
    assert model.dense2[0].weight.shape == (units, units)
    assert model.logits.weight.shape == (10, units)


def test_the_features_are_torchvisions():
    """Full width, 32 x 32, all weights and statistics copied over: the same five pools."""
    theirs = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], batch_norm=True)
    ours, x = Vgg(16, (3, 32, 32), 10), images(2, (3, 32, 32))
    pairs = zip(
        [m for m in theirs if isinstance(m, nn.Conv2d | nn.BatchNorm2d)],
        [m for m in ours.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)],
        strict=True,
    )
    generator = torch.Generator().manual_seed(0)
    for source, target in pairs:
        if isinstance(source, nn.BatchNorm2d):
            source.running_mean.normal_(0, 0.1, generator=generator)
            source.running_var.uniform_(0.5, 1.5, generator=generator)
        target.load_state_dict(source.state_dict())
    with torch.no_grad():
        expected = theirs.eval()(x).flatten(1)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(by_hand(ours.eval(), x, "flat"), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(FeatureTap(ours, "pool5")(x), expected, rtol=1e-4, atol=1e-6)


def test_a_fresh_vgg_passes_signal_forward_and_back():
    model, x = Vgg(19, (3, 32, 32), 10, 1 / 16), images(16, (3, 32, 32))
    cross_entropy(model, x, torch.arange(16) % 10, 0.0, torch.Generator()).backward()
    sizes = [m.weight.grad.norm().item() for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert min(sizes) > 1e-3 * max(sizes)
    assert all(m.bias.count_nonzero() == 0 for m in model.modules() if isinstance(m, nn.Conv2d))


def test_a_tiny_vgg_learns_which_side_is_bright():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(96) % 2
    x = 0.3 * torch.rand(96, 1, 8, 8, generator=generator)
    x[y == 0, :, :, :4] += 0.4
    x[y == 1, :, :, 4:] += 0.4
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Vgg(16, (1, 8, 8), 2, 1 / 16)
    fit(model, cross_entropy, x, y, epochs=20, batch_size=32, learning_rate=3e-3)
    with torch.no_grad():
        assert (model(x).argmax(1) == y).double().mean() > 0.95


def test_a_last_batch_of_one_image_does_not_end_the_training():
    history = fit(Vgg(16, SHAPE, CLASSES, 1 / 32), cross_entropy, images(17), torch.arange(17) % 3, epochs=1, batch_size=16)
    assert len(history) == 1


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"depth": 11}, "depth"),
        ({"depth": "16"}, "depth"),
        ({"width": 0}, "width"),
        ({"width": 1 / 65}, "width"),
        ({"width": float("nan")}, "width"),
    ],
)
def test_bad_arguments_of_vgg_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"^{name} must"):
        Vgg(**{"depth": 16, "image_shape": SHAPE, "classes": 3, "width": 1 / 16, **arguments})


# ---------------------------------------------------------------- the tap


@pytest.mark.parametrize("after", ["conv1", "conv9", "conv13", "pool2", "pool5", "flat", "dense1", "dense2", "logits"])
def test_the_tap_is_the_network_up_to_that_layer(net, after):
    x = images()
    tap = FeatureTap(net, after)
    assert torch.equal(tap(x), by_hand(net, x, after))
    assert not any(name.split(".")[1] == "logits" for name in tap.state_dict() if name != "scale") or after == "logits"


def test_the_tap_takes_what_stands_before_the_relu_too(net):
    x = images()
    with torch.no_grad():
        h = by_hand(net, x, "flat")
        expected = net.dense1[1](net.dense1[0](h))
    assert torch.equal(FeatureTap(net, "dense1.1")(x), expected)
    assert torch.equal(FeatureTap(net, "dense1")(x), expected.relu())


def test_what_comes_later_is_cut_off(net):
    names = {name.split(".")[1] for name in FeatureTap(net, "conv9").state_dict() if name != "scale"}
    assert names == {f"conv{k}" for k in range(1, 10)}


def test_a_residual_network_can_be_tapped():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.resnet18(num_classes=3)
    x = images(2, (3, 32, 32))
    net.eval()
    with torch.no_grad():
        h = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        expected = net.layer3(net.layer2(net.layer1(h))).flatten(1)
    tap = FeatureTap(net, "layer3")
    torch.testing.assert_close(tap(x), expected)
    assert expected.shape == (2, 1024)
    before = kept(tap)
    tap.train()(x)
    assert_kept(tap, before)
    assert not any("layer4" in name or ".fc" in name for name in before)


def test_it_gives_gradients_to_the_image_and_none_to_its_weights(net):
    tap, x = FeatureTap(net, "conv9"), images().requires_grad_(True)
    tap(x).square().sum().backward()
    assert x.grad.abs().max() > 0
    assert all(not p.requires_grad and p.grad is None for p in tap.parameters())


def head_on(tap, features):
    return causal_head(tap, SHAPE, CLASSES, hidden=8, code=2, manipulation=2, samples=2)


@pytest.mark.parametrize("mode", [True, False])
def test_train_and_eval_above_it_do_not_move_it(net, mode):
    tap, x = FeatureTap(net, "conv9"), images()
    expected, before = tap(x), kept(tap)
    outer = nn.Sequential(nn.Identity(), tap).train(not mode).train(mode)
    assert torch.equal(outer(x), expected)
    torch.testing.assert_close(tap(x[:1]), expected[:1])
    assert not any(m.training for m in tap.modules())
    assert_kept(tap, before)


@pytest.mark.parametrize("observed", [True, False])
def test_training_on_top_moves_neither_weights_nor_statistics(net, observed):
    tap, x, y = FeatureTap(net, "conv9"), images(12), torch.arange(12) % CLASSES
    tap.calibrate(x)
    before, model = kept(tap), head_on(tap, 32)
    head_before = kept(model.networks)
    fit(model, negative_elbo(do={"m": 0}), model.observe(x) if observed else x, y, epochs=2, batch_size=5)
    assert_kept(model.deterministic["x2"], before)
    assert any(not torch.equal(value, head_before[name]) for name, value in model.networks.state_dict().items())


def test_the_backbone_is_left_as_it_was_and_its_changes_do_not_arrive(net):
    net.train()
    before, x = kept(net), images()
    tap = FeatureTap(net, "conv9")
    expected = tap(x)
    assert net.training
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert_kept(net, before)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.add_(1)
    assert torch.equal(tap(x), expected)


def test_a_stochastic_layer_is_off():
    tap = FeatureTap(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), "1")
    assert torch.equal(tap(images()), images().flatten(1))
    assert torch.equal(tap.train()(images()), images().flatten(1))


@pytest.mark.parametrize("way", [copy.deepcopy, lambda tap: pickle.loads(pickle.dumps(tap))], ids=["deepcopy", "pickle"])
def test_a_copy_is_as_frozen_as_the_tap(net, way):
    tap, x = FeatureTap(net, "conv9"), images()
    twin = way(tap)
    before = kept(tap)
    assert torch.equal(twin(x), tap(x))
    assert_kept(twin, before)
    assert not any(p.requires_grad for p in twin.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_calibrated_features_have_a_root_mean_square_of_one(net, dtype):
    tap, x = FeatureTap(net, "conv9").to(dtype), images(30).to(dtype)
    raw = tap(x)
    features = tap.calibrate(x)
    assert features.square().mean().sqrt().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(features, tap(x))
    torch.testing.assert_close(features * raw.square().mean().sqrt(), raw)
    again = tap.calibrate(x)
    assert torch.equal(again, features)
    assert not features.requires_grad
    assert torch.equal(kept(tap)["scale"], raw.square().mean(dtype=torch.float64).sqrt().to(dtype))


def test_calibration_in_parts_is_that_of_the_whole(net):
    tap, x = FeatureTap(net, "conv3"), images(1001)
    raw = tap(x)
    torch.testing.assert_close(tap.calibrate(x), raw / raw.double().square().mean().sqrt().float(), rtol=1e-4, atol=1e-5)


def test_the_scale_is_kept_with_the_weights(net):
    tap, x = FeatureTap(net, "conv9"), images()
    tap.calibrate(x)
    other = FeatureTap(Vgg(16, SHAPE, CLASSES, 1 / 16), "conv9")
    other.load_state_dict(tap.state_dict())
    assert torch.equal(other(x), tap(x))
    assert tap.scale != 1


def test_features_that_are_all_zero_are_an_error_and_not_nan():
    tap = FeatureTap(nn.Sequential(nn.Flatten(), nn.ReLU()), "1")
    with pytest.raises(ValueError, match=r"zero|0"):
        tap.calibrate(torch.zeros(3, *SHAPE))


@pytest.mark.parametrize("bad", [torch.rand(4, 8, 8), 2 * torch.ones(4, *SHAPE), torch.zeros(4, *SHAPE, dtype=torch.uint8)])
def test_calibration_wants_images(net, bad):
    with pytest.raises(ValueError, match=r"^x must"):
        FeatureTap(net, "conv9").calibrate(bad)


@pytest.mark.parametrize("after", ["", "conv99", "conv", None, 3, "conv9.9"])
def test_a_layer_that_is_not_there_is_named_with_those_that_are(net, after):
    with pytest.raises(ValueError, match=r"^after must name a module of the backbone, such as conv1, conv2, pool1") as caught:
        FeatureTap(net, after)
    assert repr(after) in str(caught.value)


def test_a_backbone_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"^backbone must be"):
        FeatureTap(len, "conv1")
