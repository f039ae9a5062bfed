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
import ctypes
import dataclasses
import hashlib
import importlib
import json
import mmap
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from benchmarks.subset import write_subset

MODES = {"count": 0, "before": 1, "after": 2, "torn": 3, "ENOSPC": 4, "EIO": 5, "short": 6}
PHASES = ("start-up", "step", "evaluation", "report")
TIMES = {"time", "images_per_second", "data_wait", "checksum"}
DEADLINE = 600.0  # seconds after which a start counts as hanging


def build_shim(folder: Path) -> Path:
    """Compile the shim into a folder and return its path."""
    library = folder / "shim.so"
    source = Path(__file__).with_name("chaos_shim.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"], check=True
    )
    return library


def group_of(name: str) -> str:
    """The group of files, for the counts, that a path below a run's folder belongs to."""
    parts = name.strip("/").split("/")
    if parts[0] != "checkpoints":
        return parts[0] or "the folder"
    is_data = any(part.startswith("ocdbt.process") or part == "d" for part in parts)
    return "checkpoints, arrays" if is_data else "checkpoints, the rest"


@dataclasses.dataclass
class Ended:
    """A process that ended.

    Attributes:
        status: Its exit status, or None if it was killed because it hung.
        log: What it printed.
        phase: Its phase when it was killed.
    """

    status: int | None
    log: str
    phase: str

    @property
    def resumed(self) -> int:
        """The step from which it resumed; 0 for the start, -1 if it did not come so far."""
        if "Compiled the train step" not in self.log and "Resuming" not in self.log:
            return -1
        found = re.search(r"Resuming from the checkpoint after step (\d+)", self.log)
        return int(found[1]) if found else 0

    @property
    def states(self) -> list[tuple[str, str, str]]:
        """Of each state that it restored or saved: which of both, the step, and a digest."""
        return re.findall(r"^(RESTORED|SAVED): (\d+) (\w+)$", self.log, re.MULTILINE)

    @property
    def call(self) -> tuple[str, str] | None:
        """The call, and the group of files, at which the shim killed it or let it fail first."""
        found = re.search(r"^(?:KILLED|FAILED): call \d+, (\w+) (.*)$", self.log, re.MULTILINE)
        return (found[1], group_of(found[2])) if found else None


