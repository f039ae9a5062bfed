"""Commands that apply a trained model to images: predict, embed, evaluate."""

import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from ..errors import UserError
from ..storage import locate
from .grammar import command
from .images import check_positive, find_photos, load_classifier, progress_bar, report_failures
from .notes import note_missing_letters, print_notes
from .options import BatchSize, ClassNames, Model, PathColumn, Paths

if TYPE_CHECKING:
    from ..inference import Predictions

_Format = Literal["table", "csv", "json", "jsonl"]
_FORMATS: dict[str, _Format] = {".csv": "csv", ".json": "json", ".jsonl": "jsonl"}


@command
def predict_command(
    model: Model,
    paths: Paths,
    /,
    *,
    columns: PathColumn = None,
    top_k: int = 5,
    format: _Format | None = None,
    output: str | None = None,
    sheet: str | None = None,
    tta: Literal["flip"] | None = None,
    temperature: float = 1.0,
    classes: ClassNames = None,
    batch_size: BatchSize = 32,
) -> None:
    """Classify photos: files, folders, patterns or a list.

    Args:
        top_k: The number of classes to print for each photo.
        format: The format of the predictions; by default from the extension of --output, else a
            table.
        output: Write the predictions to this file.
        sheet: Also write a contact sheet to this picture.
        tta: Average the logits with those of the mirror image.
        temperature: Divide the logits by this number.
    """
    check_positive(top_k=top_k, batch_size=batch_size)
    extension = Path(output or "").suffix.lower()
    written = format or _FORMATS.get(extension, "table")
    found = find_photos(paths, columns)
    run = load_classifier(model, classes)

    from ..inference.write_predictions import write_predictions
    from ..report.photo_sheet import MAX_PHOTOS

    kept: list[Predictions] = []
    failed = dict(found.missing)
    with progress_bar() as bar, _opened(output) as file:
        task = bar.add_task("predict", total=len(found.paths))

        def batches() -> Iterator[Any]:
            for batch in run.predict_batches(
                found.paths, temperature=temperature, batch_size=batch_size, tta=tta
            ):
                bar.advance(task, len(batch))
                failed.update(batch.failed)
                if sheet and sum(map(len, kept)) < MAX_PHOTOS:
                    kept.append(batch)
                yield batch
            if found.missing:
                yield _failures(found.missing, run.classes)

        write_predictions(file, batches(), written, top_k=top_k, names=found.paths)
    if sheet and kept:
        _write_sheet(sheet, kept, len(found.paths))
    report_failures(len(found.paths) + len(found.missing), failed, found.skipped)


@command
def embed_command(
    model: Model,
    paths: Paths,
    /,
    *,
    columns: PathColumn = None,
    output: str,
    classes: ClassNames = None,
    batch_size: BatchSize = 32,
) -> None:
    """Write the features of photos, the input of the classifier, to a file.

    Args:
        output: The file to write, .npz or .parquet.
    """
    from ..inference.embed import check_embeddings_path, write_embeddings

    check_positive(batch_size=batch_size)
    check_embeddings_path(output)
    found = find_photos(paths, columns)
    run = load_classifier(model, classes)

    with progress_bar() as bar:
        task = bar.add_task("embed", total=len(found.paths))
        embeddings = run.embed(
            found.paths,
            batch_size=batch_size,
            progress=lambda count: bar.advance(task, count),
        )
    write_embeddings(output, embeddings)
    count, width = embeddings.features.shape
    print(f"{output}: {width} features of {count:,} images")
    failed = found.missing | dict(embeddings.failed)
    report_failures(len(found.paths) + len(found.missing), failed, found.skipped)


