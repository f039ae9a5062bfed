"""The error that is the user's to put right."""


class UserError(Exception):
    """Something the user can put right, told in one sentence: what, where, what to do.

    The command line prints it, without a traceback, and ends with ``exit_code``: 1 for a failed
    command, 2 for wrong usage.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
