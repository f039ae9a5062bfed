"""Files of weights: .safetensors, .npz and PyTorch's .pth, read and written.

A file is read by its first bytes, whatever its name.
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...errors import UserError
from ...models import ResNet
from ...output_files import replacing
from ...storage import local_copy, locate
from ...text_files import parse_json
from ..arrays import LazyArrays, array_shapes
from ..convert import from_torchvision, to_torchvision
from ..find import find_weights
from ..infer import check_recognisable, unseen_metadata
from .torch_files import read_torch_file
from .write_torch import write_torch

# A .npz that unpacks to more than this times its own size is no file of weights: they hardly
# compress.
MOST_COMPRESSION = 16

# Entry of a .safetensors file's metadata: JSON of each array's CRC-32, by name. The format itself
# has none, and a flipped bit would be a wrong weight.
CHECKSUMS = "crc32"


def load_weights(path: str | Path, model: ResNet, **options: Any) -> dict[str, Any]:
    """Read a file of weights as the variables of ``model``.

    Args:
        path: A file of torch.save, a pickle, ``.safetensors`` or ``.npz``, under any name.
        model: Any model of flax_resnet.
        **options: Options of ``from_torchvision``: ``head="drop"``, ``strict=False``, ``key``.

    Raises:
        UserError: The file is missing, damaged, or does not fit the model.
    """
    try:
        return from_torchvision(read_file(path), model, **options)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}", error.exit_code) from error


def save_weights(path: str | Path, variables: Mapping[str, Any], model: ResNet) -> None:
    """Write the variables of ``model`` under torchvision's names, whole or not at all.

    Args:
        path: A name that ends in ``.safetensors``, ``.npz``, ``.pth`` or ``.pt``.
        variables: ``{"params", "batch_stats"}``.
        model: The module that they belong to.

    Raises:
        UserError: Another ending, a folder that cannot be written, variables of another model, or
            arrays that would be taken for those of another model (``.npz`` and ``.pth`` hold no
            more than arrays).
    """
    write_model(path, to_torchvision(variables, model), model)


def write_model(
    path: str | Path,
    state_dict: Mapping[str, np.ndarray],
    model: ResNet,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays of ``model`` so that reading them gives the same model.

    Args:
        path: See ``save_weights``.
        state_dict: Arrays in PyTorch's layout.
        model: The module that they belong to.
        metadata: More entries for the header of a ``.safetensors`` file.

    Raises:
        UserError: See ``save_weights``.
    """
    path = locate(path)
    if path.suffix.lower() in WRITERS and path.suffix.lower() != ".safetensors":
        check_recognisable(path, array_shapes(state_dict), model)
    write_weights(path, state_dict, unseen_metadata(model) | dict(metadata or {}))


def read_weights(path: str | Path) -> Mapping[str, np.ndarray]:
    """Read the arrays of a file by the names that it has for them.

    Arrays of ``.safetensors`` and ``.npz`` are read when they are looked up; the checksums of those
    that we wrote are compared then. Of a checkpoint, they are those of the state dict with the
    ResNet.

    Raises:
        UserError: The file is missing, damaged, of an unknown kind, or holds no arrays.
    """
    return find_weights(read_file(path), source=str(path)).tensors


def read_file(path: str | Path) -> Any:
    """Read a file of weights, whose kind is known by its first bytes, whatever its name.

    Returns:
        Arrays by name of ``.safetensors`` and ``.npz``, read when they are looked up; of PyTorch's
        files and pickles, what ``read_torch_file`` returns.

    Raises:
        UserError: The file is missing, damaged, or of an unknown kind.
    """
    path = local_copy(locate(path))
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise UserError(f"{path} {what}: give the path of a file of weights.")
    return _reader_of(path)(path)


def _reader_of(path: Path) -> Callable[[Path], Any]:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    if head[8:9] == b"{" or (head and path.suffix.lower() == ".safetensors"):
        return _read_safetensors
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                is_npz = any(name.endswith(".npy") for name in archive.namelist())
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
            is_npz = path.suffix.lower() == ".npz"
        return _read_npz if is_npz else read_torch_file
    return read_torch_file


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
        metadata: More entries for the header of a ``.safetensors`` file; other files have none.

    Raises:
        UserError: An unknown ending, or a folder that cannot be written.
    """
    path = locate(path)
    if path.suffix.lower() not in WRITERS:
        raise UserError(
            f"{path} cannot be written: its name must end in one of {', '.join(WRITERS)}.",
            exit_code=2,
        )
    write = WRITERS[path.suffix.lower()]
    if metadata and write is _write_safetensors:
        write = partial(_write_safetensors, metadata=metadata)
    with replacing(path) as fresh:
        write(fresh, state_dict)


def _read_safetensors(path: Path) -> Mapping[str, np.ndarray]:
    file = _open_safetensors(path)
    try:
        checksums = parse_json((file.metadata() or {}).get(CHECKSUMS, "{}"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: its checksums cannot be read ({error}).") from error

    def read(name: str) -> np.ndarray:
        array = file.get_tensor(name)
        if checksums and checksums.get(name) != _crc32(array):
            raise UserError(
                f"{path} is damaged: the checksum of {name} differs; copy or write the file again."
            )
        return array

    return LazyArrays(list(file.keys()), read, lambda name: file.get_slice(name).get_shape())


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
            shapes = {}
            for entry in entries:
                with archive.open(entry) as stream:
                    shape = _check_npy(stream, entry.file_size)
                shapes[entry.filename.removesuffix(".npy")] = shape
        file = np.load(path, allow_pickle=False)
    except (
        ValueError,
        KeyError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,  # an encrypted entry, or an unknown compression
    ) as error:
        raise UserError(f"{path} is not a sound .npz file ({error}).") from error
    return LazyArrays(file.files, lambda name: _npz_entry(path, file, name), shapes.__getitem__)


def _check_npy(stream: Any, size: int) -> tuple[int, ...]:
    """Check the size that the header claims, which NumPy allocates before it reads.

    Returns:
        The shape of the array.
    """
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
    return tuple(shape)


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


# The usual endings of files of weights; they are read under any name.
ENDINGS = (".safetensors", ".npz", ".pth", ".pt", ".th", ".bin", ".tar", ".ckpt", ".pkl", ".model")
WRITERS: dict[str, Callable[[Path, Mapping[str, np.ndarray]], None]] = {
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
    **dict.fromkeys((".pth", ".pt"), write_torch),
}
