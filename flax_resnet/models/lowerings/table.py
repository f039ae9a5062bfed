"""The table of convolution algorithms, and the choice between them.

To add an algorithm, write a file next to this one with ``LOWERINGS``, rows of ``Lowering``, and
list it in ``TABLE``. The first row that is supported and profitable is used.
``tests/models/test_lowerings.py`` compares values and gradients of every row with the reference
implementation (``convolution.reference``).
"""

import jax

from . import grouped, onednn, pointwise
from .convolution import (
    Convolution,
    Epilogue,
    Lowering,
    always,
    check,
    is_static,
    reference,
)

# Value of ``conv_impl`` -> families of algorithms that it allows.
ALLOWED_FAMILIES: dict[str, tuple[str, ...]] = {
    "auto": ("onednn", "jax"),  # the fastest; oneDNN where flax_resnet_onednn is installed
    "jax": ("jax",),
    "onednn": ("onednn", "jax"),  # the same, but an error where it cannot be imported
    "reference": (),
}
CONV_IMPLS = tuple(ALLOWED_FAMILIES)

TABLE: tuple[Lowering, ...] = (
    *onednn.LOWERINGS,
    *pointwise.LOWERINGS,
    *grouped.LOWERINGS,
)

REFERENCE = Lowering("XLA", "jax", "any", always, reference)


def choose(conv: Convolution, conv_impl: str = "auto") -> Lowering:
    """The algorithm for ``conv`` on ``jax.default_backend()``.

    Raises:
        ValueError: An unknown ``conv_impl``, or ``"onednn"`` where it cannot be imported.
    """
    if conv_impl not in ALLOWED_FAMILIES:
        raise ValueError(f"conv_impl={conv_impl!r} is not one of {CONV_IMPLS}")
    if conv_impl == "onednn" and not onednn.is_available():
        raise ValueError(
            "conv_impl='onednn' needs the package flax-resnet-onednn, which cannot be imported: "
            f"{onednn.import_error()}"
        )
    if not is_static(conv.x) or 0 in conv.x.shape or 0 in conv.kernel.shape:
        return REFERENCE
    if conv.dilation > 1:  # no row below computes it
        return REFERENCE
    backend, families = jax.default_backend(), ALLOWED_FAMILIES[conv_impl]
    for row in TABLE:
        is_allowed = row.backend == backend and row.family in families
        if is_allowed and row.is_supported(conv) and row.is_profitable(conv):
            return row
    return REFERENCE


def convolve(conv: Convolution, conv_impl: str = "auto") -> jax.Array:
    """Computes a convolution by the algorithm that ``choose`` selects.

    The reference implementation is ``lax.conv_general_dilated``. Results agree up to rounding, with
    two exceptions: where groups are merged (``grouped.py``), an infinity or NaN in one group also
    makes its neighbours in the same block NaN; and where ``flax-resnet-onednn`` uses Winograd's
    algorithm (float32, 3x3, stride 1, channels and features in multiples of 16), it can make the
    other pixels of its output tile of 4x4 NaN. Some algorithms have custom gradient rules, so that
    forward-mode differentiation (``jax.jvp``, ``jax.hessian``) needs ``conv_impl="reference"``.

    The choice depends on ``jax.default_backend()`` when the call is traced. A program traced for
    another device than the default one computes correct results, but may be slower.

    Args:
        conv: Operands of one floating dtype, stride, padding, groups and dilation.
        conv_impl: ``"auto"``, ``"jax"`` (without oneDNN), ``"onednn"`` or ``"reference"``.

    Returns:
        ``[N, H', W', F]`` of the dtype of the operands.

    Raises:
        ValueError: The shapes do not fit together, or ``conv_impl`` is unknown.
        TypeError: The dtypes do not fit together.
    """
    check(conv)
    return choose(conv, conv_impl).lower(conv)


def convolve_fused(
    conv: Convolution, epilogue: Epilogue, packed: jax.Array | None = None, conv_impl: str = "auto"
) -> jax.Array:
    """Computes a convolution and its epilogue, in one pass if the algorithm supports that.

    Args:
        conv: As in ``convolve``.
        epilogue: The operations after the convolution.
        packed: The result of ``pack`` for this kernel and images of this shape, or None.
        conv_impl: As in ``convolve``.
    """
    check(conv)
    row = choose(conv, conv_impl)
    if row.lower_fused is not None:
        return row.lower_fused(conv, epilogue, packed)
    return epilogue.apply(row.lower(conv))


def pack(conv: Convolution, conv_impl: str = "auto") -> jax.Array | None:
    """Rearranges the kernel as ``convolve_fused`` otherwise does at each call.

    Returns:
        The packed kernel, or None where packing saves nothing.
    """
    row = choose(conv, conv_impl)
    return None if row.pack is None else row.pack(conv)
