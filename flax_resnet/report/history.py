"""``history.jsonl``: the history of a run, with one JSON object on each line.

Each evaluation adds a line with the keys ``step``, ``epoch``, ``time`` (seconds of the run so
far), ``train_loss train_top1 val_loss val_top1 val_top5 learning_rate images_per_second
data_wait``. The last line of a finished run has ``test_loss test_top1 test_top5`` of the best
checkpoint. If images can have any number of classes there are also ``val_map`` and ``test_map``,
mean average precisions. Accuracies and ``data_wait`` are fractions. A loss that is not finite is
``null``.
"""

import os
from pathlib import Path
from typing import Any

from ..output_files import open_text, to_json
from ..text_files import parse_json

Entry = dict[str, Any]


def append_history(path: Path, entry: Entry) -> None:
    """Add one line, which is on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(to_json(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_history(path: Path) -> list[Entry]:
    """Read the lines of a history.

    Returns:
        The lines up to the first that is incomplete or damaged; none if there is no such file.
    """
    if not path.exists():
        return []
    entries = []
    for line in path.read_bytes().splitlines():
        try:
            entry = parse_json(line)
        except ValueError:
            break
        if not isinstance(entry, dict) or "step" not in entry:
            break
        entries.append(entry)
    return entries


def truncate_history(path: Path, step: int) -> list[Entry]:
    """Keep the lines up to ``step`` and delete those that a run resumed there will write again.

    The last line of a finished run is deleted too.

    Returns:
        The lines that were kept.
    """
    kept = [
        entry for entry in read_history(path) if entry["step"] <= step and "best_step" not in entry
    ]
    if path.exists():
        with open_text(path) as file:
            file.writelines(to_json(entry) + "\n" for entry in kept)
    return kept
