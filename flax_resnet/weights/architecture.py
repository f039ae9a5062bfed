"""Models by their configuration, and how photos are usually prepared for them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ..config import ModelConfig
from ..errors import UserError
from ..models import ResNet, create_model, default_image_shape
from ..models.variants import VARIANTS, variant_options
from ..transform import EvalTransform
from .infer import InferredModel

MOST_BLOCKS = 2000  # more than three times those of He et al.'s ResNet-1202
_FIELDS = {field.name for field in dataclasses.fields(ModelConfig)}


def build_model(config: ModelConfig, num_classes: int, **options: Any) -> ResNet:
    """Create the Linen module that a config describes.

    Args:
        config: Name and options of the model.
        num_classes: Number of outputs.
        **options: More options of ``create_model``; they override those of the config.

    Raises:
        UserError: Unknown name or option; the message holds the nearest ones.
    """
    chosen = {name: value for name, value in vars(config).items() if value is not None} | options
    # JSON, from which a run's config is read, has lists only.
    chosen |= {name: tuple(value) for name, value in chosen.items() if isinstance(value, list)}
    chosen["dtype"] = jnp.dtype(chosen["dtype"])
    try:
        model = create_model(chosen.pop("name"), num_classes=num_classes, **chosen)
    except ValueError as error:
        raise UserError(f"--model: {error}", exit_code=2) from error
    if (blocks := sum(model.stage_sizes)) > MOST_BLOCKS:
        raise UserError(
            f"--model: {blocks:,} blocks are more than the {MOST_BLOCKS:,} that are supported.",
            exit_code=2,
        )
    return model


def config_of(inferred: InferredModel) -> tuple[ModelConfig, Mapping[str, Any]]:
    """Return an inferred model as a config, and the options that a config has no field for."""
    options = {key: value for key, value in inferred.options.items() if key != "num_classes"}
    ours = {key: value for key, value in options.items() if key in _FIELDS}
    return ModelConfig(name=inferred.name, **ours), {
        key: value for key, value in options.items() if key not in _FIELDS
    }


def nearest_config(options: Mapping[str, Any]) -> tuple[ModelConfig, Mapping[str, Any]]:
    """Return options of ``ResNet`` as a config, and those that a config has no field for.

    The config has the name of the variant that differs least.
    """
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(ResNet)
        if field.name not in ("parent", "name", "num_classes")
    }
    wanted = {**defaults, **options}
    differing = {
        name: {
            option: value
            for option, value in wanted.items()
            if (defaults | variant_options(name))[option] != value
        }
        for name in VARIANTS
    }
    name = min(differing, key=lambda name: len(differing[name]))
    return config_of(InferredModel(name, differing[name], None))


def usual_transform(model: ResNet, channels: int = 3) -> EvalTransform:
    """Return the transform of weights that come without one.

    Photos are resized to the model's usual size; only ImageNet's models crop them.
    """
    height, width, _ = default_image_shape(model)
    if height == 224:
        return EvalTransform.center_crop(height).with_channels(channels)
    return EvalTransform.stored_like((height, width, channels))
