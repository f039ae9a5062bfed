"""ONNX files: the numbers of the model in onnxruntime, and what the files say of themselves."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.data.images import fit_image
from flax_resnet.inference.export.comparison import sample_photos
from flax_resnet.inference.export.onnx_file import write_onnx
from flax_resnet.transform import EvalTransform

from .models import MODELS, classifier_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def written(classifier, path, takes="normalized", opset=18):
    write_onnx(path, classifier, opset=opset, takes=takes, licence=None)
    return onnx.load(path)


def random_images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_computes_the_same(name, tmp_path):
    """Any batch and image size, against the unfolded model without a compiler."""
    model = MODELS[name]
    side = 28 if name == "mnist" else 32
    classifier = classifier_of(model, EvalTransform.center_crop(side, side + 4))
    proto = written(classifier, tmp_path / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    operators = {node.op_type for node in proto.graph.node}
    assert operators.isdisjoint({"Transpose", "Identity", "Cast"})
    assert ("BatchNormalization" in operators) == (model.version == "v2" or model.norm == "group")
    session = session_of(tmp_path / "model.onnx")
    # A mean over 2x2 pixels takes even sizes only, and a flattened head one size only.
    shape = {"aa, standardized": (3, 36, 28, 3), "mnist": (3, 28, 28, 3)}.get(name, (3, 37, 29, 3))
    images = random_images(*shape)
    reference = model.clone(conv_impl="reference")
    expected = np.asarray(jax.jit(reference.apply)(classifier.variables, images))
    session = session_of(tmp_path / "model.onnx")
    for batch in (slice(None), slice(1)):
        planes = images[batch].transpose(0, 3, 1, 2)
        (computed,) = session.run(["logits"], {"images": planes})
        scale = np.abs(expected).max()
        np.testing.assert_allclose(computed, expected[batch], rtol=0, atol=1e-5 * scale)


def test_a_file_has_the_nodes_of_the_architecture_and_nothing_more(tmp_path):
    """resnet18: 20 convolutions, 17 ReLUs, 8 sums, and four of stem and head."""
    model = fr.create_model("resnet18", widths=(8, 8, 8, 8), num_classes=5)
    proto = written(classifier_of(model, name="resnet18"), tmp_path / "model.onnx")
    counts = {}
    for node in proto.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    one = dict.fromkeys(("MaxPool", "GlobalAveragePool", "Flatten", "Gemm"), 1)
    assert counts == {"Conv": 19 + 1, "Relu": 17, "Add": 8} | one
    shape = [
        dim.dim_param or dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim
    ]
    assert shape == ["batch", 3, "height", "width"]


TORCH_NODES = json.loads(Path(__file__).with_name("torch_nodes.json").read_text())


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n != "resnet20")) for n in TORCH_NODES],
)
def test_no_more_nodes_than_files_of_torch(name, tmp_path):
    """``benchmarks.export_torch`` counted those of both of torch's exporters."""
    model = fr.create_model(name)
    if len(model.widths) == 4:  # the same nodes with few channels
        model = fr.create_model(name, widths=(16, 16, 16, 16))
    proto = written(classifier_of(model, name=name), tmp_path / "model.onnx")
    operators = [node.op_type for node in proto.graph.node]
    assert "Transpose" not in operators
    of_torch = TORCH_NODES[name].values()
    assert len(operators) <= min(
        sum(nodes.values()) - nodes.get("Identity", 0) for nodes in of_torch
    )


@pytest.fixture(scope="module")
def classifier():
    return classifier_of(fr.create_model("resnet8", num_classes=5), name="resnet8")


@pytest.mark.parametrize(
    "options", [{}, {"preprocess": True}, {"preprocess": True, "resize": True}]
)
def test_an_exported_file_predicts_as_its_source(classifier, options, tmp_path):
    path = tmp_path / "model.onnx"
    photos = np.random.default_rng(1).integers(0, 256, (5, 50, 40, 3), np.uint8)
    done = classifier.export(path, photos=list(photos), license="mit", **options)
    assert done.comparison.images == 5 and done.comparison.agreement == 1
    assert done.comparison.difference < 1e-5
    loaded = fr.load(path)
    assert loaded.classes == classifier.classes
    assert loaded.transform == classifier.transform
    expected = classifier.predict(list(photos), tta="flip", temperature=2)
    computed = loaded.predict(list(photos), tta="flip", temperature=2)
    np.testing.assert_allclose(computed.probabilities, expected.probabilities, atol=1e-5)
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(metadata["classes"]) == ["a", "b", "c", "d", "e"]
    assert json.loads(metadata["preprocessing"])["mean"] == [0.485, 0.456, 0.406]
    assert metadata["license"] == "mit"
    assert re.fullmatch("[0-9a-f]{64}", metadata["weights_sha256"])


