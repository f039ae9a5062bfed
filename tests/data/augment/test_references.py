"""Augmentation, compared with Pillow and NumPy: each operation, and the policies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from flax_resnet import UserError
from flax_resnet.data.augment import (
    Augmentation,
    Mixing,
    color,
    cutmix,
    mixup,
    resize_center_crop,
)
from flax_resnet.data.augment.geometry import warp
from flax_resnet.data.augment.policies import (
    NAMES,
    OPERATIONS,
    apply_operation,
    timm_rand_augment,
    timm_strengths,
)

jitted_operation = jax.jit(apply_operation)
jitted_warp = jax.jit(warp, static_argnames="fill")


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compile without optimisation, because compiling takes nearly all the time of these tests."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def photo():
    """A smooth picture with noise, uint8 ``[24, 32, 3]``."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((32, 24), Image.Resampling.BICUBIC), np.int64)
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 10, 240).astype(np.uint8)


def by_table(table):
    """Return the operation that applies the lookup table ``table(image, ...)``."""
    return lambda image, *options: color.apply_table(image, table(image, *options))


def levels_apart(ours, pillow):
    return np.abs(np.asarray(ours, np.int64) - np.asarray(pillow, np.int64)).max()


@pytest.mark.parametrize(
    ("ours", "pillow", "most"),
    [
        (
            by_table(lambda x: color.autocontrast_table(color.histogram(x))),
            ImageOps.autocontrast,
            0,
        ),
        (by_table(lambda x: color.equalize_table(color.histogram(x))), ImageOps.equalize, 0),
        (by_table(lambda x: color.posterize_table(3)), lambda p: ImageOps.posterize(p, 3), 0),
        (by_table(lambda x: color.solarize_table(100)), lambda p: ImageOps.solarize(p, 100), 0),
        (lambda x: jnp.repeat(color.grey(x), 3, -1), lambda p: p.convert("L").convert("RGB"), 0),
    ],
    ids=["autocontrast", "equalize", "posterize", "solarize", "grey"],
)
def test_levels_equal_pillows(photo, ours, pillow, most):
    assert levels_apart(jax.jit(ours)(photo), pillow(Image.fromarray(photo))) <= most


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(
    ("ours", "pillow"),
    [
        (by_table(lambda x, factor: color.brightness_table(factor)), ImageEnhance.Brightness),
        (by_table(color.contrast_table), ImageEnhance.Contrast),
        (color.adjust_saturation, ImageEnhance.Color),
        (color.adjust_sharpness, ImageEnhance.Sharpness),
    ],
    ids=["brightness", "contrast", "saturation", "sharpness"],
)
def test_enhancements_equal_pillows(photo, ours, pillow, factor):
    expected = pillow(Image.fromarray(photo)).enhance(factor)
    assert levels_apart(jax.jit(ours)(photo, factor), expected) <= 1


def test_hue_turns_in_thirds_as_channels_do(photo):
    turned = color.adjust_hue(jnp.asarray(photo), 1 / 3)
    assert levels_apart(turned, photo[..., [2, 0, 1]]) <= 1


def test_a_quarter_turn_and_a_shift_are_exact(photo):
    square = photo[:24, :24]
    turn = jnp.array([[0.0, -1.0, 24.0], [1.0, 0.0, 0.0]])  # from (x, y) to (24 - y, x)
    np.testing.assert_array_equal(jitted_warp(square, turn), np.rot90(square, 1))
    shift = jnp.array([[1.0, 0.0, 5.0], [0.0, 1.0, 0.0]])  # 5 pixels to the left
    for fill, expected in (
        ("constant", np.pad(photo, ((0, 0), (0, 5), (0, 0)))),
        ("nearest", np.pad(photo, ((0, 0), (0, 5), (0, 0)), mode="edge")),
        ("reflect", np.pad(photo, ((0, 0), (0, 5), (0, 0)), mode="symmetric")),
    ):
        np.testing.assert_array_equal(jitted_warp(photo, shift, fill=fill), expected[:, 5:])


