"""Models as NNX modules: the bits of the Linen models, and the habits of NNX."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util

import flax_resnet as fr

FEW = {"stage_sizes": (2, 1, 1, 1)}
# Torchvision's models: one of each kind of block, and a stage of more than ten blocks, whose names
# are sorted in another order than they run. The others differ in depth and width only.
MODELS = {
    "resnet18": {},
    "resnet50": FEW,
    "resnext50_32x4d": FEW,
    "resnext101_64x4d": FEW,
    "wide_resnet50_2": FEW,
    "resnet101": {"stage_sizes": (1, 1, 11, 1), "widths": (8, 8, 8, 8)},
}
IMAGES = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
LABELS = jnp.array([0, 1, 2, 1])


def random_variables(model, dtype=jnp.float32, images=IMAGES):
    """Variables of random values that are not an initialisation's: statistics too."""
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        positive = path[-1].key in ("var", "scale")
        spread = 0.1 if positive else np.sqrt(2 / max(1, np.prod(leaf.shape[:-1])))
        return jnp.asarray(positive + spread * rng.uniform(-1, 1, leaf.shape), dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def resnet20():
    model = fr.create_model("resnet20", num_classes=3, stage_sizes=(1, 1, 1))
    return model, random_variables(model)


def assert_trees_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "resnet18")) for name in MODELS],
)
def test_logits_are_the_bits_of_linen(name):
    linen = fr.create_model(name, num_classes=10, **MODELS[name])
    variables = random_variables(linen)
    expected = jax.jit(partial(linen.apply, train=False))(variables, IMAGES)
    model = fr.nnx.to_nnx(variables, linen)
    model.eval()
    logits = nnx.jit(lambda model, x: model(x))(model, IMAGES)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_array_equal(logits, expected)


def test_conversion_is_exact_both_ways(resnet20):
    linen, variables = resnet20
    model = fr.nnx.to_nnx(variables, linen)
    assert_trees_equal(fr.nnx.from_nnx(model), variables)
    assert isinstance(model.layer2_0.conv1.kernel, nnx.Param)
    assert isinstance(model.bn1.mean, nnx.BatchStat)
    np.testing.assert_array_equal(model.fc.bias[...], variables["params"]["fc"]["bias"])


def train_linen(linen, variables, tx, steps):
    """Three steps written with Linen and optax alone."""
    params, stats = variables["params"], variables["batch_stats"]
    opt_state = tx.init(params)

    @jax.jit
    def step(params, stats, opt_state):
        def loss(params):
            logits, new = linen.apply(
                {"params": params, "batch_stats": stats},
                IMAGES,
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
            return losses.mean(), new["batch_stats"]

        gradients, stats_after = jax.grad(loss, has_aux=True)(params)
        updates, new_opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), stats_after, new_opt_state, gradients

    for _ in range(steps):
        params, stats, opt_state, gradients = step(params, stats, opt_state)
    return params, stats, gradients


@nnx.jit
def train_step(model, optimizer):
    def loss(model):
        logits = model(IMAGES)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    gradients = nnx.grad(loss)(model)
    optimizer.update(model, gradients)
    return gradients


@pytest.mark.slow
def test_three_steps_equal_linens_in_float64(resnet20):
    with jax.enable_x64(True):
        linen = resnet20[0].clone(dtype=jnp.float64, param_dtype=jnp.float64)
        variables = random_variables(linen, jnp.float64)
        tx = optax.sgd(0.1, momentum=0.9)
        params, stats, expected = train_linen(linen, variables, tx, 3)
        model = fr.nnx.to_nnx(variables, linen)
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        for _ in range(3):
            gradients = train_step(model, optimizer)
        trained = fr.nnx.from_nnx(model)
        close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
        jax.tree.map(close, nnx.to_pure_dict(gradients), expected)
        jax.tree.map(close, trained["params"], params)
        jax.tree.map(close, trained["batch_stats"], stats)
        moved = jax.tree.map(
            lambda a, b: float(jnp.abs(a - b).max()), stats, variables["batch_stats"]
        )
        assert min(jax.tree.leaves(moved)) > 0


@pytest.mark.slow
def test_running_statistics_change_in_training_alone(resnet20):
    linen, variables = resnet20
    model = fr.nnx.to_nnx(variables, linen)
    before = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    assert jax.tree.leaves(before)
    model.eval()
    model(IMAGES)
    assert_trees_equal(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), before)
    model.train()
    model(IMAGES)
    after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    _, expected = linen.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    assert_trees_equal(after, jax.tree.map(jnp.asarray, expected["batch_stats"]))


def test_split_and_merge_keep_the_model(resnet20):
    linen, variables = resnet20
    model = fr.nnx.to_nnx(variables, linen)
    model.eval()
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    copy = nnx.merge(graph, params, stats)
    np.testing.assert_array_equal(copy(IMAGES), model(IMAGES))


def test_features_are_linens(resnet20):
    linen, variables = resnet20
    model = fr.nnx.to_nnx(variables, linen)
    model.eval()
    expected = linen.apply(variables, IMAGES, train=False, method="features")
    assert_trees_equal(model.features(IMAGES), expected)
    assert_trees_equal(model.features(IMAGES, ["layer2"]), {"layer2": expected["layer2"]})


