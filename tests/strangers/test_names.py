"""Names of files and classes in every output: any script, markup, and bytes that are not UTF-8."""

import csv
import dataclasses
import io
import json
import os
from functools import partial

import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet import fonts
from flax_resnet.cli import main
from flax_resnet.data.audit import check_folder
from flax_resnet.file_names import escape, unescape
from flax_resnet.inference import Embeddings, write_embeddings
from flax_resnet.metrics import evaluate_logits
from flax_resnet.report.history import append_history
from flax_resnet.report.page import write_page
from flax_resnet.report.photo_sheet import CaptionedPhoto, write_photo_sheet
from flax_resnet.report.plots import save_confusion

LATIN1 = os.fsdecode(b"caf\xe9")
CLASSES = (LATIN1, "[new] cats", "\u732b")
FILES = (
    os.fsdecode(b"\xff\xfe.png"), "\\udce9.png", "\\u005cudce9.png", "a\nb.png", "a\u2028b.png",
    "a,b;c\"'.png", "[red]a.png", "\U0001f408.png", " a .png", "a\x1b[31m.png", "plain.png",
)  # fmt: skip


@pytest.fixture
def root(tmp_path, classifier):
    (tmp_path / "in").mkdir()
    for number, name in enumerate(FILES):
        Image.new("RGB", (20, 20), (20 * number, 0, 0)).save(tmp_path / "in" / name, "PNG")
    classifier(classes=CLASSES).save(tmp_path / "run")
    return tmp_path


def expected_names(root):
    return sorted(os.path.join(root, "in", name) for name in FILES)


def read_predictions(path):
    text = path.read_bytes().decode("utf-8")
    if path.suffix == ".csv":
        return [row["file"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    rows = json.loads(text) if path.suffix == ".json" else list(map(json.loads, text.splitlines()))
    assert {label["label"] for row in rows for label in row["predictions"]} == {
        "caf\\udce9", "[new] cats", "\u732b",
    }  # fmt: skip
    return [row["file"] for row in rows]


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_a_file_of_predictions_has_every_row(root, form):
    """It ended in the middle, at the first name that is not UTF-8."""
    output = root / f"out.{form}"
    assert main(["predict", str(root / "run"), str(root / "in"), "--output", str(output)]) == 0
    written = read_predictions(output)
    assert sorted(map(unescape, written)) == expected_names(root)
    assert os.path.join(root, "in", "plain.png") in written


def test_the_table_has_a_line_for_each_file(root, capsys):
    assert main(["predict", str(root / "run"), str(root / "in"), "--top-k", "1"]) == 0
    lines = capsys.readouterr().out.split("\n")[:-1]
    assert len(lines) == len(FILES) and "\x1b" not in "".join(lines)
    assert any("in/[red]a.png " in line for line in lines)
    assert any(r"in/\udcff\udcfe.png " in line for line in lines)


def test_an_interrupted_prediction_leaves_the_file_of_before(root, monkeypatch):
    output = root / "out.csv"
    output.write_text("of before")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("flax_resnet.inference.predict.to_probabilities", fail)
    assert main(["predict", str(root / "run"), str(root / "in"), "--output", str(output)]) == 1
    assert output.read_text() == "of before"
    assert not [name for name in os.listdir(root) if "part" in name]


def test_every_name_is_written_as_one_text():
    names = [*FILES, *CLASSES, "\\", "\\\\udcff", "\ud800", "\\udc", "\\u005c", "\\udfff"]
    written = list(map(escape, names))
    assert len(set(written)) == len(names) and list(map(unescape, written)) == names
    assert all(text.encode().decode() == text for text in written)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_embeddings_have_every_name(tmp_path, suffix):
    path = tmp_path / f"e.{suffix}"
    if suffix == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    write_embeddings(path, Embeddings(FILES, np.zeros((len(FILES), 4), np.float32), {}))
    if suffix == "parquet":
        written = parquet.read_table(path)["file"].to_pylist()
    else:
        written = np.load(path)["files"].tolist()
    assert tuple(map(unescape, written)) == FILES


def test_a_model_card_has_every_class(root):
    """It ended at such a name, with half a folder written."""
    fr.load(root / "run").save_pretrained(root / "out")
    card = (root / "out" / "README.md").read_text(encoding="utf-8")
    assert r"`caf\udce9`" in card and "\u732b" in card


def write_run(root):
    """What a finished run leaves for its page."""
    append_history(root / "run" / "history.jsonl", {
        "step": 1, "epoch": 1, "time": 1.0, "train_loss": 1.0, "train_top1": 0.5,
        "learning_rate": 0.1, "images_per_second": 1.0, "data_wait": 0.0,
    })  # fmt: skip
    return evaluate_logits(LATIN1, np.eye(3), np.arange(3), CLASSES)


@pytest.mark.slow
def test_a_page_shows_names_of_any_bytes_and_no_markup(root):
    """Such a class folder lost the run its report."""
    evaluation = write_run(root)
    evaluation = dataclasses.replace(
        evaluation, classes=(LATIN1, "<script>alert(1)</script>", "a&b")
    )
    page = write_page(root / "run", evaluation).read_bytes().decode("utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;" in page and "a&amp;b" in page
    assert r"caf\udce9" in page


MARKUP = ("[new] cats", "[red]x", ":cat:", "a\\", "[bold]", "[link=x]y")


def test_check_shows_names_whole(tmp_path, capsys):
    """``:cat:`` was an emoji, and a title in brackets was not shown."""
    for name in MARKUP:
        (tmp_path / "[v2] :dog:" / name).mkdir(parents=True)
        for number in range(2):
            Image.effect_noise((40, 40), 90 + number).save(
                tmp_path / "[v2] :dog:" / name / f"{number}.png"
            )
    assert main(["check", str(tmp_path / "[v2] :dog:")]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in MARKUP) and "[v2] :dog:" in shown
    assert set(check_folder(tmp_path / "[v2] :dog:").classes) == set(MARKUP)


# Letters that the fonts of Pillow and Matplotlib lack.

SQUARE = "\u732b"  # a cat, which the test's font shows as a black square


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """``installed(letters)``: the only installed font has black squares for these letters."""
    builder = pytest.importorskip("fontTools.fontBuilder")
    pens = pytest.importorskip("fontTools.pens.ttGlyphPen")

    def install(letters):
        pen = pens.TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, 800), (1000, 800), (1000, 0)):
            pen.lineTo(corner)
        pen.closePath()
        square, empty = pen.glyph(), pens.TTGlyphPen(None).glyph()
        font = builder.FontBuilder(1000, isTTF=True)
        font.setupGlyphOrder([".notdef", "square"])
        font.setupCharacterMap({ord(letter): "square" for letter in letters})
        font.setupGlyf({".notdef": empty, "square": square})
        font.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
        font.setupHorizontalHeader(ascent=800, descent=-200)
        font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
        font.setupOS2()
        font.setupPost()
        font.save(tmp_path / "squares.ttf")
        files = [str(tmp_path / "squares.ttf")] if letters else []
        monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda *_, **__: files)
        fonts._font_files.cache_clear()
        fonts._best_font.cache_clear()

    yield install
    fonts._font_files.cache_clear()
    fonts._best_font.cache_clear()


