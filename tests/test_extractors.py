"""Extractors: names that tell networks apart, our layers, and Inception against torch-fidelity with one file of weights."""

import copy
import hashlib
import socket
import sys
import urllib.request

import pytest
import torch
import torch.nn.functional as F
from fixtures_models import Constant, Noisy, images, small_cnn
from torch import nn

from hybridgen_lib.classifier import frozen_noise
from hybridgen_lib.explain import extractors
from hybridgen_lib.explain.extractors import (
    Extractor,
    distance_name,
    extract,
    frechet_between,
    inception,
    network_extractor,
)
from hybridgen_lib.explain.frechet import frechet_distance
from hybridgen_lib.models.backbones import resnet


def tiny_resnet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet(18, (1, 28, 28), 10, width=1 / 16)
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-0.1, 0.1)
                part.running_var.uniform_(0.5, 1.5)
    return model


# ---------------------------------------------------------------- any network


def test_a_layer_that_gives_a_map_is_averaged_over_places():
    model, (x, _) = tiny_resnet().eval(), images(6)
    maps = []
    hook = model.layer2.register_forward_hook(lambda *args: maps.append(args[2]))
    with torch.no_grad():
        model(x)
    hook.remove()
    features = extract(network_extractor(model, "layer2", "tiny"), x)
    torch.testing.assert_close(features, maps[0].mean((2, 3)))
    flat = extract(network_extractor(model, "flat", "tiny"), x)
    torch.testing.assert_close(flat, extract(network_extractor(model, "avgpool", "tiny"), x))


@pytest.mark.parametrize(
    "of", [lambda model: network_extractor(model, "layer3", "tiny"), lambda model: Extractor(model, "tiny")]
)
def test_extracting_leaves_no_trace_and_does_not_depend_on_the_batches(of):
    model, (x, _) = tiny_resnet().train(), images(10)
    model.conv1.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    wanted = [p.requires_grad for p in model.parameters()]
    state = torch.get_rng_state()
    extractor = of(model).train()
    first = extract(extractor, x, examples_per_pass=3)
    assert not first.requires_grad
    torch.testing.assert_close(first, extract(extractor, x))
    torch.testing.assert_close(first, extract(copy.deepcopy(extractor), x))  # torch.fx copies come out in training mode
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    torch.testing.assert_close(first, extract(extractor, x))  # a copy: what becomes of the model is no matter


def test_gradients_flow_to_the_image():
    x = images(2)[0].clone().requires_grad_()
    extractor = Extractor(tiny_resnet(), "tiny")
    extractor(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in extractor.parameters())


def test_a_distance_comes_with_its_name_and_is_that_of_the_features():
    extractor, (x, _) = network_extractor(small_cnn(), "3", "a small cnn"), images(200)
    far = frechet_between(extractor, x[:100], 1 - x[100:], examples_per_pass=33)
    near = frechet_between(extractor, x[:100], x[100:])
    assert far.name == distance_name(extractor) == "Fréchet distance in a small cnn features"
    assert distance_name(extractor, kernel=True) == "Kernel distance in a small cnn features"
    assert str(far) == f"{far.name}: {far.value:.4g}"
    assert far.value == pytest.approx(frechet_distance(extract(extractor, x[:100]), extract(extractor, 1 - x[100:])), rel=1e-6)
    assert far.value > 5 * near.value > 0


