"""The lock of a run's folder in object storage: one job at a time writes there.

The object ``.lock`` names the owner, as the file of ``lock`` does. The store itself decides who
writes it: a write names the generation of the object that it replaces, or that there must be none
(``If-Match`` and ``If-None-Match`` of S3, ``ifGenerationMatch`` of GCS, by tensorstore), so that of
many commands that start at once one wins. A heartbeat writes it again. Its age is the difference of
two times of the store, which all hosts share: their own clocks do not matter.
"""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tensorstore as ts

from ..errors import UserError
from ..storage import bucket_and_key, explained, is_remote, kvstore, write_bytes
from .lock import FILE, Lock, Owner, check_stale, read_owner

ATTEMPTS = 4  # to take a lock that others change at the same time
# tensorstore's own are 32 attempts, which take a quarter of an hour.
_RETRIES = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "4s"}


def take_lock(folder: Path, job: str) -> Lock:
    """Take the lock of a folder, which is made.

    Args:
        folder: A run's folder, local or in object storage.
        job: What it is for, such as ``train``.

    Raises:
        UserError: Another process holds it, or the folder cannot be written.
    """
    return (ObjectLock if is_remote(folder) else Lock)(folder, job)


class ObjectLock(Lock):
    """The lock of a folder in object storage, held from ``__init__`` until ``release``."""

    def _take(self, folder: Path) -> Owner | None:
        with explained(folder, "written"):
            context = ts.Context({f"{name}_request_retries": _RETRIES for name in ("s3", "gcs")})
            self._store = ts.KvStore.open(kvstore(self._path), context=context).result()
            for _ in range(ATTEMPTS):
                before, generation = self._held()
                if before is not None and before.token == self.owner.token:
                    return None  # written by an attempt whose answer was lost
                if before is not None:
                    check_stale(folder, before, self._age)
                if self._write(generation):
                    return before
            bucket: Any = folder
            bucket.fs.ls(bucket_and_key(folder)[0])  # a missing one refuses every condition
        raise UserError(f"{folder} is in use: other commands take its lock at the same time.")

    def _read(self) -> Owner | None:
        with explained(self._path, "read"):
            return self._held()[0]

    def _renew(self) -> None:
        with suppress(Exception):  # the next heartbeat tries again
            now, generation = self._held()
            if now is not None and now.token == self.owner.token:
                self._write(generation)

    def _give_back(self) -> None:
        with suppress(Exception):  # it becomes stale
            now, generation = self._held()
            if now is not None and now.token == self.owner.token:
                self._store.write("", None, if_equal=generation).result()

    def _held(self) -> tuple[Owner | None, bytes]:
        """Return the owner that the lock names, and its generation."""
        held = self._store.read("").result()
        owner = read_owner(held.value) if held.state == "value" else None
        return owner, held.stamp.generation

    def _write(self, generation: bytes) -> bool:
        """Write this owner in place of a generation of the lock; return whether it was that."""
        content = json.dumps(asdict(self.owner)).encode()
        return bool(self._store.write("", content, if_equal=generation).result().generation)

    def _age(self) -> float:
        """Seconds since the heartbeat, by the clock of the store."""
        probe: Any = self._path.with_name(f"{FILE}-{self.owner.token}")
        write_bytes(probe, b"")
        try:
            return float(probe.stat().st_mtime - self._path.stat().st_mtime)
        finally:
            probe.unlink()
