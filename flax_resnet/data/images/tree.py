"""Folders of files as a tree: images, other files, and what cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from flax_resnet.data.images.decoding import EXTENSIONS

# Files and folders that systems leave behind: macOS in archives, Windows, Synology, ext4.
_OF_THE_SYSTEM = frozenset(
    ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found", "icon\r")
)
_DANGLING = "is a link to a file that does not exist"
_SPECIAL = "is a pipe or another special file"
LOOP = "is a link to one of its own parent folders"
_EMPTY_FOLDER = "is a folder"
HIDDEN = "is hidden"


@dataclass(eq=False)
class Folder:
    """A folder with all that is below it.

    Attributes:
        path: Path of the folder.
        name: Its name.
        folders: The folders in it, sorted by name.
        images, others: Names of the files in it, sorted, with an image's extension and without.
        hidden: Names of the image files in it that are hidden, except those that macOS adds.
        unusable: Reason for each path in it that is neither a file nor a folder, or a link to a
            parent folder.
        unreadable: Why it cannot be listed, as the end of a sentence; else "".
        is_loop: Whether it is one of its own parent folders, reached by a link.
        count: Number of images in it and below.
    """

    path: str
    name: str
    folders: list[Folder] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    unreadable: str = ""
    is_loop: bool = False
    count: int = 0

    @property
    def folders_with_images(self) -> list[Folder]:
        """The folders in it that have images, in them or below."""
        return [folder for folder in self.folders if folder.count]

    def walk(self) -> Iterator[Folder]:
        """Yield the folder and all folders below it, sorted by path."""
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            yield folder
            waiting += reversed(folder.folders)

    def image_paths(self) -> list[str]:
        """Return the sorted paths of all images in it and below."""
        paths = (os.path.join(f.path, name) for f in self.walk() for name in f.images)
        return sorted(paths)

    def left_out(self) -> dict[str, str]:
        """Return the reason for each path that is named like an image and is not used."""
        found: dict[str, str] = {}
        for folder in self.walk():
            found |= {path: why for path, why in folder.unusable.items() if is_image(path)}
            found |= {os.path.join(folder.path, name): HIDDEN for name in folder.hidden}
            if folder is not self and is_image(folder.name) and not folder.count:
                found[folder.path] = _EMPTY_FOLDER
        return found


def is_image(name: str) -> bool:
    """Return whether a name has the extension of an image file."""
    return name.lower().endswith(EXTENSIONS)


def is_ignored(name: str) -> bool:
    """Return whether a file or folder is hidden or left behind by a system."""
    return name.startswith(".") or name.lower() in _OF_THE_SYSTEM


def read_tree(path: str, *, once: bool = False) -> Folder:
    """Return a folder with all that is below it and not hidden.

    Folders that cannot be listed are ``unreadable`` and empty.

    Args:
        path: The folder.
        once: Whether a folder to which several paths lead, by symbolic links, counts once. By
            default links are followed unless they lead back to one of their own parent folders.
    """
    root = Folder(path, os.path.basename(os.path.abspath(path)))
    # A stack and no recursion, because folders may be nested more deeply than Python's calls.
    found: list[Folder] = []
    seen: set[tuple[int, int]] = set()
    waiting: list[tuple[Folder, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        folder, parents = waiting.pop()
        found.append(folder)
        try:
            # Device and inode identify a folder whatever path leads to it.
            status = os.stat(folder.path)
            identity = status.st_dev, status.st_ino
            if identity in (seen if once else parents):
                folder.is_loop = True
                continue
            seen.add(identity)
            children = _list_folder(folder)
        except OSError as error:
            folder.unreadable = f"cannot be read ({error.strerror or error})"
            continue
        folder.folders = children
        waiting += [(child, parents | {identity}) for child in reversed(children)]
    for folder in reversed(found):  # children before their parents
        for child in folder.folders:
            if child.is_loop:
                folder.unusable[child.path] = LOOP
        folder.folders = [child for child in folder.folders if not child.is_loop]
        folder.count = len(folder.images) + sum(child.count for child in folder.folders)
    return root


def _list_folder(folder: Folder) -> list[Folder]:
    """Enter the files of a folder, and return the folders in it."""
    folders = []
    for entry in sorted(os.scandir(folder.path), key=lambda entry: entry.name):
        if is_ignored(entry.name):
            if is_image(entry.name) and not entry.name.startswith("._") and entry.is_file():
                folder.hidden.append(entry.name)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            folder.unusable[entry.path] = _DANGLING
        elif entry.is_dir():
            folders.append(Folder(entry.path, entry.name))
        elif entry.is_file():
            (folder.images if is_image(entry.name) else folder.others).append(entry.name)
        else:  # reading a pipe could wait forever
            folder.unusable[entry.path] = _SPECIAL
    return folders
