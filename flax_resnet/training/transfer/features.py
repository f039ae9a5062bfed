"""Features of the frozen stages, computed once for each image and kept; training starts there."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from ...data import UNIFORMS_PER_CROP, Batch, Preprocessing, Source, Split
from ...data.images import content_digest
from ...models import fold_batch_norm, stage_of
from ...paths import expand
from ...transform import EvalTransform
from ..distributed import true_in_all, wait_for_processes
from ..forward_pass import forward, static_batch_size
from ..messages import note
from ..run import Run
from ..state import TrainState
from .feature_store import FeatureStore, Rows

FORMAT = 2  # version of the kept files and of everything that decides their contents
BATCH_SIZE = 32
SHARD_BYTES = 1 << 26
PLAIN = 0  # number of the view without augmentation; augmented views are numbered from 1

Read = Callable[[Source, np.ndarray, Sequence[str]], Batch]


class Features:
    """A split whose images are the kept inputs of the first stage that trains; a ``data.Source``.

    Attributes:
        source: The images, among them those that cannot be read.
        readable: Index in ``source`` of each row, int ``[N]``.
        labels: The labels of the rows.
        bad: Path and reason of the files that cannot be read.
        streams: True if there are several views of an image, one of which ``crop_uniforms`` choose.
        transform: That of the images.
    """

    def __init__(
        self,
        views: Sequence[Rows],
        shape: tuple[int, ...],
        source: Source,
        readable: np.ndarray,
        transform: EvalTransform,
    ) -> None:
        self._views, self._shape = views, shape
        self.source, self.readable, self.transform = source, readable, transform
        self.labels, self.bad = np.asarray(source.labels)[readable], source.bad
        self.streams = len(views) > 1

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image's features, ``[H, W, C]`` or ``[C]``."""
        return self._shape

    def gather(
        self,
        indices: np.ndarray,
        crop_uniforms: np.ndarray | None = None,
        size: int | None = None,
        replace: bool = False,
    ) -> Batch:
        """``{"image": float [B, *image_shape], "label"}``; without ``crop_uniforms``, of the first
        view."""
        index = np.asarray(indices, np.int64)
        images = self._views[0][index]
        if crop_uniforms is not None:
            chosen = (crop_uniforms[:, 0] * len(self._views)).astype(np.int64)
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


def keep_features(run: Run, state: TrainState, console: Console) -> Run:
    """Replace the images of a run by the output of its frozen stages.

    What is on disk already is not computed again.

    Args:
        run: The run; ``run.views`` views of each training image are computed.
        state: The state before the first step.
        console: Where progress is reported.

    Returns:
        A run whose data set holds features, and whose model starts at the first stage that trains.

    Raises:
        UserError: The features can be kept neither on disk nor in memory.
    """
    start_stage = run.phases[0].freeze_before
    assert start_stage is not None
    began = time.perf_counter()
    folder = expand(run.config.transfer.feature_cache)
    extractor = _Extractor(run, state, start_stage, folder, console)
    augmented = [extractor.view(number) for number in range(1, run.views + 1)]
    if run.views == 1:
        augmented = []
    splits: dict[str, Any] = {}
    for name in ("train", "validation", "test"):
        source = getattr(run.dataset, name)
        hashes = content_hashes(source)
        readable, hashes = extractor.plain.compute(source, range(len(source)), hashes)
        if missing := len(readable) - len(shared := _readable_in_all(source, readable)):
            note(
                console, f"{name}: images that another process cannot read are left out: {missing}."
            )
        hashes = [one for index, one in zip(readable, hashes, strict=True) if index in shared]
        readable = sorted(shared)
        kept = [extractor.plain.store.rows(hashes)]
        if name == "train" and augmented:
            for view in augmented:
                view.compute(source, readable, hashes)
            kept = [view.store.rows(hashes) for view in augmented]
        rows = np.asarray(readable, np.int64)
        splits[name] = Features(kept, extractor.shape, source, rows, run.dataset.transform)
    count = sum(map(len, splits.values()))
    views = [extractor.plain, *augmented]
    if why := next(filter(None, (view.store.unwritable for view in views)), None):
        note(
            console,
            f"{folder} cannot be written ({why}), so features are kept in memory and computed "
            "again by the next run.",
        )
    console.print(
        Text(
            f"Features of {count:,} images at {start_stage} "
            f"({'×'.join(map(str, extractor.shape))}): {extractor.computed:,} computed, "
            f"{extractor.found:,} found in {folder}, in {time.perf_counter() - began:.1f} s."
        )
    )
    model = run.model.clone(start_stage=start_stage)
    return dataclasses.replace(
        run,
        dataset=dataclasses.replace(run.dataset, **splits),
        step=dataclasses.replace(run.step, model=model, augment=None, preprocess=None),
    ).with_epochs(run.config.epochs)


