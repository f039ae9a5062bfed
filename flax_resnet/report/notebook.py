"""What a notebook shows of a model and of results: small HTML tables, as ``_repr_html_``."""

from collections.abc import Mapping, Sequence
from html import escape as escape_html
from typing import TYPE_CHECKING

from rich.table import Table

from ..file_names import escape
from .tables import text_table

if TYPE_CHECKING:
    from ..weights import WeightsInfo  # would import JAX

MOST_ROWS = 20  # images of a table of predictions
MOST_NAMES = 12  # classes that are named
_OTHERS = 2  # classes beside the most probable one

Ranked = Sequence[tuple[str, float]]
"""Names of classes with their probabilities, the most probable first."""


def to_html(*tables: Table, notes: Sequence[str] = ()) -> str:
    """Return tables of the terminal as HTML; whatever they hold is text, not markup.

    Args:
        tables: The tables.
        notes: Sentences below them.
    """
    return "".join([*map(_table, tables), *(f"<p>{_text(note)}</p>" for note in notes)])


def classifier_table(info: "WeightsInfo", parameters: int | None = None) -> Table:
    """Table of what is known of a trained model, with its number of parameters if that is known."""
    named = ", ".join(info.classes[:MOST_NAMES])
    more = ", ..." if len(info.classes) > MOST_NAMES else ""
    transform = info.transform
    rows = {
        "model": info.config.name,
        "parameters": "" if parameters is None else f"{parameters:,}",
        "input": f"{transform.height}×{transform.width}×{transform.channels}",
        "classes": f"{len(info.classes):,}: {named}{more}" if info.classes else "",
        "classifier": "" if info.has_classifier else "random: it is not trained yet",
        "training steps": "" if info.step is None else f"{info.step:,}",
        **{f"published {name}": f"{value:g}%" for name, value in info.metrics.items()},
    }
    shown = [(name, value) for name, value in rows.items() if value]
    return text_table(info.source, ("", ""), shown)


def predictions_table(
    names: Sequence[str], ranked: Sequence[Ranked], failed: Mapping[str, str]
) -> Table:
    """Table of the most probable classes of images, at most ``MOST_ROWS``.

    Args:
        names: Names of the images.
        ranked: The most probable classes of each image; none where it could not be read.
        failed: Name -> reason of each such image.
    """
    rows = []
    for name, found in zip(names[:MOST_ROWS], ranked, strict=False):
        if not found:
            rows.append((name, failed.get(name, "cannot be read"), "", ""))
            continue
        (label, probability), *others = found[: 1 + _OTHERS]
        rest = ", ".join(f"{other} {value:.1%}" for other, value in others)
        rows.append((name, label, f"{probability:.1%}", rest))
    count = f"{len(names):,} {'image' if len(names) == 1 else 'images'}"
    title = count if len(names) <= MOST_ROWS else f"the first {MOST_ROWS} of {count}"
    return text_table(title, ("image", "class", "probability", "next"), rows)


def _table(table: Table) -> str:
    heads = [str(column.header) for column in table.columns]
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(str(cell))}</td>" for cell in cells) + "</tr>"
        for cells in zip(*(column.cells for column in table.columns), strict=True)
    )
    caption = f"<caption>{_text(str(table.title))}</caption>" if table.title else ""
    top = f"<thead><tr>{head}</tr></thead>" if any(heads) and table.show_header else ""
    return f"<table>{caption}{top}<tbody>{body}</tbody></table>"


def _text(value: str) -> str:
    return escape_html(escape(value))
