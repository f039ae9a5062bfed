"""The custom calls agree with ``jax.lax.conv_general_dilated``, in values and gradients."""

import concurrent.futures
import os
import re
import subprocess
import sys
from functools import partial

import flax_resnet_onednn as onednn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

# Relative to the largest result. Results are sums of at most a few thousand products of standard
# normal values: each product and sum is rounded to 2**-24, and in bfloat16 the result to 2**-9.
TOLERANCE = {jnp.float32: 2e-5, jnp.bfloat16: 2e-2}


def reference(x, kernel, *, stride=1, padding=0, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )


def operands(images, height, width, channels, kernel, features, groups, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(images, height, width, channels))
    weights = rng.normal(size=(*kernel, channels // groups, features))
    return jnp.asarray(x, dtype), jnp.asarray(weights, dtype)


def value_and_gradients(function, x, kernel, **options):
    @jax.jit
    def run(x, kernel, noise):
        y, vjp = jax.vjp(lambda x, kernel: function(x, kernel, **options), x, kernel)
        return y, *vjp(noise.astype(y.dtype))

    shape = jax.eval_shape(lambda x, k: reference(x, k, **options), x, kernel).shape
    noise = jnp.asarray(np.random.default_rng(7).normal(size=shape), x.dtype)
    return run(x, kernel, noise)


def assert_close(got, expected, tolerance):
    assert got.shape == expected.shape and got.dtype == expected.dtype
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


def assert_same(x, kernel, **options):
    got = value_and_gradients(onednn.convolution, x, kernel, **options)
    in_float32 = [array.astype(jnp.float32) for array in (x, kernel)]
    expected = value_and_gradients(reference, *in_float32, **options)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b.astype(x.dtype), TOLERANCE[x.dtype.type])


def shapes_and_options(draw, groups, kernel, padding, channels, features, largest):
    """Draws the shapes of operands and the options, for some channels and features per group."""
    low = [max(1, side - 2 * padding) for side in kernel]
    shapes = {
        "images": draw(st.integers(1, 5)),
        "height": draw(st.integers(low[0], largest)),
        "width": draw(st.integers(low[1], largest)),
        "channels": channels * groups,
        "kernel": kernel,
        "features": features * groups,
        "groups": groups,
    }
    return shapes, {"stride": draw(st.integers(1, 3)), "padding": padding, "groups": groups}


@st.composite
def problems(draw):
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.integers(0, 3))
    channels = draw(st.sampled_from([1, 2, 3, 5, 8, 12, 33, 40]))
    features = draw(st.sampled_from([1, 3, 8, 16, 20, 33]))
    return shapes_and_options(draw, groups, kernel, padding, channels, features, 14)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(problems())
def test_any_problem(problem):
    shapes, options = problem
    assert_same(*operands(**shapes), **options)


