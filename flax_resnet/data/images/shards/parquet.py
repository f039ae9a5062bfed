"""The images in a Parquet file: a column of their bytes, as Hugging Face's ``datasets`` writes it.

An image in an uncompressed column chunk has its bytes in one piece of the file, which the index
finds by comparing them; those of compressed chunks are read by whole row groups.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from flax_resnet.data.images.columns import LABEL_NAMES, column_key
from flax_resnet.data.images.shards.index import Scan, Scanner
from flax_resnet.errors import UserError, first_line

SPLIT = "split"
_IMAGES = frozenset(
    ["image", "images", "img", "imagebytes", "bytes", "jpg", "jpeg", "png", "picture", "photo"]
)
_ADVICE = "name those of the image and the label, as in --data.columns image,label"


def scan_parquet(path: str, file: BinaryIO, wanted: tuple[str, ...]) -> Scan:
    """Find the images of a Parquet file and what may be their labels.

    Args:
        path: The shard, for messages.
        file: Its content.
        wanted: Names of the columns of images and labels; empty if they are recognized.

    Raises:
        UserError: It is no Parquet file or is cut off, or its columns are not clear.
    """
    table = _open(path, file)
    schema = table.schema_arrow
    features = _features(path, schema)
    column = _image_column(path, schema, features, wanted)
    names = _label_columns(path, schema, features, wanted)
    leaf = column if _is_binary(schema.field(column).type) else f"{column}.bytes"
    scanner = Scanner()
    starts = [0]
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        try:
            _scan_group(table, file, group, starts[-1], column, leaf, names, scanner)
        # pyarrow raises OSError and its own errors, which are ValueErrors, for damaged pages.
        except (OSError, ValueError, MemoryError) as error:
            last = starts[-1] + rows - 1
            scanner.leave_out(
                f"{starts[-1]}-{last}", f"are rows of a damaged row group ({first_line(error)})"
            )
        starts.append(starts[-1] + rows)
    declared = {name: feature for name in names if (feature := features.get(name, {}).get("names"))}
    return scanner.result(class_names=declared, starts=starts, column=column)


def read_row_group(path: str, group: int, column: str) -> Any:
    """Return the images of a row group as a chunked Arrow array of their bytes.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        try:
            return _bytes_of(_open(path, file).read_row_group(group, [column]).column(0))[0]
        except ValueError as error:
            raise OSError(first_line(error)) from error


def _open(path: str, file: BinaryIO) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f'{path}: reading Parquet needs pyarrow: pip install "flax-resnet[parquet]".'
        ) from None
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (OSError, ValueError) as error:
        size = file.seek(0, 2)
        reason = "it is empty" if not size else first_line(error)
        raise UserError(
            f"{path} is cut off or no Parquet file ({reason}): copy it again, or remove it"
        ) from error


def _scan_group(
    table: Any,
    file: BinaryIO,
    group: int,
    start: int,
    column: str,
    leaf: str,
    names: Sequence[str],
    scanner: Scanner,
) -> None:
    """Add the images of a row group."""
    content = table.read_row_group(group, [column, *names])
    images, paths = _bytes_of(content.column(column))
    fields = {name: content.column(name).to_pylist() for name in names}
    chunk = _Chunk(table, file, group, leaf)
    for row, value in enumerate(images):
        image = value.as_py()
        name = str(start + row)
        given = paths[row] if paths else None
        if given:
            name += "/" + posixpath.basename(given.replace("\\", "/"))
        if not image:
            why = "has no bytes" if image is not None else "is null"
            scanner.leave_out(name, f"{why}{f', only the path {given}' if given else ''}")
            continue
        offset = chunk.find(image)
        place = -1 - (start + row) if offset is None else offset
        scanner.add(name, place, image, {key: values[row] for key, values in fields.items()})


