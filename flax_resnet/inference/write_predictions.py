"""Predictions as text: a table, CSV, JSON or JSON lines.

Names of files and classes are those of ``file_names.escape``, so that a file in UTF-8 holds every
name.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, TextIO, get_args

from ..errors import one_line
from ..file_names import escape
from ..output_files import to_json
from .predict import Prediction, Predictions

Format = Literal["table", "csv", "json", "jsonl"]
FORMATS: tuple[str, ...] = get_args(Format)

_NAME_WIDTH, _LABEL_WIDTH = 60, 24  # of a table's columns; longer names shift their line


def write_predictions(
    file: TextIO,
    batches: Iterable[Predictions],
    form: Format,
    *,
    top_k: int = 5,
    names: Sequence[str] = (),
    truth: Iterable[str] | None = None,
) -> None:
    """Write the predictions of each batch as soon as they are computed, in order.

    An image that could not be read has the reason instead of classes (CSV: in the column
    ``error``; JSON: under ``"error"``).

    Args:
        form: CSV has the columns ``file, label, probability, label_2, probability_2, ..., error``;
            JSON an object for each image, ``{"file", "predictions": [{"label", "index",
            "probability"}], "error"}``, in one list or one a line.
        names: Names of all images, for the width of a table's columns.
        truth: True class of each image, for one more column, ``true``.
    """
    if form == "csv":
        _write_csv(file, _rows(batches, top_k, truth), top_k, truth is not None)
    elif form == "table":
        _write_table(file, _rows(batches, top_k, truth), names)
    else:
        _write_json(file, to_entries(batches, top_k, truth), lines=form == "jsonl")


_Row = tuple[str, list[Prediction], str | None, str | None]  # name, predictions, error, true class


def _rows(
    batches: Iterable[Predictions], top_k: int, truth: Iterable[str] | None
) -> Iterator[_Row]:
    true = None if truth is None else iter(truth)
    for batch in batches:
        for name, found in zip(batch.names, batch.top(top_k), strict=True):
            written = [replace(prediction, label=escape(prediction.label)) for prediction in found]
            error = batch.failed.get(name)
            yield (
                escape(name),
                written,
                None if error is None else escape(error),
                None if true is None else escape(next(true)),
            )


def to_entries(
    batches: Iterable[Predictions], top_k: int, truth: Iterable[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the predictions for each image as ``write_predictions`` writes them in JSON."""
    for name, found, error, true in _rows(batches, top_k, truth):
        entry = {"file": name, "predictions": [_as_dict(prediction) for prediction in found]}
        yield entry | ({} if true is None else {"true": true}) | {"error": error}


def _write_csv(file: TextIO, rows: Iterable[_Row], top_k: int, has_truth: bool) -> None:
    writer = csv.writer(file, lineterminator="\n")
    ranks = [""] + [f"_{rank}" for rank in range(2, top_k + 1)]
    columns = [f"{column}{rank}" for rank in ranks for column in ("label", "probability")]
    writer.writerow(["file", *(["true"] if has_truth else []), *columns, "error"])
    for name, found, error, true in rows:
        cells = [
            cell
            for prediction in found
            for cell in (prediction.label, f"{prediction.probability:.6f}")
        ]
        cells += [""] * (2 * top_k - len(cells))
        writer.writerow([name, *([true] if has_truth else []), *cells, error or ""])


def _write_json(file: TextIO, entries: Iterable[dict[str, Any]], *, lines: bool) -> None:
    between = "\n" if lines else ",\n"
    file.write("" if lines else "[\n")
    for number, entry in enumerate(entries):
        text = to_json(entry, ensure_ascii=False)
        # Some readers take these for the ends of lines, and JSON allows them escaped only.
        for separator in "\x7f\x85\u2028\u2029":
            text = text.replace(separator, f"\\u{ord(separator):04x}")
        file.write((between if number else "") + text)
    file.write("\n" if lines else "\n]\n")


def _as_dict(prediction: Prediction) -> dict[str, str | int | float]:
    probability = round(prediction.probability, 6)
    return {"label": prediction.label, "index": prediction.index, "probability": probability}


def _write_table(file: TextIO, rows: Iterable[_Row], names: Sequence[str]) -> None:
    width = min(max((len(one_line(escape(name))) for name in names), default=0), _NAME_WIDTH)
    for name, found, error, _ in rows:
        name = one_line(name)
        cells = [
            f"{prediction.probability:6.1%} {_short(prediction.label)}" for prediction in found
        ]
        file.write(f"{name:{width}}  {error or ''.join(cells)}".rstrip() + "\n")
        file.flush()


def _short(label: str) -> str:
    label = one_line(label)
    shown = label if len(label) <= _LABEL_WIDTH else f"{label[: _LABEL_WIDTH - 1]}…"
    return f"{shown:{_LABEL_WIDTH}}"
