"""ResNets for Flax NNX: modules with the programs, names and weights of the Linen models.

A ``ResNet`` here holds its variables as an NNX module does, and computes with the Linen module of
the same architecture. So there is one implementation, and both APIs return the same bits.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
from flax import nnx, traverse_util

from . import models
from .inference import load as load_classifier
from .weights.names import fresh_variables

VARIABLE_TYPES = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
# The end of messages about layers that were replaced by others.
REPLACEABLE = (
    "Replace only the dense layers of the head, each by an nnx.Linear with a bias, and build other "
    "heads on model.features."
)


class Layer(nnx.Module):
    """A part of a ``ResNet``: a block, a convolution, a norm or the classifier.

    Its variables and inner layers are attributes: ``model.layer1_0.conv1.kernel``.
    """

    def train(self, **attributes: Any) -> NoReturn:
        """Raises an error, because only the whole model can be set to training mode."""
        raise ValueError(
            "Only the whole model has a training mode: call train() or eval() on the model. To "
            'freeze early stages, create the model with freeze_before="layer3" or another stage, '
            "which freezes their running statistics, and leave their parameters out of the "
            "gradient and of the optimiser's wrt."
        )

    eval = train


class ResNet(nnx.Module):
    """A residual network as an NNX module; ``create_model``, ``load`` or ``to_nnx`` makes it.

    ``model(images)`` takes images ``[N, H, W, C]`` and returns logits ``[N, num_classes]`` in
    float32 or wider. In training mode it normalises by the statistics of the batch and updates the
    running statistics, which are ``nnx.BatchStat``; ``model.eval()`` uses the running statistics
    and changes nothing. All other variables are ``nnx.Param``.

    The classifier can be replaced: ``model.fc = nnx.Linear(512, 10, rngs=rngs)``, and likewise the
    hidden layers before it. Other layers cannot, because they are not what computes. For another
    kind of head, call ``model.features``.

    Attributes:
        use_running_average: Whether the model is in evaluation mode.
        rngs: Random numbers of dropout and stochastic depth, or None.
    """

    def __init__(
        self, linen: models.ResNet, variables: Mapping[str, Any], rngs: nnx.Rngs | None = None
    ) -> None:
        self._linen = linen
        self.use_running_average = False
        uses_dropout = linen.dropout or linen.block_dropout or linen.stochastic_depth
        self.rngs = rngs if uses_dropout else None
        self._paths = frozenset(traverse_util.flatten_dict(dict(variables)))
        for (collection, *layers, name), value in traverse_util.flatten_dict(
            dict(variables)
        ).items():
            module: nnx.Module = self
            for layer in layers:
                if not hasattr(module, layer):
                    setattr(module, layer, Layer())
                module = getattr(module, layer)
            setattr(module, name, VARIABLE_TYPES[collection](value))

    @property
    def linen(self) -> models.ResNet:
        """The Linen module that computes, with the number of classes of the present classifier."""
        return self._linen_of(from_nnx(self))

    def _linen_of(self, variables: Mapping[str, Any]) -> models.ResNet:
        return self._linen.clone(num_classes=variables["params"]["fc"]["kernel"].shape[-1])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes logits ``[N, num_classes]`` of images ``[N, H, W, C]``."""
        return self._apply(x, models.ResNet.__call__)

    def features(self, x: jax.Array, stages: Sequence[str] | None = None) -> dict[str, jax.Array]:
        """The output of stages before the head, and the input of the head.

        Args:
            x: Images ``[N, H, W, C]``.
            stages: Names of the outputs, or one name; the model runs up to the last of them. By
                default all.

        Returns:
            ``"stem"`` (after its pooling), ``"layer1"``, ... ``[N, H, W, C]``, and ``"pooled"``
            ``[N, C]``.
        """
        return self._apply(x, models.ResNet.features, stages=stages)

    def _apply(self, x: jax.Array, method: Callable[..., Any], **options: Any) -> Any:
        variables = from_nnx(self)
        linen = self._linen_of(variables)
        if self.use_running_average:
            return linen.apply(variables, x, train=False, method=method, **options)
        rngs = None if self.rngs is None else {"dropout": self.rngs.dropout()}
        output, updated = linen.apply(
            variables, x, train=True, method=method, mutable=["batch_stats"], rngs=rngs, **options
        )
        nnx.update(self, nnx.State(updated.get("batch_stats", {})))
        return output


