"""The dtype that ``--model.dtype auto`` is on this run's devices."""

import dataclasses
import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..config import Config
from ..runtime import Dtype, auto_cpu_dtype


def resolve_dtype(config: Config) -> Config:
    """Return the settings with ``model.dtype`` float32 or bfloat16.

    ``auto`` is bfloat16 where the devices of all processes multiply it fast, and otherwise float32.
    A run keeps the dtype, so that it cannot be resumed in another on another machine.
    """
    if config.model.dtype != "auto":
        return config
    uses_native = config.model.conv_impl in ("auto", "onednn")
    is_fast = np.array(
        all(device_dtype(device, uses_native) == "bfloat16" for device in jax.local_devices())
    )
    if jax.process_count() > 1:
        is_fast = multihost_utils.process_allgather(is_fast)
    dtype: Dtype = "bfloat16" if np.all(is_fast) else "float32"
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))


def device_dtype(device: jax.Device, uses_native: bool) -> Dtype:
    """Return the dtype for one device: bfloat16 on TPUs, NVIDIA's GPUs since Ampere, and some CPUs.

    Args:
        device: The device.
        uses_native: Whether a CPU may compute convolutions by ``flax-resnet-onednn``.
    """
    if device.platform == "cpu":
        return auto_cpu_dtype(os.environ.get("XLA_FLAGS", ""), uses_native)
    if device.platform == "tpu":
        return "bfloat16"
    try:  # "8.0" on Ampere; AMD's are names such as gfx90a
        return "bfloat16" if float(device.compute_capability) >= 8 else "float32"
    except (AttributeError, ValueError):
        return "float32"
