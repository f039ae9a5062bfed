"""A classifier as a StableHLO program of ``jax.export``, with its weights beside the program."""

from __future__ import annotations

import json
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import export as jax_export

from ...data import Preprocessing
from ...errors import UserError
from ...models import ResNet
from .onnx_file import NORMALIZED, description, folded_in_float32
from .onnx_model import named_leaves

if TYPE_CHECKING:
    from ..classifier import Classifier

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, WEIGHTS, DESCRIPTION = "program.bin", "weights.safetensors", "description.json"
"""Members of the file, which is a zip archive without compression."""


def write_stablehlo(path: Path, classifier: Classifier, *, takes: str, licence: str | None) -> int:
    """Write a program for any batch of images and for every platform.

    It takes the weights, a dict of arrays by name, and images ``[N, H, W, C]`` of the transform's
    size: normalised float32 for logits ``[N, K]``, or uint8 for probabilities. The weights are not
    constants of the program, which would hold a copy of them in memory while it is written.

    Args:
        path: The file.
        classifier: The source.
        takes: ``NORMALIZED`` or ``PIXELS``.
        licence: The licence of the weights, for the description.

    Returns:
        The size of the program in bytes.

    Raises:
        UserError: flatbuffers is not installed.
    """
    from safetensors.numpy import save

    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise UserError(
            'StableHLO needs flatbuffers: pip install "flax-resnet[stablehlo]".'
        ) from error
    model, params = folded_in_float32(classifier)
    weights = {name: np.ascontiguousarray(array) for name, array in named_leaves(params)}
    transform = classifier.transform
    preprocess, loss = None, classifier.info.loss
    size = [transform.model_size or side for side in (transform.height, transform.width)]
    dtype: Any = np.float32
    channels = weights[_first_kernel(weights)].shape[2]
    if takes != NORMALIZED:
        preprocess = Preprocessing.from_transform(transform)
        size, dtype, channels = [transform.height, transform.width], np.uint8, transform.channels
    # XLA's own convolutions: every platform has them, and they take a batch of unknown size.
    function = partial(_outputs, model.clone(conv_impl="reference"), preprocess, loss)
    shape = jax_export.symbolic_shape(f"batch, {size[0]}, {size[1]}, {channels}")
    program = jax_export.export(jax.jit(function), platforms=PLATFORMS)(
        {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()},
        jax.ShapeDtypeStruct(shape, dtype),
    )
    serialized = program.serialize()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(PROGRAM, bytes(serialized))
        archive.writestr(WEIGHTS, save(weights))
        archive.writestr(DESCRIPTION, json.dumps(description(classifier, takes, licence)))
    return len(serialized)


def read_stablehlo(path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """Return the program of a file, a ``jax.export.Exported``, and its weights."""
    from safetensors.numpy import load

    with zipfile.ZipFile(path) as archive:
        program = jax_export.deserialize(bytearray(archive.read(PROGRAM)))
        return program, load(archive.read(WEIGHTS))


def _outputs(
    model: ResNet, preprocess: Preprocessing | None, loss: str, weights: Any, images: jax.Array
) -> jax.Array:
    params: dict[str, Any] = {}
    for name, array in weights.items():
        *modules, leaf = name.split("/")
        inside = params
        for module in modules:
            inside = inside.setdefault(module, {})
        inside[leaf] = array
    if preprocess is not None:
        images = preprocess(images)
    logits: Any = model.apply({"params": params}, images, train=False)
    if preprocess is None:
        return logits
    return jax.nn.softmax(logits) if loss == "softmax" else jax.nn.sigmoid(logits)


def _first_kernel(weights: dict[str, np.ndarray]) -> str:
    return "conv1/kernel" if "conv1/kernel" in weights else "conv1_0/kernel"
