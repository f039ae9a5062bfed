"""Uses of trained weights: ``load`` a classifier, predict, explain, evaluate, embed, publish."""

from .class_names import read_classes
from .classifier import Classifier, load
from .convert import Conversion, convert_weights
from .embed import Embeddings, write_embeddings
from .evaluate import EvalResult
from .explanations import Explanations, explain, explain_batches
from .find_files import FoundFiles, find_files
from .predict import Prediction, Predictions
from .publish import push_to_hub
from .suspects import Suspects, find_suspects

__all__ = [
    "Classifier",
    "Conversion",
    "Embeddings",
    "EvalResult",
    "Explanations",
    "FoundFiles",
    "Prediction",
    "Predictions",
    "Suspects",
    "convert_weights",
    "explain",
    "explain_batches",
    "find_files",
    "find_suspects",
    "load",
    "push_to_hub",
    "read_classes",
    "write_embeddings",
]
