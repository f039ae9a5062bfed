"""The writers of shards; the same images give the same bytes."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flax_resnet.data.images.decoding import FORMATS, ImageDecodeError
from flax_resnet.data.images.pixels import read_header
from flax_resnet.data.images.shards.labels import CLASSES_FILE
from flax_resnet.errors import UserError
from flax_resnet.output_files import write_json

Labelled = tuple[bytes, int]
"""The bytes of an image file, and its label."""

_ROWS_PER_GROUP = 100  # as Hugging Face's ``datasets`` writes images


def write_shards(
    folder: Path,
    form: str,
    classes: Sequence[str],
    shards: Sequence[tuple[str, Callable[[], Iterable[tuple[bytes | np.ndarray, int]]]]],
    advance: Callable[[], None],
) -> dict[str, int]:
    """Write ``SPLIT-00000-of-00012.tar`` or ``.parquet`` files into a folder.

    Args:
        folder: An empty folder.
        form: ``"webdataset"`` or ``"parquet"``.
        classes: Class names in the order of the labels. Tar files have them in ``classes.json``.
        shards: The split of each shard, and a function that returns its images, encoded or uint8
            ``[H, W, C]``, which become PNG files, and labels.
        advance: Function that is called once for each image written.

    Returns:
        Number of images of each split.

    Raises:
        UserError: pyarrow is needed and not installed.
        OSError: The folder cannot be written.
    """
    totals = Counter(split for split, _ in shards)
    seen: Counter[str] = Counter()
    images: Counter[str] = Counter()
    extension, write = _WRITERS[form]
    for split, contents in shards:
        name = f"{split}-{seen[split]:05}-of-{totals[split]:05}{extension}"
        seen[split] += 1

        def counted(
            split: str = split,
            contents: Callable[[], Iterable[tuple[bytes | np.ndarray, int]]] = contents,
        ) -> Iterator[tuple[str, bytes, int]]:
            for content, label in contents():
                data = content if isinstance(content, bytes) else _png(content)
                yield f"{images[split]:08}{_extension(data)}", data, int(label)
                images[split] += 1
                advance()

        write(folder / name, counted(), classes)
        with open(folder / name, "r+b") as stored:  # Windows flushes only what is open for writing
            os.fsync(stored.fileno())
    if form == "webdataset":
        write_json(folder / CLASSES_FILE, list(classes), indent=None)
    return dict(images)


def _write_tar(
    path: Path, images: Iterable[tuple[str, bytes, int]], classes: Sequence[str]
) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content, label in images:
            stem = os.path.splitext(name)[0]
            for member, data in ((name, content), (f"{stem}.cls", str(label).encode())):
                info = tarfile.TarInfo(member)  # without a time or an owner
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def _write_parquet(
    path: Path, images: Iterable[tuple[str, bytes, int]], classes: Sequence[str]
) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            'Writing Parquet needs pyarrow: pip install "flax-resnet[parquet]".'
        ) from None
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
    }
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [("image", image), ("label", pyarrow.int64())],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    # Uncompressed, because encoded images do not shrink; so each has its bytes in one piece.
    with pyarrow.parquet.ParquetWriter(
        path, schema, compression="none", use_dictionary=False, write_statistics=False
    ) as writer:
        rows: list[tuple[str, bytes, int]] = []

        def flush() -> None:
            pairs = [{"bytes": content, "path": name} for name, content, _ in rows]
            columns = [pyarrow.array(pairs, image), pyarrow.array([one[2] for one in rows])]
            writer.write_table(pyarrow.table(columns, schema=schema))
            rows.clear()

        for row in images:
            rows.append(row)
            if len(rows) == _ROWS_PER_GROUP:
                flush()
        if rows:
            flush()


_WRITERS: dict[
    str,
    tuple[str, Callable[[Path, Iterable[tuple[str, bytes, int]], Sequence[str]], None]],
] = {"webdataset": (".tar", _write_tar), "parquet": (".parquet", _write_parquet)}


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def _extension(content: bytes) -> str:
    """Return the extension of an image file; a damaged one keeps its bytes and is called .jpg."""
    try:
        return FORMATS[read_header(content).format][0]
    except ImageDecodeError:
        return ".jpg"
