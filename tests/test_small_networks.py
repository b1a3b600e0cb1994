"""ResNet, WideResNet and AlexNet for small images, a network without its last layer, the last layer of a decoder."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from hybridgen_lib.classifier import Classifier
from hybridgen_lib.models.backbones import AlexNet, FeatureTap, PreActivationBlock, Vgg, WideResNet, headless, resnet
from hybridgen_lib.models.networks import DenseNetwork, SmallCNN, SubpixelDeconvolution
from hybridgen_lib.training import cross_entropy, fit

CIFAR, MNIST, SMALL = (3, 32, 32), (1, 28, 28), (3, 8, 8)
BUILD = {
    "resnet18": lambda shape, classes: resnet(18, shape, classes, width=1 / 16),
    "resnet34": lambda shape, classes: resnet(34, shape, classes, width=1 / 32),
    "resnet50": lambda shape, classes: resnet(50, shape, classes, width=1 / 32),
    "wideresnet": lambda shape, classes: WideResNet(shape, classes, depth=16, widen=1),
    "alexnet": lambda shape, classes: AlexNet(shape, classes, width=1 / 16),
}
OTHERS = {
    "vgg": lambda shape, classes: Vgg(16, shape, classes, width=1 / 16),
    "dense": lambda shape, classes: DenseNetwork(shape, classes, hidden=6),
    "logistic": lambda shape, classes: DenseNetwork(shape, classes, hidden=0),
    "cnn": lambda shape, classes: SmallCNN(shape, classes, width=4, hidden=6),
}
FEATURES = {
    "resnet18": 32, "resnet34": 16, "resnet50": 64, "wideresnet": 64, "alexnet": 256,
    "vgg": 32, "dense": 6, "logistic": 192, "cnn": 6,
}  # fmt: skip
every_new = pytest.mark.parametrize("name", BUILD)
every = pytest.mark.parametrize("name", FEATURES)


def images(count=4, shape=SMALL, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def built(name, shape=SMALL, classes=3):
    """The network in evaluation mode, its normalisation as after some training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return shaken({**BUILD, **OTHERS}[name](shape, classes)).eval()


def shaken(network):
    """The same network with normalisation that is none of the identity, so that a forgotten layer shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                for value in (part.running_var, part.weight):
                    value.uniform_(0.5, 1.5, generator=generator)
                for value in (part.running_mean, part.bias):
                    value.normal_(0, 0.1, generator=generator)
    return network


def kept(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_kept(network, before):
    assert network.state_dict().keys() == before.keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def count(build):
    with torch.device("meta"):
        return sum(p.numel() for p in build().parameters())


# ---------------------------------------------------------------- the published networks


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_173_962), (34, 21_282_122), (50, 23_520_842)])
def test_a_resnet_of_full_width_has_as_many_parameters_as_is_published(depth, parameters):
    assert count(lambda: resnet(depth, CIFAR, 10)) == parameters


@pytest.mark.parametrize(
    ("depth", "widen", "parameters", "millions"),
    [(40, 1, 563_930, 0.6), (40, 4, 8_949_210, 8.9), (16, 8, 10_961_370, 11.0), (28, 10, 36_479_194, 36.5)],
)
def test_a_wideresnet_has_as_many_parameters_as_is_published(depth, widen, parameters, millions):
    """The millions are those of the paper's table 5."""
    assert count(lambda: WideResNet(CIFAR, 10, depth, widen)) == parameters
    assert round(parameters / 1e6, 1) == millions


def test_the_default_is_wrn_34_10():
    with torch.device("meta"):
        network = WideResNet(CIFAR, 10)
    assert sum(p.numel() for p in network.parameters()) == 46_160_474
    assert [len(getattr(network, f"group{k}")) for k in (1, 2, 3)] == [5, 5, 5]
    assert [getattr(network, f"group{k}")[-1].conv2.out_channels for k in (1, 2, 3)] == [160, 320, 640]


def test_alexnet_has_torchvisions_parameters_but_for_the_first_convolution_and_dense_layer():
    published = count(lambda: torchvision.models.alexnet(num_classes=10))
    fewer = 64 * 3 * (11**2 - 3**2) + 4096 * 256 * (6**2 - 2**2)
    assert count(lambda: AlexNet(CIFAR, 10)) == published - fewer == 23_468_874


