"""Batch norm folded into the convolutions, for inference."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
      variables: its ``{"params", "batch_stats"}``; they are not changed. Works under ``jit``, and
        on NumPy arrays gives NumPy arrays.

    Returns:
      A model with ``norm="folded"``, and its ``{"params"}``, of the same types as before.
    """
    if getattr(model, "norm", None) != "batch":
        return model, variables
    epsilon = getattr(model, "epsilon", 1e-5)
    fold = _to_affine if getattr(model, "version", "v1.5") == "v2" else _into_convolutions
    params = fold(variables["params"], variables["batch_stats"], epsilon)
    return model.clone(norm="folded"), {"params": params}


def pack_kernels(model: nn.Module, variables: Tree, images: Any) -> Tree:
    """The variables and, for a net of :func:`fold_batch_norm`, its kernels packed.

    Where oneDNN computes the convolutions (see ``native/``), each call rearranges the kernels for
    it; a collection ``packed`` of ready ones saves that, and takes as much memory as the kernels.
    Elsewhere, and for other nets, nothing is added.

    Args:
      model: a net; its ``conv_impl`` says how convolutions are computed.
      variables: its variables.
      images: an array, or ``jax.ShapeDtypeStruct``, of the shape ``[N, H, W, C]`` and dtype of the
        images to come: images of another shape may need another layout, which is an error then.

    Returns:
      Variables for the same ``model.apply(variables, images, train=False)``, on this machine.
    """
    if getattr(model, "norm", None) != "folded":
        return variables
    given = {name: tree for name, tree in variables.items() if name != "packed"}
    apply = partial(model.apply, train=False, mutable=["packed"])
    zeros = jnp.zeros(images.shape, images.dtype)
    return given | jax.jit(apply)(given, zeros)[1]


def _affine(params: Tree, stats: Tree, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Factor and summand ``[C]`` that one batch norm comes down to."""
    scale = (stats["var"] + epsilon) ** -0.5 * params["scale"]
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
