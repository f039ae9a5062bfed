"""The main job: ``python train.py --config digits``, the same as ``flax-resnet train``."""

import sys

from flax_resnet.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
