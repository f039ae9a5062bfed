"""Image files: found in folders and lists, decoded, cropped and resized.

``find_images`` lists the files of a data set with their labels and splits, ``ImageFiles`` decodes
them in batches with several threads, and the functions of ``pixels`` turn one file into an array;
``load_image`` and ``fit_image`` do it as an ``EvalTransform`` describes.
"""

from .crops import UNIFORMS_PER_CROP, Box, crop_box
from .decoding import FORMATS, MAX_PIXELS, BadImage, Content, opened, read_bytes, to_rgb
from .files import ImageFiles, LabeledFiles, OnBadImage
from .folder import ENDINGS, find_images
from .pixels import (
    ImageHeader,
    Pixels,
    random_resized_crop,
    read_header,
    read_image,
    resize_center_crop,
    thumbnail,
)
from .records import (
    RATIOS,
    SPLIT_NAMES,
    SPLITS,
    ImageRecords,
    Ratios,
    Records,
    check_ratios,
    counted,
    first_few,
    map_in_threads,
    split_of_content,
)
from .transform import fit_image, load_image

__all__ = [
    "ENDINGS",
    "FORMATS",
    "MAX_PIXELS",
    "RATIOS",
    "SPLITS",
    "SPLIT_NAMES",
    "UNIFORMS_PER_CROP",
    "BadImage",
    "Box",
    "Content",
    "ImageFiles",
    "ImageHeader",
    "ImageRecords",
    "LabeledFiles",
    "OnBadImage",
    "Pixels",
    "Ratios",
    "Records",
    "check_ratios",
    "counted",
    "crop_box",
    "find_images",
    "first_few",
    "fit_image",
    "load_image",
    "map_in_threads",
    "opened",
    "random_resized_crop",
    "read_bytes",
    "read_header",
    "read_image",
    "resize_center_crop",
    "split_of_content",
    "thumbnail",
    "to_rgb",
]