def create_model(name: str, *, rngs: nnx.Rngs, **options: Any) -> ResNet:
    """Creates the model of that name with random weights, in training mode.

    Args:
        name: One of ``fr.list_models()``, or any other depth of the CIFAR families.
        rngs: Random numbers of the initial weights, and of dropout and stochastic depth.
        **options: Options of ``fr.create_model``: ``num_classes``, ``stem``, ``dtype``, ... Without
            ``in_channels`` the images have three channels.

    Raises:
        ValueError: The name, an option or the value of an option is unknown; the message holds the
            nearest ones.
    """
    linen = models.create_model(name, **options)
    return ResNet(linen, fresh_variables(linen, rngs.params()), rngs)


def load(
    source: str | Path, *, num_classes: int | None = None, rngs: nnx.Rngs | None = None
) -> ResNet:
    """Loads a trained model, in evaluation mode; ``model.train()`` prepares it for training.

    Args:
        source: What ``fr.load`` takes: a run's folder, a file of weights, ``"resnet50"``, ...
            ``fr.load(source)`` also gives the names of the classes and the transform of the images.
        num_classes: Another number of classes than the weights have creates a random classifier.
        rngs: Random numbers of dropout and stochastic depth, for a model that has them.

    Raises:
        UserError: As ``fr.load``.
    """
    classifier = load_classifier(source, num_classes=num_classes)
    model = ResNet(classifier.model, classifier.variables, rngs)
    model.eval()
    return model


def to_nnx(
    variables: Mapping[str, Any], model: models.ResNet, *, rngs: nnx.Rngs | None = None
) -> ResNet:
    """Converts a Linen model and its variables to an NNX module, in training mode.

    Args:
        variables: ``{"params", "batch_stats"}``. The arrays are not copied.
        model: The Linen module.
        rngs: Random numbers of dropout and stochastic depth, for a model that has them.
    """
    return ResNet(model, variables, rngs)


def from_nnx(model: ResNet) -> dict[str, Any]:
    """Converts the variables of an NNX model to those of its Linen module, ``model.linen``.

    Args:
        model: The NNX module.

    Returns:
        ``{"params", "batch_stats"}``, without copies.

    Raises:
        ValueError: A layer was replaced by one with other variables, which the message names, or
            by one that would not compute.
    """
    variables = {
        collection: nnx.to_pure_dict(nnx.state(model, kind))
        for collection, kind in VARIABLE_TYPES.items()
    }
    found = set(traverse_util.flatten_dict(variables))
    if found != model._paths:
        strange = sorted(".".join(map(str, path[1:])) for path in found - model._paths)
        missing = sorted(".".join(path[1:]) for path in model._paths - found)
        raise ValueError(
            "The layers of the model have other variables than its architecture: "
            f"{_count(strange)} more ({', '.join(strange[:3]) or 'none'}), {_count(missing)} "
            f"missing ({', '.join(missing[:3]) or 'none'}). {REPLACEABLE}"
        )
    layers = {path[1:end] for path in model._paths for end in range(2, len(path))}
    for names in sorted(layers):
        layer: Any = functools.reduce(getattr, names, model)
        allowed = (Layer, nnx.Linear) if names[0].startswith("fc") else (Layer,)
        if type(layer) not in allowed:
            kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
            raise ValueError(
                f"{'.'.join(names)} is a {kind}, which the model would not call. {REPLACEABLE}"
            )
    return {name: values for name, values in variables.items() if values}


def _count(names: list[str]) -> str:
    return f"{len(names)} {'variable' if len(names) == 1 else 'variables'}"
