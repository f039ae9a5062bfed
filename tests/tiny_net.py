"""A net of one block, for runs whose test is about the run: its step compiles and traces in a third
of a resnet8's time."""

from flax_resnet.config import ModelConfig

TINY = ModelConfig(name="resnet8", stage_sizes=(1,), widths=(8,))
TINY_OPTIONS = ("--model.name", "resnet8", "--model.stage-sizes", "1", "--model.widths", "8")
