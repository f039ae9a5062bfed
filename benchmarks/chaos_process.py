"""The training processes that ``chaos.py`` kills: how they are started, watched and killed."""

import ctypes
import dataclasses
import hashlib
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

MODES = {"count": 0, "before": 1, "after": 2, "torn": 3, "ENOSPC": 4, "EIO": 5, "short": 6}
"""What the shim does at a call; ``chaos_shim.c`` describes the numbers."""
PHASES = ("start-up", "step", "evaluation", "report")
DEADLINE = 600.0  # seconds after which a process counts as hanging
UNEXPECTED = 70  # the exit code of a process that ended in no UserError


def build_shim(folder: Path) -> Path:
    """Compile the shim into a folder and return its path."""
    library = folder / "shim.so"
    source = Path(__file__).with_name("chaos_shim.c")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"], check=True
    )
    return library


def log_of(workdir: Path) -> Path:
    """Return the file of what a run prints; the shim, which looks at paths that begin with the
    run's, leaves it alone."""
    return workdir.with_name(f"log-{workdir.name}.txt")


def resumed_from(printed: str) -> int:
    """The step from which a command that printed this resumed; 0 if it names none."""
    found = re.search(r"Resuming from the checkpoint after step ([\d,]+)", printed)
    return int(found[1].replace(",", "")) if found else 0


@dataclasses.dataclass
class Ended:
    """A process that ended.

    Attributes:
        status: Its exit code, ``-SIGKILL`` if it was killed, or None if it hung.
        log: What it printed.
        phase: Its phase at the end.
    """

    status: int | None
    log: str
    phase: str

    @property
    def resumed(self) -> int | None:
        """The step from which it resumed, 0 for the start; None if it did not come so far."""
        return resumed_from(self.log) or (0 if "Compiled the train step" in self.log else None)

    @property
    def states(self) -> list[tuple[str, str, str]]:
        """Of each state that it restored or saved: which of both, the step, and a digest."""
        return re.findall(r"^(RESTORED|SAVED): (\d+) (\w+)$", self.log, re.MULTILINE)

    @property
    def call(self) -> tuple[str, str] | None:
        """The call, and the group of files, at which the shim killed it or let it fail first."""
        found = re.search(r"^(?:KILLED|FAILED): call \d+, (\w+) (.*)$", self.log, re.MULTILINE)
        return (found[1], _group_of(found[2])) if found else None

    def printed(self, name: str):
        """The value in JSON that it printed when it ended by itself: CALLS or MODULES."""
        return json.loads(re.search(rf"^{name}: (.+)", self.log, re.MULTILINE)[1])


def _group_of(name: str) -> str:
    """The group of files, for the counts, that a path below a run's folder belongs to."""
    parts = name.strip("/").split("/")
    if parts[0] != "checkpoints":
        return parts[0] or "the folder"
    is_data = any(part.startswith("ocdbt.process") or part == "d" for part in parts)
    return "checkpoints, arrays" if is_data else "checkpoints, the rest"


