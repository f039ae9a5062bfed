"""Writer of state dicts in the format of torch.save, without PyTorch."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .pickled_names import DTYPES, STORAGES

# torch.load maps files whose arrays begin at multiples of this.
ALIGNMENT = 64
_STORAGES = {DTYPES[dtype]: storage for storage, dtype in STORAGES.items() if "U" not in storage}


def write_torch(path: Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name as ``torch.save`` writes a state dict of tensors on the CPU.

    ``torch.load(path, weights_only=True)`` reads it.

    Raises:
        OSError: The file cannot be written.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in state_dict.items()}
    with zipfile.ZipFile(path, "w") as archive:

        def write(name: str, content: Any) -> None:
            entry = zipfile.ZipInfo(f"archive/{name}")
            # An extra field, which readers skip, moves the content to a multiple of ALIGNMENT.
            start = archive.start_dir + 30 + len(entry.filename) + 4
            padding = -start % ALIGNMENT
            entry.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
            archive.writestr(entry, content)

        write("data.pkl", _pickle(arrays))
        write("byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            write(f"data/{key}", little.reshape(-1).view(np.uint8).data)
        write("version", b"3\n")


def _pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the pickle of a dict of tensors, whose classes need not be here to be named."""
    items = b"".join(
        _value(name) + _tensor(str(key), array) for key, (name, array) in enumerate(arrays.items())
    )
    return pickle.PROTO + b"\x02" + _ORDERED_DICT + b"(" + items + b"u."


def _value(value: Any) -> bytes:
    """Return the instructions that push a value: its pickle without PROTO and STOP."""
    return pickle.dumps(value, 2)[2:-1]


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


_ORDERED_DICT = _name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _tensor(key: str, array: np.ndarray) -> bytes:
    kind = _STORAGES[array.dtype.newbyteorder("<")]
    storage = (
        pickle.MARK
        + _value("storage")
        + _name("torch", kind)
        + b"".join(map(_value, (key, "cpu", array.size)))
        + pickle.TUPLE
        + pickle.BINPERSID
    )
    strides = tuple(step // array.itemsize for step in array.strides)
    # _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)
    layout = b"".join(map(_value, (0, array.shape, strides, False)))
    return (
        _name("torch._utils", "_rebuild_tensor_v2")
        + pickle.MARK
        + storage
        + layout
        + _ORDERED_DICT
        + pickle.TUPLE
        + pickle.REDUCE
    )
