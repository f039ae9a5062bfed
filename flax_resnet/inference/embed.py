"""Features of images: the vector before the classifier, for search, clusters or other models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from .outputs import BATCH_SIZE, Images, features_of, outputs
from .run_folder import LoadedRun


@dataclass(frozen=True)
class Embeddings:
    """Features of the images that could be read.

    Attributes:
      names: paths, or numbers from 0 of images in memory.
      features: float32 ``[N, C]``.
      failed: path -> why it could not be read.
    """

    names: tuple[str, ...]
    features: np.ndarray
    failed: Mapping[str, str]


def embed(
    run: LoadedRun,
    images: Images,
    *,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] = lambda count: None,
) -> Embeddings:
    """The pooled features of images, the input of the classifier; see :func:`predict`.

    ``progress`` is called with the number of images of each batch that is done.

    Raises:
      UserError: images in memory that are none.
    """
    parts = []
    for part in outputs(features_of(run), images, run.framing, batch_size=batch_size):
        parts.append(part)
        progress(len(part.names))
    names = tuple(
        name for part in parts for name, read in zip(part.names, part.read, strict=True) if read
    )
    values = [part.values.astype(np.float32) for part in parts]
    features = np.concatenate(values) if values else np.zeros((0, 0), np.float32)
    return Embeddings(names, features, {k: v for part in parts for k, v in part.failed.items()})


def write_embeddings(path: str | Path, embeddings: Embeddings) -> None:
    """Write ``.npz`` (``files`` ``[N]``, ``features`` ``[N, C]``) or ``.parquet`` (columns ``file``
    and ``features``, a list of C numbers).

    Raises:
      UserError: another ending, pyarrow is not installed, or the file cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".npz", ".parquet"):
        raise UserError(f"{path} must end in .npz or .parquet.", exit_code=2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".npz":
            np.savez(path, files=np.array(embeddings.names), features=embeddings.features)
        else:
            _write_parquet(path, embeddings)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): name another place.") from error


def _write_parquet(path: Path, embeddings: Embeddings) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Writing .parquet needs pyarrow: pip install pyarrow, or write .npz."
        ) from error
    flat = pyarrow.array(embeddings.features.ravel())
    width = embeddings.features.shape[1]
    features = pyarrow.FixedSizeListArray.from_arrays(flat, width)
    columns = {"file": list(embeddings.names), "features": features}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