def content_hashes(source: Source) -> list[str]:
    """A hash of the content of each image, or of its file if it has one."""
    if isinstance(source, Split):
        return [content_digest(image.tobytes()) for image in source.images]
    files: Any = source
    hashes: list[str] = files.content_digests()
    return hashes


class _Extractor:
    """Computes the views of a run's images.

    Attributes:
        plain: The view without augmentation.
        shape: That of an image's features.
        computed: Number of rows that were computed.
        found: Number of rows that were kept already.
    """

    def __init__(
        self, run: Run, state: TrainState, start_stage: str, folder: Path, console: Console
    ) -> None:
        self._run, self._folder, self._console = run, folder, console
        self.computed = self.found = 0
        stages = run.model.stages
        is_head = start_stage == stages[-1]
        output = "pooled" if is_head else stages[stages.index(start_stage) - 1]
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        self._key = _cache_key(run, variables, start_stage)
        # NumPy folds: hundreds of operations on a device's arrays would each be compiled.
        model, self.variables = fold_batch_norm(run.model, jax.device_get(variables))

        def features(variables: Any, images: jax.Array) -> jax.Array:
            images = Preprocessing.from_transform(run.transform)(images)
            outputs: Any = model.apply(variables, images, train=False, method="features")
            # NumPy's files know no bfloat16, and their mean would be rounded to it.
            return outputs[output].astype(jnp.float32)

        self.function = jax.jit(features)
        self.shape = jax.eval_shape(features, self.variables, run.sample).shape[1:]
        self.plain = self.view(PLAIN)

    def view(self, number: int) -> "_View":
        """The view of that number, with its kept rows."""
        run = self._run
        key = self._key
        if number != PLAIN:
            key += f" {run.config.augment} seed {run.config.seed} view {number}"
        store = FeatureStore(self._folder / content_digest(key.encode()))
        if store.damaged:
            self._console.print(
                f"[yellow]note:[/] {store.damaged} damaged files of features are computed again."
            )
        return _View(self, store, self._reader(number))

    def _reader(self, number: int) -> Read:
        """``(source, indices, hashes) -> batch``, where its content alone decides how an image is
        augmented."""
        if number == PLAIN:
            return lambda source, indices, hashes: source.gather(indices)
        augment, config = self._run.step.augment, self._run.config
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        jitted = None if augment is None else jax.jit(augment)

        def read(source: Source, indices: np.ndarray, hashes: Sequence[str]) -> Batch:
            crop_uniforms = None
            if source.streams and config.augment.random_resized_crop:
                seeds = [[config.seed, number, int(one, 16)] for one in hashes]
                generators = [np.random.default_rng(seed) for seed in seeds]
                crop_uniforms = np.stack([g.random(UNIFORMS_PER_CROP) for g in generators])
            batch = source.gather(indices, crop_uniforms)
            if jitted is not None:
                index = np.array([int(one[:7], 16) for one in hashes], np.int32)
                batch["image"] = np.asarray(jitted(key, batch["image"], index))
            return batch

        return read

    def progress(self, batches: Iterator[Any], total: int) -> Iterator[Any]:
        """The batches, with a bar on a terminal and a line with the expected time elsewhere."""
        began = time.perf_counter()
        bar = Progress(console=self._console, transient=True, disable=not self._console.is_terminal)
        with bar:
            task = bar.add_task("features", total=total)
            for number, batch in enumerate(batches):
                yield batch
                bar.advance(task, len(batch.indices))
                if number == 0:
                    began = time.perf_counter()  # the first one includes compilation
                if number == 2 and total > 8 * BATCH_SIZE:
                    each = (time.perf_counter() - began) / 2 / BATCH_SIZE
                    self._console.print(
                        f"Running the frozen stages on {total:,} images once: about "
                        f"{each * total:,.0f} s."
                    )


