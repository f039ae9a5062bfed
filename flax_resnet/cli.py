"""The command line ``flax-resnet``: the table of commands and their exit codes."""

import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Literal, NamedTuple

from .errors import HangingError, UserError
from .runtime import tune_cpu, warn_of_wrong_results


class Command(NamedTuple):
    """A command and the file of ``commands/`` that holds its function.

    Attributes:
        module: The file that holds the function ``NAME_command``. It is imported only to run the
            command, so that ``flax-resnet --help`` does not wait for the import of tyro.
        summary: The line that describes the command in the list of commands.
        tuning: How a process that runs the command is tuned for a CPU: ``"flags"`` sets the flags
            of XLA; ``"restart"`` also restarts the process with other settings of the allocator,
            which is worthwhile for commands that take minutes.
    """

    module: str
    summary: str
    tuning: Literal["flags", "restart"] | None = None


COMMANDS = {
    "train": Command("training", "Train a model from a config.", "restart"),
    "finetune": Command(
        "finetune", "Train a classifier of your photos from pretrained weights.", "restart"
    ),
    "launch": Command("training", "Train in several processes of this machine."),
    "predict": Command(
        "prediction", "Classify photos: files, folders, patterns or a list.", "flags"
    ),
    "evaluate": Command("prediction", "Compare a model's predictions with true classes.", "flags"),
    "explain": Command("explanation", "Show which pixels of photos speak for a class.", "flags"),
    "embed": Command("prediction", "Write the features of photos to a file.", "flags"),
    "serve": Command("serve", "Classify photos over HTTP, and on a page in the browser.", "flags"),
    "report": Command("report", "Rewrite the report page of a run, report/index.html.", "flags"),
    "compare": Command("report", "Compare runs: curves, settings, tests on the same images."),
    "verify": Command("runs", "Compare the files of a run with their checksums.", "flags"),
    "checkpoints": Command("runs", "List, verify and prune the checkpoints of a run."),
    "debug-step": Command("runs", "Compute a step again that was not finite.", "flags"),
    "list": Command("models", "List the models whose name matches a pattern."),
    "summary": Command("models", "Show a model's size, cost, output shapes and memory."),
    "convert": Command("weights", "Convert weights between file formats and run folders."),
    "export": Command("export", "Write a model to a file for another program.", "flags"),
    "inspect": Command("weights", "Show the arrays of a weights file and which model they fit."),
    "push": Command("weights", "Upload a model to the Hugging Face hub, with a model card."),
    "check": Command("data", "Read every image of a folder or list and report defects."),
    "prepare": Command("data", "Write a data set in the format of TFDS, without TensorFlow."),
    "lr-find": Command("training", "Suggest a learning rate for a config.", "flags"),
    "reproduce": Command(
        "reproduce", "Train a row of the table of results over its seeds.", "restart"
    ),
    "study": Command(
        "reproduce", "Compare architectures that are trained equally with their paper.", "restart"
    ),
    "augment-preview": Command("training", "Write a picture of a config's augmented images."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command and its arguments. By default they are those of the process, which
            is then first tuned for the CPU if JAX computes on one.

    Returns:
        The exit code: 0 if the command is done, 1 if it failed, 2 for wrong usage.
    """
    owns_process = arguments is None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    # Orbax logs its errors with tracebacks, and raises them, for which there are our sentences.
    logging.getLogger("absl").setLevel(logging.ERROR if debug else logging.CRITICAL)
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # we have our own limit
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may hold any bytes
    try:
        if owns_process:
            _tune(arguments)
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
            return 0 if arguments else 2
        name, *rest = arguments
        if name not in COMMANDS:
            print(f"error: There is no command {name!r}.\n{_usage()}", file=sys.stderr)
            return 2
        if debug and name == "launch":
            rest.append("--debug")
        module = import_module(f".commands.{COMMANDS[name].module}", __package__)
        getattr(module, f"{name.replace('-', '_')}_command")(rest)
        sys.stdout.flush()
    except SystemExit as end:  # tyro has printed a --help
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except UserError as error:
        if debug:
            traceback.print_exc()
        # Messages that others quote have no full stop.
        stop = "" if str(error).endswith((".", "!", "?")) else "."
        print(f"error: {error}{stop}", file=sys.stderr)
        if owns_process and isinstance(error, HangingError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_code)  # a normal exit would wait for the thread that hangs
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1
    except Exception as error:
        if debug:
            raise
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        print(f"error: {reason} (run again with --debug for the traceback)", file=sys.stderr)
        return 1
    return 0


def _tune(arguments: Sequence[str]) -> None:
    """Tune this process for the command that it will run, unless that only prints its help."""
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command and command.tuning and not {"-h", "--help"} & set(arguments):
        from .commands.tuning import dtype_of

        tune_cpu(
            restart=command.tuning == "restart",
            dtype=dtype_of(arguments[1:]),
            task="train" if command.tuning == "restart" else "infer",
        )
        warn_of_wrong_results()


def _usage() -> str:
    lines = ["usage: flax-resnet COMMAND [options]", ""]
    lines += [f"  {name:17}{command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "flax-resnet COMMAND --help describes its options; --debug shows tracebacks."]
    return "\n".join(lines)
