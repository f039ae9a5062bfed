"""Shards as sources of training: the folder's batches, any order, and an index that is kept."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from flax_resnet import UserError
from flax_resnet.config import AugmentConfig, DataConfig
from flax_resnet.data import ShardOrder, eval_batches, open_dataset, shards_of, train_batches
from flax_resnet.data.fingerprint import differences, fingerprint
from flax_resnet.data.images import shards as package
from flax_resnet.data.images.shards import index
from flax_resnet.data.order import batch_indices
from flax_resnet.data.pipeline import Shard
from flax_resnet.data.tfds import prepare
from tests.strangers.shards import picture, samples, tar

FORMATS = ("webdataset", "parquet", "tfds")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The same 60 images of three classes in each format; one of the folder's files is damaged."""
    pytest.importorskip("pyarrow")
    root = tmp_path_factory.mktemp("sets")
    for number in range(60):
        path = root / "photos" / "cad"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number)[: 100 if number == 7 else None])
    for form in FORMATS:
        prepare(str(root / "photos"), data_dir=root / form, to=form)
    return {
        "folder": {"name": "folder", "dir": str(root / "photos")},
        "webdataset": {"name": "webdataset", "dir": str(root / "webdataset" / "photos")},
        "parquet": {"name": "parquet", "dir": str(root / "parquet" / "photos")},
        "tfds": {"name": "photos", "dir": str(root / "tfds")},
    }


def opened(settings):
    return open_dataset(DataConfig(**settings, image_size=8), AugmentConfig())


def batches(dataset, start=0, stop=12, **options):
    steps = {"seed": 5, "batch_size": 16, "start": start, "stop": stop}
    return list(train_batches(dataset.train, **(steps | options)))


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_has_the_batches_of_the_folder(sets, form):
    folder, other = opened(sets["folder"]), opened(sets[form])
    assert other.classes == folder.classes == ("a", "c", "d")
    assert_equal(batches(other), batches(folder))
    for split in ("validation", "test"):
        found, expected = (
            list(eval_batches(getattr(one, split), batch_size=4)) for one in (other, folder)
        )
        assert_equal(found, expected)
    assert len(other.bad) == len(folder.bad) == 1


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_a_run_on_shards_knows_its_images_by_their_contents(sets, form):
    """A run may go on with the same images in another format: their hashes are the same."""
    before = fingerprint(opened(sets["folder"]), sets["folder"]["dir"])
    assert differences(before, fingerprint(opened(sets[form]), sets[form]["dir"])) == []


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_the_same_images_give_the_same_bytes(sets, form, tmp_path):
    written = sets[form]["dir"]
    again = prepare(sets["folder"]["dir"], data_dir=tmp_path, to=form)
    names = sorted(path.name for path in again.iterdir())
    extension = {"webdataset": "tar", "parquet": "parquet"}[form]
    splits = [f"{split}-00000-of-00001.{extension}" for split in ("test", "train", "validation")]
    described = [".prepared_from.json"] + ["classes.json"] * (form == "webdataset")
    assert names == described + splits
    for name in names:
        assert (again / name).read_bytes() == Path(written, name).read_bytes()


def test_shards_are_flushed_through_a_file_that_is_open_for_writing(sets, tmp_path, monkeypatch):
    """Windows refuses ``fsync`` of a file that is open for reading."""
    fcntl = pytest.importorskip("fcntl")
    flushed, fsync = [], os.fsync

    def checked(descriptor):
        flushed.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", checked)
    prepare(sets["folder"]["dir"], data_dir=tmp_path, to="webdataset")
    assert len(flushed) >= 3 and os.O_RDONLY not in flushed


def test_other_programs_read_what_prepare_writes(sets):
    """tarfile and pyarrow, without our reader."""
    import tarfile

    import pyarrow.parquet as pq

    first = sorted(os.listdir(sets["folder"]["dir"] + "/a"))
    with tarfile.open(sets["webdataset"]["dir"] + "/train-00000-of-00001.tar") as archive:
        names = archive.getnames()
        content = archive.extractfile("00000000.png").read()
    assert names[:4] == ["00000000.png", "00000000.cls", "00000001.png", "00000001.cls"]
    originals = [Path(sets["folder"]["dir"], "a", name).read_bytes() for name in first]
    assert content in originals
    table = pq.read_table(sets["parquet"]["dir"] + "/train-00000-of-00001.parquet")
    assert table.column("image")[0].as_py() == {"bytes": content, "path": "00000000.png"}
    assert b'"names": ["a", "c", "d"]' in table.schema.metadata[b"huggingface"]


@pytest.fixture
def shards(tmp_path):
    """Four shards of 10 images."""
    for number in range(4):
        tar(tmp_path / f"{number}.tar", samples([0, 1] * 5, start=10 * number))
    return tmp_path


def dataset_of(root, **data):
    settings = {"name": "webdataset", "dir": str(root), "image_size": 8, "splits": (1, 0, 0)}
    return open_dataset(DataConfig(**(settings | data)), AugmentConfig())


def test_any_step_is_read_without_those_before_it(shards):
    dataset = dataset_of(shards)
    for order in ({}, {"order": ShardOrder(shards_of(dataset.train), 16)}):
        whole = batches(dataset, **order)
        for step in (1, 5, 11):
            assert_equal(batches(dataset, start=step, **order), whole[step:])


