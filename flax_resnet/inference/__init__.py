"""What is done with trained weights: a run read back, prediction, evaluation, conversion."""

from .convert import Conversion, convert_weights
from .embed import Embeddings, embed, write_embeddings
from .evaluate import EvalResult, evaluate
from .find_files import FoundFiles, find_files
from .loading import load_any, read_classes
from .predict import Prediction, Predictions, predict, predict_batches
from .run_folder import LoadedRun, load_run, save_run

__all__ = [
    "Conversion",
    "Embeddings",
    "EvalResult",
    "FoundFiles",
    "LoadedRun",
    "Prediction",
    "Predictions",
    "convert_weights",
    "embed",
    "evaluate",
    "find_files",
    "load_any",
    "load_run",
    "predict",
    "predict_batches",
    "read_classes",
    "save_run",
    "write_embeddings",
]
