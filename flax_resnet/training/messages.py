"""Notes and warnings of a run, on its console."""

from rich.console import Console
from rich.text import Text


def note(console: Console, text: str) -> None:
    """Print a note."""
    console.print(Text.assemble(("note:", "yellow"), f" {text}"))


def warn(console: Console, text: str) -> None:
    """Print a warning."""
    console.print(Text.assemble(("warning:", "yellow"), f" {text}"))
