"""StableHLO: one file for any batch and platform, that plain JAX reads."""

import json
import zipfile

import jax
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.inference.export.stablehlo import write_stablehlo
from flax_resnet.transform import EvalTransform

from .models import MODELS, classifier_of

pytest.importorskip("flatbuffers")


def read(path):
    """As docs/guides/export.md reads a file."""
    from safetensors.numpy import load

    with zipfile.ZipFile(path) as archive:
        program = jax.export.deserialize(bytearray(archive.read("program.bin")))
        weights = load(archive.read("weights.safetensors"))
        about = json.loads(archive.read("description.json"))
    return program, weights, about


@pytest.mark.parametrize(
    "name",
    [
        "resnext",
        pytest.param("eca, blur", marks=pytest.mark.slow),
        pytest.param("v2, shortcut A", marks=pytest.mark.slow),
        pytest.param("mnist", marks=pytest.mark.slow),
    ],
)
def test_one_file_for_any_batch_and_platform(name, tmp_path):
    model, path = MODELS[name].clone(conv_impl="reference"), tmp_path / "model.stablehlo"
    size = 28 if name == "mnist" else 32
    classifier = classifier_of(model, EvalTransform.center_crop(size))
    done = classifier.export(path, license="mit", photos=[np.zeros((9, 9, 3), np.uint8)])
    assert done.comparison.difference < 1e-5
    program, weights, about = read(path)
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert "custom_call @flax_resnet" not in program.mlir_module()
    assert json.loads(about["classes"]) == ["a", "b", "c", "d", "e"]
    assert about["license"] == "mit" and about["input"] == "normalized"
    images = np.random.default_rng(0).normal(size=(3, size, size, 3)).astype(np.float32)
    computed = jax.jit(program.call)(weights, images)
    expected = np.asarray(jax.jit(model.apply)(classifier.variables, images))
    np.testing.assert_allclose(computed, expected, atol=1e-5 * np.abs(expected).max())


def test_pixels_give_probabilities(tmp_path):
    classifier = classifier_of(fr.create_model("resnet8", num_classes=5), name="resnet8")
    path, pixels = tmp_path / "m.stablehlo", np.full((2, 32, 32, 3), 7, np.uint8)
    classifier.export(path, preprocess=True, photos=list(pixels))
    program, weights, _ = read(path)
    expected = classifier.predict(pixels).probabilities
    np.testing.assert_allclose(program.call(weights, pixels), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20"])
@pytest.mark.parametrize("size", [(64, 64), (96, 64)], ids=str)
def test_a_named_model_in_two_sizes(name, size, tmp_path):
    """The other named models, at 224x224 and 160x128: ``python -m benchmarks.export parity``."""
    model, path = fr.create_model(name, conv_impl="reference"), tmp_path / "model.stablehlo"
    classifier = classifier_of(model, EvalTransform(*size, resize=None), name=name)
    write_stablehlo(path, classifier, takes="normalized", licence=None)
    program, weights, _ = read(path)
    images = np.random.default_rng(0).normal(size=(5, *size, 3)).astype(np.float32)
    quick = {"xla_backend_optimization_level": 1}
    apply = jax.jit(model.apply, compiler_options=quick)
    expected = np.asarray(apply(classifier.variables, images))
    for batch in (slice(None), slice(1)):
        computed = jax.jit(program.call, compiler_options=quick)(weights, images[batch])
        difference = np.abs(computed - expected[batch]).max() / np.abs(expected).max()
        assert difference < 1e-5
        assert (computed.argmax(1) == expected[batch].argmax(1)).all()
