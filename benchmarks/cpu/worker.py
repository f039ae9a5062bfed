"""A process of one contender: lines of JSON in, lines of JSON out.

{"build": WORKLOAD, "framework": ..., "options": {...}}  ->  {"first": seconds, "compile": ...,
                                                              "settled": seconds of a step}
{"run": samples}                                         ->  {"seconds": [...], "bytes": peak}
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.cpu.workloads import WORKLOADS

SETTLING = 8  # steps until the allocator has found its places,
SETTLING_SECONDS = 20  # unless they take longer than this


def peak_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def build_ours(workload, conv_impl):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import flax_resnet as fr
    from flax_resnet.models import QUICK_COMPILATION

    options = {"num_classes": workload.classes, "stem": workload.stem, "conv_impl": conv_impl}
    model = fr.create_model(workload.model, dtype=jnp.dtype(workload.dtype), **options)
    shape = (workload.batch, workload.size, workload.size, 3)
    images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    key = jax.random.key(0, impl="rbg")
    if not workload.train:
        init = jax.jit(partial(model.init, train=False), compiler_options=QUICK_COMPILATION)
        variables = jax.device_get(init(key, images))  # folded by NumPy, which is quicker
        model, variables = fr.fold_batch_norm(model, variables)
        variables = jax.device_put(fr.pack_kernels(model, variables, images))
        start = time.perf_counter()
        apply = jax.jit(partial(model.apply, train=False)).lower(variables, images).compile()
        seconds = time.perf_counter() - start
        return lambda: apply(variables, images).block_until_ready(), seconds
    tx = optax.sgd(0.01, momentum=0.9)
    init = jax.jit(
        lambda key: fr.create_train_state(model, tx, key, images),
        compiler_options=QUICK_COMPILATION,
    )
    state = [init(jax.random.key(0))]
    batch = {"image": images, "label": jnp.arange(workload.batch) % workload.classes}
    start = time.perf_counter()
    compiled = jax.jit(fr.train_step, donate_argnums=0).lower(state[0], batch).compile()
    seconds = time.perf_counter() - start

    def step():
        state[0], metrics = compiled(state[0], batch)
        return float(metrics["loss"])

    return step, seconds


def build_flax(workload):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from benchmarks.cpu.plain_flax import MODELS, PlainResNet
    from flax_resnet.models import QUICK_COMPILATION

    model = PlainResNet(
        **MODELS[workload.model],
        classes=workload.classes,
        stem=workload.stem,
        dtype=jnp.dtype(workload.dtype),
    )
    shape = (workload.batch, workload.size, workload.size, 3)
    images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    labels = jnp.arange(workload.batch) % workload.classes
    key = jax.random.key(0, impl="rbg")
    init = jax.jit(partial(model.init, train=False), compiler_options=QUICK_COMPILATION)
    variables = init(key, images)
    if not workload.train:
        start = time.perf_counter()
        apply = jax.jit(partial(model.apply, train=False)).lower(variables, images).compile()
        seconds = time.perf_counter() - start
        return lambda: apply(variables, images).block_until_ready(), seconds
    tx = optax.sgd(0.01, momentum=0.9)

    def train_step(variables, opt_state):
        def loss_of(params):
            logits, new = model.apply(
                {"params": params, "batch_stats": variables["batch_stats"]},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), new["batch_stats"]

        params = variables["params"]
        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return {"params": params, "batch_stats": stats}, opt_state, loss

    state = [variables, tx.init(variables["params"])]
    start = time.perf_counter()
    compiled = jax.jit(train_step, donate_argnums=(0, 1)).lower(*state).compile()
    seconds = time.perf_counter() - start

    def step():
        *state[:], loss = compiled(*state)
        return float(loss)

    return step, seconds


def build_torch(workload, **options):
    from benchmarks.cpu import torch_nets

    return torch_nets.build(workload, **options), None


BUILDERS = {"ours": build_ours, "flax": build_flax, "torch": build_torch}


def main():
    # The frameworks print to the same stream: what is ours goes to a copy of it.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    step = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if "build" in order:
                workload = WORKLOADS[order["build"]]
                start = time.perf_counter()
                step, compile_seconds = BUILDERS[order["framework"]](workload, **order["options"])
                step()
                reply = {"first": time.perf_counter() - start, "compile": compile_seconds}
                settled = time.perf_counter() + SETTLING_SECONDS
                for _ in range(SETTLING):
                    start = time.perf_counter()
                    step()
                    reply["settled"] = time.perf_counter() - start
                    if time.perf_counter() > settled:
                        break
            else:
                step()  # caches and pages are the others' by now
                seconds, processor = [], []
                for _ in range(order["run"]):
                    start, used = time.perf_counter(), time.process_time()
                    step()
                    seconds.append(time.perf_counter() - start)
                    processor.append(time.process_time() - used)
                reply = {"seconds": seconds, "processor": processor, "bytes": peak_memory()}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
