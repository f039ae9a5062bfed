"""`prepare` writes folders that TFDS reads, and never needs TensorFlow."""

import json
import subprocess
import sys

import numpy as np
import pytest

from flax_resnet import UserError
from flax_resnet.cli import main
from flax_resnet.data import load_dataset
from flax_resnet.data.prepare import preparable_names, prepare

READ = """
import json, sys
import tensorflow_datasets as tfds
sets = {s: tfds.data_source("cifar10", data_dir=sys.argv[1], split=s) for s in ("train", "test")}
names = tfds.builder("cifar10", data_dir=sys.argv[1]).info.features["label"].names
first = sets["train"][0]
print(json.dumps({"counts": {s: len(d) for s, d in sets.items()}, "names": names,
                  "label": int(first["label"]), "pixels": first["image"].tolist(),
                  "tensorflow": "tensorflow" in sys.modules}))
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, place_cifar10):
    """CIFAR-10 with 40 made records a file, prepared by the command."""
    folder = tmp_path_factory.mktemp("tfds")
    archive = place_cifar10(tmp_path_factory.mktemp("original"))
    assert main(["prepare", "cifar10", "--from", str(archive), "--data.dir", str(folder)]) == 0
    return folder, archive


def test_tfds_reads_it_without_tensorflow(prepared, cifar10):
    done = subprocess.run(
        [sys.executable, "-c", READ, str(prepared[0])], capture_output=True, text=True, check=True
    )
    read = json.loads(done.stdout.splitlines()[-1])
    record = np.frombuffer(cifar10["data_batch_1.bin"][:3073], np.uint8)
    assert read["counts"] == {"train": 200, "test": 40}
    assert read["names"][0] == "class0"
    assert read["label"] == record[0]
    assert read["pixels"] == record[1:].reshape(3, 32, 32).transpose(1, 2, 0).tolist()
    assert read["tensorflow"] is False


def test_a_prepared_set_is_loaded_where_the_originals_are_absent(prepared, place_cifar10):
    folder, archive = prepared
    settings = {"validation": 0.0, "download": False}
    ours = load_dataset("cifar10", folder, **settings)
    original = load_dataset("cifar10", archive.parent, **settings)
    for split in ("train", "test"):
        a, b = getattr(ours, split), getattr(original, split)
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
    assert ours.classes == original.classes


def test_preparing_again_does_nothing(prepared):
    folder, archive = prepared
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*record*")}
    prepare("cifar10", archive, folder)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*record*")}


def test_what_is_not_the_set_is_refused(tmp_path):
    wrong = tmp_path / "cifar-10-binary.tar.gz"
    wrong.write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz"):
        prepare("cifar10", wrong, tmp_path / "tfds")
    with pytest.raises(UserError, match="choose one of"):
        prepare("cifar11", data_dir=tmp_path)
    assert not list((tmp_path / "tfds").rglob("dataset_info.json"))


def test_the_sets_that_can_be_prepared():
    assert {"cifar10", "cifar100", "mnist", "fashion_mnist"} <= set(preparable_names())
