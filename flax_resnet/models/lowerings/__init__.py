"""One operation, several lowerings: chosen while a program is traced, equal in result.

On GPU and TPU XLA's own is good and stays. On CPU it is not; `table.py` says which convolution is
computed how.
"""

from .convolution import Convolution, Epilogue, Lowering
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
]
