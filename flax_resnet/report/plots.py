"""Plots drawn with Matplotlib: learning curves and the confusion matrix."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..fonts import matplotlib_families
from ..metrics import Evaluation
from ..output_files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # imported where it is used: 0.5 s

_TRAIN, _VALIDATION, _OTHER = "#8a94a6", "#1f6feb", "#7a4fbf"
_INK, _GRID = "#1c2430", "#e3e6eb"
_MAX_NAMED, _MAX_COUNTED = 40, 25  # most classes for which names, and counts, are written
_STYLE: Any = {
    "font.size": 10, "axes.edgecolor": "#b6bdc9", "axes.labelcolor": _INK, "text.color": _INK,
    "xtick.color": "#5a6473", "ytick.color": "#5a6473", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": _GRID, "axes.axisbelow": True,
    "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": "flax_resnet",
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


def learning_curves_svg(history: Sequence[Mapping[str, Any]]) -> str:
    """Draw loss, accuracy and learning rate by epoch, as SVG.

    Args:
        history: lines of ``history.jsonl`` that an evaluation wrote, at least one.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    # A curve that is zero everywhere is left out, such as the learning rate of L-BFGS.
    curves = [
        curve
        for curve in _CURVES
        if any(entry.get(key) for entry in history for key, _, _ in curve[2])
    ]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11.5, 3.1), layout="constrained")
        for axes, (title, unit, lines) in zip(
            figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True
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
        return _to_svg(figure)


def confusion_svg(evaluation: Evaluation) -> str:
    """Draw the confusion matrix, as SVG."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        return _to_svg(_confusion_figure(evaluation))


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
        with replacing(path) as fresh, mpl.rc_context(_STYLE | families):
            _save(_confusion_figure(evaluation), fresh, dpi=150)
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


def _to_svg(figure: "Figure") -> str:
    file = io.StringIO()
    metadata = {"Date": None, "Creator": None}  # equal figures give equal files
    _save(figure, file, format="svg", transparent=True, metadata=metadata)
    return file.getvalue()[file.getvalue().index("<svg") :]


def _save(figure: "Figure", target: Any, **options: Any) -> None:
    with warnings.catch_warnings():  # about letters that the font lacks: browsers have others
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(target, **options)
