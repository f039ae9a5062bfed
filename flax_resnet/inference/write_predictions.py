"""Predictions as lines of text: a table to read, CSV, JSON or JSON lines."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TextIO, get_args

from .predict import Prediction, Predictions

Format = Literal["table", "csv", "json", "jsonl"]
FORMATS: tuple[str, ...] = get_args(Format)

_NAME_WIDTH, _LABEL_WIDTH = 60, 24  # of a table; longer names push their line to the right


def write_predictions(
    file: TextIO,
    batches: Iterable[Predictions],
    form: Format,
    *,
    top_k: int = 5,
    names: Sequence[str] = (),
    truth: Iterable[str] | None = None,
) -> None:
    """Write each image of each batch, in order, as it comes.

    An image that could not be read has its reason in place of classes (CSV: in the column
    ``error``; JSON: under ``"error"``).

    Args:
      form: CSV has the columns ``file, label, probability, label_2, probability_2, ..., error``;
        JSON an object for each image, ``{"file", "predictions": [{"label", "index",
        "probability"}], "error"}``, in one list or one a line.
      names: of all images to come, for the width of a table's columns.
      truth: the true class of each image: one more column, ``true``.
    """
    rows = _rows(batches, top_k, truth)
    if form == "csv":
        _write_csv(file, rows, top_k, truth is not None)
    elif form == "table":
        _write_table(file, rows, names)
    else:
        _write_json(file, rows, lines=form == "jsonl")


_Row = tuple[str, list[Prediction], str | None, str | None]  # name, guesses, error, true class


def _rows(
    batches: Iterable[Predictions], top_k: int, truth: Iterable[str] | None
) -> Iterator[_Row]:
    true = None if truth is None else iter(truth)
    for batch in batches:
        for name, guesses in zip(batch.names, batch.top(top_k), strict=True):
            yield name, guesses, batch.failed.get(name), None if true is None else next(true)


def _write_csv(file: TextIO, rows: Iterable[_Row], top_k: int, has_truth: bool) -> None:
    writer = csv.writer(file, lineterminator="\n")
    ranks = [""] + [f"_{rank}" for rank in range(2, top_k + 1)]
    columns = [f"{column}{rank}" for rank in ranks for column in ("label", "probability")]
    writer.writerow(["file", *(["true"] if has_truth else []), *columns, "error"])
    for name, guesses, error, true in rows:
        cells = [cell for guess in guesses for cell in (guess.label, f"{guess.probability:.6f}")]
        cells += [""] * (2 * top_k - len(cells))
        writer.writerow([name, *([true] if has_truth else []), *cells, error or ""])


def _write_json(file: TextIO, rows: Iterable[_Row], *, lines: bool) -> None:
    between = "\n" if lines else ",\n"
    file.write("" if lines else "[\n")
    for number, (name, guesses, error, true) in enumerate(rows):
        entry = {"file": name, "predictions": [_as_dict(guess) for guess in guesses]}
        entry |= {} if true is None else {"true": true}
        text = json.dumps(entry | {"error": error}, ensure_ascii=False)
        file.write((between if number else "") + text)
    file.write("\n" if lines else "\n]\n")


def _as_dict(guess: Prediction) -> dict[str, str | int | float]:
    probability = round(guess.probability, 6)
    return {"label": guess.label, "index": guess.index, "probability": probability}


def _write_table(file: TextIO, rows: Iterable[_Row], names: Sequence[str]) -> None:
    width = min(max(map(len, names), default=0), _NAME_WIDTH)
    for name, guesses, error, _ in rows:
        cells = [f"{guess.probability:6.1%} {_short(guess.label)}" for guess in guesses]
        file.write(f"{name:{width}}  {error or ''.join(cells)}".rstrip() + "\n")
        file.flush()


def _short(label: str) -> str:
    shown = label if len(label) <= _LABEL_WIDTH else f"{label[: _LABEL_WIDTH - 1]}…"
    return f"{shown:{_LABEL_WIDTH}}"
