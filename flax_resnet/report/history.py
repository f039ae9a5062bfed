"""``history.jsonl``: one JSON object a line, one line an evaluation.

Keys: ``step``, ``epoch``, ``time`` (seconds of the run so far), ``train_loss train_top1 val_loss
val_top1 val_top5 learning_rate images_per_second data_wait``; the last line of a finished run has
``test_loss test_top1 test_top5`` of the best checkpoint. Where an image has any number of classes
there are ``val_map`` and ``test_map`` too, mean average precisions. Accuracies and ``data_wait``
are fractions.
"""

import json
import os
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


def append_history(path: Path, entry: Entry) -> None:
    """Add one line; it is on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_history(path: Path) -> list[Entry]:
    """The lines of a history; empty where there is none. A half-written last line is left out."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def keep_history(path: Path, step: int) -> list[Entry]:
    """Cut off what a run resumed at ``step`` will write again: later lines, and the test line.

    Returns:
      The lines kept.
    """
    kept = [
        entry for entry in read_history(path) if entry["step"] <= step and "test_top1" not in entry
    ]
    if path.exists():
        fresh = path.with_suffix(".tmp")
        fresh.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
        fresh.replace(path)
    return kept
