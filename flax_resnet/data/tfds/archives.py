"""The files of a folder or of a tar archive, read where they are.

Nothing is unpacked under the name it has in an archive, so no member can end up in a place of its
own choosing. Members that ask for one are refused all the same: such an archive is not the
published one, and somebody made it so.
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
# Photos do not compress, and CIFAR's pixels hardly: an archive that grows more is none of ours.
_MOST_GROWTH = 4


@dataclass(frozen=True)
class Place:
    """Where the bytes of a file are: `size` bytes of `path` from `offset` on; all if None."""

    path: Path
    offset: int = 0
    size: int | None = None


@dataclass(frozen=True)
class Tree:
    """The regular files below a folder or in an archive.

    Attributes:
        source: the folder or archive, for messages.
        places: relative name, with slashes -> where the file is.
    """

    source: Path
    places: Mapping[str, Place]

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            KeyError: no file of this name.
            UserError: it cannot be read, or the archive ends before it does.
        """
        place = self.places[name]
        with reading(self.source), open(place.path, "rb") as file:
            file.seek(place.offset)
            content = file.read(-1 if place.size is None else place.size)
        if place.size not in (None, len(content)):
            raise UserError(_cut_short(self.source))
        return content

    def root_of(self, marker: str, expected: str) -> str:
        """Return what stands before `marker` in the name of the file that ends so: "" or "a/b/".

        Args:
            expected: what the source should be, for the message.

        Raises:
            UserError: no file, or several in different folders, has this ending.
        """
        roots = [
            name.removesuffix(marker)
            for name in self.places
            if name == marker or name.endswith("/" + marker)
        ]
        if len(roots) != 1:
            found = f"has {marker} in {len(roots)} places" if roots else f"has no {marker}"
            raise UserError(f"{self.source} {found}: give {expected}")
        return roots[0]


def open_tree(source: Path, scratch: Path) -> Tree:
    """Find the files of a folder, a tar or a tar.gz, told by content and not by name.

    Args:
        scratch: a folder; a tar.gz is uncompressed into it, and must be there while it is read.

    Raises:
        UserError: unreadable, damaged or cut short, no tar, or a member that is a link or a
            device, or has an absolute path or one with `..`.
        OSError: `scratch` cannot be written.
    """
    if source.is_dir():
        return Tree(source, folder_places(source))
    with reading(source), open(source, "rb") as file:
        compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    if not compressed:
        return Tree(source, tar_places(source, source))
    uncompressed = scratch / "uncompressed.tar"
    _uncompress(source, uncompressed)
    return Tree(source, tar_places(uncompressed, source))


def folder_places(folder: Path) -> dict[str, Place]:
    """Find all files below a folder, sorted by name, but for what macOS adds.

    Raises:
        UserError: a folder that cannot be read.
    """
    found = {}
    with reading(folder):
        for parent, folders, files in os.walk(folder, onerror=_raise):
            folders.sort()
            for name in sorted(files):
                path = Path(parent, name)
                found[path.relative_to(folder).as_posix()] = Place(path)
    return _without_macos_notes(found)


def tar_places(path: Path, source: Path, within: Place | None = None) -> dict[str, Place]:
    """Find the regular files of an uncompressed tar, in its order, without reading them.

    Args:
        source: the archive by the name that the user knows, for messages.
        within: the part of `path` that is the tar, where it is itself a member of one.

    Raises:
        UserError: as `open_tree`.
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
                    _refuse_to_lead_out(member, source)
                    start = member.offset_data
                    if member.isreg():
                        name = posixpath.normpath(member.name)
                        found[name] = Place(path, member.offset_data, member.size)
                        start += -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        except (tarfile.TarError, ValueError) as error:  # ValueError: some damaged headers
            raise UserError(
                f"{source} is no tar archive, or a damaged one ({error}): give a whole copy"
            ) from error
        # tarfile takes damage after the first member, and the end of the file, for the archive's
        # end. A whole archive says so itself, with a block of zeros.
        file.seek(start)
        if start + tarfile.BLOCKSIZE > end or any(file.read(tarfile.BLOCKSIZE)):
            raise UserError(_cut_short(source))
    return _without_macos_notes(found)


@contextlib.contextmanager
def reading(source: Path) -> Iterator[None]:
    """Turn the OSErrors of reading `source` into the sentence that the user gets.

    Raises:
        UserError: in place of OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{source} cannot be read ({error.strerror or error}): give a file or folder that can"
        ) from error


def _without_macos_notes(places: dict[str, Place]) -> dict[str, Place]:
    """Leave out what macOS puts beside the files it packs or copies: `._1.jpg` is no image."""
    return {
        name: place
        for name, place in places.items()
        if not posixpath.basename(name).startswith("._") and "__MACOSX" not in name.split("/")
    }


def _refuse_to_lead_out(member: tarfile.TarInfo, source: Path) -> None:
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
    """Write what `source`, a gzip file, holds to `target`."""
    left = max(MAX_BYTES, _MOST_GROWTH * source.stat().st_size)
    with gzip.open(source) as stream, open(target, "wb") as out:
        while True:
            try:
                chunk = stream.read(_CHUNK_BYTES)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise UserError(_cut_short(source, f" ({error})")) from error
            left -= len(chunk)
            if left < 0:
                raise UserError(
                    f"{source} is refused: it expands to far more than the published archives do; "
                    "give a copy from a source you trust"
                )
            if not chunk:
                return
            out.write(chunk)


def _cut_short(source: Path, detail: str = "") -> str:
    return f"{source} is damaged or cut short{detail}: give a whole copy"


def _raise(error: OSError) -> None:
    raise error
