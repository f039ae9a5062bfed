"""What a run is about to do, told before it does it."""

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from ..config import scaled_learning_rate
from ..data import Dataset
from ..models import stage_of
from .setup import Run
from .transfer.start import Phase, rate_factors

MOST_CLASSES = 20  # rows of the table of classes
FEW = 10  # training images of a class


def print_plan(run: Run, views: int, solver: str, mesh: Mesh, console: Console) -> None:
    """Print the data, the model, and for transfer learning what trains, when and how.

    Args:
      views: of each image that the frozen parts are run on once; 0 for none.
      solver: ``"sgd"``, or ``"lbfgs"`` for a head on them.
    """
    data, config = run.dataset, run.config
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    devices = f"{mesh.devices.size} {jax.default_backend().upper()} device"
    steps = f"{run.last_step:,} of {run.total_steps:,} steps of {config.data.batch_size} images"
    if solver == "lbfgs":
        steps = "the head fitted by L-BFGS"
    console.print(
        f"{config.model.name} ({parameters:,} parameters) on {data.name}: {len(data.train):,} "
        f"training, {len(data.validation):,} validation, {len(data.test):,} test images; "
        f"{steps} on {devices}{'s' if mesh.devices.size > 1 else ''}."
    )
    base, given = config.optimizer.base_batch_size, config.optimizer.learning_rate
    how = f"{given:g} × {config.data.batch_size} / {base}" if base else "as given"
    console.print(
        f"Learning rate {scaled_learning_rate(config):g} ({how}); the batch size is the global one."
    )
    road = "decoded as they are needed" if data.train.streams else "held in memory"
    sizes = "".join(f", in training {size} from epoch {at}" for at, size in config.data.train_sizes)
    console.print(f"Images of {'×'.join(map(str, data.image_shape))}, {road}{sizes}.")
    if data.train.streams and not data.multi_label:
        console.print(_classes_table(data))
    if run.start is not None or config.transfer.mode != "full":
        _print_transfer(run, console)
    if views:
        what = "1 view (no augmentation)" if views == 1 else f"{views} augmented views"
        console.print(f"The frozen parts run once, on {what} of each image.")
    for note in data.notes:
        console.print(f"[yellow]note:[/] {note}")


def phase_told(phase: Phase) -> str:
    """What trains from now on, in a sentence."""
    if phase.freeze_before is None:
        return "From here on all parts train."
    return f"From here on {phase.freeze_before} trains too."


def _classes_table(data: Dataset) -> Table:
    """Images of each class in each split; the largest classes where there are many."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    counts = [np.bincount(split.labels, minlength=len(data.classes)) for split in splits.values()]
    table = Table("class", *splits, title="Images", title_justify="left")
    order = np.argsort(-counts[0], kind="stable")
    shown = sorted(order[:MOST_CLASSES]) if len(order) > MOST_CLASSES else range(len(order))
    for label in shown:
        numbers = [f"{count[label]:,}" for count in counts]
        few = " [yellow](few)[/]" if counts[0][label] < FEW else ""
        table.add_row(data.classes[label], numbers[0] + few, *numbers[1:])
    if rest := len(order) - len(shown):
        fewest = int(counts[0][order[MOST_CLASSES:]].min())
        table.add_row(f"and {rest:,} more", f"{fewest:,} or more", "", "")
    return table


def _print_transfer(run: Run, console: Console) -> None:
    config, prepared, framing = run.config, run.preprocessing, run.dataset.framing
    source = run.start.source if run.start is not None else "random values"
    console.print(f"Starts from {source}, with a fresh head; mode {config.transfer.mode}.")
    console.print(_parts_table(run))
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (prepared.mean, prepared.std))
    resized = f"shorter side to {framing.resize}, " if framing.resize else ""
    console.print(
        f"Preprocessing: {resized}middle {framing.height}×{framing.width} "
        f"({framing.interpolation}), mean {mean}, std {std}."
    )


def _parts_table(run: Run) -> Table:
    """For each part its parameters, from which epoch they train, how fast, and batch norm."""
    transfer, model = run.config.transfer, run.config.model
    parts: tuple[str, ...] = getattr(run.model, "stages", ())
    sizes, affine = dict.fromkeys(parts, 0), dict.fromkeys(parts, 0)
    for path, leaf in traverse_util.flatten_dict(run.state.params).items():
        part = stage_of(path[0], parts[-2])
        sizes[part] += leaf.size
        affine[part] += leaf.size if any("bn" in name for name in path[:-1]) else 0
    rates = rate_factors(transfer, parts)
    headings = ("part", "parameters", "trains", "rate", "norm statistics", "norm scale")
    table = Table(*headings, title="What trains", title_justify="left")
    for part in parts:
        began = _first_phase_of(run, part)
        trains = began is not None
        when = "frozen" if began is None else _when(run, began)
        statistics = affined = "–"
        if affine[part]:
            updated = (trains or transfer.statistics == "updated") and not model.frozen_statistics
            scaled = (trains or transfer.affine == "trained") and not model.frozen_affine
            statistics = "updated" if updated else "frozen"
            affined = "trained" if scaled else "frozen"
        rate = f"×{rates[part]:.2g}" if trains else ""
        table.add_row(part, f"{sizes[part]:,}", when, rate, statistics, affined)
    return table


def _first_phase_of(run: Run, part: str) -> Phase | None:
    parts = run.model.stages  # type: ignore[attr-defined]
    for phase in run.phases:
        if parts.index(part) >= parts.index(phase.freeze_before or parts[0]):
            return phase
    return None


def _when(run: Run, phase: Phase) -> str:
    if phase.first_step == 0:
        return "at once"
    return f"epoch {run.epoch_at(phase.first_step):.2g} on"
