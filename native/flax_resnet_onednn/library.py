"""Loads the compiled library and registers its functions as XLA custom calls."""

import ctypes
import functools
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

OLDEST_JAX = (0, 10)  # as in pyproject.toml: the first with the types of ``_varying_axes``
TARGETS = (
    "flax_resnet_forward",
    "flax_resnet_forward_packed",
    "flax_resnet_pack",
    "flax_resnet_input_gradient",
    "flax_resnet_kernel_gradient",
    "flax_resnet_moments",
    "flax_resnet_normalize",
    "flax_resnet_gradient_sums",
    "flax_resnet_normalization_gradient",
    "flax_resnet_max_pool",
    "flax_resnet_max_pool_gradient",
)


@functools.cache
def library() -> ctypes.CDLL:
    """Returns the library, loaded once, and registers its functions under their names with XLA.

    Raises:
        ImportError: The library or oneDNN cannot be loaded, JAX is too old, or the library was
            built for a newer jaxlib.
    """
    if jax.__version_info__ < OLDEST_JAX:
        # Else the first convolution would fail, in a program that can do without this package.
        raise ImportError(
            f"flax_resnet_onednn needs JAX {'.'.join(map(str, OLDEST_JAX))} or newer, and "
            f"{jax.__version__} is installed: update JAX"
        )
    path = Path(__file__).with_name("_library.so")
    try:
        # oneDNN's wheel installs it here. Loaded first, it is found wherever this package is.
        onednn = Path(sysconfig.get_path("data")) / "lib" / "libdnnl.so.3"
        if onednn.exists():
            ctypes.CDLL(str(onednn))
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"flax_resnet_onednn cannot load its library: {error}") from error
    try:
        for name in TARGETS:
            target = jax.ffi.pycapsule(getattr(loaded, name))
            jax.ffi.register_ffi_target(name, target, platform="cpu")
    except (RuntimeError, ValueError) as error:  # XLA refuses functions of a newer interface
        raise ImportError(
            "flax_resnet_onednn was built with the headers of another jaxlib than the installed "
            f"{jax.lib.__version__}: update jaxlib, or build the package with this one, as its "
            f"README says ({error})"
        ) from error
    loaded.flax_resnet_onednn_version.restype = ctypes.c_char_p
    loaded.flax_resnet_instruction_set.restype = ctypes.c_char_p
    loaded.flax_resnet_packed_bytes.restype = ctypes.c_int64
    return loaded


def call(name: str, result: Any) -> Callable[..., Any]:
    """Returns a function that makes a custom call.

    Under ``vmap`` the call runs for one member after another.

    Args:
        name: One of ``TARGETS``.
        result: The shape and dtype of the result, or a tuple of them.
    """
    library()
    function = jax.ffi.ffi_call(name, result, vmap_method="sequential")

    def run(first: jax.Array, *others: jax.Array, **attributes: Any) -> Any:
        operands = _on_this_cpu.bind(first), *others
        axes = _varying_axes(operands)
        results = function(*operands, **attributes)
        # JAX does not know that the results of a custom call vary over the axes of its operands.
        return jax.tree.map(lambda array: _cast_to_varying(array, axes), results)

    return run


# The identity, which cannot be lowered for ``jax.export`` or another platform than the CPU. Every
# custom call is behind it, because JAX itself would lower the call for any platform.
_on_this_cpu = Primitive("flax_resnet_on_this_cpu")
_on_this_cpu.def_impl(lambda x: x)
_on_this_cpu.def_abstract_eval(lambda x: x)
batching.defvectorized(_on_this_cpu)


def _lower(context: mlir.LoweringRuleContext, x: Any) -> Any:
    if context.module_context.lowering_parameters.for_export:
        return _refuse(context, x)
    return [x]


def _refuse(*_: Any) -> Any:
    raise NotImplementedError(
        "flax_resnet_onednn computes on this machine's CPU only and can be neither exported nor "
        'compiled for another platform: create the model with conv_impl="reference" for that.'
    )


mlir.register_lowering(_on_this_cpu, _lower, platform="cpu")
mlir.register_lowering(_on_this_cpu, _refuse)


def match_vma(*arrays: jax.Array) -> list[jax.Array]:
    """Casts arrays so that all vary over the same mapped axes of ``shard_map``.

    Each array then varies over every axis that one of them varies over, and the gradient of an
    array that all devices hold in common is the sum of the devices' gradients.
    """
    axes = _varying_axes(arrays)
    return [_cast_to_varying(array, axes) for array in arrays]


def _varying_axes(arrays: Sequence[jax.Array]) -> frozenset[str]:
    return frozenset().union(*(jax.typeof(array).mat.varying for array in arrays))


def _cast_to_varying(array: jax.Array, axes: frozenset[str]) -> jax.Array:
    missing = tuple(axes - jax.typeof(array).mat.varying)
    return lax.pcast(array, missing, to="varying") if missing else array


def onednn_version() -> str:
    """Returns the version of oneDNN in use, such as ``"3.2.0"``."""
    return library().flax_resnet_onednn_version().decode()


def instruction_set() -> str:
    """Returns the instruction set of our own algorithms: ``"avx512"``, ``"avx2"`` or ``""``.

    It is the widest one that the processor has, at most oneDNN's ``ONEDNN_MAX_CPU_ISA`` from the
    environment.
    """
    return library().flax_resnet_instruction_set().decode()


def has_avx2() -> bool:
    """Returns whether there is an instruction set for batch norm and max-pool, AVX2 at least."""
    return bool(instruction_set())


def bf16_is_fast() -> bool:
    """Returns whether convolutions in bfloat16 are fast here. If not, they run in float32."""
    return bool(library().flax_resnet_bf16_is_fast())
