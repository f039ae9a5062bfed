"""The resolver of every ``source`` of weights: a run's folder, a file, or a published set."""

import dataclasses
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax

from ..config import ModelConfig
from ..errors import UserError
from ..models import QUICK_COMPILATION, ResNet, create_model
from ..paths import expand
from ..storage import is_remote, local_copy, locate
from .architecture import usual_transform
from .description import ENTRY
from .find import StemPool
from .formats.files import ENDINGS
from .hub import (
    CONFIG_FILE,
    fetch_published,
    fetch_repository,
    fetch_timm,
    weights_in,
)
from .info import LoadedWeights, WeightsInfo, check_class_count, numbered_classes
from .input_channels import ChannelsInit
from .load_file import (
    load_described_by_timm,
    load_file,
    load_local_file,
    load_published_file,
    of_another_model,
)
from .names import fresh_variables
from .published import (
    find_published,
    imagenet_classes,
    published_weights,
)
from .repository import read_json_object, read_transformers
from .run_folder import local_run, read_run
from .shipped_weights import ShippedWeights, find_shipped, shipped_weights

FORMS = ", ".join(
    [
        "a run's folder, a file of weights (local, s3:// or gs://), a published model such as "
        "resnet50 or resnet50/IMAGENET1K_V2",
        *(one.name for one in shipped_weights()),
        "timm/NAME, or hf:ORG/NAME",
    ]
)
_SET = re.compile(r"DEFAULT|IMAGENET1K_V\d+")


def load_source(
    source: str | Path,
    *,
    model: str | None = None,
    cache: Path | None = None,
    key: str | None = None,
    head: Literal["keep", "drop"] = "keep",
    stem_pool: StemPool | None = None,
) -> LoadedWeights:
    """Load the weights that ``source`` names.

    Args:
        source: A run's folder, or one that transformers' ``save_pretrained`` wrote; a file of
            weights (``.pth``, ``.safetensors``, ``.npz``, ...), each also as ``s3://`` or
            ``gs://``; a model with published weights,
            ``"resnet50"`` or ``"resnet50/IMAGENET1K_V2"``; weights that are part of this package,
            such as ``"resnet_mnist/mnist"``; or a repository on the Hugging Face hub,
            ``"timm/NAME"`` or ``"hf:ORG/NAME"``. A ``Path``, or a word that begins with
            ``/``, ``.`` or ``~``, is always a path.
        model: Name of the model that the weights must be of. With it, the name of a set alone,
            ``"DEFAULT"`` or ``"IMAGENET1K_V2"``, is a source too.
        cache: Folder of torchvision's files; by default ``$FLAX_RESNET_CACHE/weights`` or, where
            that is not set, ``~/.cache/flax_resnet/weights``.
        key: Of a file with several ResNets, the key of one, such as ``"state_dict_ema"``.
        head: ``"drop"`` leaves out the classifier.
        stem_pool: Of a file, whether a max-pool follows the stem, ``"max"`` or ``"none"``. After
            a stem of one 3x3 convolution a file may not tell it; then it must be given.

    Raises:
        UserError: Nothing has that name, or two things have it; no connection; damaged files;
            weights of another model; or an option that is only for files.
    """
    if is_remote(located := locate(source)):
        return _load_remote(located, model, key, head, stem_pool)
    word = os.fspath(source)
    path, is_path = expand(word), _is_path(source)
    published = None if is_path else _published(word, model, cache, head)
    if published is not None and path.exists():
        raise UserError(
            f"{word} names both {'a folder' if path.is_dir() else 'a file'} here and published "
            f"weights: write ./{word} for the former; for the latter {_unambiguous(word, model)}."
        )
    is_file = published is None and not path.is_dir()
    if is_file and (path.exists() or path.suffix.lower() in ENDINGS):
        return load_local_file(path, word, model, key, head, stem_pool)
    if is_file:
        raise UserError(_not_found(word, model, is_path))
    if key is not None:
        raise UserError(f"A key chooses a ResNet of a file, and {word} is not a file: give no key.")
    if stem_pool is not None:
        raise UserError(
            f"stem_pool says whether a file's model has a max-pool, and {word} is not a file: give "
            "no stem_pool."
        )
    loaded = _load_folder(path, word, model, head) if published is None else published()
    return without_classifier(loaded) if head == "drop" else loaded