@st.composite
def grouped_problems(draw):
    """Groups as in ResNeXt: as many features as channels, at least 4; any kernel and stride."""
    depth = draw(st.sampled_from([4, 8, 16, 32, 48]))
    groups = draw(st.sampled_from([2, 4, 6])) * max(1, 8 // depth)
    kernel = draw(st.sampled_from([(3, 3), (3, 3), (1, 1), (2, 3), (5, 5)]))
    padding = draw(st.integers(0, 2))
    return shapes_and_options(draw, groups, kernel, padding, depth, depth, 16)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(grouped_problems())
def test_any_groups_of_resnext(problem):
    shapes, options = problem
    assert_same(*operands(**shapes), **options)


@st.composite
def winograd_problems(draw):
    """3x3 kernels of stride 1 with enough channels and pixels for the Winograd algorithm."""
    padding = draw(st.integers(0, 2))
    channels, features = (draw(st.sampled_from([16, 32, 48, 80])) for _ in range(2))
    shapes, options = shapes_and_options(draw, 1, (3, 3), padding, channels, features, 14)
    larger = {name: shapes[name] + 10 for name in ("images", "height", "width")}
    return shapes | larger, options | {"stride": 1}


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(winograd_problems())
def test_any_3x3(problem):
    shapes, options = problem
    assert_same(*operands(**shapes), **options)


def test_rounding_errors_of_3x3():
    """Winograd's rounding errors stay below those of the usual interpolation points.

    For 256 channels they are 1.1e-6 of the result (NumPy, float32 against float64). Sums of
    products have 2e-7, and the usual points 2.3e-6.
    """
    x, kernel = operands(8, 14, 14, 256, (3, 3), 32, 1)
    y = np.asarray(onednn.convolution(x, kernel, padding=1), np.float64)
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    weights = np.asarray(kernel, np.float64)
    taps = [(i, j) for i in range(3) for j in range(3)]
    expected = sum(padded[:, i : i + 14, j : j + 14] @ weights[i, j] for i, j in taps)
    assert np.linalg.norm(y - expected) < 1.6e-6 * np.linalg.norm(expected)


# (images, size, channels, kernel, features, stride, groups): one layer of each kind in ResNets.
LAYERS = [
    (2, 64, 3, 7, 64, 2, 1),
    (3, 28, 64, 1, 256, 1, 1),
    (2, 28, 256, 1, 128, 2, 1),
    (2, 14, 64, 3, 64, 1, 1),
    (2, 15, 64, 3, 128, 2, 1),
    (1, 7, 128, 3, 128, 1, 1),
    (9, 4, 64, 3, 96, 1, 1),
    (2, 14, 128, 3, 128, 1, 32),
    (2, 14, 256, 3, 256, 2, 32),
    (5, 9, 128, 3, 128, 1, 8),
    (2, 40, 192, 3, 192, 2, 6),
    (2, 7, 512, 1, 513, 2, 1),
    (1, 5, 256, 3, 128, 1, 1),
    (11, 14, 64, 3, 80, 1, 1),
]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_of_the_resnets(layer, dtype):
    images, size, channels, kernel, features, stride, groups = layer
    x, weights = operands(images, size, size, channels, (kernel, kernel), features, groups, dtype)
    assert_same(x, weights, stride=stride, padding=kernel // 2, groups=groups)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_fused(layer, packed):
    images, size, channels, kernel, features, stride, groups = layer
    x, weights = operands(images, size, size, channels, (kernel, kernel), features, groups)
    options = {"stride": stride, "padding": kernel // 2, "groups": groups}
    y = reference(x, weights, **options)
    rng = np.random.default_rng(3)
    bias = jnp.asarray(rng.normal(size=features), jnp.float32)
    residual = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    given_kernel, more = weights, {}
    if packed:
        given_kernel = onednn.pack_kernel(weights, x.shape, **options)
        more = {"packed_from": weights.shape}
    call = jax.jit(onednn.fused_convolution, static_argnames=("relu", *options, "packed_from"))
    for b, r, relu in [(bias, None, True), (bias, residual, True), (None, residual, False)]:
        expected = y + (0 if b is None else b) + (0 if r is None else r)
        got = call(x, given_kernel, b, r, relu=relu, **options, **more)
        assert_close(got, jnp.maximum(expected, 0) if relu else expected, TOLERANCE[jnp.float32])


def test_operands_are_not_changed():
    x, kernel = operands(2, 8, 8, 16, (3, 3), 16, 1)
    before = np.asarray(x).copy(), np.asarray(kernel).copy()
    step = jax.jit(lambda x, k: onednn.convolution(x, k, padding=1) + x, donate_argnums=0)
    expected = reference(x, kernel, padding=1) + x
    assert_close(step(x + 0, kernel), expected, 2e-5)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(kernel, before[1])


def test_vmap_of_value_and_gradients():
    x, kernel = operands(6, 7, 7, 8, (3, 3), 16, 1)
    many = x.reshape(3, 2, 7, 7, 8)

    def gradients(function, x):
        return jax.grad(lambda x, k: jnp.sum(function(x, k, padding=1) ** 2), (0, 1))(x, kernel)

    got = jax.vmap(lambda x: gradients(onednn.convolution, x))(many)
    expected = jax.vmap(lambda x: gradients(reference, x))(many)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, 2e-5)


def _compiled(function, *arguments, **options):
    return jax.jit(function, **options).lower(*arguments).compile().as_text()


@pytest.mark.parametrize("needed", [0, 1])
def test_only_needed_gradients_are_computed(needed):
    def loss(x, kernel):
        return onednn.convolution(x, kernel, padding=1).sum()

    compiled = _compiled(jax.grad(loss, needed), *operands(2, 8, 8, 16, (3, 3), 16, 1))
    assert ("flax_resnet_input_gradient" in compiled) == (needed == 0)
    assert ("flax_resnet_kernel_gradient" in compiled) == (needed == 1)


def test_donated_kernels_are_not_copied():
    """XLA updates donated kernels in place, because their last reader runs earlier."""
    x, kernel = operands(2, 8, 8, 32, (3, 3), 32, 1)

    def step(kernels):
        def loss(kernels):
            y = x
            for kernel in kernels:
                y = jnp.tanh(onednn.convolution(y, kernel, padding=1))
            return y.sum()

        return [a - 0.1 * b for a, b in zip(kernels, jax.grad(loss)(kernels), strict=True)]

    compiled = _compiled(step, [kernel, kernel + 1, kernel - 1], donate_argnums=0)
    assert "f32[3,3,32,32]" in compiled
    assert not re.findall(r"f32\[3,3,32,32\]\S* copy\(", compiled)


def test_many_threads_at_once_make_and_share_primitives():
    cases = [operands(1 + i % 3, 6 + i % 4, 7, 8, (3, 3), 16, 1, seed=i) for i in range(24)]
    expected = [reference(x, kernel, padding=1) for x, kernel in cases]
    call = jax.jit(lambda x, k: onednn.convolution(x, k, padding=1))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda case: call(*case), cases))
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, 2e-5)


