"""The table of data sets and the one way to load them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flax_resnet.data import formats
from flax_resnet.data.formats import CifarLayout, FormatError
from flax_resnet.data.framing import Framing
from flax_resnet.data.pipeline import Source
from flax_resnet.data.published import PUBLISHED
from flax_resnet.data.stratified import stratified
from flax_resnet.data.tfds.folder import find_prepared
from flax_resnet.data.tfds.prepared import open_prepared
from flax_resnet.download import PublishedFile, fetch
from flax_resnet.errors import UserError

DEFAULT_FOLDER = "~/tensorflow_datasets/downloads"
_OTHERWISE = "use --config digits, which needs no download"
_ANEW = "delete it and prepare it again"


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 [N, H, W, C] and their labels int32 [N].

    Raises:
        ValueError: the two do not belong together by shape or type.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        for what, array, dtype, rank in (
            ("images", self.images, np.uint8, 4),
            ("labels", self.labels, np.int32, 1),
        ):
            if array.dtype != dtype or array.ndim != rank:
                raise ValueError(f"{what} of type {array.dtype} and shape {list(array.shape)}")
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def streams(self) -> bool:
        """False: the images are in memory."""
        return False

    @property
    def bad(self) -> dict[str, str]:
        """Empty: what cannot be read is refused when the set is loaded."""
        return {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def gather(
        self,
        indices: npt.ArrayLike,
        draws: npt.NDArray[np.float64] | None = None,
        size: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Copy out a batch.

        Args:
            indices: integers [B], each a position in the split.
            draws, size: not used; sources that stream crop by them.

        Returns:
            "image": uint8 [B, H, W, C], "label": int32 [B].

        Raises:
            IndexError: an index outside the split.
        """
        # dtype by hand only for the empty list, which numpy takes for float64.
        index = np.asarray(indices) if np.size(indices) else np.zeros(0, np.intp)
        return {"image": self.images[index], "label": self.labels[index]}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set; `classes[label]` is the name of a label.

    Attributes:
        notes: what a user should know about what was found, each a sentence.
        multi_label: an image may have any number of classes; labels are float32 [N, classes].
    """

    name: str
    classes: tuple[str, ...]
    train: Source
    validation: Source
    test: Source
    notes: tuple[str, ...] = ()
    multi_label: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image of a batch."""
        return self.train.image_shape

    @property
    def framing(self) -> Framing:
        """How a photo becomes one of these images, as evaluation sees them."""
        return getattr(self.test, "framing", None) or Framing.like(self.image_shape)

    @property
    def bad(self) -> dict[str, str]:
        """Path -> reason of the files found so far that cannot be decoded, and are left out."""
        parts = (self.train, self.validation, self.test)
        return {path: why for part in parts for path, why in part.bad.items()}


_Parts = tuple[Split, Split, tuple[str, ...]]  # train with validation, test, classes


@dataclass(frozen=True)
class _Entry:
    """How one data set is stored and read.

    Attributes:
        read: from the path of each file, by published name, to the parts.
        files: published file -> name of its extracted form.
        own_folder_only: in the default place, look in `<name>/` alone, because
            another data set publishes files of the same names.
    """

    read: Callable[[Mapping[str, Path]], _Parts]
    files: Mapping[PublishedFile, str]
    own_folder_only: bool = False


def dataset_names() -> list[str]:
    """Return the names that `load_dataset` accepts."""
    return list(_TABLE)


def load_dataset(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    validation: float = 0.1,
    download: bool = True,
) -> Dataset:
    """Load a data set into memory, downloading it first if it is not there.

    A set that TFDS or `flax-resnet prepare` has prepared will do where the original files are
    absent. TFDS's own order of the images differs, and so does the validation split then.

    Args:
        name: one of `dataset_names()`.
        data_dir: folder to look in, as `data_dir/<name>/` and then `data_dir/`;
            by default `~/tensorflow_datasets/downloads`. A prepared set is looked for in
            `data_dir`, by default in `~/tensorflow_datasets`.
        validation: fraction of the training images held out for validation by
            a fixed stratified split, in [0, 1); 0 gives an empty split.
        download: whether absent files may be downloaded, into `<name>/`.

    Raises:
        UserError: an unknown name, a fraction that cannot be met, files absent
            and not to be had, or files that are damaged.
    """
    entry = _TABLE.get(name)
    if entry is None:
        raise UserError(f"unknown data set {name!r}: choose one of {', '.join(_TABLE)}")
    if not 0 <= validation < 1:  # also refuses NaN
        raise UserError(f"validation is {validation}: it must be at least 0 and less than 1")
    full_train, test, classes = _read(name, entry, data_dir, download)
    held_out = round(validation * len(full_train))
    if validation > 0 and held_out == 0:
        raise UserError(
            f"validation is {validation}: too small a part of the {len(full_train)} training "
            f"images of {name} to hold one; use 0 or a larger fraction"
        )
    try:
        train, carved = _stratified(full_train, held_out)
    except ValueError as error:
        raise UserError(
            f"validation is {validation}: the {len(full_train)} training images of {name} cannot "
            f"be split so with every class on both sides ({error}); use another fraction or 0"
        ) from error
    return Dataset(name, classes, train, carved, test)


