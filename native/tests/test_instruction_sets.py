"""Instruction sets: the widest is chosen, a limited one never meets wider instructions."""

import os
import subprocess
import sys

import flax_resnet_onednn as onednn
import pytest

# Prints the set in use, and digests of a convolution by each algorithm and of its gradients.
PROGRAM = """
import zlib
import flax_resnet_onednn as onednn, jax, jax.numpy as jnp, numpy as np
print(onednn.instruction_set(), onednn.has_avx2())
rng = np.random.default_rng(0)
for shape, kernel, groups in [
    ((2, 14, 14, 64), (3, 3, 64, 80), 1), ((2, 9, 9, 40), (5, 5, 40, 33), 1),
    ((2, 9, 9, 128), (3, 3, 4, 128), 32), ((2, 9, 9, 128), (3, 3, 8, 128), 16),
    ((2, 9, 9, 256), (3, 3, 32, 256), 8),
]:
    x, k = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in (shape, kernel))
    y, vjp = jax.vjp(lambda x, k: onednn.convolution(x, k, padding=1, groups=groups), x, k)
    for array in (y, *vjp(jnp.cos(y))):
        digest = zlib.crc32(np.asarray(array).tobytes())
        print(f"{digest:08x} {float(jnp.abs(array).sum()):.3e}")
"""


def run(**environment: str) -> list[str]:
    """Returns what the program prints in a process with these variables."""
    command = [sys.executable, "-c", PROGRAM]
    variables = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run(command, check=True, text=True, capture_output=True, env=variables)
    return done.stdout.splitlines()


def test_the_widest_set_of_the_processor_is_used():
    with open("/proc/cpuinfo") as file:
        flags = next(line for line in file if line.startswith("flags")).split()
    avx512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
    widest = "avx512" if avx512 <= set(flags) else "avx2" if {"avx2", "fma"} <= set(flags) else ""
    assert onednn.instruction_set() == widest


@pytest.mark.skipif(not onednn.has_avx2(), reason="the processor has no set to compare")
def test_sets_agree_in_every_bit_and_a_limit_is_kept():
    own = {"FLAX_RESNET_ALGORITHMS": "own"}
    widest = run(**own)
    masked = run(**own, ONEDNN_MAX_CPU_ISA="AVX2")
    assert masked[0] == "avx2 True"
    assert masked[1:] == widest[1:]
    none = run(ONEDNN_MAX_CPU_ISA="SSE41")
    assert none[0].split() == ["False"]
    for line, expected in zip(none[1:], widest[1:], strict=True):
        assert float(line.split()[1]) == pytest.approx(float(expected.split()[1]), rel=2e-3)


def test_an_unknown_preference_is_refused_by_name():
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(FLAX_RESNET_ALGORITHMS="fast")
    assert "FLAX_RESNET_ALGORITHMS is fastest, own or onednn, not fast" in error.value.stderr
