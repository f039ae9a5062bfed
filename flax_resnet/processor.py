"""The instructions that this machine's processor has."""

import os
import platform
import sys
from collections.abc import Set
from functools import cache
from pathlib import Path
from typing import Any

# Products of bfloat16 numbers: AVX-512's and AMX's on x86, and those of ARM.
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@cache
def processor_features() -> frozenset[str]:
    """Return the features of the processor by Linux's names, such as ``"avx2"``.

    Elsewhere it is empty.
    """
    try:
        return parse_features(Path("/proc/cpuinfo").read_text())
    except OSError:
        return frozenset()


# Features that decide which algorithms are fast, and so how results are rounded.
_NOTABLE = (
    *("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"),
    *("neon", "asimd", "sve", "bf16"),
)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_processor() -> dict[str, Any]:
    """Return the name of the processor, the number of cores of this process, and those of its
    features that decide which algorithms are fast."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    names = [
        line.partition(":")[2].strip()
        for line in text.splitlines()
        if line.startswith("model name")
    ]
    return {
        "name": names[0] if names else platform.processor() or platform.machine(),
        "cores": available_cores(),
        "features": [name for name in _NOTABLE if name in processor_features()],
    }


def parse_features(text: str) -> frozenset[str]:
    """Return the features of the first processor in the text of ``/proc/cpuinfo``."""
    for line in text.splitlines():
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):  # x86, ARM
            return frozenset(values.split())
    return frozenset()


def multiplies_bfloat16(features: Set[str]) -> bool:
    """Return whether a processor with these features has products of bfloat16 numbers."""
    return not BFLOAT16.isdisjoint(features)
