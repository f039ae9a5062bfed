"""``python -m flax_resnet`` is the command ``flax-resnet``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
