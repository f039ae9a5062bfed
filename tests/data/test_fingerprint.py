"""The fingerprint of a data set: what changes it, what does not, and how differences are named."""

import hashlib
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from flax_resnet.config import AugmentConfig, DataConfig
from flax_resnet.data import Dataset, open_dataset
from flax_resnet.data import fingerprint as module
from flax_resnet.data.fingerprint import Fingerprint, differences, fingerprint
from flax_resnet.data.images import ImageFiles
from flax_resnet.data.tfds import prepare
from flax_resnet.data.tfds.dataset import Subset


@pytest.fixture
def photos(tmp_path):
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                color = (number, len(split), 99 * (name == "cat"))
                path = tmp_path / "photos" / split / name / f"{number}.png"
                Image.new("RGB", (4, 4), color).save(path)
    return tmp_path / "photos"


def of_folder(folder, **data):
    dataset = open_dataset(DataConfig(name="folder", dir=str(folder), **data), AugmentConfig())
    return fingerprint(dataset, folder)


def test_it_is_as_documented(photos):
    """``data.json`` is stable: its digests are computed here from the files alone."""
    found = json.loads(json.dumps(of_folder(photos).to_json()))
    assert found["classes"] == ["cat", "dog"]
    expected, rows = {}, b""
    for label, name in enumerate(("cat", "dog")):
        for number in range(2):
            path = photos / "val" / name / f"{number}.png"
            content = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
            expected[f"val/{name}/{number}.png"] = content
            rows += f"{label} {content}\n".encode()
    split = found["splits"]["validation"]
    assert split["files"] == expected and split["images"] == 4
    assert split["digest"] == hashlib.blake2b(rows, digest_size=16).hexdigest()
    assert Fingerprint.from_json(found) == of_folder(photos)


def test_a_moved_folder_has_the_same(photos, tmp_path, monkeypatch):
    before = of_folder(photos)
    photos.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert of_folder("moved") == before and of_folder("./moved/") == before


def test_a_large_folder_is_not_read(photos, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    before = of_folder(photos)
    assert before.contents() == frozenset()
    path = photos / "train" / "cat" / "0.png"
    os.chmod(path, 0)
    assert of_folder(photos) == before
    os.chmod(path, 0o600)
    path.write_bytes(path.read_bytes() + b"\0")
    (clause,) = differences(before, of_folder(photos))
    assert clause == "the images, labels or order of train are others"
    path.unlink()
    assert differences(before, of_folder(photos)) == ["train had 12 images and has 11"]


def test_a_file_that_moves_between_splits_is_named(photos):
    before = of_folder(photos, splits=(8, 1, 1))
    (photos / "val" / "cat" / "0.png").rename(photos / "test" / "cat" / "new.png")
    clauses = differences(before, of_folder(photos))
    assert clauses == [
        "1 image was added (test/cat/new.png)",
        "1 image was removed (val/cat/0.png)",
    ]


def test_other_proportions_of_splits_are_named(photos):
    before = of_folder(photos / "train", splits=(1, 0, 0))
    (clause,) = differences(before, of_folder(photos / "train", splits=(1, 9, 9)))
    assert "images were moved to another split (cat/" in clause


def test_arrays_are_known_by_their_values(tmp_path):
    images = np.zeros((20, 4, 4, 1), np.uint8)
    found = []
    for value in (0, 0, 1):
        images[:, 0, 0, 0] = value
        np.savez(tmp_path / "set.npz", x_train=images, y_train=np.arange(20) % 2)
        found.append(of_folder(tmp_path / "set.npz"))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("classes", "clause"),
    [
        (("dog", "cat"), "the order of the classes is another"),
        (("cat", "dog", "fox", "owl"), "the classes fox, owl were added"),
        (("cat",), "the class dog was removed"),
        (("ant", "bee"), "the classes were cat, dog and are ant, bee"),
    ],
)
def test_classes_that_differ_are_named(photos, classes, clause):
    before = of_folder(photos)
    assert differences(before, Fingerprint(classes, before.splits)) == [clause]


def test_a_prepared_set_is_known_by_its_files(tmp_path):
    """Photos of a prepared set are not read: ImageNet has 140 GB of them."""

    def found(folder, indices):
        whole = SimpleNamespace(folder=folder, name="train", stored_labels=lambda: None)
        sources = [
            ImageFiles(Subset(whole, np.array(chosen, np.intp)), size=8)
            for chosen in (indices, [2], [])
        ]
        return fingerprint(Dataset("set", ("cat", "dog"), *sources), None)

    (tmp_path / "set").mkdir()
    shard = tmp_path / "set" / "set-train.array_record-00000-of-00001"
    shard.write_bytes(b"records")
    before = found(tmp_path / "set", [0, 1])
    (tmp_path / "set").rename(tmp_path / "moved")
    assert found(tmp_path / "moved", [0, 1]) == before
    others = "the images, labels or order of train are others"
    assert differences(before, found(tmp_path / "moved", [1, 0])) == [others]
    (tmp_path / "moved" / shard.name).write_bytes(b"more records")
    assert others in differences(before, found(tmp_path / "moved", [0, 1]))


@pytest.fixture
def prepared(photos, tmp_path):
    """Function that prepares the photos in a folder, and one that takes the fingerprint there."""

    def of_set(folder):
        data = DataConfig(name="photos", dir=str(tmp_path / folder), image_size=4)
        return fingerprint(open_dataset(data, AugmentConfig()), None)

    return lambda folder: prepare(str(photos), data_dir=tmp_path / folder), of_set


OTHERS = "the images, labels or order of train are others"


def test_corrected_labels_and_exchanged_photos_of_a_prepared_set_are_seen(prepared, photos):
    prepare_in, of_set = prepared
    labels = prepare_in("first") / "train.label.npy"
    before = of_set("first")
    Image.new("RGB", (4, 4), (7, 7, 7)).save(photos / "train" / "cat" / "0.png")
    sizes = [p.stat().st_size for p in sorted(prepare_in("second").glob("*record*"))]
    assert sizes == [p.stat().st_size for p in sorted(labels.parent.glob("*record*"))]
    assert differences(before, of_set("second")) == [OTHERS]
    np.save(labels, 1 - np.load(labels))
    assert differences(before, of_set("first")) == [OTHERS]


def test_a_prepared_set_is_that_of_an_earlier_version(prepared):
    """``data.json`` of earlier versions had a digest of names, sizes and indices alone."""
    prepare_in, of_set = prepared
    folder = prepare_in("sets")
    now = of_set("sets")
    earlier = json.loads(json.dumps(now.to_json()))
    files = [f"{p.name} {p.stat().st_size}\n" for p in sorted(folder.glob("*.array_record*"))]
    for split, count in (("train", 12), ("validation", 4), ("test", 4)):
        facts = "".join([*files, split]).encode() + np.arange(count).tobytes()
        earlier["splits"][split]["digest"] = hashlib.blake2b(facts, digest_size=16).hexdigest()
    assert set(earlier["splits"]["train"]) == {"images", "digest", "files"}
    assert Fingerprint.from_json(earlier) != now
    assert differences(Fingerprint.from_json(earlier), now) == []
    # A run on a set that was prepared before sets kept what they were prepared from.
    (folder / ".prepared_from.json").unlink()
    without = of_set("sets")
    prepare_in("again")
    assert without != of_set("again") and differences(without, of_set("again")) == []
