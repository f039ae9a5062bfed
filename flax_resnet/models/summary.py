"""Parameters, multiply-accumulates, output shapes and memory of a model, without running it."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .blocks import Conv
from .lowerings import choose
from .mnist import MnistResNet
from .resnet import stage_of


@dataclass(frozen=True)
class StageSummary:
    """One stage: its name, the shape of its output without the batch, and its parameters."""

    name: str
    output_shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class ModelSummary:
    """What a model costs.

    Attributes:
      parameters: trainable values.
      macs: multiply-accumulates of the convolutions and the classifier for one image, which
        papers and torchvision call FLOPs.
      stages: stem to classifier.
      weight_bytes: parameters and running statistics.
      activation_bytes: what the backward pass keeps of one image's forward pass, before XLA's
        optimisations: an upper estimate.
      lowerings: how many convolutions are computed in which way here, by its name.
    """

    parameters: int
    macs: int
    stages: tuple[StageSummary, ...]
    weight_bytes: int
    activation_bytes: int
    lowerings: Mapping[str, int]


def default_image_shape(model: nn.Module) -> tuple[int, int, int]:
    """``(H, W, C)`` of the images a model is usually trained on: ImageNet's, CIFAR's, MNIST's."""
    if isinstance(model, MnistResNet):
        return 28, 28, 1
    return (32, 32, 3) if getattr(model, "stem", None) == "cifar" else (224, 224, 3)


def summarize(model: nn.Module, image_shape: tuple[int, int, int] | None = None) -> ModelSummary:
    """Summary of ``model`` for images ``(H, W, C)``, by default :func:`default_image_shape`.

    Nothing is computed.
    """
    image_shape = image_shape or default_image_shape(model)
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros(image.shape), train=False), jax.random.key(0)
    )
    apply = partial(model.apply, train=False)
    outputs = jax.eval_shape(partial(model.apply, method="features"), variables, image)
    sizes = {name: _count(tree) for name, tree in variables["params"].items()}
    del outputs["pooled"]
    names = sorted(outputs, key=lambda name: (name != "stem", name))  # JAX sorts dicts by name
    shapes = {name: outputs[name].shape[1:] for name in names}
    shapes["fc"] = jax.eval_shape(apply, variables, image).shape[1:]

    stages = tuple(
        StageSummary(
            name, shape, sum(n for layer, n in sizes.items() if stage_of(layer, names[-1]) == name)
        )
        for name, shape in shapes.items()
    )
    macs, lowerings = _arithmetic(model, variables, image)
    return ModelSummary(
        parameters=sum(sizes.values()),
        macs=macs,
        stages=stages,
        weight_bytes=_bytes(variables),
        activation_bytes=_activation_bytes(model.clone(conv_impl="reference"), variables, image),
        lowerings=lowerings,
    )


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _activation_bytes(model: nn.Module, variables: Any, image: jax.ShapeDtypeStruct) -> int:
    """Size of the residuals that ``jax.vjp`` stores in training, less the parameters."""
    statistics = {name: tree for name, tree in variables.items() if name != "params"}

    def residuals(params: Any, statistics: Any, image: jax.Array, key: jax.Array) -> Any:
        def forward(params: Any) -> Any:
            rngs = {"dropout": key}
            return model.apply({"params": params} | statistics, image, train=True, rngs=rngs)

        return jax.vjp(forward, params)[1]

    stored = jax.eval_shape(residuals, variables["params"], statistics, image, jax.random.key(0))
    return max(0, _bytes(stored) - _bytes(variables["params"]))


def _arithmetic(
    model: nn.Module, variables: Any, image: jax.ShapeDtypeStruct
) -> tuple[int, Mapping[str, int]]:
    """Multiply-accumulates, counted layer by layer from their meaning, as a lowering may do other
    arithmetic; and the convolutions by the name of their lowering, the most frequent first."""
    counts: list[int] = []
    lowerings: Counter[str] = Counter()

    def count(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        module = context.module
        if isinstance(module, Conv | nn.Dense) and context.method_name == "__call__":
            kernel: jax.Array = module.get_variable("params", "kernel")
            counts.append(math.prod(result.shape) * math.prod(kernel.shape[:-1]))
            if isinstance(module, Conv):
                lowerings[choose(module.convolution(args[0], kernel), module.conv_impl).name] += 1
        return result

    with nn.intercept_methods(count):
        jax.eval_shape(partial(model.apply, train=False), variables, image)
    return sum(counts), dict(lowerings.most_common())
