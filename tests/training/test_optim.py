"""Schedules at the steps the recipes name; optimisers against torch's documented update rules."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.config import OptimizerConfig
from flax_resnet.training import create_optimizer, create_schedule
from flax_resnet.training.optim import decay_mask


def rates(total, epochs, **options):
    schedule = create_schedule(OptimizerConfig(**options), total, epochs)
    return np.array([float(schedule(step)) for step in range(total)])


def test_steps_fall_at_their_epochs():
    found = rates(100, 10, schedule="step", learning_rate=1.0, milestones=(5, 8))
    np.testing.assert_allclose(found, [1.0] * 50 + [0.1] * 30 + [0.01] * 20, rtol=1e-5)


def test_warmup_rises_linearly_and_milestones_still_count_from_the_start():
    options = {"schedule": "step", "learning_rate": 1.0, "milestones": (5,), "warmup_epochs": 2}
    found = rates(100, 10, **options)
    np.testing.assert_allclose(found[:20], np.arange(1, 21) / 20, rtol=1e-5)
    np.testing.assert_allclose(found[20:], [1.0] * 30 + [0.1] * 50, rtol=1e-5)


def test_cosine_ends_near_zero():
    found = rates(100, 10, schedule="cosine", learning_rate=1.0)
    np.testing.assert_allclose(found, (1 + np.cos(np.pi * np.arange(100) / 100)) / 2, atol=1e-6)


def test_a_line_falls_to_zero_after_warmup():
    options = {"schedule": "linear", "learning_rate": 1.0, "warmup_epochs": 2}
    found = rates(100, 10, **options)
    np.testing.assert_allclose(found[20:], 1 - np.arange(80) / 80, atol=1e-6)


def updates(config, gradients, start):
    """Parameters after one step for each gradient, at a constant rate."""
    tx = create_optimizer(config, lambda step: config.learning_rate)
    params = {"conv": {"kernel": np.float32(start)}, "bn": {"scale": np.float32(start)}}
    state, found = tx.init(params), []
    for gradient in gradients:
        grads = jax.tree.map(lambda _, g=gradient: np.float32(g), params)
        change, state = tx.update(grads, state, params)
        params = jax.tree.map(lambda p, c: p + c, params, change)
        found.append(float(params["conv"]["kernel"]))
    return found, float(params["bn"]["scale"])


GRADIENTS = (0.3, -0.2, 0.5, 0.1)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torchs(nesterov):
    rate, mu, decay, p, buffer = 0.1, 0.9, 0.01, 2.0, None
    expected = []
    for gradient in GRADIENTS:  # torch.optim.SGD, "Algorithm"
        g = gradient + decay * p
        buffer = g if buffer is None else mu * buffer + g
        p -= rate * (g + mu * buffer if nesterov else buffer)
        expected.append(p)
    config = OptimizerConfig(learning_rate=rate, weight_decay=decay, nesterov=nesterov)
    np.testing.assert_allclose(updates(config, GRADIENTS, 2.0)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_and_adamw_are_torchs(decoupled):
    rate, decay, p, m, v, expected = 0.1, 0.05, 2.0, 0.0, 0.0, []
    for t, gradient in enumerate(GRADIENTS, start=1):  # torch.optim.Adam and AdamW, "Algorithm"
        g = gradient if decoupled else gradient + decay * p
        if decoupled:
            p -= rate * decay * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p -= rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        expected.append(p)
    name = "adamw" if decoupled else "adam"
    config = OptimizerConfig(name=name, learning_rate=rate, weight_decay=decay)
    np.testing.assert_allclose(updates(config, GRADIENTS, 2.0)[0], expected, rtol=1e-4)


def test_normalisation_and_biases_are_not_decayed_unless_asked():
    zero = (0.0,) * 3
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.1)
    decayed, scale = updates(config, zero, 2.0)
    assert decayed[-1] < 2.0
    assert scale == 2.0
    _, scale = updates(OptimizerConfig(weight_decay=0.1, decay_all=True), zero, 2.0)
    assert scale < 2.0


def test_the_mask_covers_a_whole_model():
    model = fr.create_model("resnet8")
    shape = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), shape)["params"]
    paths = jax.tree_util.tree_flatten_with_path(decay_mask(params))[0]
    assert {path[-1].key for path, keep in paths if keep} == {"kernel"}
    assert {path[-1].key for path, keep in paths if not keep} == {"scale", "bias"}


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgdw_decouples_the_decay(nesterov):
    rate, mu, decay, p, buffer, expected = 0.1, 0.9, 0.05, 2.0, 0.0, []
    for gradient in GRADIENTS:  # Loshchilov & Hutter 2019, algorithm 1
        buffer = mu * buffer + gradient
        p -= rate * ((gradient + mu * buffer if nesterov else buffer) + decay * p)
        expected.append(p)
    config = OptimizerConfig(name="sgdw", learning_rate=rate, weight_decay=decay, nesterov=nesterov)
    np.testing.assert_allclose(updates(config, GRADIENTS, 2.0)[0], expected, rtol=1e-5)


def changes(config, params, gradients):
    """The parameters' changes by each of some equal steps."""
    tx = create_optimizer(config, lambda step: config.learning_rate)
    state, found = tx.init(params), []
    for _ in range(3):
        change, state = tx.update(gradients, state, params)
        found.append(change)
    return found


