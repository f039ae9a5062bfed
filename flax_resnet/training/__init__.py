"""Training: the pure steps, their state, and the loop around them."""

from .checkpoint import Checkpoints
from .loop import TrainResult, train
from .optim import create_optimizer, create_schedule
from .state import StepOptions, TrainState, create_train_state
from .step import eval_step, train_step

__all__ = [
    "Checkpoints",
    "StepOptions",
    "TrainResult",
    "TrainState",
    "create_optimizer",
    "create_schedule",
    "create_train_state",
    "eval_step",
    "train",
    "train_step",
]
