"""A trained model with all that prediction needs: ``fr.load(source)``."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax

from ..data.fingerprint import FILE as FINGERPRINT
from ..data.fingerprint import read_fingerprint
from ..errors import UserError
from ..models import ResNet
from ..output_files import write_json
from ..report.notebook import classifier_table, to_html
from ..storage import locate
from ..transform import EvalTransform
from ..weights import (
    WeightsInfo,
    describe,
    load_source,
    to_torchvision,
    write_description,
    write_model,
    write_run_weights,
)
from . import embed as _embed
from . import evaluate as _evaluate
from . import explanations as _explanations
from . import export as _export
from . import outputs as _outputs
from . import predict as _predict
from . import publish as _publish
from .class_names import read_classes


@dataclass(frozen=True, eq=False, repr=False)
class Classifier:
    """A trained model, its classes and the transform of its images.

    ``predict``, ``predict_batches``, ``explain``, ``embed`` and ``evaluate`` take paths or images
    in memory.

    Attributes:
        model: The Linen module.
        variables: ``{"params", "batch_stats"}``.
        info: Where the weights came from, their classes, transform, training settings and step,
            and their published accuracies.
    """

    model: ResNet
    variables: Mapping[str, Any]
    info: WeightsInfo

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.info.classes

    @property
    def transform(self) -> EvalTransform:
        """How an image file becomes the model's input."""
        return self.info.transform

    @cached_property
    def _programs(self) -> dict[Any, Any]:
        """Compiled functions by name, so that a second call does not compile again."""
        return {}

    def __repr__(self) -> str:
        count = f"{len(self.classes):,} {'class' if len(self.classes) == 1 else 'classes'}"
        return f"<{type(self).__name__} of {self.info.source}: {self.info.config.name}, {count}>"

    def _repr_html_(self) -> str:
        """What is known of the model, as a table that a notebook shows."""
        leaves = jax.tree.leaves(self.variables["params"])
        return to_html(classifier_table(self.info, sum(leaf.size for leaf in leaves)))

    # Each is documented where it is written, as a function of a classifier.
    predict = _predict.predict
    predict_batches = _predict.predict_batches
    embed = _embed.embed
    evaluate = _evaluate.evaluate
    explain = _explanations.explain
    export = _export.export
    save_pretrained = _publish.save_pretrained
    _logits_program = _outputs.logits_program

    def save(self, target: str | Path) -> None:
        """Write the weights to a file, or all of the classifier to a run's folder.

        Weights without a classifier are written without one. A ``.safetensors`` file also holds
        the model's options, classes and transform, which ``load`` reads.

        Args:
            target: A file that ends in ``.safetensors``, ``.npz``, ``.pth`` or ``.pt``; or a name
                without ending for a run's folder, which must not exist or be empty.

        Raises:
            UserError: The target holds something already, cannot be written, or a run's folder
                cannot describe the model.
        """
        target = locate(target)
        if target.suffix:
            state_dict = to_torchvision(self.variables, self.model)
            if not self.classes:
                state_dict = {n: a for n, a in state_dict.items() if not n.startswith("fc.")}
            write_model(target, state_dict, self.model, describe(self.info))
            return
        if not self.classes:
            raise UserError(
                f"{self.info.source} holds no classifier, which a run's folder needs: write a file "
                "such as weights.safetensors."
            )
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"{target} is there already: choose another name for the run's folder.")
        if more := self.info.model_options:
            described = ", ".join(f"{name}={value}" for name, value in more.items())
            raise UserError(
                f"A run's folder cannot describe a {self.info.config.name} with {described}: "
                "write a file such as weights.safetensors."
            )
        settings = {f"model.{name}": value for name, value in vars(self.info.config).items()}
        if "loss" in self.info.settings:  # it decides how logits become probabilities
            settings["loss"] = self.info.settings["loss"]
        step = self.info.step or 0
        write_json(target / "config.json", settings)
        write_description(target, self.classes, self.transform)
        if self.info.kind == "run" and self.info.path is not None:
            data = read_fingerprint(self.info.path)
            if data is not None:  # evaluation knows the images of training by it
                write_json(target / FINGERPRINT, data.to_json(), indent=None)
        write_run_weights(target, self.variables, self.model, step=step, last_step=step)


def load(
    source: str | Path,
    *,
    classes: Sequence[str] | str | Path | None = None,
    model: str | None = None,
    num_classes: int | None = None,
    key: str | None = None,
    head: Literal["keep", "drop"] = "keep",
    stem_pool: Literal["none", "max"] | None = None,
    in_channels: int | None = None,
    in_channels_init: Literal["adapt", "fresh"] = "adapt",
) -> Classifier:
    """Load a trained model.

    Args:
        source: A run's folder, or one that transformers' ``save_pretrained`` wrote; a file of
            weights (``.pth``, ``.safetensors``, ``.npz``, ...); a model with published weights,
            ``"resnet50"`` or ``"resnet50/IMAGENET1K_V2"``; a repository on the Hugging Face
            hub, ``"timm/NAME"`` or ``"hf:ORG/NAME"``; or an ``.onnx`` file of ``export``, which
            onnxruntime runs, for ``predict`` and ``evaluate`` only.
        classes: Other names of the classes, or the path of a file that ``read_classes`` reads.
        model: Name of the model; by default it is inferred from the arrays.
        num_classes: Another number of classes than the weights have creates a random classifier.
        key: Of a file with several ResNets, the key of one, such as ``"state_dict_ema"``.
        head: ``"drop"`` leaves out the classifier.
        stem_pool: Of a file, whether a max-pool follows the stem, ``"max"`` or ``"none"``. After
            a stem of one 3x3 convolution a file may not tell it; then it must be given.
        in_channels: Another number of channels than the weights' images have.
        in_channels_init: The first convolution then: ``"adapt"`` is the sum over the weights'
            channels for one channel, and else repeats them in turn and scales them, as timm's
            ``in_chans``; ``"fresh"`` is random.

    Raises:
        UserError: Nothing or more than one thing of that name, damaged files, weights of another
            model, or more or fewer names than the model has classes.
    """
    if str(source).lower().endswith(".onnx"):
        from .onnx_classifier import OnnxClassifier, load_onnx

        if head != "keep" or {model, num_classes, key, stem_pool, in_channels} != {None}:
            raise UserError(f"{source} is an exported model, whose options cannot be changed.")
        read = load_onnx(source)
        return OnnxClassifier(read.session, _renamed(read.info, classes), read.takes)
    loaded = load_source(source, model=model, key=key, head=head, stem_pool=stem_pool)
    options: dict[str, Any] = {} if in_channels is None else {"in_channels": in_channels}
    module, variables, info = loaded.create(
        num_classes, in_channels_init=in_channels_init, **options
    )
    return Classifier(module, variables, _renamed(info, classes))


def _renamed(info: WeightsInfo, classes: Sequence[str] | str | Path | None) -> WeightsInfo:
    """Return the description with other names of the classes."""
    if isinstance(classes, str | Path):
        classes = read_classes(classes)
    if classes is None:
        return info
    if len(classes) != len(info.classes):
        raise UserError(
            f"There are {len(classes)} names of classes, but {info.source} has {len(info.classes)}."
        )
    return dataclasses.replace(info, classes=tuple(classes))
