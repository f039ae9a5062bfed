"""PASCAL VOC 2012, prepared in both forms, from the archive and from the extracted folder."""

import numpy as np
import pytest

from flax_resnet.data.tfds import open_prepared, prepare
from flax_resnet.data.tfds.voc import CLASSES
from flax_resnet.errors import UserError

ROOT = "VOCdevkit/VOC2012/"
# The marks of image n in the lists, by class number: 1, or 0 for difficult objects;
# all others are -1.
TRAIN = [{0: 1}, {14: 1, 6: 1, 19: 0}, {19: 1, 3: 0}, {7: 0}]
VAL = [{2: 1}, {2: 1, 14: 1}]


def listed(marks, start):
    return "".join(f"2008_{start + n:06} {mark:2}\n" for n, mark in enumerate(marks)).encode()


@pytest.fixture(scope="module")
def files(jpeg):
    """The files of the archive: six images, and one more that no list names."""
    files = {f"{ROOT}JPEGImages/2008_{n:06}.jpg": jpeg(n) for n in range(7)}
    for label, name in enumerate(CLASSES):
        for split, all_marks, start in (("train", TRAIN, 0), ("val", VAL, len(TRAIN))):
            marks = [marks.get(label, -1) for marks in all_marks]
            files[f"{ROOT}ImageSets/Main/{name}_{split}.txt"] = listed(marks, start)
    files[f"{ROOT}ImageSets/Main/aeroplane_trainval.txt"] = b"2008_000000 1\n"
    files[f"{ROOT}Annotations/2008_000000.xml"] = b"<annotation/>"
    return files


