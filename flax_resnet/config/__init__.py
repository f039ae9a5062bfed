"""The settings of a training run: the only place with defaults."""

from .check import check_config
from .effects import EFFECTS
from .fields import (
    AugmentConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    LossName,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TransferConfig,
)
from .intervals import Interval, parse_interval
from .recipes import (
    config_folders,
    flatten,
    list_configs,
    load_config,
    scaled_learning_rate,
    unflatten,
    with_defaults,
)
from .stored import stored_loss, stored_model_config

__all__ = [
    "EFFECTS",
    "AugmentConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "Interval",
    "LossName",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "TransferConfig",
    "check_config",
    "config_folders",
    "flatten",
    "list_configs",
    "load_config",
    "parse_interval",
    "scaled_learning_rate",
    "stored_loss",
    "stored_model_config",
    "unflatten",
    "with_defaults",
]
