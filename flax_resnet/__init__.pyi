from . import config, data, inference, metrics, models, report, training, weights
from .config import Config, check_config, list_configs, load_config
from .errors import UserError
from .inference import embed, evaluate, load_run, predict
from .models import ResNet, create_model, fold_batch_norm, list_models, pack_kernels, summarize
from .runtime import tune_cpu
from .training import TrainState, TrainStep, finetune, finetune_config, train
from .weights import (
    from_torchvision,
    infer_model,
    load_pretrained,
    load_weights,
    save_weights,
    to_torchvision,
)

__version__: str
