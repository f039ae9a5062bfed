"""Batch norm folded into the convolutions, for inference."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jax import lax

Tree = Mapping[str, Any]


def fold_batch_norm(model: nn.Module, variables: Tree) -> tuple[nn.Module, Tree]:
    """The same function at inference, without batch norm: ``(model, variables)``.

    With running statistics, batch norm is an affine map of each channel. Where it follows a
    convolution (v1, v1.5, the plain nets and the net for MNIST) it goes into that convolution's
    kernel and a bias of its own, and nothing is left of it. Pre-activation nets (v2) normalise sums
    of branches, which no single convolution holds: there each norm becomes the affine map.

    Logits agree up to rounding; ``train=True`` has no meaning for the result. A model without batch
    norm (``norm="group"``, or folded already) is returned as it is.

    Args:
      model: of :func:`create_model`.
      variables: its ``{"params", "batch_stats"}``; they are not changed. Works under ``jit``.

    Returns:
      A model with ``norm="folded"``, and its ``{"params"}``, of the same types as before.
    """
    if getattr(model, "norm", None) != "batch":
        return model, variables
    epsilon = getattr(model, "epsilon", 1e-5)
    fold = _to_affine if getattr(model, "version", "v1.5") == "v2" else _into_convolutions
    params = fold(variables["params"], variables["batch_stats"], epsilon)
    return model.clone(norm="folded"), {"params": params}


def _affine(params: Tree, stats: Tree, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Factor and summand ``[C]`` that one batch norm comes down to."""
    scale = lax.rsqrt(stats["var"] + epsilon) * params["scale"]
    return scale, params["bias"] - stats["mean"] * scale


def _to_affine(params: Tree, stats: Tree, epsilon: float) -> Tree:
    folded = dict(params)
    for name, inner in stats.items():
        if "var" in inner:
            scale, bias = _affine(params[name], inner, epsilon)
            dtypes = params[name]["scale"].dtype, params[name]["bias"].dtype
            folded[name] = {"scale": scale.astype(dtypes[0]), "bias": bias.astype(dtypes[1])}
        else:
            folded[name] = _to_affine(params[name], inner, epsilon)
    return folded


def _into_convolutions(params: Tree, stats: Tree, epsilon: float) -> Tree:
    folded = dict(params)
    for name, inner in stats.items():
        if "var" not in inner:
            folded[name] = _into_convolutions(params[name], inner, epsilon)
            continue
        scale, bias = _affine(folded.pop(name), inner, epsilon)
        conv = name.replace("bn", "conv")
        if conv not in params:
            conv = "conv1_2"  # the last of the deep stem, before bn1
        kernel = params[conv]["kernel"]
        folded[conv] = {
            "kernel": (kernel * scale).astype(kernel.dtype),
            "bias": bias.astype(kernel.dtype),
        }
    return folded
