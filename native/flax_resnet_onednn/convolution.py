"""The convolution with its two gradients, and the fused convolution for inference."""

import ctypes
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from .library import bf16_is_fast, call, library, match_vma

Shape = tuple[int, ...]


class _Options(NamedTuple):
    """The static options of a convolution."""

    stride: int
    padding: int
    groups: int

    def attributes(self) -> dict[str, np.int64]:
        """Returns the options as attributes of a custom call."""
        return {name: np.int64(value) for name, value in self._asdict().items()}


def convolution(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> jax.Array:
    """Convolves images with a kernel, like ``jax.lax.conv_general_dilated``.

    Sums are in float32. On a processor without fast bfloat16 (see ``bf16_is_fast``) bfloat16
    operands are converted to float32 and the result is rounded. The function is differentiable
    once, in reverse mode. Under ``vmap`` the members are computed one after another.

    Args:
        x: Images ``[N, H, W, C]``, float32 or bfloat16.
        kernel: ``[h, w, C / groups, F]`` of the same dtype.
        stride: The stride along both axes.
        padding: The width of the zero padding on each of the four sides.
        groups: The number of groups of channels.

    Returns:
        ``[N, H', W', F]`` of the dtype of ``x``.

    Raises:
        ValueError: The shapes do not fit together.
        TypeError: The dtypes differ, or are neither float32 nor bfloat16.
    """
    options = _Options(stride, padding, groups)
    _check(x, kernel, options)
    x, kernel = match_vma(x, kernel)
    if x.dtype == jnp.bfloat16 and not bf16_is_fast():
        y = _convolution(x.astype(jnp.float32), kernel.astype(jnp.float32), options)
        return y.astype(jnp.bfloat16)
    return _convolution(x, kernel, options)


def pack_kernel(
    kernel: jax.Array, x_shape: Shape, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> jax.Array:
    """Packs a kernel into the layout that ``fused_convolution`` computes with on this machine.

    Args:
        kernel: ``[h, w, C / groups, F]``, float32 or bfloat16.
        x_shape: The shape ``[N, H, W, C]`` of the images that it will be used for.
        stride: As in ``convolution``.
        padding: As in ``convolution``.
        groups: As in ``convolution``.

    Returns:
        An opaque uint8 array ``[bytes]``.

    Raises:
        ValueError: The shapes do not fit together.
        TypeError: The dtype is neither float32 nor bfloat16.
    """
    options = _Options(stride, padding, groups)
    x = jax.ShapeDtypeStruct(x_shape, kernel.dtype)
    _check(x, kernel, options)
    y_shape = _output_shape(x_shape, kernel.shape, options)
    size = _packed_bytes(x_shape, kernel.shape, y_shape, options, kernel.dtype == jnp.bfloat16)
    pack = call("flax_resnet_pack", jax.ShapeDtypeStruct((size,), jnp.uint8))
    shapes = {"x_shape": np.array(x_shape, np.int64), "y_shape": np.array(y_shape, np.int64)}
    return pack(kernel, **shapes, **options.attributes())


def fused_convolution(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    residual: jax.Array | None = None,
    *,
    relu: bool = False,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    packed_from: Shape | None = None,
) -> jax.Array:
    """Computes ``relu(convolution(x, kernel) + bias + residual)`` in one pass, for inference.

    The function is not differentiable.

    Args:
        x: Images ``[N, H, W, C]``; float32, or bfloat16 if ``bf16_is_fast()``.
        kernel: ``[h, w, C / groups, F]`` of the same dtype. If ``packed_from`` is given, the result
            of ``pack_kernel`` for images of this shape.
        bias: ``[F]``, or None.
        residual: An array of the result's shape, or None.
        relu: Whether negative results become zero.
        stride: As in ``convolution``.
        padding: As in ``convolution``.
        groups: As in ``convolution``.
        packed_from: The shape of the kernel before packing, or None if it is not packed.

    Returns:
        ``[N, H', W', F]`` of the dtype of ``x``.

    Raises:
        ValueError: The shapes do not fit together.
        TypeError: The dtypes differ, or are neither float32 nor bfloat16.
    """
    options = _Options(stride, padding, groups)
    shape = tuple(kernel.shape if packed_from is None else packed_from)
    _check(x, jax.ShapeDtypeStruct(shape, x.dtype if packed_from else kernel.dtype), options)
    out = jax.ShapeDtypeStruct(_output_shape(x.shape, shape, options), x.dtype)
    optional = [array for array in (bias, residual) if array is not None]
    attributes: dict[str, Any] = options.attributes() | {
        "has_bias": np.bool_(bias is not None),
        "has_residual": np.bool_(residual is not None),
        "relu": np.bool_(relu),
    }
    name = "flax_resnet_forward"
    if packed_from is not None:
        name += "_packed"
        attributes["kernel_shape"] = np.array(shape, np.int64)
    return call(name, out)(x, kernel, *optional, **attributes)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: jax.Array, kernel: jax.Array, options: _Options) -> jax.Array:
    return fused_convolution(x, kernel, **options._asdict())


def _convolution_forward(x: Any, kernel: Any, options: _Options) -> Any:
    # Which gradients are needed is static, so the pytree's structure holds it: () or None.
    needed = tuple(() if operand.perturbed else None for operand in (x, kernel))
    return _convolution(x.value, kernel.value, options), (x.value, kernel.value, needed)


def _convolution_backward(options: _Options, residuals: Any, dy: Any) -> Any:
    x, kernel, needed = residuals
    dx = dkernel = None
    if isinstance(dy, SymbolicZero):
        return dx, dkernel
    attributes = options.attributes()
    like_x, like_kernel = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, kernel))
    if needed[0] is not None:
        dx = call("flax_resnet_input_gradient", like_x)(dy, kernel, **attributes)
    if needed[1] is not None:
        # dkernel depends on dx, which reads the kernel. XLA then knows that the updated kernel,
        # which depends on dkernel, may overwrite the old one. Otherwise it would copy all
        # parameters in each step.
        dependencies = () if dx is None else (dx,)
        gradient = call("flax_resnet_kernel_gradient", like_kernel)
        dkernel = gradient(x, dy, *dependencies, **attributes)
    return dx, dkernel


