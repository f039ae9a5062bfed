"""One door to all data: a config's data section becomes a data set."""

import difflib
from functools import partial
from pathlib import Path

from ..config import AugmentConfig, DataConfig
from ..errors import UserError
from .arrays import read_arrays
from .datasets import Dataset, dataset_names, load_dataset
from .images.files import ImageFiles
from .images.folder import find_images
from .images.records import SPLITS
from .published import CATALOGUE
from .tfds.folder import find_prepared
from .tfds.prepared import open_prepared
from .tfds.prepared_sets import open_parts

FOLDER = "folder"
IMAGE_SIZE = 224  # of image files where nothing else is asked for, as ImageNet's models see them


def open_dataset(data: DataConfig, augment: AugmentConfig) -> Dataset:
    """The data set that ``data`` names: in memory where it is a set of arrays, decoded batch by
    batch where it is image files, be they in a folder or in a prepared TFDS set.

    Raises:
      UserError: missing, damaged or strange data, each in its sentence.
    """
    streamed = partial(
        ImageFiles,
        size=data.image_size or IMAGE_SIZE,
        resize=data.resize,
        scale=augment.crop_scale,
        ratio=augment.crop_ratio,
        interpolation=data.interpolation or "bilinear",
        workers=data.workers,
        on_bad_image=data.on_bad_image,
    )
    if data.name != FOLDER:
        if data.name in dataset_names() or _is_misspelt(data):
            return load_dataset(
                data.name, data.dir, validation=data.validation, download=data.download
            )
        prepared = open_prepared(data.name, data.dir)
        return open_parts(prepared, streamed, validation=data.validation, ratios=data.splits)
    if data.dir is None:
        raise UserError(
            "--data.name folder needs --data.dir: the folder with a folder of images for each "
            "class, or a .csv, .jsonl or .npz file.",
            exit_code=2,
        )
    path = Path(data.dir).expanduser()
    if path.suffix.lower() == ".npz":
        return read_arrays(path, ratios=data.splits)
    found = find_images(path, ratios=data.splits)
    train, validation, test = (streamed(found.splits[split]) for split in SPLITS)
    name = path.resolve().name
    return Dataset(name, found.classes, train, validation, test, notes=found.notes)


def _is_misspelt(data: DataConfig) -> bool:
    """Whether a name is near one that we know, and not that of a prepared set."""
    if data.name in CATALOGUE or find_prepared(data.name, data.dir):
        return False
    return bool(difflib.get_close_matches(data.name, dataset_names()))
