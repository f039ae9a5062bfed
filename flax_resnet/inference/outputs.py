"""Forward passes of a classifier over images."""

from __future__ import annotations

from collections import Counter
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
from ..models import ResNet, fold_batch_norm, pack_kernels
from ..training import BatchOutputs, batch_shardings, forward, static_batch_size
from ..transform import EvalTransform
from .inputs import Images, open_images

if TYPE_CHECKING:
    from .classifier import Classifier

BATCH_SIZE = 32

# With kernels packed before, the program is another one: to compile it and the packing takes about
# as long as so many calls that pack (resnet50: 1 s), for which a few photos would wait.
CALLS_BEFORE_PACKING = 16

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
    return _program(classifier, _logits, tta, mirrored=tta == "flip")


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


def _program(
    classifier: Classifier, compute: Callable[..., Any], option: Any, *, mirrored: bool = False
) -> Program:
    """Return ``compute(apply, option, inputs)``, compiled once for a classifier.

    ``apply`` is the model with its variables; ``mirrored`` appends the mirror images to the inputs.
    """
    key = compute, option
    if key not in classifier._programs:
        model, variables = folded_model(classifier)
        preprocess = Preprocessing.from_transform(classifier.transform)

        def inputs_of(images: Any) -> jax.Array:
            inputs = preprocess(images)
            return jnp.concatenate([inputs, inputs[:, :, ::-1]]) if mirrored else inputs

        def function(packs: bool, variables: Any, images: Any) -> jax.Array:
            apply = partial(_apply, model, variables, packs)
            return compute(apply, option, inputs_of(images))

        classifier._programs[key] = _Packing(model, inputs_of, function), variables
    return classifier._programs[key]


class _Packing:
    """A compiled function of variables and images that keeps packed kernels for shapes that recur.

    Packed or not, the same algorithms compute, so that the bits of the result are the same.
    """

    def __init__(
        self, model: ResNet, inputs_of: Callable[[Any], Any], function: Callable[..., Any]
    ) -> None:
        self.model = model
        self.inputs_of = inputs_of
        self.function = jax.jit(function, static_argnums=0)
        self.calls: Counter[tuple[int, ...]] = Counter()
        self.packed: dict[tuple[int, ...], Any] = {}

    def __call__(self, variables: Any, images: Any) -> Any:
        if _is_split(images):
            return self.function(False, variables, images)
        self.calls[images.shape] += 1
        if self.calls[images.shape] >= CALLS_BEFORE_PACKING:
            self.pack(variables, images)
        return self.function(True, self.packed.get(images.shape, variables), images)

    def pack(self, variables: Any, images: Any) -> None:
        """Pack the kernels for the shape of these images now, if they are not yet."""
        shape = images.shape
        if shape in self.packed or _is_split(images):
            return
        packed = pack_kernels(self.model, variables, jax.eval_shape(self.inputs_of, images))
        # Most layouts are the same for every batch size, and are then kept once.
        for other, kept in tuple(self.packed.items()):
            if other[1:] == shape[1:]:
                packed = jax.tree.map(_kept_if_equal, packed, kept)
        self.packed[shape] = packed


def _is_split(images: Any) -> bool:
    return isinstance(images, jax.Array) and len(images.devices()) > 1


def _kept_if_equal(new: jax.Array, kept: jax.Array) -> jax.Array:
    is_equal = new is kept or (new.shape == kept.shape and np.array_equal(new, kept))
    return kept if is_equal else new


def _apply(model: ResNet, variables: Any, packs: bool, inputs: jax.Array, **options: Any) -> Any:
    """Apply the model; ``packs`` lays kernels out in the call as ``pack_kernels`` does before."""
    if not packs or "packed" in variables:
        return model.apply(variables, inputs, train=False, **options)
    return model.apply(variables, inputs, train=False, mutable=["packed"], **options)[0]


def _logits(
    apply: Callable[..., Any], tta: TestTimeAugmentation | None, inputs: jax.Array
) -> jax.Array:
    logits: jax.Array = apply(inputs)
    return logits if tta is None else jnp.mean(logits.reshape(2, -1, logits.shape[-1]), 0)


def _features(apply: Callable[..., Any], layer: str, inputs: jax.Array) -> jax.Array:
    features: jax.Array = apply(inputs, method="features")[layer]
    return features


def folded_model(classifier: Classifier) -> tuple[ResNet, Any]:
    """Fold batch norm once for a classifier, by NumPy: nothing is traced or compiled for it.

    The result is put on a device here, or each call for a single image would copy all of it.
    """
    if "folded" not in classifier._programs:
        model, variables = fold_batch_norm(classifier.model, jax.device_get(classifier.variables))
        variables = jax.device_put(variables, batch_shardings(1)[1])
        classifier._programs["folded"] = model, variables
    return classifier._programs["folded"]


def batch_function(program: Program) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of batches of stored pixels, uint8 ``[N, H, W, C]``, that runs a program.

    Unlike ``forward_images`` it never starts a thread, puts the variables on the devices of each
    placement once, and packs the kernels at the first batch of each size.
    """
    function, variables = program
    placed: dict[Any, Any] = {}

    def outputs(pixels: np.ndarray) -> np.ndarray:
        rows, whole = batch_shardings(len(pixels))
        if whole not in placed:
            placed[whole] = jax.device_put(variables, whole)
        images = jax.device_put(pixels, rows)
        if isinstance(function, _Packing):
            function.pack(placed[whole], images)
        return np.asarray(function(placed[whole], images))

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
