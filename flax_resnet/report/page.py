"""A run's page, ``report/index.html``: one file without any other, to keep and to send.

The folder also holds what the page is written from: ``evaluation.json``, ``images.npz``
(``outcomes``), ``data.json`` (``data_sheet``) and ``environment.json``; and a PNG of each plot.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..metrics import Evaluation, MultiLabelEvaluation
from ..text_files import read_run_file
from . import page_tables as tables
from .data_sheet import DataSheet, read_data_sheet
from .environment import python_command, read_environment
from .evaluation import read_evaluation, write_evaluation
from .history import Entry, read_history
from .outcomes import Outcomes, read_outcomes, write_outcomes
from .page_data import evaluation_data
from .page_model import run_model
from .plots import write_plots
from .rendering import write_html
from .run_profile import COLUMNS, RunProfile, read_profile

FOLDER = "report"
EVALUATION, OUTCOMES = "evaluation.json", "images.npz"
_SCRIPTS = ("charts.js", "page.js")
_SMALL = 72  # pixels; smaller images are enlarged without smoothing


def write_page(
    workdir: Path,
    evaluation: Evaluation | MultiLabelEvaluation | None = None,
    outcomes: Outcomes | None = None,
) -> Path:
    """Write the page of a run from the files in its folder, and a PNG of each plot beside it.

    Args:
        workdir: The run's folder.
        evaluation: Figures of the images that the run was evaluated on. It is kept next to the
            page (``evaluation.json``), and is read from there if it is None.
        outcomes: The outcome of each of these images, kept and read in the same way
            (``images.npz``).

    Returns:
        The path of the page.

    Raises:
        UserError: The folder is not a run's, or the page cannot be written.
    """
    folder = workdir / FOLDER
    settings = read_run_file(workdir, "config.json")
    classes = read_run_file(workdir, "classes.json")
    history = read_history(workdir / "history.jsonl")
    if evaluation is not None:
        write_evaluation(folder / EVALUATION, evaluation)
        (folder / OUTCOMES).unlink(missing_ok=True)
        if outcomes is not None:
            write_outcomes(folder / OUTCOMES, outcomes)
    else:
        evaluation = read_evaluation(folder / EVALUATION)
        outcomes = read_outcomes(folder / OUTCOMES)
    sheet = read_data_sheet(folder)
    environment = read_environment(folder)
    profile = read_profile(folder)
    model, kernels = run_model(workdir, settings, classes)
    counts = {split: sum(found) for split, found in sheet.counts.items()} if sheet else {}
    if evaluation is not None and outcomes is not None:
        counts[outcomes.split] = evaluation.count
    evaluated, end, _ = tables.split_history(history)
    content = {
        "title": workdir.resolve().name,
        "lead": _lead(settings, classes),
        "warnings": _warnings(history, end, evaluation, outcomes),
        "tiles": tables.run_tiles(history, evaluation, counts),
        "history": evaluated,
        "results": tables.results_table(history),
        "history_rows": tables.history_table(history),
        "sheet": None if sheet is None else _sheet_content(sheet, classes),
        "model": model,
        "profile": None if profile is None else _profile_content(profile),
        "recipe": environment.get("recipe"),
        "command": environment.get("command") or python_command(settings),
        "environment": _environment_rows(environment),
        "settings": [
            (key, json.dumps(value)) for key, value in sorted(settings.items()) if value is not None
        ],
    }
    path = folder / "index.html"
    _write(path, content, classes, evaluated, evaluation, outcomes)
    single = evaluation if isinstance(evaluation, Evaluation) else None
    write_plots(folder, evaluated, single, outcomes, sheet, kernels)
    return path


def write_evaluation_page(
    path: Path,
    title: str,
    evaluation: Evaluation | MultiLabelEvaluation,
    outcomes: Outcomes | None,
    model: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> None:
    """Write the page of an evaluation that belongs to no run.

    Args:
        path: The page's file.
        title: Its heading, such as the name of the weights.
        evaluation: The figures.
        outcomes: The outcome of each image; None where images can have any number of classes.
        model: See ``page_model.model_section``.
        environment: See ``environment.describe_environment``.

    Raises:
        UserError: The page cannot be written.
    """
    environment = environment or {}
    content = {
        "title": title,
        "lead": f"Evaluated on {evaluation.name}, {len(evaluation.classes):,} classes.",
        "warnings": [],
        "tiles": tables.evaluation_tiles(evaluation),
        "history": [],
        "results": None,
        "history_rows": None,
        "sheet": None,
        "model": model,
        "profile": None,
        "recipe": None,
        "command": environment.get("command"),
        "environment": _environment_rows(environment),
        "settings": [],
    }
    _write(path, content, evaluation.classes, [], evaluation, outcomes)


def _write(
    path: Path,
    content: dict[str, Any],
    classes: Sequence[str],
    history: Sequence[Entry],
    evaluation: Evaluation | MultiLabelEvaluation | None,
    outcomes: Outcomes | None,
) -> None:
    data: dict[str, Any] = {"name": content["title"], "classes": classes, "history": history}
    content |= {"classes": classes, "evaluation": evaluation, "unreadable": {}}
    if evaluation is not None:
        content |= {
            "class_scores": tables.class_table(evaluation),
            "classes_left_out": max(len(evaluation.classes) - tables.MAX_CLASSES, 0),
            "multi_label": isinstance(evaluation, MultiLabelEvaluation),
        }
    if isinstance(evaluation, Evaluation):
        data |= evaluation_data(evaluation, outcomes)
        content |= {
            "pairs": tables.pair_rows(evaluation),
            "calibration": tables.calibration_table(evaluation),
            "mistakes": data.get("mistakes"),
            "hits": data.get("hits"),
            "has_heat": outcomes is not None and bool(outcomes.heat_maps),
            "reliability": "reliability" in data,
            "unreadable": {} if outcomes is None else outcomes.unreadable,
        }
    content["sections"] = _sections(content)
    write_html(path, "page.html.jinja", _SCRIPTS, data, content)


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the anchors and names of the sections that a page has."""
    found = {
        "curves": content["history"],
        "results": content["results"],
        "confusion": content.get("calibration"),
        "photos": content.get("mistakes") or content.get("hits"),
        "classes": True,
        "calibration": content.get("calibration"),
        "unreadable": content["unreadable"],
        "data": content["sheet"],
        "model": content["model"],
        "time": content["profile"],
        "run": True,
    }
    names = {"run": "Repeat", "unreadable": "Left out"}
    return [
        (f"section-{key}", names.get(key, key.capitalize()))
        for key, shown in found.items()
        if shown
    ]


