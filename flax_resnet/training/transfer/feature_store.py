"""Results of a function of images, kept on disk: a row for each image, found by its content."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import UserError


class FeatureStore:
    """The rows of one function in one folder.

    Each ``add`` writes a file of rows and, when that is whole, a JSON file that lists what they are
    of with the rows' checksum: what a killed process leaves behind is never read. Files whose
    checksum is wrong are deleted when the store is opened, and their rows computed again.

    Attributes:
        damaged: how many files were found damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[np.ndarray] = []
        self._places: dict[str, tuple[int, int]] = {}
        self.damaged = 0
        for index in sorted(folder.glob("*.json")):
            self._open(index)

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._places

    def add(self, fingerprints: Sequence[str], rows: np.ndarray) -> None:
        """Keep ``rows`` ``[n, ...]`` as those of the ``n`` fingerprints.

        Raises:
            UserError: they cannot be written.
        """
        name = hashlib.blake2b("".join(fingerprints).encode(), digest_size=16).hexdigest()
        target = self._folder / f"{name}.npy"
        fresh = self._folder / f"{name}.{os.getpid()}.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                np.save(file, np.ascontiguousarray(rows))
            listed = {"checksum": _checksum(fresh), "fingerprints": list(fingerprints)}
            fresh.replace(target)
            fresh.write_text(json.dumps(listed), encoding="utf-8")
            fresh.replace(target.with_suffix(".json"))
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise UserError(
                f"Features cannot be kept in {self._folder} ({error.strerror or error}): make room "
                "there, name another folder (--transfer.feature-cache), or compute them at every "
                "step (--views 0)."
            ) from error
        self._open(target.with_suffix(".json"), checked=True)

    def rows(self, fingerprints: Sequence[str]) -> "Rows":
        """The rows of these fingerprints, in their order; all must be there."""
        places = np.array([self._places[fingerprint] for fingerprint in fingerprints], np.int64)
        return Rows(self._files, places.reshape(-1, 2))

    def _open(self, index: Path, checked: bool = False) -> None:
        data = index.with_suffix(".npy")
        try:
            listed = json.loads(index.read_text(encoding="utf-8"))
            if not checked and _checksum(data) != listed["checksum"]:
                raise ValueError("the checksum is wrong")
            rows = np.load(data, mmap_mode="r")
            fingerprints = listed["fingerprints"]
            if len(fingerprints) != len(rows):
                raise ValueError("the number of rows is wrong")
        except (OSError, ValueError, KeyError, TypeError):
            self.damaged += 1
            for path in (index, data):
                path.unlink(missing_ok=True)
            return
        number = len(self._files)
        self._files.append(rows)
        self._places |= {fingerprint: (number, row) for row, fingerprint in enumerate(fingerprints)}


class Rows:
    """Rows of a store in an order, read from the disk as they are asked for."""

    def __init__(self, files: Sequence[np.ndarray], places: np.ndarray) -> None:
        self._files, self._places = files, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The rows at integers ``[n]``, ``[n, ...]``."""
        chosen = self._places[indices]
        found = np.empty((len(chosen), *self._files[0].shape[1:]), self._files[0].dtype)
        for number in np.unique(chosen[:, 0]):
            here = chosen[:, 0] == number
            found[here] = self._files[number][chosen[here, 1]]
        return found


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
