"""The machine's arithmetic peak, as a matrix product and a convolution reach it."""

import json
import subprocess
import sys

PROGRAM = """
import json, time, torch
def rate(operations, run):
    def seconds():
        start = time.perf_counter(); run(); return time.perf_counter() - start
    return operations / min(seconds() for _ in range(20))
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


def measure():
    """Operations a second of PyTorch's float32 product of 2048 by 2048 ("gemm"), and of its 3x3
    convolution of eight 28x28 images of 256 channels ("convolution"), the best of 20 each; a
    process of its own, so that the threads end."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    return json.loads(done.stdout)
