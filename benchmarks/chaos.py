"""Kill a training run at random system calls and moments, and compare its end with a whole run's.

    python -m benchmarks.chaos WORK --rounds 25

A small net trains on the digits (EMA, mixup, two microbatches, a save every second step). First it
runs undisturbed. Then, again and again in a fresh folder, it is killed by SIGKILL at random system
calls on its folder (write, rename, fsync, open, mkdir, unlink; before, after, or in the middle of a
write), or at random moments from start-up to the report, and the same command is started again,
until it ends. Its last checkpoint (parameters, statistics, EMA, optimiser), its weights and its
history must then have the same bits. With ``--faults`` calls fail instead, with ENOSPC or EIO, or
write half: the run must end, or stop with one sentence, and then end by the same command.

Each start is a fork of one process that has imported everything and used no device. Needs a C
compiler; prints the counts, and exits with 1 if anything was lost.
"""

import argparse
import collections
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

MODES = {"count": 0, "before": 1, "after": 2, "torn": 3, "ENOSPC": 4, "EIO": 5, "short": 6}
TIMES = {"time", "images_per_second", "data_wait"}
DEADLINE = 600.0  # seconds after which a start counts as hanging


def build_shim(folder: Path) -> Path:
    """Compile the shim into a folder and return its path."""
    library = folder / "shim.so"
    source = Path(__file__).with_name("chaos_shim.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"], check=True
    )
    return library


def log_of(workdir: Path) -> Path:
    """Return the file of what a run prints; its path does not begin with the run's."""
    return workdir.with_name(f"log-{workdir.name}.txt")


def start(workdir: Path, *, mode: str = "count", at: int = 0, span: int = 1) -> int:
    """Fork a process that trains in ``workdir``; return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        log = os.open(log_of(workdir), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        workdir.mkdir(exist_ok=True)
        shim = ctypes.CDLL(None)
        shim.chaos_arm(os.fsencode(workdir), ctypes.c_long(at), ctypes.c_long(span), MODES[mode])
        code = _train(workdir)
        shim.chaos_count.restype = ctypes.c_long
        (log_of(workdir).with_suffix(".count")).write_text(str(shim.chaos_count()))
    except BaseException as error:  # the parent reads it
        import traceback

        traceback.print_exc()
        print(f"UNEXPECTED: {error!r}")
    finally:
        sys.stdout.flush()
        os._exit(code)


def _train(workdir: Path) -> int:
    import logging

    import flax_resnet as fr
    from flax_resnet import config as settings

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        fr.train(
            settings.Config(
                model=settings.ModelConfig(name="resnet8"),
                data=settings.DataConfig(name="digits", batch_size=240),
                augment=settings.AugmentConfig(crop_padding=1, flip=False, mixup_alpha=0.2),
                optimizer=settings.OptimizerConfig(learning_rate=0.05),
                epochs=3,
                ema_decay=0.9,
                microbatches=2,
                save_every=2,
                workdir=str(workdir),
                compile_cache=None,
            )
        )
    except fr.UserError as error:
        print(f"SENTENCE: {error}")
        return 1
    return 0


def wait(pid: int, seconds: float = DEADLINE) -> int | None:
    """Wait for a process; return its exit status, or None if it hangs and was killed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def end_of(workdir: Path) -> dict[str, object]:
    """Read what a finished run left: arrays of the last checkpoint, weights, history."""
    from flax_resnet.report import read_history
    from flax_resnet.weights import read_weights
    from flax_resnet.weights.formats.checkpoint import checkpoint_steps, read_tree

    root = workdir / "checkpoints"
    history = [
        {key: value for key, value in line.items() if key not in TIMES}
        for line in read_history(workdir / "history.jsonl")
    ]
    weights = read_weights(workdir / "model.safetensors")
    return {
        "checkpoint": _plain(read_tree(root, checkpoint_steps(root)[-1])),
        "weights": {name: np.asarray(weights[name]).tobytes() for name in sorted(weights)},
        "history": history[:-1],
        "result": history[-1],
    }


def _plain(tree):
    if isinstance(tree, dict):
        return {name: _plain(value) for name, value in sorted(tree.items())}
    return None if tree is None else np.asarray(tree).tobytes()


