"""Near duplicates: images with close difference hashes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flax_resnet.data.images import Pixels

DHASH_SHAPE = (8, 9)
"""Height and width of the thumbnail from which an image's difference hash (dHash) is computed."""

# Copies that were resized or compressed again differ in at most this many of 64 bits.
MAX_BITS = 3
# Largest mean difference of grey thumbnails, of 255. Images with little content, such as a bright
# sky, have few edges and so often the same hash; this separates them.
_MAX_GREY_DIFFERENCE = 8.0
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def grey_thumbnail(thumbnail: Pixels) -> npt.NDArray[np.float32]:
    """Return the luma, float32 ``[8, 9]``, 0 to 255, of a thumbnail, uint8 ``[8, 9, 3]``."""
    return thumbnail.astype(np.float32) @ _LUMA


def difference_hashes(thumbnails: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Return the difference hash of each grey thumbnail ``[N, 8, 9]``, uint64 ``[N]``.

    A bit is set if a pixel is brighter than its left neighbour. So brightness and contrast do not
    change the hash, and scale and compression hardly change it.
    """
    bits = np.diff(thumbnails, axis=2) > 0
    packed = np.packbits(bits.reshape(len(thumbnails), 64), axis=1)
    return packed.view(np.uint64).reshape(len(thumbnails))


def near_pairs(thumbnails: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Find the pairs of images that are nearly the same.

    Hashes that differ in at most three of 64 bits agree in at least one of their four quarters, so
    only hashes with an equal quarter are compared. Images with equal hashes are compared only with
    the first of them.

    Args:
        thumbnails: Grey thumbnails, float32 ``[N, 8, 9]``.

    Returns:
        int64 ``[P, 3]``, sorted: the indices of two images, the smaller one first, and the number
        of bits in which their hashes differ.
    """
    hashes, first, same = np.unique(
        difference_hashes(thumbnails), return_index=True, return_inverse=True
    )
    repeats = np.flatnonzero(first[same] != np.arange(len(thumbnails)))
    pairs = [np.stack([first[same[repeats]], repeats], axis=1)]
    pairs += [first[found] for found in map(_pairs_by_quarter, [hashes] * 4, range(0, 64, 16))]
    ends = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)
    left, right = ends.T
    grey = np.abs(thumbnails[left] - thumbnails[right]).mean((1, 2))
    codes = hashes[same]
    bits = np.bitwise_count(codes[left] ^ codes[right])
    return np.column_stack([ends, bits])[grey <= _MAX_GREY_DIFFERENCE].astype(np.int64)


def _pairs_by_quarter(hashes: npt.NDArray[np.uint64], shift: int) -> npt.NDArray[np.int64]:
    """Return index pairs ``[P, 2]`` of close hashes that agree in the 16 bits from ``shift`` on."""
    quarter = hashes >> np.uint64(shift) & np.uint64(0xFFFF)
    order = np.argsort(quarter, kind="stable")
    quarter, hashes = quarter[order], hashes[order]
    # In sorted order, equal quarters are adjacent: compare each hash with the next one, then with
    # the one after it if their quarters are still equal, and so on.
    here = np.arange(len(hashes))
    found = [np.zeros((0, 2), np.int64)]
    step = 0
    while len(here):
        step += 1
        here = here[here + step < len(hashes)]
        here = here[quarter[here] == quarter[here + step]]
        close = here[np.bitwise_count(hashes[here] ^ hashes[here + step]) <= MAX_BITS]
        found.append(np.stack([order[close], order[close + step]], axis=1))
    return np.concatenate(found)