def _lead(settings: Mapping[str, Any], classes: Sequence[str]) -> str:
    model, data = settings.get("model.name", "model"), settings.get("data.name", "")
    source = settings.get("data.dir") if data == "folder" else data
    count = f"{len(classes):,} {'class' if len(classes) == 1 else 'classes'}"
    return f"{model} on {source}, {count}" if source else str(model)


def _warnings(
    history: Sequence[Entry],
    end: Entry | None,
    evaluation: Evaluation | MultiLabelEvaluation | None,
    outcomes: Outcomes | None,
) -> list[str]:
    """Return what a reader must know of a run that is not as usual."""
    found = []
    if end is None:
        step = f"; its last evaluation is of step {history[-1]['step']:,}" if history else ""
        found.append(f"This run has not finished yet{step}.")
        if evaluation is None:
            found.append(
                "It was not evaluated on test images: flax-resnet report --evaluate evaluates its "
                "best checkpoint so far."
            )
    elif evaluation is None:
        found.append("There is no confusion matrix: no evaluation of single images was kept.")
    if evaluation is not None and evaluation.count < 100:
        images = "image" if evaluation.count == 1 else "images"
        found.append(f"All figures are of {evaluation.count} {images} only: they are rough.")
    if outcomes is not None and outcomes.split != "test":
        found.append(
            f"There are no test images: the figures are of {outcomes.split} images, by which the "
            "best checkpoint was chosen."
            if outcomes.split == "validation"
            else f"The figures are of {outcomes.split} images."
        )
    return found


def _profile_content(profile: RunProfile) -> dict[str, Any]:
    title = profile.title
    return {"lead": f"{title[0].upper()}{title[1:]}.", "table": (COLUMNS, profile.rows())}


def _environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not environment:
        return []
    rows = [
        (name, str(environment[name]))
        for name in ("devices", "processes", "system", "commit")
        if environment.get(name)
    ]
    return rows + [(name, str(one)) for name, one in environment.get("versions", {}).items()]


def _sheet_content(sheet: DataSheet, classes: Sequence[str]) -> dict[str, Any]:
    sizes = {split: sum(counts) for split, counts in sheet.counts.items()}
    parts = ", ".join(f"{count:,} {split}" for split, count in sizes.items())
    shape = "×".join(map(str, sheet.image_shape))
    training = sheet.counts["train"]
    balance = ""
    if len(training) > 1 and max(training) > min(training):
        ratio = f"{max(training) / min(training):.1f} times" if min(training) else "all"
        balance = f" The largest class has {ratio} the training images of the smallest."
    columns = ["class", *sheet.counts, "of the training images"]
    total = max(sum(training), 1)
    rows = [
        [
            name,
            *(
                tables.number(sheet.counts[split][n], f"{sheet.counts[split][n]:,}")
                for split in sizes
            ),
            tables.number(training[n], f"{training[n] / total:.1%}"),
        ]
        for n, name in enumerate(classes[: tables.MAX_CLASSES])
    ]
    bad = f" {len(sheet.bad):,} files cannot be read." if sheet.bad else ""
    return {
        "lead": f"{sheet.name}: {parts} images of {shape}.{balance}{bad}",
        "notes": sheet.notes,
        "counts": (columns, rows),
        "samples": sheet.samples,
        "augmented": any(versions for _, _, versions in sheet.samples),
        "small": "small" if max(sheet.image_shape[:2]) < _SMALL else "",
    }
