"""Plots drawn with Matplotlib, each as a PNG file."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..data.images import write_picture
from ..errors import UserError
from ..fonts import matplotlib_families
from ..metrics import Evaluation
from ..output_files import replacing
from .data_sheet import DataSheet
from .outcomes import TEMPERATURES, Outcomes
from .pictures import filter_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # imported where it is used: 0.5 s

_TRAIN, _VALIDATION, _OTHER = "#8a94a6", "#1f6feb", "#7a4fbf"
_INK, _GRID = "#1c2430", "#e3e6eb"
_MAX_NAMED, _MAX_COUNTED = 40, 25  # most classes for which names, and counts, are written
STYLE: Any = {
    "font.size": 10, "axes.edgecolor": "#b6bdc9", "axes.labelcolor": _INK, "text.color": _INK,
    "xtick.color": "#5a6473", "ytick.color": "#5a6473", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": _GRID, "axes.axisbelow": True,
    "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "text.parse_math": False,
}  # fmt: skip

# Title, label of the y axis, and the history's keys with their legend and colour.
_CURVES: tuple[tuple[str, str, tuple[tuple[str, str, str], ...]], ...] = (
    ("Loss", "cross-entropy", (("train_loss", "train", _TRAIN),
                               ("val_loss", "validation", _VALIDATION))),
    ("Accuracy", "top-1", (("train_top1", "train", _TRAIN),
                           ("val_top1", "validation", _VALIDATION))),
    ("Mean average precision", "mAP", (("val_map", "validation", _VALIDATION),)),
    ("Learning rate", "", (("learning_rate", "learning rate", _OTHER),)),
)  # fmt: skip


def write_plots(
    folder: Path,
    history: Sequence[Mapping[str, Any]],
    evaluation: Evaluation | None,
    outcomes: Outcomes | None,
    sheet: DataSheet | None,
    kernels: np.ndarray | None,
) -> None:
    """Write a PNG of each plot of a page into its folder.

    Args:
        folder: The folder.
        history: Lines of ``history.jsonl`` that an evaluation wrote.
        evaluation: Figures of the evaluation, if there is one.
        outcomes: The outcome of each image of it, if they were kept.
        sheet: The images of each class, if they are known.
        kernels: Weights of the first convolution, if they are known.

    Raises:
        UserError: A file cannot be written.
    """
    figures: dict[str, Callable[[], Figure]] = {}
    names: Sequence[str] = ()
    if history:
        figures["learning_curves"] = partial(_curves_figure, history)
    if evaluation is not None:
        names = evaluation.classes
        figures["confusion"] = partial(_confusion_figure, evaluation)
        if outcomes is not None and len(outcomes.labels):
            figures["calibration"] = partial(_calibration_figure, outcomes)
    if sheet is not None and names:
        figures["classes"] = partial(_balance_figure, sheet.counts, names)
    import matplotlib as mpl

    with mpl.rc_context(STYLE | {"font.family": matplotlib_families(names)}):
        for name, draw in figures.items():
            with replacing(folder / f"{name}.png") as fresh:
                save_figure(draw(), fresh, dpi=110)
    if kernels is not None:
        pixels = filter_grid(kernels).repeat(6, 0).repeat(6, 1)
        write_picture(Image.fromarray(pixels), folder / "filters.png")


def _curves_figure(history: Sequence[Mapping[str, Any]]) -> "Figure":
    """Loss, accuracy and learning rate by epoch."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    # A curve that is zero everywhere is left out, such as the learning rate of L-BFGS.
    curves = [
        curve
        for curve in _CURVES
        if any(entry.get(key) for entry in history for key, _, _ in curve[2])
    ]
    figure = Figure(figsize=(11.5, 3.1), layout="constrained")
    for axes, (title, unit, lines) in zip(
        figure.subplots(1, max(len(curves), 1), squeeze=False)[0], curves, strict=False
    ):
        for key, name, color in lines:
            points = [
                (entry["epoch"], entry[key])
                for entry in history
                if entry.get(key) is not None  # a loss that is not finite is null
            ]
            marker = "o" if len(points) < 15 else ""
            axes.plot(*zip(*points, strict=True) if points else ((), ()), color=color,
                      label=name, marker=marker, markersize=3.5, linewidth=1.8)  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if unit in ("top-1", "mAP"):
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        if len(lines) > 1:
            axes.legend(frameon=False)
    return figure


