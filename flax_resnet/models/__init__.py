"""Flax Linen models. This package imports nothing else of flax_resnet."""

from .folding import fold_batch_norm, pack_kernels
from .layers import QUICK_COMPILATION
from .lowerings import CONV_IMPLS
from .mnist import MnistResNet
from .resnet import ResNet, stage_of
from .summary import ModelSummary, StageSummary, default_image_shape, summarize
from .variants import create_model, list_models

__all__ = [
    "CONV_IMPLS",
    "QUICK_COMPILATION",
    "MnistResNet",
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
