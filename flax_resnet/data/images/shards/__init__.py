"""Images in shards: tar files (WebDataset) and Parquet files, read by an index of byte offsets.

``find_shards`` lists their images with labels and splits, as ``find_images`` does for a folder.
"""

from .reading import (
    SHARD_FORMATS,
    find_shards,
    left_out_note,
    shard_format,
    shard_numbers,
)

__all__ = ["SHARD_FORMATS", "find_shards", "left_out_note", "shard_format", "shard_numbers"]
