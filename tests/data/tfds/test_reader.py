"""Reading of prepared TFDS sets: values, choice of features, and every kind of damage."""

import dataclasses
import io
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from flax_resnet.data import load_dataset
from flax_resnet.data.tfds import load_prepared, open_prepared, prepare
from flax_resnet.data.tfds.contents import DatasetContents, ShardContents
from flax_resnet.data.tfds.writer import write_folder
from flax_resnet.errors import UserError


@pytest.fixture(scope="module")
def good(tmp_path_factory, idx_contents, place_idx):
    """A small MNIST, prepared: 100 training and 20 test images."""
    folder = tmp_path_factory.mktemp("tfds")
    place_idx(folder / "originals", idx_contents)
    prepare("mnist", folder / "originals", folder)
    return folder


@pytest.fixture
def copy(good, tmp_path):
    """A copy to damage: the folder of data sets, and the folder of the set."""
    shutil.copytree(good / "mnist", tmp_path / "mnist")
    return tmp_path, tmp_path / "mnist" / "3.0.1"


def message_of(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read_all(data_dir, name="mnist"):
    opened = open_prepared(name, data_dir)
    return {split: images.gather(range(len(images))) for split, images in opened.splits.items()}


def png(height, width):
    """Return a PNG of this size with a few bytes per row."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


# --- Values ------------------------------------------------------------------


def test_images_and_labels_are_the_originals(good, idx_contents):
    opened = open_prepared("mnist", good)
    assert (opened.name, opened.classes) == ("mnist", tuple("0123456789"))
    assert opened.folder == good / "mnist" / "3.0.1"
    for split, prefix, count in (("train", "train", 100), ("test", "t10k", 20)):
        source = opened.splits[split]
        assert (len(source), source.image_shape, source.num_classes) == (count, (28, 28, 1), 10)
        pixels = np.frombuffer(idx_contents[f"{prefix}-images-idx3-ubyte.gz"][16:], np.uint8)
        labels = np.frombuffer(idx_contents[f"{prefix}-labels-idx1-ubyte.gz"][8:], np.uint8)
        order = np.random.default_rng(0).permutation(count)
        batch = source.gather(order)
        np.testing.assert_array_equal(batch["image"], pixels.reshape(count, 28, 28, 1)[order])
        np.testing.assert_array_equal(batch["label"], labels[order])
        assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
        assert source.contents([3])[0] == source.contents([0, 3])[1]
        assert source.contents([3])[0].startswith(b"\x89PNG")


@pytest.mark.parametrize("index", [-1, 100, 10**9])
def test_an_index_outside_is_an_index_error(good, index):
    train = open_prepared("mnist", good).splits["train"]
    for call in (train.read, lambda n: train.gather([0, n]), lambda n: train.contents([n])):
        with pytest.raises(IndexError):
            call(index)


def test_a_split_can_be_pickled(good):
    train = open_prepared("mnist", good).splits["train"]
    again = pickle.loads(pickle.dumps(train))
    np.testing.assert_array_equal(again.gather([5])["image"], train.gather([5])["image"])


@pytest.mark.parametrize("note", [None, b"", b"\x93NUMPY", b"PK\3\4", "shorter"])
def test_without_stored_labels_the_labels_come_from_the_records(copy, note):
    """Sets that TFDS itself prepared have no copy of the labels."""
    path = copy[1] / "train.label.npy"
    expected = np.load(path)
    if note is None:
        path.unlink()
    elif note == "shorter":
        np.save(path, expected[:-1])
    else:
        path.write_bytes(note)
    labels = open_prepared("mnist", copy[0]).splits["train"].labels
    np.testing.assert_array_equal(labels, expected)


def test_the_newest_version_that_can_be_read_is_taken(copy):
    data_dir, folder = copy
    shutil.copytree(folder, folder.with_name("10.0.0"))
    (folder.with_name("11.0.0")).mkdir()
    assert open_prepared("mnist", data_dir).folder.name == "10.0.0"
    assert open_prepared("mnist:3.0.1", data_dir).folder == folder


def test_the_features_can_be_chosen(good):
    opened = open_prepared("mnist", good, image="image", label="label")
    assert len(opened.splits["test"]) == 20
    wrong = message_of(lambda: open_prepared("mnist", good, label="image"))
    assert "the label of the set in" in wrong and "it must be one of label" in wrong
    assert "cannot be pixels: it must be one of image" in message_of(
        lambda: open_prepared("mnist", good, image="pixels")
    )


# --- Refused input ---------------------------------------------------------


def test_a_set_that_is_not_prepared(tmp_path):
    message = message_of(lambda: open_prepared("mnist", tmp_path))
    assert f"not prepared in {tmp_path}: run `flax-resnet prepare mnist --data.dir" in message
    message = message_of(lambda: open_prepared("oxford_flowers102:2.1.1", tmp_path))
    assert "where TensorFlow is installed, run `python -c" in message
    assert "--from FOLDER" in message_of(lambda: open_prepared("imagenet2012", tmp_path))
    for name in ("../mnist", "a b", ""):
        assert "is not the name of a data set" in message_of(
            lambda name=name: open_prepared(name, tmp_path)
        )


def test_a_set_in_tensorflows_format(copy):
    info = copy[1] / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    message = message_of(lambda: open_prepared("mnist", copy[0]))
    assert "has the format tfrecord, which only TensorFlow reads: move it away" in message


def records(folder, split="train"):
    (path,) = folder.glob(f"*-{split}.array_record*")
    return path


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5, 0.9, 0.999])
def test_truncated_records(copy, fraction):
    path = records(copy[1])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    message = message_of(lambda: read_all(copy[0]))
    assert f"the data set in {copy[1]} is damaged (" in message
    assert message.endswith("delete it and prepare it again")


def test_records_with_changed_bytes_never_give_other_values(good, copy):
    """Damage that is not refused is in bytes that no reader uses."""
    path = records(copy[1])
    content = path.read_bytes()
    expected = read_all(good)["train"]
    outcomes = []
    for start in range(0, len(content) - 40, len(content) // 40):
        changed = bytes(byte ^ 0x55 for byte in content[start : start + 40])
        path.write_bytes(content[:start] + changed + content[start + 40 :])
        try:
            batch = read_all(copy[0])["train"]
        except UserError as error:
            outcomes.append("is damaged (" in str(error))
        else:
            np.testing.assert_array_equal(batch["image"], expected["image"])
            np.testing.assert_array_equal(batch["label"], expected["label"])
    assert len(outcomes) > 15 and all(outcomes)


def test_absent_records(copy):
    path = records(copy[1], "test")
    path.unlink()
    assert f"is damaged ({path.name} is not there)" in message_of(lambda: read_all(copy[0]))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"fileFormat": "array_record"}', b"\xff"])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_descriptions(copy, name, content):
    (copy[1] / name).write_bytes(content)
    message = message_of(lambda: read_all(copy[0]))
    assert "is damaged (" in message or "not prepared in" in message or "no features" in message


def rewritten(folder, **changed):
    """Rewrite the training records with these fields instead of the first example's; a
    field of None is left out."""
    from array_record.python import array_record_module
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from tensorflow_datasets.proto import tf_example_pb2

    path = records(folder)
    source = ArrayRecordDataSource([str(path)])
    stored = [source[n] for n in range(len(source))]
    example = tf_example_pb2.Example.FromString(stored[0])
    for name, value in changed.items():
        del example.features.feature[name]
        if isinstance(value, bytes):
            example.features.feature[name].bytes_list.value.append(value)
        elif value is not None:
            example.features.feature[name].int64_list.value.append(value)
    stored[0] = example.SerializeToString()
    path.unlink()
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in stored:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "from records"])
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"image": None}, "an example has no image"),
        ({"image": b"no image"}, "cannot identify image file"),
        ({"image": b"\x89PNG\r\n\x1a\n\0\0"}, "is damaged ("),
        ({"image": png(5, 28)}, "an image of 5×28 pixels"),
        ({"image": png(20_000, 10_000)}, "exceeds limit of 178956970 pixels"),
    ],
)
def test_examples_without_a_good_image(copy, changed, sentence, stored):
    rewritten(copy[1], **changed)
    if not stored:
        (copy[1] / "train.label.npy").unlink()
    message = message_of(lambda: read_all(copy[0]))
    assert sentence in message and f"the data set in {copy[1]} is damaged (" in message


def test_a_single_example(copy):
    expected = open_prepared("mnist", copy[0]).splits["train"].labels[1]
    rewritten(copy[1], image=None)
    train = open_prepared("mnist", copy[0]).splits["train"]
    assert "an example has no image" in message_of(lambda: train.read(0))
    assert train.read(1) == (train.contents([1])[0], expected)


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (None, "an example has no label"),
        (10, "a label is 10, but there are 10 classes"),
        (-2, "a label is -2"),
        (2**40, f"a label is {2**40}"),
    ],
)
def test_labels_out_of_range(copy, label, sentence):
    rewritten(copy[1], label=label)
    (copy[1] / "train.label.npy").unlink()
    message = message_of(lambda: open_prepared("mnist", copy[0]).splits["train"].labels)
    assert sentence in message and f"the data set in {copy[1]} is damaged (" in message


def test_stored_labels_out_of_range(copy):
    path = copy[1] / "train.label.npy"
    labels = np.load(path)
    labels[7] = 10
    np.save(path, labels)
    message = message_of(lambda: open_prepared("mnist", copy[0]).splits["train"].labels)
    assert "a label is 10, but there are 10 classes" in message


def test_a_set_without_labels_is_not_trained_on(copy):
    """TFDS writes -1 for a missing label, as in the test split of ImageNet."""
    rewritten(copy[1], label=-1)
    (copy[1] / "train.label.npy").unlink()
    assert open_prepared("mnist", copy[0]).splits["train"].labels[0] == -1
    message = message_of(lambda: load_prepared(open_prepared("mnist", copy[0]), stream=None))
    assert "the images of train in" in message and "have no labels (-1)" in message
    message = message_of(lambda: load_dataset("mnist", copy[0], validation=0, download=False))
    assert "has images without a label in train" in message


# --- Files that cannot be read, and are not damaged ---------------------------------------------

READ_WITH_LIMITS = """
import resource, sys
from flax_resnet.data.tfds import open_prepared
from flax_resnet.errors import UserError
resource.setrlimit(resource.RLIMIT_NOFILE, tuple(map(int, sys.argv[2:])))
train = open_prepared("many", sys.argv[1]).splits["train"]
try:
    print(len(train.contents(range(len(train)))))
except UserError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A set of 80 files, with an image in each."""
    image, label = tfds.features.Image(), tfds.features.ClassLabel(names=["cat", "dog"])
    shards = tuple(
        ShardContents("train", f"{n}", lambda n=n: [{"image": png(4, 4), "label": n % 2}])
        for n in range(80)
    )
    features = tfds.features.FeaturesDict({"image": image, "label": label})
    folder = tmp_path_factory.mktemp("many")
    contents = DatasetContents(features, "label", shards, None)
    write_folder(folder / "many" / "1.0.0", "many", "1.0.0", contents, "", lambda: None)
    return folder


@pytest.mark.parametrize(
    ("hard_limit", "expected"),
    [(1000, "80"), (60, "has more files than may be open at once (Too many open files)")],
)
def test_more_files_than_may_be_open(many, hard_limit, expected):
    """ImageNet has 1,050, and the usual limit is 1,024."""
    pytest.importorskip("resource")
    limits = "60", str(hard_limit)
    done = subprocess.run(
        [sys.executable, "-c", READ_WITH_LIMITS, str(many), *limits],
        capture_output=True,
        text=True,
        check=True,
    )
    assert expected in done.stdout and "prepare it again" not in done.stdout


def test_a_disk_that_fails_is_not_called_damage(good):
    class Failing:
        def __len__(self):
            return 100

        def __getitem__(self, index):
            raise RuntimeError("UNKNOWN: Input/output error; reading mnist-train")

    train = open_prepared("mnist", good).splits["train"]
    message = message_of(lambda: dataclasses.replace(train, records=Failing()).read(0))
    assert "cannot be read (Input/output error)" in message and "prepare it" not in message
