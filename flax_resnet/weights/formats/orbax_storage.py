"""What orbax needs for checkpoints in object storage.

Orbax writes to ``gs://`` by itself, and there marks a complete checkpoint by a last file in place
of a rename (``commit_success.txt``). To ``s3://`` it does not write: it takes such a path for a
local one, although tensorstore, which it writes with, has a driver (orbax-checkpoint 0.11.28 to
0.12.8). ``enable_s3`` gives it tensorstore's description of such paths. A test fails when orbax has
its own.
"""

from pathlib import Path
from typing import Any

from ...storage import is_remote, kvstore

COMMITTED = "commit_success.txt"  # orbax's name of the file that is written last
_ROOT = "/s3"  # stands for s3:/ while orbax builds the description of a local path


def committed_by(folder: Path) -> Any:
    """Return the class by which orbax marks a complete checkpoint, None for its own choice.

    Args:
        folder: The folder of the checkpoints.
    """
    if not is_remote(folder):
        return None
    from orbax.checkpoint import path

    return path.atomicity.CommitFileTemporaryPath


def enable_s3() -> None:
    """Let orbax describe ``s3://`` paths to tensorstore; a second call changes nothing."""
    from orbax.checkpoint._src.serialization import tensorstore_utils

    original = tensorstore_utils.build_kvstore_tspec
    if hasattr(original, "local"):
        return

    def build_kvstore_tspec(directory: str, *args: Any, **options: Any) -> Any:
        if not directory.startswith("s3://"):
            return original(directory, *args, **options)
        found = original(_ROOT + directory.removeprefix("s3:/"), *args, **options)
        return _in_s3(found)

    build_kvstore_tspec.local = original  # type: ignore[attr-defined]
    tensorstore_utils.build_kvstore_tspec = build_kvstore_tspec


def _in_s3(spec: Any) -> Any:
    """Return a description of tensorstore with S3 in place of the files below ``_ROOT``."""
    if not isinstance(spec, dict):
        return spec
    path = spec.get("path", "")
    if spec.get("driver") == "file" and path.startswith(_ROOT + "/"):
        from ...storage import locate

        found = kvstore(locate("s3:/" + path.removeprefix(_ROOT)))
        return found | {"path": found["path"] + "/" * path.endswith("/")}
    return {name: _in_s3(value) for name, value in spec.items()}
