"""A run's page, ``report/index.html``: one file that needs nothing else, to keep and to send."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .evaluation import Evaluation, read_evaluation, write_evaluation
from .history import Entry, read_history
from .page_style import PAGE
from .pictures import confusion_svg, learning_curves

FOLDER = "report"
_EVALUATION = "evaluation.json"
_MOST_CLASSES = 200  # in the table of classes
_MOST_LINES = 60  # of the history


def write_page(workdir: Path, evaluation: Evaluation | None = None) -> Path:
    """Write the page of the run in ``workdir`` from the files that are there.

    It shows the results, the learning curves, the confusion matrix, figures by class, the history
    and the settings. An ``evaluation`` is kept beside the page (``evaluation.json``) for the
    next time it is written.

    Returns:
      The page's path.

    Raises:
      UserError: not a run's folder, or the page cannot be written.
    """
    folder = workdir / FOLDER
    settings = _read(workdir / "config.json")
    history = read_history(workdir / "history.jsonl")
    try:
        if evaluation is not None:
            write_evaluation(folder / _EVALUATION, evaluation)
        else:
            evaluation = read_evaluation(folder / _EVALUATION)
        folder.mkdir(parents=True, exist_ok=True)
        classes = _read(workdir / "classes.json")
        page = _page(workdir.resolve().name, settings, classes, history, evaluation)
        fresh = folder / "index.tmp"
        fresh.write_text(page, encoding="utf-8")
        fresh.replace(folder / "index.html")
    except OSError as error:
        raise UserError(f"The page in {folder} cannot be written ({error}).") from error
    return folder / "index.html"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent} is not a run's folder: it has no {path.name}. Give the --workdir of a "
            "training run."
        ) from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}).") from error


def _page(
    name: str,
    settings: Mapping[str, Any],
    classes: Sequence[str],
    history: Sequence[Entry],
    evaluation: Evaluation | None,
) -> str:
    evaluated = [entry for entry in history if "train_loss" in entry]
    end = next((entry for entry in reversed(history) if "best_step" in entry), None)
    best = _best(evaluated, end)
    model, data = settings.get("model.name", "model"), settings.get("data.name", "")
    where = settings.get("data.dir") if data == "folder" else data
    lead = f"{model} on {where}, {len(classes):,} classes" if where else str(model)
    if end is None:
        lead += ". This run has not come to its end yet."
    parts = [_tiles(evaluated, end, best)]
    if evaluated:
        parts.append(_section("Learning curves", learning_curves(evaluated)))
    if end is not None:
        parts.append(_section("Results", _results(evaluated, end, best)))
    if evaluation is not None:
        told = f"On {evaluation.name}, {evaluation.count:,} images."
        parts.append(_section("Confusion matrix", _figure(confusion_svg(evaluation)), told))
        parts.append(_section("Classes", _classes(evaluation)))
        parts.append(_section("Calibration", _calibration(evaluation)))
    else:
        parts.append(_section("Classes", f"<p>{html.escape(', '.join(classes))}</p>"))
    parts.append(_section("History", _history(evaluated)))
    parts.append(_section("Settings", _settings(settings)))
    title = html.escape(name)
    return PAGE.replace("{title}", title).replace("{lead}", html.escape(lead)).replace(
        "{body}", "\n".join(parts)
    )  # fmt: skip


def _best(evaluated: Sequence[Entry], end: Entry | None) -> Entry | None:
    """The evaluation of the best checkpoint."""
    if end is not None:
        return next((e for e in evaluated if e["step"] == end["best_step"]), None)
    key = f"val_{next(iter(_measures(evaluated)))}"
    scored = [entry for entry in evaluated if key in entry]
    return max(scored, key=lambda entry: entry[key], default=None)


def _measures(evaluated: Sequence[Entry]) -> dict[str, str]:
    """Key and name of what tells how good the run is, that of the best checkpoint first."""
    if any("val_map" in entry for entry in evaluated):
        return {"map": "mAP"}  # of any number of classes the likeliest one tells little
    return {"top1": "top-1", "top5": "top-5"}


def _section(title: str, body: str, note: str = "") -> str:
    told = f"<p class=note>{html.escape(note)}</p>" if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{told}{body}</section>"


def _figure(svg: str) -> str:
    return f"<figure>{svg}</figure>"


def _tiles(evaluated: Sequence[Entry], end: Entry | None, best: Entry | None) -> str:
    last = evaluated[-1] if evaluated else {}
    key, name = next(iter(_measures(evaluated).items()))
    rates = sorted(entry["images_per_second"] for entry in evaluated)
    tiles = {
        f"test {name}": _percent(end, f"test_{key}"),
        f"validation {name}, best": _percent(best, f"val_{key}"),
        f"training {name}, last": _percent(last, f"train_{key}"),
        "epochs": f"{last['epoch']:g}" if last else None,
        "time": _duration(last["time"]) if last else None,
        "images a second": f"{rates[len(rates) // 2]:,.0f}" if rates else None,
    }
    shown = (
        f"<div><b>{value}</b><span>{name}</span></div>" for name, value in tiles.items() if value
    )
    return f"<div class=tiles>{''.join(shown)}</div>"


def _results(evaluated: Sequence[Entry], end: Entry, best: Entry | None) -> str:
    last = evaluated[-1] if evaluated else None
    measures = _measures(evaluated)
    rows = []
    for name, entry in {"best": best, "last": last}.items():
        if entry is None:
            continue
        tested = end if entry is best else None
        rows.append([
            name, f"{entry['step']:,}", f"{entry['epoch']:g}",
            _number(entry, "val_loss"), *(_percent(entry, f"val_{key}") for key in measures),
            _number(tested, "test_loss"), *(_percent(tested, f"test_{key}") for key in measures),
        ])  # fmt: skip
    heads = ["checkpoint", "step", "epoch"]
    for split in ("val", "test"):
        heads += [f"{split} {what}" for what in ("loss", *measures.values())]
    return _table(heads, rows)


def _classes(evaluation: Evaluation) -> str:
    rows = [
        [html.escape(name), f"{support:,}", f"{precision:.1%}", f"{recall:.1%}", f"{f1:.1%}"]
        for name, support, precision, recall, f1 in zip(
            evaluation.classes, evaluation.support, evaluation.precision, evaluation.recall,
            evaluation.f1, strict=True,
        )
    ][:_MOST_CLASSES]  # fmt: skip
    rest = len(evaluation.classes) - len(rows)
    more = f"<p class=note>and {rest:,} more</p>" if rest else ""
    return _table(("class", "images", "precision", "recall", "F1"), rows) + more


def _calibration(evaluation: Evaluation) -> str:
    rows = [
        ["as trained", "1", f"{evaluation.calibration_error:.2%}"],
        [
            f"fitted on {html.escape(evaluation.temperature_from)}",
            f"{evaluation.temperature:.3f}",
            f"{evaluation.calibrated_error:.2%}",
        ],
    ]
    heads = ("temperature", "logits divided by", "expected calibration error")
    return _table(heads, rows)


def _history(evaluated: Sequence[Entry]) -> str:
    apart = math.ceil(len(evaluated) / _MOST_LINES) or 1
    chosen = evaluated[::-1][::apart][::-1]  # the last among them
    key, name = next(iter(_measures(evaluated).items()))
    rows = [
        [
            f"{entry['epoch']:g}", f"{entry['step']:,}", _number(entry, "train_loss"),
            _percent(entry, "train_top1"), _number(entry, "val_loss"),
            _percent(entry, f"val_{key}"),
            f"{entry['learning_rate']:.3g}", f"{entry['images_per_second']:,.0f}",
            f"{entry['data_wait']:.0%}",
        ]
        for entry in chosen
    ]  # fmt: skip
    heads = ("epoch", "step", "train loss", "train top-1", "val loss", f"val {name}",
             "learning rate", "images/s", "data wait")  # fmt: skip
    return (
        f"<details><summary>{len(evaluated):,} evaluations</summary>{_table(heads, rows)}</details>"
    )


def _settings(settings: Mapping[str, Any]) -> str:
    rows = [
        [html.escape(name), html.escape(json.dumps(value))]
        for name, value in sorted(settings.items())
        if value is not None
    ]
    return (
        f"<details><summary>{len(rows)} settings</summary>"
        f"{_table(('setting', 'value'), rows, plain=True)}</details>"
    )


def _table(heads: Iterable[str], rows: Iterable[Iterable[str | None]], plain: bool = False) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell if cell is not None else '–'}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    kind = " class=plain" if plain else ""
    return f"<div class=scroll><table{kind}><tr>{head}</tr>{body}</table></div>"


def _percent(entry: Mapping[str, Any] | None, key: str) -> str | None:
    return f"{entry[key]:.2%}" if entry and key in entry else None


def _number(entry: Mapping[str, Any] | None, key: str) -> str | None:
    return f"{entry[key]:.4f}" if entry and key in entry else None


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
