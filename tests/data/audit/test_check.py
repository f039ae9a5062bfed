"""The check of an image folder: counts, findings, and the report on them."""

import io
import os
import shutil
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from flax_resnet.cli import main
from flax_resnet.data.audit import FolderReport, check_folder, contact_sheet, render
from flax_resnet.data.images import find_images
from flax_resnet.errors import UserError


def photo(seed: int, height: int = 40, width: int = 60) -> Image.Image:
    """A picture that has as much detail as a photo when it is squeezed to a few pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def save(root: Path, name: str, image: Image.Image, **options) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def shown(report: FolderReport, **options) -> str:
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        console.print(render(report, **options), soft_wrap=True)
    return capture.get()


def below(root: Path, paths) -> list[str]:
    return sorted(Path(path).relative_to(root).as_posix() for path in paths)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with 24 photos and one example of every finding."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(12):
        save(root, f"train/cat/{number}.jpg", photo(number))
    for number in range(3):
        save(root, f"train/dog/{number}.jpg", photo(100 + number, 90, 33))
        save(root, f"val/cat/{number}.jpg", photo(200 + number))
        save(root, f"val/dog/{number}.jpg", photo(300 + number))
    train = root / "train"
    shutil.copy(train / "cat/1.jpg", train / "dog/copy.jpg")  # the other class
    shutil.copy(train / "cat/2.jpg", root / "val/cat/copy.jpg")  # the other split
    shutil.copy(train / "cat/3.jpg", train / "cat/copy.jpg")
    bright = photo(4).resize((120, 80)).point(lambda level: min(255, level + 4))
    save(root, "val/cat/again.png", bright)
    (train / "cat/text.jpg").write_bytes(b"not found")
    (train / "cat/half.jpg").write_bytes((train / "cat/5.jpg").read_bytes()[:-300])
    gone = photo(500, 50, 70).quantize(
        16
    )  # the picture that photo sites return for a deleted photo
    save(root, "train/cat/gone.gif", gone)
    (train / "dog/gone.jpg").write_bytes((train / "cat/gone.gif").read_bytes())
    save(root, "train/dog/tiny.png", photo(400, 31, 50))
    save(root, "train/dog/long.png", photo(401, 40, 161))
    save(root, "train/dog/huge.jpg", Image.new("L", (7100, 7100)))
    return root


@pytest.fixture(scope="module")
def report(folder):
    return check_folder(folder)


def test_images_of_each_class_are_counted_by_split(report):
    assert report.classes == ("cat", "dog")
    assert report.counts == {"train": (16, 8), "validation": (5, 3), "test": (0, 0)}
    assert report.imbalance == 2


def test_unreadable_files_are_named_with_the_reason(folder, report):
    assert below(folder, report.unreadable) == ["train/cat/half.jpg", "train/cat/text.jpg"]
    assert "is text" in report.unreadable[str(folder / "train/cat/text.jpg")]
    assert "truncated" in report.unreadable[str(folder / "train/cat/half.jpg")]


def test_an_image_not_found_gif_is_found_by_its_extension_and_its_copies(folder, report):
    assert report.extension_mismatch == {str(folder / "train/dog/gone.jpg"): "GIF"}
    (group,) = [group for group in report.duplicates if len(group.paths) == 2
                and "gone" in group.paths[0]]  # fmt: skip
    assert group.across_classes and not group.across_splits


def test_equal_files_are_found_within_and_across_classes_and_splits(folder, report):
    groups = {tuple(below(folder, group.paths)): group for group in report.duplicates}
    gone = groups.pop(("train/cat/gone.gif", "train/dog/gone.jpg"))
    assert gone.classes == ("cat", "dog")
    facts = {paths: (g.across_classes, g.across_splits) for paths, g in groups.items()}
    assert facts == {
        ("train/cat/1.jpg", "train/dog/copy.jpg"): (True, False),
        ("train/cat/2.jpg", "val/cat/copy.jpg"): (False, True),
        ("train/cat/3.jpg", "train/cat/copy.jpg"): (False, False),
    }


def test_a_photo_that_was_scaled_and_brightened_is_nearly_the_same(folder, report):
    (pair,) = report.near_duplicates
    assert below(folder, pair.paths) == ["train/cat/4.jpg", "val/cat/again.png"]
    assert pair.across_splits and not pair.across_classes and pair.hash_distance <= 3


def test_extreme_sizes_are_named(folder, report):
    assert below(folder, report.tiny) == ["train/dog/tiny.png"]
    assert below(folder, report.elongated) == ["train/dog/long.png"]
    assert below(folder, report.huge) == ["train/dog/huge.jpg"]


def test_the_limit_of_pixels_can_be_set(folder):
    bad = check_folder(folder, max_pixels=7000).unreadable
    assert "7100×7100 pixels, more than the 7,000" in bad[str(folder / "train/dog/huge.jpg")]


def test_the_rendered_report(report):
    text = shown(report)
    lines = [line.strip() for line in text.splitlines()]
    rows = {
        line.split()[0]: line.split()[1:] for line in lines if line[:3] in ("cat", "dog", "all")
    }
    assert rows == {"cat": ["16", "5", "21"], "dog": ["8", "3", "11"], "all": ["24", "8", "32"]}
    for line in (
        "30 images, GIF, JPEG, PNG; height 31 to 7100 (median 40), width 33 to 7100 (median 60)",
        "no image, or damaged: 2",
        "train/cat/text.jpg is text and not an image: it begins with 'not found'",
        "extension of another format: 1",
        "train/dog/gone.jpg is GIF",
        "same file in several classes: 2",
        "train/cat/1.jpg (cat), train/dog/copy.jpg (dog)",
        "same file in several splits: 1",
        "train/cat/2.jpg (train), val/cat/copy.jpg (validation)",
        "same file within a class: 1",
        "nearly the same image in several splits: 1",
        "train/dog/tiny.png (50×31)",
        "longer than 4:1: 1",
        "train/dog/huge.jpg (7100×7100)",
    ):
        assert line in lines, text


def test_copies_are_listed_with_their_classes_and_splits(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "val/c/1.png"):
        save(tmp_path, name, photo(1))
    for number, name in enumerate("abc"):
        save(tmp_path, f"train/{name}/2.png", photo(2 + number))
    text = shown(check_folder(tmp_path))
    assert "same file in several classes: 1" in text
    line = "  train/a/1.png (a, train), train/b/1.png (b, train), val/c/1.png (c, validation)"
    assert line in text.splitlines()


def test_limit_bounds_the_listed_files_and_counts_the_others(report):
    text = shown(report, limit=1)
    assert "and 1 more" in text and "half.jpg" in text and "text.jpg" not in text


def test_nothing_wrong_and_an_imbalance(tmp_path):
    for number in range(8):
        save(tmp_path, f"train/a/{number}.png", photo(number))
    save(tmp_path, "train/b/0.png", photo(50))
    save(tmp_path, "val/a/0.png", photo(60))
    text = shown(check_folder(tmp_path))
    assert "nothing wrong was found" in text and "8.0 times as many images" in text
    assert "1 class has no image in validation (b)" in text


def test_no_image_can_be_read(tmp_path):
    for name in ("a/1.jpg", "b/[red]2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    text = shown(check_folder(tmp_path, ratios=(1, 0, 0)))
    assert "no image can be read" in text and "b/[red]2.jpg is empty" in text


def test_long_names_are_not_wrapped(tmp_path):
    name = f"a/{'x' * 150}.jpg"
    save(tmp_path, name, photo(1))
    save(tmp_path, "b/2.jpg", photo(2))
    (tmp_path / name).write_bytes(b"")
    assert f"  {name} is empty" in shown(check_folder(tmp_path)).splitlines()


def test_names_that_are_not_utf8_can_be_shown(tmp_path, monkeypatch):
    """Such names come from archives of other systems."""
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(odd)
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with open(odd + b"/\xe9.png", "wb") as file:
        photo(1).save(file, "PNG")
    save(tmp_path, "b/2.png", photo(2))
    sheet = str(tmp_path / "sheet.png")
    strict = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", strict)
    assert main(["check", str(tmp_path), "--sheet", sheet]) == 0
    strict.flush()
    assert "caf" in strict.buffer.getvalue().decode()
    assert Image.open(sheet).width > 500


def png_header(width, height):
    """Return the beginning of a PNG of this size."""
    facts = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", facts), (b"IDAT", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def test_bombs_are_named_and_pillow_does_not_warn_of_them(tmp_path, capfd):
    for number in range(2):
        save(tmp_path, f"{'ab'[number]}/{number}.png", photo(number))
    (tmp_path / "a/bomb.png").write_bytes(png_header(10_001, 10_000))
    (tmp_path / "b/huge.png").write_bytes(png_header(20_000, 20_000))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert main(["check", str(tmp_path)]) == 0
    assert caught == []
    shown = capfd.readouterr()
    assert "a/bomb.png has 10001×10000 pixels, more than the 100,000,000" in shown.out
    assert "b/huge.png has more pixels than the 100,000,000 that are allowed" in shown.out


def test_a_path_without_a_folder_is_refused(tmp_path, capfd):
    assert main(["check", str(tmp_path / "gone")]) == 1
    assert "does not exist: name a folder of images" in capfd.readouterr().err


@pytest.mark.parametrize("option", ["--model", "--suspects-sheet", "--suspects-list"])
def test_options_of_suspects_are_refused_without_it(tmp_path, capfd, option):
    assert main(["check", str(tmp_path), option, "given"]) == 2
    assert f"{option} would do nothing without --suspects: add it" in capfd.readouterr().err


# --- The contact sheet -------------------------------------------------------------


def test_a_row_for_each_class_and_a_cross_for_a_bad_file(tmp_path):
    for number, colour in enumerate(["red", "lime", "blue"]):
        for name in "ab":
            save(tmp_path, f"train/{number}/{name}.png", Image.new("RGB", (30, 20), colour))
    (tmp_path / "train/2/b.png").write_bytes(b"gone")
    records = find_images(tmp_path, ratios=(1, 0, 0))
    contact_sheet(records, tmp_path / "new" / "sheet.png", per_class=3, tile=20)
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png").convert("RGB"))
    assert sheet.shape == (3 * 28, 160 + 3 * 28, 3)
    for row, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        tiles = [sheet[28 * row + 14, 160 + 28 * column + 9] for column in range(3)]
        assert tuple(tiles[0]) == colour
        assert tuple(tiles[1]) == (colour if row < 2 else (211, 211, 211))
        assert tuple(tiles[2]) == (255, 255, 255)  # no third image
    assert (sheet[:, :150] < 100).any()  # the names


def test_examples_are_spread_over_the_class(tmp_path):
    for number in range(9):
        save(tmp_path, f"train/a/{number}.png", Image.new("RGB", (9, 9), (20 * number, 0, 0)))
    save(tmp_path, "train/b/0.png", Image.new("RGB", (9, 9)))
    contact_sheet(find_images(tmp_path, ratios=(1, 0, 0)), tmp_path / "s.png", per_class=3, tile=8)
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert [sheet[8, 160 + 16 * n + 8, 0] for n in range(3)] == [0, 80, 160]


def test_long_names_of_classes_stay_in_their_column(tmp_path):
    for name in ("n" * 200, "b"):
        save(tmp_path, f"train/{name}/1.png", Image.new("RGB", (9, 9), "red"))
    contact_sheet(find_images(tmp_path, ratios=(1, 0, 0)), tmp_path / "s.png", per_class=1, tile=40)
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape == (2 * 48, 160 + 48, 3)
    assert (sheet[:, 157:163] == 255).all() and (sheet[48:, 130:156] < 100).any()


def test_classes_that_are_left_out_of_the_sheet_are_counted(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys.modules["flax_resnet.data.audit.contact_sheet"], "_MOST_CLASSES", 2)
    for number in range(3):
        save(tmp_path, f"in/{number}/{number}.png", photo(number))
    assert main(["check", str(tmp_path / "in"), "--sheet", str(tmp_path / "s.png")]) == 0
    assert "s.png: the first 2 of 3 classes." in capfd.readouterr().out


@pytest.mark.parametrize("name", ["sheet.docx", "sheet"])
def test_a_picture_of_no_known_format_is_refused(tmp_path, name):
    save(tmp_path, "a/1.png", photo(1))
    save(tmp_path, "b/2.png", photo(2))
    with pytest.raises(UserError, match=r"name another path, ending in \.png"):
        contact_sheet(find_images(tmp_path), tmp_path / name)
