"""NumPy's arrays in pickles, built from what a ``Foreign`` records."""

import math
from typing import Any

import numpy as np

from .pickled_names import Foreign, ForeignClass

_KINDS = "fiub"  # of numbers; others may hold objects


def array_of(value: Any) -> np.ndarray | None:
    """Return the read-only array that a pickled ``numpy.ndarray`` describes.

    None stands for other objects, and for arrays of anything but numbers or of a wrong size.
    """
    if not isinstance(value, Foreign) or not isinstance(value.kind, ForeignClass):
        return None
    package, _, module = value.kind.module.rpartition(".")
    if package not in ("numpy.core", "numpy._core"):
        return None
    match (module, value.kind.name), value.arguments, value.state:
        case ("multiarray", "_reconstruct"), _, (int(), tuple(shape), dtype, fortran, bytes(data)):
            return _array(data, dtype, shape, "F" if fortran is True else "C")
        case ("numeric", "_frombuffer"), (bytes() | bytearray() as data, dtype, shape, order), _:
            return _array(data, dtype, shape, "F" if order == "F" else "C")
    return None


def _array(data: bytes | bytearray, described: Any, shape: Any, order: str) -> np.ndarray | None:
    dtype = _dtype(described)
    lengths = shape if type(shape) is tuple and len(shape) <= 32 else (None,)
    if dtype is None or not all(type(n) is int and n >= 0 for n in lengths):
        return None
    if math.prod(lengths) * dtype.itemsize != len(data):
        return None
    flat = np.frombuffer(bytes(data) if isinstance(data, bytearray) else data, dtype)
    return flat.reshape(lengths, order=order)  # type: ignore[call-overload, no-any-return]


def _dtype(described: Any) -> np.dtype | None:
    """Return the dtype of ``numpy.dtype("f4", False, True)`` with its state (3, "<", ...)."""
    if not isinstance(described, Foreign) or str(described) != "numpy.dtype":
        return None
    match described.arguments, described.state:
        case (str(name), *_), (int(), "<" | ">" | "|" | "=" as order, *_):
            known = {f"{kind}{size}" for kind in _KINDS for size in (1, 2, 4, 8)} - {"f1"}
            return np.dtype(name).newbyteorder(order) if name in known else None
    return None
