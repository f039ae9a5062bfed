"""What the commands that apply a model to images share."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..errors import UserError
from .notes import print_notes

if TYPE_CHECKING:
    from rich.progress import Progress

    from ..inference import FoundFiles


def load_classifier(model: str, classes: str | None) -> Any:
    """Load a model; compiled programs are kept on disk for the next time."""
    import jax

    from ..inference import load
    from ..runtime import keep_programs

    named = jax.config.values["jax_compilation_cache_dir"]
    if named is None:
        print_notes([keep_programs(Config().compile_cache)])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return load(model, classes=classes)


def find_photos(arguments: Sequence[str], columns: str | None) -> "FoundFiles":
    """Find the photos that arguments of the command line name."""
    from ..data.images import split_columns
    from ..inference.find_files import find_files

    if not arguments:
        raise UserError("PATHS is missing: name files, folders or patterns.", exit_code=2)
    found = find_files(arguments, sys.stdin, split_columns(columns))
    if not found.paths:
        reasons = "; ".join(f"{word} {reason}" for word, reason in found.missing.items())
        raise UserError(f"There is nothing to predict: {reasons or 'the list is empty'}.")
    return found


def check_positive(**values: int) -> None:
    """Check numbers by the names of their options.

    Raises:
        UserError: One is below 1.
    """
    for name, value in values.items():
        if value < 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {value}; it must be 1 or more.", exit_code=2)


def progress_bar() -> "Progress":
    """Make a progress bar that is shown if stderr is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    return Progress(
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal or os.environ.get("TERM") == "dumb",
        transient=True,
    )


def report_failures(total: int, failed: Mapping[str, str], skipped: int) -> None:
    """Name the files that failed.

    Args:
        total: Number of all files.
        failed: Name -> reason of each that failed.
        skipped: Number of files that are no images by their names.

    Raises:
        UserError: A file failed.
    """
    if skipped:
        print(f"{skipped:,} files without an image's extension were skipped.", file=sys.stderr)
    for name, reason in failed.items():
        print(f"failed: {name} {reason}", file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed):,} of {total:,} could not be read; they are named above.")