def load_pretrained(
    name: str,
    weights: str | Path = "DEFAULT",
    *,
    num_classes: int | None = None,
    key: jax.Array | None = None,
    cache: Path | None = None,
    in_channels_init: ChannelsInit = "adapt",
    **options: Any,
) -> tuple[ResNet, dict[str, Any], WeightsInfo]:
    """Create the model ``name`` with trained weights; published ones are fetched once.

    Args:
        name: Name of the model, such as ``"resnet50"``.
        weights: ``"DEFAULT"`` (torchvision's best for the model), ``"IMAGENET1K_V1"`` or ``_V2``,
            any other source that ``fr.load`` takes, or ``"none"`` for random values.
        num_classes: Another number of classes than the weights have creates a random classifier.
        key: PRNG key of random values; by default ``jax.random.key(0)``.
        cache: Folder of torchvision's files; by default ``$FLAX_RESNET_CACHE/weights`` or, where
            that is not set, ``~/.cache/flax_resnet/weights``.
        in_channels_init: The first convolution for another number of channels (``in_channels``)
            than the weights have: ``"adapt"`` or ``"fresh"``, see ``fr.load``.
        **options: Options of ``create_model``, such as ``dtype`` or ``in_channels``.

    Returns:
        The Linen module, its variables ``{"params", "batch_stats"}``, and their description.

    Raises:
        UserError: No such set, no connection, a wrong hash, weights of another model, or a number
            of classes below 1.
    """
    check_class_count(num_classes)
    if weights != "none":
        # An option of any model, and of a file also what it may not tell.
        chosen = options.get("stem_pool") if _is_file(weights, name) else None
        loaded = load_source(weights, model=name, cache=cache, stem_pool=chosen)
        return loaded.create(num_classes, key=key, in_channels_init=in_channels_init, **options)
    count = {} if num_classes is None else {"num_classes": num_classes}
    model = create_model(name, **count, **options)
    init = jax.jit(partial(fresh_variables, model), compiler_options=QUICK_COMPILATION)
    info = WeightsInfo(
        source="none",
        kind="random",
        path=None,
        config=ModelConfig(name=name, in_channels=model.in_channels),
        classes=numbered_classes(model.num_classes),
        transform=usual_transform(model, model.in_channels or 3),
        has_classifier=False,
    )
    return model, init(jax.random.key(0) if key is None else key), info


def is_published_set(word: str) -> bool:
    """Return whether ``word`` names a set of weights that several models have."""
    return bool(_SET.fullmatch(word))


def without_classifier(loaded: LoadedWeights) -> LoadedWeights:
    """Return the weights as those of a backbone."""
    info = dataclasses.replace(loaded.info, has_classifier=False, classes=())
    return dataclasses.replace(loaded, info=info)


def _is_file(source: str | Path, model: str | None) -> bool:
    """Return whether a source is a file of weights, and neither a folder nor a published set."""
    if is_remote(located := locate(source)):
        return located.suffix.lower() in ENDINGS
    word = os.fspath(source)
    return (_is_path(source) or _published(word, model) is None) and not expand(word).is_dir()


def _is_path(source: str | Path) -> bool:
    """Return whether a source can only be a path, and no name of published weights."""
    return not isinstance(source, str) or source.startswith(("/", ".", "~"))


def _published(
    word: str,
    model: str | None,
    cache: Path | None = None,
    head: Literal["keep", "drop"] = "keep",
) -> Callable[[], LoadedWeights] | None:
    """Return what loads the published weights of that name; None where there are none."""
    if word.startswith("timm/"):
        return partial(_load_timm, word, model, head)
    if word.startswith("hf:"):
        return partial(_load_repository, word, model, head)
    if (shipped := find_shipped(word)) is not None:
        return partial(_load_shipped, shipped, model)
    name, _, chosen = word.partition("/")
    if is_published_set(word) and model is not None:
        name, chosen = model, word
    else:
        sets = [entry.name for entry in published_weights(name)]
        if not sets or chosen not in ("", "DEFAULT", *sets):
            return None
    return partial(_load_torchvision, word, name, chosen or "DEFAULT", model, cache)


