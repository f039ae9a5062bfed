"""Names and layouts of arrays in torchvision's state dicts and in Flax variables."""

import functools
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ..models import ResNet, default_image_shape
from ..models.blocks import EXPANSION
from ..models.layers import dense_init

COUNTER = "num_batches_tracked"  # updates of PyTorch's batch norm, which we do not use

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
LEAF_ORDER = ("weight", "bias", "running_mean", "running_var")

# PyTorch's ``Sequential`` numbers its members: ResNet-D's stem in timm ...
DEEP_STEM = {
    "conv1_0": "conv1.0",
    "bn1_0": "conv1.1",
    "conv1_1": "conv1.3",
    "bn1_1": "conv1.4",
    "conv1_2": "conv1.6",
}
# ... the convolution in place of its max-pool in ResNet-RS ...
STEM_POOL = {"conv1_pool": "maxpool.0", "bn1_pool": "maxpool.1"}
# ... and the projection of a block, which ResNet-D's average pool precedes.
DOWNSAMPLE = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
POOLED_DOWNSAMPLE = {"downsample_conv": "downsample.1", "downsample_bn": "downsample.2"}


def head_modules(hidden: int) -> dict[str, str]:
    """Return PyTorch's names of the head's modules.

    Without hidden layers that is ``fc``; with them it is a ``Sequential`` of a linear layer and a
    ReLU for each, a dropout, and the classifier.
    """
    if not hidden:
        return {}
    return {f"fc_hidden_{i}": f"fc.{2 * i}" for i in range(hidden)} | {"fc": f"fc.{2 * hidden + 1}"}


@dataclass(frozen=True)
class Leaf:
    """One array of a model's variables.

    Attributes:
        path: Its path, such as ``("params", "layer1_0", "conv1", "kernel")``.
        shape, dtype: Those of the model.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: Any

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape in PyTorch: ``[out, in, H, W]``, ``[out, in]`` or ``[C]``."""
        if len(self.shape) == 4:
            height, width, fan_in, out = self.shape
            return out, fan_in, height, width
        return self.shape[::-1]

    def from_torch(self, array: np.ndarray) -> jax.Array:
        """Return a copy of a PyTorch array in the model's layout and dtype."""
        ours = array.transpose((2, 3, 1, 0) if array.ndim == 4 else None)
        # A copy in order even where nothing is to be done: JAX on CPU uses it without another, and
        # the array may be a page of a file. XLA orders the axes of the others itself.
        if ours.flags.c_contiguous or ours.dtype != self.dtype:
            ours = np.array(ours, self.dtype, order="C")
        return jax.device_put(ours)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """The inverse of ``from_torch``, in the array's own dtype."""
        order = (3, 2, 0, 1) if array.ndim == 4 else None
        return np.array(array.transpose(order), order="C", copy=True)


@functools.lru_cache(maxsize=16)  # tracing takes a second, and a conversion needs it three times
def torch_leaves(
    model: ResNet, channels: int | None = None, inputs: int | None = None
) -> Mapping[str, Leaf]:
    """Return every array of ``model``'s variables by its PyTorch name, without computing any.

    The names are torchvision's for its architectures, timm's for the -D variants, and follow the
    same rules for all others. The model is for images of ``channels``, and its head has ``inputs``,
    see ``fresh_variables``.
    """
    # To trace all blocks would take seconds: the third has the arrays of the second, and so on.
    sizes = tuple(min(size, 2) for size in model.stage_sizes)
    traced = model.clone(conv_impl="reference", stage_sizes=sizes)
    flat = traverse_util.flatten_dict(
        jax.eval_shape(lambda: fresh_variables(traced, jax.random.key(0), channels, inputs))
    )
    for stage, size in enumerate(model.stage_sizes, 1):
        second = {path: leaf for path, leaf in flat.items() if path[1] == f"layer{stage}_1"}
        for block in range(2, size):
            flat |= {
                (kind, f"layer{stage}_{block}", *rest): leaf
                for (kind, _, *rest), leaf in second.items()
            }
    downsample = POOLED_DOWNSAMPLE if model.avg_pool_shortcut else DOWNSAMPLE
    modules = DEEP_STEM | STEM_POOL | downsample | head_modules(len(model.hidden))
    leaves = {
        _torch_name(path[1:], modules): Leaf(path, leaf.shape, leaf.dtype)
        for path, leaf in flat.items()
    }
    return {name: leaves[name] for name in sorted(leaves, key=_torch_order)}