def _read(
    name: str, entry: _Entry, data_dir: str | os.PathLike[str] | None, download: bool
) -> _Parts:
    """Read the original files or, without them, the prepared set or what can be downloaded.

    All files come from one folder: taken one by one, the labels of one set
    could meet the images of another that has the same file names.
    """
    base = Path(DEFAULT_FOLDER if data_dir is None else data_dir).expanduser()
    home = base / name
    folders = [home] if data_dir is None and entry.own_folder_only else [home, base]
    found = (_present(entry, folder) for folder in folders)
    paths = next((paths for paths in found if len(paths) == len(entry.files)), None)
    if paths is None and find_prepared(name, data_dir):
        return _read_prepared(name, data_dir)
    if paths is None:
        paths = _obtain(name, entry, home, folders, download)
    try:
        return entry.read(paths)
    except FormatError as error:
        raise UserError(_advice(error, entry, paths)) from error


def _obtain(
    name: str, entry: _Entry, home: Path, folders: list[Path], download: bool
) -> dict[str, Path]:
    """Return the path of each file of the entry, by published name, after the download."""
    paths = _present(entry, home)
    absent = [file for file in entry.files if file.name not in paths]
    if not download:
        wanted = "; ".join(f"{file.url} ({file.describe()})" for file in absent)
        raise UserError(
            f"{', '.join(file.name for file in absent)} of {name} not found in "
            f"{' or '.join(map(str, folders))} and downloading is off: put into {home} what is at "
            f"{wanted}, or {_OTHERWISE}"
        )
    for file in absent:
        paths[file.name] = home / file.name
        fetch(file, paths[file.name], _OTHERWISE)
    return paths


def _present(entry: _Entry, folder: Path) -> dict[str, Path]:
    return {
        file.name: path
        for file, extracted in entry.files.items()
        # Reversed, so that the published form wins: its gzip CRC is checked.
        for path in (folder / extracted, folder / file.name)
        # os.path: unlike Path.exists, False where a folder may not be entered.
        if os.path.exists(path)
    }


def _advice(error: FormatError, entry: _Entry, paths: Mapping[str, Path]) -> str:
    """Say what is wrong with which file, what it should be, and what to do."""
    concerned = [file for file in entry.files if paths[file.name] in error.paths]
    published = "; ".join(f"{file.name}: {file.describe()}, from {file.url}" for file in concerned)
    return (
        f"{' and '.join(map(str, error.paths))}: {error.reason}; "
        f"delete {'it' if len(error.paths) == 1 else 'them'} and run again, "
        f"or download by hand what was published ({published})"
    )


def _stratified(whole: Split, held_out: int) -> tuple[Split, Split]:
    """Split off `held_out` images, see `stratified.stratified`."""
    kept, carved = stratified(whole.labels, held_out)
    return (
        Split(whole.images[kept], whole.labels[kept]),
        Split(whole.images[carved], whole.labels[carved]),
    )


def _read_prepared(name: str, data_dir: str | os.PathLike[str] | None) -> _Parts:
    prepared = open_prepared(name, data_dir)
    splits = []
    for part in ("train", "test"):
        if part not in prepared.splits:
            raise UserError(f"the data set in {prepared.folder} has no split {part!r}: {_ANEW}")
        batch = prepared.splits[part].gather(np.arange(len(prepared.splits[part])))
        if (batch["label"] < 0).any():
            raise UserError(
                f"the data set in {prepared.folder} has images without a label in {part}: {_ANEW}"
            )
        try:
            splits.append(Split(batch["image"], batch["label"]))
        except ValueError as error:
            raise UserError(f"the data set in {prepared.folder} has {error}: {_ANEW}") from error
    return splits[0], splits[1], prepared.classes


def _read_digits(paths: Mapping[str, Path]) -> _Parts:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    whole = Split(grey[..., np.newaxis], bunch.target.astype(np.int32))
    train, test = _stratified(whole, _DIGITS_TEST)
    return train, test, DIGIT_CLASSES


def _read_mnist(classes: tuple[str, ...], paths: Mapping[str, Path]) -> _Parts:
    train, test = (
        Split(
            *formats.read_idx_pair(
                paths[f"{part}-images-idx3-ubyte.gz"],
                paths[f"{part}-labels-idx1-ubyte.gz"],
                (28, 28),
                len(classes),
            )
        )
        for part in ("train", "t10k")
    )
    return train, test, classes


def _read_cifar(layout: CifarLayout, paths: Mapping[str, Path]) -> _Parts:
    (archive,) = paths.values()
    train, test, classes = formats.read_cifar(archive, layout)
    return Split(*train), Split(*test), classes


_DIGITS_TEST = 360  # 20% of 1,797
DIGIT_CLASSES = tuple("0123456789")
CLOTHING_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_TABLE: dict[str, _Entry] = {
    "digits": _Entry(read=_read_digits, files={}),
    "mnist": _Entry(
        read=partial(_read_mnist, DIGIT_CLASSES),
        files={file: file.name.removesuffix(".gz") for file in PUBLISHED["mnist"]},
        own_folder_only=True,
    ),
    "fashion_mnist": _Entry(
        read=partial(_read_mnist, CLOTHING_CLASSES),
        files={file: file.name.removesuffix(".gz") for file in PUBLISHED["fashion_mnist"]},
        own_folder_only=True,
    ),
    "cifar10": _Entry(
        read=partial(_read_cifar, formats.CIFAR10),
        files=dict.fromkeys(PUBLISHED["cifar10"], formats.CIFAR10.folder),
    ),
    "cifar100": _Entry(
        read=partial(_read_cifar, formats.CIFAR100),
        files=dict.fromkeys(PUBLISHED["cifar100"], formats.CIFAR100.folder),
    ),
}
