"""Files of weights: .safetensors, .npz and torch's .pth, read and written."""

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...errors import UserError
from ..convert import from_torchvision, to_torchvision
from ..layouts import unwrap
from .torch_files import read_torch_file

# A .npz that unpacks to more than this times its own size is no file of weights: they hardly
# compress.
MOST_COMPRESSION = 16


def load_weights(path: str | Path, model: nn.Module, **options: Any) -> dict[str, Any]:
    """The weights in a file as the variables of ``model``.

    Args:
      path: ``.pth``, ``.pt``, ``.th``, ``.bin`` or ``.tar`` of torch, ``.safetensors`` or ``.npz``.
      model: any model of flax_resnet.
      **options: of :func:`from_torchvision`: ``head="drop"``, ``strict=False``, ``key``.

    Raises:
      UserError: the file is missing, damaged, holds code, or does not fit the model.
    """
    try:
        return from_torchvision(read_weights(path), model, **options)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}", error.exit_code) from error


def save_weights(path: str | Path, variables: Mapping[str, Any], model: nn.Module) -> None:
    """Write the variables of ``model`` under torchvision's names, whole or not at all.

    Args:
      path: ends in ``.safetensors``, ``.npz``, or, where torch is installed, ``.pth`` or ``.pt``.

    Raises:
      UserError: another ending, no torch, a folder that cannot be written, or variables of another
        model.
    """
    write_weights(path, to_torchvision(variables, model))


def read_weights(path: str | Path) -> Mapping[str, np.ndarray]:
    """The arrays of a file by name, as the file has them; large ones are read when asked for.

    Raises:
      UserError: the file is missing, damaged, of an unknown kind, or holds code.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise UserError(f"{path} {what}: give the path of a file of weights.")
    return _choose(READERS, path, "read")(path)


def write_weights(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, whole or not at all.

    Raises:
      UserError: an unknown ending, no torch, or a folder that cannot be written.
    """
    path = Path(path)
    write = _choose(WRITERS, path, "written")
    fresh = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(fresh, state_dict)
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}).") from error


class _LazyArrays(Mapping[str, np.ndarray]):
    """Arrays read one at a time, so that a conversion never holds the file twice."""

    def __init__(self, names: list[str], read: Callable[[str], np.ndarray]) -> None:
        self._names = dict.fromkeys(names)
        self._read = read

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
    try:
        file = safe_open(path, framework="np")  # checks the header against the file's size
        names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a sound .safetensors file ({error}).") from error
    return _LazyArrays(names, file.get_tensor)


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
    """NumPy allocates what the header claims before it reads; the claim is checked first."""
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


def _write_safetensors(path: Path, state_dict: Mapping[str, np.ndarray]) -> None:
    save_file(dict(state_dict), path, metadata={"format": "pt"})  # transformers and timm ask for it


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
