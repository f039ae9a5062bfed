"""Augmentation of a batch of stored images under jit, with a random key for each example."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import jax
import jax.numpy as jnp

from ...errors import UserError
from .boxes import Range, random_crop_box
from .color import color_jitter, random_grey
from .erasing import cutout, random_erasing
from .geometry import (
    CropFill,
    FillMode,
    Interpolation,
    Level,
    random_affine,
    random_flip,
    random_pad_crop,
    warp,
)
from .policies import BINS, TIMM_MOST, rand_augment, timm_rand_augment, trivial_augment
from .resizing import resized_crop


@dataclass(frozen=True)
class Augmentation:
    """The augmentations of training images, applied in the order of this list; none by default.

    Images are uint8 before and after. So the pixels that erasing, cutout and padding fill in have a
    level, ``fill_value``, and not a normalised number; 255 times the mean of the data set gives the
    zero after normalisation of the papers. ``crop_padding``, ``flip``, ``random_erasing`` and
    ``cutout`` also take floats.

    Attributes:
        random_resized_crop: Height and width to which a crop of random size and shape is resized,
            with antialiasing (Szegedy et al. 2015); None for no crop.
        crop_scale, crop_ratio: Limits of the crop's fraction of the area and of its width / height.
        crop_padding: Pixels added on each side before a crop of the image's size (He et al. 2015a,
            section 4.2); 0 for no crop.
        crop_fill: These are ``"constant"``, of ``fill_value``, or ``"mirror"`` the image.
        flip: Mirror half of the images left to right.
        rotation, shear: Largest angle in degrees in both directions, as in Keras's
            ImageDataGenerator.
        shift: Largest shift in both directions as a fraction of height and width, one number or
            ``(height, width)``.
        zoom: Height and width are scaled by factors from 1 - zoom to 1 + zoom.
        fill: Pixels outside the image for these four: "nearest", "reflect" or "constant".
        rand_augment: RandAugment (Cubuk et al. 2019): number of operations and magnitude (0 to 30).
        timm_rand_augment: timm's RandAugment: number of operations, magnitude (0 to 10) and its
            standard deviation.
        trivial_augment: TrivialAugmentWide (Müller & Hutter 2021).
        interpolation: Interpolation of the four, of RandAugment and of TrivialAugment.
        color_jitter: torchvision's ColorJitter: brightness, contrast, saturation and hue.
        grayscale: Probability of a grey image.
        random_erasing: Probability of an erased box (Zhong et al. 2017).
        erasing_noise: Fill the box with random levels.
        cutout: Side of a square that is filled, in pixels (DeVries & Taylor 2017); 0 for none.
        fill_value: Level from 0 to 255 of pixels that are filled in, one or one per channel.
    """

    crop_padding: int = 0
    flip: bool = False
    random_resized_crop: int | None = None
    crop_scale: Range = (0.08, 1.0)
    crop_ratio: Range = (3 / 4, 4 / 3)
    rotation: float = 0.0
    shift: float | tuple[float, float] = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    fill: FillMode = "nearest"
    crop_fill: CropFill = "constant"
    rand_augment: tuple[int, int] | None = None
    timm_rand_augment: tuple[int, float, float] | None = None
    trivial_augment: bool = False
    interpolation: Interpolation = "bilinear"
    color_jitter: tuple[float, float, float, float] | None = None
    grayscale: float = 0.0
    random_erasing: float = 0.0
    erasing_noise: bool = False
    cutout: int = 0
    fill_value: Level = 0

    def __post_init__(self) -> None:
        for name, value, least, most in self._limits():
            if value is not None and not least <= value <= most:
                raise UserError(f"Augmentation: {name} is {value}; let it be {least} to {most:g}.")
        if len(self._policies) > 1:
            raise UserError(f"Augmentation: {' and '.join(self._policies)}: choose one of them.")
        for name, choice, known in (
            ("fill", self.fill, get_args(FillMode)),
            ("crop_fill", self.crop_fill, get_args(CropFill)),
            ("interpolation", self.interpolation, get_args(Interpolation)),
        ):
            if choice not in known:
                options = ", ".join(known)
                raise UserError(f"Augmentation: {name} is {choice!r}; let it be one of {options}.")

    def __call__(self, key: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
        """Augment a batch, each example with its own key.

        The key of an example is ``key`` folded with its index in the global batch, so the result
        does not depend on the other examples of the batch.

        Args:
            key: Random key of the step.
            images: ``[N, H, W, C]``.
            index: Index of each example in the global batch, integers ``[N]``.

        Returns:
            Images of the same dtype, and of the same shape unless ``random_resized_crop`` is set.

        Raises:
            UserError: An augmentation needs uint8 images, or grey or RGB ones, and these are not.
        """
        self._check(images)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        return jax.vmap(self._augment_one)(keys, images)

    def _augment_one(self, key: jax.Array, image: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        # The numbers start at 2, because folding in 0 and 1 gives the two keys above again.
        box_key, affine_key, policy_key, jitter_key, grey_key, erasing_key, cutout_key = (
            jax.random.fold_in(key, number) for number in range(2, 9)
        )
        if self.random_resized_crop is not None:
            height, width, _ = image.shape
            box = random_crop_box(box_key, height, width, self.crop_scale, self.crop_ratio)
            image = resized_crop(image, box, self.random_resized_crop)
        if self.crop_padding:
            padding, fill = self.crop_padding, self.crop_fill
            image = random_pad_crop(crop_key, image, padding, self.fill_value, fill)
        if self.flip:
            image = random_flip(flip_key, image)
        if self._warps:
            height, width, _ = image.shape
            amounts = (self.rotation, self._shifts, self.shear, self.zoom)
            matrix = random_affine(affine_key, height, width, *amounts)
            image = warp(image, matrix, self.fill, self.fill_value, self.interpolation)
        if self.rand_augment is not None:
            number, magnitude = self.rand_augment
            options = (number, magnitude, self.fill_value, self.interpolation)
            image = rand_augment(policy_key, image, *options)
        if self.timm_rand_augment is not None:
            image = timm_rand_augment(
                policy_key, image, *self.timm_rand_augment, self.fill_value, self.interpolation
            )
        if self.trivial_augment:
            image = trivial_augment(policy_key, image, self.fill_value, self.interpolation)
        if self.color_jitter is not None:
            image = color_jitter(jitter_key, image, *self.color_jitter)
        if self.grayscale:
            image = random_grey(grey_key, image, self.grayscale)
        if self.random_erasing:
            probability, noise = self.random_erasing, self.erasing_noise
            image = random_erasing(erasing_key, image, probability, self.fill_value, noise)
        if self.cutout:
            image = cutout(cutout_key, image, self.cutout, self.fill_value)
        return image

    @property
    def _shifts(self) -> tuple[float, float]:
        return self.shift if isinstance(self.shift, tuple) else (self.shift, self.shift)

    @property
    def _warps(self) -> bool:
        return any((self.rotation, *self._shifts, self.shear, self.zoom))

    @property
    def _policies(self) -> list[str]:
        names = ("rand_augment", "timm_rand_augment", "trivial_augment")
        return [name for name in names if getattr(self, name)]

    @property
    def _recolors(self) -> bool:
        return bool(self._policies) or self.color_jitter is not None or self.grayscale > 0

    def _limits(self) -> Iterator[tuple[str, float | None, float, float]]:
        """Yield the name, the value, the least and the largest allowed value of every number."""
        yield "random_resized_crop", self.random_resized_crop, 1, math.inf
        for name, (low, high), most in (
            ("crop_scale", self.crop_scale, 1.0),
            ("crop_ratio", self.crop_ratio, math.inf),
        ):
            yield f"the lower {name}", low, 1e-6, high
            yield f"the upper {name}", high, low, most
        yield "crop_padding", self.crop_padding, 0, math.inf
        for value in self._shifts:
            yield "shift", value, 0, math.inf
        yield "rotation", self.rotation, 0, math.inf
        yield "shear", self.shear, 0, 90
        yield "zoom", self.zoom, 0, 1
        number, magnitude = self.rand_augment or (1, 0)
        yield "the number of rand_augment's operations", number, 1, math.inf
        yield "rand_augment's magnitude", magnitude, 0, BINS - 1
        if self.timm_rand_augment is not None:
            number, level, deviation = self.timm_rand_augment
            yield "the number of timm_rand_augment's operations", number, 1, math.inf
            yield "timm_rand_augment's magnitude", level, 0, TIMM_MOST
            yield "timm_rand_augment's standard deviation", deviation, 0, math.inf
        jitter = self.color_jitter or (0, 0, 0, 0)
        for value, most in zip(jitter, (math.inf, math.inf, math.inf, 0.5), strict=True):
            yield "an amount of color_jitter", value, 0, most
        yield "grayscale", self.grayscale, 0, 1
        yield "random_erasing", self.random_erasing, 0, 1
        yield "cutout", self.cutout, 0, math.inf
        for level in self._levels:
            yield "fill_value", level, 0, 255

    @property
    def _levels(self) -> tuple[int, ...]:
        return self.fill_value if isinstance(self.fill_value, tuple) else (self.fill_value,)

    def _check(self, images: jax.Array) -> None:
        resamples = self._warps or self.random_resized_crop is not None
        if (resamples or self._recolors) and images.dtype != jnp.uint8:
            raise UserError(
                f"Augmentation of {images.dtype} images: only crop_padding, flip, random_erasing "
                "and cutout take them; augment uint8 images before they are normalised."
            )
        channels = images.shape[-1]
        if self._recolors and channels not in (1, 3):
            raise UserError(
                f"Augmentation of images with {channels} channels: colours need 1 or 3; turn off "
                "rand_augment, timm_rand_augment, trivial_augment, color_jitter and grayscale."
            )
        if len(self._levels) not in (1, channels):
            raise UserError(
                f"Augmentation: fill_value has {len(self._levels)} levels for {channels} channels; "
                "give one, or one for each channel."
            )
