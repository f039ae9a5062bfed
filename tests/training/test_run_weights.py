"""model.safetensors of a run: the best checkpoint's weights, only where the run is finished."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.config import AugmentConfig, Config, DataConfig, OptimizerConfig
from flax_resnet.training.recording import Recorder
from flax_resnet.weights import load_source, read_weights
from flax_resnet.weights.formats.checkpoint import read_checkpoint
from tests.tiny_net import TINY

pytestmark = pytest.mark.usefixtures("no_page")
BASE = Config(
    model=TINY,
    data=DataConfig(name="digits", batch_size=256),
    augment=AugmentConfig(crop_padding=1, flip=False),
    optimizer=OptimizerConfig(learning_rate=0.05),
    epochs=3,
    compile_cache=None,
)
FILE = "model.safetensors"


def bits(state_dict):
    return {
        name: np.asarray(array).tobytes()
        for name, array in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }


@pytest.mark.slow
@pytest.mark.parametrize("ema_decay", [None, 0.9], ids=["plain", "ema"])
def test_a_finished_run_holds_the_bits_of_its_best_checkpoint(tmp_path, ema_decay):
    config = dataclasses.replace(BASE, workdir=str(tmp_path), ema_decay=ema_decay)
    result = fr.train(config)
    step, variables = read_checkpoint(tmp_path / "checkpoints")
    classifier = fr.load(tmp_path)
    assert step == result.best_step == classifier.info.step
    assert bits(read_weights(tmp_path / FILE)) == bits(
        fr.to_torchvision(variables, classifier.model)
    )
    held = jax.tree.leaves_with_path(dict(classifier.variables))
    saved = dict(jax.tree.leaves_with_path(variables))
    assert len(held) == len(saved)
    for path, leaf in held:
        assert np.asarray(leaf).tobytes() == np.asarray(saved[path]).tobytes(), path
    last = json.loads((tmp_path / "history.jsonl").read_text().splitlines()[-1])
    assert classifier.evaluate().result.top1 == pytest.approx(last["test_top1"])


@pytest.mark.slow
def test_a_resumed_run_is_read_from_its_checkpoints_until_it_ends(tmp_path, monkeypatch):
    config = dataclasses.replace(BASE, workdir=str(tmp_path))
    first = fr.train(dataclasses.replace(config, max_steps=4))
    assert load_source(tmp_path).info.step == first.best_step == 4
    before = (tmp_path / FILE).read_bytes()

    class Killed(Exception):
        pass

    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "finish", killed)
        with pytest.raises(Killed):
            fr.train(config)
    assert (tmp_path / FILE).read_bytes() == before
    step = load_source(tmp_path).info.step
    assert step > 4
    last = fr.train(config)
    assert last.finished and load_source(tmp_path).info.step == last.best_step
    assert (tmp_path / FILE).read_bytes() != before
