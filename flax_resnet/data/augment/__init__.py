"""Augmentation and preprocessing as pure functions that run under jit on the device.

The functions of ``geometry``, ``color``, ``erasing`` and ``policies`` take one image ``[H, W, C]``,
and ``Augmentation`` maps them over a batch. ``Mixing`` and ``Preprocessing`` take whole batches.
"""

from .augmentation import Augmentation
from .mixing import Mixing, cutmix, mixup
from .preprocessing import Preprocessing
from .resizing import resize_center_crop

__all__ = [
    "Augmentation",
    "Mixing",
    "Preprocessing",
    "cutmix",
    "mixup",
    "resize_center_crop",
]
