"""Runs that differ in settings: the ladders behind two recipes, and sweeps of learning rates.

    python -m benchmarks.comparisons cifar_fast [--rows ROW ...] [--seeds 3] [--data-dir FOLDER]

Each run is kept in runs/comparisons/COMPARISON/ROW/SEED and resumes; finished ones are left as they
are. ``python -m benchmarks.results record runs/comparisons/COMPARISON/ROW COMPARISON/ROW`` keeps
its record.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flax_resnet.errors import UserError
from flax_resnet.results.rows import ROWS, Row, with_settings
from flax_resnet.results.runs import summarize_row, train_row
from flax_resnet.runtime import tune_cpu


@dataclass(frozen=True)
class Comparison:
    """Runs that differ in settings.

    Attributes:
        title: What is compared.
        rows: The runs. One that is a row of ``flax-resnet reproduce`` is recorded as that.
        bases: Of a ladder, for each row but the first the name of the one that it adds settings to,
            so that its gain is over that.
    """

    title: str
    rows: tuple[Row, ...]
    bases: Mapping[str, str] = field(default_factory=dict)


def ladder(title, first, *steps):
    """Return a comparison in which each row has the settings of those before it that were kept.

    Args:
        title: What is compared.
        first: The first row.
        steps: Of each further row its name, what it adds, and ``TRIED`` if that was not kept.
    """
    rows, bases, base = [first], {}, first
    for name, settings, *tried in steps:
        rows.append(with_settings(base, name, settings))
        bases[name] = base.name
        if not tried:
            base = rows[-1]
    return Comparison(title, tuple(rows), bases)


TRIED = "tried, and not kept"


_MIRROR = ("mirrored_shift", {"augment.crop_padding": 2, "augment.crop_fill": "mirror"})
_ALTERNATE = ("alternating_flip", {"augment.alternating_flip": True})
_SGDW = {"optimizer.name": "sgdw", "optimizer.weight_decay": 5e-4}
_MUON = {"optimizer.name": "muon", "optimizer.momentum": 0.9}
# A quarter of the recipe's epochs, so that a rung of three seeds takes half an hour of a core; the
# paper's rate falls after the same fractions of them as in the paper.
_PAPER_SHORTENED = {"epochs": 4, "optimizer.milestones": [2, 3], "evaluate_every": 4}
# A quarter of the operations and a third of the epochs of the recipe, so that a rung of three seeds
# takes half an hour of a core.
_HALF_AS_WIDE = {
    "model.widths": [16, 32, 128, 128],
    "model.stem_width": 24,
    "epochs": 4,
    "optimizer.warmup_epochs": 0.8,
    "optimizer.learning_rate": 0.8,
    "evaluate_flipped": False,
    "evaluate_every": 4,
}

# Rates in proportion to the root of the batch size.
_BATCH_64 = {
    "data.batch_size": 64,
    "optimizer.learning_rate": 0.035,
    "optimizer.sgd_learning_rate": 0.28,
}
_FOUR_EPOCHS = {"epochs": 4, "optimizer.warmup_epochs": 0.75, "evaluate_every": 2}
_RATES = Row(
    "rates",
    "resnet9_cifar",
    {
        **_HALF_AS_WIDE,
        "optimizer.momentum": 0.6,
        "optimizer.sgd_learning_rate": 0.4,
        "evaluate_every": 2,
    },
)

COMPARISONS = {
    "cifar_fast": ladder(
        "the ladder to cifar_fast, in 4 epochs",
        Row("paper_shortened", "resnet20_cifar", _PAPER_SHORTENED, seeds=3, judged_by="val"),
        (
            "triangular_rate",
            {
                "optimizer.nesterov": True,
                "optimizer.schedule": "linear",
                "optimizer.milestones": [],
                "optimizer.warmup_epochs": 0.75,
                "optimizer.learning_rate": 0.2,
            },
        ),
        (
            "kernel_decay",
            {"optimizer.weight_decay": 5e-4, "optimizer.decay_all": False},
        ),
        _MIRROR,
        _ALTERNATE,
        ("norm_momentum", {"model.momentum": 0.8}),
        ("decoupled_decay", _SGDW, TRIED),
        ("bias_rate", {**_SGDW, "optimizer.bias_rate": 16.0}, TRIED),
        (
            "muon",
            {
                **_MUON,
                "optimizer.learning_rate": 0.05,
                "optimizer.sgd_learning_rate": 0.4,
                "optimizer.weight_decay": 0.02,
            },
        ),
        ("label_smoothing", {"label_smoothing": 0.1}, TRIED),
        ("averaged_weights", {"ema_decay": 0.99}, TRIED),
        (
            "batch_512",
            {
                "data.batch_size": 512,
                "optimizer.learning_rate": 0.1,
                "optimizer.sgd_learning_rate": 0.8,
            },
            TRIED,
        ),
        ("small_images", {"data.train_sizes": [[0, 24], [2, 32]]}, TRIED),
        ("whitened_stem", {"whitened_stem": True}, TRIED),
    ),
    "resnet9_cifar": ladder(
        "the ladder to resnet9_cifar, with half the widths in 4 epochs",
        Row(
            "sgd",
            "resnet9_cifar",
            {
                **_HALF_AS_WIDE,
                "optimizer.name": "sgd",
                "optimizer.weight_decay": 5e-4,
                "augment.crop_padding": 4,
                "augment.crop_fill": "constant",
                "augment.alternating_flip": False,
                "model.momentum": None,
                "label_smoothing": 0.0,
                "whitened_stem": False,
            },
            seeds=3,
            judged_by="val",
        ),
        _MIRROR,
        _ALTERNATE,
        ("label_smoothing", {"label_smoothing": 0.2}),
        ("norm_momentum", {"model.momentum": 0.6}),
        (
            "muon",
            {
                "optimizer.name": "muon",
                "optimizer.learning_rate": 0.24,
                "optimizer.weight_decay": 0.02,
            },
        ),
        ("whitened_stem", {"whitened_stem": True}),
        ("averaged_weights", {"ema_decay": 0.95}, TRIED),
        ("small_images", {"data.train_sizes": [[0, 24], [2, 32]]}, TRIED),
    ),
    "resnet9_rates": Comparison(
        "rates of resnet9_cifar, with half the widths in 4 epochs",
        tuple(
            with_settings(_RATES, name, settings)
            for name, settings in {
                "muon_0.08": {"optimizer.learning_rate": 0.08},
                "muon_0.16": {"optimizer.learning_rate": 0.16},
                "muon_0.32": {"optimizer.learning_rate": 0.32},
                "sgd_1.2": {
                    "optimizer.learning_rate": 0.16,
                    "optimizer.sgd_learning_rate": 1.2,
                },
                "not_whitened": {"optimizer.learning_rate": 0.16, "whitened_stem": False},
                "momentum_0.16": {"optimizer.learning_rate": 0.16, "optimizer.momentum": 0.9},
                "momentum_0.24": {"optimizer.learning_rate": 0.24, "optimizer.momentum": 0.9},
                "small_images": {
                    "optimizer.learning_rate": 0.16,
                    "optimizer.momentum": 0.9,
                    "data.train_sizes": [[0, 24], [2, 32]],
                    "epochs": 5,
                    "optimizer.warmup_epochs": 1.0,
                },
            }.items()
        ),
    ),
    "cifar_fast_batches": Comparison(
        "smaller batches in cifar_fast",
        (
            ROWS["cifar_fast"],
            with_settings(
                ROWS["cifar_fast"],
                "batch_64_shift_4",
                {**_BATCH_64, "augment.crop_padding": 4, "model.momentum": 0.9},
            ),
            with_settings(ROWS["cifar_fast"], "batch_128_4_epochs", _FOUR_EPOCHS),
            with_settings(ROWS["cifar_fast"], "batch_64_4_epochs", {**_FOUR_EPOCHS, **_BATCH_64}),
        ),
    ),
    "flowers64_rates": Comparison(
        "learning rates of fine-tuning a narrow net",
        (
            ROWS["flowers64_full"],
            with_settings(ROWS["flowers64_full"], "full_3e-4", {"learning_rate": 3e-4}),
            ROWS["flowers64_gradual"],
            with_settings(ROWS["flowers64_gradual"], "gradual_1e-3", {"learning_rate": 1e-3}),
        ),
    ),
}
"""The comparisons by name."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", choices=list(COMPARISONS))
    parser.add_argument("--rows", nargs="+", help="names of rows, or numbers from 0; default all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-dir", help="the folder of CIFAR-10's archive, or of the photos")
    parser.add_argument("--workdir", type=Path, default=Path("runs/comparisons"))
    parser.add_argument("--max-steps", type=int, help="stop each run early, to try the command out")
    options = parser.parse_args()
    tune_cpu(restart=True)  # as the command line does
    rows = COMPARISONS[options.comparison].rows
    if options.rows:
        known = {row.name: row for row in rows} | {str(n): row for n, row in enumerate(rows)}
        if unknown := set(options.rows) - set(known):
            parser.error(f"no row {min(unknown)!r}; known: {', '.join(row.name for row in rows)}")
        rows = [known[name] for name in options.rows]
    try:
        # Seeds in turn, so that an interrupted comparison has all its rows.
        for seed in range(options.seeds):
            for row in rows:
                folder = options.workdir / options.comparison / row.name
                arguments = {"data_dir": options.data_dir, "max_steps": options.max_steps}
                if not train_row(row, [seed], folder, **arguments):
                    raise SystemExit("Stopped; the same command resumes.")
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    for row in rows:
        folder = options.workdir / options.comparison / row.name
        columns, lines, sentences = summarize_row(row, folder, range(options.seeds))
        print(row.name)
        for line in [columns, *lines]:
            print("  " + "  ".join(line))
        print("\n".join(sentences))


if __name__ == "__main__":
    main()
