"""Weights by name where they cannot be had, and files that are no model's: one test for each."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from flax_resnet.cli import main
from flax_resnet.weights import hub


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A machine whose caches are empty and whose downloads fail at once."""

    def refuse(*_, **__):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLAX_RESNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("flax_resnet.download._open", refuse)
    monkeypatch.setattr(hub, "_downloaded", refuse)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            color = (number, 80, 200)
            Image.new("RGB", (8, 8), color).save(tmp_path / "photos" / name / f"{number}.png")


@pytest.mark.parametrize("name", ["resnet18", "resnet50/IMAGENET1K_V1", "timm/resnet18.a1_in1k"])
def test_each_command_offers_what_it_has(offline, capsys, name):
    """``predict`` without a connection offered ``--weights PATH``, an option it does not have."""
    if name.startswith("timm/"):
        pytest.importorskip("huggingface_hub")
    model = ["--model", "resnet50"] if name.startswith("resnet50") else []
    sentences = []
    for command in (
        ["predict", name, "photos/cat"],
        ["evaluate", name, "photos"],
        ["finetune", "photos", "--weights", name, *model],
    ):
        assert main(command) == 1
        sentences.append(capsys.readouterr().err)
    assert len(set(sentences)) == 1
    assert "Connection refused" in sentences[0] and "--weights PATH" not in sentences[0]
    assert "give the path of a file of weights in place of the name" in sentences[0]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"encoder.weight": np.zeros((2, 2), np.float32)}, "not the weights of a ResNet"),
        ({"layer1.0.conv1.weight": np.zeros((2, 2, 3, 3), np.float32)}, "incomplete"),
    ],
    ids=["another kind of model", "half a ResNet"],
)
def test_inspect_fails_where_it_does_not_know_the_model(tmp_path, capsys, arrays, reason):
    """It printed "unknown" and ended with 0, as if all were well."""
    save_file(arrays, tmp_path / "file.safetensors")
    assert main(["inspect", str(tmp_path / "file.safetensors")]) == 1
    output = capsys.readouterr()
    assert next(iter(arrays)) in output.out and "model       unknown" in output.out
    assert reason in output.err and "file.safetensors" in output.err
