"""CIFAR and MNIST prepared for TFDS: every pixel and label, and every kind of damage."""

import gzip
import hashlib
import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from flax_resnet.data.published import PUBLISHED
from flax_resnet.data.tfds import prepare
from flax_resnet.download import PublishedFile

ARCHIVES = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}
FOLDERS = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, cifar10, cifar100):
    """The name of a set and its synthetic files."""
    return request.param, {"cifar10": cifar10, "cifar100": cifar100}[request.param]


def pixels(example):
    return np.asarray(Image.open(io.BytesIO(example["image"])))


@pytest.mark.parametrize("form", ["archive", "folder", "folder above", "no name"])
def test_cifar_is_bit_equal(form, cifar, archive, place, read_back, tmp_path):
    name, files = cifar
    folder = FOLDERS[name]
    if form == "archive":
        source = tmp_path / ARCHIVES[name]
        source.write_bytes(archive(files, folder))
    elif form == "no name":  # recognized by content
        source = tmp_path / "download"
        source.write_bytes(gzip.decompress(archive(files, folder)))
    else:
        source = place(tmp_path / "above" / folder, files)
        source = source.parent if form == "folder above" else source
    prepare(name, source, tmp_path)
    label_bytes = 1 if name == "cifar10" else 2
    for split in ("train", "test"):
        contents = [files[file] for file in sorted(files)
                 if file.endswith(".bin") and ("test" in file) == (split == "test")]  # fmt: skip
        records = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, label_bytes + 3072)
        images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        examples = read_back(name, tmp_path, split)
        np.testing.assert_array_equal([pixels(example) for example in examples], images)
        labels = [int(example["label"]) for example in examples]
        assert labels == records[:, label_bytes - 1].tolist()
        if name == "cifar100":
            coarse = [int(example["coarse_label"]) for example in examples]
            assert coarse == records[:, 0].tolist()
        assert examples[3]["id"] == f"{split}_00003".encode()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("compressed", [True, False])
def test_idx_sets_are_bit_equal(
    name, compressed, idx_contents, place_idx, place, read_back, tmp_path
):
    if compressed:
        place_idx(tmp_path / "files", idx_contents)
    else:
        place(tmp_path / "files", {file.removesuffix(".gz"): content
                                   for file, content in idx_contents.items()})  # fmt: skip
    prepare(name, tmp_path / "files", tmp_path)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        examples = read_back(name, tmp_path, split)
        stored = np.frombuffer(idx_contents[f"{prefix}-images-idx3-ubyte.gz"][16:], np.uint8)
        np.testing.assert_array_equal(
            [pixels(example) for example in examples], stored.reshape(-1, 28, 28)
        )
        labels = idx_contents[f"{prefix}-labels-idx1-ubyte.gz"][8:]
        assert [int(example["label"]) for example in examples] == list(labels)


def test_classes_are_the_published_names(idx_contents, place_idx, tmp_path):
    import tensorflow_datasets as tfds

    place_idx(tmp_path / "files", idx_contents)
    prepare("fashion_mnist", tmp_path / "files", tmp_path)
    names = tfds.builder("fashion_mnist", data_dir=tmp_path).info.features["label"].names
    assert names[:3] == ["T-shirt/top", "Trouser", "Pullover"] and names[9] == "Ankle boot"


# --- Refused input ---------------------------------------------------------


def changed_cifar(files, archive, folder, damage):
    """The archive of the damaged set."""
    train = next(name for name in sorted(files) if "batch_1" in name or name == "train.bin")
    names = next(name for name in files if name in ("batches.meta.txt", "fine_label_names.txt"))
    whole = archive(files, folder)
    outside = io.BytesIO()
    with tarfile.open(fileobj=outside, mode="w:gz") as tar:
        info = tarfile.TarInfo("../" + train if damage == "leads out" else "/" + train)
        tar.addfile(info)
    return {
        "half": lambda: whole[: len(whole) // 2],
        "wrong crc": lambda: whole[:-8] + bytes(4) + whole[-4:],
        "half a record": lambda: archive(files | {train: files[train][:-7]}, folder),
        "label": lambda: archive(files | {train: b"\xfa" + files[train][1:]}, folder),
        "no batch": lambda: archive({n: c for n, c in files.items() if n != train}, folder),
        "few classes": lambda: archive(files | {names: b"one\ntwo\n"}, folder),
        "not it": lambda: archive({"readme.txt": b""}, folder),
        "page": lambda: b"<html>404</html>",
        "leads out": outside.getvalue,
        "absolute": outside.getvalue,
    }[damage]()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("half", "cut short"),
        ("wrong crc", "damaged or cut short"),
        ("half a record", "not a whole number of records"),
        ("label", "has label 250, expected 0.."),
        ("no batch", "lacks "),
        ("few classes", "has 2 class names, expected 10"),
        ("not it", "has no "),
        ("page", "is no tar archive"),
        ("leads out", "leads out of the archive by '..'"),
        ("absolute", "has an absolute path"),
    ],
)
def test_damaged_cifar_is_refused(damage, sentence, cifar, archive, refused, tmp_path):
    name, files = cifar
    path = tmp_path / ARCHIVES[name]
    path.write_bytes(changed_cifar(files, archive, FOLDERS[name], damage))
    message = refused(name, path, tmp_path)
    assert sentence in message and str(path) in message and "give " in message