class _View:
    """One view of the images: its store, and how images are read for it."""

    def __init__(self, extractor: _Extractor, store: FeatureStore, read: Read) -> None:
        self._extractor, self.store, self._read = extractor, store, read

    def compute(
        self, source: Source, indices: Sequence[int], hashes: Sequence[str]
    ) -> tuple[list[int], list[str]]:
        """Compute the rows of the images at ``indices`` that the store lacks.

        Args:
            source: Where the images are read.
            indices: Of the images in the source.
            hashes: Of the images' contents.

        Returns:
            The indices and hashes of the images that could be read.
        """
        missing = [row for row, one in enumerate(hashes) if one not in self.store]
        self._extractor.found += len(hashes) - len(missing)
        if missing:
            subset = _Subset(
                source,
                np.asarray([indices[row] for row in missing]),
                [hashes[row] for row in missing],
                self._read,
            )
            self._compute_subset(subset)
        kept = [row for row, one in enumerate(hashes) if one in self.store]
        return [indices[row] for row in kept], [hashes[row] for row in kept]

    def _compute_subset(self, subset: "_Subset") -> None:
        extractor = self._extractor
        batches = forward(
            extractor.function,
            extractor.variables,
            subset,
            batch_size=static_batch_size(len(subset), BATCH_SIZE),
        )
        pending: list[tuple[list[str], np.ndarray]] = []
        for batch in extractor.progress(batches, len(subset)):
            hashes = [subset.hashes[index] for index in batch.indices]
            pending.append((hashes, np.asarray(batch.outputs)))
            extractor.computed += len(hashes)
            if sum(rows.nbytes for _, rows in pending) >= SHARD_BYTES:
                self._save(pending)
                pending = []
        self._save(pending)

    def _save(self, pending: list[tuple[list[str], np.ndarray]]) -> None:
        hashes = [one for names, _ in pending for one in names]
        if hashes:
            self.store.add(hashes, np.concatenate([rows for _, rows in pending]))
            # Or it would be taken for an image that cannot be read.
            assert all(one in self.store for one in hashes)


class _Subset:
    """Some images of a source, read for a view; a ``data.Source``."""

    streams = False

    def __init__(
        self, source: Source, indices: np.ndarray, hashes: Sequence[str], read: Read
    ) -> None:
        self._source, self._indices, self.hashes, self._read = source, indices, hashes, read
        self.labels, self.bad = np.asarray(source.labels)[indices], source.bad
        self.image_shape = source.image_shape

    def __len__(self) -> int:
        return len(self._indices)

    def gather(
        self,
        indices: np.ndarray,
        crop_uniforms: np.ndarray | None = None,
        size: int | None = None,
        replace: bool = False,
    ) -> Batch:
        """See ``data.Source``."""
        hashes = [self.hashes[index] for index in indices]
        return self._read(self._source, self._indices[indices], hashes)


def _readable_in_all(source: Source, readable: Sequence[int]) -> set[int]:
    """Those of the images that every process could read: splits of different lengths would give
    the processes different batches, and one of them would wait for the others for ever."""
    here = np.zeros(len(source), bool)
    here[list(readable)] = True
    wait_for_processes()  # one of them may have had more to compute
    return set(np.flatnonzero(true_in_all(here)).tolist())


def _cache_key(run: Run, variables: Any, start_stage: str) -> str:
    """Everything that decides the features of an image, but for the image itself: the frozen
    weights (hashed), the model and the transform."""
    stages = run.model.stages
    frozen = stages[: stages.index(start_stage)]
    content = hashlib.blake2b(digest_size=16)
    for path, leaf in sorted(traverse_util.flatten_dict(variables).items()):
        if stage_of(path[1], stages[-2]) in frozen:
            array = np.asarray(leaf)
            content.update(f"{path} {array.dtype} {array.shape}".encode())
            content.update(np.ascontiguousarray(array).data)
    model = dataclasses.replace(run.config.model, hidden=None, dropout=None)
    return repr((FORMAT, start_stage, content.hexdigest(), model, run.transform))
