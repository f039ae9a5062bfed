"""Data sets, their order, and the augmentation of their images."""

from .augment import Augmentation, Mixing, Preprocessing
from .datasets import Dataset, Split, dataset_names, load_dataset
from .framing import Framing
from .opening import open_dataset
from .pipeline import (
    Prefetch,
    Shard,
    Source,
    batch_indices,
    epoch_order,
    eval_batches,
    train_batches,
)

__all__ = [
    "Augmentation",
    "Dataset",
    "Framing",
    "Mixing",
    "Prefetch",
    "Preprocessing",
    "Shard",
    "Source",
    "Split",
    "batch_indices",
    "dataset_names",
    "epoch_order",
    "eval_batches",
    "load_dataset",
    "open_dataset",
    "train_batches",
]
