"""The layers against their definitions, computed in NumPy at float64."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_resnet.models import ResNet
from flax_resnet.models.layers import Conv, ConvSpec, Dropout, conv_norm, normalized, relu
from flax_resnet.models.norm import BatchNorm, GroupNorm

EPSILON = 1e-5
F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def normal(*shape, seed=0, loc=0.5, scale=2.0):
    return np.random.default_rng(seed).normal(loc, scale, shape)


def torch_batch_norm(x, scale, bias):
    """`torch.nn.BatchNorm2d` in training: output, mean and unbiased variance of the batch."""
    flat = x.reshape(-1, x.shape[-1])
    mean = flat.sum(0) / len(flat)
    squares = ((flat - mean) ** 2).sum(0)
    y = (x - mean) / np.sqrt(squares / len(flat) + EPSILON) * scale + bias
    return y, mean, squares / (len(flat) - 1)


def initialised(module, image):
    """Fresh parameters. Keys of kind "rbg" are quick to compile."""
    return jax.jit(module.init)(jax.random.key(3, impl="rbg"), image)["params"]


def batch_norm_variables(channels, dtype=np.float32, seed=9):
    rng = np.random.default_rng(seed)
    scale, bias, mean, var = (rng.uniform(0.5, 2, channels).astype(dtype) for _ in range(4))
    return {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}


def test_batch_norm_trains_by_torchs_rules():
    """Three updates: running values move by torch's momentum 0.1, the variance unbiased."""
    layer, variables = (
        BatchNorm(),
        BatchNorm().init(jax.random.key(0), jnp.ones((1, 1, 1, 5)), True),
    )
    mean, var = np.zeros(5), np.ones(5)
    params = batch_norm_variables(5)["params"]
    stats = variables["batch_stats"]
    for step in range(3):
        x = normal(4, 3, 2, 5, seed=step).astype(np.float32)
        y, updated = layer.apply(
            {"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"]
        )
        stats = updated["batch_stats"]
        wanted, batch_mean, batch_var = torch_batch_norm(
            x.astype(np.float64), params["scale"], params["bias"]
        )
        mean, var = 0.9 * mean + 0.1 * batch_mean, 0.9 * var + 0.1 * batch_var
        np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5)
        np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(stats["var"], var, rtol=1e-5)


def test_batch_norm_evaluates_by_the_running_statistics():
    x, variables = normal(2, 3, 3, 4).astype(np.float32), batch_norm_variables(4)
    y, updated = BatchNorm().apply(variables, x, False, mutable=["batch_stats"])
    (scale, bias), (mean, var) = (
        [variables["params"][k].astype(np.float64) for k in ("scale", "bias")],
        [variables["batch_stats"][k].astype(np.float64) for k in ("mean", "var")],
    )
    wanted = (x - mean) / np.sqrt(var + EPSILON) * scale + bias
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    for name, kept in variables["batch_stats"].items():
        np.testing.assert_array_equal(updated["batch_stats"][name], kept)


