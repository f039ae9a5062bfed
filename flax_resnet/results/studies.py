"""Studies: architectures that are trained equally, drawn beside what their papers found."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import load_config
from ..errors import UserError
from ..report.study_page import Curve, write_study_page
from .records import RunRecord, histories_of
from .rows import FIGURE_6, PAPER, Published, Row
from .runs import SPLITS, mean_accuracy, train_row

RECIPE = "resnet20_cifar"


@dataclass(frozen=True)
class Study:
    """A comparison of architectures.

    Attributes:
        name: Its name.
        title: What is compared.
        finding: What the paper found, in a sentence with its source.
        rows: An architecture each.
    """

    name: str
    title: str
    finding: str
    rows: tuple[Row, ...]


def _row(name: str, accuracy: float | None = None, source: str = PAPER, **model: Any) -> Row:
    """An architecture, with the accuracy of the paper in percent."""
    settings = {"model.name": name} | {f"model.{key}": value for key, value in model.items()}
    paper = None if accuracy is None else Published(accuracy / 100, source)
    return Row(name, RECIPE, settings, paper=paper, judged_by="val")


def _variant(row: Row, name: str) -> Row:
    return dataclasses.replace(row, name=name)


_RESNEXT: dict[str, Any] = {"stage_sizes": (2, 2, 2), "widths": (32, 64, 128)}

STUDIES = {
    study.name: study
    for study in (
        Study(
            "degradation",
            "plain nets and residual nets at 20 and 56 layers",
            "He et al. 2015, figure 6: a plain net of 56 layers is worse than one of 20, also on "
            "the training images, and a residual net of 56 is better than one of 20.",
            (
                _row("plain20", 91.0, FIGURE_6),
                _row("plain56", 87.0, FIGURE_6),
                _row("resnet20", 91.25),
                _row("resnet56", 93.03),
            ),
        ),
        Study(
            "shortcuts",
            "shortcuts A, B and C where the shape changes",
            "He et al. 2015, table 3 (ImageNet, 34 layers): B is slightly better than A, and C "
            "than B; the differences are small.",
            tuple(_variant(_row("resnet20", shortcut=kind), f"resnet20_{kind}") for kind in "ABC"),
        ),
        Study(
            "cardinality",
            "groups of a bottleneck at equal cost",
            "Xie et al. 2017, table 3 (ImageNet, 50 layers): the error falls from 23.9% with one "
            "group to 22.2% with 32, at the same cost.",
            tuple(
                _variant(
                    _row("resnext29_32x4d", groups=groups, width_per_group=width, **_RESNEXT),
                    f"{groups}x{width}d",
                )
                for groups, width in ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4))
            ),
        ),
        Study(
            "depth",
            "residual nets of 20 to 110 layers",
            "He et al. 2015, table 6: deeper is better, from 91.25% with 20 layers to 93.57% with "
            "110.",
            (
                _row("resnet20", 91.25),
                _row("resnet32", 92.49),
                _row("resnet44", 92.83),
                _row("resnet56", 93.03),
                _row("resnet110", 93.57),
            ),
        ),
    )
}


def find_study(name: str) -> Study:
    """Return a study.

    Raises:
        UserError: There is none of that name.
    """
    if name not in STUDIES:
        raise UserError(f"There is no study {name!r}: choose {', '.join(STUDIES)}.", exit_code=2)
    return STUDIES[name]


def with_budget(row: Row, epochs: int) -> Row:
    """Return a row that trains for another number of epochs, with its milestones in proportion."""
    recipe = load_config(row.recipe or RECIPE)
    factor = epochs / recipe.epochs
    milestones = [round(factor * epoch, 2) for epoch in recipe.optimizer.milestones]
    settings = {**row.settings, "epochs": epochs, "optimizer.milestones": milestones}
    return dataclasses.replace(row, settings=settings)


def train_study(
    study: Study,
    seeds: Sequence[int],
    folder: Path,
    *,
    budget: int,
    data_dir: str | None = None,
    max_steps: int | None = None,
) -> bool:
    """Train the architectures of a study in ``FOLDER/ROW/SEED``, seed by seed.

    Args:
        study: The study.
        seeds: The seeds; all architectures are trained with one before the next.
        folder: The folder of the runs.
        budget: Epochs of each run.
        data_dir: The folder of the data, as for ``data.dir``.
        max_steps: Stop each run after so many steps, to try the command out.

    Returns:
        Whether all are done: False if a signal stopped a run, which resumes when this is called
        again.

    Raises:
        UserError: The data are missing, or a folder holds a run with other settings.
    """
    rows = [with_budget(row, budget) for row in study.rows]
    return all(
        train_row(row, [seed], folder / row.name, data_dir=data_dir, max_steps=max_steps)
        for seed in seeds
        for row in rows
    )


def write_study(study: Study, seeds: Sequence[int], folder: Path, budget: int) -> Path | None:
    """Write the page of a study from its finished runs.

    Returns:
        The path of the page; None if no run is finished.

    Raises:
        UserError: A file cannot be read or written.
    """
    found = {row.name: histories_of(folder / row.name, seeds) for row in study.rows}
    rows = [row for row in study.rows if found[row.name]]
    if not rows:
        return None
    path = folder / "index.html"
    write_study_page(
        path,
        study.title,
        f"{budget:g} of the {load_config(RECIPE).epochs} epochs of {RECIPE}, on CIFAR-10; "
        f"{len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}. Accuracies are means ± standard "
        "errors over the seeds.",
        study.finding,
        [
            Curve(
                row.name,
                [record.evaluations for record in found[row.name]],
                row.paper.accuracy if row.paper else None,
            )
            for row in rows
        ],
        study_table(rows, found),
        [with_budget(row, budget).command(0) for row in rows],
    )
    return path


def study_table(
    rows: Sequence[Row], found: Mapping[str, Sequence[RunRecord]]
) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of the table of a study.

    Args:
        rows: Its architectures.
        found: Their records by name.
    """
    kinds = [("train", "last"), ("val", "last"), ("test", "best")]
    lines = []
    for row in rows:
        means = [mean_accuracy(found[row.name], *kind) for kind in kinds]
        paper = f"{row.paper.accuracy:.2%}" if row.paper else "–"
        seeds = f"{len(found[row.name])}"
        lines.append([row.name, *("–" if m is None else str(m) for m in means), paper, seeds])
    return ["net", *(f"{SPLITS[s]}, {w}" for s, w in kinds), "paper, test", "seeds"], lines
