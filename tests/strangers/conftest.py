"""A classifier with random weights, for inputs and outputs that do not depend on them."""

import jax
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.config import ModelConfig
from flax_resnet.inference import Classifier
from flax_resnet.transform import EvalTransform
from flax_resnet.weights import WeightsInfo


@pytest.fixture(scope="session")
def classifier():
    """``classifier(channels)``: a resnet8 of three classes for images of 16x16."""

    def make(channels=3, classes=("a", "b", "c")):
        config = ModelConfig(name="resnet8", stem="cifar")
        model = fr.create_model("resnet8", stem="cifar", num_classes=len(classes))
        transform = EvalTransform.center_crop(16, 18).with_channels(channels)
        sample = np.zeros((1, 16, 16, channels), np.float32)
        variables = jax.jit(lambda key: model.init(key, sample, train=False))(jax.random.key(0))
        info = WeightsInfo(
            source="test", kind="run", path=None, config=config, classes=classes,
            transform=transform, settings={}, step=1,
        )  # fmt: skip
        return Classifier(model, variables, info)

    return make
