"""Images a second that the data roads feed, beside other decoders, torchvision and grain.

    pip install torch torchvision grain opencv-python-headless   # what is missing is left out
    python -m benchmarks.data

Resident: batches of 512 out of 50,000 images of 32x32 in memory. The host gathers whole batches;
they are cropped and mirrored on the device, which here is the CPU too.

Streaming: JPEGs of 500x375 with the spectrum of photos, random-resized-crops of 224x224. First each
decoder alone, one thread, files in memory; then whole roads from files to batches of 64. A decoder
"antialiases" if shrinking weighs all pixels, as Pillow and torchvision do and our tests demand.

Each measurement is a fresh process; the order is mixed; figures are medians. Beside images a second
stand images a second of processor time, which other programs on the machine disturb less.
"""

import importlib
import importlib.util
import io
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPEATS = 9
SECONDS = 2.0  # of each measurement, after a pass to warm up
COUNT, HEIGHT, WIDTH, SIZE, BATCH = 256, 375, 500, 224, 64
CORES = len(os.sched_getaffinity(0))


def make_photos(folder):
    """Noise whose power falls as in photos, alike in the three channels, and a little of the
    sensor's; about 85 KB each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / WIDTH) ** 1.2
    for number in range(COUNT):
        phases = rng.random((3, *amplitude.shape)) * 2j * np.pi
        waves = np.fft.irfft2(amplitude * np.exp(phases), (HEIGHT, WIDTH))
        waves /= waves.std((1, 2), keepdims=True)
        light, *tints = waves
        pixels = np.stack([light + 0.3 * tint for tint in (tints[0], tints[1], -tints[0])], 2) * 45
        pixels += 128 + rng.normal(0, 4, pixels.shape)
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        name = folder / f"class{number % 2}" / f"{number}.jpg"
        name.parent.mkdir(exist_ok=True)
        image.save(name, quality=90)


def processor_seconds():
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usage)


def rates(batches, images):
    """Images a second, and a second of processor time, of an endless iterator of batches."""
    for _ in range(max(1, COUNT // images)):
        next(batches)
    done, start, cpu = 0, time.perf_counter(), processor_seconds()
    while time.perf_counter() - start < SECONDS:
        next(batches)
        done += images
    return {
        "rate": done / (time.perf_counter() - start),
        "per_cpu_second": done / (processor_seconds() - cpu),
    }


def one_by_one(folder, crop):
    """``crop(content, box)`` of one file after the other, with the boxes of training."""
    from flax_resnet.data.images.reading import DRAWS, crop_box

    contents = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    rng = np.random.default_rng(1)
    boxes = [crop_box(HEIGHT, WIDTH, rng.random(DRAWS)) for _ in contents]

    def endless():
        while True:
            for content, box in zip(contents, boxes, strict=True):
                yield crop(content, (box.top, box.left, box.height, box.width))

    return rates(endless(), 1)


def shrink_of(box):
    """The largest of 1, 2, 4, 8 that leaves at least SIZE pixels of the box."""
    return next(
        (n for n in (8, 4, 2) if n * SIZE <= min(box[2:])),
        1,
    )


# --- One core ----------------------------------------------------------------


def pillow(folder):
    from PIL import Image

    def crop(content, box):
        image = Image.open(io.BytesIO(content))
        shrink = shrink_of(box)
        if shrink > 1:
            image.draft("RGB", (WIDTH // shrink, HEIGHT // shrink))
        top, left, height, width = (side / shrink for side in box)
        part = (left, top, left + width, top + height)
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=part))

    return one_by_one(folder, crop)


def opencv(folder, method="INTER_LINEAR"):
    import cv2

    cv2.setNumThreads(1)
    flags = {
        1: cv2.IMREAD_COLOR_RGB,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }

    def crop(content, box):
        shrink = shrink_of(box)
        flag = flags[shrink] | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
        top, left, height, width = (side // shrink for side in box)
        part = image[top : top + height, left : left + width]
        return cv2.resize(part, (SIZE, SIZE), interpolation=getattr(cv2, method))

    return one_by_one(folder, crop)


def simplejpeg_opencv(folder):
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)

    def crop(content, box):
        shrink = shrink_of(box)
        image = simplejpeg.decode_jpeg(
            content, "RGB", min_height=-(-HEIGHT // shrink), min_width=-(-WIDTH // shrink)
        )
        top, left, height, width = (side // shrink for side in box)
        return cv2.resize(image[top : top + height, left : left + width], (SIZE, SIZE))

    return one_by_one(folder, crop)


def ours_alone(folder):
    from flax_resnet.data.images.reading import DRAWS, random_resized_crop

    rng = np.random.default_rng(1)
    draws = {}

    def crop(content, box):
        return random_resized_crop(content, draws.setdefault(box, rng.random(DRAWS)), SIZE)

    return one_by_one(folder, crop)


# --- From files to batches ---------------------------------------------------


def ours(folder):
    from flax_resnet.config import AugmentConfig, DataConfig
    from flax_resnet.data import Prefetch, open_dataset, train_batches

    settings = DataConfig(name="folder", dir=str(folder), image_size=SIZE, splits=(1, 0, 0))
    split = open_dataset(settings, AugmentConfig()).train
    steps = {"seed": 0, "batch_size": BATCH, "start": 0, "stop": 10**9}
    return rates(Prefetch(train_batches(split, **steps), lambda batch: batch), BATCH)


def torchvision_loader(folder):
    import torch

    from tests.weights.torchvision_import import torchvision

    transforms = importlib.import_module("torchvision.transforms.v2")
    steps = [transforms.RandomResizedCrop(SIZE, antialias=True), transforms.PILToTensor()]
    dataset = torchvision.datasets.ImageFolder(folder, transforms.Compose(steps))
    # Over and over, so that no epoch's end is waited for.
    order = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**7)
    loader = torch.utils.data.DataLoader(dataset, BATCH, sampler=order, num_workers=2)
    found = rates(iter(loader), BATCH)
    return found | {"per_cpu_second": None}  # of workers that have not ended it is not known


def grain_threads(folder, decode):
    import grain

    paths = sorted(map(str, folder.rglob("*.jpg")))
    dataset = grain.MapDataset.source(paths).seed(0).shuffle().repeat()
    dataset = dataset.random_map(lambda path, rng: {"image": decode(path, rng)}).batch(BATCH)
    options = grain.ReadOptions(num_threads=CORES, prefetch_buffer_size=4)
    return rates(iter(dataset.to_iter_dataset(options)), BATCH)


def grain_pillow(folder):
    from PIL import Image

    from flax_resnet.data.images.reading import DRAWS, crop_box

    def decode(path, rng):
        image = Image.open(path).convert("RGB")
        box = crop_box(image.height, image.width, rng.random(DRAWS))
        part = (box.left, box.top, box.left + box.width, box.top + box.height)
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=part))

    return grain_threads(folder, decode)


def grain_with_our_decoder(folder):
    from flax_resnet.data.images.reading import DRAWS, random_resized_crop

    return grain_threads(
        folder, lambda path, rng: random_resized_crop(path, rng.random(DRAWS), SIZE)
    )


# --- In memory ---------------------------------------------------------------


def small_batches():
    from flax_resnet.data import Split, train_batches

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50_000, 32, 32, 3), np.uint8)
    split = Split(images, rng.integers(0, 10, 50_000).astype(np.int32))
    return train_batches(split, seed=0, batch_size=512, start=0, stop=10**9)


def gather(folder):
    return rates(small_batches(), 512)


def gather_and_augment(folder):
    import jax
    import jax.numpy as jnp

    from flax_resnet.data import Augmentation

    augment = jax.jit(Augmentation(crop_padding=4, flip=True))
    key, places = jax.random.key(0), jnp.arange(512)

    def augmented():
        for batch in small_batches():
            yield jax.block_until_ready(augment(key, batch["image"], places))

    return rates(augmented(), 512)


JOBS = {
    "resident": {
        "gather on the host": (gather, ()),
        "gather, then augment on the device": (gather_and_augment, ()),
    },
    "one core": {
        "Pillow, draft mode": (pillow, ()),
        "OpenCV, reduced, linear (does not antialias)": (opencv, ("cv2",)),
        "OpenCV, reduced, area": (lambda folder: opencv(folder, "INTER_AREA"), ("cv2",)),
        "simplejpeg, OpenCV linear (does not antialias)": (simplejpeg_opencv, ("cv2",)),
        "flax_resnet": (ours_alone, ()),
    },
    f"all {CORES} cores": {
        "torchvision transforms, DataLoader, 2 workers": (torchvision_loader, ("torchvision",)),
        "grain, Pillow": (grain_pillow, ("grain",)),
        "grain, our decoder": (grain_with_our_decoder, ("grain",)),
        "flax_resnet": (ours, ()),
    },
}


def main():
    jobs = [
        (part, name)
        for part, entries in JOBS.items()
        for name, (_, needs) in entries.items()
        if all(map(importlib.util.find_spec, needs))
    ]
    found = {job: [] for job in jobs}
    runs = jobs * REPEATS
    random.Random(0).shuffle(runs)
    with tempfile.TemporaryDirectory() as scratch:
        make_photos(Path(scratch))
        sizes = [path.stat().st_size for path in Path(scratch).rglob("*.jpg")]
        print(f"{COUNT} JPEGs of {WIDTH}x{HEIGHT}, {statistics.mean(sizes) / 1000:.0f} KB each")
        for part, name in runs:
            command = [sys.executable, "-m", "benchmarks.data", part, name, scratch]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[part, name].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {}
    for job, results in found.items():
        values = [[result[key] for result in results] for key in ("rate", "per_cpu_second")]
        medians[job] = [statistics.median(v) if v[0] is not None else None for v in values]
    for part in JOBS:
        print(f"\n{part:48}{'images/s':>12}{'a CPU second':>14}")
        for (_, name), (rate, per_cpu) in sorted(
            ((job, value) for job, value in medians.items() if job[0] == part),
            key=lambda item: item[1][0],
        ):
            print(f"{name:48}{rate:12,.0f}{per_cpu or float('nan'):14,.0f}")
    alone = {job: value for job, value in medians.items() if job[0] == "one core"}
    road = medians[f"all {CORES} cores", "flax_resnet"]
    print("\nour road / (cores x the best decoder), in images/s and in images a CPU second:")
    for text, fits in (
        ("of those that antialias", lambda name: "does not" not in name),
        ("of all", lambda name: True),
    ):
        chosen = [value for (_, name), value in alone.items() if fits(name)]
        by_rate = road[0] / (CORES * max(value[0] for value in chosen))
        by_cpu = road[1] / max(value[1] for value in chosen)
        print(f"  {text:24}{by_rate:6.2f}{by_cpu:8.2f}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure, _ = JOBS[sys.argv[1]][sys.argv[2]]
        print(json.dumps(measure(Path(sys.argv[3]))))
        sys.stdout.flush()
        os._exit(0)  # without waiting for workers that were told of no end
    else:
        main()
