"""Overhead of ``shard_map``, and of the training loop, over the bare compiled step.

    python -m benchmarks.scaling

Trains resnet8 on 32x32 images, 64 a step in all, on 1, 2 and 8 fake devices of this CPU. "loop" is
a step of `fr.train` (batches, transfers, metrics, signals and progress in it) over the same
compiled program called bare, repeatedly on one batch; the two alternate every few steps within a
run. Then the bare programs of jit and shard_map alternate. Fake devices share the cores, so these
figures show overhead, not scaling. They are medians of the ratios of measurements that are adjacent
in time. Each number of devices has a process of its own.
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

MODES = ("jit", "shard_map")
BATCH = 64
STEPS, WINDOWS = 6, 9  # steps of a window, and windows of each kind
ROUNDS = 7


class EnoughError(Exception):
    """Stops the loop when all windows of a run are measured."""


class Alternating:
    """A compiled step that alternately times the loop that calls it, and itself alone."""

    def __init__(self, step, state, sums, batch):
        import jax

        self.step, self.batch = step, batch
        self.held = jax.tree.map(lambda leaf: leaf.copy(), (state, sums))  # the loop's are donated
        self.calls, self.began = 0, None
        self.looped, self.bare = [], []
        self.run_bare(1)  # warm-up

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
        """Return the loop's time divided by that of the bare windows before and after."""
        around = zip(self.bare, self.bare[1:], self.looped, strict=False)
        return statistics.median(2 * looped / (one + two) for one, two, looped in around)

    def run_bare(self, steps):
        """Return the seconds per step of the program alone."""
        import jax

        began = time.perf_counter()
        for _ in range(steps):
            self.held = self.step(*self.held, self.batch)
        jax.block_until_ready(self.held)
        return (time.perf_counter() - began) / steps


def measure(devices):
    """Return the milliseconds per step and the overheads by mode, on this number of devices."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from rich.console import Console

    import flax_resnet as fr
    from flax_resnet.training import loop

    compile_step, timed = loop.compile_step, {}

    def kept(step, partitioning, state, sums, batch):
        timed[partitioning.mode] = Alternating(
            compile_step(step, partitioning, state, sums, batch), state, sums, batch
        )
        return timed[partitioning.mode]

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
    turns = [{mode: step.run_bare(STEPS) for mode, step in timed.items()} for _ in range(ROUNDS)]
    return {
        mode: {
            "milliseconds": statistics.median(turn[mode] for turn in turns) * 1e3,
            "ratio": statistics.median(turn[mode] / turn["jit"] for turn in turns),
            "loop": step.overhead(),
        }
        for mode, step in timed.items()
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
        print(*(f"{found[mode]['ratio']:13.3f}" for mode in MODES[1:]), end="")
        print(*(f"{found[mode]['loop']:15.3f}" for mode in MODES), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        from flax_resnet import tune_cpu

        tune_cpu()
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        main()
