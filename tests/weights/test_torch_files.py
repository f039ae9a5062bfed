"""Files of torch.save read without PyTorch: every value, and messages about other files."""

import gzip
import io
import mmap
import os
import pickle
import runpy
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from flax_resnet.errors import UserError
from flax_resnet.weights.formats.torch_files import read_torch_file

MADE = runpy.run_path(str(Path(__file__).with_name("make_torch_files.py")))
FILES = MADE["FILES"]
ARRAYS = MADE["make_arrays"]()


@pytest.fixture(params=["zip.pth", "legacy.pth"])
def golden(request):
    return FILES / request.param


@pytest.fixture
def checkpoint(golden):
    return read_torch_file(golden)


@pytest.fixture
def refused(tmp_path):
    """Returns a function that writes a file and returns the message about it."""

    def refuse(content):
        path = tmp_path / "model.pth"
        path.write_bytes(content)
        return message_about(path)

    return refuse


def message_about(path):
    with pytest.raises(UserError) as caught:
        read_torch_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path} ") and message.endswith(".") and "\n" not in message
    return message.removeprefix(f"{path} ")


def assert_same(array, expected):
    assert isinstance(array, np.ndarray) and array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)
    assert array.shape == expected.shape


def test_state_dict(checkpoint):
    state = checkpoint["state_dict"]
    assert list(state) == [
        "module.0.weight",
        "module.1.weight",
        "module.1.bias",
        "module.1.running_mean",
        "module.1.running_var",
        "module.1.num_batches_tracked",
    ]
    assert_same(state["module.0.weight"], ARRAYS["conv"])
    assert_same(state["module.1.running_mean"], ARRAYS["mean"])
    assert_same(state["module.1.running_var"], np.ones(2, np.float32))
    assert_same(state["module.1.num_batches_tracked"], np.array(0, np.int64))


@pytest.mark.parametrize("name", [*MADE["DTYPES"], "bool"])
def test_dtypes(checkpoint, name):
    assert_same(checkpoint["dtypes"][name], ARRAYS[name])


def test_bfloat16(checkpoint):
    expected = ARRAYS["bfloat16"].astype(ml_dtypes.bfloat16)
    assert_same(checkpoint["dtypes"]["bfloat16"], expected)
    np.testing.assert_array_equal(expected.astype(np.float32), ARRAYS["bfloat16"])


def test_views(checkpoint):
    views, matrix = checkpoint["views"], ARRAYS["matrix"]
    assert_same(views["whole"], matrix)
    assert_same(views["transposed"], matrix.T)
    assert_same(views["sliced"], matrix[1:, 1::2])
    assert_same(views["scalar"], np.array(matrix[2, 3]))
    assert_same(views["channels_last"], ARRAYS["conv"])
    assert_same(views["empty"], matrix[:0])
    assert_same(views["no_storage"], np.zeros((0, 3), np.float32))
    assert np.shares_memory(views["whole"], views["transposed"])
    assert views["sliced"].strides == (20, 8)
    assert views["channels_last"].strides == (108, 4, 36, 12)


def test_everything_else(checkpoint):
    assert checkpoint["torch"].startswith("2.13.0")
    assert (checkpoint["epoch"], checkpoint["best_acc1"]) == (12, 76.13)
    assert_same(checkpoint["parameter"], ARRAYS["mean"])
    assert checkpoint["size"] == (2, 3)
    assert checkpoint["device"] == "cuda:0"
    assert checkpoint["dtype"] == np.float16
    expected = [-3, 2**40, 0.5, True, None, "é", b"\xff\x00", bytearray(b"b"), (1, (2,)), {4, 5}]
    assert checkpoint["plain"] == expected
    assert list(map(type, checkpoint["plain"])) == list(map(type, expected))


@pytest.mark.parametrize("protocol", [1, 4, 5])
@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_protocols(kind, protocol):
    read = read_torch_file(FILES / f"{kind}{protocol}.pth")
    assert_same(read["uint16"], np.array([1, 2, 3], np.uint16))
    assert read["words"] == {"a": [frozenset({1}), b"x"]}


def test_a_plain_pickle():
    assert (
        read_torch_file(FILES / "checkpoints" / "tensors.pkl").keys()
        == read_torch_file(FILES / "checkpoints" / "state_dict.pth").keys()
    )


