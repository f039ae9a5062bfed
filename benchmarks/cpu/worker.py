"""The process of one contender: reads requests and writes replies as lines of JSON.

The first request builds a workload, each of the others runs some timed steps:

    {"build": WORKLOAD, "framework": ..., "options": {...}}
        -> {"first": seconds, "compile": seconds or null, "warm_step": seconds}
    {"run": count}
        -> {"seconds": [...], "processor": [...], "bytes": peak memory}

A reply to a failed request is ``{"error": ...}``.
"""

import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.cpu.workloads import WORKLOADS

# Warm-up steps, until the allocator no longer asks the system for memory, and their time limit.
WARMUP_STEPS = 8
WARMUP_SECONDS = 20


def peak_memory():
    """Returns the peak memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def build_ours(workload, conv_impl):
    """Builds our model. Returns a step function and the seconds of compilation."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import flax_resnet as fr
    from flax_resnet.models import QUICK_COMPILATION

    if workload.photo:
        return _classify_photo(workload, conv_impl), None
    options = {"num_classes": workload.classes, "stem": workload.stem, "conv_impl": conv_impl}
    model = fr.create_model(workload.model, dtype=jnp.dtype(workload.dtype), **options)
    shape = (workload.batch, workload.size, workload.size, 3)
    images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    key = jax.random.key(0, impl="rbg")
    if not workload.train:
        init = jax.jit(partial(model.init, train=False), compiler_options=QUICK_COMPILATION)
        variables = jax.device_get(init(key, images))  # Folding is faster in NumPy.
        model, variables = fr.fold_batch_norm(model, variables)
        variables = jax.device_put(fr.pack_kernels(model, variables, images))
        start = time.perf_counter()
        apply = jax.jit(partial(model.apply, train=False)).lower(variables, images).compile()
        seconds = time.perf_counter() - start
        return lambda: apply(variables, images).block_until_ready(), seconds
    tx = optax.sgd(0.01, momentum=0.9)
    step = fr.TrainStep(model, tx)
    init = jax.jit(lambda key: step.init(key, images), compiler_options=QUICK_COMPILATION)
    state = [init(jax.random.key(0))]
    batch = {"image": images, "label": jnp.arange(workload.batch) % workload.classes}
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state[0], batch).compile()
    seconds = time.perf_counter() - start

    def run():
        state[0], metrics = compiled(state[0], batch)
        return float(metrics["loss"])

    return run, seconds


def _classify_photo(workload, conv_impl):
    """Returns a function that classifies one photo by a classifier with random weights."""
    from dataclasses import replace

    import jax
    import jax.numpy as jnp

    import flax_resnet as fr
    from benchmarks.cpu.photo import photo
    from flax_resnet.inference.outputs import CALLS_BEFORE_PACKING
    from flax_resnet.models import QUICK_COMPILATION

    model = fr.create_model(workload.model)
    init = jax.jit(partial(model.init, train=False), compiler_options=QUICK_COMPILATION)
    variables = init(jax.random.key(0, impl="rbg"), jnp.zeros((1, 224, 224, 3)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        fr.save_weights(path, variables, model)
        classifier = fr.load(path, model=workload.model)
    classifier = replace(classifier, model=classifier.model.clone(conv_impl=conv_impl))
    encoded = photo()

    for _ in range(2 * CALLS_BEFORE_PACKING):  # warm: it packs its kernels on the way
        classifier.predict(encoded)
    return lambda: classifier.predict(encoded).probabilities


def build_flax(workload):
    """Builds the plain Flax model. Returns a step function and the seconds of compilation."""
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
    """Builds PyTorch's model. Returns a step function and None: it compiles in the first step."""
    from benchmarks.cpu import torch_models

    return torch_models.build(workload, **options), None


def build_onnx(workload, **options):
    """Builds a session of an ONNX engine. Returns a step function and None: it does not train."""
    from benchmarks.cpu import onnx_engines

    return onnx_engines.build(workload, **options), None


BUILDERS = {"ours": build_ours, "flax": build_flax, "torch": build_torch, "onnx": build_onnx}


def main():
    # The frameworks may print to stdout: replies go to a copy of it, and stdout goes to stderr.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    step = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "build" in request:
                workload = WORKLOADS[request["build"]]
                start = time.perf_counter()
                step, compile_seconds = BUILDERS[request["framework"]](
                    workload, **request["options"]
                )
                step()
                reply = {"first": time.perf_counter() - start, "compile": compile_seconds}
                deadline = time.perf_counter() + WARMUP_SECONDS
                for _ in range(WARMUP_STEPS):
                    start = time.perf_counter()
                    step()
                    reply["warm_step"] = time.perf_counter() - start
                    if time.perf_counter() > deadline:
                        break
            else:
                step()  # Other contenders have evicted this one from the caches.
                seconds, processor = [], []
                for _ in range(request["run"]):
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
