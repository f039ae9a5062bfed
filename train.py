"""Train a model: ``python train.py --config digits`` is the same as ``flax-resnet train``."""

import sys

from flax_resnet.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    sys.exit(main())
