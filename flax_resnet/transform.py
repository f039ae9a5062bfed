"""How evaluation and prediction turn an image file into a model's input, as plain data."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

Interpolation = Literal["bilinear", "bicubic"]
CropOffset = Literal["nearest", "down"]

# Of red, green and blue in [0, 1], as all weights published for ImageNet expect them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_RESIZE_RATIO = 256 / 224  # shorter side over crop, as torchvision evaluates


@dataclass(frozen=True)
class EvalTransform:
    """The preprocessing of one image in evaluation and prediction.

    An image file is resized and cropped to stored pixels, uint8 ``[height, width, channels]``;
    these are normalised by channel on the device. For a data set whose images are in memory, the
    first step makes a photo look like one of them.

    Attributes:
        height, width: Size of the stored pixels.
        resize: Length of the shorter side before the center crop; None squeezes the whole image
            into ``height`` x ``width``.
        interpolation: Filter of the resizing, which is antialiased.
        channels: 3 (red, green, blue), 1 (grey, by ITU-R 601 as Pillow's ``convert("L")``), or
            any other number, for arrays only.
        mean, std: Normalisation of each channel, for values in [0, 1]. Three values for gray
            images give a model of colour photos three channels.
        crop_offset: How half a pixel in the offset of the center crop is rounded: to the nearest
            even number as torchvision does, or down as transformers does.
        model_size: Height and width to which the device resizes the stored pixels before the
            model sees them; None leaves them as they are. Only data sets in memory use it.
    """

    height: int
    width: int
    resize: int | None
    interpolation: Interpolation = "bilinear"
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_offset: CropOffset = "nearest"
    model_size: int | None = None

    @classmethod
    def center_crop(
        cls, size: int, resize: int | None = None, interpolation: Interpolation = "bilinear"
    ) -> "EvalTransform":
        """Return the transform that crops the center ``size`` x ``size`` of colour photos.

        Args:
            size: Height and width of the crop.
            resize: Length of the shorter side before the crop; by default 256/224 of ``size``,
                rounded.
            interpolation: Filter of the resizing.
        """
        return cls(
            size, size, round(size * _RESIZE_RATIO) if resize is None else resize, interpolation
        )

    @classmethod
    def stored_like(cls, image_shape: tuple[int, int, int]) -> "EvalTransform":
        """Return the transform that makes a photo look like stored images ``[H, W, C]``.

        Square images are center crops, others are squeezed. The normalisation is ImageNet's, or,
        for grey images, the mean of it over the channels.
        """
        height, width, channels = image_shape
        resize = height if height == width else None
        return cls(height, width, resize).with_channels(channels)

    def with_channels(self, channels: int) -> "EvalTransform":
        """Return the same transform for images of ``channels``.

        The normalisation of one channel is the mean of that of all; more channels repeat it in
        turn, as ``weights.input_channels`` repeats a kernel's.
        """
        held = len(self.mean)
        mean, std = (
            (sum(values) / held,)
            if channels == 1
            else tuple(values[i % held] for i in range(channels))
            for values in (self.mean, self.std)
        )
        return dataclasses.replace(self, channels=channels, mean=mean, std=std)

    def scaled(self, size: int) -> "EvalTransform":
        """Return the transform that shows the same region in ``size`` x ``size`` pixels."""
        resize = None if self.resize is None else round(self.resize * size / self.height)
        return dataclasses.replace(self, height=size, width=size, resize=resize)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as values that JSON holds."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "EvalTransform":
        """Return the transform with these fields, as ``to_json`` wrote them.

        Raises:
            KeyError, TypeError: A field is missing, unknown, or of another type or range.
        """
        made = cls(**fields | {name: tuple(fields[name]) for name in ("mean", "std")})
        numbers = (*made.mean, *made.std)
        is_valid = {
            "height": _is_size(made.height),
            "width": _is_size(made.width),
            "resize": made.resize is None or _is_size(made.resize),
            "model_size": made.model_size is None or _is_size(made.model_size),
            "channels": _is_size(made.channels),
            "interpolation": made.interpolation in get_args(Interpolation),
            "crop_offset": made.crop_offset in get_args(CropOffset),
            "mean": all(type(value) in (int, float) for value in numbers),
        }
        is_valid["std"] = (
            is_valid["mean"]
            and 0 < len(made.std) == len(made.mean)
            and all(map(math.isfinite, numbers))
            and min(made.std) > 0
        )
        for name, valid in is_valid.items():
            if not valid:
                raise TypeError(f"{name} is {fields.get(name)!r:.80}")
        return made


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0
