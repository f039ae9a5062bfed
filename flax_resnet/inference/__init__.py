"""Uses of trained weights: ``load`` a classifier, predict, evaluate, embed, convert, publish."""

from .class_names import read_classes
from .classifier import Classifier, load
from .convert import Conversion, convert_weights
from .embed import Embeddings, write_embeddings
from .evaluate import EvalResult
from .find_files import FoundFiles, find_files
from .predict import Prediction, Predictions
from .publish import push_to_hub

__all__ = [
    "Classifier",
    "Conversion",
    "Embeddings",
    "EvalResult",
    "FoundFiles",
    "Prediction",
    "Predictions",
    "convert_weights",
    "find_files",
    "load",
    "push_to_hub",
    "read_classes",
    "write_embeddings",
]
