"""A set of weights as it was loaded: its arrays, and all that is known about them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax

from ..config import LossName, ModelConfig
from ..errors import UserError
from ..models import ResNet
from ..models.variants import variant_options
from ..transform import EvalTransform
from .architecture import build_model
from .arrays import array_shapes
from .convert import from_torchvision
from .find import FoundWeights
from .input_channels import (
    ChannelsInit,
    describe_channels,
    kernel_channels,
    with_input_channels,
)

Kind = Literal["run", "file", "shipped", "torchvision", "timm", "transformers", "random", "onnx"]


@dataclass(frozen=True)
class WeightsInfo:
    """Description of a set of weights.

    Attributes:
        source: Where the weights came from, as the caller wrote it.
        kind: A run's folder, a file, weights that are part of this package, a published set of
            torchvision or of timm, a model of transformers, random values, or an exported ONNX
            file.
        path: The file or the run's folder; None for random values.
        config: Name and options of the model.
        classes: Names of the classes, in the order of the logits; numbers where they are unknown.
            Empty where the weights hold no classifier and none was asked for.
        transform: How evaluation turns an image file into the model's input.
        has_classifier: False where the classifier is random, because the weights held none or one
            for other classes.
        metrics: Accuracies in percent, ``acc@1`` and ``acc@5``: of published weights those on
            ImageNet-1k, of the package's own that on the test images of their data set.
        settings: Settings of the training run, by dotted name as in ``config.json``.
        step: Training steps behind the weights, of a run.
        model_options: Options of ``create_model`` for which ``config`` has no field.
        origin: What was used of a file and what was left, as rows of a report: ``"used"``, the key
            of the arrays; ``"averages"``, keys of moving averages; and ``"left"``, all else.
    """

    source: str
    kind: Kind
    path: Path | None
    config: ModelConfig
    classes: tuple[str, ...]
    transform: EvalTransform
    has_classifier: bool = True
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def loss(self) -> LossName:
        """The loss of the training run, which decides what the probabilities are."""
        loss: LossName = self.settings.get("loss", "softmax")
        return loss


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """Arrays of a set of weights, and their description.

    Attributes:
        info: Description of the weights.
        weights: Arrays in PyTorch's layout by name, or as they were found in a file; large ones are
            read when they are looked up.
    """

    info: WeightsInfo
    weights: Mapping[str, Any] | FoundWeights

    def create(
        self,
        num_classes: int | None = None,
        *,
        key: jax.Array | None = None,
        in_channels_init: ChannelsInit = "adapt",
        **options: Any,
    ) -> tuple[ResNet, dict[str, Any], WeightsInfo]:
        """Create the model with these weights.

        Args:
            num_classes: Another number of classes than the weights have creates a random
                classifier; 1 or more.
            key: PRNG key of random values; by default ``jax.random.key(0)``.
            in_channels_init: The first convolution for another number of channels than the weights
                have, see ``input_channels.with_input_channels``.
            **options: Options of ``create_model``, such as ``dtype`` or ``in_channels``.

        Returns:
            The Linen module, its variables ``{"params", "batch_stats"}``, and the description with
            the classes of this model.

        Raises:
            UserError: The arrays do not fit the model, or an option or its value is unknown.
        """
        check_class_count(num_classes)
        info = self.info
        usual = variant_options(info.config.name).get("num_classes", 1000)
        count = len(info.classes) or usual if num_classes is None else num_classes
        keep = info.has_classifier and count == len(info.classes)
        if not keep:
            classes = () if num_classes is None else numbered_classes(num_classes)
            info = dataclasses.replace(info, has_classifier=False, classes=classes)
        channels = options.get("in_channels")
        if channels not in (None, self.channels):
            sentence = describe_channels(channels, self.channels, in_channels_init)
            info = dataclasses.replace(
                info,
                config=dataclasses.replace(info.config, in_channels=channels),
                transform=info.transform.with_channels(channels),
                origin={**info.origin, "input": sentence},
            )
        model = build_model(info.config, count, **{**info.model_options, **options})
        variables = self.variables_of(
            model, keep_classifier=keep, key=key, in_channels_init=in_channels_init
        )
        return model, variables, info

    @property
    def channels(self) -> int:
        """Channels of the images that the first convolution takes."""
        if isinstance(self.weights, FoundWeights):
            return kernel_channels(self.weights.shapes())
        return kernel_channels(array_shapes(self.weights))

    def variables_of(
        self,
        model: ResNet,
        *,
        keep_classifier: bool = True,
        key: jax.Array | None = None,
        in_channels_init: ChannelsInit = "adapt",
    ) -> dict[str, Any]:
        """Convert the arrays to the variables of ``model``.

        Args:
            model: The module, of the same architecture; its ``in_channels`` may differ.
            keep_classifier: False gives it a random classifier.
            key: PRNG key of random values; by default ``jax.random.key(0)``.
            in_channels_init: As for ``create``.

        Raises:
            UserError: The arrays do not fit the model: all that is wrong is listed.
        """
        head: Literal["keep", "drop"] = "keep" if keep_classifier else "drop"
        try:
            # As the weights have it; the first convolution is adapted after.
            stored = model.clone(in_channels=None)
            variables = from_torchvision(self.weights, stored, head=head, key=key)
            channels = model.in_channels or self.channels
            return with_input_channels(variables, channels, in_channels_init, key)
        except UserError as error:
            if str(self.info.path) in str(error):
                raise
            raise UserError(f"{self.info.path}: {error}") from error


def check_class_count(num_classes: int | None) -> None:
    """Check the number of classes of a new classifier; None is that of the weights.

    Raises:
        UserError: It is below 1.
    """
    if num_classes is not None and num_classes < 1:
        raise UserError(
            f"num_classes={num_classes}: a classifier has one class or more; for the pooled "
            "features take the backbone alone (flax-resnet convert --head drop; "
            'head="drop" in Python).',
            exit_code=2,
        )


def numbered_classes(count: int) -> tuple[str, ...]:
    """Return the names of classes without names: ``"0"``, ``"1"``, ..."""
    return tuple(map(str, range(count)))
