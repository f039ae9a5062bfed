"""The child process of test_partitioning.py: eight devices of one CPU; prints results as JSON."""

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
from flax_resnet.training.mesh import data_mesh  # noqa: E402
from flax_resnet.training.partitioning import choose_partitioning, compile_step  # noqa: E402

MESH = data_mesh()
SMALL = {"stage_sizes": (1,), "block": "bottleneck", "widths": (8,), "stem": "cifar"}
RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.normal(size=(16, 8, 8, 3)),
    "label": RNG.integers(0, 10, 16),
    "mask": np.arange(16) != 6,
}


def make_step(dtype, net=None, **options):
    model = fr.ResNet(**SMALL | (net or {}), num_classes=10, dtype=dtype, param_dtype=dtype)
    return fr.TrainStep(model, optax.sgd(0.1, 0.9), **options)


def initial_state(step):
    sample = jax.ShapeDtypeStruct((1, 8, 8, 3), step.model.dtype)
    return jax.jit(functools.partial(step.init, sample=sample))(jax.random.key(0))


def partitioning_of(devices=DEVICES, microbatches=1, uses_native=False, **settings):
    mesh = MESH
    if devices < DEVICES:
        mesh = jax.sharding.Mesh(MESH.devices[:devices], ("data",), axis_types=MESH.axis_types)
    return choose_partitioning(ParallelConfig(**settings), 16, microbatches, mesh, uses_native)


def zero_sums(dtype):
    return {name: jnp.zeros((), dtype) for name in ("loss", "top1", "top5", "count")}


def three_steps(step, partitioning, state=None, dtype=np.float64):
    """State and metrics after three steps, as NumPy arrays."""
    batch = partitioning.put_batch(BATCH | {"image": BATCH["image"].astype(dtype)})
    sums = partitioning.replicate(zero_sums(dtype))
    state = initial_state(step) if state is None else jax.tree.map(jnp.copy, state)
    state = partitioning.put_state(state)
    compiled = compile_step(step, partitioning, state, sums, batch)
    for _ in range(3):
        state, sums = compiled(state, sums, batch)
    return jax.device_get((state, sums))


def three_steps_of_pmap(step, dtype):
    """The same by ``jax.pmap``, which wants a copy of the state for each device."""
    mapped = jax.pmap(functools.partial(step, axis_name="data"), "data")
    state = jax.tree.map(lambda leaf: jnp.stack([leaf] * DEVICES), initial_state(step))
    batch = BATCH | {"image": BATCH["image"].astype(dtype)}
    batch = {name: leaf.reshape(DEVICES, -1, *leaf.shape[1:]) for name, leaf in batch.items()}
    sums = zero_sums(dtype)
    for _ in range(3):
        state, metrics = mapped(state, batch)
        sums = jax.tree.map(lambda total, new: total + new[0], sums, metrics)
    return jax.device_get((jax.tree.map(lambda leaf: leaf[0], state), sums))


