"""The ladder of settings behind cifar_fast: each rung adds one to the rung before.

    python -m benchmarks.ladder cifar_fast [--rungs RUNG ...] [--seeds 3] [--data-dir FOLDER]

Each run is kept in runs/ladder/LADDER/RUNG/SEED and resumes; finished ones are left as they are.
``python -m benchmarks.results record runs/ladder/LADDER/RUNG LADDER/RUNG`` keeps its record.
"""

import argparse
from pathlib import Path

from flax_resnet.errors import UserError
from flax_resnet.results.rows import Row, with_settings
from flax_resnet.results.runs import summarize_row, train_row


def rungs(first, *steps):
    """Return a row for each rung, with the settings of those below it."""
    rows = [first]
    for name, settings in steps:
        rows.append(with_settings(rows[-1], name, settings))
    return tuple(rows)


_SHORT = {"epochs": 16, "optimizer.milestones": [8, 12]}
_MIRROR = ("mirrored_shift", {"augment.crop_padding": 2, "augment.crop_fill": "mirror"})
_ALTERNATE = ("alternating_flip", {"augment.alternating_flip": True})
_MUON = {"optimizer.name": "muon", "optimizer.momentum": 0.9}
# A quarter of the operations and a third of the epochs of the recipe, so that a rung of three seeds
# takes twenty minutes of a core.
_HALF_AS_WIDE = {
    "model.widths": [16, 32, 128, 128],
    "model.stem_width": 24,
    "epochs": 4,
    "optimizer.warmup_epochs": 0.8,
    "optimizer.learning_rate": 0.8,
    "evaluate_flipped": False,
    "evaluate_every": 4,
}

LADDERS = {
    "cifar_fast": rungs(
        Row("paper_shortened", "resnet20_cifar", _SHORT, seeds=3, judged_by="val"),
        (
            "triangular_rate",
            {
                "optimizer.nesterov": True,
                "optimizer.schedule": "linear",
                "optimizer.milestones": [],
                "optimizer.warmup_epochs": 3,
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
        (
            "decoupled_decay",
            {"optimizer.name": "sgdw", "optimizer.weight_decay": 5e-4},
        ),
        ("bias_rate", {"optimizer.bias_rate": 16.0}),
        (
            "muon",
            {
                **_MUON,
                "optimizer.learning_rate": 0.05,
                "optimizer.sgd_learning_rate": 0.4,
                "optimizer.weight_decay": 0.02,
                "optimizer.bias_rate": 1.0,
            },
        ),
        ("label_smoothing", {"label_smoothing": 0.1}),
        ("averaged_weights", {"label_smoothing": 0.0, "ema_decay": 0.99}),
        (
            "batch_512",
            {
                "ema_decay": None,
                "data.batch_size": 512,
                "optimizer.learning_rate": 0.1,
                "optimizer.sgd_learning_rate": 0.8,
            },
        ),
        (
            "small_images",
            {
                "data.batch_size": 128,
                "optimizer.learning_rate": 0.05,
                "optimizer.sgd_learning_rate": 0.4,
                "data.train_sizes": [[0, 24], [6, 32]],
            },
        ),
        ("whitened_stem", {"data.train_sizes": [], "whitened_stem": True}),
    ),
    "resnet9_cifar": rungs(
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
        ("averaged_weights", {"ema_decay": 0.95}),
        ("small_images", {"ema_decay": None, "data.train_sizes": [[0, 24], [2, 32]]}),
    ),
}
"""The rungs of each ladder. A rung's settings that only its comparison needs, such as a smoothing
that did not pay, are undone by the next."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ladder", choices=list(LADDERS))
    parser.add_argument("--rungs", nargs="+", help="names of rungs, or numbers from 0; default all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-dir", help="the folder of CIFAR-10's archive")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--max-steps", type=int, help="stop each run early, to try the command out")
    options = parser.parse_args()
    rows = LADDERS[options.ladder]
    if options.rungs:
        rows = [r for n, r in enumerate(rows) if r.name in options.rungs or str(n) in options.rungs]
    try:
        # Seeds in turn, so that an interrupted ladder has all its rungs.
        for seed in range(options.seeds):
            for row in rows:
                folder = options.workdir / options.ladder / row.name
                arguments = {"data_dir": options.data_dir, "max_steps": options.max_steps}
                if not train_row(row, [seed], folder, **arguments):
                    raise SystemExit("Stopped; the same command resumes.")
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    for row in rows:
        folder = options.workdir / options.ladder / row.name
        columns, lines, sentences = summarize_row(row, folder, range(options.seeds))
        print(row.name)
        for line in [columns, *lines]:
            print("  " + "  ".join(line))
        print("\n".join(sentences))


if __name__ == "__main__":
    main()
