"""One operation, several lowerings: chosen while a program is traced, equal in result.

On GPU and TPU XLA's own is good and stays. On CPU it is not; `table.py` says which convolution is
computed how.
"""

from .convolution import Convolution, Lowering
from .pooling import max_pool
from .table import OPS, choose, convolve

__all__ = ["OPS", "Convolution", "Lowering", "choose", "convolve", "max_pool"]
