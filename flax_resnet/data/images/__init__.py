"""Image files: found in folders, lists and shards, decoded, cropped and resized.

``find_images`` lists the files of a data set with their labels and splits, ``ImageFiles`` decodes
them in batches with several threads, and the functions of ``pixels`` turn one file into an array;
``load_image`` and ``fit_image`` do it as an ``EvalTransform`` describes.
"""

from .columns import split_columns
from .crops import UNIFORMS_PER_CROP, Box, crop_box
from .decoding import (
    EXTENSIONS,
    FORMATS,
    MAX_PIXELS,
    ImageDecodeError,
    ImageSource,
    open_image,
    read_bytes,
    to_rgb,
)
from .digests import (
    FileDigest,
    content_digest,
    content_fraction,
    digest_files,
    map_in_threads,
)
from .files import ImageFiles, LabeledFiles, OnBadImage
from .folder import find_images
from .listing import ListedFile, read_listed_files
from .matching import NUMBERS
from .members import Member
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
    Records,
    SplitRecords,
    check_ratios,
    first_few,
    pluralize,
)
from .shards import SHARD_FORMATS, left_out_note, shard_numbers
from .splits import SPLIT_ALIASES, SPLIT_RATIOS, SPLITS, SplitRatios, divide
from .tables import TABLE_EXTENSIONS
from .transform import fit_image, load_image
from .writing import draw_shortened, write_picture

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "MAX_PIXELS",
    "NUMBERS",
    "SHARD_FORMATS",
    "SPLITS",
    "SPLIT_ALIASES",
    "SPLIT_RATIOS",
    "TABLE_EXTENSIONS",
    "UNIFORMS_PER_CROP",
    "Box",
    "FileDigest",
    "ImageDecodeError",
    "ImageFiles",
    "ImageHeader",
    "ImageSource",
    "LabeledFiles",
    "ListedFile",
    "Member",
    "OnBadImage",
    "Pixels",
    "Records",
    "SplitRatios",
    "SplitRecords",
    "check_ratios",
    "content_digest",
    "content_fraction",
    "crop_box",
    "digest_files",
    "divide",
    "draw_shortened",
    "find_images",
    "first_few",
    "fit_image",
    "left_out_note",
    "load_image",
    "map_in_threads",
    "open_image",
    "pluralize",
    "random_resized_crop",
    "read_bytes",
    "read_header",
    "read_image",
    "read_listed_files",
    "resize_center_crop",
    "shard_numbers",
    "split_columns",
    "thumbnail",
    "to_rgb",
    "write_picture",
]
