"""Convolutions by oneDNN, where the optional distribution ``flax-resnet-onednn`` is installed."""

from importlib.util import find_spec

from .convolution import Lowering


def is_available() -> bool:
    """Whether ``flax_resnet_onednn`` can be imported."""
    return find_spec("flax_resnet_onednn") is not None


# Rows of family "onednn"; none without the package.
LOWERINGS: tuple[Lowering, ...] = ()