def worst(one, other):
    """Largest difference relative to a leaf's largest value."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(
        float(np.abs(np.asarray(a, float) - np.asarray(b, float)).max())
        / max(float(np.abs(np.asarray(a, float)).max()), 1e-3)
        for a, b in pairs
    )


def modes(dtype):
    """jit on eight devices, shard_map and pmap compared with jit on one."""
    options = {"augment": Augmentation(crop_padding=1, flip=True), "ema_decay": 0.9}
    if dtype == np.float64:
        options |= {"mix": Mixing(0.2, 1.0), "label_smoothing": 0.1}
    else:  # without mixing, which takes long to compile
        options["trainable"] = lambda path: path[0] != "bn1"
    net = {"groups": 4, "width_per_group": 16, "dropout": 0.2, "stochastic_depth": 0.3}
    step = make_step(dtype, net, **options)
    one = three_steps(step, partitioning_of(devices=1), dtype=dtype)
    found = {
        mode: three_steps(step, partitioning_of(mode=mode), dtype=dtype)
        for mode in ("jit", "shard_map")
    }
    found["pmap"] = three_steps_of_pmap(step, dtype)
    return {mode: worst(one, eight) for mode, eight in found.items()}


def grouped():
    """Batch norm in groups: every mode compared with jit on one device."""
    found = {}
    for groups in (2, 8):
        step = make_step(np.float64, {"batch_norm_groups": groups})
        one = three_steps(step, partitioning_of(devices=1))
        for mode in ("jit", "shard_map"):
            partitioning = partitioning_of(mode=mode, batch_norm=f"groups:{groups}")
            found[f"{mode} {groups}"] = worst(one, three_steps(step, partitioning))
    return found


def accumulated():
    """Microbatches compared with the whole batch without batch norm, and over devices with it."""
    found = {}
    whole = make_step(np.float64, {"norm": "group"})
    cut = make_step(np.float64, {"norm": "group"}, microbatches=4)
    state = initial_state(whole)
    one = three_steps(whole, partitioning_of(devices=1), state)
    found["group norm"] = worst(one, three_steps(cut, partitioning_of(devices=1), state))
    step = make_step(np.float64, {"dropout": 0.2}, microbatches=2)
    one = three_steps(step, partitioning_of(devices=1))
    for mode in ("jit", "shard_map"):
        partitioning = partitioning_of(mode=mode, microbatches=2)
        found[mode] = worst(one, three_steps(step, partitioning))
    with mock.patch.object(jax, "default_backend", lambda: "gpu"):  # which runs them in a loop
        found["loop"] = worst(one, three_steps(step, partitioning))
    return found


def sharded():
    """Parameters split over the devices compared with replicated ones."""
    partitioning = partitioning_of(shard_params=True)
    step = make_step(np.float64, ema_decay=0.9)
    split_step = make_step(
        np.float64, ema_decay=0.9, compute_sharding=partitioning.replicated_sharding
    )
    state = initial_state(step)
    one = three_steps(step, partitioning_of(devices=1), state)
    split = partitioning.put_state(jax.tree.map(jnp.copy, state))
    bytes_here = sum(
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(split.params)
    )
    other = three_steps(split_step, partitioning, state)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    return {"worst": worst(one, other), "share": bytes_here / total}


def resnet152():
    """Bytes of parameters and optimiser, and those on one device, from their shapes."""
    net = fr.create_model("resnet152", conv_impl="reference")  # quickly traced
    sample = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    step = fr.TrainStep(net, optax.sgd(0.1, 0.9))
    state = jax.eval_shape(functools.partial(step.init, sample=sample), jax.random.key(0))
    shardings = partitioning_of(shard_params=True).state_shardings(state)
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

    batch = {k: v for k, v in BATCH.items() if k != "mask"}
    batch["image"] = batch["image"].astype(np.float32)
    state = initial_state(make_step(np.float32))
    found = {"norms": len(jax.tree.leaves(state.batch_stats)) // 2}
    for name, settings in {
        "jit": {"mode": "jit"},
        "shard_map": {"mode": "shard_map"},
        "per_device": {"batch_norm": "per_device"},
        "native": {"uses_native": True},
    }.items():
        partitioning = partitioning_of(**settings)
        net = {"batch_norm_groups": partitioning.batch_norm_groups}
        # As training chooses, because jit cannot split custom calls.
        net["conv_impl"] = "jax" if partitioning.splits_no_custom_calls else "auto"
        step = make_step(np.float32, net)
        arrays = (
            partitioning.put_state(jax.tree.map(jnp.copy, state)),
            partitioning.replicate(zero_sums(np.float32)),
            partitioning.put_batch(batch),
        )
        text = compile_step(step, partitioning, *arrays).as_text()
        found[name] = [[one.kind, one.bytes] for one in collectives_of(text)]
    found["bytes"] = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    return found


class Images:
    """16 images in memory."""

    streams = False
    bad: dict = {}  # noqa: RUF012
    labels = BATCH["label"]

    def __len__(self):
        return len(self.labels)

    def gather(self, indices, draws=None):
        image = BATCH["image"][indices].astype(np.float32)
        return {"image": image, "label": self.labels[indices], "mask": np.asarray(indices) >= 0}


def evaluated():
    """Logits of a mode beside those of one device."""
    from flax_resnet.training.evaluation import evaluate_split

    step = make_step(np.float32)
    variables = initial_state(step).eval_variables

    def logits(partitioning):
        put = partitioning.replicate(variables)
        return evaluate_split(step.eval_step, put, Images(), 16, partitioning, None, True).logits

    one = logits(partitioning_of(devices=1))
    return {mode: worst(one, logits(partitioning_of(mode=mode))) for mode in ("jit", "shard_map")}


if __name__ == "__main__":
    found = {}
    for name in sys.argv[1:]:
        work, _, argument = name.partition(":")
        arguments = (np.dtype(argument).type,) if argument else ()
        found[name] = globals()[work](*arguments)
    print(json.dumps(found))