def test_batch_norm_gradients_are_finite_differences():
    """They are those of the NumPy rule, so that value and gradient are computed independently."""
    with jax.enable_x64(True):
        x, weight = normal(3, 2, 2, 2), normal(3, 2, 2, 2, seed=1)
        variables = batch_norm_variables(2, np.float64)
        operands = [x, variables["params"]["scale"], variables["params"]["bias"]]

        def loss(x, scale, bias):
            params = {"scale": scale, "bias": bias}
            y = BatchNorm(**F64).apply(
                {"params": params, "batch_stats": variables["batch_stats"]}, x, True
            )
            return jnp.sum(y * weight)

        gradients = jax.grad(loss, (0, 1, 2))(*map(jnp.asarray, operands))
        step = 1e-5
        for operand_index, gradient in enumerate(gradients):
            wanted = np.zeros_like(operands[operand_index])
            for index in np.ndindex(wanted.shape):
                sides = []
                for sign in (1, -1):
                    moved = [operand.copy() for operand in operands]
                    moved[operand_index][index] += sign * step
                    sides.append((torch_batch_norm(*moved)[0] * weight).sum())
                wanted[index] = (sides[0] - sides[1]) / (2 * step)
            np.testing.assert_allclose(gradient, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    shape=st.tuples(*(st.integers(1, 4) for _ in range(4))),
    dtypes=st.sampled_from([(jnp.float64,) * 2, (jnp.float32,) * 2, (jnp.bfloat16, jnp.float32)]),
    frozen=st.booleans(),
    groups=st.sampled_from([1, 2]),
    follows=st.sampled_from(["nothing", "relu", "residual and relu"]),
)
def test_batch_norm_and_its_gradients_are_the_same_in_every_mode(
    shape, dtypes, frozen, groups, follows
):
    shape = (shape[0] * groups, *shape[1:3], shape[3] + 1)
    dtype, param_dtype = dtypes
    with jax.enable_x64(True):
        x, weight, residual = (jnp.asarray(normal(*shape, seed=seed), dtype) for seed in range(3))
        variables = batch_norm_variables(shape[-1], param_dtype)
        if len(x) // groups * shape[1] * shape[2] == 1:
            return  # the gradient is zero but for rounding, times 1 / sqrt(epsilon)

        def outputs_and_gradients(conv_impl):
            layer = BatchNorm(
                dtype=dtype,
                param_dtype=param_dtype,
                frozen_affine=frozen,
                groups=groups,
                conv_impl=conv_impl,
            )

            def followed(layer, x, residual):
                # The reference runs the operations one by one.
                y = layer(x, True) if conv_impl == "reference" else normalized(layer, x, True)
                if follows == "nothing":
                    return y if conv_impl == "reference" else y.value()
                return relu(y + residual if follows == "residual and relu" else y)

            apply = nn.apply(followed, layer, mutable=["batch_stats"])

            def loss(params, x, residual):
                y, new = apply(variables | {"params": params}, x, residual)
                return jnp.sum((y * weight).astype(jnp.float64)), (y, new)

            return jax.grad(loss, (0, 1, 2), has_aux=True)(variables["params"], x, residual)

        wanted = outputs_and_gradients("reference")
        tolerance = {jnp.float64: 1e-9, jnp.float32: 2e-4, jnp.bfloat16: 0.05}[dtype]
        for conv_impl in ("jax", "auto"):
            for a, b in zip(
                jax.tree.leaves(outputs_and_gradients(conv_impl)),
                jax.tree.leaves(wanted),
                strict=True,
            ):
                assert a.dtype == b.dtype
                np.testing.assert_allclose(
                    *(np.asarray(leaf, np.float64) for leaf in (a, b)),
                    rtol=tolerance,
                    atol=tolerance * max(1.0, float(np.abs(np.asarray(b, np.float64)).max())),
                )


def test_batch_norm_of_one_value_stays_finite():
    layer, x = BatchNorm(), jnp.full((1, 1, 1, 3), 7.0)
    y, updated = layer.apply(batch_norm_variables(3), x, True, mutable=["batch_stats"])
    assert np.isfinite(y).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updated))


def test_batch_norm_in_bfloat16_keeps_float32_statistics():
    x = normal(8, 8, 8, 3).astype(jnp.bfloat16)
    variables = BatchNorm().init(jax.random.key(0), jnp.ones((1, 1, 1, 3)), True)
    y, updated = BatchNorm(dtype=jnp.bfloat16).apply(variables, x, True, mutable=["batch_stats"])
    wanted, mean, var = torch_batch_norm(x.astype(np.float64), 1, 0)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=2**-7, atol=2**-9)
    stats = updated["batch_stats"]
    assert stats["mean"].dtype == stats["var"].dtype == jnp.float32
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-5)


