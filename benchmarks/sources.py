"""Images per second from a folder, TFDS, WebDataset and Parquet, beside webdataset's and datasets'.

    pip install "flax-resnet[parquet]" webdataset datasets   # missing peers are skipped
    python -m benchmarks.sources [--photos FOLDER] [--cifar cifar-10-binary.tar.gz]

Photos: 1,024 JPEG files of 500x375, as a folder and prepared from it in each format; random resized
crops of 224x224 in batches of 64. They are those of ``--photos``, enlarged and with noise, by which
they have about ImageNet's 108 KB, or have the spectrum of photos (``benchmarks.data``, 85 KB). The
peers decode by Pillow, each in one thread of one process, as they do by themselves, and crop as
``grain_pillow`` of ``benchmarks.data`` does.

CIFAR: 12,500 training images as PNG files, four fifths of which the sources train on. Their batches
must be the same from every source and after a resumption, or the benchmark fails.

Each measurement runs in a new process, in random order, and the figures are medians. The files are
in the page cache: this is the cost of the processor, not of a disk.
"""

import argparse
import importlib.util
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import data as photos
from benchmarks.data import BATCH, CORES, SIZE, rates

PHOTOS, DIFFERENT = 1024, 64
SMALL = 12_500  # of which four fifths are for training
SHARDS = {"webdataset": "*.tar", "parquet": "*.parquet"}


def settings_of(root, form):
    from flax_resnet.config import DataConfig

    size = SIZE if root.name == "photos" else 32
    common = {"image_size": size, "resize": size}
    where = {
        "folder": ("folder", root / "images"),
        "tfds": ("images", root / "tfds"),
        "webdataset": ("webdataset", root / "webdataset" / "images"),
        "parquet": ("parquet", root / "parquet" / "images"),
    }
    name, folder = where[form]
    return DataConfig(name=name, dir=str(folder), **common)


def open_split(root, form):
    from flax_resnet.config import AugmentConfig
    from flax_resnet.data import open_dataset

    return open_dataset(settings_of(root, form), AugmentConfig()).train


def ours(root, form, shuffle="global"):
    from flax_resnet.data import Prefetch, ShardOrder, epoch_order, shards_of, train_batches

    split = open_split(root, form)
    order = epoch_order if shuffle == "global" else ShardOrder(shards_of(split), BATCH)
    steps = {"seed": 0, "batch_size": BATCH, "start": 0, "stop": 10**9, "order": order}
    crops = root.name == "photos"
    batches = train_batches(split, **steps, random_crops=crops)
    return rates(Prefetch(batches, lambda batch: batch), BATCH)


def pillow_pixels(rng, crop, image):
    """An image as it is, or a random resized crop of it."""
    from PIL import Image

    from flax_resnet.data.images import UNIFORMS_PER_CROP, crop_box

    image = image.convert("RGB")
    if not crop:
        return np.asarray(image)
    box = crop_box(image.height, image.width, rng.random(UNIFORMS_PER_CROP))
    region = (box.left, box.top, box.left + box.width, box.top + box.height)
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=region))


def webdataset_loader(root, form):
    import webdataset

    pixels = partial(pillow_pixels, np.random.default_rng(0), root.name == "photos")
    shards = sorted(str(path) for path in (root / form / "images").glob("train-*.tar"))
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0, empty_check=False)
    key = "jpg" if root.name == "photos" else "png"
    dataset = dataset.repeat().shuffle(1000).decode("pil").to_tuple(key, "cls")
    batches = dataset.map_tuple(pixels, int).batched(BATCH)
    return rates(iter(batches), BATCH)


def datasets_loader(root, form, streaming):
    import datasets

    datasets.disable_progress_bars()
    pixels = partial(pillow_pixels, np.random.default_rng(0), root.name == "photos")
    extension = SHARDS[form].replace("*", "train-*")
    found = datasets.load_dataset(
        form,
        data_files=str(root / form / "images" / extension),
        split="train",
        streaming=streaming,
        cache_dir=str(root / "datasets_cache"),
    )
    image = "image" if form == "parquet" else ("jpg" if root.name == "photos" else "png")
    label = "label" if form == "parquet" else "cls"
    options = {"buffer_size": 1000} if streaming else {}

    def endless():
        epoch = 0
        while True:
            images = []
            for row in found.shuffle(seed=epoch, **options):
                images.append((pixels(row[image]), int(row[label])))
                if len(images) == BATCH:
                    yield np.stack([one for one, _ in images]), np.array([one for _, one in images])
                    images = []
            epoch += 1

    return rates(endless(), BATCH)


JOBS = {
    "flax_resnet, folder": (ours, {"form": "folder"}, ()),
    "flax_resnet, TFDS": (ours, {"form": "tfds"}, ()),
    "flax_resnet, WebDataset": (ours, {"form": "webdataset"}, ()),
    "flax_resnet, WebDataset, shuffle shards": (
        ours,
        {"form": "webdataset", "shuffle": "shards"},
        (),
    ),
    "flax_resnet, Parquet": (ours, {"form": "parquet"}, ("pyarrow",)),
    "webdataset": (webdataset_loader, {"form": "webdataset"}, ("webdataset",)),
    "datasets, Parquet": (
        datasets_loader,
        {"form": "parquet", "streaming": False},
        ("datasets",),
    ),
    "datasets, Parquet, streaming": (
        datasets_loader,
        {"form": "parquet", "streaming": True},
        ("datasets",),
    ),
}


