"""Data sets by name: splits, and the folders of their files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flax_resnet import download
from flax_resnet.data import Dataset, Split, builtin, dataset_names, load_dataset
from flax_resnet.data.published import PUBLISHED
from flax_resnet.download import PublishedFile
from flax_resnet.errors import UserError

# Types of the fixtures in conftest.py.
Files = dict[str, bytes]
PlaceCifar = Callable[..., Path]
PlaceIdx = Callable[[Path, Files], None]

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, _ = [file.name for file in PUBLISHED["mnist"]]

pytestmark = pytest.mark.usefixtures("no_network")


def arrays(data: Dataset) -> list[np.ndarray]:
    return [a for s in (data.train, data.validation, data.test) for a in (s.images, s.labels)]


def rows(split: Split) -> list[bytes]:
    return [
        bytes([label]) + image.tobytes()
        for image, label in zip(split.images, split.labels, strict=True)
    ]


def test_names() -> None:
    assert dataset_names() == ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"]


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"imagenet.*digits.*cifar100"):
        load_dataset("imagenet")


def test_digits_is_the_bundled_set() -> None:
    data = load_dataset("digits", validation=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (1437, 0, 360)
    assert data.image_shape == (8, 8, 1)
    assert data.classes == tuple("0123456789")
    images = np.concatenate([data.train.images, data.test.images])
    assert images.dtype == np.uint8
    assert data.train.labels.dtype == np.int32
    assert set(np.unique(images)) == {round(v * 255 / 16) for v in range(17)}
    # The class counts that scikit-learn's manual gives for the whole set.
    labels = np.concatenate([data.train.labels, data.test.labels])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("validation", [0.1, 0.25])
def test_validation_is_held_out_of_train_in_proportion(validation: float) -> None:
    whole = load_dataset("digits", validation=0)
    data = load_dataset("digits", validation=validation)
    assert len(data.validation) == round(validation * 1437)
    np.testing.assert_array_equal(data.test.images, whole.test.images)
    assert sorted(rows(data.train) + rows(data.validation)) == sorted(rows(whole.train))
    fraction = np.bincount(data.validation.labels) / np.bincount(whole.train.labels)
    np.testing.assert_allclose(fraction, validation, atol=0.01)


def test_split_does_not_follow_the_training_seed() -> None:
    np.random.seed(1)
    first = load_dataset("digits")
    np.random.seed(2)
    second = load_dataset("digits")
    for a, b in zip(arrays(first), arrays(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_empty_validation_keeps_shape_and_type() -> None:
    empty = load_dataset("digits", validation=0).validation
    assert empty.images.shape == (0, 8, 8, 1)
    batch = empty.gather([])
    assert batch["image"].shape == (0, 8, 8, 1)
    assert batch["label"].dtype == np.int32


@pytest.mark.parametrize("validation", [-0.1, 1.0, 5.0, float("nan"), 1e-6, 0.001, 0.9999])
def test_impossible_validation(validation: float) -> None:
    with pytest.raises(UserError, match="validation"):
        load_dataset("digits", validation=validation)


def test_gather_takes_the_requested_images_in_order() -> None:
    images = np.arange(2 * 3 * 2 * 2, dtype=np.uint8).reshape(-1, 2, 2, 1)
    split = Split(images, np.arange(6, dtype=np.int32))
    batch = split.gather(np.array([4, 0, 4]))
    assert sorted(batch) == ["image", "label"]
    np.testing.assert_array_equal(batch["image"], images[[4, 0, 4]])
    assert batch["label"].tolist() == [4, 0, 4]
    batch["image"][:] = 99
    assert not (split.images == 99).any()
    with pytest.raises(IndexError):
        split.gather([6])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(3, np.int32)),
        (np.zeros((2, 3, 3, 1), np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int64)),
    ],
)
def test_split_refuses_arrays_that_do_not_fit_together(
    images: np.ndarray, labels: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r"images|labels"):
        Split(images, labels)


# --- Folders of the files ---------------------------------------------------


def test_own_folder_comes_before_the_shared_one(tmp_path: Path, place_cifar10: PlaceCifar) -> None:
    (tmp_path / "cifar10").mkdir()
    place_cifar10(tmp_path / "cifar10")
    place_cifar10(tmp_path, b"damaged")
    assert len(load_dataset("cifar10", tmp_path).test) == 40


def test_default_folder(
    tmp_path: Path, place_cifar10: PlaceCifar, idx_contents: Files, place_idx: PlaceIdx
) -> None:
    base = tmp_path / "home" / "tensorflow_datasets" / "downloads"
    base.mkdir(parents=True)
    place_cifar10(base)
    assert len(load_dataset("cifar10").test) == 40
    place_idx(base / "mnist", idx_contents)
    assert len(load_dataset("mnist").test) == 20


def test_the_variable_of_tfds_names_the_default_folder(
    tmp_path: Path, place_cifar10: PlaceCifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sets" / "downloads").mkdir(parents=True)
    place_cifar10(tmp_path / "sets" / "downloads")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    assert len(load_dataset("cifar10").test) == 40


def test_default_folder_does_not_mix_up_the_idx_sets(
    tmp_path: Path, idx_contents: Files, place_idx: PlaceIdx
) -> None:
    place_idx(tmp_path / "home" / "tensorflow_datasets" / "downloads", idx_contents)
    with pytest.raises(UserError, match="not found"):
        load_dataset("fashion_mnist", download=False)


def test_an_incomplete_set_is_not_completed_from_another_folder(
    tmp_path: Path, idx_contents: Files, place_idx: PlaceIdx
) -> None:
    place_idx(tmp_path, idx_contents)
    place_idx(tmp_path / "fashion_mnist", {TRAIN_IMAGES: idx_contents[TRAIN_IMAGES]})
    (tmp_path / TRAIN_LABELS).unlink()
    with pytest.raises(UserError, match=TRAIN_LABELS) as caught:
        load_dataset("fashion_mnist", tmp_path, download=False)
    assert TRAIN_IMAGES not in str(caught.value)
    assert TEST_IMAGES in str(caught.value)


@pytest.mark.parametrize("name", [n for n in dataset_names() if n != "digits"])
def test_absent_with_download_off(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset(name, tmp_path, download=False)
    for file in PUBLISHED[name]:
        for fact in (file.url, str(file.size), file.sha256):
            assert fact in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "--config digits" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_only_absent_files_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idx_contents: Files, place_idx: PlaceIdx
) -> None:
    requested = []

    def serve(file: PublishedFile, target: Path, otherwise: str) -> Path:
        requested.append(file.url)
        place_idx(target.parent, {target.name: idx_contents[target.name]})
        return target

    monkeypatch.setattr(builtin, "fetch", serve)
    place_idx(tmp_path / "mnist", {TRAIN_IMAGES: idx_contents[TRAIN_IMAGES]})
    for _ in range(2):  # the second time no file is absent
        assert len(load_dataset("mnist", tmp_path).test) == 20
        assert requested == [file.url for file in PUBLISHED["mnist"] if file.name != TRAIN_IMAGES]


def test_failed_download_reaches_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(download, "_open", broken)
    monkeypatch.setattr(builtin, "fetch", download.fetch)
    with pytest.raises(UserError, match="no network") as caught:
        load_dataset("cifar10", tmp_path)
    assert str(tmp_path / "cifar10") in str(caught.value)
    assert "--config digits" in str(caught.value)
