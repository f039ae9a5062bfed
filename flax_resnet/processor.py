"""The instructions that this machine's processor has."""

from collections.abc import Set
from functools import cache
from pathlib import Path

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
