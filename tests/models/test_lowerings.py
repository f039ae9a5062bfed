"""Every convolution algorithm agrees with `jax.lax.conv_general_dilated`."""

import sys
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import ClosedJaxpr, Jaxpr

import flax_resnet as fr
from flax_resnet.models.lowerings import Convolution, choose, convolve, grouped, max_pool, onednn

on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the rows are for the CPU")
# Sums of at most a thousand products: a hundred roundings are generous.
# Without oneDNN "auto" is "jax".
CONV_IMPLS = ("auto", "jax") if onednn.is_available() else ("jax",)
TOLERANCE = {jnp.float64: 1e-12, jnp.float32: 1e-5, jnp.bfloat16: 2**-6}


def operands(batch=2, height=6, width=6, groups=1, in_size=4, out_size=4, kernel=3, seed=0):
    """Random x [N, H, W, groups * in_size] and kernel [k, k, in_size, groups * out_size]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, height, width, groups * in_size))
    return x, rng.normal(size=(kernel, kernel, in_size, groups * out_size))


def value_and_gradients(x, kernel, conv_impl, stride=1, padding=1, groups=1):
    """The result and, for one random cotangent, the gradients of both operands."""

    @jax.jit
    def run(x, kernel):
        def apply(x, kernel):
            return convolve(Convolution(x, kernel, stride, padding, groups), conv_impl)

        out, pull = jax.vjp(apply, x, kernel)
        noise = np.random.default_rng(1).normal(size=out.shape)
        return out, *pull(jnp.asarray(noise, out.dtype))

    return run(x, kernel)


def assert_same(x, kernel, dtype, **options):
    """Values and both gradients agree, relative to the largest number of each."""
    x, kernel = jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)
    assert x.dtype == dtype
    wanted = value_and_gradients(x, kernel, "reference", **options)
    for conv_impl in CONV_IMPLS:
        got = value_and_gradients(x, kernel, conv_impl, **options)
        for name, a, b in zip(("value", "x gradient", "kernel gradient"), got, wanted, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape, name
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            tolerance = TOLERANCE[dtype] * max(1.0, float(np.abs(b).max()))
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=f"{name}, {conv_impl}")


@st.composite
def convolutions(draw):
    """Shapes and options of a small convolution, whose result is not empty."""
    kernel = draw(st.sampled_from([1, 2, 3, 5, 7]))
    groups = draw(st.sampled_from([1, 1, 2, 5, 18]))
    shapes = {
        "batch": draw(st.integers(1, 2)),
        "height": draw(st.integers(7, 10)),
        "width": draw(st.integers(7, 10)),
        "groups": groups,
        "in_size": draw(st.sampled_from([1, 2, 5])),
        "out_size": draw(st.sampled_from([1, 3, 4])),
        "kernel": kernel,
        "seed": draw(st.integers(0, 99)),
    }
    options = {
        "stride": draw(st.sampled_from([1, 2, 2, 3])),
        "padding": draw(st.sampled_from([0, kernel // 2, 2])),
        "groups": groups,
    }
    small_map = draw(st.sampled_from([0, grouped.SMALL_MAP]))  # both algorithms for groups
    return shapes, options, small_map


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(convolutions())
def test_equal_in_float64(case):
    shapes, options, small_map = case
    with jax.enable_x64(True), mock.patch.object(grouped, "SMALL_MAP", small_map):
        assert_same(*operands(**shapes), jnp.float64, **options)


@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(convolutions())
def test_equal_in_float32(case):
    shapes, options, small_map = case
    with mock.patch.object(grouped, "SMALL_MAP", small_map):
        assert_same(*operands(**shapes), jnp.float32, **options)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 8])
def test_bfloat16_differs_by_rounding_only(kernel, groups):
    x, weights = operands(groups=groups, kernel=kernel)
    assert_same(x, weights, jnp.bfloat16, groups=groups, stride=2, padding=kernel // 2)


def equations(jaxpr):
    """Every equation of a jaxpr, those of inner jaxprs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values())):
            if isinstance(value, Jaxpr | ClosedJaxpr):
                yield from equations(getattr(value, "jaxpr", value))


def group_counts(function, *operands):
    """`feature_group_count` of each convolution that `function` traces to."""
    traced = jax.make_jaxpr(function)(*operands).jaxpr
    return [
        equation.params["feature_group_count"]
        for equation in equations(traced)
        if equation.primitive.name == "conv_general_dilated"
    ]


@on_cpu
@pytest.mark.parametrize(
    ("groups", "in_size", "out_size"),
    [(32, 4, 4), (8, 64, 64), (40, 1, 2), (37, 3, 3), (3, 40, 1)],
)
@pytest.mark.parametrize("small_map", [0, grouped.SMALL_MAP])
def test_no_grouped_convolution_is_left_on_cpu(groups, in_size, out_size, small_map, monkeypatch):
    monkeypatch.setattr(grouped, "SMALL_MAP", small_map)
    x, kernel = operands(1, 4, 4, groups, in_size, out_size)

    def apply(x, kernel):
        return convolve(Convolution(x, kernel, 1, 1, groups), "jax")

    def gradients(x, kernel):
        return jax.grad(lambda *operands: apply(*operands).sum(), argnums=(0, 1))(x, kernel)

    for function in (apply, gradients):
        assert set(group_counts(function, *map(jnp.float32, (x, kernel)))) <= {1}
    # The count of convolutions is the compile time: it has a bound.
    counts = group_counts(apply, *map(jnp.float32, (x, kernel)))
    assert len(counts) <= grouped.MAX_BLOCKS


