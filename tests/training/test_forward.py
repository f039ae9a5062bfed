"""A forward pass over a source: every image once, in order, whatever the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flax_resnet.data import Split
from flax_resnet.data.images import ImageFiles, Records
from flax_resnet.training import forward, static_batch_size
from flax_resnet.transform import EvalTransform

weigh = jax.jit(lambda weight, images: {"sum": weight * jnp.sum(images / 255, (1, 2, 3))})


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (33, 32), (0, 1)])
def test_a_few_images_make_a_small_batch(count, size):
    assert static_batch_size(count, 32) == size


@pytest.mark.parametrize("batch_size", [1, 4, 7, 16])
def test_every_row_comes_out_once_in_order(batch_size):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)
    source = Split(images, np.arange(7, dtype=np.int32) + 10)
    parts = list(forward(weigh, 2.0, source, batch_size=batch_size))
    assert np.concatenate([part.indices for part in parts]).tolist() == list(range(7))
    assert np.concatenate([part.labels for part in parts]).tolist() == list(range(10, 17))
    sums = np.concatenate([part.outputs["sum"] for part in parts])
    expected = 2 * (images.astype(np.float64) / 255).sum((1, 2, 3))
    np.testing.assert_allclose(sums, expected, rtol=1e-5)


def test_batches_have_one_shape():
    shapes = set()

    def remember(_, images):
        shapes.add(images.shape)
        return images[:, 0, 0, 0]

    source = Split(np.zeros((5, 2, 2, 3), np.uint8), np.zeros(5, np.int32))
    list(forward(remember, (), source, batch_size=4))
    assert shapes == {(4, 2, 2, 3)}


def test_files_that_cannot_be_read_are_left_out_and_named(tmp_path):
    for number in range(5):
        Image.new("RGB", (9, 7), (10 * number,) * 3).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"GIF?")
    paths = [str(tmp_path / f"{number}.png") for number in range(5)]
    records = Records(tuple(paths), np.zeros(5, np.int32))
    with ImageFiles.from_transform(records, EvalTransform.stored_like((4, 4, 1))) as source:
        parts = list(forward(weigh, 1.0, source, batch_size=2))
    assert np.concatenate([part.indices for part in parts]).tolist() == [0, 1, 3, 4]
    sums = np.concatenate([part.outputs["sum"] for part in parts])
    np.testing.assert_allclose(sums, np.array([0, 10, 30, 40]) * 16 / 255, rtol=1e-6)
    assert list(source.bad) == [paths[2]]


def test_an_error_of_the_source_arrives():
    class Broken(Split):
        def gather(self, indices, draws=None):
            raise OSError("gone")

    source = Broken(np.zeros((3, 2, 2, 3), np.uint8), np.zeros(3, np.int32))
    with pytest.raises(OSError, match="gone"):
        list(forward(weigh, 1.0, source, batch_size=2))


def test_nothing_in_nothing_out():
    source = Split(np.zeros((0, 2, 2, 3), np.uint8), np.zeros(0, np.int32))
    assert not list(forward(weigh, 1.0, source, batch_size=2))
