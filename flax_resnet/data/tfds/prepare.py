"""``flax-resnet prepare``: turns the original files of a data set into a folder that TFDS reads."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flax_resnet.data import formats
from flax_resnet.data.images import SHARD_FORMATS
from flax_resnet.data.images.shards import shard_format
from flax_resnet.data.images.shards.writing import write_shards
from flax_resnet.data.published import PUBLISHED, TFDS_CATALOG
from flax_resnet.data.tfds import cifar_mnist, flowers, imagenet, voc
from flax_resnet.data.tfds.archives import folder_files, reading
from flax_resnet.data.tfds.contents import DatasetContents, ShardContents
from flax_resnet.data.tfds.folders import check_array_record, default_folder, is_readable
from flax_resnet.data.tfds.images import read_images
from flax_resnet.data.tfds.origin import Origin, read_origin, write_origin
from flax_resnet.download import PublishedFile, fetch, is_published
from flax_resnet.errors import UserError
from flax_resnet.paths import expand
from flax_resnet.process_lock import one_process

TFDS = "tfds"
TARGETS = (TFDS, *SHARD_FORMATS)
_FIRST_VERSION = "1.0.0"
# What --data.name reads without a prepared set; a folder of photos may be called so all the same.
_OTHER_NAMES = ("digits", "folder", *SHARD_FORMATS)
_PLAIN_SECONDS = 10.0  # between lines of progress if there is no terminal


@dataclass(frozen=True)
class _Recipe:
    """How a set is prepared.

    Attributes:
        read: Function from the original files, and an empty folder for unpacking, to the contents.
            A single original file is passed as its path, several as the path of their folder.
        originals: Name of the original files, and their key in PUBLISHED if they are public.
        wanted: Description of the original files, to follow "give" in a message.
    """

    read: Callable[[Path, Path], DatasetContents]
    originals: str
    wanted: str

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        return PUBLISHED.get(self.originals, ())


def prepare(
    name: str,
    source: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    console: Console | None = None,
    *,
    to: str = TFDS,
    shuffle: int | None = None,
) -> Path:
    """Prepare a data set for TFDS, without TensorFlow, or as shards; unless it is prepared already.

    The original files are looked for in ``<data_dir>/downloads/<name>/``, ``<data_dir>/downloads/``
    and ``<data_dir>/<name>/``, and are downloaded into the first folder if they are absent. Images
    keep the order of the originals, and photos keep their bytes. The set gets its name when it is
    complete; until then it is in ``<data_dir>/<name>/incomplete.<version>/``, where the next call
    resumes after an interruption; shards begin anew. If several processes prepare the same set, one
    of them does the work and the others wait for it.

    Args:
        name: One of ``preparable_names()``; or the path of a folder of images, a list or shards,
            whose images are written in their order and divided into the splits that a run would
            train on.
        source: The original file, its folder, or the folder extracted from it. If its contents
            differ from the published ones, a note describes them.
        data_dir: TFDS's folder of data sets; by default that of ``folders.default_folder``.
        console: Console for progress and notes; by default standard error.
        to: ``"tfds"``, ``"webdataset"`` or ``"parquet"``.
        shuffle: Seed of a random order of the images of each split of a folder, list or shards.

    Returns:
        The folder ``<data_dir>/<name>/<version>``, or ``<data_dir>/<name>`` of shards. The name of
        a set of images is that of its folder.

    Raises:
        UserError: The name is unknown; files are absent and cannot be downloaded, or are damaged,
            hostile or those of another set; the set's folder holds one that was prepared from
            something else; the name of a folder of images is no name of a set; or a folder cannot
            be written, or the disk is full.
    """
    console = console or Console(stderr=True, highlight=False, soft_wrap=True)
    if to == TFDS:
        check_array_record()
    recipe = _RECIPES.get(name)
    path = None if source is None else expand(source)
    if recipe is None:
        path = expand(name)
        if source is not None or not (os.path.isdir(path) or os.path.isfile(path)):
            raise UserError(
                f"cannot prepare {name!r}: choose one of {', '.join(_RECIPES)}, or a folder of "
                "images, a list or shards"
            )
        read = partial(read_images, shuffle=shuffle, photos_only=to == TFDS)
        name = re.sub(r"\W+", "_", path.resolve().stem if path.is_file() else path.resolve().name)
        if to == TFDS:
            _check_name(name, path)
        recipe = _Recipe(read, "", "a folder of images, a list or shards")
    elif shuffle is not None:
        raise UserError(
            f"--shuffle is for a folder of images, a list or shards, and not for {name}: leave it "
            "out",
            exit_code=2,
        )
    root = expand(default_folder() if data_dir is None else data_dir)
    catalogued = TFDS_CATALOG.get(name) if recipe.originals else None
    version = catalogued.version if catalogued else _FIRST_VERSION
    folder = root / name / version if to == TFDS else root / name
    if not _is_prepared(folder, to):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            note = f"another process is preparing {name}; this one waits."
            with one_process(folder.parent / ".prepare.lock", note):
                # Another process may have prepared the set in the meantime.
                if not _is_prepared(folder, to):
                    published = catalogued.images if catalogued else {}
                    _prepare(name, recipe, published, path, root, folder, to, console)
                    return folder
        except OSError as error:
            raise UserError(
                f"{error.filename or folder.parent} cannot be written "
                f"({error.strerror or error}): free some space or choose another folder with "
                "--data.dir, and run the command again, which resumes where it stopped"
            ) from error
    again = "" if source is None else f"; to prepare it from {source}, delete that folder first"
    before, now = read_origin(folder), None
    if not recipe.originals and path is not None:
        if before is None:
            again = (
                f"; it is not known whether from {path}: if not, move that folder away and run the "
                "command again"
            )
        else:
            now = read_images(path, folder, shuffle=shuffle).origin
    _check_origin(folder, name, before, now)
    console.print(f"{name} is prepared already, in {folder}{again}", markup=False)
    return folder


def preparable_names() -> list[str]:
    """Return the names that ``prepare`` accepts."""
    return list(_RECIPES)


def _check_name(name: str, path: Path) -> None:
    """Check the name that a folder or a list gives to a set in TFDS's format.

    Raises:
        UserError: TFDS would not find its files, or the name is that of another set.
    """
    if not re.match("[a-zA-Z]", name):
        problem = "TFDS needs a name that begins with a letter from a to z"
    elif name in _RECIPES or name in _OTHER_NAMES:
        problem = f"--data.name {name} means another set"
    else:
        return
    raise UserError(
        f"{path} cannot be prepared under its name, {name}, because {problem}: rename the "
        f"{'file' if path.is_file() else 'folder'}, or write --to {' or '.join(SHARD_FORMATS)}"
    )


def _check_origin(folder: Path, name: str, before: Origin | None, now: Origin | None) -> None:
    """Check that a prepared set was written from the same as it would be now, if that was kept.

    Args:
        folder: The folder of the set.
        name: Its name.
        before: What it was written from; None where that was not kept.
        now: What it would be written from now; None of a published set.

    Raises:
        UserError: It was written from something else.
    """
    if before is None or before == now:
        return
    problem = (
        f"is not the published {name}"
        if now is None
        else f"its images, labels, classes or order are not those that {now} gives now"
    )
    raise UserError(
        f"{folder} was prepared from {before}, and {problem}: move that folder away, or choose "
        "another with --data.dir"
    )


def _is_prepared(folder: Path, to: str) -> bool:
    """Return whether the set is prepared.

    Raises:
        UserError: The folder exists and holds something else.
    """
    if not folder.exists():
        return False
    is_right = is_readable(folder) if to == TFDS else shard_format(os.fspath(folder)) == to
    if not is_right:
        form = "ArrayRecord" if to == TFDS else to
        raise UserError(
            f"{folder} is no data set in the format {form}: move it away, or choose another "
            "folder with --data.dir"
        )
    return True


def _prepare(
    name: str,
    recipe: _Recipe,
    published: Mapping[str, int],
    source: Path | None,
    root: Path,
    folder: Path,
    to: str,
    console: Console,
) -> None:
    path = _find(name, recipe, root) if source is None else _given(recipe, source)
    modified = _modified_files(name, recipe, path)
    incomplete = folder.with_name(f"incomplete.{folder.name}")
    with _empty_folder(folder.with_name(f".unpacked.{folder.name}")) as scratch:
        contents = recipe.read(path, scratch)
        total = contents.images or sum(published.values())
        with _progress(name, total, console) as advance:
            if to == TFDS:
                from flax_resnet.data.tfds.writer import write_folder  # imports TFDS: a second

                stamp = _stamp(path)
                images = write_folder(incomplete, name, folder.name, contents, stamp, advance)
            else:
                images = _write_shards(incomplete, to, contents, advance)
    if contents.origin is not None:
        write_origin(incomplete, contents.origin)
    os.replace(incomplete, folder)
    console.print(f"{name} is prepared in {folder}: {_counts(images)} images", markup=False)
    notes = list(contents.notes)
    if modified:
        notes.append(f"by checksum not the published files: {', '.join(map(str, modified))}")
    if published and images != published:
        notes.append(
            f"the published set has {_counts(published)} images; {path} has {_counts(images)}"
        )
    for note in notes:
        console.print(f"note: {note}", markup=False)


def _write_shards(
    folder: Path, to: str, contents: DatasetContents, advance: Callable[[], None]
) -> dict[str, int]:
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

    feature = contents.features[contents.label]
    # A Sequence passes the attributes of its ClassLabel on, such as the names.
    if not isinstance(feature, tfds.features.ClassLabel):
        raise UserError(
            f"images with any number of classes cannot be written as {to}: use --to {TFDS}"
        )

    def images(shard: ShardContents) -> Iterator[tuple[Any, int]]:
        for example in shard.examples():
            yield example["image"], example[contents.label]

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shards = [(shard.split, partial(images, shard)) for shard in contents.shards]
    return write_shards(folder, to, feature.names, shards, advance)


def _find(name: str, recipe: _Recipe, root: Path) -> Path:
    """Find the original files, or download them."""
    if not recipe.files:
        raise UserError(
            f"{name} cannot be downloaded without an account with its publisher: "
            f"give {recipe.wanted} with --from"
        )
    own_folder = root / "downloads" / recipe.originals
    # Sets of several files have equal file names, so only their own folder is searched for them.
    common = [root / "downloads"] if len(recipe.files) == 1 else []
    for folder in [own_folder, *common, root / recipe.originals]:
        if all((folder / file.name).exists() for file in recipe.files):
            return _path(recipe, folder)
    own_folder.mkdir(parents=True, exist_ok=True)  # `fetch` would take a temporary folder
    for file in recipe.files:
        if not (own_folder / file.name).exists():
            fetch(file, own_folder / file.name, f"give {recipe.wanted} with --from")
    return _path(recipe, own_folder)


def _given(recipe: _Recipe, source: Path) -> Path:
    """Return the path to read, for a source that the user gave."""
    if not os.path.exists(source):
        raise UserError(f"{source} does not exist: give {recipe.wanted} with --from")
    published = [source / file.name for file in recipe.files]
    if source.is_dir() and published and all(map(os.path.exists, published)):
        return _path(recipe, source)
    return source


def _path(recipe: _Recipe, folder: Path) -> Path:
    return folder / recipe.files[0].name if len(recipe.files) == 1 else folder


def _modified_files(name: str, recipe: _Recipe, path: Path) -> list[Path]:
    """Return the files that differ from the published ones; extracted files are not compared.

    Raises:
        UserError: One of them is a published file of another set.
    """
    modified = []
    for file in recipe.files:
        original = path / file.name if path.is_dir() else path
        if not original.is_file() or _is(original, file):
            continue
        modified.append(original)
        for other, files in PUBLISHED.items():
            for theirs in files:
                if _is(original, theirs):
                    raise UserError(
                        f"{original} is {theirs.name} of {other}, not of {name}: "
                        f"give {recipe.wanted} with --from"
                    )
    return modified


def _is(path: Path, file: PublishedFile) -> bool:
    # The size is compared first, because the checksum needs the whole file to be read.
    return path.stat().st_size == file.size and is_published(path, file)


def _stamp(path: Path) -> str:
    """Return a hash of the names, sizes and times of the original files."""
    digest = hashlib.sha256(os.fsencode(path.resolve()))
    with reading(path):
        files = [span.path for span in folder_files(path).values()] if path.is_dir() else [path]
        for file in files:
            state = file.stat()
            digest.update(os.fsencode(file) + f" {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@contextmanager
def _empty_folder(folder: Path) -> Iterator[Path]:
    """Make an empty folder and delete it at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _progress(name: str, total: int, console: Console) -> Iterator[Callable[[], None]]:
    """Show the number of written images; yield the function to call after each image.

    A terminal shows a progress bar, and other output shows a line from time to time.
    """
    terminal = console.is_terminal
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task(f"{name}: images", total=total or None)
        done, printed = 0, time.monotonic()

        def advance() -> None:
            nonlocal done, printed
            done += 1
            if terminal:
                bar.advance(task)
            elif time.monotonic() - printed > _PLAIN_SECONDS:
                printed = time.monotonic()
                of = f" of {total:,}" if total else ""
                console.print(f"{name}: {done:,}{of} images written", markup=False)

        yield advance


