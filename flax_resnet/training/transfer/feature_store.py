"""A cache on disk of a function of images: one row for each image, found by a content hash."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...text_files import parse_json

# Rows that cannot be written are kept in memory up to this many bytes: 500,000 pooled features of a
# resnet50.
BYTES_IN_MEMORY = 4 << 30


class FeatureStore:
    """The rows of one function, in one folder.

    Each ``add`` writes a file of rows and, once that is complete, a JSON file that lists their
    hashes and the checksum of the rows, so what a killed process leaves behind is never read. Files
    with a wrong checksum are deleted when the store is opened, and their rows are computed again.
    A file that cannot be opened otherwise stays, and its rows are computed again too. Where the
    folder cannot be written, rows are kept in memory.

    Attributes:
        damaged: Number of files that were damaged.
        unwritable: Why the folder cannot be written; None while it can.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[np.ndarray] = []
        self._locations: dict[str, tuple[int, int]] = {}
        self.damaged = self._bytes_in_memory = 0
        self.unwritable: str | None = None
        for index in sorted(folder.glob("*.json")):
            self._open(index)

    def __contains__(self, content_hash: str) -> bool:
        return content_hash in self._locations

    def add(self, hashes: Sequence[str], rows: np.ndarray) -> None:
        """Write rows.

        Args:
            hashes: A content hash for each row.
            rows: Array ``[N, ...]``.

        Raises:
            UserError: The rows cannot be written, and are too many for the memory.
        """
        if self.unwritable is None:
            self.unwritable = self._write(hashes, rows)
        if self.unwritable is not None:
            self._bytes_in_memory += rows.nbytes
            if self._bytes_in_memory > BYTES_IN_MEMORY:
                raise UserError(
                    f"Features cannot be kept in {self._folder} ({self.unwritable}), and are too "
                    "many for the memory: free space there, name another folder "
                    "(--transfer.feature-cache), or compute them at every step (--views 0)."
                )
            self._append(hashes, rows)

    def _write(self, hashes: Sequence[str], rows: np.ndarray) -> str | None:
        """Write rows to files; return why they cannot be written, or None."""
        name = hashlib.blake2b("".join(hashes).encode(), digest_size=16).hexdigest()
        target = self._folder / f"{name}.npy"
        temporary = self._folder / f"{name}.{os.getpid()}.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.save(file, np.ascontiguousarray(rows))
            index_entry = {"checksum": _checksum(temporary), "hashes": list(hashes)}
            temporary.replace(target)
            temporary.write_text(json.dumps(index_entry), encoding="utf-8")
            temporary.replace(target.with_suffix(".json"))
        except OSError as error:
            with contextlib.suppress(OSError):  # the folder may be a file
                temporary.unlink()
            return error.strerror or str(error)
        return self._open(target.with_suffix(".json"), checked=True)

    def rows(self, hashes: Sequence[str]) -> "Rows":
        """The rows with these hashes, in their order; all must be in the store."""
        locations = np.array([self._locations[content_hash] for content_hash in hashes], np.int64)
        return Rows(self._files, locations.reshape(-1, 2))

    def _open(self, index: Path, checked: bool = False) -> str | None:
        """Take up the rows of a file; return why they cannot be read, or None."""
        data = index.with_suffix(".npy")
        try:
            index_entry = parse_json(index.read_text(encoding="utf-8"))
            if not checked and _checksum(data) != index_entry["checksum"]:
                raise ValueError("the checksum is wrong")
            rows = np.load(data, mmap_mode="r")
            hashes = index_entry["hashes"]
            if len(hashes) != len(rows):
                raise ValueError("the number of rows is wrong")
        except FileNotFoundError:
            return self._discard(index, data)  # one of the two alone is of no use
        except OSError as error:  # such as too many open files, which says nothing about this one
            return error.strerror or str(error)
        except (ValueError, KeyError, TypeError):
            return self._discard(index, data)
        self._append(hashes, rows)
        return None

    def _discard(self, *damaged: Path) -> str:
        self.damaged += 1
        with contextlib.suppress(OSError):  # the folder may be for reading only
            for path in damaged:
                path.unlink(missing_ok=True)
        return "what was written there is damaged"

    def _append(self, hashes: Sequence[str], rows: np.ndarray) -> None:
        number = len(self._files)
        self._files.append(rows)
        self._locations |= {content_hash: (number, row) for row, content_hash in enumerate(hashes)}


class Rows:
    """Rows of a store in a given order, read from disk when they are indexed."""

    def __init__(self, files: Sequence[np.ndarray], locations: np.ndarray) -> None:
        self._files, self._locations = files, locations

    def __len__(self) -> int:
        return len(self._locations)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The rows at integer indices ``[N]``: ``[N, ...]``."""
        chosen = self._locations[indices]
        found = np.empty((len(chosen), *self._files[0].shape[1:]), self._files[0].dtype)
        for number in np.unique(chosen[:, 0]):
            of_file = chosen[:, 0] == number
            found[of_file] = self._files[number][chosen[of_file, 1]]
        return found


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
