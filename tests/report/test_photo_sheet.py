"""The contact sheet: every photo is shown, with a bar as long as its probability."""

import numpy as np
import pytest
from PIL import Image

from flax_resnet.errors import UserError
from flax_resnet.report.photo_sheet import MAX_PHOTOS, CaptionedPhoto, write_photo_sheet


@pytest.fixture
def green(tmp_path):
    Image.new("RGB", (60, 30), (0, 200, 0)).save(tmp_path / "green.png")
    return str(tmp_path / "green.png")


def longest_run(picture, color):
    """Pixels of a colour in the row that has most of them."""
    return int((picture == np.array(color)).all(-1).sum(1).max())


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_the_bar_shows_the_probability(tmp_path, green, probability):
    write_photo_sheet([CaptionedPhoto(green, "leaf", probability, wrong=True)], tmp_path / "s.png")
    picture = np.asarray(Image.open(tmp_path / "s.png"))
    tile = longest_run(picture, (0, 200, 0))  # the photo is wider than tall: it fills the width
    assert longest_run(picture, (0xB3, 0x36, 0x2B)) == pytest.approx(probability * tile, abs=1)


def test_every_photo_is_shown_also_a_damaged_one(tmp_path, green):
    (tmp_path / "bad.png").write_bytes(b"no")
    photos = [CaptionedPhoto(green, "a long label " * 9, 0.5, "note")] * 6
    photos.append(CaptionedPhoto(str(tmp_path / "bad.png"), "cannot be read"))
    assert write_photo_sheet(photos, tmp_path / "new" / "s.jpg") == 7
    width, height = Image.open(tmp_path / "new" / "s.jpg").size
    assert width > 3 * 168 and height > 168


def test_a_sheet_ends(tmp_path, green):
    photos = [CaptionedPhoto(green, "x", 0.5)] * (MAX_PHOTOS + 1)
    assert write_photo_sheet(photos, tmp_path / "s.png") == MAX_PHOTOS


def test_bad_input_is_one_sentence(tmp_path, green):
    with pytest.raises(UserError, match="no photos"):
        write_photo_sheet([], tmp_path / "s.png")
    with pytest.raises(UserError, match="cannot be written"):
        write_photo_sheet([CaptionedPhoto(green, "x", 0.5)], tmp_path / "s.nothing")
