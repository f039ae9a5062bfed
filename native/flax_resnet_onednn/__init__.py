"""Convolutions by oneDNN and max-pool for JAX on the CPU, as XLA custom calls.

Images are NHWC and kernels HWIO. Batch normalisation is in ``flax_resnet_onednn.normalization``.
"""

from .convolution import convolution, fused_convolution, pack_kernel
from .library import bf16_is_fast, has_avx2, instruction_set, onednn_version
from .pooling import max_pool

__all__ = [
    "bf16_is_fast",
    "convolution",
    "fused_convolution",
    "has_avx2",
    "instruction_set",
    "max_pool",
    "onednn_version",
    "pack_kernel",
]
