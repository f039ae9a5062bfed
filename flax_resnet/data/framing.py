"""From an image file to the pixels that a model was trained on: resized, cropped, coloured."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from flax_resnet.data.images.pixels import (
    MAX_PIXELS,
    Content,
    Interpolation,
    Pixels,
    resize_center_crop,
    thumbnail,
)
from flax_resnet.errors import UserError

_CHANNELS = ((), (1,), (3,))
_RESIZE = 256 / 224  # the shorter side before the middle is cropped, as torchvision evaluates


@dataclass(frozen=True)
class Framing:
    """How an image file becomes stored pixels, uint8 ``[height, width, channels]``.

    It is what evaluation does to the files of a folder. For a set whose images were in memory it
    says how a photo is made one of them: the shorter side resized to theirs, the middle cut out,
    grey where they are.

    Attributes:
        height, width: of the pixels that come out.
        resize: the shorter side before the middle is cropped; None squeezes the whole image.
        interpolation: of the resizing, which is antialiased.
        channels: 3 (red, green, blue) or 1 (grey, by ITU-R 601 as Pillow's ``convert("L")``).
    """

    height: int
    width: int
    resize: int | None
    interpolation: Interpolation = "bilinear"
    channels: int = 3

    @classmethod
    def evaluating(
        cls, size: int, resize: int | None = None, interpolation: Interpolation = "bilinear"
    ) -> Framing:
        """Return the one that cuts the middle ``size`` of colour photos; ``resize`` is 256/224 of
        it by default, rounded."""
        return cls(size, size, round(size * _RESIZE) if resize is None else resize, interpolation)

    @classmethod
    def like(cls, image_shape: tuple[int, int, int]) -> Framing:
        """Return the one that makes photos look like stored images ``(H, W, C)``."""
        height, width, channels = image_shape
        return cls(height, width, height if height == width else None, channels=channels)

    def scaled(self, size: int) -> Framing:
        """Return the one that shows the same part of an image in ``size`` x ``size`` pixels."""
        resize = None if self.resize is None else round(self.resize * size / self.height)
        return dataclasses.replace(self, height=size, width=size, resize=resize)

    def read(self, content: Content, *, max_pixels: int = MAX_PIXELS) -> Pixels:
        """Decode an image file to uint8 ``[height, width, channels]``.

        Raises:
            BadImage: as for ``images.read_image``.
        """
        if self.resize is None:
            pixels = thumbnail(content, (self.height, self.width), max_pixels=max_pixels)
        else:
            pixels = resize_center_crop(
                content,
                self.resize,
                self.height,
                interpolation=self.interpolation,
                max_pixels=max_pixels,
            )
        if self.channels == 1:
            return np.asarray(Image.fromarray(pixels).convert("L"))[..., np.newaxis]
        return pixels

    def fit(self, image: np.ndarray) -> Pixels:
        """Do the same to an image in memory, uint8 ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]``.

        One that has the right shape already is returned as it is.

        Raises:
            UserError: another shape or type.
        """
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in _CHANNELS:
            raise UserError(
                f"an image is {image.dtype} {list(image.shape)}: give uint8 (0 to 255) [H, W], "
                "[H, W, 1] or [H, W, 3]"
            )
        if image.shape == (self.height, self.width, self.channels):
            return image
        grey = image.shape[2:] in ((), (1,))
        file = io.BytesIO()  # as a file, so that there is one way for both
        Image.fromarray(image.reshape(image.shape[:2]) if grey else image).save(file, "BMP")
        return self.read(file.getvalue())