class _Chunk:
    """The bytes of a column in a row group, in which values are found."""

    def __init__(self, table: Any, file: BinaryIO, group: int, leaf: str) -> None:
        facts = table.metadata.row_group(group)
        columns = (facts.column(number) for number in range(facts.num_columns))
        column = next(one for one in columns if one.path_in_schema == leaf)
        self._content: bytes | None = None
        self._next = 0
        if column.compression == "UNCOMPRESSED":
            starts = (column.dictionary_page_offset, column.data_page_offset)
            self._start = min(start for start in starts if start)
            file.seek(self._start)
            self._content = file.read(column.total_compressed_size)

    def find(self, value: bytes) -> int | None:
        """Return where a value begins in the file; None if it is stored otherwise."""
        if self._content is None:
            return None
        stored = len(value).to_bytes(4, "little") + value
        at = self._content.find(stored, self._next)
        if at < 0:  # a value that occurs twice is stored once in the pages of a dictionary
            at = self._content.find(stored)
        if at < 0:
            return None
        self._next = at + len(stored)
        return self._start + at + 4


def _bytes_of(column: Any) -> tuple[Any, list[str | None]]:
    """Return the bytes of a column of images, a chunked Arrow array, and their paths if there are
    some."""
    if _is_binary(column.type):
        return column, []
    fields = [column.type.field(number).name for number in range(column.type.num_fields)]
    # ``flatten`` hands on that a struct is null, which ``field`` does not.
    values = dict(zip(fields, column.flatten(), strict=True))
    return values["bytes"], values["path"].to_pylist() if "path" in values else []


def _features(path: str, schema: Any) -> Mapping[str, Any]:
    """Return the features that ``datasets`` has described in a file's metadata, by column."""
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return {}
    try:
        features = json.loads(stored)["info"]["features"]
        return {name: one for name, one in features.items() if isinstance(one, dict)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} has damaged metadata of Hugging Face ({first_line(error)}): copy it again"
        ) from error


def _image_column(
    path: str, schema: Any, features: Mapping[str, Any], wanted: tuple[str, ...]
) -> str:
    for name in wanted:
        if name not in schema.names:
            raise UserError(
                f"{path} has no column {name!r}, only {', '.join(schema.names)}", exit_code=2
            )
    declared = [name for name, one in features.items() if one.get("_type") == "Image"]
    structs = [name for name in schema.names if _is_image_struct(schema.field(name).type)]
    plain = [
        name
        for name in schema.names
        if _is_binary(schema.field(name).type) and column_key(name) in _IMAGES
    ]
    found = list(wanted[:1]) or declared or structs or plain
    if len(found) > 1:
        raise UserError(f"{path}: the images could be in {' or '.join(found)}; {_ADVICE}")
    if not found:
        raise UserError(
            f"{path} has no column of images, which is a struct of bytes and path, or binary; its "
            f"columns are {_listed(schema)}"
        )
    kind = schema.field(found[0]).type
    if not (_is_image_struct(kind) or _is_binary(kind)):
        raise UserError(
            f"{path}: the column {found[0]} is of the type {kind}; images are a struct of bytes "
            "and path, or binary"
        )
    return found[0]


def _label_columns(
    path: str, schema: Any, features: Mapping[str, Any], wanted: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the columns that may hold labels and splits."""
    scalar = [name for name in schema.names if _is_scalar(schema.field(name).type)]
    splits = [name for name in scalar if name.lower() == SPLIT and name not in wanted]
    if len(wanted) > 1:
        return (*wanted[1:], *splits)
    declared = [name for name in scalar if features.get(name, {}).get("_type") == "ClassLabel"]
    labels = declared or [name for name in scalar if column_key(name) in LABEL_NAMES]
    if not labels:
        raise UserError(
            f"{path} has no column of labels, which are text or whole numbers; its columns are "
            f"{_listed(schema)}; {_ADVICE}"
        )
    return (*labels, *splits)


def _listed(schema: Any) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)[:200]


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_image_struct(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_struct(kind) and any(
        kind.field(number).name == "bytes" and _is_binary(kind.field(number).type)
        for number in range(kind.num_fields)
    )


def _is_scalar(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)
