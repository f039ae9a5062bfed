"""The error for mistakes that the user can correct."""


class UserError(Exception):
    """A mistake that the user can correct, described in one sentence: what, where, what to do.

    The command line prints the sentence without a traceback and ends with ``exit_code``.

    Attributes:
        exit_code: 1 for a command that failed, 2 for wrong usage.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: Exception) -> str:
    """Return the type and the first line of a library's error, shortened."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__
