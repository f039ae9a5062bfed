"""Weights in and out: torchvision's names, files, runs, and published sets.

``load.py`` resolves every form of ``source``, ``repository.py`` reads and writes folders of the
Hugging Face hub's layout; ``formats/`` reads and writes each kind of file;
``find.py`` finds the ResNet in what a file holds, and ``infer.py`` its architecture;
``convert.py``, ``names.py`` and ``layouts.py`` map names and layouts; ``published.py`` is the table
of torchvision's weights, which ``hub.py`` fetches.
"""

from .architecture import build_model, usual_transform
from .convert import (
    IncompatibleKeys,
    from_torchvision,
    to_timm,
    to_torchvision,
    to_transformers,
)
from .description import ENTRY, describe, parse_description, read_unseen_options
from .find import FoundWeights, find_weights
from .formats.files import (
    load_weights,
    read_file,
    read_weights,
    save_weights,
    write_model,
    write_weights,
)
from .infer import InferredModel, infer_model
from .info import LoadedWeights, WeightsInfo
from .input_channels import describe_channels, with_input_channels
from .load import is_published_set, load_pretrained, load_source
from .published import (
    PublishedWeights,
    imagenet_classes,
    published_weights,
)
from .repository import Repository, write_repository
from .run_folder import (
    RUN_WEIGHTS,
    description,
    is_small,
    local_run,
    newest_checkpoint,
    write_description,
    write_run_weights,
)
from .sealed_files import CHECKSUMS, check_sealed, sealed_names, write_sealed

__all__ = [
    "CHECKSUMS",
    "ENTRY",
    "RUN_WEIGHTS",
    "FoundWeights",
    "IncompatibleKeys",
    "InferredModel",
    "LoadedWeights",
    "PublishedWeights",
    "Repository",
    "WeightsInfo",
    "build_model",
    "check_sealed",
    "describe",
    "describe_channels",
    "description",
    "find_weights",
    "from_torchvision",
    "imagenet_classes",
    "infer_model",
    "is_published_set",
    "is_small",
    "load_pretrained",
    "load_source",
    "load_weights",
    "local_run",
    "newest_checkpoint",
    "parse_description",
    "published_weights",
    "read_file",
    "read_unseen_options",
    "read_weights",
    "save_weights",
    "sealed_names",
    "to_timm",
    "to_torchvision",
    "to_transformers",
    "usual_transform",
    "with_input_channels",
    "write_description",
    "write_model",
    "write_repository",
    "write_run_weights",
    "write_sealed",
    "write_weights",
]
