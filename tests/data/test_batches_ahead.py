"""Streaming sources begin a batch before the previous one is complete."""

import itertools
import threading

import numpy as np
import pytest

from flax_resnet.data.order import crop_uniforms
from flax_resnet.data.pipeline import Batch, train_batches

STEPS = {"seed": 0, "batch_size": 4, "start": 0}


class Watched:
    """A streaming source that records the step of each batch before it makes the batch."""

    streams = True
    labels = np.arange(8, dtype=np.int32)

    def __init__(self, before) -> None:
        self.before = before

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: np.ndarray, uniforms: np.ndarray | None = None) -> Batch:
        known = (crop_uniforms(STEPS["seed"], step, len(indices)) for step in itertools.count())
        self.before(next(step for step, each in enumerate(known) if np.array_equal(each, uniforms)))
        return {"image": uniforms, "label": self.labels[indices]}


def test_two_batches_are_made_at_a_time_and_come_in_order():
    both = threading.Barrier(2, timeout=20)  # one batch alone would never pass this barrier
    ahead = list(train_batches(Watched(lambda step: both.wait()), **STEPS, stop=6))
    alone = [
        next(train_batches(Watched(lambda step: None), **STEPS | {"start": step}, stop=step + 1))
        for step in range(6)
    ]
    for one, other in zip(ahead, alone, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["label"], other["label"])


def test_an_error_comes_after_the_batches_before_it():
    def before(step):
        if step == 2:
            raise OSError("gone")

    batches = train_batches(Watched(before), **STEPS, stop=6)
    next(batches), next(batches)
    with pytest.raises(OSError, match="gone"):
        next(batches)


def test_no_thread_is_left_after_close():
    batches = train_batches(Watched(lambda step: None), **STEPS, stop=10**9)
    next(batches)
    assert any(thread.name.startswith("batch_") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("batch_") for thread in threading.enumerate())
