"""The entry point to all data: ``open_dataset`` turns a config's data section into a data set."""

import difflib
from functools import partial

from ..config import AugmentConfig, DataConfig
from ..errors import UserError
from ..storage import local_data
from .arrays import read_arrays
from .builtin import dataset_names, load_dataset
from .datasets import Dataset
from .images import (
    SHARD_FORMATS,
    SPLITS,
    ImageFiles,
    Member,
    find_images,
    left_out_note,
    split_columns,
)
from .published import TFDS_CATALOG
from .tfds import find_prepared, load_prepared, open_prepared

FOLDER = "folder"
IMAGE_SETS = (FOLDER, *SHARD_FORMATS)
"""The names of data sets that are images found in ``--data.dir``."""
IMAGE_SIZE = 224  # default size of decoded image files, the input size of ImageNet models


def open_dataset(data: DataConfig, augment: AugmentConfig) -> Dataset:
    """Open the data set that ``data`` names.

    Sets of arrays are loaded into memory. Image files, in a folder or in a prepared TFDS set, are
    decoded batch by batch.

    Raises:
        UserError: The data are missing, damaged or have an unknown layout.
    """
    stream = partial(
        ImageFiles,
        size=data.image_size or IMAGE_SIZE,
        resize=data.resize,
        scale=augment.crop_scale,
        ratio=augment.crop_ratio,
        interpolation=data.interpolation or "bilinear",
        workers=data.workers,
        on_bad_image=data.on_bad_image,
    )
    if data.name not in IMAGE_SETS:
        if data.name in dataset_names() or _is_misspelt(data):
            return load_dataset(
                data.name, data.dir, validation=data.validation, download=data.download
            )
        prepared = open_prepared(data.name, data.dir)
        return load_prepared(prepared, stream, validation=data.validation, ratios=data.splits)
    if data.dir is None:
        wanted = (
            "the folder with a folder of images for each class, a .csv, .tsv, .jsonl or .npz file"
            if data.name == FOLDER
            else f"the folder of shards, {SHARD_FORMATS[data.name].extensions[0]} files"
        )
        raise UserError(f"--data.name {data.name} needs --data.dir: {wanted}.", exit_code=2)
    path = local_data(data.dir)
    if data.name == FOLDER and path.suffix.lower() == ".npz":
        return read_arrays(path, ratios=data.splits)
    columns = split_columns(data.columns)
    form = None if data.name == FOLDER else data.name
    found = find_images(path, ratios=data.splits, columns=columns, form=form)
    train, validation, test = (stream(found.splits[split]) for split in SPLITS)
    name = path.resolve().name
    notes = found.notes + found.missing_classes
    if any(isinstance(file, Member) for file in found.train.paths[:1]):
        notes += tuple(left_out_note(data.dir, found.left_out))
    return Dataset(name, found.classes, train, validation, test, notes=notes)


def _is_misspelt(data: DataConfig) -> bool:
    """Return whether a name resembles one of ours and is not that of a prepared set."""
    if data.name in TFDS_CATALOG or find_prepared(data.name, data.dir):
        return False
    return bool(difflib.get_close_matches(data.name, dataset_names()))
