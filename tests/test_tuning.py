"""The dtype of a command, found before its arguments are parsed, and what auto is."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import pytest

from flax_resnet import runtime
from flax_resnet.commands import tuning
from flax_resnet.commands.tuning import dtype_of
from flax_resnet.config import load_config
from flax_resnet.training.dtype import device_dtype, resolve_dtype


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
    ("features", "native", "jaxlib", "expected"),
    [
        ({"amx_bf16"}, False, "0.12.0.1", "bfloat16"),
        ({"amx_bf16"}, False, "0.10.1", "float32"),  # XLA's own convolutions
        ({"amx_bf16"}, True, "0.10.1", "bfloat16"),
        ({"avx2"}, True, "0.12.0.1", "float32"),
    ],
)
def test_auto_follows_the_processor(features, native, jaxlib, expected, monkeypatch):
    monkeypatch.setattr(runtime, "processor_features", lambda: frozenset(features))
    monkeypatch.setattr(runtime, "has_native", lambda: native)
    monkeypatch.setattr(tuning, "version", {"jaxlib": jaxlib}.get)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert dtype_of(["--model.dtype", "auto"]) == expected


@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [
        ("tpu", None, "bfloat16"),
        ("gpu", "9.0", "bfloat16"),
        ("gpu", "7.5", "float32"),
        ("gpu", "gfx90a", "float32"),
    ],
)
def test_auto_follows_other_devices(platform, capability, expected):
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    assert device_dtype(device, uses_native=True) == expected


@pytest.mark.parametrize(("features", "expected"), [({"amx_bf16"}, "bfloat16"), ((), "float32")])
def test_a_run_holds_what_auto_is(features, expected, monkeypatch):
    monkeypatch.setattr(runtime, "processor_features", lambda: frozenset(features))
    monkeypatch.setattr(runtime, "has_native", lambda: True)
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform="cpu")])
    settings = load_config("digits")
    auto = dataclasses.replace(settings, model=dataclasses.replace(settings.model, dtype="auto"))
    assert resolve_dtype(auto).model.dtype == expected
    assert resolve_dtype(settings) is settings
    only_jax = dataclasses.replace(auto.model, conv_impl="jax")
    assert resolve_dtype(dataclasses.replace(auto, model=only_jax)).model.dtype == "float32"
