"""Training and evaluation of whole models: randomness, frozen layers, dtypes, recomputation."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError
from flax.traverse_util import flatten_dict

from flax_resnet.models import ResNet, create_model

RANDOM = ("dropout", "block_dropout", "stochastic_depth")
IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def tiny(stage_sizes=(1, 1), **options):
    common = {"block": "basic", "widths": (8, 16), "num_classes": 5, "stem": "cifar"}
    return ResNet(stage_sizes, **common | options)


def abstract_init(model):
    return jax.eval_shape(lambda key: model.init(key, IMAGES, train=False), jax.random.key(0))


def random_variables(model, seed=1):
    """Random variables of sensible sizes. NumPy draws them, so that nothing is compiled."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 2, leaf.shape), leaf.dtype)
        fan_in = np.prod(leaf.shape[:-1])
        return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(fan_in), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, abstract_init(model))


def apply(model, variables, train, seed=None, mutable=False):
    rngs = None if seed is None else {"dropout": jax.random.key(seed, impl="rbg")}
    return compiled(model, train, mutable)(variables, IMAGES, rngs=rngs)


@cache
def compiled(model, train, mutable):
    return jax.jit(partial(model.apply, train=train, mutable=mutable))


def gradients(model, variables, rngs=None):
    statistics = {k: v for k, v in variables.items() if k != "params"}

    @jax.jit
    def run(params):
        def loss(params):
            apply = partial(model.apply, train=True, rngs=rngs, mutable=["batch_stats"])
            logits, updated = apply({"params": params, **statistics}, IMAGES)
            return jnp.mean(jnp.square(logits - 1)), (logits, updated)

        return jax.grad(loss, has_aux=True)(params)

    grads, (logits, updated) = run(variables["params"])
    return {k: np.asarray(v) for k, v in flatten_dict(grads, sep="/").items()}, logits, updated


@pytest.mark.parametrize("option", RANDOM)
def test_randomness_needs_a_key_in_training_only(option):
    model = tiny(**{option: 0.5})
    variables = random_variables(model)
    with pytest.raises(InvalidRngError, match="dropout"):
        apply(model, variables, True)
    assert not np.array_equal(*(apply(model, variables, True, seed) for seed in (0, 1)))
    np.testing.assert_array_equal(apply(model, variables, False), apply(tiny(), variables, False))


def test_model_without_randomness_needs_no_key():
    assert np.isfinite(apply(tiny(), random_variables(tiny()), True)).all()


def test_stochastic_depth_grows_linearly_to_the_last_block():
    """Huang et al. 2016: block l of L is skipped with probability p * l / L."""
    bound = tiny(stage_sizes=(1, 3), stochastic_depth=0.2).bind({})
    rates = [block.drop_path for block in (*bound.layer1, *bound.layer2)]
    np.testing.assert_allclose(rates, [0.05, 0.1, 0.15, 0.2])


def test_frozen_statistics_stay_bit_equal_in_training():
    model = tiny(frozen_statistics=True)
    variables = random_variables(model)
    logits, updated = apply(model, variables, True, mutable=("batch_stats",))
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    np.testing.assert_allclose(logits, apply(model, variables, False), rtol=1e-5, atol=1e-6)


def test_statistics_move_in_training_and_not_in_evaluation():
    variables = random_variables(tiny())
    _, trained = apply(tiny(), variables, True, mutable=("batch_stats",))
    _, evaluated = apply(tiny(), variables, False, mutable=("batch_stats",))
    old = variables["batch_stats"]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), trained["batch_stats"], old)
    assert all(jax.tree.leaves(moved))
    jax.tree.map(np.testing.assert_array_equal, evaluated["batch_stats"], old)


def test_training_mode_works_with_immutable_statistics():
    variables = random_variables(tiny())
    logits, _ = apply(tiny(), variables, True, mutable=("batch_stats",))
    np.testing.assert_allclose(apply(tiny(), variables, True), logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("version", ["v1.5", "v2"])
def test_frozen_affine_has_no_gradient_but_the_kernels_have(version):
    model = tiny(version=version, frozen_affine=True)
    variables = random_variables(model)
    grads, logits, _ = gradients(model, variables)
    for name, gradient in grads.items():
        frozen = name.endswith("/scale") or ("bn" in name and name.endswith("/bias"))
        assert np.any(gradient) != frozen, name
    free = apply(model.clone(frozen_affine=False), variables, True)
    np.testing.assert_allclose(logits, free, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "model", [tiny(dtype=jnp.bfloat16), create_model("resnet_mnist", dtype=jnp.bfloat16)]
)
def test_bfloat16_computes_in_bfloat16_and_stores_float32(model):
    variables = abstract_init(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    features = jax.eval_shape(partial(model.apply, method="features"), variables, IMAGES)
    assert {leaf.dtype for leaf in jax.tree.leaves(features)} == {jnp.dtype("bfloat16")}
    for train in (False, True):
        logits, updated = jax.eval_shape(
            partial(model.apply, train=train, mutable=["batch_stats"]), variables, IMAGES
        )
        assert {leaf.dtype for leaf in jax.tree.leaves((logits, updated))} == {jnp.dtype("float32")}


def test_bfloat16_differs_by_rounding_only():
    model = tiny(dtype=jnp.bfloat16)
    variables = random_variables(model)
    exact = np.asarray(apply(tiny(), variables, False))
    rounded = np.asarray(apply(model, variables, False))
    assert np.abs(rounded - exact).max() < 0.03 * np.abs(exact).max()
    assert not np.array_equal(rounded, exact)


def test_parameters_take_param_dtype():
    variables = abstract_init(tiny(param_dtype=jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype("bfloat16")}
    stats = jax.tree.leaves(variables["batch_stats"])
    assert {leaf.dtype for leaf in stats} == {jnp.dtype("float32")}


@pytest.mark.parametrize("conv_impl", ["auto", "reference"])
def test_statistics_keep_their_dtype_where_the_computation_is_wider(conv_impl):
    with jax.enable_x64(True):
        model = tiny(dtype=jnp.float64, conv_impl=conv_impl)
        variables = abstract_init(model)
        apply = partial(model.apply, train=True, mutable=["batch_stats"])
        _, updated = jax.eval_shape(apply, variables, IMAGES)
        assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_remat_gives_the_same_logits_gradients_and_statistics():
    """The masks of dropout are the same, too."""
    model = tiny((2,), widths=(8,), block_dropout=0.3, stochastic_depth=0.5)
    variables, rngs = random_variables(model), {"dropout": jax.random.key(7, impl="rbg")}
    wanted, logits, updated = gradients(model, variables, rngs)
    got, remat_logits, remat_updated = gradients(model.clone(remat=True), variables, rngs)
    np.testing.assert_allclose(remat_logits, logits, rtol=1e-5, atol=1e-6)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(got[name], gradient, rtol=0, atol=1e-5 * scale, err_msg=name)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, remat_updated, updated)


@pytest.mark.parametrize("version", ["v1.5", "v2"])
def test_examples_do_not_touch_each_other_in_evaluation(version):
    model = tiny(version=version)
    variables = random_variables(model)
    alone = jax.jit(model.apply)(variables, IMAGES[1:2])
    np.testing.assert_allclose(alone, apply(model, variables, False)[1:2], rtol=1e-4, atol=1e-5)
