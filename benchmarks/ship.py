"""Make a finished run's weights part of the package.

    python -m benchmarks.ship RUN ROW --use "classifies ..." [--licence apache-2.0]

It writes flax_resnet/weights/shipped/MODEL-DATA.safetensors, the best weights in float16, and the
card beside it; the accuracies of the card are those of these weights, measured here.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import flax_resnet as fr
from flax_resnet.config import unflatten
from flax_resnet.data import open_dataset
from flax_resnet.errors import UserError
from flax_resnet.output_files import write_json
from flax_resnet.results.records import record_of
from flax_resnet.results.rows import find_row
from flax_resnet.weights import describe, to_torchvision, write_model
from flax_resnet.weights.shipped_weights import FOLDER

MOST_BYTES = 1_000_000


def correct(classifier, split):
    """Return how many images of a split are classified correctly."""
    probabilities = classifier.predict(split.images).probabilities
    return int((probabilities.argmax(1) == split.labels).sum())


def ship(run, row, use, licence="apache-2.0", folder=FOLDER):
    """Write the weights and the card; return the path of the card."""
    classifier = fr.load(Path(run))
    settings = classifier.info.settings
    name = f"{settings['model.name']}-{settings['data.name']}"
    found = record_of(Path(run), find_row(row).command(settings["seed"]))
    state_dict = {
        name: array.astype(np.float16) if array.dtype == np.float32 else array
        for name, array in to_torchvision(classifier.variables, classifier.model).items()
    }
    path = folder / f"{name}.safetensors"
    write_model(path, state_dict, classifier.model, describe(classifier.info))
    if path.stat().st_size > MOST_BYTES:
        path.unlink()
        raise UserError(f"The weights of {run} are larger than {MOST_BYTES:,} bytes.")
    stored = fr.load(path)
    config = unflatten(json.loads((Path(run) / "config.json").read_text(encoding="utf-8")))
    dataset = open_dataset(config.data, config.augment)
    splits = {"validation": dataset.validation, "test": dataset.test}
    card = {
        "model": settings["model.name"],
        "data": settings["data.name"],
        "command": found.about["command"],
        "commit": found.about["commit"],
        "epochs": settings["epochs"],
        "seed": settings["seed"],
        "parameters": found.about["parameters"],
        "correct": {name: correct(stored, split) for name, split in splits.items()},
        "images": {name: len(split) for name, split in splits.items()},
        "licence": licence,
        "intended_use": use,
    }
    write_json(path.with_suffix(".json"), card)
    return path.with_suffix(".json")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("row", help="the row of flax-resnet reproduce that the run is of")
    parser.add_argument("--use", required=True, help="what the weights are for, and not for")
    parser.add_argument("--licence", default="apache-2.0")
    options = parser.parse_args()
    print(ship(options.run, options.row, options.use, options.licence).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
