"""What a person writes, such as ``runs/a`` or ``s3://bucket/run``, as a path."""

import os
import re
from pathlib import Path
from typing import Any, cast

from ..errors import UserError
from ..paths import expand, scheme_of

# The package of fsspec for each scheme, which is also the name of our extra that installs it.
_EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}


def locate(path: Any) -> Path:
    """Return the path that ``path`` names: a local one, or an address in object storage.

    Args:
        path: Text such as ``~/runs/a``, ``s3://bucket/run`` or ``gs://bucket/run``; or a path.

    Raises:
        UserError: It is an address of another kind, it names no bucket, or the package for it is
            not installed.
    """
    if is_remote(path):
        return cast(Path, path)
    text = os.fspath(path)
    scheme = scheme_of(text)
    if scheme not in _EXTRAS:
        return expand(text)
    if not re.match(r"\w+://[^/]", text):
        raise UserError(
            f"{text} names no bucket: write the address as text, such as {scheme}://BUCKET/NAME.",
            exit_code=2,
        )
    _prepare(scheme, text)
    from upath import UPath

    return cast(Path, UPath(text.rstrip("/")))


def is_remote(path: Any) -> bool:
    """Return whether a path, which ``locate`` returned, is in object storage."""
    return getattr(path, "protocol", None) in _EXTRAS


def bucket_and_key(path: Path) -> tuple[str, str]:
    """Return the bucket and the name in it of a path in object storage."""
    bucket, _, key = str(path).partition("://")[2].partition("/")
    return bucket, key


def kvstore(path: Path) -> dict[str, Any]:
    """Return tensorstore's description of a path in object storage."""
    bucket, key = bucket_and_key(path)
    if str(path).startswith("gs:"):
        return {"driver": "gcs", "bucket": bucket, "path": key}
    found = {"driver": "s3", "bucket": bucket, "path": key, "use_conditional_write": True}
    # Variables that fsspec reads too; tensorstore has options for them.
    variables = os.environ
    if endpoint := variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL"):
        region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
        found |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
    if "AWS_ACCESS_KEY_ID" in variables:
        found["aws_credentials"] = {"type": "environment"}
    return found


def _prepare(scheme: str, text: str) -> None:
    """Check that the packages for a scheme are installed, and set what they need.

    Raises:
        UserError: One is missing.
    """
    package, extra = _EXTRAS[scheme]
    # TensorFlow's own file system, which epath prefers where it is installed, knows no s3://.
    os.environ.setdefault("EPATH_USE_TF", "false")
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if scheme == "gs" and emulator:
        os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", emulator)
        # gcsfs asks by gRPC whether the bucket is zonal, which no emulator answers for a minute.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import fsspec
        import upath  # noqa: F401

        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise UserError(
            f'{text} needs {error.name or package}: pip install "flax-resnet[{extra}]".'
        ) from error
    # Other processes, and tensorstore in this one, write there too: no listing is kept.
    for name in fsspec.get_filesystem_class(scheme).protocol:
        fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
