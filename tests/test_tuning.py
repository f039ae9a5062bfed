"""The dtype of a command, found before its arguments are parsed."""

import json

import pytest

from flax_resnet import processor
from flax_resnet.commands.tuning import dtype_of


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--config digits", "float32"),
        ("--config resnet50_imagenet_fast", "bfloat16"),
        ("--config=resnet50_imagenet_fast --epochs 2", "bfloat16"),
        ("--config resnet50_imagenet_fast --model.dtype float32", "float32"),
        ("--config digits --model.dtype=bfloat16", "bfloat16"),
        ("photos --model.dtype bfloat16 --model.dtype float32", "float32"),
        ("--config no_such_recipe", "float32"),
        ("--config", "float32"),
        ("--model.dtype", "float32"),
        ("resnet50 a.jpg", "float32"),
        ("", "float32"),
    ],
)
def test_dtype_of_options_and_recipes(line, expected):
    assert dtype_of(line.split()) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps({"model.dtype": "bfloat16"}), "bfloat16"),
        (json.dumps({"model.name": "resnet18"}), "float32"),
        ("[]", "float32"),
        ("not JSON", "float32"),
    ],
)
def test_dtype_of_a_run(tmp_path, text, expected):
    (tmp_path / "config.json").write_text(text)
    assert dtype_of(["--top-k", "3", str(tmp_path), "a.jpg"]) == expected


@pytest.mark.parametrize(
    ("features", "expected"), [({"amx_bf16"}, "bfloat16"), ({"avx2"}, "float32")]
)
def test_auto_follows_the_processor(features, expected, monkeypatch):
    monkeypatch.setattr(processor, "processor_features", lambda: frozenset(features))
    assert dtype_of(["--model.dtype", "auto"]) == expected
