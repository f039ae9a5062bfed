"""Commands for data sets: check, prepare."""

import os
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import tyro

from ..errors import UserError
from ..file_names import escape
from .grammar import command
from .notes import note_missing_letters, print_notes


@command
def check_command(
    source: str,
    /,
    *,
    columns: str | None = None,
    sheet: str | None = None,
    most: int = 5,
    suspects: bool = False,
    model: str | None = None,
    suspects_sheet: str | None = None,
    suspects_list: str | None = None,
) -> None:
    """Read every image of a folder, list or shards and report defects.

    Args:
        source: A folder of images, or a list: .csv, .tsv or .jsonl; or shards: .tar or .parquet.
        columns: The list's columns of paths, labels and optionally splits, such as id,breed; or the
            image and the label in shards, such as jpg,cls.
        sheet: Also write a picture with examples of each class to this file.
        most: The number of files to name for each defect.
        suspects: Also name the photos whose label looks wrong, and show them in a picture.
        model: The model whose features judge the labels: a run's folder, a weights file, or a
            published model; by default resnet50.
        suspects_sheet: The picture of the photos whose label looks wrong; by default suspects.png.
        suspects_list: Also write all photos to this .csv, the most suspicious first.
    """
    from rich.console import Console

    from ..data.audit import check_folder, contact_sheet, render
    from ..data.images import find_images, split_columns

    options = {"model": model, "suspects-sheet": suspects_sheet, "suspects-list": suspects_list}
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given and not suspects:
        raise UserError(
            f"{' and '.join(given)} would do nothing without --suspects: add it, or leave out the "
            "other options",
            exit_code=2,
        )
    chosen = split_columns(columns)
    report = render(check_folder(source, columns=chosen), limit=most)
    Console(highlight=False).print(report, soft_wrap=True)
    if sheet:
        images = find_images(source, columns=chosen)
        shown, classes = contact_sheet(images, sheet), len(images.classes)
        note_missing_letters(images.classes)
        first = "" if shown == classes else f": the first {shown:,} of {classes:,} classes"
        print(f"Look at {sheet}{first}.")
    if suspects:
        _print_suspects(
            source,
            chosen,
            model or "resnet50",
            most,
            suspects_sheet or "suspects.png",
            suspects_list,
        )


def _print_suspects(
    source: str,
    columns: Sequence[str] | None,
    model: str,
    most: int,
    sheet: str,
    listed: str | None,
) -> None:
    from ..inference import find_suspects
    from ..report.photo_sheet import CaptionedPhoto, write_photo_sheet
    from .images import load_classifier, progress_bar

    classifier = load_classifier(model, None)
    with progress_bar() as bar:
        task = bar.add_task("judge labels", total=None)
        found = find_suspects(
            classifier,
            source,
            columns=columns,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    photos = [
        CaptionedPhoto(
            found.paths[row],
            found.classes[found.suggested[row]],
            float(found.probabilities[row, found.suggested[row]]),
            f"labelled {found.classes[found.labels[row]]} · {os.path.basename(found.paths[row])}",
            wrong=True,
        )
        for row in np.flatnonzero(found.suspected)
    ]
    print(f"labels that look wrong: {len(photos):,} of {len(found.paths):,}")
    for photo in photos[:most]:
        note = photo.note.split(" · ")[0]
        name = escape(os.path.relpath(photo.path, source) if os.path.isdir(source) else photo.path)
        print(f"  {name} ({note}, looks like {photo.label}, {photo.probability:.0%})")
    print_notes(
        [f"{name} has too few photos to judge their labels" for name in found.small_classes]
    )
    if listed:
        found.save(listed)
    if photos:
        shown = write_photo_sheet(photos, sheet)
        note_missing_letters(text for photo in photos[:shown] for text in (photo.label, photo.note))
        print(f"Look at {sheet}: {shown:,} of {len(photos):,}, the most suspicious first.")


@command
def prepare_command(
    name: str,
    /,
    *,
    source: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    to: Literal["tfds", "webdataset", "parquet"] = "tfds",
    shuffle: int | None = None,
    data_dir: Annotated[str | None, tyro.conf.arg(name="data.dir")] = None,
) -> None:
    """Write a data set in the format of TFDS, without TensorFlow, or as shards.

    Args:
        name: cifar10, cifar100, mnist, fashion_mnist, tf_flowers, voc2012, voc2012_single_label or
            imagenet2012; or a folder of images, a list or shards.
        source: The original archive or its folder; by default the file in the data folder, or a
            download.
        to: The format: TFDS's, tar files (WebDataset) or Parquet files.
        shuffle: A seed: write the images of each split in random order; by default in their own.
        data_dir: The folder of prepared data sets; by default TFDS_DATA_DIR or
            ~/tensorflow_datasets.
    """
    from ..data.tfds import prepare

    print(prepare(name, source, data_dir, to=to, shuffle=shuffle))
