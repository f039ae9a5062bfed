"""MNIST and Fashion-MNIST (IDX files): values, and the messages about damaged files."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flax_resnet.data import load_dataset
from flax_resnet.data.published import PUBLISHED
from flax_resnet.errors import UserError

# Types of the fixtures in conftest.py.
Files = dict[str, bytes]
Idx = Callable[[np.ndarray], bytes]
PlaceIdx = Callable[[Path, Files], None]
RealData = Callable[[str], Path]
AssertRefused = Callable[..., None]

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = [file.name for file in PUBLISHED["mnist"]]

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_values(tmp_path: Path, name: str, idx_contents: Files, place_idx: PlaceIdx) -> None:
    place_idx(tmp_path / name, idx_contents)
    data = load_dataset(name, tmp_path, validation=0.5)
    assert data.image_shape == (28, 28, 1)
    assert len(data.classes) == 10
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 50, 20)
    assert data.test.images.tobytes() == idx_contents[TEST_IMAGES][16:]
    assert data.test.labels.tolist() == [i % 10 for i in range(20)]


def test_class_names_of_the_idx_sets(
    tmp_path: Path, idx_contents: Files, place_idx: PlaceIdx
) -> None:
    place_idx(tmp_path, idx_contents)
    assert load_dataset("mnist", tmp_path, validation=0).classes == tuple("0123456789")
    clothing = load_dataset("fashion_mnist", tmp_path, validation=0).classes
    assert (clothing[0], clothing[5], clothing[9]) == ("T-shirt/top", "Sandal", "Ankle boot")


@pytest.mark.parametrize(
    ("name", "other"), [("mnist", "fashion_mnist"), ("fashion_mnist", "mnist")]
)
def test_a_file_of_the_other_idx_set_is_refused(
    tmp_path: Path, name: str, other: str, idx_contents: Files, place_idx: PlaceIdx
) -> None:
    """Both sets have the same names of files, shapes and labels; the published sizes differ."""
    place_idx(tmp_path, idx_contents)
    (file,) = [file for file in PUBLISHED[other] if file.name == TEST_LABELS]
    with (tmp_path / TEST_LABELS).open("r+b") as stored:
        stored.truncate(file.size)
    with pytest.raises(UserError) as caught:
        load_dataset(name, tmp_path)
    expected = f"{tmp_path / TEST_LABELS} is a file of {other} and not of {name}, by its size of"
    assert expected in str(caught.value)


def test_plain_idx_under_either_name(tmp_path: Path, idx_contents: Files) -> None:
    for name, content in idx_contents.items():
        # Some browsers uncompress a .gz file during the download and keep its name.
        stem = name if name == TEST_IMAGES else name.removesuffix(".gz")
        (tmp_path / stem).write_bytes(content)
    data = load_dataset("mnist", tmp_path, validation=0)
    assert data.train.images.tobytes() == idx_contents[TRAIN_IMAGES][16:]


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (TRAIN_IMAGES, lambda c, idx: b"", "magic"),
        (TRAIN_IMAGES, lambda c, idx: b"\x00\x00\x0d\x03" + c[4:], "magic"),
        (TRAIN_IMAGES, lambda c, idx: idx(np.arange(100) % 10), "magic"),
        (TRAIN_IMAGES, lambda c, idx: c[:9], "cut short"),
        (TRAIN_IMAGES, lambda c, idx: c[:-1], "announces"),
        (TEST_IMAGES, lambda c, idx: c + b"\x00", "announces"),
        (TEST_IMAGES, lambda c, idx: idx(np.zeros((20, 32, 32))), "dimensions"),
        (TEST_IMAGES, lambda c, idx: idx(np.zeros((0, 28, 28))), "dimensions"),
        (TEST_IMAGES, lambda c, idx: c[:4] + struct.pack(">3I", 1 << 31, 28, 28), "claims"),
        (TEST_LABELS, lambda c, idx: idx(np.full(20, 10)), "label 10"),
        (TEST_LABELS, lambda c, idx: idx(np.zeros(19)), "20 images but 19 labels"),
    ],
)
def test_wrong_idx(
    tmp_path: Path,
    name: str,
    change: Callable[[bytes, Idx], bytes],
    expected: str,
    idx: Idx,
    idx_contents: Files,
    place_idx: PlaceIdx,
) -> None:
    place_idx(tmp_path, idx_contents | {name: change(idx_contents[name], idx)})
    with pytest.raises(UserError) as caught:
        load_dataset("mnist", tmp_path)
    message = str(caught.value)
    (file,) = [f for f in PUBLISHED["mnist"] if f.name == name]
    for fact in (str(tmp_path / name), expected, str(file.size), file.sha256, file.url, "delete"):
        assert fact in message, message


@pytest.mark.parametrize("keep", [1, 12, 0.5, -8, -1])
def test_truncated_idx_gzip(
    tmp_path: Path,
    keep: float,
    assert_refused: AssertRefused,
    idx_contents: Files,
    place_idx: PlaceIdx,
) -> None:
    place_idx(tmp_path, idx_contents)
    path = tmp_path / TRAIN_IMAGES
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert_refused("mnist", tmp_path, path)


def test_idx_gzip_with_wrong_crc(
    tmp_path: Path, assert_refused: AssertRefused, idx_contents: Files, place_idx: PlaceIdx
) -> None:
    place_idx(tmp_path, idx_contents)
    path = tmp_path / TRAIN_LABELS
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    assert_refused("mnist", tmp_path, path, "gzip")


def test_real_mnist(real_data: RealData) -> None:
    data = load_dataset("mnist", real_data("mnist"), validation=0, download=False)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.image_shape == (28, 28, 1)
    # The well-known first labels, and the published mean and deviation.
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.train.images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert data.train.images.std() / 255 == pytest.approx(0.3081, abs=5e-5)
