"""An ONNX file of a classifier: its graph, and the description in its metadata."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ...errors import UserError
from ...models import fold_batch_norm
from ...models.resnet import ResNet
from ...report.model_card import results
from ...weights import describe, to_torchvision
from .onnx_graph import Graph, import_onnx
from .onnx_model import add_resnet
from .onnx_pixels import add_preprocessing

if TYPE_CHECKING:
    from ..classifier import Classifier

OPSETS = range(18, 23)
"""Versions of ONNX's operators that a file may state. Antialiased resizing came with 18."""

INPUT_ENTRY = "input"
NORMALIZED, PIXELS, PHOTOS = "normalized", "pixels", "photos"
"""What a file takes: normalised images ``[N, C, H, W]``, or uint8 ``[N, H, W, C]`` of the
transform's size, or such of any size."""

_MOST_BYTES = 2**31 - 2**20  # protobuf's limit for a file, and a mebibyte for all but the weights


def write_onnx(
    path: Path, classifier: Classifier, *, opset: int, takes: str, licence: str | None
) -> int:
    """Write an ONNX file.

    Args:
        path: The file.
        classifier: The source.
        opset: One of ``OPSETS``.
        takes: What the file takes: ``NORMALIZED``, ``PIXELS`` or ``PHOTOS``. The first gives
            logits, the others give probabilities.
        licence: The licence of the weights, for the metadata.

    Returns:
        The number of its nodes.

    Raises:
        UserError: onnx is not installed, or the weights are too large for a file.
    """
    onnx = import_onnx()
    model, params = folded_in_float32(classifier)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if total > _MOST_BYTES:
        raise UserError(
            f"The weights of {classifier.info.source} take {total / 2**30:.1f} GiB, and an ONNX "
            "file holds 2 GiB at most: export it with --format stablehlo."
        )
    transform = classifier.transform
    height, width = (transform.model_size or side for side in (transform.height, transform.width))
    graph, x = Graph(), "images"
    if takes == NORMALIZED:
        channels = _channels(params)
        is_free = model.pooling == "mean"
        sides = ("height", "width") if is_free else (height, width)
        shape, dtype = ("batch", channels, *sides), onnx.TensorProto.FLOAT
    else:
        sides = ("height", "width") if takes == PHOTOS else (transform.height, transform.width)
        shape, dtype = ("batch", *sides, transform.channels), onnx.TensorProto.UINT8
        x = add_preprocessing(graph, transform, x, resize=takes == PHOTOS)
    output = add_resnet(graph, model, params, x, (height, width, _channels(params)))
    if takes != NORMALIZED:
        is_softmax = classifier.info.loss == "softmax"
        operator, options = ("Softmax", {"axis": 1}) if is_softmax else ("Sigmoid", {})
        output = graph.node(operator, "probabilities", output, **options)
    info = onnx.helper.make_tensor_value_info
    images = info("images", dtype, shape)
    result = info(output, onnx.TensorProto.FLOAT, ("batch", model.num_classes))
    opsets = [onnx.helper.make_opsetid("", opset)]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, classifier.info.config.name, [images], [result], graph.constants
        ),
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),
        producer_name="flax_resnet",
    )
    onnx.helper.set_model_props(proto, description(classifier, takes, licence))
    onnx.checker.check_model(proto, full_check=True)
    onnx.save_model(proto, path)
    return len(graph.nodes)


def folded_in_float32(classifier: Classifier) -> tuple[ResNet, Any]:
    """Return the model with batch norm folded, and its parameters as float32 NumPy arrays."""
    variables = jax.device_get(classifier.variables)
    model = classifier.model.clone(dtype=np.float32, param_dtype=np.float32)
    in_float32 = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)
    folded, variables = fold_batch_norm(model, in_float32)
    return folded, jax.device_get(variables["params"])


def description(classifier: Classifier, takes: str, licence: str | None) -> dict[str, str]:
    """Return the metadata of an exported file: JSON by name, as any program can read it.

    The entry ``ENTRY`` is that of our ``.safetensors`` files, by which ``load`` knows the model.
    """
    info = classifier.info
    return describe(info) | {
        INPUT_ENTRY: takes,
        "classes": json.dumps(info.classes),
        "preprocessing": json.dumps(info.transform.to_json()),
        "metrics": json.dumps(results(info)),
        "license": licence or "unknown",
        "weights_sha256": weights_hash(classifier),
    }


def weights_hash(classifier: Classifier) -> str:
    """Return the SHA-256 of the arrays in PyTorch's layout, in the order of their names."""
    digest = hashlib.sha256()
    for name, array in sorted(to_torchvision(classifier.variables, classifier.model).items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _channels(params: Any) -> int:
    return params["conv1" if "conv1" in params else "conv1_0"]["kernel"].shape[2]
