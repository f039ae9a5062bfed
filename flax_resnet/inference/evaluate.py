"""Evaluation on labelled images: accuracy, confusion, calibration, or mean average precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..config import AugmentConfig, DataConfig
from ..data import IMAGE_SETS, Preprocessing, Source, open_dataset
from ..data.fingerprint import differences, fingerprint
from ..data.images import (
    NUMBERS,
    SHARD_FORMATS,
    SPLITS,
    ImageFiles,
    Records,
    find_images,
    first_few,
    split_columns,
)
from ..data.tfds import imagenet_synsets
from ..errors import UserError
from ..metrics import (
    Evaluation,
    MultiLabelEvaluation,
    evaluate_logits,
    evaluate_multi_label,
)
from ..paths import expand, scheme_of
from ..report import evaluation_tables
from ..report.notebook import to_html
from ..report.outcomes import Outcomes, outcomes_of
from ..training import BatchOutputs
from ..training.forward_pass import NOT_FINITE
from ..training.heat_maps import with_heat_maps
from ..training.run_page import image_names
from ..weights import imagenet_classes
from .outputs import BATCH_SIZE, TestTimeAugmentation, folded_model, forward_source
from .predict import Predictions, to_probabilities
from .training_images import (
    contents_of,
    count_new,
    leave_out,
    run_fingerprint,
    training_images,
)

if TYPE_CHECKING:
    from .classifier import Classifier

MOST_NAMES = 900
"""A model with this many class names of ImageNet-1k's 1,000 in their order is one of ImageNet-1k;
spellings of the others differ between libraries."""

UNFLIPPED = (
    "the run's own figures are of each image and its mirror image (--evaluate-flipped), these of "
    "the image alone: add --tta flip for the same"
)

SplitName = Literal["train", "validation", "test", "all"]


@dataclass(frozen=True)
class EvalResult:
    """Figures of an evaluation, with the predictions and labels behind them.

    Attributes:
        result: The figures; of a run trained with ``loss="sigmoid"``, ``MultiLabelEvaluation``.
        predictions: Probabilities of every image; ``failed`` names those that could not be read,
            which are left out of the figures.
        labels: The true classes of all images of ``predictions``: int ``[N]``, or ``[N, K]`` of 0
            and 1.
        notes: Sentences for the user about the images, such as how folders were matched to
            classes, and that some were trained on.
        outcomes: The outcome of each image that could be read, for a page, if it was asked for.
    """

    result: Evaluation | MultiLabelEvaluation
    predictions: Predictions
    labels: np.ndarray
    notes: tuple[str, ...] = ()
    outcomes: Outcomes | None = None

    def _repr_html_(self) -> str:
        """The scores and those of the classes, as tables that a notebook shows."""
        return to_html(*evaluation_tables(self.result), notes=self.notes)


@dataclass(frozen=True)
class _NamedSplit:
    """Images of a split, and their paths or numbers."""

    images: Source
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Selection:
    """All splits of a data set, and which of them to evaluate.

    Attributes:
        splits: The splits by name.
        chosen: Name of the split to evaluate.
        title: Name of the data set and the split, for reports.
        notes: Sentences for the user about what was found.
    """

    splits: dict[str, _NamedSplit]
    chosen: str
    title: str
    notes: tuple[str, ...] = ()


def evaluate(
    classifier: Classifier,
    source: str | Path | None = None,
    *,
    split: SplitName | None = None,
    columns: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    tta: TestTimeAugmentation | None = None,
    keep_outcomes: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvalResult:
    """Compare predictions with the true classes of labelled images.

    The temperature is fitted on validation images if there are some that are not evaluated. A run
    trained with ``loss="sigmoid"`` has none, and is evaluated on its own data only.

    Args:
        classifier: The trained model.
        source: A folder with a folder for each class, or a ``.csv``, ``.tsv`` or ``.jsonl`` of path
            and label; None for the data that the run was trained on.
        split: Which images; by default the test split of the run's own data or of a source that
            has splits, and all images of any other source. Image files that the run was trained on,
            or that chose its weights, are left out of both, by their contents; ``"all"`` includes
            them. ``notes`` has their number.
        columns: Columns of paths and labels of a list; by default they are recognized.
        batch_size: As in ``predict``.
        tta: As in ``predict``.
        keep_outcomes: Whether the result holds the outcome of each image, with small pictures of
            some, for a page; not where images can have any number of classes.
        progress: Called with the number of images done and of all.

    Raises:
        UserError: No data, classes that the model does not know, or no image that can be read.
    """
    loss = classifier.info.loss
    multi_label = loss == "sigmoid"
    if multi_label and source is not None:
        raise UserError(
            f"This run was trained on images with any number of classes, and {source} would give "
            "each image one: name no folder, and the run's own data are used."
        )
    selection = _select(classifier, source, split, columns)
    tested = selection.splits[selection.chosen]
    total = len(tested.images)
    program = classifier._logits_program(tta)

    batches, done = [], 0
    for batch in forward_source(program, tested.images, tested.names, batch_size):
        batches.append(batch)
        done += len(batch.names)
        progress(done, total)
    logits = _logits(batches)
    failed = {name: why for batch in batches for name, why in batch.failed.items()}
    if NOT_FINITE in failed.values() and not len(logits):
        raise UserError(f"Every image of {selection.title} {NOT_FINITE}.")
    if not len(logits):
        raise UserError(f"{selection.title} has no image that can be read: name other images.")
    read = np.concatenate([batch.read for batch in batches])
    probabilities = np.full((total, len(classifier.classes)), np.nan, np.float32)
    probabilities[read] = to_probabilities(classifier, logits)
    predictions = Predictions(tested.names, classifier.classes, probabilities, failed)
    labels = np.asarray(tested.images.labels)

    title, classes, notes = selection.title, classifier.classes, selection.notes
    if classifier.info.settings.get("evaluate_flipped") and tta is None:
        notes = (*notes, UNFLIPPED)
    if multi_label:
        ranked = evaluate_multi_label(title, logits, labels[read], classes)
        return EvalResult(ranked, predictions, labels, notes)
    validation = None
    held_out = selection.splits.get("validation")
    if selection.chosen == "test" and held_out is not None and len(held_out.images):
        others = list(forward_source(program, held_out.images, held_out.names, batch_size))
        if len(_logits(others)):
            validation = _logits(others), np.concatenate([batch.labels for batch in others])
    result = evaluate_logits(title, logits, labels[read], classes, validation, loss)
    outcomes = None
    if keep_outcomes:
        root = classifier.info.settings.get("data.dir") if source is None else str(source)
        names = image_names(tested.images, selection.chosen, root)
        rows = np.flatnonzero(read)
        outcomes = outcomes_of(
            logits,
            labels[read],
            [names[row] for row in rows],
            loss=loss,
            split=selection.chosen,
            images=tested.images,
            rows=rows,
            unreadable=failed,
        )
        if classifier.info.kind != "onnx":  # its graph has no gradients
            outcomes = with_heat_maps(
                *folded_model(classifier),
                Preprocessing.from_transform(classifier.transform),
                outcomes,
                tested.images,
                rows,
            )
    return EvalResult(result, predictions, labels, notes, outcomes)


def select_images(classifier: Classifier, split: SplitName) -> tuple[Source, tuple[str, ...]]:
    """Return the images of a split of the data that the run was trained on, and their names.

    Raises:
        UserError: The classifier is not of a run, or its data have no such split.
    """
    chosen = _select(classifier, None, split, None).splits[split]
    return chosen.images, chosen.names


def _logits(batches: list[BatchOutputs]) -> np.ndarray:
    return np.concatenate([batch.outputs for batch in batches]) if batches else np.zeros((0, 1))


def _select(
    classifier: Classifier,
    source: str | Path | None,
    split: SplitName | None,
    columns: Sequence[str] | None,
    own: bool | None = None,
) -> _Selection:
    """Find the labelled images to evaluate on, which are the run's own if they have their path."""
    info, settings = classifier.info, classifier.info.settings
    name, data_dir = settings.get("data.name"), settings.get("data.dir")
    if own is None:
        own = source is None or (data_dir is not None and _same(source, data_dir))
    if source is None and not name:
        raise UserError(
            "There is no data to evaluate on: name a folder with a folder of images for each class."
        )
    if own and (name not in IMAGE_SETS or str(data_dir).lower().endswith(".npz")):
        return _select_of_config(classifier, split)
    root = str(data_dir if source is None else source)
    ratios = tuple(settings.get("data.splits") or (8, 1, 1)) if own else (8, 1, 1)
    if own and columns is None:
        columns = split_columns(settings.get("data.columns"))
    found = find_images(
        root,
        ratios=ratios,  # type: ignore[arg-type]
        classes=classifier.classes,
        other_names=_other_names(classifier.classes),
        columns=columns,
        form=name if own and name in SHARD_FORMATS else None,
    )
    records: dict[str, Records] = {name: part for name, part in found.splits.items() if len(part)}
    has_splits = not {"validation", "test"}.isdisjoint(found.given_splits)
    chosen = split or ("test" if own or has_splits else "all")
    if chosen == "test" and "test" not in records and split is None:
        chosen = "validation"
    records["all"] = _joined(list(found.splits.values()))
    if chosen not in records:
        raise UserError(f"{root} has no {chosen} images: choose --split {' or '.join(records)}.")
    title, transform = f"{root} ({chosen})", classifier.transform
    notes: tuple[str, ...] = ()
    data = run_fingerprint(info)
    known = frozenset[str]() if data is None else data.contents()
    seen = training_images(info, data, own, chosen)
    contents = contents_of(records[chosen].paths) if seen or (own and known) else []
    if own and (new := count_new(contents, known)):
        every = contents_of(records["all"].paths) if new == len(contents) else contents
        if count_new(every, known) == len(records["all"]):
            # From another working folder, a relative path leads to other images.
            if source is not None:
                return _select(classifier, source, split, columns, own=False)
            raise UserError(
                f"{root} has none of the run's images, so it is another folder: go to where the "
                "run was started, or name the folder to evaluate on."
            )
        notes = (f"{new:,} of the {len(records[chosen]):,} images are new since the run started",)
    if seen is None:
        if not own:
            notes = (f"whether the run was trained on images of {root} is not known",)
    else:
        ask = split is not None and chosen != "test"
        records[chosen], title, more = leave_out(records[chosen], contents, seen, title, keep=ask)
        notes += more
    splits = {
        name: _NamedSplit(ImageFiles.from_transform(part, transform), part.paths)
        for name, part in records.items()
    }
    left_out = [f"{root}: left out are {first_few([*found.left_out])}"] if found.left_out else []
    return _Selection(splits, chosen, title, (*found.notes, *left_out, *notes))