def _calibration_figure(outcomes: Outcomes) -> "Figure":
    """The reliability diagram as trained, and precision and coverage by the least confidence."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts, confidences, hits = outcomes.reliability[len(TEMPERATURES) // 2]
    full, size = counts > 0, len(counts)
    accuracy, confidence = hits[full] / counts[full], confidences[full] / counts[full]
    centers = (np.flatnonzero(full) + 0.5) / size
    left.bar(centers, accuracy, 0.92 / size, color=_VALIDATION, alpha=0.75)
    left.bar(centers, confidence - accuracy, 0.92 / size, accuracy, color="#d1432f", alpha=0.5)
    left.plot((0, 1), (0, 1), color=_INK, linestyle="--", linewidth=1)
    left.set(title="Reliability", xlabel="confidence", ylabel="accuracy")
    order = np.argsort(-outcomes.probabilities[:, 0], kind="stable")
    kept = np.arange(1, len(order) + 1)
    threshold = outcomes.probabilities[order, 0]
    right.plot(threshold, np.cumsum(outcomes.correct[order]) / kept, label="correct of those kept")
    right.plot(threshold, kept / len(order), label="kept of all")
    right.set(title="Precision and coverage", xlabel="confidence at least")
    # Matplotlib's search for the best place is slow among the points of a test set.
    right.legend(frameon=False, loc="lower left")
    for axes in (left, right):
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def _balance_figure(counts: Mapping[str, Sequence[int]], names: Sequence[str]) -> "Figure":
    """Images of each class by split; of many classes the sizes in order."""
    from matplotlib.figure import Figure

    is_named = len(names) <= _MAX_NAMED
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    index = np.arange(len(names))
    order = index if is_named else np.argsort(-np.array(counts["train"]), kind="stable")
    below = np.zeros(len(names))
    for (split, sizes), color in zip(counts.items(), (_VALIDATION, _OTHER, _TRAIN), strict=False):
        heights = np.array(sizes)[order]
        axes.bar(index, heights, 0.8 if is_named else 1.0, below, color=color, label=split)
        below = below + heights
    axes.set(title="Images of each class", ylabel="images")
    axes.legend(frameon=False, loc="best" if is_named else "upper right")
    if is_named:
        axes.set_xticks(index, map(_tick_label, names), rotation=40, ha="right")
    else:
        axes.set_xlabel("class, the largest first")
    return figure


def save_learning_rates(
    rates: np.ndarray,
    losses: np.ndarray,
    smoothed: np.ndarray,
    suggestion: float | None,
    path: str | Path,
) -> None:
    """Write a plot of the loss by learning rate to an image file.

    Args:
        rates: The rates, ``[N]``.
        losses, smoothed: The losses and their moving average, ``[N]``.
        suggestion: A rate to mark, or None.
        path: The file; its suffix (.png, .svg or .pdf) determines the format.

    Raises:
        UserError: The file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    try:
        with replacing(path) as fresh, mpl.rc_context(STYLE):
            figure = Figure(figsize=(7, 4), layout="constrained")
            axes = figure.subplots()
            axes.plot(rates, losses, color=_TRAIN, linewidth=0.8, label="loss")
            axes.plot(rates, smoothed, color=_VALIDATION, linewidth=1.8, label="moving average")
            if suggestion is not None:
                label = f"suggestion {suggestion:.2g}"
                axes.axvline(suggestion, color=_OTHER, linestyle="--", label=label)
            axes.set_xscale("log")
            # Matplotlib writes powers as mathematics, which labels of ours never are.
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
            axes.set_xlabel("learning rate")
            axes.set_ylabel("cross-entropy")
            axes.set_title("Loss while the learning rate rises")
            axes.legend(frameon=False)
            save_figure(figure, fresh, dpi=150)
    except ValueError as error:  # the suffix is no image format
        raise UserError(
            f"{path} cannot be written ({error}): name another path, ending in .png."
        ) from error


def save_confusion(evaluation: Evaluation, path: str | Path) -> None:
    """Write the confusion matrix to an image file.

    Args:
        evaluation: the evaluation.
        path: the file; its suffix (.png, .svg or .pdf) determines the format.

    Raises:
        UserError: the file cannot be written.
    """
    import matplotlib as mpl

    try:
        families = {"font.family": matplotlib_families(evaluation.classes)}
        with replacing(path) as fresh, mpl.rc_context(STYLE | families):
            save_figure(_confusion_figure(evaluation), fresh, dpi=150)
    except ValueError as error:  # the suffix is no image format
        raise UserError(
            f"{path} cannot be written ({error}): name another path, ending in .png."
        ) from error


def _confusion_figure(evaluation: Evaluation) -> "Figure":
    """Rows are true classes, columns predicted ones; the colour is the fraction of the row."""
    from matplotlib.figure import Figure

    counts = np.array(evaluation.confusion)
    size = len(counts)
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(4.2 + 0.42 * size, 12)
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    axes.grid(False)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    if size <= _MAX_COUNTED:
        for row, column in np.ndindex(size, size):
            if counts[row, column]:
                color = "white" if fractions[row, column] > 0.55 else _INK
                axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center",
                          color=color, fontsize=10 if size <= 12 else 7)  # fmt: skip
    if size <= _MAX_NAMED:
        names = [_tick_label(name) for name in evaluation.classes]
        upright = max(map(len, names)) <= 3
        axes.set_xticks(range(size), names, rotation=0 if upright else 40,
                        ha="center" if upright else "right", rotation_mode="anchor")  # fmt: skip
        axes.set_yticks(range(size), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{evaluation.top1:.1%} of {evaluation.count:,} correct")
    bar = figure.colorbar(image, shrink=0.7, label="fraction of the true class")
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def _tick_label(name: str) -> str:
    text = name.encode("utf-8", "backslashreplace").decode()  # Matplotlib refuses lone surrogates
    return text if len(text) <= 24 else f"{text[:23]}…"


def save_figure(figure: "Figure", target: Any, **options: Any) -> None:
    """Write a figure to a file or a stream, in ``STYLE``'s context; options are Matplotlib's."""
    with warnings.catch_warnings():  # about letters that the font lacks: browsers have others
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(target, **options)
