"""Prefetching: order, the end, failures and closing. No test here may hang."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_resnet.data.pipeline import Batch, Prefetch

PATIENCE = 10.0  # seconds after which a thread counts as hung


def within_patience(action: Callable[[], Any]) -> Any:
    """Return or raise what ``action`` does; fail instead of hanging if it never ends."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            outcome.append((action(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert outcome, "hangs"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def numbers(count: int) -> Iterator[Batch]:
    for n in range(count):
        yield {"n": np.array(n)}


def number(batch: Batch) -> int:
    return int(batch["n"])


def failing_batches() -> Iterator[Batch]:
    yield from numbers(3)
    raise OSError("disk gone")


def failing_place(batch: Batch) -> int:
    if number(batch) == 3:
        raise OSError("disk gone")
    return number(batch)


@settings(database=None, deadline=None, max_examples=60)
@given(count=st.integers(0, 30), depth=st.integers(1, 5))
def test_prefetch_keeps_the_order(count: int, depth: int) -> None:
    prefetch = Prefetch(numbers(count), lambda batch: 2 * number(batch), depth)
    assert within_patience(lambda: list(prefetch)) == [2 * n for n in range(count)]
    prefetch.close()


@pytest.mark.parametrize("slow", ["producer", "consumer"])
def test_prefetch_keeps_the_order_with_a_slow_producer_or_consumer(slow: str) -> None:
    def place(batch: Batch) -> int:
        time.sleep(0.01 * (slow == "producer"))
        return number(batch)

    taken = []
    for n in Prefetch(numbers(20), place):
        time.sleep(0.01 * (slow == "consumer"))
        taken.append(n)
    assert taken == list(range(20))


def test_prefetch_works_ahead_up_to_its_depth() -> None:
    made = []

    def batches() -> Iterator[Batch]:
        for batch in numbers(100):
            made.append(number(batch))
            yield batch

    prefetch = Prefetch(batches(), number, depth=2)
    assert within_patience(lambda: next(prefetch)) == 0
    deadline = time.monotonic() + PATIENCE
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.15)  # longer than the producer waits for free space in the queue
    assert made == [0, 1, 2, 3]  # one taken, two in the queue, one waiting to be put
    prefetch.close()


def fill(prefetch: Prefetch) -> None:
    deadline = time.monotonic() + PATIENCE
    while not prefetch._queue.full():
        assert time.monotonic() < deadline, "the queue stays empty"
        time.sleep(0.01)


def test_waiting_is_counted_and_the_consumers_own_time_is_not() -> None:
    ready = threading.Event()

    def place(batch: Batch) -> int:
        ready.wait(PATIENCE)
        return number(batch)

    prefetch = Prefetch(numbers(9), place)
    assert prefetch.waited == 0
    threading.Timer(1, ready.set).start()
    began = time.perf_counter()
    assert next(prefetch) == 0
    first = prefetch.waited
    assert 0.05 < first <= time.perf_counter() - began
    fill(prefetch)
    time.sleep(1)
    assert next(prefetch) == 1
    assert prefetch.waited - first < 1
    prefetch.close()


@pytest.mark.parametrize(
    ("batches", "place"),
    [(failing_batches(), number), (numbers(9), failing_place)],
    ids=["batches", "place"],
)
def test_failure_of_the_producer_reaches_the_consumer(
    batches: Iterator[Batch], place: Callable[[Batch], int]
) -> None:
    prefetch = Prefetch(batches, place)
    assert [within_patience(lambda: next(prefetch)) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="disk gone"):
        within_patience(lambda: next(prefetch))
    prefetch.close()


def test_the_end_is_final() -> None:
    prefetch = Prefetch(numbers(2), number)
    assert within_patience(lambda: list(prefetch)) == [0, 1]
    for _ in range(2):
        with pytest.raises(StopIteration):
            within_patience(lambda: next(prefetch))
    prefetch.close()


def test_next_after_a_failure_does_not_hang() -> None:
    prefetch = Prefetch(failing_batches(), number, depth=1)
    with pytest.raises(OSError, match="disk gone"):
        within_patience(lambda: list(prefetch))
    with pytest.raises((OSError, StopIteration)):
        within_patience(lambda: next(prefetch))
    prefetch.close()


def test_next_after_close_does_not_hang() -> None:
    prefetch = Prefetch(numbers(100), number)
    prefetch.close()
    assert within_patience(lambda: list(prefetch)) == []  # prefetched batches are dropped


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_close_ends_the_thread_of_a_full_queue(taken: int) -> None:
    prefetch = Prefetch(numbers(1_000_000), number)
    for n in range(taken):
        assert next(prefetch) == n
    fill(prefetch)
    assert prefetch._thread.is_alive()
    began = time.monotonic()
    within_patience(prefetch.close)
    assert time.monotonic() - began < 2
    assert not prefetch._thread.is_alive()


@pytest.mark.parametrize("failing", [False, True])
def test_close_after_the_end_and_twice(failing: bool) -> None:
    # Depth 1 and nothing taken, so that the end marker finds the queue full.
    prefetch = Prefetch(failing_batches() if failing else numbers(1), number, depth=1)
    within_patience(prefetch.close)
    within_patience(prefetch.close)
    assert not prefetch._thread.is_alive()
