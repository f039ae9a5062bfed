"""Kill a training run at random system calls and moments, and compare its end with a whole run's.

    python -m benchmarks.chaos WORK --cifar cifar-10-binary.tar.gz

A small net trains on 600 images of CIFAR-10, or without ``--cifar`` on the digits, with EMA, mixup,
two microbatches and a save after each step. First it runs undisturbed. Then, again and again in a
fresh folder, it is killed by SIGKILL and the same command is started again, until it ends:

- ``calls``: at random system calls on its folder (write, rename, fsync, open, mkdir, unlink;
  before, after, or in the middle of a write);
- ``moments``: at random moments of start-up, steps, evaluation and report, as many of each;
- ``faults``: instead, calls fail with ENOSPC or EIO or write half, once, 20 times or for good; the
  run must end, or stop with one sentence.

Each start must resume from the newest checkpoint that was complete (after failed calls: that or the
one before). The state that it restores, and each that it saves, must have the bits that the
undisturbed run had after that step: parameters, statistics, EMA, optimiser, sums of metrics. And
the end must be the same: last checkpoint, best weights, history, and nothing else in
``checkpoints/``.

Each start is a fork of one process that has imported everything and used no device. Needs a C
compiler. Results are added to WORK/results.jsonl, from where the same command goes on; it prints
counts and exits with 1 if anything was lost.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.chaos_process import PHASES, Ended, Runner, build_shim, log_of, to_bytes
from benchmarks.subset import write_subset

TIMES = {"time", "images_per_second", "data_wait", "checksum"}  # differ between equal histories
KILLED = -signal.SIGKILL


class LostError(Exception):
    """A process hung or failed, or a state is not that of the undisturbed run."""


@dataclasses.dataclass
class Reference:
    """What the undisturbed run did.

    Attributes:
        calls: Number of its system calls on its folder.
        seconds: Its time in each phase.
        modules: All that it imported.
        states: A digest of the state after each step.
        end: What ``end_of`` returns for its folder.
    """

    calls: int
    seconds: dict[str, float]
    modules: list[str]
    states: dict[str, str]
    end: dict[str, str]


def reference_of(work: Path, runner: Runner) -> Reference:
    """Run undisturbed, twice, the first time to fill the caches; or read what that found."""
    known, workdir = work / "reference.json", work / "reference"
    if not known.exists():
        for _ in range(2):
            shutil.rmtree(workdir, ignore_errors=True)
            seconds: collections.Counter[str] = collections.Counter()
            ended = runner.run(workdir, kill_when=never_but_measure(seconds))
            if ended.status != 0:
                raise SystemExit(ended.log)
        found = Reference(
            calls=ended.printed("CALLS"),
            seconds={phase: round(value, 2) for phase, value in seconds.items()},
            modules=ended.printed("MODULES"),
            states={step: digest for _, step, digest in ended.states},
            end=forked(end_of, workdir),
        )
        known.write_text(json.dumps(dataclasses.asdict(found)))
    return Reference(**json.loads(known.read_text()))


def end_of(workdir: Path) -> dict[str, str]:
    """Digests of what a finished run left: last checkpoint, weights, history."""
    from flax_resnet.report import read_history
    from flax_resnet.weights import read_weights
    from flax_resnet.weights.formats.checkpoint import checkpoint_steps, read_tree

    root = workdir / "checkpoints"
    history = [
        {key: value for key, value in line.items() if key not in TIMES}
        for line in read_history(workdir / "history.jsonl")
    ]
    weights = read_weights(workdir / "model.safetensors")
    found = {
        "checkpoint": to_bytes(read_tree(root, checkpoint_steps(root)[-1])),
        "weights": {name: np.asarray(weights[name]).tobytes() for name in sorted(weights)},
        "history": history[:-1],
        "result": history[-1],
        "page": (workdir / "report" / "index.html").exists(),
        "leftovers": [path.name for path in root.iterdir() if not path.name.isdecimal()],
    }
    return {name: hashlib.sha256(repr(value).encode()).hexdigest() for name, value in found.items()}


def forked(function, *arguments):
    """Compute a JSON value in a process of its own, so that this one stays without devices."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        try:
            value = function(*arguments)
        except BaseException as error:
            value = {"error": repr(error)}
        with os.fdopen(writer, "w") as file:
            json.dump(value, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        value = json.load(file)
    os.waitpid(pid, 0)
    return value


def complete_steps(workdir: Path) -> list[int]:
    """Steps of the complete checkpoints of a run."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def after(phase: str, delay: float) -> Callable[[str], bool]:
    """A function of a process's phase that is true ``delay`` seconds after ``phase`` began."""
    began = None

    def is_due(current: str) -> bool:
        nonlocal began
        if current == phase and began is None:
            began = time.monotonic()
        return current == phase and time.monotonic() - began >= delay

    return is_due


def never_but_measure(seconds: collections.Counter[str]) -> Callable[[str], bool]:
    """A function of a process's phase that adds up the seconds of each, and is never true."""
    before = time.monotonic()

    def measure(phase: str) -> bool:
        nonlocal before
        now = time.monotonic()
        seconds[phase] += now - before
        before = now
        return False

    return measure


class Run:
    """A run in a fresh folder, whose processes are killed or whose calls fail.

    Attributes:
        counts: What was done to it and found.
    """

    def __init__(self, workdir: Path, runner: Runner, reference: Reference, seed: str) -> None:
        """Make no folder yet."""
        self.counts: collections.Counter[str] = collections.Counter()
        self._workdir, self._runner, self._reference = workdir, runner, reference
        self._random = random.Random(seed)
        self._may_resume_from = [0]

    def calls(self) -> None:
        """Kill it at random system calls until it ends."""
        while True:
            # Mostly soon, which costs less; sometimes anywhere.
            last = self._random.choice([self._reference.calls // 12] * 7 + [self._reference.calls])
            mode = self._random.choice(["before", "after", "torn"])
            ended = self._start(mode=mode, at=self._random.randint(1, last))
            if ended.status == 0:
                return
            if ended.status != KILLED or ended.call is None:
                raise LostError(f"ended with {ended.status}")
            call, group = ended.call
            self.counts.update(["calls", f"call {call}", f"file {group}", f"mode {mode}"])
            self.counts["calls of saving"] += group.startswith("checkpoints")
            self._may_resume_from = complete_steps(self._workdir)[-1:] or [0]

    def moments(self) -> None:
        """Kill it at random moments of all phases, and let it end."""
        for phase in PHASES[:3] * 3 + PHASES[3:] * 4:
            # Steps and evaluations are spread over several starts.
            starts = 4 if phase in ("step", "evaluation") else 1
            delay = self._random.uniform(0, self._reference.seconds[phase] / starts)
            ended = self._start(kill_when=after(phase, delay))
            if ended.status not in (0, KILLED):
                raise LostError(f"ended with {ended.status}")
            if ended.status == KILLED:
                self.counts.update(["moments", f"moment {ended.phase}"])
            self._may_resume_from = complete_steps(self._workdir)[-1:] or [0]
        self._let_end()

    def faults(self) -> None:
        """Let calls fail in three starts, unless it ends before, and let it end."""
        for _ in range(3):
            mode = self._random.choice(["ENOSPC", "EIO", "short"])
            at = self._random.randint(1, self._reference.calls)
            span = self._random.choice([1, 20, 10**6])
            before = complete_steps(self._workdir)[-2:]
            ended = self._start(mode=mode, at=at, span=span)
            if ended.call is not None:
                self.counts.update(["faults", f"fault {mode}", f"file {ended.call[1]}"])
            if ended.status == 0:
                return
            if ended.status != 1 or ended.log.count("SENTENCE") != 1:
                raise LostError(f"ended with {ended.status}")
            self.counts["stopped with a sentence"] += 1
            left = complete_steps(self._workdir)[-2:] or [0]
            if before and left[-1] < before[0]:
                raise LostError(f"of the checkpoints {before} {left} are left")
            self._may_resume_from = left
        self._let_end()

    def check_end(self) -> None:
        """Compare what it left with what the undisturbed run left."""
        names = set(self._reference.end)
        # A save of an evaluation that failed for good cannot become the best, and says so.
        if "cannot become the best" in log_of(self._workdir).read_text():
            names -= {"result", "weights"}
        found = forked(end_of, self._workdir)
        differing = sorted(name for name in names if found.get(name) != self._reference.end[name])
        if differing:
            raise LostError(f"{', '.join(differing)} differ; {found.get('error', '')}")

    def _start(self, **options) -> Ended:
        """Start once, and check from where it resumed, its states, and how it ended."""
        ended = self._runner.run(self._workdir, **options)
        self.counts["starts"] += 1
        if ended.status is None:
            raise LostError("hung")
        if ended.resumed not in (None, *self._may_resume_from):
            raise LostError(f"resumed from {ended.resumed}, not from {self._may_resume_from}")
        for what, step, digest in ended.states:
            if digest != self._reference.states[step]:
                raise LostError(f"the state {what.lower()} at step {step} has other bits")
            self.counts[f"states {what.lower()}, the same bits"] += 1
        return ended

    def _let_end(self) -> None:
        ended = self._start()
        if ended.status != 0:
            raise LostError(f"ended with {ended.status}")


class Chaos:
    """All runs, and the counts of what happened to them."""

    def __init__(self, work: Path, runner: Runner, seed: int) -> None:
        """Read the results of earlier calls, and make or read the reference."""
        self.counts: collections.Counter[str] = collections.Counter()
        self.lost: list[str] = []
        self._work, self._runner, self._seed = work, runner, seed
        self._results = work / "results.jsonl"
        if self._results.exists():
            for line in self._results.read_text().splitlines():
                self._add(json.loads(line))
        self._reference = reference_of(work, runner)
        for name in self._reference.modules:  # once, and not in each process
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        print(
            f"undisturbed: {self._reference.calls} calls; seconds of {self._reference.seconds}",
            flush=True,
        )

    def _add(self, result: dict) -> None:
        self.counts.update(result["counts"])
        self.counts["runs"] += 1
        if result["lost"]:
            self.lost.append(result["lost"])

    def run(self, kind: str) -> None:
        """Train to the end in a fresh folder, with kills or failing calls, and compare the end.

        Args:
            kind: ``"calls"``, ``"moments"`` or ``"faults"``.
        """
        number = self.counts["runs"]
        workdir = self._work / f"{kind}-{number}"
        shutil.rmtree(workdir, ignore_errors=True)
        log_of(workdir).unlink(missing_ok=True)
        run, lost = Run(workdir, self._runner, self._reference, f"{self._seed} {number}"), ""
        try:
            getattr(run, kind)()
            run.check_end()
            run.counts["same end"] += 1
            shutil.rmtree(workdir)
            log_of(workdir).unlink()
        except LostError as error:
            lost = f"{workdir.name}: {error}"  # whose folder and log stay
        result = {"counts": run.counts, "lost": lost}
        with open(self._results, "a") as file:
            file.write(json.dumps(result) + "\n")
        self._add(result)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--cifar", type=Path, help="cifar-10-binary.tar.gz; else the digits")
    parser.add_argument("--calls", type=int, default=200, help="kills at system calls of saving")
    parser.add_argument("--moments", type=int, default=50, help="kills at random moments")
    parser.add_argument("--faults", type=int, default=30, help="starts with failing calls")
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
    warnings.filterwarnings("ignore", ".*fork")  # the one thread is of a memory allocator
    import flax_resnet.training.loop
    import flax_resnet.training.verify
    import flax_resnet.weights  # noqa: F401

    data = None
    if options.cifar is not None:
        data = write_subset(options.cifar, work / "data", train=120, test=60)
    chaos = Chaos(work, Runner(data), options.seed)
    wanted = {
        "calls": ("calls of saving", options.calls),
        "moments": ("moments", options.moments),
        "faults": ("faults", options.faults),
    }
    while True:
        done = {
            kind: chaos.counts[name] / number for kind, (name, number) in wanted.items() if number
        }
        kind = min(done, key=done.get)
        if done[kind] >= 1:
            break
        chaos.run(kind)
        brief = {name: chaos.counts[name] for name, _ in wanted.values()}
        print(brief, f"runs {chaos.counts['runs']}", "lost:", chaos.lost, flush=True)
    for name, count in sorted(chaos.counts.items()):
        print(f"{count:6} {name}")
    print(f"{len(chaos.lost):6} lost", *chaos.lost, sep="\n")
    return 1 if chaos.lost else 0


if __name__ == "__main__":
    sys.exit(main())
