"""Overhead of ``shard_map``, and of the training loop, over the bare compiled step.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --processes 8

Trains resnet8 on 32x32 images. "loop" is a step of `fr.train` (batches, transfers, metrics, signals
and progress in it) over the same compiled program called bare, repeatedly on one batch; the two
alternate every few steps within a run, in all processes at once. Figures are medians of the ratios
of measurements that are adjacent in time.

The first command takes 64 images a step on 1, 2 and 8 fake devices of this CPU, and then lets the
bare programs of jit and shard_map alternate. Fake devices share the cores, so these figures show
overhead, not scaling. Each number of devices has a process of its own.

The second starts processes of one device each, which communicate through the loopback interface,
with 32 images each. More processes than cores wait for cores, so beside the ratio of the times
stands that of the processor times of all processes, which other work on the machine changes little.
The collectives of each process's program are compared with those of one process with as many
devices. It exits with 1 if they differ, or if the loop takes more than 5% of processor time.
"""

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

import numpy as np

MODES = ("jit", "shard_map")
STEPS = 6  # of a window
ROUNDS = 7
MOST_OVERHEAD = 1.05


class EnoughError(Exception):
    """Stops the loop when all windows of a run are measured."""


def now():
    """The time and the processor time of this process, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


class Alternating:
    """A compiled step that alternately times the loop that calls it, and itself alone."""

    def __init__(self, step, state, sums, batch, windows):
        import jax

        self.step, self.batch, self.windows = step, batch, windows
        self.held = jax.tree.map(lambda leaf: leaf.copy(), (state, sums))  # the loop's are donated
        self.calls, self.began = 0, None
        self.looped, self.bare = [], []
        self.run_bare()  # warm-up

    def __getattr__(self, name):
        return getattr(self.step, name)  # the loop asks the program for its memory

    def __call__(self, state, sums, batch):
        import jax

        if self.calls % STEPS == 0:
            jax.block_until_ready((state, sums))
            if self.began is not None:
                self.looped.append((now() - self.began) / STEPS)
            self.bare.append(self.run_bare())
            if len(self.looped) > self.windows:
                raise EnoughError
            self.began = now()
        self.calls += 1
        return self.step(state, sums, batch)

    def run_bare(self):
        """Return the seconds per step of the program alone, and those of the processor."""
        import jax

        began = now()
        for _ in range(STEPS):
            self.held = self.step(*self.held, self.batch)
        jax.block_until_ready(self.held)
        return (now() - began) / STEPS


def ratios(looped, bare):
    """Return the loop's time, or processor time, over that of the bare windows around it.

    The first window, in which the loop compiles what reads the metrics, is left out.
    """
    looped, bare = np.array(looped)[1:], np.array(bare)[1:]
    return 2 * looped / (bare[:-1] + bare[1:])


def alternate(folder, images, windows, **parallel):
    """Train until all windows are measured; return the step that measured them."""
    from rich.console import Console

    import flax_resnet as fr
    from flax_resnet.training import loop

    compile_step, found = loop.compile_step, []

    def kept(step, partitioning, state, sums, batch):
        compiled = compile_step(step, partitioning, state, sums, batch)
        found.append(Alternating(compiled, state, sums, batch, windows))
        return found[0]

    digits = fr.load_config("digits")
    config = dataclasses.replace(
        digits,
        data=dataclasses.replace(digits.data, batch_size=images, image_size=32),
        model=dataclasses.replace(digits.model, name="resnet8"),
        parallel=dataclasses.replace(digits.parallel, **parallel),
        evaluate_every=1000,
        epochs=1000,
        workdir=folder,
        compile_cache=None,
    )
    loop.compile_step = kept
    with contextlib.suppress(EnoughError):
        fr.train(config, Console(quiet=True))
    loop.compile_step = compile_step
    return found[0]


def prepare(devices):
    """Set up JAX in a new process."""
    from flax_resnet import tune_cpu

    tune_cpu()
    import jax

    jax.config.update("jax_num_cpu_devices", devices)


def in_new_processes(count, function, *arguments):
    """Call a function in so many processes at once, with the number of each; return the results."""
    with ProcessPoolExecutor(count, multiprocessing.get_context("fork")) as pool:
        calls = [pool.submit(or_end, function, number, *arguments) for number in range(count)]
        return [call.result() for call in calls]


def or_end(function, *arguments):
    """Call a function; end this process if it fails, by which the pool ends the others, which
    would wait for it."""
    try:
        return function(*arguments)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


# --- Devices of one process ----------------------------------------------------


def measure_devices(_, devices, images, windows):
    """Return the milliseconds per step and the overheads by mode, on this number of devices."""
    prepare(devices)
    timed = {}
    for mode in MODES:
        with tempfile.TemporaryDirectory() as folder:
            timed[mode] = alternate(folder, images, windows, mode=mode)
    turns = [{mode: step.run_bare()[0] for mode, step in timed.items()} for _ in range(ROUNDS)]
    return {
        mode: {
            "milliseconds": statistics.median(turn[mode] for turn in turns) * 1e3,
            "ratio": statistics.median(turn[mode] / turn["jit"] for turn in turns),
            "loop": np.median(ratios(step.looped, step.bare)[:, 0]),
        }
        for mode, step in timed.items()
    }


def compare_devices(images, windows):
    """Measure each number of devices in a process of its own, and print the table."""
    print(f"{os.cpu_count()} cores; resnet8, {images} images of 32x32 a step")
    print(f"{'devices':>7} {'jit ms':>8}", *(f"{mode + '/jit':>13}" for mode in MODES[1:]), end="")
    print(*(f"{'loop ' + mode:>15}" for mode in MODES))
    for devices in (1, 2, 8):
        (found,) = in_new_processes(1, measure_devices, devices, images, windows)
        print(f"{devices:7} {found['jit']['milliseconds']:8.1f}", end="")
        print(*(f"{found[mode]['ratio']:13.3f}" for mode in MODES[1:]), end="")
        print(*(f"{found[mode]['loop']:15.3f}" for mode in MODES), flush=True)


# --- Processes of one device ---------------------------------------------------


def measure_process(index, devices, joint, folder, images, windows):
    """Return the windows and the collectives of a process, one of several if ``joint`` says so."""
    os.environ["OMP_NUM_THREADS"] = "1"
    prepare(devices)
    import jax

    from flax_resnet.training.communication import collectives_of

    step = alternate(folder, images, windows, **joint, **({"process": index} if joint else {}))
    collectives = collectives_of(step.step.as_text())
    if joint:
        jax.distributed.shutdown()  # the others may still need process 0
    return {
        "looped": step.looped,
        "bare": step.bare,
        "collectives": sorted((one.kind, one.bytes) for one in collectives),
    }


def compare_processes(processes, images, windows):
    """Measure, and print the ratios; return whether the loop is fast and the collectives equal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    joint = {"coordinator": f"127.0.0.1:{port}", "processes": processes}
    with tempfile.TemporaryDirectory() as folder:
        run = 1, joint, f"{folder}/several", images, windows
        found = in_new_processes(processes, measure_process, *run)
        run = processes, {}, f"{folder}/one", images, 0
        (one,) = in_new_processes(1, measure_process, *run)
    looped, bare = (np.array([each[kind] for each in found]) for kind in ("looped", "bare"))
    by_time = ratios(looped[..., 0].max(0), bare[..., 0].max(0))
    by_processor = ratios(looped[..., 1].sum(0), bare[..., 1].sum(0))
    more = np.median(looped[..., 1], 1) - np.median(bare[..., 1], 1)
    print(
        f"{os.cpu_count()} cores, {processes} processes of one device, resnet8, {images} images of "
        f"32x32 a step; a bare step takes {1e3 * np.median(bare[..., 0]):.0f} ms and "
        f"{1e3 * np.median(bare[..., 1].sum(0)):.0f} ms of processor time.\n"
        f"The loop over the bare step: {np.median(by_time):.3f} of the time, "
        f"{np.median(by_processor):.3f} of the processor time (medians of {windows} windows; "
        f"processor time from {by_processor.min():.3f} to {by_processor.max():.3f}); "
        f"{1e3 * np.median(more):.2f} ms of processor time more in each process."
    )
    same = all(each["collectives"] == one["collectives"] for each in found)
    kinds = {kind: 0 for kind, _ in one["collectives"]}
    for kind, size in one["collectives"]:
        kinds[kind] += size
    print(
        f"Collectives: {len(one['collectives'])} in one process of {processes} devices, by kind in "
        f"bytes {kinds}; {'the same' if same else 'OTHERS'} in each of the {processes} processes."
    )
    return same and np.median(by_processor) <= MOST_OVERHEAD


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, help="several processes of one device each")
    parser.add_argument("--images", type=int, help="of a step")
    parser.add_argument("--windows", type=int, default=9)
    options = parser.parse_args()
    if options.processes is None:
        compare_devices(options.images or 64, options.windows)
    else:
        images = options.images or 32 * options.processes
        sys.exit(not compare_processes(options.processes, images, options.windows))


if __name__ == "__main__":
    main()
