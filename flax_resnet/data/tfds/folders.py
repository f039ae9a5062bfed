"""The folders of prepared TFDS sets, and which of them can be read without TensorFlow.

TFDS stores a set in ``<data_dir>/<name>[/<config>]/<version>/``, with a description in JSON. This
module does not import TFDS, which would take a second.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from flax_resnet.data.published import PUBLISHED, TFDS_CATALOG
from flax_resnet.errors import UserError
from flax_resnet.paths import scheme_of
from flax_resnet.storage import local_data
from flax_resnet.text_files import parse_json

FORMAT = "array_record"

_NAME = re.compile(r"(?P<set>\w+)(?:/(?P<config>[\w.+-]+))?(?::(?P<version>[\d.]+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def default_folder() -> str:
    """Return TFDS's default folder of all prepared sets: that of TFDS_DATA_DIR, or in the home.

    An address in that variable is not followed, because all sets of its bucket would be copied:
    ``--data.dir`` can name the folder of one run's sets.
    """
    named = os.environ.get("TFDS_DATA_DIR")
    return named if named and not scheme_of(named) else "~/tensorflow_datasets"


def tfds_root(data_dir: str | os.PathLike[str] | None) -> Path:
    """Return the folder of all prepared sets; None gives TFDS's default."""
    return local_data(default_folder() if data_dir is None else data_dir)


def labels_file(folder: Path, split: str, label: str) -> Path:
    """Return the path at which ``flax-resnet prepare`` stores a copy of a split's labels."""
    return folder / f"{split}.{label}.npy"


def check_array_record() -> None:
    """Raise a UserError where the package that reads and writes these sets is not installed."""
    if importlib.util.find_spec("array_record") is None:
        raise UserError(
            "Prepared data sets need the package array-record, which is not installed and has no "
            "build for Windows: use Linux, macOS or WSL, or a folder of images, --data.name folder."
        )


def find_prepared(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Find the newest version of a prepared set that can be read.

    Args:
        name, data_dir: As for ``open_prepared``.

    Returns:
        Its folder, ``<data_dir>/<name>/<version>``, or None.
    """
    return next((path for path in _versions(name, tfds_root(data_dir)) if is_readable(path)), None)


def is_readable(folder: Path) -> bool:
    """Return whether a folder is a prepared set in ArrayRecord format, by its description."""
    return FORMAT in _formats(folder)


def advice(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    """Return the message about a set that cannot be read: the reason, and what to do."""
    if not _NAME.fullmatch(name):
        return f"{name!r} is not the name of a data set: give a name of TFDS, such as cifar10"
    root = tfds_root(data_dir)
    other = [path for path in _versions(name, root) if _formats(path)]
    problem = (
        f"the data set in {other[0]} has the format {_formats(other[0])[0]}, "
        f"which only TensorFlow reads"
        if other
        else f"the data set {name} is not prepared in {root}"
    )
    if name in TFDS_CATALOG:
        options = "" if name in PUBLISHED or name.startswith("voc") else " --from FOLDER"
        options += "" if data_dir is None else f" --data.dir {root}"
        moved = "move it away and " if other else ""
        return f"{problem}: {moved}run `flax-resnet prepare {name}{options}`"
    return (
        f'{problem}: where TensorFlow is installed, run `python -c "import tensorflow_datasets '
        f"as tfds; tfds.builder('{name}', data_dir='{root}', file_format='{FORMAT}')"
        f'.download_and_prepare()"`'
    )


def _versions(name: str, root: Path) -> list[Path]:
    """Return the folders of a set's versions, newest first."""
    match = _NAME.fullmatch(name)
    if match is None:
        return []
    versions = root / match["set"] / (match["config"] or "")
    try:
        found = [path for path in versions.iterdir() if _VERSION.fullmatch(path.name)]
    except OSError:
        return []
    if match["version"]:
        found = [path for path in found if path.name == match["version"]]
    return sorted(found, key=lambda path: [int(n) for n in path.name.split(".")], reverse=True)


def _formats(folder: Path) -> list[str]:
    """Return the file formats of a prepared set; an empty list if the folder is no prepared set."""
    try:
        info = parse_json((folder / "dataset_info.json").read_bytes())
        formats = [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]
    except (OSError, ValueError, AttributeError, TypeError):
        return []
    return formats if (folder / "features.json").exists() else []
