"""Data sets: what is inside the package, what is read from files, and that nothing wrong ever loads."""

import gzip
import hashlib
import importlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from hybridgen_lib import data as module
from hybridgen_lib import recipes
from hybridgen_lib.data import NAMES, ImageData, as_float, load

full_data = pytest.mark.data
needs_root = pytest.mark.skipif(not os.environ.get("HYBRIDGEN_DATA"), reason="HYBRIDGEN_DATA is not set: no full data here")


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path, request):
    """No test sees this machine's data, cache or network, unless it asks for the full data."""
    monkeypatch.setenv("HYBRIDGEN_CACHE", str(tmp_path / "cache"))
    if "data" not in request.keywords:
        monkeypatch.delenv("HYBRIDGEN_DATA", raising=False)
        monkeypatch.setattr(module, "_DEBIAN", tmp_path / "no-debian")

        def no_network(*args, **kwargs):
            raise OSError("no network in tests")

        monkeypatch.setattr("socket.socket.connect", no_network)
        monkeypatch.setattr("socket.getaddrinfo", no_network)


# ---------------------------------------------------------------- fashion-mini


def test_fashion_mini_is_balanced_typed_and_pinned():
    data = load("fashion-mini")
    assert data.train_x.shape == (6000, 1, 28, 28)
    assert data.test_x.shape == (1000, 1, 28, 28)
    assert data.train_x.dtype == data.test_x.dtype == torch.uint8
    assert data.train_y.dtype == data.test_y.dtype == torch.int64
    assert torch.bincount(data.train_y).tolist() == [600] * 10
    assert torch.bincount(data.test_y).tolist() == [100] * 10
    assert torch.bincount(data.test_y[:50]).tolist() == [5] * 10  # any prefix is as balanced as it can be
    assert data.classes[0] == "T-shirt/top"
    assert data.classes[9] == "Ankle boot"
    assert data.checksum == "be25cc94c2e31863"
    assert "6,000 + 1,000" in repr(data)


def test_fashion_mini_images_differ_and_no_test_image_is_a_training_image():
    data = load("fashion-mini")
    train = {x.numpy().tobytes() for x in data.train_x}
    test = {x.numpy().tobytes() for x in data.test_x}
    assert len(train) > 5990
    assert len(test) > 995
    assert len(train & test) <= 1  # Fashion-MNIST itself repeats a few images across its splits


def test_fashion_mini_loads_without_torchvision_network_or_data_root():
    code = "import sys; from hybridgen_lib.data import load; load('fashion-mini'); sys.exit('torchvision' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if k != "HYBRIDGEN_DATA"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_a_damaged_fashion_mini_is_named(monkeypatch):
    monkeypatch.setattr(module, "_MINI_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"fashion_mini.npz is not the official file"):
        load("fashion-mini")


def test_the_licence_and_the_script_lie_beside_the_images():
    folder = Path(module.__file__).parent
    assert "Zalando SE" in (folder / "LICENSE-fashion-mnist.txt").read_text()
    assert (folder / "fashion_mini.npz").stat().st_size < 4e6
    script = importlib.import_module("hybridgen_lib.data.cut_fashion_mini")
    labels = np.arange(20000) % 10
    index = script.chosen(labels, "test")
    assert len(set(index.tolist())) == 1000
    assert (labels[index] == np.arange(1000) % 10).all()
    assert (script.chosen(labels, "train")[:1000] != index).any()


@full_data
@needs_root
def test_fashion_mini_is_cut_from_the_official_files():
    full, mini = load("fashion-mnist"), load("fashion-mini")
    script = importlib.import_module("hybridgen_lib.data.cut_fashion_mini")
    assert torch.equal(full.train_x[script.chosen(full.train_y, "train")], mini.train_x)
    index = script.chosen(full.test_y, "test")
    assert torch.equal(full.test_x[index], mini.test_x)
    assert torch.equal(full.test_y[index], mini.test_y)


# ---------------------------------------------------------------- full data sets


@full_data
@needs_root
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_official_28x28_data_is_torchvisions(name):
    from torchvision import datasets

    data = load(name)
    kind = datasets.MNIST if name == "mnist" else datasets.FashionMNIST
    official = kind(os.environ["HYBRIDGEN_DATA"], train=False)
    assert data.train_x.shape == (60000, 1, 28, 28)
    assert torch.equal(data.test_x[:, 0], official.data)
    assert torch.equal(data.test_y, official.targets)


@full_data
@needs_root
def test_cifar10_jpeg_is_read_from_its_archive_and_cached(tmp_path):
    if not (Path(os.environ["HYBRIDGEN_DATA"]) / "cifar10-jpeg.tar.gz").exists():
        pytest.skip("no cifar10-jpeg.tar.gz under HYBRIDGEN_DATA")
    data = load("cifar10-jpeg")
    assert data.train_x.shape == (50000, 3, 32, 32)
    assert torch.bincount(data.test_y).tolist() == [1000] * 10
    assert data.classes[:3] == ("airplane", "automobile", "bird")
    assert load("cifar10-jpeg").checksum == data.checksum  # the second time from the cache
    assert len(list((tmp_path / "cache" / "data").glob("folder-*.npz"))) == 1


# ---------------------------------------------------------------- names, roots, missing data


@pytest.mark.parametrize("name", ["fashion", "MNIST", "", None, 3, "folder", "tiny-imagenet-64"])
def test_an_unknown_name_is_refused_with_the_list(name):
    with pytest.raises(ValueError, match="name must be one of fashion-mini, mnist"):
        load(name)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "fashion-mini"])
