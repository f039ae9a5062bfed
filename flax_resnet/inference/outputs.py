"""Forward passes of a classifier over images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..data import Preprocessing, Source
from ..data.images import ImageFiles
from ..errors import UserError
from ..models import ResNet, fold_batch_norm
from ..training import BatchOutputs, batch_shardings, forward, static_batch_size
from ..transform import EvalTransform
from .inputs import Images, open_images

if TYPE_CHECKING:
    from .classifier import Classifier

BATCH_SIZE = 32

TestTimeAugmentation = Literal["flip"]
Program = tuple[Any, Any]
"""A jitted ``function(variables, images)`` and its variables."""


def logits_program(classifier: Classifier, tta: TestTimeAugmentation | None = None) -> Program:
    """Return the program that computes logits ``[N, K]`` of stored pixels.

    Batch norm is folded into the convolutions. With ``tta="flip"`` the logits are the mean of
    those of the image and of its mirror image.

    Raises:
        UserError: The classifier layer is random.
    """
    require_classifier(classifier)
    return _program(classifier, _logits, tta)


def require_classifier(classifier: Classifier) -> None:
    """Check that the weights hold a classifier.

    Raises:
        UserError: The classifier layer is random.
    """
    if not classifier.info.has_classifier:
        raise UserError(
            "These weights hold no classifier, so there are no classes to predict: train one with "
            "flax-resnet finetune, or take the features with flax-resnet embed."
        )


def features_program(classifier: Classifier, layer: str = "pooled") -> Program:
    """Return the program that computes the features of a layer, see ``ResNet.features``."""
    return _program(classifier, _features, layer)


def _program(classifier: Classifier, compute: Callable[..., Any], option: Any) -> Program:
    """Return ``compute(model, preprocess, option, ...)``, compiled once for a classifier."""
    key = compute, option
    if key not in classifier._programs:
        model, variables = folded_model(classifier)
        preprocess = Preprocessing.from_transform(classifier.transform)
        function = jax.jit(partial(compute, model, preprocess, option))
        classifier._programs[key] = function, variables
    return classifier._programs[key]


def _logits(
    model: ResNet,
    preprocess: Preprocessing,
    tta: TestTimeAugmentation | None,
    variables: Any,
    images: Any,
) -> jax.Array:
    images = preprocess(images)
    if tta == "flip":
        images = jnp.concatenate([images, images[:, :, ::-1]])
    logits: Any = model.apply(variables, images, train=False)
    return logits if tta is None else jnp.mean(logits.reshape(2, -1, logits.shape[-1]), 0)


def _features(
    model: ResNet, preprocess: Preprocessing, layer: str, variables: Any, images: Any
) -> jax.Array:
    found: Any = model.apply(variables, preprocess(images), train=False, method="features")
    return found[layer]


def folded_model(classifier: Classifier) -> tuple[ResNet, Any]:
    """Fold batch norm once for a classifier, by NumPy: nothing is traced or compiled for it.

    The result is put on a device here, or each call for a single image would copy all of it.
    """
    if "folded" not in classifier._programs:
        model, variables = fold_batch_norm(classifier.model, jax.device_get(classifier.variables))
        variables = jax.device_put(variables, jax.local_devices()[0])
        classifier._programs["folded"] = model, variables
    return classifier._programs["folded"]


def batch_function(program: Program) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of batches of stored pixels, uint8 ``[N, H, W, C]``, that runs a program.

    Unlike ``forward_images`` it starts no threads and puts the variables on the devices once, which
    take longer than a small model does for an image.
    """
    function, variables = program
    placed: dict[Any, Any] = {}

    def outputs(pixels: np.ndarray) -> np.ndarray:
        rows, whole = batch_shardings(len(pixels))
        if whole not in placed:
            placed[whole] = jax.device_put(variables, whole)
        return np.asarray(function(placed[whole], jax.device_put(pixels, rows)))

    return outputs


def forward_images(
    program: Program, images: Images, transform: EvalTransform, batch_size: int = BATCH_SIZE
) -> Iterator[BatchOutputs]:
    """Run a program over images, one batch at a time.

    Every image is in some batch; one that cannot be read is named in its ``failed``.

    Raises:
        UserError: As in ``predict``.
    """
    source, names = open_images(images, transform)
    # Threads that decode end with the last batch, also where the caller stops before it.
    with closing(source) if isinstance(source, ImageFiles) else nullcontext():
        yield from forward_source(program, source, names, batch_size)


def forward_source(
    program: Program, source: Source, names: Sequence[str], batch_size: int = BATCH_SIZE
) -> Iterator[BatchOutputs]:
    """Run a program over a source whose images have these names, one batch at a time."""
    size = static_batch_size(len(source), batch_size)
    return forward(*program, source, batch_size=size, names=names)
