"""Data sets in one .npz file: accepted and refused arrays."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_resnet.data.arrays import read_arrays
from flax_resnet.errors import UserError


def some(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def write(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def npz(tmp_path):
    return tmp_path / "shapes.npz"


def message_of(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read_arrays(path, **options)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


# --- Accepted input ------------------------------------------------------


@pytest.mark.parametrize("image", ["x", "image", "images"])
@pytest.mark.parametrize("label", ["y", "label", "labels"])
def test_splits_by_their_keys(npz, image, label):
    parts = {"train": some(6, 4, 5, 3), "val": some(2, 4, 5, 3, seed=1), "test": some(3, 4, 5, 3)}
    arrays = {f"{image}_{part}": images for part, images in parts.items()}
    arrays |= {f"{label}_{part}": np.arange(len(images)) % 2 for part, images in parts.items()}
    dataset = read_arrays(write(npz, **arrays))
    for split, part in zip((dataset.train, dataset.validation, dataset.test), parts, strict=True):
        np.testing.assert_array_equal(split.images, parts[part])
        np.testing.assert_array_equal(split.labels, arrays[f"{label}_{part}"])
        assert split.labels.dtype == np.int32 and not split.streams
    assert (dataset.name, dataset.classes, dataset.image_shape) == ("shapes", ("0", "1"), (4, 5, 3))


def test_grey_images_keras_labels_and_names_of_classes(npz):
    images, labels = some(9, 4, 4), np.arange(9, dtype=np.uint8)[:, None] % 3
    path = write(npz, x_train=images, y_train=labels, x_valid=images, y_valid=labels,
                 classes=["cat", "dog", "eel", "fox"])  # fmt: skip
    dataset = read_arrays(path)
    np.testing.assert_array_equal(dataset.train.images, images[..., None])
    np.testing.assert_array_equal(dataset.train.labels, labels[:, 0])
    assert dataset.classes == ("cat", "dog", "eel", "fox")
    assert (len(dataset.validation), len(dataset.test)) == (9, 0)


def test_without_splits_images_are_split_by_content(npz):
    images, labels = some(200, 3, 3, 1), np.arange(200) % 2
    dataset = read_arrays(write(npz, image=images, label=labels), ratios=(2, 1, 1))
    parts = {split: getattr(dataset, split) for split in ("train", "validation", "test")}
    assert [len(part) > 20 for part in parts.values()] == [True] * 3
    assert sum(map(len, parts.values())) == 200
    # In another order and with more images, every image stays in its split.
    order = np.random.default_rng(1).permutation(200)
    more = np.concatenate([images[order], some(50, 3, 3, 1, seed=2)])
    again = read_arrays(
        write(npz, image=more, label=np.concatenate([labels[order], np.zeros(50, int)])),
        ratios=(2, 1, 1),
    )
    for split, part in parts.items():
        later = {image.tobytes() for image in getattr(again, split).images}
        assert {image.tobytes() for image in part.images} <= later


def test_without_validation_some_of_train_is_used(npz):
    images = some(100, 2, 2, 3)
    path = write(npz, x_train=images, y_train=np.arange(100) % 2,
                 x_test=images[:5], y_test=np.arange(5) % 2)  # fmt: skip
    dataset = read_arrays(path, ratios=(1, 1, 8))
    assert len(dataset.train) + len(dataset.validation) == 100
    assert min(len(dataset.train), len(dataset.validation)) > 20
    np.testing.assert_array_equal(dataset.test.images, images[:5])


def test_compressed_files_and_arrays_of_other_use(npz):
    np.savez_compressed(npz, x=some(40, 2, 2, 3), y=np.arange(40) % 2, weights=np.ones(3))
    assert len(read_arrays(npz, ratios=(1, 0, 0)).train) == 40


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (np.array([b"cat", "caf\u00e9".encode()]), ("cat", "caf\u00e9")),
        (np.array([7, 8]), ("7", "8")),
        (np.array([[7], [8]], np.uint8), ("7", "8")),
    ],
)
def test_names_of_classes_in_other_types(npz, classes, expected):
    """Names as bytes were called b'cat'."""
    assert read_arrays(write(npz, **GOOD, classes=classes)).classes == expected


def test_arrays_of_other_use_are_not_read(npz):
    """An array of objects, which needs pickle, made the file unreadable."""
    path = write(npz, **GOOD, notes=np.array([{}], object))
    assert len(read_arrays(path, ratios=(1, 0, 0)).train) == 6


# --- Refused input ---------------------------------------------------------

GOOD = {"x_train": some(6, 4, 4, 3), "y_train": np.arange(6) % 2}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"x_train": some(6, 4, 4, 3) / 255}, "x_train is float64 [6, 4, 4, 3]; it must be uint8"),
        ({"x_train": some(6, 3, 4, 4)}, "with the channels last, and fewer"),
        ({"x_train": some(6, 48)}, "x_train is uint8 [6, 48]"),
        ({"y_train": np.arange(5)}, "y_train is int64 [5]; it must be one whole number for each"),
        ({"y_train": np.eye(6)}, "y_train is float64 [6, 6]"),
        ({"y_train": np.arange(6) - 1}, "labels from -1 to 4, out of range; they count from 0"),
        ({"y_train": np.array([0, 1, 2, 0, 1, 900])}, "has the label 900 but only 6 images"),
        ({"y_train": np.array([0, 2**40, 0, 0, 1, 1])}, "out of range"),
        ({"y_train": np.arange(6) % 3, "classes": ["a", "b"]}, "out of range for its 2 classes"),
        ({"y_train": np.ones(6, int)}, "has images of one class only"),
        ({"x_train": some(0, 4, 4, 3), "y_train": np.zeros(0, int)}, "has no images"),
        ({"image_train": some(6, 4, 4, 3)}, "has x_train and image_train: keep one"),
        ({"x": some(6, 4, 4, 3), "y": np.arange(6) % 2}, "has x and another form of it"),
        ({"x_val": some(6, 4, 4, 3)}, "has x_val but not its labels"),
        ({"x_val": some(2, 5, 4, 3), "y_val": np.arange(2)}, "images of several sizes"),
        ({"y_train": np.array([{}] * 6)}, "cannot be read as .npz"),
        ({"classes": [b"cat", b"\xe9"]}, "classes has b'\\xe9', which is not text in UTF-8"),
        ({"classes": [0.5, 1.5]}, "classes is float64; save the names as text"),
        ({"classes": [True, False]}, "classes is bool; save the names as text"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(npz, changed, sentence):
    assert sentence in message_of(write(npz, **(GOOD | changed)))


def test_without_training_images(npz):
    assert "has the arrays x_test, y_test: save uint8" in message_of(
        write(npz, x_test=GOOD["x_train"], y_test=GOOD["y_train"])
    )
    assert "has the arrays none" in message_of(write(npz))


def test_a_file_that_unpacks_to_too_much_is_refused(npz, monkeypatch):
    """It filled the memory, and the process was killed."""
    limit = (100, "this container")
    monkeypatch.setattr("flax_resnet.data.arrays.host_limit", lambda: limit)
    assert "more than the memory of this container (100 bytes)" in message_of(write(npz, **GOOD))
    monkeypatch.undo()
    content = bytearray(npz.read_bytes())
    entry = content.index(b"PK\1\2")  # the directory's first, whose size is four bytes at 24
    content[entry + 24 : entry + 28] = struct.pack("<I", 2_000_000_000)
    npz.write_bytes(content)
    message = message_of(npz)
    assert "unpacks to 2,000,000," in message and "more than 16 times its size" in message


def npy(header: bytes, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def zipped(content: bytes, **flags: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x_train.npy", content)
        file.writestr("y_train.npy", content)
    return buffer.getvalue()


HEADER = b"{'descr': '|u1', 'fortran_order': False, 'shape': %s, }\n"
WHOLE = zipped(npy(HEADER % b"(4, 2, 2, 3)", bytes(48)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x,y\n1,2\n",
        b"PK\x03\x04 and no more",
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:60] + b"\xff" * 20 + WHOLE[80:],
        WHOLE.replace(b"PK\x03\x04\x14\0\0\0", b"PK\x03\x04\x14\0\x01\0").replace(
            b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\x01\0"
        ),
        zipped(npy(HEADER % b"(4, 2, 2, 3)", bytes(40))),
        zipped(npy(HEADER % b"(1000000, 1000000, 1000000)")),
        zipped(npy(HEADER % b"(%d,)" % 2**62)),
        zipped(npy(HEADER % b"(((((((((")),
        zipped(npy(b"[" * 9000)),
        zipped(npy(b"{'descr': 'O', 'fortran_order': False, 'shape': (3,), }")),
        zipped(b"no array"),
    ],
    ids=["empty", "text", "zip's beginning", "half", "damaged", "encrypted", "short array",
         "overflowing shape", "huge shape", "open brackets", "deep brackets", "objects", "not npy"],
)  # fmt: skip
def test_damaged_files_are_refused(npz, content):
    npz.write_bytes(content)
    message = message_of(npz)
    assert "cannot be read as .npz" in message and "save uint8 images" in message


def test_a_single_array_and_an_absent_file(npz):
    with npz.open("wb") as file:
        np.save(file, GOOD["x_train"])
    assert "is one array and not an .npz of several" in message_of(npz)
    assert "No such file" in message_of(npz.with_name("absent.npz"))
    assert "cannot be read" in message_of(npz.parent)


def test_invalid_ratios(npz):
    with pytest.raises(UserError, match="give the proportions"):
        read_arrays(write(npz, **GOOD), ratios=(0, 1, 1))


@settings(deadline=None, max_examples=80, database=None)
@given(data=st.data())
def test_changed_bytes_raise_nothing_but_user_errors(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "wild.npz"
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read_arrays(path)
    except UserError as error:
        assert str(path) in str(error)
