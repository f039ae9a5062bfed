"""The machine's arithmetic peak, as a matrix product reaches it."""

import subprocess
import sys

PROGRAM = """
import time, torch
a = torch.randn(2048, 2048)
def seconds():
    start = time.perf_counter(); torch.mm(a, a); return time.perf_counter() - start
print(2 * 2048**3 / min(seconds() for _ in range(20)))
"""


def measure():
    """Operations a second of PyTorch's float32 product of 2048 by 2048, the best of 20; a process
    of its own, so that the threads end."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    return float(done.stdout)
