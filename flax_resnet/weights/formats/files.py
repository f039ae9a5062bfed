"""Files of weights: .safetensors, .npz and PyTorch's .pth, read and written."""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...errors import UserError
from ...models import ResNet
from ...output_files import replacing
from ...paths import expand
from ..convert import from_torchvision, to_torchvision
from ..layouts import unwrap
from .torch_files import read_torch_file

# A .npz that unpacks to more than this times its own size is no file of weights: they hardly
# compress.
MOST_COMPRESSION = 16

# Entry of a .safetensors file's metadata: JSON of each array's CRC-32, by name. The format itself
# has none, and a flipped bit would be a wrong weight.
CHECKSUMS = "crc32"


def load_weights(path: str | Path, model: ResNet, **options: Any) -> dict[str, Any]:
    """Read a file of weights as the variables of ``model``.

    Args:
        path: ``.pth``, ``.pt``, ``.th``, ``.bin`` or ``.tar`` of PyTorch, ``.safetensors`` or
            ``.npz``.
        model: Any model of flax_resnet.
        **options: Options of ``from_torchvision``: ``head="drop"``, ``strict=False``, ``key``.

    Raises:
        UserError: The file is missing, damaged, holds code, or does not fit the model.
    """
    try:
        return from_torchvision(read_weights(path), model, **options)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}", error.exit_code) from error


def save_weights(path: str | Path, variables: Mapping[str, Any], model: ResNet) -> None:
    """Write the variables of ``model`` under torchvision's names, whole or not at all.

    Args:
        path: A name that ends in ``.safetensors``, ``.npz``, or, where PyTorch is installed,
            ``.pth`` or ``.pt``.
        variables: ``{"params", "batch_stats"}``.
        model: The module that they belong to.

    Raises:
        UserError: Another ending, no PyTorch, a folder that cannot be written, or variables of
            another model.
    """
    write_weights(path, to_torchvision(variables, model))


def read_weights(path: str | Path) -> Mapping[str, np.ndarray]:
    """Read the arrays of a file by the names that it has for them.

    Arrays of ``.safetensors`` and ``.npz`` are read when they are looked up; the checksums of those
    that we wrote are compared then.

    Raises:
        UserError: The file is missing, damaged, of an unknown kind, or holds code.
    """
    path = expand(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise UserError(f"{path} {what}: give the path of a file of weights.")
    return _choose(READERS, path, "read")(path)


def array_shapes(arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array, read from the header where the file has one."""
    if isinstance(arrays, _LazyArrays):
        return {name: tuple(arrays.read_shape(name)) for name in arrays}
    return {name: tuple(array.shape) for name, array in arrays.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a ``.safetensors`` file.

    Raises:
        UserError: The file is missing or damaged.
    """
    return _open_safetensors(path).metadata() or {}


def write_weights(
    path: str | Path,
    state_dict: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays by name, whole or not at all.

    Args:
        path: See ``save_weights``.
        state_dict: Arrays in PyTorch's layout.
        metadata: More entries for the header of a ``.safetensors`` file.

    Raises:
        UserError: An unknown ending, no PyTorch, or a folder that cannot be written.
    """
    path = expand(path)
    write = _choose(WRITERS, path, "written")
    if metadata:
        write = partial(_write_safetensors, metadata=metadata)
    with replacing(path) as fresh:
        write(fresh, state_dict)


class _LazyArrays(Mapping[str, np.ndarray]):
    """Arrays that are read one at a time, so that a conversion never holds the file twice."""

    def __init__(
        self,
        names: list[str],
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


def _read_torch(path: Path) -> Mapping[str, np.ndarray]:
    return unwrap(read_torch_file(path), str(path))


def _read_safetensors(path: Path) -> Mapping[str, np.ndarray]:
    file = _open_safetensors(path)
    try:
        checksums = json.loads((file.metadata() or {}).get(CHECKSUMS, "{}"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: its checksums cannot be read ({error}).") from error

    def read(name: str) -> np.ndarray:
        array = file.get_tensor(name)
        if checksums and checksums.get(name) != _crc32(array):
            raise UserError(
                f"{path} is damaged: the checksum of {name} differs; copy or write the file again."
            )
        return array

    return _LazyArrays(list(file.keys()), read, lambda name: file.get_slice(name).get_shape())


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")  # checks the header against the file's size
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a sound .safetensors file ({error}).") from error


def _crc32(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _read_npz(path: Path) -> Mapping[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            total = sum(entry.file_size for entry in entries)
            if total > MOST_COMPRESSION * path.stat().st_size + 2**20:
                raise UserError(f"{path} unpacks to {total:,} bytes: that is no file of weights.")
            for entry in entries:
                with archive.open(entry) as stream:
                    _check_npy(stream, entry.file_size)
        file = np.load(path, allow_pickle=False)
    except (
        ValueError,
        KeyError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        raise UserError(f"{path} is not a sound .npz file ({error}).") from error
    return _LazyArrays(list(file.files), lambda name: _npz_entry(path, file, name))


def _check_npy(stream: Any, size: int) -> None:
    """Check the size that the header claims, which NumPy allocates before it reads."""
    version = np.lib.format.read_magic(stream)
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    claimed = dtype.itemsize
    for length in shape:
        claimed *= length
    if min(shape, default=0) < 0 or stream.tell() + claimed != size:
        raise ValueError(f"an array claims {claimed} bytes, its entry has {size}")


def _npz_entry(path: Path, file: Any, name: str) -> np.ndarray:
    try:
        return file[name]
    except Exception as error:  # zlib, zipfile and NumPy each have their own
        raise UserError(f"{path} is damaged: {name} cannot be read ({error}).") from error


def _write_safetensors(
    path: Path, state_dict: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    checksums = {name: _crc32(array) for name, array in state_dict.items()}
    entries = {
        "format": "pt",  # transformers and timm require it
        CHECKSUMS: json.dumps(checksums),
        **(metadata or {}),
    }
    save_file(dict(state_dict), path, metadata=entries)


def _write_npz(path: Path, state_dict: Mapping[str, np.ndarray]) -> None:
    # NumPy's own files know no bfloat16; float32 holds each of its values exactly.
    arrays = {
        name: array.astype(np.float32) if array.dtype.kind == "V" else array
        for name, array in state_dict.items()
    }
    with open(path, "wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def _write_torch(path: Path, state_dict: Mapping[str, np.ndarray]) -> None:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"PyTorch is needed to write a {path.suffix} file: pip install torch, or choose a "
            ".safetensors file, which PyTorch programs read too."
        ) from error
    tensors = {}
    for name, array in state_dict.items():
        if array.dtype.name == "bfloat16":
            tensors[name] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            tensors[name] = torch.from_numpy(array)
    torch.save(tensors, path)


Reader = Callable[[Path], Mapping[str, np.ndarray]]
Writer = Callable[[Path, Mapping[str, np.ndarray]], None]
F = TypeVar("F")

READERS: dict[str, Reader] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    **dict.fromkeys((".pth", ".pt", ".th", ".bin", ".tar"), _read_torch),
}
WRITERS: dict[str, Writer] = {
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
    **dict.fromkeys((".pth", ".pt"), _write_torch),
}


def _choose(table: Mapping[str, F], path: Path, verb: str) -> F:
    if path.suffix.lower() in table:
        return table[path.suffix.lower()]
    raise UserError(
        f"{path} cannot be {verb}: its name must end in one of {', '.join(table)}.", exit_code=2
    )
