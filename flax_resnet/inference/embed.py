"""Features of images: the input of the classifier layer, for search, clusters or other models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

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


def check_embeddings_path(path: str | Path) -> None:
    """Check that embeddings can be written to a file of this name.

    Raises:
        UserError: The ending is neither ``.npz`` nor ``.parquet``, or pyarrow is not installed.
    """
    ending = locate(path).suffix.lower()
    if ending not in (".npz", ".parquet"):
        raise UserError(f"{path} must end in .npz or .parquet.", exit_code=2)
    if ending == ".parquet":
        _import_pyarrow()


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
    check_embeddings_path(path)
    path = locate(path)
    names = [escape(name) for name in embeddings.names]
    with replacing(path) as fresh, fresh.open("wb") as file:
        if path.suffix.lower() == ".npz":
            np.savez(file, files=np.array(names), features=embeddings.features)
        else:
            _write_parquet(file, names, embeddings.features)


def _write_parquet(file: IO[bytes], names: list[str], rows: np.ndarray) -> None:
    pyarrow = _import_pyarrow()
    flat = pyarrow.array(rows.ravel())
    columns = {
        "file": names,
        "features": pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1]),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), file)


def _import_pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Writing .parquet needs pyarrow: pip install pyarrow, or write .npz."
        ) from error
    return pyarrow