@command
def evaluate_command(
    model: Model,
    source: str | None = None,
    /,
    *,
    split: Literal["train", "validation", "test", "all"] | None = None,
    columns: str | None = None,
    tta: Literal["flip"] | None = None,
    output: str | None = None,
    json: str | None = None,
    confusion: str | None = None,
    mistakes: str | None = None,
    page: str | None = None,
    classes: ClassNames = None,
    batch_size: BatchSize = 32,
) -> None:
    """Compare a model's predictions with the true classes.

    Prints accuracy, confusion and calibration; where images have any number of classes, mean
    average precision.

    Args:
        source: A folder with a folder for each class, or a .csv, .tsv or .jsonl of path and label;
            by default the run's own data.
        split: The images to evaluate; by default the test images where there are any.
        columns: The list's columns of paths and labels, such as id,breed.
        tta: Average the logits with those of the mirror image.
        output: Also write the prediction for every file to this .csv.
        json: Also write the metrics to this .json.
        confusion: Also draw the confusion matrix to this picture.
        mistakes: Also show the most confident wrong predictions in this picture.
        page: Also write a page with photos, charts and tables to this .html.
    """
    check_positive(batch_size=batch_size)
    run = load_classifier(model, classes)
    for option, value in {"confusion": confusion, "mistakes": mistakes}.items():
        if run.info.loss == "sigmoid" and value:
            raise UserError(
                f"--{option} is for images with one class each; the images of this run have any "
                "number of classes: leave it out.",
                exit_code=2,
            )

    from rich.console import Console

    from ..data.images import split_columns
    from ..inference.write_predictions import write_predictions
    from ..metrics import MultiLabelEvaluation
    from ..report.evaluation import write_evaluation
    from ..report.tables import evaluation_tables

    with progress_bar() as bar:
        task = bar.add_task("evaluate", total=None)
        done = run.evaluate(
            source,
            split=split,
            columns=split_columns(columns),
            batch_size=batch_size,
            tta=tta,
            keep_outcomes=page is not None,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if isinstance(done.result, MultiLabelEvaluation):
        truth = [", ".join(itertools.compress(run.classes, row)) for row in done.labels]
    else:
        truth = [run.classes[label] for label in done.labels]
    print_notes(done.notes)
    console = Console(highlight=False)
    for table in evaluation_tables(done.result):
        console.print(table)
    if output:
        top_k = min(5, len(run.classes))
        with _opened(output) as file:
            write_predictions(file, [done.predictions], "csv", top_k=top_k, truth=truth)
    if json:
        write_evaluation(locate(json), done.result)
    if confusion and not isinstance(done.result, MultiLabelEvaluation):
        from ..report.plots import save_confusion

        save_confusion(done.result, confusion)
        note_missing_letters(run.classes)
    if mistakes:
        _write_mistakes(mistakes, done, run.classes)
    if page:
        from .report import write_model_page

        write_model_page(page, model, run, done)
    report_failures(len(done.labels), dict(done.predictions.failed), 0)


def _opened(path: str | None) -> AbstractContextManager[TextIO]:
    from ..output_files import open_text

    return nullcontext(sys.stdout) if path is None else open_text(path)


def _failures(missing: Mapping[str, str], classes: tuple[str, ...]) -> "Predictions":
    """Return the arguments that matched no file as failed predictions."""
    import numpy as np

    from ..inference import Predictions

    rows = np.full((len(missing), len(classes)), np.nan, np.float32)
    return Predictions(tuple(missing), classes, rows, missing)


def _write_sheet(path: str, batches: Sequence["Predictions"], total: int) -> None:
    from ..report.photo_sheet import CaptionedPhoto, write_photo_sheet

    photos = []
    for batch in batches:
        for name, best in zip(batch.names, batch.top(1), strict=True):
            label, probability = (
                (best[0].label, best[0].probability) if best else ("cannot be read", None)
            )
            photos.append(CaptionedPhoto(name, label, probability, os.path.basename(name)))
    shown = write_photo_sheet(photos, path)
    note_missing_letters(text for photo in photos[:shown] for text in (photo.label, photo.note))
    rest = f" (the first {shown:,} of {total:,} photos)" if shown < total else ""
    print(f"Look at {path}{rest}.", file=sys.stderr)


def _write_mistakes(path: str, done: Any, classes: tuple[str, ...]) -> None:
    from ..data.images import Member
    from ..report.photo_sheet import CaptionedPhoto, write_photo_sheet

    wrong = [
        (best[0], name, classes[label])
        for name, best, label in zip(
            done.predictions.names, done.predictions.top(1), done.labels, strict=True
        )
        if best and best[0].index != label and (isinstance(name, Member) or os.path.exists(name))
    ]
    wrong.sort(key=lambda item: -item[0].probability)
    photos = [
        CaptionedPhoto(
            name, best.label, best.probability, f"is {true} · {os.path.basename(name)}", True
        )
        for best, name, true in wrong
    ]
    if photos:
        shown = write_photo_sheet(photos, path)
        note_missing_letters(text for photo in photos for text in (photo.label, photo.note))
        print(f"Look at {path}: {shown:,} of {len(photos):,} mistakes, the most confident first.")
    else:
        print(f"No mistakes in files, so {path} was not written.")
