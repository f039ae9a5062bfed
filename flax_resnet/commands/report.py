"""Commands that write pages: report, compare."""

import dataclasses
from typing import Any

import numpy as np

from ..errors import UserError
from ..storage import edited, locate
from .grammar import command
from .images import load_classifier, progress_bar
from .notes import print_notes


@command
def report_command(run: str, /, *, evaluate: bool = False) -> None:
    """Write the page of a run, report/index.html, again.

    Args:
        run: The run's folder.
        evaluate: First evaluate the best weights on the test images, for a run that was killed or
            whose page has no photos.
    """
    from ..report.page import FOLDER, write_page
    from ..weights import is_small

    folder = locate(run)
    if not evaluate:
        with edited(folder, FOLDER, is_small) as local:
            page = write_page(local)
        print(f"Open {folder / page.relative_to(local)}.")
        return

    from ..training.run_page import write_run_sheet

    classifier = load_classifier(run, None)
    if classifier.info.kind != "run":
        raise UserError(
            f"{run} is not a run's folder: use flax-resnet evaluate --page for weights."
        )
    with progress_bar() as bar:
        task = bar.add_task("evaluate", total=None)
        done = classifier.evaluate(
            # As the run's own scores are, beside which these stand.
            tta="flip" if classifier.info.settings.get("evaluate_flipped") else None,
            keep_outcomes=True,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print_notes(done.notes)
    name = f"{done.result.name} after step {classifier.info.step or 0:,}"
    with edited(folder, FOLDER, is_small) as local:
        write_run_sheet(local, classifier.info.settings)
        page = write_page(local, dataclasses.replace(done.result, name=name), done.outcomes)
    print(f"Open {folder / page.relative_to(local)}.")


@command
def compare_command(runs: tuple[str, ...], /, *, output: str = "compare.html") -> None:
    """Compare runs: curves, settings, and paired tests on the same images.

    Args:
        runs: Folders of two runs or more; the others are compared with the first.
        output: The page to write.
    """
    from rich.console import Console

    from ..report.compare import (
        RUN_COLUMNS,
        TEST_COLUMNS,
        paired_rows,
        read_compared_runs,
        run_rows,
        setting_differences,
        write_comparison,
    )
    from ..report.tables import text_table
    from ..weights import local_run

    found = read_compared_runs([local_run(locate(run)) for run in runs])
    console = Console(highlight=False)
    console.print(text_table("runs", RUN_COLUMNS, run_rows(found)))
    differences = [(name, *values) for name, values in setting_differences(found)]
    if differences:
        names = ("setting", *(run.name for run in found))
        console.print(text_table("settings that differ", names, differences))
    rows, notes = paired_rows(found)
    if rows:
        console.print(text_table("on the same images", TEST_COLUMNS, rows))
    print_notes(notes)
    path = locate(output)
    write_comparison(path, found)
    print(f"Open {path}.")


def write_model_page(path: str, name: str, classifier: Any, done: Any) -> None:
    """Write the page of an evaluation that ``classifier.evaluate`` returned, with its outcomes."""
    from ..models import summarize
    from ..report.environment import describe_environment
    from ..report.page import write_evaluation_page
    from ..report.page_model import model_section

    transform = classifier.transform
    kernel = None
    if classifier.info.kind != "onnx":  # whose weights are in its graph
        kernel = classifier.variables["params"].get("conv1", {}).get("kernel")
    kernels = None if kernel is None else np.asarray(kernel).transpose(3, 2, 0, 1)
    channels = transform.channels if kernels is None else kernels.shape[1]
    side = transform.model_size
    shape = (side or transform.height, side or transform.width, channels)
    section = model_section(
        summarize(classifier.model, shape), classifier.info.config.name, shape, kernels
    )
    environment = describe_environment()
    write_evaluation_page(locate(path), name, done.result, done.outcomes, section, environment)
    print(f"Open {path}.")
