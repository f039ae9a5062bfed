"""RandAugment, torchvision's and timm's, and TrivialAugment: random operations for one image.

Under ``vmap`` a ``lax.switch`` would compute all operations for every image. Here every operation
is a special case of four steps: an affine warp, a lookup table, a blend with the grey image and a
blend with the smoothed image. The steps that an operation does not need are exact identities.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from . import color
from .geometry import Interpolation, Level, center_affine, warp

BINS = 31  # strengths, 0 to 30
TIMM_MOST = 10  # the greatest magnitude of timm's RandAugment

Ends = tuple[float, float] | None
Policy = Literal["rand", "trivial", "timm"]


@dataclass(frozen=True)
class Operation:
    """One operation of the policies.

    Attributes:
        name: Name of the operation.
        rand, trivial: Strength at bins 0 and 30 of RandAugment and of TrivialAugmentWide; it is
            linear between them. None where a policy lacks the operation.
        timm: The same at magnitudes 0 and 10 of timm's RandAugment.
        signed: The strength gets a random sign.
    """

    name: str
    rand: Ends = (0.0, 0.0)
    trivial: Ends = (0.0, 0.0)
    timm: Ends = (0.0, 0.0)
    signed: bool = False


# The operations of torchvision 0.28, after Cubuk et al. 2019 and Müller & Hutter 2021, and those of
# timm 1.0 whose severity grows with the magnitude ("inc1"). Shears are slopes, and rotations are
# degrees counter-clockwise. The strengths of brightness, contrast, color and sharpness are added to
# the factor 1 of a blend.
OPERATIONS = (
    Operation("identity", timm=None),
    Operation("shear_x", (0, 0.3), (0, 0.99), (0, 0.3), True),
    Operation("shear_y", (0, 0.3), (0, 0.99), (0, 0.3), True),
    # RandAugment: fractions of the image's side, 150 pixels of 331. TrivialAugment: pixels.
    Operation("translate_x", (0, 150 / 331), (0, 32), (0, 0.45), True),
    Operation("translate_y", (0, 150 / 331), (0, 32), (0, 0.45), True),
    Operation("rotate", (0, 30), (0, 135), (0, 30), True),
    Operation("brightness", (0, 0.9), (0, 0.99), (0, 0.9), True),
    Operation("contrast", (0, 0.9), (0, 0.99), (0, 0.9), True),
    Operation("posterize", (8, 4), (8, 2), (4, 0)),  # bits kept, rounded
    Operation("solarize", (255, 0), (255, 0), (256, 0)),  # threshold
    Operation("autocontrast"),
    Operation("equalize"),
    Operation("color", (0, 0.9), (0, 0.99), (0, 0.9), True),
    Operation("sharpness", (0, 0.9), (0, 0.99), (0, 0.9), True),
    Operation("invert", None, None),
    Operation("solarize_add", None, None, (0, 110)),  # added to values below 128
)
NAMES = tuple(operation.name for operation in OPERATIONS)


def strengths(policy: Literal["rand", "trivial"], height: int, width: int) -> np.ndarray:
    """Return the strength of every operation and bin without sign, float32 ``[16, 31]``.

    Translations are in pixels of an image of the given size.
    """
    ends = _ends(policy)
    table = np.linspace(ends[:, 0], ends[:, 1], BINS, axis=1)
    if policy == "rand":
        table[NAMES.index("translate_x")] *= width
        table[NAMES.index("translate_y")] *= height
    for name in ("translate_x", "translate_y"):
        table[NAMES.index(name)] = np.trunc(table[NAMES.index(name)])
    table[NAMES.index("posterize")] = np.round(table[NAMES.index("posterize")])
    return table.astype(np.float32)


def timm_strengths(magnitude: jax.Array, height: int, width: int) -> jax.Array:
    """Return the strength of every operation of timm's RandAugment without sign, float32 ``[16]``.

    Translations are in pixels of an image of the given size.
    """
    low, high = jnp.asarray(_ends("timm").T, jnp.float32)
    values = low + (high - low) * magnitude / TIMM_MOST
    for name, factor in {"translate_x": width, "translate_y": height}.items():
        values = values.at[NAMES.index(name)].multiply(factor)
    # timm truncates what it adds to values, and what it takes off their first end.
    for name, whole in (
        ("posterize", jnp.ceil),
        ("solarize", jnp.ceil),
        ("solarize_add", jnp.floor),
    ):
        values = values.at[NAMES.index(name)].apply(whole)
    return values


def rand_augment(
    key: jax.Array,
    image: jax.Array,
    number: int = 2,
    magnitude: int = 9,
    fill_value: Level = 0,
    interpolation: Interpolation = "bilinear",
) -> jax.Array:
    """Apply RandAugment (Cubuk et al. 2019) to a uint8 image ``[H, W, C]``, C 1 or 3.

    ``number`` operations are drawn independently and applied one after the other with the strength
    of ``magnitude``, 0 to 30.
    """
    table = jnp.asarray(strengths("rand", *image.shape[:2]))
    for operation_key in jax.random.split(key, number):
        index, sign = _draw(operation_key, "rand")
        image = apply_operation(
            image, index, sign * table[index, magnitude], fill_value, interpolation
        )
    return image


def trivial_augment(
    key: jax.Array,
    image: jax.Array,
    fill_value: Level = 0,
    interpolation: Interpolation = "bilinear",
) -> jax.Array:
    """Apply TrivialAugmentWide (Müller & Hutter 2021) to a uint8 image ``[H, W, C]``, C 1 or 3.

    One operation and one strength are drawn uniformly.
    """
    table = jnp.asarray(strengths("trivial", *image.shape[:2]))
    operation_key, bin_key = jax.random.split(key)
    index, sign = _draw(operation_key, "trivial")
    strength = table[index, jax.random.randint(bin_key, (), 0, BINS, jnp.int32)]
    return apply_operation(image, index, sign * strength, fill_value, interpolation)


def timm_rand_augment(
    key: jax.Array,
    image: jax.Array,
    number: int = 2,
    magnitude: float = 9.0,
    deviation: float = 0.5,
    fill_value: Level = 0,
    interpolation: Interpolation = "bilinear",
) -> jax.Array:
    """Apply timm's RandAugment to a uint8 image ``[H, W, C]``, C 1 or 3.

    That is ``rand-m{magnitude}-n{number}-mstd{deviation}-inc1``: ``number`` operations are drawn
    independently, and each is applied with probability 1/2, with a strength of its own: of a normal
    distribution around ``magnitude``, clipped to 0 to 10.
    """
    for operation_key in jax.random.split(key, number):
        draw_key, applied_key, noise_key = jax.random.split(operation_key, 3)
        index, sign = _draw(draw_key, "timm")
        noise = deviation * jax.random.normal(noise_key, (), jnp.float32)
        strength = timm_strengths(jnp.clip(magnitude + noise, 0, TIMM_MOST), *image.shape[:2])
        changed = apply_operation(image, index, sign * strength[index], fill_value, interpolation)
        image = jnp.where(jax.random.bernoulli(applied_key), changed, image)
    return image


def apply_operation(
    image: jax.Array,
    index: jax.Array,
    strength: jax.Array,
    fill_value: Level = 0,
    interpolation: Interpolation = "bilinear",
) -> jax.Array:
    """Apply ``OPERATIONS[index]`` with a signed strength; index and strength may be traced."""
    matrix = _matrix(index, strength, *image.shape[:2])
    image = warp(image, matrix, "constant", fill_value, interpolation)
    image = color.apply_table(image, _table(image, index, strength))

    def factor(name: str) -> jax.Array:
        return jnp.where(index == NAMES.index(name), 1 + strength, 1)

    image = color.adjust_saturation(image, factor("color"))
    return color.adjust_sharpness(image, factor("sharpness"))


def _ends(policy: Policy) -> np.ndarray:
    """Return the strengths at both ends, ``[16, 2]``."""
    return np.array([getattr(operation, policy) or (0.0, 0.0) for operation in OPERATIONS])


def _draw(key: jax.Array, policy: Policy) -> tuple[jax.Array, jax.Array]:
    """Draw the index of an operation of a policy and the sign of its strength."""
    held = [number for number, one in enumerate(OPERATIONS) if getattr(one, policy) is not None]
    index_key, sign_key = jax.random.split(key)
    index = jnp.array(held)[jax.random.randint(index_key, (), 0, len(held), jnp.int32)]
    signed = jnp.array([operation.signed for operation in OPERATIONS])
    negative = jax.random.bernoulli(sign_key) & signed[index]
    return index, jnp.where(negative, jnp.float32(-1), jnp.float32(1))


def _matrix(index: jax.Array, strength: jax.Array, height: int, width: int) -> jax.Array:
    """Return the matrix of the warp; it is the identity for operations that move no pixel."""
    zero, one = jnp.zeros_like(strength), jnp.ones_like(strength)
    angle = jnp.deg2rad(strength)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rotate = center_affine(jnp.array([[cos, -sin, zero], [sin, cos, zero]]), height, width)
    matrices = {
        "identity": jnp.array([[one, zero, zero], [zero, one, zero]]),
        "shear_x": jnp.array([[one, strength, zero], [zero, one, zero]]),
        "shear_y": jnp.array([[one, zero, zero], [strength, one, zero]]),
        "translate_x": jnp.array([[one, zero, -strength], [zero, one, zero]]),
        "translate_y": jnp.array([[one, zero, zero], [zero, one, -strength]]),
        "rotate": rotate,
    }
    return _choose(index, matrices, "identity")


def _table(image: jax.Array, index: jax.Array, strength: jax.Array) -> jax.Array:
    """Return the lookup table ``[256, C]``; it is the identity for operations without a table."""
    counts = color.histogram(image)
    tables = {
        "identity": jnp.arange(256, dtype=jnp.uint8)[:, None],
        "brightness": color.brightness_table(1 + strength),
        "contrast": color.contrast_table(image, 1 + strength),
        "posterize": color.posterize_table(jnp.clip(strength, 0, 8)),
        "solarize": color.solarize_table(strength),
        "autocontrast": color.autocontrast_table(counts),
        "equalize": color.equalize_table(counts),
        "invert": color.solarize_table(0),
        "solarize_add": color.solarize_add_table(strength),
    }
    shape = (256, image.shape[-1])
    tables = {name: jnp.broadcast_to(table, shape) for name, table in tables.items()}
    return _choose(index, tables, "identity")


def _choose(index: jax.Array, cases: dict[str, jax.Array], default: str) -> jax.Array:
    """Return the case with the name of operation ``index``, or the case ``default``."""
    result = cases[default]
    for name, value in cases.items():
        result = jnp.where(index == NAMES.index(name), value, result)
    return result