def make_photos(folder):
    photos.COUNT = DIFFERENT
    (folder / "first").mkdir(parents=True)
    photos.make_photos(folder / "first")
    # The spectrum takes half a second each: copies differ in what follows their end.
    for number in range(PHOTOS):
        source = folder / "first" / f"class{number % 2}" / f"{number % DIFFERENT}.jpg"
        target = folder / "images" / f"class{number % 2}" / f"{number:05}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes() + str(number).encode())


NOISE, QUALITY = 16.0, 93  # by which enlarged photos have about the 108 KB of ImageNet's


def enlarge_photos(folder, source):
    """Write photos of a folder of classes, filled up to 500x375 pixels, with sensor noise."""
    from PIL import Image, ImageOps

    rng = np.random.default_rng(0)
    found = sorted(Path(source).rglob("*.jpg"))
    found = [found[index] for index in rng.permutation(len(found))[: PHOTOS // 4]]
    sizes = []
    for number, path in enumerate(found):
        with Image.open(path) as image:
            large = ImageOps.fit(image.convert("RGB"), (photos.WIDTH, photos.HEIGHT))
        pixels = large + rng.normal(0, NOISE, (photos.HEIGHT, photos.WIDTH, 3))
        file = io.BytesIO()
        clipped = np.clip(pixels, 0, 255).astype(np.uint8)
        Image.fromarray(clipped).save(file, "JPEG", quality=QUALITY)
        sizes.append(len(file.getvalue()))
        for copy in range(PHOTOS // len(found)):  # which differ in what follows their end
            target = folder / "images" / path.parent.name / f"{number:05}-{copy}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.getvalue() + str(copy).encode())
    print(f"{len(found):,} different photos of {statistics.mean(sizes) / 1e3:.0f} KB")


def make_cifar(folder, archive):
    from PIL import Image

    from flax_resnet.data.formats import CIFAR10, read_cifar

    (images, labels), _, classes = read_cifar(archive, CIFAR10)
    for number in range(SMALL):
        path = folder / "images" / classes[labels[number]] / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).save(path)


def make_formats(folder):
    from flax_resnet.data.tfds import prepare

    for name in ("tfds", *SHARDS):
        prepare(str(folder / "images"), data_dir=folder / name, to=name)


def check_equal(folder):
    """Compare the batches of all sources in two epochs, and those of a resumption at step 100."""
    from flax_resnet.data import train_batches

    steps = {"seed": 3, "batch_size": 128, "stop": 2 * SMALL * 4 // 5 // 128, "random_crops": False}
    splits = {form: open_split(folder, form) for form in ("folder", "tfds", *SHARDS)}
    assert len({len(split) for split in splits.values()}) == 1, {
        form: len(split) for form, split in splits.items()
    }
    count = 0
    for batches in zip(
        *(train_batches(split, start=0, **steps) for split in splits.values()), strict=True
    ):
        for other in batches[1:]:
            for key, value in batches[0].items():
                np.testing.assert_array_equal(other[key], value)
        count += 1
        if count == 101:
            kept = batches[0]
    for split in splits.values():
        resumed = next(train_batches(split, start=100, **steps))
        for key, value in kept.items():
            np.testing.assert_array_equal(resumed[key], value)
    sizes = len(splits["folder"])
    print(f"{sizes:,} images: the same {count} batches of 128 from {', '.join(splits)},")
    print("and after a resumption at step 100")


def measure(folder, repeats):
    jobs = [
        name
        for name, (_, _, needs) in JOBS.items()
        if all(importlib.util.find_spec(need) for need in needs)
    ]
    runs = jobs * repeats
    random.Random(0).shuffle(runs)
    found = {name: [] for name in jobs}
    for name in runs:
        command = [sys.executable, "-m", "benchmarks.sources", "--job", name, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            continue
        found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"\n{folder.name:42}{'images/s':>10}{'a core':>10}   ({CORES} cores)")
    for name, results in found.items():
        if results:
            rate, core = (
                statistics.median(one[key] for one in results) for key in ("rate", "per_cpu_second")
            )
            print(f"{name:42}{rate:10,.0f}{core:10,.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--job", nargs=2)
    options = parser.parse_args()
    if options.job:
        name, folder = options.job
        job, settings, _ = JOBS[name]
        print(json.dumps(job(Path(folder), **settings)))
        sys.stdout.flush()
        os._exit(0)  # does not wait for the endless threads
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos"
        if options.photos:
            enlarge_photos(folder, options.photos)
        else:
            make_photos(folder)
        make_formats(folder)
        measure(folder, options.repeats)
        if options.cifar:
            folder = Path(scratch) / "cifar"
            make_cifar(folder, options.cifar)
            make_formats(folder)
            check_equal(folder)
            measure(folder, options.repeats)


if __name__ == "__main__":
    main()