def test_missing_data_says_what_was_tried_and_how_to_go_on(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="HYBRIDGEN_DATA=<folder>") as caught:
        load(name, root=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert name in str(caught.value)


def test_a_root_that_is_no_folder_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="root must name a folder"):
        load("mnist", root=tmp_path / "nowhere")
    monkeypatch.setenv("HYBRIDGEN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="HYBRIDGEN_DATA must name a folder"):
        load("mnist")


def test_folder_needs_a_path_that_exists():
    for name in ("folder:", "folder:/no/such/place"):
        with pytest.raises(FileNotFoundError, match="no folder or archive"):
            load(name)


# ---------------------------------------------------------------- IDX files


def write_idx(place: Path, monkeypatch, name="mnist", packed=False) -> None:
    """Four tiny files in the layout of MNIST, with their true checksums made the official ones."""
    place.mkdir(parents=True)
    generator = np.random.default_rng(0)
    sums = []
    for file, count in zip(module._IDX_FILES, (20, 20, 10, 10), strict=True):
        shape, head = ((count, 28, 28), 16) if "images" in file else ((count,), 8)
        content = bytes(head) + generator.integers(0, 10, shape, dtype=np.uint8).tobytes()
        sums.append(hashlib.md5(content).hexdigest())
        path = place / (file + ".gz" if packed else file)
        path.write_bytes(gzip.compress(content) if packed else content)
    folder, kind, classes, _ = module._IDX[name]
    monkeypatch.setitem(module._IDX, name, (folder, kind, classes, tuple(sums)))


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_packed_or_not(tmp_path, monkeypatch, packed):
    write_idx(tmp_path / "MNIST/raw", monkeypatch, packed=packed)
    data = load("mnist", root=tmp_path)
    assert data.train_x.shape == (20, 1, 28, 28)
    assert data.test_y.shape == (10,)
    raw = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    content = gzip.decompress(Path(f"{raw}.gz").read_bytes()) if packed else raw.read_bytes()
    assert data.test_y.tolist() == list(content[8:])


def test_debians_package_is_used_when_no_root_has_the_data(tmp_path, monkeypatch):
    write_idx(tmp_path / "debian", monkeypatch, "fashion-mnist", packed=True)
    monkeypatch.setattr(module, "_DEBIAN", tmp_path / "debian")
    assert len(load("fashion-mnist").train_x) == 20


def test_an_explicit_root_goes_before_the_environment(tmp_path, monkeypatch):
    write_idx(tmp_path / "a/MNIST/raw", monkeypatch)
    (tmp_path / "b/MNIST/raw").mkdir(parents=True)
    monkeypatch.setenv("HYBRIDGEN_DATA", str(tmp_path / "b"))
    assert len(load("mnist", root=tmp_path / "a").train_x) == 20
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte is missing"):
        load("mnist")  # an incomplete folder is an error, not a reason to look further


@pytest.mark.parametrize("file", module._IDX_FILES)
@pytest.mark.parametrize("harm", ["truncated", "changed", "swapped", "missing", "bad gzip"])
def test_a_bad_idx_file_is_named(tmp_path, monkeypatch, file, harm):
    place = tmp_path / "MNIST/raw"
    write_idx(place, monkeypatch, packed=harm == "bad gzip")
    path = place / (file + ".gz" if harm == "bad gzip" else file)
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "swapped":
        path.write_bytes((place / module._IDX_FILES[module._IDX_FILES.index(file) - 2]).read_bytes())
    else:
        path.write_bytes({"truncated": content[:-1], "changed": content[:-1] + b"\xff", "bad gzip": content[:-9]}[harm])
    with pytest.raises((ValueError, FileNotFoundError), match=file):
        load("mnist", root=tmp_path)


def fake_download(tmp_path, monkeypatch, fails=False):
    """torchvision's MNIST replaced by one that "downloads" four tiny files, or breaks off after the first."""
    from torchvision import datasets

    write_idx(tmp_path / "mirror", monkeypatch)
    calls = []

    def download(root, download):
        calls.append(root)
        raw = Path(root) / "MNIST/raw"
        raw.mkdir(parents=True)
        for file in module._IDX_FILES:
            (raw / file).write_bytes((tmp_path / "mirror" / file).read_bytes())
            if fails:
                raise OSError("connection lost")

    monkeypatch.setattr(datasets, "MNIST", download)
    return calls


def test_a_download_is_the_last_resort_and_happens_once(tmp_path, monkeypatch):
    calls = fake_download(tmp_path, monkeypatch)
    assert len(load("mnist").train_x) == 20
    assert len(load("mnist").train_x) == 20
    assert len(calls) == 1
    (tmp_path / "mine").mkdir()
    write_idx(tmp_path / "mine/MNIST/raw", monkeypatch)
    load("mnist", root=tmp_path / "mine")
    assert len(calls) == 1


def test_a_broken_download_leaves_nothing_behind(tmp_path, monkeypatch):
    fake_download(tmp_path, monkeypatch, fails=True)
    with pytest.raises(FileNotFoundError, match="connection lost"):
        load("mnist")
    assert not list((tmp_path / "cache/data").iterdir())


# ---------------------------------------------------------------- CIFAR


def write_cifar(root: Path, monkeypatch, name: str, classes: int = 10) -> Path:
    """The official pickles of CIFAR in miniature, an image a class in each, their true checksums made the official ones."""
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    place = root / kind.base_folder
    place.mkdir(parents=True)
    names = [f"class {i}" for i in range(classes)]
    label = "labels" if name == "cifar10" else "fine_labels"

    def save(file, content):
        (place / file).write_bytes(pickle.dumps(content))
        return hashlib.md5((place / file).read_bytes()).hexdigest()

    generator = np.random.default_rng(0)
    for part in ("train_list", "test_list"):
        batches = []
        for file, _ in getattr(kind, part):
            images = generator.integers(0, 256, (classes, 3072), dtype=np.uint8)
            batches.append([file, save(file, {"data": images, label: list(range(classes))})])
        monkeypatch.setattr(kind, part, batches)
    meta = dict(kind.meta)
    meta["md5"] = save(meta["filename"], {meta["key"]: names})
    monkeypatch.setattr(kind, "meta", meta)
    return place


@pytest.mark.parametrize(("name", "batches"), [("cifar10", 5), ("cifar100", 1)])
def test_cifar_is_read_from_the_official_layout(tmp_path, monkeypatch, name, batches):
    place = write_cifar(tmp_path, monkeypatch, name)
    data = load(name, root=tmp_path)
    assert data.train_x.shape == (10 * batches, 3, 32, 32)
    assert data.test_y.tolist() == list(range(10))
    first = pickle.loads((place / ("test_batch" if name == "cifar10" else "test")).read_bytes())
    assert torch.equal(data.test_x[3].reshape(-1), torch.from_numpy(first["data"][3]))
    assert data.classes[9] == "class 9"


def test_a_head_learns_the_hundred_classes_of_cifar100(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, "cifar100", classes=100)
    images = load("cifar100", root=tmp_path)
    assert images.test_y.tolist() == list(range(100))
    assert images.classes[99] == "class 99"
    small = {"width": 1 / 32, "hidden": 8, "code": 2, "manipulation": 2, "samples": 2, "epochs": 1}
    model = recipes.trained("hybrid-shallow", "cifar100", root=tmp_path, **small)
    with safe_open(recipes.cache_path("hybrid-shallow", images, **small), framework="pt") as file:
        note = json.loads(file.metadata()["note"])
    assert (note["data"], note["settings"]["backbone"], note["settings"]["after"]) == ("cifar100", "vgg16", "conv12")
    with torch.no_grad():
        scores = model(as_float(images.test_x[:5]))
    assert scores.shape == (5, 100)
    assert scores.isfinite().all()
    assert len(recipes.clean_outcomes("hybrid-shallow", images, **small).clean) == 100


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_changed_cifar_file_is_named_before_it_is_unpickled(tmp_path, monkeypatch, name):
    place = write_cifar(tmp_path, monkeypatch, name)
    bad = place / ("data_batch_3" if name == "cifar10" else "train")
    bad.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "harm").encode() + b"'\ntR.")
    with pytest.raises(ValueError, match=bad.name):
        load(name, root=tmp_path)
    assert not (tmp_path / "harm").exists()