def _select_of_config(classifier: Classifier, split: SplitName | None) -> _Selection:
    """Find the images of the data set that the run's settings name."""
    info = classifier.info
    held: dict[str, Any] = {
        name.removeprefix("data."): tuple(value) if isinstance(value, list) else value
        for name, value in info.settings.items()
        if name.startswith("data.")
    }
    data = DataConfig(**held)
    dataset = open_dataset(data, AugmentConfig())
    sources: dict[str, Source] = {name: getattr(dataset, name) for name in SPLITS}
    sources = {name: source for name, source in sources.items() if len(source)}
    chosen = split or ("test" if "test" in sources else "validation")
    if chosen not in sources:
        raise UserError(f"{data.name} has no {chosen}: choose --split {' or '.join(sources)}.")
    # The settings leave open what the run took from its starting weights; its transform has it.
    sources = {
        name: ImageFiles.from_transform(source.files, classifier.transform)
        if isinstance(source, ImageFiles)
        else source
        for name, source in sources.items()
    }
    splits = {
        name: _NamedSplit(source, tuple(f"{name}/{i}" for i in range(len(source))))
        for name, source in sources.items()
    }
    before = run_fingerprint(info)
    changed = [] if before is None else differences(before, fingerprint(dataset, data.dir))
    notes = [f"{data.name} is not as it was when the run was started: {'; '.join(changed)}"]
    return _Selection(splits, chosen, f"{data.name} ({chosen})", tuple(notes if changed else ()))


def _same(one: str | Path, other: str | Path) -> bool:
    """Return whether two names are of one place; nothing is read there."""
    if scheme_of(str(one)) or scheme_of(str(other)):
        return str(one).rstrip("/") == str(other).rstrip("/")
    return expand(one).resolve() == expand(other).resolve()


def _other_names(classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return other names that folders of a model's classes may have: the numbers of the logits
    where the model has no names of its own or is one of ImageNet-1k, and then also WordNet IDs."""
    numbers = tuple(map(str, range(len(classes))))
    is_numbered = tuple(classes) == numbers
    imagenet = imagenet_classes()
    if len(classes) == len(imagenet):
        # transformers has all synonyms of a class: "great white shark, white shark, ...".
        first = [name.split(",")[0].casefold() for name in classes]
        same = sum(one == other.casefold() for one, other in zip(first, imagenet, strict=True))
        if is_numbered or same >= MOST_NAMES:
            return {"WordNet IDs": imagenet_synsets(), NUMBERS: numbers}
    return {NUMBERS: numbers} if is_numbered else {}


def _joined(parts: list[Records]) -> Records:
    paths = tuple(path for part in parts for path in part.paths)
    return Records(paths, np.concatenate([part.labels for part in parts]))
