"""A graph of ONNX operators, built node by node."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import UserError, first_line


def import_onnx() -> ModuleType:
    """Import ``onnx``.

    Raises:
        UserError: It is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError(
            'ONNX needs the packages onnx and onnxruntime: pip install "flax-resnet[onnx]".'
        ) from error
    return onnx


def open_session(model: Path | bytes) -> Any:
    """Open a session of onnxruntime.

    Raises:
        UserError: onnxruntime is not installed or cannot read the model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            'Running ONNX needs onnxruntime: pip install "flax-resnet[onnx]".'
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # "fatal": what fails is raised too
    content = str(model) if isinstance(model, Path) else model

    def start(*providers: str) -> Any:
        # Its own fallback to the CPU prints lines of "EP Error", also for a damaged file.
        session = onnxruntime.InferenceSession(
            content, options, providers=providers, enable_fallback=0
        )
        session.enable_fallback()  # for a batch that a GPU fails to compute
        return session

    try:
        try:
            return start(*onnxruntime.get_available_providers())
        except Exception:
            return start("CPUExecutionProvider")
    except Exception as error:  # onnxruntime's own classes have no common base
        raise UserError(
            f"{model if isinstance(model, Path) else 'The model'} cannot be read by onnxruntime "
            f"({first_line(error)}): export it again."
        ) from error


class Graph:
    """Nodes and constants of a graph; a tensor is named after the node that computes it.

    Attributes:
        nodes: ``NodeProto`` of each node, in the order of computation.
        constants: ``TensorProto`` of each constant.
    """

    def __init__(self) -> None:
        self._onnx = import_onnx()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant, and return its name."""
        array = np.ascontiguousarray(np.asarray(values, dtype))
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, and return the name of its output, which is its own."""
        node = self._onnx.helper.make_node(operator, inputs, [name], name, **attributes)
        self.nodes.append(node)
        return name

    def convolution(
        self,
        name: str,
        x: str,
        kernel: np.ndarray,
        bias: np.ndarray | None,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        dilation: int = 1,
    ) -> str:
        """Convolve images ``[N, C, H, W]`` by a kernel ``[h, w, C / groups, F]``."""
        weights = [self.constant(f"{name}.weight", np.transpose(kernel, (3, 2, 0, 1)))]
        if bias is not None:
            weights.append(self.constant(f"{name}.bias", bias))
        return self.node(
            "Conv",
            name,
            x,
            *weights,
            kernel_shape=kernel.shape[:2],
            strides=[stride, stride],
            pads=[padding] * 4,
            group=groups,
            dilations=[dilation, dilation],
        )

    def affine(
        self, name: str, x: str, scale: np.ndarray, bias: np.ndarray, *, is_only_use: bool = False
    ) -> str:
        """Multiply each channel of ``[N, C, H, W]`` by ``scale`` and add ``bias``, in one node; in
        none where this ``is_only_use`` of a convolution, which is then changed instead."""
        last = self.nodes[-1]
        if is_only_use and last.name == x and last.op_type == "Conv":
            self._scale_convolution(last, scale, bias)
            return x
        rows = {
            "scale": scale,
            "bias": bias,
            "mean": np.zeros_like(bias),
            "var": np.ones_like(bias),
        }
        constants = [self.constant(f"{name}.{row}", values) for row, values in rows.items()]
        return self.node("BatchNormalization", name, x, *constants, epsilon=0.0)

    def _scale_convolution(self, node: Any, scale: np.ndarray, bias: np.ndarray) -> None:
        x, *weights = node.input
        held = [tensor for tensor in self.constants if tensor.name in weights]
        self.constants = [tensor for tensor in self.constants if tensor.name not in weights]
        kernel, *biases = map(self._onnx.numpy_helper.to_array, held)
        new = kernel * scale[:, None, None, None], sum((b * scale for b in biases), bias)
        names = f"{node.name}.weight", f"{node.name}.bias"
        del node.input[:]
        node.input.extend([x, *map(self.constant, names, new)])
