"""Notes to the user on standard error, next to the result on standard output."""

import sys
from collections.abc import Iterable


def print_notes(notes: Iterable[str | None]) -> None:
    """Print each sentence as a note on standard error; empty ones and None are left out."""
    for note in filter(None, notes):
        print(f"note: {note}", file=sys.stderr)


def note_missing_letters(texts: Iterable[str]) -> None:
    """Print a note if names in a picture have letters that no installed font has."""
    from ..fonts import missing_letters_note

    print_notes([missing_letters_note(texts)])
