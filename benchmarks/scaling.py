"""What the roads to several devices, and the loop, cost on top of the bare compiled step.

    python -m benchmarks.scaling

Steps of resnet20 on 32x32 images, 64 a step in all, on 1, 2 and 8 fake devices of this CPU: the
compiled program called again and again on the same batch ("bare" under jit on the same devices),
beside it under shard_map and pmap, interleaved; and `fr.train` on images in memory with its clock's
images a second, which has the loop, the batches and the metrics in it, beside the bare step of the
same batch. Fake devices share the cores, so that these are costs of the roads, not of scaling.
Figures are ratios of medians. One process a number of devices.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 7
BATCH = 64


def measure(devices):
    """Milliseconds a step by mode, and of the loop, on so many devices."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import numpy as np
    import optax

    import flax_resnet as fr
    from flax_resnet.config import ParallelConfig
    from flax_resnet.data import Preprocessing
    from flax_resnet.training import parallel
    from flax_resnet.training.mesh import data_mesh
    from flax_resnet.training.step import zero_metrics

    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
    }
    model = fr.create_model("resnet20")
    options = fr.StepOptions(preprocess=Preprocessing((0.5,) * 3, (0.25,) * 3))
    sample = jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8)
    create = jax.jit(
        lambda: fr.create_train_state(
            model, optax.sgd(0.01, 0.9), jax.random.key(0), sample, options
        )
    )
    roads = {}
    for mode in ("jit", "shard_map", "pmap"):
        layout = parallel.choose_layout(ParallelConfig(mode=mode), BATCH, 1, data_mesh())
        placed = parallel.place_batch(batch, layout)
        held = parallel.place_state(create(), layout), jax.device_put(zero_metrics(), layout.whole)
        held = parallel.enter(held, layout)
        step = parallel.compile_step(layout, *held, placed)
        roads[mode] = [step, jax.block_until_ready(step(*held, placed)), placed]
    times = {mode: [] for mode in roads}
    for _ in range(ROUNDS):
        for mode, road in roads.items():
            step, held, placed = road
            began = time.perf_counter()
            for _ in range(3):
                held = step(*held, placed)
            jax.block_until_ready(held)
            times[mode].append((time.perf_counter() - began) / 3)
            road[1] = held
    found = {mode: statistics.median(values) * 1e3 for mode, values in times.items()}
    found["loop"], found["bare"] = loop(roads["jit"][0])
    return found


def loop(_):
    """Milliseconds of a step in the loop and bare, alternating, on the digits' images."""
    import jax
    import numpy as np

    import flax_resnet as fr
    from flax_resnet.training import loop as training_loop

    compiled, pairs = [], []
    original = training_loop.compile_step

    def kept(layout, state, sums, batch):
        step = original(layout, state, sums, batch)
        compiled.append((step, layout, batch))
        return step

    training_loop.compile_step = kept
    config = fr.load_config("digits")
    data = dataclasses.replace(config.data, batch_size=BATCH, image_size=32)
    model = dataclasses.replace(config.model, name="resnet20")
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            run = dataclasses.replace(
                config, data=data, model=model, workdir=folder, max_steps=30, compile_cache=None
            )
            result = fr.train(dataclasses.replace(run, augment=config.augment))
            lines = (Path(result.workdir) / "history.jsonl").read_text().splitlines()
            looped = BATCH / json.loads(lines[0])["images_per_second"] * 1e3
        _, layout, batch = compiled[-1]
        from flax_resnet.training.parallel import configure, place_state
        from flax_resnet.training.setup import prepare
        from flax_resnet.training.step import zero_metrics

        made = prepare(run)
        parts = configure(made.model, made.options, layout, 1)
        made = dataclasses.replace(made, model=parts[0], options=parts[1])
        state = place_state(made.in_phase(made.state, made.phases[0]), layout)
        sums = jax.device_put(zero_metrics(), layout.whole)
        state = dataclasses.replace(state, options=made.sized(state.options, made.train_size_at(0)))
        fresh = original(layout, state, sums, batch)
        held = jax.block_until_ready(fresh(state, sums, batch))
        took = []
        for _ in range(29):
            began = time.perf_counter()
            held = jax.block_until_ready(fresh(*held, batch))
            took.append(time.perf_counter() - began)
        pairs.append((looped, float(np.mean(took)) * 1e3))
    return tuple(statistics.median(values) for values in zip(*pairs, strict=True))


def main():
    """Measure each number of devices in a process of its own, and print the table."""
    print(f"{os.cpu_count()} cores; resnet20, {BATCH} images of 32x32 a step; medians of {ROUNDS}")
    print(f"{'devices':>7} {'jit ms':>8} {'shard_map':>10} {'pmap':>6} {'loop/bare':>10}")
    for devices in (1, 2, 8):
        command = [sys.executable, "-m", "benchmarks.scaling", str(devices)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{devices:7} {found['jit']:8.1f} {found['shard_map'] / found['jit']:10.3f} "
            f"{found['pmap'] / found['jit']:6.3f} {found['loop'] / found['bare']:10.3f}"
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        main()
