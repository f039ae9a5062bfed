"""The page of a study: curves of several architectures beside the errors of their paper."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..output_files import replacing
from .history import Entry
from .pictures import data_uri
from .plots import STYLE, save_figure
from .rendering import write_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = ("#d1432f", "#8f2d1e", "#1f6feb", "#0b3d91", "#7a4fbf", "#2a9d5c")


@dataclass(frozen=True)
class Curve:
    """An architecture of a study.

    Attributes:
        name: Its name.
        histories: The evaluations of each seed.
        published: The accuracy of the paper, a fraction, or None.
    """

    name: str
    histories: Sequence[Sequence[Entry]]
    published: float | None


def write_study_page(
    path: Path,
    title: str,
    lead: str,
    finding: str,
    curves: Sequence[Curve],
    results: tuple[Sequence[str], Sequence[Sequence[str]]],
    commands: Sequence[str],
) -> None:
    """Write the page of a study, and its figure beside it as a PNG.

    Args:
        path: The page.
        title: What is compared.
        lead: Recipe, budget and seeds.
        finding: What the paper found.
        curves: The architectures.
        results: Columns and rows of the table of accuracies.
        commands: What trains each architecture.

    Raises:
        UserError: A file cannot be written.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = _figure(curves)
        picture = io.BytesIO()
        save_figure(figure, picture, dpi=110, format="png")
    with replacing(path.with_suffix(".png")) as fresh:
        fresh.write_bytes(picture.getvalue())
    content: Mapping[str, Any] = {
        "title": title,
        "lead": lead,
        "finding": finding,
        "figure": data_uri(picture.getvalue(), "png"),
        "results": results,
        "commands": "\n".join(commands),
        "sections": [
            ("section-curves", "Curves"),
            ("section-table", "Accuracies"),
            ("section-paper", "The paper"),
            ("section-commands", "Commands"),
        ],
    }
    write_html(path, "study.html.jinja", ("charts.js",), {"classes": []}, content)


def _figure(curves: Sequence[Curve]) -> "Figure":
    """Training and validation errors by epoch, as in figure 6 of He et al. 2015."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for curve, color in zip(curves, _COLORS * len(curves), strict=False):
        length = min(map(len, curve.histories))
        epochs = [line["epoch"] for line in curve.histories[0][:length]]
        for key, style, label in (("val_top1", "-", curve.name), ("train_top1", "--", None)):
            errors = np.array(
                [[1 - line[key] for line in lines[:length]] for lines in curve.histories]
            )
            axes.plot(epochs, errors.mean(0), style, color=color, label=label, linewidth=1.5)
            if len(errors) > 1:
                axes.fill_between(
                    epochs, errors.min(0), errors.max(0), color=color, alpha=0.15, linewidth=0
                )
        if curve.published is not None:
            axes.axhline(1 - curve.published, color=color, linestyle=":", linewidth=1)
    axes.set(xlabel="epoch", ylabel="error", title="Errors by epoch")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False)
    return figure
