"""Commands about data sets: check, prepare."""

import argparse
from collections.abc import Sequence

from rich.console import Console


def check_command(arguments: Sequence[str]) -> None:
    """Read every image of a folder, .csv or .jsonl, and tell what is wrong."""
    from ..data.audit.check import check_folder
    from ..data.audit.contact_sheet import contact_sheet
    from ..data.audit.tables import render
    from ..data.images.folder import find_images

    parser = argparse.ArgumentParser(prog="flax-resnet check", description=check_command.__doc__)
    parser.add_argument("source", metavar="DIR")
    parser.add_argument("--sheet", help="also write a picture with examples of each class")
    parser.add_argument("--most", type=int, default=5, help="files to name for each finding")
    options = parser.parse_args(list(arguments))
    report = check_folder(options.source)
    Console(highlight=False).print(render(report, most=options.most), soft_wrap=True)
    if options.sheet:
        contact_sheet(find_images(options.source), options.sheet)
        print(f"Look at {options.sheet}.")


def prepare_command(arguments: Sequence[str]) -> None:
    """Write a data set as the folder that TFDS reads, without TensorFlow."""
    from ..data.tfds.prepare import preparable_names, prepare

    parser = argparse.ArgumentParser(
        prog="flax-resnet prepare", description=prepare_command.__doc__
    )
    parser.add_argument("name", help=", ".join(preparable_names()))
    parser.add_argument("--from", dest="source", help="the original archive or its folder")
    parser.add_argument("--data.dir", dest="data_dir", help="default ~/tensorflow_datasets")
    options = parser.parse_args(list(arguments))
    print(prepare(options.name, options.source, options.data_dir))
