"""One door to all data: a config's data section becomes a data set."""

from functools import partial
from pathlib import Path

from ..config import AugmentConfig, DataConfig
from ..errors import UserError
from .arrays import read_arrays
from .datasets import Dataset, load_dataset
from .folder import find_images
from .image_files import ImageFiles
from .records import SPLITS

FOLDER = "folder"
IMAGE_SIZE = 224  # of image files where nothing else is asked for, as ImageNet's models see them


def open_dataset(data: DataConfig, augment: AugmentConfig) -> Dataset:
    """The data set that ``data`` names: in memory where it is a set of arrays, decoded batch by
    batch where it is image files.

    Raises:
      UserError: missing, damaged or strange data, each in its sentence.
    """
    if data.name != FOLDER:
        return load_dataset(data.name, data.dir, validation=data.validation, download=data.download)
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
    files = partial(
        ImageFiles,
        size=data.image_size or IMAGE_SIZE,
        resize=data.resize,
        scale=augment.crop_scale,
        ratio=augment.crop_ratio,
        workers=data.workers,
        on_bad_image=data.on_bad_image,
    )
    train, validation, test = (files(found.splits[split]) for split in SPLITS)
    name = path.resolve().name
    return Dataset(name, found.classes, train, validation, test, notes=found.notes)
