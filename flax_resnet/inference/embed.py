"""Features of images: the input of the classifier layer, for search, clusters or other models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from ..file_names import escape
from ..output_files import replacing
from ..storage import locate
from .inputs import Images
from .outputs import BATCH_SIZE, features_program, forward_images

if TYPE_CHECKING:
    from .classifier import Classifier


@dataclass(frozen=True)
class Embeddings:
    """Features of the images that could be read.

    Attributes:
        names: Paths, or numbers from 0 of images in memory.
        features: Float32 ``[N, C]``.
        failed: Path -> reason of each file that could not be read.
    """

    names: tuple[str, ...]
    features: np.ndarray
    failed: Mapping[str, str]


def embed(
    classifier: Classifier,
    images: Images,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] = lambda count: None,
) -> Embeddings:
    """Compute the pooled features of images, the input of the classifier layer.

    Args:
        classifier: The trained model.
        images: As in ``predict``.
        batch_size: As in ``predict``.
        progress: Called after each batch with its number of images.

    Raises:
        UserError: As in ``predict``.
    """
    batches = []
    program = features_program(classifier)
    for batch in forward_images(program, images, classifier.transform, batch_size):
        batches.append(batch)
        progress(len(batch.names))
    names = tuple(
        name
        for batch in batches
        for name, read in zip(batch.names, batch.read, strict=True)
        if read
    )
    values = [batch.outputs.astype(np.float32) for batch in batches]
    features = np.concatenate(values) if values else np.zeros((0, 0), np.float32)
    failed = {name: why for batch in batches for name, why in batch.failed.items()}
    return Embeddings(names, features, failed)


def write_embeddings(path: str | Path, embeddings: Embeddings) -> None:
    """Write embeddings to a file.

    Args:
        path: ``.npz`` (``files`` ``[N]``, ``features`` ``[N, C]``) or ``.parquet`` (columns
            ``file`` and ``features``, a list of C numbers). Names are those of
            ``file_names.escape``.
        embeddings: The features.

    Raises:
        UserError: Another ending, pyarrow is not installed, or the file cannot be written.
    """
    path = locate(path)
    if path.suffix.lower() not in (".npz", ".parquet"):
        raise UserError(f"{path} must end in .npz or .parquet.", exit_code=2)
    names = [escape(name) for name in embeddings.names]
    with replacing(path) as fresh:
        if path.suffix.lower() == ".npz":
            np.savez(fresh, files=np.array(names), features=embeddings.features)
        else:
            _write_parquet(fresh, names, embeddings.features)


def _write_parquet(path: Path, names: list[str], rows: np.ndarray) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Writing .parquet needs pyarrow: pip install pyarrow, or write .npz."
        ) from error
    flat = pyarrow.array(rows.ravel())
    columns = {
        "file": names,
        "features": pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1]),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
