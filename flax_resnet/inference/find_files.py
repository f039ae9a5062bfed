"""Image files that the words of a command line name: files, folders, patterns, or a list."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from ..data.images import EXTENSIONS

STDIN = "-"


@dataclass(frozen=True)
class FoundFiles:
    """Files to read, and words that name none.

    Attributes:
        paths: Each file once, in the order of the words; those of a folder sorted by path.
        missing: Word -> reason why it names no file, as the end of a sentence.
        skipped: Number of files in folders without an image's extension.
    """

    paths: tuple[str, ...]
    missing: dict[str, str]
    skipped: int


def find_files(words: Iterable[str | os.PathLike[str]], stdin: TextIO | None = None) -> FoundFiles:
    """Find the image files that ``words`` name.

    A file that several words name counts once.

    Args:
        words: Files of any name; folders, of which all files with an image's extension are meant,
            except hidden ones; patterns such as ``photos/**/*.jpg``; or ``-`` for ``stdin``.
        stdin: A list of such words, one a line or each ended by NUL.
    """
    found: dict[str, str] = {}  # by absolute path, as first named
    missing: dict[str, str] = {}
    skipped = 0
    for word in _with_list(words, stdin):
        paths, why = _of_word(word)
        if isinstance(paths, _Folder):
            skipped += paths.others
            paths = paths.images
        if why:
            missing[word] = why
        for path in paths:
            found.setdefault(os.path.abspath(path), path)
    return FoundFiles(tuple(found.values()), missing, skipped)


@dataclass(frozen=True)
class _Folder:
    images: list[str]
    others: int


def _with_list(words: Iterable[str | os.PathLike[str]], stdin: TextIO | None) -> Iterator[str]:
    for word in words:
        if word == STDIN and stdin is not None:
            text = stdin.read()
            lines = text.split("\0") if "\0" in text else text.splitlines()
            yield from (line.strip() for line in lines if line.strip())
        else:
            yield os.path.expanduser(os.fspath(word))


def _of_word(word: str) -> tuple["list[str] | _Folder", str]:
    """Return the files of a word, or the reason why there are none."""
    if os.path.isdir(word):
        folder = _below(word)
        return folder, "" if folder.images else "holds no images"
    if os.path.exists(word):
        return [word], ""
    if re.match(r"https?://", word):
        return [], "is an address: download the image and give the file"
    if glob.has_magic(word):
        matched = sorted(glob.glob(word, recursive=True))
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
