"""Images per second of our data pipelines, compared with other decoders, torchvision and grain.

    pip install torch torchvision grain opencv-python-headless   # missing packages are skipped
    python -m benchmarks.data

In memory: batches of 512 from 50,000 images of 32x32 in memory. The host gathers whole batches, and
the device, here also the CPU, crops and mirrors them.

Image files: JPEGs of 500x375 with the spectrum of photos, random resized crops of 224x224. First
each decoder alone with one thread and files in memory, then whole pipelines from files to batches
of 64. A decoder "antialiases" if all pixels have a weight when an image is shrunk, as in Pillow and
torchvision, and as our tests require.

Each measurement runs in a new process, in random order, and the figures are medians. Next to images
per second the tables show images per second of CPU time, which other programs disturb less.
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
SECONDS = 2.0  # length of each measurement, after a warm-up pass
COUNT, HEIGHT, WIDTH, SIZE, BATCH = 256, 375, 500, 224, 64
CORES = len(os.sched_getaffinity(0))


def make_photos(folder):
    """Write JPEG files of about 85 KB: noise with the power spectrum of photos, similar in the
    three channels, and some sensor noise."""
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
    return sum(entry.ru_utime + entry.ru_stime for entry in usage)


def rates(batches, images):
    """Return images per second, and per second of CPU time, of an endless iterator of batches."""
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
    """Return the rates of ``crop(content, box)`` of one file after another, with training crops."""
    from flax_resnet.data.images import UNIFORMS_PER_CROP, crop_box

    contents = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    rng = np.random.default_rng(1)
    boxes = [crop_box(HEIGHT, WIDTH, rng.random(UNIFORMS_PER_CROP)) for _ in contents]

    def endless():
        while True:
            for content, box in zip(contents, boxes, strict=True):
                yield crop(content, (box.top, box.left, box.height, box.width))

    return rates(endless(), 1)


def shrink_of(box):
    """Return the largest of 1, 2, 4, 8 that leaves at least SIZE pixels of the box."""
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
        region = (left, top, left + width, top + height)
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=region))

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
        region = image[top : top + height, left : left + width]
        return cv2.resize(region, (SIZE, SIZE), interpolation=getattr(cv2, method))

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
    from flax_resnet.data.images import UNIFORMS_PER_CROP, random_resized_crop

    rng = np.random.default_rng(1)
    uniforms = {}

    def crop(content, box):
        return random_resized_crop(
            content, uniforms.setdefault(box, rng.random(UNIFORMS_PER_CROP)), SIZE
        )

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
    # Sampling with replacement, so that no epoch ends.
    order = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**7)
    loader = torch.utils.data.DataLoader(dataset, BATCH, sampler=order, num_workers=2)
    found = rates(iter(loader), BATCH)
    return found | {"per_cpu_second": None}  # unknown, because the workers have not ended


def grain_threads(folder, decode):
    import grain

    paths = sorted(map(str, folder.rglob("*.jpg")))
    dataset = grain.MapDataset.source(paths).seed(0).shuffle().repeat()
    dataset = dataset.random_map(lambda path, rng: {"image": decode(path, rng)}).batch(BATCH)
    options = grain.ReadOptions(num_threads=CORES, prefetch_buffer_size=4)
    return rates(iter(dataset.to_iter_dataset(options)), BATCH)


def grain_pillow(folder):
    from PIL import Image

    from flax_resnet.data.images import UNIFORMS_PER_CROP, crop_box

    def decode(path, rng):
        image = Image.open(path).convert("RGB")
        box = crop_box(image.height, image.width, rng.random(UNIFORMS_PER_CROP))
        region = (box.left, box.top, box.left + box.width, box.top + box.height)
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=region))

    return grain_threads(folder, decode)


def grain_with_our_decoder(folder):
    from flax_resnet.data.images import UNIFORMS_PER_CROP, random_resized_crop

    return grain_threads(
        folder, lambda path, rng: random_resized_crop(path, rng.random(UNIFORMS_PER_CROP), SIZE)
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
    key, indices = jax.random.key(0), jnp.arange(512)

    def augmented():
        for batch in small_batches():
            yield jax.block_until_ready(augment(key, batch["image"], indices))

    return rates(augmented(), 512)


JOBS = {
    "in memory": {
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
        (group, name)
        for group, entries in JOBS.items()
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
        for group, name in runs:
            command = [sys.executable, "-m", "benchmarks.data", group, name, scratch]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[group, name].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {}
    for job, results in found.items():
        values = [[result[key] for result in results] for key in ("rate", "per_cpu_second")]
        medians[job] = [statistics.median(v) if v[0] is not None else None for v in values]
    for group in JOBS:
        print(f"\n{group:48}{'images/s':>12}{'per CPU second':>16}")
        for (_, name), (rate, per_cpu) in sorted(
            ((job, value) for job, value in medians.items() if job[0] == group),
            key=lambda item: item[1][0],
        ):
            print(f"{name:48}{rate:12,.0f}{per_cpu or float('nan'):16,.0f}")
    alone = {job: value for job, value in medians.items() if job[0] == "one core"}
    ours_rate, ours_per_cpu = medians[f"all {CORES} cores", "flax_resnet"]
    print("\nour pipeline / (cores x best decoder), in images/s and images per CPU second:")
    for text, fits in (
        ("antialiasing decoders", lambda name: "does not" not in name),
        ("all decoders", lambda name: True),
    ):
        chosen = [value for (_, name), value in alone.items() if fits(name)]
        by_rate = ours_rate / (CORES * max(value[0] for value in chosen))
        by_cpu = ours_per_cpu / max(value[1] for value in chosen)
        print(f"  {text:24}{by_rate:6.2f}{by_cpu:8.2f}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure, _ = JOBS[sys.argv[1]][sys.argv[2]]
        print(json.dumps(measure(Path(sys.argv[3]))))
        sys.stdout.flush()
        os._exit(0)  # does not wait for the endless workers
    else:
        main()
