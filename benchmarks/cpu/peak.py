"""The machine's arithmetic peak, as a matrix product and a convolution reach it."""

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


def measure(dtype):
    """Operations a second of PyTorch's product of 2048 by 2048 in that dtype ("gemm"), and of its
    3x3 convolution of eight 28x28 images of 256 channels ("convolution"), the best of 20 each,
    or of as many as begin within ten seconds; a process of its own, so that the threads end."""
    command = [sys.executable, "-c", PROGRAM, dtype]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
