"""The resolver of every ``source`` of weights: a run's folder, a file, or a published set."""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax

from ..config import ModelConfig
from ..download import PublishedFile, is_published
from ..errors import UserError
from ..models import QUICK_COMPILATION, ResNet, create_model
from ..models.variants import variant_options
from ..paths import expand
from ..transform import EvalTransform
from . import timm
from .architecture import build_model, config_of, usual_transform
from .description import ENTRY, read_description, read_unseen_options
from .find import StemPool, find_weights
from .formats.files import ENDINGS, read_file
from .hub import (
    CONFIG_FILE,
    WEIGHTS_FILES,
    fetch_published,
    fetch_repository,
    fetch_timm,
    weights_in,
)
from .infer import InferredModel, infer_model
from .info import Kind, LoadedWeights, WeightsInfo, numbered_classes
from .input_channels import ChannelsInit, kernel_channels
from .names import fresh_variables, torch_leaves
from .published import (
    PublishedWeights,
    find_published,
    imagenet_classes,
    published_weights,
)
from .repository import read_json_object, read_transformers
from .run_folder import read_run

FORMS = (
    "a run's folder, a file of weights, a published model such as resnet50 or "
    "resnet50/IMAGENET1K_V2, timm/NAME, or hf:ORG/NAME"
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
            weights (``.pth``, ``.safetensors``, ``.npz``, ...); a model with published weights,
            ``"resnet50"`` or ``"resnet50/IMAGENET1K_V2"``; or a repository on the Hugging Face
            hub, ``"timm/NAME"`` or ``"hf:ORG/NAME"``. A ``Path``, or a word that begins with
            ``/``, ``.`` or ``~``, is always a path.
        model: Name of the model that the weights must be of. With it, the name of a set alone,
            ``"DEFAULT"`` or ``"IMAGENET1K_V2"``, is a source too.
        cache: Folder of torchvision's files; by default ``~/.cache/flax_resnet/weights``.
        key: Of a file with several ResNets, the key of one, such as ``"state_dict_ema"``.
        head: ``"drop"`` leaves out the classifier.
        stem_pool: Whether a max-pool follows a stem of one 3x3 convolution, ``"max"`` or
            ``"none"``, where a file does not tell it.

    Raises:
        UserError: Nothing has that name, or two things have it; no connection; damaged files; or
            weights of another model.
    """
    word = os.fspath(source)
    if scheme := re.match(r"(\w+)://", word):
        raise UserError(
            f"{word}: weights cannot be read from {scheme[1]}:// addresses; give {FORMS}."
        )
    path = expand(word)
    is_path = not isinstance(source, str) or word.startswith(("/", ".", "~"))
    published = None if is_path else _published(word, model, cache)
    if published is not None and path.exists():
        raise UserError(
            f"{word} names both {'a folder' if path.is_dir() else 'a file'} here and published "
            f"weights: write ./{word} for the former; for the latter {_unambiguous(word, model)}."
        )
    is_file = published is None and not path.is_dir()
    if is_file and (path.exists() or path.suffix.lower() in ENDINGS):
        return _load_local(path, word, model, key, head, stem_pool)
    if is_file:
        raise UserError(_not_found(word, model, is_path))
    if key is not None:
        raise UserError(f"A key chooses a ResNet of a file, and {word} is not a file: give no key.")
    loaded = _load_folder(path, word, model) if published is None else published()
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
            any other source that ``load_source`` knows, or ``"none"`` for random values.
        num_classes: Another number of classes than the weights have creates a random classifier.
        key: PRNG key of random values; by default ``jax.random.key(0)``.
        cache: Folder of torchvision's files; by default ``~/.cache/flax_resnet/weights``.
        in_channels_init: The first convolution for another number of channels (``in_channels``)
            than the weights have: ``"adapt"`` or ``"fresh"``, see ``fr.load``.
        **options: Options of ``create_model``, such as ``dtype`` or ``in_channels``.

    Returns:
        The Linen module, its variables ``{"params", "batch_stats"}``, and their description.

    Raises:
        UserError: No such set, no connection, a wrong hash, or weights of another model.
    """
    if weights != "none":
        chosen = options.get("stem_pool")
        loaded = load_source(weights, model=name, cache=cache, stem_pool=chosen)
        return loaded.create(num_classes, key=key, in_channels_init=in_channels_init, **options)
    model = create_model(name, **({"num_classes": num_classes} if num_classes else {}), **options)
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


def _published(
    word: str, model: str | None, cache: Path | None
) -> Callable[[], LoadedWeights] | None:
    """Return what loads the published weights of that name; None where there are none."""
    if word.startswith("timm/"):
        return partial(_load_timm, word, model)
    if word.startswith("hf:"):
        return partial(_load_repository, word, model)
    name, _, chosen = word.partition("/")
    if is_published_set(word) and model is not None:
        name, chosen = model, word
    else:
        sets = [entry.name for entry in published_weights(name)]
        if not sets or chosen not in ("", "DEFAULT", *sets):
            return None
    return partial(_load_torchvision, word, name, chosen or "DEFAULT", model, cache)


def _load_torchvision(
    word: str, name: str, chosen: str, model: str | None, cache: Path | None
) -> LoadedWeights:
    if model not in (None, name):
        raise UserError(_of_another_model(word, name, model))
    entry = find_published(name, chosen)
    return _load_published(fetch_published(entry, cache), "torchvision", word, name, entry)


def _load_timm(word: str, model: str | None) -> LoadedWeights:
    path, config = fetch_timm(word)
    # The sets under this name with 1,000 classes are of ImageNet-1k.
    return _load_described_by_timm(path, config, word, model, imagenet_classes())


def _load_described_by_timm(
    path: Path,
    config: Mapping[str, Any],
    source: str,
    model: str | None,
    classes: Sequence[str] = (),
    **options: Any,
) -> LoadedWeights:
    """Read weights whose ``config.json`` names timm's architecture."""
    try:
        described = timm.read_description(config)
    except UserError as error:
        raise UserError(f"{source}: {error}.") from error
    if described.name and model not in (None, described.name):
        raise UserError(_of_another_model(source, described.name, model))
    loaded = _load_file(
        path,
        "timm",
        source,
        described.name or model,
        described.transform,
        classes=described.labels or classes,
        known=described.known,
        **options,
    )
    if described.name is None:
        return loaded
    count = len(loaded.info.classes)
    differing = _options(loaded.info)
    if differing or (described.classes and count and count != described.classes):
        found = ", ".join(f"{name}={value!r}" for name, value in differing.items())
        raise UserError(
            f"{source}: the arrays of {path} are not those of timm's {config['architecture']} with "
            f"{described.classes} classes that config.json describes, but have "
            f"{found or f'{count} classes'}."
        )
    return loaded


def _options(info: WeightsInfo) -> dict[str, Any]:
    """Return the options of a model that differ from those of its name."""
    plain = ModelConfig(name=info.config.name)
    changed = {
        name: value for name, value in vars(info.config).items() if value != getattr(plain, name)
    }
    return changed | dict(info.model_options)


def _load_repository(word: str, model: str | None) -> LoadedWeights:
    return _load_folder(fetch_repository(word.removeprefix("hf:")), word, model)


def _load_folder(folder: Path, source: str, model: str | None) -> LoadedWeights:
    """Read a run's folder, or one in the layout of the Hugging Face hub."""
    config = read_json_object(folder / CONFIG_FILE) if (folder / CONFIG_FILE).exists() else {}
    if ENTRY in config:
        return _load_file(weights_in(folder), "file", source, model)
    if "architecture" in config:
        return _load_described_by_timm(weights_in(folder), config, source, model)
    loaded = (
        read_transformers(folder, source) if "model_type" in config else read_run(folder, source)
    )
    name = loaded.info.config.name
    if model not in (None, name):
        raise UserError(_of_another_model(loaded.info.path, name, model))
    return loaded


def _load_local(
    path: Path,
    source: str,
    model: str | None,
    key: str | None,
    head: Literal["keep", "drop"],
    stem_pool: StemPool | None,
) -> LoadedWeights:
    """Read a file that is not known to be a published one."""
    entry = next((entry for entry in published_weights() if entry.file == path.name), None)
    if entry is not None and is_published(
        path, PublishedFile(entry.file, entry.url, size=None, sha256=entry.sha256)
    ):
        return _load_published(path, "file", source, model, entry)
    beside = path.with_name(CONFIG_FILE)
    if path.name in WEIGHTS_FILES and beside.exists():
        config = read_json_object(beside)
        if "architecture" in config and ENTRY not in config:
            return _load_described_by_timm(path, config, source, model, key=key, head=head)
        if "model_type" in config:
            raise UserError(
                f"{path} lies beside a config.json of transformers, which says what the arrays do "
                f"not: give the folder {path.parent} in place of the file."
            )
        model = model or config.get("model.name")  # of a run
    return _load_file(path, "file", source, model, key=key, head=head, stem_pool=stem_pool)


def _load_published(
    path: Path, kind: Kind, source: str, model: str | None, entry: PublishedWeights
) -> LoadedWeights:
    metrics = {"acc@1": entry.acc1, "acc@5": entry.acc5}
    classes = imagenet_classes()
    return _load_file(path, kind, source, model, entry.transform, metrics, classes)


def _load_file(
    path: Path,
    kind: Kind,
    source: str,
    model: str | None,
    transform: EvalTransform | None = None,
    metrics: Mapping[str, float] | None = None,
    classes: Sequence[str] = (),
    key: str | None = None,
    head: Literal["keep", "drop"] = "keep",
    stem_pool: StemPool | None = None,
    known: Mapping[str, Any] | None = None,
) -> LoadedWeights:
    """Read a file of weights, whose model it describes or is inferred from its arrays."""
    weights = find_weights(read_file(path), key, str(path))
    shapes = weights.shapes()
    description = read_description(path)
    known = {**(known or {}), **read_unseen_options(path)}
    name = model if description is None else description.config.name
    try:
        inferred = _inferred(shapes, name, known)
    except UserError as error:
        if description is None:
            raise UserError(f"{path}: {error}") from error
        classified = len(description.classes) or None
        inferred = InferredModel(description.config.name, description.model_options, classified)
    if name is None and not known and (problem := _is_doubtful(path, inferred)):
        raise UserError(problem)
    config, more = config_of(inferred)
    if description is not None:
        config, more = description.config, description.model_options
    elif model not in (None, inferred.name):
        config, more = ModelConfig(name=model), {}
    elif "anti_alias" in inferred.unknown:
        raise UserError(
            f"{path} holds arrays of {inferred.name}, but also of "
            f"{' and of '.join(inferred.same_arrays)}, whose anti-aliasing has no arrays: name the "
            "model with --model (model= in Python), or put the config.json that came with the file "
            "beside it."
        )
    elif "standardized_kernels" in inferred.unknown:
        raise UserError(
            f"{path} holds a pre-activation ResNet with group norm, and a file does not tell "
            "whether its kernels are standardised, as in BiT: name the model with --model "
            "(model= in Python)."
        )
    elif "stem_pool" in inferred.unknown:
        config = dataclasses.replace(
            config, stem_pool=_checked_pool(path, stem_pool or weights.stem_pool())
        )
    if weights.stride("layer2.0.conv1") == 2 and inferred.is_bottleneck():
        config = dataclasses.replace(config, version="v1")
    if config.stem == "cifar" and weights.stride("conv1") not in (None, 1):
        raise UserError(f"{path} begins with a 3x3 convolution of stride 2, as no model here does.")
    count = inferred.classes or variant_options(config.name).get("num_classes", 1000)
    channels = kernel_channels(shapes)
    chosen = build_model(config, count, **more)
    differs = description is not None or config.name != inferred.name
    if model not in (None, config.name) or (differs and not _fits(chosen, shapes, channels)):
        raise UserError(_of_another_model(path, inferred, model or config.name))
    has_classifier = (
        inferred.classes is not None and head == "keep" and not weights.resnet.is_projection
    )
    if (problem := weights.resnet.head_problem) and head == "keep":
        raise UserError(
            f"{path} {problem}: take the backbone alone (flax-resnet convert --head drop; "
            'head="drop" in Python).'
        )
    settings = {}
    if description is not None:
        classes, transform = description.classes, description.transform
        settings = {"loss": description.loss} if description.loss else {}
    if not has_classifier:
        classes = ()
    elif len(classes) != count:
        classes = numbered_classes(count)
    info = WeightsInfo(
        source=source,
        kind=kind,
        path=path,
        config=config,
        classes=tuple(classes),
        transform=transform or usual_transform(chosen, channels),
        has_classifier=has_classifier,
        metrics=metrics or {},
        settings=settings,
        model_options=more,
        origin=weights.origin(),
    )
    return LoadedWeights(info, weights)


def _checked_pool(path: Path, stem_pool: StemPool | None) -> StemPool | None:
    if stem_pool is None:
        raise UserError(
            f"{path} begins with one 3x3 convolution, and a file does not tell whether a max-pool "
            "follows it: choose with flax-resnet convert FILE NEW.safetensors --stem-pool none (or "
            'max), which the new file holds (stem_pool="none" in Python).'
        )
    return None if stem_pool == "none" else stem_pool  # none is that of the stem itself


def _inferred(
    shapes: Mapping[str, tuple[int, ...]], name: str | None, known: Mapping[str, Any]
) -> InferredModel:
    """Infer the model ``name``, or the one that the arrays are of where they are not its."""
    try:
        return infer_model(shapes, name=name, known=known)
    except (UserError, ValueError):
        return infer_model(shapes, known=known)


def _is_doubtful(path: Path, inferred: InferredModel) -> str:
    """Return why a file may be of another model with the same arrays; empty if nothing says so.

    Arrays of one of torchvision's models are taken for it, unless the file has the name that the
    hub's files have and lacks the ``config.json`` beside it, or the name of another model.
    """
    others = [
        other
        for other in inferred.same_arrays
        if re.search(rf"(?<![a-z0-9]){other}(?![a-z0-9])", path.name.lower())
    ]
    if others or (inferred.same_arrays and path.name in WEIGHTS_FILES):
        return (
            f"{path} holds arrays of {inferred.name}, which are also those of "
            f"{' and of '.join(others or inferred.same_arrays)}: choose the model (--model "
            f"{inferred.name}), or put the config.json that came with the file beside it."
        )
    return ""


def _fits(model: ResNet, shapes: Mapping[str, tuple[int, ...]], channels: int) -> bool:
    """Return whether all arrays below the classifier have the model's shapes."""
    leaves = torch_leaves(model, channels)
    return all(
        shapes.get(name) == leaf.torch_shape
        for name, leaf in leaves.items()
        if not name.startswith("fc.")
    )


def _of_another_model(where: Any, held: Any, wanted: str | None) -> str:
    name = getattr(held, "name", held)
    return (
        f"{where} holds weights of {held}, not of {wanted}: choose the model {name} (--model "
        f"{name}), or other weights."
    )


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
