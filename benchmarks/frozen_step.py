"""Time and memory of a training step that trains the whole model, its last stages, or its head.

    python -m benchmarks.frozen_step [--model resnet50] [--size 64] [--batch 16] [--repeats 5]

Time is the median of interleaved steps; memory is that of a step's temporaries, as XLA reports it,
and that of the optimiser's state.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flax_resnet as fr
from flax_resnet.training.transfer.start import TrainableFrom


def prepared(name, size, batch, first):
    model = fr.create_model(name, num_classes=5)
    trainable = None if first is None else TrainableFrom(model.stages, first)
    step = fr.TrainStep(model, optax.sgd(0.1, 0.9), trainable=trainable, freeze_before=first)
    images = jnp.zeros((batch, size, size, 3))
    state = step.init(jax.random.key(0), images)
    rng = np.random.default_rng(0)
    data = {
        "image": jnp.asarray(rng.normal(size=images.shape), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 5, batch), jnp.int32),
    }
    return jax.jit(step).lower(state, data).compile(), state, data


def megabytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows = {"all": None, "from layer3": "layer3", "from layer4": "layer4", "the head": "fc"}
    steps = {
        name: prepared(options.model, options.size, options.batch, first)
        for name, first in rows.items()
    }
    times = {name: [] for name in rows}
    for _ in range(options.repeats + 1):
        for name, (step, state, data) in steps.items():
            began = time.perf_counter()
            jax.block_until_ready(step(state, data))
            times[name].append(time.perf_counter() - began)
    print(f"{options.model}, {options.batch} images of {options.size} px, SGD with momentum")
    for name, (step, state, _) in steps.items():
        median = statistics.median(times[name][1:])
        temporary = step.memory_analysis().temp_size_in_bytes / 1e6
        print(
            f"{name:12} {median * 1e3:8.0f} ms  {temporary:8.0f} MB temporaries  "
            f"{megabytes(state.opt_state):7.1f} MB optimiser state"
        )


if __name__ == "__main__":
    main()
