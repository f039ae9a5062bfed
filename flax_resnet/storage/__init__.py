"""Object storage: addresses such as ``s3://bucket/run`` or ``gs://bucket/run``, as paths.

``locate`` turns what a person writes into a path. That of an address is a ``UPath`` of the package
universal_pathlib, which has pathlib's methods (``open``, ``iterdir``, ``stat``) over fsspec. Unlike
``epath.Path`` it is no ``os.PathLike``: code that is written for local files raises a TypeError
with it, and never makes a folder called ``s3:``.

An object store has neither appending nor renaming, and its folders are beginnings of names. An
object appears whole or not at all. So files that grow are written again, what is read by libraries
for local files is copied into the cache first (``mirror``), and a folder is complete when its last
file is there.

``addresses`` makes paths, ``refusals`` explains errors, ``objects`` reads and writes, ``copies``
keeps local copies; each imports only those before it.
"""

from .addresses import bucket_and_key, is_remote, kvstore, locate
from .copies import edited, local_copy, local_data, mirror
from .objects import (
    delete,
    folders_in,
    list_files,
    move_folder,
    read_bytes,
    upload,
    write_bytes,
)
from .refusals import explained, reason_of

__all__ = [
    "bucket_and_key",
    "delete",
    "edited",
    "explained",
    "folders_in",
    "is_remote",
    "kvstore",
    "list_files",
    "local_copy",
    "local_data",
    "locate",
    "mirror",
    "move_folder",
    "read_bytes",
    "reason_of",
    "upload",
    "write_bytes",
]
