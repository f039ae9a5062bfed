"""Images as callers have them: what each value is read as, or both readings in the refusal."""

import io
import tempfile
from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr


@pytest.fixture(scope="module")
def run(classifier):
    return classifier()


@cache
def pixels(seed=0, height=21, width=31):
    """A photo without fine detail, uint8 ``[height, width, 3]``."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def png(image, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, form)
    return file.getvalue()


def of_files(run, tmp_path, *images):
    """The probabilities of the same pixels in PNG files."""
    paths = []
    for number, image in enumerate(images):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    return run.predict(paths).probabilities


def after_saving():
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, "PNG")  # the position is at the end
    return file


def temporary():
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(png(pixels()))
    return file


def alpha():
    return np.dstack([pixels(), np.random.default_rng(1).integers(0, 256, (21, 31), np.uint8)])


ONE = {
    "bytes": lambda: png(pixels()),
    "bytearray": lambda: bytearray(png(pixels())),
    "memoryview": lambda: memoryview(png(pixels())),
    "BytesIO": lambda: io.BytesIO(png(pixels())),
    "BytesIO at its end": after_saving,
    "open file": temporary,
    "PIL image": lambda: Image.fromarray(pixels()),
    "lazy PIL image": lambda: Image.open(io.BytesIO(png(pixels()))),
    "uint8": pixels,
    "RGBA array": alpha,
    "RGBA image": lambda: Image.fromarray(alpha()),
    "jax": lambda: jnp.asarray(pixels()),
    "float32 0 to 1": lambda: (pixels() / 255).astype(np.float32),
    "float64 0 to 1": lambda: pixels() / 255,
    "float32 0 to 255": lambda: pixels().astype(np.float32),
    "jax float32": lambda: jnp.asarray(pixels(), jnp.float32) / 255,
    "batch": lambda: pixels()[None],
    "RGBA batch": lambda: alpha()[None],
    "columns first in memory": lambda: np.asfortranarray(pixels()),
}


@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("listed", [False, True], ids=["alone", "listed"])
def test_one_image_is_one_row(run, tmp_path, kind, listed):
    """``predict(bytes)`` took each byte for an image; an RGBA array was a batch of grey images."""
    value = ONE[kind]()
    done = run.predict([value] if listed else value)
    assert done.names == ("0",) and not done.failed
    np.testing.assert_allclose(
        done.probabilities, of_files(run, tmp_path, pixels()), rtol=1e-5, err_msg=kind
    )


def test_a_list_may_be_mixed(run, tmp_path):
    images = [pixels(seed) for seed in range(6)]
    expected = of_files(run, tmp_path, *images)
    mixed = [
        tmp_path / "0.png", png(images[1]), io.BytesIO(png(images[2])), images[3],
        Image.fromarray(images[4]), images[5] / 255,
    ]  # fmt: skip
    done = run.predict(mixed, batch_size=4)
    assert done.names == (str(tmp_path / "0.png"), "1", "2", "3", "4", "5")
    np.testing.assert_allclose(done.probabilities, expected, rtol=1e-5)
    assert [row.tolist() for row in run.embed(mixed).features] == [
        row.tolist() for row in run.embed(mixed[:1] + images[1:5] + mixed[5:]).features
    ]


@pytest.mark.parametrize(
    "several",
    [
        lambda images: np.stack(images),
        lambda images: (image for image in images),
        lambda images: tuple(images),
        lambda images: [jnp.asarray(image) for image in images],
        lambda images: np.stack(images).astype(np.float16),
    ],
    ids=["batch", "generator", "tuple", "jax", "float16"],
)
def test_several_images_are_as_many_rows(run, tmp_path, several):
    images = [pixels(seed) for seed in range(3)]
    done = run.predict(several(images))
    assert done.names == ("0", "1", "2")
    np.testing.assert_allclose(done.probabilities, of_files(run, tmp_path, *images), rtol=1e-5)


def test_an_array_of_paths_is_a_list_of_them(run, tmp_path):
    of_files(run, tmp_path, pixels(), pixels(1))
    paths = sorted(map(str, tmp_path.glob("*.png")))
    for given in (np.array(paths), np.array(paths, object), np.array(list(map(Path, paths)))):
        assert run.predict(given).names == tuple(paths)


def test_grey_arrays(run, tmp_path):
    greys = [np.ascontiguousarray(pixels(seed)[..., 0]) for seed in range(5)]
    expected = of_files(run, tmp_path, *greys)
    for several in (np.stack(greys), np.stack(greys)[..., None], greys):
        np.testing.assert_allclose(run.predict(several).probabilities, expected, rtol=1e-5)
    for one in (greys[0], greys[0][..., None], greys[0][None]):
        np.testing.assert_allclose(run.predict(one).probabilities, expected[:1], rtol=1e-5)


def test_an_image_that_cannot_be_decoded_is_named_by_its_number(run, tmp_path):
    """An image in memory named 1 is not the file called 1."""
    (tmp_path / "1").write_bytes(png(pixels()))
    cut = Image.open(io.BytesIO(png(pixels())[:200]))
    values = [png(pixels()), b"", b"<html>", cut, Image.new("F", (9, 9)), io.BytesIO()]
    done = run.predict(values)
    assert list(done.failed) == ["1", "2", "3", "4", "5"]
    assert done.failed["1"] == "is empty" and "is text" in done.failed["2"]
    assert np.isnan(done.probabilities).all(1).tolist() == [False] + [True] * 5
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = run.predict(["1", b""])
    assert done.names == ("1", "image 1")
    assert list(done.failed) == ["image 1"] and done.labels[1] is None and done.labels[0]


def test_one_image_listed_twice(run):
    lazy = Image.open(io.BytesIO(png(pixels())))
    done = run.predict([lazy] * 8)
    assert not done.failed
    # Equal up to the rounding of the rows of a batch.
    np.testing.assert_allclose(done.probabilities, done.probabilities[:1].repeat(8, 0), rtol=1e-5)


AMBIGUOUS = {  # shape: both readings
    (3, 40, 50): ("[C, H, W]", "3 grey images"),
    (4, 40, 50): ("[C, H, W]", "4 grey images"),
    (3, 40, 3): ("one image [H, W, C]", "channels first"),
    (1, 40, 3): ("one image [H, W, C]", "1 grey image"),
    (40, 4, 4): ("one image [H, W, C]", "40 grey images"),
    (40, 50, 2): ("grey and alpha", "40 grey images"),
    (2, 3, 40, 3): ("[N, H, W, C]", "[N, C, H, W]"),
    (2, 4, 4, 4): ("[N, H, W, C]", "[N, C, H, W]"),
}


@pytest.mark.parametrize("shape", AMBIGUOUS, ids=str)
def test_a_shape_with_two_readings_is_refused_with_both(run, shape):
    with pytest.raises(fr.UserError) as caught:
        run.predict(np.zeros(shape, np.uint8))
    assert str(list(shape)) in str(caught.value)
    assert all(reading in str(caught.value) for reading in AMBIGUOUS[shape])


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (np.zeros((2, 3, 40, 50), np.uint8), "channels first"),
        (np.zeros((2, 40, 50, 5), np.uint8), "5 is not a number of channels"),
        (np.zeros(9, np.uint8), "the bytes of a file as bytes"),
        (np.zeros((9, 0), np.uint8), "[H, W, C]"),
        (np.zeros((2, 2, 9, 9, 3), np.uint8), "[N, H, W, C]"),
        (np.zeros((9, 9, 3), np.int64), "int64"),
        (np.zeros((9, 9, 3), np.uint16), "uint16"),
        (np.zeros((9, 9), bool), "bool"),
        (np.zeros((9, 9), complex), "complex"),
        (np.full((9, 9, 3), np.nan), "NaN or infinite"),
        (np.full((9, 9, 3), np.inf), "NaN or infinite"),
        (np.linspace(-2, 2, 243).reshape(9, 9, 3), "before any normalisation"),
        (np.full((9, 9, 3), 1.02), "0 to 1 with an overshoot, or 0 to 255"),
        (np.full((9, 9, 3), 300.0), "0 to 255"),
        ([np.full((9, 9, 3), 0.9), np.full((9, 9, 3), 200.0)], "Image 0 of the list"),
        ([np.zeros((5, 9, 9, 3), np.uint8)], "of 5 images"),
        ([np.zeros((5, 9, 9), np.uint8)], "of 5 images"),
        ([[1, 2], [3, 4]], "is of type list"),
        ([1, 2], "is of type int"),
        (3, "A value of type int is not an image"),
        (None, "A value of type NoneType is not an image"),
        ({"image": np.zeros((9, 9), np.uint8)}, "A value of type dict is not an image"),
        ([("a.jpg", 1)], "is of type tuple"),
        (io.StringIO("a.jpg"), 'open it with "rb"'),
    ],
)
def test_what_is_no_image_is_one_sentence(run, value, sentence):
    with pytest.raises(fr.UserError) as caught:
        run.predict(value)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_closed_file_is_refused(run):
    file = io.BytesIO()
    file.close()
    with pytest.raises(fr.UserError, match="cannot be read"):
        run.predict([file])


@pytest.mark.parametrize("empty", [[], (), np.array([]), np.zeros((0, 16, 16, 3), np.uint8)])
def test_no_images_give_no_rows(run, empty):
    assert run.predict(empty).probabilities.shape == (0, 3)


def test_a_home_in_a_path_is_expanded(run, tmp_path, monkeypatch):
    of_files(run, tmp_path, pixels())
    monkeypatch.setenv("HOME", str(tmp_path))
    done = run.predict(["~/0.png"])
    assert done.names == ("~/0.png",) and not done.failed


def test_a_grey_model_takes_every_kind(classifier, tmp_path):
    run = classifier(1)
    expected = of_files(run, tmp_path, pixels())
    for value in (pixels(), alpha(), pixels() / 255, png(pixels()), pixels()[None]):
        np.testing.assert_allclose(run.predict(value).probabilities, expected, rtol=1e-4)
