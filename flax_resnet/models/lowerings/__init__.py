"""Algorithms for convolutions, batch norm and max-pool on CPU; they agree up to rounding.

A lowering is chosen while a program is traced. On GPU and TPU XLA's own convolutions are fast and
stay; on CPU ``table.py`` chooses by shape and dtype.
"""

from .convolution import Convolution, Epilogue, Lowering, relu, varying_axes
from .pooling import max_pool
from .table import CONV_IMPLS, choose, convolve, convolve_fused, pack

__all__ = [
    "CONV_IMPLS",
    "Convolution",
    "Epilogue",
    "Lowering",
    "choose",
    "convolve",
    "convolve_fused",
    "max_pool",
    "pack",
    "relu",
    "varying_axes",
]
