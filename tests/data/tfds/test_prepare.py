"""``prepare`` writes folders that TFDS reads, and never needs TensorFlow."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from filelock import FileLock

from flax_resnet import UserError
from flax_resnet.cli import main
from flax_resnet.data import load_dataset
from flax_resnet.data.published import PUBLISHED
from flax_resnet.data.tfds import find_prepared, open_prepared, preparable_names, prepare
from flax_resnet.download import PublishedFile

READ = """
import json, sys
import tensorflow_datasets as tfds
sets = {s: tfds.data_source("cifar10", data_dir=sys.argv[1], split=s) for s in ("train", "test")}
names = tfds.builder("cifar10", data_dir=sys.argv[1]).info.features["label"].names
first = sets["train"][0]
print(json.dumps({"counts": {s: len(d) for s, d in sets.items()}, "names": names,
                  "label": int(first["label"]), "pixels": first["image"].tolist(),
                  "tensorflow": "tensorflow" in sys.modules}))
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, place_cifar10):
    """CIFAR-10 with 40 synthetic records per file, prepared by the command."""
    folder = tmp_path_factory.mktemp("tfds")
    archive = place_cifar10(tmp_path_factory.mktemp("original"))
    assert main(["prepare", "cifar10", "--from", str(archive), "--data.dir", str(folder)]) == 0
    return folder, archive


def test_tfds_reads_it_without_tensorflow(prepared, cifar10):
    done = subprocess.run(
        [sys.executable, "-c", READ, str(prepared[0])], capture_output=True, text=True, check=True
    )
    read = json.loads(done.stdout.splitlines()[-1])
    record = np.frombuffer(cifar10["data_batch_1.bin"][:3073], np.uint8)
    assert read["counts"] == {"train": 200, "test": 40}
    assert read["names"][0] == "class0"
    assert read["label"] == record[0]
    assert read["pixels"] == record[1:].reshape(3, 32, 32).transpose(1, 2, 0).tolist()
    assert read["tensorflow"] is False


def test_a_prepared_set_is_loaded_if_the_originals_are_absent(prepared, place_cifar10):
    folder, archive = prepared
    settings = {"validation": 0.0, "download": False}
    ours = load_dataset("cifar10", folder, **settings)
    original = load_dataset("cifar10", archive.parent, **settings)
    for split in ("train", "test"):
        a, b = getattr(ours, split), getattr(original, split)
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
    assert ours.classes == original.classes


def test_preparing_again_does_nothing(prepared):
    folder, archive = prepared
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*record*")}
    prepare("cifar10", archive, folder)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*record*")}


def test_files_of_another_set_are_refused(tmp_path):
    wrong = tmp_path / "cifar-10-binary.tar.gz"
    wrong.write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz"):
        prepare("cifar10", wrong, tmp_path / "tfds")
    with pytest.raises(UserError, match="choose one of"):
        prepare("cifar11", data_dir=tmp_path)
    assert not list((tmp_path / "tfds").rglob("dataset_info.json"))


def test_the_sets_that_can_be_prepared():
    assert {"cifar10", "cifar100", "mnist", "fashion_mnist"} <= set(preparable_names())


# --- Several at once -----------------------------------------------------------


def assert_whole(data_dir):
    """The prepared set has all records of the synthetic archive, with their labels."""
    splits = open_prepared("cifar10", data_dir).splits
    for split, count in (("train", 200), ("test", 40)):
        batch = splits[split].gather(range(count))
        assert len(splits[split]) == count
        assert batch["label"].tolist() == [number % 10 for number in range(count)]


