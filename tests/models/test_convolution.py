"""The convolution's lowerings mean what `jax.lax.conv_general_dilated` means."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.extend.core import jaxprs_in_params

from flax_resnet.models import convolution
from flax_resnet.models.convolution import conv_general_dilated

NHWC = ("NHWC", "HWIO", "NHWC")
on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the row is for the CPU")


def arrays(batch, height, width, groups, in_size, out_size, kernel, dtype, seed=0):
    """Random lhs [N, H, W, groups * in_size] and rhs [*kernel, in_size, groups * out_size]."""
    rng = np.random.default_rng(seed)
    lhs = jnp.asarray(rng.normal(size=(batch, height, width, groups * in_size)), dtype)
    rhs = jnp.asarray(rng.normal(size=(*kernel, in_size, groups * out_size)), dtype)
    return lhs, rhs


def value_and_gradients(conv, lhs, rhs, **options):
    """The result and, for one random cotangent, the gradients of both operands."""

    @jax.jit
    def run(lhs, rhs, noise):
        out, pull = jax.vjp(lambda x, w: conv(x, w, **options), lhs, rhs)
        return out, *pull(noise.astype(out.dtype))

    shape = jax.eval_shape(lambda x, w: lax.conv_general_dilated(x, w, **options), lhs, rhs).shape
    noise = jnp.asarray(np.random.default_rng(1).normal(size=shape), lhs.dtype)
    return run(lhs, rhs, noise)


def assert_same(lhs, rhs, tolerance, **options):
    """Values and both gradients agree, relative to the largest number of each."""
    got = value_and_gradients(conv_general_dilated, lhs, rhs, **options)
    wanted = value_and_gradients(lax.conv_general_dilated, lhs, rhs, **options)
    for name, a, b in zip(("value", "lhs gradient", "rhs gradient"), got, wanted, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, name
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = max(1.0, float(np.abs(b).max(initial=0.0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=name)


def equations(jaxpr):
    """Every equation of a jaxpr, those of inner jaxprs too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def group_counts(function, *operands):
    """`feature_group_count` of each convolution that `function` traces to."""
    traced = jax.make_jaxpr(function)(*operands).jaxpr
    return [
        equation.params["feature_group_count"]
        for equation in equations(traced)
        if equation.primitive.name == "conv_general_dilated"
    ]


@st.composite
def convolutions(draw):
    """Shapes and options of a small convolution, whose result is not empty."""
    pair = st.tuples(st.integers(0, 2), st.integers(0, 2))
    return (
        {
            "batch": draw(st.integers(1, 2)),
            "height": draw(st.integers(5, 8)),
            "width": draw(st.integers(5, 8)),
            "groups": draw(st.sampled_from([1, 2, 3, 5, 18])),
            "in_size": draw(st.sampled_from([1, 2, 5])),
            "out_size": draw(st.sampled_from([1, 3, 4])),
            "kernel": draw(st.sampled_from([(1, 1), (3, 3), (2, 3)])),
            "seed": draw(st.integers(0, 99)),
        },
        {
            "window_strides": draw(st.sampled_from([(1, 1), (2, 2), (1, 2)])),
            "padding": draw(st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(pair, pair))),
            "rhs_dilation": draw(st.sampled_from([None, (1, 1), (2, 2)])),
            "feature_group_count": None,
            "dimension_numbers": NHWC,
        },
    )


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(convolutions())
def test_equals_lax_in_float64(case):
    shapes, options = case
    with jax.enable_x64(True):
        lhs, rhs = arrays(dtype=jnp.float64, **shapes)
        assert lhs.dtype == jnp.float64
        assert_same(lhs, rhs, 1e-10, **options | {"feature_group_count": shapes["groups"]})


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(convolutions())
def test_equals_lax_in_float32(case):
    shapes, options = case
    lhs, rhs = arrays(dtype=jnp.float32, **shapes)
    # Sums of at most a few hundred products: a hundred roundings of 2**-24 is generous.
    assert_same(lhs, rhs, 1e-5, **options | {"feature_group_count": shapes["groups"]})


