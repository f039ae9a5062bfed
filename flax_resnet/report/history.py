"""``history.jsonl``: the history of a run, with one JSON object on each line.

Each evaluation adds a line with the keys ``step``, ``epoch``, ``time`` (seconds of the run so
far), ``train_loss train_top1 val_loss val_top1 val_top5 learning_rate images_per_second
data_wait``. The last line of a finished run has ``test_loss test_top1 test_top5`` of the best
checkpoint, and the same of the last one with the prefix ``last_``. If images can have any number
of classes there are also ``val_map`` and ``test_map``, mean average precisions. Accuracies and
``data_wait`` are fractions. A loss that is not finite is ``null``, and so is each mean over no
images, where all steps were skipped or no image could be read. ``digest`` identifies the bits of
the training state, so that two machines can tell where they part (``training.state_digest``).
After a run was rolled back because it diverged, ``rate_factor`` is the factor of its learning rate.
A run of several processes adds ``host_seconds``, which a process spends by itself in a step (the
median of the processes), ``slowest_host_seconds``, and ``slowest_host``, the process that took
them; and the same with ``device``, for a fixed product of matrices on a process's devices.
The last key of each line, ``checksum``, is the CRC-32 of the line without it; reading a line checks
and removes it.
"""

import os
import re
import zlib
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..output_files import open_text, to_json
from ..storage import is_remote, read_bytes, write_bytes
from ..text_files import parse_json

Entry = dict[str, Any]


CHECKSUM = "checksum"


def append_history(path: Path, entry: Entry) -> None:
    """Add one line, which is on the disk, or in the object store, when this returns.

    Raises:
        UserError: It cannot be written.
    """
    if is_remote(path):  # which cannot append: the lines are few
        try:
            before = read_bytes(path)
        except FileNotFoundError:
            before = b""
        write_bytes(path, before + _line_of(entry).encode())
        return
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(_line_of(entry))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): make space or check the "
            "folder; the same command resumes from the newest checkpoint."
        ) from error


def read_history(path: Path) -> list[Entry]:
    """Read the lines of a history.

    Returns:
        The lines, without a last one of which only the start was written;
        none if there is no such file.

    Raises:
        UserError: A line is damaged.
    """
    try:
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    *lines, rest = content.split(b"\n")
    if b"}" in rest[-2:]:  # a whole line, whose line break is damaged or was not written
        lines.append(rest)
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(_checked(parse_json(line)))
        except (ValueError, TypeError, KeyError, AttributeError, StopIteration) as error:
            raise UserError(
                f"Line {number} of {path} is damaged: copy the file from another copy of the run, "
                "or delete the line."
            ) from error
    return entries


def _checked(entry: Entry) -> Entry:
    """Return an entry without its checksum.

    Raises:
        ValueError: It is damaged.
    """
    last = next(reversed(entry))
    if last == CHECKSUM:
        if entry.pop(CHECKSUM) != _checksum(entry):
            raise ValueError
    # Earlier versions wrote no checksum; but this may be one whose name is damaged.
    elif re.fullmatch("[0-9a-f]{8}", str(entry[last])):
        raise ValueError
    if not isinstance(entry["step"], int):
        raise ValueError
    return entry


def _line_of(entry: Entry) -> str:
    return to_json(entry | {CHECKSUM: _checksum(entry)}) + "\n"


def _checksum(entry: Entry) -> str:
    return f"{zlib.crc32(to_json(entry).encode()):08x}"


def history_up_to(path: Path, step: int) -> list[Entry]:
    """Read the lines of evaluations up to ``step``, without the last line of a finished run."""
    return [
        entry for entry in read_history(path) if entry["step"] <= step and "best_step" not in entry
    ]


def truncate_history(path: Path, step: int) -> list[Entry]:
    """Keep the lines up to ``step`` and delete those that a run resumed there will write again.

    The last line of a finished run is deleted too.

    Returns:
        The lines that were kept.
    """
    kept = history_up_to(path, step)
    if path.exists():
        with open_text(path) as file:
            file.writelines(map(_line_of, kept))
    return kept
