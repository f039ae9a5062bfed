"""The preprocessing before a model in an ONNX graph: from uint8 pixels to normalised images."""

from __future__ import annotations

import numpy as np

from ...transform import EvalTransform
from .onnx_graph import Graph

LEVELS = "pixels.levels"
"""Name of the pixels as levels from 0 to 255, float32 ``[N, C, H, W]``, of the transform's size."""


def add_preprocessing(graph: Graph, transform: EvalTransform, x: str, *, resize: bool) -> str:
    """Add the nodes that prepare images, and return the name of the result.

    Args:
        graph: The graph.
        transform: The preprocessing.
        x: Name of the images, uint8 ``[N, H, W, C]``.
        resize: Whether they are photos of any size, which the graph resizes and crops.
    """
    x = graph.node("Transpose", "pixels.planes", x, perm=[0, 3, 1, 2])
    if resize:
        x = graph.node("Cast", "pixels.float", x, to=1)  # 1 is float32
        x = _resized(graph, transform, x)
        x = graph.node("Round", "pixels.rounded", x)
        bounds = [graph.constant(f"pixels.{name}", v) for name, v in (("low", 0), ("high", 255))]
        x = graph.node("Clip", LEVELS, x, *bounds)
    else:
        x = graph.node("Cast", LEVELS, x, to=1)
    if transform.model_size is not None:
        size = [transform.model_size] * 2
        x = _resize(graph, "pixels.scaled", x, graph.constant("pixels.size", size, np.int64))
    mean, std = (np.reshape(row, (1, -1, 1, 1)) * 255 for row in (transform.mean, transform.std))
    x = graph.node("Sub", "pixels.centred", x, graph.constant("pixels.mean", mean))
    return graph.node("Div", "pixels.normalized", x, graph.constant("pixels.std", std))


def _resized(graph: Graph, transform: EvalTransform, x: str) -> str:
    """Resize and crop as ``data.images.load_image`` does, without its rounding between axes."""
    mode = {"bilinear": "linear", "bicubic": "cubic"}[transform.interpolation]
    if transform.resize is None:
        size = graph.constant("resize.size", [transform.height, transform.width], np.int64)
        return _resize(graph, "resize", x, size, mode)

    def integer(name: str, value: int) -> str:
        return graph.constant(f"resize.{name}", [value], np.int64)

    def node(operator: str, name: str, *inputs: str) -> str:
        return graph.node(operator, f"resize.{name}", *inputs)

    sides = graph.node("Shape", "resize.sides", x, start=2, end=4)
    shorter = node("ReduceMin", "shorter", sides)
    scaled = node("Mul", "product", sides, integer("side", transform.resize))
    size = node("Div", "size", scaled, shorter)  # of integers: rounded down
    x = _resize(graph, "resize", x, size, mode)
    two, crop = integer("two", 2), integer("crop", transform.height)
    margin = node("Sub", "margin", size, crop)
    start = node("Div", "half", margin, two)
    if transform.crop_offset == "nearest":  # half a pixel goes to the even number
        odd = node("Mul", "up", node("Mod", "odd", margin, two), node("Mod", "next", start, two))
        start = node("Add", "start", start, odd)
    axes = graph.constant("resize.axes", [2, 3], np.int64)
    return node("Slice", "cropped", x, start, node("Add", "end", start, crop), axes)


def _resize(graph: Graph, name: str, x: str, size: str, mode: str = "linear") -> str:
    return graph.node(
        "Resize",
        name,
        x,
        "",
        "",
        size,
        mode=mode,
        antialias=1,
        axes=[2, 3],
        cubic_coeff_a=-0.5,  # Pillow's
        exclude_outside=1,  # the weights at an edge sum to 1, as in Pillow
    )
