"""The command line ``flax-resnet``: which commands there are, and how they end."""

import io
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from rich.console import Console

from .commands.data import check_command, prepare_command
from .commands.finetune import finetune_command
from .commands.models import list_command, summary_command
from .commands.prediction import (
    embed_command,
    evaluate_command,
    predict_command,
    report_command,
)
from .commands.training import preview_command, train_command
from .commands.weights import convert_command, inspect_command
from .errors import UserError
from .runtime import tune_cpu


def run(arguments: Sequence[str] | None = None) -> int:
    """:func:`main` for a process of its own: on a CPU its settings are seen to first."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in COMPUTING and not {"-h", "--help"} & set(arguments):
        tune_cpu(restart=arguments[0] in LASTING)
    return main(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 (done), 1 (failed) or 2 (wrong usage)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax's notes are not for users
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # we have a limit of our own
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be any bytes
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
            return 0 if arguments else 2
        if arguments[0] not in COMMANDS:
            raise UserError(f"There is no command {arguments[0]!r}.\n{_usage()}", exit_code=2)
        COMMANDS[arguments[0]](arguments[1:])
    except UserError as error:
        if debug:
            traceback.print_exc()
        console.print(f"error: {error}", markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return 1
    except Exception as error:
        if debug:
            raise
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        console.print(f"error: {reason} (run again with --debug for the traceback)", markup=False)
        return 1
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train_command,
    "finetune": finetune_command,
    "predict": predict_command,
    "evaluate": evaluate_command,
    "embed": embed_command,
    "report": report_command,
    "list": list_command,
    "summary": summary_command,
    "convert": convert_command,
    "inspect": inspect_command,
    "check": check_command,
    "prepare": prepare_command,
    "augment-preview": preview_command,
}


# On a CPU: the commands that compute, and those that last, for which a restart pays.
COMPUTING = ("train", "finetune", "evaluate", "predict", "embed")
LASTING = ("train", "finetune")


def _usage() -> str:
    lines = ["usage: flax-resnet COMMAND [options]", ""]
    lines += [f"  {name:17}{command.__doc__}" for name, command in COMMANDS.items()]
    lines += ["", "flax-resnet COMMAND --help tells more; --debug shows tracebacks."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run())
