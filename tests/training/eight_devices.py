"""A child process of test_parallel.py: eight devices of one CPU; prints what it found as JSON."""

import functools
import json
import sys
from unittest import mock

import jax

DEVICES = 8
jax.config.update("jax_num_cpu_devices", DEVICES)
jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import flax_resnet as fr  # noqa: E402
from flax_resnet.config import ParallelConfig  # noqa: E402
from flax_resnet.data import Augmentation, Mixing  # noqa: E402
from flax_resnet.training import parallel  # noqa: E402
from flax_resnet.training.mesh import data_mesh  # noqa: E402

MESH = data_mesh()
SMALL = {"stage_sizes": (1,), "block": "bottleneck", "widths": (8,), "stem": "cifar"}
RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.normal(size=(16, 8, 8, 3)),
    "label": RNG.integers(0, 10, 16),
    "mask": np.arange(16) != 6,
}


def make_state(dtype, options, **model):
    net = fr.ResNet(**SMALL | model, num_classes=10, dtype=dtype, param_dtype=dtype)
    sample = jax.ShapeDtypeStruct((1, 8, 8, 3), dtype)
    create = functools.partial(fr.create_train_state, net, optax.sgd(0.1, 0.9), options=options)
    return jax.jit(lambda: create(jax.random.key(0), sample))()


def partitioning_of(devices=DEVICES, microbatches=1, **settings):
    mesh = MESH
    if devices < DEVICES:
        mesh = jax.sharding.Mesh(MESH.devices[:devices], ("data",), axis_types=MESH.axis_types)
    return parallel.choose_partitioning(ParallelConfig(**settings), 16, microbatches, mesh)


def zero_sums(dtype):
    return {name: jnp.zeros((), dtype) for name in ("loss", "top1", "top5", "count")}


def three_steps(state, partitioning, batch=BATCH, dtype=np.float64):
    """State and metrics after three steps, as NumPy arrays, and the compiled step."""
    batch = batch | {"image": batch["image"].astype(dtype)}
    placed = parallel.place_batch(batch, partitioning)
    sums = jax.device_put(zero_sums(dtype), partitioning.whole)
    state, sums = parallel.enter(
        (parallel.place_state(jax.tree.map(jnp.copy, state), partitioning), sums), partitioning
    )
    step = parallel.compile_step(partitioning, state, sums, placed)
    for _ in range(3):
        state, sums = step(state, sums, placed)
    return jax.device_get(parallel.leave((state, sums), partitioning)), step


