"""CIFAR-10 and CIFAR-100: values, and the messages about damaged files."""

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_resnet.data import Dataset, load_dataset
from flax_resnet.data.published import PUBLISHED
from flax_resnet.errors import UserError

# Types of the fixtures in conftest.py.
Files = dict[str, bytes]
Archive = Callable[..., bytes]
PlaceCifar = Callable[..., Path]
RealData = Callable[[str], Path]
AssertRefused = Callable[..., None]

PER_BATCH = 40  # records of each synthetic CIFAR-10 file
RECORD = 1 + 32 * 32 * 3
MEMBERS = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin", "batches.meta.txt"]

pytestmark = pytest.mark.usefixtures("no_network")


def arrays(data: Dataset) -> list[np.ndarray]:
    return [a for s in (data.train, data.validation, data.test) for a in (s.images, s.labels)]


def test_cifar10_values_and_order(
    tmp_path: Path, cifar10: Files, place_cifar10: PlaceCifar
) -> None:
    place_cifar10(tmp_path)
    data = load_dataset("cifar10", tmp_path, validation=0)
    assert data.classes == tuple(f"class{n}" for n in range(10))
    assert data.image_shape == (32, 32, 3)
    assert (len(data.train), len(data.test)) == (5 * PER_BATCH, PER_BATCH)
    raw = cifar10["data_batch_2.bin"][3 * RECORD : 4 * RECORD]
    position = PER_BATCH + 3
    assert data.train.labels[position] == raw[0]
    # Published layout: 1,024 red bytes row by row, then green, then blue.
    for row, column, channel in [(0, 0, 0), (0, 31, 1), (17, 5, 2), (31, 31, 2)]:
        value = raw[1 + 1024 * channel + 32 * row + column]
        assert data.train.images[position, row, column, channel] == value


def test_cifar100_has_fine_labels(tmp_path: Path, archive: Archive, cifar100: Files) -> None:
    content = archive(cifar100, "cifar-100-binary")
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(content)
    data = load_dataset("cifar100", tmp_path, validation=0.5)
    assert data.classes[:2] == ("fine0", "fine1")
    assert len(data.classes) == 100
    assert np.bincount(data.train.labels).tolist() == [1] * 100
    assert data.test.labels.tolist() == list(range(100))
    assert (
        data.test.images[7].transpose(2, 0, 1).tobytes()
        == cifar100["test.bin"][7 * 3074 + 2 : 8 * 3074]
    )


def test_extracted_folder_is_the_same_data(
    tmp_path: Path, cifar10: Files, place_cifar10: PlaceCifar
) -> None:
    place_cifar10(tmp_path)
    folder = tmp_path / "other" / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, content in cifar10.items():
        (folder / name).write_bytes(content)
    packed = load_dataset("cifar10", tmp_path)
    loose = load_dataset("cifar10", str(tmp_path / "other"))
    for a, b in zip(arrays(packed), arrays(loose), strict=True):
        np.testing.assert_array_equal(a, b)


