"""Image files of formats that people have beside JPEG and PNG."""

import io

import numpy as np
import pytest
from PIL import Image, features

from flax_resnet.cli import main
from flax_resnet.data.images import decoding, find_images, read_header, read_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, 7), np.uint8)
COLOR = RNG.integers(0, 256, (9, 7, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (9, 7), np.uint16)
BITS = RNG.integers(0, 2, (9, 16), np.uint8)


def text(values):
    return " ".join(map(str, values.ravel().tolist())).encode()


# Name -> bytes of the file, and the values from 0 to 255 by the format's definition.
NETPBM = {
    "binary.ppm": (b"P6 7 9 255\n" + COLOR.tobytes(), COLOR),
    "plain.ppm": (b"P3\n# a comment\n7 9\n255\n" + text(COLOR), COLOR),
    "binary.pgm": (b"P5\n7 9\n255\n" + GREY.tobytes(), GREY),
    "plain.pgm": (b"P2 7 9 255 " + text(GREY), GREY),
    "sixteen.pgm": (b"P5 7 9 65535 " + DEEP.astype(">u2").tobytes(), DEEP / 65535 * 255),
    "twelve.pgm": (
        b"P5 7 9 4095 " + (DEEP >> 4).astype(">u2").tobytes(),
        (DEEP >> 4) / 4095 * 255,
    ),
    "grey.pnm": (b"P5 7 9 255 " + GREY.tobytes(), GREY),
    "bits.pbm": (b"P4 16 9\n" + np.packbits(BITS).tobytes(), 255 - BITS * 255),
}


@pytest.mark.parametrize("name", NETPBM)
def test_netpbm(tmp_path, name):
    content, expected = NETPBM[name]
    path = tmp_path / name
    path.write_bytes(content)
    expected = np.broadcast_to(expected if expected.ndim == 3 else expected[..., None],
                               (*expected.shape[:2], 3))  # fmt: skip
    for source in (content, path):
        got = read_image(source)
        assert got.dtype == np.uint8
        np.testing.assert_allclose(got, expected, atol=0.51)
        assert read_header(source).format == "PPM"


def test_a_folder_of_netpbm_files(tmp_path, capsys):
    """They were "files without an image's extension"."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for file, (content, _) in NETPBM.items():
            (tmp_path / name / file).write_bytes(content)
    found = find_images(tmp_path, ratios=(1, 0, 0))
    assert len(found.train) == 16 and not found.notes
    assert main(["check", str(tmp_path)]) == 0
    assert "cannot be" not in capsys.readouterr().out


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif(tmp_path):
    path = tmp_path / "a.avif"
    Image.new("RGB", (40, 30), (200, 40, 90)).save(path)
    np.testing.assert_allclose(read_image(path), np.full((30, 40, 3), (200, 40, 90)), atol=4)
    assert read_header(path).format == "AVIF"


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.fixture
def photos(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(COLOR).save(tmp_path / name / "1.png")
        (tmp_path / name / "2.HEIC").write_bytes(HEIC)
    return tmp_path


def test_heic_files_of_a_folder_are_named_where_they_cannot_be_read(photos, capsys, monkeypatch):
    """They were among "files without an image's extension", without a word on pillow-heif."""
    monkeypatch.setattr(decoding, "_register_heif", lambda: False)
    assert len(find_images(photos, ratios=(1, 0, 0)).train) == 4
    main(["check", str(photos)])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("is a HEIC image, which needs pillow-heif (pip install pillow-heif)") == 2


def test_heic_is_read_with_pillow_heif(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (40, 30), (200, 40, 90))).save(file)
    (tmp_path / "IMG_0001.HEIC").write_bytes(file.getvalue())
    got = read_image(tmp_path / "IMG_0001.HEIC")
    np.testing.assert_allclose(got, np.full((30, 40, 3), (200, 40, 90)), atol=6)
    assert read_header(tmp_path / "IMG_0001.HEIC").format == "HEIF"


@pytest.mark.parametrize("brand", [b"isom", b"mp42", b"qt  "])
def test_a_video_is_called_one(tmp_path, brand):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(99))
    with pytest.raises(decoding.ImageDecodeError, match="is a video"):
        read_image(tmp_path / "a.jpg")
