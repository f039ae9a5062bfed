"""oneDNN's OpenMP library and PyTorch's in one process: both compute what they compute alone."""

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)

OURS = """
def ours():
    import jax
    import jax.numpy as jnp
    import flax_resnet_onednn as onednn

    x, kernel = (
        jax.random.normal(jax.random.key(seed), shape)
        for seed, shape in enumerate(((4, 28, 28, 64), (3, 3, 64, 64)))
    )

    def loss(x, kernel):
        return jnp.sum(onednn.convolution(x, kernel, stride=1, padding=1) ** 2)

    return [jax.jit(loss)(x, kernel), *jax.jit(jax.grad(loss, (0, 1)))(x, kernel)]
"""
TORCHS = """
def torchs():
    import torch

    torch.set_num_threads(2)
    torch.manual_seed(0)
    x = torch.randn(4, 64, 28, 28, requires_grad=True)
    kernel = torch.randn(64, 64, 3, 3, requires_grad=True)
    loss = torch.nn.functional.conv2d(x, kernel, padding=1).square().sum()
    loss.backward()
    return [array.detach() for array in (loss, x.grad, kernel.grad, x[0, 0] @ x[0, 1])]
"""
REPORT = """
import hashlib
import numpy as np

def report(compute):
    arrays = [np.ascontiguousarray(array) for array in compute()]
    assert all(np.isfinite(array).all() for array in arrays)
    content = b"".join(array.tobytes() for array in arrays)
    print(compute.__name__, hashlib.sha256(content).hexdigest())
"""


def digests(*order):
    """The digest of each side's results by its name, from a process that computes in this order."""
    program = OURS + TORCHS + REPORT + "".join(f"report({name})\n" for name in order)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split() for line in done.stdout.splitlines())


def test_results_are_those_of_each_alone_in_either_order():
    alone = digests("ours") | digests("torchs")
    # Each computes again after the other has started its threads.
    assert digests("ours", "torchs", "ours") == alone
    assert digests("torchs", "ours", "torchs") == alone
