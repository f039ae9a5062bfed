"""ResNet and ResNeXt for JAX: models, training, weights."""

from .config import Config, check_config, list_configs, load_config
from .errors import UserError
from .models import ResNet, create_model, list_models, summarize
from .training import (
    StepOptions,
    TrainState,
    create_train_state,
    eval_step,
    train,
    train_step,
)

__all__ = [
    "Config",
    "ResNet",
    "StepOptions",
    "TrainState",
    "UserError",
    "check_config",
    "create_model",
    "create_train_state",
    "eval_step",
    "list_configs",
    "list_models",
    "load_config",
    "summarize",
    "train",
    "train_step",
]
__version__ = "0.1.0"
