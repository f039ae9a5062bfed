"""`flax-resnet prepare`: from a data set's original files to the folder that TFDS reads."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flax_resnet.data import formats
from flax_resnet.data.datasets import CLOTHING_CLASSES, DIGIT_CLASSES
from flax_resnet.data.published import CATALOGUE, PUBLISHED
from flax_resnet.data.tfds import cifar_mnist, flowers, imagenet, voc
from flax_resnet.data.tfds.archives import folder_places, reading
from flax_resnet.data.tfds.contents import Contents
from flax_resnet.data.tfds.folder import is_readable, tfds_root
from flax_resnet.download import PublishedFile, fetch, is_published
from flax_resnet.errors import UserError

_PLAIN_SECONDS = 10.0  # between lines of progress where there is no terminal


@dataclass(frozen=True)
class _Recipe:
    """How a set is prepared.

    Attributes:
        read: from the original files, and an empty folder for what has to be unpacked, to what
            is in them. A single original file is read as such, several as their folder.
        originals: the key of the original files in PUBLISHED; in it only if they are public.
        wanted: what they are, to follow "give".
    """

    read: Callable[[Path, Path], Contents]
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
) -> Path:
    """Prepare a data set for TFDS, without TensorFlow, unless it is prepared already.

    The original files are looked for in `<data_dir>/downloads/<name>/`, `<data_dir>/downloads/`
    and `<data_dir>/<name>/`, and downloaded into the first if they are not there. Images keep the
    order of the originals, and photos their bytes. The set appears when it is whole; until then
    it is in `<data_dir>/<name>/incomplete.<version>/`, and after an interruption the next call
    goes on there. Of calls at the same time one does the work, and the others wait for it.

    Args:
        name: one of `preparable_names()`.
        source: the original file, its folder, or the folder extracted from it. It need not be
            what was published, but what it holds is then printed.
        data_dir: TFDS's folder of data sets; by default `~/tensorflow_datasets`.
        console: for progress and notes; by default standard error.

    Returns:
        The folder `<data_dir>/<name>/<version>`.

    Raises:
        UserError: an unknown name; files that are absent and not to be had, damaged, hostile or
            of another set; a folder that cannot be written, or a full disk.
    """
    if name not in _RECIPES:
        raise UserError(f"cannot prepare {name!r}: choose one of {', '.join(_RECIPES)}")
    console = console or Console(stderr=True, highlight=False, soft_wrap=True)
    root = tfds_root(data_dir)
    folder = root / name / CATALOGUE[name].version
    if not _is_there(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder.parent / ".prepare.lock", name, console):
                # Another process may have been faster.
                if not _is_there(folder):
                    _prepare(name, None if source is None else Path(source), root, folder, console)
                    return folder
        except OSError as error:
            raise UserError(
                f"{error.filename or folder.parent} cannot be written "
                f"({error.strerror or error}): make room or choose another folder with "
                "--data.dir, and run the command again, which goes on where it stopped"
            ) from error
    again = "" if source is None else f"; to prepare it from {source}, delete that folder first"
    console.print(f"{name} is prepared already, in {folder}{again}", markup=False)
    return folder


def preparable_names() -> list[str]:
    """Return the names that `prepare` accepts."""
    return list(_RECIPES)


def _is_there(folder: Path) -> bool:
    """Whether the set is prepared.

    Raises:
        UserError: something else is in its place.
    """
    if folder.exists() and not is_readable(folder):
        raise UserError(
            f"{folder} is no data set in the format ArrayRecord: move it away, or choose another "
            "folder with --data.dir"
        )
    return folder.exists()


@contextmanager
def _alone(lock: Path, name: str, console: Console) -> Iterator[None]:
    """Keep out other processes that prepare the same set; a killed one does not keep out."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        console.print(f"another process is preparing {name}: waiting for it", markup=False)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _prepare(name: str, source: Path | None, root: Path, folder: Path, console: Console) -> None:
    from flax_resnet.data.tfds.writer import write_folder  # it imports TFDS, which takes a second

    recipe, published = _RECIPES[name], CATALOGUE[name].images
    path = _found(name, recipe, root) if source is None else _given(recipe, source.expanduser())
    strangers = _strangers(name, recipe, path)
    incomplete = folder.with_name(f"incomplete.{folder.name}")
    with _emptied(folder.with_name(".unpacked")) as scratch:
        contents = recipe.read(path, scratch)
        total = contents.images or sum(published.values())
        with _images_shown(name, total, console) as shown:
            images = write_folder(incomplete, name, folder.name, contents, _stamp(path), shown)
    os.replace(incomplete, folder)
    console.print(f"{name} is prepared in {folder}: {_counts(images)} images", markup=False)
    notes = list(contents.notes)
    if strangers:
        notes.append(f"by checksum not what was published: {', '.join(map(str, strangers))}")
    if published and images != published:
        notes.append(f"published were {_counts(published)} images; {path} holds {_counts(images)}")
    for note in notes:
        console.print(f"note: {note}", markup=False)


