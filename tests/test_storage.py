"""Addresses of object storage, and of what is none: no option makes a folder called ``s3:``."""

import hashlib
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest

import flax_resnet as fr
from flax_resnet import UserError, process_lock
from flax_resnet.cli import main
from flax_resnet.data import builtin, load_dataset
from flax_resnet.paths import expand
from flax_resnet.storage import (
    copies,
    is_remote,
    list_files,
    local_copy,
    local_data,
    locate,
    mirror,
)

ADDRESSES = ("hdfs://host/run", "https://host/run", "file:///run", "az://bucket/run", "gs:run/x:/")


@pytest.mark.parametrize("address", ["hdfs://host/a", "https://host/a", "file:///a", "az://b/a"])
@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config", "digits", "--workdir"],
        ["train", "--config", "digits", "--data.dir"],
        ["augment-preview", "--config", "digits", "--output"],
        ["finetune"],
        ["evaluate", "resnet18/DEFAULT", "--data"],
        ["report"],
        ["verify"],
        ["checkpoints"],
        ["compare", "runs/a"],
        ["convert", "nothing.pth"],
        ["export", "nothing.pth"],
        ["predict", "--classes", "names.txt", "nothing.jpg", "--model"],
    ],
    ids=" ".join,
)
def test_no_option_takes_an_unknown_address(tmp_path, monkeypatch, capsys, words, address):
    monkeypatch.chdir(tmp_path)
    assert main([*words, address]) in (1, 2)
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_address_that_pathlib_has_shortened_is_refused():
    """``Path("s3://bucket/run")`` is ``s3:/bucket/run``, a folder called ``s3:``."""
    with pytest.raises(UserError, match="write the address as text, such as s3://BUCKET/NAME"):
        locate(Path("s3://bucket/run"))
    with pytest.raises(UserError, match="hdfs:// addresses are not supported here"):
        expand(Path("hdfs://host/run"))


@pytest.mark.parametrize("path", ["c:/photos", "runs/a:b", "runs/s3://x", "resnet18:V1", "hf:a/b"])
def test_what_looks_like_an_address_is_a_local_path(path):
    assert not is_remote(locate(path))
    assert local_data(path) == local_copy(locate(path)) == mirror(locate(path)) == expand(path)