def dark(path):
    return int((np.asarray(Image.open(path).convert("L"), np.int32) < 60).sum())


def sheet(path, name):
    photo = path.with_name("white.png")
    Image.new("RGB", (9, 9), "white").save(photo)
    write_photo_sheet([CaptionedPhoto(str(photo), name)], path)


def confusion(path, name):
    save_confusion(evaluate_logits("a", np.eye(2), np.arange(2), (name, "b")), path)


@pytest.mark.parametrize("draw", [sheet, confusion], ids=["sheet", "confusion"])
def test_an_installed_font_draws_what_others_lack(tmp_path, installed, draw):
    installed(SQUARE)
    draw(tmp_path / "a.png", SQUARE * 3)
    assert fonts.missing_letters_note([SQUARE]) == ""
    filled = dark(tmp_path / "a.png")
    installed("")
    draw(tmp_path / "b.png", SQUARE * 3)
    # Three black squares against three outlines of squares.
    assert filled > dark(tmp_path / "b.png") + 3 * 50


def test_letters_that_no_font_has_are_noted_once(tmp_path, installed, capsys, classifier):
    installed("")
    for name in (SQUARE, SQUARE * 2, "dog", "\u0434\u043e\u043c"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (40, 40), (number, 0, 9)).save(
                tmp_path / "in" / name / f"{number}.png"
            )
    main(["check", str(tmp_path / "in"), "--sheet", str(tmp_path / "s.png")])
    shown = capsys.readouterr().err
    assert shown.count("letters that no installed font has") == 1
    assert f"2 names have letters that no installed font has ({SQUARE})" in shown
    classifier().save(tmp_path / "run")
    options = ["--sheet", str(tmp_path / "p.png")]
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "in"), *options]) == 0
    assert "note:" not in capsys.readouterr().err  # labels and names of files are plain


@pytest.mark.parametrize(
    "text", ["dog", "caf\u00e9", "\u0434\u043e\u043c", "a\u200db\ufe0f \n", LATIN1]
)
def test_usual_letters_need_no_note(installed, text):
    installed("")
    assert fonts.missing_letters_note([text]) == ""


@pytest.mark.parametrize(
    "text", ["\u732b", "\u0642\u0637\u0629", "\U0001f408\u200d\u2b1b", "\u0e41\u0e21\u0e27", LATIN1]
)
def test_any_script_is_drawn(tmp_path, text):
    sheet(tmp_path / "a.png", text)
    confusion(tmp_path / "b.png", text)
    confusion(tmp_path / "c.pdf", text)
    assert all((tmp_path / name).stat().st_size for name in ("a.png", "b.png", "c.pdf"))


def test_names_reach_python_as_they_are(root):
    run = fr.load(root / "run")
    done = run.predict(expected_names(root))
    assert list(done.names) == expected_names(root) and run.classes == CLASSES
    assert set(map(os.path.basename, map(partial(os.path.join, ""), done.names))) == set(FILES)
