"""A forward pass over a whole source: static batches, decoding and computing side by side."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ..data import Batch, Prefetch, Source
from .mesh import DATA_AXIS, data_mesh

Function = Callable[[Any, jax.Array], Any]


@dataclass(frozen=True)
class BatchOutputs:
    """What a function made of some images of a source.

    Attributes:
      indices: positions in the source of the ``n`` images that could be read, int64 ``[n]``.
      labels: of these images, as the source has them.
      outputs: the function's, NumPy arrays ``[n, ...]``; padding and bad images are cut away.
    """

    indices: np.ndarray
    labels: np.ndarray
    outputs: Any


def static_batch_size(count: int, largest: int) -> int:
    """Rows of every batch for ``count`` images: the next power of two, at most ``largest``.

    A folder is run at ``largest``; one photo does not wait for a batch of 32; and there are few
    sizes, so that compiled programs are found in the cache.
    """
    return max(1, min(largest, 1 << max(count - 1, 0).bit_length()))


def forward(
    function: Function, variables: Any, source: Source, *, batch_size: int
) -> Iterator[BatchOutputs]:
    """Run ``function(variables, images)`` over every image of ``source`` once, in order.

    The next batches are decoded, and the next is computed, while the last is fetched. Files that
    cannot be read are missing from the results and named in ``source.bad``. The images are split
    over this process's devices where ``batch_size`` divides among them.

    Args:
      function: jitted; ``images`` are the source's, uint8 ``[batch_size, H, W, C]``, and its
        result is a pytree of arrays ``[batch_size, ...]``.
      variables: the function's first argument, such as a model's variables; put on the devices.
      source: see data.Source.
      batch_size: rows of every batch; the last is filled up with zeros.

    Yields:
      What came of each batch.
    """
    rows, whole = _shardings(batch_size)
    variables = jax.device_put(variables, whole)
    batches = Prefetch(_padded(source, batch_size), lambda batch: _placed(batch, rows))
    waiting: tuple[Batch, Any] | None = None
    try:
        for batch in batches:
            running = function(variables, batch["image"])
            if waiting is not None:
                yield _trimmed(*waiting)
            waiting = batch, running
        if waiting is not None:
            yield _trimmed(*waiting)
    finally:
        batches.close()


def _shardings(batch_size: int) -> tuple[Any, Any]:
    """Where rows go, and where what all devices need goes."""
    if jax.process_count() == 1 and batch_size % jax.device_count() == 0:
        mesh = data_mesh()
        return NamedSharding(mesh, PartitionSpec(DATA_AXIS)), NamedSharding(mesh, PartitionSpec())
    device = jax.local_devices()[0]
    return device, device


def _padded(source: Source, batch_size: int) -> Iterator[Batch]:
    for first in range(0, len(source), batch_size):
        indices = np.arange(first, min(first + batch_size, len(source)))
        batch = source.gather(indices)
        read = batch.get("mask", np.ones(len(indices), bool))
        images = batch["image"]
        if len(images) < batch_size:
            filled = np.zeros((batch_size, *images.shape[1:]), images.dtype)
            filled[: len(images)] = images
            images = filled
        yield {"image": images, "label": batch["label"], "read": read, "index": indices}


def _placed(batch: Batch, rows: Any) -> Batch:
    return batch | {"image": jax.device_put(batch["image"], rows)}


def _trimmed(batch: Batch, running: Any) -> BatchOutputs:
    kept = np.flatnonzero(batch["read"])
    outputs = jax.tree.map(lambda leaf: np.asarray(leaf)[kept], running)
    return BatchOutputs(batch["index"][kept], batch["label"][kept], outputs)