# ---------------------------------------------------------------- folders and archives


def png(value: int, size=(4, 5), mode="L") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, value if mode in ("L", "P", "I;16") else (value, 2, 3)).save(out, "PNG")
    return out.getvalue()


TREE = {
    "train/cat/0.png": png(1),
    "train/cat/1.png": png(2),
    "train/ant/0.png": png(3),
    "test/cat/0.png": png(4),
    "test/ant/x.PNG": png(5),
    "train/ant/notes.txt": b"not an image",
    "words.txt": b"beside the splits",
    "train/.DS_Store": b"junk",
}


def write(path: Path, tree: dict[str, bytes], prefix: str = "") -> Path:
    """The tree as a folder, a tar (any compression) or a zip, by the ending of the path."""
    tree = {prefix + name: content for name, content in tree.items()}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in tree.items():
                archive.writestr(name, content)
    elif ".tar" in path.name:
        with tarfile.open(path, f"w:{path.suffix[1:].replace('tar', '')}") as archive:
            for name, content in tree.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    else:
        for name, content in tree.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("prefix", ["", "./", "set/"])
@pytest.mark.parametrize("kind", ["plain", "a.tar", "a.tar.gz", "a.tar.xz", "a.zip"])
def test_folder_and_archives_of_it_read_the_same(tmp_path, kind, prefix):
    if kind == "a.zip" and prefix == "./":
        pytest.skip("zip names have no leading ./")
    data = load(f"folder:{write(tmp_path / kind, TREE, prefix)}")
    assert data.classes == ("ant", "cat")
    assert data.train_x.shape == (3, 1, 5, 4)
    assert pairs(data.train_x, data.train_y) == [(1, 1), (2, 1), (3, 0)]
    assert pairs(data.test_x, data.test_y) == [(4, 1), (5, 0)]