def test_the_order_of_shards_is_a_function_of_seed_and_epoch(shards):
    numbers = shards_of(dataset_of(shards).train)
    np.testing.assert_array_equal(numbers, np.repeat(range(4), 10))
    order = ShardOrder(numbers, 16)
    epochs = [order(seed, epoch, 40) for seed in (0, 1) for epoch in range(3)]
    assert len({one.tobytes() for one in epochs}) == 6
    for one in epochs:
        np.testing.assert_array_equal(np.sort(one), range(40))
    np.testing.assert_array_equal(ShardOrder(numbers, 16)(1, 2, 40), epochs[-1])


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_a_host_reads_its_own_part_of_the_shards(hosts):
    """Whatever their number, hosts make the rows of one order, and in an epoch each reads one
    piece of the line of permuted shards, so few shards besides its own."""
    numbers = np.repeat(np.arange(32), 50)
    order = ShardOrder(numbers, 64, readers=8, window=16)
    steps = [batch_indices(3, step, 64, 1600, order=order) for step in range(50)]
    rows = [[Shard(host, hosts).of(step) for step in steps] for host in range(hosts)]
    for step, parts in zip(steps, zip(*rows, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), step)
    for own in rows:
        first_epoch = np.concatenate(own[:25])
        assert len(np.unique(numbers[first_epoch])) <= 32 // hosts + 1


def test_a_reader_goes_through_its_shards_in_runs():
    order = ShardOrder(np.repeat(np.arange(16), 100), 4, readers=4, window=20)
    line = order(0, 0, 1600)[::4]  # the rows of the first reader
    for start in range(0, 400, 20):
        run = np.sort(line[start : start + 20])
        np.testing.assert_array_equal(run, np.arange(run[0], run[0] + 20))


def test_the_order_of_shards_needs_shards(sets):
    with pytest.raises(UserError, match="is for data sets in shards"):
        shards_of(opened(sets["tfds"]).train)
    with pytest.raises(UserError, match="is a file of its own"):
        shards_of(opened(sets["folder"]).train)


# --- The index -----------------------------------------------------------------


def old(root):
    """Make all shards old enough for their index to be kept."""
    for path in root.glob("*.tar"):
        os.utime(path, ns=(10**18, 10**18))


@pytest.fixture
def scans(monkeypatch):
    """The names of the shards that are read for the index."""
    found = []

    def counted(path, file, wanted, scan=package.SHARD_FORMATS["webdataset"].scan):
        found.append(os.path.basename(path))
        return scan(path, file, wanted)

    form = package.SHARD_FORMATS["webdataset"]
    patched = type(form)(form.extensions, counted)
    monkeypatch.setitem(package.SHARD_FORMATS, "webdataset", patched)
    return found


def test_the_index_is_built_once_and_only_changed_shards_are_read(shards, scans):
    old(shards)
    before = fingerprint(dataset_of(shards), shards)
    assert sorted(scans) == ["0.tar", "1.tar", "2.tar", "3.tar"]
    scans.clear()
    assert fingerprint(dataset_of(shards), shards) == before
    assert scans == []
    tar(shards / "1.tar", [*samples([0, 1] * 4, start=10), *samples([0, 1], start=70)])
    assert differences(before, fingerprint(dataset_of(shards), shards)) == [
        "2 images were added (1.tar/0070.png, 1.tar/0071.png)",
        "2 images were removed (1.tar/0018.png, 1.tar/0019.png)",
    ]
    assert scans == ["1.tar"]
    (shards / index.FILE).write_bytes(b"damaged")
    assert len(dataset_of(shards).train) == 40


def test_an_index_of_a_folder_that_cannot_be_written_is_in_the_cache(
    shards, scans, monkeypatch, tmp_path_factory
):
    old(shards)
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FLAX_RESNET_CACHE", str(cache))
    write = index.replacing

    def refused(path):
        if str(path).startswith(str(shards)):
            raise UserError("cannot be written")
        return write(path)

    monkeypatch.setattr(index, "replacing", refused)
    dataset_of(shards)
    scans.clear()
    dataset_of(shards)
    assert scans == [] and len(list(cache.rglob("*.index"))) == 1


def test_a_moved_set_keeps_its_index(shards, scans, tmp_path_factory):
    old(shards)
    dataset_of(shards)
    moved = shutil.move(shards, tmp_path_factory.mktemp("moved") / "set")
    scans.clear()
    assert len(dataset_of(moved).train) == 40 and scans == []


@pytest.mark.parametrize("on_bad_image", ["skip", "error"])
def test_a_shard_that_changes_during_a_run_ends_it(shards, on_bad_image):
    """Its bytes are others than those of the index: reading on would train on wrong images."""
    dataset = dataset_of(shards, on_bad_image=on_bad_image)
    tar(shards / "2.tar", samples([1, 0] * 5, start=50))
    with pytest.raises(UserError, match=r"2\.tar has changed while it was in use"):
        dataset.train.gather(np.arange(40), np.zeros((40, 22)))


def test_a_single_shard_and_its_folder_share_the_index(shards, scans):
    old(shards)
    dataset_of(shards)
    scans.clear()
    assert len(dataset_of(shards / "2.tar").train) == 10
    assert len(dataset_of(shards).train) == 40
    assert scans == []


def test_options(shards):
    """The label by name, and a sample's image by extension."""
    dataset = dataset_of(shards, columns="png,cls")
    assert len(dataset.train) == 40
    with pytest.raises(UserError, match="has no label in its samples, only cls"):
        dataset_of(shards, columns="png,label")
