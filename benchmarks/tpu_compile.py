"""Compile steps and logits for a TPU on a machine without one, and read what the compiler reports.

    pip install libtpu
    python -m benchmarks.tpu_compile [CASE ...] [--topology v5e:2x2] [--limit 1800]

A case is MODEL:TASK:DTYPE:SIZE:IMAGES, as in ``resnext50_32x4d:train:bfloat16:224:256``, with the
images of the global batch, which is split over all chips of the topology; without cases those of
``CASES`` are compiled. Nothing runs: each case is compiled in a process of its own, which has
``--limit`` seconds. A line of JSON for each has the seconds of compilation, the memory of one chip,
arithmetic and bytes by the compiler's analysis of cost, the convolutions with feature or batch
groups in the compiled program, and its collectives.
"""

import argparse
import json
import os
import subprocess
import sys
import time

# How a program says which TPU it is compiled for where there is no metadata server.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}

CASES = (
    "resnet8:logits:float32:32:64",
    "resnet8:train:float32:32:64",
    "resnet50:logits:bfloat16:224:64",
    "resnext50_32x4d:logits:bfloat16:224:64",
    "resnet50:train:bfloat16:224:256",
    "resnext50_32x4d:train:bfloat16:224:256",
)


def compile_case(case, topology):
    """Return what the compiler reports of a case, as a dict."""
    import re
    from functools import partial

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    import flax_resnet as fr
    from flax_resnet.training.communication import collectives_of
    from flax_resnet.training.eval_step import zero_metrics
    from flax_resnet.training.partitioning import Partitioning, lower_step

    name, task, dtype, size, images = case.split(":")
    size, images = int(size), int(images)
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    partitioning = Partitioning(Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,)))
    # Traced on a CPU, "auto" would choose the CPU's algorithms.
    model = fr.create_model(name, dtype=jnp.dtype(dtype), conv_impl="reference")
    step = fr.TrainStep(model, optax.sgd(0.1, momentum=0.9))
    sample = jax.ShapeDtypeStruct((images, size, size, 3), jnp.float32)
    state = jax.eval_shape(partial(step.init, sample=sample), jax.random.key(0))

    def replicated(leaf):
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=partitioning.replicated_sharding
        )

    def split(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=partitioning.batch_sharding)

    image = split(sample.shape, sample.dtype)
    state = jax.tree.map(replicated, state)
    if task == "train":
        batch = {"image": image, "label": split((images,), jnp.int32)}
        sums = jax.tree.map(replicated, jax.eval_shape(zero_metrics))
        lowered = lower_step(step, partitioning, state, sums, batch)
    else:
        spread = NamedSharding(partitioning.mesh, PartitionSpec("data"))
        logits = jax.jit(partial(model.apply, train=False), out_shardings=spread)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        lowered = logits.lower(variables, image)
    began = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    text = compiled.as_text()
    convolutions = re.findall(r"= \S+ convolution\(.*", text)
    # The compiler writes groups as a third dimension of the window.
    grouped = [
        line for line in convolutions if re.search(r"size=\d+x\d+x\d+|group_count=(?!1\b)", line)
    ]
    memory = compiled.memory_analysis()
    cost = compiled.cost_analysis() or {}
    if isinstance(cost, list):
        cost = cost[0]
    collectives = collectives_of(text)
    return {
        "chips": len(devices),
        "seconds": seconds,
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "flops": cost.get("flops"),
        "bytes": cost.get("bytes accessed"),
        "convolutions": len(convolutions),
        "grouped": len(grouped),
        "collectives": len(collectives),
        "collective_bytes": sum(one.bytes for one in collectives),
    }


def main():
    """Compile each case in a process of its own, and print a row for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for each case")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(compile_case(options.cases[0], options.topology)))
        return
    for case in options.cases:
        command = [sys.executable, "-m", "benchmarks.tpu_compile", "--child", case]
        command += ["--topology", options.topology]
        began = time.perf_counter()
        try:
            done = subprocess.run(
                command,
                env=os.environ | ENVIRONMENT,
                capture_output=True,
                text=True,
                timeout=options.limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"{case}: not compiled after {options.limit:g} s", flush=True)
            continue
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            waited = time.perf_counter() - began
            print(f"{case}: failed after {waited:.0f} s with {done.returncode}: {last}", flush=True)
            continue
        print(f"{case}: {done.stdout.splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
