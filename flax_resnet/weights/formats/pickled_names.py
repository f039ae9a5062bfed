"""The names that a pickle holds: a table of our functions, and inert stand-ins for all others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

AGAIN = "download or copy it again"
MAX_KEY_BITS = 64  # longer integers can be chosen so that all have one hash

_NUMPY = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
# NumPy's type of each torch dtype; files are little-endian.
DTYPES: dict[str, np.dtype[Any]] = {
    **{name: np.dtype(name).newbyteorder("<") for name in _NUMPY},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}


class Unreadable(Exception):
    """Reason why a file is not read: the end of a sentence that begins with the file's name."""


@dataclass(frozen=True)
class StorageType:
    """A storage class of PyTorch, by the dtype of its elements."""

    dtype: np.dtype[Any]


@dataclass(frozen=True)
class TensorPlan:
    """Unchecked description of a tensor in a pickle.

    Attributes:
        storage: Result of the persistent id.
        offset, size, stride: In elements.
        dtype: Of the elements, or None for the storage's own.
    """

    storage: Any
    offset: Any
    size: Any
    stride: Any
    dtype: np.dtype[Any] | None = None


@dataclass(frozen=True)
class NestedFile:
    """The bytes of a file of torch's older format, in which pickle.dump keeps a storage."""

    content: bytes


@dataclass(frozen=True)
class Function:
    """Our replacement of a function or class that a pickle may call.

    Attributes:
        call: Our own code, which gets the pickle's unchecked arguments.
        fewest, most: The number of arguments.
        copies: Whether the result is as large as the arguments, which may stay in memory too.
    """

    call: Callable[..., object]
    fewest: int
    most: int
    copies: bool = False


@dataclass(frozen=True, eq=False)
class ForeignClass:
    """A class or function outside of the table, neither imported nor called."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}")


@dataclass(eq=False, slots=True)
class Foreign:
    """An object of a class outside of the table, not built: what the pickle says about it.

    Attributes:
        kind: Its class or function, or another object that is called.
        arguments: Those of the call.
        state: What ``__setstate__`` would get; of most objects the dict of their attributes.
        items: Values that would be appended or added.
        entries: Values that would be set by key.
    """

    kind: "ForeignClass | Foreign"
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] | None = None
    entries: dict[Any, Any] | None = None

    def __str__(self) -> str:
        kind = self.kind
        while isinstance(kind, Foreign):
            kind = kind.kind
        return str(kind)


def damaged(what: str) -> Unreadable:
    return Unreadable(f"is damaged ({what}): {AGAIN}")


def printable(text: str) -> str:
    """Return text of a file shortened and without control characters."""
    shown = text[:80].encode("unicode_escape").decode()
    return shown + "…" if len(text) > 80 else shown


def as_key(value: Any) -> Any:
    """Return ``value`` if it may be a key of a dict or a member of a set.

    Tuples may not: their hash would visit all that is in them, again and again.

    Raises:
        Unreadable: It may not.
    """
    if type(value) in (str, bytes, float, bool, type(None), ForeignClass, Foreign) or (
        type(value) is int and value.bit_length() <= MAX_KEY_BITS
    ):
        return value
    raise Unreadable(
        f"has a key of type {type(value).__name__} in a dict or set, where only text, bytes and "
        "plain numbers are read: save the state_dict() alone"
    )


def _wrong_argument() -> Unreadable:
    return damaged("its pickle calls a function with a wrong argument")


def _mapping(content: Any = ()) -> dict[Any, Any]:
    """Create an OrderedDict, from nothing or Python 2's list of pairs, or a Counter."""
    if type(content) is dict:
        return dict(content)
    made = {}
    for pair in _checked(content, list, tuple):
        if len(_checked(pair, list, tuple)) != 2:
            raise _wrong_argument()
        made[as_key(pair[0])] = pair[1]
    return made


def _default_dict(_factory: Any = None, content: Any = ()) -> dict[Any, Any]:
    return _mapping(content)


def _set(items: Any = ()) -> set[Any]:
    return set(map(as_key, _checked(items, list, tuple)))


def _frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(map(as_key, _checked(items, list, tuple)))


def _encode(text: Any, codec: Any) -> bytes:
    """Decode bytes of protocols 0 to 2, which write them as Latin-1 text."""
    if _checked(codec, str) not in ("latin1", "latin-1"):
        raise _wrong_argument()
    try:
        return _checked(text, str).encode("latin-1")
    except UnicodeEncodeError as error:
        raise _wrong_argument() from error


def _bytearray(content: Any = b"", *codec: Any) -> bytearray:
    return bytearray(_encode(content, *codec) if codec else _checked(content, bytes))


def _device(kind: Any, index: Any = None) -> str:
    return _checked(kind, str) if index is None else f"{_checked(kind, str)}:{_checked(index, int)}"


def _size(lengths: Any = ()) -> tuple[Any, ...]:
    return tuple(_checked(lengths, tuple, list))


def _tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, metadata: Any = None
) -> TensorPlan:
    _check_metadata(metadata)
    return TensorPlan(storage, offset, size, stride)


def _tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _grad: Any,
    _hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> TensorPlan:
    _check_metadata(metadata)
    return TensorPlan(storage, offset, size, stride, _checked(dtype, *_DTYPE_CLASSES))


def _check_metadata(metadata: Any) -> None:
    if metadata is not None and _checked(metadata, dict):
        raise Unreadable(
            "has a tensor that is a conjugate or negative view: save tensor.resolve_conj() and "
            "tensor.resolve_neg()"
        )


def _nested(content: Any) -> NestedFile:
    return NestedFile(_checked(content, bytes))


def _parameter(data: Any, *_: Any) -> object:
    return data


def _checked(value: Any, *kinds: type) -> Any:
    # By type, not with ==: what a pickle gives may compare as it likes.
    if type(value) not in kinds:
        raise _wrong_argument()
    return value


_DTYPE_CLASSES = {type(dtype) for dtype in DTYPES.values()}
_BUILTINS = {
    "set": Function(_set, 0, 1, copies=True),
    "frozenset": Function(_frozenset, 0, 1, copies=True),
    "bytes": Function(bytes, 0, 0),
    "bytearray": Function(_bytearray, 0, 2, copies=True),
}

NAMES: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): Function(_mapping, 0, 1, copies=True),
    ("collections", "Counter"): Function(_mapping, 0, 1, copies=True),
    ("collections", "defaultdict"): Function(_default_dict, 0, 2, copies=True),
    ("_codecs", "encode"): Function(_encode, 2, 2, copies=True),
    # Protocols 0 to 2 have Python 2's name of the module.
    **{
        (module, name): _BUILTINS[name]
        for module in ("builtins", "__builtin__")
        for name in _BUILTINS
    },
    ("torch", "Size"): Function(_size, 0, 1, copies=True),
    ("torch", "device"): Function(_device, 1, 2, copies=True),
    ("torch.storage", "_load_from_bytes"): Function(_nested, 1, 1, copies=True),
    ("torch._utils", "_rebuild_tensor"): Function(TensorPlan, 4, 4),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_tensor_v2, 6, 7),
    ("torch._utils", "_rebuild_tensor_v3"): Function(_tensor_v3, 7, 8),
    ("torch._utils", "_rebuild_parameter"): Function(_parameter, 3, 3),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(_parameter, 4, 4),
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    **{
        (module, name): StorageType(DTYPES[dtype])
        for module in ("torch", "torch.storage")
        for name, dtype in STORAGES.items()
    },
}
