"""Reading one file of weights: it describes its model, or its arrays show which one it is."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..config import ModelConfig
from ..download import PublishedFile, is_published
from ..errors import UserError
from ..models import ResNet
from ..models.resnet import DEEP_STEMS, STEMS
from ..models.variants import variant_options
from ..transform import EvalTransform
from . import timm
from .architecture import build_model, config_of, usual_transform
from .description import ENTRY, read_description, read_unseen_options
from .find import FoundWeights, StemPool, choose, find_weights
from .formats.files import read_file
from .hub import CONFIG_FILE, WEIGHTS_FILES
from .infer import InferredModel, infer_model
from .info import Kind, LoadedWeights, WeightsInfo, numbered_classes
from .input_channels import kernel_channels
from .names import torch_leaves
from .published import PublishedWeights, imagenet_classes, published_weights
from .repository import read_json_object


def load_local_file(
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
        return load_published_file(
            path, "file", source, model, entry, key=key, head=head, stem_pool=stem_pool
        )
    beside = path.with_name(CONFIG_FILE)
    if path.name in WEIGHTS_FILES and beside.exists():
        config = read_json_object(beside)
        if "architecture" in config and ENTRY not in config:
            return load_described_by_timm(
                path, config, source, model, key=key, head=head, stem_pool=stem_pool
            )
        if "model_type" in config:
            raise UserError(
                f"{path} lies beside a config.json of transformers, which says what the arrays do "
                f"not: give the folder {path.parent} in place of the file."
            )
        model = model or config.get("model.name")  # of a run
    return load_file(path, "file", source, model, key=key, head=head, stem_pool=stem_pool)


def load_published_file(
    path: Path,
    kind: Kind,
    source: str,
    model: str | None,
    entry: PublishedWeights,
    **options: Any,
) -> LoadedWeights:
    metrics = {"acc@1": entry.acc1, "acc@5": entry.acc5}
    classes = imagenet_classes()
    return load_file(path, kind, source, model, entry.transform, metrics, classes, **options)


def load_described_by_timm(
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
        raise UserError(of_another_model(source, described.name, model))
    loaded = load_file(
        path,
        "timm",
        source,
        described.name or model,
        described.transform,
        classes=described.labels or classes,
        known=described.known,
        **options,
    )
    if loaded.channels != (channels := len(loaded.info.transform.mean)):
        raise UserError(
            f"{source}: the first convolution of {path} takes images of {loaded.channels} "
            f"channel{'s'[: loaded.channels != 1]}, but config.json describes images of "
            f"{channels}: correct its input_size, mean and std, or load the weights without it."
        )
    if described.name is None:
        return loaded
    count = len(loaded.info.classes)
    differing = {
        name: value for name, value in _options(loaded.info).items() if name not in described.known
    }
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


def load_file(
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
    """Read a file of weights; it describes its model, or its arrays show which one it is."""
    weights = find_weights(read_file(path), key, str(path))
    shapes = weights.shapes()
    description = read_description(path)
    known = {**(known or {}), **read_unseen_options(path)}
    name = model if description is None else description.config.name
    pool = stem_pool or weights.stem_pool()
    try:
        inferred = _inferred(shapes, name, known)
    except UserError as error:
        if description is None:
            raise UserError(f"{path}: {error}") from error
        classified = len(description.classes) or None
        inferred = InferredModel(description.config.name, description.model_options, classified)
    if name is None and not known and (problem := _reason_to_doubt(path, inferred)):
        raise UserError(problem)
    config, more = config_of(inferred)
    if description is not None:
        config, more = description.config, description.model_options
    elif model not in (None, inferred.name):
        usual = build_model(ModelConfig(name=model), 1)
        differing = {key: value for key, value in known.items() if value != getattr(usual, key)}
        config, more = config_of(InferredModel(model, differing, None))
    elif "anti_alias" in inferred.unknown:
        raise UserError(
            f"{path} holds arrays of {inferred.name}, but also of "
            f"{' and of '.join(inferred.same_arrays)}, whose anti-aliasing has no arrays: "
            f"{choose('--model MODEL', 'model=')}, or put the config.json that came with the file "
            "beside it."
        )
    elif "standardized_kernels" in inferred.unknown:
        raise UserError(
            f"{path} holds a pre-activation ResNet with group norm, and a file does not tell "
            f"whether its kernels are standardised, as in BiT: {choose('--model MODEL', 'model=')}."
        )
    elif "stem_pool" in inferred.unknown and pool is None:
        raise UserError(
            f"{path} begins with one 3x3 convolution, and a file does not tell whether a max-pool "
            f"follows it: {choose('--stem-pool none (or max)', 'stem_pool=')}."
        )
    if weights.stride("layer2.0.conv1") == 2 and inferred.is_bottleneck():
        config = dataclasses.replace(config, version="v1")
    count = inferred.classes or variant_options(config.name).get("num_classes", 1000)
    channels = kernel_channels(shapes)
    chosen = build_model(config, count, **more)
    if pool not in (None, _stem_pool(chosen)):
        config = dataclasses.replace(config, stem_pool=pool)
        chosen = build_model(config, count, **more)
    differs = description is not None or config.name != inferred.name
    if model not in (None, config.name) or (differs and not _fits(chosen, shapes, channels)):
        raise UserError(of_another_model(path, inferred, model or config.name))
    _check_stem_stride(path, chosen, weights)
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


def _stem_pool(model: ResNet) -> str:
    """Return what follows the stem: ``"none"``, ``"max"`` or ``"conv"``."""
    return "max" if model.pool_after_stem == "zero_padded_max" else model.pool_after_stem


def _check_stem_stride(path: Path, model: ResNet, weights: FoundWeights) -> None:
    """Check that the first convolution of a whole model has the stride of the stem here.

    Raises:
        UserError: It has another.
    """
    kernel, usual = STEMS[model.stem]
    stride = weights.stride("conv1.0" if model.stem in DEEP_STEMS else "conv1")
    if stride not in (None, usual):
        raise UserError(
            f"{path} begins with a {kernel}x{kernel} convolution of stride {stride}, as no model "
            f"here does: such a convolution has stride {usual} here, so take other weights."
        )


def _inferred(
    shapes: Mapping[str, tuple[int, ...]], name: str | None, known: Mapping[str, Any]
) -> InferredModel:
    """Infer the model ``name``, or the one that the arrays are of where they are not its."""
    try:
        return infer_model(shapes, name=name, known=known)
    except (UserError, ValueError):
        return infer_model(shapes, known=known)


def _reason_to_doubt(path: Path, inferred: InferredModel) -> str:
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
            f"{' and of '.join(others or inferred.same_arrays)}: "
            f"{choose('--model ' + inferred.name, 'model=')}, or put the config.json that came "
            "with the file beside it."
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


def of_another_model(where: Any, held: Any, wanted: str | None) -> str:
    """Return the message that ``where`` holds weights of another model than was wanted."""
    name = getattr(held, "name", held)
    return (
        f"{where} holds weights of {held}, not of {wanted}: choose the model {name} (--model "
        f"{name}), or other weights."
    )
