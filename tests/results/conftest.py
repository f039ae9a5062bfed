"""Runs as training leaves them, written without training."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flax_resnet.config import flatten
from flax_resnet.report import append_history

IMAGES = {"train": 1000, "validation": 100, "test": 50}


@pytest.fixture
def fake_train():
    """What trains a config in the place of ``training.train``: it writes a run of made-up numbers.

    ``fake_train.runs`` lists the configs; a run ends early if ``max_steps`` does.
    """

    def train(config, console=None):
        train.runs.append(config)
        rng = np.random.default_rng([config.seed, len(config.model.name)])
        folder = Path(config.workdir)
        (folder / "report").mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(flatten(config)))
        (folder / "classes.json").write_text(json.dumps([str(n) for n in range(10)]))
        shape = {"height": 8, "width": 8, "resize": 8, "channels": 1, "mean": [0.5], "std": [0.5]}
        (folder / "preprocessing.json").write_text(json.dumps(shape))
        splits = {name: {"images": n, "digest": "", "files": {}} for name, n in IMAGES.items()}
        data = {"classes": [str(n) for n in range(10)], "splits": splits}
        (folder / "data.json").write_text(json.dumps(data))
        about = {"commit": "c0ffee", "processor": {"name": "A1", "cores": 2, "features": ["avx2"]}}
        (folder / "report" / "environment.json").write_text(json.dumps(about))
        epochs = config.epochs if config.max_steps is None else 1
        for epoch in range(1, epochs + 1):
            line = {"step": 10 * epoch, "epoch": epoch, "time": 2.0 * epoch}
            for name in ("train_top1", "val_top1"):
                line[name] = round(float(rng.uniform(0.5, 0.9)), 4)
            append_history(folder / "history.jsonl", line | {"images_per_second": 100.0 + epoch})
        last = {"step": 10 * epochs, "epoch": epochs, "time": 2.0 * epochs, "best_step": 10}
        last |= {"test_top1": 0.9 + config.seed / 100, "last_test_top1": 0.8}
        append_history(folder / "history.jsonl", last)
        return SimpleNamespace(finished=True)

    train.runs = []
    return train
