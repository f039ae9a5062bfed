"""What the frozen parts make of each image, computed once and kept: training then starts there."""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from rich.console import Console
from rich.progress import Progress

from ...data import Framing, Source, Split
from ...data.pipeline import CROP_DRAWS, Batch
from ...errors import UserError
from ...models import fold_batch_norm, stage_of
from ..forward import forward, static_batch_size
from ..optim import create_schedule
from ..setup import Run
from .feature_store import FeatureStore, Rows

FORMAT = 1  # of the kept files and of all that decides their contents
BATCH = 32
SHARD_BYTES = 1 << 26
PLAIN = 0  # the view without augmentation; the others are numbered from 1


class Features:
    """A split whose images are the kept inputs of the first part that trains; see data.Source.

    Attributes:
      labels, bad: as of the split; images that cannot be read are left out.
      streams: True where there are several views of an image, of which ``draws`` choose one.
      framing: of the images.
    """

    def __init__(
        self,
        views: Sequence[Rows],
        labels: np.ndarray,
        shape: tuple[int, ...],
        bad: dict[str, str],
        framing: Framing,
    ) -> None:
        self._views, self._shape = views, shape
        self.labels, self.bad, self.framing = labels, bad, framing
        self.streams = len(views) > 1

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of the features of an image: ``[H, W, C]`` or ``[C]``."""
        return self._shape

    def gather(
        self, indices: np.ndarray, draws: np.ndarray | None = None, size: int | None = None
    ) -> Batch:
        """``{"image": float [B, *image_shape], "label"}``; without draws of the first view."""
        index = np.asarray(indices, np.int64)
        images = self._views[0][index]
        if draws is not None:
            chosen = (draws[:, 0] * len(self._views)).astype(np.int64)
            for number, view in enumerate(self._views[1:], 1):
                images[chosen == number] = view[index[chosen == number]]
        return {"image": images, "label": self.labels[index]}

    def everything(self) -> tuple[np.ndarray, np.ndarray]:
        """The features of all views, ``[views * len, ...]``, and their labels."""
        every = np.arange(len(self))
        return (
            np.concatenate([view[every] for view in self._views]),
            np.concatenate([self.labels] * len(self._views)),
        )


def views_of(run: Run) -> int:
    """How many views of each image are computed once; 0 where the frozen parts run at every step.

    Raises:
      UserError: views are asked for where the frozen parts are not the same at every step.
    """
    transfer = run.config.transfer
    if transfer.mode not in ("head", "partial"):
        reason = f"in mode {transfer.mode} no part is frozen throughout"
    elif transfer.statistics == "updated" or transfer.affine == "trained":
        reason = "the frozen parts' batch norm changes"
    elif run.options.mix is not None:
        reason = "mixup and CutMix mix images"
    else:
        return (1 if transfer.mode == "head" else 0) if transfer.views is None else transfer.views
    if transfer.views:
        raise UserError(
            f"--views {transfer.views}: nothing can be computed once, as {reason}: leave it out.",
            exit_code=2,
        )
    return 0


def keep_features(run: Run, views: int, console: Console) -> Run:
    """The run with what its frozen parts make of ``views`` views of each image in place of the
    images, and a model that starts there. What is on the disk already is not computed again.

    Raises:
      UserError: the features cannot be kept.
    """
    boundary = run.phases[0].freeze_before
    assert boundary is not None
    began = time.perf_counter()
    folder = Path(run.config.transfer.feature_cache).expanduser()
    maker = _Maker(run, boundary, folder, console)
    augmented = [maker.view(number) for number in range(1, views + 1)] if views > 1 else []
    splits: dict[str, Any] = {}
    for name in ("train", "validation", "test"):
        source = getattr(run.dataset, name)
        readable, prints = maker.plain.of(source, range(len(source)), fingerprints(source))
        kept = [maker.plain.store.rows(prints)]
        if name == "train" and augmented:
            for view in augmented:
                view.of(source, readable, prints)
            kept = [view.store.rows(prints) for view in augmented]
        labels = np.asarray(source.labels)[readable]
        splits[name] = Features(kept, labels, maker.shape, source.bad, run.dataset.framing)
    count = sum(map(len, splits.values()))
    console.print(
        f"Features of {count:,} images at {boundary} ({'×'.join(map(str, maker.shape))}): "
        f"{maker.computed:,} computed, {maker.found:,} found in {folder}, "
        f"in {time.perf_counter() - began:.1f} s."
    )
    config, dataset = run.config, dataclasses.replace(run.dataset, **splits)
    steps = math.ceil(config.epochs * len(dataset.train) / config.data.batch_size)
    upper = dataclasses.replace(
        run,
        dataset=dataset,
        model=run.model.clone(start_stage=boundary),
        options=dataclasses.replace(run.options, augment=None, preprocess=None),
        schedule=create_schedule(config.optimizer, steps, config.epochs),
        total_steps=steps,
        views=views,
    )
    return dataclasses.replace(upper, state=upper.in_phase(run.state, run.phases[0]))


def fingerprints(source: Source) -> list[str]:
    """A hash of the content of each image, of its file where it has one."""

    if isinstance(source, Split):
        return [_digest(image.tobytes()) for image in source.images]
    files: Any = source
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda index: _digest(files.content(index)), range(len(files))))


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class _Maker:
    """Makes the views of a run's images.

    Attributes:
      plain: the view without augmentation.
      shape: of the features of an image.
      computed, found: how many rows were computed, and how many were kept already.
    """

    def __init__(self, run: Run, boundary: str, folder: Path, console: Console) -> None:
        self._run, self._folder, self._console = run, folder, console
        self.computed = self.found = 0
        parts = run.model.stages  # type: ignore[attr-defined]
        output = "pooled" if boundary == parts[-1] else parts[parts.index(boundary) - 1]
        variables = {"params": run.state.params, "batch_stats": run.state.batch_stats}
        self._key = _key(run, variables, boundary)
        # By NumPy: hundreds of operations on arrays of a device would each be compiled.
        model, self.variables = fold_batch_norm(run.model, jax.device_get(variables))

        def features(variables: Any, images: jax.Array) -> jax.Array:
            images = run.preprocessing(images)
            outputs: Any = model.apply(variables, images, train=False, method="features")
            return outputs[output]

        self.function = jax.jit(features)
        sample = jax.ShapeDtypeStruct((1, *run.dataset.image_shape), np.uint8)
        self.shape = jax.eval_shape(features, self.variables, sample).shape[1:]
        self.plain = self.view(PLAIN)

    def view(self, number: int) -> "_View":
        """The view of that number, with what is kept of it."""
        what = self._key if number == PLAIN else f"{self._key} {self._augmentation} view {number}"
        store = FeatureStore(self._folder / _digest(what.encode()))
        if store.damaged:
            self._console.print(
                f"[yellow]note:[/] {store.damaged} damaged files of features are computed again."
            )
        return _View(self, store, self._reader(number))

    @property
    def _augmentation(self) -> str:
        return f"{self._run.config.augment} seed {self._run.config.seed}"

    def _reader(self, number: int) -> Callable[[Source, np.ndarray, Sequence[str]], Batch]:
        """``(source, indices, fingerprints) -> batch``, each image decided by its own content."""
        if number == PLAIN:
            return lambda source, indices, prints: source.gather(indices)
        augment, config = self._run.options.augment, self._run.config
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        jitted = None if augment is None else jax.jit(augment)

        def read(source: Source, indices: np.ndarray, prints: Sequence[str]) -> Batch:
            draws = None
            if source.streams and config.augment.random_resized_crop:
                seeds = [[config.seed, number, int(one, 16)] for one in prints]
                draws = np.stack([np.random.default_rng(s).random(CROP_DRAWS) for s in seeds])
            batch = source.gather(indices, draws)
            if jitted is not None:
                place = np.array([int(one[:7], 16) for one in prints], np.int32)
                batch["image"] = np.asarray(jitted(key, batch["image"], place))
            return batch

        return read

    def progress(self, rows: Iterator[Any], total: int) -> Iterator[Any]:
        """The batches, with a bar on a terminal and the expected time in a line elsewhere."""
        began = time.perf_counter()
        bar = Progress(console=self._console, transient=True, disable=not self._console.is_terminal)
        with bar:
            task = bar.add_task("features", total=total)
            for number, batch in enumerate(rows):
                yield batch
                bar.advance(task, len(batch.indices))
                if number == 0:
                    began = time.perf_counter()  # the first was compiled for
                if number == 2 and total > 8 * BATCH:
                    each = (time.perf_counter() - began) / 2 / BATCH
                    self._console.print(
                        f"Running the frozen parts on {total:,} images once: about "
                        f"{each * total:,.0f} s."
                    )


class _View:
    """One view: its store, and how images are read for it."""

    def __init__(self, maker: _Maker, store: FeatureStore, read: Callable[..., Any]) -> None:
        self._maker, self.store, self._read = maker, store, read

    def of(
        self, source: Source, indices: Sequence[int], prints: Sequence[str]
    ) -> tuple[list[int], list[str]]:
        """Have the store hold the images at ``indices``; those that can be read and their prints.

        ``prints`` are the fingerprints of these images.
        """
        missing = [place for place, one in enumerate(prints) if one not in self.store]
        self._maker.found += len(prints) - len(missing)
        if missing:
            self._compute(source, [indices[i] for i in missing], [prints[i] for i in missing])
        kept = [place for place, one in enumerate(prints) if one in self.store]
        return [indices[place] for place in kept], [prints[place] for place in kept]

    def _compute(self, source: Source, indices: Sequence[int], prints: Sequence[str]) -> None:
        maker = self._maker
        part = _Part(source, np.asarray(indices), prints, self._read)
        batches = forward(
            maker.function,
            maker.variables,
            part,
            batch_size=static_batch_size(len(indices), BATCH),
        )
        waiting: list[tuple[list[str], np.ndarray]] = []
        for done in maker.progress(batches, len(indices)):
            waiting.append(([prints[i] for i in done.indices], np.asarray(done.outputs)))
            maker.computed += len(done.indices)
            if sum(rows.nbytes for _, rows in waiting) >= SHARD_BYTES:
                self._save(waiting)
                waiting = []
        self._save(waiting)

    def _save(self, waiting: list[tuple[list[str], np.ndarray]]) -> None:
        prints = [one for names, _ in waiting for one in names]
        if prints:
            self.store.add(prints, np.concatenate([rows for _, rows in waiting]))


class _Part:
    """Some images of a source, read in the way of a view; see data.Source."""

    streams = False

    def __init__(
        self, source: Source, indices: np.ndarray, prints: Sequence[str], read: Callable[..., Batch]
    ) -> None:
        self._source, self._indices, self._prints, self._read = source, indices, prints, read
        self.labels, self.bad = np.asarray(source.labels)[indices], source.bad
        self.image_shape = source.image_shape

    def __len__(self) -> int:
        return len(self._indices)

    def gather(
        self, indices: np.ndarray, draws: np.ndarray | None = None, size: int | None = None
    ) -> Batch:
        prints = [self._prints[i] for i in indices]
        return self._read(self._source, self._indices[indices], prints)


def _key(run: Run, variables: Any, boundary: str) -> str:
    """All that decides the features of an image but the image: a hash of the frozen weights, the
    model, the preprocessing and the framing."""
    parts = run.model.stages  # type: ignore[attr-defined]
    frozen = parts[: parts.index(boundary)]
    content = hashlib.blake2b(digest_size=16)
    for path, leaf in sorted(traverse_util.flatten_dict(variables).items()):
        if stage_of(path[1], parts[-2]) in frozen:
            array = np.asarray(leaf)
            content.update(f"{path} {array.dtype} {array.shape}".encode())
            content.update(np.ascontiguousarray(array).data)
    model = dataclasses.replace(run.config.model, hidden=None, dropout=None)
    described = (FORMAT, boundary, content.hexdigest(), model, run.preprocessing)
    return repr((*described, run.dataset.framing))
