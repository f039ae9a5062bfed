"""Batch norm folded into the convolutions, for inference."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .layers import standardize
from .resnet import ResNet

Tree = Mapping[str, Any]


def fold_batch_norm(model: ResNet, variables: Tree) -> tuple[ResNet, Tree]:
    """Folds batch norm into the convolutions; the function at inference stays the same.

    With running statistics, batch norm is an affine map of each channel. Where it follows a
    convolution (every version but v2) it is folded into the kernel and a bias of that convolution.
    Pre-activation networks (v2) normalise sums of branches, which no single convolution computes:
    there each norm becomes the affine map.

    Logits agree up to rounding; ``train=True`` has no effect on the result. A model without batch
    norm (``norm="group"``, or folded already) is returned unchanged.

    Args:
        model: Result of ``create_model``.
        variables: Its ``{"params", "batch_stats"}``, which are not modified. Works under ``jit``,
            and maps NumPy arrays to NumPy arrays.

    Returns:
        A model with ``norm="folded"``, and its ``{"params"}``, of the same dtypes as before.
    """
    if model.norm != "batch":
        return model, variables
    params, statistics = variables["params"], variables["batch_stats"]
    if model.version == "v2":
        return model.clone(norm="folded"), {"params": _to_affine(params, statistics, model.epsilon)}
    if model.standardized_kernels:
        params = _standardized(params)
    folded = _into_convolutions(params, statistics, model.epsilon)
    return model.clone(norm="folded", standardized_kernels=False), {"params": folded}


def pack_kernels(model: ResNet, variables: Tree, images: Any) -> Tree:
    """Packs the kernels of a folded model into the layout that its convolutions prefer.

    Where oneDNN computes the convolutions (see ``native/``), each call rearranges the kernels.
    Packed kernels in a collection ``packed`` save that work, and take as much memory as the
    kernels. Nothing is added on other backends and for other models.

    Args:
        model: A model; its ``conv_impl`` selects the algorithms.
        variables: Its variables.
        images: An array or ``jax.ShapeDtypeStruct`` of the shape ``[N, H, W, C]`` and dtype of the
            images to come. Images of another shape may need another layout and then raise an error.

    Returns:
        Variables for the same ``model.apply(variables, images, train=False)`` on this machine.
    """
    if model.norm != "folded":
        return variables
    unpacked = {name: tree for name, tree in variables.items() if name != "packed"}

    @jax.jit
    def pack(variables: Tree, images: Any) -> Tree:
        # Without the logits as a result, XLA leaves the convolutions out of this program.
        return model.apply(variables, images, train=False, mutable=["packed"])[1]

    return unpacked | pack(unpacked, jnp.zeros(images.shape, images.dtype))


def _affine(params: Tree, stats: Tree, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Scale and bias ``[C]`` of the affine map that one batch norm computes at inference."""
    scale = (stats["var"] + epsilon) ** -0.5 * params["scale"]
    return scale, params["bias"] - stats["mean"] * scale


def _to_affine(params: Tree, stats: Tree, epsilon: float) -> Tree:
    """Replaces every batch norm by its affine map."""
    folded = dict(params)
    for name, inner in stats.items():
        if "var" in inner:
            scale, bias = _affine(params[name], inner, epsilon)
            dtypes = params[name]["scale"].dtype, params[name]["bias"].dtype
            folded[name] = {"scale": scale.astype(dtypes[0]), "bias": bias.astype(dtypes[1])}
        else:
            folded[name] = _to_affine(params[name], inner, epsilon)
    return folded


def _standardized(params: Tree) -> Tree:
    """Standardises the kernels of all convolutions but those of attentions."""

    def standardized(path: Any, leaf: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        is_kernel = names[-1] == "kernel" and leaf.ndim == 4 and "se" not in names
        return standardize(leaf) if is_kernel else leaf

    return jax.tree_util.tree_map_with_path(standardized, params)


def _into_convolutions(params: Tree, stats: Tree, epsilon: float) -> Tree:
    """Folds every batch norm into the kernel and a bias of the convolution before it."""
    folded = dict(params)
    for name, inner in stats.items():
        if "var" not in inner:
            folded[name] = _into_convolutions(params[name], inner, epsilon)
            continue
        scale, bias = _affine(folded.pop(name), inner, epsilon)
        conv = name.replace("bn", "conv")
        if conv not in params:
            conv = "conv1_2"  # The last convolution of the deep stem precedes bn1.
        kernel = params[conv]["kernel"]
        folded[conv] = {
            "kernel": (kernel * scale).astype(kernel.dtype),
            "bias": bias.astype(kernel.dtype),
        }
    return folded