EIGHT_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import PartitionSpec as P
import flax_resnet_onednn as onednn
assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 9, 9, 16)), jnp.float32)
k = jnp.asarray(0.1 * np.random.default_rng(1).normal(size=(3, 3, 16, 32)), jnp.float32)
def gradients(x, k):
    f = lambda x, k: jnp.sum(jnp.sin(onednn.convolution(x, k, padding=1)))
    return jax.grad(f, (0, 1))(x, k)
@jax.jit
@partial(jax.shard_map, mesh=mesh, in_specs=(P("data"), P()), out_specs=(P("data"), P()))
def sharded(x, k):
    return gradients(x, k)  # The kernel is replicated: its gradient is the sum over devices.
expected = jax.jit(gradients)(x, k)
for _ in range(5):
    for a, b in zip(sharded(x, k), expected):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4)
"""


def test_shard_map_over_eight_devices():
    flags = "--xla_force_host_platform_device_count=8"
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES], check=True, env=os.environ | environment, timeout=300
    )


@pytest.mark.parametrize(
    ("x", "kernel", "options", "message"),
    [
        ((2, 8, 8), (3, 3, 4, 8), {}, r"\[N, H, W, C\]"),
        ((2, 8, 8, 4), (3, 3, 5, 8), {}, "1 groups do not fit images"),
        ((2, 8, 8, 4), (3, 3, 2, 7), {"groups": 2}, "2 groups do not fit"),
        ((2, 2, 2, 4), (3, 3, 4, 8), {}, "would be empty"),
        ((0, 8, 8, 4), (3, 3, 4, 8), {}, "would be empty"),
        ((2, 8, 8, 4), (3, 3, 4, 8), {"stride": 0}, "at least 1"),
    ],
)
def test_shapes_that_do_not_fit(x, kernel, options, message):
    with pytest.raises(ValueError, match=message):
        onednn.convolution(jnp.zeros(x), jnp.zeros(kernel), **options)


def test_dtypes_that_do_not_fit():
    x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 1, 2, 2))
    with pytest.raises(TypeError, match="one dtype, float32 or bfloat16"):
        onednn.convolution(x, kernel.astype(jnp.bfloat16))
    with pytest.raises(TypeError, match="not float16"):
        onednn.convolution(x.astype(jnp.float16), kernel.astype(jnp.float16))


def test_a_kernel_packed_for_other_images_of_another_layout_is_refused():
    x, kernel = operands(1, 8, 8, 16, (3, 3), 16, 1)
    wrong = jnp.zeros(12, jnp.uint8)
    with pytest.raises(Exception, match="packed for images of another shape"):
        onednn.fused_convolution(x, wrong, padding=1, packed_from=kernel.shape).block_until_ready()


# Images, kernel, stride and groups of a convolution by each algorithm of float32, and by oneDNN.
EACH_ALGORITHM = {
    "oneDNN 3x3": ((2, 6, 5, 3), (3, 3, 3, 5), 1, 1),
    "oneDNN 7x7": ((1, 20, 20, 3), (7, 7, 3, 64), 2, 1),
    "oneDNN 1x1": ((2, 6, 5, 16), (1, 1, 16, 64), 1, 1),
    "oneDNN grouped": ((2, 6, 5, 6), (3, 3, 3, 6), 1, 2),
    "Winograd": ((2, 14, 14, 64), (3, 3, 64, 64), 1, 1),
    "indirect": ((1, 7, 7, 256), (1, 1, 256, 256), 1, 1),
    "grouped": ((2, 14, 14, 128), (3, 3, 4, 128), 1, 32),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("operand", ["images", "kernel", "bias", "residual"])
@pytest.mark.parametrize("case", EACH_ALGORITHM)
def test_relu_keeps_nan_and_infinity(case, operand, packs, dtype):
    if dtype == jnp.bfloat16 and not onednn.bf16_is_fast():
        pytest.skip("fused convolutions take bfloat16 where it is fast")
    x_shape, kernel_shape, stride, groups = EACH_ALGORITHM[case]
    options = {"stride": stride, "padding": kernel_shape[0] // 2, "groups": groups}
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=x_shape), np.abs(rng.normal(size=kernel_shape))
    y_shape = jax.eval_shape(partial(reference, **options), x, kernel).shape
    given = {"images": x, "kernel": kernel, "bias": rng.normal(size=y_shape[3])}
    given["residual"] = rng.normal(size=y_shape)
    for value, is_value in [(np.nan, np.isnan), (np.inf, lambda y: y == np.inf)]:
        broken = {name: array.copy() for name, array in given.items()}
        array = broken[operand]
        array[tuple(size // 2 for size in array.shape)] = value
        x, kernel, bias, residual = (jnp.asarray(a, dtype) for a in broken.values())
        more = {}
        if packs:
            more["packed_from"] = kernel.shape
            kernel = onednn.pack_kernel(kernel, x.shape, **options)
        y = onednn.fused_convolution(x, kernel, bias, residual, relu=True, **options, **more)
        found = np.asarray(y, np.float32)
        # Infinity times a transformed value of Winograd, or a zero of a group, is NaN.
        assert is_value(found).any() or (value == np.inf and np.isnan(found).any())


def test_export_is_refused():
    x = jnp.ones((1, 4, 4, 3))
    program = jax.jit(lambda x: onednn.max_pool(x, 2, 2))
    for platforms in (["cpu"], ["tpu"], ["cpu", "tpu"]):
        with pytest.raises(NotImplementedError, match="can be neither exported nor compiled for"):
            jax.export.export(program, platforms=platforms)(x)
    with pytest.raises(NotImplementedError, match="can be neither exported nor compiled for"):
        program.trace(x).lower(lowering_platforms=("cuda",))
    assert program(x).shape == (1, 2, 2, 3)


def test_an_older_jax_is_refused_as_a_package_that_cannot_be_imported(monkeypatch):
    """``flax_resnet`` then computes without this package."""
    monkeypatch.setattr(jax, "__version_info__", (0, 9, 2))
    with pytest.raises(ImportError, match=r"needs JAX 0\.10 or newer"):
        onednn.library.library.__wrapped__()


def test_a_build_for_a_newer_jaxlib_is_refused_as_a_package_that_cannot_be_imported(monkeypatch):
    def refuse(name, target, platform):
        raise RuntimeError("the API version of the handler is newer")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    with pytest.raises(ImportError, match=r"of another jaxlib .* API version"):
        onednn.library.library.__wrapped__()


# Without asynchronous dispatch XLA computes in the thread that calls, at least a part.
OPENMP = """
import ctypes
import flax_resnet_onednn as onednn, jax, jax.numpy as jnp
jax.config.update("jax_cpu_enable_async_dispatch", False)
threads = ctypes.CDLL("libgomp.so.1").omp_get_max_threads
before = threads()
jax.block_until_ready(onednn.convolution(jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 3, 4))))
print(before, threads())
"""


def test_the_callers_number_of_openmp_threads_stays():
    """Another library on the same OpenMP then used one processor."""
    variables = os.environ | {"OMP_NUM_THREADS": "3", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", OPENMP]
    done = subprocess.run(command, check=True, text=True, capture_output=True, env=variables)
    assert done.stdout.split() == ["3", "3"]
