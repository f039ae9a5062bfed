"""Training: the pure steps, their state, and the loop around them."""

from .build import build_model
from .checkpoint import Checkpoints, read_variables, write_variables
from .finetune import finetune, finetune_config
from .forward import Forwarded, forward, static_batch_size
from .loop import train
from .optim import create_optimizer, create_schedule
from .preview import augment_preview
from .recording import TrainResult
from .state import StepOptions, TrainState, create_train_state
from .step import eval_step, train_step
from .workdir import write_description, write_json

__all__ = [
    "Checkpoints",
    "Forwarded",
    "StepOptions",
    "TrainResult",
    "TrainState",
    "augment_preview",
    "build_model",
    "create_optimizer",
    "create_schedule",
    "create_train_state",
    "eval_step",
    "finetune",
    "finetune_config",
    "forward",
    "read_variables",
    "static_batch_size",
    "train",
    "train_step",
    "write_description",
    "write_json",
    "write_variables",
]
