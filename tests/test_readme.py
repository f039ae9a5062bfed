"""README's commands exist and its options parse; its Python runs."""

import csv
import re
import shlex
from functools import partial

import numpy as np
import pytest
from PIL import Image

import flax_resnet
from flax_resnet import cli, create_model, training
from flax_resnet.weights import load, write_weights
from tests.weights.conftest import seeded_state_dict, torch_shapes


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text):
    """Every command of ours in a bash block or in the code of a table, as words."""
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    lines += re.findall(r"^\| `(python train\.py [^`]*)`", text, re.MULTILINE)
    for line in lines:
        for command in line.split("#")[0].split("&&"):
            words = shlex.split(command)
            if words[:2] == ["python", "train.py"]:
                yield ["train", *words[2:]]
            elif words[:1] == ["flax-resnet"]:
                yield words[1:]


def test_commands_exist_and_parse(readme, monkeypatch):
    taken = []
    monkeypatch.setattr(training, "train", taken.append)
    found = list(commands(readme))
    assert len(found) > 8
    for words in found:
        assert words[0] in cli.COMMANDS, words
        if words[0] == "train":
            assert cli.main(words) == 0, words
    assert len(taken) == sum(words[0] == "train" for words in found)


@pytest.mark.slow
def test_the_librarys_example_runs(readme, capsys, monkeypatch):
    """As written, on a shallower net."""
    shallow = partial(create_model, stage_sizes=(1, 1, 1, 1))
    monkeypatch.setattr(flax_resnet, "create_model", shallow)
    (example,) = (block for block in blocks(readme, "python") if "train_step" in block)
    names = {}
    exec(example, names)
    assert names["logits"].shape == (2, 10)
    assert float(names["metrics"]["count"]) == 2
    assert "'layer4': (2, 4, 4, 2048)" in capsys.readouterr().out


@pytest.mark.slow
def test_first_five_minutes_with_your_photos_run_as_written(readme, tmp_path, monkeypatch):
    """On generated photos; the published weights are random ones, as if downloaded before."""
    model = create_model("resnet50")
    weights = tmp_path / "resnet50.safetensors"
    write_weights(weights, seeded_state_dict(torch_shapes(model)))
    monkeypatch.setattr(load, "fetch_published", lambda entry, cache: weights)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    rng = np.random.default_rng(0)
    for folder in ("photos/red", "photos/blue", "new_photos"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(16):
            pixels = rng.integers(0, 60, (40, 60, 3), dtype=np.uint8)
            pixels[..., 2 if "blue" in folder else 0] += 180
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.jpg")
    section = readme.split("## First five minutes with your photos")[1].split("\n## ")[0]
    found = list(commands(section))
    assert [words[0] for words in found] == ["check", "finetune", "predict", "evaluate"]
    for words in found:
        assert cli.main(words) == 0, words
    with open("labels.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert {row["label"] for row in rows} <= {"red", "blue"}
    for made in ("sheet.png", "labels.png", "confusion.png", "runs/photos/report/index.html"):
        assert (tmp_path / made).stat().st_size > 1000, made
