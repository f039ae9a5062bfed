"""The command explain, which draws heat maps over photos."""

import os
import sys
from typing import Literal

from ..errors import UserError
from ..paths import expand
from .grammar import command
from .images import (
    check_positive,
    find_photos,
    load_classifier,
    progress_bar,
    report_failures,
)
from .notes import note_missing_letters
from .options import BatchSize, ClassNames, Model, PathColumn, Paths


@command
def explain_command(
    model: Model,
    paths: Paths,
    /,
    *,
    method: Literal["grad-cam", "grad-cam++", "integrated-gradients", "occlusion"] = "grad-cam",
    target: str | None = None,
    layer: str | None = None,
    output: str = "explained",
    arrays: str | None = None,
    sheet: str | None = None,
    columns: PathColumn = None,
    classes: ClassNames = None,
    batch_size: BatchSize = 32,
) -> None:
    """Show which pixels of photos speak for a class, as heat maps over the photos.

    Args:
        method: How the maps are computed; the last two take about 100 and 200 times as long.
        target: The name of the class to explain; by default the most probable one of each photo.
        layer: The stage that grad-cam looks at, such as layer3; by default the last.
        output: The folder of the pictures.
        arrays: Also write the maps as arrays to this .npz.
        sheet: Also write a contact sheet to this picture.
    """
    check_positive(batch_size=batch_size)
    if arrays and not arrays.lower().endswith(".npz"):
        raise UserError(f"--arrays is {arrays}; it must end in .npz.", exit_code=2)
    found = find_photos(paths, columns)
    run = load_classifier(model, classes)

    from ..inference import explain_batches
    from ..inference.explanations import joined
    from ..report.photo_sheet import CaptionedPhoto, write_photo_sheet

    taken: set[str] = set()
    failed, kept = dict(found.missing), []
    captioned: list[CaptionedPhoto] = []
    with progress_bar() as bar:
        task = bar.add_task("explain", total=len(found.paths))
        for batch in explain_batches(
            run, found.paths, method=method, target=target, layer=layer, batch_size=batch_size
        ):
            files = batch.save(output, taken=taken)
            bar.advance(task, len(batch) + len(batch.failed))
            failed.update(batch.failed)
            kept += [batch] if arrays else []
            captioned += [
                CaptionedPhoto(str(file), label, float(probability), os.path.basename(name))
                for file, label, probability, name in zip(
                    files, batch.labels, batch.probabilities, batch.names, strict=True
                )
            ]
    if arrays:
        joined(run, kept).save_arrays(arrays)
    if captioned:
        print(f"Look at {expand(output)}: {len(captioned):,} heat maps by {method}.")
    if sheet and captioned:
        shown = write_photo_sheet(captioned, sheet)
        note_missing_letters(
            text for photo in captioned[:shown] for text in (photo.label, photo.note)
        )
        rest = f" (the first {shown:,} of {len(captioned):,})" if shown < len(captioned) else ""
        print(f"Look at {sheet}{rest}.", file=sys.stderr)
    report_failures(len(found.paths) + len(found.missing), failed, found.skipped)
