"""The same command gives the same bits, with any number of threads that decode images too."""

import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

import flax_resnet as fr
from flax_resnet import runtime
from flax_resnet.config import AugmentConfig, DataConfig
from tests.tiny_net import TINY


def test_flags_are_set_before_jax_starts_and_asked_for_after(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    monkeypatch.setattr(runtime, "has_started", lambda: False)
    runtime.require_determinism()
    runtime.require_determinism()
    assert os.environ["XLA_FLAGS"].split() == ["--xla_dump_to=x", *runtime.DETERMINISM]
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(runtime, "has_started", lambda: True)
    runtime.require_determinism()  # on a CPU all algorithms are deterministic
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    with pytest.raises(fr.UserError, match="set XLA_FLAGS='--xla_gpu_deterministic_ops"):
        runtime.require_determinism()


def test_xla_knows_the_flags():
    environment = os.environ | {"XLA_FLAGS": " ".join(runtime.DETERMINISM), "JAX_PLATFORMS": "cpu"}
    program = "import jax; print(jax.numpy.ones(2).sum())"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_a_run_has_the_same_bits_again_and_with_other_workers(noise_photos, tmp_path, console):
    found = []
    for workers in (1, 1, 3):
        workdir = tmp_path / f"run{len(found)}"
        config = fr.Config(
            model=TINY,
            data=DataConfig(
                name="folder",
                dir=str(noise_photos),
                image_size=16,
                batch_size=8,
                workers=workers,
            ),
            augment=AugmentConfig(random_resized_crop=True, flip=True),
            epochs=2,
            deterministic=True,
            workdir=str(workdir),
        )
        fr.train(config, console)
        found.append(load_file(workdir / "model.safetensors"))
    for other in found[1:]:
        for name, array in found[0].items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)
