"""Arguments and options that several commands share, each with its line of ``--help``."""

from typing import Annotated

from tyro.conf import arg

Model = Annotated[
    str, arg(help="A run's folder, a weights file, or a published model such as resnet50.")
]
Paths = Annotated[
    tuple[str, ...],
    arg(
        help="Files, folders, patterns such as 'photos/**/*.jpg', lists (.csv, .tsv, .jsonl), or - "
        "for a list on stdin."
    ),
]
PathColumn = Annotated[str | None, arg(help="The column of paths of a list, such as filename.")]
ClassNames = Annotated[
    str | None,
    arg(help='A file of class names: {"0": "daisy", ...}, one name a line, or another usual form.'),
]
BatchSize = Annotated[int, arg(help="Images in a batch.")]
