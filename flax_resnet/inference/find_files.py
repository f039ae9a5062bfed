"""Image files that arguments of a command line name: files, folders, patterns, or a list."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from ..data.images import EXTENSIONS
from ..paths import expand_text

STDIN = "-"


@dataclass(frozen=True)
class FoundFiles:
    """Files to read, and arguments that name none.

    Attributes:
        paths: Each file once, in the order of the arguments; those of a folder sorted by path.
        missing: Word -> reason why it names no file, as the end of a sentence.
        skipped: Number of files in folders without an image's extension.
    """

    paths: tuple[str, ...]
    missing: dict[str, str]
    skipped: int


def find_files(
    arguments: Iterable[str | os.PathLike[str]], stdin: TextIO | None = None
) -> FoundFiles:
    """Find the image files that ``arguments`` name.

    A file that several arguments name counts once.

    Args:
        arguments: Files of any name; folders, for all files in them with an image's extension
            except hidden ones; patterns such as ``photos/**/*.jpg``; or ``-`` for ``stdin``.
        stdin: A list of such arguments, one a line or each ended by NUL.
    """
    found: dict[str, str] = {}  # by absolute path, as first named
    missing: dict[str, str] = {}
    skipped = 0
    for argument in _with_list(arguments, stdin):
        paths, why = _of_argument(argument)
        if isinstance(paths, _Folder):
            skipped += paths.others
            paths = paths.images
        if why:
            missing[argument] = why
        for path in paths:
            found.setdefault(os.path.abspath(path), path)
    return FoundFiles(tuple(found.values()), missing, skipped)


@dataclass(frozen=True)
class _Folder:
    images: list[str]
    others: int


def _with_list(arguments: Iterable[str | os.PathLike[str]], stdin: TextIO | None) -> Iterator[str]:
    for argument in arguments:
        if argument == STDIN and stdin is not None:
            text = stdin.read()
            lines = text.split("\0") if "\0" in text else text.splitlines()
            yield from (line.strip() for line in lines if line.strip())
        else:
            yield expand_text(argument)


def _of_argument(argument: str) -> tuple["list[str] | _Folder", str]:
    """Return the files of a argument, or the reason why there are none."""
    if os.path.isdir(argument):
        folder = _below(argument)
        return folder, "" if folder.images else "holds no images"
    if os.path.exists(argument):
        return [argument], ""
    if re.match(r"https?://", argument):
        return [], "is an address: download the image and give the file"
    if glob.has_magic(argument):
        matched = sorted(glob.glob(argument, recursive=True))
        files = [path for path in matched if os.path.isfile(path)]
        return files, "" if files else "matches no files"
    return [], "does not exist"


def _below(folder: str) -> _Folder:
    images, others = [], 0
    seen: set[tuple[int, int]] = set()  # links may form a cycle
    for where, names, files in os.walk(folder, followlinks=True):
        status = os.stat(where)
        if (status.st_dev, status.st_ino) in seen:
            names.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        names[:] = sorted(name for name in names if not name.startswith(".") and name != "__MACOSX")
        shown = [name for name in files if not name.startswith(".")]
        chosen = [name for name in shown if name.lower().endswith(EXTENSIONS)]
        images += [os.path.join(where, name) for name in chosen]
        others += len(shown) - len(chosen)
    return _Folder(sorted(images), others)
