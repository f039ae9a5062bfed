"""Tar files and Parquet files as other programs write them, made member by member."""

import io
import json
import tarfile

import numpy as np
from PIL import Image


def picture(number, form="PNG"):
    """The bytes of an image of 12x10 pixels that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (10, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def tar(path, members, form=tarfile.PAX_FORMAT):
    """Write pairs of a name and its content, text or bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(labels, start=0, extension="png"):
    """Members of samples with a ``cls`` each."""
    for number, label in enumerate(labels, start):
        yield f"{number:04}.{extension}", picture(number)
        yield f"{number:04}.cls", str(label)


def parquet(path, labels, *, names=None, start=0, image="image", label="label", **options):
    """Write images as Hugging Face's ``datasets`` does: a struct of bytes and path, and a label."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = pa.array(
        [{"bytes": picture(start + n), "path": f"{n}.png"} for n in range(len(labels))],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({image: images, label: labels})
    if names is not None:
        features = {
            image: {"_type": "Image"},
            label: {"names": names, "_type": "ClassLabel"},
        }
        stored = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": stored})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path