class Runner:
    """Forks processes that train, and waits for them."""

    def __init__(self, data: Path | None) -> None:
        """Train on the CIFAR-10 in a folder, or on the digits."""
        self._data = data
        self._phase = mmap.mmap(-1, 1)  # shared with the forks

    def start(self, workdir: Path, *, mode: str = "count", at: int = 0, span: int = 1) -> int:
        """Fork a process that trains in ``workdir``; return its id."""
        self._phase[0] = 0
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            log = os.open(log_of(workdir), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            workdir.mkdir(exist_ok=True)
            shim = ctypes.CDLL(None)
            self._mark_phases()
            _print_digests()
            path = os.fsencode(workdir)
            shim.chaos_arm(path, ctypes.c_long(at), ctypes.c_long(span), MODES[mode])
            code = self._train(workdir)
            shim.chaos_count.restype = ctypes.c_long
            print(f"CALLS: {shim.chaos_count()}")
            print(f"MODULES: {json.dumps(sorted(sys.modules))}")
        except BaseException as error:  # the parent reads it
            import traceback

            traceback.print_exc()
            print(f"UNEXPECTED: {error!r}")
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _train(self, workdir: Path) -> int:
        import logging

        import flax_resnet as fr
        from flax_resnet import config as settings

        logging.getLogger("absl").setLevel(logging.CRITICAL)
        data = settings.DataConfig(name="digits", batch_size=240)
        augment = settings.AugmentConfig(crop_padding=1, flip=False, mixup_alpha=0.2)
        if self._data is not None:
            data = settings.DataConfig(
                name="cifar10", dir=str(self._data), download=False, batch_size=90
            )
            augment = settings.AugmentConfig(mixup_alpha=0.2)
        try:
            fr.train(
                settings.Config(
                    # The smallest that has all kinds of arrays: a start is paid for each kill.
                    model=settings.ModelConfig(
                        name="resnet", stage_sizes=(1,), block="basic", widths=(8,), stem="cifar"
                    ),
                    data=data,
                    augment=augment,
                    optimizer=settings.OptimizerConfig(learning_rate=0.05),
                    epochs=3,
                    ema_decay=0.9,
                    microbatches=2,
                    save_every=1,
                    workdir=str(workdir),
                    compile_cache=None,
                )
            )
        except fr.UserError as error:
            print(f"SENTENCE: {error}")
            return 1
        return 0

    def _mark_phases(self) -> None:
        """Write the phase of this process to the shared byte as it goes."""
        from flax_resnet.training import recording, saving

        def marked(function, phase, after=None):
            def call(*arguments, **options):
                before, self._phase[0] = self._phase[0], PHASES.index(phase)
                try:
                    return function(*arguments, **options)
                finally:
                    if after == "restore":
                        self._phase[0] = before

            return call

        schedule, recorder = saving.SaveSchedule, recording.Recorder
        schedule.is_due = marked(schedule.is_due, "step")
        recording.evaluate_split = marked(recording.evaluate_split, "evaluation", "restore")
        recorder.finish = marked(recorder.finish, "report")

    def wait(self, pid: int, workdir: Path, began_at: int, kill=lambda phase: False) -> Ended:
        """Wait for a process.

        Args:
            pid: The process.
            workdir: Its folder.
            began_at: Size of its log when it was started.
            kill: Called with its phase again and again; when it is true, the process is killed.
        """
        elapsed, before, status = 0.0, time.monotonic(), None
        while elapsed < DEADLINE:
            now = time.monotonic()
            # Time in which this process was suspended does not count.
            elapsed, before = elapsed + min(now - before, 1.0), now
            done, code = os.waitpid(pid, os.WNOHANG)
            phase = PHASES[self._phase[0]]
            if done:
                status = os.waitstatus_to_exitcode(code)
                break
            if kill(phase):
                os.kill(pid, signal.SIGKILL)
                _, code = os.waitpid(pid, 0)
                status = os.waitstatus_to_exitcode(code)
                break
            time.sleep(0.005)
        else:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        log = log_of(workdir).read_bytes()[began_at:].decode(errors="replace")
        return Ended(status, log, phase)

    def run(self, workdir: Path, kill=lambda phase: False, **shim) -> Ended:
        """Start a process and wait for it."""
        log = log_of(workdir)
        began_at = log.stat().st_size if log.exists() else 0
        return self.wait(self.start(workdir, **shim), workdir, began_at, kill)


def _print_digests() -> None:
    """Print a digest of each state that this process restores or saves."""
    from flax import serialization

    from flax_resnet.training.checkpoint import Checkpoints

    save, restore = Checkpoints.save, Checkpoints.restore

    def show(what, step, tree):
        bits = repr(_plain(serialization.to_state_dict(tree))).encode()
        print(f"{what}: {step} {hashlib.sha256(bits).hexdigest()}", flush=True)

    def saving(self, step, tree, *arguments, **options):
        show("SAVED", step, tree)
        save(self, step, tree, *arguments, **options)

    def restoring(self, step, template):
        restored = restore(self, step, template)
        show("RESTORED", step, restored)
        return restored

    Checkpoints.save, Checkpoints.restore = saving, restoring


def log_of(workdir: Path) -> Path:
    """Return the file of what a run prints; its path does not begin with the run's."""
    return workdir.with_name(f"log-{workdir.name}.txt")


def complete_steps(workdir: Path) -> list[int]:
    """Steps of the complete checkpoints of a run."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


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
        "checkpoint": _plain(read_tree(root, checkpoint_steps(root)[-1])),
        "weights": {name: np.asarray(weights[name]).tobytes() for name in sorted(weights)},
        "history": history[:-1],
        "result": history[-1],
        "page": (workdir / "report" / "index.html").exists(),
        "leftovers": [path.name for path in root.iterdir() if not path.name.isdecimal()],
    }
    return {name: hashlib.sha256(repr(value).encode()).hexdigest() for name, value in found.items()}


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
            value = {"error": repr(error)}
        with os.fdopen(writer, "w") as file:
            json.dump(value, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        value = json.load(file)
    os.waitpid(pid, 0)
    return value


def after(phase: str, delay: float):
    """A function of a process's phase that is true ``delay`` seconds after ``phase`` began."""
    began = None

    def is_due(current: str) -> bool:
        nonlocal began
        if current == phase and began is None:
            began = time.monotonic()
        return current == phase and time.monotonic() - began >= delay

    return is_due


def measure_into(seconds: collections.Counter[str]):
    """A function of a process's phase that adds up the seconds of each, and is never true."""
    before = time.monotonic()

    def measure(phase: str) -> bool:
        nonlocal before
        now = time.monotonic()
        seconds[phase] += now - before
        before = now
        return False

    return measure


class Chaos:
    """The runs, and the counts of what happened to them."""

    def __init__(self, work: Path, runner: Runner, seed: int) -> None:
        """Run twice undisturbed, the first time to fill the caches, or read what those found."""
        self.work, self.runner, self.seed = work, runner, seed
        self.counts: collections.Counter[str] = collections.Counter()
        self.lost: list[str] = []
        self.results, known = work / "results.jsonl", work / "reference.json"
        if self.results.exists():
            for line in self.results.read_text().splitlines():
                self._add(json.loads(line))
        if not known.exists():
            known.write_text(json.dumps(self._reference()))
        found = json.loads(known.read_text())
        self.calls, self.seconds, self.end = found["calls"], found["seconds"], found["end"]
        self.states = found["states"]
        for name in found["modules"]:  # once, and not in each start
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        print(f"undisturbed: {self.calls} calls; seconds of {self.seconds}", flush=True)

    def _reference(self) -> dict:
        workdir = self.work / "reference"
        for _ in range(2):
            shutil.rmtree(workdir, ignore_errors=True)
            seconds: collections.Counter[str] = collections.Counter()
            ended = self.runner.run(workdir, measure_into(seconds))
            if ended.status != 0:
                raise SystemExit(ended.log)
        calls = int(re.search(r"^CALLS: (\d+)", ended.log, re.MULTILINE)[1])
        return {
            "calls": calls,
            "seconds": {phase: round(value, 2) for phase, value in seconds.items()},
            "modules": json.loads(re.search(r"^MODULES: (.+)", ended.log, re.MULTILINE)[1]),
            "states": {step: digest for _, step, digest in ended.states},
            "end": forked(end_of, workdir),
        }

    def _add(self, result: dict) -> None:
        self.counts.update(result["counts"])
        self.counts["runs"] += 1
        if result["lost"]:
            self.lost.append(result["lost"])

    def run(self, kind: str) -> None:
        """Train to the end in a fresh folder, with kills or failing calls, and compare the end."""
        number = self.counts["runs"]
        workdir = self.work / f"{kind}-{number}"
        shutil.rmtree(workdir, ignore_errors=True)
        log_of(workdir).unlink(missing_ok=True)
        rng = random.Random(f"{self.seed} {number}")
        counts: collections.Counter[str] = collections.Counter()
        lost = getattr(self, f"_{kind}")(workdir, rng, counts)
        if not lost:
            skip = ()
            # A save of an evaluation that failed for good cannot become the best, and says so.
            if "cannot become the best" in log_of(workdir).read_text():
                skip = ("result", "weights")
            found = forked(end_of, workdir)
            differing = [name for name in self.end if found.get(name) != self.end[name]]
            differing = [name for name in differing if name not in skip]
            lost = f"{', '.join(differing)} differ; {found.get('error', '')}" if differing else ""
        counts["same end"] += not lost
        result = {"counts": counts, "lost": f"{workdir.name}: {lost}" if lost else ""}
        with open(self.results, "a") as file:
            file.write(json.dumps(result) + "\n")
        self._add(result)
        if not lost:
            shutil.rmtree(workdir)
            log_of(workdir).unlink()

    def _next(
        self, workdir: Path, allowed: list[int], counts: collections.Counter, **options
    ) -> tuple[Ended, str]:
        """Start once; return how it ended, and what was lost."""
        ended = self.runner.run(workdir, **options)
        counts["starts"] += 1
        if ended.status is None:
            return ended, "hung"
        if ended.resumed >= 0 and ended.resumed not in allowed:
            return ended, f"resumed from {ended.resumed}, not from {allowed}"
        for what, step, digest in ended.states:
            if digest != self.states[step]:
                return ended, f"the state {what.lower()} at step {step} has other bits"
            counts[f"states {what.lower()}, the same bits"] += 1
        if ended.status not in (0, 1, -signal.SIGKILL) or "UNEXPECTED" in ended.log:
            return ended, f"ended with {ended.status}"
        return ended, ""

    def _calls(self, workdir: Path, rng: random.Random, counts: collections.Counter) -> str:
        allowed = [0]
        while True:
            # Mostly soon, which costs less; sometimes anywhere.
            most = rng.choice([self.calls // 12] * 7 + [self.calls])
            mode = rng.choice(["before", "after", "torn"])
            at = rng.randint(1, most)
            ended, lost = self._next(workdir, allowed, counts, mode=mode, at=at)
            if lost or ended.status == 0:
                return lost
            if ended.status != -signal.SIGKILL or ended.call is None:
                return f"ended with {ended.status}"
            call, group = ended.call
            counts.update(["calls", f"call {call}", f"file {group}", f"mode {mode}"])
            counts["calls of saving"] += group.startswith("checkpoints")
            allowed = complete_steps(workdir)[-1:] or [0]

    def _moments(self, workdir: Path, rng: random.Random, counts: collections.Counter) -> str:
        allowed = [0]
        for phase in PHASES[:3] * 3 + PHASES[3:] * 4:
            # Steps and evaluations are spread over several starts.
            most = self.seconds[phase] / (4 if phase in ("step", "evaluation") else 1)
            kill = after(phase, rng.uniform(0, most))
            ended, lost = self._next(workdir, allowed, counts, kill=kill)
            if lost or ended.status not in (0, -signal.SIGKILL):
                return lost or f"ended with {ended.status}"
            if ended.status:
                counts.update(["moments", f"moment {ended.phase}"])
            allowed = complete_steps(workdir)[-1:] or [0]
        return self._undisturbed(workdir, allowed, counts)

    def _faults(self, workdir: Path, rng: random.Random, counts: collections.Counter) -> str:
        allowed = [0]
        for _ in range(3):
            mode = rng.choice(["ENOSPC", "EIO", "short"])
            at, span = rng.randint(1, self.calls), rng.choice([1, 20, 10**6])
            before = complete_steps(workdir)[-2:]
            ended, lost = self._next(workdir, allowed, counts, mode=mode, at=at, span=span)
            if ended.call is not None:
                counts.update(["faults", f"fault {mode}", f"file {ended.call[1]}"])
            if lost or ended.status == 0:
                return lost
            if ended.status != 1 or ended.log.count("SENTENCE") != 1:
                return f"ended with {ended.status}"
            counts["stopped with a sentence"] += 1
            allowed = complete_steps(workdir)[-2:] or [0]
            if before and allowed[-1] < before[0]:
                return f"of the checkpoints {before} {allowed} are left"
        return self._undisturbed(workdir, allowed, counts)

    def _undisturbed(self, workdir: Path, allowed: list[int], counts: collections.Counter) -> str:
        ended, lost = self._next(workdir, allowed, counts)
        return lost or ("" if ended.status == 0 else f"ended with {ended.status}")


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
