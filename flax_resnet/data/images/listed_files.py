"""Files that a list names, with the paths that people and other systems write."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache

from flax_resnet.data.images.decoding import EXTENSIONS
from flax_resnet.errors import UserError
from flax_resnet.file_names import unescape
from flax_resnet.paths import expand_text


class FileFinder:
    """Finds the files of paths relative to one folder.

    A path names the file that it spells. If there is none, it names the file that it spells with
    another composition of its accents, another case of the file's name, or an image's extension
    added. A backslash is also read as a separator of folders.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._names_in = cache(_names_in)

    def find(self, path: str) -> list[str]:
        """Return the different files that a path may name, none if there is none."""
        spellings = dict.fromkeys(
            spelling
            for text in (path, path.strip())
            for spelling in (text, text.replace("\\", "/"), unescape(text))
            if spelling and "\0" not in spelling
        )
        full = [os.path.join(self.folder, expand_text(spelling)) for spelling in spellings]
        if found := {os.path.normpath(one): one for one in full if os.path.isfile(one)}:
            return list(found.values())
        return list(dict.fromkeys(file for one in full for file in self._similar(one)))

    def _similar(self, path: str) -> list[str]:
        """Return the files whose names differ from that of a path as described above."""
        folder, name = os.path.split(path)
        wanted = _folded(name)
        names = self._names_in(folder)
        chosen = names.get(wanted) or [
            other for extension in EXTENSIONS for other in names.get(wanted + extension, ())
        ]
        return [os.path.join(folder, other) for other in chosen]


def find_listed(listing: str, paths: Sequence[str]) -> tuple[list[list[str]], str]:
    """Find the files of a list's paths.

    Paths are relative to the list's folder if it has all files. Else they are relative to the only
    folder that has all, among those next to the list, the one above it, and the current one; or to
    the only one that has any.

    Args:
        listing: The list.
        paths: Paths of its rows.

    Returns:
        The files that each path may name, see ``FileFinder.find``, and a note for the user if they
        are not in the list's folder.

    Raises:
        UserError: Several folders have all files.
    """
    own = os.path.dirname(listing)
    found = _find_all(own, paths)
    if all(found):
        return found, ""
    # There may be 50,000 rows and 1,000 folders: a folder is left at the first path that decides,
    # and the search ends with the second folder that could be meant.
    by_location = {os.path.realpath(folder): folder for folder in _other_folders(own or ".")}
    others = list(by_location.values())
    suitable = list(itertools.islice((one for one in others if _has(all, one, paths)), 2))
    if len(suitable) > 1:
        raise UserError(
            f"{listing}: its paths could be relative to {suitable[0]} or to {suitable[1]}, which "
            "both have all of its files; put the list into the folder of its images"
        )
    if not suitable and not any(found):
        suitable = list(itertools.islice((one for one in others if _has(any, one, paths)), 2))
    if len(suitable) != 1:  # of some of the files only: none of them is meant for sure
        return found, ""
    return _find_all(suitable[0], paths), f"{listing}: its paths are relative to {suitable[0]}"


def _find_all(folder: str, paths: Sequence[str]) -> list[list[str]]:
    finder = FileFinder(folder)
    return [finder.find(path) for path in paths]


def _has(quantifier: Callable[[Iterable[object]], bool], folder: str, paths: Sequence[str]) -> bool:
    """Return whether a folder has ``all`` or ``any`` of the files."""
    return quantifier(map(FileFinder(folder).find, paths))


def _other_folders(own: str) -> list[str]:
    try:
        names = sorted(os.listdir(own))
    except OSError:
        names = []
    inner = [os.path.join(own, name) for name in names if not name.startswith(".")]
    return [*filter(os.path.isdir, inner), os.path.join(own, ".."), "."]


def _names_in(folder: str) -> dict[str, list[str]]:
    """Return the names of the files of a folder, by their folded form."""
    names: dict[str, list[str]] = {}
    try:
        for name in sorted(os.listdir(folder or ".")):
            if os.path.isfile(os.path.join(folder, name)):
                names.setdefault(_folded(name), []).append(name)
    except OSError:
        return {}
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