def test_a_new_classifier_has_its_own_number_of_classes(resnet20):
    linen, variables = resnet20
    model = fr.nnx.to_nnx(variables, linen)
    model.eval()
    pooled = model.features(IMAGES)["pooled"]
    model.fc = nnx.Linear(64, 7, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(model(IMAGES), model.fc(pooled), rtol=1e-5, atol=1e-5)
    assert model(IMAGES).shape == (4, 7)


def test_a_model_with_a_new_classifier_is_saved(resnet20, tmp_path):
    linen, variables = resnet20
    model = fr.nnx.to_nnx(variables, linen)
    model.fc = nnx.Linear(64, 5, rngs=nnx.Rngs(0))
    assert model.linen == linen.clone(num_classes=5)
    path = tmp_path / "weights.safetensors"
    fr.save_weights(path, fr.nnx.from_nnx(model), model.linen)
    assert_trees_equal(fr.load_weights(path, model.linen), fr.nnx.from_nnx(model))


class ScaledLinear(nnx.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


@pytest.mark.parametrize(
    ("path", "layer", "message"),
    [
        ("fc", lambda rngs: ScaledLinear(64, 3, rngs=rngs), r"fc is a .*\.ScaledLinear"),
        ("bn1", lambda rngs: nnx.BatchNorm(16, momentum=0.5, rngs=rngs), r"bn1 is a .*BatchNorm"),
        (
            "layer2_0.conv1",
            lambda rngs: nnx.Conv(16, 32, (3, 3), strides=1, use_bias=False, rngs=rngs),
            r"layer2_0\.conv1 is a .*Conv, which the model would not call\. .*model\.features",
        ),
    ],
)
def test_layers_that_would_not_compute_are_refused(resnet20, path, layer, message):
    model = fr.nnx.to_nnx(resnet20[1], resnet20[0])
    *parents, name = path.split(".")
    setattr(functools.reduce(getattr, parents, model), name, layer(nnx.Rngs(0)))
    with pytest.raises(ValueError, match=message):
        model.features(IMAGES, "stem")


def test_stages_before_one_are_frozen_by_the_option_and_a_filter(resnet20):
    """The option keeps their statistics, the filter of the guide their parameters."""
    linen, variables = resnet20
    model = fr.nnx.to_nnx(variables, linen.clone(freeze_before="layer3"))
    trained = nnx.All(nnx.Param, lambda path, _: path[0].startswith(("layer3", "fc")))
    optimizer = nnx.Optimizer(model, optax.adamw(0.1, weight_decay=0.1), wrt=trained)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            logits = model(IMAGES)
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

        optimizer.update(model, nnx.grad(loss, argnums=nnx.DiffState(0, trained))(model))

    step(model, optimizer)
    after = traverse_util.flatten_dict(fr.nnx.from_nnx(model))
    for path, before in traverse_util.flatten_dict(variables).items():
        is_frozen = not path[1].startswith(("layer3", "fc"))
        assert np.array_equal(after[path], before) == is_frozen, path


def test_layers_with_other_variables_are_refused(resnet20):
    linen, variables = resnet20
    model = fr.nnx.to_nnx(variables, linen)
    model.conv1 = nnx.Conv(3, 16, (3, 3), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"1 variable more \(conv1\.bias\)"):
        model(IMAGES)
    model = fr.nnx.to_nnx(variables, linen)
    model.fc = nnx.Sequential(nnx.Linear(64, 9, rngs=nnx.Rngs(0)), nnx.relu)
    with pytest.raises(ValueError, match=r"build other heads on model\.features"):
        model(IMAGES)


def test_one_layer_has_no_training_mode(resnet20):
    model = fr.nnx.to_nnx(resnet20[1], resnet20[0])
    for layer in (model.layer1_0, model.layer1_0.bn1):
        with pytest.raises(
            ValueError, match=r"train\(\) or eval\(\) on the model.*optimiser's wrt"
        ):
            layer.eval()


@pytest.mark.slow
def test_dropout_draws_new_numbers_at_each_call():
    options = {"num_classes": 3, "stage_sizes": (1, 1, 1), "dropout": 0.5}
    model = fr.nnx.create_model("resnet20", rngs=nnx.Rngs(0), **options)
    first, second = model(IMAGES), model(IMAGES)
    assert np.abs(first - second).max() > 0
    model.eval()
    np.testing.assert_array_equal(model(IMAGES), model(IMAGES))


@pytest.mark.slow
def test_created_from_a_seed():
    a, b, c = (
        fr.nnx.create_model("resnet20", rngs=nnx.Rngs(seed), stage_sizes=(1, 1, 1), in_channels=1)
        for seed in (0, 0, 1)
    )
    assert a.conv1.kernel.shape == (3, 3, 1, 16)
    np.testing.assert_array_equal(a.conv1.kernel[...], b.conv1.kernel[...])
    assert np.abs(a.conv1.kernel[...] - c.conv1.kernel[...]).max() > 0
    with pytest.raises(ValueError, match=r"did you mean .*resnet20"):
        fr.nnx.create_model("resnet21x", rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_load_takes_the_sources_of_fr_load(resnet20, tmp_path):
    linen = fr.create_model("resnet20", num_classes=3)
    variables = random_variables(linen)
    path = tmp_path / "weights.safetensors"
    fr.save_weights(path, variables, linen)
    model = fr.nnx.load(path)
    assert model.use_running_average
    assert_trees_equal(fr.nnx.from_nnx(model), variables)
    expected = linen.apply(variables, IMAGES, train=False)
    np.testing.assert_array_equal(model(IMAGES), expected)
    assert fr.nnx.load(path, num_classes=5)(IMAGES).shape == (4, 5)