def _load_shipped(shipped: ShippedWeights, model: str | None) -> LoadedWeights:
    if model not in (None, shipped.model):
        raise UserError(of_another_model(shipped.name, shipped.model, model))
    metrics = {"acc@1": 100 * shipped.accuracy("test")}
    return load_file(shipped.path, "shipped", shipped.name, None, metrics=metrics)


def _load_torchvision(
    word: str, name: str, chosen: str, model: str | None, cache: Path | None
) -> LoadedWeights:
    if model not in (None, name):
        raise UserError(of_another_model(word, name, model))
    entry = find_published(name, chosen)
    return load_published_file(fetch_published(entry, cache), "torchvision", word, name, entry)


def _load_timm(word: str, model: str | None, head: Literal["keep", "drop"]) -> LoadedWeights:
    path, config = fetch_timm(word)
    # The sets under this name with 1,000 classes are of ImageNet-1k.
    return load_described_by_timm(path, config, word, model, imagenet_classes(), head=head)


def _load_repository(word: str, model: str | None, head: Literal["keep", "drop"]) -> LoadedWeights:
    return _load_folder(fetch_repository(word.removeprefix("hf:")), word, model, head)


def _load_folder(
    folder: Path, source: str, model: str | None, head: Literal["keep", "drop"]
) -> LoadedWeights:
    """Read a run's folder, or one in the layout of the Hugging Face hub."""
    config = read_json_object(folder / CONFIG_FILE) if (folder / CONFIG_FILE).exists() else {}
    if ENTRY in config:
        return load_file(weights_in(folder), "file", source, model, head=head)
    if "architecture" in config:
        return load_described_by_timm(weights_in(folder), config, source, model, head=head)
    loaded = (
        read_transformers(folder, source) if "model_type" in config else read_run(folder, source)
    )
    name = loaded.info.config.name
    if model not in (None, name):
        raise UserError(of_another_model(loaded.info.path, name, model))
    return loaded


def _load_remote(
    path: Path,
    model: str | None,
    key: str | None,
    head: Literal["keep", "drop"],
    stem_pool: StemPool | None,
) -> LoadedWeights:
    """Load a file or a folder in object storage through its copy in the cache."""
    word = str(path)
    is_file = path.suffix.lower() in ENDINGS
    local = local_copy(path, CONFIG_FILE) if is_file else local_run(path)
    try:
        loaded = load_source(local, model=model, key=key, head=head, stem_pool=stem_pool)
    except UserError as error:  # of the copy
        raise UserError(str(error).replace(str(local), word), error.exit_code) from error
    info = dataclasses.replace(loaded.info, source=word)
    return dataclasses.replace(loaded, info=info)


def _unambiguous(word: str, model: str | None) -> str:
    if "/" in word:
        return "move or rename it"
    return f"write {model}/{word}" if is_published_set(word) else f"write {word}/DEFAULT"


def _not_found(word: str, model: str | None, is_path: bool) -> str:
    """Return the message for a name that nothing has, with what to write."""
    name, separator, chosen = word.partition(":")
    if separator and published_weights(name):
        return f"{word} is now written {name}/{chosen}."
    if is_published_set(word):
        return f"{word} is a set of weights that several models have: write resnet50/{word}."
    name, _, chosen = word.partition("/")
    if not is_path and (shipped := shipped_weights(name)):
        return f"{word} does not exist; of {name} this package holds {shipped[0].name}."
    if not is_path and published_weights(name):
        try:
            find_published(name, chosen)
        except UserError as error:
            return str(error)
    if is_path or "/" in word or "." in word:
        return f"{word} does not exist: give {FORMS}."
    try:
        if model is None:
            create_model(word)
        find_published(model or word, "DEFAULT" if model is None else word)
    except (ValueError, UserError) as error:
        return f"{word} is neither a run's folder nor a file of weights: {error}"
    return f"{word} does not exist: give {FORMS}."
