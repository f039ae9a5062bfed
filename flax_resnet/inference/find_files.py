"""Image files that arguments of a command line name: files, folders, patterns, or a list."""

import glob
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from ..data.images import TABLE_EXTENSIONS, read_listed_files
from ..data.images.tree import HIDDEN, LOOP, read_tree
from ..paths import expand_text

STDIN = "-"


@dataclass(frozen=True)
class FoundFiles:
    """Files to read, and arguments that name none.

    Attributes:
        paths: Each file once, in the order of the arguments; those of a folder sorted by path.
        missing: Word or path -> reason why it names no file that can be read, as the end of a
            sentence.
        skipped: Number of files in folders without an image's extension.
    """

    paths: tuple[str, ...]
    missing: dict[str, str]
    skipped: int


def find_files(
    arguments: Iterable[str | os.PathLike[str]],
    stdin: TextIO | None = None,
    columns: Sequence[str] | None = None,
) -> FoundFiles:
    """Find the image files that ``arguments`` name.

    A file that several arguments name counts once.

    Args:
        arguments: Files of any name; folders, for all files in them with an image's extension
            except hidden ones; patterns such as ``photos/**/*.jpg``; lists (``.csv``, ``.tsv``,
            ``.jsonl``) with a column of paths; or ``-`` for ``stdin``.
        stdin: A list of such arguments, one a line or each ended by NUL.
        columns: Columns of a list, the first of them that of the paths.

    Raises:
        UserError: A list cannot be read or parsed, or its columns are not clear.
    """
    found: dict[str, str] = {}  # by absolute path, as first named
    missing: dict[str, str] = {}
    skipped = 0
    for argument in _with_list(arguments, stdin):
        if argument.lower().endswith(TABLE_EXTENSIONS) and os.path.isfile(argument):
            for listed in read_listed_files(argument, columns):
                if listed.error:
                    missing[listed.path] = listed.error
                else:
                    found.setdefault(os.path.abspath(listed.path), listed.path)
            continue
        one = _of_argument(argument)
        for path in one.paths:
            found.setdefault(os.path.abspath(path), path)
        missing |= one.missing
        skipped += one.skipped
    return FoundFiles(tuple(found.values()), missing, skipped)


def _with_list(arguments: Iterable[str | os.PathLike[str]], stdin: TextIO | None) -> Iterator[str]:
    for argument in arguments:
        if argument == STDIN and stdin is not None:
            if isinstance(stdin, io.TextIOWrapper):  # names may hold any bytes
                stdin.reconfigure(errors="surrogateescape", newline="")
            text = stdin.read()
            if "\0" in text:
                yield from filter(None, text.split("\0"))
                continue
            # Not splitlines: names may have other characters that end a line in Unicode.
            for line in text.removeprefix("\ufeff").split("\n"):
                name = line.removesuffix("\r")
                if name.strip():
                    yield name if os.path.lexists(name) else name.strip()
        else:
            yield expand_text(argument)


def _of_argument(argument: str) -> FoundFiles:
    """Return the files of an argument, or the reason why there are none."""
    if os.path.isdir(argument):
        return _below(argument)
    if os.path.lexists(argument):
        return FoundFiles((argument,), {}, 0)
    if re.match(r"https?://", argument):
        return _none(argument, "is an address: download the image and give the file")
    if glob.has_magic(argument):
        matched = sorted(glob.glob(argument, recursive=True))
        files = tuple(path for path in matched if os.path.isfile(path))
        return FoundFiles(files, {}, 0) if files else _none(argument, "matches no files")
    return _none(argument, "does not exist")


def _none(argument: str, reason: str) -> FoundFiles:
    return FoundFiles((), {argument: reason}, 0)


def _below(path: str) -> FoundFiles:
    """Return the images below a folder, and what is named like an image but cannot be read."""
    tree = read_tree(path, once=True)
    missing = {path: why for path, why in tree.left_out().items() if why not in (HIDDEN, LOOP)}
    missing |= {folder.path: folder.unreadable for folder in tree.walk() if folder.unreadable}
    if not tree.count and not missing:
        missing[path] = "holds no images"
    skipped = sum(len(folder.others) for folder in tree.walk())
    return FoundFiles(tuple(tree.image_paths()), missing, skipped)