@on_cpu
def test_a_pointwise_convolution_is_a_product_on_cpu():
    x, kernel = map(jnp.float32, operands(kernel=1))
    conv = Convolution(x, kernel, stride=2)
    names = [
        equation.primitive.name
        for equation in equations(jax.make_jaxpr(lambda: convolve(conv, "jax"))().jaxpr)
    ]
    assert "dot_general" in names and "conv_general_dilated" not in names
    assert choose(conv, "reference").name == "XLA"


def test_other_backends_keep_xlas(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for groups, kernel in ((4, 3), (1, 1)):
        x, weights = map(jnp.float32, operands(groups=groups, kernel=kernel))
        conv = Convolution(x, weights, 1, kernel // 2, groups)
        assert choose(conv).name == "XLA"


def test_an_empty_batch_gives_an_empty_result():
    x, kernel = jnp.zeros((0, 6, 6, 4)), jnp.ones((1, 1, 4, 3))
    assert convolve(Convolution(x, kernel)).shape == (0, 6, 6, 3)


@pytest.mark.parametrize(
    ("x", "kernel", "groups", "error", "message"),
    [
        (jnp.zeros((1, 4, 6)), jnp.zeros((3, 3, 6, 6)), 1, ValueError, r"takes images \[N, H, W"),
        (jnp.zeros((1, 4, 4, 6)), jnp.zeros((3, 3, 2, 6)), 2, ValueError, "2 groups do not fit"),
        (jnp.zeros((1, 4, 4, 6)), jnp.zeros((3, 3, 3, 5)), 2, ValueError, "2 groups do not fit"),
        (jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2, 2), int), 1, TypeError, "one floating dtype"),
    ],
)
def test_malformed_operands_are_named(x, kernel, groups, error, message):
    with pytest.raises(error, match=message):
        convolve(Convolution(x, kernel, groups=groups))


def test_unknown_or_missing_conv_impl_is_an_error():
    conv = Convolution(jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2, 2)))
    with pytest.raises(ValueError, match="conv_impl='fast' is not one of"):
        convolve(conv, "fast")
    with pytest.raises(ValueError, match="conv_impl='fast' is not one of"):
        fr.create_model("resnet18", conv_impl="fast")


def test_a_package_that_cannot_be_imported_is_refused_with_the_reason(monkeypatch):
    """It was called absent where it is installed and refuses an older JAX."""
    monkeypatch.setitem(sys.modules, "flax_resnet_onednn", None)
    onednn.import_error.cache_clear()
    conv = Convolution(jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2, 2)))
    try:
        with pytest.raises(ValueError, match=r"cannot be imported: .*flax_resnet_onednn"):
            convolve(conv, "onednn")
        assert convolve(conv, "auto").shape == (1, 2, 2, 2)
    finally:
        onednn.import_error.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("groups", [4, 1])
def test_a_model_and_its_gradients_are_the_same_with_every_conv_impl(groups):
    with jax.enable_x64(True):
        model = fr.ResNet(
            (1,),
            "bottleneck",
            widths=(2,),
            num_classes=3,
            groups=groups,
            width_per_group=64,
            dtype=jnp.float64,
            param_dtype=jnp.float64,
        )
        images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)))
        key = jax.random.key(0, impl="rbg")
        variables = jax.jit(partial(model.init, train=False))(key, images)

        def loss_and_gradients(conv_impl):
            def loss(params):
                apply = model.clone(conv_impl=conv_impl).apply
                return jnp.sum(jnp.square(apply(variables | {"params": params}, images, True)))

            return jax.jit(jax.value_and_grad(loss))(variables["params"])

        wanted = loss_and_gradients("reference")
        for conv_impl in CONV_IMPLS:
            got = loss_and_gradients(conv_impl)
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
                scale = max(1.0, float(jnp.abs(b).max()))
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * scale)


def test_the_gradients_of_a_model_in_float32_are_those_of_the_reference():
    """The native package computes in float32, not in float64."""
    model = fr.ResNet((1, 1), "bottleneck", widths=(8, 16), groups=4, num_classes=3, stem="cifar")
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), jnp.float32)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images)

    def gradients(conv_impl):
        def loss(params):
            apply = model.clone(conv_impl=conv_impl).apply
            logits, _ = apply(variables | {"params": params}, images, True, mutable="batch_stats")
            return jnp.sum(jnp.square(logits))

        return jax.jit(jax.grad(loss))(variables["params"])

    wanted = gradients("reference")
    for conv_impl in CONV_IMPLS:
        for a, b in zip(
            jax.tree.leaves(gradients(conv_impl)), jax.tree.leaves(wanted), strict=True
        ):
            # Of the whole array, as rounding may flip a ReLU.
            assert jnp.linalg.norm(a - b) <= 1e-3 * jnp.linalg.norm(b)


@pytest.mark.parametrize("groups", [1, 4])
def test_kernels_that_all_devices_share_get_the_sum_of_their_gradients(groups):
    """Inside shard_map, where the kernel is replicated and the images are not."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()
    x, kernel = map(jnp.float32, operands(groups=groups))

    def loss(kernel, x, conv_impl):
        y = convolve(Convolution(x, kernel, 2, 1, groups), conv_impl)
        return jnp.sum(jnp.square(max_pool(y, 3, 2, 1, conv_impl)))

    @partial(jax.shard_map, mesh=mesh, in_specs=(whole, split), out_specs=whole)
    def gradient(kernel, x):
        return jax.grad(loss)(kernel, x, "jax")

    wanted = jax.grad(loss)(kernel, x, "reference")
    np.testing.assert_allclose(jax.jit(gradient)(kernel, x), wanted, rtol=1e-4, atol=1e-4)
