"""Mixup and CutMix: pairs of examples of the *global* batch mixed with their targets.

Example i is mixed with example i - 1 of the global batch, the first with the last: the order is
random already, and neighbours cost the least communication. Under ``jit`` the batch is one array,
however its devices hold it, and nothing more is needed. Inside ``shard_map`` or ``pmap`` give
``axis_name``: each device then passes its last example on to the next. The share of the mixture and
the box come from the key, so give all devices the same one; then any number of devices gives the
same numbers.
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
    """mixup (Zhang et al. 2018): ``share * example + (1 - share) * neighbour``, with one share from
    Beta(alpha, alpha) for the batch.

    Args:
      images: ``[N, H, W, C]``, best after normalisation; integers are rounded.
      targets: ``[N, K]`` float: one-hot or smoothed labels.
    """
    share = _beta(key, alpha)
    return _mix(images, targets, share, share, axis_name)


def cutmix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    alpha: float = 1.0,
    axis_name: str | None = None,
) -> Mixed:
    """CutMix (Yun et al. 2019): a box of the neighbour in the example's place, and targets in
    proportion to the areas.

    The box has the image's shape, 1 - Beta(alpha, alpha) of its area, and a uniformly random
    centre; what lies outside the image is lost, so that the neighbour's share may be smaller. One
    box for the batch. Arguments as of :func:`mixup`.
    """
    keep = _cutmix_keep(key, alpha, *images.shape[1:3])
    return _mix(images, targets, keep, keep.mean(dtype=jnp.float32), axis_name)


@dataclass(frozen=True)
class Mixing:
    """mixup, CutMix, or one of the two for each batch.

    Attributes:
      mixup_alpha, cutmix_alpha: of the Beta distributions; 0 for none of that kind.
      cutmix_probability: of CutMix, where there are both.
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
        """Mix a batch, see :func:`mixup` and :func:`cutmix`."""
        if self.mixup_alpha and self.cutmix_alpha:
            choice_key, mixup_key, cutmix_key = jax.random.split(key, 3)
            cut = jax.random.bernoulli(choice_key, self.cutmix_probability)
            share = _beta(mixup_key, self.mixup_alpha)
            keep = _cutmix_keep(cutmix_key, self.cutmix_alpha, *images.shape[1:3])
            target_share = jnp.where(cut, keep.mean(dtype=jnp.float32), share)
            return _mix(images, targets, jnp.where(cut, keep, share), target_share, axis_name)
        if self.mixup_alpha:
            return mixup(key, images, targets, self.mixup_alpha, axis_name)
        if self.cutmix_alpha:
            return cutmix(key, images, targets, self.cutmix_alpha, axis_name)
        return images, targets


def _beta(key: jax.Array, alpha: float) -> jax.Array:
    return jax.random.beta(key, alpha, alpha, dtype=jnp.float32)


def _cutmix_keep(key: jax.Array, alpha: float, height: int, width: int) -> jax.Array:
    """float32 ``[H, W, 1]``: 1 where the example stays, 0 where its neighbour is seen."""
    share_key, box_key = jax.random.split(key)
    side = jnp.sqrt(1 - _beta(share_key, alpha))
    # Even sides, as of the authors' program, which goes half a side each way from the centre.
    sides = [2 * (side * length / 2).astype(jnp.int32) for length in (height, width)]
    box = box_around_random_pixel(box_key, height, width, *sides)
    return 1 - box_mask(box, height, width).astype(jnp.float32)


def _mix(
    images: jax.Array,
    targets: jax.Array,
    keep: jax.Array,
    target_share: jax.Array,
    axis_name: str | None,
) -> Mixed:
    wide = jnp.promote_types(images.dtype, jnp.float32)
    mixed = keep * images.astype(wide) + (1 - keep) * _previous(images, axis_name).astype(wide)
    if jnp.issubdtype(images.dtype, jnp.integer):
        mixed = jnp.round(mixed)
    share = target_share.astype(targets.dtype)
    new_targets = share * targets + (1 - share) * _previous(targets, axis_name)
    return mixed.astype(images.dtype), new_targets


def _previous(batch: jax.Array, axis_name: str | None) -> jax.Array:
    """The example before each, in the order of the global batch."""
    if axis_name is None:
        return jnp.roll(batch, 1, axis=0)
    devices = lax.axis_size(axis_name)
    ring = [(device, (device + 1) % devices) for device in range(devices)]
    before = lax.ppermute(batch[-1:], axis_name, ring)
    return jnp.concatenate([before, batch[:-1]])
