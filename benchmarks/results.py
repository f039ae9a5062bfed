"""Records of finished runs, and the part of docs/results.md that is written from them.

    python -m benchmarks.results record RUN NAME [--commit COMMIT]
    python -m benchmarks.results render

``record`` copies the history of a run, or of the seeds in a folder of ``flax-resnet reproduce``,
``study`` or ``benchmarks.comparisons``, to docs/results/NAME/SEED, with what decides its numbers
and where it was trained. NAME is a row of ``flax-resnet reproduce``, STUDY/ROW or COMPARISON/ROW.
"""

import argparse
from pathlib import Path

import flax_resnet as fr
from benchmarks import results_page
from benchmarks.comparisons import COMPARISONS
from benchmarks.results_page import BEGIN, END
from flax_resnet.errors import UserError
from flax_resnet.output_files import open_text
from flax_resnet.results.records import (
    HISTORY,
    differing_settings,
    read_records,
    record_of,
    write_record,
)
from flax_resnet.results.rows import ROWS, find_row
from flax_resnet.results.studies import STUDIES, with_budget

DOCS = Path(__file__).resolve().parents[1] / "docs"
RECORDS, PAGE = DOCS / "results", DOCS / "results.md"


def all_rows():
    """Return every row that can be recorded, by name."""
    studies = {f"{s.name}/{row.name}": row for s in STUDIES.values() for row in s.rows}
    compared = {
        f"{name}/{row.name}": row
        for name, comparison in COMPARISONS.items()
        for row in comparison.rows
        if row.name not in ROWS
    }
    return ROWS | studies | compared


def record(run, name, commit=None, records=RECORDS):
    """Write the record of a run, or of each run in a folder; return their folders."""
    row = find_row(name, all_rows())
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
            # Some rows need a folder of data, which decides no numbers: any name will do.
            config = row.config(found.seed, "data")
            differing = differing_settings(row, config, found.settings)
            if differing:
                raise UserError(f"{folder} differs from {name} in {', '.join(differing)}.")
        found.about["command"] = row.command(found.seed)
        if found.settings["evaluate_flipped"]:
            found.about["without_mirror_images"] = without_mirror_images(folder)
        target = records / name / str(found.seed)
        write_record(found, folder, target)
        written.append(target)
    return written


def without_mirror_images(run):
    """Return the top-1 accuracies of a run's images alone, by split."""
    classifier = fr.load(run)
    splits = ("validation", "test")
    return {split: classifier.evaluate(split=split).result.top1 for split in splits}


def render(records=RECORDS):
    """Return the part of the page that is written."""
    held = {name: read_records(records / name) for name in all_rows()}
    return results_page.render({name: found for name, found in held.items() if found})


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
