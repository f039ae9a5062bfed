"""Paths as people write them, and folders of what is kept between runs."""

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from .errors import UserError


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading ``~`` or ``~user`` replaced by that home (``expand_text``)."""
    return Path(expand_text(path))


def expand_text(path: str | os.PathLike[str]) -> str:
    """Return a path with a leading ``~`` or ``~user`` replaced by that home, and all else as it is.

    As in shells, the name of a user that does not exist stays: a file may be called ``~draft.jpg``.

    Raises:
        UserError: The path begins with ``~``, and this user has no home.
    """
    expanded = os.path.expanduser(os.fspath(path))
    if expanded == "~" or expanded.startswith("~" + os.sep):
        raise UserError(
            f"{path} begins with ~, but the home of this user is not known: set the environment "
            "variable HOME, or write the whole path."
        )
    return expanded


def cache_folder() -> Path:
    """Return the folder of what is kept between runs: ``$FLAX_RESNET_CACHE`` or, where that is not
    set, ``~/.cache/flax_resnet``."""
    return expand(os.environ.get("FLAX_RESNET_CACHE") or "~/.cache/flax_resnet")


def writable_folder(path: str | os.PathLike[str]) -> Path | None:
    """Return a folder, made if there is none; None where no file can be written in it."""
    try:
        folder = expand(path)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, UserError):
        return None


@cache
def process_folder() -> Path:
    """Return a folder that is deleted when the process ends."""
    folder = tempfile.mkdtemp(prefix="flax_resnet-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