def pairs(x, y) -> list[tuple[int, int]]:
    """The first pixel of every image and its label, whatever their order."""
    return sorted(zip(x[:, 0, 0, 0].tolist(), y.tolist(), strict=True))


def test_images_of_a_folder_come_mixed_and_always_in_one_order(tmp_path):
    tree = {f"{part}/{name}/{i}.png": png(i) for part in ("train", "test") for name in ("ant", "cat") for i in range(40)}
    data, again = (load(f"folder:{write(tmp_path / kind, tree)}") for kind in ("plain", "a.zip"))
    assert data.checksum == again.checksum
    for y in (data.train_y, data.test_y):
        assert 8 < y[:40].sum() < 32  # by file name the first forty would all be ants


def test_val_serves_as_test_and_one_colour_image_makes_all_colour(tmp_path):
    tree = {n.replace("test/", "val/"): c for n, c in TREE.items()} | {"train/cat/9.png": png(9, mode="RGB")}
    data = load(f"folder:{write(tmp_path / 'a', tree)}")
    assert data.train_x.shape == (4, 3, 5, 4)
    colours = data.train_x[:, :, 0, 0].tolist()
    assert sorted(colours) == [[1, 1, 1], [2, 2, 2], [3, 3, 3], [9, 2, 3]]


def test_the_cache_follows_the_contents_not_the_path_or_the_clock(tmp_path):
    path = write(tmp_path / "a", TREE)
    before = load(f"folder:{path}")
    stamp = (path / "train/cat/0.png").stat()
    (path / "train/cat/0.png").write_bytes(png(77))
    os.utime(path / "train/cat/0.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = load(f"folder:{path}")
    assert pairs(after.train_x, after.train_y) == [(2, 1), (3, 0), (77, 1)]
    assert before.checksum != after.checksum
    (path / "train/cat/0.png").write_bytes(png(1))
    assert load(f"folder:{path}").checksum == before.checksum


@pytest.mark.parametrize("harm", [b"", b"rubbish", None])
def test_a_damaged_cache_is_decoded_anew(tmp_path, harm):
    name = f"folder:{write(tmp_path / 'a.zip', TREE)}"
    before = load(name)
    (cached,) = (tmp_path / "cache" / "data").iterdir()
    cached.write_bytes(cached.read_bytes()[:-40] if harm is None else harm)
    assert load(name).checksum == before.checksum
    assert cached.stat().st_size > 100


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.zip"])
@pytest.mark.parametrize("keep", [0.0, 0.2, 0.5, 0.8, 0.95])
def test_a_truncated_archive_never_loads(tmp_path, kind, keep):
    path = write(tmp_path / kind, TREE)
    content = path.read_bytes()
    if kind == "a.tar":  # the padding at the end holds nothing: cut the members, also exactly between two of them
        content = content[: 1024 * len(TREE)]
        path.write_bytes(content[: int(len(content) * keep) // 1024 * 1024])
    else:
        path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=str(path)):
        load(f"folder:{path}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train/cat/0.png": TREE["train/cat/0.png"][:40]}, "train/cat/0.png cannot be decoded"),
        ({"train/cat/0.png": b""}, "train/cat/0.png cannot be decoded"),
        ({"train/cat/0.png": png(1, size=(6, 6))}, "one size"),
        ({"train/cat/deep.bin": b"?"}, "deep.bin is no image in a class folder"),
        ({"train/loose.png": png(1)}, "loose.png is no image in a class folder"),
        ({"test/dog/0.png": png(1)}, "same classes; dog"),
        ({"train/dog/0.png": png(1)}, "same classes; dog"),
        ({"old/train/cat/0.png": png(1)}, "more than one data set"),
        ({"train/cat/0.png": png(700, mode="I;16")}, "8 bit"),
    ],
)
def test_what_does_not_belong_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load(f"folder:{write(tmp_path / 'a', TREE | change)}")


