"""Lists of images as CSV and JSONL: accepted lists, and refused ones with the line number."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_resnet.data.images import find_images
from flax_resnet.errors import UserError

FILES = ("a.jpg", "b.jpg", "in/c.jpg")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with the files of FILES; the content of each is its name."""
    root = tmp_path_factory.mktemp("images")
    (root / "in").mkdir()
    for name in FILES:
        (root / name).write_bytes(name.encode())
    return root


def read(path: Path, text: str | bytes, **options):
    """Return ``{file: (class, split)}`` of a list with this text, the classes and the notes."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    found = find_images(path, **({"ratios": (1, 0, 0)} | options))
    entries = {
        Path(file).relative_to(path.parent).as_posix(): (found.classes[label], split)
        for split, records in found.splits.items()
        for file, label in zip(records.paths, records.labels, strict=True)
    }
    return entries, found.classes, found.notes + found.missing_classes


def message_of(path: Path, text: str | bytes, **options) -> str:
    with pytest.raises(UserError) as caught:
        read(path, text, **options)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def jsonl(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


CATS = {"a.jpg": ("cat", "train"), "b.jpg": ("dog", "train"), "in/c.jpg": ("cat", "train")}


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.jpg,cat\nb.jpg,dog\nin/c.jpg,cat\n",
        "label;path\r\ncat;a.jpg\r\ndog;b.jpg\r\ncat;in/c.jpg",
        "Path\tLabel\tby\na.jpg\tcat\tme\nb.jpg\tdog\t\n\nin/c.jpg\tcat\tyou, too\n",
        '\ufeffpath,label\n"a.jpg","cat"\n b.jpg , dog \n./in/../in/c.jpg,cat\n',
        "path,label\na.jpg,cat\nb.jpg,dog\nin/c.jpg,cat\na.jpg,cat\n",
    ],
    ids=["comma", "semicolon", "tab", "quotes", "one twice"],
)
def test_csv(images, text):
    entries, classes, notes = read(images / "list.csv", text)
    assert {str(Path(name)).replace("in/../", ""): e for name, e in entries.items()} == CATS
    assert (classes, notes) == (("cat", "dog"), ())


def test_jsonl(images):
    text = jsonl(
        {"path": "a.jpg", "label": "cat", "more": [1]},
        {"label": "dog", "path": str(images / "b.jpg"), "split": None},
    )
    entries, classes, _ = read(images / "list.jsonl", text + '\n{"path":"in/c.jpg","label":"cat"}')
    assert (entries, classes) == (CATS, ("cat", "dog"))


def test_splits_of_a_list(images):
    text = "path,label,split\na.jpg,x,train\nb.jpg,y,Val\nin/c.jpg,y,test\n"
    entries, _, notes = read(images / "list.csv", text)
    assert entries == {
        "a.jpg": ("x", "train"),
        "b.jpg": ("y", "validation"),
        "in/c.jpg": ("y", "test"),
    }
    assert any("no image in train (y)" in note for note in notes)


def test_numbers_are_ordered_as_numbers_and_gaps_are_noted(images):
    _, classes, notes = read(images / "list.csv", "path,label\na.jpg,10\nb.jpg,9\nin/c.jpg,9\n")
    assert classes == ("9", "10")
    (note,) = notes
    assert "the labels are not 0 to 1" in note
    entries, classes, notes = read(images / "list.csv", "path,label\na.jpg,1\nb.jpg,0\n")
    assert (classes, notes, entries["a.jpg"][0]) == (("0", "1"), (), "1")


@pytest.mark.parametrize("labels", [("2", "0"), ("z", "x")])
def test_given_classes_are_named_or_numbered(images, labels):
    text = "path,label\na.jpg,{}\nb.jpg,{}\n".format(*labels)
    entries, classes, _ = read(images / "list.csv", text, classes=("x", "y", "z"))
    assert classes == ("x", "y", "z")
    assert (entries["a.jpg"][0], entries["b.jpg"][0]) == ("z", "x")


def test_a_list_for_known_classes_needs_no_training_split(images):
    """A list of test images alone could not be evaluated."""
    text = "path,label,split\na.jpg,y,test\nb.jpg,x,test\n"
    entries, classes, _ = read(images / "list.csv", text, classes=("x", "y", "z"))
    assert classes == ("x", "y", "z")
    assert entries == {"a.jpg": ("y", "test"), "b.jpg": ("x", "test")}
    assert "no line with the split train: add some" in message_of(images / "list.csv", text)


@pytest.mark.parametrize("value", [{"id": 3}, 0.5, True, ["train"], None, 7])
@pytest.mark.parametrize("key", ["dataset", "phase", "usage"])
def test_values_that_are_no_text_are_no_splits(images, key, value):
    """Nobody named this key, so it is no reason to refuse the list."""
    rows = [{"path": file, "label": file[0], key: value} for file in ("a.jpg", "b.jpg")]
    entries, _, _ = read(images / "list.jsonl", jsonl(*rows))
    assert entries == {"a.jpg": ("a", "train"), "b.jpg": ("b", "train")}


# --- Refused input ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1: it must name the columns"),
        ("path,label\n", "lists no images"),
        ("a.jpg,cat\nb.jpg,dog\n", "line 1: it must name the columns, as in path,label"),
        ("path,label,label\na.jpg,x,y\n", "line 1: it must name the columns"),
        ("path,label\na.jpg,cat\nb.jpg\n", "line 3: 1 values for 2 columns"),
        ("path,label\na.jpg,cat\nb, c.jpg,dog\n", "line 3: 3 values for 2 columns"),
        ('path,label\na.jpg,cat\n"b.jpg,dog\n', "not CSV"),
        ("path,label\na.jpg,\nb.jpg,dog\n", "line 2: the path or the label is empty"),
        ("path,label\na.jpg,cat\ngone.jpg,dog\n", "the first in line 3 (gone.jpg)"),
        ("path,label\ncat,a.jpg\ndog,b.jpg\n", "has files in the column label"),
        ("path,label\na.jpg,train\nb.jpg,test\n", "has splits in the column label"),
        ("path,label\na.jpg,0\nb.jpg,-1\n", "line 3: the label -1 is out of range"),
        ("path,label\na.jpg,cat\na.jpg,dog\nb.jpg,dog\n", "lines 2 and 3: a.jpg is listed with"),
        (
            "path,label,split\na.jpg,x,train\nb.jpg,y,exam\n",
            "line 3: the split 'exam' is not one of",
        ),
        ("path,label,split\na.jpg,x,train\nb.jpg,y,\n", "line 3: it has no split, but other"),
        ("path,label,split\na.jpg,x,val\nb.jpg,y,test\n", "no line with the split train"),
        ("path,label\na.jpg,cat\nb.jpg,cat\n", "one class only, 'cat'"),
        (b"path,label\na.jpg,caf\xe9\n", "is not text in UTF-8"),
        ("path,label\na.jpg\0,cat\nb.jpg,dog\n", "holds NUL characters"),
    ],
)
def test_a_csv_is_refused_with_its_line(images, text, sentence):
    assert sentence in message_of(images / "list.csv", text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "lists no images"),
        ('{"path": "a.jpg", "label": "cat"}\n{"path": ', "line 2: not JSON"),
        ('["a.jpg", "cat"]', "line 1: not of the form"),
        ('{"path": "a.jpg"}', "line 1: not of the form"),
        ('{"path": "a.jpg", "label": 0.5}', "line 1: label is 0.5"),
        ('{"path": "a.jpg", "label": true}', "line 1: label is True"),
        ('{"path": ["a.jpg"], "label": "cat"}', "line 1: path is ['a.jpg']"),
        ('{"path": "a.jpg", "label": null}', "line 1: the path or the label is empty"),
        ("[" * 100_000, "line 1: not JSON"),
        ('{"path": "\\ud800.jpg", "label": "cat"}', "do not exist"),
    ],
)
def test_a_jsonl_is_refused_with_its_line(images, text, sentence):
    assert sentence in message_of(images / "list.jsonl", text)


def test_labels_out_of_range_of_the_given_classes(images):
    message = message_of(images / "list.csv", "path,label\na.jpg,0\nb.jpg,2\n", classes=("x", "y"))
    assert "line 3: the label '2' is out of range" in message and "0 to 1" in message


cells = st.sampled_from([*FILES, "cat", "dog", "0", "7", "-1", "train", "", '"', "\0", "ä\r"])


@settings(deadline=None, max_examples=80, database=None)
@given(
    rows=st.lists(st.lists(cells | st.text(max_size=3), min_size=2, max_size=3), max_size=5),
    extension=st.sampled_from(["csv", "jsonl"]),
    raw=st.none() | st.binary(max_size=60),
)
def test_random_lists_raise_nothing_but_user_errors(images, rows, extension, raw):
    """Every line number is one of the list, and the message can be printed."""
    if extension == "csv":
        text = "path,label,split\n" + "\n".join(",".join(row) for row in rows)
    else:
        keys = ("path", "label", "split")
        text = jsonl(*(dict(zip(keys, row, strict=False)) for row in rows))
    content = text.encode("utf-8", "replace") if raw is None else raw
    try:
        read(images / f"random.{extension}", content)
    except UserError as error:
        str(error).encode()
