"""Measures the machine's arithmetic peak by a matrix product and a convolution of PyTorch."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys, time, torch
torch.set_default_dtype(getattr(torch, sys.argv[1]))
def rate(operations, run):
    def seconds():
        start = time.perf_counter(); run(); return time.perf_counter() - start
    best, end = seconds(), time.perf_counter() + 10
    for _ in range(19):
        if time.perf_counter() < end:
            best = min(best, seconds())
    return operations / best
a = torch.randn(2048, 2048)
x = torch.randn(8, 256, 28, 28).to(memory_format=torch.channels_last)
kernel = torch.randn(256, 256, 3, 3)
with torch.no_grad():
    print(json.dumps({
        "gemm": rate(2 * 2048**3, lambda: torch.mm(a, a)),
        "convolution": rate(
            2 * 8 * 28**2 * 256**2 * 9, lambda: torch.conv2d(x, kernel, padding=1)
        ),
    }))
"""


def measure(dtype, python=sys.executable):
    """Measures PyTorch's operations per second in a dtype, in a process of its own.

    Each rate is the best of 20 runs, or of the runs that begin within ten seconds. PyTorch's
    threads end with the process.

    Args:
        dtype: ``"float32"`` or ``"bfloat16"``.
        python: The Python that has PyTorch.

    Returns:
        The rate of a product of two 2048x2048 matrices (``"gemm"``) and of a 3x3 convolution of
        eight 28x28 images with 256 channels (``"convolution"``).
    """
    command = [python, "-c", PROGRAM, dtype]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
