"""Convolutions on the CPU by oneDNN, as XLA custom calls: images NHWC, kernels HWIO."""

from .convolution import convolution, fused_convolution, pack_kernel
from .library import bf16_is_fast, onednn_version

__all__ = [
    "bf16_is_fast",
    "convolution",
    "fused_convolution",
    "onednn_version",
    "pack_kernel",
]
