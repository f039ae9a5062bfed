"""Image files as a source of batches: values, order, shards, and files that cannot be read."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flax_resnet.config import AugmentConfig, DataConfig
from flax_resnet.data import open_dataset
from flax_resnet.data.images import (
    UNIFORMS_PER_CROP,
    ImageDecodeError,
    ImageFiles,
    Records,
    random_resized_crop,
    resize_center_crop,
)
from flax_resnet.data.order import batch_indices, crop_uniforms
from flax_resnet.data.pipeline import Shard, eval_batches, train_batches
from flax_resnet.errors import UserError

SIZE = 6
BAD = {3: "text", 4: "cut off", 9: "empty"}  # the first file follows the last
COUNT = 10


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Ten files with ten labels; those of BAD cannot be decoded."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (14 + number, 23 - number, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.jpg")
    (root / "3.jpg").write_bytes(b"<html>not found</html>")
    (root / "4.jpg").write_bytes((root / "4.jpg").read_bytes()[:-40])
    (root / "9.jpg").write_bytes(b"")
    paths = tuple(str(root / f"{number}.jpg") for number in range(COUNT))
    return Records(paths, np.arange(COUNT, dtype=np.int32))


def files(records: Records, **options) -> ImageFiles:
    return ImageFiles(records, **({"size": SIZE, "workers": 2, "on_bad_image": "skip"} | options))


def good(records: Records) -> Records:
    kept = [n for n in range(COUNT) if n not in BAD]
    return Records(tuple(records.paths[n] for n in kept), records.labels[kept])


# --- Values ------------------------------------------------------------------


@pytest.mark.parametrize(("resize", "used"), [(None, 7), (6, 6), (11, 11)])
def test_without_crop_uniforms_the_center_is_cropped(records, resize, used):
    """256/224 of 6 is 7, rounded."""
    source = files(good(records), resize=resize, on_bad_image="error")
    batch = source.gather(np.array([2, 0, 2]))
    assert sorted(batch) == ["image", "label"]
    paths = good(records).paths
    expected = np.stack([resize_center_crop(paths[n], used, SIZE) for n in (2, 0, 2)])
    np.testing.assert_array_equal(batch["image"], expected)
    assert batch["label"].tolist() == [2, 0, 2]
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
    assert source.image_shape == (SIZE, SIZE, 3) and len(source) == COUNT - len(BAD)


def test_crop_uniforms_determine_the_crops(records):
    options = {"scale": (0.2, 0.5), "ratio": (1.0, 1.5), "interpolation": "bicubic"}
    uniforms = np.random.default_rng(1).random((4, UNIFORMS_PER_CROP))
    batch = files(good(records), **options).gather([0, 1, 2, 1], uniforms)
    expected = [
        random_resized_crop(good(records).paths[n], row, SIZE, **options)
        for n, row in zip((0, 1, 2, 1), uniforms, strict=True)
    ]
    np.testing.assert_array_equal(batch["image"], np.stack(expected))


@pytest.mark.parametrize("workers", [None, 1, 5])
def test_the_number_of_threads_changes_nothing(records, workers):
    uniforms = np.random.default_rng(2).random((20, UNIFORMS_PER_CROP))
    index = np.arange(20) % COUNT
    one, other = files(records, workers=1), files(records, workers=workers)
    assert_same([one.gather(index, uniforms)], [other.gather(index, uniforms)])
    assert one.bad == other.bad


def test_an_empty_batch_and_indices_outside(records):
    source = files(good(records))
    assert source.gather([])["image"].shape == (0, SIZE, SIZE, 3)
    with pytest.raises(IndexError):
        source.gather([0, 7])
    assert source.gather([-1])["label"].tolist() == [8]
    assert len(files(Records((), np.zeros(0, np.int32)))) == 0


def test_a_crop_larger_than_the_resized_image(records):
    with pytest.raises(UserError, match=r"images of 6 pixels cannot be cropped from .* 5"):
        files(records, resize=5)


def test_no_batch_is_gathered_after_close(records):
    with files(good(records)) as source:
        source.gather([0])
    with pytest.raises(RuntimeError):
        source.gather([0])


def test_files_of_all_formats_and_modes_make_one_batch(tmp_path):
    """Each file has one colour, which is decoded up to the losses of JPEG and CMYK."""
    colour = Image.new("RGB", (20, 12), (200, 100, 50))
    grey = Image.new("L", (12, 20), 120)
    deep = Image.fromarray(np.full((9, 9), 120 * 257, np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    images = {
        "a.jpg": (colour, {}),
        "b.PNG": (colour.convert("RGBA"), {}),
        "c.webp": (colour, {"lossless": True}),
        "d.bmp": (colour, {}),
        "e.gif": (colour.quantize(4), {"save_all": True, "append_images": [grey]}),
        "f.jpeg": (colour.convert("CMYK"), {}),
        "g.jpg": (colour, {"exif": turned}),
        "h.tif": (colour, {}),
        "i.png": (grey, {}),
        "j.png": (deep, {}),
        "k.png": (grey.convert("LA"), {}),
    }
    for name, (image, options) in images.items():
        image.save(tmp_path / name, **options)
    labels = np.arange(len(images), dtype=np.int32)
    source = files(Records(tuple(str(tmp_path / name) for name in images), labels))
    expected = np.array([(200, 100, 50)] * 8 + [(120, 120, 120)] * 3)
    for uniforms in (None, np.random.default_rng(0).random((len(images), UNIFORMS_PER_CROP))):
        batch = source.gather(labels, uniforms)
        assert np.abs(batch["image"] - expected[:, None, None]).max() <= 4
    assert source.bad == {}


# --- Files that cannot be read -----------------------------------------------


@pytest.mark.parametrize(
    ("number", "reason"), [(3, "is text and not an image"), (4, "truncated"), (9, "is empty")]
)
def test_error_stops_at_the_file_with_its_name(records, number, reason):
    source = files(records, on_bad_image="error")
    for uniforms in (None, np.zeros((2, UNIFORMS_PER_CROP))):
        with pytest.raises(ImageDecodeError, match=reason) as caught:
            source.gather([0, number], uniforms)
        assert caught.value.name == records.paths[number]
    assert source.bad == {}


def test_in_evaluation_bad_files_are_masked_and_named(records):
    source = files(records)
    batch = source.gather(np.arange(COUNT))
    assert np.flatnonzero(~batch["mask"]).tolist() == sorted(BAD)
    assert not batch["image"][~batch["mask"]].any()
    assert batch["label"].tolist() == list(range(COUNT))
    assert sorted(source.bad) == [records.paths[n] for n in sorted(BAD)]
    assert "truncated" in source.bad[records.paths[4]]
    seen = [b["label"][b["mask"]] for b in eval_batches(source, batch_size=4)]
    assert np.concatenate(seen).tolist() == [n for n in range(COUNT) if n not in BAD]


def test_in_training_the_next_good_file_replaces_a_bad_one(records):
    uniforms = np.random.default_rng(3).random((4, UNIFORMS_PER_CROP))
    batch = files(records).gather([3, 4, 9, 5], uniforms)
    assert batch["label"].tolist() == [5, 5, 0, 5]
    expected = [
        random_resized_crop(records.paths[n], row, SIZE)
        for n, row in zip((5, 5, 0, 5), uniforms, strict=True)
    ]
    np.testing.assert_array_equal(batch["image"], np.stack(expected))
    assert "mask" not in batch


def test_training_without_random_crops_replaces_bad_files_too(records):
    """They were black images, which batch norm and mixup saw."""
    (batch,) = train_batches(
        files(records), seed=0, batch_size=COUNT, start=0, stop=1, random_crops=False
    )
    order = batch_indices(0, 0, COUNT, COUNT)
    following = {3: 5, 4: 5, 9: 0}
    expected = [following.get(n, n) for n in order.tolist()]
    assert batch["label"].tolist() == expected and batch["mask"].all()
    pixels = [resize_center_crop(records.paths[n], 7, SIZE) for n in expected]
    np.testing.assert_array_equal(batch["image"], pixels)


@pytest.mark.parametrize("random_crops", [True, False])
def test_training_stops_if_no_file_can_be_read(records, random_crops):
    bad = Records(tuple(records.paths[n] for n in BAD), np.zeros(len(BAD), np.int32))
    steps = {"seed": 0, "batch_size": 1, "start": 0, "stop": 1, "random_crops": random_crops}
    with pytest.raises(UserError, match=r"none of the 3 images can be decoded .*; replace them"):
        list(train_batches(files(bad), **steps))


def test_an_image_of_too_many_pixels_is_skipped_with_its_size(records):
    source = files(good(records), max_pixels=300)
    batch = source.gather(np.arange(7))
    sizes = [Image.open(path).size for path in good(records).paths]
    assert batch["mask"].tolist() == [width * height <= 300 for width, height in sizes]
    assert not batch["mask"].all()
    assert all("more than the 300 that are allowed" in reason for reason in source.bad.values())


# --- The order of batches, in several processes and after a resumption ---


def run(records: Records, seed: int, batch_size: int, start: int, stop: int, **options):
    """Return the batches of a new process."""
    source = files(records)
    return list(
        train_batches(
            source, seed=seed, batch_size=batch_size, start=start, stop=stop, **options
        )
    )  # fmt: skip


def joined(by_process: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([batch[name] for batch in by_process]) for name in by_process[0]}


def assert_same(first: list, second: list) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


streaming = settings(deadline=None, max_examples=25, database=None)
seeds = st.integers(0, 2**32 - 1)


@streaming
@given(
    seed=seeds,
    per_process=st.integers(1, 4),
    processes=st.integers(2, 3),
    start=st.integers(0, 40),
    crops=st.booleans(),
)
def test_processes_make_the_rows_of_one_batch(records, seed, per_process, processes, start, crops):
    """This also holds if one process finds a bad file in its rows that the other never reads."""
    options = {"start": start, "stop": start + 2, "random_crops": crops}
    size = per_process * processes
    by_process = [
        run(records, seed, size, **options, shard=Shard(index, processes))
        for index in range(processes)
    ]
    whole = run(records, seed, size, **options)
    assert_same([joined(list(batches)) for batches in zip(*by_process, strict=True)], whole)


@streaming
@given(seed=seeds, batch_size=st.integers(1, 6), start=st.integers(1, 8), crops=st.booleans())
def test_a_resumed_run_continues_like_the_first(records, seed, batch_size, start, crops):
    first = run(records, seed, batch_size, 0, start + 2, random_crops=crops)
    later = run(records, seed, batch_size, start, start + 2, random_crops=crops)
    assert_same(first[start:], later)


@streaming
@given(seed=seeds, step=st.integers(0, 1000))
def test_batches_are_the_ordered_files_cropped_by_the_steps_uniforms(records, seed, step):
    (batch,) = run(records, seed, 4, step, step + 1)
    stand_in = {3: 5, 4: 5, 9: 0}
    chosen = [stand_in.get(n, n) for n in batch_indices(seed, step, 4, COUNT).tolist()]
    assert batch["label"].tolist() == chosen
    uniforms = crop_uniforms(seed, step, 4)
    expected = [
        random_resized_crop(records.paths[n], row, SIZE)
        for n, row in zip(chosen, uniforms, strict=True)
    ]
    np.testing.assert_array_equal(batch["image"], np.stack(expected))


# --- ``open_dataset`` ----------------------------------------------------


def test_open_dataset_of_a_folder_with_bad_files(records, tmp_path):
    for number in range(COUNT):
        target = tmp_path / "photos" / "train" / "ab"[number % 2] / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(records.paths[number]).read_bytes())
    settings = {"name": "folder", "dir": str(tmp_path / "photos"), "image_size": SIZE}
    dataset = open_dataset(DataConfig(**settings, splits=(1, 0, 0)), AugmentConfig())
    list(eval_batches(dataset.train, batch_size=4))
    assert sorted(Path(path).name for path in dataset.bad) == ["3.jpg", "4.jpg", "9.jpg"]
    strict = DataConfig(**settings, splits=(1, 0, 0), on_bad_image="error")
    with pytest.raises(ImageDecodeError):
        list(eval_batches(open_dataset(strict, AugmentConfig()).train, batch_size=4))
