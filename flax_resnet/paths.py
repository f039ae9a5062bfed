"""Paths as people write them, and folders of what is kept between runs."""

import atexit
import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

from .errors import UserError


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a local path, a leading ``~`` or ``~user`` replaced by that home (``expand_text``).

    Raises:
        UserError: It is an address, such as ``https://host/name``, and no local path; or there is
            no home. ``storage.locate`` takes those in object storage.
    """
    text = expand_text(path)
    if scheme := scheme_of(text):
        raise UserError(
            f"{text}: {scheme}:// addresses are not supported here: name a local path "
            f"(./{text} where a folder is called {scheme}:).",
            exit_code=2,
        )
    return Path(text)


def scheme_of(text: str) -> str | None:
    """Return the scheme of an address, ``"s3"`` of ``s3://bucket/run``; None for a local path.

    ``pathlib`` writes the same address as ``s3:/bucket/run``, which has it too. A drive of Windows
    is no scheme.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)
    return found[1].lower() if found else None


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
    return expand(cache_text())


def cache_text() -> str:
    """Return the folder of what is kept between runs (``cache_folder``) as people write it."""
    return os.environ.get("FLAX_RESNET_CACHE") or "~/.cache/flax_resnet"


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
