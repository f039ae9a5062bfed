"""The table of lowerings, and the choice.

To add a way of computing convolutions: a file beside this one with its ``LOWERINGS``, rows of
:class:`Lowering`, and its name in ``TABLE``. The row above wins. ``tests/models/test_lowerings.py``
holds every row, values and gradients, to the meaning (``convolution.reference``).
"""

import jax

from . import grouped, onednn, pointwise, strided
from .convolution import Convolution, Epilogue, Lowering, check, reference

# Which families of lowerings a value of ``conv_impl`` admits.
FAMILIES: dict[str, tuple[str, ...]] = {
    "auto": ("onednn", "jax"),  # the best there is; oneDNN where flax_resnet_onednn is installed
    "jax": ("jax",),
    "onednn": ("onednn", "jax"),  # the same, but an error where it is not installed
    "reference": (),
}
CONV_IMPLS = tuple(FAMILIES)

TABLE: tuple[Lowering, ...] = (
    *onednn.LOWERINGS,
    *pointwise.LOWERINGS,
    *grouped.LOWERINGS,
    *strided.LOWERINGS,
)

REFERENCE = Lowering("XLA's own", "jax", "any", lambda conv: True, reference)


def choose(conv: Convolution, conv_impl: str = "auto") -> Lowering:
    """The lowering of ``conv`` for ``jax.default_backend()``.

    Raises:
      ValueError: an unknown ``conv_impl``, or ``"onednn"`` where that is not installed.
    """
    if conv_impl not in FAMILIES:
        raise ValueError(f"conv_impl={conv_impl!r} is not one of {CONV_IMPLS}")
    if conv_impl == "onednn" and not onednn.is_available():
        raise ValueError(
            "conv_impl='onednn' needs the package flax-resnet-onednn, which is not installed"
        )
    if 0 in conv.x.shape or 0 in conv.kernel.shape:
        return REFERENCE
    backend = jax.default_backend()
    for row in TABLE:
        if row.backend == backend and row.family in FAMILIES[conv_impl] and row.applies(conv):
            return row
    return REFERENCE


def convolve(conv: Convolution, conv_impl: str = "auto") -> jax.Array:
    """The convolution's result, ``[N, H', W', F]`` of the dtype of its operands.

    What it means is ``lax.conv_general_dilated``; how it is computed is chosen by :func:`choose`.
    Results agree up to rounding, with one exception: where groups are merged (``grouped.py``) an
    infinity or NaN in one group also makes its neighbours in the same block NaN. The gradients of
    some lowerings are rules of their own, so that forward-mode differentiation (``jax.jvp``,
    ``jax.hessian``) needs ``conv_impl="reference"``.

    The choice is made by ``jax.default_backend()`` when the call is traced. A program traced for
    another device than the default one gets right results, maybe slower.

    Args:
      conv: operands of one floating dtype, stride, padding and groups.
      conv_impl: ``"auto"``, ``"jax"`` (without oneDNN), ``"onednn"`` or ``"reference"``.

    Raises:
      ValueError, TypeError: shapes or dtypes that do not fit together, an unknown ``conv_impl``.
    """
    check(conv)
    return choose(conv, conv_impl).lower(conv)


def convolve_fused(
    conv: Convolution, epilogue: Epilogue, packed: jax.Array | None = None, conv_impl: str = "auto"
) -> jax.Array:
    """:func:`convolve`, and what follows it in a net without batch norm, in one pass where the
    lowering can. ``packed`` is what :func:`pack` gave for this kernel and images of this shape."""
    check(conv)
    row = choose(conv, conv_impl)
    if row.lower_fused is not None:
        return row.lower_fused(conv, epilogue, packed)
    return epilogue.apply(row.lower(conv))


def pack(conv: Convolution, conv_impl: str = "auto") -> jax.Array | None:
    """The kernel as :func:`convolve_fused` would have to rearrange it at each call, or None where
    there is nothing to gain."""
    row = choose(conv, conv_impl)
    return None if row.pack is None else row.pack(conv)
