"""Binary cross-entropy of images with one class each: steps, whole runs, what contradicts it."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from scipy.special import expit

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import AugmentConfig, Config, DataConfig, OptimizerConfig
from flax_resnet.report.outcomes import read_outcomes
from tests.tiny_net import TINY


class Linear(nn.Module):
    num_classes: int = 4

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.num_classes, name="fc")(x.reshape(len(x), -1))


def three_to_one(key, images, targets, axis_name):
    """Mixes targets, as mixup does, and leaves the images."""
    return images, 0.75 * targets + 0.25 * np.roll(np.eye(len(targets)), 1, 0) @ targets


@pytest.mark.parametrize("threshold", [None, 0.2, 0.3])
def test_a_step_follows_the_gradient_at_mixed_targets(threshold):
    step = fr.TrainStep(
        Linear(), optax.sgd(1.0), loss="one_vs_all", mix=three_to_one, target_threshold=threshold
    )
    images = np.random.default_rng(0).normal(size=(6, 2, 2, 1)).astype(np.float32)
    labels = np.array([0, 0, 0, 1, 2, 1])
    state = step.init(jax.random.key(0), images)
    after, sums = jax.jit(step)(state, {"image": images, "label": labels})
    logits = images.reshape(6, -1) @ np.asarray(state.params["fc"]["kernel"])
    one_hot = np.eye(4)[labels]
    targets = 0.75 * one_hot + 0.25 * np.roll(one_hot, 1, 0)
    if threshold is not None:
        targets = targets > threshold
    slope = (expit(logits) - targets) / 4
    np.testing.assert_allclose(after.params["fc"]["bias"], -slope.mean(0), atol=1e-6)
    # Metrics are of the labels, as in evaluation.
    losses = -np.log(np.where(one_hot > 0, expit(logits), 1 - expit(logits))).mean(1)
    np.testing.assert_allclose(sums["loss"], losses.sum(), rtol=1e-5)


BASE = Config(
    model=TINY,
    data=DataConfig(name="digits", batch_size=256),
    augment=AugmentConfig(flip=False, crop_padding=1, mixup_alpha=0.1, cutmix_alpha=1.0),
    optimizer=OptimizerConfig(name="lamb", learning_rate=0.01, weight_decay=0.02, clip_norm=1.0),
    loss="one_vs_all",
    target_threshold=0.2,
    epochs=2,
    compile_cache=None,
)


def mean_binary_loss(chances, labels):
    one_hot = np.eye(chances.shape[1])[labels]
    return -np.log(np.where(one_hot > 0, chances, 1 - chances)).mean()


@pytest.mark.slow
def test_history_evaluation_prediction_page_and_files_agree(tmp_path, console, request):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    fr.train(dataclasses.replace(BASE, workdir=str(whole)), console)
    request.getfixturevalue("no_page")  # for the other run
    for steps in (4, None):
        fr.train(dataclasses.replace(BASE, workdir=str(halves), max_steps=steps), console)
    *lines, last = map(json.loads, (whole / "history.jsonl").read_text().splitlines())
    *again, _ = map(json.loads, (halves / "history.jsonl").read_text().splitlines())
    assert again[-1]["digest"] == lines[-1]["digest"]  # resuming changes no bit
    assert lines[0]["train_loss"] == pytest.approx(np.log(2), abs=0.4)  # the mean over classes

    classifier = fr.load(whole)
    found = classifier.evaluate()
    chances = found.predictions.probabilities
    assert found.result.loss == pytest.approx(last["test_loss"], rel=1e-4)
    assert found.result.loss == pytest.approx(mean_binary_loss(chances, found.labels), rel=1e-4)
    assert found.result.top1 == last["test_top1"]
    assert np.abs(chances.sum(1) - 1).max() > 0.1  # each class has a chance of its own
    confidence = chances.max(1)
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    hits = chances.argmax(1) == found.labels
    error = sum(abs((confidence - hits)[bins == b].sum()) for b in range(15)) / len(hits)
    assert found.result.calibration_error == pytest.approx(error, abs=1e-5)

    outcomes = read_outcomes(whole / "report" / "images.npz")
    np.testing.assert_allclose(outcomes.probabilities[:, 0], confidence, atol=1e-5)
    own = chances[np.arange(len(hits)), found.labels]
    np.testing.assert_allclose(outcomes.label_probabilities, own, atol=1e-5)
    assert outcomes.losses[len(outcomes.losses) // 2] == pytest.approx(found.result.loss, rel=1e-4)
    np.testing.assert_allclose(outcomes.reliability[16, 1].sum(), confidence.sum(), rtol=1e-4)

    classifier.save(tmp_path / "weights.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    np.testing.assert_allclose(
        fr.load(tmp_path / "weights.safetensors").predict(images).probabilities,
        classifier.predict(images).probabilities,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--loss sigmoid", "use --loss one_vs_all for binary cross-entropy, or softmax"),
        ("--loss one_vs_all --class-weights balanced", "or --data.sampling balanced"),
        ("--target-threshold 0.2", "add --loss one_vs_all"),
        ("--loss one_vs_all --target-threshold 0.2 --label-smoothing 0.1", "has no effect"),
        ("--loss one_vs_all --target-threshold 1", "must be at least 0 and below 1"),
    ],
)
def test_what_contradicts_it_is_refused(options, message, tmp_path, capsys):
    line = f"train --config digits --epochs 1 --workdir {tmp_path / 'run'} {options}"
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