@pytest.mark.parametrize(
    "name", ["identity", "rotate", "posterize", "color", "invert", "solarize_add"]
)
def test_operations_of_the_policies_equal_pillows(photo, name):
    strengths = {"rotate": 20.0, "posterize": 4.0, "color": 0.5, "solarize_add": 66.0}
    strength = strengths.get(name, 0.0)
    image = Image.fromarray(photo)
    bilinear = {"resample": Image.Resampling.BILINEAR, "fillcolor": 0}
    expected = {
        "identity": lambda: image,
        "rotate": lambda: image.rotate(strength, **bilinear),
        "posterize": lambda: ImageOps.posterize(image, 4),
        "color": lambda: ImageEnhance.Color(image).enhance(1.5),
        "invert": lambda: ImageOps.invert(image),
        # timm's solarize_add
        "solarize_add": lambda: image.point([i + 66 if i < 128 else i for i in range(256)] * 3),
    }
    ours = np.asarray(
        apply_operation(jnp.asarray(photo), jnp.asarray(NAMES.index(name)), jnp.float32(strength))
    )
    inside = np.s_[6:-6, 8:-8] if name == "rotate" else np.s_[:]
    assert levels_apart(ours[inside], np.asarray(expected[name]())[inside]) <= 1


def test_strengths_equal_the_papers():
    ranges = {operation.name: operation for operation in OPERATIONS}
    for policy, count in (("rand", 14), ("trivial", 14), ("timm", 15)):
        assert sum(getattr(one, policy) is not None for one in OPERATIONS) == count
    assert ranges["rotate"].rand == (0, 30) and ranges["rotate"].trivial == (0, 135)
    assert ranges["shear_x"].rand == (0, 0.3) and ranges["shear_x"].trivial == (0, 0.99)


# timm 1.0.31, rand-m6-inc1: the arguments of its operations for an image of 100x200, without sign.
TIMM = {
    **{"shear_x": 0.18, "shear_y": 0.18, "translate_x": 54.0, "translate_y": 27.0, "rotate": 18.0},
    **{"brightness": 0.54, "contrast": 0.54, "color": 0.54, "sharpness": 0.54},
    **{"posterize": 2.0, "solarize": 103.0, "solarize_add": 66.0},
}


def test_strengths_of_timm():
    values = np.asarray(timm_strengths(jnp.float32(6), 100, 200))
    for name, value in zip(NAMES, values, strict=True):
        assert value == pytest.approx(TIMM.get(name, 0), rel=1e-6), name


@pytest.mark.parametrize("magnitude", [0.0, 3.7, 10.0])
def test_strengths_are_those_of_the_timm_that_is_installed(magnitude):
    timm = pytest.importorskip("timm.data.auto_augment")
    values = np.asarray(timm_strengths(jnp.float32(magnitude), 1, 1))
    theirs = {
        **{"shear_x": "ShearX", "translate_x": "TranslateXRel", "rotate": "Rotate"},
        **{"posterize": "PosterizeIncreasing", "solarize": "SolarizeIncreasing"},
        **{"solarize_add": "SolarizeAdd", "color": "ColorIncreasing"},
    }
    for name, other in theirs.items():
        (value,) = timm.LEVEL_TO_ARG[other](magnitude, {})
        value = abs(value - 1) if name == "color" else abs(value)
        assert values[NAMES.index(name)] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.slow
def test_timms_operations_are_applied_to_half_of_the_images(photo):
    keys = jax.random.split(jax.random.key(0), 256)
    small = jnp.asarray(photo[:8, :8])
    images = jax.jit(jax.vmap(lambda key: timm_rand_augment(key, small, 1, 6, 0.5)))(keys)
    changed = np.any(np.asarray(images) != np.asarray(small), axis=(1, 2, 3)).mean()
    assert 0.3 < changed <= 0.6  # a few operations change few pixels of so small an image


SETTINGS = {
    "resized crop": {"random_resized_crop": 16},
    "warps": {"rotation": 20, "shift": 0.1, "shear": 10, "zoom": 0.2, "fill": "reflect"},
    "rand_augment": {"rand_augment": (2, 9)},
    "timm_rand_augment": {"timm_rand_augment": (2, 6, 0.5)},
    "trivial_augment": {"trivial_augment": True},
    "colours": {"color_jitter": (0.4, 0.4, 0.4, 0.1), "grayscale": 0.3},
    "erasing": {"random_erasing": 0.5, "cutout": 6},
}


