"""ResNet and ResNeXt for JAX: models, training, weights."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config, check_config, list_configs, load_config
    from .errors import UserError
    from .inference import embed, evaluate, load_run, predict
    from .models import ResNet, create_model, fold_batch_norm, list_models, pack_kernels, summarize
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
    "pack_kernels",
    "predict",
    "save_weights",
    "summarize",
    "to_torchvision",
    "train",
    "train_step",
    "tune_cpu",
]
__version__ = "0.1.0"

# Each is imported when it is first asked for, so that the command line answers at once: JAX alone
# takes a second and a half.
_PACKAGES = {
    "config": ("Config", "check_config", "list_configs", "load_config"),
    "errors": ("UserError",),
    "inference": ("embed", "evaluate", "load_run", "predict"),
    "models": (
        "ResNet",
        "create_model",
        "fold_batch_norm",
        "list_models",
        "pack_kernels",
        "summarize",
    ),
    "runtime": ("tune_cpu",),
    "training": (
        "StepOptions",
        "TrainState",
        "create_train_state",
        "eval_step",
        "finetune",
        "finetune_config",
        "train",
        "train_step",
    ),
    "weights": (
        "from_torchvision",
        "infer_model",
        "load_pretrained",
        "load_weights",
        "save_weights",
        "to_torchvision",
    ),
}
_PACKAGE_OF = {name: room for room, names in _PACKAGES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _PACKAGE_OF:
        return getattr(import_module(f".{_PACKAGE_OF[name]}", __name__), name)
    if name in (*_PACKAGES, "data", "report"):  # fr.data without an import of its own
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