def test_a_file_with_preprocessing_takes_pixels_and_gives_probabilities(classifier, tmp_path):
    path = tmp_path / "model.onnx"
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    classifier.export(path, preprocess=True, photos=list(pixels))
    transposes = [node for node in onnx.load(path).graph.node if node.op_type == "Transpose"]
    assert len(transposes) == 1 and transposes[0].input == ["images"]
    (computed,) = session_of(path).run(None, {"images": pixels})
    expected = classifier.predict(pixels).probabilities
    np.testing.assert_allclose(computed, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("transform", "opset"),
    [
        (EvalTransform.center_crop(32, 39), 18),
        (EvalTransform.center_crop(33, 40, "bicubic"), 18),
        (EvalTransform(32, 24, None), 22),
        (EvalTransform.stored_like((32, 32, 1)), 22),
    ],
    ids=["bilinear", "bicubic", "squeezed", "grey"],
)
def test_photos_of_any_size_are_resized_as_by_pillow(transform, opset, tmp_path):
    """At most a level from evaluation's own pixels, whose crops start where torchvision's do; with
    bicubic filters a few levels, where Pillow clips between the axes."""
    model = fr.create_model("resnet8", num_classes=5)
    exported = classifier_of(model, transform, name="resnet8")
    shapes = ((61, 47), (140, 90), (35, 35))  # odd and even margins, smaller and larger
    photos = [
        np.ascontiguousarray(photo[100 : 100 + h, 100 : 100 + w, : transform.channels])
        for photo, (h, w) in zip(sample_photos(), shapes, strict=False)
    ]
    proto = written(exported, tmp_path / "model.onnx", "photos", opset)
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info("pixels.levels", onnx.TensorProto.FLOAT, None)
    )
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for photo in photos:
        _, levels = session.run(None, {"images": photo[None]})
        expected = fit_image(photo, transform).astype(np.float32)
        apart = np.abs(levels[0].transpose(1, 2, 0) - expected)
        assert apart.mean() < 0.3 and apart.max() <= (
            8 if transform.interpolation == "bicubic" else 1
        )


@pytest.mark.parametrize("loss", ["sigmoid", "one_vs_all"])
def test_a_model_of_binary_cross_entropy_gives_sigmoids(loss, tmp_path):
    model = fr.create_model("resnet8", num_classes=5)
    classifier = classifier_of(model, name="resnet8", loss=loss)
    path = tmp_path / "model.onnx"
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    classifier.export(path, preprocess=True, photos=list(pixels))
    assert onnx.load(path).graph.node[-1].op_type == "Sigmoid"
    computed = fr.load(path).predict(pixels, temperature=0.5).probabilities
    expected = classifier.predict(pixels, temperature=0.5).probabilities
    np.testing.assert_allclose(computed, expected, atol=1e-5)


def test_the_commands_of_the_guide(classifier, tmp_path, capsys):
    """``export``, then ``predict`` and ``evaluate`` on the file."""
    classifier.save(tmp_path / "weights.safetensors")
    path = tmp_path / "model.onnx"
    assert main(["export", str(tmp_path / "weights.safetensors"), "--output", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "opset 18" in printed and "agrees in 100%" in printed
    Image.new("RGB", (40, 50), "red").save(tmp_path / "red.png")
    results = []
    for model in ("weights.safetensors", "model.onnx"):
        words = ["predict", str(tmp_path / model), str(tmp_path / "red.png"), "--format", "csv"]
        assert main(words) == 0
        results.append(capsys.readouterr().out)
    first, second = (re.findall(r"([a-e]),([\d.]+)", result) for result in results)
    assert [label for label, _ in first] == [label for label, _ in second]
    np.testing.assert_allclose(
        [float(p) for _, p in first], [float(p) for _, p in second], atol=1e-5
    )
    for name in "abcde":
        (tmp_path / "labelled" / name).mkdir(parents=True)
        shutil.copy(tmp_path / "red.png", tmp_path / "labelled" / name)
    page = tmp_path / "page.html"
    assert main(["evaluate", str(path), str(tmp_path / "labelled"), "--page", str(page)]) == 0
    assert "resnet8" in page.read_text(encoding="utf-8")


def test_what_needs_weights_says_so(classifier, tmp_path):
    path = tmp_path / "model.onnx"
    classifier.export(path)
    loaded = fr.load(path)
    for call in (
        lambda: loaded.embed(np.zeros((1, 32, 32, 3), np.uint8)),
        lambda: loaded.explain(np.zeros((1, 32, 32, 3), np.uint8)),
        lambda: loaded.save(tmp_path / "weights.safetensors"),
        lambda: loaded.export(tmp_path / "again.onnx"),
    ):
        with pytest.raises(fr.UserError, match="needs the model that it was exported from"):
            call()
    with pytest.raises(fr.UserError, match="options cannot be changed"):
        fr.load(path, num_classes=3)
    assert fr.load(path, classes=list("vwxyz")).classes == tuple("vwxyz")
    assert repr(loaded).endswith("model.onnx: resnet8, 5 classes>")
    assert "model.onnx" in loaded._repr_html_()
    assert not (tmp_path / "again.onnx").exists()


def test_no_file_of_ours(tmp_path):
    with pytest.raises(fr.UserError, match="does not exist"):
        fr.load(tmp_path / "none.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"<html>")
    with pytest.raises(fr.UserError, match="cannot be read by onnxruntime"):
        fr.load(tmp_path / "damaged.onnx")
    info = onnx.helper.make_tensor_value_info
    x, y = (info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", "x", "y")], "g", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "other.onnx"
    )
    with pytest.raises(fr.UserError, match="does not describe its classes"):
        fr.load(tmp_path / "other.onnx")


def not_utf8(proto):
    proto.graph.node[0].op_type = "Unknown"
    return proto.SerializeToString().replace(b"Unknown", b"Unkn\xffwn")


def short_bias(proto):
    bias = next(one for one in proto.graph.initializer if one.name == "conv1.bias")
    bias.raw_data = bias.raw_data[:-4]
    return proto.SerializeToString()


@pytest.mark.parametrize("damage", [not_utf8, short_bias])
def test_a_damaged_file_is_one_sentence_and_nothing_is_printed(classifier, damage, tmp_path, capfd):
    """onnxruntime printed lines of "EP Error", and log lines in colour."""
    path = tmp_path / "model.onnx"
    classifier.export(path)
    path.write_bytes(damage(onnx.load(path)))
    capfd.readouterr()
    with pytest.raises(fr.UserError, match="cannot be read by onnxruntime") as refused:
        fr.load(path)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")
