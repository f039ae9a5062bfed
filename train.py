"""Train a model: ``python train.py --config digits`` is the same as ``flax-resnet train``."""

import sys

from flax_resnet.cli import run

if __name__ == "__main__":
    sys.exit(run(["train", *sys.argv[1:]]))
