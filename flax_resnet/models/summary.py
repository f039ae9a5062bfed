"""Parameters, multiply-accumulates, output shapes and memory of a model, without running it."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Conv
from .lowerings import choose
from .resnet import ResNet, stage_of

# ``(H, W, C)`` of the images for which a stem was designed; 224x224 RGB for the others.
IMAGE_SHAPES = {"cifar": (32, 32, 3), "mnist": (28, 28, 1)}


@dataclass(frozen=True)
class StageSummary:
    """Size of one stage of a model.

    Attributes:
        name: Name of the stage.
        output_shape: Shape of its output without the batch.
        parameters: Number of its parameters.
        macs: Multiply-accumulates of its convolutions and dense layers for one image.
    """

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


@dataclass(frozen=True)
class ModelSummary:
    """Size and cost of a model.

    Attributes:
        parameters: Number of trainable values.
        macs: Multiply-accumulates of the convolutions and the classifier for one image, which
            papers and torchvision call FLOPs.
        stages: Summaries of the stages, stem to classifier.
        weight_bytes: Size of parameters and running statistics.
        activation_bytes: Size of the activations of one image that the backward pass needs, before
            XLA's optimisations: an upper estimate.
        lowerings: Number of convolutions by the name of the algorithm that computes them here.
    """

    parameters: int
    macs: int
    stages: tuple[StageSummary, ...]
    weight_bytes: int
    activation_bytes: int
    lowerings: Mapping[str, int]

    def _repr_html_(self) -> str:
        """The stages as a table, which a notebook shows."""
        rows = [
            (stage.name, "×".join(map(str, stage.output_shape)), stage.parameters, stage.macs)
            for stage in self.stages
        ]
        rows.append(("all stages", "", self.parameters, self.macs))
        body = "".join(
            f"<tr><td>{escape(name)}</td><td>{shape}</td><td>{parameters:,}</td>"
            f"<td>{macs / 1e9:.3f}</td></tr>"
            for name, shape, parameters, macs in rows
        )
        heads = "".join(f"<th>{name}</th>" for name in ("stage", "output", "parameters", "GMACs"))
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def default_image_shape(model: ResNet) -> tuple[int, int, int]:
    """``(H, W, C)`` of the images on which models with this stem are usually trained."""
    height, width, channels = IMAGE_SHAPES.get(model.stem, (224, 224, 3))
    return height, width, model.in_channels or channels


def summarize(model: ResNet, image_shape: tuple[int, ...] | None = None) -> ModelSummary:
    """Summarises a model by tracing it; nothing is computed.

    Args:
        model: The model.
        image_shape: ``(H, W, C)`` of the images, by default ``default_image_shape(model)``; with
            ``start_stage`` that of the input of this stage without the batch.

    Raises:
        ValueError: A model with ``start_stage`` has no default.
    """
    if image_shape is None:
        if model.start_stage is not None:
            raise ValueError(
                f"the model starts at {model.start_stage}: give image_shape, the shape of the "
                "input of this stage without the batch"
            )
        image_shape = default_image_shape(model)
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros(image.shape), train=False), jax.random.key(0)
    )
    apply = partial(model.apply, train=False)
    outputs = jax.eval_shape(partial(model.apply, method="features"), variables, image)
    sizes = {name: _count(tree) for name, tree in variables["params"].items()}
    shapes = {name: outputs[name].shape[1:] for name in model.stages if name in outputs}
    shapes["fc"] = jax.eval_shape(apply, variables, image).shape[1:]

    parameters = Counter[str]()
    for layer, size in sizes.items():
        parameters[stage_of(layer, model.stages[-2])] += size
    macs, lowerings = _arithmetic(model, variables, image)
    return ModelSummary(
        parameters=sum(sizes.values()),
        macs=macs.total(),
        stages=tuple(
            StageSummary(name, shape, parameters[name], macs[name])
            for name, shape in shapes.items()
        ),
        weight_bytes=_bytes(variables),
        activation_bytes=_activation_bytes(model, variables, image),
        lowerings=lowerings,
    )


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _activation_bytes(model: ResNet, variables: Any, image: jax.ShapeDtypeStruct) -> int:
    """Size of the residuals that ``jax.vjp`` stores in training, without the parameters."""
    # One image is neither divided into groups nor mapped over devices.
    model = model.clone(conv_impl="reference", batch_norm_groups=1, axis_name=None)
    statistics = {name: tree for name, tree in variables.items() if name != "params"}

    def residuals(params: Any, statistics: Any, image: jax.Array, key: jax.Array) -> Any:
        def forward(params: Any) -> Any:
            rngs = {"dropout": key}
            return model.apply({"params": params} | statistics, image, train=True, rngs=rngs)

        # Its leaves alone: JAX keeps structures of results, and that of the residuals holds their
        # whole program, which a process of many runs would collect.
        return jax.tree.leaves(jax.vjp(forward, params)[1])

    stored = jax.eval_shape(residuals, variables["params"], statistics, image, jax.random.key(0))
    return max(0, _bytes(stored) - _bytes(variables["params"]))


def _arithmetic(
    model: ResNet, variables: Any, image: jax.ShapeDtypeStruct
) -> tuple[Counter[str], Mapping[str, int]]:
    """Multiply-accumulates by stage, and convolutions by algorithm, the most frequent first.

    Operations are counted from the shapes of each layer, because an algorithm may do other
    arithmetic.
    """
    counts: Counter[str] = Counter()
    lowerings: Counter[str] = Counter()

    def count(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        module = context.module
        if isinstance(module, Conv | nn.Dense) and context.method_name == "__call__":
            kernel: jax.Array = module.get_variable("params", "kernel")
            stage = stage_of(module.path[0], model.stages[-2])
            counts[stage] += math.prod(result.shape) * math.prod(kernel.shape[:-1])
            if isinstance(module, Conv):
                lowerings[choose(module.convolution(args[0], kernel), module.conv_impl).name] += 1
        return result

    with nn.intercept_methods(count):
        jax.eval_shape(partial(model.apply, train=False), variables, image)
    return counts, dict(lowerings.most_common())