@pytest.mark.parametrize("depth", [18, 50])
def test_a_resnet_is_torchvisions_with_another_stem(depth):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
        theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    ours, x = shaken(resnet(depth, CIFAR, 10)).eval(), images(2, (3, 16, 16))
    theirs.load_state_dict(ours.state_dict(), assign=True)  # strict: the same names and shapes
    with torch.no_grad():
        expected = theirs.eval()(x)
        assert expected.std() > 1e-3
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


def test_alexnet_is_torchvisions_with_another_start_and_padded_pools():
    with torch.device("meta"):
        theirs = torchvision.models.alexnet(num_classes=10)
        theirs.features[0], theirs.classifier[1] = nn.Conv2d(3, 64, 3, 2, 1), nn.Linear(1024, 4096)
        for k in (2, 5, 12):
            theirs.features[k] = nn.MaxPool2d(3, 2, 1)
        theirs.avgpool = nn.Identity()
    ours, x = AlexNet(CIFAR, 10).eval(), images(2, CIFAR)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)), assign=True)
    with torch.no_grad():
        expected = theirs.eval()((x - 0.5) / 0.5)
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


def test_a_wide_block_is_the_equations_of_the_paper():
    x = images(2, (4, 6, 6))
    for before, after, stride in ((4, 4, 1), (4, 8, 1), (4, 8, 2)):
        block = shaken(PreActivationBlock(before, after, stride)).eval()
        with torch.no_grad():
            h = F.relu(block.norm1(x))
            residual = F.conv2d(h, block.conv1.weight, stride=stride, padding=1)
            residual = F.conv2d(F.relu(block.norm2(residual)), block.conv2.weight, padding=1)
            skip = x if before == after else F.conv2d(h, block.shortcut.weight, stride=stride)
            torch.testing.assert_close(block(x), skip + residual)


def test_a_wideresnet_ends_as_in_the_paper():
    network, x = built("wideresnet"), images()
    with torch.no_grad():
        h = network.group3(network.group2(network.group1(network.conv1(x))))
        expected = network.logits(F.relu(network.norm(h)).mean((2, 3)))
        torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(("shape", "sides"), [(CIFAR, (32, 32, 16, 8)), (MNIST, (28, 28, 14, 7))])
def test_the_second_and_third_group_of_a_wideresnet_halve_the_image(shape, sides):
    network, x, seen = built("wideresnet", shape), images(1, shape), []
    with torch.no_grad():
        for name, layer in network.named_children():
            x = layer(x)
            if name.startswith(("conv", "group")):
                seen.append((name, x.shape[2]))
    assert seen == list(zip(("conv1", "group1", "group2", "group3"), sides, strict=True))


@pytest.mark.parametrize(("shape", "sides"), [(CIFAR, (16, 8, 4, 2)), (MNIST, (14, 7, 4, 2)), ((2, 17, 17), (9, 5, 3, 2))])
def test_every_step_of_alexnet_rounds_up(shape, sides):
    network, x, seen = built("alexnet", shape), images(1, shape), {}
    with torch.no_grad():
        for name, layer in network.named_children():
            x = layer(x)
            seen[name] = x.shape[-1]
    assert (seen["conv1"], seen["pool1"], seen["pool2"], seen["pool3"]) == sides


# ---------------------------------------------------------------- what every network keeps to


@every_new
@pytest.mark.parametrize(("shape", "classes"), [(CIFAR, 10), (MNIST, 10), (SMALL, 2), ((2, 17, 33), 7)])
def test_every_shape_and_number_of_classes_passes(name, shape, classes):
    network = built(name, shape, classes)
    with torch.no_grad():
        scores = network(images(2, shape))
    assert scores.shape == (2, classes)
    assert scores.isfinite().all()
    assert scores.std(0).min() > 0
    assert network.score_kind == "logit"
    assert isinstance(network, Classifier)


@every_new
def test_the_gradient_reaches_the_image_and_every_weight(name):
    network, x = built(name).train(), images().requires_grad_(True)
    if name == "alexnet":
        network.eval()  # else dropout holds back part of it
    network(x).square().sum().backward()
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()
    for where, parameter in network.named_parameters():
        assert parameter.grad.abs().sum() > 0, where


@every_new
def test_scores_are_the_same_again_and_in_other_company(name):
    network, x = built(name), images(4)
    with torch.no_grad():
        scores = network(x)
        assert torch.equal(network(x), scores)
        assert torch.equal(network(x, generator=torch.Generator().manual_seed(5)), scores)
        torch.testing.assert_close(network(x[1:2]), scores[1:2])
        torch.testing.assert_close(network(torch.cat([images(3, seed=9), x]))[3:], scores)