COMMAND = "from flax_resnet.cli import main; import sys; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_two_processes_prepare_a_set_once(tmp_path, place_cifar10):
    """The lock stops both processes until both have started; then only one does the work."""
    archive = place_cifar10(tmp_path)
    (tmp_path / "cifar10").mkdir()
    arguments = ["prepare", "cifar10", "--from", str(archive), "--data.dir", str(tmp_path)]
    held = FileLock(tmp_path / "cifar10" / ".prepare.lock")
    with held:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", COMMAND, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in processes:
            lines = iter(process.stderr.readline, "")
            assert "note: another process is preparing cifar10; this one waits.\n" in lines
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    folder = tmp_path / "cifar10" / "3.0.2"
    assert [out for out, _ in outputs] == [f"{folder}\n"] * 2
    done = sorted("prepared already" in err for _, err in outputs)
    assert done == [False, True]
    assert_whole(tmp_path)
    left = {path.name for path in folder.parent.iterdir()}
    assert left <= {"3.0.2", ".prepare.lock"}


def test_a_killed_process_does_not_keep_the_lock(tmp_path, place_cifar10):
    archive = place_cifar10(tmp_path)
    home = tmp_path / "cifar10"
    (home / ".unpacked").mkdir(parents=True)
    (home / ".unpacked" / "uncompressed.tar").write_bytes(b"half")
    (home / ".prepare.lock").write_bytes(b"")
    (home / "incomplete.3.0.2").mkdir()
    (home / "incomplete.3.0.2" / "cifar10-train.array_record-00000-of-00001").write_bytes(b"half")
    prepare("cifar10", archive, tmp_path)
    assert_whole(tmp_path)


# --- Folders that cannot be written --------------------------------------------------