def worst(one, other):
    """Largest difference relative to a leaf's largest value."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(
        float(np.abs(np.asarray(a, float) - np.asarray(b, float)).max())
        / max(float(np.abs(np.asarray(a, float)).max()), 1e-3)
        for a, b in pairs
    )


def modes(dtype):
    """jit on eight devices, shard_map and pmap beside jit on one."""
    augment = Augmentation(crop_padding=1, flip=True)
    if dtype == np.float64:
        more = {"mix": Mixing(0.2, 1.0), "label_smoothing": 0.1}
    else:  # without mixing, which is long to compile
        more = {"trainable": lambda path: path[0] != "bn1"}
    options = fr.StepOptions(augment=augment, ema_decay=0.9, **more)
    net = {"groups": 4, "width_per_group": 16, "dropout": 0.2, "stochastic_depth": 0.3}
    state = make_state(dtype, options, **net)
    (one, _) = three_steps(state, partitioning_of(devices=1), dtype=dtype)
    return {
        mode: worst(one, three_steps(state, partitioning_of(mode=mode), dtype=dtype)[0])
        for mode in ("jit", "shard_map", "pmap")
    }


def grouped():
    """Batch norm in groups: every mode beside jit on one device."""
    found = {}
    for groups in (2, 8):
        state = make_state(np.float64, options=fr.StepOptions(), batch_norm_groups=groups)
        one, _ = three_steps(state, partitioning_of(devices=1))
        for mode in ("jit", "shard_map"):
            partitioning = partitioning_of(mode=mode, batch_norm=f"groups:{groups}")
            found[f"{mode} {groups}"] = worst(one, three_steps(state, partitioning)[0])
    return found


def accumulated():
    """Microbatches beside the whole batch without batch norm, and over devices with it."""
    found = {}
    whole = make_state(np.float64, fr.StepOptions(), norm="group")
    parts = whole.replace(options=fr.StepOptions(microbatches=4))
    one, _ = three_steps(whole, partitioning_of(devices=1))
    four, _ = three_steps(parts, partitioning_of(devices=1))
    found["group norm"] = worst(one, four)
    state = make_state(np.float64, fr.StepOptions(microbatches=2), dropout=0.2)
    one, _ = three_steps(state, partitioning_of(devices=1))
    for mode in ("jit", "shard_map"):
        partitioning = partitioning_of(mode=mode, microbatches=2)
        found[mode] = worst(one, three_steps(state, partitioning)[0])
    with mock.patch.object(jax, "default_backend", lambda: "gpu"):  # where a loop serves well
        found["loop"] = worst(one, three_steps(state, partitioning)[0])
    return found


def sharded():
    """Parameters spread over the devices beside the same whole."""
    state = make_state(np.float64, options=fr.StepOptions(ema_decay=0.9))
    one, _ = three_steps(state, partitioning_of(devices=1))
    partitioning = partitioning_of(shard_params=True)
    spread = parallel.place_state(jax.tree.map(jnp.copy, state), partitioning)
    bytes_here = sum(
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(spread.params)
    )
    options = fr.StepOptions(**vars(state.options) | {"gathered": partitioning.whole})
    other, _ = three_steps(state.replace(options=options), partitioning)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    return {"worst": worst(one, other), "share": bytes_here / total}


def resnet152():
    """Bytes of parameters and optimiser, and those on one device, from their shapes."""
    net = fr.create_model("resnet152")
    sample = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    create = functools.partial(fr.create_train_state, net, optax.sgd(0.1, 0.9))
    state = jax.eval_shape(lambda: create(jax.random.key(0), sample))
    shardings = parallel.state_shardings(state, partitioning_of(shard_params=True))
    total = here = 0
    for part in ("params", "opt_state"):
        pairs = zip(
            jax.tree.leaves(getattr(state, part)),
            jax.tree.leaves(getattr(shardings, part)),
            strict=True,
        )
        for leaf, sharding in pairs:
            total += leaf.size * leaf.dtype.itemsize
            here += int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return {"devices": DEVICES, "parameters": parameters, "total": total, "here": here}


def trap():
    """How far off a plain ``pmean`` of gradients is, and of how many devices the sum is.

    shard_map has summed the gradients of what is whole on every device already.
    """
    w, x = jnp.ones(3), jnp.asarray(RNG.normal(size=(16, 3)))
    spec = jax.sharding.PartitionSpec

    def loss(w, x):
        return jnp.mean(jnp.tanh(x @ w))

    def plain(w, x):
        return jax.lax.pmean(jax.grad(loss)(w, x), "data")

    specs = (spec(), spec("data"))
    mapped = jax.shard_map(plain, mesh=MESH, in_specs=specs, out_specs=spec())
    return (np.asarray(mapped(w, x)) / np.asarray(jax.grad(loss)(w, x))).tolist()


def collectives():
    """Collective operations of the compiled step: how many of each kind, by mode."""
    from flax_resnet.training.communication import collectives_of

    state = make_state(np.float32, options=fr.StepOptions())
    batch = {k: v for k, v in BATCH.items() if k != "mask"}
    batch["image"] = batch["image"].astype(np.float32)
    found = {"norms": len(jax.tree.leaves(state.batch_stats)) // 2}
    for name, settings in {
        "jit": {"mode": "jit"},
        "shard_map": {"mode": "shard_map"},
        "per_device": {"batch_norm": "per_device"},
    }.items():
        partitioning = partitioning_of(**settings)
        placed = parallel.place_batch(batch, partitioning)
        sums = jax.device_put(zero_sums(np.float32), partitioning.whole)
        model, options = parallel.configure(state.model, state.options, partitioning, 1)
        held = jax.tree.map(jnp.copy, state).replace(model=model, options=options)
        held = parallel.place_state(held, partitioning)
        text = parallel.compile_step(partitioning, held, sums, placed).as_text()
        found[name] = [[one.kind, one.bytes] for one in collectives_of(text)]
    found["bytes"] = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    return found


if __name__ == "__main__":
    found = {}
    for name in sys.argv[1:]:
        work, _, argument = name.partition(":")
        arguments = (np.dtype(argument).type,) if argument else ()
        found[name] = globals()[work](*arguments)
    print(json.dumps(found))
