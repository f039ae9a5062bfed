"""The compiled library: found, loaded, and its functions registered with XLA."""

import ctypes
import functools
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import lax

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
    """The library, loaded once; its functions are XLA custom calls of their names from then on.

    Raises:
      ImportError: it, or oneDNN, cannot be loaded.
    """
    path = Path(__file__).with_name("_library.so")
    try:
        # oneDNN's wheel puts it there; loaded first, it is found wherever this package lies.
        onednn = Path(sysconfig.get_path("data")) / "lib" / "libdnnl.so.3"
        if onednn.exists():
            ctypes.CDLL(str(onednn))
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"flax_resnet_onednn cannot load its library: {error}") from error
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(loaded, name)), platform="cpu")
    loaded.flax_resnet_onednn_version.restype = ctypes.c_char_p
    loaded.flax_resnet_packed_bytes.restype = ctypes.c_int64
    return loaded


def call(name: str, result: Any) -> Callable[..., Any]:
    """The custom call of that name, by the shapes and dtypes of its result or tuple of results;
    under ``vmap`` it runs for one member after another."""
    library()
    function = jax.ffi.ffi_call(name, result, vmap_method="sequential")

    def run(*operands: jax.Array, **attributes: Any) -> Any:
        axes = _varying(operands)
        results = function(*operands, **attributes)
        # Of custom calls JAX does not know that what they return varies as their operands do.
        return jax.tree.map(lambda one: _varied(one, axes), results)

    return run


def match_vma(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, each varying over every mapped axis (``shard_map``) that one of them varies over:
    the gradient of one that all devices share is then the sum of theirs."""
    return [_varied(array, _varying(arrays)) for array in arrays]


def _varying(arrays: Sequence[jax.Array]) -> frozenset[str]:
    return frozenset().union(*(jax.typeof(array).mat.varying for array in arrays))


def _varied(array: jax.Array, axes: frozenset[str]) -> jax.Array:
    missing = tuple(axes - jax.typeof(array).mat.varying)
    return lax.pcast(array, missing, to="varying") if missing else array


def onednn_version() -> str:
    """The version of oneDNN in use, such as ``"3.2.0"``."""
    return library().flax_resnet_onednn_version().decode()


def has_avx2() -> bool:
    """Whether this processor can compute batch normalisation and max-pool here: AVX2 and FMA."""
    return bool(library().flax_resnet_has_avx2())


def bf16_is_fast() -> bool:
    """Whether this processor has fast convolutions in bfloat16; if not, they run in float32."""
    return bool(library().flax_resnet_bf16_is_fast())