class Runner:
    """Runs training processes, each a fork of this one: the imports are paid once."""

    def __init__(self, data: Path | None) -> None:
        """Train on the CIFAR-10 in a folder, or on the digits."""
        self._data = data
        self._phase = mmap.mmap(-1, 1)  # an index of PHASES, which the process writes

    def run(
        self,
        workdir: Path,
        *,
        kill_when: Callable[[str], bool] = lambda phase: False,
        mode: str = "count",
        at: int = 0,
        span: int = 1,
    ) -> Ended:
        """Train in ``workdir``, in a new process, and wait for its end.

        Args:
            workdir: The run's folder.
            kill_when: Called with the phase again and again; when it is true, the process is
                killed.
            mode: What the shim does, one of ``MODES``.
            at: Number of the system call at which it does so.
            span: Number of calls that fail, in a mode of failing calls.
        """
        log = log_of(workdir)
        began_at = log.stat().st_size if log.exists() else 0
        self._phase[0] = 0
        pid = os.fork()
        if not pid:
            self._train_and_exit(workdir, mode, at, span)
        status, phase = self._wait(pid, kill_when)
        return Ended(status, log.read_bytes()[began_at:].decode(errors="replace"), phase)

    def _wait(self, pid: int, kill_when: Callable[[str], bool]) -> tuple[int | None, str]:
        elapsed, before = 0.0, time.monotonic()
        while True:
            done, code = os.waitpid(pid, os.WNOHANG)
            phase = PHASES[self._phase[0]]
            if done:
                return os.waitstatus_to_exitcode(code), phase
            now = time.monotonic()
            # Time in which this process was suspended does not count.
            elapsed, before = elapsed + min(now - before, 1.0), now
            hangs = elapsed > DEADLINE
            if hangs or kill_when(phase):
                os.kill(pid, signal.SIGKILL)
                _, code = os.waitpid(pid, 0)
                return None if hangs else os.waitstatus_to_exitcode(code), phase
            time.sleep(0.005)

    def _train_and_exit(self, workdir: Path, mode: str, at: int, span: int) -> None:
        """In the new process: train below the shim, print what ``Ended`` reads, and exit."""
        code = UNEXPECTED
        try:
            log = os.open(log_of(workdir), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            workdir.mkdir(exist_ok=True)
            self._mark_phases()
            _print_digests()
            shim = ctypes.CDLL(None)  # it was loaded by LD_PRELOAD
            shim.chaos_arm(
                os.fsencode(workdir), ctypes.c_long(at), ctypes.c_long(span), MODES[mode]
            )
            code = _train(workdir, self._data)
            shim.chaos_count.restype = ctypes.c_long
            print(f"CALLS: {shim.chaos_count()}")
            print(f"MODULES: {json.dumps(sorted(sys.modules))}")
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _mark_phases(self) -> None:
        """Write the phase of this process to the shared byte as it goes."""
        from flax_resnet.training import recording, saving

        def marked(function, phase, *, goes_back=False):
            def call(*arguments, **options):
                before, self._phase[0] = self._phase[0], PHASES.index(phase)
                try:
                    return function(*arguments, **options)
                finally:
                    if goes_back:
                        self._phase[0] = before

            return call

        schedule, recorder = saving.SaveSchedule, recording.Recorder
        schedule.is_due = marked(schedule.is_due, "step")  # called after each step
        recording.evaluate_split = marked(recording.evaluate_split, "evaluation", goes_back=True)
        recorder.finish = marked(recorder.finish, "report")


def _print_digests() -> None:
    """Print a digest of each state that this process restores or saves."""
    from flax import serialization

    from flax_resnet.training.checkpoint import Checkpoints

    save, restore = Checkpoints.save, Checkpoints.restore

    def show(what, step, tree):
        bits = repr(to_bytes(serialization.to_state_dict(tree))).encode()
        print(f"{what}: {step} {hashlib.sha256(bits).hexdigest()}", flush=True)

    def saving(self, step, tree, *arguments, **options):
        show("SAVED", step, tree)
        save(self, step, tree, *arguments, **options)

    def restoring(self, step, template):
        restored = restore(self, step, template)
        show("RESTORED", step, restored)
        return restored

    Checkpoints.save, Checkpoints.restore = saving, restoring


def to_bytes(tree):
    """Return a nested dict with the bytes of its arrays, in the order of the names."""
    if isinstance(tree, dict):
        return {name: to_bytes(value) for name, value in sorted(tree.items())}
    return None if tree is None else np.asarray(tree).tobytes()


def _train(workdir: Path, cifar: Path | None) -> int:
    """Train, and return the exit code that the command would have."""
    import logging

    import flax_resnet as fr
    from flax_resnet import config as settings

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    data = settings.DataConfig(name="digits", batch_size=240)
    augment = settings.AugmentConfig(crop_padding=1, flip=False, mixup_alpha=0.2)
    if cifar is not None:
        data = settings.DataConfig(name="cifar10", dir=str(cifar), download=False, batch_size=90)
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
