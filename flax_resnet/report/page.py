"""A run's page, ``report/index.html``: one file without any other, to keep and to send.

``page.html.jinja`` holds its HTML and its style; this module prepares what it shows.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..errors import UserError
from ..metrics import Evaluation
from ..output_files import replacing
from ..text_files import parse_json
from .evaluation import read_evaluation, write_evaluation
from .history import Entry, read_history
from .plots import confusion_svg, learning_curves_svg

FOLDER = "report"
_EVALUATION = "evaluation.json"
_MAX_CLASSES = 200  # rows of the table of classes
_MAX_ENTRIES = 60  # rows of the history

Table = tuple[Sequence[str], Sequence[Sequence[str | None]]]
"""Names of the columns, and rows of cells; None is a missing value."""


def write_page(workdir: Path, evaluation: Evaluation | None = None) -> Path:
    """Write the page of a run from the files in its folder.

    It shows the results, the learning curves, the confusion matrix, scores by class, the history
    and the settings.

    Args:
        workdir: the run's folder.
        evaluation: what the confusion matrix and the scores by class show. It is kept next to the
            page (``evaluation.json``), and is read from there if it is None.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder is not a run's, or the page cannot be written.
    """
    folder = workdir / FOLDER
    settings = _read_json(workdir / "config.json")
    history = read_history(workdir / "history.jsonl")
    if evaluation is not None:
        write_evaluation(folder / _EVALUATION, evaluation)
    else:
        evaluation = read_evaluation(folder / _EVALUATION)
    classes = _read_json(workdir / "classes.json")
    page = _render(workdir.resolve().name, settings, classes, history, evaluation)
    with replacing(folder / "index.html") as fresh:
        # The name of a folder can hold bytes that are not UTF-8.
        fresh.write_text(page, encoding="utf-8", errors="backslashreplace")
    return folder / "index.html"


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent} is not a run's folder: it has no {path.name}. Give the --workdir of a "
            "training run."
        ) from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}).") from error


def _render(
    name: str,
    settings: Mapping[str, Any],
    classes: Sequence[str],
    history: Sequence[Entry],
    evaluation: Evaluation | None,
) -> str:
    evaluated = [entry for entry in history if "train_loss" in entry]
    end = next((entry for entry in reversed(history) if "best_step" in entry), None)
    best = _best_entry(evaluated, end)
    content: dict[str, Any] = {
        "title": name,
        "lead": _lead(settings, classes, finished=end is not None),
        "tiles": _tiles(evaluated, end, best),
        "learning_curves": Markup(learning_curves_svg(evaluated)) if evaluated else None,
        "results": _results(evaluated, end, best) if end is not None else None,
        "classes": classes,
        "evaluation": evaluation,
        "evaluation_count": len(evaluated),
        "history": _history(evaluated),
        "settings": [
            (key, json.dumps(value)) for key, value in sorted(settings.items()) if value is not None
        ],
    }
    if evaluation is not None:
        content["confusion"] = Markup(confusion_svg(evaluation))
        content["class_scores"] = _class_scores(evaluation)
        content["classes_left_out"] = max(len(evaluation.classes) - _MAX_CLASSES, 0)
        content["calibration"] = _calibration(evaluation)
    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.jinja").render(content)


def _lead(settings: Mapping[str, Any], classes: Sequence[str], *, finished: bool) -> str:
    model, data = settings.get("model.name", "model"), settings.get("data.name", "")
    source = settings.get("data.dir") if data == "folder" else data
    lead = f"{model} on {source}, {len(classes):,} classes" if source else str(model)
    return lead if finished else f"{lead}. This run has not finished yet."


def _best_entry(evaluated: Sequence[Entry], end: Entry | None) -> Entry | None:
    """The evaluation of the best checkpoint."""
    if end is not None:
        return next((entry for entry in evaluated if entry["step"] == end["best_step"]), None)
    key = f"val_{next(iter(_accuracies(evaluated)))}"
    scored = [entry for entry in evaluated if key in entry]
    return max(scored, key=lambda entry: entry[key], default=None)


def _accuracies(evaluated: Sequence[Entry]) -> dict[str, str]:
    """Key and name of each accuracy to show, first the one that chooses the best checkpoint."""
    if any("val_map" in entry for entry in evaluated):
        return {"map": "mAP"}  # top-1 says little about images with any number of classes
    return {"top1": "top-1", "top5": "top-5"}


def _tiles(
    evaluated: Sequence[Entry], end: Entry | None, best: Entry | None
) -> dict[str, str | None]:
    """The run's main figures by name; None for one that is not known."""
    last = evaluated[-1] if evaluated else None
    key, name = next(iter(_accuracies(evaluated).items()))
    rates = sorted(entry["images_per_second"] for entry in evaluated)
    return {
        f"test {name}": _percent(end, f"test_{key}"),
        f"validation {name}, best": _percent(best, f"val_{key}"),
        f"training {name}, last": _percent(last, f"train_{key}"),
        "epochs": f"{last['epoch']:g}" if last else None,
        "time": _duration(last["time"]) if last else None,
        "images per second": f"{rates[len(rates) // 2]:,.0f}" if rates else None,
    }


