"""Reader of the files of torch.save, in both formats, without PyTorch."""

import io
import mmap
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from ...errors import UserError
from ...paths import expand
from .pickled_names import (
    AGAIN,
    ForeignClass,
    NestedFile,
    TensorPlan,
    Unreadable,
    damaged,
    printable,
)
from .torch_tensors import Storage, build_tensor, release_mapped_pages, storage_id, view_storage
from .unpickle import read_pickle

# torch before 1.6 began its files with the pickles of these two numbers.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
_MAGIC_BYTES = LEGACY_MAGIC.to_bytes(10, "little")
_MAGIC_TEXT = str(LEGACY_MAGIC).encode()
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and the extra field
_ENCRYPTED = 0x1
# What zipfile raises for damaged input.
_ZIP_DAMAGE = (zipfile.BadZipFile, struct.error, ValueError, OverflowError, NotImplementedError)

# What begins like this, or has it at a position, is something else.
_OTHER_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the file itself: run git lfs pull"),
    (257, b"ustar", "is a tar archive: unpack it, or, if torch 0.1 wrote it, save it again"),
    (0, b"\x93NUMPY", "is a NumPy array: save a dict of arrays as .npz"),
    (0, b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (0, b"\x89HDF", "is an HDF5 file, such as Keras writes: only files of torch.save are read"),
    (0, b"PK\x05\x06", "is an empty zip archive: " + AGAIN),
)


@dataclass(frozen=True)
class _Entry:
    """A file of a zip archive; ``crc`` is None where PyTorch wrote none."""

    name: str
    start: int
    content: memoryview
    crc: int | None
    compressed: bool


