"""Near duplicates, checked against a comparison of all pairs."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_resnet.data.audit.near_duplicates import (
    DHASH_SHAPE,
    difference_hashes,
    grey_thumbnail,
    near_pairs,
)


def bits_of(thumbnail: np.ndarray) -> np.ndarray:
    return np.array([thumbnail[row, column + 1] > thumbnail[row, column]
                     for row in range(8) for column in range(8)])  # fmt: skip


def test_the_luma_follows_bt_601():
    colours = np.zeros((*DHASH_SHAPE, 3), np.uint8)
    colours[0, :3] = np.diag([255, 255, 255])
    luma = grey_thumbnail(colours)
    np.testing.assert_allclose(luma[0, :3], [76.245, 149.685, 29.07], rtol=1e-5)
    assert luma.shape == DHASH_SHAPE and not luma[1:].any()


def test_hashes_differ_where_neighbours_compare_differently():
    thumbnails = np.random.default_rng(0).uniform(0, 255, (30, *DHASH_SHAPE)).astype(np.float32)
    hashes = difference_hashes(thumbnails)
    np.testing.assert_array_equal(difference_hashes(thumbnails * 0.5 + 20), hashes)
    for one in range(30):
        for other in range(30):
            expected = np.count_nonzero(bits_of(thumbnails[one]) != bits_of(thumbnails[other]))
            assert bin(int(hashes[one]) ^ int(hashes[other])).count("1") == expected


def all_pairs(thumbnails: np.ndarray) -> set[tuple[int, int, int]]:
    bits = [bits_of(thumbnail) for thumbnail in thumbnails]
    found = set()
    for one in range(len(thumbnails)):
        for other in range(one + 1, len(thumbnails)):
            apart = int(np.count_nonzero(bits[one] != bits[other]))
            if apart <= 3 and np.abs(thumbnails[one] - thumbnails[other]).mean() <= 8:
                found.add((one, other, apart))
    return found


@settings(deadline=None, max_examples=40, database=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 25), copies=st.integers(0, 12))
def test_pairs_equal_a_comparison_of_all_pairs(seed, count, copies):
    """All hashes differ here, because images of equal hash are compared only with the first."""
    rng = np.random.default_rng(seed)
    thumbnails = rng.integers(0, 256, (count, *DHASH_SHAPE)).astype(np.float32)
    for _ in range(copies if count else 0):
        thumbnail = thumbnails[rng.integers(count)].copy()
        for _ in range(rng.integers(1, 5)):  # one pixel determines two bits
            thumbnail[rng.integers(8), rng.integers(9)] += rng.choice([-90, 90])
        thumbnails = np.concatenate([thumbnails, thumbnail[None]])
    thumbnails = thumbnails[np.sort(np.unique(difference_hashes(thumbnails), return_index=True)[1])]
    found = near_pairs(thumbnails)
    assert found.dtype == np.int64 and found.shape[1:] == (3,)
    assert found.tolist() == sorted(map(list, all_pairs(thumbnails)))


def test_images_of_one_hash_pair_with_the_first_unless_their_greys_differ():
    thumbnail = np.random.default_rng(1).uniform(60, 200, DHASH_SHAPE).astype(np.float32)
    thumbnails = np.stack([thumbnail, thumbnail + 1, thumbnail + 50, thumbnail * 1.01])
    assert near_pairs(thumbnails).tolist() == [[0, 1, 0], [0, 3, 0]]
    assert near_pairs(thumbnails[:0]).shape == (0, 3)