@pytest.mark.parametrize("drop", ["train", "test", ""])
def test_a_folder_without_a_split_is_refused(tmp_path, drop):
    path = tmp_path / "a"
    path.mkdir()
    write(path, {n: c for n, c in TREE.items() if drop and not n.startswith(drop)})
    with pytest.raises(ValueError, match="same classes"):
        load(f"folder:{path}")


def test_a_link_to_nothing_in_a_tar_is_an_error(tmp_path):
    path = write(tmp_path / "a.tar", TREE)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("train/cat/7.png")
        link.type, link.linkname = tarfile.SYMTYPE, "nowhere.png"
        archive.addfile(link)
    with pytest.raises(ValueError, match=r"train/cat/7.png is a link"):
        load(f"folder:{path}")


# ---------------------------------------------------------------- Tiny-ImageNet's official layout, and counts


def tiny_tree(**changes) -> dict[str, bytes]:
    tree = {f"train/n{c}/images/n{c}_{i}.JPEG": png(10 * c + i) for c in (1, 2) for i in range(3)}
    tree |= {f"train/n{c}/n{c}_boxes.txt": b"0\t0" for c in (1, 2)}
    tree |= {f"val/images/val_{i}.JPEG": png(90 + i) for i in range(4)}
    tree["val/val_annotations.txt"] = b"".join(f"val_{i}.JPEG\tn{2 - i % 2}\t0\t0\t9\t9\n".encode() for i in range(4))
    tree["test/images/test_0.JPEG"] = png(0)  # the official test images have no labels and are left alone
    return tree | changes


