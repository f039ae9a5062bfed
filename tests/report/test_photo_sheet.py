"""The contact sheet: a photo in every place, its bar as long as its probability."""

import numpy as np
import pytest
from PIL import Image

from flax_resnet.errors import UserError
from flax_resnet.report.photo_sheet import MOST, Captioned, photo_sheet


@pytest.fixture
def green(tmp_path):
    Image.new("RGB", (60, 30), (0, 200, 0)).save(tmp_path / "green.png")
    return str(tmp_path / "green.png")


def longest_run(picture, color):
    """Pixels of a colour in the row that has most of them."""
    return int((picture == np.array(color)).all(-1).sum(1).max())


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_the_bar_shows_the_probability(tmp_path, green, probability):
    photo_sheet([Captioned(green, "leaf", probability, wrong=True)], tmp_path / "s.png")
    picture = np.asarray(Image.open(tmp_path / "s.png"))
    tile = longest_run(picture, (0, 200, 0))  # the photo is wider than tall: it fills the width
    assert longest_run(picture, (0xB3, 0x36, 0x2B)) == pytest.approx(probability * tile, abs=1)


def test_every_photo_is_there_also_bad_ones(tmp_path, green):
    (tmp_path / "bad.png").write_bytes(b"no")
    photos = [Captioned(green, "a long label " * 9, 0.5, "note")] * 6
    photos.append(Captioned(str(tmp_path / "bad.png"), "cannot be read"))
    assert photo_sheet(photos, tmp_path / "new" / "s.jpg") == 7
    width, height = Image.open(tmp_path / "new" / "s.jpg").size
    assert width > 3 * 168 and height > 168


def test_a_sheet_ends(tmp_path, green):
    assert photo_sheet([Captioned(green, "x", 0.5)] * (MOST + 1), tmp_path / "s.png") == MOST


def test_bad_places_are_one_sentence(tmp_path, green):
    with pytest.raises(UserError, match="no photos"):
        photo_sheet([], tmp_path / "s.png")
    with pytest.raises(UserError, match="cannot be written"):
        photo_sheet([Captioned(green, "x", 0.5)], tmp_path / "s.nothing")
