"""The page of a run, from its data set and the evaluation of its best checkpoint."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import AugmentConfig, Config, DataConfig
from ..data import UNIFORMS_PER_CROP, Dataset, Preprocessing, Source, open_dataset
from ..data.images import ImageDecodeError, ImageFiles
from ..errors import UserError
from ..metrics import evaluate_logits, evaluate_multi_label
from ..models import ResNet
from ..report.data_sheet import VERSIONS, DataSheet, data_sheet, sample_rows, write_data_sheet
from ..report.outcomes import outcomes_of, relative_names
from ..report.page import FOLDER, write_page
from .evaluation import SplitEvaluation
from .heat_maps import with_heat_maps
from .preview import augmented
from .transfer.features import Features

MAPPED = 8  # of the worst mistakes, and of the most certain hits, that get a heat map


@dataclass(frozen=True)
class PageEvaluation:
    """The evaluation that a run's page shows.

    Attributes:
        split: Name of the split.
        images: Its images.
        shown: Their logits and labels.
        fitted: Those of other images, which fit the temperature; without any, the same images do.
    """

    split: str
    images: Source
    shown: SplitEvaluation
    fitted: SplitEvaluation


def write_run_page(
    workdir: Path,
    config: Config,
    dataset: Dataset,
    found: PageEvaluation | None,
    predictor: tuple[ResNet, Any, Preprocessing],
) -> Path:
    """Write the page of a run, with samples of its data and the outcome of each image.

    Args:
        workdir: The run's folder.
        config: Its settings.
        dataset: Its data set.
        found: The evaluation to show, if there is one.
        predictor: The model that was evaluated, its variables on the host and its preprocessing.

    Returns:
        The path of the page.

    Raises:
        UserError: The page cannot be written.
    """
    write_data_sheet(workdir / FOLDER, sheet_of(config, _with_images(dataset)))
    if found is None or found.shown.logits is None or found.shown.labels is None:
        return write_page(workdir)
    rows, logits, labels = found.shown.rows, found.shown.logits, found.shown.labels
    name = f"{dataset.name} ({found.split})"
    if dataset.multi_label:
        return write_page(workdir, evaluate_multi_label(name, logits, labels, dataset.classes))
    assert rows is not None
    fitted = None
    if (
        found.fitted.logits is not None
        and found.fitted.labels is not None
        and len(found.fitted.labels)
    ):
        fitted = found.fitted.logits, found.fitted.labels
    evaluation = evaluate_logits(name, logits, labels, dataset.classes, fitted, config.loss)
    images = found.images
    if isinstance(images, Features):
        images, rows = images.source, images.readable[rows]
    names = image_names(images, found.split, config.data.dir)
    outcomes = outcomes_of(
        logits,
        labels,
        [names[row] for row in rows],
        loss=config.loss,
        split=found.split,
        images=images,
        rows=rows,
        unreadable=dict(images.bad),
    )
    outcomes = with_heat_maps(*predictor, outcomes, images, rows, MAPPED)
    return write_page(workdir, evaluation, outcomes)


def _with_images(dataset: Dataset) -> Dataset:
    """Return the images of a data set whose splits may hold kept features."""
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    kept: dict[str, Any] = {
        name: split.source for name, split in splits.items() if isinstance(split, Features)
    }
    return dataclasses.replace(dataset, **kept)


def image_names(images: Source, split: str, root: str | None) -> tuple[str, ...]:
    """Return the paths of a source's images below a folder, or ``"test/7"`` where they have none.

    Args:
        images: The source.
        split: Name of the split.
        root: The folder or list that its files were found in.
    """
    files = images.files if isinstance(images, ImageFiles) else None
    paths = getattr(files, "paths", None)
    if paths is None:
        return tuple(f"{split}/{index}" for index in range(len(images)))
    return relative_names(paths, "." if root is None else root)


def sheet_of(config: Config, dataset: Dataset) -> DataSheet:
    """Return what a page shows of a data set, with augmented samples of its training images."""
    indices = sample_rows(np.asarray(dataset.train.labels))
    try:
        versions = _augmented(config, dataset, indices)
    except (ImageDecodeError, UserError, OSError):
        versions = []
    return data_sheet(dataset, indices, versions)


def write_run_sheet(workdir: Path, settings: Mapping[str, Any]) -> None:
    """Write what the page of a run shows of its data, from the settings of ``config.json``.

    Raises:
        UserError: The data are not where the settings say, or the file cannot be written.
    """
    config = Config(
        data=DataConfig(**_section(settings, "data.")),
        augment=AugmentConfig(**_section(settings, "augment.")),
        seed=settings.get("seed", 0),
    )
    dataset = open_dataset(config.data, config.augment)
    write_data_sheet(workdir / FOLDER, sheet_of(config, dataset))


def _section(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
        if name.startswith(prefix)
    }


def _augmented(config: Config, dataset: Dataset, indices: list[int]) -> list[np.ndarray]:
    """Return versions of training images as steps see them, uint8 ``[N, H, W, C]`` each."""
    crops = config.augment.random_resized_crop and dataset.train.streams
    rng = np.random.default_rng(config.seed)

    def stored() -> np.ndarray:
        uniforms = rng.random((len(indices), UNIFORMS_PER_CROP)) if crops else None
        images: np.ndarray = dataset.train.gather(np.asarray(indices), uniforms)["image"]
        return images

    batches = (stored() for _ in range(VERSIONS))
    return [images.astype(np.uint8) for images in augmented(config, dataset, batches)]
