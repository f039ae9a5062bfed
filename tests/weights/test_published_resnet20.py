"""A published CIFAR-10 resnet20 on real test images, compared with torch's predictions."""

import jax
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.data import load_dataset
from flax_resnet.transform import IMAGENET_MEAN, IMAGENET_STD

from .conftest import GOLDEN

COUNT = 1000


@pytest.fixture(scope="module")
def real(repository):
    folder = repository.parent / "shared" / "data"
    if not (folder / "weights" / "resnet20-12fca82f.th").is_file():
        pytest.skip("no real weights here")
    return folder


@pytest.mark.slow
def test_accuracy_and_predictions_are_torchs(real):
    split = load_dataset("cifar10", str(real), validation=0.0, download=False).test
    images, labels = split.images[:COUNT], split.labels[:COUNT]
    model = fr.create_model("resnet20")
    variables = fr.load_weights(real / "weights" / "resnet20-12fca82f.th", model)
    pixels = (images.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    logits = jax.jit(lambda x: model.apply(variables, x, train=False))(pixels.astype(np.float32))
    predicted = np.argmax(logits, axis=-1)
    assert 0.913 <= np.mean(predicted == labels) <= 0.917
    torchs = np.array(list((GOLDEN / "resnet20_predictions.txt").read_text().strip()), np.int64)
    assert np.sum(predicted == torchs) >= 999
