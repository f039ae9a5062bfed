"""What is done with trained weights: a run's folder read back, conversion."""

from .convert import Conversion, convert_weights
from .run_folder import LoadedRun, load_run, save_run

__all__ = ["Conversion", "LoadedRun", "convert_weights", "load_run", "save_run"]
