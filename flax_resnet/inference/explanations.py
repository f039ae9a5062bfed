"""Heat maps of photos: which pixels speak for a class of a trained model."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ..data import Preprocessing
from ..data.images import write_picture
from ..errors import UserError
from ..file_names import escape
from ..output_files import replacing
from ..paths import expand
from ..report.explain import METHODS, overlay
from ..training.heat_maps import as_seen
from .inputs import Images
from .outputs import (
    BATCH_SIZE,
    folded_model,
    forward_images,
    require_classifier,
)
from .predict import to_probabilities

if TYPE_CHECKING:
    from .classifier import Classifier

_SHOWN_SIDE = 224  # pixels of the longer side of an enlarged overlay
_LONGEST_NAME = 255  # bytes, of nearly all file systems

Method = Literal["grad-cam", "grad-cam++", "integrated-gradients", "occlusion"]


@dataclass(frozen=True)
class Explanations:
    """Heat maps of the images that could be read.

    Attributes:
        names: Paths as they were given; of other images their numbers, from 0.
        classes: Names of all classes.
        targets: Index of the class that each map explains, int32 ``[N]``.
        probabilities: Those of these classes, float32 ``[N]``.
        maps: The heat maps, float32 ``[N, H, W]``, see ``report.explain.HeatMaps``.
        images: The pixels as the model saw them, uint8 ``[N, H, W, C]``.
        failed: Name -> reason of each image without a map.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    targets: np.ndarray
    probabilities: np.ndarray
    maps: np.ndarray
    images: np.ndarray
    failed: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes that the maps explain."""
        return tuple(self.classes[target] for target in self.targets)

    def overlays(self) -> Iterator[Image.Image]:
        """Draw each heat map over its image; small ones are enlarged."""
        for image, heat_map in zip(self.images, self.maps, strict=True):
            shown = image if image.shape[-1] in (1, 3) else image[..., :1]
            drawn = Image.fromarray(overlay(shown, heat_map))
            factor = max(_SHOWN_SIDE // max(drawn.size), 1)
            yield drawn.resize((drawn.width * factor, drawn.height * factor))

    def save(self, folder: str | Path, *, taken: set[str] | None = None) -> list[Path]:
        """Write each overlay to a folder: that of ``cat.jpg`` is ``cat.heat.png``.

        Args:
            folder: The folder.
            taken: Names that other photos have; those of these photos are added. A name that is
                taken gets a number: photos of several folders may be called the same.

        Returns:
            The files, in the order of ``names``.

        Raises:
            UserError: A file cannot be written.
        """
        taken = set() if taken is None else taken
        files = []
        for name, picture in zip(self.names, self.overlays(), strict=True):
            path = expand(folder) / _free_name(Path(name).stem, taken)
            write_picture(picture, path)
            files.append(path)
        return files

    def save_arrays(self, path: str | Path) -> None:
        """Write ``files``, ``labels``, ``targets``, ``probabilities`` and ``maps`` to an .npz.

        Raises:
            UserError: Another ending, or the file cannot be written.
        """
        if Path(path).suffix.lower() != ".npz":
            raise UserError(f"{path} must end in .npz.", exit_code=2)
        with replacing(path) as fresh, fresh.open("wb") as file:
            np.savez(
                file,
                files=np.array([escape(name) for name in self.names]),
                labels=np.array([escape(label) for label in self.labels]),
                targets=self.targets,
                probabilities=self.probabilities,
                maps=self.maps,
            )


def explain(
    classifier: Classifier,
    images: Images,
    *,
    method: Method = "grad-cam",
    target: str | int | None = None,
    layer: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> Explanations:
    """Compute heat maps that show which pixels speak for a class.

    Args:
        classifier: The trained model.
        images: As in ``predict``.
        method: ``"grad-cam"``, ``"grad-cam++"``, ``"integrated-gradients"`` (100 times as
            expensive) or ``"occlusion"`` (200 times), see ``report.explain``.
        target: The class to explain: its name or its index; by default, of each image, the most
            probable one.
        layer: The stage that Grad-CAM and Grad-CAM++ look at, such as ``"layer3"``: earlier ones
            give finer maps that depend less on the class. By default the last.
        batch_size: As in ``predict``.

    Raises:
        UserError: No class or more than one has the name, the stage does not exist or the method
            uses none, or as in ``predict``.
    """
    batches = list(
        explain_batches(
            classifier, images, method=method, target=target, layer=layer, batch_size=batch_size
        )
    )
    return joined(classifier, batches)


def explain_batches(
    classifier: Classifier,
    images: Images,
    *,
    method: Method = "grad-cam",
    target: str | int | None = None,
    layer: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Explanations]:
    """Compute heat maps one batch at a time, for more images than fit in memory.

    The arguments are those of ``explain``.

    Yields:
        The heat maps of each batch.

    Raises:
        UserError: As in ``explain``.
    """
    if method not in METHODS:
        raise UserError(f"There is no method {method!r}: use {', '.join(METHODS)}.", exit_code=2)
    if batch_size < 1:
        raise UserError("The batch size must be above 0.", exit_code=2)
    program = _program(classifier, method, _index(classifier.classes, target), layer)
    for batch in forward_images(program, images, classifier.transform, batch_size):
        maps, logits, targets, pixels = batch.outputs
        probabilities = to_probabilities(classifier, logits)
        yield Explanations(
            names=tuple(np.array(batch.names, object)[batch.read]),
            classes=classifier.classes,
            targets=targets,
            probabilities=probabilities[np.arange(len(targets)), targets],
            maps=maps,
            images=pixels,
            failed=batch.failed,
        )


def joined(classifier: Classifier, batches: list[Explanations]) -> Explanations:
    """Return the heat maps of several batches as one."""

    def all_of(field: str) -> np.ndarray:
        arrays = [getattr(batch, field) for batch in batches]
        return np.concatenate(arrays) if arrays else np.zeros(0, np.float32)

    return Explanations(
        names=tuple(name for batch in batches for name in batch.names),
        classes=classifier.classes,
        **{field: all_of(field) for field in ("targets", "probabilities", "maps", "images")},
        failed={name: why for batch in batches for name, why in batch.failed.items()},
    )


def _program(classifier: Classifier, method: str, target: int | None, layer: str | None) -> Any:
    """Return a function of variables and stored pixels, and its variables."""
    require_classifier(classifier)
    model, variables = folded_model(classifier)
    options: dict[str, Any] = {}
    if layer is not None:
        if not method.startswith("grad-cam"):
            raise UserError(f"The method {method} uses no layer: leave it out.", exit_code=2)
        known = model.stages[:-1]
        if layer not in known:
            raise UserError(
                f"The layer is {layer!r}; it must be one of {', '.join(known)}.", exit_code=2
            )
        options["layer"] = layer
    preprocess = jax.jit(Preprocessing.from_transform(classifier.transform))

    def run(variables: Any, images: jax.Array) -> Any:
        x = preprocess(images)
        targets = None if target is None else jnp.full(len(images), target, jnp.int32)
        found = METHODS[method](model, variables, x, targets, **options)
        return *found, as_seen(images, x)

    return run, variables


def _index(classes: tuple[str, ...], target: str | int | None) -> int | None:
    """The index of a class by name or index.

    Raises:
        UserError: There is none, or more than one.
    """
    if target is None:
        return None
    if isinstance(target, str):
        indices = [index for index, name in enumerate(classes) if name == target]
        if len(indices) > 1:
            listed = " and ".join(map(str, indices))
            raise UserError(
                f"The classes with the indices {listed} are both called {target!r}: in Python, "
                "give the index.",
                exit_code=2,
            )
        if not indices:
            import difflib

            nearest = difflib.get_close_matches(target, classes, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {len(classes)}."
            raise UserError(f"No class is called {target!r}: {hint}", exit_code=2)
        return indices[0]
    if not 0 <= target < len(classes):
        raise UserError(
            f"The target is {target}; there are classes from 0 to {len(classes) - 1}.", exit_code=2
        )
    return int(target)


def _free_name(stem: str, taken: set[str]) -> str:
    """``STEM.heat.png``, or with the first number that makes it a new name; it is then taken.

    Some file systems take names for the same that differ in case or in the form of their accents.
    """
    number = 1
    while True:
        ending = ".heat.png" if number == 1 else f"-{number}.heat.png"
        while len(os.fsencode(stem + ending)) > _LONGEST_NAME:
            stem = stem[:-1]
        key = unicodedata.normalize("NFC", stem + ending).casefold()
        if key not in taken:
            taken.add(key)
            return stem + ending
        number += 1
