"""What the routes share: admission of photos, decoding, batches and their predictions."""

import asyncio
import io
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np

from ...data import Split
from ...data.images import ImageDecodeError, ImageFiles, load_image
from ...errors import UserError
from ...processor import available_cores
from ..classifier import Classifier
from ..inputs import open_images
from ..onnx_classifier import with_onnxruntime
from ..outputs import TestTimeAugmentation, batch_function
from ..predict import Predictions, at_temperature, check_temperature
from .batching import Batcher
from .bodies import Refusal, Upload, check_count, read_body
from .metrics import Metrics
from .settings import ServeSettings

_T = TypeVar("_T")

Engine = Literal["jax", "onnxruntime"]
"""What computes the logits."""


class Service:
    """A classifier that answers many requests at once.

    Everything but decoding and computing runs in the thread of the event loop, so the counts need
    no lock.

    Attributes:
        classifier: The trained model.
        settings: Limits, and how batches are formed.
        metrics: Counts and times of what was answered.
        draining: Whether the server is about to stop; it still answers.
        answered: The number of requests that were answered with predictions.
        has_heat_maps: Whether the classifier can explain its predictions.
    """

    def __init__(
        self,
        classifier: Classifier,
        settings: ServeSettings,
        *,
        engine: Engine = "jax",
        tta: TestTimeAugmentation | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.classifier = classifier
        self.settings = settings
        self.draining = False
        self.answered = 0
        self._admitted = self._decoding = self._buffered = 0
        self._seconds_per_photo = 0.0
        self._pool = ThreadPoolExecutor(available_cores(), "decode")
        self._heat_maps = ThreadPoolExecutor(1, "heat-maps")
        self.has_heat_maps = classifier.info.kind != "onnx"
        check_temperature(temperature)
        self._temperature = temperature
        computing = with_onnxruntime(classifier) if engine == "onnxruntime" else classifier
        self._logits = batch_function(computing._logits_program(tta))
        transform = classifier.transform
        self.batcher = Batcher(
            self._compute,
            settings.batch_sizes,
            (transform.height, transform.width, transform.channels),
            max_delay=settings.max_delay,
            arriving=lambda: self._decoding,
            on_batch=self._count_batch,
        )
        self.metrics = Metrics(settings.batch_sizes)
        for name, description, value in (
            ("admitted", "Photos that are admitted and not answered.", lambda: self._admitted),
            ("waiting", "Decoded photos that wait for a batch.", lambda: len(self.batcher)),
        ):
            self.metrics.add_gauge(f"flax_resnet_photos_{name}", description, value)

    def close(self) -> None:
        """Compute what waits, then end the threads."""
        self.batcher.close()
        self._pool.shutdown(cancel_futures=True)
        self._heat_maps.shutdown(cancel_futures=True)

    def check_ready(self) -> None:
        """Refuse if the server is starting or stopping."""
        if self.draining:
            raise Refusal(503, "The server is about to stop.", Retry_After="1")
        if not self.batcher.ready.done():
            raise Refusal(503, "The server is compiling the model: try again.", Retry_After="2")
        if not self.batcher.is_alive:
            raise Refusal(503, "The server's thread of computations has ended: restart it.")

    @contextmanager
    def admit(self, photos: int) -> Iterator[None]:
        """Hold photos in the queue for the time of the body.

        Raises:
            Refusal: The queue is full.
        """
        if self._admitted + photos > self.settings.queue:
            raise self._busy()
        self._admitted += photos
        try:
            yield
        finally:
            self._admitted -= photos

    @contextmanager
    def buffer(self) -> Iterator[Callable[[AsyncIterator[bytes]], Any]]:
        """Give a function that reads a body, whose bytes count until the end of the context."""
        held = 0

        async def counted(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            nonlocal held
            async for chunk in chunks:
                if self._buffered + len(chunk) > self.settings.max_buffered:
                    raise self._busy()
                held += len(chunk)
                self._buffered += len(chunk)
                yield chunk

        try:
            yield lambda chunks: read_body(counted(chunks), self.settings.max_upload)
        finally:
            self._buffered -= held

    async def classify_uploads(self, uploads: Sequence[Upload]) -> Predictions:
        """Classify photos, the first of which is admitted already.

        Raises:
            Refusal: A photo cannot be decoded, or the queue is full.
        """
        with self.admit(len(uploads) - 1):
            images = await self._decode_all(uploads)
            return await self._classify([upload.name for upload in uploads], images)

    async def draw_heat_maps(self, uploads: Sequence[Upload], found: Predictions) -> list[bytes]:
        """Return a picture, PNG, of what speaks for the most probable class of each photo.

        One photo at a time is computed.

        Args:
            uploads: The photos.
            found: What ``classify_uploads`` returned for them. With its mirror image a photo may
                have another class than alone.

        Raises:
            Refusal: As in ``classify_uploads``, or the classifier has no heat maps.
        """
        if not self.has_heat_maps:
            raise Refusal(422, "A model in ONNX has no heat maps: serve the run or its weights.")
        with self.admit(len(uploads) - 1):
            images = await self._decode_all(uploads)
            run = asyncio.get_running_loop().run_in_executor
            targets = found.probabilities.argmax(1).tolist()
            drawn = (
                run(self._heat_maps, _heat_map, self.classifier, image, target)
                for image, target in zip(images, targets, strict=True)
            )
            return await asyncio.gather(*drawn)

    async def classify_pixels(self, pixels: np.ndarray) -> Predictions:
        """Classify images uint8 ``[N, H, W, C]``, of which one is admitted already.

        Raises:
            Refusal: They cannot be images, or the queue is full.
        """
        check_count(len(pixels), self.settings.queue)
        if math.prod(pixels.shape[1:3]) > self.settings.max_pixels:
            raise Refusal(413, f"An image has more than {self.settings.max_pixels:,} pixels.")
        with self.admit(len(pixels) - 1):
            images = await self.in_thread(_transformed, pixels, self.classifier)
            return await self._classify(
                [str(number) for number in range(len(images))], list(images)
            )

    async def in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run a function in a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def _decode_all(self, uploads: Sequence[Upload]) -> list[np.ndarray]:
        images = await asyncio.gather(*map(self._decode, uploads), return_exceptions=True)
        failed = [
            f"{upload.name!r} {image.reason}"
            for upload, image in zip(uploads, images, strict=True)
            if isinstance(image, ImageDecodeError)
        ]
        if failed:
            count = "The photo" if len(uploads) == 1 else f"{len(failed)} of {len(uploads)}"
            raise Refusal(422, f"{count} cannot be classified: {'; '.join(failed[:5])}.")
        for image in images:
            if isinstance(image, UserError):
                raise Refusal(422, str(image))
            if isinstance(image, BaseException):
                raise image
        return [image for image in images if isinstance(image, np.ndarray)]

    async def _decode(self, upload: Upload) -> np.ndarray:
        self._decoding += 1
        try:
            return await self.in_thread(
                partial(load_image, max_pixels=self.settings.max_pixels),
                upload.content,
                self.classifier.transform,
            )
        finally:
            self._decoding -= 1

    async def _classify(self, names: list[str], images: Sequence[np.ndarray]) -> Predictions:
        rows = [asyncio.wrap_future(self.batcher.submit(image)) for image in images]
        probabilities = np.stack(await asyncio.gather(*rows))
        if np.isnan(probabilities).any():
            raise Refusal(500, "The model's logits are NaN or infinite for these photos.")
        self.metrics.photos.inc(len(images))
        return Predictions(tuple(names), self.classifier.classes, probabilities, {})

    def _compute(self, images: np.ndarray) -> np.ndarray:
        logits = self._logits(images)
        probabilities = np.full(logits.shape, np.nan, np.float32)
        finite = np.isfinite(logits).all(1)
        probabilities[finite] = at_temperature(self.classifier, logits[finite], self._temperature)
        return probabilities

    def _count_batch(self, size: int, seconds: float) -> None:
        self.metrics.batches.observe(size)
        self.metrics.compute.observe(seconds)
        self._seconds_per_photo = seconds / size

    def _busy(self) -> Refusal:
        seconds = math.ceil(self._admitted * self._seconds_per_photo)
        return Refusal(
            429,
            f"The queue of {self.settings.queue:,} photos is full: try again later.",
            Retry_After=str(min(max(seconds, 1), 60)),
        )


def _transformed(pixels: np.ndarray, classifier: Classifier) -> np.ndarray:
    """Return images in memory as ``Classifier.predict`` transforms them."""
    try:
        source, _ = open_images(pixels, classifier.transform)
        with closing(source) if isinstance(source, ImageFiles) else nullcontext():
            return source.gather(np.arange(len(source)))["image"]
    except UserError as error:
        raise Refusal(422, str(error)) from None


def _heat_map(classifier: Classifier, image: np.ndarray, target: int) -> bytes:
    """Return a heat map of a class over an image as the model sees it, PNG."""
    split = Split(image[np.newaxis], np.zeros(1, np.int32))
    (picture,) = classifier.explain(split, target=target, batch_size=1).overlays()
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
