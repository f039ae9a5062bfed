"""Dynamic batching: every image gets its own row, whatever the sizes of the batches are."""

import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

pytest.importorskip("starlette")

from flax_resnet.inference.serve.batching import Batcher


def image(value):
    return np.full((2, 2, 3), value, np.uint8)


class Recorded:
    """Computes the mean of each image once the gate is open; the sizes of the batches are kept."""

    def __init__(self):
        self.gate, self.sizes = threading.Event(), []

    def __call__(self, images):
        if images.any():
            self.gate.wait(10)
            self.sizes.append(len(images))
        if (images == 99).any():
            raise ValueError("too little memory")
        return images.reshape(len(images), -1).mean(1, keepdims=True)


@pytest.fixture
def compute():
    return Recorded()


@pytest.fixture
def batcher(compute):
    batcher = Batcher(compute, (1, 2, 4), (2, 2, 3))
    batcher.start()
    batcher.ready.result(10)
    yield batcher
    compute.gate.set()
    batcher.close()


def test_batches_are_the_largest_that_are_full(batcher, compute):
    first = batcher.submit(image(1))
    while len(batcher):
        time.sleep(0.001)
    others = [batcher.submit(image(n)) for n in range(2, 10)]
    others[4].cancel()
    compute.gate.set()
    assert [future.result(10)[0] for future in (first, *others[:4])] == [1, 2, 3, 4, 5]
    assert [future.result(10)[0] for future in others[5:]] == [7, 8, 9]
    assert compute.sizes == [1, 4, 2, 1]
    with pytest.raises(CancelledError):
        others[4].result(10)


def test_an_error_reaches_its_batch_only(batcher, compute):
    compute.gate.set()
    with pytest.raises(ValueError, match="memory"):
        batcher.submit(image(99)).result(10)
    assert batcher.submit(image(7)).result(10) == [7]


def test_a_batch_waits_for_what_is_being_decoded_but_not_long(compute):
    compute.gate.set()
    arriving = [1]
    batcher = Batcher(compute, (1, 2), (2, 2, 3), max_delay=2, arriving=lambda: arriving[0])
    batcher.start()
    both = [batcher.submit(image(1)), batcher.submit(image(2))]
    assert [future.result(10)[0] for future in both] == [1, 2]
    started = time.monotonic()
    assert batcher.submit(image(3)).result(10) == [3]
    assert time.monotonic() - started >= 2
    arriving[0] = 0
    started = time.monotonic()
    assert batcher.submit(image(4)).result(10) == [4]
    assert time.monotonic() - started < 2
    assert compute.sizes == [2, 1, 1]
    batcher.close()


def test_what_waits_is_computed_before_the_end(compute):
    compute.gate.set()
    batcher = Batcher(compute, (1, 4), (2, 2, 3), max_delay=60, arriving=lambda: 1)
    batcher.start()
    waiting = [batcher.submit(image(n)) for n in (1, 2, 3)]
    batcher.close()
    assert [future.result(0)[0] for future in waiting] == [1, 2, 3]
    with pytest.raises(RuntimeError):
        batcher.submit(image(4))


def test_a_model_that_cannot_be_compiled_is_reported():
    def compute(images):
        raise ValueError("no")

    batcher = Batcher(compute, (1,), (2, 2, 3))
    batcher.start()
    assert isinstance(batcher.ready.exception(10), ValueError)
    assert not batcher.ready.cancelled()
