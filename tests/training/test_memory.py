"""A step that does not fit is refused before it runs, with a batch size that fits."""

import re

import jax
import jax.numpy as jnp
import pytest

import flax_resnet as fr
from flax_resnet.config import DataConfig, ModelConfig
from flax_resnet.training import memory

MB = 10**6


def compile_with(batch_size):
    """A program that needs 12 MB for each image."""
    images = jax.ShapeDtypeStruct((batch_size, 1000, 1000), jnp.float32)
    return jax.jit(lambda x: jnp.cumsum(jnp.sort(x, axis=1), axis=2)).lower(images).compile()


@pytest.mark.parametrize(
    ("limit", "held", "fits"), [(10**12, 0, 64), (250 * MB, 0, 16), (250 * MB, 190 * MB, 4)]
)
def test_a_batch_size_that_fits_is_named(limit, held, fits, monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: (limit, held, "this container"))
    needed = {n: held + memory._needed(compile_with(n)) for n in (fits, 2 * fits)}
    assert needed[fits] <= limit
    if fits == 64:
        memory.check_memory(compile_with(64), 64, 2, compile_with)
        return
    assert needed[2 * fits] > limit
    with pytest.raises(fr.UserError, match=rf"of this container: use --data.batch-size {fits}, "):
        memory.check_memory(compile_with(64), 64, 2, compile_with)


@pytest.mark.parametrize(
    ("batch_size", "microbatches", "named"), [(64, 1, 4), (64, 4, 16), (36, 2, 6), (40, 4, 20)]
)
def test_the_number_of_microbatches_that_is_named_cuts_the_batch(
    batch_size, microbatches, named, monkeypatch
):
    """Microbatches of 16 images fit where there is one; it is multiplied, and divides the batch."""
    monkeypatch.setattr(memory, "memory_limit", lambda: (250 * MB, 0, "this container"))
    with pytest.raises(fr.UserError, match=rf", or --microbatches {named}\.$"):
        memory.check_memory(
            compile_with(batch_size), batch_size, microbatches, compile_with, microbatches
        )


def test_nothing_fits(monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: (MB, 0, "this container"))
    with pytest.raises(fr.UserError, match="no smaller batch fits"):
        memory.check_memory(compile_with(4), 4, 1, compile_with)


@pytest.mark.slow
def test_training_is_refused_before_the_first_step(tmp_path, console, monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: (MB, 0, "this container"))
    model = ModelConfig(name="resnet", stage_sizes=(1,), block="basic", widths=(4,), stem="cifar")
    data = DataConfig(name="digits", batch_size=512)
    config = fr.Config(model, data, epochs=1, workdir=str(tmp_path), compile_cache=None)
    with pytest.raises(fr.UserError, match=r"use --data.batch-size \d+, which") as caught:
        fr.train(config, console)
    assert not (tmp_path / "history.jsonl").exists()
    assert int(re.search(r"batch-size (\d+)", str(caught.value))[1]) in (64, 128, 256)


def test_an_exhausted_device_is_reported_in_one_sentence():
    message = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nmore"
    with (
        pytest.raises(fr.UserError, match="use a smaller"),
        memory.exhaustion_explained(),
    ):
        raise jax.errors.JaxRuntimeError(message)
    other = "RESOURCE_EXHAUSTED: No space left on device"
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="No space left"),
        memory.exhaustion_explained(),
    ):
        raise jax.errors.JaxRuntimeError(other)
