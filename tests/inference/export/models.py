"""Small models of every kind, with random weights that are not trivial, as classifiers."""

import jax
import jax.numpy as jnp
import numpy as np

import flax_resnet as fr
from flax_resnet.config import ModelConfig
from flax_resnet.inference import Classifier
from flax_resnet.models import ResNet
from flax_resnet.transform import EvalTransform
from flax_resnet.weights import WeightsInfo

TINY = {"stage_sizes": (1, 2), "widths": (8, 16), "num_classes": 5, "stem": "cifar"}
DEEP = {"stem": "deep", "avg_pool_shortcut": True}
# The options that change the graph, several in each model.
MODELS = {
    "basic, shortcut A": ResNet(block="basic", shortcut="A", **TINY),
    "v1, shortcut C, hidden": ResNet(
        block="bottleneck", version="v1", shortcut="C", hidden=(6,), **TINY
    ),
    "resnext": ResNet(
        block="bottleneck", groups=4, width_per_group=32, **TINY | {"stem": "imagenet"}
    ),
    "plain": ResNet(block="basic", residual=False, **TINY),
    "resnet-d, se": ResNet(block="bottleneck", attention="se", **TINY | DEEP),
    "eca, blur": ResNet(block="basic", attention="eca", anti_alias="blur", **TINY | DEEP),
    "aa, standardized": ResNet(
        block="bottleneck", anti_alias="mean", standardized_kernels=True, **TINY
    ),
    "resnet-rs, dilated": ResNet(
        block="bottleneck", stem_pool="conv", output_stride=4, **TINY | DEEP
    ),
    "v2": ResNet(block="bottleneck", version="v2", **TINY),
    "v2, shortcut A": ResNet(block="basic", version="v2", shortcut="A", **TINY),
    "bit": ResNet(
        block="bottleneck", version="v2", norm="group", standardized_kernels=True,
        **TINY | {"stem": "imagenet", "stem_pool": "zero_padded_max"},
    ),
    "group norm": ResNet(block="basic", norm="group", **TINY),
    "mnist": fr.create_model("resnet_mnist", widths=(8, 16), num_classes=5),
}  # fmt: skip


def random_variables(model, size=32, channels=3):
    """Variables with statistics far from 0 and 1, and logits of a usual size."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(
        lambda key: model.clone(conv_impl="reference").init(
            key, jnp.zeros((1, size, size, channels))
        ),
        jax.random.key(0),
    )

    def fill(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        return (rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def classifier_of(model, transform=None, variables=None, name="resnet", **settings):
    """A classifier of that model for images of 32x32, or those of the transform."""
    transform = transform or EvalTransform.center_crop(32, 36)
    if variables is None:
        variables = random_variables(model, transform.height, transform.channels)
    info = WeightsInfo(
        source="test",
        kind="file",
        path=None,
        config=ModelConfig(name=name),
        classes=tuple("abcdefghijklmnop"[: model.num_classes]),
        transform=transform,
        settings=settings,
        model_options={
            option: getattr(model, option)
            for option in ("stage_sizes", "block", "widths", "stem", "shortcut")
        }
        if name == "resnet"
        else {},
    )
    return Classifier(model, variables, info)
