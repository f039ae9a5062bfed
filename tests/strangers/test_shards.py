"""Tar and Parquet shards as people have them: their labels, their defects, and what is unclear."""

import io
import json
import os
import shutil
import tarfile

import pytest

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import AugmentConfig, DataConfig
from flax_resnet.data import open_dataset
from flax_resnet.data.images import find_images, read_bytes
from tests.strangers.shards import parquet, picture, samples, tar

ALL = {"ratios": (1, 0, 0)}


def labels(root, split="train", **options):
    """``[(member below the folder, class name)]`` of what a folder of shards has; the bytes of
    images are those of ``picture``."""
    found = find_images(root, **(ALL | options))
    records = getattr(found, split)
    return [
        (os.path.relpath(path, root), found.classes[label])
        for path, label in zip(records.paths, records.labels.tolist(), strict=True)
    ]


def refusal(root, **options):
    with pytest.raises(fr.UserError) as caught:
        find_images(root, **(ALL | options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_json(values, start=0):
    for number, value in enumerate(values, start):
        yield f"{number:04}.png", picture(number)
        yield f"{number:04}.json", json.dumps(value)


# --- Labels --------------------------------------------------------------------


LABELLED = {
    "numbers in cls are the names of classes": (samples([1, 0, 1]), ["1", "0", "1"]),
    "text in cls": (samples(["dog", "cat\n", "dog"]), ["dog", "cat", "dog"]),
    "label in json": (with_json([{"label": 1}, {"label": 0}]), ["1", "0"]),
    "names next to numbers in json": (
        with_json([{"label": 1, "class_name": "ant"}, {"label": 0, "class_name": "bee"}]),
        ["ant", "bee"],
    ),
    "names only in json": (
        with_json([{"class_name": "ant", "url": "x"}, {"class_name": "bee"}]),
        ["ant", "bee"],
    ),
}


@pytest.mark.parametrize("case", LABELLED)
def test_labels_of_webdataset(tmp_path, case):
    members, expected = LABELLED[case]
    tar(tmp_path / "a.tar", members)
    assert [name for _, name in labels(tmp_path)] == expected


def test_class_names_beside_numbers(tmp_path):
    tar(tmp_path / "a.tar", samples([1, 0, 1]))
    (tmp_path / "classes.json").write_text('["cat", "dog", "eel"]')
    found = find_images(tmp_path, **ALL)
    assert found.classes == ("cat", "dog", "eel")
    assert found.train.labels.tolist() == [1, 0, 1]
    (tmp_path / "classes.json").write_text('["cat"]')
    assert "label 1 is out of range for the 1 classes" in refusal(tmp_path)


def test_names_by_number_keep_the_order_of_numbers(tmp_path):
    tar(tmp_path / "a.tar", with_json([{"label": n, "label_name": f"c{9 - n}"} for n in (1, 0)]))
    found = find_images(tmp_path, **ALL)
    assert (found.classes, found.train.labels.tolist()) == (("c9", "c8"), [1, 0])


def test_a_parquet_set_of_the_hub(tmp_path):
    """With its splits by file names, its class names, and images of two shards in order."""
    pytest.importorskip("pyarrow")
    data = tmp_path / "data"
    names = ["plane", "car", "bird"]
    parquet(data / "train-00000-of-00002.parquet", [2, 0], names=names)
    parquet(data / "train-00001-of-00002.parquet", [1, 1], names=names, start=2)
    parquet(data / "test-00000-of-00001.parquet", [0], names=names, start=4)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    found = find_images(tmp_path, ratios=(1, 0, 0))
    assert found.classes == tuple(names)
    assert found.train.labels.tolist() == [2, 0, 1, 1]
    assert found.test.labels.tolist() == [0]
    assert [read_bytes(path) for path in (*found.train.paths, *found.test.paths)] == [
        picture(number) for number in range(5)
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none"},
        {"compression": "none", "use_dictionary": False, "data_page_size": 400},
        {"compression": "snappy", "row_group_size": 2},
        {"compression": "zstd", "data_page_version": "2.0"},
    ],
)
def test_images_of_any_row_are_read_whatever_the_pages(tmp_path, options):
    pytest.importorskip("pyarrow")
    parquet(tmp_path / "a.parquet", ["x", "y", "x", "y", "x"], **options)
    found = find_images(tmp_path, **ALL)
    assert [found.classes[label] for label in found.train.labels] == ["x", "y", "x", "y", "x"]
    for number in (4, 0, 3):
        assert read_bytes(found.train.paths[number]) == picture(number)


def test_parquet_labels_of_pandas(tmp_path):
    """A categorical column, and images as plain bytes."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "image": [picture(n) for n in range(3)],
            "breed": pa.array(["pug", "cur", "pug"]).dictionary_encode(),
            "width": [12, 12, 12],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert [name for _, name in labels(tmp_path)] == ["pug", "cur", "pug"]


def test_a_split_column(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    splits = ["train", "test", "train", "valid"]
    table = {"image": [picture(n) for n in range(4)], "label": list("abab"), "split": splits}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    found = find_images(tmp_path, **ALL)
    assert [len(found.splits[split]) for split in ("train", "validation", "test")] == [2, 1, 1]
    shutil.move(tmp_path / "a.parquet", tmp_path / "train-0.parquet")
    (tmp_path / "test-0.parquet").write_bytes((tmp_path / "train-0.parquet").read_bytes())
    assert "by the column split and" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("shards", "counts"),
    [
        (["imagenet1k-train-0000", "imagenet1k-validation-00"], (2, 2, 0)),
        (["train/0000", "train/0001", "test/0000"], (4, 0, 2)),
        (["default/train/0", "default/validation/0", "default/test/0"], (2, 2, 2)),
        (["shard-000000", "shard-000001"], (4, 0, 0)),
    ],
)
def test_names_of_shards_name_splits(tmp_path, shards, counts):
    for number, name in enumerate(shards):
        tar(tmp_path / f"{name}.tar", samples([0, 1], start=2 * number))
    found = find_images(tmp_path, **ALL)
    assert tuple(map(len, found.splits.values())) == counts


# --- What is unclear -----------------------------------------------------------


def test_two_images_in_a_sample(tmp_path):
    members = [("a.jpg", picture(0)), ("a.png", picture(1)), ("a.cls", "0")]
    tar(tmp_path / "a.tar", [*members, *samples([1])])
    assert "has two images, a.jpg and a.png" in refusal(tmp_path)
    assert labels(tmp_path, columns=["png", "cls"]) == [
        ("a.tar/a.png", "0"),
        ("a.tar/0000.png", "1"),
    ]


UNCLEAR = {
    "cls and json": (
        [("a.png", picture(0)), ("a.cls", "1"), ("a.json", '{"label": 2}')],
        "a.png: its label is 1 by cls and 2 by json.label",
    ),
    "number and text": (samples(["1", "cat"]), "0000.png has the label 1, a number, and"),
    "two names for a number": (
        with_json([{"label": 1, "class_name": "a"}, {"label": 1, "class_name": "b"}]),
        "has the label 1 and the json.class_name 'b', and",
    ),
    "no labels": ([("cat/1.png", picture(0)), ("dog/1.png", picture(1))], "has no labels"),
    "a list": (with_json([{"label": 0.5}, {"label": 1}]), "is 0.5; a label is text or a whole"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_could_mean_two_things_is_refused(tmp_path, case):
    members, expected = UNCLEAR[case]
    tar(tmp_path / "a.tar", members)
    assert expected in refusal(tmp_path)


def test_shards_of_two_sets_or_formats(tmp_path):
    for name in ("digits/train-0", "letters/train-0"):
        tar(tmp_path / f"{name}.tar", samples([0, 1]))
    assert "could hold several data sets or splits" in refusal(tmp_path)
    shutil.rmtree(tmp_path / "letters")
    tar(tmp_path / "extra-0.tar", samples([0, 1]))
    assert "could hold several data sets" in refusal(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    assert "has shards of two formats" in refusal(tmp_path)


def test_two_columns_of_labels(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    names = {"_type": "ClassLabel", "names": ["a", "b"]}
    features = {"img": {"_type": "Image"}, "fine_label": names, "coarse_label": names}
    table = pa.table(
        {"img": [picture(0), picture(1)], "fine_label": [0, 1], "coarse_label": [1, 0]}
    )
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert "the labels could be in fine_label or coarse_label" in refusal(tmp_path)
    assert [name for _, name in labels(tmp_path, columns=["img", "coarse_label"])] == ["b", "a"]


# --- Damage --------------------------------------------------------------------


def opened(root, name):
    """The names of images that training uses, and the notes."""
    config = DataConfig(name=name, dir=str(root), image_size=8, splits=(1, 0, 0))
    dataset = open_dataset(config, AugmentConfig())
    batch = dataset.train.gather(range(len(dataset.train)))
    assert batch["mask"].all()
    return len(dataset.train), " | ".join(dataset.notes)


def test_a_tar_file_that_is_cut_off(tmp_path):
    path = tar(tmp_path / "a.tar", samples([0, 1, 0, 1]))
    content = path.read_bytes()
    at = content.index(picture(3))
    path.write_bytes(content[: at + 100])
    count, notes = opened(tmp_path, "webdataset")
    assert count == 3
    assert "a.tar/0003.png is cut off, because the shard ends in it" in notes
    path.write_bytes(content[: at - 512])  # between two samples
    assert opened(tmp_path, "webdataset")[0] == 3
    assert "ends without a tar file's end mark" in opened(tmp_path, "webdataset")[1]


def test_a_tar_file_with_a_damaged_header(tmp_path):
    path = tar(tmp_path / "a.tar", samples([0, 1, 0, 1]))
    content = bytearray(path.read_bytes())
    at = content.index(picture(2)) - 512
    content[at : at + 100] = b"\xff" * 100
    path.write_bytes(content)
    count, notes = opened(tmp_path, "webdataset")
    assert count == 2
    assert f"a.tar is damaged at byte {at:,}, and what follows is left out" in notes


def test_tar_files_that_were_joined(tmp_path):
    """What follows the end mark of the first was not read, without a word."""
    one, two = (tar(tmp_path / f"{n}.tar", samples([0, 1], start=2 * n)) for n in (0, 1))
    (tmp_path / "0.tar").write_bytes(one.read_bytes() + two.read_bytes())
    two.unlink()
    assert "has data after the end of its tar file" in opened(tmp_path, "webdataset")[1]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_absolute_and_climbing_names(tmp_path, form):
    long = "d" * 120 + "/" + "é" * 40
    members = []
    for number, key in enumerate((f"/abs/{long}", "../../up", "./plain")):
        members += [(f"{key}.png", picture(number)), (f"{key}.cls", str(number))]
    tar(tmp_path / "in" / "a.tar", members, form)
    found = labels(tmp_path / "in")
    assert found == [
        (f"a.tar/abs/{long}.png", "0"),
        ("a.tar/up.png", "1"),
        ("a.tar/plain.png", "2"),
    ]
    assert sorted(os.listdir(tmp_path)) == ["in"]


def test_compressed_empty_and_wrong_files(tmp_path):
    packed = tmp_path / "packed"
    tar(packed / "a.tar", samples([0, 1]))
    shutil.make_archive(tmp_path / "gz" / "b", "gztar", packed)
    assert "is compressed by gzip" in refusal(tmp_path / "gz")
    shutil.move(tmp_path / "gz" / "b.tar.gz", tmp_path / "gz" / "b.tar")
    assert "is compressed by gzip" in refusal(tmp_path / "gz")
    (packed / "b.tar").write_bytes(b"")
    (packed / "c.tar").write_bytes(bytes(10240))
    assert opened(packed, "webdataset")[0] == 2
    assert "b.tar is empty" in opened(packed, "webdataset")[1]
    (packed / "d.tar").write_bytes(b"no tar file" * 100)
    assert "d.tar cannot be read as a tar file" in refusal(packed)
    only = tmp_path / "only"
    tar(only / "a.tar", [])
    assert "has no images that can be used" in refusal(only)


def test_links_and_members_of_systems_in_a_tar_file(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in [("._a.png", b"x"), (".DS_Store", b"x"), *samples(["0", "1"])]:
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("l.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    count, notes = opened(tmp_path, "webdataset")
    assert count == 2
    assert "left out 1 member" in notes and "l.png is a link" in notes


def test_the_same_key_in_two_shards_is_two_samples(tmp_path):
    tar(tmp_path / "a.tar", samples([0, 1]))
    tar(tmp_path / "b.tar", samples([1, 0], extension="jpg"))
    assert labels(tmp_path) == [
        ("a.tar/0000.png", "0"),
        ("a.tar/0001.png", "1"),
        ("b.tar/0000.jpg", "1"),
        ("b.tar/0001.jpg", "0"),
    ]


def test_the_same_member_twice(tmp_path):
    tar(tmp_path / "a.tar", [*samples([0, 1]), *samples([1])])
    assert "has two members 0000.png" in refusal(tmp_path)


def test_a_sample_whose_parts_are_apart_and_one_without(tmp_path):
    """Labels after all images, one of them in another shard."""
    images = [(f"{n}.png", picture(n)) for n in range(4)]
    texts = [(f"{n}.cls", str(n % 2)) for n in range(4)]
    tar(tmp_path / "a.tar", images + texts[:3])
    tar(tmp_path / "b.tar", texts[3:])
    count, notes = opened(tmp_path, "webdataset")
    assert count == 3
    assert "a.tar/3.png has no label" in notes and "b.tar/3 has a label and no image" in notes


def test_damaged_images_are_named(tmp_path, capsys):
    tar(tmp_path / "a.tar", [*samples([0, 1]), ("x.jpg", b"no image"), ("x.cls", "1")])
    assert main(["check", str(tmp_path)]) == 0
    assert "a.tar/x.jpg is text and not an image" in capsys.readouterr().out


def test_a_parquet_file_that_is_cut_off(tmp_path):
    pytest.importorskip("pyarrow")
    path = parquet(tmp_path / "a.parquet", ["x", "y"])
    content = path.read_bytes()
    for short in (content[:-20], content[:100], b""):
        path.write_bytes(short)
        assert "a.parquet is cut off or no Parquet file" in refusal(tmp_path)


def test_a_damaged_row_group(tmp_path):
    pytest.importorskip("pyarrow")
    path = parquet(tmp_path / "a.parquet", list("xyxyxy"), row_group_size=2, compression="gzip")
    import pyarrow.parquet as pq

    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[start + 100 : start + 400] = bytes(300)
    path.write_bytes(content)
    count, notes = opened(tmp_path, "parquet")
    assert count == 4
    assert "a.parquet/2-3 are rows of a damaged row group" in notes


def test_nulls_in_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [
        {"bytes": picture(0), "path": None},
        None,
        {"bytes": None, "path": "gone/x.jpg"},
        {"bytes": picture(1), "path": "b.png"},
        {"bytes": picture(2), "path": "c.png"},
    ]
    table = pa.table({"image": pa.array(images, struct), "label": ["x", "y", "x", "y", None]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert labels(tmp_path) == [("a.parquet/0", "x"), ("a.parquet/3/b.png", "y")]
    _, notes = opened(tmp_path, "parquet")
    for part in ("1 is null", "2/x.jpg is null, only the path gone/x.jpg", "c.png has no label"):
        assert part in notes


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": ["a.jpg"], "label": ["x"]}, "has no column of images"),
        ({"image": [b"1"], "label": [0.5]}, "has no column of labels"),
        ({"image": [b"1"], "jpg": [b"1"], "label": [1]}, "the images could be in image or jpg"),
    ],
)
def test_wrong_columns(tmp_path, columns, expected):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert expected in refusal(tmp_path)


def test_labels_of_a_test_split_that_are_not_published(tmp_path):
    """The hub's convention is -1."""
    pytest.importorskip("pyarrow")
    parquet(tmp_path / "train-0.parquet", [0, 1, 1], names=["a", "b"])
    parquet(tmp_path / "test-0.parquet", [-1, -1], names=["a", "b"], start=3)
    found = find_images(tmp_path, **ALL)
    assert (len(found.train), len(found.test)) == (3, 0)
    assert set(found.left_out.values()) == {"has no label"}


def test_a_folder_without_shards(tmp_path, capsys):
    for name in ("webdataset", "parquet"):
        words = ["train", "--config", "resnet50_imagenet", "--data.name", name]
        assert main(words) == 2
        assert f"--data.name {name} needs --data.dir" in capsys.readouterr().err
        assert main([*words, "--data.dir", str(tmp_path)]) == 1
        assert "has no file that ends in" in capsys.readouterr().err
