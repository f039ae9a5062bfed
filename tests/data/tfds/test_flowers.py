"""The flower photos, prepared from the archive or from folders."""

import gzip

import pytest

from flax_resnet.data.tfds import open_prepared, prepare
from flax_resnet.data.tfds.flowers import CLASSES


@pytest.fixture(scope="module")
def files(jpeg):
    """Three photos of each class, and the licence file of the archive."""
    files = {
        f"flower_photos/{name}/{3 * label + n}.jpg": jpeg(3 * label + n)
        for label, name in enumerate(sorted(CLASSES))
        for n in range(3)
    }
    return files | {"flower_photos/LICENSE.txt": b"CC-BY"}


@pytest.mark.parametrize("form", ["tgz", "folder", "inner folder", "singular"])
def test_photos_keep_their_bytes_and_labels(form, files, tar, place, read_back, tmp_path):
    source = tmp_path / "flower_photos.tgz"
    if form == "tgz":
        source.write_bytes(tar(files, compress=True))
    else:
        singular = {name.replace("s/", "/", 1).replace("flower_photo/", ""): c
                    for name, c in files.items()}  # fmt: skip
        placed = place(tmp_path / "photos", singular if form == "singular" else files)
        source = placed / "flower_photos" if form == "inner folder" else placed
    prepare("tf_flowers", source, tmp_path)
    examples = read_back("tf_flowers", tmp_path, "train")
    photos = {name: content for name, content in files.items() if name.endswith(".jpg")}
    assert [example["image"] for example in examples] == [photos[name] for name in sorted(photos)]
    expected = [CLASSES.index(name.split("/")[1]) for name in sorted(photos)]
    assert [int(example["label"]) for example in examples] == expected
    opened = open_prepared("tf_flowers", tmp_path)
    assert opened.classes == ("dandelion", "daisy", "tulips", "sunflowers", "roses")  # TFDS's order
    assert opened.splits["train"].labels.tolist() == expected


def test_files_that_macos_adds_to_the_photos_are_ignored(files, tar, read_back, tmp_path):
    macos = {"flower_photos/daisy/._0.jpg": b"\0\5\x16\7", "__MACOSX/daisy/._0.jpg": b"\0\5\x16\7"}
    (tmp_path / "flower_photos.tgz").write_bytes(tar(files | macos, compress=True))
    prepare("tf_flowers", tmp_path / "flower_photos.tgz", tmp_path)
    assert len(read_back("tf_flowers", tmp_path, "train")) == 15


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({f"flower_photos/roses/{n}.jpg": None for n in range(6, 9)}, "has no images of roses"),
        ({"flower_photos/weeds/1.jpg": b"\xff\xd8\xff"}, "has images in the folder 'weeds'"),
        ({"1.jpg": b"\xff\xd8\xff"}, "has images in the folder '.'"),
        ({"more/rose/1.jpg": b"\xff\xd8\xff"}, "has more than one folder of a class"),
        ({"flower_photos/daisy/0.jpg": b"<html>"}, "daisy/0.jpg in"),
        ({"flower_photos/daisy/0.jpg": b"GIF89a"}, "is no JPEG image"),
        ({"../daisy/0.jpg": b""}, "leads out of the archive by '..'"),
        ({"/daisy/0.jpg": b""}, "has an absolute path"),
    ],
)
def test_damaged_archives_are_refused(changed, sentence, files, tar, refused, tmp_path):
    path = tmp_path / "flower_photos.tgz"
    left = {name: content for name, content in (files | changed).items() if content is not None}
    path.write_bytes(tar(left, compress=True))
    message = refused("tf_flowers", path, tmp_path)
    assert sentence in message and str(path) in message and "give " in message


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda content: content[: len(content) // 2], "cut short"),
        (lambda content: content[:-6] + bytes(6), "damaged or cut short"),
        (lambda content: b"<html>404</html>", "is no tar archive"),
        (lambda content: gzip.compress(b"words"), "is no tar archive"),
        (lambda content: b"", "is no tar archive"),
    ],
)
def test_incomplete_archives_are_refused(damage, sentence, files, tar, refused, tmp_path):
    path = tmp_path / "flower_photos.tgz"
    path.write_bytes(damage(tar(files, compress=True)))
    assert sentence in refused("tf_flowers", path, tmp_path)


def test_a_folder_without_photos_is_refused(refused, tmp_path):
    (tmp_path / "photos" / "daisy").mkdir(parents=True)
    message = refused("tf_flowers", tmp_path / "photos", tmp_path)
    assert "has no JPEG images in folders: give flower_photos.tgz" in message
