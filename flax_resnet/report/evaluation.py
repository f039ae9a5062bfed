"""An evaluation as a JSON file."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..metrics import Evaluation, MultiLabelEvaluation
from ..output_files import write_json
from ..text_files import read_if_present


def write_evaluation(path: Path, evaluation: Evaluation | MultiLabelEvaluation) -> None:
    """Write an evaluation as JSON, and the folder that it is in if there is none.

    Raises:
        UserError: the file cannot be written.
    """
    write_json(path, asdict(evaluation), indent=None)


def read_evaluation(path: Path) -> Evaluation | MultiLabelEvaluation | None:
    """Read an evaluation that ``write_evaluation`` wrote.

    Returns:
        The evaluation, or None if there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    return read_if_present(path, _from_json, "delete it and evaluate again")


def _from_json(fields: Any) -> Evaluation | MultiLabelEvaluation:
    fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    if "average_precision" in fields:
        return MultiLabelEvaluation(**fields)
    fields["confusion"] = tuple(map(tuple, fields["confusion"]))
    return Evaluation(**fields)
