"""Commands for data sets: check, prepare."""

from typing import Annotated

import tyro

from .grammar import command
from .notes import note_missing_letters


@command
def check_command(
    source: str, /, *, columns: str | None = None, sheet: str | None = None, most: int = 5
) -> None:
    """Read every image of a folder or list and report defects.

    Args:
        source: A folder of images, or a list: .csv, .tsv or .jsonl.
        columns: The list's columns of paths, labels and optionally splits, such as id,breed.
        sheet: Also write a picture with examples of each class to this file.
        most: The number of files to name for each defect.
    """
    from rich.console import Console

    from ..data.audit import check_folder, contact_sheet, render
    from ..data.images import find_images, split_columns

    chosen = split_columns(columns)
    report = render(check_folder(source, columns=chosen), limit=most)
    Console(highlight=False).print(report, soft_wrap=True)
    if sheet:
        images = find_images(source, columns=chosen)
        contact_sheet(images, sheet)
        note_missing_letters(images.classes)
        print(f"Look at {sheet}.")


@command
def prepare_command(
    name: str,
    /,
    *,
    source: Annotated[str | None, tyro.conf.arg(name="from")] = None,
    data_dir: Annotated[str | None, tyro.conf.arg(name="data.dir")] = None,
) -> None:
    """Write a data set in the format of TFDS, without TensorFlow.

    Args:
        name: cifar10, cifar100, mnist, fashion_mnist, tf_flowers, voc2012, voc2012_single_label or
            imagenet2012.
        source: The original archive or its folder; by default the file in the data folder, or a
            download.
        data_dir: The folder of prepared data sets; by default ~/tensorflow_datasets.
    """
    from ..data.tfds import prepare

    print(prepare(name, source, data_dir))
