"""Flax Linen models.

``resnet.py`` is the model, ``blocks.py`` its residual blocks, ``layers.py`` and ``norm.py`` their
layers, ``variants.py`` the table of named models. ``folding.py`` folds batch norm for inference,
``summary.py`` counts parameters and operations, ``lowerings/`` holds the algorithms that compute
convolutions on CPU. This package imports nothing else of flax_resnet.
"""

from .folding import fold_batch_norm, pack_kernels
from .layers import QUICK_COMPILATION
from .lowerings import CONV_IMPLS
from .resnet import ResNet, stage_of
from .summary import ModelSummary, StageSummary, default_image_shape, summarize
from .variants import create_model, list_models

__all__ = [
    "CONV_IMPLS",
    "QUICK_COMPILATION",
    "ModelSummary",
    "ResNet",
    "StageSummary",
    "create_model",
    "default_image_shape",
    "fold_batch_norm",
    "list_models",
    "pack_kernels",
    "stage_of",
    "summarize",
]
