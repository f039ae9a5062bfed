"""A net of one block, for tests of a run or a step: it compiles in a third of resnet8's time."""

import flax_resnet as fr
from flax_resnet.config import ModelConfig

SHAPE = {"stage_sizes": (1,), "widths": (8,)}
TINY = ModelConfig(name="resnet8", **SHAPE)
TINY_OPTIONS = ("--model.name", "resnet8", "--model.stage-sizes", "1", "--model.widths", "8")


def tiny_model(**options):
    """Return the module."""
    return fr.create_model("resnet8", **SHAPE | options)
