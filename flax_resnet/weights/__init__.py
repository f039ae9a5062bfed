"""Weights in and out: torchvision's names and layouts, files, published sets."""

from .convert import IncompatibleKeys, from_torchvision, to_torchvision
from .formats.files import load_weights, read_weights, save_weights, write_weights
from .infer import InferredModel, infer_model
from .layouts import torchvision_names
from .pretrained import PretrainedInfo, find_weights, load_pretrained
from .published import (
    PublishedWeights,
    imagenet_classes,
    published_weights,
)

__all__ = [
    "IncompatibleKeys",
    "InferredModel",
    "PretrainedInfo",
    "PublishedWeights",
    "find_weights",
    "from_torchvision",
    "imagenet_classes",
    "infer_model",
    "load_pretrained",
    "load_weights",
    "published_weights",
    "read_weights",
    "save_weights",
    "to_torchvision",
    "torchvision_names",
    "write_weights",
]