SLOW = ("timm_rand_augment", "trivial_augment", "colours", "erasing")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SETTINGS]
)
def test_an_image_depends_on_its_own_index_only(photo, name):
    augment = jax.jit(Augmentation(**SETTINGS[name]))
    images = np.stack([photo, photo[::-1], photo[:, ::-1], photo])
    key, index = jax.random.key(3), np.arange(4)
    whole = np.asarray(augment(key, images, index))
    assert whole.dtype == np.uint8
    assert whole.shape == ((4, 16, 16, 3) if name == "resized crop" else images.shape)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(augment(key, images[order], index[order]), whole[order])
    assert any(not np.array_equal(whole[0], np.asarray(augment(key, images, index + n))[0])
               for n in range(1, 6))  # fmt: skip


@pytest.mark.parametrize(("height", "width"), [(90, 120), (120, 90), (41, 64)])
def test_evaluation_crop_equals_pillows(height, width):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    shorter, resize, crop = min(height, width), 37, 32
    size = (int(resize * width / shorter), int(resize * height / shorter))
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    expected = image.resize(size, Image.Resampling.BILINEAR)
    expected = np.asarray(expected.crop((left, top, left + crop, top + crop)), np.float64)
    ours = np.asarray(resize_center_crop(np.asarray(image)[None], resize, crop)[0], np.float64)
    assert np.abs(ours - expected).mean() <= 1


def test_mixup_weights_images_and_targets_equally():
    rng = np.random.default_rng(0)
    images = rng.random((6, 4, 4, 3), np.float32)
    targets = np.eye(6, dtype=np.float32)
    mixed, soft = mixup(jax.random.key(1), images, targets, alpha=1.0)
    weight = float(soft[0, 0])
    assert 0 < weight < 1
    np.testing.assert_allclose(soft, weight * targets + (1 - weight) * np.roll(targets, 1, 0))
    expected = weight * images + (1 - weight) * np.roll(images, 1, 0)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)


def test_cutmix_inserts_a_box_and_weights_targets_by_its_area():
    images = np.arange(4, dtype=np.float32)[:, None, None, None] * np.ones(
        (4, 12, 10, 1), np.float32
    )
    seen = set()
    for seed in range(8):
        mixed, soft = cutmix(jax.random.key(seed), images, np.eye(4, dtype=np.float32), alpha=1.0)
        own = np.asarray(mixed[2, ..., 0]) == 2
        assert set(np.unique(np.asarray(mixed[2]))) <= {1.0, 2.0}
        np.testing.assert_allclose(soft[2], [0, 1 - own.mean(), own.mean(), 0], atol=1e-6)
        rows, columns = (~own).any(1), (~own).any(0)
        assert np.array_equal(~own, rows[:, None] & columns)  # a box
        seen.add(round(float(own.mean()), 3))
    assert len(seen) > 3


def test_invalid_settings_are_reported():
    with pytest.raises(UserError, match="choose one of them"):
        Augmentation(rand_augment=(2, 9), trivial_augment=True)
    with pytest.raises(UserError, match="fill is 'mirror'"):
        Augmentation(fill="mirror")
    with pytest.raises(UserError, match="magnitude is 40"):
        Augmentation(rand_augment=(2, 40))
    with pytest.raises(UserError, match="rand_augment and timm_rand_augment: choose one"):
        Augmentation(rand_augment=(2, 9), timm_rand_augment=(2, 6, 0.5))
    with pytest.raises(UserError, match="timm_rand_augment's magnitude is 11"):
        Augmentation(timm_rand_augment=(2, 11, 0.5))
    with pytest.raises(UserError, match="mixup_alpha"):
        Mixing(mixup_alpha=-1)
    with pytest.raises(UserError, match="uint8"):
        Augmentation(rotation=3)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), jnp.arange(1))
