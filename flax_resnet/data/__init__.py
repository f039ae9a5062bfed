"""Data sets, the order and batches of their images, and augmentation.

``open_dataset`` opens any data set as three ``Source``s, from which ``train_batches`` and
``eval_batches`` draw batches. The folders hold image files (``images``), TFDS's prepared sets
(``tfds``), augmentation on the device (``augment``), and checks of image folders (``audit``).
"""

from .augment import Augmentation, Mixing, Preprocessing
from .builtin import dataset_names, load_dataset
from .datasets import Dataset, Split
from .images import UNIFORMS_PER_CROP
from .opening import FOLDER, IMAGE_SETS, IMAGE_SIZE, open_dataset
from .order import BalancedOrder, Order, batch_indices, epoch_order
from .pipeline import Batch, Prefetch, Shard, Source, eval_batches, train_batches
from .shard_order import ShardOrder, shards_of

__all__ = [
    "FOLDER",
    "IMAGE_SETS",
    "IMAGE_SIZE",
    "UNIFORMS_PER_CROP",
    "Augmentation",
    "BalancedOrder",
    "Batch",
    "Dataset",
    "Mixing",
    "Order",
    "Prefetch",
    "Preprocessing",
    "Shard",
    "ShardOrder",
    "Source",
    "Split",
    "batch_indices",
    "dataset_names",
    "epoch_order",
    "eval_batches",
    "load_dataset",
    "open_dataset",
    "shards_of",
    "train_batches",
]