def test_dropout_is_active_in_training_only_and_follows_torchs_seed():
    network, x = built("alexnet").train(), images()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = network(x), network(x)
        torch.manual_seed(0)
        again = network(x)
        network.eval()
        assert torch.equal(network(x), network(x))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@every_new
def test_convolutions_start_as_those_of_he(name):
    convolutions = [m for m in built(name, CIFAR).modules() if isinstance(m, nn.Conv2d)]
    for m in convolutions:
        fan_out = m.out_channels * m.kernel_size[0] * m.kernel_size[1]
        assert (m.weight * (fan_out / 2) ** 0.5).std().item() == pytest.approx(1, rel=4 / (2 * m.weight.numel()) ** 0.5)
        assert m.bias is None or m.bias.count_nonzero() == 0
        assert m.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["resnet18", "wideresnet", "alexnet"])
def test_a_tiny_one_learns_which_side_is_bright(name):
    y = torch.arange(96) % 2
    x = 0.3 * images(96, (1, 8, 8))
    x[y == 0, :, :, :4] += 0.4
    x[y == 1, :, :, 4:] += 0.4
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BUILD[name]((1, 8, 8), 2)
        fit(network, cross_entropy, x, y, epochs=10, batch_size=32, learning_rate=3e-3)
    with torch.no_grad():
        assert (network(x).argmax(1) == y).double().mean() > 0.95


@every_new
@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))], ids=["deepcopy", "pickle"]
)
def test_a_copy_is_its_own_and_gives_the_same(name, way):
    network, x = built(name), images()
    twin, before = way(network), kept(network)
    with torch.no_grad():
        assert torch.equal(twin(x), network(x))
        for parameter in twin.parameters():
            parameter.add_(1)
    assert_kept(network, before)


@every_new
def test_weights_go_from_one_network_to_another(name):
    network, x = built(name), images()
    other = BUILD[name](SMALL, 3).eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(other(x), network(x))


@pytest.mark.parametrize(
    ("name", "after", "size"),
    [("resnet18", "layer1", 4 * 8 * 8), ("resnet50", "layer3", 32 * 2 * 2), ("wideresnet", "group2", 32 * 4 * 4),
     ("alexnet", "conv3", 24 * 1 * 1), ("alexnet", "dense1", 256)],
)  # fmt: skip
def test_a_layer_can_be_tapped(name, after, size):
    network, x = built(name), images()
    tap, h = FeatureTap(network, after), x
    with torch.no_grad():
        for part, layer in network.named_children():
            h = layer(h)
            if part == after:
                break
    assert tap(x).shape == (4, size)
    assert torch.equal(tap(x), h.flatten(1))
    assert not any(part in where for where in tap.state_dict() for part in ("fc", "logits"))


@pytest.mark.parametrize("width", [1 / 64, 0.125, 0.3, 1.5])
def test_width_is_a_share_of_every_layer(width):
    with torch.device("meta"):
        basic, bottleneck, alexnet = resnet(18, MNIST, 5, width), resnet(50, MNIST, 5, width), AlexNet(MNIST, 5, width)
    for k in range(4):
        planes = round(64 * 2**k * width)
        assert basic[3 + k][-1].conv2.weight.shape == (planes, planes, 3, 3)
        assert bottleneck[3 + k][-1].conv3.weight.shape == (4 * planes, planes, 1, 1)
    assert basic.conv1.weight.shape == (round(64 * width), 1, 3, 3)
    sizes = [getattr(alexnet, f"conv{k}")[0].out_channels for k in range(1, 6)]
    assert sizes == [round(v * width) for v in (64, 192, 384, 256, 256)]
    assert alexnet.dense1[1].weight.shape == (round(4096 * width), 4 * sizes[-1])
    assert alexnet.logits.weight.shape == (5, round(4096 * width))