def _counts(images: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in images.items())


def _small(originals: str, read: Callable[..., DatasetContents], *arguments: Any) -> _Recipe:
    """Return the recipe of CIFAR or MNIST; ``read`` takes its name and ``arguments`` first."""
    files = PUBLISHED[originals]
    wanted = (
        f"{files[0].name} or the folder extracted from it"
        if len(files) == 1
        else f"the folder of its {len(files)} files ({files[0].name} and so on)"
    )
    return _Recipe(partial(read, originals, *arguments), originals, wanted)


_RECIPES = {
    "cifar10": _small("cifar10", cifar_mnist.read_cifar, formats.CIFAR10),
    "cifar100": _small("cifar100", cifar_mnist.read_cifar, formats.CIFAR100),
    "mnist": _small("mnist", cifar_mnist.read_mnist, formats.DIGIT_CLASSES),
    "fashion_mnist": _small("fashion_mnist", cifar_mnist.read_mnist, formats.FASHION_MNIST_CLASSES),
    "tf_flowers": _Recipe(flowers.read_flowers, "tf_flowers", flowers.WANTED),
    "voc2012": _Recipe(voc.read_voc2012, "voc2012", voc.WANTED),
    "voc2012_single_label": _Recipe(voc.read_voc2012_single_label, "voc2012", voc.WANTED),
    "imagenet2012": _Recipe(imagenet.read_imagenet, "imagenet2012", imagenet.WANTED),
}
