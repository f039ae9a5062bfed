"""A trained model beside the truth: accuracy, confusion, figures by class, calibration; or mean
average precision."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..config import AugmentConfig, DataConfig
from ..data import FOLDER, Source, open_dataset
from ..data.images import SPLITS, ImageFiles, Records, find_images
from ..errors import UserError
from ..metrics import (
    Evaluation,
    MultiLabelEvaluation,
    evaluate_logits,
    evaluate_multi_label,
)
from .outputs import BATCH_SIZE, Augmentation, logits_of, outputs_of_source
from .predict import Predictions, probabilities_of
from .run_folder import LoadedRun

SplitName = Literal["train", "validation", "test", "all"]


@dataclass(frozen=True)
class EvalResult:
    """What came of an evaluation.

    Attributes:
      result: the figures; of a run trained with ``loss="sigmoid"``, :class:`MultiLabelEvaluation`.
      predictions: by image; ``failed`` names what could not be read, which counts nowhere.
      labels: the true classes, int ``[N]``, of all images of ``predictions``; or ``[N, K]`` of 0
        and 1.
    """

    result: Evaluation | MultiLabelEvaluation
    predictions: Predictions
    labels: np.ndarray


def evaluate(
    run: LoadedRun,
    source: str | Path | None = None,
    *,
    split: SplitName | None = None,
    batch_size: int = BATCH_SIZE,
    tta: Augmentation | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvalResult:
    """Evaluate a run on labelled images.

    Args:
      run: see :func:`load_run`.
      source: a folder with a folder for each class, or a ``.csv`` or ``.jsonl`` of path and label
        (see data.find_images); None for the data that the run was trained on.
      split: which images. By default the test split of the run's own data, or of a source that
        has splits; all images of any other source.
      batch_size, tta: see :func:`predict`.
      progress: called with the images done and their number.

    The temperature is fitted on validation images where there are some besides those evaluated.
    A run trained with ``loss="sigmoid"`` has none, and is evaluated on its own data alone.

    Raises:
      UserError: no data, classes that the run does not know, or no image that can be read.
    """
    several = run.settings.get("loss") == "sigmoid"
    if several and source is not None:
        raise UserError(
            f"This run was trained on images with any number of classes, and {source} would give "
            "each image one: name no folder, and the run's own data are taken."
        )
    parts, chosen, name = _parts(run, source, split)
    own, paths = parts[chosen]
    total = len(own)
    function = logits_of(run, tta)

    def logits(part: Source, names: tuple[str, ...], told: bool) -> Any:
        found, done = [], 0
        for out in outputs_of_source(function, part, names, batch_size=batch_size):
            found.append(out)
            done += len(out.names)
            if told:
                progress(done, total)
        return found

    found = logits(own, paths, True)
    values = np.concatenate([part.values for part in found]) if found else np.zeros((0, 1))
    if not len(values):
        raise UserError(f"{name} has no image that can be read: name other images.")
    read = np.concatenate([part.read for part in found])
    failed = {path: why for part in found for path, why in part.failed.items()}
    labels = np.asarray(own.labels)
    validation = None
    if not several and chosen == "test" and len(parts.get("validation", ((),))[0]):
        others = logits(*parts["validation"], False)
        held = np.concatenate([part.values for part in others])
        if len(held):
            validation = held, np.concatenate([part.labels for part in others])
    probabilities = np.full((total, len(run.classes)), np.nan, np.float32)
    probabilities[read] = probabilities_of(run, values)
    predictions = Predictions(paths, run.classes, probabilities, failed)
    if several:
        ranked = evaluate_multi_label(name, values, labels[read], run.classes)
        return EvalResult(ranked, predictions, labels)
    result = evaluate_logits(name, values, labels[read], run.classes, validation)
    return EvalResult(result, predictions, labels)


_Part = tuple[Source, tuple[str, ...]]


def _parts(
    run: LoadedRun, source: str | Path | None, split: SplitName | None
) -> tuple[dict[str, _Part], str, str]:
    """The splits as sources with names for their images, which to evaluate, and its name."""
    settings = run.settings
    where = settings.get("data.dir")
    own = source is None or (where is not None and _same(source, where))
    if source is None and not settings.get("data.name"):
        raise UserError(
            "There is no data to evaluate on: name a folder with a folder of images for each class."
        )
    if own and (settings.get("data.name") != FOLDER or str(where).endswith(".npz")):
        return _of_config(run, split)
    root = str(where if source is None else source)
    ratios = tuple(settings.get("data.splits") or (8, 1, 1)) if own else (8, 1, 1)
    found = find_images(root, ratios=ratios, classes=run.classes)  # type: ignore[arg-type]
    records: dict[str, Records] = dict(found.splits)
    everything = _joined(list(records.values()))
    records = {name: part for name, part in records.items() if len(part)}
    chosen = split or ("test" if own or _has_splits(root) else "all")
    if chosen == "test" and "test" not in records and split is None:
        chosen = "validation"
    records["all"] = everything
    if chosen not in records:
        raise UserError(f"{root} has no {chosen} images: choose --split {' or '.join(records)}.")
    parts: dict[str, _Part] = {
        name: (ImageFiles.framed(part, run.framing), part.paths) for name, part in records.items()
    }
    return parts, chosen, f"{root} ({chosen})"


def _of_config(run: LoadedRun, split: SplitName | None) -> tuple[dict[str, _Part], str, str]:
    """The splits of a set that the run's settings name."""
    held: dict[str, Any] = {
        name.removeprefix("data."): tuple(value) if isinstance(value, list) else value
        for name, value in run.settings.items()
        if name.startswith("data.")
    }
    known = {field.name for field in fields(DataConfig)}
    data = DataConfig(**{name: value for name, value in held.items() if name in known})
    dataset = open_dataset(data, AugmentConfig())
    sources: dict[str, Source] = {name: getattr(dataset, name) for name in SPLITS}
    sources = {name: source for name, source in sources.items() if len(source)}
    chosen = split or ("test" if "test" in sources else "validation")
    if chosen not in sources:
        raise UserError(f"{data.name} has no {chosen}: choose --split {' or '.join(sources)}.")
    parts: dict[str, _Part] = {
        name: (source, tuple(f"{name}/{i}" for i in range(len(source))))
        for name, source in sources.items()
    }
    return parts, chosen, f"{data.name} ({chosen})"


def _same(one: str | Path, other: str | Path) -> bool:
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def _has_splits(root: str) -> bool:
    folder = Path(root).expanduser()
    return any((folder / name).is_dir() for name in ("test", "val", "valid", "validation"))


def _joined(parts: list[Records]) -> Records:
    paths = tuple(path for part in parts for path in part.paths)
    return Records(paths, np.concatenate([part.labels for part in parts]))
