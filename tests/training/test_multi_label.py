"""Images with several classes: loss, sums and evaluation, compared with NumPy."""

import jax
import numpy as np
import optax
import pytest

import flax_resnet as fr
from flax_resnet.data import Preprocessing
from flax_resnet.training.evaluation import evaluate_split, score_of
from flax_resnet.training.mesh import data_mesh
from flax_resnet.training.partitioning import Partitioning
from tests.tiny_net import tiny_model

CLASSES = 6
PREPARE = Preprocessing((0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    labels = (rng.random((8, CLASSES)) < 0.3).astype(np.float32)
    return {"image": rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8), "label": labels}


def make(**options):
    """A step and its first state."""
    model = tiny_model(num_classes=CLASSES)
    step = fr.TrainStep(model, optax.sgd(1.0), loss="sigmoid", preprocess=PREPARE, **options)
    return step, step.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), np.uint8))


@pytest.fixture(scope="module")
def made():
    return make()


def eval_logits(step, state, images):
    logits = step.model.apply(state.eval_variables, PREPARE(images), train=False)
    return np.asarray(logits, np.float64)


def test_sums_agree_with_numpy(made, batch):
    step, state = made
    logits, labels = eval_logits(step, state, batch["image"]), batch["label"]
    sums = jax.jit(step.evaluate)(state, batch)
    chances = 1 / (1 + np.exp(-logits))
    losses = -np.log(np.where(labels > 0, chances, 1 - chances)).mean(1)
    np.testing.assert_allclose(sums["loss"], np.sum(losses), rtol=1e-5)
    ranked = np.take_along_axis(labels, np.argsort(-logits, axis=1), axis=1)
    assert float(sums["top1"]) == ranked[:, 0].sum()
    assert float(sums["top5"]) == ranked[:, :5].any(1).sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_step_follows_the_gradient_of_binary_cross_entropy(batch, smoothing):
    step, state = make(label_smoothing=smoothing)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits, _ = step.model.apply(
        variables, PREPARE(batch["image"]), train=True, mutable=["batch_stats"]
    )
    after, _ = jax.jit(step)(state, batch)
    # Plain SGD moves the classifier's bias by -rate * mean((sigmoid - target) / classes).
    moved = state.params["fc"]["bias"] - after.params["fc"]["bias"]
    targets = batch["label"] * (1 - smoothing) + smoothing / 2
    expected = (1 / (1 + np.exp(-np.asarray(logits))) - targets).mean(0) / CLASSES
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_single_labels_are_one_hot_targets(made, batch):
    step, state = made
    single = batch | {"label": np.arange(8, dtype=np.int32) % CLASSES}
    one_hot = batch | {"label": np.eye(CLASSES, dtype=np.float32)[single["label"]]}
    found, expected = (jax.jit(step.evaluate)(state, labels) for labels in (single, one_hot))
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


class Few:
    """Nine images in memory; the sixth cannot be read."""

    streams = False
    bad: dict = {}  # noqa: RUF012

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def gather(self, indices, draws=None):
        images, labels = self.images[indices], self.labels[indices]
        return {"image": images, "label": labels, "mask": np.asarray(indices) != 5}


def test_evaluation_has_the_mean_average_precision_of_the_images_it_could_read(made):
    step, state = made
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    labels = (rng.random((9, CLASSES)) < 0.5).astype(np.float32)
    labels[:, 2] = 0
    kept = np.arange(9) != 5
    found = evaluate_split(
        step.eval_step, state.eval_variables, Few(images, labels), 4, Partitioning(data_mesh())
    )
    scores = found.scores
    logits, truth = eval_logits(step, state, images)[kept], labels[kept]
    precisions = []
    for column in (0, 1, 3, 4, 5):
        ranked = truth[np.argsort(-logits[:, column]), column]
        precision = np.cumsum(ranked) / np.arange(1, 9)
        best_from = np.array([precision[k:].max() for k in range(8)])
        precisions.append((best_from * ranked).sum() / ranked.sum())
    assert scores["map"] == pytest.approx(np.mean(precisions))
    assert scores["top1"] == pytest.approx(truth[np.arange(8), logits.argmax(1)].mean())
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.labels, truth)
    assert score_of(scores) == scores["map"]
    assert score_of({"top1": 0.5}) == 0.5 and score_of({}) is None
    assert score_of({"top1": 0.5, "map": np.nan}) is None
