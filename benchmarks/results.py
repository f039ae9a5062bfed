"""Records of finished runs, and the part of docs/results.md that is written from them.

    python -m benchmarks.results record RUN NAME [--commit COMMIT]
    python -m benchmarks.results render

``record`` copies the history of a run, or of the seeds in a folder of ``flax-resnet reproduce``,
``study`` or ``benchmarks.ladder``, to docs/results/NAME/SEED, with what decides its numbers and
where it was trained. NAME is a row of ``flax-resnet reproduce``, STUDY/ROW or ladder/RUNG.
"""

import argparse
from pathlib import Path

from benchmarks.ladder import LADDERS
from flax_resnet.errors import UserError
from flax_resnet.output_files import open_text
from flax_resnet.results.records import (
    HISTORY,
    differing_settings,
    read_records,
    record_of,
    write_record,
)
from flax_resnet.results.rows import ROWS, find_row, options_of
from flax_resnet.results.runs import KINDS, judge, mean_accuracy
from flax_resnet.results.studies import STUDIES, study_table, with_budget

DOCS = Path(__file__).resolve().parents[1] / "docs"
RECORDS, PAGE = DOCS / "results", DOCS / "results.md"
BEGIN = "<!-- Written by python -m benchmarks.results render: do not edit. -->"
END = "<!-- End of what is written. -->"
NONE = "–"


def all_rows():
    """Return every row that can be recorded, by name."""
    studies = {f"{s.name}/{row.name}": row for s in STUDIES.values() for row in s.rows}
    ladders = {f"{name}/{row.name}": row for name, rungs in LADDERS.items() for row in rungs}
    return ROWS | studies | ladders


def record(run, name, commit=None, records=RECORDS):
    """Write the record of a run, or of each run in a folder; return their folders."""
    row = all_rows().get(name) or find_row(name)
    folders = (
        [run] if (run / HISTORY).exists() else sorted(p.parent for p in run.glob(f"*/{HISTORY}"))
    )
    if not folders:
        raise UserError(f"There is no run in {run}.")
    written = []
    for folder in folders:
        found = record_of(folder, "", commit)
        if name.partition("/")[0] in STUDIES:
            row = with_budget(row, found.settings["epochs"])
        if row.recipe is not None:  # fine-tuning depends on the weights, which are not here
            differing = differing_settings(row, row.config(found.seed), found.settings)
            if differing:
                raise UserError(f"{folder} differs from {name} in {', '.join(differing)}.")
        found.about["command"] = row.command(found.seed)
        target = records / name / str(found.seed)
        write_record(found, folder, target)
        written.append(target)
    return written


def table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def published(one):
    if one is None:
        return NONE
    source, _, more = one.source.partition(", ")
    if source.startswith("https://"):
        return f"[{one.accuracy:.2%}]({source}){', ' + more if more else ''}"
    return f"{one.accuracy:.2%} ({one.source})"


def accuracies(records):
    found = (mean_accuracy(records, *kind) for kind in KINDS)
    return [NONE if mean is None else str(mean) for mean in found]


def cost(records):
    """Return epochs, seeds, images/s, time and PFLOP of the seeds' runs."""
    count = len(records)
    rates = [one.images_per_second for one in records]
    pflop = [one.pflop for one in records]
    return [
        f"{records[0].settings['epochs']:g}",
        f"{count}",
        NONE if None in rates else f"{sum(rates) / count:,.0f}",
        f"{sum(one.seconds for one in records) / count:,.0f} s",
        NONE if None in pflop else f"{sum(pflop) / count:.3g}",
    ]


def where(records):
    """Return the processors and commits of runs."""
    found = [one.about["processor"] for one in records]
    processors = {
        f"{one['name']}, {one['cores']} core{'s' * (one['cores'] != 1)}"
        f" ({', '.join(one['features'])})"
        for one in found
    }
    commits = {one.about["commit"].partition("-")[0][:12] for one in records}
    moved = any("earlier" in one.about for one in records)
    return [
        "; ".join(sorted(processors)) + (", moved" if moved else ""),
        ", ".join(f"`{commit}`" for commit in sorted(commits)),
    ]


COSTS = ["epochs", "seeds", "images/s", "time of a seed", "PFLOP of a seed"]
SCORES = ["validation, best", "validation, last", "test, best", "test, last"]


