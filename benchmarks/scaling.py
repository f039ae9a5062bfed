"""What the roads to several devices, and the loop, cost on top of the bare compiled step.

    python -m benchmarks.scaling

Trains resnet8 on 32x32 images, 64 a step in all, on 1, 2 and 8 fake devices of this CPU. "loop" is
a step of `fr.train` (batches, transfers, metrics, signals and progress in it) over the same
compiled program called bare, again and again on one batch; the two alternate every few steps within
a run. The roads themselves, bare, then take turns: "shard_map" and "pmap" over jit. Fake devices
share the cores, so that these are costs of the roads, not of scaling. Figures are medians of the
ratios of neighbours in time. One process a number of devices.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

MODES = ("jit", "shard_map", "pmap")
BATCH = 64
STEPS, WINDOWS = 6, 9  # steps of a window, and windows of each kind
ROUNDS = 7


class EnoughError(Exception):
    """All windows of a run are measured."""


class Alternating:
    """A compiled step that times the loop calling it, and itself alone, in turns."""

    def __init__(self, step, state, sums, batch):
        import jax

        self.step, self.batch = step, batch
        self.held = jax.tree.map(lambda leaf: leaf.copy(), (state, sums))  # the loop's are donated
        self.calls, self.began = 0, None
        self.looped, self.bare = [], []
        self.run_bare(1)  # what is done once

    def __call__(self, state, sums, batch):
        import jax

        if self.calls % STEPS == 0:
            jax.block_until_ready((state, sums))
            if self.began is not None:
                self.looped.append((time.perf_counter() - self.began) / STEPS)
            self.bare.append(self.run_bare(STEPS))
            if len(self.looped) == WINDOWS:
                raise EnoughError
            self.began = time.perf_counter()
        self.calls += 1
        return self.step(state, sums, batch)

    def overhead(self):
        """The loop's time over the bare step's, each window beside the two around it."""
        around = zip(self.bare, self.bare[1:], self.looped, strict=False)
        return statistics.median(2 * looped / (one + two) for one, two, looped in around)

    def run_bare(self, steps):
        """Seconds a step of the program alone."""
        import jax

        began = time.perf_counter()
        for _ in range(steps):
            self.held = self.step(*self.held, self.batch)
        jax.block_until_ready(self.held)
        return (time.perf_counter() - began) / steps


def measure(devices):
    """Milliseconds a step by mode, in the loop and bare, on so many devices."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from rich.console import Console

    import flax_resnet as fr
    from flax_resnet.training import loop

    compile_step, roads = loop.compile_step, {}

    def kept(partitioning, state, sums, batch):
        roads[partitioning.mode] = Alternating(
            compile_step(partitioning, state, sums, batch), state, sums, batch
        )
        return roads[partitioning.mode]

    loop.compile_step = kept
    digits = fr.load_config("digits")
    for mode in MODES:
        with tempfile.TemporaryDirectory() as folder:
            config = dataclasses.replace(
                digits,
                data=dataclasses.replace(digits.data, batch_size=BATCH, image_size=32),
                model=dataclasses.replace(digits.model, name="resnet8"),
                parallel=dataclasses.replace(digits.parallel, mode=mode),
                evaluate_every=1000,
                epochs=1000,
                workdir=folder,
            )
            with contextlib.suppress(EnoughError):
                fr.train(config, Console(quiet=True))
    turns = [{mode: road.run_bare(STEPS) for mode, road in roads.items()} for _ in range(ROUNDS)]
    return {
        mode: {
            "milliseconds": statistics.median(turn[mode] for turn in turns) * 1e3,
            "road": statistics.median(turn[mode] / turn["jit"] for turn in turns),
            "loop": road.overhead(),
        }
        for mode, road in roads.items()
    }


def main():
    """Measure each number of devices in a process of its own, and print the table."""
    print(f"{os.cpu_count()} cores; resnet8, {BATCH} images of 32x32 a step")
    print(f"{'devices':>7} {'jit ms':>8}", *(f"{mode + '/jit':>13}" for mode in MODES[1:]), end="")
    print(*(f"{'loop ' + mode:>15}" for mode in MODES))
    for devices in (1, 2, 8):
        command = [sys.executable, "-m", "benchmarks.scaling", str(devices)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{devices:7} {found['jit']['milliseconds']:8.1f}", end="")
        print(*(f"{found[mode]['road']:13.3f}" for mode in MODES[1:]), end="")
        print(*(f"{found[mode]['loop']:15.3f}" for mode in MODES), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        from flax_resnet import tune_cpu

        tune_cpu()
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        main()