@pytest.mark.parametrize(
    ("build", "good", "bad"),
    [
        (resnet, {"depth": 18, "width": 1 / 64}, {"depth": 101, "width": 0}),
        (resnet, {"depth": 50, "width": 1 / 64}, {"depth": "18", "width": float("nan")}),
        (WideResNet, {"depth": 10, "widen": 1}, {"depth": 12, "widen": 0}),
        (WideResNet, {"depth": 10, "widen": 1}, {"depth": 4, "widen": 1.5}),
        (AlexNet, {"width": 1 / 64}, {"width": 1 / 65}),
    ],
)
def test_bad_arguments_are_named(build, good, bad):
    good = {"image_shape": SMALL, "classes": 3, **good}
    build(**good)
    for name, value in {"image_shape": (8, 8), "classes": 1, **bad}.items():
        with pytest.raises(ValueError, match=f"^{name} must"):
            build(**{**good, name: value})
    with pytest.raises(ValueError, match=r"^image_shape must"):
        build(**{**good, "image_shape": (0, 8, 8)})


# ---------------------------------------------------------------- without the last layer


@every
def test_features_times_the_removed_layer_are_the_logits(name):
    network, x = built(name), images()
    trunk, size = headless(network)
    last = [part for part in network.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        features = trunk(x)
        assert features.shape == (4, size)
        assert size == FEATURES[name] == last.in_features
        assert torch.equal(F.linear(features, last.weight, last.bias), network(x))


@every
@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was_and_its_trunk_is_trained(name, training):
    network, x = built(name).train(training), images()
    before, modes = kept(network), [part.training for part in network.modules()]
    trunk, _ = headless(network)
    assert [part.training for part in network.modules()] == modes
    assert all(part.training == training for part in trunk.modules())
    assert all(parameter.requires_grad for parameter in trunk.parameters())
    own = {id(value) for value in network.state_dict(keep_vars=True).values()}
    assert not own & {id(value) for value in trunk.state_dict(keep_vars=True).values()}
    if name != "logistic":  # which has nothing but its head
        trunk(x).square().sum().backward()
        assert all(parameter.grad is not None for parameter in trunk.parameters())
    with torch.no_grad():
        for value in trunk.state_dict().values():
            value.add_(1)
    assert_kept(network, before)
    assert all(parameter.grad is None for parameter in network.parameters())


@every
def test_a_trunk_has_all_weights_but_the_last_layers_and_can_be_copied(name):
    network, x = built(name), images()
    trunk, _ = headless(network)
    left = [where for where in network.state_dict() if where not in trunk.state_dict()]
    assert [where.split(".")[-1] for where in left] == ["weight", "bias"]
    other = headless({**BUILD, **OTHERS}[name](SMALL, 5))[0].eval()  # the number of classes is forgotten
    other.load_state_dict(trunk.state_dict())
    with torch.no_grad():
        assert torch.equal(other(x), trunk(x))
        assert torch.equal(copy.deepcopy(trunk)(x), trunk(x))


def test_layers_between_that_are_linear_stay():
    network = DenseNetwork(SMALL, 3, hidden=6)
    trunk, size = headless(network)
    assert (size, sum(isinstance(part, nn.Linear) for part in trunk.modules())) == (6, 2)


@pytest.mark.parametrize("bad", [nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten()), len, None])
def test_a_network_without_a_linear_layer_is_named(bad):
    with pytest.raises(ValueError, match=r"^network must"):
        headless(bad)


@pytest.mark.parametrize("grow", [(0, 0), (1, 1), (1, 0), (0, 1)])
@pytest.mark.parametrize("out", [1, 3])
@pytest.mark.parametrize("shape", [(4, 4), (7, 5), (1, 1), (1, 6)])
def test_a_subpixel_deconvolution_is_torchs_transposed_convolution(shape, out, grow):
    generator = torch.Generator().manual_seed(0)
    fast = SubpixelDeconvolution(6, out, grow).double()
    plain = nn.ConvTranspose2d(6, out, 5, 2, padding=2, output_padding=grow, bias=False).double()
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(2, 6, *shape, generator=generator, dtype=torch.float64)
    results = []
    for network in (fast, plain):
        given = x.clone().requires_grad_()
        made = network(given)
        seen = torch.randn(made.shape, generator=generator.manual_seed(1), dtype=torch.float64)
        results.append((made, *torch.autograd.grad((made * seen).sum(), (given, network.weight))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_subpixel_deconvolution_starts_from_torchs_weights():
    weights = []
    for make in (
        lambda: SubpixelDeconvolution(4, 1, (1, 1)),
        lambda: nn.ConvTranspose2d(4, 1, 5, 2, padding=2, output_padding=1, bias=False),
    ):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            weights.append(make().weight)
    assert torch.equal(*weights)
