"""Lists of images as people and their programs write them."""

import io
import json
import os
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.data.images import find_images

COLORS = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255)}


@pytest.fixture
def root(tmp_path):
    """``in/a.jpg``, ``in/b.jpg`` and ``in/deep/c.jpg`` below a folder for the list."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name, color in COLORS.items():
        where = tmp_path / "in" / ("deep" if name == "c" else "")
        Image.new("RGB", (9, 9), color).save(where / f"{name}.jpg")
    return tmp_path


def read(root, content, name="list.csv", **options):
    """``{file: label}`` of a list, and its notes."""
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = find_images(root / name, **({"ratios": (1, 0, 0)} | options))
    files = {
        os.path.relpath(path, root): found.classes[label]
        for path, label in zip(found.train.paths, found.train.labels.tolist(), strict=True)
    }
    return files, found


def refusal(root, content, name="list.csv", **options):
    with pytest.raises(fr.UserError) as caught:
        read(root, content, name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


EXPECTED = {"in/a.jpg": "cat", "in/b.jpg": "dog", "in/deep/c.jpg": "cat"}
ROWS = [["in/a.jpg", "cat"], ["in/b.jpg", "dog"], ["in/deep/c.jpg", "cat"]]


def csv(header="path,label", rows=ROWS, end="\n", comma=","):
    lines = [header.replace(",", comma), *(comma.join(row) for row in rows)]
    return end.join(lines) + end


backslashes = [[path.replace("/", "\\"), label] for path, label in ROWS]
quoted = [[f'"{path}"', f'"{label}"'] for path, label in ROWS]

DIALECTS = {
    "CRLF": csv(end="\r\n"),
    "CR": csv(end="\r"),
    "byte-order mark": "\ufeff" + csv(),
    "UTF-16": ("\ufeff" + csv()).encode("utf-16-le"),
    "UTF-16, big end first": ("\ufeff" + csv()).encode("utf-16-be"),
    "semicolons": csv(comma=";"),
    "tabs": csv(comma="\t"),
    "bars": csv(comma="|"),
    "sep=": "sep=;\r\n" + csv(comma=";", end="\r\n"),
    "quotes": csv('"path","label"', quoted),
    "spaces after commas": csv(comma=", "),
    "spaces after commas, quotes": csv('"path","label"', quoted, comma=", "),
    "backslashes": csv(rows=backslashes),
    "all of Windows": "\ufeff" + csv(rows=backslashes, comma=";", end="\r\n"),
    "trailing comma": csv("path,label,", [[*row, ""] for row in ROWS]),
    "trailing comma below": csv("path,label", [[*row, ""] for row in ROWS]),
    "two trailing commas": csv("path,label,,", [[*row, "", ""] for row in ROWS]),
    "blank lines": csv().replace("\n", "\n\n,\n"),
    "no last line break": csv().rstrip("\n"),
    "pandas index": csv(",path,label", [[str(n), *row] for n, row in enumerate(ROWS)]),
    "./": csv(rows=[[f"./{path}", label] for path, label in ROWS]),
    ".\\": csv(rows=[[f".\\{path}", label] for path, label in backslashes]),
    "without extensions": csv(rows=[[path[:-4], label] for path, label in ROWS]),
    "capital extensions": csv(rows=[[path[:-4] + ".JPG", label] for path, label in ROWS]),
}


@pytest.mark.parametrize("kind", DIALECTS)
def test_a_dialect_of_csv(root, kind):
    files, found = read(root, DIALECTS[kind])
    assert files == EXPECTED and found.classes == ("cat", "dog")


@pytest.mark.parametrize(
    "header",
    [
        "id,breed", "filename,label", "image,label", "Image_ID,Class", "file_name,label",
        "image_id,label", "Filename,ClassName", "image_path,species", "file,category",
        "Image Name,Class Label", "img,target", "id,whatever", "Path,LABEL",
    ],
)  # fmt: skip
def test_a_header_as_people_have_it(root, header):
    files, found = read(root, csv(header))
    assert files == EXPECTED
    path, label = header.split(",")
    spoken = f"paths are in the column {path}, labels in the column {label}"
    assert (header.lower() == "path,label") != any(spoken in note for note in found.notes)


def test_more_columns_than_two(root):
    """Of several columns that could hold paths, the one whose files exist is taken."""
    rows = [[str(n), path, label, "9"] for n, (path, label) in enumerate(ROWS)]
    assert read(root, csv("id,filename,breed,width", rows))[0] == EXPECTED
    assert read(root, csv("index,file,label,class", rows))[0] == EXPECTED
    rows = [[path, "train", label] for path, label in ROWS]
    files, found = read(root, csv("image,subset,class", rows))
    assert files == EXPECTED and len(found.test) == 0


def test_unknown_names_of_columns(root):
    assert read(root, csv("photo_ref,kind"))[0] == EXPECTED
    assert read(root, csv("kind,where", [row[::-1] for row in ROWS]))[0] == EXPECTED


AMBIGUOUS = {
    "class,category": ("filename,class,category", [[p, x, x] for p, x in ROWS]),
    "kind,size": ("filename,kind,size", [[p, x, "9"] for p, x in ROWS]),
    "true,label": ("file,true,label", [[p, x, "cat"] for p, x in ROWS]),
    "image,file": ("image,file,label", [[p, ROWS[0][0], x] for p, x in ROWS]),
}


@pytest.mark.parametrize("columns", AMBIGUOUS)
def test_columns_that_could_be_either_are_named(root, columns):
    header, rows = AMBIGUOUS[columns]
    message = refusal(root, csv(header, rows))
    assert " or ".join(columns.split(",")) in message and "--columns" in message
    one = columns.split(",")[0]
    chosen = ("image", "label") if columns == "image,file" else (header.split(",")[0], one)
    assert read(root, csv(header, rows), columns=chosen)[0] == EXPECTED


def test_columns_of_splits_that_disagree_are_named(root):
    """The first was taken without a word."""
    header = "path,label,dataset,partition"
    rows = [[*row, "train", ("train", "val")[n % 2]] for n, row in enumerate(ROWS)]
    message = refusal(root, csv(header, rows))
    assert "the splits could be in the columns dataset or partition" in message
    assert "--columns path,label,dataset " in message
    chosen = ("path", "label", "partition")
    assert len(read(root, csv(header, rows), columns=chosen)[1].validation) == 1
    rows = [[*row, "train", "Training"] for row in ROWS]
    files, found = read(root, csv(header, rows))
    assert files == EXPECTED and len(found.train) == 3
    assert any("splits are in the column dataset" in note for note in found.notes)


def test_columns_chosen_by_an_option(root, capsys):
    rows = [[path, label, "9"] for path, label in ROWS]
    (root / "list.csv").write_text(csv("filename,kind,size", rows))
    assert main(["check", str(root / "list.csv"), "--columns", "filename,kind"]) == 0
    assert "cat" in capsys.readouterr().out
    for wrong in ("filename,sort", "filename", "a,b,c,d"):
        assert main(["check", str(root / "list.csv"), "--columns", wrong]) == 2
    assert "has no column 'sort', only filename, kind, size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (csv("in/a.jpg,cat", ROWS[1:]), "line 1: it must name the columns"),
        (csv("in/a,cat", [[p[:-4], x] for p, x in ROWS[1:]]), "line 1: it must name the columns"),
        ("path;label,note\nin/a.jpg;cat,x\n", "separated by commas or by semicolons"),
        ("path,label\nin/a.jpg,caf\xe9\n".encode("latin-1"), "not text in UTF-8"),
        ("path,label\nin/a.jpg,cat\n".encode("utf-16-le"), "holds NUL characters"),
        ("id\nin/a.jpg\n", "line 1: it must name the columns"),
    ],
)
def test_a_list_with_two_readings_is_refused(root, content, sentence):
    assert sentence in refusal(root, content)


def test_jsonl_with_other_keys(root):
    lines = [json.dumps({"file_name": path, "label": label}) for path, label in ROWS]
    for text in ("\n".join(lines), "\ufeff" + "\r\n".join(lines) + "\r\n\r\n"):
        assert read(root, text, "metadata.jsonl")[0] == EXPECTED


def test_a_tsv(root):
    assert read(root, csv(comma="\t"), "list.tsv")[0] == EXPECTED


# Labels.


def numbered(labels):
    return csv(rows=[[path, label] for (path, _), label in zip(ROWS, labels, strict=True)])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("01", "02", "10"), ("01", "02", "10")),
        (("1", "01", "2"), ("01", "1", "2")),
        (("10", "9", "9"), ("9", "10")),
        (("007", "cat", "7"), ("007", "7", "cat")),
        (("1.0", "2.0", "1.0"), ("1.0", "2.0")),
        (("1e3", "1000", "1e3"), ("1000", "1e3")),
        (("None", "nan", "NA"), ("NA", "None", "nan")),
        (("True", "False", "True"), ("False", "True")),
        (("12345678901234567890123", "1", "1"), ("1", "12345678901234567890123")),
    ],
)
def test_labels_are_strings_as_written(root, labels, classes):
    """``01`` and ``02`` became 1 and 2; a list with ``1`` and ``01`` had one class of both."""
    files, found = read(root, numbered(labels))
    assert found.classes == classes and list(files.values()) == list(labels)
    # The list of a run is read with the run's classes.
    again, _ = read(root, numbered(labels), classes=found.classes)
    assert again == files


@pytest.mark.parametrize("similar", [("1", "01"), ("Cat", "cat"), ("\u00e9", "e\u0301")])
def test_similar_labels_are_different_classes_and_noted(root, similar):
    _, found = read(root, numbered((*similar, "dog")))
    assert len(found.classes) == 3
    assert any("similar labels are different classes" in note for note in found.notes)


@pytest.mark.slow
def test_a_run_is_evaluated_on_its_own_list(classifier, root):
    labels = ("01", "02", "10")
    (root / "list.csv").write_text(numbered(labels))
    done = classifier(classes=labels).evaluate(root / "list.csv")
    names = map(os.path.basename, done.predictions.names)
    assert dict(zip(names, done.labels.tolist(), strict=True)) == {
        "a.jpg": 0,
        "b.jpg": 1,
        "c.jpg": 2,
    }
    assert done.result.count == 3


@pytest.mark.parametrize(
    ("classes", "labels", "sentence"),
    [
        (
            ("1", "2", "10"),
            ("0", "1", "1"),
            "the label '1' could be the class '1', or by its number from 0",
        ),
        (
            ("01", "02", "03"),
            ("1", "2", "2"),
            "the label '1' could be the class '01', or by its number from 0",
        ),
        (("cat", "dog"), ("cat", "1", "1"), "the label 'cat' is the name of a class, and '1'"),
        (("cat", "dog"), ("0", "01", "0"), "the label '01' is out of range"),
        (("cat", "dog"), ("1", "2", "2"), "the label '2' is out of range"),
    ],
)
def test_labels_that_could_be_two_classes_are_refused(root, classes, labels, sentence):
    """With the classes 1, 2 and 10, the labels 0 and 1 were both the first class."""
    assert sentence in refusal(root, numbered(labels), classes=classes)


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        (("cat", "dog"), ("0", "1", "1"), ["cat", "dog", "dog"]),
        (("00", "01"), ("0", "1", "1"), ["00", "01", "01"]),
        (("cat", "1"), ("cat", "1", "1"), ["cat", "1", "1"]),
    ],
)
def test_labels_of_given_classes(root, classes, labels, expected):
    files, _ = read(root, numbered(labels), classes=classes)
    assert list(files.values()) == expected


# Paths.


@pytest.mark.parametrize("folder", ["train", "images of train"])
def test_paths_relative_to_a_folder_next_to_the_list(root, folder):
    """Kaggle: ``labels.csv`` with an id, next to the folder of images."""
    (root / "in").rename(root / folder)
    (root / "test").mkdir()
    text = csv("id,breed", [["a", "cat"], ["b", "dog"], ["deep/c", "cat"]])
    files, found = read(root, text)
    assert files == {f"{folder}/{path[3:]}": label for path, label in EXPECTED.items()}
    assert any(f"its paths are relative to {root / folder}" in note for note in found.notes)


@pytest.mark.parametrize("wrong", ["in/gone.jpg", "gone.jpg"])
def test_a_wrong_path_is_not_looked_for_with_all_others_in_every_folder(root, monkeypatch, wrong):
    """50,000 rows beside 1,000 class folders took hours."""
    for number in range(30):
        (root / f"class{number}").mkdir()
    rows = [["in/a.jpg", "cat"], *[["in/b.jpg", "dog"]] * 100, [wrong, "dog"]]
    looked_up, isfile = [], os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: looked_up.append(path) or isfile(path))
    message = refusal(root, csv(rows=rows))
    assert "1 of 102 files that do not exist, the first in line 103" in message
    assert len(looked_up) < 300


def test_the_only_folder_that_has_any_of_the_files(root):
    """Its own folder has none; the row without a file is reported."""
    (root / "empty").mkdir()
    message = refusal(root, csv(rows=[["gone.jpg", "cat"], ["b.jpg", "dog"]]))
    assert "names 1 of 2 files that do not exist, the first in line 2 (gone.jpg)" in message
    (root / "more").mkdir()
    Image.new("RGB", (3, 3)).save(root / "more" / "b.jpg")
    message = refusal(root, csv(rows=[["gone.jpg", "cat"], ["b.jpg", "dog"]]))
    assert "names 2 of 2 files that do not exist" in message


def test_two_folders_that_have_the_files(root):
    (root / "small" / "deep").mkdir(parents=True)
    for name in ("a", "b", "deep/c"):
        Image.new("RGB", (3, 3)).save(root / "small" / f"{name}.jpg")
    text = csv("id,breed", [["a", "cat"], ["b", "dog"], ["deep/c", "cat"]])
    message = refusal(root, text)
    assert str(root / "in") in message and str(root / "small") in message


def test_two_files_that_a_path_could_name(root):
    Image.new("RGB", (3, 3)).save(root / "in" / "a.png")
    message = refusal(root, csv("id,breed", [["in/a", "cat"], ["in/b", "dog"]]))
    assert "in/a.jpg" in message and "in/a.png" in message and "line 2" in message
    Image.new("RGB", (3, 3)).save(root / "in\\a.jpg")
    message = refusal(root, csv(rows=backslashes))
    assert "in\\a.jpg" in message and "in/a.jpg" in message


def test_paths_relative_to_the_current_folder(root, monkeypatch):
    (root / "lists").mkdir()
    monkeypatch.chdir(root)
    files, _ = read(root, csv(), "lists/list.csv")
    assert {os.path.normpath(path): label for path, label in files.items()} == EXPECTED


def test_accents_composed_otherwise(root):
    """macOS writes names with combining accents, and lists are typed without."""
    (root / "in" / "a.jpg").rename(root / "in" / unicodedata.normalize("NFD", "caf\u00e9.jpg"))
    files, _ = read(root, csv(rows=[["in/caf\u00e9.jpg", "cat"], *ROWS[1:]]))
    assert len(files) == 3


def test_names_that_look_like_syntax(root):
    names = ['say "a"', "a,b", "a;b", " a ", "a\nb", "#a", "[a]", "-a", "=1+1", "'a'", "a\\b", "~a"]
    for name in names:
        Image.new("RGB", (3, 3)).save(root / f"{name}.png")
    rows = [['"' + name.replace('"', '""') + '.png"', str(n % 2)] for n, name in enumerate(names)]
    files, _ = read(root, csv(rows=rows))
    assert list(files) == [f"{name}.png" for name in names]


# Lists as arguments of predict.


def predicted(classifier, arguments, tmp_path, capsys):
    run = tmp_path / "run"
    if not run.exists():
        classifier().save(run)
    code = main(["predict", str(run), *map(str, arguments), "--format", "jsonl"])
    shown = capsys.readouterr()
    rows = [json.loads(line) for line in shown.out.splitlines()]
    return code, {os.path.basename(row["file"]): row["error"] for row in rows}, shown.err


def test_predict_takes_a_list(classifier, root, capsys):
    """A list as an argument was "text and not an image"."""
    (root / "test.csv").write_text(csv("id", [[path] for path, _ in ROWS]))
    code, rows, _ = predicted(classifier, [root / "test.csv"], root, capsys)
    assert code == 0 and rows == {"a.jpg": None, "b.jpg": None, "c.jpg": None}


def test_predict_names_each_row_without_a_file(classifier, root, capsys):
    (root / "test.csv").write_text(csv("id", [["in/a.jpg"], ["in/gone.jpg"]]))
    code, rows, err = predicted(classifier, [root / "test.csv"], root, capsys)
    assert code == 1 and list(rows) == ["a.jpg", "gone.jpg"]
    assert rows["gone.jpg"].startswith("does not exist (line 3 of ")
    assert "1 of 2 could not be read" in err


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\0"])
def test_a_list_on_stdin_as_programs_write_it(classifier, root, capsys, monkeypatch, ending):
    names = [" a ", "a\u2028b", "caf\udce9"] + (["a\nb"] if ending == "\0" else [])
    paths = [os.path.join(root, f"{name}.png") for name in names]
    for path in paths:
        Image.new("RGB", (9, 9)).save(path)
    text = ("" if ending == "\0" else "\ufeff") + "".join(path + ending for path in paths)
    stdin = io.TextIOWrapper(io.BytesIO(os.fsencode(text)), encoding="utf-8", newline="\n")
    monkeypatch.setattr(sys, "stdin", stdin)
    code, rows, _ = predicted(classifier, ["-"], root, capsys)
    assert code == 0 and len(rows) == len(names)


def test_a_report_of_check_says_where_labels_come_from(root, capsys):
    (root / "list.csv").write_text(csv("id,breed"))
    assert main(["check", str(root / "list.csv")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "paths are in the column id, labels in the column breed" in shown
    assert np.all([name in shown for name in ("cat", "dog")])
