"""Names of classes in the files that other tools write."""

import json
from pathlib import Path

from ..errors import UserError
from ..paths import expand


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Read names of classes, in the order of the logits.

    Args:
        path: ``class_indices.json`` (``{"0": "daisy", ...}`` or the reverse,
            ``{"daisy": 0, ...}``), a JSON list, or a text file with one name a line.

    Raises:
        UserError: The file cannot be read, or its numbers do not count from 0.
    """
    try:
        text = expand(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): name a .json or .txt file.") from error
    if Path(path).suffix.lower() != ".json":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        held = json.loads(text)
        if isinstance(held, list):
            return tuple(map(str, held))
        if all(isinstance(value, int) for value in held.values()):
            held = {number: name for name, number in held.items()}
        numbered = {int(number): str(name) for number, name in held.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(
            f'{path} does not hold classes ({error}): write {{"0": "daisy", "1": "rose"}}.'
        ) from error
    if sorted(numbered) != list(range(len(numbered))):
        raise UserError(f"{path} must number its {len(numbered)} classes from 0, each once.")
    return tuple(numbered[number] for number in range(len(numbered)))
