"""The error for mistakes that the user can correct."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can correct, described in one sentence: what, where, what to do.

    The command line prints the sentence without a traceback and ends with ``exit_code``. Names and
    values of files are part of it, so characters that would break the line or change the state of a
    terminal are escaped.

    Attributes:
        exit_code: 1 for a command that failed, 2 for wrong usage.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(one_line(message))
        self.exit_code = exit_code


def wrong_choice(option: str, value: str, choices: Iterable[str]) -> UserError:
    """Return the error for a value that is none of the choices of an option."""
    *first, last = choices
    listed = f"{', '.join(first)} or {last}" if first else last
    return UserError(f"{option} is {value}; it must be {listed}.", exit_code=2)


class HangingError(UserError):
    """A wait passed its deadline; a thread that cannot be ended may be left, so the command line
    ends the process at once."""


class StorageError(UserError):
    """An object store did not answer, or refused: what it holds is neither missing nor damaged."""


def one_line(text: str) -> str:
    """Return a text with its control characters, such as line breaks, escaped."""
    return "".join(
        c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text
    )


def first_line(error: Exception) -> str:
    """Return the type and the first line of a library's error, shortened.

    Its middle is left out, because errors of errors end with the cause.
    """
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    line = lines[0] if len(lines[0]) <= 160 else f"{lines[0][:60]} … {lines[0][-90:]}"
    return f"{type(error).__name__}: {line}"