def read_torch_file(path: str | Path) -> Any:
    """Read what torch.save wrote, without PyTorch and without running code that the file names.

    Args:
        path: File of torch 1.6 or later (a zip archive), or of the format before it. It must not
            change while the arrays, which are views on it, are in use.

    Returns:
        dict, list, tuple, str, bytes, numbers, and so on, as saved. Tensors and parameters of
        every device are read-only NumPy arrays with the tensor's strides; bfloat16 and float8
        are those of ml_dtypes. Arrays out of the older format may be unaligned. Objects of all
        other classes are ``Foreign``: described, not built.

    Raises:
        UserError: Not a file, no permission, another kind of file, damaged, made to do harm, or
            big endian.
    """
    path = expand(path)
    try:
        with _open(path) as file:
            return _read(file)
    except Unreadable as error:
        raise UserError(f"{path} {error}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error


def _open(path: Path) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise Unreadable("is a folder: give the path of the file that torch.save wrote")
        if not stat.S_ISREG(mode):  # a pipe would be waited for
            raise Unreadable("is no regular file: give the path of the file that torch.save wrote")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise Unreadable("is not there: check the path") from error
    except PermissionError as error:
        raise Unreadable("may not be read by you: change its permissions") from error
    except ValueError as error:  # a null character
        raise Unreadable("is no possible path: check it") from error


def _read(file: BinaryIO) -> Any:
    if not file.read(1):
        raise Unreadable(f"is empty: {AGAIN}")
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    head = mapped[:512]
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(file, mapped)
    if _MAGIC_BYTES in head[:32] or _MAGIC_TEXT in head[:32]:
        return _read_legacy(cast(BinaryIO, mapped), memoryview(mapped))
    if head.startswith(b"\x80"):
        return _read_pickle(cast(BinaryIO, mapped))
    raise Unreadable(_kind_of(head))


def _kind_of(head: bytes) -> str:
    for position, signature, words in _OTHER_KINDS:
        if head.startswith(signature, position):
            return words
    if head.lstrip().startswith(b"<"):
        return "is a web page (HTML or XML), not a file of weights: its download went wrong"
    return f"is no file that torch.save wrote (it begins with the bytes {head[:8].hex(' ')})"


def _read_zip(file: BinaryIO, mapped: mmap.mmap) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except _ZIP_DAMAGE as error:
        raise damaged("its zip archive is cut short or garbled") from error
    prefix = _archive_name({info.filename for info in infos})
    entries = _entries(infos, mapped)
    if f"{prefix}/byteorder" in entries:
        order = bytes(_checked_content(entries[f"{prefix}/byteorder"])[:16])
        if order != b"little":
            raise Unreadable(_endian(printable(order.decode("latin-1"))))
    loaded: dict[str, memoryview] = {}

    def load(persistent_id: object) -> Storage:
        identity = storage_id(persistent_id, sizes=(5,))
        if identity.key not in loaded:
            name = f"{prefix}/data/{identity.key}"
            if name not in entries:
                raise damaged(f"it lacks {printable(name)}")
            loaded[identity.key] = _checked_content(entries[name])
        return view_storage(loaded[identity.key], identity)

    pickled = entries[f"{prefix}/data.pkl"]
    end = pickled.start + len(_checked_content(pickled))
    mapped.seek(pickled.start)
    result = read_pickle(cast(BinaryIO, mapped), build_tensor, load)
    if mapped.tell() > end:
        raise damaged("its pickle is cut short")
    release_mapped_pages(mapped)  # the checksums have mapped all pages
    return result


def _archive_name(names: set[str]) -> str:
    """Return the folder of the zip archive that holds all of PyTorch's entries."""
    prefixes = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")]
    prefixes = [prefix for prefix in prefixes if "/" not in prefix]
    if len(prefixes) > 1:
        raise Unreadable("is a zip archive with more than one data.pkl, as torch.save never writes")
    if not prefixes:
        if any(name.endswith(".npy") for name in names):
            raise Unreadable("is a NumPy archive, none of torch.save")
        raise Unreadable("is a zip archive, but none of torch.save: it has no data.pkl")
    return prefixes[0]


def _entries(infos: list[zipfile.ZipInfo], mapped: mmap.mmap) -> dict[str, _Entry]:
    """Return the entries by name.

    None may share bytes, and none that is read may be compressed (the code in TorchScript
    archives is), so that together they are no larger than the file.

    Raises:
        Unreadable: An entry is encrypted, shares bytes, or reaches out of the file.
    """
    whole = memoryview(mapped)
    has_crc = any(info.CRC for info in infos)  # PyTorch writes 0 for all where it computes none
    entries: dict[str, _Entry] = {}
    last_end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        name = printable(info.filename)
        if info.flag_bits & _ENCRYPTED:
            raise Unreadable(f"has an encrypted entry, {name}: save it without a password")
        if info.header_offset < last_end or info.filename in entries:
            raise Unreadable(
                f"has overlapping entries at {name}: it is damaged, or made to do harm"
            )
        header = whole[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
        if len(header) < _LOCAL_HEADER.size:
            raise damaged(f"{name} is cut short")
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
        last_end = start + info.compress_size
        if signature != b"PK\x03\x04" or last_end > len(whole):
            raise damaged(f"{name} is cut short or garbled")
        crc = info.CRC if has_crc else None
        stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        entries[info.filename] = _Entry(name, start, whole[start:last_end], crc, not stored)
    return entries


def _checked_content(entry: _Entry) -> memoryview:
    if entry.compressed:
        raise Unreadable(
            f"has a compressed entry, {entry.name}, as torch.save never writes: pack it again with "
            "zip -0"
        )
    if entry.crc is not None and zlib.crc32(entry.content) != entry.crc:
        raise damaged(f"the checksum of {entry.name} does not fit")
    return entry.content


def _read_pickle(file: BinaryIO) -> Any:
    """Read what pickle.dump wrote, where each storage is a file of the older format."""

    def build(made: TensorPlan | NestedFile) -> object:
        if isinstance(made, TensorPlan):
            return build_tensor(made)
        return _read_legacy(io.BytesIO(made.content), memoryview(made.content))

    content = read_pickle(file, build, _refuse_storage)
    if file.read(1):
        raise Unreadable(
            "is neither one pickle nor a file of torch.save: save the state_dict() with torch.save"
        )
    return content


def _read_legacy(file: BinaryIO, whole: memoryview) -> Any:
    """Read the older format: pickles of magic number, version, system, object; then storages."""
    if _read_plain(file) != LEGACY_MAGIC:
        raise damaged("it does not begin as torch.save begins")
    if _read_plain(file) != LEGACY_PROTOCOL:
        raise Unreadable("is of an unknown version of torch's older format: save it again")
    system = _read_plain(file)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Unreadable(_endian("big"))
    # The object comes before its storages, so it is read twice: to know their types, and to build.
    start = file.tell()
    dtypes: dict[str, np.dtype[Any]] = {}

    def note(persistent_id: object) -> object:
        if (source := _class_with_source(persistent_id)) is not None:
            return source
        identity = storage_id(persistent_id, sizes=(5, 6))
        if dtypes.setdefault(identity.key, identity.dtype) != identity.dtype:
            raise damaged(f"storage {printable(identity.key)} has two types")
        return None

    read_pickle(file, lambda plan: None, note)
    keys = _read_plain(file)
    storages = _legacy_storages(whole, file.tell(), keys, dtypes)

    def load(persistent_id: object) -> object:
        if (source := _class_with_source(persistent_id)) is not None:
            return source
        identity = storage_id(persistent_id, sizes=(5, 6))
        if identity.key not in storages:
            raise damaged(f"it lacks storage {printable(identity.key)}")
        return view_storage(storages[identity.key], identity)

    file.seek(start)
    return read_pickle(file, build_tensor, load)


def _class_with_source(persistent_id: object) -> ForeignClass | None:
    """Return the class in ("module", class, file, source), which the older format may hold."""
    if type(persistent_id) is not tuple or len(persistent_id) != 4:
        return None
    word, kind, *_ = persistent_id
    known = type(word) is str and word == "module" and isinstance(kind, ForeignClass)
    return kind if known else None


def _legacy_storages(
    whole: memoryview, position: int, keys: Any, dtypes: Mapping[str, np.dtype[Any]]
) -> dict[str, memoryview]:
    """Return the bytes of the storages: by key an int64 number of elements, then the elements."""
    if type(keys) is not list:
        raise damaged("it has no list of storages")
    storages: dict[str, memoryview] = {}
    for key in keys:
        if type(key) is not str or key not in dtypes or key in storages:
            raise damaged("its list of storages does not fit its tensors")
        start = position + 8
        numel = int.from_bytes(whole[position:start], "little", signed=True)
        position = start + numel * dtypes[key].itemsize
        if numel < 0 or start > len(whole) or position > len(whole):
            raise damaged(f"it ends within storage {printable(key)}")
        storages[key] = whole[start:position]
    return storages


def _read_plain(file: BinaryIO) -> Any:
    """Read a pickle without tensors."""
    return read_pickle(file, _refuse_storage, _refuse_storage)


def _refuse_storage(_: object) -> None:
    raise damaged("it has a tensor where none can be")


def _endian(order: str) -> str:
    return f"was written by a {order}-endian machine: save it again on a little-endian one"
