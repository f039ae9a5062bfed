"""The ONNX graph of a ResNet, from its modules' options and parameters.

Each option is read where the model itself keeps it: in the specs and attributes of its bound
modules, see ``models/resnet.py`` and ``models/blocks.py``. Images are ``[N, C, H, W]``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import UserError
from ...models import ResNet
from ...models.attention import eca_kernel_size
from ...models.blocks import ResidualBlock
from ...models.layers import Conv, ConvSpec, standardize
from ...models.resnet import DEEP_STEMS, STEM_POOLS
from .onnx_graph import Graph

Tree = Mapping[str, Any]


def add_resnet(
    graph: Graph, model: ResNet, params: Tree, x: str, image_shape: tuple[int, int, int]
) -> str:
    """Add the nodes that compute logits ``[N, num_classes]``, and return their name.

    Args:
        graph: The graph.
        model: A model without batch norm, see ``fold_batch_norm``.
        params: Its parameters as NumPy arrays.
        x: Name of the images, float32 ``[N, C, H, W]``.
        image_shape: Height, width and channels of the model's usual images; others fit too, except
            where ``pooling="flatten"``.

    Raises:
        UserError: The model has parameters that no node uses.
    """
    bound = model.bind({"params": params})
    layers = _Layers(graph, model, params, "")
    x = _stem(layers, bound, x)
    for stage in model.stages[1:-1]:
        if model.downsampling == "conv_pool" and stage != "layer1":
            number = stage.removeprefix("layer")
            conv: Conv = getattr(bound, f"conv{number}")
            x = layers.relu(f"relu{number}", layers.conv_norm(conv.spec, f"conv{number}", x))
            x = layers.pool("MaxPool", f"maxpool{number}", x, 2, 2)
        add_block = _pre_activation if model.version == "v2" else _post_activation
        for block in getattr(bound, stage):
            x = add_block(layers.inside(block.name), block, x)
    if model.version == "v2":
        x = layers.relu("relu_last", layers.norm("bn_last", x))
    logits = _head(layers, model, params, x, image_shape)
    unused = {path for path, _ in named_leaves(params)} - layers.used
    if unused:
        raise UserError(f"The export of {', '.join(sorted(unused))} to ONNX is not implemented.")
    return logits


@dataclasses.dataclass(frozen=True)
class _Layers:
    """Adds layers of a model to a graph, by the names of their parameters.

    Attributes:
        graph: The graph.
        model: The model.
        params: Parameters of the module with the layers.
        path: Its name with ``/`` after it; ``""`` for the model itself.
        used: Paths of all parameters that a node uses.
    """

    graph: Graph
    model: ResNet
    params: Tree
    path: str
    used: set[str] = dataclasses.field(default_factory=set)

    def inside(self, name: str) -> _Layers:
        """Return the layers of a module inside of this one."""
        path = f"{self.path}{name}/"
        return dataclasses.replace(self, params=self.params[name], path=path)

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        return self.graph.node(operator, self.path + name, *inputs, **attributes)

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        return self.graph.constant(self.path + name, values, dtype)

    def take(self, name: str) -> dict[str, np.ndarray]:
        """Return the parameters of a layer as float32."""
        found = {leaf: np.asarray(value, np.float32) for leaf, value in self.params[name].items()}
        self.used.update(f"{self.path}{name}/{leaf}" for leaf in found)
        return found

    def relu(self, name: str, x: str) -> str:
        return self.node("Relu", name, x)

    def pool(
        self,
        operator: str,
        name: str,
        x: str,
        window: int,
        stride: int,
        pads: Sequence[int] = (0, 0, 0, 0),
        **more: int,
    ) -> str:
        shape = {"kernel_shape": [window, window], "strides": [stride, stride]}
        return self.node(operator, name, x, **shape, pads=pads, **more)

    def conv(
        self,
        spec: ConvSpec,
        name: str,
        x: str,
        *,
        standardized: bool | None = None,
        norm: str | None = None,
    ) -> str:
        """Add a convolution; ``norm`` names a folded norm that follows and becomes part of it."""
        held = self.take(name)
        kernel, bias = held["kernel"], held.get("bias")
        if self.model.standardized_kernels if standardized is None else standardized:
            kernel = np.asarray(standardize(jnp.asarray(kernel)))
        if norm is not None:
            affine = self.take(norm)
            kernel = kernel * affine["scale"]
            bias = affine["bias"] + (0 if bias is None else bias * affine["scale"])
        return self.graph.convolution(
            self.path + name,
            x,
            kernel,
            bias,
            stride=spec.stride,
            padding=spec.kernel // 2 * spec.dilation,
            groups=spec.groups,
            dilation=spec.dilation,
        )

    def conv_norm(self, spec: ConvSpec, name: str, x: str, norm: str | None = None) -> str:
        """Add a convolution and the norm after it, unless it was folded into the convolution."""
        x = self.conv(spec, name, x)
        norm = norm or name.replace("conv", "bn")
        return self.norm(norm, x) if norm in self.params else x

    def norm(self, name: str, x: str, *, is_only_use: bool = False) -> str:
        """Add a folded batch norm, or a group norm; the first may change a convolution instead."""
        held = self.take(name)
        if self.model.norm == "group":
            groups = math.gcd(32, len(held["scale"]))
            one, zero = (
                self.constant(f"{name}.{row}", np.full(groups, value))
                for row, value in (("one", 1), ("zero", 0))
            )
            shape = self.node("Shape", f"{name}.shape", x)
            grouped = self.constant(f"{name}.groups", [0, groups, -1], np.int64)
            x = self.node("Reshape", f"{name}.grouped", x, grouped)
            x = self.node(
                "InstanceNormalization", f"{name}.normal", x, one, zero, epsilon=self.model.epsilon
            )
            x = self.node("Reshape", f"{name}.ungrouped", x, shape)
        affine = held["scale"], held["bias"]
        return self.graph.affine(self.path + name, x, *affine, is_only_use=is_only_use)


def _stem(layers: _Layers, bound: ResNet, x: str) -> str:
    is_v2 = bound.version == "v2"
    last = "conv1"
    if bound.stem in DEEP_STEMS:
        x = layers.relu("relu1_0", layers.conv_norm(bound.conv1_0.spec, "conv1_0", x))
        x = layers.relu("relu1_1", layers.conv_norm(bound.conv1_1.spec, "conv1_1", x))
        last = "conv1_2"
    spec = getattr(bound, last).spec
    x = layers.conv_norm(spec, last, x, "bn1")
    x = x if is_v2 else layers.relu("relu1", x)

    kind = bound.pool_after_stem
    if kind == "none":
        return x
    if kind == "conv":
        spec = bound.conv1_pool.spec
        return layers.relu("relu1_pool", layers.conv_norm(spec, "conv1_pool", x))
    if bound.anti_alias == "mean":
        return layers.pool("AveragePool", "maxpool", x, 2, 2)
    window, stride, padding = STEM_POOLS.get(bound.stem, (3, 2, 1))
    width = spec.features
    if bound.anti_alias == "blur":
        x = layers.pool("MaxPool", "maxpool", x, window, 1, [padding] * 4)
        return _blur(layers, "maxpool.blur", x, width)
    if kind == "zero_padded_max":
        edges = layers.constant("maxpool.edges", [0, 0, *[padding] * 2] * 2, np.int64)
        x = layers.node("Pad", "maxpool.padded", x, edges)
        # Without "VALID" onnxruntime 1.23 takes the zeros into the pool, where they never win.
        shape = {"kernel_shape": [window] * 2, "strides": [stride] * 2}
        return layers.node("MaxPool", "maxpool", x, **shape, auto_pad="VALID")
    return layers.pool("MaxPool", "maxpool", x, window, stride, [padding] * 4)


def _post_activation(layers: _Layers, block: ResidualBlock, x: str) -> str:
    *first, last = block.conv_specs
    h = x
    for i, spec in enumerate(first, start=1):
        filtered = block.anti_alias is not None and spec.stride > 1
        used = spec._replace(stride=1) if filtered else spec
        h = layers.relu(f"relu{i}", layers.conv_norm(used, f"conv{i}", h))
        if filtered:
            h = _anti_alias(layers, block, f"aa{i}", h, spec.features)
    count = len(block.conv_specs)
    y = layers.conv_norm(last, f"conv{count}", h)
    if "se" in layers.params:
        y = _attention(layers.inside("se"), y, last.features)
    if block.residual:
        y = layers.node("Add", "add", y, _shortcut(layers, block, x, with_norm=True))
    return layers.relu(f"relu{count}", y)


def _pre_activation(layers: _Layers, block: ResidualBlock, x: str) -> str:
    count = len(block.conv_specs)
    # Each norm but the first follows a convolution; a folded one becomes part of it.
    is_folded = layers.model.norm == "folded"
    is_identity = _is_identity(layers, block)
    y = layers.norm("bn1", x, is_only_use=not (is_identity and block.residual))
    y = layers.relu("relu1", y)
    source = x if is_identity else y
    for i, spec in enumerate(block.conv_specs, start=1):
        norm = f"bn{i + 1}" if i < count else None
        y = layers.conv(spec, f"conv{i}", y, norm=norm if is_folded else None)
        if norm is not None:
            y = layers.relu(f"relu{i + 1}", y if is_folded else layers.norm(norm, y))
    if not block.residual:
        return y
    return layers.node("Add", "add", _shortcut(layers, block, source, with_norm=False), y)


def _is_identity(layers: _Layers, block: ResidualBlock) -> bool:
    shape: Any = jax.ShapeDtypeStruct((_in_channels(layers, block),), jnp.float32)
    return block._is_identity(shape)


def _in_channels(layers: _Layers, block: ResidualBlock) -> int:
    return layers.params["conv1"]["kernel"].shape[2] * block.conv_specs[0].groups


def _shortcut(layers: _Layers, block: ResidualBlock, x: str, with_norm: bool) -> str:
    if _is_identity(layers, block):
        return x
    stride, features = block._stride, block.conv_specs[-1].features
    if block.shortcut == "A":
        if stride > 1:
            bounds = {"starts": [0, 0], "ends": [2**31, 2**31], "axes": [2, 3]}
            bounds["steps"] = [stride, stride]
            rows = [layers.constant(f"sliced.{k}", v, np.int64) for k, v in bounds.items()]
            x = layers.node("Slice", "sliced", x, *rows)
        missing = features - _in_channels(layers, block)
        edges = [0, missing // 2, 0, 0, 0, missing - missing // 2, 0, 0]
        return layers.node("Pad", "padded", x, layers.constant("edges", edges, np.int64))
    if block.avg_pool_shortcut and stride > 1:
        # At odd sizes the last window is smaller and averages the pixels that it holds.
        x = layers.pool(
            "AveragePool", "downsample_pool", x, stride, stride, ceil_mode=1, count_include_pad=0
        )
        stride = 1
    elif block.avg_pool_shortcut and block.dilation > 1:
        edge = [0, 0, 1, 1]
        x = layers.pool("AveragePool", "downsample_pool", x, 2, 1, edge, count_include_pad=1)
    spec = ConvSpec(features, 1, stride)
    if with_norm:
        return layers.conv_norm(spec, "downsample_conv", x)
    return layers.conv(spec, "downsample_conv", x)


def _attention(layers: _Layers, x: str, channels: int) -> str:
    mean = layers.node("GlobalAveragePool", "mean", x)
    if layers.model.attention == "se":
        hidden = layers.params["fc1"]["kernel"].shape[-1]
        first, second = ConvSpec(hidden, 1), ConvSpec(channels, 1)
        h = layers.relu("relu", layers.conv(first, "fc1", mean, standardized=False))
        gate = layers.node("Sigmoid", "gate", layers.conv(second, "fc2", h, standardized=False))
        return layers.node("Mul", "scaled", x, gate)
    row, column = (
        layers.constant(f"{name}.shape", shape, np.int64)
        for name, shape in (("row", [0, 1, -1]), ("column", [0, -1, 1, 1]))
    )
    kernel = np.transpose(layers.take("conv")["kernel"], (2, 1, 0))  # [k, 1, 1] to [1, 1, k]
    edge = eca_kernel_size(channels) // 2
    y = layers.node(
        "Conv",
        "conv",
        layers.node("Reshape", "row", mean, row),
        layers.constant("conv.weight", kernel),
        kernel_shape=kernel.shape[2:],
        pads=[edge, edge],
    )
    gate = layers.node("Reshape", "column", layers.node("Sigmoid", "gate", y), column)
    return layers.node("Mul", "scaled", x, gate)


def _anti_alias(layers: _Layers, block: ResidualBlock, name: str, x: str, channels: int) -> str:
    if block.anti_alias == "mean":
        return layers.pool("AveragePool", name, x, 2, 2)
    return _blur(layers, name, x, channels)


def _blur(layers: _Layers, name: str, x: str, channels: int) -> str:
    """Add the binomial filter of ``antialiasing.blur_pool`` as a convolution of each channel."""
    edges = layers.constant(f"{name}.edges", [0, 0, 1, 1] * 2, np.int64)
    x = layers.node("Pad", f"{name}.padded", x, edges, mode="reflect")
    binomial = np.outer([1, 2, 1], [1, 2, 1])[:, :, None, None] / np.float32(16)
    kernel = np.repeat(binomial, channels, axis=3)
    return layers.graph.convolution(layers.path + name, x, kernel, None, stride=2, groups=channels)


def _head(
    layers: _Layers, model: ResNet, params: Tree, x: str, image_shape: tuple[int, int, int]
) -> str:
    names = [*(f"fc_hidden_{i}" for i in range(len(model.hidden))), "fc"]
    order: Any = slice(None)
    if model.pooling == "mean":
        x = layers.node("GlobalAveragePool", "pooled", x)
    else:  # The parameters of the first layer see the pixels in the order [H, W, C].
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        stage = model.stages[-2]
        last = jax.eval_shape(
            partial(model.clone(conv_impl="reference").apply, method="features", stages=[stage]),
            {"params": params},
            images,
        )[stage]
        order = np.arange(last.size).reshape(last.shape[1:]).transpose(2, 0, 1).ravel()
    x = layers.node("Flatten", "flat", x)
    for name in names:
        held = layers.take(name)
        weights = [
            layers.constant(f"{name}.weight", held["kernel"][order].T),
            layers.constant(f"{name}.bias", held["bias"]),
        ]
        output = "logits" if name == "fc" else name
        x = layers.node("Gemm", output, x, *weights, transB=1)
        x = x if name == "fc" else layers.relu(f"{name}.relu", x)
        order = slice(None)
    return x


def named_leaves(params: Tree) -> list[tuple[str, Any]]:
    """Return parameters by name, such as ``layer1_0/conv1/kernel``."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [("/".join(key.key for key in path), leaf) for path, leaf in leaves]
