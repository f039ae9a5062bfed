"""The part of docs/results.md that is written from the records of runs."""

import json
from pathlib import Path
from statistics import fmean

from benchmarks.comparisons import COMPARISONS
from benchmarks.cpu.report import best_peer, median_times
from flax_resnet.config import load_config
from flax_resnet.errors import UserError
from flax_resnet.results.rows import ROWS, options_of
from flax_resnet.results.runs import KINDS, judge, mean_accuracy
from flax_resnet.results.scores import mean_of
from flax_resnet.results.studies import STUDIES, study_table

SPEED = Path(__file__).resolve().parents[1] / "docs" / "performance.json"
BEGIN = "<!-- Written by python -m benchmarks.results render: do not edit. -->"
END = "<!-- End of what is written. -->"
NONE = "–"


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


def render(held):
    """Return the part of the page that is written from records, by name."""
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
        *(f"{ROWS[name].command(0)} --workdir runs/{name}" for name in measured),
        "```",
        "",
        *_without_mirror_images(held),
        *_time_to_91_percent(held),
        *_comparisons(held),
        *_studies(held),
        "### Not run here",
        "",
        "What others published for these recipes, and the time of a seed on two CPU cores with\n"
        "AVX2 and the native package, estimated from the speed of a step.",
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


def _without_mirror_images(held):
    key = "without_mirror_images"
    rows = {name: held[name] for name in ROWS if name in held and key in held[name][0].about}
    if not rows:
        return
    yield from ("### Without mirror images", "")
    yield "These rows are evaluated on the mean logits of each image and its mirror image. Of the"
    yield "image alone the best checkpoints have:"
    yield ""
    lines = []
    for name, found in rows.items():
        means = [
            mean_of([one.about[key][split] for one in found], found[0].about["images"][split])
            for split in ("validation", "test")
        ]
        lines.append([f"`{name}`", *map(str, means)])
    yield table(["row", "validation", "test"], lines)
    yield ""


def _time_to_91_percent(held):
    """Of the validation images; the paper's recipe beside PyTorch's time for the same epochs."""
    speeds = json.loads(SPEED.read_text(encoding="utf-8"))
    measured = {m: f["resnet20_train"] for m, f in speeds.items() if "resnet20_train" in f}
    machine, figures = list(measured.items())[-1]
    found = median_times(figures)
    peer, theirs = best_peer(found)
    ours = found["ours, with oneDNN"]
    steps = 45_000 / load_config("resnet20_cifar").data.batch_size  # of an epoch
    lines = []
    for who, seconds in ((f"extrapolated for {peer}", theirs), ("extrapolated", ours)):
        cells = _first_at_91_percent(held.get("resnet20_cifar", []), steps * seconds)
        lines.append([f"`resnet20_cifar`, {who}", *cells])
    for name in ("cifar_fast", "resnet9_small", "resnet9_cifar"):
        lines.append([f"`{name}`, as it ran", *_first_at_91_percent(held.get(name, []))])
    yield from ("### Time to 91% of the validation images", "")
    yield (
        "The paper's recipe is extrapolated, because its run shared the machine with much else:\n"
        "its epochs until then, times the duration of a train step of resnet20 with 128 images\n"
        f"([speed](performance.md), {machine}): {1000 * ours:.0f} ms with `flax-resnet-onednn`,\n"
        f"and {1000 * theirs:.0f} ms in {peer} with equal settings of the allocator.\n"
        "The others ran on one core each, shared with other work."
    )
    yield ""
    yield table(["recipe", "epochs", "time"], lines)
    yield ""


def _first_at_91_percent(records, seconds_of_epoch=None):
    """Return the mean epoch of the seeds and the time, as they ran or at ``seconds_of_epoch``."""
    first = [next((e for e in r.evaluations if e["val_top1"] >= 0.91), None) for r in records]
    if not records or None in first:
        return "not reached", NONE
    epochs, seconds = (fmean(line[key] for line in first) for key in ("epoch", "time"))
    if seconds_of_epoch is not None:
        seconds = epochs * seconds_of_epoch
    return f"{epochs:.1f}", f"{seconds / 3600:.1f} hours"


def _comparisons(held):
    for name, comparison in COMPARISONS.items():
        found = {
            row.name: records
            for row in comparison.rows
            if (records := held.get(f"{name}/{row.name}") or held.get(row.name))
        }
        # A comparison's own runs, not only those that stand in the table above.
        if not set(found) - set(ROWS):
            continue
        yield from (f"### Comparison: {comparison.title}", "")
        yield f"`python -m benchmarks.comparisons {name}`" + (
            ": the options of a row are added to those of the row that its gain is over."
            if comparison.bases
            else ": the options of a row are added to those of the first."
        )
        options = options_by_row(comparison)
        means = {row: mean_accuracy(records, "val", "last") for row, records in found.items()}
        lines = []
        for row, records in found.items():
            line = [row, f"`{options[row]}`", str(means[row])]
            if comparison.bases:
                line.append(_gain(means, row, comparison.bases.get(row)))
            lines.append([*line, *accuracies(records)[2:3], *cost(records)])
        gain = ["gain"] * bool(comparison.bases)
        yield ""
        yield table(["row", "options", "validation, last", *gain, "test, best", *COSTS], lines)
        yield ""


def _gain(means, row, base):
    if base not in means:
        return NONE
    return f"{100 * (means[row].value - means[base].value):+.2f} over {base}"


def options_by_row(comparison):
    """Return by name the command of the first row, and the options that each other row adds to its
    base in a ladder, to the first row otherwise."""
    first, *others = comparison.rows
    rows = {row.name: row for row in comparison.rows}
    options = {first.name: first.command()}
    for row in others:
        before = rows[comparison.bases.get(row.name, first.name)].settings
        options[row.name] = options_of(
            {n: v for n, v in row.settings.items() if before.get(n, row) != v}
        )
    return options


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
