"""The real CIFAR-10 and MNIST, prepared; TFDS reads back every pixel and label.

The originals are read here with the standard library and NumPy only.
"""

import gzip
import sys
import tarfile

import numpy as np
import pytest

from flax_resnet.data.tfds import prepare


def assert_read_back(name, data_dir, split, images, labels):
    """``tfds.data_source`` has exactly ``images`` ``[N, H, W, C]`` and ``labels`` ``[N]``."""
    import tensorflow_datasets as tfds

    source = tfds.data_source(name, data_dir=data_dir, split=split)
    assert len(source) == len(images) == len(labels)
    for start in range(0, len(images), 1000):
        rows = range(start, min(start + 1000, len(images)))
        examples = source.__getitems__(list(rows))
        stored = np.stack([example["image"] for example in examples])
        assert stored.dtype == np.uint8
        np.testing.assert_array_equal(stored, images[rows.start : rows.stop])
        assert [example["label"] for example in examples] == labels[rows.start : rows.stop].tolist()
    assert "tensorflow" not in sys.modules


def names_of(name, data_dir):
    import tensorflow_datasets as tfds

    return tfds.builder(name, data_dir=data_dir).info.features["label"].names


@pytest.mark.slow
def test_all_of_cifar10(real_data, tmp_path, console):
    archive = real_data("cifar-10-binary.tar.gz") / "cifar-10-binary.tar.gz"
    prepare("cifar10", archive, tmp_path, console)
    with tarfile.open(archive) as tar:
        files = {
            member.name.rpartition("/")[2]: tar.extractfile(member).read()
            for member in tar
            if member.isfile()
        }
    batches = {"train": [f"data_batch_{n}.bin" for n in range(1, 6)], "test": ["test_batch.bin"]}
    for split, names in batches.items():
        records = np.frombuffer(b"".join(files[name] for name in names), np.uint8)
        records = records.reshape(-1, 3073)
        images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        assert_read_back("cifar10", tmp_path, split, images, records[:, 0])
    assert names_of("cifar10", tmp_path) == files["batches.meta.txt"].decode().split()
    # The copy's test batch is shortened to 1,000 records, so it is not the published file.
    text = console.text()
    assert "cifar10 is prepared" in text and "50,000 train, 1,000 test images" in text
    assert f"by checksum not the published files: {archive}" in text


@pytest.mark.slow
def test_all_of_mnist(real_data, tmp_path):
    folder = real_data("mnist") / "mnist"
    prepare("mnist", folder, tmp_path)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        pixels = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:]
        images = np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28, 1)
        assert_read_back("mnist", tmp_path, split, images, np.frombuffer(labels, np.uint8))
    assert names_of("mnist", tmp_path) == list("0123456789")
