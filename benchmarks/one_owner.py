"""Start many commands on one run's folder, kill its owner, and take it over from another host.

    python -m benchmarks.one_owner WORK [--commands 20]

A small net trains on the digits, once undisturbed. Then in another folder, with the same command:

1. Twenty start at once. One must own the folder, and each other must end with exit code 1 and one
   sentence, and change nothing. At its first checkpoint the owner is suspended, so that it does not
   end before the others, and then killed by SIGKILL.
2. Five start at once on the lock that it left. One must take it over and resume from its last
   checkpoint, and the others must be refused. It is suspended and killed too.
3. One resumes in a container with a host name and process numbers of its own. One here must be
   refused. Then the container is killed, its lock must still be refused to this process, and 60 s
   later one more command here must resume and end with the bits of the undisturbed run.

It prints a line for each of them, and exits with 1 if one went wrong. Needs ``unshare`` and the
right to make namespaces.
"""

import argparse
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.chaos import complete_steps, end_of
from benchmarks.chaos_process import resumed_from
from flax_resnet.errors import UserError
from flax_resnet.training.lock import HEARTBEAT_SECONDS, STALE_SECONDS, Lock

SETTINGS = [
    *("--config", "digits", "--epochs", "2", "--data.batch-size", "64", "--save-every", "2steps"),
    *("--model.name", "resnet8", "--model.stage-sizes", "1", "--model.widths", "8"),
]
DEADLINE = 900.0  # seconds for each wait
CONTAINER = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]


class Command:
    """A ``train`` command that was started, with its output in a file."""

    def __init__(self, work: Path, name: str, *, host: str | None = None) -> None:
        """Start it.

        Args:
            work: The folder of the run's folder and the output.
            name: Of the command, for its output.
            host: Start it in a container with this host name.
        """
        train = [sys.executable, "-m", "flax_resnet", "train", *SETTINGS]
        train += ["--workdir", str(folder_of(work))]
        if host is not None:
            as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
            named = ["sh", "-c", f'hostname {host} && exec "$@"', "sh"]
            train = [*CONTAINER, *as_root, *named, *train]
        self.log = work / f"{name}.txt"
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(train, stdout=output, stderr=output)

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    @property
    def resumed(self) -> int:
        """The step from which it resumed; 0 for the start."""
        return resumed_from(self.text)

    def is_refused(self, owner: str) -> bool:
        """Wait for its end, and return whether it was refused as it is to be."""
        code = self.process.wait(DEADLINE)
        errors = [line for line in self.text.splitlines() if line.startswith("error: ")]
        return (
            (code, len(errors)) == (1, 1)
            and f"is in use by process {owner}" in errors[0]
            and "Traceback" not in self.text
        )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, or what runs in its container."""
        pid = self.process.pid
        inside = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in inside or [pid]:
            os.kill(int(one), number)

    def kill(self) -> None:
        """Kill it by SIGKILL, with its container."""
        self.process.kill()
        self.process.wait()


def folder_of(work: Path) -> Path:
    """Return the run's folder."""
    return work / "run"


def owner_in(run: Path) -> tuple[int, str]:
    """Return the process and the host that the lock names; 0 if there is none yet."""
    with contextlib.suppress(OSError, ValueError):
        owner = json.loads((run / ".lock").read_text())
        return owner["pid"], owner["host"]
    return 0, ""


def wait_until(is_so, what: str) -> None:
    """Wait, or end this program."""
    until = time.monotonic() + DEADLINE
    while not is_so():
        if time.monotonic() > until:
            raise SystemExit(f"after {DEADLINE:.0f} s {what}")
        time.sleep(0.02)


def suspended_owner(commands: list[Command], run: Path, former: int = 0) -> Command:
    """Wait until one of some commands owns the folder and has saved, and suspend it.

    Args:
        commands: The commands.
        run: The run's folder.
        former: The process that the lock names before.
    """
    before = complete_steps(run)[-1:]
    wait_until(lambda: owner_in(run)[0] not in (0, former), "no command owns the folder")
    inside = {int(pid): one for one in commands for pid in processes_of(one)}
    owner = inside[owner_in(run)[0]]
    wait_until(lambda: complete_steps(run)[-1:] > before, "there is no checkpoint")
    owner.send(signal.SIGSTOP)
    return owner