def idx_bytes(count, *shape):
    return np.array([count, *shape], ">u4").tobytes()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"train-images-idx3-ubyte.gz": None}, "has no train-images-idx3-ubyte.gz"),
        ({"t10k-labels-idx1-ubyte.gz": b"<html>"}, "IDX magic is 3c68746d, expected 00000801"),
        (
            {"t10k-labels-idx1-ubyte.gz": b"\0\0\x08\x01" + idx_bytes(20) + bytes(19)},
            "announces 20 bytes of data, found 19",
        ),
        (
            {"t10k-labels-idx1-ubyte.gz": b"\0\0\x08\x01" + idx_bytes(20) + b"\x0a" * 20},
            "has label 10, expected 0..9",
        ),
        (
            {"t10k-labels-idx1-ubyte.gz": b"\0\0\x08\x01" + idx_bytes(19) + bytes(19)},
            "20 images but 19 labels",
        ),
        (
            {"train-images-idx3-ubyte.gz": b"\0\0\x08\x03" + idx_bytes(9, 32, 32) + bytes(9216)},
            "IDX dimensions are [9, 32, 32]",
        ),
    ],
)
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_damaged_idx_sets_are_refused(
    changed, sentence, name, idx_contents, place_idx, refused, tmp_path
):
    left = {file: c for file, c in (idx_contents | changed).items() if c is not None}
    place_idx(tmp_path / "files", left)
    message = refused(name, tmp_path / "files", tmp_path)
    assert sentence in message and str(tmp_path / "files") in message
    assert f"give the folder of the four files of {name}" in message


def test_an_idx_file_cut_short_in_its_gzip_is_refused(idx_contents, place_idx, refused, tmp_path):
    place_idx(tmp_path / "files", idx_contents)
    path = tmp_path / "files" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "the gzip data is cut short" in refused("mnist", tmp_path / "files", tmp_path)


def test_a_file_of_the_set_in_place_of_its_folder(idx_contents, place_idx, refused, tmp_path):
    place_idx(tmp_path / "files", idx_contents)
    path = tmp_path / "files" / "train-images-idx3-ubyte.gz"
    assert "give the folder of the four files" in refused("mnist", path, tmp_path)


def test_the_published_files_of_another_set_are_refused(
    idx_contents, place_idx, refused, tmp_path, monkeypatch
):
    """Fashion-MNIST and MNIST have equal file names, image sizes and numbers of classes."""
    place_idx(tmp_path / "files", idx_contents)
    files = sorted((tmp_path / "files").iterdir())
    published = []
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        published.append(PublishedFile(file.name, "http://x/", file.stat().st_size, digest))
    monkeypatch.setitem(PUBLISHED, "fashion_mnist", tuple(published))
    message = refused("mnist", tmp_path / "files", tmp_path)
    assert "of fashion_mnist, not of mnist: give the folder of its 4 files" in message


def test_a_partial_copy_is_prepared_and_the_difference_is_noted(
    cifar10_archive, read_back, tmp_path, console
):
    """The given file may have another checksum than the published one; a note reports it."""
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(cifar10_archive)
    prepare("cifar10", path, tmp_path, console)
    assert len(read_back("cifar10", tmp_path, "train")) == 200
    text = console.text()
    assert f"note: by checksum not the published files: {path}" in text
    assert "note: the published set has 50,000 train, 10,000 test images" in text
    assert "has 200 train, 40 test" in text
