"""Convolutions on the CPU by oneDNN, as XLA custom calls: images NHWC, kernels HWIO. Max-pool too;
batch normalisation is in :mod:`.normalization`."""

from .convolution import convolution, fused_convolution, pack_kernel
from .library import bf16_is_fast, has_avx2, onednn_version
from .pooling import max_pool

__all__ = [
    "bf16_is_fast",
    "convolution",
    "fused_convolution",
    "has_avx2",
    "max_pool",
    "onednn_version",
    "pack_kernel",
]