def test_archive_is_not_unpacked_and_other_members_are_ignored(
    tmp_path: Path, archive: Archive, cifar10: Files, place_cifar10: PlaceCifar
) -> None:
    path = place_cifar10(tmp_path, archive({"../../evil": b"x", "readme.html": b"y"} | cifar10))
    load_dataset("cifar10", tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


@pytest.mark.parametrize("keep", [0, 1, 10, 0.1, 0.5, 0.999, -9, -8, -4, -1])
def test_truncated_archive(
    tmp_path: Path,
    keep: float,
    assert_refused: AssertRefused,
    cifar10_archive: bytes,
    place_cifar10: PlaceCifar,
) -> None:
    end = int(keep * len(cifar10_archive)) if isinstance(keep, float) else keep
    assert_refused("cifar10", tmp_path, place_cifar10(tmp_path, cifar10_archive[:end]))


@settings(database=None, max_examples=25, deadline=None)
@given(data=st.data(), flip=st.integers(1, 255))
def test_damaged_archive(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    flip: int,
    cifar10: Files,
    cifar10_archive: bytes,
    place_cifar10: PlaceCifar,
) -> None:
    """The damage is reported or harmless: deflate has a few unused padding bits."""
    content = bytearray(cifar10_archive)
    content[data.draw(st.integers(10, len(content) - 1))] ^= flip
    folder = tmp_path_factory.mktemp("damaged")
    place_cifar10(folder, bytes(content))
    try:
        train = load_dataset("cifar10", folder, validation=0).train
    except UserError as error:
        assert "delete" in str(error)
    else:
        batches = [cifar10[f"data_batch_{n}.bin"] for n in range(1, 6)]
        planar = train.images.transpose(0, 3, 1, 2).reshape(-1, 3072)
        records = np.concatenate([train.labels[:, None].astype(np.uint8), planar], axis=1)
        assert records.tobytes() == b"".join(batches)


def test_archive_with_wrong_crc(
    tmp_path: Path, assert_refused: AssertRefused, cifar10_archive: bytes, place_cifar10: PlaceCifar
) -> None:
    content = bytearray(cifar10_archive)
    content[-8] ^= 1
    assert_refused("cifar10", tmp_path, place_cifar10(tmp_path, bytes(content)), "gzip")


@settings(database=None, max_examples=40, deadline=None)
@given(position=st.integers(0, 511), value=st.integers(0, 255))
def test_damaged_tar_header(
    tmp_path_factory: pytest.TempPathFactory,
    position: int,
    value: int,
    cifar10_archive: bytes,
    place_cifar10: PlaceCifar,
) -> None:
    """With a correct gzip CRC the archive loads or raises a UserError, and nothing else."""
    content = bytearray(gzip.decompress(cifar10_archive))
    content[position] = value
    folder = tmp_path_factory.mktemp("header")
    place_cifar10(folder, gzip.compress(bytes(content), 0))
    try:
        load_dataset("cifar10", folder)
    except UserError as error:
        assert "delete" in str(error)


def test_not_an_archive(
    tmp_path: Path, assert_refused: AssertRefused, place_cifar10: PlaceCifar
) -> None:
    path = place_cifar10(tmp_path, b"<html>Please log in</html>")
    assert_refused("cifar10", tmp_path, path, "gzip")


@pytest.mark.parametrize("name", MEMBERS)
def test_missing_member(
    tmp_path: Path,
    name: str,
    assert_refused: AssertRefused,
    archive: Archive,
    cifar10: Files,
    place_cifar10: PlaceCifar,
) -> None:
    assert sorted(cifar10) == sorted(MEMBERS)
    rest = {key: content for key, content in cifar10.items() if key != name}
    assert_refused("cifar10", tmp_path, place_cifar10(tmp_path, archive(rest)), "lacks", name)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data_batch_3.bin": bytes(PER_BATCH * RECORD - 1)}, "data_batch_3.bin"),
        ({"test_batch.bin": b""}, "test_batch.bin"),
        ({"test_batch.bin": b"\x0a" + bytes(3072)}, "label 10"),
        ({"batches.meta.txt": b"airplane\n"}, "1 class names"),
        ({"batches.meta.txt": b"\xff\n" * 10}, "utf-8"),
    ],
)
def test_wrong_member(
    tmp_path: Path,
    change: Files,
    expected: str,
    assert_refused: AssertRefused,
    archive: Archive,
    cifar10: Files,
    place_cifar10: PlaceCifar,
) -> None:
    path = place_cifar10(tmp_path, archive(cifar10 | change))
    assert_refused("cifar10", tmp_path, path, expected)


@pytest.mark.parametrize(("label", "expected"), [(b"\x14\x00", "20"), (b"\x00\x64", "100")])
def test_cifar100_label_out_of_range(
    tmp_path: Path,
    label: bytes,
    expected: str,
    assert_refused: AssertRefused,
    archive: Archive,
    cifar100: Files,
) -> None:
    path = tmp_path / "cifar-100-binary.tar.gz"
    members = cifar100 | {"test.bin": label + bytes(3072)}
    path.write_bytes(archive(members, "cifar-100-binary"))
    assert_refused("cifar100", tmp_path, path, f"label {expected}")


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE])
def test_member_that_claims_an_absurd_size(
    tmp_path: Path, kind: bytes, assert_refused: AssertRefused, place_cifar10: PlaceCifar
) -> None:
    info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    info.type, info.size = kind, 1 << 40
    assert_refused("cifar10", tmp_path, place_cifar10(tmp_path, gzip.compress(info.tobuf())))


def test_damaged_folder_names_the_folder(tmp_path: Path, cifar10: Files) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name, content in (cifar10 | {"data_batch_5.bin": b"short"}).items():
        (folder / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_dataset("cifar10", tmp_path)
    for fact in (str(folder), "data_batch_5.bin", PUBLISHED["cifar10"][0].sha256):
        assert fact in str(caught.value)


def test_real_cifar10(real_data: RealData) -> None:
    data = load_dataset(
        "cifar10", real_data("cifar-10-binary.tar.gz"), validation=0.1, download=False
    )
    # The copy's test batch is shortened to 1,000 records.
    assert (len(data.train), len(data.validation), len(data.test)) == (45_000, 5_000, 1_000)
    assert " ".join(data.classes) == ("airplane automobile bird cat deer dog frog horse ship truck")
    assert np.bincount(data.train.labels).tolist() == [4_500] * 10
    assert np.bincount(data.validation.labels).tolist() == [500] * 10
    # uint64 sums: exact, and without a float copy of all images.
    sums = [s.images.sum(axis=(0, 1, 2), dtype=np.uint64) for s in (data.train, data.validation)]
    means = (sums[0] + sums[1]) / (50_000 * 32 * 32 * 255)
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=5e-5)
