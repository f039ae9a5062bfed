"""Training: the pure steps, their state, and the loop around them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .build import build_model
from .forward import BatchOutputs, forward, static_batch_size
from .saved_variables import read_variables
from .workdir import write_description, write_json

if TYPE_CHECKING:
    from .checkpoint import Checkpoints, write_variables
    from .loop import train
    from .optim import create_optimizer, create_schedule
    from .preview import augment_preview
    from .recording import TrainResult
    from .state import TrainState
    from .step import TrainStep
    from .transfer.finetuning import finetune, finetune_config

__all__ = [
    "BatchOutputs",
    "Checkpoints",
    "TrainResult",
    "TrainState",
    "TrainStep",
    "augment_preview",
    "build_model",
    "create_optimizer",
    "create_schedule",
    "finetune",
    "finetune_config",
    "forward",
    "read_variables",
    "static_batch_size",
    "train",
    "write_description",
    "write_json",
    "write_variables",
]

# Imported when first asked for: a prediction needs none of them, and they take half a second.
_FILES = {
    "checkpoint": ("Checkpoints", "write_variables"),
    "transfer.finetuning": ("finetune", "finetune_config"),
    "loop": ("train",),
    "optim": ("create_optimizer", "create_schedule"),
    "preview": ("augment_preview",),
    "recording": ("TrainResult",),
    "state": ("TrainState",),
    "step": ("TrainStep",),
}
_FILE_OF = {name: file for file, names in _FILES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _FILE_OF:
        return getattr(import_module(f".{_FILE_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
