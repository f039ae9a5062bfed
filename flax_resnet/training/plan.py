"""The plan of a run, printed before it starts."""

import jax
import numpy as np
from flax import traverse_util
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config import scaled_learning_rate
from ..data import Dataset
from ..models import stage_of
from ..weights import describe_channels
from .messages import note
from .run import Run
from .segments import Phase
from .transfer.start import rate_factors

MAX_CLASSES = 20  # rows of the table of classes
FEW_IMAGES = 10  # training images of a class


def print_plan(run: Run, console: Console) -> None:
    """Print the data, the model, and for transfer learning what trains, when and how."""
    data, config, devices = run.dataset, run.config, run.partitioning.num_devices
    params = run.abstract_state().params
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    steps = f"{run.last_step:,} of {run.total_steps:,} steps of {config.data.batch_size} images"
    if run.solver == "lbfgs":
        steps = "the head fitted by L-BFGS"
    # As Text, names with brackets or colons are not taken for markup.
    console.print(
        Text(
            f"{config.model.name} ({parameters:,} parameters) on {data.name}: "
            f"{len(data.train):,} training, {len(data.validation):,} validation, "
            f"{len(data.test):,} test images; {steps} on "
            f"{devices} {jax.default_backend().upper()} device{'s' if devices > 1 else ''}."
        )
    )
    if run.solver != "lbfgs":  # which has none
        base, given = config.optimizer.base_batch_size, config.optimizer.learning_rate
        rate = f"{given:g} × {config.data.batch_size} / {base}" if base else "as given"
        console.print(
            f"Learning rate {scaled_learning_rate(config):g} ({rate}); "
            "the batch size is the global one."
        )
    storage = "decoded as they are needed" if data.train.streams else "held in memory"
    sizes = "".join(f", in training {size} from epoch {at}" for at, size in config.data.train_sizes)
    console.print(f"Images of {'×'.join(map(str, data.image_shape))}, {storage}{sizes}.")
    if data.train.streams and not data.multi_label:
        console.print(_classes_table(data))
    if run.start is not None or config.transfer.mode != "full":
        _print_transfer(run, params, console)
    if run.views:
        views = f"{run.views} augmented views" if run.views > 1 else "1 view (no augmentation)"
        console.print(f"The frozen stages run once, on {views} of each image.")
    for text in data.notes:
        note(console, text)


def phase_message(phase: Phase) -> str:
    """A sentence on what trains from the first step of a phase on."""
    if phase.freeze_before is None:
        return "From here on all stages train."
    return f"From here on {phase.freeze_before} trains too."


def _classes_table(data: Dataset) -> Table:
    """Images of each class in each split; of many classes the largest."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    counts = [np.bincount(split.labels, minlength=len(data.classes)) for split in splits.values()]
    table = Table("class", *splits, title="Images", title_justify="left")
    order = np.argsort(-counts[0], kind="stable")
    shown = sorted(order[:MAX_CLASSES]) if len(order) > MAX_CLASSES else range(len(order))
    for label in shown:
        numbers = [f"{count[label]:,}" for count in counts]
        few = " [yellow](few)[/]" if counts[0][label] < FEW_IMAGES else ""
        table.add_row(Text(data.classes[label]), numbers[0] + few, *numbers[1:])
    if rest := len(order) - len(shown):
        fewest = int(counts[0][order[MAX_CLASSES:]].min())
        table.add_row(f"and {rest:,} more", f"{fewest:,} or more", "", "")
    return table


def _print_transfer(run: Run, params: dict, console: Console) -> None:
    transform = run.transform
    source = "random values" if run.start is None else run.start.info.path
    mode = run.config.transfer.mode
    console.print(Text(f"Starts from {source}, with a fresh head; mode {mode}."))
    channels = run.model.in_channels
    if run.start is not None and channels not in (None, run.start.channels):
        init = run.config.transfer.in_channels_init
        console.print(describe_channels(channels, run.start.channels, init))
    console.print(_stages_table(run, params))
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (transform.mean, transform.std))
    resized = f"shorter side to {transform.resize}, " if transform.resize else ""
    console.print(
        f"Preprocessing: {resized}middle {transform.height}×{transform.width} "
        f"({transform.interpolation}), mean {mean}, std {std}."
    )


def _stages_table(run: Run, params: dict) -> Table:
    """Parameters of each stage, when they train, at which rate, and its batch norms."""
    transfer, model = run.config.transfer, run.config.model
    stages = run.model.stages
    sizes, affine = dict.fromkeys(stages, 0), dict.fromkeys(stages, 0)
    for path, leaf in traverse_util.flatten_dict(params).items():
        stage = stage_of(path[0], stages[-2])
        sizes[stage] += leaf.size
        affine[stage] += leaf.size if any("bn" in name for name in path[:-1]) else 0
    rates = rate_factors(transfer, stages)
    headings = ("stage", "parameters", "trains", "rate", "norm statistics", "norm scale")
    table = Table(*headings, title="What trains", title_justify="left")
    for stage in stages:
        phase = _first_phase_of(run, stage, stages)
        trains = phase is not None
        statistics = scale = "–"
        if affine[stage]:
            updated = (trains or transfer.statistics == "updated") and not model.frozen_statistics
            trained = (trains or transfer.affine == "trained") and not model.frozen_affine
            statistics = "updated" if updated else "frozen"
            scale = "trained" if trained else "frozen"
        rate = f"×{rates[stage]:.2g}" if trains else ""
        start = "frozen" if phase is None else _start_of(run, phase)
        table.add_row(stage, f"{sizes[stage]:,}", start, rate, statistics, scale)
    return table


def _first_phase_of(run: Run, stage: str, stages: tuple[str, ...]) -> Phase | None:
    """The first phase in which a stage trains, or None."""
    for phase in run.phases:
        if stages.index(stage) >= stages.index(phase.freeze_before or stages[0]):
            return phase
    return None


def _start_of(run: Run, phase: Phase) -> str:
    if phase.first_step == 0:
        return "at once"
    return f"epoch {run.epoch_at(phase.first_step):.2g} on"
