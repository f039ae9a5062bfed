"""Synthetic archives with the published layouts, and checks of the messages about damaged ones."""

import gzip
import io
import struct
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flax_resnet.data import builtin, load_dataset
from flax_resnet.data.published import PUBLISHED
from flax_resnet.data.tfds import find_prepared, prepare
from flax_resnet.download import PublishedFile
from flax_resnet.errors import UserError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The test may not reach the network, or the real home folder."""

    def refuse(file: PublishedFile, target: Path, otherwise: str) -> None:
        raise AssertionError(f"download of {file.url}")

    monkeypatch.setattr(builtin, "fetch", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """``real_data(name)``: the folder of real data, if it has ``name``; otherwise skip."""

    def folder_with(name: str) -> Path:
        if not (REAL / name).exists():
            pytest.skip("no real data here")
        return REAL

    return folder_with


@pytest.fixture(scope="session")
def assert_refused() -> Callable[..., None]:
    """``assert_refused(name, folder, culprit, *expected)``: loading fails with a message that has
    the file, what is wrong (``expected``), what was published, and what to do."""

    def check(name: str, folder: Path, culprit: Path, *expected: str) -> None:
        with pytest.raises(UserError) as caught:
            load_dataset(name, folder)
        message = str(caught.value)
        (file,) = [f for f in PUBLISHED[name] if f.name == culprit.name]
        for fact in (str(culprit), str(file.size), file.sha256, file.url, "delete", *expected):
            assert fact in message, message
        assert "\n" not in message
        assert caught.value.exit_code == 1

    return check


# --- Photos, archives of photos, and prepared sets ----------------------


@pytest.fixture(scope="session")
def jpeg() -> Callable[[int], bytes]:
    """``jpeg(seed)``: a small JPEG file, a different one for each seed."""

    def make(seed: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 7 + seed % 5, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def tar() -> Callable[..., bytes]:
    """``tar(files)``: a tar with the files of ``{name: content}``, with the names unchanged."""

    def make(files: Mapping[str, bytes], compress: bool = False) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return gzip.compress(buffer.getvalue(), 1) if compress else buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def place() -> Callable[[Path, Mapping[str, bytes]], Path]:
    """``place(folder, files)``: write the files of ``{name: content}``; returns the folder."""

    def write(folder: Path, files: Mapping[str, bytes]) -> Path:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    return write


@pytest.fixture(scope="session")
def read_back() -> Callable[..., list[dict[str, Any]]]:
    """``read_back(name, data_dir, split)``: all examples by ``tfds.data_source``, the image as the
    bytes of its file; of the first few also that TFDS decodes to what Pillow does."""

    def read(name: str, data_dir: Path, split: str) -> list[dict[str, Any]]:
        import tensorflow_datasets as tfds

        where = {"data_dir": data_dir, "split": split}
        decoders = {"image": tfds.decode.SkipDecoding()}
        stored = list(tfds.data_source(name, **where, decoders=decoders))
        decoded = tfds.data_source(name, **where)
        for index, raw in enumerate(stored[:9]):
            pixels = np.asarray(Image.open(io.BytesIO(raw["image"])))
            np.testing.assert_array_equal(decoded[index]["image"].reshape(pixels.shape), pixels)
        assert "tensorflow" not in sys.modules
        return stored

    return read


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """``refused(name, source, data_dir)``: the sentence with which preparing fails, after which
    there is no prepared set."""

    def message_of(name: str, source: Path, data_dir: Path) -> str:
        with pytest.raises(UserError) as caught:
            prepare(name, source, data_dir)
        message = str(caught.value)
        assert "\n" not in message and caught.value.exit_code == 1
        assert find_prepared(name, data_dir) is None
        return message

    return message_of


# --- CIFAR -------------------------------------------------------------------


def _record(label: bytes, seed: int) -> bytes:
    return label + np.random.default_rng(seed).integers(0, 256, 3072, np.uint8).tobytes()


def _archive(members: Mapping[str, bytes], folder: str = "cifar-10-batches-bin") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def archive() -> Callable[..., bytes]:
    """``archive(members, folder)``: the ``.tar.gz`` of these files in this folder."""
    return _archive


@pytest.fixture(scope="session")
def cifar10() -> dict[str, bytes]:
    """CIFAR-10's files, with 40 records each, four of each class, ``class0`` to ``class9``."""
    files = [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]
    members = {
        name: b"".join(_record(bytes([i % 10]), 1000 * n + i) for i in range(40))
        for n, name in enumerate(files)
    }
    members["batches.meta.txt"] = ("\n".join(f"class{n}" for n in range(10)) + "\n\n").encode()
    return members


@pytest.fixture(scope="session")
def cifar10_archive(cifar10: dict[str, bytes]) -> bytes:
    return _archive(cifar10)


@pytest.fixture(scope="session")
def cifar100() -> dict[str, bytes]:
    """CIFAR-100's files: two training images and one test image of each fine class."""
    labels = [bytes([i % 20, i % 100]) for i in range(200)]
    return {
        "train.bin": b"".join(_record(label, i) for i, label in enumerate(labels)),
        "test.bin": b"".join(_record(label, 500 + i) for i, label in enumerate(labels[:100])),
        "fine_label_names.txt": "".join(f"fine{n}\n" for n in range(100)).encode(),
        "coarse_label_names.txt": "".join(f"coarse{n}\n" for n in range(20)).encode(),
    }


@pytest.fixture(scope="session")
def place_cifar10(cifar10_archive: bytes) -> Callable[..., Path]:
    """``place_cifar10(folder, content)``: the archive's path; the good archive by default."""

    def place(folder: Path, content: bytes = cifar10_archive) -> Path:
        path = folder / "cifar-10-binary.tar.gz"
        path.write_bytes(content)
        return path

    return place


# --- IDX ---------------------------------------------------------------------


def _idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="session")
def idx() -> Callable[[np.ndarray], bytes]:
    """``idx(array)``: the IDX file of an array of bytes."""
    return _idx


@pytest.fixture(scope="session")
def idx_contents() -> dict[str, bytes]:
    """The four files of an IDX set, not compressed: 100 training and 20 test images."""
    rng = np.random.default_rng(0)
    contents = {}
    for part, count in (("train", 100), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        contents[f"{part}-images-idx3-ubyte.gz"] = _idx(images)
        contents[f"{part}-labels-idx1-ubyte.gz"] = _idx(np.arange(count) % 10)
    return contents


@pytest.fixture(scope="session")
def place_idx() -> Callable[[Path, Mapping[str, bytes]], None]:
    """``place_idx(folder, contents)``: write the files, compressed."""

    def place(folder: Path, contents: Mapping[str, bytes]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(gzip.compress(content, 1))

    return place
