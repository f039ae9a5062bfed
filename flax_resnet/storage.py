"""Object storage: addresses such as ``s3://bucket/run`` or ``gs://bucket/run``, as paths.

``locate`` turns what a person writes into a path. That of an address is a ``UPath`` of the package
universal_pathlib, which has pathlib's methods (``open``, ``iterdir``, ``stat``) over fsspec. Unlike
``epath.Path`` it is no ``os.PathLike``: code that is written for local files raises a TypeError
with it, and never makes a folder called ``s3:``.

An object store has neither appending nor renaming, and its folders are beginnings of names. An
object appears whole or not at all. So files that grow are written again, what is read by libraries
for local files is copied into the cache first (``mirror``), and a folder is complete when its last
file is there.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, cast

from .errors import StorageError, UserError, first_line
from .paths import cache_folder, expand, process_folder, scheme_of, writable_folder

_AT_ONCE = 256  # objects that are read at the same time

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


@contextmanager
def explained(path: Path, action: str) -> Iterator[None]:
    """Turn the errors of a store into one sentence; those of local files pass.

    Args:
        path: What the body uses.
        action: What it does with it, such as ``"written"``.

    Raises:
        StorageError: There are no credentials, no such bucket, no permission, or no connection.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        reason = reason_of(path, error)
        if reason is None and re.search(r"NOT_FOUND|\b404\b|FileNotFound", repr(error)):
            bucket = str(path).removesuffix(bucket_and_key(path)[1]).rstrip("/")
            reason = f"there is no bucket {bucket}, or the credentials do not show it"
        reason = reason or first_line(error)
        raise StorageError(f"{path} cannot be {action}: {reason}.") from error


def reason_of(path: Path, error: Exception) -> str | None:
    """Say in plain words why a store refused; None where the error shows another fault."""
    bucket, key = bucket_and_key(path)
    scheme = str(path).partition(":")[0]
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    text = " ".join(f"{type(one).__name__} {getattr(one, 'code', '')} {one}" for one in chain)
    text = text.replace(key or bucket, "")  # names that people choose say nothing
    for pattern, reason in _REASONS:
        if re.search(pattern, text, re.IGNORECASE):
            return reason.format(bucket=f"{scheme}://{bucket}", credentials=_CREDENTIALS[scheme])
    return None


_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
}
# In this order: what the first pattern finds, libraries report as a refusal too.
_REASONS = (
    (r"NoSuchBucket|bucket does not exist|bucket .*not found", "there is no bucket {bucket}"),
    (
        r"NoCredentials|Unable to locate credentials|DefaultCredentials|PartialCredentials"
        r"|credentials .*(not found|missing)|Anonymous caller|\b401\b|InvalidAccessKeyId"
        r"|SignatureDoesNotMatch|ExpiredToken",
        "there are no valid credentials for {bucket} ({credentials})",
    ),
    (
        r"\b403\b|AccessDenied|Access Denied|Forbidden|PermissionError|PERMISSION_DENIED",
        "the credentials do not permit it in {bucket}",
    ),
    (
        r"Connect|Timeout|timed out|UNAVAILABLE|Connection|IncompleteRead|ServerDisconnected"
        r"|Cannot connect|PayloadError|EndpointConnection|ABORTED",
        "the connection to {bucket} failed; check the network, and the address in AWS_ENDPOINT_URL "
        "or STORAGE_EMULATOR_HOST where one is set",
    ),
)


