"""Where TFDS keeps its prepared data sets, and which of them can be read without TensorFlow.

It keeps one in `<data_dir>/<name>[/<config>]/<version>/`, with its description in JSON. Nothing
here imports TFDS, which takes a second.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from flax_resnet.data.published import CATALOGUE, PUBLISHED

DEFAULT_FOLDER = "~/tensorflow_datasets"
FORMAT = "array_record"

_NAME = re.compile(r"(?P<set>\w+)(?:/(?P<config>[\w.+-]+))?(?::(?P<version>[\d.]+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def tfds_root(data_dir: str | os.PathLike[str] | None) -> Path:
    """Return the folder of all prepared sets; for None, TFDS's own."""
    return Path(DEFAULT_FOLDER if data_dir is None else data_dir).expanduser()


def labels_file(folder: Path, split: str, label: str) -> Path:
    """Return where `flax-resnet prepare` keeps the labels of a split once more, by themselves."""
    return folder / f"{split}.{label}.npy"


def find_prepared(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Find the newest version of a prepared set that can be read; the arguments are as for
    `prepared.open_prepared`.

    Returns:
        Its folder, `<data_dir>/<name>/<version>`, or None.
    """
    return next((path for path in _versions(name, tfds_root(data_dir)) if is_readable(path)), None)


def is_readable(folder: Path) -> bool:
    """Whether a folder is a prepared set in the format ArrayRecord, by its description."""
    return FORMAT in _formats(folder)


def advice(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    """Say what to do about a set that is not there to be read."""
    if not _NAME.fullmatch(name):
        return f"{name!r} is no name of a data set: give one as TFDS has it, such as cifar10"
    root = tfds_root(data_dir)
    other = [path for path in _versions(name, root) if _formats(path)]
    problem = (
        f"the data set in {other[0]} has the format {_formats(other[0])[0]}, "
        f"which only TensorFlow reads"
        if other
        else f"the data set {name} is not prepared in {root}"
    )
    if name in CATALOGUE:
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
    """Return the folders of a set's versions, the newest first."""
    match = _NAME.fullmatch(name)
    if match is None:
        return []
    home = root / match["set"] / (match["config"] or "")
    try:
        found = [path for path in home.iterdir() if _VERSION.fullmatch(path.name)]
    except OSError:
        return []
    if match["version"]:
        found = [path for path in found if path.name == match["version"]]
    return sorted(found, key=lambda path: [int(n) for n in path.name.split(".")], reverse=True)


def _formats(folder: Path) -> list[str]:
    """Return the formats that a prepared set is there in; none if it is no prepared set."""
    try:
        info = json.loads((folder / "dataset_info.json").read_bytes())
        formats = [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]
    except (OSError, ValueError, AttributeError, TypeError):
        return []
    return formats if (folder / "features.json").exists() else []