# ---------------------------------------------------------------- Inception


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """A file that both we and torch-fidelity can load: Inception with random weights that keep its signal alive."""
    from torchvision.models import Inception3

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
        for part in network.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-0.2, 0.2)
                part.running_var.uniform_(0.8, 1.2)
    path = tmp_path_factory.mktemp("weights") / extractors.FID_FILES[0]
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def called_official(random_weights, monkeypatch):
    """The random file passes for the official one."""
    monkeypatch.setattr(extractors, "FID_SHA256", hashlib.sha256(random_weights.read_bytes()).hexdigest()[:8])
    return random_weights


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 20, 41)])
def test_inception_is_torch_fidelitys(shape, called_official):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    layers = ["192", "2048"]
    peer = FeatureExtractorInceptionV3("inception", layers, feature_extractor_weights_path=str(called_official))
    x = torch.randint(0, 256, (2, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        want = peer(x)
    for layer, features in zip(layers, want, strict=True):
        mine = extract(inception(called_official, int(layer)), x / 255)
        assert mine.shape == (2, int(layer))
        assert features.std() > 1e-2  # a signal, not a constant
        assert (features[0] - features[1]).abs().max() > 1e-2
        torch.testing.assert_close(mine, features, rtol=1e-4, atol=1e-4 * features.abs().max().item())


def test_the_networks_pools_matter(called_official):
    """Without them the parity above would pass for torchvision's network: the features would then be others."""
    from torchvision.models import Inception3

    plain = Inception3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    plain.load_state_dict(torch.load(called_official, weights_only=True))
    plain.fc = nn.Identity()
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    extractor = inception(called_official)
    with torch.no_grad():
        theirs = plain((255 * extractors._resized_from_the_corner(x, 299) - 128) / 128)
    assert (extract(extractor, x) - theirs).abs().max() > 1e-2 * theirs.abs().max()


def test_names_tell_the_inceptions_apart(called_official, monkeypatch):
    fid, middle = inception(called_official), inception(called_official, 192)
    assert distance_name(fid) == "FID"
    assert distance_name(fid, kernel=True) == "KID"
    assert distance_name(middle) == "Fréchet distance in TensorFlow Inception-192 features"
    monkeypatch.setattr(extractors, "_torchvision_network", lambda: torchvision_inception(called_official))
    other = inception("torchvision")
    assert distance_name(other) == "Fréchet distance in torchvision Inception-2048 features"
    assert distance_name(inception("torchvision", 192)) == "Fréchet distance in torchvision Inception-192 features"
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    grey, colour = extract(other, x), extract(other, x.expand(-1, 3, -1, -1))
    assert torch.equal(grey, colour)  # a grey image is three equal channels
    assert grey.shape == (2, 2048)
    plain = torchvision_inception(called_official)
    plain.fc = nn.Identity()
    with torch.no_grad():
        want = plain(2 * F.interpolate(x.expand(-1, 3, -1, -1), (299, 299), mode="bilinear") - 1)
    torch.testing.assert_close(grey, want, rtol=1e-4, atol=1e-4)
    assert (grey - extract(fid, x)).abs().max() > 1e-2  # one file of weights, two networks
    twin = copy.deepcopy(fid)
    assert distance_name(twin) == "FID"
    torch.testing.assert_close(extract(twin, x), extract(fid, x))


def torchvision_inception(path):
    from torchvision.models import Inception3

    network = Inception3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network


def test_weights_are_found_where_the_other_libraries_put_them(called_official, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / extractors.FID_FILES[1]).symlink_to(called_official)
    assert distance_name(inception("fid")) == "FID"


def test_other_weights_never_pass_for_the_fid_weights(random_weights):
    with pytest.raises(ValueError, match=r"6726825d\.pth does not hold the FID weights: .* must start with 6726825d"):
        inception(random_weights)


def test_nothing_there_says_what_was_tried_and_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        inception()
    for words in (str(tmp_path), *extractors.FID_FILES, "github.com/mseitzer", "torchvision", "network_extractor"):
        assert words in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"there is no /nowhere/at\.pth\. Get"):
        inception("/nowhere/at.pth")


def test_offline_torchvision_is_an_error_with_advice_and_does_not_wait_for_ever(tmp_path, monkeypatch):
    waits = []

    def offline(*args, **kwargs):
        waits.append(socket.getdefaulttimeout())
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(sys.modules["torch.hub"], "urlopen", offline)
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    before = socket.getdefaulttimeout()
    with pytest.raises(FileNotFoundError, match=r"could not be read or downloaded .*no route to host.* network_extractor"):
        inception("torchvision")
    assert waits == [extractors.SECONDS]
    assert socket.getdefaulttimeout() == before


@pytest.mark.parametrize(("side", "size"), [(299, 28), (299, 32), (7, 7), (5, 9), (4, 1)])
def test_resizing_from_the_corner_is_torch_fidelitys(side, size):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as peer

    x = torch.rand(2, 3, size, size + 3, generator=torch.Generator().manual_seed(0))
    mine = extractors._resized_from_the_corner(x, side)
    torch.testing.assert_close(mine, peer(x, (side, side), align_corners=False), rtol=0, atol=2e-5)
    if side > size > 1:  # and not the resize of most libraries
        assert (mine - F.interpolate(x, (side, side), mode="bilinear")).abs().max() > 0.1


# ---------------------------------------------------------------- bad input

X = torch.zeros(3, 1, 8, 8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Extractor("network", "a"), "network must be a torch.nn.Module"),
        (lambda: Extractor(Noisy(Constant()), "a"), "network must be a fixed function"),
        (lambda: Extractor(Constant(), ""), "name must say which network"),
        (lambda: Extractor(Constant(), None), "name must say which network"),
        (lambda: Extractor(Constant(), "FID"), "FID is one of its own"),
        (lambda: Extractor(nn.Flatten(0), "a")(X), r"network must return \(B, F\)"),
        (lambda: network_extractor(tiny_resnet(), "nothing", "a"), "after must name a module"),
        (lambda: distance_name(nn.Flatten()), "extractor must have a name"),
        (lambda: extract(Extractor(nn.Flatten(), "a"), 2 + X), r"images must lie in \[0, 1\]"),
        (lambda: extract(Extractor(nn.Flatten(), "a"), X, 0), "examples_per_pass must be"),
        (lambda: frechet_between(Extractor(nn.Flatten(), "a"), X, X[:1]), "others must be at least 2 images, got 1"),
        (lambda: inception(layer=768), "layer must be one of 192, 2048; got 768"),
    ],
)
def test_bad_input_names_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_network_whose_noise_is_frozen_is_still_refused():
    """A copy of it would draw again."""
    noisy = Noisy(Constant())
    with frozen_noise(noisy, 0), pytest.raises(ValueError, match="network must be a fixed function"):
        Extractor(noisy, "a")


def test_inception_wants_one_or_three_channels(called_official):
    with pytest.raises(ValueError, match="x must have 1 or 3 channels"):
        extract(inception(called_official, 192), torch.zeros(1, 2, 8, 8))


def test_an_extractor_in_training_mode_is_asked_in_evaluation_mode():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten()).train()
    x = images(8)[0]
    together = extract(network, x)
    torch.testing.assert_close(torch.cat([extract(network, part) for part in x.split(3)]), together)
    assert network[0].running_mean.item() == 0
    assert network.training