def test_checksums_that_torch_was_told_not_to_write():
    assert_same(read_torch_file(FILES / "no_crc.pth")["mean"], ARRAYS["mean"])


def test_arrays_are_read_only_views_on_the_file(checkpoint):
    array = checkpoint["state_dict"]["module.0.weight"]
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner.obj, mmap.mmap)


def test_large_files_are_not_copied(tmp_path):
    """The bytes of 8 MB of zeros, in both formats."""
    storage, numel = bytes(8_000_000), 2_000_000
    pickled = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage"
        b"\nX\x01\x00\x00\x000X\x06\x00\x00\x00cuda:0J" + struct.pack("<i", numel) + b"tQK\x00J"
        + struct.pack("<i", numel) + b"\x85K\x01\x85\x89NtR."
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", storage)
    head = b"".join(
        pickle.dumps(o, 2) for o in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    tail = pickle.dumps(["0"], 2) + struct.pack("<q", numel) + storage
    (tmp_path / "legacy.pth").write_bytes(head + pickled + tail)
    for name in ("zip.pth", "legacy.pth"):
        tracemalloc.start()
        array = read_torch_file(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert_same(array, np.zeros(numel, np.float32))
        assert peak < 200_000


def tar_file():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return stream.getvalue()


def numpy_file(save, **arrays):
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def zip_file(**entries):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            # An entry of that name has a fixed date: each test worker must make the same bytes.
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (tar_file(), "tar archive"),
        (numpy_file(np.save, arr=np.zeros(2)), "NumPy array"),
        (numpy_file(np.savez, a=np.zeros(2)), "NumPy archive"),
        (numpy_file(np.savez_compressed, a=np.zeros(2)), "NumPy archive"),
        (gzip.compress(b"PK", mtime=0), "gzip"),  # each test worker must make the same
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (pickle.dumps({"a": 1})[:-1], "damaged"),
        (zip_file(), "empty zip archive"),
        (zip_file(word="hello"), "no data.pkl"),
        (zip_file(**{"a/data.pkl": b"N.", "b/data.pkl": b"N."}), "more than one data.pkl"),
        (zip_file(**{"a/data.pkl": b"N.", "a/byteorder": b"big"}), "big-endian"),
        (b"weights", "begins with the bytes 77 65 69"),
    ],
)
def test_other_kinds_of_files(refused, content, words):
    assert words in refused(content)


def test_whole_model_is_described_and_not_built():
    model = read_torch_file(FILES / "whole_model.pth")
    assert str(model) == "torch.nn.modules.linear.Linear"
    assert model.state["in_features"] == 1
    assert model.state["_parameters"]["weight"].shape == (1, 1)


def test_big_endian_legacy(refused):
    content = (FILES / "legacy.pth").read_bytes()
    flag = b"little_endianq\x02\x88"
    assert content.count(flag) == 1
    assert "big-endian" in refused(content.replace(flag, flag[:-1] + b"\x89"))


@pytest.mark.parametrize(
    ("error", "words"),
    [(PermissionError(13, "no"), "permissions"), (OSError(5, "I/O error"), "I/O")],
)
def test_files_that_do_not_open(monkeypatch, golden, error, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("builtins.open", fail)
    assert words in message_about(golden)


def test_no_file_at_all(tmp_path):
    assert "is a folder" in message_about(tmp_path)
    assert "is not there" in message_about(tmp_path / "absent.pth")
    with pytest.raises(UserError, match=r"\\x00\.pth is no possible path"):
        read_torch_file(f"{tmp_path}/\0.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    assert "no regular file" in message_about(tmp_path / "pipe.pth")


def test_truncated_anywhere(refused, golden):
    content = golden.read_bytes()
    for length in [*range(0, len(content), 50), len(content) - 1]:
        words = refused(content[:length])
        assert "damaged" in words or "empty" in words or length < 32


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("zip.pth", b"module.1.running_mean"),  # in data.pkl
        ("zip.pth", ARRAYS["matrix"].tobytes()),
        ("zip.pth", b"little"),
    ],
)
def test_checksum_does_not_fit(refused, name, entry):
    content = bytearray((FILES / name).read_bytes())
    content[content.index(entry)] ^= 1
    assert "checksum of zip/" in refused(bytes(content))
