"""ResNet and ResNeXt for JAX: models, training, weights."""

from .config import Config, check_config, list_configs, load_config
from .errors import UserError
from .inference import embed, evaluate, load_run, predict
from .models import ResNet, create_model, fold_batch_norm, list_models, summarize
from .runtime import tune_cpu
from .training import (
    StepOptions,
    TrainState,
    create_train_state,
    eval_step,
    finetune,
    finetune_config,
    train,
    train_step,
)
from .weights import (
    from_torchvision,
    infer_model,
    load_pretrained,
    load_weights,
    save_weights,
    to_torchvision,
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
    "embed",
    "eval_step",
    "evaluate",
    "finetune",
    "finetune_config",
    "fold_batch_norm",
    "from_torchvision",
    "infer_model",
    "list_configs",
    "list_models",
    "load_config",
    "load_pretrained",
    "load_run",
    "load_weights",
    "predict",
    "save_weights",
    "summarize",
    "to_torchvision",
    "train",
    "train_step",
    "tune_cpu",
]
__version__ = "0.1.0"
