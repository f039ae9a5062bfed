"""The photo of the workload that starts from a file, and its transform for engines without one."""

import io

import numpy as np
from PIL import Image, ImageFilter

SIDES = 500, 375  # ImageNet's most frequent size, width and height
RESIZE, CROP = 256, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo():
    """Returns a JPEG file of smooth colours with some detail, as bytes."""
    width, height = SIDES
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))
    file = io.BytesIO()
    image.point(lambda level: (level - 96) * 4).save(file, "JPEG", quality=90)
    return file.getvalue()


def to_input(encoded):
    """Returns float32 ``[1, 3, 224, 224]``: shorter side to 256, centre crop, ImageNet's mean."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    scale = RESIZE / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
    left, top = ((side - CROP) // 2 for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + CROP, top + CROP)), np.float32)
    normalized = (pixels / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(normalized.transpose(2, 0, 1)[None])


def probabilities(logits):
    """Returns the softmax of logits ``[1, K]``."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()
