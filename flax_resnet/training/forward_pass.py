"""A forward pass over a whole source, in batches of one size that are decoded ahead."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ..data import Batch, Prefetch, Source
from .mesh import DATA_AXIS, data_mesh

Function = Callable[[Any, jax.Array], Any]

NOT_FINITE = "gives NaN or infinity: the weights are broken"


@dataclass(frozen=True)
class BatchOutputs:
    """Outputs of a function for consecutive images of a source.

    Attributes:
        start: Index in the source of the first of the ``m`` images.
        names: Names of the images.
        read: False for images that could not be read, and for those whose output holds NaN or
            infinity, bool ``[m]``.
        labels: Labels of the ``n`` other images.
        outputs: Pytree of NumPy arrays ``[n, ...]``, without padding.
        failed: Name -> reason of the images without an output.
    """

    start: int
    names: tuple[str, ...]
    read: np.ndarray
    labels: np.ndarray
    outputs: Any
    failed: Mapping[str, str]

    @property
    def indices(self) -> np.ndarray:
        """Indices in the source of the images with an output, int64 ``[n]``."""
        return self.start + np.flatnonzero(self.read)


def static_batch_size(count: int, largest: int) -> int:
    """Return the batch size for ``count`` images: the next power of two, at most ``largest``.

    One photo does not wait for a batch of 32, and there are so few sizes that compiled programs
    are found in the cache.
    """
    return max(1, min(largest, 1 << max(count - 1, 0).bit_length()))


def forward(
    function: Function,
    variables: Any,
    source: Source,
    *,
    batch_size: int,
    names: Sequence[str] | None = None,
) -> Iterator[BatchOutputs]:
    """Run ``function(variables, images)`` over every image of ``source`` once, in order.

    The next batches are decoded, and the next is computed, while the last is fetched. The images
    are split over this process's devices where ``batch_size`` divides among them.

    Args:
        function: Jitted function of the variables and the source's images, uint8
            ``[batch_size, H, W, C]``; it returns a pytree of arrays ``[batch_size, ...]``.
        variables: First argument of the function; it is put on the devices.
        source: Images, see ``data.Source``.
        batch_size: Rows of every batch; the last is filled up with zeros.
        names: Names of the images, by which ``source.bad`` has those that cannot be read; by
            default their indices.

    Yields:
        The outputs of each batch.
    """
    rows, whole = batch_shardings(batch_size)
    variables = _placed_on(whole, variables)
    padded = _padded(source, batch_size)

    def put(batch: Batch) -> Any:
        return batch | {"image": jax.device_put(batch["image"], rows)}

    waiting: tuple[Batch, Any] | None = None
    # With one batch there is nothing to decode ahead: a photo needs no thread.
    is_one = len(source) <= batch_size
    with nullcontext(map(put, padded)) if is_one else closing(Prefetch(padded, put)) as batches:
        for batch in batches:
            running = function(variables, batch["image"])
            if waiting is not None:
                yield _trimmed(*waiting, source, names)
            waiting = batch, running
        if waiting is not None:
            yield _trimmed(*waiting, source, names)


def _placed_on(sharding: Any, variables: Any) -> Any:
    """Put arrays on devices; those that are all there stay, since a call per array takes longer."""
    leaves = jax.tree.leaves(variables)
    if all(isinstance(leaf, jax.Array) and leaf.sharding == sharding for leaf in leaves):
        return variables
    return jax.device_put(variables, sharding)


def batch_shardings(batch_size: int) -> tuple[Any, Any]:
    """Return the placements of a batch and of arrays that every device needs."""
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
        yield {"image": images, "label": batch["label"], "read": read, "start": indices[0]}


def _trimmed(
    batch: Batch, running: Any, source: Source, names: Sequence[str] | None
) -> BatchOutputs:
    start, decoded = int(batch["start"]), batch["read"]
    end = start + len(decoded)
    own = tuple(map(str, range(start, end)) if names is None else names[start:end])
    outputs = jax.tree.map(lambda leaf: np.asarray(leaf)[: len(decoded)], running)
    finite = [np.isfinite(leaf).reshape(len(leaf), -1).all(1) for leaf in jax.tree.leaves(outputs)]
    read = decoded & np.all(finite, axis=0)
    failed = {
        name: NOT_FINITE if was_decoded else source.bad.get(name, "cannot be read")
        for name, was_decoded, fine in zip(own, decoded, read, strict=True)
        if not fine
    }
    outputs = jax.tree.map(lambda leaf: leaf[read], outputs)
    return BatchOutputs(start, own, read, batch["label"][read], outputs, failed)