@pytest.mark.parametrize(
    ("scheme", "module", "extra"),
    [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("s3", "upath", "s3")],
)
def test_a_missing_package_is_named(monkeypatch, scheme, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as caught:
        fr.load(f"{scheme}://bucket/run")
    assert str(caught.value).endswith(f'pip install "flax-resnet[{extra}]".')
    assert str(caught.value).startswith(f"{scheme}://bucket/run needs ")


@pytest.mark.parametrize("name", ["../../.bashrc", "a/../../b", "..\\b", "C:b"])
def test_an_object_whose_name_leads_out_of_the_folder_is_refused(name):
    objects = {f"bucket/run/{one}": {"type": "file", "size": 1} for one in ("config.json", name)}
    folder = SimpleNamespace(fs=SimpleNamespace(find=lambda *_, **__: objects), path="bucket/run")
    with pytest.raises(UserError, match=r"holds an object called"):
        list_files(folder)
    del objects[f"bucket/run/{name}"]
    assert list(list_files(folder)) == ["config.json"]


def test_a_listing_that_a_store_refuses_is_one_sentence():
    """``verify gs://no-such-bucket/run`` ended in a FileNotFoundError."""

    class Folder:
        protocol, path = "gs", "no-such-bucket/run"

        def __str__(self):
            return f"gs://{self.path}"

        class fs:
            @staticmethod
            def find(*_, **__):
                raise FileNotFoundError("b/no-such-bucket/o")

    with pytest.raises(UserError, match="cannot be read: there is no bucket gs://no-such-bucket"):
        list_files(Folder())


# --- Copies ------------------------------------------------------------------


class Bucket:
    """Objects in memory, with what copies use of fsspec's file systems."""

    protocol = ("s3",)

    def __init__(self):
        self.objects = {}
        self.read = []  # names of the objects, in the order in which they were read
        self.before = lambda names: None  # called before some are read

    def info(self, name):
        if name not in self.objects:
            raise FileNotFoundError(name)
        content = self.objects[name]
        tag = hashlib.sha256(content).hexdigest()
        return {"type": "file", "size": len(content), "ETag": tag}

    def find(self, root, detail):
        return {name: self.info(name) for name in self.objects if name.startswith(root + "/")}

    def get(self, names, targets):
        self.before(names)
        for name, target in zip(names, targets, strict=True):
            self.read.append(name)
            Path(target).write_bytes(self.objects[name])


class Address:
    """An address in a ``Bucket``, with what copies use of ``UPath``."""

    protocol = "s3"

    def __init__(self, text, fs):
        self._path, self.fs = PurePosixPath(text.removeprefix("s3://")), fs
        self.path, self.name, self.suffix = str(self._path), self._path.name, self._path.suffix

    def __str__(self):
        return f"s3://{self.path}"

    def __truediv__(self, name):
        return Address(str(self._path / name), self.fs)

    @property
    def parent(self):
        return Address(str(self._path.parent), self.fs)

    def with_name(self, name):
        return self.parent / name

    def is_file(self):
        return self.path in self.fs.objects

    def exists(self):
        return self.is_file() or bool(self.fs.find(self.path, True))


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """The bucket of all addresses of S3, with ``set/a.txt``, ``set/b.txt`` and ``set/in/c.txt``.

    Its copies are below ``tmp_path / "cache"``.
    """
    fsspec = pytest.importorskip("fsspec")
    fs = Bucket()
    fs.objects = {f"b/set/{name}.txt": name.encode() for name in ("a", "b", "in/c")}
    monkeypatch.setitem(sys.modules, "upath", SimpleNamespace(UPath=lambda text: Address(text, fs)))
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda scheme: Bucket)
    monkeypatch.setenv("FLAX_RESNET_CACHE", str(tmp_path / "cache"))
    copies._copied_data.cache_clear()
    yield fs
    copies._copied_data.cache_clear()


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def index_of(folder):
    return folder.with_name("versions.json")


def test_a_copy_has_what_the_folder_has_and_reads_only_what_changed(bucket):
    folder = mirror(locate("s3://b/set"))
    assert files_in(folder) == ["a.txt", "b.txt", "in", "in/c.txt"]
    del bucket.objects["b/set/in/c.txt"]
    bucket.objects["b/set/b.txt"] = b"other"
    bucket.read.clear()
    assert mirror(locate("s3://b/set")) == folder
    assert files_in(folder) == ["a.txt", "b.txt"] and bucket.read == ["b/set/b.txt"]
    assert (folder / "b.txt").read_bytes() == b"other"


@pytest.mark.parametrize("index", ["", '{"a.txt": "1', "{}", None])
def test_what_a_kill_leaves_in_a_copy_is_deleted(bucket, index):
    """Its index is damaged, or lacks files that were copied: a run trained on deleted images."""
    folder = mirror(locate("s3://b/set"))
    del bucket.objects["b/set/in/c.txt"]
    if index is None:
        index_of(folder).unlink()
    else:
        index_of(folder).write_text(index)
    for name in (".flax_resnet.index", ".flax_resnet.index.lock"):
        (folder / name).write_text("made by us beside shards")
    mirror(locate("s3://b/set"))
    assert files_in(folder) == [".flax_resnet.index", ".flax_resnet.index.lock", "a.txt", "b.txt"]
    assert set(json.loads(index_of(folder).read_text())) == {"a.txt", "b.txt"}