@pytest.mark.parametrize("file", ["tiny-imagenet-200", "tiny-imagenet-200.zip"])
def test_tiny_imagenets_official_layout(tmp_path, monkeypatch, file):
    entry = module._FOLDERS["tiny-imagenet"]
    monkeypatch.setitem(module._FOLDERS, "tiny-imagenet", (entry[0], (2, 3, 2), (1, 5, 4), None, "source"))
    write(tmp_path / file, tiny_tree(), prefix="tiny-imagenet-200/" if file.endswith("zip") else "")
    data = load("tiny-imagenet", root=tmp_path)
    assert data.classes == ("n1", "n2")
    assert sorted(data.train_y.tolist()) == [0, 0, 0, 1, 1, 1]
    assert pairs(data.test_x, data.test_y) == [(90, 1), (91, 0), (92, 1), (93, 0)]


def test_tiny_imagenet_with_an_unlabelled_or_missing_validation_image_is_refused(tmp_path):
    for i, extra in enumerate(({"val/images/val_9.JPEG": png(1)}, {"val/val_annotations.txt": tiny_tree()["val/val_annotations.txt"] * 1 + b"val_8.JPEG\tn1\n"})):  # fmt: skip  # noqa: E501
        with pytest.raises(ValueError, match="val_annotations"):
            load(f"folder:{write(tmp_path / str(i), tiny_tree(**extra))}")


def test_a_count_or_shape_that_is_off_is_an_error(tmp_path, monkeypatch):
    write(tmp_path / "tiny-imagenet-200", tiny_tree())
    with pytest.raises(ValueError, match=r"tiny-imagenet-200 is not tiny-imagenet: its train split must hold 200 classes"):
        load("tiny-imagenet", root=tmp_path)
    entry = module._FOLDERS["tiny-imagenet"]
    for counts, shape, message in [((2, 4, 2), (1, 5, 4), "of 4 images"), ((2, 3, 2), (3, 64, 64), "images must be")]:
        monkeypatch.setitem(module._FOLDERS, "tiny-imagenet", (entry[0], counts, shape, None, "source"))
        with pytest.raises(ValueError, match=message):
            load("tiny-imagenet", root=tmp_path)


def test_another_archive_under_a_known_name_is_refused(tmp_path):
    write(tmp_path / "cifar10-jpeg.tar.gz", TREE)
    with pytest.raises(ValueError, match="is not cifar10-jpeg: expected sha256"):
        load("cifar10-jpeg", root=tmp_path)


# ---------------------------------------------------------------- ImageData, as_float


def parts(**changes):
    x, y = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0])
    return {"train_x": x, "train_y": y, "test_x": x, "test_y": y, "classes": ("a", "b"), "name": "toy"} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_x": torch.zeros(3, 1, 2, 2)}, "train_x must be uint8"),
        ({"test_x": torch.zeros(3, 2, 2, dtype=torch.uint8)}, "test_x must be uint8"),
        ({"test_x": torch.zeros(3, 1, 4, 4, dtype=torch.uint8)}, "image shape of train_x"),
        ({"train_y": torch.tensor([0, 1, 2])}, "train_y must be in 0..1"),
        ({"test_y": torch.tensor([0, 1])}, "one label per image"),
        ({"test_y": torch.tensor([0.0, 1.0, 0.0])}, "integer"),
    ],
)
def test_image_data_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        ImageData(**parts(**changes))


def test_the_checksum_sees_every_part_and_not_the_name():
    one = ImageData(**parts())
    assert one.checksum == ImageData(**parts(name="other")).checksum
    x, y = parts()["test_x"].clone(), parts()["test_y"].clone()
    x[2, 0, 1, 1], y[2] = 1, 1
    others = [parts(test_x=x), parts(train_x=x), parts(test_y=y), parts(classes=("a", "c"))]
    assert len({one.checksum, *(ImageData(**o).checksum for o in others)}) == 5


def test_as_float_divides_by_255_and_refuses_the_rest():
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    out = as_float(x)
    assert out.dtype == torch.float32
    assert (out.min(), out.max()) == (0, 1)
    torch.testing.assert_close(out.flatten() * 255, torch.arange(256.0))
    for bad in (out, x.long(), x.numpy(), None):
        with pytest.raises(ValueError, match="x must be a uint8 tensor"):
            as_float(bad)