def processes_of(command: Command) -> list[int]:
    """Return the numbers of a command's process, by which a lock may name it."""
    pid = command.process.pid
    return [pid, 1] if command.process.args[0] == CONTAINER[0] else [pid]


def contents(run: Path) -> dict[str, bytes]:
    """Return the files below a folder."""
    files = (path for path in run.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files}


def start_at_once(work: Path, name: str, number: int, former: int = 0) -> tuple[str, bool]:
    """Start commands at once, and kill the one that owns the folder; describe what happened."""
    run, before, began = folder_of(work), complete_steps(folder_of(work)), time.monotonic()
    commands = [Command(work, f"{name}-{index}") for index in range(number)]
    owner = suspended_owner(commands, run, former)
    held = contents(run)
    others = [one for one in commands if one is not owner]
    refused = sum(one.is_refused(f"{owner.process.pid} ") for one in others)
    is_same = contents(run) == held
    owner.kill()
    resumed_well = owner.resumed == (before[-1] if before else 0)
    line = (
        f"{number} at once, for {time.monotonic() - began:.0f} s: 1 owner, from step "
        f"{owner.resumed}, {refused} refused, {number - 1 - refused} otherwise; files changed "
        f"meanwhile: {'no' if is_same else 'yes'}; its last checkpoint, when it was killed: "
        f"{complete_steps(run)[-1]}"
    )
    return line, refused == number - 1 and is_same and resumed_well


def take_over(work: Path, former: int) -> tuple[str, bool]:
    """Resume in a container, kill it, and resume here; describe what happened."""
    run, before = folder_of(work), complete_steps(folder_of(work))[-1]
    inside = Command(work, "container", host="machine-a")
    suspended_owner([inside], run, former)
    number, host = owner_in(run)
    second = Command(work, "beside-container")
    while second.process.poll() is None:
        # On a busy machine a command takes as long to start as the run in the container to end. So
        # that runs for a second at each heartbeat only.
        inside.send(signal.SIGCONT)
        time.sleep(1)
        inside.send(signal.SIGSTOP)
        with contextlib.suppress(subprocess.TimeoutExpired):
            second.process.wait(HEARTBEAT_SECONDS)
    while_alive = second.is_refused(f"{number} on {host} ")
    inside.send(signal.SIGCONT)
    time.sleep(1)
    inside.kill()
    try:
        Lock(run, "probe")
        while_fresh = False
    except UserError as error:
        while_fresh = "last sign of life" in str(error)
    heartbeat = (run / ".lock").stat().st_mtime
    time.sleep(max(0.0, heartbeat + STALE_SECONDS + 1 - time.time()))
    killed_at = complete_steps(run)[-1]
    last = Command(work, "last")
    code = last.process.wait(DEADLINE)
    line = (
        f"process {number} on {host}: resumed from step {inside.resumed}; refused here while it "
        f"ran: {while_alive}, at once after its kill: {while_fresh}; {STALE_SECONDS:.0f} s later "
        f"resumed here from step {last.resumed}, exit code {code}"
    )
    steps_are_right = (inside.resumed, last.resumed) == (before, killed_at)
    is_other = host == "machine-a" and number == 1
    return line, is_other and while_alive and while_fresh and steps_are_right and code == 0


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--commands", type=int, default=20, help="that start at once")
    options = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax's notes
    work = options.work.absolute()
    run = folder_of(work)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(work / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    whole = Command(work, "whole")
    if whole.process.wait(DEADLINE) != 0:
        raise SystemExit(whole.text)
    expected = end_of(run)
    shutil.rmtree(run)
    passed = []
    for step in (
        lambda: start_at_once(work, "first", options.commands),
        lambda: start_at_once(work, "second", min(5, options.commands), owner_in(run)[0]),
        lambda: take_over(work, owner_in(run)[0]),
    ):
        line, is_right = step()
        passed.append(is_right)
        print(f"{'as it must' if is_right else 'WRONG'}: {line}", flush=True)
    found = end_of(run)
    differing = [name for name in expected if found[name] != expected[name]]
    passed.append(not differing and not (run / ".lock").exists())
    print(f"differs from the undisturbed run: {', '.join(differing) or 'nothing'}", flush=True)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
