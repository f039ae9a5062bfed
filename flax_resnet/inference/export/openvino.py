"""A classifier in OpenVINO's format, by its own converter from our ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError


def write_openvino(path: Path, source: Path, metadata: Mapping[str, str]) -> None:
    """Convert an ONNX file to ``path``, an ``.xml``, and a ``.bin`` beside it, in float32.

    Args:
        path: The file.
        source: The ONNX file.
        metadata: Entries for the file's ``rt_info``, under ``flax_resnet``.

    Raises:
        UserError: openvino is not installed.
    """
    openvino = _import_openvino()
    # Not ``convert_model``, which forks a process that reports its use to OpenVINO's makers.
    model = openvino.Core().read_model(source)
    for name, value in metadata.items():
        model.set_rt_info(value, ["flax_resnet", name])
    openvino.save_model(model, path, compress_to_fp16=False)


def read_openvino(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images to the output of a file, computed in float32 on the CPU."""
    openvino = _import_openvino()
    # On processors with bfloat16 OpenVINO would compute in that.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compiled(images)[0]


def _import_openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            'OpenVINO\'s format needs its converter: pip install "flax-resnet[openvino]".'
        ) from error
    return openvino