def _torch_name(path: tuple[str, ...], modules: Mapping[str, str]) -> str:
    *parents, leaf = path
    names = [re.sub(r"^(layer\d+)_(\d+)$", r"\1.\2", modules.get(name, name)) for name in parents]
    return ".".join([*names, LEAVES[leaf]])


# Modules after the numbered convolutions of a block or of the stem.
_LAST = {"se": 1, "maxpool": 1, "downsample": 2}


def _torch_order(name: str) -> tuple[Any, ...]:
    """Return a key that sorts names in torchvision's order: stem, stages, classifier."""
    *modules, leaf = name.split(".")
    layer = re.fullmatch(r"layer(\d+)", modules[0])
    stage, block = (int(layer[1]), int(modules[1])) if layer else (0, 0)
    if modules[0] in ("bn_last", "fc"):
        stage, block = sys.maxsize, int(modules[1]) if len(modules) == 2 else 0
    inside = ".".join(modules[2:] if layer else modules)
    kind, number = re.match(r"(\D*)(\d*)", inside).groups()  # type: ignore[union-attr]
    last = _LAST.get(kind.partition(".")[0], 0)
    return stage, block, last, number, not kind.startswith("conv"), inside, LEAF_ORDER.index(leaf)


def fresh_variables(
    model: ResNet, key: jax.Array, channels: int | None = None, inputs: int | None = None
) -> dict[str, Any]:
    """Initialise the variables of ``model`` for images of ``channels``.

    By default they are the model's own ``in_channels``, or 3. Only a head that sees every pixel
    depends on the size of the images: it gets ``inputs``, see ``head_inputs``, by default those of
    images of the usual size.
    """
    height, width, _ = default_image_shape(model)
    if model.pooling == "mean":
        height, width = min(height, 32), min(width, 32)
    image = jnp.zeros((1, height, width, channels or model.in_channels or 3))
    variables = dict(model.init(key, image, train=False))
    params, first = dict(variables["params"]), first_of_head(model)
    kernel = params[first]["kernel"]
    if inputs not in (None, kernel.shape[0]):
        kernel = dense_init(key, (inputs, kernel.shape[1]), kernel.dtype)
        variables["params"] = params | {first: {**params[first], "kernel": kernel}}
    return variables


def first_of_head(model: ResNet) -> str:
    """Return the name of the head's first layer in the variables of ``model``."""
    return "fc_hidden_0" if model.hidden else "fc"


def head_inputs(model: ResNet, kernel: tuple[int, ...]) -> int | None:
    """Return the inputs of a head that sees every pixel.

    Args:
        model: The module.
        kernel: Shape of the first layer's kernel in PyTorch, ``[out, in]``; empty without one.

    Returns:
        None where the model alone decides them, or where no image gives so many.
    """
    if model.pooling == "mean" or len(kernel) < 2:
        return None
    inputs, channels = kernel[1], model.widths[-1] * EXPANSION[model.block]
    return inputs if all(kernel) and inputs % channels == 0 else None


def as_numpy(array: Any) -> np.ndarray:
    """Return a NumPy, JAX or PyTorch array as NumPy, without a copy where possible."""
    if hasattr(array, "detach"):  # a torch tensor; torch itself need not be imported here
        array = array.detach().cpu()
        if "bfloat16" in str(array.dtype):  # NumPy knows it only through ml_dtypes, as JAX does
            return np.asarray(array.view(dtype=_torch_int16(array)).numpy()).view(jnp.bfloat16)
        return array.numpy()
    return np.asarray(array)


def _torch_int16(tensor: Any) -> Any:
    return tensor.new_empty(0).short().dtype
