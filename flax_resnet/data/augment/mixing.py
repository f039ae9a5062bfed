"""mixup and CutMix: mix pairs of examples of the *global* batch, and their targets.

Example i is mixed with example i - 1 of the global batch, and the first with the last: the order is
random already, and neighbours need the least communication. Under ``jit`` the batch is one array,
however the devices hold it. Inside ``shard_map`` or ``pmap`` pass ``axis_name``: each device then
sends its last example to the next device. The mixing weight and the box are drawn from the key, so
pass the same key on all devices; the result then does not depend on the number of devices.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from ...errors import UserError
from .boxes import box_around_random_pixel, box_mask

Mixed = tuple[jax.Array, jax.Array]


def mixup(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    alpha: float = 0.2,
    axis_name: str | None = None,
) -> Mixed:
    """Apply mixup (Zhang et al. 2018): ``weight * example + (1 - weight) * neighbour``.

    The weight is drawn from Beta(alpha, alpha), once for the batch.

    Args:
        key: Random key, the same on all devices.
        images: ``[N, H, W, C]``, preferably normalised; integers are rounded.
        targets: One-hot or smoothed labels, float ``[N, K]``.
        alpha: Parameter of the Beta distribution.
        axis_name: Name of the mapped device axis inside ``shard_map`` or ``pmap``.

    Returns:
        Mixed images and targets.
    """
    weight = _beta(key, alpha)
    return _mix(images, targets, weight, weight, axis_name)


def cutmix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    alpha: float = 1.0,
    axis_name: str | None = None,
) -> Mixed:
    """Apply CutMix (Yun et al. 2019): a box of the neighbour replaces that box of the example.

    The targets are mixed in proportion to the areas. The box has the aspect ratio of the image,
    ``1 - Beta(alpha, alpha)`` of its area and a uniformly random centre, and is clipped to the
    image. There is one box for the batch. The arguments are those of ``mixup``.
    """
    mask = _cutmix_mask(key, alpha, *images.shape[1:3])
    return _mix(images, targets, mask, mask.mean(dtype=jnp.float32), axis_name)


@dataclass(frozen=True)
class Mixing:
    """mixup, CutMix, or one of the two chosen at random for each batch.

    Attributes:
        mixup_alpha, cutmix_alpha: Parameters of the Beta distributions; 0 turns one off.
        cutmix_probability: Probability of CutMix if both are on.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    cutmix_probability: float = 0.5

    def __post_init__(self) -> None:
        if self.mixup_alpha < 0 or self.cutmix_alpha < 0 or not 0 <= self.cutmix_probability <= 1:
            raise UserError(
                f"{self}: let mixup_alpha and cutmix_alpha be 0 (off) or above, and "
                "cutmix_probability from 0 to 1."
            )

    def __call__(
        self, key: jax.Array, images: jax.Array, targets: jax.Array, axis_name: str | None = None
    ) -> Mixed:
        """Mix a batch, see ``mixup`` and ``cutmix``."""
        if self.mixup_alpha and self.cutmix_alpha:
            choice_key, mixup_key, cutmix_key = jax.random.split(key, 3)
            cut = jax.random.bernoulli(choice_key, jnp.float32(self.cutmix_probability))
            weight = _beta(mixup_key, self.mixup_alpha)
            mask = _cutmix_mask(cutmix_key, self.cutmix_alpha, *images.shape[1:3])
            target_weight = jnp.where(cut, mask.mean(dtype=jnp.float32), weight)
            return _mix(images, targets, jnp.where(cut, mask, weight), target_weight, axis_name)
        if self.mixup_alpha:
            return mixup(key, images, targets, self.mixup_alpha, axis_name)
        if self.cutmix_alpha:
            return cutmix(key, images, targets, self.cutmix_alpha, axis_name)
        return images, targets


def _beta(key: jax.Array, alpha: float) -> jax.Array:
    return jax.random.beta(key, alpha, alpha, dtype=jnp.float32)


def _cutmix_mask(key: jax.Array, alpha: float, height: int, width: int) -> jax.Array:
    """Return float32 ``[H, W, 1]``: 1 at pixels of the example, 0 at pixels of its neighbour."""
    area_key, box_key = jax.random.split(key)
    side = jnp.sqrt(1 - _beta(area_key, alpha))
    # The sides are even, as in the authors' code, which takes half a side on each side of the
    # centre.
    sides = [2 * (side * length / 2).astype(jnp.int32) for length in (height, width)]
    box = box_around_random_pixel(box_key, height, width, *sides)
    return 1 - box_mask(box, height, width).astype(jnp.float32)


def _mix(
    images: jax.Array,
    targets: jax.Array,
    weight: jax.Array,
    target_weight: jax.Array,
    axis_name: str | None,
) -> Mixed:
    """Mix each example with the previous one; the weights are those of the example itself."""
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    previous = _previous(images, axis_name).astype(dtype)
    mixed = weight * images.astype(dtype) + (1 - weight) * previous
    if jnp.issubdtype(images.dtype, jnp.integer):
        mixed = jnp.round(mixed)
    target_weight = target_weight.astype(targets.dtype)
    new_targets = target_weight * targets + (1 - target_weight) * _previous(targets, axis_name)
    return mixed.astype(images.dtype), new_targets


def _previous(batch: jax.Array, axis_name: str | None) -> jax.Array:
    """Return the previous example of each example, in the order of the global batch."""
    if axis_name is None:
        return jnp.roll(batch, 1, axis=0)
    devices = lax.axis_size(axis_name)
    ring = [(device, (device + 1) % devices) for device in range(devices)]
    before = lax.ppermute(batch[-1:], axis_name, ring)
    return jnp.concatenate([before, batch[:-1]])
