"""Settings of a model as files hold them, checked before anything is built of them."""

import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .fields import LossName, ModelConfig

_MOST = 2**16  # of channels, blocks and groups


def stored_model_config(options: Mapping[str, Any]) -> ModelConfig:
    """Return the settings of a model, with tuples for the lists of JSON.

    Args:
        options: The fields of ``ModelConfig``, as JSON holds them.

    Raises:
        TypeError: An option is unknown, or its value has another type or range.
    """
    types = get_type_hints(ModelConfig)
    for name, value in options.items():
        if name not in types:
            raise TypeError(f"model.{name} is not an option of this version")
        if not _fits(value, types[name]):
            raise TypeError(f"model.{name} is {value!r:.80}")
    held: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }
    return ModelConfig(**held)


def stored_loss(name: Any) -> LossName:
    """Return the loss that a model was trained with, which decides its probabilities.

    Raises:
        TypeError: It is none of this version.
    """
    if not _fits(name, LossName):
        raise TypeError(f"loss is {name!r:.80}")
    loss: LossName = name
    return loss


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value has a type as annotations write it."""
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in arguments
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_fits(v, arguments[0]) for v in value)
    if kind is int:
        return type(value) is int and 0 <= value < _MOST
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is (NoneType if kind is None else kind)
