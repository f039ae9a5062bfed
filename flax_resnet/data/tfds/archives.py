"""The files of a folder or of a tar archive, read without unpacking.

No member of an archive is written under its own name, so it cannot overwrite a file elsewhere.
Members whose names try to are refused nevertheless: such an archive is not the published one, and
somebody changed it on purpose.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flax_resnet.data.formats import MAX_BYTES
from flax_resnet.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20
# Photos do not compress and CIFAR's pixels hardly do: an archive that expands more is not one of
# the published ones.
_MAX_EXPANSION = 4


@dataclass(frozen=True)
class FileSpan:
    """The bytes of a file: ``size`` bytes of ``path`` from ``offset`` on, or all if None."""

    path: Path
    offset: int = 0
    size: int | None = None


@dataclass(frozen=True)
class FileTree:
    """The regular files below a folder or in an archive.

    Attributes:
        source: The folder or archive, for messages.
        files: Bytes of each file by its relative name, with slashes.
    """

    source: Path
    files: Mapping[str, FileSpan]

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            KeyError: There is no file of this name.
            UserError: The file cannot be read, or the archive ends before the file does.
        """
        span = self.files[name]
        with reading(self.source), open(span.path, "rb") as file:
            file.seek(span.offset)
            content = file.read(-1 if span.size is None else span.size)
        if span.size not in (None, len(content)):
            raise UserError(_truncated(self.source))
        return content

    def root_of(self, marker: str, expected: str) -> str:
        """Return the folder that has the file ``marker``, as ``""`` or ``"a/b/"``.

        Args:
            marker: Name of a file, with or without folders.
            expected: What the source should be, for the message.

        Raises:
            UserError: No folder or several folders have the file.
        """
        roots = [
            name.removesuffix(marker)
            for name in self.files
            if name == marker or name.endswith("/" + marker)
        ]
        if len(roots) != 1:
            found = f"has {marker} in {len(roots)} folders" if roots else f"has no {marker}"
            raise UserError(f"{self.source} {found}: give {expected}")
        return roots[0]


def open_tree(source: Path, scratch: Path) -> FileTree:
    """Find the files of a folder, a tar or a tar.gz, which the content shows and not the name.

    Args:
        source: The folder or archive.
        scratch: Folder into which a tar.gz is uncompressed; it must exist while the files are read.

    Raises:
        UserError: The source is unreadable, damaged, truncated or not a tar, or a member is a link
            or a device, or has an absolute path or one with ``..``.
        OSError: ``scratch`` cannot be written.
    """
    if source.is_dir():
        return FileTree(source, folder_files(source))
    with reading(source), open(source, "rb") as file:
        compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    if not compressed:
        return FileTree(source, tar_files(source, source))
    uncompressed = scratch / "uncompressed.tar"
    _uncompress(source, uncompressed)
    return FileTree(source, tar_files(uncompressed, source))


def folder_files(folder: Path) -> dict[str, FileSpan]:
    """Find all files below a folder, sorted by name, without those that macOS adds.

    Raises:
        UserError: A folder cannot be read.
    """
    found = {}
    with reading(folder):
        for parent, folders, files in os.walk(folder, onerror=_raise):
            folders.sort()
            for name in sorted(files):
                path = Path(parent, name)
                found[path.relative_to(folder).as_posix()] = FileSpan(path)
    return _without_macos_files(found)


def tar_files(path: Path, source: Path, within: FileSpan | None = None) -> dict[str, FileSpan]:
    """Find the regular files of an uncompressed tar, in its order, without reading them.

    Args:
        path: The file that holds the tar.
        source: The archive that the user gave, for messages.
        within: The bytes of ``path`` that are the tar, if it is a member of another tar.

    Raises:
        UserError: As for ``open_tree``.
    """
    found = {}
    with reading(source), open(path, "rb") as file:
        start, end = 0, os.fstat(file.fileno()).st_size
        if within is not None:
            start, end = within.offset, within.offset + (within.size or 0)
        file.seek(start)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    _check_member(member, source)
                    start = member.offset_data
                    if member.isreg():
                        name = posixpath.normpath(member.name)
                        found[name] = FileSpan(path, member.offset_data, member.size)
                        start += -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        except (tarfile.TarError, ValueError) as error:  # ValueError: some damaged headers
            raise UserError(
                f"{source} is no tar archive, or a damaged one ({error}): give a whole copy"
            ) from error
        # tarfile takes damage after the first member, and the end of the file, for the end of the
        # archive. A complete archive ends with a block of zeros.
        file.seek(start)
        if start + tarfile.BLOCKSIZE > end or any(file.read(tarfile.BLOCKSIZE)):
            raise UserError(_truncated(source))
    return _without_macos_files(found)


@contextlib.contextmanager
def reading(source: Path) -> Iterator[None]:
    """Turn an OSError from reading ``source`` into a message for the user.

    Raises:
        UserError: An OSError was raised inside the block.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{source} cannot be read ({error.strerror or error}): give a file or folder that can"
        ) from error


def _without_macos_files(files: dict[str, FileSpan]) -> dict[str, FileSpan]:
    """Leave out files that macOS adds when it packs or copies: ``._1.jpg`` is no image."""
    return {
        name: span
        for name, span in files.items()
        if not posixpath.basename(name).startswith("._") and "__MACOSX" not in name.split("/")
    }


def _check_member(member: tarfile.TarInfo, source: Path) -> None:
    """Raise a UserError if a member is not a plain file or folder inside the archive."""
    if member.name.startswith("/"):
        problem = "has an absolute path"
    elif ".." in member.name.split("/"):
        problem = "leads out of the archive by '..'"
    elif member.issym() or member.islnk():
        problem = f"is a link to {member.linkname!r}"
    elif not (member.isdir() or (member.isreg() and not member.issparse())):
        problem = "is neither a file nor a folder"
    else:
        return
    raise UserError(
        f"{source} is refused: its member {member.name!r} {problem}, and the published archives "
        "have no such thing; give a copy from a source you trust"
    )


def _uncompress(source: Path, target: Path) -> None:
    """Uncompress a gzip file into ``target``."""
    left = max(MAX_BYTES, _MAX_EXPANSION * source.stat().st_size)
    with gzip.open(source) as stream, open(target, "wb") as out:
        while True:
            try:
                chunk = stream.read(_CHUNK_BYTES)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise UserError(_truncated(source, f" ({error})")) from error
            left -= len(chunk)
            if left < 0:
                raise UserError(
                    f"{source} is refused: it expands to far more than the published archives do; "
                    "give a copy from a source you trust"
                )
            if not chunk:
                return
            out.write(chunk)


def _truncated(source: Path, detail: str = "") -> str:
    return f"{source} is damaged or cut short{detail}: give a whole copy"


def _raise(error: OSError) -> None:
    raise error
