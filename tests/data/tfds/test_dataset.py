"""Prepared TFDS sets as data sets: decoded batch by batch or in memory, with their splits."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from flax_resnet import UserError
from flax_resnet.config import AugmentConfig, DataConfig
from flax_resnet.data import open_dataset
from flax_resnet.data.images import (
    UNIFORMS_PER_CROP,
    ImageDecodeError,
    random_resized_crop,
    resize_center_crop,
)
from flax_resnet.data.pipeline import eval_batches
from flax_resnet.data.tfds.contents import DatasetContents, ShardContents
from flax_resnet.data.tfds.writer import write_folder

CLASSES = ("cat", "dog", "owl")
SIZE = 8
BROKEN = 4
UNKNOWN = (41, 42)  # images without a label


def jpeg(number):
    pixels = np.random.default_rng(number).integers(0, 256, (12 + number % 5, 20, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    content = buffer.getvalue()
    return content[: len(content) // 2] if number == BROKEN else content


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(root, name, splits, label=None, image=None, encode=jpeg):
    """Write a set whose splits have these numbers of images; ``label`` makes the label feature."""
    single = tfds.features.ClassLabel(names=CLASSES)
    features = tfds.features.FeaturesDict(
        {"image": image or tfds.features.Image(), "label": label(single) if label else single}
    )

    def examples(split, count):
        for number in range(count):
            marked = [k for k in range(3) if number >> k & 1]  # any number of them
            known = -1 if split == "hidden" or number in UNKNOWN else number % 3
            yield {"image": encode(number), "label": marked if label else known}

    shards = tuple(
        ShardContents(split, split, lambda split=split, count=count: examples(split, count))
        for split, count in splits.items()
    )
    folder = root / name / "1.0.0"
    contents = DatasetContents(features, "label", shards, None)
    write_folder(folder, name, "1.0.0", contents, "", lambda: None)
    return folder


def opened(root, name, **options):
    data = DataConfig(name=name, dir=str(root), **{"image_size": SIZE, "workers": 2} | options)
    return open_dataset(data, AugmentConfig())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    write(root, "photos", {"train": 40})
    write(root, "halves", {"train": 20, "test": 7})
    write(root, "all_three", {"train": 7, "validation": 5, "test": 6})
    write(root, "marked", {"train": 8, "validation": 6}, label=tfds.features.Sequence)
    small = tfds.features.Image(shape=(6, 5, 3), encoding_format="png")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), np.uint8)
    write(root, "small", {"train": 30, "test": 9}, image=small, encode=lambda n: png(pixels[n]))
    return root, pixels


def test_photos_stream_as_files_do(root):
    dataset = opened(root[0], "all_three")
    assert (dataset.name, dataset.classes) == ("all_three", CLASSES)
    assert dataset.train.streams and dataset.image_shape == (SIZE, SIZE, 3)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [7, 5, 6]
    uniforms = np.random.default_rng(1).random((3, UNIFORMS_PER_CROP))
    batch = dataset.train.gather(np.array([2, 0, 6]), uniforms)
    expected = [
        random_resized_crop(jpeg(n), row, SIZE) for n, row in zip((2, 0, 6), uniforms, strict=True)
    ]
    np.testing.assert_array_equal(batch["image"], expected)
    assert batch["label"].tolist() == [2, 0, 0] and batch["label"].dtype == np.int32
    middle = dataset.test.gather(np.array([5]), size=6)
    np.testing.assert_array_equal(middle["image"][0], resize_center_crop(jpeg(5), 7, 6))


def test_a_photo_that_cannot_be_decoded_is_left_out_and_named(root):
    dataset = opened(root[0], "all_three")
    uniforms = np.zeros((2, UNIFORMS_PER_CROP))
    assert dataset.train.gather([BROKEN, 0], uniforms)["label"].tolist() == [5 % 3, 0]
    (name,) = dataset.bad
    assert f"train image {BROKEN} of" in name and "all_three" in name
    seen = [b["label"][b["mask"]] for b in eval_batches(dataset.validation, batch_size=4)]
    assert np.concatenate(seen).tolist() == [0, 1, 2, 0]  # the fifth is broken
    strict = opened(root[0], "all_three", on_bad_image="error")
    with pytest.raises(ImageDecodeError, match=f"train image {BROKEN} of"):
        strict.train.gather([BROKEN], uniforms[:1])


def test_train_alone_is_divided_by_the_ratios_and_always_equally(root):
    one, other = (opened(root[0], "photos", splits=(2, 1, 1)) for _ in range(2))
    pieces = []
    for split, count in {"train": 20, "validation": 10, "test": 10}.items():
        indices = [getattr(dataset, split).files.indices for dataset in (one, other)]
        np.testing.assert_array_equal(*indices)
        assert len(indices[0]) == count
        np.testing.assert_array_equal(getattr(one, split).labels, indices[0] % 3)
        pieces.append(indices[0])
    assert sorted(np.concatenate(pieces).tolist()) == list(range(40))


def test_validation_is_held_out_if_there_is_a_test_split(root):
    dataset = opened(root[0], "halves", validation=0.25)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [15, 5, 7]


def test_small_images_of_one_size_are_held_in_memory(root):
    dataset = opened(root[0], "small", image_size=None)
    assert not dataset.train.streams and dataset.image_shape == (6, 5, 3)
    assert len(dataset.train) == 27 and len(dataset.validation) == 3
    np.testing.assert_array_equal(dataset.test.images, root[1][:9])
    together = np.concatenate([dataset.train.images, dataset.validation.images])
    assert sorted(image.tobytes() for image in together) == sorted(i.tobytes() for i in root[1])


def test_sets_too_large_for_memory_are_streamed(root, monkeypatch):
    monkeypatch.setattr("flax_resnet.data.tfds.dataset.MAX_BYTES_IN_MEMORY", 39 * 90 - 1)
    dataset = opened(root[0], "small", image_size=5, resize=5)
    assert dataset.train.streams and dataset.image_shape == (5, 5, 3)


def test_any_number_of_labels(root):
    dataset = opened(root[0], "marked")
    assert dataset.multi_label
    batch = dataset.train.gather(np.arange(4))
    assert batch["label"].dtype == np.float32
    assert batch["label"].tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]
    np.testing.assert_array_equal(dataset.train.labels[:4], batch["label"])
    assert dataset.train.gather([])["label"].shape == (0, 3)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return tmp_path_factory.mktemp("odd")


def test_labels_that_are_not_published_are_left_out(odd, monkeypatch):
    write(odd, "secret", {"train": 6, "hidden": 4})
    # A set that TFDS prepared: its test split has labels of -1.
    import flax_resnet.data.opening as opening

    original = opening.open_prepared

    def renamed(*arguments):
        found = original(*arguments)
        splits = {"train": found.splits["train"], "test": found.splits["hidden"]}
        return type(found)(found.name, found.folder, found.classes, splits)

    monkeypatch.setattr(opening, "open_prepared", renamed)
    dataset = opened(odd, "secret", splits=(1, 1, 1))
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [2, 2, 2]
    assert "no labels" in dataset.notes[0]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_single_missing_label_is_reported(odd, streamed):
    image = tfds.features.Image(shape=None if streamed else (6, 5, 3), encoding_format="png")
    pixels = png(np.zeros((6, 5, 3), np.uint8))
    write(odd, f"gap{streamed}", {"train": 44, "test": 3}, image=image, encode=lambda _: pixels)
    with pytest.raises(UserError, match=r"some images of train in .* have no label \(-1\)"):
        opened(odd, f"gap{streamed}", validation=0).train.gather(np.arange(44))


def test_sets_that_cannot_be_trained_on_are_reported(odd):
    write(odd, "only_test", {"test": 3})
    with pytest.raises(UserError, match="no split train, only test"):
        opened(odd, "only_test")
    write(odd, "few", {"train": 1, "test": 2})
    with pytest.raises(UserError, match="has no images left to train on"):
        opened(odd, "few", validation=0.9)
    with pytest.raises(UserError, match=r"oxford_pets is not prepared in .*TensorFlow"):
        opened(odd, "oxford_pets")
    with pytest.raises(UserError, match="flax-resnet prepare tf_flowers"):
        opened(odd, "tf_flowers")


def test_a_damaged_file_is_named(odd):
    folder = write(odd, "hurt", {"train": 9, "test": 3})
    (record,) = folder.glob("*train*record*")
    content = bytearray(record.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    record.write_bytes(content)
    with pytest.raises(UserError, match=r"hurt.* is damaged .*prepare it again"):
        opened(odd, "hurt", validation=0).train.gather(
            np.arange(9), np.zeros((9, UNIFORMS_PER_CROP))
        )
