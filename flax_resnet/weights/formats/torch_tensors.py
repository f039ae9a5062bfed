"""PyTorch's tensors as NumPy arrays, with every claim of their pickle checked."""

import math
import mmap
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from .pickled_names import NestedFile, StorageType, TensorPlan, Unreadable, damaged, printable

# Of a tensor; NumPy has 64 at most. It bounds what one tensor without data may take.
MAX_AXES = 32


@dataclass(frozen=True)
class Storage:
    """The one-dimensional array on which tensors are views."""

    values: np.ndarray


@dataclass(frozen=True)
class StorageId:
    """A checked persistent id: ``numel`` elements of ``dtype`` under ``key``.

    Attributes:
        view: Offset and number of elements of a slice; in older files only.
    """

    key: str
    dtype: np.dtype[Any]
    numel: int
    view: tuple[int, int] | None


def storage_id(persistent_id: Any, sizes: tuple[int, ...]) -> StorageId:
    """Check ("storage", type, key, device, numel), in older files with a view or None after it.

    Args:
        sizes: Lengths that the tuple may have.

    Raises:
        Unreadable: The value is anything else.
    """
    wrong = damaged("a tensor has no proper storage")
    if type(persistent_id) is not tuple or len(persistent_id) not in sizes:
        raise wrong
    word, kind, key, _, numel, *rest = persistent_id
    if not (type(word) is str and word == "storage" and isinstance(kind, StorageType)):
        raise wrong
    if type(key) is not str or not _are_counts(numel):
        raise wrong
    if not rest or rest[0] is None:
        return StorageId(key, kind.dtype, numel, None)
    if type(rest[0]) is not tuple or len(rest[0]) != 3 or not _are_counts(*rest[0][1:]):
        raise wrong
    return StorageId(key, kind.dtype, numel, rest[0][1:])


def _are_counts(*values: Any) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


def view_storage(content: memoryview, identity: StorageId) -> Storage:
    """Return the array of a storage, or of a slice of it, on the bytes of the file.

    Raises:
        Unreadable: There are fewer bytes than claimed.
    """
    available = len(content) // identity.dtype.itemsize
    offset, numel = identity.view or (0, identity.numel)
    if identity.numel > available or offset + numel > identity.numel:
        raise damaged(
            f"storage {printable(identity.key)} has {available} elements, a tensor claims "
            f"{max(identity.numel, offset + numel)}"
        )
    start = offset * identity.dtype.itemsize
    return Storage(np.frombuffer(content, identity.dtype, numel, start))


def build_tensor(plan: TensorPlan | NestedFile) -> np.ndarray:
    """Return the read-only array that a plan describes, a view on its storage.

    Raises:
        Unreadable: The array reaches out of the storage or has more elements than it (as some of
            PyTorch's expanded views do; nothing else needs a stride of 0), or is no tensor.
    """
    if not isinstance(plan, TensorPlan) or not isinstance(plan.storage, Storage):
        raise damaged("a tensor has no proper storage")
    shape, strides = plan.size, plan.stride
    if not (type(shape) is tuple and type(strides) is tuple and len(shape) == len(strides)):
        raise damaged("a tensor has no proper shape")
    if len(shape) > MAX_AXES:
        raise Unreadable(f"has a tensor of {len(shape)} axes: at most {MAX_AXES} are read")
    if not _are_counts(plan.offset, *shape, *strides):
        raise damaged("a tensor has no proper shape")
    values = plan.storage.values
    if plan.dtype is not None:
        whole = values.nbytes // plan.dtype.itemsize * plan.dtype.itemsize
        values = values.view(np.uint8)[:whole].view(plan.dtype)
    if 0 in shape:
        return _empty(shape, values.dtype)
    reach = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if plan.offset + reach >= values.size or math.prod(shape) > values.size:
        raise damaged(
            f"a tensor of shape {list(shape)}, strides {list(strides)} and offset {plan.offset} "
            f"does not fit into its storage of {values.size} elements"
        )
    # The stride of an axis of one element is never used, and may be any number.
    steps = [values.itemsize * (n > 1) * stride for n, stride in zip(shape, strides, strict=True)]
    return np.ndarray(shape, values.dtype, values, plan.offset * values.itemsize, steps)


def release_pages(array: np.ndarray) -> None:
    """Let the system drop the pages of the file that ``array`` is a view on, if it is one.

    The array stays valid: what is read again is mapped again.
    """
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview) and isinstance(owner.obj, mmap.mmap):
        release_mapped_pages(owner.obj)


def release_mapped_pages(mapped: mmap.mmap) -> None:
    """Let the system drop the pages of a mapped file that were read; Windows decides by itself."""
    if sys.platform != "win32":
        mapped.madvise(mmap.MADV_DONTNEED)


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize >= 2**63:
        raise damaged(f"a tensor has the shape {list(shape)}")
    empty = np.empty(shape, dtype)
    empty.flags.writeable = False
    return empty