def test_what_was_copied_before_a_connection_broke_is_not_read_again(bucket):
    def cut(names):
        bucket.objects["b/set/b.txt"] = b""

    bucket.before = cut
    with pytest.raises(UserError, match="the connection to s3://b failed"):
        mirror(locate("s3://b/set"))
    bucket.before = lambda names: None
    bucket.objects["b/set/b.txt"] = b"b"
    bucket.read.clear()
    assert files_in(mirror(locate("s3://b/set"))) == ["a.txt", "b.txt", "in", "in/c.txt"]
    assert bucket.read == ["b/set/b.txt", "b/set/in/c.txt"]


def test_an_index_never_lists_another_version_than_the_file_has(bucket):
    """After a kill, an object that gets its former content back was taken for unchanged."""
    folder = mirror(locate("s3://b/set"))
    listed = []
    bucket.before = lambda names: listed.append(json.loads(index_of(folder).read_text()))
    bucket.objects["b/set/b.txt"] = b"other"
    mirror(locate("s3://b/set"))
    assert [set(one) for one in listed] == [{"a.txt", "in/c.txt"}]


def test_the_index_is_not_written_after_every_few_files(bucket, monkeypatch):
    """A million images took thousands of writes of a hundred megabytes."""
    bucket.objects = {f"b/set/{number}.txt": b"x" for number in range(40)}
    monkeypatch.setattr(copies, "_AT_ONCE", 2)
    written = set()
    folder = mirror(locate("s3://b/set"))
    bucket.objects |= {f"b/set/{number}.txt": b"y" for number in range(40)}
    bucket.before = lambda names: written.add(index_of(folder).read_text())
    mirror(locate("s3://b/set"))
    assert len(bucket.read) == 80 and len(written) == 1


def test_a_process_waits_for_another_that_copies(bucket, monkeypatch, capsys):
    """It gave up after ten minutes and blamed the network."""
    monkeypatch.setattr(process_lock, "NOTE_SECONDS", 0.05)
    started, go_on = threading.Event(), threading.Event()

    def wait(names):
        started.set()
        assert go_on.wait(20)

    bucket.before = wait
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(mirror, locate("s3://b/set"))
        assert started.wait(20)
        second = pool.submit(mirror, locate("s3://b/set"))
        printed, end = "", time.monotonic() + 10
        while not printed and time.monotonic() < end:
            time.sleep(0.02)
            printed = capsys.readouterr().err
        go_on.set()
        assert first.result() == second.result()
    assert "note: another process is copying s3://b/set to this machine" in printed
    assert len(bucket.read) == 3


@pytest.mark.parametrize("beside", [{}, {"b/set/classes.json": b"[]"}])
def test_of_a_shard_that_is_named_no_others_are_copied(bucket, beside):
    bucket.objects = {f"b/set/train-{number}.tar": b"tar" for number in range(3)} | beside
    shard = local_data("s3://b/set/train-1.tar")
    assert shard.name == "train-1.tar" and shard.read_bytes() == b"tar"
    copied = ["train-1.tar"] if not beside else ["classes.json", "train-1.tar"]
    assert files_in(shard.parent) == copied
    assert len(files_in(local_data("s3://b/set"))) == 3 + len(beside)


def test_a_list_is_copied_with_its_folder(bucket):
    bucket.objects["b/set/list.csv"] = b"path,label"
    found = local_data("s3://b/set/list.csv")
    assert files_in(found.parent) == ["a.txt", "b.txt", "in", "in/c.txt", "list.csv"]


def test_a_data_set_is_not_downloaded_into_a_copy(bucket, monkeypatch, tmp_path):
    """What is in a copy and not in its folder is deleted, maybe while another process writes it."""
    targets = []

    def refuse(file, target, otherwise):
        targets.append(target)
        raise UserError("no network")

    monkeypatch.setattr(builtin, "fetch", refuse)
    with pytest.raises(UserError, match="no network"):
        load_dataset("cifar10", "s3://b/set")
    assert [target.parent for target in targets] == [tmp_path / "cache" / "datasets" / "cifar10"]
