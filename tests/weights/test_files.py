"""Files of weights: every kind read and written, damaged ones refused."""

import io
import json
import struct
import tracemalloc
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet import UserError
from flax_resnet.weights import read_weights, write_weights

from .conftest import seeded_state_dict, torch_shapes


@pytest.fixture(scope="module")
def resnet20():
    model = fr.create_model("resnet20")
    state_dict = seeded_state_dict(torch_shapes(model))
    return model, fr.from_torchvision(state_dict, model), state_dict


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".SafeTensors"])
def test_round_trip_is_bit_equal(tmp_path, resnet20, ending):
    model, variables, state_dict = resnet20
    path = tmp_path / "new folder" / f"weights{ending}"
    fr.save_weights(path, variables, model)
    again = fr.load_weights(path, model)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))
    assert set(read_weights(path)) == set(state_dict)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_bfloat16_keeps_its_values(tmp_path, ending):
    array = np.array([1.5, -3e38, 1e-30], ml_dtypes.bfloat16)
    write_weights(tmp_path / f"w{ending}", {"a": array})
    read = read_weights(tmp_path / f"w{ending}")["a"]
    assert np.array_equal(read.astype(np.float32), array.astype(np.float32))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>404</html>", bytes(1000)])
@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".pth", ".th", ".bin"])
def test_what_is_no_such_file_is_said(tmp_path, resnet20, ending, content):
    path = tmp_path / f"weights{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        fr.load_weights(path, resnet20[0])


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path, resnet20, ending, share):
    model, variables, _ = resnet20
    path = tmp_path / f"weights{ending}"
    fr.save_weights(path, variables, model)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match=str(path)):
        fr.load_weights(path, model)


def test_a_flipped_bit_in_npz_is_noticed(tmp_path, resnet20):
    model, variables, _ = resnet20
    path = tmp_path / "weights.npz"
    fr.save_weights(path, variables, model)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 16
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="damaged"):
        fr.load_weights(path, model)


def npy(shape, data=b""):
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


def objects():
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("entry", "compression"),
    [
        (npy((10**12,)), zipfile.ZIP_STORED),  # claims 4 TB
        (npy((2**28,), bytes(2**28)), zipfile.ZIP_DEFLATED),  # unpacks to 268 MB
        (npy((-1,)), zipfile.ZIP_STORED),
        (objects(), zipfile.ZIP_STORED),
    ],
    ids=["claims too much", "bomb", "negative", "objects"],
)
def test_hostile_npz_allocates_nothing(tmp_path, entry, compression):
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("conv1.weight.npy", entry)
    del entry
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=str(path)):
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size + 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        {"conv1.weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 16]}},
        {"conv1.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 10**12]}},
        {"conv1.weight": {"dtype": "X9", "shape": [4], "data_offsets": [0, 16]}},
    ],
    ids=["shape", "offsets", "dtype"],
)
def test_hostile_safetensors_are_refused(tmp_path, header):
    path = tmp_path / "weights.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    with pytest.raises(UserError, match="not a sound"):
        read_weights(path)


def test_wrong_paths_are_said(tmp_path, resnet20):
    model, variables, _ = resnet20
    with pytest.raises(UserError, match="is not there"):
        fr.load_weights(tmp_path / "none.pth", model)
    with pytest.raises(UserError, match="is a folder"):
        fr.load_weights(tmp_path, model)
    (tmp_path / "weights.h5").touch()
    with pytest.raises(UserError, match="is empty"):
        fr.load_weights(tmp_path / "weights.h5", model)
    with pytest.raises(UserError, match=r"must end in one of \.safetensors"):
        fr.save_weights(tmp_path / "weights.onnx", variables, model)
    with pytest.raises(UserError, match="cannot be written"):
        fr.save_weights(tmp_path / "weights.h5" / "below.npz", variables, model)


def test_a_failed_write_leaves_the_old_file(tmp_path, resnet20, monkeypatch):
    model, variables, _ = resnet20
    path = tmp_path / "weights.npz"
    path.write_bytes(b"old")

    def full(*arguments, **arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="No space left"):
        fr.save_weights(path, variables, model)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