def _found(name: str, recipe: _Recipe, root: Path) -> Path:
    """Find the original files, or download them."""
    if not recipe.files:
        raise UserError(
            f"{name} cannot be downloaded without an account with its publisher: "
            f"give {recipe.wanted} with --from"
        )
    home = root / "downloads" / recipe.originals
    # Several sets publish several files of the same names, so those count in their own folder.
    common = [root / "downloads"] if len(recipe.files) == 1 else []
    for folder in [home, *common, root / recipe.originals]:
        if all((folder / file.name).exists() for file in recipe.files):
            return _path(recipe, folder)
    for file in recipe.files:
        if not (home / file.name).exists():
            fetch(file, home / file.name, f"give {recipe.wanted} with --from")
    return _path(recipe, home)


def _given(recipe: _Recipe, source: Path) -> Path:
    if not os.path.exists(source):
        raise UserError(f"{source} does not exist: give {recipe.wanted} with --from")
    published = [source / file.name for file in recipe.files]
    if source.is_dir() and published and all(map(os.path.exists, published)):
        return _path(recipe, source)
    return source


def _path(recipe: _Recipe, folder: Path) -> Path:
    return folder / recipe.files[0].name if len(recipe.files) == 1 else folder


def _strangers(name: str, recipe: _Recipe, path: Path) -> list[Path]:
    """Return those files that are not the published ones; what was extracted is not compared.

    Raises:
        UserError: one of them is a published file of another set.
    """
    strangers = []
    for file in recipe.files:
        original = path / file.name if path.is_dir() else path
        if not original.is_file() or _is(original, file):
            continue
        strangers.append(original)
        for other, files in PUBLISHED.items():
            for theirs in files:
                if _is(original, theirs):
                    raise UserError(
                        f"{original} is {theirs.name} of {other}, not of {name}: "
                        f"give {recipe.wanted} with --from"
                    )
    return strangers


def _is(path: Path, file: PublishedFile) -> bool:
    # The size first: it spares the reading of the whole for its checksum.
    return path.stat().st_size == file.size and is_published(path, file)


def _stamp(path: Path) -> str:
    """Identify original files well enough to go on with what was made of them."""
    digest = hashlib.sha256(os.fsencode(path.resolve()))
    with reading(path):
        files = [place.path for place in folder_places(path).values()] if path.is_dir() else [path]
        for file in files:
            state = file.stat()
            digest.update(os.fsencode(file) + f" {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """Make an empty folder, which does not stay."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _images_shown(name: str, total: int, console: Console) -> Iterator[Callable[[], None]]:
    """Show how many images are written: a bar on a terminal, plain lines elsewhere."""
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

        def shown() -> None:
            nonlocal done, printed
            done += 1
            if terminal:
                bar.advance(task)
            elif time.monotonic() - printed > _PLAIN_SECONDS:
                printed = time.monotonic()
                of = f" of {total:,}" if total else ""
                console.print(f"{name}: {done:,}{of} images written", markup=False)

        yield shown


def _counts(images: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in images.items())


def _small(originals: str, read: Callable[..., Contents], *arguments: Any) -> _Recipe:
    """Recipe of a set that is prepared under the name of its originals, told to `read` first."""
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
    "mnist": _small("mnist", cifar_mnist.read_mnist, DIGIT_CLASSES),
    "fashion_mnist": _small("fashion_mnist", cifar_mnist.read_mnist, CLOTHING_CLASSES),
    "tf_flowers": _Recipe(flowers.read_flowers, "tf_flowers", flowers.WANTED),
    "voc2012": _Recipe(voc.read_voc2012, "voc2012", voc.WANTED),
    "voc2012_single_label": _Recipe(voc.read_voc2012_single_label, "voc2012", voc.WANTED),
    "imagenet2012": _Recipe(imagenet.read_imagenet, "imagenet2012", imagenet.WANTED),
}
