"""Training at another image size than evaluation, by epoch; evaluation with mirror images."""

import dataclasses
import json

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import flax_resnet as fr
from flax_resnet.config import AugmentConfig, Config, DataConfig, OptimizerConfig
from flax_resnet.data import Preprocessing
from flax_resnet.training.resolve import resolve
from tests.tiny_net import TINY, tiny_model

pytestmark = pytest.mark.usefixtures("no_page")
BASE = Config(
    model=TINY,
    data=DataConfig(name="digits", batch_size=128),
    augment=AugmentConfig(crop_padding=1, flip=False),
    optimizer=OptimizerConfig(learning_rate=0.05),
    epochs=2,
    compile_cache=None,
)
SIZES = ((0, 6), (1, 10))
DATA = dataclasses.replace(BASE.data, train_sizes=SIZES)


def test_sizes_are_a_function_of_the_step():
    run = resolve(dataclasses.replace(BASE, data=DATA, epochs=4))
    images = len(run.dataset.train)  # batches of 128
    sizes = [run.image_size_at(step) for step in range(run.total_steps)]
    assert sizes == [6 if step * 128 < images else 10 for step in range(run.total_steps)]
    images = np.zeros((2, 8, 8, 1), np.uint8)
    for size in (6, 10):
        step = run.step_for(run.phases[0], size)
        assert step.train_preprocess(images).shape == (2, size, size, 1)
        # Evaluation keeps the size of the stored images.
        assert step.preprocess(images).shape == (2, 8, 8, 1)
    segments = run.segments(3)
    assert [segment.image_size for segment in segments] == [6, 10]
    steps = [step for segment in segments for step in segment.steps]
    assert steps == list(range(3, run.total_steps))
    for segment in segments:
        assert {run.image_size_at(step) for step in segment.steps} == {segment.image_size}
    assert dataclasses.replace(run, config=BASE).image_size_at(0) is None


def arrays(workdir, step):
    tree = ocp.StandardCheckpointer().restore(workdir / "checkpoints" / str(step) / "default")
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def losses(workdir):
    lines = map(json.loads, (workdir / "history.jsonl").read_text().splitlines())
    return {line["step"]: line["train_loss"] for line in lines if "train_loss" in line}


@pytest.mark.slow
def test_a_run_of_two_sizes_resumes_exactly_from_either(tmp_path, console):
    config = dataclasses.replace(BASE, data=DATA, workdir=str(tmp_path / "whole"))
    whole = fr.train(config, console)
    assert "in training 6 from epoch 0, in training 10 from epoch 1" in console.text()
    assert console.text().count("Compiled the train step") == 2
    config = dataclasses.replace(config, workdir=str(tmp_path / "parts"))
    for steps in (5, whole.step - 2, None):  # stopped at the first size, and at the second
        fr.train(dataclasses.replace(config, max_steps=steps))
    expected, found = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert {step: found[step] for step in expected} == expected
    pairs = zip(*(arrays(tmp_path / name, whole.step) for name in ("whole", "parts")), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"train_sizes": ((0, 6), (0, 8))}}, "begin at epochs 0, 0; they must rise"),
        ({"data": {"train_sizes": ((3, 0),)}}, "of epoch 3 is 0"),
        ({"augment": {"repeats": 3}}, "batch-size 128 must be a multiple of it"),
        ({"augment": {"repeats": 0}}, "augment.repeats is 0"),
    ],
)
def test_impossible_sizes_and_repeats_are_refused(change, message):
    changed = {
        name: dataclasses.replace(getattr(BASE, name), **fields) for name, fields in change.items()
    }
    with pytest.raises(fr.UserError, match=message):
        fr.check_config(dataclasses.replace(BASE, **changed))


def test_evaluation_takes_the_mean_of_an_image_and_its_mirror_image():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    batch = {"image": images, "label": np.arange(4, dtype=np.int32)}
    prepare = Preprocessing((0.5,) * 3, (0.25,) * 3)
    model = tiny_model()
    step = fr.TrainStep(model, optax.sgd(0.1), preprocess=prepare, evaluate_flipped=True)
    state = step.init(jax.random.key(0), images)
    both = [
        np.asarray(model.apply(state.eval_variables, prepare(view), train=False), np.float64)
        for view in (images, images[:, :, ::-1])
    ]
    logits = (both[0] + both[1]) / 2
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(4), np.arange(4)]
    found = jax.jit(step.evaluate)(state, batch)
    np.testing.assert_allclose(found["loss"], losses.sum(), rtol=1e-5)
    assert not np.allclose(both[0], both[1])
