"""Arrays by name that are read when they are looked up."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np


class LazyArrays(Mapping[str, Any]):
    """Arrays that are read one at a time, so that a conversion never holds the file twice.

    Args:
        names: Names of the arrays.
        read: Function that reads the array of a name.
        read_shape: Function that reads a shape alone; by default the array is read.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[str], np.ndarray],
        read_shape: Callable[[str], Sequence[int]] | None = None,
    ) -> None:
        self._names = dict.fromkeys(names)
        self._read = read
        self.read_shape = read_shape or (lambda name: read(name).shape)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def array_shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array, read from the header where the file has one."""
    if isinstance(arrays, LazyArrays):
        return {name: tuple(arrays.read_shape(name)) for name in arrays}
    return {name: tuple(array.shape) for name, array in arrays.items()}


def is_array(value: Any) -> bool:
    """Return whether a value is an array of NumPy, JAX or PyTorch."""
    return hasattr(value, "shape") and hasattr(value, "dtype")
