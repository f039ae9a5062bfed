"""Data sets in TFDS's folders, written and read without TensorFlow.

``prepare`` writes a set from its original files (one module for each kind of set, all with
``archives``, ``contents`` and ``writer``), ``open_prepared`` reads any set in ArrayRecord files,
and ``load_prepared`` makes a ``Dataset`` of it.
"""

from .dataset import load_prepared
from .folders import find_prepared
from .imagenet import imagenet_synsets
from .prepare import preparable_names, prepare
from .reader import Prepared, PreparedSplit, open_prepared

__all__ = [
    "Prepared",
    "PreparedSplit",
    "find_prepared",
    "imagenet_synsets",
    "load_prepared",
    "open_prepared",
    "preparable_names",
    "prepare",
]
