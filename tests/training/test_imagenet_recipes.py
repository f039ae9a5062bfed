"""The recipes for ImageNet, on a small tree like it: all their settings but sizes and steps."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr

# WordNet IDs, as ImageNet's folders are named, and the modes of its images.
CLASSES = ("n01440764", "n01443537", "n01484850", "n02124075")
MODES = ("RGB", "RGB", "L", "CMYK")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Photos of several sizes in ``train`` and ``val``, among them one PNG that is named JPEG."""
    root, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for number, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                height, width = rng.integers(40, 80, 2)
                pixels = rng.integers(0, 60, (height, width, 3), np.uint8) + np.uint8(45 * number)
                image = Image.fromarray(pixels).convert(MODES[index])
                kind = "PNG" if (split, number, index) == ("train", 0, 0) else "JPEG"
                image.save(folder / f"{name}_{index}.JPEG", kind)
    return root


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize("name", [name for name in fr.list_configs() if "imagenet" in name])
def test_a_recipe_trains(name, imagenet, tmp_path, console):
    recipe = fr.load_config(name)
    config = dataclasses.replace(
        recipe,
        # One of the blocks of its model.
        model=dataclasses.replace(recipe.model, stage_sizes=(1,), widths=(16,)),
        data=dataclasses.replace(
            recipe.data,
            dir=str(imagenet),
            batch_size=8,
            image_size=32,
            resize=36,
            train_sizes=tuple((epoch, 24) for epoch, _ in recipe.data.train_sizes),
        ),
        max_steps=2,
        workdir=str(tmp_path / "run"),
        compile_cache=None,
    )
    fr.train(config, console)
    *lines, _ = map(json.loads, (tmp_path / "run" / "history.jsonl").read_text().splitlines())
    assert lines[-1]["step"] == 2 and lines[-1]["grad_norm"] > 0
    for loss in (lines[-1]["train_loss"], lines[-1]["val_loss"]):
        assert 0 < loss < 2 * math.log(len(CLASSES))
    found = fr.load(tmp_path / "run").evaluate(split="validation")
    assert found.result.count == 2 * len(CLASSES)
    if not recipe.evaluate_flipped:
        assert found.result.loss == pytest.approx(lines[-1]["val_loss"], rel=1e-3)