_convolution.defvjp(_convolution_forward, _convolution_backward, symbolic_zeros=True)


def _output_shape(x: Shape, kernel: Shape, options: _Options) -> Shape:
    """Returns the shape of the result of a convolution."""
    sides = (
        (size + 2 * options.padding - window) // options.stride + 1
        for size, window in zip(x[1:3], kernel[:2], strict=True)
    )
    return (x[0], *sides, kernel[3])


def _check(x: Any, kernel: Any, options: _Options) -> None:
    """Raises the exceptions that ``convolution`` documents."""
    shapes = f"images {tuple(x.shape)} and a kernel {tuple(kernel.shape)}"
    if len(x.shape) != 4 or len(kernel.shape) != 4:
        raise ValueError(
            f"a convolution takes images [N, H, W, C] and a kernel [h, w, C / groups, F], not "
            f"{shapes}"
        )
    stride, padding, groups = options
    if stride < 1 or padding < 0 or groups < 1:
        raise ValueError(
            f"stride and groups must be at least 1 and padding at least 0, not {stride}, {groups} "
            f"and {padding}"
        )
    if x.shape[3] != kernel.shape[2] * groups or kernel.shape[3] % groups:
        raise ValueError(f"{groups} groups do not fit {shapes}")
    if 0 in x.shape or 0 in kernel.shape or min(_output_shape(x.shape, kernel.shape, options)) < 1:
        raise ValueError(f"the result of padding {padding} and {shapes} would be empty")
    if x.dtype != kernel.dtype or x.dtype not in (jnp.float32, jnp.bfloat16):
        raise TypeError(
            f"oneDNN takes images and kernel of one dtype, float32 or bfloat16, not {x.dtype} and "
            f"{kernel.dtype}"
        )


def _packed_bytes(x: Shape, kernel: Shape, y: Shape, options: _Options, is_bf16: bool) -> int:
    """Returns the size in bytes of the packed kernel of a convolution with these shapes."""
    message = ctypes.create_string_buffer(500)
    shapes = ((ctypes.c_int64 * 4)(*shape) for shape in (x, kernel, y))
    integers = (ctypes.c_int64(option) for option in options)
    size = library().flax_resnet_packed_bytes(
        *shapes, *integers, ctypes.c_int(is_bf16), message, ctypes.c_int64(500)
    )
    if size < 0:
        raise ValueError(message.value.decode())
    return size