def random_params(seed):
    rng = np.random.default_rng(seed)
    return {
        "conv1": {"kernel": np.float32(rng.normal(size=(3, 3, 4, 6)))},
        "bn1": {"scale": np.float32(rng.normal(size=6)), "bias": np.float32(rng.normal(size=6))},
        "fc": {
            "kernel": np.float32(rng.normal(size=(6, 2))),
            "bias": np.float32(rng.normal(size=2)),
        },
    }


def lamb_in_numpy(params, gradients, rate, decay, steps):
    """Algorithm 2 of You et al. 2020, with gradients clipped to a norm of 1, and neither decay nor
    the ratio for vectors, as timm has it."""
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradients)))
    gradients = jax.tree.map(lambda g: np.float64(g) / max(norm, 1), gradients)

    def train(p, g):
        p, m, v = np.float64(p), 0.0, 0.0
        for t in range(1, steps + 1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            update = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6)
            ratio = 1.0
            if p.ndim > 1:
                update = update + decay * p
                ratio = np.linalg.norm(p) / np.linalg.norm(update)
            p = p - rate * ratio * update
        return p

    return jax.tree.map(train, params, gradients)


LAMB = OptimizerConfig(name="lamb", learning_rate=0.05, weight_decay=0.02, clip_norm=1.0)


def test_lamb_is_the_papers():
    params, gradients = random_params(0), random_params(1)
    expected = lamb_in_numpy(params, gradients, LAMB.learning_rate, LAMB.weight_decay, steps=3)
    found = functools.reduce(
        lambda tree, change: jax.tree.map(np.add, tree, change),
        lamb_changes(params, gradients),
        params,
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def lamb_changes(params, gradients):
    """The changes of three steps, each from the parameters of the last one."""
    tx = create_optimizer(LAMB, lambda step: LAMB.learning_rate)
    state, found, update = tx.init(params), [], jax.jit(tx.update)
    for _ in range(3):
        change, state = update(gradients, state, params)
        params = jax.tree.map(np.add, params, change)
        found.append(change)
    return found


def test_lamb_is_timms():
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm.optim")
    params, gradients = random_params(0), random_params(1)
    leaves = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in jax.tree.leaves(params)]
    groups = [
        {"params": [p for p in leaves if p.ndim > 1], "weight_decay": LAMB.weight_decay},
        {"params": [p for p in leaves if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = timm.Lamb(groups, lr=LAMB.learning_rate)
    for leaf, gradient in zip(leaves, jax.tree.leaves(gradients), strict=True):
        leaf.grad = torch.tensor(gradient)
    for _ in range(3):
        optimizer.step()
    expected = lamb_in_numpy(params, gradients, LAMB.learning_rate, LAMB.weight_decay, steps=3)
    for leaf, value in zip(leaves, jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf.detach().numpy(), value, rtol=1e-5, atol=1e-6)


def test_lamb_leaves_a_kernel_of_zeros_its_step():
    params = {"fc": {"kernel": np.zeros((2, 2), np.float32)}}
    (change, *_) = lamb_changes(params, {"fc": {"kernel": np.ones((2, 2), np.float32)}})
    np.testing.assert_allclose(change["fc"]["kernel"], -LAMB.learning_rate, rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "sgdw", "adamw"])
def test_biases_learn_faster_by_their_factor(name):
    params, gradients = random_params(0), random_params(1)
    config = OptimizerConfig(name=name, weight_decay=0.01, clip_norm=1.0)
    slow = changes(config, params, gradients)
    fast = changes(dataclasses.replace(config, bias_rate=64.0), params, gradients)
    for one, other in zip(slow, fast, strict=True):
        for layer in ("bn1", "fc"):
            np.testing.assert_array_equal(other[layer].pop("bias"), 64 * one[layer].pop("bias"))
        jax.tree.map(np.testing.assert_array_equal, one, other)


def newton_schulz(gradient):
    """``zeropower_via_newtonschulz5`` of airbench (Jordan 2024), in NumPy."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = gradient / (np.linalg.norm(gradient) + 1e-7)
    transposed = len(x) > x.shape[1]
    x = x.T if transposed else x
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if transposed else x


def test_muon_is_airbenchs_on_convolutions_and_sgdw_is_the_rest():
    """With equal gradients the momentum does not turn the direction that is orthogonalised."""
    params, gradients = random_params(0), random_params(1)
    options = {"momentum": 0.6, "weight_decay": 0.05, "sgd_learning_rate": 0.7}
    config = OptimizerConfig(name="muon", learning_rate=0.2, **options)
    found = changes(config, params, gradients)
    kernel = params["conv1"]["kernel"]
    # airbench's matrices are [out, in * H * W].
    matrix = gradients["conv1"]["kernel"].transpose(3, 2, 0, 1).reshape(6, -1)
    direction = newton_schulz(np.float64(matrix)).reshape(6, 4, 3, 3).transpose(2, 3, 1, 0)
    singular = np.linalg.svd(direction.transpose(3, 2, 0, 1).reshape(6, -1))[1]
    assert 0.6 < singular.min() < singular.max() < 1.3
    for change in found:
        expected = -0.2 * (direction + 0.05 * kernel)
        np.testing.assert_allclose(change["conv1"].pop("kernel"), expected, rtol=1e-3, atol=1e-5)
    sgdw = changes(
        OptimizerConfig(name="sgdw", learning_rate=0.7, momentum=0.6, weight_decay=0.05),
        {name: params[name] for name in ("bn1", "fc")},
        {name: gradients[name] for name in ("bn1", "fc")},
    )
    for change, other in zip(found, sgdw, strict=True):
        assert change.pop("conv1") == {}
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), change, other)