def _results(evaluated: Sequence[Entry], end: Entry, best: Entry | None) -> Table:
    """Scores of the best and the last checkpoint; only the best one's test scores are known."""
    accuracies = _accuracies(evaluated)
    columns = ["checkpoint", "step", "epoch"]
    for split in ("val", "test"):
        columns += [f"{split} {name}" for name in ("loss", *accuracies.values())]
    rows = []
    for name, entry in {"best": best, "last": evaluated[-1] if evaluated else None}.items():
        if entry is None:
            continue
        test = end if entry is best else None
        rows.append([
            name, f"{entry['step']:,}", f"{entry['epoch']:g}",
            _number(entry, "val_loss"), *(_percent(entry, f"val_{key}") for key in accuracies),
            _number(test, "test_loss"), *(_percent(test, f"test_{key}") for key in accuracies),
        ])  # fmt: skip
    return columns, rows


def _class_scores(evaluation: Evaluation) -> Table:
    scores = zip(
        evaluation.classes, evaluation.support, evaluation.precision, evaluation.recall,
        evaluation.f1, strict=True,
    )  # fmt: skip
    rows = [
        [name, f"{support:,}", *(f"{fraction:.1%}" for fraction in fractions)]
        for name, support, *fractions in scores
    ]
    return ("class", "images", "precision", "recall", "F1"), rows[:_MAX_CLASSES]


def _calibration(evaluation: Evaluation) -> Table:
    rows = [
        ("as trained", "1", f"{evaluation.calibration_error:.2%}"),
        (
            f"fitted on {evaluation.temperature_from}",
            f"{evaluation.temperature:.3f}",
            f"{evaluation.calibrated_error:.2%}",
        ),
    ]
    return ("temperature", "logits divided by", "expected calibration error"), rows


def _history(evaluated: Sequence[Entry]) -> Table:
    """Evaluations at equal distances, the last among them."""
    stride = math.ceil(len(evaluated) / _MAX_ENTRIES) or 1
    key, name = next(iter(_accuracies(evaluated).items()))
    rows = [
        (
            f"{entry['epoch']:g}", f"{entry['step']:,}", _number(entry, "train_loss"),
            _percent(entry, "train_top1"), _number(entry, "val_loss"),
            _percent(entry, f"val_{key}"),
            f"{entry['learning_rate']:.3g}", f"{entry['images_per_second']:,.0f}",
            f"{entry['data_wait']:.0%}",
        )
        for entry in evaluated[::-1][::stride][::-1]
    ]  # fmt: skip
    columns = ("epoch", "step", "train loss", "train top-1", "val loss", f"val {name}",
               "learning rate", "images/s", "data wait")  # fmt: skip
    return columns, rows


def _percent(entry: Entry | None, key: str) -> str | None:
    return f"{entry[key]:.2%}" if entry and entry.get(key) is not None else None


def _number(entry: Entry | None, key: str) -> str | None:
    return f"{entry[key]:.4f}" if entry and entry.get(key) is not None else None


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
