"""Time of heat maps, in forward passes of the same images.

    python -m benchmarks.explain [--model resnet50] [--size 224] [--batch 8] [--repeats 5]

Medians of interleaved calls; both sides run the model with batch norm folded, as commands do.
"""

import argparse
import statistics
import time
from functools import partial

import jax
import numpy as np

import flax_resnet as fr
from flax_resnet.report.explain import METHODS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="also the two expensive methods")
    args = parser.parse_args()

    shape = args.batch, args.size, args.size, 3
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    model = fr.create_model(args.model)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(0), images[:1])
    model, variables = fr.fold_batch_norm(model, jax.device_get(variables))
    variables, images = jax.device_put((variables, images))
    calls = {"forward pass": jax.jit(partial(model.apply, variables, train=False))}
    for name, method in METHODS.items():
        if args.all or name.startswith("grad-cam"):
            calls[name] = partial(method, model, variables)
    seconds = {name: [] for name in calls}
    for repeat in range(args.repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call(images))
            if repeat:  # the first call compiles
                seconds[name].append(time.perf_counter() - start)
    forward = statistics.median(seconds["forward pass"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:22}{1e3 * median / args.batch:8.1f} ms an image {median / forward:8.2f}×")


if __name__ == "__main__":
    main()