def mirror(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> Path:
    """Copy a folder in object storage into the cache, where only what has changed is read again.

    Args:
        folder: A folder; a local one is returned as it is.
        wanted: Whether a file is copied, by its name below the folder.

    Returns:
        A local folder with the same files, which only this function writes.

    Raises:
        UserError: The folder cannot be read.
    """
    if not is_remote(folder):
        return folder
    with explained(folder, "read"):
        present = list_files(folder)
        if not present and not folder.exists():
            raise UserError(f"{folder} does not exist: there is no object under that name.")
        found = {name: info for name, info in present.items() if wanted(name)}
    return _cached(folder, found, present)


@contextmanager
def edited(folder: Path, below: str, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """Give a local copy of a folder whose files in ``below`` replace the former ones at the end.

    Args:
        folder: A folder; a local one is given as it is.
        below: Name of the folder in it that the body writes.
        wanted: Whether a file is copied, by its name below the folder.

    Raises:
        StorageError: The folder cannot be read or written.
    """
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="flax_resnet-") as scratch:
        local = Path(scratch) / folder.name
        with explained(folder, "read"):
            found = {name: info for name, info in list_files(folder).items() if wanted(name)}
            _refresh(folder, local, found, None)
        yield local
        written = {
            str(PurePosixPath(path.relative_to(local)))
            for path in (local / below).rglob("*")
            if path.is_file()
        }
        for name in sorted(written):
            upload(local / name, folder / name)
        for name in found:
            if name.startswith(below + "/") and name not in written:
                delete(folder / name)


def list_files(folder: Path) -> dict[str, Mapping[str, Any]]:
    """List the objects below a folder in object storage, a thousand for each request.

    Returns:
        What fsspec knows of each, ``size`` among it, by its name below the folder.

    Raises:
        UserError: The folder cannot be read, or a name leads out of it.
    """
    fs, root = folder.fs, folder.path  # type: ignore[attr-defined]
    with explained(folder, "read"):
        objects = fs.find(root, detail=True)
    found = {
        name[len(root) :].lstrip("/"): info
        for name, info in sorted(objects.items())
        if info["type"] == "file" and not name.endswith("/")
    }
    for name in found:
        # A name of an object is any text, and these copies would be written outside their folder.
        if ".." in name.split("/") or "\\" in name or PureWindowsPath(name).drive:
            raise UserError(
                f"{folder} holds an object called {name!r}, which is no name of a file."
            )
    return found


def folders_in(folder: Path) -> dict[str, tuple[float, int]]:
    """Return the time of change and the bytes of each folder in a folder, by its name.

    The time is in seconds since 1970; in object storage it is that of the newest object below.
    """
    if not is_remote(folder):
        return {
            path.name: (
                path.stat().st_mtime,
                sum(one.stat().st_size for one in path.rglob("*") if one.is_file()),
            )
            for path in folder.iterdir()
            if path.is_dir()
        }
    found: dict[str, tuple[float, int]] = {}
    for name, info in list_files(folder).items():
        first, slash, _ = name.partition("/")
        if slash:
            when, size = found.get(first, (0.0, 0))
            found[first] = max(when, _time(info)), size + info["size"]
    return found


def local_copy(file: Path, *beside: str) -> Path:
    """Return a local file with the content of ``file``: that file, or its copy in the cache.

    Args:
        file: The file.
        beside: Names of files in its folder that are copied too, where they are there.

    Raises:
        UserError: The file cannot be read.
    """
    if not is_remote(file):
        return file
    found = {}
    for path in (file, *map(file.with_name, beside)):
        with explained(path, "read"), suppress(FileNotFoundError):
            found[path.name] = path.fs.info(path.path)  # type: ignore[attr-defined]
    if found.get(file.name, {}).get("type") != "file":
        raise UserError(f"{file} does not exist: there is no object of that name.")
    folder = _cached(file.parent, found, None)
    for name in set(beside) - set(found):
        (folder / name).unlink(missing_ok=True)
    return folder / file.name


def local_data(path: str | os.PathLike[str]) -> Path:
    """Return a local path with the data at ``path``; those in object storage are copied once.

    Args:
        path: A folder, an ``.npz`` file, or a list of files beside which the files are.

    Raises:
        UserError: ``path`` cannot be read, or is an address of another kind.
    """
    found = locate(path)
    return _copied_data(str(found)) if is_remote(found) else found


@cache
def _copied_data(address: str) -> Path:
    path = locate(address)
    if path.suffix.lower() == ".npz":
        return local_copy(path)
    if path.suffix and path.is_file():
        return mirror(path.parent) / path.name
    return mirror(path)


def upload(source: Path, target: Path) -> None:
    """Copy a local file to a path in object storage, where it appears whole or not at all.

    Raises:
        UserError: It cannot be written; what was there is as it was.
    """
    with explained(target, "written"):
        target.fs.put_file(str(source), target.path)  # type: ignore[attr-defined]


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, local or in object storage.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: A local file cannot be read.
        StorageError: A store cannot be read.
    """
    if not is_remote(path):
        return path.read_bytes()
    with explained(path, "read"):
        try:
            content: bytes = path.fs.cat_file(path.path)  # type: ignore[attr-defined]
            return content
        except FileNotFoundError as error:
            missing = error
    raise missing


def write_bytes(path: Path, content: bytes) -> None:
    """Write an object, which appears whole or not at all.

    Raises:
        UserError: It cannot be written; what was there is as it was.
    """
    with explained(path, "written"):
        path.fs.pipe_file(path.path, content)  # type: ignore[attr-defined]


def delete(path: Path) -> None:
    """Delete a file or a folder, if it is there.

    Raises:
        OSError: A local one cannot be deleted.
        StorageError: One in object storage cannot be deleted.
    """
    if not is_remote(path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    fs, name = path.fs, path.path  # type: ignore[attr-defined]
    with explained(path, "deleted"), suppress(FileNotFoundError):
        fs.rm(name, recursive=True)


def move_folder(source: Path, target: Path, last: str) -> None:
    """Move a folder in object storage, which copies each object and deletes it.

    Args:
        source: The folder.
        target: Its new name; what is there is deleted first.
        last: The file by which a folder is complete: a call that is interrupted leaves ``source``
            complete, or ``target``.

    Raises:
        StorageError: It cannot be moved.
    """
    delete(target)
    fs = source.fs  # type: ignore[attr-defined]
    names = sorted(list_files(source), key=lambda name: name == last)
    old, new = (path.path for path in (source, target))  # type: ignore[attr-defined]
    with explained(source, "moved"):
        for name in names:
            fs.cp_file(f"{old}/{name}", f"{new}/{name}")
        for name in reversed(names):
            fs.rm_file(f"{old}/{name}")


def _cached(
    folder: Path, found: Mapping[str, Mapping[str, Any]], present: Mapping[str, Any] | None
) -> Path:
    """Return the copy of a folder in the cache, with the files ``found`` as they are now.

    Args:
        folder: The folder.
        found: What fsspec knows of each file that is wanted, by its name below the folder.
        present: All files that are in the folder; the others are deleted from the copy.
    """
    from filelock import FileLock

    kept = _cache_of(folder)
    with explained(folder, "read"), FileLock(kept / ".lock", timeout=600):
        _refresh(folder, kept / folder.name, found, present)
    return kept / folder.name


def _refresh(
    folder: Path,
    local: Path,
    found: Mapping[str, Mapping[str, Any]],
    present: Mapping[str, Any] | None,
) -> None:
    """Copy the files ``found`` that are not in a local folder yet, or have changed."""
    fs, root = folder.fs, folder.path  # type: ignore[attr-defined]
    index = local.with_name("versions.json")
    try:
        held = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = {}
    for name in set(held) - set(held if present is None else present):
        (local / name).unlink(missing_ok=True)
        del held[name]
    wanted = {name: _version(info) for name, info in found.items()}
    missing = [
        name for name in wanted if held.get(name) != wanted[name] or not (local / name).is_file()
    ]
    with tempfile.TemporaryDirectory(prefix=".part-", dir=index.parent) as scratch:
        for start in range(0, len(missing), _AT_ONCE):
            names = missing[start : start + _AT_ONCE]
            parts = [os.path.join(scratch, str(number)) for number in range(len(names))]
            fs.get([f"{root}/{name}" for name in names], parts)
            for name, part in zip(names, parts, strict=True):
                if os.path.getsize(part) != found[name]["size"]:
                    raise OSError(errno.EIO, "Connection closed before the end of the object", name)
                (local / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(part, local / name)
            held |= {name: wanted[name] for name in names}
            index.write_text(json.dumps(held), encoding="utf-8")
    index.write_text(json.dumps(held), encoding="utf-8")


def _time(info: Mapping[str, Any]) -> float:
    """Return when an object was written, in seconds since 1970, by the clock of the store."""
    when = info.get("LastModified") or info.get("mtime") or info.get("updated")
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    return when.timestamp() if isinstance(when, datetime) else float(when or 0.0)


def _version(info: Mapping[str, Any]) -> str:
    """Return what changes whenever an object does."""
    tag = info.get("generation") or info.get("ETag") or info.get("etag") or _time(info)
    return f"{tag} {info['size']}"


def _cache_of(path: Path) -> Path:
    """Return the folder of the copies of what is below a path, which is made."""
    digest = hashlib.blake2b(str(path).encode(), digest_size=12).hexdigest()
    name = f"{path.name[:40]}-{digest}"
    return writable_folder(cache_folder() / "object_storage" / name) or _process_cache(name)


@cache
def _process_cache(name: str) -> Path:
    folder = process_folder() / name
    folder.mkdir()
    return folder


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