@pytest.mark.parametrize("conv_impl", ["auto", "reference"])
@pytest.mark.parametrize("use_bias", [False, True])
def test_conv_norm_and_relu_are_the_operations_one_by_one(use_bias, conv_impl):
    """With a bias as after folding, where the convolution computes all."""
    x, shortcut = (jnp.asarray(normal(2, 4, 4, 3, seed=seed), jnp.float32) for seed in range(2))
    conv = Conv(ConvSpec(3, 3), use_bias=use_bias, conv_impl=conv_impl)
    norm = BatchNorm(conv_impl=conv_impl)

    class Branch(nn.Module):
        @nn.compact
        def __call__(self, x, shortcut, fuses):
            layers = conv.copy(name="conv1"), None if use_bias else norm.copy(name="bn1")
            if fuses:
                return relu(conv_norm(*layers, x, True) + shortcut)
            y = layers[0](x)
            return jnp.maximum((y if use_bias else layers[1](y, True)) + shortcut, 0)

    variables = Branch().init(jax.random.key(0), x, shortcut, False)
    # No level is added to the tree of parameters.
    assert set(variables["params"]) == {"conv1"} | (set() if use_bias else {"bn1"})
    apply = jax.jit(Branch().apply, static_argnums=3)
    y, wanted = (apply(variables, x, shortcut, fuses) for fuses in (True, False))
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    broken = apply(variables, x.at[0, 0, 0, 0].set(jnp.nan), shortcut, True)
    assert np.isnan(broken).any()


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (32, 32), (48, 16), (6, 2), (5, 1)])
@pytest.mark.parametrize("train", [False, True])
def test_group_norm_normalises_each_examples_groups(channels, groups, train):
    x = normal(2, 3, 4, channels).astype(np.float32)
    scale, bias = normal(channels, seed=1), normal(channels, seed=2)
    params = {"scale": scale.astype(np.float32), "bias": bias.astype(np.float32)}
    y = GroupNorm().apply({"params": params}, x, train)
    size, wanted = channels // groups, np.empty(x.shape)
    for example in range(2):
        for start in range(0, channels, size):
            group = x[example, :, :, start : start + size].astype(np.float64)
            normalised = (group - group.mean()) / np.sqrt(group.var() + EPSILON)
            wanted[example, :, :, start : start + size] = normalised
    np.testing.assert_allclose(y, wanted * scale + bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "out", "groups"), [(1, 256, 1), (3, 128, 1), (7, 64, 1), (3, 256, 32)]
)
def test_convolution_weights_are_he_normal_over_the_fan_out(kernel, out, groups):
    """As torch: a grouped convolution's fan out counts all its output channels."""
    params = initialised(Conv(ConvSpec(out, kernel, 1, groups)), jnp.zeros((1, 4, 4, 256)))
    weights = np.asarray(params["kernel"], np.float64)
    assert set(params) == {"kernel"} and weights.shape == (kernel, kernel, 256 // groups, out)
    std = math.sqrt(2 / (kernel * kernel * out))
    assert weights.std() == pytest.approx(std, rel=0.03)
    assert abs(weights.mean()) < 5 * std / math.sqrt(weights.size)
    assert np.abs(weights).max() > 3 * std  # not truncated


@pytest.fixture(scope="module")
def bottleneck_params():
    model = ResNet((1,), "bottleneck", widths=(16,), num_classes=500, stem="cifar")
    return initialised(model, jnp.zeros((1, 8, 8, 3)))


def test_classifier_is_uniform_within_torchs_bounds(bottleneck_params):
    fan_in = 16 * 4
    bound = 1 / math.sqrt(fan_in)
    assert bottleneck_params["fc"]["kernel"].shape == (fan_in, 500)
    for name in ("kernel", "bias"):
        values = np.asarray(bottleneck_params["fc"][name])
        assert np.abs(values).max() <= bound
        assert values.max() > 0.97 * bound and values.min() < -0.97 * bound
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_scales_start_at_one_and_biases_at_zero(bottleneck_params):
    norms = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(bottleneck_params)
        if "bn" in jax.tree_util.keystr(path)
    ]
    assert len(norms) == 2 * (1 + 4)  # the stem's, and the block's four
    for path, leaf in norms:
        assert (leaf == (1 if "scale" in jax.tree_util.keystr(path) else 0)).all(), path


def dropped(layer, x, seed=0, train=True):
    return np.asarray(layer.apply({}, x, train, rngs={"dropout": jax.random.key(seed)}))


def test_dropout_preserves_the_mean():
    rate, x = 0.3, jnp.ones((64, 100))
    y = dropped(Dropout(rate), x)
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)
    deviation = math.sqrt(rate / (1 - rate) / x.size)
    assert abs(y.mean() - 1) < 5 * deviation


def test_whole_sample_dropout_drops_examples_and_preserves_the_mean():
    rate, x = 0.25, jnp.ones((4096, 2, 3))
    y = dropped(Dropout(rate, whole_sample=True), x)
    assert (y == y[:, :1, :1]).all()
    assert abs(y.mean() - 1) < 5 * math.sqrt(rate / (1 - rate) / len(x))


def test_dropout_differs_by_key_and_example_but_not_by_batch():
    layer, x = Dropout(0.5), jnp.ones((4, 64))
    first = dropped(layer, x)
    np.testing.assert_array_equal(first, dropped(layer, x))
    assert (first != dropped(layer, x, seed=1)).any()
    assert (first[0] != first[1]).any()
    np.testing.assert_array_equal(first[:2], dropped(layer, x[:2]))


@pytest.mark.parametrize(("rate", "train"), [(0.5, False), (0.0, True)])
def test_idle_dropout_returns_its_input_and_needs_no_key(rate, train):
    x = jnp.ones((2, 3))
    assert Dropout(rate).apply({}, x, train) is x


def test_dropout_without_a_key_raises_an_error():
    with pytest.raises(InvalidRngError, match="dropout"):
        Dropout(0.5).apply({}, jnp.ones((2, 3)), True)