def test_another_folder_with_its_name_is_not_touched(tmp_path, place_cifar10):
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    (tmp_path / "cifar10" / "3.0.2" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is no data set in the format ArrayRecord: move it away"):
        prepare("cifar10", place_cifar10(tmp_path), tmp_path)
    assert (tmp_path / "cifar10" / "3.0.2" / "mine.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path, place_cifar10):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be written .*choose another folder"):
        prepare("cifar10", place_cifar10(tmp_path), tmp_path / "file")


def test_a_full_disk_loses_nothing_and_other_originals_start_again(
    tmp_path, place_cifar10, cifar10, archive
):
    """A limit on the file size of the process stands for a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    folder = tmp_path / "extracted"
    folder.mkdir()
    for name, content in cifar10.items():
        (folder / name).write_bytes(content)
    try:
        with pytest.raises(UserError, match="free some space or choose another folder") as caught:
            prepare("cifar10", folder, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value) and "resumes where it stopped" in str(caught.value)
    assert find_prepared("cifar10", tmp_path) is None
    other = place_cifar10(
        tmp_path, archive(cifar10 | {"test_batch.bin": cifar10["data_batch_1.bin"]})
    )
    prepare("cifar10", other, tmp_path)
    splits = open_prepared("cifar10", tmp_path).splits
    test, train = splits["test"].gather(range(40)), splits["train"].gather(range(40))
    np.testing.assert_array_equal(test["image"], train["image"])


# --- Folders and lists of one name ---------------------------------------------------


@pytest.fixture
def photos(tmp_path, place, jpeg):
    """``photos(name, start)``: a folder of four photos of each of two classes."""

    def write(name, start=0):
        files = {f"{'ab'[n % 2]}/{n}.jpg": jpeg(start + n) for n in range(8)}
        return str(place(tmp_path / name, files))

    return write


@pytest.mark.parametrize("to", ["tfds", "webdataset"])
def test_another_folder_of_the_same_name_is_not_taken_for_it(photos, tmp_path, console, jpeg, to):
    first, other = photos("first/my photos"), photos("other/my-photos", start=50)
    options = {"data_dir": tmp_path / "sets", "console": console, "to": to}
    folder = prepare(first, **options)
    moved = shutil.move(first, tmp_path / "my photos")
    assert prepare(str(moved), **options) == folder
    assert "my_photos is prepared already" in console.text()
    with pytest.raises(UserError, match=r"prepared from .*move that folder away") as caught:
        prepare(other, **options)
    assert first in str(caught.value) and other in str(caught.value)
    with pytest.raises(UserError, match=r"order are not those that .* with --shuffle 3"):
        prepare(str(moved), shuffle=3, **options)
    (moved / "a" / "new.jpg").write_bytes(jpeg(99))
    with pytest.raises(UserError, match="order are not those"):
        prepare(str(moved), **options)


def test_a_set_of_an_earlier_version_stays_usable(photos, tmp_path, console):
    folder = prepare(photos("photos"), None, tmp_path / "sets", console)
    (folder / ".prepared_from.json").unlink()
    assert prepare(photos("other/photos", start=50), None, tmp_path / "sets", console) == folder
    assert "it is not known whether from" in console.text()


def test_a_folder_that_is_called_as_a_published_set_is_not_taken_for_it(
    photos, tmp_path, place_cifar10
):
    prepare(photos("cifar10"), data_dir=tmp_path / "sets", to="webdataset")
    with pytest.raises(UserError, match="is not the published cifar10"):
        prepare("cifar10", place_cifar10(tmp_path), tmp_path / "sets", to="webdataset")


@pytest.mark.parametrize("name", ["2024_photos", "фото", "_x", "cifar10", "digits"])
def test_a_name_that_no_set_can_have_is_refused_at_once(photos, tmp_path, name):
    with pytest.raises(UserError, match="rename the folder, or write --to webdataset") as caught:
        prepare(photos(f"in/{name}"), data_dir=tmp_path / "sets")
    assert name in str(caught.value)
    assert not (tmp_path / "sets").exists()


def test_the_variable_of_tfds_names_the_folder(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    assert prepare(photos("photos")) == find_prepared("photos") == tmp_path / "sets/photos/1.0.0"
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/sets")  # all its sets would be copied
    assert find_prepared("photos") is None


# --- Downloads ------------------------------------------------------------------


class Archive(BaseHTTPRequestHandler):
    """Serves ``server.body``; with ``server.drops`` the first response breaks off half-way."""

    def do_GET(self):
        body, requested = self.server.body, self.headers["Range"]
        start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0
        self.server.starts.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        half = self.server.drops and len(self.server.starts) == 1
        self.wfile.write(body[start : len(body) // 2 if half else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, cifar10_archive):
    """A server of the synthetic archive, which replaces the published one."""
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Archive) as httpd:
        httpd.body, httpd.drops, httpd.starts = cifar10_archive, False, []
        httpd.url = f"http://127.0.0.1:{httpd.server_port}/cifar-10-binary.tar.gz"
        file = PublishedFile(
            "cifar-10-binary.tar.gz",
            httpd.url,
            len(cifar10_archive),
            hashlib.sha256(cifar10_archive).hexdigest(),
        )
        monkeypatch.setitem(PUBLISHED, "cifar10", (file,))
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def test_a_dropped_download_is_resumed_and_prepared(server, tmp_path, cifar10_archive, console):
    server.drops = True
    prepare("cifar10", None, tmp_path, console)
    assert server.starts == [0, len(cifar10_archive) // 2]
    archive = tmp_path / "downloads" / "cifar10" / "cifar-10-binary.tar.gz"
    assert archive.read_bytes() == cifar10_archive
    assert "by checksum not" not in console.text()
    assert_whole(tmp_path)


def test_a_download_of_wrong_bytes_is_refused(server, tmp_path):
    server.body = server.body[:-100] + bytes(100)
    with pytest.raises(UserError) as caught:
        prepare("cifar10", None, tmp_path)
    message = str(caught.value)
    for fact in (server.url, PUBLISHED["cifar10"][0].sha256, "--from", "received"):
        assert fact in message, message
    assert "\n" not in message
    assert not list(tmp_path.rglob("*.tar.gz*"))
    assert find_prepared("cifar10", tmp_path) is None


def test_downloaded_files_are_not_fetched_again(server, tmp_path, place_cifar10):
    (tmp_path / "downloads").mkdir()
    place_cifar10(tmp_path / "downloads")
    prepare("cifar10", None, tmp_path)
    assert server.starts == []
