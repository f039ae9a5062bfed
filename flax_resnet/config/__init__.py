"""The settings of a training run: the only place with defaults."""

from .check import check_config
from .effects import EFFECTS
from .fields import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TransferConfig,
)
from .recipes import config_folders, flatten, list_configs, load_config, scaled_learning_rate
from .stored import stored_model_config

__all__ = [
    "EFFECTS",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "TransferConfig",
    "check_config",
    "config_folders",
    "flatten",
    "list_configs",
    "load_config",
    "scaled_learning_rate",
    "stored_model_config",
]
