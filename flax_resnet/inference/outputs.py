"""A trained model over images: what it makes of each, batch by batch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from ..data import Framing, Preprocessing, Source, Split
from ..data.images import ImageFiles, to_rgb
from ..errors import UserError
from ..models import fold_batch_norm
from ..training import forward, static_batch_size
from .run_folder import LoadedRun

BATCH_SIZE = 32

Augmentation = Literal["flip"]
Images = Any
"""A path or a sequence of paths; images in memory: an array uint8 ``[H, W]``, ``[H, W, C]`` or
``[N, H, W, C]``, a PIL image, or a sequence of these."""


@dataclass(frozen=True)
class Outputs:
    """What a function made of consecutive images.

    Attributes:
      names: of all images, paths or numbers, in order.
      read: False for those that could not be read, bool ``[len(names)]``.
      values: of those that could be, in order: NumPy ``[sum(read), ...]``.
      labels: of those, int ``[sum(read)]``; 0 where nobody knows.
      failed: path -> why it could not be read.
    """

    names: tuple[str, ...]
    read: np.ndarray
    values: np.ndarray
    labels: np.ndarray
    failed: Mapping[str, str]


def logits_of(run: LoadedRun, tta: Augmentation | None = None) -> tuple[Any, Any]:
    """``(function, variables)`` for :func:`outputs`: logits ``[N, K]`` of pixels.

    Batch norm is folded into the convolutions. With ``tta="flip"`` the logits are the mean of
    those of the image and of its mirror image.

    Raises:
      UserError: the classifier's weights are random.
    """
    if run.fresh_classifier:
        raise UserError(
            "These weights hold no classifier, so there are no classes to predict: train one with "
            "flax-resnet finetune, or take the features with flax-resnet embed."
        )
    if ("logits", tta) not in run.programs:
        model, variables = _folded(run)
        function = jax.jit(partial(_logits, model, run.preprocessing, tta))
        run.programs["logits", tta] = function, variables
    return run.programs["logits", tta]


def features_of(run: LoadedRun, layer: str = "pooled") -> tuple[Any, Any]:
    """``(function, variables)`` for :func:`outputs`: features of a layer, see ResNet.features."""
    if ("features", layer) not in run.programs:
        model, variables = _folded(run)
        if not hasattr(model, "features"):
            raise UserError(f"{run.config.name} gives no features: use another model.")
        function = jax.jit(partial(_features, model, run.preprocessing, layer))
        run.programs["features", layer] = function, variables
    return run.programs["features", layer]


def _logits(
    model: nn.Module, prepare: Preprocessing, tta: Augmentation | None, variables: Any, images: Any
) -> jax.Array:
    images = prepare(images)
    if tta == "flip":
        images = jnp.concatenate([images, images[:, :, ::-1]])
    logits: Any = model.apply(variables, images, train=False)
    return logits if tta is None else jnp.mean(logits.reshape(2, -1, logits.shape[-1]), 0)


def _features(
    model: nn.Module, prepare: Preprocessing, layer: str, variables: Any, images: Any
) -> jax.Array:
    found: Any = model.apply(variables, prepare(images), train=False, method="features")
    return found[layer]


def _folded(run: LoadedRun) -> tuple[nn.Module, Any]:
    """Batch norm folded, once for a run, by NumPy: nothing is traced or compiled for it.

    The result is put on a device here, or each call for a single image would copy all of it.
    """
    if "folded" not in run.programs:
        model, variables = fold_batch_norm(run.model, jax.device_get(run.variables))
        run.programs["folded"] = model, jax.device_put(variables, jax.local_devices()[0])
    return run.programs["folded"]


def outputs(
    function: tuple[Callable[..., Any], Any],
    images: Images,
    framing: Framing,
    *,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Outputs]:
    """Run a function of :func:`logits_of` or :func:`features_of` over images, batch by batch.

    Every image counts: one that cannot be read is named in its batch's ``failed``.

    Raises:
      UserError: images in memory of a shape or type that nothing can be made of.
    """
    source, names = _source(images, framing)
    # Threads that decode end with the last batch, also where nobody asks for it.
    with closing(source) if isinstance(source, ImageFiles) else nullcontext():
        yield from outputs_of_source(function, source, names, batch_size=batch_size)


def outputs_of_source(
    function: tuple[Callable[..., Any], Any],
    source: Source,
    names: Sequence[str],
    *,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Outputs]:
    """The same over a source whose images have these names."""
    size = static_batch_size(len(source), batch_size)
    done = 0
    for part in forward(*function, source, batch_size=size):
        end = min(done + size, len(source))
        read = np.zeros(end - done, bool)
        read[part.indices - done] = True
        own = tuple(names[done:end])
        failed = {
            name: source.bad.get(name, "cannot be read")
            for name, fine in zip(own, read, strict=True)
            if not fine
        }
        yield Outputs(own, read, part.outputs, part.labels, failed)
        done = end


def _source(images: Images, framing: Framing) -> tuple[Source, tuple[str, ...]]:
    if isinstance(images, Split):
        return images, tuple(map(str, range(len(images))))
    single = isinstance(images, str | Image.Image) or hasattr(images, "__fspath__")
    items = [images] if single else images
    if isinstance(items, np.ndarray | jax.Array):
        items = np.asarray(items)
        items = items[None] if items.ndim == 2 or _is_one_image(items) else items
    items = list(items)
    if all(isinstance(item, str) or hasattr(item, "__fspath__") for item in items):
        paths = tuple(str(item) for item in items)
        return ImageFiles.framed(paths, framing), paths
    fitted = _fitted(items, framing)
    empty = np.zeros((0, framing.height, framing.width, framing.channels), np.uint8)
    stacked = np.stack(fitted) if fitted else empty
    return Split(stacked, np.zeros(len(stacked), np.int32)), tuple(map(str, range(len(stacked))))


def _is_one_image(array: np.ndarray) -> bool:
    """Of three axes, ``[H, W, C]`` and not ``[N, H, W]``."""
    return array.ndim == 3 and array.shape[2] in (1, 3)


def _fitted(items: Iterable[Any], framing: Framing) -> list[np.ndarray]:
    try:
        return [framing.fit(_pixels(item)) for item in items]
    except (TypeError, ValueError) as error:
        raise UserError(f"These are not images: {error}.") from error


def _pixels(item: Any) -> np.ndarray:
    if isinstance(item, Image.Image):
        return np.asarray(to_rgb(ImageOps.exif_transpose(item)))
    return np.asarray(item)
