"""The order of images, and batches of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_resnet.data import Split
from flax_resnet.data.images import UNIFORMS_PER_CROP
from flax_resnet.data.order import batch_indices, epoch_order
from flax_resnet.data.pipeline import Batch, Shard, eval_batches, train_batches

properties = settings(database=None, deadline=None, max_examples=60)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 40)
batch_sizes = st.integers(1, 100)  # also larger than the data set


def numbered(size: int) -> Split:
    """Return a split whose images and labels are their own index."""
    images = np.arange(size, dtype=np.uint8).repeat(4).reshape(size, 2, 2, 1)
    return Split(images, np.arange(size, dtype=np.int32))


def assert_same_batches(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@properties
@given(seed=seeds, batch_size=batch_sizes, size=sizes, epochs=st.integers(1, 4))
def test_batches_end_to_end_are_the_epochs(
    seed: int, batch_size: int, size: int, epochs: int
) -> None:
    steps = -(-epochs * size // batch_size)
    batches = [batch_indices(seed, step, batch_size, size) for step in range(steps)]
    assert {batch.shape for batch in batches} == {(batch_size,)}
    assert {batch.dtype for batch in batches} == {np.dtype(np.int64)}
    line = np.concatenate(batches)
    for epoch in range(epochs):
        rows = line[epoch * size : (epoch + 1) * size]
        assert sorted(rows.tolist()) == list(range(size))  # each once, none dropped
        np.testing.assert_array_equal(rows, epoch_order(seed, epoch, size))
    rest = line[epochs * size :]  # the start of the next epoch: no image is skipped there either
    later = [epoch_order(seed, epochs + n, size) for n in range(batch_size // size + 1)]
    np.testing.assert_array_equal(rest, np.concatenate(later)[: len(rest)])


@properties
@given(
    seed=seeds,
    batch_size=st.integers(1, 20),
    size=sizes,
    start=st.integers(0, 12),
    count=st.integers(0, 6),
)
def test_starting_later_continues_the_same_run(
    seed: int, batch_size: int, size: int, start: int, count: int
) -> None:
    def run(start: int, stop: int) -> list[Batch]:
        epoch_order.cache_clear()  # a resumed run is a new process
        batches = train_batches(
            numbered(size), seed=seed, batch_size=batch_size, start=start, stop=stop
        )
        return list(batches)

    assert_same_batches(run(0, start + count)[start:], run(start, start + count))


class Streaming:
    """A source whose images are the random numbers that it was given."""

    streams = True

    def __init__(self, size: int) -> None:
        self.labels = np.arange(size, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: np.ndarray, uniforms: np.ndarray | None = None) -> Batch:
        assert uniforms is not None and uniforms.shape == (len(indices), UNIFORMS_PER_CROP)
        return {"image": uniforms, "label": self.labels[indices]}


@properties
@given(
    seed=seeds,
    per_process=st.integers(1, 5),
    processes=st.integers(1, 4),
    size=sizes,
    start=st.integers(0, 5),
    streams=st.booleans(),
)
def test_processes_make_the_rows_of_the_same_batches(
    seed: int, per_process: int, processes: int, size: int, start: int, streams: bool
) -> None:
    split = Streaming(size) if streams else numbered(size)

    def run(shard: Shard) -> list[Batch]:
        epoch_order.cache_clear()
        steps = {"start": start, "stop": start + 3}
        return list(
            train_batches(
                split, seed=seed, batch_size=per_process * processes, shard=shard, **steps
            )
        )

    by_process = [run(Shard(index, processes)) for index in range(processes)]
    joined = [
        {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        for batches in zip(*by_process, strict=True)
    ]
    assert_same_batches(joined, run(Shard()))


@properties
@given(per_process=st.integers(1, 5), processes=st.integers(1, 4), size=sizes)
def test_processes_evaluate_every_image_once(per_process: int, processes: int, size: int) -> None:
    seen = [
        label
        for index in range(processes)
        for batch in eval_batches(
            numbered(size), batch_size=per_process * processes, shard=Shard(index, processes)
        )
        for label in batch["label"][batch["mask"]]
    ]
    assert sorted(seen) == list(range(size))


def test_an_indivisible_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide among 2 processes"):
        next(eval_batches(numbered(4), batch_size=3, shard=Shard(0, 2)))


def test_crops_of_a_step_do_not_depend_on_the_first_step() -> None:
    late = list(train_batches(Streaming(7), seed=3, batch_size=4, start=5, stop=6))
    early = list(train_batches(Streaming(7), seed=3, batch_size=4, start=0, stop=6))
    assert_same_batches(late, early[5:])
    assert not np.array_equal(early[0]["image"], early[1]["image"])


@properties
@given(seed=seeds, step=st.integers(0, 10**7), batch_size=batch_sizes, size=sizes)
def test_late_steps_continue_the_sequence(seed: int, step: int, batch_size: int, size: int) -> None:
    batch = batch_indices(seed, step, batch_size, size)
    for offset in {0, batch_size // 2, batch_size - 1}:
        epoch, index = divmod(step * batch_size + offset, size)
        assert batch[offset] == epoch_order(seed, epoch, size)[index]


@properties
@given(seed=seeds, other=seeds, epochs=st.tuples(*[st.integers(0, 1000)] * 2))
def test_orders_differ_by_seed_and_epoch(seed: int, other: int, epochs: tuple[int, int]) -> None:
    first = epoch_order(seed, epochs[0], 100)
    same = epoch_order(other, epochs[1], 100)
    assert np.array_equal(first, same) == ((seed, epochs[0]) == (other, epochs[1]))


def test_neighbouring_seeds_and_epochs_do_not_share_an_order() -> None:
    orders = {tuple(epoch_order(s, e, 20).tolist()) for s in range(30) for e in range(30)}
    assert len(orders) == 900


def test_order_does_not_follow_the_global_generator() -> None:
    np.random.seed(1)
    first = epoch_order(3, 4, 50)
    epoch_order.cache_clear()
    np.random.seed(2)
    np.testing.assert_array_equal(first, epoch_order(3, 4, 50))


def test_cached_order_cannot_be_changed_through_a_batch() -> None:
    before = epoch_order(5, 0, 10).copy()
    batch = batch_indices(5, 0, 10, 10)
    batch[:] = 0
    np.testing.assert_array_equal(epoch_order(5, 0, 10), before)
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(5, 0, 10)[0] = 1


@properties
@given(seed=seeds, batch_size=batch_sizes, size=sizes, step=st.integers(0, 20))
def test_train_batches_hold_the_indexed_images(
    seed: int, batch_size: int, size: int, step: int
) -> None:
    split = numbered(size)
    batches = train_batches(split, seed=seed, batch_size=batch_size, start=step, stop=step + 1)
    (batch,) = batches
    indices = batch_indices(seed, step, batch_size, size)
    assert sorted(batch) == ["image", "label"]
    np.testing.assert_array_equal(batch["label"], indices)
    np.testing.assert_array_equal(batch["image"], split.images[indices])


@properties
@given(batch_size=batch_sizes, size=st.integers(0, 40))
def test_eval_batches_have_every_image_once_under_the_mask(batch_size: int, size: int) -> None:
    split = numbered(size)
    batches = list(eval_batches(split, batch_size=batch_size))
    assert len(batches) == -(-size // batch_size)
    for batch in batches:
        assert sorted(batch) == ["image", "label", "mask"]
        assert batch["image"].shape == (batch_size, 2, 2, 1)
        assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
        assert batch["label"].shape == batch["mask"].shape == (batch_size,)
        assert batch["mask"].dtype == bool
        # The padding also consists of real images with their own labels.
        np.testing.assert_array_equal(batch["image"], split.images[batch["label"]])
    labels = [label for batch in batches for label in batch["label"][batch["mask"]].tolist()]
    assert labels == list(range(size))


@properties
@given(
    seed=seeds,
    repeats=st.integers(1, 4),
    images=st.integers(1, 20),
    size=sizes,
    step=st.integers(0, 30),
)
def test_repeated_images_are_copies_of_the_batch_without_repeats(
    seed: int, repeats: int, images: int, size: int, step: int
) -> None:
    batch = batch_indices(seed, step, images * repeats, size, repeats)
    once = batch_indices(seed, step, images, size)
    assert batch.shape == (images * repeats,)
    np.testing.assert_array_equal(batch.reshape(repeats, images), np.tile(once, (repeats, 1)))


@properties
@given(seed=seeds, repeats=st.integers(1, 4), images=st.integers(1, 12), size=sizes)
def test_with_repeats_every_image_comes_as_often_as_without(
    seed: int, repeats: int, images: int, size: int
) -> None:
    steps = size  # images * size / images steps, so that the last batch ends with an epoch
    line = [batch_indices(seed, step, images * repeats, size, repeats) for step in range(steps)]
    counts = np.bincount(np.concatenate(line), minlength=size)
    assert set(counts.tolist()) == {images * repeats}


def test_repeats_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="batch of 6 does not divide by 4 repeats"):
        batch_indices(0, 0, 6, 10, 4)


class Sized(Streaming):
    """A source that records the requested size."""

    def gather(
        self, indices: np.ndarray, uniforms: np.ndarray | None = None, size: int | None = None
    ) -> Batch:
        return super().gather(indices, uniforms) | {"size": np.array(size)}


@properties
@given(
    seed=seeds,
    repeats=st.integers(1, 3),
    per_process=st.integers(1, 3),
    processes=st.integers(1, 3),
    start=st.integers(0, 8),
)
def test_repeats_and_sizes_are_functions_of_seed_and_step(
    seed: int, repeats: int, per_process: int, processes: int, start: int
) -> None:
    def run(start: int, shard: Shard = Shard()) -> list[Batch]:
        epoch_order.cache_clear()
        batches = train_batches(
            Sized(11),
            seed=seed,
            batch_size=repeats * per_process * processes,
            start=start,
            stop=10,
            repeats=repeats,
            size_at=lambda step: 4 + step // 3,
            shard=shard,
        )
        return list(batches)

    whole = run(0)
    assert [int(batch["size"]) for batch in whole] == [4, 4, 4, 5, 5, 5, 6, 6, 6, 7]
    assert_same_batches(whole[start:], run(start))
    for batches in zip(
        whole, *(run(0, Shard(n, processes)) for n in range(processes)), strict=True
    ):
        expected, *by_process = batches
        for name in ("image", "label"):
            joined = np.concatenate([rows[name] for rows in by_process])
            np.testing.assert_array_equal(joined, expected[name])
    # Each copy has its own random numbers for the crop.
    assert len(np.unique(whole[0]["image"][:, 0])) == len(whole[0]["image"])


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_images_are_mirrored_in_every_other_epoch(repeats: int, processes: int) -> None:
    """airbench's ``alternating_flip``: half of the images in epoch 0, then the others in turn."""
    size, batch_size = 50, 12
    pixels = np.arange(size * 2, dtype=np.uint8).reshape(size, 1, 2, 1)
    split = Split(pixels, np.arange(size, dtype=np.int32))
    seen: dict[int, list[bool]] = {n: [] for n in range(size)}
    options = {"seed": 3, "batch_size": batch_size, "repeats": repeats, "alternating_flip": True}
    runs = [
        list(train_batches(split, start=0, stop=50, shard=Shard(n, processes), **options))
        for n in range(processes)
    ]
    for step in range(50):
        parts = [run[step] for run in runs]
        images, labels = (np.concatenate([p[k] for p in parts]) for k in ("image", "label"))
        for image, label in zip(images[: batch_size // repeats], labels, strict=False):
            mirrored = image[0, 0, 0] > image[0, 1, 0]
            np.testing.assert_array_equal(image[:, ::-1] if mirrored else image, pixels[label])
            seen[int(label)].append(bool(mirrored))
    for turns in seen.values():
        assert len(turns) >= 5
        assert all(one != other for one, other in itertools.pairwise(turns))
    first = sum(turns[0] for turns in seen.values())
    assert 15 <= first <= 35
    assert pixels.ravel().tolist() == list(range(2 * size))  # the data set itself is as it was