@pytest.fixture(scope="module", params=["tar", "tar.gz", "devkit", "VOC2012"])
def source(request, files, tar, place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    if request.param.startswith("tar"):
        path = folder / "VOCtrainval_11-May-2012.tar"
        path.write_bytes(tar(files, compress=request.param == "tar.gz"))
        return path
    place(folder, files)
    return folder / ("VOCdevkit/VOC2012" if request.param == "VOC2012" else "")


def test_the_classes_are_in_the_order_of_voc():
    """Section 2 of the development kit lists them in alphabetical order."""
    assert len(CLASSES) == 20 and list(CLASSES) == sorted(CLASSES)
    assert {"aeroplane", "diningtable", "pottedplant", "tvmonitor"} <= set(CLASSES)


def test_multi_label_form(source, files, read_back, tmp_path):
    prepare("voc2012", source, tmp_path)
    for split, all_marks, start in (("train", TRAIN, 0), ("validation", VAL, len(TRAIN))):
        examples = read_back("voc2012", tmp_path, split)
        assert len(examples) == len(all_marks)
        for n, (example, marks) in enumerate(zip(examples, all_marks, strict=True), start):
            assert example["image"] == files[f"{ROOT}JPEGImages/2008_{n:06}.jpg"]
            assert example["image/filename"] == f"2008_{n:06}.jpg".encode()
            assert list(example["labels"]) == sorted(marks)
            sure = sorted(label for label, mark in marks.items() if mark == 1)
            assert list(example["labels_no_difficult"]) == sure


def test_single_label_form(source, files, read_back, tmp_path, console):
    prepare("voc2012_single_label", source, tmp_path, console)
    train = read_back("voc2012_single_label", tmp_path, "train")
    # Images with one class marked 1; images with several, or only difficult objects, are left out.
    assert [int(example["label"]) for example in train] == [0, 19]
    for example, n in zip(train, (0, 2), strict=True):
        assert example["image"] == files[f"{ROOT}JPEGImages/2008_{n:06}.jpg"]
    (validation,) = read_back("voc2012_single_label", tmp_path, "validation")
    assert int(validation["label"]) == 2
    assert "2 of the 4 train images have exactly one class" in console.text()


def test_the_prepared_set_is_opened_with_its_labels(files, tar, tmp_path):
    (tmp_path / "some.tar").write_bytes(tar(files))
    prepare("voc2012", tmp_path / "some.tar", tmp_path)
    train = open_prepared("voc2012", tmp_path).splits["train"]
    expected = np.array([[marks.get(n) == 1 for n in range(20)] for marks in TRAIN], np.float32)
    np.testing.assert_array_equal(train.labels, expected)
    assert train.multi_label and train.image_shape is None
    assert train.contents([3, 0]) == [files[f"{ROOT}JPEGImages/2008_{n:06}.jpg"] for n in (3, 0)]


def test_voc2007_in_the_same_folder_does_not_matter(files, tar, read_back, tmp_path):
    other = {name.replace("VOC2012", "VOC2007"): b"x" for name in files}
    (tmp_path / "both.tar").write_bytes(tar(other | files))
    prepare("voc2012", tmp_path / "both.tar", tmp_path)
    assert len(read_back("voc2012", tmp_path, "train")) == len(TRAIN)


def test_a_changed_photo_deep_in_the_folder_is_read_again(
    files, jpeg, place, refused, read_back, tmp_path
):
    """The train shards of an attempt that failed in validation are written again."""
    first, last = (f"{ROOT}JPEGImages/2008_{n:06}.jpg" for n in (0, len(TRAIN) + len(VAL) - 1))
    place(tmp_path / "kit", files | {last: b"GIF89a"})
    assert last in refused("voc2012", tmp_path / "kit", tmp_path)
    place(tmp_path / "kit", {last: files[last], first: jpeg(99)})
    prepare("voc2012", tmp_path / "kit", tmp_path)
    assert read_back("voc2012", tmp_path, "train")[0]["image"] == jpeg(99)


LISTS = f"{ROOT}ImageSets/Main/"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({f"{LISTS}cat_train.txt": None}, f"has no {LISTS}cat_train.txt"),
        ({f"{LISTS}aeroplane_train.txt": None}, "has no ImageSets/Main/aeroplane_train.txt"),
        ({f"{LISTS}dog_val.txt": b"2008_000004 1\n2008_000005 2\n"}, "each with 1, 0 or -1"),
        ({f"{LISTS}dog_val.txt": b"2008_000004\n"}, "is not a list of images"),
        ({f"{LISTS}dog_val.txt": b""}, "is not a list of images"),
        ({f"{LISTS}dog_val.txt": b"2008_000004 1\n"}, "lists other images than aeroplane_val"),
        ({f"{ROOT}JPEGImages/2008_000002.jpg": None}, "lacks 1 of its 4 listed images, such as"),
        ({f"{ROOT}JPEGImages/2008_000002.jpg": b"GIF89a"}, "2008_000002.jpg in"),
        ({"VOCdevkit/../../x": b""}, "leads out of the archive by '..'"),
        ({"/etc/passwd": b""}, "has an absolute path"),
    ],
)
@pytest.mark.parametrize("name", ["voc2012", "voc2012_single_label"])
def test_damaged_archives_are_refused(changed, sentence, name, files, tar, refused, tmp_path):
    path = tmp_path / "some.tar"
    left = {file: content for file, content in (files | changed).items() if content is not None}
    path.write_bytes(tar(left))
    message = refused(name, path, tmp_path)
    assert sentence in message and str(path) in message and "give " in message


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8])
def test_an_archive_cut_short_is_refused(fraction, files, tar, refused, tmp_path):
    content = tar(files)
    (tmp_path / "some.tar").write_bytes(content[: int(len(content) * fraction)])
    message = refused("voc2012", tmp_path / "some.tar", tmp_path)
    assert "cut short" in message or "damaged" in message


def test_no_image_has_exactly_one_class(files, tar, refused, tmp_path):
    marks = {f"{LISTS}{name}_val.txt": listed([1, 1], len(TRAIN)) for name in CLASSES}
    (tmp_path / "some.tar").write_bytes(tar(files | marks))
    message = refused("voc2012_single_label", tmp_path / "some.tar", tmp_path)
    assert "has no image of one class in validation" in message


def test_any_number_of_classes_is_refused_as_shards(files, tar, tmp_path):
    (tmp_path / "some.tar").write_bytes(tar(files))
    with pytest.raises(UserError, match="any number of classes cannot be written as webdataset"):
        prepare("voc2012", tmp_path / "some.tar", tmp_path, to="webdataset")