def render(records=RECORDS):
    """Return the part of the page."""
    held = {name: read_records(records / name) for name in all_rows()}
    held = {name: found for name, found in held.items() if found}
    measured = [name for name in ROWS if name in held]
    text = [
        "## Training",
        "",
        "Each row is trained by `flax-resnet reproduce` and its name, which resumes. Accuracies\n"
        "are top-1, means ± standard errors over the seeds, or of one seed ± that of a binomial\n"
        "proportion. The best checkpoint is that of the validation images, which come from the\n"
        "training images; the test images were looked at once, at the end. Times are of a whole\n"
        "run on a machine that other work shared, and PFLOP are 10^15 operations of training.",
        "",
        table(
            ["row", *SCORES, "asked", "paper", "best public"],
            [
                [
                    f"`{name}`",
                    *accuracies(held[name]),
                    *[(judge(ROWS[name], held[name]) or ("", NONE))[1]],
                    published(ROWS[name].paper),
                    published(ROWS[name].public),
                ]
                for name in measured
            ],
        ),
        "",
        table(
            ["row", *COSTS, "processor", "commit"],
            [[f"`{name}`", *cost(held[name]), *where(held[name])] for name in measured],
        ),
        "",
        "The commands of one seed:",
        "",
        "```bash",
        *(ROWS[name].command(0) for name in measured),
        "```",
        "",
        *_ladders(held),
        *_studies(held),
        "### Not run here",
        "",
        "What others published for these recipes, and the time of a seed on two CPU cores with\n"
        "AVX-512 and the native package, estimated from the speed of a step.",
        "",
        table(
            ["row", "trained by", "published", "best public", "seeds", "time of a seed"],
            [
                [
                    f"`{row.name}`",
                    f"`{row.command()}`",
                    published(row.paper),
                    published(row.public),
                    f"{row.seeds}",
                    row.cost,
                ]
                for row in ROWS.values()
                if row.name not in held
            ],
        ),
    ]
    return "\n".join([BEGIN, "", *text, "", END])


def _ladders(held):
    for name, rungs in LADDERS.items():
        rows = [row for row in rungs if f"{name}/{row.name}" in held]
        if not rows:
            continue
        found = {row.name: held[f"{name}/{row.name}"] for row in rows}
        yield from (f"### The ladder of {name}", "")
        yield f"`python -m benchmarks.ladder {name}`: each rung adds a setting to the one before."
        lines, before = [], None
        added = dict(zip((rung.name for rung in rungs), _added(rungs), strict=True))
        for row in rows:
            mean = mean_accuracy(found[row.name], "val", "last")
            gain = NONE if before is None or mean is None else f"{100 * (mean.value - before):+.2f}"
            scores = [str(mean), gain, *accuracies(found[row.name])[2:3]]
            lines.append([row.name, f"`{added[row.name]}`", *scores])
            lines[-1] += cost(found[row.name])
            before = mean.value if mean else before
        yield ""
        yield table(["rung", "adds", "validation, last", "gain", "test, best", *COSTS], lines)
        yield ""


def _added(rungs):
    """Return the options that each rung adds to the one before."""
    before = {}
    for rung in rungs:
        new = {n: v for n, v in rung.settings.items() if before.get(n, rung) != v}
        yield rung.command() if not before else options_of(new)
        before = rung.settings


def _studies(held):
    for study in STUDIES.values():
        rows = [row for row in study.rows if f"{study.name}/{row.name}" in held]
        if not rows:
            continue
        found = {row.name: held[f"{study.name}/{row.name}"] for row in rows}
        budgets = {one.settings["epochs"] for records in found.values() for one in records}
        if len(budgets) > 1:
            numbers = " and ".join(f"{budget:g}" for budget in sorted(budgets))
            raise UserError(
                f"The records of {study.name} are of {numbers} epochs, and one table needs one "
                "budget: remove those of the others."
            )
        (epochs,) = budgets
        columns, lines = study_table(rows, found)
        yield from (f"### Study: {study.title}", "")
        yield f"`flax-resnet study {study.name} --budget {epochs:g}`. {study.finding}"
        yield ""
        yield table(
            [*columns, "images/s", "time of a seed", "PFLOP of a seed", "processor", "commit"],
            [
                [*line, *cost(found[row.name])[2:], *where(found[row.name])]
                for row, line in zip(rows, lines, strict=True)
            ],
        )
        yield ""


def page(text, records=RECORDS):
    """Return the text of the page with its written part renewed."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + render(records) + after


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    recorder = actions.add_parser("record", help="keep the record of a run, or of a row's seeds")
    recorder.add_argument("run", type=Path)
    recorder.add_argument("name")
    recorder.add_argument("--commit", help="of a run that does not say it")
    actions.add_parser("render", help="write docs/results.md")
    options = parser.parse_args()
    try:
        if options.action == "record":
            for folder in record(options.run, options.name, options.commit):
                print(folder)
            return
        text = page(PAGE.read_text(encoding="utf-8"))
        with open_text(PAGE) as file:
            file.write(text)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