def test_bfloat16_differs_by_rounding_only():
    lhs, rhs = arrays(2, 6, 6, 8, 4, 4, (3, 3), jnp.bfloat16)
    assert_same(
        lhs,
        rhs,
        2**-6,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=NHWC,
        feature_group_count=8,
    )


def test_accumulation_type_and_lhs_dilation():
    lhs, rhs = arrays(1, 5, 4, 4, 2, 2, (3, 3), jnp.bfloat16)
    options = {
        "window_strides": (1, 1),
        "padding": ((1, 1), (2, 0)),
        "lhs_dilation": (2, 1),
        "dimension_numbers": NHWC,
        "feature_group_count": 4,
        "preferred_element_type": jnp.float32,
    }
    got = conv_general_dilated(lhs, rhs, **options)
    wanted = lax.conv_general_dilated(lhs, rhs, **options)
    assert got.dtype == wanted.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@on_cpu
@pytest.mark.parametrize(
    ("groups", "in_size", "out_size"),
    [(32, 4, 4), (8, 64, 64), (40, 1, 2), (37, 3, 3), (3, 40, 1)],
)
def test_no_grouped_convolution_is_left_on_cpu(groups, in_size, out_size):
    lhs, rhs = arrays(1, 4, 4, groups, in_size, out_size, (3, 3), jnp.float32)

    def convolve(lhs, rhs):
        return conv_general_dilated(
            lhs,
            rhs,
            (1, 1),
            "SAME",
            dimension_numbers=NHWC,
            feature_group_count=groups,
        )

    def gradients(lhs, rhs):
        return jax.grad(lambda *xw: convolve(*xw).sum(), argnums=(0, 1))(lhs, rhs)

    for counts in (group_counts(convolve, lhs, rhs), group_counts(gradients, lhs, rhs)):
        assert counts and set(counts) == {1}
    # The count of convolutions is the compile time: it has a bound.
    assert len(group_counts(convolve, lhs, rhs)) <= convolution._MAX_BLOCKS


@on_cpu
def test_flax_layer_takes_the_grouped_path():
    layer = nn.Conv(
        24,
        (3, 3),
        2,
        padding=1,
        feature_group_count=6,
        use_bias=False,
        conv_general_dilated=conv_general_dilated,
    )
    plain = layer.clone(conv_general_dilated=None)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 7, 12)), jnp.float32)
    variables = plain.init(jax.random.key(0), x)
    np.testing.assert_allclose(layer.apply(variables, x), plain.apply(variables, x), atol=1e-5)
    assert set(group_counts(layer.apply, variables, x)) == {1}
    assert set(group_counts(plain.apply, variables, x)) == {6}


def test_everything_else_falls_through_to_lax():
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(2, 4, 6, 6)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(8, 2, 3, 3)), jnp.float32)
    one_d = jnp.asarray(rng.normal(size=(2, 9, 4)), jnp.float32)
    one_d_kernel = jnp.asarray(rng.normal(size=(3, 2, 4)), jnp.float32)
    cases = [
        (image, kernel, (1, 1), {"feature_group_count": 2}),  # NCHW by OIHW
        (image, kernel[:, :, :1, :1].repeat(2, 1), (1, 1), {"batch_group_count": 2}),
        (
            one_d,
            one_d_kernel,
            (1,),
            {"feature_group_count": 2, "dimension_numbers": ("NWC", "WIO", "NWC")},
        ),
    ]
    for lhs, rhs, strides, options in cases:
        got = conv_general_dilated(lhs, rhs, strides, "VALID", **options)
        wanted = lax.conv_general_dilated(lhs, rhs, strides, "VALID", **options)
        np.testing.assert_array_equal(got, wanted)


@on_cpu
def test_other_backends_keep_lax(monkeypatch):
    lhs, rhs = arrays(1, 4, 4, 4, 2, 2, (3, 3), jnp.float32)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    counts = group_counts(
        lambda x, w: conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=4
        ),
        lhs,
        rhs,
    )
    assert counts == [4]


def test_malformed_groups_raise_the_error_of_lax():
    lhs, rhs = jnp.zeros((1, 4, 4, 6)), jnp.zeros((3, 3, 2, 6))
    with pytest.raises(ValueError, match="feature_group_count"):
        conv_general_dilated(
            lhs, rhs, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=2
        )