def forked(function, *arguments):
    """Compute a JSON value in a process of its own, so that this one stays without devices."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        try:
            value = function(*arguments)
        except BaseException as error:
            value = repr(error)
        with os.fdopen(writer, "w") as file:
            json.dump(value, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        value = json.load(file)
    os.waitpid(pid, 0)
    return value


def differences(reference: Path, workdir: Path, skip: list[str]) -> list[str]:
    """Name what differs between the ends of two runs."""
    one, other = end_of(reference), end_of(workdir)
    return [name for name in one if name not in skip and one[name] != other[name]]


class Chaos:
    """The runs, and the counts of what happened to them."""

    def __init__(self, work: Path, seed: int) -> None:
        """Run once undisturbed, to fill the caches, and once for the reference."""
        self.work, self.random = work, random.Random(seed)
        self.counts: collections.Counter[str] = collections.Counter()
        self.lost: list[str] = []
        self.reference = work / "reference"
        for _ in range(2):
            shutil.rmtree(self.reference, ignore_errors=True)
            began = time.monotonic()
            if wait(start(self.reference)) != 0:
                raise SystemExit((log_of(self.reference)).read_text())
            self.seconds = time.monotonic() - began
        self.calls = int((log_of(self.reference).with_suffix(".count")).read_text())
        print(f"undisturbed: {self.calls} calls, {self.seconds:.1f} s", flush=True)

    def kills(self, wanted: int, by: str) -> None:
        """Kill runs until there were so many kills.

        Args:
            wanted: The number.
            by: ``calls`` or ``moments``.
        """
        done = 0
        while done < wanted:
            workdir = self._fresh(by)
            for _ in range(100):
                status = self._killed(workdir, by)
                if status == -signal.SIGKILL:
                    done += 1
                    self.counts[by] += 1
                    continue
                break
            self._compare(workdir, status, [])
            self._print()

    def _fresh(self, name: str) -> Path:
        self.counts["runs"] += 1
        return self.work / f"{name}-{self.counts['runs']}"

    def _killed(self, workdir: Path, by: str) -> int | None:
        if by == "calls":
            mode = self.random.choice(["before", "after", "torn"])
            return wait(start(workdir, mode=mode, at=self.random.randint(1, self.calls)))
        pid = start(workdir)
        status = wait(pid, self.random.uniform(0, 1.1 * self.seconds))
        return -signal.SIGKILL if status is None else status

    def faults(self, wanted: int) -> None:
        """Let calls fail, in so many runs."""
        for _ in range(wanted):
            workdir = self._fresh("faults")
            mode = self.random.choice(["ENOSPC", "EIO", "short"])
            at = self.random.randint(1, self.calls)
            status = wait(start(workdir, mode=mode, at=at, span=self.random.choice([1, 20, 10**6])))
            self.counts[mode] += 1
            log = (log_of(workdir)).read_text()
            if status == 1 and log.count("SENTENCE") == 1:
                self.counts[f"{mode}, stopped with a sentence"] += 1
                status = wait(start(workdir))
            elif status == 0:
                self.counts[f"{mode}, ended"] += 1
            # A save of an evaluation that failed for good cannot become the best, and says so.
            skip = ["result", "weights"] if "cannot become the best" in log else []
            self._compare(workdir, status, skip)
            self._print()

    def _compare(self, workdir: Path, status: int | None, skip: list[str]) -> None:
        if status != 0:
            what = "hung" if status is None else f"ended with {status}"
            self.lost.append(f"{workdir.name} {what}: see {log_of(workdir)}")
            return
        found = forked(differences, self.reference, workdir, skip)
        if found:
            self.lost.append(f"{workdir.name}: {found} differ")
            return
        self.counts["same end"] += 1
        shutil.rmtree(workdir)

    def _print(self) -> None:
        print(dict(self.counts), "lost:", self.lost, flush=True)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--calls", type=int, default=8, help="kills at system calls in a round")
    parser.add_argument("--moments", type=int, default=2, help="kills at random moments")
    parser.add_argument("--faults", type=int, default=2, help="runs with failing calls")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    if "chaos_shim" not in os.environ:
        os.environ |= {"chaos_shim": "1", "LD_PRELOAD": str(build_shim(work))}
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(work / "xla"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.chaos", *sys.argv[1:]])
    warnings.filterwarnings("ignore", "os.fork")
    import flax_resnet.training.loop
    import flax_resnet.training.verify
    import flax_resnet.weights  # noqa: F401

    chaos = Chaos(work, options.seed)
    for _ in range(options.rounds):
        chaos.kills(options.calls, "calls")
        chaos.kills(options.moments, "moments")
        chaos.faults(options.faults)
    for name, count in sorted(chaos.counts.items()):
        print(f"{count:6} {name}")
    print(f"{len(chaos.lost):6} lost", *chaos.lost, sep="\n")
    return 1 if chaos.lost else 0


if __name__ == "__main__":
    sys.exit(main())
